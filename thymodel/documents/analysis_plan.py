"""The analysis plan: what is asked, what would count as an answer, and what is planned, written before a fit.

`plan.toml` lies beside `spec.toml`. A fit hashes it before anything is sampled and keeps a copy in its record; what was
found is then set beside what was planned. What only a person can say (how much depends on the model, how bad a wrong
decision would be) may be left out and is then marked so, never guessed.

Source: the order of the questions is that of the assessment table of ICH M15, General principles for model-informed
drug development.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from thymodel.documents import priors, units
from thymodel.documents.expressions import closest
from thymodel.documents.model import Number, Text
from thymodel.documents.spec import NonNegative, Positive
from thymodel.documents.toml import Table, digest, document_text_of, parse_document, read_document
from thymodel.errors import Fault, InputError

FILE = "plan.toml"
NOT_COLLECTED = "not yet collected"
Share = Annotated[float, pydantic.Strict(False), pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
Names = Annotated[list[Text], pydantic.Field(min_length=1)]
# categories of credibility evidence of FDA's guidance on computational modeling and simulation (November 2023)
CategoryKey = Literal["code_verification", "model_calibration", "bench_test_validation", "in_vivo_validation",
                      "population_based_validation", "emergent_model_behavior", "model_plausibility",
                      "calculation_verification"]


# --- as written: criteria ------------------------------------------------------------------------------------


class CriterionTable(Table):
    """`rationale`: why this must hold for the question; `appropriateness`: why this measure and this limit."""

    rationale: Text
    appropriateness: Text


class GatesCriterion(CriterionTable):
    """Sampling: of every population quantity and derived one, the worst; divergences after warm-up."""

    kind: Literal["gates"]
    rhat: Positive | None = None
    ess_bulk: Positive | None = None
    ess_tail: Positive | None = None
    divergences: Annotated[int, pydantic.Field(ge=0)] | None = None


class PrecisionCriterion(CriterionTable):
    """SD over mean (`cv_at_most`) or width of the 90% interval in the quantity's unit (`width_at_most`)."""

    kind: Literal["precision"]
    quantities: Names
    cv_at_most: Positive | None = None
    width_at_most: Positive | None = None


class PredictiveCriterion(CriterionTable):
    """The share of an observable's values, or of the steps of an endpoint's curve, inside the predictive interval."""

    kind: Literal["predictive"]
    of: Text
    interval: Literal[50, 90] = 90
    share_at_least: Share
    share_at_most: Share = 1.0


class NoDepartureCriterion(CriterionTable):
    """The p value of all questions of check-fit together."""

    kind: Literal["no_departure"]
    p_above: Share


class ContractionCriterion(CriterionTable):
    """Posterior SD over prior SD, on the scale on which the prior is normal."""

    kind: Literal["contraction"]
    parameters: Names
    at_most: Positive


class PriorSensitivityCriterion(CriterionTable):
    """Power-scaling of all priors: cumulative Jensen-Shannon distance per doubling of the power."""

    kind: Literal["prior_sensitivity"]
    quantities: Names
    at_most: Positive


class LeaveOneOutCriterion(CriterionTable):
    """The share of units whose Pareto k is above `pareto_k`, where importance weights cannot foretell them."""

    kind: Literal["leave_one_out"]
    by: Literal["subject", "observation", "cohort", "dose"] = "subject"
    pareto_k: Positive = 0.7
    share_at_most: Share


class ProbabilityCriterion(CriterionTable):
    """The posterior probability that a quantity is above or below a value, which is in the quantity's unit."""

    kind: Literal["probability"]
    quantity: Text
    above: Number | None = None
    below: Number | None = None
    at_least: Share


class ExtrapolationCriterion(CriterionTable):
    """The extrapolation verdict on the fit's own arms; all of them where none is named."""

    kind: Literal["extrapolation"]
    arms: list[Text] = []
    at_most: Literal["interpolation", "mild"]


class JudgementCriterion(CriterionTable):
    """What no program can decide: a person does."""

    kind: Literal["judgement"]
    statement: Text


Criterion = (GatesCriterion | PrecisionCriterion | PredictiveCriterion | NoDepartureCriterion | ContractionCriterion
             | PriorSensitivityCriterion | LeaveOneOutCriterion | ProbabilityCriterion | ExtrapolationCriterion
             | JudgementCriterion)


# --- as written: the rest ------------------------------------------------------------------------------------


class RatingTable(Table):
    level: Literal["L", "M", "H"]
    reason: Text


class PlannedEndpointTable(Table):
    """The endpoint that the spec is to have; keys that are left out are not compared."""

    marker: Text
    threshold: Number
    unit: Text
    sustained_for: NonNegative | None = None
    clock_start: Number | None = None
    horizon: Number | None = None
    by: list[Number] | None = None


class PlannedFitTable(Table):
    """What is left out is not fixed by the plan, and nothing is compared there; [] or {} means that there is none.

    `data` is a sha256 or "not yet collected". `priors` and `fixed` name quantities as `table.csv` does, `observables`
    their error models, `exclusions` the reasons that the data file gives, each with its rationale. `prior_from` is the
    record that a joint prior is taken from, compared in any case.
    """

    data: str
    endpoints: dict[str, PlannedEndpointTable] | None = None
    estimate: list[Text] | None = None
    observables: dict[str, Text] | None = None
    priors: dict[str, Text] = {}
    prior_from: Text | None = None
    fixed: dict[str, Number] = {}
    exclusions: dict[str, Text] | None = None


class SensitivityTable(Table):
    """`run`: where it is or how it is made: a record, a scenario, or a command that begins with `thymodel`."""

    what: Text
    run: Text


