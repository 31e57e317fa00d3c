"""What was asked: the fit spec and the scenario spec, checked against the model they name.

A spec says which data, which parameters are estimated, what varies between subjects, how observations err, which
endpoints count, and the gates that the draws must pass. Paths in it are relative to its own file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import sympy

from thymodel.documents import expressions, priors, units
from thymodel.documents.borrowed import Borrowed
from thymodel.documents.cards import card
from thymodel.documents.data import DataColumns
from thymodel.documents.dose_range import DoseRange, DoseResponseTable, read_dose_range, reference_faults
from thymodel.documents.endpoint import Endpoint, EndpointTable, read_endpoints, visit_faults, with_visits
from thymodel.documents.ensemble import Ensemble, EnsembleTable, read_ensemble
from thymodel.documents.expressions import closest, symbol
from thymodel.documents.extension import Shift, delivered, with_covariate_effects, with_dose_errors
from thymodel.documents.measurement import (
    COUNTS,
    ErrorModel,
    EventLimitTable,
    Family,
    ScaleTable,
    SharedError,
    error_faults,
    overlap_faults,
    read_event_limit,
    read_scale,
    shared_error_faults,
)
from thymodel.documents.mixtures import MixtureTable, kind_faults, with_kinds
from thymodel.documents.model import (
    Model,
    Number,
    Text,
    load_model,
    shipped_models,
    static_expressions,
    unit_in_model,
)
from thymodel.documents.occasions import occasion_names, with_occasions
from thymodel.documents.priors import Prior
from thymodel.documents.published import Published, load_published
from thymodel.documents.regimen import Dose, covariate_faults, dose_faults, repeat
from thymodel.documents.risks import Risk, RiskTable, read_risk
from thymodel.documents.toml import Table, digest, parse_document, read_text
from thymodel.documents.virtual import NominalDoseTable, Population, PopulationTable, read_population
from thymodel.errors import Fault, InputError

Whole = Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
Positive = Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, pydantic.Strict(False), pydantic.Field(ge=0, allow_inf_nan=False)]

SCALES = ("log", "logit", "natural")


# --- as written ----------------------------------------------------------------------------------------------


class PriorTable(Table):
    prior: str
    source: Text
    reason: str = ""


class ParameterOverride(Table):
    """A prior or a fixed value that differs from the model file says why."""

    reason: Text
    prior: str | None = None
    value: Number | None = None
    source: str = ""


class BetweenSubjectTable(Table):
    sd: str
    source: Text
    scale: Literal["log", "logit", "natural"] = "log"
    parameters: list[str] = []


class BetweenOccasionTable(Table):
    """How far a subject's parameter lies from its own middle on each of `occasions`, days of the spec."""

    sd: str
    source: Text
    scale: Literal["log", "logit", "natural"] = "log"
    parameters: list[str] = []


class CovariateEffectTable(Table):
    """`aggregate`: published cohorts, whose covariates are known as averages only, may inform this coefficient."""

    parameter: str
    covariate: str
    form: Literal["power", "linear"]
    reference: Number
    prior: str
    source: Text
    aggregate: bool = False


class MissingCovariateTable(Table):
    """The distribution over subjects of a covariate that some of them lack: `typical` is the mean of a normal one and
    the median of a lognormal one, whose `sd` is of the logarithm; `probability` is that of 1, where the values are 0
    and 1. Each is stated as a number or has a prior. `probabilities` are those of the values of a categorical one."""

    distribution: Literal["normal", "lognormal", "bernoulli", "categorical"]
    typical: str | Number | None = None
    sd: str | Number | None = None
    probability: str | Number | None = None
    probabilities: dict[str, Number] = {}
    source: Text


class DoseErrorTable(Table):
    """How far amounts that acted scatter about those recorded: `sd` is of the log of their ratio, about the CV. It is
    stated as a number or has a prior."""

    sd: str | Number
    source: Text


class StudyEffectTable(Table):
    """How far studies lie from their common middle. Where the data do not say by STUDY whose patients they are, these
    are that middle."""

    sd: str
    source: Text
    scale: Literal["log", "logit", "natural"] = "log"
    parameters: list[str] = []


class PublishedTable(Table):
    file: str
    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]


class PriorFromTable(Table):
    """The posterior of another record as the joint prior of some `parameters`, or of all that both fits estimate. Their
    own priors keep the probability `own_weight`: that these patients are not like those of the record."""

    record: Text
    parameters: list[str] = []
    own_weight: Annotated[float, pydantic.Strict(False), pydantic.Field(ge=0, lt=1)] = 0.2
    reason: str = ""


def _as_prior_from(found: object) -> object:
    """The path alone stands for a table with nothing else in it."""
    return {"record": found} if isinstance(found, str) else found


class ParentTable(Table):
    """The record that this fit goes on from: its lineage. Nothing of it enters the fit (`prior_from` does that)."""

    record: Text
    reason: Text


class DerivedTable(Table):
    """A quantity computed from parameters, constants and what the model derives from them, reported beside them."""

    value: Text
    unit: str
    label: str = ""


class CorrelationTable(Table):
    effects: list[str]
    prior: str
    source: Text


class LikelihoodTable(Table):
    """`offset` (in the observable's unit) is added to observation and prediction before the log."""

    error: Family
    parameters: dict[str, PriorTable] = {}
    offset: NonNegative = 0.0
    df: Positive | None = None
    scale: ScaleTable | None = None
    event_limit: EventLimitTable | None = None


