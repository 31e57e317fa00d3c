"""Formulas: read back from the MathML they mean what the solver computes; the LaTeX is LaTeX; symbols are tellable."""

import math
import random
import re
import xml.etree.ElementTree as ET

import pytest
import sympy
from matplotlib.mathtext import MathTextParser

from thymodel.documents.expressions import parse_expression, symbol
from thymodel.documents.model import load_model, parse_model, shipped_models
from thymodel.dynamics.symbolic import evaluate
from thymodel.results import typesetting as ts

pytestmark = pytest.mark.requirement("REQ-MOD-06")

OWN = """
title = "All of the arithmetic"
description = "every function and shape that a document may contain"
[parameters]
k = { unit = "1/day", value = 0.1, source = "test" }
a = { unit = "1", value = 2, source = "test" }
b_long_name = { unit = "1", value = 3, source = "test" }
[states.x]
unit = "1"
initial = "1"
rate = "k*(PLACE)"
[observables.y]
unit = "1"
value = "x"
"""
SHAPES = [
    "-(a + b_long_name)*x", "1 - a - x", "a/(b_long_name*x)", "a**(-b_long_name)*x", "2**(a/b_long_name)",
    "(a + x)**(a/(a + b_long_name))", "sqrt(x)/2", "1/sqrt(x)", "x**2.5", "(x/a)**3", "(-2*x)**2", "exp(-a*x)",
    "1e-7*x + 3.5e6", "hill(x, a, 2.5)", "expit(x - a)", "softplus(x)", "log1p(x)", "log(x)", "abs(x - a)",
    "max(x, a, b_long_name)", "min(max(x, a), 4)", "tanh(x)", "sin(x)*cos(x)", "piecewise(x, x < a, a + x, x >= 4, 2)",
    "2*a/3", "(a + 1)/3 - (x - 2)/(a + 3)", "exp(a)**2", "-x", "x*(2 - a)*(3 - x)", "-2*(x - a)/7",
]


def names_by_mathml(model, names) -> dict[str, str]:
    keys = (*names.place, "amount")
    return {ET.tostring(ET.fromstring(ts.mathml(names.name(key))), encoding="unicode"): key for key in keys}


def read(node: ET.Element, names: dict[str, str]) -> str:
    """Presentation MathML as text of the documents' arithmetic."""
    if (known := names.get(ET.tostring(node, encoding="unicode"))) is not None:
        return known
    inside = [] if node.tag == "mtable" else [read(child, names) for child in node]
    match node.tag:
        case "mrow" | "math":
            if [c.tag for c in node][-1:] == ["mtable"]:
                return inside[-1]
            if node[0].text == "|" and node[-1].text == "|":
                return f"abs({''.join(inside[1:-1])})"
            return "".join(inside)
        case "mfrac":
            return f"(({inside[0]})/({inside[1]}))"
        case "msup":
            return f"(({inside[0]})**({inside[1]}))"
        case "msqrt":
            return f"sqrt({''.join(inside)})"
        case "mtable":
            rows = [[read(cell, names) for cell in row] for row in node]
            return f"piecewise({', '.join(f'{value}, {when}' for value, when in rows[:-1])}, {rows[-1][0]})"
        case "mtd":
            return "".join(inside)
        case "mtext":
            return ""
        case "mo":
            signs = {"−": "-", "×": "*", "\u2062": "*", "\u2061": "", "≤": "<=", "≥": ">="}
            return signs.get(node.text, node.text)
    assert node.tag in ("mi", "mn"), node.tag
    return node.text


def assert_reads_back(model, names, expression):
    """The lines as set, read back and evaluated at random places, against the expression itself."""
    lines = ts.lines(names.tree(expression))
    known = names_by_mathml(model, names)
    text = "".join(read(ET.fromstring(f"<math>{ts.mathml(line, leading=k > 0)}</math>"), known)
                   for k, line in enumerate(lines))
    again = parse_expression(text, set(names.place) | {"amount"})
    generator = random.Random(1)
    for _ in range(3):
        values = {symbol(key): generator.uniform(0.3, 1.7) for key in (*names.place, "amount")}
        expected, found = (float(evaluate(item, dict(values))) for item in (expression, again))
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True), text
        assert math.isfinite(expected) or expression.has(sympy.log, sympy.Pow)


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_what_is_printed_read_back_is_what_is_solved(name):
    model = load_model(name)
    names = ts.Typesetter(model)
    printed = [*model.expressions.values(), *(s.rate for s in model.states.values()),
               *(s.initial for s in model.states.values()), *(o.value for o in model.observables.values())]
    printed += [value for item in model.inputs.values() for value in (*item.add.values(), *item.multiply.values())]
    assert len(printed) > 5
    for expression in printed:
        assert_reads_back(model, names, expression)


