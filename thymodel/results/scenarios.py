"""Posterior x virtual subjects x arms: reconstitution times and implied exports by dose, paired across arms."""

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

import thymodel
from thymodel.documents.spec import Endpoint, FitSpec, ScenarioSpec, load_scenario_spec
from thymodel.errors import Fault, InputError, SolveError
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.inference.sampling import thin
from thymodel.results import exports, extrapolation
from thymodel.results.competing import draw_hazards, risk_rows
from thymodel.results.contrasts import compare, estimate
from thymodel.results.dose_response import dose_quantities
from thymodel.results.endpoints import Quantity, by_draws, quantile_with_never, quantities, summarise_draws
from thymodel.results.extrapolation import Verdicts
from thymodel.results.kept import Place, outcomes_at
from thymodel.results.observed import Crossing, assay_faults
from thymodel.results.prediction import VirtualSubjects, virtual_subjects
from thymodel.results.reconstitution import Outcomes, gather, prepare_judging
from thymodel.results.record import FitRecord, load_group, quotable

OBSERVED = ", as observed"  # of a quantity: at the visits and with the assay error, not of the latent course
ALL_ARMS = "all arms"
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Scenario:
    """`table` has a row an arm and quantity; `times[endpoint]` is (arm, draw, subject), of the latent course;
    `observed[endpoint]` between which visits measurements place it, where visits were asked for.

    `implied_export` is what the predictions ask of the thymus, from `exports.assess`; its rows are in `table` too.
    `verdicts` says how far each prediction goes beyond what the fit has seen; every row of `table` has its own.
    """

    spec: ScenarioSpec
    endpoints: dict[str, Endpoint]
    times: dict[str, np.ndarray]
    table: pd.DataFrame
    simulated: bool
    implied_export: Mapping[str, Any] = field(default_factory=dict)
    observed: Mapping[str, Crossing] = field(default_factory=dict)
    verdicts: Verdicts = extrapolation.NONE

    @property
    def people(self) -> list[str]:
        """Sentences on who the virtual patients are, where they are not those of the fit."""
        told = [f"Virtual patients: {self.spec.population}."] if self.spec.population else []
        return told + [f"Doses of {name} act with a factor of log SD {sd:g} about those of the arms."
                       for name, sd in self.spec.dose_errors.items()]

    def _repr_html_(self) -> str:
        banner = "<b>From a fit to SIMULATED data.</b>" if self.simulated else ""
        warnings = "".join(f"<p><b>Warning.</b> {text}</p>" for text in self.implied_export.get("warnings", []))
        warnings += "".join(f"<p>{html.escape(text)}</p>" for text in extrapolation.sentences(self.verdicts))
        warnings += "".join(f"<p>{html.escape(text)}</p>" for text in self.people)
        return f"<p>{banner} {self.spec.title}</p>{warnings}{self.table.to_html(index=False, float_format='%.4g')}"


def run_scenario(record: FitRecord, path: str | Path,
                 progress: Callable[[int, int], None] | None = None, left_out: bool = False,
                 data_path: Path | None = None, place: Place = Place()) -> Scenario:
    """A scenario under a record's posterior.

    Args:
        progress: is told how many blocks of patients are done, of how many.
        place: where it is computed, and where what is done is kept; the numbers are the same everywhere.
        left_out: let each fitted dose be left out in turn for the extrapolation verdict; needs the data, and a while.
        data_path: the study data, when they are not where the record found them.

    Raises:
        RecordError: the record failed its gates or was changed.
        SolveError: a course could not be computed.
        InputError: every fault of the scenario file; a cluster that is not there; a folder of another scenario.
    """
    quotable(record)
    fit = record.spec
    scenario = load_scenario_spec(path, fit.model, fit.endpoints)
    endpoints = dict(scenario.endpoints)
    if not endpoints:
        raise InputError([Fault(str(path), "no endpoint here, and none in the fit", "add [endpoints.NAME]")])
    if faults := assay_faults(str(path), fit, endpoints):
        raise InputError(faults)
    if data_path is not None and not left_out:
        raise InputError([Fault(str(data_path), "a scenario needs the data only to leave doses out", "add --left-out")])
    doses = extrapolation.leave_doses_out(record, data_path) if left_out else ()
    z = thin(record.z, scenario.draws)
    people = virtual_subjects(fit, covariates_of(record), scenario.subjects, scenario.seed, scenario.population,
                              scenario.dose_errors)
    hazards = draw_hazards(scenario.competing, scenario.subjects, scenario.seed)
    judging = prepare_judging(fit, record.layout, z, scenario.arms, people, endpoints, hazards, scenario.seed)
    identity = {"scenario": scenario.digest, "record": record.digest, "version": thymodel.__version__}
    outcomes = gather(judging, _counted(outcomes_at(place, judging, identity), len(judging.blocks), progress))
    refuse_failures(scenario, outcomes)
    return summarise(record, fit, scenario, z, people, outcomes, doses)


