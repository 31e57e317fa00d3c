"""A coordinate in which the data are equally informative everywhere, where they are not in the one given.

What data say about a scale or a rate often grows tenfold over its posterior: steps short enough for one end are far
too short for the other. v with o = place + log(softplus(rate*v))/rate stretches the informative end: there o grows with
the logarithm of v, at the other end the two are parallel, since there the prior alone, of scale 1, is left.
The map is one to one for every rate but 0, which stands for the identity.

Source: variance-stabilising transformations; Roberts & Rosenthal 2009, J Comput Graph Stat 18:349, for what unequal
scales cost a sampler. The family of maps is this project's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

_LARGEST_RATE = 3.0
_EXPLAINED = 0.5  # of the variance of the log sensitivity, by the map: below that it stays the identity
_LEAST_CHANGE = 0.15  # SD of the log sensitivity over the draws that is worth a map
_SENSITIVITY_FLOOR = 0.3  # curvature below which it counts as the prior's, of about 1


def stretch(v: Float[Array, " n"], rate: Float[Array, " n"], place: Float[Array, " n"]):
    """o, and the log of the map's slope, coordinate by coordinate."""
    safe = jnp.where(rate == 0, 1.0, rate)
    x = safe * v
    logarithm = jnp.where(x < -30.0, x, jnp.log(jax.nn.softplus(jnp.maximum(x, -30.0))))
    o = place + logarithm / safe
    slope = jax.nn.log_sigmoid(x) - logarithm
    return jnp.where(rate == 0, v, o), jnp.where(rate == 0, 0.0, slope)


def unstretch(o: Float[Array, " n"], rate: Float[Array, " n"], place: Float[Array, " n"]) -> Float[Array, " n"]:
    """v of a point o."""
    safe = jnp.where(rate == 0, 1.0, rate)
    x = safe * (o - place)
    size = jnp.exp(x)
    inverse = jnp.where(x < -30.0, x, size + jnp.log(-jnp.expm1(-jnp.where(x < -30.0, 1.0, size))))
    return jnp.where(rate == 0, o, inverse / safe)


def choose_stretch(o: Float[np.ndarray, " point"], curvature: Float[np.ndarray, " point"]) -> tuple[float, float]:
    """Rate and place of the map under which the curvature along a coordinate is about the same everywhere.

    Args:
        o: positions, draws of a pilot.
        curvature: minus the second derivative of the log density along the coordinate at each of them.

    Returns:
        (0, 0), the identity, where the curvature hardly changes or depends on other coordinates rather than on o.
    """
    good = np.isfinite(curvature)
    x, y = o[good], 0.5 * np.log(np.maximum(curvature[good], _SENSITIVITY_FLOOR))
    if len(x) < 10 or x.std() == 0:
        return 0.0, 0.0
    slope = float(np.clip(np.polyfit(x, y, 1)[0], -_LARGEST_RATE, _LARGEST_RATE)) or 0.1
    middle = float(np.median(x))

    def misfit(shape) -> np.ndarray:
        rate, size = shape
        return _log_sensitivity(rate * (x - middle) + size) - y

    bounds = ([-_LARGEST_RATE, -20.0], [_LARGEST_RATE, 20.0])
    found = scipy.optimize.least_squares(misfit, [slope, float(np.mean(y))], bounds=bounds)
    rate, size = found.x
    explained = 1.0 - np.var(found.fun) / np.var(y) if np.var(y) > 0 else 0.0
    if explained < _EXPLAINED or np.std(found.fun + y) < _LEAST_CHANGE or abs(rate) < 1e-3:
        return 0.0, 0.0
    return float(rate), float(middle - size / rate)


def _log_sensitivity(x: np.ndarray) -> np.ndarray:
    """Minus the log slope of the map at o = place + x/rate: log(a/(1 - exp(-a))) with a = exp(x)."""
    a = np.exp(np.minimum(x, 30.0))
    return x - np.log(-np.expm1(-a))
