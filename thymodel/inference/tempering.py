"""Adaptive tempered sequential Monte Carlo: particles of the prior, brought to the posterior by raising the likelihood
from the power 0 to 1, each power as far as the weights allow, with resampling and Hamiltonian moves in between.

Several modes each keep the particles that fell to them, and the weights estimate the evidence. Each chain is a run of
its own: how runs differ is the Monte-Carlo error, of the evidence too.

Source: Del Moral, Doucet & Jasra 2006, J R Stat Soc B 68:411; powers by effective sample size as in Jasra et al. 2011,
Scand J Stat 38:1; BlackJAX (`blackjax.smc.adaptive_tempered`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import hmc
from blackjax.smc import adaptive_tempered, resampling
from jaxtyping import Array, Float
from scipy.special import logsumexp

from thymodel.errors import ThymodelError
from thymodel.inference.approximation import Approximation
from thymodel.inference.diagnostics import worst_rhat
from thymodel.inference.sampling import LogDensity, Progress

_KEPT = 0.5  # share of the particles that the weights of one power leave
_MOVES = 4  # of every particle at each power
_LAST = 3  # times as many once the power is 1
_LENGTH, _MOST_STEPS = 1.5, 32  # of a move, in standard deviations of the particles; of its steps
_ACCEPTED = 0.8  # share of the moves that the step is adapted to
_DENSE = 10  # particles for each coordinate, from which on their covariances are worth knowing
_NOTHING = -1e30  # log likelihood where a solve failed; finite, for at the power 0 it is multiplied by 0
_POWERS = 1000  # at most
_ONE = 1.0 - 1e-9


class _Run(NamedTuple):
    particles: np.ndarray
    log_evidence: float
    powers: list[float]
    accepted: list[float]


def temper(log_density: LogDensity, log_prior: Callable[[Array], Array],
           particles: Float[np.ndarray, "run particle coordinate"], seed: int, tables: tuple[Any, ...] = (),
           progress: Progress | None = None) -> Approximation:
    """Particles of the posterior and the log evidence, the log of the integral of exp(log_density).

    Args:
        log_density: log prior + log likelihood, with all constants; minus infinity where a solve failed.
        log_prior: of the same coordinates, normalised.
        particles: independent draws of the prior; each run becomes a chain.

    Raises:
        ThymodelError: the powers do not arrive at 1.
    """
    tables, state = jax.device_put(tables), _begin(particles[0])
    evaluate = jax.jit(lambda points, tables: jax.lax.map(lambda point: log_density(point, *tables), points))

    def log_densities(z: np.ndarray) -> np.ndarray:
        return np.asarray(evaluate(z.reshape(-1, z.shape[-1]), tables)).reshape(z.shape[:2])

    if not np.isfinite(log_densities(particles)).any(axis=1).all():
        raise _lost()
    step = _stepper(log_density, log_prior).lower(jax.random.PRNGKey(seed), state, _moves(state, 1.0), tables).compile()

    def run(k: int) -> _Run:
        key = jax.random.fold_in(jax.random.PRNGKey(seed), k)
        return _run(step, particles[k], key, tables, k, progress)

    # one after the other: programs with linear algebra inside, run in several threads, can wait for each other for ever
    runs = [run(k) for k in range(len(particles))]
    z = np.stack([one.particles for one in runs])
    values = log_densities(z)
    if not np.isfinite(values).all():
        raise _lost()
    evidence, error = _evidence([one.log_evidence for one in runs])
    told = {"log_evidence": evidence, "log_evidence_error": error,
            "log_evidence_of_runs": [one.log_evidence for one in runs], "particles": particles.shape[1],
            "powers": [one.powers for one in runs], "accepted": [one.accepted for one in runs]}
    return Approximation("smc", z, values, told, tuple(_words(told, runs, worst_rhat(z))))


def _evidence(logs: list[float]) -> tuple[float, float | None]:
    """The log of the mean of the runs' estimates, and its standard error (delta method); unbiased before the log."""
    together = float(logsumexp(logs) - np.log(len(logs)))
    if len(logs) < 2:
        return together, None
    return together, float(np.std(np.exp(np.array(logs) - together), ddof=1) / np.sqrt(len(logs)))


