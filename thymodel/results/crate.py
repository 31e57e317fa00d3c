"""A record as a research object: RO-Crate 1.1 with the profile Process Run Crate, readable without this package.

The files of the record with their sha256, the run as a CreateAction: which software, on which documents and data, with
which results. Nothing is added that the record does not say; of who ran it and under which licence it knows nothing.

Source: RO-Crate Metadata Specification 1.1 (w3id.org/ro/crate/1.1); Process Run Crate 0.5 (w3id.org/ro/wfrun/process).
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError, RecordError
from thymodel.results.record import CURVES, DERIVED, JSON, POSTERIOR, TABLE, FitRecord, find_data, intact, write_file

METADATA = "ro-crate-metadata.json"
_CRATE, _PROFILE = "https://w3id.org/ro/crate/1.1", "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT = [f"{_CRATE}/context", "https://w3id.org/ro/terms/workflow-run/context"]
_FORMATS = {".json": "application/json", ".toml": "application/toml", ".csv": "text/csv", ".nc": "application/x-netcdf"}
_WHAT = {"spec.toml": "the fit spec: what was asked", POSTERIOR: "draws of the posterior (ArviZ schema)",
         DERIVED: "reconstitution times and implied exports, draw by draw", CURVES: "what figures draw",
         TABLE: "summary of every quantity, with diagnostics", JSON: "the fit record"}
_RESULTS = (POSTERIOR, DERIVED, CURVES, TABLE, JSON)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same record gives the same bytes


def crate_text(record: FitRecord) -> str:
    """`ro-crate-metadata.json` of a record.

    Raises:
        RecordError: a file of the record changed.
    """
    intact(record)
    try:
        graph = [_descriptor(), _root(record), *_files(record), _software(record), *_packages(record), _action(record),
                 *_settings(record), *_absent_data(record), *_parent(record), _license(), _profile()]
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(f"{record.folder}: record.json does not hold what a record holds ({error})") from None
    return json.dumps({"@context": _CONTEXT, "@graph": graph}, indent=1, ensure_ascii=False) + "\n"


def save_crate(record: FitRecord, out: Path) -> None:
    """The metadata beside the record's files, or these with the metadata as a .zip.

    Raises:
        RecordError: a file of the record changed.
        InputError: another place than beside the record, which its relative names would not fit; a file that cannot be
            written.
    """
    text = crate_text(record).encode()
    if out.suffix.lower() == ".zip":
        content = _archive(record, text)
    elif out.name == METADATA and out.parent.resolve() == record.folder.resolve():
        content = text
    else:
        raise InputError([Fault(str(out), "names in a crate are relative to the record, where it has to lie",
                                f"--out {record.folder / METADATA}, or a .zip for the whole crate")])
    try:
        write_file(out, content)
    except OSError as error:
        raise InputError([Fault(str(out), f"cannot be written: {error.strerror}")]) from None


def _archive(record: FitRecord, text: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [(METADATA, text), *((path.name, path.read_bytes()) for path in _paths(record))]:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _paths(record: FitRecord) -> list[Path]:
    """The record's own files, and the data where they lie beside them."""
    data = _data_beside(record)
    return [*(record.folder / name for name in record.content["files"]), record.folder / JSON,
            *([data] if data is not None else [])]


def _data_beside(record: FitRecord) -> Path | None:
    path = find_data(record, None)
    return path if path is not None and path.parent.resolve() == record.folder.resolve() else None


def _at(name: str) -> dict[str, str]:
    return {"@id": name}


def _id(path: Path) -> str:
    return quote(path.name)


def _descriptor() -> dict[str, Any]:
    return {"@id": METADATA, "@type": "CreativeWork", "conformsTo": _at(_CRATE), "about": _at("./")}


def _profile() -> dict[str, Any]:
    return {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}


def _license() -> dict[str, Any]:
    return {"@id": "#license", "@type": "CreativeWork", "name": "not stated",
            "description": "The record names no licence: whoever passes it on says how it may be used."}


