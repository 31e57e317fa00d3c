"""A dose escalation before it is run: dose levels, the rules to compare, the toxicity that is assumed of each dose."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from thymodel.documents.endpoint import Endpoint, EndpointTable
from thymodel.documents.model import Model, Number, Text
from thymodel.documents.protocol import analysed_endpoint
from thymodel.documents.spec import Arm, ArmTable, horizon_faults, read_arm
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.errors import Fault, InputError

_WHOLE = Annotated[int, pydantic.Field(ge=1, le=10_000)]

# --- as written ----------------------------------------------------------------------------------------------


class RulesTable(Table):
    """`target`: probability of a dose-limiting toxicity that is sought (the rule 3+3 knows none: for it, and for
    `cohort`, it has its own). `subjects`: the most patients that BOIN treats."""

    rules: list[Literal["3+3", "boin"]]
    target: float
    cohort: _WHOLE = 3
    subjects: _WHOLE


class ToxicityTable(Table):
    """Probability of a dose-limiting toxicity at each dose, in the order of the arms."""

    probabilities: list[Number]
    source: Text


class ActivityTable(Table):
    """What the record predicts of each dose: the share of patients that visits show to reach `endpoint` by `day`."""

    endpoint: str
    day: Number | None = None


class EscalationDocument(Table):
    title: Text
    escalation: RulesTable
    arms: dict[str, ArmTable]
    toxicity: dict[str, ToxicityTable]
    activity: ActivityTable | None = None
    endpoints: dict[str, EndpointTable] = {}
    visits: list[Number] = []


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toxicity:
    name: str
    probabilities: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Escalation:
    """`arms` by ascending dose; `day`: by which `endpoint` is to be reached, where activity is asked for."""

    title: str
    digest: str
    rules: tuple[str, ...]
    target: float
    cohort: int
    subjects: int
    arms: tuple[Arm, ...]
    toxicity: tuple[Toxicity, ...]
    endpoint: Endpoint | None
    day: float


def load_escalation(path: str | Path, model: Model, of_fit: Mapping[str, Endpoint] | None = None) -> Escalation:
    """An escalation, checked against the model of the record that it will be used with.

    Raises:
        InputError: every fault of the file.
    """
    path, faults = Path(path), list[Fault]()
    text, where = read_text(path), str(path)
    document = parse_document(text, EscalationDocument, where)
    table = document.escalation
    arms = tuple(read_arm(where, name, arm, model, faults) for name, arm in document.arms.items())
    faults += _dose_order(where, arms)
    if not table.rules or len(set(table.rules)) != len(table.rules):
        faults.append(Fault(f"{where}: escalation.rules", f"{table.rules}", 'name each once: rules = ["3+3", "boin"]'))
    if not 0.05 <= table.target <= 0.6:
        faults.append(Fault(f"{where}: escalation.target", f"{table.target:g} is no probability from 0.05 to 0.6",
                            "for example target = 0.25"))
    if table.subjects < table.cohort:
        faults.append(Fault(f"{where}: escalation.subjects", f"{table.subjects}, fewer than one cohort of "
                            f"{table.cohort}"))
    if not document.toxicity:
        faults.append(Fault(f"{where}: toxicity", "no curve", "add [toxicity.NAME] with probabilities and a source"))
    for name, curve in document.toxicity.items():
        faults += _curve_faults(f"{where}: toxicity.{name}.probabilities", curve.probabilities, len(arms))
    endpoint, day = None, 0.0
    if document.activity is not None:
        endpoint = analysed_endpoint(where, document.activity.endpoint, document.endpoints, document.visits, model,
                                     faults, of_fit)
        day = document.activity.day or 0.0
        if endpoint is not None:
            faults += horizon_faults(where, arms, {endpoint.name: endpoint}, None)
            day = document.activity.day or endpoint.horizon
            if not endpoint.clock_start < day <= endpoint.horizon:
                faults.append(Fault(f"{where}: activity.day", f"day {day:g} lies outside the window of "
                                    f"{endpoint.name}, day {endpoint.clock_start:g} to {endpoint.horizon:g}"))
    if faults:
        raise InputError(faults)
    curves = tuple(Toxicity(name, tuple(curve.probabilities), curve.source)
                   for name, curve in document.toxicity.items())
    return Escalation(document.title, digest(text), tuple(table.rules), table.target, table.cohort, table.subjects,
                      arms, curves, endpoint, day)


def _dose_order(where: str, arms: tuple[Arm, ...]):
    if len(arms) < 2:
        yield Fault(f"{where}: arms", f"{len(arms)} dose levels, and an escalation needs two or more", "add arms")
    totals = [sum(dose.amount for dose in arm.doses) for arm in arms]
    for arm, total in zip(arms, totals, strict=True):
        if total <= 0:
            yield Fault(f"{where}: arms.{arm.name}", "no doses", "add doses = [{ amount = ..., day = ... }]")
    for k, (low, high) in enumerate(zip(totals, totals[1:], strict=False)):
        if 0 < high <= low:
            yield Fault(f"{where}: arms.{arms[k + 1].name}", f"{high:g} in all is not more than {low:g} of "
                        f"{arms[k].name}", "write dose levels in ascending order")


def _curve_faults(place: str, probabilities: list[float], levels: int):
    if len(probabilities) != levels:
        yield Fault(place, f"{len(probabilities)} for {levels} dose levels", "give one an arm, in their order")
    for value in probabilities:
        if not 0 <= value <= 1:
            yield Fault(place, f"{value:g} is no probability")
    if any(b < a for a, b in zip(probabilities, probabilities[1:], strict=False)):
        yield Fault(place, "falls from one dose to the next, and both rules suppose that more is not safer",
                    "write them ascending")
