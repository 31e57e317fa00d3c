"""How far a prediction goes beyond what its fit has seen: interpolation, mild or strong, with the reason in words.

Three components, each with its own level; the verdict is the worst of those that are known.

Position: doses, days and covariates of the arm against the fitted cohorts. Doses by range, input by input; covariates
by leverage (hat value) as well, which also sees an empty corner between ranges that are both kept.
Parameters: of what moves this very prediction, how much of the prior's standard deviation the data have left.
Left-out dose: had the nearest fitted dose not been given, would the interval made without it have held what the whole
fit says there?

Every threshold is this project's convention, stated once below with its reason.

Source: hidden extrapolation, h_00 > h_max: Montgomery, Peck & Vining, Introduction to Linear Regression Analysis,
section 3 ("Hidden extrapolation in multiple regression"; read in lecture slides made from the book).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import polygamma

from thymodel.documents.data import StudyData, load_data
from thymodel.documents.model import Model
from thymodel.documents.regimen import Dose
from thymodel.documents.spec import Arm, FitSpec
from thymodel.documents.toml import digest
from thymodel.documents.units import amount_text
from thymodel.inference.population import Layout, layout
from thymodel.inference.reweighting import smooth
from thymodel.results.curves import POPULATION
from thymodel.results.record import CURVES, DERIVED, POSTERIOR, FitRecord, find_data, load_group
from thymodel.results.scores import dose_log_likelihood

TWICE = 2.0  # of the largest fitted dose, or of the largest fitted leverage: beyond it is strong. One step of a dose
# escalation at most doubles the dose (assumed, as in a modified Fibonacci scheme); leverage has no such custom
SAME_DAY, WEEK = 1.0, 7.0  # days outside the fitted days of an input: as far as the first is nothing, the second mild
SOME, MOST = 0.1, 0.5  # of an arm's subjects: so many outside make it mild; so many far outside strong
INFORMED, PRIOR = 0.5, 0.9  # SD over prior SD: at 0.5 the data say three times as much as the prior; beyond 0.9, less
# than a quarter of it
LINEAR = 0.5  # R-squared below which a linear account of a prediction does not say which parameters move it
WITHIN_90, WITHIN_99 = 1.645, 2.576  # standard normal quantiles of two-sided 90% and 99% intervals
_RANK = 1e-9  # of the largest singular value


class Level(IntEnum):
    interpolation = 0
    mild = 1
    strong = 2


@dataclass(frozen=True)
class Component:
    """One of the three: its level, None where it is not known, and the numbers behind it in words."""

    name: str
    level: Level | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """On one prediction (`endpoint` or observable.quantity) of one arm; the worst over them all where it is empty."""

    arm: str
    prediction: str
    components: tuple[Component, ...]

    @property
    def level(self) -> Level:
        return max((c.level for c in self.components if c.level is not None), default=Level.interpolation)

    @property
    def decided(self) -> tuple[Component, ...]:
        """The components that say so."""
        return tuple(c for c in self.components if c.level is self.level)

    @property
    def text(self) -> str:
        """The level, and what decided it: the reasons of the deciding components, or of all where nothing is beyond."""
        return f"{self.level.name}: " + "; ".join(f"{c.name}: {c.text}" for c in self.decided)


@dataclass(frozen=True)
class Fitted:
    """What a fit has seen. `totals` holds each patient's total of each input, empty where the data are not at hand;
    rows of `covariates` are patients, or of published cohorts the means and 5% and 95% points."""

    cohorts: Mapping[str, tuple[Dose, ...]]
    names: tuple[str, ...]
    covariates: Float[np.ndarray, "patient covariate"]
    inputs: tuple[str, ...]
    totals: Float[np.ndarray, "patient input"] | None


def fitted_of(record: FitRecord, spec: FitSpec) -> Fitted:
    """What the record's fit has seen, from the record; of each patient's dose from the data, where they are at hand.

    Raises:
        RecordError: a file of the record cannot be read.
    """
    doses = json.loads(load_group(record.folder / CURVES, POPULATION).attrs["doses"])
    cohorts = {arm: tuple(Dose(time, name, amount) for time, name, amount in rows) for arm, rows in doses.items()}
    names, inputs = tuple(spec.model.covariates), tuple(spec.model.inputs)
    path = find_data(record, None) if spec.has_data else None
    same = path is not None and digest(path.read_bytes()) == record.content["data"]["sha256"]
    totals = _totals(load_data(path, spec.model, spec.columns), inputs) if same and path is not None else None
    if spec.has_data:
        known = load_group(record.folder / POSTERIOR, "constant_data")
        rows = np.stack([known[name].values for name in names], axis=1) if names else np.empty((0, 0))
        return Fitted(cohorts, names, rows.astype(float), inputs, totals)
    typical = {name: item.value for name, item in spec.model.covariates.items()}
    points = [[cohort.covariates[name].mean + away * cohort.covariates[name].sd if name in cohort.covariates
               else typical[name] for name in names]
              for table in spec.published for cohort in table.cohorts for away in (-WITHIN_90, 0.0, WITHIN_90)]
    return Fitted(cohorts, names, np.array(points, float).reshape(-1, len(names)), inputs, None)


def _totals(data: StudyData, inputs: Sequence[str]) -> np.ndarray:
    return np.array([[_total(subject.doses, name) for name in inputs] for subject in data.subjects])


def _total(doses: Sequence[Dose], name: str) -> float:
    return math.fsum(dose.amount for dose in doses if dose.input == name)


# --- position ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """Something outside, or the best that can be said of what is inside."""

    level: Level
    text: str


def position(fitted: Fitted, model: Model, arm: Arm,
             covariates: Mapping[str, Float[np.ndarray, " subject"]]) -> Component:
    """Doses, days and covariates of an arm against the fitted cohorts.

    Args:
        covariates: of the arm's subjects; its own values take their place.
    """
    found = [one for name in fitted.inputs for one in _doses(fitted, model, arm, name)]
    count = max((len(values) for values in covariates.values()), default=1)
    known = {**covariates, **{name: np.full(count, value) for name, value in arm.covariates.items()}}
    people = np.stack([np.asarray(known[name], float) for name in fitted.names], axis=1) if set(fitted.names) <= set(
        known) and fitted.names else np.empty((count, 0))
    found += _covariates(fitted, model, people)
    if not any(found):
        found = _corner(fitted, arm, people)
    worst = max((one.level for one in found), default=Level.interpolation)
    told = [one.text for one in sorted(found, key=lambda one: -one.level) if one.level is worst]
    return Component("position", worst, "; ".join(told) or "doses, days and covariates are within those of the fit")


def _doses(fitted: Fitted, model: Model, arm: Arm, name: str) -> list[_Found]:
    """What is outside the fitted range of one input: total, largest dose, number of doses, days."""
    own = [dose for dose in arm.doses if dose.input == name and dose.amount > 0]
    given = [[dose for dose in doses if dose.input == name and dose.amount > 0] for doses in fitted.cohorts.values()]
    seen, unit = [dose for doses in given for dose in doses], model.inputs[name].unit
    if not seen:
        return [_Found(Level.strong, f"{name} was given to no fitted cohort")] if own else []
    totals, asked = [_total(doses, name) for doses in given], _total(own, name)
    found = []
    if asked > max(totals):
        found.append(_Found(Level.strong if asked > TWICE * max(totals) else Level.mild,
                            f"{amount_text(asked, unit)} of {name} in all is {asked / max(totals):.2g} times the most "
                            f"of a fitted cohort ({amount_text(max(totals), unit)})"))
    elif asked < min(totals):
        found.append(_Found(Level.strong if asked * TWICE < min(totals) else Level.mild,
                            f"{amount_text(asked, unit)} of {name} in all, where every fitted cohort had "
                            f"{amount_text(min(totals), unit)} or more"))
    largest, one = max(dose.amount for dose in seen), max((dose.amount for dose in own), default=0.0)
    if one > largest and asked <= max(totals):
        found.append(_Found(Level.strong if one > TWICE * largest else Level.mild,
                            f"{amount_text(one, unit)} of {name} at once is {one / largest:.2g} times the largest "
                            f"single dose of a fitted cohort ({amount_text(largest, unit)})"))
    most = max(len(doses) for doses in given)
    if len(own) > most:
        found.append(_Found(Level.mild, f"{name} is given {len(own)} times, in a fitted cohort at most {most}"))
    first, last = min(dose.time for dose in seen), max(dose.time for dose in seen)
    away = max((max(first - dose.time, dose.time - last) for dose in own), default=0.0)
    if away > SAME_DAY:
        days = ", ".join(f"{day:g}" for day in sorted({dose.time for dose in own}))
        seen_days = f"{first:g}" if first == last else f"{first:g} to {last:g}"
        found.append(_Found(Level.strong if away > WEEK else Level.mild,
                            f"{name} on {model.time} {days}, in the fitted cohorts on {seen_days}"))
    return found


def leverage(points: Float[np.ndarray, "point variable"],
             design: Float[np.ndarray, "patient variable"]) -> Float[np.ndarray, " point"]:
    """Hat value x'(X'X)^-1 x of points under a design, an intercept included; what is linearly dependent in the design
    is left out, so that a point off its plane has to be seen by other means."""
    centre, scale = design.mean(axis=0), design.std(axis=0)
    scale = np.where(scale > _RANK * np.maximum(np.abs(centre), 1e-300), scale, np.inf)
    _, singular, axes = np.linalg.svd((design - centre) / scale, full_matrices=False)
    used = singular > _RANK * max(singular.max(initial=0.0), 1e-300)
    along = (points - centre) / scale @ axes[used].T / singular[used]
    return 1 / len(design) + np.sum(along**2, axis=1)


def _covariates(fitted: Fitted, model: Model, people: Float[np.ndarray, "subject covariate"]) -> list[_Found]:
    """Subjects outside the fitted patients: by range, one covariate at a time, and by leverage, all together. Those of
    whom a covariate is not known (NaN) say nothing."""
    design = fitted.covariates[np.isfinite(fitted.covariates).all(axis=1)]
    people = people[np.isfinite(people).all(axis=1)]
    if not design.size or not people.size:
        return []
    found = []
    low, high = design.min(axis=0), design.max(axis=0)
    slack = 1e-9 * np.maximum(np.abs(low), np.abs(high))
    outside = (people < low - slack) | (people > high + slack)
    for k, name in enumerate(fitted.names):
        share = float(outside[:, k].mean())
        if share < SOME:
            continue
        unit, values = model.covariates[name].unit, people[outside[:, k], k]
        where = f"{values.min():.4g}" if np.ptp(values) == 0 else f"{values.min():.4g} to {values.max():.4g}"
        if low[k] == high[k]:
            level, seen = Level.strong if share >= MOST else Level.mild, f"{low[k]:.4g} in every fitted patient"
        else:
            level, seen = Level.mild, f"{low[k]:.4g} to {high[k]:.4g} in the fitted patients"
        found.append(_Found(level, f"{name} {where} {unit} in {100 * share:.0f}% of subjects, {seen}"))
    ratio = leverage(people, design) / leverage(design, design).max()
    share, far = float(np.mean(ratio > 1 + 1e-9)), float(np.mean(ratio > TWICE))
    if share >= SOME:
        varied = ", ".join(name for name, a, b in zip(fitted.names, low, high, strict=True) if a < b)
        told = (f"leverage of {varied or 'covariates'} above that of any fitted patient in {100 * share:.0f}% of "
                f"subjects, {np.median(ratio):.2g} times the largest at their median")
        found.append(_Found(Level.strong if far >= MOST else Level.mild, told))
    if any(one.level is Level.strong for one in found):  # say the range too, which a reader knows better than leverage
        return [_Found(Level.strong, "; ".join(one.text for one in found))]
    return found


def _corner(fitted: Fitted, arm: Arm, people: Float[np.ndarray, "subject covariate"]) -> list[_Found]:
    """Dose and covariates that are each within the fit, in a combination that is not."""
    if fitted.totals is None or not people.shape[1]:
        return []
    design = np.concatenate([fitted.totals, fitted.covariates], axis=1)
    asked = np.broadcast_to([_total(arm.doses, name) for name in fitted.inputs], (len(people), len(fitted.inputs)))
    points = np.concatenate([asked, people], axis=1)
    design, points = (rows[np.isfinite(rows).all(axis=1)] for rows in (design, points))
    if not design.size or not points.size:
        return []
    ratio = leverage(points, design) / leverage(design, design).max()
    if np.mean(ratio > 1 + 1e-9) < MOST:
        return []
    return [_Found(Level.mild, "dose and covariates are each within the fit, together in a corner that it lacks: "
                   f"{np.median(ratio):.2g} times the largest leverage of a fitted patient")]


# --- parameters ----------------------------------------------------------------------------------------------


def prior_covariance(lay: Layout) -> Float[np.ndarray, "coordinate coordinate"]:
    """Of the population's coordinates z, in which most priors are standard normal.

    A coordinate of an LKJ correlation is the logit, halved, of a Beta(b, b) variable, so that its variance is half the
    trigamma function of b. A prior taken from a record is a mixture of a joint normal and of the own priors.
    """
    names = lay.population
    found = np.eye(len(names))
    place, size = {name: k for k, name in enumerate(lay.correlated)}, len(lay.correlated)
    for a, b in lay.correlations:
        k = names.index(f"corr_{a}_{b}")
        found[k, k] = 0.5 * float(polygamma(1, lay.correlation_shape + 0.5 * (size - 2 - place[a])))
    if lay.borrowed is not None:
        own, weight = [names.index(name) for name in lay.borrowed.names], lay.borrowed.own_weight
        mean = np.array(lay.borrowed.mean)
        spread = (1 - weight) * (np.array(lay.borrowed.covariance) + weight * np.outer(mean, mean))
        found[np.ix_(own, own)] = spread + weight * np.eye(len(own))
    return found


def parameters(lay: Layout, z: Float[np.ndarray, "draw coordinate"], values: Float[np.ndarray, " draw"]) -> Component:
    """How much of its prior's standard deviation the data have left what moves a prediction.

    The prediction's slopes along the population's coordinates are those of its regression on the posterior draws; its
    SD under posterior and under prior is that of the same linear combination of coordinates. Error parameters do not
    enter a prediction of the latent course. The sampling error of the slopes is taken off their squares.
    """
    name = "parameters"
    errors = {*lay.errors, *(own for block in lay.shared_errors for own in block.names)}
    used = np.array([k for k, own in enumerate(lay.population) if own not in errors], int)
    if not len(used) or not np.isfinite(values).all() or np.ptp(values) <= 1e-9 * np.abs(values).max(initial=0.0):
        return Component(name, None, "not known: the prediction is the same under every draw")
    spare = len(z) - len(used) - 1
    if spare < len(used):
        return Component(name, None, f"not known: {len(z)} draws are too few for {len(used)} parameters")
    own = z[:, used]
    away, response = own - own.mean(axis=0), values - values.mean()
    inverse = np.linalg.pinv(away.T @ away)
    slopes = inverse @ away.T @ response
    rest = response - away @ slopes
    explained = 1 - float(rest @ rest / (response @ response))
    if explained < LINEAR:
        return Component(name, None, f"not known: linear in the parameters it is only to {100 * explained:.0f}%")
    covariance, prior = np.atleast_2d(np.cov(own.T)), prior_covariance(lay)[np.ix_(used, used)]
    noise = float(rest @ rest) / spare * inverse
    after = float(slopes @ covariance @ slopes)
    before = max(float(slopes @ prior @ slopes - np.sum(prior * noise)), after)
    ratio = math.sqrt(after / before)
    shares = slopes * (covariance @ slopes) / after
    k = int(np.argmax(shares))
    level = Level.strong if ratio > PRIOR else Level.mild if ratio > INFORMED else Level.interpolation
    kept = math.sqrt(covariance[k, k] / prior[k, k])
    return Component(name, level, f"what moves the prediction has kept {100 * ratio:.0f}% of its prior's SD, most of "
                     f"it {lay.population[used[k]]} ({100 * shares[k]:.0f}% of the variance, its own SD "
                     f"{100 * kept:.0f}% of the prior's)")


# --- left-out dose -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeftOut:
    """A fitted dose left out, with what the rest of the data then say of an endpoint's restricted mean time there:
    `shift`, the mean of the whole fit less theirs, in SDs of theirs; not known where `good` is False."""

    dose: str
    totals: Mapping[str, float]
    endpoint: str
    shift: float
    pareto_k: float
    good: bool


def leave_doses_out(record: FitRecord, data_path: Path | None = None) -> tuple[LeftOut, ...]:
    """Each total dose of the study left out in turn, by importance weights, for every endpoint of the fit.

    Were the model right, the shift would be normal with a variance of one less the share that the whole fit keeps of
    the variance without the dose: beyond the 90% quantile in at most one of ten.

    Raises:
        InputError: the data are not there, or all subjects had the same dose.
        RecordError: a file of the record cannot be read.
    """
    derived = load_group(record.folder / DERIVED) if record.content["endpoints"] else None
    if derived is None:
        return ()
    scored = dose_log_likelihood(record, data_path, derived["draw"].values)
    found = []
    for dose, unit in scored.items():
        weights = smooth(-unit.values)
        for endpoint in record.content["endpoints"]:
            times = derived[f"{endpoint}.restricted_mean"].sel(arm=unit.arm).values
            found.append(LeftOut(dose, unit.totals, endpoint, shift_of(times, weights.values), weights.pareto_k,
                                 weights.good))
    return tuple(found)


def shift_of(values: Float[np.ndarray, "*draw"], weights: Float[np.ndarray, "*draw"]) -> float:
    """Mean less weighted mean, over the weighted SD; 0 where the values do not vary."""
    mean = float(np.sum(weights * values))
    spread = math.sqrt(float(np.sum(weights * (values - mean) ** 2)))
    return (float(values.mean()) - mean) / spread if spread > 1e-12 * max(abs(mean), 1.0) else 0.0


NOT_ASKED = "not asked: it needs the data and a while (--left-out)"


def left_out(doses: Sequence[LeftOut], arm: Arm, endpoint: str) -> Component:
    """What leaving out the fitted dose nearest to the arm's says of an endpoint."""
    name = "left-out dose"
    mine = [one for one in doses if one.endpoint == endpoint]
    if not mine:
        return Component(name, None, f"not known: the fit has no endpoint {endpoint}" if doses else NOT_ASKED)
    inputs = sorted({key for one in mine for key in one.totals} | {dose.input for dose in arm.doses})
    largest = {key: max([one.totals.get(key, 0.0) for one in mine] + [_total(arm.doses, key)]) for key in inputs}

    def distance(one: LeftOut) -> float:
        return sum(abs(one.totals.get(key, 0.0) - _total(arm.doses, key)) / largest[key]
                   for key in inputs if largest[key])

    nearest = min(mine, key=distance)
    if not nearest.good:
        return Component(name, None, f"not known: Pareto k is {nearest.pareto_k:.2f} without {nearest.dose}, too large "
                         "for weights; a refit would say")
    size = abs(nearest.shift)
    level = Level.interpolation if size <= WITHIN_90 else Level.mild if size <= WITHIN_99 else Level.strong
    inside = "within its 90% interval" if size <= WITHIN_90 else "outside its 90% interval"
    inside = inside if size <= WITHIN_99 else "outside its 99% interval"
    return Component(name, level, f"without {nearest.dose} the fit would have foretold there a mean time that is "
                     f"{size:.2g} of its SDs from what it says now, {inside}")


