"""Change one digit anywhere: `verify` names the file and what changed in it, and `quote` refuses."""

import io
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from thymodel.documents.toml import digest
from thymodel.errors import InputError, RecordError
from thymodel.results import changes
from thymodel.results import record as records
from thymodel.results.record import load_record, quote, verify


@pytest.fixture(scope="module")
def tables() -> dict:
    return {}


@pytest.fixture(autouse=True)
def remembered(monkeypatch, tables) -> None:
    """Summaries of the same draws are made once: they are dear, and asked for in most tests."""
    original = records.quantities_table

    def remember(folder: Path):
        key = digest((folder / "posterior.nc").read_bytes())
        if key not in tables:
            tables[key] = original(folder)
        return tables[key]

    monkeypatch.setattr(records, "quantities_table", remember)


@pytest.fixture(params=[1, 2], ids=["schema 1", "schema 2"])
def schema(request) -> int:
    return request.param


@pytest.fixture
def copy(designs, schema, tmp_path) -> Path:
    return Path(shutil.copytree(designs[schema], tmp_path / "copy"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def other_digit(text: str) -> str:
    return text[:-1] + str((int(text[-1]) + 1) % 10)


def told(folder: Path, name: str) -> str:
    """What the one fault says, of a file that has to be the one that changed; quoting is refused."""
    [fault] = verify(load_record(folder)).faults
    assert Path(fault.where).name == name
    with pytest.raises(RecordError, match=name):
        quote(load_record(folder), ["kth"])
    return fault.what


def test_a_digit_of_the_model_is_named_by_its_key(copy):
    change(copy / "thymus_core.toml", "value = 0.1,", "value = 0.2,")
    assert told(copy, "thymus_core.toml").endswith("parameters.eta.value: recorded 0.1, now 0.2")


def test_a_digit_of_a_prior_is_named_with_both_priors(copy):
    change(copy / "spec.toml", "lognormal(median=0.6,", "lognormal(median=0.7,")
    text = told(copy, "spec.toml")
    assert "f_th" in text and text.endswith("recorded lognormal(median=0.6, sd=1.034), now lognormal(median=0.7, "
                                            "sd=1.034)")


@pytest.mark.parametrize("old, new, key", [
    ("seed   = 1", "seed   = 2", "sampler.seed: recorded 1, now 2"),
    ("rtol = 3e-5", "rtol = 4e-5", "solver.rtol: recorded 3e-05, now 4e-05"),
    ("threshold = 200", "threshold = 201", "endpoints.cd4_200.threshold: recorded 200")])
def test_a_digit_of_a_setting_is_named(copy, old, new, key):
    change(copy / "spec.toml", old, new)
    assert key in told(copy, "spec.toml")


def test_a_digit_that_no_resolved_value_has_is_named_by_a_record_that_keeps_its_documents(copy, schema):
    change(copy / "spec.toml", "df     = 5", "df     = 6")
    said = told(copy, "spec.toml")
    assert said.endswith("likelihood.cd4.df: recorded 5, now 6" if schema == 2 else "which key cannot be told")


def test_a_comment_is_no_value(copy, schema):
    with (copy / "thymus_core.toml").open("a", encoding="utf-8") as file:
        file.write("# a remark\n")
    assert told(copy, "thymus_core.toml").endswith("no key and no value, but a comment or the layout")


def test_a_document_that_is_none_any_more_is_told_of(copy):
    change(copy / "spec.toml", "[data]", "[data")
    assert "no TOML document any more" in told(copy, "spec.toml")


@pytest.mark.parametrize("name, column", [("kth", "mean"), ("re_eta[3]", "ess_tail")])
def test_a_digit_of_the_table_is_named_by_row_and_column(copy, name, column):
    lines = (copy / "table.csv").read_text(encoding="utf-8").split("\n")
    [number] = [k for k, line in enumerate(lines) if line.startswith(f"{name},")]
    cells, at = lines[number].split(","), lines[0].split(",").index(column)
    was = cells[at]
    cells[at] = was.replace(was[2], str((int(was[2]) + 1) % 10) if was[2].isdigit() else "7", 1)
    lines[number] = ",".join(cells)
    (copy / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    assert f"row {name}, column {column}: " in (text := told(copy, "table.csv"))
    assert was in text and f"in the file {cells[at]}" in text


def test_the_last_digit_of_a_number_of_the_table_is_found(copy):
    [line] = [row for row in (copy / "table.csv").read_text(encoding="utf-8").split("\n") if row.startswith("kth,")]
    change(copy / "table.csv", line, other_digit(line))
    assert "row kth, column ess_tail: recorded " in told(copy, "table.csv")


def test_a_draw_is_named_by_its_variable_and_where_its_summary_differs(copy, schema):
    with h5py.File(copy / "posterior.nc", "r+") as file:
        file["posterior/f_th"][0, 0] += 0.1
    text = told(copy, "posterior.nc")
    assert "f_th: mean recorded " in text and ", now " in text and "eta: mean" not in text
    assert ("variable posterior/f_th differs" in text) == (schema == 2)


def test_a_draw_of_no_row_of_the_table_is_named_by_a_record_with_fingerprints(designs, tmp_path):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    with h5py.File(folder / "posterior.nc", "r+") as file:
        file["sample_stats/lp"][1, 2] += 1.0
    found = list(changes._told_of_arrays(kept(folder), folder / "posterior.nc"))
    assert found == ["variable sample_stats/lp differs"]


def kept(folder: Path) -> changes.Kept:
    """Without the summary of the draws, which takes seconds."""
    def absent():
        raise RecordError("not asked for")

    record = load_record(folder)
    return changes.Kept(folder, record.written, record.content, lambda: record.spec, absent)


def test_a_flipped_bit_names_a_variable_or_says_that_the_file_cannot_be_read(designs, tmp_path):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    content = bytearray((folder / "posterior.nc").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "posterior.nc").write_bytes(content)
    [said, *_] = changes._told_of_arrays(kept(folder), folder / "posterior.nc")
    assert said.startswith("variable ") or "cannot be read as netCDF" in said
    (folder / "posterior.nc").write_bytes(b"nothing")
    assert "cannot be read as netCDF" in told(folder, "posterior.nc")


def test_a_digit_of_the_summary_in_the_json_is_named(copy):
    path = copy / "record.json"
    held = str(json.loads(path.read_text(encoding="utf-8"))["summary"]["kth"]["median"])
    other = held[:4] + str((int(held[4]) + 1) % 10) + held[5:]
    change(path, held, other)
    assert f"summary.kth.median: {float(other)!r}, table.csv has {held}" in told(copy, "record.json")


def test_a_digit_of_the_json_beyond_what_a_float_holds_is_found(copy):
    value = load_record(copy).content["fixed_points"][0]["z"][0]
    longer = f"{value!r}0000001"
    assert float(longer) == value
    change(copy / "record.json", repr(value), longer)
    assert told(copy, "record.json") == f"a number was changed: {longer} stands there for {value!r}"


@pytest.mark.parametrize("old, new, key", [('"seed": 1', '"seed": 2', "sampler.seed: recorded 2, now 1"),
                                           ("median=0.6, sd=1.034)", "median=0.7, sd=1.034)", "f_th")])
def test_a_digit_of_the_json_that_the_documents_contradict_is_named(copy, old, new, key):
    change(copy / "record.json", old, new)
    assert key in told(copy, "record.json")


@pytest.mark.parametrize("key", ["created", "environment", "fixed_points", "certificate"])
def test_a_digit_of_the_json_that_nothing_contradicts_is_named_by_its_key(designs, tmp_path, key):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    before = json.dumps(content[key])
    digits = [k for k, letter in enumerate(before) if letter.isdigit()]
    content[key] = json.loads(before[:digits[1]] + str((int(before[digits[1]]) + 1) % 10) + before[digits[1] + 1:])
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")
    assert told(folder, "record.json").endswith(f": key {key} differs")


def test_a_changed_digest_is_told_from_a_changed_content(designs, tmp_path):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    held = load_record(folder).digest
    change(folder / "record.json", f'"digest": "{held}"', f'"digest": "{"0" * 64}"')
    assert told(folder, "record.json").endswith("no other key than `digest` or `fingerprints`")


def sealed_anew(folder: Path, **parts) -> str:
    """What verify says of a record.json whose digest was computed again after a change."""
    path = folder / "record.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in parts.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    content["digest"] = records._own_digest(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    faults = verify(load_record(folder)).faults
    assert {Path(fault.where).name for fault in faults} == {"record.json"}
    return "; ".join(fault.what for fault in faults)


def test_a_digest_made_anew_does_not_hide_that_the_documents_say_otherwise(copy):
    said = sealed_anew(copy, simulated=False)
    assert "its digest computed anew" in said and "simulated: recorded false, now true by the documents" in said


@pytest.mark.parametrize("key, value", [("warnings", []), ("created", "2025-01-01T00:00:00+00:00"),
                                        ("environment", {"platform": "another"})])
def test_a_digest_made_anew_does_not_fool_the_fingerprints(designs, tmp_path, key, value):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    assert f"its digest computed anew: key {key} differs" in sealed_anew(folder, **{key: value})


def test_line_ends_are_told_from_values(copy, schema):
    table, data = copy / "table.csv", copy / "cohort.csv"
    before = table.read_bytes()
    table.write_bytes(before.replace(b"\n", b"\r\n"))
    assert told(copy, "table.csv").endswith("no number, but its order, its line ends or how it is laid out")
    table.write_bytes(before)
    data.write_bytes(data.read_bytes().replace(b"\n", b"\r\n"))
    if schema == 2:
        said = changes.told_of_data(data.read_bytes(), load_record(copy).content)
        assert said[1:] == ["no line, but the line ends or what follows the last one"]


def test_a_digit_of_the_data_is_named_with_what_it_does_to_the_log_density(designs, tmp_path):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    change(folder / "cohort.csv", ",30.15,", ",30.16,")
    text, content = told(folder, "cohort.csv"), load_record(folder).content
    assert f"sha256 recorded {content['data']['sha256'][:16]}" in text
    assert "line 2, column DV (now 30.16)" in text
    held = content["fixed_points"][0]["log_density"]
    assert f"log density at fixed point 1 recorded {held:.6f}, with these data " in text
    now = float(text.rpartition(" ")[2])
    assert 1e-6 < abs(now - held) < 1.0


def test_a_record_of_the_first_schema_tells_other_data_by_their_digest(designs, tmp_path):
    folder = Path(shutil.copytree(designs[1], tmp_path / "copy"))
    change(folder / "cohort.csv", ",30.15,", ",30.16,")
    record = load_record(folder)
    [text] = changes.told_of_data((folder / "cohort.csv").read_bytes(), record.content)
    assert text.startswith("sha256 recorded ")
    with pytest.raises(RecordError, match="cohort.csv: not the data of this record"):
        quote(record, ["kth"])


def test_a_missing_row_of_data_is_counted(designs):
    content = load_record(designs[2]).content
    lines = (designs[2] / "cohort.csv").read_text(encoding="utf-8").splitlines()
    said = changes.told_of_data("\n".join([*lines[:5], *lines[6:]]).encode(), content)
    assert said[1:] == [f"{len(lines)} lines recorded, {len(lines) - 1} found"]


@pytest.mark.parametrize("part", [
    {"fingerprints": {"parts": 3, "arrays": [], "data": 1}}, {"documents": {"spec.toml": 1}}, {"summary": {"kth": 3}},
    {"priors": [1]}, {"sampler": {"divergences": 0}}])
def test_a_forged_record_never_ends_in_a_traceback(designs, tmp_path, part):
    folder = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    content = json.loads((folder / "record.json").read_text(encoding="utf-8")) | part
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")
    for name in ("spec.toml", "table.csv"):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("# x\n")
    try:
        record = load_record(folder)
    except InputError:
        return
    faults = verify(record).faults
    assert {Path(fault.where).name for fault in faults} == {"record.json", "spec.toml", "table.csv"}
    assert isinstance(changes.told_of_data(b"ID\n1\n", record.content), list)


def test_no_fingerprints_of_data_without_columns_or_of_very_many_lines():
    assert changes.data_fingerprints(b"\xff\xfe\x00") is None
    assert changes.data_fingerprints(b"ID,DV\n" + b"1,2\n" * 20_000) is None
    assert changes.data_fingerprints(b"ID,DV\n1,2\n")["columns"].keys() == {"ID", "DV"}


def test_the_same_bytes_in_another_shape_are_another_variable():
    def of(shape: tuple[int, int]) -> dict[str, str]:
        values = np.arange(6.0).reshape(shape)
        return changes.array_digests(io.BytesIO(records.netcdf_bytes({None: xr.Dataset({"z": (("a", "b"), values)})})))

    assert of((2, 3))["z"] == of((2, 3))["z"] != of((3, 2))["z"]
