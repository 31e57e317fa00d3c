"""Checks of a fit against its data: what a record predicts for a study like its own, beside what was measured.

`check_fit` computes numbers, `check_plots` draws them and nothing else. Questions are asked of the study and of its
replicates alike (`inference.checking`), so that their false-alarm rate is known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

import thymodel
from thymodel.documents.cards import card
from thymodel.documents.data import StudyData, load_data
from thymodel.documents.measurement import COUNTS
from thymodel.documents.spec import Endpoint, ErrorModel, FitSpec
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError
from thymodel.inference import checking
from thymodel.inference.checking import ALARM, Limits, Places, Pool, Question
from thymodel.inference.population import Layout, effect_name
from thymodel.inference.posterior import study_arrays
from thymodel.results import vpc
from thymodel.results.record import POSTERIOR, FitRecord, find_data, intact, load_group, refuse_without_patients
from thymodel.results.replicates import (
    PRIOR_REPLICATES,
    Study,
    affordable,
    individual_prediction,
    posterior_replicates,
    prior_replicates,
    typical_prediction,
)

EVERYONE = "all arms"
SCHEMA = 1
HIGH_SHRINKAGE = 0.3  # Savic & Karlsson 2009, AAPS J 11:558: above 20 to 30%, figures of individual effects mislead
LITTLE = 0.75  # contraction at which half of the prior's SD is left
_DIGITS = 6
METHODS = (
    "replicates: the same patients' doses, covariates and visits, random effects drawn anew under each posterior draw, "
    "values measured with that draw's residual error and cut at the same limits (mixed predictive distribution; "
    "Gelman, Meng & Stern 1996; Marshall & Spiegelhalter 2003)",
    "p values: rank of the study among its replicates (Barnard 1963), for all questions together by min P (Westfall & "
    "Young 1993)",
    "PIT and NPDE: Mentre & Escolano 2006, Brendel et al. 2006, decorrelated by subject and observable on normal "
    "scores; values beyond a limit drawn uniformly beyond it, the cdf method of Nguyen, Comets & Mentre 2012",
    "VPC: Karlsson & Holford 2008; below a limit: Bergstrand & Karlsson 2009; prediction-corrected: Bergstrand et al. "
    "2011, eq. 1, PRED without random effects at the posterior median; bins: Lavielle & Bleakley 2011",
    "endpoints: Kaplan & Meier 1958, on the days of the visits that showed them",
    "IWRES: (observed - individual prediction)/spread at posterior medians, on the scale of the error model",
    "shrinkage: 1 - SD(eta)/omega, and 1 - var(eta)/omega**2, eta being posterior means (Savic & Karlsson 2009)",
    "prior to posterior: contraction 1 - var(posterior)/var(prior) (Schad, Betancourt & Vasishth 2021) and overlap of "
    "the densities (Garrett & Zeger 2000), on the scale on which the prior is normal")


@dataclass(frozen=True)
class Checks:
    """`content` is what `checks.json` holds; figures are drawn from it and from the record alone."""

    record: FitRecord
    content: Mapping[str, Any]

    @cached_property
    def spec(self) -> FitSpec:
        return self.record.spec

    @property
    def passed(self) -> bool:
        return bool(self.content["verdict"]["passed"])

    def _repr_html_(self) -> str:
        rows = [{"about": row["about"], "question": row["question"], "p": f"{row['p']:.3g}",
                 "": "MISFIT" if row["departs"] else ""}
                for row in sorted(self.content["questions"], key=lambda row: not row["departs"])]
        return card(f"Predictive checks of {self.record.content['title']}", self.content["verdict"]["sentences"], rows,
                    bool(self.record.content["simulated"]), self.record.reservation)

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row an observation."""
        return pd.DataFrame(self.content["records"])


