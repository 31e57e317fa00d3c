"""MathML as libsbml holds it, to and from the arithmetic of our files.

Reading writes a formula out as text that `expressions.parse_expression` reads like any other: function definitions are
inlined, and conditions that our files do not have (and, or, not, equality, booleans as numbers) become nested
`piecewise`. Writing goes from sympy to libsbml's nodes. No text is run on the way.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import sympy

from thymodel.documents import expressions as ex
from thymodel.errors import Fault, InputError

AVOGADRO = 6.02214179e23  # the csymbol's value is fixed by SBML Level 3 Version 2 core, section 3.4.6
MOST_NODES = 200_000  # visited in one file; function definitions that call each other twice would double without end
_WIDE = 20  # more terms than this are written in groups: the text is nested as deep as an ungrouped sum is long
_PREFIX = re.compile(r"AST_(FUNCTION_|LOGICAL_|RELATIONAL_)?")
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(5)

# a node of a formula, and the meaning of the bound names in it: a text, or another node with its own
Node = Any
Bound = Mapping[str, "str | tuple[Node, Bound]"]


@cache
def load_libsbml() -> Any:
    """The module libsbml.

    Raises:
        InputError: the package is not installed.
    """
    try:
        import libsbml
    except ImportError:
        hint = 'pip install python-libsbml, or pip install "thymodel[sbml]"'
        raise InputError([Fault("SBML", "reading and writing it needs python-libsbml, which is not installed",
                                hint)]) from None
    return libsbml


class Piece(NamedTuple):
    """A part of a formula as text, and how tightly its outermost operator binds."""

    text: str
    level: int


@dataclass(frozen=True)
class Meaning:
    """What the symbols of a formula stand for.

    Args:
        name: text of a symbol of the model.
        time: text of the csymbol time.
        functions: lambda nodes of the function definitions by id.
        refuse: told of every construct that our files lack.
        define: gives a name to an expression that may not stand where it is wanted.
        visited: nodes seen so far in this file, one number.
    """

    name: Callable[[str], str]
    time: str
    functions: Mapping[str, Node]
    refuse: Callable[[str], None]
    define: Callable[[str], str]
    visited: list[int] = field(default_factory=lambda: [0])


def formula_text(node: Node, meaning: Meaning, bound: Bound | None = None) -> str:
    """A formula as text of our files.

    Raises:
        ValueError: too large when written out.
    """
    return _number(node, meaning, bound or {}).text


# --- reading: numbers ------------------------------------------------------------------------------------------


def _number(node: Node, meaning: Meaning, bound: Bound) -> Piece:
    piece = _piece(node, meaning, bound)
    if len(piece.text) > ex.LONGEST_EXPRESSION:
        raise ValueError(f"a formula of more than {ex.LONGEST_EXPRESSION} characters when written out")
    return piece


def _piece(node: Node, meaning: Meaning, bound: Bound) -> Piece:
    sbml, kind = load_libsbml(), node.getType()
    _count(meaning)
    if node.isNumber():
        return _literal(node)
    if kind == sbml.AST_NAME:
        return _symbol(node.getName(), meaning, bound)
    if kind == sbml.AST_NAME_TIME:
        return Piece(meaning.time, _PRODUCT)
    if kind in (sbml.AST_NAME_AVOGADRO, sbml.AST_CONSTANT_E, sbml.AST_CONSTANT_PI):
        value = {sbml.AST_NAME_AVOGADRO: AVOGADRO, sbml.AST_CONSTANT_E: math.e}.get(kind, math.pi)
        return Piece(repr(value), _ATOM)
    if kind == sbml.AST_FUNCTION_PIECEWISE:
        return _piecewise(node, meaning, bound)
    if kind == sbml.AST_FUNCTION and node.getName() in meaning.functions:
        body, inner = _inlined(node, meaning, bound)
        return _number(body, meaning, inner)
    if _is_condition(node):
        return Piece(_choose(node, "1", "0", meaning, bound), _ATOM)
    return _operation(node, kind, meaning, bound)


def _count(meaning: Meaning) -> None:
    meaning.visited[0] += 1
    if meaning.visited[0] > MOST_NODES:
        raise ValueError(f"more than {MOST_NODES} nodes of MathML with the functions written out")


def _literal(node: Node) -> Piece:
    sbml, kind = load_libsbml(), node.getType()
    if kind == sbml.AST_INTEGER:
        return _signed(str(node.getInteger()))
    if kind == sbml.AST_RATIONAL:
        return Piece(f"{_signed(str(node.getNumerator())).text}/{node.getDenominator()}", _PRODUCT)
    value = node.getReal()
    if kind == sbml.AST_REAL_E:  # the product of mantissa and power is rounded once more than the number
        value = float(f"{node.getMantissa()!r}e{node.getExponent()}")
    if not math.isfinite(value):
        raise ValueError(f"the number {value}, which no file of ours may contain")
    return _signed(repr(value))


def _signed(text: str) -> Piece:
    return Piece(f"({text})", _ATOM) if text.startswith("-") else Piece(text, _ATOM)


def _symbol(name: str, meaning: Meaning, bound: Bound) -> Piece:
    held = bound.get(name)
    if held is None:
        return Piece(meaning.name(name), _ATOM)
    return Piece(held, _ATOM) if isinstance(held, str) else _number(held[0], meaning, held[1])


def _inlined(node: Node, meaning: Meaning, bound: Bound) -> tuple[Node, Bound]:
    """Body of the function that a node calls, and its arguments by name."""
    function = meaning.functions[node.getName()]
    *names, body = [function.getChild(k) for k in range(function.getNumChildren())]
    if len(names) != node.getNumChildren():
        raise ValueError(f"{node.getName()}() takes {len(names)} arguments, found {node.getNumChildren()}")
    return body, {name.getName(): (node.getChild(k), bound) for k, name in enumerate(names)}


def _children(node: Node) -> list[Node]:
    return [node.getChild(k) for k in range(node.getNumChildren())]


def _terms(node: Node, kind: int) -> list[Node]:
    """Children, and in place of a sum inside a sum or a product inside a product its own: many tools nest in pairs."""
    if kind not in (load_libsbml().AST_PLUS, load_libsbml().AST_TIMES):
        return _children(node)
    waiting, found = _children(node)[::-1], []
    while waiting:
        child = waiting.pop()
        if child.getType() == kind:
            waiting += _children(child)[::-1]
        else:
            found.append(child)
    return found


def _operation(node: Node, kind: int, meaning: Meaning, bound: Bound) -> Piece:
    sbml = load_libsbml()
    if kind not in _operations():
        meaning.refuse(_tag(node))
        return Piece("1", _ATOM)
    parts = [_number(child, meaning, bound) for child in _terms(node, kind)]
    if kind == sbml.AST_PLUS:
        return joined(" + ", parts)
    if kind == sbml.AST_TIMES:
        return joined("*", parts)
    _check_count(node, _counts().get(kind, (1, 1)))
    return _operations()[kind](*parts)


def _check_count(node: Node, allowed: tuple[float, float]) -> None:
    if not allowed[0] <= node.getNumChildren() <= allowed[1]:
        raise ValueError(f"{_tag(node)} with {node.getNumChildren()} arguments")


@cache
def _counts() -> dict[int, tuple[float, float]]:
    """Fewest and most arguments of what does not take one."""
    sbml = load_libsbml()
    return {
        sbml.AST_MINUS: (1, 2), sbml.AST_DIVIDE: (2, 2), sbml.AST_POWER: (2, 2), sbml.AST_FUNCTION_POWER: (2, 2),
        sbml.AST_FUNCTION_ROOT: (1, 2), sbml.AST_FUNCTION_LOG: (1, 2), sbml.AST_FUNCTION_MIN: (1, math.inf),
        sbml.AST_FUNCTION_MAX: (1, math.inf), sbml.AST_LOGICAL_IMPLIES: (2, 2),
        sbml.AST_FUNCTION_PIECEWISE: (1, math.inf),
    }


def wrapped(piece: Piece, level: int) -> str:
    """The text, in brackets where its operator binds less than `level`."""
    return piece.text if piece.level >= level else f"({piece.text})"


def joined(sign: str, parts: Sequence[Piece]) -> Piece:
    """A sum or a product of any number of parts."""
    level, nothing = (_SUM, "0") if sign == " + " else (_PRODUCT, "1")
    if not parts:
        return Piece(nothing, _ATOM)
    while len(parts) > _WIDE:
        parts = [Piece(f"({joined(sign, parts[k:k + _WIDE]).text})", _ATOM) for k in range(0, len(parts), _WIDE)]
    if len(parts) == 1:
        return parts[0]
    return Piece(sign.join(wrapped(part, level + (k > 0)) for k, part in enumerate(parts)), level)


def _call(name: str, *parts: Piece) -> Piece:
    return Piece(f"{name}({', '.join(part.text for part in parts)})", _ATOM)


def _minus(a: Piece, b: Piece | None = None) -> Piece:
    if b is None:
        return Piece(f"-{wrapped(a, _POWER)}", _SIGN)
    return Piece(f"{wrapped(a, _SUM)} - {wrapped(b, _PRODUCT)}", _SUM)


def _divide(a: Piece, b: Piece) -> Piece:
    return Piece(f"{wrapped(a, _PRODUCT)}/{wrapped(b, _SIGN)}", _PRODUCT)


def _power(base: Piece, exponent: Piece) -> Piece:
    return Piece(f"{wrapped(base, _ATOM)}**{wrapped(exponent, _ATOM)}", _POWER)


def _root(*parts: Piece) -> Piece:
    degree, value = parts if len(parts) == 2 else (Piece("2", _ATOM), parts[0])
    return _call("sqrt", value) if degree.text == "2" else _power(value, _divide(Piece("1", _ATOM), degree))


def _logarithm(*parts: Piece) -> Piece:
    base, value = parts if len(parts) == 2 else (Piece("10", _ATOM), parts[0])
    return _divide(_call("log", value), _call("log", base))


def _written(pattern: str) -> Callable[[Piece], Piece]:
    """A function of one argument that our files lack but can say."""
    return lambda x: Piece(pattern.replace("#", wrapped(x, _ATOM)), _ATOM)


@cache
def _operations() -> dict[int, Callable[..., Piece]]:
    sbml = load_libsbml()

    def named(name: str) -> Callable[..., Piece]:
        return lambda *parts: _call(name, *parts)

    def many(name: str) -> Callable[..., Piece]:
        return lambda first, *rest: _call(name, first, *rest) if rest else first

    return {
        sbml.AST_PLUS: joined, sbml.AST_TIMES: joined, sbml.AST_MINUS: _minus, sbml.AST_DIVIDE: _divide,
        sbml.AST_POWER: _power, sbml.AST_FUNCTION_POWER: _power, sbml.AST_FUNCTION_ROOT: _root,
        sbml.AST_FUNCTION_EXP: named("exp"), sbml.AST_FUNCTION_LN: named("log"), sbml.AST_FUNCTION_LOG: _logarithm,
        sbml.AST_FUNCTION_ABS: named("abs"), sbml.AST_FUNCTION_TANH: named("tanh"),
        sbml.AST_FUNCTION_SIN: named("sin"), sbml.AST_FUNCTION_COS: named("cos"),
        sbml.AST_FUNCTION_MIN: many("min"), sbml.AST_FUNCTION_MAX: many("max"),
        sbml.AST_FUNCTION_TAN: _written("(sin(#)/cos(#))"), sbml.AST_FUNCTION_COT: _written("(cos(#)/sin(#))"),
        sbml.AST_FUNCTION_SEC: _written("(1/cos(#))"), sbml.AST_FUNCTION_CSC: _written("(1/sin(#))"),
        sbml.AST_FUNCTION_SINH: _written("((exp(#) - exp(-#))/2)"),
        sbml.AST_FUNCTION_COSH: _written("((exp(#) + exp(-#))/2)"),
        sbml.AST_FUNCTION_SECH: _written("(2/(exp(#) + exp(-#)))"),
        sbml.AST_FUNCTION_ARCSINH: _written("log(# + sqrt(#**2 + 1))"),
        sbml.AST_FUNCTION_ARCCOSH: _written("log(# + sqrt(#**2 - 1))"),
        sbml.AST_FUNCTION_ARCTANH: _written("(log((1 + #)/(1 - #))/2)"),
    }


def _tag(node: Node) -> str:
    """What a construct is called in MathML or SBML, for the message that refuses it."""
    sbml, kind = load_libsbml(), node.getType()
    known = {sbml.AST_FUNCTION_DELAY: "csymbol delay", sbml.AST_FUNCTION_RATE_OF: "csymbol rateOf"}
    if kind in known:
        return known[kind]
    if kind == sbml.AST_FUNCTION:
        return f"function {node.getName()} without a definition"
    names = {getattr(sbml, name): name for name in dir(sbml) if name.startswith("AST_")}
    return f"MathML {_PREFIX.sub('', names.get(kind, 'construct')).lower()}"


# --- reading: conditions ---------------------------------------------------------------------------------------


def _is_condition(node: Node) -> bool:
    sbml = load_libsbml()
    return (node.isRelational() or node.isLogical()
            or node.getType() in (sbml.AST_CONSTANT_TRUE, sbml.AST_CONSTANT_FALSE, sbml.AST_LOGICAL_IMPLIES))


def _piecewise(node: Node, meaning: Meaning, bound: Bound) -> Piece:
    """Without `otherwise` nothing is said beyond the last condition; the last value is then taken there too."""
    _check_count(node, (1, math.inf))
    children = _children(node)
    otherwise = children[-1] if len(children) % 2 else children[-2]
    result = _number(otherwise, meaning, bound)
    for k in reversed(range(0, len(children) - 1, 2)):
        result = Piece(_choose(children[k + 1], _number(children[k], meaning, bound).text, result.text, meaning, bound),
                       _ATOM)
    return result


def _choose(node: Node, yes: str, no: str, meaning: Meaning, bound: Bound) -> str:
    """`yes` where the condition holds, else `no`."""
    sbml, kind = load_libsbml(), node.getType()
    _count(meaning)
    if len(yes) + len(no) > ex.LONGEST_EXPRESSION:
        raise ValueError(f"a condition of more than {ex.LONGEST_EXPRESSION} characters when written out")
    if yes == no:
        return yes

    def choose(inner: Node, a: str, b: str, known: Bound = bound) -> str:
        return _choose(inner, a, b, meaning, known)

    parts = _children(node)
    if kind in (sbml.AST_LOGICAL_NOT, sbml.AST_LOGICAL_IMPLIES, sbml.AST_FUNCTION_PIECEWISE):
        _check_count(node, _counts().get(kind, (1, 1)))
    if kind in (sbml.AST_CONSTANT_TRUE, sbml.AST_CONSTANT_FALSE):
        return yes if kind == sbml.AST_CONSTANT_TRUE else no
    if node.isRelational():
        return _related(kind, [_number(part, meaning, bound) for part in parts], yes, no, meaning)
    if kind == sbml.AST_LOGICAL_NOT:
        return choose(parts[0], no, yes)
    if kind == sbml.AST_LOGICAL_IMPLIES:
        return choose(parts[0], choose(parts[1], yes, no), yes)
    if kind == sbml.AST_LOGICAL_XOR:
        return _odd(parts, yes, no, choose)
    if kind in (sbml.AST_LOGICAL_AND, sbml.AST_LOGICAL_OR):
        result = yes if kind == sbml.AST_LOGICAL_AND else no
        for part in reversed(parts):
            result = choose(part, result, no) if kind == sbml.AST_LOGICAL_AND else choose(part, yes, result)
        return result
    if kind == sbml.AST_FUNCTION and node.getName() in meaning.functions:
        body, inner = _inlined(node, meaning, bound)
        return choose(body, yes, no, inner)
    held = bound.get(node.getName()) if kind == sbml.AST_NAME else None
    if isinstance(held, tuple):
        return choose(held[0], yes, no, held[1])
    if kind == sbml.AST_FUNCTION_PIECEWISE:
        result = choose(parts[-1] if len(parts) % 2 else parts[-2], yes, no)
        for k in reversed(range(0, len(parts) - 1, 2)):
            result = choose(parts[k + 1], choose(parts[k], yes, no), result)
        return result
    return _related(sbml.AST_RELATIONAL_NEQ, [_number(node, meaning, bound), Piece("0", _ATOM)], yes, no, meaning)


def _odd(parts: Sequence[Node], yes: str, no: str, choose: Callable[[Node, str, str], str]) -> str:
    """`yes` where an odd number of the conditions holds."""
    if not parts:
        return no
    return choose(parts[0], _odd(parts[1:], no, yes, choose), _odd(parts[1:], yes, no, choose))


def _related(kind: int, parts: Sequence[Piece], yes: str, no: str, meaning: Meaning) -> str:
    """A comparison, which may be a chain (a < b < c): every neighbouring pair has to hold."""
    sbml = load_libsbml()
    signs = {sbml.AST_RELATIONAL_LT: ["<"], sbml.AST_RELATIONAL_LEQ: ["<="], sbml.AST_RELATIONAL_GT: [">"],
             sbml.AST_RELATIONAL_GEQ: [">="], sbml.AST_RELATIONAL_EQ: ["<=", ">="]}
    if kind == sbml.AST_RELATIONAL_NEQ:
        return _related(sbml.AST_RELATIONAL_EQ, parts, no, yes, meaning)
    # a comparison of piecewise values needs a name: our conditions hold none
    sides = [meaning.define(part.text) if "piecewise(" in part.text else part.text for part in parts]
    result = yes
    for a, b in reversed(list(zip(sides[:-1], sides[1:], strict=True))):
        for sign in signs[kind]:
            result = f"piecewise({result}, {a} {sign} {b}, {no})"
    return result


# --- writing ---------------------------------------------------------------------------------------------------


def formula_node(expression: sympy.Basic) -> Node:
    """A libsbml node of an expression of ours; `t` becomes the csymbol time.

    `expit`, `softplus`, `log1p` and `hill` call the function definitions of `FUNCTIONS`.
    """
    sbml = load_libsbml()
    if isinstance(expression, sympy.Symbol):
        return _time() if expression.name == "t" else _named(sbml.AST_NAME, expression.name)
    if isinstance(expression, sympy.Number | sympy.NumberSymbol):
        return _value(expression)
    if isinstance(expression, sympy.Piecewise):
        return _written_piecewise(expression)
    if isinstance(expression, sympy.Pow):
        return _written_power(expression)
    if isinstance(expression, sympy.Mul):
        return _written_product(expression)
    children = [formula_node(arg) for arg in expression.args]
    name = type(expression).__name__
    if name in FUNCTIONS:
        return _node(sbml.AST_FUNCTION, children, name)
    return _node(_kinds()[type(expression)], children)


# the definitions that a written file holds, as text of our files: their bodies must not call each other
FUNCTIONS = {
    "expit": (("x",), "1/(1 + exp(-x))"),
    "softplus": (("x",), "max(x, 0) + log(1 + exp(-abs(x)))"),  # log(1 + exp(x)) would overflow
    "log1p": (("x",), "log(1 + x)"),
    "hill": (("x", "ec50", "n"), "piecewise(1/(1 + (ec50/x)**n), x > 0, 0)"),
}


@cache
def _kinds() -> dict[type, int]:
    sbml = load_libsbml()
    return {
        sympy.Add: sbml.AST_PLUS, sympy.exp: sbml.AST_FUNCTION_EXP, sympy.log: sbml.AST_FUNCTION_LN,
        sympy.Abs: sbml.AST_FUNCTION_ABS, sympy.tanh: sbml.AST_FUNCTION_TANH, sympy.sin: sbml.AST_FUNCTION_SIN,
        sympy.cos: sbml.AST_FUNCTION_COS, ex.maximum: sbml.AST_FUNCTION_MAX, ex.minimum: sbml.AST_FUNCTION_MIN,
        sympy.StrictLessThan: sbml.AST_RELATIONAL_LT, sympy.LessThan: sbml.AST_RELATIONAL_LEQ,
        sympy.StrictGreaterThan: sbml.AST_RELATIONAL_GT, sympy.GreaterThan: sbml.AST_RELATIONAL_GEQ,
        type(sympy.true): sbml.AST_CONSTANT_TRUE, type(sympy.false): sbml.AST_CONSTANT_FALSE,
    }


def _node(kind: int, children: Sequence[Node], name: str = "") -> Node:
    node = load_libsbml().ASTNode(kind)
    if name:
        node.setName(name)
    for child in children:
        node.addChild(child)
    return node


def _named(kind: int, name: str) -> Node:
    return _node(kind, [], name)


def _time() -> Node:
    return _named(load_libsbml().AST_NAME_TIME, "time")


def _value(number: sympy.Expr) -> Node:
    sbml = load_libsbml()
    node = sbml.ASTNode(sbml.AST_REAL)
    if number.is_Integer and abs(int(number)) < 2**31:
        node.setValue(int(number))
    else:
        node.setValue(float(number))
    return node


def _written_power(expression: sympy.Pow) -> Node:
    sbml, (base, exponent) = load_libsbml(), expression.args
    if exponent.is_Number and exponent.is_negative:
        return _node(sbml.AST_DIVIDE, [_value(sympy.Integer(1)), formula_node(base**-exponent)])
    if exponent == sympy.Rational(1, 2):
        return _node(sbml.AST_FUNCTION_ROOT, [_value(sympy.Integer(2)), formula_node(base)])
    return _node(sbml.AST_FUNCTION_POWER, [formula_node(base), formula_node(exponent)])


def _written_product(expression: sympy.Mul) -> Node:
    """Factors below the line are divided by, as people write it."""
    sbml = load_libsbml()
    below = [arg for arg in expression.args
             if isinstance(arg, sympy.Pow) and arg.exp.is_Number and arg.exp.is_negative]
    above = [formula_node(arg) for arg in expression.args if arg not in below]
    top = above[0] if len(above) == 1 else _node(sbml.AST_TIMES, above) if above else _value(sympy.Integer(1))
    if not below:
        return top
    bottom = [formula_node(arg.base**-arg.exp) for arg in below]
    return _node(sbml.AST_DIVIDE, [top, bottom[0] if len(bottom) == 1 else _node(sbml.AST_TIMES, bottom)])


def _written_piecewise(expression: sympy.Piecewise) -> Node:
    children: list[Node] = []
    for value, condition in (pair.args for pair in expression.args):
        children.append(formula_node(value))
        if condition == sympy.true:
            break
        children.append(formula_node(condition))
    return _node(load_libsbml().AST_FUNCTION_PIECEWISE, children)
