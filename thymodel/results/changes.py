"""What changed inside a file of a record: fingerprints that are kept with it, and sentences made from them.

A digest says that a file is another one. A reviewer asks which key, which row and column, which variable.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pandas as pd

from thymodel.documents.model import shipped_models
from thymodel.documents.spec import FitSpec
from thymodel.documents.toml import digest, flat_keys
from thymodel.errors import Fault, InputError, RecordError
from thymodel.results import resolved
from thymodel.results.array_claims import refuse_claims

CHANGED = "changed since the fit (sha256 differs)"
JSON_CHANGED = "the content does not match its own digest: it was changed"
JSON_SEALED_AGAIN = "changed, and its digest computed anew"
_SHORT = 16  # hexadecimal digits of a fingerprint: chance changes do not collide, and the file stays readable
_SHORT_LINE = 8
_MOST_LINES = 20_000  # of data, beyond which their fingerprints would be longer than the rest of the record
_TOLD = 5  # changes named one by one
_UNSEALED = ("fingerprints", "digest")


# --- what is kept --------------------------------------------------------------------------------------------


def documents_of(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Every TOML document among the files, as values under dotted keys."""
    return {name: plain_keys(flat_keys(data.decode("utf-8-sig"), name)) for name, data in files.items()
            if name.endswith(".toml") and _is_document(data)}


def _is_document(data: bytes) -> bool:
    try:
        flat_keys(data.decode("utf-8-sig"), "")
    except (UnicodeDecodeError, InputError):
        return False
    return True


def plain_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a document as they come back from JSON, which has neither dates nor infinities."""
    return json.loads(json.dumps({key: _plain(value) for key, value in values.items()}))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, str | int | float) else str(value)


def part_digests(content: Mapping[str, Any]) -> dict[str, str]:
    """Of `record.json`: each outermost key but those that seal the rest."""
    return {key: digest(json.dumps(value, sort_keys=True, ensure_ascii=False))[:_SHORT]
            for key, value in content.items() if key not in _UNSEALED}


def array_digests(file: Path | io.BytesIO) -> dict[str, str]:
    """Of a netCDF file: each variable under group/variable, in its own bytes; "unreadable" for one that is damaged.

    Raises:
        RecordError: not netCDF, or one that claims more than it can hold.
    """
    try:
        refuse_claims(file)
        with h5netcdf.File(file, "r") as opened:
            return dict(_arrays("", opened))
    except RecordError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError and RuntimeError for damaged files
        raise RecordError(f"cannot be read as netCDF ({type(error).__name__})") from None


def _arrays(path: str, group) -> Iterator[tuple[str, str]]:
    for name, variable in group.variables.items():
        try:
            values = np.asarray(variable[...])
            text = "\n".join(map(str, values.ravel())).encode() if values.dtype.kind in "OSU" else values.tobytes()
            yield f"{path}{name}", digest(str(values.shape).encode() + text)[:_SHORT]
        except (OSError, KeyError, RuntimeError, ValueError):
            yield f"{path}{name}", "unreadable"
    for name, inner in group.groups.items():
        yield from _arrays(f"{path}{name}/", inner)


def data_fingerprints(data: bytes) -> dict[str, Any] | None:
    """Of a data file: its lines, in order, and its columns; None for a file too long or not of columns."""
    lines = _lines(data)
    rows = _rows(data)
    if rows is None or not 0 < len(lines) <= _MOST_LINES:
        return None
    return {"lines": " ".join(digest(line)[:_SHORT_LINE] for line in lines), "columns": _column_digests(rows)}


def _lines(data: bytes) -> list[bytes]:
    return data.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")


def _rows(data: bytes) -> list[list[str]] | None:
    try:
        return list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error):
        return None


def _column_digests(rows: list[list[str]]) -> dict[str, str]:
    return {name: digest("\n".join(row[k] if k < len(row) else "" for row in rows[1:]))[:_SHORT]
            for k, name in enumerate(rows[0])} if rows else {}


def seal(content: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of a record with what will tell a change: the documents key by key, and fingerprints."""
    kept = content.get("fingerprints") or {}
    arrays = {}
    for name, data in files.items():
        if name.endswith(".nc"):
            try:
                arrays[name] = array_digests(io.BytesIO(data))
            except RecordError:
                continue
    sealed = {**content, "documents": documents_of(files)}
    return {**sealed, "fingerprints": {"parts": part_digests(sealed), "arrays": arrays, "data": kept.get("data")}}


