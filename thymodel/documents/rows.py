"""One row of study data understood: a dose, an observation or a change of covariates, in the model's units.

Every fault goes on a list, so that all of a file are told at once; a faulty cell reads as NaN or as its
default.
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from thymodel.documents.measurement import EventLimit, Scale
from thymodel.documents.model import Model
from thymodel.documents.regimen import Dose, covariate_faults, dose_faults, repeat
from thymodel.documents.sheet import Line
from thymodel.errors import Fault

# fmt: off
STANDARD_COLUMNS = (
    "ID", "TIME", "EVID", "CMT", "AMT", "RATE", "ADDL", "II", "SS", "DVID", "DV", "CENS", "LIMIT",
    "MDV", "ARM",
)
# fmt: on
STUDY = "STUDY"  # which a subject belongs to
EVENTS = "EVENTS"  # events acquired in the parent gate of a flow-cytometric sample
MOST_REPEATS = 10_000  # ADDL; more is a typing error and would fill the memory
MISSING = frozenset({"", ".", "NA"})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
OBSERVATION, DOSE, OTHER = 0, 1, 2
_TIME_SLACK = 1e-9  # relative; conversion of TIME may move a record this far before the start


@dataclass(frozen=True)
class Observation:
    """One measurement in the observable's unit, at `time` in the model's time unit.

    censoring 1: below `value`, the LLOQ, above `limit` unless that is NaN; -1: above `value`; 0: measured.
    """

    time: float
    observable: str
    value: float
    censoring: int
    limit: float
    row: int


@dataclass(frozen=True)
class DataColumns:
    """How a spec says to read a file.

    Args:
        units: TIME and each observable, input and covariate of the file -> its unit there.
        columns: standard or covariate name -> name in the file, where they differ.
        dvid: DVID text -> observable; empty: DVID holds the names.
        cmt: CMT text -> input; empty: CMT holds the names.
        constant: column that the file lacks -> text for every row.
        scales: observable -> what its assay reports of it, where that is not the observable itself.
        event_limits: observable -> the events from which on a sample shows it; these read the column EVENTS.
        counts: observables whose assay counts: whole numbers.
        missing: covariates that a subject may lack -> the values that they can have, or none where they may have any.
        kinds: those of them that say of which kind of a mixture a subject is, which a file need not tell of anybody.
        studies: those known beside the file's own, where subjects belong to studies (these read the column STUDY); None
            where they do not.
    """

    units: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)
    dvid: Mapping[str, str] = field(default_factory=dict)
    cmt: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    event_limits: Mapping[str, EventLimit] = field(default_factory=dict)
    counts: frozenset[str] = frozenset()
    missing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()
    studies: tuple[str, ...] | None = None

    @property
    def headings(self) -> tuple[str, ...]:
        """Standard columns; EVENTS is one only where a limit is read from it, STUDY where studies differ."""
        return (*STANDARD_COLUMNS, *([EVENTS] if self.event_limits else []),
                *([STUDY] if self.studies is not None else []))


@dataclass(frozen=True)
class Reading:
    """What rows are read against. `place`: column number by name; `factor` to the model's unit by name."""

    file: str
    model: Model
    columns: DataColumns
    place: Mapping[str, int]
    factor: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One data row: cells by standard or covariate name, "" where missing."""

    number: int
    cells: Mapping[str, str]
    reading: Reading


@dataclass(frozen=True)
class Event:
    """A row understood; `name` is the observable or input, `excluded` why an observation is left out, `limited` whether
    it was censored by the events of its sample."""

    row: Row
    id: str
    time: float
    evid: int
    name: str = ""
    doses: tuple[Dose, ...] = ()
    observation: Observation | None = None
    excluded: str = ""
    covariates: Mapping[str, float] = field(default_factory=dict)
    limited: bool = False


def read_row(line: Line, reading: Reading) -> Row:
    given = dict(reading.columns.constant) | {
        name: line.cells[index] for name, index in reading.place.items()
    }
    return Row(
        line.row,
        {name: "" if text.strip() in MISSING else text.strip() for name, text in given.items()},
        reading,
    )


def at(row: Row, name: str) -> str:
    heading = row.reading.columns.columns.get(name, name)
    return f"{row.reading.file}: row {row.number}, column {heading}"


def suggest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def shorten(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _number(row: Row, name: str, faults: list[Fault]) -> float:
    """The cell as a number; NaN when it is missing or a fault."""
    text = row.cells.get(name, "")
    if not text:
        return math.nan
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        faults.append(
            Fault(at(row, name), f"'{shorten(text)}' where a finite number was expected", _number_hint(text))
        )
        return math.nan
    return value


def _number_hint(text: str) -> str:
    if re.fullmatch(r"[+-]?[\d.]*,\d+", text):
        return "write the decimal mark as a point, and no mark for thousands"
    if text.startswith("<"):
        return "for a value below the LLOQ write the LLOQ in DV and 1 in CENS"
    if text.startswith(">"):
        return "for a value above the upper limit write the limit in DV and -1 in CENS"
    return "write . or nothing for a missing value"


def _refuse_missing(row: Row, name: str, faults: list[Fault]) -> None:
    """A missing cell is a fault; a missing column is told once, elsewhere."""
    if name in row.cells and not row.cells[name]:
        faults.append(Fault(at(row, name), "no value where one is needed", f"write {name}"))


def _needed(row: Row, name: str, faults: list[Fault]) -> float:
    _refuse_missing(row, name, faults)
    return _number(row, name, faults)


def _code(row: Row, name: str, allowed: tuple[int, ...], faults: list[Fault]) -> int:
    """A cell that holds one of a few whole numbers; the first of them when missing or a fault."""
    value = _number(row, name, faults)
    if math.isnan(value):
        return allowed[0]
    if value not in allowed:
        what = f"{name} {shorten(row.cells[name])} where {', '.join(map(str, allowed))} were expected"
        faults.append(Fault(at(row, name), what, f"see what {name} means in the description of study data"))
        return allowed[0]
    return int(value)


def _not_negative(row: Row, name: str, faults: list[Fault], hint: str) -> float:
    """The cell as a number, 0 when missing."""
    value = _number(row, name, faults)
    if value < 0:
        faults.append(Fault(at(row, name), f"{name} = {value:g}, at least 0 was expected", hint))
    return 0.0 if math.isnan(value) else value


def _lookup(
    row: Row, name: str, codes: Mapping[str, str], known: Collection[str], faults: list[Fault]
) -> str:
    """The model's name for a DVID or CMT cell; "" when it is a fault."""
    text = row.cells.get(name, "")
    if not text:
        if name in row.cells:
            faults.append(
                Fault(at(row, name), "no value where one is needed", f"known: {', '.join(codes or known)}")
            )
        return ""
    whole = re.sub(r"\.0+$", "", text)  # tables with missing values write the code 1 as 1.0
    found = codes.get(text, codes.get(whole, "")) if codes else text
    if found in known:
        return found
    if not codes or text not in codes and whole not in codes:
        what = f"unknown {name} '{shorten(text)}'"
        faults.append(Fault(at(row, name), what, suggest(text, list(codes) or known)))
    return ""


