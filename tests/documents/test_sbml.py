"""SBML files as model documents: what a construct means, what is refused, and files that are none."""

import random
import re
import sys

import pytest
import sympy

from thymodel.documents import sbml_math
from thymodel.documents.expressions import parse_expression, symbol
from thymodel.documents.model import parse_model
from thymodel.documents.sbml import load_sbml, read_sbml
from thymodel.documents.sbml_math import formula_node, load_libsbml
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-EXC-01")

libsbml = pytest.importorskip("libsbml", reason="python-libsbml, which reads SBML, is not installed")

CORE = "http://www.sbml.org/sbml/level3/version2/core"


def math(formula: str) -> str:
    """MathML of a formula in libsbml's own notation."""
    text = libsbml.writeMathMLToString(libsbml.parseL3Formula(formula))
    return text.partition("?>")[2] or text


def file(body: str, root: str = "") -> str:
    return f'<sbml xmlns="{CORE}" level="3" version="2" {root}><model id="m">{body}</model></sbml>'


def parameter(name: str, value: str = "1", constant: str = "true") -> str:
    return f'<parameter id="{name}" value="{value}" constant="{constant}"/>'


def with_rule(formula: str, *parameters: str, kind: str = "rateRule", functions: str = "") -> str:
    """x moves by the formula, in the parameters given."""
    return file(f'{functions}<listOfParameters>{"".join(parameters)}{parameter("x", "2", "false")}</listOfParameters>'
                f'<listOfRules><{kind} variable="x">{math(formula)}</{kind}></listOfRules>')


def rate(formula: str, *parameters: str, functions: str = "") -> sympy.Expr:
    """The rate of x that a file says, every named expression written out."""
    from thymodel.dynamics.symbolic import inlined_rates

    text = with_rule(formula, *parameters, functions=functions)
    model = parse_model(read_sbml(text, "file").text, "file")
    return inlined_rates(model)[list(model.states).index("x")].subs(symbol("per_time"), 1)


def faults(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_sbml(text, "file.xml")
    return [str(fault) for fault in caught.value.faults]


# --- formulas --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("formula", "wanted"), [
    ("-x^2", -4.0), ("2^-1*x", 1.0), ("x - (1 - x)", 3.0), ("x/(4/x)", 1.0), ("-x - -x", 0.0), ("(-x)^2", 4.0),
    ("root(3, 8*x/2)", 2.0), ("sqrt(x*8)", 4.0), ("log(2, 8)", 3.0), ("log10(100*x/2)", 2.0), ("ln(exp(x))", 2.0),
    ("sinh(0) + cosh(0) + tanh(0)", 1.0), ("arcsinh(0) + arccosh(1) + arctanh(0)", 0.0), ("tan(0) + sec(0)", 1.0),
    ("max(1, x, 1.5) + min(1, x, 3)", 3.0), ("piecewise(1, x < 1, 5, x < 3, 9)", 5.0), ("piecewise(1, x > 1)", 1.0),
    ("piecewise(1, x == 2, 0)", 1.0), ("piecewise(1, x != 2, 0)", 0.0), ("piecewise(1, x > 1 && x < 2, 0)", 0.0),
    ("piecewise(1, x > 3 || x < 3, 0)", 1.0), ("piecewise(1, !(x > 1), 0)", 0.0), ("piecewise(1, lt(1, x, 3), 0)", 1.0),
    ("piecewise(1, xor(x > 1, x > 1), 0)", 0.0), ("piecewise(1, xor(x > 1, x > 1, x > 1), 0)", 1.0),
    ("piecewise(1, implies(x > 1, x > 5), 0)", 0.0), ("piecewise(1, piecewise(x, x > 1, 0) > 1, 0)", 1.0),
    ("(x > 1) + (x > 5)", 1.0), ("piecewise(3, true, 4)", 3.0), ("avogadro/6.02214179e23", 1.0),
    ("+".join(["x"] * 150), 300.0),
])
def test_a_formula_keeps_its_value(formula, wanted):
    value = rate(formula).subs(symbol("x"), 2).replace(lambda node: isinstance(node, sympy.Function), _evaluated)
    assert float(value) == pytest.approx(wanted, rel=1e-14, abs=1e-14)


