"""How far predictions go beyond a fit: closed forms of each component, the committed record, bad input."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from thymodel.documents.borrowed import Borrowed
from thymodel.documents.model import load_model
from thymodel.documents.priors import parse_prior
from thymodel.documents.regimen import Dose
from thymodel.documents.spec import Arm
from thymodel.errors import InputError
from thymodel.inference.population import Layout
from thymodel.results import extrapolation as beyond
from thymodel.results import plots
from thymodel.results.extrapolation import Component, Fitted, LeftOut, Level, Verdict, Verdicts
from thymodel.results.record import load_record
from thymodel.results.report import report_html
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-SCN-03")

RESET = Path(__file__).resolve().parents[2] / "fits/reset02_design"
MODEL = load_model("thymus_competition")  # inputs progenitors and ptcy, covariates age and BW
INPUTS, NAMES = tuple(MODEL.inputs), tuple(MODEL.covariates)
AGES = np.linspace(25.0, 65.0, 20)
WEIGHTS = np.tile([60.0, 70.0, 80.0, 90.0], 5)


def _cells(amount: float, day: float = 7.0) -> Dose:
    return Dose(day, "progenitors", amount)


def _fitted(given=(0.0, 1.5, 4.0, 9.0), before=(), **other) -> Fitted:
    """Patients of age 25 to 65 whose doses do not depend on it; `before` was given to everyone."""
    people = {"age": AGES, "BW": WEIGHTS} | other
    rows = np.stack([np.broadcast_to(people.get(name, MODEL.covariates[name].value), 20) for name in NAMES], axis=1)
    amounts = np.resize([given[0], given[-1], *given[1:-1]], 20)
    totals = np.array([[amount if name == "progenitors" else 0.0 for name in INPUTS] for amount in amounts])
    cohorts = {f"{x:g}": (*before, *((_cells(x),) if x else ())) for x in given}
    return Fitted(cohorts, NAMES, rows, INPUTS, totals)


def _position(*doses: Dose, fitted: Fitted | None = None, **covariates: float) -> Component:
    known = fitted or _fitted()
    people = {name: known.covariates[:, k] for k, name in enumerate(known.names)}
    return beyond.position(known, MODEL, Arm("a", "a", doses, covariates), people)


# --- position ----------------------------------------------------------------------------------------------------


def test_leverage_is_the_diagonal_of_the_hat_matrix():
    design = np.random.default_rng(1).normal(size=(12, 3)) * [1.0, 100.0, 1e-3] + [5.0, 0.0, 1.0]
    orthogonal, _ = np.linalg.qr(np.column_stack([np.ones(12), design]))
    hat = orthogonal @ orthogonal.T
    np.testing.assert_allclose(beyond.leverage(design, design), np.diag(hat), rtol=1e-9)
    assert beyond.leverage(design, design).sum() == pytest.approx(4)


def test_leverage_of_one_variable_is_its_closed_form_and_a_constant_adds_nothing():
    """1/n + (x - mean)^2 / Sxx."""
    x = np.array([1.0, 2.0, 3.0, 4.0])
    design = np.column_stack([x, np.full(4, 70.0), 2 * x])
    points = np.array([[10.0, 70.0, 20.0], [2.5, 70.0, 5.0]])
    np.testing.assert_allclose(beyond.leverage(points, design), [1 / 4 + 7.5**2 / 5, 1 / 4])


@pytest.mark.parametrize(("doses", "level", "words"), [
    ((), Level.interpolation, "within those of the fit"),
    ((_cells(4),), Level.interpolation, "within"),
    ((_cells(4, 7.5),), Level.interpolation, "within"),
    ((_cells(9),), Level.interpolation, "within"),
    ((_cells(0), ), Level.interpolation, "within"),
    ((_cells(12),), Level.mild, "1.3 times the most of a fitted cohort (9 Mcell/kg)"),
    ((_cells(18),), Level.mild, "2 times"),
    ((_cells(30),), Level.strong, "30 Mcell/kg of progenitors in all is 3.3 times"),
    ((_cells(4, 12),), Level.mild, "progenitors on day 12, in the fitted cohorts on 7"),
    ((_cells(4, 30),), Level.strong, "progenitors on day 30, in the fitted cohorts on 7"),
    ((_cells(2), _cells(2, 8)), Level.mild, "given 2 times, in a fitted cohort at most 1"),
    ((_cells(9), _cells(9, 8), _cells(9, 7.5)), Level.strong, "27 Mcell/kg of progenitors in all is 3 times"),
    ((_cells(4), Dose(3.0, "ptcy", 50.0)), Level.strong, "ptcy was given to no fitted cohort")])
def test_doses_are_set_against_the_fitted_cohorts(doses, level, words):
    found = _position(*doses)
    assert (found.level, words in found.text) == (level, True), found.text


def test_a_single_dose_beyond_the_fitted_ones_within_their_total_is_seen():
    fitted = replace(_fitted(), cohorts={"none": (), "four": tuple(_cells(3, day) for day in (7, 8, 9, 10))})
    assert _position(_cells(5), fitted=fitted).level is Level.mild
    assert "5 Mcell/kg of progenitors at once is 1.7 times" in _position(_cells(5), fitted=fitted).text
    assert _position(_cells(7), fitted=fitted).level is Level.strong
    assert _position(_cells(3, 8.5), fitted=fitted).level is Level.interpolation  # between fitted days


def test_conditioning_that_every_fitted_patient_had_is_missed():
    fitted = _fitted(before=(Dose(3.0, "ptcy", 50.0), Dose(4.0, "ptcy", 50.0)))
    found = _position(_cells(4), fitted=fitted)
    assert found.level is Level.strong
    assert "0 mg/kg of ptcy in all, where every fitted cohort had 100 mg/kg or more" in found.text
    with_it = (Dose(3.0, "ptcy", 50.0), Dose(4.0, "ptcy", 50.0), _cells(4))
    assert _position(*with_it, fitted=fitted).level is Level.interpolation
    assert _position(*with_it[1:], fitted=fitted).level is Level.mild


@pytest.mark.parametrize(("covariates", "level", "words"), [
    ({}, Level.interpolation, "within"),
    ({"age": 45.0}, Level.interpolation, "within"),
    ({"age": 68.0}, Level.mild, "age 68 year in 100% of subjects, 25 to 65 in the fitted patients"),
    ({"age": 8.0}, Level.strong, "age 8 year in 100% of subjects, 25 to 65"),
    ({"BW": 12.0}, Level.strong, "BW 12 kg")])
def test_covariates_are_set_against_the_fitted_patients(covariates, level, words):
    found = _position(_cells(4), **covariates)
    assert (found.level, words in found.text) == (level, True), found.text


def test_a_covariate_that_all_patients_share_says_nothing_of_another_value():
    fitted = _fitted(BW=70.0)
    assert _position(fitted=fitted, BW=70.0).level is Level.interpolation
    found = _position(fitted=fitted, BW=71.0)
    assert found.level is Level.strong and "BW 71 kg in 100% of subjects, 70 in every fitted patient" in found.text


def test_an_empty_corner_of_two_covariates_is_seen_by_leverage_alone():
    """The old are heavy and the young light: a young heavy patient is within both ranges and unlike any."""
    fitted = replace(_fitted(BW=AGES + 30 + np.tile([-1.0, 1.0], 10)), totals=None)
    inside = _position(fitted=fitted, age=64.0, BW=94.0)
    corner = _position(fitted=fitted, age=26.0, BW=94.0)
    assert inside.level is Level.interpolation
    assert corner.level is Level.strong and corner.text.startswith("leverage of age, BW")


def test_a_corner_of_dose_and_covariates_is_mild_and_needs_the_doses_of_patients():
    """Only the young had the dose."""
    fitted = replace(_fitted(), totals=np.array([[9.0 if name == "progenitors" and age < 35 else 0.0
                                                  for name in INPUTS] for age in AGES]))
    corner = _position(_cells(9), fitted=fitted, age=64.0, BW=75.0)
    assert corner.level is Level.mild and "together in a corner that it lacks" in corner.text
    assert _position(_cells(9), fitted=fitted, age=30.0, BW=75.0).level is Level.interpolation
    assert _position(_cells(9), fitted=replace(fitted, totals=None), age=64.0, BW=75.0).level is Level.interpolation


def test_a_covariate_that_is_not_known_says_nothing():
    fitted = _fitted(age=np.where(AGES > 60, np.nan, AGES))
    assert _position(_cells(4), fitted=fitted).level is Level.interpolation
    assert _position(_cells(4), fitted=fitted, age=8.0).level is Level.strong
    assert _position(_cells(4), fitted=_fitted(age=np.nan), age=8.0).level is Level.interpolation


def test_a_tenth_of_the_subjects_outside_is_mild_and_less_is_nothing():
    fitted = _fitted()
    for outside, level in ((1, Level.interpolation), (2, Level.mild), (12, Level.strong)):
        ages = np.where(np.arange(20) < outside, 5.0, 45.0)
        people = {"age": ages, "BW": WEIGHTS} | {name: np.full(20, MODEL.covariates[name].value) for name in NAMES
                                                if name not in ("age", "BW")}
        assert beyond.position(fitted, MODEL, Arm("a", "a", (), {}), people).level is level


# --- parameters --------------------------------------------------------------------------------------------------


def _layout(**changes) -> Layout:
    normal = parse_prior("normal(mean=0, sd=1)")
    lay = Layout({"a": normal, "b": normal}, {"a": parse_prior("halfnormal(sd=1)")}, (), 1.0, {},
                 {"sigma": parse_prior("lognormal(median=1, sd=1)")}, ())
    return replace(lay, **changes)


def _draws(sds, count: int = 200) -> np.ndarray:
    """Draws whose sample covariance is exactly diagonal with these SDs."""
    z = np.random.default_rng(7).normal(size=(count, len(sds)))
    z -= z.mean(axis=0)
    return z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T)).T) * sds


@pytest.mark.parametrize(("slopes", "share"), [
    ((1.0, 0.0, 0.0), 0.1), ((0.0, 1.0, 0.0), 0.8), ((0.0, 0.0, 1.0), 1.0),
    ((3.0, 4.0, 0.0), math.sqrt((9 * 0.01 + 16 * 0.64) / 25))])
def test_what_the_data_left_of_a_linear_prediction_is_its_closed_form(slopes, share):
    """SD of s'z under the posterior, diag(0.1, 0.8, 1)^2, over that under the prior, the identity."""
    z = _draws((0.1, 0.8, 1.0, 0.2))
    found = beyond.parameters(_layout(), z, 5 + z[:, :3] @ np.array(slopes))
    level = Level.strong if share > 0.9 else Level.mild if share > 0.5 else Level.interpolation
    assert found.level is level
    assert f"kept {100 * share:.0f}% of its prior's SD" in found.text
    named = ("a", "b", "omega_a")[int(np.argmax(np.array(slopes) ** 2 * [0.01, 0.64, 1.0]))]
    assert f"most of it {named} (" in found.text