class SharedErrorTable(Table):
    """Observables of one sample, whose residuals are correlated: subsets of a gate, or one bead count for all."""

    observables: list[str]
    prior: str
    source: Text


class DataTable(Table):
    file: str
    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    units: dict[str, str]
    where: str = ""
    columns: dict[str, str] = {}
    dvid: dict[str, str] = {}
    cmt: dict[str, str] = {}
    constant: dict[str, str] = {}


class SamplerTable(Table):
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)]
    chains: Whole = 4
    warmup: Whole = 500
    draws: Annotated[int, pydantic.Field(ge=4, le=1_000_000)] = 500  # R-hat needs four
    target_accept: Annotated[float, pydantic.Field(gt=0.5, lt=1)] = 0.8


class SolverTable(Table):
    rtol: Positive = 1e-5
    atol: Positive = 1e-6  # of each state's largest value


class GatesTable(Table):
    """What a posterior must meet before a number of it may be quoted."""

    rhat: Positive = 1.01
    ess_bulk: Positive = 400.0
    ess_tail: Positive = 400.0
    divergences: Annotated[int, pydantic.Field(ge=0)] = 0
    pareto_k: Positive = 0.7  # of the log density with every step of the solver made in two
    failed_solves: NonNegative = 0.001  # share of the steps after warm-up


class FitDocument(Table):
    title: Text
    purpose: Text
    model: str
    estimate: list[str]
    likelihood: dict[str, LikelihoodTable]
    sampler: SamplerTable
    data: DataTable | None = None
    published: dict[str, PublishedTable] = {}
    prior_from: Annotated[PriorFromTable | None, pydantic.BeforeValidator(_as_prior_from)] = None
    parent: ParentTable | None = None
    simulated: bool = False
    override: dict[str, ParameterOverride] = {}
    between_subject: dict[str, BetweenSubjectTable] = {}
    occasions: list[Number] = []
    between_occasion: dict[str, BetweenOccasionTable] = {}
    correlation: list[CorrelationTable] = []
    residual_correlation: list[SharedErrorTable] = []
    covariate_effects: dict[str, CovariateEffectTable] = {}
    missing_covariates: dict[str, MissingCovariateTable] = {}
    mixtures: dict[str, MixtureTable] = {}
    dose_error: dict[str, DoseErrorTable] = {}
    study_effect: dict[str, StudyEffectTable] = {}
    derived: dict[str, DerivedTable] = {}
    endpoints: dict[str, EndpointTable] = {}
    solver: SolverTable = SolverTable()
    gates: GatesTable = GatesTable()


class DoseTable(Table):
    """`times` doses alike, `every` so many days; each is given over `duration`, or at once."""

    amount: NonNegative
    day: Number
    input: str | None = None
    times: Annotated[int, pydantic.Field(ge=1, le=1000)] = 1
    every: Positive | None = None
    duration: NonNegative = 0.0


class ArmTable(Table):
    doses: list[DoseTable] = []
    covariates: dict[str, Number] = {}
    label: str = ""


class ScenarioDocument(Table):
    """`visits`: days of measurement of endpoints that name none; `reference`: the arm that others are compared with;
    `horizon`: the day beyond which no endpoint may look; `population`: whose covariates the virtual patients have, in
    place of those of the patients of the fit; `dose_error`: how far doses scatter about those of the arms; `ensemble`:
    other records that answer with this one."""

    title: Text
    arms: dict[str, ArmTable]
    subjects: Whole = 200
    draws: Whole = 200
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] = 1
    horizon: Positive | None = None
    visits: list[Number] = []
    reference: str | None = None
    population: PopulationTable | None = None
    dose_error: dict[str, NominalDoseTable] = {}
    dose_response: DoseResponseTable | None = None
    endpoints: dict[str, EndpointTable] = {}
    competing: dict[str, RiskTable] = {}
    ensemble: EnsembleTable | None = None


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimated:
    """A parameter under estimation with the prior in force and where it came from."""

    prior: Prior
    unit: str
    source: str
    verified: bool
    reason: str


@dataclass(frozen=True)
class BetweenSubject:
    """One random effect, standard normal times `sd` (a prior, or a number that is stated), added on `scale` to each of
    `parameters`."""

    parameters: tuple[str, ...]
    scale: str
    sd: Prior | float
    source: str


@dataclass(frozen=True)
class MissingCovariate:
    """The distribution of a covariate over subjects; `numbers` are `typical_<name>` and `sd_<name>`, or
    `probability_<name>`, priors or what is stated. `levels` are the values of one that has but a few, `weights` their
    probabilities, but for a Bernoulli one. `kind`: of a mixture, which a data file need not have."""

    family: str
    numbers: Mapping[str, Prior | float]
    source: str
    levels: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    kind: bool = False

    @property
    def section(self) -> str:
        """Where the spec has it."""
        return "mixtures" if self.kind else "missing_covariates"


@dataclass(frozen=True)
class CovariateEffect:
    """coefficient*log(c/reference) ("power") or coefficient*(c - reference) ("linear"), added on the log scale; where
    the covariate changes on the way, with its value of the moment.

    Published cohorts have a coefficient of their own, with the same prior, unless `aggregate`: averages of groups that
    also differ in other ways must not pass for a slope between patients.
    """

    parameter: str
    covariate: str
    form: str
    reference: float
    prior: Prior
    source: str
    aggregate: bool = False

    def shift(self, name: str) -> Shift:
        """What the effect of that name adds to the equations."""
        c = symbol(self.covariate)
        distance = sympy.log(c / self.reference) if self.form == "power" else c - self.reference
        return Shift(f"beta_{name}", self.parameter, distance)


