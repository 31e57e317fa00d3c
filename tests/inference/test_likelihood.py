"""Residual error against scipy.stats where float64 reaches, and against mpmath in the tails beyond."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from thymodel.documents.measurement import ErrorModel
from thymodel.inference.likelihood import cumulative, draw_observation, log_cdf, log_likelihood, standardised_residuals

pytestmark = pytest.mark.requirement("REQ-INF-02", "REQ-INF-01")

FALSE_ALARM = 1e-4  # of each Kolmogorov-Smirnov test; the seed is fixed
MEASURED, BELOW, ABOVE = 0, 1, -1


def _error(family: str, offset: float = 0.0, df: float = 0.0) -> ErrorModel:
    return ErrorModel("y", family, {}, {}, offset, df)


MODELS = {
    "additive": (_error("additive"), {"additive": 3.0}),
    "proportional": (_error("proportional"), {"proportional": 0.2}),
    "combined": (_error("combined"), {"additive": 3.0, "proportional": 0.2}),
    "power": (_error("power"), {"coefficient": 0.5, "exponent": 0.7}),
    "lognormal": (_error("lognormal"), {"log_sd": 0.3}),
    "lognormal with offset": (_error("lognormal", offset=5.0), {"log_sd": 0.3}),
    "student_t": (_error("student_t", df=4.0), {"log_sd": 0.3}),
    "student_t with offset": (_error("student_t", offset=5.0, df=2.5), {"log_sd": 0.3}),
}
PREDICTIONS = np.array([4.0, 40.0, 400.0])


def _scipys(error: ErrorModel, sigma: dict, prediction: np.ndarray):
    """The distribution on the error's scale and the map to that scale, written with scipy alone."""
    if error.family == "additive":
        return scipy.stats.norm(prediction, sigma["additive"]), lambda y: y
    if error.family == "proportional":
        return scipy.stats.norm(prediction, sigma["proportional"] * prediction), lambda y: y
    if error.family == "power":
        return scipy.stats.norm(prediction, sigma["coefficient"] * prediction ** sigma["exponent"]), lambda y: y
    if error.family == "combined":
        spread = np.hypot(sigma["additive"], sigma["proportional"] * prediction)
        return scipy.stats.norm(prediction, spread), lambda y: y
    if error.family == "lognormal":
        return (scipy.stats.lognorm(sigma["log_sd"], scale=prediction + error.offset, loc=-error.offset),
                lambda y: y)
    return (scipy.stats.t(error.df, loc=np.log(prediction + error.offset), scale=sigma["log_sd"]),
            lambda y: np.log(y + error.offset))


def _cases(error: ErrorModel, sigma: dict):
    """Predictions, values, censorings and limits in all combinations, within three spreads of the prediction."""
    dist, place = _scipys(error, sigma, PREDICTIONS)
    rows = []
    for quantile in (0.01, 0.3, 0.5, 0.9, 0.995):
        on_scale = dist.ppf(quantile)
        values = np.exp(on_scale) - error.offset if error.family == "student_t" else on_scale
        for prediction, value in zip(PREDICTIONS, values, strict=True):
            rows += [(prediction, value, MEASURED, np.nan), (prediction, value, BELOW, np.nan),
                     (prediction, value, ABOVE, np.nan), (prediction, value, BELOW, value - 0.4 * abs(value) - 0.1),
                     (prediction, value, ABOVE, value + 0.4 * abs(value) + 0.1)]
    prediction, value, censoring, limit = (np.array(column) for column in zip(*rows, strict=True))
    if error.family in ("lognormal", "student_t"):
        limit = np.maximum(limit, 0.5 * (value - error.offset))  # inside the support
    return prediction, value, censoring.astype(int), limit


@pytest.fixture(scope="module", params=MODELS)
def evaluated(request):
    """A model's cases with log likelihoods and their slopes in prediction and sigma, one compilation a model."""
    error, sigma = MODELS[request.param]
    prediction, value, censoring, limit = _cases(error, sigma)

    def total(prediction, sigma):
        terms = log_likelihood(error, sigma, prediction, jnp.asarray(value), jnp.asarray(censoring), jnp.asarray(limit))
        return jnp.sum(terms), terms

    look = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    wide = {key: np.full(len(value), number) for key, number in sigma.items()}
    return error, sigma, (prediction, value, censoring, limit), wide, look