def test_the_residual_error_does_not_enter_a_latent_prediction():
    z = _draws((0.1, 0.8, 1.0, 0.2))
    assert "not known" in beyond.parameters(_layout(), z, z[:, 3]).text


@pytest.mark.parametrize(("values", "words"), [
    (np.full(200, 365.0), "the same under every draw"), (np.r_[np.nan, np.ones(199)], "the same under every draw"),
    (np.random.default_rng(3).normal(size=200), "linear in the parameters it is only to")])
def test_what_no_parameter_moves_linearly_is_not_known(values, words):
    found = beyond.parameters(_layout(), _draws((0.1, 0.8, 1.0, 0.2)), values)
    assert found.level is None and words in found.text


def test_few_draws_say_nothing_of_many_parameters():
    z = _draws((0.1, 0.8, 1.0, 0.2), count=6)
    assert "6 draws are too few for 3 parameters" in beyond.parameters(_layout(), z, z[:, 0]).text


def test_priors_that_are_not_standard_normal_have_their_own_variance():
    """atanh of a uniform correlation has variance pi^2/12; a mixture of two normals, its textbook variance."""
    lay = _layout(scales={name: parse_prior("halfnormal(sd=1)") for name in ("a", "b")}, correlated=("a", "b"))
    found = dict(zip(lay.population, np.diag(beyond.prior_covariance(lay)), strict=True))
    assert found == pytest.approx({name: 1.0 for name in lay.population} | {"corr_a_b": math.pi**2 / 12})
    taken = Borrowed(("b",), (2.0,), ((0.04,),), 0.25, {})
    mixed = np.diag(beyond.prior_covariance(_layout(borrowed=taken)))
    assert mixed[1] == pytest.approx(0.75 * (0.04 + 4) + 0.25 * 1 - (0.75 * 2) ** 2)
    assert mixed[0] == 1.0


