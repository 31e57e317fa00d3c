"""A data set as other tools write it, as lines of text cells: separators, comments, headers; not what it means."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from thymodel.documents.import_map import HEADINGS, ImportMap
from thymodel.documents.limits import LARGEST_DATA, MOST_ROWS, read_bytes
from thymodel.documents.sheet import Line, decode, refuse_large_header
from thymodel.errors import Fault, InputError

_COMMENT_C = "comment line (C)"
_MARKS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " "}
_NUMBER_LIKE = re.compile(r"[+-]?[\d.]+([,.]\d+)?([eEdD][+-]?\d+)?|\.")
_DECIMAL_COMMA = re.compile(r"[<>]?\s*[+-]?\d+,\d+([eE][+-]?\d+)?")
_POINTED = re.compile(r"[<>]?\s*[+-]?\d+\.\d+([eE][+-]?\d+)?")
_GROUPED = {mark: re.compile(rf"([<>]?\s*[+-]?)(\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+)([.,]\d+)?")
            for mark in (",", ".", " ", "'")}
_ISO_LIKE = re.compile(r"\d{1,4}[-/:]")
_OPENING = re.compile(r'(?:^|[,;\t|])\s*"')  # a quotation mark means something only where a cell begins
_OPENING_AFTER_SPACE = re.compile(r'(?:^|\s)"')


class PassedOver(NamedTuple):
    """A line that is no data row, and what it is."""

    row: int
    reason: str


class ForeignTable(NamedTuple):
    """`lines` have as many cells as the header; `digest` is the SHA-256 of the file's bytes."""

    name: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    passed_over: tuple[PassedOver, ...]
    digest: str
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]


def read_foreign_table(path: Path, found: ImportMap) -> ForeignTable:
    """A table separated by commas, semicolons, tabs, vertical bars or spaces, with or without a header line.

    Raises:
        InputError: it cannot be read as a table at all.
    """
    raw = read_bytes(path, LARGEST_DATA, "a data set")
    texts = re.split("\r\n|\n|\r", decode(raw, path.name))  # splitlines() would break cells at rarer marks
    texts = texts if texts[-1] else texts[:-1]  # behind the last end of a line is no line
    if len(texts) > MOST_ROWS:
        _refuse(path.name, f"more than {MOST_ROWS} lines", "is it one row per event?")
    digest = hashlib.sha256(raw).hexdigest()
    passed, kept = _without_comments(texts, found)
    if not kept:
        _refuse(path.name, "no line with data", "is it the right file?")
    kind = found.separator or _separator(kept[0][1])
    lines = list(_split(kept, kind, path.name))
    lines = lines if found.header else _without_empty_columns(lines)
    header, lines, more, notes = _header(lines, found, path.name)
    good, faults = _same_length(lines, len(header), path.name)
    faults += _doubtful_comments(passed, texts, kind, header, found, path.name)
    if found.thousands:
        mark = found.thousands
        good = [Line(line.row, tuple(_without_thousands(cell, mark) for cell in line.cells)) for line in good]
    if found.decimal == ",":
        what = 'a point, where the map says decimal = ","'
        marks = _marked(good, header, path.name, _POINTED, found.not_used, what,
                        'say thousands = "." in the map, if it marks thousands, or name the column under not_used')
        good = [Line(line.row, tuple(_with_point(cell) for cell in line.cells)) for line in good]
    else:
        marks = _marked(good, header, path.name, _DECIMAL_COMMA, (), "a decimal comma",
                        'say decimal = "," in the map, or thousands = "," if it is a mark of thousands')
    faults += marks
    if marks:
        told = {fault.where.partition(",")[0] for fault in marks}
        good = [line for line in good if f"{path.name}: row {line.row}" not in told]
    if kind != "comma":
        notes.append(f"columns are separated by {kind}s")
    comments = [str(row) for row, reason in passed if reason.startswith(("comment", "line that begins"))]
    if comments:
        notes.append(f"{len(comments)} lines were passed over as comments: "
                     f"row{'s' * (len(comments) > 1)} {', '.join(comments[:10])}{', ...' * (len(comments) > 10)}")
    return ForeignTable(path.name, header, tuple(good), tuple(sorted([*passed, *more])), digest, tuple(notes),
                        tuple(faults))