class AssumptionTable(Table):
    """`probed_by`: ids of [sensitivity]; `status` is that of the day on which the plan was written."""

    statement: Text
    reason: Text
    kind: Literal["structure", "parameter", "prior", "statistical", "data", "endpoint", "population"]
    probed_by: list[Text] = []
    status: Literal["to be probed", "probed before", "accepted"]


class CredibilityTable(Table):
    """A person's gradation of one category of evidence, on a scale that the person names, and what is known to lack."""

    gradation: Text
    reason: Text
    gap: str = ""


class PlanDocument(Table):
    title: Text
    question: Text
    context_of_use: Text
    remarks: list[Text] = []
    model_influence: RatingTable | None = None
    consequence: RatingTable | None = None
    model_risk: RatingTable | None = None
    model_impact: RatingTable | None = None
    fit: PlannedFitTable
    criteria: dict[str, Annotated[Criterion, pydantic.Field(discriminator="kind")]]
    sensitivity: dict[str, SensitivityTable] = {}
    assumptions: dict[str, AssumptionTable] = {}
    credibility: dict[CategoryKey, CredibilityTable] = {}


# --- as used -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A checked plan; `content` are the bytes of its file, of which `digest` is the sha256."""

    path: Path
    content: bytes
    document: PlanDocument

    @property
    def digest(self) -> str:
        return digest(self.content)


def load_plan(path: str | Path) -> Plan:
    """An analysis plan from `plan.toml`.

    Raises:
        InputError: every fault of the file.
    """
    path = Path(path)
    content = read_document(path)  # once: what is hashed must be what was understood
    document = parse_document(document_text_of(content, str(path)), PlanDocument, str(path))
    if faults := list(_faults(str(path), document)):
        raise InputError(faults)
    return Plan(path, content, document)


def _faults(where: str, document: PlanDocument) -> Iterable[Fault]:
    if not document.criteria:
        yield Fault(f"{where}: criteria", "none", "add [criteria.NAME]: what must hold before the answer may be used")
    for section in ("criteria", "sensitivity", "assumptions"):
        for name in getattr(document, section):
            if not name.isidentifier():
                yield Fault(f"{where}: {section}.{name}", f"'{name}' is no id", "use letters, digits and underscores")
    for name, criterion in document.criteria.items():
        yield from _criterion_faults(f"{where}: criteria.{name}", criterion)
    yield from _fit_faults(f"{where}: fit", document.fit)
    for name, item in document.assumptions.items():
        path = f"{where}: assumptions.{name}"
        for probe in item.probed_by:
            if probe not in document.sensitivity:
                yield Fault(f"{path}.probed_by", f"no sensitivity analysis '{probe}'"
                            f"{closest(probe, document.sensitivity)}", f"add [sensitivity.{probe}]")
        if item.status != "accepted" and not item.probed_by:
            yield Fault(f"{path}.probed_by", f"missing, and its status is '{item.status}'",
                        'name a [sensitivity.NAME], or say status = "accepted"')


def _criterion_faults(path: str, criterion: Criterion) -> Iterable[Fault]:
    match criterion:
        case GatesCriterion():
            given = [criterion.rhat, criterion.ess_bulk, criterion.ess_tail, criterion.divergences]
            if all(value is None for value in given):
                yield Fault(path, "no gate", "say one or more of rhat, ess_bulk, ess_tail, divergences")
        case PrecisionCriterion():
            yield from _one_of(path, {"cv_at_most": criterion.cv_at_most, "width_at_most": criterion.width_at_most})
        case ProbabilityCriterion():
            yield from _one_of(path, {"above": criterion.above, "below": criterion.below})
        case PredictiveCriterion() if criterion.share_at_least > criterion.share_at_most:
            yield Fault(f"{path}.share_at_most", f"{criterion.share_at_most:g} is below share_at_least, "
                        f"{criterion.share_at_least:g}")


def _one_of(path: str, given: Mapping[str, float | None]) -> Iterable[Fault]:
    there = [key for key, value in given.items() if value is not None]
    if len(there) != 1:
        yield Fault(path, f"{' and '.join(there) or 'neither'} given, and one is needed", f"say {' or '.join(given)}")


def _fit_faults(path: str, fit: PlannedFitTable) -> Iterable[Fault]:
    sha = len(fit.data) == 64 and set(fit.data) <= set("0123456789abcdef")
    if fit.data != NOT_COLLECTED and not sha:
        yield Fault(f"{path}.data", f"{fit.data[:60]!r} is no sha256", f'give the file\'s, or "{NOT_COLLECTED}"')
    for name, text in fit.priors.items():
        try:
            priors.parse_prior(text)
        except ValueError as error:
            yield Fault(f"{path}.priors.{name}", str(error))
        if name in fit.fixed:
            yield Fault(f"{path}.fixed.{name}", "has a prior too", "leave one of them out")
    for name, endpoint in (fit.endpoints or {}).items():
        try:
            units.parse_unit(endpoint.unit)
        except ValueError as error:
            yield Fault(f"{path}.endpoints.{name}.unit", str(error))
    repeated = {name for name in fit.estimate or [] if (fit.estimate or []).count(name) > 1}
    yield from (Fault(f"{path}.estimate", f"'{name}' is named twice") for name in sorted(repeated))


def asked_quantities(criterion: Criterion) -> dict[str, list[str]]:
    """Key of a criterion -> names of quantities in it, as in `table.csv`; one without [arm] stands for all its arms."""
    match criterion:
        case PrecisionCriterion() | PriorSensitivityCriterion():
            return {"quantities": criterion.quantities}
        case ContractionCriterion():
            return {"parameters": criterion.parameters}
        case ProbabilityCriterion():
            return {"quantity": [criterion.quantity]}
    return {}
