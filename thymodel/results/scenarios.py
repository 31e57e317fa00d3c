"""Posterior x virtual subjects x arms: reconstitution times and implied exports by dose, paired across arms."""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thymodel.documents.spec import Endpoint, ScenarioSpec, load_scenario_spec
from thymodel.errors import Fault, InputError, SolveError
from thymodel.inference.diagnostics import INTERVAL, INTERVAL_NAME
from thymodel.inference.sampling import thin
from thymodel.results import exports, extrapolation
from thymodel.results.endpoints import EndpointDraws, quantile_with_never, summarise_draws
from thymodel.results.extrapolation import Verdicts
from thymodel.results.prediction import virtual_subjects
from thymodel.results.reconstitution import arm_outcomes
from thymodel.results.record import FitRecord, load_group, quotable


@dataclass(frozen=True)
class Scenario:
    """`table` has a row an arm and quantity; `times[endpoint]` is (arm, draw, subject).

    `implied_export` is what the predictions ask of the thymus, from `exports.assess`; its rows are in `table` too.
    `verdicts` says how far each prediction goes beyond what the fit has seen; every row of `table` has its own.
    """

    spec: ScenarioSpec
    endpoints: dict[str, Endpoint]
    times: dict[str, np.ndarray]
    table: pd.DataFrame
    simulated: bool
    implied_export: Mapping[str, Any] = field(default_factory=dict)
    verdicts: Verdicts = extrapolation.NONE

    def _repr_html_(self) -> str:
        banner = "<b>From a fit to SIMULATED data.</b>" if self.simulated else ""
        warnings = "".join(f"<p><b>Warning.</b> {text}</p>" for text in self.implied_export.get("warnings", []))
        warnings += "".join(f"<p>{html.escape(text)}</p>" for text in extrapolation.sentences(self.verdicts))
        return f"<p>{banner} {self.spec.title}</p>{warnings}{self.table.to_html(index=False, float_format='%.4g')}"


def run_scenario(record: FitRecord, path: str | Path,
                 progress: Callable[[int, int], None] | None = None, left_out: bool = False,
                 data_path: Path | None = None) -> Scenario:
    """A scenario under a record's posterior.

    Args:
        left_out: let each fitted dose be left out in turn for the extrapolation verdict; needs the data, and a while.
        data_path: the study data, when they are not where the record found them.

    Raises:
        RecordError: the record failed its gates or was changed.
        SolveError: a course could not be computed.
        InputError: every fault of the scenario file.
    """
    quotable(record)
    fit = record.spec
    scenario = load_scenario_spec(path, fit.model)
    endpoints = dict(scenario.endpoints) or dict(fit.endpoints)
    if not endpoints:
        raise InputError([Fault(str(path), "no endpoint here, and none in the fit", "add [endpoints.NAME]")])
    if data_path is not None and not left_out:
        raise InputError([Fault(str(data_path), "a scenario needs the data only to leave doses out", "add --left-out")])
    doses = extrapolation.leave_doses_out(record, data_path) if left_out else ()
    z = thin(record.z, scenario.draws)
    people = virtual_subjects(fit, _covariates(record), scenario.subjects, scenario.seed)
    outcomes = arm_outcomes(fit, record.layout, z, scenario.arms, people, endpoints, progress)
    times = dict(outcomes.times)
    _refuse_failures(scenario, times | dict(outcomes.exports))
    summaries = {(name, arm.name): summarise_draws(endpoint, arm.name, times[name][k])
                 for name, endpoint in endpoints.items() for k, arm in enumerate(scenario.arms)}
    implied = exports.assess(fit, outcomes.exports, [arm.name for arm in scenario.arms], outcomes.window)
    predictions = {name: np.stack([summaries[name, arm.name].restricted_mean for arm in scenario.arms], axis=1)
                   for name in endpoints}
    ratios = {name: values for name, values in exports.summaries(outcomes.exports).items() if ".spread_" not in name}
    verdicts = extrapolation.judge(record, fit, scenario.arms, people.covariates, z, predictions | ratios,
                                   list(endpoints), doses)
    rows = [row | extrapolation.columns(verdicts.by_prediction[arm, name])
            for (name, arm), summary in summaries.items() for row in endpoint_rows(summary)]
    rows += [_table_row(row) | extrapolation.columns(verdicts.by_prediction[row["arm"], row["quantity"]])
             for row in implied["rows"]]
    return Scenario(scenario, endpoints, times, pd.DataFrame(rows), bool(record.content["simulated"]), implied,
                    verdicts)


def _table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an implied export in the shape of an endpoint's: its observable, then what of it."""
    observable, _, quantity = row["quantity"].partition(".")
    return {"endpoint": observable, "arm": row["arm"], "quantity": quantity} | {
        key: row[key] for key in ("estimate", "lower", "upper", "interval", "subjects_q05", "subjects_q95", "p_above_1",
                                  "warning")}


def _refuse_failures(scenario: ScenarioSpec, times: dict[str, np.ndarray]) -> None:
    """A course that could not be computed is NaN: a scenario with one has no answer."""
    for name, values in times.items():
        if np.isnan(values).any():
            arm, draw, subject = np.argwhere(np.isnan(values))[0]
            raise SolveError(f"{subject + 1} of arm {scenario.arms[arm].name}, draw {draw + 1}", 0.0,
                             f"the integration failed ({name})")


def _covariates(record: FitRecord) -> dict[str, np.ndarray]:
    """Baseline covariates of the fitted patients, kept in the record beside the draws."""
    data = load_group(record.folder / "posterior.nc", "constant_data")
    return {str(name): np.asarray(values) for name, values in data.data_vars.items()}


def endpoint_rows(draws: EndpointDraws) -> list[dict[str, Any]]:
    """Rows of a table: estimate, its interval over the posterior, and for the median the spread between subjects."""
    endpoint = draws.endpoint
    base = {"endpoint": endpoint.name, "arm": draws.arm}
    no_ratio = {"p_above_1": np.nan, "warning": ""}
    quantities = {"median time": draws.median, "restricted mean time": draws.restricted_mean}
    quantities |= {f"P(by day {day:g})": values for day, values in draws.probability_by.items()}
    quantities[f"P(not by day {endpoint.horizon:g})"] = draws.never
    rows = []
    for name, values in quantities.items():
        low, middle, high = (quantile_with_never(values, q) for q in (INTERVAL[0], 0.5, INTERVAL[1]))
        rows.append({**base, "quantity": name, "estimate": middle, "lower": low, "upper": high,
                     "interval": f"{INTERVAL_NAME}, parameter uncertainty",
                     "subjects_q05": np.nan, "subjects_q95": np.nan, **no_ratio})
    rows[0] |= {"subjects_q05": quantile_with_never(draws.spread[:, 0], 0.5),
                "subjects_q95": quantile_with_never(draws.spread[:, 2], 0.5)}
    return rows