@dataclass(frozen=True)
class Derived:
    """A product or other function of typical values, of which data often know more than of its factors."""

    value: sympy.Expr
    unit: str
    label: str


@dataclass(frozen=True)
class FitSpec:
    """`model` is the document with what this spec adds to its equations."""

    name: str
    path: Path
    text: str
    digest: str
    title: str
    purpose: str
    simulated: bool
    model_path: Path
    model: Model
    data_file: str
    data_sha256: str
    data_where: str
    columns: DataColumns
    estimate: Mapping[str, Estimated]
    fixed: Mapping[str, float]
    between_subject: Mapping[str, BetweenSubject]
    correlated: tuple[str, ...]
    correlation_shape: float
    covariate_effects: Mapping[str, CovariateEffect]
    derived: Mapping[str, Derived]
    likelihood: Mapping[str, ErrorModel]
    endpoints: Mapping[str, Endpoint]
    sampler: SamplerTable
    solver: SolverTable
    gates: GatesTable
    shared_errors: tuple[SharedError, ...] = ()
    published: tuple[Published, ...] = ()
    study_effects: Mapping[str, BetweenSubject] = field(default_factory=dict)
    prior_from: PriorFromTable | None = None
    parent: ParentTable | None = None
    borrowed: Borrowed | None = None  # what `prior_from` names, once it has been read
    missing_covariates: Mapping[str, MissingCovariate] = field(default_factory=dict)
    occasions: tuple[float, ...] = ()
    between_occasion: Mapping[str, BetweenSubject] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        source = [f"data {self.data_file}, sha256 {self.data_sha256[:16]}"] if self.has_data else []
        source += [f"{len(table.cohorts)} published cohorts of {table.path.name}" for table in self.published]
        rows = [{"estimated": name, "unit": item.unit, "prior": item.prior, "source": item.source} for name, item in
                self.estimate.items()]
        return card(f"Fit spec {self.name}: {self.title}", [
            self.purpose, f"Model {self.model.name}; {'; '.join(source)}.",
            f"Between subjects: {', '.join(self.between_subject) or 'nothing'}. Measured: "
            f"{', '.join(self.likelihood) or 'nothing'}. Endpoints: {', '.join(self.endpoints) or 'none'}."], rows,
            self.simulated)

    @property
    def occasion_shifts(self) -> dict[str, str]:
        """Parameters of the model that say how far an occasion lies from the middle -> the effect that each is of."""
        return {own: name for name in self.between_occasion for own in occasion_names(name, len(self.occasions) + 1)}

    @property
    def effect_count(self) -> int:
        """Random effects of one person, those of each occasion among them."""
        return len(self.between_subject) + len(self.occasion_shifts)

    @property
    def has_data(self) -> bool:
        """Whether there are patients beside what is published."""
        return bool(self.data_file)

    @property
    def studies(self) -> tuple[str, ...]:
        """The published ones."""
        return _studies(self.published)


@dataclass(frozen=True)
class Arm:
    """`study`: whose effects its subjects have; none is a study in the middle of all."""

    name: str
    label: str
    doses: tuple[Dose, ...]
    covariates: Mapping[str, float]
    study: str = ""


@dataclass(frozen=True)
class ScenarioSpec:
    title: str
    digest: str
    arms: tuple[Arm, ...]
    subjects: int
    draws: int
    seed: int
    horizon: float | None
    endpoints: Mapping[str, Endpoint]
    competing: Mapping[str, Risk] = field(default_factory=dict)
    reference: str | None = None
    dose_range: DoseRange | None = None
    population: Population | None = None
    dose_errors: Mapping[str, float] = field(default_factory=dict)
    ensemble: Ensemble | None = None


def load_fit_spec(path: str | Path, model_path: Path | None = None) -> FitSpec:
    """A fit spec from `spec.toml` or from the directory that holds one.

    Args:
        model_path: the model file in place of the one that the spec names; a record keeps its own copy.

    Raises:
        InputError: every fault of the spec, and of its model.
    """
    path = Path(path)
    path = path / "spec.toml" if path.is_dir() else path
    text = read_text(path)
    document = parse_document(text, FitDocument, str(path))
    model_path = model_path or _model_path(path, document.model)
    faults: list[Fault] = []
    document, model = _with_mixtures(str(path), document, load_model(model_path), faults)
    spec = _build_fit(document, model, model_path, path, text, faults)
    if faults:
        raise InputError(faults)
    model = spec.model
    shifts = [effect.shift(name) for name, effect in spec.covariate_effects.items()]
    levels = {name: (item.scale, item.parameters) for name, item in spec.between_occasion.items()}
    solved = with_occasions(with_covariate_effects(model, shifts), levels, spec.occasions)
    return replace(spec, model=with_dose_errors(solved, document.dose_error))


