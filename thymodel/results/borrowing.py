"""The posterior of a record as a prior: what may be taken, as which numbers, and what it is worth to a new study."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thymodel.documents import units
from thymodel.documents.borrowed import Borrowed
from thymodel.documents.data import StudyData
from thymodel.documents.expressions import closest
from thymodel.documents.priors import Prior
from thymodel.documents.spec import BetweenSubject, FitSpec
from thymodel.errors import Fault, InputError, ThymodelError
from thymodel.inference import borrowing
from thymodel.inference.aggregate import normal_nodes
from thymodel.inference.diagnostics import INTERVAL
from thymodel.inference.plans import plan_of_data
from thymodel.inference.population import Layout, error_name, layout, quantile
from thymodel.results.identifiability import make_survey

FILE = "prior_from.json"  # beside a record: the prior that it took
_STUDIES = 64  # new ones, quasi-random, under every draw
_DRAWS = 2000  # of the source, at most: for its mean and covariance alone
_WORTH_POINTS = 32  # of the prior, at which a patient's information is computed
_NEVER = ("corr_", "tau_", "study_", "beta_across_")
ESS_NOTE = ("patients of this study's design, averaged over its arms, whose expected information about the parameter "
            "the prior equals, the other parameters held: expected local-information-ratio (Neuenschwander 2020, "
            "Biometrics 76:578), random effects integrated out to first order")


@dataclass(frozen=True)
class Source:
    """What is read of a record: draws are (draw,) by name, those of population quantities."""

    folder: Path
    content: Mapping[str, Any]
    digest: str
    spec: FitSpec
    draws: Mapping[str, np.ndarray]


def borrow(spec: FitSpec, source: Source) -> Borrowed:
    """The prior that a spec takes from a record.

    Raises:
        InputError: everything that forbids it, each at its place in the spec.
    """
    where = f"{spec.path}: prior_from"
    own = _priors(replace(spec, prior_from=None, borrowed=None))
    faults = _record_faults(where, spec, source)
    names, more = _names(where, spec, source, own)
    faults += more
    if faults:
        raise InputError(faults)
    factors = {name: units.convert_factor(source.content["units"].get(name, "1"), _unit(spec, name)) for name in names}
    return _joint(where, spec, source, names, {name: own[name] for name in names}, factors)


def _priors(spec: FitSpec) -> dict[str, Prior]:
    """Those that another could stand in for: of typical values, spreads between subjects, slopes and errors."""
    lay = layout(spec, ())
    return {**lay.estimate, **{f"omega_{name}": prior for name, prior in lay.scales.items()},
            **{f"beta_{name}": prior for name, prior in lay.effects.items()}, **lay.errors}


def _unit(spec: FitSpec, name: str) -> str:
    if name in spec.estimate:
        return spec.estimate[name].unit
    additive = {error_name(observable, "additive"): observable for observable in spec.likelihood}
    return spec.model.observables[additive[name]].unit if name in additive else "1"


# --- what may be taken ---------------------------------------------------------------------------------------


def _record_faults(where: str, spec: FitSpec, source: Source) -> list[Fault]:
    """A record of data that must not, or must not again, inform this fit."""
    found = []
    if source.content["simulated"] and not spec.simulated:
        found.append(Fault(f"{where}.record", f"{source.folder} is a fit of SIMULATED data, this one is not",
                           "real patients take no prior from invented ones"))
    if spec.has_data and source.content["data"]["sha256"] == spec.data_sha256:
        found.append(Fault(f"{where}.record", f"{source.folder} was fitted to the same data: they would count twice"))
    read = {table["sha256"]: table["file"] for table in source.content.get("published") or []}
    found += [Fault(f"{where}.record", f"{source.folder} was fitted to {table.path.name} too: it would count twice",
                    "leave it out of [published]") for table in spec.published if table.digest in read]
    return found


def _names(where: str, spec: FitSpec, source: Source, own: Mapping[str, Prior]) -> tuple[list[str], list[Fault]]:
    """Which parameters are taken, with everything that is wrong about them."""
    assert spec.prior_from is not None
    asked, theirs = list(spec.prior_from.parameters), source.spec
    same_model = source.content["model"]["sha256"] == spec.model.digest
    if not asked and not same_model:
        return [], [Fault(f"{where}.record", f"{source.folder} is of another model, {source.content['model']['name']}: "
                          "a name may mean something else there", "name the parameters that mean the same in both")]
    names = asked or [name for name in spec.estimate if name in theirs.estimate]
    found = [Fault(f"{where}.parameters", f"'{name}' is named twice") for name in sorted(set(names))
             if names.count(name) > 1]
    for name in names:
        if name not in own:
            found.append(Fault(f"{where}.parameters", f"this fit has no prior of '{name}'{closest(name, own)}"))
        elif name not in source.draws or name.startswith(_NEVER):
            found.append(Fault(f"{where}.parameters", f"{source.folder} does not estimate '{name}'"
                               f"{closest(name, [n for n in source.draws if not n.startswith(_NEVER)])}"))
        else:
            found += _meaning_faults(where, name, spec, source)
    if not names:
        found.append(Fault(f"{where}.record", f"{source.folder} estimates none of {', '.join(spec.estimate)}"))
    if same_model:
        found += [Fault(f"{where}.record", f"'{name}' is held at {theirs.fixed[name]:g} in {source.folder} and at "
                        f"{value:g} here", "hold it at one value in both")
                  for name, value in spec.fixed.items() if name in theirs.fixed and theirs.fixed[name] != value]
    return names, found


def _meaning_faults(where: str, name: str, spec: FitSpec, source: Source):
    """One name, two meanings: other units, or a typical value at another value of a covariate."""
    try:
        units.convert_factor(source.content["units"].get(name, "1"), _unit(spec, name))
    except ValueError as error:
        yield Fault(f"{where}.parameters", f"'{name}' has another unit in {source.folder}: {error}")
    centres = [{item.covariate: (item.form, item.reference) for item in one.covariate_effects.values()
                if item.parameter == name} for one in (spec, source.spec)]
    if centres[0] != centres[1]:
        yield Fault(f"{where}.parameters", f"'{name}' is a typical value of other people in {source.folder}: its "
                    "covariate effects or their reference values differ", "write the same ones in both specs")


# --- as which numbers ----------------------------------------------------------------------------------------


def _joint(where: str, spec: FitSpec, source: Source, names: list[str], own: Mapping[str, Prior],
           factors: Mapping[str, float]) -> Borrowed:
    assert spec.prior_from is not None
    effects = {name: [(key, item) for key, item in source.spec.study_effects.items() if name in item.parameters]
               for name in names}
    used = list(dict.fromkeys(key for pairs in effects.values() for key, _ in pairs))
    kept = np.unique(np.linspace(0, len(source.draws[names[0]]) - 1, _DRAWS).astype(int))
    nodes = normal_nodes(_STUDIES, len(used), 0) if used else np.zeros((1, 0))
    columns = []
    for name in names:
        values = _in_new_studies(source, name, effects[name], used, nodes, kept) * factors[name]
        columns.append(borrowing.to_standard(own[name], values).ravel())
    faults = [Fault(f"{where}.parameters", f"{100 * share:.2g}% of what {source.folder} says of '{name}' lies outside "
                    f"the support of its own prior here, {own[name]}", "give it another prior")
              for name, column in zip(names, columns, strict=True) if (share := np.mean(~np.isfinite(column)))]
    if faults:
        raise InputError(faults)
    z = np.stack(columns, axis=1)
    try:
        mean, covariance = borrowing.normal_of(z)
    except np.linalg.LinAlgError:
        raise InputError([Fault(f"{where}.parameters", f"two of {', '.join(names)} say the same in {source.folder}, or "
                                "one does not vary", "leave one out")]) from None
    alone, together = borrowing.distances(z, mean, covariance)
    content = source.content
    about = {"record": spec.prior_from.record, "name": content["name"], "title": content["title"],
             "digest": source.digest, "model": content["model"]["name"], "simulated": content["simulated"],
             "reason": spec.prior_from.reason, "draws": len(kept), "new_studies": len(nodes),
             "between_studies": {name: [key for key, _ in pairs] for name, pairs in effects.items()},
             "distance": dict(zip(names, alone, strict=True)), "joint_distance": together}
    return Borrowed(tuple(names), tuple(mean.tolist()), tuple(tuple(row) for row in covariance.tolist()),
                    spec.prior_from.own_weight, about)


def _in_new_studies(source: Source, name: str, effects: list[tuple[str, BetweenSubject]], used: list[str],
                    nodes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Draws (draw, study) of a typical value in studies that are not among those of the record but like them."""
    values = np.repeat(source.draws[name][kept][:, None], len(nodes), axis=1)
    for key, item in effects:
        away = source.draws[f"tau_{key}"][kept][:, None] * nodes[:, used.index(key)]
        values = borrowing.moved(item.scale, values, away)
    return values


