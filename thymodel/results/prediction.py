"""Posterior draws x virtual subjects x arms -> courses, in chunks of one shape so that one program serves all.

Arms are paired: the same virtual subjects (random effects and covariates) appear in every arm and under every draw, so
that differences between arms and between draws are not blurred by who was drawn.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, qmc

from thymodel.documents.data import StudyData, arm_doses
from thymodel.documents.model import Model, ratios
from thymodel.documents.spec import Arm, FitSpec
from thymodel.documents.virtual import Population
from thymodel.dynamics import solving
from thymodel.errors import SolveError
from thymodel.inference.population import (
    Layout,
    population_values,
    random_effects,
    settled,
    starting_values,
    study_shifts,
    subject_values,
)
from thymodel.inference.posterior import in_portions

Reduce = Callable[[np.ndarray], np.ndarray]
Solve = Callable[[Sequence[str], dict[str, np.ndarray]], np.ndarray]
Progress = Callable[[int, int], None]  # draws done, draws in all
_CHUNK = 16  # draws a call: enough to fill a core, small enough for memory
_TRIED = (24, 8)  # draws for which the solver's steps are made: one by one, and where many subjects share steps
_INEXACT = 0.01  # a course wrong by this part of a state is solved again by itself


@dataclass(frozen=True)
class VirtualSubjects:
    """`standard` are standard normals for the columns of `Layout`, `covariates` a value a subject; `delivered` what
    part of the amounts of an input acts, 1 where it is not there."""

    standard: Float[np.ndarray, "subject column"]
    covariates: Mapping[str, Float[np.ndarray, " subject"]]
    delivered: Mapping[str, Float[np.ndarray, " subject"]] = field(default_factory=dict)


def virtual_subjects(spec: FitSpec, data_covariates: Mapping[str, np.ndarray], count: int, seed: int,
                     population: Population | None = None, dose_errors: Mapping[str, float] | None = None,
                     ) -> VirtualSubjects:
    """New subjects: scrambled Sobol normals for the random effects, covariates drawn from the fitted patients or from a
    population.

    Args:
        data_covariates: baseline value of each covariate, a value a fitted patient; patients are drawn whole. One
            that a patient lacks (NaN) is drawn from its distribution under each draw.
        population: whose covariates to take in place of the patients', where it has them.
        dose_errors: SD of the log of acting over nominal amount, by input.
    """
    effects = max(spec.effect_count + len(spec.missing_covariates), 1)
    own = len(population.distributions) if population else 0
    uniform = qmc.Sobol(effects + own + len(dose_errors or {}), rng=np.random.default_rng(seed)).random(
        1 << max(count - 1, 1).bit_length())[:count]
    standard = norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9))
    covariates = _resampled(data_covariates, count, seed + 1)
    if population is not None:
        covariates |= _resampled(population.patients, count, seed + 2) | population.drawn(
            standard[:, effects: effects + own])
    delivered = {name: np.exp(sd * standard[:, effects + own + k]) for k, (name, sd) in enumerate(
        (dose_errors or {}).items())}
    return VirtualSubjects(standard[:, :effects], covariates, delivered)


def _resampled(people: Mapping[str, np.ndarray], count: int, seed: int) -> dict[str, np.ndarray]:
    """People drawn whole, each about as often as others."""
    size = len(next(iter(people.values()))) if people else 1
    chosen = np.random.default_rng(seed).permutation(np.arange(count) % size)
    return {name: values[chosen] for name, values in people.items()}


def baseline_covariates(spec: FitSpec, data: StudyData) -> dict[str, np.ndarray]:
    """Each covariate's first value, a value a patient; the model's own where there are no patients."""
    if not data.subjects:
        return {name: np.array([item.value]) for name, item in spec.model.covariates.items()}
    tables = [dict(subject.covariates) for subject in data.subjects]
    return {name: np.array([table[name][0][1] for table in tables]) for name in spec.model.covariates}


def observed_arms(spec: FitSpec, data: StudyData) -> tuple[Arm, ...]:
    """The arms of a study as scenario arms, with the doses that most of their subjects were given. Without patients,
    the published cohorts, at the means of their covariates and each with the effects of its study."""
    if not data.subjects:
        return tuple(Arm(cohort.name, cohort.label, cohort.doses,
                         {name: item.mean for name, item in cohort.covariates.items()}, cohort.study)
                     for table in spec.published for cohort in table.cohorts)
    return tuple(Arm(name or "all", name or "all", doses, {}) for name, doses in arm_doses(data).items())


def observables_of(spec: FitSpec) -> tuple[str, ...]:
    """What a fit looks at, beside implied exports: one list for all of its simulations, for one compiled code."""
    return tuple(dict.fromkeys([*spec.likelihood, *(endpoint.marker for endpoint in spec.endpoints.values())]))


class Simulate(Protocol):
    """Observables without residual error: see `simulator`."""

    def __call__(self, z: Float[np.ndarray, "draw coordinate"], observables: Sequence[str],
                 reduce: Reduce | None = None, progress: Progress | None = None) -> np.ndarray: ...


def simulator(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], arms: Sequence[Arm],
              subjects: VirtualSubjects, times: Float[np.ndarray, " time"], also: Sequence[str] = ()) -> Simulate:
    """Courses of virtual subjects in every arm, prepared once for all that is asked of them.

    Args:
        z: draws like those that will be asked for.
        also: observables that may be asked for although the fit does not look at them.

    Returns:
        A function of draws and observables, array (arm, draw, subject, time, observable). `reduce` is applied to blocks
        (draw, subject, time, observable) as they come, so that only its result is kept.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    joined = _joined(spec, arms, subjects)
    values = _arms_program(spec, lay, arms, joined)
    solve = _solve_for(spec, _schedules(spec, arms, joined, times), in_portions(values, _some(z, _TRIED[True])), True,
                       also)()

    def simulate(z, observables, reduce=None, progress=None) -> np.ndarray:
        found = _in_chunks(partial(solve, observables), in_portions(values, z), len(z), reduce, progress)
        return _by_arm(found, len(arms))

    return simulate


