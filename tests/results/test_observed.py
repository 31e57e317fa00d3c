"""The crossing that visits and assays show, against the latent one, closed forms and a slow search."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from thymodel import cli
from thymodel.documents.spec import Endpoint, load_fit_spec
from thymodel.inference.population import error_name, layout
from thymodel.results.endpoints import crossing_times
from thymodel.results.observed import assay_faults, assay_of, measurements, visit_crossings
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-END-04")

DAYS = np.arange(0.0, 101.0)
ENDPOINT = Endpoint("e", "count", threshold=50.0, unit="cell/uL", horizon=100.0, label="", source="",
                    sustained_for=0.0, clock_start=0.0, after_nadir=True, by=(), visits=tuple(DAYS))
FALSE_ALARM = 1e-4  # of each statistical test here; seeds are fixed
SUBJECTS = 20_000


def _seen(values, days, **changes) -> tuple[float, float]:
    endpoint = replace(ENDPOINT, **{"visits": tuple(days), **changes})
    found = visit_crossings(endpoint, np.array(days, float), np.array(values, float))
    return float(found.after), float(found.at)


# --- the rule ------------------------------------------------------------------------------------------------


def test_without_noise_dense_visits_hold_the_latent_crossing_between_them():
    """Logistic courses, sustained rules and late clocks; the latent time is that of the closed form."""
    middle, days = np.linspace(10.3, 80.4, 57), np.arange(0.0, 101.0, 0.5)
    courses = 200 / (1 + np.exp(-(days - middle[:, None]) / 5))
    exact = middle + 5 * np.log(50 / 150) * 1.0  # 200/(1 + exp(-x)) = 50 at exp(-x) = 3
    for start, sustained in ((0.0, 0.0), (2.0, 0.0), (0.0, 14.0)):
        endpoint = replace(ENDPOINT, clock_start=start, visits=tuple(days[days >= start]), sustained_for=sustained,
                           consecutive=2 if sustained else 1, apart=sustained)
        latent, found = crossing_times(endpoint, days, courses), visit_crossings(endpoint, days, courses)
        inside = exact + 14 < 100 if sustained else exact > 0
        assert latent[inside] == pytest.approx(exact[inside] - start, abs=0.02)
        assert (found.after[inside] < latent[inside]).all() and (latent[inside] <= found.at[inside]).all()
        assert found.at[inside] - found.after[inside] == pytest.approx(0.5)


def test_one_visit_says_before_or_after():
    assert _seen([70], [60]) == (0.0, 60.0)
    assert _seen([40], [60]) == (60.0, np.inf)


def test_days_count_from_the_start_of_the_clock():
    assert _seen([10, 70, 80], [30, 60, 90], clock_start=20.0) == (10.0, 40.0)


def test_never_is_after_the_last_visit():
    assert _seen([10, 20, 30], [30, 60, 90]) == (90.0, np.inf)


def test_a_crossing_that_no_visit_confirmed_may_have_begun_after_the_last_below():
    assert _seen([10, 20, 70], [30, 60, 90], consecutive=2) == (60.0, np.inf)
    assert _seen([70, 70], [80, 90], consecutive=2, apart=14.0, after_nadir=False) == (0.0, np.inf)


def test_two_consecutive_visits_must_lie_as_far_apart_as_asked():
    assert _seen([10, 70, 80, 20, 10], [10, 20, 27, 40, 60], consecutive=2, after_nadir=False) == (10.0, 20.0)
    assert _seen([10, 70, 80, 20, 10], [10, 20, 27, 40, 60], consecutive=2, apart=14.0, after_nadir=False)[1] == np.inf
    assert _seen([10, 70, 80, 70, 10], [10, 20, 27, 34, 60], consecutive=2, apart=14.0, after_nadir=False)[1] == 20.0
    assert _seen([10, 70, 20, 70, 80], [10, 20, 30, 40, 60], consecutive=2, apart=14.0) == (30.0, 40.0)


def test_counts_before_the_nadir_are_not_reconstitution():
    assert _seen([900, 400, 0, 10, 70], [0, 5, 10, 30, 60]) == (30.0, 60.0)
    assert _seen([900, 400, 0, 10, 70], [0, 5, 10, 30, 60], after_nadir=False) == (0.0, 0.0)


def test_a_value_below_the_limit_of_quantification_is_not_above_the_threshold():
    assert _seen([10, 70, 70, 90], [10, 20, 30, 40], lloq=80.0) == (30.0, 40.0)
    assert _seen([10, 70, 70, 90], [10, 20, 30, 40], lloq=5.0) == (10.0, 20.0)


def test_measurements_below_the_limit_are_alike_so_that_the_first_is_the_nadir():
    """Without a limit the 1 on day 40 is the lowest, and the crossing on day 20 would lie before it."""
    assert _seen([3, 70, 1, 90], [10, 20, 40, 60])[1] == 60.0
    assert _seen([3, 70, 1, 90], [10, 20, 40, 60], lloq=5.0)[1] == 20.0


def test_a_landmark_looks_at_its_own_day_alone():
    on_day = {"landmark": True, "horizon": 60.0}
    assert _seen([70, 40, 90], [30, 60, 90], **on_day)[1] == np.inf
    assert _seen([0, 50, 0], [30, 60, 90], **on_day)[1] == 60
    courses = np.array([[70.0, 40, 90], [0, 50, 0]])
    endpoint = replace(ENDPOINT, **on_day)
    assert list(crossing_times(endpoint, np.array([30.0, 60, 90]), courses)) == [np.inf, 60.0]


def _search(endpoint: Endpoint, days, values) -> float:
    """One series after another, visit by visit, as the rule is worded."""
    first = int(np.argmin(values)) if endpoint.after_nadir else 0
    for i in range(first, len(days)):
        for j in range(i, len(days)):
            if values[j] < endpoint.threshold:
                break
            if j - i + 1 >= endpoint.consecutive and days[j] - days[i] >= endpoint.apart:
                return days[i]
    return np.inf


@settings(max_examples=200, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(0, 9), min_size=1, max_size=9), gaps=st.lists(st.integers(1, 20), min_size=9,
       max_size=9), consecutive=st.integers(1, 4), apart=st.integers(0, 40), after_nadir=st.booleans())
def test_the_rule_is_that_of_a_search_visit_by_visit(levels, gaps, consecutive, apart, after_nadir):
    days = np.cumsum(gaps)[:len(levels)].astype(float)
    values = 10.0 * np.array(levels)
    endpoint = replace(ENDPOINT, horizon=500.0, visits=tuple(days), consecutive=consecutive, apart=float(apart),
                       after_nadir=after_nadir)
    found = visit_crossings(endpoint, days, np.array([values, values]))
    assert (found.at == _search(endpoint, days, values)).all() and (found.after <= found.at).all()


# --- the assay -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def assay(tiny_study):
    """Measurements at a stated log SD of the residual error: latent values (arm, draw, subject, visit) -> measured."""
    spec = load_fit_spec(tiny_study)
    lay = layout(spec, ())
    place, one = lay.population.index(error_name("count", "log_sd")), assay_of(spec, lay, "count")

    def measure(latent, log_sd: float, days, seed: int = 1):
        z = np.zeros((latent.shape[1], lay.size))
        z[:, place] = np.log(log_sd / 0.2) / 0.5  # its prior is lognormal(median=0.2, sd=0.5)
        return measurements(one, z, np.array(days, float), latent, seed)

    return measure


def test_without_noise_the_measurement_is_the_course(assay):
    latent = np.linspace(1, 200, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert assay(latent, 1e-12, range(5)) == pytest.approx(latent, rel=1e-10)


def test_a_subject_has_the_same_error_in_every_arm_and_another_at_every_other_place(assay):
    latent = np.stack([np.full((3, 4, 2), 10.0), np.full((3, 4, 2), 90.0)])
    error = np.log(assay(latent, 0.3, (30, 60)) / latent)
    assert error[0] == pytest.approx(error[1], rel=1e-9)
    assert len(np.unique(np.round(error[0], 12))) == error[0].size


def test_another_visit_leaves_the_errors_of_the_others(assay):
    latent = np.full((1, 3, 4, 3), 10.0)
    few, more = assay(latent[..., :2], 0.3, (30, 90)), assay(latent, 0.3, (30, 60, 90))
    assert (few == more[..., [0, 2]]).all() and (few != assay(latent[..., :2], 0.3, (30, 90), seed=2)).all()


def test_the_share_that_visits_show_is_that_of_the_error(assay):
    """A course that stays at 40: one visit shows 50 with probability p = Phi(log(40/50)/0.4), both of two with p**2.

    Binomial bounds, false alarm 1e-4; the square is told from p itself, so the test has the power to see the rule."""
    values = assay(np.full((1, 1, SUBJECTS, 2), 40.0), 0.4, (30, 60))
    p = norm.cdf(np.log(40 / 50) / 0.4)
    for consecutive, own, other in ((1, 1 - (1 - p)**2, p), (2, p**2, p)):
        endpoint = replace(ENDPOINT, visits=(30.0, 60.0), consecutive=consecutive, after_nadir=False)
        seen = int(np.isfinite(visit_crossings(endpoint, np.array([30.0, 60]), values).at).sum())
        low, high = binom.ppf((FALSE_ALARM / 2, 1 - FALSE_ALARM / 2), SUBJECTS, own)
        assert low <= seen <= high
        wrong = binom.ppf((FALSE_ALARM / 2, 1 - FALSE_ALARM / 2), SUBJECTS, other)
        assert not wrong[0] <= seen <= wrong[1]


# --- scenarios -----------------------------------------------------------------------------------------------

TABLE = """
title = "doses"
subjects = 16
draws = 8
reference = "control"
visits = [1, 5, 9, 12, 16, 20]
[dose_response]
target = 0.999
[endpoints.back]
marker = "count"
threshold = 80
unit = "cell/uL"
horizon = 20
sustained_for = 2
by = [10]
[endpoints.day12]
marker = "count"
threshold = 80
unit = "cell/uL"
horizon = 12
landmark = true
[arms.control]
[arms.low]
doses = [{ amount = 20, day = 8 }]
[arms.high]
doses = [{ amount = 100, day = 8 }]
"""


@pytest.fixture(scope="module")
def scenario(tiny_fit, tmp_path_factory):
    def run(text: str):
        path = tmp_path_factory.mktemp("scenarios") / "s.toml"
        path.write_text(text, encoding="utf-8")
        return run_scenario(tiny_fit, path)

    return run


@pytest.fixture(scope="module")
def found(scenario):
    return scenario(TABLE)


def _row(found, quantity: str, arm: str = "high", endpoint: str = "back"):
    rows = found.table
    return rows[(rows["endpoint"] == endpoint) & (rows["arm"] == arm) & (rows["quantity"] == quantity)].squeeze()


def test_a_scenario_has_rows_for_both_crossings(found):
    latent, observed = _row(found, "P(by day 10)"), _row(found, "P(by day 10), as observed")
    assert observed["estimate"] == np.quantile(np.mean(found.observed["back"].at[2] <= 10, axis=1), 0.5,
                                               method="inverted_cdf")
    assert latent["estimate"] == np.quantile(np.mean(found.times["back"][2] <= 10, axis=1), 0.5, method="inverted_cdf")
    assert (latent["unit"], _row(found, "median time, as observed")["unit"]) == ("probability", "day")
    assert _row(found, "last visit before the median time, as observed")["estimate"] in (0, 1, 5, 9, 12, 16, 20)
    assert (found.observed["back"].after <= found.observed["back"].at).all()


def test_a_landmark_has_no_times(found):
    mine = found.table[found.table["endpoint"] == "day12"]
    assert not mine["quantity"].str.contains("time").any()
    assert _row(found, "P(at or above on day 12)", endpoint="day12")["estimate"] >= 0
    assert set(_row(found, "P(at or above on day 12), as observed", endpoint="day12").index) == set(mine.columns)


def test_visits_do_not_move_the_latent_crossing(found, scenario):
    """Up to the straight lines between grid times, which visits make denser: 0.11 days."""
    alone = scenario(TABLE.replace("visits = [1, 5, 9, 12, 16, 20]", ""))
    both = np.isfinite(found.times["back"]) & np.isfinite(alone.times["back"])
    assert both.any() and found.times["back"][both] == pytest.approx(alone.times["back"][both], abs=0.111)
    assert (np.isfinite(found.times["back"]) == np.isfinite(alone.times["back"])).mean() > 0.98
    assert not alone.observed and not alone.table["quantity"].str.contains("observed").any()


def test_arms_are_compared_subject_by_subject_and_draw_by_draw(scenario, found):
    """The same arm twice differs by nothing, measured or not, in any draw; another dose does."""
    text = TABLE.replace("[dose_response]\ntarget = 0.999\n", "").replace("amount = 20,", "amount = 100,")
    same = scenario(text.replace('reference = "control"', 'reference = "low"'))
    for quantity in ("P(by day 10)", "P(by day 10), as observed", "restricted mean time, as observed"):
        twin, other = (_row(same, f"{quantity}, difference from low", arm) for arm in ("high", "control"))
        assert (twin["lower"], twin["estimate"], twin["upper"]) == (0, 0, 0)
        assert other["estimate"] != 0
    own = np.mean(found.times["back"] <= 10, axis=2)
    assert _row(found, "P(by day 10), difference from control")["estimate"] == \
        np.quantile(own[2] - own[0], 0.5, method="inverted_cdf")


def test_a_median_that_is_not_reached_is_said(found):
    row = _row(found, "median time, difference from control")
    reached = np.isfinite(np.quantile(found.times["back"], 0.5, axis=2, method="inverted_cdf"))
    assert f"in {100 * (1 - reached[0].mean()):.0f}% in control" in row["note"]
    assert not row["estimate"] > 0  # it is earlier than never, or not defined


def test_dose_response_stands_in_the_table(found):
    row = _row(found, "ED50 of P(at or above on day 12)", "all arms", "day12")
    assert 0 < row["estimate"] <= 100 and row["unit"] == "dose, cell/uL" and "0 to 100 cell/uL" in row["note"]
    target = _row(found, "dose at which P(by day 10), as observed reaches 99.9%", "all arms")
    assert np.isinf(target["estimate"]) and target["note"].startswith("no dose from 0 to 100 cell/uL reaches")


def test_a_marker_that_was_not_measured_cannot_be_observed(tiny_study):
    spec = load_fit_spec(tiny_study)
    assert assay_faults("s.toml", spec, {"a": ENDPOINT, "b": replace(ENDPOINT, marker="rte", visits=())}) == []
    fault, = assay_faults("s.toml", spec, {"c": replace(ENDPOINT, marker="counts")})
    assert fault.where == "s.toml: endpoints.c.visits" and "did you mean 'count'" in fault.what


def test_the_command_prints_both_crossings_and_its_notes(tiny_fit, tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.toml"
    path.write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["thymodel", "scenario", str(tiny_fit.folder), str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert not stop.value.code and "P(by day 10), as observed" in out and "none in range" in out
    assert "Note on " in out and "no dose from 0 to 100 cell/uL reaches" in out


def test_bad_visits_cost_status_2_and_list_every_fault(tiny_fit, tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.toml"
    path.write_text(TABLE.replace("[1, 5, 9", "[5, 1, 9").replace('"control"', '"contrl"'), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["thymodel", "scenario", str(tiny_fit.folder), str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out
    assert "s.toml: visits: day 1 comes after day 5" in err and "reference: no arm 'contrl'; did you mean" in err


def test_the_same_file_gives_the_same_table(scenario, found):
    assert scenario(TABLE).table.equals(found.table)
