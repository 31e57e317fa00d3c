"""The run log: one line a fit, appended and never rewritten, each sealed by the digest of the line before.

`log.jsonl` lies in the directory that holds the directories of records. What ended a fit is in it too when no record
was left: gates that were not met, an interruption, a refusal. Nothing of a patient is in it.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import thymodel
from thymodel.documents.limits import read_bytes
from thymodel.documents.spec import FitSpec
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError, RecordError, ThymodelError
from thymodel.inference.approximation import NUTS
from thymodel.results.record import JSON, FitRecord, holds_record, load_record, untouched
from thymodel.results.titled_table import TitledTable

LOG = "log.jsonl"
FIRST = "0" * 64  # what the first line has in place of the digest of the line before
_LONGEST, _MOST = 50_000_000, 20_000  # bytes and lines of a log that is read
_TOLD = 6  # changes against the parent that a line names


# --- writing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A fit that has begun. `log` is None where the directory of the record's directory may not be written to."""

    id: str
    started: str
    folder: Path
    spec: FitSpec
    options: Mapping[str, Any]
    log: Path | None

    @property
    def content(self) -> dict[str, Any]:
        """What the record says of it."""
        return {"id": self.id, "started": self.started, "finished": now(), "options": dict(self.options),
                "written_by": f"thymodel {thymodel.__version__}"}

    @property
    def warnings(self) -> list[str]:
        return [] if self.log is not None else ["no line in a run log: its directory may not be written to"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(folder: Path, spec: FitSpec, options: Mapping[str, Any]) -> Run:
    """A run whose record is to be `folder`; nothing is written yet.

    Args:
        options: what was asked beside the spec; those that were not are left out.
    """
    log = folder.absolute().parent / LOG
    place = log if log.exists() else next(path for path in log.parents if path.exists())
    writable = os.access(place, os.W_OK) and not log.is_dir()
    return Run(str(uuid.uuid4()), now(), folder.absolute(), spec,
               {key: value for key, value in options.items() if value not in (None, False)}, log if writable else None)


def logged(run: Run, work: Callable[[], FitRecord]) -> FitRecord:
    """Does the work; whatever ends it, the log says so."""
    try:
        record = work()
    except BaseException as error:
        with _quiet():
            _write(run, {"outcome": _outcome(error)})
        raise
    try:
        _write(run, _of_record(record))
    except OSError as error:
        raise InputError([Fault(str(run.log), f"the record is whole, but its line was not written: {error.strerror}",
                                "make room; `thymodel log` will say that no line knows the record")]) from None
    return record


@contextmanager
def _quiet() -> Iterator[None]:
    """What ended the fit matters more than that the log could not say so."""
    try:
        yield
    except OSError:
        pass


def _outcome(error: BaseException) -> str:
    """In words without names of files or values, which may be of patients."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    if isinstance(error, InputError):
        count = len(error.faults)
        return f"refused: {count} fault{'s' if count > 1 else ''} in the input"
    return f"refused: {type(error).__name__}" if isinstance(error, ThymodelError) else f"broke: {type(error).__name__}"


def _write(run: Run, ending: Mapping[str, Any]) -> None:
    if run.log is None:
        return
    spec = run.spec
    line = {"run": run.id, "started": run.started, "finished": now(), "directory": run.folder.name, **ending}
    asked = {"title": spec.title, "spec": {"sha256": spec.digest},
             "model": {"name": spec.model.name, "sha256": spec.model.digest},
             "data": {"name": Path(spec.data_file).name, "sha256": spec.data_sha256},
             "simulated": spec.simulated, "seed": spec.sampler.seed, "options": dict(run.options),
             "written_by": f"thymodel {thymodel.__version__}"}
    append(run.log, {**line, **{key: value for key, value in asked.items() if key not in line}})


def _of_record(record: FitRecord) -> dict[str, Any]:
    """What the run table shows, from a record."""
    content, sampler = record.content, record.content["sampler"]
    rhats = [row["rhat"] for row in content["summary"].values() if row["rhat"] is not None]
    parent = content["parent"]
    return {"outcome": "failed its gates" if record.failed else "finished",
            "verdict": _verdict(record), "method": record.method, "chains": sampler["chains"],
            "warmup": sampler["warmup"], "draws": sampler["draws"],
            "longer": bool(sampler.get("longer")), "worst_rhat": max(rhats, default=None),
            "divergences": sampler.get("divergences"),
            "data": {"name": content["data"]["name"], "sha256": content["data"]["sha256"]},
            "parent": None if parent is None else {"name": parent["name"], "digest": parent["digest"]},
            "changed": [] if parent is None else _changed(parent["changed"]), "record": record.digest}


def _verdict(record: FitRecord) -> str:
    if record.method != NUTS:
        return "approximation"
    return "passed" if record.passed else "failed"


def _changed(rows: list[Mapping[str, Any]]) -> list[str]:
    """The first changes against the parent; a digest that stands for keys which are named is left out."""
    told = [f"{row['in']} {row['key']}" for row in rows if (row["in"], row["key"]) != ("model", "sha256")]
    return told[:_TOLD] + ([f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else [])


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Adds one line to a log: whole, after what another process may be writing, and on the disk when this returns.

    A last line that was torn by a power failure stays as it is; the new line is sealed with its digest.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file, _alone(file):
        file.seek(0)
        lines = file.read().split(b"\n")
        torn = bool(lines[-1])
        last = lines[-1] if torn else (lines[-2] if len(lines) > 1 else b"")
        sealed = {**line, "previous": digest(last) if last else FIRST}
        text = json.dumps(sealed, ensure_ascii=False, allow_nan=False)
        file.write((b"\n" if torn else b"") + text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """No other process is between reading the last line and writing the next."""
    if os.name == "nt":  # pragma: no cover  (no such machine here)
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


# --- reading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """`lines` that could be read; `notes` say what is odd but may happen, `faults` what must not."""

    path: Path
    lines: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]

    @cached_property
    def last(self) -> dict[str, int]:
        """The last line of each directory that left a record."""
        return {str(line["directory"]): line["line"] for line in self.lines if line.get("record")}


def read_log(path: Path) -> Log:
    """A run log with its chain checked.

    Raises:
        InputError: absent, or too large.
    """
    parts = read_bytes(path, _LONGEST, "a run log").split(b"\n")
    if len(parts) > _MOST:
        raise InputError([Fault(str(path), f"more than {_MOST} lines", "is it a run log?")])
    unfinished, texts = parts[-1], parts[:-1] + ([parts[-1]] if parts[-1] else [])
    lines, notes, faults, before = [], [], [], FIRST
    for number, text in enumerate(texts, start=1):
        where, line = f"{path}:{number}", _line(text)
        if line is None:
            if text is texts[-1] and unfinished:
                notes.append(f"{where}: the last line is torn; its run was not written down to the end")
            elif number < len(texts) and (_line(texts[number]) or {}).get("previous") == digest(text):
                notes.append(f"{where}: a torn line; the next one was written after it")
            else:
                faults.append(Fault(where, "not a line of a run log: it was changed"))
        else:
            lines.append({**line, "line": number})
            if line["previous"] != before:
                faults.append(Fault(where, "not sealed with the line before it: a line was changed, taken out or put "
                                    "in", "take the log from its source again"))
        before = digest(text)
    return Log(path, tuple(lines), tuple(notes), tuple(faults))


def contradictions(line: Mapping[str, Any], record: FitRecord) -> list[str]:
    """What a line says otherwise than the record that it names: no later line seals the last one of a log."""
    content = record.content
    held = {**_of_record(record), "title": content["title"], "simulated": content["simulated"],
            "seed": content["sampler"].get("seed"), "spec": {"sha256": content["spec"]["sha256"]},
            "model": {key: content["model"][key] for key in ("name", "sha256")},
            **{key: content["run"].get(name) for key, name in (("run", "id"), ("started", "started"),
                                                               ("options", "options"))}}
    return [f"{key}: the line has {line[key]!r}, the record {held[key]!r}" for key in held
            if key in line and line[key] != held[key]]


def check_log(path: Path) -> Log:
    """A run log with its chain checked, and its lines beside the records that are still there.

    Raises:
        InputError: absent, or too large.
    """
    log, faults = read_log(path), list[Fault]()
    for line in log.lines:
        place = path.parent / line["directory"]
        try:
            record = load_record(place) if line.get("record") and holds_record(place) else None
            told = contradictions(line, record) if record is not None and record.digest == line["record"] else []
        except (InputError, AttributeError, KeyError, TypeError):  # a damaged record is told of by its own verification
            continue
        faults += [Fault(f"{path}:{line['line']}", f"{_OTHERWISE}: {'; '.join(told)}")] if told else []
    return replace(log, faults=(*log.faults, *faults))


_OTHERWISE = "the line says otherwise than its record"


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    good = isinstance(line, dict) and all(isinstance(line.get(key), kind) for key, kind in _KINDS.items())
    good = good and all(isinstance(line[key].get(name, ""), str) for key in _NAMED if line.get(key)
                        for name in ("name", "digest", "sha256"))
    return line if good else None


@dataclass(frozen=True)
class RunRow:
    """One run: a line of a log, a record, or both; `note` says what is odd about it."""

    directory: str
    line: Mapping[str, Any] | None
    record: FitRecord | None
    note: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Runs:
    """Every run below a directory, oldest first; `faults` are broken chains, and records that are gone or changed."""

    folder: Path
    rows: tuple[RunRow, ...]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]


def read_runs(folder: str | Path, deep: bool = True) -> Runs:
    """Every run of the logs and records below a directory.

    Args:
        deep: at any depth; else only its own log, and records in directories that lie directly in it.

    Raises:
        InputError: no such directory, or neither log nor record in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError([Fault(str(folder), "no such directory", "name the directory that holds records")])
    logs = [read_log(path) for path in _below(folder, LOG, deep)]
    records, faults = _records(folder, deep)
    notes: list[str] = []
    if not logs and not records and not faults:
        raise InputError([Fault(str(folder), f"neither a run log ({LOG}) nor a record below it",
                                "name the directory that holds records")])
    touched = {place: str(note) for place, record in records.items() if (note := _touched(record))}
    rows, known = [], set[Path]()
    for log in logs:
        notes, faults = notes + list(log.notes), faults + list(log.faults)
        for line in log.lines:
            place = log.path.parent / line["directory"]
            row = _row(folder, place, line, records.get(place.resolve()), log, touched.get(place.resolve(), ""))
            known |= {place.resolve()} if row.record is not None else set()
            rows.append(row)
            if row.bad:
                faults.append(Fault(f"{log.path}:{line['line']}", row.note))
    for place, record in records.items():
        if place not in known:
            note = "; ".join(["in no run log", *filter(None, [touched.get(place)])])
            rows.append(RunRow(_relative(record.folder, folder), None, record, note, place in touched))
            faults += [Fault(str(record.folder), touched[place])] if place in touched else []
    return Runs(folder, tuple(sorted(rows, key=_when)), tuple(notes), tuple(faults))


def _below(folder: Path, name: str, deep: bool) -> list[Path]:
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(folder).parts)  # noqa: E731
    found = folder.rglob(name) if deep else folder.glob(name if name == LOG else f"*/{name}")
    return sorted(path for path in found if path.is_file() and not hidden(path))


