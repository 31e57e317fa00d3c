"""Technical criteria of a plan, evaluated on a record: what was planned, what was found, and whether it is met.

What lies in the record is computed here. Predictive checks and leave-one-out scores need the data and minutes: they
come from what `thymodel check-fit` and `thymodel compare` wrote about this very record, or are said to be missing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thymodel.documents.analysis_plan import (
    ContractionCriterion,
    Criterion,
    ExtrapolationCriterion,
    GatesCriterion,
    JudgementCriterion,
    LeaveOneOutCriterion,
    NoDepartureCriterion,
    PrecisionCriterion,
    PredictiveCriterion,
    PriorSensitivityCriterion,
    ProbabilityCriterion,
)
from thymodel.documents.limits import LARGEST_RECORD, read_bytes
from thymodel.documents.spec import GatesTable
from thymodel.errors import Fault, InputError, RecordError
from thymodel.inference import diagnostics
from thymodel.inference.approximation import NUTS
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.inference.information import contraction
from thymodel.results import extrapolation
from thymodel.results.extrapolation import Level
from thymodel.results.planning import matching
from thymodel.results.prior_sensitivity import PriorSensitivity, check_priors
from thymodel.results.record import FitRecord, draws_in, is_number

MET, NOT_MET, SPONSOR, OPEN = "met", "not met", "for the sponsor", "not evaluated"
_CHECKS = "checks.json"
_SHOWN = 4  # names in a cell


@dataclass(frozen=True)
class Evidence:
    """A record with what other commands found out about it: `checks` of check-fit, `scores` of compare, by unit."""

    record: FitRecord
    checks: Mapping[str, Any] | None = None
    scores: tuple[Mapping[str, Any], ...] = ()
    priors: PriorSensitivity | None = None  # computed when it is asked for, where it is not given

    @cached_property
    def table(self) -> pd.DataFrame:
        return self.record.table

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        return draws_in(self.record.folder)

    @cached_property
    def learned(self) -> dict[str, float]:
        """SD over prior SD of each population parameter."""
        return contraction(self.record.layout, self.record.z)

    @cached_property
    def prior_sensitivity(self) -> dict[str, float]:
        """Power-scaling of all priors, by quantity."""
        found = (self.priors or check_priors(self.record)).table
        return dict(zip(found["quantity"].astype(str), found["prior"].astype(float), strict=True))

    @cached_property
    def verdicts(self) -> extrapolation.Verdicts:
        return extrapolation.judge_fit(self.record)


@dataclass(frozen=True)
class Finding:
    """`result` is met, not met, for the sponsor, or not evaluated; `found` says why where it is not evaluated."""

    name: str
    criterion: Criterion
    planned: str
    found: str
    result: str


class _Missing(Exception):
    """What a criterion asks about is not there; its text says what would bring it."""


def load_evidence(record: FitRecord, checks: Path | None = None, scores: Path | None = None) -> Evidence:
    """A record with the results of check-fit (its folder or checks.json) and compare (`--json`), where there are any.

    Raises:
        InputError: files that cannot be read, or are of another record.
    """
    if checks is not None and checks.is_dir():
        checks = checks / _CHECKS
    faults: list[Fault] = []
    found = None if checks is None else _read(checks, "thymodel check-fit RECORD --out FOLDER", faults)
    if found is not None and not (found.get("record") == record.digest and _as_checks(found)):
        faults.append(Fault(str(checks), f"not the checks of this record ({record.digest[:16]})",
                            f"thymodel check-fit {record.folder} --out FOLDER"))
    told = None if scores is None else _read(scores, "thymodel compare RECORD --json", faults)
    rows = told.get("records", []) if told is not None else []
    own = [row for row in rows if isinstance(row, dict) and row.get("digest") == record.digest and _as_scores(row)
           ] if isinstance(rows, list) else []
    if told is not None and not own:
        faults.append(Fault(str(scores), f"no scores of this record ({record.digest[:16]})",
                            f"thymodel compare {record.folder} --json > FILE"))
    if faults:
        raise InputError(faults)
    return Evidence(record, found, tuple(own))


def _read(path: Path, made_by: str, faults: list[Fault]) -> dict[str, Any] | None:
    try:
        found = json.loads(read_bytes(path, LARGEST_RECORD, f"what {made_by} writes"))
    except InputError as error:
        faults += error.faults
        return None
    except (ValueError, RecursionError) as error:
        faults.append(Fault(str(path), f"not JSON: {error}", f"write it again: {made_by}"))
        return None
    if not isinstance(found, dict):
        faults.append(Fault(str(path), "not what that command writes", f"write it again: {made_by}"))
        return None
    return found


def _as_checks(found: Mapping[str, Any]) -> bool:
    """Whether it has the parts that are read below."""
    try:
        observables = all(isinstance(row["count"], int) and all(
            value is None or is_number(value) for value in row["inside"]["posterior"].values())
            for row in found["observables"].values())
        return observables and is_number(found["together"]) and all(
            is_number(value) and all(map(is_number, band)) and len(band) == 3
            for row in found["endpoints"].values() for arm in row["arms"].values()
            for value, band in zip(arm["observed"], arm["posterior"], strict=True))
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _as_scores(row: Mapping[str, Any]) -> bool:
    units = row.get("units")
    return isinstance(units, list) and all(isinstance(u, dict) and {"unit", "pareto_k"} <= set(u) and (
        u["pareto_k"] is None or is_number(u["pareto_k"])) for u in units)


def evaluate(name: str, criterion: Criterion, evidence: Evidence) -> Finding:
    """One criterion, on one record."""
    planned = planned_text(criterion)
    if isinstance(criterion, JudgementCriterion):
        return Finding(name, criterion, planned, "a person decides", SPONSOR)
    try:
        found, met = _FIND[type(criterion)](criterion, evidence)
    except _Missing as missing:
        return Finding(name, criterion, planned, str(missing), OPEN)
    except RecordError as error:
        return Finding(name, criterion, planned, str(error), OPEN)
    return Finding(name, criterion, planned, found, MET if met else NOT_MET)


def planned_text(criterion: Criterion) -> str:
    """A criterion in words."""
    match criterion:
        case GatesCriterion():
            parts = [("R-hat below", criterion.rhat), ("bulk ESS above", criterion.ess_bulk),
                     ("tail ESS above", criterion.ess_tail), ("divergences at most", criterion.divergences)]
            return ", ".join(f"{what} {value:g}" for what, value in parts if value is not None)
        case PrecisionCriterion():
            what = f"CV at most {_share(criterion.cv_at_most)}" if criterion.cv_at_most is not None else (
                f"{INTERVAL_NAME} interval at most {criterion.width_at_most:g} wide")
            return f"{what}: {_names(criterion.quantities)}"
        case PredictiveCriterion():
            upper = f" and at most {_share(criterion.share_at_most)}" if criterion.share_at_most < 1 else ""
            return (f"{criterion.of}: at least {_share(criterion.share_at_least)}{upper} inside the "
                    f"{criterion.interval}% predictive interval")
        case NoDepartureCriterion():
            return f"predictive checks: p of all questions together above {criterion.p_above:g}"
        case ContractionCriterion():
            return f"SD at most {criterion.at_most:g} of the prior's: {_names(criterion.parameters)}"
        case PriorSensitivityCriterion():
            return f"power-scaling of all priors at most {criterion.at_most:g}: {_names(criterion.quantities)}"
        case LeaveOneOutCriterion():
            return (f"leave-one-out by {criterion.by}: Pareto k above {criterion.pareto_k:g} in at most "
                    f"{_share(criterion.share_at_most)}")
        case ProbabilityCriterion():
            side = f"above {criterion.above:g}" if criterion.above is not None else f"below {criterion.below:g}"
            return f"P({criterion.quantity} {side}) at least {criterion.at_least:g}"
        case ExtrapolationCriterion():
            return f"extrapolation at most {criterion.at_most}: {_names(criterion.arms) or 'all arms of the fit'}"
    return criterion.statement


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g}%"


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _worst(values: Mapping[str, float], limit: float, show: str = "{:.3g}") -> tuple[str, bool]:
    """The largest of some numbers, and how many of them are above the limit; not a number counts as above."""
    above = [name for name, value in values.items() if not value <= limit]
    name = max(values, key=lambda key: math.inf if math.isnan(values[key]) else values[key])
    value = values[name]
    shown = show.format(value) if math.isfinite(value) else "no bound"
    told = f"{'largest ' if len(values) > 1 else ''}{shown} ({name})"
    return f"{told}; {len(above)} of {len(values)} above" if above and len(values) > 1 else told, not above


def _asked(names: list[str], known: Mapping[str, Any], what: str) -> list[str]:
    found = {name: matching(name, known) for name in names}
    if lost := [name for name, own in found.items() if not own]:
        raise _Missing(f"{what} no {_names(lost)}")
    return list(dict.fromkeys(other for own in found.values() for other in own))


# --- by kind -------------------------------------------------------------------------------------------------


def _gates(criterion: GatesCriterion, evidence: Evidence) -> tuple[str, bool]:
    """The sentences of the record's own verdict, under the limits of the plan."""
    record, table = evidence.record, evidence.table
    if record.method != NUTS:
        raise _Missing(record.reservation)
    asked = {key: value for key in ("rhat", "ess_bulk", "ess_tail", "divergences")
             if (value := getattr(criterion, key)) is not None}
    gated = table.loc[[name for name in table.index if not str(name).startswith(("re_", "missing_"))]]
    verdict = diagnostics.judge(gated, int(record.content["sampler"]["divergences"]), 0, 1, GatesTable(**asked))
    sentences = dict(zip(("rhat", "ess_bulk", "ess_tail", "divergences"), verdict.sentences, strict=False))
    own = [sentences[key] for key in asked]
    return ("; ".join(text.partition(": ")[2].partition(", gate")[0] for text in own),
            all(text.startswith("pass") for text in own))


