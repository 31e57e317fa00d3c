"""Predictive checks: the study as one of many that the fitted population would give.

A replicate is the study again: the same patients' doses, covariates and visits, random effects drawn anew from the
population of one posterior draw, every value measured with that draw's error and cut at the same limits (the mixed
predictive distribution: Gelman, Meng & Stern 1996, Stat Sinica 6:733; Marshall & Spiegelhalter 2003, Stat Med 22:1649).

Study and replicates form one pool, the study its first member, and everything here treats all members alike. If the
study came from the predictive distribution, each member is as likely as any other to have the largest statistic: that
makes every p value here exact, whatever the correlations between visits, markers and tests. The posterior was fitted to
the same study, so that a right model is called wrong less often than stated, never more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Float, Int
from scipy.special import ndtri

from thymodel.documents.spec import FitSpec
from thymodel.inference import borrowing, likelihood, visits
from thymodel.inference.population import Layout, error_name, population_values, residual_matrix
from thymodel.inference.posterior import Records

Pool = Float[np.ndarray, "member record"]
ALARM = 0.05  # probability of a false alarm, of all tests together
_RIDGE = 1e-6  # of a variance of 1: two records of the same number would leave the matrix singular
_FEWEST_SUBJECTS = 3  # between which a variance says anything


# --- replicates ----------------------------------------------------------------------------------------------


def prior_points(lay: Layout, count: int, random: np.random.Generator) -> Float[np.ndarray, "draw coordinate"]:
    """Draws of the prior in the coordinates of the log density, random effects included.

    Source: as `population.log_prior`: standard normal, and for correlations the partial correlations of an LKJ matrix,
    Beta(b, b) on (-1, 1) (Lewandowski, Kurowicka & Joe 2009, J Multivar Anal 100:1989).
    """
    z, places = random.standard_normal((count, lay.size)), {name: k for k, name in enumerate(lay.population)}
    blocks = [(lay.correlation_shape, lay.correlated, [(f"corr_{a}_{b}", a) for a, b in lay.correlations])]
    blocks += [(block.shape, block.observables, [(name, a) for name, (a, _) in zip(block.names, block.pairs,
                                                                                   strict=True)])
               for block in lay.shared_errors]
    for shape, members, pairs in blocks:
        for name, first in pairs:
            b = shape + 0.5 * (len(members) - 2 - list(members).index(first))
            z[:, places[name]] = np.arctanh(2 * random.beta(b, b, count) - 1)
    if lay.borrowed is not None:
        z[:, borrowing.places(lay.population, lay.borrowed)] = borrowing.draw(lay.borrowed, count, random)
    return z


def new_subjects(lay: Layout, z: Float[np.ndarray, "draw coordinate"],
                 random: np.random.Generator) -> Float[np.ndarray, "draw coordinate"]:
    """The same populations with random effects drawn anew."""
    result, head = np.array(z), len(lay.population)
    result[:, head:] = random.standard_normal(result[:, head:].shape)
    return result


def measure(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "draw coordinate"],
            predicted: Float[np.ndarray, "draw subject visit observable"], seed: int) -> np.ndarray:
    """New observations around predictions, each draw with its own residual error, before any limit.

    Args:
        predicted: observables without error in the order of the spec's likelihood, in their units.
    """
    population = jax.jit(jax.vmap(partial(population_values, lay)))(jnp.asarray(z))
    names, result = list(spec.likelihood), np.empty(predicted.shape)
    sigma = {name: {key: population[error_name(name, key)][:, None, None] for key in error.parameters}
             for name, error in spec.likelihood.items()}
    together = {name for block in spec.shared_errors for name in block.observables}
    for k, (name, error) in enumerate(spec.likelihood.items()):
        if name not in together:
            course = jnp.asarray(predicted[..., k])
            result[..., k] = likelihood.draw_observation(error, sigma[name], course, _key(seed, k))
    for b, block in enumerate(spec.shared_errors):
        places = [names.index(name) for name in block.observables]
        keys = jax.random.split(_key(seed, len(names) + b), len(z))
        errors = [spec.likelihood[name] for name in block.observables]

        def draw(values, own, course, key, block=block, errors=errors):
            return visits.draw_visits(errors, own, residual_matrix(block, values), course, key)

        result[..., places] = jax.vmap(draw)(population, [sigma[name] for name in block.observables],
                                             jnp.asarray(predicted[..., places]), keys)
    return result


def _key(seed: int, number: int):
    return jax.random.fold_in(jax.random.key(seed), number)


# --- limits of quantification --------------------------------------------------------------------------------


class Limits(NamedTuple):
    """Between which values each record's assay says a number; infinite where no limit is known."""

    lower: Float[np.ndarray, " record"]
    upper: Float[np.ndarray, " record"]


