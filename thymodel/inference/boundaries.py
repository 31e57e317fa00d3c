"""Group-sequential looks: how much of the level is spent by when, and the boundaries that spend it.

The statistic at a look with the share t of the information behaves as Z(t) = B(t)/sqrt(t), B a Brownian motion with
drift: increments are independent, so that what is left inside the boundaries is carried from look to look.
Source: Armitage, McPherson & Rowe 1969, J R Stat Soc A 132:235 (recursive integration); Lan & DeMets 1983, Biometrika
70:659 (spending functions); Jennison & Turnbull 2000, Group Sequential Methods, chapters 7 and 19 (not seen: formulas
as generally given).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import norm

SPENDINGS = ("obrien_fleming", "pocock")

_NODES = 400  # of the quadrature inside the boundaries; with 800 boundaries differ by less than 1e-6
_FARTHEST = 9.0  # a boundary beyond has a probability of 1e-19 and is never crossed


def spent(spending: str, level: float, information: Float[np.ndarray, " look"]) -> Float[np.ndarray, " look"]:
    """Share of the level that may be used up by each look.

    Args:
        level: of one side.
        information: share of the information at hand, above 0 and at most 1.

    Source: Lan & DeMets 1983, of O'Brien-Fleming type 2 - 2*Phi(z_(level/2)/sqrt(t)), of Pocock type
    level*log(1 + (e - 1)*t).
    """
    t = np.asarray(information, float)
    if spending == "obrien_fleming":
        return 2 * norm.sf(norm.isf(level / 2) / np.sqrt(t))
    if spending == "pocock":
        return level * np.log1p((math.e - 1) * t)
    raise ValueError(f"spending '{spending}': one of {', '.join(SPENDINGS)} was expected")


def look_boundaries(information: Sequence[float], level: float, sides: int = 1,
                    spending: str = "obrien_fleming") -> Float[np.ndarray, " look"]:
    """Boundaries for Z at each look; with two sides Z is compared by its size, and either side spends half.

    Args:
        information: shares of the information, ascending, the last 1.
        level: of the whole trial, both sides together.
    """
    t = np.asarray(information, float)
    inside = _Inside(sides)
    found: list[float] = []
    before = 0.0
    for k, cumulative in enumerate(spent(spending, level / sides, t)):
        step, before = cumulative - before, cumulative
        exit_by = inside.next_exit(t[k], 0.0)
        outside = lambda c, step=step, exit_by=exit_by: exit_by(c) - step  # noqa: E731
        never = outside(_FARTHEST) >= 0
        found.append(_FARTHEST if never else float(brentq(outside, -_FARTHEST, _FARTHEST, xtol=1e-10)))
        inside.stop_at(found[-1])
    return np.array(found)


def crossing_probabilities(information: Sequence[float], boundaries: Sequence[float], sides: int = 1,
                           drift: float = 0.0) -> Float[np.ndarray, " look"]:
    """Probability that Z first is at or above the boundary at each look.

    Args:
        sides: with 2, Z at or below minus the boundary stops the trial too, and is not counted here.
        drift: expected Z at full information.
    """
    t, inside, found = np.asarray(information, float), _Inside(sides), []
    for k, boundary in enumerate(boundaries):
        found.append(inside.next_exit(t[k], drift)(boundary))
        inside.stop_at(boundary)
    return np.array(found)


class _Inside:
    """Density of Z on a grid within the boundaries, from look to look; before the first it is a point at 0."""

    def __init__(self, sides: int) -> None:
        self.sides, self.time, self.drift = sides, 0.0, 0.0
        self.points, self.mass = np.zeros(1), np.ones(1)  # of B, not of Z
        self.ahead = 0.0

    def next_exit(self, time: float, drift: float) -> Callable[[float], float]:
        """Upper exit probability at the next look as a function of its boundary for Z."""
        self.ahead, self.drift = time, drift
        center = self.points + drift * (time - self.time)
        spread = math.sqrt(time - self.time)
        return lambda c: float(np.sum(self.mass * norm.sf((c * math.sqrt(time) - center) / spread)))

    def stop_at(self, boundary: float) -> None:
        """Carries what is inside to the look."""
        root = math.sqrt(self.ahead)
        reach = _FARTHEST + abs(self.drift)
        low = -boundary * root if self.sides == 2 else -reach * root
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        middle, half = (low + boundary * root) / 2, (boundary * root - low) / 2
        points = middle + half * nodes
        spread = math.sqrt(self.ahead - self.time)
        center = self.points + self.drift * (self.ahead - self.time)
        density = norm.pdf((points[:, None] - center) / spread) @ self.mass / spread
        self.points, self.mass, self.time = points, density * weights * half, self.ahead
