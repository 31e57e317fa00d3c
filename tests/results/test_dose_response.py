"""Contrasts of arms and dose-response against closed forms, and what is said where there is no answer."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from thymodel.documents.dose_range import DoseRange
from thymodel.results.contrasts import compare, decided_quantile, estimate
from thymodel.results.dose_response import dose_quantities, dose_reaching
from thymodel.results.endpoints import Quantity
from thymodel.results.tables import quantity_text

pytestmark = pytest.mark.requirement("REQ-SCN-04")

INF, NAN = np.inf, np.nan
DOSES = tuple(np.linspace(0, 20, 2001))
BASE, EMAX = 0.1, 0.7


def _span(doses=DOSES, target=None) -> DoseRange:
    return DoseRange("cells", "Mcell/kg", tuple(range(len(doses))), tuple(doses), target)


def _hyperbola(ed50) -> np.ndarray:
    dose = np.array(DOSES)
    return BASE + EMAX * dose / (np.asarray(ed50)[:, None] + dose)


# --- contrasts -----------------------------------------------------------------------------------------------


def test_a_quantile_is_stated_only_if_undefined_draws_cannot_move_it():
    values = np.array([*range(1, 20), NAN], float)
    assert np.isnan(decided_quantile(values, 0.5)) and decided_quantile(np.array([5.0, 5, 5, NAN]), 0.5) == 5
    assert decided_quantile(np.arange(1.0, 21), 0.5) == 10


def test_an_infinite_quantile_is_one():
    assert estimate(np.array([1.0, INF, INF, INF])) == (1.0, INF, INF)


def test_differences_and_ratios_are_taken_draw_by_draw():
    one = Quantity("P", np.array([0.5, 0.6, 0.9]), "probability", contrasted=True)
    other = Quantity("P", np.array([0.25, 0.4, 0.3]), "probability", contrasted=True)
    difference, ratio = compare([one], [other], "control")
    assert difference.values == pytest.approx([0.25, 0.2, 0.6]) and ratio.values == pytest.approx([2, 1.5, 3])
    assert difference.name == "P, difference from control" and (difference.note, ratio.note) == ("", "")


def test_times_that_are_not_reached_are_said_and_not_subtracted_away():
    one = Quantity("median time", np.array([50.0, 60, INF, INF]), "time", contrasted=True)
    other = Quantity("median time", np.array([100.0, INF, 90, INF]), "time", contrasted=True)
    difference, ratio = compare([one], [other], "control")
    assert difference.values == pytest.approx([-50, -INF, INF, NAN], nan_ok=True)
    assert ratio.values == pytest.approx([0.5, 0, INF, NAN], nan_ok=True)
    assert difference.note.startswith("not reached by the horizon in 50% of the draws here, in 50% in control, in 25%")
    assert quantity_text(-INF, difference.unit, 365) == "not reached there"
    assert quantity_text(NAN, difference.unit, 365) == "not defined"


def test_a_ratio_to_nothing_is_not_a_number_without_a_word():
    one, other = (Quantity("P", np.array(v), "probability", contrasted=True) for v in ([0.5, 0.0], [0.0, 0.0]))
    _, ratio = compare([one], [other], "control")
    assert ratio.values[0] == INF and np.isnan(ratio.values[1])
    assert ratio.note.startswith("0 in control in 100% of the draws, and here too in 50%")


def test_the_share_not_reached_is_not_compared_twice():
    never = Quantity("P(not by day 365)", np.array([0.5]), "probability")
    assert compare([never], [never], "control") == []


# --- dose-response -------------------------------------------------------------------------------------------


def test_ed50_and_ed90_are_those_of_a_hyperbola_over_the_range():
    """With D the highest dose, a part f of the rise is at ed50 g/(1 - g), where g = f D/(ed50 + D)."""
    ed50 = np.array([0.5, 2.0, 8.0])
    found = dose_quantities(_span(), "P", _hyperbola(ed50))
    for quantity, part in zip(found, (0.5, 0.9), strict=True):
        g = part * DOSES[-1] / (ed50 + DOSES[-1])
        assert quantity.values == pytest.approx(ed50 * g / (1 - g), rel=1e-4)
    assert "highest at the last dose in 100%" in found[0].note and found[0].unit == "dose, Mcell/kg"
    assert found[0].values[1] < 2.0  # not the ED50 of the curve beyond the range


def test_the_dose_of_a_target_is_that_of_the_inverse_curve():
    ed50, target = np.array([0.5, 2.0, 60.0]), 0.6
    found = dose_quantities(_span(target=target), "P", _hyperbola(ed50))[-1]
    share = (target - BASE) / EMAX
    assert found.values[:2] == pytest.approx(ed50[:2] * share / (1 - share), rel=1e-4) and found.values[2] == INF
    assert found.note == "no dose from 0 to 20 Mcell/kg reaches it in 33% of the draws"
    assert found.name == "dose at which P reaches 60%"


def test_intervals_of_an_ed50_are_those_of_the_draws():
    """ED50 rises with the curve's own, so that its quantiles are those of the draws, mapped."""
    ed50 = np.exp(np.random.default_rng(1).normal(0, 0.5, 400))
    low, middle, high = estimate(dose_quantities(_span(), "P", _hyperbola(ed50))[0].values)
    g = 0.5 * DOSES[-1] / (ed50 + DOSES[-1])
    expected = np.quantile(ed50 * g / (1 - g), (0.05, 0.5, 0.95), method="inverted_cdf")
    assert (low, middle, high) == pytest.approx(expected, rel=1e-4)


