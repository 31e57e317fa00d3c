"""Known vulnerabilities and licences of what is installed.

    python qualification/audit.py [--seconds 180]

Vulnerabilities are asked for by pip-audit, which needs the network. Where there is none, or the service knows none of
the packages, it says so and goes on: CI must neither hang nor pass over in silence that nothing was audited. A known
vulnerability ends with status 1, unless `qualification/accepted_advisories.toml` accepts it with a reason. Licences are
read from the packages themselves, the extras for users included; one that binds those who pass the package on ends with
status 1.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from thymodel.results import inventory

ACCEPTED = Path(__file__).with_name("accepted_advisories.toml")
EXTRAS = ("dask", "explorer", "notebooks", "sbml")  # what users may install; `test`, `dev` and `bench` go nowhere
COMMAND = (sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "15",
           "--skip-editable")


class Audit(NamedTuple):
    """What to print, and whether it is good."""

    lines: tuple[str, ...]
    good: bool


def read_answer(text: str, accepted: Mapping[str, str]) -> Audit:
    """What pip-audit's JSON says. Its own closing line reads the same whether it looked at all packages or at none."""
    try:
        packages: list[dict[str, Any]] = list(json.loads(text)["dependencies"])
    except (ValueError, KeyError, TypeError):
        return Audit(("not audited: no answer from the service (no network?)",), True)
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        return Audit((f"not audited: the service could be asked about none of {len(packages)} packages",), True)
    found = [(package, flaw) for package in asked for flaw in package.get("vulns", [])]
    lines, good = [], True
    for package, flaw in found:
        reason = next((accepted[name] for name in (flaw["id"], *flaw.get("aliases", [])) if name in accepted), None)
        repaired = ", ".join(flaw.get("fix_versions", [])) or "none yet"
        good &= reason is not None
        lines.append(f"{package['name']} {package['version']}: {flaw['id']}, repaired in: {repaired}"
                     + (f"; accepted: {reason}" if reason is not None else ""))
    lines.append(f"{len(asked)} of {len(packages)} packages audited, {len(found)} known vulnerabilities")
    return Audit(tuple(lines), good)


def load_accepted(path: Path = ACCEPTED) -> dict[str, str]:
    """Advisory -> why it does not matter here; each needs a reason."""
    found = tomllib.loads(path.read_text(encoding="utf-8")).get("accepted", {})
    wrong = [name for name, reason in found.items() if not isinstance(reason, str) or not reason.strip()]
    if wrong:
        raise ValueError(f"{path}: without a reason: {', '.join(wrong)}")
    return found


def ask(seconds: float, command: tuple[str, ...] = COMMAND) -> str:
    """pip-audit's JSON; empty where it is not installed, finds no network, or takes longer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False,
                              stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def vulnerabilities(seconds: float) -> Audit:
    """Of everything in this environment, the tools of developers included."""
    accepted = load_accepted()
    if importlib.util.find_spec("pip_audit") is None:
        return Audit(('not audited: pip-audit is not installed (pip install -c constraints.txt ".[dev]")',), True)
    return read_answer(ask(seconds), accepted)


def licences() -> Audit:
    """Of everything that users may have installed with the package."""
    here = inventory.installed()
    used = [here[name] for name in sorted(inventory.runtime(here, EXTRAS))]
    wrong = inventory.forbidden(used)
    return Audit((*wrong, f"{len(used)} packages for users, {len(wrong)} with a licence that is absent or binds "
                  "others"), not wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description="Known vulnerabilities and licences of what is installed.")
    parser.add_argument("--seconds", type=float, default=180.0, help="after which the service is given up")
    asked = parser.parse_args()
    parts = {"vulnerabilities": vulnerabilities(asked.seconds), "licences": licences()}
    for name, audit in parts.items():
        for line in audit.lines:
            print(f"{name}: {line}")
    if not all(audit.good for audit in parts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
