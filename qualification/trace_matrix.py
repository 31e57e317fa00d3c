"""Requirements, their risks, and the tests that carry their marks, as one table.

    python qualification/trace_matrix.py

writes docs/qualification/trace_matrix.md and .csv. Marks are read from the source of the tests: `pytestmark` of a
module and decorators of functions, `pytest.mark.requirement("REQ-...", ...)` with literal texts. The checks of
`thymodel selftest` say themselves what they cover. A requirement may await a command, an option or a file that not
every version has: it is shown as such, and needs no test until then.
"""

import ast
import csv
import io
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import typer

import thymodel
from thymodel import cli
from thymodel.documents.toml import Table
from thymodel.results import installation, operation

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "qualification/requirements.toml"
OUT = ROOT / "docs/qualification"
PAGE, SHEET = "trace_matrix.md", "trace_matrix.csv"
Level = Literal["low", "medium", "high"]
_POINTS = {"low": 1, "medium": 2, "high": 3}


class Risk(Table):
    """Of a wrong result: how bad, how likely if nothing were done, how surely noticed before use."""

    severity: Level
    likelihood: Level
    detection: Level

    @property
    def level(self) -> str:
        """Severity and likelihood together, one step lower where detection is high (GAMP 5 weighs them so)."""
        product = _POINTS[self.severity] * _POINTS[self.likelihood]
        level = 3 if product >= 6 else 2 if product >= 3 else 1
        level += {"high": -1, "medium": 0, "low": 1}[self.detection]
        return ("low", "medium", "high")[min(max(level, 1), 3) - 1]


class Requirement(Table):
    """One line of the requirements, as written."""

    id: Annotated[str, pydantic.Field(pattern=r"^REQ-[A-Z]{3}-\d\d$")]
    area: str
    statement: str
    effect: str
    risk: Risk
    mitigations: Annotated[list[str], pydantic.Field(min_length=1)]
    commands: list[str] = []
    names: list[str] = []
    awaits: list[str] = []


class Requirements(Table):
    requirement: list[Requirement]


@dataclass(frozen=True)
class Marked:
    """A test file with what carries a mark: the whole of it, or these tests."""

    file: str
    tests: tuple[str, ...]
    whole: bool


def load_requirements(path: Path = REQUIREMENTS) -> dict[str, Requirement]:
    """By id, in the order of the file.

    Raises:
        ValueError: a key that is not known, or an id given twice.
    """
    found = Requirements.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).requirement
    ids = [item.id for item in found]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: given twice: {', '.join(twice)}")
    return {item.id: item for item in found}


def commands() -> set[str]:
    """Every command of the command line, those of groups with the group before them."""
    return {name for name, _ in _walk(typer.main.get_command(cli.app), "")}


