"""What a fit owes to its priors: power-scaling of every prior and of the likelihood, and tipping points.

Both come from the draws of the record by importance weights. The log prior of each parameter is a closed form, and the
log likelihood is what the record's log density leaves when the prior is taken off, so that power-scaling needs neither
data nor model runs. Random effects are part of the model: the priors of their spreads are scaled, not they.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from thymodel.documents.data import StudyData
from thymodel.documents.expressions import closest
from thymodel.documents.measurement import ErrorModel
from thymodel.documents.priors import Prior, log_kernel, rescaled, shifted
from thymodel.documents.spec import FitSpec
from thymodel.errors import Fault, InputError
from thymodel.inference import reweighting
from thymodel.inference.population import Layout, error_name, log_prior
from thymodel.inference.posterior import make_posterior
from thymodel.inference.reweighting import CONFLICT, NEITHER, SENSITIVE, Draws, Step, Tip
from thymodel.inference.scoring import most_k
from thymodel.results import record as records
from thymodel.results.fitting import ROOM, derive, sample_posterior, simulate_arms
from thymodel.results.fitting import Progress as FitProgress
from thymodel.results.record import FitRecord
from thymodel.results.scores import study_of

ALL = "all priors"
METHOD = ("power-scaling (Kallioinen et al. 2024, Stat Comput 34:57): cumulative Jensen-Shannon distance per doubling "
          "of the power at power one, by Pareto-smoothed importance weights; each prior on the scale it is written on "
          "(log of a lognormal), where a power changes its width and keeps its median; times that are not reached "
          "count as the horizon")
REACH = 3.0  # prior standard deviations that a prior is shifted at most
WIDEST = 4.0  # times that it is made wider or narrower at most
_STEPS = 60  # to either end
_MOST_REFITS = 6  # one way out

Report = Callable[[str], None]


@dataclass(frozen=True)
class PriorSensitivity:
    """A row a quantity: `prior` and `likelihood` sensitivities, `diagnosis`, and the one prior that moves it most
    (`most`, `by_most`); `by_prior` has all of them (quantity, prior). `pareto_k` is of each power-scaling."""

    record: FitRecord
    table: pd.DataFrame
    by_prior: pd.DataFrame
    pareto_k: Mapping[str, float]


def check_priors(record: FitRecord) -> PriorSensitivity:
    """Power-scaling sensitivity of every population parameter, derived value and endpoint of a record.

    Raises:
        RecordError: a failed fit, or a record that was changed.
    """
    records.quotable(record)
    lay, z = record.layout, record.z
    priors = reweighting.log_priors(lay, z)
    own_sum = np.sum(list(priors.values()), axis=0)
    terms = {ALL: own_sum, **priors, "likelihood": _log_likelihood(record, lay, z)}
    parts = [(_population(record), slice(None)), _endpoints(record)]
    found: dict[str, dict[str, float]] = {name: {} for name in terms}
    for quantities, kept in parts:
        for name, term in terms.items():
            found[name] |= reweighting.power_sensitivity(quantities, term[:, kept])
    table = pd.DataFrame(found)
    moving = table[table[ALL].notna()]
    by_prior = moving[list(priors)]
    most = by_prior.idxmax(axis=1)
    rows = pd.DataFrame({
        "quantity": moving.index, "prior": moving[ALL].to_numpy(), "likelihood": moving["likelihood"].to_numpy(),
        "diagnosis": [reweighting.diagnose(p, q) for p, q in zip(moving[ALL], moving["likelihood"], strict=True)],
        "most": most.to_numpy(), "by_most": by_prior.max(axis=1).to_numpy()})
    return PriorSensitivity(record, rows, by_prior, {name: reweighting.power_k(term) for name, term in terms.items()})


def _log_likelihood(record: FitRecord, lay: Layout, z: np.ndarray) -> Draws:
    """Of all data given parameters and random effects: log density less log prior."""
    prior = jax.jit(lambda points: jax.lax.map(lambda point: log_prior(lay, point), points))
    total = records.load_group(record.folder / records.POSTERIOR, "sample_stats")["lp"].values
    return total - np.asarray(prior(z.reshape(-1, z.shape[-1]))).reshape(z.shape[:2])


def _population(record: FitRecord) -> dict[str, Draws]:
    rows = records.named_draws(records.load_group(record.folder / records.POSTERIOR, "posterior"))
    return {name: values for name, values in rows.items() if not name.startswith("re_")}


def _endpoints(record: FitRecord) -> tuple[dict[str, Draws], np.ndarray]:
    """Quantities of endpoints, and the draws that they are of. A time that is not reached counts as the horizon: a
    distance between distributions then sees only that it is late."""
    path = record.folder / records.DERIVED
    if not path.exists():
        return {}, np.arange(1)
    dataset = records.load_group(path)
    horizons = {name: e["horizon"] - e["clock_start"] for name, e in record.content["endpoints"].items()}
    rows = {name: values for name, values in records.named_draws(dataset).items() if ".spread_" not in name}
    ends = {name: horizons.get(name.split(".")[0], np.inf) for name in rows}
    rows = {name: np.minimum(values, ends[name]) for name, values in rows.items()}
    return {name: values for name, values in rows.items() if np.isfinite(values).all()}, dataset["draw"].values


# --- tipping points ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """How far must the prior of `parameter` go before P(reconstituted by `day`) of an endpoint crosses `target`?"""

    parameter: str
    endpoint: str
    day: float
    target: float


@dataclass(frozen=True)
class TippingPoints:
    """Rows of arm and way (`shift` in prior SDs, `width` as a factor): `amount` where the target is crossed, its
    Monte-Carlo error, the prior there; or, where it is not, how far was looked and whether a refit is needed."""

    record: FitRecord
    question: Question
    prior: Prior
    now: Mapping[str, tuple[float, float]]
    table: pd.DataFrame


@dataclass(frozen=True)
class _Base:
    """Draws to reweight: of the parameter and of the quantities, under `prior`."""

    prior: Prior
    parameter: Draws
    quantities: Mapping[str, Draws]


def tip(record: FitRecord, question: Question, refit: bool = False, data_path: Path | None = None,
        progress: Report = lambda text: None) -> TippingPoints:
    """Tipping points of every arm, by reweighting; with `refit`, by new fits where the weights do not reach.

    Raises:
        InputError: no such parameter, endpoint or day; a target that is no probability; data needed and not there.
        RecordError: a failed fit, or a record that was changed.
    """
    records.quotable(record)
    base = _base(record, question)
    again = _refitter(record, question, data_path, progress) if refit else None
    rows: list[dict[str, Any]] = []
    now: dict[str, tuple[float, float]] = {}
    for way, change, amounts in _ways(base.prior):
        steps, fits, stopped = _walk(base, change, amounts, question.target, again)
        now |= {name: (steps[0].means[name], steps[0].errors[name]) for name in base.quantities}
        for name in base.quantities:
            rows.append(_row(name, way, reweighting.find_tip(steps, name, question.target), change, fits, stopped,
                             amounts[-1]))
    return TippingPoints(record, question, base.prior, now, pd.DataFrame(rows))


def _ways(prior: Prior) -> list[tuple[str, Callable[[float], Prior], np.ndarray]]:
    """Ways out from the prior, each as name, map from an amount, and amounts from none to most; those that its family
    has."""
    out = np.linspace(0, 1, _STEPS + 1)
    ways: list[tuple[str, Callable[[float], Prior], np.ndarray]] = [
        ("shift down", lambda a: shifted(prior, a), -REACH * out),
        ("shift up", lambda a: shifted(prior, a), REACH * out),
        ("narrower", lambda a: rescaled(prior, a), WIDEST ** -out),
        ("wider", lambda a: rescaled(prior, a), WIDEST**out)]
    found = []
    for way in ways:
        try:
            way[1](1.0)
        except ValueError:
            continue
        found.append(way)
    return found


def _walk(base: _Base, change: Callable[[float], Prior], amounts: np.ndarray, target: float,
          again: Callable[[Prior], _Base] | None) -> tuple[list[Step], int, bool]:
    """Steps along one way out; how many fits that took; whether the weights ended it before every arm had crossed."""
    steps: list[Step] = []
    fits, at = 0, base
    while True:
        more = reweighting.walk(at.quantities, partial(_log_ratio, at, change), amounts[len(steps):].tolist())
        steps += more
        crossed = all(math.isfinite(reweighting.find_tip(steps, name, target).amount) for name in base.quantities)
        if crossed or len(steps) == len(amounts):
            return steps, fits, False
        if again is None or fits == _MOST_REFITS or (fits and not more):
            return steps, fits, True
        # a step beyond the last that could be trusted, or half as far again as the weights had reached
        ahead = min(len(steps) + len(more) // 2, len(amounts) - 1)
        at, fits = again(change(float(amounts[ahead]))), fits + 1


def _log_ratio(base: _Base, change: Callable[[float], Prior], amount: float) -> Draws:
    return np.asarray(log_kernel(change(amount), base.parameter) - log_kernel(base.prior, base.parameter))


def _row(name: str, way: str, found: Tip, change: Callable[[float], Prior], fits: int, stopped: bool,
         end: float) -> dict[str, Any]:
    crossed = math.isfinite(found.amount)
    verdict = ("crosses" if crossed else
               f"needs a refit: Pareto k is too large beyond {found.reach:.3g}" if stopped
               else "does not cross")
    return {"quantity": name, "way": way, "amount": found.amount, "error": found.error, "verdict": verdict,
            "prior_there": str(change(found.amount if crossed else found.reach)), "looked_to": found.reach,
            "probability_there": found.mean, "pareto_k": found.pareto_k, "refits": fits, "most": end}


def _base(record: FitRecord, question: Question) -> _Base:
    """Draws of the parameter and of the asked probability, arm by arm."""
    spec = record.spec
    lay = record.layout
    priors = priors_of(lay)
    faults = []
    if question.parameter not in priors:
        faults.append(Fault(f"--tip {question.parameter}", "no parameter with a prior of its own in this record"
                            f"{closest(question.parameter, priors)}", f"one of: {', '.join(priors)}"))
    if question.endpoint not in spec.endpoints:
        faults.append(Fault(f"--endpoint {question.endpoint}", "no such endpoint in this record",
                            f"one of: {', '.join(spec.endpoints) or 'none'}"))
    elif question.day not in spec.endpoints[question.endpoint].by:
        days = ", ".join(f"{day:g}" for day in spec.endpoints[question.endpoint].by)
        faults.append(Fault(f"--day {question.day:g}", f"the record has no probability by that day for "
                            f"{question.endpoint}", f"one of: {days or 'none'} (`by` of the endpoint in the spec)"))
    if not 0 < question.target < 1:
        faults.append(Fault(f"--target {question.target:g}", "not a probability between 0 and 1", "for example 0.5"))
    if lay.borrowed is not None and question.parameter in lay.borrowed.names:
        faults.append(Fault(f"--tip {question.parameter}", f"its prior is joint with that of {len(lay.borrowed.names)} "
                            "parameters and comes from another record", "fit without prior_from, or see the report"))
    if not faults and not _ways(priors[question.parameter]):
        faults.append(Fault(f"--tip {question.parameter}", f"its prior {priors[question.parameter]} can be neither "
                            "shifted nor rescaled"))
    if faults:
        raise InputError(faults)
    dataset = records.load_group(record.folder / records.DERIVED)
    return _base_of(priors[question.parameter], lay, record.z, records.named_draws(dataset), dataset["draw"].values,
                    question)


def _base_of(prior: Prior, lay: Layout, z: np.ndarray, derived: Mapping[str, Draws], kept: np.ndarray,
             question: Question) -> _Base:
    wanted = f"{question.endpoint}.by_{question.day:g}["
    return _Base(prior, reweighting.natural_values(lay, z[:, kept])[question.parameter],
                 {name: values for name, values in derived.items() if name.startswith(wanted)})


def _refitter(record: FitRecord, question: Question, data_path: Path | None,
              progress: Report) -> Callable[[Prior], _Base]:
    """Fits again under another prior of the parameter: its draws of what is asked."""
    spec, data = study_of(record, data_path)

    def again(prior: Prior) -> _Base:
        progress(f"fitting again under {question.parameter} ~ {prior}")
        return _refit(with_prior(spec, question.parameter, prior), data, prior, question)

    return again


def _refit(spec: FitSpec, data: StudyData, prior: Prior, question: Question) -> _Base:
    draws, posterior = sample_posterior(make_posterior(spec, data, least_rows=ROOM), data, None, FitProgress())
    derived, _ = derive(posterior, data, draws, simulate_arms(posterior, data, draws))
    return _base_of(prior, posterior.layout, draws.z, records.named_draws(derived), derived["draw"].values, question)


def priors_of(lay: Layout) -> dict[str, Prior]:
    """Prior of each population parameter that shares it with no other: correlations do, and slopes across cohorts."""
    shared = {name for key in lay.across for name in (f"beta_{key}", f"beta_across_{key}")}
    return {name: prior for name, prior in lay.priors.items() if name not in shared}


def with_prior(spec: FitSpec, name: str, prior: Prior) -> FitSpec:
    """The spec with another prior of one population parameter."""
    def errors(observable: str, error: ErrorModel) -> ErrorModel:
        return replace(error, parameters={key: prior if error_name(observable, key) == name else own
                                          for key, own in error.parameters.items()})

    return replace(
        spec, estimate={key: replace(item, prior=prior) if key == name else item
                        for key, item in spec.estimate.items()},
        between_subject={key: replace(item, sd=prior) if f"omega_{key}" == name else item
                         for key, item in spec.between_subject.items()},
        missing_covariates={key: replace(item, numbers={**item.numbers, name: prior}) if name in item.numbers else item
                            for key, item in spec.missing_covariates.items()},
        covariate_effects={key: replace(item, prior=prior) if f"beta_{key}" == name else item
                           for key, item in spec.covariate_effects.items()},
        study_effects={key: replace(item, sd=prior) if f"tau_{key}" == name else item
                       for key, item in spec.study_effects.items()},
        between_occasion={key: replace(item, sd=prior) if f"gamma_{key}" == name else item
                          for key, item in spec.between_occasion.items()},
        likelihood={key: errors(key, item) for key, item in spec.likelihood.items()})


# --- what people read ----------------------------------------------------------------------------------------


def sensitivity_rows(found: PriorSensitivity) -> list[dict[str, str]]:
    """A row a quantity, those with a diagnosis first."""
    table = found.table.assign(quiet=found.table["diagnosis"] == NEITHER)
    return [{"quantity": row["quantity"], "prior": f"{row['prior']:.3f}", "likelihood": f"{row['likelihood']:.3f}",
             "diagnosis": row["diagnosis"], "most by the prior of": f"{row['most']} ({row['by_most']:.3f})"}
            for row in table.sort_values("quiet", kind="stable").to_dict("records")]


def told(found: PriorSensitivity) -> list[str]:
    """What the table says, in sentences."""
    named = found.table[found.table["diagnosis"] != NEITHER]
    lines = [f"{len(named)} of {len(found.table)} quantities depend on the priors by {SENSITIVE} or more"]
    if (named["diagnosis"] == CONFLICT).any():
        lines.append(f"{CONFLICT}: prior and data both move the quantity, so that they may disagree; a prior that was "
                     "meant to say something shows so too")
    limit = most_k(found.record.z[..., 0].size)
    lost = [f"{name} ({k:.2f})" for name, k in found.pareto_k.items() if not k <= limit]
    if lost:
        lines.append(f"Pareto k is above {limit:.2f} for the power-scaling of {', '.join(lost)}: needs a refit")
    return lines


def tip_rows(found: TippingPoints) -> list[dict[str, str]]:
    """A row an arm and way."""
    rows = []
    for row in found.table.to_dict("records"):
        scaled = row["way"] in ("narrower", "wider")
        crossed = math.isfinite(row["amount"])
        unit = f"x {row['amount']:.2f}" if scaled else f"{row['amount']:+.2f} prior SD"
        answer = f"{unit} (Monte-Carlo error {row['error']:.2f})" if crossed else row["verdict"]
        rows.append({"quantity": row["quantity"], "now": f"{found.now[row['quantity']][0]:.3f}", "way": row["way"],
                     "target is crossed at": answer, "P there": f"{row['probability_there']:.3f}",
                     "prior there": row["prior_there"], "Pareto k": f"{row['pareto_k']:.2f}",
                     "refits": str(row["refits"])})
    return rows


def tip_heading(found: TippingPoints) -> str:
    asked, endpoint = found.question, found.record.content["endpoints"][found.question.endpoint]
    label = endpoint["label"] or asked.endpoint
    return (f"how far the prior of {asked.parameter}, {found.prior}, must go before P({label}, by day {asked.day:g}), "
            f"the expected fraction of patients, crosses {asked.target:g}; looked at as far as {REACH:g} prior SDs "
            f"either way (on the scale the prior is written on) and {WIDEST:g} times narrower or wider")


def as_table(found: PriorSensitivity) -> pd.DataFrame:
    """Everything about power-scaling, a row a quantity and a column a prior, for a file."""
    wide = found.by_prior.reset_index(drop=True).add_prefix("prior_of_")
    return pd.concat([found.table.reset_index(drop=True), wide], axis=1).assign(
        simulated=bool(found.record.content["simulated"]))


def as_json(found: PriorSensitivity, tipping: TippingPoints | None) -> str:
    """Everything, for programs."""
    content: dict[str, Any] = {
        "record": str(found.record.folder), "digest": found.record.digest, "title": found.record.content["title"],
        "simulated": found.record.content["simulated"], "method": METHOD, "threshold": SENSITIVE,
        "quantities": _plain(found.table), "by_prior": {str(name): _plain_row(row) for name, row in
                                                        found.by_prior.iterrows()},
        "pareto_k": _plain_row(found.pareto_k), "notes": told(found), "tipping": None}
    if tipping is not None:
        content["tipping"] = {**tipping.question.__dict__, "prior": str(tipping.prior), "now": {
            name: {"probability": mean, "error": error} for name, (mean, error) in tipping.now.items()},
            "ways": _plain(tipping.table)}
    return json.dumps(content, indent=1, allow_nan=False)


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_plain_row(row) for row in table.to_dict("records")]


def _plain_row(row: Any) -> dict[str, Any]:
    return {str(key): None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in dict(row).items()}
