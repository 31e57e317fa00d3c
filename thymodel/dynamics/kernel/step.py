"""What happens in one row of a grid, as operation lists: look at a visit, jump at a dose, one Rodas4 step.

Each list has its exact adjoint, made mechanically from the list itself, so a gradient is that of the computed numbers.

Source: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., section IV.10, method RODAS
(coefficients: their code rodas.f, METH = 1).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sympy

from thymodel.documents import expressions as ex
from thymodel.documents.model import Model, static_expressions
from thymodel.dynamics.kernel import tape as tp
from thymodel.dynamics.kernel.tape import Tape

GAMMA = 0.25
_A = ((),
      (1.544,),
      (0.9466785280815826, 0.2557011698983284),
      (3.314825187068521, 2.896124015972201, 0.9986419139977817),
      (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950))
_C = ((),
      (-5.6688,),
      (-2.430093356833875, -0.2063599157091915),
      (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
      (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
      (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054))
_D = (0.25, -0.1043, 0.1035, -0.03620000000000023, 0.0, 0.0)
_TIME = (0.0, 0.386, 0.21, 0.63, 1.0, 1.0)
_JUST_BEFORE = 1 - 1e-6  # of a step: where a condition on time is asked whether it still holds
ERROR_ORDER = 4  # the embedded error of a step goes with h**4

# Numbers of a grid row, each for the subjects of a group; infusion rates of the inputs follow.
ROW = ("t", "h", "jump", "amount", "visit", "regime", "flags")


class Output(NamedTuple):
    """Where a result goes: number `index` of an array; `add` to what is there."""

    array: str
    index: int  # type: ignore[assignment]  # hides the method of tuples on purpose
    place: int
    add: bool = False


class Phase(NamedTuple):
    """An operation list with the places of what it stores."""

    tape: Tape
    outputs: tuple[Output, ...]


class Phases(NamedTuple):
    """Arrays that a phase may read: state, parameter, row, tolerance, cotangent of what the forward phase stored."""

    step: Phase
    step_adjoint: Phase
    jump: Phase
    jump_adjoint: Phase
    observe: Phase
    observe_adjoint: Phase


def parameter_names(model: Model, observables: Sequence[str]) -> tuple[str, ...]:
    """Names whose values the kernel needs: parameters, constants, covariates and derived constants."""
    static = static_expressions(model)
    seen: set[str] = set()
    todo = [state.rate for state in model.states.values()]
    todo += [model.observables[name].value for name in observables]
    for item in model.inputs.values():
        todo += [*item.add.values(), *item.multiply.values()]
    while todo:
        for name in {s.name for s in todo.pop().free_symbols if isinstance(s, sympy.Symbol)} - seen:
            seen.add(name)
            if name in model.expressions and name not in static:
                todo.append(model.expressions[name])
    moving = {name for name in model.expressions if name not in static}
    return tuple(sorted(seen - moving - set(model.states) - {"t", "amount"}))


class Names(NamedTuple):
    """What the kernel reads at run time, in order, and the numbers that are part of its code."""

    read: tuple[str, ...]
    numbers: Mapping[str, float]


def kernel_names(model: Model, observables: Sequence[str], fixed: Mapping[str, float]) -> Names:
    """Constants, `fixed` parameters and what follows from these alone are numbers: no slopes are computed for them."""
    numbers = {name: constant.value for name, constant in model.constants.items()} | dict(fixed)
    static = static_expressions(model)
    for name, expression in model.expressions.items():
        if name in static and {str(s) for s in expression.free_symbols} <= set(numbers):
            value = expression.subs({ex.symbol(key): number for key, number in numbers.items()}).evalf()
            if value.is_Number and value.is_finite:
                numbers[name] = float(value)
    return Names(tuple(n for n in parameter_names(model, observables) if n not in numbers), numbers)


def make_phases(model: Model, observables: Sequence[str], names: Names) -> Phases:
    """Every list of a model; a forward list and its adjoint are cut from the same tape."""
    step, step_adjoint = _step(model, names)
    jump, jump_adjoint = _jump(model, names)
    look, look_adjoint = _observe(model, observables, names)
    return Phases(step, step_adjoint, jump, jump_adjoint, look, look_adjoint)


# --- the pieces of a model on a tape ---------------------------------------------------------------------------


def _inputs(tape: Tape, model: Model, names: Names) -> tuple[list[int], dict]:
    """Places of the states, and the symbol table of the parameters."""
    states = [tp.variable(tape, "state", k) for k in range(len(model.states))]
    known = {ex.symbol(name): tp.constant(tape, value) for name, value in names.numbers.items()}
    return states, known | {ex.symbol(name): tp.variable(tape, "parameter", k) for k, name in enumerate(names.read)}


def _row(tape: Tape, name: str) -> int:
    return tp.variable(tape, "row", ROW.index(name))


def _moving(model: Model) -> dict:
    static = static_expressions(model)
    return {ex.symbol(name): value for name, value in model.expressions.items() if name not in static}


def _at(model: Model, t: int, y: Sequence[int], parameters: dict) -> dict:
    return parameters | {ex.symbol("t"): t} | {ex.symbol(name): y[k] for k, name in enumerate(model.states)}


class Rates(NamedTuple):
    """Places of the states' rates, of the expressions asked for beside them, and of every subexpression on the way."""

    rates: list[int]
    sums: list[int]
    known: dict[sympy.Basic, int]


