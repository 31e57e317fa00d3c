"""The analysis plan of a fit: hashed before anything is sampled, kept in the record, compared when it is verified."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thymodel.documents import analysis_plan
from thymodel.documents.analysis_plan import Plan, asked_quantities, load_plan
from thymodel.documents.expressions import closest
from thymodel.documents.spec import FitSpec
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError
from thymodel.inference.population import layout

FILE = analysis_plan.FILE
NONE = "no plan.toml beside the spec: nothing was fixed in writing before this fit"
UNKNOWN = "not known: the record was made before fits looked for a plan"
_STARTED = "plan.json"  # in the checkpoint: what was hashed when the sampling began


@dataclass(frozen=True)
class FixedPlan:
    """A plan as it was when its fit began; `hashed_at` in ISO 8601, UTC."""

    plan: Plan
    hashed_at: str


def find_plan(spec: FitSpec) -> Plan | None:
    """The plan beside a spec, checked with it; None where there is none.

    Raises:
        InputError: every fault of the plan.
    """
    path = spec.path.parent / FILE
    if not path.exists():
        return None
    plan = load_plan(path)
    if faults := list(unknown_names(plan, spec)):
        raise InputError(faults)
    return plan


def fix_plan(spec: FitSpec, folder: Path, checkpoint: Path) -> FixedPlan | None:
    """The plan beside a spec, hashed now; of a fit that goes on from a checkpoint, it must be the one it began with.

    Raises:
        InputError: every fault of the plan; another plan in `folder`; a plan that changed, came or went since the
            sampling began.
    """
    plan, note = find_plan(spec), checkpoint / _STARTED
    sampled = any(checkpoint.rglob("state.npz"))
    begun = _begun(note) if sampled and note.is_file() else None
    if sampled and (begun or {}).get("sha256") != (plan and plan.digest):
        what = ("was changed after the sampling began" if plan and begun else
                "was not there when the sampling began" if plan else "that was there when the sampling began is gone")
        raise InputError([Fault(str(spec.path.parent / FILE), f"the plan {what}",
                                "bring back what was there, or fit anew without --resume")])
    if plan is None:
        return None
    copy = folder / FILE
    if copy.exists() and copy.read_bytes() != plan.content:
        raise InputError([Fault(str(copy), f"another {FILE} is there already", "use another --out")])
    if begun is not None:
        return FixedPlan(plan, str(begun["hashed_at"]))
    fixed = FixedPlan(plan, datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        checkpoint.mkdir(parents=True, exist_ok=True)
        unfinished = note.with_suffix(".partial")  # a torn note would read as another plan
        unfinished.write_text(json.dumps({"sha256": plan.digest, "hashed_at": fixed.hashed_at}), encoding="utf-8")
        os.replace(unfinished, note)
    except OSError as error:
        raise InputError([Fault(str(note), f"cannot be written: {error.strerror}",
                                "make room or choose another --out")]) from None
    return fixed


def _begun(note: Path) -> dict[str, str]:
    """What was hashed when the sampling began; a damaged note is of no plan at all."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return {key: str(found[key]) for key in ("sha256", "hashed_at")}
    except (ValueError, TypeError, KeyError):
        return {"sha256": "", "hashed_at": ""}


def plan_files(fixed: FixedPlan | None) -> dict[str, bytes]:
    """What the record's folder holds of a plan."""
    return {} if fixed is None else {FILE: fixed.plan.content}


def plan_content(fixed: FixedPlan | None, folder: Path) -> dict[str, Any]:
    """What record.json says of a plan; `path` leads from the record to where the plan was found."""
    if fixed is None:
        return {"sha256": None, "note": NONE}
    path = os.path.relpath(fixed.plan.path.resolve(), folder.resolve())
    return {"sha256": fixed.plan.digest, "hashed_at": fixed.hashed_at, "title": fixed.plan.document.title,
            "path": Path(path).as_posix()}


def plan_sentence(content: Mapping[str, Any]) -> str:
    """What a record's JSON says of its plan, in words."""
    if "plan" not in content:
        return UNKNOWN
    if not (digest_ := planned_digest(content)):
        return NONE
    return f"sha256 {digest_[:16]}, hashed on {content['plan']['hashed_at']}, before the sampling"


