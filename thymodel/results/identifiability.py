"""What a fit can learn, asked before it is run: information, contraction, and parameters known only together.

Everything is expected information, linear about a point: at the priors' medians, and at some draws of the prior.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

from thymodel.documents.design import Design, load_design
from thymodel.documents.expressions import closest
from thymodel.documents.spec import ErrorModel, FitSpec, load_fit_spec
from thymodel.dynamics import solving
from thymodel.errors import Fault, InputError
from thymodel.inference import information as info
from thymodel.inference import likelihood
from thymodel.inference.information import Gradients, Tie
from thymodel.inference.plans import Group, Plan, plan_of_data, plan_of_design
from thymodel.inference.population import Layout, correlation_factor, error_name, layout, log_prior, population_values
from thymodel.inference.posterior import make_posterior
from thymodel.inference.profiles import HELD, Profile, profile
from thymodel.inference.profiles import THRESHOLD as THRESHOLD
from thymodel.inference.slopes import Slopes, slopes_program
from thymodel.results.study import load_study

DRAWS = 16  # of the prior, at which the information is computed beside its medians
ADDED_LOG_SD = 0.6  # assumption: the residual log-SD that the model family assumes for RTE and for TREC
MOST_DAYS = 5  # candidate days of an extra visit
_FAINT = 1e-9  # of an observable's largest prediction: below, a prediction is the solver's noise
METHOD = ("expected information at the priors' medians; random effects integrated out to first order about 0 (FO), "
          "typical values and variances in blocks of their own (Mentre et al. 1997; Nyberg et al. 2015); measurements "
          "beyond a limit count by the probability of being beyond")
POOLED = "expected information at the priors' medians; the spec has no random effect: subjects differ by error alone"


@dataclass(frozen=True)
class Identifiability:
    """What a study is expected to teach.

    `prior` is the prior's own information about each of `names`; `typical` the study's, at the priors' medians, and
    `drawn` at draws of the prior. `additions` maps an added measurement to the contraction with it.
    """

    title: str
    simulated: bool
    source: str
    method: str
    names: tuple[str, ...]
    slopes: np.ndarray
    prior: np.ndarray
    typical: Float[np.ndarray, "coordinate coordinate"]
    drawn: Float[np.ndarray, "draw coordinate coordinate"]
    asked: int
    structural: tuple[int, ...]
    silent: tuple[Tie, ...]
    loose: tuple[Tie, ...]
    additions: Mapping[str, np.ndarray]

    @property
    def contraction(self) -> np.ndarray:
        """Expected posterior SD over prior SD, at the priors' medians."""
        return info.expected_contraction(self.typical, self.prior)

    @property
    def drawn_contraction(self) -> Float[np.ndarray, "draw coordinate"]:
        return np.array([info.expected_contraction(one, self.prior) for one in self.drawn]).reshape(-1, len(self.names))


def identify(spec_path: str | Path, data_path: str | Path | None = None) -> Identifiability:
    """What a fit spec can learn from its data or, where there are none yet, from the `design.toml` beside it.

    Raises:
        InputError: every fault of spec, model, data or design; neither data nor design.
        SolveError: the model cannot be integrated at the values of the model file.
    """
    spec = load_fit_spec(spec_path)
    plan, design = load_plan(spec, data_path)
    return expected(spec, plan, design)


def load_plan(spec: FitSpec, data_path: str | Path | None) -> tuple[Plan, Design | None]:
    """What is measured when: by the data if they are there (or given), else by the design beside the spec."""
    beside = spec.path.parent / "design.toml"
    if spec.published:
        raise InputError([Fault(f"{spec.path}: published", "what published figures add is not computed here",
                                "leave them out to see what the patients' data can teach")])
    refuse_levels(spec)
    if data_path is None and not (spec.path.parent / spec.data_file).is_file():
        if not beside.is_file():
            raise InputError([Fault(str(spec.path), f"neither {spec.data_file} nor design.toml is beside it",
                                    "give the data with --data, or write a design")])
        design = load_design(beside)
        return plan_of_design(spec, design, str(beside)), design
    data, file = load_study(spec, data_path)
    return plan_of_data(spec, data, str(file)), None


