"""Simulated studies: reproducible, true to their design, readable as study data, and plainly marked."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from thymodel.documents.data import load_data
from thymodel.documents.design import load_design, planned_days
from thymodel.documents.rows import DataColumns
from thymodel.errors import InputError
from thymodel.results.trial import COLUMNS, MARK, save_trial, simulate_trial

pytestmark = pytest.mark.requirement("REQ-TRI-01")

ROOT = Path(__file__).parents[2]
BAD = ROOT / "tests" / "bad"
RESET02 = ROOT / "fits" / "reset02_design"
UNITS = {"TIME": "day", "count": "cell/uL", "few": "cell/uL", "infusion": "cell/uL", "weight": "kg"}

MODEL = """
title = "A source, a sink and infusions"
description = "The smallest model that a trial can be simulated from."
[covariates]
weight = { unit = "kg", value = 70, source = "test" }
size   = { unit = "kg", value = 1, source = "test" }
[parameters]
A = { unit = "cell/uL", value = 200, prior = "lognormal(median=200, sd=0.5)", source = "test" }
k = { unit = "1/day", value = 0.01, prior = "lognormal(median=0.01, sd=0.5)", source = "test" }
p = { unit = "1", value = 0.02, prior = "logitnormal(median=0.02, sd=1)", source = "test" }
[states.N]
unit = "cell/uL"
initial = "A"
rate = "-k*N"
[inputs.infusion]
unit = "cell/uL"
add = { N = "amount" }
[observables]
count = { unit = "cell/uL", value = "N" }
few   = { unit = "cell/uL", value = "p*N" }
"""

DESIGN = """
title = "SIMULATED test study"
model = "decay.toml"
[truth]
A = 100
between_subject = { A = { sd = 0.5 }, sink = { sd = 0.3, parameters = ["k"] }, p = { sd = 0.4, scale = "logit" } }
[error.count]
error = "student_t"
parameters = { log_sd = 0.3 }
df = 5
offset = 1
[error.few]
error = "combined"
parameters = { additive = 0.2, proportional = 0.1 }
lloq = 1
uloq = 4
[arms.control]
subjects = 30
[arms.treated]
subjects = 30
doses = [{ amount = 50, day = 14 }, { amount = 25, day = 20.5 }]
[covariates]
weight = "truncnormal(mean=70, sd=12, lower=40, upper=100)"
[visits]
days = [0, 7, 14, 28, 60, 61, 100]
observables = { few = [14, 60, 80] }
jitter = 3
missing = 0.1
[dropout]
rate = 0.005
"""

ANOTHER_ARM = """
[arms.high]
subjects = 5
doses = [{ amount = 500, day = 14 }]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("design")
    (folder / "decay.toml").write_text(MODEL)
    (folder / "design.toml").write_text(DESIGN)
    return folder


@pytest.fixture(scope="module")
def design(folder):
    return load_design(folder)


@pytest.fixture(scope="module")
def trial(design):
    return simulate_trial(design, seed=1)


@pytest.fixture(scope="module")
def complete(design):
    """The same study, in which nobody leaves."""
    return simulate_trial(replace(design, dropout_rate=0.0), seed=1)


def redesigned(folder, name, change) -> Path:
    path = folder / name
    path.write_text(change(DESIGN))
    return path


def csv(trial, folder, name) -> bytes:
    save_trial(trial, folder / name)
    return (folder / name).read_bytes()


def observations(trial, name) -> pd.DataFrame:
    return trial.table[(trial.table.EVID == 0) & (trial.table.DVID == name)]


def faults(path) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        load_design(path)
    return {str(fault.where).removeprefix(f"{path}: "): fault.what for fault in caught.value.faults}


# --- reproducible --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(design, trial, tmp_path):
    again = simulate_trial(design, seed=1)
    assert csv(trial, tmp_path, "a.csv") == csv(again, tmp_path, "b.csv")
    assert (tmp_path / "a.truth.json").read_bytes() == (tmp_path / "b.truth.json").read_bytes()


def test_another_seed_gives_another_study(design, trial):
    other = simulate_trial(design, seed=2)
    assert not set(other.table.weight) >= set(trial.table.weight)
    mine, theirs = (one.truth["subjects"]["1"] for one in (trial, other))
    assert mine["random_effects"] != theirs["random_effects"] and mine["left"] != theirs["left"]
    together = observations(trial, "count").merge(observations(other, "count"), on=["ID", "TIME"])
    assert len(together) > 20 and (together.DV_x != together.DV_y).mean() > 0.9


