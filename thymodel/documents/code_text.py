"""Expressions of a model as code of other tools: NM-TRAN abbreviated code, and R as rxode2 reads it.

Functions that these tools lack are written out so that no exponential overflows, and every number as a real one:
in Fortran 1/2 is 0.
"""

import re
import textwrap
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import sympy

from thymodel.documents.expressions import symbol

Language = Literal["nonmem", "r"]
LONGEST_NAME = 20  # of a variable in NM-TRAN
_LONGEST_LINE = 110  # NM-TRAN reads 160
# NM-TRAN reads no difference between capitals and others; rxode2 does
_RESERVED = {
    "nonmem": frozenset("""
        ID TIME T DATE DAT1 DAT2 DAT3 EVID CMT AMT RATE ADDL II SS MDV DV L2 PCMT CALL CONT RAW_ MRG_ RPT_ DVID
        CENS LOWER INP IDUR A A_0 A_0FLG DADT F Y P THETA ETA EPS ERR OMEGA SIGMA NEWIND ICALL IREP F_FLAG DEL
        IPRED W Z EXP LOG LOG10 SQRT SIN COS TAN ASIN ACOS ATAN ABS MIN MAX MOD INT PHI GAMLN IF THEN ELSE ENDIF
        DFT DO CALLFL DOSTIM DOSREC NPROB COMACT COMSAV MIXNUM MIXEST NSPOP TSTATE DES PK ERROR S1 S0 F1 F0 R1 D1
        ALAG1 MTIME MNEXT MPAST G H HH DOWHILE EXIT CALLING PRED LAST20 TOL TSCALE XSCALE NINT MU_1 C
        """.split()),
    "r": frozenset("""
        t time T F TRUE FALSE NULL NA if else function for while repeat next break in id ID TIME EVID evid AMT
        amt CMT cmt DV dv DVID dvid RATE rate dur DUR II ii SS ss ADDL addl CENS cens LIMIT limit MDV mdv DAMT f
        lag alag exp log sqrt abs min max sin cos tan tanh pi M_PI M_E ifelse expit logit podo tad tlast newind
        linCmt add prop lnorm dt d ini model eta theta omega sigma beta gamma lgamma factorial normal c fix
        label rx__ PHI phi probit NEWIND mtime
        """.split()),
}


class Names:
    """Variables of a file: each a name that its language takes, and no name twice."""

    def __init__(self, language: Language):
        self.language = language
        self.taken: set[str] = set()

    def new(self, wanted: str) -> str:
        """A free name near the wanted one."""
        name = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        if self.language == "nonmem":
            name = name.upper()[:LONGEST_NAME]
        if not name[:1].isalpha():
            name = f"X{name}"[:LONGEST_NAME]
        stem, number = name[:LONGEST_NAME - 4] if self.language == "nonmem" else name, 1
        while name in self.taken or self._reserved(name):
            name = f"{stem}X{number if number > 1 else ''}"
            number += 1
        self.taken.add(name)
        return name

    def _reserved(self, name: str) -> bool:
        if self.language == "nonmem" and re.fullmatch(r"(F|R|D|S|ALAG|MTIME|MU_|COM|TH|ET|EP)\d+", name):
            return True
        return name in _RESERVED[self.language]


