"""The tree that goes with a submission: records, data, data sets, programs, outputs, a guide, and how to rebuild it.

After the FDA's page "Model/Data Format": data sets as transport files with a define file, programs and output listings
of each major step as text, a reviewer's guide with the order of execution. The tree is made beside its place and
renamed, so that it is there whole or not at all.
"""

import csv
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import thymodel
from thymodel.documents.import_file import account_path
from thymodel.documents.limits import LARGEST_RECORD, read_bytes
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError
from thymodel.results import guide, rebuilding
from thymodel.results.define import Defined, define_table, define_xml
from thymodel.results.guide import Bundled
from thymodel.results.planning import planned_digest
from thymodel.results.rebuilding import DATA, PROGRAMS, RECORD, SCENARIOS
from thymodel.results.record import JSON, FitRecord, find_data, intact, load_record, write_file
from thymodel.results.study import load_study
from thymodel.results.transport import save_xpt

MANIFEST, REBUILD, CONSTRAINTS, GUIDE = "manifest.csv", "rebuild.py", "constraints.txt", "reviewers-guide.md"
SOFTWARE = "software"
_NEEDED = ("pyreadstat", "packaging", "markdown-it-py")
REPORT = "report.html"
_BESIDE = ("design.toml", "plan.toml")  # documents that a person wrote beside the spec
_TEXT = {".csv", ".html", ".json", ".md", ".py", ".tex", ".toml", ".txt", ".xml"}
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bundle:
    """What was written: where, how much, the digest of its manifest, and what had to be left out, record by record."""

    folder: Path
    files: int
    size: int
    data_sets: int
    manifest: str
    left_out: Mapping[str, Sequence[str]]


def save_bundle(folders: Sequence[str | Path], out: str | Path, data: str | Path | None = None,
                stage: Callable[[str], None] = lambda text: None) -> Bundle:
    """Writes a bundle of records.

    Data go with a record that says where they lie beside its spec, or where `data` gives them; those of other records
    stay where they are, and the guide says so.

    Args:
        folders: directories of records.
        out: absent, or an empty directory.
        data: the study data of the only record.
        stage: is told what is being done.

    Raises:
        InputError: every fault of what was asked; data that are not those of the record; a package that is missing.
        RecordError: a record that does not verify.
        SolveError: a course could not be computed.
    """
    out = Path(out)
    loaded = _load(folders, out, data)
    built = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        bundled = [_bundle_record(record, name, built, data, stage) for name, record in _named(loaded).items()]
        stage("software and guide")
        _write_software(built / SOFTWARE)
        _write_documents(built, bundled)
        _refuse_private(built, [record.folder for record in loaded])
        written = _write_manifest(built)
        built.chmod(0o755)
        if out.is_dir():
            out.rmdir()  # empty, as was checked
        os.replace(built, out)
    except OSError as error:
        raise InputError([Fault(f"--out {out}", f"the bundle was not written: {error.strerror}",
                                "make room, or name another folder")]) from None
    finally:
        shutil.rmtree(built, ignore_errors=True)
    paths = [path for path, _ in written]
    return Bundle(out, len(paths), sum(size for _, size in written), sum(path.endswith(".xpt") for path in paths),
                  digest((out / MANIFEST).read_bytes()), {one.name: one.left_out for one in bundled})


def _load(folders: Sequence[str | Path], out: Path, data: str | Path | None) -> list[FitRecord]:
    """The records, intact; every fault of what was asked at once."""
    faults, loaded = _faults_of_place(out), []
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        try:
            loaded.append(load_record(folder))
        except InputError as error:
            faults += error.faults
    if data is not None and len(folders) != 1:
        faults.append(Fault(f"--data {data}", "of which of the records?", "bundle that record alone"))
    faults += [Fault(f"bundle: {name}", "this package is needed, and is not installed",
                     "pip install 'thymodel[bundle]'") for name in _NEEDED if not _installed(name)]
    if not faults and data is not None:
        load_study(loaded[0].spec, data)
    if faults:
        raise InputError(faults)
    for record in loaded:
        intact(record)
        _refuse_other_data(record)
    return loaded


def _refuse_other_data(record: FitRecord) -> None:
    path = find_data(record, None)
    if path is not None and digest(path.read_bytes()) != record.content["data"]["sha256"]:
        raise InputError([Fault(str(path), "not the data of this record (sha256 differs)",
                                "bring the data back that were fitted")])


def _faults_of_place(out: Path) -> list[Fault]:
    where = f"--out {out}"
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        return [Fault(where, "not a folder", "name a new one")]
    if out.is_dir() and any(out.iterdir()):
        return [Fault(where, "holds files already; a bundle is written once", "name a new folder")]
    if not out.parent.is_dir():
        return [Fault(where, f"no folder {out.parent}", "make it first")]
    return [] if os.access(out.parent, os.W_OK) else [Fault(where, "may not be written to", "name another folder")]


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _plain(name: str) -> str:
    """Lower case, without spaces, as names in a submission are; the ending stays."""
    stem, dot, ending = name.lower().rpartition(".")
    ending = re.sub(r"[^a-z0-9]+", "-", ending) if dot else ending
    return (re.sub(r"[^a-z0-9]+", "-", stem if dot else ending).strip("-") or "file") + (f".{ending}" if dot else "")


