"""A bundle: what is in it, that it reads back to the last value, rebuilds, and names a digit that was changed."""

import csv
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from thymodel import cli
from thymodel.errors import InputError, RecordError
from thymodel.results import bundle as bundles
from thymodel.results import criteria, rebuilding
from thymodel.results.define import Defined, define_xml
from thymodel.results.record import load_group, load_record
from thymodel.results.transport import (
    LARGEST,
    SMALLEST,
    DataSet,
    csv_bytes,
    differences,
    faults_of,
    numbers,
    save_xpt,
    short_names,
    texts,
)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.requirement("REQ-REP-03")

_SCENARIO = """
title = "None, or one infusion"
subjects = 8
draws = 10
seed = 1
[arms.none]
label = "none"
[arms.one]
label = "one"
doses = [{ amount = 100, day = 8 }]
"""
_STRAY = (".hidden", ".spec.toml.partial", ".ipynb_checkpoints/note.ipynb", ".checkpoint/state.npz", "notes.txt")


@pytest.fixture(scope="module")
def record(tiny_fit, tmp_path_factory) -> Path:
    """The tiny record with a scenario that runs, one that does not, and things that are nobody's business."""
    folder = tmp_path_factory.mktemp("records") / "tiny"
    shutil.copytree(tiny_fit.folder, folder)
    (folder / "scenarios").mkdir()
    (folder / "scenarios" / "One Infusion.toml").write_text(_SCENARIO)
    people = '[population.patients]\nfile = "../people.csv"\n'
    (folder / "scenarios" / "elsewhere.toml").write_text(_SCENARIO + people)
    for name in _STRAY:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    return folder


@pytest.fixture(scope="module")
def made(record, tmp_path_factory) -> bundles.Bundle:
    return bundles.save_bundle([record], tmp_path_factory.mktemp("bundles") / "m5 bundle")


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return shutil.copytree(made.folder, tmp_path / "copy")


def ibm_number(eight: bytes) -> float:
    """The value of eight bytes, in whole numbers: sign, 7 bits of a power of 16 from -64, 56 bits of a fraction."""
    whole = int.from_bytes(eight, "big")
    sign, power, fraction = -1 if whole >> 63 else 1, (whole >> 56 & 0x7F) - 64, whole & (1 << 56) - 1
    return sign * float(fraction) * 16.0 ** (power - 14)


def some_set(**values) -> DataSet:
    columns = [column for name, value in values.items() for column in
               (numbers(name, name, value) if isinstance(value, np.ndarray) else texts(name, name, value))]
    wide = texts("WIDE", "wide", ["w" * 90] * len(columns[0].values))
    return DataSet("SOME", "some", "a row", ("WIDE",), (*wide, *columns))


# --- transport files -----------------------------------------------------------------------------------------


def test_every_double_comes_back_to_its_last_bit(tmp_path):
    """By pandas, and by whole numbers: the bytes after the header are read as the format's description says."""
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(size=3000) * 10.0 ** random.integers(-70, 70, 3000),
                             [0.0, 1.0, -1.0, 0.1, 1 / 3, 2**53 + 2.0, np.nextafter(SMALLEST, 1),
                              -np.nextafter(LARGEST, 1), np.nan]])
    data = some_set(X=values)
    save_xpt(data, tmp_path / "some.xpt")
    found = pd.read_sas(tmp_path / "some.xpt", format="xport", encoding="ascii")["X"].to_numpy()
    zero = values == 0
    assert np.array_equal(found[~zero], values[~zero], equal_nan=True)
    assert found[zero] == SMALLEST  # what pandas makes of eight zero bytes, its issue 50670
    raw = (tmp_path / "some.xpt").read_bytes()
    rows = raw[raw.index(b"OBS     HEADER RECORD") + 60:]
    decoded = [rows[k * 98 + 90: k * 98 + 98] for k in range(len(values))]
    assert decoded[-1] == b"." + bytes(7)
    assert [ibm_number(eight) for eight in decoded[:-1]] == list(values[:-1])


