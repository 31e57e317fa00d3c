"""Priors as maps from a standard normal, correlations against the LKJ density, and each subject's parameters."""

import math
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats

from thymodel.documents.priors import in_scipy, parse_prior, support
from thymodel.documents.spec import load_fit_spec
from thymodel.dynamics import symbolic
from thymodel.inference.population import (
    Layout,
    correlation_factor,
    layout,
    log_prior,
    population_values,
    quantile,
    random_effects,
    subject_values,
)

pytestmark = pytest.mark.requirement("REQ-INF-06", "REQ-MOD-07")

Z = np.linspace(-6.0, 6.0, 241)
RELATIVE = 1e-9
ROUNDING = 4e-16  # absolute, in units of the prior's width: a probability next to 1 has no more digits
WHOLE = [
    "lognormal(median=0.1, sd=0.7)", "normal(mean=-3, sd=2)", "halfnormal(sd=0.5)", "halfcauchy(scale=2)",
    "exponential(mean=3)", "uniform(lower=-2, upper=5)",
]
TRUNCATED = [
    "truncnormal(mean=1, sd=2, lower=0, upper=inf)",  # cut in the lower half
    "truncnormal(mean=-4, sd=1, lower=0, upper=inf)",  # only the upper tail is left
    "truncnormal(mean=9, sd=1, lower=-inf, upper=2)",  # only the lower tail is left
    "truncnormal(mean=0, sd=1, lower=-8, upper=9)",  # hardly cut
]
PRIORS = [*WHOLE, *TRUNCATED, "logitnormal(median=0.2, sd=1.5)"]


@cache
def _map(text: str):
    prior = parse_prior(text)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda z: quantile(prior, z))))(jnp.asarray(Z))
    return prior, np.asarray(values), np.asarray(slopes)


@pytest.mark.parametrize("text", WHOLE)
def test_a_prior_is_the_quantile_function_after_the_normal_distribution(text):
    prior, values, slopes = _map(text)
    scipys = in_scipy(prior)
    # the smaller of the two tail probabilities, which is the one that has its digits
    expected = np.where(Z < 0, scipys.ppf(scipy.stats.norm.cdf(Z)), scipys.isf(scipy.stats.norm.sf(Z)))
    width = scipys.ppf(0.75) - scipys.ppf(0.25)
    np.testing.assert_allclose(values, expected, rtol=RELATIVE, atol=ROUNDING * width)


@pytest.mark.parametrize("text", TRUNCATED)
def test_a_truncated_normal_has_the_probability_of_z_below_it(text):
    """In 50 digits: scipy's own quantiles are wrong in the eighth digit where a truncated tail is far out."""
    prior, values, _ = _map(text)
    n = prior.numbers
    rounding = ROUNDING * max(abs(n[key]) for key in n if math.isfinite(n[key]))
    with mpmath.workdps(50):
        low, high = (mpmath.ncdf((n[key] - n["mean"]) / n["sd"]) for key in ("lower", "upper"))
        for z, value in zip(Z[::20], values[::20], strict=True):
            wanted = low + mpmath.ncdf(z) * (high - low)
            place = (mpmath.mpf(value) - n["mean"]) / n["sd"]
            error = float((mpmath.ncdf(place) - wanted) / mpmath.npdf(place) * n["sd"])
            assert abs(error) < RELATIVE * abs(value) + 2 * rounding, z


@pytest.mark.parametrize("text", PRIORS)
def test_a_prior_rises_with_a_finite_slope(text):
    _, values, slopes = _map(text)
    assert np.all(np.diff(values) > 0)
    assert np.all(np.isfinite(slopes) & (slopes > 0))


def test_a_logitnormal_has_a_normal_logit():
    _, values, _ = _map("logitnormal(median=0.2, sd=1.5)")
    np.testing.assert_allclose(values, scipy.special.expit(scipy.special.logit(0.2) + 1.5 * Z), rtol=RELATIVE)


@pytest.mark.parametrize("text", PRIORS)
def test_a_prior_stays_inside_its_support(text):
    prior, values, _ = _map(text)
    low, high = support(prior)
    assert low <= values.min() and values.max() <= high


@pytest.mark.parametrize("text", PRIORS)
def test_the_slope_of_a_prior_is_the_ratio_of_the_densities(text):
    prior, values, slopes = _map(text)
    near = np.abs(Z) < 4
    if prior.family == "logitnormal":
        expected = prior.numbers["sd"] * values * (1 - values)
    else:
        expected = scipy.stats.norm.pdf(Z) / in_scipy(prior).pdf(values)
    np.testing.assert_allclose(slopes[near], expected[near], rtol=1e-7)


# --- correlations --------------------------------------------------------------------------------------------


def _correlated(size: int, shape: float) -> Layout:
    names = tuple("abcd"[:size])
    scale = parse_prior("halfnormal(sd=1)")
    return Layout({}, {name: scale for name in names}, names, shape, {}, {}, ())