def _records(folder: Path, deep: bool) -> tuple[dict[Path, FitRecord], list[Fault]]:
    found, faults = dict[Path, FitRecord](), list[Fault]()
    for path in _below(folder, JSON, deep):
        try:
            record = load_record(path.parent)
            _of_record(record)
            found[path.parent.resolve()] = record
        except InputError as error:
            faults += error.faults
        except (AttributeError, KeyError, TypeError):
            faults.append(Fault(str(path), "not what a record holds", "take the record from its source again"))
    return found, faults


def _touched(record: FitRecord) -> str:
    try:
        untouched(record)
    except RecordError:
        return "its files changed (thymodel verify says what)"
    return ""


def _row(folder: Path, place: Path, line: Mapping[str, Any], record: FitRecord | None, log: Log,
         touched: str) -> RunRow:
    name, wanted = _relative(place, folder), line.get("record")
    later = log.last.get(str(line["directory"]), 0) > line["line"]
    if not wanted:
        return RunRow(name, line, None)
    if record is not None and record.digest == wanted:
        told = contradictions(line, record)
        note = "; ".join(filter(None, [touched, f"{_OTHERWISE}: {'; '.join(told)}" if told else ""]))
        return RunRow(name, line, record, note, bool(note))
    if later:
        return RunRow(name, line, None, "its record was taken away, and the directory used again")
    if record is None:
        return RunRow(name, line, None, "its record is gone", True)
    return RunRow(name, line, None, f"its record is another one now ({record.digest[:12]})", True)