def _with_mixtures(where: str, document: FitDocument, model: Model, faults) -> tuple[FitDocument, Model]:
    """The spec whose mixtures are covariates that may be missing, with effects on what differs; and the model that has
    these covariates. A mixture with a fault is left out."""
    effects, missing, sound = dict(document.covariate_effects), dict(document.missing_covariates), []
    for name, table in document.mixtures.items():
        found = list(_mixture_faults(where, name, table, document, model))
        faults += found
        if found:
            continue
        sound.append(name)
        missing[name] = MissingCovariateTable(distribution="bernoulli", probability=table.probability,
                                              source=table.source)
        effects |= {f"{name}_{parameter}": CovariateEffectTable(
            parameter=parameter, covariate=name, form="linear", reference=0.0, prior=prior, source=table.source)
            for parameter, prior in table.shift.items()}
    update = {"covariate_effects": effects, "missing_covariates": missing}
    return document.model_copy(update=update), with_kinds(model, sound)


def _mixture_faults(where: str, name: str, table: MixtureTable, document: FitDocument, model: Model):
    path, faults = f"mixtures.{name}", list[Fault]()
    _unused(where, path, name, model, faults)
    if name in document.missing_covariates:
        faults.append(Fault(f"{where}: {path}", f"[missing_covariates.{name}] has its name", "leave one of them out"))
    if not name.isidentifier():
        faults.append(Fault(f"{where}: {path}", f"'{name}' cannot be part of a parameter's name",
                            "use letters, digits and underscores"))
    if document.published:
        faults.append(Fault(f"{where}: {path}", "how many of a published cohort are of which kind is not modelled",
                            "leave [published] or the mixture out"))
    if document.data is None:
        faults.append(Fault(f"{where}: {path}", "no patients who could be of two kinds", "add [data]"))
    shifts = {parameter: _prior(where, f"{path}.shift.{parameter}", prior, faults)
              for parameter, prior in table.shift.items()}
    for parameter in shifts:
        if not _known(where, f"{path}.shift", parameter, model.parameters, "parameter", faults):
            continue
        if f"{name}_{parameter}" in document.covariate_effects:
            faults.append(Fault(f"{where}: {path}.shift.{parameter}", f"[covariate_effects.{name}_{parameter}] has its "
                                "name", "rename that one"))
        if parameter in model.chain_lengths:
            faults.append(Fault(f"{where}: {path}.shift.{parameter}", "it sets the length of a chain and cannot vary"))
        low, high = _support_of(parameter, document, model)
        if low < 0 or high < float("inf"):
            faults.append(Fault(f"{where}: {path}.shift.{parameter}", f"'{parameter}' has support ({low:g}, {high:g}), "
                                "and a ratio needs one from 0 to infinity", "choose another parameter or prior"))
    _probability(where, f"{path}.probability", table.probability, faults)
    return [*faults, *kind_faults(f"{where}: {path}.shift", name, shifts)]


def _model_path(path: Path, name: str) -> Path:
    """A shipped model by name (but a file of that name beside the spec first); else a path relative to the spec."""
    if name in shipped_models():
        beside = path.parent / f"{name}.toml"
        return beside if beside.exists() else shipped_models()[name]
    return path.parent / name


def _build_fit(document: FitDocument, model: Model, model_path: Path, path: Path, text: str, faults: list[Fault]):
    where = str(path)
    estimate = {name: item for name in document.estimate
                if (item := _estimated(where, name, document, model, faults)) is not None}
    if not document.estimate:
        faults.append(Fault(f"{where}: estimate", "no parameter is estimated", "name at least one"))
    faults += [Fault(f"{where}: estimate", f"'{name}' is named twice") for name in sorted(set(document.estimate))
               if document.estimate.count(name) > 1]
    if not document.likelihood:
        faults.append(Fault(f"{where}: likelihood", "no observable has an error model", "add [likelihood.OBSERVABLE]"))
    for name in document.override:
        _known(where, f"override.{name}", name, model.parameters, "parameter", faults)
    effects = {name: _between_subject(where, name, table, document, model, faults)
               for name, table in document.between_subject.items()}
    effects |= {f"dose_{name}": _dose_error(where, name, table, document, model, faults)
                for name, table in document.dose_error.items()}
    likelihood = {name: _error_model(where, name, table, model, faults)
                  for name, table in document.likelihood.items()}
    shared_errors, data = _shared_errors(where, document, faults), document.data
    published = _published(path, document, model, likelihood, shared_errors, faults)
    if data is None and not document.published:
        faults.append(Fault(f"{where}: data", "missing", "add [data], or [published.NAME] for published figures"))
    return FitSpec(
        name=path.parent.resolve().name, path=path, text=text, digest=digest(text), title=document.title,
        purpose=document.purpose, simulated=document.simulated, model_path=model_path, model=model,
        data_file=data.file if data else "", data_sha256=data.sha256 if data else "",
        data_where=data.where if data else "",
        columns=_columns(where, document, model, published, faults),
        estimate=estimate, between_subject=effects,
        fixed=_fixed(where, document, model, faults) | {delivered(name): 1.0 for name in document.dose_error},
        correlated=_correlated(where, document, faults),
        correlation_shape=_correlation_shape(where, document, faults),
        covariate_effects={name: _effect(where, name, table, document, model, faults)
                           for name, table in document.covariate_effects.items()},
        derived={name: found for name, table in document.derived.items()
                 if (found := _derived(where, name, table, model, faults)) is not None},
        likelihood=likelihood,
        endpoints=read_endpoints(where, document.endpoints, model, faults),
        sampler=document.sampler, solver=document.solver, gates=document.gates,
        shared_errors=shared_errors,
        published=published,
        study_effects={name: _study_effect(where, name, table, document, model, faults)
                       for name, table in document.study_effect.items()},
        prior_from=document.prior_from,
        parent=document.parent,
        missing_covariates={name: _missing_covariate(where, name, table, document, model, faults)
                            for name, table in document.missing_covariates.items()},
        occasions=_occasions(where, document, model, faults),
        between_occasion={name: _between_subject(where, name, BetweenSubjectTable(**table.model_dump()), document,
                                                 model, faults, "between_occasion")
                          for name, table in document.between_occasion.items()})


