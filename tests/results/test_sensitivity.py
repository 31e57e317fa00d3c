"""Sensitivity: indices and elasticities with closed forms, days beyond the horizon, faults, the figure."""

import json
import math
import sys

import numpy as np
import pytest
import scipy.stats
from scipy.stats import norm

from thymodel import cli
from thymodel.documents.model import load_model, parse_model
from thymodel.errors import InputError
from thymodel.results import sensitivity
from thymodel.results.sensitivity import analyse, as_json, headline, sobol_indices
from thymodel.results.tornado import plot_tornado

pytestmark = pytest.mark.requirement("REQ-CHK-05")

MODEL = """
title = "Growth and decay"
description = "x = x0*exp(-k*t), y = y0*exp(g*t)."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "test" }
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.3)", source = "test" }
y0 = { unit = "cell/uL", value = 10, prior = "lognormal(median=10, sd=0.2)", source = "test" }
g = { unit = "1/day", value = 0.05, prior = "lognormal(median=0.05, sd=0.4)", source = "test" }
fixed = { unit = "1", value = 2, source = "test" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[states.y]
unit = "cell/uL"
initial = "y0"
rate = "g*y"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.falling]
label = "a falling count"
unit = "cell/uL"
value = "x"
[observables.rising]
label = "a rising count"
unit = "cell/uL"
value = "y*fixed/2"
"""
ENDPOINTS = ["falling@8", "rising>20@40", "rising>200@10"]


@pytest.fixture(scope="module")
def found():
    return analyse(parse_model(MODEL, "growth.toml", "growth"), (), ENDPOINTS, 512, 3)


def _of(found, values) -> dict[str, float]:
    return dict(zip(found.names, values, strict=True))


# --- indices -------------------------------------------------------------------------------------------------


def _within(value, half, wanted):
    """In the interval, made twice as wide: 95% intervals of many numbers at once."""
    assert np.all(np.abs(value - wanted) <= 2 * half + 1e-3), (value, half, wanted)


def _ishigami(z):
    x = np.pi * (2 * norm.cdf(z) - 1)
    return (np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0]))[:, None]


def test_indices_of_the_ishigami_function_are_the_known_ones():
    """Ishigami & Homma 1990, a = 7, b = 0.1: closed forms."""
    a, b = 7.0, 0.1
    variance = a**2 / 8 + b * np.pi**4 / 5 + b**2 * np.pi**8 / 18 + 0.5
    first = np.array([0.5 * (1 + b * np.pi**4 / 5) ** 2, a**2 / 8, 0.0]) / variance
    shared = b**2 * np.pi**8 * 8 / 225 / variance
    found = sobol_indices(_ishigami, ["a", "b", "c"], 4096, 1)
    _within(found.first[0], found.first_half[0], first)
    _within(found.total[0], found.total_half[0], first + [shared, 0, shared])
    assert np.all(found.total_half < 0.1)


def test_indices_agree_with_another_implementation():
    found = sobol_indices(_ishigami, ["a", "b", "c"], 4096, 1)
    other = scipy.stats.sobol_indices(func=lambda x: _ishigami(x.T).T, n=4096, dists=[scipy.stats.norm()] * 3,
                                      rng=np.random.default_rng(2))
    _within(found.first[0], found.first_half[0], np.ravel(other.first_order))
    _within(found.total[0], found.total_half[0], np.ravel(other.total_order))


def test_a_product_of_two_shares_its_variance_in_the_interaction():
    """(1 + s z1)(1 + s z2): first order 1/(2 + s**2) each, total (1 + s**2)/(2 + s**2)."""
    s = 0.8
    found = sobol_indices(lambda z: ((1 + s * z[:, 0]) * (1 + s * z[:, 1]))[:, None], ["a", "b"], 4096, 1)
    _within(found.first[0], found.first_half[0], 1 / (2 + s**2))
    _within(found.total[0], found.total_half[0], (1 + s**2) / (2 + s**2))


def test_what_does_not_vary_has_no_indices():
    found = sobol_indices(lambda z: np.ones((len(z), 1)), ["a", "b"], 16, 1)
    assert np.isnan(found.first).all() and np.isnan(found.total).all()


def test_samples_with_a_failed_course_are_left_out_and_counted():
    def sometimes(z):
        return np.where(z[:, :1] > 2.0, np.nan, z[:, :1])

    found = sobol_indices(sometimes, ["a", "b"], 512, 1)
    assert 0 < found.failed < 60 and np.isfinite(found.outputs).all()
    assert found.first[0, 0] == pytest.approx(1.0, abs=0.1)


# --- a model -------------------------------------------------------------------------------------------------


def test_indices_of_a_log_linear_value_are_its_shares_of_variance(found):
    """log x(8) = log x0 - 8 k, k lognormal: variances 0.25 and 64 var(k)."""
    var_k = 64 * 0.1**2 * math.exp(0.3**2) * (math.exp(0.3**2) - 1)
    wanted = {"x0": 0.25 / (0.25 + var_k), "k": var_k / (0.25 + var_k), "y0": 0.0, "g": 0.0}
    answer = found.answers[0]
    for name, share in wanted.items():
        k = found.names.index(name)
        _within(answer.first[k], answer.first_half[k], share)
        _within(answer.total[k], answer.total_half[k], share)


def test_elasticities_of_a_value_are_exact(found):
    wanted = {"x0": 1.0, "k": -0.8, "y0": 0.0, "g": 0.0}
    assert found.answers[0].typical == pytest.approx(100 * math.exp(-0.8), rel=1e-5)
    assert _of(found, found.answers[0].elasticity) == pytest.approx(wanted, abs=1e-3)


