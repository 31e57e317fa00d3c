"""What was done otherwise than planned, found by comparison of the plan with the spec and the record."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from thymodel.documents.analysis_plan import NOT_COLLECTED, PlanDocument, PlannedEndpointTable
from thymodel.documents.priors import Prior, parse_prior
from thymodel.documents.spec import FitDocument, FitSpec
from thymodel.documents.toml import parse_document
from thymodel.inference.approximation import NUTS
from thymodel.inference.population import layout
from thymodel.results.record import FitRecord

NO_REASON = "none given in the spec: for the sponsor"
NOTHING = "none"


@dataclass(frozen=True)
class Deviation:
    """`reason` is the spec's own, where it has one."""

    what: str
    planned: str
    done: str
    reason: str = NO_REASON


def find_deviations(plan: PlanDocument, record: FitRecord) -> list[Deviation]:
    """Everything in which a record is not what its plan says."""
    content = record.content
    return [*_data(plan, content), *differences(plan, record.spec), *_exclusions(plan, content["data"]["exclusions"]),
            *_run(content["sampler"], record.method)]


def differences(plan: PlanDocument, spec: FitSpec) -> list[Deviation]:
    """Everything in which a spec is not what its plan says."""
    return [*_endpoints(plan, spec), *_estimated(plan, spec), *_observables(plan, spec), *_priors(plan, spec),
            *_fixed(plan, spec)]


def not_planned(plan: PlanDocument) -> list[str]:
    """Parts of a fit of which the plan says nothing, so that nothing is compared."""
    fit = plan.fit
    return [name for name, value in (("endpoints", fit.endpoints), ("estimated parameters", fit.estimate),
                                     ("error models", fit.observables), ("priors", fit.priors or None),
                                     ("fixed values", fit.fixed or None), ("exclusions", fit.exclusions))
            if value is None]


def override_reasons(spec: FitSpec) -> dict[str, str]:
    """Parameter -> why the spec departs from the model file."""
    document = parse_document(spec.text, FitDocument, str(spec.path))
    return {name: item.reason for name, item in document.override.items()}


def _data(plan: PlanDocument, content: Mapping[str, Any]) -> Iterable[Deviation]:
    found, planned = content["data"]["sha256"], plan.fit.data
    if planned not in (NOT_COLLECTED, found):
        yield Deviation("data", f"sha256 {planned[:16]}", f"sha256 {found[:16]}" if found else "no patients")


def _endpoints(plan: PlanDocument, spec: FitSpec) -> Iterable[Deviation]:
    if plan.fit.endpoints is None:
        return
    for name, wanted in plan.fit.endpoints.items():
        if name not in spec.endpoints:
            yield Deviation(f"endpoint {name} dropped", _told(wanted), "not in the spec")
            continue
        for key, value in wanted.model_dump(exclude_none=True).items():
            own = getattr(spec.endpoints[name], key)
            found = list(own) if isinstance(own, tuple) else own
            if found != value:
                yield Deviation(f"endpoint {name}: {key}", _plain(value), _plain(found))
    for name, endpoint in spec.endpoints.items():
        if name not in plan.fit.endpoints:
            yield Deviation(f"endpoint {name} added", "not planned", endpoint.label or name)


def _told(endpoint: PlannedEndpointTable) -> str:
    return f"{endpoint.marker} above {endpoint.threshold:g} {endpoint.unit}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or NOTHING
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _estimated(plan: PlanDocument, spec: FitSpec) -> Iterable[Deviation]:
    planned, reasons = plan.fit.estimate, override_reasons(spec)
    if planned is None:
        return
    for name in spec.estimate:
        if name not in planned:
            yield Deviation(f"{name} estimated", "not planned", str(spec.estimate[name].prior),
                            reasons.get(name) or NO_REASON)
    for name in planned:
        if name not in spec.estimate:
            fixed = f"fixed at {spec.fixed[name]:g}" if name in spec.fixed else "not in the model"
            yield Deviation(f"{name} not estimated", "estimated", fixed, reasons.get(name) or NO_REASON)


def _observables(plan: PlanDocument, spec: FitSpec) -> Iterable[Deviation]:
    if plan.fit.observables is None:
        return
    found = {name: error.family for name, error in spec.likelihood.items()}
    for name in dict.fromkeys([*plan.fit.observables, *found]):
        planned, done = plan.fit.observables.get(name, "not planned"), str(found.get(name, "not used"))
        if planned != done:
            yield Deviation(f"error model of {name}", planned, done)


def _priors(plan: PlanDocument, spec: FitSpec) -> Iterable[Deviation]:
    lay, reasons = layout(spec, ()), override_reasons(spec)
    taken = spec.prior_from
    if (taken.record if taken else None) != plan.fit.prior_from:
        yield Deviation("joint prior taken from a record", plan.fit.prior_from or NOTHING,
                        taken.record if taken else NOTHING, (taken.reason if taken else "") or NO_REASON)
    for name, text in plan.fit.priors.items():
        wanted, found = parse_prior(text), lay.priors.get(name)
        if found != wanted:
            yield Deviation(f"prior of {name}", str(wanted), _in_force(name, found, spec, lay.known),
                            reasons.get(name) or NO_REASON)


def _in_force(name: str, found: Prior | None, spec: FitSpec, known: Mapping[str, float]) -> str:
    if found is not None:
        return str(found)
    value = {**spec.fixed, **known}.get(name)
    return "not in the fit" if value is None else f"fixed at {value:g}"


def _fixed(plan: PlanDocument, spec: FitSpec) -> Iterable[Deviation]:
    values, reasons = {**spec.fixed, **layout(spec, ()).known}, override_reasons(spec)
    for name, wanted in plan.fit.fixed.items():
        if values.get(name) != wanted:
            found = values.get(name)
            done = f"{found:g}" if found is not None else "estimated" if name in spec.estimate else "not in the fit"
            yield Deviation(f"{name} fixed", f"{wanted:g}", done, reasons.get(name) or NO_REASON)


def _exclusions(plan: PlanDocument, rows: Iterable[Mapping[str, Any]]) -> Iterable[Deviation]:
    if plan.fit.exclusions is None:
        return
    for reason, count in Counter(str(row["reason"]) for row in rows).items():
        if reason not in plan.fit.exclusions:
            yield Deviation(f"exclusion: {reason}", "not planned", f"{count} row{'s' * (count > 1)}")


def _run(sampler: Mapping[str, Any], method: str) -> Iterable[Deviation]:
    if method != NUTS:
        yield Deviation("method", NUTS, method)
    for key, value in sampler.get("overrides", {}).items():
        yield Deviation(f"sampler: {key}", "as in the spec", f"{value}, by the command line")
