"""A study as planned or as carried out, without its values: who is treated how, and what is measured when.

Data say it by their rows; before there are any, a design does.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from thymodel.documents.data import StudyData
from thymodel.documents.design import Design, TrialArm
from thymodel.documents.priors import Prior
from thymodel.documents.regimen import Course, Dose
from thymodel.documents.spec import FitSpec
from thymodel.errors import Fault, InputError
from thymodel.inference.population import quantile

Limits = Mapping[str, tuple[float, float]]  # observable -> LLOQ and upper limit; -inf and inf where there is none


@dataclass(frozen=True)
class Group:
    """`count` subjects with the same doses, covariates and measurement times (observable -> times)."""

    arm: str
    doses: tuple[Dose, ...]
    covariates: Mapping[str, Course]
    times: Mapping[str, tuple[float, ...]]
    count: int


@dataclass(frozen=True)
class Plan:
    """Groups of subjects, limits of the assays, and in words where all this was found."""

    groups: tuple[Group, ...]
    limits: Limits
    source: str


def plan_of_data(spec: FitSpec, data: StudyData, source: str) -> Plan:
    """The visits of a study. An assay's limits are those at which it reported a value as beyond: the highest LLOQ and
    the lowest upper limit of any row.

    Raises:
        InputError: no row holds an observable of the spec.
    """
    groups, limits = [], {name: (-math.inf, math.inf) for name in spec.model.observables}
    for subject in data.subjects:
        times: dict[str, list[float]] = {}
        for o in subject.observations:
            if o.observable in spec.likelihood:
                times.setdefault(o.observable, []).append(o.time)
                low, high = limits[o.observable]
                limits[o.observable] = (max(low, o.value) if o.censoring == 1 else low,
                                        min(high, o.value) if o.censoring == -1 else high)
        groups.append(Group(subject.arm, subject.doses, dict(subject.covariates),
                            {name: tuple(found) for name, found in times.items()}, 1))
    if not any(group.times for group in groups):
        raise InputError([Fault(source, f"no row to learn from: none holds {', '.join(spec.likelihood)}",
                                "look at DVID and MDV of the data, and at [likelihood] of the spec")])
    return Plan(tuple(groups), limits, source)


def plan_of_design(spec: FitSpec, design: Design, source: str) -> Plan:
    """The visits of a design as planned, nothing missing. A covariate with a distribution takes its evenly spaced
    quantiles within each arm.

    Raises:
        InputError: the design is for another model, or lacks an observable of the spec.
    """
    faults = []
    if design.model.digest != spec.model.digest:
        faults.append(Fault(source, f"a design for {design.model.name}, not for the model of {spec.path}"))
    faults += [Fault(f"{source}: error", f"{name} is not measured, but the spec has a likelihood for it",
                     f"add [error.{name}]") for name in spec.likelihood if name not in design.assays]
    if faults:
        raise InputError(faults)
    groups = [group for arm in design.arms for group in _arm_groups(spec, design, arm)]
    limits = {name: (assay.lloq, assay.uloq) for name, assay in design.assays.items()}
    none = {name: (-math.inf, math.inf) for name in spec.model.observables}
    return Plan(tuple(groups), none | limits, source)


def _arm_groups(spec: FitSpec, design: Design, arm: TrialArm) -> list[Group]:
    times = {name: design.visits[name] for name in spec.likelihood}
    start = spec.model.start
    people = Counter(tuple(sorted(person.items())) for person in _covariates(spec, design, arm.subjects))
    return [Group(arm.name, arm.doses, {name: ((start, value),) for name, value in person}, times, count)
            for person, count in people.items()]


def _covariates(spec: FitSpec, design: Design, count: int) -> list[dict[str, float]]:
    """Each covariate's quantiles in an order of its own, so that two covariates do not rise together."""
    columns: dict[str, list[float]] = {}
    for k, (name, item) in enumerate(spec.model.covariates.items()):
        given = design.covariates.get(name, item.value)
        if isinstance(given, Prior):
            order = np.random.default_rng(k).permutation(count)
            columns[name] = [float(quantile(given, z)) for z in norm.ppf((order + 0.5) / count)]
        else:
            columns[name] = [float(given)] * count
    return [{name: values[k] for name, values in columns.items()} for k in range(count)]