def test_the_header_says_version_5_names_labels_and_formats(tmp_path):
    data = DataSet("PKPD", "A label of the data set", "a row", ("ID",), (
        *texts("ID", "Subject", ["x" * 81]), *numbers("DV", "Measured value", [1.5])))
    save_xpt(data, tmp_path / "pkpd.xpt")
    raw = (tmp_path / "pkpd.xpt").read_bytes()
    assert raw.startswith(b"HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!")
    assert raw[320 + 80: 320 + 96] == b"SAS     PKPD    " and b"A label of the data set " in raw
    fields = [struct.unpack(">hhhh8s40s8shh", raw[640 + k * 140: 640 + k * 140 + 68]) for k in range(2)]
    assert [(kind, length, name.strip(), label.strip(), form.strip(), width)
            for kind, _, length, _, name, label, form, width, _ in fields] == [
        (2, 81, b"ID", b"Subject", b"$", 81), (1, 8, b"DV", b"Measured value", b"BEST", 12)]


def test_text_keeps_codes_and_blanks_and_says_letters_beyond_ascii_by_number(tmp_path):
    data = some_set(T=["<LLOQ", "", " lead", "Müller", "0.10"])
    save_xpt(data, tmp_path / "some.xpt")
    found = pd.read_sas(tmp_path / "some.xpt", format="xport", encoding="ascii")
    assert found["T"].tolist() == ["<LLOQ", "", " lead", "M\\xfcller", "0.10"]


def test_long_text_goes_on_in_further_variables():
    first, second, third = texts("COMMENTS", "Comment", ["a" * 200 + "b" * 200 + "c", "short"])
    assert (first.name, second.name, third.name) == ("COMMENTS", "COMMENT2", "COMMENT3")
    assert [a + b + c for a, b, c in zip(first.values, second.values, third.values, strict=True)] == [
        "a" * 200 + "b" * 200 + "c", "short"]


def test_a_long_text_with_a_blank_where_it_is_parted_and_ends_of_lines_come_back(tmp_path):
    """The format drops blanks at the end of a value, and programs part a CSV at some characters."""
    long = "x" * 199 + " " + "y" * 201 + "  z"
    data = some_set(T=[long, "a\rb\x0bc", "one\ntwo", " lead"])
    (tmp_path / "some.csv").write_bytes(csv_bytes(data))
    save_xpt(data, tmp_path / "some.xpt")
    assert differences(tmp_path / "some.csv", tmp_path / "some.xpt") == []
    found = pd.read_sas(tmp_path / "some.xpt", format="xport", encoding="ascii")
    assert "".join(found.iloc[0][["T", "T2", "T3"]]) == long
    assert found["T"].tolist()[1:] == ["a\\rb\\x0bc", "one\\ntwo", " lead"]


def test_infinity_is_missing_and_said_beside():
    number, beside = numbers("MEDIAN", "Median", [1.0, np.inf, np.nan])
    assert np.array_equal(number.values, [1.0, np.nan, np.nan], equal_nan=True)
    assert (beside.name, beside.values) == ("MEDIANC", ["", "not reached", ""])


def test_names_are_short_valid_and_unlike():
    names = short_names(["sigma_cd4", "sigma_cd8", "age", "AGE", "G-CSF", "1st", "kill_days"], ["ID"])
    assert len(set(names.values())) == len(names)
    assert all(re.fullmatch("[A-Z_][A-Z0-9_]{0,7}", name) for name in names.values())


def test_what_the_format_cannot_hold_is_told_all_at_once():
    odd = DataSet("toolongname", "l" * 41, "a row", (), (
        *numbers("X", "x", [LARGEST, SMALLEST / 2, 1.0]), *texts("X", "x", ["a", "b", "c"])))
    told = "\n".join(map(str, faults_of(odd)))
    for part in ("not a name of at most 8", "41 characters", "two variables of this name", "2 values are outside",
                 "at most 80 bytes"):
        assert part in told


