"""Counts against scipy.stats, and against mpmath where scipy loses its digits; Poisson is the limit without a seam."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from thymodel.documents.measurement import ErrorModel
from thymodel.inference import counts
from thymodel.inference.likelihood import cumulative, draw_observation, log_likelihood, standardised_residuals

pytestmark = pytest.mark.requirement("REQ-INF-01")

FALSE_ALARM = 1e-4
MEANS = np.array([0.3, 5.0, 40.0, 3000.0, 2e5])


def _error(family: str, scale: float = 1.0) -> ErrorModel:
    return ErrorModel("y", family, {}, {}, 0.0, 0.0, scale)


def _exact(count: int, mean: float, dispersion: float) -> float:
    with mpmath.workdps(60):
        k, m = 1 / mpmath.mpf(dispersion), mpmath.mpf(mean)
        return float(mpmath.loggamma(count + k) - mpmath.loggamma(k) - mpmath.loggamma(count + 1)
                     + count * mpmath.log(m / (m + k)) + k * mpmath.log(k / (k + m)))


@pytest.mark.parametrize("dispersion", [1e-12, 1e-6, 1e-3, 0.0312, 0.0313, 0.3, 4.0])
@pytest.mark.parametrize("count", [0, 1, 7, 60, 3000, 150_000])
def test_the_mass_of_a_count_keeps_its_digits_at_every_dispersion(count, dispersion):
    found = counts.log_mass(np.full(5, float(count)), MEANS, dispersion)
    np.testing.assert_allclose(found, [_exact(count, mean, dispersion) for mean in MEANS], rtol=1e-10, atol=1e-10)


def test_no_dispersion_is_poisson():
    number = np.array([0.0, 4.0, 55.0, 3100.0, 199_000.0])
    expected = scipy.stats.poisson(MEANS).logpmf(number)
    largest = np.maximum(scipy.special.gammaln(number + 1), MEANS)  # of the terms whose sum either is
    for found in (counts.log_mass(number, MEANS, 0.0),
                  log_likelihood(_error("poisson"), {}, MEANS, number, None, None)):
        assert np.all(np.abs(np.asarray(found) - expected) <= 8 * np.finfo(float).eps * largest)


def test_the_slope_at_no_dispersion_is_that_of_the_expansion():
    """d log p/d dispersion at 0 is ((y - m)**2 - y)/2: Lawless 1987, the score of overdispersion."""
    number = jnp.array([0.0, 4.0, 55.0])
    slope = jax.vmap(jax.grad(counts.log_mass, argnums=2), in_axes=(0, 0, None))(number, jnp.asarray(MEANS[:3]), 0.0)
    np.testing.assert_allclose(slope, ((number - MEANS[:3]) ** 2 - number) / 2, rtol=1e-9)


@pytest.mark.parametrize("dispersion", [1e-3, 0.3, 4.0])
def test_the_masses_of_all_counts_make_1(dispersion):
    number = np.arange(20_000.0)
    assert np.exp(counts.log_mass(number, 40.0, dispersion)).sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("dispersion", [1e-3, 0.3, 4.0])
def test_censored_counts_agree_with_scipy(dispersion):
    limit = np.array([1.0, 10.0, 30.0, 3500.0, 100_000.0])
    dist = scipy.stats.nbinom(1 / dispersion, 1 / (1 + dispersion * MEANS))
    with np.errstate(divide="ignore"):
        below, above = dist.logcdf(limit - 1), dist.logsf(limit)
    found = np.asarray(counts.log_below(limit, MEANS, dispersion))
    told = below > -600  # where scipy's own distribution function has not underflowed
    assert told.sum() >= 4
    np.testing.assert_allclose(found[told], below[told], rtol=1e-8, atol=1e-10)
    found = np.asarray(counts.log_above(limit, MEANS, dispersion))
    told = above > -600
    assert told.sum() >= 4
    np.testing.assert_allclose(found[told], above[told], rtol=1e-8, atol=1e-10)


def test_limits_and_intervals_of_counts_are_sums_of_masses():
    """With a scale, as data hold them: DV/scale, CENS and LIMIT/scale."""
    error, sigma, prediction = _error("negative_binomial", scale=50.0), {"dispersion": jnp.asarray(0.2)}, 0.3
    value, limit = np.array([10.0, 10.0, 10.0, 12.0]) / 50, np.array([np.nan, 4.0, np.nan, 14.0]) / 50
    censoring = np.array([1, 1, -1, -1])
    found = np.exp(log_likelihood(error, sigma, np.full(4, prediction), value, censoring, limit))
    dist = scipy.stats.nbinom(1 / 0.2, 1 / (1 + 0.2 * 15.0))
    expected = [dist.cdf(9), dist.cdf(9) - dist.cdf(3), dist.sf(10), dist.pmf([13, 14]).sum()]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    both = np.exp(log_likelihood(error, sigma, np.full(4, prediction), value, censoring, None))
    np.testing.assert_allclose(both, [dist.cdf(9), dist.cdf(9), dist.sf(10), dist.sf(12)], rtol=1e-9)


def test_a_limit_that_the_scale_has_rounded_is_still_whole():
    """7 copies at 0.7 uL are 10 copies/uL, and 10*0.7 is 7.000000000000001 or less."""
    for scale in (0.7, 3e-3, 49.0, 1.1):
        error = _error("poisson", scale)
        found = log_likelihood(error, {}, np.array([5 / scale]), np.array([7.0]) / scale, np.array([1]), None)
        assert float(found[0]) == pytest.approx(scipy.stats.poisson(5).logcdf(6), rel=1e-10)


@pytest.mark.parametrize("censoring, limit", [(0, None), (1, None), (-1, None), (1, 3.0)])
def test_slopes_of_counts_are_those_of_central_differences(censoring, limit):
    error = _error("negative_binomial", scale=2.0)
    value = jnp.array([4.0, 20.0, 60.0])
    marks = jnp.full(3, censoring) if censoring else None
    bound = None if limit is None else jnp.full(3, limit)

    def term(mean, dispersion):
        return log_likelihood(error, {"dispersion": dispersion}, mean, value, marks, bound)

    def total(mean, dispersion):
        return jnp.sum(term(mean, dispersion))

    mean, dispersion, step = jnp.array([3.0, 25.0, 40.0]), jnp.asarray(0.3), 1e-5
    by_mean, by_dispersion = jax.jit(jax.grad(total, argnums=(0, 1)))(mean, dispersion)
    expected = (term(mean + step, dispersion) - term(mean - step, dispersion)) / (2 * step)
    np.testing.assert_allclose(by_mean, expected, rtol=1e-6, atol=1e-8)
    expected = (total(mean, dispersion + step) - total(mean, dispersion - step)) / (2 * step)
    assert float(by_dispersion) == pytest.approx(float(expected), rel=1e-6)


def test_counts_at_the_extremes_have_finite_densities_and_slopes():
    error = _error("negative_binomial")
    prediction = jnp.array([0.0, -1e-9, 1e12, 1e-3, 0.0, 50.0, 1e6])
    value, marks = jnp.array([0.0, 5.0, 1e12, 1e6, 10.0, 10.0, 10.0]), jnp.array([0, 0, 0, 0, 1, -1, 1])

    def total(prediction, dispersion):
        return jnp.sum(log_likelihood(error, {"dispersion": dispersion}, prediction, value, marks, None))

    look = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    for dispersion in (0.0, 1e-8, 0.4, 50.0):
        found, slopes = look(prediction, jnp.asarray(dispersion))
        assert np.isfinite(found)
        assert all(np.all(np.isfinite(slope)) for slope in slopes)


@pytest.mark.parametrize("family, dispersion", [("poisson", 0.0), ("negative_binomial", 0.25)])
def test_new_counts_have_the_masses_of_the_model(family, dispersion):
    error, sigma = _error(family, scale=4.0), {"dispersion": jnp.asarray(dispersion)} if dispersion else {}
    drawn = np.asarray(draw_observation(error, sigma, jnp.full(20_000, 2.5), jax.random.key(3))) * 4.0
    assert np.array_equal(drawn, np.round(drawn))
    edges = np.array([-0.5, 3.5, 5.5, 7.5, 9.5, 11.5, 13.5, 17.5, np.inf])
    right = scipy.stats.nbinom(1 / dispersion, 1 / (1 + dispersion * 10)) if dispersion else scipy.stats.poisson(10)
    wrong = scipy.stats.nbinom(1 / 0.2, 1 / (1 + 0.2 * 10))
    seen = np.histogram(drawn, edges)[0]
    assert scipy.stats.chisquare(seen, np.diff(right.cdf(edges)) * len(drawn)).pvalue > FALSE_ALARM
    assert scipy.stats.chisquare(seen, np.diff(wrong.cdf(edges)) * len(drawn)).pvalue < FALSE_ALARM


def test_residuals_of_counts_are_pearsons_and_their_distribution_is_in_the_middle_of_a_step():
    error, sigma = _error("negative_binomial", scale=4.0), {"dispersion": jnp.asarray(0.25)}
    value, prediction = np.array([12.0, 3.0]) / 4, np.array([2.5, 2.5])
    dist = scipy.stats.nbinom(4, 1 / (1 + 2.5))
    np.testing.assert_allclose(standardised_residuals(error, sigma, prediction, value),
                               (np.array([12, 3]) - dist.mean()) / dist.std(), rtol=1e-12)
    np.testing.assert_allclose(cumulative(error, sigma, prediction, value),
                               dist.cdf([12, 3]) - 0.5 * dist.pmf([12, 3]), rtol=1e-10)


def test_mean_and_dispersion_are_found_again_from_counts_with_a_limit():
    """Maximum likelihood from 4,000 counts, those below 8 censored, within four standard errors."""
    error, size, truth = _error("negative_binomial"), 4000, np.array([np.log(15.0), np.log(0.4)])
    drawn = np.asarray(draw_observation(error, {"dispersion": jnp.asarray(0.4)}, jnp.full(size, 15.0),
                                        jax.random.key(8)))
    value, marks = jnp.asarray(np.maximum(drawn, 8.0)), jnp.asarray((drawn < 8).astype(int))

    @jax.jit
    def loss(x):
        sigma = {"dispersion": jnp.exp(x[1])}
        return -jnp.sum(log_likelihood(error, sigma, jnp.full(size, jnp.exp(x[0])), value, marks, None))

    found = scipy.optimize.minimize(jax.jit(jax.value_and_grad(loss)), np.array([2.0, -2.0]), jac=True, method="BFGS")
    errors = np.sqrt(np.diag(np.linalg.inv(np.asarray(jax.hessian(loss)(jnp.asarray(found.x))))))
    assert np.all(np.abs(found.x - truth) < 4 * errors) and np.all(errors < 0.1)
