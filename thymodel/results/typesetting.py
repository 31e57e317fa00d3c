"""Formulas for readers: a sympy expression becomes a small tree, the tree becomes LaTeX or MathML.

One tree for both, so that they cannot differ, and an order of terms that a person would choose: sympy keeps sums and
products in an order of its own. What is set is the very object that the solver compiles; `tests/results` reads the
MathML back and compares.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy

from thymodel.documents import expressions as ex
from thymodel.documents.model import Model, static_expressions
from thymodel.dynamics.transfers import chains

LINE = 58  # characters; wider sums are broken over lines
_GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
          "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega")
_GREEK_SHORT = {"eps": "varepsilon", "epsilon": "varepsilon", "lam": "lambda", "phi": "varphi"}
_UNICODE = dict(zip(_GREEK, "αβγδεζηθικλμνξπρστυφχψω", strict=True)) | {"varepsilon": "ε", "varphi": "φ"}
_MARKER = re.compile(r"(CD|IL|il|cd)\d+\w*\Z")  # names of molecules keep their digits
_CALLS = {sympy.exp: "exp", sympy.log: "log", ex.log1p: "log1p", sympy.tanh: "tanh", sympy.sin: "sin",
          sympy.cos: "cos", ex.expit: "expit", ex.softplus: "softplus", ex.maximum: "max", ex.minimum: "min",
          ex.step: "step", ex.hill: "hill"}
_LATEX_CALLS = frozenset({"exp", "log", "max", "min", "tanh", "sin", "cos"})
_RELATIONS = {sympy.StrictLessThan: "<", sympy.LessThan: "<=", sympy.StrictGreaterThan: ">", sympy.GreaterThan: ">="}
_SIGNS = {"<=": (r"\le", "≤"), ">=": (r"\ge", "≥"), "<": ("<", "<"), ">": (">", ">"), "=": ("=", "=")}


# --- the tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """A symbol: a base and what stands below it, each piece as written in the document."""

    base: str
    below: tuple[str, ...] = ()
    bar: bool = False


@dataclass(frozen=True)
class Number:
    text: str
    exponent: str = ""  # of ten


@dataclass(frozen=True)
class Sum:
    """Terms with their signs; a single negative term is a negation."""

    terms: tuple[tuple[bool, "Node"], ...]  # (negative, term)


@dataclass(frozen=True)
class Product:
    factors: tuple["Node", ...]


@dataclass(frozen=True)
class Fraction:
    over: "Node"
    under: "Node"


@dataclass(frozen=True)
class Power:
    base: "Node"
    exponent: "Node"


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True)
class Relation:
    left: "Node"
    sign: str
    right: "Node"


@dataclass(frozen=True)
class Cases:
    """Values with their conditions, and the value otherwise."""

    cases: tuple[tuple["Node", "Node"], ...]
    otherwise: "Node"


@dataclass(frozen=True)
class Rate:
    """The derivative of a state."""

    state: Name


@dataclass(frozen=True)
class At:
    """A state at a time."""

    state: Name
    time: Number


Node = Rate | At | Name | Number | Sum | Product | Fraction | Power | Call | Relation | Cases


def name(text: str) -> Name:
    """The symbol that a name of a document is printed as: eta_patient, k_e, D_i1, KM4, Tbar, uL_per_mL."""
    stem, _, index = text.partition("[")
    if "_per_" in stem:
        return Name(stem.replace("_", " "))
    first, *rest = stem.split("_")
    base, tail = _base(first)
    below = [piece for piece in (tail, *rest, index.rstrip("]")) if piece]
    if base.endswith("bar") and len(base) == 4:
        return Name(base[0], tuple(below), bar=True)
    return Name(base, tuple(below))


def _base(piece: str) -> tuple[str, str]:
    """The first piece of a name as (base, beginning of what stands below)."""
    if _MARKER.match(piece):
        return piece, ""
    word = re.match(r"[A-Za-z]+", piece)
    letters = word[0] if word else piece
    if letters in (*_GREEK, *_GREEK_SHORT):
        return letters, piece[len(letters):]
    if len(letters) == 1 or re.match(r"[a-z][A-Z]\d*\Z|[A-Z]M\d+\Z", piece):  # x50, pM4, dN, KM4
        return piece[0], piece[1:]
    return piece, ""


class Typesetter:
    """Sympy expressions of one model as trees: names in the order in which the document introduces them."""

    def __init__(self, model: Model):
        static = static_expressions(model)
        moving = [key for key in model.expressions if key not in static]
        groups: list[Sequence[str]] = [[*model.constants, *model.parameters, *model.covariates], ["amount"],
                                       [key for key in model.expressions if key in static], moving, ["t"],
                                       list(model.states)]
        kinds = (1, 1, 2, 3, 5, 6)
        self.place: dict[str, tuple[int, int]] = {}
        for kind, group in zip(kinds, groups, strict=True):
            self.place |= {key: (kind, len(self.place) + k) for k, key in enumerate(group)}
        self.names: dict[str, Name] = {member: name(f"{chain.stem}[{k}]") for chain in chains(model)
                                       for k, member in enumerate(chain.members, start=1)}
        for key in (*self.place, *model.observables):
            taken = name(key) in [other for used, other in self.names.items() if used != key]
            self.names.setdefault(key, Name(key.replace("_", " ")) if taken else name(key))

    def name(self, text: str) -> Name:
        """The symbol of a name; two names of one model that would look alike are told apart."""
        return self.names.get(text) or name(text)

    def tree(self, expression: sympy.Basic) -> Node:
        """The tree of an expression."""
        if isinstance(expression, sympy.Symbol):
            return self.name(expression.name)
        if isinstance(expression, sympy.Number):
            return _number(expression)
        if isinstance(expression, sympy.Add):
            return self._sum(expression)
        if isinstance(expression, sympy.Mul):
            return self._product(expression)
        if isinstance(expression, sympy.Pow):
            return self._power(expression)
        if isinstance(expression, sympy.Piecewise):
            *cases, (otherwise, _) = [(pair.args[0], pair.args[1]) for pair in expression.args]
            return Cases(tuple((self.tree(value), self.tree(when)) for value, when in cases), self.tree(otherwise))
        if type(expression) in _RELATIONS:
            left, right = expression.args
            return Relation(self.tree(left), _RELATIONS[type(expression)], self.tree(right))
        if isinstance(expression, sympy.Abs):
            return Call("abs", (self.tree(expression.args[0]),))
        if type(expression) in _CALLS:
            return Call(_CALLS[type(expression)], tuple(self.tree(arg) for arg in _flat(expression)))
        return Name(str(expression))  # pi, true: nothing else is left of the arithmetic of documents

    def _sum(self, expression: sympy.Add) -> Sum:
        terms = [_signed(term) for term in expression.args]
        terms.sort(key=lambda item: (item[0], not item[1].is_number, not item[1].is_Symbol, self._term_key(item[1])))
        return Sum(tuple((negative, self.tree(term)) for negative, term in terms))

    def _term_key(self, term: sympy.Expr) -> tuple:
        return tuple(sorted(self._key(factor) for factor in sympy.Mul.make_args(term)))

    def _key(self, factor: sympy.Basic) -> tuple[int, int]:
        """Where a factor stands: numbers, parameters, derived values, what moves, sums, states."""
        if factor.is_number:
            return (0, 0)
        if isinstance(factor, sympy.Symbol):
            return self.place.get(factor.name, (6, len(self.place)))
        if isinstance(factor, sympy.Pow) and isinstance(factor.base, sympy.Symbol | sympy.Number):
            return self._key(factor.base)
        inside = min((self._key(s)[1] for s in factor.free_symbols), default=0)
        return (4, inside)

    def _product(self, expression: sympy.Mul) -> Node:
        negative, positive = _signed(expression)
        if negative:
            return Sum(((True, self.tree(positive)),))
        coefficient, rest = positive.as_coeff_Mul()
        over, under = [], []
        if coefficient != 1:
            if isinstance(coefficient, sympy.Rational):
                over += [] if coefficient.p == 1 else [sympy.Integer(coefficient.p)]
                under += [] if coefficient.q == 1 else [sympy.Integer(coefficient.q)]
            else:
                over.append(coefficient)
        for factor in sympy.Mul.make_args(rest):
            if isinstance(factor, sympy.Pow) and _below(factor.exp):
                under.append(sympy.Pow(factor.base, -factor.exp))
            elif isinstance(factor, sympy.Rational) and factor.p == 1:
                under.append(sympy.Integer(factor.q))
            else:
                over.append(factor)
        top = self._row(over)
        return Fraction(top, self._row(under)) if under else top

    def _row(self, factors: list[sympy.Expr]) -> Node:
        if not factors:
            return Number("1")
        nodes = [self.tree(factor) for factor in sorted(factors, key=self._key)]
        return nodes[0] if len(nodes) == 1 else Product(tuple(nodes))

    def _power(self, expression: sympy.Pow) -> Node:
        base, exponent = expression.base, expression.exp
        if exponent == sympy.Rational(1, 2):
            return Call("sqrt", (self.tree(base),))
        if _below(exponent):
            return Fraction(Number("1"), self.tree(sympy.Pow(base, -exponent)))
        return Power(self.tree(base), self.tree(exponent))


def _signed(term: sympy.Expr) -> tuple[bool, sympy.Expr]:
    """Whether a term is negative, and the term without that sign: -2*x, but also (-a - b)*x."""
    coefficient, rest = term.as_coeff_Mul()
    negative, factors = bool(coefficient < 0), [abs(coefficient)]
    for factor in sympy.Mul.make_args(rest):
        turned = isinstance(factor, sympy.Add) and isinstance(rest, sympy.Mul) and _all_negative(factor)
        negative ^= turned
        factors.append(-factor if turned else factor)
    return negative, sympy.Mul(*factors)


def _all_negative(expression: sympy.Expr) -> bool:
    return all(term.as_coeff_Mul()[0] < 0 for term in sympy.Add.make_args(expression))


def _below(exponent: sympy.Expr) -> bool:
    """Whether a power belongs below the bar of a fraction."""
    return _all_negative(exponent)


def _flat(call: sympy.Function) -> list[sympy.Expr]:
    """Arguments; max(max(a, b), c) is max(a, b, c)."""
    if not isinstance(call, ex.maximum | ex.minimum):
        return list(call.args)
    return [inner for arg in call.args for inner in (_flat(arg) if isinstance(arg, type(call)) else [arg])]


def _number(value: sympy.Number) -> Node:
    if value < 0:
        return Sum(((True, _number(-value)),))
    if isinstance(value, sympy.Rational) and not isinstance(value, sympy.Integer):
        return Fraction(Number(str(value.p)), Number(str(value.q)))
    return decimal(float(value)) if not isinstance(value, sympy.Integer) else Number(str(value))


def decimal(value: float, digits: int | None = None) -> Number:
    """A number as a person writes it: 0.94, 2.3 x 10^7; all digits that it has, or so many."""
    rounded = float(value) if digits is None else float(f"{value:.{digits}g}")
    text = f"{rounded:.16e}" if abs(rounded) >= 1e5 else repr(rounded)
    mantissa, _, exponent = text.partition("e")
    mantissa = f"{float(mantissa):.15g}" if exponent else mantissa
    mantissa = mantissa.removesuffix(".0")
    return Number(mantissa, str(int(exponent)) if exponent else "")


# --- width and lines -----------------------------------------------------------------------------------------


def width(node: Node) -> float:
    """Rough width in characters of a line."""
    match node:
        case Rate(state) | At(state, _):
            return width(state) + 2
        case Name(base, below, _):
            letters = 1 if base in (*_GREEK, *_GREEK_SHORT) else len(base)
            return letters + 0.7 * sum(len(piece) for piece in below)
        case Number(text, exponent):
            return len(text) + (4 + 0.7 * len(exponent) if exponent else 0)
        case Sum(terms):
            return sum(width(term) + 2 for _, term in terms)
        case Product(factors):
            return sum(width(factor) + (3 if isinstance(factor, Sum) else 0.5) for factor in factors)
        case Fraction(over, under):
            return max(width(over), width(under)) + 1
        case Power(base, exponent):
            return width(base) + 0.7 * width(exponent) + (2 if isinstance(base, Sum | Product | Fraction) else 0)
        case Call(name, arguments):
            return len(name) + 2 + sum(width(argument) + 1 for argument in arguments)
        case Relation(left, _, right):
            return width(left) + width(right) + 2
        case Cases(cases, otherwise):
            return max(*(width(value) + width(when) + 6 for value, when in cases), width(otherwise) + 12)


def lines(node: Node, line: float = LINE) -> list[Node]:
    """A wide sum as several lines; every line after the first keeps the sign of its first term."""
    if not isinstance(node, Sum) or width(node) <= line:
        return [node]
    even = width(node) / math.ceil(width(node) / line)
    rows: list[list[tuple[bool, Node]]] = [[]]
    used = 0.0
    for term in node.terms:
        size = width(term[1]) + 2
        if rows[-1] and used + size / 2 > even:
            rows.append([])
            used = 0.0
        rows[-1].append(term)
        used += size
    return [Sum(tuple(row)) for row in rows]


# --- LaTeX ---------------------------------------------------------------------------------------------------


def latex(node: Node, leading: bool = False) -> str:
    """LaTeX of a tree; `leading` writes the sign of a first positive term too (a line that goes on)."""
    match node:
        case Rate(state):
            return rf"\frac{{\mathrm{{d}}{latex(state)}}}{{\mathrm{{d}}t}}"
        case At(state, time):
            return f"{latex(state)}({latex(time)})"
        case Name():
            return _latex_name(node)
        case Number(text, exponent):
            return rf"{text} \times 10^{{{exponent}}}" if exponent else text
        case Sum(terms):
            signs = [("-" if negative else "+") if k or negative or leading else ""
                     for k, (negative, _) in enumerate(terms)]
            parts = [(sign, _latex_factor(term) if isinstance(term, Sum) else latex(term))
                     for sign, (_, term) in zip(signs, terms, strict=True)]
            return " ".join(f"{sign} {text}" if k else f"{sign}{text}" for k, (sign, text) in enumerate(parts))
        case Product(factors):
            return r"\,".join(_latex_factor(factor) for factor in factors)
        case Fraction(over, under):
            return rf"\frac{{{latex(over)}}}{{{latex(under)}}}"
        case Power(base, exponent):
            shown = latex(base) if isinstance(base, Number) and not base.exponent else _latex_base(base)
            return rf"{shown}^{{{_latex_slash(exponent)}}}"
        case Call("sqrt", (argument,)):
            return rf"\sqrt{{{latex(argument)}}}"
        case Call("abs", (argument,)):
            return rf"\left|{latex(argument)}\right|"
        case Call(call, arguments):
            head = rf"\{call}" if call in _LATEX_CALLS else rf"\operatorname{{{call}}}"
            return rf"{head}\left({', '.join(latex(argument) for argument in arguments)}\right)"
        case Relation(left, sign, right):
            return f"{latex(left)} {_SIGNS[sign][0]} {latex(right)}"
        case Cases(cases, otherwise):
            rows = [rf"{latex(value)} & \mathrm{{if}}\ {latex(when)}" for value, when in cases]
            rows.append(rf"{latex(otherwise)} & \mathrm{{otherwise}}")
            return r"\begin{cases}" + r" \\ ".join(rows) + r"\end{cases}"


def _latex_slash(exponent: Node) -> str:
    """A fraction in an exponent, on one line."""
    if not isinstance(exponent, Fraction):
        return latex(exponent)
    plain = isinstance(exponent.under, Name | Number)
    under = latex(exponent.under) if plain else rf"\left({latex(exponent.under)}\right)"
    return f"{_latex_factor(exponent.over)}/{under}"


def _latex_factor(node: Node) -> str:
    """A factor of a product: sums and what has a wide sign in it stand in brackets."""
    if isinstance(node, Sum | Cases | Relation):
        return rf"\left({latex(node)}\right)"
    return latex(node)


def _latex_base(node: Node) -> str:
    if isinstance(node, Name):
        return f"{{{latex(node)}}}" if node.below else latex(node)
    return rf"\left({latex(node)}\right)"


def _latex_name(node: Name) -> str:
    base = _latex_piece(node.base)
    base = rf"\bar{{{base}}}" if node.bar else base
    below = ",".join(_latex_piece(piece) for piece in node.below)
    return f"{base}_{{{below}}}" if len(below) > 1 else base + (f"_{below}" if below else "")


def _latex_piece(piece: str) -> str:
    if _plain(piece):
        return piece
    if (greek := _greek(piece)) is not None:
        return "\\" + greek
    return r"\mathrm{" + piece.replace(" ", r"\ ") + "}"


def _plain(piece: str) -> bool:
    """A letter, digits, or both (R4, i1, 50): set as they are. Also j-1, the index of a chain."""
    return re.fullmatch(r"\d*[A-Za-z]?\d*(-1)?", piece) is not None


def _greek(piece: str) -> str | None:
    return _GREEK_SHORT.get(piece, piece) if piece in (*_GREEK, *_GREEK_SHORT) else None


# --- MathML --------------------------------------------------------------------------------------------------


def mathml(node: Node, leading: bool = False) -> str:
    """Presentation MathML of a tree, without the enclosing <math>."""
    match node:
        case Rate(state):
            d = '<mi mathvariant="normal">d</mi>'
            return f"<mfrac>{_row(d + mathml(state))}{_row(d + '<mi>t</mi>')}</mfrac>"
        case At(state, time):
            return _row(mathml(state) + _brackets(mathml(time)))
        case Name():
            return _mathml_name(node)
        case Number(text, exponent):
            return (f"<mn>{text}</mn><mo>×</mo><msup><mn>10</mn>{_mathml_integer(exponent)}</msup>" if exponent
                    else f"<mn>{text}</mn>")
        case Sum(terms):
            parts = []
            for k, (negative, term) in enumerate(terms):
                if k or negative or leading:
                    form = "infix" if k else "prefix"
                    parts.append(f'<mo form="{form}">{"−" if negative else "+"}</mo>')
                parts.append(_mathml_factor(term) if isinstance(term, Sum) else mathml(term))
            return _row("".join(parts))
        case Product(factors):
            return _row(_TIMES.join(_mathml_factor(factor) for factor in factors))
        case Fraction(over, under):
            return f"<mfrac>{_row(mathml(over))}{_row(mathml(under))}</mfrac>"
        case Power(base, exponent):
            shown = mathml(base) if isinstance(base, Name | Number) else _brackets(mathml(base))
            return f"<msup>{_row(shown)}{_mathml_slash(exponent)}</msup>"
        case Call("sqrt", (argument,)):
            return f"<msqrt>{mathml(argument)}</msqrt>"
        case Call("abs", (argument,)):
            return _row(f"<mo>|</mo>{mathml(argument)}<mo>|</mo>")
        case Call(call, arguments):
            inside = "<mo>,</mo>".join(mathml(argument) for argument in arguments)
            return _row(f"<mi>{call}</mi><mo>&#x2061;</mo>{_brackets(inside)}")
        case Relation(left, sign, right):
            return _row(f"{mathml(left)}<mo>{html.escape(_SIGNS[sign][1])}</mo>{mathml(right)}")
        case Cases(cases, otherwise):
            rows = [f"<mtr><mtd>{mathml(value)}</mtd><mtd><mtext>if&#160;</mtext>{mathml(when)}</mtd></mtr>"
                    for value, when in cases]
            rows.append(f"<mtr><mtd>{mathml(otherwise)}</mtd><mtd><mtext>otherwise</mtext></mtd></mtr>")
            return _row(f"<mo>{{</mo><mtable>{''.join(rows)}</mtable>")


_TIMES = '<mo lspace="0.08em" rspace="0.09em">&#x2062;</mo>'  # invisible, and wide enough to part two words


def _row(inside: str) -> str:
    return f"<mrow>{inside}</mrow>"


def _brackets(inside: str) -> str:
    return f"<mrow><mo>(</mo>{inside}<mo>)</mo></mrow>"


def _mathml_integer(text: str) -> str:
    return _row(f"<mo>−</mo><mn>{text[1:]}</mn>") if text.startswith("-") else f"<mn>{text}</mn>"


def _mathml_slash(exponent: Node) -> str:
    if not isinstance(exponent, Fraction):
        return _row(mathml(exponent))
    under = mathml(exponent.under)
    under = under if isinstance(exponent.under, Name | Number) else _brackets(under)
    return _row(f"{_mathml_factor(exponent.over)}<mo>/</mo>{under}")


def _mathml_factor(node: Node) -> str:
    return _brackets(mathml(node)) if isinstance(node, Sum | Cases | Relation) else mathml(node)


def _mathml_name(node: Name) -> str:
    base = f"<mi>{html.escape(glyphs(node.base))}</mi>"
    base = f"<mover><mrow>{base}</mrow><mo>―</mo></mover>" if node.bar else base
    below = "<mo>,</mo>".join(_mathml_piece(piece) for piece in node.below)
    return f"<msub>{_row(base) if node.bar else base}{_row(below)}</msub>" if below else base


def _mathml_piece(piece: str) -> str:
    if piece.isdigit():
        return f"<mn>{piece}</mn>"
    if piece.endswith("-1"):
        return f"<mi>{piece[:-2]}</mi><mo>−</mo><mn>1</mn>"
    if _plain(piece) and len(piece) > 1:
        return "".join(f"<mn>{run}</mn>" if run.isdigit() else f"<mi>{run}</mi>"
                       for run in re.findall(r"\d+|\D", piece))
    return f"<mi>{html.escape(glyphs(piece))}</mi>"


def glyphs(piece: str) -> str:
    """A piece of a name as plain characters: Greek letters as such."""
    greek = _greek(piece)
    return piece if greek is None else _UNICODE[greek]


def functions(expressions: Mapping[str, sympy.Basic]) -> list[str]:
    """Functions of the documents' arithmetic that need an explanation, in the order of `FUNCTIONS`."""
    used = {type(part) for expression in expressions.values() for part in sympy.preorder_traversal(expression)}
    return [call for kind, call in _CALLS.items() if kind in used and call in FUNCTIONS]


FUNCTIONS = {
    "expit": "expit(x) = 1/(1 + exp(−x)), a smooth switch from 0 to 1",
    "softplus": "softplus(x) = log(1 + exp(x)), a smooth max(x, 0)",
    "log1p": "log1p(x) = log(1 + x)",
    "hill": "hill(x, k, n) = xⁿ/(kⁿ + xⁿ)",
    "step": "step(x) = 1 for x > 0, else 0",
}
