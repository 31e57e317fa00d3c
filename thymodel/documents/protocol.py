"""A randomised trial of two arms before it is run: who gets what, when they are seen, how the result is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thymodel.documents.design import DropoutTable
from thymodel.documents.endpoint import Endpoint, EndpointTable, read_endpoints, visit_faults, with_visits
from thymodel.documents.expressions import closest
from thymodel.documents.model import Model, Number, Text
from thymodel.documents.risks import Risk, RiskTable, read_risk
from thymodel.documents.spec import Arm, ArmTable, Positive, Whole, horizon_faults, read_arm
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.errors import Fault, InputError

SPENDINGS = Literal["obrien_fleming", "pocock"]
MOST_PATIENTS = 2_000  # of one trial: a phase II has fewer, and every replicate has as many
_NEAREST = 0.02  # of the information between looks

# --- as written ----------------------------------------------------------------------------------------------


class ProtocolArmTable(ArmTable):
    """`share`: patients of this arm for each of the other's share (2 and 1: two to one)."""

    share: Positive = 1.0


class AnalysisTable(Table):
    """`day`: by which the shares that the tests `score` and `fisher` compare must be reconstituted.

    `level` is that of the whole trial, of both sides where there are two. `looks` are shares of the patients, the last
    one 1; without them there is one look at the end.
    """

    endpoint: str
    test: Literal["score", "fisher", "logrank"]
    day: Number | None = None
    level: float
    sides: Literal[1, 2]
    looks: list[Number] = []
    spending: SPENDINGS | None = None


class ProtocolDocument(Table):
    """`subjects` of both arms together; `sizes`: other numbers of them for which the same is asked."""

    title: Text
    subjects: Whole
    control: str
    arms: dict[str, ProtocolArmTable]
    analysis: AnalysisTable
    endpoints: dict[str, EndpointTable] = {}
    visits: list[Number] = []
    sizes: list[Whole] = []
    dropout: DropoutTable = DropoutTable(rate=0.0)
    competing: dict[str, RiskTable] = {}


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Analysis:
    """`looks` ascend to 1; `level` is of all of them and of both sides."""

    test: str
    day: float
    level: float
    sides: int
    looks: tuple[float, ...]
    spending: str


@dataclass(frozen=True)
class Protocol:
    """`control` and `treated` are the arms, `share` the treated part of the patients; `sizes` hold `subjects`."""

    title: str
    digest: str
    subjects: int
    sizes: tuple[int, ...]
    control: Arm
    treated: Arm
    share: float
    endpoint: Endpoint
    analysis: Analysis
    dropout_rate: float
    competing: Mapping[str, Risk] = field(default_factory=dict)


def load_protocol(path: str | Path, model: Model, of_fit: Mapping[str, Endpoint] | None = None) -> Protocol:
    """A protocol, checked against the model of the record that it will be used with.

    Args:
        of_fit: endpoints of the fit, for a protocol that has none of its own.

    Raises:
        InputError: every fault of the file.
    """
    path, faults = Path(path), list[Fault]()
    text, where = read_text(path), str(path)
    document = parse_document(text, ProtocolDocument, where)
    arms = {name: read_arm(where, name, table, model, faults) for name, table in document.arms.items()}
    faults += _arm_faults(where, document, arms)
    competing = {name: read_risk(where, name, table, model, faults) for name, table in document.competing.items()}
    endpoint = analysed_endpoint(where, document.analysis.endpoint, document.endpoints, document.visits, model, faults,
                                 of_fit)
    if endpoint is not None:
        faults += horizon_faults(where, arms.values(), {endpoint.name: endpoint}, None)
    analysis = _analysis(where, document.analysis, endpoint, faults)
    share = _treated_share(document)
    for size in {document.subjects, *document.sizes}:
        faults += _size_faults(where, size, share, analysis)
    if faults:
        raise InputError(faults)
    assert endpoint is not None
    treated = next(name for name in arms if name != document.control)
    return Protocol(document.title, digest(text), document.subjects,
                    tuple(sorted({document.subjects, *document.sizes})), arms[document.control], arms[treated], share,
                    endpoint, analysis, document.dropout.rate, competing)


def _treated_share(document: ProtocolDocument) -> float:
    own = sum(table.share for name, table in document.arms.items() if name != document.control)
    return own / sum(table.share for table in document.arms.values()) if document.arms else 0.5


def arm_sizes(subjects: int, share: float) -> tuple[int, int]:
    """Patients of the control and of the treated arm."""
    treated = round(subjects * share)
    return subjects - treated, treated