def designs(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], arms: Sequence[Arm],
            subjects: VirtualSubjects, times: Float[np.ndarray, " time"], also: Sequence[str] = (),
            ) -> Callable[[Sequence[Arm]], Simulate]:
    """`simulator` for one set of arms after another, all by one program: what changes comes in as arrays.

    The solver's steps are laid once, for the arms given here, and are everywhere as dense as the densest of them needs.
    A set within their range is solved as `simulator` would, to the solver's tolerance and not to the last digit.

    Args:
        arms: at the ends of what will be asked: largest doses, first and last days, extremes of covariates.

    Returns:
        The simulator of a set of arms. It takes the draws `z` alone.

    Raises:
        SolveError: as `simulator`.
    """
    joined = _joined(spec, arms, subjects)
    pilot = in_portions(_arms_program(spec, lay, arms, joined), _some(z, _TRIED[True]))
    solve_of = _solve_for(spec, _schedules(spec, arms, joined, times), pilot, True, also)
    known: dict[tuple[str, ...], dict[str, np.ndarray]] = {}  # the same people under the same draws, whatever the arms

    def of(asked: Sequence[Arm]) -> Simulate:
        own = _joined(spec, asked, subjects)
        solve, studies = solve_of(_schedules(spec, asked, own, times, arms)), tuple(arm.study for arm in asked)
        if studies not in known:
            known[studies] = in_portions(_arms_program(spec, lay, asked, own), z)

        def simulate(z, observables, reduce=None, progress=None) -> np.ndarray:
            found = _in_chunks(partial(solve, observables), known[studies], len(z), reduce, progress)
            return _by_arm(found, len(asked))

        return simulate

    return of


