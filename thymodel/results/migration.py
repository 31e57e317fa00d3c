"""Schemas of `record.json`: the published ones, and how a record of an older schema is read as one of the newest.

A migration happens in memory. What was written stays as it is, and its digest is checked on that.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thymodel.errors import Fault, InputError
from thymodel.inference.approximation import NUTS
from thymodel.inference.diagnostics import INTERVAL, INTERVAL_NAME
from thymodel.results.cautions import reviewer_warnings

SCHEMA = 2
_SCHEMAS = Path(__file__).with_name("schemas")
CONVENTIONS = {
    "interval": {"kind": "equal-tailed", "level": round(INTERVAL[1] - INTERVAL[0], 12), "columns": ["q05", "q95"],
                 "name": INTERVAL_NAME},
    "uncertainty": "of parameters; the spread between subjects stands in rows of its own (omega_, spread_)",
    "diagnostics": "R-hat rank-normalised and split, ESS bulk and tail: Vehtari et al. 2021, Bayesian Anal 16:667",
    "digest": "sha256, hexadecimal; of this file over its JSON with sorted keys and without the key `digest`",
    "time": "days of the model's clock; times of endpoints count from their clock_start"}


def record_schema(version: int = SCHEMA) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that records of a schema version meet."""
    return json.loads((_SCHEMAS / f"record-{version}.json").read_text(encoding="utf-8"))


def migrate(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content of a record in the newest schema.

    Args:
        content: of `record.json`, as written.
        where: the file, for faults.

    Raises:
        InputError: a schema that this version does not know.
    """
    found = content.get("schema")
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InputError([Fault(where, f"schema {found!r} is none of a record",
                                f"this version reads schemas 1 to {SCHEMA}")])
    if found > SCHEMA:
        raise InputError([Fault(where, f"schema {found}, written by a newer version; this one reads schemas 1 to "
                                f"{SCHEMA}", "update thymodel")])
    return dict(content) if found == SCHEMA else _from_first(content)


def _from_first(content: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 kept neither run nor lineage, and no traces by which a change could be told inside a file."""
    sampler = content.get("sampler")
    known = sampler if isinstance(sampler, dict) else {}
    packages = _table(_table(content.get("environment")).get("packages"))
    added = {
        "published": content.get("published") or [], "prior_from": content.get("prior_from"),
        "sampler": {"method": NUTS, **known} if isinstance(sampler, dict) else sampler,
        "run": {"id": None, "started": None, "finished": content.get("created"),
                "options": {"method": known.get("method", NUTS), **_table(known.get("overrides"))},
                "written_by": f"thymodel {packages['thymodel']}" if "thymodel" in packages else "thymodel"},
        "parent": None, "conventions": CONVENTIONS, "documents": None, "fingerprints": None}
    migrated = {**content, **added, "schema": SCHEMA}
    try:
        migrated["warnings"] = reviewer_warnings(migrated)
    except (AttributeError, KeyError, TypeError):  # a damaged record: its faults are told by who loads it
        migrated["warnings"] = []
    return migrated


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