def _precision(criterion: PrecisionCriterion, evidence: Evidence) -> tuple[str, bool]:
    table = evidence.table
    rows = table.loc[_asked(criterion.quantities, dict.fromkeys(table.index), "the record has")]
    if criterion.width_at_most is not None:
        width = (rows["q95"] - rows["q05"]).to_dict()
        return _worst(width, criterion.width_at_most)
    assert criterion.cv_at_most is not None
    found, met = _worst((rows["sd"] / rows["mean"].abs()).to_dict(), criterion.cv_at_most, "{:.1%}")
    return f"CV {found}", met


def _predictive(criterion: PredictiveCriterion, evidence: Evidence) -> tuple[str, bool]:
    checks, name = _checks_of(evidence), criterion.of
    if name in checks["observables"]:
        row = checks["observables"][name]
        inside = row["inside"]["posterior"].get(str(criterion.interval))
        if not row["count"] or inside is None or math.isnan(inside):
            raise _Missing("no value of it was measured")
        share = float(inside)
        found = f"{_share(share)} of {row['count']} values"
    elif name in checks["endpoints"]:
        if criterion.interval != 90:
            raise _Missing("check-fit keeps the 90% band of endpoints only")
        steps = [low <= value <= high for arm in checks["endpoints"][name]["arms"].values()
                 for value, (low, _, high) in _steps(arm)]
        if not steps:
            raise _Missing("no patient was seen to reach it")
        share = sum(steps) / len(steps)
        found = f"{_share(share)} of {len(steps)} steps of the Kaplan-Meier curves"
    else:
        raise _Missing(f"check-fit says nothing of {name}")
    return found, criterion.share_at_least <= share <= criterion.share_at_most