# --- what is told --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A record as it lies there: `written` is its JSON as found, `content` that of the newest schema; `spec` and
    `table` read the documents and summarise the draws, and raise where these are damaged."""

    folder: Path
    written: Mapping[str, Any]
    content: Mapping[str, Any]
    spec: Callable[[], FitSpec]
    table: Callable[[], pd.DataFrame]


def explain(kept: Kept, fault: Fault) -> Fault:
    """The fault of a changed file, with what changed in it as far as the record can tell."""
    path = Path(fault.where)
    tell = {".toml": _told_of_document, ".nc": _told_of_arrays, ".csv": _told_of_table, ".json": _told_of_json}
    if fault.what not in (CHANGED, JSON_CHANGED) or path.suffix not in tell or path.parent != kept.folder:
        return fault
    try:
        told = some(list(tell[path.suffix](kept, path)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # of a record that was forged or damaged
        told = "what changed cannot be told, for record.json does not hold what a record holds"
    return fault._replace(what=f"{fault.what}: {told}") if told else fault


def some(sentences: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = [f"and {len(sentences) - _TOLD} more"] if len(sentences) > _TOLD else []
    return "; ".join([*sentences[:_TOLD], *more])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every key whose values differ, in the order of the keys; None where it is absent."""
    keys = [*old, *(key for key in new if key not in old)]
    return [(key, old.get(key), new.get(key)) for key in keys
            if key not in old or key not in new or old[key] != new[key]]


def difference_text(key: str, old: Any, new: Any) -> str:
    """One difference in words."""
    if old is None or new is None:
        return f"{key}: {'added' if old is None else 'taken away'}, {_shown(new if old is None else old)}"
    return f"{key}: recorded {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def _told_of_document(kept: Kept, path: Path) -> Iterator[str]:
    """Key by key where the record has the document; else by what it comes to."""
    try:
        now = plain_keys(flat_keys(path.read_bytes().decode("utf-8-sig"), path.name))
    except (UnicodeDecodeError, InputError) as error:
        yield f"no TOML document any more ({error})"
        return
    recorded = _document(kept, path.name)
    if recorded is not None:
        found = [difference_text(*each) for each in differences(recorded, now)]
        yield from found or ["no key and no value, but a comment or the layout"]
        return
    found = list(_told_of_resolved(kept))
    yield from found or ["no value that the record of this old schema holds; which key cannot be told"]


def _document(kept: Kept, name: str) -> dict[str, Any] | None:
    """A document as it was at the time of the fit: from the record, or the shipped model of the same digest."""
    kept_document = (kept.content.get("documents") or {}).get(name)
    if kept_document is not None:
        return kept_document
    shipped = shipped_models().get(Path(name).stem)
    if shipped is None or digest(shipped.read_bytes()) != kept.content["files"].get(name):
        return None
    return plain_keys(flat_keys(shipped.read_text(encoding="utf-8"), name))


def _told_of_resolved(kept: Kept) -> Iterator[str]:
    """Priors, values and settings of the record beside what the documents say now."""
    try:
        spec = kept.spec()
    except (InputError, RecordError, OSError) as error:
        yield f"the documents are refused now ({error})"
        return
    content = kept.content
    for title, old, new in (
            ("prior of ", _by_name(content["priors"], "prior"), _by_name(resolved.priors_in_force(spec), "prior")),
            ("source of the prior of ", _by_name(content["priors"], "source"),
             _by_name(resolved.priors_in_force(spec), "source")),
            ("value of ", content.get("fixed") or {}, dict(spec.fixed)),
            ("unit of ", content["units"], resolved.unit_of_quantities(spec)),
            ("", _settings(content), _settings_of(spec, content))):
        yield from (difference_text(f"{title}{key}", a, b) for key, a, b in differences(old, new))
    for name, endpoint in spec.endpoints.items():
        old, new = content["endpoints"].get(name) or {}, plain_keys(resolved.endpoint_content(endpoint))
        yield from (difference_text(f"endpoints.{name}.{key}", a, b) for key, a, b in differences(old, new))
    yield from (f"endpoints.{name}: taken away" for name in content["endpoints"] if name not in spec.endpoints)


def _by_name(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, Any]:
    return {str(row["name"]): row[key] for row in rows}


_SAMPLER = ("seed", "chains", "warmup", "draws", "target_accept")


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    sampler, solver = content["sampler"], content.get("solver") or {}
    asked = sampler.get("overrides") or {}
    return {**{key: content.get(key) for key in ("title", "purpose", "simulated")},
            **{f"solver.{key}": solver.get(key) for key in ("rtol", "atol")},
            **{f"sampler.{key}": sampler.get(key) for key in _SAMPLER if key not in asked},
            "data.sha256": content["data"]["sha256"]}


