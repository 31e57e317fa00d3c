"""Counts of an assay, such as TREC copies in a reaction: Poisson, and negative binomial where samples spread more.

The variance is mean + dispersion*mean**2, so that sqrt(dispersion) is the coefficient of variation of the concentration
beyond counting; a dispersion of 0 is Poisson, and every function here goes over into it without a seam.
Source: Lawless 1987, Can J Stat 15:209, eq. 1.1 (mean and dispersion in place of size and probability).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

LEAST_MEAN = 1e-100  # of a course a hair below or at zero: log density and slope stay finite
_SERIES = 0.02  # below it log1p(x)/x - 1 is a series; above it the difference keeps 14 digits
_STIRLING = 32.0  # size 1/dispersion above which the ratio of gamma functions is taken from Stirling's series
_NEGLIGIBLE = -40.0  # log of what a further term adds, relative to the sum
_MOST_TERMS = 200_000  # of a sum over an upper tail


def log_mass(count: Float[Array, " n"], mean: Float[Array, " n"], dispersion: Float[Array, ""]) -> Float[Array, " n"]:
    """Log probability of a count.

    Written as the Poisson term plus two that vanish with the dispersion: no difference of large gamma functions.
    """
    mean = jnp.maximum(mean, LEAST_MEAN)
    poisson = count * jnp.log(mean) - mean - gammaln(count + 1)
    spread = _log_rising(count, dispersion) - count * jnp.log1p(mean * dispersion) - mean * _log1p_rest(
        mean * dispersion)
    return poisson + spread


def _log1p_rest(x):
    """log1p(x)/x - 1."""
    small = jnp.minimum(x, _SERIES)
    series = jnp.zeros_like(small)
    for k in range(11, 1, -1):
        series = small * ((-1.0) ** (k + 1) / k + series)
    large = jnp.maximum(x, _SERIES)
    return jnp.where(x < _SERIES, series, jnp.log1p(large) / large - 1)


def _log_rising(count, dispersion):
    """log of the product of (1 + j*dispersion) over j = 0 .. count - 1, which is Gamma(count + k)/(Gamma(k) k**count).

    Source: Stirling's series, DLMF 5.11.1, whose terms beyond the fifth are below 1e-15 at k = 32.
    """
    few = jnp.maximum(dispersion, 1 / _STIRLING)  # where k = 1/dispersion is small
    direct = gammaln(count + 1 / few) - gammaln(1 / few) + count * jnp.log(few)
    much = jnp.minimum(dispersion, 1 / _STIRLING)
    x = count * much
    rest = _stirling(much / (1 + x)) - _stirling(much)
    asymptotic = (count - 0.5) * jnp.log1p(x) + count * _log1p_rest(x) + rest
    return jnp.where(dispersion > 1 / _STIRLING, direct, asymptotic)


def _stirling(inverse):
    """The correction of log Gamma at 1/inverse."""
    square = inverse**2
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))


# --- ranges --------------------------------------------------------------------------------------------------


def log_below(limit: Float[Array, " n"], mean, dispersion) -> Float[Array, " n"]:
    """log P(count < limit)."""
    return log_range(jnp.zeros_like(limit), jnp.ceil(limit) - 1, mean, dispersion)


def log_above(limit: Float[Array, " n"], mean, dispersion) -> Float[Array, " n"]:
    """log P(count > limit): 1 less the rest where that keeps its digits, else the sum of the tail itself."""
    first = jnp.floor(limit) + 1
    far = first > mean
    tail = log_range(first, jnp.where(far, jnp.inf, -1.0), mean, dispersion)
    rest = log_range(jnp.zeros_like(first), jnp.where(far, 0.0, first - 1), mean, dispersion)
    return jnp.where(far, tail, _log_one_minus(rest))


def _log_one_minus(log_p):
    return jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-15)))


@jax.custom_jvp
def log_range(first: Float[Array, " n"], last: Float[Array, " n"], mean, dispersion) -> Float[Array, " n"]:
    """log P(first <= count <= last), term by term from the ratio of neighbours; -inf where the range is empty.

    `last` may be infinite where `first` is above the mean. The number of terms is that of the longest range, known
    only to the running program; slopes are therefore sums beside it, not a backward pass through it.
    """
    return _sum(first, last, mean, dispersion)


@log_range.defjvp
def _log_range_slope(primals, tangents):
    first, last, mean, dispersion = primals
    mean, dispersion = jnp.broadcast_arrays(jnp.asarray(mean, float), jnp.asarray(dispersion, float))
    mean, dispersion = (jnp.broadcast_to(x, jnp.shape(first)) for x in (mean, dispersion))
    value, by_mean = jax.jvp(lambda m: _sum(first, last, m, dispersion), (mean,), (jnp.ones_like(mean),))
    _, by_dispersion = jax.jvp(lambda a: _sum(first, last, mean, a), (dispersion,), (jnp.ones_like(mean),))
    return value, by_mean * tangents[2] + by_dispersion * tangents[3]


def _sum(first, last, mean, dispersion):
    mean = jnp.maximum(mean, LEAST_MEAN)
    empty = first > last
    start = log_mass(first, mean, dispersion)
    odds = jnp.log(mean) - jnp.log1p(mean * dispersion)

    def wanted(state):
        j, term, total = state
        at = first + j
        open_ended = jnp.isinf(last) & (term - total > _NEGLIGIBLE) & (j < _MOST_TERMS)
        return jnp.any(~empty & (at < last) & (~jnp.isinf(last) | open_ended))

    def add(state):
        j, term, total = state
        at = first + j
        term = term + odds + jnp.log1p(at * dispersion) - jnp.log1p(at)
        return j + 1, term, jnp.where(at < last, jnp.logaddexp(total, term), total)

    _, _, total = jax.lax.while_loop(wanted, add, (jnp.asarray(0.0), start, start))
    return jnp.where(empty, -jnp.inf, total)


def middle_cdf(count, mean, dispersion):
    """P(below count) + P(count)/2: uniform enough for residuals, without the randomness of a randomised one."""
    below = jnp.exp(log_range(jnp.zeros_like(count), count - 1, mean, dispersion))
    return below + 0.5 * jnp.exp(log_mass(count, mean, dispersion))


def deviation(mean, dispersion):
    """Standard deviation of a count."""
    mean = jnp.maximum(mean, LEAST_MEAN)
    return jnp.sqrt(mean + dispersion * mean**2)


@partial(jax.jit, static_argnames="shape")
def draw(mean, dispersion, key, shape: tuple[int, ...]) -> Array:
    """Counts: Poisson around a mean that is itself gamma distributed."""
    mean = jnp.maximum(jnp.broadcast_to(mean, shape), 0.0)
    one, other = jax.random.split(key)
    size = 1 / jnp.maximum(dispersion, 1e-12)
    factor = jnp.where(dispersion > 1e-12, jax.random.gamma(one, size, shape) / size, 1.0)
    return jax.random.poisson(other, mean * factor, shape).astype(float)
