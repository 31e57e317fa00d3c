"""The fit record on disk: written once, read back, verified without refitting.

A directory holds a record if and only if `record.json` is there. Everything else is written before it, each file whole
or not at all, so that a full disk or a killed process leaves either the old state or the new.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from thymodel.documents.borrowed import load_borrowed
from thymodel.documents.cards import card
from thymodel.documents.data import NO_PATIENTS, StudyData, load_data
from thymodel.documents.limits import LARGEST_DATA, LARGEST_RECORD, read_bytes
from thymodel.documents.spec import FitSpec, load_fit_spec
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError, RecordError, shown
from thymodel.inference import approximation, diagnostics
from thymodel.inference.population import Layout, layout
from thymodel.inference.posterior import make_posterior, precise
from thymodel.results import borrowing, changes, planning
from thymodel.results.array_claims import refuse_claims
from thymodel.results.migration import SCHEMA, migrate

JSON, POSTERIOR, DERIVED, TABLE = "record.json", "posterior.nc", "derived.nc", "table.csv"
CURVES = "curves.nc"  # what figures draw; nothing is quoted from it
_KEYS = {"name": str, "title": str, "created": str, "priors": list, "fixed": dict, "summary": dict, "published": list,
         "run": dict, "run.options": dict, "warnings": list, "conventions": dict, "simulated": bool,
         "verdict.passed": bool, "verdict.sentences": list, "model.name": str,
         "data.sha256": str, "data.subjects": list, "files": dict, "parameters": list, "units": dict, "endpoints": dict,
         "sampler": dict, "fixed_points": list, "digest": str}
_NAMED = 8  # files beside a record that a note names
_LOG_DENSITY_TOLERANCE = 1e-4  # absolute, in log units: ten times what solver tolerances of 1e-6 leave between machines


@dataclass(frozen=True)
class FitRecord:
    """A record as read: the JSON in the newest schema, its directory and its digest; `written` is the JSON as it lies
    there, which the digest is of. Arrays are read when they are asked for."""

    folder: Path
    content: Mapping[str, Any]
    digest: str
    written: Mapping[str, Any] = field(repr=False)

    @property
    def passed(self) -> bool:
        return bool(self.content["verdict"]["passed"])

    @property
    def method(self) -> str:
        """nuts, or another reading of the log density; records made before there were others do not say."""
        return str(self.content["sampler"].get("method", approximation.NUTS))

    @property
    def failed(self) -> bool:
        """Whether gates were asked, and not met."""
        return self.method == approximation.NUTS and not self.passed

    @property
    def reservation(self) -> str:
        """Why no number of it may be quoted, to stand wherever its numbers do; empty if they may."""
        if self.method != approximation.NUTS:
            return f"APPROXIMATION by {approximation.NAMES[self.method]}: not for quotation"
        return "FAILED its gates: may not be quoted" if self.failed else ""

    @cached_property
    def spec(self) -> FitSpec:
        spec = load_fit_spec(self.folder / "spec.toml", self.folder / f"{self.content['model']['name']}.toml")
        return spec if spec.prior_from is None else replace(spec, borrowed=load_borrowed(self.folder / borrowing.FILE))

    @property
    def layout(self) -> Layout:
        data = self.content["data"]
        return layout(self.spec, tuple(data["subjects"]), data.get("study", ()))

    @property
    def z(self) -> np.ndarray:
        """Draws in the coordinates of the log density, (chain, draw, coordinate)."""
        group = load_group(self.folder / POSTERIOR, "unconstrained_posterior")
        if "z" not in group:
            raise RecordError(f"{self.folder / POSTERIOR}: no draws of the coordinates (z)")
        return np.asarray(group["z"])

    @property
    def table(self) -> pd.DataFrame:
        return read_table(self.folder / TABLE)

    def _repr_html_(self) -> str:
        told = [f"Record {self.content['name']}, {self.digest[:12]}; {'' if self.reservation else 'passed its gates; '}"
                f"{len(self.content['data']['subjects'])} subjects."]
        table = self.table.reindex(self.content["parameters"])[["median", "q05", "q95", "rhat", "ess_bulk"]]
        rows = [{"parameter": name, "unit": self.content["units"].get(str(name), "1")}
                | {key: f"{value:.4g}" for key, value in row.items()} for name, row in table.iterrows()]
        return card(self.content["title"], told, rows, bool(self.content["simulated"]), self.reservation)


def read_table(source) -> pd.DataFrame:
    """`table.csv` from a path or a stream, every number as it was written.

    Raises:
        RecordError: not such a table.
    """
    content = source.read() if hasattr(source, "read") else read_bytes(Path(source), LARGEST_DATA, "a summary table")
    try:
        if content.partition(b"\n")[0].strip() != ",".join(("name", *diagnostics.COLUMNS)).encode():
            raise ValueError("other columns than a summary has")
        texts = pd.read_csv(io.BytesIO(content), index_col="name", dtype=str, keep_default_na=False)
        if not texts.index.is_unique or list(texts.columns) != list(diagnostics.COLUMNS):
            raise ValueError("a name twice, or rows of another length")
        table = texts.map(lambda text: float(text or "nan"))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise RecordError(shown(f"{source}: not a table of a record ({error})")) from None
    return table


def row_of(table: pd.DataFrame, name: str) -> dict[str, float]:
    """One row of the summary table: mean, sd, median, q05, q95 and the diagnostics."""
    return {str(key): float(value) for key, value in zip(table.columns, table.loc[[name]].to_numpy()[0], strict=True)}


def load_group(path: Path, group: str | None = None) -> xr.Dataset:
    """One group of a netCDF file, in memory.

    Raises:
        RecordError: absent or not netCDF.
    """
    try:
        refuse_claims(path)
        with xr.open_dataset(path, group=group, engine="h5netcdf") as dataset:
            return dataset.load()
    except RecordError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError and RuntimeError for damaged files
        raise RecordError(f"{path}: cannot be read as netCDF ({type(error).__name__})") from None


def load_record(folder: str | Path) -> FitRecord:
    """The record in a directory.

    Raises:
        InputError: no record there, or not JSON of a schema that this version reads.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == JSON else folder
    path = folder / JSON
    if not path.exists():
        raise InputError([Fault(str(folder), "no record here (record.json is absent)", "run thymodel fit")])
    try:
        written = json.loads(read_bytes(path, LARGEST_RECORD, "a record").decode(), object_pairs_hook=_once)
        _own_digest(written if isinstance(written, dict) else {})  # refuses NaN, infinities and broken characters
    except (ValueError, RecursionError) as error:
        raise InputError([Fault(str(path), f"cannot be read: {error}")]) from None
    if not isinstance(written, dict):
        raise InputError([Fault(str(path), "not a JSON object", "take the record from its source again")])
    content = migrate(written, str(path))
    faults = [Fault(f"{path}: {key}", "missing, or not what a record holds there",
                    "take the record from its source again")
              for key, kind in _KEYS.items() if not isinstance(_at(content, key), kind)]
    faults += [Fault(f"{path}: {key}", "neither a table nor null", "take the record from its source again")
               for key in ("parent", "documents", "fingerprints") if not isinstance(content.get(key), dict | None)]
    faults += [] if faults else [*_method_faults(path, content["sampler"]), *_shape_faults(path, content)]
    if faults:
        raise InputError(faults)
    return FitRecord(folder, content, str(content.get("digest", "")), written)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice would be read as one value here and as the other elsewhere, under the same digest."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _shape_faults(path: Path, content: Mapping[str, Any]) -> list[Fault]:
    """What readers of a record rely on, one level below its keys."""
    texts = {"parameters": content["parameters"], "verdict.sentences": content["verdict"]["sentences"],
             "data.subjects": content["data"]["subjects"], "files": [*content["files"].values()],
             "units": [*content["units"].values()], "data.path": [content["data"].get("path") or ""]}
    published = content.get("published") or []
    tables = published if isinstance(published, list) else [None]
    good = {key: all(isinstance(item, str) for item in items) for key, items in texts.items()}
    good["model.name"] = Path(content["model"]["name"]).name == content["model"]["name"]
    good["published"] = all(isinstance(item, dict) and isinstance(item.get("file"), str) for item in tables)
    good["fixed_points"] = all(isinstance(point, dict) and is_number(point.get("log_density")) and isinstance(
        point.get("z"), list) and all(map(is_number, point["z"])) for point in content["fixed_points"])
    return [Fault(f"{path}: {key}", "not what a record holds there", "take the record from its source again")
            for key, fine in good.items() if not fine]