def _log_lkj(matrix: np.ndarray, shape: float) -> float:
    """Source: Lewandowski, Kurowicka & Joe 2009, J Multivar Anal 100:1989, eq 15 and 16."""
    d = len(matrix)
    log_constant = 0.0
    for k in range(1, d):
        b = shape + 0.5 * (d - k - 1)
        log_constant += (2 * shape - 2 + d - k) * (d - k) * math.log(2) + (d - k) * scipy.special.betaln(b, b)
    return (shape - 1) * np.linalg.slogdet(matrix)[1] - log_constant


def test_the_lkj_constant_of_the_test_is_the_volume_of_the_3_by_3_correlation_matrices():
    assert math.exp(-_log_lkj(np.eye(3), 1.0)) == pytest.approx(math.pi**2 / 2)


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_coordinates_of_correlations_have_the_lkj_density(size, shape):
    lay, pairs = _correlated(size, shape), size * (size - 1) // 2

    def full(x):
        return jnp.zeros(lay.size).at[size:size + pairs].set(x)

    def entries(x):
        values = population_values(lay, full(x))
        return jnp.stack([values[f"corr_{a}_{b}"] for a, b in lay.correlations])

    @jax.jit
    def look(x):
        return log_prior(lay, full(x)), entries(x), correlation_factor(lay, dict(zip(lay.population, full(x),
                                                                                      strict=False)))

    for x in np.random.default_rng(1).normal(scale=0.8, size=(3, pairs)):
        density, found, factor = (np.asarray(part) for part in look(x))
        steps = 1e-5 * np.eye(pairs)
        slopes = np.stack([(np.asarray(look(x + h)[1]) - np.asarray(look(x - h)[1])) / 2e-5 for h in steps], axis=1)
        matrix = np.eye(size)
        for (a, b), value in zip(lay.correlations, found, strict=True):
            i, j = lay.correlated.index(a), lay.correlated.index(b)
            matrix[i, j] = matrix[j, i] = value
        normals = size * scipy.stats.norm.logpdf(0.0)  # the omegas, at 0
        expected = normals + _log_lkj(matrix, shape) + np.linalg.slogdet(slopes)[1]
        assert density == pytest.approx(expected, abs=1e-7)
        np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-14)


def test_correlation_matrices_are_valid_far_out_too():
    lay = _correlated(4, 1.0)
    zs = np.random.default_rng(2).normal(scale=4.0, size=(200, lay.size))
    factors = np.asarray(jax.jit(jax.vmap(lambda z: correlation_factor(lay, dict(zip(lay.population, z,
                                                                                      strict=False)))))(zs))
    matrices = factors @ factors.transpose(0, 2, 1)
    np.testing.assert_allclose(np.diagonal(matrices, axis1=1, axis2=2), 1.0, atol=1e-14)
    assert np.all(np.linalg.eigvalsh(matrices) > -1e-14)
    assert np.all(np.diagonal(factors, axis1=1, axis2=2) >= 0)


def test_the_log_prior_stays_finite_where_a_correlation_is_next_to_1():
    lay = _correlated(2, 2.0)
    z = jnp.array([0.0, 0.0, 25.0])
    value, slope = jax.jit(jax.value_and_grad(lambda z: log_prior(lay, z)))(z)
    assert np.isfinite(value) and np.all(np.isfinite(slope))


# --- subjects ------------------------------------------------------------------------------------------------

_MODEL = """
title = "Parameters for a test"
description = "Every scale and form once."
time = "day"
[covariates]
age = { unit = "year", value = 40, source = "test" }
[parameters]
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "test" }
m = { unit = "1/day", value = 0.3, prior = "lognormal(median=0.3, sd=0.5)", source = "test" }
p = { unit = "1", value = 0.3, prior = "logitnormal(median=0.3, sd=1)", source = "test" }
h = { unit = "1", value = 0.5, prior = "normal(mean=0.5, sd=1)", source = "test" }
w = { unit = "1/day", value = 2, prior = "lognormal(median=2, sd=0.5)", source = "test" }
c = { unit = "1/day", value = 7, source = "test" }
[states.x]
unit = "1"
initial = "h"
rate = "-(k + m + c)*x + p*w"
[observables.y]
unit = "1"
value = "x"
"""

