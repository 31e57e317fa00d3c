"""Correlated residuals of a visit against scipy's multivariate normal and t, densities and distribution functions."""

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from thymodel.documents.measurement import ErrorModel, SharedError
from thymodel.inference import likelihood
from thymodel.inference.population import Layout, log_prior, population_values, residual_matrix
from thymodel.inference.visits import (
    ABOVE,
    BELOW,
    BETWEEN,
    MEASURED,
    Member,
    draw_visits,
    log_likelihood,
    log_rectangle,
)

pytestmark = pytest.mark.requirement("REQ-INF-01")

MATRIX = np.array([[1.0, 0.7, 0.4], [0.7, 1.0, 0.2], [0.4, 0.2, 1.0]])
CENTRE = np.log([101.0, 61.0, 21.0])
SDS = np.array([0.35, 0.4, 0.45])
CUTS = np.array([-600.0, -60.0, -12.0, -4.0, 0.0, 4.0, 12.0, 60.0, 600.0])  # of scipy's density, in SDs
PREDICTION = np.array([[100.0, 60.0, 20.0]])
VALUE = np.array([[70.0, 75.0, 12.0], [130.0, 30.0, 41.0]])
LIMIT = np.array([[40.0, 50.0, 4.0], [90.0, 20.0, 25.0]])


def _errors(family: str, df: float = 0.0) -> list[ErrorModel]:
    return [ErrorModel(name, family, {}, {}, 1.0, df) for name in ("cd4", "cd8", "naive4")]


SIGMAS = [{"log_sd": jnp.asarray(sd)} for sd in SDS]


def _found(family: str, df: float, kinds, members=(0, 1, 2)) -> np.ndarray:
    keep = list(members)
    errors, sigmas = [_errors(family, df)[k] for k in keep], [SIGMAS[k] for k in keep]
    return np.asarray(log_likelihood(errors, sigmas, kinds, jnp.asarray(MATRIX[np.ix_(keep, keep)]),
                                     jnp.asarray(np.repeat(PREDICTION, 2, axis=0)[:, keep]),
                                     jnp.asarray(VALUE[:, keep]), jnp.asarray(LIMIT[:, keep])))


def _joint(df: float, keep):
    keep = list(keep)
    covariance = MATRIX[np.ix_(keep, keep)] * np.outer(SDS[keep], SDS[keep])
    if df:
        return scipy.stats.multivariate_t(CENTRE[keep], covariance, df)
    return scipy.stats.multivariate_normal(CENTRE[keep], covariance)


FAMILIES = pytest.mark.parametrize("family, df", [("lognormal", 0.0), ("student_t", 5.0)])


@FAMILIES
@pytest.mark.parametrize("members", [(0, 1, 2), (0, 2), (1,)])
def test_a_measured_visit_has_scipys_density(family, df, members):
    keep = list(members)
    logs = np.log(VALUE[:, keep] + 1)
    expected = _joint(df, keep).logpdf(logs) - logs.sum(axis=1)
    np.testing.assert_allclose(_found(family, df, [MEASURED] * len(keep), members), expected, rtol=1e-12)


@FAMILIES
def test_one_member_by_itself_keeps_its_own_error_model(family, df):
    error = _errors(family, df)[0]
    for kind, mark in ((MEASURED, 0), (BELOW, 1), (ABOVE, -1), (BETWEEN, 1)):
        bound = LIMIT[:, 0] if kind == BETWEEN else np.full(2, np.nan)
        alone = likelihood.log_likelihood(error, SIGMAS[0], np.full(2, 100.0), VALUE[:, 0], np.full(2, mark), bound)
        np.testing.assert_allclose(_found(family, df, [kind], (0,)), alone, rtol=1e-10)


def _box(kind: int, value: float, limit: float) -> tuple[float, float]:
    """Where log(y + 1) lies."""
    one, other = np.log(value + 1), np.log(limit + 1)
    return {BELOW: (-np.inf, one), ABOVE: (one, np.inf), BETWEEN: (min(one, other), max(one, other))}[kind]


