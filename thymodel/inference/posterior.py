"""Puts spec, data and solver together into one log density on R^n."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.documents.data import StudyData
from thymodel.documents.expressions import symbol
from thymodel.documents.spec import FitSpec
from thymodel.dynamics import solving, symbolic
from thymodel.dynamics.solving import Accuracy, Schedule, Solver
from thymodel.errors import Fault, InputError
from thymodel.inference import aggregate, levels, likelihood, visits
from thymodel.inference.population import (
    Layout,
    cohort_values,
    effect_name,
    error_name,
    layout,
    log_covariates,
    log_prior,
    missing_name,
    population_values,
    random_effects,
    residual_matrix,
    settled,
    starting_values,
    study_shifts,
    subject_values,
)

_PRIOR_DRAWS = 16
_PORTION = 64  # points whose subjects' parameters are computed at a time
_STRETCHES = (1.5, 2.0, 3.0)  # how far from the middle of the likely draws the rarer ones are
_SHARE = 0.98  # of likely draws, for which the first steps must do
_PRIOR_SHARE = 0.75  # of them, for which the first steps must do


class Records(NamedTuple):
    """Observations of all subjects in one row each: places in the prediction array, values, censoring."""

    subject: Array
    visit: Array
    observable: Array
    value: Array
    censoring: Array
    limit: Array


class Data(NamedTuple):
    """The arrays of a posterior, operands of its density: data of the same shape need no new program.

    `quantified`, `censored` (beyond one limit) and `between` (two limits) hold the records of each observable, in the
    order of the spec: apart, for a distribution function costs far more than a density, and a difference of two thrice.
    `shared` holds, block by block of correlated residuals, the visits at which two or more of its members were taken,
    by what is known there: ((member, kind), ...) -> records (visit, member). These records are in no other group.
    `people` are the virtual people of published cohorts, which follow the patients in every table of the solver.
    `covariates` are the observed values of those that other patients lack.
    """

    solver: solving.Tables
    quantified: tuple[Records, ...]
    censored: tuple[Records, ...]
    between: tuple[Records, ...]
    shared: tuple[dict[tuple[tuple[int, int], ...], Records], ...] = ()
    people: aggregate.People | None = None
    published: tuple[aggregate.Seen, ...] = ()
    covariates: Mapping[str, Array] = {}


@dataclass(frozen=True)
class Posterior:
    """One log density, and the ways to look at a point of it.

    `log_density(z)` is what a sampler sees: log prior plus log likelihood, all constants in; -inf where a solve failed.
    `density(z, data)` is the same with the arrays as operands. `log_likelihood(z)` is that of each record; records of a
    visit that is taken together have their joint one at the first of them, and 0 at the others; so have all those of a
    subject lacking a covariate of a few values, whose `predictions` are means over these. `plans` say what is asked of
    each published cohort, `cohort_courses(z)` are all rows of the solver, those of its virtual people among them.
    `missing` says of which subjects a covariate is not known; `supposed` are the rows of the solver for each value that
    a subject may have, `probabilities(z)` those of the rows given the data.
    """

    spec: FitSpec
    layout: Layout
    solver: Solver
    records: Records
    data: Data
    density: Callable[[Array, Data], Array]
    log_likelihood: Callable[[Array], Array]
    predictions: Callable[[Array], Array]
    subject_values: Callable[[Array], dict[str, Array]]
    failures: Callable[[Array], Array]
    plans: tuple[aggregate.Plan, ...] = ()
    cohort_courses: Callable[[Array], Array] | None = None
    missing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    supposed: levels.Alternatives = levels.Alternatives(0, np.zeros(0, int))
    probabilities: Callable[[Array], Array] | None = None

    def log_density(self, z: Array) -> Array:
        return self.density(z, self.data)


def make_posterior(spec: FitSpec, data: StudyData, likely: np.ndarray | None = None,
                   least_rows: int = 1, like: Posterior | None = None) -> Posterior:
    """The posterior of a fit; every array of the data is inside, nothing depends on the current directory.

    Args:
        likely: points (point, coordinate) for which the solver's steps must do: a pilot's draws. Without them the
            steps are those that most draws of the prior need. Denser ones are kept for rarer draws.
        least_rows: as in `solving.prepare`.
        like: a posterior of the same spec and data but for the solver's tolerance; spares compilations.
    """
    lay = layout_of(spec, data)
    observables = tuple(spec.likelihood)
    everyone, supposed = levels.expand(spec, data)
    schedule, records, (people, plans, seen) = _arrays(spec, everyone, observables)
    typical = starting_values(spec)
    accuracy = Accuracy(spec.solver.rtol, spec.solver.atol)
    values = _subject_program(spec, lay, schedule, people, supposed) if like is None else like.subject_values
    draws, tail = _some_draws(values, lay, likely)
    share = _PRIOR_SHARE if likely is None else _SHARE
    solver = solving.prepare(spec.model, typical, schedule, observables, accuracy, draws, least_rows=least_rows,
                             share=share, tail=tail, fixed=settled(spec))
    joint = _by_visit(spec, everyone, records, observables)
    places = _by_observable(records, len(observables), joint)
    quantified, censored, between = (tuple(_some_records(records, k) for k in group) for group in places)
    shared = tuple({kind: _some_records(records, k) for kind, k in block.items()} for block in joint)
    observed_covariates, missing = _covariates(spec, data)
    arrays = Data(solver.tables, quantified, censored, between, shared, people, seen, observed_covariates)

    def solve_all(population, z, tables, people=people):
        return solving.solve_many(solver, _values(spec, lay, tables.schedule, population, z, people, supposed), tables)

    def of_rows(population, arrays: Data, found, joined):
        owners = [own.subject for group in (arrays.quantified, arrays.censored, arrays.between) for own in group]
        owners += [own.subject[:, 0] for block in arrays.shared for own in block.values()]
        terms = [t for group in found for t in group] + [t for block in joined for t in block.values()]
        by_row = sum(jax.ops.segment_sum(t, rows, len(supposed.who)) for t, rows in zip(terms, owners, strict=True))
        return levels.joint(spec, supposed, population, by_row)

    def density(z, arrays: Data):
        population = population_values(lay, z)
        observed, failed = solve_all(population, z, arrays.solver, arrays.people)
        found = _log_likelihoods(spec, arrays, population, observed), _log_shared(spec, arrays, population, observed)
        if supposed.several:
            terms = [jnp.sum(levels.by_patient(supposed, of_rows(population, arrays, *found)))]
        else:
            terms = [jnp.sum(t) for group in found[0] for t in group]
            terms += [jnp.sum(t) for block in found[1] for t in block.values()]
        terms += aggregate.log_likelihood(spec, plans, arrays.published, population, observed)
        total = log_prior(lay, z) + sum(terms) + log_covariates(spec, population, arrays.covariates)
        return jnp.where(jnp.any(failed) | jnp.isnan(total), -jnp.inf, total)

    def log_likelihood(z):
        population = population_values(lay, z)
        observed, _ = solve_all(population, z, solver.tables)
        found = _log_likelihoods(spec, arrays, population, observed)
        joined = _log_shared(spec, arrays, population, observed)
        total = jnp.zeros(len(records.value))
        for group, terms in zip(places, found, strict=True):
            for mine, values in zip(group, terms, strict=True):
                total = total.at[mine].set(values)
        for block, terms in zip(joint, joined, strict=True):
            for kind, rows in block.items():
                total = total.at[rows[:, 0]].set(terms[kind])
        if not supposed.several:
            return total
        together = levels.by_patient(supposed, of_rows(population, arrays, found, joined))
        own = jnp.where(unsure[patients.subject], 0.0, total[: len(patients.value)])
        return own.at[first].set(together[patients.subject[first]])

    def probabilities(z):
        population = population_values(lay, z)
        observed, _ = solve_all(population, z, solver.tables)
        each = of_rows(population, arrays, _log_likelihoods(spec, arrays, population, observed),
                       _log_shared(spec, arrays, population, observed))
        return jnp.exp(each - levels.by_patient(supposed, each)[supposed.who])

    def predictions(z):
        observed, _ = solve_all(population_values(lay, z), z, solver.tables)
        found = observed[records.subject, records.visit, records.observable]
        if not supposed.several:
            return found
        return jnp.zeros(len(patients.value)).at[same].add(found * probabilities(z)[records.subject])

    patients = _some_records(records, np.flatnonzero(records.subject < supposed.patients))
    unsure = np.bincount(supposed.who, minlength=supposed.patients) > 1
    owners = supposed.who[records.subject]
    first = np.flatnonzero(unsure[patients.subject] & (np.diff(patients.subject, prepend=-1) != 0))
    same = np.arange(len(records.value)) - np.searchsorted(records.subject, records.subject)
    same = same + np.searchsorted(patients.subject, owners)
    return Posterior(
        spec=spec, layout=lay, solver=solver, records=patients, data=arrays, density=density,
        log_likelihood=log_likelihood, predictions=predictions, subject_values=values,
        failures=lambda z: jnp.any(solve_all(population_values(lay, z), z, solver.tables)[1]), plans=plans,
        cohort_courses=lambda z: solve_all(population_values(lay, z), z, solver.tables)[0], missing=missing,
        supposed=supposed, probabilities=probabilities)


def layout_of(spec: FitSpec, data: StudyData) -> Layout:
    """The layout of a fit to these data."""
    return layout(spec, tuple(subject.id for subject in data.subjects),
                  tuple(subject.study for subject in data.subjects), data.studies)


def _some_records(records: Records, places: np.ndarray) -> Records:
    return Records(*(a[places] for a in records))


def _by_observable(records: Records, observables: int, joint: Sequence[Mapping[Any, np.ndarray]],
                   ) -> list[list[np.ndarray]]:
    """Places of each observable's records in the groups of `Data`, those left out that are taken visit by visit."""
    quantified, bounded = records.censoring == 0, ~np.isnan(records.limit)
    alone = np.ones(len(records.value), bool)
    for rows in (rows for block in joint for rows in block.values()):
        alone[rows] = False
    kinds = (quantified & alone, ~quantified & ~bounded & alone, ~quantified & bounded & alone)
    return [[np.flatnonzero(kind & (records.observable == k)) for k in range(observables)] for kind in kinds]


