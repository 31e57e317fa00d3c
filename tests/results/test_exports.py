"""Implied thymic export: closed forms, age, the warning and its absence, models and records that do not know it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from thymodel.documents.model import load_model, parse_model, ratios
from thymodel.documents.regimen import Dose
from thymodel.documents.spec import Arm, FitSpec, load_fit_spec
from thymodel.dynamics.symbolic import evaluate
from thymodel.errors import InputError
from thymodel.inference.population import layout
from thymodel.results import exports, scenario_rows, tables
from thymodel.results.exports import Window, assess, look, quantities, summaries, window
from thymodel.results.prediction import VirtualSubjects, virtual_subjects
from thymodel.results.reconstitution import outcomes, prepare_judging
from thymodel.results.record import load_record
from thymodel.results.report import report_html
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-END-06")

SPEC = """
title = "no data"
purpose = "the parameters of a prediction"
model = "{model}"
estimate = ["f_th"]
[data]
file = "none.csv"
sha256 = "{zeros}"
units = {{}}
{overrides}
[between_subject]
f_th = {{ sd = "halfnormal(sd=0.3)", source = "test" }}
[likelihood.cd4]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.3, sd=0.3)", source = "test" }} }}
[endpoints.cd4_200]
marker = "cd4"
threshold = 200
unit = "cell/uL"
horizon = 365
[sampler]
seed = 1
"""
PTCY = (Dose(3.0, "ptcy", 50.0), Dose(4.0, "ptcy", 50.0))


def _spec(folder, model: str, f_th: float | None = None, **fixed: float) -> FitSpec:
    overrides = "".join(f'[override.{name}]\nvalue = {value}\nreason = "test"\n' for name, value in fixed.items())
    if f_th is not None:
        overrides += f'[override.f_th]\nprior = "lognormal(median={f_th}, sd=0.1)"\nreason = "test"\n'
    (folder / "spec.toml").write_text(SPEC.format(model=model, zeros="0" * 64, overrides=overrides))
    return load_fit_spec(folder)


def _outcomes(spec: FitSpec, arms, draws: int = 5, subjects: int = 9, spread: float = 0.0):
    """Under draws that differ in the first parameter by `spread` prior SDs; a single subject is the typical one."""
    lay = layout(spec, ())
    z = np.zeros((draws, lay.size))
    z[:, 0] = spread * np.linspace(-1, 1, draws)
    people = virtual_subjects(spec, {}, subjects, 1) if subjects > 1 else VirtualSubjects(np.zeros((1, 1)), {})
    return outcomes(prepare_judging(spec, lay, z, arms, people, spec.endpoints))


def _arm(name: str, amount: float = 0.0, before=(), **covariates: float) -> Arm:
    return Arm(name, name, (*before, Dose(7.0, "progenitors", amount)), covariates)


# --- the document ----------------------------------------------------------------------------------------------

MODEL = """
title = "A pool that is drained"
description = "x falls at the rate k; what leaves it is exported."
[constants]
reference_age = { unit = "year", value = 45, source = "test" }
[covariates]
age = { unit = "year", value = 45, source = "test" }
[parameters]
k = { unit = "1/day", value = 0.1, source = "test" }
x0 = { unit = "cell", value = 1000, prior = "lognormal(median=1000, sd=1)", source = "test" }
made = { unit = "cell/day", value = 50, source = "test" }
alpha = { unit = "1/year", value = 0.04, source = "test" }
[states.x]
unit = "cell"
initial = "x0"
rate = "-k*x"
[observables.left]
unit = "cell/day"
value = "k*x"
healthy = "made*exp(-alpha*(age - reference_age))"
"""


def test_a_healthy_value_makes_a_ratio_of_the_observable():
    model = parse_model(MODEL + 'highest = "3*made"', "m")
    found = ratios(model)
    assert list(found) == ["left/healthy", "left/highest"]
    values = {"k": 0.1, "x": 700.0, "made": 50.0, "alpha": 0.04, "age": 70.0, "reference_age": 45.0}
    numbers = [float(item.value.subs({s: values[s.name] for s in item.value.free_symbols})) for item in found.values()]
    assert numbers == pytest.approx([70 / (50 * np.exp(-1)), 70 / 150])
    assert ratios(load_model("homing_wave")) == {} and ratios(load_model("lymphocyte_regrowth")) == {}


@pytest.mark.parametrize(("line", "place"), [
    ('healthy = "x0"', "healthy"), ('healthy = "k*x"', "healthy"), ('healthy = "made*t"', "healthy"),
    ('healthy = "mad"', "healthy"), ('healthy = "0"', "healthy"), ('highest = "made"', "highest"),
    ('healthy = "made"\nhighest = "alpha"', "highest")])
def test_a_reference_that_is_no_constant_of_a_subject_in_the_same_unit_is_a_fault(line, place):
    text = "\n".join(row for row in MODEL.splitlines() if not row.startswith("healthy"))
    with pytest.raises(InputError) as caught:
        parse_model(f"{text}\n{line}", "m")
    assert {fault.where for fault in caught.value.faults} == {f"m: observables.left.{place}"}


@pytest.mark.parametrize("name", ["thymus_core", "thymus_trec", "thymus_full", "thymus_full_dynamic",
                                  "thymus_competition", "thymus_competition_dynamic", "thymus_mouse"])
def test_every_shipped_thymus_says_what_is_healthy(name):
    item = load_model(name).observables["thymic_export_cd4"]
    values = {"th4_ref": 2.3e7, "alpha": 0.044, "age": 45.0, "age_ref": 45.0, "age_young": 20.0}
    healthy, highest = (None if e is None else float(evaluate(e, {s: values[s.name] for s in e.free_symbols}))
                        for e in (item.healthy, item.highest))
    assert healthy == pytest.approx(2.3e7)
    if name != "thymus_mouse":
        assert highest / healthy == pytest.approx(3.004, abs=5e-4)  # e^(0.044*25)


# --- peak and day 100 --------------------------------------------------------------------------------------------


def test_the_peak_is_taken_until_the_horizon_and_day_100_between_two_times():
    times = np.array([0.0, 60.0, 120.0, 180.0, 240.0])
    curve = np.array([[0.0, 1.0, 4.0, 2.0, 9.0]])
    np.testing.assert_allclose(look(times, Window(0.0, 180.0), curve), [4.0, 1 + 3 * 40 / 60])
    np.testing.assert_allclose(look(times, Window(0.0, 240.0), curve), [9.0, 3.0])
    np.testing.assert_allclose(look(times[:2], Window(0.0, 60.0), curve[:, :2]), [1.0])  # no day 100


def test_a_course_that_could_not_be_computed_has_no_ratio():
    assert np.isnan(look(np.array([0.0, 200.0]), Window(0.0, 200.0), np.array([[1.0, np.nan]]))).all()


def test_without_an_endpoint_the_window_is_the_whole_course():
    assert window(np.array([-10.0, 50.0]), {}) == Window(-10.0, 50.0)


def test_the_ratio_of_a_drained_pool_is_its_closed_form(tmp_path):
    """k*x0*exp(-k t) over made*exp(-alpha (age - 45)): the peak is at the start; all subjects are alike."""
    (tmp_path / "pool.toml").write_text(MODEL + "\n[inputs.progenitors]\nunit = 'cell'\nadd = { x = 'amount' }\n")
    text = SPEC.format(model="pool.toml", zeros="0" * 64, overrides="").replace("f_th", "x0").replace("cd4", "left")
    (tmp_path / "spec.toml").write_text(text.replace("cell/uL", "cell/day"))
    spec = load_fit_spec(tmp_path)
    arms = [_arm("45"), _arm("70", age=70.0)]
    found = _outcomes(spec, arms, subjects=1, spread=1.0).exports
    x0 = 1000 * np.exp(np.linspace(-1, 1, 5))
    peak, later = found["left.peak_over_healthy"][:, :, 0], found["left.day_100_over_healthy"][:, :, 0]
    for k, older in enumerate((1.0, np.exp(0.04 * 25))):
        np.testing.assert_allclose(peak[k] / peak[k][2], x0 / 1000, rtol=1e-3)
        np.testing.assert_allclose(later[k] / peak[k], np.exp(-10), rtol=0.02)  # straight between days 99 and 101
        np.testing.assert_allclose(peak[k], peak[0] * older, rtol=1e-3)


# --- the family ----------------------------------------------------------------------------------------------------


def test_the_scenario_that_needs_more_than_a_thymus_is_warned_of(tmp_path):
    """CD4 above 200/uL by day 100 takes 6.6 times the healthy export: amp_i = 20, f_th = 5, Th_ratio = 0.3.

    Source: the project's scientific description, finding 2; 9 million per kg in thymus_competition.
    """
    spec = _spec(tmp_path, "thymus_competition", f_th=5.0, amp_i=20.0, Th_ratio=0.3)
    found = _outcomes(spec, [_arm("nine", 9.0, PTCY)], subjects=1)
    assert found.times["cd4_200"].max() == pytest.approx(98, abs=1)
    said = assess(spec, found.exports, ["nine"], found.window)
    rows = {row["quantity"]: row for row in said["rows"]}
    assert rows["thymic_export_cd4.peak_over_healthy"]["estimate"] == pytest.approx(6.62, abs=0.03)
    assert rows["thymic_export_cd4.peak_over_highest"]["estimate"] == pytest.approx(6.62 / 3.004, abs=0.01)
    assert rows["thymic_export_cd4.day_100_over_healthy"]["estimate"] == pytest.approx(6.48, abs=0.03)
    assert len(said["warnings"]) == 2
    assert "6.6 times what a healthy thymus of that age exports" in said["warnings"][0]
    assert "2.2 times what any thymus is thought to export (assumed" in said["warnings"][1]


@pytest.mark.parametrize("model", ["thymus_core", "thymus_full", "thymus_competition"])
def test_typical_values_are_not_warned_of(model, tmp_path):
    spec = _spec(tmp_path, model)
    before = PTCY if "ptcy" in spec.model.inputs else ()
    arms = [_arm(f"{dose:g}", dose, before) for dose in (0.0, 1.5, 4.0, 9.0)]
    found = _outcomes(spec, arms, spread=1.0)
    said = assess(spec, found.exports, [arm.name for arm in arms], found.window)
    assert said["warnings"] == [] and [row["warning"] for row in said["rows"]] == [""] * 16
    assert min(row["estimate"] for row in said["rows"] if row["quantity"].endswith("peak_over_healthy")) > 0.3


def test_what_is_healthy_depends_on_age(tmp_path):
    """A control exports a share of its own age's healthy rate that age does not change; of the highest it does."""
    spec = _spec(tmp_path, "thymus_core")
    found = _outcomes(spec, [_arm("30", age=30.0), _arm("60", age=60.0), _arm("10", age=10.0)], subjects=1).exports
    young, old, child = found["thymic_export_cd4.peak_over_healthy"][:, 0, 0]
    assert [young, child] == pytest.approx([old, old], rel=1e-4)
    young, old, child = found["thymic_export_cd4.peak_over_highest"][:, 0, 0]
    assert young / old == pytest.approx(np.exp(0.044 * 30), rel=1e-4)
    assert child == pytest.approx(found["thymic_export_cd4.peak_over_healthy"][2, 0, 0], rel=1e-9)  # its own age's