def _rates(tape: Tape, model: Model, t: int, y: Sequence[int], parameters: dict, inflow: Sequence[int],
           named: dict, shared: Sequence[str] = (), branches: Mapping[sympy.Basic, int] = {}) -> Rates:
    """The rates at a point, on the branches of kinked functions that hold there, or on those given."""
    known = _at(model, t, y, parameters)
    rates = [tp.add(tape, tp.lower(tape, state.rate, known, named, branches), inflow[k])
             for k, state in enumerate(model.states.values())]
    return Rates(rates, [tp.lower(tape, ex.symbol(name), known, named, branches) for name in shared], known)


def _inflow(tape: Tape, model: Model, parameters: dict) -> list[int]:
    """States' gain per time from running infusions, by the rule of `symbolic.infuse` at a zero state."""
    zero = tp.constant(tape, 0.0)
    total = [zero] * len(model.states)
    for number, item in enumerate(model.inputs.values()):
        if item.multiply:
            continue
        amount = tp.variable(tape, "row", len(ROW) + number)
        known = _at(model, zero, [zero] * len(model.states), parameters) | {ex.symbol("amount"): amount}
        for k, state in enumerate(model.states):
            if state in item.add:
                total[k] = tp.add(tape, total[k], tp.lower(tape, item.add[state], known, {}))
    return total


# --- one step --------------------------------------------------------------------------------------------------


def _step(model: Model, names: Names) -> tuple[Phase, Phase]:
    tape = Tape()
    y, parameters = _inputs(tape, model, names)
    after, error = _rodas(tape, model, y, parameters, _shared(model, names))
    until = len(tape.operations)
    forward = Phase(tape, (*[Output("state", k, p) for k, p in enumerate(after)],
                           Output("error", 0, _scaled_error(tape, y, after, error))))
    return forward, _adjoint(tape, after, until, len(y), len(names.read))


