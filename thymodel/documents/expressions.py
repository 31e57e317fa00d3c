"""The arithmetic a file may contain, parsed to sympy without `eval` or `sympify`.

Python's own grammar splits the text (`ast.parse` only reads, it runs nothing); a closed list of node types and
functions is turned into sympy. Anything else is refused by name.
"""

import ast
from collections.abc import Callable, Collection
from functools import lru_cache

import sympy

from thymodel.documents import units
from thymodel.documents.limits import (
    DEEPEST_EXPRESSION,
    LARGEST_EXACT_EXPONENT,
    LARGEST_EXPRESSION,
    LONGEST_EXPRESSION,
)
from thymodel.documents.units import Unit


class _Kept(sympy.Function):
    """A function of real numbers that sympy does not know; without the assumption it writes of re() and im()."""

    is_extended_real = True


class expit(_Kept):
    """Logistic function 1/(1 + exp(-x)), kept whole so that it is evaluated without overflow."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return self * (1 - self)

    def _latex(self, printer, exp=None) -> str:
        return _latex_call(printer, r"\operatorname{expit}", self.args, exp)


class softplus(_Kept):
    """log(1 + exp(x)), kept whole so that it is evaluated without overflow."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return expit(self.args[0])

    def _latex(self, printer, exp=None) -> str:
        return _latex_call(printer, r"\operatorname{softplus}", self.args, exp)


class log1p(_Kept):
    """log(1 + x), kept whole for accuracy at small x."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return 1 / (1 + self.args[0])

    def _latex(self, printer, exp=None) -> str:
        return _latex_call(printer, r"\operatorname{log1p}", self.args, exp)


class step(_Kept):
    """1 where x > 0, else 0: the derivative of the kinked functions. At the kink it is 1/2 (as in JAX)."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.Integer(0)


class maximum(_Kept):
    """Larger of two. sympy's own Max spends seconds proving which one it is."""

    nargs = 2

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = self.args
        return step(a - b) if argindex == 1 else step(b - a)

    def _latex(self, printer, exp=None) -> str:
        return _latex_call(printer, r"\max", self.args, exp)


class minimum(_Kept):
    """Smaller of two."""

    nargs = 2

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = self.args
        return step(b - a) if argindex == 1 else step(a - b)

    def _latex(self, printer, exp=None) -> str:
        return _latex_call(printer, r"\min", self.args, exp)


class hill(_Kept):
    """x^n/(ec50^n + x^n) for x >= 0, kept whole so that x = 0 has a finite value and derivative."""

    nargs = 3

    @classmethod
    def eval(cls, x, ec50, n):
        return x**n / (ec50**n + x**n) if n.is_Integer and 0 < n <= LARGEST_EXACT_EXPONENT else None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        x, ec50, n = self.args
        slope = self * (1 - self)
        return (slope * n / x, -slope * n / ec50, slope * sympy.log(x / ec50))[argindex - 1]

    def _latex(self, printer, exp=None) -> str:
        return _latex_call(printer, r"\operatorname{hill}", self.args, exp)


def _latex_call(printer, name: str, args: tuple, exp: str | None) -> str:
    inside = ", ".join(printer._print(arg) for arg in args)
    return f"{name}{f'^{{{exp}}}' if exp else ''}\\left({inside}\\right)"


def _fold(function: Callable) -> Callable:
    def folded(*args):
        result = args[0]
        for arg in args[1:]:
            result = function(result, arg)
        return result

    return folded


def _piecewise(*args):
    pairs = [(args[k], args[k + 1]) for k in range(0, len(args) - 1, 2)]
    return sympy.Piecewise(*pairs, (args[-1], True), evaluate=False)


def _absolute(x: sympy.Expr) -> sympy.Expr:
    """abs(x). sympy takes abs(exp(z)) apart into re(z) where it cannot tell that z is real, as of sqrt; here all is."""
    value = sympy.Abs(x)
    return sympy.Abs(x, evaluate=False) if value.has(sympy.re, sympy.im, sympy.arg, sympy.atan2) else value


