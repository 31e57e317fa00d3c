"""Several structures that answer one scenario: which records they are, how much each counts, and their draws as one
mixture.

A mixture holds each structure's draws in the share of its weight (a linear pool of the posterior predictive
distributions; with stacking weights that of Yao et al. 2018, Bayesian Anal 13:917). Its intervals hold what the
parameters of each leave open and how far the structures are apart; never what lies outside all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from thymodel.documents.ensemble import Ensemble
from thymodel.documents.spec import FitSpec, ScenarioSpec, load_scenario_spec
from thymodel.errors import Fault, InputError, RecordError
from thymodel.results import scores
from thymodel.results.endpoints import Quantity
from thymodel.results.extrapolation import Component, Verdict, Verdicts
from thymodel.results.record import FitRecord, load_record, quotable
from thymodel.results.scenario_rows import Summaries

LEAST = 20_000  # draws of a mixture: a weight is met to one part in so many
AS_OFTEN = 50  # times, about, that a draw of a structure is in a mixture, so that all of its draws count alike


@dataclass(frozen=True)
class Structure:
    """One of an ensemble: its record, and the scenario as its model reads it."""

    name: str
    record: FitRecord
    fit: FitSpec
    scenario: ScenarioSpec


@dataclass(frozen=True)
class Weights:
    """A weight a structure, which add up to 1, and how they were come by, in sentences."""

    values: Float[np.ndarray, " structure"]
    how: str
    notes: tuple[str, ...] = ()


# --- which structures ------------------------------------------------------------------------------------------


def open_structures(record: FitRecord, path: Path, scenario: ScenarioSpec, ensemble: Ensemble) -> list[Structure]:
    """The structures in the order of the file, each checked to answer the same question as the record asked.

    Args:
        scenario: as the model of `record` reads the file.

    Raises:
        InputError: every record that is absent, failed, changed or an approximation; the record not among them; a
            structure that lacks a marker, an input or a covariate of the scenario, or has it in another unit.
    """
    faults, found = list[Fault](), list[FitRecord]()
    for k, folder in enumerate(ensemble.records):
        where = f"{path}: ensemble.records.{k}"
        try:
            one = load_record(folder)
            quotable(one)
            if one.digest in [other.digest for other in found]:
                faults.append(Fault(where, f"{folder} is named twice", "leave one of them out"))
            found.append(one)
        except InputError as error:
            faults.append(Fault(where, str(error)))
        except RecordError as error:
            faults.append(Fault(where, str(error), "take a record that verifies and has passed"))
    if not faults and record.digest not in [one.digest for one in found]:
        faults.append(Fault(f"{path}: ensemble.records", f"{record.folder} is not among them",
                            "add it, or name one of them on the command line"))
    if faults:
        raise InputError(faults)
    structures = []
    for k, (name, one) in enumerate(zip(_names(found), found, strict=True)):
        fit = one.spec
        try:
            read = load_scenario_spec(path, fit.model, record.spec.endpoints)
        except InputError as error:
            faults += [fault._replace(what=f"{fault.what} (model {fit.model.name} of structure {name})")
                       for fault in error.faults]
            continue
        own = _unlike(record.spec, scenario, fit, read)
        faults += [Fault(f"{path}: ensemble.records.{k}", f"{name}: {what}", hint) for what, hint in own]
        structures.append(Structure(name, one, fit, replace(read, endpoints=scenario.endpoints)))
    if faults:
        raise InputError(faults)
    return structures


def _names(records: Sequence[FitRecord]) -> list[str]:
    """What records call themselves, with their digest where two do alike."""
    own = [str(record.content["name"]) for record in records]
    return [f"{name} {record.digest[:8]}" if own.count(name) > 1 else name
            for name, record in zip(own, records, strict=True)]


def _unlike(fit: FitSpec, asked: ScenarioSpec, other: FitSpec, read: ScenarioSpec):
    """How a structure's reading of a scenario differs from that of the record it is asked of, with what to do."""
    mine, its, name = fit.model, other.model, other.model.name
    if mine.time != its.time:
        yield f"time is in {its.time}, where the record asked has {mine.time}", "take a model in the same unit"
    markers = {one.marker for one in asked.endpoints.values()}
    markers |= {risk.link.marker for risk in asked.competing.values() if risk.link is not None}
    for marker in sorted(markers):
        if marker not in its.observables:
            yield f"the model {name} has no observable '{marker}'", "take an endpoint that every model has"
        elif its.observables[marker].unit != mine.observables[marker].unit:
            yield (f"{marker} is in {its.observables[marker].unit}, where the record asked has it in "
                   f"{mine.observables[marker].unit}"), "take models that have it in one unit"
    for arm, its_arm in zip(asked.arms, read.arms, strict=True):
        if [dose.input for dose in arm.doses] != [dose.input for dose in its_arm.doses]:
            yield f"the doses of arm {arm.name} would go to another input", "say input = \"...\" with every dose"
    used = {dose.input for arm in asked.arms for dose in arm.doses}
    for input_name in sorted(used & set(its.inputs)):
        if its.inputs[input_name].unit != mine.inputs[input_name].unit:
            yield (f"doses of {input_name} are in {its.inputs[input_name].unit}, where the record asked has them in "
                   f"{mine.inputs[input_name].unit}"), "take models that have them in one unit"
    for covariate in sorted({key for arm in asked.arms for key in arm.covariates} & set(its.covariates)):
        if its.covariates[covariate].unit != mine.covariates[covariate].unit:
            yield f"{covariate} is in {its.covariates[covariate].unit}, not {mine.covariates[covariate].unit}", ""


# --- how much each counts --------------------------------------------------------------------------------------


