"""Leave-one-out scores on a linear Gaussian study, whose answer is exact; stacking and differences."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from thymodel.inference.marginals import Guess, integrate
from thymodel.inference.scoring import compare, leave_one_out, left_out, most_k, standard_error

pytestmark = pytest.mark.requirement("REQ-CHK-02")

SIGMA, OMEGA, TAU = 0.5, 1.0, 3.0  # residual, between subjects, prior of the mean
SUBJECTS, VISITS, CHAINS, DRAWS = 12, 6, 4, 1000


@pytest.fixture(scope="module")
def study() -> np.ndarray:
    random = np.random.default_rng(11)
    values = 2.0 + OMEGA * random.normal(size=(SUBJECTS, 1)) + SIGMA * random.normal(size=(SUBJECTS, VISITS))
    values[0] += 2.5  # a subject unlike the others
    return values


def covariance(subjects: int) -> np.ndarray:
    """Of all values of some subjects: the mean is common, the effect is a subject's own."""
    own = np.kron(np.eye(subjects), OMEGA**2 * np.ones((VISITS, VISITS)))
    return TAU**2 + own + SIGMA**2 * np.eye(subjects * VISITS)


@pytest.fixture(scope="module")
def exact(study) -> np.ndarray:
    """log p(y_i | all other subjects), from the joint normal of all."""
    every = stats.multivariate_normal(np.zeros(study.size), covariance(SUBJECTS)).logpdf(study.ravel())
    fewer = stats.multivariate_normal(np.zeros(study.size - VISITS), covariance(SUBJECTS - 1))
    return np.array([every - fewer.logpdf(np.delete(study, k, axis=0).ravel()) for k in range(SUBJECTS)])