def _joined(spec: FitSpec, arms: Sequence[Arm], subjects: VirtualSubjects) -> VirtualSubjects:
    """The same subjects in arm after arm."""
    everyone = [_in_arm(spec, arm, subjects) for arm in arms]
    return VirtualSubjects(np.concatenate([people.standard for people in everyone]),
                           {name: np.concatenate([people.covariates[name] for people in everyone])
                            for name in spec.model.covariates},
                           {name: np.tile(values, len(arms)) for name, values in subjects.delivered.items()})


def _arms_program(spec: FitSpec, lay: Layout, arms: Sequence[Arm], joined: VirtualSubjects):
    """`_subject_program` of the subjects of arms, each of its study."""
    study = np.repeat([lay.studies.index(arm.study) if arm.study in lay.studies else -1 for arm in arms],
                      len(joined.standard) // len(arms))
    return _subject_program(spec, lay, jnp.asarray(joined.standard), study)


def _by_arm(found: np.ndarray, arms: int) -> np.ndarray:
    """(draw, subject of any arm, ...) -> (arm, draw, subject, ...)"""
    return np.moveaxis(found.reshape(len(found), arms, -1, *found.shape[2:]), 1, 0)


def _schedules(spec: FitSpec, arms: Sequence[Arm], joined: VirtualSubjects, times,
               longest: Sequence[Arm] = ()) -> solving.Schedule:
    """The schedules of all arms' subjects, in order; a subject's covariates stay as they are.

    Args:
        longest: arms that are not simulated, to whose number of segments those of the others are filled up.
    """
    typical = {name: ((spec.model.start, item.value),) for name, item in spec.model.covariates.items()}
    planned = solving.stack([solving.plan(spec.model, arm.doses, typical, times) for arm in [*arms, *longest]])
    planned = jax.tree.map(lambda a: a[:len(arms)], planned)
    each = len(joined.standard) // len(arms)
    repeated = jax.tree.map(lambda a: np.repeat(a, each, axis=0), planned)
    segments, names = repeated.ends.shape[1], list(spec.model.inputs)
    amount, infusion = np.array(repeated.amount, float), np.array(repeated.infusion, float)
    for name, part in joined.delivered.items():
        amount *= np.where(repeated.jump == names.index(name), part[:, None], 1.0)
        infusion[:, :, names.index(name)] *= part[:, None]
    return repeated._replace(amount=amount, infusion=infusion, covariates=repeated.covariates | {
        name: np.repeat(values[:, None], segments, axis=1) for name, values in joined.covariates.items()})


def _some(z: np.ndarray, count: int) -> np.ndarray:
    return z[:: max(len(z) // count, 1)]


def _solve_for(spec: FitSpec, schedule: solving.Schedule, likely: Mapping[str, np.ndarray],
               pooled: bool, also: Sequence[str] = (),
               ) -> Callable[..., Solve]:
    """Of this schedule, or by the same program of the one that it is called with: a solve of subjects with one schedule
    each, (observables, values (draw, subject)) -> (draw, subject, ...)."""
    typical = starting_values(spec)
    asked = _with_ratios(spec.model)
    computed = tuple(dict.fromkeys([*observables_of(spec), *also, *ratios(spec.model)]))
    solver = solving.prepare(asked, typical, schedule, computed, draws=likely, pooled=pooled,
                             lost=_INEXACT, fixed=settled(spec))

    @partial(jax.jit, static_argnums=0)
    def run(columns: tuple[int, ...], values, tables):
        return solving.solve_sets(solver, values, tables)[..., list(columns)]

    redesigned = cache(lambda: solving.redesigner(solver))  # which most who solve never ask for

    def of(own: solving.Schedule = schedule) -> Solve:
        tables = solver.tables if own is schedule else redesigned()(own)

        def solve(observables: Sequence[str], values: dict[str, np.ndarray]) -> np.ndarray:
            columns = tuple(computed.index(name) for name in observables)
            return _again(asked, own, values, observables, np.asarray(run(columns, values, tables)))

        return solve

    return of


def _with_ratios(model: Model) -> Model:
    """The model with each observable over its healthy and its highest value among the observables."""
    return replace(model, observables={**model.observables, **ratios(model)})


def _again(model: Model, schedule: solving.Schedule, values: Mapping[str, np.ndarray], observables: Sequence[str],
           found: np.ndarray) -> np.ndarray:
    """Courses for which the common steps were too long, with steps of their own; NaN stays where none can be had."""
    draw, subject = np.nonzero(np.isnan(found).any(axis=(2, 3)))
    found = found if len(draw) == 0 else np.array(found)  # JAX's own memory may not be written to
    for k, j in zip(draw, subject, strict=True):
        own = {name: value[k, j] for name, value in values.items()}
        with contextlib.suppress(SolveError):
            alone = jax.tree.map(lambda a, j=j: a[j], schedule)
            found[k, j] = solving.trajectories(model, own, [alone], observables, solving.Accuracy(1e-5, 1e-6))[0]
    return found


def _in_arm(spec: FitSpec, arm: Arm, subjects: VirtualSubjects) -> VirtualSubjects:
    """The subjects with the arm's covariates in place of their own, and the model's where there are none."""
    count = len(subjects.standard)
    known = {name: np.full(count, item.value) for name, item in spec.model.covariates.items()}
    known |= dict(subjects.covariates) | {name: np.full(count, value) for name, value in arm.covariates.items()}
    return replace(subjects, covariates=known)


def individual_courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], data: StudyData,
                       observables: Sequence[str], times: Float[np.ndarray, " time"],
                       ) -> Float[np.ndarray, "draw subject time observable"]:
    """Observables without residual error for the fitted patients themselves: their doses, covariates and effects.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    schedules = [solving.plan(spec.model, s.doses, dict(s.covariates), times.tolist())
                 for s in data.subjects]
    return patient_courses(spec, lay, z, data, observables, solving.stack(schedules))


def patient_courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], data: StudyData,
                    observables: Sequence[str], schedule: solving.Schedule,
                    ) -> Float[np.ndarray, "draw subject visit observable"]:
    """`individual_courses` at the visits of each patient's own schedule."""
    study = np.array(lay.study or [-1] * len(data.subjects), int)
    values = in_portions(_subject_program(spec, lay, None, study), z)
    likely = {name: _some(value, _TRIED[False]) for name, value in values.items()}
    solve = _solve_for(spec, schedule, likely, False)()
    return _in_chunks(partial(solve, observables), values, len(z), None, None)


def _subject_program(spec: FitSpec, lay: Layout, standard, study: Int[np.ndarray, " subject"]):
    """Points -> parameters (point, subject) of subjects of studies of these numbers (-1: one in the middle of all): new
    ones with the given etas, or (None) the fitted ones with those in the points."""
    @jax.jit
    @jax.vmap
    def values(point):
        population = population_values(lay, point)
        shifts = study_shifts(lay, population, study)
        found = subject_values(spec, population, random_effects(lay, point, population, standard), shifts)
        return {name: jnp.broadcast_to(v, study.shape) for name, v in found.items()}

    return values


def _in_chunks(solve, values: Mapping[str, np.ndarray], draws: int, reduce: Reduce | None,
               progress: Progress | None) -> np.ndarray:
    """All draws, a fixed number at a time on as many threads as cores; the last chunk is filled up with repeats."""
    chunks = [np.minimum(np.arange(begin, begin + _CHUNK), draws - 1) for begin in range(0, draws, _CHUNK)]

    def one(rows: np.ndarray) -> np.ndarray:
        found = solve({name: value[rows] for name, value in values.items()})
        return found if reduce is None else reduce(found)

    pieces = [one(chunks[0])]  # compiles, before the threads would each begin to
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for k, piece in enumerate(pool.map(one, chunks[1:])):
            pieces.append(piece)
            if progress is not None:
                progress(min((k + 2) * _CHUNK, draws), draws)
    return np.concatenate(pieces)[:draws]
