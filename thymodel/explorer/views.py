"""What the page may be asked, as sliders, and one such question: read from an address, written as a scenario file.

A question is a scenario of two arms: the chosen doses, and the same with another amount of the first input to compare
them with. The page answers the text that it saves: there is no other account of what was asked.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import numpy as np

from thymodel.documents.expressions import closest
from thymodel.documents.model import Model
from thymodel.documents.regimen import Dose, dose_faults
from thymodel.documents.spec import Endpoint, FitSpec
from thymodel.documents.units import amount_text
from thymodel.errors import Fault, InputError
from thymodel.results.extrapolation import Fitted

DRAWS, SUBJECTS, SEED = 48, 32, 1  # draws in whole chunks of the solver, subjects a power of two, as Sobol points like
CHOSEN, COMPARED = "chosen", "compared"
LONGEST = 2000  # characters of an address
_FAR = 4.0  # how many times the largest fitted dose a slider reaches: the verdict is strong from twice on
_UNKNOWN = 100.0  # of an input that no fitted cohort was given, in its unit: assumed, there is nothing to go by
_BEFORE, _AFTER = 30.0, 60.0  # days about the fitted ones
_MOST_TIMES, _MOST_APART = 4.0, 28.0
_DOSES = 4  # fitted doses in a dose-response curve, at most
_BEYOND = (1.5, 2.0, 3.0, _FAR)  # doses of the curve, in largest fitted ones


@dataclass(frozen=True)
class Slider:
    """One number of a question. `seen` is what the fit has seen of it, in words; `values` are all it may be, where the
    answers are computed beforehand. Without `value` it is as in the fitted patients."""

    key: str
    label: str
    unit: str
    low: float
    high: float
    step: float
    value: float | None
    seen: str
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Controls:
    """All that may be asked of a record: `inputs` that may be dosed, the first of which is compared."""

    sliders: tuple[Slider, ...]
    inputs: tuple[str, ...]
    covariates: tuple[str, ...]
    endpoints: Mapping[str, tuple[float, ...]]  # the days by which a share is asked for
    doses: tuple[float, ...]  # of a dose-response curve
    fitted: tuple[float, ...]
    shapes: Mapping[str, tuple[tuple[float, float], ...]]  # of inputs but the first: days after its day, shares

    def slider(self, key: str) -> Slider:
        return next(slider for slider in self.sliders if slider.key == key)


@dataclass(frozen=True)
class View:
    """A question and how its answer is shown: `numbers` by slider, those of covariates only where they are fixed."""

    numbers: Mapping[str, float]
    endpoint: str
    by: float
    log: bool = False

    @property
    def query(self) -> str:
        """The part of an address that leads here again."""
        shown = {"endpoint": self.endpoint, "by": f"{self.by:g}"} | ({"log": "1"} if self.log else {})
        return urlencode({key: f"{value:.10g}" for key, value in self.numbers.items()} | shown)


# --- what may be asked ---------------------------------------------------------------------------------------------


def make_controls(fit: FitSpec, fitted: Fitted, endpoints: Mapping[str, Endpoint]) -> Controls:
    """Sliders about what the fit has seen, beginning at its cohort with the largest dose.

    Raises:
        InputError: the model has no input to dose, or there is no endpoint.
    """
    model = fit.model
    inputs = tuple(name for name, item in model.inputs.items() if not item.scheduled)
    if not inputs:
        raise InputError([Fault(model.name, "the model has no input to dose, so that there is nothing to explore")])
    if not endpoints:
        raise InputError([Fault(fit.title, "the fit has no endpoint, so that there is nothing to explore",
                                "add [endpoints.NAME] to the spec and fit again")])
    totals = {name: sorted({_total(doses, name) for doses in fitted.cohorts.values()}) for name in inputs}
    best = max(fitted.cohorts.values(), key=lambda doses: _total(doses, inputs[0]), default=())
    sliders = [slider for name in inputs
               for slider in _dosing(model, name, totals[name], best, fitted, name == inputs[0], endpoints)]
    sliders += [_covariate(model, name, fitted.covariates[:, k] if fitted.covariates.size else np.array([]))
                for k, name in enumerate(fitted.names)]
    given = [total for total in totals[inputs[0]] if total > 0]
    some = [given[k] for k in sorted({round(k) for k in np.linspace(0, len(given) - 1, min(len(given), _DOSES))})]
    top = sliders[0].high
    return Controls(tuple(sliders), inputs, tuple(fitted.names),
                    {name: tuple(dict.fromkeys([*endpoint.by, endpoint.horizon])) for name, endpoint in
                     endpoints.items()},
                    (0.0, *some, *(far / _FAR * top for far in (_BEYOND if given else (1.0, 2.0, 3.0, 4.0)))),
                    tuple(given), {name: _shape(best, name) for name in inputs[1:]})


def _shape(doses: Sequence[Dose], name: str) -> tuple[tuple[float, float], ...]:
    """How a cohort's total of an input was spread over days; at once where it had none."""
    own, total = [dose for dose in doses if dose.input == name], _total(doses, name)
    return tuple((dose.time - own[0].time, dose.amount / total) for dose in own) if total > 0 else ((0.0, 1.0),)


