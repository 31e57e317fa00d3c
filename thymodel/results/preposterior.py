"""What one more cohort or visit is worth: the expected share of a posterior's variance that is left after it, and the
days that leave the least.

The posterior of the record is taken as normal in the coordinates of its prior, with the covariance of its draws; a new
cohort adds its expected (Fisher) information, computed at draws of the posterior and averaged over them. That is first
order: random effects are integrated out about 0, and what is told of an endpoint is its linear part in the coordinates.
Source: Chaloner & Verdinelli 1995, Stat Sci 10:273 (expected posterior variance by information averaged over a prior);
Fedorov 1972, Theory of Optimal Experiments (exchange). Neither was seen: the formulas as generally given.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from thymodel.documents.learning import Cohort, Learning, load_learning
from thymodel.errors import Fault, InputError, SolveError
from thymodel.inference.plans import Group, Plan
from thymodel.inference.sampling import thin
from thymodel.results.identifiability import Survey, make_survey, refuse_levels
from thymodel.results.record import DERIVED, FitRecord, load_group, quotable
from thymodel.results.scenarios import covariates_of

_FEWEST = 10  # posterior draws a coordinate, below which their covariance is mostly noise
Informer = Callable[..., np.ndarray]


class Target(NamedTuple):
    """What is asked about: its slope by the coordinates, and the share of its variance that is linear in them."""

    name: str
    slope: Float[np.ndarray, " coordinate"]
    linear: float


@dataclass(frozen=True)
class Learned:
    """`table` has a row a cohort and target: `variance_kept`, the expected share of the posterior's variance that is
    left, its Monte-Carlo standard error over draws, and `sd_kept`, its root. `days` are the best of the candidates, and
    `schedules` what they and evenly spread candidates leave, empty where no days were sought."""

    plan: Learning
    table: pd.DataFrame
    days: tuple[float, ...]
    schedules: pd.DataFrame
    draws: int
    simulated: bool
    record: str


def learn(record: FitRecord, path: str | Path) -> Learned:
    """What cohorts would teach beyond a record, and the best days to see one.

    Raises:
        RecordError: the record failed its gates or was changed.
        SolveError: most courses could not be computed.
        InputError: every fault of the document; too few draws; a spec that information is not computed for.
    """
    quotable(record)
    names = record.layout.population
    refuse_levels(record.spec)
    z = record.z[..., :len(names)].reshape(-1, len(names))
    if len(z) < _FEWEST * len(names):
        raise InputError([Fault(str(record.folder), f"{len(z)} draws of {len(names)} coordinates are too few for their "
                                "covariance", f"fit with {_FEWEST * len(names)} draws or more")])
    plan = load_learning(path, record.spec, [*names, *_endpoint_names(record)])
    known = _knowledge(record, plan, np.cov(z.T), str(path))
    rows = [{"cohort": cohort.arm.name, "subjects": cohort.subjects, "visits": len(cohort.visits)}
            | known.row(_target(record, name), known.of_group(k))
            for k, cohort in enumerate(plan.cohorts) for name in plan.about]
    days, schedules = _best_days(record, plan, known)
    return Learned(plan, pd.DataFrame(rows), days, schedules, len(known.informers), bool(record.content["simulated"]),
                   record.digest)


@dataclass(frozen=True)
class _Knowledge:
    """What is known before, and what any measurements of the survey would add at each draw."""

    survey: Survey
    informers: Sequence[Informer]
    covariance: np.ndarray
    precision: np.ndarray

    def of_group(self, number: int) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.survey.group == number).tolist())

    def kept(self, target: Target, rows: frozenset[int]) -> Float[np.ndarray, " draw"]:
        """Share of the target's variance that is left, at each draw; what is not linear is not reduced."""
        before = target.slope @ self.covariance @ target.slope
        after = np.array([target.slope @ np.linalg.solve(self.precision + informer(rows), target.slope)
                          for informer in self.informers])
        return 1 - target.linear * (1 - after / before)

    def row(self, target: Target, rows: frozenset[int]) -> dict[str, Any]:
        kept = self.kept(target, rows)
        return {"about": target.name, "variance_kept": kept.mean(),
                "mcse": kept.std(ddof=1) / np.sqrt(len(kept)) if len(kept) > 1 else np.nan,
                "sd_kept": np.sqrt(kept.mean()), "linear": target.linear}


def _knowledge(record: FitRecord, plan: Learning, covariance: np.ndarray, source: str) -> _Knowledge:
    """The cohorts' measurements, and last those of all candidate days."""
    groups = [_group(record, plan, cohort, cohort.visits) for cohort in plan.cohorts]
    if plan.sampling is not None:
        groups.append(_group(record, plan, plan.sampling.cohort, plan.sampling.candidates))
    limits = {name: (plan.lloq.get(name, -np.inf), np.inf) for name in record.spec.model.observables}
    points = thin(record.z[..., :len(covariance)], plan.draws)
    survey = make_survey(record.spec, Plan(tuple(groups), limits, source), None, len(points), False, points)
    every = frozenset(range(len(survey.group)))
    informers = [one for one in (survey.informer(point, every) for point in points) if np.isfinite(one(every)).all()]
    if 2 * len(informers) < len(points):
        raise SolveError(f"of cohorts under {len(points)} draws", 0.0, f"only {len(informers)} could be integrated")
    return _Knowledge(survey, informers, covariance, np.linalg.inv(covariance))