def _rodas(tape: Tape, model: Model, y: list[int], parameters: dict,
           shared: Sequence[str]) -> tuple[list[int], list[int]]:
    """State after the step and its embedded error. Equations are multiplied by h*gamma: h = 0 is then no step.

    A step stays on the branches of max, min, abs and of conditions that hold at its beginning, so that its stages see
    one smooth system, and a solution that slides along a kink is followed from its own side. That the branches no
    longer hold at its end is part of its error: h times what the rates there differ.
    """
    t, h, named = _row(tape, "t"), _row(tape, "h"), _moving(model)
    hg, inflow = tp.multiply(tape, h, tp.constant(tape, GAMMA)), _inflow(tape, model, parameters)
    rates, sums, known = _rates(tape, model, t, y, parameters, inflow, named, shared)
    branches = tp.branches(tape, known)
    until = len(tape.operations)
    drift = tp.tangents(tape, {t: tp.constant(tape, 1.0)}, until)
    slopes = [drift.get(r) for r in rates]
    factors = _factorise(tape, _matrix(tape, y, rates, sums, until, hg), len(y) + len(sums))
    u: list[list[int]] = []
    point = y
    for stage in range(6):
        if stage == 5:
            point = [tp.add(tape, p, v) for p, v in zip(point, u[-1], strict=True)]
        elif stage:
            point = [_combine(tape, y[k], _A[stage], [v[k] for v in u]) for k in range(len(y))]
        if stage:
            time = tp.add(tape, t, tp.multiply(tape, h, tp.constant(tape, _TIME[stage])))
            rates, _, _ = _rates(tape, model, time, point, parameters, inflow, named, branches=branches)
        right = [_combine(tape, tp.multiply(tape, hg, r), [c * GAMMA for c in _C[stage]], [v[k] for v in u])
                 for k, r in enumerate(rates)]
        weight = tp.multiply(tape, tp.multiply(tape, hg, h), tp.constant(tape, _D[stage]))
        right = [r if s is None else tp.add(tape, r, tp.multiply(tape, weight, s))
                 for r, s in zip(right, slopes, strict=True)]
        u.append(_back_substitute(tape, factors, right, len(sums)))
    error = u[-1]
    if branches:
        late = tp.add(tape, t, tp.multiply(tape, h, tp.constant(tape, _JUST_BEFORE)))
        held, own = (_rates(tape, model, late, point, parameters, inflow, named, branches=b)[0] for b in (branches, {}))
        wrong = [tp.multiply(tape, h, tp.subtract(tape, a, b)) for a, b in zip(held, own, strict=True)]
        error = [e if a == b else tp.total(tape, [tp.call(tape, "abs", e), tp.call(tape, "abs", w)])
                 for e, w, a, b in zip(error, wrong, held, own, strict=True)]
    return [tp.add(tape, p, v) for p, v in zip(point, u[-1], strict=True)], error


def _shared(model: Model, names: Names) -> list[str]:
    """Named expressions that get an unknown of their own in the linear systems because that makes these sparser.

    A sum over many states that acts on many rates fills a block of the Jacobian; as a row and a column of its own it
    fills nothing. Tried one after the other and kept where the work of a solve falls.
    """
    chosen: list[str] = []
    best = _solve_cost(model, names, chosen)
    for name in [name for name in _moving(model) if str(name) in _reached(model)]:
        cost = _solve_cost(model, names, [*chosen, str(name)])
        if cost < best:
            chosen, best = [*chosen, str(name)], cost
    return chosen


def _reached(model: Model) -> set[str]:
    """Names that the rates use, directly or through named expressions."""
    reached: set[str] = set()
    todo = [state.rate for state in model.states.values()]
    while todo:
        for name in {str(s) for s in todo.pop().free_symbols} - reached:
            reached.add(name)
            todo += [model.expressions[name]] if name in model.expressions else []
    return reached


def _solve_cost(model: Model, names: Names, shared: Sequence[str]) -> int:
    """Operations of a factorisation and six solves."""
    tape = Tape()
    y, parameters = _inputs(tape, model, names)
    zero = [tp.constant(tape, 0.0)] * len(y)
    rates, sums, _ = _rates(tape, model, _row(tape, "t"), y, parameters, zero, _moving(model), shared)
    factors = _factorise(tape, _matrix(tape, y, rates, sums, len(tape.operations), _row(tape, "h")), len(y) + len(sums))
    entries = [*factors.lower.values(), *factors.upper.values(), *factors.inverse.values()]
    return len(tp.needed(tape, entries)) + 6 * len(entries)


