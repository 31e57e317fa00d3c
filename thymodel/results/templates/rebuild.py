"""Rebuilds this bundle: checks every file against manifest.csv, then computes every table again and compares.

    python -m venv env
    env/bin/pip install -c constraints.txt ./software/thymodel-*
    env/bin/python rebuild.py

One line a file; exit status 0 if all are as they were, 1 if any differs. Nothing is written, and no network is used.
"""

import csv
import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # the software's folder is listed in the manifest, and stays as it is


def check_manifest() -> list[str]:
    """What is changed, absent, or there and not listed; an environment in `env` is not looked at."""
    with open(HERE / "manifest.csv", newline="", encoding="utf-8") as file:
        listed = {row["path"]: row for row in csv.DictReader(file)}
    wrong = []
    for name, row in listed.items():
        path = HERE / name
        if not path.is_file():
            wrong.append(f"{name}: absent")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            wrong.append(f"{name}: changed (sha256 differs)")
        elif str(path.stat().st_size) != row["bytes"]:
            wrong.append(f"manifest.csv: the size of {name} was changed")
    for path in sorted(HERE.rglob("*")):
        name = path.relative_to(HERE).as_posix()
        if path.is_file() and name not in {*listed, "manifest.csv"} and not name.startswith("env/"):
            wrong.append(f"{name}: not in the manifest")
    print(f"manifest.csv: {len(listed)} files listed, {len(wrong)} faults", flush=True)
    return wrong


def check_versions() -> None:
    """Says where another version is installed than the bundle was made with."""
    from importlib import metadata

    for line in (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if line.startswith("#") or not version:
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not installed"
        if found != version:
            print(f"note: {name} {version} made this bundle, here it is {found}")


def main() -> int:
    wrong = check_manifest()
    for line in wrong:
        print(line)
    try:
        import thymodel
        from thymodel.results.rebuilding import compare
    except ImportError as error:
        print(f"thymodel is not installed here ({error}): see the head of this file")
        return 1
    print(f"thymodel {thymodel.__version__}, Python {sys.version.split()[0]}")
    check_versions()
    for record in sorted(HERE.glob("*/record/record.json")):
        place = record.parent.parent
        for name, difference in compare(place):
            print(f"{place.name}/{name}: {difference or 'identical'}", flush=True)
            if difference:
                wrong.append(name)
    print("rebuilt: every file is as it was" if not wrong else f"NOT as it was: {len(wrong)} faults, each named above")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
