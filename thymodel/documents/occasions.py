"""Parameters that change from occasion to occasion, written as a model: shifts that are switched by covariates.

A parameter k that differs between occasions becomes an expression k@occasion of k, of a shift k@1, k@2, ... for each
occasion, which are parameters, and of covariates occasion@1, occasion@2, ... which are 1 during theirs and 0 at other
times. Such an expression is computed once for each stretch between changes, so that neither solver meets anything new.
Source: the usual coding of interoccasion variability, Karlsson & Sheiner 1993, J Pharmacokinet Biopharm 21:735.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy

from thymodel.documents.expressions import expit, log1p, symbol
from thymodel.documents.extension import rewritten, with_parameters
from thymodel.documents.model import Model
from thymodel.documents.regimen import Course


def occasion_names(name: str, count: int) -> tuple[str, ...]:
    """Of an effect's shifts, or ("occasion") of the covariates that switch them."""
    return tuple(f"{name}@{number + 1}" for number in range(count))


def occasion_courses(start: float, begins: Sequence[float]) -> dict[str, Course]:
    """The covariates that switch, with the days on which the second and later occasions begin."""
    courses: dict[str, Course] = {}
    for number, name in enumerate(occasion_names("occasion", len(begins) + 1)):
        first: Course = ((start, 1.0),) if number == 0 else ((start, 0.0), (begins[number - 1], 1.0))
        courses[name] = (*first, (begins[number], 0.0)) if number < len(begins) else first
    return courses


def with_occasions(model: Model, effects: Mapping[str, tuple[str, tuple[str, ...]]], begins: Sequence[float]) -> Model:
    """The model whose parameters change between occasions.

    What the model has of covariate effects acts on the parameter of the moment, as it does on a subject's own.

    Args:
        effects: of each effect its scale ("log", "logit" or "natural") and its parameters.
        begins: the days on which the second and later occasions begin.
    """
    if not effects:
        return model
    switches, now = occasion_courses(model.start, begins), dict[str, sympy.Expr]()
    shifts = {name: occasion_names(name, len(switches)) for name in effects}
    for name, (scale, parameters) in effects.items():
        shift = sympy.Add(*(symbol(own) * symbol(switch) for own, switch in zip(shifts[name], switches, strict=True)))
        for parameter in parameters:
            now[parameter] = _shifted(scale, now.get(parameter, symbol(parameter)), shift)
    added = {f"{name}@occasion": value for name, value in now.items()}
    moved = rewritten(model, {symbol(name): symbol(f"{name}@occasion") for name in now})
    moved = with_parameters(moved, {own: 0.0 for every in shifts.values() for own in every}, added.items())
    return replace(moved, expressions={**added, **moved.expressions}, switches=switches)


def _shifted(scale: str, value: sympy.Expr, shift: sympy.Expr) -> sympy.Expr:
    if scale == "log":
        return value * sympy.exp(shift)
    if scale == "logit":
        return expit(sympy.log(value) - log1p(-value) + shift)
    return value + shift