def test_a_changed_byte_of_a_transport_file_is_named(tmp_path):
    data = some_set(X=np.array([1.5, 2.5]), T=["a", "b"])
    (tmp_path / "some.csv").write_bytes(csv_bytes(data))
    save_xpt(data, tmp_path / "some.xpt")
    assert differences(tmp_path / "some.csv", tmp_path / "some.xpt") == []
    raw = bytearray((tmp_path / "some.xpt").read_bytes())
    raw[raw.index(b"OBS     HEADER RECORD") + 60 + 99 + 95] += 1
    (tmp_path / "some.xpt").write_bytes(bytes(raw))
    assert differences(tmp_path / "some.csv", tmp_path / "some.xpt") == ["X, row 2"]


# --- what is in it -------------------------------------------------------------------------------------------


def test_the_tree_has_what_a_reviewer_needs(made):
    paths = {row["path"] for row in csv.DictReader((made.folder / "manifest.csv").read_text().splitlines())}
    assert paths >= {
        "define.xml", "define.html", "define.csv", "reviewers-guide.md", "reviewers-guide.html", "rebuild.py",
        "constraints.txt", "tiny/data/study.csv", "tiny/record/record.json", "tiny/record/posterior.nc",
        "tiny/programs/decay.toml", "tiny/programs/model.txt", "tiny/programs/spec.toml", "tiny/programs/equations.tex",
        "tiny/programs/equations.md", "tiny/programs/scenarios/one-infusion.toml",
        "tiny/outputs/6-scenario-one-infusion.csv", "tiny/outputs/3-verdict.txt", "tiny/outputs/4-verify.txt",
        *(f"tiny/outputs/7-{name}.csv" for name in ("predictive-checks", "assumptions", "assumed-numbers",
                                                    "credibility")),
        *(f"tiny/datasets/{name}.{kind}" for name in ("events", "indpred", "indpar", "quants", "draws")
          for kind in ("csv", "xpt"))}
    present = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert present == paths | {"manifest.csv"}


def test_criteria_and_deviations_go_with_a_record_that_has_a_plan(tmp_path, monkeypatch):
    """What was planned and what was found: a reviewer must not have to look for it in a page of figures."""
    def refuse(record):
        raise RecordError("power-scaling has tests of its own")

    monkeypatch.setattr(criteria, "check_priors", refuse)
    monkeypatch.setattr(rebuilding, "check_fit", lambda record, data: None)
    record = load_record(ROOT / "fits" / "reset02_design")
    made = dict(rebuilding._judged(record, None))
    planned = tomllib.loads((record.folder / "plan.toml").read_text(encoding="utf-8"))
    assert [row["criterion"] for row in made["criteria"]] == list(planned["criteria"])
    assert {"met", "not met", "not evaluated"} <= {row["result"] for row in made["criteria"]}
    assert made["deviations"] == [dict.fromkeys(("what", "planned", "done", "reason"), "none")]
    assert made["m15-assessment"][0] == {"item": "Question of interest", "content": planned["question"]}


def test_a_draw_says_its_unit_in_its_label(made, record):
    labels = {row["variable"]: row["label"] for row in csv.DictReader(
        (made.folder / "define.csv").read_text(encoding="utf-8").splitlines())
              if row["data set"] == "DRAWS"}
    assert labels["X0"] == "x0 (cell/uL)" and labels["K"] == "k (1/day)"