def _best_days(record: FitRecord, plan: Learning, known: _Knowledge) -> tuple[tuple[float, ...], pd.DataFrame]:
    """The days found, and what they, evenly spread candidates and all candidates leave."""
    sampling = plan.sampling
    if sampling is None:
        return (), pd.DataFrame()
    target, here = _target(record, sampling.about), np.array(sorted(known.of_group(len(plan.cohorts))))
    visit = known.survey.visit[here]  # a group's visits are its candidates, ascending
    on_day = [frozenset(here[visit == k].tolist()) for k in range(len(sampling.candidates))]
    together = lambda chosen: frozenset().union(*(on_day[k] for k in chosen))  # noqa: E731
    best = exchange(len(on_day), sampling.days, lambda chosen: known.kept(target, together(chosen)).mean())
    even = tuple(np.unique(np.linspace(0, len(on_day) - 1, sampling.days).round().astype(int)).tolist())
    shown = {"best found": best, "evenly spread": even, "all candidates": tuple(range(len(on_day)))}
    schedules = [{"schedule": label, "days": ", ".join(f"{sampling.candidates[k]:g}" for k in chosen)}
                 | known.row(target, together(chosen)) for label, chosen in shown.items()]
    return tuple(sampling.candidates[k] for k in best), pd.DataFrame(schedules)


def exchange(candidates: int, count: int, loss: Callable[[Sequence[int]], float]) -> tuple[int, ...]:
    """The places of so many candidates at which the loss is least: one after the other, then exchanged one for one
    until no exchange lowers it. A local optimum."""
    chosen: list[int] = []
    for _ in range(count):
        free = [k for k in range(candidates) if k not in chosen]
        chosen.append(min(free, key=lambda k: loss(sorted([*chosen, k]))))
    now, improved = loss(sorted(chosen)), True
    while improved:
        improved = False
        for place in range(count):
            for k in [k for k in range(candidates) if k not in chosen]:
                other = sorted([*chosen[:place], k, *chosen[place + 1:]])
                value = loss(other)
                if value < now * (1 - 1e-9):
                    chosen[place], now, improved = k, value, True
                    break
    return tuple(sorted(chosen))


def _endpoint_names(record: FitRecord) -> list[str]:
    """Endpoints of which the record holds draws and that some draws tell apart."""
    if not record.content["endpoints"]:
        return []
    derived = load_group(record.folder / DERIVED)
    return [f"{name}[{arm}]" for name in derived.data_vars for arm in derived["arm"].values
            if str(name).split(".")[0] in record.content["endpoints"] and ".spread_" not in str(name)
            and np.isfinite(own := derived[name].sel(arm=arm).values).all() and own.std() > 1e-12]


def _target(record: FitRecord, name: str) -> Target:
    """A coordinate itself (a parameter on the scale of its prior), or an endpoint's regression on all of them."""
    names = record.layout.population
    if name in names:
        return Target(name, np.eye(len(names))[names.index(name)], 1.0)
    derived = load_group(record.folder / DERIVED)
    quantity, _, arm = name[:-1].partition("[")
    values = derived[quantity].sel(arm=arm).values.ravel()
    z = record.z[:, derived["draw"].values, :len(names)].reshape(len(values), -1)
    centred = z - z.mean(axis=0)
    slope = np.linalg.lstsq(centred, values - values.mean(), rcond=None)[0]
    return Target(name, slope, float(np.var(centred @ slope) / np.var(values)))


def _group(record: FitRecord, plan: Learning, cohort: Cohort, visits: Sequence[float]) -> Group:
    """Patients alike: the arm's covariates, else the medians of the fitted patients, else the model's."""
    model = record.spec.model
    fitted = {name: float(np.nanmedian(values)) for name, values in covariates_of(record).items()}
    known = {name: item.value for name, item in model.covariates.items()} | fitted | dict(cohort.arm.covariates)
    return Group(cohort.arm.name, cohort.arm.doses, {name: ((model.start, known[name]),) for name in model.covariates},
                 {name: tuple(visits) for name in plan.markers}, cohort.subjects)


# --- what people read ----------------------------------------------------------------------------------------

METHOD = ("expected share of the posterior's variance that is left: the posterior taken as normal, Fisher information "
          "of the new patients averaged over its draws; first order (docs/trials.md)")


def learned_rows(found: Learned) -> list[dict[str, str]]:
    return [_row_text(row, {"cohort": row["cohort"], "subjects": row["subjects"], "visits": row["visits"]})
            for _, row in found.table.iterrows()]


def schedule_rows(found: Learned) -> list[dict[str, str]]:
    return [_row_text(row, {"schedule": row["schedule"], "days": row["days"]})
            for _, row in found.schedules.iterrows()]


def _row_text(row: Mapping[str, Any], head: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in head.items()} | {
        "about": row["about"], "variance left": f"{row['variance_kept']:.3f} ({row['mcse']:.3f})",
        "SD left": f"{row['sd_kept']:.3f}", "linear part": f"{100 * row['linear']:.0f}%"}


def as_json(found: Learned) -> str:
    """Everything, for programs."""
    return json.dumps({
        "title": found.plan.title, "plan_sha256": found.plan.digest, "record": found.record,
        "simulated": found.simulated, "method": METHOD, "draws": found.draws,
        "rows": json.loads(found.table.to_json(orient="records")), "days": found.days,
        "schedules": json.loads(found.schedules.to_json(orient="records"))}, indent=1, allow_nan=False)