def refuse_levels(spec: FitSpec) -> None:
    """What information is not computed for, with every reason."""
    levels = {"study_effect": spec.study_effects, "between_occasion": spec.between_occasion}
    faults = [Fault(f"{spec.path}: {name}", "what is learned between these is not computed here",
                    "leave it out to see what the rest can teach") for name, level in levels.items() if level]
    faults += [Fault(f"{spec.path}: {item.section}.{name}", "what it costs that this is not known of subjects is not "
                     "computed here", "leave the table out, and the subjects who lack it")
               for name, item in spec.missing_covariates.items()]
    if faults:
        raise InputError(faults)


def expected(spec: FitSpec, plan: Plan, design: Design | None = None, draws: int = DRAWS,
             additions: bool = True) -> Identifiability:
    """`identify` of a spec and a plan at hand."""
    survey = make_survey(spec, plan, design, draws, additions)
    lay, own = survey.layout, survey.planned(spec.likelihood)
    typical = survey.information(np.zeros(len(lay.population)), own)
    found = [survey.information(z, own) for z in _prior_draws(lay, draws)]
    drawn = np.array([one for one in found if np.isfinite(one).all()]).reshape(-1, *typical.shape)
    prior, slopes = _prior_information(lay), _log_slopes(lay)
    structural = _structural(lay)
    silent, loose = _ties(typical, prior, slopes, structural, [lay.population[k] for k in structural])
    gained = {what: info.expected_contraction(survey.information(np.zeros(len(lay.population)), own | rows), prior)
              for what, rows in survey.additions.items()} if additions else {}
    return Identifiability(
        spec.title, spec.simulated, plan.source, METHOD if lay.columns else POOLED, tuple(lay.population), slopes,
        prior, typical, drawn, draws, tuple(structural), silent, loose, gained)


def _ties(information: np.ndarray, prior: np.ndarray, slopes: np.ndarray, structural: Sequence[int],
          names: Sequence[str]) -> tuple[tuple[Tie, ...], tuple[Tie, ...]]:
    """Parameters known only together, exactly and nearly; products of positive ones alone are written as such."""
    alone, powers = _marginal(information, structural), np.nan_to_num(slopes[structural], nan=1.0)
    signed = {name for name, slope in zip(names, slopes[structural], strict=True) if not np.isfinite(slope)}
    silent = [tie._replace(known=()) if signed & set(tie.names) else tie
              for tie in info.silent_directions(alone, names, powers)]
    told = signed | {name for tie in silent for name in tie.names}
    pairs = info.loose_pairs(alone, prior[structural], names, powers)
    return tuple(silent), tuple(tie for tie in pairs if not told & set(tie.names))


def _structural(lay: Layout) -> list[int]:
    """Coordinates of typical values and covariate effects: what directions are told of."""
    wanted = {*lay.estimate, *(f"beta_{name}" for name in lay.effects)}
    return [k for k, name in enumerate(lay.population) if name in wanted]


def _marginal(information: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """Information about some coordinates where nothing is known of the others."""
    others = [k for k in range(len(information)) if k not in kept]
    side = information[np.ix_(kept, others)]
    return information[np.ix_(kept, kept)] - side @ np.linalg.pinv(information[np.ix_(others, others)]) @ side.T


def _prior_draws(lay: Layout, count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, len(lay.population)))


def _prior_information(lay: Layout) -> np.ndarray:
    return -np.diag(np.asarray(jax.hessian(lambda z: log_prior(lay, z))(jnp.zeros(len(lay.population)))))


def _log_slopes(lay: Layout) -> np.ndarray:
    """d log(parameter)/d coordinate at the medians; NaN where the median is not positive: no power of a product."""
    at = jnp.zeros(len(lay.population))

    def natural(z):
        population = population_values(lay, z)
        return jnp.stack([jnp.asarray(population[name]) for name in lay.population])

    values, moved = np.asarray(natural(at)), jax.jacfwd(natural)(at)
    return np.where(values > 0, np.diag(np.asarray(moved)) / np.where(values > 0, values, 1.0), np.nan)


