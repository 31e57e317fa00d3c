"""What every other reading of a log density hands over: draws that are no NUTS run, and what they are worth.

They are for quick looks and for posteriors of several modes. The gates of a fit ask whether chains agree; none of that
can be asked of these draws, so that no number of them may be quoted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from thymodel.errors import Fault, InputError
from thymodel.inference.diagnostics import (
    Verdict,
    az,  # imported there without its daily notice
)

NUTS = "nuts"
NAMES = {"map": "MAP (the highest mode, a single point)",
         "laplace": "Laplace (a normal at each mode)",
         "pathfinder": "Pathfinder (normals along searches for a mode)",
         "smc": "SMC (particles tempered from the prior)"}
METHODS = (NUTS, *NAMES)
MOST_K = 0.7  # Pareto k above which importance weights cannot be relied on
_NOTHING = -700.0  # log weight, finite for the fit of a tail
_SAME = 0.1  # log units: weights between 0.9 and 1.1 have no tail worth a k
_UNUSED = {"map": ("warmup", "draws", "chains"), "laplace": ("warmup",), "pathfinder": ("warmup",), "smc": ("warmup",)}


class Approximation(NamedTuple):
    """`told` is for the record, as numbers; `sentences` say the same in words. `z` is in the coordinates of the log
    density, and so is `log_density`."""

    method: str
    z: Float[np.ndarray, "chain draw coordinate"]
    log_density: Float[np.ndarray, "chain draw"]
    told: dict[str, Any]
    sentences: tuple[str, ...]


class Weights(NamedTuple):
    """Smoothed importance weights, normalised, in logarithms; Pareto k; draws that the weights leave; the log of the
    mean of the ratios, which estimates the log of the target's mass."""

    log: Float[np.ndarray, " draw"]
    pareto_k: float
    ess: float
    log_mass: float

    @property
    def good(self) -> bool:
        return self.pareto_k < MOST_K

    @property
    def sentence(self) -> str:
        if self.pareto_k == -np.inf:
            return "the importance weights are all but equal: a good likeness of the posterior"
        worth = ("below" if self.good else "NOT below") + f" {MOST_K:g}"
        meant = "a fair likeness of the posterior" if self.good else "a poor likeness of the posterior"
        return (f"Pareto k of the importance weights {self.pareto_k:.2f}, {worth}: {meant}; "
                f"{len(self.log)} draws are worth {self.ess:.0f}")


def weigh(log_ratios: Float[np.ndarray, " draw"]) -> Weights:
    """Importance weights of draws from g for a target p, given log p - log g; minus infinity is a weight of nothing.

    Source: Vehtari et al. 2024, J Mach Learn Res 25:72 (Pareto smoothing; k below 0.7 is reliable).
    """
    ratios = np.where(np.isfinite(log_ratios), log_ratios, -np.inf)
    top = ratios.max()
    mass = float(top + np.log(np.mean(np.exp(ratios - top))))
    if np.ptp(ratios) < _SAME:
        log, k = ratios - top, -np.inf  # no tail at all
    else:
        with np.errstate(over="ignore"):  # in ArviZ's fit of a Pareto tail, of a hypothesis that then weighs nothing
            log, k = az.psislw(np.maximum(ratios - top, _NOTHING))
    weights = np.exp(np.asarray(log))
    weights /= weights.sum()
    with np.errstate(divide="ignore"):
        return Weights(np.log(weights), float(k), float(1.0 / np.sum(weights**2)), mass)


def verdict(method: str, sentences: Sequence[str]) -> Verdict:
    """What stands where a NUTS run has its gates: never passed."""
    first = f"{NAMES[method]} is an approximation: not for quotation; the gates of NUTS do not apply"
    return Verdict(False, (first, *(f"note: {sentence}" for sentence in sentences)))


def refuse(method: str, resume: bool, overrides: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown method, and for options that mean nothing to it."""
    if method not in METHODS:
        raise InputError([Fault(f"--method {method}", "no such method", f"one of: {', '.join(METHODS)}")])
    given = [key for key in _UNUSED.get(method, ()) if overrides.get(key) is not None]
    faults = [Fault(f"--{key} {overrides[key]}", f"means nothing to --method {method}", "leave it out")
              for key in given]
    if resume and method != NUTS:
        faults.insert(0, Fault("--resume", f"--method {method} keeps no checkpoint to go on from",
                               "leave it out: the fit begins anew"))
    if faults:
        raise InputError(faults)
