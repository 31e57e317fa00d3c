"""Posterior draws x virtual subjects x arms -> courses, in chunks of one shape so that one program serves all.

Arms are paired: the same virtual subjects (random effects and covariates) appear in every arm and under every draw, so
that differences between arms and between draws are not blurred by who was drawn.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import norm, qmc

from thymodel.documents.data import StudyData
from thymodel.documents.spec import Arm, FitSpec
from thymodel.dynamics import solving
from thymodel.errors import SolveError
from thymodel.inference.population import Layout, population_values, random_effects, settled, subject_values

_CHUNK = 16  # draws a call: enough to fill a core, small enough for memory
_TRIED = (24, 8)  # draws for which the solver's steps are made: one by one, and where many subjects share steps
_SHARE = 0.99  # of them and of the virtual subjects; the rest may be less exact,
_INEXACT = 0.01  # but one wrong by this part of a state is solved again by itself


@dataclass(frozen=True)
class VirtualSubjects:
    """`standard` are etas (standard normal), `covariates` a value a subject."""

    standard: Float[np.ndarray, "subject effect"]
    covariates: Mapping[str, Float[np.ndarray, " subject"]]


def virtual_subjects(spec: FitSpec, data_covariates: Mapping[str, np.ndarray], count: int,
                     seed: int) -> VirtualSubjects:
    """New subjects: scrambled Sobol normals for the random effects, covariates drawn from the fitted patients.

    Args:
        data_covariates: baseline value of each covariate, a value a fitted patient; patients are drawn whole.
    """
    effects = max(len(spec.between_subject), 1)
    uniform = qmc.Sobol(effects, rng=np.random.default_rng(seed)).random(1 << max(count - 1, 1).bit_length())[:count]
    standard = norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9))
    patients = len(next(iter(data_covariates.values()))) if data_covariates else 1
    chosen = np.random.default_rng(seed + 1).permutation(np.arange(count) % patients)
    return VirtualSubjects(standard, {name: values[chosen] for name, values in data_covariates.items()})


def baseline_covariates(spec: FitSpec, data: StudyData) -> dict[str, np.ndarray]:
    """Each covariate's first value, a value a patient."""
    tables = [dict(subject.covariates) for subject in data.subjects]
    return {name: np.array([table[name][0][1] for table in tables]) for name in spec.model.covariates}


def observed_arms(spec: FitSpec, data: StudyData) -> tuple[Arm, ...]:
    """The arms of a study as scenario arms: each arm's first subject's doses (the protocol's)."""
    arms: dict[str, Arm] = {}
    for subject in data.subjects:
        name = subject.arm or "all"
        arms.setdefault(name, Arm(name, name, subject.doses, {}))
    return tuple(arms.values())


def observables_of(spec: FitSpec) -> tuple[str, ...]:
    """What a fit looks at: one list for all of its simulations, so that they share compiled code."""
    return tuple(dict.fromkeys([*spec.likelihood, *(endpoint.marker for endpoint in spec.endpoints.values())]))


def courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], arms: Sequence[Arm],
            subjects: VirtualSubjects, observables: Sequence[str], times: Float[np.ndarray, " time"],
            reduce: Callable[[np.ndarray], np.ndarray] | None = None,
            progress: Callable[[int, int], None] | None = None) -> Float[np.ndarray, "arm draw subject ..."]:
    """Observables without residual error, for every arm, draw and virtual subject.

    Args:
        reduce: applied to blocks (draw, subject, time, observable) as they come, so that only its result is kept; by
            default the last two axes are kept whole.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    everyone = [_in_arm(spec, arm, subjects) for arm in arms]
    joined = VirtualSubjects(np.concatenate([people.standard for people in everyone]),
                             {name: np.concatenate([people.covariates[name] for people in everyone])
                              for name in spec.model.covariates})
    schedule = _schedules(spec, arms, joined, times)
    values = _subject_values(spec, lay, z, jnp.asarray(joined.standard), joined.covariates, len(joined.standard))
    found = _solved(spec, schedule, values, observables, reduce, progress, pooled=True)
    found = found.reshape(len(z), len(arms), len(subjects.standard), *found.shape[2:])
    return np.moveaxis(found, 1, 0)


def _schedules(spec: FitSpec, arms: Sequence[Arm], joined: VirtualSubjects, times) -> solving.Schedule:
    """The schedules of all arms' subjects, in order; a subject's covariates stay as they are."""
    typical = {name: ((spec.model.start, item.value),) for name, item in spec.model.covariates.items()}
    planned = solving.stack([solving.plan(spec.model, arm.doses, typical, times) for arm in arms])
    each = len(joined.standard) // len(arms)
    repeated = jax.tree.map(lambda a: np.repeat(a, each, axis=0), planned)
    segments = repeated.ends.shape[1]
    return repeated._replace(covariates={name: np.repeat(values[:, None], segments, axis=1)
                                         for name, values in joined.covariates.items()})


def _solved(spec: FitSpec, schedule: solving.Schedule, values: Mapping[str, Any], observables: Sequence[str],
            reduce=None, progress=None, pooled: bool = False) -> Float[np.ndarray, "draw subject ..."]:
    """Observables of subjects with one schedule each, under every draw of their values (draw, subject)."""
    typical = {name: p.value for name, p in spec.model.parameters.items()} | dict(spec.fixed)
    known = {name: np.asarray(value) for name, value in values.items()}
    draws = len(next(iter(known.values())))
    some = {name: value[:: max(draws // _TRIED[pooled], 1)] for name, value in known.items()}
    computed = observables_of(spec)
    if not set(observables) <= set(computed):
        computed = tuple(observables)
    columns = [computed.index(name) for name in observables]
    solver = solving.prepare(spec.model, typical, schedule, computed, draws=some, pooled=pooled, tail=some,
                             share=_SHARE if pooled else 1.0, lost=_INEXACT, fixed=settled(spec))
    run = jax.jit(partial(solving.solve_sets, solver))

    def solve(values: dict[str, np.ndarray]) -> np.ndarray:
        return _again(spec, schedule, values, observables,
                      np.array(np.asarray(run(values, solver.tables))[..., columns]))

    return _in_chunks(solve, known, draws, reduce or (lambda found: found), progress)


def _again(spec: FitSpec, schedule: solving.Schedule, values: Mapping[str, np.ndarray], observables: Sequence[str],
           found: np.ndarray) -> np.ndarray:
    """Courses for which the common steps were too long, with steps of their own; NaN stays where none can be had."""
    draw, subject = np.nonzero(np.isnan(found).any(axis=(2, 3)))
    for k, j in zip(draw, subject, strict=True):
        own = {name: value[k, j] for name, value in values.items()}
        with contextlib.suppress(SolveError):
            alone = jax.tree.map(lambda a, j=j: a[j], schedule)
            found[k, j] = solving.trajectories(spec.model, own, [alone], observables, solving.Accuracy(1e-5, 1e-6))[0]
    return found


def _in_arm(spec: FitSpec, arm: Arm, subjects: VirtualSubjects) -> VirtualSubjects:
    """The subjects with the arm's covariates in place of their own, and the model's where there are none."""
    count = len(subjects.standard)
    known = {name: np.full(count, item.value) for name, item in spec.model.covariates.items()}
    known |= dict(subjects.covariates) | {name: np.full(count, value) for name, value in arm.covariates.items()}
    return VirtualSubjects(subjects.standard, known)


def individual_courses(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"], data: StudyData,
                       observables: Sequence[str], times: Float[np.ndarray, " time"],
                       ) -> Float[np.ndarray, "draw subject time observable"]:
    """Observables without residual error for the fitted patients themselves: their doses, covariates and effects.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    schedules = [solving.plan(spec.model, s.doses, dict(s.covariates), times.tolist()) for s in data.subjects]
    values = _subject_values(spec, lay, z, None, baseline_covariates(spec, data), len(data.subjects))
    return _solved(spec, solving.stack(schedules), values, observables)


def _subject_values(spec: FitSpec, lay: Layout, z, standard, covariates, count: int) -> dict[str, Array]:
    """Parameters (draw, subject) of subjects with the given etas, or (None) with those that the draws hold."""
    baseline = {name: jnp.asarray(value) for name, value in covariates.items()}

    @jax.jit
    @jax.vmap
    def one(point):
        population = population_values(lay, point)
        values = subject_values(spec, population, random_effects(lay, point, population, standard), baseline)
        return {name: jnp.broadcast_to(v, (count,)) for name, v in values.items()}

    return one(jnp.asarray(z))


def _in_chunks(solve, values: Mapping[str, np.ndarray], draws: int, reduce, progress) -> np.ndarray:
    """All draws, a fixed number at a time on as many threads as cores; the last chunk is filled up with repeats."""
    chunks = [np.minimum(np.arange(begin, begin + _CHUNK), draws - 1) for begin in range(0, draws, _CHUNK)]

    def one(rows: np.ndarray) -> np.ndarray:
        return reduce(solve({name: value[rows] for name, value in values.items()}))

    pieces = [one(chunks[0])]  # compiles, before the threads would each begin to
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for k, piece in enumerate(pool.map(one, chunks[1:])):
            pieces.append(piece)
            if progress is not None:
                progress(min((k + 2) * _CHUNK, draws), draws)
    return np.concatenate(pieces)[:draws]
