"""Random effects between non-centred and centred: coordinates in which their scale and they themselves are untied.

What the data leave open about a subject's eta shrinks as its scale omega grows: were everything normal, with
information i about the effect omega*eta, its SD given omega would be 1/sqrt(1 + i*omega**2). The sampler moves in
c = eta*sqrt(1 + i*omega**2): of unit scale at every omega, centred where the data say much and plain eta where omega is
near zero, so that no funnel opens there. Population coordinates may be stretched besides (see `stretching`). The target
is unchanged: the map is one to one and its Jacobian is included.

Source: Papaspiliopoulos, Roberts & Sköld 2007, Stat Sci 22:59, partially non-centred parametrisations, whose optimal
weight for the normal model this is, at each omega.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.inference.population import Layout, quantiles
from thymodel.inference.sampling import Coordinates, Curvature
from thymodel.inference.stretching import choose_stretch, stretch, unstretch

_MOST_LEARNED = 0.98  # of an eta's variance: what is left is not below the noise of a pilot
_POINTS = 40  # at which the curvature along each population coordinate is looked at


def coordinates(lay: Layout) -> Coordinates:
    """The maps of this file for one layout. Weights: the information about each effect, then rates and places of the
    population coordinates' stretches."""
    blocks = (len(lay.population), len(lay.columns)) if lay.columns else None
    return Coordinates(len(lay.columns) + 2 * len(lay.population), blocks, partial(to_z, lay), partial(from_z, lay),
                       partial(choose_weights, lay))


def centred(lay: Layout) -> Coordinates:
    """The same maps without any stretch: population coordinates stay those of z."""
    weights = partial(np.append, values=np.zeros(2 * len(lay.population)))
    return coordinates(lay)._replace(choose_weights=lambda z, _: weights(informations(lay, z)))


def searched(lay: Layout) -> np.ndarray:
    """Coordinates over which a mode is looked for: not the scales of random and study effects, nor correlations."""
    head = [k for k, name in enumerate(lay.population) if not name.startswith(("omega_", "corr_", "tau_", "gamma_"))]
    return np.array([*head, *range(len(lay.population), lay.size)])


def to_z(lay: Layout, c: Float[Array, " coordinate"], weights: Float[Array, " weight"]):
    """z and the log of the map's Jacobian at c."""
    stretched, etas = _split(lay, c)
    information, rate, place = _parts(lay, weights)
    head, log_slopes = stretch(stretched, rate, place)
    log_widths = _log_widths(lay, head, information)
    z = jnp.concatenate([head, (etas * jnp.exp(log_widths)).reshape(-1)])
    return z, len(lay.subjects) * jnp.sum(log_widths) + jnp.sum(log_slopes)


def from_z(lay: Layout, z: Float[Array, " coordinate"], weights: Float[Array, " weight"]) -> Array:
    """c of a point z."""
    head, etas = _split(lay, z)
    information, rate, place = _parts(lay, weights)
    widths = jnp.exp(_log_widths(lay, head, information))
    return jnp.concatenate([unstretch(head, rate, place), (etas / widths).reshape(-1)])


def _parts(lay: Layout, weights):
    effects, count = len(lay.columns), len(lay.population)
    return weights[:effects], weights[effects: effects + count], weights[effects + count:]


def _split(lay: Layout, x):
    count = len(lay.population)
    return x[:count], x[count:].reshape(len(lay.subjects), len(lay.columns))


def _log_widths(lay: Layout, head, information: Float[Array, " effect"]) -> Float[Array, " effect"]:
    """Log of the SD that an eta would have, given its omega."""
    return -0.5 * jnp.log1p(information * _omegas(lay, head) ** 2)


def _omegas(lay: Layout, head) -> Float[Array, " effect"]:
    """SD of each column; 1 for a missing covariate, whose own spread says the same at every draw but for its prior."""
    names, priors = lay.population, lay.priors
    drawn = [sd for sd in dict.fromkeys(lay.spreads.values()) if sd not in lay.known]
    found = quantiles([priors[sd] for sd in drawn], head[np.array([names.index(sd) for sd in drawn], int)])
    sds = dict(lay.known) | dict(zip(drawn, found, strict=True))
    return jnp.array([*(sds[sd] for sd in lay.spreads.values()), *[1.0] * len(lay.missing)])


def choose_weights(lay: Layout, z: Float[np.ndarray, "draw coordinate"], curvature: Curvature) -> np.ndarray:
    """Centring from pilot draws, then, in the centred coordinates, the stretch of each population coordinate."""
    count = len(lay.population)
    centred = np.concatenate([informations(lay, z), np.zeros(2 * count)])
    some = z[np.unique(np.linspace(0, len(z) - 1, min(_POINTS, len(z))).astype(int))]
    slopes = curvature(some, jnp.asarray(centred), count)
    shapes = [choose_stretch(some[:, k], slopes[:, k]) for k in range(count)]
    rate, place = np.array(shapes).reshape(-1, 2).T
    return np.concatenate([centred[: len(lay.columns)], rate, place])


def informations(lay: Layout, z: Float[np.ndarray, "draw coordinate"]) -> np.ndarray:
    """About each effect, from how much of its etas' prior variance the data took away in a pilot, over its subjects."""
    if not lay.columns or not lay.subjects:
        return np.zeros(len(lay.columns))
    etas = z[:, len(lay.population):].reshape(len(z), len(lay.subjects), len(lay.columns))
    learned = np.clip(1.0 - etas.var(axis=0).mean(axis=0), 0.0, _MOST_LEARNED)
    omegas = np.asarray(jax.vmap(lambda x: _omegas(lay, x[: len(lay.population)]))(jnp.asarray(z)))
    return learned / (1.0 - learned) / np.median(omegas**2, axis=0)
