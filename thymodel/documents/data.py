"""Study data: one row per event, checked against a model; what is left out is listed, never silent.

Columns keep their NONMEM names. Values leave this file in the model's units.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NoReturn

from thymodel.documents.cards import card
from thymodel.documents.model import Model
from thymodel.documents.regimen import Course, Dose
from thymodel.documents.rows import (
    DOSE,
    OBSERVATION,
    STUDY,
    DataColumns,
    Event,
    Observation,
    Reading,
    at,
    event_limit,
    read_event,
    read_row,
    shorten,
    suggest,
)
from thymodel.documents.sheet import Sheet, read_sheet
from thymodel.documents.units import convert_factor
from thymodel.errors import Fault, InputError

_STUDY_NAME = re.compile(r"[A-Za-z0-9_]+")
MOST_FAULTS = 1_000  # listed; a file with more has one cause, and the rest is counted


@dataclass(frozen=True)
class Subject:
    """One patient: doses by time, observations as in the file, every covariate as steps (time, value).

    The first step is at the model's start; a value holds until the next step. What the subject lacks is NaN. `study` is
    empty where none is told.
    """

    id: str
    arm: str
    doses: tuple[Dose, ...]
    observations: tuple[Observation, ...]
    covariates: tuple[tuple[str, Course], ...]
    study: str = ""


@dataclass(frozen=True)
class Exclusion:
    """An observation row that is not used, and why; `time` as written in the file."""

    row: int
    id: str
    time: str
    reason: str


@dataclass(frozen=True)
class StudyData:
    """A study as read; `digest` is the SHA-256 of the file's bytes, `rows` its number of data rows, `studies` what the
    file calls the studies that it holds, if it does."""

    subjects: tuple[Subject, ...]
    exclusions: tuple[Exclusion, ...]
    notes: tuple[str, ...]
    digest: str
    name: str
    rows: int
    studies: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [{"arm": one.arm or "none named", "subjects": one.subjects, "doses": one.doses,
                 "observations": sum(one.observations.values()), "censored": sum(one.censored.values()),
                 "excluded": one.excluded} for one in disposition(self)]
        return card(f"Study data {self.name}: {len(self.subjects)} subjects, {self.rows} rows", [
            f"sha256 {self.digest[:16]}; {len(self.exclusions)} rows excluded. Whether they are simulated, the spec "
            "that names them says.", *self.notes], rows)


NO_PATIENTS = StudyData((), (), (), "", "", 0)  # of a fit to published figures alone


@dataclass(frozen=True)
class Disposition:
    """What became of one arm's rows; counts by observable where a mapping."""

    arm: str
    subjects: int
    doses: int
    observations: Mapping[str, int]
    censored: Mapping[str, int]
    excluded: int


def load_data(path: Path, model: Model, columns: DataColumns) -> StudyData:
    """A study from a CSV file, in the model's units.

    Raises:
        InputError: with every fault of the file, each at its row and column.
    """
    sheet = read_sheet(Path(path))
    faults = list(sheet.faults)
    reading = _understand_header(sheet, model, columns, faults)
    rows = [read_row(line, reading) for line in sheet.lines]
    events = [event for row in rows if (event := read_event(row, faults))]
    events = _with_event_limits(events, columns, faults)
    _check_columns_needed(events, reading, faults)
    _check_units_declared(events, reading, faults)
    _check_order(events, faults)
    _check_duplicates(events, faults)
    _check_censoring(events, faults)
    _check_subjects(events, faults)
    _check_studies(events, reading, faults)
    if faults:
        _refuse(faults, sheet.name)
    return _study(events, sheet, reading)


def disposition(data: StudyData) -> tuple[Disposition, ...]:
    """Subjects, doses, observations, censored and excluded rows of every arm, arms in the file's order."""
    arms = dict.fromkeys(subject.arm for subject in data.subjects)
    return tuple(_arm_disposition(arm, data) for arm in arms)


