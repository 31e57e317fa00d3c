"""`solve`: a model through doses, jumps and covariate changes to its observables at the visits.

The one file that chooses between the native kernel and diffrax, and the only one that knows diffrax. Integration stops
at every break (dose, start or end of an infusion, covariate change), applies what happens there, and goes on; breaks at
the same time are zero-length segments and cost nothing.
**An observation at a dose time is the value before the dose.**
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thymodel.documents.model import Model
from thymodel.dynamics import kernel, rosenbrock, symbolic
from thymodel.dynamics.schedule import Accuracy, Schedule, stack
from thymodel.dynamics.schedule import plan as plan
from thymodel.errors import Fault, InputError, SolveError

Method = Literal["explicit", "implicit"]
_MAX_STEPS = {"explicit": 16_384, "implicit": 16_384}  # a segment; beyond, the problem is stiff or exploding
# The kernel's steps must do for the worst of many draws, and its estimate is of order 3 where its steps are of order 4:
# seen on the models here, a hundred times the tolerance leaves the same error in the log density as diffrax at one.
_KERNEL_FACTOR = 100.0
# Steps laid out beforehand walk over a pole as if nothing were there. A step wrong by a third of the state itself (its
# error goes to 1 there; what meets the tolerance is thousands of times below) has lost the solution. A tenth would be
# too strict: an outlying patient's fast rise (a fifth of a log count, once in some hundred draws) is not a pole.
_LOST = 0.3
_POOR = 30.0  # tolerances that a step may be off before the denser steps are taken
_DENSE_ROWS = 1024
_TYPICAL = 100.0  # tolerances that a step may be off at typical values, where no draw is an outlier
_HALVED = 10.0  # tolerances by which a course may change when its steps are halved
_HALVINGS = 6  # at most, of the steps of a subject with kinks: a step's error across one falls fourfold with each
_STIFF_BEYOND = 4_096  # explicit steps of a pilot at 1e-6: stability, not accuracy, then sets their length


class _RosenbrockCurve(diffrax.AbstractLocalInterpolation):
    t0: Any
    t1: Any
    y0: Array
    y1: Array
    dense: Array

    def evaluate(self, t0, t1=None, left=True):
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        length = self.t1 - self.t0
        part = jnp.where(length > 0, (t0 - self.t0) / jnp.where(length > 0, length, 1.0), 1.0)
        return rosenbrock.between(part, self.y0, self.y1, self.dense)


class _Rosenbrock(diffrax.AbstractAdaptiveSolver):
    """`rosenbrock.take_step` in the shape that diffrax asks for."""

    term_structure = diffrax.ODETerm
    interpolation_cls = _RosenbrockCurve

    def order(self, terms):
        return rosenbrock.ORDER

    def init(self, terms, t0, t1, y0, args):
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, error, dense = rosenbrock.take_step(lambda t, y: terms.vf(t, y, args), t0, t1, y0)
        return y1, error, {"y0": y0, "y1": y1, "dense": dense}, None, diffrax.RESULTS.successful

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


_STEPPERS = {"explicit": diffrax.Tsit5, "implicit": _Rosenbrock}


class Solution(NamedTuple):
    """`observed` holds the observables at the visits; NaN after a failed step, whose segment began at `failed_at`."""

    observed: Float[Array, "visit observable"]
    steps: Int[Array, ""]
    failed: Array
    failed_at: Float[Array, ""]


def solve(model: Model, values: Mapping[str, Any], schedule: Schedule, observables: Sequence[str],
          scale: Float[Array, " state"], accuracy: Accuracy = Accuracy(), method: Method = "explicit") -> Solution:
    """Observables at the visits of one subject; pure, differentiable in reverse mode, to be `vmap`ped over subjects.

    Args:
        values: parameters by name (covariates come from the schedule, but for those that are NaN there, which must be
            among the values; constants come from the model).
        schedule: from `plan`, or one row of `stack`.
        observables: names, in the order of the last axis of the result.
        scale: typical largest value of each state, for the absolute tolerance.
        method: "explicit" (Tsit5) or "implicit" (Rodas5P, for stiff models); `choose_method` picks one.

    Returns:
        Solution; NaN from the segment on in which a step failed.
    """
    def look(t, y, known):
        return symbolic.observe(model, observables, t, y, known)

    return _march(model, values, schedule, look, len(observables), scale, accuracy, method)


def _march(model, values, schedule: Schedule, look, width: int, scale, accuracy: Accuracy, method: Method) -> Solution:
    """Through the segments of one subject; `look(t, y, known)` says what is kept at the visits."""
    fixed = {**symbolic.constant_values(model), **values}
    start_values = symbolic.derive(model, symbolic.with_covariates(fixed, {name: c[0] for name, c in
                                                                          schedule.covariates.items()}))
    y0 = symbolic.initial(model, start_values)

    def segment(carry, piece):
        t0, y, kept, steps, failed, failed_at = carry
        t1, jump, amount, infusion, covariates, number = piece
        known = symbolic.derive(model, symbolic.with_covariates(fixed, covariates))
        ts = jnp.clip(schedule.visits, t0, t1)
        ys, y_end, count, broke = _integrate(model, known, infusion, t0, t1, ts, y, scale, accuracy, method)
        at_visits = jax.vmap(lambda t, y: look(t, y, known))(ts, ys)
        kept = jnp.where((schedule.visit_segment == number)[:, None], at_visits, kept)
        y_next = _jump(model, jump, amount, y_end, known)
        failed_at = jnp.where(broke & ~failed, t0, failed_at)
        return (t1, y_next, kept, steps + count, failed | broke, failed_at), None

    numbers = jnp.arange(len(schedule.ends))
    pieces = (schedule.ends, schedule.jump, schedule.amount, schedule.infusion, schedule.covariates, numbers)
    nothing = jnp.zeros((len(schedule.visits), width))
    begin = (jnp.asarray(schedule.start), y0, nothing, jnp.asarray(0), jnp.asarray(False), jnp.asarray(jnp.nan))
    (_, _, kept, steps, failed, failed_at), _ = jax.lax.scan(segment, begin, pieces)
    return Solution(kept, steps, failed, failed_at)


def _integrate(model, known, infusion, t0, t1, ts, y, scale, accuracy: Accuracy, method: Method):
    """One segment with diffrax: states at `ts` and at `t1`, steps taken, whether it failed (then NaN)."""

    def field(t, y, _):
        return symbolic.rate(model, t, y * scale, known) / scale + _inflow(model, infusion, y * scale, known) / scale

    has_length = t1 > t0
    safe_t1 = jnp.where(has_length, t1, t0 + 1.0)  # a segment without length is integrated for its shape only
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), _STEPPERS[method](), t0, safe_t1, dt0=None, y0=y / scale,
        saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=ts), diffrax.SubSaveAt(t1=True)]),
        stepsize_controller=diffrax.PIDController(rtol=accuracy.rtol, atol=accuracy.atol, pcoeff=0.2, icoeff=0.4),
        max_steps=_MAX_STEPS[method], throw=False)
    broke = has_length & (solution.result != diffrax.RESULTS.successful)
    ys, (y_end,) = solution.ys[0] * scale, solution.ys[1] * scale
    y_end = jnp.where(has_length, y_end, y)
    poison = jnp.where(broke, jnp.nan, 0.0)
    return ys + poison, y_end + poison, jnp.where(has_length, solution.stats["num_steps"], 0), broke


def _inflow(model: Model, infusion, y, known):
    """States' gain per time from running infusions: inputs with a rate are linear in their amount."""
    total = jnp.zeros_like(y)
    for k, name in enumerate(model.inputs):
        if not model.inputs[name].multiply:
            total = total + symbolic.infuse(model, name, jnp.zeros_like(y), infusion[k], known)
    return total


