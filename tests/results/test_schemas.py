"""Every record meets the published schema of its version; an older one is read as one of the newest."""

import json
from pathlib import Path

import jsonschema
import pytest

from thymodel.errors import InputError
from thymodel.results import record as records
from thymodel.results.migration import SCHEMA, migrate, record_schema
from thymodel.results.record import load_record

pytestmark = pytest.mark.requirement("REQ-REC-06")

FITS = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "fits").glob("*/record.json"))


def faults(content, version: int) -> list[str]:
    validator = jsonschema.Draft202012Validator(record_schema(version))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_schema_is_one(version):
    schema = record_schema(version)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_fresh_record_meets_the_newest_schema_and_describes_no_key_that_the_schema_does_not(tiny_fit):
    written = json.loads((tiny_fit.folder / "record.json").read_text(encoding="utf-8"))
    assert written["schema"] == SCHEMA and faults(written, SCHEMA) == []
    assert set(written) <= set(record_schema()["properties"])


@pytest.mark.parametrize("folder", FITS, ids=lambda folder: folder.name)
def test_a_committed_record_meets_its_schema_as_written_and_the_newest_as_read(folder):
    record = load_record(folder)
    assert faults(record.written, record.written["schema"]) == []
    assert record.content["schema"] == SCHEMA and faults(record.content, SCHEMA) == []


def test_a_record_of_the_first_schema_keeps_all_it_had_and_its_digest(designs):
    old = load_record(designs[1])
    assert old.written["schema"] == 1 and faults(old.written, 1) == []
    assert records._check_digests(old) == []
    kept = [key for key in old.written if key not in ("schema", "sampler")]
    assert all(old.content[key] == old.written[key] for key in kept)
    assert old.content["run"]["id"] is None and old.content["run"]["finished"] == old.written["created"]
    assert old.content["parent"] is None and old.content["fingerprints"] is None
    assert any("SIMULATED" in warning for warning in old.content["warnings"])


@pytest.mark.parametrize("path, value", [
    ("digest", "abc"), ("run", None), ("warnings", "none"), ("conventions.interval.kind", "highest density"),
    ("files.posterior.nc", 3), ("sampler.method", "guess"), ("created", "yesterday")])
def test_a_record_that_breaks_the_schema_is_seen_by_it(designs, path, value):
    content = json.loads((designs[2] / "record.json").read_text(encoding="utf-8"))
    first, _, last = path.partition(".")
    where, key = (content, first) if not last else (content[first], last)
    if path == "conventions.interval.kind":
        where, key = content["conventions"]["interval"], "kind"
    where[key] = value
    assert faults(content, 2)


@pytest.mark.parametrize("schema, words", [
    (3, "schema 3, written by a newer version"), (99, "update thymodel"), (0, "is none of a record"),
    (True, "is none of a record"), ("2", "is none of a record"), (None, "is none of a record")])
def test_an_unknown_schema_is_refused_in_one_sentence(tmp_path, schema, words):
    (tmp_path / "record.json").write_text(json.dumps({"schema": schema}), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        load_record(tmp_path)
    assert len(caught.value.faults) == 1 and caught.value.faults[0].hint


@pytest.mark.parametrize("content", [{}, {"sampler": 3}, {"environment": []}, {"priors": [1], "data": "x"},
                                     {"sampler": {"overrides": 1}, "environment": {"packages": "x"}}])
def test_a_damaged_record_of_the_first_schema_is_migrated_without_a_traceback(content):
    assert migrate({"schema": 1, **content}, "record.json")["schema"] == SCHEMA


def test_warnings_tell_what_a_reviewer_must_see(designs):
    content = load_record(designs[2]).content
    told = "\n".join(content["warnings"])
    assert "the data are SIMULATED" in told and "priors have a source that nobody verified: f_th" in told
    assert f"solves failed inside the sampler in warm-up: {content['sampler']['warmup_failed_solves']}" in told


def test_the_interval_names_its_kind_and_level(designs):
    interval = load_record(designs[2]).content["conventions"]["interval"]
    assert (interval["kind"], interval["level"], interval["columns"]) == ("equal-tailed", 0.9, ["q05", "q95"])