def _evaluated(node: sympy.Basic) -> sympy.Basic:
    kept = {"maximum": sympy.Max, "minimum": sympy.Min}.get(type(node).__name__)
    return kept(*node.args) if kept else node


def test_a_function_is_written_out_and_its_arguments_do_not_mix():
    functions = ("<listOfFunctionDefinitions>"
                 f'<functionDefinition id="f">{math("lambda(x, k, x - k)")}</functionDefinition>'
                 f'<functionDefinition id="g">{math("lambda(k, x, f(k, x)*2)")}</functionDefinition>'
                 "</listOfFunctionDefinitions>")
    k, x = symbol("k"), symbol("x")
    assert sympy.expand(rate("g(k, x)", parameter("k"), functions=functions) - 2 * (k - x)) == 0


def test_functions_that_double_without_end_are_refused():
    functions = "".join(f'<functionDefinition id="f{k}">{math(f"lambda(x, f{k - 1}(x) + f{k - 1}(x))")}'
                        "</functionDefinition>" for k in range(1, 40))
    first = f'<functionDefinition id="f0">{math("lambda(x, x)")}</functionDefinition>'
    text = with_rule("f39(x)", functions=f"<listOfFunctionDefinitions>{first}{functions}</listOfFunctionDefinitions>")
    assert "when written out" in faults(text)[0] or "with the functions written out" in faults(text)[0]


@pytest.mark.parametrize("name", ["lambda", "t", "amount", "exp", "_x1", "None", "per_time", "x_0", "idle"])
def test_an_id_that_our_files_cannot_have_gets_another_name(name):
    reading = read_sbml(with_rule("k1*x", parameter("k1"), parameter(name, "3")).replace("k1", name)
                        .replace(parameter(name), "", 1), "file")
    model = parse_model(reading.text, "file")
    assert model.parameters[reading.names[name]].value == 3
    assert symbol(reading.names[name]) in model.states["x"].rate.free_symbols


@pytest.mark.parametrize("text", ["a*b/c", "a - (b - c)", "-a**2", "a**-2", "exp(-a/b)", "sqrt(a)/b", "a**b",
                                  "piecewise(a, t < 3, b*t, t >= c, 0)", "max(a, min(b, 0.1))", "hill(a, b, c)",
                                  "softplus(a) + expit(b)*log1p(c)", "abs(a)*tanh(b)*sin(c)*cos(a)", "1/(a*b)", "0.1"])
def test_what_is_written_is_read_back(text):
    names = ("a", "b", "c", "t")
    expression = parse_expression(text, names)
    functions = {}
    for name, (arguments, body) in sbml_math.FUNCTIONS.items():
        node = libsbml.ASTNode(libsbml.AST_LAMBDA)
        for part in (*map(symbol, arguments), parse_expression(body, arguments)):
            node.addChild(formula_node(part))
        functions[name] = node
    refused: list[str] = []
    meaning = sbml_math.Meaning(lambda key: key, "t", functions, refused.append, lambda inner: inner)
    back = parse_expression(sbml_math.formula_text(formula_node(expression), meaning), names)
    at = {symbol("a"): 0.3, symbol("b"): 1.7, symbol("c"): 2.5, symbol("t"): 2.9}
    assert refused == []
    assert _value(back, at) == pytest.approx(_value(expression, at), rel=1e-12)


def _value(expression: sympy.Expr, at) -> float:
    from thymodel.dynamics.symbolic import evaluate

    return float(evaluate(expression, dict(at)))


# --- quantities ------------------------------------------------------------------------------------------------


