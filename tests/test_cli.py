"""The command line, a contract: exit status, what goes to stdout and what to stderr. No traceback, ever."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from thymodel import cli

pytestmark = pytest.mark.requirement("REQ-CLI-01")

BAD = Path(__file__).parent / "bad"
FITS = Path(__file__).resolve().parents[1] / "fits"
MODEL = (BAD / "decay.toml").read_text(encoding="utf-8")


@pytest.fixture
def decay(tmp_path) -> Path:
    (tmp_path / "decay.toml").write_text(MODEL, encoding="utf-8")
    return tmp_path / "decay.toml"


def table(text: str) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


# --- describe ------------------------------------------------------------------------------------------------


def test_describe_writes_to_stdout_or_to_a_file_by_its_ending(call, decay, tmp_path):
    status, out, err = call("describe", decay)
    assert (status, err) == (0, "") and out.startswith("# ") and "```math" in out
    for name, begin in (("a.html", "<!DOCTYPE html>"), ("a.tex", r"\documentclass"), ("a.md", "# ")):
        status, out, err = call("describe", decay, "--out", tmp_path / name)
        assert (status, out) == (0, "") and name in err.replace("\n", "")
        assert (tmp_path / name).read_text(encoding="utf-8").lstrip().startswith(begin)
    assert (tmp_path / "a.svg").is_file()


@pytest.mark.parametrize("words", [("nomodel",), ("thymus_core", "--out", "/nowhere/at/all.md"),
                                   ("thymus_core", "--to", "docx")])
def test_describe_refuses_what_it_cannot_do(call, words):
    status, out, err = call("describe", *words)
    assert (status, out) == (2, "") and err


# --- simulate ------------------------------------------------------------------------------------------------


def test_simulate_prints_the_course_as_csv(call):
    status, out, err = call("simulate", "thymus_core", "--dose", "9@7", "--times", "30,60,100,180,365,730", "--set",
                            "f_th=0.6", "--observe", "cd4,rte4")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "time,cd4,rte4"
    rows = table(out)
    assert [row["time"] for row in rows] == [30, 60, 100, 180, 365, 730]
    assert rows[-1]["cd4"] > rows[0]["cd4"] > 0 and all(row["rte4"] < row["cd4"] for row in rows)


@pytest.fixture(scope="module")
def decay_course(tmp_path_factory) -> str:
    """CSV of two steps of a covariate in a model that is its own closed form; one solve for the tests below."""
    text = MODEL.replace('rate = "-k*x"', 'rate = "-k*x*age/old"').replace(
        "[constants]", '[constants]\nold = { unit = "year", value = 45, source = "test" }')
    folder = tmp_path_factory.mktemp("course")
    (folder / "decay.toml").write_text(text, encoding="utf-8")
    words = ["simulate", str(folder / "decay.toml"), "--times", "20,0,10,20", "--covariate", "age=45@0,90@10",
             "--dose", "50@10", "--csv", str(folder / "out.csv")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "argv", ["thymodel", *words])
        cli.main()
    return (folder / "out.csv").read_text(encoding="utf-8")


def test_rows_come_in_the_order_asked(decay_course):
    assert [row["time"] for row in table(decay_course)] == [20, 0, 10, 20]


def test_a_covariate_changes_on_its_day_and_a_dose_acts_after_it(decay_course):
    from math import exp

    x = {row["time"]: row["count"] - 2 for row in table(decay_course)}
    assert x[10] == pytest.approx(100 * exp(-1), rel=1e-4)
    assert x[20] == pytest.approx((100 * exp(-1) + 50) * exp(-2), rel=1e-4)


def test_numbers_are_printed_in_full(decay_course):
    for row in csv.DictReader(io.StringIO(decay_course)):
        assert repr(float(row["count"])) == row["count"]


@pytest.mark.requirement("REQ-MOD-03")
def test_every_unknown_name_is_listed_on_stderr(call, decay):
    status, out, err = call("simulate", decay, "--times", "30,x", "--set", "kk=1", "--set", "k=y",
                            "--covariate", "AGE=3", "--observe", "counts", "--dose", "9@7:cell", "--dose", "9")
    assert (status, out) == (2, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        "--dose 9@7", "--dose 9", "--set k=y", "--times", "--covariate AGE", "--set kk", "--observe counts"]


@pytest.mark.parametrize("words, sentence", [
    (("--times", ""), "no time given"), (("--times", "-5"), "model's start"), (("--times", "nan"), "not a finite day"),
    (("--times", "1", "--observe", ""), "no observable given"), (("--times", "1", "--set", "k=-1"), "where its prior"),
    (("--times", "1", "--set", "k=1", "--set", "k=2"), "given twice"), (("--times", "1", "--set", "stages=3"), "chain"),
    (("--times", "1", "--covariate", "age"), "not NAME=VALUE"), (("--times", "1", "--dose", "-9@1"), "amount -9")])
def test_a_wrong_option_says_why(call, decay, words, sentence):
    status, out, err = call("simulate", decay, *words)
    assert (status, out) == (2, "") and sentence in err


def test_a_file_that_cannot_be_written_is_a_fault(call, tmp_path, monkeypatch):
    import pandas as pd

    from thymodel.results import simulation

    monkeypatch.setattr(simulation, "simulate_one", lambda *words: pd.DataFrame({"time": [1.0]}))
    for target in (tmp_path, tmp_path / "absent" / "x.csv"):
        status, out, err = call("simulate", "homing_wave", "--times", "1", "--csv", target)
        assert (status, out) == (2, "") and "cannot be written" in err


@pytest.mark.requirement("REQ-NUM-07")
def test_a_solve_that_fails_is_bad_input(call, decay):
    decay.write_text(MODEL.replace('"-k*x"', '"k*x*x/x0"'), encoding="utf-8")
    status, out, err = call("simulate", decay, "--times", "1000")
    assert (status, out) == (2, "") and "cannot be integrated" in err


@pytest.mark.parametrize("words", [(), ("frobnicate",), ("simulate",), ("simulate", "homing_wave"), ("--nonsense",),
                                   ("simulate", "homing_wave", "--times"), ("check",), ("verify",), ("quote", "x"),
                                   ("fit", "x", "--draws", "many"), ("trial", "x", "--seed", "1.5")])
def test_usage_errors_exit_with_2(call, words):
    status, _, _ = call(*words)
    assert status == 2


def test_help_exits_with_0(call):
    status, out, err = call("fit", "--help")
    assert status == 0 and "--resume" in out and err == ""


# --- check ---------------------------------------------------------------------------------------------------


def test_check_takes_a_directory_of_every_kind(call):
    status, out, err = call("check", FITS)
    assert (status, err) == (0, "")
    assert out.count(": good") >= 3


@pytest.mark.requirement("REQ-MOD-03")
def test_check_lists_good_files_and_every_fault_of_the_others(call, decay):
    status, out, err = call("check", decay, BAD / "model_names.toml", decay.parent / "absent.toml",
                            BAD / "spec_schema.toml")
    assert status == 2 and out == f"{decay}: good (3 states, 5 parameters)\n"
    for sentence in ("model_names.toml: expressions.loss", "absent.toml: cannot be read", "spec_schema.toml: purpose"):
        assert sentence in err


@pytest.mark.parametrize("content, sentence", [
    (b"", "the file is empty"), (b"title = ", "not TOML"), (b"\xff\xfe", "not UTF-8"), (None, "cannot be read")])
@pytest.mark.parametrize("command", [("check",), ("fit",), ("simulate", "--times", "1"), ("trial", "--seed", "1")])
def test_a_file_that_is_none_is_bad_input(call, tmp_path, command, content, sentence):
    path = tmp_path / "some.toml"
    if content is not None:
        path.write_bytes(content)
    status, out, err = call(command[0], path, *command[1:])
    assert (status, out) == (2, "")
    assert sentence in err or (content is None and "no such model" in err)


@pytest.mark.parametrize("words", [("check",), ("fit",), ("simulate", "--times", "1"), ("trial", "--seed", "1"),
                                   ("verify",), ("quote", "k")])
def test_an_empty_directory_is_bad_input(call, tmp_path, words):
    status, out, err = call(words[0], tmp_path, *words[1:])
    assert (status, out) == (2, "") and str(tmp_path) in err


@pytest.mark.parametrize("written", [MODEL.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + MODEL.encode()])
def test_files_of_other_editors_are_good(call, decay, written):
    decay.write_bytes(written)
    assert call("check", decay)[0] == 0


def test_a_design_is_known_by_its_keys_not_by_its_words(call):
    assert "design, 4 arms" in call("check", FITS / "reset02_design" / "design.toml")[1]


# --- trial ---------------------------------------------------------------------------------------------------


def test_a_seed_below_zero_is_bad_input(call):
    status, out, err = call("trial", FITS / "reset02_design" / "design.toml", "--seed", "-1")
    assert (status, out) == (2, "") and "seed" in err


@pytest.mark.requirement("REQ-TRI-01")
def test_a_simulated_study_is_named_with_the_digest_that_a_spec_asks_for(call, tmp_path):
    table = tmp_path / "cohort.csv"
    status, _, err = call("trial", FITS / "reset02_design" / "design.toml", "--seed", "3", "--csv", table)
    assert status == 0 and f"[data] of a spec: {hashlib.sha256(table.read_bytes()).hexdigest()}" in err


# --- fit and records -----------------------------------------------------------------------------------------

SPEC = """
title = "Decay"
purpose = "test"
model = "decay.toml"
estimate = ["x0"]
[data]
file = "study.csv"
where = "made by hand"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.3, sd=1)", source = "test" }} }}
[sampler]
seed = 1
"""


@pytest.fixture
def spec(decay) -> Path:
    (decay.parent / "spec.toml").write_text(SPEC.format(digest="0" * 64), encoding="utf-8")
    return decay.parent


def test_absent_data_say_where_they_come_from(call, spec):
    status, out, err = call("fit", spec)
    assert (status, out) == (2, "") and "made by hand" in err and "--data" in err


@pytest.mark.requirement("REQ-DAT-03")
def test_other_data_than_the_spec_names_are_refused(call, spec):
    (spec / "study.csv").write_text("ID,TIME,EVID,DVID,DV\n1,1,0,count,3\n", encoding="utf-8")
    status, out, err = call("fit", spec)
    assert (status, out) == (2, "") and "not the data of this spec" in err and "0" * 64 in err
    assert call("check", spec)[0] == 2


@pytest.mark.parametrize("option", ["--chains", "--warmup", "--draws"])
def test_a_count_below_one_is_refused(call, spec, option):
    status, out, err = call("fit", spec, option, "0")
    assert (status, out) == (2, "") and option in err


def test_fewer_draws_than_diagnostics_need_are_refused(call, spec):
    assert "--draws 3" in call("fit", spec, "--draws", "3")[2]


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_outside_32_bits_is_refused(call, spec, seed):
    status, out, err = call("fit", spec, "--seed", seed)
    assert (status, out) == (2, "") and "--seed" in err


@pytest.mark.requirement("REQ-REC-04")
def test_a_directory_that_holds_a_record_is_never_written_again(call, spec, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record.json").write_text("{}", encoding="utf-8")
    status, out, err = call("fit", spec, "--out", tmp_path / "out")
    assert (status, out) == (2, "") and "holds a record already" in err


def test_another_spec_in_the_directory_is_not_overwritten(call, spec, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spec.toml").write_text("title = 'another'", encoding="utf-8")
    status, out, err = call("fit", spec, "--out", tmp_path / "out")
    assert (status, out) == (2, "") and "another spec" in err


def test_an_out_that_is_a_file_is_refused(call, spec, tmp_path):
    (tmp_path / "out").write_text("", encoding="utf-8")
    status, out, err = call("fit", spec, "--out", tmp_path / "out")
    assert (status, out) == (2, "") and "not a directory" in err.lower()


@pytest.mark.requirement("REQ-QUO-03")
def test_a_record_is_verified_and_quoted(call, tiny_fit):
    status, out, err = call("verify", tiny_fit.folder)
    assert (status, err) == (0, "") and out.startswith(f"{tiny_fit.folder}: verified (")
    status, out, err = call("quote", tiny_fit.folder, "k", "x0")
    assert (status, err) == (0, "") and [line[:3] for line in out.splitlines()] == ["k =", "x0 "]
    assert "SIMULATED" in out and tiny_fit.digest[:16] in out


@pytest.mark.requirement("REQ-QUO-03")
def test_a_quotation_for_programs_is_json(call, tiny_fit):
    status, out, _ = call("quote", tiny_fit.folder, "k", "--json")
    assert status == 0 and json.loads(out)[0]["name"] == "k"


def test_a_quantity_that_the_table_lacks_is_bad_input(call, tiny_fit):
    status, out, err = call("quote", tiny_fit.folder, "kk", "zz")
    assert (status, out, len(err.splitlines())) == (2, "", 2)


@pytest.mark.requirement("REQ-REC-02")
def test_a_record_that_does_not_verify_exits_with_1(call, tiny_fit, tmp_path):
    folder = shutil.copytree(tiny_fit.folder, tmp_path / "copy")
    with (folder / "table.csv").open("a", encoding="utf-8") as file:
        file.write("\n")
    (tmp_path / "s.toml").write_text('title = "one"\n[arms.a]\n', encoding="utf-8")
    status, out, err = call("verify", folder, tiny_fit.folder)
    assert status == 1 and "DOES NOT VERIFY" in out and f"{tiny_fit.folder}: verified" in out and "table.csv" in err
    for words in (("quote", folder, "k"), ("scenario", folder, tmp_path / "s.toml")):
        status, out, err = call(*words)
        assert (status, out) == (1, "") and "table.csv" in err


def test_hazards_that_cannot_be_used_are_all_told_of_and_nothing_is_written(call, tiny_fit, tmp_path):
    out_file = tmp_path / "s.csv"
    status, out, err = call("scenario", tiny_fit.folder, BAD / "competing.toml", "--csv", out_file)
    assert (status, out) == (2, "") and not out_file.exists()
    for place in ("death.hazard.0.per_day", "death.hazard.2.from_day", "death.link.preset", "early.link.marker"):
        assert f"competing.toml: competing.{place}: " in err


def test_good_and_absent_records_are_both_told_of(call, tiny_fit, tmp_path):
    status, out, err = call("verify", tiny_fit.folder, tmp_path)
    assert status == 2 and "no record here" in err


# --- as a process --------------------------------------------------------------------------------------------


def _into_a_closed_pipe(*words: object) -> tuple[int, bytes]:
    """Exit status and stderr of a Python command line whose reader left before it began."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *map(str, words)], stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("times", [1, 300])
