"""A model document as SBML Level 3 Version 2 core, for the tools of systems biology.

States become parameters under rate rules, named expressions and observables parameters under assignment rules, derived
constants parameters with an initial assignment (so that they follow a changed parameter), doses events at fixed times.
SBML's time begins at 0: where a model starts on another day, time there is counted from its start. An observable whose
name is taken by something else is called obs_NAME. A value at a dose time is the one after the dose, as in SBML.

Units are declared as far as SBML has them: cells and copies are items, arbitrary antibody units are pure numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import sympy

from thymodel.documents import expressions as ex
from thymodel.documents import units
from thymodel.documents.model import Model, static_expressions
from thymodel.documents.regimen import Dose, dose_faults
from thymodel.documents.sbml_math import FUNCTIONS, formula_node, load_libsbml
from thymodel.errors import Fault, InputError

_BASE = {"length": "metre", "mass": "kilogram", "time": "second", "substance": "mole", "temperature": "kelvin",
         "current": "ampere", "luminosity": "candela", "cell_count": "item", "copy_count": "item",
         "antibody_unit": "dimensionless"}


def sbml_text(model: Model, doses: Iterable[Dose] = ()) -> str:
    """The model with its doses as an SBML file.

    Args:
        doses: boluses, in the order in which simultaneous ones act; those that the model schedules act before them.

    Raises:
        InputError: python-libsbml is absent, a dose that the model cannot take, or an infusion.
    """
    own = [Dose(time, name, amount) for name, item in model.inputs.items() for time, amount in item.scheduled]
    doses = [*own, *doses]
    faults = [fault for dose in doses for fault in _dose_faults(model, dose)]
    if faults:
        raise InputError(faults)
    sbml = load_libsbml()
    document = sbml.SBMLDocument(3, 2)
    target = document.createModel()
    _done(target.setId(_id(model.name)))
    _done(target.setName(model.title))
    _add_notes(target, model)
    declared = _Units(target)
    _done(target.setTimeUnits(declared.id_of(units.parse_unit(model.time))))
    _add_functions(target, model)
    _add_quantities(target, model, declared)
    _add_doses(target, model, doses)
    return sbml.writeSBMLToString(document)


def _dose_faults(model: Model, dose: Dose) -> Iterable[Fault]:
    where = f"dose {dose.amount:g}@{dose.time:g}:{dose.input}"
    yield from dose_faults(where, dose, model)
    if dose.duration > 0:
        yield Fault(where, "an infusion over time, which an SBML event cannot be", "give it as boluses")


def _done(code: int) -> None:
    """Every step of libsbml answers with a number; anything but success is a mistake of this file."""
    if code != load_libsbml().LIBSBML_OPERATION_SUCCESS:
        raise RuntimeError(f"libsbml refused: {load_libsbml().OperationReturnValue_toString(code)}")


def _id(name: str) -> str:
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return cleaned if cleaned[:1].isalpha() or cleaned[:1] == "_" else f"model_{cleaned}"


def _add_notes(target: Any, model: Model) -> None:
    shift = f"SBML time 0 is {model.time} {model.start:g} of the model. " if model.start else ""
    text = f"{shift}{model.description.strip()} Written by thymodel; sha256 of the model file: {model.digest}."
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    kept = "".join(c for c in escaped if c >= " " or c in "\t\n")  # XML 1.0 has no other control characters
    _done(target.setNotes(f'<body xmlns="http://www.w3.org/1999/xhtml"><p>{kept}</p></body>'))


# --- units -----------------------------------------------------------------------------------------------------


class _Units:
    """Unit definitions of a model, each made when first asked for."""

    def __init__(self, target: Any):
        self.target = target
        self.known: dict[tuple, str] = {}

    def id_of(self, unit: units.Unit) -> str:
        if units.is_number(unit):
            return "dimensionless"
        key = (unit.scale, tuple(sorted(unit.dimension.items())))
        if key not in self.known:
            self.known[key] = f"unit{len(self.known) + 1}"
            definition = self.target.createUnitDefinition()
            _done(definition.setId(self.known[key]))
            _done(definition.setName(str(unit)))
            powers: dict[str, float] = {}
            for name, power in unit.dimension.items():  # cells per copy are items per item
                base = _BASE.get(name, "dimensionless")
                powers[base] = powers.get(base, 0.0) + float(power)
            exponents = [(base, exponent) for base, exponent in sorted(powers.items()) if exponent]
            if len(exponents) != 1:  # else the one base carries the scale
                _part(definition, "dimensionless", 1.0, unit.scale)
            for base, exponent in exponents:
                _part(definition, base, exponent, unit.scale ** (1 / exponent) if len(exponents) == 1 else 1.0)
        return self.known[key]


def _part(definition: Any, base: str, exponent: float, multiplier: float) -> None:
    unit = definition.createUnit()
    _done(unit.setKind(load_libsbml().UnitKind_forName(base)))
    _done(unit.setExponent(exponent))
    _done(unit.setScale(0))
    _done(unit.setMultiplier(multiplier))


# --- quantities ------------------------------------------------------------------------------------------------


def _add_functions(target: Any, model: Model) -> None:
    """Definitions of our own functions, as far as the model uses them."""
    every = [*model.expressions.values(), *(o.value for o in model.observables.values())]
    every += [part for state in model.states.values() for part in (state.rate, state.initial)]
    every += [part for item in model.inputs.values() for part in (*item.add.values(), *item.multiply.values())]
    used = {type(node).__name__ for expression in every for node in sympy.preorder_traversal(expression)}
    sbml = load_libsbml()
    for name, (arguments, body) in FUNCTIONS.items():
        if name not in used:
            continue
        function, node = target.createFunctionDefinition(), sbml.ASTNode(sbml.AST_LAMBDA)
        for argument in arguments:
            bound = formula_node(ex.symbol(argument))
            bound.setBvar()
            node.addChild(bound)
        node.addChild(formula_node(ex.parse_expression(body, arguments)))
        _done(function.setId(name))
        _done(function.setMath(node))


def _add_quantities(target: Any, model: Model, declared: _Units) -> None:
    for group in (model.constants, model.covariates, model.parameters):
        for name, item in group.items():
            _parameter(target, name, item.label, declared.id_of(units.parse_unit(item.unit)), item.value)
    static, measured = static_expressions(model), _expression_units(model)
    for name, expression in model.expressions.items():
        _parameter(target, name, "", declared.id_of(measured[name]), None, constant=name in static)
        _assign(target, name, _shifted(expression, model), "initial" if name in static else "rule")
    for name, state in model.states.items():
        number = float(state.initial) if state.initial.is_Number else None
        _parameter(target, name, state.label, declared.id_of(units.parse_unit(state.unit)), number, constant=False)
        if number is None:
            _assign(target, name, state.initial, "initial")
        _assign(target, name, _shifted(state.rate, model), "rate")
    for name, other in observable_ids(model).items():
        observable = model.observables[name]
        if other != name or observable.value != ex.symbol(name):
            unit = declared.id_of(units.parse_unit(observable.unit))
            _parameter(target, other, observable.label, unit, None, constant=False)
            _assign(target, other, _shifted(observable.value, model), "rule")


def _expression_units(model: Model) -> dict[str, units.Unit]:
    """Unit of every named expression; the model was checked, so each has one."""
    known = {"t": units.parse_unit(model.time)}
    for section in (model.constants, model.covariates, model.parameters, model.states):
        known |= {name: units.parse_unit(item.unit) for name, item in section.items()}
    values = {name: constant.value for name, constant in model.constants.items()}
    values |= {name: item.value for name, item in model.parameters.items() if item.prior is None}
    for name, expression in model.expressions.items():
        known[name] = ex.unit_of(expression, known, values) or units.DIMENSIONLESS
    return {name: known[name] for name in model.expressions}


def observable_ids(model: Model) -> dict[str, str]:
    """Observable -> its id in the file: its own name, unless something else bears it."""
    taken = {*model.constants, *model.covariates, *model.parameters, *model.expressions, *model.states, *FUNCTIONS}
    found = {}
    for name, observable in model.observables.items():
        other = name
        if observable.value != ex.symbol(name):
            while other in taken:
                other = f"obs_{other}"
        taken.add(other)
        found[name] = other
    return found


def _shifted(expression: sympy.Expr, model: Model) -> sympy.Expr:
    """In SBML's time, which begins at 0."""
    time = ex.symbol("t")
    return expression.xreplace({time: time + model.start}) if model.start else expression


