"""Is the native kernel ever wrong in silence? Random small models, solved by it and by scipy, case by case.

    python qualification/fuzz_kernel.py --models 1000 --seed 1 --out qualification/fuzz_kernel.md

A model document is drawn from the seed and its number, with three subjects and four sets of parameter values: the
typical one, one that `prepare` was shown, two that it was not. The rule: where the kernel is off by more than `NEAR`,
the subject is marked failed (NaN), or the kernel's own error estimate says that a step missed the tolerance of the
grid. Batches run in processes of their own, so that a crash is a count; with --work a run that was stopped goes on from
the models that it had finished.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import platform
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import sympy
from scipy.integrate import solve_ivp

ASKED = (1e-6, 1e-9)  # rtol and atol of a fit, by default
FACTOR = 100  # agreement is within this many times what was asked for: the local tolerance of the kernel's grid
TOLERANCE = FACTOR * ASKED[0]
NEAR = 10 * TOLERANCE  # errors of steps add up: up to here a disagreement is counted apart, and listed
FLOOR = 1e-3  # of an observable's largest value in any subject (atol/rtol): added to the subject's own as the scale
TIGHT = (1e-10, 1e-15)  # of the reference
MOST_EVALUATIONS = 30_000  # of a reference, from one stop to the next; a model that needs more has none
HUGE = 1e6  # times the initial state: a solution that ends beyond it has exploded
SETS = ("typical", "shown", "unseen 1", "unseen 2")
GRADIENTS_EVERY, COMPILED_EVERY = 10, 20  # models whose gradient is compared, and that go through `jax.jit`
GRADIENT_TOLERANCE = 1e-2  # of the sum of the terms' sizes: it steers a sampler, and does not decide what is accepted
SECONDS = 120  # of processor time for one model; then its process ends and the model counts as a hang
BATCH = 50


# --- a model document ------------------------------------------------------------------------------------------


class Person(NamedTuple):
    """One subject's design: doses are (time, input, amount, duration)."""

    doses: tuple[tuple[float, str, float, float], ...]
    course: tuple[tuple[float, float], ...]
    visits: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """A model with its subjects; `values` by set and name are arrays over subjects."""

    number: int
    kind: str
    text: str
    persons: tuple[Person, ...]
    values: dict[str, dict[str, np.ndarray]]


KINDS = {"tame": 0.3, "stiff": 0.15, "kinked": 0.15, "timed": 0.12, "explosive": 0.08, "singular": 0.06,
         "overflowing": 0.04, "wild": 0.1}
SMOOTH = ("{a} + {b}", "{a} - {b}", "{a}*{b}", "{a}/(1 + {b}**2)", "exp(-{a}**2)", "log(1 + {a}**2)", "log1p({a}**2)",
          "sqrt(1 + {a}**2)", "tanh({a})", "sin({a})", "cos({a})", "expit({a})", "softplus({a})",
          "hill(1 + tanh({a}), {p}, {n})", "({p} + {a}**2)**{r}", "{a}**2", "{p}**({r}*tanh({a}))", "sin({w}*t/tau1)")
KINKED = ("min({a}, {b})", "max({a}, {b}, {c})", "abs({a})", "hill({a}, {p}, {n})", "hill(abs({a}), {p}, {r})",
          "piecewise({a}, {a} < {c}, {c})", "piecewise({a}, {b} < {c}, {p})", "sqrt(abs({a}))", "max({a} - {c}, 0)",
          "piecewise({a}, {a} < {p}, {b}, {a} >= {c}, {p})")
TIMED = ("piecewise({a}, t/{tau} < {f}, {b})", "piecewise({c}, t/{tau} < {f}, {p})",
         "piecewise({a}, t/tau1 < {f}, {b}, t/tau1 < 1.3, {c})", "piecewise(0, t/tau2 < 0.5, {p}, t/tau2 < {g}, 0)")
WILD = ("exp({a})", "log({a})", "log1p({a})", "sqrt({a})", "{a}/{b}", "{a}**{b}", "exp({a}**2)", "{a}**5",
        "hill({a}, {b}, {p})", "{a}**(-2)", "min({a}, {b}, {c})", "abs({a})**{r}")
EXPLOSIVE = ("{x}**2 - {p}*{x}", "{x}**2", "exp({x})", "{x}*abs({x})**{p} - {x}", "{x}*{y} - {p}*{x}",
             "{p} + {x}**2", "{x}**3 - {x}")
SINGULAR = ("{x}*(1 - {x}/{p})", "{x}*(1 - {x}) + {y}*0.01", "({y} - {x}*{y}**2)", "{y}*{p} - {x}**3", "{x} - {x}**3",
            "{x}*{p}*(1 - hill(abs({x}), 1, 4))", "max({x}, 0)*(1 - {x} - {y}**2)")
OVERFLOWING = ("exp({big}*{x}) - {x}", "{x}**40 - {x}", "exp(exp(3 + {x})) - {x}", "1e200*{x}*exp(-500*{x}**2)",
               "1 - {x}*exp({big}*{y}**2)", "exp(-{big}*{x})*1e250 - {x}", "softplus({big}*{x}) - {x}",
               "expit(-{big}*{x})*{p} - {x}", "1e-300/({x}**20 + 1e-300) - {x}")


def make_case(seed: int, number: int) -> Case:
    """The document, designs and parameter sets of one number."""
    rng = np.random.default_rng([seed, number])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    horizon = float(f"{10 ** rng.uniform(0, 2.6):.3g}")
    start = -round(horizon / 10, 3) if rng.random() < 0.2 else 0.0
    text = _document(rng, kind, horizon, start)
    persons = tuple(_person(rng, text, start, horizon) for _ in range(3))
    return Case(number, kind, text, persons, _value_sets(rng, text))