def test_a_closed_pipe_is_quiet(times):
    assert _into_a_closed_pipe("-m", "thymodel", "check", *[BAD / "decay.toml"] * times) == (0, b"")


@pytest.mark.parametrize("passed", [True, False])
def test_a_fit_whose_reader_left_goes_on_to_its_verdict(passed, tiny_fit, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(f"""
import sys
from pathlib import Path
from thymodel import cli
from thymodel.results import fitting, record, report
record.FitRecord.passed = {passed}
fitting.fit = lambda spec, *rest: record.load_record(spec)
report.save_report = lambda *rest: Path({str(tmp_path / "end")!r}).touch()
cli.main()
""", encoding="utf-8")
    assert _into_a_closed_pipe(script, "fit", tiny_fit.folder) == (0 if passed else 1, b"")
    assert (tmp_path / "end").exists()


# --- check-fit -----------------------------------------------------------------------------------------------


def test_check_fit_says_its_verdict_and_writes_what_it_shows(call, tiny_fit, tmp_path):
    status, out, err = call("check-fit", tiny_fit.folder, "--out", tmp_path / "new")
    assert status == 0 and out.startswith("SIMULATED data\n")
    assert "questions together: p = " in out and "shrinkage, SD scale" in out and "contraction" in out
    assert f"sha256 {tiny_fit.digest[:16]}" in out and "checks.html" in err.replace("\n", "")
    assert (tmp_path / "new" / "checks.json").is_file() and (tmp_path / "new" / "npde.png").is_file()


def test_check_fit_prints_json_for_programs_and_writes_nothing(call, tiny_fit):
    before = sorted(tiny_fit.folder.iterdir())
    status, out, err = call("check-fit", tiny_fit.folder, "--json")
    found = json.loads(out)
    assert (status, err) == (0, "") and found["record"] == tiny_fit.digest and found["simulated"] is True
    assert sorted(tiny_fit.folder.iterdir()) == before


def test_check_fit_of_a_failed_fit_says_so_and_ends_with_1(call, tiny_fit, monkeypatch):
    monkeypatch.setattr("thymodel.results.record.FitRecord.passed", False)
    status, out, _ = call("check-fit", tiny_fit.folder)
    assert status == 1 and "the fit FAILED its gates" in out


@pytest.mark.parametrize("words, sentence", [
    (("absent",), "no record here"), ((FITS / "hsct_lymphocytes",), "hint: give their place with --data"),
    ((FITS / "reset02_design", "--out", FITS / "reset02_design"), "belongs to a record"),
    ((FITS / "reset02_design", "--data", "absent.csv"), "no such file"),
    ((FITS / "reset02_design", "--data", BAD / "decay.toml"), "not the data of this record")])
def test_check_fit_refuses_what_it_cannot_check(call, words, sentence):
    status, out, err = call("check-fit", *words)
    assert (status, out) == (2, "") and sentence in err and len(err.splitlines()) == 1


# --- models of other tools -----------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-EXC-01")
def test_a_model_goes_out_as_sbml_and_comes_back(call, decay, tmp_path):
    pytest.importorskip("libsbml", reason="python-libsbml, which reads and writes SBML, is not installed")
    assert call("export", "sbml", decay, "--dose", "5@2", "--out", tmp_path / "decay.xml") == (0, "", "")
    assert call("import", "sbml", tmp_path / "decay.xml", "--out", tmp_path / "back.toml") == (0, "", "")
    status, out, err = call("import", "sbml", tmp_path / "decay.xml")
    assert (status, out, err) == (0, (tmp_path / "back.toml").read_text(encoding="utf-8"), "")
    assert call("check", tmp_path / "back.toml")[0] == 0


@pytest.mark.parametrize("words, sentences", [
    (("import", "sbml", "absent.xml"), ["cannot be read"]), (("import", "sbml", FITS), ["cannot be read"]),
    (("export", "sbml", "absent"), ["no such model"]),
    (("export", "sbml", "homing_wave", "--dose", "4@x", "--dose", "4@7:foo"), ["4@x", "no input 'foo'"])])
def test_what_cannot_be_exchanged_is_bad_input(call, words, sentences):
    status, out, err = call(*words)
    assert (status, out) == (2, "") and all(sentence in err for sentence in sentences)


def test_what_was_assumed_about_a_file_is_said_on_stderr(call, tmp_path):
    pytest.importorskip("libsbml", reason="python-libsbml, which reads and writes SBML, is not installed")
    (tmp_path / "m.xml").write_text(
        '<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2"><model id="m">'
        '<listOfParameters><parameter id="k" value="1" constant="true"/></listOfParameters></model></sbml>')
    status, out, err = call("import", "sbml", tmp_path / "m.xml")
    assert status == 0 and 'k = { unit = "1", value = 1.0' in out
    assert "note: the unit of time is not declared" in err