def weigh(path: Path, ensemble: Ensemble, structures: Sequence[Structure], data_path: Path | None,
          progress: Callable[[str], None] = lambda text: None) -> Weights:
    """The weights of the file, or by stacking of scores by subject on the data that all were fitted to.

    Raises:
        InputError: records on different data, or of no patients; data that are not there.
    """
    if ensemble.weights is not None:
        data = {one.record.content["data"]["sha256"] for one in structures}
        told = ["the structures were fitted to different data: their weights are no matter of one comparison"]
        return Weights(np.array(ensemble.weights) / sum(ensemble.weights), f"as given ({ensemble.source})",
                       tuple(told[:len(data) - 1]))
    records = [one.record for one in structures]
    try:
        scores.refuse_unlike(records)
    except InputError as error:
        hint = "stacking takes fits to the same data only: fit them to one file, or give weights and their source"
        raise InputError([Fault(f"{path}: ensemble.weights", f"{fault.where}: {fault.what}", hint)
                          for fault in error.faults]) from None
    found = [scores.score(record, scores.Unit.subject, data_path, progress=progress) for record in records]
    table = scores.compare(found).set_index("record")["stacking_weight"]
    values = np.array([table[str(record.folder)] for record in records], float)
    notes = [f"{one.name}: {note}" for one, score in zip(structures, found, strict=True) for note in score.notes
             if note.startswith("Pareto k is above")]
    return Weights(values / values.sum(), f"stacking of leave-one-subject-out scores, {len(found[0].table)} subjects",
                   tuple(notes))


# --- as one ----------------------------------------------------------------------------------------------------


def drawn(weights: Float[np.ndarray, " structure"], counts: Sequence[int],
          total: int) -> tuple[Int[np.ndarray, " draw"], Int[np.ndarray, " draw"]]:
    """Which structure each draw of a mixture is of, and the place of it among all draws of all structures in order.

    Every structure has its share of `total` by its weight (largest remainders), its draws evenly; nothing is random.
    """
    exact = np.asarray(weights) * total
    share = np.floor(exact).astype(int)
    more = np.argsort(share - exact, kind="stable")[:total - share.sum()]
    share[more] += 1
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    places = [begin + np.arange(own) * count // max(own, 1) for begin, count, own in zip(first, counts, share,
                                                                                         strict=True)]
    return np.repeat(np.arange(len(counts)), share), np.concatenate(places)


def mixture_size(counts: Sequence[int]) -> int:
    """How many draws a mixture of structures with so many draws has."""
    return max(LEAST, AS_OFTEN * sum(counts))


def mix(found: Sequence[Summaries], weights: Float[np.ndarray, " structure"]) -> Summaries:
    """The mixture of what structures say: quantities of all draws, in the shares of the weights. Implied exports that
    one of them does not know are left out."""
    counts = [next(iter(one.spread.values())).shape[1] for one in found]
    structure, place = drawn(weights, counts, mixture_size(counts))

    def joined(each: Sequence[Sequence[Sequence[Quantity]]]) -> list[list[Quantity]]:
        """Of each structure the quantities by arm -> those of the mixture by arm."""
        return [[own[0]._replace(values=np.concatenate([one.values for one in own])[place])
                 for own in zip(*of_arm, strict=True)] for of_arm in zip(*each, strict=True)]

    first = found[0]
    known = [name for name in first.exports if all(name in one.exports for one in found)]
    return Summaries({name: joined([one.quantities[name] for one in found]) for name in first.quantities},
                     {name: np.concatenate([one.spread[name] for one in found], axis=1)[:, place]
                      for name in first.spread},
                     {name: joined([one.risks[name] for one in found]) for name in first.risks},
                     {name: np.concatenate([one.exports[name] for one in found])[place] for name in known}, structure)


def worst_of(verdicts: Mapping[str, Verdicts]) -> Verdicts:
    """Of every prediction and arm the worst of each component over the structures, which says whose it is."""
    return Verdicts(_worst({name: one.by_prediction for name, one in verdicts.items()}),
                    _worst({name: one.arms for name, one in verdicts.items()}))


def _worst(found: Mapping[str, Mapping]) -> dict:
    keys = dict.fromkeys(key for own in found.values() for key in own)
    return {key: _worst_verdict({name: own[key] for name, own in found.items() if key in own}) for key in keys}


def _worst_verdict(found: Mapping[str, Verdict]) -> Verdict:
    first, parts = next(iter(found.values())), list[Component]()
    for name in dict.fromkeys(component.name for one in found.values() for component in one.components):
        own = [(whose, c) for whose, one in found.items() for c in one.components if c.name == name]
        whose, worst = max(own, key=lambda item: -1 if item[1].level is None else int(item[1].level))
        same = all(c.text == worst.text for _, c in own) or worst.level is None
        parts.append(worst if same else Component(name, worst.level, f"{worst.text} (structure {whose})"))
    return Verdict(first.arm, first.prediction, tuple(parts))


def records_text(structures: Sequence[Structure]) -> str:
    """Digests of the records, for a row that is of all of them."""
    return " ".join(one.record.digest for one in structures)


def described(structures: Sequence[Structure], weights: Weights) -> list[str]:
    """Who is in an ensemble, a sentence each, and how the weights were come by."""
    lines = [f"Structure {one.name}: weight {weight:.3f}, model {one.fit.model.name}, record {one.record.digest[:12]}"
             f"{' (from a fit to SIMULATED data)' if one.record.content['simulated'] else ''}."
             for one, weight in zip(structures, weights.values, strict=True)]
    return [*lines, f"Weights: {weights.how}. Rows of the mixture hold the draws of each structure in the share of its "
            "weight.", *(f"Note on the weights: {note}." for note in weights.notes)]
