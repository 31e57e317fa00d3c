"""Differences and ratios of an arm to a reference arm, draw by draw, and intervals where some draws have no answer.

The same virtual subjects are in both arms, so that what differs is the arm. The median time of a draw may not be
reached: infinite in one arm, the difference is infinite; in both, it is not defined. An interval counts such draws: a
quantile is stated only if it is the same whatever they would be.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from thymodel.inference.diagnostics import INTERVAL
from thymodel.results.endpoints import Quantity, quantile_with_never


def decided_quantile(values: Float[np.ndarray, " draw"], probability: float) -> float:
    """Quantile of values of which some are not defined (NaN); NaN where it depends on what they would be."""
    low, high = (quantile_with_never(np.where(np.isnan(values), end, values), probability) for end in (-np.inf, np.inf))
    return float(low) if low == high else float("nan")


def estimate(values: Float[np.ndarray, " draw"]) -> tuple[float, float, float]:
    """Lower bound, median and upper bound over draws."""
    low, middle, high = (decided_quantile(values, q) for q in (INTERVAL[0], 0.5, INTERVAL[1]))
    return low, middle, high


def compare(of: Sequence[Quantity], to: Sequence[Quantity], reference: str) -> list[Quantity]:
    """Differences and ratios of the quantities of one arm to those of another, in the same order.

    Shares not reached (`P(not by ...)`) are left out: they are those of reaching, seen from the other side. A ratio to
    0 is infinite, 0 to 0 is not defined.
    """
    found = []
    for one, other in zip(of, to, strict=True):
        if not one.contrasted:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            difference, ratio = one.values - other.values, one.values / other.values
        note = _unreached(one, other, reference)
        of_ratio = note or _by_zero(one, other, reference)
        found += [Quantity(f"{one.name}, difference from {reference}", difference, f"difference, {one.unit}", note),
                  Quantity(f"{one.name}, ratio to {reference}", ratio, "ratio", of_ratio)]
    return found


def _by_zero(one: Quantity, other: Quantity, reference: str) -> str:
    """In what share of the draws a ratio is to 0, in words; nothing where it never is."""
    none = other.values == 0
    return "" if not none.any() else (f"0 in {reference} in {100 * none.mean():.0f}% of the draws, and here too in "
                                      f"{100 * (none & (one.values == 0)).mean():.0f}%, where this is not defined")


def _unreached(one: Quantity, other: Quantity, reference: str) -> str:
    """In what share of the draws a time is not reached, in words; nothing where it always is."""
    own, its = np.isinf(one.values), np.isinf(other.values)
    if not (own | its).any():
        return ""
    return (f"not reached by the horizon in {100 * own.mean():.0f}% of the draws here, in {100 * its.mean():.0f}% in "
            f"{reference}, in {100 * (own & its).mean():.0f}% in both, where this is not defined")