def _settings_of(spec: FitSpec, content: Mapping[str, Any]) -> dict[str, Any]:
    asked = content["sampler"].get("overrides") or {}
    return {"title": spec.title, "purpose": spec.purpose, "simulated": spec.simulated,
            "solver.rtol": spec.solver.rtol, "solver.atol": spec.solver.atol,
            **{f"sampler.{key}": getattr(spec.sampler, key) for key in _SAMPLER if key not in asked},
            "data.sha256": spec.data_sha256 or content["data"]["sha256"]}


def _told_of_arrays(kept: Kept, path: Path) -> Iterator[str]:
    try:
        now = array_digests(path)
    except RecordError as error:
        yield str(error)
        return
    recorded = ((kept.content.get("fingerprints") or {}).get("arrays") or {}).get(path.name)
    for name, value in now.items():
        if value == "unreadable":
            yield f"variable {name} cannot be read"
    if recorded is not None:
        yield from (f"variable {name} {'added' if a is None else 'taken away' if b is None else 'differs'}"
                    for name, a, b in differences(recorded, now) if b != "unreadable")
    if "unreadable" in now.values():
        return
    moved = list(_told_of_summary(kept))
    yield from moved
    if recorded is None and not moved:
        yield "no number of the table, and of the rest a record of this old schema keeps no fingerprint"
    elif recorded == now:
        yield "no variable, but how the file holds them"


def _told_of_summary(kept: Kept) -> Iterator[str]:
    """Where the draws say another number now than the summary that the record holds."""
    try:
        now = kept.table()
    except (RecordError, KeyError, ValueError):
        return
    for name, row in kept.content.get("summary", {}).items():
        if name not in now.index:
            yield f"{name}: not among the draws any more"
            continue
        columns = [key for key in ("mean", "sd", "median", "q05", "q95")
                   if not _alike(row.get(key), float(now.loc[name, key]))]
        if columns:
            yield f"{name}: " + ", ".join(f"{key} recorded {_number(row[key])}, now {_number(now.loc[name, key])}"
                                          for key in columns)


def _alike(recorded: float | None, now: float) -> bool:
    """To what another processor may round differently; null stands for what JSON cannot hold."""
    if recorded is None:
        return not math.isfinite(now)
    return math.isclose(recorded, now, rel_tol=1e-9, abs_tol=1e-300)


def _number(value: Any) -> str:
    return "not finite" if value is None or not math.isfinite(value) else repr(float(value))


def _told_of_table(kept: Kept, path: Path) -> Iterator[str]:
    """Cells that are neither what the record's summary nor what the draws say."""
    if path.name != "table.csv":
        return
    rows = _rows(path.read_bytes()) or [[]]
    head = rows[0]
    found = {row[0]: dict(zip(head[1:], row[1:], strict=False)) for row in rows[1:] if row}
    summary = kept.content.get("summary", {})
    try:
        draws = kept.table()
    except (RecordError, KeyError, ValueError):
        draws = pd.DataFrame()
    wanted = [str(name) for name in draws.index] or list(summary)
    told = list(_cells_changed(found, wanted, summary, draws))
    yield from told or ["no number, but its order, its line ends or how it is laid out"]


def _cells_changed(found: Mapping[str, Mapping[str, str]], wanted: list[str], summary: Mapping[str, Any],
                   draws: pd.DataFrame) -> Iterator[str]:
    yield from (f"row {name}: taken away" for name in wanted if name not in found)
    yield from (f"row {name}: added" for name in found if name not in wanted)
    for name in wanted:
        for column, text in found.get(name, {}).items():
            held = summary[name].get(column) if name in summary else None
            kept_value = _float(draws.loc[name, column]) if name in draws.index and column in draws else None
            exact = held if held is not None else kept_value
            if exact is None or text == _cell(exact):
                continue
            if held is None and _alike(exact, _float(text) or math.nan):
                continue
            told = "recorded" if held is not None else "recomputed"
            more = f", recomputed {kept_value!r}" if kept_value is not None and kept_value != exact else ""
            yield f"row {name}, column {column}: {told} {exact!r}{more}, in the file {text}"


def _cell(value: float) -> str:
    """As table.csv has it."""
    return "" if math.isnan(value) else repr(float(value))