def arm_doses(data: StudyData) -> dict[str, tuple[Dose, ...]]:
    """What the subjects of each arm were given, as a rule: of the commonest sequence of inputs, the median amount, time
    and duration of each dose. One who left before the last dose does not stand for the others."""
    arms: dict[str, list[tuple[Dose, ...]]] = {}
    for subject in data.subjects:
        arms.setdefault(subject.arm, []).append(subject.doses)
    return {arm: _usual(regimens) for arm, regimens in arms.items()}


def _usual(regimens: Sequence[tuple[Dose, ...]]) -> tuple[Dose, ...]:
    sequence = _commonest(regimens)
    alike = [doses for doses in regimens if _inputs(doses) == sequence]
    return tuple(Dose(input=name, **{key: median(getattr(doses[k], key) for doses in alike)
                                     for key in ("time", "amount", "duration")})
                 for k, name in enumerate(sequence))


def _commonest(regimens: Sequence[tuple[Dose, ...]]) -> tuple[str, ...]:
    return Counter(map(_inputs, regimens)).most_common(1)[0][0]


def _inputs(doses: Sequence[Dose]) -> tuple[str, ...]:
    return tuple(dose.input for dose in doses)


def _arm_disposition(arm: str, data: StudyData) -> Disposition:
    subjects = [subject for subject in data.subjects if subject.arm == arm]
    ids = {subject.id for subject in subjects}
    observations = [observation for subject in subjects for observation in subject.observations]
    return Disposition(
        arm=arm,
        subjects=len(subjects),
        doses=sum(len(subject.doses) for subject in subjects),
        observations=dict(Counter(o.observable for o in observations)),
        censored=dict(Counter(o.observable for o in observations if o.censoring)),
        excluded=sum(exclusion.id in ids for exclusion in data.exclusions),
    )


def _refuse(faults: list[Fault], file: str) -> NoReturn:
    listed = faults[:MOST_FAULTS]
    if len(faults) > MOST_FAULTS:
        what = f"{len(faults) - MOST_FAULTS} further faults are not listed"
        listed.append(Fault(file, what, "mend the first ones; many rows share one cause"))
    raise InputError(listed)


# --- header -----------------------------------------------------------------------------------------------


def _understand_header(sheet: Sheet, model: Model, columns: DataColumns, faults: list[Fault]) -> Reading:
    names = (*columns.headings, *model.covariates)
    _check_header(sheet, faults)
    _check_spec_names(sheet.name, model, columns, faults)
    place = _place_columns(sheet, names, columns, faults)
    _check_look_alikes(sheet, names, place, columns, faults)
    absent = [name for name in ("ID", "TIME") if name not in place and name not in columns.constant]
    faults += [_absent_column(sheet, name) for name in absent]
    if not sheet.lines and not sheet.faults:
        faults.append(
            Fault(sheet.name, "a header and no data rows", "write one row per event below the header")
        )
    if absent or not sheet.lines:
        _refuse(faults, sheet.name)
    return Reading(sheet.name, model, columns, place, _factors(sheet.name, model, columns, faults))


def _check_header(sheet: Sheet, faults: list[Fault]) -> None:
    for name, count in Counter(sheet.header).items():
        if name and count > 1:
            faults.append(
                Fault(f"{sheet.name}: row 1", f"{count} columns are named {name}", "name each column once")
            )


def _check_spec_names(file: str, model: Model, columns: DataColumns, faults: list[Fault]) -> None:
    """The spec's own words: names that are no column, no observable, no input."""
    headings = (*columns.headings, *model.covariates)
    measured = ("TIME", *model.observables, *model.inputs, *model.covariates)
    _check_known(f"{file}: columns", columns.columns, headings, "a column that is read", faults)
    _check_known(f"{file}: constant", columns.constant, headings, "a column that is read", faults)
    _check_known(f"{file}: units", columns.units, measured, f"TIME or a name of model {model.name}", faults)
    _check_known(
        f"{file}: dvid", columns.dvid.values(), model.observables, f"an observable of {model.name}", faults
    )
    _check_known(f"{file}: cmt", columns.cmt.values(), model.inputs, f"an input of {model.name}", faults)


def _check_known(
    where: str, found: Iterable[str], known: Collection[str], what: str, faults: list[Fault]
) -> None:
    faults += [
        Fault(f"{where}.{name}", f"'{name}' is not {what}", suggest(name, known))
        for name in dict.fromkeys(found)
        if name not in known
    ]


