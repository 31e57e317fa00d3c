"""Likelihood of each subject with its random effects integrated out, draw by draw.

What a model says of a patient that it has not seen is p(y|theta), the integral of p(y|theta, eta) over the patient's
random effects, not p(y|theta, eta) at effects that the patient's own data have shaped. Under each draw of theta the
integral is importance sampling around the mode of the subject's effects: quasi-random points, as wide as the curvature
there says, with the tails of a logistic distribution, heavier than the normal ones of the effects, so that no weight
is unbounded. The points come in independent parts, whose differences are the Monte-Carlo error.

Source: Pinheiro & Bates 1995, J Comput Graph Stat 4:12 (importance sampling about the mode); Merkle, Furr &
Rabe-Hesketh 2019, Psychometrika 84:802 (marginal against conditional likelihood in leave-one-out); Owen 1995, in Monte
Carlo and Quasi-Monte Carlo Methods (randomised points).
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp
from scipy.stats import qmc

from thymodel.inference.posterior import Posterior

# log likelihood of each subject given the population's coordinates and the subjects' standard normal effects
Conditional = Callable[[Float[Array, " coordinate"], Float[Array, "subject effect"]], Float[Array, " subject"]]
Draws = Float[np.ndarray, "draw subject effect"]

PARTS = 4
_POINTS = 8  # a part and round
_MORE_ROUNDS = 4
_ENOUGH = 0.4  # of the points that equal weights would have left; below, the draw takes further points
_WIDER = 1.2  # than the draws of all the posterior say
# Of a logistic distribution as wide as a standard normal: with it the weights of a normal target vary least (their
# second moment is 1.02 a dimension; between 0.5 and 0.7 it stays below 1.06).
_LOGISTIC = 0.6
_WIDTH = 1e-3  # of central differences, in prior standard deviations
_LEAST_CURVATURE = 0.5  # of the prior's 1: where the density bends up, the points lie no wider than this
_NEAR = 1.0  # prior standard deviations from where a curvature was taken that it serves for
_MOST_STEPS = 6  # towards a mode
_GAIN = 0.1  # log units; a mode that is nearer than that is near enough for points around it
_BATCH = 128  # draws at a time: some 30 MB of points
_CHUNK = 64  # points a call
_EDGE = 1e-12  # of a uniform number


class Marginals(NamedTuple):
    """Log likelihoods; `parts` are independent estimates of the same from a part of the points each; `efficiency` is
    the share of the points that equal weights would have left."""

    value: Float[np.ndarray, "draw subject"]
    parts: Float[np.ndarray, "part draw subject"]
    efficiency: Float[np.ndarray, "draw subject"]

    @property
    def noise(self) -> Float[np.ndarray, " subject"]:
        """Standard deviation of `value` around the true log likelihood, over the draws."""
        return np.sqrt(np.mean(np.var(self.parts, axis=0, ddof=1), axis=0) / len(self.parts))


class Guess(NamedTuple):
    """Where each subject's effects lie: a centre for each draw and a root of the covariance about it."""

    centre: Draws
    root: Float[np.ndarray, "subject effect effect"]


def integrate(conditional: Conditional, head: Float[np.ndarray, "draw coordinate"], guess: Guess,
              seed: int = 0) -> Marginals:
    """Log likelihood of each subject under each draw, its effects integrated out.

    Args:
        head: the population's coordinates.
        guess: where to begin to look for the modes, and where else to look where the modes do not serve.
    """
    batches = [slice(k, k + _BATCH) for k in range(0, len(head), _BATCH)]
    programs = _Programs(conditional)
    found = [_integrate_batch(programs, head[some], guess._replace(centre=guess.centre[some]),
                              np.random.default_rng([seed, some.start])) for some in batches]
    return Marginals(np.concatenate([one.value for one in found]), np.concatenate([one.parts for one in found], axis=1),
                     np.concatenate([one.efficiency for one in found]))