def _relative(place: Path, folder: Path) -> str:
    return Path(os.path.relpath(place, folder)).as_posix()


def _when(row: RunRow) -> str:
    """Moments in ISO form and UTC sort as texts."""
    return str(row.line["finished"] if row.line else row.record.content["created"] if row.record else "")


_NAMED = ("spec", "model", "data", "parent")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("run", "directory", "previous", "finished", "outcome"), str),
    **dict.fromkeys(("verdict", "method", "record"), str | None), **dict.fromkeys(_NAMED, dict | None),
    **dict.fromkeys(("chains", "draws", "divergences"), int | None), "worst_rhat": int | float | None,
    "changed": list | None}
COLUMNS = ("run", "directory", "date", "spec", "model", "data", "method", "chains x draws", "verdict", "worst R-hat",
           "divergences", "parent", "changed", "record", "note")


def run_log_table(folder: str | Path) -> TitledTable:
    """The run table of a report: every run of the log in a directory and of the records directly in it, oldest first.

    Digests are shortened to 12 hexadecimal digits. What is odd about a run stands in its last column, what is odd about
    a log below the table.

    Raises:
        InputError: no such directory, or neither log nor record in it.
    """
    return table_of(read_runs(folder, deep=False))


def table_of(runs: Runs) -> TitledTable:
    """The run table of runs that were read."""
    told = [str(fault) for fault in runs.faults]
    return TitledTable("run_log", "Run log", COLUMNS, tuple(_cells(row) for row in runs.rows),
                       tuple([*runs.notes, *told, "Dates are UTC; digests are the first 12 digits of a sha256."]))


