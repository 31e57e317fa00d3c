"""A model document in the hands of others: a Python function for scipy's LSODA, Antimony text for libroadrunner.

Both take the document's own equations, written out by sympy with common subexpressions shared.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sympy
from scipy.integrate import odeint
from sympy.printing.str import StrPrinter

from thymodel.documents import expressions as ex
from thymodel.documents.model import Model

Solver = Callable[[Mapping[str, float], float, float], np.ndarray]  # own parameters, dose, rtol -> (visit, observable)


def _plain(model: Model, expression: sympy.Expr) -> sympy.Expr:
    """Named expressions and constants written out, and functions that others do not know as those that they do."""
    numbers = {**model.constants, **model.covariates}
    while names := {s for s in expression.free_symbols if s.name in model.expressions}:
        expression = expression.xreplace({s: model.expressions[s.name] for s in names})
    expression = expression.xreplace({s: sympy.Float(numbers[s.name].value) for s in expression.free_symbols
                                      if s.name in numbers})
    expression = expression.replace(ex.expit, lambda x: 1 / (1 + sympy.exp(-x)))
    expression = expression.replace(ex.maximum, lambda a, b: sympy.Piecewise((a, a > b), (b, True)))
    return expression.replace(ex.minimum, lambda a, b: sympy.Piecewise((a, a < b), (b, True)))


def _equations(model: Model, observables: Sequence[str]) -> tuple[list, list, list]:
    return ([_plain(model, state.rate) for state in model.states.values()],
            [_plain(model, state.initial) for state in model.states.values()],
            [_plain(model, model.observables[name].value) for name in observables])


def _dosed(model: Model, initial: np.ndarray, dose: float) -> np.ndarray:
    """The dose of the first input goes into its one state on the first day."""
    (state,) = next(iter(model.inputs.values())).add
    initial[list(model.states).index(state)] += dose
    return initial


def lsoda(model: Model, observables: Sequence[str], visits: Sequence[float]) -> Solver:
    """scipy's `odeint`, the fastest way to LSODA that scipy has; absolute tolerance a thousandth of the relative."""
    rates, initial, seen = _equations(model, observables)
    states, names = [ex.symbol(name) for name in model.states], list(model.parameters)
    parameters = [ex.symbol(name) for name in names]
    field = sympy.lambdify([states, ex.symbol("t"), parameters], rates, modules="math", cse=True)
    begin = sympy.lambdify([parameters], initial, modules="math")
    look = sympy.lambdify([states], seen, modules="numpy")
    typical = {name: item.value for name, item in model.parameters.items()}

    def solve(own: Mapping[str, float], dose: float, rtol: float) -> np.ndarray:
        p = list((typical | dict(own)).values())
        y0 = _dosed(model, np.array(begin(p), float), dose)
        ys = odeint(field, y0, [0.0, *visits], args=(p,), rtol=rtol, atol=1e-3 * rtol, mxstep=100_000)
        return np.array(look(ys[1:].T)).T

    return solve


class _Antimony(StrPrinter):
    def _print_Piecewise(self, expr):
        value, condition = expr.args[0]
        return f"piecewise({self._print(value)}, {self._print(condition)}, {self._print(expr.args[1][0])})"

    def _print_Pow(self, expr, rational=False):
        return f"(({self._print(expr.base)})^({self._print(expr.exp)}))"


def roadrunner(model: Model, observables: Sequence[str], visits: Sequence[float]) -> Solver | None:
    """libroadrunner with its CVODE, compiled from Antimony; None where it is not installed."""
    try:
        import antimony
        import roadrunner as rr
    except ImportError:
        return None
    rates, initial, seen = _equations(model, observables)
    prefixed = {ex.symbol(name): sympy.Symbol(f"q_{name}") for name in [*model.states, *model.parameters]}
    prefixed[ex.symbol("t")] = sympy.Symbol("time")

    def text(expression):
        return _Antimony({"full_prec": True}).doprint(expression.xreplace(prefixed))

    shared, short = sympy.cse([rate.xreplace(prefixed) for rate in rates], sympy.numbered_symbols("w_"))
    lines = [f"q_{name} = {item.value!r}" for name, item in model.parameters.items()]
    lines += [f"{name} := {text(value)}" for name, value in shared]
    lines += [f"q_{name} = {text(first)}\n q_{name}' = {text(rate)}"
              for name, first, rate in zip(model.states, initial, short, strict=True)]
    lines += [f"o_{name} := {text(value)}" for name, value in zip(observables, seen, strict=True)]
    if antimony.loadAntimonyString("model document()\n " + "\n ".join(lines) + "\nend") < 0:
        raise ValueError(antimony.getLastError())
    engine = rr.RoadRunner(antimony.getSBMLString("document"))
    engine.timeCourseSelections = [f"o_{name}" for name in observables]
    (into,) = next(iter(model.inputs.values())).add
    times = [0.0, *visits]

    def solve(own: Mapping[str, float], dose: float, rtol: float) -> np.ndarray:
        engine.reset()
        for name, value in own.items():
            engine.setValue(f"q_{name}", value)
        engine.setValue(f"q_{into}", dose)
        engine.integrator.relative_tolerance, engine.integrator.absolute_tolerance = rtol, 1e-3 * rtol
        return np.array(engine.simulate(times=times))[1:]

    return solve