def _dosing(model: Model, name: str, totals: Sequence[float], best: Sequence[Dose], fitted: Fitted, first: bool,
            endpoints: Mapping[str, Endpoint]) -> list[Slider]:
    unit, label = model.inputs[name].unit, _words(name)
    high = _FAR * max(totals, default=0.0) or _UNKNOWN
    days = [dose.time for doses in fitted.cohorts.values() for dose in doses if dose.input == name and dose.amount > 0]
    early = max(model.start, min(days, default=0.0) - _BEFORE)
    late = min(max(days, default=0.0) + _AFTER, min(one.horizon for one in endpoints.values()) - 1.0)
    seen, when = _told(totals), _told(sorted(set(days)))
    found = [Slider(f"dose.{name}", f"Dose of {label}", unit, 0.0, high, _nice(high / 100), _total(best, name),
                    f"fitted: {seen}" if any(totals) else "given to no fitted cohort"),
             Slider(f"day.{name}", f"Day of {label}", model.time, early, late, 1.0,
                    next((dose.time for dose in best if dose.input == name), min(max(early, 0.0), late)),
                    f"fitted: {when}" if days else "given to no fitted cohort")]
    if not first:
        return found
    return [*found, Slider("times", "Split into", "doses", 1.0, _MOST_TIMES, 1.0, 1.0, "of equal size"),
            Slider("apart", "Between infusions", model.time, 1.0, _MOST_APART, 1.0, 14.0, "where there are several"),
            Slider("against", "Compared with", unit, 0.0, high, _nice(high / 100), 0.0, "on the same days; 0: none")]


def _told(values: Sequence[float]) -> str:
    """All of a few values, the range of many."""
    return ", ".join(f"{value:g}" for value in values) if len(values) <= 6 else f"{values[0]:g} to {values[-1]:g}"