def _pick(rng, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _expression(rng, depth: int, atoms: Sequence[str], templates: Sequence[str]) -> str:
    if depth == 0 or rng.random() < 0.2:
        return f"{rng.uniform(0.1, 3):.2g}" if rng.random() < 0.05 else _pick(rng, atoms)
    return "(" + _fill(rng, _pick(rng, templates), depth, atoms, templates) + ")"


def _fill(rng, template: str, depth: int, atoms: Sequence[str], templates: Sequence[str], **more: str) -> str:
    """A template with its letters replaced: a, b expressions; p a parameter; the rest numbers."""
    inner = {letter: _expression(rng, depth - 1, atoms, templates) for letter in "ab"}
    return template.format(
        **inner, **more, p=_pick(rng, ["p1", "p2", "p3"]), c=f"{rng.uniform(0.1, 2):.2g}",
        n=_pick(rng, ["2", "4", "1.5", "p3"]),
        r=f"{rng.uniform(0.3, 3):.2g}", w=f"{10 ** rng.uniform(0, 2.3):.2g}", tau=_pick(rng, ["tau1", "tau2"]),
        f=f"{rng.uniform(0.05, 0.95):.3g}", g=f"{0.5 + 10 ** rng.uniform(-3, -0.5):.4g}",
        big=f"{10 ** rng.uniform(1.5, 3):.3g}")


def _templates(kind: str) -> Sequence[str]:
    more = {"kinked": KINKED * 2, "timed": TIMED * 4, "wild": KINKED + TIMED + WILD * 2}
    return SMOOTH + more.get(kind, ())


def _document(rng, kind: str, horizon: float, start: float) -> str:
    chain = int(rng.integers(2, 5)) if rng.random() < 0.2 else 0
    plain = int(min(rng.integers(1, 9 - chain, 2)))
    names = [f"x{k}" for k in range(1, plain + 1)]
    states = [*names, *(f"c{j}" for j in range(1, chain + 1))]
    templates, depth = _templates(kind), int(rng.integers(1, 4))
    parts = [f'title = "fuzz"\ndescription = "{kind}"\nstart = {start}\n',
             "[constants]\n" + _value("tau2", horizon, "day"),
             "[covariates]\n" + _value("z", rng.uniform(0, 1), "1"), "[parameters]\n" + _value("tau1", horizon, "day")]
    parts += [_value(f"p{k}", np.exp(rng.normal(0, 0.6)), "1") for k in (1, 2, 3)]
    parts += [_value(f"k{k}", _speed(rng, kind) / horizon, "1/day") for k in range(1, len(names) + 2)]
    parts.append("[expressions]\n")
    parts.append(f'e1 = "{_expression(rng, 2, ["p1", "p2", "z"], SMOOTH[:-1])}"\n')
    atoms = [*states * 2, "p1", "p2", "p3", "z", "e1"]
    if rng.random() < 0.5:
        parts.append(f'e2 = "{_expression(rng, depth, atoms, templates)}"\n')
        atoms.append("e2")
    for k, name in enumerate(names, 1):
        own = kind if k == 1 or rng.random() < 0.5 else "tame"
        rate = _rate(rng, own, f"k{k}", name, names, depth, atoms, templates)
        parts.append(f'[states.{name}]\nunit = "1"\ninitial = "{_initial(rng, kind)}"\nrate = "{rate}"\n')
    if chain:
        gain = 'gain = "p2"\n' if rng.random() < 0.5 else ""
        parts.append(f'[states.c]\nchain = {chain}\nunit = "1"\ninitial = "0"\ninflow = "k1*abs({_pick(rng, names)})"\n'
                     f'transfer = "k{len(names) + 1}"\n{gain}')
    parts += _inputs(rng, names)
    parts += [f'[observables.o{k}]\nunit = "1"\nvalue = "{_observable(rng, states)}"\n'
              for k in range(1, int(rng.integers(2, 5)))]
    return "".join(parts)


def _value(name: str, value: float, unit: str) -> str:
    return f'{name} = {{ value = {value:.4g}, unit = "{unit}", source = "drawn" }}\n'


def _speed(rng, kind: str) -> float:
    """A rate constant times the horizon."""
    if kind == "singular" and rng.random() < 0.3:
        return 1600.0  # makes 1 - h*gamma*k vanish in the pilot's first round
    decades = {"stiff": (-1, 6.5), "singular": (0, 4), "explosive": (-0.5, 1), "wild": (-0.5, 1.5)}
    low, high = decades.get(kind, (-0.5, 2))
    return float(10 ** rng.uniform(low, high))


def _initial(rng, kind: str) -> str:
    if kind == "singular":
        return _pick(rng, ["1e-6", "0.01*p1", "p1"])
    return _pick(rng, ["0", "p1", "0.5*p2/(1 + z)", "e1/(1 + e1**2)", f"{rng.uniform(0, 2):.3g}"])


def _rate(rng, kind: str, k: str, x: str, names: Sequence[str], depth: int, atoms, templates) -> str:
    special = {"explosive": EXPLOSIVE, "singular": SINGULAR, "overflowing": OVERFLOWING}
    if kind in special:
        return f"{k}*({_fill(rng, _pick(rng, special[kind]), 1, atoms, templates, x=x, y=_pick(rng, names))})"
    source, loss = (_expression(rng, depth, atoms, templates) for _ in range(2))
    if kind == "wild":
        return f"{k}*({source} - {_pick(rng, [x, x, '0', f'{x}*({loss})'])})"
    bounded = _pick(rng, ["softplus({a})", "expit({a})", "tanh({a})", "exp(-({a})**2)", "hill(({a})**2, p3, 1.5)",
                          "min(abs({a}), 3)" if kind in ("kinked", "timed") else "log1p(({a})**2)"]).format(a=source)
    return f"{k}*({bounded} - {x}*({rng.uniform(0.05, 1):.2g} + expit({loss})))"


def _inputs(rng, names: Sequence[str]) -> list[str]:
    """"d" is linear in its amount and can be infused; "m" multiplies; "s" saturates."""
    x, y = _pick(rng, names), _pick(rng, names)
    kinds = [f'[inputs.d]\nunit = "1"\nadd = {{ {x} = "amount*p1" }}\n',
             f'[inputs.m]\nunit = "1"\nmultiply = {{ {y} = "exp(-p2*amount)" }}\nadd = {{ {x} = "0.1*amount*{y}" }}\n',
             f'[inputs.s]\nunit = "1"\nadd = {{ {y} = "amount/(1 + amount*expit({x}) + z)" }}\n']
    return [kinds[k] for k in sorted(rng.permutation(3)[: int(rng.integers(0, 4))])]


def _observable(rng, states: Sequence[str]) -> str:
    x, y = _pick(rng, states), _pick(rng, states)
    return _pick(rng, ["{x}", "{x}", "{x} + p1*{y}", "log1p({x}**2)", "{x}*(1 + t/tau2)", "{x}/(1 + {y}**2)"]
                 ).format(x=x, y=y)


def _person(rng, text: str, start: float, horizon: float) -> Person:
    inputs = re.findall(r"\[inputs\.(\w)\]", text)
    visits = {float(f"{v:.4g}") for v in rng.uniform(start, horizon, int(rng.integers(2, 6)))} | {horizon}
    if rng.random() < 0.3:
        visits.add(start)
    times = [*sorted(visits)[:-1], *rng.uniform(start, horizon, 3).round(3)]
    doses = []
    for _ in range(int(rng.integers(0, 4)) if inputs else 0):
        name, when = _pick(rng, inputs), float(times[int(rng.integers(len(times)))])
        infused = name == "d" and rng.random() < 0.4
        doses.append((when, name, round(rng.uniform(0, 2), 3), round(horizon * rng.uniform(0.001, 0.3), 4) * infused))
    taken = [d[0] for d in doses]  # two doses at the time of a change of the covariate: the order is another matter
    changes = {float(times[int(rng.integers(len(times)))]) for _ in range(int(rng.integers(0, 3)))}
    course = [(-np.inf, round(rng.uniform(0, 1), 2))]
    course += [(when, round(rng.uniform(0, 2), 2)) for when in sorted(changes)
               if taken.count(when) < 2 and when > start]
    return Person(tuple(sorted(doses)), tuple(course), tuple(sorted(visits)))


def _value_sets(rng, text: str) -> dict[str, dict[str, np.ndarray]]:
    """The typical values, and three sets with a spread of 0.3 about them on the log scale."""
    table = text.split("[parameters]")[1].split("[expressions]")[0]
    typical = {name: np.full(3, float(value)) for name, value in re.findall(r"(\w+) = { value = ([^,]+),", table)}
    sets = {SETS[0]: typical}
    for name in SETS[1:]:
        sets[name] = {key: value * np.exp(0.3 * rng.normal(size=3)) for key, value in typical.items()}
    return sets


# --- the reference ---------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A model as plain Python functions of (t, states, values), written out by sympy."""

    rate: Callable
    observe: Callable
    initial: Callable
    inputs: dict[str, tuple[Callable, Callable]]  # factors and increments of all states, of (amount, states, values)
    names: tuple[str, ...]
    switches: tuple[sympy.Expr, ...]


class Truth(NamedTuple):
    """What scipy found: status "ok", "ends" (explodes before the last visit) or "none"."""

    status: str
    observed: np.ndarray
    largest: np.ndarray


def _hill(x, ec50, n):
    return 1 / (1 + (ec50 / x) ** n) if x > 0 else np.float64(0.0)


FUNCTIONS: dict[str, Callable] = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "expit": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0, x), "maximum": np.maximum,
    "minimum": np.minimum, "hill": _hill,
    "re": lambda x: x, "im": lambda x: 0.0}  # sympy does not know that expit and others are real


