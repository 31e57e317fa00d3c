"""What an endpoint depends on: elasticities at typical values, Sobol indices over the priors.

A day on which a marker crosses a threshold may lie beyond the horizon. It then counts as the horizon (restricted time),
and how often that happened is said beside every number made from it.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from SALib.analyze import sobol as sobol_analysis
from SALib.sample import sobol as sobol_sampling
from scipy.stats import norm

from thymodel.documents.expressions import closest
from thymodel.documents.model import Model, load_model
from thymodel.documents.regimen import Dose, parse_dose
from thymodel.documents.spec import Endpoint
from thymodel.dynamics import solving
from thymodel.dynamics.solving import Accuracy, Schedule
from thymodel.errors import Fault, InputError, SolveError
from thymodel.inference.population import quantiles
from thymodel.inference.slopes import slopes_of
from thymodel.results.endpoints import crossing_times

HORIZON = 365.0  # days, where an endpoint names none: a year, as in the fits
CONFIDENCE = 0.95
GRID_POINTS = 181  # a course is straight enough between them
_RESAMPLES = 200  # of the bootstrap
_LANES, _SETS = 64, 16  # subjects a solve, solves a call
_TRIED = 16  # solves for whose values the steps are laid
_SHARE = 0.97  # of them, for which the steps must do; the others are solved by themselves
_INEXACT = 0.01  # a course wrong by this part of a state is solved by itself
_MOST_SAMPLES = 65_536
_ROUNDING = 1e-9  # an elasticity below it is the rounding of a course that does not move
# asked where nothing is: the days and thresholds of the family's own tables
_USUAL = ("cd4>50", "cd4>200", "cd4@100", "cd4@365", "rte4@100", "rte4@365", "trec_per_1e5@100", "trec_per_1e5@365")


@dataclass(frozen=True)
class Question:
    """A marker's value on a `day`, or (with a `threshold`) the time at which it passes it after its lowest value, if
    by `day`."""

    text: str
    marker: str
    day: float
    threshold: float | None = None


@dataclass(frozen=True)
class Answer:
    """How one endpoint depends on the parameters, in the order of `Sensitivity.names`.

    `typical` is the endpoint at typical values (inf: not reached), `elasticity` d log(endpoint)/d log(parameter) there,
    `low` and `high` the endpoint with one parameter a prior SD below and above its median. `first` and `total` are
    Sobol indices of the log of a value, or of the restricted day, with the half-widths of their 95% bootstrap
    intervals; NaN where the endpoint does not vary. `reached` is the share of samples that reached the threshold.
    """

    question: Question
    unit: str
    typical: float
    elasticity: np.ndarray
    low: np.ndarray
    high: np.ndarray
    first: np.ndarray
    first_half: np.ndarray
    total: np.ndarray
    total_half: np.ndarray
    reached: float


@dataclass(frozen=True)
class Sensitivity:
    model: Model
    doses: tuple[Dose, ...]
    names: tuple[str, ...]
    answers: tuple[Answer, ...]
    samples: int
    courses: int
    failed: int
    seed: int


@dataclass(frozen=True)
class Indices:
    """Sobol indices (output, parameter) with half-widths; `failed` base samples were left out."""

    first: np.ndarray
    first_half: np.ndarray
    total: np.ndarray
    total_half: np.ndarray
    outputs: Float[np.ndarray, "sample output"]
    failed: int


def analyse(model: str | Path | Model, doses: Sequence[Dose] = (), endpoints: Sequence[str] = (), samples: int = 1024,
            seed: int = 1) -> Sensitivity:
    """Local and global sensitivity of endpoints to every parameter that has a prior.

    Args:
        endpoints: MARKER@DAY for a value, MARKER>THRESHOLD or MARKER>THRESHOLD@HORIZON for a day.
        samples: base samples, a power of 2; each parameter costs as many courses again.

    Raises:
        InputError: every endpoint that cannot be read, a model without priors.
        SolveError: the model cannot be integrated at its typical values.
    """
    model = model if isinstance(model, Model) else load_model(model)
    faults: list[Fault] = []
    questions = _questions(model, endpoints, faults)
    names = tuple(name for name, p in model.parameters.items() if p.prior is not None)
    if not names:
        faults.append(Fault(model.name, "no parameter has a prior, so nothing can vary"))
    if not (8 <= samples <= _MOST_SAMPLES) or samples & (samples - 1):
        faults.append(Fault(f"--samples {samples}", f"not a power of 2 from 8 to {_MOST_SAMPLES}", "for example 1024"))
    if faults:
        raise InputError(faults)
    course = _Courses(model, tuple(doses), questions, names)
    typical = course.typical()
    evaluate = course.evaluator(np.random.default_rng(seed).standard_normal((_TRIED * _LANES, len(names))))
    moved = evaluate(np.concatenate([np.eye(len(names)), -np.eye(len(names))]), True)
    indices = sobol_indices(lambda z: _for_indices(questions, evaluate(z, False)), names, samples, seed)
    local = course.elasticities(typical)
    reached = np.mean(indices.outputs < [q.day if q.threshold is not None else math.inf for q in questions], axis=0)
    answers = tuple(
        Answer(q, model.time if q.threshold is not None else model.observables[q.marker].unit, typical[k], local[k],
               moved[len(names):, k], moved[:len(names), k], indices.first[k], indices.first_half[k],
               indices.total[k], indices.total_half[k], float(reached[k]) if q.threshold is not None else 1.0)
        for k, q in enumerate(questions))
    return Sensitivity(model, tuple(doses), names, answers, samples, samples * (len(names) + 2), indices.failed, seed)


def analyse_texts(model: str, doses: Sequence[str], endpoints: Sequence[str], samples: int, seed: int) -> Sensitivity:
    """`analyse` from the texts of the command line.

    Raises:
        InputError: every text that cannot be read.
    """
    loaded, parsed = load_model(model), []
    faults: list[Fault] = []
    for text in doses:
        try:
            parsed.append(parse_dose(text, loaded))
        except InputError as error:
            faults += error.faults
    _questions(loaded, endpoints, faults)
    if faults:
        raise InputError(faults)
    return analyse(loaded, parsed, endpoints, samples, seed)


# --- what is asked -------------------------------------------------------------------------------------------


def _questions(model: Model, texts: Sequence[str], faults: list[Fault]) -> tuple[Question, ...]:
    chosen = list(dict.fromkeys(texts)) or [t for t in _USUAL if t.replace(">", "@").split("@")[0] in model.observables]
    if not chosen:
        faults.append(Fault("--endpoint", f"the model {model.name} has none of the usual markers",
                            f"for example {next(iter(model.observables))}@100"))
    return tuple(q for text in chosen if (q := _question(model, text, faults)) is not None)


def _question(model: Model, text: str, faults: list[Fault]) -> Question | None:
    where, found = f"--endpoint {text}", len(faults)
    body, at, day_text = text.partition("@")
    marker, above, threshold_text = body.partition(">")
    marker = marker.strip()
    day = _number(day_text) if at else model.start + HORIZON if above else math.nan
    threshold = _number(threshold_text) if above else None
    if marker not in model.observables:
        faults.append(Fault(where, f"the model {model.name} has no observable '{marker}'"
                            f"{closest(marker, model.observables)}", f"one of: {', '.join(model.observables)}"))
    if not math.isfinite(day) or threshold is not None and not math.isfinite(threshold):
        faults.append(Fault(where, "not MARKER@DAY, MARKER>THRESHOLD or MARKER>THRESHOLD@HORIZON",
                            "for example cd4@100 or cd4>200@365"))
    elif day <= model.start:
        faults.append(Fault(where, f"day {day:g} is not after the model's start, {model.start:g}"))
    if threshold is not None and threshold <= 0:
        faults.append(Fault(where, f"a threshold of {threshold:g}; it must be above 0"))
    return Question(text, marker, day, threshold) if len(faults) == found else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _endpoint(model: Model, question: Question) -> Endpoint:
    assert question.threshold is not None
    return Endpoint(question.text, question.marker, question.threshold, model.observables[question.marker].unit,
                    question.day, "", "", 0.0, model.start, True, ())


# --- courses -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Courses:
    """The courses of one regimen, and how they are looked at."""

    model: Model
    doses: tuple[Dose, ...]
    questions: tuple[Question, ...]
    names: tuple[str, ...]

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(q.marker for q in self.questions))

    @property
    def values(self) -> dict[str, float]:
        return {name: p.value for name, p in self.model.parameters.items()}

    def grid(self) -> np.ndarray:
        """Days on which a course is judged: even ones up to the last horizon, and every day asked for."""
        start, days = self.model.start, [q.day for q in self.questions]
        ends = [q.day for q in self.questions if q.threshold is not None]
        even = np.linspace(start, max(ends), GRID_POINTS) if ends else np.array([start])
        return np.unique(np.concatenate([even, days]))

    def plan(self, days: Sequence[float] | np.ndarray) -> Schedule:
        covariates = {name: ((self.model.start, item.value),) for name, item in self.model.covariates.items()}
        return solving.plan(self.model, self.doses, covariates, [float(day) for day in days])

    def judge(self, days: np.ndarray, found: Float[np.ndarray, "... day marker"]) -> Float[np.ndarray, "... question"]:
        """The endpoints of courses; inf where a threshold is not reached, NaN where a course failed."""
        answers = []
        for q in self.questions:
            course = np.ascontiguousarray(found[..., self.markers.index(q.marker)])
            answers.append(course[..., np.searchsorted(days, q.day)] if q.threshold is None else
                           crossing_times(_endpoint(self.model, q), days, course) + self.model.start)
        return np.stack(answers, axis=-1)

    def typical(self) -> np.ndarray:
        """The endpoints at typical values; a day is looked for again in the narrow, between two days of the grid."""
        days = self.grid()
        first = self.judge(days, self._tight(days))
        gap = 2 * np.max(np.diff(days), initial=1e-3)
        near = [np.linspace(max(t - gap, self.model.start), t + gap, 41) for q, t in zip(self.questions, first,
                strict=True) if q.threshold is not None and math.isfinite(t)]
        fine = np.unique(np.concatenate([days, *near]))
        return self.judge(fine, self._tight(fine))

    def _tight(self, days: np.ndarray) -> np.ndarray:
        return solving.trajectories(self.model, self.values, [self.plan(days)], self.markers, names=["typical"])[0]

    def elasticities(self, typical: np.ndarray) -> Float[np.ndarray, "question parameter"]:
        """d log(endpoint)/d log(parameter) by the solver's adjoint; NaN where a day is not reached.

        A crossing moves by -(dy/dp)/(dy/dt): where y(t, p) stays at the threshold.
        """
        step = 1e-3 * (max(q.day for q in self.questions) - self.model.start)
        asked = [q.day if q.threshold is None else t for q, t in zip(self.questions, typical, strict=True)]
        days = [t for t in asked if math.isfinite(t)]
        visits = np.unique([s for t in days for s in (max(t - step, self.model.start), t, t + step)])
        solver = solving.prepare(self.model, self.values, solving.stack([self.plan(visits)]), self.markers,
                                 Accuracy(1e-6, 1e-7))
        moved = {name: jnp.array([self.values[name]]) for name in self.names}
        observed, slopes = jax.jit(lambda v, tables: slopes_of(solver, self.values, v, tables))(moved, solver.tables)
        found = np.full((len(self.questions), len(self.names)), np.nan)
        for k, (q, t, value) in enumerate(zip(self.questions, asked, typical, strict=True)):
            if not math.isfinite(t):
                continue
            marker, place = self.markers.index(q.marker), int(np.searchsorted(visits, t))
            by = np.array([float(slopes[name][0, place, marker]) * self.values[name] for name in self.names])
            if q.threshold is not None:
                rise = float(observed[0, place + 1, marker] - observed[0, place - 1, marker])
                by = -by / (rise / (visits[place + 1] - visits[place - 1]))
            found[k] = by / value
        return found

    def evaluator(self, likely: Float[np.ndarray, "point parameter"]) -> Callable[[np.ndarray, bool], np.ndarray]:
        """(prior coordinates, whether 0 means the model's own value) -> endpoints (point, question)."""
        days, priors = self.grid(), [self.model.parameters[name].prior for name in self.names]
        schedule = solving.stack([self.plan(days)] * _LANES)
        natural = jax.jit(jax.vmap(lambda z: jnp.stack(quantiles([p for p in priors if p is not None], z))))

        def values_at(z: np.ndarray, around: bool) -> dict[str, np.ndarray]:
            found = np.asarray(natural(jnp.asarray(z)))
            own = np.array([self.values[name] for name in self.names])
            found = np.where((z == 0) & around, own, found)
            return dict(zip(self.names, found.T, strict=True))

        draws = {name: v.reshape(-1, _LANES) for name, v in values_at(likely, False).items()}
        fixed = {name: value for name, value in self.values.items() if name not in self.names}
        solver = solving.prepare(self.model, self.values, schedule, self.markers, draws=draws | {
            name: np.full_like(next(iter(draws.values())), value) for name, value in fixed.items()},
            share=_SHARE, pooled=True, lost=_INEXACT, fixed=fixed)

        @jax.jit
        def run(sets, tables):
            every = {name: jnp.full((_SETS, _LANES), value) for name, value in fixed.items()} | sets
            return solving.solve_sets(solver, every, tables)

        def evaluate(z: np.ndarray, around: bool) -> np.ndarray:
            size, found = _LANES * _SETS, []
            for begin in range(0, len(z), size):
                rows = np.minimum(np.arange(begin, begin + size), len(z) - 1)  # one shape, one program
                values = values_at(z[rows], around)
                sets = {name: v.reshape(_SETS, _LANES) for name, v in values.items()}
                courses = np.array(run(sets, solver.tables)).reshape(size, len(days), len(self.markers))
                self._again(days, values, courses)
                found.append(self.judge(days, courses))
            return np.concatenate(found)[:len(z)]

        return evaluate

    def _again(self, days: np.ndarray, values: Mapping[str, np.ndarray], courses: np.ndarray) -> None:
        """Courses for which the common steps were too long, by steps of their own; NaN stays where none can be had."""
        for k in np.flatnonzero(np.isnan(courses).any(axis=(1, 2))):
            own = self.values | {name: v[k] for name, v in values.items()}
            try:
                courses[k] = solving.trajectories(self.model, own, [self.plan(days)], self.markers,
                                                  Accuracy(1e-5, 1e-6))[0]
            except SolveError:
                courses[k] = np.nan


# --- indices -------------------------------------------------------------------------------------------------


def _for_indices(questions: Sequence[Question], found: np.ndarray) -> np.ndarray:
    """Days restricted to their horizon; logs of values (as they are where one is not positive)."""
    columns = []
    for q, own in zip(questions, found.T, strict=True):
        if q.threshold is not None:
            columns.append(np.minimum(own, q.day))
        else:
            columns.append(np.where(own > 0, np.log(np.where(own > 0, own, 1.0)), np.where(np.isnan(own), np.nan,
                                                                                         -math.inf)))
    return np.stack(columns, axis=-1)


def sobol_indices(evaluate: Callable[[Float[np.ndarray, "point parameter"]], Float[np.ndarray, "point output"]],
                  names: Sequence[str], samples: int, seed: int) -> Indices:
    """First-order and total Sobol indices of functions of independent standard normals, with bootstrapped intervals.

    Source: Saltelli et al. 2010, Comput Phys Commun 181:259, on scrambled Sobol points, as in SALib.
    """
    problem = {"num_vars": len(names), "names": list(names), "bounds": [[0.0, 1.0]] * len(names)}
    points = sobol_sampling.sample(problem, samples, calc_second_order=False, seed=seed)
    outputs = evaluate(norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)))
    blocks = outputs.reshape(samples, len(names) + 2, -1)
    sound = np.isfinite(blocks).all(axis=(1, 2))
    kept = blocks[sound].reshape(-1, blocks.shape[-1])
    parts = [_of_output(problem, column, seed) for column in kept.T]
    first, first_half, total, total_half = (np.array([part[k] for part in parts]) for k in range(4))
    return Indices(first, first_half, total, total_half, kept, int(np.sum(~sound)))


