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

from thymodel.documents.measurement import SharedError
from thymodel.documents.occasions import occasion_names
from thymodel.documents.priors import Prior
from thymodel.documents.spec import FitSpec


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
    """Names of the coordinates of z, block by block; the random effects come last, subject by subject."""

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
    study: tuple[int, ...] = ()  # of each subject, -1 where none is told; empty where no study effect is
    occasion_scales: Mapping[str, Prior] = field(default_factory=dict)
    occasions: int = 0

    @property
    def columns(self) -> dict[str, str]:
        """What every subject draws, random effects and then those of each occasion -> the name of its SD."""
        return {**{name: f"omega_{name}" for name in self.scales},
                **{own: f"gamma_{name}" for name in self.occasion_scales
                   for own in occasion_names(name, self.occasions)}}

    @property
    def priors(self) -> dict[str, Prior]:
        """Of every population parameter that has one of its own: correlations and study effects are distributed."""
        return {**self.estimate, **{f"omega_{name}": prior for name, prior in self.scales.items()},
                **{f"beta_{name}": prior for name, prior in self.effects.items()}, **self.errors,
                **{f"beta_across_{name}": prior for name, prior in self.across.items()},
                **{f"tau_{name}": prior for name, prior in self.study_scales.items()},
                **{f"gamma_{name}": prior for name, prior in self.occasion_scales.items()}}

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
                *(f"gamma_{name}" for name in self.occasion_scales)]

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


def layout(spec: FitSpec, subjects: tuple[str, ...], study: Sequence[str] = (), studies: Sequence[str] = ()) -> Layout:
    """The layout of a fit.

    Args:
        study: that of each subject, "" where none is told.
        studies: all of the data's; those of the subjects by default.
    """
    known = tuple(dict.fromkeys([*spec.studies, *(studies or filter(None, study))])) if spec.study_effects else ()
    return Layout(
        estimate={name: item.prior for name, item in spec.estimate.items()},
        scales={name: item.sd for name, item in spec.between_subject.items()},
        correlated=spec.correlated, correlation_shape=spec.correlation_shape,
        effects={name: item.prior for name, item in spec.covariate_effects.items()},
        errors={error_name(observable, key): prior for observable, model in spec.likelihood.items()
                for key, prior in model.parameters.items()},
        subjects=subjects, shared_errors=spec.shared_errors,
        across={name: item.prior for name, item in spec.covariate_effects.items()
                if spec.published and not item.aggregate},
        study_scales={name: item.sd for name, item in spec.study_effects.items()}, studies=known,
        study=tuple(known.index(name) if name else -1 for name in study or [""] * len(subjects)) if known else (),
        occasion_scales={name: item.sd for name, item in spec.between_occasion.items()},
        occasions=len(spec.occasions) + 1)


def population_values(lay: Layout, z: Float[Array, " coordinate"]) -> dict[str, Array]:
    """Natural values of the population block by name (`corr_a_b` as correlations)."""
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
    return {name: values[name] for name in names}


def random_effects(lay: Layout, z: Float[Array, " coordinate"], population: Mapping[str, Array],
                   standard=None) -> dict[str, Float[Array, " subject"]]:
    """Each effect's value per subject on its own scale, omega * eta, correlated where the spec says so; and of each
    occasion, gamma * eta.

    Args:
        population: from `population_values`.
        standard: standard normal etas (subject, effect) in place of those in z: new, virtual subjects.
    """
    count = len(lay.population)
    eta = z[count:].reshape(-1, max(len(lay.columns), 1)) if standard is None else standard
    columns = {name: eta[:, k] for k, name in enumerate(lay.columns)}
    if lay.correlated:
        factor = correlation_factor(lay, dict(zip(lay.population, z, strict=False)))
        mixed = jnp.stack([columns[name] for name in lay.correlated], axis=1) @ factor.T
        columns |= {name: mixed[:, k] for k, name in enumerate(lay.correlated)}
    return {name: population[sd] * columns[name] for name, sd in lay.columns.items()}


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
    """Log prior density of z itself: standard normal, and LKJ for the coordinates of correlations."""
    head = dict(zip(lay.population, z, strict=False))
    pairs = lay.correlations
    special = [f"corr_{a}_{b}" for a, b in pairs]  # a list: the order of a sum shows in its last bit
    special += [name for block in lay.shared_errors for name in block.names]
    normal = jnp.sum(-0.5 * z**2 - 0.5 * math.log(2 * math.pi))
    for name in special:
        normal = normal + 0.5 * head[name] ** 2 + 0.5 * math.log(2 * math.pi)
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
                   covariates: Mapping[str, Array], shifts: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Every model parameter per subject.

    Args:
        population: from `population_values`.
        effects: from `random_effects`, one array over subjects each.
        covariates: each covariate's value at the first record, one array over subjects each.
        shifts: from `study_shifts`; without them everybody is of a study in the middle of all.

    Returns:
        Parameter of the solved model -> array over subjects (a scalar where nothing varies).
    """
    shifted = [name for name in spec.solved_model.parameters if name not in spec.model.parameters]
    values: dict[str, Array] = {name: effects[name] for name in shifted}
    for name in spec.model.parameters:
        typical = population[name] if name in spec.estimate else jnp.asarray(spec.fixed[name])
        values[name] = _individual(spec, name, typical, population, effects, covariates)
        for key, away in (shifts or {}).items():
            if name in spec.study_effects[key].parameters:
                values[name] = _shift(spec.study_effects[key].scale, values[name], away)
    return values


def cohort_values(spec: FitSpec, population: Mapping[str, Array], effects: Mapping[str, Array],
                  covariates: Mapping[str, Array], shifts: Mapping[str, Array]) -> dict[str, Array]:
    """`subject_values` of the virtual people of published cohorts, which have slopes of their own."""
    own = {f"beta_{name}": population[f"beta_across_{name}"] for name, item in spec.covariate_effects.items()
           if not item.aggregate}
    return subject_values(spec, {**population, **own}, effects, covariates, shifts)


def settled(spec: FitSpec) -> dict[str, float]:
    """Parameters that have one known value, the same for every subject."""
    vary = {name for item in spec.between_subject.values() for name in item.parameters}
    vary |= {item.parameter for item in spec.covariate_effects.values()}
    vary |= {name for item in spec.study_effects.values() for name in item.parameters}
    vary |= {name for item in spec.between_occasion.values() for name in item.parameters}
    return {name: value for name, value in spec.fixed.items() if name not in vary}


def _individual(spec: FitSpec, name: str, typical, population, effects, covariates):
    terms = [(item.scale, effects[key]) for key, item in spec.between_subject.items() if name in item.parameters]
    for key, item in spec.covariate_effects.items():
        if item.parameter == name:
            value = covariates[item.covariate]
            distance = jnp.log(value / item.reference) if item.form == "power" else value - item.reference
            terms.append(("log", population[f"beta_{key}"] * distance))
    for scale, shift in terms:
        typical = _shift(scale, typical, shift)
    return typical


def _shift(scale: str, value, shift):
    if scale == "log":
        return value * jnp.exp(shift)
    if scale == "logit":
        return jax.nn.sigmoid(jnp.log(value) - jnp.log1p(-value) + shift)
    return value + shift
