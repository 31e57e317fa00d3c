"""Rules of dose escalation, played for many trials at once: 3+3 and BOIN.

Every patient has a tolerance, uniform on 0 to 1, and has a dose-limiting toxicity where it is below the probability of
the dose: the same patients come to every rule.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression
from scipy.stats import beta

NONE = -1  # of a selected dose: every dose was too toxic
_SAFE, _TOXIC = 0.6, 1.4  # of the target, as Liu & Yuan recommend
_ELIMINATE = 0.95  # posterior probability of more than the target from which on a dose is given no more
_CERTAIN = 3  # patients before a dose may be eliminated
_CONSIDERED = 0.05  # toxicities, and as many without, added to each dose before doses are compared (Liu & Yuan)


class Escalated(NamedTuple):
    """Of every trial: the dose that is selected (`NONE` where none is), patients and toxicities at each dose."""

    selected: Int[np.ndarray, " trial"]
    patients: Int[np.ndarray, "trial dose"]
    toxicities: Int[np.ndarray, "trial dose"]


def boin_boundaries(target: float) -> tuple[float, float]:
    """Observed shares of toxicities at or below which BOIN goes up, and at or above which it goes down.

    Source: Liu & Yuan 2015, J R Stat Soc C 64:507 (local BOIN, equal prior probabilities of the three hypotheses, with
    0.6 and 1.4 of the target), as the documentation of R's escalation package gives it; the paper was not seen.
    """
    low, high = _SAFE * target, _TOXIC * target
    up = math.log((1 - low) / (1 - target)) / math.log(target * (1 - low) / (low * (1 - target)))
    down = math.log((1 - target) / (1 - high)) / math.log(high * (1 - target) / (target * (1 - high)))
    return up, down


def play_boin(toxicity: Float[np.ndarray, " dose"], tolerance: Float[np.ndarray, "trial patient"], target: float,
              cohort: int) -> Escalated:
    """BOIN from the lowest dose until the patients are used up, or the lowest dose is too toxic.

    A dose at which the target is exceeded with a probability above 0.95 (uniform prior, 3 patients or more) is
    eliminated with all above it. The dose selected is that whose isotonic estimate is nearest to the target, the higher
    of equals below it and the lower above.

    Source: Liu & Yuan 2015, sections 2 and 3; Yuan et al. 2016, Clin Cancer Res 22:4291 (elimination). Neither was
    seen: the rules as the documentation of R's BOIN package describes them.
    """
    up, down = boin_boundaries(target)
    trials, levels = len(tolerance), len(toxicity)
    n, x = np.zeros((trials, levels), int), np.zeros((trials, levels), int)
    dose, ceiling, rows = np.zeros(trials, int), np.full(trials, levels - 1), np.arange(trials)
    for first in range(0, tolerance.shape[1], cohort):
        going = np.flatnonzero(ceiling >= 0)
        now, own = dose[going], tolerance[going, first:first + cohort]
        n[going, now] += own.shape[1]
        x[going, now] += (own < toxicity[now][:, None]).sum(axis=1)
        seen, events = n[going, now], x[going, now]
        over = (beta.sf(target, 1 + events, 1 + seen - events) > _ELIMINATE) & (seen >= _CERTAIN)
        ceiling[going] = np.where(over, now - 1, ceiling[going])
        share = events / seen
        step = np.where(share <= up, 1, np.where(share >= down, -1, 0))
        dose[going] = np.clip(now + step, 0, np.maximum(ceiling[going], 0))
    selected = np.array([_nearest(n[k], x[k], int(ceiling[k]), target) for k in rows])
    return Escalated(selected, n, x)


def _nearest(n: np.ndarray, x: np.ndarray, ceiling: int, target: float) -> int:
    """Among the doses that were given and not eliminated, the one whose estimate is nearest to the target."""
    given = np.flatnonzero((n > 0) & (np.arange(len(n)) <= ceiling))
    if not len(given):
        return NONE
    shares = (x[given] + _CONSIDERED) / (n[given] + 2 * _CONSIDERED)
    estimate = isotonic_regression(shares, weights=n[given] + 2 * _CONSIDERED).x
    away = np.abs(estimate - target)
    nearest = np.flatnonzero(away <= away.min() + 1e-9)
    return int(given[nearest[-1] if estimate[nearest[-1]] < target else nearest[0]])


def play_three_plus_three(toxicity: Float[np.ndarray, " dose"],
                          tolerance: Float[np.ndarray, "trial patient"]) -> Escalated:
    """3+3: up after no toxicity in 3 or one in 6, three more after one in 3, down after two or more; the dose selected
    is the highest with at most one toxicity in 6 patients.

    Args:
        tolerance: of 6 patients a dose or more.

    Source: the rule as Storer 1989, Biometrics 45:925 (design B with de-escalation) and Le Tourneau, Lee & Siu 2009,
    J Natl Cancer Inst 101:708 describe it (neither was seen).
    """
    trials, levels = len(tolerance), len(toxicity)
    n, x = np.zeros((trials, levels), int), np.zeros((trials, levels), int)
    dose, ceiling = np.zeros(trials, int), np.full(trials, levels - 1)
    selected, going = np.full(trials, NONE), np.arange(trials)
    for first in range(0, 6 * levels, 3):
        now, own = dose[going], tolerance[going, first:first + 3]
        n[going, now] += 3
        x[going, now] += (own < toxicity[now][:, None]).sum(axis=1)
        seen, events = n[going, now], x[going, now]
        bad = events >= 2
        ceiling[going] = np.where(bad, now - 1, ceiling[going])
        good = (events == 0) | (seen == 6) & ~bad
        step = np.where(bad, -1, np.where(good & (now < ceiling[going]), 1, 0))
        following = now + step
        held = np.maximum(following, 0)
        over = (following < 0) | (n[going, held] == 6)
        selected[going] = np.where(over & (following >= 0), following, NONE)
        dose[going] = held
        going = going[~over]
        if not len(going):
            break
    return Escalated(selected, n, x)
