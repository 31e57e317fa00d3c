"""Typical values, covariates and random effects -> the parameters of each subject.

Every unknown of a fit is a standard normal coordinate of one vector z, mapped to its natural value by the prior's
quantile function; only correlations have a density of their own. `Layout` says which coordinate is what.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from thymodel.documents.borrowed import Borrowed
from thymodel.documents.measurement import SharedError
from thymodel.documents.priors import Prior
from thymodel.documents.spec import FitSpec, MissingCovariate
from thymodel.errors import Fault, InputError
from thymodel.inference import borrowing


def quantiles(priors: Sequence[Prior], z: Float[Array, " n"]) -> list[Array]:
    """Of each prior, the parameter whose prior probability below it is Phi(z).

    Priors of one family are computed as one array: a program of many small ones takes seconds to compile.
    Source: probability integral transform; the upper tails are written through Phi(-z) so that no digit is lost.
    """
    found: dict[int, Array] = {}
    for family in dict.fromkeys(prior.family for prior in priors):
        mine = [k for k, prior in enumerate(priors) if prior.family == family]
        numbers = {key: np.array([priors[k].numbers[key] for k in mine]) for key in priors[mine[0]].numbers}
        found |= dict(zip(mine, _quantile(family, numbers, z[np.array(mine)]), strict=True))
    return [found[k] for k in range(len(priors))]


def quantile(prior: Prior, z):
    """`quantiles` of one prior."""
    return quantiles([prior], jnp.asarray(z, float)[None])[0]


def _quantile(family: str, n: Mapping[str, np.ndarray], z):
    match family:
        case "lognormal":
            return n["median"] * jnp.exp(n["sd"] * z)
        case "logitnormal":
            return jax.nn.sigmoid(np.log(n["median"] / (1 - n["median"])) + n["sd"] * z)
        case "normal":
            return n["mean"] + n["sd"] * z
        case "truncnormal":
            low, high = (n["lower"] - n["mean"]) / n["sd"], (n["upper"] - n["mean"]) / n["sd"]
            return n["mean"] + n["sd"] * _truncated_normal(z, low, high)
        case "halfnormal":
            return n["sd"] * _half_normal(z)
        case "halfcauchy":
            return n["scale"] / jnp.tan(0.5 * jnp.pi * ndtr(-z))
        case "exponential":
            return -n["mean"] * jax.scipy.special.log_ndtr(-z)
        case "uniform":
            return n["lower"] + (n["upper"] - n["lower"]) * ndtr(z)
    raise ValueError(f"{family} is not the prior of one number")


@jax.custom_jvp
def _half_normal(z):
    """u with 2 Phi(u) - 1 = Phi(z)."""
    return -ndtri(0.5 * ndtr(-z))


@_half_normal.defjvp
def _half_normal_slope(primals, tangents):
    """du/dz is the ratio of the densities: the derivative of `ndtri` is a program ten times as long."""
    u = _half_normal(primals[0])
    return u, 0.5 * jnp.exp(0.5 * (u - primals[0]) * (u + primals[0])) * tangents[0]


def _truncated_normal(z, low, high):
    # mirrored where that takes the smaller of the two tail probabilities: those near 1 have lost their digits
    mirror = jnp.where(low > 0, True, jnp.where(high < 0, False, z > 0))
    side, first, last = jnp.where(mirror, -1.0, 1.0), jnp.where(mirror, -high, low), jnp.where(mirror, -low, high)
    return side * ndtri(ndtr(first) + ndtr(side * z) * (ndtr(last) - ndtr(first)))


# --- the vector z --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Names of the coordinates of z, block by block; what each subject has of its own comes last, subject by subject:
    `columns`, the random effects and then the covariates that may be missing.

    `stated` are random effects whose SD the spec states, `covariates` priors of the distributions of covariates that
    may be missing, `known` the values of all that is stated in place of a prior.
    """

    estimate: Mapping[str, Prior]
    scales: Mapping[str, Prior]
    correlated: tuple[str, ...]
    correlation_shape: float
    effects: Mapping[str, Prior]
    errors: Mapping[str, Prior]
    subjects: tuple[str, ...]
    shared_errors: tuple[SharedError, ...] = ()
    across: Mapping[str, Prior] = field(default_factory=dict)
    study_scales: Mapping[str, Prior] = field(default_factory=dict)
    studies: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    covariates: Mapping[str, Prior] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    borrowed: Borrowed | None = None  # another joint prior of some coordinates
    study: tuple[int, ...] = ()  # of each subject, -1 where none is told; empty where no study effect is
    occasion_scales: Mapping[str, Prior] = field(default_factory=dict)
    shifts: Mapping[str, str] = field(default_factory=dict)  # `occasion_shifts` of the spec

    @property
    def spreads(self) -> dict[str, str]:
        """Each random effect, and then those of each occasion -> the name of its SD, which has a prior or is stated."""
        return {name: f"omega_{name}" for name in (*self.scales, *self.stated)} | {
            own: f"gamma_{name}" for own, name in self.shifts.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.spreads, *map(missing_name, self.missing))

    @property
    def priors(self) -> dict[str, Prior]:
        """Of every population parameter that has one of its own: correlations and study effects are distributed."""
        return {**self.estimate, **{f"omega_{name}": prior for name, prior in self.scales.items()},
                **{f"beta_{name}": prior for name, prior in self.effects.items()}, **self.errors,
                **{f"beta_across_{name}": prior for name, prior in self.across.items()},
                **{f"tau_{name}": prior for name, prior in self.study_scales.items()},
                **{f"gamma_{name}": prior for name, prior in self.occasion_scales.items()}, **self.covariates}

    @property
    def correlations(self) -> list[tuple[str, str]]:
        names = self.correlated
        return [(names[i], names[j]) for j in range(len(names)) for i in range(j)]

    @property
    def population(self) -> list[str]:
        """Names of the coordinates that are not random effects, in order."""
        return [*self.estimate, *(f"omega_{name}" for name in self.scales),
                *(f"corr_{a}_{b}" for a, b in self.correlations), *(f"beta_{name}" for name in self.effects),
                *self.errors, *(name for block in self.shared_errors for name in block.names),
                *(f"beta_across_{name}" for name in self.across), *(f"tau_{name}" for name in self.study_scales),
                *(study_name(name, study) for name in self.study_scales for study in self.studies),
                *(f"gamma_{name}" for name in self.occasion_scales), *self.covariates]

    @property
    def size(self) -> int:
        return len(self.population) + len(self.subjects) * len(self.columns)


