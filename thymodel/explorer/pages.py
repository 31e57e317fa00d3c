"""The page: served piece by piece, or written as one file with its answers computed beforehand."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from thymodel.explorer.answers import Answers, setup_of
from thymodel.explorer.views import Controls, Slider, View, first_view

FOLDER = Path(__file__).parent
_AGES = 6  # values of a covariate in a file, beside the fitted patients


def page_html(setup: dict[str, Any], static: dict[str, Any] | None = None) -> str:
    """The page of a record; with its own style, program and answers inside where `static` holds them."""
    style, program = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (FOLDER / "page.html").read_text(encoding="utf-8"))
    allowed = {"style": _hash(style), "script": _hash(program)}
    return template.render(setup=setup, data=_inside(setup), static=static is not None,
                           answers=_inside(static) if static is not None else "", style=Markup(style),
                           program=Markup(program), allowed=allowed)


def _inside(value: Any) -> Any:
    """JSON that may stand inside HTML: no sign in it begins a tag or a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def static_html(answers: Answers, progress: Callable[[int, int], None] | None = None) -> str:
    """One file for people without Python: every dose of the curve, for the fitted patients and at some ages (or other
    values of the first covariate); everything else as the page begins."""
    bench = answers.bench
    controls, start = bench.controls, first_view(bench.controls)
    first = controls.inputs[0]
    moved = [replace(controls.slider(f"dose.{first}"), values=controls.doses)]
    people: list[float | None] = [None]
    if controls.covariates:
        slider = controls.slider(controls.covariates[0])
        moved.append(replace(slider, values=_even(slider)))
        people += _even(slider)
    total, views, curves = len(people) * (len(controls.doses) + 1), [], []
    for k, value in enumerate(people):
        fixed = {} if value is None else {controls.covariates[0]: value}
        own = replace(start, numbers=dict(start.numbers) | fixed)
        curves.append(answers.dose_response(own))
        row = []
        for j, dose in enumerate(controls.doses):
            row.append(answers.view(replace(own, numbers=dict(own.numbers) | {f"dose.{first}": dose})))
            if progress is not None:
                progress(k * (len(controls.doses) + 1) + j + 2, total)
        views.append(row)
    begin = replace(start, numbers=dict(start.numbers) | {f"dose.{first}": _nearest(controls, start)})
    setup = setup_of(bench, begin) | {"sliders": [vars(slider) for slider in moved], "stays": _stays(controls, start)}
    return page_html(setup, {"views": views, "curves": curves})


def _even(slider: Slider) -> tuple[float, ...]:
    """Values over a slider's whole range, on its steps."""
    span = slider.high - slider.low
    places = (slider.low + span * k / (_AGES - 1) for k in range(_AGES))
    return tuple(dict.fromkeys(round(slider.step * round(place / slider.step), 10) for place in places))


def _nearest(controls: Controls, start: View) -> float:
    wanted = start.numbers[f"dose.{controls.inputs[0]}"]
    return min(controls.doses, key=lambda dose: abs(dose - wanted))


def _stays(controls: Controls, start: View) -> list[str]:
    """What cannot be changed in a file, in words."""
    free = {f"dose.{controls.inputs[0]}", *controls.covariates[:1], "apart"}
    told = [f"{slider.label}: {start.numbers[slider.key]:g} {slider.unit}" for slider in controls.sliders
            if slider.key not in free and slider.key in start.numbers]
    return told + [f"{controls.slider(name).label}: as in the fitted patients" for name in controls.covariates[1:]]