class Code:
    """Statements under way. `known` says how a name of the model is written."""

    def __init__(self, language: Language, names: Names, known: Mapping[str, str]):
        self.language, self.names, self.known = language, names, dict(known)
        self.lines: list[str] = []

    def assign(self, target: str, expression: sympy.Basic, comment: str = "") -> None:
        """target = expression, after whatever choices the expression needs."""
        self.put(target, self.text(expression), comment)

    def put(self, target: str, value: str, comment: str = "") -> None:
        if self.language == "r":
            self.lines.append(f"{target} <- {value}" + (f"  # {comment}" if comment else ""))
            return
        self.lines += wrapped(f"{target} = {value}", comment)

    def text(self, expression: sympy.Basic) -> str:
        """The expression; a choice becomes a variable of its own in NM-TRAN, which has none within formulas.

        Such a choice is a line of its own before: ask for the text outside of every IF, since NM-TRAN takes no random
        variable that is set in one IF within another.
        """
        return self._write(expression)

    def least(self, a: str, b: str) -> str:
        """The smaller of two."""
        return self._extreme("min", "least", ".GT.", a, b)

    def most(self, a: str, b: str) -> str:
        """The larger of two."""
        return self._extreme("max", "most", ".LT.", a, b)

    def _extreme(self, function: str, wanted: str, beyond: str, a: str, b: str) -> str:
        """In NM-TRAN by an IF: its derivative is that of the one chosen, which MIN and MAX need not promise."""
        if self.language == "r":
            return f"{function}({a}, {b})"
        name = self.names.new(wanted)
        self.lines += [line for part in (f"{name} = {a}", f"IF ({name}{beyond}{b}) {name} = {b}")
                       for line in wrapped(part)]
        return name

    def _write(self, node: sympy.Basic) -> str:
        if isinstance(node, sympy.Symbol):
            return self.known[node.name]
        if isinstance(node, sympy.Number | sympy.NumberSymbol):
            return number_text(float(node), self.language)
        if isinstance(node, sympy.Add):
            return " + ".join(self._term(arg) for arg in node.args).replace("+ -", "- ")
        if isinstance(node, sympy.Mul):
            return self._product(node)
        if isinstance(node, sympy.Pow):
            return self._power(*node.args)
        if isinstance(node, sympy.Piecewise):
            return self._choice(node)
        if isinstance(node, sympy.core.relational.Relational):
            sign = {"<": ("<", ".LT."), "<=": ("<=", ".LE."), ">": (">", ".GT."), ">=": (">=", ".GE.")}[node.rel_op]
            return f"{self._write(node.args[0])} {sign[self.language == 'nonmem']} {self._write(node.args[1])}"
        return self._function(node)

    def _term(self, node: sympy.Basic) -> str:
        text = self._write(node)
        return f"({text})" if isinstance(node, sympy.Add) else text

    def _factor(self, node: sympy.Basic) -> str:
        text = self._write(node)
        whole = isinstance(node, sympy.Symbol) or (node.is_Number and not text.startswith("-"))
        return text if whole or isinstance(node, sympy.Function) and _is_call(text) else f"({text})"

    def _product(self, node: sympy.Mul) -> str:
        above, below = [], []
        sign = ""
        for arg in node.args:
            if arg == -1:
                sign = "-"
            elif isinstance(arg, sympy.Pow) and arg.args[1].is_Number and arg.args[1].is_negative:
                below.append(self._factor(arg.args[0] ** -arg.args[1]))
            else:
                above.append(self._factor(arg))
        text = sign + (" * ".join(above) or number_text(1.0, self.language))
        return text + "".join(f" / {part}" for part in below)

    def _power(self, base: sympy.Basic, exponent: sympy.Basic) -> str:
        sign = "**" if self.language == "nonmem" else "^"
        if exponent.is_Number and exponent.is_negative:
            return f"{number_text(1.0, self.language)} / {self._factor(base ** -exponent)}"
        if exponent.is_Integer:
            return f"{self._factor(base)}{sign}{int(exponent)}"
        return f"{self._factor(base)}{sign}{self._factor(exponent)}"

    def _choice(self, node: sympy.Piecewise) -> str:
        if self.language == "r":
            text = self._write(node.args[-1][0])
            for value, condition in reversed(node.args[:-1]):
                text = f"ifelse({self._write(condition)}, {self._write(value)}, {text})"
            return text
        name = self.names.new("CHOICE")
        parts = [f"{name} = {self._write(node.args[-1][0])}"]
        for value, condition in reversed(node.args[:-1]):  # the first that holds is written last
            parts.append(f"IF ({self._write(condition)}) {name} = {self._write(value)}")
        self.lines += [line for part in parts for line in wrapped(part)]
        return name

    def _function(self, node: sympy.Basic) -> str:
        x = self._write(node.args[0])
        name: Callable[[str], str] = str.upper if self.language == "nonmem" else str.lower
        zero, one, two = (number_text(value, self.language) for value in (0.0, 1.0, 2.0))
        exp, log, absolute = name("exp"), name("log"), name("abs")
        match type(node).__name__:
            case "exp" | "log" | "sin" | "cos":
                return f"{name(type(node).__name__)}({x})"
            case "Abs":
                return f"{absolute}({x})"
            case "tanh":
                return f"({one} - {two} / ({exp}({two} * {self.least(x, '300.0')}) + {one}))"
            case "log1p":
                return f"{log}({one} + {self._factor(node.args[0])})"
            case "expit":
                return f"({exp}({self.least(x, zero)}) / ({one} + {exp}(-{absolute}({x}))))"
            case "softplus":
                return f"({self.most(x, zero)} + {log}({one} + {exp}(-{absolute}({x}))))"
            case "maximum":
                return self.most(x, self._write(node.args[1]))
            case "minimum":
                return self.least(x, self._write(node.args[1]))
            case "hill":
                sign, power = "**" if self.language == "nonmem" else "^", self._factor(node.args[2])
                up = f"{self.most(x, zero)}{sign}{power}"
                return f"({up} / ({self._factor(node.args[1])}{sign}{power} + {up}))"
        raise ValueError(f"{type(node).__name__}() has no counterpart")


def _is_call(text: str) -> bool:
    """Whether it is one call or one pair of brackets, so that no more brackets are needed."""
    found = re.match(r"[A-Za-z]*\(", text)
    if not found or not text.endswith(")"):
        return False
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and sign == ")" and place < len(text) - 1:
            return False
    return True


def number_text(value: float, language: Language) -> str:
    """A number with all of its digits, a real one."""
    text = repr(float(value))
    return text.upper() if language == "nonmem" else text


def wrapped(statement: str, comment: str = "") -> list[str]:
    """A statement of NM-TRAN on as many lines as it needs, each but the last ending in &."""
    parts = textwrap.wrap(statement, _LONGEST_LINE, subsequent_indent="    ", break_long_words=False,
                          break_on_hyphens=False) or [""]
    lines = [f"{part} &" for part in parts[:-1]] + [parts[-1]]
    return [f"{lines[0]}  ; {comment}" if comment and len(lines) == 1 else lines[0], *lines[1:]]


def needed(expressions: Mapping[str, sympy.Expr], wanted: Collection[sympy.Basic]) -> list[str]:
    """Names of the expressions that these use, at any depth, in an order in which each uses only earlier ones."""
    used: set[str] = {s.name for item in wanted for s in item.free_symbols if isinstance(s, sympy.Symbol)}
    for name in reversed(list(expressions)):
        if name in used:
            used |= {s.name for s in expressions[name].free_symbols if isinstance(s, sympy.Symbol)}
    return [name for name in expressions if name in used]


def per_amount(expression: sympy.Expr) -> tuple[sympy.Expr, bool]:
    """What a dose adds, over its amount, and whether that is the same for every amount."""
    amount = symbol("amount")
    factor = expression / amount
    if not expression.is_Mul and expression.is_rational_function(amount):
        factor = sympy.cancel(factor)
    return factor, amount not in factor.free_symbols
