"""A plan is hashed before the sampling, kept by the record, and missed when it changes."""

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from thymodel.documents.spec import load_fit_spec
from thymodel.documents.toml import digest
from thymodel.errors import InputError
from thymodel.results import fitting
from thymodel.results import record as records
from thymodel.results.fitting import fit
from thymodel.results.planning import NONE, find_plan, fix_plan, plan_sentence
from thymodel.results.record import load_record, verify

pytestmark = pytest.mark.requirement("REQ-REP-04")

PLAN = """
title = "Plan of a tiny fit"
question = "Do made-up counts stay above 80?"
context_of_use = "a test"
[fit]
data = "not yet collected"
estimate = ["x0", "k"]
[criteria.share]
kind = "probability"
quantity = "back.by_10[dosed]"
above = 0.5
at_least = 0.9
rationale = "made up"
appropriateness = "made up"
"""


@pytest.fixture
def study(tiny_study, tmp_path) -> Path:
    """A folder with spec, model, data and plan."""
    folder = Path(shutil.copytree(tiny_study, tmp_path / "study", ignore=shutil.ignore_patterns(".*")))
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def planned(tiny_study, tmp_path_factory) -> Path:
    """A record elsewhere than its spec, made by the quickest method; do not write into it."""
    home = tmp_path_factory.mktemp("planned")
    folder = Path(shutil.copytree(tiny_study, home / "study", ignore=shutil.ignore_patterns(".*")))
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    return fit(folder, out=home / "out", method="map").folder


@pytest.fixture
def copy(planned, tmp_path) -> Path:
    """The record and the folder of its spec, to be changed."""
    shutil.copytree(planned.parent, tmp_path / "home")
    return tmp_path / "home" / "out"


# --- in a record ---------------------------------------------------------------------------------------------


def test_a_record_keeps_the_plan_and_when_it_was_hashed(planned):
    record = load_record(planned)
    told = record.content["plan"]
    assert (planned / "plan.toml").read_text(encoding="utf-8") == PLAN
    assert told["sha256"] == digest(PLAN) == record.content["files"]["plan.toml"]
    assert told["path"] == "../study/plan.toml"
    begun, written = (datetime.fromisoformat(text) for text in (told["hashed_at"], record.content["created"]))
    assert begun <= written
    assert not (planned / ".checkpoint").exists()


def test_a_record_with_its_plan_verifies(planned):
    found = verify(load_record(planned))
    assert found.faults == () and "plan hashed before the fit" in found.notes


@pytest.mark.parametrize("damage", [lambda path: path.write_text(PLAN.replace("0.9", "0.1"), encoding="utf-8"),
                                    lambda path: path.unlink()], ids=["changed", "absent"])
def test_a_changed_plan_is_a_fault_of_the_record(copy, damage):
    damage(copy / "plan.toml")
    assert [Path(fault.where).name for fault in verify(load_record(copy)).faults] == ["plan.toml"]


def test_a_plan_that_was_changed_beside_the_spec_is_said_and_no_fault(copy):
    path = copy.parent / "study" / "plan.toml"
    path.write_text(PLAN.replace("0.9", "0.1"), encoding="utf-8")
    found = verify(load_record(copy))
    assert found.faults == () and any("study/plan.toml was changed since the fit" in note for note in found.notes)


@pytest.mark.parametrize("change", [lambda content: content["plan"].update(sha256="0" * 64),
                                    lambda content: content.update(plan={"sha256": None, "note": NONE}),
                                    lambda content: content.pop("plan"),
                                    lambda content: content.update(plan=[])])
def test_a_record_that_disagrees_with_itself_on_its_plan_does_not_verify(copy, change):
    content = json.loads((copy / "record.json").read_text(encoding="utf-8"))
    change(content)
    content["digest"] = records._own_digest(content)
    (copy / "record.json").write_text(json.dumps(content), encoding="utf-8")
    assert any("plan.sha256" in str(fault) for fault in verify(load_record(copy)).faults)


def test_a_fit_without_a_plan_says_so(tiny_fit):
    assert tiny_fit.content["plan"] == {"sha256": None, "note": NONE}
    assert "plan.toml" not in tiny_fit.content["files"]
    assert "no analysis plan" in verify(tiny_fit).notes