@FAMILIES
@pytest.mark.parametrize("kinds", [
    (MEASURED, BELOW, MEASURED), (ABOVE, MEASURED, MEASURED), (MEASURED, MEASURED, BETWEEN), (BELOW, MEASURED, BELOW),
    (MEASURED, ABOVE, BELOW), (BETWEEN, MEASURED, ABOVE), (BETWEEN, BETWEEN, MEASURED), (ABOVE, ABOVE, MEASURED)])
def test_censored_members_are_integrals_of_scipys_density(family, df, kinds):
    joint = _joint(df, (0, 1, 2))
    wide = 5000 if df else 60  # SDs; beyond lies less than 1e-15
    censored = [k for k in range(3) if kinds[k] != MEASURED]
    expected = []
    for value, limit in zip(VALUE, LIMIT, strict=True):
        boxes = [_box(kinds[k], value[k], limit[k]) for k in censored]
        ends = [(max(low, CENTRE[k] - wide * SDS[k]), min(high, CENTRE[k] + wide * SDS[k]))
                for k, (low, high) in zip(censored, boxes, strict=True)]

        near = [sorted({low, *(x for x in CENTRE[k] + SDS[k] * CUTS if low < x < high), high})
                for k, (low, high) in zip(censored, ends, strict=True)]
        nodes, weights = np.polynomial.legendre.leggauss(80)
        places = [np.concatenate([0.5 * (a + b) + 0.5 * (b - a) * nodes for a, b in pairwise(cuts)]) for cuts in near]
        sizes = [np.concatenate([0.5 * (b - a) * weights for a, b in pairwise(cuts)]) for cuts in near]
        grid = np.meshgrid(*places, indexing="ij")
        points = np.repeat(np.log(value + 1)[None], grid[0].size, axis=0)
        points[:, censored] = np.stack([axis.ravel() for axis in grid], axis=1)
        mass = joint.pdf(points) @ np.prod(np.meshgrid(*sizes, indexing="ij"), axis=0).ravel()
        measured = [k for k in range(3) if kinds[k] == MEASURED]
        expected.append(np.log(mass) - np.log(value[measured] + 1).sum())
    np.testing.assert_allclose(_found(family, df, list(kinds)), expected, atol=2e-7)


@pytest.mark.parametrize("correlation", [-0.99, -0.6, 0.0, 0.3, 0.8, 0.99])
def test_the_probability_of_a_quadrant_is_scipys(correlation):
    error = _errors("lognormal")[0]
    h, k = np.array([0.0, -1, 2, 3, 0.5, -2]), np.array([0.0, 1, -2, 3, 4, -2])
    found = np.exp(log_rectangle(error, Member(None, h), Member(None, k), correlation, np.sqrt(1 - correlation**2)))
    joint = scipy.stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    np.testing.assert_allclose(found, [joint.cdf(point) for point in zip(h, k, strict=True)], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("h, k, correlation", [(-6.0, -5.0, 0.0), (-8.0, -9.0, 0.7), (-20.0, -3.0, 0.5), (-5, 2, -0.8)])
def test_a_quadrant_far_out_keeps_its_digits(h, k, correlation):
    error = _errors("lognormal")[0]
    rest = mpmath.sqrt(1 - mpmath.mpf(correlation) ** 2)

    def height(x):
        return mpmath.npdf(x) * mpmath.ncdf((k - correlation * x) / rest)

    exact = mpmath.quad(height, [h - 30, h - 10, h - 4, h - 2, h - 1, h - 0.5, h - 0.2, h])
    found = log_rectangle(error, Member(None, np.array([h])), Member(None, np.array([k])), correlation, float(rest))
    assert float(found[0]) == pytest.approx(float(mpmath.log(exact)), rel=1e-8)


@FAMILIES
@pytest.mark.parametrize("kinds", [*product([MEASURED, BELOW], repeat=2), (BETWEEN, ABOVE)])
def test_slopes_of_visits_are_those_of_central_differences(family, df, kinds):
    errors = _errors(family, df)[:2]
    prediction = jnp.asarray(np.repeat(PREDICTION, 2, axis=0)[:, :2])

    def total(correlation, log_sd, prediction):
        matrix = jnp.array([[1.0, correlation], [correlation, 1.0]])
        sigmas = [{"log_sd": log_sd}, SIGMAS[1]]
        return jnp.sum(log_likelihood(errors, sigmas, kinds, matrix, prediction, jnp.asarray(VALUE[:, :2]),
                                      jnp.asarray(LIMIT[:, :2])))

    look, point, step = jax.jit(total), (0.6, 0.35, prediction), 1e-5
    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*point)
    for k in (0, 1):
        up, down = list(point), list(point)
        up[k], down[k] = point[k] + step, point[k] - step
        assert float(slopes[k]) == pytest.approx(float(look(*up) - look(*down)) / (2 * step), rel=2e-6, abs=1e-7)
    shift = jnp.zeros((2, 2)).at[0, 0].set(1e-3)
    expected = (look(0.6, 0.35, prediction + shift) - look(0.6, 0.35, prediction - shift)) / 2e-3
    assert float(slopes[2][0, 0]) == pytest.approx(float(expected), rel=2e-6, abs=1e-8)


