"""SBML files (Level 2 and 3, core) as model documents.

Read:

* species as amount or concentration, `hasOnlySubstanceUnits`, boundary, constant: states; parameters where nothing
  changes them; concentrations follow a volume that changes
* compartments, constant or not; parameters; local parameters (one is called REACTION_ID)
* reactions: any kinetic law, reversible, modifiers, conversion factors; stoichiometry as a number, as
  `stoichiometryMath`, or as a species reference that rules and assignments set
* rate rules, assignment rules, initial assignments; function definitions (written out where they are called)
* events at a fixed time without delay and priority: inputs that the model itself schedules
* MathML: arithmetic, powers, roots, exp, ln, log, abs, min, max, sin, cos, tan, cot, sec, csc, sinh, cosh, tanh, sech,
  arcsinh, arccosh, arctanh, piecewise, comparisons, and, or, not, xor, implies, time, avogadro, pi, exponentiale
* units become labels, constraints notes; notes, annotations and SBO terms are passed over

Refused by name, all at once: Level 1; events with a delay, a priority or a trigger other than a fixed time; algebraic
rules; fast reactions; reactions without a kinetic law; packages that a file uses and requires; the csymbols delay and
rateOf; floor, ceiling, factorial, quotient, rem and the remaining inverse functions; a quantity without a value; what a
file says wrongly (libsbml's own errors).

Every quantity becomes a pure number and the document's constant `per_time` carries the unit of time: units in SBML
files are optional, and a file with wrong ones is as valid as any.

Source: SBML Level 3 Version 2 core, Release 2 (10.1515/jib-2019-0021); Level 2 Version 5 (10.2390/biecoll-jib-2015-271)
"""

import keyword
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thymodel.documents import expressions
from thymodel.documents.model import parse_model
from thymodel.documents.sbml_file import MOST_FAULTS, checked_model, required_packages
from thymodel.documents.sbml_math import Meaning, Node, Piece, formula_text, joined, load_libsbml, wrapped
from thymodel.documents.toml import document_text, read_text
from thymodel.errors import Fault, InputError

_TIME_UNITS = {1.0: "s", 60.0: "min", 3600.0: "hour", 86400.0: "day"}


@dataclass(frozen=True)
class Reading:
    """What became of a file.

    Args:
        document: a model document, as `documents.model.ModelDocument` checks it; `text` is the same as TOML.
        names: SBML id -> name of the quantity in the document; for a species, of what its id means in formulas.
        initial: SBML id -> name of the parameter that holds its initial value, where a number is given.
        notes: what was assumed or left out, for a person to read.
    """

    document: dict[str, Any]
    text: str
    names: Mapping[str, str]
    initial: Mapping[str, str]
    notes: tuple[str, ...]


def load_sbml(path: Path) -> Reading:
    """The model document of an SBML file.

    Raises:
        InputError: python-libsbml is absent, the file cannot be read or is not SBML, or it uses what is not supported:
            every such thing with the id of its element.
    """
    reading = read_sbml(read_text(path), str(path))
    parse_model(reading.text, str(path), name=path.stem)
    return reading


def read_sbml(text: str, where: str) -> Reading:
    """As `load_sbml`, from the text of a file; the document's own faults are for `parse_model` to find.

    Raises:
        InputError: as `load_sbml`.
    """
    packages = required_packages(text, where)
    model = checked_model(text, where)
    draft = _Draft(model, where)
    for name in packages:
        draft.refuse(f"package {name}", "sbml")
    _refuse_structure(draft)
    if not draft.faults:
        _classify(draft)
        _convert(draft)
    if draft.faults:
        raise InputError(draft.faults[:MOST_FAULTS])
    return Reading(draft.document, document_text(draft.document), draft.names, draft.given, tuple(draft.notes))


# --- the conversion ------------------------------------------------------------------------------------------