# --- what it is worth, and what the data made of it ----------------------------------------------------------


def as_content(spec: FitSpec, lay: Layout, data: StudyData, z: np.ndarray) -> dict[str, Any] | None:
    """What a record says of the prior that it took.

    Args:
        z: draws of the new posterior (chain, draw, coordinate).
    """
    borrowed = spec.borrowed
    if borrowed is None:
        return None
    flat = z.reshape(-1, z.shape[-1])[:, borrowing.places(lay.population, borrowed)]
    try:
        worth, own_worth = _worth(spec, borrowed, data)
    except (ThymodelError, np.linalg.LinAlgError):  # draws at hand are not given up for want of a sample size
        worth, own_worth = {}, {}
    priors = _priors(replace(spec, prior_from=None, borrowed=None))
    rows = [{"name": name, "unit": _unit(spec, name), "own": _span(priors[name], _points()),
             "borrowed": _span(priors[name], borrowed.mean[k] + borrowed.covariance[k][k] ** 0.5 * _points()),
             "posterior": _span(priors[name], np.quantile(flat[:, k], (INTERVAL[0], 0.5, INTERVAL[1]))),
             "between_studies": list(borrowed.source["between_studies"][name]),
             "distance": borrowed.source["distance"][name], "ess": worth.get(name), "own_ess": own_worth.get(name)}
            for k, name in enumerate(borrowed.names)]
    found = {**borrowed.source, "file": FILE, "own_weight": borrowed.own_weight,
             "own_share": borrowing.own_share(borrowed, flat), "parameters": rows, "ess_note": ESS_NOTE,
             "correlations": _correlations(borrowed)}
    return {**found, "sentences": _sentences(found)}


