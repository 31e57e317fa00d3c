"""Data sets as the SAS version 5 transport format (XPT) has them: short names, labels, two types, no infinity.

Two types of value: text, and 8-byte IBM floating-point numbers. Of the 56 bits of such a number's fraction at least 53
are used, as many as a double has, so that every double between 16**-65 and 16**62 in size is kept to its last bit;
smaller and larger ones are refused, and infinity, which the format lacks, must be told beside the number.

Source: SAS Institute, "Record layout of a SAS version 5 or 6 data set in SAS transport (XPORT) format".
"""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from thymodel.errors import Fault, InputError

LONGEST_NAME, LONGEST_LABEL, LONGEST_TEXT = 8, 40, 200  # bytes
SMALLEST, LARGEST = 16.0**-65, 16.0**62  # the format goes to 16**63; pyreadstat 1.3 writes 2**249 and more as that
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,7}")
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9_]")
_CONTROL = re.compile("[\x00-\x1f\x7f]")  # ends of lines among them, at which programs part a CSV
_CARD = 80  # bytes: readers cannot count rows that fit into one where they end in blanks


@dataclass(frozen=True)
class Variable:
    """A column. Numbers are a float array, NaN where missing; text is a list, "" where missing.

    Args:
        label: at most 40 characters.
        unit: empty where the values have none, or where another variable says it.
        codes: what the values mean, where they are codes.
        origin: "Collected", "Assigned" or "Derived", as in Define-XML.
        comment: where it comes from, and what the label has no room for.
    """

    name: str
    label: str
    values: Sequence[str] | np.ndarray
    unit: str = ""
    codes: Mapping[str, str] = field(default_factory=dict)
    origin: str = "Derived"
    comment: str = ""

    @property
    def is_text(self) -> bool:
        return not isinstance(self.values, np.ndarray)

    @property
    def length(self) -> int:
        """Bytes of a value."""
        return max([1, *map(len, self.values)]) if self.is_text else 8

    @property
    def shown_as(self) -> str:
        """The SAS format."""
        return f"${self.length}." if self.is_text else "BEST12."


@dataclass(frozen=True)
class DataSet:
    """A table to be sent. `structure` says what a row is, `keys` which variables tell rows apart; what stands for
    collected data in a simulated one was drawn."""

    name: str
    label: str
    structure: str
    keys: tuple[str, ...]
    variables: tuple[Variable, ...]
    comment: str = ""
    simulated: bool = False

    @property
    def rows(self) -> int:
        return len(self.variables[0].values)


def short_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A name of at most 8 capitals, digits and underscores for each, numbered where two would be the same."""
    used, found = set(taken), {}
    for name in names:
        plain = _NOT_IN_A_NAME.sub("_", name.upper())
        plain = plain if plain[:1].isalpha() else f"V{plain}"
        short, number = plain[:LONGEST_NAME], 1
        while short in used:
            number += 1
            short = f"{plain[:LONGEST_NAME - len(str(number))]}{number}"
        used.add(short)
        found[name] = short
    return found


def short_label(text: str) -> str:
    """Cut to what a label may hold."""
    plain = _CONTROL.sub(_escaped, ascii_text(text))
    return plain if len(plain) <= LONGEST_LABEL else plain[:LONGEST_LABEL - 3].rstrip() + "..."


def ascii_text(text: str) -> str:
    """The text with every character beyond ASCII as a backslash and its number: the format records no encoding."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def texts(name: str, label: str, values: Iterable[str], **more) -> tuple[Variable, ...]:
    """A column of text, or as many as its longest value needs at 200 bytes each, named NAME, NAME2, NAME3."""
    plain = [_pieces(_CONTROL.sub(_escaped, ascii_text(value)).rstrip()) for value in values]
    found = []
    for k in range(max(map(len, plain), default=1)):
        part = [pieces[k] if k < len(pieces) else "" for pieces in plain]
        end = "" if k == 0 else str(k + 1)
        told = dict(more)
        if k:
            told["comment"] = f"continues {name}, whose values are longer than {LONGEST_TEXT} characters"
        found.append(Variable(name[:LONGEST_NAME - len(end)] + end, short_label(label), part, **told))
    return tuple(found)


def _pieces(text: str) -> list[str]:
    """A text in pieces that give it again when joined: none ends with a blank, which the format would not keep."""
    pieces = []
    while len(text) > LONGEST_TEXT:
        kept = len(text[:LONGEST_TEXT].rstrip(" ")) or LONGEST_TEXT
        pieces.append(text[:kept])
        text = text[kept:]
    return [*pieces, text]


def _escaped(letter: re.Match[str]) -> str:
    return letter.group().encode("unicode_escape").decode("ascii")


def numbers(name: str, label: str, values: Iterable[float], **more) -> tuple[Variable, ...]:
    """A column of numbers; with infinite ones, these are missing there and said in a column of text beside it."""
    found = np.array(list(values), float)
    endless = np.isinf(found)
    column = Variable(name, short_label(label), np.where(endless, np.nan, found), **more)
    if not endless.any():
        return (column,)
    beside = ["" if not inf else "not reached" if value > 0 else "minus infinity"
              for inf, value in zip(endless, found, strict=True)]
    return (column, Variable(name[:LONGEST_NAME - 1] + "C", short_label(f"{name}, where not a number"), beside,
                             comment=f"says where {name} is missing because it is infinite"))