def _by_visit(spec: FitSpec, data: StudyData, records: Records, observables: Sequence[str],
              ) -> list[dict[tuple[tuple[int, int], ...], np.ndarray]]:
    """Of each block of correlated residuals: what is known at a visit -> places of the records (visit, member).

    Raises:
        InputError: visits with more censored members than can be taken together.
    """
    kinds = np.select([records.censoring == 0, ~np.isnan(records.limit), records.censoring > 0],
                      [visits.MEASURED, visits.BETWEEN, visits.BELOW], visits.ABOVE)
    faults, found = [], []
    for block in spec.shared_errors:
        members = [observables.index(name) for name in block.observables]
        together: dict[tuple[int, int], list[int]] = {}
        for place in np.flatnonzero(np.isin(records.observable, members)):
            together.setdefault((int(records.subject[place]), int(records.visit[place])), []).append(int(place))
        groups: dict[tuple[tuple[int, int], ...], list[list[int]]] = {}
        for (subject, _), places in together.items():
            places.sort(key=lambda place: members.index(records.observable[place]))
            kind = tuple((members.index(records.observable[place]), int(kinds[place])) for place in places)
            if len(places) > 1:
                groups.setdefault(kind, []).append(places)
            if sum(one != visits.MEASURED for _, one in kind) > visits.MOST_CENSORED:
                faults.append(_too_many_censored(data, subject, block.observables))
        found.append({kind: np.array(rows) for kind, rows in sorted(groups.items())})
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    return found


