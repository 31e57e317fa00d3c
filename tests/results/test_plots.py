"""Figures: what must stand on each of them, and that the bands are what their legends say."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from thymodel.documents.data import Subject, load_data
from thymodel.documents.rows import Observation
from thymodel.documents.spec import Arm, ScenarioSpec
from thymodel.errors import InputError
from thymodel.results import plots
from thymodel.results.curves import POPULATION, incidence_curves
from thymodel.results.record import CURVES, load_group, load_record, netcdf_bytes
from thymodel.results.scenarios import Scenario

pytestmark = pytest.mark.requirement("REQ-REP-05")

RESET02 = Path(__file__).parents[2] / "fits" / "reset02_design"
_FIGURES = ("course", "course_without_data", "individuals", "reconstitution", "trace", "rank", "prior_posterior")


@pytest.fixture(scope="module")
def data(tiny_fit):
    spec = tiny_fit.spec
    return load_data(tiny_fit.folder / "study.csv", spec.model, spec.columns)


def _draw(name: str, record, data) -> Figure:
    match name:
        case "course":
            return plots.plot_course(record, data)
        case "course_without_data":
            return plots.plot_course(record)
        case "individuals":
            return plots.plot_individuals(record, data)
        case "reconstitution":
            return plots.plot_reconstitution(record)
        case "trace":
            return plots.plot_trace(record)
        case "rank":
            return plots.plot_rank(record)
    return plots.plot_prior_posterior(record)


@pytest.fixture(scope="module", params=_FIGURES)
def figure(request, tiny_fit, data) -> Figure:
    return _draw(request.param, tiny_fit, data)


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _lines(axes, label: str) -> list:
    return [line for line in axes.lines if line.get_label() == label]


@pytest.mark.requirement("REQ-QUO-04")
def test_every_figure_says_that_its_data_are_simulated(figure):
    assert any("SIMULATED" in text.get_text() for text in figure.texts)


def test_every_figure_names_its_record(figure, tiny_fit):
    assert any(tiny_fit.digest[:12] in text.get_text() for text in figure.texts)


def test_every_figure_is_drawn_without_a_warning(figure):
    figure.draw_without_rendering()


def test_a_figure_of_real_data_has_no_banner(tiny_fit):
    real = replace(tiny_fit, content={**tiny_fit.content, "simulated": False})
    assert not any("SIMULATED" in text.get_text() for text in plots.plot_trace(real).texts)


@pytest.mark.requirement("REQ-QUO-01")
def test_a_figure_of_a_failed_fit_says_so(tiny_fit):
    failed = replace(tiny_fit, content={**tiny_fit.content, "verdict": {"passed": False, "sentences": []}})
    assert any("FAILED" in text.get_text() for text in plots.plot_trace(failed).texts)


@pytest.mark.parametrize(("name", "x", "y"), [
    ("course", "time (day)", "made-up cells (cell/uL)"),
    ("individuals", "time (day)", "made-up cells (cell/uL)"),
    ("reconstitution", "time (day)", "subjects reconstituted (%)"),
    ("trace", "draw after warm-up", "x0 (cell/uL)"),
    ("rank", "rank of x0 (cell/uL)", "draws in bin"),
    ("prior_posterior", "x0 (cell/uL)", "density (a.u.)"),
])
def test_axes_carry_names_and_units(name, x, y, tiny_fit, data):
    figure = _draw(name, tiny_fit, data)
    assert x in {panel.get_xlabel() for panel in figure.axes} | {figure.get_supxlabel()}
    assert y in {panel.get_ylabel() for panel in figure.axes} | {figure.get_supylabel()}


@pytest.mark.parametrize("name", ["course", "individuals", "reconstitution", "prior_posterior"])
def test_legends_name_the_kind_of_interval(name, tiny_fit, data):
    assert any("equal-tailed 90%" in label for label in _legend(_draw(name, tiny_fit, data)))


@pytest.mark.requirement("REQ-END-07")
def test_uncertainty_and_spread_are_drawn_apart(tiny_fit):
    labels = _legend(plots.plot_course(tiny_fit))
    assert plots.UNCERTAINTY in labels and plots.SPREAD in labels


# --- ranges of healthy people --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aged():
    """A record whose model has the family's observables and ages."""
    return load_record(RESET02)


