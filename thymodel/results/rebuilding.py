"""What a bundle holds of one record that can be computed again: `bundle` writes it, its own rebuild.py compares.

One function makes all of it from the record, the data and the scenarios in the bundle, so that what is compared is what
was written. Nothing here looks outside the folder that it is given.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thymodel.documents.toml import read_text
from thymodel.errors import Fault, InputError, ThymodelError
from thymodel.results import exports, extrapolation, tables
from thymodel.results.assessment import judge
from thymodel.results.check_page import question_rows
from thymodel.results.checks import check_fit
from thymodel.results.criteria import Evidence
from thymodel.results.datasets import data_sets
from thymodel.results.describing import describe
from thymodel.results.planning import planned_digest
from thymodel.results.record import FitRecord, load_record, quantities_table, verify
from thymodel.results.scenarios import run_scenario
from thymodel.results.transport import DataSet, ascii_text, csv_bytes, differences

RECORD, DATA, SETS, PROGRAMS, OUTPUTS = "record", "data", "datasets", "programs", "outputs"
SCENARIOS = f"{PROGRAMS}/scenarios"


def recompute(place: Path) -> Iterator[tuple[str, bytes, DataSet | None]]:
    """Path within `place`, content, and the data set where it is one, in the order of the steps of the analysis.

    Args:
        place: one record's folder of a bundle, with `record`, `data` where they may travel, `programs/scenarios`.

    Raises:
        RecordError: the record's files were changed.
        InputError: a document of it cannot be read.
        SolveError: a course could not be computed.
    """
    record, data = load_record(place / RECORD), data_of(place)
    spec, content = record.spec, record.content
    yield f"{PROGRAMS}/model.txt", ascii_text(spec.model.text).encode(), None
    yield f"{PROGRAMS}/equations.md", describe(spec.model, "md").encode(), None
    yield f"{PROGRAMS}/equations.tex", describe(spec.model, "latex").encode(), None
    yield f"{PROGRAMS}/equations.html", describe(spec.model, "html").encode(), None
    yield f"{OUTPUTS}/1-disposition.csv", _rows(_disposition(content["data"]["disposition"])), None
    yield f"{OUTPUTS}/1-exclusions.csv", _rows(content["data"]["exclusions"], ("row", "id", "time", "reason")), None
    yield f"{OUTPUTS}/2-priors.csv", _rows(content["priors"]), None
    table = quantities_table(record.folder)
    table.index.name = "name"
    yield f"{OUTPUTS}/3-quantities.csv", table.to_csv(float_format=lambda value: repr(float(value))).encode(), None
    yield f"{OUTPUTS}/3-verdict.txt", _verdict(record).encode(), None
    yield f"{OUTPUTS}/3-parameters.csv", _rows(tables.parameter_rows(record)), None
    yield f"{OUTPUTS}/4-verify.txt", _verified(record, data).encode(), None
    yield f"{OUTPUTS}/5-endpoints.csv", _rows(tables.reconstitution_rows(record)), None
    implied = content.get("implied_export") or {"known": False, "note": exports.ABSENT, "rows": [], "warnings": []}
    yield f"{OUTPUTS}/5-implied-export.csv", _rows(tables.export_rows(implied)), None
    verdicts = extrapolation.verdict_rows(extrapolation.judge_fit(record), implied)
    yield f"{OUTPUTS}/5-extrapolation.csv", _rows(verdicts), None
    for one in data_sets(record, data, table):
        yield f"{SETS}/{one.name.lower()}.csv", csv_bytes(one), one
    for path in scenarios_of(place):
        yield f"{OUTPUTS}/6-scenario-{path.stem}.csv", scenario_csv(record, path), None
    for name, rows in _judged(record, data):
        yield f"{OUTPUTS}/7-{name}.csv", _rows(rows), None


def _judged(record: FitRecord, data: Path | None) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Predictive checks, and the record beside its plan. Leave-one-out scores take too long to be made here: a
    criterion that asks for them is not evaluated, and says so."""
    checks = check_fit(record, data) if data is not None and not record.reservation else None
    if checks is not None:
        yield "predictive-checks", question_rows(checks)
    for table in judge(Evidence(record, checks.content if checks is not None else None)):
        if table.key in _ALWAYS or table.key in _OF_A_PLAN and planned_digest(record.content):
            yield table.key.replace("_", "-"), [dict(zip(table.columns, row, strict=True)) for row in table.rows] or [
                dict.fromkeys(table.columns, "none")]


_OF_A_PLAN, _ALWAYS = ("m15_assessment", "criteria", "deviations"), ("assumptions", "assumed_numbers", "credibility")


def data_of(place: Path) -> Path | None:
    """The study data in a bundle, where they are in it."""
    return next(iter(sorted((place / DATA).glob("*"))), None)