def test_an_arm_more_changes_only_the_ids_of_the_others(folder, trial):
    path = redesigned(folder, "front.toml", lambda text: text.replace("[arms.control]", ANOTHER_ARM + "[arms.control]"))
    front = simulate_trial(load_design(path), seed=1).table
    others = front[front.ARM != "high"].reset_index(drop=True)
    pd.testing.assert_frame_equal(others.assign(ID=others.ID - 5), trial.table)


# --- true to the design --------------------------------------------------------------------------------------


def test_without_noise_the_table_is_the_trajectory(design):
    quiet = {"omega_A": 0, "omega_sink": 0, "omega_p": 0, "sigma_count": 0, "sigma_additive_few": 0,
             "sigma_proportional_few": 0}
    table = observations(simulate_trial(replace(design, dropout_rate=0.0), 3, quiet), "count")
    given = {"control": [(0, 100)], "treated": [(0, 100), (14, 50), (20.5, 25)]}  # (day, cells per uL)
    exact = [sum(amount * math.exp(-0.01 * (row.TIME - day)) for day, amount in given[row.ARM]
                 if day < row.TIME or day == 0) for row in table.itertuples()]
    assert len(table) > 300
    np.testing.assert_allclose(table.DV, exact, rtol=5.1e-4)  # four significant digits


def test_random_effects_act_on_their_scale(trial):
    truth = trial.truth["population"]
    for subject in trial.truth["subjects"].values():
        effects, own = subject["random_effects"], subject["parameters"]
        assert own["A"] == pytest.approx(truth["A"] * math.exp(effects["A"]))
        assert own["k"] == pytest.approx(truth["k"] * math.exp(effects["sink"]))
        logit = math.log(own["p"] / (1 - own["p"])) - math.log(truth["p"] / (1 - truth["p"]))
        assert logit == pytest.approx(effects["p"])


@pytest.mark.parametrize(("effect", "sd"), [("A", 0.5), ("sink", 0.3), ("p", 0.4)])
def test_random_effects_have_the_spread_of_the_design(trial, effect, sd):
    drawn = [subject["random_effects"][effect] for subject in trial.truth["subjects"].values()]
    assert scipy.stats.kstest(drawn, scipy.stats.norm(0, sd).cdf).pvalue > 1e-3


def test_residuals_follow_the_error_model(design):
    trial = simulate_trial(replace(design, dropout_rate=0.0, missing=0.0, jitter=0.0), 4,
                           {"omega_A": 0, "omega_sink": 0, "omega_p": 0})
    first = observations(trial, "count").query("TIME == 7").DV
    residual = (np.log(first + 1) - math.log(100 * math.exp(-0.07) + 1)) / 0.3
    assert len(residual) == 60
    assert scipy.stats.kstest(residual, scipy.stats.t(5).cdf).pvalue > 1e-3


def test_values_beyond_the_limits_hold_the_limit(trial):
    few, count = observations(trial, "few"), observations(trial, "count")
    assert (few.CENS == 1).any() and (few.CENS == -1).any() and (few.CENS == 0).any()
    assert (few.DV[few.CENS == 1] == 1).all() and (few.DV[few.CENS == -1] == 4).all()
    assert few.DV[few.CENS == 0].between(1, 4).all() and (count.CENS == 0).all()


def test_nobody_is_seen_after_leaving(trial, complete):
    left = trial.table.ID.map(lambda identity: trial.truth["subjects"][str(identity)]["left"])
    assert (trial.table.TIME <= left).all()
    assert complete.truth["subjects"]["1"]["left"] is None
    assert len(trial.table) < len(complete.table)
    kept = complete.table.merge(trial.table, how="inner")
    assert len(kept) == len(trial.table)  # leaving takes visits away and changes no value


def test_days_of_leaving_are_exponential(trial):
    left = [subject["left"] for subject in trial.truth["subjects"].values()]
    assert scipy.stats.kstest(left, scipy.stats.expon(scale=200).cdf).pvalue > 1e-3


def test_a_subject_who_leaves_before_any_record_keeps_a_row(design):
    later = dict.fromkeys(design.visits, (7.0,))
    table = simulate_trial(replace(design, dropout_rate=1e6, visits=later), 1).table
    assert list(table.ID) == list(range(1, 61)) and (table.EVID == 2).all()


