"""The reference problem for speed, as every benchmark here takes it: documents, data, and four published points.

The data are not part of this repository: THYMODEL_EXTERNAL names the folder of published problems, else
`shared/external` beside the checkout is taken. Source: MODEL.md and EXPECTED.json there.
"""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import norm

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec, SolverTable, load_fit_spec
from thymodel.results.fitting import load_study

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Problem:
    """`known` is EXPECTED.json; `z` the four points in the package's coordinates, `log_density` what they must give."""

    spec: FitSpec
    data: StudyData
    known: dict
    z: np.ndarray
    log_density: np.ndarray


@dataclass(frozen=True)
class Table:
    """The data as peers take them: doses and padded visits by subject, observations by row (numbers from 0)."""

    dose: np.ndarray
    dose_time: np.ndarray
    visits: np.ndarray
    subject: np.ndarray
    visit: np.ndarray
    observable: np.ndarray
    log_value: np.ndarray
    censored: np.ndarray


def folder() -> Path:
    """Raises SystemExit where the published problem is not at hand."""
    found = Path(os.environ.get("THYMODEL_EXTERNAL", _HERE.parents[1] / "shared" / "external")) / "reference_problem"
    if not found.is_dir():
        raise SystemExit(f"no reference problem at {found}; THYMODEL_EXTERNAL names the folder that holds it")
    return found


def load_problem() -> Problem:
    """The documents of tests/external beside the published data, in a folder that is gone afterwards."""
    known = json.loads((folder() / "EXPECTED.json").read_text())
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "problem"
        shutil.copytree(_HERE.parent / "tests" / "external" / "reference_problem", place)
        shutil.copyfile(folder() / "cohort.csv", place / "data.csv")
        digest = hashlib.sha256((place / "data.csv").read_bytes()).hexdigest()
        (place / "spec.toml").write_text((place / "spec.toml").read_text().replace("0" * 64, digest))
        spec = load_fit_spec(place)
        data = load_study(spec, None)[0]
    return Problem(spec, data, known, np.array([_coordinates(point, known) for point in known["points"]]),
                   np.array([point["log_density"] for point in known["points"]]))


def with_tolerance(spec: FitSpec, rtol: float) -> FitSpec:
    """The spec at another tolerance, absolute to relative as by default."""
    usual = SolverTable()
    return replace(spec, solver=SolverTable(rtol=rtol, atol=rtol * usual.atol / usual.rtol))


def _scales(known: dict) -> np.ndarray:
    omegas = [known["omega_halfnormal_scale"][name] for name in known["bsv"]]
    return np.array(omegas + [known["sigma_halfnormal_scale"]] * len(known["observables"]))


def _coordinates(point: dict, known: dict) -> np.ndarray:
    positive = np.exp([*point["log_omega"], *point["log_sigma"]])
    half_normal = -norm.ppf(2 * norm.sf(positive / _scales(known)))
    return np.concatenate([point["z_population"], half_normal, np.ravel(point["eta"])])


def published_vector(point: dict) -> np.ndarray:
    """A point in the published coordinates, which peers sample in: z, log omega, log sigma, eta by subject."""
    return np.concatenate([point["z_population"], point["log_omega"], point["log_sigma"], np.ravel(point["eta"])])


def log_prior(problem: Problem) -> np.ndarray:
    """Of each point, as published: -x^2/2 of each normal, -x^2/(2 scale^2) + log x of each half-normal."""
    return np.array([_log_prior(point, _scales(problem.known)) for point in problem.known["points"]])


def _log_prior(point: dict, scales: np.ndarray) -> float:
    logs = np.array([*point["log_omega"], *point["log_sigma"]])
    normal = np.concatenate([point["z_population"], np.ravel(point["eta"])])
    return float(-0.5 * np.sum(normal**2) + np.sum(logs - 0.5 * (np.exp(logs) / scales) ** 2))


def dropped_constants(problem: Problem) -> float:
    """What the published likelihood leaves out: log(2 pi)/2, and log DV, for it is a density of log DV."""
    values = [o.value for subject in problem.data.subjects for o in subject.observations if o.censoring == 0]
    return float(np.sum(np.log(values)) + 0.5 * np.log(2 * np.pi) * len(values))


def load_table(known: dict) -> Table:
    """Rows of cohort.csv; a subject's last visit fills its row of visits."""
    with (folder() / "cohort.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    subjects = list(dict.fromkeys(row["ID"] for row in rows))
    doses = {row["ID"]: row for row in rows if row["EVID"] == "1"}
    seen = [row for row in rows if row["EVID"] == "0"]
    times = {name: sorted({float(row["TIME"]) for row in seen if row["ID"] == name}) for name in subjects}
    most = max(len(own) for own in times.values())
    return Table(
        dose=np.array([float(doses[name]["AMT"]) for name in subjects]),
        dose_time=np.array([float(doses[name]["TIME"]) for name in subjects]),
        visits=np.array([times[name] + times[name][-1:] * (most - len(times[name])) for name in subjects]),
        subject=np.array([subjects.index(row["ID"]) for row in seen]),
        visit=np.array([times[row["ID"]].index(float(row["TIME"])) for row in seen]),
        observable=np.array([known["observables"].index(row["DVID"]) for row in seen]),
        log_value=np.log([float(row["DV"]) for row in seen]),
        censored=np.array([row["CENS"] == "1" for row in seen]))