class _Draft:
    """A file under conversion: the document so far, the names taken, what is refused."""

    def __init__(self, model: Any, where: str):
        self.model, self.where = model, where
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.names: dict[str, str] = {}
        self.given: dict[str, str] = {}
        self.taken: set[str] = {*expressions.RESERVED_NAMES, *keyword.kwlist}
        self.symbols: dict[str, Symbol] = {}
        self.started: dict[str, str] = {}
        self.visited = [0]
        self.per_time = ""
        self.functions = {item.getId(): item.getMath() for item in _each(model.getListOfFunctionDefinitions())
                          if item.getMath() is not None}
        sections = ("constants", "parameters", "expressions", "states", "inputs", "observables")
        self.document: dict[str, Any] = {"title": "", "description": "", "time": "day", **{k: {} for k in sections}}

    def refuse(self, what: str, element: str) -> None:
        fault = Fault(f"{self.where}: {element}", f"{what} is not supported")
        if fault not in self.faults:
            self.faults.append(fault)

    def fault(self, element: str, what: str, hint: str = "") -> None:
        self.faults.append(Fault(f"{self.where}: {element}", what, hint))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def name(self, wanted: str) -> str:
        """A name of the document as near to the wanted one as may be."""
        name = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        name = name if name[:1].isalpha() else f"x{name}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _each(items: Any) -> Iterator[Any]:
    return (items.get(k) for k in range(items.size()))


# --- what is refused for its structure -------------------------------------------------------------------------


def _refuse_structure(draft: _Draft) -> None:
    model, sbml = draft.model, load_libsbml()
    for rule in _each(model.getListOfRules()):
        if rule.isAlgebraic():
            draft.refuse("algebraic rule", f"algebraicRule {rule.getIdAttribute() or rule.getMetaId()}".strip())
        elif rule.getMath() is None:
            draft.refuse("a rule without math", f"rule of {rule.getVariable()}")
    for item in _each(model.getListOfInitialAssignments()):
        if item.getMath() is None:
            draft.refuse("an initial assignment without math", f"initialAssignment {item.getSymbol()}")
    for reaction in _each(model.getListOfReactions()):
        element = f"reaction {reaction.getId()}"
        if reaction.isSetFast() and reaction.getFast():
            draft.refuse("fast reaction", element)
        law = reaction.getKineticLaw()
        if law is None or law.getMath() is None:
            draft.refuse("a reaction without kinetic law", element)
        elif law.isSetTimeUnits() or law.isSetSubstanceUnits():
            draft.refuse("a kinetic law with units of its own", element)
    for number, event in enumerate(_each(model.getListOfEvents())):
        element = _element(event, number)
        if event.isSetDelay():
            draft.refuse("event with delay", element)
        if event.isSetPriority():
            draft.refuse("event with priority", element)
        if event.getTrigger() is None or event.getTrigger().getMath() is None:
            draft.refuse("event without trigger", element)
        elif _threshold(event.getTrigger().getMath(), sbml) is None:
            draft.refuse("event whose trigger is not a fixed time (state-triggered, or a compound condition)", element)
    for item in _each(model.getListOfConstraints()):
        draft.note(f"constraint {item.getIdAttribute()}: not checked".replace(" :", ":"))


def _element(event: Any, number: int) -> str:
    return f"event {event.getId() or f'number {number + 1}'}"


def _threshold(node: Node, sbml: Any) -> tuple[Node, bool] | None:
    """The time beyond which a trigger holds, and whether it holds at that time too; None for other triggers."""
    kinds = {sbml.AST_RELATIONAL_GEQ: (0, True), sbml.AST_RELATIONAL_GT: (0, False),
             sbml.AST_RELATIONAL_LEQ: (1, True), sbml.AST_RELATIONAL_LT: (1, False)}
    if node.getType() not in kinds or node.getNumChildren() != 2:
        return None
    place, holds = kinds[node.getType()]
    if node.getChild(place).getType() != sbml.AST_NAME_TIME:
        return None
    return node.getChild(1 - place), holds


# --- what each id is -------------------------------------------------------------------------------------------


@dataclass
class Symbol:
    """A quantity of the file: what kind, how it moves, and where its amount is kept.

    `how` is "constant", "rule" (assignment rule), "rate" (rate rule), "reaction" (a species that reactions change),
    "event" (nothing but events changes it) or "flux" (the rate of a reaction).
    """

    element: Any
    kind: str
    how: str
    rule: Node | None = None
    assigned: Node | None = None  # initial assignment
    value: float = math.nan
    volume: str = ""  # id of the compartment by which an amount is divided to give what the id means
    state: str = ""  # name of its state in the document, if it has one
    amount: bool = False  # the state is an amount and the id means a concentration


