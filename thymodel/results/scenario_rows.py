"""What simulated outcomes say of a scenario: its quantities draw by draw, and from these the rows of its table.

Between the two is the place where the draws of several structures are joined: all intervals are taken afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from thymodel.documents.spec import Endpoint, ScenarioSpec
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.results import exports
from thymodel.results.competing import risk_quantities
from thymodel.results.contrasts import compare, estimate
from thymodel.results.dose_response import dose_quantities
from thymodel.results.endpoints import Quantity, quantile_with_never, quantities, summarise_draws
from thymodel.results.observed import Crossing
from thymodel.results.reconstitution import Outcomes

OBSERVED = ", as observed"  # of a quantity: at the visits and with the assay error, not of the latent course
ALL_ARMS = "all arms"
BETWEEN = "between_structures"


@dataclass(frozen=True)
class Summaries:
    """By endpoint: its quantities arm by arm, its spread over subjects (arm, draw, quantile), and those of competing
    events, arm by arm; ratios of implied export with their spreads (draw, arm); and of what structure each draw is,
    where there are several."""

    quantities: Mapping[str, Sequence[Sequence[Quantity]]]
    spread: Mapping[str, Float[np.ndarray, "arm draw quantile"]]
    risks: Mapping[str, Sequence[Sequence[Quantity]]]
    exports: Mapping[str, Float[np.ndarray, "draw arm"]]
    structure: Int[np.ndarray, " draw"] | None = None


def summaries_of(scenario: ScenarioSpec, endpoints: Mapping[str, Endpoint], outcomes: Outcomes) -> Summaries:
    """What outcomes say, draw by draw."""
    arms = [arm.name for arm in scenario.arms]
    each, spread, risks = dict[str, Any](), dict[str, np.ndarray](), dict[str, Any]()
    for name, endpoint in endpoints.items():
        found = [summarise_draws(endpoint, arm, of_arm) for arm, of_arm in zip(arms, outcomes.times[name], strict=True)]
        each[name] = [quantities(one) + _observed(endpoint, arm, k, outcomes.observed.get(name))
                      for k, (arm, one) in enumerate(zip(arms, found, strict=True))]
        spread[name] = np.stack([one.spread for one in found])
        if outcomes.events:
            risks[name] = [risk_quantities(endpoint, outcomes.times[name][k], {
                risk: event_days[k] for risk, event_days in outcomes.events.items()}) for k in range(len(arms))]
    return Summaries(each, spread, risks, exports.summaries(outcomes.exports))


def _observed(endpoint: Endpoint, arm: str, k: int, observed: Crossing | None) -> list[Quantity]:
    """What visits show of an endpoint in the arm of this number; nothing where there are none."""
    if observed is None:
        return []
    found = quantities(summarise_draws(endpoint, arm, observed.at[k]), OBSERVED)
    if not endpoint.landmark:
        found.append(Quantity(f"last visit before the median time{OBSERVED}",
                              quantile_with_never(observed.after[k], 0.5), "time"))
    return found


def rows_of(scenario: ScenarioSpec, endpoints: Mapping[str, Endpoint], found: Summaries) -> list[dict[str, Any]]:
    """Rows of a table, all endpoints and then all competing events."""
    rows = [row for endpoint in endpoints.values() for row in _endpoint_rows(scenario, endpoint, found)]
    return rows + [_row(endpoints[name], arm.name, quantity, found.structure) for name, own in found.risks.items()
                   for arm, here in zip(scenario.arms, own, strict=True) for quantity in here]


def _endpoint_rows(scenario: ScenarioSpec, endpoint: Endpoint, found: Summaries) -> list[dict[str, Any]]:
    """Every arm, latent and as observed; against the reference arm; against dose."""
    arms, each, rows = [arm.name for arm in scenario.arms], found.quantities[endpoint.name], list[dict[str, Any]]()
    for arm, own, spread in zip(arms, each, found.spread[endpoint.name], strict=True):
        here = [_row(endpoint, arm, quantity, found.structure) for quantity in own]
        if not endpoint.landmark:
            here[0] |= {"subjects_q05": quantile_with_never(spread[:, 0], 0.5),
                        "subjects_q95": quantile_with_never(spread[:, 2], 0.5)}
        rows += here
    if scenario.reference is not None:
        base = each[arms.index(scenario.reference)]
        rows += [_row(endpoint, arm, quantity, found.structure) for arm, own in zip(arms, each, strict=True)
                 if arm != scenario.reference for quantity in compare(own, base, scenario.reference)]
    if scenario.dose_range is not None:
        rows += [_row(endpoint, ALL_ARMS, quantity, found.structure) for k, one in enumerate(each[0])
                 if one.unit == "probability" and one.contrasted for quantity in
                 dose_quantities(scenario.dose_range, one.name,
                                 np.stack([each[arm][k].values for arm in scenario.dose_range.arms], axis=1))]
    return rows


def _row(endpoint: Endpoint, arm: str, quantity: Quantity,
         structure: Int[np.ndarray, " draw"] | None) -> dict[str, Any]:
    """A row of a table: estimate and its interval over the posterior."""
    low, middle, high = estimate(quantity.values)
    row = {"endpoint": endpoint.name, "arm": arm, "quantity": quantity.name, "estimate": middle, "lower": low,
           "upper": high, "interval": f"{INTERVAL_NAME}, parameter uncertainty", "subjects_q05": np.nan,
           "subjects_q95": np.nan, "p_above_1": np.nan, "warning": "", "unit": quantity.unit, "note": quantity.note}
    return row if structure is None else row | between(quantity.values, structure)


def between(values: Float[np.ndarray, " draw"], structure: Int[np.ndarray, " draw"]) -> dict[str, float]:
    """The share of the variance of draws that lies between the means of the structures they are of (law of total
    variance); NaN where a draw has no finite value, 0 where all are the same."""
    if not np.isfinite(values).all():
        return {BETWEEN: np.nan}
    whole = float(values.var())
    if whole <= (1e-12 * float(np.abs(values).max(initial=0.0))) ** 2:
        return {BETWEEN: 0.0}
    count = np.bincount(structure)
    mean = np.bincount(structure, values) / np.maximum(count, 1)
    return {BETWEEN: float(count @ (mean - values.mean()) ** 2 / len(values)) / whole}


def export_rows(implied: Mapping[str, Any], arms: Sequence[str], found: Summaries) -> list[dict[str, Any]]:
    """Rows of an implied export in the shape of an endpoint's: its observable, then what of it."""
    rows = []
    for row in implied["rows"]:
        observable, _, quantity = row["quantity"].partition(".")
        shown = {"endpoint": observable, "arm": row["arm"], "quantity": quantity, "unit": "ratio", "note": ""} | {
            key: row[key] for key in ("estimate", "lower", "upper", "interval", "subjects_q05", "subjects_q95",
                                      "p_above_1", "warning")}
        if found.structure is not None:
            shown |= between(found.exports[row["quantity"]][:, arms.index(row["arm"])], found.structure)
        rows.append(shown)
    return rows
