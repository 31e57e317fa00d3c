"""Published figures: every fault with its row; what is read is in the observable's unit, and of people counted once."""

import math
from pathlib import Path

import pytest

from thymodel.documents.measurement import ErrorModel
from thymodel.documents.model import load_model
from thymodel.documents.published import Published, load_published, read_published
from thymodel.documents.spec import load_fit_spec
from thymodel.documents.toml import digest
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-DAT-05")

BAD = Path(__file__).resolve().parents[1] / "bad"
MODEL = load_model(BAD / "decay.toml")
ADDITIVE = {"count": ErrorModel("count", "additive", {}, {}, 0.0, 0.0)}
LOGNORMAL = {"count": ErrorModel("count", "lognormal", {}, {}, 0.0, 0.0)}
HEAD = """
title = "Papers"
[cohorts.a]
study = "One"
source = "made up"
overlap = 4
visits = [7, 14, 28]
"""


def row(statistic: str, value: float, n: int = 24, day: float = 7, unit: str = "cell/uL", **more: float | str) -> str:
    keys = "".join(f"{key} = {number}\n" for key, number in more.items())
    return (f'[[rows]]\ncohort = "a"\nday = {day}\nobservable = "count"\nstatistic = "{statistic}"\nvalue = {value}\n'
            f'n = {n}\nunit = "{unit}"\nsource = "made up"\n{keys}')


def read(text: str, errors=LOGNORMAL, head: str = HEAD) -> Published:
    return read_published("papers", Path("papers.toml"), head + text, "", MODEL, errors)


def places(caught) -> set[str]:
    return {fault.where.partition(": ")[2] for fault in caught.value.faults}


# --- good ----------------------------------------------------------------------------------------------------


def test_figures_are_in_the_unit_of_the_observable_and_of_people_counted_once():
    (cohort,) = read(row("mean", 0.1, unit="kcell/uL", sd=0.04)).cohorts
    assert [(f.kind, f.value, f.n) for f in cohort.figures] == [("mean", 100.0, 20.0), ("sd", 40.0, 20.0)]


def test_an_se_is_turned_into_an_sd_by_all_who_were_averaged():
    """Those counted elsewhere were averaged too."""
    (cohort,) = read(row("mean", 100, n=25, se=8)).cohorts
    assert cohort.figures[1].value == pytest.approx(40.0)
    assert cohort.figures[1].n == 21.0


def test_a_geometric_cv_is_an_sd_of_logs():
    (cohort,) = read(row("geometric_mean", 100, cv=0.5)).cohorts
    assert cohort.figures[1].value == pytest.approx(math.sqrt(math.log(1.25)))


def test_quartiles_and_range_are_figures_of_their_own():
    (cohort,) = read(row("median", 100, q25=60, q75=150, min=10, max=400)).cohorts
    assert [(f.kind, f.value, f.other) for f in cohort.figures] == [
        ("quantile", 60.0, 0.25), ("quantile", 100.0, 0.5), ("quantile", 150.0, 0.75), ("range", 10.0, 400.0)]


def test_a_curve_gathers_its_rows_by_day_and_loses_its_overlap_in_proportion():
    later = row("cumulative_incidence", 0.5, day=28, n=12, threshold=50)
    (cohort,) = read(later + row("cumulative_incidence", 0.25, threshold=50)).cohorts
    (curve,) = cohort.curves
    assert (curve.rows, curve.days, curve.incidence) == ((1, 0), (7.0, 28.0), (0.25, 0.5))
    assert curve.at_risk == pytest.approx((20.0, 10.0))
    assert cohort.days == (7.0, 14.0, 28.0)


def test_a_small_spread_may_be_explained():
    more = 'sd = 6\nspread_reason = "one inbred strain"\n'
    assert len(read(row("mean", 100) + more).cohorts[0].figures) == 2


# --- bad -----------------------------------------------------------------------------------------------------