def error_name(observable: str, key: str) -> str:
    """Name of a residual-error parameter: sigma_cd4, sigma_additive_cd4."""
    return f"sigma_{observable}" if key == "log_sd" else f"sigma_{key}_{observable}"


def effect_name(column: str) -> str:
    """Name of a column of random effects in a posterior: re_k, re_k_occasion_2."""
    return f"re_{column.replace('@', '_occasion_')}"


def study_name(effect: str, study: str) -> str:
    """Name of how far one study lies from the typical value: study_k_Kook1996."""
    return f"study_{effect}_{study}"


def missing_name(covariate: str) -> str:
    """Name of the values of a covariate where they are missing: missing_age."""
    return f"missing_{covariate}"


def layout(spec: FitSpec, subjects: tuple[str, ...], study: Sequence[str] = (), studies: Sequence[str] = ()) -> Layout:
    """The layout of a fit.

    Args:
        study: that of each subject, "" where none is told.
        studies: all of the data's; those of the subjects by default.

    Raises:
        InputError: the prior that it takes from another record has not been read.
    """
    if spec.prior_from is not None and spec.borrowed is None:
        raise InputError([Fault(f"{spec.path}: prior_from", "this command does not take priors from a record",
                                "leave prior_from out of the spec for it")])
    sds = {name: item.sd for name, item in spec.between_subject.items()}
    stated = {name: sd for name, sd in sds.items() if not isinstance(sd, Prior)}
    spread = {name: value for item in spec.missing_covariates.values() for name, value in item.numbers.items()}
    every = tuple(dict.fromkeys([*spec.studies, *(studies or filter(None, study))])) if spec.study_effects else ()
    return Layout(
        estimate={name: item.prior for name, item in spec.estimate.items()},
        scales={name: sd for name, sd in sds.items() if isinstance(sd, Prior)},
        correlated=spec.correlated, correlation_shape=spec.correlation_shape,
        effects={name: item.prior for name, item in spec.covariate_effects.items()},
        errors={error_name(observable, key): prior for observable, model in spec.likelihood.items()
                for key, prior in model.parameters.items()},
        subjects=subjects, shared_errors=spec.shared_errors,
        across={name: item.prior for name, item in spec.covariate_effects.items()
                if spec.published and not item.aggregate},
        study_scales={name: item.sd for name, item in spec.study_effects.items() if isinstance(item.sd, Prior)},
        studies=every, stated=tuple(stated), missing=tuple(spec.missing_covariates),
        covariates={name: value for name, value in spread.items() if isinstance(value, Prior)},
        known={f"omega_{name}": sd for name, sd in stated.items()}
        | {name: value for name, value in spread.items() if not isinstance(value, Prior)},
        borrowed=spec.borrowed,
        study=tuple(every.index(name) if name else -1 for name in study or [""] * len(subjects)) if every else (),
        occasion_scales={name: item.sd for name, item in spec.between_occasion.items() if isinstance(item.sd, Prior)},
        shifts=spec.occasion_shifts)