def test_uncertainty_and_spread_between_subjects_are_kept_apart(tmp_path):
    spec = _spec(tmp_path, "thymus_core", f_th=0.6)
    arms = [_arm("control")]
    (alike, varied), (one, _) = (
        [assess(spec, found.exports, ["control"], found.window)["rows"][0]
         for found in (_outcomes(spec, arms, subjects=count, spread=spread) for spread in (0.0, 1.0))]
        for count in (33, 1))
    assert alike["upper"] - alike["lower"] < 1e-9 and alike["subjects_q95"] > 1.2 * alike["subjects_q05"]
    assert varied["upper"] > 1.1 * varied["lower"]
    assert one["subjects_q05"] == pytest.approx(one["subjects_q95"])


def test_a_reference_that_the_fit_moves_is_said(tmp_path):
    spec = _spec(tmp_path, "thymus_core")
    over = Window(0.0, 365.0)
    values = {name: np.ones((1, 2, 3)) for name in quantities(spec.model, over)}
    assert "moves with this fit" not in assess(spec, values, ["a"], over)["note"]
    moved = replace(spec, estimate=dict(spec.estimate) | {"alpha": None, "th4_ref": None})
    assert "estimates or varies alpha, th4_ref" in assess(moved, values, ["a"], over)["note"]