def read_event(row: Row, faults: list[Fault]) -> Event | None:
    """A row understood; None when it has no subject. Faulty cells give NaN or the default, and a fault."""
    identity = row.cells["ID"]
    if not identity:
        faults.append(Fault(at(row, "ID"), "no subject", "write the subject's ID on every row"))
    time = _needed(row, "TIME", faults) * row.reading.factor.get("TIME", math.nan)
    evid = _read_evid(row, faults)
    if abs(_number(row, "SS", faults)) > 0:
        faults.append(
            Fault(
                at(row, "SS"),
                "SS (steady-state dose) is not supported",
                "write the doses out, or use ADDL and II",
            )
        )
    event = Event(row, identity, time, evid, covariates=_read_covariates(row, faults))
    if evid == OBSERVATION:
        event = _read_observation(event, faults)
    elif evid == DOSE:
        event = _read_dose(event, faults)
    return event if identity else None


def _read_evid(row: Row, faults: list[Fault]) -> int:
    if "EVID" not in row.cells:
        return DOSE if abs(_number(row, "AMT", [])) > 0 else OBSERVATION
    if row.cells["EVID"] in ("3", "4"):
        meaning = {"3": "EVID 3 (reset)", "4": "EVID 4 (reset and dose)"}[row.cells["EVID"]]
        faults.append(
            Fault(at(row, "EVID"), f"{meaning} is not supported", "give the new course an ID of its own")
        )
        return OTHER
    if not row.cells["EVID"]:
        _needed(row, "EVID", faults)
        return OTHER
    before = len(faults)
    evid = _code(row, "EVID", (OBSERVATION, DOSE, OTHER), faults)
    return OTHER if len(faults) > before else evid


