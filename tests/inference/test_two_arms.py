"""Tests of two arms against scipy's, one trial after another."""

import numpy as np
import pytest
import scipy.stats

from thymodel.inference.two_arms import fisher_z, logrank_z, score_z

pytestmark = pytest.mark.requirement("REQ-TRI-02")


def _counts(seed: int, n1: int, n0: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.binomial(n1, 0.6, 60), random.binomial(n0, 0.4, 60)


@pytest.mark.parametrize(("n1", "n0"), [(20, 20), (33, 17)])
def test_the_score_test_is_pearsons_chi_square(n1, n0):
    treated, control = _counts(1, n1, n0)
    for z, a, b in zip(score_z(treated, n1, control, n0), treated, control, strict=True):
        table = [[a, n1 - a], [b, n0 - b]]
        assert z**2 == pytest.approx(scipy.stats.chi2_contingency(table, correction=False).statistic)
        assert np.sign(z) == np.sign(a / n1 - b / n0)


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_fishers_test_is_scipys(alternative):
    treated, control = _counts(2, 14, 25)
    side = 1 if alternative == "greater" else -1
    for z, a, b in zip(fisher_z(treated, 14, control, 25), treated, control, strict=True):
        p = scipy.stats.fisher_exact([[a, 14 - a], [b, 25 - b]], alternative=alternative).pvalue
        if side * z > 0:
            assert scipy.stats.norm.sf(side * z) == pytest.approx(p)
        elif z != 0:
            assert p > 0.5  # it lies on the other side


def test_the_log_rank_test_is_scipys():
    """Visit days make ties; some are censored."""
    random = np.random.default_rng(3)
    times, events = random.integers(1, 7, (40, 30)).astype(float), random.random((40, 30)) < 0.7
    treated = np.arange(30) >= 13
    times[:, treated] = np.maximum(times[:, treated] - 1, 1)
    found = logrank_z(times, events, treated)
    for z, time, event in zip(found, times, events, strict=True):
        x, y = (scipy.stats.CensoredData(time[arm & event], right=time[arm & ~event]) for arm in (treated, ~treated))
        assert z == pytest.approx(scipy.stats.logrank(x, y).statistic)
    assert found.mean() > 0.5  # sooner is positive


def test_trials_without_news_decide_nothing():
    none, every = np.zeros(3, int), np.full(3, 8)
    assert (score_z(none, 8, none, 8) == 0).all() and (score_z(every, 8, every, 8) == 0).all()
    assert (fisher_z(none, 8, none, 8) == 0).all()
    assert (logrank_z(np.ones((2, 6)), np.zeros((2, 6), bool), np.arange(6) > 2) == 0).all()
