"""Puts spec, data and solver together into one log density on R^n."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec
from thymodel.dynamics import solving
from thymodel.dynamics.solving import Accuracy, Schedule, Solver
from thymodel.inference import likelihood
from thymodel.inference.population import (
    Layout,
    error_name,
    layout,
    log_prior,
    population_values,
    random_effects,
    subject_values,
)

_PRIOR_DRAWS = 16


class Records(NamedTuple):
    """Observations of all subjects in one row each: places in the prediction array, values, censoring."""

    subject: Array
    visit: Array
    observable: Array
    value: Array
    censoring: Array
    limit: Array


@dataclass(frozen=True)
class Posterior:
    """One log density, and the ways to look at a point of it.

    `log_density(z)` is what a sampler sees: log prior plus log likelihood, all constants in; -inf where a solve failed.
    """

    spec: FitSpec
    layout: Layout
    solver: Solver
    schedule: Schedule
    records: Records
    log_density: Callable[[Array], Array]
    log_likelihood: Callable[[Array], Array]
    predictions: Callable[[Array], Array]
    failures: Callable[[Array], Array]


def make_posterior(spec: FitSpec, data: StudyData, likely: np.ndarray | None = None) -> Posterior:
    """The posterior of a fit; every array of the data is inside, nothing depends on the current directory.

    Args:
        likely: points (point, coordinate) for which the solver's steps must do beside those of the prior: a pilot's
            draws. Without them the steps are those that the prior needs, which outlying patients may exceed.
    """
    lay = layout(spec, tuple(subject.id for subject in data.subjects))
    observables = tuple(spec.likelihood)
    schedule, records = _arrays(spec, data, observables)
    typical = {name: p.value for name, p in spec.model.parameters.items()} | dict(spec.fixed)
    accuracy = Accuracy(spec.solver.rtol, spec.solver.atol)
    draws = _some_draws(spec, lay, schedule, likely)
    solver = solving.prepare(spec.model, typical, schedule, observables, accuracy, draws)

    def solve_all(z):
        return solving.solve_many(solver, _values(spec, lay, schedule, z))

    def pointwise(z, observed):
        return _pointwise(spec, observables, records, population_values(lay, z), observed)

    def log_density(z):
        observed, failed = solve_all(z)
        total = log_prior(lay, z) + jnp.sum(pointwise(z, observed))
        return jnp.where(jnp.any(failed) | jnp.isnan(total), -jnp.inf, total)

    def predictions(z):
        return solve_all(z)[0][records.subject, records.visit, records.observable]

    return Posterior(
        spec=spec, layout=lay, solver=solver, schedule=schedule, records=records, log_density=log_density,
        log_likelihood=lambda z: pointwise(z, solve_all(z)[0]),
        predictions=predictions, failures=lambda z: jnp.any(solve_all(z)[1]))


def _arrays(spec: FitSpec, data: StudyData, observables: Sequence[str]) -> tuple[Schedule, Records]:
    schedules, rows = [], []
    for k, subject in enumerate(data.subjects):
        wanted = [o for o in subject.observations if o.observable in observables]
        visits = sorted({o.time for o in wanted}) or [spec.model.start]
        schedules.append(solving.plan(spec.model, subject.doses, dict(subject.covariates), visits))
        rows += [(k, visits.index(o.time), observables.index(o.observable), o.value, o.censoring, o.limit)
                 for o in wanted]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    stacked = jax.tree.map(jnp.asarray, solving.stack(schedules))
    return stacked, Records(*(jnp.asarray(column) for column in columns))


def _values(spec: FitSpec, lay: Layout, schedule: Schedule, z) -> dict[str, Array]:
    baseline = {name: course[:, 0] for name, course in schedule.covariates.items()}
    return subject_values(spec, population_values(lay, z), random_effects(lay, z), baseline)


def precise(spec: FitSpec) -> FitSpec:
    """The spec with a solver so tight that its log density is the same on every machine: for `verify`."""
    return replace(spec, solver=spec.solver.model_copy(update={"rtol": 1e-9, "atol": 1e-12}))


def _some_draws(spec: FitSpec, lay: Layout, schedule: Schedule, likely: np.ndarray | None) -> dict[str, np.ndarray]:
    """Subjects' parameters under draws of the prior and `likely` ones, (draw, subject)."""
    z = np.random.default_rng(0).standard_normal((_PRIOR_DRAWS, lay.size))
    z = z if likely is None else np.concatenate([z, likely])
    count = len(schedule.start)
    values = jax.jit(jax.vmap(lambda point: _values(spec, lay, schedule, point)))(jnp.asarray(z))
    return {name: np.broadcast_to(np.asarray(v).reshape(len(z), -1), (len(z), count))
            for name, v in values.items()}


def _pointwise(spec: FitSpec, observables, records: Records, population, observed) -> Float[Array, " record"]:
    """Log likelihood of each record; each observable's error model sees its own records only."""
    predicted = observed[records.subject, records.visit, records.observable]
    total = jnp.zeros(len(records.value))
    kind, censored = np.asarray(records.observable), np.asarray(records.censoring)
    for k, name in enumerate(observables):
        error = spec.likelihood[name]
        sigma = {key: population[error_name(name, key)] for key in error.parameters}
        for mine in (np.flatnonzero((kind == k) & (censored == 0)), np.flatnonzero((kind == k) & (censored != 0))):
            terms = likelihood.log_likelihood(error, sigma, predicted[mine], records.value[mine], censored[mine],
                                              records.limit[mine])
            total = total.at[mine].set(terms)
    return total


def constrain(posterior: Posterior, z: Array) -> dict[str, Any]:
    """One draw in natural values: population parameters by name, random effects as `re_<effect>` over subjects."""
    lay = posterior.layout
    effects = random_effects(lay, z)
    return population_values(lay, z) | {f"re_{name}": value for name, value in effects.items()}