def _classify(draft: _Draft) -> None:
    model = draft.model
    rules = {rule.getVariable(): rule for rule in _each(model.getListOfRules())}
    assigned = {item.getSymbol(): item.getMath() for item in _each(model.getListOfInitialAssignments())}
    by_event = {item.getVariable() for event in _each(model.getListOfEvents())
                for item in _each(event.getListOfEventAssignments())}
    reacting = {reference.getSpecies() for reaction in _each(model.getListOfReactions())
                for reference in _references(reaction)}

    def add(key: str, element: Any, kind: str, value: float, moved: bool = False) -> None:
        rule = rules.get(key)
        how = ("rule" if rule.isAssignment() else "rate") if rule is not None else (
            "reaction" if moved else "event" if key in by_event else "constant")
        draft.symbols[key] = Symbol(element, kind, how, None if rule is None else rule.getMath(),
                                    assigned.get(key), value)

    for item in _each(model.getListOfCompartments()):
        add(item.getId(), item, "compartment", item.getSize() if item.isSetSize() else math.nan)
    for item in _each(model.getListOfParameters()):
        add(item.getId(), item, "parameter", item.getValue() if item.isSetValue() else math.nan)
    for item in _each(model.getListOfSpecies()):
        moved = item.getId() in reacting and not item.getBoundaryCondition() and not item.getConstant()
        add(item.getId(), item, "species", math.nan, moved)
    for reaction in _each(model.getListOfReactions()):
        draft.symbols[reaction.getId()] = Symbol(reaction, "reaction", "flux", reaction.getKineticLaw().getMath())
        for reference in _references(reaction):
            if reference.getId():
                add(reference.getId(), reference, "stoichiometry", _stoichiometry(draft, reaction, reference))
    for key, symbol in draft.symbols.items():
        if symbol.kind == "species":
            _place(draft, key, symbol)
    for key in draft.symbols:
        draft.names[key] = draft.name(key)
    for key, symbol in draft.symbols.items():
        if symbol.how in ("rate", "reaction", "event"):
            symbol.state = draft.name(f"{key}_amount") if symbol.amount else draft.names[key]


def _references(reaction: Any) -> Iterator[Any]:
    yield from _each(reaction.getListOfReactants())
    yield from _each(reaction.getListOfProducts())


def _place(draft: _Draft, key: str, symbol: Symbol) -> None:
    """Whether the id of a species means an amount or a concentration, and which of them is the state."""
    species = symbol.element
    compartment = draft.symbols[species.getCompartment()]
    flat = compartment.element.getSpatialDimensionsAsDouble() == 0
    if species.getHasOnlySubstanceUnits() or flat:
        return
    symbol.volume = species.getCompartment()
    if compartment.how == "constant":
        return
    # the volume moves: amounts stay when it does, concentrations do not. A rate rule says how a concentration moves;
    # under an assigned volume it is the state itself.
    symbol.amount = symbol.how != "rule" and not (symbol.how == "rate" and compartment.how == "rule")
    if symbol.how == "constant":
        symbol.how = "event"


def _stoichiometry(draft: _Draft, reaction: Any, reference: Any) -> float:
    """A missing number is 1: the default of Level 2, and what tools assume in Level 3."""
    if reference.isSetStoichiometry():
        return reference.getStoichiometry()
    if draft.model.getLevel() > 2 and not draft.model.getRuleByVariable(reference.getId() or "") and (
            draft.model.getInitialAssignment(reference.getId() or "") is None):
        draft.note(f"reaction {reaction.getId()}: stoichiometry of {reference.getSpecies()} not given, taken as 1")
    return 1.0


# --- the document ----------------------------------------------------------------------------------------------


def _convert(draft: _Draft) -> None:
    _open(draft)
    for key, symbol in draft.symbols.items():
        _guarded(draft, key, symbol)
    if not draft.document["states"]:
        idle = draft.name("idle")
        draft.document["states"][idle] = {"unit": "1", "label": "a model needs a state; nothing in the file moves",
                                          "initial": "0", "rate": f"0*{draft.per_time}"}
    if not draft.faults:
        _add_events(draft)
    _add_observables(draft)