def _jump(model: Model, jump, amount, y, known):
    branches = [partial(symbolic.infuse, model, name) for name in model.inputs]
    acts = [lambda y, act=act: act(y, amount, known) for act in branches]
    return jax.lax.switch(jump, [*acts, lambda y: y], y)


def choose(model: Model, values: Mapping[str, Any], schedule: Schedule) -> tuple[Float[Array, " state"], Method]:
    """Each state's largest value over a design and the method that copes with it, from one pilot solve.

    Explicit integration is tried first; where it needs many steps, the model is stiff there.

    Args:
        values: parameters by name, numbers or arrays over subjects.
        schedule: stacked, with a leading axis of subjects.

    Raises:
        SolveError: neither method gets through at these values.
    """
    tries: list[tuple[Method, float]] = [("explicit", _STIFF_BEYOND), ("implicit", np.inf), ("explicit", np.inf)]
    for method, most_steps in tries:
        solution = _states_over_time(model, _over_subjects(values, len(schedule.start)), schedule, method)
        if not np.any(solution.failed) and np.max(solution.steps) <= most_steps:
            largest = np.max(np.abs(np.asarray(solution.observed)), axis=(0, 1))
            return jnp.asarray(np.where(largest > 0, largest, 1.0)), method
    worst = int(np.argmax(solution.failed))
    raise SolveError(f"number {worst + 1}", float(solution.failed_at[worst]), "the model cannot be integrated")