def assay_limits(records: Records) -> Limits:
    """Limits of every record, as far as the censored ones tell.

    A censored record holds its own limit. For a measured one it is the median limit of its observable's censored
    records, but never beyond the value that was measured.
    """
    value, censoring = np.asarray(records.value), np.asarray(records.censoring)
    lower, upper = np.full(len(value), -np.inf), np.full(len(value), np.inf)
    for k in np.unique(records.observable):
        mine = np.asarray(records.observable) == k
        for limit, kind, nearer in ((lower, 1, np.minimum), (upper, -1, np.maximum)):
            known = value[mine & (censoring == kind)]
            if len(known):
                limit[mine] = np.where(censoring[mine] == kind, value[mine], nearer(np.median(known), value[mine]))
    return Limits(lower, upper)


def pool_of(records: Records, replicates: Float[np.ndarray, "draw record"]) -> Pool:
    """The study and its replicates: values as reported, -inf below a limit and inf above one."""
    censoring, limits = np.asarray(records.censoring), assay_limits(records)
    observed = np.where(censoring == 0, records.value, np.where(censoring > 0, -np.inf, np.inf))
    reported = np.where(replicates < limits.lower, -np.inf, np.where(replicates > limits.upper, np.inf, replicates))
    return np.concatenate([observed[None], reported])


# --- PIT and NPDE --------------------------------------------------------------------------------------------


def pit(pool: Pool, random: np.random.Generator) -> Pool:
    """Probability integral transform of each record among the members of the pool: prediction discrepancies.

    A value is placed uniformly between those that lie below it and those that do not; where several are the same, in
    random order. Below a limit all are the same: there a value is uniform below the probability of lying below the
    limit, the "cdf" method of Nguyen, Comets & Mentre 2012, J Pharmacokinet Pharmacodyn 39:499. For counts it is the
    randomised PIT (Czado, Gneiting & Held 2009, Biometrics 65:1254).
    Source of pd: Mentre & Escolano 2006, J Pharmacokinet Pharmacodyn 33:345.
    """
    order = np.lexsort((random.random(pool.shape), pool), axis=0)
    ranks = np.empty(pool.shape)
    np.put_along_axis(ranks, order, np.arange(len(pool), dtype=float)[:, None], axis=0)
    return (ranks + random.random(pool.shape)) / len(pool)


def npde(uniform: Pool, group: Int[np.ndarray, " record"], random: np.random.Generator) -> Pool:
    """Normalised prediction distribution errors from prediction discrepancies.

    Within each group of records (one subject's, of one observable, by time) the normal scores are decorrelated with
    the Cholesky factor of their covariance over the pool; their place among the decorrelated replicates is the pde, its
    normal score the npde. A group's decorrelated values depend on what stood before in time alone.

    Source: Brendel et al. 2006, Pharm Res 23:2036, eqs. 4-7; Comets, Brendel & Mentre 2008, Comput Methods Programs
    Biomed 90:154. They decorrelate the values themselves; normal scores do not depend on the scale (raw or log) and
    have a place for censored values, which the "cdf" method has drawn.
    """
    scores, result = ndtri(uniform), np.empty(uniform.shape)
    for one in np.unique(group):
        places = np.flatnonzero(group == one)
        own = scores[:, places]
        result[:, places] = _whitened(own)
    return ndtri(pit(result, random))


def _whitened(scores: Float[np.ndarray, "member score"]) -> Float[np.ndarray, "member score"]:
    """Uncorrelated over the pool and of variance 1, each score freed of those before it."""
    covariance = scores.T @ scores / len(scores) + _RIDGE * np.eye(scores.shape[1])
    return scores @ np.linalg.inv(np.linalg.cholesky(covariance)).T