def _read_covariates(row: Row, faults: list[Fault]) -> dict[str, float]:
    names = [name for name in row.reading.model.covariates if row.cells.get(name, "")]
    found = {name: _number(row, name, faults) * row.reading.factor.get(name, math.nan) for name in names}
    for name, value in found.items():
        if not math.isnan(value):  # then it has its fault
            faults += covariate_faults(at(row, name), name, value, row.reading.model)
    return found


def _check_start(event: Event, what: str, faults: list[Fault]) -> float:
    """The event's time, not before the start; NaN where that is a fault."""
    start = event.row.reading.model.start
    if event.time < start - _TIME_SLACK * max(1.0, abs(start)):
        where, unit = at(event.row, "TIME"), event.row.reading.model.time
        hint = "leave the row out, set MDV = 1 for an observation, or use a model with an earlier start"
        faults.append(
            Fault(where, f"{what} at {event.time:g} {unit}, before the model's start at {start:g}", hint)
        )
        return math.nan  # moved to the start it would be taken for another event there
    return max(event.time, start) if not math.isnan(event.time) else event.time


def _read_observation(event: Event, faults: list[Fault]) -> Event:
    row, reading = event.row, event.row.reading
    if _code(row, "MDV", (0, 1), faults):
        return replace(event, excluded="MDV = 1")
    if "DV" in row.cells and not row.cells["DV"]:
        return replace(event, excluded="DV missing")
    if abs(_number(row, "AMT", faults)) > 0:
        faults.append(
            Fault(
                at(row, "AMT"), "an observation row with a dose", "write the dose on a row of its own, EVID 1"
            )
        )
    name = _lookup(row, "DVID", reading.columns.dvid, reading.model.observables, faults)
    time = _check_start(event, "an observation", faults)
    value, censoring = _number(row, "DV", faults), _code(row, "CENS", (0, 1, -1), faults)
    limit = _read_limit(row, value, censoring, faults)
    if name in reading.columns.counts:
        _check_count(row, value, censoring, reading, name, faults)
    factor = reading.factor.get(name, math.nan)
    observation = Observation(time, name, value * factor, censoring, limit * factor, row.number)
    return replace(event, time=time, name=name, observation=observation)


def _check_count(row: Row, value: float, censoring: int, reading: Reading, name: str, faults: list[Fault]) -> None:
    """A count that was measured is a whole number, in copies or cells, not in thousands of them."""
    scale = reading.columns.scales.get(name)
    counted = value * reading.factor.get(name, math.nan) * (scale.value if scale else 1.0)
    if censoring or not math.isfinite(counted):
        return
    if counted < 0 or abs(counted - round(counted)) > 1e-6 * max(1.0, counted):
        faults.append(
            Fault(at(row, "DV"), f"DV = {value:g}, a whole number from 0 on was expected: {name} is a count",
                  "write the raw count; for a concentration use another error model")
        )


def event_limit(event: Event, parent: Event | None, faults: list[Fault]) -> float:
    """The LLOQ of a flow-cytometric sample in the model's unit; NaN, and a fault, where it cannot be known."""
    limit = event.row.reading.columns.event_limits[event.name]
    acquired = _number(event.row, EVENTS, faults)
    if not acquired >= 1:
        what = "no whole number from 1 on, where the events acquired in the parent gate are needed"
        faults.append(Fault(at(event.row, EVENTS), what, "write how many events of the parent gate were acquired"))
        return math.nan
    if limit.parent and (parent is None or parent.observation is None):
        what = f"no {limit.parent} of subject {shorten(event.id)} at this time, of which the limit is a share"
        faults.append(Fault(at(event.row, "DV"), what, f"add the row of {limit.parent}, or set MDV = 1"))
        return math.nan
    whole = parent.observation.value if limit.parent and parent and parent.observation else 1.0
    return limit.events / acquired * whole