def _named(loaded: Sequence[FitRecord]) -> dict[str, FitRecord]:
    """A folder's name for each record, numbered where two would be the same."""
    found: dict[str, FitRecord] = {}
    for record in loaded:
        name = plain = _plain(str(record.content["name"]).replace(".", "-"))
        if plain in (SOFTWARE, "env"):
            name = plain = f"{plain}-record"
        number = 1
        while name in found:
            number += 1
            name = f"{plain}-{number}"
        found[name] = record
    return found


# --- one record ----------------------------------------------------------------------------------------------


def _bundle_record(record: FitRecord, name: str, built: Path, data: str | Path | None,
                   stage: Callable[[str], None]) -> Bundled:
    """The record as it is, what people wrote, and all that is computed from these in the bundle itself."""
    place, bundled = built / name, Bundled(record, name)
    stage(f"{name}: copying")
    for file in (*record.content["files"], JSON, *([REPORT] if _lies_in(record.folder, REPORT) else [])):
        _copy(record.folder / file, place / RECORD / file)
    _copy_data(bundled, place, data)
    _copy(record.folder / "spec.toml", place / PROGRAMS / "spec.toml")
    model = f"{record.content['model']['name']}.toml"
    _copy(record.folder / model, place / PROGRAMS / model)
    for file in _BESIDE:
        if _lies_in(record.folder, file):
            _copy(record.folder / file, place / PROGRAMS / file)
    _copy_scenarios(bundled, place)
    if not planned_digest(record.content):
        bundled.left_out.append("criteria and deviations: no analysis plan was set down before the fit")
    for path, content, made in rebuilding.recompute(place):
        stage(f"{name}: {path}")
        _write(place / path, content)
        if made is not None:
            transport = Path(path).with_suffix(".xpt")
            save_xpt(made, place / transport)
            bundled.defined.append(Defined(made, name, f"{name}/{transport.as_posix()}"))
    return bundled


def _copy_data(bundled: Bundled, place: Path, data: str | Path | None) -> None:
    record = bundled.record
    if not record.spec.has_data:
        bundled.left_out.append("no patients' data: fitted to published figures, which are in record/")
        return
    path = find_data(record, None if data is None else Path(data))
    if path is not None:
        _copy(path, place / DATA / _plain(str(record.content["data"]["name"])))
        _copy_account(record, path, place)
        return
    where = f" ({record.spec.data_where})" if record.spec.data_where else ""
    bundled.left_out.append(f"the study data{where}, sha256 {record.content['data']['sha256']}: they do not lie beside "
                            "the spec, so they do not travel; EVENTS and INDPRED, which would show them, are left out")


def _copy_account(record: FitRecord, data: Path, place: Path) -> None:
    """What became of every row of the source, where `thymodel import` made these very data."""
    account = account_path(data)
    try:
        made = json.loads(read_bytes(account, LARGEST_RECORD, "an account"))["data_sha256"]
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # there is none, or it is no account
    if made == record.content["data"]["sha256"]:
        _copy(account, place / PROGRAMS / _plain(account.name))


def _copy_scenarios(bundled: Bundled, place: Path) -> None:
    """Scenarios beside the record, those that can be run from the bundle alone."""
    for path in sorted((bundled.record.folder / "scenarios").glob("*.toml")):
        if path.name.startswith(".") or not _lies_in(bundled.record.folder, f"scenarios/{path.name}"):
            continue
        if bundled.record.reservation:
            bundled.left_out.append(f"scenario {path.name}: {bundled.record.reservation}")
            continue
        copied = place / SCENARIOS / _plain(path.name)
        _copy(path, copied)
        try:
            rebuilding.refuse_unreadable(bundled.record, copied)
        except InputError as error:
            copied.unlink()
            told = "; ".join(f"{fault.where.split('/')[-1]}: {fault.what}" for fault in error.faults)
            bundled.left_out.append(f"scenario {path.name}, which cannot be run from here: {told}")


def _lies_in(folder: Path, name: str) -> bool:
    """Whether it is a file there, and no link to one that lies elsewhere: that would travel unseen."""
    path = folder / name
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _copy(source: Path, target: Path) -> None:
    _write(target, source.read_bytes())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


# --- what belongs to all -------------------------------------------------------------------------------------


def _write_software(folder: Path) -> None:
    """The package's source as it runs here, so that pip can install it, with its models and its licence."""
    place = folder / f"thymodel-{thymodel.__version__}"
    models = _PACKAGE / "models" if (_PACKAGE / "models").is_dir() else _PACKAGE.parent / "models"
    for root, into in ((_PACKAGE, place / "thymodel"), (models, place / "thymodel" / "models")):
        for path in sorted(root.rglob("*")):
            parts = path.relative_to(root).parts
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts):
                _copy(path, into.joinpath(*parts))
    _write(place / "pyproject.toml", _project().encode())
    _write(place / "license.txt", _licence())


