"""Who the virtual patients of a scenario are: covariates from distributions, joined by a copula, or from a file of real
people; and doses that are not exactly what was meant.

Ranks of two covariates are correlated as a spec says (Spearman) through a Gaussian copula, whose normal correlation is
2*sin(pi*rho/6). Source: Pearson 1907, Drapers' Company Research Memoirs, Biometric Series IV; Kruskal 1958, J Am Stat
Assoc 53:814 (both as cited by others).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
import scipy.special
from jaxtyping import Float

from thymodel.documents import priors
from thymodel.documents.expressions import closest
from thymodel.documents.model import Model, Number, Text
from thymodel.documents.priors import Prior
from thymodel.documents.sheet import read_sheet
from thymodel.documents.toml import Table
from thymodel.documents.units import convert_factor
from thymodel.errors import Fault, InputError

_LEAST_EIGENVALUE = 1e-9


class RankCorrelationTable(Table):
    covariates: list[str]
    spearman: Number
    source: Text


class PatientsTable(Table):
    """A CSV file with a row a person, resampled whole: `columns` gives a covariate's name in the file where it is
    another one."""

    file: str
    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    units: dict[str, str]
    columns: dict[str, str] = {}


class PopulationTable(Table):
    """`covariates`: of each a distribution, written as priors are, or the probabilities of a few values."""

    source: Text
    covariates: dict[str, str | dict[str, Number]] = {}
    correlation: list[RankCorrelationTable] = []
    patients: PatientsTable | None = None


class NominalDoseTable(Table):
    """`sd` of the log of acting over nominal amount, one factor a patient and input."""

    sd: Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0, allow_inf_nan=False)]
    source: Text


@dataclass(frozen=True)
class Population:
    """`distributions` of covariates that are drawn, with the correlations of their normals; `patients` those that come
    from real people, a value a person each."""

    source: str
    distributions: Mapping[str, Prior | Mapping[float, float]]
    correlation: Float[np.ndarray, "covariate covariate"]
    patients: Mapping[str, Float[np.ndarray, " person"]] = field(default_factory=dict)

    def __str__(self) -> str:
        own = [f"{name} ~ {item}" for name, item in self.distributions.items()]
        size = len(next(iter(self.patients.values()), ()))
        real = [f"{', '.join(self.patients)} of {size} people, drawn whole"] if self.patients else []
        return f"{'; '.join([*own, *real])} ({self.source})"

    def drawn(self, normals: Float[np.ndarray, "subject covariate"]) -> dict[str, Float[np.ndarray, " subject"]]:
        """Values of the covariates that have distributions, from independent standard normals."""
        if not self.distributions:
            return {}
        joined = normals @ np.linalg.cholesky(self.correlation).T
        return {name: _quantile(item, joined[:, k]) for k, (name, item) in enumerate(self.distributions.items())}


def _quantile(item: Prior | Mapping[float, float], z: Float[np.ndarray, " subject"]) -> Float[np.ndarray, " subject"]:
    below = scipy.special.ndtr(z)
    if isinstance(item, Prior):
        if item.family == "logitnormal":
            return scipy.special.expit(scipy.special.logit(item.numbers["median"]) + item.numbers["sd"] * z)
        return priors.in_scipy(item).ppf(below)
    ends = np.cumsum(list(item.values()))[:-1]
    return np.array(list(item), float)[np.searchsorted(ends, below, side="right")]


def read_population(path: Path, table: PopulationTable | None, model: Model, faults: list[Fault]) -> Population | None:
    """The population of a scenario file, with every fault of it and of the file of people that it names."""
    if table is None:
        return None
    where = f"{path}: population"
    found: dict[str, Prior | Mapping[float, float]] = {}
    for name, item in table.covariates.items():
        _known(f"{where}.covariates", name, model, faults)
        read = _levels(f"{where}.covariates.{name}", item, faults) if isinstance(item, dict) else _distribution(
            f"{where}.covariates.{name}", item, model.covariates[name].value if name in model.covariates else 0, faults)
        if read is not None:
            found[name] = read
    people = _people(path, table.patients, model, faults) if table.patients is not None else {}
    for name in sorted(people.keys() & found.keys()):
        faults.append(Fault(f"{where}.covariates.{name}", "it is in the file of patients too", "leave one of them out"))
    if not table.covariates and table.patients is None:
        faults.append(Fault(where, "neither distributions nor patients", 'say covariates = { age = "..." }, or name a '
                            "file under [population.patients]"))
    matrix = _correlation(where, table.correlation, found, list(table.covariates), faults)
    return Population(table.source, found, matrix, people)


def _known(where: str, name: str, model: Model, faults: list[Fault]) -> bool:
    if name not in model.covariates:
        faults.append(Fault(where, f"the model has no covariate '{name}'{closest(name, model.covariates)}",
                            f"covariates: {', '.join(model.covariates) or 'none'}"))
    return name in model.covariates


def _distribution(where: str, text: str, typical: float, faults: list[Fault]) -> Prior | None:
    try:
        found = priors.parse_prior(text)
    except ValueError as error:
        faults.append(Fault(where, str(error)))
        return None
    if typical > 0 and priors.support(found)[0] < 0:
        faults.append(Fault(where, f"{found} allows values below 0", "choose lognormal, or truncnormal with lower = 0 "
                            "or above"))
    return found


def _levels(where: str, item: Mapping[str, float], faults: list[Fault]) -> dict[float, float] | None:
    try:
        found = {float(value): float(probability) for value, probability in item.items()}
    except ValueError:
        found = {}
    if (len(found) < 2 or not all(math.isfinite(v) for v in found) or min(found.values()) <= 0
            or abs(sum(found.values()) - 1) > 1e-9):
        faults.append(Fault(where, "two or more different values, each with a probability above 0, which add up to 1, "
                            "were expected", 'for example { "0" = 0.7, "1" = 0.3 }'))
        return None
    return dict(sorted(found.items()))


def _correlation(where: str, tables: Sequence[RankCorrelationTable], found: Mapping[str, Prior | Mapping[float, float]],
                 written: Sequence[str], faults: list[Fault]) -> Float[np.ndarray, "covariate covariate"]:
    names, matrix, before = list(found), np.eye(len(found)), set[frozenset[str]]()
    for k, table in enumerate(tables):
        place, pair = f"{where}.correlation.{k}", frozenset(table.covariates)
        if len(table.covariates) != 2 or len(pair) != 2:
            faults.append(Fault(f"{place}.covariates", "two different covariates were expected"))
            continue
        if pair in before:
            faults.append(Fault(f"{place}.covariates", f"{' and '.join(table.covariates)} are correlated twice"))
        before.add(pair)
        for name in table.covariates:
            if name not in written:
                faults.append(Fault(f"{place}.covariates",
                                    f"'{name}' has no distribution here{closest(name, written)}"))
            elif name in found and not isinstance(found[name], Prior):
                faults.append(Fault(f"{place}.covariates", f"'{name}' has a few values, whose ranks tie",
                                    "correlate covariates that are continuous"))
        if not -1 < table.spearman < 1:
            faults.append(Fault(f"{place}.spearman", f"{table.spearman:g} is not between -1 and 1"))
        elif pair <= set(names):
            i, j = (names.index(name) for name in table.covariates)
            matrix[i, j] = matrix[j, i] = 2 * math.sin(math.pi * table.spearman / 6)
    if len(names) and np.linalg.eigvalsh(matrix)[0] < _LEAST_EIGENVALUE:
        faults.append(Fault(f"{where}.correlation", "no people can have all of these correlations at once",
                            "bring some nearer to 0"))
        return np.eye(len(names))
    return matrix


def _people(path: Path, table: PatientsTable, model: Model, faults: list[Fault]) -> dict[str, np.ndarray]:
    where = f"{path}: population.patients"
    unit_of = {name: _factor(f"{where}.units.{name}", text, name, model, faults) for name, text in table.units.items()}
    for name in table.columns:
        if name not in table.units:
            faults.append(Fault(f"{where}.columns.{name}", "no unit is given for it", f'add units.{name} = "..."'))
    try:
        sheet = read_sheet(path.parent / table.file)
    except InputError as error:
        faults += error.faults
        return {}
    if sheet.digest != table.sha256:
        faults.append(Fault(f"{where}.sha256", f"{table.file} is another file: its sha256 is {sheet.digest}",
                            "if it changed on purpose, write the new sha256"))
        return {}
    faults += sheet.faults
    heading = {name: table.columns.get(name, name) for name in table.units}
    found = {name: _column(sheet, heading[name], factor, faults) for name, factor in unit_of.items()
             if factor is not None}
    if not sheet.lines:
        faults.append(Fault(sheet.name, "nobody is in it", "write a row a person below the header"))
    return found


def _factor(where: str, text: str, name: str, model: Model, faults: list[Fault]) -> float | None:
    if not _known(where, name, model, faults):
        return None
    try:
        return convert_factor(text, model.covariates[name].unit)
    except ValueError as error:
        faults.append(Fault(where, str(error), f"the model has {name} in {model.covariates[name].unit}"))
        return None


def _column(sheet, heading: str, factor: float, faults: list[Fault]) -> np.ndarray:
    if sheet.header.count(heading) != 1:
        what = "no column" if heading not in sheet.header else f"{sheet.header.count(heading)} columns"
        faults.append(Fault(f"{sheet.name}: row 1", f"{what} {heading}", f"columns: {', '.join(sheet.header)[:200]}"))
        return np.zeros(0)
    place, values = sheet.header.index(heading), []
    for line in sheet.lines:
        try:
            value = float(line.cells[place])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            faults.append(Fault(f"{sheet.name}: row {line.row}, column {heading}",
                                f"'{line.cells[place][:40]}' is not a number", "leave out people who lack it"))
        values.append(value * factor)
    return np.array(values)