def _open(draft: _Draft) -> None:
    model, document = draft.model, draft.document
    name = model.getName() or model.getId() or Path(draft.where).stem
    document["title"] = _short(name)
    document["description"] = _short(
        f"Read from an SBML Level {model.getLevel()} Version {model.getVersion()} file, model '{name}'. "
        "Every quantity is the pure number that the file gives; labels repeat the file's units.")
    document["time"] = _time_unit(draft)
    draft.per_time = draft.name("per_time")
    document["constants"][draft.per_time] = {"unit": f"1/{document['time']}", "value": 1.0,
                                             "source": "the file's equations hold numbers, also for the time"}


def _short(text: str) -> str:
    return " ".join(text.split())[:2000] or "SBML model"


def _time_unit(draft: _Draft) -> str:
    """The file's unit of time where our files have it."""
    model = draft.model
    text = model.getTimeUnits() if model.isSetTimeUnits() else ("time" if model.getLevel() == 2 else "")
    definition = model.getUnitDefinition(text) if text else None
    parts = [] if definition is None else list(_each(definition.getListOfUnits()))
    sbml = load_libsbml()
    if [(u.getKind(), u.getExponentAsDouble()) for u in parts if u.getKind() != sbml.UNIT_KIND_DIMENSIONLESS] == [
            (sbml.UNIT_KIND_SECOND, 1.0)]:
        seconds = math.prod((u.getMultiplier() * 10.0 ** u.getScale()) ** u.getExponentAsDouble() for u in parts)
        for known, name in _TIME_UNITS.items():
            if math.isclose(seconds, known, rel_tol=1e-9):
                return name
    if text == "second" or (text == "time" and definition is None):
        return "s"
    found = f"is '{text}', which is not known here" if text else "is not declared"
    draft.note(f"the unit of time {found}: called a day; times are the file's numbers")
    return "day"


def _guarded(draft: _Draft, key: str, symbol: Symbol) -> None:
    """Writes one quantity; what goes wrong in its formulas is said under its name."""
    element = f"{symbol.kind} {key}"
    try:
        _write(draft, key, symbol)
    except ValueError as error:
        draft.fault(element, str(error))
    except RecursionError:
        draft.fault(element, "formulas that use each other without end")


def _write(draft: _Draft, key: str, symbol: Symbol) -> None:
    document, name = draft.document, draft.names[key]
    if symbol.how == "flux":
        document["expressions"][name] = _formula(draft, symbol.rule, key, _locals(draft, key, symbol))
    elif symbol.how == "rule":
        document["expressions"][name] = _formula(draft, symbol.rule, key)
    elif symbol.how == "constant":
        _write_constant(draft, key, symbol)
    else:
        _write_state(draft, key, symbol)


def _locals(draft: _Draft, key: str, symbol: Symbol) -> dict[str, str]:
    """Names of a reaction's own parameters, which hide the model's."""
    law = symbol.element.getKineticLaw()
    items = law.getListOfLocalParameters() if draft.model.getLevel() > 2 else law.getListOfParameters()
    found = {}
    for item in _each(items):
        found[item.getId()] = name = draft.names.setdefault(
            f"{key}.{item.getId()}", "") or draft.name(f"{draft.names[key]}_{item.getId()}")
        draft.names[f"{key}.{item.getId()}"] = name
        if not item.isSetValue():
            raise ValueError(f"the local parameter {item.getId()} has no value")
        draft.document["parameters"][name] = _number(draft, item.getValue(), f"{key}, {item.getId()}", item)
    return found


def _number(draft: _Draft, value: float, place: str, element: Any = None) -> dict[str, Any]:
    if not math.isfinite(value):
        raise ValueError(f"the value {value}, which no file of ours may contain")
    table = {"unit": "1", "value": float(value), "source": f"the SBML file, {place}"}
    label = _label(element) if element is not None else ""
    return table | ({"label": label} if label else {})


def _label(element: Any) -> str:
    unit = element.getUnits() if hasattr(element, "getUnits") else ""
    unit = unit or (element.getSubstanceUnits() if hasattr(element, "getSubstanceUnits") else "")
    definition = element.getModel().getUnitDefinition(unit) if unit and element.getModel() is not None else None
    unit = (definition.getName() or unit) if definition is not None else unit
    name = element.getName() if element.getName() != element.getId() else ""
    return " ".join(part for part in (_short(name) if name else "", f"[{unit}]" if unit else "") if part)[:300]