def population_values(lay: Layout, z: Float[Array, " coordinate"]) -> dict[str, Array]:
    """Natural values of the population block by name (`corr_a_b` as correlations), then what the spec states."""
    names = lay.population
    head = dict(zip(names, z, strict=False))
    priors = lay.priors
    places = np.array([names.index(name) for name in priors], int)
    values = dict(zip(priors, quantiles(list(priors.values()), z[places]), strict=True))
    if lay.correlated:
        factor = correlation_factor(lay, head)
        matrix = factor @ factor.T
        place = {name: k for k, name in enumerate(lay.correlated)}
        values |= {f"corr_{a}_{b}": matrix[place[a], place[b]] for a, b in lay.correlations}
    for block in lay.shared_errors:
        factor = _factor(len(block.observables), [head[name] for name in block.names])
        matrix = factor @ factor.T
        pairs = [(i, j) for j in range(len(block.observables)) for i in range(j)]
        values |= {name: matrix[i, j] for name, (i, j) in zip(block.names, pairs, strict=True)}
    for name in lay.study_scales:
        values |= {own: values[f"tau_{name}"] * head[own] for own in (study_name(name, s) for s in lay.studies)}
    return {name: values[name] for name in names} | {name: jnp.asarray(value) for name, value in lay.known.items()}


def random_effects(lay: Layout, z: Float[Array, " coordinate"], population: Mapping[str, Array],
                   standard=None) -> dict[str, Float[Array, " subject"]]:
    """Each effect's value per subject on its own scale, omega * eta, correlated where the spec says so; and of each
    occasion, gamma * eta; and of each covariate that may be missing the standard normal that says where in its
    distribution an unknown value lies.

    Args:
        population: from `population_values`.
        standard: standard normals (subject, column) in place of those in z: new, virtual subjects. Columns of missing
            covariates may be left out where none is missing.
    """
    count = len(lay.population)
    eta = z[count:].reshape(-1, max(len(lay.columns), 1)) if standard is None else standard
    columns = {name: eta[:, k] for k, name in enumerate(lay.spreads)}
    unknown = {missing_name(name): eta[:, len(columns) + k] if eta.shape[1] == len(lay.columns) else jnp.zeros(len(eta))
               for k, name in enumerate(lay.missing)}
    if lay.correlated:
        factor = correlation_factor(lay, dict(zip(lay.population, z, strict=False)))
        mixed = jnp.stack([columns[name] for name in lay.correlated], axis=1) @ factor.T
        columns |= {name: mixed[:, k] for k, name in enumerate(lay.correlated)}
    return {name: population[sd] * columns[name] for name, sd in lay.spreads.items()} | unknown