def write_out(model) -> Written:
    """The model without the package's dynamics: named expressions put in, then `sympy.lambdify`."""
    from thymodel.documents.expressions import symbol

    put: dict = {}
    for name, expression in model.expressions.items():
        put[symbol(name)] = expression.xreplace(put)
    names = (*model.constants, *model.covariates, *model.parameters)
    t, states, values = symbol("t"), [symbol(s) for s in model.states], [symbol(n) for n in names]

    def function(arguments, expressions):
        return sympy.lambdify(arguments, [e.xreplace(put) for e in expressions], [FUNCTIONS, "math"], cse=True)

    def acts(item):
        amount = [symbol("amount"), states, values]
        return (function(amount, [item.multiply.get(s, sympy.Integer(1)) for s in model.states]),
                function(amount, [item.add.get(s, sympy.Integer(0)) for s in model.states]))

    rates = [s.rate.xreplace(put) for s in model.states.values()]
    return Written(function([t, states, values], rates),
                   function([t, states, values], [o.value for o in model.observables.values()]),
                   function([values], [s.initial for s in model.states.values()]),
                   {name: acts(item) for name, item in model.inputs.items()}, names, tuple(_switches(rates, t)))


def _switches(rates: Sequence[sympy.Expr], t: sympy.Symbol) -> Iterator[sympy.Expr]:
    """Times at which a condition on t alone changes, in terms of parameters and constants: t/tau < c at tau*c."""
    for condition in {c for rate in rates for c in rate.atoms(sympy.core.relational.Relational)}:
        per_time = condition.lhs / t
        if t not in per_time.free_symbols | condition.rhs.free_symbols:
            yield condition.rhs / per_time