def _occasions(where, document: FitDocument, model: Model, faults) -> tuple[float, ...]:
    days, path = tuple(document.occasions), f"{where}: occasions"
    if document.between_occasion and not days:
        faults.append(Fault(path, "missing, but [between_occasion] has effects",
                            "give the days on which the second and later occasions begin, as [28, 56]"))
    if days and not document.between_occasion:
        faults.append(Fault(path, "nothing differs between them", "add [between_occasion.PARAMETER]"))
    if list(days) != sorted(set(days)) or days and days[0] <= model.start:
        faults.append(Fault(path, f"{list(days)}: not ascending days after the model's start, {model.start:g}"))
    return days


def _published(path: Path, document: FitDocument, model: Model, likelihood: Mapping[str, ErrorModel],
               shared: tuple[SharedError, ...], faults) -> tuple[Published, ...]:
    """The files under [published], with their faults; a record keeps its own copies beside its spec."""
    found: list[Published] = []
    known = {name: error for name, error in likelihood.items() if name in model.observables}
    for name, table in document.published.items():
        written, beside = path.parent / table.file, path.parent / Path(table.file).name
        place = next((file for file in (written, beside) if file.is_file() and digest(file.read_bytes())
                      == table.sha256), written)
        try:
            found.append(load_published(name, place, table.sha256, model, known, shared))
        except InputError as error:
            faults += error.faults
    places = [(cohort.name, read) for read in found for cohort in read.cohorts]
    for k, (name, read) in enumerate(places):
        if any(name == other for other, _ in places[:k]):
            faults.append(Fault(f"{read.path}: cohorts.{name}", "a cohort of that name is in another file too",
                                "choose another name"))
    kept = ["spec.toml", f"{model.name}.toml", *(Path(table.file).name for table in document.published.values())]
    for name, table in document.published.items():
        if kept.count(Path(table.file).name) > 1:
            faults.append(Fault(f"{path}: published.{name}.file", "another file of the record has this name",
                                "choose another name"))
    return tuple(found)


def _study_effect(where, name, table: StudyEffectTable, document, model: Model, faults) -> BetweenSubject:
    if not document.published and not document.data:
        faults.append(Fault(f"{where}: study_effect.{name}", "no study to differ", "add [data] or [published.NAME]"))
    as_effect = BetweenSubjectTable(sd=table.sd, source=table.source, scale=table.scale, parameters=table.parameters)
    return _between_subject(where, name, as_effect, document, model, faults, "study_effect")


def _studies(published: tuple[Published, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cohort.study for table in published for cohort in table.cohorts))


def _columns(where, document: FitDocument, model: Model, published: tuple[Published, ...], faults) -> DataColumns:
    """How to read the data: what [data] says, and what the assays of the likelihood report."""
    data = document.data or DataTable(file="", sha256="0" * 64, units={})
    tables = {n: t for n, t in document.likelihood.items() if n in model.observables}
    unit_of = {name: item.unit for name, item in model.observables.items()}
    scales = {name: read_scale(f"{where}: likelihood.{name}", table.error, unit_of[name], table.scale, faults)
              for name, table in tables.items()}
    limits = {name: read_event_limit(f"{where}: likelihood.{name}", name, table.event_limit, unit_of, table.error,
                                     faults) for name, table in tables.items()}
    return DataColumns(data.units, data.columns, data.dvid, data.cmt, data.constant,
                       scales={name: scale for name, scale in scales.items() if scale is not None},
                       event_limits={name: limit for name, limit in limits.items() if limit is not None},
                       counts=frozenset(name for name, table in tables.items() if table.error in COUNTS),
                       missing={name: tuple(_levels(table)) for name, table in document.missing_covariates.items()},
                       kinds=frozenset(document.mixtures),
                       studies=_studies(published) if document.study_effect else None)


def _shared_errors(where, document: FitDocument, faults) -> tuple[SharedError, ...]:
    family_of = {name: (table.error, table.df or 0.0) for name, table in document.likelihood.items()}
    found, path = [], f"{where}: residual_correlation"
    for k, table in enumerate(document.residual_correlation):
        faults += shared_error_faults(f"{path}.{k}", table.observables, family_of)
        try:
            shape = priors.parse_correlation_prior(table.prior)
        except ValueError as error:
            faults.append(Fault(f"{path}.{k}.prior", str(error)))
            shape = 1.0
        found.append(SharedError(tuple(table.observables), shape, table.source))
    faults += overlap_faults(path, [block.observables for block in found])
    return tuple(found)


def _known(where: str, path: str, name: str, names, kind: str, faults: list[Fault]) -> bool:
    if name not in names:
        faults.append(Fault(f"{where}: {path}", f"the model has no {kind} '{name}'{closest(name, names)}"))
    return name in names