def _formula(draft: _Draft, node: Node, place: str, local: Mapping[str, str] | None = None) -> str:
    """A formula in the names of the document, as it holds at any time."""
    time = f"(t*{draft.per_time})"
    return formula_text(node, _meaning(draft, lambda key: _now(draft, key), time, place), dict(local or {}))


def _meaning(draft: _Draft, name, time: str, place: str) -> Meaning:
    def define(text: str) -> str:
        helper = draft.name(f"{draft.names.get(place, place)}_part")
        draft.document["expressions"][helper] = text
        return helper

    element = f"{draft.symbols[place].kind} {place}" if place in draft.symbols else place
    return Meaning(name, time, draft.functions, lambda what: draft.refuse(what, element), define, draft.visited)


def _now(draft: _Draft, key: str) -> str:
    symbol = _known(draft, key)
    if symbol.kind == "compartment" and symbol.how == "constant":
        _require_size(draft, key, symbol)
    return draft.names[key]


def _known(draft: _Draft, key: str) -> Symbol:
    if key not in draft.symbols:
        raise ValueError(f"the name {key} stands for nothing in the file")
    return draft.symbols[key]


def _require_size(draft: _Draft, key: str, symbol: Symbol) -> None:
    if math.isnan(symbol.value) and symbol.assigned is None:
        draft.note(f"compartment {key}: no size given, taken as 1")
        symbol.value = 1.0


def _write_constant(draft: _Draft, key: str, symbol: Symbol) -> None:
    name = draft.names[key]
    if symbol.assigned is not None:
        draft.document["expressions"][name] = _start_formula(draft, symbol.assigned, key)
    elif symbol.kind == "species":
        _write_given(draft, key, symbol, name)
    else:
        if symbol.kind == "compartment":
            _require_size(draft, key, symbol)
        if math.isnan(symbol.value):
            raise ValueError("it has no value, and nothing in the file gives it one")
        draft.document["parameters"][name] = _number(draft, symbol.value, key, symbol.element)
        draft.given[key] = name


def _write_given(draft: _Draft, key: str, symbol: Symbol, name: str) -> None:
    """A species' number as the parameter `name`; where amount and meaning differ, an expression beside it."""
    species = symbol.element
    as_amount = species.isSetInitialAmount()
    if not as_amount and not species.isSetInitialConcentration():
        raise ValueError("it has no initial amount or concentration, and nothing in the file gives it one")
    value = species.getInitialAmount() if as_amount else species.getInitialConcentration()
    size = draft.symbols[species.getCompartment()]
    same = as_amount != bool(symbol.volume) or (size.how == "constant" and size.assigned is None and size.value == 1)
    if same:
        draft.document["parameters"][name] = _number(draft, value, key, species)
        draft.given[key] = name
        return
    given = draft.name(f"{name}_{'amount' if as_amount else 'concentration'}")
    draft.document["parameters"][given] = _number(draft, value, key, species)
    volume = _start(draft, species.getCompartment())
    draft.document["expressions"][name] = f"{given}/{volume}" if as_amount else f"{given}*{volume}"


def _start_formula(draft: _Draft, node: Node, place: str) -> str:
    """A formula at the start of time, in constants alone."""
    return formula_text(node, _meaning(draft, lambda key: _start(draft, key), "0", place))


def _start(draft: _Draft, key: str) -> str:
    """Name of what an id means at the start of time; made when first asked for."""
    symbol = _known(draft, key)
    if symbol.how == "constant":
        return _now(draft, key)
    if key in draft.started:
        return draft.started[key]
    name = draft.started[key] = draft.name(f"{draft.names[key]}_0")
    expressions_of = draft.document["expressions"]
    if symbol.how in ("rule", "flux"):
        local = _locals(draft, key, symbol) if symbol.how == "flux" else {}
        meaning = _meaning(draft, lambda inner: _start(draft, inner), "0", key)
        expressions_of[name] = formula_text(symbol.rule, meaning, local)
    elif symbol.assigned is not None:
        expressions_of[name] = _start_formula(draft, symbol.assigned, key)
    elif symbol.kind == "species":
        _write_given(draft, key, symbol, name)
    else:
        if math.isnan(symbol.value):
            raise ValueError("it has no initial value, and nothing in the file gives it one")
        draft.document["parameters"][name] = _number(draft, symbol.value, key, symbol.element)
        draft.given[key] = name
    return name