def _project() -> str:
    """A pyproject.toml that needs nothing but the folder."""
    needs = "".join(f"    {_quoted(need)},\n" for need in _requirements())
    return (f'[build-system]\nrequires = ["hatchling>=1.25"]\nbuild-backend = "hatchling.build"\n\n[project]\n'
            f'name = "thymodel"\nversion = "{thymodel.__version__}"\nlicense = "Apache-2.0"\n'
            f'license-files = ["license.txt"]\nrequires-python = ">=3.11"\ndependencies = [\n{needs}]\n\n'
            '[project.scripts]\nthymodel = "thymodel.cli:main"\n\n[tool.hatch.build.targets.wheel]\n'
            'packages = ["thymodel"]\n')


def _quoted(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


def _requirements() -> list[str]:
    """What the package needs itself, without its extras."""
    return [need for need in metadata.requires("thymodel") or [] if "extra ==" not in need]


def _licence() -> bytes:
    """From the checkout, or from what was installed."""
    beside = _PACKAGE.parent / "LICENSE"
    if beside.is_file():
        return beside.read_bytes()
    found = [file for file in metadata.files("thymodel") or [] if file.name == "LICENSE"]
    return Path(str(found[0].locate())).read_bytes() if found else b"Apache-2.0\n"


def versions() -> dict[str, str]:
    """Package -> version of all that the package needs, as installed here, sorted."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(need) for need in _requirements()]
    while todo:
        need = todo.pop()
        name, extras = re.sub(r"[-_.]+", "-", need.name).lower(), frozenset(need.extras)
        if (need.marker is not None and not need.marker.evaluate({"extra": ""})) or (name, extras) in seen:
            continue
        seen.add((name, extras))
        if not _installed(name):
            continue
        found[name] = metadata.version(name)
        for text in metadata.requires(name) or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                inner.marker = None
                todo.append(inner)
    return dict(sorted(found.items()))


def _write_documents(built: Path, bundled: Sequence[Bundled]) -> None:
    """Constraints, define file, rebuild.py, guide."""
    now, defined = datetime.now(UTC).isoformat(timespec="seconds"), [one for each in bundled for one in each.defined]
    lines = [f"# Versions that this bundle was made with (Python {platform.python_version()})",
             *(f"{name}=={version}" for name, version in versions().items())]
    _write(built / CONSTRAINTS, ("\n".join(lines) + "\n").encode())
    study = "-".join(each.name for each in bundled)[:60]
    titles = "; ".join(str(each.record.content["title"]) for each in bundled)
    _write(built / "define.xml", define_xml(study, titles, now, defined))
    tables = [define_table(one) for one in defined]
    _write(built / "define.csv", _define_csv(defined, tables))
    _write(built / "define.html", guide.tables_html("Data definitions", tables).encode())
    _write(built / REBUILD, (Path(__file__).parent / "templates" / REBUILD).read_bytes())
    text = guide.guide_markdown(bundled, now, versions(), guide.files_of(built))
    _write(built / GUIDE, text.encode())
    _write(built / "reviewers-guide.html", guide.page_html("Reviewer's guide", text).encode())


def _define_csv(defined: Sequence[Defined], tables: Iterable) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for k, (one, table) in enumerate(zip(defined, tables, strict=True)):
        if k == 0:
            writer.writerow(["record", *table.columns])
        writer.writerows([one.record, *row] for row in table.rows)
    return out.getvalue().encode()


def _refuse_private(built: Path, folders: Sequence[Path]) -> None:
    """Places on this machine tell who made a bundle, and mean nothing elsewhere.

    Raises:
        InputError: each file that names one.
    """
    own = (built.parent.resolve(), _PACKAGE.parent, *(folder.resolve().parent for folder in folders))
    places = {str(Path.home()), *(str(path) for path in own if len(path.parts) > 2)}  # shorter ones are words, too
    marks = [re.compile(rf"(?<![\w.~/-]){re.escape(place)}(?=[/\\\"'\s]|$)", re.MULTILINE)
             for place in sorted(places) if len(place) > 1]
    faults = []
    for path in sorted(path for path in built.rglob("*") if path.suffix in _TEXT and SOFTWARE not in path.parts):
        text = path.read_text(encoding="utf-8", errors="replace")
        faults += [Fault(path.relative_to(built).as_posix(), f"names a place on this machine: {found.group()}",
                         "name files in documents by paths relative to them, and fit again")
                   for mark in marks if (found := mark.search(text))]
    if faults:
        raise InputError(faults)


def _write_manifest(built: Path) -> list[tuple[str, int]]:
    """Digest, size and purpose of every file but itself; returns path and size of each."""
    out, written = io.StringIO(), []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sha256", "bytes", "path", "what"])
    for path in guide.files_of(built):
        content = (built / path).read_bytes()
        writer.writerow([digest(content), len(content), path, guide.purpose(path)])
        written.append((path, len(content)))
    _write(built / MANIFEST, out.getvalue().encode())
    return written
