"""MAP, Laplace, Pathfinder and SMC against closed forms: a normal posterior, two modes of known mass, known evidence.

Seeds are fixed. Each statistical bound is at 4.5 standard errors, or at the t quantile of the same two-sided
false-alarm rate, 7 in a million a comparison; the wrong answers that they must catch are asserted beside them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from thymodel.errors import InputError, ThymodelError
from thymodel.inference import approximation, laplace, paths, tempering
from thymodel.inference.approximation import Approximation, weigh
from thymodel.inference.sampling import Settings

pytestmark = pytest.mark.requirement("REQ-INF-09")

MOST = 4.5  # standard errors
ALARM = 2 * stats.norm.sf(MOST)
SETTINGS = Settings(chains=8, warmup=1, draws=250, seed=3)

SIZE = 3
SPREAD = np.array([[0.3, 0.12, 0.0], [0.12, 0.2, -0.05], [0.0, -0.05, 0.1]])
MEAN = np.array([0.5, -0.3, 0.8])
EVIDENCE = -2.5  # log of the mass of both targets

SHARES, MODES, WIDTH = np.array([0.7, 0.3]), np.array([[1.2, 1.2], [-1.2, -1.2]]), 0.35


def _log_prior(z):
    return jnp.sum(-0.5 * z**2) - 0.5 * len(z) * jnp.log(2 * jnp.pi)


def _normal(z):
    """A normal posterior."""
    precision = np.linalg.inv(SPREAD)
    constant = -0.5 * SIZE * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(SPREAD)[1] + EVIDENCE
    return -0.5 * (z - MEAN) @ precision @ (z - MEAN) + constant


def _two(z):
    """Two modes of known shares, 9.7 standard deviations apart."""
    squares = -0.5 * jnp.sum(((z - MODES) / WIDTH) ** 2, axis=-1)
    return jax.nn.logsumexp(squares + jnp.log(SHARES)) - jnp.log(2 * jnp.pi * WIDTH**2) + EVIDENCE


def _prior(size: int, runs: int = SETTINGS.chains, particles: int = SETTINGS.draws) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((runs, particles, size))


def _read(log_density, size: int) -> dict[str, Approximation]:
    peaks = laplace.find_peaks(log_density, size, np.arange(size), SETTINGS.seed)
    return {"map": laplace.at_the_highest(peaks), "laplace": laplace.normals(peaks, SETTINGS),
            "pathfinder": paths.follow(log_density, _prior(size, 1, paths.PATHS)[0], SETTINGS),
            "smc": tempering.temper(log_density, _log_prior, _prior(size), SETTINGS.seed)}


@pytest.fixture(scope="module")
def normal() -> dict[str, Approximation]:
    return _read(_normal, SIZE)


@pytest.fixture(scope="module")
def two() -> dict[str, Approximation]:
    return _read(_two, 2)


def _agrees(values: np.ndarray, truth: float, independent: float | None) -> bool:
    """Whether the mean of values (chain, draw) is the truth within its error: from so many independent draws, or from
    how independent chains differ."""
    if independent is not None:
        return bool(abs(values.mean() - truth) < MOST * values.std() / np.sqrt(independent))
    return _t_agrees(values.mean(axis=1), truth)


def _t_agrees(estimates: np.ndarray, truth: float) -> bool:
    error = estimates.std(ddof=1) / np.sqrt(len(estimates))
    return bool(abs(estimates.mean() - truth) < stats.t.isf(ALARM / 2, len(estimates) - 1) * error)


def _independent(found: Approximation) -> float | None:
    """Draws of a resampled pool are worth no more than the smaller of pool and sample: 1 / (1/pool + 1/sample)."""
    if found.method == "smc":
        return None
    count = found.log_density.size
    return count if found.method == "laplace" else 1 / (1 / count + 1 / found.told["weight_ess"])


# --- a normal posterior: all agree -----------------------------------------------------------------------------


def test_map_of_a_normal_is_its_mean(normal):
    np.testing.assert_allclose(normal["map"].z, MEAN[None, None], atol=1e-4)
    assert len(normal["map"].told["modes"]) == 1 and normal["map"].told["modes"][0]["settled"]


@pytest.mark.parametrize("method", ["laplace", "pathfinder", "smc"])
def test_a_normal_posterior_is_found_by_its_moments(normal, method):
    found, spread = normal[method], np.diag(SPREAD)
    assert found.z.shape == (SETTINGS.chains, SETTINGS.draws, SIZE)
    for k in range(SIZE):
        values, count = found.z[..., k], _independent(found)
        assert _agrees(values, MEAN[k], count)
        assert _agrees((values - MEAN[k]) ** 2, spread[k], count)
        assert not _agrees(values, MEAN[k] + 0.5 * np.sqrt(spread[k]), count)
        assert not _agrees((values - MEAN[k]) ** 2, 2 * spread[k], count)


@pytest.mark.parametrize("method", ["map", "laplace", "pathfinder", "smc"])
def test_each_keeps_the_log_density_of_its_draws(normal, two, method):
    for readings, density in ((normal, _normal), (two, _two)):
        expected = jax.vmap(jax.vmap(density))(jnp.asarray(readings[method].z))
        np.testing.assert_allclose(readings[method].log_density, expected, rtol=0, atol=1e-9)


def test_a_normal_is_its_own_likeness(normal):
    assert normal["laplace"].told["log_evidence_of_normals"] == pytest.approx(EVIDENCE, abs=1e-4)
    assert normal["laplace"].told["log_evidence"] == pytest.approx(EVIDENCE, abs=1e-3)
    assert "all but equal" in normal["laplace"].sentences[0]
    assert normal["pathfinder"].told["pareto_k"] < approximation.MOST_K
    assert normal["pathfinder"].told["log_evidence"] == pytest.approx(EVIDENCE, abs=0.2)


# --- two modes -------------------------------------------------------------------------------------------------


def test_both_modes_are_found_with_their_shares(two):
    for method in ("map", "laplace"):
        modes = two[method].told["modes"]
        np.testing.assert_allclose([mode["z"] for mode in modes], MODES, atol=1e-3)
        np.testing.assert_allclose([mode["share"] for mode in modes], SHARES, atol=1e-3)
    np.testing.assert_allclose(two["map"].z[0, 0], MODES[0], atol=1e-3)
    assert "2 modes were found" in " ".join(two["map"].sentences) and "0.7, 0.3" in " ".join(two["map"].sentences)


@pytest.mark.parametrize("method", ["laplace", "pathfinder", "smc"])
def test_draws_share_the_modes_as_the_mass_does(two, method):
    higher = (two[method].z[..., 0] > 0).astype(float)
    count = _independent(two[method])
    assert _agrees(higher, SHARES[0], count)
    assert not _agrees(higher, 0.5, count)  # the share of the searches, or of the prior


def test_a_target_that_no_normal_resembles_is_told_by_pareto_k():
    def heavy(z):  # Cauchy in 20 dimensions: k is 0.9 to 1.3 in sets of 2000 draws
        return -jnp.sum(jnp.log1p((z / 0.1) ** 2))

    peaks = laplace.find_peaks(heavy, 20, np.arange(20), 1)
    found = laplace.normals(peaks, SETTINGS)
    assert found.told["pareto_k"] > approximation.MOST_K and "poor likeness" in found.sentences[0]


def test_draws_where_the_density_is_zero_are_drawn_again():
    def cut(z):
        return jnp.where(z[0] > 0.2, _normal(z), -jnp.inf)

    found = laplace.normals(laplace.find_peaks(cut, SIZE, np.arange(SIZE), 1), SETTINGS)
    assert (found.z[..., 0] > 0.2).all() and np.isfinite(found.log_density).all()
    expected = stats.norm(MEAN[0], np.sqrt(SPREAD[0, 0])).sf(0.2)
    drawn = found.log_density.size / found.told["drawn_where_possible"]
    assert abs(found.told["drawn_where_possible"] - expected) < MOST * np.sqrt(expected * (1 - expected) / drawn)
    assert found.told["log_evidence"] == pytest.approx(EVIDENCE + np.log(expected), abs=MOST * 0.02)


# --- evidence --------------------------------------------------------------------------------------------------


def test_evidence_of_smc_is_that_of_the_closed_form_and_a_wrong_power_is_noticed():
    """z ~ N(0, I), observations y ~ N(z, sigma^2 I): y ~ N(0, (1 + sigma^2) I). The estimates of independent runs have
    that mean; those of a likelihood raised to the power 0.7 have another, 1.39 times as large."""
    sigma, y = 0.4, np.array([1.0, -0.5])
    truth = stats.norm(0, np.sqrt(1 + sigma**2)).logpdf(y).sum()

    def with_power(z, power):
        errors = -0.5 * jnp.sum(((y - z) / sigma) ** 2) - len(y) * jnp.log(sigma * jnp.sqrt(2 * jnp.pi))
        return _log_prior(z) + power * errors

    def ratios(power: float) -> np.ndarray:
        found = tempering.temper(with_power, _log_prior, _prior(2, 16, 250), 4, (jnp.asarray(power),))
        return np.exp(np.array(found.told["log_evidence_of_runs"]) - truth)

    assert _t_agrees(ratios(1.0), 1.0)
    assert not _t_agrees(ratios(0.7), 1.0)


def test_smc_tells_its_error_and_gives_up_where_the_likelihood_is_zero(normal):
    told = normal["smc"].told
    assert abs(told["log_evidence"] - EVIDENCE) < stats.t.isf(ALARM / 2, 7) * told["log_evidence_error"] < 1.0
    assert all(powers[-1] == 1.0 and powers == sorted(powers) for powers in told["powers"])
    with pytest.raises(ThymodelError, match="prior predictive"):
        tempering.temper(lambda z: jnp.where(z[0] > 50, 0.0, -jnp.inf), _log_prior, _prior(2, 1, 20), 1)


# --- weights and refusals --------------------------------------------------------------------------------------


def test_weights_of_nothing_are_nothing():
    ratios = np.append(np.random.default_rng(1).normal(size=500), [-np.inf, np.nan])
    found = weigh(ratios)
    assert np.exp(found.log[-2:]).sum() < 1e-300 and np.exp(found.log).sum() == pytest.approx(1.0)
    assert found.log_mass == pytest.approx(np.log(np.exp(ratios[:500]).sum() / 502))


@pytest.mark.parametrize("method, resume, overrides, places", [
    ("foo", False, {}, ["--method foo"]),
    ("smc", True, {"warmup": 5, "draws": 10}, ["--resume", "--warmup 5"]),
    ("map", False, {"draws": 10, "chains": 2, "seed": 1}, ["--draws 10", "--chains 2"])])
def test_options_that_mean_nothing_to_a_method_are_all_named(method, resume, overrides, places):
    with pytest.raises(InputError) as caught:
        approximation.refuse(method, resume, overrides)
    assert [fault.where for fault in caught.value.faults] == places
    approximation.refuse("nuts", True, {"warmup": 5})