def check_fit(record: FitRecord, data: str | Path | None = None) -> Checks:
    """Predictive checks of a record; of failed fits too, for a check may show why one failed.

    Args:
        data: the study data, when they are not where the record found them.

    Raises:
        RecordError: the record's files were changed.
        InputError: the data are absent, or not those of the record.
        SolveError: too few courses could be computed.
    """
    intact(record)
    spec, z = record.spec, record.z
    loaded = _load(record, spec, None if data is None else Path(data))
    study = Study(spec, record.layout, loaded, *study_arrays(spec, loaded, tuple(spec.likelihood)))
    return Checks(record, _plain(_content(record, study, z, np.random.default_rng(spec.sampler.seed))))


def _load(record: FitRecord, spec: FitSpec, data: Path | None) -> StudyData:
    refuse_without_patients(record)
    path = find_data(record, data)
    if path is None:
        where = f"; {spec.data_where}" if spec.data_where else ""
        raise InputError([Fault(str(record.folder / spec.data_file), "the study data are not there, and a check "
                                f"compares with them{where}", "give their place with --data")])
    if digest(path.read_bytes()) != record.content["data"]["sha256"]:
        raise InputError([Fault(str(path), "not the data of this record (sha256 differs)")])
    return load_data(path, spec.model, spec.columns)


