"""Posterior x virtual subjects x arms: reconstitution times and implied exports by dose, paired across arms; under one
record, or under several structures at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

import thymodel
from thymodel.documents.cards import card
from thymodel.documents.spec import Endpoint, FitSpec, ScenarioSpec, load_scenario_spec
from thymodel.errors import Fault, InputError, SolveError
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.inference.sampling import thin
from thymodel.results import ensemble, exports, extrapolation
from thymodel.results.competing import draw_hazards
from thymodel.results.endpoints import by_draws
from thymodel.results.ensemble import Structure, Weights
from thymodel.results.extrapolation import Verdicts
from thymodel.results.kept import Place, outcomes_at
from thymodel.results.observed import Crossing, assay_faults
from thymodel.results.prediction import VirtualSubjects, effects_of, virtual_subjects
from thymodel.results.reconstitution import Outcomes, gather, prepare_judging, room
from thymodel.results.record import FitRecord, load_group, quotable
from thymodel.results.scenario_rows import Summaries, export_rows, rows_of, summaries_of
from thymodel.results.tables import quantity_text, structure_cells

MIXTURE = "mixture"  # in the column `structure`: of all of them
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Scenario:
    """`table` has a row an arm and quantity; `times[endpoint]` is (arm, draw, subject), of the latent course;
    `observed[endpoint]` between which visits measurements place it, where visits were asked for.

    `implied_export` is what the predictions ask of the thymus, from `exports.assess`; its rows are in `table` too.
    `verdicts` says how far each prediction goes beyond what the fit has seen; every row of `table` has its own.
    `summaries` are what the rows are made of, draw by draw. Of an ensemble, `table` has the rows of the mixture and
    then those of each of its `members`; `times` and `observed` hold as many draws as the file asks for, by weight.
    """

    spec: ScenarioSpec
    endpoints: dict[str, Endpoint]
    times: dict[str, np.ndarray]
    table: pd.DataFrame
    simulated: bool
    implied_export: Mapping[str, Any] = field(default_factory=dict)
    observed: Mapping[str, Crossing] = field(default_factory=dict)
    verdicts: Verdicts = extrapolation.NONE
    summaries: Summaries | None = None
    members: tuple["Member", ...] = ()
    about_members: tuple[str, ...] = ()

    @property
    def answers(self) -> pd.DataFrame:
        """The rows of `table` that answer the question: of an ensemble those of the mixture."""
        return self.table[self.table["structure"] == MIXTURE] if self.members else self.table

    @property
    def people(self) -> list[str]:
        """Sentences on who the virtual patients are, where they are not those of the fit."""
        told = [f"Virtual patients: {self.spec.population}."] if self.spec.population else []
        return told + [f"Doses of {name} act with a factor of log SD {sd:g} about those of the arms."
                       for name, sd in self.spec.dose_errors.items()]

    @property
    def how_to_read(self) -> str:
        """From which day times count, and what the intervals of the table hold."""
        later = [f"{name} from day {endpoint.clock_start:g}" for name, endpoint in self.endpoints.items()
                 if endpoint.clock_start]
        since = f" ({', '.join(later)}, where the clock starts)" if later else ""
        return (f"Times in days{since}. Intervals: {INTERVAL_NAME}, parameter uncertainty only; subjects: the spread "
                "between virtual patients.")

    def _repr_html_(self) -> str:
        told = [*self.about_members, *self.people, self.how_to_read, *extrapolation.sentences(self.verdicts)]
        return card(self.spec.title, told, reading_rows(self), self.simulated,
                    warnings=self.implied_export.get("warnings", []))


@dataclass(frozen=True)
class Member:
    """One structure of an ensemble: its weight, and the scenario under it alone."""

    name: str
    weight: float
    record: str
    scenario: Scenario


def run_scenario(record: FitRecord, path: str | Path,
                 progress: Callable[[int, int], None] | None = None, left_out: bool = False,
                 data_path: Path | None = None, place: Place = Place()) -> Scenario:
    """A scenario under a record's posterior, or under those of the structures that its file joins with it.

    Args:
        progress: is told how many blocks of patients are done, of how many.
        place: where it is computed, and where what is done is kept; the numbers are the same everywhere.
        left_out: let each fitted dose be left out in turn for the extrapolation verdict; needs the data, and a while.
        data_path: the study data, when they are not where the record found them.

    Raises:
        RecordError: the record failed its gates or was changed.
        SolveError: a course could not be computed.
        InputError: every fault of the scenario file; a cluster that is not there; a folder of another scenario; a
            structure that cannot be joined.
    """
    quotable(record)
    fit = record.spec
    scenario = load_scenario_spec(path, fit.model, fit.endpoints)
    endpoints = dict(scenario.endpoints)
    if not endpoints:
        raise InputError([Fault(str(path), "no endpoint here, and none in the fit", "add [endpoints.NAME]")])
    if faults := assay_faults(str(path), fit, endpoints):
        raise InputError(faults)
    stacked = scenario.ensemble is not None and scenario.ensemble.weights is None
    if data_path is not None and not left_out and not stacked:
        raise InputError([Fault(str(data_path), "a scenario needs the data only to leave doses out, or to weigh "
                                "structures by stacking", "add --left-out")])
    if scenario.ensemble is not None:
        return _run_ensemble(record, Path(path), scenario, progress, left_out, data_path, place)
    people = virtual_subjects(fit, covariates_of(record), scenario.subjects, scenario.seed, scenario.population,
                              scenario.dose_errors)
    doses = extrapolation.leave_doses_out(record, data_path) if left_out else ()
    return simulated(record, fit, scenario, people, doses, progress, place)


def simulated(record: FitRecord, fit: FitSpec, scenario: ScenarioSpec, people: VirtualSubjects,
              doses: Sequence[extrapolation.LeftOut] = (), progress: Callable[[int, int], None] | None = None,
              place: Place = Place()) -> Scenario:
    """A scenario under one record.

    Raises:
        SolveError: a course could not be computed.
    """
    z = thin(record.z, scenario.draws)
    hazards = draw_hazards(scenario.competing, scenario.subjects, scenario.seed)
    judging = prepare_judging(fit, record.layout, z, scenario.arms, people, scenario.endpoints, hazards, scenario.seed)
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
    endpoints, arms = dict(scenario.endpoints), [arm.name for arm in scenario.arms]
    found = summaries_of(scenario, endpoints, outcomes)
    implied = exports.assess_summaries(fit, found.exports, arms, outcomes.window)
    ratios = {name: found.exports[name] for name in exports.named(found.exports)}
    verdicts = extrapolation.judge(record, fit, scenario.arms, people.covariates, z, told(endpoints, found) | ratios,
                                   list(endpoints), doses, fitted)
    table = _table(scenario, endpoints, found, implied, verdicts, fit.model.time)
    return Scenario(scenario, endpoints, dict(outcomes.times), table, bool(record.content["simulated"]), implied,
                    outcomes.observed, verdicts, found)


def _table(scenario: ScenarioSpec, endpoints: Mapping[str, Endpoint], found: Summaries, implied: Mapping[str, Any],
           verdicts: Verdicts, time: str) -> pd.DataFrame:
    rows = [row | _verdict(verdicts, row["arm"], row["endpoint"]) for row in rows_of(scenario, endpoints, found)]
    rows += [row | _verdict(verdicts, row["arm"], f"{row['endpoint']}.{row['quantity']}")
             for row in export_rows(implied, [arm.name for arm in scenario.arms], found)]
    table = pd.DataFrame(rows)
    table["unit"] = table["unit"].str.replace("time", time, regex=False)
    return table


# --- several structures ----------------------------------------------------------------------------------------


def _run_ensemble(record: FitRecord, path: Path, scenario: ScenarioSpec,
                  progress: Callable[[int, int], None] | None, left_out: bool, data_path: Path | None,
                  place: Place) -> Scenario:
    """Each structure by its own fit under the same arms and people, then their mixture."""
    assert scenario.ensemble is not None
    structures = ensemble.open_structures(record, path, scenario, scenario.ensemble)
    if faults := [fault for one in structures for fault in assay_faults(str(path), one.fit, scenario.endpoints)]:
        raise InputError(faults)
    places = _places(place, structures)
    weights = ensemble.weigh(path, scenario.ensemble, structures, data_path)
    people, notes = _same_people(record, structures)
    members = []
    for k, (one, own, there) in enumerate(zip(structures, people, places, strict=True)):
        show = None if progress is None else lambda done, total, k=k: progress(k * total + done,
                                                                               len(structures) * total)
        doses = extrapolation.leave_doses_out(one.record, data_path) if left_out else ()
        found = simulated(one.record, one.fit, one.scenario, own, doses, show, there)
        members.append(Member(one.name, float(weights.values[k]), one.record.digest, found))
    return _mixed(scenario, structures, weights, members, notes)


def _same_people(record: FitRecord, structures: Sequence[Structure]) -> tuple[list[VirtualSubjects], list[str]]:
    """Virtual subjects for every structure, the same people where patients, population and doses tell them apart (each
    model has random effects of its own), and what is not known of them."""
    asked, most, found, notes = covariates_of(record), max(effects_of(one.fit) for one in structures), [], []
    for one in structures:
        mine, its = record.content["data"], one.record.content["data"]
        same = (mine["sha256"], mine["subjects"]) == (its["sha256"], its["subjects"])
        patients = covariates_of(one.record) if same else {
            name: values for name, values in asked.items() if name in one.fit.model.covariates}
        scenario = one.scenario
        own = virtual_subjects(one.fit, patients, scenario.subjects, scenario.seed, scenario.population,
                               scenario.dose_errors, most)
        found.append(own)
        lacking = [name for name in one.fit.model.covariates if name not in own.covariates]
        if lacking:
            notes.append(f"Structure {one.name}: {', '.join(lacking)} not known of the patients of the record asked, "
                         "at the model's values but where an arm says otherwise.")
    return found, notes


def _places(place: Place, structures: Sequence[Structure]) -> list[Place]:
    """A folder for the blocks of each structure inside the one that was asked for."""
    if place.folder is None:
        return [place] * len(structures)
    names = [one.record.digest[:12] for one in structures]
    if place.folder.is_dir() and {item.name for item in place.folder.iterdir()} - set(names):
        raise InputError([Fault(f"--out {place.folder}", "holds something else than this ensemble",
                                "name a new folder, or remove this one")])
    return [replace(place, folder=place.folder / name) for name in names]


def _mixed(scenario: ScenarioSpec, structures: Sequence[Structure], weights: Weights, members: Sequence[Member],
           notes: Sequence[str]) -> Scenario:
    endpoints, arms = dict(scenario.endpoints), [arm.name for arm in scenario.arms]
    each = [one.scenario.summaries for one in members if one.scenario.summaries is not None]
    found = ensemble.mix(each, weights.values)
    verdicts = ensemble.worst_of({one.name: one.scenario.verdicts for one in members})
    implied = _mixed_exports(found, arms, members)
    whole = _table(scenario, endpoints, found, implied, verdicts, structures[0].fit.model.time)
    whole["interval"] += " and structure"
    tables = [whole.assign(structure=MIXTURE, weight=1.0, record=" ".join(one.record for one in members))]
    tables += [one.scenario.table.assign(structure=one.name, weight=one.weight, record=one.record) for one in members]
    table = pd.concat(tables, ignore_index=True)
    simulated = any(one.scenario.simulated for one in members)
    table["simulated"] = simulated
    table = table[["structure", *(name for name in table.columns if name != "structure")]]
    counts = [one.scenario.times[next(iter(endpoints))].shape[1] for one in members]
    which, place = ensemble.drawn(weights.values, counts, scenario.draws)
    first = np.cumsum([0, *counts])

    def joined(each: list[np.ndarray]) -> np.ndarray:
        """Draws of all of them; structure by structure, for each may be larger than the memory."""
        whole = room((each[0].shape[0], len(place), each[0].shape[2]))
        for k, values in enumerate(each):
            whole[:, which == k] = values[:, place[which == k] - first[k]]
        return whole

    times = {name: joined([one.scenario.times[name] for one in members]) for name in endpoints}
    observed = {name: Crossing(*(joined([getattr(one.scenario.observed[name], end) for one in members])
                                 for end in Crossing._fields)) for name in members[0].scenario.observed}
    return Scenario(scenario, endpoints, times, table, simulated, implied, observed, verdicts, found, tuple(members),
                    (*ensemble.described(structures, weights), *notes))


def _mixed_exports(found: Summaries, arms: Sequence[str], members: Sequence[Member]) -> dict[str, Any]:
    """Implied exports of the mixture; not known where a structure knows none."""
    own = [one.scenario.implied_export for one in members]
    if not found.exports:
        lost = next((one for one in own if not one.get("known")), None)
        note = lost["note"] if lost is not None else "implied thymic export is not known by every structure alike"
        return {"known": False, "note": note, "rows": [], "warnings": []}
    rows = exports.export_rows(found.exports, arms)
    note = (f"peak from day {own[0]['from_day']:g} to day {own[0]['horizon']:g}; median subject, {INTERVAL_NAME} "
            "interval over the draws of the mixture (parameter uncertainty and structure)")
    return dict(own[0]) | {"rows": rows, "warnings": exports.peak_warnings(rows), "note": note}


def _counted(found: Iterable[_Found], total: int, progress: Callable[[int, int], None] | None) -> Iterator[_Found]:
    """What is found, with the progress told at each."""
    for done, one in enumerate(found, 1):
        if progress is not None:
            progress(done, total)
        yield one


def told(endpoints: Mapping[str, Endpoint], found: Summaries) -> dict[str, Float[np.ndarray, "draw arm"]]:
    """What a verdict looks at of each endpoint: the restricted mean, or the share not reached where one day decides."""
    chosen = {}
    for name, endpoint in endpoints.items():
        of_arms = found.quantities[name]
        k = 0 if endpoint.landmark else 1  # in the order of `endpoints.quantities`
        values = np.stack([own[k].values for own in of_arms], axis=1)
        chosen[name] = 1 - values if endpoint.landmark else values
    return chosen


def _verdict(verdicts: Verdicts, arm: str, prediction: str) -> dict[str, Any]:
    """Columns of a row; empty where it is of no arm alone."""
    return extrapolation.columns(verdicts.by_prediction.get((arm, prediction)))


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


def reading_rows(result: Scenario) -> list[dict[str, str]]:
    """A scenario's table for reading, without implied exports; of an ensemble the mixture, its structures beside it."""
    rows = []
    for row in [row for _, row in result.answers.iterrows() if "_over_" not in row["quantity"]]:
        horizon = result.endpoints[row["endpoint"]].horizon - result.endpoints[row["endpoint"]].clock_start
        show = partial(quantity_text, unit=row["unit"], horizon=horizon)
        spread = f"{show(row['subjects_q05'])} to {show(row['subjects_q95'])}" if row["subjects_q05"] > 0 else ""
        rows.append({"endpoint": row["endpoint"], "arm": row["arm"], "quantity": row["quantity"],
                     "estimate": show(row["estimate"]),
                     "90% interval": f"{show(row['lower'])} to {show(row['upper'])}", "subjects 5-95%": spread})
        if result.members:
            rows[-1] |= structure_cells(result.table, row, show)
    return rows
