"""Where the steps lie: on every dose, visit and covariate change, and between them as dense as a pilot found necessary.

The pilot is the same kernel on a fine grid, at several sets of parameter values. The embedded error of a step of length
h goes with h**4, so each step tells the density that would just meet the tolerance; a few rounds settle it.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thymodel.documents.model import Model
from thymodel.dynamics.kernel.emit import JUMP, LANES, REGIME, REGIME_BACK, STEP, VISIT
from thymodel.dynamics.kernel.native import Grid, Native, kernel_operands
from thymodel.dynamics.kernel.step import ERROR_ORDER, ROW
from thymodel.dynamics.schedule import Accuracy, Schedule

_FIRST_STEPS = 400  # of the pilot, spread over a subject's course; doubled where it fails
_MOST_STEPS = 5_000
_SAFETY = 1.15  # in density: the tolerance is aimed at from below


class Density(NamedTuple):
    """Steps per time, constant between edges."""

    edges: np.ndarray
    value: np.ndarray


class Path(NamedTuple):
    """One subject's course without its steps: legs between knots, in order."""

    legs: tuple["Leg", ...]
    place: np.ndarray
    regimes: dict[str, np.ndarray]


class Leg(NamedTuple):
    """What happens at `start`, in the order visit, jump; then integration to `end` (zero length: none)."""

    start: float
    end: float
    visit: int
    jump: int
    amount: float
    regime: int
    infusion: np.ndarray


def make_grid(native: Native, values: Mapping[str, Any], schedule: Schedule, tolerance: Accuracy | int,
              draws: Mapping[str, np.ndarray] | None = None) -> Grid:
    """Steps for a design.

    Args:
        values: parameters by name, numbers or arrays over subjects: typical values. They give each state's scale.
        schedule: from `schedule.stack`.
        tolerance: local error of a step; or the number of steps, spread in the same proportions (for the subject that
            needs most: the others get fewer).
        draws: further sets, (draw, subject) by name; the densest of all is taken. A draw that cannot be integrated
            is left out.
    """
    paths = [_path(native.model, jax.tree.map(lambda a, k=k: np.asarray(a)[k], schedule))
             for k in range(len(schedule.start))]
    accuracy = Accuracy(1e-4, 1e-7) if isinstance(tolerance, int) else tolerance
    densities = [_uniform(path) for path in paths]
    grid = _assemble(native, paths, densities, np.append(np.full(len(native.model.states), 1e-300), accuracy.rtol))
    sets = _operands(native, values, draws or {}, grid)
    limits = _tolerances(native, sets[0], grid, accuracy)
    for _ in range(4):
        grid = _assemble(native, paths, densities, limits)
        densities = _refined(native, sets, grid, paths)
    if isinstance(tolerance, int):
        densities = _with_steps(paths, densities, tolerance)
    return jax.tree.map(jnp.asarray, _assemble(native, paths, densities, limits))


# --- a schedule as legs ----------------------------------------------------------------------------------------


def _path(model: Model, s: Schedule) -> Path:
    """Visits before jumps at the same time; a jump or visit belongs to the covariates that held before it."""
    times, place = np.unique(s.visits, return_inverse=True)
    numbers, regimes = _regimes(s)
    legs: list[Leg] = []
    nothing: dict[str, Any] = {"visit": -1, "jump": -1, "amount": 0.0}
    t, pending = float(s.start), nothing.copy()

    def leave(end: float, k: int) -> None:
        nonlocal t, pending
        legs.append(Leg(t, end, pending["visit"], pending["jump"], pending["amount"], numbers[k], s.infusion[k]))
        t, pending = end, nothing.copy()

    for k, end in enumerate(s.ends):
        if k and numbers[k] != numbers[k - 1] and (pending["visit"] >= 0 or pending["jump"] >= 0):
            leave(t, k - 1)
        for visit in np.unique(place[s.visit_segment == k]):
            if times[visit] > t or pending["visit"] >= 0 or pending["jump"] >= 0:
                leave(float(times[visit]), k)
            pending["visit"] = int(visit)
        if end > t or (pending["jump"] >= 0 and s.jump[k] < len(model.inputs)):
            leave(float(end), k)
        if s.jump[k] < len(model.inputs):
            pending |= {"jump": int(s.jump[k]), "amount": float(s.amount[k])}
    leave(t, len(s.ends) - 1)
    return Path(tuple(legs), place.reshape(-1), regimes)