def reaction(law: str, extra: str = "", attributes: str = "") -> str:
    return file('<listOfCompartments><compartment id="c" spatialDimensions="3" size="2" constant="true"/>'
                '</listOfCompartments><listOfSpecies>'
                '<species id="s" compartment="c" initialAmount="6" hasOnlySubstanceUnits="false"'
                ' boundaryCondition="false" constant="false"/></listOfSpecies>'
                f'<listOfParameters>{parameter("k", "0.5")}</listOfParameters>'
                f'<listOfReactions><reaction id="r" reversible="false" {attributes}><listOfReactants>'
                '<speciesReference species="s" stoichiometry="2" constant="true"/></listOfReactants>'
                f"{law}</reaction></listOfReactions>{extra}")


def law(formula: str, own: str = "") -> str:
    return f"<kineticLaw>{math(formula)}{own}</kineticLaw>"


def test_an_amount_in_a_compartment_becomes_a_concentration():
    model = parse_model(read_sbml(reaction(law("k*s")), "file").text, "file")
    assert {name: item.value for name, item in model.parameters.items()} == {"c": 2.0, "k": 0.5, "s_0_amount": 6.0}
    assert str(model.expressions["s_0"]) == "s_0_amount/c"
    s, c, r = symbol("s"), symbol("c"), symbol("r")
    assert sympy.expand(model.states["s"].rate - symbol("per_time") * -2 * r / c) == 0
    assert model.observables["amount_s"].value == s * c


def test_a_local_parameter_hides_the_models():
    own = '<listOfLocalParameters><localParameter id="k" value="7"/></listOfLocalParameters>'
    model = parse_model(read_sbml(reaction(law("k*s", own)), "file").text, "file")
    assert model.parameters["r_k"].value == 7
    assert model.expressions["r"] == symbol("r_k") * symbol("s")


def test_labels_and_sources_say_where_a_number_comes_from():
    model = parse_model(read_sbml(reaction(law("k*s")), "file").text, "file")
    assert model.parameters["k"].source == "the SBML file, k"
    assert not model.parameters["k"].verified


LEVEL_2 = """<sbml xmlns="http://www.sbml.org/sbml/level2/version4" level="2" version="4"><model id="m">
<listOfCompartments><compartment id="c" size="2"/></listOfCompartments>
<listOfSpecies><species id="s" compartment="c" initialConcentration="3"/></listOfSpecies>
<listOfParameters><parameter id="k" value="0.5"/></listOfParameters>
<listOfReactions><reaction id="r" reversible="false"><listOfReactants><speciesReference species="s"><stoichiometryMath>
<math xmlns="http://www.w3.org/1998/Math/MathML"><apply><times/><cn>2</cn><ci>k</ci></apply></math></stoichiometryMath>
</speciesReference></listOfReactants><kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML"><apply><times/><ci>q</ci>
<ci>s</ci></apply></math><listOfParameters><parameter id="q" value="7"/></listOfParameters></kineticLaw></reaction>
</listOfReactions></model></sbml>"""


def test_level_2_has_stoichiometry_as_a_formula_and_time_in_seconds():
    model = parse_model(read_sbml(LEVEL_2, "file").text, "file")
    s, c, r, k = map(symbol, ("s", "c", "r", "k"))
    assert sympy.expand(model.states["s"].rate + symbol("per_time") * 2 * k * r / c) == 0
    assert model.expressions["r"] == symbol("r_q") * s
    assert model.time == "s"


def event(trigger: str, inside: str = "", value: str = "x + 1") -> str:
    return file(f'<listOfParameters>{parameter("k", "3")}{parameter("x", "2", "false")}</listOfParameters>'
                '<listOfEvents><event id="e" useValuesFromTriggerTime="true">'
                f'<trigger initialValue="true" persistent="true">{trigger}</trigger>{inside}<listOfEventAssignments>'
                f'<eventAssignment variable="x">{math(value)}</eventAssignment></listOfEventAssignments>'
                "</event></listOfEvents>")


