"""Arithmetic as a list of scalar operations, each on earlier ones, and its exact derivative as more of the same.

A tape only grows. Equal operations are stored once, so a shared subexpression costs nothing, and an operation that no
output needs is dropped when machine code is written.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import sympy

from thymodel.documents import expressions as ex

COMPARISONS = {"lt", "le", "gt", "ge", "equal"}
_NO_SLOPE = COMPARISONS | {"constant", "input", "sign"}


class Operation(NamedTuple):
    """`name` applied to earlier operations. `value` is the number of a constant, `source` the place of an input."""

    name: str
    args: tuple[int, ...] = ()
    value: float = 0.0
    source: tuple[str, int] = ("", 0)


@dataclass(frozen=True)
class Tape:
    operations: list[Operation] = field(default_factory=list)
    places: dict[Operation, int] = field(default_factory=dict)


def push(tape: Tape, operation: Operation) -> int:
    """The place of an operation, added unless it is there already."""
    if operation not in tape.places:
        tape.places[operation] = len(tape.operations)
        tape.operations.append(operation)
    return tape.places[operation]


def constant(tape: Tape, value: float) -> int:
    return push(tape, Operation("constant", value=float(value)))


def variable(tape: Tape, array: str, index: int) -> int:
    """The input number `index` of the array `array`."""
    return push(tape, Operation("input", source=(array, index)))


def number(tape: Tape, a: int) -> float | None:
    """The value of a constant, None for everything else."""
    operation = tape.operations[a]
    return operation.value if operation.name == "constant" else None


def call(tape: Tape, name: str, *args: int) -> int:
    return push(tape, Operation(name, args))


def add(tape: Tape, a: int, b: int) -> int:
    x, y = number(tape, a), number(tape, b)
    if x is not None and y is not None:
        return constant(tape, x + y)
    if x == 0:
        return b
    if y == 0:
        return a
    if tape.operations[b].name == "negative":
        return subtract(tape, a, tape.operations[b].args[0])
    if tape.operations[a].name == "negative":
        return subtract(tape, b, tape.operations[a].args[0])
    return call(tape, "add", min(a, b), max(a, b))


def subtract(tape: Tape, a: int, b: int) -> int:
    x, y = number(tape, a), number(tape, b)
    if x is not None and y is not None:
        return constant(tape, x - y)
    if y == 0:
        return a
    if x == 0:
        return negative(tape, b)
    if tape.operations[b].name == "negative":
        return add(tape, a, tape.operations[b].args[0])
    return call(tape, "subtract", a, b)


def negative(tape: Tape, a: int) -> int:
    operation = tape.operations[a]
    if operation.name == "constant":
        return constant(tape, -operation.value)
    if operation.name == "negative":
        return operation.args[0]
    if operation.name == "subtract":
        return subtract(tape, operation.args[1], operation.args[0])
    return call(tape, "negative", a)


def multiply(tape: Tape, a: int, b: int) -> int:
    x, y = number(tape, a), number(tape, b)
    if x is not None and y is not None:
        return constant(tape, x * y)
    if x is not None:
        a, b, x, y = b, a, y, x
    if y == 0:
        return b
    if y == 1:
        return a
    if y == -1:
        return negative(tape, a)
    for one, other in ((a, b), (b, a)):
        if tape.operations[one].name == "negative":
            return negative(tape, multiply(tape, tape.operations[one].args[0], other))
    return call(tape, "multiply", min(a, b), max(a, b))


def reciprocal(tape: Tape, a: int) -> int:
    x = number(tape, a)
    return constant(tape, 1.0 / x) if x else call(tape, "reciprocal", a)


def select(tape: Tape, condition: int, a: int, b: int) -> int:
    return a if a == b else call(tape, "select", condition, a, b)


def power(tape: Tape, base: int, exponent: int) -> int:
    """Powers of squares for whole exponents up to 64, else the power function."""
    n = number(tape, exponent)
    if n is None or n != int(n) or abs(n) > 64:
        return call(tape, "sqrt", base) if n == 0.5 else _general_power(tape, base, exponent)
    return reciprocal(tape, _whole_power(tape, base, int(-n))) if n < 0 else _whole_power(tape, base, int(n))


def _general_power(tape: Tape, base: int, exponent: int) -> int:
    """The third argument is log|base|, there to be shared with the derivatives, which are powers of the same base."""
    return call(tape, "power", base, exponent, call(tape, "log", call(tape, "abs", base)))


def _whole_power(tape: Tape, base: int, n: int) -> int:
    if n == 0:
        return constant(tape, 1.0)
    half = _whole_power(tape, base, n // 2)
    square = multiply(tape, half, half)
    return multiply(tape, square, base) if n % 2 else square


# --- from sympy ------------------------------------------------------------------------------------------------

_CALLS = {
    sympy.exp: "exp", sympy.log: "log", ex.log1p: "log1p", sympy.Abs: "abs", sympy.sign: "sign", sympy.tanh: "tanh",
    sympy.sin: "sin", sympy.cos: "cos", ex.expit: "expit", ex.softplus: "softplus", ex.maximum: "max",
    ex.minimum: "min", sympy.StrictLessThan: "lt", sympy.LessThan: "le", sympy.StrictGreaterThan: "gt",
    sympy.GreaterThan: "ge"}


def lower(tape: Tape, expression: sympy.Basic, known: dict[sympy.Basic, int],
          named: Mapping[sympy.Basic, sympy.Expr], held: Mapping[sympy.Basic, int] = {}) -> int:
    """The place of an expression's value.

    Args:
        known: places of symbols; collects every subexpression on the way.
        named: what further symbols stand for, written out where they are met.
        held: from `branches`: the branch to take, whatever the arguments are here.
    """
    if expression in known:
        return known[expression]
    if expression in named:
        place = lower(tape, named[expression], known, named, held)
    elif expression in held:
        place = _on_branch(tape, expression, held[expression], lambda e: lower(tape, e, known, named, held))
    elif isinstance(expression, sympy.Number | sympy.NumberSymbol):  # expit(2) is a number too, but none for float()
        place = constant(tape, float(expression))
    else:
        place = _compose(tape, expression, lambda e: lower(tape, e, known, named, held))
    known[expression] = place
    return place


def branches(tape: Tape, known: Mapping[sympy.Basic, int]) -> dict[sympy.Basic, int]:
    """Which way every kink and condition met by `lower` goes: places of truth values, of `sign` its value."""
    found: dict[sympy.Basic, int] = {}
    for expression in known:
        if isinstance(expression, sympy.core.relational.Relational | sympy.sign):
            found[expression] = known[expression]
        elif isinstance(expression, ex.maximum | ex.minimum):
            name = "ge" if isinstance(expression, ex.maximum) else "le"
            found[expression] = call(tape, name, *[known[arg] for arg in expression.args])
        elif isinstance(expression, sympy.Abs):
            found[expression] = call(tape, "ge", known[expression.args[0]], constant(tape, 0.0))
    return found


def _on_branch(tape: Tape, expression: sympy.Basic, place: int, recurse) -> int:
    if isinstance(expression, ex.maximum | ex.minimum):
        return select(tape, place, *[recurse(arg) for arg in expression.args])
    if isinstance(expression, sympy.Abs):
        inside = recurse(expression.args[0])
        return select(tape, place, inside, negative(tape, inside))
    return place


def _compose(tape: Tape, expression: sympy.Basic, recurse) -> int:
    if isinstance(expression, sympy.Piecewise):
        return _piecewise(tape, expression, recurse)
    if isinstance(expression, sympy.Pow):
        return power(tape, recurse(expression.base), recurse(expression.exp))
    args = [recurse(arg) for arg in expression.args]
    if isinstance(expression, sympy.Add):
        return total(tape, args)
    if isinstance(expression, sympy.Mul):
        result = args[0]
        for arg in args[1:]:
            result = multiply(tape, result, arg)
        return result
    if isinstance(expression, ex.hill):
        return _hill(tape, *args)
    if isinstance(expression, ex.step):
        zero, half = constant(tape, 0.0), constant(tape, 0.5)
        return add(tape, half, multiply(tape, half, call(tape, "sign", subtract(tape, args[0], zero))))
    return call(tape, _CALLS[type(expression)], *args)


def total(tape: Tape, terms: Iterable[int]) -> int:
    result = constant(tape, 0.0)
    for term in terms:
        result = add(tape, result, term)
    return result


def _hill(tape: Tape, x: int, ec50: int, n: int) -> int:
    """Value and slope 0 at x <= 0, where the power rule alone gives 0 * inf for the derivative."""
    one, zero = constant(tape, 1.0), constant(tape, 0.0)
    positive = call(tape, "gt", x, zero)
    safe = select(tape, positive, x, one)
    ratio = power(tape, multiply(tape, ec50, reciprocal(tape, safe)), n)
    return select(tape, positive, reciprocal(tape, add(tape, one, ratio)), zero)


def _piecewise(tape: Tape, expression: sympy.Piecewise, recurse) -> int:
    *cases, (otherwise, _) = [(pair.args[0], pair.args[1]) for pair in expression.args]
    result = recurse(otherwise)
    for value, condition in reversed(cases):
        if condition == sympy.true:
            result = recurse(value)
        elif condition != sympy.false:
            result = select(tape, recurse(condition), recurse(value), result)
    return result


# --- derivatives -----------------------------------------------------------------------------------------------


def tangents(tape: Tape, seeds: Mapping[int, int], until: int, held: Collection[int] = ()) -> dict[int, int]:
    """Forward mode: the derivative of every operation before `until` along the seeds; missing means zero.

    Args:
        held: operations taken as independent of what they are made of.
    """
    result = dict(seeds)
    for place in range(until):
        if place in result or place in held:
            continue
        args = tape.operations[place].args
        terms = [_pass(tape, place, k, result[a]) for k, a in enumerate(args) if a in result]
        value = total(tape, [t for t in terms if t is not None])
        if number(tape, value) != 0:
            result[place] = value
    return result


def adjoints(tape: Tape, seeds: Mapping[int, int], until: int) -> dict[int, int]:
    """Reverse mode: the derivative of sum(seed*operation) by every operation before `until`; missing means zero."""
    result = dict(seeds)
    for place in reversed(range(until)):
        if place not in result:
            continue
        for k, a in enumerate(tape.operations[place].args):
            term = _pass(tape, place, k, result[place])
            if term is not None:
                result[a] = add(tape, result[a], term) if a in result else term
    return result


def _pass(tape: Tape, place: int, k: int, slope: int) -> int | None:
    """`slope` times the partial derivative of an operation by its argument number k; None where that is zero."""
    operation = tape.operations[place]
    args = operation.args
    if operation.name in _NO_SLOPE or (operation.name == "select" and k == 0) or number(tape, slope) == 0:
        return None
    match operation.name:
        case "add":
            return slope
        case "subtract":
            return slope if k == 0 else negative(tape, slope)
        case "negative":
            return negative(tape, slope)
        case "multiply":
            return multiply(tape, slope, args[1 - k])
        case "select":
            zero = constant(tape, 0.0)
            return select(tape, args[0], slope, zero) if k == 1 else select(tape, args[0], zero, slope)
        case "max" | "min":
            first = call(tape, "ge" if operation.name == "max" else "le", *args)
            zero = constant(tape, 0.0)
            return select(tape, first, slope, zero) if k == 0 else select(tape, first, zero, slope)
        case "power":
            return _pass_power(tape, place, k, slope)
    return multiply(tape, slope, _slope(tape, place, operation.name, args[0]))


def _pass_power(tape: Tape, place: int, k: int, slope: int) -> int | None:
    base, exponent, log = tape.operations[place].args
    if k == 2:
        return None  # the derivative by the base is whole in argument 0
    if k == 0:
        lower_power = power(tape, base, subtract(tape, exponent, constant(tape, 1.0)))
        return multiply(tape, slope, multiply(tape, exponent, lower_power))
    positive = call(tape, "gt", base, constant(tape, 0.0))
    safe = select(tape, positive, log, constant(tape, 0.0))
    return multiply(tape, slope, multiply(tape, place, safe))


def _slope(tape: Tape, place: int, name: str, x: int) -> int:
    """Derivative of a function of one argument; `place` holds its value."""
    one = constant(tape, 1.0)
    match name:
        case "reciprocal":
            return negative(tape, multiply(tape, place, place))
        case "exp":
            return place
        case "log":
            return reciprocal(tape, x)
        case "log1p":
            return reciprocal(tape, add(tape, one, x))
        case "sqrt":
            return multiply(tape, constant(tape, 0.5), reciprocal(tape, place))
        case "tanh":
            return subtract(tape, one, multiply(tape, place, place))
        case "sin":
            return call(tape, "cos", x)
        case "cos":
            return negative(tape, call(tape, "sin", x))
        case "abs":
            return call(tape, "sign", x)
        case "expit":
            return multiply(tape, place, subtract(tape, one, place))
        case "softplus":
            return call(tape, "expit", x)
    raise ValueError(f"no derivative of '{name}'")


def needed(tape: Tape, outputs: Sequence[int]) -> list[int]:
    """Places of the operations that the outputs rest on, in order."""
    marked, todo = set(outputs), list(outputs)
    while todo:
        for arg in tape.operations[todo.pop()].args:
            if arg not in marked:
                marked.add(arg)
                todo.append(arg)
    return sorted(marked)
