"""Ranges of healthy people, as published: what a reconstituting count may be held against, by observable and age."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import pydantic

from thymodel.documents.model import Model, Number, Text
from thymodel.documents.toml import Table, parse_document, read_text
from thymodel.documents.units import convert_factor
from thymodel.errors import Fault, InputError

AGE, AGE_UNIT = "age", "year"  # the covariate by which a range is chosen; ages in weeks are those of mice
_FILE = Path(__file__).with_name("reference_ranges.toml")


class RangeTable(Table):
    observable: Text
    unit: Text
    lower: Annotated[float, pydantic.Strict(False), pydantic.Field(ge=0, allow_inf_nan=False)]
    upper: Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0, allow_inf_nan=False)]
    from_: Annotated[Number, pydantic.Field(alias="from", ge=0)]
    below: Number = 150.0
    label: Text
    source: Text


class RangesDocument(Table):
    range: list[RangeTable]


@dataclass(frozen=True)
class ReferenceRange:
    """Bounds in the unit of the model's observable; `label` names population, kind and source."""

    lower: float
    upper: float
    label: str
    source: str


@lru_cache(maxsize=1)
def _tables() -> tuple[RangeTable, ...]:
    return read_ranges(read_text(_FILE), _FILE.name)


def read_ranges(text: str, where: str) -> tuple[RangeTable, ...]:
    """The ranges of a document.

    Raises:
        InputError: every fault of it.
    """
    tables = parse_document(text, RangesDocument, where).range
    faults = []
    for k, table in enumerate(tables):
        if table.lower >= table.upper:
            faults.append(Fault(f"{where}: range.{k}.upper", f"{table.upper:g} is not above {table.lower:g}"))
        if table.from_ >= table.below:
            faults.append(Fault(f"{where}: range.{k}.below", f"{table.below:g} is not above {table.from_:g} years"))
    if faults:
        raise InputError(faults)
    return tuple(tables)


def reference_range(model: Model, observable: str, ages: Sequence[float]) -> ReferenceRange | None:
    """The range of healthy people of these ages; None where no source gives one for every age, or ages are unknown.

    Args:
        ages: values of the covariate `age` of the people looked at.
    """
    if not len(ages) or AGE not in model.covariates or model.covariates[AGE].unit != AGE_UNIT:
        return None
    for table in _tables():
        if table.observable == observable and all(table.from_ <= age < table.below for age in ages):
            try:
                factor = convert_factor(table.unit, model.observables[observable].unit)
            except ValueError:  # a share, or cells of the whole body
                continue
            return ReferenceRange(table.lower * factor, table.upper * factor, table.label, table.source)
    return None