def _refuse(where: str, what: str, hint: str) -> NoReturn:
    raise InputError([Fault(where, what, hint)])


def _without_comments(texts: list[str], found: ImportMap) -> tuple[list[PassedOver], list[tuple[int, str]]]:
    passed: list[PassedOver] = []
    kept: list[tuple[int, str]] = []
    inside = False  # a quoted cell that goes on: what looks like a comment or is blank there belongs to the cell
    for row, text in enumerate(texts, 1):
        reason = "" if inside else _not_data(text, bool(kept) or bool(found.header), found)
        if not reason and '"' in text:
            inside = _stays_open(text, inside)
        if reason:
            passed.append(PassedOver(row, reason))
        else:
            kept.append((row, text))
    return passed, kept


def _not_data(text: str, begun: bool, found: ImportMap) -> str:
    """Why a line is no data row; a header may begin with # or with the name C."""
    bare = text.strip().strip('"')
    if not bare.strip(",;\t "):
        return "blank line"
    if not begun and re.fullmatch(r"sep=[,;|]?", bare, re.IGNORECASE):
        return "line that tells a spreadsheet the separator"
    if bare.upper().startswith("TABLE NO."):
        return "title line of a NONMEM table"
    if bare.startswith("#") and not (not begun and _looks_like_header(bare[1:])):
        return "comment line (#)"
    customary = begun and found.ignore in ("", "@")  # another character of the map stands in their place, as in $DATA
    if customary and re.match(r"[Cc](\s|[,;\t]|$)", bare):
        return _COMMENT_C
    if customary and bare.startswith("@"):
        return "comment line (@)"
    if begun and found.ignore == "@" and bare[0].isalpha():
        return "line that begins with a letter (ignore = \"@\")"
    if begun and found.ignore not in ("", "@") and bare.startswith(found.ignore):
        return f"line that begins with {found.ignore} (ignore)"
    return ""


def _stays_open(text: str, inside: bool) -> bool:
    """Whether a quoted cell is open at the end of a line; a mark within a cell that is not quoted means nothing."""
    at, opening = 0, _OPENING if re.search("[,;\t|]", text) else _OPENING_AFTER_SPACE
    while True:
        if not inside:
            found = opening.search(text, at)
            if found is None:
                return False
            at, inside = found.end(), True
        closing = text.find('"', at)
        if closing < 0:
            return True
        doubled = text.startswith('""', closing)
        at, inside = closing + 1 + doubled, doubled


def _doubtful_comments(passed: list[PassedOver], texts: list[str], kind: str, header: tuple[str, ...], found: ImportMap,
                       name: str) -> list[Fault]:
    """Lines that begin with C and are as long as a data row, where the first column says the subject."""
    subject = found.columns.get("ID")
    first = header[0].upper() in HEADINGS["ID"] if subject is None else header[0] == subject
    if found.ignore or not first:
        return []
    rows = [row for row, reason in passed if reason == _COMMENT_C]
    cells = {row: [line.cells for line in _split([(row, texts[row - 1])], kind, name)] for row in rows}
    return [Fault(f"{name}: row {row}, column {header[0]}", "C: a comment, or a subject of that name",
                  'say ignore = "C" in the map if such lines are comments, ignore = "#" if C is a subject')
            for row in rows if [len(line) for line in cells[row]] == [len(header)]]


def _looks_like_header(text: str) -> bool:
    names = {name.upper() for headings in HEADINGS.values() for name in headings}
    return len(names & set(re.split(r"[\s,;\"]+", text.upper()))) >= 2


def _separator(first: str) -> str:
    counts = {kind: first.count(mark) for kind, mark in _MARKS.items() if kind != "space"}
    kind = max(counts, key=lambda name: counts[name])
    return kind if counts[kind] else "space"


def _without_empty_columns(lines: list[Line]) -> list[Line]:
    """Lines without the columns at the right end that have no name and no cell, as spreadsheets leave them."""
    last = len(lines[0].cells)
    while last and not lines[0].cells[last - 1]:
        last -= 1
    if last == len(lines[0].cells) or any(any(line.cells[last:]) for line in lines):
        return lines
    return [Line(line.row, line.cells[:last]) for line in lines]


