"""A check of an installation: what is required, what was expected and found, and whether that is good."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

Outcome = Literal["pass", "fail", "note"]
_Place = TypeVar("_Place")


class Finding(NamedTuple):
    """`good` is None where this machine leaves nothing to judge, or the judgement is the reader's."""

    found: str
    good: bool | None


@dataclass(frozen=True)
class Check(Generic[_Place]):
    """One question to an installation.

    Args:
        key: IQ-.. of the installation, OQ-.. of its operation.
        requirement: what a user relies on, as a sentence.
        expected: what must be found.
        covers: requirements of `qualification/requirements.toml` for which it is evidence.
        look: finds out, at the place where checks leave their files.
    """

    key: str
    requirement: str
    expected: str
    covers: tuple[str, ...]
    look: Callable[[_Place], Finding]


@dataclass(frozen=True)
class Result:
    """What came of a check; seconds by the clock."""

    key: str
    requirement: str
    expected: str
    found: str
    outcome: Outcome
    seconds: float


def perform(check: Check[_Place], place: _Place) -> Result:
    """A check that cannot be made has failed, whatever was raised: nothing here may stop the ones after it."""
    start = time.perf_counter()
    try:
        found, good = check.look(place)
    except Exception as error:
        found, good = f"{type(error).__name__}: {error}"[:500], False
    outcome: Outcome = "note" if good is None else "pass" if good else "fail"
    return Result(check.key, check.requirement, check.expected, found, outcome,
                  round(time.perf_counter() - start, 2))


def some(names: Sequence[str], most: int = 6) -> str:
    """A list of names that stays readable."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
