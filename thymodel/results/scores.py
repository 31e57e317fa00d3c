"""Predictive scores of fits: how well each foretells subjects, observations, cohorts or doses that it has not seen.

By subject, cohort and dose the random effects are integrated out: the question is a new patient. By observation they
are not: the question is another sample of a patient who is known, and a score of one record cannot be set beside the
score of a patient.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float

from thymodel.documents.data import StudyData, Subject
from thymodel.documents.measurement import COUNTS
from thymodel.documents.spec import FitSpec
from thymodel.errors import Fault, InputError
from thymodel.inference import marginals, scoring
from thymodel.inference.diagnostics import worst_rhat
from thymodel.inference.marginals import Marginals
from thymodel.inference.posterior import Posterior, make_posterior
from thymodel.inference.sampling import thin
from thymodel.results.fitting import ROOM, sample_posterior
from thymodel.results.fitting import Progress as FitProgress
from thymodel.results.record import FitRecord, find_data, quotable, refuse_without_patients
from thymodel.results.study import load_study

_DRAWS = 1000  # at most, of every chain equally many, under which random effects are integrated out
_LIKELY = 128  # draws for which the solver's steps are laid
_SEED = 1  # of the integration's points
_FEW = 100  # units; below, and where the models differ by less than _CLOSE, the normal error of a difference misleads
_CLOSE = 4.0  # log units (Sivula, Magnusson & Vehtari 2020, arXiv:2008.10296)
_MIXED = 1.05  # R-hat above which a refit is named


class Unit(StrEnum):
    """What is left out at a time."""

    subject = "subject"
    observation = "observation"
    cohort = "cohort"
    dose = "dose"


Progress = Callable[[str], None]


@dataclass(frozen=True)
class Score:
    """Scores of one record, a row a unit: `unit`, `observations`, `elpd`, `optimism`, `error` (Monte-Carlo, of the
    draws), `integration_error` (of the integral over random effects), `pareto_k`, `refitted`; and notes in words."""

    record: FitRecord
    by: Unit
    table: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def elpd(self) -> Float[np.ndarray, " unit"]:
        return self.table["elpd"].to_numpy(float)

    @property
    def total(self) -> dict[str, float]:
        """Sum over units, its standard error from their spread, and its Monte-Carlo errors."""
        errors = {name: float(np.sqrt(np.sum(self.table[name].to_numpy(float) ** 2)))
                  for name in ("error", "integration_error")}
        return {"elpd": float(self.elpd.sum()), "se": scoring.standard_error(self.elpd),
                "optimism": float(self.table["optimism"].sum()), **errors}


def score(record: FitRecord, by: str = Unit.subject, data_path: Path | None = None, refit: bool = False,
          progress: Progress = lambda text: None) -> Score:
    """Leave-one-out scores of a record.

    Args:
        by: subject, observation, cohort or dose.
        refit: fit again without each unit whose Pareto k says that the weights cannot be trusted.

    Raises:
        InputError: the data are not there, or not those of the record; nothing to leave out.
        RecordError: a failed fit, or a record that was changed.
    """
    quotable(record)
    by = Unit(by)
    spec, data = study_of(record, data_path)
    units = _observations(spec, data) if by is Unit.observation else _groups(data, by)
    progress("preparing the posterior")
    posterior = make_posterior(spec, data, thin(record.z, _LIKELY))
    if by is Unit.observation and posterior.supposed.several:
        raise InputError([Fault(str(record.folder), "subjects who lack a covariate of a few values have one likelihood "
                                "for all of their observations", "score --by subject")])
    progress(f"{by} by {by}")
    if by is Unit.observation:
        found, integration = _score_observations(posterior, record.z, list(units.values()))
    else:
        found, integration = _score_groups(posterior, record.z, list(units.values()))
    table = pd.DataFrame({"unit": list(units), "observations": _sizes(posterior, by, list(units.values())),
                          **found._asdict(), "integration_error": integration, "refitted": False})
    notes: list[str] = []
    limit = scoring.most_k(record.z[..., 0].size if by is Unit.observation else _thinned(record.z, _DRAWS)[..., 0].size)
    suspect = np.flatnonzero(~(found.pareto_k <= limit))
    for k in suspect if refit else ():
        progress(f"fitting again without {table['unit'][k]}")
        _refit_one(record, posterior, data, by, list(units.values())[k], table, int(k), notes)
    return Score(record, by, table, (*_told(table, by, suspect, limit, refit), *notes))


def study_of(record: FitRecord, data_path: Path | None) -> tuple[FitSpec, StudyData]:
    refuse_without_patients(record)
    spec, path = record.spec, find_data(record, data_path)
    if path is None:
        where = f"; {spec.data_where}" if spec.data_where else ""
        raise InputError([Fault(str(record.folder), f"the study data are not there{where}",
                                "give their place with --data")])
    return spec, load_study(spec, path)[0]


# --- units ---------------------------------------------------------------------------------------------------


def _groups(data: StudyData, by: Unit) -> dict[str, list[int]]:
    """Name of each unit -> places of its subjects.

    Raises:
        InputError: one unit only.
    """
    name: dict[Unit, Callable[[Subject], str]] = {
        Unit.subject: lambda subject: subject.id, Unit.cohort: lambda subject: subject.arm or "all", Unit.dose: _dose}
    found: dict[str, list[int]] = {}
    for k, subject in enumerate(data.subjects):
        found.setdefault(name[by](subject), []).append(k)
    if len(found) < 2:
        raise InputError([Fault(f"{data.name}: --by {by}", f"all subjects are of one {by} ({', '.join(found)}), so "
                                "that nothing would be left", "use --by subject")])
    return found


def _dose_totals(subject: Subject) -> dict[str, float]:
    """Total amount of each input, in its own unit."""
    totals: dict[str, float] = {}
    for dose in subject.doses:
        totals[dose.input] = totals.get(dose.input, 0.0) + dose.amount
    return totals


def _dose(subject: Subject) -> str:
    totals = _dose_totals(subject)
    told = [f"{name} {amount:g}" for name, amount in sorted(totals.items()) if amount]
    return ", ".join(told) or "no dose"


def _observations(spec: FitSpec, data: StudyData) -> dict[str, list[int]]:
    """Name of each observation -> its places among the records, those of correlated residuals of a visit together."""
    block = {name: k for k, shared in enumerate(spec.shared_errors) for name in shared.observables}
    found: dict[tuple, list[int]] = {}
    wanted = [(s.id, o) for s in data.subjects for o in s.observations if o.observable in spec.likelihood]
    for place, (subject, o) in enumerate(wanted):
        alone = (o.observable, place)
        key = (subject, o.time, block[o.observable]) if o.observable in block else (subject, o.time, *alone)
        found.setdefault(key, []).append(place)
    names = [f"{wanted[places[0]][0]} {'+'.join(wanted[p][1].observable for p in places)} at "
             f"{wanted[places[0]][1].time:g} {spec.model.time}" for places in found.values()]
    repeated = {name: names.count(name) for name in names}
    return {f"{name} (row {k + 1})" if repeated[name] > 1 else name: places
            for k, (name, places) in enumerate(zip(names, found.values(), strict=True))}


def _sizes(posterior: Posterior, by: Unit, units: Sequence[Sequence[int]]) -> list[int]:
    subject = np.asarray(posterior.records.subject)
    return [len(unit) if by is Unit.observation else int(np.isin(subject, unit).sum()) for unit in units]


# --- scores --------------------------------------------------------------------------------------------------


def _thinned(z: Float[np.ndarray, "chain draw coordinate"], most: int) -> Float[np.ndarray, "chain draw coordinate"]:
    chains, count = z.shape[:2]
    return z[:, np.unique(np.linspace(0, count - 1, min(count, most // chains)).astype(int))]


def _score_groups(posterior: Posterior, z: np.ndarray, units: Sequence[Sequence[int]]):
    """Scores, and the error of the integration in each: of four independent parts of its points."""
    some = _thinned(z, _DRAWS)
    found = _integrated(posterior, some, z)
    value, *parts = [_summed(one, units, some.shape[:2]) for one in (found.value, *found.parts)]
    scores = scoring.leave_one_out(value)
    each = np.array([scoring.leave_one_out(part).elpd for part in parts])
    return scores, np.std(each, axis=0, ddof=1) / np.sqrt(len(each))


def _integrated(posterior: Posterior, some: np.ndarray, z: np.ndarray) -> Marginals:
    """Log likelihood of every subject under some draws, its random effects integrated out."""
    head, _ = marginals.split(posterior, some.reshape(-1, some.shape[-1]))
    guess = marginals.guess_effects(*marginals.split(posterior, z.reshape(-1, z.shape[-1])), head)
    return marginals.integrate(marginals.of_subjects(posterior), head, guess, _SEED)


def _summed(values: Float[np.ndarray, "draw subject"], units: Sequence[Sequence[int]],
            shape: tuple[int, int]) -> Float[np.ndarray, "chain draw unit"]:
    return np.stack([values[:, list(unit)].sum(axis=1) for unit in units], axis=-1).reshape(*shape, len(units))


def _score_observations(posterior: Posterior, z: np.ndarray, units: Sequence[Sequence[int]]):
    values = _by_observation(posterior, z)
    summed = np.stack([values[..., list(unit)].sum(axis=-1) for unit in units], axis=-1)
    return scoring.leave_one_out(summed), np.zeros(len(units))


def _by_observation(posterior: Posterior, z: np.ndarray) -> Float[np.ndarray, "chain draw record"]:
    program = jax.jit(lambda points: jax.lax.map(posterior.log_likelihood, points))
    found = np.asarray(program(z.reshape(-1, z.shape[-1])))
    return np.where(np.isnan(found), -np.inf, found).reshape(*z.shape[:2], -1)


@dataclass(frozen=True)
class DoseUnit:
    """Subjects of one total dose: their arm (the commonest), totals by input, and log likelihood under draws."""

    arm: str
    totals: Mapping[str, float]
    values: Float[np.ndarray, "chain draw"]


def dose_log_likelihood(record: FitRecord, data_path: Path | None, kept: Sequence[int]) -> dict[str, DoseUnit]:
    """Log likelihood of all subjects of each dose together, random effects integrated out, under some draws.

    Args:
        kept: which draws of every chain.

    Raises:
        InputError: the data are not there, or not those of the record; all subjects had the same dose.
    """
    spec, data = study_of(record, data_path)
    units = _groups(data, Unit.dose)
    posterior = make_posterior(spec, data, thin(record.z, _LIKELY))
    some = record.z[:, np.asarray(kept)]
    summed = _summed(_integrated(posterior, some, record.z).value, list(units.values()), some.shape[:2])
    return {name: DoseUnit(Counter(data.subjects[k].arm or "all" for k in places).most_common(1)[0][0],
                           _dose_totals(data.subjects[places[0]]), summed[..., column])
            for column, (name, places) in enumerate(units.items())}


# --- refits --------------------------------------------------------------------------------------------------


def _refit_one(record: FitRecord, posterior: Posterior, data: StudyData, by: Unit, unit: Sequence[int],
               table: pd.DataFrame, row: int, notes: list[str]) -> None:
    """The exact score of a unit, in place of the one by importance weights."""
    name = table.loc[row, "unit"]
    z, divergences = refit_without(posterior.spec, data, by, unit)
    elpd, error, integration = score_left_out(record, posterior, data, by, unit, z)
    table.loc[row, "optimism"] += table.loc[row, "elpd"] - elpd
    table.loc[row, ["elpd", "error", "integration_error"]] = elpd, error, integration
    table.loc[row, "refitted"] = True
    rhat = worst_rhat(z)
    if divergences or rhat > _MIXED:
        notes.append(f"the refit without {name} had {divergences} divergent transitions and a worst R-hat of "
                     f"{rhat:.3f}: its score may be off")


def refit_without(spec: FitSpec, data: StudyData, by: Unit,
                  unit: Sequence[int]) -> tuple[Float[np.ndarray, "chain draw coordinate"], int]:
    """Draws of the posterior without a unit, and how many transitions diverged."""
    rest = _without(spec, data, by, unit)
    posterior = make_posterior(spec, rest, least_rows=ROOM)
    draws, _ = sample_posterior(posterior, rest, None, FitProgress())
    return draws.z, int(draws.diverging.sum())


def _without(spec: FitSpec, data: StudyData, by: Unit, unit: Sequence[int]) -> StudyData:
    """The study less some subjects, or less some observations of a subject that stays."""
    if by is not Unit.observation:
        return replace(data, subjects=tuple(s for k, s in enumerate(data.subjects) if k not in set(unit)))
    counted, subjects = 0, []
    for subject in data.subjects:
        kept = []
        for o in subject.observations:
            used = o.observable in spec.likelihood
            kept += [o] if not used or counted not in unit else []
            counted += used
        subjects.append(replace(subject, observations=tuple(kept)))
    return replace(data, subjects=tuple(subjects))


def score_left_out(record: FitRecord, posterior: Posterior, data: StudyData, by: Unit, unit: Sequence[int],
                   z: Float[np.ndarray, "chain draw coordinate"]) -> tuple[float, float, float]:
    """Score of a unit under draws that were made without it; Monte-Carlo error, and error of the integration."""
    if by is Unit.observation:
        return *scoring.left_out(_by_observation(posterior, z)[..., list(unit)].sum(axis=-1)), 0.0
    some = _thinned(z, _DRAWS)
    count = len(posterior.layout.population)
    head = some.reshape(-1, some.shape[-1])[:, :count]
    known, effects = marginals.split(posterior, record.z.reshape(-1, record.z.shape[-1]))
    guess = marginals.guess_effects(known, effects[:, list(unit)], head)
    likely = np.concatenate([head, guess.centre.reshape(len(head), -1)], axis=1)
    alone = make_posterior(posterior.spec, replace(data, subjects=tuple(data.subjects[k] for k in unit)),
                           likely[:: max(len(likely) // _LIKELY, 1)])
    found = marginals.integrate(marginals.of_subjects(alone), head, guess, _SEED)
    value, *parts = [one.sum(axis=1).reshape(some.shape[:2]) for one in (found.value, *found.parts)]
    each = np.array([scoring.left_out(part)[0] for part in parts])
    return *scoring.left_out(value), float(np.std(each, ddof=1) / np.sqrt(len(each)))


# --- in words ------------------------------------------------------------------------------------------------


def _told(table: pd.DataFrame, by: Unit, suspect: np.ndarray, limit: float, refit: bool) -> list[str]:
    if not len(suspect):
        return [f"Pareto k is at most {limit:.2f} for every {by}: with so many draws the weights can be trusted"]
    named = ", ".join(f"{table['unit'][k]} ({table['pareto_k'][k]:.2f})" for k in suspect)
    if refit:
        return [f"Pareto k was above {limit:.2f} for {named}: fitted again without each, its score is exact but "
                "for Monte-Carlo error"]
    return [f"Pareto k is above {limit:.2f} for {named}: importance weights cannot foretell what the fit says "
            f"without {'it' if len(suspect) == 1 else 'each of them'}, and the score is off, as a rule too good; "
            "use --refit"]


# --- several records -----------------------------------------------------------------------------------------


def compare(scores: Sequence[Score]) -> pd.DataFrame:
    """Records side by side, best first: elpd, its difference from the best with the standard error over units and the
    Monte-Carlo error, stacking weight.

    Raises:
        InputError: the records are not of the same data, or do not score the same units.
    """
    refuse_unlike([one.record for one in scores])
    names = [str(one.record.folder) for one in scores]
    if any(list(one.table["unit"]) != list(scores[0].table["unit"]) for one in scores):
        raise InputError([Fault(", ".join(names), f"do not have the same units by {scores[0].by}")])
    found = scoring.compare({name: one.elpd for name, one in zip(names, scores, strict=True)})
    by_name = dict(zip(names, scores, strict=True))
    totals = [by_name[name].total for name in found.names]
    noise = [math.hypot(total["error"], total["integration_error"]) for total in totals]
    against = [0.0 if k == 0 else math.hypot(one, noise[0]) for k, one in enumerate(noise)]
    return pd.DataFrame({"record": found.names, "elpd": [t["elpd"] for t in totals], "se": [t["se"] for t in totals],
                         "difference": found.difference, "difference_se": found.error,
                         "difference_monte_carlo": against, "stacking_weight": found.weight})


def caution(table: pd.DataFrame, units: int, by: Unit) -> str:
    """What a difference between few units does not say; empty where there is nothing to be careful about."""
    close = bool((table["difference"].iloc[1:].abs() < _CLOSE).any())
    if units >= _FEW and not close:
        return ""
    reason = f"of {units} units (by {by}) only" if units < _FEW else f"below {_CLOSE:g} log units"
    return (f"differences {reason}: their standard errors are rough, and no evidence that the models foretell equally "
            "well")


def refuse_unlike(records: Sequence[FitRecord]) -> None:
    """Scores are densities of data: of other data, other observables or other units they cannot be set side by side.

    Raises:
        InputError: with every reason.
    """
    first, *others = records
    faults = [Fault(str(folder), "named twice") for folder in _repeated([r.folder.resolve() for r in records])]
    digests = {record.content["data"]["sha256"] for record in records}
    if len(digests) > 1:
        faults += [Fault(str(record.folder), f"data sha256 {record.content['data']['sha256'][:16]}", "records can be "
                         "compared on the same data only: fit them to one file") for record in records]
    for other in others:
        faults += [Fault(str(other.folder), what) for what in _unlike(first.spec, other.spec, str(first.folder))]
    if faults:
        raise InputError(faults)


def _repeated(folders: Sequence[Path]) -> list[Path]:
    return sorted({folder for folder in folders if folders.count(folder) > 1})


def _unlike(one: FitSpec, other: FitSpec, name: str) -> list[str]:
    """How two specs look at one file differently; an observation that one of them does not use is data it never saw."""
    if set(one.likelihood) != set(other.likelihood):
        return [f"measures {', '.join(sorted(other.likelihood))}, where {name} measures "
                f"{', '.join(sorted(one.likelihood))}"]
    found = []
    for observable in one.likelihood:
        units = [str(spec.model.observables[observable].unit) for spec in (one, other)]
        counted = [spec.likelihood[observable].family in COUNTS for spec in (one, other)]
        if units[0] != units[1]:
            found.append(f"{observable} is in {units[1]}, where {name} has it in {units[0]}: densities differ by a "
                         "factor")
        if counted[0] != counted[1]:
            found.append(f"{observable} is a count in one of them and a measured value in the other: a probability "
                         "and a density cannot be compared")
    return found


# --- what people read ----------------------------------------------------------------------------------------

HEADING = {Unit.subject: "left out by subject, random effects integrated out",
           Unit.cohort: "left out by cohort (arm), all its subjects together, random effects integrated out",
           Unit.dose: "left out by total dose, all its subjects together, random effects integrated out",
           Unit.observation: "left out by observation, other observations of the same subject known"}


MOST_ROWS = 60  # printed; all are in --csv and --json


def unit_rows(found: Score) -> list[dict[str, str]]:
    """A row a unit, in log units; of many units those with the largest Pareto k."""
    rows, table = [], found.table
    if len(table) > MOST_ROWS:
        table = table.nlargest(MOST_ROWS, "pareto_k")
    for row in table.to_dict("records"):
        errors = math.hypot(row["error"], row["integration_error"])
        rows.append({str(found.by): row["unit"], "observations": str(row["observations"]),
                     "elpd": f"{row['elpd']:.2f}", "Monte-Carlo error": f"{errors:.2f}",
                     "of it integration": f"{row['integration_error']:.2f}", "Pareto k": f"{row['pareto_k']:.2f}",
                     "how": "refit" if row["refitted"] else "weights"})
    return rows


def headline(found: Score) -> str:
    """The sum of all scores in one sentence."""
    total = found.total
    shown = f"; shown are the {MOST_ROWS} with the largest Pareto k" if len(found.table) > MOST_ROWS else ""
    return (f"elpd {total['elpd']:.1f} log units (standard error over {len(found.table)} units {total['se']:.1f}; "
            f"Monte-Carlo error {math.hypot(total['error'], total['integration_error']):.2f}, of it integration "
            f"{total['integration_error']:.2f}); effective number of parameters {total['optimism']:.1f}{shown}")


def comparison_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Records, best first."""
    return [{"record": row["record"], "elpd": f"{row['elpd']:.1f}", "SE": f"{row['se']:.1f}",
             "difference": f"{row['difference']:.1f}", "SE of difference": f"{row['difference_se']:.1f}",
             "Monte-Carlo error": f"{row['difference_monte_carlo']:.2f}",
             "stacking weight": f"{row['stacking_weight']:.2f}"} for row in table.to_dict("records")]


def units_table(scores: Sequence[Score]) -> pd.DataFrame:
    """Every unit of every record, for a file."""
    return pd.concat([one.table.assign(record=str(one.record.folder), by=str(one.by),
                                       simulated=bool(one.record.content["simulated"])) for one in scores])


def as_json(scores: Sequence[Score], comparison: pd.DataFrame | None) -> str:
    """Everything, for programs."""
    records = [{"record": str(one.record.folder), "digest": one.record.digest, "title": one.record.content["title"],
                "simulated": one.record.content["simulated"], "by": str(one.by), "what": HEADING[one.by],
                "total": _plain(one.total), "units": _plain_rows(one.table), "notes": list(one.notes)}
               for one in scores]
    rows = None if comparison is None else _plain_rows(comparison)
    return json.dumps({"records": records, "comparison": rows}, indent=1, allow_nan=False)


def _plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_plain(row) for row in table.to_dict("records")]


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()}
