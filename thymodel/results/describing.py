"""A model for readers: equations, numbers, units, sources and assumptions, from the objects that the solver compiles.

`describe` writes Markdown with formulas for the web hosts of repositories, HTML that stands alone, or LaTeX.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Literal

import jinja2
import scipy.special
import sympy
from markupsafe import Markup

from thymodel.documents import priors, units
from thymodel.documents.comments import Remark, remarks
from thymodel.documents.model import Model, expression_units, load_model, static_expressions
from thymodel.documents.priors import Prior
from thymodel.documents.units import Unit
from thymodel.dynamics import symbolic
from thymodel.dynamics.transfers import Chain, chains, flows, stage_rate
from thymodel.errors import Fault, InputError
from thymodel.results import typesetting as ts
from thymodel.results.drawing import svg
from thymodel.results.record import write_file
from thymodel.results.typesetting import Node, Typesetter

Format = Literal["md", "html", "latex"]
FORMATS: tuple[Format, ...] = ("md", "html", "latex")
_TEMPLATES = Path(__file__).with_name("templates")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# what a source says of itself, in the order in which the register lists it
_KINDS = {
    "assumed": r"\bassum|\bguard\b|\bchosen\b|\bset equal\b|\bno (human )?source\b|"
               r"\bsensitivity parameter\b|\bwithout source\b",
    "calibrated": r"\bcalibrat|\btuned\b",
    "unverified": r"\bunverified\b|\bfrom memory\b",
}
KIND_WORDS = {
    "assumed": "Assumed",
    "calibrated": "Calibrated by simulation",
    "unverified": "From memory, unverified",
    "not seen": "Taken or derived from a source in which nobody has looked the number up (verified = false)",
}


# --- what a page says ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equation:
    """left sign right; `right` has more than one line where it is long."""

    left: Node
    right: tuple[Node, ...]
    note: str = ""
    unit: str = ""
    sign: Literal["=", "<-"] = "="
    value: str = ""


@dataclass(frozen=True)
class Group:
    """Equations or rows under a heading of the document; the heading may be empty."""

    heading: str
    rows: tuple


@dataclass(frozen=True)
class Dose:
    """An input: what a dose record does to states."""

    key: str
    label: str
    unit: str
    source: str
    jumps: tuple[Equation, ...]


@dataclass(frozen=True)
class Row:
    """A line of a table of states, parameters, covariates or constants."""

    key: str
    symbol: ts.Name
    label: str
    unit: str
    value: str
    prior: str = ""
    source: str = ""
    verified: bool = False


@dataclass(frozen=True)
class Statement:
    """An entry of the register of assumptions in words."""

    text: str
    affects: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Description:
    """All that a page says, before it is HTML, Markdown or LaTeX."""

    model: Model
    paragraphs: tuple[str, ...]
    doses: tuple[Dose, ...]
    rates: tuple[Equation, ...]
    moving: tuple[Group, ...]
    derived: tuple[Group, ...]
    observables: tuple[Equation, ...]
    initial: tuple[Equation, ...]
    states: tuple[Row, ...]
    parameters: tuple[Group, ...]
    covariates: tuple[Row, ...]
    constants: tuple[Row, ...]
    statements: tuple[Statement, ...]
    doubtful: tuple[Group, ...]
    functions: tuple[str, ...]
    flows: tuple[str, ...]


def describe(model: Model | str, to: Format = "md", figure: str = "") -> str:
    """A model's equations, numbers, units, sources and assumptions as one page.

    Args:
        model: a model, or the name of a shipped one, or a path.
        to: "md" (Markdown, formulas in LaTeX as web hosts of repositories show them), "html" (stands alone, the
            formulas are MathML, with a drawing of the compartments) or "latex" (an article).
        figure: address of the drawing that a Markdown page shows; without it the page lists the flows in words.

    Raises:
        InputError: no such model, or every fault of its file.
    """
    content = description(load_model(model) if isinstance(model, str) else model)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined,
                                     autoescape=to == "html", trim_blocks=True, lstrip_blocks=True,
                                     keep_trailing_newline=True)
    environment.filters |= {"md": _md, "tex": tex, "latex": ts.latex, "latex_equation": latex_equation,
                            "mathml": _math, "mathml_equation": mathml_equation}
    drawing = "" if to == "latex" else svg(content.model)
    dashed = "; dashed ones set the pace of a rate" if "stroke-dasharray" in drawing else ""
    suffix = {"md": "md", "html": "html", "latex": "tex"}[to]
    return environment.get_template(f"model.{suffix}.j2").render(
        content=content, model=content.model, drawing=drawing, dashed=dashed, figure=figure, kinds=KIND_WORDS)


def save_description(model: Model, path: Path, to: Format) -> tuple[Path, ...]:
    """Writes a page, and beside a Markdown page the drawing that it shows; returns the files.

    Raises:
        InputError: a file cannot be written, or is named as a drawing.
    """
    drawing = path.with_suffix(".svg")
    if to == "md" and path == drawing:
        raise InputError([Fault(str(path), "a page of text cannot end in .svg", "give .md, .html or .tex")])
    pages = {path: describe(model, to, figure=drawing.name)}
    if to == "md":
        pages[drawing] = svg(model)
    for file, text in pages.items():
        try:
            write_file(file, text.encode())
        except OSError as error:
            raise InputError([Fault(str(file), f"cannot be written: {error.strerror}")]) from None
    return tuple(pages)


def description(model: Model) -> Description:
    """What a page about a model says."""
    names, static = Typesetter(model), static_expressions(model)
    typical = symbolic.derive(model, symbolic.typical_values(model))
    stages = {member: chain for chain in chains(model) for member in chain.members}
    named = _named(model, names, typical)
    order = remarks(model.text, "expressions")
    everything = dict(model.expressions) | {k: s.rate for k, s in model.states.items()} | {
        f"observable {k}": o.value for k, o in model.observables.items()}
    return Description(
        model=model, paragraphs=tuple(part.strip() for part in model.description.strip().split("\n\n")),
        doses=tuple(_dose(model, names, key) for key in model.inputs),
        rates=_rates(model, names, stages),
        moving=_grouped(order, {key: row for key, row in named.items() if key not in static}),
        derived=_grouped(order, {key: row for key, row in named.items() if key in static}),
        observables=tuple(Equation(names.name(key) if key not in _quantities(model) else ts.Name(key.replace("_", " ")),
                                   _lines(names, item.value), item.label, item.unit)
                          for key, item in model.observables.items()),
        initial=_initial(model, names, stages, typical),
        states=_states(model, names, stages, typical),
        parameters=_grouped(remarks(model.text, "parameters"), {
            key: Row(key, names.name(key), item.label, item.unit, number(item.value), prior_in_words(item.prior),
                     item.source, item.verified) for key, item in model.parameters.items()}),
        covariates=tuple(Row(key, names.name(key), item.label, item.unit, number(item.value), source=item.source)
                         for key, item in model.covariates.items()),
        constants=tuple(Row(key, names.name(key), item.label, item.unit, number(item.value), source=item.source)
                        for key, item in model.constants.items()),
        statements=tuple(Statement(item.text, item.affects, item.source) for item in model.assumptions.values()),
        doubtful=_doubtful(model, names),
        functions=tuple(ts.FUNCTIONS[name] for name in ts.functions(everything)),
        flows=_flows_in_words(model, stages))


def _quantities(model: Model) -> set[str]:
    """Names of what stands on the right of equations: an observable may have the name of one of them."""
    return {*model.constants, *model.covariates, *model.parameters, *model.expressions, *model.states}


def _lines(names: Typesetter, expression: sympy.Basic) -> tuple[Node, ...]:
    return tuple(ts.lines(names.tree(expression)))


def _dose(model: Model, names: Typesetter, key: str) -> Dose:
    item = model.inputs[key]
    jumps = [Equation(names.name(state), (ts.Sum(((False, names.name(state)), (False, names.tree(value)))),),
                      model.states[state].label, model.states[state].unit, "<-") for state, value in item.add.items()]
    for value in dict.fromkeys(item.multiply.values()):
        struck = [state for state, other in item.multiply.items() if other == value]
        who = names.name(struck[0]) if len(struck) == 1 else ts.Name("y")
        note = model.states[struck[0]].label if len(struck) == 1 else f"for every y of {', '.join(struck)}"
        jumps.append(Equation(who, (ts.Product((who, names.tree(value))),), note, sign="<-"))
    return Dose(key, item.label, item.unit, item.source, tuple(jumps))


def _rates(model: Model, names: Typesetter, stages: dict[str, Chain]) -> tuple[Equation, ...]:
    """One equation a state; a chain has its first stage and one equation for the others."""
    rows = []
    for key, state in model.states.items():
        chain = stages.get(key)
        per_time = f"{state.unit}/{model.time}" if state.unit != "1" else f"1/{model.time}"
        if chain is None or key == chain.members[0]:
            rows.append(Equation(ts.Rate(names.name(key)), _lines(names, state.rate), state.label, per_time))
        if chain is not None and key == chain.members[1]:
            rows.append(Equation(ts.Rate(names.name(f"{chain.stem}[j]")),
                                 _lines(names, stage_rate(model, chain.stem, 2)),
                                 f"the stages j = 2 to {len(chain.members)}", per_time))
    return tuple(rows)


def _named(model: Model, names: Typesetter, typical: dict) -> dict[str, Equation]:
    notes = {remark.key: remark.note for remark in remarks(model.text, "expressions")}
    found = expression_units(model)
    return {key: Equation(names.name(key), _lines(names, value), notes.get(key, ""), unit_in_words(model, found[key]),
                          value=number(float(typical[key]), 4) if key in typical else "")
            for key, value in model.expressions.items()}


def _grouped(order: Sequence[Remark], rows: dict) -> tuple[Group, ...]:
    """Rows in the order and under the headings of the document; what its text does not show comes last."""
    shown = [(remark.heading, rows[remark.key]) for remark in order if remark.key in rows]
    listed = {remark.key for remark in order}
    shown += [("", row) for key, row in rows.items() if key not in listed]
    return tuple(Group(heading, tuple(row for _, row in group))
                 for heading, group in groupby(shown, lambda pair: pair[0]))


def _initial(model: Model, names: Typesetter, stages: dict[str, Chain], typical: dict) -> tuple[Equation, ...]:
    """Initial values that are not zero; the page says so of the others."""
    start, rows = ts.decimal(model.start), []
    values = dict(zip(model.states, symbolic.initial(model, typical), strict=True))
    for key, state in model.states.items():
        if state.initial == 0 or (key in stages and key != stages[key].members[0]):
            continue
        rows.append(Equation(ts.At(names.name(key), start), _lines(names, state.initial), state.label, state.unit,
                             value=number(float(values[key]), 4)))
    return tuple(rows)


def _states(model: Model, names: Typesetter, stages: dict[str, Chain], typical: dict) -> tuple[Row, ...]:
    rows = []
    values = dict(zip(model.states, symbolic.initial(model, typical), strict=True))
    for key, state in model.states.items():
        chain, value = stages.get(key), number(float(values[key]), 4)
        if chain is None:
            rows.append(Row(key, names.name(key), state.label, state.unit, value))
        elif key == chain.members[0]:
            label = re.sub(r" \(stage 1\)\Z", "", state.label)
            rows.append(Row(f"{key} to {chain.members[-1]}", names.name(f"{chain.stem}[j]"), label, state.unit, value))
    return tuple(rows)


def _flows_in_words(model: Model, stages: dict[str, Chain]) -> tuple[str, ...]:
    """`P -> e -> ...` one flow a line; the stages of a chain are one place."""
    place = {key: f"{stages[key].members[0]}..{stages[key].members[-1]}" if key in stages else key
             for key in model.states}
    pairs = dict.fromkeys((place[a], place[b]) for a, b in flows(model).flows if place[a] != place[b])
    return tuple(f"{source} → {', '.join(b for _, b in group)}"
                 for source, group in groupby(pairs, lambda pair: pair[0]))


# --- the register --------------------------------------------------------------------------------------------


def _doubtful(model: Model, names: Typesetter) -> tuple[Group, ...]:
    """Every number that its own source calls assumed, calibrated or unverified, and those that nobody looked up."""
    found: dict[str, list[Row]] = {kind: [] for kind in KIND_WORDS}
    for key, item in model.parameters.items():
        kind = source_kind(item.source) or (None if item.verified else "not seen")
        if kind is not None and not (item.verified and kind == "unverified"):
            found[kind].append(Row(key, names.name(key), item.label, item.unit, number(item.value), source=item.source))
    for section in (model.constants, model.covariates):
        for key, thing in section.items():
            if (kind := source_kind(thing.source)) is not None:
                found[kind].append(Row(key, names.name(key), thing.label, thing.unit, number(thing.value),
                                       source=thing.source))
    for key, dose in model.inputs.items():
        if (kind := source_kind(dose.source)) is not None:
            found[kind].append(Row(key, names.name(key), dose.label, dose.unit, "", source=dose.source))
    return tuple(Group(kind, tuple(rows)) for kind, rows in found.items() if rows)


def source_kind(source: str) -> str | None:
    """What a source says of itself: assumed, calibrated or unverified; None where it says nothing of the kind."""
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, source, re.IGNORECASE)), None)


# --- words ---------------------------------------------------------------------------------------------------


def number(value: float, digits: int | None = None) -> str:
    """A number as text: 0.94, 2.3 × 10⁷; at most six digits where a document has a third written out."""
    shown = ts.decimal(value, digits or (6 if len(repr(float(value))) > 10 else None))
    return f"{shown.text}\u00a0×\u00a010{shown.exponent.translate(_SUPERSCRIPT)}" if shown.exponent else shown.text


def prior_in_words(prior: Prior | None) -> str:
    """A prior for somebody who never saw the notation, with the range that holds 95% of it."""
    if prior is None:
        return "fixed"
    n = {key: number(value, 4) for key, value in prior.numbers.items()}
    low, high = (number(value, 2) for value in _central_95(prior))
    match prior.family:
        case "lognormal":
            text = f"log-normal, median {n['median']}, SD of the logarithm {n['sd']}"
        case "logitnormal":
            text = f"logit-normal, median {n['median']}, SD of the logit {n['sd']}"
        case "normal":
            text = f"normal, mean {n['mean']}, SD {n['sd']}"
        case "truncnormal":
            text = f"normal, mean {n['mean']}, SD {n['sd']}, cut to {n['lower']} to {n['upper']}"
        case "halfnormal":
            text = f"half-normal, SD {n['sd']}"
        case "halfcauchy":
            text = f"half-Cauchy, scale {n['scale']}"
        case "exponential":
            text = f"exponential, mean {n['mean']}"
        case _:
            text = f"uniform, {n['lower']} to {n['upper']}"
    return f"{text}; 95%: {low} to {high}"


def _central_95(prior: Prior) -> tuple[float, float]:
    if prior.family == "logitnormal":
        centre, half = float(scipy.special.logit(prior.numbers["median"])), 1.959964 * prior.numbers["sd"]
        return float(scipy.special.expit(centre - half)), float(scipy.special.expit(centre + half))
    low, high = priors.in_scipy(prior).ppf([0.025, 0.975])
    return float(low), float(high)


def unit_in_words(model: Model, unit: Unit) -> str:
    """A unit made of those that the document uses; the base units if none fits."""
    if unit.text:
        return unit.text
    tables = (model.states, model.parameters, model.constants, model.covariates, model.observables, model.inputs)
    written = dict.fromkeys(item.unit for table in tables for item in table.values() if item.unit != "1")
    atoms = [atom for atom in dict.fromkeys(re.findall(r"[A-Za-z]+", " ".join([*written, model.time])))]
    texts = ["1", *written, *atoms, *(f"1/{a}" for a in atoms), *(f"{u}/{model.time}" for u in written),
             *(f"{a}/{b}" for a, b in product(atoms, atoms) if a != b),
             *(f"{a}/({b}*{c})" for a, b, c in product(atoms, atoms, atoms) if len({a, b, c}) == 3)]
    return next((text for text in texts if units.same(units.parse_unit(text), unit)), str(unit))


# --- pieces of the pages -------------------------------------------------------------------------------------


def latex_equation(equation: Equation) -> str:
    """An equation in LaTeX, on several lines where it needs them."""
    sign = r"\leftarrow" if equation.sign == "<-" else "="
    left, (first, *rest) = ts.latex(equation.left), equation.right
    if not rest:
        return f"{left} {sign} {ts.latex(first)}"
    more = "".join(rf" \\ &\quad {ts.latex(line, leading=True)}" for line in rest)
    return rf"\begin{{aligned}} {left} &{sign} {ts.latex(first)}{more} \end{{aligned}}"


def mathml_equation(equation: Equation) -> Markup:
    """An equation in MathML."""
    sign = "←" if equation.sign == "<-" else "="
    left, (first, *rest) = ts.mathml(equation.left), equation.right
    if not rest:
        return _math_element(f"<mrow>{left}<mo>{sign}</mo>{ts.mathml(first)}</mrow>")
    rows = [f"<mtr><mtd><mrow displaystyle=\"true\">{left}</mrow></mtd><mtd>"
            f"<mrow displaystyle=\"true\"><mo>{sign}</mo>{ts.mathml(first)}</mrow></mtd></mtr>"]
    rows += [f"<mtr><mtd></mtd><mtd><mrow displaystyle=\"true\"><mspace width=\"2em\"/>"
             f"{ts.mathml(line, leading=True)}</mrow></mtd></mtr>"
             for line in rest]
    return _math_element(f"<mtable class=\"lines\">{''.join(rows)}</mtable>")


def _math(node: Node) -> Markup:
    return _math_element(ts.mathml(node), block=False)


def _math_element(inside: str, block: bool = True) -> Markup:
    style = ' display="block"' if block else ""
    return Markup(f"<math{style}>{inside}</math>")


def _md(text: str) -> str:
    """Text that Markdown must leave as it is."""
    escaped = re.sub(r"([\\|*$~`\[\]])", r"\\\1", text)
    return html.escape(escaped, quote=False).replace("\n", " ")


_TEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
        "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", "×": r"$\times$",
        "−": "$-$", "→": r"$\to$", "µ": r"$\mu$", "≤": r"$\le$", "≥": r"$\ge$", "±": r"$\pm$", "\u00a0": "~",
        "ⁿ": "$^n$"}
_TEX |= {sup: f"$^{{{plain}}}$" for plain, sup in zip("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True)}
_TEX |= {letter: rf"$\{name}$" for letter, name in zip("αβγδεηθκλμνπρστφχψωΔΣΩ", (
    "alpha beta gamma delta varepsilon eta theta kappa lambda mu nu pi rho sigma tau varphi chi psi omega Delta Sigma "
    "Omega").split(), strict=True)}
_LIGATURE = re.compile(r"([-,'`])(?=\1)")  # LaTeX makes one sign of two: of --by a dash, and no option of a command
_SET = "–—‘’“”„…•€"  # beyond Latin-1, and known to LaTeX's utf8 and T1


def tex(text: str) -> str:
    """Text that LaTeX must leave as it is; a letter that pdflatex cannot set is spelt, or named by its number."""
    plain = "".join(_TEX[letter] if letter in _TEX else _beyond(letter) for letter in str(text))
    return _LIGATURE.sub(r"\1{}", plain)


def _beyond(letter: str) -> str:
    if letter in _SET or " " <= letter <= "~" or letter in "\t\n" or "\u00a1" <= letter <= "\u00ff":
        return letter
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return tex(plain) if plain.isprintable() and plain else f"[U+{ord(letter):04X}]"