@pytest.mark.parametrize("trigger", ["time >= 6", "time > 6", "6 <= time", "6 < time", "time >= 2*k"])
def test_an_event_at_a_fixed_time_is_scheduled(trigger):
    model = parse_model(read_sbml(event(math(trigger)), "file").text, "file")
    assert model.inputs["e"].scheduled == ((6.0, 1.0),)
    assert (model.inputs["e"].multiply["x"], model.inputs["e"].add["x"]) == (0, symbol("x") + 1)


def test_a_trigger_that_holds_from_the_start_never_fires():
    assert parse_model(read_sbml(event(math("time >= 0")), "file").text, "file").inputs == {}


def test_a_scheduled_event_acts():
    from thymodel.results.simulation import simulate

    model = parse_model(read_sbml(event(math("time >= 6"), value="x*time"), "file").text, "file")
    assert simulate(model, [1, 5, 6, 7])["x"].tolist() == [2, 2, 2, 12]


# --- refusals --------------------------------------------------------------------------------------------------


def test_everything_that_is_not_supported_is_listed_at_once():
    delay = f"<delay>{math('1')}</delay>"
    text = event(math("x > 1"), delay).replace(
        "<listOfEvents>", f"<listOfRules><algebraicRule>{math('x - k')}</algebraicRule></listOfRules><listOfEvents>")
    found = faults(text)
    assert len(found) == 3
    assert "algebraic rule is not supported" in found[0]
    assert found[1] == "file.xml: event e: event with delay is not supported"
    assert "event e: event whose trigger is not a fixed time" in found[2]


@pytest.mark.parametrize(("formula", "name"), [
    ("floor(x)", "MathML floor"), ("ceil(x)", "MathML ceiling"), ("factorial(3)", "MathML factorial"),
    ("arctan(x)", "MathML arctan"), ("rem(x, 2)", "MathML rem"), ("quotient(x, 2)", "MathML quotient"),
    ("delay(x, 1)", "csymbol delay"), ("rateOf(k)", "csymbol rateOf")])
def test_mathematics_that_our_files_lack_is_refused_by_name(formula, name):
    assert faults(with_rule(formula, parameter("k"))) == [f"file.xml: parameter x: {name} is not supported"]


@pytest.mark.parametrize(("text", "sentence"), [
    (reaction(""), "reaction r: a reaction without kinetic law is not supported"),
    (reaction(law("k*s")).replace(parameter("k", "0.5"), '<parameter id="k" constant="true"/>'),
     "parameter k: it has no value"),
    (reaction(law("k*s")).replace(' initialAmount="6"', ""), "species s: it has no initial amount or concentration"),
    (reaction(law("k*s")).replace('value="0.5"', 'value="INF"'), "parameter k: the value inf"),
    (reaction(law("k*nowhere")), "nowhere"),
])
def test_a_model_that_is_not_whole_is_refused(text, sentence):
    assert sentence in " ".join(faults(text))


def test_a_fast_reaction_is_refused():
    text = reaction(law("k*s"), attributes='fast="true"').replace("version2/core", "version1/core").replace(
        'version="2"', 'version="1"')
    assert faults(text) == ["file.xml: reaction r: fast reaction is not supported"]


def test_a_package_that_is_used_is_refused_and_one_that_is_only_named_is_not():
    comp = "http://www.sbml.org/sbml/level3/version1/comp/version1"
    named = with_rule("x").replace("<sbml ", f'<sbml xmlns:comp="{comp}" comp:required="true" ')
    assert read_sbml(named, "file").document["states"].keys() == {"x"}
    used = named.replace("</model>", '<comp:listOfPorts><comp:port comp:id="p" comp:idRef="x"/></comp:listOfPorts>'
                         "</model>")
    assert "file.xml: sbml: package comp is not supported" in faults(used)


