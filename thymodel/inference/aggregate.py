"""Published cohorts as likelihood: what a group's summary says of the parameters, through virtual people like it.

A cohort's people are fixed quasi-random nodes of the random effects and of the cohort's covariates, the same under
every draw. Over them the spread of an observation is the **total** variance, Var_eta(E[y|eta]) + E_eta[Var(y|eta)];
never the residual variance at the population mean, which leaves out that people differ.

Every continuous figure is, to first order, an average over the same n people of an influence function psi: y - E[y]
for a mean, (y - E[y])**2 - Var[y] for a squared SD, 1{y <= q} - F(q) for a quantile or a share below a limit. The
figures of a cohort are therefore jointly normal with the covariance of their psi over n, by the same law of total
variance: across days and markers through the nodes, within one observation through its error as well. Figures of
different n share the fewer people, who are among the more. Each is taken on the scale on which it is nearest to normal:

* a mean under an error on the natural scale: as it is; under one on the log scale: its log, whose two moments are those
  of a lognormal (Fenton 1960, IRE Trans Commun Syst 8:57);
* a geometric mean: its log;
* an SD, or the SD of logs that a geometric CV stands for: s**(2/3), whose chi-square has the degrees of freedom of
  Var(s**2) = (mu4 - s**4 (n - 3)/(n - 1))/n (Wilson & Hilferty 1931, PNAS 17:684; n - 1 where normal);
* a median or quartile q: the logit of F(q), which is that of its level but for a variance of 1/(n p (1 - p))
  (order statistics: van der Vaart 1998, Asymptotic Statistics, corollary 21.5, and the delta method);
* a share below a limit, with five people or more on either side: its logit, likewise.

Apart from these, and taken as independent of them: least and greatest value, by their joint density (David & Nagaraja
2003, Order Statistics, section 2.2; asymptotically independent of the middle, section 10.3); a share with fewer on a
side, and shares beside a mean of the same values, binomial; cumulative incidence, stretch by stretch binomial among
those at risk (as in a life table). A median of which only a bound is printed is censored: the probability that the
median of such a cohort lies on that side, from the same normal distribution of logits as that of a median.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, log_ndtr, logsumexp
from jaxtyping import Array, Float, Int
from scipy import stats

from thymodel.documents.measurement import ON_LOG_SCALE, ErrorModel
from thymodel.documents.published import MOST_JOINED, Cohort, Curve, Figure, Spread
from thymodel.documents.spec import FitSpec
from thymodel.dynamics import solving
from thymodel.dynamics.solving import Schedule
from thymodel.inference.likelihood import center_and_spread, log_between, log_cdf, standardise
from thymodel.inference.likelihood import log_likelihood as log_density_of
from thymodel.inference.population import error_name

_FEWEST, _MOST = 256, 1024  # nodes of a cohort
_PER_PERSON = 4  # nodes: their error is then a small part of the sampling error of the cohort itself
_RIDGE = 1e-10  # on a correlation matrix, for rounding
_LEAST = 1e-300
_REACH = 40.0  # spreads of the error, beyond which no figure is looked for
_CLIP = 1e-12  # of a hazard, so that its logarithm is finite

JOINED = ("mean", "sd", "geometric_mean", "geometric_sd", "below")  # `below`: quantiles and shares


class People(NamedTuple):
    """Virtual people of all cohorts: standard normal random effects, and the number of each one's study."""

    standard: Float[Array, "person effect"]
    study: Int[Array, " person"]


class Numbers(NamedTuple):
    """What was published of one group of figures: `at` is the value, or the limit of a share; `level` that of a
    quantile, or the share."""

    at: Float[Array, " figure"]
    level: Float[Array, " figure"]
    n: Float[Array, " figure"]


class Seen(NamedTuple):
    """The published numbers of a cohort, group by group as in its `Plan`."""

    joined: tuple[Numbers, ...]
    ranges: tuple[Numbers, ...]
    shares: tuple[Numbers, ...]
    curves: tuple[Numbers, ...]


