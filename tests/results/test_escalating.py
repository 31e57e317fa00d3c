"""Escalations from a document and a record: rows that add up, activity of the record, faults told."""

import json
from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.escalation import load_escalation
from thymodel.documents.model import load_model
from thymodel.errors import InputError
from thymodel.results.escalating import run_escalation
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-TRI-03")

BAD = Path(__file__).parents[1] / "bad"
PLAN = """
title = "A made-up escalation"
visits = [5]
[escalation]
rules = ["3+3", "boin"]
target = 0.25
cohort = 3
subjects = 18
[activity]
endpoint = "kept"
[endpoints.kept]
marker = "count"
threshold = 60
unit = "cell/uL"
horizon = 5
landmark = true
[arms.low]
doses = [{ amount = 5, day = 2 }]
[arms.mid]
doses = [{ amount = 20, day = 2 }]
[arms.high]
doses = [{ amount = 60, day = 2 }]
[toxicity.none]
probabilities = [0, 0, 0]
source = "assumed"
[toxicity.steep]
probabilities = [0.05, 0.25, 0.6]
source = "assumed"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("escalations") / "trial.toml"
    path.write_text(PLAN, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(tiny_fit, path):
    return run_escalation(tiny_fit, path, replicates=300, seed=2)


def _row(found, curve, rule, dose, quantity):
    rows = found.table
    return rows[(rows["toxicity"] == curve) & (rows["rule"] == rule) & (rows["dose"] == dose)
                & (rows["quantity"] == quantity)].squeeze()


@pytest.mark.parametrize(("rule", "patients"), [("3+3", (3, 3, 6)), ("boin", (3, 3, 12))])
def test_without_toxicity_the_highest_dose_is_selected(found, rule, patients):
    """3+3: three, three and six at the top; BOIN: the rest of its 18 at the top."""
    assert _row(found, "none", rule, "high", "P(selected)")["estimate"] == 1
    treated = [_row(found, "none", rule, dose, "mean patients")["estimate"] for dose in ("low", "mid", "high")]
    assert treated == list(patients)
    assert _row(found, "none", rule, "all", "mean toxicities")["estimate"] == 0


@pytest.mark.parametrize("rule", ["3+3", "boin"])
def test_shares_add_up_and_the_toxic_dose_is_seldom_selected(found, rule):
    shares = [_row(found, "steep", rule, dose, "P(selected)")["estimate"] for dose in ("none", "low", "mid", "high")]
    assert sum(shares) == pytest.approx(1) and shares[3] < 0.1 < shares[2]
    parts = [_row(found, "steep", rule, dose, "mean toxicities")["estimate"] for dose in ("low", "mid", "high")]
    assert sum(parts) == pytest.approx(_row(found, "steep", rule, "all", "mean toxicities")["estimate"])
    assert _row(found, "steep", rule, "high", "mean patients")["estimate"] == \
        _row(found, "steep", rule, "all", "mean patients above the target")["estimate"]


def test_activity_is_the_records_and_rises_with_the_dose(found):
    shares = found.activity.mean(axis=0)
    assert found.activity.shape == (300, 3) and (np.diff(shares) > 0).all()
    assert _row(found, "none", "boin", "selected", "predicted share reached")["estimate"] == pytest.approx(shares[2])
    assert shares[0] < _row(found, "steep", "3+3", "selected", "predicted share reached")["estimate"] < shares[2]


def test_activity_is_what_a_scenario_says_of_the_same_visits(tiny_fit, found, tmp_path):
    """The mean over draws of P(as observed), of other patients: 9000 here and 40*400 there, within 4 standard errors,
    those of 300 draws and of 40 among them."""
    scenario = tmp_path / "s.toml"
    text = PLAN[PLAN.index("[endpoints.kept]"):PLAN.index("[toxicity.none]")]
    scenario.write_text("title = 'the same'\nvisits = [5]\nsubjects = 400\n" + text, encoding="utf-8")
    seen = np.isfinite(run_scenario(tiny_fit, scenario).observed["kept"].at).mean(axis=2)
    by_draw = found.activity.reshape(300, 3)
    error = np.sqrt(by_draw.var(axis=0) / 300 + 0.25 / 16000)
    assert (np.abs(seen.mean(axis=1) - by_draw.mean(axis=0)) < 4 * error).all()


def test_without_activity_nothing_is_predicted(tiny_fit, tmp_path):
    plan = tmp_path / "trial.toml"
    plan.write_text(PLAN.replace('[activity]\nendpoint = "kept"', ""), encoding="utf-8")
    rows = run_escalation(tiny_fit, plan, replicates=60).table
    assert not rows["quantity"].str.contains("predicted").any() and len(rows) > 20


def test_the_command_says_that_toxicity_is_assumed(tiny_fit, path, call):
    words = (path, "--record", tiny_fit.folder, "--replicates", 60)
    status, out, err = call("trial", *words)
    assert (status, err) == (0, "") and "(assumed: not from the record)" in out and "3+3" in out
    content = json.loads(call("trial", *words, "--json")[1])
    assert content["rows"][0]["quantity"] == "P(selected)" and content["simulated"]
    status, _, err = call("trial", *words, "--out", "a.png")
    assert status == 2 and "an escalation has no figure" in err


def test_a_bad_escalation_lists_every_fault():
    with pytest.raises(InputError) as caught:
        load_escalation(BAD / "escalation.toml", load_model("thymus_core"), {})
    text = str(caught.value)
    for part in ("arms.none: no doses", "arms.four: 4 in all is not more than 9", "no input 'progenitor'",
                 "escalation.rules: ['3+3', '3+3']", "escalation.target: 0.9", "escalation.subjects: 2, fewer than one",
                 "toxicity.short.probabilities: 2 for 3 dose levels", "toxicity.falling.probabilities: 1.3 is no",
                 "falls from one dose to the next", "no endpoint 'cd4_500'"):
        assert part in text
