"""The kernel against numpy: the same operation lists, read one by one, for one subject. Slow and plain."""

import contextlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from thymodel.documents.regimen import Dose
from thymodel.dynamics import schedule as schedules
from thymodel.dynamics.kernel.emit import JUMP, STEP, VISIT
from thymodel.dynamics.kernel.grid import make_grid
from thymodel.dynamics.kernel.native import Grid, Native, cache_file, kernel_operands, native_solve
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
    """Why the kernel must not be used here, or None: one subject's values and gradient against numpy.

    A kernel that passed is remembered beside its object code, for this jaxlib: the test costs seconds of compilation.
    """
    passed = cache_file(f"{native.forward}-{jaxlib.__version__}.good")
    if passed.exists():
        return None
    trouble = _trouble(native)
    if trouble is None:
        with contextlib.suppress(OSError):  # no cache, no memory: the test runs again next time
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()
    return trouble


def _trouble(native: Native) -> str | None:
    try:
        grid, values = _small_problem(native)
        weights = jnp.arange(1.0, 1.0 + len(native.observables))

        def weighted(known: Mapping[str, jax.Array]) -> jax.Array:
            return jnp.sum(native_solve(native, known, grid)[0] * weights)

        value, slopes = jax.jit(jax.value_and_grad(weighted))(values)
        prepare = jax.jit(lambda known: kernel_operands(native, known, grid))
        expected, cotangents = _by_numpy(native, prepare(values), grid, np.asarray(weights))
        back = jax.jit(lambda known, slope: jax.vjp(prepare, known)[1](slope)[0])(values, cotangents)
    except Exception as error:  # whatever a foreign LLVM or jaxlib raises, the other solver remains
        return f"{type(error).__name__}: {error}"
    if not np.allclose(value, expected, rtol=1e-9, atol=0):
        return f"a value differs from numpy: {float(value)!r} and {expected!r}"
    for name in values:
        if not np.allclose(slopes[name], back[name], rtol=1e-7, atol=1e-9 * (1.0 + abs(float(back[name][0])))):
            return f"a derivative differs from numpy, by {name}: {float(slopes[name][0])!r}, {float(back[name][0])!r}"
    return None


def _small_problem(native: Native) -> tuple[Grid, dict[str, jax.Array]]:
    """One subject at typical values, a dose of every input, eleven steps or so."""
    model = native.model
    doses = [Dose(model.start + 1.0 + k, name, 1.0) for k, name in enumerate(model.inputs)]
    courses = {name: ((-np.inf, item.value),) for name, item in model.covariates.items()}
    times = [model.start, model.start + 2.5, model.start + 20.0]
    schedule = schedules.stack([schedules.plan(model, doses, courses, times)])
    values = {name: jnp.full(1, item.value) for name, item in model.parameters.items()}
    return make_grid(native, values, schedule, 12), values


def _by_numpy(native: Native, operands, grid: Grid, weights: np.ndarray):
    """Weighted sum over visits, and its derivative by the kernel's operands, of the first subject."""
    parameters, initial = (np.asarray(a) for a in operands)
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
    return total, (jnp.asarray(cotangents[0]), jnp.asarray(cotangents[1]))


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
