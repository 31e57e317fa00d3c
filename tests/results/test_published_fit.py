"""A fit to published figures: alone, and beside patients; its record holds the figures and verifies."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from thymodel.errors import InputError
from thymodel.results.checks import check_fit
from thymodel.results.fitting import fit
from thymodel.results.record import FitRecord, load_record, quote, verify
from thymodel.results.report import report_html
from thymodel.results.scores import score

pytestmark = pytest.mark.requirement("REQ-INF-07", "REQ-REC-05")

_MODEL = """
title = "Decay of one pool"
description = "x falls at the rate k."
time = "day"
[covariates]
age = { unit = "year", value = 40, source = "made up" }
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "made up" }
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "made up" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
unit = "cell/uL"
value = "x"
"""
_PAPERS = """
title = "Made-up papers"
[cohorts.control]
study = "One"
source = "made up"
visits = [1, 2, 3]
[cohorts.control.covariates]
age = { unit = "year", mean = 50, sd = 10, min = 20, max = 80, source = "made up" }
[cohorts.dosed]
study = "Two"
source = "made up"
doses = [{ amount = 80, day = 4 }]
""" + "".join(f"""
[[rows]]
cohort = "{cohort}"
day = {day}
observable = "count"
n = 30
unit = "cell/uL"
source = "made up"
{rest}
""" for cohort, day, rest in (
    ("control", 1, 'statistic = "mean"\nvalue = 95\nsd = 40'),
    ("control", 3, 'statistic = "cumulative_incidence"\nvalue = 0.3\nthreshold = 120'),
    ("control", 8, 'statistic = "median"\nvalue = 44\nq25 = 30\nq75 = 61\nmin = 9\nmax = 150'),
    ("dosed", 6, 'statistic = "geometric_mean"\nvalue = 115\ncv = 0.4'),
    ("dosed", 12, 'statistic = "fraction_below"\nvalue = 0.4\nlimit = 55')))
_SPEC = """
title = "Published figures"
purpose = "test"
model = "decay.toml"
simulated = true
estimate = ["x0", "k"]
{data}
[published.papers]
file = "papers.toml"
sha256 = "{papers}"
[between_subject]
x0 = {{ sd = "halfnormal(sd=0.5)", source = "made up" }}
[covariate_effects.age_x0]
parameter = "x0"
covariate = "age"
form = "power"
reference = 50
prior = "normal(mean=0, sd=0.5)"
source = "made up"
[study_effect]
k = {{ sd = "halfnormal(sd=0.2)", source = "made up" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.5)", source = "made up" }} }}
[endpoints.low]
marker = "count"
threshold = 20
unit = "cell/uL"
horizon = 20
[sampler]
seed = 1
chains = 2
warmup = 20
draws = 20
[gates]
rhat = 100
failed_solves = 1
ess_bulk = 1
ess_tail = 1
divergences = 40
"""
_STUDY = "ID,TIME,DVID,DV,age\n1,1,count,92,30\n1,9,count,40,30\n2,1,count,70,60\n2,9,count,35,60\n"


def _write(folder: Path, with_patients: bool) -> Path:
    folder.mkdir()
    data = ""
    if with_patients:
        (folder / "study.csv").write_text(_STUDY)
        data = (f'[data]\nfile = "study.csv"\nsha256 = "{hashlib.sha256(_STUDY.encode()).hexdigest()}"\n'
                'units = { TIME = "day", count = "cell/uL", age = "year" }')
    (folder / "decay.toml").write_text(_MODEL)
    (folder / "papers.toml").write_text(_PAPERS)
    (folder / "spec.toml").write_text(_SPEC.format(data=data, papers=hashlib.sha256(_PAPERS.encode()).hexdigest()))
    return folder


@pytest.fixture(scope="module", params=["alone", "beside patients"])
def record(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FitRecord:
    folder = tmp_path_factory.mktemp("fits")
    return fit(_write(folder / "papers", request.param != "alone"), out=folder / "out")


def test_a_fit_to_published_figures_has_a_record_that_verifies(record):
    found = verify(record)
    assert found.faults == ()
    assert "log density recomputed at 3 points" in found.notes or record.spec.has_data


def test_the_record_lists_every_published_figure_beside_what_is_predicted(record):
    (table,) = record.content["published"]
    shown = [(row["cohort"], row["statistic"], sorted(row["figures"])) for row in table["rows"]]
    assert shown == [("control", "mean", ["sd", "value"]), ("control", "cumulative_incidence", ["value"]),
                     ("control", "median", ["max", "min", "q25", "q75", "value"]),
                     ("dosed", "geometric_mean", ["cv", "value"]), ("dosed", "fraction_below", ["value"])]
    for row in table["rows"]:
        for figure in row["figures"].values():
            assert figure["q05"] < figure["median"] < figure["q95"]
    assert table["sha256"] == hashlib.sha256(_PAPERS.encode()).hexdigest()


def test_study_effects_and_slopes_across_studies_are_quoted_and_have_their_priors(record):
    names = [row["name"] for row in record.content["priors"]]
    assert {"tau_k", "beta_across_age_x0"} <= set(names)
    assert len(quote(record, ["study_k_One", "study_k_Two", "beta_across_age_x0"])) == 3


def test_checks_and_scores_without_patients_are_refused_with_where_to_look(record):
    if record.spec.has_data:
        assert score(record).table["observations"].sum() == 4
        return
    for ask in (check_fit, score):
        with pytest.raises(InputError, match="published figures only: no patients to compare with.*thymodel report"):
            ask(record)


def test_the_report_shows_published_figures(record):
    page = report_html(record)
    assert "Published figures" in page and "Made-up papers" in page


def test_a_changed_copy_of_the_papers_does_not_verify(record, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(record.folder, copy)
    (copy / "papers.toml").write_text(_PAPERS.replace("value = 95", "value = 96"))
    faults = verify(load_record(copy)).faults
    assert any("changed since the fit" in str(fault) for fault in faults)


def test_a_record_that_does_not_list_the_papers_does_not_verify(record, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(record.folder, copy)
    content = json.loads((copy / "record.json").read_text())
    del content["files"]["papers.toml"]
    (copy / "record.json").write_text(json.dumps(content))
    assert any("does not list papers.toml" in str(fault) for fault in verify(load_record(copy)).faults)