_FUNCTIONS: dict[str, tuple[Callable, range]] = {
    "exp": (sympy.exp, range(1, 2)),
    "log": (sympy.log, range(1, 2)),
    "log1p": (log1p, range(1, 2)),
    "sqrt": (sympy.sqrt, range(1, 2)),
    "abs": (_absolute, range(1, 2)),
    "tanh": (sympy.tanh, range(1, 2)),
    "sin": (sympy.sin, range(1, 2)),
    "cos": (sympy.cos, range(1, 2)),
    "expit": (expit, range(1, 2)),
    "softplus": (softplus, range(1, 2)),
    "min": (_fold(minimum), range(2, 20)),
    "max": (_fold(maximum), range(2, 20)),
    "hill": (hill, range(3, 4)),
    "piecewise": (_piecewise, range(3, 100, 2)),
}
RESERVED_NAMES = frozenset(_FUNCTIONS) | {"t", "amount", "pi", "e_", "step"}

_COMPARISONS = {ast.Lt: sympy.StrictLessThan, ast.LtE: sympy.LessThan,
                ast.Gt: sympy.StrictGreaterThan, ast.GtE: sympy.GreaterThan}


def symbol(name: str) -> sympy.Symbol:
    """The one symbol of that name (real, nothing else assumed: a rate may be asked for at negative values)."""
    return sympy.Symbol(name, real=True)


def parse_expression(text: str, names: Collection[str]) -> sympy.Expr:
    """An arithmetic text as a sympy expression in the symbols `names`.

    Raises:
        ValueError: a sentence that says what is not arithmetic, or which name is unknown.
    """
    if not text.strip():
        raise ValueError("an empty expression")
    if len(text) > LONGEST_EXPRESSION:
        raise ValueError(f"longer than {LONGEST_EXPRESSION} characters; split it into named expressions")
    if "#" in text:  # Python's grammar would drop what follows in silence
        raise ValueError("a comment inside an expression; put it behind the closing quote")
    try:
        tree = ast.parse(text.strip().replace("^", "**").replace("\n", " "), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"not arithmetic: {getattr(error, 'msg', None) or type(error).__name__}") from None
    try:
        return _operand(tree.body, frozenset(names), 0)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_EXPRESSION}") from None
    except TypeError as error:  # sympy's, where a comparison meets an infinity that arithmetic made on the way
        raise ValueError(f"not arithmetic of real numbers: {error}") from None


def _operand(node: ast.AST, names: frozenset[str], depth: int) -> sympy.Expr:
    """What stands where a number belongs: real and, as far as it is known already, within floating point.

    Checked at every node, because a literal tower such as 9**9**9**9 must stop before the next power is taken.
    """
    result = _convert(node, names, depth)
    if _size(result) > LARGEST_EXPRESSION:
        raise ValueError(f"more than {LARGEST_EXPRESSION} operations once written out; split it into named expressions")
    if _is_condition(result):
        raise ValueError("a comparison where a number belongs")
    if result.has(sympy.zoo, sympy.nan, sympy.oo):
        raise ValueError("it is not a finite number (a division by zero?)")
    if result.has(sympy.I):
        raise ValueError("it is not a real number (the root or logarithm of a negative number?)")
    _float(result)
    _float(result.as_coeff_Mul()[0])
    return result


@lru_cache(maxsize=4096)
def _size(expression: sympy.Basic) -> int:
    """Nodes of the tree. Twice the same part counts twice: hill(x, k, 2) says x twice."""
    return 1 + sum(map(_size, expression.args))


def _float(value: sympy.Expr) -> float | None:
    """The value of a number, None if it depends on a name or needs a function of this file (expit, max ...)."""
    if not value.is_number:
        return None
    try:
        number = complex(value)
    except TypeError:
        return None
    except OverflowError:
        raise ValueError("a number too large for floating point") from None
    if abs(number.imag) > 0:
        raise ValueError("it is not a real number (the root or logarithm of a negative number?)")
    if not abs(number.real) < float("inf"):
        raise ValueError("a number too large for floating point")
    return number.real


