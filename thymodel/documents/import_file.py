"""An imported data set on disk: the CSV that a spec reads, and beside it an account of every row of the source."""

import csv
import io
import json
from pathlib import Path

from thymodel.documents.event_import import COLUMNS, EventRow, Imported
from thymodel.documents.toml import digest, document_text
from thymodel.errors import Fault, InputError


def csv_text(found: Imported) -> str:
    """The events as comma-separated text; columns that no row fills are left out."""
    rows = [_cells(row) for row in found.rows]
    always = ("ID", "TIME", "EVID", "DVID", "DV", "CENS", "MDV")
    names = [name for name in COLUMNS if name in always or any(row[name] != "." for row in rows)]
    names = [name for name in names if name != "DVID" or any(row[name] != "." for row in rows)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *found.others])
    for row, event in zip(rows, found.rows, strict=True):
        writer.writerow([*(row[name] for name in names), *(event.others.get(name, ".") for name in found.others)])
    return out.getvalue()


def _cells(row: EventRow) -> dict[str, str]:
    dose, measured = row.evid == 1, row.evid == 0
    cells = {"ID": row.id, "TIME": f"{row.time:.12g}", "EVID": str(row.evid), "CMT": row.name if dose else "",
             "AMT": row.amount, "RATE": row.rate, "DVID": row.name if measured else "", "DV": row.value,
             "CENS": str(row.censored) if measured else "", "LIMIT": row.limit,
             "MDV": str(int(bool(row.set_aside))) if measured else ""}
    return {name: text or "." for name, text in cells.items()}


def account_text(found: Imported, csv_: str, map_text: str | None) -> str:
    """What became of every row, as JSON: source and map with their sha256, guesses, dropped and changed rows."""
    content = {
        "source": {"file": found.source, "sha256": found.source_sha256},
        "map": None if map_text is None else {"sha256": digest(map_text), "text": map_text},
        "data_sha256": digest(csv_),
        "disposition": found.disposition,
        "notes": list(found.notes),
        "lines_without_data": [{"row": row, "what": what} for row, what in found.passed_over],
        "rows_not_simply_kept": [{"row": row, "what": what} for row, what in found.fates.items() if what != "kept"],
        "set_aside": [{"row": row.source, "why": row.set_aside} for row in found.rows if row.set_aside],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def data_table(found: Imported, csv_: str, name: str) -> str:
    """The [data] table of a spec that reads the result, as far as units are known."""
    names = dict.fromkeys(["TIME", *(row.name for row in found.rows if row.name)])
    units = {item: found.units.get(item, "?") for item in names}
    table = {"data": {"file": name, "sha256": digest(csv_),
                      "where": f"imported from {found.source}, sha256 {found.source_sha256}", "units": units}}
    return document_text(table)


def account_path(path: Path) -> Path:
    """Where the account of an imported file stands: cohort.csv -> cohort.import.json."""
    return path.with_suffix(".import.json")


def refuse_overwriting(out: Path, sources: list[Path]) -> None:
    """Raises InputError where a file to be written is one that is read."""
    for path in sources:
        if any(target.exists() and path.exists() and target.samefile(path) for target in (out, account_path(out))):
            raise InputError([Fault(f"--out {out}", "is the file that is read", "give another name")])
