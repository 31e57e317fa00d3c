"""A simulated study with known truth: the table that a trial would give, and every number behind it.

Each random number has an address (seed, arm, subject, purpose), so that more arms, subjects or observables leave what
was there unchanged, up to the tolerance of the solver.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import thymodel
from thymodel.documents.design import (
    Assay,
    CorrelatedError,
    Design,
    TrialArm,
    matrix_fault,
    planned_days,
    scale_faults,
    value_faults,
)
from thymodel.documents.expressions import closest
from thymodel.documents.measurement import COUNTS, ErrorModel, SharedError
from thymodel.documents.priors import Prior
from thymodel.documents.rows import DOSE, EVENTS, OBSERVATION, OTHER
from thymodel.dynamics import solving
from thymodel.errors import Fault, InputError
from thymodel.inference import likelihood, visits
from thymodel.inference.population import error_name, quantile, residual_matrix

COLUMNS = ("ID", "TIME", "EVID", "CMT", "AMT", "DVID", "DV", "CENS", "ARM")
MARK = "SIMULATED"  # last column, 1 in every row: no reader can take the table for patients
SIGNIFICANT_DIGITS = 4  # of DV and of covariates


@dataclass(frozen=True)
class Trial:
    """A simulated study.

    `truth["population"]` names values as a posterior does (B0, omega_B0, sigma_cd4); `truth["subjects"]` holds by ID
    the arm, covariates, random effects (on their scale, omega included), parameters, and the day of leaving, which may
    lie after the last visit (None: nobody leaves).
    """

    table: pd.DataFrame
    truth: dict[str, Any]
    seed: int
    design_digest: str
    model_digest: str
    version: str


@dataclass(frozen=True)
class _Person:
    """One subject before anything is measured; `visits` has a time for each planned day of the design."""

    id: int
    number: int
    arm: TrialArm
    covariates: Mapping[str, float]
    effects: Mapping[str, float]
    values: Mapping[str, float]
    visits: tuple[float, ...]
    leaves: float


def simulate_trial(design: Design, seed: int, truth: Mapping[str, float] | None = None) -> Trial:
    """A study drawn from a design; the same seed and design give the same study.

    Args:
        truth: values in place of the design's: parameters, omega_<effect>, sigma_<observable> and
            sigma_<key>_<observable>.

    Raises:
        InputError: a name in `truth` that the design lacks or a value that it cannot have.
        SolveError: the model cannot be integrated at these values.
    """
    if seed < 0:
        raise InputError([Fault("seed", f"{seed} is negative", "give a whole number from 0 on")])
    population = _population(design, truth or {})
    people = _enrol(design, population, seed)
    courses = _courses(design, people)
    measured = _measurements(design, population, people, courses, seed)
    acquired = {name: _acquired(design, name, people, seed) for name, assay in design.assays.items()
                if assay.event_limit is not None}
    return Trial(
        table=_table(design, people, measured, acquired), truth=_truth(design, population, people), seed=seed,
        design_digest=design.digest, model_digest=design.model.digest, version=thymodel.__version__)


def _random(seed: int, *address: object) -> np.random.Generator:
    """The generator at an address; unlike a counted spawn, it does not depend on what else is drawn."""
    words = hashlib.sha256(json.dumps([str(part) for part in address]).encode()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(words, "big")])


# --- truth ---------------------------------------------------------------------------------------------------


def _population(design: Design, truth: Mapping[str, float]) -> dict[str, float]:
    """Every parameter, omega and sigma by the name that a posterior gives it."""
    spreads = {f"omega_{name}": spread.sd for name, spread in design.between_subject.items()}
    sigmas = {error_name(observable, key): value for observable, assay in design.assays.items()
              for key, value in assay.parameters.items()}
    correlations = {name: value for block in design.correlated for name, value in block.correlations.items()}
    population = {**design.values, **spreads, **sigmas, **correlations}
    faults = [fault for name, value in truth.items() for fault in _override_faults(design, population, name, value)]
    population |= {name: float(value) for name, value in truth.items()}
    for effect, spread in design.between_subject.items():
        for parameter in spread.parameters:
            where = f"truth.{parameter} (varied by {effect})"
            faults += scale_faults(where, parameter, population[parameter], spread.scale)
    for block in design.correlated:
        wrong = matrix_fault(_matrix(block, population), len(block.observables))
        faults += [Fault(f"truth: residuals of {', '.join(block.observables)}", wrong)] if wrong else []
    if faults:
        raise InputError(faults)
    return population


def _matrix(block: CorrelatedError, population: Mapping[str, float]) -> np.ndarray:
    return np.asarray(residual_matrix(SharedError(block.observables, 1.0, ""), population))


def _override_faults(design: Design, population: Mapping[str, float], name: str, value: float) -> list[Fault]:
    where = f"truth.{name}"
    if name not in population:
        return [Fault(where, f"design {design.name} has no '{name}'{closest(name, population)}",
                      f"known: {', '.join(population)}")]
    if name in design.values:
        return value_faults(where, name, value, design.model)
    if any(name in block.correlations for block in design.correlated):
        return [] if abs(value) < 1 else [Fault(where, f"{value:g}; a correlation lies between -1 and 1")]
    if not (math.isfinite(value) and value >= 0):
        return [Fault(where, f"{value:g}; a standard deviation is finite, and 0 or more")]
    return []


def _truth(design: Design, population: Mapping[str, float], people: Sequence[_Person]) -> dict[str, Any]:
    return {
        "title": design.title,
        "population": dict(population),
        "subjects": {str(person.id): {
            "arm": person.arm.name, "covariates": dict(person.covariates), "random_effects": dict(person.effects),
            "parameters": dict(person.values), "left": person.leaves if math.isfinite(person.leaves) else None,
        } for person in people}}


# --- subjects ------------------------------------------------------------------------------------------------


def _enrol(design: Design, population: Mapping[str, float], seed: int) -> list[_Person]:
    places = [(arm, number) for arm in design.arms for number in range(1, arm.subjects + 1)]
    return [_person(design, population, seed, arm, number, k + 1) for k, (arm, number) in enumerate(places)]


def _person(design: Design, population: Mapping[str, float], seed: int, arm: TrialArm, number: int,
            identity: int) -> _Person:
    def random(*purpose: str) -> np.random.Generator:
        return _random(seed, arm.name, number, *purpose)

    effects = {name: population[f"omega_{name}"] * random("effect", name).standard_normal()
               for name in design.between_subject}
    covariates = {name: _rounded(_covariate(item, random("covariate", name)))
                  for name, item in design.covariates.items()}
    wait = random("dropout").standard_exponential()
    leaves = design.model.start + wait / design.dropout_rate if design.dropout_rate else math.inf
    return _Person(identity, number, arm, covariates, effects, _individual(design, population, effects),
                   _visit_times(design, random("visits")), leaves)


def _covariate(item: Prior | float, random: np.random.Generator) -> float:
    return float(quantile(item, random.standard_normal())) if isinstance(item, Prior) else item


def _individual(design: Design, population: Mapping[str, float], effects: Mapping[str, float]) -> dict[str, float]:
    values = {name: population[name] for name in design.values}
    for name, spread in design.between_subject.items():
        for parameter in spread.parameters:
            values[parameter] = _shift(spread.scale, values[parameter], effects[name])
    return values


def _shift(scale: str, value: float, shift: float) -> float:
    if scale == "log":
        return value * math.exp(shift)
    if scale == "logit":
        return value / (value + (1 - value) * math.exp(-shift))
    return value + shift


def _visit_times(design: Design, random: np.random.Generator) -> tuple[float, ...]:
    """A time for each planned day, uniform within the jitter, on a grid of tenths so that no two visits meet.

    Between near days the jitter is cut to less than half their distance, after the start to the distance from it.
    """
    days = np.round(10 * np.array(planned_days(design))).astype(int)
    start = math.ceil(10 * design.model.start - 1e-9)
    gaps = np.concatenate([[2 * (days[0] - start) + 1], np.diff(days), [10**9]])
    reach = np.minimum(math.floor(10 * design.jitter + 1e-9), (np.minimum(gaps[:-1], gaps[1:]) - 1) // 2)
    return tuple(float(tenths) / 10 for tenths in days + random.integers(-reach, reach + 1))


# --- measurements --------------------------------------------------------------------------------------------


def _courses(design: Design, people: Sequence[_Person]) -> np.ndarray:
    """Noise-free observables (subject, planned day, observable)."""
    start = design.model.start
    steps = {name: covariate.value for name, covariate in design.model.covariates.items()}
    schedules = [
        solving.plan(design.model, person.arm.doses,
                     {name: ((start, value),) for name, value in {**steps, **person.covariates}.items()},
                     person.visits)
        for person in people]
    values = {name: np.array([person.values[name] for person in people]) for name in design.values}
    names = [f"{person.id} (arm {person.arm.name})" for person in people]
    return solving.trajectories(design.model, values, schedules, tuple(design.assays), names=names)


def _measurements(design: Design, population: Mapping[str, float], people: Sequence[_Person], courses: np.ndarray,
                  seed: int) -> dict[str, np.ndarray]:
    """Values of each observable (subject, planned day) as an assay without limits reports them; NaN: not taken."""
    drawn: dict[str, np.ndarray] = {}
    names = list(design.assays)
    for block in design.correlated:
        drawn |= _draw_together(design, block, population, people,
                                courses[:, :, [names.index(name) for name in block.observables]], seed)
    drawn |= {name: _draw(design, name, population, people, courses[:, :, k], seed)
              for k, name in enumerate(names) if name not in drawn}
    result = {}
    for name in names:
        taken = np.stack([_taken(design, name, person, seed) for person in people])
        scale = design.assays[name].scale
        result[name] = np.where(taken, drawn[name] if scale is None else drawn[name] * scale.value, np.nan)
    return result


def _error(design: Design, observable: str, population: Mapping[str, float]) -> tuple[ErrorModel, dict[str, jax.Array]]:
    """An assay's error model and its parameters; priors have no part in a draw, where the parameters are known."""
    assay = design.assays[observable]
    sigma = {key: jnp.asarray(population[error_name(observable, key)]) for key in assay.parameters}
    scale = 1.0 if assay.scale is None else assay.scale.value
    return ErrorModel(observable, assay.family, {}, {}, assay.offset, assay.df, scale), sigma


