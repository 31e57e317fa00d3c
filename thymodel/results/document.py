"""A report before it is a page: sections of paragraphs, tables, figures and listings, and where each number is from.

A record becomes one `Document`, and a writer makes HTML, Word or LaTeX of it. A text may be `Cited`: pieces of words
and of numbers, each number with the field of the record that it was taken from, so that no format can disagree with
the record without being caught.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thymodel.results.titled_table import TitledTable

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Style = Literal["text", "result", "note", "bullet", "code"]
Mood = Literal["simulated", "failed", "passed", "warned"]


class Cited(str):
    """Text of which some pieces are taken from a field of the record.

    `pieces` are (text, field); a field is "" for words, else `table.csv: ROW, COLUMN`, `record.json: dotted.path`,
    `record.json: number of dotted.path` or `posterior.nc: what was computed`.
    """

    pieces: tuple[tuple[str, str], ...]

    def __new__(cls, pieces: Sequence[tuple[str, str]]) -> "Cited":
        made = super().__new__(cls, "".join(text for text, _ in pieces))
        made.pieces = tuple(pieces)
        return made


class Reference(str):
    """Text that names a table, figure, listing or section of the document, such as "Table 3"."""

    key: str

    def __new__(cls, text: str, key: str) -> "Reference":
        made = super().__new__(cls, text)
        made.key = key
        return made


def pieces_of(text: str) -> tuple[tuple[str, str], ...]:
    """Any text as pieces with their fields."""
    return text.pieces if isinstance(text, Cited) else ((text, ""),)


def say(*parts: str) -> Cited:
    """Parts as one text that keeps the fields of each."""
    return Cited([piece for part in parts for piece in pieces_of(part) if piece[0]])


def xml_text(text: str) -> str:
    """Text as XML can hold it: a character that it cannot is replaced by the mark for an unknown one."""
    return _NOT_IN_XML.sub("\ufffd", str(text))


@dataclass(frozen=True)
class Paragraph:
    """`result`: a sentence about what was found, of which every number is cited."""

    text: str
    style: Style = "text"


@dataclass(frozen=True)
class Banner:
    """What must be read before any number."""

    text: str
    mood: Mood


@dataclass(frozen=True)
class Grid:
    """A table or listing; `traced`: every number of its cells is cited."""

    table: TitledTable
    kind: Literal["Table", "Listing"] = "Table"
    traced: bool = False
    number: int = 0

    @property
    def key(self) -> str:
        return self.table.key

    @property
    def label(self) -> str:
        return f"{self.kind} {self.number}"


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, or as SVG where `svg` is not empty; `width` and `height` in inches."""

    key: str
    caption: str
    alt: str
    png: bytes
    width: float
    height: float
    svg: str = ""
    number: int = 0

    @property
    def label(self) -> str:
        return f"Figure {self.number}"


Block = Paragraph | Banner | Grid | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; `level` 1 or 2."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    level: int = 1


@dataclass(frozen=True)
class Document:
    """All that a report says, in order.

    Args:
        running: what stands on every page: where the numbers come from, and why none may be quoted.
    """

    title: str
    name: str
    digest: str
    created: str
    simulated: bool
    banners: tuple[Banner, ...]
    running: tuple[str, ...]
    sections: tuple[Section, ...]

    def blocks(self) -> Iterator[Block]:
        for section in self.sections:
            yield from section.blocks


def numbered(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Tables, figures and listings counted through the document, each kind for itself."""
    counts = {"Table": 0, "Listing": 0, "Figure": 0}

    def count(block: Block) -> Block:
        if not isinstance(block, Grid | Picture):
            return block
        kind = block.kind if isinstance(block, Grid) else "Figure"
        counts[kind] += 1
        return replace(block, number=counts[kind])

    return tuple(replace(section, blocks=tuple(count(block) for block in section.blocks)) for section in sections)


def numeric(table: TitledTable) -> list[bool]:
    """Of each column, whether it is of numbers, which stand to the right."""
    def is_number(cell: str) -> bool:
        head = cell.replace("−", "-")
        return cell in ("", "–", "not known") or head.lstrip("+-")[:1].isdigit()

    return [bool(table.rows) and all(is_number(row[k]) and len(row[k]) < 30 for row in table.rows)
            and any(row[k] not in ("", "–") for row in table.rows) for k in range(len(table.columns))]


def widths(table: TitledTable) -> list[float]:
    """Shares of a page's width that columns need: by their longest word, and by how much they say."""
    words, needs = _words(table), _needs(table)
    room = _LETTERS * (_ON_SIDE if wide(table) else 1.0)
    if sum(words) < room < sum(needs):  # what is short of room gives way, down to its longest word
        share = (room - sum(words)) / (sum(needs) - sum(words))
        needs = [word + share * (need - word) for word, need in zip(words, needs, strict=True)]
    return [need / sum(needs) for need in needs]


def wide(table: TitledTable) -> bool:
    """Whether it asks for a page on its side."""
    return sum(_needs(table)) > _PORTRAIT


_PORTRAIT = 150  # letters that columns may ask for on an upright page
_LETTERS = 120.0  # digits and capitals that its line really has room for
_ON_SIDE = 1.5  # how much longer the line of a page on its side is


def _words(table: TitledTable) -> list[float]:
    """Letters of the longest word of each column, with the gap to the next."""
    return [min(max((len(word) for text in (head, *(row[k] for row in table.rows)) for word in text.split()),
                    default=1), 24) + 1.5 for k, head in enumerate(table.columns)]


def _needs(table: TitledTable) -> list[float]:
    """Letters that each column asks for."""
    longest = [max((len(row[k]) for row in table.rows), default=1) for k in range(len(table.columns))]
    return [max(word, min(long, 60) ** 0.85 + 1.5, 5.5) for word, long in zip(_words(table), longest, strict=True)]