def test_a_probability_is_of_the_median_subject_over_draws(tmp_path):
    spec = _spec(tmp_path, "thymus_core")
    values = np.ones((1, 4, 3)) * np.array([0.5, 1.2, 1.3, 1.4])[None, :, None]
    row = assess(spec, {"x.peak_over_healthy": values}, ["a"], Window(0.0, 365.0))["rows"][0]
    assert row["p_above_1"] == 0.75 and row["estimate"] == pytest.approx(1.25) and "75%" in row["warning"]
    low = assess(spec, {"x.peak_over_healthy": values - 0.2}, ["a"], Window(0.0, 365.0))["rows"][0]
    assert low["p_above_1"] == 0.5 and low["warning"] == ""  # 1.05 is not clearly more


# --- records -------------------------------------------------------------------------------------------------------


def test_a_model_without_a_thymus_says_that_it_does_not_know(tiny_fit):
    said = tiny_fit.content["implied_export"]
    assert not said["known"] and said["rows"] == said["warnings"] == []
    assert "the model decay, as it was given, declares no healthy thymic export" in said["note"]
    assert "does not know what its counts ask of a thymus" in report_html(tiny_fit, figures=False)


def test_a_record_made_before_says_so(tiny_fit, tmp_path):
    folder = shutil.copytree(tiny_fit.folder, tmp_path / "old")
    content = json.loads((folder / "record.json").read_text())
    del content["implied_export"]
    (folder / "record.json").write_text(json.dumps(content))
    assert "it was made before this was computed" in report_html(load_record(folder), figures=False)


