"""What counts as reconstitution: endpoints as files state them, and named ones from published definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pydantic

from thymodel.documents import units
from thymodel.documents.expressions import closest
from thymodel.documents.model import Model, Number
from thymodel.documents.toml import Table
from thymodel.errors import Fault

_POSITIVE = Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0, allow_inf_nan=False)]
_NON_NEGATIVE = Annotated[float, pydantic.Strict(False), pydantic.Field(ge=0, allow_inf_nan=False)]


# --- named endpoints -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A published definition. `values` are keys of an endpoint's table; `assumed` is what the source does not say."""

    values: Mapping[str, Any]
    population: str
    source: str
    verified: bool
    assumed: str = ""

    @property
    def citation(self) -> str:
        """The source with what of the definition was seen there."""
        state = "verified: threshold and days" if self.verified else "not verified"
        return f"{self.source} [{state}{f'; assumed: {self.assumed}' if self.assumed else ''}]"


_CD4 = {"marker": "cd4", "unit": "cell/uL"}
_PERALES = ("Perales et al. 2025, Blood Adv 9:3502 (doi:10.1182/bloodadvances.2024015288), registry, n = 2089: "
            "cut-points by survival, adults above 20 years; a landmark, not a crossing time")

PRESETS = {
    "cd4_50_twice": Preset(
        {**_CD4, "threshold": 50.0, "horizon": 100.0, "by": [100.0], "consecutive_visits": 2,
         "label": "CD4 above 50/uL at two consecutive visits within 100 days"},
        "children and young adults",
        "van Roessel et al. 2020, Cytotherapy 22:503 (doi:10.1016/j.jcyt.2020.05.005), n = 315, median age 10.4 years",
        True, "no least time between the two visits; a course without visits counts from its first crossing"),
    "cd4_104_day100": Preset(
        {**_CD4, "threshold": 104.0, "horizon": 100.0, "landmark": True, "label": "CD4 at or above 104/uL on day 100"},
        "adults", _PERALES, True),
    "cd4_115_day180": Preset(
        {**_CD4, "threshold": 115.0, "horizon": 180.0, "landmark": True, "label": "CD4 at or above 115/uL on day 180"},
        "adults", _PERALES, True),
    "cd4_200_month3": Preset(
        {**_CD4, "threshold": 200.0, "horizon": 90.0, "landmark": True, "label": "CD4 at or above 200/uL at 3 months"},
        "adults and children",
        "Tomblyn et al. 2009, BBMT 15:1143 (doi:10.1016/j.bbmt.2009.06.019), Table 4: CD4 below 200/uL at 3 months",
        True, "3 months are day 90"),
    "rte4_2": Preset(
        {"marker": "rte4", "unit": "cell/uL", "threshold": 2.0, "sustained_for": 14.0, "clock_start": 21.0,
         "horizon": 365.0, "by": [100.0, 180.0], "label": "RTE CD4 above 2/uL for 14 days"},
        "adults", "assumption of this project: twice a flow assay's limit of about 1/uL; no published threshold of "
        "recent thymic emigrants after transplant was found", False,
        "all of it; the clock starts on day 21 because RTE of the graft are present in the first weeks"),
}
_FREE = {"marker", "horizon", "by", "label", "source"}  # of a preset's keys, those that may be said otherwise


# --- as written ----------------------------------------------------------------------------------------------


class EndpointTable(Table):
    """An endpoint, from a `preset` or in full.

    With `landmark`, no crossing is looked for but the marker on the day of the horizon. `visits` are days on which
    the marker would be measured: `consecutive_visits` of them (2 where it must be sustained), the last at least
    `visits_apart` days (the days it must be sustained) after the first, show the endpoint; below `lloq` a measurement
    is not a number.
    """

    marker: str
    threshold: _POSITIVE
    unit: str
    horizon: _POSITIVE
    label: str = ""
    source: str = ""
    sustained_for: _NON_NEGATIVE = 0.0
    clock_start: Number = 0.0
    after_nadir: bool = True
    by: list[Number] = []
    preset: str | None = None
    landmark: bool = False
    visits: list[Number] | None = None
    consecutive_visits: Annotated[int, pydantic.Field(ge=1, le=100)] | None = None
    visits_apart: _NON_NEGATIVE | None = None
    lloq: _POSITIVE | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_preset(cls, found: Any) -> Any:
        """What the preset says, under what the file says; of an unknown one, stand-ins that raise no second fault."""
        if not isinstance(found, dict) or not isinstance(found.get("preset"), str):
            return found
        preset = PRESETS.get(found["preset"], next(iter(PRESETS.values())))
        return {**preset.values, "source": preset.citation, **found}


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """Time from `clock_start` to the marker's first lasting crossing of `threshold`; times in the model's unit.

    A `landmark` asks whether the marker is at or above the threshold at `horizon`; its time is that day, or never.
    As observed: at or above at `consecutive` measurements, the last at least `apart` after the first.
    """

    name: str
    marker: str
    threshold: float
    unit: str
    horizon: float
    label: str
    source: str
    sustained_for: float
    clock_start: float
    after_nadir: bool
    by: tuple[float, ...]
    landmark: bool = False
    visits: tuple[float, ...] = ()
    consecutive: int = 1
    apart: float = 0.0
    lloq: float = 0.0


def read_endpoints(where: str, tables: Mapping[str, EndpointTable], model: Model, faults: list[Fault],
                   visits: Sequence[float] = ()) -> dict[str, Endpoint]:
    """Endpoints in the units of the model, with their faults.

    Args:
        visits: days of measurement for endpoints that name none; those outside an endpoint's window are not its own.
    """
    return {name: _endpoint(where, f"endpoints.{name}", name, table, model, faults, visits)
            for name, table in tables.items() if _preset_known(f"{where}: endpoints.{name}", table, faults)}


