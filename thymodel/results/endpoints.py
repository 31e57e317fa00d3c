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
    """
    inside = (times >= endpoint.clock_start) & (times <= endpoint.horizon)
    grid, values = times[inside], courses[..., inside]
    flat = values.reshape(-1, len(grid))
    found = np.array([_crossing(endpoint, grid, course) for course in flat])
    return found.reshape(values.shape[:-1])


def _crossing(endpoint: Endpoint, grid: np.ndarray, course: np.ndarray) -> float:
    first = int(np.argmin(course)) if endpoint.after_nadir else 0
    above = course >= endpoint.threshold
    begins = np.flatnonzero(above & ~np.concatenate([[False], above[:-1]]))
    begins = begins if endpoint.after_nadir is False or not above[first] else np.append(first, begins)
    for k in np.unique(begins[begins >= first]):
        start = grid[k] if k == first else _between(endpoint.threshold, grid, course, k - 1)
        below = np.flatnonzero(~above[k:])
        until = _between(endpoint.threshold, grid, course, k + below[0] - 1) if len(below) else grid[-1]
        if until - start >= endpoint.sustained_for:
            return float(start - endpoint.clock_start)
    return np.inf


def _between(threshold: float, grid: np.ndarray, course: np.ndarray, k: int) -> float:
    """Where the straight line from point k to k + 1 meets the threshold."""
    fraction = (threshold - course[k]) / (course[k + 1] - course[k])
    return float(grid[k] + fraction * (grid[k + 1] - grid[k]))


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
        probability_by={day: np.mean(times <= day - endpoint.clock_start, axis=1) for day in endpoint.by},
        never=np.mean(np.isinf(times), axis=1),
        restricted_mean=np.mean(np.minimum(times, horizon), axis=1),
        spread=np.stack([quantile_with_never(times, q) for q in (0.05, 0.5, 0.95)], axis=1))


def incidence(times: Times, days: Float[np.ndarray, " day"]) -> Float[np.ndarray, "draw day"]:
    """Fraction of subjects that have reached the endpoint by each day after the clock's start, draw by draw."""
    return np.mean(times[:, :, None] <= days, axis=1)