def _place_columns(
    sheet: Sheet, names: Collection[str], columns: DataColumns, faults: list[Fault]
) -> dict[str, int]:
    place = {}
    for name in names:
        heading = columns.columns.get(name, name)
        if heading in sheet.header:
            place[name] = sheet.header.index(heading)
        elif name in columns.columns:
            what = f"no column {heading}, which the spec names for {name}"
            faults.append(
                Fault(f"{sheet.name}: row 1", what, suggest(heading, [h for h in sheet.header if h]))
            )
        if heading in sheet.header and name in columns.constant:
            what = f"column {heading} is in the file and {name} is also given as a constant"
            faults.append(Fault(f"{sheet.name}: row 1", what, "drop the constant or the column"))
    return place


def _check_look_alikes(
    sheet: Sheet, names: Collection[str], place: Mapping[str, int], columns: DataColumns, faults: list[Fault]
) -> None:
    """A column `age` for the covariate `AGE` would otherwise be passed over and the default used."""
    used = set(place.values())
    for index, heading in enumerate(sheet.header):
        for name in names:
            if (
                index not in used
                and name not in place
                and name not in columns.constant
                and heading.casefold() == name.casefold()
            ):
                hint = f'name it {name}, or say columns = {{ {name} = "{heading}" }}'
                faults.append(
                    Fault(f"{sheet.name}: row 1", f"column {heading} where {name} was expected", hint)
                )


def _absent_column(sheet: Sheet, name: str) -> Fault:
    headings = ", ".join(heading for heading in sheet.header if heading)
    hint = f'the file has {shorten(headings, 200)}; name one {name}, or say columns = {{ {name} = "..." }}'
    return Fault(f"{sheet.name}: row 1", f"no column {name}", hint)


def _factors(file: str, model: Model, columns: DataColumns, faults: list[Fault]) -> dict[str, float]:
    units = {"TIME": model.time} | {
        name: item.unit
        for group in (model.observables, model.inputs, model.covariates)
        for name, item in group.items()
    }
    factors = {}
    for name, text in columns.units.items():
        if name in units:
            scale = columns.scales.get(name)
            try:
                factors[name] = convert_factor(text, scale.unit if scale else str(units[name]))
            except ValueError as error:
                hint = f"its assay reports {scale.unit}" if scale else f"the model has {name} in {units[name]}"
                faults.append(Fault(f"{file}: units.{name}", str(error), hint))
            else:
                factors[name] = factors[name] / scale.value if scale else factors[name]
    return factors


# --- rows together ----------------------------------------------------------------------------------------


def _check_columns_needed(events: list[Event], reading: Reading, faults: list[Fault]) -> None:
    have = set(reading.place) | set(reading.columns.constant)
    used = {event.evid for event in events if not event.excluded}
    needed = {OBSERVATION: ("DV", "DVID"), DOSE: ("AMT", "CMT")}
    for evid in sorted(used & set(needed)):
        for name in needed[evid]:
            if name not in have and not (name == "CMT" and len(reading.model.inputs) == 1):
                what = f"no column {name}, which {'observations' if evid == OBSERVATION else 'doses'} need"
                hint = f'add it, or say columns = {{ {name} = "..." }} or constant = {{ {name} = "..." }}'
                faults.append(Fault(f"{reading.file}: row 1", what, hint))


def _check_units_declared(events: list[Event], reading: Reading, faults: list[Fault]) -> None:
    columns = reading.columns
    occurring = (
        {"TIME": None}
        | {event.name: None for event in events if event.name}
        | {name: None for event in events for name in event.covariates}
    )
    for name in occurring:
        if name not in columns.units:
            faults.append(
                Fault(f"{reading.file}: units", f"no unit for {name}", f'say units = {{ {name} = "..." }}')
            )


def _with_event_limits(events: list[Event], columns: DataColumns, faults: list[Fault]) -> list[Event]:
    """Measured values below the limit that their sample's events give, censored there; a laboratory's own stay."""
    if not columns.event_limits:
        return events
    used = {(event.id, event.time, event.name): event for event in events if event.observation}
    return [_limited(event, used, faults) if event.name in columns.event_limits else event for event in events]


