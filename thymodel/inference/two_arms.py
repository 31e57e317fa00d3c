"""Tests of a treated arm against a control, of many simulated trials at once. Each gives a Z, positive where more
treated patients reach the endpoint, or sooner; under the null hypothesis near standard normal."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom, norm

TESTS = ("score", "fisher", "logrank")
_FARTHEST = 1e-16  # of a p value: Z stays finite


def score_z(treated: Int[np.ndarray, " trial"], of_treated: int, control: Int[np.ndarray, " trial"],
            of_control: int) -> Float[np.ndarray, " trial"]:
    """Difference of two shares over its standard error with the shares pooled; 0 where nobody or everybody succeeds.

    Source: the score test of Farrington & Manning 1990, Stat Med 9:1447, with margin 0, which is the square root of
    Pearson's chi-square without a correction for continuity.
    """
    pooled = (treated + control) / (of_treated + of_control)
    variance = pooled * (1 - pooled) * (1 / of_treated + 1 / of_control)
    return np.where(variance > 0, (treated / of_treated - control / of_control) / np.sqrt(np.where(
        variance > 0, variance, 1.0)), 0.0)


def fisher_z(treated: Int[np.ndarray, " trial"], of_treated: int, control: Int[np.ndarray, " trial"],
             of_control: int) -> Float[np.ndarray, " trial"]:
    """Fisher's exact test as the Z of its one-sided p, for the side on which the difference lies; a two-sided test
    by it doubles the smaller p. Conservative: Z is never further out than the exact level allows."""
    whole, successes = of_treated + of_control, treated + control
    more = hypergeom.sf(treated - 1, whole, successes, of_treated)
    fewer = hypergeom.cdf(treated, whole, successes, of_treated)
    upper = norm.isf(np.clip(more, _FARTHEST, 1 - _FARTHEST))
    lower = -norm.isf(np.clip(fewer, _FARTHEST, 1 - _FARTHEST))
    return np.where(more <= fewer, np.maximum(upper, 0.0), np.minimum(lower, 0.0))


def logrank_z(times: Float[np.ndarray, "trial subject"], events: Bool[np.ndarray, "trial subject"],
              treated: Bool[np.ndarray, " subject"]) -> Float[np.ndarray, " trial"]:
    """Log-rank test of times to an event, ties by the hypergeometric variance; 0 where there is no event.

    Args:
        times: of the event, or of the end of watching; someone censored at t is at risk of an event at t.

    Source: Mantel 1966, Cancer Chemother Rep 50:163: (O - E)/sqrt(V) of the treated, over the days with events.
    """
    excess, variance = np.zeros(len(times)), np.zeros(len(times))
    for day in np.unique(times[events]):
        at_risk, now = times >= day, events & (times == day)
        n, n1 = at_risk.sum(axis=1), (at_risk & treated).sum(axis=1)
        d, d1 = now.sum(axis=1), (now & treated).sum(axis=1)
        share = n1 / np.maximum(n, 1)
        excess += d1 - d * share
        variance += d * share * (1 - share) * (n - d) / np.maximum(n - 1, 1)
    return np.where(variance > 0, excess / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