def _regimes(s: Schedule) -> tuple[list[int], dict[str, np.ndarray]]:
    """Number of the covariate regime of each segment, and the covariates of each regime."""
    table = np.stack([*s.covariates.values()], axis=1) if s.covariates else np.zeros((len(s.ends), 0))
    numbers = np.concatenate([[0], np.cumsum(np.any(table[1:] != table[:-1], axis=1))]).astype(int)
    first = [int(np.argmax(numbers == c)) for c in range(numbers[-1] + 1)]
    return numbers.tolist(), {name: column[first] for name, column in s.covariates.items()}


# --- steps -----------------------------------------------------------------------------------------------------


def _uniform(path: Path) -> Density:
    """For the first round: even over the course, and as many again right after every knot."""
    start, end = path.legs[0].start, path.legs[-1].end
    span = max(end - start, 1e-12)
    knots = np.unique([leg.start for leg in path.legs] + [end])
    fine = np.concatenate([knots, *[knots[:-1] + np.diff(knots) * 2.0**-j for j in range(1, 9)]])
    edges = np.unique(np.concatenate([fine, np.linspace(start, end, 129)]))
    edges = edges[(edges >= start) & (edges <= end)]
    if len(edges) < 2:
        return Density(np.array([start, start + 1.0]), np.array([1.0]))
    lengths = np.diff(edges)
    return Density(edges, np.maximum(_FIRST_STEPS / span, 1.0 / lengths))


def _steps(leg: Leg, density: Density) -> np.ndarray:
    """Times from start to end of a leg, each step taking an equal share of the density."""
    if leg.end <= leg.start:
        return np.array([leg.start])
    total = np.concatenate([[0.0], np.cumsum(density.value * np.diff(density.edges))])
    low, high = np.interp([leg.start, leg.end], density.edges, total)
    count = max(1, int(np.ceil(high - low - 1e-9)))
    times = np.interp(np.linspace(low, high, count + 1), total, density.edges)
    times[0], times[-1] = leg.start, leg.end
    return times


def _rows(path: Path, density: Density) -> np.ndarray:
    """The grid's rows of one subject (row, item), flags left 0."""
    rows = []
    for leg in path.legs:
        times = _steps(leg, density)
        steps = np.diff(times) if len(times) > 1 else np.zeros(1)
        for j, h in enumerate(steps):
            visit, jump, amount = (leg.visit, leg.jump, leg.amount) if j == 0 else (-1, -1, 0.0)
            rows.append([times[j], h, jump, amount, visit, leg.regime, 0.0, *leg.infusion])
    return np.array(rows)


def _assemble(native: Native, paths: Sequence[Path], densities: Sequence[Density], limits: np.ndarray) -> Grid:
    tables = [_rows(path, density) for path, density in zip(paths, densities, strict=True)]
    tables += [tables[-1]] * (-len(tables) % LANES)
    length, stored = max(len(table) for table in tables), max(int(path.place.max()) for path in paths) + 2
    rows = np.stack([_padded(table, length) for table in tables])
    visit = rows[:, :, ROW.index("visit")]
    visit[visit < 0] = stored - 1  # written and never read
    rows = np.moveaxis(rows.reshape(-1, LANES, *rows.shape[1:]), 1, -1)
    rows[:, :, ROW.index("flags")] = _flags(rows, stored)[:, :, None]
    most = max((len(c) for path in paths for c in path.regimes.values()), default=1)
    covariates = {name: np.stack([np.pad(path.regimes[name], (0, most - len(path.regimes[name])), mode="edge")
                                  for path in paths]) for name in native.model.covariates}
    return Grid(np.ascontiguousarray(rows), np.stack([path.place for path in paths]), covariates, limits,
                np.zeros(stored))


def _padded(table: np.ndarray, length: int) -> np.ndarray:
    last = table[-1].copy()
    last[[ROW.index("h"), ROW.index("amount")]], last[[ROW.index("jump"), ROW.index("visit")]] = 0.0, -1.0
    last[ROW.index("t")] += table[-1, ROW.index("h")]
    return np.concatenate([table, np.repeat(last[None], length - len(table), axis=0)])