class _Programs:
    """Joint log density of each subject's data and effects, and its slope, at many points (point, subject, effect)."""

    def __init__(self, conditional: Conditional) -> None:
        def joint(row):
            head, effects = row
            found = conditional(head, effects)
            return jnp.where(jnp.isnan(found), -jnp.inf, found) - 0.5 * jnp.sum(effects**2, axis=1)

        def rise(row):
            return jax.grad(lambda effects: jnp.sum(joint((row[0], effects))))(row[1])

        self._joint, self._rise = (jax.jit(partial(jax.lax.map, f)) for f in (joint, rise))

    def joint(self, head: np.ndarray, effects: Draws) -> Float[np.ndarray, "draw subject"]:
        return _in_chunks(self._joint, head, effects)

    def rise(self, head: np.ndarray, effects: Draws) -> Draws:
        found = _in_chunks(self._rise, head, effects)
        return np.where(np.isfinite(found), found, 0.0)


def _in_chunks(program, head: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Chunks of one shape, so that one program serves all; the last is filled up with repeats."""
    rows = np.arange(-(-len(head) // _CHUNK) * _CHUNK).clip(max=len(head) - 1).reshape(-1, _CHUNK)
    one: Callable[[np.ndarray], np.ndarray] = lambda some: np.asarray(program((head[some], effects[some])))  # noqa: E731
    first = one(rows[0])  # compiles, before the threads would each begin to
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate([first, *pool.map(one, rows[1:])])[: len(head)]


def _integrate_batch(programs: _Programs, head: np.ndarray, guess: Guess, random: np.random.Generator) -> Marginals:
    """One round of points for all draws; more, and not around the mode alone, for those that it does not do for. A
    model without effects has nothing to integrate."""
    if not guess.centre.shape[2]:
        value = programs.joint(head, guess.centre)
        return Marginals(value, np.stack([value] * PARTS), np.ones_like(value))
    around = [_at_modes(programs, head, guess.centre)]
    found = _from_weights(_log_weights(programs, head, around, random))
    seldom = found.efficiency < _ENOUGH
    poor = np.flatnonzero(seldom.any(axis=1))
    if len(poor):
        both = [_Normal(around[0].centre[poor], around[0].root[poor]),
                _Normal(guess.centre[poor], _WIDER * np.broadcast_to(guess.root, around[0].root[poor].shape))]
        rounds = [_log_weights(programs, head[poor], both, random) for _ in range(_MORE_ROUNDS)]
        again = _from_weights(np.concatenate(rounds, axis=1))
        for old, new in zip(found, again, strict=True):
            old[..., poor, :] = np.where(seldom[poor], new, old[..., poor, :])
    return found


class _Normal(NamedTuple):
    centre: Draws
    root: Float[np.ndarray, "draw subject effect effect"]


def _from_weights(log_w: Float[np.ndarray, "part point draw subject"]) -> Marginals:
    parts = logsumexp(log_w, axis=1) - np.log(log_w.shape[1])
    value = logsumexp(parts, axis=0) - np.log(len(parts))
    both = (0, 1)
    with np.errstate(invalid="ignore"):  # no point with any likelihood: value -inf, no efficiency
        share = np.exp(2 * logsumexp(log_w, axis=both) - logsumexp(2 * log_w, axis=both))
    return Marginals(value, parts, np.nan_to_num(share) / (log_w.shape[0] * log_w.shape[1]))


def _log_weights(programs: _Programs, head: np.ndarray, around: Sequence[_Normal],
                 random: np.random.Generator) -> Float[np.ndarray, "part point draw subject"]:
    """Log of joint density over the density from which points were taken, equally many around each of `around`."""
    draws, subjects, size = around[0].centre.shape
    points = np.concatenate([one.centre + np.einsum("dsij,pqdsj->pqdsi", one.root, _logistic(one.centre.shape, random))
                             for one in around], axis=1)
    log_q = logsumexp([_log_density(one, points) for one in around], axis=0) - np.log(len(around))
    heads = np.broadcast_to(head, (*points.shape[:2], *head.shape)).reshape(-1, head.shape[1])
    heights = programs.joint(heads, points.reshape(-1, subjects, size)).reshape(log_q.shape)
    return heights - 0.5 * size * np.log(2 * np.pi) - log_q


def _logistic(shape: tuple[int, ...], random: np.random.Generator) -> Float[np.ndarray, "part point *shape"]:
    base = np.stack([qmc.Sobol(shape[-1], rng=random).random(_POINTS) for _ in range(PARTS)])
    shift = random.random((PARTS, *shape))  # so that neither draws nor subjects share their errors
    uniform = ((base[:, :, None, None] + shift[:, None]) % 1.0).clip(_EDGE, 1 - _EDGE)
    return _LOGISTIC * (np.log(uniform) - np.log1p(-uniform))


def _log_density(around: _Normal, points: np.ndarray) -> np.ndarray:
    """Of points whose coordinates along the root are logistic."""
    inverse = np.linalg.inv(around.root)
    t = np.abs(np.einsum("dsij,pqdsj->pqdsi", inverse, points - around.centre)) / _LOGISTIC
    each = -t - 2 * np.log1p(np.exp(-t)) - np.log(_LOGISTIC)
    return each.sum(axis=-1) - np.linalg.slogdet(around.root)[1]


def _at_modes(programs: _Programs, head: np.ndarray, start: Draws) -> _Normal:
    """Each subject's highest point and a root of the inverse curvature there, or so near that it serves."""
    root = _inverse_root(_curvatures(programs, head, start))
    mode = _top(programs, head, start, root @ root)
    moved = np.flatnonzero((np.abs(mode - start) > _NEAR).any(axis=(1, 2)))
    if len(moved):
        root[moved] = _inverse_root(_curvatures(programs, head[moved], mode[moved]))
        mode[moved] = _top(programs, head[moved], mode[moved], root[moved] @ root[moved])
    return _Normal(mode, root)


def _top(programs: _Programs, head: np.ndarray, start: Draws, covariance: np.ndarray) -> Draws:
    """The end of Newton steps with one curvature, each of them whole, or a part where the whole does not lead up."""
    effects, height = start, programs.joint(head, start)
    for _ in range(_MOST_STEPS):
        step, before = np.einsum("dsij,dsj->dsi", covariance, programs.rise(head, effects)), height
        for part in (1.0, 0.2):
            further = effects + part * step
            there = programs.joint(head, further)
            up = there > height
            effects, height = np.where(up[:, :, None], further, effects), np.where(up, there, height)
            if (height > before).all():
                break
        if not (height > before + _GAIN).any():
            break
    return effects


def _curvatures(programs: _Programs, head: np.ndarray, effects: Draws) -> np.ndarray:
    """Minus the second derivatives, by central differences of the exact slope; subjects do not meet, so that all of
    them are moved at once."""
    moves = _WIDTH * np.eye(effects.shape[2])
    columns = [programs.rise(head, effects - move) - programs.rise(head, effects + move) for move in moves]
    matrix = np.stack(columns, axis=-1) / (2 * _WIDTH)
    return 0.5 * (matrix + np.swapaxes(matrix, 2, 3))


def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.sqrt(np.maximum(values, _LEAST_CURVATURE))[..., None, :]) @ np.swapaxes(vectors, -1, -2)