# --- tests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One question about an observable or an endpoint; `what` says what is wrong if the study departs.

    Each member has its `statistic`, large where it departs from the others. `observed` and `expected` are the numbers
    that a person looks at: the study's, and the median of the replicates.
    """

    about: str
    name: str
    what: str
    statistic: Float[np.ndarray, " member"]
    observed: float
    expected: float


class Outcome(NamedTuple):
    """`p` of each test by itself; `adjusted` for all of them; `together` of the least."""

    p: Float[np.ndarray, " test"]
    adjusted: Float[np.ndarray, " test"]
    together: float


class Places(NamedTuple):
    """Where each record belongs: subject, arm and bin of time, as numbers."""

    subject: Int[np.ndarray, " record"]
    arm: Int[np.ndarray, " record"]
    bin: Int[np.ndarray, " record"]


def judge(questions: Sequence[Question]) -> Outcome:
    """p values by rank in the pool, alone and together.

    Source: Monte-Carlo tests, Barnard 1963, J R Stat Soc B 25:294; single-step min P, Westfall & Young 1993,
    Resampling-Based Multiple Testing, section 2.3.
    """
    ranks = np.stack([scipy.stats.rankdata(-one.statistic, method="max") for one in questions])
    p = ranks / ranks.shape[1]  # of every member, for it might have been the study
    least = p.min(axis=0)
    adjusted = np.array([np.mean(least <= one) for one in p[:, 0]])
    return Outcome(p[:, 0], adjusted, float(np.mean(least <= least[0])))


def departures(name: str, pool: Pool, uniform: Pool, errors: Pool, places: Places) -> list[Question]:
    """What may be wrong with one observable; every array holds its records only.

    Args:
        uniform: from `pit`.
        errors: from `npde`.
    """
    scores, middle = ndtri(uniform), _from_the_middle
    distance, course, arms = ks_distance(uniform), _between(scores, places.bin), _between(scores, places.arm)
    mean, spread = errors.mean(axis=1), errors.std(axis=1)
    asked = [("PIT", f"PIT of {name} is not uniform (Kolmogorov-Smirnov distance)", distance, distance),
             ("NPDE mean", f"NPDE of {name} are not centred (mean)", mean, middle(mean)),
             ("course", f"{name} runs another course over time (mean square of visits' mean scores)", course, course)]
    if errors.shape[1] > 1:
        asked.append(("NPDE spread", f"NPDE of {name} spread otherwise than the model says (SD)", spread,
                      middle(np.log(spread))))
    if len(np.unique(places.subject)) >= _FEWEST_SUBJECTS:
        between = _group_means(scores, places.subject).std(axis=1)
        asked.append(("between subjects", f"subjects differ in {name} otherwise than the model says (SD of subjects' "
                      "mean scores)", between, middle(np.log(between))))
    if len(np.unique(places.arm)) > 1:
        asked.append(("arms", f"arms differ in {name} otherwise than the model says (mean square of arms' mean scores)",
                      arms, arms))
    for side, where in ((-np.inf, "below"), (np.inf, "above")):
        if (pool == side).any():
            part = np.mean(pool == side, axis=1)
            asked.append((f"{where} the limit", f"another part of {name} lies {where} the limit of quantification "
                          "(fraction)", part, middle(part)))
    return [question(name, *one) for one in asked]


def subjects_together(uniform: Pool, subject: Int[np.ndarray, " record"],
                      observable: Int[np.ndarray, " record"]) -> Question:
    """Whether whole subjects differ as the model says: a wrong spread of a random effect shows in every observable.

    Each subject's mean scores by observable, whitened with their covariance over the pool; their mean square is 1.
    """
    scores, total, count = ndtri(uniform), np.zeros(len(uniform)), 0
    for one in np.unique(subject):
        mine = subject == one
        means = _group_means(scores[:, mine], observable[mine])
        total += (_whitened(means) ** 2).sum(axis=1)
        count += means.shape[1]
    values = total / count
    what = "subjects differ otherwise than the model says (mean square of their whitened mean scores)"
    return question("subjects", "all observables", what, values, _from_the_middle(np.log(values)))


def question(name: str, kind: str, what: str, values: Float[np.ndarray, " member"],
             statistic: Float[np.ndarray, " member"]) -> Question:
    """A question with the study's number and the replicates' middle one."""
    return Question(name, kind, what, statistic, float(values[0]), float(np.median(values[1:])))


def _from_the_middle(values: Float[np.ndarray, " member"]) -> Float[np.ndarray, " member"]:
    """For two-sided questions. The middle is that of the pool, which has the study in it like any other member."""
    return np.abs(values - np.median(values))


def ks_distance(uniform: Pool) -> Float[np.ndarray, " member"]:
    """Kolmogorov-Smirnov distance of each member's values from the uniform distribution."""
    count, ordered = uniform.shape[1], np.sort(uniform, axis=1)
    steps = np.arange(count + 1) / count
    return np.maximum((steps[1:] - ordered).max(axis=1), (ordered - steps[:-1]).max(axis=1))


