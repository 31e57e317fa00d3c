"""The run log: a line a fit whatever ends it, a chain that tells changes, and the table that a report needs."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thymodel import cli
from thymodel.errors import InputError
from thymodel.results import run_log
from thymodel.results.fitting import Progress, fit
from thymodel.results.record import load_record
from thymodel.results.run_log import FIRST, LOG, append, read_log, read_runs, run_log_table

pytestmark = pytest.mark.requirement("REQ-REC-06")

LINE = {"run": "a", "directory": "one", "finished": "2026-01-01T00:00:00+00:00", "outcome": "finished"}


@pytest.fixture(scope="module")
def runs(tiny_study, tmp_path_factory) -> Path:
    """A directory with a parent, its child, a refused fit and an interrupted one, in the order they were run."""
    place = tmp_path_factory.mktemp("runs")
    for name in ("first", "second"):
        shutil.copytree(tiny_study, place / name)
    fit(place / "first", method="map")
    spec = (place / "second" / "spec.toml").read_text(encoding="utf-8")
    own = spec.replace("halfnormal(sd=0.5)", "halfnormal(sd=0.7)").replace("rhat = 100", "rhat = 50")
    child = '\n[parent]\nrecord = "../first"\nreason = "a wider spread"\n'
    (place / "second" / "spec.toml").write_text(own + child, encoding="utf-8")
    with pytest.raises(InputError):
        fit(place / "second", data_path=place / "first" / "spec.toml", method="map")

    def interrupt(stage: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(place / "second", method="map", progress=Progress(stage=interrupt))
    fit(place / "second", method="map", overrides={"seed": 3})
    return place


def test_every_end_of_a_fit_has_its_line(runs):
    log = read_log(runs / LOG)
    assert log.faults == () and log.notes == ()
    assert [line["outcome"] for line in log.lines] == ["finished", "refused: 1 fault in the input", "interrupted",
                                                       "finished"]
    assert [line["directory"] for line in log.lines] == ["first", "second", "second", "second"]
    assert log.lines[0]["previous"] == FIRST and len({line["run"] for line in log.lines}) == 4


def test_a_line_and_its_record_say_the_same(runs):
    line, record = read_log(runs / LOG).lines[-1], load_record(runs / "second")
    assert line["record"] == record.digest and line["run"] == record.content["run"]["id"]
    assert line["verdict"] == "approximation" and line["seed"] == 3
    assert line["options"] == record.content["run"]["options"] == {"method": "map", "seed": 3}
    assert line["parent"] == {"name": "first", "digest": load_record(runs / "first").digest}


def test_nothing_of_where_files_lie_is_in_a_line(runs):
    assert str(runs) not in (runs / LOG).read_text(encoding="utf-8")


def test_lineage_names_each_thing_that_changed(runs):
    parent = load_record(runs / "second").content["parent"]
    assert parent["reason"] == "a wider spread" and parent["digest"] == load_record(runs / "first").digest
    changed = [(row["in"], row["key"], row["from"], row["to"]) for row in parent["changed"]]
    assert changed == [
        ("spec", "between_subject.x0.sd", "halfnormal(sd=0.5)", "halfnormal(sd=0.7)"),
        ("spec", "gates.rhat", 100, 50),
        ("prior", "omega_x0", "halfnormal(sd=0.5)", "halfnormal(sd=0.7)"),
        ("options", "seed", None, 3)]


def test_other_data_and_another_model_are_part_of_the_lineage(runs, tmp_path):
    from thymodel.documents.data import load_data
    from thymodel.documents.spec import load_fit_spec
    from thymodel.results.lineage import as_content, load_parent

    shutil.copytree(runs / "first", tmp_path / "first")
    shutil.copytree(runs / "second", tmp_path / "third")
    for name, old, new in (("study.csv", "118", "119"), ("decay.toml", "value = 0.1,", "value = 0.2,")):
        path = tmp_path / "third" / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    spec = load_fit_spec(tmp_path / "third")
    data = load_data(tmp_path / "third" / "study.csv", spec.model, spec.columns)
    found = as_content(load_parent(spec), spec, data, {"method": "map"})
    assert found is not None
    changed = {(row["in"], row["key"]): (row["from"], row["to"]) for row in found["changed"]}
    old = load_record(tmp_path / "first").content
    assert changed["data", "sha256"] == (old["data"]["sha256"], data.digest)
    assert changed["model", "sha256"] == (old["model"]["sha256"], spec.model.digest)
    assert changed["model", "parameters.k.value"] == (0.1, 0.2)


def test_a_parent_that_is_not_there_or_was_changed_is_refused_before_anything_runs(runs, tmp_path):
    shutil.copytree(runs / "first", tmp_path / "first")
    shutil.copytree(runs / "second", tmp_path / "second")
    (tmp_path / "second" / "record.json").unlink()
    (tmp_path / "first" / "table.csv").write_text("name\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"parent\.record: .*table\.csv: changed since the fit"):
        fit(tmp_path / "second", out=tmp_path / "out")
    shutil.rmtree(tmp_path / "first")
    with pytest.raises(InputError, match=r"parent\.record: .*no record here"):
        fit(tmp_path / "second", out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / LOG).exists()


def test_verify_says_whether_the_parent_is_still_the_one(runs, tmp_path):
    from thymodel.results.record import _check_parent

    shutil.copytree(runs, tmp_path / "runs")
    child = load_record(tmp_path / "runs" / "second")
    assert _check_parent(child) == ["parent as recorded"]
    path = tmp_path / "runs" / "first" / "record.json"
    text = path.read_text(encoding="utf-8")
    digest = load_record(path.parent).digest
    path.write_text(text.replace(digest, "0" * 64), encoding="utf-8")
    assert "is another record now (000000000000, recorded" in _check_parent(child)[0]
    path.unlink()
    assert _check_parent(child) == ["parent not compared: no record at ../first"]


# --- the table -----------------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_run(runs):
    table = run_log_table(runs)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["verdict"] for row in rows] == ["approximation", "refused: 1 fault in the input", "interrupted",
                                                "approximation"]
    assert all(row["note"] == "" for row in rows)
    assert rows[-1]["parent"].startswith("first ") and "spec between_subject.x0.sd" in rows[-1]["changed"]
    assert rows[0]["data"].startswith("SIMULATED study.csv ") and rows[0]["model"].startswith("decay ")


def test_records_without_a_line_are_rows_too():
    rows = read_runs(Path(__file__).resolve().parents[2] / "fits").rows
    assert {"reset02_design", "hsct_lymphocytes"} <= {row.directory for row in rows}
    assert all(row.line is not None or "in no run log" in row.note for row in rows)


def test_a_record_that_is_gone_or_another_one_is_told(runs, tmp_path):
    place = Path(shutil.copytree(runs, tmp_path / "runs"))
    shutil.rmtree(place / "first")
    path = place / "second" / "table.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("k,0.", "k,1.", 1), encoding="utf-8")
    found = read_runs(place)
    assert [row.note for row in found.rows if row.bad] == ["its record is gone",
                                                           "its files changed (thymodel verify says what)"]
    assert len(found.faults) == 2
    shutil.rmtree(place / "second")
    shutil.copytree(runs / "first", place / "second")
    notes = {row.note for row in read_runs(place).rows}
    assert any(note.startswith("its record is another one now (") for note in notes)
    assert "in no run log" in notes


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["thymodel", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def test_the_command_prints_the_table_as_text_json_and_csv(call, runs, tmp_path):
    status, out, err = call("log", runs)
    assert (status, err) == (0, "") and "interrupted" in out and "in no run log" not in out
    status, out, err = call("log", runs, "--json", "--csv", tmp_path / "runs.csv")
    assert status == 0 and [row["directory"] for row in json.loads(out)["runs"]] == ["first"] + 3 * ["second"]
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()[0] == ",".join(run_log.COLUMNS)


def test_a_broken_chain_is_told_and_exits_with_1(call, runs, tmp_path):
    place = Path(shutil.copytree(runs, tmp_path / "runs"))
    text = (place / LOG).read_text(encoding="utf-8")
    (place / LOG).write_text(text.replace("refused: 1", "refused: 2"), encoding="utf-8")
    for words in (("log", place), ("verify", place / LOG)):
        status, out, err = call(*words)
        assert status == 1 and f"{LOG}:3: not sealed with the line before it" in err
    assert call("verify", runs / LOG)[0] == 0
    assert call("check", runs / LOG)[0] == 0


@pytest.mark.parametrize("old, new", [(b'"seed": 3', b'"seed": 4'), (b'"method": "map"', b'"method": "nuts"'),
                                      (b'"verdict": "approximation"', b'"verdict": "passed"')])
def test_the_last_line_is_held_against_its_record(call, runs, tmp_path, old, new):
    """No line after it seals it, so that the chain alone would let it pass."""
    place = Path(shutil.copytree(runs, tmp_path / "runs"))
    before, _, last = (place / LOG).read_bytes().rstrip(b"\n").rpartition(b"\n")
    assert old in last
    (place / LOG).write_bytes(before + b"\n" + last.replace(old, new, 1) + b"\n")
    assert read_log(place / LOG).faults == ()
    key = old.split(b'"')[1].decode()
    for words in (("log", place), ("verify", place / LOG)):
        status, _, err = call(*words)
        assert status == 1 and f"the line says otherwise than its record: {key}: " in " ".join(err.split())


@pytest.mark.parametrize("words", [("log",), ("log", "/nowhere"), ("log", "README")])
def test_a_directory_without_runs_is_bad_input(call, tmp_path, words):
    status, out, err = call(*words)
    assert (status, out) == (2, "") and err
    status, out, err = call("log", tmp_path)
    assert (status, out) == (2, "") and "neither a run log" in err


# --- the chain -----------------------------------------------------------------------------------------------


def test_lines_written_at_once_are_all_there_and_in_one_chain(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: append(tmp_path / LOG, {**LINE, "run": str(k)}), range(60)))
    log = read_log(tmp_path / LOG)
    assert log.faults == () and {line["run"] for line in log.lines} == {str(k) for k in range(60)}


def test_a_line_is_on_the_disk_before_the_run_goes_on(tmp_path, monkeypatch):
    """A power failure after the fit must not take its line."""
    synced, sync = [], run_log.os.fsync

    def watch(number: int) -> None:
        sync(number)
        synced.append((tmp_path / LOG).read_bytes())

    monkeypatch.setattr(run_log.os, "fsync", watch)
    append(tmp_path / LOG, LINE)
    assert synced == [(tmp_path / LOG).read_bytes()] and synced[0].endswith(b"\n")


def test_a_torn_last_line_is_told_and_the_next_run_goes_on(tmp_path):
    for _ in range(3):
        append(tmp_path / LOG, LINE)
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole[:-10])
    log = read_log(tmp_path / LOG)
    assert len(log.lines) == 2 and log.faults == () and "the last line is torn" in log.notes[0]
    append(tmp_path / LOG, LINE)
    log = read_log(tmp_path / LOG)
    assert len(log.lines) == 3 and log.faults == () and "a torn line; the next one" in log.notes[0]
    assert (tmp_path / LOG).read_bytes().startswith(whole[:-10] + b"\n")


@pytest.mark.parametrize("wound", ["change", "take out", "put in", "swap"])
def test_no_line_before_the_last_can_be_touched(tmp_path, wound):
    for k in range(5):
        append(tmp_path / LOG, {**LINE, "run": str(k)})
    lines = (tmp_path / LOG).read_bytes().splitlines(keepends=True)
    lines = {"change": [lines[0], lines[1].replace(b"finished", b"FINISHED"), *lines[2:]],
             "take out": lines[:2] + lines[3:], "put in": lines[:2] + [lines[1]] + lines[2:],
             "swap": [lines[1], lines[0], *lines[2:]]}[wound]
    (tmp_path / LOG).write_bytes(b"".join(lines))
    assert read_log(tmp_path / LOG).faults


@pytest.mark.parametrize("text", ["\n", "{}\n", "[]\n", "x", "\x00\n", '{"run": 1}\n', "[" * 100_000,
                                  json.dumps({**LINE, "previous": FIRST, "spec": 3}) + "\n",
                                  json.dumps({**LINE, "previous": FIRST, "data": {"sha256": 3}}) + "\n",
                                  json.dumps({**LINE, "previous": FIRST, "worst_rhat": "x"}) + "\n"])
def test_what_is_no_line_is_a_fault_or_a_torn_line(tmp_path, text):
    (tmp_path / LOG).write_text(text, encoding="utf-8")
    log = read_log(tmp_path / LOG)
    assert log.lines == () and (log.faults or log.notes)
    assert run_log_table(tmp_path).rows == ()


def test_a_log_that_may_not_be_written_is_a_warning_of_the_record(tiny_study, runs, tmp_path):
    from thymodel.documents.spec import load_fit_spec

    (tmp_path / LOG).mkdir()
    run = run_log.begin(tmp_path / "out", load_fit_spec(tiny_study), {"method": "map", "seed": None})
    assert run.log is None and run.warnings and run.options == {"method": "map"}
    record = load_record(runs / "first")
    assert run_log.logged(run, lambda: record) is record