def _root(record: FitRecord) -> dict[str, Any]:
    content = record.content
    standing = record.reservation or "passed its gates"
    words = [content["purpose"], f"The fit {standing}." if not record.reservation else f"{standing}.",
             *content["verdict"]["sentences"], *content["warnings"]]
    based = {"isBasedOn": _at("#parent")} if content["parent"] else {}
    return {"@id": "./", "@type": "Dataset", "conformsTo": _at(_PROFILE), "name": _title(record),
            "description": "\n".join(words), "datePublished": content["created"], "license": _at("#license"),
            "identifier": f"sha256:{record.digest}", "hasPart": [_at(_id(path)) for path in _paths(record)],
            "mentions": _at("#run"), **based}


def _title(record: FitRecord) -> str:
    return ("SIMULATED data: " if record.content["simulated"] else "") + record.content["title"]


def _files(record: FitRecord) -> list[dict[str, Any]]:
    model, data = f"{record.content['model']['name']}.toml", _data_beside(record)
    found = []
    for path in _paths(record):
        what = _WHAT.get(path.name, "the model document" if path.name == model else "published figures or a prior")
        if data is not None and path == data:
            what = "the study data" + (", SIMULATED" if record.content["simulated"] else "")
        kind = {"encodingFormat": _FORMATS[path.suffix]} if path.suffix in _FORMATS else {}
        content = path.read_bytes()
        found.append({"@id": _id(path), "@type": "File", "name": path.name, "description": what, **kind,
                      "contentSize": str(len(content)), "sha256": digest(content)})
    return found


def _software(record: FitRecord) -> dict[str, Any]:
    environment = record.content["environment"]
    version = environment["packages"].get("thymodel", "not recorded")
    return {"@id": "#thymodel", "@type": "SoftwareApplication", "name": "thymodel",
            "softwareVersion": version, "runtimePlatform": f"Python {environment['python']}",
            "operatingSystem": environment["platform"],
            "softwareRequirements": [_at(f"#{entity['name']}") for entity in _packages(record)]}


def _packages(record: FitRecord) -> list[dict[str, Any]]:
    packages = record.content["environment"]["packages"]
    return [{"@id": f"#{name}", "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
            for name, version in packages.items() if name != "thymodel"]


def _action(record: FitRecord) -> dict[str, Any]:
    content, files = record.content, record.content["files"]
    run, data = content["run"], _data_beside(record)
    objects = [name for name in files if name not in _RESULTS]
    asked = [*map(_at, map(quote, objects)), *([_at(_id(data))] if data is not None else []),
             *(_at(entity["@id"]) for entity in _absent_data(record)),
             *(_at(entity["@id"]) for entity in _settings(record))]
    begun = {"startTime": run["started"]} if run["started"] else {}
    named = {"identifier": f"urn:uuid:{run['id']}"} if run["id"] else {}
    return {"@id": "#run", "@type": "CreateAction", "name": f"Fit: {_title(record)}",
            "description": f"{content['sampler']['name']}. " + " ".join(content["verdict"]["sentences"]),
            **named, **begun, "endTime": run["finished"], "instrument": _at("#thymodel"), "object": asked,
            "result": [_at(quote(name)) for name in _RESULTS if name in files or name == JSON],
            "actionStatus": "http://schema.org/CompletedActionStatus"}


def _settings(record: FitRecord) -> list[dict[str, Any]]:
    """What the draws depend on beside the documents."""
    sampler = record.content["sampler"]
    return [{"@id": f"#setting-{key}", "@type": "PropertyValue", "name": key, "value": sampler[key]}
            for key in ("method", "seed", "chains", "warmup", "draws")]


def _absent_data(record: FitRecord) -> list[dict[str, Any]]:
    """Data that are no part of the crate: their name and digest."""
    data = record.content["data"]
    if not data["subjects"] or _data_beside(record) is not None:
        return []
    return [{"@id": "#data", "@type": "CreativeWork", "name": data["name"], "sha256": data["sha256"],
             "description": "the study data, no part of this crate" + (", SIMULATED" if record.content["simulated"]
                                                                        else "")}]


def _parent(record: FitRecord) -> list[dict[str, Any]]:
    """The record that this one goes on from."""
    parent = record.content["parent"]
    if parent is None:
        return []
    return [{"@id": "#parent", "@type": "CreativeWork", "name": parent["name"], "description": parent["reason"],
             "identifier": f"sha256:{parent['digest']}", "dateCreated": parent["created"]}]
