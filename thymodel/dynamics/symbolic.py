"""From a model document to pure functions of (t, y, values): the sympy trees are walked once, while JAX traces.

`values` maps the name of every constant, parameter and covariate to a number or array. Nothing is printed to source
and executed; a shared subexpression is computed once because sympy trees are hashable.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import sympy
from jaxtyping import Array, Float

from thymodel.documents import expressions as ex
from thymodel.documents.model import Model, static_expressions

Values = Mapping[str, Any]


def _hill(x, ec50, n):
    """x^n/(ec50^n + x^n), with value and slope 0 at x = 0 (the power rule alone gives 0 * inf for its derivative)."""
    positive = x > 0
    ratio = (ec50 / jnp.where(positive, x, 1.0)) ** n
    return jnp.where(positive, 1.0 / (1.0 + ratio), 0.0)


def _integer_power(x, n: int):
    return 1.0 / x**-n if n < 0 else x**n


_CALLS: dict[type, Callable] = {
    sympy.exp: jnp.exp,
    sympy.log: jnp.log,
    ex.log1p: jnp.log1p,
    sympy.Abs: jnp.abs,
    sympy.sign: jnp.sign,
    sympy.tanh: jnp.tanh,
    sympy.sin: jnp.sin,
    sympy.cos: jnp.cos,
    ex.expit: jax.nn.sigmoid,
    ex.softplus: jax.nn.softplus,
    ex.maximum: jnp.maximum,
    ex.minimum: jnp.minimum,
    ex.step: lambda x: jnp.heaviside(x, 0.5),
    ex.hill: _hill,
    sympy.StrictLessThan: jnp.less,
    sympy.LessThan: jnp.less_equal,
    sympy.StrictGreaterThan: jnp.greater,
    sympy.GreaterThan: jnp.greater_equal,
}


def evaluate(expression: sympy.Basic, known: dict[sympy.Basic, Any]):
    """The value of an expression; `known` holds the symbols and collects every subexpression on the way."""
    if expression in known:
        return known[expression]
    if isinstance(expression, sympy.Number | sympy.NumberSymbol):  # expit(2) is a number too, but none for float()
        return float(expression)
    known[expression] = _compute(expression, known)
    return known[expression]


def _compute(expression: sympy.Basic, known: dict[sympy.Basic, Any]):
    if isinstance(expression, sympy.Piecewise):
        return _piecewise(expression, known)
    if isinstance(expression, sympy.Pow):
        return _power(expression, known)
    args = [evaluate(arg, known) for arg in expression.args]
    if isinstance(expression, sympy.Add):
        return reduce(lambda a, b: a + b, args)
    if isinstance(expression, sympy.Mul):
        return reduce(lambda a, b: a * b, args)
    return _CALLS[type(expression)](*args)


def _power(expression: sympy.Pow, known: dict[sympy.Basic, Any]):
    base, exponent = evaluate(expression.base, known), expression.exp
    if exponent.is_Integer:
        return _integer_power(base, int(exponent))
    if exponent == sympy.Rational(1, 2):
        return jnp.sqrt(base)
    return base ** evaluate(exponent, known)


def _piecewise(expression: sympy.Piecewise, known: dict[sympy.Basic, Any]):
    *cases, (otherwise, _) = [(pair.args[0], pair.args[1]) for pair in expression.args]
    result = evaluate(otherwise, known)
    for value, condition in reversed(cases):
        if condition == sympy.true or condition == sympy.false:
            result = evaluate(value, known) if condition == sympy.true else result
        else:
            result = jnp.where(evaluate(condition, known), evaluate(value, known), result)
    return result


def _table(values: Values) -> dict[sympy.Basic, Any]:
    return {ex.symbol(name): value for name, value in values.items()}


def constant_values(model: Model) -> dict[str, float]:
    """Name -> value of the model's constants."""
    return {name: constant.value for name, constant in model.constants.items()}


def typical_values(model: Model) -> dict[str, float]:
    """Name -> value of constants, covariates and parameters as the document gives them, switches as at the start."""
    return constant_values(model) | {name: course[0][1] for name, course in model.switches.items()} | {
        name: item.value for group in (model.covariates, model.parameters) for name, item in group.items()}


def with_covariates(values: Values, covariates: Values) -> dict[str, Any]:
    """The values with a schedule's covariates, of which those that are NaN are not known there but among the values."""
    return dict(values) | {name: jnp.where(jnp.isnan(known), values[name], known) if name in values else known
                           for name, known in covariates.items()}


def derive(model: Model, values: Values) -> dict[str, Any]:
    """`values` with the derived constants added: expressions that use no state and no time, computed once a subject."""
    known, result = _table(values), dict(values)
    static = static_expressions(model)
    for name, expression in model.expressions.items():
        if name in static:
            result[name] = known[ex.symbol(name)] = evaluate(expression, known)
    return result


def _moving(model: Model, t, y, values: Values) -> dict[sympy.Basic, Any]:
    """Symbol table at (t, y): derived values, states, and the expressions that move with them."""
    known = _table(values)
    known[ex.symbol("t")] = t
    known |= {ex.symbol(name): y[k] for k, name in enumerate(model.states)}
    for name, expression in model.expressions.items():
        if ex.symbol(name) not in known:
            known[ex.symbol(name)] = evaluate(expression, known)
    return known


def _stack(items: Sequence[Any]) -> Array:
    return jnp.stack(jnp.broadcast_arrays(*[jnp.asarray(item, dtype=float) for item in items]))


def rate(model: Model, t, y: Float[Array, " state"], values: Values) -> Float[Array, " state"]:
    """dy/dt. `values` come from `derive`."""
    known = _moving(model, t, y, values)
    return _stack([evaluate(state.rate, known) for state in model.states.values()])


def initial(model: Model, values: Values) -> Float[Array, " state"]:
    """State at `model.start`. `values` come from `derive`."""
    known = _table(values)
    return _stack([evaluate(state.initial, known) for state in model.states.values()])


def infuse(model: Model, name: str, y: Float[Array, " state"], amount, values: Values) -> Float[Array, " state"]:
    """State after a dose record of the input `name`: every factor and increment is computed from the state before."""
    item = model.inputs[name]
    known = _table(values) | {ex.symbol(s): y[k] for k, s in enumerate(model.states)}
    known[ex.symbol("amount")] = amount
    columns = []
    for k, state in enumerate(model.states):
        value = y[k]
        if state in item.multiply:
            value = value * evaluate(item.multiply[state], known)
        if state in item.add:
            value = value + evaluate(item.add[state], known)
        columns.append(value)
    return _stack(columns)


def observe(model: Model, names: Sequence[str], t, y: Float[Array, " state"], values: Values) -> Float[Array, " obs"]:
    """The observables `names` at (t, y). `values` come from `derive`."""
    known = _moving(model, t, y, values)
    return _stack([evaluate(model.observables[name].value, known) for name in names])


def inlined_rates(model: Model) -> list[sympy.Expr]:
    """Rates in states, t, parameters, constants and covariates only: every named expression written out."""
    replaced: dict[sympy.Symbol, sympy.Expr] = {}
    for name, expression in model.expressions.items():
        replaced[ex.symbol(name)] = expression.xreplace(replaced)
    return [state.rate.xreplace(replaced) for state in model.states.values()]


def jacobian(model: Model) -> sympy.Matrix:
    """d rate_i / d state_j as symbols (ImmutableDenseMatrix; named expressions written out)."""
    states = [ex.symbol(name) for name in model.states]
    return sympy.Matrix([[expression.diff(s) for s in states] for expression in inlined_rates(model)])