def _arm_faults(where: str, document: ProtocolDocument, arms: Mapping[str, Arm]):
    if len(arms) != 2:
        yield Fault(f"{where}: arms", f"{len(arms)} arms, and a randomised trial compares two",
                    "write [arms.NAME] for the control and for the treatment")
    if document.control not in arms:
        yield Fault(f"{where}: control", f"no arm '{document.control}'{closest(document.control, arms)}",
                    f"one of: {', '.join(arms)}")
        return
    control = arms[document.control]
    for name, arm in arms.items():
        if name != control.name and not arm.doses:
            yield Fault(f"{where}: arms.{name}", "no doses, and it is the treated arm",
                        "add doses = [{ amount = ..., day = ... }]")
        elif name != control.name and sorted(arm.doses, key=str) == sorted(control.doses, key=str):
            yield Fault(f"{where}: arms.{name}", f"the same doses as {control.name}, so that nothing is compared",
                        "change a dose")
        if dict(arm.covariates) != dict(control.covariates):
            yield Fault(f"{where}: arms.{name}.covariates", f"not those of {control.name}: randomised arms have "
                        "patients of one kind", "give both arms the same covariates")


def analysed_endpoint(where: str, name: str, tables: Mapping[str, EndpointTable], visits: list[float], model: Model,
                      faults: list[Fault], of_fit: Mapping[str, Endpoint] | None = None) -> Endpoint | None:
    """The endpoint that a trial is judged by, with the visits at which it would be seen."""
    known: Mapping[str, Endpoint] = read_endpoints(where, tables, model, faults, visits)
    faults += visit_faults(f"{where}: visits", visits, model.start)
    if not tables and of_fit is not None:
        known = {**of_fit, **with_visits(where, {name: of_fit[name]} if name in of_fit else {}, visits, faults)}
    if name not in known:
        if name not in tables:  # one that is there and wrong has faults of its own
            faults.append(Fault(f"{where}: analysis.endpoint", f"no endpoint '{name}'{closest(name, known)}",
                                f"known: {', '.join(known)}" if known else f"write [endpoints.{name}]"))
        return None
    if not known[name].visits:
        faults.append(Fault(f"{where}: visits", f"the endpoint {name} is judged as visits show it, and there are none",
                            "say visits = [30, 60, ...]"))
    return known[name]


def level_faults(place: str, level: float) -> list[Fault]:
    return [] if 0 < level < 1 else [Fault(place, f"{level:g} is no probability between 0 and 1",
                                           "for example level = 0.025")]


def _analysis(where: str, table: AnalysisTable, endpoint: Endpoint | None, faults: list[Fault]) -> Analysis:
    place = f"{where}: analysis"
    faults += level_faults(f"{place}.level", table.level)
    looks = tuple(table.looks) or (1.0,)
    if any(b - a < _NEAREST for a, b in zip((0.0, *looks), looks, strict=False)):
        faults.append(Fault(f"{place}.looks", f"{list(looks)} do not ascend from above 0 by {_NEAREST} or more",
                            "for example looks = [0.5, 1]"))
    elif looks[-1] != 1:
        faults.append(Fault(f"{place}.looks", f"the last look is at {looks[-1]:g} of the patients, and 1 was expected",
                            "end the looks with 1"))
    if len(looks) > 1 and table.spending is None:
        faults.append(Fault(f"{place}.spending", "missing, and several looks must share the level",
                            "say spending = \"obrien_fleming\" or \"pocock\""))
    day = table.day
    if endpoint is not None:
        fixed = endpoint.landmark or table.test == "logrank"
        if fixed and day is not None and day != endpoint.horizon:
            faults.append(Fault(f"{place}.day", f"{day:g}, but {endpoint.name} is judged at its horizon, day "
                                f"{endpoint.horizon:g}", "leave it out"))
        elif not fixed and day is None:
            faults.append(Fault(f"{place}.day", "missing", "say by which day patients must be reconstituted"))
        elif day is not None and not endpoint.clock_start < day <= endpoint.horizon:
            faults.append(Fault(f"{place}.day", f"day {day:g} lies outside the window of {endpoint.name}, day "
                                f"{endpoint.clock_start:g} to {endpoint.horizon:g}"))
        day = endpoint.horizon if day is None else day
    return Analysis(table.test, day or 0.0, table.level, table.sides, looks, table.spending or "obrien_fleming")


def _size_faults(where: str, size: int, share: float, analysis: Analysis):
    if size > MOST_PATIENTS:
        yield Fault(f"{where}: subjects", f"{size}; at most {MOST_PATIENTS}")
    elif min(arm_sizes(round(size * min(analysis.looks)), share)) < 2:
        yield Fault(f"{where}: subjects", f"of {size} an arm has fewer than 2 at the first look",
                    "enrol more, or look later")
