"""A fit whose subjects lack a covariate, change another and were dosed with error, through all that reads a record."""

import hashlib
import re

import numpy as np
import pytest

from thymodel.errors import InputError
from thymodel.results import calibration, identifiability, report
from thymodel.results.checks import check_fit
from thymodel.results.fitting import fit
from thymodel.results.record import load_group, verify
from thymodel.results.scores import score

_MODEL = """
title = "Decay"
description = "x falls at the rate k."
time = "day"
[covariates]
age = { unit = "year", value = 40, source = "made up" }
gvhd = { unit = "1", value = 0, source = "made up" }
[parameters]
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "made up" }
[constants]
x0 = { unit = "cell/uL", value = 100, source = "made up" }
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
title = "Covariates"
purpose = "made up"
model = "decay.toml"
simulated = true
estimate = ["k"]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", cells = "cell/uL", age = "year", gvhd = "1" }}
[covariate_effects.age_k]
parameter = "k"
covariate = "age"
form = "power"
reference = 40
prior = "normal(mean=-1, sd=0.2)"
source = "made up"
[covariate_effects.gvhd_k]
parameter = "k"
covariate = "gvhd"
form = "linear"
reference = 0
prior = "normal(mean=0, sd=0.3)"
source = "made up"
[missing_covariates.age]
distribution = "lognormal"
typical = "lognormal(median=40, sd=0.3)"
sd = 0.3
source = "made up"
[missing_covariates.gvhd]
distribution = "bernoulli"
probability = 0.4
source = "made up"
[dose_error.cells]
sd = 0.2
source = "made up"
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.1, sd=0.3)", source = "made up" }} }}
[endpoints.low]
marker = "count"
threshold = 80
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
divergences = 80
"""
_STUDY = """ID,TIME,EVID,CMT,AMT,DVID,DV,age,gvhd
1/a,2,0,.,.,count,85,35,0
1/a,8,0,.,.,count,48,.,1
1/a,16,0,.,.,count,17,.,1
2,2,0,.,.,count,76,.,0
2,8,1,cells,100,.,.,.,.
2,9,0,.,.,count,130,.,.
2,16,0,.,.,count,35,.,.
3,2,0,.,.,count,83,50,0
3,8,0,.,.,count,51,.,.
4,4,0,.,.,count,72,.,.
4,8,0,.,.,count,.,.,.
"""
_DIGEST = hashlib.sha256(_STUDY.encode()).hexdigest()


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits") / "covariates"
    folder.mkdir()
    (folder / "decay.toml").write_text(_MODEL)
    (folder / "study.csv").write_text(_STUDY)
    (folder / "spec.toml").write_text(_SPEC.format(digest=_DIGEST))
    return fit(folder)


def test_the_record_tells_mean_and_sd_of_every_covariate_that_was_not_known(record):
    drawn = load_group(record.folder / "posterior.nc", "posterior")["missing_age"].values
    rows = record.content["missing_covariates"][:2]
    assert [(row["covariate"], row["subject"], row["unit"]) for row in rows] == [("age", "2", "year"),
                                                                                ("age", "4", "year")]
    assert drawn.shape == (2, 20, 2) and (drawn > 0).all()
    np.testing.assert_allclose([row["mean"] for row in rows], drawn.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose([row["sd"] for row in rows], drawn.std(axis=(0, 1), ddof=1), rtol=1e-12)
    text = report.report_html(record, figures=False)
    assert "Covariates that were not known" in text
    cells = re.sub(r"<span[^>]*>|</span>", "", text)
    assert all(f"{row['mean']:.4g}</td>" in cells for row in rows)


def test_a_covariate_of_0_and_1_is_one_of_them_in_every_draw(record):
    drawn = load_group(record.folder / "posterior.nc", "posterior")["missing_gvhd"].values
    row = record.content["missing_covariates"][2]
    assert (row["covariate"], row["subject"]) == ("gvhd", "4")
    assert set(np.unique(drawn)) == {0.0, 1.0} and row["mean"] == pytest.approx(drawn.mean())


def test_what_is_stated_is_among_the_priors_and_what_is_known_of_the_data_among_the_notes(record):
    priors = {row["name"]: row["prior"] for row in record.content["priors"]}
    assert priors["sd_age"] == "stated: 0.3" and priors["omega_dose_cells"] == "stated: 0.2"
    assert priors["typical_age"] == "lognormal(median=40, sd=0.3)"
    assert {"typical_age", "beta_age_k"} <= set(record.content["parameters"])
    assert not {"sd_age", "omega_dose_cells"} & set(record.content["parameters"])
    notes = " | ".join(record.content["data"]["notes"])
    assert "age: not known of 2 of 4 subjects" in notes and "gvhd: changes on the way in 1 of 4" in notes


def test_the_record_verifies(record):
    found = verify(record)
    assert not found.faults and any("log density" in note for note in found.notes)


def test_checks_and_scores_know_these_unknowns(record):
    checks, scored = check_fit(record), score(record)
    assert [row["effect"] for row in checks.content["random_effects"]] == ["dose_cells"]
    assert np.isfinite(scored.table["elpd"]).all() and len(scored.table) == 4


def test_what_cannot_be_computed_for_them_is_refused_in_a_line(record):
    with pytest.raises(InputError, match="not computed here"):
        identifiability.identify(record.folder)
    with pytest.raises(InputError, match="its distribution is estimated") as error:
        calibration.calibrate(record.folder, calibration.FEWEST)
    assert "distribution is discrete" in str(error.value)
    with pytest.raises(InputError, match="one likelihood for all of their observations"):
        score(record, "observation")


def test_an_uncertain_dose_leaves_less_to_learn(tmp_path):
    """Of k, which the counts after the dose tell; where the SD is next to nothing, as much as without."""
    text, table = _SPEC.format(digest=_DIGEST), '[dose_error.cells]\nsd = 0.2\nsource = "made up"\n'
    start, end = text.index("[missing_covariates.age]"), text.index("[dose_error.cells]")
    assert table in text

    def contraction(dose: str) -> float:
        (tmp_path / "decay.toml").write_text(_MODEL)
        (tmp_path / "study.csv").write_text(study)
        (tmp_path / "spec.toml").write_text((text[:start] + text[end:]).replace(table, dose).replace(
            _DIGEST, hashlib.sha256(study.encode()).hexdigest()))
        found = identifiability.identify(tmp_path)
        return found.contraction[found.names.index("k")]

    study = "ID,TIME,EVID,CMT,AMT,DVID,DV,age,gvhd\n1,1,1,cells,100000,.,.,40,0\n1,9,0,.,.,count,35,.,.\n"
    none, little, much = (contraction(table.replace("0.2", sd) if sd else "") for sd in ("", "1e-6", "2.0"))
    assert none == pytest.approx(little, rel=1e-6) and 0 < none < 0.9 * much < 1