def _combine(tape: Tape, base: int, weights: Sequence[float], terms: Sequence[int]) -> int:
    for weight, term in zip(weights, terms, strict=True):
        base = tp.add(tape, base, tp.multiply(tape, tp.constant(tape, weight), term))
    return base


def _matrix(tape: Tape, y: Sequence[int], rates: Sequence[int], sums: Sequence[int], until: int,
            hg: int) -> dict[tuple[int, int], int]:
    """I - h*gamma*J by (row, column), what is missing being zero at every state; `sums` follow as unknowns.

    Unknown number n + k is the change of sum k: its row says so, and the rates see the states behind it only through
    its column. Eliminating it gives the plain matrix back.
    """
    result, one = {}, tp.constant(tape, 1.0)
    for column, place in enumerate([*y, *sums]):
        slopes = tp.tangents(tape, {place: one}, until, held=set(sums))
        for row, rate in enumerate(rates):
            if rate in slopes:
                result[row, column] = tp.negative(tape, tp.multiply(tape, hg, slopes[rate]))
        for k, place_of_sum in enumerate(sums):
            inner = tp.tangents(tape, {place: one}, until, held=set(sums) - {place_of_sum})
            if place_of_sum in inner and place != place_of_sum:
                result[len(y) + k, column] = tp.negative(tape, inner[place_of_sum])
    for k in range(len(y) + len(sums)):
        result[k, k] = tp.add(tape, one, result.get((k, k), tp.constant(tape, 0.0)))
    return result


class Factors(NamedTuple):
    """Triangular factors of I - h*gamma*J on their pattern; `inverse` holds reciprocal pivots."""

    order: list[int]
    lower: dict[tuple[int, int], int]
    upper: dict[tuple[int, int], int]
    inverse: dict[int, int]


def _factorise(tape: Tape, matrix: dict[tuple[int, int], int], size: int) -> Factors:
    left, order, lower, inverse = set(range(size)), [], {}, {}
    upper: dict = {}
    while left:
        k = _cheapest_pivot(matrix, left)
        left.remove(k)
        order.append(k)
        inverse[k] = tp.reciprocal(tape, matrix[k, k])
        across = [j for j in sorted(left) if (k, j) in matrix]
        upper |= {(k, j): matrix[k, j] for j in across}
        for i in [i for i in sorted(left) if (i, k) in matrix]:
            lower[i, k] = tp.multiply(tape, matrix[i, k], inverse[k])
            for j in across:
                fill = tp.multiply(tape, lower[i, k], matrix[k, j])
                matrix[i, j] = tp.subtract(tape, matrix.get((i, j), tp.constant(tape, 0.0)), fill)
    return Factors(order, lower, upper, inverse)


def _cheapest_pivot(matrix: dict, left: set[int]) -> int:
    """The diagonal entry whose elimination can fill least. Source: H. Markowitz, Management Science 3 (1957) 255."""
    def cost(k: int) -> tuple[int, int]:
        below = sum((i, k) in matrix for i in left if i != k)
        across = sum((k, j) in matrix for j in left if j != k)
        return below * across, k

    return min(left, key=cost)


def _back_substitute(tape: Tape, factors: Factors, right: Sequence[int], sums: int) -> list[int]:
    """The unknowns that belong to the states; the rows of the sums have nothing on the right."""
    x = [*right, *[tp.constant(tape, 0.0)] * sums]
    for place, k in enumerate(factors.order):
        for i in factors.order[place + 1:]:
            if (i, k) in factors.lower:
                x[i] = tp.subtract(tape, x[i], tp.multiply(tape, factors.lower[i, k], x[k]))
    for place, k in reversed(list(enumerate(factors.order))):
        for j in factors.order[place + 1:]:
            if (k, j) in factors.upper:
                x[k] = tp.subtract(tape, x[k], tp.multiply(tape, factors.upper[k, j], x[j]))
        x[k] = tp.multiply(tape, x[k], factors.inverse[k])
    return x[: len(right)]


