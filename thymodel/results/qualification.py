"""`thymodel selftest`: the checks of an installation and of its operation, in order, and a report of them."""

import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

import thymodel
from thymodel.errors import Fault, InputError
from thymodel.results import installation, inventory, operation
from thymodel.results.checklist import Result, perform
from thymodel.results.frames import TEMPLATES
from thymodel.results.record import write_file
from thymodel.results.titled_table import TitledTable

PARTS = {"IQ": "Installation", "OQ": "Operation"}
REPORTS = {".html": "selftest.html.j2", ".htm": "selftest.html.j2", ".md": "selftest.md.j2"}
_COLUMNS = ("check", "requirement", "expected", "found", "outcome", "seconds")
_NOTE = "Seconds by the clock. An outcome of \u201cnote\u201d is neither good nor bad here: the reader judges it."
_NOTES = {"IQ": (_NOTE,), "OQ": (_NOTE, "OQ-09 includes the compilation and sampling of the tiny fit, which later "
                                 "checks use.")}


@dataclass(frozen=True)
class Selftest:
    """What `selftest` found; `environment` says where, when and of which version."""

    results: tuple[Result, ...]
    environment: dict[str, str]
    packages: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether no check failed; notes are for the reader to judge."""
        return all(result.outcome != "fail" for result in self.results)

    def tables(self) -> tuple[TitledTable, ...]:
        """The parts, the environment and the packages, as documents set them."""
        parts = tuple(TitledTable(
            key=f"selftest-{part.lower()}", title=f"{name} qualification", columns=_COLUMNS,
            rows=tuple((r.key, r.requirement, r.expected, r.found, r.outcome, f"{r.seconds:.1f}")
                       for r in self.results if r.key.startswith(part)), notes=_NOTES[part])
            for part, name in PARTS.items())
        pins = inventory.pinned()
        return (*parts,
                TitledTable("selftest-environment", "Environment", ("what", "value"), tuple(self.environment.items())),
                TitledTable("selftest-packages", "Packages used at run time", ("package", "here", "tested with"),
                            tuple((name, version, pins.get(name, "not listed"))
                                  for name, version in self.packages.items())))


def selftest(progress: Callable[[int, int], None] = lambda done, total: None) -> Selftest:
    """Qualifies this installation and its operation: minutes at most, offline, without the tests' packages.

    Args:
        progress: called with the number of checks done, and of all.

    Returns:
        A result a check; a check that could not be made has failed. No file is left but in the compile cache.

    Raises:
        InputError: the package was not installed, but runs from its sources.
    """
    inventory.own()
    count, results = len(installation.CHECKS) + len(operation.CHECKS), []
    progress(0, count)

    def note(result: Result) -> None:
        results.append(result)
        progress(len(results), count)

    with tempfile.TemporaryDirectory(prefix="thymodel-selftest-") as folder:
        workshop = operation.Workshop(Path(folder))
        for installed in installation.CHECKS:
            note(perform(installed, Path(folder)))
        for operates in operation.CHECKS:
            note(perform(operates, workshop))
    here = inventory.installed()
    used = sorted(inventory.runtime(here) - {inventory.NAME})
    return Selftest(tuple(results), _environment(), {name: here[name].version for name in used})


def _environment() -> dict[str, str]:
    return {"thymodel": thymodel.__version__, "Python": platform.python_version(), "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(), "cores": str(os.cpu_count()),
            "place": str(inventory.ROOT),
            "THYMODEL_SOLVER": os.environ.get("THYMODEL_SOLVER", "not set"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds")}


def selftest_json(found: Selftest) -> str:
    """What `thymodel selftest --json` prints."""
    return json.dumps({"passed": found.passed, "checks": [asdict(r) for r in found.results],
                       "environment": found.environment, "packages": found.packages}, indent=1, ensure_ascii=False)


def selftest_text(found: Selftest, form: str) -> str:
    """The report; `form` is a suffix of `REPORTS`."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=form != ".md",
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = lambda text: " ".join(
        str(text).replace("|", "\\|").replace("<", "&lt;").split())
    counts = {outcome: sum(r.outcome == outcome for r in found.results) for outcome in ("pass", "fail", "note")}
    return environment.get_template(REPORTS[form]).render(found=found, counts=counts, tables=found.tables())


def refuse_report(path: Path, forms: tuple[str, ...] = tuple(REPORTS)) -> None:
    """Said before the minutes that a self-test takes, not after them.

    Raises:
        InputError: a suffix of no known form, or a folder that is not there or may not be written to.
    """
    faults = []
    if path.suffix.lower() not in forms:
        faults.append(Fault(str(path), f"'{path.suffix}' is no form of it", f"one of: {', '.join(forms)}"))
    if path.is_dir():
        faults.append(Fault(str(path), "a folder", "name a file in it"))
    elif not path.parent.is_dir():
        faults.append(Fault(str(path), "no such folder", "make it first"))
    elif not os.access(path.parent, os.W_OK):
        faults.append(Fault(str(path.parent), "may not be written to", "name another folder"))
    if faults:
        raise InputError(faults)


def save_text(text: str, path: Path) -> None:
    """Writes a report or a bill of materials, whole or not at all.

    Raises:
        InputError: the disk is full, or the place may not be written to.
    """
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise InputError([Fault(str(path), f"cannot be written: {error.strerror}")]) from None