def is_number(value: Any) -> bool:
    """Of what JSON gives: a truth value is a whole number to Python."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_prior_from(spec: FitSpec) -> FitSpec:
    """The spec with the prior that it takes from another record, where it does.

    Raises:
        InputError: no record there; one that failed its gates, was changed or may not be quoted; nothing to take.
    """
    if spec.prior_from is None:
        return spec
    where, folder = f"{spec.path}: prior_from.record", spec.path.parent / spec.prior_from.record
    try:
        record = load_record(folder)
        quotable(record)
    except InputError as error:
        raise InputError([Fault(where, str(error))]) from None
    except RecordError as error:
        raise InputError([Fault(where, str(error), "take a record that verifies and has passed")]) from None
    return replace(spec, borrowed=borrowing.borrow(spec, _source(record)))


def _source(record: FitRecord) -> borrowing.Source:
    group = load_group(record.folder / POSTERIOR, "posterior")
    draws = {str(name): variable.values.ravel() for name, variable in group.data_vars.items()
             if variable.dims == ("chain", "draw")}
    return borrowing.Source(record.folder, record.content, record.digest, record.spec, draws)


def _method_faults(path: Path, sampler: Mapping[str, Any]) -> list[Fault]:
    """A record says how its draws were made, and holds what that method leaves."""
    method = sampler.get("method", approximation.NUTS)
    if method not in approximation.METHODS:
        return [Fault(f"{path}: sampler.method", f"{method!r} is no method of this version",
                      f"one of: {', '.join(approximation.METHODS)}")]
    needed = ("divergences", "failed_solves", "steps") if method == approximation.NUTS else ("sentences",)
    return [Fault(f"{path}: sampler.{key}", f"missing from a record of method {method}",
                  "take the record from its source again") for key in needed if key not in sampler]


def _at(content: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key, None where there is none."""
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def holds_record(folder: Path) -> bool:
    return (folder / JSON).exists()