def _unused(where: str, path: str, name: str, model: Model, faults: list[Fault]) -> None:
    if any(name in names for names in (model.parameters, model.constants, model.covariates, model.expressions,
                                       model.states)):
        faults.append(Fault(f"{where}: {path}", f"the model has a '{name}' of its own", "choose another name"))


def _prior(where: str, path: str, text: str, faults: list[Fault]) -> Prior:
    try:
        return priors.parse_prior(text)
    except ValueError as error:
        faults.append(Fault(f"{where}: {path}", str(error)))
        return Prior("halfnormal", {"sd": 1.0})  # a stand-in that raises no second fault


def _estimated(where, name, document: FitDocument, model: Model, faults) -> Estimated | None:
    if not _known(where, "estimate", name, model.parameters, "parameter", faults):
        return None
    parameter, override = model.parameters[name], document.override.get(name)
    if override is not None and override.value is not None:
        faults.append(Fault(f"{where}: override.{name}.value", f"'{name}' is estimated, so its value cannot be fixed"))
    if override is not None and override.prior is not None:
        prior = _prior(where, f"override.{name}.prior", override.prior, faults)
        return Estimated(prior, parameter.unit, override.source or "this spec", False, override.reason)
    if parameter.prior is None:
        faults.append(Fault(f"{where}: estimate", f"'{name}' is fixed in the model: it has no prior",
                            f"give [override.{name}] a prior and a reason, or do not estimate it"))
        return None
    return Estimated(parameter.prior, parameter.unit, parameter.source, parameter.verified, "")


def _fixed(where, document: FitDocument, model: Model, faults) -> dict[str, float]:
    """Value of every parameter that is not estimated."""
    values = {name: p.value for name, p in model.parameters.items() if name not in document.estimate}
    for name, override in document.override.items():
        if override.prior is not None and name not in document.estimate:
            faults.append(Fault(f"{where}: override.{name}.prior", f"'{name}' is not estimated", "add it to estimate"))
        if override.prior is None and override.value is None:
            faults.append(Fault(f"{where}: override.{name}", "neither a prior nor a value"))
        if override.value is not None and name in model.chain_lengths:
            faults.append(Fault(f"{where}: override.{name}", "it sets the length of a chain", "edit the model file"))
        elif override.value is not None and name in values:
            values[name] = override.value
    return values


def _between_subject(where, name, table: BetweenSubjectTable, document, model: Model, faults,
                     section: str = "between_subject") -> BetweenSubject:
    path, parameters = f"{section}.{name}", tuple(table.parameters or [name])
    sd = _prior(where, f"{path}.sd", table.sd, faults)
    if priors.support(sd)[0] < 0:
        faults.append(Fault(f"{where}: {path}.sd", f"{sd} allows negative values; a standard deviation is positive"))
    for parameter in parameters:
        if not _known(where, path, parameter, model.parameters, "parameter", faults):
            continue
        if parameter in model.chain_lengths:
            faults.append(Fault(f"{where}: {path}", f"'{parameter}' sets the length of a chain and cannot vary"))
        low, high = _support_of(parameter, document, model)
        if table.scale == "log" and low < 0 or table.scale == "logit" and (low, high) != (0.0, 1.0):
            faults.append(Fault(f"{where}: {path}.scale", f"'{parameter}' has support ({low:g}, {high:g}), "
                                f"which the {table.scale} scale does not fit", "choose another scale or prior"))
    return BetweenSubject(parameters, table.scale, sd, table.source)


def _support_of(name: str, document: FitDocument, model: Model) -> tuple[float, float]:
    override = document.override.get(name)
    try:
        prior = priors.parse_prior(override.prior) if override and override.prior else model.parameters[name].prior
    except ValueError:
        prior = None
    if prior is not None:
        return priors.support(prior)
    return (0.0, float("inf")) if model.parameters[name].value > 0 else (-float("inf"), float("inf"))


def _correlated(where, document: FitDocument, faults) -> tuple[str, ...]:
    if len(document.correlation) > 1:
        faults.append(Fault(f"{where}: correlation", "more than one block", "put all correlated effects in one"))
    for table in document.correlation[:1]:
        for name in table.effects:
            _known(where, "correlation.effects", name, document.between_subject, "between-subject effect", faults)
        if len(table.effects) < 2 or len(set(table.effects)) < len(table.effects):
            faults.append(Fault(f"{where}: correlation.effects", "needs two or more different effects"))
        return tuple(table.effects)
    return ()


def _correlation_shape(where, document: FitDocument, faults) -> float:
    for table in document.correlation[:1]:
        try:
            return priors.parse_correlation_prior(table.prior)
        except ValueError as error:
            faults.append(Fault(f"{where}: correlation.prior", str(error)))
    return 1.0


def _effect(where, name, table: CovariateEffectTable, document, model: Model, faults) -> CovariateEffect:
    path = f"covariate_effects.{name}"
    _known(where, f"{path}.parameter", table.parameter, model.parameters, "parameter", faults)
    _known(where, f"{path}.covariate", table.covariate, model.covariates, "covariate", faults)
    _unused(where, path, f"beta_{name}", model, faults)
    if table.form == "power" and table.reference <= 0:
        faults.append(Fault(f"{where}: {path}.reference", "a power needs a reference above 0"))
    return CovariateEffect(table.parameter, table.covariate, table.form, table.reference,
                           _prior(where, f"{path}.prior", table.prior, faults), table.source, table.aggregate)


