"""Tables that people read on a terminal and in a report: numbers with the digits they deserve."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.inference.information import contraction
from thymodel.results.record import FitRecord


def time_text(value: float | None, horizon: float) -> str:
    """A time, or that it is not reached."""
    return f"not by {horizon:g}" if value is None or not math.isfinite(value) else f"{value:.0f}"


def quantity_text(value: float, unit: str, horizon: float) -> str:
    """A value of a scenario's table, as its unit is read (`endpoints.Quantity`)."""
    if math.isnan(value):
        return "not defined"
    if unit.startswith("difference"):
        if math.isinf(value):
            return "not reached here" if value > 0 else "not reached there"
        return f"{100 * value:+z.0f} points" if unit.endswith("probability") else f"{value:+z.0f}"
    if unit == "probability":
        return f"{100 * value:.0f}%"
    if unit == "ratio":
        return f"{value:.2f}"
    if unit.startswith("dose"):
        return f"{value:.3g}" if math.isfinite(value) else "none in range"
    return time_text(value, horizon)


def structure_cells(table: pd.DataFrame, row: Mapping[Any, Any], show: Callable[[float], str]) -> dict[str, str]:
    """Beside a row of a mixture: how much of its variance lies between structures, and what each of them says.

    Args:
        table: of an ensemble's scenario.
        show: a value of the row's quantity in words.
    """
    share = row["between_structures"]
    cells = {"between structures": "" if math.isnan(share) else f"{100 * share:.0f}%"}
    same = table[(table["endpoint"] == row["endpoint"]) & (table["arm"] == row["arm"])
                 & (table["quantity"] == row["quantity"]) & (table["structure"] != row["structure"])]
    return cells | {f"{one['structure']} ({one['weight']:.2f})":
                    f"{show(one['estimate'])} ({show(one['lower'])} to {show(one['upper'])})"
                    for one in same.to_dict("records")}


def parameter_rows(record: FitRecord) -> list[dict[str, Any]]:
    """Final parameters: estimate, SD, interval, diagnostics, and the SD over that of the prior, on the prior's scale
    (1: nothing was learned). Random effects are in table.csv. Of a single point (MAP), the values alone."""
    if record.method == "map":
        return [{"name": name, "unit": record.content["units"].get(name, "1"),
                 "mode": f"{record.table.loc[name, 'mean']:.4g}"} for name in record.content["parameters"]]
    table, units, kept = record.table, record.content["units"], contraction(record.layout, record.z)
    rows = []
    for name in record.content["parameters"]:
        row = table.loc[name]
        rows.append({"name": name, "unit": units.get(name, "1"), "median": f"{row['median']:.4g}",
                     "sd": f"{row['sd']:.3g}", "interval": f"{row['q05']:.4g} to {row['q95']:.4g}",
                     "rhat": f"{row['rhat']:.4f}", "ess_bulk": f"{row['ess_bulk']:.0f}",
                     "ess_tail": f"{row['ess_tail']:.0f}",
                     "sd/prior sd": f"{kept[name]:.2f}" if name in kept else ""})
    return rows


def mode_rows(record: FitRecord) -> list[dict[str, Any]]:
    """Modes that MAP and Laplace found, highest first, with what each holds of the mass; none for other methods."""
    rows = []
    for k, mode in enumerate(record.content["sampler"].get("approximation", {}).get("modes", []), start=1):
        rows.append({"mode": k, "share of the mass": f"{mode['share']:.2g}",
                     "log density": f"{mode['log_density']:.2f}", "settled": "yes" if mode["settled"] else "NO",
                     **{name: f"{mode['values'][name]:.4g}" for name in record.content["parameters"]}})
    return rows


def reconstitution_rows(record: FitRecord) -> list[dict[str, str]]:
    """Reconstitution times by arm, in words: every row one endpoint in one arm."""
    rows = []
    for name, endpoint in record.content["endpoints"].items():
        for arm in endpoint_arms(record, name):
            rows.append(_reconstitution(record.table, name, endpoint, arm))
    return rows


def endpoint_arms(record: FitRecord, endpoint: str) -> list[str]:
    """Arms that an endpoint was computed for."""
    prefix = f"{endpoint}.never["
    return [str(name)[len(prefix):-1] for name in record.table.index if str(name).startswith(prefix)]


def _reconstitution(table: pd.DataFrame, name: str, endpoint: Mapping[str, Any], arm: str) -> dict[str, str]:
    horizon = endpoint["horizon"] - endpoint["clock_start"]

    def times(key: str) -> tuple[str, str, str]:
        row = table.loc[f"{name}.{key}[{arm}]"]
        low, middle, high = (time_text(row[q], horizon) for q in ("q05", "median", "q95"))
        return low, middle, high

    def share(key: str) -> str:
        row = table.loc[f"{name}.{key}[{arm}]"]
        return f"{100 * row['median']:.0f}% ({100 * row['q05']:.0f} to {100 * row['q95']:.0f})"

    if endpoint.get("landmark"):
        day = f"{endpoint['horizon']:g}"
        return {"endpoint": endpoint["label"] or name, "arm": arm, f"at or above on day {day}": share(f"by_{day}")}
    low, middle, high = times("median")
    start = endpoint["clock_start"]  # times count from here, the days of `by` and the horizon from the transplant
    median = f"median, days after day {start:g}" if start else "median day"
    result = {"endpoint": endpoint["label"] or name, "arm": arm, median: f"{middle} ({low} to {high})",
              "subjects 5-95%": f"{times('spread_q05')[1]} to {times('spread_q95')[1]}"}
    result |= {f"by day {day:g}": share(f"by_{day:g}") for day in endpoint["by"]}
    return result | {"not by the horizon": share("never"), "horizon": f"{endpoint['horizon']:g}"}


def export_rows(implied: Mapping[str, Any]) -> list[dict[str, str]]:
    """Implied thymic export over what is healthy, in words: a row an arm and what it is compared with."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in implied["rows"]:
        observable, _, rest = row["quantity"].partition(".")
        kind, _, reference = rest.partition("_over_")
        line = rows.setdefault((observable, row["arm"], reference),
                               {"observable": observable, "over the": reference, "arm": row["arm"]})
        line[kind.replace("_", " ")] = (f"{_ratio(row['estimate'])} ({_ratio(row['lower'])} to {_ratio(row['upper'])})")
        if kind == "peak":
            line["subjects 5-95%"] = f"{_ratio(row['subjects_q05'])} to {_ratio(row['subjects_q95'])}"
            line["P(more)"] = "not known" if row["p_above_1"] is None else f"{100 * row['p_above_1']:.0f}%"
    return sorted(rows.values(), key=lambda line: (line["observable"], line["over the"]))


def _ratio(value: float | None) -> str:
    return "not known" if value is None or not math.isfinite(value) else f"{value:.2g}"


def interval_note(record: FitRecord) -> str:
    return "of a single point: intervals have no width" if record.method == "map" else INTERVAL_NOTE


INTERVAL_NOTE = f"in brackets: {INTERVAL_NAME} interval, parameter uncertainty only"