def _limited(event: Event, used: Mapping[tuple[str, float, str], Event], faults: list[Fault]) -> Event:
    observation = event.observation
    if observation is None or observation.censoring:
        return event
    parent = event.row.reading.columns.event_limits[event.name].parent
    limit = event_limit(event, used.get((event.id, event.time, parent)), faults)
    if not observation.value < limit:
        return event
    return replace(event, observation=replace(observation, value=limit, censoring=1), limited=True)


def _check_order(events: list[Event], faults: list[Fault]) -> None:
    """One subject's rows stand together and its times do not go back."""
    hint = "sort the rows by ID and TIME; give a second course an ID of its own"
    latest: dict[str, Event] = {}
    previous = ""
    for event in events:
        before = latest.get(event.id)
        if before and event.id != previous:
            what = f"subject {shorten(event.id)} again after another subject"
            faults.append(Fault(at(event.row, "ID"), what, hint))
        elif before and event.time < before.time:
            what = (
                f"time {event.row.cells['TIME']} after {before.row.cells['TIME']} in row {before.row.number}"
            )
            faults.append(Fault(at(event.row, "TIME"), what, hint))
        latest[event.id], previous = event, event.id


def _check_duplicates(events: list[Event], faults: list[Fault]) -> None:
    first: dict[tuple[str, float, int, str], int] = {}
    for event in events:
        if event.excluded or math.isnan(event.time):
            continue
        key = (event.id, event.time, event.evid, event.name)
        if key in first:
            what = f"the same subject, time, event and {event.name or 'kind'} as row {first[key]}"
            where = f"{event.row.reading.file}: row {event.row.number}"
            faults.append(Fault(where, what, "keep one of them, or set MDV = 1 on a replicate"))
        first.setdefault(key, event.row.number)


def _check_censoring(events: list[Event], faults: list[Fault]) -> None:
    kinds: dict[str, set[int]] = {}
    for event in events:
        if event.observation and event.name:
            kinds.setdefault(event.name, set()).add(event.observation.censoring)
    for name, found in kinds.items():
        if 0 not in found:
            faults.append(
                Fault(
                    f"{events[0].row.reading.file}: observable {name}",
                    "every value is censored",
                    "check CENS (0: measured), or leave this observable out",
                )
            )


def _check_subjects(events: list[Event], faults: list[Fault]) -> None:
    for identity, group in _by_subject(events):
        _check_same("ARM", group, faults)
        _check_same(STUDY, group, faults)
        for name in group[0].row.reading.model.covariates:
            _check_covariate(identity, name, group, faults)
    columns = events[0].row.reading.columns if events else None
    for name in sorted(set(columns.missing) - columns.kinds if columns else ()):
        _check_known_of_some(name, events, faults)
    if events and not any(event.observation for event in events):
        faults.append(Fault(events[0].row.reading.file, "no observation to use", "check DV, EVID and MDV"))


def _check_known_of_some(name: str, events: list[Event], faults: list[Fault]) -> None:
    """Of a covariate with a distribution: nothing could be learned of it or by it, were it missing for everyone."""
    if any(name in event.covariates for event in events):
        return
    first, last = events[0].row, events[-1].row
    where = at(first, name).replace(f"row {first.number}", f"rows {first.number} to {last.number}", 1)
    what = f"{'is' if name in first.cells else 'has no column and is'} missing for every subject"
    faults.append(Fault(where, f"covariate {name} {what}", f"give it where it is known, or leave "
                        f"[missing_covariates.{name}] out and take the model's value for all"))