# --- the information of a plan -------------------------------------------------------------------------------


class Point(NamedTuple):
    """What is known of a point before any course is solved."""

    population: dict[str, Any]
    error_slopes: dict[str, Any]  # d sigma/d coordinate
    covariance: Any  # of the random effects, on their scales
    turns: Any  # its slope by each omega and correlation coordinate


@dataclass(frozen=True)
class Survey:
    """Every measurement that a plan makes or could make, and a program for the slopes of all of them.

    Rows of `group`, `visit`, `observable` are measurements; `additions` are sets of rows by what they add.
    """

    spec: FitSpec
    layout: Layout
    groups: tuple[Group, ...]
    assays: Mapping[str, tuple[ErrorModel, Mapping[str, float] | None]]
    limits: Mapping[str, tuple[float, float]]
    group: np.ndarray
    visit: np.ndarray
    observable: np.ndarray
    own: np.ndarray
    additions: Mapping[str, frozenset[int]]
    slopes: Callable[[np.ndarray], Slopes]
    point: Callable[[np.ndarray], Point]

    def planned(self, observables: Sequence[str] | Mapping[str, Any], arms: Sequence[str] | None = None) -> frozenset:
        """Rows of the plan itself, of these observables (and arms)."""
        places = [list(self.assays).index(name) for name in observables]
        inside = [arms is None or self.groups[g].arm in arms for g in self.group]
        return frozenset(np.flatnonzero(self.own & np.isin(self.observable, places) & np.array(inside)).tolist())

    def information(self, z: Float[np.ndarray, " coordinate"], rows: frozenset[int]) -> np.ndarray:
        """Information of some measurements about all coordinates of the population; NaN where a course failed."""
        return self.informer(z, rows)(rows)

    def informer(self, z: Float[np.ndarray, " coordinate"], rows: frozenset[int]) -> Callable[..., np.ndarray]:
        """`information` at one point of any part of these measurements, for many questions at once."""
        chosen = np.array(sorted(rows), int)
        at = self.point(z)
        gradients, record = self._records(z, at, chosen)

        def information(part: frozenset[int]) -> np.ndarray:
            asked, total = np.isin(chosen, list(part)), np.zeros((len(self.layout.population),) * 2)
            for k, group in enumerate(self.groups):
                mine = asked & (self.group[chosen] == k)
                if mine.any():
                    total += group.count * self._of_group(Gradients(*(a[mine] for a in gradients)),
                                                          info.RecordInformation(*(a[mine] for a in record)),
                                                          at.covariance, at.turns)
            return total

        return information

    def _of_group(self, gradients: Gradients, record: info.RecordInformation, covariance, turns) -> np.ndarray:
        lay = self.layout
        found = info.without_effects(info.joint_information(gradients, record), len(lay.columns), covariance)
        if not lay.columns:
            return found
        first = len(lay.estimate)
        count = len(lay.scales) + len(lay.correlations)
        errors = np.arange(len(lay.population) - len(lay.errors), len(lay.population))
        variances = np.array([*range(first, first + count), *errors])
        found[variances], found[:, variances] = 0.0, 0.0
        block = info.variance_information(gradients, record, covariance, turns, slice(errors[0], errors[-1] + 1))
        found[np.ix_(variances, variances)] = block
        return found

    def _records(self, z: np.ndarray, point: Point, chosen: np.ndarray) -> tuple[Gradients, info.RecordInformation]:
        """Gradients of the chosen measurements in spreads, and the information that each carries."""
        at = self.slopes(z)
        width = len(self.layout.population) + len(self.layout.columns)
        location, scale = np.zeros((len(chosen), width)), np.zeros((len(chosen), width))
        parts = [np.zeros(len(chosen)) for _ in range(3)]
        for number, (name, (error, known)) in enumerate(self.assays.items()):
            mine = np.flatnonzero(self.observable[chosen] == number)
            if not len(mine):
                continue
            place = (self.group[chosen[mine]], self.visit[chosen[mine]], number)
            predicted = np.asarray(at.predicted)[place]
            moved = np.concatenate([np.asarray(at.by_population)[place], np.asarray(at.by_effect)[place]], axis=1)
            keys = {key: error_name(name, key) for key in error.parameters}
            sigma = dict(known) if known is not None else {key: point.population[full] for key, full in keys.items()}
            center, spread, by_value, log_spread, by_sigma = _on_scale(error, sigma, predicted)
            faint = np.abs(predicted) <= _FAINT * np.nanmax(np.abs(np.asarray(at.predicted)[..., number]))
            moved = np.where(faint[:, None] & (error.offset == 0), 0.0, moved)
            location[mine] = (by_value / spread)[:, None] * moved
            scale[mine] = log_spread[:, None] * moved
            for key, full in keys.items() if known is None else ():
                scale[mine, self.layout.population.index(full)] += by_sigma[key] * point.error_slopes[full]
            ends = [np.full(len(mine), end) if math.isinf(end) else
                    (float(_on_scale(error, sigma, np.array([end]))[0][0]) - center) / spread
                    for end in self.limits[name]]
            for part, value in zip(parts, info.record_information(error, *ends), strict=True):
                part[mine] = value
        return Gradients(location, scale), info.RecordInformation(*parts)


