"""What the draws of a posterior say of another one near it: importance weights, smoothed, never beyond their reach.

Power-scaling asks what a posterior would be with its prior or its likelihood raised to a power close to one; a tipping
point, how far a prior must move before a probability crosses a target.

Source: Kallioinen, Paananen, Buerkner & Vehtari 2024, Stat Comput 34:57 (power-scaling, its distance and threshold);
Vehtari et al. 2024, J Mach Learn Res 25:72 (Pareto-smoothed importance sampling).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from thymodel.documents.priors import log_kernel
from thymodel.inference import borrowing
from thymodel.inference.population import Layout, correlation_factor, population_values, residual_matrix
from thymodel.inference.scoring import most_k, relative_efficiency

SENSITIVE = 0.05  # of the distance per doubling of the power, the paper's threshold
CONFLICT, STRONG, NEITHER = "prior-data conflict", "strong prior / weak likelihood", "-"
_POWER = 0.01  # that the powers differ from one, as in the paper
_SAME = 0.2  # log units: weights within 10% of each other have no tail worth a k-hat
_LEAST_SPREAD = 1e-12  # of its mean; what varies less does not vary

Draws = Float[np.ndarray, "chain draw"]


# --- terms of the log density --------------------------------------------------------------------------------


def natural_values(lay: Layout, z: Float[np.ndarray, "chain draw coordinate"]) -> dict[str, Draws]:
    """Population parameters by name."""
    program = jax.jit(lambda points: jax.lax.map(lambda point: population_values(lay, point), points))
    found = program(jnp.asarray(z.reshape(-1, z.shape[-1])))
    return {name: np.asarray(values).reshape(z.shape[:2]) for name, values in found.items()}


def log_priors(lay: Layout, z: Float[np.ndarray, "chain draw coordinate"]) -> dict[str, Draws]:
    """Log prior of each population parameter less a constant, on the scale that its prior is written on.

    Those taken from a record are one term, `prior_from`.
    All correlations of random effects are one term, `corr`; those of residuals `corr_residual`. The random effects
    themselves have none: their distribution is part of the model, and its spread has a prior of its own.
    """
    values = natural_values(lay, z)
    taken = lay.borrowed.names if lay.borrowed is not None else ()
    terms = {name: np.asarray(log_kernel(prior, values[name])) for name, prior in lay.priors.items()
             if name not in taken}
    flat = jnp.asarray(z.reshape(-1, z.shape[-1]))
    if lay.borrowed is not None:
        own = flat[:, borrowing.places(lay.population, lay.borrowed)]
        terms["prior_from"] = np.asarray(borrowing.log_density(lay.borrowed, own)).reshape(z.shape[:2])
    if lay.correlated:
        def factor(point):
            return correlation_factor(lay, dict(zip(lay.population, point, strict=False)))

        determinants = jax.vmap(lambda point: 2 * jnp.sum(jnp.log(jnp.diag(factor(point)))))(flat)
        terms["corr"] = (lay.correlation_shape - 1) * np.asarray(determinants).reshape(z.shape[:2])
    for block in lay.shared_errors:
        matrix = jax.vmap(lambda one, block=block: residual_matrix(block, one))
        determinants = jnp.linalg.slogdet(matrix({name: values[name].ravel() for name in block.names}))[1]
        term = (block.shape - 1) * np.asarray(determinants).reshape(z.shape[:2])
        terms["corr_residual"] = terms.get("corr_residual", 0.0) + term
    return terms


# --- power-scaling -------------------------------------------------------------------------------------------


def power_sensitivity(quantities: Mapping[str, Draws], term: Draws) -> dict[str, float]:
    """How fast each quantity's posterior moves as a term of the log density is raised to a power: cumulative
    Jensen-Shannon distance per doubling of the power, at power one. NaN for a quantity that does not vary, 0 for a
    term that does not."""
    moving = {name: values for name, values in quantities.items() if _varies(values)}
    found = dict.fromkeys(quantities, float("nan"))
    if not moving or not _varies(term):
        return found | dict.fromkeys(moving, 0.0)
    dims = ("chain", "draw")
    data = az.InferenceData(posterior=xr.Dataset({str(k): (dims, v) for k, v in enumerate(moving.values())}),
                            log_prior=xr.Dataset({"term": (dims, term)}))
    with np.errstate(over="ignore"):  # in ArviZ's fit of a Pareto tail, of a hypothesis that then weighs nothing
        distances = az.psens(data, component="prior", delta=_POWER)
    return found | {name: float(distances[str(k)]) for k, name in enumerate(moving)}


def _varies(values: Draws) -> bool:
    return bool(np.ptp(values) > _LEAST_SPREAD * np.abs(values).max())


def power_k(term: Draws) -> float:
    """Pareto k of the weights that power-scaling gives the draws, the worse of the two powers."""
    return max(smooth(step * term).pareto_k for step in (_POWER, 1 / (1 + _POWER) - 1))


def diagnose(prior: float, likelihood: float) -> str:
    """What the two sensitivities of a quantity mean."""
    if not prior >= SENSITIVE:
        return NEITHER
    return CONFLICT if likelihood >= SENSITIVE else STRONG


# --- weights -------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Normalised, smoothed; with a larger Pareto k than `most_k` they are not to be used."""

    values: Draws
    pareto_k: float

    @property
    def good(self) -> bool:
        return self.pareto_k <= most_k(self.values.size)


