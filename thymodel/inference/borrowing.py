"""The posterior of one fit as the prior of another: meta-analytic-predictive, robust.

Parameters are taken to the coordinates in which the new fit's own priors are standard normal (affine in the log of a
lognormal parameter). There the draws of the other posterior, moved to those of a **new** study by its heterogeneity
between studies, are summarised by one joint normal, correlations and all; the own priors keep a share of the
probability, so that data that disagree are not held.

Source: Neuenschwander, Capkun-Niggli, Branson & Spiegelhalter 2010, Clin Trials 7:5 (the prior of a new study's typical
value is predictive, tau included); Schmidli et al. 2014, Biometrics 70:1023 (normal approximation and robust mixture);
Neuenschwander, Weber, Schmidli & O'Hagan 2020, Biometrics 76:578 (expected local-information-ratio sample size).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Array, Float

from thymodel.documents.borrowed import Borrowed
from thymodel.documents.priors import Prior, in_scipy

POOR = 0.1  # of probability, between the draws and their normal: told as a poor approximation
_HALVINGS = 60
_REACH = 12.0  # SDs about either part of the mixture, in which its quantiles are looked for


# --- from draws to a normal ----------------------------------------------------------------------------------


def to_standard(prior: Prior, values: Float[np.ndarray, "..."]) -> np.ndarray:
    """z of each value, the inverse of `population.quantile`; not finite outside the support."""
    n = prior.numbers
    with np.errstate(divide="ignore", invalid="ignore"):
        if prior.family == "lognormal":
            return np.log(values / n["median"]) / n["sd"]
        if prior.family == "logitnormal":
            return (scipy.special.logit(values) - scipy.special.logit(n["median"])) / n["sd"]
        if prior.family == "normal":
            return (values - n["mean"]) / n["sd"]
        law = in_scipy(prior)
        below, above = law.cdf(values), law.sf(values)  # the smaller one has kept its digits
        return np.where(below < 0.5, scipy.special.ndtri(below), -scipy.special.ndtri(above))


def moved(scale: str, values: Float[np.ndarray, "..."], away: Float[np.ndarray, "..."]) -> np.ndarray:
    """Typical values of studies that lie so far away on the scale of their effect."""
    if scale == "log":
        return values * np.exp(away)
    if scale == "logit":
        return scipy.special.expit(scipy.special.logit(values) + away)
    return values + away


def normal_of(z: Float[np.ndarray, "draw parameter"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of draws.

    Raises:
        LinAlgError: two parameters that say the same, or one that does not vary.
    """
    covariance = np.atleast_2d(np.cov(z.T))
    spread = np.sqrt(np.diag(covariance))
    if not np.isfinite(spread).all() or (spread == 0).any():
        raise np.linalg.LinAlgError
    np.linalg.cholesky(covariance / np.outer(spread, spread) - 1e-10 * np.eye(len(spread)))
    return z.mean(axis=0), covariance


def distances(z: Float[np.ndarray, "draw parameter"], mean: np.ndarray, covariance: np.ndarray) -> tuple[list, float]:
    """Greatest difference in probability between draws and their normal (Kolmogorov): of each parameter, and of how far
    out a draw lies, by the chi-square of its Mahalanobis distance."""
    spread = np.sqrt(np.diag(covariance))
    alone = [float(scipy.stats.kstest((column - m) / s, "norm").statistic)
             for column, m, s in zip(z.T, mean, spread, strict=True)]
    white = np.linalg.solve(np.linalg.cholesky(covariance), (z - mean).T)
    return alone, float(scipy.stats.kstest((white**2).sum(axis=0), scipy.stats.chi2(len(mean)).cdf).statistic)


# --- the mixture ---------------------------------------------------------------------------------------------


def log_parts(borrowed: Borrowed, z: Float[Array, "... parameter"]) -> tuple[Array, Array]:
    """Log of weight times density, of the borrowed normal and of the own priors; the latter -inf without weight."""
    factor = np.linalg.cholesky(np.array(borrowed.covariance))
    inverse, size = np.linalg.inv(factor), len(borrowed.names)
    white = (z - np.array(borrowed.mean)) @ inverse.T
    constant = -0.5 * size * math.log(2 * math.pi)
    taken = (constant - float(np.log(np.diag(factor)).sum()) - 0.5 * jnp.sum(white**2, axis=-1)
             + math.log1p(-borrowed.own_weight))
    own = constant - 0.5 * jnp.sum(z**2, axis=-1)
    return taken, own + (math.log(borrowed.own_weight) if borrowed.own_weight else -math.inf)


