"""What a simulated study does and what is true in it: arms, visits, assays, and the values to be recovered.

A design says everything that a real protocol and nature would say together. Numbers are in the model's units; days
are in the model's time unit, counted as the model counts them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic

from thymodel.documents import priors
from thymodel.documents.expressions import closest
from thymodel.documents.measurement import (
    EventLimit,
    EventLimitTable,
    Family,
    Scale,
    ScaleTable,
    SharedError,
    error_faults,
    overlap_faults,
    read_event_limit,
    read_scale,
    shared_error_faults,
)
from thymodel.documents.model import Model, Number, Text, load_model, shipped_models
from thymodel.documents.priors import Prior
from thymodel.documents.regimen import Dose, dose_faults
from thymodel.documents.spec import DoseTable, NonNegative, Positive, Whole
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.errors import Fault, InputError

VISIT_GRID = 0.1  # days; visit times are written with one decimal
MOST_SUBJECTS = 100_000  # more is a typing error, and would fill the memory
_NO_NAME = frozenset({"", ".", "NA"})  # what study data read as missing


# --- as written ----------------------------------------------------------------------------------------------


class SpreadTable(Table):
    """A random effect of `sd` on `scale`, added to each of `parameters` (default: the one it is named after)."""

    sd: NonNegative
    scale: Literal["log", "logit", "natural"] = "log"
    parameters: list[str] = []


class TruthTable(Table):
    """Parameter = value where the truth differs from the model file."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]
    between_subject: dict[str, SpreadTable] = {}


class AcquiredLimitTable(EventLimitTable):
    """`acquired`: events of the parent gate in a sample, a number or a prior that says how they differ."""

    acquired: Positive | str


class AssayTable(Table):
    """Residual error as in a fit spec, with numbers for priors; `lloq` and `uloq` in the unit the assay reports."""

    error: Family
    parameters: dict[str, NonNegative] = {}
    offset: NonNegative = 0.0
    df: Positive | None = None
    lloq: Positive | None = None
    uloq: Positive | None = None
    scale: ScaleTable | None = None
    event_limit: AcquiredLimitTable | None = None


class CorrelatedErrorTable(Table):
    """Observables of one sample and the correlation matrix of their residuals, in their order."""

    observables: list[str]
    matrix: list[list[Number]]


class TrialArmTable(Table):
    subjects: Whole
    doses: list[DoseTable] = []
    label: str = ""


