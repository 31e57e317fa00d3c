"""Are numbers uniform between 0 and 1? Their empirical distribution against simultaneous bands.

The distribution is looked at in POINTS equal steps. All its counts together lie within the bands with a stated
probability, computed exactly, not simulated; the same computation read backwards gives a p value.

Source: Säilynoja, Bürkner & Vehtari 2022, Stat Comput 32:32 (doi:10.1007/s11222-022-10090-6), algorithm 2.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

POINTS = 50  # at least as fine as ranks among so many draws can tell
_SEARCHES = 40  # halvings of the log of a tail probability


def steps() -> Float[np.ndarray, " point"]:
    """Where the distribution is looked at: between the ends, where nothing can differ."""
    return np.arange(1, POINTS) / POINTS


def ranks_below(values: Float[np.ndarray, " value"]) -> Int[np.ndarray, " point"]:
    """How many of the values lie at each step or below it."""
    return np.searchsorted(np.sort(values), steps(), side="right")


def p_value(values: Float[np.ndarray, " value"]) -> float:
    """Probability that so many uniform numbers have a count as unlikely as the unlikeliest of these."""
    tails = _tails(len(values))
    least = tails[np.arange(POINTS - 1), ranks_below(values)].min()
    return max(float(1.0 - _inside(len(values), least)), 0.0)  # below 1e-12 the difference is rounding


def band(number: int, false_alarm: float) -> tuple[Int[np.ndarray, " point"], Int[np.ndarray, " point"]]:
    """Least and largest count at each step; the counts of uniform numbers leave these with at most that probability."""
    return _band(number, float(false_alarm))


@lru_cache(maxsize=64)
def _band(number: int, false_alarm: float):
    low, high = np.log(1e-300), np.log(0.5)
    for _ in range(_SEARCHES):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if 1.0 - _inside(number, np.exp(middle)) <= false_alarm else (low, middle)
    return _allowed(number, np.exp(low))


@lru_cache(maxsize=8)
def _tails(number: int) -> Float[np.ndarray, "point count"]:
    """The smaller of P(so few) and P(so many), for each step and count."""
    count, share = np.arange(number + 1), steps()[:, None]
    return np.minimum(stats.binom.cdf(count, number, share), stats.binom.sf(count - 1, number, share))


def _allowed(number: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """First and last count at each step whose tail is above `least`."""
    likely = _tails(number) > least * (1 + 1e-9)
    return likely.argmax(axis=1), number - likely[:, ::-1].argmax(axis=1)


def _inside(number: int, least: float) -> float:
    """Probability that every count has a tail above `least`: from step to step, those still above are a binomial part
    of the numbers that are left."""
    if (_tails(number) <= least * (1 + 1e-9)).all(axis=1).any():
        return 0.0
    low, high = _allowed(number, least)
    before, chance, share = np.array([0]), np.array([1.0]), 0.0
    for k, now in enumerate(steps()):
        after = np.arange(low[k], high[k] + 1)
        moves = stats.binom.pmf(after[None, :] - before[:, None], number - before[:, None], (now - share) / (1 - share))
        before, chance, share = after, chance @ moves, now
    return float(chance.sum())
