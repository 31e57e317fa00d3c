"""Draws -> verdict against the gates of the spec. The one file that adapts to ArviZ's versions."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from thymodel.documents.spec import GatesTable

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version to every user once a day
    import arviz as az

INTERVAL = (0.05, 0.95)  # equal-tailed 90%: named wherever it is printed
INTERVAL_NAME = "equal-tailed 90%"
COLUMNS = ("mean", "sd", "median", "q05", "q95", "mcse_mean", "mcse_sd", "rhat", "ess_bulk", "ess_tail")


@dataclass(frozen=True)
class Verdict:
    """`passed`, a sentence for each gate, and a note if the draws were not made in the usual way."""

    passed: bool
    sentences: tuple[str, ...]


def summary_row(values: Float[np.ndarray, "chain draw"]) -> dict[str, float]:
    """Summary of one quantity: moments, equal-tailed interval, Monte-Carlo errors, R-hat (rank-normalised), ESS.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, Bayesian Anal 16:667, as in ArviZ. A quantity that does
    not vary has no R-hat (NaN).
    """
    values = np.asarray(values, float)
    flat = values.ravel()
    finite = bool(np.isfinite(flat).all())
    # a time that is never reached is infinite: an order statistic exists then, a standard deviation does not
    method: Any = "linear" if finite else "inverted_cdf"
    low, middle, high = (np.quantile(flat, q, method=method) for q in (INTERVAL[0], 0.5, INTERVAL[1]))
    row = {"mean": flat.mean(), "sd": flat.std(ddof=1) if finite and len(flat) > 1 else float("nan"),
           "median": middle, "q05": low, "q95": high}
    constant = not finite or np.ptp(flat) == 0.0
    measures = {"mcse_mean": lambda v: az.mcse(v, method="mean"), "mcse_sd": lambda v: az.mcse(v, method="sd"),
                "rhat": az.rhat, "ess_bulk": lambda v: az.ess(v, method="bulk"),
                "ess_tail": lambda v: az.ess(v, method="tail")}
    return row | {key: float("nan") if constant else float(f(values)) for key, f in measures.items()}


def summary_table(quantities: Mapping[str, Float[np.ndarray, "chain draw"]]) -> pd.DataFrame:
    """One row a quantity."""
    return pd.DataFrame.from_dict({name: summary_row(v) for name, v in quantities.items()}, orient="index",
                                  columns=list(COLUMNS))


def bulk_ess(values: Float[np.ndarray, "chain draw"]) -> float:
    """Independent draws that these are worth; NaN where nothing varies."""
    values = np.asarray(values, float)
    if not np.isfinite(values).all() or np.ptp(values) == 0.0:
        return float("nan")
    return float(az.ess(values, method="bulk"))


def share_error(held: Bool[np.ndarray, "chain draw"]) -> float:
    """Monte-Carlo standard error of the share of draws in which something holds; NaN where it does in all or in none.

    Source: sqrt(p (1 - p)/ESS), Vehtari et al. 2021, Bayesian Anal 16:667, section 4.
    """
    share = float(held.mean())
    if not 0.0 < share < 1.0:
        return float("nan")
    return float(np.sqrt(share * (1.0 - share) / az.ess(held.astype(float), method="mean")))


def energy_fraction(energy: Float[np.ndarray, "chain draw"]) -> np.ndarray:
    """E-BFMI by chain; below 0.3 the sampler moves poorly between energies (Betancourt 2016, arXiv:1604.00695)."""
    return np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)


def worst_rhat(z: Float[np.ndarray, "chain draw coordinate"]) -> float:
    """Largest R-hat over the coordinates and their distances from the median.

    Infinite where nothing moves; 1 where the draws are too few to say anything.

    Source: Gelman et al. 2013, Bayesian Data Analysis, section 11.4 (chains in halves); Vehtari et al. 2021, Bayesian
    Anal 16:667 (distances, for chains that differ in width).
    """
    half = z.shape[1] // 2
    if half < 2:
        return 1.0
    halves = np.concatenate([z[:, :half], z[:, -half:]])
    both = np.concatenate([halves, np.abs(halves - np.median(halves, axis=(0, 1)))], axis=-1)
    within = both.var(axis=1, ddof=1).mean(axis=0)
    between = both.mean(axis=1).var(axis=0, ddof=1)
    if not (np.isfinite(both).all() and (within > 0.0).all()):
        return float("inf")
    return float(np.sqrt((half - 1) / half + between / within).max())


def judge(table: pd.DataFrame, divergences: int, failed_solves: int, steps: int, gates: GatesTable,
          certificate: Mapping[str, Any] | None = None, notes: Sequence[str] = ()) -> Verdict:
    """The verdict in words: every gate with its worst quantity.

    Args:
        table: population quantities and derived ones. Rows that do not vary, and times that some draws never reach,
            are not judged; any other row without an R-hat (a single chain, a draw that is not a number) fails.
        failed_solves: integrations that failed inside the sampler after warm-up, of `steps` then made.
        certificate: of the numerics, as in the record.
        notes: how the draws were made if not in the usual way, the modes if there are several; said, not judged.
    """
    checks = [
        *_mixing(table, gates),
        _count(divergences, gates.divergences, "divergent transitions after warm-up"),
        (failed_solves <= gates.failed_solves * steps,
         f"{failed_solves} of {steps} solves failed inside the sampler after warm-up "
         f"(allowed share {gates.failed_solves:g})"),
    ]
    checks += [] if certificate is None else [(bool(certificate["good"]), _numerics(certificate, gates.pareto_k))]
    sentences = [f"{'pass' if ok else 'FAIL'}: {text}" for ok, text in checks]
    return Verdict(all(ok for ok, _ in checks), (*sentences, *(f"note: {text}" for text in notes if text)))


def lacking(table: pd.DataFrame, gates: GatesTable) -> str:
    """Which gates on mixing are not met, in words: what more draws may mend. Empty if all are."""
    return ", ".join(text for ok, text in _mixing(table, gates) if not ok)


def _mixing(table: pd.DataFrame, gates: GatesTable) -> list[tuple[bool, str]]:
    settled = table["rhat"].isna() & ((table["q05"] == table["q95"]) | np.isinf(table["mean"]))
    live = table[~settled]
    return [_gate(live["rhat"], gates.rhat, "R-hat", below=True, digits=4),
            _gate(live["ess_bulk"], gates.ess_bulk, "bulk ESS", below=False, digits=0),
            _gate(live["ess_tail"], gates.ess_tail, "tail ESS", below=False, digits=0)]


def _gate(values: pd.Series, bound: float, name: str, below: bool, digits: int) -> tuple[bool, str]:
    """A value that is missing is the worst, and no comparison with it holds."""
    if values.empty:
        return False, f"no quantity varies, so that there is no {name} to judge"
    where = values.fillna(np.inf).idxmax() if below else values.fillna(-np.inf).idxmin()
    value = float(values[where])
    good = value < bound if below else value > bound
    return good, f"worst {name} {value:.{digits}f} ({where}), gate {'<' if below else '>'} {bound:g}"


def _numerics(certificate: Mapping[str, Any], bound: float) -> str:
    if certificate["pareto_k"] is None:
        return "a draw's log density is not finite when the solver's steps are halved"
    return (f"halving the solver's steps changes the log density by {certificate['largest']:.2g} at most over "
            f"{certificate['draws']} draws (Pareto k {certificate['pareto_k']:.2f}; gate < {bound:g} or change < 0.1)")


def _count(value: int, bound: int, name: str) -> tuple[bool, str]:
    return value <= bound, f"{value} {name}, gate <= {bound}"