def _steps(arm: Mapping[str, Any]):
    """The study's curve and its band on the days on which the curve rises."""
    rows = list(zip(arm["observed"], arm["posterior"], strict=True))
    return [row for before, row in zip(rows, rows[1:], strict=False) if row[0] != before[0]]


def _no_departure(criterion: NoDepartureCriterion, evidence: Evidence) -> tuple[str, bool]:
    p = float(_checks_of(evidence)["together"])
    return f"p = {p:.2g}", p > criterion.p_above


def _checks_of(evidence: Evidence) -> Mapping[str, Any]:
    if evidence.checks is None:
        raise _Missing("run: thymodel check-fit RECORD --out FOLDER, and give it with --checks; thymodel report makes "
                       "them itself")
    return evidence.checks


def _contraction(criterion: ContractionCriterion, evidence: Evidence) -> tuple[str, bool]:
    if evidence.record.method == "map":
        raise _Missing("a single point has no SD")
    names = _asked(criterion.parameters, evidence.learned, "no prior is known of")
    return _worst({name: evidence.learned[name] for name in names}, criterion.at_most, "{:.2f}")


def _prior_sensitivity(criterion: PriorSensitivityCriterion, evidence: Evidence) -> tuple[str, bool]:
    names = _asked(criterion.quantities, evidence.prior_sensitivity, "nothing is known of power-scaling, which needs "
                   "values that are finite and vary, of")
    return _worst({name: evidence.prior_sensitivity[name] for name in names}, criterion.at_most)