# --- verdicts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdicts:
    """`by_prediction[arm, prediction]`, and the worst of each arm."""

    by_prediction: Mapping[tuple[str, str], Verdict]
    arms: Mapping[str, Verdict]


NONE = Verdicts({}, {})


def judge(record: FitRecord, spec: FitSpec, arms: Sequence[Arm], covariates: Mapping[str, np.ndarray],
          z: Float[np.ndarray, "draw coordinate"],
          predictions: Mapping[str, Float[np.ndarray, "draw arm"]], endpoints: Sequence[str] = (),
          doses: Sequence[LeftOut] = (), fitted: Fitted | None = None) -> Verdicts:
    """Verdicts on every prediction of every arm.

    Args:
        covariates: of the virtual subjects, the same in every arm.
        predictions: a value a draw of each prediction by name.
        endpoints: names of the predictions that are endpoints, of which a left-out dose can say something.
        doses: of `leave_doses_out`; none where that was not asked.
        fitted: what the fit has seen, where that was read before.
    """
    fitted = fitted_of(record, spec) if fitted is None else fitted
    lay, model = layout(spec, tuple(record.content["data"]["subjects"])), spec.model
    found: dict[tuple[str, str], Verdict] = {}
    worst: dict[str, Verdict] = {}
    for k, arm in enumerate(arms):
        where = position(fitted, model, arm, covariates)
        for name, values in predictions.items():
            own = [where, parameters(lay, z, values[:, k])]
            own += [left_out(doses, arm, name)] if name in endpoints else []
            found[arm.name, name] = Verdict(arm.name, name, tuple(own))
        parts = {c.name: c for c in (where, Component("parameters", None, "not known"),
                                     Component("left-out dose", None, NOT_ASKED))}
        for name in endpoints:
            for c in found[arm.name, name].components[1:]:
                if _rank(c) > _rank(parts[c.name]) or (c.level is None and parts[c.name].level is None):
                    parts[c.name] = Component(c.name, c.level, f"{name}: {c.text}" if c.level is not None else c.text)
        worst[arm.name] = Verdict(arm.name, "", tuple(parts.values()))
    return Verdicts(found, worst)