def summarise(record: FitRecord, fit: FitSpec, scenario: ScenarioSpec, z: Float[np.ndarray, "draw coordinate"],
              people: VirtualSubjects, outcomes: Outcomes, doses: Sequence[extrapolation.LeftOut] = (),
              fitted: extrapolation.Fitted | None = None) -> Scenario:
    """What simulated outcomes say: the table, implied exports and verdicts.

    Args:
        z: the draws that were simulated.
        fitted: what the fit has seen, where that was read before.
    """
    endpoints, times = dict(scenario.endpoints), dict(outcomes.times)
    rows = [row for name, endpoint in endpoints.items()
            for row in endpoint_rows(scenario, endpoint, times[name], outcomes.observed.get(name))]
    rows += [row for name, endpoint in endpoints.items() for k, arm in enumerate(scenario.arms) if outcomes.events
             for row in risk_rows(endpoint, arm.name, times[name][k],
                                  {risk: event_days[k] for risk, event_days in outcomes.events.items()})]
    implied = exports.assess(fit, outcomes.exports, [arm.name for arm in scenario.arms], outcomes.window)
    ratios = {name: values for name, values in exports.summaries(outcomes.exports).items() if ".spread_" not in name}
    verdicts = extrapolation.judge(record, fit, scenario.arms, people.covariates, z,
                                   _told(scenario, endpoints, times) | ratios, list(endpoints), doses, fitted)
    rows = [row | _verdict(verdicts, row["arm"], row["endpoint"]) for row in rows]
    rows += [_table_row(row) | _verdict(verdicts, row["arm"], row["quantity"]) for row in implied["rows"]]
    table = pd.DataFrame(rows)
    table["unit"] = table["unit"].str.replace("time", fit.model.time, regex=False)
    return Scenario(scenario, endpoints, times, table, bool(record.content["simulated"]), implied, outcomes.observed,
                    verdicts)


def _counted(found: Iterable[_Found], total: int, progress: Callable[[int, int], None] | None) -> Iterator[_Found]:
    """What is found, with the progress told at each."""
    for done, one in enumerate(found, 1):
        if progress is not None:
            progress(done, total)
        yield one


def _told(scenario: ScenarioSpec, endpoints: Mapping[str, Endpoint],
          times: Mapping[str, np.ndarray]) -> dict[str, Float[np.ndarray, "draw arm"]]:
    """What a verdict looks at of each endpoint: the restricted mean, or the share not reached where one day decides."""
    found = {}
    for name, endpoint in endpoints.items():
        summaries = [summarise_draws(endpoint, arm.name, times[name][k]) for k, arm in enumerate(scenario.arms)]
        found[name] = np.stack([one.never if endpoint.landmark else one.restricted_mean for one in summaries], axis=1)
    return found


def _verdict(verdicts: Verdicts, arm: str, prediction: str) -> dict[str, Any]:
    """Columns of a row; empty where it is of no arm alone."""
    return extrapolation.columns(verdicts.by_prediction.get((arm, prediction)))