def test_measured_and_censored_observations_agree_with_scipy(evaluated):
    error, sigma, (prediction, value, censoring, limit), wide, look = evaluated
    dist, place = _scipys(error, sigma, prediction)
    x, x_limit = place(value), place(np.where(np.isnan(limit), value, limit))
    slope = 1 / (value + error.offset) if error.family == "student_t" else 1.0
    none = np.isnan(limit)
    between = np.where(x + x_limit > 2 * dist.median(), np.abs(dist.sf(x) - dist.sf(x_limit)),
                       np.abs(dist.cdf(x) - dist.cdf(x_limit)))
    expected = np.select(
        [censoring == MEASURED, none & (censoring == BELOW), none & (censoring == ABOVE)],
        [dist.logpdf(x) + np.log(slope), dist.logcdf(x), dist.logsf(x)], np.log(np.where(none, 1.0, between)))
    (_, found), _ = look(prediction, wide)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_slopes_are_those_of_central_differences(evaluated):
    _, _, (prediction, *_), wide, look = evaluated
    _, (by_prediction, by_sigma) = look(prediction, wide)
    step = 1e-5

    def difference(up, down):
        return (np.asarray(look(*up)[0][1]) - np.asarray(look(*down)[0][1])) / (2 * step)

    expected = difference((prediction * (1 + step), wide), (prediction * (1 - step), wide)) / prediction
    np.testing.assert_allclose(by_prediction, expected, rtol=1e-6, atol=1e-7)
    for key, values in wide.items():
        up, down = wide | {key: values * (1 + step)}, wide | {key: values * (1 - step)}
        expected = difference((prediction, up), (prediction, down)) / values
        np.testing.assert_allclose(by_sigma[key], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_the_density_above_a_limit_and_the_mass_below_it_make_1(name):
    error, sigma = MODELS[name]
    prediction, limit = 40.0, 30.0

    @jax.jit
    def term(y, censoring):
        return jnp.exp(log_likelihood(error, sigma, jnp.array([prediction]), jnp.reshape(y, (1,)),
                                      jnp.reshape(censoring, (1,)), jnp.array([jnp.nan]))[0])

    if error.family in ("lognormal", "student_t"):  # over log(y + offset), where the tails are short enough
        low, center, top = math.log(limit + error.offset), math.log(prediction + error.offset), np.inf

        def integrand(x):
            y = math.exp(min(x, 600.0)) - error.offset
            return float(term(y, MEASURED)) * (y + error.offset)
    else:
        low, center, top = limit, prediction, prediction + 12 * _spread(error, sigma, prediction)

        def integrand(y):
            return float(term(y, MEASURED))

    near, _ = scipy.integrate.quad(integrand, low, center + 1.0, epsabs=1e-10, epsrel=1e-10)
    far, _ = scipy.integrate.quad(integrand, center + 1.0, top, epsabs=1e-10, epsrel=1e-10)
    assert near + far + float(term(limit, BELOW)) == pytest.approx(1.0, abs=1e-7)
    assert near + far == pytest.approx(float(term(limit, ABOVE)), abs=1e-7)


def _spread(error: ErrorModel, sigma: dict, prediction: float) -> float:
    if "exponent" in sigma:
        return sigma["coefficient"] * prediction ** sigma["exponent"]
    return math.hypot(sigma.get("additive", 0.0), sigma.get("proportional", 0.0) * prediction)


# --- tails ---------------------------------------------------------------------------------------------------


def _log_student(z: float, nu: float) -> float:
    with mpmath.workdps(40):
        x = mpmath.mpf(nu) / (nu + mpmath.mpf(z) ** 2)
        return float(mpmath.log(mpmath.betainc(nu / 2, 0.5, 0, x, regularized=True) / 2))


def _log_normal(z: float) -> float:
    with mpmath.workdps(40):
        return float(mpmath.log(mpmath.erfc(-mpmath.mpf(z) / mpmath.sqrt(2)) / 2))


def _log_cdf(error: ErrorModel, zs: np.ndarray):
    """Values and slopes."""
    return jax.jit(jax.vmap(jax.value_and_grad(partial(log_cdf, error))))(jnp.asarray(zs))


def test_the_normal_distribution_function_holds_far_out_in_the_tail():
    zs = np.array([-1000.0, -200.0, -40.0, -37.0, -20.5, -20.0, -10.0, -5.0, -1.0])
    found, slope = _log_cdf(_error("lognormal"), zs)
    np.testing.assert_allclose(found, [_log_normal(z) for z in zs], rtol=1e-9)
    assert np.all(np.isfinite(slope) & (slope > 0))


@pytest.mark.parametrize("nu", [1.0, 4.0, 30.0, 500.0, 1e4])
def test_the_student_distribution_function_holds_far_out_in_the_tail(nu):
    zs = np.array([-1e8, -1e5, -3000.0, -400.0, -60.0, -39.0, -12.0, -3.0, -0.5])
    found, slope = _log_cdf(_error("student_t", df=nu), zs)
    expected = np.array([_log_student(z, nu) for z in zs])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    log_density = scipy.stats.t(nu).logpdf(zs)
    np.testing.assert_allclose(slope, np.exp(log_density - expected), rtol=1e-6)


@pytest.mark.parametrize("nu", [2.5, 30.0])
def test_the_student_distribution_function_has_its_value_and_slope_around_0(nu):
    zs = np.array([-1e-3, -1e-6, -1e-8, -3e-9, -1e-10, 0.0, 1e-10, 3e-9, 1e-8, 1e-6, 1e-3])
    found, slope = _log_cdf(_error("student_t", df=nu), zs)
    dist = scipy.stats.t(nu)
    np.testing.assert_allclose(found, dist.logcdf(zs), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(slope, dist.pdf(zs) / dist.cdf(zs), rtol=1e-6)


@pytest.mark.parametrize("family, df", [("lognormal", 0.0), ("student_t", 4.0)])
def test_an_observation_at_the_prediction_has_finite_slopes_however_it_is_censored(family, df):
    error, sigma = _error(family, offset=1.0, df=df), {"log_sd": 0.3}
    censoring, limit = jnp.array([0, 1, -1, 1, -1]), jnp.array([jnp.nan, jnp.nan, jnp.nan, 0.0, 80.0])

    def total(prediction):
        return jnp.sum(log_likelihood(error, sigma, prediction, jnp.full(5, 40.0), censoring, limit))

    value, slope = jax.jit(jax.value_and_grad(total))(jnp.full(5, 40.0))
    assert np.isfinite(value) and np.all(np.isfinite(slope))
    assert slope[1] < 0 < slope[2]


@pytest.mark.parametrize("family, df", [("lognormal", 0.0), ("student_t", 4.0)])
def test_an_interval_far_out_in_either_tail_keeps_its_probability(family, df):
    error, sigma = _error(family, df=df), {"log_sd": 0.25}
    exact = _log_normal if family == "lognormal" else partial(_log_student, nu=df)
    below, above = (-18.0, -18.0 + 0.1), (18.0 - 0.1, 18.0)
    value = jnp.exp(0.25 * jnp.array([below[1], above[0]]))
    limit = jnp.exp(0.25 * jnp.array([below[0], above[1]]))
    found = jax.jit(partial(log_likelihood, error))(sigma, jnp.ones(2), value, jnp.array([1, -1]), limit)
    with mpmath.workdps(40):
        expected = float(mpmath.log(mpmath.exp(exact(below[1])) - mpmath.exp(exact(below[0]))))
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-9)


@pytest.mark.parametrize("name", ["lognormal with offset", "student_t with offset"])
def test_a_course_at_or_below_0_leaves_the_likelihood_finite(name):
    error, sigma = MODELS[name]
    value, limit = jnp.array([10.0, 10.0, 20.0]), jnp.full(3, jnp.nan)
    censoring = jnp.array([MEASURED, MEASURED, BELOW])

    def total(prediction):
        return jnp.sum(log_likelihood(error, sigma, prediction, value, censoring, limit))

    found, slope = jax.jit(jax.value_and_grad(total))(jnp.array([0.0, -1e-9, 0.0]))
    assert np.isfinite(found) and np.all(np.isfinite(slope))


@pytest.mark.parametrize("name", ["proportional", "power"])
def test_a_spread_that_vanishes_with_the_course_leaves_the_likelihood_finite(name):
    error, sigma = MODELS[name]
    values = jnp.array([0.0, 10.0, 10.0, 1e12])

    def total(prediction, sigma):
        return jnp.sum(log_likelihood(error, sigma, prediction, values, None, None))

    found, slopes = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(jnp.array([0.0, 0.0, 1e12, 1e12]), sigma)
    assert np.isfinite(found)
    assert all(np.all(np.isfinite(slope)) for slope in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", MODELS)
def test_the_distribution_function_is_scipys(name):
    error, sigma = MODELS[name]
    dist, place = _scipys(error, sigma, PREDICTIONS)
    values = np.array([2.0, 41.0, 900.0])
    np.testing.assert_allclose(cumulative(error, sigma, PREDICTIONS, values), dist.cdf(place(values)), rtol=1e-9)


# --- new observations ----------------------------------------------------------------------------------------


def _surprise(name: str, assumed: ErrorModel) -> float:
    """p of the Kolmogorov-Smirnov test that draws of a model follow the distribution of `assumed`."""
    error, sigma = MODELS[name]
    draws = np.asarray(draw_observation(error, sigma, jnp.full(20_000, 40.0), jax.random.PRNGKey(7)))
    dist, place = _scipys(assumed, sigma, np.asarray(40.0))
    return float(scipy.stats.kstest(place(draws), dist.cdf).pvalue)


@pytest.mark.parametrize("name", MODELS)
def test_new_observations_follow_the_density(name):
    assert _surprise(name, MODELS[name][0]) > FALSE_ALARM


@pytest.mark.parametrize("assumed", [_error("student_t", df=6.0, offset=5.0), _error("student_t", df=2.5, offset=8.0)],
                         ids=["wrong df", "wrong offset"])
def test_the_test_of_new_observations_notices_a_wrong_density(assumed):
    assert _surprise("student_t with offset", assumed) < FALSE_ALARM


@pytest.mark.parametrize("name", MODELS)
def test_residuals_are_standardised_on_the_scale_of_the_error(name):
    error, sigma = MODELS[name]
    dist, _ = _scipys(error, sigma, PREDICTIONS)
    standard = scipy.stats.t(error.df) if error.family == "student_t" else scipy.stats.norm()
    expected = np.array([-1.2, 0.0, 2.5])
    on_scale = dist.ppf(standard.cdf(expected))
    values = np.exp(on_scale) - error.offset if error.family == "student_t" else on_scale
    np.testing.assert_allclose(standardised_residuals(error, sigma, PREDICTIONS, values), expected, atol=1e-9)