def scenarios_of(place: Path) -> list[Path]:
    return sorted((place / SCENARIOS).glob("*.toml"))


def scenario_csv(record: FitRecord, path: Path) -> bytes:
    """The table of a scenario, as `thymodel scenario --csv` writes it."""
    table = run_scenario(record, path).table
    text = table.to_csv(index=False, float_format=lambda value: repr(float(value)), quoting=csv.QUOTE_MINIMAL)
    return text.encode()


def _disposition(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm; counts of each observable in columns of their own."""
    names = dict.fromkeys(name for row in rows for name in row["observations"])
    return [{"arm": row["arm"] or "all", "subjects": row["subjects"], "doses": row["doses"],
             "excluded rows": row["excluded"]}
            | {f"{name}{what}": counts.get(name, 0) for name in names for what, counts in (
                (" measurements", row["observations"]), (", of these beyond a limit", row["censored"]))}
            for row in rows]


def _verdict(record: FitRecord) -> str:
    content = record.content
    lines = ["SIMULATED data"] if content["simulated"] else []
    lines += [content["title"], f"record {record.digest}", f"sampler: {content['sampler'].get('name', record.method)}",
              record.reservation or "passed its gates", *content["verdict"]["sentences"]]
    return "\n".join(lines) + "\n"


def _verified(record: FitRecord, data: Path | None) -> str:
    """What `thymodel verify` says, without the place."""
    result = verify(record, data)
    lines = [f"{'DOES NOT VERIFY' if result.faults else 'verified'} ({'; '.join(result.notes)})"]
    return "\n".join([*lines, *(f"{Path(fault.where).name}: {fault.what}" for fault in result.faults)]) + "\n"


def _rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    """Rows as CSV; a column for every key that occurs."""
    names = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    out = io.StringIO()
    writer = csv.DictWriter(out, names or ["none"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


# --- comparing -----------------------------------------------------------------------------------------------


def compare(place: Path) -> Iterator[tuple[str, str]]:
    """Path of each file that could be computed again, and how it differs from the one that is there: empty if not at
    all, to the last byte. A transport file is compared with the CSV of the same data set."""
    seen = set()
    try:
        for name, content, data in recompute(place):
            seen.add(name)
            yield name, _difference(place / name, content)
            if data is not None:
                transport = name.removesuffix(".csv") + ".xpt"
                seen.add(transport)
                found = differences(place / name, place / transport)
                yield transport, "" if not found else f"not what the CSV says: {'; '.join(found[:3])}"
    except ThymodelError as error:
        yield RECORD, str(error)
        return
    for folder in (SETS, OUTPUTS):
        for path in sorted((place / folder).glob("*")):
            if (name := path.relative_to(place).as_posix()) not in seen:
                yield name, "nothing that is computed"


def _difference(path: Path, content: bytes) -> str:
    """Empty where the file holds just that; else the first place and, of numbers, how much they differ at most."""
    if not path.is_file():
        return "absent"
    found = path.read_bytes()
    if found == content:
        return ""
    if path.suffix != ".csv":
        lines = zip(found.splitlines(), content.splitlines(), strict=False)
        first = next((k for k, (old, new) in enumerate(lines, 1) if old != new), "the end")
        return f"differs, first in line {first}"
    return _table_difference(found, content)


def _table_difference(found: bytes, content: bytes) -> str:
    try:
        old, new = (pd.read_csv(io.BytesIO(one), dtype=str, keep_default_na=False) for one in (found, content))
    except (ValueError, UnicodeDecodeError):
        return "differs, and is no table any more"
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        return f"differs: {len(old)} rows, {len(new)} computed; or other columns"
    places = [(row, name) for name in old for row in (old[name] != new[name]).to_numpy().nonzero()[0]]
    if not places:
        return "differs in its line ends or quotation marks"
    row, name = min(places)
    sizes = [_relative(old.at[k, key], new.at[k, key]) for k, key in places]
    return (f"differs in {len(places)} cells, first in row {row + 1}, column {name}: {old.at[row, name]!r} is there, "
            f"{new.at[row, name]!r} computed" + (f"; by at most {max(sizes):.1g} of a value"
                                                 if all(size < float("inf") for size in sizes) else ""))


def _relative(old: str, new: str) -> float:
    try:
        a, b = float(old), float(new)
    except ValueError:
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def refuse_unreadable(record: FitRecord, path: Path) -> None:
    """Whether a scenario can be run where it lies.

    Raises:
        InputError: every fault of it.
    """
    from thymodel.documents.spec import load_scenario_spec

    read_text(path)
    scenario = load_scenario_spec(path, record.spec.model, record.spec.endpoints)
    if not scenario.endpoints:
        raise InputError([Fault(path.name, "no endpoint here, and none in the fit")])
    if scenario.ensemble is not None:
        raise InputError([Fault(path.name, "an ensemble names other records by their place, which is another here")])
