"""Entries of the changelog that may move a fitted number, release by release.

    python qualification/release_notes.py [--out docs/release_notes.md]

An entry of CHANGELOG.md is tagged by **Results may change:**, and the tag must be followed by what moves. What is not
tagged leaves fitted numbers as they were, up to the Monte-Carlo error.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from thymodel.errors import Fault, InputError

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG, OUT = ROOT / "CHANGELOG.md", ROOT / "docs/release_notes.md"
TAG = "**Results may change:**"
_FEWEST = 5  # words: with fewer nobody can tell what moves


class Note(NamedTuple):
    """A tagged entry: `moves` is what the tag says, `entry` what stood before it."""

    release: str
    entry: str
    moves: str


def read_notes(text: str, where: str = "CHANGELOG.md") -> dict[str, list[Note]]:
    """Release -> its tagged entries, in the order of the file; releases without one are there too.

    Raises:
        InputError: a tag that does not say what moves, with its line.
    """
    notes: dict[str, list[Note]] = {}
    faults: list[Fault] = []
    release = ""
    for number, entry in _entries(text):
        heading = re.match(r"## \[([^\]]+)\](.*)", entry)
        if heading:
            release = heading[1] + heading[2]
            notes[release] = []
        elif release and TAG in entry:
            before, _, moves = entry.removeprefix("- ").partition(TAG)
            if len(moves.split()) < _FEWEST:
                faults.append(Fault(f"{where}: line {number}", "a tag that does not say what moves",
                                    f"write it after {TAG}"))
            notes[release].append(Note(release, " ".join(before.split()), " ".join(moves.split())))
    if faults:
        raise InputError(faults)
    return notes


def _entries(text: str) -> list[tuple[int, str]]:
    """Headings and list items with the number of their first line; a wrapped item is one entry."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("#", "- ")):
            found.append((number, line))
        elif line.startswith("  ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def page_text(notes: dict[str, list[Note]]) -> str:
    lines = ["# Release notes: what may move results", "",
             "Made by `python qualification/release_notes.py` from the tag \u201cResults may change\u201d in "
             "[CHANGELOG.md](../CHANGELOG.md); do not edit. Entries there without the tag leave fitted numbers as they "
             "were, up to the Monte-Carlo error. A record names the version that made it.", ""]
    for release, entries in notes.items():
        told = [f"- **{note.moves}**" + (f" Came with: {note.entry}" if note.entry else "") for note in entries]
        lines += [f"## {release}", "", *(told or ["Nothing that moves a fitted number."]), ""]
    return re.sub(r"\]\((?!https?://|\.\./)(?:docs/)?", _from_docs, "\n".join(lines))


def _from_docs(link: re.Match[str]) -> str:
    """The changelog links from the root, this page from the folder below it."""
    return "](" if link[0].endswith("docs/") else "](../"


def main() -> None:
    parser = argparse.ArgumentParser(description="What may move results, release by release.")
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    out.write_text(page_text(read_notes(CHANGELOG.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