def test_visits_stay_near_their_day_and_in_order(design, trial):
    days = {"count": np.array([0, 7, 14, 28, 60, 61, 100]), "few": np.array([14, 60, 80])}
    assert planned_days(design) == (0, 7, 14, 28, 60, 61, 80, 100)
    for name, planned in days.items():
        seen = observations(trial, name)
        nearest = planned[np.abs(seen.TIME.to_numpy()[:, None] - planned).argmin(axis=1)]
        assert (np.abs(seen.TIME - nearest) <= 3).all() and (seen.TIME >= 0).all()
        assert not seen.duplicated(["ID", "TIME"]).any()
    at_60_or_61 = observations(trial, "count").query("55 < TIME < 65").TIME
    assert at_60_or_61.between(59.6, 61.4).all()  # one day apart: less than half a day each way
    assert np.array_equal(trial.table.TIME, trial.table.TIME.round(1))
    assert observations(trial, "count").TIME.nunique() > 100


def test_the_missing_share_is_that_of_the_design(complete):
    taken, planned = (complete.table.EVID == 0).sum(), 60 * 10
    assert scipy.stats.binomtest(int(planned - taken), planned, 0.1).pvalue > 1e-3


def test_a_truth_given_replaces_that_of_the_design(design, trial):
    given = {"A": 120.0, "omega_sink": 0.6, "sigma_count": 0.1}
    other = simulate_trial(design, 1, given)
    assert {name: other.truth["population"][name] for name in given} == given
    for mine, theirs in zip(other.truth["subjects"].values(), trial.truth["subjects"].values(), strict=True):
        assert mine["random_effects"]["sink"] == pytest.approx(2 * theirs["random_effects"]["sink"])
        assert mine["random_effects"]["A"] == theirs["random_effects"]["A"]


def test_a_truth_that_cannot_be_is_refused_with_all_its_faults(design):
    with pytest.raises(InputError) as caught:
        simulate_trial(design, 1, {"AA": 1, "A": -1, "omega_A": -0.1, "sigma_count": math.nan})
    assert {fault.where for fault in caught.value.faults} >= {"truth.AA", "truth.A", "truth.omega_A",
                                                              "truth.sigma_count"}
    with pytest.raises(InputError, match="seed: -1 is negative"):
        simulate_trial(design, -1)


# --- the table and its files ---------------------------------------------------------------------------------


def test_the_table_has_the_columns_of_study_data_and_says_simulated(trial):
    assert list(trial.table) == [*COLUMNS, "weight", "SIMULATED"]
    assert (trial.table[MARK] == 1).all()
    assert trial.table.groupby("ID").TIME.apply(lambda times: times.is_monotonic_increasing).all()
    doses = trial.table[trial.table.EVID == 1]
    assert set(doses.ARM) == {"treated"} and set(doses.AMT) == {50, 25} and set(doses.CMT) == {"infusion"}
    digits = [f"{value:.4g}" for value in trial.table.DV.dropna()]
    assert [float(text) for text in digits] == list(trial.table.DV.dropna())


def test_covariates_are_those_of_the_truth(trial):
    own = trial.table.groupby("ID").weight.agg(["min", "max"])
    for identity, subject in trial.truth["subjects"].items():
        weight = subject["covariates"]["weight"]
        assert tuple(own.loc[int(identity)]) == (weight, weight) and 40 <= weight <= 100


def test_a_saved_trial_is_study_data_without_faults(design, trial, tmp_path):
    save_trial(trial, tmp_path / "cohort.csv")
    data = load_data(tmp_path / "cohort.csv", design.model, DataColumns(UNITS))
    assert [subject.id for subject in data.subjects] == list(trial.truth["subjects"])
    assert sum(len(subject.observations) for subject in data.subjects) == (trial.table.EVID == 0).sum()
    assert not data.exclusions and any("SIMULATED" in note for note in data.notes)


def test_the_truth_file_is_complete(design, trial, tmp_path):
    save_trial(trial, tmp_path / "cohort.csv")
    truth = json.loads((tmp_path / "cohort.truth.json").read_text())
    assert truth["simulated"] is True and truth["seed"] == 1 and truth["title"] == "SIMULATED test study"
    assert truth["data_sha256"] == hashlib.sha256((tmp_path / "cohort.csv").read_bytes()).hexdigest()
    assert (truth["design_sha256"], truth["model_sha256"]) == (design.digest, design.model.digest)
    assert truth["thymodel"] == trial.version
    assert truth["population"] == {
        "A": 100, "k": 0.01, "p": 0.02, "omega_A": 0.5, "omega_sink": 0.3, "omega_p": 0.4, "sigma_count": 0.3,
        "sigma_additive_few": 0.2, "sigma_proportional_few": 0.1}
    assert list(truth["subjects"]) == [str(k) for k in range(1, 61)]
    for subject in truth["subjects"].values():
        assert set(subject) == {"arm", "covariates", "random_effects", "parameters", "left"}
        assert set(subject["random_effects"]) == {"A", "sink", "p"} and set(subject["parameters"]) == {"A", "k", "p"}