# --- left-out dose -----------------------------------------------------------------------------------------------


def _left(shift: float, dose: float = 9.0, good: bool = True) -> LeftOut:
    return LeftOut(f"progenitors {dose:g}", {"progenitors": dose}, "cd4", shift, 0.3 if good else 1.2, good)


@pytest.mark.parametrize(("shift", "level"), [
    (0.0, Level.interpolation), (-1.6, Level.interpolation), (1.7, Level.mild), (-2.5, Level.mild),
    (2.6, Level.strong), (-9.0, Level.strong)])
def test_a_dose_whose_rest_foretold_it_badly_says_so(shift, level):
    assert beyond.left_out([_left(shift)], Arm("a", "a", (_cells(9),), {}), "cd4").level is level


def test_the_nearest_fitted_dose_is_asked():
    doses = [_left(0.0, 0.0), _left(1.8, 4.0), _left(9.0, 9.0)]
    levels = [beyond.left_out(doses, Arm("a", "a", (_cells(x),), {}), "cd4").level for x in (0.5, 3.0, 5.0, 7.0, 30.0)]
    assert levels == [Level.interpolation, Level.mild, Level.mild, Level.strong, Level.strong]


def test_weights_that_cannot_be_trusted_and_scores_that_are_not_there_do_not_decide():
    arm = Arm("a", "a", (_cells(9),), {})
    for found, words in ((beyond.left_out([_left(9.0, good=False)], arm, "cd4"), "Pareto k is 1.20"),
                         (beyond.left_out([], arm, "cd4"), "not asked"),
                         (beyond.left_out([_left(9.0)], arm, "cd8"), "the fit has no endpoint cd8")):
        assert found.level is None and words in found.text