def _group_means(scores: Pool, group: Int[np.ndarray, " record"]) -> Float[np.ndarray, "member group"]:
    return np.stack([scores[:, group == one].mean(axis=1) for one in np.unique(group)], axis=1)


def _between(scores: Pool, group: Int[np.ndarray, " record"]) -> Float[np.ndarray, " member"]:
    _, counts = np.unique(group, return_counts=True)
    return (counts * _group_means(scores, group) ** 2).sum(axis=1) / counts.sum()


# --- what was learned ----------------------------------------------------------------------------------------


def shrinkage(effects: Float[np.ndarray, "draw subject"], omega: Float[np.ndarray, " draw"]) -> dict[str, float]:
    """Shrinkage of one random effect towards zero: 0 where every subject speaks for itself, 1 where none does.

    1 - SD(eta)/omega on the SD scale and 1 - var(eta)/omega**2 on the variance scale, eta being the subjects' posterior
    means and omega**2 the posterior mean of the variance.
    Source: Savic & Karlsson 2009, AAPS J 11:558, eq. 3 (SD scale); the variance scale is Monolix's.
    """
    ratio = float(np.var(effects.mean(axis=0)) / np.mean(omega**2))
    return {"sd": 1 - math.sqrt(ratio), "variance": 1 - ratio}


_CELLS = 20  # of equal prior probability


def prior_to_posterior(uniform: Float[np.ndarray, " draw"], prior_sd: float,
                       scale: Float[np.ndarray, " draw"]) -> dict[str, float]:
    """How far the data moved one parameter from its prior.

    Args:
        uniform: the prior's distribution function at the posterior's draws.
        scale: those draws on the scale on which contraction is measured, where the prior's SD is `prior_sd`.

    Returns:
        `contraction`, 1 - var(posterior)/var(prior) (Schad, Betancourt & Vasishth 2021, Psychol Methods 26:103, eq. 3):
        near 0 nothing was learned, near 1 the data rule. `overlap`, the area that the densities share (Garrett & Zeger
        2000, Biometrics 56:1055), over cells of equal prior probability. `shift`, posterior mean less prior mean in
        prior SDs, the prior's mean being 0 on that scale.
    """
    share = np.histogram(uniform, np.linspace(0, 1, _CELLS + 1))[0] / len(uniform)
    return {"contraction": 1 - float(np.var(scale)) / prior_sd**2, "shift": float(np.mean(scale)) / prior_sd,
            "overlap": float(np.minimum(share, 1 / _CELLS).sum())}


def learned(lay: Layout, z: Float[np.ndarray, "draw coordinate"],
            natural: Mapping[str, Float[np.ndarray, " draw"]]) -> dict[str, dict[str, float]]:
    """`prior_to_posterior` of every population parameter: on the scale on which its prior is normal, and a correlation
    on its own.

    Args:
        natural: draws of the correlations.
    """
    sizes = {f"corr_{a}_{b}": (lay.correlation_shape, len(lay.correlated)) for a, b in lay.correlations}
    sizes |= {name: (block.shape, len(block.observables)) for block in lay.shared_errors for name in block.names}
    found = {}
    for k, name in enumerate(lay.population):
        if name in sizes:  # every element of an LKJ matrix: Lewandowski, Kurowicka & Joe 2009
            b = sizes[name][0] + (sizes[name][1] - 2) / 2
            uniform = scipy.stats.beta(b, b).cdf((natural[name] + 1) / 2)
            found[name] = prior_to_posterior(uniform, 1 / math.sqrt(2 * b + 1), natural[name])
        else:
            found[name] = prior_to_posterior(scipy.stats.norm.cdf(z[:, k]), 1.0, z[:, k])
    return found
