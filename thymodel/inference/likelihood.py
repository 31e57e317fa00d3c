"""Residual error: the log probability of an observation given its prediction, quantified or censored.

All densities are of the observation on its own scale (Jacobians included), so that error models can be compared.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln, log_ndtr
from jaxtyping import Array, Float, Int

from thymodel.documents.spec import ErrorModel


def log_likelihood(error: ErrorModel, sigma: Mapping[str, Array], prediction: Float[Array, " n"],
                   value: Float[Array, " n"], censoring: Int[Array, " n"] | None,
                   limit: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """Log probability of each observation.

    Args:
        sigma: the error model's parameters by their keys (log_sd, additive, proportional).
        prediction: observable, in its unit.
        value: observation; the LLOQ where `censoring` is 1, the upper limit where it is -1.
        censoring: None where every value is quantified, which spares the distribution functions.
        limit: other bound of a censored interval, NaN where there is none; None where no value has one.

    Returns:
        log density where quantified; log P(y < value), log P(y > value) or log P(between) where censored (Beal's M3,
        and M4 when the limit is 0; J Pharmacokinet Pharmacodyn 2001;28:481).
    """
    center, spread, place, log_slope = _standardise(error, sigma, prediction)
    z = (place(value) - center) / spread
    density = _log_density(error, z) - jnp.log(spread) + log_slope(value)
    if censoring is None:
        return density
    beyond = log_cdf(error, censoring * z)
    if limit is not None:
        z_limit = (place(jnp.where(jnp.isnan(limit), 0.0, limit)) - center) / spread
        between = _log_between(error, jnp.minimum(z, z_limit), jnp.maximum(z, z_limit))
        beyond = jnp.where(jnp.isnan(limit), beyond, between)
    return jnp.where(censoring == 0, density, beyond)


def _standardise(error: ErrorModel, sigma: Mapping[str, Array], prediction):
    """Centre and spread on the scale of the error, the map to that scale, and the log of that map's slope."""
    if error.family in ("lognormal", "student_t"):
        tiny = jnp.finfo(float).tiny

        def place(y):
            return jnp.log(jnp.maximum(y + error.offset, tiny))

        # a course computed to a tolerance may be a hair below zero where its true value is zero
        return place(jnp.maximum(prediction, 0.0)), sigma["log_sd"], place, lambda y: -place(y)
    return prediction, _spread(error, sigma, prediction), lambda y: y, lambda y: jnp.zeros_like(y)


def center_and_spread(error: ErrorModel, sigma: Mapping[str, Array], prediction):
    """Where an observation's distribution lies and how wide it is, on the scale of the error (log where it is log)."""
    center, spread, _, _ = _standardise(error, sigma, prediction)
    return center, spread


def _spread(error: ErrorModel, sigma: Mapping[str, Array], prediction):
    if error.family == "additive":
        return sigma["additive"] * jnp.ones_like(prediction)
    if error.family == "proportional":
        return sigma["proportional"] * jnp.abs(prediction)
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


def _log_between(error: ErrorModel, low, high):
    """log(F(high) - F(low)), taken in the tail where the difference keeps its digits."""
    flip = low + high > 0
    a, b = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    log_a, log_b = log_cdf(error, a), log_cdf(error, b)
    gap = jnp.minimum(log_a - log_b, -1e-15)
    return log_b + jnp.log(-jnp.expm1(gap))


def standardised_residuals(error: ErrorModel, sigma: Mapping[str, Array], prediction, value):
    """(observed - predicted)/spread on the scale of the error (IWRES); meaningless where censored."""
    center, spread, place, _ = _standardise(error, sigma, prediction)
    return (place(value) - center) / spread


def draw_observation(error: ErrorModel, sigma: Mapping[str, Array], prediction, key) -> Array:
    """A new observation around the prediction, before any limit of quantification."""
    center, spread, _, _ = _standardise(error, sigma, prediction)
    shape = jnp.shape(prediction)
    noise = jax.random.t(key, error.df, shape) if error.family == "student_t" else jax.random.normal(key, shape)
    drawn = center + spread * noise
    return jnp.exp(drawn) - error.offset if error.family in ("lognormal", "student_t") else drawn
