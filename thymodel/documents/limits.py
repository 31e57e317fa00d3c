"""How large a file from a stranger may be: every limit of every reader, with its reason.

A file that is over a limit is refused with a sentence before it is worked on, so that no file can fill the memory or
keep a reader busy for more than seconds. What a limit does not bound is bounded by the file's own size.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any

from thymodel.errors import Fault, InputError

# --- files, in bytes
LARGEST_DOCUMENT = 2_000_000  # TOML, SBML, JSON beside a record; the largest model of the family has 33 kB. Of short
# values, the worst case, TOML's reader takes 1.3 s for a million bytes
LARGEST_RECORD = 100_000_000  # record.json; it grows with subjects and coordinates: 0.1 MB for 30 patients
LARGEST_DATA = 64 * 1024**2  # CSV; a study is a few megabytes, and is held in memory several times as text
LARGEST_ARRAYS = 8 * 1024**3  # of the arrays of a netCDF file, once unpacked: 10,000 draws of 100,000 numbers
SMALL_ARRAYS = 100 * 1024**2  # always allowed, however small the file: constants pack well
LARGEST_PACKING = 100  # times the size of the file: draws pack to nine tenths, whole columns of zeros to a thousandth

# --- what is inside
DEEPEST_DOCUMENT = 50  # tables and lists inside each other; those of this package have six
MOST_KEY_PARTS = 32  # of a dotted key such as a.b.c; the reader of TOML takes time with the square of their number
LONGEST_NAME = 200  # characters of a key, a column's heading: names are repeated in messages and tables
MOST_COLUMNS = 2_000  # of a CSV file
MOST_ROWS = 500_000  # of a CSV file: a hundred visits of five thousand subjects
LONGEST_CELL = 10_000  # characters
LONGEST_EXPRESSION = 10_000  # characters; a rate that needs more should be split into named expressions
DEEPEST_EXPRESSION = 100  # nesting; Python's parser itself gives up near 200
LARGEST_EXPRESSION = 20_000  # operations of one expression as sympy writes it out
LARGEST_EXACT_EXPONENT = 64  # above it a power of literals becomes a float: exact ones would fill the memory
MOST_EXPRESSION_TEXT = 100_000  # characters of all expressions of a model with its chains written out; the largest
# model of the family has 2,500, and sympy takes a second for 30,000
MOST_STATES = 500  # a document with more is generated, and its faults would be unreadable
LONGEST_CHAIN = 200  # states of one chain
MOST_NAMES = 3_000  # parameters, constants, covariates, expressions, inputs, observables of a model
MOST_FAULTS = 1_000  # listed of a document: many have one cause

# a key lies on one line: white space that went on over lines would be walked again from each of them
_PART = r"""(?:[^\s=.\[\]{},"'#]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?m)(?:^|[\[{{,])[ \t]*+{_PART}(?:\.[ \t]*+{_PART}){{{MOST_KEY_PARTS},}}")


def read_bytes(path: Path, most: int, kind: str) -> bytes:
    """The content of a regular file of at most `most` bytes.

    A pipe or a device has no size to judge by: it may never end, or never begin.

    Args:
        kind: what it should be, in words: "the study's data".

    Raises:
        InputError: absent, not a regular file, not readable, or larger.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError([Fault(str(path), "cannot be read: a pipe or a device", f"name a file: {kind}")])
            content = file.read(most + 1)
    except ValueError:
        raise InputError([Fault(str(path), "cannot be read: not the name of a file", "check the path")]) from None
    except OSError as error:
        raise InputError([Fault(str(path), f"cannot be read: {error.strerror}", "check the path")]) from None
    if len(content) > most:
        raise InputError([Fault(str(path), f"larger than {most} bytes", f"is it {kind}?")])
    return content


def _without_waiting(path: str, flags: int) -> int:
    """A pipe without a writer would hold the opening itself."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def refuse_long_keys(text: str, where: str) -> None:
    """TOML text whose dotted keys would keep its reader busy.

    Raises:
        InputError: a key of more parts than any document has.
    """
    found = _LONG_KEY.search(text)
    if found:
        line = text.count("\n", 0, found.end()) + 1
        raise InputError([Fault(f"{where}: line {line}", f"a key of more than {MOST_KEY_PARTS} parts",
                                "documents of this package have five at most")])


def document_faults(tree: Any, where: str) -> list[Fault]:
    """What no document may hold, whatever its kind: tables too deep, names too long, characters that do not print.

    Such characters could write over what a terminal shows, or make a text look like another.
    """
    faults: list[Fault] = []
    waiting: list[tuple[Any, str, int]] = [(tree, "", 0)]
    while waiting and len(faults) < MOST_FAULTS:
        value, path, depth = waiting.pop()
        place = f"{where}: {path}" if path else where
        if isinstance(value, dict | list) and depth >= DEEPEST_DOCUMENT:
            faults.append(Fault(place[:LONGEST_NAME], f"nested deeper than {DEEPEST_DOCUMENT}"))
        elif isinstance(value, dict):
            for key, inner in value.items():
                if len(key) > LONGEST_NAME:
                    faults.append(Fault(f"{place}: {key[:40]}...", f"a name of more than {LONGEST_NAME} characters"))
                elif _unprintable(key):
                    faults.append(Fault(f"{place}: {key!a}", "characters that do not print", "type it anew"))
                else:
                    waiting.append((inner, f"{path}.{key}" if path else key, depth + 1))
        elif isinstance(value, list):
            waiting.extend((inner, f"{path}.{k}", depth + 1) for k, inner in enumerate(value))
        elif isinstance(value, str) and _unprintable(value):
            faults.append(Fault(place, "characters that do not print", "type the text anew"))
    return faults


def _unprintable(text: str) -> bool:
    return not text.isprintable() and any(not letter.isprintable() and letter not in _SPACES for letter in text)


_SPACES = "\n\r\t\u00a0\u2009\u202f\u3000\u200b\u200c\u200d\u00ad"  # of texts copied from elsewhere