def _write_state(draft: _Draft, key: str, symbol: Symbol) -> None:
    initial = _start(draft, key)
    if symbol.amount:
        initial = f"{initial}*{_start(draft, symbol.volume)}"
        draft.document["expressions"][draft.names[key]] = f"{symbol.state}/{draft.names[symbol.volume]}"
    rate = _rate(draft, key, symbol)
    label = _label(symbol.element)
    draft.document["states"][symbol.state] = {
        "unit": "1", **({"label": label} if label else {}), "initial": initial,
        "rate": f"{draft.per_time}*({rate.text})"}


def _rate(draft: _Draft, key: str, symbol: Symbol) -> Piece:
    """Change of a state per time, as a number."""
    if symbol.how == "event":
        return Piece("0", 4)
    if symbol.how == "reaction":
        return _from_reactions(draft, key, symbol)
    rule = Piece(_formula(draft, symbol.rule, key), 0)
    if not symbol.amount:
        return rule
    volume = draft.symbols[symbol.volume]
    parts = [Piece(f"{draft.names[symbol.volume]}*({rule.text})", 1)]
    if volume.how == "rate":  # the rule says how the concentration moves, and the volume moves too
        parts.append(Piece(f"{draft.names[key]}*({_formula(draft, volume.rule, symbol.volume)})", 1))
    return joined(" + ", parts)


def _from_reactions(draft: _Draft, key: str, symbol: Symbol) -> Piece:
    terms = []
    for reaction in _each(draft.model.getListOfReactions()):
        for references, sign in ((reaction.getListOfReactants(), "-"), (reaction.getListOfProducts(), "")):
            for reference in _each(references):
                if reference.getSpecies() == key:
                    terms.append(Piece(f"{sign}{_count(draft, reaction, reference)}{draft.names[reaction.getId()]}",
                                       2 if sign else 1))
    total = joined(" + ", terms)
    factor = symbol.element.getConversionFactor() or draft.model.getConversionFactor()
    if factor:
        total = Piece(f"{_now(draft, factor)}*{wrapped(total, 4)}", 1)
    if symbol.volume and not symbol.amount:
        total = Piece(f"{wrapped(total, 4)}/{_now(draft, symbol.volume)}", 1)
    return total


def _count(draft: _Draft, reaction: Any, reference: Any) -> str:
    """The stoichiometry as a factor, nothing where it is 1."""
    if reference.getId() and reference.getId() in draft.symbols:
        return f"{draft.names[reference.getId()]}*"
    if reference.isSetStoichiometryMath():
        return f"({_formula(draft, reference.getStoichiometryMath().getMath(), reaction.getId())})*"
    value = _stoichiometry(draft, reaction, reference)
    if not math.isfinite(value):
        raise ValueError(f"reaction {reaction.getId()}: a stoichiometry of {value}")
    return "" if value == 1 else f"{int(value)}*" if value == int(value) else f"{value!r}*"


# --- events ----------------------------------------------------------------------------------------------------


def _add_events(draft: _Draft) -> None:
    """Events at fixed times as inputs; those at the same time act together, on the values before any of them."""
    sbml = load_libsbml()
    found: dict[float, list[tuple[str, Any]]] = {}
    for number, event in enumerate(_each(draft.model.getListOfEvents())):
        element = _element(event, number)
        try:
            time = _firing(draft, event, element, sbml)
            if time is not None:
                found.setdefault(time, []).append((element, event))
        except (ValueError, RecursionError) as error:
            draft.fault(element, str(error))
    for time, events in sorted(found.items()):
        _write_event(draft, time, events)