def correlation_factor(lay: Layout, head: Mapping[str, Array]) -> Float[Array, "effect effect"]:
    """Cholesky factor of the correlation matrix from canonical partial correlations tanh(z).

    Source: Lewandowski, Kurowicka & Joe 2009, J Multivar Anal 100:1989 (C-vine), as in the Stan reference manual,
    "Cholesky factors of correlation matrices".
    """
    return _factor(len(lay.correlated), [head[f"corr_{a}_{b}"] for a, b in lay.correlations])


def _factor(size: int, coordinates: Sequence[Array]) -> Float[Array, "row row"]:
    """Of the coordinates of the pairs (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    rows, given = [[jnp.asarray(0.0)] * size for _ in range(size)], iter(coordinates)
    for j in range(size):
        left = jnp.asarray(1.0)
        for i in range(j):
            partial = jnp.tanh(next(given))
            rows[j][i] = partial * jnp.sqrt(left)
            left = left * (1 - partial**2)
        rows[j][j] = jnp.sqrt(left)
    return jnp.array(rows).reshape(size, size)


def log_prior(lay: Layout, z: Float[Array, " coordinate"]) -> Float[Array, ""]:
    """Log prior density of z itself: standard normal, LKJ for the coordinates of correlations, and what is borrowed for
    those of its parameters."""
    head = dict(zip(lay.population, z, strict=False))
    pairs = lay.correlations
    special = [f"corr_{a}_{b}" for a, b in pairs]  # a list: the order of a sum shows in its last bit
    special += [name for block in lay.shared_errors for name in block.names]
    normal = jnp.sum(-0.5 * z**2 - 0.5 * math.log(2 * math.pi))
    for name in special:
        normal = normal + 0.5 * head[name] ** 2 + 0.5 * math.log(2 * math.pi)
    if lay.borrowed is not None:
        own = z[borrowing.places(lay.population, lay.borrowed)]
        normal = normal + jnp.sum(0.5 * own**2 + 0.5 * math.log(2 * math.pi)) + borrowing.log_density(lay.borrowed, own)
    place, size = {name: k for k, name in enumerate(lay.correlated)}, len(lay.correlated)
    normal = normal + sum((_log_partial(lay.correlation_shape, size, place[a], head[f"corr_{a}_{b}"])
                           for a, b in pairs), jnp.asarray(0.0))
    for block in lay.shared_errors:
        place, size = {name: k for k, name in enumerate(block.observables)}, len(block.observables)
        normal = normal + sum(_log_partial(block.shape, size, place[a], head[name])
                              for name, (a, _) in zip(block.names, block.pairs, strict=True))
    return normal


def _log_partial(shape: float, size: int, level: int, z):
    """Log density of z where tanh(z) is the partial correlation of that level: Beta(b, b) on (-1, 1)."""
    b = shape + 0.5 * (size - 2 - level)
    log_beta = 2 * math.lgamma(b) - math.lgamma(2 * b)
    log_one_minus_square = 2 * (math.log(2.0) - z - jax.nn.softplus(-2 * z))  # of tanh(z), without cancellation
    return b * log_one_minus_square - log_beta - (2 * b - 1) * math.log(2.0)


def residual_matrix(block: SharedError, population: Mapping[str, Array]) -> Float[Array, "member member"]:
    """Correlations of a block's residuals, from `population_values`."""
    size, pairs = len(block.observables), iter(block.names)
    rows = [[jnp.asarray(1.0)] * size for _ in range(size)]
    for j in range(size):
        for i in range(j):
            rows[i][j] = rows[j][i] = jnp.asarray(population[next(pairs)])
    return jnp.array(rows)


# --- subjects ------------------------------------------------------------------------------------------------


def study_shifts(lay: Layout, population: Mapping[str, Array], study) -> dict[str, Array]:
    """Each study effect's value, by the number of each person's study; -1 is a study in the middle of all."""
    return {key: jnp.stack([*(population[study_name(key, name)] for name in lay.studies), jnp.asarray(0.0)])[study]
            for key in lay.study_scales} if lay.studies else {}