def _bands(axes) -> dict[str, tuple[float, float]]:
    return {patch.get_label(): (patch.get_y(), patch.get_y() + patch.get_height())
            for patch in axes.patches if str(patch.get_label()).startswith("healthy")}


def test_courses_stand_before_the_range_of_healthy_people_of_the_patients_ages(aged):
    """The oldest patient is above 59, so that the range of 17-59 years does not hold for all."""
    figure = plots.plot_course(aged)
    rows = {axes.get_ylabel().split("(")[0].strip(): axes for axes in figure.axes if axes.get_ylabel()}
    found = {name: _bands(axes) for name, axes in rows.items()}
    assert found["CD4+ T cells"] == {"healthy adults, laboratory limits (Leiden)": (560, 1490)}
    assert found["CD8+ T cells"] == {"healthy adults, laboratory limits (Leiden)": (260, 990)}
    assert [bands for name, bands in found.items() if name.startswith("naive")] == [{}]
    assert rows["CD4+ T cells"].get_ylim()[1] > 1490
    assert "healthy adults, laboratory limits (Leiden)" in _legend(figure)


def test_each_patient_stands_before_the_range_of_his_own_age(aged):
    data = load_data(RESET02 / "cohort.csv", aged.spec.model, aged.spec.columns)
    ages = {subject.id: dict(subject.covariates)["age"][0][1] for subject in data.subjects}
    figure = plots.plot_individuals(aged, data, "cd4")
    panels = {axes.get_title().split(",")[0]: axes for axes in figure.axes if axes.get_title()}
    assert set(panels) == set(ages) and min(ages.values()) < 60 <= max(ages.values())
    for subject, axes in panels.items():
        assert list(_bands(axes).values()) == [(396, 1309) if ages[subject] < 60 else (560, 1490)]
    assert len({axes.get_ylim() for axes in panels.values()}) == 1


def test_a_model_without_ages_has_no_range(tiny_fit):
    assert all(_bands(axes) == {} for axes in plots.plot_course(tiny_fit).axes)


def test_no_global_style_is_changed(tiny_fit, data):
    before = dict(matplotlib.rcParams)
    for name in _FIGURES:
        _draw(name, tiny_fit, data).draw_without_rendering()
    assert dict(matplotlib.rcParams) == before


def test_a_value_below_the_limit_is_a_triangle_at_the_limit(tiny_fit, data):
    second = plots.plot_individuals(tiny_fit, data, subjects=["2"]).axes[0]
    (below,) = _lines(second, "below the limit of quantification (at the limit)")
    assert below.get_marker() == "v" and list(below.get_ydata()) == [20.0]
    (measured,) = _lines(second, "measured")
    assert list(measured.get_ydata()) == [70.0, 51.0]


def test_counts_have_a_logarithmic_axis(tiny_fit, data):
    assert {axes.get_yscale() for axes in plots.plot_course(tiny_fit, data).axes} == {"log"}


def test_a_count_five_decades_below_the_highest_is_in_sight():
    counts = [Observation(float(day), "virus", value, 0, math.nan, day) for day, value in enumerate((8e5, 1e3, 20))]
    axes = Figure().subplots()
    plots._log_axis(axes, [np.array([5e5, 0.0])], [Subject("1", "all", (), tuple(counts), ())], "virus")
    assert axes.get_ylim()[0] < 20 and axes.get_ylim()[1] > 8e5