def _of_output(problem: dict[str, Any], output: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    if len(output) == 0 or np.ptp(output) <= 1e-12 * np.abs(output).max():  # does not vary: nothing to share out
        return (np.full(problem["num_vars"], np.nan),) * 4
    found = sobol_analysis.analyze(problem, output, calc_second_order=False, num_resamples=_RESAMPLES,
                                   conf_level=CONFIDENCE, seed=seed)
    return found["S1"], found["S1_conf"], found["ST"], found["ST_conf"]


# --- what people read ----------------------------------------------------------------------------------------


def headline(found: Sensitivity, answer: Answer) -> str:
    """What the endpoint is, its typical value, and how many samples never reached it."""
    q = answer.question
    if q.threshold is None:
        return f"{q.marker} on day {q.day:g}: {answer.typical:.4g} {answer.unit} at typical values; indices of its log"
    unit = found.model.observables[q.marker].unit
    shown = f"{answer.typical:.1f}" if math.isfinite(answer.typical) else f"not by {q.day:g}"
    return (f"{answer.unit} on which {q.marker} passes {q.threshold:g} {unit} after its lowest value: {shown} at "
            "typical values; "
            f"{100 * (1 - answer.reached):.0f}% of the samples do not by day {q.day:g} and count as {q.day:g} in the "
            "indices")


def answer_rows(found: Sensitivity, answer: Answer, most: int = 12) -> list[dict[str, str]]:
    """The parameters that matter most, by total index (by elasticity where there is none)."""
    weight = answer.total if np.isfinite(answer.total).any() else np.abs(answer.elasticity)
    order = np.argsort(-np.nan_to_num(weight))[:most]
    return [{"parameter": found.names[k], "elasticity": _shown(answer.elasticity[k]),
             "first order": _interval(answer.first[k], answer.first_half[k]),
             "total": _interval(answer.total[k], answer.total_half[k]),
             "prior -1 SD": _endpoint_text(answer, answer.low[k]), "+1 SD": _endpoint_text(answer, answer.high[k])}
            for k in order]


def _shown(value: float) -> str:
    if not math.isfinite(value):
        return "none"
    return f"{value:.3g}" if abs(value) > _ROUNDING else "0"


def _interval(value: float, half: float) -> str:
    return f"{value:.2f} ({value - half:.2f} to {value + half:.2f})" if math.isfinite(value) else "does not vary"


def _endpoint_text(answer: Answer, value: float) -> str:
    if math.isnan(value):
        return "failed"
    return f"{value:.4g}" if math.isfinite(value) else f"not by {answer.question.day:g}"


def as_json(found: Sensitivity) -> str:
    """Everything, for programs. null: a day that is not reached, or a number that does not exist."""
    def plain(values) -> Any:
        if np.ndim(values):
            return dict(zip(found.names, map(plain, values), strict=True))
        return float(values) if math.isfinite(values) else None

    answers = [{
        "endpoint": a.question.text, "marker": a.question.marker, "day": a.question.day,
        "threshold": a.question.threshold, "unit": a.unit, "typical": plain(a.typical),
        "reached_by_horizon": a.reached, "elasticity": plain(a.elasticity), "low": plain(a.low), "high": plain(a.high),
        "indices_of": "log of the value" if a.question.threshold is None else "day, at most the horizon",
        "first_order": plain(a.first), "first_order_half_width": plain(a.first_half), "total": plain(a.total),
        "total_half_width": plain(a.total_half)} for a in found.answers]
    doses = [{"day": d.time, "input": d.input, "amount": d.amount} for d in found.doses]
    return json.dumps({"model": found.model.name, "model_sha256": found.model.digest, "doses": doses,
                       "samples": found.samples, "courses": found.courses, "failed_samples": found.failed,
                       "seed": found.seed, "interval": f"{CONFIDENCE:.0%} bootstrap, half-widths",
                       "endpoints": answers}, indent=1, allow_nan=False)
