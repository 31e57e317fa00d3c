"""Records from strangers, with digests that fit: what their files may claim, and where their names may lead."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from thymodel.documents.toml import digest
from thymodel.errors import InputError, RecordError
from thymodel.results import record as records

pytestmark = pytest.mark.requirement("REQ-SEC-02")

SOURCE = Path(__file__).resolve().parents[2] / "fits" / "published_controls"


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "record"
    found.mkdir()
    for path in SOURCE.iterdir():
        if path.is_file() and path.suffix != ".html":
            shutil.copy(path, found / path.name)
    content = json.loads((found / "record.json").read_text(encoding="utf-8"))
    content["files"].pop("report.html", None)
    sign(found, content)
    return found


def sign(folder: Path, content: dict) -> None:
    content["files"] = {name: digest((folder / name).read_bytes()) if (folder / name).is_file() else known
                        for name, known in content["files"].items()}
    content["digest"] = records._own_digest(content)
    (folder / "record.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def content_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("value", [None, 0.5])
def test_a_summary_that_was_forged_and_signed_again_is_not_that_of_the_table(folder, value):
    """Other programs read the numbers in record.json: its own digest would hold for any of them."""
    content = content_of(folder)
    name = next(iter(content["summary"]))
    content["summary"][name]["median"] = value
    sign(folder, content)
    told = [fault.what for fault in records.verify(records.load_record(folder)).faults]
    assert len(told) == 1 and told[0].startswith(f"summary.{name}.median: {value!r}, table.csv has ")


def test_the_copy_is_intact(folder):
    """Else the tests below would say nothing."""
    records.intact(records.load_record(folder))


@pytest.mark.parametrize("name", ["../outside.nc", "/etc/hostname", "..", "a\0b", "sub/x", "sub\\x"])
def test_a_file_name_may_not_leave_the_directory(folder, name):
    (folder.parent / "outside.nc").write_bytes(b"x")
    content = content_of(folder)
    content["files"][name] = digest(b"x")
    sign(folder, content)
    with pytest.raises(RecordError, match="leaves the directory"):
        records.intact(records.load_record(folder))


def test_a_link_may_not_leave_the_directory(folder):
    (folder / "posterior.nc").rename(folder.parent / "elsewhere.nc")
    (folder / "posterior.nc").symlink_to("../elsewhere.nc")
    with pytest.raises(RecordError, match="posterior.nc: a link that leaves the directory"):
        records.intact(records.load_record(folder))


@pytest.mark.parametrize("key, value", [
    ("parameters", [["k"]]), ("parameters", [{}]), ("files", {"posterior.nc": 7}), ("published", 5),
    ("published", [{}]),
    ("fixed_points", [{"z": ["a"], "log_density": 1}]), ("fixed_points", [7]), ("units", {"k": []})])
def test_a_record_of_another_shape_is_refused(folder, key, value):
    content = content_of(folder)
    content[key] = value
    content["digest"] = records._own_digest(content)
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=f"{key}: (missing, or )?not what a record holds there"):
        records.load_record(folder)


def test_the_model_of_a_record_lies_in_its_directory(folder):
    content = content_of(folder)
    content["model"]["name"] = "../../models/thymus_full"
    sign(folder, content)
    with pytest.raises(InputError, match="model.name"):
        records.load_record(folder)


def test_a_key_that_is_there_twice_is_refused(folder):
    text = (folder / "record.json").read_text(encoding="utf-8")
    (folder / "record.json").write_text('{"title": "another",' + text.lstrip()[1:], encoding="utf-8")
    with pytest.raises(InputError, match="a key is there twice"):
        records.load_record(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "null", '{"schema": 1}', '{"a": NaN}', "\xff"])
def test_json_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        records.load_record(tmp_path)


@pytest.mark.parametrize("change", [
    lambda text: text.replace(",", ";", 1), lambda text: text.replace("0.", "x.", 1), lambda text: "",
    lambda text: text + text.splitlines()[1] + "\n", lambda text: text + "\x82,1\n",
    lambda text: text.replace("rhat", "r_hat", 1)])
def test_a_table_that_is_none_is_a_fault_of_the_record(folder, change):
    path = folder / "table.csv"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="latin-1")
    sign(folder, content_of(folder))
    with pytest.raises(RecordError, match="table.csv: not a table of a record"):
        _ = records.load_record(folder).table


def _huge(file: h5py.File) -> None:
    file.create_dataset("posterior/huge", shape=(2**40,), dtype="f8", chunks=(2**16,))


def _bomb(file: h5py.File) -> None:
    file.create_dataset("posterior/bomb", shape=(10**9,), dtype="f8", chunks=(10**6,), compression="gzip")


def _external_link(file: h5py.File) -> None:
    file["posterior/secret"] = h5py.ExternalLink("elsewhere.nc", "/x")


def _soft_link(file: h5py.File) -> None:
    file["posterior/again"] = h5py.SoftLink("/posterior")


def _external_values(file: h5py.File) -> None:
    file.create_dataset("secret", shape=(16,), dtype="u1", external=[("/etc/hostname", 0, 16)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.nc", "x", shape=(4,))
    file.create_virtual_dataset("posterior/secret", layout)


@pytest.mark.parametrize("change, what", [
    (_huge, "arrays of more than"), (_bomb, "arrays of more than"), (_external_link, "a link"), (_soft_link, "a link"),
    (_external_values, "in another file"), (_virtual, "in another file")])
def test_a_netcdf_file_may_not_claim_or_point(tmp_path, change, what):
    path = tmp_path / "posterior.nc"
    with h5py.File(path, "w") as file:
        file["posterior/x"] = np.ones((2, 3))
        change(file)
    with pytest.raises(RecordError, match=what):
        records.load_group(path, "posterior")


def test_a_damaged_netcdf_file_is_one_sentence(tmp_path, capfd):
    """h5netcdf alone would print a traceback while it gives up."""
    (tmp_path / "posterior.nc").write_bytes((SOURCE / "posterior.nc").read_bytes()[:20_000])
    with pytest.raises(RecordError, match="cannot be read as netCDF"):
        records.load_group(tmp_path / "posterior.nc", "posterior")
    assert "Traceback" not in capfd.readouterr().err


def test_the_title_of_a_record_is_text_in_a_notebook(folder):
    content = content_of(folder)
    content["title"] = "<script>alert(1)</script>"
    sign(folder, content)
    assert "<script>" not in records.load_record(folder)._repr_html_()
