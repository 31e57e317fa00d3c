"""What authors wrote beside the lines of a document: TOML drops comments, readers of equations want them."""

import re
from dataclasses import dataclass

_TABLE = re.compile(r"\[\s*([\w.-]+)\s*\]\s*(?:#.*)?\Z")
_LINE = re.compile(r"""([A-Za-z]\w*)\s*=\s*"""
                   r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}|[^#"']*)\s*(?:\#\s*(.*))?\Z""")


@dataclass(frozen=True)
class Remark:
    """A key of a table, the heading above it (the last comment on a line of its own) and the note behind it."""

    key: str
    heading: str
    note: str


def remarks(text: str, table: str) -> list[Remark]:
    """The keys of one table of a TOML text in the order of the text, with what their author wrote beside them.

    Made for tables of one line a key; a line of another shape is passed over, never misread as a value.
    """
    found: list[Remark] = []
    inside, heading, previous = False, "", ""
    for line in (raw.strip() for raw in text.splitlines()):
        header = _TABLE.match(line)
        if header:
            inside, heading = header[1] == table, ""
        elif inside and line.startswith("#"):
            words = line.lstrip("# ").strip()
            heading = f"{heading} {words}" if previous.startswith("#") else words
        elif inside and (match := _LINE.match(line)):
            found.append(Remark(match[1], heading, (match[2] or "").strip()))
        previous = line
    return found
