"""The arithmetic a file may contain: what it means, what is refused, and that nothing is ever run."""

import math

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from thymodel.documents.expressions import parse_expression, symbol, unit_of
from thymodel.documents.units import DIMENSIONLESS, parse_unit, same
from thymodel.dynamics.kernel.tape import Tape, constant, lower
from thymodel.dynamics.symbolic import evaluate

pytestmark = pytest.mark.requirement("REQ-MOD-04")

OUTSIDE = "not arithmetic that a file may contain"
NAMES = {"a", "b", "k_e", "t"}


def value(text: str, **values: float) -> float:
    expression = parse_expression(text, NAMES)
    return float(expression.subs({symbol: values[symbol.name] for symbol in expression.free_symbols}))


# --- meaning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, expected", [
    ("-2**2", -4), ("-2^2", -4), ("2^-1", 0.5), ("2^3^2", 512), ("2**3**2", 512), ("(2^3)^2", 64), ("8/4/2", 1),
    ("8/4*2", 4), ("2 - 3 - 4", -5), ("2*-3", -6), ("+3", 3), ("--3", 3), ("1e3", 1000), ("1_000", 1000),
    (" 1 +\n 2 ", 3), ("abs(-3)", 3), ("sqrt(16)", 4), ("exp(0)", 1), ("log(1)", 0), ("4**0.5", 2), ("0**0", 1)])
def test_precedence_is_that_of_mathematics(text, expected):
    assert value(text) == expected


def test_caret_is_power():
    assert parse_expression("a^b", NAMES) == parse_expression("a**b", NAMES)


def test_a_hill_with_a_whole_exponent_is_its_formula():
    assert value("hill(a, b, 2)", a=3, b=4) == 9 / 25


def test_a_hill_with_another_exponent_stays_whole():
    assert parse_expression("hill(a, b, 1.5)", NAMES).func.__name__ == "hill"


def test_a_hill_with_a_huge_exponent_is_not_written_out():
    assert parse_expression("hill(9, 9, 387420489)", NAMES).func.__name__ == "hill"


@pytest.mark.parametrize("a, expected", [(-1, 1), (0, 2), (5, 2), (10, 3)])
def test_piecewise_takes_the_first_condition_that_holds(a, expected):
    assert value("piecewise(1, a < 0, 2, a < 10, 3)", a=a) == expected


@pytest.mark.parametrize("name", ["expit", "softplus", "log1p"])
def test_the_kept_functions_have_the_derivative_of_their_formula(name):
    a = sympy.Symbol("a", real=True)
    formula = {"expit": 1 / (1 + sympy.exp(-a)), "softplus": sympy.log(1 + sympy.exp(a)), "log1p": sympy.log(1 + a)}
    slope = parse_expression(f"{name}(a)", NAMES).diff(a)
    plain = slope.replace(lambda node: node.func.__name__ == "expit", lambda node: 1 / (1 + sympy.exp(-node.args[0])))
    assert float(plain.subs(a, 0.7)) == pytest.approx(float(formula[name].diff(a).subs(a, 0.7)), rel=1e-12)


@pytest.mark.parametrize("text, expected", [
    ("abs(exp(max(a, b)))", math.exp(2)), ("abs(b*exp(expit(a)))", 2 * math.exp(1 / (1 + math.exp(-0.5)))),
    ("abs(exp(log1p(a) + softplus(b)))", 1.5 * (1 + math.exp(2))), ("abs(exp(-min(a, b)))", math.exp(-0.5)),
    ("abs(-exp(hill(a, b, 1.5)))", math.exp(1 / 9)), ("abs(exp(sqrt(b)))", math.exp(2**0.5)),
    ("abs(b*exp(b**a))", 2 * math.exp(2**0.5)), ("abs(exp(sin(sqrt(b))))", math.exp(math.sin(2**0.5)))])
def test_an_absolute_value_is_one_of_real_numbers(text, expected):
    known = {symbol("a"): 0.5, symbol("b"): 2.0}
    assert float(evaluate(parse_expression(text, NAMES), known)) == pytest.approx(expected, rel=1e-14)
    tape = Tape()
    lower(tape, parse_expression(text, NAMES), {s: constant(tape, v) for s, v in known.items()}, {})  # no KeyError


_LEAVES = st.one_of(st.integers(0, 9).map(str), st.sampled_from(["0.5", "1.25", "2e-1"]),
                    st.sampled_from(["a", "b"]))
_ARITHMETIC = st.recursive(_LEAVES, lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"{parts[0]} {parts[1]} {parts[2]}"),
    st.tuples(inner, st.integers(0, 3)).map(lambda parts: f"({parts[0]})**{parts[1]}"),
    inner.map(lambda text: f"-{text}"), inner.map(lambda text: f"({text})")), max_leaves=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_ARITHMETIC, st.floats(0.1, 3), st.floats(0.1, 3))
def test_arithmetic_agrees_with_python(text, a, b):
    try:
        expected = eval(text, {"__builtins__": {}}, {"a": a, "b": b})  # the text is our own
    except (ZeroDivisionError, OverflowError):
        return
    try:
        expression = parse_expression(text, NAMES)
    except ValueError as error:
        # exact arithmetic sees a division by zero that rounding hides, as in 1/(a - a)
        assert "finite" in str(error)
        return
    symbols = {symbol: sympy.Float(a if symbol.name == "a" else b, 40) for symbol in expression.free_symbols}
    found = complex(expression.subs(symbols))
    # cancellation inside the text loses digits in floating point, not in 40-digit arithmetic
    assert found.imag == 0 and (math.isclose(found.real, expected, rel_tol=1e-6, abs_tol=1e-6) or abs(expected) > 1e6)


