"""Arms that differ in the dose of one input alone: what a dose-response curve is drawn through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic

from thymodel.documents.expressions import closest
from thymodel.documents.model import Model
from thymodel.documents.regimen import Dose
from thymodel.documents.toml import Table
from thymodel.errors import Fault

_FEWEST = 3  # doses: two say nothing of a curve
_SAME = 1e-9


class DoseResponseTable(Table):
    """`target`: a probability that a dose is sought for."""

    target: Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0, lt=1)] | None = None


@dataclass(frozen=True)
class DoseRange:
    """`arms` are places of the arms by ascending dose, `amounts` their doses of `input` in all, in `unit`."""

    input: str
    unit: str
    arms: tuple[int, ...]
    amounts: tuple[float, ...]
    target: float | None


def read_dose_range(where: str, table: DoseResponseTable | None, arms: Mapping[str, Sequence[Dose]],
                    covariates: Mapping[str, Mapping[str, float]], model: Model,
                    faults: list[Fault]) -> DoseRange | None:
    """The dose of each arm, where arms differ in nothing else.

    Args:
        arms, covariates: doses and covariates by the name of the arm.
    """
    if table is None or not arms:
        return None
    place, names, found = f"{where}: dose_response", list(arms), len(faults)
    schedules = {name: [_schedule(arms[arm], name) for arm in names] for name in model.inputs}
    differing = [name for name, each in schedules.items() if any(one != each[0] for one in each)]
    odd = [name for name in names if dict(covariates[name]) != dict(covariates[names[0]])]
    if odd:
        faults.append(Fault(place, f"arms {names[0]} and {odd[0]} differ in covariates, so that a curve through them "
                            "is not of the dose", "give all arms the same covariates"))
    if len(differing) != 1:
        faults.append(Fault(place, f"the arms differ in the doses of {', '.join(differing) or 'no input'}, and one "
                            "input was expected", "let the arms differ in the amount of one input"))
    if len(faults) > found:
        return None
    schedule = schedules[differing[0]]
    totals = [sum(amount for _, amount in one) for one in schedule]
    shapes = {name: [(day, amount / total) for day, amount in one]
              for name, one, total in zip(names, schedule, totals, strict=True) if total > 0}
    first = next(iter(shapes))
    faults += [Fault(place, f"arms {first} and {name} differ in the days of {differing[0]}, or in how it is split",
                     "let the arms differ in the amount alone")
               for name, shape in shapes.items() if not _alike(shape, shapes[first])]
    order = sorted(range(len(names)), key=lambda k: totals[k])
    faults += [Fault(place, f"arms {names[a]} and {names[b]} have the same dose, {totals[a]:g}", "leave one out")
               for a, b in zip(order, order[1:], strict=False) if totals[b] - totals[a] <= _SAME * totals[b]]
    if len(names) < _FEWEST:
        faults.append(Fault(place, f"{len(names)} arms, and a curve takes {_FEWEST} doses or more", "add arms"))
    return DoseRange(differing[0], model.inputs[differing[0]].unit, tuple(order),
                     tuple(totals[k] for k in order), table.target)


def _schedule(doses: Sequence[Dose], name: str) -> list[tuple[float, float]]:
    return sorted((dose.time, dose.amount) for dose in doses if dose.input == name and dose.amount > 0)


def _alike(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> bool:
    return len(one) == len(other) and all(a[0] == b[0] and abs(a[1] - b[1]) <= _SAME
                                          for a, b in zip(one, other, strict=True))


def reference_faults(where: str, reference: str | None, arms: Sequence[str]) -> list[Fault]:
    """Whether the arm that others are compared with is one of several."""
    if reference is None:
        return []
    if reference not in arms:
        return [Fault(f"{where}: reference", f"no arm '{reference}'{closest(reference, arms)}",
                      f"one of: {', '.join(arms)}")]
    return [Fault(f"{where}: reference", "no other arm to compare it with", "add arms")] if len(arms) < 2 else []
