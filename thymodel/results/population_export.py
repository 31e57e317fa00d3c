"""A population model as other tools are told it: values, random effects, error models and data rows, or why not.

What a spec asks that neither NONMEM nor nlmixr2 can be told without changing its meaning is refused by name.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sympy

from thymodel.documents.code_text import Language, needed, per_amount
from thymodel.documents.data import StudyData, Subject
from thymodel.documents.expressions import symbol
from thymodel.documents.measurement import COUNTS, ON_LOG_SCALE, ErrorModel
from thymodel.documents.model import Model, static_expressions
from thymodel.documents.priors import Prior
from thymodel.documents.regimen import Dose, value_at
from thymodel.documents.spec import FitSpec, load_fit_spec
from thymodel.errors import Fault, InputError
from thymodel.inference.population import error_name, quantile
from thymodel.results.record import FitRecord, find_data, holds_record, load_record, quotable
from thymodel.results.study import load_study

INTERVAL = 2  # code of CENS in our NONMEM files: a value between LOWER and DV
_CLOSE = 1e-6  # relative: how far before its dose a measurement stands where a tool gives doses first


@dataclass(frozen=True)
class Effect:
    """What one dose of an input does to one state: `factor` times its amount is added."""

    input: int
    state: str
    factor: sympy.Expr
    linear: bool


@dataclass(frozen=True)
class PopulationModel:
    """`values` of parameters, omegas, sigmas and correlations: posterior medians of a record, else those of a spec."""

    spec: FitSpec
    values: Mapping[str, float]
    origin: str
    effects: tuple[Effect, ...]
    data: StudyData | None
    name: str

    @property
    def model(self) -> Model:
        return self.spec.model

    @property
    def observables(self) -> list[str]:
        """What was measured, in the order of its numbers in the data, from 1 on."""
        return list(self.spec.likelihood)

    @cached_property
    def used(self) -> tuple[list[str], list[str]]:
        """Expressions that rates use and those that the measured observables use; the static ones are in both."""
        model = self.model
        rates = [state.rate for state in model.states.values()]
        seen = [model.observables[name].value for name in self.observables]
        return needed(model.expressions, rates), needed(model.expressions, seen)

    @cached_property
    def static(self) -> list[str]:
        """Expressions of parameters and covariates that anything here uses, each after those that it uses."""
        model, constant = self.model, static_expressions(self.model)
        wanted: list[sympy.Basic] = [symbol(name) for group in self.used for name in group]
        wanted += [model.expressions[name] for group in self.used for name in group]
        wanted += [state.initial for state in model.states.values()]
        wanted += [state.rate for state in model.states.values()]
        wanted += [model.observables[name].value for name in self.observables]
        wanted += [effect.factor for effect in self.effects]
        return [name for name in needed(model.expressions, wanted) if name in constant]

    @cached_property
    def covariates(self) -> list[str]:
        """Those that the equations use."""
        return [name for name in self.model.covariates if symbol(name) in self._symbols]

    @cached_property
    def parameters(self) -> list[str]:
        """Those that the equations use or that are estimated."""
        return [name for name in self.model.parameters if symbol(name) in self._symbols or name in self.spec.estimate]

    @property
    def constants(self) -> list[str]:
        return [name for name in self.model.constants if symbol(name) in self._symbols]

    @cached_property
    def _symbols(self) -> set[sympy.Basic]:
        model = self.model
        named = [model.expressions[name] for name in {*self.static, *(x for group in self.used for x in group)}]
        rest = [part for state in model.states.values() for part in (state.rate, state.initial)]
        seen = [model.observables[name].value for name in self.observables] + [e.factor for e in self.effects]
        return {s for item in (*named, *rest, *seen) for s in item.free_symbols}

    def about(self, name: str) -> str:
        """The unit of a parameter and its prior, for a comment beside its value."""
        unit = f", {self.model.parameters[name].unit}" if name in self.model.parameters else ""
        prior = prior_text(self.spec, name)
        return f"{unit}; prior {prior}" if prior and prior != "stated" else unit

    def covariance(self, a: str, b: str) -> float:
        """Of the random effects of two parameters; of one with itself, its variance."""
        product = self.values[f"omega_{a}"] * self.values[f"omega_{b}"]
        if a == b:
            return product
        key = f"corr_{b}_{a}" if f"corr_{b}_{a}" in self.values else f"corr_{a}_{b}"
        return product * self.values[key]

    @cached_property
    def has_infusions(self) -> bool:
        return self.data is not None and any(dose.duration > 0 for one in self.data.subjects for dose in one.doses)


def load_population_model(source: Path, data: Path | None = None) -> PopulationModel:
    """What a record found, or what a spec starts from, as far as it can be said elsewhere.

    Args:
        source: a record's directory, a spec, or the directory that holds one.
        data: the study data, when they are not where record or spec say.

    Raises:
        RecordError: a record that failed, or whose files changed.
        InputError: everything that cannot be said, by name.
    """
    if source.is_dir() and holds_record(source):
        record = load_record(source)
        quotable(record)
        spec, values = record.spec, _medians(record)
        place = find_data(record, data)
        study = load_study(spec, place)[0] if place is not None and spec.has_data else None
        origin = f"posterior medians of the record {record.digest}"
    else:
        spec = load_fit_spec(source / "spec.toml" if source.is_dir() else source)
        values, origin = {}, "values of the model file and prior medians of the spec"
        there = data is not None or (spec.path.parent / spec.data_file).is_file()
        study = load_study(spec, data)[0] if there and spec.has_data else None
    faults = list(_faults(spec, study))
    if faults:
        raise InputError(faults)
    effects = tuple(_effects(spec.model, _inputs_in_use(spec.model, study)))
    return PopulationModel(spec, _with_defaults(spec, values), origin, effects, study, spec.name)


def _medians(record: FitRecord) -> dict[str, float]:
    return {str(name): float(value) for name, value in record.table["median"].items()}


def _with_defaults(spec: FitSpec, values: Mapping[str, float]) -> dict[str, float]:
    """A value for everything that has a name: fixed ones as stated, those of the spec at their prior medians."""
    found = {name: item.value for name, item in spec.model.parameters.items()} | dict(spec.fixed)
    found |= {f"beta_{name}": _middle(effect.prior) for name, effect in spec.covariate_effects.items()}
    found |= {f"omega_{name}": _middle(item.sd) for name, item in spec.between_subject.items()}
    found |= {error_name(name, key): _middle(prior) for name, error in spec.likelihood.items()
              for key, prior in error.parameters.items()}
    names = spec.correlated
    found |= {f"corr_{a}_{b}": 0.0 for k, b in enumerate(names) for a in names[:k]}
    return found | {name: value for name, value in values.items() if name in found}


def _middle(value: Prior | float) -> float:
    return float(quantile(value, 0.0)) if isinstance(value, Prior) else float(value)


# --- what cannot be said -----------------------------------------------------------------------------------------


def _faults(spec: FitSpec, study: StudyData | None) -> Iterable[Fault]:
    where, same = str(spec.path), "leave it out of a spec that is to be exported"
    if not spec.has_data:
        yield Fault(f"{where}: data", "published figures only, and a rerun needs patients",
                    "export a spec with patients under [data]")
    elif spec.published:
        yield Fault(f"{where}: published", "published cohorts as likelihood have no counterpart", same)
    for name in spec.study_effects:
        yield Fault(f"{where}: study_effects.{name}", "an effect of studies above that of subjects", same)
    for name in spec.between_occasion:
        yield Fault(f"{where}: between_occasion.{name}", "parameters that change between occasions", same)
    for name, item in spec.missing_covariates.items():
        yield Fault(f"{where}: {item.section}.{name}", "unknown covariates or kinds with a distribution", same)
    for shared in spec.shared_errors:
        yield Fault(f"{where}: residual_correlation", f"correlated residuals of {', '.join(shared.observables)}", same)
    for name in spec.model.parameters:
        if name.startswith("delivered_"):
            yield Fault(f"{where}: dose_error.{name.removeprefix('delivered_')}", "doses measured with error", same)
    for name, error in spec.likelihood.items():
        yield from _error_faults(f"{where}: likelihood.{name}", error, study)
    yield from _input_faults(spec, study)


def _error_faults(where: str, error: ErrorModel, study: StudyData | None) -> Iterable[Fault]:
    if error.family in COUNTS:
        yield Fault(where, f"{error.family} counts are not exported", "use an error model of continuous values")
    if error.family == "student_t" and error.df != int(error.df) and _any_censored(error.observable, study):
        yield Fault(where, f"censored values with {error.df:g} degrees of freedom",
                    "the distribution function has a closed form for whole numbers only")


def _any_censored(name: str, study: StudyData | None) -> bool:
    return study is not None and any(o.censoring for one in study.subjects for o in one.observations
                                     if o.observable == name)


def _inputs_in_use(model: Model, study: StudyData | None) -> list[str]:
    given = {dose.input for one in study.subjects for dose in one.doses} if study else set(model.inputs)
    return [name for name, item in model.inputs.items() if item.scheduled or name in given]


def _input_faults(spec: FitSpec, study: StudyData | None) -> Iterable[Fault]:
    model = spec.model
    moving = {"t", *model.states} | (set(model.expressions) - static_expressions(model))
    for name in _inputs_in_use(model, study):
        where, item = f"{model.name}: inputs.{name}", model.inputs[name]
        if item.multiply:
            yield Fault(f"{where}.multiply",
                        f"a jump of {', '.join(item.multiply)}: a dose record can add, not multiply",
                        "use the model's form with a dynamic input, where it has one (thymus_full_dynamic)")
        for state, expression in item.add.items():
            names = {s.name for s in expression.free_symbols if isinstance(s, sympy.Symbol)} & moving
            if names:
                yield Fault(f"{where}.add.{state}", f"what a dose adds depends on {', '.join(sorted(names))}",
                            "a bioavailability may use parameters, covariates and the amount")


def _effects(model: Model, inputs: Sequence[str]) -> Iterable[Effect]:
    for name in inputs:
        for state, expression in model.inputs[name].add.items():
            factor, linear = per_amount(expression)
            yield Effect(list(model.inputs).index(name) + 1, state, factor, linear)


# --- data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataRow:
    """One record; times from the model's start on. Rows of one time are in the order in which they act."""

    subject: int
    time: float
    order: int  # measurements before doses, changes of covariates after both
    evid: int
    cells: Mapping[str, str]
    covariates: Mapping[str, str]


