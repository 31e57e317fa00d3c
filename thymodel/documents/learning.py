"""What might be measured next: cohorts whose worth is asked for, and days among which the best are sought."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic

from thymodel.documents.endpoint import visit_faults
from thymodel.documents.expressions import closest
from thymodel.documents.model import Number, Text
from thymodel.documents.spec import Arm, ArmTable, FitSpec, Positive, Whole, read_arm
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.errors import Fault, InputError

_FEW = Annotated[int, pydantic.Field(ge=1, le=30)]
_DRAWS = Annotated[int, pydantic.Field(ge=4, le=1000)]

# --- as written ----------------------------------------------------------------------------------------------


class LearningTable(Table):
    """`about`: parameters, or endpoints as in the record's table ("cd4_200.by_100[dose_4]"). `markers`: what is
    measured at a visit, by default all that the fit has errors for; `lloq` in the model's units."""

    about: list[str]
    markers: list[str] = []
    lloq: dict[str, Positive] = {}
    draws: _DRAWS = 24


class CohortTable(ArmTable):
    subjects: Whole
    visits: list[Number]


class SamplingTable(Table):
    """The best `days` visits for patients of `cohort`, among `candidates`, to learn `about`."""

    cohort: str
    about: str
    days: _FEW
    candidates: list[Number]


class LearningDocument(Table):
    title: Text
    learning: LearningTable
    cohorts: dict[str, CohortTable]
    sampling: SamplingTable | None = None


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cohort:
    arm: Arm
    subjects: int
    visits: tuple[float, ...]


@dataclass(frozen=True)
class Sampling:
    cohort: Cohort
    about: str
    days: int
    candidates: tuple[float, ...]


@dataclass(frozen=True)
class Learning:
    title: str
    digest: str
    about: tuple[str, ...]
    markers: tuple[str, ...]
    lloq: Mapping[str, float]
    draws: int
    cohorts: tuple[Cohort, ...]
    sampling: Sampling | None


def load_learning(path: str | Path, spec: FitSpec, known: list[str]) -> Learning:
    """What may be learned, checked against the fit of a record.

    Args:
        known: names that may be asked about.

    Raises:
        InputError: every fault of the file.
    """
    path, faults = Path(path), list[Fault]()
    text, where = read_text(path), str(path)
    document = parse_document(text, LearningDocument, where)
    table = document.learning
    if not table.about:
        hint = f'for example about = ["{known[0]}"]'
        faults.append(Fault(f"{where}: learning.about", "nothing is asked about", hint))
    asked = {f"learning.about.{k}": name for k, name in enumerate(table.about)}
    if document.sampling is not None:
        asked["sampling.about"] = document.sampling.about
    faults += [Fault(f"{where}: {place}", f"the record has no '{name}'{closest(name, known)}",
                     "a parameter, or an endpoint such as " + (next((n for n in known if "[" in n), known[0])))
               for place, name in asked.items() if name not in known]
    for key, names in (("markers", table.markers), ("lloq", list(table.lloq))):
        faults += [Fault(f"{where}: learning.{key}", f"the fit has no residual error for '{name}'"
                         f"{closest(name, spec.likelihood)}", f"known: {', '.join(spec.likelihood)}")
                   for name in names if name not in spec.likelihood]
    cohorts = {name: _cohort(where, name, one, spec, faults) for name, one in document.cohorts.items()}
    if not cohorts:
        faults.append(Fault(f"{where}: cohorts", "none", "add [cohorts.NAME] with subjects, visits and doses"))
    sampling = _sampling(where, document.sampling, cohorts, spec, faults)
    if faults:
        raise InputError(faults)
    return Learning(document.title, digest(text), tuple(table.about), tuple(table.markers or spec.likelihood),
                    dict(table.lloq), table.draws, tuple(cohorts.values()), sampling)


def _cohort(where: str, name: str, table: CohortTable, spec: FitSpec, faults: list[Fault]) -> Cohort:
    place = f"{where}: cohorts.{name}.visits"
    faults += visit_faults(place, table.visits, spec.model.start)
    if not table.visits:
        faults.append(Fault(place, "no visit", "say visits = [14, 28, ...]"))
    return Cohort(read_arm(where, name, table, spec.model, faults, "cohorts"), table.subjects, tuple(table.visits))


def _sampling(where: str, table: SamplingTable | None, cohorts: Mapping[str, Cohort], spec: FitSpec,
              faults: list[Fault]) -> Sampling | None:
    if table is None:
        return None
    faults += visit_faults(f"{where}: sampling.candidates", table.candidates, spec.model.start)
    if len(table.candidates) < table.days:
        faults.append(Fault(f"{where}: sampling.candidates", f"{len(table.candidates)} for {table.days} visits",
                            "give more candidates"))
    if table.cohort not in cohorts:
        faults.append(Fault(f"{where}: sampling.cohort", f"no cohort '{table.cohort}'{closest(table.cohort, cohorts)}",
                            f"one of: {', '.join(cohorts)}"))
        return None
    return Sampling(cohorts[table.cohort], table.about, table.days, tuple(table.candidates))
