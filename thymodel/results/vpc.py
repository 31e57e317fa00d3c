"""Visual predictive checks as numbers: quantiles of the study by visit against those of its replicates.

The pool holds the study first and its replicates after it (`inference.checking`); a value below its limit of
quantification is -inf there and counts as such: a quantile that falls among such values is not known and is not shown,
never replaced. Quantiles are order statistics, so that none is an average of a number and of what is not one.
Source: Karlsson & Holford 2008, PAGE 17:1434 (VPC); Bergstrand & Karlsson 2009, AAPS J 11:371 (values below the limit:
quantiles above it, and the fraction below it in a panel of its own).
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from thymodel.documents.spec import Endpoint
from thymodel.inference.checking import Limits, Pool
from thymodel.results.endpoints import crossing_times

QUANTILES = (0.1, 0.5, 0.9)  # of the observations at a visit
BAND = (0.05, 0.5, 0.95)  # over replicates: the middle and an equal-tailed 90% interval
_MOST_BINS = 15
_MOST_TIMES = 400  # distinct times that bins are chosen among
_NOTHING = 1e-9  # of the largest prediction of an observable: below, a prediction cannot be divided by


# --- bins of time --------------------------------------------------------------------------------------------


def time_bins(time: Float[np.ndarray, " record"], subject: Int[np.ndarray, " record"]) -> Int[np.ndarray, " record"]:
    """A bin for each record: as many as a subject has visits (median), cut where the spread within bins is least.

    Source: Lavielle & Bleakley 2011, J Pharmacokinet Pharmacodyn 38:861, eq. 3, solved exactly by dynamic programming.
    """
    visits = [len(np.unique(time[subject == one])) for one in np.unique(subject)]
    times, weights = np.unique(_coarse(time), return_counts=True)
    edges = _cuts(times, weights, min(int(np.median(visits)), _MOST_BINS, len(times)))
    return np.searchsorted(times[edges], _coarse(time), side="right")


def _coarse(time: np.ndarray) -> np.ndarray:
    """Times on a grid so fine that no figure shows it, where there are too many to try them all."""
    if len(np.unique(time)) <= _MOST_TIMES:
        return time
    step = (time.max() - time.min()) / _MOST_TIMES
    return time.min() + step * np.round((time - time.min()) / step)


def _cuts(times: np.ndarray, weights: np.ndarray, bins: int) -> list[int]:
    """First time of each bin but the first one."""
    total = [np.concatenate([[0.0], np.cumsum(weights * times**k)]) for k in range(3)]

    def scatter(first: np.ndarray, end: int) -> np.ndarray:
        """Sum of squares about the mean of the times from `first` up to `end`, exclusive."""
        count, sum_, square = (t[end] - t[first] for t in total)
        return square - sum_**2 / count

    best, origin = np.array([0.0, *(scatter(np.array([0]), end)[0] for end in range(1, len(times) + 1))]), []
    for number in range(1, bins):
        following, begins = np.full(len(times) + 1, np.inf), np.zeros(len(times) + 1, int)
        for end in range(number + 1, len(times) + 1):
            first = np.arange(number, end)
            cost = best[first] + scatter(first, end)
            begins[end] = first[np.argmin(cost)]
            following[end] = cost.min()
        best = following
        origin.append(begins)
    edges, end = [], len(times)
    for begins in reversed(origin):
        end = begins[end]
        edges.append(int(end))
    return edges[::-1]


# --- quantiles by visit --------------------------------------------------------------------------------------


def vpc_cells(pool: Pool, limits: Limits, time: Float[np.ndarray, " record"], bins: Int[np.ndarray, " record"],
              ) -> list[dict[str, Any]]:
    """Rows of a VPC of one observable in one arm, a row a bin of time.

    Returns:
        `time`, median of the records' times; `count`; `observed`, the quantiles of the study; `simulated`, of each
        quantile its band over replicates; `limit`, the highest lower limit there. What lies beyond a limit is None.
        `below` and `below_simulated`: fraction below the limit, and its band.
    """
    return [_cell(pool[:, bins == one], limits.lower[bins == one], time[bins == one]) for one in np.unique(bins)]


def _cell(pool: Pool, lower: np.ndarray, time: np.ndarray) -> dict[str, Any]:
    quantiles = np.quantile(pool, QUANTILES, axis=1, method="inverted_cdf")
    quantiles = np.where(quantiles < lower.max(), -np.inf, quantiles)  # below some records' limit: not known
    below = np.mean(pool == -np.inf, axis=1)
    bands = np.quantile(quantiles[:, 1:], BAND, axis=1, method="inverted_cdf").T
    return {"time": float(np.median(time)), "count": len(time), "observed": _known(quantiles[:, 0]),
            "simulated": [_known(band) for band in bands], "limit": _known(lower.max()), "below": float(below[0]),
            "below_simulated": np.quantile(below[1:], BAND, method="inverted_cdf").tolist()}


def _known(values: Any) -> Any:
    """None where a number lies beyond a limit."""
    found = [float(v) if math.isfinite(v) else None for v in np.atleast_1d(values)]
    return found if np.ndim(values) else found[0]


def prediction_corrected(pool: Pool, limits: Limits, typical: Float[np.ndarray, " record"],
                         bins: Int[np.ndarray, " record"]) -> tuple[Pool, Limits]:
    """Values and limits times the typical prediction of their bin over that of their own record.

    Args:
        typical: prediction for the typical subject with the record's doses and covariates (PRED).

    Source: Bergstrand, Hooker, Wallin & Karlsson 2011, AAPS J 13:143, eq. 1 with a lower bound of 0.
    """
    factor = np.array([np.median(typical[bins == one]) for one in bins]) / typical
    return pool * factor, Limits(limits.lower * factor, limits.upper * factor)


def correctable(typical: Float[np.ndarray, " record"]) -> np.ndarray:
    """Records whose typical prediction can be divided by."""
    return typical > _NOTHING * np.max(np.abs(typical), initial=0.0)


def intervals(pool: Pool, bins: Int[np.ndarray, " record"], time: Float[np.ndarray, " record"],
              ) -> list[dict[str, Any]]:
    """Predictive intervals of one new observation, a row a bin: 50% and 90%, equal-tailed; None beyond a limit."""
    return [{"time": float(np.median(time[bins == one])),
             "quantiles": _known(np.quantile(pool[1:, bins == one], (0.05, 0.25, 0.5, 0.75, 0.95),
                                             method="inverted_cdf"))} for one in np.unique(bins)]


# --- endpoints -----------------------------------------------------------------------------------------------


def observed_crossings(endpoint: Endpoint, time: Float[np.ndarray, " visit"], pool: Float[np.ndarray, "member visit"],
                       limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """When one subject's measurements show the endpoint, of each member of the pool.

    The measurements are joined by straight lines and judged as the endpoint judges a course; the day is that of the
    visit that showed the crossing. A value beyond a limit lies at the limit, and below the threshold where it is below
    its limit.

    Returns:
        days since the clock's start, and whether the endpoint was seen; else the day of the last visit.
    """
    lower = np.minimum(limits.lower, np.nextafter(endpoint.threshold, -np.inf))
    inside = (time >= endpoint.clock_start) & (time <= endpoint.horizon)
    if not inside.any():
        return np.zeros(len(pool)), np.zeros(len(pool), bool)
    values = np.clip(np.where(pool == -np.inf, lower, pool), -np.inf, limits.upper)
    found, visits = crossing_times(endpoint, time, values), time[inside] - endpoint.clock_start
    seen = np.isfinite(found)
    place = np.searchsorted(visits, np.where(seen, found, 0.0) - 1e-9)  # a crossing at a visit is a hair off it
    place += seen & (values[:, inside][np.arange(len(pool)), place] < endpoint.threshold)
    return np.where(seen, visits[place], visits[-1]), seen


def kaplan_meier(days: Float[np.ndarray, "member subject"], seen: np.ndarray,
                 grid: Float[np.ndarray, " day"]) -> Float[np.ndarray, "member day"]:
    """Fraction that has reached an endpoint by each day, subjects who left before counted until then.

    Source: Kaplan & Meier 1958, J Am Stat Assoc 53:457, product-limit estimate.
    """
    at_risk = np.stack([(days >= day).sum(axis=1) for day in grid], axis=1)
    events = np.stack([(seen & (days == day)).sum(axis=1) for day in grid], axis=1)
    return 1 - np.cumprod(1 - events / np.maximum(at_risk, 1), axis=1)
