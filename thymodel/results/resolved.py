"""What the documents of a fit come to, as its record says it: every prior in force, units, endpoints."""

from typing import Any

from thymodel.documents.endpoint import Endpoint
from thymodel.documents.priors import Prior
from thymodel.documents.spec import FitSpec, MissingCovariate
from thymodel.inference.population import error_name, missing_name


def endpoint_content(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as the record says it: threshold and unit of the marker, days counted from the clock's start."""
    keys = ("label", "marker", "threshold", "unit", "sustained_for", "clock_start", "after_nadir", "horizon", "source")
    landmark = {"landmark": True} if endpoint.landmark else {}
    return {key: getattr(endpoint, key) for key in keys} | {"by": list(endpoint.by)} | landmark


def unit_of_quantities(spec: FitSpec) -> dict[str, str]:
    """Unit of every quantity of the table that has one; the rest are pure numbers."""
    found = {name: item.unit for name, item in spec.estimate.items()}
    found |= {name: item.unit for name, item in spec.derived.items()}
    for observable, error in spec.likelihood.items():
        if "additive" in error.parameters:
            found[f"sigma_additive_{observable}"] = spec.model.observables[observable].unit
    for name, item in spec.missing_covariates.items():
        names = [missing_name(name), f"typical_{name}", *([f"sd_{name}"] if item.family == "normal" else [])]
        found |= dict.fromkeys(names, spec.model.covariates[name].unit)
    timed = ("median", "restricted_mean", "spread_q05", "spread_q50", "spread_q95")
    return found | {f"{name}.{quantity}": spec.model.time for name in spec.endpoints for quantity in timed}


def priors_in_force(spec: FitSpec) -> list[dict[str, Any]]:
    """Every prior in force with its source, whatever document it stands in; a value that is stated stands as one."""
    rows = [{"name": name, "unit": e.unit, "prior": str(e.prior), "source": e.source, "verified": e.verified,
             "reason": e.reason} for name, e in spec.estimate.items()]
    plain = {"unit": "1", "verified": False, "reason": ""}
    rows += [{"name": f"omega_{name}", **plain, "prior": _as_prior(b.sd), "source": b.source}
             for name, b in spec.between_subject.items()]
    rows += [{"name": f"beta_{name}", **plain, "prior": str(c.prior), "source": c.source}
             for name, c in spec.covariate_effects.items()]
    rows += [{"name": f"beta_across_{name}", **plain, "prior": str(c.prior),
              "source": f"of published cohorts: {c.source}"}
             for name, c in spec.covariate_effects.items() if spec.published and not c.aggregate]
    rows += [{"name": f"tau_{name}", **plain, "prior": str(b.sd), "source": f"between studies: {b.source}"}
             for name, b in spec.study_effects.items()]
    rows += [{"name": f"gamma_{name}", **plain, "prior": str(b.sd), "source": f"between occasions: {b.source}"}
             for name, b in spec.between_occasion.items()]
    rows += [{"name": key, **plain, "unit": unit_of_quantities(spec).get(key, "1"), "prior": _as_prior(value),
              "source": f"{_what_is_unknown(name, item)}: {item.source}"}
             for name, item in spec.missing_covariates.items() for key, value in item.numbers.items()]
    if spec.correlated:
        rows.append({"name": "corr", **plain, "prior": f"lkj(shape={spec.correlation_shape:g})",
                     "source": f"random effects of {', '.join(spec.correlated)}"})
    rows += [{"name": "corr_residual", **plain, "prior": f"lkj(shape={block.shape:g})",
              "source": f"residuals of {', '.join(block.observables)}: {block.source}"}
             for block in spec.shared_errors]
    for observable, error in spec.likelihood.items():
        unit = {"additive": spec.model.observables[observable].unit}
        rows += [{"name": f"{key} of {observable}", **plain, "unit": unit.get(key, "1"), "prior": str(prior),
                  "source": error.sources[key]} for key, prior in error.parameters.items()]
    return rows if spec.borrowed is None else [_joint_prior(spec, row) for row in rows]


def _what_is_unknown(name: str, item: MissingCovariate) -> str:
    if item.kind:
        return f"share of the second kind of {name}"
    return f"{item.family} distribution of {name}, missing in some"


def _joint_prior(spec: FitSpec, row: dict[str, Any]) -> dict[str, Any]:
    """The row of a parameter whose own prior is part of a mixture with what a record says."""
    assert spec.borrowed is not None
    taken, weight = spec.borrowed, spec.borrowed.own_weight
    key, _, observable = str(row["name"]).partition(" of ")
    if (error_name(observable, key) if observable else key) not in taken.names:
        return row
    own = f" + {weight:g} {row['prior']}" if weight else ""
    return {**row, "prior": f"{1 - weight:g} posterior of {taken.source['name']}, joint" + own,
            "source": f"record {taken.source['name']}, digest {taken.source['digest'][:12]}; of the own prior: "
            f"{row['source']}", "reason": taken.source["reason"] or row["reason"]}


def _as_prior(value: Prior | float) -> str:
    return str(value) if isinstance(value, Prior) else f"stated: {value:g}"
