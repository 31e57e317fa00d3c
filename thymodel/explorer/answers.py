"""Answers to the page's questions: one prepared simulator, and for each question what a scenario says of it and the
curves of its figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float

from thymodel import __version__
from thymodel.documents.model import ratios
from thymodel.documents.reference import AGE, reference_range
from thymodel.documents.regimen import Dose
from thymodel.documents.spec import Arm, FitSpec, ScenarioSpec, read_scenario_spec
from thymodel.explorer.views import (
    CHOSEN,
    COMPARED,
    DRAWS,
    SEED,
    SUBJECTS,
    Controls,
    View,
    dose_response_text,
    make_controls,
    scenario_text,
)
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.inference.sampling import thin
from thymodel.results import extrapolation
from thymodel.results.curves import bands, incidence_curves
from thymodel.results.endpoints import summarise_draws
from thymodel.results.extrapolation import Fitted
from thymodel.results.prediction import Block, Simulation, VirtualSubjects, designs, virtual_subjects
from thymodel.results.reconstitution import Judging, gather, judging_grid
from thymodel.results.record import FitRecord, quotable
from thymodel.results.scenarios import Scenario, covariates_of, refuse_failures, summarise
from thymodel.results.tables import quantity_text

_COURSES = ("cd4", "naive4", "rte4")  # the vocabulary of the shipped models; others show what their fit looks at
_EVERY = 2  # of the days that are judged, so many are drawn
_KEPT = 256  # answers


@dataclass(frozen=True)
class Bench:
    """A record with all that its answers have in common, prepared once."""

    record: FitRecord
    fit: FitSpec
    fitted: Fitted
    controls: Controls
    z: Float[np.ndarray, "draw coordinate"]
    people: VirtualSubjects
    grid: Float[np.ndarray, " time"]
    shown: tuple[str, ...]  # observables of which courses are drawn
    simulation: Callable[[Sequence[Arm]], Simulation]


def make_bench(record: FitRecord) -> Bench:
    """A record ready to be asked.

    Raises:
        RecordError: the record failed its gates, is an approximation, or was changed.
        InputError: there is nothing to dose, or no endpoint.
        SolveError: the model cannot be integrated.
    """
    quotable(record)
    fit = record.spec
    fitted = extrapolation.fitted_of(record, fit)
    controls = make_controls(fit, fitted, fit.endpoints)
    z = thin(record.z, DRAWS)
    people = virtual_subjects(fit, covariates_of(record), SUBJECTS, SEED)
    grid = judging_grid(fit.endpoints)
    own = tuple(name for name in _COURSES if name in fit.model.observables) or tuple(fit.model.observables)[:3]
    shown = (*own, *(key for key in ratios(fit.model) if key.endswith("/healthy")))
    markers = (*own, *(endpoint.marker for endpoint in fit.endpoints.values()))
    return Bench(record, fit, fitted, controls, z, people, grid, shown,
                 designs(fit, record.layout, z, _ends(controls), people, grid, markers))


def _ends(controls: Controls) -> list[Arm]:
    """Arms at the ends of the sliders, for which the solver's steps are laid; each with the most doses."""
    first, *others = controls.inputs
    day = controls.slider(f"day.{first}")

    def arm(amount: float, at: float, apart: float, more: float, covariates: Mapping[str, float]) -> Arm:
        count = int(controls.slider("times").high)
        doses = [Dose(at + k * apart, first, amount / count) for k in range(count)]
        doses += [Dose((controls.slider(f"day.{name}").value or 0.0) + later, name,
                       more * share * controls.slider(f"dose.{name}").high)
                  for name in others for later, share in controls.shapes[name]]
        return Arm("", "", tuple(doses), covariates)

    most, far = controls.slider(f"dose.{first}").high, controls.slider("apart").high
    low, high = ({name: getattr(controls.slider(name), end) for name in controls.covariates} for end in ("low", "high"))
    return [arm(0.0, day.low, far, 0.0, {}), arm(most, day.low, 1.0, 0.0, low), arm(most, day.low, 1.0, 1.0, high),
            arm(most, day.value or 0.0, 1.0, 0.0, {}), arm(most, day.value or 0.0, far, 1.0, {}),
            arm(most, day.high, far, 0.0, {})]