def _stated_or_prior(where: str, path: str, value: str | float, least: float, faults: list[Fault]) -> Prior | float:
    """A number that is stated, or the prior of one; above `least`."""
    found = _prior(where, path, value, faults) if isinstance(value, str) else value
    if isinstance(found, Prior) and priors.support(found)[0] < least:
        faults.append(Fault(f"{where}: {path}", f"{found} allows values below {least:g}", "choose another prior"))
    if not isinstance(found, Prior) and found <= least:
        faults.append(Fault(f"{where}: {path}", f"{found:g}, above {least:g} was expected"))
    return found


def _missing_covariate(where, name, table: MissingCovariateTable, document: FitDocument, model: Model,
                       faults) -> MissingCovariate:
    path = f"{'mixtures' if name in document.mixtures else 'missing_covariates'}.{name}"
    _known(where, path, name, model.covariates, "covariate", faults)
    _unused(where, path, f"typical_{name}", model, faults)
    _unused(where, path, f"sd_{name}", model, faults)
    if document.data is None:
        faults.append(Fault(f"{where}: {path}", "no patients who could lack it", "add [data], or leave it out"))
    if table.distribution in ("bernoulli", "categorical"):
        found = _missing_level(where, path, name, table, model, faults)
        return replace(found, kind=name in document.mixtures)
    for key in ("typical", "sd"):
        if getattr(table, key) is None:
            faults.append(Fault(f"{where}: {path}.{key}", "missing", f"say {key} = a number, or its prior"))
    powers = [key for key, effect in document.covariate_effects.items()
              if effect.covariate == name and effect.form == "power"]
    if powers and table.distribution == "normal":
        faults.append(Fault(f"{where}: {path}.distribution", f"a normal covariate may be negative, and "
                            f"covariate_effects.{powers[0]} takes its power", 'say distribution = "lognormal"'))
    least = 0.0 if table.distribution == "lognormal" else -float("inf")
    return MissingCovariate(table.distribution, {
        f"{key}_{name}": _stated_or_prior(where, f"{path}.{key}", value, lower, faults)
        for key, value, lower in (("typical", table.typical, least), ("sd", table.sd, 0.0)) if value is not None},
        table.source)


def _levels(table: MissingCovariateTable) -> list[float]:
    """The values of a covariate that has but a few, ascending; none where they are not numbers."""
    try:
        found = sorted(float(text) for text in table.probabilities)
    except ValueError:
        found = []
    return {"bernoulli": [0.0, 1.0], "categorical": found}.get(table.distribution, [])


def _missing_level(where, path, name, table: MissingCovariateTable, model: Model, faults) -> MissingCovariate:
    levels = tuple(_levels(table))
    if table.distribution == "categorical":
        weights = tuple(weight for _, weight in sorted((float(text), weight) for text, weight in
                                                       table.probabilities.items())) if levels else ()
        different = len(set(levels)) == len(weights) > 1
        if not different or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-9:
            faults.append(Fault(f"{where}: {path}.probabilities", "two or more different values, each with a "
                                "probability above 0, which add up to 1, were expected",
                                'for example { "0" = 0.7, "1" = 0.3 }'))
        return MissingCovariate(table.distribution, {}, table.source, levels, weights)
    _unused(where, path, f"probability_{name}", model, faults)
    if table.probability is None:
        faults.append(Fault(f"{where}: {path}.probability", "missing", "say probability = a number, or its prior"))
        return MissingCovariate(table.distribution, {}, table.source, levels)
    found = _probability(where, f"{path}.probability", table.probability, faults)
    return MissingCovariate(table.distribution, {f"probability_{name}": found}, table.source, levels)


def _probability(where: str, path: str, value: str | float, faults: list[Fault]) -> Prior | float:
    found = _stated_or_prior(where, path, value, 0.0, faults)
    highest = priors.support(found)[1] if isinstance(found, Prior) else found
    if highest > 1 or not isinstance(found, Prior) and found == 1:
        faults.append(Fault(f"{where}: {path}", f"{found} is not, or not always, a probability below 1"))
    return found


def _dose_error(where, name, table: DoseErrorTable, document: FitDocument, model: Model, faults) -> BetweenSubject:
    path = f"dose_error.{name}"
    _known(where, path, name, model.inputs, "input", faults)
    _unused(where, path, delivered(name), model, faults)
    if f"dose_{name}" in document.between_subject:
        faults.append(Fault(f"{where}: {path}", f"[between_subject.dose_{name}] has its name", "rename that one"))
    return BetweenSubject((delivered(name),), "log", _stated_or_prior(where, f"{path}.sd", table.sd, 0.0, faults),
                          table.source)


def _derived(where, name, table: DerivedTable, model: Model, faults) -> Derived | None:
    path = f"{where}: derived.{name}"
    if name in model.parameters:
        faults.append(Fault(path, f"'{name}' is a parameter of the model", "choose another name"))
    names = {*model.constants, *model.parameters, *model.covariates, *static_expressions(model)}
    try:
        value, wanted = expressions.parse_expression(table.value, names), units.parse_unit(table.unit)
        found = unit_in_model(model, value)
    except ValueError as error:
        faults.append(Fault(path, str(error)))
        return None
    if found is not None and not units.same(found, wanted):
        faults.append(Fault(f"{path}.unit", f"{table.value} is in {found}, not in {table.unit}"))
    return Derived(value, table.unit, table.label)