def solve_reference(model, written: Written, person: Person, values: Mapping[str, float],
                    tolerance: tuple[float, float] = TIGHT, methods: Sequence[str] = ("LSODA", "Radau"),
                    longest: float = np.inf) -> Truth:
    """One subject by scipy, from one dose, switch or covariate change to the next.

    Args:
        values: the subject's parameters and the model's constants by name.
        longest: step allowed, as a part of the course.
    """
    from thymodel.documents.expressions import symbol

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = {symbol(name): value for name, value in values.items()}
        switches = [float(s.xreplace(known)) for s in written.switches]
        stops = _stops(person, switches, model.start)
        rows = {}
        largest = np.zeros(len(model.observables))
        y = np.array(written.initial(_vector(written, values, person, model.start, "after")), float)
        for t0, t1 in zip(stops[:-1], stops[1:], strict=True):
            if t0 in person.visits:  # before what happens there
                before = _vector(written, values, person, t0, "before")
                rows[t0] = np.array(written.observe(t0, y, before), float)
            y = _jump(written, values, person, t0, y)
            vector = _vector(written, values, person, t0, "after")
            inflow = _inflow(written, person, t0, t1, y, vector)
            times = np.linspace(t0, t1, 9)
            status, ys = _march(written, vector, inflow, times, y, tolerance, methods, longest * (stops[-1] - stops[0]))
            if status != "ok":
                return Truth(status, np.full((len(person.visits), len(largest)), np.nan), largest)
            seen = np.array([written.observe(t, state, vector) for t, state in zip(times, ys, strict=True)], float)
            largest, y = np.fmax(largest, np.abs(seen).max(axis=0)), ys[-1]
        last = stops[-1]
        rows[last] = np.array(written.observe(last, y, _vector(written, values, person, last, "before")), float)
        observed = np.array([rows[v] for v in person.visits])
    if not np.isfinite(observed).all():
        return Truth("ends", observed, largest)
    return Truth("ok", observed, np.fmax(largest, np.abs(observed).max(axis=0)))


def _stops(person: Person, switches: Sequence[float], start: float) -> list[float]:
    last = max(person.visits)
    times = {start, last, *person.visits, *(when for when, _ in person.course), *switches}
    times |= {when + part for when, _, _, duration in person.doses for part in (0.0, duration)}
    return sorted(when for when in times if start <= when <= last)


def _vector(written: Written, values: Mapping[str, float], person: Person, t: float, side: str) -> list[np.float64]:
    """Values in the order of `names`; a covariate changes at its time, after the dose and the visit there."""
    held = [v for when, v in person.course if when < t or (side == "after" and when <= t)]
    return [np.float64({**values, "z": held[-1] if held else person.course[0][1]}[name]) for name in written.names]


def _jump(written: Written, values, person: Person, t: float, y: np.ndarray) -> np.ndarray:
    vector = _vector(written, values, person, t, "before")
    for when, name, amount, duration in person.doses:
        if when == t and duration == 0:
            factor, increment = written.inputs[name]
            args = np.float64(amount), list(y), vector
            y = y * np.array(factor(*args), float) + np.array(increment(*args), float)
    return y


def _inflow(written: Written, person: Person, t0: float, t1: float, y: np.ndarray, vector) -> np.ndarray:
    total = np.zeros(len(y))
    for when, name, amount, duration in person.doses:
        if duration > 0 and when <= t0 and t1 <= when + duration:
            args = np.float64(amount / duration), list(np.zeros(len(y))), vector
            total += np.array(written.inputs[name][1](*args), float)
    return total


class _TooLong(Exception):
    pass


def _march(written: Written, vector, inflow, times, y, tolerance, methods, longest) -> tuple[str, np.ndarray]:
    """States at `times`, or why not."""
    for method in methods:
        count, last = 0, y

        def field(t, state):
            nonlocal count, last
            count += 1
            if count > MOST_EVALUATIONS:
                raise _TooLong
            last = state
            return np.array(written.rate(np.float64(t), list(state), vector), float) + inflow

        with contextlib.suppress(_TooLong, ValueError, ZeroDivisionError, OverflowError, TypeError):
            found = solve_ivp(field, (times[0], times[-1]), y, method=method, t_eval=times, rtol=tolerance[0],
                              atol=tolerance[1], max_step=longest)
            if found.success and np.isfinite(found.y).all():
                return "ok", found.y.T
        if not np.abs(last).max() < HUGE * (1 + np.abs(y).max()):
            return "ends", np.array([])
    return "none", np.array([])


# --- the kernel ------------------------------------------------------------------------------------------------


class HandedOver(Exception):
    """`prepare` would use the adaptive solver; the reason is the argument."""


