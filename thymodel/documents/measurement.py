"""How an observable is measured: its residual error, the scale of its assay, limits in events, errors of a visit.

Fit specs and designs of trials say these things in the same words; a spec gives priors where a design gives numbers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic

from thymodel.documents import units
from thymodel.documents.expressions import closest
from thymodel.documents.priors import Prior
from thymodel.documents.toml import Table
from thymodel.errors import Fault

Family = Literal["additive", "proportional", "combined", "power", "lognormal", "student_t", "poisson",
                 "negative_binomial"]
ERROR_PARAMETERS = {
    "additive": ("additive",),
    "proportional": ("proportional",),
    "combined": ("additive", "proportional"),
    "power": ("coefficient", "exponent"),  # spread = coefficient*|prediction|**exponent, as in Monolix and nlmixr2
    "lognormal": ("log_sd",),
    "student_t": ("log_sd",),
    "poisson": (),
    "negative_binomial": ("dispersion",),  # variance = mean + dispersion*mean**2
}
ON_LOG_SCALE = ("lognormal", "student_t")
COUNTS = ("poisson", "negative_binomial")
_COUNTED = ("copy", "cell", "1")
_POSITIVE = Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0, allow_inf_nan=False)]


# --- as written ----------------------------------------------------------------------------------------------


class ScaleTable(Table):
    """What an assay reports is `value` times the observable, in the observable's unit times `unit`.

    TREC per cell times the cells in a ug of DNA; TREC per uL times the uL of blood in a reaction.
    """

    value: _POSITIVE
    unit: str
    source: Annotated[str, pydantic.Field(min_length=1)]


class EventLimitTable(Table):
    """Flow cytometry: a population counts as seen from `events` events on.

    A sample's LLOQ is that share of the events acquired in its parent gate (column EVENTS), times the parent's own
    value at the same visit; without `parent` the observable is itself a share.
    """

    events: Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
    source: Annotated[str, pydantic.Field(min_length=1)]
    parent: str = ""


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """`value` by which the observable is multiplied in the assay, and the unit of what the assay then reports."""

    value: float
    unit: str


@dataclass(frozen=True)
class EventLimit:
    events: int
    parent: str


@dataclass(frozen=True)
class ErrorModel:
    """Residual error of one observable; `scale` turns the observable into the mean of a count."""

    observable: str
    family: str
    parameters: Mapping[str, Prior]
    sources: Mapping[str, str]
    offset: float
    df: float
    scale: float = 1.0


@dataclass(frozen=True)
class SharedError:
    """Observables whose residuals at one visit are correlated, on the scales of their errors.

    `shape` is that of the LKJ prior of their correlation matrix.
    """

    observables: tuple[str, ...]
    shape: float
    source: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        names = self.observables
        return [(names[i], names[j]) for j in range(len(names)) for i in range(j)]

    @property
    def names(self) -> list[str]:
        """Names of the correlations, pair by pair."""
        return [f"corr_residual_{a}_{b}" for a, b in self.pairs]


# --- checked -------------------------------------------------------------------------------------------------


def error_faults(where: str, family: str, given: Collection[str], offset: float, df: float | None):
    """What does not fit together in a table of residual error."""
    wanted = ERROR_PARAMETERS[family]
    if set(given) != set(wanted):
        yield Fault(f"{where}.parameters", f"{family} error takes {', '.join(wanted) or 'none'}; "
                    f"found {', '.join(given) or 'none'}")
    if family == "student_t" and df is None:
        yield Fault(f"{where}.df", "missing: the degrees of freedom of student_t", "for example df = 5")
    if family not in ON_LOG_SCALE and offset:
        yield Fault(f"{where}.offset", f"{family} error has no offset", "remove it")


def read_scale(where: str, family: str, unit: str, table: ScaleTable | None, faults: list[Fault]) -> Scale | None:
    """The scale of an assay, None where its values are the observable's own; a count must come out as a count."""
    if table is None:
        found, text = units.parse_unit(unit), unit
    else:
        text = units.product_text(unit, table.unit)
        try:
            found = units.parse_unit(text)
        except ValueError as error:
            faults.append(Fault(f"{where}.scale.unit", str(error)))
            return None
    if family in COUNTS and not any(units.same(found, units.parse_unit(one)) for one in _COUNTED):
        faults.append(Fault(f"{where}.scale", f"{family} error is of a count, and {text} is none",
                            'declare what one reaction holds: scale = { value = 50, unit = "uL", source = "..." }'))
    return None if table is None else Scale(table.value, text)


def read_event_limit(where: str, name: str, table: EventLimitTable | None, unit_of: Mapping[str, str],
                     family: str, faults: list[Fault]) -> EventLimit | None:
    """The limit in events, its parent an observable in the same unit, or the observable a share."""
    if table is None:
        return None
    path = f"{where}.event_limit"
    if family in COUNTS:
        faults.append(Fault(path, f"{family} error is of a count", "counts have their limit in CENS and DV"))
    if not table.parent and not units.is_number(units.parse_unit(unit_of.get(name, "1"))):
        faults.append(Fault(f"{path}.parent", f"missing, and {name} is in {unit_of[name]}, not a share",
                            "name the observable of the parent gate"))
    elif table.parent and table.parent not in unit_of:
        faults.append(Fault(f"{path}.parent", f"the model has no observable '{table.parent}'"
                            f"{closest(table.parent, unit_of)}"))
    elif table.parent == name:
        faults.append(Fault(f"{path}.parent", "a population is not its own parent"))
    elif table.parent and name in unit_of and not units.same(units.parse_unit(unit_of[table.parent]),
                                                             units.parse_unit(unit_of[name])):
        faults.append(Fault(f"{path}.parent", f"{table.parent} is in {unit_of[table.parent]}, {name} in "
                            f"{unit_of[name]}", "name a parent in the same unit"))
    return EventLimit(table.events, table.parent)


def shared_error_faults(path: str, observables: Sequence[str], family_of: Mapping[str, tuple[str, float]]):
    """What does not fit together in a block of correlated residuals; `family_of` also gives the degrees of freedom."""
    for name in observables:
        if name not in family_of:
            yield Fault(f"{path}.observables", f"'{name}' has no error model{closest(name, family_of)}")
    if len(observables) < 2 or len(set(observables)) < len(observables):
        yield Fault(f"{path}.observables", "needs two or more different observables")
    known = [family_of[name] for name in observables if name in family_of]
    for name, (family, _) in zip(observables, known, strict=False):
        if family in COUNTS:
            yield Fault(f"{path}.observables", f"{name} is a count, whose residual has no scale to correlate on",
                        "leave it out: only continuous errors are correlated")
    heavy = {df for family, df in known if family == "student_t"}
    if heavy and (len(heavy) > 1 or any(family != "student_t" for family, _ in known)):
        yield Fault(f"{path}.observables", "student_t with one df for all of them, or for none: they share one scale",
                    "give every member error = \"student_t\" and the same df")


def overlap_faults(where: str, blocks: Sequence[Sequence[str]]):
    """An observable in two blocks."""
    for k, block in enumerate(blocks):
        for name in dict.fromkeys(block):
            if any(name in other for other in blocks[:k]):
                yield Fault(f"{where}.{k}.observables", f"'{name}' is in another block too", "join the blocks")