def data_text(found: PopulationModel, language: Language, renamed: Mapping[str, str]) -> str:
    """The study as the other tool reads it: measurements on the scale of their error model, additional doses written
    out, a record of no event at the start so that integration begins there.

    A covariate acts in NONMEM over the time before its record and in rxode2 over the time after it; both files say the
    same course. Subjects are numbered in the order of the data.

    Args:
        renamed: covariate -> its name in the other tool.

    Raises:
        InputError: doses that one tool would not give as they are.
    """
    assert found.data is not None
    faults: list[Fault] = []
    rows = [row for number, subject in enumerate(found.data.subjects, 1)
            for row in _subject_rows(found, subject, number, language, faults)]
    if faults:
        raise InputError(faults)
    names = columns(found, language)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([renamed.get(name, name) for name in names])
    for row in rows:
        head = {"ID": str(row.subject), "TIME": _number(row.time), "EVID": str(row.evid)}
        cells = {**head, **row.cells, **row.covariates}
        writer.writerow([cells.get(name, ".") for name in names])
    return out.getvalue()


def columns(found: PopulationModel, language: Language) -> list[str]:
    """Headings of the data file; covariates keep their names of the model."""
    dose = ["CMT", "AMT", *(["RATE", "IDUR"] if found.has_infusions else [])]
    own = ["INP"] if language == "nonmem" else ["DAMT"]
    lower = "LOWER" if language == "nonmem" else "LIMIT"
    return ["ID", "TIME", "EVID", *dose, *own, "DVID", "DV", "CENS", lower, "MDV", *found.covariates]