def log_density(borrowed: Borrowed, z: Float[Array, "... parameter"]) -> Array:
    """Log density of the prior in the coordinates of the own priors."""
    taken, own = log_parts(borrowed, z)
    return jnp.logaddexp(taken, own) if borrowed.own_weight else taken


def own_share(borrowed: Borrowed, z: Float[np.ndarray, "draw parameter"]) -> float:
    """Posterior probability of the own priors' part, from draws of the posterior: above `own_weight`, the data speak
    against the record (Schmidli et al. 2014, section 3)."""
    taken, own = log_parts(borrowed, jnp.asarray(z))
    return float(jnp.mean(jax.nn.sigmoid(own - taken))) if borrowed.own_weight else 0.0


def draw(borrowed: Borrowed, count: int, random: np.random.Generator) -> Float[np.ndarray, "draw parameter"]:
    """Draws of the prior."""
    own = random.standard_normal((count, len(borrowed.names)))
    taken = np.array(borrowed.mean) + own @ np.linalg.cholesky(np.array(borrowed.covariance)).T
    return np.where((random.random(count) < borrowed.own_weight)[:, None], own, taken)


def spread(borrowed: Borrowed) -> dict[str, float]:
    """SD of each parameter under the mixture, in its coordinate."""
    w, mean = borrowed.own_weight, np.array(borrowed.mean)
    variance = w + (1 - w) * (np.diag(borrowed.covariance) + mean**2) - ((1 - w) * mean) ** 2
    return dict(zip(borrowed.names, np.sqrt(variance).tolist(), strict=True))


def marginal_quantiles(borrowed: Borrowed, name: str, normal: Float[np.ndarray, " point"]) -> np.ndarray:
    """z of a parameter whose probability below, under the mixture, is that of standard normal points; by halving."""
    k = borrowed.names.index(name)
    mean, sd, w = borrowed.mean[k], math.sqrt(borrowed.covariance[k][k]), borrowed.own_weight
    ends = [f(side, mean + side * sd) * 1.0 for f, side in ((min, -_REACH), (max, _REACH))]
    low, high = (np.full(np.shape(normal), end) for end in ends)
    wanted, other = scipy.special.ndtr(normal), scipy.special.ndtr(-np.asarray(normal))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        a, b = middle, (middle - mean) / sd
        below = w * scipy.special.ndtr(a) + (1 - w) * scipy.special.ndtr(b)
        beyond = w * scipy.special.ndtr(-a) + (1 - w) * scipy.special.ndtr(-b)
        short = np.where(wanted < 0.5, below < wanted, beyond > other)  # the smaller tail has kept its digits
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return 0.5 * (low + high)


# --- what it is worth ----------------------------------------------------------------------------------------


def local_information(borrowed: Borrowed, z: Float[np.ndarray, "draw parameter"]) -> np.ndarray:
    """Minus the second derivatives of the log density along each coordinate, the others held."""
    def one(point):
        return -jnp.diag(jax.hessian(lambda x: log_density(borrowed, x))(point))

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(z)))


def sample_sizes(names: Sequence[str], local: Float[np.ndarray, "draw parameter"],
                 per_patient: Float[np.ndarray, "draw parameter"]) -> dict[str, float]:
    """Patients that the prior is worth, parameter by parameter, the others held: the expectation over the prior of its
    local information over that of one patient (ELIR).

    Args:
        local: the prior's own information at draws of it, about each coordinate.
        per_patient: expected information of one patient there; NaN where a course failed.

    Returns:
        Infinite for a parameter of which no patient says anything; nothing where all courses failed.
    """
    usable = np.isfinite(per_patient).all(axis=1)
    if not usable.any():
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = local[usable] / per_patient[usable]
    ratio = np.where(per_patient[usable] > 0, ratio, np.inf)
    return dict(zip(names, ratio.mean(axis=0).tolist(), strict=True))


def places(names: Sequence[str], borrowed: Borrowed) -> np.ndarray:
    """Of the borrowed parameters among the coordinates of the population."""
    return np.array([list(names).index(name) for name in borrowed.names], int)
