"""What can go wrong, said so that a reader knows the place, the finding and the next thing to do."""

from collections.abc import Iterable
from typing import NamedTuple

LONGEST_LINE = 1_500  # characters of one line of a message


class Fault(NamedTuple):
    """One thing wrong in a file: `where: what. hint: do this`."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        stop = "" if self.what.endswith("?") else "."
        return shown(f"{self.where}: {self.what}" + (f"{stop} hint: {self.hint}" if self.hint else ""))


def shown(text: str) -> str:
    """A text as a terminal may show it: what files say is repeated in messages, and must not steer the terminal, look
    like other letters or fill the screen."""
    return "\n".join(_cut(line if line.isprintable() else "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line[:LONGEST_LINE]))
        for line in text.split("\n"))


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 4:]}"


class ThymodelError(Exception):
    """Every error that this package raises on purpose."""


class InputError(ThymodelError):
    """A file or an argument that cannot be used; carries every fault found (exit status 2)."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class SolveError(ThymodelError):
    """An integration that failed outside a sampler; names the subject and the time (exit status 2)."""

    def __init__(self, subject: str, time: float, reason: str):
        self.subject, self.time = subject, time
        super().__init__(f"subject {subject}: {reason} after t = {time:g}")


class RecordError(ThymodelError):
    """A record that does not verify, or a failed fit that somebody tried to quote (exit status 1)."""