def _table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an implied export in the shape of an endpoint's: its observable, then what of it."""
    observable, _, quantity = row["quantity"].partition(".")
    return {"endpoint": observable, "arm": row["arm"], "quantity": quantity, "unit": "ratio", "note": ""} | {
        key: row[key] for key in ("estimate", "lower", "upper", "interval", "subjects_q05", "subjects_q95", "p_above_1",
                                  "warning")}


def refuse_failures(scenario: ScenarioSpec, outcomes: Outcomes) -> None:
    """A course that could not be computed is NaN: a scenario with one has no answer.

    Raises:
        SolveError: names the subject, arm and draw.
    """
    for name, values in (dict(outcomes.times) | dict(outcomes.exports) | dict(outcomes.events)).items():
        for arm, of_arm in zip(scenario.arms, values, strict=True):
            if (lost := by_draws(lambda some: np.isnan(some).any(axis=1), of_arm)).any():
                draw = int(np.argmax(lost))
                raise SolveError(f"{np.argmax(np.isnan(of_arm[draw])) + 1} of arm {arm.name}, draw {draw + 1}", 0.0,
                                 f"the integration failed ({name})")


def covariates_of(record: FitRecord) -> dict[str, np.ndarray]:
    """Baseline covariates of the fitted patients, kept in the record beside the draws."""
    data = load_group(record.folder / "posterior.nc", "constant_data")
    return {str(name): np.asarray(values) for name, values in data.data_vars.items()}


def endpoint_rows(scenario: ScenarioSpec, endpoint: Endpoint, times: np.ndarray,
                  observed: Crossing | None = None) -> list[dict[str, Any]]:
    """Rows of a table of one endpoint: every arm, latent and as observed; against the reference arm; against dose.

    Args:
        times: crossing times of the latent course (arm, draw, subject).
        observed: between which visits measurements of the same subjects place them.
    """
    arms, rows = [arm.name for arm in scenario.arms], []
    summaries = [summarise_draws(endpoint, arm, of_arm) for arm, of_arm in zip(arms, times, strict=True)]
    each = [quantities(one) for one in summaries]
    if observed is not None:
        for k, arm in enumerate(arms):
            each[k] += quantities(summarise_draws(endpoint, arm, observed.at[k]), OBSERVED)
            if not endpoint.landmark:
                each[k].append(Quantity(f"last visit before the median time{OBSERVED}",
                                        quantile_with_never(observed.after[k], 0.5), "time"))
    for arm, summary, own in zip(arms, summaries, each, strict=True):
        here = [_row(endpoint, arm, quantity) for quantity in own]
        if not endpoint.landmark:
            here[0] |= {"subjects_q05": quantile_with_never(summary.spread[:, 0], 0.5),
                        "subjects_q95": quantile_with_never(summary.spread[:, 2], 0.5)}
        rows += here
    if scenario.reference is not None:
        base = each[arms.index(scenario.reference)]
        rows += [_row(endpoint, arm, quantity) for arm, own in zip(arms, each, strict=True)
                 if arm != scenario.reference for quantity in compare(own, base, scenario.reference)]
    if scenario.dose_range is not None:
        rows += [_row(endpoint, ALL_ARMS, quantity) for k, one in enumerate(each[0])
                 if one.unit == "probability" and one.contrasted for quantity in
                 dose_quantities(scenario.dose_range, one.name,
                                 np.stack([each[arm][k].values for arm in scenario.dose_range.arms], axis=1))]
    return rows


def _row(endpoint: Endpoint, arm: str, quantity: Quantity) -> dict[str, Any]:
    """A row of a table: estimate and its interval over the posterior."""
    low, middle, high = estimate(quantity.values)
    return {"endpoint": endpoint.name, "arm": arm, "quantity": quantity.name, "estimate": middle, "lower": low,
            "upper": high, "interval": f"{INTERVAL_NAME}, parameter uncertainty", "subjects_q05": np.nan,
            "subjects_q95": np.nan, "p_above_1": np.nan, "warning": "", "unit": quantity.unit, "note": quantity.note}
