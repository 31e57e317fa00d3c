"""Published cohort summaries, read and checked: what a paper says of a group of people, not of each of them.

A file holds cohorts (a group of a study: its doses, its covariates) and rows, each one printed figure: whose, when, of
what, which statistic, of how many people, in which unit, from where. Values come out in the observables' own units.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from thymodel.documents import units
from thymodel.documents.expressions import closest
from thymodel.documents.measurement import COUNTS, ON_LOG_SCALE, ErrorModel, SharedError
from thymodel.documents.model import Model, Number, Text
from thymodel.documents.regimen import Dose, dose_faults
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.errors import Fault, InputError

Whole = Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Statistic = Literal["mean", "geometric_mean", "median", "fraction_below", "cumulative_incidence"]

# what a row of each statistic must and may say, beside what every row says
_NEEDED: dict[str, tuple[str, ...]] = {"fraction_below": ("limit",), "cumulative_incidence": ("threshold",)}
_ALLOWED = {"mean": ("sd", "se", "spread_reason"), "geometric_mean": ("cv",),
            "median": ("q25", "q75", "min", "max", "bound"), "fraction_below": ("limit",),
            "cumulative_incidence": ("threshold", "consecutive")}
_SPECIAL = ("sd", "se", "cv", "q25", "q75", "min", "max", "bound", "limit", "threshold", "consecutive",
            "spread_reason")
# People differ: 95% of healthy adults have 396 to 1309 CD4 cells/uL, an SD of about 0.3 of the mean (Wong 2013, Clin
# Vaccine Immunol 20:602), and patients differ more. A third of that is taken for an SE; ten times it, for an SD.
LEAST_CV, MOST_CV = 0.1, 3.0
_ROUNDED = 0.1  # relative: what two printed digits leave between an SD and the same SD computed from the SE
MOST_JOINED = 5  # people on either side of a limit from which on a fraction is near enough to normal


# --- as written ----------------------------------------------------------------------------------------------


class CovariateTable(Table):
    """One value for all (`value`), or how it is spread: `mean` and `sd`, cut at `min` and `max` where given; `min` and
    `max` alone are taken as evenly filled."""

    unit: str
    source: Text
    value: Number | None = None
    mean: Number | None = None
    sd: Number | None = None
    min: Number | None = None
    max: Number | None = None


class CohortDoseTable(Table):
    amount: Number
    day: Number
    input: str | None = None


class CohortTable(Table):
    """`overlap`: how many of these people are patients of the study data too, or of another cohort: not counted here.
    `visits`: days on which they were sampled, for the crossing of a threshold. `virtual_people`: fewer (or more) than
    the four for each real one that stand in for them, where time is short; a power of two."""

    study: Name
    source: Text
    label: str = ""
    doses: list[CohortDoseTable] = []
    covariates: dict[str, CovariateTable] = {}
    overlap: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = 0
    visits: list[Number] = []
    virtual_people: Annotated[int, pydantic.Field(ge=64, le=4096)] | None = None


class RowTable(Table):
    """One printed figure. What a spread is must be named: `sd` or `se`, `cv`, quartiles, or least and greatest. A text
    that says only above or below which value a median lies has `bound`."""

    cohort: str
    day: Number
    observable: str
    statistic: Statistic
    value: Number
    unit: str
    source: Text
    verified: bool = False
    n: Whole | None = None
    sd: Number | None = None
    se: Number | None = None
    spread_reason: str = ""
    cv: Number | None = None
    q25: Number | None = None
    q75: Number | None = None
    min: Number | None = None
    max: Number | None = None
    bound: Literal["above", "below"] | None = None
    limit: Number | None = None
    threshold: Number | None = None
    consecutive: Whole | None = None


class PublishedDocument(Table):
    title: Text
    cohorts: dict[Name, CohortTable]
    rows: list[RowTable]


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A covariate of a cohort: normal with `mean` and `sd` between the bounds; even between them where `sd` is
    infinite; one value where it is 0."""

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One number or pair of numbers of a row, in the observable's unit; `n` people are behind it who count nowhere
    else.

    kind and (value, other): mean (it, -), sd (it, -), geometric_mean (it, -), geometric_sd (SD of logs, -),
    quantile (it, its level), fraction (share below, the limit), range (least, greatest), bound (what the median lies
    above or below, 1 or -1).
    """

    row: int
    observable: str
    day: float
    kind: str
    value: float
    other: float
    n: float


@dataclass(frozen=True)
class Curve:
    """Share of a cohort that has been above `threshold` at `consecutive` visits in a row, by each of `days`;
    `at_risk` is who had not and was still followed when the stretch that ends on the day began."""

    rows: tuple[int, ...]
    observable: str
    threshold: float
    consecutive: int
    days: tuple[float, ...]
    incidence: tuple[float, ...]
    at_risk: tuple[float, ...]


@dataclass(frozen=True)
class Cohort:
    """`overlap` people have been taken off every n."""

    name: str
    study: str
    label: str
    source: str
    doses: tuple[Dose, ...]
    covariates: Mapping[str, Spread]
    overlap: int
    visits: tuple[float, ...]
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...]
    virtual_people: int | None = None

    @property
    def days(self) -> tuple[float, ...]:
        """On which something is published, and of curves the visits up to then."""
        visits = {day for curve in self.curves for day in self.visits if day <= curve.days[-1]}
        return tuple(sorted({figure.day for figure in self.figures} | visits))

    @property
    def size(self) -> float:
        """The most people behind any figure."""
        return max([f.n for f in self.figures] + [n for c in self.curves for n in c.at_risk])


@dataclass(frozen=True)
class Published:
    """A file of published figures; `rows` as written, for tables."""

    name: str
    path: Path
    text: str
    digest: str
    title: str
    cohorts: tuple[Cohort, ...]
    rows: tuple[RowTable, ...]


def load_published(name: str, path: Path, sha256: str, model: Model, errors: Mapping[str, ErrorModel],
                   shared: Sequence[SharedError] = ()) -> Published:
    """Published figures as a likelihood can use them.

    Args:
        name: what the spec calls the file.
        errors: residual error of each observable of the fit.
        shared: observables whose residuals are correlated.

    Raises:
        InputError: every fault of the file, each with its row; or it is not the file of that sha256.
    """
    if not path.is_file():
        raise InputError([Fault(str(path), "the published figures are not there")])
    text = read_text(path)
    found = digest(path.read_bytes())
    if found != sha256:
        raise InputError([Fault(str(path), f"not the file of this spec: sha256 is {found}, expected {sha256}",
                                "if the file changed on purpose, write the new sha256 into the spec")])
    return read_published(name, path, text, found, model, errors, shared)


def read_published(name: str, path: Path, text: str, sha256: str, model: Model, errors: Mapping[str, ErrorModel],
                   shared: Sequence[SharedError] = ()) -> Published:
    """`load_published` of a text.

    Raises:
        InputError: every fault.
    """
    document, where = parse_document(text, PublishedDocument, str(path)), str(path)
    faults: list[Fault] = []
    if not document.rows:
        faults.append(Fault(f"{where}: rows", "no row", "add [[rows]]"))
    for k, row in enumerate(document.rows):
        faults += _row_faults(f"{where}: rows.{k}", row, document, model, errors)
    cohorts = []
    for key, table in document.cohorts.items():
        own = [(k, row) for k, row in enumerate(document.rows) if row.cohort == key]
        faults += _cohort_faults(where, key, table, own, model, shared)
        doses = [Dose(dose.day, dose.input or next(iter(model.inputs), ""), dose.amount) for dose in table.doses]
        for k, dose in enumerate(doses):
            faults += dose_faults(f"{where}: cohorts.{key}.doses.{k}", dose, model)
        spreads = {covariate: _spread(f"{where}: cohorts.{key}.covariates.{covariate}", covariate, item, model, faults)
                   for covariate, item in table.covariates.items()}
        if not faults:
            cohorts.append(_cohort(key, table, own, doses, spreads, model))
    if faults:
        raise InputError(faults)
    return Published(name, path, text, sha256, document.title, tuple(cohorts), tuple(document.rows))


# --- rows ----------------------------------------------------------------------------------------------------


def _row_faults(where: str, row: RowTable, document: PublishedDocument, model: Model,
                errors: Mapping[str, ErrorModel]):
    """What is wrong with a row by itself."""
    if row.cohort not in document.cohorts:
        yield Fault(f"{where}.cohort", f"no cohort '{row.cohort}'{closest(row.cohort, document.cohorts)}",
                    f"add [cohorts.{row.cohort}]" if row.cohort.isidentifier() else "")
    if row.n is None:
        yield Fault(f"{where}.n", "missing: a figure weighs what the people behind it weigh", "add n")
    elif row.cohort in document.cohorts and row.n <= document.cohorts[row.cohort].overlap:
        yield Fault(f"{where}.n", f"n = {row.n}, and {document.cohorts[row.cohort].overlap} of them are counted "
                    "elsewhere: nobody is left", "leave the row out")
    if row.day < model.start:
        yield Fault(f"{where}.day", f"day {row.day:g} lies before the model's start, {model.start:g}")
    yield from _observable_faults(where, row, model, errors)
    yield from _key_faults(where, row)
    yield from _value_faults(where, row, errors)


def _observable_faults(where: str, row: RowTable, model: Model, errors: Mapping[str, ErrorModel]):
    if row.observable not in model.observables:
        yield Fault(f"{where}.observable", f"the model has no observable '{row.observable}'"
                    f"{closest(row.observable, model.observables)}")
        try:
            units.parse_unit(row.unit)
        except ValueError as error:
            yield Fault(f"{where}.unit", str(error))
        return
    try:
        units.convert_factor(row.unit, model.observables[row.observable].unit)
    except ValueError as error:
        yield Fault(f"{where}.unit", str(error))
    if row.observable not in errors:
        yield Fault(f"{where}.observable", f"'{row.observable}' has no error model in the spec",
                    f"add [likelihood.{row.observable}]")
        return
    own = errors[row.observable]
    if own.family in COUNTS:
        yield Fault(f"{where}.observable", f"{row.observable} is a count ({own.family}), of which no published "
                    "figure can be used", "leave the row out")
    if row.statistic == "geometric_mean" and (own.family not in ON_LOG_SCALE or own.offset):
        yield Fault(f"{where}.statistic", f"a geometric mean needs an error on the log scale without offset, and that "
                    f"of {row.observable} is {own.family}" + (f" with offset {own.offset:g}" if own.offset
                                                                else ""), "use another error model")
    if own.family == "student_t" and row.statistic == "mean":
        yield Fault(f"{where}.statistic", "student_t error on the log scale leaves no mean", "use lognormal")
    moments = 4 if row.cv is not None else 2
    if own.family == "student_t" and row.statistic == "geometric_mean" and own.df <= moments:
        yield Fault(f"{where}.statistic", f"student_t with df = {own.df:g} has no moment of order {moments}",
                    "use lognormal, or a higher df")


def _key_faults(where: str, row: RowTable):
    """Keys that the statistic lacks, or does not have."""
    given = [key for key in _SPECIAL if getattr(row, key) not in (None, "")]
    for key in _NEEDED.get(row.statistic, ()):
        if key not in given:
            yield Fault(f"{where}.{key}", f"missing: {row.statistic} needs it")
    for key in given:
        if key not in _ALLOWED[row.statistic]:
            yield Fault(f"{where}.{key}", f"a row of {row.statistic} has no {key}",
                        f"it may have: {', '.join(_ALLOWED[row.statistic])}")
    for one, other in (("q25", "q75"), ("min", "max")):
        if (one in given) != (other in given):
            absent = other if one in given else one
            yield Fault(f"{where}.{absent}", "missing: the other one is there", f"add {absent}")


def _value_faults(where: str, row: RowTable, errors: Mapping[str, ErrorModel]):
    if row.statistic in ("fraction_below", "cumulative_incidence") and not 0 <= row.value <= 1:
        yield Fault(f"{where}.value", f"{row.value:g} is no share", "write 66.7% as 0.667")
    for key in ("sd", "se", "cv", "limit", "threshold"):
        if (given := getattr(row, key)) is not None and given <= 0:
            yield Fault(f"{where}.{key}", f"{given:g}; it must be above 0")
    yield from _spread_faults(where, row)
    if row.bound is not None and (row.q25 is not None or row.min is not None):
        yield Fault(f"{where}.bound", "a median that is only bounded, beside quartiles or a range",
                    "leave out what the source does not print")
    order = [(key, getattr(row, key)) for key in ("min", "q25", "value", "q75", "max")
             if row.statistic == "median" and getattr(row, key) is not None]
    for (low, a), (high, b) in pairwise(order):
        if not a < b:
            yield Fault(f"{where}.{high}", f"{b:g} is not above {low} = {a:g}: quartiles and range out of order",
                        "check which is which; values rounded to the same number carry no quartile")
    if row.observable in errors and errors[row.observable].family in ON_LOG_SCALE:
        offset = errors[row.observable].offset
        keys = {"mean": ("value",), "geometric_mean": ("value",), "median": ("min", "q25", "value", "q75", "max")}
        for key in keys.get(row.statistic, ()):
            given = getattr(row, key)
            if given is not None and given + (offset if row.statistic == "median" else 0.0) <= 0:
                yield Fault(f"{where}.{key}", f"{given:g} has no probability under {errors[row.observable].family} "
                            "error", "a least value of zero is one below the limit of quantification: leave it out")
    if row.n is not None and row.n < 2 and row.statistic != "cumulative_incidence" and (
            row.sd is not None or row.se is not None or row.cv is not None or row.max is not None):
        yield Fault(f"{where}.n", "one person has no spread", "leave the spread out")


def _spread_faults(where: str, row: RowTable):
    """An SD that is an SE, or the other way round.

    Given both, they must agree (SE*sqrt(n) = SD to two digits). Given one of them, the coefficient of variation must be
    one that people have: between LEAST_CV and MOST_CV. `spread_reason` says why it is right all the same.
    """
    if row.statistic != "mean" or row.n is None:
        return
    if row.sd is not None and row.se is not None:
        implied = row.se * math.sqrt(row.n)
        if abs(row.sd - implied) > _ROUNDED * max(row.sd, implied):
            yield Fault(f"{where}.sd", f"SD {row.sd:g} and SE {row.se:g} of {row.n} people do not agree: the SE would "
                        f"make the SD {implied:.3g}", "which of them is printed in the source?")
        return
    if row.value <= 0 or row.spread_reason:
        return
    if row.sd is not None and 0 < row.sd < LEAST_CV * row.value and row.n > 1:
        yield Fault(f"{where}.sd", f"SD {row.sd:g} is {100 * row.sd / row.value:.2g}% of the mean: an SE labelled SD? "
                    f"As an SE of {row.n} people it means an SD of {row.sd * math.sqrt(row.n):.3g}",
                    "write se = ..., or say in spread_reason why people differ so little")
    if row.se is not None and row.se * math.sqrt(row.n) > MOST_CV * row.value:
        yield Fault(f"{where}.se", f"SE {row.se:g} of {row.n} people means an SD of {row.se * math.sqrt(row.n):.3g}, "
                    f"{row.se * math.sqrt(row.n) / row.value:.2g} times the mean: an SD labelled SE?",
                    "write sd = ..., or say in spread_reason why people differ so much")


# --- cohorts -------------------------------------------------------------------------------------------------


def _cohort_faults(where: str, name: str, table: CohortTable, rows: Sequence[tuple[int, RowTable]], model: Model,
                   shared: Sequence[SharedError]):
    """What is wrong with the rows of a cohort together, and with its visits."""
    place = f"{where}: cohorts.{name}"
    if not rows:
        yield Fault(place, "no row is of this cohort", "add one, or remove the cohort")
    if list(table.visits) != sorted(set(table.visits)) or any(day < model.start for day in table.visits):
        yield Fault(f"{place}.visits", "days must ascend, none before the model's start")
    if table.virtual_people is not None and table.virtual_people.bit_count() > 1:
        yield Fault(f"{place}.virtual_people", f"{table.virtual_people} is no power of two", "for example 256")
    seen = Counter((row.observable, row.day, row.statistic, row.limit, row.threshold, row.consecutive)
                   for _, row in rows)
    taken: dict[tuple[str, float], str] = {}
    for k, row in rows:
        if seen[(row.observable, row.day, row.statistic, row.limit, row.threshold, row.consecutive)] > 1:
            yield Fault(f"{where}: rows.{k}", f"the {row.statistic} of {row.observable} on day {row.day:g} twice in "
                        f"cohort {name}", "keep one")
        if row.statistic in ("mean", "geometric_mean", "median"):
            first = taken.setdefault((row.observable, row.day), row.statistic)
            if first != row.statistic:
                yield Fault(f"{where}: rows.{k}.statistic", f"a {row.statistic} beside a {first} of the same values of "
                            f"{row.observable} on day {row.day:g}", "keep one of them")
        for block in shared:
            if row.observable in block.observables and any(
                    other.day == row.day and other.observable != row.observable
                    and other.observable in block.observables for _, other in rows):
                yield Fault(f"{where}: rows.{k}.observable", "published figures of one day whose residuals are "
                            f"correlated ({', '.join(block.observables)})",
                            "leave one out, or take them out of [[residual_correlation]]")
    for group in _curve_groups(rows).values():
        yield from _curve_faults(where, place, table, group)


def _curve_groups(rows: Sequence[tuple[int, RowTable]]) -> dict[tuple, list[tuple[int, RowTable]]]:
    """Rows of one curve of cumulative incidence, by day."""
    groups: dict[tuple, list[tuple[int, RowTable]]] = {}
    for k, row in sorted(rows, key=lambda item: item[1].day):
        if row.statistic == "cumulative_incidence":
            groups.setdefault((row.observable, row.threshold, row.unit, row.consecutive), []).append((k, row))
    return groups


def _curve_faults(where: str, place: str, table: CohortTable, group: Sequence[tuple[int, RowTable]]):
    for (_, before), (k, row) in pairwise(group):
        if row.value < before.value:
            yield Fault(f"{where}: rows.{k}.value", f"a cumulative incidence that falls: {row.value:g} on day "
                        f"{row.day:g}, {before.value:g} on day {before.day:g}", "who has crossed, has crossed")
        if row.n is not None and before.n is not None and row.n > before.n:
            yield Fault(f"{where}: rows.{k}.n", f"{row.n} people at risk, more than the {before.n} before")
    if not table.visits:
        yield Fault(f"{place}.visits", "missing: a threshold is crossed at a visit",
                    "write the days on which these people were sampled")
        return
    begin = -math.inf
    for k, row in group:
        fresh = [day for day in table.visits if begin < day <= row.day]
        enough = len([day for day in table.visits if day <= row.day]) >= (row.consecutive or 1)
        if not fresh or not enough:
            yield Fault(f"{where}: rows.{k}.day", f"no visit up to day {row.day:g} at which anybody could have crossed "
                        "since the row before", "see visits of the cohort")
        begin = row.day


def _spread(where: str, name: str, table: CovariateTable, model: Model, faults: list[Fault]) -> Spread:
    given = frozenset(key for key in ("value", "mean", "sd", "min", "max") if getattr(table, key) is not None)
    factor = 1.0
    if name not in model.covariates:
        faults.append(Fault(where, f"the model has no covariate '{name}'{closest(name, model.covariates)}"))
    else:
        try:
            factor = units.convert_factor(table.unit, model.covariates[name].unit)
        except ValueError as error:
            faults.append(Fault(f"{where}.unit", str(error)))
    known = ({"value"}, {"mean", "sd"}, {"mean", "sd", "min", "max"}, {"min", "max"})
    if given not in known:
        faults.append(Fault(where, f"found {', '.join(sorted(given)) or 'no number'}",
                            "write value; or mean and sd, with min and max where known; or min and max alone"))
        return Spread(0.0, 0.0, 0.0, 0.0)
    low, high = (table.min if table.min is not None else -math.inf, table.max if table.max is not None else math.inf)
    if table.value is not None:
        return Spread(factor * table.value, 0.0, factor * table.value, factor * table.value)
    if not low < high or table.sd is not None and table.sd <= 0:
        faults.append(Fault(where, "min must lie below max, and sd above 0"))
    if table.mean is None or table.sd is None:
        return Spread(factor * (low + high) / 2, math.inf, factor * low, factor * high)
    if not low <= table.mean <= high:
        faults.append(Fault(f"{where}.mean", f"{table.mean:g} lies outside min and max"))
    return Spread(factor * table.mean, factor * table.sd, factor * low, factor * high)


def _cohort(name: str, table: CohortTable, rows: Sequence[tuple[int, RowTable]], doses: Sequence[Dose],
            spreads: Mapping[str, Spread], model: Model) -> Cohort:
    figures = [figure for k, row in rows for figure in _figures(k, row, table.overlap, model)]
    curves = [_curve(group, table.overlap, model) for group in _curve_groups(rows).values()]
    return Cohort(name, table.study, table.label or name, table.source, tuple(doses), dict(spreads), table.overlap,
                  tuple(table.visits), tuple(figures), tuple(curves), table.virtual_people)


def _figures(k: int, row: RowTable, overlap: int, model: Model) -> list[Figure]:
    """The numbers of a row, one by one."""
    assert row.n is not None  # checked
    factor = units.convert_factor(row.unit, model.observables[row.observable].unit)
    nan, found = math.nan, []

    def add(kind: str, value: float, other: float = nan) -> None:
        found.append(Figure(k, row.observable, row.day, kind, value, other, float(row.n or 0) - overlap))

    if row.statistic == "mean":
        add("mean", factor * row.value)
        sd = row.sd if row.sd is not None else None if row.se is None else row.se * math.sqrt(row.n)
        if sd is not None and row.n - overlap > 1:
            add("sd", factor * sd)
    elif row.statistic == "geometric_mean":
        add("geometric_mean", factor * row.value)
        if row.cv is not None and row.n - overlap > 1:
            add("geometric_sd", math.sqrt(math.log1p(row.cv**2)))  # Kirkwood 1979, Biometrics 35:908
    elif row.statistic == "median" and row.bound is not None:
        add("bound", factor * row.value, 1.0 if row.bound == "above" else -1.0)
    elif row.statistic == "median":
        for value, level in ((row.q25, 0.25), (row.value, 0.5), (row.q75, 0.75)):
            if value is not None:
                add("quantile", factor * value, level)
        if row.min is not None and row.max is not None and row.n - overlap > 1:
            add("range", factor * row.min, factor * row.max)
    elif row.statistic == "fraction_below":
        assert row.limit is not None
        add("fraction", row.value, factor * row.limit)
    return found


def _curve(group: Sequence[tuple[int, RowTable]], overlap: int, model: Model) -> Curve:
    first = group[0][1]
    assert first.threshold is not None and first.n is not None
    factor, left = units.convert_factor(first.unit, model.observables[first.observable].unit), 1 - overlap / first.n
    return Curve(tuple(k for k, _ in group), first.observable, factor * first.threshold, first.consecutive or 1,
                 tuple(row.day for _, row in group), tuple(row.value for _, row in group),
                 tuple(left * (row.n or 0) for _, row in group))