def _leave_one_out(criterion: LeaveOneOutCriterion, evidence: Evidence) -> tuple[str, bool]:
    rows = next((row["units"] for row in evidence.scores if row.get("by") == criterion.by), None)
    if not rows:
        raise _Missing(f"run: thymodel compare RECORD --by {criterion.by} --json > FILE, and give it with --scores")
    high = [row["unit"] for row in rows if not (row["pareto_k"] is not None and row["pareto_k"] <= criterion.pareto_k)]
    share = len(high) / len(rows)
    return f"{len(high)} of {len(rows)}" + (f" ({_names(high)})" if high else ""), share <= criterion.share_at_most


def _probability(criterion: ProbabilityCriterion, evidence: Evidence) -> tuple[str, bool]:
    if evidence.record.method == "map":
        raise _Missing("a single point has no probabilities")
    names = _asked([criterion.quantity], evidence.draws, "the record has")
    found, told = [], []
    for name in names:
        values = evidence.draws[name]
        held = values > criterion.above if criterion.above is not None else values < float(criterion.below or 0.0)
        found.append(float(held.mean()))
        error = diagnostics.share_error(held)
        told.append((f"{name} " if len(names) > 1 else "") + f"{found[-1]:.3g}"
                    + (f" (Monte-Carlo error {error:.1g})" if error > 0.0 else ""))
    return "; ".join(told), min(found) >= criterion.at_least


def _extrapolation(criterion: ExtrapolationCriterion, evidence: Evidence) -> tuple[str, bool]:
    arms = evidence.verdicts.arms
    if not arms:
        raise _Missing("no verdict: the fit has no endpoint")
    if lost := [name for name in criterion.arms if name not in arms]:
        raise _Missing(f"the fit has no arm {_names(lost)}")
    asked = criterion.arms or list(arms)
    worst = max(asked, key=lambda name: arms[name].level)
    told = arms[worst].level.name + (f" ({worst})" if arms[worst].level else "")
    return told, arms[worst].level <= Level[criterion.at_most]


_FIND: dict[type, Any] = {
    GatesCriterion: _gates, PrecisionCriterion: _precision, PredictiveCriterion: _predictive,
    NoDepartureCriterion: _no_departure, ContractionCriterion: _contraction,
    PriorSensitivityCriterion: _prior_sensitivity, LeaveOneOutCriterion: _leave_one_out,
    ProbabilityCriterion: _probability, ExtrapolationCriterion: _extrapolation}