def test_elasticities_of_a_day_follow_from_the_course(found):
    """T = log(20/y0)/g: -1 for g, -1/log(2) for y0."""
    answer = found.answers[1]
    assert answer.typical == pytest.approx(math.log(2) / 0.05, rel=1e-3)
    assert _of(found, answer.elasticity) == pytest.approx({"x0": 0, "k": 0, "y0": -1 / math.log(2), "g": -1}, abs=3e-3)


def test_one_prior_sd_up_and_down_is_the_model_solved_there(found):
    answer, k = found.answers[0], found.names.index("k")
    assert answer.low[k] == pytest.approx(100 * math.exp(-0.8 * math.exp(-0.3)), rel=1e-3)
    assert answer.high[k] == pytest.approx(100 * math.exp(-0.8 * math.exp(0.3)), rel=1e-3)


def test_a_day_not_reached_is_restricted_to_the_horizon_and_said_to_be(found):
    answer = found.answers[2]
    assert math.isinf(answer.typical) and np.isnan(answer.elasticity).all()
    # log(20)/g < 10 needs g > 0.3, 4.5 sd away: nobody gets there in so few samples
    assert answer.reached == 0.0 and np.isnan(answer.total).all()
    assert "not by 10" in headline(found, answer) and "100% of the samples do not by day 10" in headline(found, answer)


def test_the_share_that_reaches_is_that_of_the_prior(found):
    """P(log(20/y0)/g < 40) by quadrature over g."""
    z = np.linspace(-8, 8, 4001)
    chance = norm.cdf((40 * 0.05 * np.exp(0.4 * z) - math.log(2)) / 0.2)
    wanted = np.trapezoid(chance * norm.pdf(z), z)
    # samples share coordinates within a block; 512 independent ones at the least
    assert found.answers[1].reached == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / 512))


def test_the_same_seed_gives_the_same_indices():
    model = parse_model(MODEL, "growth.toml", "growth")
    one, same = (analyse(model, (), ["falling@8"], 16, 5).answers[0] for _ in range(2))
    np.testing.assert_array_equal(one.total, same.total)


def test_json_has_null_for_a_day_that_is_not_reached(found):
    content = json.loads(as_json(found))
    last = content["endpoints"][2]
    assert last["typical"] is None and last["reached_by_horizon"] == 0 and last["total"]["g"] is None
    assert content["endpoints"][0]["elasticity"]["x0"] == pytest.approx(1.0, abs=1e-3)


def test_the_tornado_has_axes_with_units_and_marks_what_is_not_reached(found):
    figure = plot_tornado(found)
    assert [axes.get_xlabel() for axes in figure.axes] == ["falling (cell/uL)", "time (day)", "time (day)"]
    first = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert first[-1] == "x0" and set(first) == set(found.names)  # the longest bar on top
    width = {patch.get_width() for patch in figure.axes[0].patches}
    assert max(width) == pytest.approx(100 * math.exp(-0.8) * (math.exp(0.5) - 1), rel=1e-3)
    assert all(bar.get_hatch() for bar in figure.axes[2].patches)


def test_homing_matters_to_emigrants_and_not_to_total_counts():
    from thymodel.documents.regimen import Dose

    model = load_model("thymus_core")
    found = analyse(model, [Dose(7, "progenitors", 4)], ["cd4@100", "rte4@100"], 8, 1)
    by_marker = [_of(found, answer.elasticity)["eta"] for answer in found.answers]
    assert by_marker[1] > 5 * abs(by_marker[0])


# --- faults --------------------------------------------------------------------------------------------------


def test_every_fault_of_the_arguments_is_told():
    with pytest.raises(InputError) as caught:
        sensitivity.analyse_texts("thymus_core", ["x@y", "1@7:nothing"],
                                  ["cd5@100", "cd4", "cd4>", "cd4@-3", "cd4>-2"], 64, 1)
    text = str(caught.value)
    assert len(caught.value.faults) == 7
    assert "no observable 'cd5'" in text and "--endpoint cd4>-2: a threshold of -2" in text


def test_a_model_without_priors_is_told():
    bare = parse_model(MODEL.replace(", prior = ", ", label = "), "bare.toml", "bare")
    with pytest.raises(InputError, match="no parameter has a prior"):
        analyse(bare, (), ["falling@8"])


@pytest.mark.parametrize("words, told", [
    (["thymus_core", "--samples", "100"], "--samples 100: not a power of 2"),
    (["thymus_core", "--endpoint", "cd4 100"], "no observable 'cd4 100'"),
    (["thymus_core", "--out", "figure.doc"], "not a kind of figure"),
    (["no_such_model"], "no such model")])
def test_the_command_line_refuses_with_status_2(monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["thymodel", "sensitivity", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and told in err and "Traceback" not in err


def test_the_command_line_prints_tables_and_writes_the_figure(tmp_path, monkeypatch, capsys):
    (tmp_path / "growth.toml").write_text(MODEL)
    words = [str(tmp_path / "growth.toml"), "--endpoint", "falling@8", "--samples", "16", "--out",
             str(tmp_path / "t.svg")]
    monkeypatch.setattr(sys, "argv", ["thymodel", "sensitivity", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "falling on day 8: 44.93 cell/uL at typical values" in out
    assert "</svg>" in (tmp_path / "t.svg").read_text()


def test_the_rounding_of_a_course_that_does_not_move_is_shown_as_zero():
    assert [sensitivity._shown(value) for value in (-1.3e-16, 0.156, math.nan)] == ["0", "0.156", "none"]