# --- files that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "sentence"), [
    ("", "the file is empty"), ("  \n", "the file is empty"), ("hello", "not XML"), ("<html/>", "not SBML"),
    (with_rule("x")[:200], "not XML"), ("<sbml/>", "not valid SBML"),
    (f'<sbml xmlns="{CORE}" level="3" version="2"/>', "no <model>"),
    ('<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model/></sbml>', "SBML Level 1"),
    ('<!DOCTYPE s [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><sbml>&b;</sbml>', "document type declaration"),
    ('<!DOCTYPE s SYSTEM "file:///etc/passwd"><sbml/>', "document type declaration"),
    ("<sbml>" + "<a>" * 100_000, "nested deeper"), ('<?xml version="1.0" encoding="UTF-7"?><sbml/>', "the encoding"),
])
def test_a_file_that_is_no_model_is_one_fault(text, sentence):
    [found] = faults(text)
    assert sentence in found


def wounded(text: str, seed: int) -> str:
    """One or two tags, contents or attributes made another of the same text, doubled or lost."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 2)):
        pieces = list(re.finditer(r'"[^"]*"|<[^<>]+>|(?<=>)[^<>]+(?=<)', text))
        piece, other = chance.choice(pieces), chance.choice(pieces).group()
        new = chance.choice([other if other[0] == piece.group()[0] else piece.group(), piece.group() * 2, ""])
        text = text[:piece.start()] + new + text[piece.end():]
    return text


def test_a_wounded_file_is_read_or_refused():
    whole = reaction(law("k*s/(2 + s) - piecewise(s, s < k, root(3, s))"), "<listOfEvents>" + event(
        math("time >= 6"), value="min(k, 3)").partition("<listOfEvents>")[2].partition("</listOfEvents>")[0].replace(
        'variable="x"', 'variable="s"') + "</listOfEvents>")
    parse_model(read_sbml(whole, "whole").text, "whole")
    good = 0
    for seed in range(2000):
        try:
            parse_model(read_sbml(wounded(whole, seed), "file").text, "file")
            good += 1
        except InputError as error:
            assert error.faults and all(fault.where and fault.what for fault in error.faults), seed
    assert 0 < good < 2000


@pytest.mark.parametrize("kind, arguments, sentence", [
    ("AST_DIVIDE", 1, "MathML divide with 1 arguments"), ("AST_DIVIDE", 3, "MathML divide with 3 arguments"),
    ("AST_MINUS", 0, "MathML minus with 0 arguments"), ("AST_FUNCTION_MAX", 0, "MathML max with 0 arguments"),
    ("AST_FUNCTION_EXP", 2, "MathML exp with 2 arguments"), ("AST_LOGICAL_NOT", 0, "MathML not with 0 arguments"),
    ("AST_FUNCTION_PIECEWISE", 0, "MathML piecewise with 0 arguments")])
def test_an_operator_with_a_wrong_number_of_arguments_is_refused(kind, arguments, sentence):
    """libsbml lets some of them pass."""
    node = libsbml.ASTNode(getattr(libsbml, kind))
    for _ in range(arguments):
        node.addChild(formula_node(symbol("x")))
    meaning = sbml_math.Meaning(lambda key: key, "t", {}, lambda what: None, lambda inner: inner)
    with pytest.raises(ValueError, match=sentence):
        sbml_math.formula_text(node, meaning)


@pytest.mark.parametrize("content", [b"\xff\xfe<\0s\0", b" " * 5_000_001])
def test_a_file_that_cannot_be_read_is_one_fault(content, tmp_path):
    (tmp_path / "model.xml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_sbml(tmp_path / "model.xml")
    assert len(caught.value.faults) == 1


def test_without_libsbml_the_command_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "libsbml", None)
    load_libsbml.cache_clear()
    try:
        assert faults(with_rule_text) == ["SBML: reading and writing it needs python-libsbml, which is not installed. "
                                          'hint: pip install python-libsbml, or pip install "thymodel[sbml]"']
    finally:
        load_libsbml.cache_clear()


with_rule_text = with_rule("x")  # written before libsbml goes