class Answers:
    """Answers of one bench, one at a time; those given before are kept."""

    def __init__(self, bench: Bench) -> None:
        self.bench, lock = bench, Lock()

        @lru_cache(maxsize=_KEPT)
        def kept(text: str, of_doses: bool) -> dict[str, Any]:
            with lock:  # a second question waits: two at once would each take as long as both
                return _doses(bench, text) if of_doses else _answer(bench, text)

        self._kept = kept

    def view(self, view: View) -> dict[str, Any]:
        """Courses, incidence, table, verdicts and files of a question."""
        bench = self.bench
        return self._kept(scenario_text(view, bench.controls, bench.fit.model, source_of(bench)), False) | {
            "query": view.query}

    def dose_response(self, view: View) -> dict[str, Any]:
        """Shares reached by each day, dose by dose, for the people and days of a question."""
        bench = self.bench
        return self._kept(dose_response_text(view, bench.controls, bench.fit.model, source_of(bench)), True)


def source_of(bench: Bench) -> str:
    """Where a saved file comes from."""
    content = bench.record.content
    banner = "From a fit to SIMULATED data. " if content["simulated"] else ""
    return (f"{banner}Saved by thymodel explore {__version__}, record {content['name']} "
            f"{bench.record.digest[:12]}".replace("\n", " "))


def simulated_scenario(bench: Bench, text: str) -> tuple[Scenario, np.ndarray]:
    """What `thymodel scenario` says of a file with this text, but for the solver's tolerance, and its courses
    (arm, draw, subject, time, observable of `shown`).

    Raises:
        InputError: the text is no scenario of this record.
        SolveError: a course could not be computed.
    """
    spec = read_scenario_spec(text, Path("scenario.toml"), bench.fit.model, bench.fit.endpoints)
    judging = Judging(bench.simulation(spec.arms), bench.z, spec.endpoints, seed=spec.seed)
    asked = tuple(dict.fromkeys([*bench.shown, *judging.observables]))
    found = judging.simulation(bench.z, asked)
    whole = Block(slice(0, len(bench.z)), slice(0, len(bench.people.standard)))
    judged = judging.judge(whole, found[..., [asked.index(name) for name in judging.observables]])
    outcomes = gather(judging, [(whole, judged)])
    refuse_failures(spec, outcomes)
    result = summarise(bench.record, bench.fit, spec, bench.z, bench.people, outcomes, fitted=bench.fitted)
    return result, found[..., : len(bench.shown)]


def _answer(bench: Bench, text: str) -> dict[str, Any]:
    scenario, courses = simulated_scenario(bench, text)
    incidence = incidence_curves(scenario.endpoints, scenario.times, [arm.name for arm in scenario.spec.arms])
    return {
        "scenario": text, "csv": scenario.table.to_csv(index=False), "title": scenario.spec.title,
        "arms": [{"name": arm.name, "label": arm.label} for arm in scenario.spec.arms],
        "courses": _courses(bench, scenario.spec, courses),
        "incidence": {name: {"days": _numbers(incidence[f"{name}.day"].values),
                             "arms": [_bounds(incidence[name].values[k]) for k in range(len(scenario.spec.arms))]}
                      for name in scenario.endpoints},
        "reached": {name: _reached(scenario, name, [CHOSEN])[0] for name in scenario.endpoints},
        "table": _table(bench, scenario), "verdicts": _verdicts(scenario),
        "warnings": list(scenario.implied_export.get("warnings", [])),
        "export": _export(scenario)}


def _courses(bench: Bench, spec: ScenarioSpec, found: np.ndarray) -> dict[str, Any]:
    some = sorted({*range(0, len(bench.grid), _EVERY), len(bench.grid) - 1})
    uncertain, spread = bands(found[:, :, :, some])
    model = bench.fit.model
    ages = ([spec.arms[0].covariates[AGE]] if AGE in spec.arms[0].covariates
            else bench.people.covariates.get(AGE, np.array([])))
    panels = []
    for k, name in enumerate(bench.shown):
        item = model.observables.get(name)
        healthy = reference_range(model, name, ages) if item is not None else None
        panels.append({
            "name": name.partition("/")[0], "label": _label(item.label or name) if item is not None
            else "Implied thymic export, over that of a healthy thymus of the same age",
            "unit": item.unit if item is not None else "ratio",
            "arms": [{"uncertainty": _bounds(uncertain[a, :, k]), "spread": _bounds(spread[a, :, k])}
                     for a in range(len(spec.arms))],
            "healthy": None if healthy is None else {"lower": healthy.lower, "upper": healthy.upper,
                                                     "label": healthy.label}})
    return {"time": _numbers(bench.grid[some]), "panels": panels}


