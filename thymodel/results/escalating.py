"""Operating characteristics of a dose escalation on assumed toxicity curves: what is selected, who is treated how, and
what the record predicts of the selected dose."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from thymodel.documents.escalation import Escalation, Toxicity, load_escalation
from thymodel.errors import Fault, InputError
from thymodel.inference.dose_finding import NONE, Escalated, play_boin, play_three_plus_three
from thymodel.inference.sampling import thin
from thymodel.results.arm_verdicts import ArmVerdicts, judge_arms
from thymodel.results.enrolment import enrol
from thymodel.results.operating import mean_row, refuse_settings, share_row
from thymodel.results.record import FitRecord, quotable
from thymodel.results.scenarios import covariates_of

_PATIENTS = 30  # a trial and dose, whose share is the activity that the record predicts for it


@dataclass(frozen=True)
class Escalations:
    """`table` has a row a toxicity curve, rule and quantity; `activity` the predicted share reached (trial, dose), of
    another posterior draw each, empty where it was not asked for; `extrapolation` says how far each dose goes beyond
    what the record has seen."""

    plan: Escalation
    replicates: int
    seed: int
    table: pd.DataFrame
    activity: Float[np.ndarray, "trial dose"]
    simulated: bool
    record: str
    extrapolation: ArmVerdicts = ArmVerdicts()


def run_escalation(record: FitRecord, path: str | Path, replicates: int = 1000, seed: int = 1,
                   progress: Callable[[int, int], None] | None = None) -> Escalations:
    """Escalations by each rule on each toxicity curve, with the same patients.

    Toxicity is as the document assumes: nothing of it is from the record. Activity is from the record alone, and
    independent of toxicity given the dose.

    Raises:
        RecordError: the record failed its gates or was changed.
        SolveError: a course could not be computed.
        InputError: every fault of the document.
    """
    quotable(record)
    refuse_settings(replicates, seed, _PATIENTS)
    spec = record.spec
    plan = load_escalation(path, spec.model, spec.endpoints)
    if plan.endpoint is not None and plan.endpoint.marker not in spec.likelihood:
        raise InputError([Fault(f"{path}: activity.endpoint", f"the fit has no residual error for its marker, "
                                f"{plan.endpoint.marker}", f"use one of: {', '.join(spec.likelihood)}")])
    draw, activity = np.arange(replicates), np.zeros((replicates, 0))
    if plan.endpoint is not None:
        population = thin(record.z, replicates)[:, :len(record.layout.population)]
        draw = np.arange(replicates) % len(population)
        people = enrol(spec, record.layout, population[draw], _PATIENTS, plan.arms, covariates_of(record),
                       plan.endpoint, (), 0.0, seed, progress)
        activity = (people.shown <= plan.day - plan.endpoint.clock_start).mean(axis=2).T
    most = max(6 * len(plan.arms), plan.subjects)
    tolerance = np.random.default_rng([seed, 1]).random((replicates, most))
    rows: list[dict[str, Any]] = []
    for curve in plan.toxicity:
        for rule in plan.rules:
            played = play(plan, rule, curve, tolerance)
            rows += [{"toxicity": curve.name, "rule": rule} | row for row in _rows(plan, curve, played, activity, draw)]
    return Escalations(plan, replicates, seed, pd.DataFrame(rows), activity, bool(record.content["simulated"]),
                       record.digest, judge_arms(record, plan.arms, {} if plan.endpoint is None else {
                           plan.endpoint.name: plan.endpoint}))


def play(plan: Escalation, rule: str, curve: Toxicity, tolerance: Float[np.ndarray, "trial patient"]) -> Escalated:
    """Trials by one rule."""
    probabilities = np.array(curve.probabilities)
    if rule == "boin":
        return play_boin(probabilities, tolerance[:, :plan.subjects], plan.target, plan.cohort)
    return play_three_plus_three(probabilities, tolerance)


def _rows(plan: Escalation, curve: Toxicity, played: Escalated, activity, draw) -> list[dict[str, Any]]:
    trials = np.arange(len(draw))  # of toxicities, where every trial has its own patients
    rows = [{"dose": "none", "true toxicity": np.nan} | share_row("P(selected)", played.selected == NONE, trials)]
    for k, arm in enumerate(plan.arms):
        here = {"dose": arm.name, "true toxicity": curve.probabilities[k]}
        rows += [here | share_row("P(selected)", played.selected == k, trials),
                 here | mean_row("mean patients", played.patients[:, k].astype(float), trials),
                 here | mean_row("mean toxicities", played.toxicities[:, k].astype(float), trials)]
        if activity.size:
            rows.append(here | mean_row("predicted share reached", activity[:, k], draw))
    every = {"dose": "all", "true toxicity": np.nan}
    above = played.patients @ (np.array(curve.probabilities) > plan.target)
    rows += [every | mean_row("mean patients", played.patients.sum(axis=1).astype(float), trials),
             every | mean_row("mean toxicities", played.toxicities.sum(axis=1).astype(float), trials),
             every | mean_row("mean patients above the target", above.astype(float), trials)]
    chosen = played.selected != NONE
    if activity.size and chosen.any():
        reached = activity[chosen, played.selected[chosen]]
        _, own = np.unique(draw[chosen], return_inverse=True)
        rows.append({"dose": "selected", "true toxicity": np.nan} | mean_row("predicted share reached", reached, own))
    return rows


# --- what people read ----------------------------------------------------------------------------------------


def describe_escalation(found: Escalations) -> list[str]:
    plan = found.plan
    lines = [f"toxicity {curve.name}: " + ", ".join(f"{arm.label} {100 * p:g}%" for arm, p in zip(
        plan.arms, curve.probabilities, strict=True)) + f" ({curve.source}: not from the record)"
        for curve in plan.toxicity]
    if plan.endpoint is not None:
        lines.append(f"activity: {plan.endpoint.label or plan.endpoint.name} by day {plan.day:g} as visits show it, "
                     f"under the posterior, {_PATIENTS} patients a trial and dose")
    return [*lines, f"{found.replicates} trials a row, the same patients under every rule; seed {found.seed}; in "
            "brackets the Monte-Carlo standard error"]


def escalation_rows(found: Escalations) -> list[dict[str, str]]:
    """A line a curve, rule and dose."""
    rows = []
    for (curve, rule, dose), own in found.table.groupby(["toxicity", "rule", "dose"], sort=False):
        cells = {row["quantity"]: f"{row['estimate']:.2f} ({row['mcse']:.2f})" for _, row in own.iterrows()}
        rows.append({"toxicity": curve, "rule": rule, "dose": dose, **{name: cells.get(name, "") for name in
                     found.table["quantity"].unique()}})
    return rows


def as_json(found: Escalations) -> str:
    """Everything, for programs."""
    return json.dumps({
        "title": found.plan.title, "plan_sha256": found.plan.digest, "record": found.record,
        "simulated": found.simulated, "replicates": found.replicates, "seed": found.seed,
        "extrapolation": found.extrapolation.in_json,
        "rows": json.loads(found.table.to_json(orient="records"))}, indent=1, allow_nan=False)