def _covariate(model: Model, name: str, seen: np.ndarray) -> Slider:
    """About the fitted patients, half of their range further on either side."""
    item = model.covariates[name]
    seen = seen[np.isfinite(seen)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (item.value, item.value)
    span = high - low or abs(low) or 1.0
    step = _nice(span / 100)
    below = low - span / 2 if low < 0 else max(low - span / 2, 0.0)
    words = f"fitted: {low:.4g} to {high:.4g}" if high > low else f"fitted: {low:.4g}"
    return Slider(name, (item.label or name)[:1].upper() + (item.label or name)[1:], item.unit,
                  step * math.floor(below / step), step * math.ceil((high + span / 2) / step), step, None, words)


def _nice(value: float) -> float:
    """The next of 1, 2, 5, 10, ... at or above a value, with one decimal at most where it can be."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(factor * power, 12) for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def _total(doses: Sequence[Dose], name: str) -> float:
    return math.fsum(dose.amount for dose in doses if dose.input == name)


def _words(name: str) -> str:
    return name.replace("_", " ")


# --- a question from an address ------------------------------------------------------------------------------------


def first_view(controls: Controls) -> View:
    """What the page shows at first: the fitted cohort with the largest dose, and the first endpoint."""
    endpoint = next(iter(controls.endpoints))
    return View({slider.key: slider.value for slider in controls.sliders if slider.value is not None}, endpoint,
                controls.endpoints[endpoint][0])


def read_view(query: str, controls: Controls, model: Model) -> View:
    """A question from the part of an address behind the question mark; what it leaves out is as at first.

    Raises:
        InputError: everything in it that is not a question to this record.
    """
    if len(query) > LONGEST:
        raise InputError([Fault("address", f"longer than {LONGEST} characters")])
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=50)
    except ValueError:
        raise InputError([Fault("address", "not of the form name=value&name=value")]) from None
    faults: list[Fault] = []
    asked = dict(pairs)
    faults += [Fault(_place(key), "given more than once") for key in asked if [k for k, _ in pairs].count(key) > 1]
    known = [*(slider.key for slider in controls.sliders), "endpoint", "by", "log"]
    faults += [Fault(_place(key), f"nothing of that name here{closest(key, known)}", f"names: {', '.join(known)}")
               for key in asked if key not in known]
    start = first_view(controls)
    numbers = dict(start.numbers)
    for slider in controls.sliders:
        if slider.key in asked:
            numbers[slider.key] = _number(slider, asked[slider.key], controls, model, faults)
    endpoint = asked.get("endpoint", start.endpoint)
    if endpoint not in controls.endpoints:
        faults.append(Fault("endpoint", f"no endpoint '{_cut(endpoint)}'", f"one of: {', '.join(controls.endpoints)}"))
        endpoint = start.endpoint
    days = {f"{day:g}": day for day in controls.endpoints[endpoint]}
    by = asked.get("by", next(iter(days)))
    if by not in days:
        faults.append(Fault("by", f"'{_cut(by)}' is not a day of {endpoint}", f"one of: {', '.join(days)}"))
    if asked.get("log", "0") not in ("0", "1"):
        faults.append(Fault("log", f"'{_cut(asked['log'])}'", "0 or 1"))
    if faults:
        raise InputError(faults)
    return View(numbers, endpoint, days[by], asked.get("log") == "1")


def _number(slider: Slider, text: str, controls: Controls, model: Model, faults: list[Fault]) -> float:
    try:
        value = float(text) if text.isascii() and len(text) <= 32 else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        faults.append(Fault(slider.key, f"'{_cut(text)}' is not a finite number"))
        return slider.low
    name = controls.inputs[0] if slider.key == "against" else slider.key.partition("dose.")[2]
    refused = list(dose_faults(slider.key, Dose(model.start, name, value), model)) if name else []
    if not refused and not slider.low <= value <= slider.high:
        refused = [Fault(slider.key, f"{value:g} is not between {slider.low:g} and {slider.high:g} {slider.unit}",
                         f"{slider.seen}; a scenario file may go further")]
    if not refused and slider.key == "times" and value != round(value):
        refused = [Fault(slider.key, f"{value:g} is not a whole number")]
    faults += refused
    return value


def _place(key: str) -> str:
    """Where a fault of a key is: a name may be missing."""
    return _cut(key) or "address"


def _cut(text: str) -> str:
    """What may be said of an unknown text: short, and letters that print."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:40])
    return shown + ("..." if len(text) > 40 else "")


# --- a question as a scenario file ---------------------------------------------------------------------------------


def arm_label(view: View, controls: Controls, model: Model, amount: float) -> str:
    """An arm in words: how much of the first input, and when."""
    name = controls.inputs[0]
    if amount == 0:
        return f"no {_words(name)}"
    count, day = int(view.numbers["times"]), view.numbers[f"day.{name}"]
    if count == 1:
        return f"{amount_text(amount, model.inputs[name].unit)} on {model.time} {day:g}"
    days = ", ".join(f"{day + k * view.numbers['apart']:g}" for k in range(count))
    return f"{amount_text(amount, model.inputs[name].unit)} in {count}, {model.time}s {days}"


def scenario_text(view: View, controls: Controls, model: Model, source: str) -> str:
    """The chosen doses and those that they are compared with, as a scenario file.

    Args:
        source: what stands in its first line.
    """
    amounts = {COMPARED: view.numbers["against"], CHOSEN: view.numbers[f"dose.{controls.inputs[0]}"]}
    labels = {arm: arm_label(view, controls, model, amount) for arm, amount in amounts.items()}
    title = f"{labels[CHOSEN]}, against {labels[COMPARED]}{_people(view, controls)}"
    return _text(view, controls, source, title, amounts, labels, f"reference = {json.dumps(COMPARED)}\n")


def dose_response_text(view: View, controls: Controls, model: Model, source: str) -> str:
    """The same people at a range of doses, as a scenario file."""
    amounts = {f"dose_{k}": amount for k, amount in enumerate(controls.doses)}
    labels = {arm: arm_label(view, controls, model, amount) for arm, amount in amounts.items()}
    title = f"Dose-response of {_words(controls.inputs[0])}{_people(view, controls)}"
    return _text(view, controls, source, title, amounts, labels, "", "\n[dose_response]\n")


def _people(view: View, controls: Controls) -> str:
    fixed = [f"{name} {view.numbers[name]:g} {controls.slider(name).unit}" for name in controls.covariates
             if name in view.numbers]
    return f"; {', '.join(fixed)}" if fixed else ""


def _text(view: View, controls: Controls, source: str, title: str, amounts: Mapping[str, float],
          labels: Mapping[str, str], head: str, foot: str = "") -> str:
    covariates = ", ".join(f"{name} = {view.numbers[name]!r}" for name in controls.covariates if name in view.numbers)
    lines = [f"# {source}", f"title    = {json.dumps(title)}", f"subjects = {SUBJECTS}", f"draws    = {DRAWS}",
             f"seed     = {SEED}", f"{head}{foot}"]
    for arm, amount in amounts.items():
        lines += [f"[arms.{arm}]", f"label = {json.dumps(labels[arm])}"]
        doses = _doses(view, controls, amount)
        lines += [f"doses = [{', '.join(doses)}]"] if doses else []
        lines += [f"covariates = {{ {covariates} }}", ""] if covariates else [""]
    return "\n".join(lines)


def _doses(view: View, controls: Controls, amount: float) -> list[str]:
    """The doses of an arm: so much of the first input, split as asked, and the others as the fitted cohort had them."""
    first, count = controls.inputs[0], int(view.numbers["times"])
    more = f", times = {count}, every = {view.numbers['apart']!r}" if count > 1 else ""
    found = [(first, amount / count, view.numbers[f"day.{first}"], more)] if amount > 0 else []
    found += [(name, view.numbers[f"dose.{name}"] * share, view.numbers[f"day.{name}"] + day, "")
              for name, shape in controls.shapes.items() if view.numbers[f"dose.{name}"] > 0 for day, share in shape]
    return [f"{{ amount = {part!r}, day = {day!r}, input = {json.dumps(name)}{rest} }}"
            for name, part, day, rest in found]