_SPEC = """
title = "Parameters for a test"
purpose = "test"
model = "parameters.toml"
estimate = ["k", "m", "p", "h", "w"]
[override.c]
value = 5
reason = "test"
[data]
file = "none.csv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
units = { TIME = "day", y = "1" }
[between_subject]
loss = { sd = "halfnormal(sd=0.5)", parameters = ["k", "m"], source = "test" }
p = { sd = "halfnormal(sd=0.5)", scale = "logit", source = "test" }
h = { sd = "halfnormal(sd=0.5)", scale = "natural", source = "test" }
[[correlation]]
effects = ["loss", "h"]
prior = "lkj(shape=2)"
source = "test"
[covariate_effects.age_k]
parameter = "k"
covariate = "age"
form = "power"
reference = 45
prior = "normal(mean=0, sd=1)"
source = "test"
[covariate_effects.age_w]
parameter = "w"
covariate = "age"
form = "linear"
reference = 50
prior = "normal(mean=0, sd=1)"
source = "test"
[likelihood.y]
error = "additive"
parameters = { additive = { prior = "halfnormal(sd=1)", source = "test" } }
[sampler]
seed = 1
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("parameters")
    (folder / "parameters.toml").write_text(_MODEL)
    (folder / "spec.toml").write_text(_SPEC)
    return load_fit_spec(folder)


def test_the_log_prior_without_correlations_is_a_sum_of_standard_normals(spec):
    lay = layout(spec, ("1", "2"))
    z = np.random.default_rng(3).normal(size=lay.size)
    corr = lay.population.index("corr_loss_h")
    alone = _correlated(2, 2.0)
    of_corr = jax.jit(lambda z: log_prior(alone, z))(jnp.array([0.0, 0.0, z[corr]])) - 2 * scipy.stats.norm.logpdf(0.0)
    expected = scipy.stats.norm.logpdf(np.delete(z, corr)).sum() + float(of_corr)
    assert float(jax.jit(lambda z: log_prior(lay, z))(z)) == pytest.approx(expected, rel=1e-12)


def test_the_population_block_is_named_in_order_and_followed_by_the_effects_of_each_subject(spec):
    lay = layout(spec, ("1", "2", "3"))
    assert lay.population == ["k", "m", "p", "h", "w", "omega_loss", "omega_p", "omega_h", "corr_loss_h",
                              "beta_age_k", "beta_age_w", "sigma_additive_y"]
    assert lay.size == 12 + 3 * 3


def test_random_effects_are_omega_times_eta_and_correlated_where_the_spec_says_so(spec):
    lay = layout(spec, ("1", "2", "3"))
    z = np.random.default_rng(4).normal(size=lay.size)
    values = {name: float(v) for name, v in jax.jit(lambda z: population_values(lay, z))(z).items()}
    eta = z[12:].reshape(3, 3)  # subject, then loss, p, h
    r = values["corr_loss_h"]
    assert r == pytest.approx(math.tanh(z[8]))
    effects = jax.jit(lambda z: random_effects(lay, z, population_values(lay, z)))(z)
    found = {name: np.asarray(v) for name, v in effects.items()}
    np.testing.assert_allclose(found["loss"], values["omega_loss"] * eta[:, 0], rtol=1e-13)
    np.testing.assert_allclose(found["p"], values["omega_p"] * eta[:, 1], rtol=1e-13)
    np.testing.assert_allclose(found["h"], values["omega_h"] * (r * eta[:, 0] + math.sqrt(1 - r**2) * eta[:, 2]),
                               rtol=1e-13)


def test_standard_etas_of_new_subjects_take_the_place_of_those_in_z(spec):
    lay = layout(spec, ("1", "2", "3"))
    z = np.random.default_rng(5).normal(size=lay.size)
    standard = np.random.default_rng(6).normal(size=(4, 3))
    wide = layout(spec, ("a", "b", "c", "d"))
    whole = jax.jit(lambda z: random_effects(wide, z, population_values(wide, z)))(
        np.concatenate([z[:12], standard.ravel()]))
    found = jax.jit(lambda z: random_effects(lay, z, population_values(lay, z), jnp.asarray(standard)))(z)
    for name, values in found.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-15)


def test_each_subjects_parameters_follow_from_typical_values_and_effects(spec):
    population = {"k": 0.11, "m": 0.25, "p": 0.4, "h": 0.6, "w": 1.7, "beta_age_k": -0.8, "beta_age_w": 0.02}
    effects = {"loss": np.array([0.3, -0.2]), "p": np.array([-1.0, 0.5]), "h": np.array([-2.0, 0.7])}
    found = jax.jit(partial(subject_values, spec))(population, effects)
    expected = {
        "k": 0.11 * np.exp(effects["loss"]),
        "m": 0.25 * np.exp(effects["loss"]),
        "p": 1 / (1 + (1 - 0.4) / 0.4 * np.exp(-effects["p"])),
        "h": 0.6 + effects["h"],
        "w": 1.7,
        "c": 5.0,
        "beta_age_k": -0.8,
        "beta_age_w": 0.02,
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-13)


def test_covariates_act_within_the_equations_of_the_specs_model(spec):
    values = {"k": 0.11, "m": 0.25, "p": 0.4, "h": 0.6, "w": 1.7, "c": 5.0, "beta_age_k": -0.8, "beta_age_w": 0.02}
    found = symbolic.rate(spec.model, 0.0, jnp.array([2.0]), symbolic.derive(spec.model, values | {"age": 30.0}))
    expected = -(0.11 * (30 / 45) ** -0.8 + 0.25 + 5.0) * 2.0 + 0.4 * 1.7 * np.exp(0.02 * (30 - 50))
    assert float(found[0]) == pytest.approx(expected, rel=1e-13)