def _float(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _told_of_json(kept: Kept, path: Path) -> Iterator[str]:
    """Keys whose fingerprint differs; and what its own parts, its files and its documents contradict."""
    if path.name != "record.json":
        return
    yield from _parts_changed(kept)
    found = list(_contradictions(kept))
    yield from found
    parts, now = (kept.written.get("fingerprints") or {}).get("parts"), part_digests(kept.written)
    if not found and parts == now:
        yield "no other key than `digest` or `fingerprints`"
    elif not found and parts is None:
        yield "which key cannot be told of a record of this old schema"


def sealed_again(kept: Kept) -> list[Fault]:
    """Of a record whose every digest holds: whether record.json was changed and its digest computed anew. Its own
    fingerprints then say otherwise, or the documents and the table beside it."""
    try:
        told = [*_parts_changed(kept), *_contradictions(kept)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # forged so that it cannot be read on
        told = ["it does not hold what a record holds"]
    return [Fault(str(kept.folder / "record.json"), f"{JSON_SEALED_AGAIN}: {some(told)}")] if told else []


def _parts_changed(kept: Kept) -> Iterator[str]:
    parts = (kept.written.get("fingerprints") or {}).get("parts")
    if isinstance(parts, Mapping):
        yield from (f"key {key} {'added' if a is None else 'taken away' if b is None else 'differs'}"
                    for key, a, b in differences(parts, part_digests(kept.written)))


def _contradictions(kept: Kept) -> Iterator[str]:
    """Numbers that the record's other files hold too. Those that changed themselves bear no witness."""
    sound = {name for name, wanted in kept.content["files"].items()
             if (kept.folder / name).is_file() and digest((kept.folder / name).read_bytes()) == wanted}
    if "table.csv" in sound:
        yield from told_of_summary(kept.content, (kept.folder / "table.csv").read_bytes())
    for name, keys in (kept.content.get("documents") or {}).items():
        if name in sound:
            now = plain_keys(flat_keys((kept.folder / name).read_bytes().decode("utf-8-sig"), name))
            yield from (f"documents.{name}.{key}: {_shown(a)}, the file has {_shown(b)}"
                        for key, a, b in differences(keys, now))
    for key, name in (("spec", "spec.toml"), ("model", f"{kept.content['model']['name']}.toml")):
        said, wanted = kept.content.get(key, {}).get("sha256"), kept.content["files"].get(name)
        if name in sound and said != wanted:
            yield f"{key}.sha256: {said}, the file has {wanted}"
    if all(name in sound for name in kept.content["files"] if name.endswith(".toml")):
        yield from (f"{text} by the documents" for text in _told_of_resolved(kept))


def told_of_summary(content: Mapping[str, Any], table_csv: bytes) -> Iterator[str]:
    """Where the summary in `record.json` is not what table.csv says; null there stands for what JSON cannot hold."""
    rows = _rows(table_csv) or [[]]
    table = {row[0]: dict(zip(rows[0][1:], row[1:], strict=False)) for row in rows[1:] if row}
    for name, row in content.get("summary", {}).items():
        for column, value in (row.items() if isinstance(row, Mapping) else ()):
            text = table.get(name, {}).get(column)
            number = _float(text or "nan")
            if number is None or (value != number if math.isfinite(number) else value is not None) or text is None:
                yield f"summary.{name}.{column}: {value!r}, table.csv has {text}"


def told_of_data(data: bytes, content: Mapping[str, Any]) -> list[str]:
    """Which line and column of the data differs, where the record has their fingerprints; else what it can say."""
    kept = (content.get("fingerprints") or {}).get("data")
    told = [f"sha256 recorded {content['data']['sha256'][:16]}, found {digest(data)[:16]}"]
    if kept is None:
        return told
    whole = isinstance(kept, dict) and isinstance(kept.get("lines"), str) and isinstance(kept.get("columns"), dict)
    if not whole:
        return [*told, "which line cannot be told, for record.json does not hold what a record holds"]
    recorded, lines, rows = kept["lines"].split(), _lines(data), _rows(data) or []
    if len(recorded) != len(lines):
        told.append(f"{len(recorded)} lines recorded, {len(lines)} found")
        return told
    if all(digest(line)[:_SHORT_LINE] == old for old, line in zip(recorded, lines, strict=True)):
        told.append("no line, but the line ends or what follows the last one")
        return told
    columns = [name for name, _, _ in differences(kept["columns"], _column_digests(rows))]
    among = f", column {' or '.join(columns)}" if columns else ""
    for k, (old, line) in enumerate(zip(recorded, lines, strict=True)):
        if digest(line)[:_SHORT_LINE] != old:
            now = [rows[k][rows[0].index(name)] for name in columns if name in rows[0] and rows[0].index(name)
                   < len(rows[k])] if k < len(rows) and len(columns) == 1 else []
            told.append(f"line {k + 1}{among}" + (f" (now {now[0]})" if now else ""))
    return told