# --- of a posterior ------------------------------------------------------------------------------------------


def of_subjects(posterior: Posterior) -> Conditional:
    """The log likelihood of each subject of a posterior, given population and effects."""
    lay = posterior.layout

    def conditional(head, effects):
        terms = posterior.log_likelihood(jnp.concatenate([head, effects.ravel()]))
        return jax.ops.segment_sum(terms, jnp.asarray(posterior.records.subject), len(lay.subjects))

    return conditional


def split(posterior: Posterior, z: Float[np.ndarray, "draw coordinate"]) -> tuple[np.ndarray, np.ndarray]:
    """The population's coordinates and the effects (draw, subject, effect) of draws."""
    lay = posterior.layout
    count = len(lay.population)
    return z[:, :count], z[:, count:].reshape(len(z), len(lay.subjects), len(lay.columns))


def guess_effects(head: Float[np.ndarray, "draw coordinate"], effects: Draws,
                  at: Float[np.ndarray, "point coordinate"]) -> Guess:
    """Where the effects lie for given coordinates of the population, by linear regression over draws of both."""
    flat, design = effects.reshape(len(effects), -1), np.column_stack([np.ones(len(head)), head])
    slopes = np.linalg.lstsq(design, flat, rcond=None)[0]
    rest = (flat - design @ slopes).reshape(effects.shape)
    covariance = np.einsum("dsi,dsj->sij", rest, rest) / max(len(head) - design.shape[1], 1)
    centre = (np.column_stack([np.ones(len(at)), at]) @ slopes).reshape(len(at), *effects.shape[1:])
    return Guess(centre, np.linalg.cholesky(covariance + _WIDTH**2 * np.eye(effects.shape[2])))