def _words(told: dict[str, Any], runs: list[_Run], rhat: float) -> list[str]:
    error = told["log_evidence_error"]
    shown = "its error is not known from a single run" if error is None else f"standard error {error:.2g}"
    powers = sorted({len(one.powers) for one in runs})
    between = f"{powers[0]}" if len(powers) == 1 else f"{powers[0]} to {powers[-1]}"
    return [f"log evidence {told['log_evidence']:.2f} ({shown}), from {len(runs)} independent runs of "
            f"{told['particles']} particles over {between} powers of the likelihood",
            f"{np.mean([one.accepted[-1] for one in runs]):.0%} of the last moves were accepted; worst R-hat between "
            f"runs {rhat:.3f}"]


def _stepper(log_density: LogDensity, log_prior: Callable[[Array], Array]):
    """A function to be compiled, (key, state, parameters, tables) -> the state one power on, by how much the log
    evidence grew, the share of moves accepted."""

    @jax.jit
    def step(key: Array, state, parameters, tables):
        def log_likelihood(z):
            found = log_density(z, *tables) - log_prior(z)
            return jnp.where(jnp.isfinite(found), found, _NOTHING)

        kernel = adaptive_tempered.build_kernel(log_prior, log_likelihood, hmc.build_kernel(), hmc.init,
                                                resampling.systematic, _KEPT)
        state, info = kernel(key, state, _MOVES, parameters)
        return state, info.log_likelihood_increment, jnp.mean(info.update_info.acceptance_rate)

    return step


def _run(step, particles: np.ndarray, key: Array, tables, number: int, progress: Progress | None) -> _Run:
    state, width = _begin(particles), particles.shape[1] ** -0.25
    evidence, powers, accepted, moved_there = 0.0, [0.0], [], 0
    for k in range(_POWERS):
        arrived = powers[-1] >= _ONE
        state, increment, share = step(jax.random.fold_in(key, k), state, _moves(state, width), tables)
        accepted.append(float(share))
        width = float(np.clip(width * np.exp(accepted[-1] - _ACCEPTED), 1e-3, _LENGTH))
        if arrived:  # resampled and moved at the power 1; nothing is weighted any more
            moved_there += 1
            if moved_there == _LAST:
                return _Run(np.asarray(state.particles), evidence, powers[1:], accepted)
            continue
        evidence += float(increment)
        powers.append(float(state.tempering_param))
        if not (np.isfinite(evidence) and np.isfinite(powers[-1])):
            break
        if progress is not None:
            progress(number, int(100 * powers[-1]), 100, 0)
    raise _lost()


def _lost() -> ThymodelError:
    return ThymodelError("the particles of SMC did not arrive at the posterior. hint: look at a prior predictive "
                         "simulation")


def _begin(particles: np.ndarray):
    return adaptive_tempered.init(jnp.asarray(particles))._replace(tempering_param=jnp.asarray(0.0))


def _moves(state, width: float) -> dict[str, Array]:
    """Parameters of the Hamiltonian moves, from where the weighted particles are; BlackJAX wants a leading 1."""
    z, weights = np.asarray(state.particles), np.asarray(state.weights)
    mean = weights @ z
    away = z - mean
    variances = weights @ away**2 + 1e-12
    matrix = (away.T * weights) @ away + 1e-9 * np.eye(len(mean)) if len(z) >= _DENSE * len(mean) else variances
    steps = int(np.clip(np.ceil(_LENGTH / width), 1, _MOST_STEPS))
    return {"step_size": jnp.asarray([width]), "inverse_mass_matrix": jnp.asarray(matrix)[None],
            "num_integration_steps": jnp.asarray([steps])}