@dataclass(frozen=True)
class Group:
    """Figures of one kind and observable: their visits, and the rows of the file that they come from."""

    kind: str
    observable: str
    visits: tuple[int, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Plan:
    """What is asked of a cohort: `first` to `last` are its virtual people among all rows of the solver."""

    cohort: Cohort
    first: int
    last: int
    days: tuple[float, ...]
    joined: tuple[Group, ...]
    ranges: tuple[Group, ...]
    shares: tuple[Group, ...]

    def visits_until(self, curve: Curve) -> list[list[int]]:
        """Of each of a curve's days, the visits since the day before it."""
        found, begin = [], -math.inf
        for day in curve.days:
            found.append([self.days.index(visit) for visit in self.cohort.visits if begin < visit <= day])
            begin = day
        return found


# --- virtual people ------------------------------------------------------------------------------------------


def node_count(cohort: Cohort) -> int:
    """As the file says, or a power of two, four for each real person, so that the nodes' error stays small beside that
    of the cohort."""
    if cohort.virtual_people is not None:
        return cohort.virtual_people
    wanted = _PER_PERSON * max(cohort.size, 1.0)
    return int(min(max(2 ** math.ceil(math.log2(wanted)), _FEWEST), _MOST))


def normal_nodes(count: int, dimensions: int, seed: int) -> Float[np.ndarray, "node dimension"]:
    """Scrambled Sobol points as standard normals, each with its opposite, of mean 0 and covariance 1 exactly: linear
    models and their variances are integrated without error.

    Source: Owen 1997, Ann Stat 25:1541 (scrambling); Hickernell 1998, Math Comp 67:299, for the opposite points.
    """
    if dimensions == 0:
        return np.zeros((count, 0))
    uniform = stats.qmc.Sobol(dimensions, rng=np.random.default_rng(seed)).random(count // 2)
    half = stats.norm.ppf(np.clip(uniform, 1e-12, 1 - 1e-12))
    both = np.concatenate([half, -half])
    return np.linalg.solve(np.linalg.cholesky(both.T @ both / count), both.T).T


def covariate_nodes(spread: Spread, z: Float[np.ndarray, " node"]) -> Float[np.ndarray, " node"]:
    """A covariate of the cohort at standard normal nodes."""
    if spread.sd == 0:
        return np.full(len(z), spread.mean)
    if math.isinf(spread.sd):
        return spread.low + (spread.high - spread.low) * stats.norm.cdf(z)
    if math.isinf(spread.low) and math.isinf(spread.high):
        return spread.mean + spread.sd * z
    low, high = (spread.low - spread.mean) / spread.sd, (spread.high - spread.mean) / spread.sd
    return spread.mean + spread.sd * stats.truncnorm(low, high).ppf(stats.norm.cdf(z))


def make_people(spec: FitSpec,
                first: int) -> tuple[list[Schedule], tuple[People, tuple[Plan, ...], tuple[Seen, ...]]]:
    """The virtual people of all published cohorts, with a schedule each; `first` rows of the solver are patients."""
    schedules: list[Schedule] = []
    standard, study, plans, seen = [], [], [], []
    effects = spec.effect_count
    for cohort in (cohort for table in spec.published for cohort in table.cohorts):
        spread = [name for name, item in cohort.covariates.items() if item.sd]
        count = node_count(cohort)
        z = normal_nodes(count, effects + len(spread), zlib.crc32(cohort.name.encode()))
        column = dict(zip(spread, z[:, effects:].T, strict=True))
        own = {name: covariate_nodes(item, column.get(name, np.zeros(count))) for name, item in
               cohort.covariates.items()}
        plan = _plan(cohort, first + len(schedules), count)
        for k in range(count):
            courses = {name: ((spec.model.start, float(own[name][k]) if name in own else item.value),)
                       for name, item in spec.model.covariates.items()}
            schedules.append(solving.plan(spec.model, cohort.doses, courses, plan.days))
        standard.append(z[:, :effects])
        study += [spec.studies.index(cohort.study)] * count
        plans.append(plan)
        seen.append(_seen(plan))
    return schedules, (People(np.concatenate(standard), np.array(study)), tuple(plans), tuple(seen))


def _plan(cohort: Cohort, first: int, count: int) -> Plan:
    days = cohort.days
    groups: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in cohort.figures:
        where, kind = _place_of(figure, cohort)
        groups.setdefault((where, kind, figure.observable), []).append(figure)
    made = [(where, Group(kind, observable, tuple(days.index(f.day) for f in own), tuple(own)))
            for (where, kind, observable), own in groups.items()]
    return Plan(cohort, first, first + count, days,
                *(tuple(group for where, group in made if where == name) for name in ("joined", "ranges", "shares")))


def _place_of(figure: Figure, cohort: Cohort) -> tuple[str, str]:
    """Which of a cohort's terms a figure belongs to, and its kind there."""
    if figure.kind == "range":
        return "ranges", "range"
    if figure.kind == "bound":
        return "shares", "bound"
    if figure.kind != "fraction":
        return "joined", "below" if figure.kind == "quantile" else figure.kind
    beside = any(other.observable == figure.observable and other.day == figure.day
                 and other.kind in ("mean", "geometric_mean") for other in cohort.figures)
    few = min(figure.value, 1 - figure.value) * figure.n < MOST_JOINED
    return ("shares", "fraction") if beside or few else ("joined", "below")


def _seen(plan: Plan) -> Seen:
    def numbers(group: Group) -> Numbers:
        share = [figure.kind == "fraction" for figure in group.figures]
        at = [f.other if s else f.value for f, s in zip(group.figures, share, strict=True)]
        level = [f.value if s else f.other for f, s in zip(group.figures, share, strict=True)]
        return Numbers(np.array(at), np.array(level), np.array([f.n for f in group.figures]))

    curves = tuple(Numbers(np.full(len(c.days), c.threshold), np.array(c.incidence), np.array(c.at_risk))
                   for c in plan.cohort.curves)
    return Seen(tuple(map(numbers, plan.joined)), tuple(map(numbers, plan.ranges)), tuple(map(numbers, plan.shares)),
                curves)


# --- what a person's observation is distributed like ---------------------------------------------------------


class Moments(NamedTuple):
    """Mean and central moments of an observation, given the person; arrays (figure, node)."""

    mean: Array
    second: Array
    third: Array
    fourth: Array


def moments(error: ErrorModel, sigma: Mapping[str, Array], prediction) -> Moments:
    """On the natural scale.

    Source: lognormal: Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions, chapter 14.
    """
    center, spread = center_and_spread(error, sigma, prediction)
    if error.family not in ON_LOG_SCALE:
        return Moments(center, spread**2, jnp.zeros_like(center), 3 * spread**4)
    mean, less = jnp.exp(center + 0.5 * spread**2), jnp.expm1(spread**2)
    w = jnp.exp(spread**2) * jnp.ones_like(center)
    return Moments(mean - error.offset, mean**2 * less, mean**3 * less**2 * (w + 2),
                   mean**4 * less**2 * (w**4 + 2 * w**3 + 3 * w**2 - 3))


def log_moments(error: ErrorModel, sigma: Mapping[str, Array], prediction) -> Moments:
    """Of the log of an observation, for errors on the log scale."""
    center, spread = center_and_spread(error, sigma, prediction)
    second = spread**2 * jnp.ones_like(center)
    kurtosis = 3.0
    if error.family == "student_t":
        second = second * error.df / (error.df - 2)
        kurtosis = 3 * (error.df - 2) / (error.df - 4) if error.df > 4 else math.nan  # only an SD asks for it
    return Moments(center, second, jnp.zeros_like(center), kurtosis * second**2)


class Terms(NamedTuple):
    """Figures of one group under the parameters. `influence` is E[psi | person] (figure, node), `within` the mean of
    Var(psi | person); then outcome, centre and spread on the figure's own scale, and the log of that scale's slope."""

    influence: Array
    within: Array
    outcome: Array
    center: Array
    spread: Array
    log_slope: Array


def _terms(group: Group, error: ErrorModel, sigma, prediction, seen: Numbers) -> Terms:
    if group.kind == "below":
        is_share = np.array([figure.kind == "fraction" for figure in group.figures])
        return _below_terms(error, sigma, prediction, seen, is_share)
    of_logs = group.kind.startswith("geometric")
    own = (log_moments if of_logs else moments)(error, sigma, prediction)
    if group.kind in ("sd", "geometric_sd"):
        return _sd_terms(own, seen)
    return _mean_terms(own, of_logs, error.family in ON_LOG_SCALE, seen)


def _total(own: Moments):
    """Mean over all people, each person's distance from it, and the total variance."""
    mean = jnp.mean(own.mean, axis=1)
    away = own.mean - mean[:, None]
    return mean, away, jnp.mean(away**2 + own.second, axis=1)


def _mean_terms(own: Moments, of_logs: bool, positive: bool, seen: Numbers) -> Terms:
    mean, away, variance = _total(own)
    within = jnp.mean(own.second, axis=1)
    if of_logs:
        return Terms(away, within, jnp.log(seen.at), mean, jnp.sqrt(variance / seen.n), -jnp.log(seen.at))
    if not positive:
        return Terms(away, within, seen.at, mean, jnp.sqrt(variance / seen.n), jnp.zeros_like(mean))
    square = jnp.log1p(variance / seen.n / mean**2)
    return Terms(away, within, jnp.log(seen.at), jnp.log(mean) - 0.5 * square, jnp.sqrt(square), -jnp.log(seen.at))


def _sd_terms(own: Moments, seen: Numbers) -> Terms:
    _, away, variance = _total(own)
    influence = away**2 + own.second - variance[:, None]
    within = jnp.mean(own.fourth - own.second**2 + 4 * away * own.third + 4 * away**2 * own.second, axis=1)
    square = (jnp.mean(influence**2, axis=1) + within) / variance**2 + 2 / (seen.n - 1)
    df = 2 * seen.n / square
    middle, width, third = 1 - 2 / (9 * df), jnp.sqrt(2 / (9 * df)), variance ** (1 / 3)
    return Terms(influence, within, seen.at ** (2 / 3), third * middle, third * width,
                 math.log(2 / 3) - jnp.log(seen.at) / 3)


def _below_terms(error: ErrorModel, sigma, prediction, seen: Numbers, is_share: np.ndarray) -> Terms:
    """Quantiles and shares: both say of a place `at` that a share `level` of people lies below it."""
    given = _log_below(error, sigma, prediction, seen.at)
    below, beyond = (_over_people(part) for part in given)
    conditional, odds = jnp.exp(given[0]), seen.level * (1 - seen.level)
    density = _over_people(log_density_of(error, sigma, prediction, seen.at[:, None], None, None))
    slope = jnp.where(is_share, -jnp.log(odds * seen.n), density - below - beyond)  # a share is one of n + 1 steps
    return Terms(conditional - jnp.exp(below)[:, None], jnp.mean(conditional * jnp.exp(given[1]), axis=1),
                 jnp.log(seen.level) - jnp.log1p(-seen.level), below - beyond, 1 / jnp.sqrt(seen.n * odds), slope)


def _log_below(error: ErrorModel, sigma, prediction, at):
    """log P(y < at | person) and log P(y > at | person); arrays (figure, node)."""
    center, spread, place, _ = standardise(error, sigma, prediction)
    z = (place(at)[:, None] - center) / spread
    return log_cdf(error, z), log_cdf(error, -z)


def _over_people(log_values):
    """Log of the mean over nodes."""
    return logsumexp(log_values, axis=1) - math.log(log_values.shape[1])


# --- figures together ----------------------------------------------------------------------------------------


class Joint(NamedTuple):
    """All joined figures of a cohort: outcome, centre and spread on their scales, log slopes, and correlations."""

    outcome: Float[Array, " figure"]
    center: Float[Array, " figure"]
    spread: Float[Array, " figure"]
    log_slope: Float[Array, " figure"]
    correlation: Float[Array, "figure figure"]


def joint(spec: FitSpec, plan: Plan, seen: Seen, population: Mapping[str, Array],
          observed: Float[Array, "person visit observable"]) -> Joint:
    """The joined figures of a cohort under the parameters; `observed` are its virtual people."""
    terms = []
    for group, own in zip(plan.joined, seen.joined, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        terms.append(_terms(group, error, sigma, prediction, own))
    influence = jnp.concatenate([term.influence for term in terms])
    within = jnp.concatenate([term.within for term in terms])
    covariance = influence @ influence.T / influence.shape[1]
    pairs = _same_observation(spec, plan, seen, population, observed)
    if pairs:
        rows, columns, values = zip(*pairs, strict=True)
        some = jnp.stack(values)
        covariance = covariance.at[np.array(rows), np.array(columns)].add(some)
        covariance = covariance.at[np.array(columns), np.array(rows)].add(some)
    scale = jnp.sqrt(jnp.maximum(jnp.diag(covariance) + within, _LEAST))
    n = jnp.concatenate([own.n for own in seen.joined])
    shared = jnp.sqrt(jnp.minimum(n[:, None], n) / jnp.maximum(n[:, None], n))
    off = covariance / scale[:, None] / scale * shared
    correlation = jnp.where(np.eye(len(scale), dtype=bool), 1.0 + _RIDGE, off)
    return Joint(jnp.concatenate([term.outcome for term in terms]), jnp.concatenate([term.center for term in terms]),
                 jnp.concatenate([term.spread for term in terms]), jnp.concatenate([term.log_slope for term in terms]),
                 correlation)


def _predicted(spec: FitSpec, group: Group, population, observed) -> tuple[ErrorModel, dict[str, Array], Array]:
    """Error model, its parameters, and predictions (figure, node) of a group."""
    error = spec.likelihood[group.observable]
    sigma = {key: population[error_name(group.observable, key)] for key in error.parameters}
    return error, sigma, observed[:, np.array(group.visits), list(spec.likelihood).index(group.observable)].T


def _same_observation(spec: FitSpec, plan: Plan, seen: Seen, population,
                      observed) -> list[tuple[int, int, Array]]:
    """Pairs of figures of one observable on one day, with the mean of Cov(psi, psi' | person)."""
    found: list[tuple[int, int, Array]] = []
    begins = np.cumsum([0, *(len(group.figures) for group in plan.joined)])[:-1].tolist()
    for group, own, first in zip(plan.joined, seen.joined, begins, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        if group.kind == "below":
            found += _below_pairs(group, error, sigma, prediction, own, first)
        if group.kind in ("mean", "geometric_mean"):
            partner = group.kind.replace("mean", "sd")
            for other, second in zip(plan.joined, begins, strict=True):
                if (other.kind, other.observable) == (partner, group.observable):
                    found += _mean_sd_pairs(group, other, error, sigma, prediction, first, second)
    return found


def _below_pairs(group: Group, error: ErrorModel, sigma, prediction, seen: Numbers,
                 first: int) -> list[tuple[int, int, Array]]:
    count = len(group.figures)
    together = [(i, j) for j in range(count) for i in range(j) if group.visits[i] == group.visits[j]]
    if not together:
        return []
    one, other = np.array(together).T
    low, high = jnp.minimum(seen.at[one], seen.at[other]), jnp.maximum(seen.at[one], seen.at[other])
    below = _log_below(error, sigma, prediction[one], low)[0]
    beyond = _log_below(error, sigma, prediction[one], high)[1]
    values = jnp.mean(jnp.exp(below + beyond), axis=1)  # F(low) (1 - F(high)), given the person
    return [(first + i, first + j, values[k]) for k, (i, j) in enumerate(together)]


def _mean_sd_pairs(group: Group, other: Group, error: ErrorModel, sigma, prediction, first: int,
                   second: int) -> list[tuple[int, int, Array]]:
    own = (log_moments if group.kind != "mean" else moments)(error, sigma, prediction)
    _, away, _ = _total(own)
    values = jnp.mean(own.third + 2 * away * own.second, axis=1)
    return [(first + i, second + other.visits.index(visit), values[i]) for i, visit in enumerate(group.visits)
            if visit in other.visits]


# --- log likelihood ------------------------------------------------------------------------------------------


def log_likelihood(spec: FitSpec, plans: Sequence[Plan], seen: Sequence[Seen], population: Mapping[str, Array],
                   observed: Float[Array, "row visit observable"]) -> list[Float[Array, ""]]:
    """Of each cohort's figures together.

    Args:
        observed: all rows of the solver; the plans know which are whose.
    """
    found = []
    for plan, own in zip(plans, seen, strict=True):
        mine = observed[plan.first:plan.last]
        total = _log_apart(spec, plan, own, population, mine)
        terms = [jnp.sum(term) for term in total.values()]
        if plan.joined:
            terms.append(_log_joint(joint(spec, plan, own, population, mine)))
        found.append(sum(terms, jnp.asarray(0.0)))
    return found


def _log_joint(own: Joint):
    factor = jnp.linalg.cholesky(own.correlation)
    whitened = jax.scipy.linalg.solve_triangular(factor, (own.outcome - own.center) / own.spread, lower=True)
    logs = jnp.sum(jnp.log(jnp.diag(factor))) + jnp.sum(jnp.log(own.spread) - own.log_slope)
    return -0.5 * jnp.sum(whitened**2) - logs - 0.5 * len(own.outcome) * math.log(2 * math.pi)


def log_likelihood_by_row(spec: FitSpec, plan: Plan, seen: Seen, population: Mapping[str, Array],
                          observed: Float[Array, "person visit observable"]) -> dict[int, Array]:
    """Row of the file -> log likelihood of its figures, each by itself: for a table of what fits and what does not.
    Those of a cohort do not add up to its joint one."""
    parts: list[tuple[int, Array]] = []
    if plan.joined:
        own = joint(spec, plan, seen, population, observed)
        alone = (-0.5 * ((own.outcome - own.center) / own.spread) ** 2 - jnp.log(own.spread) + own.log_slope
                 - 0.5 * math.log(2 * math.pi))
        rows = [figure.row for group in plan.joined for figure in group.figures]
        parts += [(row, alone[k]) for k, row in enumerate(rows)]
    parts += [(row, term) for (row, _), term in _log_apart(spec, plan, seen, population, observed).items()]
    found: dict[int, Array] = {}
    for row, term in parts:
        found[row] = found.get(row, jnp.asarray(0.0)) + term
    return found


def _log_apart(spec: FitSpec, plan: Plan, seen: Seen, population, observed) -> dict[tuple[int, int], Array]:
    """(row, number) -> log likelihood of what is independent of the joined figures."""
    found: dict[tuple[int, int], Array] = {}
    for group, own in zip(plan.ranges, seen.ranges, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        values = _log_range(error, sigma, prediction, own)
        found |= {(figure.row, 1): values[k] for k, figure in enumerate(group.figures)}
    for group, own in zip(plan.shares, seen.shares, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        below, beyond = (_over_people(part) for part in _log_below(error, sigma, prediction, own.at))
        bounded = group.kind == "bound"
        values = (log_ndtr(own.level * _median_distance(own.n, below, beyond)) if bounded
                  else _log_binomial(own.level, own.n, below, beyond))
        found |= {(figure.row, 2): values[k] for k, figure in enumerate(group.figures)}
    for curve, own in zip(plan.cohort.curves, seen.curves, strict=True):
        values = _log_curve(spec, plan, curve, own, population, observed)
        found |= {(row, 3): values[k] for k, row in enumerate(curve.rows)}
    return found


def _log_range(error: ErrorModel, sigma, prediction, own: Numbers):
    """Log density of the least (`at`) and the greatest (`level`) of n values."""
    ends = [_over_people(log_density_of(error, sigma, prediction, end[:, None], None, None))
            for end in (own.at, own.level)]
    center, spread, place, _ = standardise(error, sigma, prediction)
    low, high = ((place(end)[:, None] - center) / spread for end in (own.at, own.level))
    inside = _over_people(log_between(error, low, high))
    return jnp.log(own.n * (own.n - 1)) + ends[0] + ends[1] + (own.n - 2) * inside


def _median_distance(n, log_below, log_beyond):
    """How far a cohort's median is expected above a place, in SDs of its logit, 2/sqrt(n) (see the top of the file)."""
    return 0.5 * jnp.sqrt(n) * (log_beyond - log_below)


def _log_binomial(share, n, log_p, log_q):
    """Log probability of a share among n, where n need not be whole: people counted elsewhere were taken off."""
    hits, misses = share * n, (1 - share) * n
    return (gammaln(n + 1) - gammaln(hits + 1) - gammaln(misses + 1)
            + jnp.where(hits > 0, hits * log_p, 0.0) + jnp.where(misses > 0, misses * log_q, 0.0))


def crossed(spec: FitSpec, plan: Plan, curve: Curve, threshold, population, observed) -> Float[Array, " day"]:
    """P(above the threshold at so many visits in a row by each day of the curve); visits of one person are independent
    given the person."""
    error = spec.likelihood[curve.observable]
    sigma = {key: population[error_name(curve.observable, key)] for key in error.parameters}
    place, reached = list(spec.likelihood).index(curve.observable), []
    run = [jnp.ones(observed.shape[0])] + [jnp.zeros(observed.shape[0])] * (curve.consecutive - 1)
    done = jnp.zeros(observed.shape[0])
    for visits in plan.visits_until(curve):
        for visit in visits:
            low, high = _log_below(error, sigma, observed[:, visit, place][None], jnp.reshape(threshold, (1,)))
            below, above = jnp.exp(low[0]), jnp.exp(high[0])
            done = done + above * run[-1]
            run = [below * sum(run, jnp.zeros_like(below)), *(above * length for length in run[:-1])]
        reached.append(jnp.mean(done))
    return jnp.stack(reached)


def _log_curve(spec: FitSpec, plan: Plan, curve: Curve, own: Numbers, population, observed):
    reached = crossed(spec, plan, curve, own.at[0], population, observed)
    hazard, seen = _hazards(reached), _hazards(own.level)
    hazard = jnp.clip(hazard, _CLIP, 1 - _CLIP)
    return _log_binomial(seen, own.n, jnp.log(hazard), jnp.log1p(-hazard))


def _hazards(incidence):
    """Of those who had not crossed before a stretch, the share that does in it; 0 where nobody was left."""
    before = jnp.concatenate([jnp.zeros(1), incidence[:-1]])
    left = 1 - before
    return jnp.where(left > _CLIP, (incidence - before) / jnp.maximum(left, _CLIP), 0.0)


# --- new figures ---------------------------------------------------------------------------------------------


def draw_figures(spec: FitSpec, plan: Plan, seen: Seen, population: Mapping[str, Array],
                 observed: Float[Array, "person visit observable"], key) -> dict[tuple[int, str], Array]:
    """(row, key of the row) -> the figure that another cohort of this size would publish, each by itself.

    Keys are those of the rows: value, sd, cv, q25, q75, min, max; of a bound the median itself. Shares are normal about
    their expectation.
    """
    found: dict[tuple[int, str], Array] = {}
    keys = iter(jax.random.split(key, len(plan.joined) + len(plan.ranges) + len(plan.shares) + len(plan.cohort.curves)))
    for group, own in zip(plan.joined, seen.joined, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        term, noise = _terms(group, error, sigma, prediction, own), jax.random.normal(next(keys), own.n.shape)
        if group.kind == "below":
            odds = jnp.log(own.level) - jnp.log1p(-own.level)
            quantile = _quantile(error, sigma, prediction, jax.nn.sigmoid(odds + term.spread * noise))
            share = jax.nn.sigmoid(term.center + term.spread * noise)
            names = {0.25: "q25", 0.5: "value", 0.75: "q75"}
            found |= {(f.row, "value" if f.kind == "fraction" else names[f.other]):
                      (share if f.kind == "fraction" else quantile)[k] for k, f in enumerate(group.figures)}
            continue
        values = _back(group.kind, error.family in ON_LOG_SCALE, term.center + term.spread * noise)
        name = {"sd": "sd", "geometric_sd": "cv"}.get(group.kind, "value")
        found |= {(figure.row, name): values[k] for k, figure in enumerate(group.figures)}
    for group, own in zip(plan.ranges, seen.ranges, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        low, high = jax.random.uniform(next(keys), (2, len(group.figures)))
        ends = (_quantile(error, sigma, prediction, -jnp.expm1(jnp.log1p(-low) / own.n)),
                _quantile(error, sigma, prediction, high ** (1 / own.n)))
        for name, values in zip(("min", "max"), ends, strict=True):
            found |= {(figure.row, name): values[k] for k, figure in enumerate(group.figures)}
    for group, own in zip(plan.shares, seen.shares, strict=True):
        error, sigma, prediction = _predicted(spec, group, population, observed)
        if group.kind == "bound":
            odds = 2 / jnp.sqrt(own.n) * jax.random.normal(next(keys), own.n.shape)
            medians = _quantile(error, sigma, prediction, jax.nn.sigmoid(odds))
            found |= {(figure.row, "value"): medians[k] for k, figure in enumerate(group.figures)}
            continue
        share = jnp.exp(_over_people(_log_below(error, sigma, prediction, own.at)[0]))
        values = _about(share, own.n, next(keys))
        found |= {(figure.row, "value"): values[k] for k, figure in enumerate(group.figures)}
    for curve, own in zip(plan.cohort.curves, seen.curves, strict=True):
        values = _about(crossed(spec, plan, curve, own.at[0], population, observed), own.n, next(keys))
        found |= {(row, "value"): values[k] for k, row in enumerate(curve.rows)}
    return found


def _back(kind: str, positive: bool, scaled):
    """From a figure's own scale to the published one."""
    if kind in ("sd", "geometric_sd"):
        sd = jnp.maximum(scaled, 0.0) ** 1.5
        return sd if kind == "sd" else jnp.sqrt(jnp.expm1(sd**2))
    return jnp.exp(scaled) if positive else scaled


def _about(share, n, key):
    return jnp.clip(share + jnp.sqrt(share * (1 - share) / n) * jax.random.normal(key, share.shape), 0.0, 1.0)


def _quantile(error: ErrorModel, sigma, prediction, level):
    """The value below which a share `level` of people lies, by halving; arrays (figure,)."""
    center, spread = center_and_spread(error, sigma, prediction)
    spread = spread * jnp.ones_like(center)
    low, high = (jnp.min(center - _REACH * spread, axis=1), jnp.max(center + _REACH * spread, axis=1))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        below = jnp.mean(jnp.exp(log_cdf(error, (middle[:, None] - center) / spread)), axis=1) < level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    middle = 0.5 * (low + high)
    return jnp.exp(middle) - error.offset if error.family in ON_LOG_SCALE else middle