def test_every_fault_of_bad_papers_is_named_with_its_row():
    with pytest.raises(InputError) as caught:
        read_published("papers", BAD / "published.toml", (BAD / "published.toml").read_text(encoding="utf-8"), "",
                       MODEL, ADDITIVE)
    assert places(caught) == {
        "rows.1.n", "rows.2.sd", "rows.3.sd", "rows.4.se", "rows.5.value", "rows.5.q75", "rows.7.value", "rows.7.n",
        "rows.8.n", "rows.9.observable", "rows.9.unit", "rows.10.unit", "rows.11.value", "rows.11.limit",
        "rows.12.sd", "rows.12.max", "rows.13.cohort", "rows.13.day", "rows.14.statistic", "rows.15.statistic",
        "rows.15", "rows.16.statistic", "rows.16", "cohorts.silent", "cohorts.good.doses.0",
        "cohorts.good.covariates.age.mean", "cohorts.good.covariates.height"}


@pytest.mark.parametrize("text, place", [
    (row("median", 100, min=0, max=300), "rows.0.min"),
    (row("mean", 100, n=24) + row("geometric_mean", 90), "rows.1.statistic"),
    (row("cumulative_incidence", 0.5, threshold=50, day=5), "rows.0.day"),
    (row("cumulative_incidence", 0.5, threshold=50, consecutive=2), "rows.0.day"),
    (row("geometric_mean", 100, cv=-0.2), "rows.0.cv"),
    (row("mean", 100, sd=40, cv=0.4), "rows.0.cv"),
    (row("mean", 100, bound='"above"'), "rows.0.bound"),
    (row("median", 100, min=3, max=300, bound='"above"'), "rows.0.bound")])
def test_one_wrong_number_is_found(text, place):
    with pytest.raises(InputError) as caught:
        read(text)
    assert places(caught) == {place}


def test_no_mean_exists_under_student_errors_of_logs():
    errors = {"count": ErrorModel("count", "student_t", {}, {}, 0.0, 5.0)}
    with pytest.raises(InputError, match="leaves no mean"):
        read(row("mean", 100), errors)


def test_a_file_of_another_digest_is_refused(tmp_path):
    (tmp_path / "papers.toml").write_text(HEAD + row("mean", 100))
    with pytest.raises(InputError, match="sha256"):
        load_published("papers", tmp_path / "papers.toml", digest("else"), MODEL, LOGNORMAL)


# --- in a spec -----------------------------------------------------------------------------------------------

SPEC = """
title = "Papers"
purpose = "test"
model = "decay.toml"
estimate = ["x0", "k"]
{more}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "halfnormal(sd=0.3)", source = "test" }} }}
[sampler]
seed = 1
"""
PAPERS = HEAD + row("mean", 100, sd=40)
NAMED = f'[published.papers]\nfile = "papers.toml"\nsha256 = "{digest(PAPERS)}"\n'


def spec_with(tmp_path: Path, more: str):
    (tmp_path / "decay.toml").write_text((BAD / "decay.toml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "papers.toml").write_text(PAPERS, encoding="utf-8")
    (tmp_path / "spec.toml").write_text(SPEC.format(more=more), encoding="utf-8")
    return load_fit_spec(tmp_path)


def test_a_spec_may_have_published_figures_alone(tmp_path):
    spec = spec_with(tmp_path, NAMED + '[study_effect]\nx0 = { sd = "halfnormal(sd=0.3)", source = "test" }\n')
    assert not spec.has_data
    assert (spec.studies, list(spec.study_effects)) == (("One",), ["x0"])


@pytest.mark.parametrize("more, place", [
    ("", "data"),
    (NAMED.replace("papers.toml", "paper.toml"), ""),
    (NAMED + NAMED.replace("published.papers", "published.again"), "published.again.file"),
    (NAMED.replace('file = "papers.toml"', 'file = "decay.toml"'), "")])
def test_a_spec_without_data_or_with_the_wrong_papers_is_refused(tmp_path, more, place):
    with pytest.raises(InputError) as caught:
        spec_with(tmp_path, more)
    assert any(place in fault.where for fault in caught.value.faults)


def test_a_study_effect_needs_a_study(tmp_path):
    with pytest.raises(InputError) as caught:
        spec_with(tmp_path, '[study_effect]\nx0 = { sd = "halfnormal(sd=0.3)", source = "test" }\n')
    assert places(caught) == {"data", "study_effect.x0"}