def _parameter(target: Any, name: str, label: str, unit: str | None, value: float | None,
               constant: bool = True) -> None:
    parameter = target.createParameter()
    _done(parameter.setId(name))
    if label:
        _done(parameter.setName(label))
    if unit:
        _done(parameter.setUnits(unit))
    if value is not None:
        _done(parameter.setValue(value))
    _done(parameter.setConstant(constant))


def _assign(target: Any, name: str, expression: sympy.Expr, how: str) -> None:
    if how == "initial":
        item = target.createInitialAssignment()
        _done(item.setSymbol(name))
    else:
        item = target.createAssignmentRule() if how == "rule" else target.createRateRule()
        _done(item.setVariable(name))
    _done(item.setMath(formula_node(expression)))


# --- doses -----------------------------------------------------------------------------------------------------


def _add_doses(target: Any, model: Model, doses: list[Dose]) -> None:
    """One event for each time: what simultaneous doses do one after the other is put into one formula."""
    by_time: dict[float, list[Dose]] = {}
    for dose in doses:
        by_time.setdefault(dose.time, []).append(dose)
    for number, time in enumerate(sorted(by_time)):
        after = {name: ex.symbol(name) for name in model.states}
        for dose in by_time[time]:
            after = _after(model, dose, after)
        event = target.createEvent()
        _done(event.setId(_free(model, f"dose{number + 1}")))
        _done(event.setName(", ".join(f"{d.amount:g} {model.inputs[d.input].unit} {d.input}" for d in by_time[time])))
        _done(event.setUseValuesFromTriggerTime(True))
        trigger = event.createTrigger()
        _done(trigger.setInitialValue(False))  # so that a dose at the very start is given
        _done(trigger.setPersistent(True))
        moment = ex.symbol("t") >= sympy.Float(time - model.start)
        _done(trigger.setMath(formula_node(moment)))
        for name, value in after.items():
            if value != ex.symbol(name):
                item = event.createEventAssignment()
                _done(item.setVariable(name))
                _done(item.setMath(formula_node(value)))


def _after(model: Model, dose: Dose, before: Mapping[str, sympy.Expr]) -> dict[str, sympy.Expr]:
    """States after a dose, in states before the first: every factor and increment is taken from the state before."""
    item = model.inputs[dose.input]
    known = {ex.symbol(name): value for name, value in before.items()}
    known[ex.symbol("amount")] = sympy.Float(dose.amount)
    after = dict(before)
    for name, factor in item.multiply.items():
        after[name] = after[name] * factor.xreplace(known)
    for name, increment in item.add.items():
        after[name] = after[name] + increment.xreplace(known)
    return after


def _free(model: Model, name: str) -> str:
    taken = {*model.constants, *model.covariates, *model.parameters, *model.expressions, *model.states,
             *observable_ids(model).values(), *FUNCTIONS}
    while name in taken:
        name += "_"
    return name