def prepared(model, case: Case, self_test: bool):
    """The solver as a fit prepares it, for every subject once a set of values; without the kernel's self-test unless
    asked, which is seconds of compilation a model.

    Raises:
        HandedOver: the native kernel is not used, and says so.
    """
    import jax
    import jax.numpy as jnp

    from thymodel.documents.regimen import Dose
    from thymodel.dynamics import kernel, solving

    observables = tuple(model.observables)
    if not self_test:
        with contextlib.suppress(Exception):  # `prepare` meets it again, and says so
            solving._tested[model.digest, observables] = (kernel.compile_model(model, observables), "")
    plans = [solving.plan(model, [Dose(*dose) for dose in p.doses], {"z": p.course}, p.visits) for p in case.persons]
    schedule = jax.tree.map(jnp.asarray, solving.stack(plans * len(SETS)))
    typical, shown = (everyone(case, [name] * len(SETS)) for name in SETS[:2])

    def handed_over(*args):
        raise HandedOver(args[-1])

    with mock.patch.object(solving, "_prepare_jax", handed_over):
        return solving.prepare(model, typical, schedule, observables,
                               draws={name: value[None] for name, value in shown.items()}, kind="native")


def everyone(case: Case, sets: Sequence[str] = SETS) -> dict[str, np.ndarray]:
    """Values of all subjects of a solver: those of the first set, then of the second ..."""
    return {name: np.concatenate([case.values[key][name] for key in sets]) for name in case.values[SETS[0]]}