def _over_subjects(values: Mapping[str, Any], count: int) -> dict[str, Array]:
    return {name: jnp.broadcast_to(jnp.asarray(value, float), (count,)) for name, value in values.items()}


def _states_over_time(model: Model, values, schedule: Schedule, method: Method) -> Solution:
    """States at 64 times a subject; the absolute tolerance is tiny because no scale is known yet."""
    first, last = np.asarray(schedule.start)[:, None], np.asarray(schedule.ends)[:, -1:]
    visits = first + np.linspace(0, 1, 64) * (last - first)
    segments = np.stack([np.searchsorted(ends, row, side="left").clip(max=len(ends) - 1)
                         for ends, row in zip(np.asarray(schedule.ends), visits, strict=True)])
    dense = schedule._replace(visits=jnp.asarray(visits), visit_segment=jnp.asarray(segments))
    size = len(model.states)

    def one(known, row):
        return _march(model, known, row, lambda t, y, _: y, size, jnp.ones(size), Accuracy(1e-6, 1e-12), method)

    return jax.jit(jax.vmap(one))(values, dense)


class Tables(NamedTuple):
    """What a solve needs beside the parameters, all arrays: doses, times, tolerances, steps. Operands of a program, so
    that another design of the same shape compiles nothing. `grid` is None where diffrax does the work."""

    schedule: Schedule
    scale: Float[Array, " state"]
    accuracy: Accuracy
    grid: kernel.Grid | None
    lost: float = _LOST


@dataclass(frozen=True)
class Solver:
    """A solver prepared for one model, its observables and a stacked schedule.

    `native` is None where diffrax does the work; `why` says which is in use and for what reason.
    """

    model: Model
    observables: tuple[str, ...]
    tables: Tables
    method: Method
    why: str
    native: kernel.Native | None = None

    @property
    def kind(self) -> str:
        return "jax" if self.native is None else "native"


def prepare(model: Model, values: Mapping[str, Any], schedule: Schedule, observables: Sequence[str],
            accuracy: Accuracy = Accuracy(), draws: Mapping[str, np.ndarray] | None = None,
            kind: str | None = None, least_rows: int = 1, share: float = 1.0, pooled: bool = False,
            tail: Mapping[str, np.ndarray] | None = None, lost: float = _LOST,
            fixed: Mapping[str, float] | None = None) -> Solver:
    """A solver for a stacked schedule: the native kernel, or diffrax where the kernel cannot be used.

    Args:
        values: parameters by name at which the solver is tried out (numbers or arrays over subjects).
        draws: further sets of values, arrays (draw, subject), for which the kernel's steps must also do.
        kind: "native" or "jax"; by default the environment variable THYMODEL_SOLVER, else "native".
        least_rows, share, pooled: how the kernel's steps are laid, as in `kernel.make_grid`.
        tail: further draws, rarer ones: for these there is a second, denser table of steps, taken wherever a step of
            the first misses its tolerance by far.
        fixed: parameters that keep their value whatever the solver is called with; none is cheaper to solve.
        lost: a step of the kernel that is wrong by this part of the state itself counts as failed.

    Raises:
        SolveError: the model cannot be integrated at these values.
        InputError: THYMODEL_SOLVER is neither native nor jax.
    """
    if _asked(kind) == "jax":
        return _prepare_jax(model, values, schedule, observables, accuracy, "diffrax, as asked")
    native, trouble = _compiled(model, tuple(observables), fixed or {})
    if native is None:
        return _prepare_jax(model, values, schedule, observables, accuracy, f"diffrax: the native kernel {trouble}")
    steps = Accuracy(_KERNEL_FACTOR * accuracy.rtol, _KERNEL_FACTOR * accuracy.atol)
    grid = kernel.make_grid(native, values, schedule, steps, draws, least_rows, share, pooled)
    if tail is not None:
        room = _DENSE_ROWS if least_rows > 1 else 1
        dense = kernel.make_grid(native, values, schedule, steps, tail, room, pooled=pooled,
                                 limit=_DENSE_ROWS)
        grid = kernel.with_dense(grid, dense, _POOR)
    tables = Tables(schedule, grid.tolerance[:-1] / steps.atol, accuracy, grid, lost)
    if _if_sound(native, values, grid, steps.rtol) is None:  # the adaptive method says where, or copes
        return _prepare_jax(model, values, schedule, observables, accuracy, "diffrax: fixed steps failed")
    return Solver(model, tuple(observables), tables, "implicit", "native kernel", native)