def smooth(log_ratio: Draws) -> Weights:
    """Weights of draws, from the log of the density that is asked about over the one that they are from."""
    centred = log_ratio - log_ratio.max()
    if np.ptp(log_ratio) < _SAME:
        return Weights(np.exp(centred) / np.exp(centred).sum(), 0.0)
    with np.errstate(over="ignore"):  # as in `power_sensitivity`
        log_weights, k = az.psislw(centred.ravel(), relative_efficiency(np.exp(centred)))
    return Weights(np.exp(log_weights).reshape(log_ratio.shape), float(k))


def expectation(values: Draws, weights: Weights) -> tuple[float, float]:
    """Weighted mean and its Monte-Carlo error."""
    mean = float(np.sum(weights.values * values))
    away = weights.values * (values - mean)
    return mean, float(np.sqrt(np.sum(away**2) / relative_efficiency(away)))


# --- tipping points ------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One amount by which a prior was changed: expectation of each quantity there, its error, and Pareto k."""

    amount: float
    means: dict[str, float]
    errors: dict[str, float]
    pareto_k: float


class Tip(NamedTuple):
    """Where one quantity crosses the target on one way out: `amount` with its Monte-Carlo error, NaN where it does not
    as far as `reach`, the last amount that the weights can be trusted at; `mean` and `pareto_k` are of the last step
    on this side."""

    amount: float
    error: float
    reach: float
    mean: float
    pareto_k: float


LogRatio = Callable[[float], Draws]  # amount -> log prior changed by it, over the prior that the draws are of


def walk(quantities: Mapping[str, Draws], log_ratio: LogRatio, amounts: Sequence[float]) -> list[Step]:
    """Expectations along ever larger changes of a prior, ended by the first whose weights cannot be trusted."""
    steps = []
    for amount in amounts:
        weights = smooth(log_ratio(amount))
        if not weights.good:
            break
        found = {name: expectation(values, weights) for name, values in quantities.items()}
        steps.append(Step(amount, {n: m for n, (m, _) in found.items()}, {n: e for n, (_, e) in found.items()},
                          weights.pareto_k))
    return steps


def find_tip(steps: Sequence[Step], name: str, target: float) -> Tip:
    """The first crossing along a walk, between two steps along a straight line."""
    for one, other in zip(steps, steps[1:], strict=False):
        before, after = one.means[name] - target, other.means[name] - target
        if before * after <= 0 and before != after:
            part = before / (before - after)
            slope = abs((after - before) / (other.amount - one.amount))
            amount = one.amount + part * (other.amount - one.amount)
            return Tip(amount, max(one.errors[name], other.errors[name]) / slope, steps[-1].amount, target,
                       other.pareto_k)
    last = steps[-1]
    return Tip(float("nan"), float("nan"), last.amount, last.means[name], last.pareto_k)