def test_nothing_private_or_unfinished_is_in_it(made, record):
    names = [path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*")]
    assert [name for name in names if re.search(r"(^|/)\.|partial|checkpoint|notes\.txt|__pycache__", name)] == []
    assert [name for name in names if " " in name or name != name.lower()] == []
    for path in (path for path in made.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for place in (str(record.parent), str(made.folder.parent), str(Path(bundles.__file__).parents[2])):
            assert place.encode() not in content, path


def test_a_place_on_this_machine_is_refused_by_file(tmp_path):
    folder = tmp_path / "built"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "spec.toml").write_text(f'model = "{tmp_path}/decay.toml"\n')
    (folder / "tiny" / "good.txt").write_text("a path such as /some/where is no place of this machine\n")
    with pytest.raises(InputError) as caught:
        bundles._refuse_private(folder, [tmp_path / "record"])
    assert [fault.where for fault in caught.value.faults] == ["tiny/spec.toml"]


def test_the_data_are_there_byte_for_byte_and_row_by_row(made, record):
    place = made.folder / "tiny"
    assert (place / "data" / "study.csv").read_bytes() == (record / "study.csv").read_bytes()
    found = pd.read_sas(place / "datasets" / "events.xpt", format="xport", encoding="ascii")
    wanted = pd.read_csv(record / "study.csv", na_values=["."])
    for name in ("ID", "TIME", "EVID", "AMT", "DV", "CENS", "MDV"):
        numbers_found = found[name].where(found[name] != SMALLEST, 0.0).to_numpy()
        assert np.array_equal(numbers_found, wanted[name].to_numpy(float), equal_nan=True), name
    for name in ("CMT", "DVID", "ARM"):
        assert found[name].tolist() == wanted[name].fillna("").tolist(), name
    left_out = found[found["EXCLFL"] == "Y"]
    assert left_out["SRCROW"].tolist() == [14.0] and left_out["EXCLRSN"].tolist() == ["MDV = 1"]
    assert set(found["RECORDID"]) == {load_record(record).digest}


def test_individual_parameters_are_typical_value_times_effect(made, record):
    draws = load_group(record / "posterior.nc", "posterior")
    own = (draws["x0"] * np.exp(draws["re_x0"])).values.reshape(-1, 4)
    found = pd.read_csv(made.folder / "tiny/datasets/indpar.csv")
    assert found["PARAM"].tolist() == ["x0"] * 4 and found["PARAMU"].tolist() == ["cell/uL"] * 4
    assert found["MEAN"].to_numpy() == pytest.approx(own.mean(axis=0), rel=1e-12)
    assert found["SD"].to_numpy() == pytest.approx(own.std(axis=0, ddof=1), rel=1e-12)
    assert found["Q95"].to_numpy() == pytest.approx(np.quantile(own, 0.95, axis=0), rel=1e-12)


def test_residuals_are_those_of_the_predictions_beside_them(made, record):
    found = pd.read_csv(made.folder / "tiny/datasets/indpred.csv")
    sigma = float(load_group(record / "posterior.nc", "posterior")["sigma_count"].median())
    expected = (np.log(found["DV"]) - np.log(found["IPRED"])) / sigma
    assert found["IWRES"].isna().tolist() == (found["CENS"] == 1).tolist() and (found["CENS"] == 1).any()
    measured = found["CENS"] == 0
    assert found["IWRES"][measured].to_numpy() == pytest.approx(expected[measured].to_numpy(), rel=1e-9)


def test_draws_and_quantities_are_the_records_own(made, record):
    draws = pd.read_sas(made.folder / "tiny/datasets/draws.xpt", format="xport", encoding="ascii")
    kept = load_group(record / "posterior.nc", "posterior")
    chain, draw = draws["CHAIN"].astype(int) - 1, draws["DRAW"].astype(int) - 1
    assert np.array_equal(draws["OMEGA_X0"], kept["omega_x0"].values[chain, draw]) and len(draws) == 40
    quantities = pd.read_csv(made.folder / "tiny/datasets/quants.csv", keep_default_na=False)
    table, unit = load_record(record).table, dict(zip(quantities["QUANTITY"], quantities["UNIT"], strict=True))
    assert (unit["x0"], unit["k"], unit["back.median[dosed]"]) == ("cell/uL", "1/day", "day")
    for row, name in zip(quantities.to_dict("records"), table.index, strict=True):
        wanted = float(table.loc[name, "median"])
        assert row["QUANTITY"] == name
        if np.isfinite(wanted):
            assert float(row["MEDIAN"]) == wanted
        else:
            assert row["MEDIAN"] == "" and row["MEDIANC"] == "not reached"


def test_the_define_file_tells_every_variable_and_every_reference_is_kept(made):
    space = {"odm": "http://www.cdisc.org/ns/odm/v1.3", "def": "http://www.cdisc.org/ns/def/v2.1"}
    root = ET.parse(made.folder / "define.xml").getroot()
    attribute = f"{{{space['def']}}}"
    oids = [item.get("OID") for item in root.iter() if item.get("OID")]
    assert len(oids) == len(set(oids))
    named = {item.get(key) for item in root.iter() for key in ("ItemOID", "CodeListOID", f"{attribute}CommentOID")
             if item.get(key)}
    assert named <= set(oids)
    items = {item.get("OID"): item for item in root.iterfind(".//odm:ItemDef", space)}
    for group in root.iterfind(".//odm:ItemGroupDef", space):
        leaf = group.find("def:leaf", space)
        assert leaf.get("ID") == group.get(f"{attribute}ArchiveLocationID")
        frame = pd.read_sas(made.folder / leaf.get("{http://www.w3.org/1999/xlink}href"), format="xport",
                            encoding="ascii")
        told = [items[ref.get("ItemOID")] for ref in group.iterfind("odm:ItemRef", space)]
        assert [item.get("Name") for item in told] == list(frame.columns)
        assert [item.get("DataType") == "text" for item in told] == [frame[name].dtype.kind != "f" for name in frame]
    rows = list(csv.DictReader((made.folder / "define.csv").read_text().splitlines()))
    assert len(rows) == len(items)
    [arm] = [row for row in rows if row["data set"] == "EVENTS" and row["variable"] == "CENS"]
    assert arm["codes"] == "0: measured; 1: below DV, the lower limit" and arm["origin"] == "Derived"  # simulated


def test_the_define_file_is_xml_whatever_a_heading_holds():
    data = some_set(X=np.array([1.5, 2.5]))
    odd = replace(data, comment="column \x01<b> & \ufffe", variables=tuple(
        replace(one, comment="column NO\x01TE of the file") for one in data.variables))
    root = ET.fromstring(define_xml("s", "d", "2026-01-01T00:00:00", [Defined(odd, "tiny", "tiny/some.xpt")]))
    told = [element.text for element in root.iter() if element.tag.endswith("TranslatedText")]
    assert "column \ufffd<b> & \ufffd" in told and any("NO\ufffdTE" in str(text) for text in told)


def test_the_guide_says_simulated_what_was_left_out_and_how_to_rebuild(made):
    text = (made.folder / "reviewers-guide.md").read_text()
    page = (made.folder / "reviewers-guide.html").read_text()
    assert "**SIMULATED data.**" in text and "SIMULATED data." in page
    assert "scenario elsewhere.toml, which cannot be run from here" in text
    assert made.left_out["tiny"][0].startswith("scenario elsewhere.toml")
    assert "python rebuild.py" in text and "| 6 scenarios |" in text
    assert "criteria and deviations: no analysis plan was set down before the fit" in made.left_out["tiny"]
    assert "`env/bin/thymodel verify tiny/record --data tiny/data/study.csv`" in text
    assert not [line for line in text.splitlines() if line.startswith("| ") and line.endswith("|  |")]  # no file unsaid
    assert "<script>" not in page and "&lt;script&gt;" in page


# --- rebuilding ----------------------------------------------------------------------------------------------


def test_the_bundle_rebuilds_from_its_own_software(copy):
    software = next((copy / "software").iterdir())
    place = {"PYTHONPATH": str(software), "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run([sys.executable, "-W", "error", str(copy / "rebuild.py")], capture_output=True, text=True,
                          timeout=300, env=place, cwd=copy.parent)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[-1] == "rebuilt: every file is as it was"
    compared = {line.partition(": ")[0] for line in lines if line.endswith(": identical")}
    assert compared == {path.relative_to(copy).as_posix() for folder in ("datasets", "outputs")
                        for path in (copy / "tiny" / folder).iterdir()} | {
        f"tiny/programs/{name}" for name in ("model.txt", "equations.md", "equations.tex", "equations.html")}


def load_script(folder: Path):
    spec = importlib.util.spec_from_file_location("rebuild_script", folder / "rebuild.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_one_changed_digit_of_any_file_is_named(copy):
    script = load_script(copy)
    assert script.check_manifest() == []
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != "manifest.csv")
    source = [path for path in files if "software" in path.parts]
    for path in [path for path in files if path not in source] + source[::40]:
        content = path.read_bytes()
        digit = re.search(rb"[0-9]", content)
        place = digit.start() if digit else len(content) // 2
        swapped = b"7" if content[place: place + 1] != b"7" else b"3"
        path.write_bytes(content[:place] + swapped + content[place + 1:])
        name = path.relative_to(copy).as_posix()
        assert script.check_manifest() == [f"{name}: changed (sha256 differs)"]
        path.write_bytes(content)


def test_absent_and_added_files_and_a_changed_manifest_are_named(copy):
    script = load_script(copy)
    (copy / "tiny" / "outputs" / "3-verdict.txt").unlink()
    (copy / "tiny" / "more.txt").write_text("more")
    (copy / "env").mkdir()
    (copy / "env" / "python").write_text("an environment is no part of the bundle")
    manifest = copy / "manifest.csv"
    manifest.write_text(re.sub(r",(\d+),define.html", lambda m: f",{int(m[1]) + 1},define.html", manifest.read_text()))
    assert script.check_manifest() == ["manifest.csv: the size of define.html was changed",
                                       "tiny/outputs/3-verdict.txt: absent", "tiny/more.txt: not in the manifest"]


def test_what_is_computed_again_is_not_fooled_by_a_forged_manifest(copy):
    """Files changed so that the manifest could be changed with them: their numbers still do not follow."""
    place = copy / "tiny"

    def change(name: str, old: bytes, new: bytes) -> None:
        content = (place / name).read_bytes()
        assert old in content
        (place / name).write_bytes(content.replace(old, new, 1))

    first = (place / "outputs/3-quantities.csv").read_text().splitlines()[1].split(",")[1]
    change("outputs/3-quantities.csv", first.encode(), f"{float(first) * (1 + 1e-12)!r}".encode())
    change("datasets/indpar.csv", b"cell/uL", b"cell/mL")
    change("outputs/6-scenario-one-infusion.csv", b"0.", b"1.")
    change("datasets/events.xpt", b"control", b"Control")
    (place / "outputs" / "7-more.csv").write_text("a\n1\n")
    wrong = {name: told for name, told in rebuilding.compare(place) if told}
    assert set(wrong) == {"outputs/3-quantities.csv", "datasets/indpar.csv", "datasets/indpar.xpt",
                          "outputs/6-scenario-one-infusion.csv", "datasets/events.xpt", "outputs/7-more.csv"}
    assert "differs in 1 cells, first in row 1, column mean" in wrong["outputs/3-quantities.csv"]
    assert "by at most 1e-12 of a value" in wrong["outputs/3-quantities.csv"]


# --- refusals ------------------------------------------------------------------------------------------------


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_fault_is_told_at_once_and_nothing_is_written(tmp_path, record):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    done = CliRunner().invoke(cli.app, ["bundle", str(record), str(tmp_path / "none"), "--out", str(tmp_path / "full"),
                                        "--data", str(record / "study.csv")])
    assert isinstance(done.exception, InputError)
    told = [str(fault) for fault in done.exception.faults]
    assert len(told) == 3 and "holds files already" in told[0] and "no record here" in told[1] and "of which" in told[2]
    assert leftovers(tmp_path) == ["full"] and leftovers(tmp_path / "full") == ["mine.txt"]


def test_data_that_are_not_the_records_are_refused(tmp_path, record):
    other = tmp_path / "other.csv"
    other.write_text((record / "study.csv").read_text().replace("92", "93"))
    with pytest.raises(InputError, match="sha256 is"):
        bundles.save_bundle([record], tmp_path / "out", other)
    assert leftovers(tmp_path) == ["other.csv"]


def test_a_changed_record_is_not_bundled(tmp_path, record):
    changed = shutil.copytree(record, tmp_path / "changed")
    (changed / "table.csv").write_text((changed / "table.csv").read_text().replace("1", "2", 1))
    with pytest.raises(RecordError, match="table.csv"):
        bundles.save_bundle([changed], tmp_path / "out")
    assert leftovers(tmp_path) == ["changed"]


def test_links_to_files_elsewhere_do_not_travel(tmp_path, record):
    """A record from a stranger may name a file of this machine: what it names would leave with the bundle."""
    (tmp_path / "secret").write_text("title = 'mine alone'\n")
    linked = shutil.copytree(record, tmp_path / "linked", ignore=shutil.ignore_patterns("report.html", "scenarios"))
    (linked / "scenarios").mkdir()
    for name in ("design.toml", "report.html", "scenarios/other.toml"):
        (linked / name).unlink(missing_ok=True)
        (linked / name).symlink_to(tmp_path / "secret")
    made = bundles.save_bundle([linked], tmp_path / "out")
    assert not [path for path in made.folder.rglob("*") if path.is_file() and b"mine alone" in path.read_bytes()]


@pytest.mark.parametrize("name", ["../../x.csv", "a./../b", "a.csv/../../b", "C:\\a.csv", "", ".", "..", "a./b"])
def test_a_name_of_data_is_a_name_in_its_folder(tmp_path, name):
    assert (tmp_path / bundles._plain(name)).parent == tmp_path and bundles._plain(name) not in (".", "..")


def test_a_pulled_plug_leaves_nothing_half(tmp_path, record, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles, "save_xpt", full)
    monkeypatch.setattr(rebuilding, "data_sets", lambda *_: iter([some_set(X=np.array([1.0]))]))
    with pytest.raises(InputError, match="No space left on device"):
        bundles.save_bundle([record], tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_the_account_of_an_import_goes_along_where_it_is_of_these_data(tmp_path, record):
    mine = shutil.copytree(record, tmp_path / "tiny", ignore=shutil.ignore_patterns("scenarios"))
    sha256 = load_record(mine).content["data"]["sha256"]
    for written, there in ((json.dumps({"data_sha256": sha256}), True), (json.dumps({"data_sha256": "0" * 64}), False),
                           ("[1", False), ("[1]", False)):
        (mine / "study.import.json").write_text(written)
        out = bundles.save_bundle([mine], tmp_path / "out").folder
        assert (out / "tiny/programs/study-import.json").is_file() == there, written
        assert ("account of the import" in (out / "manifest.csv").read_text()) == there
        shutil.rmtree(out)


def test_data_that_may_not_travel_stay(tmp_path, record):
    """A record whose data lie elsewhere: no measured value goes along, and the guide says where they are found."""
    away = shutil.copytree(record, tmp_path / "away", ignore=shutil.ignore_patterns("study.csv", "scenarios"))
    made = bundles.save_bundle([away], tmp_path / "out")
    names = {path.name for path in made.folder.rglob("*")}
    assert names & {"study.csv", "events.xpt", "indpred.xpt"} == set() and "indpar.xpt" in names
    assert "the study data" in made.left_out["tiny"][0]
    assert "log density not recomputed: data absent" in (made.folder / "tiny/outputs/4-verify.txt").read_text()


def test_an_ensemble_stays_out_of_a_bundle_and_that_is_said(tmp_path):
    path = ROOT / "fits/reset02_design/scenarios/structures.toml"
    with pytest.raises(InputError, match="an ensemble names other records by their place"):
        rebuilding.refuse_unreadable(load_record(ROOT / "fits/reset02_design"), path)
    rebuilding.refuse_unreadable(load_record(ROOT / "fits/reset02_design"), path.with_name("doses.toml"))