def _points() -> np.ndarray:
    return np.array([-1.6448536269514722, 0.0, 1.6448536269514722])  # 5%, 50% and 95% of a standard normal


def _span(prior: Prior, z: np.ndarray) -> list[float]:
    """5%, 50% and 95% in natural values."""
    return [float(quantile(prior, one)) for one in z]


def _correlations(borrowed: Borrowed) -> list[list[float]]:
    covariance = np.array(borrowed.covariance)
    sd = np.sqrt(np.diag(covariance))
    return (covariance / np.outer(sd, sd)).tolist()


def _worth(spec: FitSpec, borrowed: Borrowed, data: StudyData) -> tuple[dict[str, float], dict[str, float]]:
    """ESS by parameter of the prior in force, and of the own prior alone; nothing without patients."""
    if not data.subjects:
        return {}, {}
    plain = replace(spec, prior_from=None, borrowed=None, published=(), study_effects={})
    survey = make_survey(plain, plan_of_data(plain, data, data.name), additions=False)
    rows, lay = survey.planned(plain.likelihood), survey.layout
    random, found = np.random.default_rng(0), []
    own = random.standard_normal((_WORTH_POINTS, len(borrowed.names)))
    for points, local in ((taken := borrowing.draw(borrowed, _WORTH_POINTS, random),
                           borrowing.local_information(borrowed, taken)), (own, np.ones_like(own))):
        z, mine = np.zeros((len(points), len(lay.population))), borrowing.places(lay.population, borrowed)
        z[:, mine] = points
        information = np.stack([np.diag(survey.information(one, rows))[mine] for one in z]) / len(data.subjects)
        found.append(borrowing.sample_sizes(borrowed.names, local, information))
    return found[0], found[1]


def _sentences(found: Mapping[str, Any]) -> list[str]:
    """The same in words, with what to beware of."""
    names = ", ".join(row["name"] for row in found["parameters"])
    lines = [f"The joint prior of {names} is the posterior of {found['name']} ({found['title']}), as a normal "
             f"distribution in the coordinates of the own priors, which keep a probability of {found['own_weight']:g}."]
    alone = [row["name"] for row in found["parameters"] if not row["between_studies"]]
    if alone:
        lines.append(f"No difference between studies was estimated for {', '.join(alone)}: the typical value is taken "
                     "to be the same here as there.")
    if len(alone) < len(found["parameters"]):
        lines.append("The others are those of a new study: the spread between the studies of the record is added.")
    far = max([row["distance"] for row in found["parameters"]] + [found["joint_distance"]])
    poor = f"; above {borrowing.POOR:g}: a poor approximation" if far > borrowing.POOR else ""
    lines.append(f"The normal differs from the draws by at most {far:.2f} in probability (Kolmogorov distance of each "
                 f"parameter and of the distance from the middle{poor}).")
    if found["own_weight"]:
        verdict = "speak" if found["own_share"] > found["own_weight"] else "do not speak"
        lines.append(f"Prior-data conflict: the own priors had a probability of {found['own_weight']:g} before the "
                     f"data and have {found['own_share']:.2g} after them; the data {verdict} against the record.")
    return lines