def _by_subject(events: Iterable[Event]) -> list[tuple[str, list[Event]]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(event.id, []).append(event)
    return list(groups.items())


def _check_same(column: str, group: list[Event], faults: list[Fault]) -> None:
    first, kind = _first(column, group), column.lower()
    for event in group:
        if event.row.cells.get(column, "") not in ("", first):
            found, identity = shorten(event.row.cells[column]), shorten(event.id)
            what = f"{kind} '{found}' where subject {identity} is in '{shorten(first)}'"
            faults.append(Fault(at(event.row, column), what, f"a subject belongs to one {kind}"))


def _first(column: str, group: list[Event]) -> str:
    return next((text for event in group if (text := event.row.cells.get(column, ""))), "")


def _check_studies(events: list[Event], reading: Reading, faults: list[Fault]) -> None:
    """Where studies may differ, every subject is of one with a name that a parameter can have, and there are two."""
    others = reading.columns.studies
    if others is None:
        return
    if STUDY not in reading.place and STUDY not in reading.columns.constant:
        if not others:
            faults.append(Fault(f"{reading.file}: row 1", f"no column {STUDY}, which a study effect needs",
                                f'add it, or say columns = {{ {STUDY} = "..." }}'))
        return
    found = set(others)
    for identity, group in _by_subject(events):
        study, where = _first(STUDY, group), at(group[0].row, STUDY)
        if not study:
            faults.append(Fault(where, f"{STUDY} is missing on every row of subject {shorten(identity)}",
                                "write it on the subject's first row"))
        elif not _STUDY_NAME.fullmatch(study):
            faults.append(Fault(where, f"'{shorten(study)}' cannot be part of a parameter's name",
                                "use letters, digits and underscores"))
        found.add(study)
    if events and len(found) < 2:
        faults.append(Fault(f"{reading.file}: column {STUDY}", f"one study only: {shorten(''.join(found))}",
                            "leave the study effect out of the spec"))


def _check_covariate(identity: str, name: str, group: list[Event], faults: list[Fault]) -> None:
    if name not in group[0].row.cells:
        return
    given = [event for event in group if name in event.covariates]
    if not given and name not in group[0].row.reading.columns.missing:
        what = f"covariate {name} is missing on every row of subject {shorten(identity)}"
        hint = f"write its value on the subject's first row, or say how it is distributed: [missing_covariates.{name}]"
        faults.append(Fault(at(group[0].row, name), what, hint))
    levels = group[0].row.reading.columns.missing.get(name, ())
    for event in given:
        if levels and event.covariates[name] not in levels:
            known = ", ".join(f"{level:g}" for level in levels)
            what = f"{name} = {shorten(event.row.cells[name])}, one of {known} was expected"
            faults.append(Fault(at(event.row, name), what, f"as [missing_covariates.{name}] says"))
    for before, event in pairwise(given):
        old, new = (shorten(one.row.cells[name]) for one in (before, event))
        if before.time == event.time and abs(before.covariates[name] - event.covariates[name]) > 0:
            what = f"{name} = {new}, but {old} at the same time in row {before.row.number}"
            faults.append(Fault(at(event.row, name), what, "one value at a time"))


# --- the study --------------------------------------------------------------------------------------------


def _study(events: list[Event], sheet: Sheet, reading: Reading) -> StudyData:
    subjects = tuple(_subject(identity, group, reading.model) for identity, group in _by_subject(events))
    exclusions = tuple(
        Exclusion(event.row.number, event.id, event.row.cells["TIME"], event.excluded)
        for event in events
        if event.excluded
    )
    limited = Counter(event.name for event in events if event.limited)
    notes = tuple([*_notes(subjects, sheet, reading), *(
        f"observable {name}: {count} values below {reading.columns.event_limits[name].events} events of their sample, "
        "taken as censored there" for name, count in limited.items())])
    studies = tuple(dict.fromkeys(subject.study for subject in subjects if subject.study))
    return StudyData(subjects, exclusions, notes, sheet.digest, sheet.name, len(sheet.lines), studies)


def _subject(identity: str, group: list[Event], model: Model) -> Subject:
    doses = sorted((dose for event in group for dose in event.doses), key=lambda dose: dose.time)
    observations = tuple(event.observation for event in group if event.observation)
    covariates = tuple((name, _steps(name, group, model)) for name in model.covariates)
    return Subject(identity, _first("ARM", group), tuple(doses), observations, covariates, _first(STUDY, group))


def _steps(name: str, group: list[Event], model: Model) -> Course:
    """Steps of one covariate from the model's start on; the first value also holds before its record."""
    given = [(event.time, event.covariates[name]) for event in group if name in event.covariates]
    if not given:
        lacking = name in group[0].row.reading.columns.missing
        return ((model.start, math.nan if lacking else model.covariates[name].value),)
    at_start = [value for time, value in given if time <= model.start] or [given[0][1]]
    steps = [(model.start, at_start[-1])]
    for time, value in given:
        if time > model.start and value != steps[-1][1]:
            steps.append((time, value))
    return tuple(steps)


def _notes(subjects: tuple[Subject, ...], sheet: Sheet, reading: Reading) -> list[str]:
    model, columns, notes = reading.model, reading.columns, []
    unused = [
        heading or f"(column {index + 1}, no name)"
        for index, heading in enumerate(sheet.header)
        if index not in reading.place.values()
    ]
    if unused:
        notes.append(f"columns not used: {', '.join(unused)}")
    for name, covariate in model.covariates.items():
        if name not in {*reading.place, *columns.constant, *columns.kinds}:
            notes.append(
                f"covariate {name}: no column, the model's value {covariate.value:g}"
                f"{'' if covariate.unit == '1' else f' {covariate.unit}'} for every subject"
            )
    have = set(reading.place) | set(columns.constant)
    if "EVID" not in have:
        notes.append("no column EVID: rows with AMT are doses, all others observations")
    if "CMT" not in have and any(subject.doses for subject in subjects):
        notes.append(f"no column CMT: doses go into {next(iter(model.inputs))}, the model's one input")
    if sheet.empty:
        notes.append(f"{sheet.empty} rows without any value were passed over")
    return notes + _notes_on_covariates(subjects, reading) + _notes_on_values(subjects)


def _notes_on_covariates(subjects: tuple[Subject, ...], reading: Reading) -> list[str]:
    """Who lacks one, and whose changes."""
    notes = []
    for name in reading.model.covariates:
        courses = {subject.id: dict(subject.covariates)[name] for subject in subjects}
        lacking = [key for key, course in courses.items() if math.isnan(course[0][1])]
        changing = [key for key, course in courses.items() if len(course) > 1]
        if lacking and name in reading.columns.kinds:
            notes.append(f"kind {name}: not known of {len(lacking)} of {len(subjects)} subjects, summed over")
        elif lacking:
            notes.append(f"covariate {name}: not known of {len(lacking)} of {len(subjects)} subjects, an unknown of "
                         f"the fit for each: {shorten(', '.join(lacking), 200)}")
        if changing:
            notes.append(f"covariate {name}: changes on the way in {len(changing)} of {len(subjects)} subjects; a "
                         "value acts from its row to the next, the first also before; new subjects keep the first")
    return notes


def _notes_on_values(subjects: tuple[Subject, ...]) -> list[str]:
    silent = [subject.id for subject in subjects if not subject.observations]
    notes = [f"subjects without an observation: {', '.join(silent)}"] if silent else []
    negative = Counter(o.observable for subject in subjects for o in subject.observations if o.value < 0)
    notes += [f"observable {name}: {count} negative values" for name, count in negative.items()]
    people = Counter(subject.study for subject in subjects if subject.study)
    if people:
        notes.append("studies: " + ", ".join(f"{name} ({count} subjects)" for name, count in people.items())
                     + "; new subjects, of arms and scenarios, are of one in the middle of all studies")
    return notes + _notes_on_doses(subjects)


def _notes_on_doses(subjects: Sequence[Subject]) -> list[str]:
    """Who was given another sequence of doses than most of the arm, whom endpoints by arm do not describe."""
    notes = []
    for arm in dict.fromkeys(subject.arm for subject in subjects):
        members = [subject for subject in subjects if subject.arm == arm]
        usual = _commonest([subject.doses for subject in members])
        others = [subject.id for subject in members if _inputs(subject.doses) != usual]
        if others:
            notes.append(f"{f'arm {arm}' if arm else 'all subjects'}: {len(others)} of {len(members)} had other doses "
                         f"than most, {' then '.join(usual) or 'none'}: {shorten(', '.join(others))}")
    return notes