def _content(record: FitRecord, study: Study, z: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    """Everything that figures show and sentences say."""
    count, limits = affordable(study), checking.assay_limits(study.records)
    pools = {"posterior": checking.pool_of(study.records, posterior_replicates(study, z, count, random)),
             "prior": checking.pool_of(study.records, prior_replicates(study, random))}
    places, typical = _places(study), typical_prediction(study, z)
    table = _table(study, places, limits, typical, *individual_prediction(study, z))
    asked, drawn = _ask(study, pools, places, table, random)
    ends, more = _endpoints(study, pools, limits)
    questions = [*asked, *more]
    content = {
        "schema": SCHEMA, "thymodel": thymodel.__version__, "record": record.digest, "name": record.content["name"],
        "title": record.content["title"], "simulated": bool(record.content["simulated"]),
        "record_passed": record.passed, "reservation": record.reservation, "seed": study.spec.sampler.seed,
        "replicates": {"posterior": len(pools["posterior"]) - 1, "posterior_asked": count,
                       "prior": len(pools["prior"]) - 1, "prior_asked": PRIOR_REPLICATES,
                       "draws": int(min(count, z[..., 0].size)), "draws_in_record": int(z[..., 0].size)},
        "questions": _question_rows(questions, outcome := checking.judge(questions)),
        "together": outcome.together, "false_alarm_rate": ALARM, "observables": _observables(study, table, limits),
        "discrepancies": drawn, "vpc": _courses(study, pools, limits, places, typical), "endpoints": ends,
        "random_effects": _effects(record, study), "parameters": _parameters(record, study.layout, z),
        "arms": _arms(study.data), "records": table.to_dict("records"), "methods": list(METHODS)}
    content["notes"] = _notes(study, limits, content)
    return content | {"verdict": {"passed": outcome.together > ALARM, "sentences": _sentences(content)}}


# --- records -------------------------------------------------------------------------------------------------


def _arms(data: StudyData) -> list[str]:
    return list(dict.fromkeys(subject.arm or "all" for subject in data.subjects))


def _places(study: Study) -> Places:
    """Bins of time are those of each record's observable, over all arms."""
    arms, subject, time = _arms(study.data), np.asarray(study.records.subject), study.time
    arm = np.array([arms.index(one.arm or "all") for one in study.data.subjects])[subject]
    bins = np.zeros(len(subject), int)
    for mine in _by_observable(study).values():
        bins[mine] = vpc.time_bins(time[mine], subject[mine])
    return Places(subject, arm, bins)


def _by_observable(study: Study) -> dict[str, np.ndarray]:
    """Records of each observable that was measured at all."""
    found = {name: np.flatnonzero(np.asarray(study.records.observable) == k)
             for k, name in enumerate(study.spec.likelihood)}
    return {name: mine for name, mine in found.items() if len(mine)}


def _table(study: Study, places: Places, limits: Limits, typical: np.ndarray, individual: np.ndarray,
           residual: np.ndarray) -> pd.DataFrame:
    """A row an observation, as it is written; a censored one has its limit for a value, and no residual."""
    records, arms, names = study.records, _arms(study.data), tuple(study.spec.likelihood)
    censoring = np.asarray(records.censoring)
    return pd.DataFrame({
        "subject": [study.layout.subjects[k] for k in records.subject], "arm": [arms[k] for k in places.arm],
        "time": study.time, "observable": [names[k] for k in records.observable], "value": np.asarray(records.value),
        "censored": censoring, "lower_limit": limits.lower, "upper_limit": limits.upper, "bin": places.bin,
        "pred": typical, "ipred": individual, "iwres": np.where(censoring == 0, residual, np.nan)})


# --- questions -----------------------------------------------------------------------------------------------


def _ask(study: Study, pools: Mapping[str, Pool], places: Places, table: pd.DataFrame,
         random: np.random.Generator) -> tuple[list[Question], dict[str, Any]]:
    """Questions about each observable and what figures show of PIT and NPDE; the study's own go into the table."""
    questions, drawn, every = [], {}, np.empty(pools["posterior"].shape)
    table[["pit", "npde", "prior_pit"]] = np.nan
    for name, mine in _by_observable(study).items():
        own, where = pools["posterior"][:, mine], Places(*(of[mine] for of in places))
        every[:, mine] = uniform = checking.pit(own, random)
        errors = checking.npde(uniform, where.subject, random)
        questions += checking.departures(name, own, uniform, errors, where)
        drawn[name] = _discrepancies(uniform, errors, study.time[mine], where.bin)
        prior = checking.pit(pools["prior"][:, mine], random)[0]
        table.loc[mine, ["pit", "npde", "prior_pit"]] = np.stack([uniform[0], errors[0], prior], axis=1)
    if len(drawn) > 1:
        questions.append(checking.subjects_together(every, places.subject, np.asarray(study.records.observable)))
    return questions, drawn


_PIT_CELLS = 10


def _discrepancies(uniform: Pool, errors: Pool, time: np.ndarray, bins: np.ndarray) -> dict[str, Any]:
    """Histogram of PIT, quantiles of NPDE against the normal's, and NPDE by visit, each with its band of replicates."""
    cell = np.minimum((uniform * _PIT_CELLS).astype(int), _PIT_CELLS - 1)
    counts = np.stack([np.sum(cell == k, axis=1) for k in range(_PIT_CELLS)], axis=1)
    ordered, count = np.sort(errors, axis=1), errors.shape[1]
    return {
        "pit": {"edges": np.linspace(0, 1, _PIT_CELLS + 1), "count": counts[0],
                "simulated": np.quantile(counts[1:], vpc.BAND, axis=0).T},
        "npde": {"normal": scipy.stats.norm.ppf((np.arange(count) + 0.5) / count), "observed": ordered[0],
                 "simulated": np.quantile(ordered[1:], vpc.BAND, axis=0).T},
        "npde_by_visit": vpc.vpc_cells(errors, Limits(*np.full((2, count), -np.inf)), time, bins)}


def _question_rows(questions: Sequence[Question], outcome: checking.Outcome) -> list[dict[str, Any]]:
    return [{"about": one.about, "question": one.name, "if_wrong": one.what, "observed": one.observed,
             "expected": one.expected, "p": p, "p_together": adjusted, "departs": bool(adjusted <= ALARM)}
            for one, p, adjusted in zip(questions, outcome.p, outcome.adjusted, strict=True)]


# --- endpoints -----------------------------------------------------------------------------------------------


def _endpoints(study: Study, pools: Mapping[str, Pool], limits: Limits) -> tuple[dict[str, Any], list[Question]]:
    """Kaplan-Meier curves of each endpoint whose marker was measured, arm by arm, and a question about each."""
    found, questions = {}, []
    for name, endpoint in study.spec.endpoints.items():
        if endpoint.marker not in _by_observable(study) or endpoint.landmark:
            continue
        arms, distances = {}, []
        for arm in _arms(study.data):
            arms[arm], distance = _endpoint(study, pools, limits, endpoint, arm)
            distances.append(distance)
        found[name] = {"label": endpoint.label or name, "marker": endpoint.marker, "threshold": endpoint.threshold,
                       "unit": endpoint.unit, "sustained_for": endpoint.sustained_for,
                       "clock_start": endpoint.clock_start, "horizon": endpoint.horizon, "arms": arms}
        values = np.max(distances, axis=0)
        what = f"{name} is reached on other days than the model says (largest distance of Kaplan-Meier curves)"
        questions.append(checking.question(name, "Kaplan-Meier", what, values, values))
    return found, questions


def _endpoint(study: Study, pools: Mapping[str, Pool], limits: Limits, endpoint: Endpoint,
              arm: str) -> tuple[dict[str, Any], np.ndarray]:
    """One arm's numbers, and each member's distance from the mean curve."""
    who = [k for k, subject in enumerate(study.data.subjects) if (subject.arm or "all") == arm]
    days, seen = {}, {}
    for kind, pool in pools.items():
        each = [_crossings(study, pool, limits, endpoint, k) for k in who]
        days[kind], seen[kind] = (np.stack(part, axis=1) for part in zip(*each, strict=True))
    grid = np.unique(np.concatenate([[0.0], *(d.ravel() for d in days.values())]))
    curves = {kind: vpc.kaplan_meier(days[kind], seen[kind], grid) for kind in pools}
    own = curves["posterior"]
    bands = {kind: np.quantile(curve[1:], vpc.BAND, axis=0).T for kind, curve in curves.items()}
    left = np.sort(days["posterior"][0][~seen["posterior"][0]])
    row = {"days": grid, "observed": own[0], "subjects": len(who), "seen": seen["posterior"][0].sum(),
           "censored_on": left, **bands}
    return row, np.abs(own - own.mean(axis=0)).max(axis=1)


def _crossings(study: Study, pool: Pool, limits: Limits, endpoint: Endpoint, subject: int):
    number = list(study.spec.likelihood).index(endpoint.marker)
    mine = np.flatnonzero((study.records.subject == subject) & (study.records.observable == number))
    own = Limits(limits.lower[mine], limits.upper[mine])
    return vpc.observed_crossings(endpoint, study.time[mine], pool[:, mine], own)


# --- courses -------------------------------------------------------------------------------------------------


def _courses(study: Study, pools: Mapping[str, Pool], limits: Limits, places: Places,
             typical: np.ndarray) -> dict[str, Any]:
    """By observable and arm: VPC, prediction-corrected VPC, and predictive intervals of posterior and prior."""
    arms = _arms(study.data)
    result: dict[str, Any] = {}
    for name, mine in _by_observable(study).items():
        correctable = mine[vpc.correctable(typical[mine])]
        chosen = {arm: np.flatnonzero(places.arm == k) for k, arm in enumerate(arms)}
        if len(arms) > 1:
            chosen[EVERYONE] = np.arange(len(places.arm))
        result[name] = {"left_out_of_correction": len(mine) - len(correctable), "arms": {
            arm: _course(pools, limits, study.time, places.bin, typical, np.intersect1d(mine, rows),
                         np.intersect1d(correctable, rows))
            for arm, rows in chosen.items() if len(np.intersect1d(mine, rows))}}
    return result


def _course(pools: Mapping[str, Pool], limits: Limits, time: np.ndarray, bins: np.ndarray, typical: np.ndarray,
            mine: np.ndarray, correctable: np.ndarray) -> dict[str, Any]:
    own, some = pools["posterior"], Limits(limits.lower[correctable], limits.upper[correctable])
    corrected = vpc.prediction_corrected(own[:, correctable], some, typical[correctable], bins[correctable])
    return {
        "vpc": vpc.vpc_cells(own[:, mine], Limits(limits.lower[mine], limits.upper[mine]), time[mine], bins[mine]),
        "pcvpc": vpc.vpc_cells(*corrected, time[correctable], bins[correctable]),
        "corrected": dict(zip(("time", "value", "limit"), (
            time[correctable], np.where(np.isfinite(corrected[0][0]), corrected[0][0], np.nan), corrected[1].lower),
            strict=True)),
        **{kind: vpc.intervals(pool[:, mine], bins[mine], time[mine]) for kind, pool in pools.items()}}


# --- summaries -----------------------------------------------------------------------------------------------


def _observables(study: Study, table: pd.DataFrame, limits: Limits) -> dict[str, Any]:
    """By observable: counts, how much of the data the predictive intervals hold, NPDE and IWRES in numbers."""
    result = {}
    for name, mine in _by_observable(study).items():
        rows, error = table.iloc[mine], study.spec.likelihood[name]
        residual, low = rows["iwres"].dropna(), limits.lower[mine]
        known = np.unique(low[np.isfinite(low)])
        sd = _residual_sd(error)
        result[name] = {
            "unit": study.spec.model.observables[name].unit, "error": error.family, "count": len(rows),
            "below": int((rows["censored"] == 1).sum()), "above": int((rows["censored"] == -1).sum()),
            "limits": [] if not len(known) else [known.min(), known.max()],
            "inside": {kind: {level: float((rows[column] - 0.5).abs().lt(float(level) / 200).mean())
                              for level in ("50", "90")}
                       for kind, column in (("posterior", "pit"), ("prior", "prior_pit"))},
            "npde": {"mean": rows["npde"].mean(), "sd": rows["npde"].std(ddof=0)},
            "iwres": {"mean": residual.mean(), "sd": residual.std(ddof=0), "expected_sd": sd,
                      "shrinkage": 1 - residual.std(ddof=0) / sd if math.isfinite(sd) else math.nan}}
    return result


def _residual_sd(error: ErrorModel) -> float:
    """SD of standardised residuals around true predictions; NaN where it is infinite, and for counts 1 (Pearson's)."""
    if error.family != "student_t":
        return 1.0
    return math.sqrt(error.df / (error.df - 2)) if error.df > 2 else math.nan


def _effects(record: FitRecord, study: Study) -> list[dict[str, Any]]:
    """Shrinkage of each random effect, of every occasion's, and each subject's own in units of its SD."""
    posterior, rows = load_group(record.folder / POSTERIOR, "posterior"), []
    levels = {"omega": study.spec.between_subject, "gamma": study.spec.between_occasion}
    for column, sd in study.layout.spreads.items():
        level, _, key = sd.partition("_")
        item, name = levels[level][key], effect_name(column).removeprefix("re_")
        effects = posterior[effect_name(column)].values.reshape(-1, len(study.layout.subjects))
        stated = np.full(len(effects), study.layout.known.get(sd, np.nan))
        omega = stated if sd in study.layout.known else posterior[sd].values.ravel()
        scaled = np.quantile(effects / omega[:, None], vpc.BAND, axis=0).T
        rows.append({"effect": name, "parameters": list(item.parameters), "scale": item.scale,
                     "omega": np.quantile(omega, vpc.BAND), "shrinkage": checking.shrinkage(effects, omega),
                     "subjects": dict(zip(study.layout.subjects, scaled, strict=True))})
    return rows


def _parameters(record: FitRecord, lay: Layout, z: np.ndarray) -> list[dict[str, Any]]:
    """What each estimated number learned from the data."""
    posterior, units = load_group(record.folder / POSTERIOR, "posterior"), record.content["units"]
    natural = {name: posterior[name].values.ravel() for name in lay.population}
    found = checking.learned(lay, z.reshape(-1, z.shape[-1]), natural)
    return [{"parameter": name, "unit": units.get(name, "1"), "posterior": np.quantile(natural[name], vpc.BAND), **one}
            for name, one in found.items()]


# --- words ---------------------------------------------------------------------------------------------------


def _notes(study: Study, limits: Limits, content: Mapping[str, Any]) -> list[str]:
    """What was thinned, left out or assumed."""
    made = content["replicates"]
    notes = [f"replicates: {made['posterior']} under {made['draws']} of the record's {made['draws_in_record']} "
             f"posterior draws, {made['prior']} under draws of the prior; seed {content['seed']}"]
    lost = {kind: made[f"{kind}_asked"] - made[kind] for kind in ("posterior", "prior")}
    notes += [f"{count} replicates under draws of the {kind} could not be integrated and are left out"
              for kind, count in lost.items() if count]
    for name, mine in _by_observable(study).items():
        low = limits.lower[mine]
        if np.isfinite(low).any() and np.ptp(low) > 0:
            notes.append(f"{name}: the limit of quantification varies; measured values are taken to have had the "
                         "median limit of the censored ones, or their own value where that is less")
        missing = content["vpc"][name]["left_out_of_correction"]
        if missing:
            notes.append(f"{name}: {missing} records have a typical prediction of 0 and are left out of the "
                         "prediction-corrected VPC")
    if np.isfinite(np.asarray(study.records.limit)).any():
        notes.append("values between two limits (LIMIT) are taken as beyond the one in DV")
    notes += [f"{name}: a landmark, which patients seen on other days do not show, so no check" if item.landmark else
              f"{name}: its marker {item.marker} is not among the measured observables, so no check"
              for name, item in study.spec.endpoints.items() if name not in content["endpoints"]]
    return notes


def _sentences(content: Mapping[str, Any]) -> list[str]:
    """The verdict: first all questions together, then each that departs, then observables and endpoints that do not."""
    asked = content["questions"]
    result = [f"{_mark(content['together'] > ALARM)}: {len(asked)} questions together: p = {content['together']:.2g}; "
              f"false-alarm rate at most {100 * ALARM:.0f}% (less, for the posterior was fitted to the same data)"]
    for row in asked:
        if row["departs"]:
            result.append(f"MISFIT: {row['if_wrong']}: {row['observed']:.3g}, in replicates {row['expected']:.3g}; p = "
                          f"{row['p']:.2g}, among all questions p = {row['p_together']:.2g}")
    for about in dict.fromkeys(row["about"] for row in asked):
        own = [row for row in asked if row["about"] == about]
        if not any(row["departs"] for row in own):
            result.append(f"pass: {about}: no departure in {len(own)} question{'s' * (len(own) > 1)} (least p = "
                          f"{min(row['p'] for row in own):.2g})")
    return [*result, *_remarks(content)]


def _mark(good: bool) -> str:
    return "pass" if good else "MISFIT"


def _remarks(content: Mapping[str, Any]) -> list[str]:
    """What is worth knowing and no test."""
    result = []
    for name, row in content["observables"].items():
        inside = row["inside"]
        share = {kind: f"{100 * inside[kind]['90']:.0f}%" for kind in ("posterior", "prior")}
        result.append(f"note: {name}: the 90% posterior predictive interval holds {share['posterior']} of "
                      f"{row['count']} values, that of the prior {share['prior']}")
    high = [f"{row['effect']} {100 * row['shrinkage']['sd']:.0f}%" for row in content["random_effects"]
            if row["shrinkage"]["sd"] > HIGH_SHRINKAGE]
    if high:
        result.append(f"note: shrinkage above {100 * HIGH_SHRINKAGE:.0f}% on the SD scale, where individual effects "
                      f"say little: {', '.join(high)}")
    weak = [f"{row['parameter']} {row['contraction']:.2f}" for row in content["parameters"]
            if row["contraction"] < LITTLE]
    if weak:
        result.append(f"note: contraction below {LITTLE}, where more than half of the prior's SD is left: "
                      f"{', '.join(weak)}")
    return result


def reference_law(spec: FitSpec, name: str):
    """The law that standardised residuals of an observable follow around true predictions; None for counts."""
    error = spec.likelihood[name]
    if error.family in COUNTS:
        return None
    return scipy.stats.t(error.df) if error.family == "student_t" else scipy.stats.norm


def _plain(value: Any) -> Any:
    """Plain numbers of six digits for JSON, which has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.{_DIGITS}g}") if math.isfinite(value) else None
    return value
