"""Numbers of visual predictive checks against cases that can be done by hand."""

from dataclasses import replace

import numpy as np
import pytest

from thymodel.documents.spec import Endpoint
from thymodel.inference.checking import Limits
from thymodel.results import vpc

pytestmark = pytest.mark.requirement("REQ-CHK-01")

_ENDPOINT = Endpoint("back", "count", 50.0, "cell/uL", 100.0, "", "", 14.0, 0.0, False, ())


def _no_limits(count: int) -> Limits:
    return Limits(np.full(count, -np.inf), np.full(count, np.inf))


# --- bins ----------------------------------------------------------------------------------------------------


def test_bins_are_the_planned_visits_behind_their_jitter():
    random, days = np.random.default_rng(3), np.array([14, 28, 42, 60, 100, 180, 365])
    time = (days + random.integers(-30, 31, (12, 7)) / 10).ravel()
    bins = vpc.time_bins(time, np.repeat(np.arange(12), 7))
    assert bins.reshape(12, 7).tolist() == [list(range(7))] * 12


def test_cuts_have_the_least_spread_of_all_cuts():
    """Against every way to make three bins of nine times."""
    random = np.random.default_rng(4)
    times, weights = np.sort(random.random(9)), random.integers(1, 5, 9)

    def spread(edges):
        parts = np.split(np.arange(9), edges)
        return sum(np.sum(weights[p] * (times[p] - np.average(times[p], weights=weights[p])) ** 2) for p in parts)

    every = {(i, j): spread([i, j]) for i in range(1, 8) for j in range(i + 1, 9)}
    assert tuple(vpc._cuts(times, weights, 3)) == min(every, key=every.get)


def test_one_visit_is_one_bin():
    assert vpc.time_bins(np.zeros(5), np.arange(5)).tolist() == [0] * 5


# --- quantiles -----------------------------------------------------------------------------------------------


def test_a_quantile_among_values_below_the_limit_is_not_known():
    study = np.array([-np.inf] * 4 + [1.0, 2, 3, 4, 5, 6])
    pool = np.stack([study, np.arange(10.0), np.arange(10.0) + 5])
    (cell,) = vpc.vpc_cells(pool, Limits(np.ones(10), np.full(10, np.inf)), np.full(10, 7.0), np.zeros(10, int))
    assert cell["observed"] == [None, 1.0, 5.0]
    assert cell["below"] == 0.4 and cell["limit"] == 1.0 and (cell["time"], cell["count"]) == (7.0, 10)
    assert cell["simulated"][2][0] == 8.0 and cell["simulated"][2][2] == 13.0


def test_a_band_of_replicates_holds_nine_in_ten_quantiles():
    random = np.random.default_rng(6)
    pool = random.standard_normal((4001, 30))
    (cell,) = vpc.vpc_cells(pool, _no_limits(30), np.zeros(30), np.zeros(30, int))
    low, middle, high = cell["simulated"][1]
    medians = np.sort(pool[1:], axis=1)[:, 14]
    assert np.mean((medians >= low) & (medians <= high)) == pytest.approx(0.9, abs=2e-3)
    assert middle == pytest.approx(np.median(medians), abs=1e-2)


def test_correction_takes_out_what_the_typical_prediction_explains():
    typical = np.array([1.0, 2.0, 4.0, 10.0, 20.0])
    bins = np.array([0, 0, 0, 1, 1])
    pool, limits = vpc.prediction_corrected(np.stack([3 * typical, typical]), Limits(typical / 2, typical * 9), typical,
                                            bins)
    assert pool.tolist() == [[6, 6, 6, 45, 45], [2, 2, 2, 15, 15]]
    assert limits.lower.tolist() == [1, 1, 1, 7.5, 7.5]


def test_a_value_below_its_limit_stays_there_when_corrected():
    typical, bins = np.array([1.0, 4.0]), np.zeros(2, int)
    pool, _ = vpc.prediction_corrected(np.array([[-np.inf, 1.0]]), _no_limits(2), typical, bins)
    assert pool[0, 0] == -np.inf and np.isfinite(pool[0, 1])


def test_what_is_predicted_to_be_nothing_cannot_be_corrected():
    assert vpc.correctable(np.array([0.0, 1e-12, 1.0])).tolist() == [False, False, True]


# --- endpoints -----------------------------------------------------------------------------------------------

_DAYS = np.array([10.0, 20.0, 30.0, 60.0, 90.0])


def _crossing(values, limits=None, **changes):
    endpoint, pool = replace(_ENDPOINT, **changes), np.array([values], float)
    days, seen = vpc.observed_crossings(endpoint, _DAYS, pool, limits or _no_limits(5))
    return float(days[0]), bool(seen[0])


def test_an_endpoint_is_dated_by_the_visit_that_showed_it():
    assert _crossing([10, 20, 60, 80, 90]) == (30.0, True)


def test_a_crossing_that_does_not_last_is_none():
    assert _crossing([10, 70, 20, 80, 90], sustained_for=30.0) == (60.0, True)
    assert _crossing([10, 20, 20, 20, 55]) == (90.0, False)


def test_a_subject_without_the_endpoint_is_followed_to_the_last_visit_before_the_horizon():
    assert _crossing([10, 20, 20, 20, 20], horizon=70.0) == (60.0, False)
    assert _crossing([90, 90, 90, 90, 90], clock_start=95.0) == (0.0, False)


def test_days_count_from_the_start_of_the_clock():
    assert _crossing([10, 20, 60, 80, 90], clock_start=15.0) == (15.0, True)


def test_a_value_below_a_limit_above_the_threshold_is_no_crossing():
    high = Limits(np.full(5, 70.0), np.full(5, np.inf))
    assert _crossing([-np.inf, -np.inf, -np.inf, 80, 90], limits=high) == (60.0, True)


def test_kaplan_meier_is_the_product_limit():
    """Six subjects, events on days 1, 3, 3 and 5, censored on 2 and 4: by hand."""
    days, seen = np.array([[1.0, 2, 3, 3, 4, 5]]), np.array([[True, False, True, True, False, True]])
    found = vpc.kaplan_meier(days, seen, np.array([0.0, 1, 2, 3, 4, 5]))
    assert found[0] == pytest.approx([0, 1 / 6, 1 / 6, 1 - 5 / 6 * 2 / 4, 1 - 5 / 6 * 2 / 4, 1])


def test_without_censoring_kaplan_meier_is_the_fraction():
    days = np.random.default_rng(1).integers(1, 9, (3, 20)).astype(float)
    found = vpc.kaplan_meier(days, np.ones((3, 20), bool), np.arange(10.0))
    assert found == pytest.approx(np.mean(days[:, :, None] <= np.arange(10.0), axis=1))
