"""A CSV file as lines of text cells: encoding, separator and shape are checked here, meaning elsewhere."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from thymodel.documents.limits import LARGEST_DATA, LONGEST_CELL, LONGEST_NAME, MOST_COLUMNS, MOST_ROWS, read_bytes
from thymodel.errors import Fault, InputError

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


class Line(NamedTuple):
    """One record; `row` is its line number in the file (the header is line 1)."""

    row: int
    cells: tuple[str, ...]


class Sheet(NamedTuple):
    """A file's header and records as stripped text; `empty` counts records without any text."""

    name: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    empty: int
    digest: str
    faults: tuple[Fault, ...]


def read_sheet(path: Path) -> Sheet:
    """A comma-separated UTF-8 file, with or without byte order mark, LF or CRLF.

    Records whose number of fields differs from the header's are left out of `lines` and told in `faults`.

    Raises:
        InputError: the file cannot be read as one header and records at all.
    """
    raw = read_bytes(path, LARGEST_DATA, "the study's data")
    text = decode(raw, path.name)
    _check_separator(text, path.name)
    records = _records(text, path.name)
    first = next(records, None)
    if first is None:
        _refuse(
            path.name,
            "the file is empty",
            "write a header line with ID, TIME, DVID, DV, ... and one row per event",
        )
    header = tuple(cell.strip() for cell in first.cells)
    refuse_large_header(header, path.name)
    lines, empty, faults = _same_length(records, len(header), path.name)
    return Sheet(path.name, header, lines, empty, hashlib.sha256(raw).hexdigest(), faults)


def _refuse(where: str, what: str, hint: str) -> NoReturn:
    raise InputError([Fault(where, what, hint)])


def decode(raw: bytes, name: str) -> str:
    """UTF-8 text, with or without byte order mark; an InputError names the row of a byte that is not."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        _refuse(name, "the text is UTF-16, UTF-8 was expected", 'save it as "CSV UTF-8"')
    if b"\0" in raw:
        row = raw[: raw.index(b"\0")].count(b"\n") + 1
        _refuse(f"{name}: row {row}", "a NUL byte, so this is no UTF-8 text", 'save the table as "CSV UTF-8"')
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        _refuse(f"{name}: row {row}", f"byte 0x{raw[error.start]:02x} is not UTF-8", 'save it as "CSV UTF-8"')


def refuse_large_header(header: tuple[str, ...], name: str) -> None:
    """An InputError where a header has more columns, or a longer name, than a table of events has."""
    if len(header) > MOST_COLUMNS:
        _refuse(f"{name}: row 1", f"{len(header)} columns; at most {MOST_COLUMNS}", "is it one row per event?")
    long = next((heading for heading in header if len(heading) > LONGEST_NAME), None)
    if long is not None:
        what = f"a heading of {len(long)} characters: {long[:40]}..."
        _refuse(f"{name}: row 1", what, "is the first row the header?")


def _check_separator(text: str, name: str) -> None:
    header = text.lstrip().partition("\n")[0].strip()
    for mark, word in _OTHER_SEPARATORS.items():
        if header.count(mark) > header.count(","):
            _refuse(
                name,
                f"fields are separated by {word}, commas were expected",
                "save it as comma-separated text, with a point as decimal mark",
            )
    if "," not in header and len(header.split()) > 1:
        _refuse(
            name, "fields are separated by spaces, commas were expected", "save it as comma-separated text"
        )


def _records(text: str, name: str) -> Iterator[Line]:
    """Records with the line on which each begins; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    row = 1
    try:
        for count, cells in enumerate(reader):
            if count > MOST_ROWS:
                _refuse(name, f"more than {MOST_ROWS} rows", "is it one row per event?")
            long = next((cell for cell in cells if len(cell) > LONGEST_CELL), None)
            if long is not None:
                _refuse(f"{name}: row {row}", f"a field of more than {LONGEST_CELL} characters: {long[:40]}...",
                        "look for a quotation mark without its partner")
            if cells and (len(cells) > 1 or cells[0].strip()):
                yield Line(row, tuple(cell.strip() for cell in cells))
            row = reader.line_num + 1
    except csv.Error as error:
        _refuse(
            f"{name}: row {row}",
            f"not readable as CSV ({error})",
            "look for a quotation mark without its partner",
        )


def _same_length(
    records: Iterator[Line], length: int, name: str
) -> tuple[tuple[Line, ...], int, tuple[Fault, ...]]:
    lines, faults, empty = [], [], 0
    for line in records:
        if not any(line.cells):
            empty += 1
        elif len(line.cells) != length:
            what = f"{len(line.cells)} fields where the header has {length}"
            faults.append(Fault(f"{name}: row {line.row}", what, _length_hint(line, length)))
        else:
            lines.append(line)
    return tuple(lines), empty, tuple(faults)


def _length_hint(line: Line, length: int) -> str:
    if len(line.cells) > length and any(re.fullmatch(r"-?\d+", cell) for cell in line.cells[1:]):
        return "a decimal comma splits a number in two: write a point; quote text that contains a comma"
    return "write one field per column, nothing between the commas where a value is missing"
