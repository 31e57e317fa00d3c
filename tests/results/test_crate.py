"""A record as an RO-Crate: what the specification asks of one, and nothing that the record does not say."""

import hashlib
import json
import shutil
import zipfile
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import pytest

from thymodel import cli
from thymodel.errors import InputError, RecordError
from thymodel.results.crate import METADATA, crate_text, save_crate
from thymodel.results.record import load_record

pytestmark = pytest.mark.requirement("REQ-EXC-04")

FITS = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "fits").glob("*/record.json"))


@pytest.fixture(params=FITS, ids=lambda folder: folder.name)
def record(request):
    return load_record(request.param)


def entities(text: str) -> dict[str, dict]:
    graph = json.loads(text)["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph), "an entity stands twice"
    return found


def references(value) -> list[str]:
    if isinstance(value, dict):
        return [value["@id"]] if set(value) == {"@id"} else [r for inner in value.values() for r in references(inner)]
    return [r for inner in value for r in references(inner)] if isinstance(value, list) else []


def test_it_has_what_ro_crate_1_1_requires(record):
    """RO-Crate 1.1: the descriptor, the root data entity and data entities, each MUST of them."""
    text = crate_text(record)
    found = entities(text)
    assert json.loads(text)["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    descriptor, root = found[METADATA], found["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset" and root["name"] and root["description"]
    assert datetime.fromisoformat(root["datePublished"]).tzinfo is not None
    parts = references(root["hasPart"])
    files = [entity for entity in found.values() if entity["@type"] == "File"]
    assert sorted(parts) == sorted(entity["@id"] for entity in files)
    assert all(not entity["@id"].startswith(("/", "..")) and isinstance(entity["contentSize"], str)
               for entity in files)


def test_every_entity_that_is_referred_to_is_there_flat(record):
    found = entities(crate_text(record))
    outside = {"https://w3id.org/ro/crate/1.1"}
    for entity in found.values():
        assert "@type" in entity and set(references(entity)) <= set(found) | outside
        assert all(not isinstance(value, dict) or set(value) == {"@id"} for value in entity.values())


def test_every_file_is_there_with_its_digest(record):
    files = [entity for entity in entities(crate_text(record)).values() if entity["@type"] == "File"]
    assert {unquote(entity["@id"]) for entity in files} >= {*record.content["files"], "record.json"}
    for entity in files:
        content = (record.folder / unquote(entity["@id"])).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["contentSize"] == str(len(content))


def test_the_run_is_an_action_of_the_software_on_the_documents(record):
    found = entities(crate_text(record))
    action, software = found["#run"], found["#thymodel"]
    assert action["@type"] == "CreateAction" and action["instrument"] == {"@id": "#thymodel"}
    assert software["@type"] == "SoftwareApplication"
    assert software["softwareVersion"] == record.content["environment"]["packages"]["thymodel"]
    objects, results = references(action["object"]), references(action["result"])
    assert {"spec.toml", f"{record.content['model']['name']}.toml", "#setting-seed"} <= set(objects)
    assert {"posterior.nc", "table.csv", "record.json"} <= set(results) and not set(objects) & set(results)
    assert action["endTime"] == record.content["run"]["finished"]
    assert found["./"]["mentions"] == {"@id": "#run"}


def test_simulated_data_are_called_so_and_data_that_stay_out_too(record):
    found, data = entities(crate_text(record)), record.content["data"]
    simulated = record.content["simulated"]
    assert found["./"]["name"].startswith("SIMULATED data: ") == simulated
    assert ("SIMULATED" in found["./"]["description"]) == simulated
    if data["subjects"]:
        entity = found.get(str(data["path"])) or found["#data"]
        assert entity["sha256"] == data["sha256"] and ("SIMULATED" in entity["description"]) == simulated
        assert (entity["@type"] == "File") == (record.folder / str(data["path"])).is_file()


def test_a_parent_is_what_the_crate_is_based_on(designs):
    record = load_record(designs[2])
    parent = {"record": "../a", "name": "a", "digest": "0" * 64, "created": "2026-01-01T00:00:00+00:00",
              "passed": True, "reason": "more patients", "changed": []}
    assert "isBasedOn" not in entities(crate_text(record))["./"]
    from dataclasses import replace

    found = entities(crate_text(replace(record, content={**record.content, "parent": parent})))
    assert found["./"]["isBasedOn"] == {"@id": "#parent"} and found["#parent"]["identifier"] == f"sha256:{'0' * 64}"


def test_an_archive_holds_the_whole_crate_and_the_same_bytes_each_time(designs, tmp_path):
    record = load_record(designs[2])
    for name in ("a.zip", "b.zip"):
        save_crate(record, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "out")
    found = entities((tmp_path / "out" / METADATA).read_text(encoding="utf-8"))
    assert all((tmp_path / "out" / unquote(name)).is_file() for name in references(found["./"]["hasPart"]))
    assert load_record(tmp_path / "out").digest == record.digest


def test_it_lies_beside_the_record_or_is_an_archive(designs, tmp_path, monkeypatch, capsys):
    copy = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    record = load_record(copy)
    save_crate(record, copy / METADATA)
    assert (copy / METADATA).read_text(encoding="utf-8") == crate_text(record)
    for out in (tmp_path / METADATA, copy / "other.json"):
        with pytest.raises(InputError, match="or a .zip for the whole crate"):
            save_crate(record, out)
        assert not out.exists()
    monkeypatch.setattr("sys.argv", ["thymodel", "export", "ro-crate", str(copy)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out == crate_text(record)


def test_a_changed_record_is_no_crate(designs, tmp_path):
    copy = Path(shutil.copytree(designs[2], tmp_path / "copy"))
    with (copy / "table.csv").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(RecordError, match="table.csv"):
        save_crate(load_record(copy), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