def refuse_existing(folder: Path) -> None:
    """A directory that holds a record is never written again.

    Raises:
        InputError: it holds one.
    """
    if holds_record(folder):
        raise InputError([Fault(str(folder), "holds a record already; records are written once", "use --out DIR")])


# --- writing -------------------------------------------------------------------------------------------------


def write_file(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all, also after a power failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")  # another process may write there at once
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def netcdf_bytes(groups: Mapping[str | None, xr.Dataset]) -> bytes:
    """Groups as one netCDF-4 file (group None is the root), compressed."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path, mode = Path(folder) / "out.nc", "w"
        for group, dataset in groups.items():
            packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
            encoding = {name: packed for name in dataset.data_vars
                        if dataset[name].ndim and dataset[name].dtype.kind == "f"}
            dataset.to_netcdf(path, mode=mode, group=group, engine="h5netcdf", encoding=encoding)
            mode = "a"
        return path.read_bytes()


def write_record(folder: Path, files: Mapping[str, bytes], content: Mapping[str, Any]) -> FitRecord:
    """Writes `files`, then `record.json` with their digests; only with the last does the record exist.

    Raises:
        InputError: the directory holds a record, or cannot be written to (disk full, no permission).
    """
    refuse_existing(folder)
    complete = {"schema": SCHEMA, **_in_json(content), "files": {name: digest(data) for name, data in files.items()}}
    complete = changes.seal(complete, files)
    complete["digest"] = _own_digest(complete)
    text = json.dumps(complete, indent=1, allow_nan=False, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_file(folder / name, data)
        write_file(folder / JSON, text.encode())
    except OSError as error:
        raise InputError([Fault(str(folder), f"the record was not written: {error.strerror}",
                                "make room or choose another --out, then use --resume: the draws are kept")]) from None
    return load_record(folder)


def _own_digest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "digest"}
    return digest(json.dumps(rest, sort_keys=True, ensure_ascii=False, allow_nan=False))


def _in_json(value: Any) -> Any:
    """Numbers that JSON lacks become null: a fit that went wrong is kept too, and its diagnostics may be NaN."""
    if isinstance(value, Mapping):
        return {key: _in_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(item) for item in value]
    return finite_or_none(value) if isinstance(value, float) else value


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


# --- verifying -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """`faults` is empty for an intact record; `notes` say what was checked and what could not be."""

    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def verify(record: FitRecord, data: Path | None = None) -> Verification:
    """Checks a record against itself, its files and, where the data are at hand, its log density.

    Args:
        data: the study data, when they are not where the record found them.
    """
    kept = changes.Kept(record.folder, record.written, record.content, lambda: record.spec,
                        lambda: quantities_table(record.folder))
    faults, notes = _check_digests(record), ["digests of record, files and inputs"]
    notes += planning.plan_notes(record.folder, record.content)
    if faults:
        faults = [changes.explain(kept, fault) for fault in faults] + _check_data(record, find_data(record, data))
    else:
        faults += _check_table(record) or changes.sealed_again(kept)
        notes.append("table and diagnostics recomputed from the draws")
        more, told = _check_prior_from(record)
        faults, notes = faults + more, notes + told
    if not faults:
        more, note = _check_log_density(record, data)
        faults += more
        notes += [note, *_check_parent(record), *_not_covered(record, data)]
    if record.method != approximation.NUTS:
        notes.append(f"approximation ({record.method}): not for quotation")
    elif not record.passed:
        notes.append("failed fit: may not be quoted")
    return Verification(tuple(faults), tuple(notes))


def _not_covered(record: FitRecord, data: Path | None) -> list[str]:
    """What lies beside the record's files and is none of them: no digest tells whether it was changed."""
    known = {JSON, *record.content["files"]}
    path = find_data(record, data)
    names = sorted(one.name + "/" * one.is_dir() for one in record.folder.iterdir()
                   if one.name not in known and not one.name.startswith(".")
                   and not (path is not None and one.resolve() == path.resolve()))
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return [f"no digest covers {', '.join([*names[:_NAMED], *more])}"] if names else []


def _check_digests(record: FitRecord) -> list[Fault]:
    faults = []
    if _own_digest(record.written) != record.digest:
        faults.append(Fault(str(record.folder / JSON), changes.JSON_CHANGED))
    else:
        faults += [Fault(str(record.folder / JSON), f"a number was changed: {text} stands there for {float(text)!r}")
                   for text in _miswritten(record.folder / JSON)]
    prior = [borrowing.FILE] if record.content.get("prior_from") else []
    needed = {POSTERIOR, TABLE, "spec.toml", *prior, f"{record.content['model']['name']}.toml",
              *(str(table["file"]) for table in record.content.get("published") or [])}
    faults += [Fault(str(record.folder / JSON), f"does not list {name}")
               for name in sorted(needed - set(record.content["files"]))]
    faults += planning.plan_faults(record.folder, record.content)
    for name, wanted in record.content["files"].items():
        path = record.folder / name
        if Path(name).name != name or name == ".." or "\0" in name or "\\" in name:
            faults.append(Fault(str(record.folder / JSON), f"a file name that leaves the directory: {name!r}"))
        elif not path.is_file():
            faults.append(Fault(str(path), "absent"))
        elif path.resolve().parent != record.folder.resolve():
            faults.append(Fault(str(path), "a link that leaves the directory", "put the file itself there"))
        elif _file_digest(path) != wanted:
            faults.append(Fault(str(path), changes.CHANGED))
    return faults


def _file_digest(path: Path) -> str:
    """As `digest` of its content, of which there may be more than memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _miswritten(path: Path) -> list[str]:
    """Numbers with a digit that no program wrote: one past what a float holds leaves the value, and so the digest."""
    found = []

    def keep(text: str) -> float:
        value = float(text)
        if repr(value) != text:
            found.append(text)
        return value

    try:
        json.loads(path.read_text(encoding="utf-8"), parse_float=keep)
    except (OSError, ValueError):
        return []
    return found


def _check_data(record: FitRecord, path: Path | None) -> list[Fault]:
    """Whether the study data, where they are at hand, are those of the fit."""
    data = record.content["data"]
    if not data["subjects"] or path is None or _file_digest(path) == data["sha256"]:
        return []
    return [Fault(str(path), "not the data of this record (sha256 differs)")]


def _check_parent(record: FitRecord) -> list[str]:
    """Whether the record that this one goes on from is still the one that it was."""
    parent = record.content["parent"]
    if parent is None or not all(isinstance(parent.get(key), str) for key in ("record", "digest")):
        return [] if parent is None else ["the parent is not named as a record names one"]
    folder = record.folder / parent["record"]
    if not holds_record(folder):
        return [f"parent not compared: no record at {parent['record']}"]
    found = load_record(folder).digest
    return ["parent as recorded" if found == parent["digest"] else
            f"the parent {parent['record']} is another record now ({found[:12]}, recorded {parent['digest'][:12]})"]


def _check_table(record: FitRecord) -> list[Fault]:
    recomputed = quantities_table(record.folder)
    stored = record.table
    if list(stored.index) != list(recomputed.index):
        return [Fault(str(record.folder / TABLE), "its rows are not those of the draws")]
    same = np.isclose(stored.to_numpy(), recomputed.to_numpy(), rtol=1e-8, atol=1e-300, equal_nan=True)
    faults = [Fault(str(record.folder / TABLE), f"row {name}, column {stored.columns[k]}: {float(stored.iloc[row, k])} "
                    f"differs from the draws, {float(recomputed.iloc[row, k])}")
              for row, name in enumerate(stored.index) for k in np.flatnonzero(~same[row])]
    if told := list(changes.told_of_summary(record.content, (record.folder / TABLE).read_bytes())):
        faults.append(Fault(str(record.folder / JSON), changes.some(told)))
    try:
        verdict = verdict_of(record.spec, recomputed, record.content["sampler"], record.content["certificate"])
    except (KeyError, TypeError, ValueError):
        return [*faults, Fault(str(record.folder / JSON), "sampler or certificate is not what a verdict is made of")]
    if verdict.passed != record.passed:
        faults.append(Fault(str(record.folder / JSON), "the verdict does not follow from the draws"))
    return faults


def quantities_table(folder: Path) -> pd.DataFrame:
    """The summary table of the draws in a directory: population quantities, random effects, endpoints."""
    return diagnostics.summary_table(draws_in(folder))


def draws_in(folder: Path) -> dict[str, np.ndarray]:
    """Draws of every quantity of the table, (chain, draw), from the files in a directory."""
    rows: dict[str, np.ndarray] = {}
    for path, group in ((POSTERIOR, "posterior"), (DERIVED, None)):
        if (folder / path).exists():
            rows |= named_draws(load_group(folder / path, group))
    return rows


def named_draws(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """name or name[label] -> (chain, draw), in the naming of `arviz.summary`."""
    rows = {}
    for name, variable in dataset.data_vars.items():
        if variable.dims[:2] != ("chain", "draw"):
            continue
        if variable.ndim == 2:
            rows[str(name)] = variable.values
        else:
            labels = variable.coords[variable.dims[2]].values
            rows |= {f"{name}[{label}]": variable.values[:, :, k] for k, label in enumerate(labels)}
    return rows


def verdict_of(spec: FitSpec, table: pd.DataFrame, sampler: Mapping[str, Any],
               certificate: Mapping[str, Any]) -> diagnostics.Verdict:
    """The verdict on a summary table; what single subjects have of their own is reported beside it, not gated.
    No gate can judge another reading than NUTS."""
    method = str(sampler.get("method", approximation.NUTS))
    if method != approximation.NUTS:
        return approximation.verdict(method, sampler["sentences"])
    gated = table.loc[[name for name in table.index if not str(name).startswith(("re_", "missing_"))]]
    return diagnostics.judge(gated, sampler["divergences"], sampler["failed_solves"], sampler["steps"], spec.gates,
                             certificate, [str(sampler.get(key, "")) for key in ("way", "modes", "longer")])


def _check_prior_from(record: FitRecord) -> tuple[list[Fault], list[str]]:
    """Whether the prior that a fit took is still what the other record says, where that is at hand."""
    spec = record.spec
    if spec.prior_from is None or spec.borrowed is None:
        return [], []
    folder = record.folder / spec.prior_from.record
    if not holds_record(folder):
        return [], [f"prior not compared: no record at {spec.prior_from.record}"]
    where, kept = str(record.folder / borrowing.FILE), spec.borrowed
    try:
        found = with_prior_from(spec).borrowed
    except InputError as error:
        return [Fault(where, f"the record that the prior comes from may not be used: {error}")], []
    assert found is not None
    if found.source["digest"] != kept.source.get("digest"):
        return [Fault(where, f"the prior is from record {str(kept.source.get('digest'))[:12]}, and {folder} is now "
                      f"{found.source['digest'][:12]}", "fit again, or bring that record back")], []
    same = (found.names == kept.names and found.own_weight == kept.own_weight
            and np.allclose(found.mean, kept.mean, rtol=1e-6, atol=1e-8)
            and np.allclose(found.covariance, kept.covariance, rtol=1e-6, atol=1e-8))
    return ([] if same else [Fault(where, "not what the other record says")]), ["prior recomputed from its record"]


def _check_log_density(record: FitRecord, data: Path | None) -> tuple[list[Fault], str]:
    spec = record.spec
    study: StudyData = NO_PATIENTS
    if spec.has_data:
        path = find_data(record, data)
        if path is None:
            return [], "log density not recomputed: data absent"
        if changed := _check_data(record, path):
            told = [*changes.told_of_data(path.read_bytes(), record.content), *_effect_of_data(record, path)]
            return [changed[0]._replace(what=f"{changed[0].what}: {changes.some(told)}")], "data changed"
        study = load_data(path, spec.model, spec.columns)
    points, faults = record.content["fixed_points"], []
    for k, (point, value) in enumerate(zip(points, _log_densities(record, study), strict=True)):
        if not abs(value - point["log_density"]) <= _LOG_DENSITY_TOLERANCE:
            faults.append(Fault(str(record.folder / JSON), f"log density at fixed point {k + 1} is {value:.6f}, "
                                f"recorded {point['log_density']:.6f}"))
    return faults, f"log density recomputed at {len(points)} points"


def _log_densities(record: FitRecord, study: StudyData) -> list[float]:
    """At the record's fixed points, with these data."""
    points = np.array([point["z"] for point in record.content["fixed_points"]])
    posterior = make_posterior(precise(record.spec), study, points)
    return [float(posterior.log_density(jnp.asarray(point))) for point in points]


def _effect_of_data(record: FitRecord, path: Path) -> list[str]:
    """What other data do to the log density; or why they cannot be read as those of this study."""
    try:
        study = load_data(path, record.spec.model, record.spec.columns)
    except InputError as error:
        return [f"and they are refused ({error})"]
    if [subject.id for subject in study.subjects] != record.content["data"]["subjects"]:
        return ["with other subjects"]
    point, value = record.content["fixed_points"][0], _log_densities(record, study)[0]
    return [f"log density at fixed point 1 recorded {point['log_density']:.6f}, with these data {value:.6f}"]


def refuse_without_patients(record: FitRecord) -> None:
    """Published figures alone leave no measurement to set beside a prediction.

    Raises:
        InputError: the fit had no patients.
    """
    if not record.spec.has_data:
        raise InputError([Fault(str(record.folder), "fitted to published figures only: no patients to compare with",
                                "thymodel report sets each figure beside what the fit predicts")])


def find_data(record: FitRecord, data: Path | None) -> Path | None:
    """The study data: as given, else where the record says, else None."""
    if data is not None:
        if not data.is_file():
            raise InputError([Fault(str(data), "no such file")])
        return data
    relative = record.content["data"]["path"]
    path = record.folder / relative if relative else None
    return path if path is not None and path.is_file() else None


# --- quoting -------------------------------------------------------------------------------------------------


def quotable(record: FitRecord) -> None:
    """Raises RecordError for a failed fit, another reading than NUTS, or a record whose files changed."""
    if record.method != approximation.NUTS:
        raise RecordError(f"{record.folder}: made by --method {record.method}, an approximation that may not be "
                          "quoted. hint: fit by NUTS (thymodel fit without --method, into another --out), and quote "
                          "that record")
    if not record.passed:
        reasons = "; ".join(s for s in record.content["verdict"]["sentences"] if s.startswith("FAIL"))
        raise RecordError(f"{record.folder}: a failed fit may not be quoted ({reasons})")
    intact(record)


def intact(record: FitRecord) -> None:
    """Raises RecordError for a record whose files changed, or whose data did where it found them."""
    untouched(record)
    if faults := _check_data(record, find_data(record, None)):
        raise RecordError("\n".join(str(fault) for fault in faults))


def untouched(record: FitRecord) -> None:
    """Raises RecordError for a record whose own files changed; its data may have been replaced by newer ones."""
    if faults := _check_digests(record):
        raise RecordError("\n".join(str(fault) for fault in faults))


def quote(record: FitRecord, names: list[str]) -> list[dict[str, Any]]:
    """Estimates with the digits that their Monte-Carlo error allows, the interval named, the record's digest.

    Raises:
        RecordError: failed fit, another reading than NUTS, or changed files.
        InputError: a name that the table lacks.
    """
    quotable(record)
    table, unknown = record.table, []
    for name in names:
        if name not in table.index:
            import difflib

            near = difflib.get_close_matches(name, list(table.index), n=3)
            unknown.append(Fault(f"quote {name}", "no such quantity in the table",
                                 f"one of: {', '.join(near or list(table.index[:8]))}"))
    if unknown:
        raise InputError(unknown)
    return [_quotation(record, name, row_of(table, name)) for name in names]


def _quotation(record: FitRecord, name: str, row: Mapping[str, float]) -> dict[str, Any]:
    units = record.content["units"]
    error = row["mcse_mean"]
    return {"name": name, "unit": units.get(name.split("[")[0], "1"),
            "median": _round(row["median"], error), "mean": _round(row["mean"], error),
            "sd": _round(row["sd"], row["mcse_sd"]),
            "interval": [_round(row["q05"], 2 * error), _round(row["q95"], 2 * error)],
            "interval_kind": diagnostics.INTERVAL_NAME, "mcse_mean": finite_or_none(error),
            "simulated": record.content["simulated"], "record": record.digest}


def _round(value: float, error: float) -> float | None:
    """`value` to the last digit that the Monte-Carlo error leaves meaningful; three digits where it is not known."""
    if not math.isfinite(value):
        return None
    if not 0 < error < math.inf:
        return float(f"{value:.6g}" if error == 0 else f"{value:.3g}")
    digits = -math.floor(math.log10(2 * error))
    return round(value, digits) if digits > 0 else int(round(value, digits))  # 158 and not 158.0: no decimal is known
