"""Where the steps lie: on every dose, visit and covariate change, and between them as dense as a pilot found necessary.

The pilot is the same kernel on a fine grid, at several sets of parameter values. The embedded error of a step of length
h goes with h**4, so each step tells the density that would just meet the tolerance; a few rounds settle it.
"""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from thymodel.documents.model import Model
from thymodel.dynamics.kernel.emit import JUMP, LANES, REGIME, REGIME_BACK, STEP, VISIT
from thymodel.dynamics.kernel.native import Grid, Native, given, kernel_operands
from thymodel.dynamics.kernel.step import ERROR_ORDER, ROW
from thymodel.dynamics.schedule import Accuracy, Schedule

_FIRST_STEPS = 400  # of the pilot, spread over a subject's course; doubled where it fails
_MOST_STEPS = 5_000
_MOST_ROUNDS = 24  # a round can but double the density at a place: fast transients and kinks need many
_PATIENCE = 6  # rounds in which the worst error has to halve
_GOOD_ENOUGH = 2.0  # largest error of a step, in units of the tolerance
_LOST = 0.3  # a step wrong by that part of the state itself: what follows is not the solution
_ROUND = 64  # rows of a grid come in such steps: empty rows cost little, another shape compiles everything again
_SAFETY = 1.15  # in density: the tolerance is aimed at from below


class Density(NamedTuple):
    """Steps per time, constant between edges."""

    edges: np.ndarray
    value: np.ndarray


class Path(NamedTuple):
    """A course without its steps: legs between knots, in order; which stored visit each visit is."""

    legs: tuple["Leg", ...]
    place: np.ndarray


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
              draws: Mapping[str, np.ndarray] | None = None, least_rows: int = 1, share: float = 1.0,
              pooled: bool = False, limit: int | None = None) -> Grid:
    """Steps for a design.

    Args:
        values: parameters by name, numbers or arrays over subjects: typical values. They give each state's scale.
        schedule: from `schedule.stack`.
        tolerance: local error of a step; or the number of steps, spread in the same proportions (for the subject that
            needs most: the others get fewer).
        draws: further sets, (draw, subject) by name. A draw that cannot be integrated is left out.
        least_rows: the table is filled up with empty rows to this many, and to a multiple of 64.
        share: of the sets, for which a step must be short enough. Draws of a prior hold exploding courses, which
            would ask ten times the steps of all others; draws of a posterior do not, and 1 suits them.
        pooled: subjects with the same doses and visits share their steps, and `share` is over all of them: for
            thousands of virtual subjects.
        limit: most rows; where the tolerance asks for more, it is missed.
    """
    schedule = jax.tree.map(np.asarray, schedule)
    paths, which = _paths(native.model, schedule, pooled)
    accuracy = Accuracy(1e-4, 1e-7) if isinstance(tolerance, int) else tolerance
    densities = [_uniform(path) for path in paths]
    assemble = partial(_assemble, native, schedule, paths, which)
    grid = assemble(densities, np.append(np.full(len(native.model.states), 1e-300), accuracy.rtol))
    sets = _operands(native, values, draws or {}, grid)
    tried: list[tuple[np.ndarray, list[Density]]] = []
    most = _MOST_STEPS if limit is None else limit
    good = stay = np.zeros(len(paths), bool)
    while len(tried) < _MOST_ROUNDS and not (good | stay).all():
        limits = _tolerances(native, sets[0], grid, accuracy)
        refined, worst = _refined(native, sets, grid._replace(tolerance=limits), which, share, most, stay)
        tried.append((np.where(stay, tried[-1][0], worst) if tried else worst, densities))
        good, stalled = _settled([worst for worst, _ in tried])
        stay = stay | stalled | (good if limit is not None else False)
        densities = [best if there else new for best, new, there in zip(_best(tried), refined, stay, strict=True)]
        grid = assemble(densities, limits)
    densities = _best(tried)
    if isinstance(tolerance, int):
        densities = _with_steps(paths, densities, tolerance)
    elif limit is not None:
        densities = [_with_steps([p], [d], limit)[0] if len(_rows(p, d)) > limit else d
                     for p, d in zip(paths, densities, strict=True)]
    return assemble(densities, limits, least_rows, _ROUND)