def test_a_curve_between_few_doses_is_straight():
    found = dose_reaching(np.array([0.0, 4, 9]), np.array([[0.2, 0.4, 0.9]] * 5), np.array([0.1, 0.2, 0.3, 0.65, 0.95]))
    assert found == pytest.approx([0, 0, 2, 6.5, INF])


def test_a_curve_that_falls_again_is_read_where_it_first_gets_there():
    span, curve = _span((0, 1, 2, 3)), np.array([[0.0, 0.8, 1.0, 0.5]])
    half, most = dose_quantities(span, "P", curve)
    assert (half.values[0], most.values[0]) == pytest.approx((0.625, 1.5)) and "more might do more" not in half.note


def test_without_a_rise_there_is_no_ed50_and_it_is_said():
    half, *_ = dose_quantities(_span((0, 4, 9)), "P", np.array([[0.5, 0.5, 0.5], [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]]))
    assert np.isnan(half.values[:2]).all() and half.values[2] == pytest.approx(4)
    assert "no rise in 67% of the draws" in half.note


def test_a_target_that_no_dose_reaches_is_said_plainly():
    found = dose_quantities(_span((0, 4, 9), 0.8), "P", np.array([[0.1, 0.2, 0.3]] * 4))[-1]
    assert np.isinf(found.values).all() and found.note == "no dose from 0 to 9 Mcell/kg reaches 80% in any draw"
    assert quantity_text(INF, found.unit, 365) == "none in range"


def test_a_target_that_the_lowest_dose_reaches_is_said():
    found = dose_quantities(_span((0, 4, 9), 0.2), "P", np.array([[0.3, 0.4, 0.5], [0.1, 0.2, 0.3]]))[-1]
    assert list(found.values) == [0, 4] and "the lowest dose already does in 50%" in found.note


# --- calibration ---------------------------------------------------------------------------------------------


def test_ed90_is_covered_at_the_nominal_rate():
    """200 Emax cohorts with truths from the prior and exact posteriors, of the qualification script; limits with an
    alarm of 1e-3. The control: posteriors that take the residual SD for half of what it is fall below them."""
    path = Path(__file__).resolve().parents[2] / "qualification" / "ed90.py"
    found = importlib.util.spec_from_file_location("ed90", path)
    assert found is not None and found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    low, high = binom.interval(1 - 1e-3, 200, 0.9)
    place = script.NAMES.index("ED90")
    assert low <= script.coverage(200, script.RESIDUAL, 5)[0][place] <= high
    assert script.coverage(200, script.RESIDUAL / 2, 5)[0][place] < low