def _rank(component: Component) -> int:
    return -1 if component.level is None else int(component.level)


def judge_fit(record: FitRecord) -> Verdicts:
    """Verdicts on the fit's own arms and endpoints, from the record alone.

    Raises:
        RecordError: a file of the record cannot be read.
    """
    if not record.content["endpoints"] or record.method == "map":
        return NONE
    spec, derived = record.spec, load_group(record.folder / DERIVED)
    z = record.z[:, derived["draw"].values]
    predictions = {name: derived[f"{name}.restricted_mean"].values.reshape(-1, derived.sizes["arm"])
                   for name in record.content["endpoints"]}
    fitted = fitted_of(record, spec)
    arms = [Arm(str(name), str(name), fitted.cohorts[str(name)], {}) for name in derived["arm"].values]
    people = {name: fitted.covariates[:, k] for k, name in enumerate(fitted.names)}
    return judge(record, spec, arms, people, z.reshape(-1, z.shape[-1]), predictions, list(predictions))


def columns(verdict: Verdict | None) -> dict[str, Any]:
    """What a table says of one prediction: the verdict, what decided it, each component's level, and why."""
    if verdict is None:
        return {"extrapolation": "", "decided_by": "", "position": "", "parameters": "", "left_out_dose": "", "why": ""}
    levels = {c.name: c.level.name if c.level is not None else c.text.split(":")[0] for c in verdict.components}
    return {"extrapolation": verdict.level.name, "decided_by": ", ".join(c.name for c in verdict.decided),
            "position": levels.get("position", ""), "parameters": levels.get("parameters", ""),
            "left_out_dose": levels.get("left-out dose", "not known"), "why": verdict.text}


def mark(verdicts: Verdicts, arm: str) -> str:
    """What a legend adds to an arm's label; nothing where there is no verdict on it."""
    found = verdicts.arms.get(arm)
    if found is None:
        return ""
    return " [interpolation]" if found.level is Level.interpolation else f" [{found.level.name} extrapolation]"


def verdict_rows(verdicts: Verdicts, implied: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row an arm for reading, with the peak of its implied thymic export over a healthy one beside it."""
    peaks = {row["arm"]: row for row in implied["rows"] if row["quantity"].endswith(".peak_over_healthy")}
    found = []
    for name, verdict in verdicts.arms.items():
        peak = peaks.get(name)
        export = {} if not peaks else {"export / healthy": "not known" if peak is None or peak["estimate"] is None
                                       else f"{peak['estimate']:.2g}"}
        shown = columns(verdict)
        found.append({"arm": name, "extrapolation": shown["extrapolation"], "position": shown["position"],
                      "parameters": shown["parameters"], "left-out dose": shown["left_out_dose"]} | export)
    return found


def sentences(verdicts: Verdicts) -> list[str]:
    """Why, an arm a sentence."""
    return [f"Arm {name}: {verdict.text}." for name, verdict in verdicts.arms.items()]
