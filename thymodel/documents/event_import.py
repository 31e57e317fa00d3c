"""A data set of NONMEM, Monolix, R, ADaM or a laboratory as event rows of this package; every row is accounted for.

What a heading does not say, the map says; what neither says is guessed and told. A row is kept, expanded into several,
merged into another, or dropped with a reason; a measurement that is not to be used stays, with MDV = 1.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thymodel.documents.clock import (
    days_of_date,
    hours_of_clock,
    hours_of_moment,
    is_clock,
    is_moment,
    kind_of_moment,
)
from thymodel.documents.foreign_table import ForeignTable, PassedOver, read_foreign_table
from thymodel.documents.import_map import HEADINGS, NO_MAP, ImportMap
from thymodel.documents.rows import MOST_REPEATS, shorten, suggest
from thymodel.documents.sheet import Line
from thymodel.documents.units import convert_factor
from thymodel.errors import Fault, InputError

MOST_FAULTS = 1_000  # listed; more have one cause
MOST_ALIKE = 10  # of one column and with one remedy that are listed in full; of more, the rows
_MOST_RANGES = 50  # of their rows
COLUMNS = ("ID", "TIME", "EVID", "CMT", "AMT", "RATE", "DVID", "DV", "CENS", "LIMIT", "MDV")
_MISSING = frozenset({"", ".", "NA", "N/A", "NaN", "nan"})
_AMBIGUOUS = re.compile(r"\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", re.ASCII)
_LIMITED = re.compile(r"([<>])=?\s*(\S+)")
_GROUPED = re.compile(r"[+-]?\d{1,3}([ ,.'’]\d{3})+([.,]\d+)?")
_NONMEM_WHOLE = re.compile(r"[+-]?\d\.\d+E[+-]\d\d")  # 1.0000E+00, as $TABLE writes every number
_CODES_OF_MISSING = frozenset({-99.0, -999.0, -9999.0})
_BLQ_WORDS = frozenset({"BLQ", "BQL", "BLOQ", "LLOQ", "<LLOQ", "BLD"})
_NOT_OURS = {"L2": "measurements of one sample: see [[residual_correlation]] of a spec",
             "TAD": "follows from the doses",
             "DATE": "used for TIME", "CONT": "not supported, was 0 on every row"}
_LATER_TIMES = ("TAD", "ARRLT", "NRRLT")


@dataclass(frozen=True)
class EventRow:
    """One row of the result; texts as they are written, `source` the row of the file that it comes from."""

    source: int
    id: str
    time: float
    evid: int
    name: str = ""  # of the input of a dose, of the observable of a measurement
    amount: str = ""
    rate: str = ""
    value: str = ""
    censored: int = 0
    limit: str = ""
    set_aside: str = ""  # why a measurement is not used
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """`fates` says of every data row of the source what became of it; `passed_over` of every other line."""

    source: str
    source_sha256: str
    rows: tuple[EventRow, ...]
    fates: Mapping[int, str]
    added: int
    passed_over: tuple[PassedOver, ...]
    notes: tuple[str, ...]
    others: tuple[str, ...]
    units: Mapping[str, str]

    @property
    def disposition(self) -> dict[str, int]:
        """Data rows of the source by what became of them, and rows of the result."""
        kinds = Counter(text.partition(":")[0] for text in self.fates.values())
        count = {f"rows {kind}": kinds[kind] for kind in ("kept", "expanded", "merged", "dropped")}
        return {"rows of the source": len(self.fates), **count,
                "rows added": self.added, "rows of the result": len(self.rows),
                "of these set aside (MDV = 1)": sum(bool(row.set_aside) for row in self.rows)}


def import_events(path: Path, found: ImportMap = NO_MAP) -> Imported:
    """A data set read as events.

    Raises:
        InputError: every fault of the file, each at its row and column.
    """
    table = read_foreign_table(Path(path), found)
    work = _Import(table, found)
    if work.place_columns():
        work.read()
    if work.faults:
        _refuse(work.faults, table.name)
    return work.result()


def _refuse(faults: Sequence[Fault], name: str) -> None:
    faults = _folded(sorted(dict.fromkeys(faults), key=_row_of), name)
    listed = faults[:MOST_FAULTS]
    if len(faults) > MOST_FAULTS:
        listed.append(Fault(name, f"{len(faults) - MOST_FAULTS} further faults are not listed", "mend the first ones"))
    raise InputError(listed)


def _folded(faults: Sequence[Fault], name: str) -> list[Fault]:
    """Faults of one column with one remedy: the first in full, then a line with the rows of all others."""
    listed: list[Fault] = []
    seen, more = Counter[tuple[str, str]](), dict[tuple[str, str], list[int]]()
    for fault in faults:
        alike = (fault.where.partition(", ")[2], fault.hint)
        seen[alike] += 1
        if seen[alike] <= MOST_ALIKE or not _row_of(fault):
            listed.append(fault)
        else:
            more.setdefault(alike, []).append(_row_of(fault))
    return listed + [Fault(f"{name}: rows {_ranges(rows)}{f', {column}' * bool(column)}",
                           f"{len(rows)} further faults with this remedy", hint)
                     for (column, hint), rows in more.items()]


def _ranges(rows: Sequence[int]) -> str:
    """1, 4-7, 9; each row once."""
    parts: list[list[int]] = []
    for row in dict.fromkeys(rows):
        if parts and row == parts[-1][1] + 1:
            parts[-1][1] = row
        else:
            parts.append([row, row])
    texts = [f"{first}" if first == last else f"{first}-{last}" for first, last in parts]
    return ", ".join(texts[:_MOST_RANGES]) + (f" and up to {parts[-1][1]}" if len(texts) > _MOST_RANGES else "")


def _row_of(fault: Fault) -> int:
    found = re.search(r": row (\d+)", fault.where)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class _Cells:
    """One source row: cells by our names, "" where missing; `others` by heading."""

    row: int
    cells: Mapping[str, str]
    others: Mapping[str, str]

    def get(self, name: str) -> str:
        return self.cells.get(name, "")


class _Import:
    """A data set under way: its columns, the rows made so far, and the faults."""

    def __init__(self, table: ForeignTable, found: ImportMap):
        self.table, self.map = table, found
        self.faults: list[Fault] = list(table.faults)
        self.notes: list[str] = list(table.notes)
        self.roles: dict[str, int] = {}
        self.others: dict[str, int] = {}
        self.rows: list[EventRow] = []
        self.fates: dict[int, str] = {}
        self.added = 0
        self.units: dict[str, str] = {name: item.to for name, item in found.units.items()}
        self.counted: Counter[str] = Counter()  # things told once, with their number
        self.unitless: dict[tuple[str, str], list[int]] = {}  # quantity and column -> rows without a unit
        self.empty: set[int] = set()  # rows of a laboratory's table without any marker or dose
        self.running: dict[tuple[str, str], tuple[_Cells, float, float]] = {}  # classic infusions that are on
        self.ends: dict[int, tuple[float, float]] = {}  # row on which one of them begins -> its amount and rate
        self.missing = _MISSING | set(found.missing)
        self.undated: set[int] = set()  # rows whose time is that of a clock, on a day that is not said
        self.texts = {line.row: line.cells for line in table.lines}

    def fault(self, row: int | None, name: str, what: str, hint: str = "") -> None:
        index = self.roles.get(name, self.others.get(name))
        heading = self.table.header[index] if index is not None else name
        where = self.table.name if row is None else f"{self.table.name}: row {row}"
        self.faults.append(Fault(f"{where}, column {heading}" if heading else where, what, hint))

    # --- columns ---------------------------------------------------------------------------------------------

    def place_columns(self) -> bool:
        """Says of every column what it means; whether rows can be read with that."""
        header, found = self.table.header, self.map
        heads = [line.row for line in self.table.passed_over if line.reason.startswith("header line")]
        first = f"{self.table.name}: row {heads[0] if heads else 1}"
        wanted = [*found.columns.values(), *found.markers, *found.not_used, *found.codes,
                  *(rule.column for rule in found.exclude)]
        if found.first_dose:
            wanted += [found.first_dose.amount, *([found.first_dose.per] if found.first_dose.per else [])]
        for heading in dict.fromkeys(wanted):
            if heading not in header:
                self.faults.append(Fault(first, f"no column {heading}, which the map names", suggest(heading, header)))
        if self.faults and set(wanted) - set(header):
            return False
        upper = {text.upper(): place for place, text in reversed(list(enumerate(header)))
                 if text not in found.not_used and text not in found.markers}
        taken = {header.index(text) for text in found.columns.values() if text in header}
        for name, headings in HEADINGS.items():
            if name in found.columns:
                if found.columns[name] in header:
                    self.roles[name] = header.index(found.columns[name])
                continue
            if name in found.constant or (name == "DV" and found.markers):
                continue
            for heading in headings:
                place = upper.get(heading)
                if place is not None and place not in taken:
                    self.roles[name] = place
                    taken.add(place)
                    if header[place].upper() != name:
                        self.notes.append(f"{name} taken from column {header[place]}")
                    break
        before = len(self.faults)
        self._place_others(taken)
        self._check_columns(first)
        return len(self.faults) == before

    def _place_others(self, taken: set[int]) -> None:
        unused = set(self.map.not_used) | set(self.map.markers)
        for place, heading in enumerate(self.table.header):
            if place in taken or heading in unused or heading == "(row names)":
                continue
            why = _NOT_OURS.get(heading.upper())
            if heading.upper() == "CONT":
                for line in self.table.lines:
                    if line.cells[place] not in self.missing | {"0"}:
                        self.fault(line.row, heading, "CONT: a record continued on the next line is not supported")
            if why:
                self.notes.append(f"column {heading} is not carried over: {why}")
            elif not heading:
                self.notes.append(f"column {place + 1} has no name and is not carried over")
            elif heading in COLUMNS or heading.upper() in ("ID", "TIME"):
                self.fault(None, heading, "a second column of that meaning", "name it under not_used in the map")
            else:
                self.others[heading] = place
        if self.map.not_used:
            self.notes.append(f"not used, as the map says: {', '.join(self.map.not_used)}")

    def _check_columns(self, first: str) -> None:
        header, have = ", ".join(self.table.header), {*self.roles, *self.map.constant}
        if "ID" not in have:
            self.faults.append(Fault(first, "no column that says the subject",
                                     f'say columns = {{ ID = "..." }}; the file has {shorten(header, 200)}'))
        if not have & {"TIME", "DATE"}:
            since = [text for text in self.table.header if text.upper() in _LATER_TIMES]
            hint = (f"{since[0]} counts from the latest dose; a time from one beginning is needed" if since else
                    'say columns = { TIME = "..." }, or constant = { TIME = "0" } where nothing happens in time')
            self.faults.append(Fault(first, "no column that says the time", hint))
        if not self.map.markers and "DV" not in have:
            self.faults.append(Fault(first, "no column that holds the measurements",
                                     'say columns = { DV = "..." }, or [markers] for a column a marker'))
        if "DVID" not in have and not self.map.markers and "DV" in self.roles:
            several = self._observed_compartments()
            if len(several) > 1:
                self.roles["DVID"] = self.roles["CMT"]
                self.notes.append("no column DVID: CMT of the measurements says what was measured "
                                  f"({', '.join(several)})")
        if have & {"EVID"} and "AMT" not in have:
            place = {text.upper(): k for k, text in enumerate(self.table.header)}.get("DOSEA")
            if place is not None:
                self.roles["AMT"] = place
                self.others.pop(self.table.header[place], None)
                self.notes.append(f"AMT taken from column {self.table.header[place]}")

    def _observed_compartments(self) -> list[str]:
        if not {"CMT", "EVID"} <= set(self.roles):
            return []
        evid, cmt = self.roles["EVID"], self.roles["CMT"]
        return sorted({_whole(line.cells[cmt]) for line in self.table.lines if _whole(line.cells[evid]) == "0"
                       and line.cells[cmt] not in self.missing})

    # --- rows ------------------------------------------------------------------------------------------------

    def read(self) -> None:
        lines = [cells for line in self.table.lines if (cells := self._used(line))]
        courses = self._courses(lines)
        for identity, group in courses:
            self._subject(identity, group)
        for (identity, name), (cells, _, _) in self.running.items():
            self.fault(cells.row, "EVID", f"an infusion into {name} of subject {identity} that never ends")
        for (name, column), rows in self.unitless.items():
            for row in rows if name in self.units else ():
                self.fault(row, column, f"no unit of {name}, which is in {self.units[name]} on other rows",
                           f"write it, or say units.{name} in the map, with from for rows that do not say it")
        for text, count in self.counted.items():
            self.notes.append(f"{text} ({count} rows)")
        self._note_texts()

    def _used(self, line: Line) -> _Cells | None:
        found, given = self.map, {name: line.cells[place] for name, place in self.roles.items()}
        cells = {name: "" if text in self.missing else text for name, text in {**found.constant, **given}.items()}
        everything = dict(zip(self.table.header, line.cells, strict=True))
        for rule in found.exclude:
            text = everything.get(rule.column, "")
            if (rule.equals and text in rule.equals) or (rule.unless and text not in rule.unless):
                self.fates[line.row] = f"dropped: {rule.reason}"
                return None
        others = {name: self._other(name, line.cells[place], line.row) for name, place in self.others.items()}
        cells["ID"] = re.sub(r"(?<=\d)\.0+$", "", _plain(cells.get("ID", "")))
        if not cells["ID"]:
            self.fault(line.row, "ID", "no subject", "write the subject on every row")
            return None
        return _Cells(line.row, cells, others)

    def _other(self, name: str, text: str, row: int) -> str:
        if text in self.missing:
            return "."
        codes = self.map.codes.get(name)
        if codes is not None:
            if text not in codes:
                self.fault(row, name, f"'{shorten(text)}' has no code", f"codes of the map: {', '.join(codes)}")
                return "."
            return f"{codes[text]:.12g}"
        unit = self.map.units.get(name)
        if unit is not None and unit.source is not None:
            value = self._value(row, name, text)
            return "." if math.isnan(value) else f"{value * convert_factor(unit.source, unit.to):.12g}"
        return text

    def _note_texts(self) -> None:
        for name in self.others:
            everything = {row.others[name] for row in self.rows} - {"."}
            texts_of_numbers = {text for text in everything if _NUMBER.fullmatch(text) and not re.search("[dD]", text)}
            texts = {text for text in everything if not _NUMBER.fullmatch(text)}
            coded = sorted(text for text in texts_of_numbers if float(text) in _CODES_OF_MISSING)
            if coded:
                self.notes.append(_code_note(name, ", ".join(coded)))
            if texts:
                shown = shorten(", ".join(sorted(texts)), 60)
                self.notes.append(f"column {name} holds text ({shown}): as a covariate it needs [codes.{name}]")

    def _value(self, row: int, name: str, text: str) -> float:
        """A cell as a number; NaN when missing or, with a fault, when it is none."""
        if not text or text in self.missing:
            return math.nan
        value = float(re.sub("[dD]", "e", text)) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            self.fault(row, name, f"'{shorten(text)}' where a finite number was expected", _number_hint(name, text))
            return math.nan
        return value

    def _number(self, cells: _Cells, name: str) -> float:
        return self._value(cells.row, name, cells.get(name))

    def _courses(self, lines: list[_Cells]) -> list[tuple[str, list[_Cells]]]:
        """Rows subject by subject; where an ID comes back, what the map says."""
        groups: dict[str, list[_Cells]] = {}
        previous, seen, current = None, Counter[str](), ""
        for cells in lines:
            identity = cells.get("ID")
            if identity != previous:
                seen[identity] += 1
                current = identity
                if seen[identity] > 1 and self.map.reappearing_id == "new_subject":
                    current = f"{identity}_{seen[identity]}"
                    self.notes.append(f"row {cells.row}: subject {identity} again, taken for a new one, {current}")
                elif seen[identity] > 1 and self.map.reappearing_id == "refuse":
                    self.fault(cells.row, "ID", f"subject {shorten(identity)} again after another subject",
                               'say reappearing_id = "new_subject" (as NONMEM does) or "same_subject" in the map')
                elif seen[identity] > 1:
                    self.counted["subjects whose rows do not stand together were put together"] += 1
            groups.setdefault(current, []).append(cells)
            previous = identity
        return list(groups.items())

    # --- one subject -----------------------------------------------------------------------------------------

    def _subject(self, identity: str, group: list[_Cells]) -> None:
        made: list[EventRow] = []
        part, begin, last = 1, 0.0, -math.inf
        times = self._times(group)
        for cells, time in zip(group, times, strict=True):
            evid, classic = self._evid(cells)
            if evid in (3, 4):
                if self.map.resets == "refuse":
                    self.fault(cells.row, "EVID", f"EVID {evid} (reset{' and dose' if evid == 4 else ''})",
                               'say resets = "new_subject" in the map: what follows becomes another subject, whose '
                               "time begins at the reset")
                    continue
                part, begin, last = part + 1, time, -math.inf
                self.notes.append(f"row {cells.row}: reset of subject {identity}: what follows is subject "
                                  f"{identity}_reset{part}, its time begins there")
                if evid == 3:
                    self.fates[cells.row] = "dropped: a reset, said by the new subject"
                    continue
                evid = 1
            own = identity if part == 1 else f"{identity}_reset{part}"
            if time < last and cells.row in self.undated:
                self.fault(cells.row, "TIME", f"the clock goes back within subject {shorten(identity)}, to "
                           f"{cells.get('TIME')}", "past midnight? a clock needs its day, in a column DATE, or write "
                           "the day and the time in one cell, as 2024-03-01T08:30")
            elif time < last and not self.map.sort:
                self.fault(cells.row, "TIME", f"time goes back within subject {shorten(identity)}: {time:g} after "
                           f"{last:g}", "say sort = true in the map where the order of the rows means nothing")
            last = max(last, time) if not math.isnan(time) else last
            rows = self._event(own, cells, time - begin, evid, classic)
            if rows == [] and cells.row in self.empty and (not made or made[-1].others != self._carried(cells)):
                rows = [EventRow(cells.row, own, time - begin, 2, others=self._carried(cells))]
                self.fates.pop(cells.row)
                self.counted["visits without any marker at which covariates change stay, as EVID 2"] += 1
            if cells.row not in self.fates and rows is not None:
                self.fates[cells.row] = "kept" if len(rows) == 1 else f"expanded: into {len(rows)}"
            made += rows or []
        made = self._first_dose(identity, group, made)
        made = _in_time(made)
        self.rows += self._without_doubles(self._from_zero(made))

    def _from_zero(self, made: list[EventRow]) -> list[EventRow]:
        """Time as the map wants it counted; a new subject after a reset keeps its own zero."""
        if self.map.time_zero != "first_dose":
            return made
        first = {row.id: row.time for row in reversed(made) if row.evid == 1}
        for identity in dict.fromkeys(row.id for row in made):
            if identity not in first:
                where = f"{self.table.name}: subject {shorten(identity)}"
                self.faults.append(Fault(where, "no dose to count time from",
                                         'say time_zero = "first_record", or leave the subject out by [[exclude]]'))
        return [replace(row, time=row.time - first.get(row.id, 0.0)) for row in made]

    def _times(self, group: list[_Cells]) -> list[float]:
        """Time of every row in the unit of the result; NaN where it is a fault."""
        found = [self._hours_or_time(cells) for cells in group]
        clocked = any(clock for _, clock in found)
        values = [value for value, _ in found]
        if clocked and not all(clock or math.isnan(value) for value, clock in found):
            self.fault(group[0].row, "TIME", f"some times of subject {shorten(group[0].get('ID'))} are clock times, "
                       "others are not", "write all in one way")
        if clocked or self.map.time_zero == "first_record":
            known = [value for value in values if not math.isnan(value)]
            zero = (min(known) if self.map.sort else known[0]) if known else 0.0
            values = [value - zero for value in values]
            if clocked:
                self.counted["clock times: hours since the subject's first record"] += len(values)
            self._check_moments(group)
        unit = self.map.units.get("TIME")
        if unit is None:
            if clocked:
                self.units["TIME"] = "hour"
            return values
        if unit.source is None and not clocked:
            self.fault(None, "TIME", "the unit of TIME is not known", 'say units.TIME = { from = "hour", to = "day" }')
            return values
        if clocked and unit.source and convert_factor(unit.source, "hour") != 1.0:  # RATE and II would be read by it
            self.fault(group[0].row, "TIME", f"clock times count in hours, and the map reads TIME in {unit.source}",
                       'say units.TIME = { to = "day" }: RATE and II then count in hours too')
        factor = convert_factor("hour" if clocked else unit.source or "", unit.to)
        return [value * factor for value in values]

    def _check_moments(self, group: list[_Cells]) -> None:
        """A day without its time of day would be its midnight, and one clock in UTC beside others is shifted."""
        kinds = {cells.row: kind_of_moment(cells.get("TIME")) for cells in group if is_moment(cells.get("TIME"))}
        usual = Counter(kinds.values()).most_common(1)[0][0] if kinds else ""
        for row, kind in kinds.items():
            if kind != usual:
                self.fault(row, "TIME", f"{kind}, where other rows of the subject have {usual}",
                           "all of them in one way; [[exclude]] of the map leaves rows out")

    def _hours_or_time(self, cells: _Cells) -> tuple[float, bool]:
        """The time of a row, and whether it is hours of a clock or calendar."""
        text, day = cells.get("TIME"), cells.get("DATE")
        clock = cells.get("CLOCK")
        dated = "DATE" in self.roles and not _elapsed(self.table.header, self.roles)
        try:
            if dated:
                if not day:
                    raise ValueError("no date")
                heading = self.table.header[self.roles["DATE"]]
                at = clock if "CLOCK" in self.roles else text
                if not at and ("TIME" in self.roles or "CLOCK" in self.roles):
                    raise ValueError("no time of day")
                if _AMBIGUOUS.fullmatch(day) and not self.map.date_order and heading.upper() == "DATE":
                    self.counted[f"dates of {heading} were read as month/day/year; date_order of the map can say "
                                 "otherwise"] += 1
                if heading.upper() == "ADT" and _NUMBER.fullmatch(at):
                    if "CLOCK" not in self.roles:
                        raise ValueError("numbers beside ADT may be hours of a day, seconds of it, or since a dose")
                    at = f"{float(at) / 3600:.12g}" if re.fullmatch(r"\d+(\.0*)?", at) else at  # SAS counts seconds
                days = days_of_date(day, heading, self.map.date_order or "")
                return 24.0 * days + (hours_of_clock(at) if at else 0.0), True
            if is_clock(text):
                self.undated.add(cells.row)
                return hours_of_clock(text), True
            if is_moment(text):
                return hours_of_moment(text), True
        except ValueError as error:
            of_date = any(word in str(error) for word in ("date", "calendar", "order", "month"))
            name = "DATE" if dated and of_date else "TIME"
            hint = ("every event needs one; [[exclude]] of the map leaves rows out" if str(error).startswith("no ") else
                    'the order of a date follows from the column (DATE month/day/year, DAT1 day/month/year, DAT2 '
                    'year/month/day, DAT3 year/day/month) or from the map: date_order = "dmy"' if name == "DATE" else
                    "write 13:45, 1:45 pm, or hours up to 24")
            self.fault(cells.row, name, str(error), hint)
            return math.nan, True
        value = self._number(cells, "TIME")
        if not text:
            self.fault(cells.row, "TIME", "no time", "every event needs one")
        place = self.roles.get("TIME")
        if place is not None and self.table.header[place].upper() == "ADTM" and not math.isnan(value):
            self.counted["numbers in ADTM are seconds, as SAS counts them"] += 1
            return value / 3600, True
        return value, False

    # --- one row ---------------------------------------------------------------------------------------------

    def _evid(self, cells: _Cells) -> tuple[int, str]:
        """EVID 0 to 4, and what a classic RxODE code says beside it."""
        text = _whole(cells.get("EVID"))
        if "EVID" not in self.roles and "EVID" not in self.map.constant:
            dose = abs(self._number(cells, "AMT")) > 0
            return (1 if dose else 0), ""
        if text in ("0", "1", "2", "3", "4"):
            return int(text), ""
        if text.isdigit() and len(text) <= 9 and int(text) > 100:
            return 1, text
        self.fault(cells.row, "EVID", f"EVID '{shorten(text)}', 0 to 4 or a classic RxODE code was expected" if text
                   else "no EVID", "0 measurement, 1 dose, 2 other, 3 reset, 4 reset and dose")
        return 2, ""

    def _event(self, identity: str, cells: _Cells, time: float, evid: int, classic: str) -> list[EventRow] | None:
        base = EventRow(cells.row, identity, time, evid, others=self._carried(cells))
        if classic:
            return self._classic_dose(base, cells, classic)
        if evid == 1:
            measured = self._markers(replace(base, evid=0), cells) if self.map.markers else []
            return [*measured, *self._doses(base, cells)]
        for name in ("ADDL", "RATE"):
            if abs(self._number(cells, name)) > 0:
                self.fault(cells.row, name, f"{name} = {cells.get(name)} on a row that is no dose",
                           f"write 0 or . in {name}")
        if evid == 2:
            return [base]
        if abs(self._number(cells, "AMT")) > 0:
            self.fault(cells.row, "AMT", "a measurement with a dose", "write the dose on a row of its own, EVID 1")
        if self.map.markers:
            rows = self._markers(base, cells)
            if not rows:
                self.fates[cells.row] = "dropped: no marker and no dose in it"
                self.empty.add(cells.row)
            return rows
        told = cells.get("DVTEXT")
        if told != cells.get("DV") and (told[:1] in ("<", ">") or told.upper() in _BLQ_WORDS) and \
                _whole(cells.get("CENS")) in ("", "0"):
            heading = self.table.header[self.roles["DVTEXT"]]
            self.counted[f"{heading} says that the value is beyond a limit: censored there, whatever DV holds"] += 1
            return [self._measured(base, cells, cells.get("DVID"), told, "DVTEXT")]
        return [self._measured(base, cells, cells.get("DVID"), cells.get("DV"), "DV")]

    def _carried(self, cells: _Cells) -> dict[str, str]:
        told: dict[str, str] = {name: cells.get(name) or "." for name in ("ARM", "STUDY") if name in self.roles}
        return {**told, **cells.others}

    def _check_steady(self, cells: _Cells) -> None:
        if abs(self._number(cells, "SS")) > 0:
            self.fault(cells.row, "SS", f"SS = {cells.get('SS')}: a dose at steady state",
                       'write out the doses before it; where SS means nothing here, say not_used = ["SS"] in the map')

    # --- doses -----------------------------------------------------------------------------------------------

    def _doses(self, base: EventRow, cells: _Cells) -> list[EventRow]:
        self._check_steady(cells)
        amount = self._number(cells, "AMT")
        if math.isnan(amount) or amount < 0:
            self.fault(cells.row, "AMT", f"a dose of {cells.get('AMT') or 'no amount'}", "write an amount, 0 or more")
        self._ignored_value(cells)
        if cells.get("EXCLUDED") and _yes(cells.get("EXCLUDED")):
            self.fault(cells.row, "EXCLUDED", "a dose that is to be excluded", "say in the map under [[exclude]] that "
                       "its row is dropped, or clear the flag: a dose that was given acts")
        name = self._compartment(cells, cells.get("CMT"))
        rate = self._rate(cells, amount)
        factor, unit = self._factor(cells, name, "AMTUNIT")
        dose = replace(base, name=name, amount=_text(cells.get("AMT"), amount, factor),
                       rate="" if rate == 0 else f"{rate * factor * self._per_time():.12g}")
        if unit:
            self.units.setdefault(name, unit)
        return self._repeats(dose, cells)

    def _per_time(self) -> float:
        unit = self.map.units.get("TIME")
        return 1.0 if unit is None else 1 / convert_factor(unit.source or "hour", unit.to)

    def _ignored_value(self, cells: _Cells) -> None:
        """What stands in DV of a dose: nothing, 0, or something that MDV = 1 says to pass over."""
        text = cells.get("DV")
        if self.map.markers or not text or (_NUMBER.fullmatch(text) and float(re.sub("[dD]", "e", text)) == 0):
            return
        if _whole(cells.get("MDV")) == "1":
            self.counted["DV of a dose row with MDV = 1 was passed over"] += 1
        else:
            self.fault(cells.row, "DV", f"a dose row with a measurement, {shorten(text)}",
                       "write the measurement on a row of its own, or set MDV = 1 where it means nothing")

    def _compartment(self, cells: _Cells, text: str) -> str:
        text = _whole(text)
        if text.startswith("-"):
            self.fault(cells.row, "CMT", f"CMT {text} turns a compartment off", "this has no counterpart here")
        if self.map.cmt and text and text not in self.map.cmt:
            self.fault(cells.row, "CMT", f"compartment '{shorten(text)}' is not in [cmt] of the map",
                       f"[cmt] has {', '.join(self.map.cmt)}")
        return self.map.cmt.get(text, text)

    def _rate(self, cells: _Cells, amount: float) -> float:
        """Amount per time of the file; 0 for a bolus."""
        rate, duration = self._number(cells, "RATE"), self._number(cells, "DUR")
        if rate < 0:
            kind = {"-1": "a rate that the model estimates", "-2": "a duration that the model estimates"}
            what = kind.get(_whole(cells.get("RATE")), "a negative rate")
            self.fault(cells.row, "RATE", f"RATE = {cells.get('RATE')}: {what}",
                       "not supported: write the rate as amount per time, or the duration in DUR")
            return 0.0
        if duration < 0:
            self.fault(cells.row, "DUR", f"a duration of {cells.get('DUR')}", "write 0 or . for a bolus")
            return 0.0
        if rate > 0 and amount == 0:
            self.fault(cells.row, "RATE", "an infusion without an amount", "an endless infusion is not supported")
        if rate > 0 and duration > 0 and not math.isclose(rate * duration, amount, rel_tol=1e-3):
            self.fault(cells.row, "DUR", f"RATE {rate:g} and a duration of {duration:g} do not give AMT {amount:g}",
                       "leave one of them out")
        if rate > 0:
            return rate
        return amount / duration if duration > 0 else 0.0

    def _repeats(self, dose: EventRow, cells: _Cells) -> list[EventRow]:
        more, gap = self._number(cells, "ADDL"), self._number(cells, "II")
        more, gap = (0.0 if math.isnan(more) else more), (0.0 if math.isnan(gap) else gap)
        if more < 0 or more != int(more) or more > MOST_REPEATS:
            self.fault(cells.row, "ADDL", f"ADDL = {cells.get('ADDL')}, a whole number up to {MOST_REPEATS} was "
                       "expected", "ADDL counts the additional doses")
            return [dose]
        if more and gap <= 0:
            self.fault(cells.row, "II", "ADDL without a time between doses", "write it in II")
            return [dose]
        if gap > 0 and not more:
            self.fault(cells.row, "II", "II without ADDL", 'write ADDL, or name II under not_used in the map')
        step = gap / self._per_time()
        # covariates of this row are those of its time: on later doses they would undo what changed in between
        later = {name: text if name in ("ARM", "STUDY") else "." for name, text in dose.others.items()}
        return [dose, *(replace(dose, time=dose.time + k * step, others=later) for k in range(1, int(more) + 1))]

    def _classic_dose(self, base: EventRow, cells: _Cells, code: str) -> list[EventRow] | None:
        """A dose of RxODE before events: 100*compartment + 1 for a bolus, 10000 more for an infusion, whose AMT is its
        rate, negative on the row where it ends."""
        number = int(code)
        kind, compartment = number // 10000 % 10, number // 100 % 100 + 100 * (number // 100000)
        if number % 100 != 1 or kind > 1:
            self.fault(cells.row, "EVID", f"EVID {code} is not a plain bolus or infusion", "write it as EVID 1")
            return None
        self.counted["classic RxODE codes in EVID (compartment and infusion) were read"] += 1
        name, amount = self._compartment(cells, str(compartment)), self._number(cells, "AMT")
        if kind == 0:
            return self._doses(base, replace(cells, cells={**cells.cells, "CMT": str(compartment), "RATE": ""}))
        if amount > 0:
            if (base.id, name) in self.running:
                self.fault(cells.row, "EVID", f"an infusion into {name} before the last one ended")
            self.running[base.id, name] = (cells, base.time, amount)
            self._ignored_value(cells)
            return [replace(base, name=name)]  # its amount is known where it ends
        on = self.running.pop((base.id, name), None)
        if on is None or not amount < 0 or not math.isclose(-amount, on[2], rel_tol=1e-9):
            self.fault(cells.row, "AMT", f"the end of an infusion into {name} that did not begin so",
                       "the row of its end has the same EVID and the negative rate")
            return None
        self.fates[cells.row] = f"merged: the end of the infusion of row {on[0].row}"
        factor, _ = self._factor(cells, name, "AMTUNIT")
        self.ends[on[0].row] = ((base.time - on[1]) * on[2] * factor * self._per_time(),
                                on[2] * factor * self._per_time())
        return []

    def _first_dose(self, identity: str, group: list[_Cells], made: list[EventRow]) -> list[EventRow]:
        made = [replace(row, amount=f"{self.ends[row.source][0]:.12g}", rate=f"{self.ends[row.source][1]:.12g}")
                if row.source in self.ends else row for row in made]
        rule = self.map.first_dose
        if rule is None or not group:
            return made
        place = {text: k for k, text in enumerate(self.table.header)}
        amounts = {}
        for cells in group:
            line = self.texts[cells.row]
            value = self._value(cells.row, rule.amount, line[place[rule.amount]])
            per = self._value(cells.row, rule.per, line[place[rule.per]]) if rule.per else 1.0
            amounts[value * per] = cells.row
        known = [value for value in amounts if not math.isnan(value)]
        if len(known) != 1:
            self.fault(group[0].row, rule.amount, f"subject {shorten(identity)} has {len(known)} different doses there",
                       "first_dose needs one dose a subject")
            return made
        unit = self.map.units.get(rule.input)
        factor = convert_factor(unit.source, unit.to) if unit and unit.source else 1.0
        self.added += 1
        others = next(iter(made), EventRow(0, identity, 0.0, 1)).others
        return [EventRow(group[0].row, identity, rule.time, 1, rule.input, f"{known[0] * factor:.12g}", others=others),
                *made]

    # --- measurements ----------------------------------------------------------------------------------------

    def _markers(self, base: EventRow, cells: _Cells) -> list[EventRow]:
        """One row of a laboratory's table: a measurement for every cell that has one; its other cells go with each."""
        line = self.texts[cells.row]
        texts = [(name, heading, line[self.table.header.index(heading)]) for heading, name in self.map.markers.items()
                 if heading in self.table.header]
        return [self._measured(base, cells, name, text, heading) for name, heading, text in texts
                if text not in self.missing]

    def _measured(self, base: EventRow, cells: _Cells, name: str, text: str, column: str) -> EventRow:
        name = self._observable(cells, name)
        censored, text = self._censoring(cells, name, text, column)
        value = self._value(cells.row, column, text)
        aside = self._aside(cells)
        if value in _CODES_OF_MISSING and not aside:
            heading = self.table.header[self.roles[column]] if column in self.roles else column
            self.counted[_code_note(heading, text)] += 1
        limit_of_assay = cells.get("LLOQ") or (f"{self.map.lloq[name]:g}" if name in self.map.lloq else "")
        if censored == 0 and not aside and value < self._value(cells.row, "LLOQ", limit_of_assay):
            self.counted["values below the LLOQ without a flag were taken as censored there"] += 1
            censored, text, value = 1, limit_of_assay, self._value(cells.row, "LLOQ", limit_of_assay)
        factor, unit = self._factor(cells, name, "DVUNIT")
        if unit:
            self.units.setdefault(name, unit)
        if text == "" and not aside:
            self.counted["measurements without a value stay, and are not used"] += 1
        limit = self._number(cells, "LIMIT")
        if censored == -1 and not math.isnan(limit):
            self.fault(cells.row, "LIMIT", "LIMIT with CENS -1 is not supported", "leave LIMIT blank")
        return replace(base, name=name, value=_text(text, value, factor), censored=censored, set_aside=aside,
                       limit="" if math.isnan(limit) or not censored else f"{limit * factor:.12g}")

    def _observable(self, cells: _Cells, text: str) -> str:
        if self.map.markers:
            return text
        text = _whole(text)
        if not text:
            if "DVID" in self.roles or "DVID" in self.map.constant:
                self.fault(cells.row, "DVID", "no value where one is needed", "it says what was measured")
                return ""
            place = self.roles.get("DV")
            heading = self.table.header[place] if place is not None else "DV"
            if heading in ("DV", "Y"):
                self.counted["no column DVID: what was measured is not named; give it by constant = { DVID = \"...\" } "
                             "in the map or in the spec"] += 1
                return ""
            self.counted[f"no column DVID: measurements are named after their column, {heading}"] += 1
            return heading
        if self.map.dvid and text not in self.map.dvid:
            self.fault(cells.row, "DVID", f"'{shorten(text)}' is not in [dvid] of the map",
                       f"[dvid] has {', '.join(self.map.dvid)}")
        return self.map.dvid.get(text, text)

    def _censoring(self, cells: _Cells, name: str, text: str, column: str) -> tuple[int, str]:
        """CENS of a measurement and its text without < or >; where only a flag says it, the LLOQ is the value."""
        flag = cells.get("CENS")
        if (found := _LIMITED.fullmatch(text)) and _NUMBER.fullmatch(found[2]):
            side = 1 if found[1] == "<" else -1
            if _whole(flag) in ("1", "-1") and _whole(flag) != str(side):
                self.fault(cells.row, "CENS", f"CENS {flag} beside '{shorten(text)}'", "1 is below DV, -1 above it")
            return side, found[2]
        if flag and _whole(flag) not in ("0", "1", "-1"):
            self.fault(cells.row, "CENS", f"CENS '{shorten(flag)}', 0, 1 or -1 was expected")
        told = _yes(cells.get("BLQ")) and _whole(flag) in ("", "0") or _whole(flag) == "1" and not text
        limit = cells.get("LLOQ") or (f"{self.map.lloq[name]:.15g}" if name in self.map.lloq else "")
        if not told and text.upper() not in _BLQ_WORDS:
            return int(float(flag)) if _NUMBER.fullmatch(flag) and _whole(flag) in ("1", "-1") else 0, text
        if not limit:
            self.fault(cells.row, column, "a value below the LLOQ, and no LLOQ",
                       f"say [lloq] {name} = ... in the map" if name else
                       'say what was measured by constant = { DVID = "cd4" } in the map, and [lloq] cd4 = ...')
            return 0, ""
        return 1, limit

    def _aside(self, cells: _Cells) -> str:
        if _yes(cells.get("EXCLUDED")):
            return f"excluded by {self.table.header[self.roles['EXCLUDED']]}"
        if "ANALYSED" in self.roles and not _yes(cells.get("ANALYSED")):
            return "ANL01FL is not Y"
        mdv = _whole(cells.get("MDV"))
        if mdv not in ("", "0", "1"):
            self.fault(cells.row, "MDV", f"MDV '{shorten(mdv)}', 0 or 1 was expected")
        return "MDV = 1" if mdv == "1" else ""

    # --- units and doubles -----------------------------------------------------------------------------------

    def _factor(self, cells: _Cells, name: str, column: str) -> tuple[float, str]:
        """What a value is multiplied by, and the unit of the result, as far as either is known."""
        unit, told = self.map.units.get(name), cells.get(column)
        told = self.map.unit_names.get(told, told)
        if unit is None and not told:
            if column in self.roles and cells.get("DV" if column == "DVUNIT" else "AMT"):
                self.unitless.setdefault((name, column), []).append(cells.row)
            return 1.0, ""
        source = told or (unit.source if unit else None)
        if unit is None:
            known = self.units.get(name)
            if known is not None and known != told:
                self.fault(cells.row, column, f"{name} in {shorten(told)} where other rows have {known}",
                           f'say units.{name} = {{ to = "{known}" }} in the map')
            return 1.0, told
        if source is None:
            self.fault(cells.row, column if column in self.roles else name, f"the unit of {name} is not known",
                       f"say units.{name}.from in the map")
            return 1.0, unit.to
        try:
            return convert_factor(source, unit.to), unit.to
        except ValueError as error:
            self.fault(cells.row, column if told else "", f"{name}: {error}",
                       'say what it means: [unit_names] "10^9/L" = "kcell/uL"')
            return 1.0, unit.to

    def _without_doubles(self, made: list[EventRow]) -> list[EventRow]:
        """The same event twice at one time is a mistake, or a replicate, and the map says which."""
        kept: list[EventRow] = []
        first: dict[tuple[str, float, int, str], EventRow] = {}
        for row in made:
            key = (row.id, row.time, row.evid, row.name)
            if row.set_aside or (row.evid == 0 and not row.value) or math.isnan(row.time) or key not in first:
                if not row.set_aside and row.evid in (0, 1, 2):
                    first.setdefault(key, row)
                kept.append(row)
            elif row.evid == 2:
                if row.others == first[key].others:
                    self.fates[row.source] = f"merged: the same as row {first[key].source}"
                else:
                    self.fault(row.source, "", f"another EVID 2 at the time of row {first[key].source}, with other "
                               "covariates", "keep one of them")
            elif row.evid == 0 and self.map.replicates == "set_aside":
                kept.append(replace(row, set_aside=f"replicate of row {first[key].source}"))
            elif row.evid == 0 and self.map.replicate_gap is not None:
                moved = row.time
                while (row.id, moved, row.evid, row.name) in first:
                    moved = float(f"{moved + self.map.replicate_gap:.12g}")
                row = replace(row, time=moved)
                first[row.id, moved, row.evid, row.name] = row
                gap = f"{self.map.replicate_gap:g}"
                self.counted[f"replicates stand {gap} later than the one before, as the map says"] += 1
                kept.append(row)
            else:
                hint = ('say replicates = "set_aside" or replicate_gap = 0.001 in the map' if row.evid == 0 else
                        "add them up, or drop one by [[exclude]]")
                self.fault(row.source, "", f"the same subject, time and {row.name or 'event'} as row "
                           f"{first[key].source}", hint)
        return _in_time(kept)

    def result(self) -> Imported:
        """What was made; the rows of the source must add up."""
        lost = [line.row for line in self.table.lines if line.row not in self.fates]
        if lost:
            raise RuntimeError(f"rows {lost[:5]} of {self.table.name} were neither kept nor dropped")
        if not self.rows:
            raise InputError([Fault(self.table.name, "no row was kept", "look at [[exclude]] of the map")])
        others = tuple(name for name in ("ARM", "STUDY") if name in self.roles) + tuple(self.others)
        return Imported(self.table.name, self.table.digest, tuple(self.rows), dict(sorted(self.fates.items())),
                        self.added, self.table.passed_over, tuple(dict.fromkeys(self.notes)), others, dict(self.units))