def _scaled_error(tape: Tape, y: Sequence[int], after: Sequence[int], error: Sequence[int]) -> int:
    """Largest of |error|/(absolute + relative*|y|); `tolerance` is each state's absolute one, then the relative."""
    relative, worst = tp.variable(tape, "tolerance", len(y)), tp.constant(tape, 0.0)
    for k, e in enumerate(error):
        size = tp.call(tape, "max", tp.call(tape, "abs", y[k]), tp.call(tape, "abs", after[k]))
        allowed = tp.add(tape, tp.variable(tape, "tolerance", k), tp.multiply(tape, relative, size))
        worst = tp.call(tape, "max", worst, tp.multiply(tape, tp.call(tape, "abs", e), tp.reciprocal(tape, allowed)))
    return worst


# --- jumps and visits ------------------------------------------------------------------------------------------


def _jump(model: Model, names: Names) -> tuple[Phase, Phase]:
    """Every factor and increment is computed from the state before, as in `symbolic.infuse`."""
    tape = Tape()
    y, parameters = _inputs(tape, model, names)
    which, known = _row(tape, "jump"), _at(model, tp.constant(tape, 0.0), y, parameters)
    known[ex.symbol("amount")] = _row(tape, "amount")
    after = list(y)
    for number, item in enumerate(model.inputs.values()):
        here = tp.call(tape, "equal", which, tp.constant(tape, number))
        for k, state in enumerate(model.states):
            value = y[k]
            if state in item.multiply:
                value = tp.multiply(tape, value, tp.lower(tape, item.multiply[state], known, {}))
            if state in item.add:
                value = tp.add(tape, value, tp.lower(tape, item.add[state], known, {}))
            after[k] = tp.select(tape, here, value, after[k])
    until = len(tape.operations)
    forward = Phase(tape, tuple(Output("state", k, p) for k, p in enumerate(after)))
    return forward, _adjoint(tape, after, until, len(y), len(names.read))


def _observe(model: Model, observables: Sequence[str], names: Names) -> tuple[Phase, Phase]:
    tape = Tape()
    y, parameters = _inputs(tape, model, names)
    known, named = _at(model, _row(tape, "t"), y, parameters), _moving(model)
    seen = [tp.lower(tape, model.observables[name].value, known, named) for name in observables]
    until = len(tape.operations)
    forward = Phase(tape, tuple(Output("observed", k, p) for k, p in enumerate(seen)))
    seeds = [tp.variable(tape, "observed_cotangent", k) for k in range(len(seen))]
    slopes = tp.adjoints(tape, _merge(tape, seen, seeds), until)
    stored = (_cotangents(tape, slopes, "state", len(y), "state_cotangent", True)
              + _cotangents(tape, slopes, "parameter", len(names.read), "parameter_cotangent", True))
    return forward, Phase(tape, stored)


def _merge(tape: Tape, places: Sequence[int], seeds: Sequence[int]) -> dict[int, int]:
    """Seeds by place; two results may be the same operation."""
    result: dict[int, int] = {}
    for place, seed in zip(places, seeds, strict=True):
        result[place] = tp.add(tape, result[place], seed) if place in result else seed
    return result


def _adjoint(tape: Tape, after: Sequence[int], until: int, states: int, parameters: int) -> Phase:
    seeds = [tp.variable(tape, "state_cotangent", k) for k in range(states)]
    slopes = tp.adjoints(tape, _merge(tape, after, seeds), until)
    stored = _cotangents(tape, slopes, "state", states, "state_cotangent", False)
    return Phase(tape, stored + _cotangents(tape, slopes, "parameter", parameters, "parameter_cotangent", True))


def _cotangents(tape: Tape, slopes: dict, source: str, count: int, array: str, add: bool) -> tuple[Output, ...]:
    zero = tp.constant(tape, 0.0)
    places = [slopes.get(tp.variable(tape, source, k), zero) for k in range(count)]
    return tuple(Output(array, k, place, add) for k, place in enumerate(places)
                 if not add or tp.number(tape, place) != 0)