def kernel_answer(solver, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observables, failed, and largest embedded error of a step in units of the grid's tolerance, a subject each."""
    from thymodel.dynamics import kernel, solving

    observed, failed = solving.solve_many(solver, values)
    _, error = kernel.native_solve(solver.native, values, solver.tables.grid)
    return np.asarray(observed), np.asarray(failed), np.asarray(error)


# --- one model -------------------------------------------------------------------------------------------------


def examine(seed: int, number: int) -> dict[str, Any]:
    """What became of one model: `outcome`, and a row for every set and subject."""
    from thymodel.documents.model import parse_model
    from thymodel.errors import InputError

    case = make_case(seed, number)
    result: dict[str, Any] = {"number": number, "kind": case.kind, "rows": [], "text": ""}
    try:
        model = parse_model(case.text, "fuzz")
    except InputError as error:
        return result | {"outcome": "refused", "text": error.faults[0].what}
    try:
        solver = prepared(model, case, self_test=number % COMPILED_EVERY == 0)
    except HandedOver as reason:
        return result | {"outcome": "handed over", "text": f"{reason}; {_solvable(model, case)}"}
    except Exception as error:  # what it is, is the finding
        return result | {"outcome": "raised", "text": f"{type(error).__name__}: {error}"[:300]}
    written = write_out(model)
    rows = judge(model, case, solver, written)
    result |= {"outcome": "solved", "rows": rows, "steps": int(solver.tables.grid.rows.shape[1])}
    if number % GRADIENTS_EVERY == 0:
        good = {row["person"] for row in rows if row["set"] == SETS[1] and classify(row) == "agrees"}
        result["gradients"] = judge_gradients(model, case, solver, written, sorted(good))
    if number % COMPILED_EVERY == 0:
        result["compiled"] = judge_compiled(solver, case)
    return result


def _solvable(model, case: Case) -> str:
    written = write_out(model)
    good = [solve_reference(model, written, person, _person_values(model, case, SETS[0], k)).status == "ok"
            for k, person in enumerate(case.persons)]
    return "scipy solves it" if all(good) else "scipy does not solve it either"


def judge(model, case: Case, solver, written: Written) -> list[dict[str, Any]]:
    """The kernel's answers beside the reference's, a row for every set and subject."""
    rows, count = [], len(case.persons)
    observed, failed, error = kernel_answer(solver, everyone(case))
    for number, name in enumerate(SETS):
        truths = [solve_reference(model, written, person, _person_values(model, case, name, k))
                  for k, person in enumerate(case.persons)]
        overall = np.max([t.largest for t in truths if t.status == "ok"], axis=0, initial=0)
        for k, truth in enumerate(truths):
            here = number * count + k
            found = observed[here, : len(case.persons[k].visits)]
            off = disagreement(found, truth, overall)
            row = {"set": name, "person": k, "status": truth.status, "failed": bool(failed[here]), "off": off,
                   "error": float(error[here])}
            rows.append(row | _second_look(model, case, written, row, found, overall))
    return rows


def _person_values(model, case: Case, name: str, k: int) -> dict[str, float]:
    constants = {key: constant.value for key, constant in model.constants.items()}
    return constants | {key: float(value[k]) for key, value in case.values[name].items()}


def disagreement(found: np.ndarray, truth: Truth, overall: np.ndarray) -> float:
    """Largest over visits and observables, as a part of the observable's largest value over the subject's course."""
    if truth.status == "ends":
        return float("inf")
    scale = truth.largest + FLOOR * overall
    return float(np.max(np.abs(found - truth.observed) / np.where(scale > 0, scale, 1e-9)))


def classify(row: Mapping[str, Any]) -> str:
    """What a case counts as; see `MEANING`."""
    if row["failed"]:
        return {"ok": "marked", "ends": "rightly marked", "none": "marked, no reference"}[row["status"]]
    if row["status"] == "none" or not row.get("confirmed", True):
        return "no reference"
    if row["off"] <= TOLERANCE:
        return "agrees"
    if row["error"] > 1:
        return "estimated"
    if row["usual"] > TOLERANCE:
        return "hard"
    return "near" if row["off"] <= NEAR else "silent"


def _second_look(model, case: Case, written: Written, row, found: np.ndarray, overall) -> dict[str, Any]:
    """Of a silent disagreement: does another method confirm the reference, and how far off is scipy as asked?"""
    if row["failed"] or row["status"] == "none" or row["off"] <= TOLERANCE or row["error"] > 1:
        return {}
    person, values = case.persons[row["person"]], _person_values(model, case, row["set"], row["person"])
    second = solve_reference(model, written, person, values, (1e-9, 1e-14), ("Radau", "DOP853"), 1 / 300)
    off = disagreement(found, second, overall) if second.status != "none" else float("nan")
    plain = solve_reference(model, written, person, values, ASKED)
    truth = solve_reference(model, written, person, values)
    usual = disagreement(plain.observed, truth, overall) if plain.status == truth.status == "ok" else float("nan")
    return {"confirmed": off == row["off"] or abs(off - row["off"]) <= 0.3 * row["off"], "usual": usual}


# --- gradients -------------------------------------------------------------------------------------------------


def judge_gradients(model, case: Case, solver, written: Written, persons: Sequence[int]) -> list[dict[str, Any]]:
    """The adjoint along one direction of log parameters, for one random cotangent, against two differences, at the
    values that `prepare` was shown.

    "own": central difference of the kernel itself on the same steps; "off": of scipy.
    """
    rng, count = np.random.default_rng([case.number, 7]), len(case.persons)
    values = everyone(case, [SETS[1]] * len(SETS))
    direction = {name: np.tile(rng.normal(size=count), len(SETS)) for name in values}
    visits = max(len(p.visits) for p in case.persons)
    weights = rng.normal(size=(count, visits, len(model.observables)))
    weights *= np.array([np.arange(visits) < len(p.visits) for p in case.persons])[:, :, None]
    weights = np.tile(weights, (len(SETS), 1, 1))
    slopes = kernel_gradient(solver, values, weights)
    along = sum(slopes[name] * values[name] * direction[name] for name in values)
    own = _own_difference(solver, values, direction, weights, along)
    return [{"person": k, "slope": float(along[k]), "own": float(own[k]),
             "off": _off_scipy(model, case, written, values, direction, weights[k], k, float(along[k]))}
            for k in persons]


def _loss(solver, weights) -> Callable:
    import jax.numpy as jnp

    from thymodel.dynamics import solving

    return lambda known: jnp.sum(solving.solve_many(solver, known)[0] * weights)


def kernel_gradient(solver, values, weights) -> dict[str, np.ndarray]:
    """The adjoint of a weighted sum of observables, by parameter and subject."""
    import jax
    import jax.numpy as jnp

    slopes = jax.grad(_loss(solver, weights))({name: jnp.asarray(v) for name, v in values.items()})
    return {name: np.asarray(slope) for name, slope in slopes.items()}


def _moved(values, direction, step: float) -> dict[str, np.ndarray]:
    return {name: value * np.exp(step * direction[name]) for name, value in values.items()}


def _own_difference(solver, values, direction, weights, along: np.ndarray) -> np.ndarray:
    """Two step lengths, the closer one counts: kinks spoil the long one, rounding the short one."""
    found = []
    for step in (1e-4, 1e-6):
        up, down = (kernel_answer(solver, _moved(values, direction, s))[0] for s in (step, -step))
        slopes = weights * (up - down) / (2 * step)
        size = np.abs(slopes).sum(axis=(1, 2)) + TOLERANCE * np.abs(weights * up).sum(axis=(1, 2)) + 1e-300
        found.append(np.abs(along - slopes.sum(axis=(1, 2))) / size)
    return np.min(found, axis=0)


def _off_scipy(model, case: Case, written: Written, values, direction, weights, k: int, along: float) -> float:
    """NaN where two step lengths of scipy's difference disagree, or a solve failed."""
    person, found = case.persons[k], []
    constants = {key: c.value for key, c in model.constants.items()}
    for step in (1e-3, 1e-4):
        pair = [solve_reference(model, written, person, constants | {
            name: float(v[k]) for name, v in _moved(values, direction, moved).items()}) for moved in (step, -step)]
        if any(truth.status != "ok" for truth in pair):
            return float("nan")
        inside = weights[: len(person.visits)]
        slopes = inside * (pair[0].observed - pair[1].observed) / (2 * step)
        size = np.abs(slopes).sum() + TOLERANCE / GRADIENT_TOLERANCE * np.abs(inside * pair[0].largest).sum()
        found.append((slopes.sum(), max(size, 1e-300)))
    if abs(found[0][0] - found[1][0]) > 0.3 * GRADIENT_TOLERANCE * found[1][1]:
        return float("nan")
    return float(abs(along - found[1][0]) / found[1][1])


def judge_compiled(solver, case: Case) -> dict[str, float]:
    """The same values and gradient through `jax.jit`, as a sampler calls them: largest relative difference."""
    import jax

    values = {name: jax.numpy.asarray(v) for name, v in everyone(case).items()}
    weights = np.ones((1, 1, 1))
    value, slopes = jax.jit(jax.value_and_grad(_loss(solver, weights)))(values)
    plain, plain_slopes = _loss(solver, weights)(values), kernel_gradient(solver, values, weights)
    largest = max(float(np.nanmax(np.abs(s), initial=0)) for s in plain_slopes.values())
    differs = max(float(np.nanmax(np.abs(np.asarray(slopes[n]) - plain_slopes[n]), initial=0)) for n in slopes)
    return {"value": _relative(float(value), float(plain)), "slope": differs / largest if largest else differs}


def _relative(a: float, b: float) -> float:
    return 0.0 if a == b or (a != a and b != b) else abs(a - b) / (abs(b) + 1e-300)


# --- all models ------------------------------------------------------------------------------------------------


def run_batch(seed: int, numbers: Sequence[int], work: Path) -> None:
    """Examines models in this process; a file a model, begun before it and finished after it."""
    faulthandler.register(signal.SIGXCPU, chain=True)
    for number in numbers:
        begun, done = work / f"{number}.begun", work / f"{number}.json"
        begun.touch()
        start = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(start) + SECONDS, resource.RLIM_INFINITY))
        result = examine(seed, number)
        done.write_text(json.dumps(result | {"seconds": time.process_time() - start}))
        begun.unlink()