def _keys(people: Sequence[_Person], seed: int, *purpose: str):
    words = [_random(seed, person.arm.name, person.number, *purpose).integers(2**32) for person in people]
    return jax.vmap(jax.random.key)(np.array(words, dtype=np.uint32))


def _draw(design: Design, observable: str, population: Mapping[str, float], people: Sequence[_Person],
          courses: np.ndarray, seed: int) -> np.ndarray:
    """Values (subject, planned day) of one observable by itself, in its unit."""
    error, sigma = _error(design, observable, population)
    return np.asarray(jax.vmap(lambda course, key: likelihood.draw_observation(error, sigma, course, key))(
        courses, _keys(people, seed, "noise", observable)))


def _draw_together(design: Design, block: CorrelatedError, population: Mapping[str, float], people: Sequence[_Person],
                   courses: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Values (subject, planned day) of the observables whose residuals at a visit are correlated."""
    errors, sigmas = zip(*[_error(design, name, population) for name in block.observables], strict=True)
    matrix = jnp.asarray(_matrix(block, population))
    drawn = np.asarray(jax.vmap(lambda course, key: visits.draw_visits(errors, sigmas, matrix, course, key))(
        courses, _keys(people, seed, "noise", *block.observables)))
    return {name: drawn[:, :, k] for k, name in enumerate(block.observables)}


def _acquired(design: Design, observable: str, people: Sequence[_Person], seed: int) -> np.ndarray:
    """Events of the parent gate (subject, planned day)."""
    item, days = design.assays[observable].acquired, len(planned_days(design))
    if not isinstance(item, Prior):
        return np.full((len(people), days), float(round(item)))
    normal = [_random(seed, p.arm.name, p.number, "events", observable).standard_normal(days) for p in people]
    return np.maximum(np.round(np.asarray(quantile(item, np.array(normal)))), 1.0)


def _taken(design: Design, observable: str, person: _Person, seed: int) -> np.ndarray:
    days = planned_days(design)
    missing = _random(seed, person.arm.name, person.number, "missing", observable).random(len(days)) < design.missing
    planned = np.isin(days, design.visits[observable])
    return planned & ~missing & (np.array(person.visits) <= person.leaves)


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _reported(assay: Assay, value: float, lloq: float) -> tuple[float, int]:
    """DV and CENS of a measurement."""
    value = float(round(value)) if assay.family in COUNTS else _rounded(value)
    if value < lloq:
        return lloq if assay.event_limit is None else _rounded(lloq), 1
    return (assay.uloq, -1) if value > assay.uloq else (value, 0)


def _visit(design: Design, values: Mapping[str, float], acquired: Mapping[str, float],
           ) -> dict[str, tuple[float, int]]:
    """DV and CENS of what was measured at one visit; a limit in events needs the parent's own value there."""
    found: dict[str, tuple[float, int]] = {}

    def report(name: str) -> None:
        assay, lloq = design.assays[name], design.assays[name].lloq
        if name in found or math.isnan(values[name]):
            return
        if assay.event_limit is not None:
            whole, parent = 1.0, assay.event_limit.parent
            if parent:
                report(parent)
                if parent not in found:
                    return
                whole = found[parent][0] / _scale(design.assays[parent])
            lloq = assay.event_limit.events / acquired[name] * whole * _scale(assay)
        found[name] = _reported(assay, values[name], lloq)

    for name in design.assays:
        report(name)
    return found


def _scale(assay: Assay) -> float:
    return 1.0 if assay.scale is None else assay.scale.value


# --- table ---------------------------------------------------------------------------------------------------


def _table(design: Design, people: Sequence[_Person], measured: Mapping[str, np.ndarray],
           acquired: Mapping[str, np.ndarray]) -> pd.DataFrame:
    rows = [row for k, person in enumerate(people)
            for row in _rows(design, person, {name: values[k] for name, values in measured.items()},
                             {name: values[k] for name, values in acquired.items()})]
    return pd.DataFrame(rows, columns=[*COLUMNS, *([EVENTS] if acquired else []), *design.covariates, MARK])


def _rows(design: Design, person: _Person, measured: Mapping[str, np.ndarray],
          acquired: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One subject's rows by time; at a dose time the observations stand first, for they precede the dose."""
    events: list[dict[str, Any]] = []
    for k, time in enumerate(person.visits):
        own = {name: values[k] for name, values in acquired.items()}
        found = _visit(design, {name: values[k] for name, values in measured.items()}, own)
        for name in design.assays:
            if name in found:
                value, censoring = found[name]
                events.append({"TIME": time, "EVID": OBSERVATION, "DVID": name, "DV": value, "CENS": censoring}
                              | ({EVENTS: own[name]} if name in own else {}))
    events += [{"TIME": dose.time, "EVID": DOSE, "CMT": dose.input, "AMT": dose.amount, "CENS": 0}
               for dose in person.arm.doses if dose.time <= person.leaves]
    # who left before any record still took part, and keeps a row
    events = events or [{"TIME": design.model.start, "EVID": OTHER, "CENS": 0}]
    common = {"ID": person.id, "ARM": person.arm.name, **person.covariates, MARK: 1}
    return [event | common for event in sorted(events, key=lambda event: event["TIME"])]


# --- files ---------------------------------------------------------------------------------------------------


def save_trial(trial: Trial, csv_path: str | Path) -> None:
    """The table as CSV and its truth as `<stem>.truth.json` beside it; files of the same content are left alone.

    Raises:
        InputError: a file of other content is there, or the place cannot be written to.
    """
    table = Path(csv_path)
    csv = trial.table.to_csv(index=False, na_rep=".", float_format="%.15g", lineterminator="\n").encode()
    truth = {
        "simulated": True, "seed": trial.seed, "design_sha256": trial.design_digest,
        "model_sha256": trial.model_digest, "data_sha256": hashlib.sha256(csv).hexdigest(),
        "thymodel": trial.version, **trial.truth}
    text = json.dumps(truth, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    contents = {table.with_suffix(".truth.json"): text.encode(), table: csv}
    faults = [fault for path, content in contents.items() for fault in _overwrite_faults(path, content)]
    if faults:
        raise InputError(faults)
    for path, content in contents.items():
        _write(path, content)


def _overwrite_faults(path: Path, content: bytes) -> list[Fault]:
    try:
        if path.read_bytes() == content:
            return []
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Fault(str(path), f"cannot be read: {error.strerror}", "give another file")]
    return [Fault(str(path), "a file of other content is there", "give another name, or remove it first")]


def _write(path: Path, content: bytes) -> None:
    """All of the file or nothing."""
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            part = file.name
            os.chmod(part, 0o644)
            file.write(content)
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise InputError([Fault(str(path), f"cannot be written: {error.strerror}", "check the folder")]) from None
