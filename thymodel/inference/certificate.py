"""What the solver's errors do to a posterior: the log density of draws again, with every step made in two.

Draws are from exp(l), l the log density with the steps that were used; those of exp(l') have importance weights
exp(l' - l). Where these are all but equal the numerics do not matter; where their tail is heavy the draws are those of
another posterior.

Source: Vehtari et al. 2024, J Mach Learn Res 25:72 (Pareto-smoothed importance sampling; k-hat below 0.7 is reliable).
"""

from typing import Any, NamedTuple

import arviz as az
import jax
import numpy as np
from jaxtyping import Float

from thymodel.dynamics import kernel
from thymodel.dynamics.solving import Accuracy, Tables
from thymodel.inference.posterior import Posterior

_SAME = 0.1  # log units: weights between 0.9 and 1.1 have no tail worth a k-hat


class Certificate(NamedTuple):
    """`sd` and `largest` are of l' - l over `draws`, its mean taken off; `weight_ess` is the share of the draws that
    reweighting would leave. `good` is whether the draws can stand as they are."""

    draws: int
    sd: float
    largest: float
    pareto_k: float
    weight_ess: float
    good: bool


def certify(posterior: Posterior, z: Float[np.ndarray, "draw coordinate"], used: Float[np.ndarray, " draw"],
            most_k: float) -> Certificate:
    """The certificate of some draws.

    Args:
        z: draws, a few hundred of them, evenly spaced.
        used: their log density as the sampler saw it.
        most_k: k-hat from which on the draws are refused.
    """
    evaluate = jax.jit(lambda points, data: jax.lax.map(lambda point: posterior.density(point, data), points))
    finer = posterior.data._replace(solver=_finer(posterior.data.solver))
    return judge(np.asarray(evaluate(z, finer)) - used, most_k)


def judge(difference: Float[np.ndarray, " draw"], most_k: float) -> Certificate:
    """The certificate that differences of the log density deserve; one that is not finite is refused."""
    if not np.isfinite(difference).all():
        return Certificate(len(difference), float("nan"), float("inf"), float("inf"), 0.0, False)
    centred = difference - difference.mean()
    weights, k = az.psislw(centred)
    share = float(np.exp(-_log_sum(2 * np.asarray(weights))) / len(centred))
    largest = float(np.max(np.abs(centred)))
    return Certificate(len(centred), float(centred.std()), largest, float(k), share,
                       bool(largest < _SAME or k < most_k))


def _log_sum(values: np.ndarray) -> float:
    top = values.max()
    return float(top + np.log(np.sum(np.exp(values - top))))


def _finer(tables: Tables) -> Tables:
    """Steps of half the length, or for the adaptive solver a tolerance a hundred times smaller."""
    if tables.grid is not None:
        return tables._replace(grid=kernel.halved(tables.grid))
    accuracy = tables.accuracy
    return tables._replace(accuracy=Accuracy(0.01 * accuracy.rtol, 0.01 * accuracy.atol))


def as_record(certificate: Certificate) -> dict[str, Any]:
    """For JSON, where infinity has no place."""
    return {key: value if not isinstance(value, float) or np.isfinite(value) else None
            for key, value in certificate._asdict().items()}
