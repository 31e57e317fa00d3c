"""What feeds what in a model, read off the symbolic rates: the arrows of a schematic, and the chains of equal stages.

A flow from one state to another is a positive term in the other's rate that has the first one as a factor. What only
sets the pace of a rate (IL-7, epithelium, a sum of pools that is sensed) is an influence, no flow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import sympy

from thymodel.documents.expressions import symbol
from thymodel.documents.model import Model, static_expressions
from thymodel.dynamics.symbolic import inlined_rates

_MOST_FACTORS = 5_000  # terms of one rate written out; past that a rate is an influence of all its states


@dataclass(frozen=True)
class Flows:
    """`flows`: (from, to). `influences`: (which, whose rate), for pairs that no flow joins."""

    flows: tuple[tuple[str, str], ...]
    influences: tuple[tuple[str, str], ...]


def flows(model: Model) -> Flows:
    """Flows and influences between the states of a model."""
    candidates = {state: _feeders(model, state) for state in model.states}
    linked = {(source, target) for target, sources in candidates.items() for source in sources}
    kept = {(source, target) for target, sources in candidates.items()
            for source in _without_sensed(model, target, sources, linked)}
    order = {name: k for k, name in enumerate(model.states)}
    rates = dict(zip(model.states, inlined_rates(model), strict=True))
    names = {state: {s.name for s in rate.free_symbols} & set(model.states) for state, rate in rates.items()}
    kept -= {(source, target) for source, target in kept
             if model.states[source].unit != model.states[target].unit
             and _sets_the_pace(model, source, kept, names)}
    influences = {(source, target) for target, sources in names.items() for source in sources
                  if source != target and (source, target) not in kept}
    place = lambda pair: (order[pair[0]], order[pair[1]])  # noqa: E731
    return Flows(tuple(sorted(kept, key=place)), tuple(sorted(influences, key=place)))


def _sets_the_pace(model: Model, source: str, kept: set[tuple[str, str]], names: dict[str, set[str]]) -> bool:
    """Whether nothing flows or is dosed into a state that other rates depend on beside those it would feed."""
    entered = any(target == source for _, target in kept) or any(source in item.add for item in model.inputs.values())
    fed = {target for other, target in kept if other == source}
    return not entered and any(source in used for target, used in names.items() if target not in fed | {source})


def _feeders(model: Model, target: str) -> set[str]:
    """States of which a positive term of a rate is a multiple; of several, those in the target's own unit."""
    found: set[str] = set()
    for negative, factors in _terms(model, model.states[target].rate):
        carriers = [s for s in model.states if symbol(s) in factors]
        if negative or target in carriers:
            continue
        same = [s for s in carriers if model.states[s].unit == model.states[target].unit]
        found |= set(same or carriers)
    senses = {s for s in found if _is_sensed(model, target, s)}
    return found - senses


def _is_sensed(model: Model, target: str, source: str) -> bool:
    """Whether the target only follows a level that the source sets: the same factor also stands with the target in it.

    Such a rate is k*(level - target): what the level consists of is sensed, nothing moves.
    """
    taken = [factors - {symbol(target)} for negative, factors in _terms(model, model.states[target].rate)
             if negative and symbol(target) in factors]
    return any(symbol(source) in factors for factors in taken)


def _without_sensed(model: Model, target: str, sources: set[str], linked: set[tuple[str, str]]) -> set[str]:
    """Sources less those of another unit that feed each other: a rate that adds up successive stages senses them."""
    unit = model.states[target].unit
    other = {s for s in sources if model.states[s].unit != unit}
    return {s for s in sources
            if s not in other or not any((s, o) in linked or (o, s) in linked for o in other - {s})}


def _terms(model: Model, expression: sympy.Expr) -> Iterator[tuple[bool, frozenset[sympy.Basic]]]:
    """The rate as a sum of products, named expressions written out where they are sums or products:
    (negative, factors)."""
    static = static_expressions(model)
    named = {symbol(name): value for name, value in model.expressions.items() if name not in static}

    def products(node: sympy.Basic) -> list[tuple[bool, tuple[sympy.Basic, ...]]]:
        if isinstance(node, sympy.Add):
            return [item for arg in node.args for item in products(arg)]
        if isinstance(node, sympy.Mul):
            return reduce(_cross, (products(arg) for arg in node.args))
        if node in named and isinstance(named[node], sympy.Add | sympy.Mul | sympy.Symbol):
            return products(named[node])
        if isinstance(node, sympy.Pow) and node.exp.is_Integer and node.exp > 1:
            return products(node.base)
        if node.is_number:
            return [(bool(node < 0), ())]
        return [(False, (node,))]

    for negative, factors in products(expression):
        yield negative, frozenset(factors)


def _cross(left, right):
    if len(left) * len(right) > _MOST_FACTORS:
        return []
    return [(a ^ b, (*first, *second)) for a, first in left for b, second in right]


@dataclass(frozen=True)
class Chain:
    """States D1, D2, ... whose rates are one rate with the index moved on; `stem` is their common name."""

    stem: str
    members: tuple[str, ...]


def chains(model: Model) -> list[Chain]:
    """Runs of at least three states whose second and later rates are alike."""
    found = []
    for first in model.states:
        if first.endswith("1"):
            stem = first[:-1]
            members = [first]
            while f"{stem}{len(members) + 1}" in model.states:
                members.append(f"{stem}{len(members) + 1}")
            if len(members) >= 3 and _alike(model, stem, members):
                found.append(Chain(stem, tuple(members)))
    return found


def _alike(model: Model, stem: str, members: list[str]) -> bool:
    generic = {stage_rate(model, stem, j) for j in range(2, len(members) + 1)}
    return len(generic) == 1 and len({model.states[m].initial for m in members}) == 1


def stage_rate(model: Model, stem: str, j: int) -> sympy.Expr:
    """The rate of stage j of a chain in the names `stem[j]` and `stem[j-1]`."""
    return model.states[f"{stem}{j}"].rate.xreplace(
        {symbol(f"{stem}{j}"): symbol(f"{stem}[j]"), symbol(f"{stem}{j - 1}"): symbol(f"{stem}[j-1]")})