def _convert(node: ast.AST, names: frozenset[str], depth: int):
    if depth > DEEPEST_EXPRESSION:
        raise ValueError(f"nested deeper than {DEEPEST_EXPRESSION}; split it into named expressions")
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return _name(node.id, names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _operand(node.operand, names, depth + 1)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        return _binary(node, names, depth)
    if isinstance(node, ast.Compare):
        return _comparison(node, names, depth)
    if isinstance(node, ast.Call):
        return _call(node, names, depth)
    raise ValueError(f"'{ast.unparse(node)[:60]}' is not arithmetic that a file may contain")


def _number(value: object) -> sympy.Expr:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, int):
        if abs(value) > 10**300:
            raise ValueError("a whole number too large for floating point")
        return sympy.Integer(value)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number too large for floating point")
    return sympy.Float(value)


def _name(name: str, names: frozenset[str]) -> sympy.Expr:
    if name not in names:
        raise ValueError(f"unknown name '{name}'{closest(name, names)}")
    return symbol(name)


def closest(name: str, names: Collection[str]) -> str:
    """A suggestion ("; did you mean 'k_e'?") when some known name is near, else nothing."""
    import difflib

    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _binary(node: ast.BinOp, names: frozenset[str], depth: int):
    left, right = _operand(node.left, names, depth + 1), _operand(node.right, names, depth + 1)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            return _safe_power(left, right)
    raise ValueError(f"the operator in '{ast.unparse(node)[:60]}' is not one of + - * / **")


def _safe_power(base, exponent):
    """Refuses towers of literals such as 9**9**9, which exact arithmetic would try to write out."""
    power = _float(exponent)
    if power is None:
        return base**exponent
    number = _float(base)
    if number is None and abs(power) > 1000:
        raise ValueError("an exponent above 1000")
    factor = _float(base.as_coeff_Mul()[0]) if number is None else number
    _check_power(1.0 if factor is None else factor, power)
    exact = number is None or abs(power) <= LARGEST_EXACT_EXPONENT
    return base**exponent if exact else sympy.Float(number) ** sympy.Float(power)


def _check_power(base: float, exponent: float) -> None:
    try:
        value = base**exponent
    except (OverflowError, ZeroDivisionError):
        value = None
    if not isinstance(value, float):
        raise ValueError("a power of numbers that is not a finite real number")


def _comparison(node: ast.Compare, names: frozenset[str], depth: int):
    if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARISONS:
        raise ValueError(f"'{ast.unparse(node)[:60]}': only one of < <= > >= at a time")
    left, right = (_operand(side, names, depth + 1) for side in (node.left, node.comparators[0]))
    if left.has(sympy.Piecewise) or right.has(sympy.Piecewise):  # sympy folds it into the logic of conditions
        raise ValueError("a piecewise inside a condition; give it a name under [expressions]")
    return _COMPARISONS[type(node.ops[0])](left, right, evaluate=False)


def _call(node: ast.Call, names: frozenset[str], depth: int):
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)[:40]
    if name not in _FUNCTIONS:
        raise ValueError(f"unknown function '{name}'{closest(name, _FUNCTIONS)}")
    function, counts = _FUNCTIONS[name]
    if node.keywords or len(node.args) not in counts:
        raise ValueError(f"{name}() takes {_count_text(counts)} arguments, found {len(node.args)}")
    wants_condition = [name == "piecewise" and place % 2 == 1 for place in range(len(node.args))]
    args = [_condition(arg, names, depth + 1) if wanted else _operand(arg, names, depth + 1)
            for arg, wanted in zip(node.args, wants_condition, strict=True)]
    return function(*args)


def _count_text(counts: range) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} or more"


def _is_condition(value: sympy.Basic) -> bool:
    return not isinstance(value, sympy.Expr)  # a Symbol is both Expr and Boolean for sympy