def test_a_warning_stands_in_the_page(tiny_fit, tmp_path):
    spec, over = _spec(tmp_path, "thymus_core"), Window(0.0, 365.0)
    values = {name: np.full((1, 2, 3), 6.62) for name in quantities(spec.model, over)}
    folder = shutil.copytree(tiny_fit.folder, tmp_path / "warned")
    content = json.loads((folder / "record.json").read_text())
    content["implied_export"] = assess(spec, values, ["nine"], over)
    (folder / "record.json").write_text(json.dumps(content))
    page = re.sub(r"<span[^>]*>|</span>", "", report_html(load_record(folder), figures=False))
    assert '<p class="banner warned">Arm nine: thymic_export_cd4 at its peak is 6.6 times what a healthy' in page
    assert "6.6 (6.6 to 6.6)" in page and exports.RULE in page.replace("&#39;", "'")


def test_rows_of_a_scenario_carry_the_ratio_and_its_warning(tmp_path):
    spec, over = _spec(tmp_path, "thymus_core"), Window(0.0, 365.0)
    found = summaries({name: np.full((1, 2, 3), 6.62) for name in quantities(spec.model, over)})
    said = exports.assess_summaries(spec, found, ["nine"], over)
    rows = scenario_rows.export_rows(said, ["nine"], scenario_rows.Summaries({}, {}, {}, found))
    assert {(row["endpoint"], row["estimate"], row["p_above_1"]) for row in rows} == {("thymic_export_cd4", 6.62, 1.0)}
    assert rows[0]["quantity"] == "peak_over_healthy" and rows[0]["warning"] == said["warnings"][0]


def test_a_scenario_of_a_model_without_a_thymus_says_so(tiny_fit, tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('title = "two"\nsubjects = 4\ndraws = 4\n[arms.none]\n[arms.some]\n')
    found = run_scenario(tiny_fit, path)
    assert not found.implied_export["known"] and set(found.table["endpoint"]) == {"back"}
    assert (found.table["warning"] == "").all() and found.table["p_above_1"].isna().all()


def test_rows_for_reading_have_a_line_an_arm_and_reference(tmp_path):
    spec, over = _spec(tmp_path, "thymus_core"), Window(0.0, 365.0)
    values = {name: np.full((2, 2, 3), 0.25) for name in quantities(spec.model, over)}
    lines = tables.export_rows(assess(spec, values, ["a", "b"], over))
    assert [(line["over the"], line["arm"]) for line in lines] == [(r, a) for r in ("healthy", "highest") for a in "ab"]
    assert {line["peak"] for line in lines} == {"0.25 (0.25 to 0.25)"} and lines[0]["P(more)"] == "0%"
    assert pd.DataFrame(lines)["day 100"].notna().all()