def _in_time(rows: list[EventRow]) -> list[EventRow]:
    """Rows of each subject by time, those of one time in their order; subjects in theirs."""
    place = {identity: k for k, identity in enumerate(dict.fromkeys(row.id for row in rows))}
    return sorted(rows, key=lambda row: (place[row.id], row.time))


def _elapsed(header: Sequence[str], roles: Mapping[str, int]) -> bool:
    """Whether TIME counts from a dose already, so that a date beside it is not needed."""
    return "TIME" in roles and header[roles["TIME"]].upper() in ("AFRLT", "NFRLT", "ADTM", "DAY", "DAYS")


def _whole(text: str) -> str:
    """A code without the .0 that tables with missing values write behind it."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", _plain(text.strip()))


def _plain(text: str) -> str:
    """A whole number as $TABLE of NONMEM writes it, 1.0000E+00, in digits; any other text as it is."""
    return f"{float(text):.0f}" if _NONMEM_WHOLE.fullmatch(text) and float(text).is_integer() else text


def _number_hint(name: str, text: str) -> str:
    if name == "TIME":
        return "write a number, a time of day as 13:45 or 1:45 pm, or 2024-03-01T13:45"
    if found := _GROUPED.fullmatch(text):
        return f'say thousands = "{found[1][0]}" in the map, if that marks thousands'
    return 'write . for a missing value, or say missing = ["..."] in the map'


def _code_note(name: str, text: str) -> str:
    return f'column {name} holds {text}: where that means missing, say missing = ["{text}"] in the map'


def _yes(text: str) -> bool:
    return _whole(text).upper() in ("Y", "YES", "1", "TRUE")


def _text(text: str, value: float, factor: float) -> str:
    """A number as the file has it, unless it is converted."""
    if math.isnan(value):
        return ""
    return re.sub("[dD]", "e", text) if factor == 1.0 else f"{value * factor:.12g}"
