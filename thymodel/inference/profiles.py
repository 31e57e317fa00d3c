"""Profile of the log density over one coordinate: all others, random effects among them, at their best for each value.

The coordinate's own prior is taken out of its profile, so that "flat" means that the data (and the priors of the
others) do not care. Spreads of random effects and their correlations are held at the prior's median: with them free
the joint density only says that random effects like to be small. Source: Raue et al. 2009, Bioinformatics 25:1923, for
verdicts by the profile's threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float

from thymodel.errors import SolveError
from thymodel.inference.population import quantile
from thymodel.inference.posterior import Posterior

HELD = ("omega_", "corr_", "tau_", "gamma_")
REACH = 3.0  # prior standard deviations to either side
_POINTS = 13
THRESHOLD = float(scipy.stats.chi2.ppf(0.95, 1) / 2)  # log units: a 95% interval of one parameter
_ITERATIONS = 200
_BOUND = 8.0  # prior standard deviations for the coordinates that are maximised over


@dataclass(frozen=True)
class Profile:
    """Log density less its maximum along `z` (prior standard deviations) and `values` of a parameter.

    `verdict`: bounded; one-sided (open towards higher or lower values, as far as the prior reaches); flat.
    """

    name: str
    z: Float[np.ndarray, " point"]
    values: Float[np.ndarray, " point"]
    drop: Float[np.ndarray, " point"]
    verdict: str


def profile(posterior: Posterior, name: str) -> Profile:
    """The profile of one typical value, covariate effect or error.

    Raises:
        SolveError: the density is not finite at the prior medians.
    """
    lay = posterior.layout
    place = lay.population.index(name)
    value_and_grad = jax.jit(jax.value_and_grad(posterior.density))
    prior = {**lay.estimate, **{f"beta_{key}": p for key, p in lay.effects.items()}, **lay.errors}[name]
    held = {k for k, other in enumerate(lay.population) if other.startswith(HELD)}
    free = np.array([k for k in range(lay.size) if k not in held | {place}], int)

    def density(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = value_and_grad(jnp.asarray(z), posterior.data)
        return float(value), np.asarray(slope)

    if not np.isfinite(density(np.zeros(lay.size))[0]):
        raise SolveError("all", posterior.spec.model.start, "the log density is not finite at the prior medians")
    grid = np.linspace(-REACH, REACH, _POINTS)
    heights = profile_heights(density, place, free, grid, lay.size)
    drop = heights - heights.max()
    values = np.array([float(quantile(prior, z)) for z in grid])
    return Profile(name, grid, values, drop, verdict(drop))


def profile_heights(density: Callable[[np.ndarray], tuple[float, np.ndarray]], place: int, free: np.ndarray,
                    grid: np.ndarray, size: int) -> np.ndarray:
    """Greatest log density over the `free` coordinates at each grid value of one, without that one's own standard
    normal prior; what is neither stays at 0.

    From the middle of the grid outwards, each search from where the last one ended, and then back, which repairs
    searches that ended short.
    """
    middle = int(np.argmin(np.abs(grid)))
    points: dict[int, np.ndarray] = {}
    heights = np.full(len(grid), -np.inf)
    outward = [*range(middle, len(grid)), *range(middle - 1, -1, -1)]
    for k in [*outward, *reversed(outward)]:
        for start in _starts(points, k, size):
            point, height = _climb(density, place, free, grid[k], start)
            if height > heights[k]:
                heights[k], points[k] = height, point
    return heights + 0.5 * grid**2


def _starts(points: dict[int, np.ndarray], k: int, size: int) -> list[np.ndarray]:
    near = [points[j] for j in (k - 1, k + 1) if j in points]
    return near or [np.zeros(size)]


def _climb(density, place: int, free: np.ndarray, value: float, start: np.ndarray) -> tuple[np.ndarray, float]:
    best = (start, -np.inf)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        point = start.copy()
        point[place], point[free] = value, x
        height, slope = density(point)
        if not np.isfinite(height) or not np.isfinite(slope).all():
            return 1.0 + abs(best[1]) - best[1] if np.isfinite(best[1]) else 1e10, np.zeros(len(x))
        if height > best[1]:
            best = (point, height)
        return -height, -slope[free]

    if not len(free):
        objective(start[free])
        return best
    scipy.optimize.minimize(objective, start[free], jac=True, method="L-BFGS-B",
                            bounds=[(-_BOUND, _BOUND)] * len(free), options={"maxiter": _ITERATIONS})
    return best


def verdict(drop: Sequence[float] | np.ndarray) -> str:
    """What a profile says, from its drops along ascending values."""
    drop = np.asarray(drop)
    best = int(np.argmax(drop))
    below, above = np.any(drop[:best] < -THRESHOLD), np.any(drop[best + 1:] < -THRESHOLD)
    if below and above:
        return "bounded"
    if not below and not above:
        return "flat"
    return "one-sided: open towards higher values" if below else "one-sided: open towards lower values"
