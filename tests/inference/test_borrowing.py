"""The mixture that a borrowed prior is: inverse maps, densities against scipy, quantiles against draws, ESS."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.borrowed import Borrowed, borrowed_text, load_borrowed
from thymodel.documents.priors import parse_prior
from thymodel.errors import InputError
from thymodel.inference import borrowing, checking
from thymodel.inference.population import Layout, log_prior, quantile

pytestmark = pytest.mark.requirement("REQ-INF-08")

MEAN, COVARIANCE = (0.8, -1.5), ((0.25, -0.21), (-0.21, 0.36))
ROBUST = Borrowed(("a", "b"), MEAN, COVARIANCE, 0.3, {"name": "another"})
ALONE = Borrowed(("a", "b"), MEAN, COVARIANCE, 0.0, {})
POINTS = np.random.default_rng(0).standard_normal((5, 2))


def lay(borrowed: Borrowed) -> Layout:
    names = {name: parse_prior("normal(mean=0, sd=1)") for name in ("b", "c", "a")}
    return Layout(names, {}, (), 1.0, {}, {}, (), borrowed=borrowed)


@pytest.mark.parametrize("text", [
    "lognormal(median=3, sd=0.4)", "logitnormal(median=0.2, sd=0.7)", "normal(mean=-2, sd=3)",
    "truncnormal(mean=1, sd=2, lower=0, upper=3)", "halfnormal(sd=0.5)", "halfcauchy(scale=2)",
    "exponential(mean=4)", "uniform(lower=-1, upper=5)"])
def test_every_prior_is_taken_to_its_standard_normal(text):
    prior, z = parse_prior(text), np.linspace(-4, 4, 17)
    assert borrowing.to_standard(prior, np.asarray(quantile(prior, z))) == pytest.approx(z, abs=1e-6)


def test_a_value_outside_the_support_has_no_place():
    assert not np.isfinite(borrowing.to_standard(parse_prior("uniform(lower=0, upper=1)"), np.array([1.5]))).any()


def mixture(point: np.ndarray) -> float:
    taken = scipy.stats.multivariate_normal(MEAN, COVARIANCE).pdf(point)
    return float(np.log(0.7 * taken + 0.3 * scipy.stats.multivariate_normal([0, 0], np.eye(2)).pdf(point)))


def test_the_log_prior_holds_the_mixture_in_place_of_two_standard_normals():
    for a, b in POINTS:
        expected = mixture(np.array([a, b])) + scipy.stats.norm.logpdf(0.4)
        assert float(log_prior(lay(ROBUST), jnp.array([b, 0.4, a]))) == pytest.approx(expected, abs=1e-12)
        exact = scipy.stats.multivariate_normal(MEAN, COVARIANCE).logpdf([a, b])
        assert float(borrowing.log_density(ALONE, jnp.array([a, b]))) == pytest.approx(exact, abs=1e-12)


def test_draws_of_the_prior_have_its_moments_and_its_quantiles():
    """20,000 draws: 4.5 standard errors of a mean, a share and a correlation of the normal part; a false alarm once in
    20,000 runs of this test (seven checks)."""
    count = 20_000
    z = checking.prior_points(lay(ROBUST), count, np.random.default_rng(1))[:, [2, 0]]  # a, b
    spread = borrowing.spread(ROBUST)
    for k, name in enumerate("ab"):
        assert abs(z[:, k].mean() - 0.7 * MEAN[k]) < 4.5 * spread[name] / np.sqrt(count)
        for normal in (-1.2, 0.9):
            share = (z[:, k] < borrowing.marginal_quantiles(ROBUST, name, np.array([normal]))[0]).mean()
            p = scipy.stats.norm.cdf(normal)
            assert abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / count)
    alone = borrowing.draw(ALONE, count, np.random.default_rng(2))
    rho = COVARIANCE[0][1] / np.sqrt(COVARIANCE[0][0] * COVARIANCE[1][1])
    assert abs(np.corrcoef(alone.T)[0, 1] - rho) < 4.5 * (1 - rho**2) / np.sqrt(count)


def test_the_own_share_is_bayes_rule():
    """Far from the borrowed mean the own priors have explained the data; at it they have not."""
    far, near = borrowing.own_share(ROBUST, np.array([[-3.0, 3.0]])), borrowing.own_share(ROBUST, np.array([MEAN]))
    own = 0.3 * scipy.stats.multivariate_normal([0, 0], np.eye(2)).pdf(MEAN)
    assert far > 0.999
    assert near == pytest.approx(own / np.exp(mixture(np.array(MEAN))), rel=1e-9)


def test_the_local_information_of_a_normal_is_its_precision_and_ess_its_ratio_to_that_of_a_patient():
    precision = np.diag(np.linalg.inv(np.array(COVARIANCE)))
    local = borrowing.local_information(ALONE, POINTS)
    assert local == pytest.approx(np.tile(precision, (5, 1)), rel=1e-9)
    found = borrowing.sample_sizes(("a", "b"), local, np.array([[0.5, 0.0]] * 4 + [[np.nan, np.nan]]))
    assert found == {"a": pytest.approx(precision[0] / 0.5), "b": np.inf}


def test_far_from_a_normal_is_told():
    """2,000 draws: the Kolmogorov distance of normal ones is below 0.05 but once in 10,000 (1.63/sqrt(n) is 1%)."""
    random = np.random.default_rng(3)
    straight, bent = random.standard_normal((2000, 2)), np.exp(random.standard_normal((2000, 2)))
    alone, together = borrowing.distances(straight, *borrowing.normal_of(straight))
    assert max(*alone, together) < 0.05
    alone, _ = borrowing.distances(bent, *borrowing.normal_of(bent))
    assert min(alone) > borrowing.POOR


def test_two_parameters_that_say_the_same_are_no_normal():
    column = POINTS[:, :1]
    with pytest.raises(np.linalg.LinAlgError):
        borrowing.normal_of(np.hstack([column, 2 * column]))


def test_what_is_kept_is_read_back_and_nonsense_is_refused(tmp_path):
    (tmp_path / "kept.json").write_text(borrowed_text(ROBUST))
    assert load_borrowed(tmp_path / "kept.json") == ROBUST
    for text in ("[]", "{", borrowed_text(ROBUST).replace("0.36", "0.16"), borrowed_text(ROBUST).replace("0.3,", "3,")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="not a prior taken from a record"):
            load_borrowed(tmp_path / "bad.json")