# --- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, sentence", [
    ("a.b", OUTSIDE), ("a[0]", OUTSIDE),
    ("lambda: 0", OUTSIDE), ("'a'", "is not a number"),
    ("[a for a in b]", OUTSIDE), ("(a := 3)", OUTSIDE),
    ("a if b else 1", OUTSIDE), ("a and b", OUTSIDE),
    ("not a", OUTSIDE), ("f'{a}'", OUTSIDE),
    ("a, b", OUTSIDE), ("exp(*a)", OUTSIDE),
    ("a // b", "is not one of"), ("a % b", "is not one of"), ("a @ b", "is not one of"),
    ("__import__('os')", "unknown function '__import__'"), ("open('x')", "unknown function 'open'"),
    ("a.exp(b)", "unknown function 'a.exp'"), ("exp.__class__(a)", "unknown function"),
    ("exq(a)", "did you mean 'exp'"), ("exp(a, b)", "takes 1 arguments, found 2"), ("exp(x=a)", "takes 1 arguments"),
    ("max(a)", "takes 2 or more"), ("piecewise(a, t < 1)", "takes 3 or more"), ("k_f", "did you mean 'k_e'"),
    ("zzz", "unknown name 'zzz'"), ("True", "is not a number"), ("None", "is not a number"), ("1j", "is not a number"),
    ("import os", "not arithmetic"), ("a;b", "not arithmetic"), ("a b", "not arithmetic"), ("a\x00", "not arithmetic"),
    ("\ud800", "not arithmetic"), ("", "an empty expression"), (" \n", "an empty expression"),
    ("a # the rest", "a comment"), ("a\n# c\n+ b", "a comment"),
    ("a < b", "a comparison where a number belongs"), ("a + (a < b)", "a comparison where a number belongs"),
    ("-(a < b)", "a comparison where a number belongs"), ("2**(a < b)", "a comparison where a number belongs"),
    ("exp(a < b)", "a comparison where a number belongs"), ("piecewise(1, (a < b) < t, 2)", "a comparison where"),
    ("piecewise(1, a, 2)", "must be a condition"), ("piecewise(1, a < b < t, 2)", "only one of"),
    ("piecewise(1, a == b, 2)", "only one of"), ("piecewise(1, a < 1/0, 2)", "not a finite number"),
    ("1/0", "not a finite number"), ("0/0", "not a finite number"), ("a/(b - b)", "not a finite number"),
    ("log(0)", "not a finite number"), ("0**-1", "not a finite real number"), ("sqrt(-1)", "not a real number"),
    ("log(-1)", "not a real number"), ("sqrt(-exp(a))", "not a real number"),
    ("(-8)**(1/3)", "not a finite real number"),
    ("1e400", "too large"), ("1e308*1e308", "too large"), ("exp(1000)", "too large"), ("1" + "0" * 400, "too large"),
    ("1" + "0" * 5000, "not arithmetic"), ("a" + "*9**64" * 6, "too large"), ("a**10000", "exponent above 1000")])
def test_what_is_not_arithmetic_is_refused_by_name(text, sentence):
    with pytest.raises(ValueError, match=".*") as caught:
        parse_expression(text, NAMES)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("text", [
    "9**9**9", "9**9**9**9", "9**9**9**9**9", "((a*9)**1000)**1000", "exp(exp(exp(100)))", "exp(50)**60",
    "hill(9, 9, 0)**9**9", "sin(exp(exp(20)))", "(" * 500 + "1" + ")" * 500, "-" * 9000 + "1", "a" + "+a" * 4000,
    "1" * 1_000_000])
def test_towers_and_nests_are_refused_at_once(text):
    with pytest.raises(ValueError):
        parse_expression(text, NAMES)


# --- units ---------------------------------------------------------------------------------------------------

UNITS = {name: parse_unit(text) for name, text in
         {"V": "mL", "v": "uL", "n": "cell", "c": "cell/uL", "k": "1/day", "t": "day", "x": "1", "m": "1"}.items()}


def unit(text: str):
    return unit_of(parse_expression(text, UNITS), UNITS, {"m": 2.0})


@pytest.mark.parametrize("text, expected", [
    ("n/v", "cell/uL"), ("k*n", "cell/day"), ("exp(-k*t)*n", "cell"), ("c*v", "cell"), ("n + 0", "cell"),
    ("max(n, 0)", "cell"), ("v**m", "uL^2"), ("sqrt(v**2)", "uL"), ("hill(n, 2*n, x)", "1"), ("abs(n)", "cell"),
    ("piecewise(n, t < 1/k, 2*n)", "cell"), ("x**x", "1"), ("n**0", "1")])
def test_units_follow_the_arithmetic(text, expected):
    found = unit(text)
    assert found is not None and same(found, parse_unit(expected))


def test_a_literal_zero_fits_every_unit():
    assert unit("0") is None


@pytest.mark.parametrize("text, sentence", [
    ("V + v", "cannot add"), ("n/v + 1/v", "cannot add"), ("n + 1", "cannot add"), ("max(n, v)", "cannot add"),
    ("exp(n)", "must be a pure number"), ("exp(k)", "must be a pure number"), ("2**n", "must be a pure number"),
    ("n**x", "not a fixed number"), ("hill(n, v, 2.5)", "cannot compare"), ("hill(n, n, n)", "must be a pure number"),
    ("piecewise(n, t < 1, n)", "cannot compare"), ("piecewise(n, k < 1/t, v)", "cannot choose between")])
def test_what_does_not_balance_is_refused(text, sentence):
    with pytest.raises(ValueError) as caught:
        unit(text)
    assert sentence in str(caught.value)


def test_a_pure_number_has_the_unit_one():
    assert unit("2") == DIMENSIONLESS