def examine_all(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Every model's result, from `work` where it is there already; a process that dies takes one model with it."""
    work.mkdir(parents=True, exist_ok=True)
    asked, note = {"seed": args.seed, "version": _software()}, work / "asked.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        raise SystemExit(f"{work}: made with {note.read_text()}, now {json.dumps(asked)}. hint: use another --work")
    note.write_text(json.dumps(asked))
    while todo := [n for n in range(args.models) if not (work / f"{n}.json").exists()]:
        words = [sys.executable, __file__, "--seed", str(args.seed), "--work", str(work), "--batch"]
        # its own cache, so that the kernels of a thousand models do not stay in the user's
        child = subprocess.run([*words, *map(str, todo[:BATCH])], capture_output=True, text=True,
                               env={**os.environ, "XDG_CACHE_HOME": str(work / "cache"), "JAX_PLATFORMS": "cpu"})
        for begun in work.glob("*.begun"):
            outcome = {-signal.SIGXCPU: "hang"}.get(child.returncode, "crash" if child.returncode < 0 else "raised")
            result = {"number": int(begun.stem), "kind": make_case(args.seed, int(begun.stem)).kind, "rows": [],
                      "outcome": outcome, "text": f"exit {child.returncode}: {child.stderr[-400:]}", "seconds": 0.0}
            (work / f"{begun.stem}.json").write_text(json.dumps(result))
            begun.unlink()
        left = [n for n in todo if not (work / f"{n}.json").exists()]
        if len(left) == len(todo):
            raise SystemExit(f"a batch did nothing (exit {child.returncode}): {child.stderr[-2000:]}")
        print(f"{args.models - len(left)} of {args.models} models", flush=True)
    return [json.loads((work / f"{n}.json").read_text()) for n in range(args.models)]


# --- report ----------------------------------------------------------------------------------------------------

MEANING = {
    "agrees": "within the tolerance",
    "rightly marked": "NaN, and the solution ends (explodes, or leaves what floating point holds)",
    "marked": "NaN, though the reference has a solution: a false alarm",
    "near": "off in silence by at most 1e-3",
    "estimated": "off; the kernel's error estimate says that a step missed the tolerance of its grid, but is below the "
                 "threshold for NaN (3000): a sampler takes the value",
    "hard": "off in silence, beyond 1e-4; scipy at rtol 1e-6 and atol 1e-9 is so too",
    "silent": "**off in silence** by more than 1e-3",
    "no reference": "scipy failed, or two of its methods disagree",
    "marked, no reference": "NaN, and scipy failed as well"}

MOST_LISTED = {"silent": None, "hard": 15, "near": 15, "estimated": 15}


def report(args: argparse.Namespace, results: Sequence[dict[str, Any]]) -> str:
    """The Markdown report."""
    rows = [row | {"number": r["number"], "kind": r["kind"], "class": classify(row)}
            for r in results for row in r["rows"]]
    lines = ["# Random models: the native kernel against scipy", "",
             "Made by `qualification/fuzz_kernel.py`; do not edit.", "", f"    {_command(args)}", "",
             f"- {_software()}",
             f"- {_processor()}, {os.cpu_count()} cores, {platform.platform()}; {time.strftime('%Y-%m-%d')}",
             f"- {sum(r['seconds'] for r in results) / 60:.0f} minutes of one core in all, without the start of "
             "processes", "",
             *_introduction(), *_outcomes(results), *_classes(rows), *_disagreements(rows), *_gradients(results),
             *_compiled(results)]
    return "\n".join(lines) + "\n"


def _command(args: argparse.Namespace) -> str:
    return shlex.join(["python", "qualification/fuzz_kernel.py", "--models", str(args.models), "--seed", str(args.seed),
                       "--out", str(args.out)])


def _software() -> str:
    import jax
    import llvmlite
    import scipy

    import thymodel

    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=Path(__file__).parent,
                            capture_output=True, text=True)
    return (f"thymodel {thymodel.__version__} (commit {commit.stdout.strip() or 'unknown'}), "
            f"Python {platform.python_version()}, JAX {jax.__version__}, llvmlite {llvmlite.__version__}, "
            f"NumPy {np.__version__}, SciPy {scipy.__version__}")


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _introduction() -> list[str]:
    return [
        f"Each model is solved for three subjects at four sets of parameter values: typical, one that `prepare` was "
        f"shown, two that it was not (spread 0.3 on the log scale). Kernel: `solving.prepare(kind=\"native\")`, then "
        f"`solving.solve_many`, at rtol {ASKED[0]:g} and atol {ASKED[1]:g}; called eagerly and without its self-test, "
        f"except for every {COMPILED_EVERY}th model, to save compilation. Reference: scipy's LSODA, then Radau, at "
        f"rtol {TIGHT[0]:g}, from one dose, covariate change or switch in time to the next; what is off in silence "
        "counts only if Radau or DOP853 with 300 steps or more confirms the reference.", "",
        "**Off** is the largest difference over visits and observables, as a part of the observable's largest value "
        f"over the subject's course (plus {FLOOR:g} of its largest in any subject: atol/rtol). A case agrees if this "
        f"is at most {TOLERANCE:g}: {FACTOR} times the rtol asked for, and the local tolerance that the kernel's grid "
        "is made for. The kernel's error estimate is in units of that. Beyond 1 it counts as a report here, though the "
        "package itself acts (NaN) only on a step wrong by a third of the state (3000).", ""]