def _cells(row: RunRow) -> tuple[str, ...]:
    line = row.line
    if line is None:
        assert row.record is not None
        content = row.record.content
        line = {"finished": content["created"], "spec": content["spec"], "model": content["model"],
                "run": content["run"]["id"], "simulated": content["simulated"], **_of_record(row.record)}
    data, parent, rhat = line.get("data") or {}, line.get("parent") or {}, line.get("worst_rhat")
    drawn = f"{line['chains']} x {line['draws']}" if line.get("chains") else ""
    drawn += " and more" if line.get("longer") else ""
    banner = "SIMULATED " if line.get("simulated") else ""
    return (str(line.get("run") or "")[:8], row.directory, str(line.get("finished", ""))[:16].replace("T", " "),
            _digest(line.get("spec")), f"{(line.get('model') or {}).get('name', '')} {_digest(line.get('model'))}",
            f"{banner}{data.get('name', '')} {_digest(data)}".strip(), str(line.get("method", "")), drawn,
            str(line.get("verdict") or line.get("outcome", "")), "" if rhat is None else f"{rhat:.4f}",
            "" if line.get("divergences") is None else str(line["divergences"]),
            f"{parent.get('name', '')} {parent.get('digest', '')[:12]}".strip(),
            ", ".join(map(str, line.get("changed") or [])), str(line.get("record") or "")[:12],
            row.note)


def _digest(item: Any) -> str:
    return str((item or {}).get("sha256", ""))[:12]