def subject_values(spec: FitSpec, population: Mapping[str, Array], effects: Mapping[str, Array],
                   shifts: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Every parameter of the spec's model per subject, among them the coefficients of covariate effects and the shifts
    of occasions: what covariates and occasions do is in the model's equations.

    Args:
        population: from `population_values`.
        effects: from `random_effects`, one array over subjects each.
        shifts: from `study_shifts`; without them everybody is of a study in the middle of all.

    Returns:
        Parameter -> array over subjects (a scalar where nothing varies); and each covariate that may be missing, for
        the subjects whose schedule has NaN there.
    """
    values: dict[str, Array] = {name: effects[name] for name in spec.occasion_shifts}
    for name in spec.model.parameters:
        if name in values:
            continue
        typical = jnp.asarray(spec.fixed[name]) if name in spec.fixed else population[name]
        values[name] = _individual(spec, name, typical, effects)
        for key, away in (shifts or {}).items():
            if name in spec.study_effects[key].parameters:
                values[name] = _shift(spec.study_effects[key].scale, values[name], away)
    for name, item in spec.missing_covariates.items():
        if item.levels:
            higher = ndtr(effects[missing_name(name)])[:, None] > jnp.cumsum(level_weights(item, name, population))[:-1]
            values[name] = jnp.array(item.levels)[jnp.sum(higher, axis=1)]
            continue
        shift = population[f"sd_{name}"] * effects[missing_name(name)]
        values[name] = _shift("log" if item.family == "lognormal" else "natural", population[f"typical_{name}"], shift)
    return values


def level_weights(item: MissingCovariate, name: str, population: Mapping[str, Array]) -> Float[Array, " level"]:
    """Probability of each value of a covariate that has but a few."""
    if item.weights:
        return jnp.array(item.weights)
    return jnp.stack([1 - population[f"probability_{name}"], population[f"probability_{name}"]])


def starting_values(spec: FitSpec) -> dict[str, float]:
    """Where a solver is tried out first: the values of the model file and of the spec."""
    return ({name: item.value for name, item in spec.model.parameters.items()} | dict(spec.fixed)
            | {name: spec.model.covariates[name].value for name in spec.missing_covariates})


def log_covariates(spec: FitSpec, population: Mapping[str, Array],
                   observed: Mapping[str, Float[Array, " subject"]]) -> Float[Array, ""]:
    """Log density of the covariates that were observed under the distributions that the missing ones are from."""
    total = jnp.asarray(0.0)
    for name, values in observed.items():
        if levels := spec.missing_covariates[name].levels:
            places = jnp.argmin(jnp.abs(values[:, None] - jnp.array(levels)), axis=1)
            total = total + jnp.sum(jnp.log(level_weights(spec.missing_covariates[name], name, population))[places])
            continue
        typical, sd = population[f"typical_{name}"], population[f"sd_{name}"]
        if spec.missing_covariates[name].family == "lognormal":
            total = total + jnp.sum(jax.scipy.stats.norm.logpdf(jnp.log(values), jnp.log(typical), sd)
                                    - jnp.log(values))
        else:
            total = total + jnp.sum(jax.scipy.stats.norm.logpdf(values, typical, sd))
    return total


def cohort_values(spec: FitSpec, population: Mapping[str, Array], effects: Mapping[str, Array],
                  shifts: Mapping[str, Array]) -> dict[str, Array]:
    """`subject_values` of the virtual people of published cohorts, which have slopes of their own."""
    own = {f"beta_{name}": population[f"beta_across_{name}"] for name, item in spec.covariate_effects.items()
           if not item.aggregate}
    return subject_values(spec, {**population, **own}, effects, shifts)


def settled(spec: FitSpec) -> dict[str, float]:
    """Parameters that have one known value, the same for every subject."""
    vary = {name for item in spec.between_subject.values() for name in item.parameters}
    vary |= {name for item in spec.study_effects.values() for name in item.parameters}
    return {name: value for name, value in spec.fixed.items() if name not in vary}


def _individual(spec: FitSpec, name: str, typical, effects):
    for key, item in spec.between_subject.items():
        if name in item.parameters:
            typical = _shift(item.scale, typical, effects[key])
    return typical


def _shift(scale: str, value, shift):
    if scale == "log":
        return value * jnp.exp(shift)
    if scale == "logit":
        return jax.nn.sigmoid(jnp.log(value) - jnp.log1p(-value) + shift)
    return value + shift