def _label(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(bench: Bench, scenario: Scenario) -> list[dict[str, str]]:
    """Rows for reading: a quantity of an endpoint, in both arms and their difference, each with its interval."""
    rows = []
    suffix = f", difference from {COMPARED}"
    for name, endpoint in scenario.endpoints.items():
        own = scenario.table[scenario.table["endpoint"] == name]
        found = {(row["arm"], row["quantity"]): row for _, row in own.iterrows()}
        horizon = endpoint.horizon - endpoint.clock_start
        for arm, quantity in found:
            if arm != COMPARED:
                continue
            difference = found.get((CHOSEN, quantity + suffix))
            rows.append({"endpoint": endpoint.label or name, "quantity": quantity,
                         "unit": found[arm, quantity]["unit"].replace("probability", ""),
                         COMPARED: _interval(found[COMPARED, quantity], horizon),
                         CHOSEN: _interval(found[CHOSEN, quantity], horizon),
                         "difference": "" if difference is None else _interval(difference, horizon)})
    return rows


def _interval(row: Any, horizon: float) -> str:
    middle, low, high = (quantity_text(row[key], row["unit"], horizon) for key in ("estimate", "lower", "upper"))
    return f"{middle} ({low} to {high})"


def _verdicts(scenario: Scenario) -> list[dict[str, str]]:
    return [{"arm": name, "level": verdict.level.name, "text": verdict.text}
            for name, verdict in scenario.verdicts.arms.items()]


def _export(scenario: Scenario) -> str:
    return "" if scenario.implied_export.get("known") else str(scenario.implied_export.get("note", ""))


def _reached(scenario: Scenario, name: str, arms: Sequence[str]) -> list[dict[str, list[float | None]]]:
    """By day: lower bound, median and upper bound over draws of the share that has reached an endpoint, arm by arm."""
    endpoint, places = scenario.endpoints[name], [arm.name for arm in scenario.spec.arms]
    found = []
    for arm in arms:
        draws = summarise_draws(endpoint, arm, scenario.times[name][places.index(arm)])
        by_day = dict(draws.probability_by) | {endpoint.horizon: 1 - draws.never}
        found.append({f"{day:g}": _numbers(np.quantile(values, (0.05, 0.5, 0.95))) for day, values in by_day.items()})
    return found


def _doses(bench: Bench, text: str) -> dict[str, Any]:
    scenario, _ = simulated_scenario(bench, text)
    arms = [arm.name for arm in scenario.spec.arms]
    rows = [row for _, row in scenario.table[scenario.table["unit"].str.startswith("dose")].iterrows()]
    return {"scenario": text, "csv": scenario.table.to_csv(index=False), "doses": list(bench.controls.doses),
            "reached": {name: _reached(scenario, name, arms) for name in scenario.endpoints},
            "levels": [scenario.verdicts.arms[arm].level.name for arm in arms],
            "effective": [{"endpoint": row["endpoint"], "quantity": row["quantity"], "text": _interval(row, 0.0),
                           "note": row["note"]} for row in rows]}


def _bounds(values: Float[np.ndarray, "time quantile"]) -> list[list[float | None]]:
    """Lower bound, median and upper bound, each a list over time."""
    return [_numbers(values[:, k]) for k in range(3)]


def _numbers(values) -> list[float | None]:
    """For JSON: four digits do for a figure, and there is no infinity."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in np.asarray(values, float)]


def setup_of(bench: Bench, view: View) -> dict[str, Any]:
    """What the page has to know of its record, whatever is asked."""
    content, controls, model = bench.record.content, bench.controls, bench.fit.model
    return {
        "title": content["title"], "name": content["name"], "record": bench.record.digest[:12],
        "simulated": bool(content["simulated"]), "time": model.time, "main": controls.inputs[0],
        "doseUnit": model.inputs[controls.inputs[0]].unit, "interval": INTERVAL_NAME,
        "draws": len(bench.z), "subjects": SUBJECTS, "fitted": list(controls.fitted),
        "twice": extrapolation.TWICE, "covariates": list(controls.covariates),
        "endpoints": {name: {"label": endpoint.label or name, "start": endpoint.clock_start,
                             "horizon": endpoint.horizon, "by": [f"{day:g}" for day in controls.endpoints[name]]}
                      for name, endpoint in bench.fit.endpoints.items()},
        "sliders": [vars(slider) for slider in controls.sliders],
        "view": {"numbers": dict(view.numbers), "endpoint": view.endpoint, "by": f"{view.by:g}", "log": view.log}}
