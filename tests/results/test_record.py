"""The fit record: whole or not there, verified without refitting, refused when anything in it changed."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from thymodel.errors import InputError, RecordError
from thymodel.results import changes as record_changes
from thymodel.results import record as records
from thymodel.results.record import load_record, quote, verify, write_record
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-REC-01")


@pytest.fixture
def copy(tiny_fit, tmp_path) -> Path:
    """A copy of the tiny record, its data and its spec, to be damaged."""
    return Path(shutil.copytree(tiny_fit.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def failed_fit(tiny_fit, tmp_path_factory) -> Path:
    """The record that the tiny fit would have left under a gate that no fit passes."""
    folder = Path(shutil.copytree(tiny_fit.folder, tmp_path_factory.mktemp("failed") / "copy"))
    change(folder / "spec.toml", b"rhat = 100", b"rhat = 0.5")
    spec = (folder / "spec.toml").read_bytes()
    content = tiny_fit.content
    resealed(folder, files=content["files"] | {"spec.toml": records.digest(spec)},
             spec=content["spec"] | {"sha256": records.digest(spec)},
             documents=content["documents"] | record_changes.documents_of({"spec.toml": spec}),
             verdict={"passed": False, "sentences": ["FAIL: rhat"]})
    return folder


def places(verification) -> set[str]:
    return {Path(fault.where).name for fault in verification.faults}


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def resealed(folder: Path, **changes) -> None:
    """The JSON with other content and a digest that fits it: what a careful forger would write."""
    content = json.loads((folder / "record.json").read_text(encoding="utf-8")) | changes
    if content.get("fingerprints"):
        content["fingerprints"] = content["fingerprints"] | {"parts": record_changes.part_digests(content)}
    content["digest"] = records._own_digest(content)
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")


# --- an intact record ----------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-REC-05")
def test_a_record_says_how_its_draws_were_made_if_not_in_the_usual_way(tiny_fit):
    way, sentences = tiny_fit.content["sampler"]["way"], tiny_fit.content["verdict"]["sentences"]
    assert [s for s in sentences if s.startswith("note: ")] == ([f"note: {way}"] if way else [])
    other = {**tiny_fit.content["sampler"], "way": "plain NUTS"}
    verdict = records.verdict_of(tiny_fit.spec, tiny_fit.table, other, tiny_fit.content["certificate"])
    assert verdict.passed and verdict.sentences[-1] == "note: plain NUTS"


def test_a_log_density_that_is_no_number_is_not_the_recorded_one(tiny_fit, monkeypatch):
    """No comparison with it holds, so that a careless one would let it pass."""
    monkeypatch.setattr(records, "_log_densities", lambda *_: [float("nan")] * 3)
    told = [fault.what for fault in verify(load_record(tiny_fit.folder)).faults]
    assert [text.split(",")[0] for text in told] == [f"log density at fixed point {k} is nan" for k in (1, 2, 3)]


def test_an_intact_record_verifies(tiny_fit):
    found = verify(load_record(tiny_fit.folder))
    assert found.faults == () and any("log density recomputed at 3 points" in note for note in found.notes)


def test_what_no_digest_covers_is_named(tiny_fit, tmp_path):
    """A report whose number was changed lies beside a record that verifies: its reader has to know."""
    folder = shutil.copytree(tiny_fit.folder, tmp_path / "copy")
    (folder / "letter.txt").write_text("x", encoding="utf-8")
    (folder / "scenarios").mkdir(exist_ok=True)
    found = verify(load_record(folder))
    [told] = [note for note in found.notes if note.startswith("no digest covers ")]
    named = set(told.removeprefix("no digest covers ").split(", "))
    assert found.faults == () and {"letter.txt", "scenarios/"} <= named, named
    assert not {"record.json", "spec.toml", "table.csv", "study.csv"} & named


def test_a_copy_elsewhere_verifies(copy):
    assert verify(load_record(copy)).faults == ()


def test_a_record_without_its_data_says_so_and_passes(copy):
    (copy / "study.csv").unlink()
    found = verify(load_record(copy))
    assert found.faults == () and "log density not recomputed: data absent" in found.notes


@pytest.mark.requirement("REQ-DAT-03")
def test_other_data_are_not_those_of_the_record(copy, tmp_path):
    (tmp_path / "other.csv").write_text("ID,TIME\n", encoding="utf-8")
    assert places(verify(load_record(copy), tmp_path / "other.csv")) == {"other.csv"}


def test_posterior_opens_with_arviz_and_gives_the_table(tiny_fit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arviz and its own dependencies
        import arviz as az

        data = az.from_netcdf(tiny_fit.folder / "posterior.nc")
        summary = az.summary(data, var_names=["x0", "k"], round_to="none")
    for name in ("x0", "k"):
        assert float(data["posterior"][name].mean()) == pytest.approx(tiny_fit.table.loc[name, "mean"], rel=1e-10)
        assert summary.loc[name, "mean"] == pytest.approx(tiny_fit.table.loc[name, "mean"], rel=1e-6)
        assert summary.loc[name, "sd"] == pytest.approx(tiny_fit.table.loc[name, "sd"], rel=1e-2)
        assert float(summary.loc[name, "r_hat"]) == pytest.approx(tiny_fit.table.loc[name, "rhat"], abs=5e-3)


@pytest.mark.requirement("REQ-QUO-03")
def test_a_quotation_has_the_digits_that_the_error_allows(tiny_fit):
    for row in quote(tiny_fit, ["k", "x0"]):
        error = tiny_fit.table.loc[row["name"], "mcse_mean"]
        step = 10.0 ** np.floor(np.log10(2 * error))
        stored = tiny_fit.table.loc[row["name"], "mean"]
        assert row["mean"] == pytest.approx(stored, abs=step)
        assert abs(row["mean"] / step - round(row["mean"] / step)) < 1e-6


@pytest.mark.requirement("REQ-QUO-03")
@pytest.mark.parametrize("value, error, expected", [
    (0.123456, 0.001, 0.123), (123.456, 4.0, 123.0), (123.456, 40.0, 120.0), (5.0, 0.0, 5.0),
    (1.23456789, 0.0, 1.23457), (float("inf"), 1.0, None), (float("nan"), 1.0, None),
    (2.3456, float("nan"), 2.35), (3.1, float("inf"), 3.1)])
def test_rounding_follows_the_monte_carlo_error(value, error, expected):
    assert records._round(value, error) == expected


@pytest.mark.requirement("REQ-QUO-03")
def test_a_number_without_known_decimals_shows_none():
    errors = (0.04, 0.1, 0.9, 9.0)
    assert [str(records._round(158.03, error)) for error in errors] == ["158.03", "158.0", "158", "160"]


# --- a changed record ----------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-REC-02", "REQ-QUO-02")
@pytest.mark.parametrize("name, old, new", [
    ("decay.toml", b"value = 0.1", b"value = 0.2"), ("spec.toml", b"threshold = 80", b"threshold = 90"),
    ("table.csv", b"k,0.", b"k,1."), ("record.json", b'"simulated": true', b'"simulated": false')])
def test_a_changed_file_is_named_and_not_quoted(copy, name, old, new):
    change(copy / name, old, new)
    assert places(verify(load_record(copy))) == {name}
    with pytest.raises(RecordError, match=name):
        quote(load_record(copy), ["k"])


@pytest.mark.requirement("REQ-REC-02")
@pytest.mark.parametrize("name", ["posterior.nc", "derived.nc", "curves.nc"])
def test_one_changed_byte_of_the_draws_is_found(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert places(verify(load_record(copy))) == {name}
    with pytest.raises(RecordError, match=name):
        quote(load_record(copy), ["k"])


@pytest.mark.requirement("REQ-REC-02")
@pytest.mark.parametrize("name", ["posterior.nc", "table.csv", "spec.toml", "decay.toml"])
def test_an_absent_file_is_named(copy, name):
    (copy / name).unlink()
    assert places(verify(load_record(copy))) == {name}


@pytest.mark.requirement("REQ-REC-02")
def test_a_changed_datum_is_found(copy):
    change(copy / "study.csv", b"118", b"119")
    assert places(verify(load_record(copy))) == {"study.csv"}


@pytest.mark.requirement("REQ-REC-03")
def test_a_table_that_does_not_follow_from_the_draws_is_found_although_its_digest_fits(copy):
    change(copy / "table.csv", b"k,0.", b"k,1.")
    files = load_record(copy).content["files"] | {"table.csv": records.digest((copy / "table.csv").read_bytes())}
    resealed(copy, files=files)
    of_draws, of_summary = (fault.what for fault in verify(load_record(copy)).faults)
    assert of_draws.startswith("row k, column mean: ") and "differs from the draws" in of_draws
    assert of_summary.startswith("summary.k.mean: ")


@pytest.mark.requirement("REQ-REC-03")
def test_a_log_density_that_does_not_follow_from_the_data_is_found(copy):
    points = [dict(point) for point in load_record(copy).content["fixed_points"]]
    points[1]["log_density"] += 0.01
    resealed(copy, fixed_points=points)
    assert [fault.what[:30] for fault in verify(load_record(copy)).faults] == ["log density at fixed point 2 is"[:30]]


@pytest.mark.requirement("REQ-REC-03")
def test_a_failed_fit_declared_passed_is_found(failed_fit, tmp_path):
    folder = Path(shutil.copytree(failed_fit, tmp_path / "copy"))
    resealed(folder, verdict={"passed": True, "sentences": []})
    assert any("verdict" in fault.what for fault in verify(load_record(folder)).faults)


@pytest.mark.requirement("REQ-QUO-01")
def test_a_failed_fit_verifies_but_is_not_used(failed_fit, tmp_path):
    record = load_record(failed_fit)
    found = verify(record)
    assert found.faults == () and "failed fit: may not be quoted" in found.notes
    (tmp_path / "s.toml").write_text('title = "one"\n[arms.a]\n', encoding="utf-8")
    for use in (lambda: quote(record, ["k"]), lambda: run_scenario(record, tmp_path / "s.toml")):
        with pytest.raises(RecordError, match="may not be quoted"):
            use()


@pytest.mark.requirement("REQ-SEC-03")
@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "..", "a/../table.csv", ""])
def test_a_file_name_that_leaves_the_directory_is_refused(copy, tmp_path, name):
    (tmp_path / "outside.txt").write_text("outside", encoding="utf-8")
    files = load_record(copy).content["files"] | {name: records.digest(b"outside")}
    resealed(copy, files=files)
    assert verify(load_record(copy)).faults
    with pytest.raises(RecordError):
        quote(load_record(copy), ["k"])


def test_a_record_that_leaves_out_its_draws_is_refused(copy):
    files = {key: value for key, value in load_record(copy).content["files"].items() if key != "posterior.nc"}
    resealed(copy, files=files)
    assert [fault.what for fault in verify(load_record(copy)).faults] == ["does not list posterior.nc"]


@pytest.mark.requirement("REQ-SEC-02")
@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "3", '"text"', '{"schema": 2}', '{"schema": 1}', "\x00", "[" * 100_000,
    '{"schema": 1, "a": NaN}', '{"schema": 1, "a": 1e999}', '{"schema": 1, "a": "\\ud800"}', "9" * 5000])
def test_damaged_json_is_bad_input(tmp_path, text):
    (tmp_path / "record.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load_record(tmp_path)


@pytest.mark.requirement("REQ-REC-02", "REQ-SEC-02")
def test_json_with_wounds_is_bad_input_or_does_not_verify(copy):
    text, chance = (copy / "record.json").read_text(encoding="utf-8"), random.Random(1)
    for _ in range(150):
        at = chance.randrange(len(text))
        piece = chance.choice(["", "null", '"', "0", "{", "[", ",", "true", "\x00", "é", "-"])
        wounded = text[:at] + piece + text[at + chance.randint(0, 4):]
        if wounded == text:
            continue
        (copy / "record.json").write_text(wounded, encoding="utf-8")
        try:
            same = json.loads(wounded) == json.loads(text)
            record = load_record(copy)
        except (InputError, ValueError):
            continue
        assert same or records._check_digests(record)


# --- writing -------------------------------------------------------------------------------------------------

FILES = {"posterior.nc": b"p" * 5000, "table.csv": b"t" * 100, "spec.toml": b"s", "decay.toml": b"m"}


def content_of(record) -> dict:
    return {key: value for key, value in record.content.items() if key not in ("schema", "files", "digest")}


def is_old_or_new(folder: Path) -> bool:
    """No record at all, or a complete one."""
    return not records.holds_record(folder) or not records._check_digests(load_record(folder))


@pytest.mark.requirement("REQ-REC-04")
@pytest.mark.parametrize("call", ["replace", "fsync", "write"])
@pytest.mark.parametrize("turn", range(1, 6))
def test_a_full_disk_leaves_no_record_and_a_later_attempt_succeeds(tiny_fit, tmp_path, monkeypatch, call, turn):
    folder, count = tmp_path / "out", 0

    def full(*args, **kwargs):
        nonlocal count
        count += 1
        if count == turn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **kwargs)

    if call == "write":
        original = open
        monkeypatch.setattr(records, "open", full, raising=False)
    else:
        original = getattr(os, call)
        monkeypatch.setattr(records.os, call, full)
    with pytest.raises(InputError, match="No space left on device"):
        write_record(folder, FILES, content_of(tiny_fit))
    assert not records.holds_record(folder) and not list(folder.glob(".*.partial"))
    assert write_record(folder, FILES, content_of(tiny_fit)).digest


@pytest.mark.requirement("REQ-REC-04")
def test_a_record_is_written_once(tiny_fit, tmp_path):
    write_record(tmp_path, FILES, content_of(tiny_fit))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="written once"):
        write_record(tmp_path, {"table.csv": b"other"}, content_of(tiny_fit))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_number_that_json_lacks_is_null(tiny_fit, tmp_path):
    record = write_record(tmp_path, FILES, content_of(tiny_fit) | {"worst": [float("nan"), {"rhat": float("inf")}]})
    assert record.content["worst"] == [None, {"rhat": None}] and is_old_or_new(tmp_path)


_KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
from thymodel.results.record import write_record
content = json.loads(sys.stdin.read())
files = {"posterior.nc": b"p" * 5_000_000, "table.csv": b"t" * 1_000_000, "spec.toml": b"s", "decay.toml": b"m"}
chance = random.Random(3)
for attempt in range(10):
    folder, child = Path(sys.argv[1]) / str(attempt), os.fork()
    if child == 0:
        for k in range(1000):
            write_record(folder / str(k), files, content)
    time.sleep(chance.uniform(0.0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.requirement("REQ-REC-04")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_killed_writer_leaves_the_old_state_or_the_new(tiny_fit, tmp_path):
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], input=json.dumps(content_of(tiny_fit)), text=True,
                   stderr=subprocess.DEVNULL, check=True, timeout=120)
    written = list(tmp_path.glob("*/*"))
    assert written and all(is_old_or_new(place) for place in written)


# --- a fit that was killed -----------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-INF-05")
def test_a_killed_fit_resumes_to_the_same_draws(tiny_fit, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name in ("decay.toml", "study.csv", "spec.toml"):
        shutil.copy(tiny_fit.folder / name, source)
    words = [sys.executable, "-m", "thymodel", "fit", str(source), "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 300
        while not list(out.glob(".checkpoint/*")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert process.poll() is None, "the fit ended before it left a checkpoint"
        process.send_signal(signal.SIGKILL)
    assert not records.holds_record(out)
    done = subprocess.run([*words, "--resume"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(load_record(out).z, tiny_fit.z)
    assert not (out / ".checkpoint").exists()


def test_a_stuck_chain_without_diagnostics_has_a_report(copy):
    from thymodel.results.report import report_html

    effects = dict.fromkeys(("worst_rhat", "least_ess_bulk", "least_ess_tail"))
    resealed(copy, random_effects={"count": 4, **effects})
    text = re.sub("<[^>]*>", "", report_html(load_record(copy), figures=False))
    assert "worst R-hat not known" in text