def _settled(errors: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of each course, from its worst error round by round: whether it is good enough, and whether it is beyond help
    (a kink that moves between the sets: no steps will meet the tolerance)."""
    good = (errors[-1] <= _GOOD_ENOUGH) & (len(errors) > 3)
    stalled = errors[-1] > 0.5 * errors[-_PATIENCE] if len(errors) > _PATIENCE else np.zeros_like(good)
    return good, stalled & ~good


def _best(tried: Sequence[tuple[np.ndarray, list[Density]]]) -> list[Density]:
    """Of each course, the last density if that is good enough, else the one with the least error."""
    errors = np.stack([worst for worst, _ in tried])
    rounds = np.where(errors[-1] <= _GOOD_ENOUGH, len(tried) - 1, errors.argmin(axis=0))
    return [tried[r][1][k] for k, r in enumerate(rounds)]


def with_dense(grid: Grid, dense: Grid, poor: float) -> Grid:
    """The grid with the steps of another one behind it, for groups with a step that is off by `poor` tolerances."""
    return grid._replace(dense=dense.rows, poor=np.full(LANES, poor))


def relayer(native: Native, grid: Grid) -> Callable[[Schedule], Grid]:
    """Steps for other designs with the same visits, without a pilot: as dense as those of the densest course of this
    grid, at the same time where there was no dose before, and at the same time after a dose.

    For designs that are not far from those which the grid was made for; the kernel's own error tells where they are.
    Such a grid has at least as many rows as this one, so that one program does for most of them.
    """
    rows = np.unique(np.moveaxis(np.asarray(grid.rows), -1, 1).reshape(-1, *grid.rows.shape[1:3]), axis=0)
    courses = [_taken(course, len(grid.stored)) for course in rows]
    always = _densest([course[:, : doses[0]] if len(doses) else course for course, doses in courses])
    after = _densest([part for course, doses in courses for part in _after_doses(course, doses)])

    def relaid(schedule: Schedule) -> Grid:
        schedule = jax.tree.map(np.asarray, schedule)
        paths, which = _paths(native.model, schedule, True)
        return _assemble(native, schedule, paths, which, [_joined(path, always, after) for path in paths],
                         np.asarray(grid.tolerance), grid.rows.shape[1], _ROUND)

    return relaid


Taken = Float[np.ndarray, "3 step"]  # time, length and density of each step


def _taken(course: Float[np.ndarray, "row item"], stored: int) -> tuple[Taken, np.ndarray]:
    """Steps of a course with the density that they show, and at which of them doses are. A leg of one step shows none:
    it may have been short for its knots alone."""
    column = {name: course[:, k] for k, name in enumerate(ROW)}
    moves = column["h"] > 0
    leg = np.cumsum((column["visit"] < stored - 1) | (column["jump"] >= 0))[moves]
    alone = np.bincount(leg)[leg] == 1
    steps = np.stack([column["t"][moves], column["h"][moves], np.where(alone, 0.0, 1 / column["h"][moves])])
    return steps, np.searchsorted(steps[0], column["t"][(column["jump"] >= 0) & (column["amount"] > 0)])


def _densest(courses: Sequence[Taken]) -> Density:
    """The largest density of all courses at each time."""
    courses = [course for course in courses if course.shape[1]]
    if not courses:
        return Density(np.array([0.0, 1.0]), np.array([0.0]))
    edges = np.unique(np.concatenate([np.append(t, t[-1] + h[-1]) for t, h, _ in courses]))
    value = np.zeros(len(edges) - 1)
    for t, h, density in courses:
        k = np.searchsorted(t, edges[:-1], side="right") - 1
        value = np.maximum(value, np.where((k >= 0) & (edges[:-1] < t[-1] + h[-1]), density[np.maximum(k, 0)], 0.0))
    return Density(edges, value)


def _after_doses(course: Taken, doses: np.ndarray) -> list[Taken]:
    """What follows each dose until the next, in time since that dose."""
    parts = np.split(course, doses, axis=1)[1:]
    return [np.stack([t - t[0], h, density]) for t, h, density in parts if len(t)]


def _joined(path: Path, always: Density, after: Density) -> Density:
    """The larger of two densities, one by the time and one by the time since the last dose."""
    doses = np.array([leg.start for leg in path.legs if leg.jump >= 0])
    edges = np.unique(np.concatenate([always.edges, *(day + after.edges for day in doses)]))
    edges = edges[(edges >= path.legs[0].start) & (edges <= max(path.legs[-1].end, always.edges[-1]))]
    begin = edges[:-1]
    value = always.value[np.clip(np.searchsorted(always.edges, begin, side="right") - 1, 0, len(always.value) - 1)]
    for day in doses:
        k = np.searchsorted(after.edges, begin - day, side="right") - 1
        inside = (k >= 0) & (k < len(after.value)) & (begin < np.min(doses[doses > day], initial=np.inf))
        value = np.maximum(value, np.where(inside, after.value[np.clip(k, 0, len(after.value) - 1)], 0.0))
    return Density(edges, value)


def halved(grid: Grid) -> Grid:
    """The grid with every step made in two, the dense ones too: for a second opinion on its accuracy."""
    return grid._replace(rows=_halved(grid.rows, len(grid.stored)), dense=_halved(grid.dense, len(grid.stored)))


def _halved(rows, stored: int) -> np.ndarray:
    rows = np.asarray(rows)
    item = {name: ROW.index(name) for name in ROW}
    first, second = rows.copy(), rows.copy()
    first[:, :, item["h"]] *= 0.5
    second[:, :, item["h"]] *= 0.5
    second[:, :, item["t"]] += second[:, :, item["h"]]
    second[:, :, item["visit"]], second[:, :, item["jump"]] = stored - 1, -1.0
    second[:, :, item["amount"]] = 0.0
    both = np.stack([first, second], axis=2).reshape(rows.shape[0], 2 * rows.shape[1], *rows.shape[2:])
    if both.shape[1]:
        both[:, :, item["flags"]] = _flags(both, stored)[:, :, None]
    return both


def operands(native: Native, values: Mapping[str, Any], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """What `run` takes, for one set of values."""
    return _operands(native, values, {}, grid)[0]


# --- a schedule as legs ----------------------------------------------------------------------------------------


def _paths(model: Model, schedule: Schedule, pooled: bool) -> tuple[list[Path], np.ndarray]:
    """The courses of a design, and which of them each subject takes."""
    found: dict[Any, int] = {}
    paths: list[Path] = []
    which = []
    for k in range(len(schedule.start)):
        s = jax.tree.map(lambda a, k=k: a[k], schedule)
        numbers, _ = _regimes(s)
        key = tuple(a.tobytes() for a in s._replace(covariates=np.array(numbers))) if pooled else k
        if key not in found:
            found[key] = len(paths)
            paths.append(_path(model, s, numbers))
        which.append(found[key])
    return paths, np.array(which)


def _path(model: Model, s: Schedule, numbers: Sequence[int]) -> Path:
    """Visits before jumps at the same time; a jump or visit belongs to the covariates that held before it."""
    times, place = np.unique(s.visits, return_inverse=True)
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
    return Path(tuple(legs), place.reshape(-1))


def _regimes(s: Schedule) -> tuple[list[int], dict[str, np.ndarray]]:
    """Number of the covariate regime of each segment, and the covariates of each regime."""
    table = np.stack([*s.covariates.values()], axis=1) if s.covariates else np.zeros((len(s.ends), 0))
    numbers = np.concatenate([[0], np.cumsum(np.any(_differ(table[1:], table[:-1]), axis=1))]).astype(int)
    first = [int(np.argmax(numbers == c)) for c in range(numbers[-1] + 1)]
    return numbers.tolist(), {name: column[first] for name, column in s.covariates.items()}


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two values are not the same; two that are not known are."""
    return (a != b) & ~(np.isnan(a) & np.isnan(b))


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


def _rows(path: Path, density: Density) -> np.ndarray:
    """The grid's rows of one subject (row, item), flags left 0; steps of a leg take equal shares of its density."""
    legs = path.legs
    starts, ends = np.array([leg.start for leg in legs]), np.array([leg.end for leg in legs])
    total = np.concatenate([[0.0], np.cumsum(density.value * np.diff(density.edges))])
    low, high = np.interp(starts, density.edges, total), np.interp(ends, density.edges, total)
    counts = np.where(ends > starts, np.maximum(1, np.ceil(high - low - 1e-9)), 1).astype(int)
    leg, first = np.repeat(np.arange(len(legs)), counts), np.cumsum(counts) - counts
    share = (np.arange(len(leg)) - first[leg]) / counts[leg]
    rows = np.zeros((len(leg), len(ROW) + len(legs[0].infusion)))
    t = np.interp(low[leg] + share * (high - low)[leg], total, density.edges)
    t[first] = starts
    until = np.append(t[1:], ends[-1])
    until[first + counts - 1] = ends
    rows[:, ROW.index("t")], rows[:, ROW.index("h")] = t, until - t
    rows[:, ROW.index("regime")] = np.array([leg.regime for leg in legs])[leg]
    rows[:, len(ROW):] = np.stack([leg.infusion for leg in legs])[leg]
    rows[:, [ROW.index("jump"), ROW.index("visit")]] = -1.0
    for name in ("jump", "amount", "visit"):
        rows[first, ROW.index(name)] = [getattr(leg, name) for leg in legs]
    return rows


def _assemble(native: Native, schedule: Schedule, paths: Sequence[Path], which: np.ndarray,
              densities: Sequence[Density], limits: np.ndarray, least_rows: int = 1, multiple: int = 1) -> Grid:
    tables = [_rows(path, density) for path, density in zip(paths, densities, strict=True)]
    longest, stored = max(len(table) for table in tables), max(int(path.place.max()) for path in paths) + 2
    length = max(-(-longest // multiple) * multiple, least_rows)
    filled = np.append(which, np.repeat(which[-1], -len(which) % LANES))  # the last subject fills the last group
    rows = np.stack([_padded(table, length) for table in tables])[filled]
    visit = rows[:, :, ROW.index("visit")]
    visit[visit < 0] = stored - 1  # written and never read
    rows = np.moveaxis(rows.reshape(-1, LANES, *rows.shape[1:]), 1, -1)
    rows[:, :, ROW.index("flags")] = _flags(rows, stored)[:, :, None]
    places = np.stack([path.place for path in paths])[which]
    return Grid(np.ascontiguousarray(rows), places, _covariates(schedule), limits, np.zeros(stored),
                np.zeros((len(rows), 0, *rows.shape[2:])), np.full(LANES, np.inf))


def _covariates(schedule: Schedule) -> dict[str, np.ndarray]:
    """Covariates of each subject's regimes, the last repeated where others have more."""
    tables = [_regimes(jax.tree.map(lambda a, k=k: a[k], schedule))[1] for k in range(len(schedule.start))]
    most = max((len(c) for table in tables for c in table.values()), default=1)
    return {name: np.stack([np.pad(table[name], (0, most - len(table[name])), mode="edge") for table in tables])
            for name in schedule.covariates}


def _padded(table: np.ndarray, length: int) -> np.ndarray:
    last = table[-1].copy()
    last[[ROW.index("h"), ROW.index("amount")]], last[[ROW.index("jump"), ROW.index("visit")]] = 0.0, -1.0
    last[ROW.index("t")] += table[-1, ROW.index("h")]
    return np.concatenate([table, np.repeat(last[None], length - len(table), axis=0)])


def _flags(rows: np.ndarray, stored: int) -> np.ndarray:
    """What any subject of a group does in a row, as bits; none at all in the rows that fill a table up."""
    item = {name: rows[:, :, k] for k, name in enumerate(ROW)}
    acts = (VISIT * np.any(item["visit"] < stored - 1, axis=-1) + JUMP * np.any(item["jump"] >= 0, axis=-1)
            + STEP * np.any(item["h"] > 0, axis=-1))
    last = acts.shape[1] - 1 - np.argmax(acts[:, ::-1] > 0, axis=1) * np.any(acts > 0, axis=1)
    regime = item["regime"]
    changes = np.ones(rows.shape[:2], bool)
    changes[:, 1:] = np.any(regime[:, 1:] != regime[:, :-1], axis=-1)
    changes_back = np.ones(rows.shape[:2], bool)
    changes_back[:, :-1] = changes[:, 1:]
    changes_back[np.arange(len(last)), last] = True
    flags = acts + REGIME * changes + REGIME_BACK * changes_back
    return np.where(np.arange(rows.shape[1]) <= last[:, None], flags, 0).astype(float)


# --- the pilot -------------------------------------------------------------------------------------------------


def _operands(native: Native, values: Mapping[str, Any], draws: Mapping[str, np.ndarray], grid: Grid) -> list:
    """Kernel operands of each set of values, the typical ones first."""
    count = len(grid.place)
    typical = {name: np.broadcast_to(np.asarray(values[name], float), (count,)) for name in
               given(native.model, values)}
    sets = [typical]
    for k in range(len(next(iter(draws.values()))) if draws else 0):
        sets.append(typical | {name: np.broadcast_to(np.asarray(draws[name][k], float), (count,)) for name in draws})
    found = [kernel_operands(native, known, grid) for known in sets]
    return [(np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in found]


class Run(NamedTuple):
    """What the kernel writes: observables at the stored visits, errors of each row, states at the beginning of each."""

    observed: Float[np.ndarray, "group visit observable lane"]
    errors: Float[np.ndarray, "group row lane"]
    states: Float[np.ndarray, "group row state lane"]


def run(native: Native, parameters: np.ndarray, initial: np.ndarray, grid: Grid) -> Run:
    """The kernel without JAX."""
    rows = np.ascontiguousarray(grid.rows, float)
    groups, steps = rows.shape[:2]
    tolerance = np.repeat(np.asarray(grid.tolerance, float)[:, None], LANES, axis=1)
    observed = np.zeros((groups, len(grid.stored), len(native.observables), LANES))
    errors, states = np.zeros((groups, steps, LANES)), np.zeros((groups, steps, len(native.model.states), LANES))
    nothing, per_group = np.full((groups, LANES), np.inf), np.zeros((2, groups, LANES))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 11, *[ctypes.c_int64] * 7, ctypes.c_void_p)(
        native.forward_address)
    arrays = (parameters, initial, rows, nothing, tolerance, nothing, observed, *per_group, states, nothing)
    function(*[a.ctypes.data for a in arrays], groups, steps, parameters.shape[1], len(grid.stored), 0,
             steps, 0, errors.ctypes.data)
    return Run(observed, errors, states)


def run_back(native: Native, parameters: np.ndarray, grid: Grid, states: np.ndarray,
             cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The adjoint without JAX: slopes by parameters and initial states of a sum over `Run.observed` times cotangent."""
    groups, steps = grid.rows.shape[:2]
    slopes, initial = np.zeros_like(parameters), np.zeros((groups, states.shape[2], LANES))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 9, *[ctypes.c_int64] * 5)(native.backward_address)
    rows, used = np.ascontiguousarray(grid.rows, float), np.zeros((groups, LANES))
    arrays = (parameters, rows, used, states, used, used, np.ascontiguousarray(cotangent), slopes, initial)
    function(*[a.ctypes.data for a in arrays], groups, steps, parameters.shape[1], len(grid.stored), 0)
    return slopes, initial


def _tolerances(native: Native, typical: tuple[np.ndarray, np.ndarray], grid: Grid, accuracy: Accuracy) -> np.ndarray:
    """Absolute tolerance of each state (accuracy.atol of its largest value), then the relative one.

    Rows behind a lost step do not count: a step over a pole leaves 1e147, and no error would ever exceed its 1e-7.
    """
    _, errors, states = run(native, typical[0], typical[1], grid)
    lost = ~(errors * accuracy.rtol < _LOST)
    sound = (np.cumsum(lost, axis=1) - lost == 0)[:, :, None] & np.isfinite(states)
    largest = np.max(np.where(sound, np.abs(states), 0.0), axis=(0, 1, 3))
    return np.append(accuracy.atol * np.where(largest > 0, largest, 1.0), accuracy.rtol)


def _refined(native: Native, sets: list[tuple[np.ndarray, np.ndarray]], grid: Grid, which: np.ndarray,
             share: float, most: int, stay: np.ndarray) -> tuple[list[Density], np.ndarray]:
    """The density of each course at which that share of the sets would just meet the tolerance, step by step, with
    `most` steps in all; and the worst error of each course on this grid, of that share.

    Groups of which all courses may `stay` as they are are not run. The others all go on together, so that courses
    which are the same up to some time get the same steps up to it.
    """
    groups = np.unique(np.flatnonzero(~stay[which]) // LANES)
    part = grid._replace(rows=grid.rows[groups])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        some = list(pool.map(lambda given: run(native, given[0][groups], given[1][groups], part).errors, sets))
    found = np.zeros((len(sets), *np.delete(grid.rows.shape, 2)))
    found[:, groups] = some
    found[1:] = np.where(np.isfinite(found[1:]).all(axis=2, keepdims=True), found[1:], 0.0)
    found[0] = _until_lost(found[0])
    rows = np.moveaxis(grid.rows, -1, 1).reshape(-1, *grid.rows.shape[1:3])
    errors = np.moveaxis(found, -1, 2).reshape(len(sets), len(rows), -1)[:, : len(which)]
    densities, worst = [], np.zeros(which.max() + 1)
    for course in range(which.max() + 1):
        mine = np.flatnonzero(which == course)
        needed = errors[:, mine].reshape(-1, errors.shape[-1])
        needed = needed.max(axis=0) if share == 1.0 else np.quantile(needed, share, axis=0, method="higher")
        densities.append(_density(rows[mine[0]], needed, most))
        worst[course] = needed.max()
    return densities, worst


def _until_lost(errors: np.ndarray) -> np.ndarray:
    """Errors (group, row, lane) of the typical course, which has to be found: halve the step where it becomes NaN, and
    leave those behind as they are."""
    lost = ~np.isfinite(errors)
    behind = np.maximum.accumulate(lost, axis=1)
    return np.where(lost & (np.cumsum(behind, axis=1) == 1), 1e12, np.where(behind, _SAFETY**-ERROR_ORDER, errors))


def _density(rows: np.ndarray, errors: np.ndarray, most: int) -> Density:
    t, h = rows[:, ROW.index("t")], rows[:, ROW.index("h")]
    moves = h > 0
    if not moves.any():
        return Density(np.array([t[0], t[0] + 1.0]), np.array([1.0]))
    t, h, e = t[moves], h[moves], errors[moves]
    needed = _SAFETY * np.clip(e, 1e-12, 1e12) ** (1 / ERROR_ORDER) / h
    needed = np.minimum(needed, most / (t[-1] + h[-1] - t[0]) + 2.0 / h)
    needed *= min(1.0, most / float(np.sum(needed * h)))  # a course that asks for more is not for fixed steps
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