def _read_limit(row: Row, value: float, censoring: int, faults: list[Fault]) -> float:
    """Lower end of a censored interval in the file's unit, NaN if none; also checks DV of a censored row."""
    limit = _number(row, "LIMIT", faults)
    if censoring == 0:
        return math.nan
    if value <= 0:
        faults.append(
            Fault(
                at(row, "DV"),
                f"a censored row with DV = {value:g}, above 0 was expected",
                "with CENS 1 DV is the LLOQ, with CENS -1 the upper limit",
            )
        )
    if censoring == -1 and not math.isnan(limit):
        faults.append(Fault(at(row, "LIMIT"), "LIMIT with CENS -1 is not supported", "leave LIMIT blank"))
    if censoring == 1 and limit >= value:
        faults.append(
            Fault(
                at(row, "LIMIT"),
                f"LIMIT = {limit:g} is not below the LLOQ DV = {value:g}",
                "LIMIT is the lower end of the interval, DV its upper end",
            )
        )
    return limit


def _read_dose(event: Event, faults: list[Fault]) -> Event:
    row, reading, before = event.row, event.row.reading, len(faults)
    if abs(_number(row, "DV", faults)) > 0:
        what, hint = "a dose row with a measurement", "write the measurement on a row of its own, EVID 0"
        faults.append(Fault(at(row, "DV"), what, hint))
    name = _read_input(row, faults)
    time = _check_start(event, "a dose", faults)
    _refuse_missing(row, "AMT", faults)
    amount = _not_negative(row, "AMT", faults, "a dose cannot be taken back")
    day = reading.factor.get("TIME", math.nan)
    duration = _read_duration(row, name, amount, faults) * day
    additional, interval = _read_repeats(row, faults)
    dose = Dose(time, name, amount * reading.factor.get(name, math.nan), duration)
    if len(faults) == before and math.isfinite(dose.time + dose.amount):
        faults += dose_faults(at(row, "AMT"), dose, reading.model)
    return replace(event, time=time, name=name, doses=tuple(repeat(dose, additional, interval * day)))


def _read_input(row: Row, faults: list[Fault]) -> str:
    inputs = row.reading.model.inputs
    if not row.cells.get("CMT", "") and len(inputs) == 1:
        return next(iter(inputs))
    return _lookup(row, "CMT", row.reading.columns.cmt, inputs, faults)


def _read_duration(row: Row, name: str, amount: float, faults: list[Fault]) -> float:
    """AMT/RATE in the file's time unit; 0 for a bolus."""
    rate = _not_negative(
        row, "RATE", faults, "write the rate in AMT units per TIME unit; coded rates are not supported"
    )
    if rate <= 0:
        return 0.0
    if name and row.reading.model.inputs[name].multiply:
        faults.append(
            Fault(at(row, "RATE"), f"an infusion into {name}, which acts as a jump", "leave RATE blank")
        )
    return amount / rate


def _read_repeats(row: Row, faults: list[Fault]) -> tuple[int, float]:
    """Number of additional doses and the time between doses in the file's unit."""
    repeats = _not_negative(row, "ADDL", faults, "ADDL counts the additional doses")
    interval = _not_negative(row, "II", faults, "II is the time between doses")
    if repeats != int(repeats) or repeats > MOST_REPEATS:
        what = f"ADDL = {repeats:g} where a whole number up to {MOST_REPEATS} was expected"
        faults.append(Fault(at(row, "ADDL"), what, "ADDL counts the additional doses"))
        return 0, 0.0
    if repeats > 0 and interval == 0:
        faults.append(Fault(at(row, "ADDL"), "ADDL without II", "write the time between doses in II"))
    if interval > 0 and repeats == 0:
        faults.append(Fault(at(row, "II"), "II without ADDL", "write the number of additional doses in ADDL"))
    return max(int(repeats), 0), interval
