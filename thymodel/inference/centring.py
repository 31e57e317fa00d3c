"""Random effects between non-centred and centred: coordinates in which their scale and they themselves are untied.

With few data a subject's eta hardly depends on omega (non-centred is right, weight 0); with many, omega*eta is what the
data fix (centred, weight 1). Each effect gets one weight w between, and the sampler moves in
c = eta*(omega/omega_ref)**w. The target is unchanged: the map is one to one and its Jacobian is included.

Source: Papaspiliopoulos, Roberts & Sköld 2007, Stat Sci 22:59, partially non-centred parametrisation.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.inference.population import Layout, quantiles
from thymodel.inference.sampling import Coordinates

_LARGEST_WEIGHT = 0.8  # full centring meets a funnel if omega is small under some draws
_NEAR_ZERO = 0.25  # an omega whose 5% quantile is below this share of its median may be near zero: not centred


def coordinates(lay: Layout) -> Coordinates:
    """The maps of this file for one layout."""
    blocks = (len(lay.population), len(lay.scales)) if lay.scales else None
    return Coordinates(len(lay.scales), blocks, partial(to_z, lay), partial(from_z, lay), partial(choose_weights, lay))


def to_z(lay: Layout, c: Float[Array, " coordinate"], weights: Float[Array, " effect"]):
    """z and the log of the map's Jacobian at c."""
    head, etas = _split(lay, c)
    ratio = _ratio(lay, head) ** -weights
    z = jnp.concatenate([head, (etas * ratio).reshape(-1)])
    return z, len(lay.subjects) * jnp.sum(jnp.log(ratio))


def from_z(lay: Layout, z: Float[Array, " coordinate"], weights: Float[Array, " effect"]) -> Array:
    """c of a point z."""
    head, etas = _split(lay, z)
    return jnp.concatenate([head, (etas * _ratio(lay, head) ** weights).reshape(-1)])


def _split(lay: Layout, x):
    count = len(lay.population)
    return x[:count], x[count:].reshape(len(lay.subjects), len(lay.scales))


def _ratio(lay: Layout, head) -> Float[Array, " effect"]:
    """omega over its prior median, effect by effect; kept off zero, where the map would break."""
    if not lay.scales:
        return jnp.zeros(0)
    names, priors = lay.population, list(lay.scales.values())
    omegas = jnp.stack(quantiles(priors, head[np.array([names.index(f"omega_{name}") for name in lay.scales])]))
    return jnp.maximum(omegas / jnp.stack(quantiles(priors, jnp.zeros(len(priors)))), 1e-6)


def choose_weights(lay: Layout, z: Float[np.ndarray, "draw coordinate"]) -> np.ndarray:
    """A weight an effect from pilot draws: the share of its etas' prior variance that the data took away."""
    if not lay.scales:
        return np.zeros(0)
    etas = z[:, len(lay.population):].reshape(len(z), len(lay.subjects), len(lay.scales))
    learned = 1.0 - etas.var(axis=0).mean(axis=0)
    ratio = np.asarray(jax.jit(jax.vmap(lambda x: _ratio(lay, x[: len(lay.population)])))(jnp.asarray(z)))
    low, middle = np.quantile(ratio, [0.05, 0.5], axis=0)
    return np.where(low < _NEAR_ZERO * middle, 0.0, np.clip(learned, 0.0, _LARGEST_WEIGHT))
