"""Posterior draws x virtual subjects x arms -> courses, in blocks of one shape so that one program serves all.

Arms are paired: the same virtual subjects (random effects and covariates) appear in every arm and under every draw, so
that differences between arms and between draws are not blurred by who was drawn.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, qmc

from thymodel.documents.data import StudyData, arm_doses
from thymodel.documents.model import Model, ratios
from thymodel.documents.spec import Arm, FitSpec
from thymodel.documents.virtual import Population
from thymodel.dynamics import solving
from thymodel.errors import SolveError
from thymodel.inference.population import (
    Layout,
    population_values,
    random_effects,
    settled,
    starting_values,
    study_shifts,
    subject_values,
)
from thymodel.inference.posterior import in_portions
from thymodel.results.running import in_turn

Progress = Callable[[int, int], None]  # done, in all
CELL = 64  # subjects: what is drawn for a subject, or cut into blocks, goes by whole cells
_VALUES = 1 << 22  # numbers in a block of courses: 34 MB, and some times that while they are judged
_TABLED = 2048  # patients who have a table of steps in a block, some 20 kB each: all draws share it
_MOST_DRAWS = 16  # of a block, so that even a small scenario has something for every core
_LAID = CELL  # subjects of each arm for which steps are laid
_CHUNK = 16  # draws of fitted patients a call: enough to fill a core, small enough for memory
_TRIED = (24, 8)  # draws for which the solver's steps are made: one by one, and where many subjects share steps
_INEXACT = 0.01  # a course wrong by this part of a state is solved again by itself


@dataclass(frozen=True)
class VirtualSubjects:
    """`standard` are standard normals for the columns of `Layout`, `covariates` a value a subject; `delivered` what
    part of the amounts of an input acts, 1 where it is not there."""

    standard: Float[np.ndarray, "subject column"]
    covariates: Mapping[str, Float[np.ndarray, " subject"]]
    delivered: Mapping[str, Float[np.ndarray, " subject"]] = field(default_factory=dict)


def virtual_subjects(spec: FitSpec, data_covariates: Mapping[str, np.ndarray], count: int, seed: int,
                     population: Population | None = None, dose_errors: Mapping[str, float] | None = None,
                     effects_beside: int = 0) -> VirtualSubjects:
    """New subjects: scrambled Sobol normals for the random effects, covariates drawn from the fitted patients or from a
    population.

    Args:
        data_covariates: baseline value of each covariate, a value a fitted patient; patients are drawn whole. One
            that a patient lacks (NaN) is drawn from its distribution under each draw.
        population: whose covariates to take in place of the patients', where it has them.
        dose_errors: SD of the log of acting over nominal amount, by input.
        effects_beside: the most random effects of a fit whose virtual subjects are to be the same people.
    """
    own_effects = effects_of(spec)
    effects = max(own_effects, effects_beside)
    own = len(population.distributions) if population else 0
    uniform = qmc.Sobol(effects + own + len(dose_errors or {}), rng=np.random.default_rng(seed)).random(
        1 << max(count - 1, 1).bit_length())[:count]
    standard = norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9))
    covariates = _resampled(data_covariates, count, seed + 1)
    if population is not None:
        covariates |= _resampled(population.patients, count, seed + 2) | population.drawn(
            standard[:, effects: effects + own])
    delivered = {name: np.exp(sd * standard[:, effects + own + k]) for k, (name, sd) in enumerate(
        (dose_errors or {}).items())}
    return VirtualSubjects(standard[:, :own_effects], covariates, delivered)


def effects_of(spec: FitSpec) -> int:
    """Standard normals that a virtual subject takes."""
    return max(spec.effect_count + len(spec.missing_covariates), 1)


def _resampled(people: Mapping[str, np.ndarray], count: int, seed: int) -> dict[str, np.ndarray]:
    """People drawn whole, each about as often as others."""
    size = len(next(iter(people.values()))) if people else 1
    chosen = np.random.default_rng(seed).permutation(np.arange(count) % size)
    return {name: values[chosen] for name, values in people.items()}


def baseline_covariates(spec: FitSpec, data: StudyData) -> dict[str, np.ndarray]:
    """Each covariate's first value, a value a patient; the model's own where there are no patients."""
    if not data.subjects:
        return {name: np.array([item.value]) for name, item in spec.model.covariates.items()}
    tables = [dict(subject.covariates) for subject in data.subjects]
    return {name: np.array([table[name][0][1] for table in tables]) for name in spec.model.covariates}


def observed_arms(spec: FitSpec, data: StudyData) -> tuple[Arm, ...]:
    """The arms of a study as scenario arms, with the doses that most of their subjects were given. Without patients,
    the published cohorts, at the means of their covariates and each with the effects of its study."""
    if not data.subjects:
        return tuple(Arm(cohort.name, cohort.label, cohort.doses,
                         {name: item.mean for name, item in cohort.covariates.items()}, cohort.study)
                     for table in spec.published for cohort in table.cohorts)
    return tuple(Arm(name or "all", name or "all", doses, {}) for name, doses in arm_doses(data).items())


def observables_of(spec: FitSpec) -> tuple[str, ...]:
    """What a fit looks at, beside implied exports: one list for all of its simulations, for one compiled code."""
    return tuple(dict.fromkeys([*spec.likelihood, *(endpoint.marker for endpoint in spec.endpoints.values())]))


class Block(NamedTuple):
    """Some draws by number and some subjects, each in every arm: what is computed at once."""

    draws: slice
    subjects: slice


@dataclass(frozen=True, eq=False)
class Simulation:
    """Courses of virtual subjects in every arm, prepared once for all that is asked of them; it can be pickled.

    `solver` has the steps of some subjects of each arm, which all others take; `size` draws and subjects make a block.
    `like` is a simulation of other arms whose compiled programs do for this one.
    """

    spec: FitSpec
    layout: Layout
    arms: tuple[Arm, ...]
    subjects: VirtualSubjects
    times: Float[np.ndarray, " time"]
    solver: solving.Solver
    size: tuple[int, int]
    like: "Simulation | None" = None

    def __call__(self, z: Float[np.ndarray, "draw coordinate"], observables: Sequence[str]) -> np.ndarray:
        """Observables without residual error of all subjects: array (arm, draw, subject, time, observable)."""
        shape = (len(self.arms), len(z), len(self.subjects.standard), len(self.times), len(observables))
        found = np.empty(shape)
        for block, values in in_turn(lambda block: courses(self, z, block, observables), blocks(self, len(z))):
            found[:, block.draws, block.subjects] = values
        return found


def simulator(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], arms: Sequence[Arm],
              subjects: VirtualSubjects, times: Float[np.ndarray, " time"],
              observables: Sequence[str] | None = None) -> Simulation:
    """A simulation of virtual subjects in every arm.

    Its steps are laid from some of the draws and some of the subjects, and its blocks are cut by its shape: whoever
    computes a block, and whatever was computed before, finds the same in it to the last bit (on processors of a kind).

    Args:
        z: draws like those that will be asked for.
        observables: that may be asked for, beside implied exports: the fewer, the less work; by default those that the
            fit looks at.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    count = len(subjects.standard)
    some = replace(_part(subjects, slice(0, _LAID)), delivered={})
    joined = _joined(spec, arms, some)
    known = _subject_program(spec, lay)
    studies = _studies(lay, arms, len(some.standard))
    likely = in_portions(lambda points: known(points, joined.standard, studies), _some(z, _TRIED[True]))
    computed = tuple(dict.fromkeys([*(observables_of(spec) if observables is None else observables),
                                    *ratios(spec.model)]))
    solver = _prepared(spec, _schedules(spec, arms, joined, times), likely, True, computed)
    return Simulation(spec, lay, tuple(arms), subjects, np.asarray(times), solver,
                      _block_size(len(z), len(arms), count, len(times) * len(computed)))


