"""What a fit spec adds to the equations that are solved: effects of covariates, and errors of recorded doses; and, in
`occasions`, what differs between these.

Within the equations a covariate acts with the value of the moment, in either solver, also where it changes on the way.
The expressions that are added have names with an @, which no document can give.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import sympy

from thymodel.documents.expressions import symbol
from thymodel.documents.model import Input, Model, Observable, Parameter, State


class Shift(NamedTuple):
    """`parameter` times exp(coefficient*distance), the distance an expression of covariates."""

    coefficient: str
    parameter: str
    distance: sympy.Expr


def with_covariate_effects(model: Model, shifts: Sequence[Shift]) -> Model:
    """The model with its parameters shifted; the coefficients become parameters of it, 0 unless given."""
    if not shifts:
        return model
    by_parameter: dict[str, sympy.Expr] = {}
    for one in shifts:
        term = symbol(one.coefficient) * one.distance
        by_parameter[one.parameter] = by_parameter.get(one.parameter, sympy.Integer(0)) + term
    added = {f"{name}@covariates": symbol(name) * sympy.exp(total) for name, total in by_parameter.items()}
    moved = rewritten(model, {symbol(name): symbol(f"{name}@covariates") for name in by_parameter})
    return replace(with_parameters(moved, {one.coefficient: 0.0 for one in shifts}, added.items()),
                   expressions={**added, **moved.expressions})


def delivered(name: str) -> str:
    """Name of the parameter that says which part of the recorded amount of an input acts: delivered_progenitors."""
    return f"delivered_{name}"


def with_dose_errors(model: Model, inputs: Iterable[str]) -> Model:
    """The model with every amount of these inputs times a parameter, 1 unless given."""
    for name in inputs:
        by = {symbol("amount"): symbol("amount") * symbol(delivered(name))}
        item = model.inputs[name]
        moved = replace(item, add={key: value.xreplace(by) for key, value in item.add.items()},
                        multiply={key: value.xreplace(by) for key, value in item.multiply.items()})
        model = replace(with_parameters(model, {delivered(name): 1.0}, [(f"amount of {name}", delivered(name))]),
                        inputs={**model.inputs, name: moved})
    return model


def with_parameters(model: Model, values: Mapping[str, float], told: Iterable[tuple[str, object]]) -> Model:
    """The model with parameters of the fit spec, and what was `told` of them for `added`."""
    new = {name: Parameter("1", value, None, "", "the fit spec", False) for name, value in values.items()}
    return replace(model, parameters={**model.parameters, **new},
                   added=model.added + "".join(f"\n{name} = {what}" for name, what in told))


def rewritten(model: Model, by: Mapping[sympy.Basic, sympy.Basic]) -> Model:
    """The model with symbols replaced in all of its expressions."""
    def each(items: Mapping[str, sympy.Expr]) -> dict[str, sympy.Expr]:
        return {name: item.xreplace(by) for name, item in items.items()}

    def state(item: State) -> State:
        return replace(item, initial=item.initial.xreplace(by), rate=item.rate.xreplace(by))

    def input_(item: Input) -> Input:
        return replace(item, add=each(item.add), multiply=each(item.multiply))

    def observable(item: Observable) -> Observable:
        return replace(item, value=item.value.xreplace(by),
                       healthy=None if item.healthy is None else item.healthy.xreplace(by),
                       highest=None if item.highest is None else item.highest.xreplace(by))

    return replace(model, expressions=each(model.expressions),
                   states={name: state(item) for name, item in model.states.items()},
                   inputs={name: input_(item) for name, item in model.inputs.items()},
                   observables={name: observable(item) for name, item in model.observables.items()})