@FAMILIES
@pytest.mark.parametrize("kinds", [(MEASURED, MEASURED), (MEASURED, BELOW), (BELOW, BELOW), (ABOVE, BELOW)])
def test_visits_at_the_extremes_have_finite_densities_and_slopes(family, df, kinds):
    errors = _errors(family, df)[:2]
    prediction = jnp.array([[0.0, 1e7], [1e7, 0.0], [-1e-9, -1e-9], [1e-3, 1e7], [50.0, 50.0]])
    value = jnp.array([[50.0, 5.0], [5.0, 50.0], [1e6, 1e6], [1e6, 1.0], [0.0, 0.0]])

    def total(matrix, prediction):
        return jnp.sum(log_likelihood(errors, SIGMAS[:2], kinds, matrix, prediction, value, jnp.full((5, 2), jnp.nan)))

    look = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    for correlation in (-0.95, 0.0, 0.95):
        found, slopes = look(jnp.array([[1.0, correlation], [correlation, 1.0]]), prediction)
        assert np.isfinite(found), correlation
        assert all(np.all(np.isfinite(slope)) for slope in slopes), correlation


# --- prior ---------------------------------------------------------------------------------------------------


def _layout(names, shape: float) -> Layout:
    return Layout({}, {}, (), 1.0, {}, {}, (), (SharedError(tuple(names), shape, "test"),))


@pytest.mark.parametrize("shape", [1.0, 2.0, 6.0])
def test_the_prior_of_one_correlation_makes_1_and_is_the_beta_of_lkj(shape):
    lay = _layout(("cd4", "cd8"), shape)
    density = jax.jit(lambda z: jnp.exp(log_prior(lay, jnp.array([z]))))
    assert scipy.integrate.quad(lambda z: float(density(z)), -12, 12, epsabs=1e-10)[0] == pytest.approx(1.0, abs=1e-8)
    value = float(population_values(lay, jnp.array([0.7]))["corr_residual_cd4_cd8"])
    expected = scipy.stats.beta(shape, shape).pdf((value + 1) / 2) / 2 * (1 - value**2)  # with the slope of tanh
    assert float(density(0.7)) == pytest.approx(expected, rel=1e-10)


