"""Where a fit comes from: the record that its spec names as parent, and everything that changed since."""

from collections.abc import Iterator, Mapping
from typing import Any

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec
from thymodel.documents.toml import flat_keys, read_text
from thymodel.errors import Fault, InputError, RecordError
from thymodel.results import changes, resolved
from thymodel.results.record import FitRecord, load_record, untouched

_OWN = ("parent.", "data.sha256")  # the lineage itself, and what stands under `data`


def load_parent(spec: FitSpec) -> FitRecord | None:
    """The record that a spec names as its parent; one of a failed fit may be one.

    Raises:
        InputError: no record there, or one whose files changed.
    """
    if spec.parent is None:
        return None
    where = f"{spec.path}: parent.record"
    try:
        record = load_record(spec.path.parent / spec.parent.record)
        untouched(record)
    except InputError as error:
        raise InputError([Fault(where, str(error))]) from None
    except RecordError as error:
        raise InputError([Fault(where, str(error), "name a record that verifies")]) from None
    return record


def as_content(parent: FitRecord | None, spec: FitSpec, data: StudyData,
               options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a record says of its parent: which it was, why, and each thing that is not as it was there."""
    if parent is None or spec.parent is None:
        return None
    content = parent.content
    return {"record": spec.parent.record, "name": content["name"], "digest": parent.digest,
            "created": content["created"], "passed": parent.passed, "reason": spec.parent.reason,
            "changed": [{"in": where, "key": key, "from": old, "to": new}
                        for where, key, old, new in _changed(parent, spec, data, options)]}


def _changed(parent: FitRecord, spec: FitSpec, data: StudyData,
             options: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """(where, key, in the parent, in this fit)."""
    content = parent.content
    if content["data"]["sha256"] != data.digest:
        yield "data", "sha256", content["data"]["sha256"], data.digest
    old_files = {table["file"]: table["sha256"] for table in content["published"]}
    new_files = {table.path.name: table.digest for table in spec.published}
    yield from (("published", *each) for each in changes.differences(old_files, new_files))
    if content["model"]["sha256"] != spec.model.digest:
        yield "model", "sha256", content["model"]["sha256"], spec.model.digest
        old = read_text(parent.folder / f"{content['model']['name']}.toml")
        yield from (("model", *each) for each in _keys(old, spec.model.text))
    old = read_text(parent.folder / "spec.toml")
    yield from (("spec", *each) for each in _keys(old, spec.text) if not each[0].startswith(_OWN))
    for key in ("prior", "source"):
        old_priors = {row["name"]: row[key] for row in content["priors"]}
        new_priors = {row["name"]: row[key] for row in resolved.priors_in_force(spec)}
        label = "" if key == "prior" else "source of "
        yield from (("prior", f"{label}{name}", a, b)
                    for name, a, b in changes.differences(old_priors, new_priors))
    yield from (("fixed", *each) for each in changes.differences(content["fixed"], dict(spec.fixed)))
    yield from (("options", *each) for each in changes.differences(_as_asked(content["run"]["options"]),
                                                                   _as_asked(options)))


def _keys(old: str, new: str) -> list[tuple[str, Any, Any]]:
    return changes.differences(changes.plain_keys(flat_keys(old, "")), changes.plain_keys(flat_keys(new, "")))


def _as_asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that change what is computed; where files lie, and whether a run was continued, do not."""
    kept = ("method", "chains", "warmup", "draws", "seed")
    return {key: options[key] for key in kept if options.get(key) is not None}
