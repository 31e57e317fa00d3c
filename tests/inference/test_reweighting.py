"""Power-scaling and tipping points where the changed posterior is known: a normal mean with a normal prior."""

import numpy as np
import pytest
from scipy import stats

from thymodel.documents.priors import log_kernel, parse_prior, rescaled, shifted
from thymodel.inference import reweighting
from thymodel.inference.reweighting import CONFLICT, NEITHER, STRONG

pytestmark = pytest.mark.requirement("REQ-CHK-03")

CHAINS, DRAWS = 4, 2000
SIGMA = 1.0  # of the mean of the data


def posterior(place: float, width: float, mean: float, power_prior: float = 1.0,
              power_data: float = 1.0) -> tuple[float, float]:
    """Mean and SD of a normal mean, prior normal(place, width), data of that mean with error SIGMA."""
    precision = power_prior / width**2 + power_data / SIGMA**2
    return (power_prior * place / width**2 + power_data * mean / SIGMA**2) / precision, precision**-0.5


def draws_of(place: float, width: float, mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(*posterior(place, width, mean), (CHAINS, DRAWS))


def log_terms(theta: np.ndarray, place: float, width: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
    return -0.5 * ((theta - place) / width) ** 2, -0.5 * ((theta - mean) / SIGMA) ** 2


# --- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 0.9, 1.2, 2.0])
@pytest.mark.parametrize("term", ["prior", "likelihood"])
def test_a_power_scaled_posterior_is_the_exact_one(power, term):
    theta = draws_of(0.0, 1.0, 1.5)
    logs = dict(zip(("prior", "likelihood"), log_terms(theta, 0.0, 1.0, 1.5), strict=True))
    weights = reweighting.smooth((power - 1) * logs[term])
    mean, sd = posterior(0.0, 1.0, 1.5, *((power, 1.0) if term == "prior" else (1.0, power)))
    found, error = reweighting.expectation(theta, weights)
    assert weights.good and found == pytest.approx(mean, abs=4 * error)
    square, square_error = reweighting.expectation((theta - mean) ** 2, weights)
    assert square == pytest.approx(sd**2, abs=4 * square_error)


def test_the_error_of_an_expectation_is_the_spread_of_repetitions():
    found = []
    for seed in range(60):
        theta = draws_of(0.0, 1.0, 1.5, seed)[:, :300]
        found.append(reweighting.expectation(theta, reweighting.smooth(0.5 * theta)))
    values, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.35)  # 60 repetitions: 9%, four of them


def test_weights_that_do_not_reach_say_so():
    """Negative control: the draws hold nothing of a posterior six standard deviations away."""
    theta = np.random.default_rng(1).normal(size=(CHAINS, DRAWS))
    assert not reweighting.smooth(6 * theta**2 / 2.2).good
    assert reweighting.smooth(np.zeros((CHAINS, DRAWS))).good


# --- sensitivity ---------------------------------------------------------------------------------------------


def exact_sensitivity(place: float, width: float, mean: float, term: str, power: float = 1.01) -> float:
    """The same distance between exact normal distribution functions."""
    middle, sd = posterior(place, width, mean)
    x = np.linspace(middle - 4.5 * sd, middle + 4.5 * sd, 200_001)
    total = 0.0
    for alpha in (power, 1 / power):
        powers = (alpha, 1.0) if term == "prior" else (1.0, alpha)
        other = stats.norm(*posterior(place, width, mean, *powers))
        each = [_distance(p.cdf(x), q.cdf(x)) for p, q in
                ((stats.norm(middle, sd), other), (_Mirrored(middle, sd), _Mirrored(*other.args)))]
        total += max(each)
    return total / (2 * np.log2(power))


class _Mirrored:
    """Upper tail in place of the distribution function: that of minus the quantity."""

    def __init__(self, mean: float, sd: float) -> None:
        self.cdf = stats.norm(mean, sd).sf


def _distance(p: np.ndarray, q: np.ndarray) -> float:
    """Source: Nguyen & Vreeken 2015 (cumulative Jensen-Shannon), as normalised by Kallioinen et al. 2024."""
    middle = 0.5 * (p + q)
    parts = [np.sum(a * np.log2(a / middle)) + np.sum(b - a) / (2 * np.log(2)) for a, b in ((p, q), (q, p))]
    return float(np.sqrt(max(sum(parts), 0) / np.sum(p + q)))


@pytest.mark.parametrize("place, width, mean, told", [
    (0.0, 100.0, 1.0, NEITHER), (0.0, 1.0, 8.0, CONFLICT), (0.0, 0.05, 1.0, STRONG)])
def test_the_three_diagnoses(place, width, mean, told):
    theta = draws_of(place, width, mean)
    found = [reweighting.power_sensitivity({"theta": theta}, term)["theta"]
             for term in log_terms(theta, place, width, mean)]
    assert reweighting.diagnose(*found) == told
    if told != STRONG:  # far in a tail of the likelihood the draws' own range matters more than the distance
        for value, term in zip(found, ("prior", "likelihood"), strict=True):
            assert value == pytest.approx(exact_sensitivity(place, width, mean, term), rel=0.25, abs=0.01)


def test_sensitivity_grows_with_the_conflict():
    found = []
    for mean in (0.0, 2.0, 4.0, 8.0):
        theta = draws_of(0.0, 1.0, mean)
        found.append(reweighting.power_sensitivity({"t": theta}, log_terms(theta, 0.0, 1.0, mean)[0])["t"])
    assert found == sorted(found)


def test_a_prior_moves_its_own_parameter_and_no_other():
    one, other = draws_of(0.0, 1.0, 4.0, 1), draws_of(0.0, 1.0, 4.0, 2)
    found = reweighting.power_sensitivity({"one": one, "other": other}, log_terms(one, 0.0, 1.0, 4.0)[0])
    assert found["one"] > 0.2 and found["other"] < 0.05


def test_what_does_not_vary_has_no_sensitivity_and_moves_nothing():
    theta, still = draws_of(0.0, 1.0, 4.0), np.ones((CHAINS, DRAWS))
    assert np.isnan(reweighting.power_sensitivity({"still": still}, theta)["still"])
    assert reweighting.power_sensitivity({"theta": theta}, still)["theta"] == 0.0


# --- tipping points ------------------------------------------------------------------------------------------


def changed(change, prior, theta):
    return lambda amount: log_kernel(change(prior, amount), theta) - log_kernel(prior, theta)


def test_a_tipping_point_is_where_the_exact_posterior_mean_crosses():
    width, mean, target = 0.8, 1.0, 0.5
    prior = parse_prior(f"normal(mean=0, sd={width})")
    theta = draws_of(0.0, width, mean)
    steps = reweighting.walk({"theta": theta}, changed(shifted, prior, theta), np.linspace(0, 3, 61))
    tip = reweighting.find_tip(steps, "theta", target)
    # posterior mean (m a w / w^2 + mean)/(1/w^2 + 1) with a in prior SDs
    exact = (target * (1 / width**2 + 1) - mean) * width
    assert 0 < tip.error < 0.1 and tip.amount == pytest.approx(exact, abs=4 * tip.error)


def test_no_tipping_point_where_there_is_none():
    prior, theta = parse_prior("normal(mean=0, sd=100)"), draws_of(0.0, 100.0, 1.0)
    steps = reweighting.walk({"theta": theta}, changed(rescaled, prior, theta), np.linspace(1, 4, 31))
    tip = reweighting.find_tip(steps, "theta", 0.0)
    assert len(steps) == 31 and np.isnan(tip.amount) and tip.mean == pytest.approx(1.0, abs=0.1)


def test_a_walk_ends_where_the_weights_no_longer_hold():
    prior, theta = parse_prior("normal(mean=0, sd=0.2)"), draws_of(0.0, 0.2, 0.0)
    steps = reweighting.walk({"theta": theta}, changed(shifted, prior, theta), np.linspace(0, 8, 81))
    assert 5 < len(steps) < 81 and all(step.pareto_k <= 0.7 for step in steps)
    assert np.isnan(reweighting.find_tip(steps, "theta", 1.4).amount)