def test_the_shift_is_that_of_the_conjugate_normal():
    """Whole posterior N(m, 1/5); without a unit of likelihood N(y | mu, 1) N((5m - y)/4, 1/4)."""
    points = (np.arange(20_000) + 0.5) / 20_000
    from scipy.special import ndtri

    mean, y = 0.3, 1.5
    mu = mean + ndtri(points) * math.sqrt(1 / 5)
    weights = np.exp(0.5 * (y - mu) ** 2)
    without = (5 * mean - y) / 4
    assert beyond.shift_of(mu, weights / weights.sum()) == pytest.approx((mean - without) / 0.5, abs=0.02)
    assert beyond.shift_of(np.full(9, 365.0), np.full(9, 1 / 9)) == 0.0


def _false_alarms(curve, count: int) -> float:
    """How often a straight line through the other doses does not foretell the last: conjugate, unit errors."""
    doses, random, alarms = np.array([0.0, 1.5, 4.0, 9.0]), np.random.default_rng(11), 0
    design = np.column_stack([np.ones(4), doses])
    for _ in range(count):
        truth = random.normal(size=2)
        y = curve(truth[0] + truth[1] * doses) + random.normal(size=4)
        means, spreads = [], []
        for rows in (slice(None), slice(0, 3)):
            precision = np.eye(2) + design[rows].T @ design[rows]
            means.append(design[3] @ np.linalg.solve(precision, design[rows].T @ y[rows]))
            spreads.append(math.sqrt(design[3] @ np.linalg.solve(precision, design[3])))
        found = beyond.left_out([_left((means[0] - means[1]) / spreads[1])], Arm("a", "a", (_cells(9),), {}), "cd4")
        alarms += found.level is not Level.interpolation
    return alarms / count


def test_a_right_model_is_seldom_accused_and_a_wrong_shape_is():
    """At most one in ten, plus 3.1 binomial SDs: false alarm 0.1%. The truth of the control bends at the middle."""
    assert _false_alarms(lambda x: x, 1000) <= 0.1 + 3.1 * math.sqrt(0.1 * 0.9 / 1000)
    assert _false_alarms(lambda x: np.where(x > x[2], 0.0, 3 * x), 1000) > 0.3


# --- verdicts ----------------------------------------------------------------------------------------------------


def test_the_worst_known_component_decides_and_is_named():
    parts = (Component("position", Level.mild, "twelve"), Component("parameters", None, "not known"),
             Component("left-out dose", Level.strong, "far"))
    verdict = Verdict("a", "cd4", parts)
    assert verdict.level is Level.strong and verdict.text == "strong: left-out dose: far"
    shown = beyond.columns(verdict)
    assert [shown[key] for key in ("extrapolation", "decided_by", "position", "parameters", "left_out_dose")] == [
        "strong", "left-out dose", "mild", "not known", "strong"]
    assert set(beyond.columns(None)) == set(shown)