def _split(kept: list[tuple[int, str]], kind: str, name: str) -> Iterator[Line]:
    """Cells of every line; a quoted cell may go on over several lines."""
    text = "\n".join(line for _, line in kept)
    if kind == "space":
        text = "\n".join(line.replace("\t", " ").strip() for _, line in kept)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_MARKS[kind], skipinitialspace=kind == "space",
                        strict=True)
    at = 0
    try:
        for cells in reader:
            if kind == "space":
                cells = [cell for cell in cells if cell]
            yield Line(kept[at][0], tuple(cell.strip() for cell in cells))
            at = reader.line_num
    except csv.Error as error:
        _refuse(f"{name}: row {kept[min(at, len(kept) - 1)][0]}", f"not readable as a table ({error})",
                "look for a quotation mark without its partner")


def _header(lines: list[Line], found: ImportMap, name: str
            ) -> tuple[tuple[str, ...], list[Line], list[PassedOver], list[str]]:
    """The names of the columns, the data, lines that repeat the names, and what to tell."""
    first, notes = lines[0], []
    if found.header:
        header, passed = tuple(found.header), []
        if not _is_data(first):
            passed, lines = [PassedOver(first.row, "header line, names are those of the map")], lines[1:]
    elif _is_data(first):
        _refuse(f"{name}: row {first.row}", "no header line: the first line holds data",
                'say header = ["ID", "TIME", ...] in the map, as $INPUT has it')
    else:
        header = (first.cells[0].lstrip("#").strip(), *first.cells[1:])
        passed, lines = [PassedOver(first.row, "header line")], lines[1:]
    if header and not header[0] and not any(not text for text in header[1:]):
        header = ("(row names)", *header[1:])
        notes.append("the first column has no name: row names, not used")
    elif lines and len(lines[0].cells) == len(header) + 1 and all(len(x.cells) == len(header) + 1 for x in lines):
        header = ("(row names)", *header)
        notes.append("the first column has no name: row names, not used")
    refuse_large_header(header, name)
    again = {line.row for line in lines if line.cells[:len(header)] == first.cells and not found.header}
    passed += [PassedOver(row, "header line again") for row in again]
    lines = [line for line in lines if line.row not in again]
    doubled = sorted(text for text, count in Counter(header).items() if count > 1)
    if doubled == [""]:
        _refuse(f"{name}: row {first.row}", f"{header.count('')} columns with cells have no name",
                "name each column, or say header = [...] in the map")
    if doubled:
        _refuse(f"{name}: row {first.row}", f"two columns are named {', '.join(map(repr, doubled))}",
                "name each column once, or say header = [...] in the map")
    if not lines:
        _refuse(name, "a header and no data rows", "is it the right file?")
    return header, lines, passed, notes


def _is_data(line: Line) -> bool:
    """Whether half of its cells, or more, are numbers, dates or points."""
    numbers = sum(bool(_NUMBER_LIKE.fullmatch(cell) or _ISO_LIKE.match(cell)) for cell in line.cells if cell)
    return 2 * numbers >= sum(bool(cell) for cell in line.cells)


def _same_length(lines: list[Line], length: int, name: str) -> tuple[list[Line], list[Fault]]:
    good, faults = [], []
    for line in lines:
        extra = line.cells[length:]
        if len(line.cells) < length or any(extra):
            hint = "a decimal comma splits a number in two, and a text with the separator needs quotation marks"
            if len(line.cells) < length:
                hint = "write . where a value is missing"
            faults.append(Fault(f"{name}: row {line.row}",
                                f"{len(line.cells)} fields where the header has {length}", hint))
        else:
            good.append(Line(line.row, line.cells[:length]))
    return good, faults


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell


def _without_thousands(cell: str, mark: str) -> str:
    found = _GROUPED[mark].fullmatch(cell)
    return f"{found[1]}{found[2].replace(mark, '')}{found[3] or ''}" if found else cell


def _marked(lines: list[Line], header: tuple[str, ...], name: str, form: re.Pattern[str], unused: Collection[str],
            what: str, hint: str) -> list[Fault]:
    """Cells of the columns that are used which have that form."""
    return [Fault(f"{name}: row {line.row}, column {heading}", f"'{cell}' has {what}", hint)
            for line in lines for heading, cell in zip(header, line.cells, strict=True)
            if heading not in unused and form.fullmatch(cell)]
