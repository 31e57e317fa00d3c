"""Implied thymic export: what a prediction asks of the thymus, over what a healthy thymus of that age exports.

Blood holds some 2% of the T cells, so that a rise of counts that looks small may need more new cells than any thymus
makes. The model document says what is healthy (`healthy` of an observable) and the most that is thought possible
(`highest`), both as expressions of parameters and covariates: no number of a thymus is written here. A model without
them cannot be asked. Counts of such a model could be turned into cells of the whole body, but its counts hold cells
that divided after the thymus too, and the answer would accuse every curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from thymodel.documents.model import Model, ratios
from thymodel.documents.spec import Endpoint, FitSpec
from thymodel.inference.diagnostics import INTERVAL, INTERVAL_NAME
from thymodel.results.endpoints import by_draws

DAY = 100.0  # the day of the family's tables and of the clinic's question
PEAK, ON_DAY = "peak", f"day_{DAY:g}"
SPREAD = ".spread_"  # in the names of quantiles over subjects
# More than a rounding above 1: where f_th is 1, as it is typically, a thymus that has recovered ends at a ratio of 1.
CLEARLY_MORE = 1.1
RULE = (f"Warned of where, with a probability of more than 50%, the median subject's peak is above {CLEARLY_MORE:g} "
        "times what a healthy thymus of the same age exports, or above as many times the highest that the document "
        "thinks possible. Both the 50% and the factor are this project's convention; the model document says where "
        "the two values come from.")
ABSENT = "implied thymic export is not in this record: it was made before this was computed"

Exports = Mapping[str, Float[np.ndarray, "arm draw subject"]]


@dataclass(frozen=True)
class Window:
    """The times over which a peak is taken; `has_day` where DAY lies between them."""

    first: float
    last: float

    @property
    def has_day(self) -> bool:
        return self.first <= DAY <= self.last


def window(times: Float[np.ndarray, " time"], endpoints: Mapping[str, Endpoint]) -> Window:
    """From the first time that is simulated to the last horizon of the endpoints, or to the end where there is none."""
    last = max((endpoint.horizon for endpoint in endpoints.values()), default=float(times[-1]))
    return Window(float(times[0]), min(last, float(times[-1])))


def quantities(model: Model, over: Window) -> tuple[str, ...]:
    """Names of what is computed, as `thymic_export_cd4.peak_over_healthy`."""
    kinds = (PEAK, ON_DAY) if over.has_day else (PEAK,)
    return tuple(f"{name}.{kind}_over_{reference}" for kind in kinds
                 for name, _, reference in (key.partition("/") for key in ratios(model)))


def look(times: Float[np.ndarray, " time"], over: Window,
         found: Float[np.ndarray, "ratio ... time"]) -> Float[np.ndarray, "quantity ..."]:
    """Peak and value on DAY of each ratio, in the order of `quantities`; straight between the times. NaN stays."""
    inside = slice(*np.searchsorted(times, [over.first, over.last + 1e-9 * max(1.0, abs(over.last))]))
    pieces = [found[..., inside].max(axis=-1)]
    if over.has_day:
        after = int(np.clip(np.searchsorted(times, DAY), 1, len(times) - 1))
        share = (DAY - times[after - 1]) / (times[after] - times[after - 1])
        pieces.append((1 - share) * found[..., after - 1] + share * found[..., after])
    return np.concatenate(pieces)


def summaries(exports: Exports) -> dict[str, Float[np.ndarray, "draw arm"]]:
    """Draw by draw: the median subject, and the 5% and 95% quantiles over subjects, of every quantity."""
    result: dict[str, np.ndarray] = {}
    for name, values in exports.items():
        low, middle, high = np.moveaxis(np.stack([by_draws(
            lambda some: np.quantile(some, (0.05, 0.5, 0.95), axis=1).T, arm) for arm in values], axis=1), -1, 0)
        result |= {name: middle, f"{name}{SPREAD}q05": low, f"{name}{SPREAD}q95": high}
    return result


def export_rows(found: Mapping[str, Float[np.ndarray, "draw arm"]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Rows arm by arm: the median subject's ratio with its interval over the posterior, the probability that it is
    above 1, the spread between subjects, and the warning if there is one.

    Args:
        found: of `summaries`.
    """
    rows = []
    for k, arm in enumerate(arms):
        for name in named(found):
            draws = found[name][:, k]
            low, middle, high = (float(q) for q in np.quantile(draws, (INTERVAL[0], 0.5, INTERVAL[1])))
            spread = [float(np.median(found[f"{name}{SPREAD}{q}"][:, k])) for q in ("q05", "q95")]
            probability = float(np.mean(draws > 1)) if np.isfinite(draws).all() else float("nan")
            rows.append({"quantity": name, "arm": arm, "estimate": middle, "lower": low, "upper": high,
                         "interval": f"{INTERVAL_NAME}, parameter uncertainty", "subjects_q05": spread[0],
                         "subjects_q95": spread[1], "p_above_1": probability,
                         "warning": _warning(name, arm, middle, probability)})
    return rows