def test_a_file_of_other_content_is_not_overwritten(trial, tmp_path):
    save_trial(trial, tmp_path / "cohort.csv")
    save_trial(trial, tmp_path / "cohort.csv")  # the same again is no harm
    (tmp_path / "cohort.csv").write_text("my notes")
    with pytest.raises(InputError, match="other content") as caught:
        save_trial(trial, tmp_path / "cohort.csv")
    assert caught.value.faults[0].hint
    assert (tmp_path / "cohort.csv").read_text() == "my notes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort.csv", "cohort.truth.json"]


def test_a_folder_that_is_not_there_is_a_fault(trial, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_trial(trial, tmp_path / "none" / "cohort.csv")


# --- bad designs ---------------------------------------------------------------------------------------------


def test_every_wrong_value_of_a_design_is_told_with_its_path():
    assert set(faults(BAD / "design_values.toml")) == {
        "truth.k_q", "truth.MTT", "truth.between_subject.B00", "truth.between_subject.t_lag.scale",
        "error.cd4.parameters", "error.cd4.df", "error.cd9", "error.cd9.df", "error.cd9.offset", "error.cd9.uloq",
        "arms.a.doses.0", "arms.a.doses.1", "arms.a.doses.2", "arms.NA", "covariates.age", "covariates.weight",
        "visits.days", "visits.observables.cd8"}


def test_every_key_outside_the_schema_is_told_with_its_path():
    found = faults(BAD / "design_keys.toml")
    assert set(found) == {
        "title", "patients", "truth.B0", "truth.between_subject.B0.sd", "truth.between_subject.B0.scale",
        "error.cd4.error", "error.cd4.parameters.log_sd", "error.cd4.lloq", "arms.a.subjects", "visits.days.0",
        "visits.missing", "visits.jitter"}


@pytest.mark.parametrize(("old", "new", "where"), [
    ("decay.toml", "absent.toml", "model"),
    ('sd = 0.4, scale = "logit"', 'sd = 0.4, scale = "probit"', "truth.between_subject.p.scale"),
    ("[0, 7, 14, 28, 60, 61, 100]", "[]", "visits"),
    ("subjects = 30", "subjects = 90000", "arms"),
    ("truncnormal(mean=70, sd=12, lower=40, upper=100)", "lkj(shape=2)", "covariates.weight"),
])
def test_a_fault_names_its_key(folder, old, new, where):
    assert list(faults(redesigned(folder, "bad.toml", lambda text: text.replace(old, new)))) == [where]


# --- the study in the repository -----------------------------------------------------------------------------


def test_the_committed_cohort_is_that_of_its_design_and_seed():
    design = load_design(RESET02)
    trial = simulate_trial(design, seed=20)
    table = pd.read_csv(RESET02 / "cohort.csv", na_values=".")
    truth = json.loads((RESET02 / "cohort.truth.json").read_text())
    pd.testing.assert_frame_equal(table, trial.table, check_dtype=False, rtol=1e-3)  # one unit of the last digit
    assert (truth["design_sha256"], truth["model_sha256"]) == (design.digest, design.model.digest)
    assert truth["data_sha256"] == hashlib.sha256((RESET02 / "cohort.csv").read_bytes()).hexdigest()


def test_the_committed_cohort_is_readable_and_says_simulated():
    units = {"TIME": "day", "progenitors": "Mcell/kg", "age": "year", "BW": "kg"}
    units |= dict.fromkeys(("cd4", "cd8", "naive4", "rte4"), "cell/uL")
    data = load_data(RESET02 / "cohort.csv", load_design(RESET02).model, DataColumns(units))
    arms = [subject.arm for subject in data.subjects]
    assert {arm: arms.count(arm) for arm in arms} == {"control": 12, "dose_1_5": 6, "dose_4": 6, "dose_9": 6}
    assert not data.exclusions and data.notes == ("columns not used: SIMULATED",)