def faults_of(data: DataSet) -> list[Fault]:
    """What the format cannot hold, column by column."""
    where = f"data set {data.name}"
    faults = [] if _NAME.fullmatch(data.name) else [Fault(where, "not a name of at most 8 capitals and digits")]
    if len(data.label) > LONGEST_LABEL:
        faults.append(Fault(where, f"its label has {len(data.label)} characters, {LONGEST_LABEL} are the most"))
    names = [variable.name for variable in data.variables]
    faults += [Fault(f"{where}, {name}", "two variables of this name") for name in sorted(set(names))
               if names.count(name) > 1]
    for variable in data.variables:
        faults += [Fault(f"{where}, {variable.name}", what) for what in _wrong(variable, data.rows)]
    if data.rows == 0 or sum(variable.length for variable in data.variables) <= _CARD:
        faults.append(Fault(where, f"no rows, or rows of at most {_CARD} bytes, which readers cannot count"))
    return faults


def _wrong(variable: Variable, rows: int) -> list[str]:
    found = [] if _NAME.fullmatch(variable.name) else ["not a name of at most 8 capitals and digits"]
    if len(variable.label) > LONGEST_LABEL or not variable.label.isascii():
        found.append(f"its label is not at most {LONGEST_LABEL} ASCII characters")
    if len(variable.values) != rows:
        found.append(f"{len(variable.values)} values where other variables have {rows}")
    if variable.is_text:
        long = sum(len(value) > LONGEST_TEXT for value in variable.values)
        odd = sum(not value.isascii() or "\0" in value for value in variable.values)
        found += [f"{long} values are longer than {LONGEST_TEXT} characters"] if long else []
        return found + ([f"{odd} values are not ASCII text"] if odd else [])
    values = np.abs(np.asarray(variable.values, float))
    beyond = np.sum((values >= LARGEST) | ((values > 0) & (values <= SMALLEST)))
    return found + ([f"{beyond} values are outside what is written to the last bit"] if beyond else [])


def refuse_unfit(data: DataSet) -> None:
    """Raises InputError with everything in a data set that the format cannot hold."""
    if faults := faults_of(data):
        raise InputError(faults)


def csv_bytes(data: DataSet) -> bytes:
    """The same values as CSV, numbers with every digit that they have; nothing where a value is missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([variable.name for variable in data.variables])
    columns = [list(variable.values) if variable.is_text else [_digits(value) for value in variable.values]
               for variable in data.variables]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue().encode()


def _digits(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def save_xpt(data: DataSet, path: Path) -> None:
    """The data set as a SAS version 5 transport file.

    Raises:
        InputError: something that the format cannot hold; pyreadstat is not installed.
    """
    refuse_unfit(data)
    try:
        import pyreadstat
    except ImportError:
        raise InputError([Fault("bundle", "XPT files are written by the package pyreadstat, which is not installed",
                                "pip install 'thymodel[bundle]'")]) from None
    frame = pd.DataFrame({variable.name: list(variable.values) if variable.is_text else variable.values
                          for variable in data.variables})
    pyreadstat.write_xport(frame, os.fspath(path), file_label=data.label, table_name=data.name, file_format_version=5,
                           column_labels={variable.name: variable.label for variable in data.variables},
                           variable_format={variable.name: variable.shown_as for variable in data.variables})


def differences(csv_file: Path, xpt_file: Path) -> list[str]:
    """Where a transport file, read by another library than the one that wrote it, does not hold what the CSV beside it
    says: to the last bit of every number, missing values included. Empty where it does."""
    try:
        found = _read_xpt(xpt_file)
    except Exception as error:  # pandas raises ValueError, StopIteration, struct.error and more for damaged files
        return [f"cannot be read as XPT ({type(error).__name__})"]
    wanted = pd.read_csv(csv_file, dtype=str, keep_default_na=False)
    if list(found.columns) != list(wanted.columns):
        return ["other variables than the CSV has"]
    if len(found) != len(wanted):
        return [f"{len(found)} rows where the CSV has {len(wanted)}"]
    return [f"{name}, row {row + 1}" for name in wanted for row in _unlike(found[name], wanted[name])]


def _unlike(found: pd.Series, wanted: pd.Series) -> list[int]:
    if found.dtype.kind != "f":
        return [int(k) for k in np.flatnonzero(found.astype(str).to_numpy() != wanted.to_numpy())]
    try:
        numbers = np.array([float(text) if text else np.nan for text in wanted])
    except ValueError:
        return [0]
    return [int(k) for k in np.flatnonzero(~((found.to_numpy() == numbers) | (np.isnan(found) & np.isnan(numbers))))]


def _read_xpt(path: Path) -> pd.DataFrame:
    frame = pd.read_sas(path, format="xport", encoding="ascii")
    for name in frame:
        if frame[name].dtype.kind == "f":  # pandas reads the eight zero bytes of 0 as 16**-65 (its issue 50670)
            frame[name] = frame[name].where(frame[name].abs() != SMALLEST, 0.0)
    return frame