def _outcomes(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["## Models", "", "| outcome | models | what it said |", "|---|---|---|"]
    for (outcome, text), count in Counter((r["outcome"], _kind_of_text(r["text"])) for r in results).most_common():
        lines.append(f"| {outcome} | {count} | {text} |")
    kinds = Counter(r["kind"] for r in results)
    return [*lines, "", "Kinds: " + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS) + ".", ""]


def _kind_of_text(text: str) -> str:
    """Numbers and names taken out, so that like falls to like."""
    return " ".join(re.sub(r"[-\d.]+(e[-+]?\d+)?|'[^']*'", "…", text).replace("|", "/").split())[:150]


def _classes(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["## Cases: a model, a set of values, a subject", "",
             "| class | " + " | ".join(SETS) + " | all | meaning |", "|---" * (len(SETS) + 3) + "|"]
    for name, meaning in MEANING.items():
        counts = [sum(r["class"] == name and r["set"] == s for r in rows) for s in SETS]
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + f" | {sum(counts)} | {meaning} |")
    off = np.array([r["off"] for r in rows if r["class"] == "agrees"])
    parts = ", ".join(f"{np.quantile(off, q):.1e} ({q:.0%})" for q in (0.5, 0.9, 0.99)) if len(off) else "none"
    alarms = sorted({r["number"] for r in rows if r["class"] == "marked"})
    return [*lines, "", f"{len(rows)} cases. Quantiles of off among those that agree: {parts}. Models with a false "
            f"alarm: {', '.join(map(str, alarms)) or 'none'}.", ""]


def _disagreements(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines, edges = ["## Disagreements", ""], (0, 1e-3, 1e-2, 0.1, np.inf)
    for name in ("silent", "hard", "near", "estimated"):
        found = sorted((r for r in rows if r["class"] == name), key=lambda r: -r["off"])
        bins = [sum(low < r["off"] <= high for r in found) for low, high in zip(edges[:-1], edges[1:], strict=True)]
        lines += [f"### {name}: {len(found)} cases of {len({r['number'] for r in found})} models", "",
                  f"off up to 1e-3: {bins[0]}, up to 1e-2: {bins[1]}, up to 0.1: {bins[2]}, beyond: {bins[3]}", ""]
        if found:
            lines += ["| model | kind | set | subject | off | error estimate | scipy as asked |", "|---" * 7 + "|"]
        lines += [f"| {r['number']} | {r['kind']} | {r['set']} | {r['person'] + 1} | {r['off']:.1e} | "
                  f"{r['error']:.2g} | {r.get('usual', np.nan):.1e} |" for r in found[: MOST_LISTED[name]]]
        lines.append("")
    return lines


def _gradients(results: Sequence[dict[str, Any]]) -> list[str]:
    rows = [row | {"number": r["number"], "kind": r["kind"]} for r in results for row in r.get("gradients", ())]
    known = [row for row in rows if np.isfinite(row["off"])]
    wrong = [row for row in known if not row["off"] <= GRADIENT_TOLERANCE]
    own = [row for row in rows if not row["own"] <= 1e-4]
    lines = ["## Gradients", "", f"One direction of log parameters, one random cotangent, for {len(rows)} cases of "
             f"{len({r['number'] for r in rows})} models whose values agree. {len(rows) - len(known)} without a "
             "reference (the two step lengths of scipy's difference disagree, or a solve failed).", "",
             f"- off scipy's difference by more than {GRADIENT_TOLERANCE:g} of the terms' sizes: {len(wrong)} of "
             f"{len(known)}",
             f"- off the kernel's own difference on the same steps by more than 1e-4: {len(own)} of {len(rows)}", ""]
    listed = {(row["number"], row["person"]): row for row in [*wrong, *own]}
    if listed:
        lines += ["| model | kind | subject | off scipy's | off its own |", "|---|---|---|---|---|"]
    return lines + [f"| {r['number']} | {r['kind']} | {r['person'] + 1} | {r['off']:.1e} | {r['own']:.1e} |"
                    for r in sorted(listed.values(), key=lambda r: -r["off"])] + [""]


def _compiled(results: Sequence[dict[str, Any]]) -> list[str]:
    found = [r["compiled"] for r in results if "compiled" in r]
    worst = {key: max((f[key] for f in found), default=0.0) for key in ("value", "slope")}
    return ["## Through `jax.jit`", "", f"{len(found)} models with their self-test, values and gradient compiled: "
            f"largest relative difference from the eager call {worst['value']:.1e} (value), {worst['slope']:.1e} "
            "(gradient).", ""]


def main(words: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("qualification/fuzz_kernel.md"))
    parser.add_argument("--work", type=Path, help="keep results here, and go on from them")
    parser.add_argument("--batch", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.batch:
        return run_batch(args.seed, args.batch, args.work)
    with tempfile.TemporaryDirectory() as scratch:
        args.out.write_text(report(args, examine_all(args, args.work or Path(scratch))))


if __name__ == "__main__":
    sys.exit(main())