def _walk(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def is_there(awaited: str) -> bool:
    """Whether this version has the command, the option of a command (`verify --refit`) or the file."""
    words, _, option = awaited.partition(" --")
    known = dict(_walk(typer.main.get_command(cli.app), ""))
    if words in known:
        return not option or any(f"--{option}" in parameter.opts for parameter in known[words].params)
    return (ROOT / awaited).exists()


def awaited(requirement: Requirement) -> bool:
    return bool(requirement.awaits) and not any(is_there(item) for item in requirement.awaits)


# --- marks ---------------------------------------------------------------------------------------------------


def marks_of(path: Path) -> dict[str, Marked]:
    """Requirement -> what in a file carries its mark."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    file = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    whole = {name for node in tree.body if isinstance(node, ast.Assign)
             and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
             for name in _named(node.value)}
    single: dict[str, list[str]] = {}
    for test in tests:
        for decorator in test.decorator_list:
            for name in _named(decorator):
                single.setdefault(name, []).append(test.name)
    every = tuple(test.name for test in tests)
    return {name: Marked(file, tuple(found), False) for name, found in single.items()} | {
        name: Marked(file, every, True) for name in whole}


def _named(node: ast.AST) -> list[str]:
    """Literal arguments of `pytest.mark.requirement(...)`, alone or in a list."""
    return [argument.value for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "requirement"
            for argument in call.args if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]


def collect(folder: Path = ROOT / "tests") -> dict[str, list[Marked]]:
    """Requirement -> the tests that carry its mark, file by file."""
    found: dict[str, list[Marked]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for name, marked in marks_of(path).items():
            found.setdefault(name, []).append(marked)
    return found


def selftests() -> dict[str, list[str]]:
    """Requirement -> the checks of `thymodel selftest` that are evidence for it."""
    found: dict[str, list[str]] = {}
    for check in (*installation.CHECKS, *operation.CHECKS):
        for name in check.covers:
            found.setdefault(name, []).append(check.key)
    return found


# --- what is missing -----------------------------------------------------------------------------------------


def gaps(requirements: dict[str, Requirement], marked: dict[str, list[Marked]]) -> list[str]:
    """What breaks the chain, a sentence each; nothing is allowed to."""
    told = [f"{name}: no test carries its mark" for name, item in requirements.items()
            if not any(found.tests for found in marked.get(name, [])) and not awaited(item)]
    told += [f"{found.file}: marked with {name}, which is no requirement" for name, files in marked.items()
             if name not in requirements for found in files]
    told += [f"selftest {', '.join(keys)}: names {name}, which is no requirement"
             for name, keys in selftests().items() if name not in requirements]
    covered = {command for item in requirements.values() for command in item.commands}
    told += [f"thymodel {command}: no requirement names it" for command in sorted(commands() - covered)]
    names = {name for item in requirements.values() for name in item.names}
    told += [f"thymodel.{name}: no requirement names it" for name in sorted(set(thymodel.__all__) - names)]
    told += [f"{item.id}: names {thing}, which is not there and which it does not await" for item in
             requirements.values() if not item.awaits
             for thing in (*sorted(set(item.commands) - commands()), *sorted(set(item.names) - set(thymodel.__all__)))]
    return told


# --- the matrix ----------------------------------------------------------------------------------------------


def page_text(requirements: dict[str, Requirement], marked: dict[str, list[Marked]]) -> str:
    checks, lines = selftests(), [
        "# Requirements, risks and tests", "",
        "Made by `python qualification/trace_matrix.py` from `qualification/requirements.toml` and the marks of the "
        "tests; do not edit.", "",
        f"{len(requirements)} requirements; {sum(map(awaited, requirements.values()))} await what this version does "
        "not have. Severity, likelihood (were nothing done) and detection are the developers' judgement, for a site to "
        "review for its own use. The risk is that of severity and likelihood together, one step lower where detection "
        "is high and one higher where it is low. A file without test names carries the mark as a whole. The tests run "
        "with `pytest`; some that need data of others are skipped where these are absent.", ""]
    for area in dict.fromkeys(item.area for item in requirements.values()):
        lines += [f"## {area.capitalize()}", "",
                  "| id | requirement | commands and names | if it fails | severity, likelihood, detection: risk | "
                  "against it | tests | selftest |", "|---|---|---|---|---|---|---|---|"]
        lines += [_line(item, marked.get(item.id, []), checks.get(item.id, []))
                  for item in requirements.values() if item.area == area]
        lines.append("")
    return "\n".join(lines)


def _line(item: Requirement, marked: list[Marked], checks: list[str]) -> str:
    used = [f"`thymodel {name}`" for name in item.commands] + [f"`{name}`" for name in item.names]
    risk = f"{item.risk.severity}, {item.risk.likelihood}, {item.risk.detection}: **{item.risk.level}**"
    tests = "awaits " + ", ".join(item.awaits) if awaited(item) else "; ".join(_shown(found) for found in marked)
    cells = (item.id, item.statement, ", ".join(used), item.effect, risk, "; ".join(item.mitigations), tests,
             ", ".join(checks))
    return "| " + " | ".join(cells) + " |"


def _shown(found: Marked) -> str:
    link = f"[{found.file.removeprefix('tests/')}](../../{found.file})"
    return link if found.whole else f"{link}: {', '.join(name.removeprefix('test_') for name in found.tests)}"


def sheet_text(requirements: dict[str, Requirement], marked: dict[str, list[Marked]]) -> str:
    """A row a requirement and file, for a tool that takes tables; a requirement without tests has one row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "area", "statement", "commands", "names", "effect", "severity", "likelihood", "detection",
                     "risk", "mitigations", "awaits", "file", "tests"])
    for item in requirements.values():
        tests = [(found.file, "all" if found.whole else " ".join(found.tests)) for found in marked.get(item.id, [])]
        for file, names in tests or [("", "")]:
            writer.writerow([item.id, item.area, item.statement, "; ".join(item.commands), " ".join(item.names),
                             item.effect, item.risk.severity, item.risk.likelihood, item.risk.detection,
                             item.risk.level, "; ".join(item.mitigations), "; ".join(item.awaits), file, names])
    return out.getvalue()


def main() -> None:
    requirements, marked = load_requirements(), collect()
    told = gaps(requirements, marked)
    (OUT / PAGE).write_text(page_text(requirements, marked), encoding="utf-8")
    (OUT / SHEET).write_text(sheet_text(requirements, marked), encoding="utf-8")
    print("\n".join(told) or f"{len(requirements)} requirements, no gap")
    if told:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
