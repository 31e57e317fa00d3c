"""Reconstitution time: when a marker crosses its threshold for good, over a population, with its uncertainty.

A time that is not reached by the horizon is censored there (infinite in these arrays), never dropped: medians and
probabilities count it, and the restricted mean takes the horizon for it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from thymodel.documents.spec import Endpoint

Times = Float[np.ndarray, "draw subject"]


def crossing_times(endpoint: Endpoint, times: Float[np.ndarray, " time"],
                   courses: Float[np.ndarray, "... time"]) -> np.ndarray:
    """Time from the clock's start to the first crossing that lasts, for each course; inf where there is none.

    The course is taken as straight between grid times. A crossing counts if the marker is at or above the threshold
    from there for `sustained_for`, all of it before the horizon; with `after_nadir`, only after the course's lowest
    value between the clock's start and the horizon, so that counts before conditioning are not reconstitution.
    A course that could not be computed (NaN) has no time: NaN here and in every summary of it, never "not reached".
    """
    inside = (times >= endpoint.clock_start) & (times <= endpoint.horizon)
    grid, values = times[inside], courses[..., inside]
    flat = values.reshape(-1, len(grid))
    found = np.where(np.isnan(flat).any(axis=1), np.nan, _first_lasting(endpoint, grid, flat))
    return found.reshape(values.shape[:-1])


def _first_lasting(endpoint: Endpoint, grid: np.ndarray, values: Float[np.ndarray, "course time"]) -> np.ndarray:
    count, columns = len(grid), np.arange(len(grid))
    first = np.argmin(values, axis=1)[:, None] if endpoint.after_nadir else np.zeros((len(values), 1), int)
    above = values >= endpoint.threshold
    before = np.concatenate([np.zeros((len(values), 1), bool), above[:, :-1]], axis=1)
    begins = above & (columns >= first) & (~before | (columns == first))
    crossing = _crossings(endpoint.threshold, grid, values)  # between k and k + 1, where the sides differ
    reached = np.concatenate([np.full_like(values[:, :1], grid[0]), crossing], axis=1)
    start = np.where(columns == first, grid, reached)
    below = np.minimum.accumulate(np.where(above, count, columns)[:, ::-1], axis=1)[:, ::-1]  # next one not above
    exits = np.take_along_axis(np.concatenate([crossing, np.full_like(values[:, :1], grid[-1])], axis=1),
                               np.minimum(below, count) - 1, axis=1)
    lasting = begins & (exits - start >= endpoint.sustained_for)
    k = np.argmax(lasting, axis=1)[:, None]
    time = np.take_along_axis(start, k, axis=1)[:, 0] - endpoint.clock_start
    return np.where(lasting.any(axis=1), time, np.inf)


def _crossings(threshold: float, grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where the straight line from each point to the next meets the threshold; the next point where it does not."""
    step = np.diff(values, axis=1)
    fraction = np.clip((threshold - values[:, :-1]) / np.where(step == 0, 1.0, step), 0.0, 1.0)
    return grid[:-1] + np.where(step == 0, 1.0, fraction) * np.diff(grid)


def quantile_with_never(times: np.ndarray, probability: float, axis: int = -1) -> np.ndarray:
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


def summarise_draws(endpoint: Endpoint, arm: str, times: Times) -> EndpointDraws:
    """Population summaries of an endpoint, draw by draw.

    Args:
        times: crossing times, a row a posterior draw, a column a virtual subject.
    """
    horizon = endpoint.horizon - endpoint.clock_start
    return EndpointDraws(
        endpoint, arm, median=quantile_with_never(times, 0.5),
        probability_by={day: _share(times <= day - endpoint.clock_start, times) for day in endpoint.by},
        never=_share(np.isinf(times), times),
        restricted_mean=np.mean(np.minimum(times, horizon), axis=1),
        spread=np.stack([quantile_with_never(times, q) for q in (0.05, 0.5, 0.95)], axis=1))


def incidence(times: Times, days: Float[np.ndarray, " day"]) -> Float[np.ndarray, "draw day"]:
    """Fraction of subjects that have reached the endpoint by each day after the clock's start, draw by draw."""
    return _share(times[:, :, None] <= days, times[:, :, None])


def _share(condition: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Fraction of subjects (axis 1); NaN where a time is."""
    return np.mean(np.where(np.isnan(times), np.nan, condition), axis=1)
