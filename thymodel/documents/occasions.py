"""Parameters that change from occasion to occasion, written as a model: shifts that are switched by covariates.

A parameter k that differs between occasions becomes an expression k@now of k, of a shift k@1, k@2, ... for each
occasion, which are parameters, and of covariates occasion@1, occasion@2, ... which are 1 during theirs and 0 at other
times. Such an expression is computed once for each stretch between changes, so that neither solver meets anything new.
Source: the usual coding of interoccasion variability, Karlsson & Sheiner 1993, J Pharmacokinet Biopharm 21:735.

No document can give names with an @.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy

from thymodel.documents.expressions import expit, log1p, symbol
from thymodel.documents.model import Covariate, Model, Parameter
from thymodel.documents.regimen import Course
from thymodel.documents.toml import digest

_SOURCE = "the fit spec"


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


def with_occasions(model: Model, effects: Mapping[str, tuple[str, tuple[str, ...]]], count: int) -> Model:
    """The model whose parameters change between occasions.

    Args:
        effects: of each effect its scale ("log", "logit" or "natural") and its parameters.
    """
    switches, now = occasion_names("occasion", count), dict[str, sympy.Expr]()
    for name, (scale, parameters) in effects.items():
        shift = sympy.Add(*(symbol(own) * symbol(switch)
                            for own, switch in zip(occasion_names(name, count), switches, strict=True)))
        for parameter in parameters:
            now[parameter] = _shifted(scale, now.get(parameter, symbol(parameter)), shift)
    moved = {symbol(name): symbol(f"{name}@now") for name in now}

    def of(expression):
        return None if expression is None else expression.xreplace(moved)

    text = f"{model.text}\n# {count} occasions: {sorted(effects.items())}\n"
    shifts = {name: Parameter("1", 0.0, None, "", _SOURCE, False)
              for effect in effects for name in occasion_names(effect, count)}
    return replace(
        model, text=text, digest=digest(text), parameters={**model.parameters, **shifts},
        covariates={**model.covariates, **{name: Covariate("1", float(name == switches[0]), "", _SOURCE)
                                           for name in switches}},
        expressions={**{f"{name}@now": value for name, value in now.items()},
                     **{name: of(value) for name, value in model.expressions.items()}},
        states={name: replace(item, initial=of(item.initial), rate=of(item.rate))
                for name, item in model.states.items()},
        inputs={name: replace(item, add={k: of(v) for k, v in item.add.items()},
                              multiply={k: of(v) for k, v in item.multiply.items()})
                for name, item in model.inputs.items()},
        observables={name: replace(item, value=of(item.value), healthy=of(item.healthy), highest=of(item.highest))
                     for name, item in model.observables.items()})


def _shifted(scale: str, value: sympy.Expr, shift: sympy.Expr) -> sympy.Expr:
    if scale == "log":
        return value * sympy.exp(shift)
    if scale == "logit":
        return expit(sympy.log(value) - log1p(-value) + shift)
    return value + shift