def _subject_rows(found: PopulationModel, subject: Subject, number: int, language: Language,
                  faults: list[Fault]) -> list[DataRow]:
    model = found.model
    start, courses = model.start, dict(subject.covariates)
    own = [Dose(time, name, amount) for name, item in model.inputs.items() for time, amount in item.scheduled]
    doses = sorted([*own, *subject.doses], key=lambda dose: dose.time)
    _check_doses(found, subject, doses, language, faults)
    events = [(start, 0, 2, _plain(2))]
    events += [(o.time, 1, 0, _measured(found, o, language)) for o in subject.observations]
    for dose in doses:
        events += [(dose.time, 2, 1, cells) for cells in _given(found, dose, language)]
    changes = {time for name in found.covariates for time, _ in courses[name] if time > start}
    events += [(time, 3, 2, _plain(2)) for time in sorted(changes)]
    if language == "r":
        events = _before_doses(events)
    rows, amount = [], 0.0
    for time, order, evid, cells in sorted(events, key=lambda event: event[:2]):
        if evid == 1:
            amount = float(cells["AMT"])
        here = {name: _number(_covariate(courses[name], time, start, language)) for name in found.covariates}
        more = {"DAMT": _number(amount)} | ({} if evid == 0 else {"DVID": "."}) if language == "r" else {}
        rows.append(DataRow(number, time - start, order, evid, {**cells, **more}, here))
    return rows


