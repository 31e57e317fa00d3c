"""The model document, checked: what a reviewer reads becomes frozen sympy expressions that balance.

A model says states, inputs, observables and parameters with sources. It does not say which parameters are estimated,
what varies between subjects, or how the solver works; the fit spec does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated

import pydantic
import sympy

from thymodel.documents import expressions, priors, units
from thymodel.documents.cards import card
from thymodel.documents.expressions import parse_expression
from thymodel.documents.limits import LONGEST_CHAIN, MOST_EXPRESSION_TEXT, MOST_NAMES, MOST_STATES
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.documents.units import DIMENSIONLESS, Unit
from thymodel.errors import Fault, InputError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_SHIPPED = Path(__file__).parent.parent / "models"
_CHECKOUT = Path(__file__).parent.parent.parent / "models"


# --- the document as written ---------------------------------------------------------------------------------

Number = Annotated[float, pydantic.Strict(False), pydantic.Field(allow_inf_nan=False)]
Text = Annotated[str, pydantic.Field(min_length=1, max_length=20_000)]


class ConstantTable(Table):
    unit: str
    value: Number
    source: Text
    label: str = ""


class CovariateTable(Table):
    unit: str
    value: Number
    source: Text
    label: str = ""


class ParameterTable(Table):
    unit: str
    value: Number
    source: Text
    verified: bool = False
    prior: str | None = None
    label: str = ""


class StateTable(Table):
    unit: str
    initial: str
    label: str = ""
    rate: str | None = None
    chain: int | str | None = None
    inflow: str | None = None
    transfer: str | None = None
    gain: str | None = None


class ScheduledTable(Table):
    time: Number
    amount: Number = 1.0


class InputTable(Table):
    unit: str
    add: dict[str, str] = {}
    multiply: dict[str, str] = {}
    scheduled: list[ScheduledTable] = []
    label: str = ""
    source: str = ""


class ObservableTable(Table):
    """`healthy` is the value in a healthy subject with the same covariates, `highest` the most that is thought
    possible at any age: expressions of parameters, constants and covariates."""

    unit: str
    value: str
    label: str = ""
    healthy: str | None = None
    highest: str | None = None


class AssumptionTable(Table):
    """What the equations take for granted; `affects` names what would change with it."""

    text: Text
    affects: list[str] = pydantic.Field(min_length=1)
    source: str = ""


class ModelDocument(Table):
    title: Text
    description: Text
    time: str = "day"
    start: Number = 0.0
    constants: dict[str, ConstantTable] = {}
    covariates: dict[str, CovariateTable] = {}
    parameters: dict[str, ParameterTable] = {}
    expressions: dict[str, str] = {}
    states: dict[str, StateTable]
    inputs: dict[str, InputTable] = {}
    observables: dict[str, ObservableTable]
    assumptions: dict[str, AssumptionTable] = {}


# --- the model as used ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    unit: str
    value: float
    label: str
    source: str


@dataclass(frozen=True)
class Covariate:
    unit: str
    value: float
    label: str
    source: str


@dataclass(frozen=True)
class Parameter:
    """`prior` is None for a parameter that the model holds fixed."""

    unit: str
    value: float
    prior: priors.Prior | None
    label: str
    source: str
    verified: bool


@dataclass(frozen=True)
class State:
    unit: str
    label: str
    initial: sympy.Expr
    rate: sympy.Expr


@dataclass(frozen=True)
class Input:
    """What a dose record does at its time: `state += add`, `state *= multiply`; both may use `amount`.

    `scheduled` are doses (time, amount) that belong to the model: every subject gets them, whatever the data say.
    """

    unit: str
    label: str
    source: str
    add: Mapping[str, sympy.Expr]
    multiply: Mapping[str, sympy.Expr]
    scheduled: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Observable:
    """`healthy` and `highest` are None where the document does not say them."""

    unit: str
    label: str
    value: sympy.Expr
    healthy: sympy.Expr | None = None
    highest: sympy.Expr | None = None


@dataclass(frozen=True)
class Assumption:
    """A statement that the equations rest on and no number of the model can say; nothing is computed from it."""

    text: str
    affects: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Model:
    """A checked model. `expressions` are in an order in which each uses only earlier ones; `added` is what a fit spec
    put into the equations beside the document (see `extension`), in words that tell one such model from another, and
    `switches` are covariates of these equations whose course, (time, value) and so on, is the same for everybody."""

    name: str
    title: str
    description: str
    time: str
    start: float
    digest: str
    text: str
    constants: Mapping[str, Constant]
    covariates: Mapping[str, Covariate]
    parameters: Mapping[str, Parameter]
    expressions: Mapping[str, sympy.Expr]
    states: Mapping[str, State]
    inputs: Mapping[str, Input]
    observables: Mapping[str, Observable]
    chain_lengths: frozenset[str]  # fixed parameters that say how many states a chain has: no run may change them
    assumptions: Mapping[str, Assumption]
    added: str = ""
    switches: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        verified = sum(item.verified for item in self.parameters.values())
        rows = [{"observable": name, "unit": item.unit, "meaning": item.label} for name, item in
                self.observables.items()]
        return card(f"Model {self.name}: {self.title}", [
            self.description, f"{len(self.states)} states, {len(self.parameters)} parameters (of {verified} somebody "
            f"saw the value in its source), inputs {', '.join(self.inputs) or 'none'}, covariates "
            f"{', '.join(self.covariates) or 'none'}; time in {self.time}.",
            "thymodel.describe writes its equations, numbers and sources."], rows)


def shipped_models() -> dict[str, Path]:
    """Name -> file of the models that come with the package."""
    folder = _SHIPPED if _SHIPPED.is_dir() else _CHECKOUT
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_model(name_or_path: str | Path) -> Model:
    """A model by the name of a shipped one ("thymus_core") or by its path.

    Raises:
        InputError: no such model, or every fault of the file.
    """
    shipped = shipped_models()
    text = str(name_or_path)
    path = shipped.get(text, Path(text))
    try:
        there = path.exists()
    except (OSError, ValueError):  # longer than a name may be
        there = False
    if not there:
        known = ", ".join(shipped)
        raise InputError([Fault(text, "no such model", f"give a path to a .toml file, or one of: {known}")])
    return parse_model(read_text(path), path.name if text in shipped else text, name=path.stem)


def parse_model(text: str, where: str, name: str = "model") -> Model:
    """A model from its text; `where` opens each fault.

    Raises:
        InputError: every fault of the document.
    """
    document = parse_document(text, ModelDocument, where)
    draft = _Draft(document, where)
    model = _build(draft, name, text)
    if draft.faults:
        raise InputError(draft.faults)
    return model


class _Draft:
    """A document under examination: its names, and the faults found so far."""

    def __init__(self, document: ModelDocument, where: str):
        self.document, self.where = document, where
        self.faults: list[Fault] = []
        self.broken: set[str] = set()  # names whose meaning is unknown: no second fault about what uses them

    def fault(self, path: str, what: str, hint: str = "") -> None:
        self.faults.append(Fault(f"{self.where}: {path}", what, hint))

    def parse(self, path: str, text: str, names) -> sympy.Expr | None:
        try:
            return parse_expression(text, names)
        except ValueError as error:
            self.fault(path, str(error))
            return None


def _build(draft: _Draft, name: str, text: str) -> Model:
    document = draft.document
    _check_names(draft)
    parameters = {key: _parameter(draft, key, table) for key, table in document.parameters.items()}
    states = _expand_chains(draft)
    _check_size(draft, states)
    static_names = {*document.constants, *document.covariates, *parameters}
    named = _ordered_expressions(draft, static_names | set(states) | {"t"} | set(document.expressions))
    static = static_names | _without_state_or_time(named, set(states))
    everything = static_names | set(states) | {"t"} | set(named)
    built_states = {key: _state(draft, key, table, static, everything) for key, table in states.items()}
    model = Model(
        name=name, title=document.title, description=document.description, time=document.time,
        start=document.start, digest=digest(text), text=text,
        constants={key: Constant(c.unit, c.value, c.label, c.source) for key, c in document.constants.items()},
        covariates={key: Covariate(c.unit, c.value, c.label, c.source) for key, c in document.covariates.items()},
        parameters=parameters, expressions=named, states=built_states,
        inputs={key: _input(draft, key, table, static | set(states)) for key, table in document.inputs.items()},
        observables={key: _observable(draft, key, table, static, everything)
                     for key, table in document.observables.items()},
        chain_lengths=frozenset(t.chain for t in document.states.values() if isinstance(t.chain, str)),
        assumptions={key: _assumption(draft, key, table) for key, table in document.assumptions.items()},
    )
    _check_units(draft, model)
    return model


def _check_names(draft: _Draft) -> None:
    document = draft.document
    seen: dict[str, str] = {}
    sections = ("constants", "covariates", "parameters", "expressions", "states")
    for section in (*sections, "inputs", "observables"):
        for key in getattr(document, section):
            path = f"{section}.{key}"
            if not _NAME.match(key):
                draft.fault(path, "not a name", "use letters, digits and _, beginning with a letter")
            if key in expressions.RESERVED_NAMES and section in sections:
                draft.fault(path, f"'{key}' is a reserved word of the arithmetic", "rename it")
            if section in sections and key in seen:
                draft.fault(path, f"the name is also in [{seen[key]}]", "rename one of them")
            seen.setdefault(key, section)
    if not document.states:
        draft.fault("states", "a model needs at least one state")
    if not document.observables:
        draft.fault("observables", "a model needs at least one observable")
    _unit(draft, "time", document.time)


def _parameter(draft: _Draft, key: str, table: ParameterTable) -> Parameter:
    prior = None
    if table.prior is not None:
        try:
            prior = priors.parse_prior(table.prior)
            low, high = priors.support(prior)
            if not low < table.value < high:
                draft.fault(f"parameters.{key}.value",
                            f"{table.value:g} lies outside the support ({low:g}, {high:g}) of {prior}")
        except ValueError as error:
            draft.fault(f"parameters.{key}.prior", str(error))
    return Parameter(table.unit, table.value, prior, table.label, table.source, table.verified)


def _expand_chains(draft: _Draft) -> dict[str, StateTable]:
    states: dict[str, StateTable] = {}
    for key, table in draft.document.states.items():
        for name, expanded in _chain(draft, key, table):
            if name in states:
                draft.fault(f"states.{key}", f"the chain makes a second state '{name}'", "rename one of them")
            states[name] = expanded
        if len(states) > MOST_STATES:
            draft.fault("states", f"more than {MOST_STATES} states")
            raise InputError(draft.faults)
    return states


def _check_size(draft: _Draft, states: Mapping[str, StateTable]) -> None:
    """Before anything is parsed: what would take longer than seconds is refused.

    Raises:
        InputError: more names, or more arithmetic, than a model may have.
    """
    document = draft.document
    names = sum(len(getattr(document, section)) for section in ("constants", "covariates", "parameters", "expressions",
                                                                "inputs", "observables", "assumptions"))
    texts = [*document.expressions.values(), *(text for t in states.values() for text in (t.initial, t.rate or "")),
             *(text for t in document.observables.values() for text in (t.value, t.healthy or "", t.highest or "")),
             *(text for t in document.inputs.values() for text in (*t.add.values(), *t.multiply.values()))]
    if names > MOST_NAMES:
        draft.fault("parameters", f"{names} parameters and other names; at most {MOST_NAMES}")
    if sum(map(len, texts)) > MOST_EXPRESSION_TEXT:
        draft.fault("states", f"{sum(map(len, texts))} characters of arithmetic, chains written out; at most "
                    f"{MOST_EXPRESSION_TEXT}", "name what is repeated under [expressions]")
    if names > MOST_NAMES or sum(map(len, texts)) > MOST_EXPRESSION_TEXT:
        raise InputError(draft.faults)


def _chain(draft: _Draft, key: str, table: StateTable) -> Iterator[tuple[str, StateTable]]:
    path = f"states.{key}"
    if table.chain is None:
        if table.rate is None:
            draft.fault(f"{path}.rate", "missing", "add rate = \"...\", or make it a chain")
        for extra in ("inflow", "transfer", "gain"):
            if getattr(table, extra) is not None:
                draft.fault(f"{path}.{extra}", "only a chain has it", "add chain = N")
        yield key, table
        return
    if table.rate is not None:
        draft.fault(f"{path}.rate", "a chain has inflow and transfer instead of a rate")
    if table.inflow is None or table.transfer is None:
        draft.fault(path, "a chain needs inflow and transfer")
        return
    gain = f"({table.gain})*" if table.gain else ""
    for j in range(1, _chain_length(draft, path, table.chain) + 1):
        source = table.inflow if j == 1 else f"{gain}({table.transfer})*{key}{j - 1}"
        rate = f"({source}) - ({table.transfer})*{key}{j}"
        label = f"{table.label} (stage {j})" if table.label else ""
        yield f"{key}{j}", StateTable(unit=table.unit, initial=table.initial, label=label, rate=rate)


def _chain_length(draft: _Draft, path: str, chain: int | str) -> int:
    value: float = chain if isinstance(chain, int) else 0
    if isinstance(chain, str):
        fixed = {key: table.value for key, table in draft.document.constants.items()}
        fixed |= {key: table.value for key, table in draft.document.parameters.items() if table.prior is None}
        if chain not in fixed:
            draft.fault(f"{path}.chain", f"'{chain}' is not a constant or a fixed parameter of this model")
            return 1
        value = fixed[chain]
    if value != int(value) or not 1 <= value <= LONGEST_CHAIN:
        draft.fault(f"{path}.chain", f"{value:g} is not a whole number from 1 to {LONGEST_CHAIN}")
        return 1
    return int(value)


def _ordered_expressions(draft: _Draft, names: set[str]) -> dict[str, sympy.Expr]:
    parsed: dict[str, sympy.Expr] = {}
    for key, text in draft.document.expressions.items():
        value = draft.parse(f"expressions.{key}", text, names)
        if value is None:
            draft.broken.add(key)
        parsed[key] = value if value is not None else sympy.Integer(0)
    uses = {key: {s.name for s in _symbols(value)} & set(parsed) for key, value in parsed.items()}
    try:
        order = list(TopologicalSorter(uses).static_order())
    except CycleError as error:
        draft.fault(f"expressions.{error.args[1][0]}", "a cycle: " + " -> ".join(error.args[1]),
                    "one of them must not use the others")
        return {}
    return {key: parsed[key] for key in order}


def _symbols(expression: sympy.Basic) -> set[sympy.Symbol]:
    return {s for s in expression.free_symbols if isinstance(s, sympy.Symbol)}


def _without_state_or_time(named: Mapping[str, sympy.Expr], states: set[str]) -> set[str]:
    """Names of expressions that are constants of a subject: they use no state and no time, at any depth."""
    static: set[str] = set()
    for key, value in named.items():  # in order of use
        moving = {s.name for s in _symbols(value)} & (states | {"t"} | (set(named) - static))
        if not moving:
            static.add(key)
    return static


def static_expressions(model: Model) -> set[str]:
    """Names of the expressions that depend on parameters, constants and covariates only."""
    return _without_state_or_time(model.expressions, set(model.states))


def _state(draft: _Draft, key: str, table: StateTable, static: set[str], everything: set[str]) -> State:
    initial = draft.parse(f"states.{key}.initial", table.initial, static)
    rate = draft.parse(f"states.{key}.rate", table.rate or "0", everything)
    return State(table.unit, table.label, initial or sympy.Integer(0), rate or sympy.Integer(0))


def _input(draft: _Draft, key: str, table: InputTable, names: set[str]) -> Input:
    path = f"inputs.{key}"
    if not table.add and not table.multiply:
        draft.fault(path, "an input must add to a state or multiply one")
    effects: dict[str, dict[str, sympy.Expr]] = {"add": {}, "multiply": {}}
    for kind in effects:
        for state, text in getattr(table, kind).items():
            if state not in names or state not in _state_names(draft):
                draft.fault(f"{path}.{kind}.{state}", f"no such state{expressions.closest(state, _state_names(draft))}")
                continue
            value = draft.parse(f"{path}.{kind}.{state}", text, names | {"amount"})
            if value is not None:
                effects[kind][state] = value
    for k, item in enumerate(table.scheduled):
        if item.time < draft.document.start:
            draft.fault(f"{path}.scheduled.{k}.time", f"{item.time:g} lies before the model's start, "
                        f"{draft.document.start:g}")
    scheduled = tuple((item.time, item.amount) for item in table.scheduled)
    return Input(table.unit, table.label, table.source, effects["add"], effects["multiply"], scheduled)


def _observable(draft: _Draft, key: str, table: ObservableTable, static: set[str], everything: set[str]) -> Observable:
    path = f"observables.{key}"
    value = draft.parse(f"{path}.value", table.value, everything)
    if table.highest is not None and table.healthy is None:
        draft.fault(f"{path}.highest", "without the healthy value that it bounds", 'add healthy = "..."')
    healthy, highest = (None if text is None else draft.parse(f"{path}.{name}", text, static)
                        for name, text in (("healthy", table.healthy), ("highest", table.highest)))
    for name, found in (("healthy", healthy), ("highest", highest)):
        if found is not None and found.is_zero:
            draft.fault(f"{path}.{name}", "is 0: nothing can be compared with it")
    return Observable(table.unit, table.label, value or sympy.Integer(0), healthy, highest)


def ratios(model: Model) -> dict[str, Observable]:
    """Each observable that has a healthy value, over that value and over the highest: `x/healthy` and `x/highest`,
    names that no document can give."""
    found = {}
    for name, item in model.observables.items():
        for kind, reference in (("healthy", item.healthy), ("highest", item.highest)):
            if reference is not None:
                found[f"{name}/{kind}"] = Observable("1", f"{item.label or name}, over the {kind} value",
                                                     item.value / reference)
    return found


def _assumption(draft: _Draft, key: str, table: AssumptionTable) -> Assumption:
    document = draft.document
    sections = (document.constants, document.covariates, document.parameters, document.expressions, document.states,
                document.inputs, document.observables)
    names = {name for section in sections for name in section} | _state_names(draft)
    for name in table.affects:
        if name not in names:
            draft.fault(f"assumptions.{key}.affects", f"unknown name '{name}'{expressions.closest(name, names)}",
                        "name parameters, expressions, states, inputs or observables of this model")
    return Assumption(table.text, tuple(table.affects), table.source)


def _state_names(draft: _Draft) -> set[str]:
    names = set()
    for key, table in draft.document.states.items():
        names |= {key} if table.chain is None else {f"{key}{j}" for j in range(1, 201)}
    return names


# --- units ---------------------------------------------------------------------------------------------------


def _unit(draft: _Draft, path: str, text: str) -> Unit:
    try:
        return units.parse_unit(text)
    except ValueError as error:
        draft.fault(path if path == "time" else f"{path}.unit", str(error))
        return DIMENSIONLESS


def _check_units(draft: _Draft, model: Model) -> None:
    """Every rate, initial value, input and observable balances; one fault an equation."""
    if any("unknown name" in fault.what or "not arithmetic" in fault.what for fault in draft.faults):
        return  # units of what cannot be read would only add noise
    known: dict[str, Unit] = {"t": _unit(draft, "time", model.time)}
    for section in ("constants", "covariates", "parameters", "states"):
        for key, item in getattr(model, section).items():
            known[key] = _unit(draft, f"{section}.{key}", item.unit)
    values = {key: c.value for key, c in model.constants.items()}
    values |= {key: p.value for key, p in model.parameters.items() if p.prior is None}
    for key, expression in model.expressions.items():
        known[key] = _measure(draft, f"expressions.{key}", expression, known, values) or DIMENSIONLESS
    for key, state in model.states.items():
        try:
            _expect(draft, f"states.{key}.rate", state.rate, units.divide(known[key], known["t"]), known, values)
        except ValueError as error:
            draft.fault(f"states.{key}.unit", str(error))
        _expect(draft, f"states.{key}.initial", state.initial, known[key], known, values)
    for key, item in model.inputs.items():
        inside = known | {"amount": _unit(draft, f"inputs.{key}", item.unit)}
        for name, expression in item.add.items():
            _expect(draft, f"inputs.{key}.add.{name}", expression, known[name], inside, values)
        for name, expression in item.multiply.items():
            _expect(draft, f"inputs.{key}.multiply.{name}", expression, DIMENSIONLESS, inside, values)
    for key, observable in model.observables.items():
        wanted = _unit(draft, f"observables.{key}", observable.unit)
        for name in ("value", "healthy", "highest"):
            expression = getattr(observable, name)
            if expression is not None:
                _expect(draft, f"observables.{key}.{name}", expression, wanted, known, values)


def expression_units(model: Model) -> dict[str, Unit]:
    """Unit of every named expression of a checked model."""
    known = {"t": units.parse_unit(model.time)}
    for section in (model.constants, model.covariates, model.parameters, model.states):
        known |= {key: units.parse_unit(item.unit) for key, item in section.items()}
    values = {key: c.value for key, c in model.constants.items()}
    values |= {key: p.value for key, p in model.parameters.items() if p.prior is None}
    for key, inner in model.expressions.items():
        known[key] = expressions.unit_of(inner, known, values) or DIMENSIONLESS
    return {key: known[key] for key in model.expressions}


def unit_in_model(model: Model, expression: sympy.Expr) -> Unit | None:
    """Unit of an expression in names of a model other than its states; None fits every unit (a literal 0).

    Raises:
        ValueError: the units in it do not balance.
    """
    known = {"t": units.parse_unit(model.time)}
    for section in (model.constants, model.covariates, model.parameters):
        known |= {key: units.parse_unit(item.unit) for key, item in section.items()}
    values = {key: c.value for key, c in model.constants.items()}
    values |= {key: p.value for key, p in model.parameters.items() if p.prior is None}
    static = static_expressions(model)
    for key, inner in model.expressions.items():
        if key in static:
            known[key] = expressions.unit_of(inner, known, values) or DIMENSIONLESS
    return expressions.unit_of(expression, known, values)


def _measure(draft: _Draft, path: str, expression: sympy.Expr, known: dict[str, Unit], values: dict[str, float]):
    try:
        return expressions.unit_of(expression, known, values)
    except ValueError as error:
        draft.fault(path, str(error), "look for a missing or needless factor; a change of scale takes a named constant")
        draft.broken.add(path.removeprefix("expressions."))
        return None


def _expect(draft, path, expression, wanted: Unit, known, values) -> None:
    if {s.name for s in _symbols(expression)} & draft.broken:
        return
    found = _measure(draft, path, expression, known, values)
    if found is not None and not units.same(found, wanted):
        draft.fault(path, f"has the unit [{_bare(found)}], expected [{wanted}] = [{_bare(wanted)}]",
                    "look for a missing or needless factor; a change of scale takes a named constant")


def _bare(unit: Unit) -> str:
    return str(Unit(unit.scale, unit.dimension))