def planned_digest(content: Mapping[str, Any]) -> str:
    """The sha256 of a record's plan; empty where it has none."""
    found = content.get("plan")
    return str(found.get("sha256") or "") if isinstance(found, dict) else ""


def plan_faults(folder: Path, content: Mapping[str, Any]) -> list[Fault]:
    """Where record.json says one thing of the plan and the list of its files another."""
    wanted, listed = planned_digest(content), content["files"].get(FILE)
    if (wanted or None) == listed:
        return []
    return [Fault(str(folder / "record.json"), f"plan.sha256 is not that of {FILE} among its files")]


def plan_notes(folder: Path, content: Mapping[str, Any]) -> list[str]:
    """Of a record with a plan: whether the plan that the fit found is still the same, where it lies elsewhere."""
    wanted = planned_digest(content)
    if not wanted:
        late = [f"{FILE} came here after the fit, which did not have it"] if (folder / FILE).exists() else []
        return late or (["no analysis plan"] if "plan" in content else [])
    path = folder / str(content["plan"].get("path") or FILE)
    if path.is_file() and digest(path.read_bytes()) != wanted:
        return [f"the plan at {path} was changed since the fit; the record keeps the one that was hashed"]
    return ["plan hashed before the fit"]


def record_plan(folder: Path, content: Mapping[str, Any]) -> Plan | None:
    """The plan that a record keeps; None where it has none.

    Raises:
        InputError: the copy is not a plan that this version reads.
    """
    return load_plan(folder / FILE) if planned_digest(content) else None


# --- names ---------------------------------------------------------------------------------------------------


def matching(name: str, names: Iterable[str]) -> list[str]:
    """Quantities that a name of the plan stands for: itself, or without [arm] those of all arms."""
    return [other for other in names if other == name or "[" not in name and other.split("[")[0] == name]


def unknown_names(plan: Plan, spec: FitSpec) -> Iterable[Fault]:
    """What neither the plan nor the spec knows, so that no fit could answer it."""
    where, document = str(plan.path), plan.document
    endpoints = {**spec.endpoints, **(document.fit.endpoints or {})}
    measured = {**spec.likelihood, **(document.fit.observables or {})}
    known = {*layout(spec, ()).population, *spec.derived, *(document.fit.estimate or []), *document.fit.priors}
    for key, name in {f"fit.estimate.{name}": name for name in document.fit.estimate or []}.items():
        if name not in spec.model.parameters:
            yield Fault(f"{where}: {key}", f"the model has no parameter '{name}'"
                        f"{closest(name, spec.model.parameters)}")
    for name, criterion in document.criteria.items():
        for key, asked in asked_quantities(criterion).items():
            yield from (Fault(f"{where}: criteria.{name}.{key}", f"no quantity '{one}' in plan or spec"
                              f"{closest(one, _examples(known, endpoints, spec))}",
                              "name it as table.csv does, for example rte4_2.by_100[dose_9]")
                        for one in asked if not _is_known(one, known, endpoints, spec))
        if criterion.kind == "predictive" and criterion.of not in {**endpoints, **measured}:
            yield Fault(f"{where}: criteria.{name}.of", f"no endpoint or measured observable '{criterion.of}'"
                        f"{closest(criterion.of, {**endpoints, **measured})}")


def _is_known(name: str, known: Iterable[str], endpoints: Mapping[str, Any], spec: FitSpec) -> bool:
    first, dot, kind = name.split("[")[0].partition(".")
    if not dot:
        return first in known
    if first in endpoints:
        return kind in _kinds(endpoints[first])
    return first in spec.model.observables and "_over_" in kind  # implied export


def _kinds(endpoint: Any) -> list[str]:
    """What a record holds of an endpoint, as far as its definition tells."""
    days = [f"by_{day:g}" for day in endpoint.by or []]
    return ["median", "never", "restricted_mean", "spread_q05", "spread_q50", "spread_q95", *days]


def _examples(known: Iterable[str], endpoints: Mapping[str, Any], spec: FitSpec) -> list[str]:
    return [*known, *(f"{name}.{kind}" for name, item in endpoints.items() for kind in _kinds(item))]