def _flags(rows: np.ndarray, stored: int) -> np.ndarray:
    """What any subject of a group does in a row, as bits."""
    item = {name: rows[:, :, k] for k, name in enumerate(ROW)}
    regime = item["regime"]
    changes = np.ones(rows.shape[:2], bool)
    changes[:, 1:] = np.any(regime[:, 1:] != regime[:, :-1], axis=-1)
    changes_back = np.ones(rows.shape[:2], bool)
    changes_back[:, :-1] = changes[:, 1:]
    return (VISIT * np.any(item["visit"] < stored - 1, axis=-1) + JUMP * np.any(item["jump"] >= 0, axis=-1)
            + REGIME * changes + STEP * np.any(item["h"] > 0, axis=-1) + REGIME_BACK * changes_back).astype(float)


# --- the pilot -------------------------------------------------------------------------------------------------


def _operands(native: Native, values: Mapping[str, Any], draws: Mapping[str, np.ndarray], grid: Grid) -> list:
    """Kernel operands of each set of values, the typical ones first."""
    prepare = jax.jit(lambda known: kernel_operands(native, known, grid))
    count = len(grid.place)
    typical = {name: np.broadcast_to(np.asarray(values[name], float), (count,)) for name in native.model.parameters}
    sets = [typical]
    for k in range(len(next(iter(draws.values()))) if draws else 0):
        sets.append(typical | {name: np.broadcast_to(np.asarray(draws[name][k], float), (count,)) for name in draws})
    return [(np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in map(prepare, sets)]


def run(native: Native, parameters: np.ndarray, initial: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The kernel without JAX: states at the beginning of each row and errors, both (group, row, ..., lane)."""
    rows = np.ascontiguousarray(grid.rows, float)
    groups, steps = rows.shape[:2]
    tolerance = np.repeat(np.asarray(grid.tolerance, float)[:, None], LANES, axis=1)
    observed = np.empty((groups, len(grid.stored), len(native.observables), LANES))
    errors, states = np.empty((groups, steps, LANES)), np.empty((groups, steps, len(native.model.states), LANES))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 7, *[ctypes.c_int64] * 4)(native.forward_address)
    function(*[a.ctypes.data for a in (parameters, initial, rows, tolerance, observed, errors, states)],
             groups, steps, parameters.shape[1], len(grid.stored))
    return states, errors


def _tolerances(native: Native, operands, grid: Grid, accuracy: Accuracy) -> np.ndarray:
    """Absolute tolerance of each state (accuracy.atol of its largest value), then the relative one."""
    states, _ = run(native, operands[0], operands[1], grid)
    largest = np.nanmax(np.where(np.isfinite(states), np.abs(states), 0.0), axis=(0, 1, 3))
    return np.append(accuracy.atol * np.where(largest > 0, largest, 1.0), accuracy.rtol)


def _refined(native: Native, sets: list[tuple[np.ndarray, np.ndarray]], grid: Grid,
             paths: Sequence[Path]) -> list[Density]:
    """The density at which the worst set would just meet the tolerance."""
    worst = np.zeros(grid.rows.shape[:2] + (LANES,))
    for parameters, initial in sets:
        _, errors = run(native, parameters, initial, grid)
        failed = ~np.isfinite(errors).all(axis=1, keepdims=True)
        worst = np.maximum(worst, np.where(failed, 0.0, errors))
    rows = np.moveaxis(grid.rows, -1, 1).reshape(-1, *grid.rows.shape[1:3])
    errors = np.moveaxis(worst, -1, 1).reshape(len(rows), -1)
    return [_density(rows[k], errors[k]) for k in range(len(paths))]


def _density(rows: np.ndarray, errors: np.ndarray) -> Density:
    t, h = rows[:, ROW.index("t")], rows[:, ROW.index("h")]
    moves = h > 0
    if not moves.any():
        return Density(np.array([t[0], t[0] + 1.0]), np.array([1.0]))
    t, h, e = t[moves], h[moves], errors[moves]
    needed = _SAFETY * np.clip(e, 1e-12, 1e12) ** (1 / ERROR_ORDER) / h
    needed = np.minimum(needed, _MOST_STEPS / (t[-1] + h[-1] - t[0]) + 1.0 / h)
    return Density(np.append(t, t[-1] + h[-1]), needed)


def _with_steps(paths: Sequence[Path], densities: Sequence[Density], steps: int) -> list[Density]:
    """Densities times one factor, such that the longest course takes `steps` rows (or as few as its knots allow)."""
    def scaled(factor: float) -> list[Density]:
        return [d._replace(value=d.value * factor) for d in densities]

    low, high = 1e-4, 1e4
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        longest = max(len(_rows(p, d)) for p, d in zip(paths, scaled(middle), strict=True))
        low, high = (low, middle) if longest > steps else (middle, high)
    return scaled(low)


