"""Reconstitution time: when a marker crosses its threshold for good, over a population, with its uncertainty.

A time that is not reached by the horizon is censored there (infinite in these arrays), never dropped: medians and
probabilities count it, and the restricted mean takes the horizon for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from thymodel.documents.spec import Endpoint

Times = Float[np.ndarray, "draw subject"]
_AT_ONCE = 1 << 21  # numbers: 17 MB


def crossing_times(endpoint: Endpoint, times: Float[np.ndarray, " time"],
                   courses: Float[np.ndarray, "... time"]) -> np.ndarray:
    """Time from the clock's start to the first crossing that lasts, for each course; inf where there is none.

    The course is taken as straight between grid times. A crossing counts if the marker is at or above the threshold
    from there for `sustained_for`, all of it before the horizon; with `after_nadir`, only after the course's lowest
    value between the clock's start and the horizon, so that counts before conditioning are not reconstitution.
    A course that could not be computed (NaN) has no time: NaN here and in every summary of it, never "not reached".
    A landmark is judged at its one day, the last of the grid up to the horizon.
    """
    inside = (times >= endpoint.clock_start) & (times <= endpoint.horizon)
    if endpoint.landmark:
        inside = times == times[inside][-1]
    grid, values = times[inside], courses[..., inside]
    flat = values.reshape(-1, len(grid))
    found = np.where(np.isnan(flat).any(axis=1), np.nan, _first_lasting(endpoint, grid, flat))
    return found.reshape(values.shape[:-1])


def _first_lasting(endpoint: Endpoint, grid: np.ndarray, values: Float[np.ndarray, "course time"]) -> np.ndarray:
    """Run after run above the threshold, all courses at once, until each has found one that lasts."""
    columns, above = np.arange(len(grid)), values >= endpoint.threshold
    first = np.argmin(values, axis=1) if endpoint.after_nadir else np.zeros(len(values), int)
    found, since, todo = np.full(len(values), np.inf), first.copy(), np.arange(len(values))
    while len(todo):
        begin, some = _next(above[todo] & (columns >= since[todo, None]))
        todo, begin = todo[some], begin[some]
        end, ends = _next(~above[todo] & (columns > begin[:, None]))
        entered = _crossing(endpoint.threshold, grid, values[todo], np.maximum(begin - 1, 0))
        start = np.where(begin == first[todo], grid[begin], entered)
        exit = np.where(ends, _crossing(endpoint.threshold, grid, values[todo], np.maximum(end - 1, 0)), grid[-1])
        lasting = exit - start >= endpoint.sustained_for
        found[todo[lasting]] = start[lasting] - endpoint.clock_start
        since[todo] = end
        todo = todo[ends & ~lasting]
    return found


def _next(condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First column of each row where the condition holds, and whether there is one."""
    place = np.argmax(condition, axis=1)
    return place, condition[np.arange(len(condition)), place]


def _crossing(threshold: float, grid: np.ndarray, values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Where the straight line from point k to the next meets the threshold; the next point where it does not."""
    after, rows = np.minimum(k + 1, len(grid) - 1), np.arange(len(values))
    step = values[rows, after] - values[rows, k]
    fraction = np.clip((threshold - values[rows, k]) / np.where(step == 0, 1.0, step), 0.0, 1.0)
    return grid[k] + np.where(step == 0, 1.0, fraction) * (grid[after] - grid[k])


def quantile_with_never(times: np.ndarray, probability: float | tuple[float, ...], axis: int = -1) -> np.ndarray:
    """Quantile of times of which some are infinite: an order statistic, so no average of a number and infinity."""
    return np.quantile(times, probability, axis=axis, method="inverted_cdf")


@dataclass(frozen=True)
class EndpointDraws:
    """One endpoint in one arm: each array has a value a posterior draw (parameter uncertainty).

    `spread` holds the 5%, 50% and 95% quantiles over subjects (between-subject spread), by draw.
    """

    endpoint: Endpoint
    arm: str
    median: Float[np.ndarray, " draw"]
    probability_by: dict[float, Float[np.ndarray, " draw"]]
    never: Float[np.ndarray, " draw"]
    restricted_mean: Float[np.ndarray, " draw"]
    spread: Float[np.ndarray, "draw quantile"]


class Quantity(NamedTuple):
    """A number of which each posterior draw has one: a row of a table. `unit` says how it is read: "time",
    "probability", "ratio", a dose with its unit, or a difference of one of these."""

    name: str
    values: Float[np.ndarray, " draw"]
    unit: str
    note: str = ""
    contrasted: bool = False  # whether arms are compared by it


def quantities(draws: EndpointDraws, suffix: str = "") -> list[Quantity]:
    """What a table says of an endpoint in one arm; of a landmark, only the share at or above the threshold."""
    endpoint = draws.endpoint
    if endpoint.landmark:
        return [Quantity(f"P(at or above on day {endpoint.horizon:g}){suffix}", draws.probability_by[endpoint.horizon],
                         "probability", contrasted=True)]
    return [Quantity(f"median time{suffix}", draws.median, "time", contrasted=True),
            Quantity(f"restricted mean time{suffix}", draws.restricted_mean, "time", contrasted=True),
            *(Quantity(f"P(by day {day:g}){suffix}", values, "probability", contrasted=True)
              for day, values in draws.probability_by.items()),
            Quantity(f"P(not by day {endpoint.horizon:g}){suffix}", draws.never, "probability")]


def summarise_draws(endpoint: Endpoint, arm: str, times: Times) -> EndpointDraws:
    """Population summaries of an endpoint, draw by draw.

    Args:
        times: crossing times, a row a posterior draw, a column a virtual subject.
    """
    start, horizon = endpoint.clock_start, endpoint.horizon - endpoint.clock_start
    spread = by_draws(lambda some: quantile_with_never(some, (0.05, 0.5, 0.95)).T, times)
    return EndpointDraws(
        endpoint, arm, median=spread[:, 1],
        probability_by={day: by_draws(partial(_share_by, day - start), times) for day in endpoint.by},
        never=by_draws(lambda some: _share(np.isinf(some), some), times),
        restricted_mean=by_draws(lambda some: np.mean(np.minimum(some, horizon), axis=1), times), spread=spread)


def by_draws(summary: Callable[[np.ndarray], np.ndarray], values: Float[np.ndarray, "draw subject"]) -> np.ndarray:
    """A summary of every row, some rows at a time: what it makes on the way does not grow with the number of draws."""
    some = max(_AT_ONCE // max(values.shape[1], 1), 1)
    return np.concatenate([summary(values[k: k + some]) for k in range(0, max(len(values), 1), some)])


def incidence(times: Times, days: Float[np.ndarray, " day"]) -> Float[np.ndarray, "draw day"]:
    """Fraction of subjects that have reached the endpoint by each day after the clock's start, draw by draw."""
    return _share(times[:, :, None] <= days, times[:, :, None])


def _share_by(days: float, times: np.ndarray) -> np.ndarray:
    return _share(times <= days, times)


def _share(condition: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Fraction of subjects (axis 1); NaN where a time is."""
    return np.mean(np.where(np.isnan(times), np.nan, condition), axis=1)