def test_the_committed_record_extrapolates_to_a_high_dose_and_to_a_child_and_not_in_between(tmp_path):
    path = tmp_path / "three.toml"
    arms = "".join(f'[arms.{name}]\ndoses = [{{ amount = {amount}, day = 7 }}]\ncovariates = {{ age = {age} }}\n'
                   for name, amount, age in (("four", 4, 45), ("thirty", 30, 45), ("child", 4, 8)))
    path.write_text(f'title = "three"\nsubjects = 8\ndraws = 48\n{arms}')
    found = run_scenario(load_record(RESET), path)
    levels = found.table.groupby("arm")["extrapolation"].unique()
    assert {arm: list(values) for arm, values in levels.items()} == {
        "four": ["interpolation"], "thirty": ["strong"], "child": ["strong"]}
    assert set(found.table["decided_by"][found.table["arm"] != "four"]) == {"position"}
    assert set(found.table["parameters"][found.table["endpoint"] == "rte4_2"]) == {"interpolation"}
    rows = beyond.verdict_rows(found.verdicts, found.implied_export)
    assert [row["extrapolation"] for row in rows] == ["interpolation", "strong", "strong"]
    assert all(0.3 < float(row["export / healthy"]) < 1 for row in rows)
    assert "30 Mcell/kg of progenitors in all is 3.3 times the most" in found.verdicts.arms["thirty"].text
    assert "age 8 year" in found.verdicts.arms["child"].text and "strong: position" in found._repr_html_()
    figure = plots.plot_reconstitution(found)
    assert isinstance(figure, Figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["four [interpolation], posterior median", "thirty [strong extrapolation], posterior median"]


def test_a_record_without_its_data_says_the_same_of_doses_and_covariates(tmp_path):
    whole = load_record(RESET)
    alone = load_record(shutil.copytree(RESET, tmp_path / "alone", ignore=shutil.ignore_patterns("cohort.csv")))
    spec = whole.spec
    ours, theirs = beyond.fitted_of(whole, spec), beyond.fitted_of(alone, spec)
    assert ours.totals is not None and sorted(set(ours.totals[:, 0])) == [0.0, 1.5, 4.0, 9.0]
    assert theirs.totals is None and theirs.cohorts == ours.cohorts
    np.testing.assert_array_equal(theirs.covariates, ours.covariates)
    (alone.folder / "cohort.csv").write_text("not those data")
    assert beyond.fitted_of(alone, spec).totals is None


def test_the_page_of_a_fit_has_a_verdict_on_its_own_arms(tiny_fit):
    verdicts = beyond.judge_fit(tiny_fit)
    assert set(verdicts.arms) == {"control", "dosed"}
    assert {verdict.components[0].level for verdict in verdicts.arms.values()} == {Level.interpolation}
    page = report_html(tiny_fit, figures=False)
    assert '<table id="extrapolation-verdicts">' in page and "Arm dosed: " in page


def test_doses_are_left_out_when_asked(tiny_fit, tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('title = "two"\nsubjects = 4\ndraws = 40\n[arms.none]\n'
                    '[arms.much]\ndoses = [{ amount = 1000, day = 8 }]\n')
    found = run_scenario(tiny_fit, path, left_out=True).verdicts.arms["much"]
    parts = {component.name: component for component in found.components}
    assert parts["position"].level is Level.strong and "10 times the most" in parts["position"].text
    assert "cells 100" in parts["left-out dose"].text


def test_data_that_are_not_asked_for_or_not_there_are_refused(tiny_fit, tmp_path):
    path = tmp_path / "one.toml"
    path.write_text('title = "one"\nsubjects = 4\ndraws = 4\n[arms.none]\n')
    with pytest.raises(InputError, match="add --left-out"):
        run_scenario(tiny_fit, path, data_path=tmp_path / "study.csv")
    with pytest.raises(InputError, match="no such file"):
        run_scenario(tiny_fit, path, left_out=True, data_path=tmp_path / "study.csv")


def test_a_figure_without_a_verdict_has_no_mark():
    assert beyond.mark(Verdicts({}, {}), "a") == ""