def test_the_prior_of_three_correlations_makes_1():
    """And is proportional to the determinant: Lewandowski, Kurowicka & Joe 2009, eq. 16."""
    lay = _layout(("cd4", "cd8", "naive4"), 2.0)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    z, w = 7 * nodes, 7 * weights
    points = jnp.asarray(np.array(list(product(z, repeat=3))))
    mass = np.exp(jax.jit(jax.vmap(lambda point: log_prior(lay, point)))(points))
    assert float(np.sum(mass * np.prod(list(product(w, repeat=3)), axis=1))) == pytest.approx(1.0, abs=1e-6)

    def by_matrix(z):
        return jnp.linalg.det(residual_matrix(lay.shared_errors[0], population_values(lay, z)))

    def jacobian(z):
        values = jax.jacfwd(lambda z: jnp.stack(list(population_values(lay, z).values())))(z)
        return jnp.abs(jnp.linalg.det(values))

    some = np.array([[0.1, -0.4, 0.9], [1.0, 0.2, -0.3], [-0.7, 0.7, 0.1]])
    ratio = [float(jnp.exp(log_prior(lay, z)) / (by_matrix(z) * jacobian(z))) for z in some]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


# --- new observations ----------------------------------------------------------------------------------------


@FAMILIES
def test_new_visits_have_the_correlations_and_each_its_own_error(family, df):
    size = 20_000
    drawn = np.asarray(draw_visits(_errors(family, df), SIGMAS, jnp.asarray(MATRIX),
                                   jnp.repeat(PREDICTION, size, axis=0), jax.random.key(5)))
    z = (np.log(drawn + 1) - CENTRE) / SDS
    for k in range(3):
        own = scipy.stats.t(df) if df else scipy.stats.norm()
        assert scipy.stats.kstest(z[:, k], own.cdf).pvalue > 1e-4
    for i, j in ((0, 1), (0, 2), (1, 2)):  # Kendall's tau of any elliptical pair: Lindskog et al. 2003
        tau = scipy.stats.kendalltau(z[:, i], z[:, j]).statistic
        assert tau == pytest.approx(2 / np.pi * np.arcsin(MATRIX[i, j]), abs=4 * 0.7 / np.sqrt(size))


def test_student_visits_share_one_scale():
    """Large residuals come together even where their correlation is 0: the squares are correlated."""
    drawn = np.asarray(draw_visits(_errors("student_t", 8.0), SIGMAS, jnp.eye(3),
                                   jnp.repeat(PREDICTION, 20_000, axis=0), jax.random.key(6)))
    square = ((np.log(drawn + 1) - CENTRE) / SDS) ** 2
    assert scipy.stats.spearmanr(square[:, 0], square[:, 1]).statistic > 0.05


@FAMILIES
def test_the_correlation_is_found_again_from_visits_with_a_limit(family, df):
    """Maximum likelihood of the correlation from 600 visits, about a quarter of each member below its limit."""
    errors, size = _errors(family, df)[:2], 600
    drawn = np.asarray(draw_visits(errors, SIGMAS[:2], jnp.asarray(MATRIX[:2, :2]),
                                   jnp.repeat(PREDICTION[:, :2], size, axis=0), jax.random.key(11)))
    lloq = np.array([80.0, 45.0])
    below = drawn < lloq
    parts = [(kinds, jnp.asarray(np.where(below, lloq, drawn)[np.all(below == (np.array(kinds) == BELOW), axis=1)]))
             for kinds in product([MEASURED, BELOW], repeat=2)]
    assert all(len(values) > 20 for _, values in parts)

    @jax.jit
    def loss(z):
        rho = jnp.tanh(z)
        matrix = jnp.array([[1.0, rho], [rho, 1.0]])
        return -sum(jnp.sum(log_likelihood(errors, SIGMAS[:2], kinds, matrix,
                                           jnp.repeat(PREDICTION[:, :2], len(values), axis=0), values,
                                           jnp.full(values.shape, jnp.nan))) for kinds, values in parts)

    found = scipy.optimize.minimize_scalar(loss, bounds=(-2, 2), method="bounded")
    error = 1 / np.sqrt(float(jax.hessian(loss)(found.x)))
    assert abs(found.x - np.arctanh(0.7)) < 4 * error and error < 0.1
