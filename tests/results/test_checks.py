"""Checks of a record: numbers, words, figures and files, from a tiny fit of four made-up subjects."""

import json
import re
import shutil

import numpy as np
import pytest

from thymodel.errors import InputError, RecordError
from thymodel.results import check_page, check_plots
from thymodel.results.checks import Checks, check_fit
from thymodel.results.record import load_record

pytestmark = pytest.mark.requirement("REQ-CHK-01")

_FIGURES = ["vpc_count", "predictive", "endpoints", "npde", "residuals", "random_effects", "prior_posterior"]


@pytest.fixture(scope="module")
def checks(tiny_fit) -> Checks:
    return check_fit(tiny_fit)


@pytest.fixture(scope="module")
def figures(checks):
    return check_plots.check_figures(checks)


@pytest.fixture(scope="module")
def folder(checks, tmp_path_factory):
    place = tmp_path_factory.mktemp("checks") / "out"
    check_page.save_checks(checks, place)
    return place


def _labels(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _lines(axes, begin: str) -> list:
    return [line for line in axes.lines if str(line.get_label()).startswith(begin)]


# --- numbers -------------------------------------------------------------------------------------------------


def test_checks_name_their_record_and_how_many_replicates_they_rest_on(checks, tiny_fit):
    assert checks.content["record"] == tiny_fit.digest
    assert checks.content["replicates"]["posterior"] == 2000 and checks.content["replicates"]["draws"] == 40
    assert any(note.startswith("replicates: 2000 under 40 of the record's 40") for note in checks.content["notes"])


def test_the_same_record_gives_the_same_checks(checks, tiny_fit):
    assert check_fit(tiny_fit).content == checks.content


def test_every_observation_is_in_the_table_and_a_censored_one_has_no_residual(checks):
    rows = checks.records
    assert len(rows) == 11 and rows["observable"].unique().tolist() == ["count"]
    assert rows["censored"].tolist().count(1) == 1
    assert rows["iwres"].isna().tolist() == (rows["censored"] == 1).tolist()
    assert rows["pit"].between(0, 1, inclusive="neither").all()


def test_the_value_far_from_any_exponential_is_at_the_end_of_its_distribution(checks):
    row = checks.records.set_index(["subject", "time"]).loc[("4", 15.0)]
    assert row["pit"] > 0.99 and row["iwres"] > 2.5


def test_iwres_is_the_residual_of_the_record(checks, tiny_fit):
    """Computed by the fit with another thinning of the same draws: they have 40, so all of them both times."""
    (listed,) = [row for row in tiny_fit.content["residuals"]["beyond"] if row["subject"] == "4"]
    row = checks.records.set_index(["subject", "time"]).loc[("4", listed["time"])]
    assert row["iwres"] == pytest.approx(listed["residual"], abs=0.01)


def test_verdict_and_sentences_agree_with_the_questions(checks):
    content = checks.content
    departs = [row for row in content["questions"] if row["departs"]]
    assert checks.passed == (content["together"] > content["false_alarm_rate"]) == (not departs)
    assert len([s for s in content["verdict"]["sentences"][1:] if s.startswith("MISFIT")]) == len(departs)
    assert f"{len(content['questions'])} questions together" in content["verdict"]["sentences"][0]
    assert "false-alarm rate at most 5%" in content["verdict"]["sentences"][0]


def test_every_estimated_number_and_every_random_effect_is_there(checks, tiny_fit):
    assert [row["parameter"] for row in checks.content["parameters"]] == tiny_fit.layout.population
    (effect,) = checks.content["random_effects"]
    assert effect["effect"] == "x0" and set(effect["subjects"]) == {"1", "2", "3", "4"}
    shrunk = effect["shrinkage"]
    assert 1 - shrunk["variance"] == pytest.approx((1 - shrunk["sd"]) ** 2, rel=1e-4)


def test_subjects_have_the_endpoint_seen_or_a_last_visit(checks):
    arms = checks.content["endpoints"]["back"]["arms"]
    assert [arms[arm]["subjects"] for arm in ("control", "dosed")] == [2, 2]
    for one in arms.values():
        assert one["seen"] + len(one["censored_on"]) == one["subjects"]
        assert np.all(np.diff(one["observed"]) >= 0) and np.all(np.diff(np.array(one["posterior"]), axis=1) >= 0)


def test_a_changed_record_is_refused(tiny_fit, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_fit.folder, copy)
    (copy / "table.csv").write_text("name\n")
    with pytest.raises(RecordError, match="changed since the fit"):
        check_fit(load_record(copy))


def test_without_its_data_a_record_is_refused_with_what_to_do(tiny_fit, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_fit.folder, copy)
    (copy / "study.csv").unlink()
    with pytest.raises(InputError, match="study.csv: the study data are not there.*hint: give their place with --data"):
        check_fit(load_record(copy))
    assert check_fit(load_record(copy), tiny_fit.folder / "study.csv").content["record"] == tiny_fit.digest
    with pytest.raises(InputError, match="not the data of this record"):
        check_fit(load_record(copy), tiny_fit.folder / "spec.toml")


# --- figures -------------------------------------------------------------------------------------------------


def test_there_is_a_figure_of_each_kind(figures):
    assert list(figures) == _FIGURES


@pytest.mark.parametrize("name", _FIGURES)
def test_every_figure_names_its_record_and_says_that_data_are_simulated(name, figures, tiny_fit):
    texts = [text.get_text() for text in figures[name].texts]
    assert any("SIMULATED" in text for text in texts) and any(tiny_fit.digest[:12] in text for text in texts)


@pytest.mark.parametrize("name", _FIGURES)
def test_every_figure_is_drawn_without_a_warning(name, figures):
    figures[name].draw_without_rendering()


@pytest.mark.parametrize(("name", "x", "y"), [
    ("vpc_count", "time (day)", "made-up cells (cell/uL)"),
    ("predictive", "time (day)", "made-up cells (cell/uL)"),
    ("npde", "typical prediction of count (cell/uL)", "NPDE of count"),
    ("residuals", "individual prediction of count (cell/uL)", "measured count (cell/uL)"),
    ("random_effects", "random effect of x0 on the log scale (omega)", "subject")])
def test_axes_carry_names_and_units(name, x, y, figures):
    assert x in {axes.get_xlabel() for axes in figures[name].axes}
    assert y in {axes.get_ylabel().replace("\n", " ") for axes in figures[name].axes}


@pytest.mark.parametrize("name", ["vpc_count", "predictive", "residuals"])
def test_a_value_below_the_limit_is_a_tick_and_nowhere_a_point(name, figures, checks):
    limit = float(checks.records["lower_limit"].min())
    ticks = [line for axes in figures[name].axes for line in _lines(axes, "a value below the limit")]
    assert ticks and all(line.get_marker() == "|" for line in ticks)
    points = [line for axes in figures[name].axes for line in _lines(axes, "measured")]
    measured = np.concatenate([np.asarray(line.get_ydata(), float) for line in points]) if points else np.array([])
    values = checks.records["value"][checks.records["censored"] == 0]
    if name == "predictive":
        assert sorted(measured[~np.isnan(measured)]) == sorted(values)
    assert np.nanmin(measured, initial=np.inf) >= min(limit, values.min()) or name == "vpc_count"


def test_scores_that_were_drawn_beyond_a_limit_are_open(figures):
    (drawn,) = _lines(figures["npde"].axes[2], "beyond a limit")
    assert drawn.get_markerfacecolor() == "none" and len(drawn.get_xdata()) == 1


def test_bands_and_study_differ_without_colour(figures):
    """The study is black, with a marker and a line of its own for each quantile."""
    lines = [_lines(figures["vpc_count"].axes[0], f"study, {q}")[0] for q in ("10%", "50%", "90%")]
    assert {line.get_color() for line in lines} == {"#000000"}
    assert len({line.get_marker() for line in lines}) == 3


# --- files ---------------------------------------------------------------------------------------------------


def test_files_hold_the_numbers_the_figures_and_a_page_that_stands_alone(folder, checks):
    names = {path.name for path in folder.iterdir()}
    assert names == {"checks.json", "checks.html", *(f"{name}.png" for name in _FIGURES)}
    found = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
    assert found.pop("figures") == [f"{name}.png" for name in _FIGURES] and found == checks.content
    page = (folder / "checks.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert len(sources) == len(_FIGURES) and all(s.startswith("data:image/png;base64,") for s in sources)
    assert "SIMULATED" in page and "<script" not in page and "may go only where the data may" in page


def test_checks_are_written_again_but_over_nothing_else(folder, checks, tmp_path):
    check_page.refuse_place(checks.record, folder)
    (tmp_path / "mine.txt").write_text("mine")
    for place, said in ((tmp_path, "holds other files"), (checks.record.folder, "belongs to a record"),
                        (checks.record.folder / "new", "belongs to a record"), (tmp_path / "mine.txt", "not a folder")):
        with pytest.raises(InputError, match=said):
            check_page.refuse_place(checks.record, place)