def _error_model(where, name, table: LikelihoodTable, model: Model, faults) -> ErrorModel:
    path = f"likelihood.{name}"
    _known(where, path, name, model.observables, "observable", faults)
    faults += error_faults(f"{where}: {path}", table.error, table.parameters, table.offset, table.df)
    parsed = {key: _prior(where, f"{path}.parameters.{key}", item.prior, faults)
              for key, item in table.parameters.items()}
    for key, prior in parsed.items():
        if priors.support(prior)[0] < 0:
            faults.append(Fault(f"{where}: {path}.parameters.{key}", f"{prior} allows negative values"))
    sources = {key: item.source for key, item in table.parameters.items()}
    return ErrorModel(name, table.error, parsed, sources, table.offset, table.df or 0.0,
                      table.scale.value if table.scale else 1.0)


def load_scenario_spec(path: str | Path, model: Model, of_fit: Mapping[str, Endpoint] | None = None) -> ScenarioSpec:
    """A scenario spec, checked against the model of the record it will be used with.

    Args:
        of_fit: the endpoints of the fit, for a scenario that has none of its own.

    Raises:
        InputError: every fault of the file.
    """
    return read_scenario_spec(read_text(Path(path)), Path(path), model, of_fit)


def read_scenario_spec(text: str, path: Path, model: Model, of_fit: Mapping[str, Endpoint] | None = None,
                       ) -> ScenarioSpec:
    """`load_scenario_spec` of a text that is not, or not yet, the file of that path."""
    faults: list[Fault] = []
    document = parse_document(text, ScenarioDocument, str(path))
    arms = tuple(read_arm(str(path), name, table, model, faults) for name, table in document.arms.items())
    if not arms:
        faults.append(Fault(f"{path}: arms", "no arm"))
    faults += reference_faults(str(path), document.reference, list(document.arms))
    faults += visit_faults(f"{path}: visits", document.visits, model.start)
    dose_range = read_dose_range(str(path), document.dose_response, {arm.name: arm.doses for arm in arms},
                                 {arm.name: arm.covariates for arm in arms}, model, faults)
    competing = {name: read_risk(str(path), name, table, model, faults) for name, table in document.competing.items()}
    endpoints = read_endpoints(str(path), document.endpoints, model, faults, document.visits)
    if not document.endpoints:
        endpoints = with_visits(str(path), of_fit or {}, document.visits, faults)
    faults += horizon_faults(str(path), arms, endpoints, document.horizon)
    population = read_population(path, document.population, model, faults)
    faults += _dose_error_faults(str(path), document.dose_error, model)
    ensemble = read_ensemble(path, document.ensemble, faults)
    if faults:
        raise InputError(faults)
    return ScenarioSpec(document.title, digest(text), arms, document.subjects, document.draws, document.seed,
                        document.horizon, endpoints, competing, document.reference, dose_range, population,
                        {name: table.sd for name, table in document.dose_error.items()}, ensemble)


def _dose_error_faults(where: str, tables: Iterable[str], model: Model):
    for name in tables:
        if name not in model.inputs:
            yield Fault(f"{where}: dose_error.{name}", f"the model has no input '{name}'{closest(name, model.inputs)}",
                        f"inputs: {', '.join(model.inputs)}")
        elif delivered(name) in model.parameters:
            yield Fault(f"{where}: dose_error.{name}", "the fit has an error of these doses, which acts here too",
                        "leave the table out")


def horizon_faults(where: str, arms: Iterable[Arm], endpoints: Mapping[str, Endpoint], horizon: float | None):
    """Endpoints that end before an arm begins, or after the scenario does."""
    for name, endpoint in endpoints.items():
        for arm in arms:
            first = min((dose.time for dose in arm.doses), default=-float("inf"))
            if first >= endpoint.horizon:
                yield Fault(f"{where}: arms.{arm.name}", f"its first dose, on day {first:g}, is not before the horizon "
                            f"of endpoint {name}, day {endpoint.horizon:g}", "set a later horizon or an earlier dose")
        if horizon is not None and endpoint.horizon > horizon:
            yield Fault(f"{where}: horizon", f"endpoint {name} looks on to day {endpoint.horizon:g}, and the scenario "
                        f"ends on day {horizon:g}", "set a later horizon here, or an earlier one there")


def read_arm(where: str, name: str, table: ArmTable, model: Model, faults: list[Fault], section: str = "arms") -> Arm:
    """An arm with its doses checked against the model; what is wrong is added to `faults`."""
    path, doses = f"{where}: {section}.{name}", list[Dose]()
    for k, item in enumerate(table.doses):
        dose = Dose(item.day, item.input or next(iter(model.inputs), ""), item.amount, item.duration)
        faults.extend(dose_faults(f"{path}.doses.{k}", dose, model))
        if (item.times > 1) != (item.every is not None):
            faults.append(Fault(f"{path}.doses.{k}", "of times and every, one is missing",
                                "for example times = 3, every = 14"))
        doses += repeat(dose, item.times - 1, item.every or 0.0)
    for covariate, value in table.covariates.items():
        if _known(where, f"{section}.{name}.covariates", covariate, model.covariates, "covariate", faults):
            faults += covariate_faults(f"{path}.covariates.{covariate}", covariate, value, model)
    return Arm(name, table.label or name, tuple(doses), dict(table.covariates))
