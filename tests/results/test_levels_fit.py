"""A fit whose patients differ by study and by occasion: its record verifies, and what reads records knows of both."""

import hashlib

import numpy as np
import pytest

from thymodel.results import prior_sensitivity
from thymodel.results.checks import check_fit
from thymodel.results.fitting import fit
from thymodel.results.record import load_record, verify
from thymodel.results.report import report_html
from thymodel.results.scores import Unit, score

_MODEL = """
title = "Decay of one pool"
description = "x falls at the rate k."
time = "day"
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
_SPEC = """
title = "Studies and occasions"
purpose = "test"
model = "decay.toml"
simulated = true
estimate = ["x0", "k"]
occasions = [5]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL" }}
[between_subject]
k = {{ sd = "halfnormal(sd=0.5)", source = "made up" }}
[between_occasion]
k = {{ sd = "halfnormal(sd=0.5)", source = "made up" }}
[study_effect]
x0 = {{ sd = "halfnormal(sd=0.5)", source = "made up" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.5)", source = "made up" }} }}
[endpoints.low]
marker = "count"
threshold = 20
unit = "cell/uL"
horizon = 12
by = [6]
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


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    random = np.random.default_rng(4)
    rows = [f"{who},{'AB'[who % 2]},{day},count,{(120 - 40 * (who % 2)) * np.exp(-0.1 * day + 0.2 * e):.4g}"
            for who in range(1, 7) for day, e in zip((1, 4, 7, 11), random.normal(size=4), strict=True)]
    text = "\n".join(["ID,STUDY,TIME,DVID,DV", *rows]) + "\n"
    (folder / "study.csv").write_text(text)
    (folder / "decay.toml").write_text(_MODEL)
    (folder / "spec.toml").write_text(_SPEC.format(digest=hashlib.sha256(text.encode()).hexdigest()))
    return fit(folder, out=folder / "record")


def test_the_record_names_every_level_and_verifies(record):
    named = {"tau_x0", "study_x0_A", "study_x0_B", "gamma_k", "omega_k"}
    assert named <= set(record.content["parameters"]) and named <= set(record.content["summary"])
    assert {"re_k[1]", "re_k_occasion_1[1]", "re_k_occasion_2[6]"} <= set(record.table.index)
    priors = {row["name"]: row["prior"] for row in record.content["priors"]}
    assert priors["tau_x0"] == priors["gamma_k"] == "halfnormal(sd=0.5)"
    lay = load_record(record.folder).layout
    assert (lay.studies, lay.study) == (("B", "A"), (0, 1, 0, 1, 0, 1))
    found = verify(record)
    assert found.faults == () and any("log density" in note for note in found.notes)
    assert "occasions = [5]" in report_html(record, figures=False)


def test_checks_tell_of_every_occasion(record):
    rows = {row["effect"]: row["omega"] for row in check_fit(record).content["random_effects"]}
    assert set(rows) == {"k", "k_occasion_1", "k_occasion_2"}
    assert rows["k_occasion_1"] == rows["k_occasion_2"] != rows["k"]


def test_scores_integrate_over_occasions(record):
    table = score(record, Unit.subject).table
    assert len(table) == 6 and np.isfinite(table["elpd"]).all()


def test_priors_of_every_spread_can_be_asked_about(record):
    known, prior = prior_sensitivity.priors_of(record.layout), record.spec.study_effects["x0"].sd
    assert {"tau_x0", "gamma_k"} <= set(known)
    other = prior_sensitivity.with_prior(prior_sensitivity.with_prior(record.spec, "tau_x0", prior), "gamma_k", prior)
    assert other.between_occasion["k"].sd == prior == other.study_effects["x0"].sd