def _condition(node: ast.AST, names: frozenset[str], depth: int):
    """What stands at the odd places of `piecewise`, and nowhere else."""
    if not isinstance(node, ast.Compare):
        raise ValueError(f"piecewise(): '{ast.unparse(node)[:60]}' must be a condition such as t < 30")
    return _comparison(node, names, depth)


# --- units -----------------------------------------------------------------------------------------------------

ANY = None  # the unit of a literal zero, which fits everywhere


def unit_of(expression: sympy.Basic, unit_by_name: dict[str, Unit], values: dict[str, float]) -> Unit | None:
    """The unit of an expression, or None for a literal zero.

    Args:
        unit_by_name: unit of every symbol in it.
        values: symbols with a fixed value, for exponents such as n in `x**n` of a quantity with a unit.

    Raises:
        ValueError: a sum, comparison, exponent or function argument that does not balance.
    """
    if isinstance(expression, sympy.Symbol):
        return unit_by_name[expression.name]
    if expression.is_number:
        return ANY if expression == 0 else units.DIMENSIONLESS
    inner = [unit_of(arg, unit_by_name, values) for arg in expression.args]
    if isinstance(expression, sympy.Mul):
        return _product(inner)
    if isinstance(expression, sympy.Add | maximum | minimum):
        return _agree(expression, list(zip(expression.args, inner, strict=True)), "add")
    if isinstance(expression, sympy.Pow):
        return _power_unit(expression, inner, values)
    if isinstance(expression, sympy.Piecewise):
        return _agree(expression, [(pair.args[0], unit) for pair, unit in zip(expression.args, inner, strict=True)],
                      "choose between")
    if isinstance(expression, sympy.functions.elementary.piecewise.ExprCondPair):
        return inner[0]
    if isinstance(expression, sympy.core.relational.Relational):
        return _agree(expression, list(zip(expression.args, inner, strict=True)), "compare")
    if isinstance(expression, sympy.logic.boolalg.BooleanAtom):
        return ANY
    if isinstance(expression, sympy.Abs):
        return inner[0]
    if isinstance(expression, hill):
        _agree(expression, list(zip(expression.args, inner, strict=True))[:2], "compare")
        inner = inner[2:]
    return _pure_function(expression, inner)


def _product(inner: list[Unit | None]) -> Unit | None:
    result = units.DIMENSIONLESS
    for unit in inner:
        if unit is ANY:
            return ANY
        result = units.multiply(result, unit)
    return result


def _agree(whole: sympy.Basic, terms: list[tuple[sympy.Basic, Unit | None]], verb: str) -> Unit | None:
    known = [(term, unit) for term, unit in terms if unit is not ANY]
    for term, unit in known[1:]:
        first_term, first_unit = known[0]
        if not units.same(first_unit, unit):
            raise ValueError(f"cannot {verb} [{first_unit}] {first_term} and [{unit}] {term}")
    return known[0][1] if known else ANY


def _power_unit(expression: sympy.Pow, inner: list[Unit | None], values: dict[str, float]) -> Unit | None:
    base, exponent = inner
    if exponent is not ANY and not units.is_number(exponent):
        raise ValueError(f"the exponent of {expression} has the unit [{exponent}]; it must be a pure number")
    if base is ANY or units.is_number(base):
        return base
    known = {symbol(name): value for name, value in values.items()}
    number = expression.args[1].subs(known)
    if not number.is_number:
        raise ValueError(f"{expression}: [{base}] raised to a power that is not a fixed number")
    return units.power(base, float(number))


def _pure_function(expression: sympy.Basic, inner: list[Unit | None]) -> Unit:
    for argument, unit in zip(expression.args, inner, strict=False):
        if unit is not ANY and not units.is_number(unit):
            name = type(expression).__name__
            raise ValueError(f"{name}() of {argument}, which has the unit [{unit}]; it must be a pure number")
    return units.DIMENSIONLESS
