"""Events that compete with reconstitution: cause-specific hazards, constant between stated days, of which each may
depend on a count of the model. Published hazard ratios are known by name and in force only where a document asks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from thymodel.documents import units
from thymodel.documents.expressions import closest
from thymodel.documents.model import Model, Number, Text
from thymodel.documents.toml import Table, parse_document, read_text
from thymodel.errors import Fault

_PRESETS = Path(__file__).with_name("hazard_ratios.toml")

# --- as written ----------------------------------------------------------------------------------------------


class HazardTable(Table):
    """`per_day` holds from `from_day` until the day of the next."""

    from_day: Number
    per_day: Number
    source: Text


class LinkTable(Table):
    """`hazard_ratio` below a count (`below`), or per unit of the count's natural logarithm away from `reference`,
    counts under `lowest` taken for that. A `preset` brings all but the reference."""

    preset: str | None = None
    marker: str | None = None
    unit: str | None = None
    hazard_ratio: Number | None = None
    below: Number | None = None
    reference: Number | None = None
    lowest: Number | None = None
    source: str | None = None


class RiskTable(Table):
    hazard: list[HazardTable]
    label: str = ""
    link: LinkTable | None = None


class HazardRatioTable(Table):
    """A published hazard ratio with its 95% interval."""

    outcome: Text
    marker: Text
    unit: Text
    hazard_ratio: Number
    lower: Number
    upper: Number
    source: Text
    verified: bool
    note: Text
    below: Number | None = None
    lowest: Number | None = None


class HazardRatiosDocument(Table):
    hazard_ratio: dict[str, HazardRatioTable]


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """What a count does to a hazard, counts in the unit of the model's observable. With `below`, `log_ratio` is added
    to the log hazard while the count is below it; without, `log_ratio*log(max(count, lowest)/reference)`."""

    marker: str
    log_ratio: float
    below: float | None
    reference: float
    lowest: float
    source: str


@dataclass(frozen=True)
class Risk:
    """A cause-specific hazard: `per_day[k]` from `days[k]` to the next, 0 before the first, the last for ever."""

    name: str
    label: str
    days: tuple[float, ...]
    per_day: tuple[float, ...]
    sources: tuple[str, ...]
    link: Link | None = None


@lru_cache(maxsize=1)
def hazard_ratios() -> Mapping[str, HazardRatioTable]:
    """The published hazard ratios that a link may name."""
    return parse_document(read_text(_PRESETS), HazardRatiosDocument, _PRESETS.name).hazard_ratio


def read_risk(where: str, name: str, table: RiskTable, model: Model, faults: list[Fault]) -> Risk:
    """A `[competing.NAME]` table, checked; what is wrong is added to `faults`."""
    path = f"{where}: competing.{name}"
    if not table.hazard:
        faults.append(Fault(f"{path}.hazard", "no hazard",
                            'say hazard = [{ from_day = 0, per_day = 0.001, source = "..." }]'))
    for k, item in enumerate(table.hazard):
        if item.per_day < 0:
            faults.append(Fault(f"{path}.hazard.{k}.per_day", f"{item.per_day:g} is negative", "a hazard is 0 or more"))
        if item.from_day < model.start:
            faults.append(Fault(f"{path}.hazard.{k}.from_day", f"day {item.from_day:g} lies before the model's start, "
                                f"day {model.start:g}", "patients are watched from there"))
    for k, (one, other) in enumerate(pairwise(table.hazard), 1):
        if other.from_day <= one.from_day:
            faults.append(Fault(f"{path}.hazard.{k}.from_day", f"day {other.from_day:g} does not come after day "
                                f"{one.from_day:g}", "days ascend"))
    link = None if table.link is None else _link(f"{path}.link", table.link, model, faults)
    return Risk(name, table.label or name, tuple(item.from_day for item in table.hazard),
                tuple(item.per_day for item in table.hazard), tuple(item.source for item in table.hazard), link)


def _link(path: str, table: LinkTable, model: Model, faults: list[Fault]) -> Link | None:
    before = len(faults)
    known = hazard_ratios()
    if table.preset is not None and table.preset not in known:
        faults.append(Fault(f"{path}.preset", f"no hazard ratio '{table.preset}'{closest(table.preset, known)}",
                            f"known: {', '.join(known)}"))
    elif table.preset is not None:
        table = _with_preset(path, table, known[table.preset], faults)
    else:
        faults += [Fault(f"{path}.{key}", "missing", "add this key, or name a preset")
                   for key in ("marker", "unit", "hazard_ratio", "source") if getattr(table, key) is None]
        if not (table.below is None) ^ (table.reference is None or table.lowest is None):
            faults.append(Fault(path, "one kind of link was expected", "say either below = a count, or reference and "
                                "lowest for a ratio per unit of the natural logarithm"))
    for key in ("hazard_ratio", "below", "reference", "lowest"):
        value = getattr(table, key)
        if value is not None and value <= 0:
            faults.append(Fault(f"{path}.{key}", f"{value:g}, above 0 was expected"))
    factor = _factor(path, table, model, faults)
    if len(faults) > before:
        return None
    scaled = {key: None if value is None else value * factor
              for key, value in (("below", table.below), ("reference", table.reference), ("lowest", table.lowest))}
    return Link(str(table.marker), math.log(table.hazard_ratio or 1.0), scaled["below"], scaled["reference"] or 1.0,
                scaled["lowest"] or 0.0, str(table.source))


def _with_preset(path: str, table: LinkTable, preset: HazardRatioTable, faults: list[Fault]) -> LinkTable:
    own = ("marker", "unit", "hazard_ratio", "below", "lowest", "source")
    faults += [Fault(f"{path}.{key}", f"the preset '{table.preset}' brings its own",
                     "leave this key out, or write the whole link by hand") for key in own
               if getattr(table, key) is not None]
    if preset.below is not None and table.reference is not None:
        faults.append(Fault(f"{path}.reference", f"the preset '{table.preset}' holds below {preset.below:g} "
                            f"{preset.unit} and has no reference", "leave this key out"))
    if preset.below is None and table.reference is None:
        faults.append(Fault(f"{path}.reference", "missing", f"say at which {preset.marker} ({preset.unit}) the hazards "
                            "per day hold: the published ratio is per unit of its natural logarithm away from there"))
    return LinkTable(reference=table.reference, **{key: getattr(preset, key) for key in own})


def _factor(path: str, table: LinkTable, model: Model, faults: list[Fault]) -> float:
    """From the link's unit to that of the model's observable."""
    if table.marker is None or table.unit is None:
        return 1.0
    if table.marker not in model.observables:
        faults.append(Fault(f"{path}.marker", f"no observable '{table.marker}'"
                            f"{closest(table.marker, model.observables)}", f"known: {', '.join(model.observables)}"))
        return 1.0
    try:
        return units.convert_factor(table.unit, model.observables[table.marker].unit)
    except ValueError as error:
        faults.append(Fault(f"{path}.unit", str(error)))
        return 1.0