class VisitsTable(Table):
    """`observables` gives one observable days of its own; `missing` is the probability per measurement."""

    days: list[Number] = []
    observables: dict[str, list[Number]] = {}
    jitter: NonNegative = 0.0
    missing: Annotated[float, pydantic.Strict(False), pydantic.Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0


class DropoutTable(Table):
    rate: NonNegative


class DesignDocument(Table):
    title: Text
    model: Text
    arms: dict[str, TrialArmTable]
    error: dict[str, AssayTable]
    visits: VisitsTable
    truth: TruthTable = pydantic.Field(default_factory=lambda: TruthTable.model_validate({}))
    covariates: dict[str, Number | str] = {}
    dropout: DropoutTable = DropoutTable(rate=0.0)
    residual_correlation: list[CorrelatedErrorTable] = []


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A random effect: normal with `sd` on `scale`, the same draw for each of `parameters`."""

    parameters: tuple[str, ...]
    scale: str
    sd: float


@dataclass(frozen=True)
class Assay:
    """Residual error of one observable and the limits of its assay, -inf and inf where there is none.

    `acquired`: events of the parent gate in a sample, where `event_limit` is the assay's limit.
    """

    family: str
    parameters: Mapping[str, float]
    offset: float
    df: float
    lloq: float
    uloq: float
    scale: Scale | None = None
    event_limit: EventLimit | None = None
    acquired: Prior | float = math.nan


@dataclass(frozen=True)
class CorrelatedError:
    """Observables of one sample, the name of each pair's correlation and its true value."""

    observables: tuple[str, ...]
    correlations: Mapping[str, float]


@dataclass(frozen=True)
class TrialArm:
    name: str
    label: str
    subjects: int
    doses: tuple[Dose, ...]


@dataclass(frozen=True)
class Design:
    """A checked design. `values` holds every model parameter, `visits` the planned days of each observable.

    A visit lies within `jitter` of its day; a subject leaves at `dropout_rate` per time unit from the model's start.
    """

    name: str
    title: str
    digest: str
    model: Model
    values: Mapping[str, float]
    between_subject: Mapping[str, Spread]
    assays: Mapping[str, Assay]
    arms: tuple[TrialArm, ...]
    covariates: Mapping[str, Prior | float]
    visits: Mapping[str, tuple[float, ...]]
    jitter: float
    missing: float
    dropout_rate: float
    correlated: tuple[CorrelatedError, ...] = ()


def load_design(path: str | Path) -> Design:
    """A design from its file, or from the directory that holds `design.toml`.

    Raises:
        InputError: every fault of the design, or of its model.
    """
    path = Path(path)
    path = path / "design.toml" if path.is_dir() else path
    text, where = read_text(path), str(path)
    document = parse_document(text, DesignDocument, where)
    model = _load_model(path, document.model)
    faults: list[Fault] = []
    design = Design(
        name=path.stem, title=document.title, digest=digest(text), model=model,
        values=_values(where, document, model, faults),
        between_subject=_between_subject(where, document, model, faults),
        assays=_assays(where, document, model, faults), arms=_arms(where, document, model, faults),
        covariates=_covariates(where, document, model, faults), visits=_visits(where, document, model, faults),
        jitter=document.visits.jitter, missing=document.visits.missing, dropout_rate=document.dropout.rate,
        correlated=_correlated(where, document, faults))
    if faults:
        raise InputError(faults)
    return design


def _load_model(path: Path, name: str) -> Model:
    if name in shipped_models():
        return load_model(name)
    if not (path.parent / name).is_file():
        hint = f"give a path relative to this file, or one of: {', '.join(shipped_models())}"
        raise InputError([Fault(f"{path}: model", f"no such model '{name}'", hint)])
    return load_model(path.parent / name)


def _known(where: str, path: str, name: str, names, kind: str, faults: list[Fault]) -> bool:
    if name not in names:
        faults.append(Fault(f"{where}: {path}", f"no {kind} '{name}'{closest(name, names)}",
                            f"known: {', '.join(names)}"))
    return name in names


def _values(where: str, document: DesignDocument, model: Model, faults: list[Fault]) -> dict[str, float]:
    given = document.truth.__pydantic_extra__ or {}
    for name, value in given.items():
        if _known(where, f"truth.{name}", name, model.parameters, "parameter", faults):
            faults += value_faults(f"{where}: truth.{name}", name, value, model)
    return {name: given.get(name, parameter.value) for name, parameter in model.parameters.items()}


def value_faults(where: str, name: str, value: float, model: Model) -> list[Fault]:
    """What is wrong with a true value: outside the support of its prior, no fit could find it."""
    prior = model.parameters[name].prior
    low, high = priors.support(prior) if prior else (-math.inf, math.inf)
    if not math.isfinite(value):
        return [Fault(where, f"{value:g} is not a finite number")]
    if low < value < high:
        return []
    return [Fault(where, f"{value:g} lies outside ({low:g}, {high:g}), the support of {prior}")]


def _between_subject(where: str, document: DesignDocument, model: Model, faults: list[Fault]) -> dict[str, Spread]:
    spreads = {name: Spread(tuple(table.parameters or [name]), table.scale, table.sd)
               for name, table in document.truth.between_subject.items()}
    given = document.truth.__pydantic_extra__ or {}
    for name, spread in spreads.items():
        path = f"truth.between_subject.{name}"
        for parameter in spread.parameters:
            if _known(where, path, parameter, model.parameters, "parameter", faults):
                value = given.get(parameter, model.parameters[parameter].value)
                faults += scale_faults(f"{where}: {path}.scale", parameter, value, spread.scale)
    return spreads


def scale_faults(where: str, parameter: str, value: float, scale: str) -> list[Fault]:
    """A value that has no place on the scale on which subjects vary."""
    fits = {"log": value > 0, "logit": 0 < value < 1, "natural": True}[scale]
    what = f"{parameter} = {value:g} has no place on the {scale} scale"
    return [] if fits else [Fault(where, what, "choose another scale or value")]


def _assays(where: str, document: DesignDocument, model: Model, faults: list[Fault]) -> dict[str, Assay]:
    if not document.error:
        faults.append(Fault(f"{where}: error", "nothing is measured", "add [error.<observable>]"))
    unit_of = {name: item.unit for name, item in model.observables.items()}
    found = {}
    for name, table in document.error.items():
        path = f"{where}: error.{name}"
        faults += _assay_faults(path, table)
        scale = limit = None
        if _known(where, f"error.{name}", name, model.observables, "observable", faults):
            scale = read_scale(path, table.error, unit_of[name], table.scale, faults)
            limit = read_event_limit(path, name, table.event_limit, unit_of, table.error, faults)
        if limit is not None and limit.parent and limit.parent in unit_of and limit.parent not in document.error:
            faults.append(Fault(f"{path}.event_limit.parent", f"{limit.parent} is not measured",
                                f"add [error.{limit.parent}]"))
        found[name] = Assay(table.error, dict(table.parameters), table.offset, table.df or 0.0,
                            table.lloq or -math.inf, table.uloq or math.inf, scale, limit,
                            _acquired(path, table, faults))
    for name in found:
        if name in _ancestors(name, found):
            faults.append(Fault(f"{where}: error.{name}.event_limit.parent", "the parents of this gate form a ring"))
    return found


def _ancestors(name: str, assays: Mapping[str, Assay]) -> list[str]:
    found: list[str] = []
    while name in assays and (limit := assays[name].event_limit) is not None and limit.parent not in found:
        name = limit.parent
        found.append(name)
    return found


def _acquired(path: str, table: AssayTable, faults: list[Fault]) -> Prior | float:
    if table.event_limit is None:
        return math.nan
    try:
        given = table.event_limit.acquired
        return priors.parse_prior(given) if isinstance(given, str) else given
    except ValueError as error:
        faults.append(Fault(f"{path}.event_limit.acquired", str(error), "or give one number for every sample"))
        return math.nan


def _assay_faults(where: str, table: AssayTable):
    yield from error_faults(where, table.error, table.parameters, table.offset, table.df)
    if table.error != "student_t" and table.df is not None:
        yield Fault(f"{where}.df", f"{table.error} error has no degrees of freedom", "remove it")
    if table.lloq and table.uloq and table.lloq >= table.uloq:
        yield Fault(f"{where}.uloq", f"{table.uloq:g} is not above the lloq, {table.lloq:g}")
    if table.lloq and table.event_limit:
        yield Fault(f"{where}.lloq", "given beside event_limit, which is the assay's limit", "keep one of the two")


def _correlated(where: str, document: DesignDocument, faults: list[Fault]) -> tuple[CorrelatedError, ...]:
    family_of = {name: (table.error, table.df or 0.0) for name, table in document.error.items()}
    found, path = [], f"{where}: residual_correlation"
    for k, table in enumerate(document.residual_correlation):
        faults += shared_error_faults(f"{path}.{k}", table.observables, family_of)
        names, matrix = SharedError(tuple(table.observables), 1.0, ""), np.zeros((0, 0))
        if [len(row) for row in table.matrix] == [len(table.observables)] * len(table.observables):
            matrix = np.array(table.matrix, float)
        wrong = matrix_fault(matrix, len(table.observables))
        if wrong:
            faults.append(Fault(f"{path}.{k}.matrix", wrong, "for example matrix = [[1, 0.5], [0.5, 1]]"))
        else:
            values = [matrix[i, j] for j in range(len(matrix)) for i in range(j)]
            found.append(CorrelatedError(names.observables, dict(zip(names.names, values, strict=True))))
    faults += overlap_faults(path, [table.observables for table in document.residual_correlation])
    return tuple(found)


def matrix_fault(matrix: np.ndarray, size: int) -> str:
    """Why this is no correlation matrix of so many observables; empty where it is one."""
    if matrix.shape != (size, size):
        return f"not {size} rows of {size} numbers"
    if not (np.allclose(matrix, matrix.T, rtol=0, atol=1e-12) and np.all(np.diag(matrix) == 1)):
        return "not symmetric with ones on the diagonal"
    return "" if np.linalg.eigvalsh(matrix)[0] > 1e-9 else "not positive definite: no residuals have these correlations"


def _arms(where: str, document: DesignDocument, model: Model, faults: list[Fault]) -> tuple[TrialArm, ...]:
    if not document.arms:
        faults.append(Fault(f"{where}: arms", "no arm", "add [arms.<name>] with subjects"))
    if (total := sum(table.subjects for table in document.arms.values())) > MOST_SUBJECTS:
        faults.append(Fault(f"{where}: arms", f"{total} subjects; at most {MOST_SUBJECTS}"))
    return tuple(_arm(where, name, table, model, faults) for name, table in document.arms.items())


def _arm(where: str, name: str, table: TrialArmTable, model: Model, faults: list[Fault]) -> TrialArm:
    path = f"{where}: arms.{name}"
    if name in _NO_NAME or name != name.strip():
        faults.append(Fault(path, f"'{name}' cannot be told from a missing value in study data", "rename it"))
    doses = tuple(Dose(item.day, item.input or next(iter(model.inputs), ""), item.amount) for item in table.doses)
    for k, dose in enumerate(doses):
        faults += dose_faults(f"{path}.doses.{k}", dose, model)
        if (dose.time, dose.input) in [(other.time, other.input) for other in doses[:k]]:
            faults.append(Fault(f"{path}.doses.{k}", f"a second dose of {dose.input} on day {dose.time:g}",
                                "add the amounts"))
    return TrialArm(name, table.label or name, table.subjects, doses)


def _covariates(where: str, document: DesignDocument, model: Model, faults: list[Fault]) -> dict[str, Prior | float]:
    result: dict[str, Prior | float] = {}
    for name, item in document.covariates.items():
        path = f"covariates.{name}"
        _known(where, path, name, model.covariates, "covariate", faults)
        try:
            result[name] = priors.parse_prior(item) if isinstance(item, str) else item
        except ValueError as error:
            faults.append(Fault(f"{where}: {path}", str(error), "or give one number for everybody"))
    return result


def _visits(where: str, document: DesignDocument, model: Model, faults: list[Fault]) -> dict[str, tuple[float, ...]]:
    table = document.visits
    for name in table.observables:
        _known(where, f"visits.observables.{name}", name, document.error, "[error] table for", faults)
    days = {name: tuple(table.observables.get(name, table.days)) for name in document.error}
    given = {"visits.days": table.days} | {f"visits.observables.{n}": d for n, d in table.observables.items()}
    for path, found in given.items():
        faults += _day_faults(f"{where}: {path}", found, model)
    if not all(days.values()):
        unseen = ", ".join(name for name, found in days.items() if not found)
        faults.append(Fault(f"{where}: visits", f"no visit day for {unseen}", "add days = [14, 28, ...]"))
    return days


def _day_faults(where: str, days: list[float], model: Model):
    for day in days:
        if day < model.start:
            yield Fault(where, f"day {day:g} lies before the model's start, {model.start:g}")
        if not math.isclose(day, round(day, 1), abs_tol=1e-9):
            yield Fault(where, f"day {day:g} has more than one decimal", "visits are written with one")
    for before, after in pairwise(days):
        if after <= before:
            yield Fault(where, f"day {after:g} after day {before:g}", "write each day once, ascending")


def planned_days(design: Design) -> tuple[float, ...]:
    """All visit days of the design, ascending."""
    return tuple(sorted({day for days in design.visits.values() for day in days}))
