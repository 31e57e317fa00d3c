"""Pathfinder: the best normal along each of several searches for a mode, then importance resampling of all of them.

Source: Zhang, Carpenter, Gelman & Vehtari 2022, J Mach Learn Res 23:306, as in BlackJAX (`blackjax.vi.pathfinder`),
with two differences. BlackJAX 1.7.1 keeps along a search the gradient of minus the log density, and centres each normal
by it as if it were that of the log density: on the wrong side of the point. Here the gradient is given anew, and the
normals are judged again. And importance ratios are to the mixture of the normals, not each to its own: with their own,
a mode that several searches end in counts several times (balance heuristic: Veach & Guibas 1995, SIGGRAPH, 419).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.optimizers.lbfgs import lbfgs_inverse_hessian_formula_1
from blackjax.vi import pathfinder
from jaxtyping import Array, Float
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from thymodel.errors import ThymodelError
from thymodel.inference.approximation import Approximation, weigh
from thymodel.inference.sampling import LogDensity, Settings

PATHS = 8
_POOL = 2  # draws of the normals for each that is resampled
_ITERATIONS, _HISTORY = 200, 10  # of a search, and of its memory
_FLAT, _LEVEL = 1e-9, 1e-6  # change of the log density and gradient at which a search ends
_LINE_SEARCH = 30  # steps; more only halve what is too short already
_JUDGED_BY = 25  # draws of each normal


class _Path(NamedTuple):
    """The best normal of a search, draws of it with their log densities, and what it was judged by."""

    mean: Array
    covariance: Array
    draws: Array
    log_density: Array
    elbo: Array
    place: Array  # on the search; the last place that it came to is `length`
    length: Array


def follow(log_density: LogDensity, starts: Float[np.ndarray, "path coordinate"], settings: Settings,
           tables: tuple[Any, ...] = ()) -> Approximation:
    """Draws of multi-path Pathfinder.

    Args:
        starts: draws of the prior with a finite log density.

    Raises:
        ThymodelError: no search gave a normal.
    """
    count = settings.chains * settings.draws
    each = -(-_POOL * count // len(starts))
    keys, tables = jax.random.split(jax.random.PRNGKey(settings.seed), len(starts)), jax.device_put(tables)
    search = _searcher(log_density, each).lower(keys[0], jnp.asarray(starts[0]), tables).compile()
    # one after the other: programs with linear algebra inside, run in several threads, can wait for each other for ever
    paths = [jax.tree.map(np.asarray, search(key, jnp.asarray(start), tables))
             for key, start in zip(keys, starts, strict=True)]
    paths = [path for path in paths if np.isfinite(path.elbo) and np.isfinite(path.draws).all()]
    if not paths:
        raise ThymodelError("no search of Pathfinder gave a normal with a finite log density. hint: --method smc")
    pool_z = np.concatenate([path.draws for path in paths])
    values = np.concatenate([path.log_density for path in paths])
    log_mixture = logsumexp([_log_normal(path, pool_z) for path in paths], axis=0) - np.log(len(paths))
    weights = weigh(values - log_mixture)
    random = np.random.default_rng(settings.seed)
    chosen = random.choice(len(pool_z), size=(settings.chains, settings.draws), p=np.exp(weights.log))
    told = {"pareto_k": weights.pareto_k, "weight_ess": weights.ess, "log_evidence": weights.log_mass,
            "distinct_draws": len(np.unique(chosen)),
            "paths": [{"elbo": float(path.elbo), "place": int(path.place), "length": int(path.length)}
                      for path in paths], "paths_lost": len(starts) - len(paths)}
    words = [weights.sentence, f"{len(paths)} of {len(starts)} searches gave a normal; {told['distinct_draws']} of "
             f"{count} resampled draws are distinct"]
    return Approximation("pathfinder", pool_z[chosen], values[chosen], told, tuple(words))


def _searcher(log_density: LogDensity, draws: int):
    """A function to be compiled, (key, start, tables) -> _Path."""

    @jax.jit
    def search(key: Array, start: Array, tables) -> _Path:
        def density(z):
            return log_density(z, *tables)

        def value(z):
            found = density(z)
            return jnp.where(jnp.isfinite(found), found, -jnp.inf)

        along, judging, drawing = jax.random.split(key, 3)
        _, info = pathfinder.approximate(along, value, start, num_samples=1, maxiter=_ITERATIONS, maxcor=_HISTORY,
                                         maxls=_LINE_SEARCH, gtol=_LEVEL, ftol=_FLAT)
        path = info.path
        moved = jnp.any(path.position[1:] != path.position[:-1], axis=-1)
        moved = jnp.concatenate([jnp.array([True]), moved])

        def judge(place):
            key, moved, state = place

            def elbo(_):
                found, log_normal = pathfinder.sample(key, centred(state), _JUDGED_BY)
                mean = jnp.mean(jax.lax.map(value, found) - log_normal)
                return jnp.where(jnp.isfinite(mean), mean, -jnp.inf)

            return jax.lax.cond(moved, elbo, lambda _: -jnp.inf, None)

        def centred(state):
            return state._replace(grad_position=jax.grad(density)(state.position))

        elbos = jax.lax.map(judge, (jax.random.split(judging, len(moved)), moved, path))
        place = jnp.argmax(elbos)
        best = centred(jax.tree.map(lambda leaf: leaf[place], path))
        covariance = lbfgs_inverse_hessian_formula_1(best.alpha, best.beta, best.gamma)
        found, _ = pathfinder.sample(drawing, best, draws)
        return _Path(best.position + covariance @ best.grad_position, covariance, found, jax.lax.map(value, found),
                     elbos[place], place, jnp.sum(moved) - 1)

    return search


def _log_normal(path: _Path, points: Float[np.ndarray, "draw coordinate"]) -> Float[np.ndarray, " draw"]:
    factor = np.linalg.cholesky(path.covariance)
    u = solve_triangular(factor, (points - path.mean).T, lower=True)
    return -0.5 * (u**2).sum(axis=0) - np.log(np.diag(factor)).sum() - 0.5 * len(factor) * np.log(2 * np.pi)