def _on_scale(error: ErrorModel, sigma: Mapping[str, float], predicted: np.ndarray):
    """Centre, spread, d centre/d prediction, d log(spread)/d prediction and d log(spread)/d sigma by key."""
    def both(value, numbers):
        center, spread = likelihood.center_and_spread(error, numbers, value)
        spread = jnp.broadcast_to(spread, jnp.shape(value))
        return center, jnp.log(spread)

    values, one = jnp.asarray(predicted), jnp.ones_like(jnp.asarray(predicted))
    numbers = {key: jnp.asarray(float(value)) for key, value in sigma.items()}
    still = {key: jnp.zeros(()) for key in numbers}
    (center, log_spread), (by_value, spread_by_value) = jax.jvp(both, (values, numbers), (one, still))
    by_sigma = {key: np.asarray(jax.jvp(both, (values, numbers), (0 * one, still | {key: jnp.ones(())}))[1][1])
                for key in numbers}
    return (np.asarray(center), np.exp(np.asarray(log_spread)), np.asarray(by_value), np.asarray(spread_by_value),
            by_sigma)


def _point_program(lay: Layout) -> Callable[[Any], Point]:
    names, first = list(lay.columns), len(lay.estimate)
    count = len(lay.scales) + len(lay.correlations)
    places = np.array([names.index(name) for name in lay.correlated], int)

    def covariance(z):
        population, factor = population_values(lay, z), jnp.eye(len(names))
        if lay.correlated:
            head = dict(zip(lay.population, z, strict=True))
            factor = factor.at[np.ix_(places, places)].set(correlation_factor(lay, head))
        root = jnp.array([population[f"omega_{name}"] for name in names]).reshape(-1, 1) * factor
        return root @ root.T

    def errors(z):
        population = population_values(lay, z)
        return {name: population[name] for name in lay.errors}

    @jax.jit
    def point(z) -> Point:
        slopes = jax.jacfwd(errors)(z)
        turns = jnp.moveaxis(jax.jacfwd(covariance)(z), -1, 0)[first:first + count]
        return Point(population_values(lay, z),
                     {name: slope[lay.population.index(name)] for name, slope in slopes.items()}, covariance(z), turns)

    return lambda z: jax.tree.map(np.asarray, point(jnp.asarray(z, float)))


