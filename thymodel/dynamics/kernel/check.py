"""The kernel against numpy: the same operation lists, read one by one, for one subject. Slow and plain."""

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from thymodel.documents.regimen import Dose
from thymodel.dynamics import schedule as schedules
from thymodel.dynamics.kernel.emit import JUMP, LANES, STEP, VISIT
from thymodel.dynamics.kernel.grid import make_grid, operands, run, run_back
from thymodel.dynamics.kernel.handler import handlers_text
from thymodel.dynamics.kernel.native import Grid, Native, cache_file, content_key, solve_by_handler
from thymodel.dynamics.kernel.step import ROW, Phase, make_phases
from thymodel.dynamics.kernel.tape import needed

_FUNCTIONS: dict[str, Callable] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "negative": np.negative, "exp": np.exp,
    "reciprocal": np.reciprocal, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "tanh": np.tanh, "sin": np.sin,
    "cos": np.cos, "abs": np.abs, "sign": np.sign, "max": np.maximum, "min": np.minimum,
    "power": lambda x, a, _: np.power(x, a),
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "equal": np.equal,
    "select": np.where, "expit": lambda x: 1.0 / (1.0 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0.0, x)}


def self_test(native: Native) -> str | None:
    """Why the kernel must not be used here, or None: one subject's values and slopes against numpy, and the way into
    and out of JAX.

    What passed is remembered beside the object code, the way through JAX for these handlers and this jaxlib.
    """
    for name, test in ((native.forward, _compare), (f"handler-{_way_through_jax()}", _through_jax)):
        passed = cache_file(f"{name}.good")
        if passed.exists():
            continue
        try:
            trouble = test(native)
        except Exception as error:  # whatever a foreign LLVM or jaxlib raises, the other solver remains
            trouble = f"{type(error).__name__}: {error}"
        if trouble is not None:
            return trouble
        with contextlib.suppress(OSError):  # no cache, no memory: the test runs again next time
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()
    return None


def _way_through_jax() -> str:
    """Digest of both sides of the contract with XLA: our handlers, and the header of this jaxlib beside its version.

    A version alone would miss a jaxlib that was built by hand, the header alone what changed behind it.
    """
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    contract = hashlib.sha256(header.read_bytes()).hexdigest() if header.is_file() else ""
    handlers = handlers_text(dict.fromkeys(("N", "M", "R", "O"), 1) | {"L": LANES}, "")
    return content_key(f"{jaxlib.__version__} {contract} {handlers}")[:16]


def _compare(native: Native) -> str | None:
    """Machine code against numpy, without JAX: it costs no compilation."""
    grid, values = _small_problem(native)
    weights = np.arange(1.0, 1.0 + len(native.observables))
    parameters, initial = operands(native, values, grid)
    once = run(native, parameters, initial, grid)
    counts = np.zeros(len(grid.stored))
    counts[: grid.place.max() + 1] = np.bincount(grid.place[0])
    seeds = np.zeros_like(once.observed)
    seeds[0, :, :, 0] = counts[:, None] * weights
    slopes, slopes_initial = run_back(native, parameters, grid, once.states, seeds)
    expected, cotangents = _by_numpy(native, (parameters, initial), grid, weights)
    value = float(np.sum(np.where(seeds == 0, 0.0, once.observed * seeds)))
    if not np.isclose(value, expected, rtol=1e-9, atol=0, equal_nan=True):
        return f"a value differs from numpy: {value!r} and {expected!r}"
    for name, found, wanted in zip(("parameter", "initial state"), (slopes[..., 0], slopes_initial[..., 0]),
                                   (cotangents[0][..., 0], cotangents[1][..., 0]), strict=True):
        scale = 1.0 + np.max(np.abs(wanted), initial=0.0, where=np.isfinite(wanted))
        if not np.allclose(found, wanted, rtol=1e-7, atol=1e-9 * scale, equal_nan=True):
            return f"a derivative by a {name} differs from numpy"
    return None