@pytest.mark.parametrize("spread", [0.8, 1.5])
def test_numbers_along_a_logarithmic_axis_stand_apart(spread):
    """A prior over less than two decades has few powers of ten, one over more has enough."""
    figure = Figure(figsize=(3.3, 1.8), dpi=100)
    axes, prior = figure.subplots(), 7 * np.exp(spread * plots._Z)
    plots._draw_prior_posterior(axes, prior, 7 * np.exp(0.1 * np.linspace(-2, 2, 101)), True)
    figure.canvas.draw()
    inside = [label for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
              if axes.get_xlim()[0] <= place <= axes.get_xlim()[1]]
    boxes = [label.get_window_extent() for label in inside]
    assert len(boxes) >= 2 and all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))


def test_dose_days_are_marked_in_the_dosed_arm_only(tiny_fit):
    control, dosed = plots.plot_course(tiny_fit).axes
    assert [line.get_xdata()[0] for line in _lines(dosed, "dose")] == [8.0]
    assert not _lines(control, "dose")


def test_chains_and_arms_differ_in_line_style_too(tiny_fit):
    lines = [line for line in plots.plot_trace(tiny_fit).axes[0].lines if line.get_label().startswith("chain")]
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(lines) == 2


def test_an_unknown_subject_is_named(tiny_fit):
    with pytest.raises(InputError, match="subject 99: not in this record"):
        plots.plot_individuals(tiny_fit, None, subjects=["99"])


def test_the_title_of_an_endpoint_holds_threshold_and_horizon(tiny_fit):
    title = plots.plot_reconstitution(tiny_fit).axes[0].get_title()
    assert re.search(r"at or above 80 cell/uL, lasting 2 days; horizon: day 20", title)


def test_the_median_subject_is_the_same_in_both_kinds_of_band(tiny_fit):
    curves = load_group(tiny_fit.folder / CURVES, POPULATION)
    for kind in ("median", "subjects"):
        assert np.all(np.diff(curves[f"count.{kind}"].values, axis=-1) >= 0)
    assert np.allclose(curves["count.median"].values[..., 1], curves["count.subjects"].values[..., 1])


def test_a_scenario_has_a_curve_for_each_arm_and_the_banner_of_its_record(tiny_fit):
    endpoint = tiny_fit.spec.endpoints["back"]
    arms = tuple(Arm(name, f"dose {name}", (), {}) for name in ("a", "b"))
    spec = ScenarioSpec("two doses", "0" * 64, arms, 3, 2, 1, None, {})
    times = {"back": np.array([[[1.0, 2.0, np.inf]] * 2, [[1.0, 1.0, 1.0]] * 2])}
    figure = plots.plot_reconstitution(Scenario(spec, {"back": endpoint}, times, pd.DataFrame(), simulated=True))
    assert _legend(figure)[:2] == ["dose a, posterior median", "dose b, posterior median"]
    first, second = figure.axes[0].lines
    assert first.get_ydata()[-1] == pytest.approx(200 / 3) and second.get_ydata()[-1] == 100
    assert any("SIMULATED" in text.get_text() for text in figure.texts)


def test_incidence_counts_subjects_that_never_arrive(tiny_fit):
    endpoint = tiny_fit.spec.endpoints["back"]
    times = np.array([[[5.0, np.inf], [np.inf, np.inf]]])  # one arm, two draws, two subjects
    found = incidence_curves({"back": endpoint}, {"back": times}, ["a"])["back"].sel(arm="a")
    last = found.isel({"back.day": -1}).values
    assert np.allclose(last, np.quantile([0.5, 0.0], [0.05, 0.5, 0.95]))
    assert netcdf_bytes({None: found.to_dataset(name="back")})


def test_incidence_at_a_day_is_the_probability_in_the_table(tiny_fit):
    curves = load_group(tiny_fit.folder / CURVES, "incidence")["back"]
    table = tiny_fit.table
    for arm in ("control", "dosed"):
        at_day = curves.sel(arm=arm).interp({"back.day": 10.0}, method="nearest")
        assert np.allclose(at_day.values, table.loc[f"back.by_10[{arm}]", ["q05", "median", "q95"]].astype(float))