@pytest.mark.parametrize("text", SHAPES)
def test_every_shape_of_the_arithmetic_reads_back(text):
    model = parse_model(OWN.replace("PLACE", text), "own.toml")
    assert_reads_back(model, ts.Typesetter(model), model.states["x"].rate)


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_the_latex_of_every_line_is_understood_by_a_typesetter(name):
    model, parser = load_model(name), MathTextParser("path")
    names = ts.Typesetter(model)
    for expression in [*model.expressions.values(), *(s.rate for s in model.states.values())]:
        for k, line in enumerate(ts.lines(names.tree(expression))):
            parser.parse(f"${ts.latex(line, leading=k > 0)}$")  # raises on what it cannot set


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_no_two_names_of_a_model_look_alike(name):
    names = ts.Typesetter(load_model(name))
    looks = [ts.latex(names.name(key)) for key in names.place]
    assert len(looks) == len(set(looks)) > 5


def test_names_that_would_look_alike_are_told_apart():
    text = OWN.replace('b_long_name = {', 'k_B = { unit = "1", value = 3, source = "test" }\nkB = {').replace(
        "PLACE", "k_B + kB")
    names = ts.Typesetter(parse_model(text, "own.toml"))
    assert ts.latex(names.name("k_B")) == "k_B" != ts.latex(names.name("kB"))


@pytest.mark.parametrize(("written", "shown"), [
    ("eta_patient", r"\eta_{\mathrm{patient}}"), ("k_e", "k_e"), ("mu4", r"\mu_4"), ("x50", "x_{50}"),
    ("R4_0", "R_{4,0}"), ("U_R4", "U_{R4}"), ("DP_i", r"\mathrm{DP}_i"), ("KM4", "K_{M4}"), ("pN", "p_N"),
    ("Tbar", r"\bar{T}"), ("CD34_ref", r"\mathrm{CD34}_{\mathrm{ref}}"), ("il7", r"\mathrm{il7}"),
    ("eps_gh", r"\varepsilon_{\mathrm{gh}}"), ("lam", r"\lambda"), ("uL_per_mL", r"\mathrm{uL\ per\ mL}"),
    ("D_i[j-1]", "D_{i,j-1}")])
def test_a_name_becomes_the_symbol_that_a_person_would_write(written, shown):
    assert ts.latex(ts.name(written)) == shown


def test_a_long_sum_is_broken_and_keeps_its_terms():
    model = load_model("thymus_competition")
    tree = ts.Typesetter(model).tree(model.expressions["thymocytes"])
    lines = ts.lines(tree)
    assert len(lines) == 2
    assert [term for line in lines for term in line.terms] == list(tree.terms)
    assert ts.latex(lines[1], leading=True).startswith("+")


@pytest.mark.parametrize(("value", "digits", "shown"), [
    (2.3e7, None, "2.3e7"), (0.94, None, "0.94"), (1e-6, None, "1e-6"), (530.1, 2, "530"), (1.23456e8, 3, "1.23e8"),
    (45.0, None, "45"), (0.0, None, "0"), (123456.0, None, "1.23456e5")])
def test_a_number_is_written_as_a_person_would(value, digits, shown):
    number = ts.decimal(value, digits)
    assert number.text + (f"e{number.exponent}" if number.exponent else "") == shown
    if digits is None:
        assert float(shown) == value


def test_positive_terms_come_first():
    model = load_model("thymus_core")
    shown = ts.latex(ts.Typesetter(model).tree(model.states["e"].rate))
    assert re.match(r".*P - \\left\(k_e - r_e", shown)
