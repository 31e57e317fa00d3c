"""Where to begin: the modes that the first coordinates are laid around, and which chains of a pilot found the mass, or
how much of it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float
from scipy.special import logsumexp

from thymodel.errors import ThymodelError

# searches from draws of the prior, and draws looked at for each. A mode that two searches of three miss is missed by
# all in 1 fit of 58; all of them together take a thirtieth of the pilot's gradients
_TRIED, _LOOKED_AT = 10, 2
_BETTER = 1.0  # log units by which a mode found from elsewhere must exceed the one found from the prior medians
_EDGE = 6.0  # prior standard deviations
_NEVER_SEEN = 10.0  # log units: a region of so much less mass has one draw in 20 000
_CHANCE = 4.0  # standard deviations
_PROPOSALS = 200  # of the normal that a mass is measured against
_SETTLED, _ROUNDS = 1e-6, 1000  # of the bridge's fixed point, log units


class Mode(NamedTuple):
    point: Float[np.ndarray, " coordinate"]
    log_density: float


def find_modes(value_and_grad: Callable, size: int, free: np.ndarray, random: np.random.Generator) -> list[Mode]:
    """Ends of searches from the prior medians and from draws, best first, over `free`, the other coordinates held at 0.

    The scales of random effects are held: with them free the density of a hierarchical model has no useful mode. The
    end of the search from the medians stays first unless another is truly better.

    Raises:
        ThymodelError: the log density is finite neither at the prior medians nor at any draw.
    """
    starts = _starts(value_and_grad, size, free, random)
    if not starts:
        raise ThymodelError("the log density is not finite at the prior medians, nor at draws of the prior: some "
                            "observation is impossible there, or the model cannot be integrated. hint: look at a prior "
                            "predictive simulation")
    first, *others = (climb(value_and_grad, start, free) for start in starts)
    others.sort(key=lambda mode: -mode.log_density)
    better = [mode for mode in others if mode.log_density > first.log_density + _BETTER]
    return [*better, first, *others[len(better):]]


def _starts(value_and_grad, size: int, free: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """The prior medians, and the likelier of every two draws of the prior; those where the density is finite.

    The likeliest of all would lie about one mode, the nearest and not the best.
    """
    draws = np.zeros((_TRIED, _LOOKED_AT, size))
    draws[..., free] = random.standard_normal((_TRIED, _LOOKED_AT, len(free)))
    starts = []
    for few in ([np.zeros(size)], *draws):
        values = [float(value_and_grad(point)[0]) for point in few]
        best = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
        starts += [few[best]] if np.isfinite(values[best]) else []
    return starts


def climb(value_and_grad: Callable, start: np.ndarray, free: np.ndarray, edge: float = _EDGE) -> Mode:
    """The highest point that a search from `start` has met, moving the coordinates `free` within `edge` of 0."""
    best = Mode(start, -np.inf)

    def objective(x: np.ndarray):
        nonlocal best
        point = start.copy()
        point[free] = x
        value, slope = value_and_grad(point)
        value, slope = float(value), np.asarray(slope)[free]
        if not np.isfinite(value) or not np.isfinite(slope).all():
            # worse by what a step may change, and no more: from infinity the search would go back to where it began
            return 1.0 + abs(best.log_density) - best.log_density, np.zeros_like(slope)
        if value > best.log_density:
            best = Mode(point, value)
        return -value, -slope

    scipy.optimize.minimize(objective, start[free], jac=True, method="L-BFGS-B",
                            bounds=[(-edge, edge)] * len(free), options={"maxiter": 300})
    return best


def places_apart(modes: Sequence[Mode], factor: Float[np.ndarray, "coordinate coordinate"]) -> list[np.ndarray]:
    """The first mode, and those others that are no part of it and not too low to hold a share of the mass.

    Chains that begin in each of them do not agree unless they get from one to the other. In the frame a draw is a
    standard normal, whose length is sqrt(coordinates) within a few units.
    """
    reach = np.sqrt(len(factor)) + _CHANCE
    lowest = modes[0].log_density - _least_share(len(factor))
    found: list[np.ndarray] = []
    for mode in modes:
        lengths = [np.linalg.norm(np.linalg.solve(factor, mode.point - other)) for other in found]
        if mode.log_density >= lowest and all(length > reach for length in lengths):
            found.append(mode.point)
    return found


def in_the_mass(z: Float[np.ndarray, "chain draw coordinate"],
                log_density: Float[np.ndarray, "chain draw"]) -> np.ndarray:
    """Which chains of a pilot are where the mass is, and not about a mode that holds next to none of it.

    The log mass about a chain is its mean log density and the entropy of a normal with its standard deviations: the
    density alone would prefer the neck of a funnel.
    """
    with np.errstate(divide="ignore"):  # a chain that never moved covers nothing
        mass = log_density.mean(axis=1) + np.log(z.std(axis=1)).sum(axis=-1)
    return mass >= mass.max() - _least_share(z.shape[-1])


def log_mass(log_density: Callable[[np.ndarray], float], z: Float[np.ndarray, "draw coordinate"],
             values: Float[np.ndarray, " draw"], factor: Float[np.ndarray, "coordinate coordinate"],
             random: np.random.Generator) -> float:
    """Log of the mass about a mode, from draws there and their log densities, by a bridge to the normal N(mean, F F').

    Within some log units where the normal is a poor likeness in many coordinates: enough to tell a mode that matters
    from one that does not.

    Source: Meng & Wong 1996 (Stat Sinica 6:831), the optimal bridge, in logarithms as in Gronau et al. 2017
    (J Math Psychol 81:80, appendix).
    """
    mean, size = z.mean(axis=0), z.shape[1]
    constant = np.linalg.slogdet(factor)[1] + 0.5 * size * np.log(2 * np.pi)

    def above_normal(points: np.ndarray, log_densities: np.ndarray) -> np.ndarray:
        u = np.linalg.solve(factor, (points - mean).T)
        return log_densities + 0.5 * (u**2).sum(axis=0) + constant

    proposed = mean + random.standard_normal((_PROPOSALS, size)) @ factor.T
    there = above_normal(proposed, np.array([float(log_density(point)) for point in proposed]))
    here, there = above_normal(z, values), np.where(np.isfinite(there), there, -np.inf)
    share = np.log(len(z) / (len(z) + _PROPOSALS)), np.log(_PROPOSALS / (len(z) + _PROPOSALS))
    mass = float(np.median(here))
    for _ in range(_ROUNDS):
        above = logsumexp(there - np.logaddexp(share[0] + there, share[1] + mass)) - np.log(_PROPOSALS)
        below = logsumexp(-np.logaddexp(share[0] + here, share[1] + mass)) - np.log(len(z))
        last, mass = mass, float(above - below)
        if not abs(mass - last) > _SETTLED:
            break
    return mass


def _least_share(size: int) -> float:
    """Log units by which a region with a share of the draws can seem to hold less mass than another.

    By chance the log density of a draw differs from the next one's with a standard deviation of sqrt(coordinates / 2).
    """
    return _NEVER_SEEN + _CHANCE * np.sqrt(size / 2)