def _plain(evid: int) -> dict[str, str]:
    return {"MDV": "1", "AMT": "0", "DVID": "0", "CENS": "0", "INP": "0"}


def _covariate(course: Sequence[tuple[float, float]], time: float, start: float, language: Language) -> float:
    if language == "r" or time <= start:
        return value_at(tuple(course), time)
    return value_at(tuple(course), math.nextafter(time, -math.inf))


def _measured(found: PopulationModel, o, language: Language) -> dict[str, str]:
    error = found.spec.likelihood[o.observable]
    value, limit = on_scale(error, o.value), on_scale(error, o.limit)
    between = o.censoring == 1 and math.isfinite(limit)
    cells = {"DVID": str(found.observables.index(o.observable) + 1), "DV": _number(value), "MDV": "0", "AMT": "0",
             "CENS": str(INTERVAL if between and language == "nonmem" else o.censoring), "INP": "0"}
    if between:
        cells["LOWER" if language == "nonmem" else "LIMIT"] = _number(limit)
    return cells | ({"DVID": o.observable} if language == "r" else {})


def on_scale(error: ErrorModel, value: float) -> float:
    """A measurement on the scale on which its error is normal or Student-t."""
    if error.family not in ON_LOG_SCALE or math.isnan(value):
        return value
    return math.log(value + error.offset) if value + error.offset > 0 else -math.inf


def _given(found: PopulationModel, dose: Dose, language: Language) -> Iterable[dict[str, str]]:
    """A record for each state that the dose adds to."""
    number, states = list(found.model.inputs).index(dose.input) + 1, list(found.model.states)
    for effect in found.effects:
        if effect.input != number or dose.amount == 0:
            continue
        place = str(states.index(effect.state) + 1)
        cells = {"CMT": place, "AMT": _number(dose.amount), "INP": str(number), "MDV": "1", "DVID": "0", "CENS": "0"}
        if found.has_infusions:
            cells |= {"RATE": "-2" if dose.duration > 0 else "0", "IDUR": _number(dose.duration)}
        yield cells


def _check_doses(found: PopulationModel, subject: Subject, doses: Sequence[Dose], language: Language,
                 faults: list[Fault]) -> None:
    nonlinear = {list(found.model.inputs)[e.input - 1] for e in found.effects if not e.linear}
    before: dict[float, Dose] = {}
    for dose in doses:
        where = f"subject {subject.id}, {dose.amount:g} {dose.input} at {dose.time:g}"
        if dose.input in nonlinear and dose.duration > 0:
            faults.append(Fault(where, "an infusion of an input that is not linear in its amount",
                                "give it as a bolus"))
        other = before.setdefault(dose.time, dose)
        if language == "r" and dose.input in nonlinear and other.amount != dose.amount:
            what = f"another amount, {other.amount:g}, at the same time: rxode2 would see one of them"
            faults.append(Fault(where, what, "move one by a little"))


def _before_doses(events: list[tuple[float, int, int, dict[str, str]]]) -> list[tuple[float, int, int, dict[str, str]]]:
    """rxode2 gives doses before it predicts: what was measured at the time of a dose is put a little before it."""
    given = {time for time, _, evid, _ in events if evid == 1}
    return [(time - _CLOSE * max(abs(time), 1.0) if evid == 0 and time in given else time, order, evid, cells)
            for time, order, evid, cells in events]


def _number(value: float) -> str:
    return repr(float(value))


def error_scale(error: ErrorModel) -> str:
    """What DV holds, in words."""
    if error.family in ON_LOG_SCALE:
        return f"DV is log(value + {error.offset:g})" if error.offset else "DV is log(value)"
    return "DV is the value"


def prior_text(spec: FitSpec, name: str) -> str:
    """The prior of an estimated quantity in words; empty where it has none."""
    if name in spec.estimate:
        return str(spec.estimate[name].prior)
    if name.startswith("omega_"):
        sd = spec.between_subject[name.removeprefix("omega_")].sd
        return str(sd) if isinstance(sd, Prior) else "stated"
    for observable, error in spec.likelihood.items():
        for key, prior in error.parameters.items():
            if error_name(observable, key) == name:
                return str(prior)
    for effect, item in spec.covariate_effects.items():
        if name == f"beta_{effect}":
            return str(item.prior)
    return ""