def make_survey(spec: FitSpec, plan: Plan, design: Design | None = None, draws: int = DRAWS,
                additions: bool = True, points: Float[np.ndarray, "point coordinate"] | None = None) -> Survey:
    """Everything that a plan measures and, with `additions`, could measure: other observables at the same visits, and
    the same observables on further days.

    Args:
        points: like those that will be asked for; by default draws of the prior.
    """
    lay = layout(spec, ())
    assays: dict[str, tuple[ErrorModel, Mapping[str, float] | None]]
    assays = {name: (error, None) for name, error in spec.likelihood.items()}
    if additions:
        assays |= {name: _assumed(name, design) for name in spec.model.observables if name not in assays}
    days = _candidate_days(spec, plan) if additions else ()
    names, rows = list(assays), []
    visits = [sorted({t for times in group.times.values() for t in times} | set(days)) or [spec.model.start]
              for group in plan.groups]
    sets: dict[str, set[int]] = {}
    for g, group in enumerate(plan.groups):
        measured = sorted({t for times in group.times.values() for t in times})
        for o, name in enumerate(names):
            own = group.times.get(name, ()) if name in spec.likelihood else ()
            rows += [(g, visits[g].index(t), o, True) for t in own]
            if name not in spec.likelihood:
                sets.setdefault(name, set()).update(range(len(rows), len(rows) + len(measured)))
                rows += [(g, visits[g].index(t), o, False) for t in measured]
            else:
                for day in days if measured else ():
                    sets.setdefault(f"visit on day {day:g}", set()).add(len(rows))
                    rows.append((g, visits[g].index(day), o, False))
    schedule = solving.stack([solving.plan(spec.model, group.doses, group.covariates, times)
                              for group, times in zip(plan.groups, visits, strict=True)])
    program = slopes_program(spec, lay, schedule, names,
                             _prior_draws(lay, max(draws, 1)) if points is None else points)
    columns = np.array(rows, int).reshape(-1, 4).T
    return Survey(spec, lay, plan.groups, assays, plan.limits, columns[0], columns[1], columns[2],
                  columns[3].astype(bool), {what: frozenset(mine) for what, mine in sets.items()},
                  _remembered(program), _remembered(_point_program(lay)))


