"""What a scientist may get wrong in a scenario, each on the command line: status 2, the place, the cause, no file."""

import json
import shutil
from pathlib import Path

import pytest

from thymodel import cli
from thymodel.documents.spec import Arm
from thymodel.results import record as records
from thymodel.results.extrapolation import Level, fitted_of, position
from thymodel.results.record import load_record

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "fits/reset02_design"
PLAN = RECORD / "trials/phase2.toml"
ENDPOINT = '[endpoints.e]\nmarker = "cd4"\nthreshold = 50\nunit = "cell/uL"\nhorizon = 100\n'


def _call(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["thymodel", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return (ended.value.code or 0, *capsys.readouterr())


@pytest.mark.parametrize("text, told", [
    ("[arms.a]\ndose = 4\n", ["arms.a.dose: unknown key"]),
    ("[arms.a]\ndoses = [{ day = 7 }]\n", ["arms.a.doses.0.amount: missing"]),
    ('[arms.a]\ndoses = "4@7"\n', ["arms.a.doses: input should be a valid list"]),
    ("", ["arms: missing"]),
    ('[endpoints.e]\npreset = "cd4_51_twice"\n[arms.a]\n', ["no preset 'cd4_51_twice'; did you mean 'cd4_50_twice'?"]),
    ("[arms.a]\ndoses = [{ amount = 4e6, day = 7 }]\n", ["doses are in millions of cells", "write 4"]),
    ("[arms.a]\ncovariates = { age = -3 }\n[arms.b]\ncovariates = { age = 300 }\n",
     ["arms.a.covariates.age: age is -3 year", "arms.b.covariates.age: age is 300 year", "outside 0 to 122"]),
    (f"{ENDPOINT}[arms.a]\ndoses = [{{ amount = 4, day = 120 }}]\n", ["arms.a: its first dose, on day 120"]),
    (f"horizon = 50\n{ENDPOINT}[arms.a]\n", ["looks on to day 100, and the scenario ends on day 50"]),
    ("[ensemble]\nrecords = [\"nowhere\", \"no_such\"]\n[arms.a]\n",
     ["ensemble.records.0", "ensemble.records.1", "no record here"]),
    ("[ensemble]\nrecords = \"x\"\nfoo = 1\n[arms.a]\n", ["ensemble.records: input should be a valid list",
                                                        "ensemble.foo: unknown key"]),
], ids=["dose for doses", "no amount", "doses as text", "no arms", "preset", "cells", "ages", "horizon before dose",
        "horizon of scenario", "no records", "ensemble of another shape"])
def test_a_mistaken_scenario_is_refused_with_its_place_and_writes_nothing(text, told, tmp_path, monkeypatch, capsys):
    path, table = tmp_path / "s.toml", tmp_path / "table.csv"
    path.write_text(f'title = "a mistake"\nsubjects = 4\ndraws = 4\n{text}', encoding="utf-8")
    status, out, err = _call(monkeypatch, capsys, "scenario", RECORD, path, "--csv", table)
    assert (status, out) == (2, "") and not table.exists() and "Traceback" not in err
    assert all(part in err for part in told) and str(path) in err


@pytest.mark.parametrize("content, told", [(b"", "the file is empty"), (b"\xff\xfe" * 9, "not UTF-8 text"),
                                           (b"a = 1\n" * 900_000, "larger than")], ids=["empty", "binary", "huge"])
def test_what_is_no_scenario_is_refused(content, told, tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    status, out, err = _call(monkeypatch, capsys, "scenario", RECORD, path)
    assert (status, out) == (2, "") and told in err


@pytest.mark.parametrize("words", [("scenario", "RECORD", RECORD / "scenarios/doses.toml"),
                                   ("explore", "RECORD", "--no-browser", "--port", 0),
                                   ("trial", PLAN, "--record", "RECORD")], ids=["scenario", "explore", "trial"])
def test_a_failed_fit_is_carried_nowhere(words, tmp_path, monkeypatch, capfd):
    failed = tmp_path / "failed"
    shutil.copytree(RECORD, failed)
    content = json.loads((failed / "record.json").read_text(encoding="utf-8"))
    content["verdict"] |= {"passed": False, "sentences": ["FAIL: R-hat is 1.4"]}
    content["digest"] = records._own_digest(content)
    (failed / "record.json").write_text(json.dumps(content), encoding="utf-8")
    status, out, err = _call(monkeypatch, capfd, *(failed if word == "RECORD" else word for word in words))
    assert (status, out) == (1, "") and "a failed fit may not be quoted (FAIL: R-hat is 1.4)" in err


def test_an_age_far_beyond_the_fitted_ones_is_a_strong_extrapolation():
    record = load_record(RECORD)
    fit = record.spec
    fitted = fitted_of(record, fit)
    people = {name: fitted.covariates[:, k] for k, name in enumerate(fitted.names)}
    oldest = position(fitted, fit.model, Arm("oldest", "", (), {"age": 110.0}), people)
    assert oldest.level is Level.strong and "age 110 year in 100% of subjects" in oldest.text