def test_a_plan_that_came_after_the_fit_is_said(tiny_fit, tmp_path):
    folder = Path(shutil.copytree(tiny_fit.folder, tmp_path / "late"))
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    found = verify(load_record(folder))
    assert found.faults == () and any("came here after the fit" in note for note in found.notes)


def test_an_older_record_says_that_it_does_not_know():
    assert "not known" in plan_sentence({"name": "older"})


# --- before the sampling -------------------------------------------------------------------------------------


def begin(study: Path, out: Path):
    fixed = fix_plan(load_fit_spec(study), out, out / ".checkpoint")
    (out / ".checkpoint" / "chain").mkdir(parents=True, exist_ok=True)
    (out / ".checkpoint" / "chain" / "state.npz").write_bytes(b"drawn")
    return fixed


def test_a_resumed_fit_keeps_the_time_at_which_its_plan_was_hashed(study, tmp_path):
    note = tmp_path / "out" / ".checkpoint" / "plan.json"
    begin(study, tmp_path / "out")
    note.write_text(note.read_text(encoding="utf-8").replace("20", "19", 1), encoding="utf-8")  # a century ago
    again = fix_plan(load_fit_spec(study), tmp_path / "out", tmp_path / "out" / ".checkpoint")
    assert again is not None and again.hashed_at.startswith("19") and again.plan.digest == digest(PLAN)


@pytest.mark.parametrize("before, after, message", [
    (PLAN, PLAN.replace("0.9", "0.8"), "was changed after"), (None, PLAN, "was not there when"),
    (PLAN, None, "that was there when")])
def test_a_plan_that_moves_during_the_sampling_is_refused_and_draws_are_kept(study, tmp_path, before, after, message):
    path, out = study / "plan.toml", tmp_path / "out"
    for text in (before, after):
        path.unlink(missing_ok=True) if text is None else path.write_text(text, encoding="utf-8")
        if text is before:
            begin(study, out)
    with pytest.raises(InputError, match=message):
        fix_plan(load_fit_spec(study), out, out / ".checkpoint")
    assert (out / ".checkpoint" / "chain" / "state.npz").read_bytes() == b"drawn"


def test_the_plan_is_hashed_before_the_data_are_read(study, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*args):
        raise Stop

    monkeypatch.setattr(fitting, "load_study", stop)
    with pytest.raises(Stop):
        fitting.fit(study, out=tmp_path / "out")
    note = json.loads((tmp_path / "out" / ".checkpoint" / "plan.json").read_text(encoding="utf-8"))
    assert note["sha256"] == digest(PLAN)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00"])
def test_a_damaged_note_of_what_was_hashed_is_not_trusted(study, tmp_path, text):
    begin(study, tmp_path / "out")
    (tmp_path / "out" / ".checkpoint" / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="was changed after"):
        fix_plan(load_fit_spec(study), tmp_path / "out", tmp_path / "out" / ".checkpoint")


def test_another_plan_in_the_place_of_the_record_is_not_written_over(study, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.toml").write_text("another", encoding="utf-8")
    with pytest.raises(InputError, match="another plan.toml is there already"):
        fit(study, out=tmp_path / "out", method="map")
    assert (tmp_path / "out" / "plan.toml").read_text(encoding="utf-8") == "another"


def test_a_bad_plan_stops_the_fit_before_it_begins(study, tmp_path):
    text = PLAN.replace("0.9", "1.9").replace('"back.by_10[dosed]"', '"bakc.by_10[dosed]"')
    (study / "plan.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="criteria.share.at_least"):
        fit(study, out=tmp_path / "out", method="map")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, known", [
    ("back.by_10[dosed]", True), ("back.by_10", True), ("back.median", True), ("k", True), ("omega_x0", True),
    ("sigma_count", True), ("back.by_20", False), ("bakc.by_10", False), ("kk", False), ("omega_k", False)])
def test_a_quantity_that_no_fit_of_the_spec_has_is_a_fault(study, name, known):
    (study / "plan.toml").write_text(PLAN.replace("back.by_10[dosed]", name), encoding="utf-8")
    if known:
        assert find_plan(load_fit_spec(study)) is not None
        return
    with pytest.raises(InputError, match="criteria.share.quantity: no quantity"):
        find_plan(load_fit_spec(study))