def _too_many_censored(data: StudyData, subject: int, names: Sequence[str]) -> Fault:
    return Fault(f"{data.name}: subject {data.subjects[subject].id}",
                 f"a visit with more than {visits.MOST_CENSORED} censored values of {', '.join(names)}, "
                 "whose residuals are correlated", "take an observable out of the block, or set MDV = 1 on one of them")


def study_arrays(spec: FitSpec, data: StudyData, observables: Sequence[str]) -> tuple[Schedule, Records]:
    """Every patient's schedule, visited where one of these observables was taken, and the records by subject."""
    schedules, records = _patients(spec, data, observables)
    return solving.stack(schedules), records


def _arrays(spec: FitSpec, data: StudyData, observables: Sequence[str]):
    """Schedules of the patients and then of the virtual people of published cohorts, the patients' records, and what is
    known of the cohorts."""
    schedules, records = _patients(spec, data, observables)
    published: tuple[aggregate.People | None, tuple, tuple] = (None, (), ())
    if spec.published:
        more, published = aggregate.make_people(spec, len(schedules))
        schedules += more
    return solving.stack(schedules), records, published


def _patients(spec: FitSpec, data: StudyData, observables: Sequence[str]) -> tuple[list[Schedule], Records]:
    schedules, rows = [], []
    for k, subject in enumerate(data.subjects):
        wanted = [o for o in subject.observations if o.observable in observables]
        visits = sorted({o.time for o in wanted}) or [spec.model.start]
        schedules.append(solving.plan(spec.model, subject.doses, dict(subject.covariates), visits))
        rows += [(k, visits.index(o.time), observables.index(o.observable), o.value, o.censoring, o.limit)
                 for o in wanted]
    kinds = (int, int, int, float, int, float)
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return schedules, Records(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def _covariates(spec: FitSpec, data: StudyData) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Of each covariate that may be missing: the values that were observed, and the subjects without one."""
    first = {name: np.array([dict(subject.covariates)[name][0][1] for subject in data.subjects])
             for name in spec.missing_covariates}
    return ({name: values[~np.isnan(values)] for name, values in first.items()},
            {name: tuple(np.flatnonzero(np.isnan(values)).tolist()) for name, values in first.items()})


def _values(spec: FitSpec, lay: Layout, schedule: Schedule, population, z,
            people: aggregate.People | None, supposed: levels.Alternatives) -> dict[str, Array]:
    shifts = study_shifts(lay, population, np.array(lay.study, int))
    own, patients = subject_values(spec, population, random_effects(lay, z, population), shifts), len(supposed.who)
    if supposed.several:
        own = {name: jnp.broadcast_to(value, (supposed.patients,))[supposed.who] for name, value in own.items()}
    if people is None:
        return own
    count = len(schedule.start)
    others = cohort_values(spec, population, random_effects(lay, z, population, people.standard),
                           study_shifts(lay, population, people.study))
    return {name: jnp.concatenate([jnp.broadcast_to(own[name], (patients,)),
                                   jnp.broadcast_to(others[name], (count - patients,))]) for name in own}


def precise(spec: FitSpec) -> FitSpec:
    """The spec with a solver so tight that its log density is the same on every machine: for `verify`."""
    return replace(spec, solver=spec.solver.model_copy(update={"rtol": 1e-9, "atol": 1e-12}))


def _some_draws(values: Callable[[Array], dict[str, Array]], lay: Layout,
                likely: np.ndarray | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Subjects' parameters (draw, subject) under `likely` draws, or those of the prior, and under rarer ones."""
    if likely is None:
        z = np.random.default_rng(0).standard_normal((_PRIOR_DRAWS, lay.size))
        far = z
    else:
        z, middle = likely, likely.mean(axis=0)
        far = np.concatenate([middle + stretch * (likely[::2] - middle) for stretch in _STRETCHES])
    return in_portions(values, z), in_portions(values, far)


def _subject_program(spec: FitSpec, lay: Layout, schedule: Schedule, people: aggregate.People | None,
                     supposed: levels.Alternatives) -> Callable[[Array], dict[str, Array]]:
    """Points (_PORTION, coordinate) -> subjects' parameters (point, subject)."""
    count = len(schedule.start)

    @jax.jit
    @jax.vmap
    def values(point):
        found = _values(spec, lay, schedule, population_values(lay, point), point, people, supposed)
        return {name: jnp.broadcast_to(value, (count,)) for name, value in found.items()}

    return values


def in_portions(values: Callable[[Array], dict[str, Array]], z: np.ndarray) -> dict[str, np.ndarray]:
    """A program over points (point, coordinate), some at a time: one shape, one compilation. The last portion is filled
    up with repeats."""
    rows = np.arange(-(-len(z) // _PORTION) * _PORTION).clip(max=len(z) - 1).reshape(-1, _PORTION)
    parts = [values(jnp.asarray(z[some])) for some in rows]
    return {name: np.concatenate([np.asarray(part[name]) for part in parts])[: len(z)] for name in parts[0]}


def _log_likelihoods(spec: FitSpec, arrays: Data, population, observed) -> list[list[Float[Array, " record"]]]:
    """Log likelihood of each record, group by group; each observable's error model sees its own only."""
    found = []
    for group in (arrays.quantified, arrays.censored, arrays.between):
        terms = []
        for (name, error), own in zip(spec.likelihood.items(), group, strict=True):
            sigma = {key: population[error_name(name, key)] for key in error.parameters}
            predicted = observed[own.subject, own.visit, own.observable]
            censoring = None if group is arrays.quantified else own.censoring
            limit = own.limit if group is arrays.between else None
            terms.append(likelihood.log_likelihood(error, sigma, predicted, own.value, censoring, limit))
        found.append(terms)
    return found


def _log_shared(spec: FitSpec, arrays: Data, population, observed) -> list[dict[Any, Float[Array, " visit"]]]:
    """Log likelihood of each visit that is taken together, block by block and kind by kind."""
    found = []
    for block, groups in zip(spec.shared_errors, arrays.shared, strict=True):
        matrix, terms = residual_matrix(block, population), {}
        for kind, own in groups.items():
            members, kinds = [member for member, _ in kind], [known for _, known in kind]
            errors = [spec.likelihood[block.observables[member]] for member in members]
            sigmas = [{key: population[error_name(error.observable, key)] for key in error.parameters}
                      for error in errors]
            predicted = observed[own.subject, own.visit, own.observable]
            own_matrix = matrix[np.ix_(members, members)]
            terms[kind] = visits.log_likelihood(errors, sigmas, kinds, own_matrix, predicted, own.value, own.limit)
        found.append(terms)
    return found


def constrain(posterior: Posterior, z: Array) -> dict[str, Any]:
    """One draw in natural values: population parameters and derived quantities by name, random effects as
    `re_<effect>` over subjects, those of an occasion as `re_<effect>_occasion_<number>`, covariates that are not known
    as `missing_<covariate>` over those subjects."""
    spec, lay = posterior.spec, posterior.layout
    population = population_values(lay, z)
    effects = random_effects(lay, z, population)
    found = {name: population[name] for name in lay.population} | derived_values(spec, population)
    found |= {effect_name(name): effects[name] for name in lay.spreads}
    values = subject_values(spec, population, effects)
    return found | {missing_name(name): values[name][np.array(who)] for name, who in posterior.missing.items() if who}


def derived_values(spec: FitSpec, population: Mapping[str, Array]) -> dict[str, Array]:
    """The quantities under [derived] of a spec, at typical values and at the model's own values of covariates."""
    if not spec.derived:
        return {}
    typical: dict[str, Any] = symbolic.typical_values(spec.model) | dict(spec.fixed)
    typical |= {name: population[name] for name in spec.estimate}
    known = {symbol(name): value for name, value in symbolic.derive(spec.model, typical).items()}
    return {name: jnp.asarray(symbolic.evaluate(item.value, known)) for name, item in spec.derived.items()}