def designs(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], arms: Sequence[Arm],
            subjects: VirtualSubjects, times: Float[np.ndarray, " time"], observables: Sequence[str] | None = None,
            ) -> Callable[[Sequence[Arm]], Simulation]:
    """`simulator` for one set of arms after another, all by one program: what changes comes in as arrays.

    The solver's steps are laid once, for the arms given here, and are everywhere as dense as the densest of them needs.
    A set within their range is solved as `simulator` would, to the solver's tolerance and not to the last digit.

    Args:
        arms: at the ends of what will be asked: largest doses, first and last days, extremes of covariates.

    Raises:
        SolveError: as `simulator`.
    """
    ends = simulator(spec, lay, z, arms, subjects, times, observables)
    redesigned, some = solving.redesigner(ends.solver), replace(_part(subjects, slice(0, _LAID)), delivered={})

    def of(asked: Sequence[Arm]) -> Simulation:
        schedule = _schedules(spec, asked, _joined(spec, asked, some), times, arms)
        size = _block_size(len(z), len(asked), len(subjects.standard), len(times) * len(ends.solver.observables))
        return replace(ends, arms=tuple(asked), solver=redesigned(schedule), size=size, like=ends)

    return of


def _block_size(draws: int, arms: int, subjects: int, values: int) -> tuple[int, int]:
    """Draws and subjects of a block: all subjects where these are few, else whole cells of them."""
    room = max(_VALUES // (values * arms), 1)  # for a draw of a subject
    many = min(subjects, max(min(room, _TABLED // arms) // CELL, 1) * CELL)
    return min(max(room // many, 1), _MOST_DRAWS, draws), many


def blocks(simulation: Simulation, draws: int) -> list[Block]:
    """All of a simulation in order; those of the same subjects, which share their tables, follow each other."""
    size, many = simulation.size
    count = len(simulation.subjects.standard)
    return [Block(slice(draw, min(draw + size, draws)), slice(begin, min(begin + many, count)))
            for begin in range(0, count, many) for draw in range(0, draws, size)]


def courses(simulation: Simulation, z: Float[np.ndarray, "draw coordinate"], block: Block,
            observables: Sequence[str]) -> Float[np.ndarray, "arm draw subject time observable"]:
    """The courses of a block, of all draws `z`; NaN where one could not be computed. The last block of a kind is filled
    up with repeats, for one program serves all."""
    sim, (size, many) = simulation, simulation.size
    rows = np.minimum(block.draws.start + np.arange(size), len(z) - 1)
    values, run = _program(sim.like or sim)
    schedule, standard, studies, tables = _of_subjects(sim, block.subjects.start)
    columns = tuple(sim.solver.observables.index(name) for name in observables)
    known = values(jnp.asarray(z[rows]), standard, studies)
    found = np.asarray(run(columns, known, tables))
    found = _again(sim.solver.model, schedule, known, observables, found)
    found = np.moveaxis(found.reshape(size, len(sim.arms), many, *found.shape[2:]), 1, 0)
    return found[:, : block.draws.stop - block.draws.start, : block.subjects.stop - block.subjects.start]


@lru_cache(maxsize=4)
def _program(simulation: Simulation):
    """The parameters of subjects under draws, and their observables: compiled once a simulation."""
    return _subject_program(simulation.spec, simulation.layout), _run_program(simulation.solver)


@lru_cache(maxsize=4)
def _of_subjects(simulation: Simulation, begin: int):
    """What all blocks of the same subjects share: schedules, random effects, studies and the solver's tables."""
    sim, (_, many), arms = simulation, simulation.size, len(simulation.arms)
    count = len(sim.subjects.standard)
    joined = _joined(sim.spec, sim.arms, _part(sim.subjects, np.minimum(begin + np.arange(many), count - 1)))
    schedule = _schedules(sim.spec, sim.arms, joined, sim.times, sim.like.arms if sim.like else ())
    parts = np.stack([joined.delivered.get(name, np.ones(arms * many)) for name in sim.spec.model.inputs]
                     or [np.ones(arms * many)], axis=1)
    solver = solving.spread(sim.solver, schedule, min(count, _LAID) * np.arange(arms), np.repeat(np.arange(arms), many),
                            parts)
    return schedule, jnp.asarray(joined.standard), _studies(sim.layout, sim.arms, many), jax.device_put(solver.tables)


def _part(subjects: VirtualSubjects, rows: slice | np.ndarray) -> VirtualSubjects:
    return VirtualSubjects(subjects.standard[rows], {name: own[rows] for name, own in subjects.covariates.items()},
                           {name: own[rows] for name, own in subjects.delivered.items()})


def _joined(spec: FitSpec, arms: Sequence[Arm], subjects: VirtualSubjects) -> VirtualSubjects:
    """The same subjects in every arm, arm after arm."""
    everyone = [_in_arm(spec, arm, subjects) for arm in arms]
    return VirtualSubjects(np.concatenate([people.standard for people in everyone]),
                           {name: np.concatenate([people.covariates[name] for people in everyone])
                            for name in spec.model.covariates},
                           {name: np.tile(values, len(arms)) for name, values in subjects.delivered.items()})


def _studies(lay: Layout, arms: Sequence[Arm], each: int) -> np.ndarray:
    return np.repeat([lay.studies.index(arm.study) if arm.study in lay.studies else -1 for arm in arms], each)


def _schedules(spec: FitSpec, arms: Sequence[Arm], joined: VirtualSubjects, times,
               longest: Sequence[Arm] = ()) -> solving.Schedule:
    """The schedules of all arms' subjects, in order; a subject's covariates stay as they are.

    Args:
        longest: arms that are not simulated, to whose number of segments those of the others are filled up.
    """
    typical = {name: ((spec.model.start, item.value),) for name, item in spec.model.covariates.items()}
    planned = solving.stack([solving.plan(spec.model, arm.doses, typical, times) for arm in [*arms, *longest]])
    planned = jax.tree.map(lambda a: a[:len(arms)], planned)
    each = len(joined.standard) // len(arms)
    repeated = jax.tree.map(lambda a: np.repeat(a, each, axis=0), planned)
    segments, names = repeated.ends.shape[1], list(spec.model.inputs)
    amount, infusion = np.array(repeated.amount, float), np.array(repeated.infusion, float)
    for name, part in joined.delivered.items():
        amount *= np.where(repeated.jump == names.index(name), part[:, None], 1.0)
        infusion[:, :, names.index(name)] *= part[:, None]
    return repeated._replace(amount=amount, infusion=infusion, covariates=repeated.covariates | {
        name: np.repeat(values[:, None], segments, axis=1) for name, values in joined.covariates.items()})


def _some(z: np.ndarray, count: int) -> np.ndarray:
    return z[:: max(len(z) // count, 1)]


def _prepared(spec: FitSpec, schedule: solving.Schedule, likely: Mapping[str, np.ndarray], pooled: bool,
              computed: Sequence[str]) -> solving.Solver:
    return solving.prepare(_with_ratios(spec.model), starting_values(spec), schedule, computed, draws=likely,
                           pooled=pooled, lost=_INEXACT, fixed=settled(spec))


def _run_program(solver: solving.Solver):
    """Some of the solver's observables: (columns, values (draw, subject), tables) -> (draw, subject, time, column)."""
    @partial(jax.jit, static_argnums=0)
    def run(columns: tuple[int, ...], values, tables):
        return solving.solve_sets(solver, values, tables)[..., list(columns)]

    return run


def _with_ratios(model: Model) -> Model:
    """The model with each observable over its healthy and its highest value among the observables."""
    return replace(model, observables={**model.observables, **ratios(model)})


def _again(model: Model, schedule: solving.Schedule, values: Mapping[str, np.ndarray], observables: Sequence[str],
           found: np.ndarray) -> np.ndarray:
    """Courses for which the common steps were too long, with steps of their own; NaN stays where none can be had."""
    draw, subject = np.nonzero(np.isnan(found).any(axis=(2, 3)))
    found = found if len(draw) == 0 else np.array(found)  # JAX's own memory may not be written to
    for k, j in zip(draw, subject, strict=True):
        own = {name: float(value[k, j]) for name, value in values.items()}
        with contextlib.suppress(SolveError):
            alone = jax.tree.map(lambda a, j=j: a[j], schedule)
            found[k, j] = solving.trajectories(model, own, [alone], observables, solving.Accuracy(1e-5, 1e-6))[0]
    return found


def _in_arm(spec: FitSpec, arm: Arm, subjects: VirtualSubjects) -> VirtualSubjects:
    """The subjects with the arm's covariates in place of their own, and the model's where there are none."""
    count = len(subjects.standard)
    known = {name: np.full(count, item.value) for name, item in spec.model.covariates.items()}
    known |= dict(subjects.covariates) | {name: np.full(count, value) for name, value in arm.covariates.items()}
    return replace(subjects, covariates=known)


def individual_courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], data: StudyData,
                       observables: Sequence[str], times: Float[np.ndarray, " time"],
                       ) -> Float[np.ndarray, "draw subject time observable"]:
    """Observables without residual error for the fitted patients themselves: their doses, covariates and effects.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    schedules = [solving.plan(spec.model, s.doses, dict(s.covariates), times.tolist())
                 for s in data.subjects]
    return patient_courses(spec, lay, z, data, observables, solving.stack(schedules))


def patient_courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], data: StudyData,
                    observables: Sequence[str], schedule: solving.Schedule,
                    ) -> Float[np.ndarray, "draw subject visit observable"]:
    """`individual_courses` at the visits of each patient's own schedule."""
    study = np.array(lay.study or [-1] * len(data.subjects), int)
    known = _subject_program(spec, lay)
    values = in_portions(lambda points: known(points, None, study), z)
    likely = {name: _some(value, _TRIED[False]) for name, value in values.items()}
    computed = tuple(dict.fromkeys([*observables_of(spec), *ratios(spec.model)]))
    solver = _prepared(spec, schedule, likely, False, computed)
    run, columns = _run_program(solver), tuple(computed.index(name) for name in observables)

    def some(rows: np.ndarray) -> np.ndarray:
        own = {name: value[rows] for name, value in values.items()}
        return _again(solver.model, schedule, own, observables, np.asarray(run(columns, own, solver.tables)))

    return in_chunks(some, len(z))


def in_chunks(work: Callable[[Int[np.ndarray, " row"]], np.ndarray], count: int,
              progress: Progress | None = None) -> np.ndarray:
    """What `work` makes of rows, for so many: a fixed number at a time, the last chunk filled up with repeats."""
    chunks = [np.minimum(np.arange(begin, begin + _CHUNK), count - 1) for begin in range(0, count, _CHUNK)]
    pieces = []
    for _, found in in_turn(work, chunks):
        pieces.append(found)
        if progress is not None:
            progress(min(len(pieces) * _CHUNK, count), count)
    return np.concatenate(pieces)[:count]


Courses = Callable[[Int[np.ndarray, " row"]], Float[np.ndarray, "arm row subject time observable"]]


def new_courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], arms: Sequence[Arm],
                covariates: Mapping[str, np.ndarray], observables: Sequence[str],
                times: Float[np.ndarray, " time"]) -> Courses:
    """Courses of subjects that are new under every draw, each in every arm, some draws at a time.

    Args:
        lay, z: a layout whose subjects are the new ones, and points that hold their random effects.
        covariates: a value a subject, the same under every draw; an arm's own come first.

    Returns:
        A function of rows of z.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    count, known = len(lay.subjects), _subject_program(spec, lay)
    joined = _joined(spec, arms, VirtualSubjects(np.zeros((count, 1)), covariates))
    values = in_portions(lambda points: known(points, None, np.full(count, -1)), z)
    likely = {name: np.tile(_some(value, _TRIED[True]), len(arms)) for name, value in values.items()}
    schedule = _schedules(spec, arms, joined, times)
    solver = _prepared(spec, schedule, likely, True, observables)
    run, columns = _run_program(solver), tuple(range(len(observables)))

    def courses(rows):
        own = {name: np.tile(value[rows], len(arms)) for name, value in values.items()}
        found = _again(solver.model, schedule, own, observables, np.asarray(run(columns, own, solver.tables)))
        return np.moveaxis(found.reshape(len(rows), len(arms), count, *found.shape[2:]), 1, 0)

    return courses


def _subject_program(spec: FitSpec, lay: Layout):
    """Points, standard normals and numbers of studies -> parameters (point, subject): of new subjects with these etas
    and of these studies (-1: one in the middle of all), or (None) of the fitted ones with the etas in the points."""
    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None))
    def values(point, standard: Float[np.ndarray, "subject column"] | None, study: Int[np.ndarray, " subject"]):
        population = population_values(lay, point)
        shifts = study_shifts(lay, population, study)
        found = subject_values(spec, population, random_effects(lay, point, population, standard), shifts)
        return {name: jnp.broadcast_to(v, study.shape) for name, v in found.items()}

    return values
