"""Doses and piecewise-constant covariates as values, and the short texts that the command line takes for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thymodel.documents.expressions import closest
from thymodel.documents.limits import MOST_FAULTS
from thymodel.documents.model import Model
from thymodel.errors import Fault, InputError

Course = tuple[tuple[float, float], ...]  # (time, value), ascending; a value holds until the next time


@dataclass(frozen=True)
class Dose:
    """One dose record. `duration` 0 is a bolus (or a jump); `amount` is in the input's unit, times in the model's."""

    time: float
    input: str
    amount: float
    duration: float = 0.0


def parse_dose(text: str, model: Model) -> Dose:
    """A dose from AMOUNT@DAY[:INPUT], for example "9@7" or "50@3:ptcy".

    Raises:
        InputError: not of that form, a negative or infinite number, an input that the model lacks.
    """
    where, (body, _, name) = f"--dose {text}", text.partition(":")
    amount, at, day = body.partition("@")
    if not at:
        raise InputError([Fault(where, "not AMOUNT@DAY[:INPUT]", "for example 9@7")])
    dose = Dose(_number(where, day), name or default_input(model, where), _number(where, amount))
    faults = list(dose_faults(where, dose, model))
    if faults:
        raise InputError(faults)
    return dose


def parse_doses(texts: Sequence[str], model: Model) -> list[Dose]:
    """Doses from texts as `parse_dose` reads them.

    Raises:
        InputError: every text that is none.
    """
    doses: list[Dose] = []
    faults: list[Fault] = []
    for text in texts:
        try:
            doses.append(parse_dose(text, model))
        except InputError as error:
            faults += error.faults
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        raise InputError(faults)
    return doses


def default_input(model: Model, where: str) -> str:
    """The first input of the model that it does not schedule itself.

    Raises:
        InputError: the model has none.
    """
    for name, item in model.inputs.items():
        if not item.scheduled:
            return name
    raise InputError([Fault(where, f"the model {model.name} has no input to dose")])


def dose_faults(where: str, dose: Dose, model: Model):
    """What is wrong with a dose for this model, if anything."""
    if dose.input not in model.inputs:
        yield Fault(where, f"the model {model.name} has no input '{dose.input}'{closest(dose.input, model.inputs)}",
                    f"inputs: {', '.join(model.inputs)}")
    if not (math.isfinite(dose.amount) and dose.amount >= 0):
        yield Fault(where, f"amount {dose.amount:g}; it must be 0 or more")
    elif dose.amount > 10_000 and model.inputs.get(dose.input) and "Mcell" in model.inputs[dose.input].unit:
        yield Fault(where, f"{dose.amount:g} {model.inputs[dose.input].unit} is more than 1e10 cells/kg",
                    f"doses are in millions of cells: if {dose.amount:g} was meant in cells/kg, write "
                    f"{dose.amount / 1e6:g}")
    if not math.isfinite(dose.time) or dose.time < model.start:
        yield Fault(where, f"day {dose.time:g} lies before the model's start, {model.start:g}")


# (least, most) of what anybody can be. Source: the longest verified human life is 122 years, the greatest recorded body
# weight 635 kg (both from memory); a mouse weighs 0.02 kg
_POSSIBLE = {("age", "year"): (0.0, 122.0), ("BW", "kg"): (0.001, 635.0)}


def covariate_faults(where: str, name: str, value: float, model: Model):
    """What is wrong with a covariate's value, if anything: a number, and one that somebody can have."""
    least, most = _POSSIBLE.get((name, str(model.covariates[name].unit)), (-math.inf, math.inf))
    if not math.isfinite(value):
        yield Fault(where, f"{name} is {value:g}, a number was expected")
    elif not least <= value <= most:
        unit = model.covariates[name].unit
        yield Fault(where, f"{name} is {value:g} {unit}, and nobody's lies outside {least:g} to {most:g} {unit}",
                    f"the model has it in {unit}")


def parse_course(text: str) -> tuple[str, Course]:
    """A covariate from NAME=VALUE or NAME=VALUE@DAY,VALUE@DAY,...; without a day the value holds throughout.

    Raises:
        InputError: not of that form, or days that do not ascend.
    """
    where, (name, equals, body) = f"--covariate {text}", text.partition("=")
    if not equals or not name:
        raise InputError([Fault(where, "not NAME=VALUE", "for example age=45, or gvhd=0@0,1@30,0@90")])
    steps = []
    for part in body.split(","):
        value, at, day = part.partition("@")
        steps.append((_number(where, day) if at else -math.inf, _number(where, value)))
    days = [day for day, _ in steps]
    if len(steps) > 1 and (days != sorted(set(days)) or not math.isfinite(days[0])):
        raise InputError([Fault(where, "the days must be given and ascend", "for example gvhd=0@0,1@30,0@90")])
    return name.strip(), tuple(steps)


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError([Fault(where, f"'{text}' is not a finite number")])
    return value


def value_at(course: Course, time: float) -> float:
    """Value that holds just after `time`; before the first step, the first value."""
    result = course[0][1]
    for start, value in course:
        if start <= time:
            result = value
    return result


def repeat(dose: Dose, additional: int, interval: float) -> Sequence[Dose]:
    """The dose and `additional` more, `interval` apart."""
    return [Dose(dose.time + k * interval, dose.input, dose.amount, dose.duration) for k in range(additional + 1)]
