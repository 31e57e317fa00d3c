"""How well a posterior foretells what it has not seen: leave-one-out scores, and what they say of several models.

A score is the log density of a unit left out (a subject, an observation, a cohort) given all the others. It comes from
the draws of the whole posterior by Pareto-smoothed importance sampling, with ArviZ, or from draws of a posterior that
was made without the unit.

Source: Vehtari, Gelman & Gabry 2017, Stat Comput 27:1413; Vehtari et al. 2024, J Mach Learn Res 25:72 (Pareto k, and
the Monte-Carlo error); Yao et al. 2018, Bayesian Anal 13:917 (stacking).
"""

import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import logsumexp

_MOST_K = 0.7  # Pareto k above which no number of draws within reach makes importance weights good
_IMPOSSIBLE = 1e3  # log units below the likeliest draw; a likelihood of zero has no logarithm


def most_k(draws: int) -> float:
    """Pareto k above which importance weights of so many draws are not to be trusted, 0.7 from 2200 draws on.

    Source: Vehtari et al. 2024, J Mach Learn Res 25:72, on the least number of draws; as in ArviZ's `loo`.
    """
    return min(1 - 1 / math.log10(max(draws, 11)), _MOST_K)


class Scores(NamedTuple):
    """A value a unit: its log predictive density, how much the draws' own fit to it exceeds that (summed, the
    effective number of parameters), Monte-Carlo error, and Pareto k; NaN where the score is of a refit."""

    elpd: Float[np.ndarray, " unit"]
    optimism: Float[np.ndarray, " unit"]
    error: Float[np.ndarray, " unit"]
    pareto_k: Float[np.ndarray, " unit"]


def leave_one_out(log_likelihood: Float[np.ndarray, "chain draw unit"]) -> Scores:
    """Scores by importance weights, from draws of the posterior of all units."""
    return Scores(*np.array([_one_unit(values) for values in np.moveaxis(log_likelihood, -1, 0)]).T)


def _one_unit(log_likelihood: Float[np.ndarray, "chain draw"]) -> tuple[float, float, float, float]:
    values = np.maximum(log_likelihood, log_likelihood.max() - _IMPOSSIBLE)
    flat = values.ravel()
    efficiency = relative_efficiency(np.exp(values - values.max()))
    with np.errstate(over="ignore"):  # in ArviZ's fit of a Pareto tail, of a hypothesis that then weighs nothing
        log_weights, k = az.psislw(-flat, efficiency)
    elpd = float(logsumexp(log_weights + flat))
    weights = np.exp(log_weights)
    with np.errstate(over="ignore", invalid="ignore"):  # weights without bounds: the error has none either
        error = float(np.sqrt(np.sum(weights**2 * (np.exp(flat - elpd) - 1) ** 2) / efficiency))
    return elpd, float(logsumexp(flat) - np.log(len(flat))) - elpd, error if error < np.inf else float("inf"), float(k)


def left_out(log_likelihood: Float[np.ndarray, "chain draw"]) -> tuple[float, float]:
    """Score of a unit under draws of a posterior that was made without it, and its Monte-Carlo error."""
    flat = log_likelihood.ravel()
    elpd = float(logsumexp(flat) - np.log(len(flat)))
    relative = np.exp(log_likelihood - elpd)
    return elpd, float(np.std(relative) / np.sqrt(len(flat) * relative_efficiency(relative)))


def relative_efficiency(values: Float[np.ndarray, "chain draw"]) -> float:
    """Effective over actual number of draws for the mean of `values`; 1 where they do not vary."""
    if values.shape[1] < 4 or np.ptp(values) == 0:
        return 1.0
    return float(np.clip(az.ess(values, method="mean", relative=True), 1e-3, 1.0))


class Comparison(NamedTuple):
    """Of several models on the same units, best first: difference from the best with its standard error (over units,
    paired), and stacking weight."""

    names: tuple[str, ...]
    difference: Float[np.ndarray, " model"]
    error: Float[np.ndarray, " model"]
    weight: Float[np.ndarray, " model"]


def compare(elpd: Mapping[str, Float[np.ndarray, " unit"]]) -> Comparison:
    """Scores of models on the same units, side by side.

    What all models find hard to foretell is taken off each unit first: neither weights nor differences see it, and
    densities of whole cohorts are too small for floating point.
    """
    highest = np.max(list(elpd.values()), axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, to ArviZ
        table = az.compare({name: _for_arviz(values - highest) for name, values in elpd.items()}, ic="loo", scale="log")
    return Comparison(tuple(str(name) for name in table.index),
                      *(-table[key].to_numpy(float) if key == "elpd_diff" else table[key].to_numpy(float)
                        for key in ("elpd_diff", "dse", "weight")))


def _for_arviz(values: Float[np.ndarray, " unit"]) -> az.ELPDData:
    count = len(values)
    content = {"elpd_loo": values.sum(), "se": np.sqrt(count * np.var(values)), "p_loo": 0.0, "n_samples": count,
               "n_data_points": count, "warning": False, "loo_i": xr.DataArray(values, dims="unit"), "scale": "log"}
    return az.ELPDData(data=list(content.values()), index=list(content))


def standard_error(values: Float[np.ndarray, " unit"]) -> float:
    """Of their sum, from their spread over units."""
    return float(np.sqrt(len(values) * np.var(values, ddof=1))) if len(values) > 1 else float("nan")
