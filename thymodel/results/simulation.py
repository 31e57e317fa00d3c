"""One subject's course at stated values: `thymodel simulate`, and the same from Python."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from thymodel.documents.expressions import closest
from thymodel.documents.model import Model, load_model
from thymodel.documents.priors import support
from thymodel.documents.regimen import Course, Dose, covariate_faults, dose_faults, parse_course, parse_dose
from thymodel.dynamics import solving
from thymodel.errors import Fault, InputError


def simulate(model: Model | str | Path, times: Sequence[float], doses: Iterable[Dose] = (),
             covariates: Mapping[str, float | Course] | None = None, values: Mapping[str, float] | None = None,
             observe: Sequence[str] | None = None) -> pd.DataFrame:
    """The course of one subject.

    Args:
        model: a model, or its name or path.
        times: days, in any order, none before the model's start.
        covariates: a number, or steps ((day, value), ...); the model's value where absent.
        values: parameters that differ from the model file.
        observe: observables; all by default.

    Returns:
        `time` and a column an observable, in the units of the model file; at a dose time the value before it.

    Raises:
        InputError: an unknown name, a time before the model's start, a dose or a covariate that nobody has.
        SolveError: the integration failed.
    """
    model = model if isinstance(model, Model) else load_model(model)
    names = list(observe) if observe is not None else list(model.observables)
    courses = {name: value if isinstance(value, tuple) else ((model.start, float(value)),)
               for name, value in (covariates or {}).items()}
    doses = list(doses)
    faults = _faults(model, times, doses, courses, values or {}, names)
    if faults:
        raise InputError(faults)
    known = {name: parameter.value for name, parameter in model.parameters.items()} | dict(values or {})
    every = {name: ((model.start, item.value),) for name, item in model.covariates.items()} | courses
    days = sorted({float(time) for time in times})
    found = solving.trajectories(model, known, [solving.plan(model, doses, every, days)], names, names=["1"])[0]
    place = {day: k for k, day in enumerate(days)}
    rows = [place[float(time)] for time in times]
    return pd.DataFrame({"time": [float(t) for t in times]} | {name: found[rows, k] for k, name in enumerate(names)})


def _faults(model: Model, times, doses, courses, values, names) -> list[Fault]:
    faults = [Fault(f"--times {time:g}", "not a finite day at or after the model's start "
                    f"({model.start:g})") for time in times if not math.isfinite(time) or time < model.start]
    if not len(times):
        faults.append(Fault("--times", "no time given", "for example 0,30,100"))
    if not names:
        faults.append(Fault("--observe", "no observable given", f"some of: {', '.join(model.observables)}"))
    checks = (("--covariate", courses, model.covariates, "covariate"),
              ("--set", values, model.parameters, "parameter"), ("--observe", names, model.observables, "observable"))
    for option, given, known, kind in checks:
        faults += [Fault(f"{option} {name}", f"the model {model.name} has no {kind} '{name}'{closest(name, known)}",
                         f"one of: {', '.join(known)}") for name in given if name not in known]
    faults += [Fault(f"--set {name}", "it sets the length of a chain and cannot be changed here", "edit the model file")
               for name in values if name in model.chain_lengths]
    faults += [fault for name, course in courses.items() if name in model.covariates for _, value in course
               for fault in covariate_faults(f"--covariate {name}", name, value, model)]
    faults += [fault for dose in doses
               for fault in dose_faults(f"--dose {dose.amount:g}@{dose.time:g}:{dose.input}", dose, model)]
    for name, value in values.items():
        prior = model.parameters[name].prior if name in model.parameters else None
        low, high = support(prior) if prior is not None else (-math.inf, math.inf)
        if not low <= value <= high:  # a bound itself, such as no thymus at all, is a fair question
            faults.append(Fault(f"--set {name}={value:g}",
                                f"outside {low:g} to {high:g}, where its prior {prior} lies"))
    return faults


def simulate_one(model: str, times: str, doses: list[str], covariates: list[str], values: list[str],
                 observe: str | None) -> pd.DataFrame:
    """`simulate` from the texts of the command line.

    Raises:
        InputError: every text that cannot be read.
    """
    loaded = load_model(model)
    faults: list[Fault] = []
    parsed_doses = _each(lambda text: parse_dose(text, loaded), doses, faults)
    parsed_courses = _by_name("--covariate", _each(parse_course, covariates, faults), faults)
    parsed_values = _by_name("--set", _each(_assignment, values, faults), faults)
    days = _each(lambda text: _day(text), [part for part in times.split(",") if part.strip()], faults)
    names = list(loaded.observables) if observe is None else [n.strip() for n in observe.split(",") if n.strip()]
    faults += _faults(loaded, days, parsed_doses, parsed_courses, parsed_values, names)
    if faults:
        raise InputError(faults)
    return simulate(loaded, days, parsed_doses, parsed_courses, parsed_values, names)


def _each(parse, texts, faults: list[Fault]) -> list:
    parsed = []
    for text in texts:
        try:
            parsed.append(parse(text))
        except InputError as error:
            faults.extend(error.faults)
    return parsed


def _by_name(option: str, pairs: list[tuple], faults: list[Fault]) -> dict:
    for name in {name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k])}:
        faults.append(Fault(f"{option} {name}", "given twice", "leave one of them out"))
    return dict(pairs)


def _assignment(text: str) -> tuple[str, float]:
    name, equals, body = text.partition("=")
    try:
        value = float(body)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value):
        raise InputError([Fault(f"--set {text}", "not NAME=VALUE with a finite number", "for example f_th=0.6")])
    return name.strip(), value


def _day(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError([Fault("--times", f"'{text.strip()}' is not a number")]) from None