def _preset_known(place: str, table: EndpointTable, faults: list[Fault]) -> bool:
    """Whether there is such a preset, and whether the table leaves it what it is."""
    if table.preset is None:
        return True
    if table.preset not in PRESETS:
        faults.append(Fault(f"{place}.preset", f"no preset '{table.preset}'{closest(table.preset, PRESETS)}",
                            f"one of: {', '.join(PRESETS)}"))
        return False
    said = PRESETS[table.preset].values
    own = ("threshold", "unit", "sustained_for", "clock_start", "after_nadir", "landmark", "consecutive_visits",
           "visits_apart", *(["horizon", "by"] if said.get("landmark") else []))
    for key in own:
        here = getattr(table, key)
        there = said.get(key, EndpointTable.model_fields[key].default)
        if here != there:
            faults.append(Fault(f"{place}.{key}", f"{here} is not what the preset {table.preset} says",
                                "leave it out, or write the endpoint without a preset"))
    return True


def _endpoint(where: str, path: str, name: str, table: EndpointTable, model: Model, faults: list[Fault],
              visits: Sequence[float]) -> Endpoint:
    place, factor, unit = f"{where}: {path}", 1.0, table.unit
    if table.marker not in model.observables:
        faults.append(Fault(f"{place}.marker", f"the model has no observable '{table.marker}'"
                            f"{closest(table.marker, model.observables)}"))
    else:
        unit = model.observables[table.marker].unit
        try:
            factor = units.convert_factor(table.unit, unit)
        except ValueError as error:
            faults.append(Fault(f"{place}.unit", str(error)))
    if table.horizon <= table.clock_start:
        faults.append(Fault(f"{place}.horizon", "the horizon lies before the clock starts"))
    elif table.sustained_for >= table.horizon - table.clock_start:
        faults.append(Fault(f"{place}.sustained_for", "longer than the time to the horizon"))
    if any(not table.clock_start < day <= table.horizon for day in table.by):
        faults.append(Fault(f"{place}.by", "a day outside clock_start to horizon"))
    if table.landmark:
        faults += [Fault(f"{place}.{key}", "a landmark is one day, that of the horizon", "leave it out")
                   for key in ("sustained_for", "by", "consecutive_visits", "visits_apart") if getattr(table, key)]
    consecutive = table.consecutive_visits or (2 if table.sustained_for else 1)
    apart = table.sustained_for if table.visits_apart is None else table.visits_apart
    if consecutive == 1 and apart > 0:
        faults.append(Fault(f"{place}.visits_apart", "one visit alone shows the endpoint, so none is apart from it",
                            "say consecutive_visits = 2, or visits_apart = 0"))
    own = visits if table.visits is None else table.visits
    found = Endpoint(name, table.marker, table.threshold * factor, unit, table.horizon, table.label, table.source,
                     table.sustained_for, table.clock_start, table.after_nadir,
                     (table.horizon,) if table.landmark else tuple(table.by), table.landmark,
                     tuple(day for day in own if table.clock_start <= day <= table.horizon), consecutive, apart,
                     (table.lloq or 0.0) * factor)
    if table.visits is not None:
        faults += visit_faults(f"{place}.visits", table.visits, model.start)
        faults += [Fault(f"{place}.visits", f"day {day:g} lies outside {table.clock_start:g} to {table.horizon:g}, "
                         "the clock's start to the horizon") for day in own if day not in found.visits]
    if own:
        faults += _too_few(f"{place}.visits", found)
    return found


def with_visits(where: str, endpoints: Mapping[str, Endpoint], visits: Sequence[float],
                faults: list[Fault]) -> dict[str, Endpoint]:
    """Endpoints that were read elsewhere, measured on these days where they name none of their own."""
    found = {name: replace(one, visits=one.visits or tuple(d for d in visits if one.clock_start <= d <= one.horizon))
             for name, one in endpoints.items()}
    if visits:
        faults += [fault for one in found.values() for fault in _too_few(f"{where}: visits ({one.name})", one)]
    return found


def visit_faults(place: str, visits: Sequence[float], start: float) -> list[Fault]:
    """What is wrong with a list of days of measurement."""
    faults = [Fault(place, f"day {later:g} comes after day {day:g}", "write the days in ascending order, each once")
              for day, later in zip(visits, visits[1:], strict=False) if later <= day]
    return faults + [Fault(place, f"day {day:g} lies before the model's start, {start:g}")
                     for day in visits if day < start]


def _too_few(place: str, endpoint: Endpoint) -> list[Fault]:
    """Visits that could never show the endpoint, whatever is measured."""
    days, window = sorted(endpoint.visits), f"from day {endpoint.clock_start:g} to day {endpoint.horizon:g}"
    if endpoint.landmark:
        what = f"no visit on day {endpoint.horizon:g}, which is asked about"
        return [] if endpoint.horizon in days else [Fault(place, what, "add it, or say visits = []")]
    if len(days) < endpoint.consecutive:
        return [Fault(place, f"{len(days)} {window}, where the endpoint takes {endpoint.consecutive} to be shown",
                      "add visits, or say visits = [] to leave out what is observed")]
    if endpoint.consecutive > 1 and days[-1] - days[0] < endpoint.apart:
        return [Fault(place, f"the visits {window} span {days[-1] - days[0]:g} days, and the endpoint takes "
                      f"{endpoint.apart:g} to be shown", "add visits, or say visits = []")]
    return []