def _firing(draft: _Draft, event: Any, element: str, sbml: Any) -> float | None:
    """When the event fires, None for never."""
    trigger = _threshold(event.getTrigger().getMath(), sbml)
    if trigger is None:  # refused before
        return None
    threshold, holds = trigger
    time = _constant(draft, threshold, element)
    true_at_start = time < 0 or (time == 0 and holds)
    if not true_at_start:
        return time
    initially = event.getTrigger().getInitialValue() if draft.model.getLevel() > 2 else True
    return None if initially else 0.0


def _constant(draft: _Draft, node: Node, element: str) -> float:
    """The number that a formula of the file's constants has."""
    text = formula_text(node, _meaning(draft, lambda key: _now(draft, key), "nan", element))
    numbers = {name: table["value"] for name, table in draft.document["parameters"].items()}
    value = expressions.parse_expression(text, draft.taken).subs(
        {expressions.symbol(name): number for name, number in numbers.items()})
    if not value.is_number:
        raise ValueError("event whose trigger is not a fixed time (it depends on what moves) is not supported")
    if not node.isNumber():
        draft.note(f"{element}: its time stays {float(value):g}, whatever the parameters in it become")
    return float(value)


def _write_event(draft: _Draft, time: float, events: list[tuple[str, Any]]) -> None:
    add: dict[str, str] = {}
    for element, event in events:
        for item in _each(event.getListOfEventAssignments()):
            key = item.getVariable()
            symbol = draft.symbols[key]
            if item.getMath() is None or symbol.state in add:
                draft.refuse("two events at the same time that set the same quantity" if symbol.state in add
                             else "an event assignment without math", f"{element}, {key}")
                continue
            try:
                value = _event_formula(draft, item.getMath(), time, element)
                add[symbol.state] = f"({value})*{_at(draft, symbol.volume, time, element)}" if symbol.amount else value
            except (ValueError, RecursionError) as error:
                draft.fault(element, str(error) or "formulas that use each other without end")
    name = draft.name(events[0][1].getId() or "event")
    label = ", ".join(_short(event.getName() or event.getId() or "event") for _, event in events)[:300]
    if add:
        draft.document["inputs"][name] = {
            "unit": "1", "label": label, "multiply": dict.fromkeys(add, "0"), "add": add,
            "scheduled": [{"time": float(time), "amount": 1.0}]}


def _event_formula(draft: _Draft, node: Node, time: float, element: str) -> str:
    """A formula in states and constants at the time of an event: what moves otherwise is written out."""
    meaning = _meaning(draft, lambda key: _at(draft, key, time, element), repr(float(time)), element)
    return formula_text(node, meaning)


def _at(draft: _Draft, key: str, time: float, element: str) -> str:
    symbol = _known(draft, key)
    if symbol.how in ("rule", "flux"):
        local = _locals(draft, key, symbol) if symbol.how == "flux" else {}
        meaning = _meaning(draft, lambda inner: _at(draft, inner, time, element), repr(float(time)), element)
        return f"({formula_text(symbol.rule, meaning, local)})"
    if symbol.amount:
        return f"({symbol.state}/{_at(draft, symbol.volume, time, element)})"
    return _now(draft, key) if symbol.how == "constant" else symbol.state


# --- observables -----------------------------------------------------------------------------------------------


def _add_observables(draft: _Draft) -> None:
    """Every species, as what its id means and as the other of amount and concentration, and all else that moves."""
    shown: dict[str, Any] = {}
    for key, symbol in draft.symbols.items():
        name = draft.names[key]
        if symbol.kind == "species" or symbol.how not in ("constant", "flux"):
            label = _label(symbol.element)
            shown[name] = {"unit": "1", "value": name, **({"label": label} if label else {})}
        if symbol.kind == "species" and symbol.volume:
            shown[draft.name(f"amount_{key}")] = {"unit": "1", "value": f"{name}*{_now(draft, symbol.volume)}"}
        elif symbol.kind == "species" and _has_size(draft.symbols[symbol.element.getCompartment()]):
            volume = symbol.element.getCompartment()
            shown[draft.name(f"concentration_{key}")] = {"unit": "1", "value": f"{name}/{_now(draft, volume)}"}
    if not shown:
        shown["time_passed"] = {"unit": draft.document["time"], "value": "t"}
    draft.document["observables"] = shown


def _has_size(compartment: Symbol) -> bool:
    return not math.isnan(compartment.value) and compartment.value > 0 or compartment.assigned is not None