def _remembered(program: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    """The program, keeping its last answer: many questions are asked of one point."""
    last: dict[bytes, Any] = {}

    def ask(z: np.ndarray) -> Any:
        key = np.asarray(z).tobytes()
        if key not in last:
            last.clear()
            last[key] = jax.tree.map(np.asarray, program(z))
        return last[key]

    return ask


def _assumed(name: str, design: Design | None) -> tuple[ErrorModel, Mapping[str, float]]:
    """The error of an observable that the spec has no likelihood for: the design's, else lognormal."""
    if design is not None and name in design.assays:
        assay = design.assays[name]
        return ErrorModel(name, assay.family, {}, {}, assay.offset, assay.df), dict(assay.parameters)
    return ErrorModel(name, "lognormal", {}, {}, 0.0, 0.0), {"log_sd": ADDED_LOG_SD}


def _candidate_days(spec: FitSpec, plan: Plan) -> tuple[float, ...]:
    """Middles of the widest gaps between the days on which anybody is seen, by their ratio."""
    days = sorted({round(t) for group in plan.groups for times in group.times.values() for t in times})
    start = spec.model.start
    gaps = [(b - start + 1) / (a - start + 1) for a, b in zip(days, days[1:], strict=False)]
    widest = sorted(np.argsort(gaps)[::-1][:MOST_DAYS]) if gaps else []
    middles = [float(round(math.sqrt((days[k] - start + 1) * (days[k + 1] - start + 1)) + start - 1)) for k in widest]
    return tuple(day for day in dict.fromkeys(middles) if day not in days)


# --- profiles ------------------------------------------------------------------------------------------------


def profile_all(spec_path: str | Path, names: Sequence[str], data_path: str | Path | None = None) -> list[Profile]:
    """Profiles of the log posterior density of a spec with its data, random effects maximised over like the rest and
    their spreads held at the prior's median.

    Raises:
        InputError: no data, or a name that the fit does not estimate.
    """
    spec = load_fit_spec(spec_path)
    known = [name for name in layout(spec, ()).population if not name.startswith(HELD)]
    faults = [Fault(f"--profile {name}", f"not a typical value, effect or error of the spec{closest(name, known)}",
                    f"one of: {', '.join(known)}") for name in names if name not in known]
    if faults:
        raise InputError(faults)
    data, _ = load_study(spec, data_path)
    posterior = make_posterior(spec, data)
    return [profile(posterior, name) for name in names]


# --- what people read ----------------------------------------------------------------------------------------

_WORTH = 0.05  # an addition is told of where it takes this share off a parameter's expected SD


def warnings(found: Identifiability) -> list[str]:
    """What a fit would leave as it was, in sentences."""
    lines = [str(tie) for tie in (*found.silent, *found.loose)]
    told = {name for tie in found.silent for name in tie.names}
    kept = [found.names[k] for k in found.structural if found.contraction[k] > 0.95 and found.names[k] not in told]
    return lines + ([f"hardly more than the prior is learned about {', '.join(kept)}"] if kept else [])


def summary(found: Identifiability) -> str:
    """How many directions of the typical values and covariate effects are learned."""
    own = found.typical[np.ix_(found.structural, found.structural)]
    outweighed = int(np.sum(np.linalg.eigvalsh(own) > 1))
    return (f"of {len(own)} directions of the parameters {info.rank(own)} are seen at all; in {outweighed} of them the "
            "study is expected to say more than the prior")


def contraction_rows(found: Identifiability) -> list[dict[str, str]]:
    """Expected posterior SD over prior SD, parameter by parameter."""
    drawn = found.drawn_contraction
    rows = []
    for k, name in enumerate(found.names):
        row = {"name": name, "SD kept": f"{found.contraction[k]:.2f}"}
        if len(drawn):
            low, middle, high = np.quantile(drawn[:, k], (0.05, 0.5, 0.95))
            row["over the prior"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rows.append(row)
    return rows


def addition_rows(found: Identifiability) -> list[dict[str, str]]:
    """What each added measurement would teach, the parameters that gain most first."""
    rows = []
    for what, with_it in found.additions.items():
        gain = 1 - with_it / found.contraction
        best = [k for k in np.argsort(-gain) if gain[k] >= _WORTH]
        told = ", ".join(f"{found.names[k]} {found.contraction[k]:.2f} to {with_it[k]:.2f}" for k in best)
        rows.append({"added": what, "SD kept falls": told or "nothing by 5% or more"})
    return rows


def addition_table(found: Identifiability) -> pd.DataFrame:
    """Contraction of every parameter as planned and with each addition."""
    columns = {"name": found.names, "prior": np.ones(len(found.names)), "as planned": found.contraction}
    return pd.DataFrame(columns | dict(found.additions))


def as_json(found: Identifiability, profiled: Sequence[Profile] = ()) -> str:
    """Everything, for programs; infinite or missing numbers as null."""
    own = found.typical[np.ix_(found.structural, found.structural)]
    values, vectors = np.linalg.eigh(own)
    drawn = found.drawn_contraction
    content = {
        "title": found.title, "simulated": found.simulated, "plan": found.source, "method": found.method,
        "names": found.names, "prior_information": found.prior, "information": found.typical,
        "contraction": dict(zip(found.names, found.contraction, strict=True)),
        "contraction_over_prior": {name: drawn[:, k] for k, name in enumerate(found.names)},
        "prior_draws": {"asked": found.asked, "solved": len(drawn)},
        "rank": info.rank(own), "directions_beyond_prior": int(np.sum(values > 1)),
        "directions": [{"information": value, "parts": {found.names[k]: part for k, part in
                                                        zip(found.structural, vector, strict=True)}}
                       for value, vector in zip(values, vectors.T, strict=True)],
        "warnings": warnings(found),
        "additions": {what: dict(zip(found.names, one, strict=True)) for what, one in found.additions.items()},
        "profiles": [one.__dict__ for one in profiled]}
    return json.dumps(_plain(content), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
