"""Residual error: the log probability of an observation given its prediction, quantified or censored.

All densities are of the observation in the observable's unit (Jacobians included), so that error models can be
compared; a count has a probability instead. Here is each error model's one definition: density, distribution, draw
and residual; `visits` correlates them within a visit, `counts` has the arithmetic of counts.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln, log_ndtr
from jaxtyping import Array, Float, Int

from thymodel.documents.measurement import COUNTS, ON_LOG_SCALE, ErrorModel
from thymodel.inference import counts

_LEAST = 1e-60  # of a prediction whose power is a spread: log density and slope stay finite at a prediction of zero


def log_likelihood(error: ErrorModel, sigma: Mapping[str, Array], prediction: Float[Array, " n"],
                   value: Float[Array, " n"], censoring: Int[Array, " n"] | None,
                   limit: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """Log probability of each observation.

    Args:
        sigma: the error model's parameters by their keys (log_sd, additive, proportional, ...).
        prediction: observable, in its unit.
        value: observation; the LLOQ where `censoring` is 1, the upper limit where it is -1.
        censoring: None where every value is quantified, which spares the distribution functions.
        limit: other bound of a censored interval, NaN where there is none; None where no value has one.

    Returns:
        log density where quantified; log P(y < value), log P(y > value) or log P(between) where censored (Beal's M3,
        and M4 when the limit is 0; J Pharmacokinet Pharmacodyn 2001;28:481).
    """
    if error.family in COUNTS:
        return _log_count(error, sigma, prediction, value, censoring, limit)
    center, spread, place, log_slope = standardise(error, sigma, prediction)
    z = (place(value) - center) / spread
    density = _log_density(error, z) - jnp.log(spread) + log_slope(value)
    if censoring is None:
        return density
    beyond = log_cdf(error, censoring * z)
    if limit is not None:
        z_limit = (place(jnp.where(jnp.isnan(limit), 0.0, limit)) - center) / spread
        between = log_between(error, jnp.minimum(z, z_limit), jnp.maximum(z, z_limit))
        beyond = jnp.where(jnp.isnan(limit), beyond, between)
    return jnp.where(censoring == 0, density, beyond)


def standardise(error: ErrorModel, sigma: Mapping[str, Array], prediction):
    """Centre and spread on the scale of the error, the map to that scale, and the log of that map's slope."""
    if error.family in ON_LOG_SCALE:
        tiny = jnp.finfo(float).tiny

        def place(y):
            return jnp.log(jnp.maximum(y + error.offset, tiny))

        # a course computed to a tolerance may be a hair below zero where its true value is zero
        return place(jnp.maximum(prediction, 0.0)), sigma["log_sd"], place, lambda y: -place(y)
    return prediction, _spread(error, sigma, prediction), lambda y: y, lambda y: jnp.zeros_like(y)


def center_and_spread(error: ErrorModel, sigma: Mapping[str, Array], prediction):
    """Where an observation's distribution lies and how wide it is, on the scale of the error (log where it is log)."""
    center, spread, _, _ = standardise(error, sigma, prediction)
    return center, spread


def _spread(error: ErrorModel, sigma: Mapping[str, Array], prediction):
    if error.family == "additive":
        return sigma["additive"] * jnp.ones_like(prediction)
    if error.family == "proportional":
        return sigma["proportional"] * jnp.maximum(jnp.abs(prediction), _LEAST)
    if error.family == "power":
        return sigma["coefficient"] * jnp.maximum(jnp.abs(prediction), _LEAST) ** sigma["exponent"]
    return jnp.sqrt(sigma["additive"] ** 2 + (sigma["proportional"] * prediction) ** 2)


def _log_density(error: ErrorModel, z):
    if error.family != "student_t":
        return -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi)
    return _log_student_density(z, error.df)


def _log_student_density(z, nu: float):
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * jnp.pi)
    return constant - 0.5 * (nu + 1) * jnp.log1p(z**2 / nu)


def log_cdf(error: ErrorModel, z):
    """Log of the standardised distribution function, accurate in the lower tail."""
    return log_ndtr(z) if error.family != "student_t" else _log_student_cdf(z, error.df)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_student_cdf(z, nu: float):
    """Source: DLMF 8.17 / Abramowitz & Stegun 26.7.1: P(T < -|t|) = I_{nu/(nu + t^2)}(nu/2, 1/2)/2.

    The slope is given apart, as density over probability: that of the incomplete beta function is infinite at z = 0.
    """
    tail = 0.5 * betainc(nu / 2, 0.5, nu / (nu + z**2))
    lower = jnp.where(tail > 1e-290, jnp.log(tail), _log_student_far_tail(z, nu))
    return jnp.where(z < 0, lower, jnp.log1p(-tail))


