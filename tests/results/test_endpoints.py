"""Reconstitution times against a search on a fine grid, and their summaries over subjects."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thymodel.documents.spec import Endpoint
from thymodel.results import report_tables, tables
from thymodel.results.endpoints import crossing_times, incidence, quantile_with_never, summarise_draws

pytestmark = pytest.mark.requirement("REQ-END-01", "REQ-END-02")

ENDPOINT = Endpoint("cd4_200", "cd4", threshold=200.0, unit="cell/uL", horizon=100.0, label="", source="",
                    sustained_for=0.0, clock_start=0.0, after_nadir=True, by=())
DAYS = np.arange(0.0, 101.0, 10.0)
FINE = 0.01  # days


def _time(course, days=DAYS, **changes) -> float:
    return float(crossing_times(replace(ENDPOINT, **changes), days, np.asarray(course, float)))


def _search(endpoint: Endpoint, days: np.ndarray, course: np.ndarray) -> float:
    """The first point of a fine grid from which the course stays at or above the threshold long enough."""
    fine = np.arange(endpoint.clock_start, endpoint.horizon + FINE / 2, FINE)
    values = np.interp(fine, days, course)
    inside = (days >= endpoint.clock_start) & (days <= endpoint.horizon)
    nadir = days[inside][np.argmin(course[inside])] if endpoint.after_nadir else endpoint.clock_start
    above = values >= endpoint.threshold
    ends = np.where(above, len(fine), np.arange(len(fine)))  # of the run that begins here
    ends = np.minimum.accumulate(ends[::-1])[::-1]
    length = fine[np.minimum(ends, len(fine) - 1)] - fine
    good = above & (fine >= nadir - FINE / 2) & (length >= endpoint.sustained_for)
    return fine[np.argmax(good)] - endpoint.clock_start if good.any() else np.inf


@settings(max_examples=300, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(0, 400), min_size=4, max_size=15), after_nadir=st.booleans(),
       sustained=st.integers(0, 40), start=st.integers(0, 3), cut=st.integers(0, 3))
def test_crossing_times_are_those_of_a_search_on_a_fine_grid(levels, after_nadir, sustained, start, cut):
    days = 10.0 * np.arange(len(levels))
    assume(start + 1 < len(levels) - cut)
    course = np.array(levels, float) + 0.5  # never exactly at the threshold on a grid point
    endpoint = replace(ENDPOINT, sustained_for=float(sustained), clock_start=10.0 * start,
                       horizon=days[-1 - cut], after_nadir=after_nadir)
    expected = _search(endpoint, days, course)
    for near in (-3 * FINE, 3 * FINE):  # a run as long as asked to the last digit may fall either way
        other = _search(replace(endpoint, sustained_for=max(sustained + near, 0.0)), days, course)
        assume(other == expected)
    assert crossing_times(endpoint, days, course) == pytest.approx(expected, abs=2 * FINE)


def test_the_crossing_lies_on_the_line_between_two_grid_times():
    assert _time([0, 0, 0, 100, 300, 300, 300, 300, 300, 300, 300]) == pytest.approx(35.0)


def test_counts_before_the_nadir_are_not_reconstitution():
    course = [900, 500, 50, 0, 0, 100, 300, 300, 300, 300, 300]
    assert _time(course) == pytest.approx(55.0)
    assert _time(course, after_nadir=False) == 0.0


def test_a_course_that_never_falls_below_the_threshold_counts_from_its_nadir():
    assert _time([900, 500, 250, 300, 300, 300, 300, 300, 300, 300, 300]) == pytest.approx(20.0)


def test_a_crossing_that_does_not_last_does_not_count():
    course = [0, 0, 300, 0, 0, 100, 300, 300, 300, 300, 300]
    assert _time(course) == pytest.approx(10 + 20 / 3)
    assert _time(course, sustained_for=6.0) == pytest.approx(10 + 20 / 3)  # above for 20/3 days
    assert _time(course, sustained_for=7.0) == pytest.approx(55.0)


def test_a_crossing_must_last_before_the_horizon():
    course = [0, 0, 0, 0, 0, 0, 0, 0, 100, 300, 300]
    assert _time(course, sustained_for=15.0) == pytest.approx(85.0)
    assert _time(course, sustained_for=15.5) == np.inf


def test_nothing_after_the_horizon_counts():
    course = [0, 0, 0, 0, 0, 0, 0, 100, 300, 300, 300]
    assert _time(course, horizon=70.0) == np.inf
    assert _time(course, horizon=80.0) == pytest.approx(75.0)


def test_the_clock_starts_where_the_endpoint_says():
    course = [0, 0, 300, 0, 0, 100, 300, 300, 300, 300, 300]
    assert _time(course, clock_start=30.0) == pytest.approx(25.0)


def test_a_course_above_the_threshold_when_the_clock_starts_has_time_0():
    rising = np.linspace(250, 400, 11)
    assert _time(rising) == 0.0
    assert _time(rising, after_nadir=False) == 0.0


def test_a_course_that_never_arrives_has_an_infinite_time():
    assert _time(np.full(11, 199.9)) == np.inf


def test_a_course_at_the_threshold_has_arrived():
    assert _time(np.full(11, 200.0)) == 0.0


def test_times_have_the_shape_of_the_courses():
    courses = np.random.default_rng(1).uniform(0, 400, size=(2, 3, 4, len(DAYS)))
    found = crossing_times(ENDPOINT, DAYS, courses)
    assert found.shape == (2, 3, 4)
    assert found[1, 2, 3] == _time(courses[1, 2, 3])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(0, 400), min_size=11, max_size=11), sustained=st.integers(0, 30),
       higher=st.integers(1, 100))
def test_a_higher_threshold_or_a_longer_stay_is_never_reached_sooner(levels, sustained, higher):
    first = _time(levels, sustained_for=float(sustained))
    assert _time(levels, sustained_for=float(sustained), threshold=200.0 + higher) >= first
    assert _time(levels, sustained_for=float(sustained + higher)) >= first


def test_a_course_that_could_not_be_computed_has_no_time():
    course = np.full(11, 300.0)
    course[7] = np.nan
    assert np.isnan(_time(course))
    assert _time(course, horizon=60.0) == 0.0


# --- over subjects -------------------------------------------------------------------------------------------


def test_a_quantile_among_times_never_reached_is_an_order_statistic():
    times = np.array([10.0, 20.0, 30.0, np.inf])
    assert [quantile_with_never(times, q) for q in (0.25, 0.5, 0.75, 0.76, 1.0)] == [10.0, 20.0, 30.0, np.inf, np.inf]


def test_a_quantile_never_averages_a_time_with_never():
    assert quantile_with_never(np.array([10.0, np.inf]), 0.5) == 10.0
    assert quantile_with_never(np.full(3, np.inf), 0.5) == np.inf


def test_summaries_are_made_draw_by_draw():
    endpoint = replace(ENDPOINT, clock_start=10.0, horizon=110.0, by=(40.0, 110.0))
    times = np.array([[20.0, 30.0, 50.0, np.inf], [10.0, np.inf, np.inf, np.inf]])
    found = summarise_draws(endpoint, "control", times)
    np.testing.assert_array_equal(found.median, [30.0, np.inf])
    np.testing.assert_array_equal(found.never, [0.25, 0.75])
    np.testing.assert_array_equal(found.restricted_mean, [(20 + 30 + 50 + 100) / 4, (10 + 300) / 4])
    np.testing.assert_array_equal(found.probability_by[40.0], [0.5, 0.25])  # day 40 is 30 days on the clock
    np.testing.assert_array_equal(found.probability_by[110.0], [0.75, 0.25])
    np.testing.assert_array_equal(found.spread, [[20.0, 30.0, np.inf], [10.0, np.inf, np.inf]])


def test_the_incidence_is_the_fraction_that_has_arrived_by_each_day():
    times = np.array([[20.0, 30.0, 50.0, np.inf]])
    np.testing.assert_array_equal(incidence(times, np.array([0.0, 20.0, 49.0, 1000.0])), [[0.0, 0.25, 0.5, 0.75]])


def test_the_restricted_mean_is_the_area_above_the_incidence():
    times = np.random.default_rng(2).uniform(0, 150, size=(3, 40))
    times[times > 100] = np.inf
    days = np.linspace(0, 100, 100_001)
    area = np.mean(1 - incidence(times, days), axis=1) * 100
    found = summarise_draws(ENDPOINT, "control", times)
    np.testing.assert_allclose(found.restricted_mean, area, atol=2e-3)


def test_no_summary_takes_a_course_that_could_not_be_computed_for_one_that_never_arrives():
    endpoint = replace(ENDPOINT, by=(40.0,))
    found = summarise_draws(endpoint, "control", np.array([[20.0, 30.0, np.nan], [20.0, 30.0, 50.0]]))
    summaries = (found.median, found.never, found.restricted_mean, found.probability_by[40.0], found.spread)
    for summary in (*summaries, incidence(np.array([[np.nan, 1.0], [2.0, 1.0]]), np.array([5.0]))):
        assert np.isnan(summary[0]).all() and np.isfinite(summary[1]).all()


# --- landmarks in a record -----------------------------------------------------------------------------------


def test_a_record_says_the_share_at_a_landmark_and_no_time():
    table = pd.DataFrame({"q05": [0.4], "median": [0.5], "q95": [0.62]}, index=["e.by_100[control]"])
    content = {"label": "", "horizon": 100.0, "clock_start": 0.0, "by": [100.0], "landmark": True}
    row = tables._reconstitution(table, "e", content, "control")
    assert row == {"endpoint": "e", "arm": "control", "at or above on day 100": "50% (40 to 62)"}
    stub = SimpleNamespace(content={"endpoints": {"e": content}}, table=table, method="nuts")
    said = report_tables.sentence(report_tables.Source(stub), "e", "control")
    assert said.startswith("Arm control: “e” holds in 50% (") and "40% to 62%) of new patients on day 100" in said