def redesigner(solver: Solver) -> Callable[[Schedule], Tables]:
    """From other stacked schedules with the same visits to their tables for a prepared solver: no pilot is run, and
    nothing is compiled where a schedule has the shape of the solver's own."""
    grid, native = solver.tables.grid, solver.native
    relaid = None if grid is None or native is None else kernel.relayer(native, grid)

    def redesigned(schedule: Schedule) -> Tables:
        return solver.tables._replace(schedule=schedule, grid=None if relaid is None else relaid(schedule))

    return redesigned


def _if_sound(native: kernel.Native, values: Mapping[str, Any], grid: kernel.Grid, rtol: float) -> np.ndarray | None:
    """Observables of the typical course by steps of half the length; None unless those of the grid agree with them
    and have small embedded errors.

    The estimate alone does not do: on a violent enough nonlinearity all stages of a step agree on a wrong value, and
    a pulse in time between two steps is seen by none.
    """
    operands = kernel.operands(native, values, grid)
    once, twice = (kernel.run(native, *operands, g) for g in (grid, kernel.halved(grid)))
    return twice.observed if _sound_lanes(once, twice, _largest(twice.observed), rtol).all() else None


def _largest(observed: Float[np.ndarray, "group visit observable lane"]) -> np.ndarray:
    """Largest value of each observable over all that could be computed; 1 where there is none."""
    largest = np.max(np.abs(observed), axis=(0, 1, 3), initial=0.0, keepdims=True, where=np.isfinite(observed))
    return np.where(largest > 0, largest, 1.0)


def _sound_lanes(once: kernel.Run, twice: kernel.Run, largest: np.ndarray, rtol: float) -> np.ndarray:
    """Subjects (group, lane) whose course hardly changes when every step is made in two, with small embedded errors."""
    apart = np.abs(once.observed - twice.observed) <= _HALVED * rtol * largest
    finite = np.isfinite(twice.observed)
    return (once.errors < _TYPICAL).all(axis=1) & (apart & finite).all(axis=(1, 2))


def _asked(kind: str | None) -> str:
    asked = kind or os.environ.get("THYMODEL_SOLVER") or "native"
    if asked not in ("native", "jax"):
        raise InputError([Fault("THYMODEL_SOLVER", f"'{asked}'", "native or jax")])
    return asked


def _prepare_jax(model, values, schedule: Schedule, observables, accuracy: Accuracy, why: str) -> Solver:
    scale, method = choose(model, values, schedule)
    return Solver(model, tuple(observables), Tables(schedule, scale, accuracy, None), method, why)


def _compiled(model: Model, observables: tuple[str, ...],
              fixed: Mapping[str, float]) -> tuple[kernel.Native | None, str]:
    """The kernel of a model, after its self-test, or why there is none; tried once a process."""
    key = (model.digest, model.added, observables, tuple(sorted(fixed.items())))
    if key not in _tested:
        try:
            native = kernel.compile_model(model, observables, fixed)
            trouble = kernel.self_test(native)
        except Exception as error:  # whatever a foreign LLVM, jaxlib or processor raises, diffrax remains
            native, trouble = None, f"{type(error).__name__}: {error}"
        _tested[key] = (native, "") if native is not None and not trouble else (None, f"failed its test ({trouble})")
    return _tested[key]


_tested: dict[tuple, tuple[kernel.Native | None, str]] = {}


def solve_many(solver: Solver, values: Mapping[str, Any],
               tables: Tables | None = None) -> tuple[Float[Array, "subject visit observable"], Array]:
    """Observables of all subjects of the solver's schedule; pure, differentiable in reverse mode in `values`.

    Args:
        values: parameters by name, numbers or arrays over subjects.
        tables: of a solver of the same model, observables and kind, in place of this one's own.

    Returns:
        The observables, NaN where a step failed, and which subjects failed.
    """
    schedule, scale, accuracy, grid, lost = solver.tables if tables is None else tables
    known = _over_subjects(values, len(schedule.start))
    if solver.native is not None and grid is not None:
        observed, error = kernel.native_solve(solver.native, known, grid)
        kept = error * grid.tolerance[-1] < lost  # not so where the error is NaN
        observed = jnp.where(kept[:, None, None], observed, jnp.nan)
        return observed, ~jnp.isfinite(observed).all(axis=(1, 2))

    def one(own, row):
        return solve(solver.model, own, row, solver.observables, scale, accuracy, solver.method)

    solution = jax.vmap(one)(known, schedule)
    return solution.observed, solution.failed


def solve_sets(solver: Solver, values: Mapping[str, Float[Array, "set subject"]],
               tables: Tables | None = None) -> Array:
    """`solve_many` for many sets of values, array (set, subject, visit, observable)."""
    if solver.native is not None:
        return jax.lax.map(lambda known: solve_many(solver, known, tables)[0], values)
    return jax.vmap(lambda known: solve_many(solver, known, tables)[0])(values)