def mean_given(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the posterior of the common mean."""
    precision = len(values) / (OMEGA**2 + SIGMA**2 / VISITS) + 1 / TAU**2
    return values.mean(axis=1).sum() / (OMEGA**2 + SIGMA**2 / VISITS) / precision, precision**-0.5


@pytest.fixture(scope="module")
def draws(study) -> np.ndarray:
    """Independent draws of the common mean (chain, draw)."""
    return np.random.default_rng(12).normal(*mean_given(study), (CHAINS, DRAWS))


def conditional(values: np.ndarray):
    def of_effects(head, effects):
        line = head[0] + OMEGA * effects
        return jnp.sum(-0.5 * ((values - line) / SIGMA) ** 2 - jnp.log(SIGMA * jnp.sqrt(2 * jnp.pi)), axis=1)

    return of_effects


def integrated(values: np.ndarray, means: np.ndarray):
    head = means.reshape(-1, 1)
    guess = Guess(np.zeros((len(head), len(values), 1)), np.ones((len(values), 1, 1)))
    return integrate(conditional(values), head, guess)


def test_scores_by_subject_are_the_exact_ones(study, draws, exact):
    scores = leave_one_out(integrated(study, draws).value.reshape(CHAINS, DRAWS, -1))
    assert np.all(scores.pareto_k < 0.7)
    assert np.all(np.abs(scores.elpd - exact) < 4 * scores.error + 1e-3)
    assert scores.elpd.sum() == pytest.approx(exact.sum(), abs=4 * np.sqrt(np.sum(scores.error**2)))


def test_scores_given_a_subjects_own_effects_are_off(study, draws, exact):
    """Negative control: the effects were drawn with the subject's own data in view."""
    random = np.random.default_rng(13)
    precision = VISITS / SIGMA**2 + 1 / OMEGA**2
    middle = (study.mean(axis=1) - draws[..., None]) * VISITS / SIGMA**2 / precision
    effects = middle + random.normal(size=middle.shape) / np.sqrt(precision)
    line = draws[..., None] + effects
    log_likelihood = stats.norm.logpdf(study, line[..., None], SIGMA).sum(axis=-1)
    scores = leave_one_out(log_likelihood)
    assert scores.elpd.sum() - exact.sum() > 10
    assert np.any(scores.elpd - exact > 4 * scores.error + 1e-3)


def test_a_refit_gives_the_exact_score_too(study, exact):
    rest = np.delete(study, 0, axis=0)
    means = np.random.default_rng(14).normal(*mean_given(rest), (CHAINS, DRAWS))
    elpd, error = left_out(integrated(study[:1], means).value.reshape(CHAINS, DRAWS))
    assert 0 < error < 0.1 and elpd == pytest.approx(exact[0], abs=4 * error)


def test_the_monte_carlo_error_is_the_spread_of_repetitions(study):
    found = []
    for k in range(40):
        means = np.random.default_rng(100 + k).normal(*mean_given(study), (CHAINS, 250))
        marginal = stats.norm(means[..., None], np.sqrt(OMEGA**2 + SIGMA**2 / VISITS)).logpdf(study.mean(axis=1))
        found.append(leave_one_out(marginal))
    spread = np.std([one.elpd for one in found], axis=0, ddof=1)
    told = np.mean([one.error for one in found], axis=0)
    assert np.all((told / spread > 0.6) & (told / spread < 1.6))  # 40 repetitions: an error of 11%


def test_a_cohort_is_scored_as_one(study, draws):
    value = integrated(study, draws).value.reshape(CHAINS, DRAWS, -1)
    cohorts = np.stack([value[..., :6].sum(-1), value[..., 6:].sum(-1)], axis=-1)
    every = stats.multivariate_normal(np.zeros(study.size), covariance(SUBJECTS)).logpdf(study.ravel())
    half = stats.multivariate_normal(np.zeros(study.size // 2), covariance(SUBJECTS // 2))
    exact = [every - half.logpdf(study[6:].ravel()), every - half.logpdf(study[:6].ravel())]
    scores = leave_one_out(cohorts)
    good = scores.pareto_k < 0.7
    assert np.all(np.abs(scores.elpd - exact)[good] < 4 * scores.error[good] + 1e-2)
    assert scores.elpd[0] != pytest.approx(leave_one_out(value).elpd[:6].sum(), abs=0.1)


def test_a_unit_that_some_draws_make_impossible_has_a_k_that_says_so():
    values = np.random.default_rng(1).normal(-3, 0.1, (4, 200, 2))
    values[0, 0, 1] = -np.inf
    scores = leave_one_out(values)
    assert np.isfinite(scores.elpd).all() and scores.pareto_k[1] > 0.7 > scores.pareto_k[0]


# --- several models ------------------------------------------------------------------------------------------


def test_differences_are_paired_and_best_comes_first():
    random = np.random.default_rng(2)
    common, apart = random.normal(-100, 30, 50), random.normal(1, 0.5, 50)
    found = compare({"worse": common - apart, "better": common})
    assert found.names == ("better", "worse")
    assert found.difference == pytest.approx([0, -apart.sum()])
    assert found.error == pytest.approx([0, np.sqrt(50) * apart.std()])


def test_stacking_gives_all_to_a_model_that_is_better_everywhere_and_halves_to_equals():
    random = np.random.default_rng(3)
    good, half = random.normal(-2, 1, 40), np.tile([-1.0, -3.0], 20)
    alone = compare({"a": good, "b": good - 1})
    assert dict(zip(alone.names, alone.weight, strict=True)) == pytest.approx({"a": 1, "b": 0}, abs=1e-3)
    shared = compare({"a": half, "b": half[::-1]})
    assert shared.weight == pytest.approx([0.5, 0.5], abs=1e-3)


def test_stacking_survives_densities_too_small_for_floating_point():
    one, other = np.array([-9000.0, -5000.0, -7000.0]), np.array([-9001.0, -4999.0, -7001.0])
    found = compare({"one": one, "other": other})
    assert np.isfinite(found.weight).all() and found.weight.sum() == pytest.approx(1)
    assert found.names[0] == "one" and found.difference[1] == pytest.approx(-1)


def test_the_standard_error_of_a_sum_is_from_its_spread():
    assert standard_error(np.array([1.0, 3.0])) == pytest.approx(2.0)  # variance 2, two units
    assert np.isnan(standard_error(np.array([1.0])))


def test_fewer_draws_carry_lighter_tails_only():
    assert most_k(100) == pytest.approx(0.5) and most_k(1000) == pytest.approx(2 / 3)
    assert most_k(4000) == 0.7 and most_k(4) < 0.1