def named(found: Mapping[str, Any]) -> list[str]:
    """The ratios of `summaries`, without their spreads."""
    return [name for name in found if SPREAD not in name]


def _warning(quantity: str, arm: str, estimate: float, probability: float) -> str:
    """What to say of a prediction that asks more of a thymus than it has; nothing where it does not."""
    if not estimate > CLEARLY_MORE:  # the median over draws is above it where most of them are
        return ""
    observable, _, rest = quantity.partition(".")
    kind, _, reference = rest.partition("_over_")
    when = "at its peak" if kind == PEAK else f"on day {DAY:g}"
    than = ("a healthy thymus of that age exports" if reference == "healthy"
            else "any thymus is thought to export (assumed, see `highest` in the model document)")
    return (f"Arm {arm}: {observable} {when} is {estimate:.2g} times what {than} "
            f"(probability {100 * probability:.0f}% that it is more).")


def assess(spec: FitSpec, exports: Exports, arms: Sequence[str], over: Window) -> dict[str, Any]:
    """What a record keeps of it, and a scenario says: rows, warnings, how they were come by."""
    return assess_summaries(spec, summaries(exports), arms, over)


def assess_summaries(spec: FitSpec, found: Mapping[str, Float[np.ndarray, "draw arm"]], arms: Sequence[str],
                     over: Window) -> dict[str, Any]:
    """`assess` of what was summarised before."""
    if not found:
        return {"known": False, "note": unknown(spec.model), "rows": [], "warnings": []}
    rows = export_rows(found, arms)
    return {"known": True, "rule": RULE, "rows": rows, "warnings": peak_warnings(rows), "note": _note(spec, over),
            "from_day": over.first, "horizon": over.last}


def peak_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warnings of the peaks: those of a single day follow from them."""
    return [row["warning"] for row in rows if row["warning"] and f".{PEAK}_over_" in row["quantity"]]


def unknown(model: Model) -> str:
    return (f"implied thymic export is not known: the model {model.name}, as it was given, declares no healthy "
            "thymic export (`healthy` of an observable), so that it does not know what its counts ask of a thymus")


def _note(spec: FitSpec, over: Window) -> str:
    """What the ratios are, and which of the parameters of the reference the data have moved."""
    moved = sorted(_parameters_of_references(spec.model) & {*spec.estimate, *_varied(spec)})
    note = (f"peak from day {over.first:g} to day {over.last:g}; median subject, {INTERVAL_NAME} interval over "
            "posterior draws (parameter uncertainty only)")
    if moved:
        note += f"; the reference itself moves with this fit, which estimates or varies {', '.join(moved)}"
    return note


def _varied(spec: FitSpec) -> set[str]:
    levels = (spec.between_subject, spec.study_effects, spec.between_occasion)
    effects = {name for level in levels for effect in level.values() for name in effect.parameters}
    return effects | {effect.parameter for effect in spec.covariate_effects.values()}


def _parameters_of_references(model: Model) -> set[str]:
    todo = [e for item in model.observables.values() for e in (item.healthy, item.highest) if e is not None]
    found: set[str] = set()
    while todo:
        names = {str(symbol) for symbol in todo.pop().free_symbols}
        todo += [model.expressions[name] for name in names & set(model.expressions)]
        found |= names & set(model.parameters)
    return found