def _through_jax(native: Native) -> str | None:
    """The handlers: what XLA gets is what the machine code gives."""
    grid, values = _small_problem(native)
    parameters, initial = operands(native, values, grid)
    once = run(native, parameters, initial, grid)
    seeds = np.ones_like(once.observed)
    seeds[:, grid.place.max() + 1:] = 0.0  # what is written there is never read
    back = run_back(native, parameters, grid, once.states, seeds)
    limits = np.repeat(np.asarray(grid.tolerance)[:, None], LANES, axis=1)

    @jax.jit
    def through(parameters, initial):
        solve = partial(solve_by_handler, native, rows=grid.rows, dense=grid.dense, tolerance=limits, poor=grid.poor,
                        stored=grid.stored)
        (observed, _), pull = jax.vjp(lambda p, i: solve(p, i), parameters, initial)
        return jnp.where(seeds > 0, observed, 0.0), pull((jnp.asarray(seeds), jnp.zeros((len(parameters), LANES))))

    observed, slopes = through(parameters, initial)
    same = [np.allclose(a, b, rtol=1e-12, atol=0, equal_nan=True)
            for a, b in ((observed, once.observed * seeds), (slopes[0], back[0]), (slopes[1], back[1]))]
    return None if all(same) else "values that come through JAX differ"


def _small_problem(native: Native) -> tuple[Grid, dict[str, np.ndarray]]:
    """One subject at typical values, a dose of every input, eleven steps or so."""
    model = native.model
    doses = [Dose(model.start + 1.0 + k, name, 1.0) for k, name in enumerate(model.inputs)]
    courses = {name: ((-np.inf, item.value),) for name, item in model.covariates.items()}
    courses |= {name: ((-np.inf, course[0][1]),) for name, course in model.switches.items()}
    times = [model.start, model.start + 2.5, model.start + 20.0]
    schedule = schedules.stack([schedules.plan(model, doses, courses, times)])
    values = {name: np.full(1, item.value) for name, item in model.parameters.items()}
    return make_grid(native, values, schedule, 12), values


def _by_numpy(native: Native, given, grid: Grid, weights: np.ndarray):
    """Weighted sum over visits, and its derivative by the kernel's operands, of the first subject."""
    parameters, initial = (np.asarray(a) for a in given)
    phases = make_phases(native.model, native.observables, native.names)
    rows, tolerance = np.asarray(grid.rows)[0, :, :, 0], np.asarray(grid.tolerance)
    arrays = {"state": initial[0, :, 0].copy(), "parameter": parameters[0, 0, :, 0], "tolerance": tolerance}
    counts = np.bincount(np.asarray(grid.place)[0], minlength=len(grid.stored))
    kept, total = [], 0.0
    for row in rows:
        kept.append(arrays["state"].copy())
        arrays |= {"row": row, "observed": np.zeros(len(weights)), "error": np.zeros(1)}
        flags = int(row[ROW.index("flags")])
        if flags & VISIT and row[ROW.index("visit")] < len(counts) - 1:
            _read(phases.observe, arrays)
            total += counts[int(row[ROW.index("visit")])] * float(weights @ arrays["observed"])
        for bit, phase in ((JUMP, phases.jump), (STEP, phases.step)):
            if flags & bit:
                _read(phase, arrays)
    cotangents = [np.zeros_like(parameters), np.zeros_like(initial)]
    arrays |= {"state_cotangent": np.zeros(initial.shape[1]), "parameter_cotangent": np.zeros(parameters.shape[2])}
    for row, state in zip(reversed(rows), reversed(kept), strict=True):
        _back(phases, arrays, row, state, weights * counts[int(row[ROW.index("visit")])])
    cotangents[0][0, 0, :, 0], cotangents[1][0, :, 0] = arrays["parameter_cotangent"], arrays["state_cotangent"]
    return total, tuple(cotangents)


def _back(phases, arrays: dict, row: np.ndarray, state: np.ndarray, seed: np.ndarray) -> None:
    flags = int(row[ROW.index("flags")])
    arrays |= {"row": row, "state": state.copy(), "observed_cotangent": seed}
    if flags & JUMP:
        _read(phases.jump, arrays)
    if flags & STEP:
        _read(phases.step_adjoint, arrays)
    arrays["state"] = state
    if flags & JUMP:
        _read(phases.jump_adjoint, arrays)
    if flags & VISIT:
        _read(phases.observe_adjoint, arrays)


def _read(phase: Phase, arrays: dict[str, np.ndarray]) -> None:
    """Runs an operation list on the arrays, in place."""
    result: dict[int, float] = {}
    with np.errstate(all="ignore"):
        for place in needed(phase.tape, [output.place for output in phase.outputs]):
            operation = phase.tape.operations[place]
            if operation.name == "constant":
                result[place] = np.float64(operation.value)
            elif operation.name == "input":
                result[place] = np.float64(arrays[operation.source[0]][operation.source[1]])
            else:
                result[place] = _FUNCTIONS[operation.name](*[result[a] for a in operation.args])
    for output in phase.outputs:
        old = arrays[output.array][output.index] if output.add else 0.0
        arrays[output.array][output.index] = old + result[output.place]