@_log_student_cdf.defjvp
def _log_student_cdf_slope(nu: float, primals, tangents):
    (z,), (tangent,) = primals, tangents
    value = _log_student_cdf(z, nu)
    return value, jnp.exp(_log_student_density(z, nu) - value) * tangent


def _log_student_far_tail(z, nu: float):
    """log P(T < -|z|) where the probability itself underflows; there eight terms of the fraction are plenty.

    Source: the continued fraction of the incomplete beta function, DLMF 8.17.22.
    """
    a, b, x = nu / 2, 0.5, nu / (nu + z**2)
    fraction = jnp.ones_like(x)
    for m in range(3, -1, -1):
        even = (m + 1) * (b - m - 1) / ((a + 2 * m + 1) * (a + 2 * m + 2))
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + odd * x / (1 + even * x / fraction)
    log_beta = gammaln(a) + gammaln(b) - gammaln(a + b)
    return -a * jnp.log1p(z**2 / nu) + b * jnp.log1p(-x) - jnp.log(a) - log_beta - jnp.log(fraction) - jnp.log(2.0)


def log_between(error: ErrorModel, low, high):
    """log(F(high) - F(low)), taken in the tail where the difference keeps its digits."""
    flip = low + high > 0
    a, b = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    log_a, log_b = log_cdf(error, a), log_cdf(error, b)
    gap = jnp.minimum(log_a - log_b, -1e-15)
    return log_b + jnp.log(-jnp.expm1(gap))


def standardised_residuals(error: ErrorModel, sigma: Mapping[str, Array], prediction, value):
    """(observed - predicted)/spread on the scale of the error (IWRES; Pearson's residual of a count); meaningless where
    censored."""
    if error.family in COUNTS:
        mean = error.scale * prediction
        return (error.scale * value - mean) / counts.deviation(mean, _dispersion(sigma))
    center, spread, place, _ = standardise(error, sigma, prediction)
    return (place(value) - center) / spread


def cumulative(error: ErrorModel, sigma: Mapping[str, Array], prediction, value):
    """P(observation below `value`), and half of P(observation = value) where it is a count: for residuals that are
    uniform when the model is true."""
    if error.family in COUNTS:
        return counts.middle_cdf(_counted(error, value), error.scale * prediction, _dispersion(sigma))
    return jnp.exp(log_cdf(error, standardised_residuals(error, sigma, prediction, value)))


def draw_observation(error: ErrorModel, sigma: Mapping[str, Array], prediction, key) -> Array:
    """A new observation around the prediction, in the observable's unit, before any limit of quantification."""
    shape = jnp.shape(prediction)
    if error.family in COUNTS:
        return counts.draw(error.scale * prediction, _dispersion(sigma), key, shape) / error.scale
    noise = jax.random.t(key, error.df, shape) if error.family == "student_t" else jax.random.normal(key, shape)
    return observation(error, sigma, prediction, noise)


def observation(error: ErrorModel, sigma: Mapping[str, Array], prediction, residual):
    """The observation whose standardised residual this is."""
    center, spread, _, _ = standardise(error, sigma, prediction)
    drawn = center + spread * residual
    return jnp.exp(drawn) - error.offset if error.family in ON_LOG_SCALE else drawn


# --- counts --------------------------------------------------------------------------------------------------


def _dispersion(sigma: Mapping[str, Array]):
    return sigma.get("dispersion", jnp.asarray(0.0))


def _counted(error: ErrorModel, value):
    """A value as the assay counted it: whole where it was, but for the rounding of the scale."""
    number = error.scale * value
    return jnp.where(jnp.abs(number - jnp.round(number)) < 1e-6 * jnp.maximum(number, 1.0), jnp.round(number), number)


def _log_count(error: ErrorModel, sigma, prediction, value, censoring, limit):
    """Log probability of a count, below a limit, above one, or from one up to the other."""
    mean, dispersion, number = error.scale * prediction, _dispersion(sigma), _counted(error, value)
    if censoring is None:
        return counts.log_mass(number, mean, dispersion)
    density = counts.log_mass(jnp.round(number), mean, dispersion)
    beyond = jnp.where(censoring > 0, counts.log_below(jnp.where(censoring > 0, number, 1.0), mean, dispersion),
                       counts.log_above(jnp.where(censoring < 0, number, 0.0), mean, dispersion))
    if limit is not None:
        other = _counted(error, jnp.where(jnp.isnan(limit), value, limit))
        first = jnp.where(censoring > 0, jnp.ceil(other), jnp.floor(number) + 1)
        last = jnp.where(censoring > 0, jnp.ceil(number) - 1, jnp.floor(other))
        beyond = jnp.where(jnp.isnan(limit), beyond, counts.log_range(first, last, mean, dispersion))
    return jnp.where(censoring == 0, density, beyond)