def trajectories(model: Model, values: Mapping[str, Any], schedules: Sequence[Schedule], observables: Sequence[str],
                 accuracy: Accuracy = Accuracy(1e-8, 1e-11), names: Sequence[str] = (),
                 kind: str | None = None) -> np.ndarray:
    """Observables of several subjects at their visits, outside a sampler.

    Args:
        values: parameters by name, numbers or arrays over subjects.
        schedules: from `plan`, one a subject.
        accuracy: of a step, for the native kernel too: its steps are laid for just these values.
        names: what to call the subjects in an error.
        kind: as in `prepare`.

    Returns:
        Array (subject, visit, observable); visits beyond a subject's own repeat its last.

    Raises:
        SolveError: names the subject, and the time after which its integration failed.
    """
    schedule = stack(schedules)
    known = {name: np.asarray(value, float) for name, value in values.items()}
    native = _compiled(model, tuple(observables), {})[0] if _asked(kind) == "native" else None
    if native is None:
        return _adaptively(model, known, schedule, observables, accuracy, names)
    found, sound = _laid_for(native, known, schedule, accuracy)
    if not sound.all():
        rest = np.flatnonzero(~sound)
        own = {name: value[rest] if value.ndim else value for name, value in known.items()}
        called = [names[int(k)] if names else f"number {k + 1}" for k in rest]
        found[rest] = _adaptively(model, own, jax.tree.map(lambda a: np.asarray(a)[rest], schedule), observables,
                                  accuracy, called)
    return found


def _adaptively(model: Model, values: Mapping[str, np.ndarray], schedule: Schedule, observables: Sequence[str],
                accuracy: Accuracy, names: Sequence[str]) -> np.ndarray:
    """`trajectories` by diffrax, every subject with steps of its own."""
    solver = _prepare_jax(model, values, schedule, observables, accuracy, "diffrax: adaptive, to a tight tolerance")
    observed, failed = map(np.asarray, jax.jit(partial(solve_many, solver))(values))
    bad = failed | ~np.isfinite(observed).all(axis=(1, 2))
    if bad.any():
        worst = int(np.argmax(bad))
        row = jax.tree.map(lambda a: np.asarray(a)[worst], schedule)
        time = _last_finite_time(row, observed[worst])
        raise SolveError(str(names[worst]) if names else f"number {worst + 1}", time, "the integration failed")
    return observed


def _laid_for(native: kernel.Native, values: Mapping[str, Any], schedule: Schedule,
              accuracy: Accuracy) -> tuple[np.ndarray, np.ndarray]:
    """Observables with steps laid for these very values and then halved, and for which subjects that is sound.

    A right-hand side with a kink (niches that fill up) has a large error in the step that crosses it, however short
    its neighbours are: the steps of such subjects are halved again and again. One of them is no reason to solve all
    others another way.
    """
    steps = Accuracy(_KERNEL_FACTOR * accuracy.rtol, _KERNEL_FACTOR * accuracy.atol)
    grid = kernel.make_grid(native, values, schedule, steps)
    operands = kernel.operands(native, values, grid)
    once, twice = (kernel.run(native, *operands, g) for g in (grid, kernel.halved(grid)))
    largest = _largest(twice.observed)
    observed, sound = twice.observed.copy(), _sound_lanes(once, twice, largest, steps.rtol)
    for group in np.flatnonzero(~sound.all(axis=1)):
        part, own = grid._replace(rows=grid.rows[[group]]), (operands[0][[group]], operands[1][[group]])
        coarse, halvings = kernel.Run(*(a[[group]] for a in twice)), 1
        part = kernel.halved(part)
        while not sound[group].all() and halvings < _HALVINGS:
            part, halvings = kernel.halved(part), halvings + 1
            fine = kernel.run(native, *own, part)
            better = ~sound[group] & _sound_lanes(coarse, fine, largest, steps.rtol)[0]
            observed[group][..., better], coarse = fine.observed[0][..., better], fine
            sound[group] |= better
    count = len(grid.place)
    by_subject = np.moveaxis(observed, -1, 1).reshape(-1, *observed.shape[1:-1])[:count]
    return np.take_along_axis(by_subject, grid.place[:, :, None], axis=1), sound.reshape(-1)[:count]


def _last_finite_time(schedule: Schedule, observed: np.ndarray) -> float:
    finite = np.isfinite(observed[: len(schedule.visits)]).all(axis=1)
    return float(schedule.visits[finite].max()) if finite.any() else float(schedule.start)
