"""What was done otherwise than planned is found, and nothing else."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from thymodel.documents.analysis_plan import PlannedFitTable, load_plan
from thymodel.documents.spec import load_fit_spec
from thymodel.results.deviations import NO_REASON, differences, find_deviations, not_planned
from thymodel.results.record import load_record

pytestmark = pytest.mark.requirement("REQ-REP-04")

EXAMPLE = Path(__file__).resolve().parents[2] / "fits" / "reset02_design"


@pytest.fixture(scope="module")
def record():
    return load_record(EXAMPLE)


@pytest.fixture(scope="module")
def spec(record):
    return record.spec


@pytest.fixture(scope="module")
def plan(record):
    return load_plan(record.folder / "plan.toml").document


def changed(plan, **fit):
    """The plan with other intentions for the fit."""
    content = plan.fit.model_dump(exclude_none=True) | fit
    return plan.model_copy(update={"fit": PlannedFitTable(**content)})


def endpoints(plan, **changes):
    found = {name: item.model_dump(exclude_none=True) for name, item in plan.fit.endpoints.items()}
    return found | changes


def test_the_example_did_as_planned(plan, record):
    assert find_deviations(plan, record) == []


def test_other_data_are_a_deviation_and_data_that_were_not_yet_there_are_none(plan, record):
    [one] = find_deviations(changed(plan, data="0" * 64), record)
    assert one.what == "data" and one.done.endswith(record.content["data"]["sha256"][:16])
    assert find_deviations(changed(plan, data="not yet collected"), record) == []


def test_endpoints_that_were_added_dropped_or_changed_are_deviations(plan, spec):
    wanted = endpoints(plan, cd4_500={"marker": "cd4", "threshold": 500, "unit": "cell/uL"},
                       cd4_200=endpoints(plan)["cd4_200"] | {"threshold": 250.0, "by": [100.0]})
    del wanted["cd4_50"]
    found = {one.what: (one.planned, one.done) for one in differences(changed(plan, endpoints=wanted), spec)}
    assert found == {"endpoint cd4_500 dropped": ("cd4 above 500 cell/uL", "not in the spec"),
                     "endpoint cd4_50 added": ("not planned", "CD4 above 50/uL for 14 days"),
                     "endpoint cd4_200: threshold": ("250", "200"), "endpoint cd4_200: by": ("100", "100, 180")}


def test_what_is_estimated_beside_the_plan_has_the_reason_of_the_spec(plan, spec):
    [one] = differences(changed(plan, estimate=[n for n in plan.fit.estimate if n != "f_th"]), spec)
    assert one.what == "f_th estimated" and one.reason.startswith("carries the product kth")
    [other] = differences(changed(plan, estimate=[*plan.fit.estimate, "k_c"]), spec)
    assert (other.what, other.done, other.reason) == ("k_c not estimated", "fixed at 0.7", NO_REASON)


def test_a_prior_is_compared_by_what_it_means(plan, spec):
    same = changed(plan, priors=plan.fit.priors | {"f_th": "lognormal(sd=1.0340, median=0.60)"})
    assert differences(same, spec) == []
    [one] = differences(changed(plan, priors=plan.fit.priors | {"eta": "lognormal(median=0.1, sd=1)"}), spec)
    assert (one.what, one.done) == ("prior of eta", "lognormal(median=0.1, sd=1.118)")
    assert one.reason.startswith("carries the ratio eta/k_c")
    [other] = differences(changed(plan, priors={"k_c": "lognormal(median=0.7, sd=1)"}), spec)
    assert other.done == "fixed at 0.7"


def test_a_value_that_was_to_be_fixed_elsewhere_is_a_deviation(plan, spec):
    assert differences(changed(plan, fixed={"k_c": 0.7}), spec) == []
    found = [(one.what, one.planned, one.done) for one in differences(changed(plan, fixed={"k_c": 0.8}), spec)]
    assert found == [("k_c fixed", "0.8", "0.7")]


def test_another_error_model_is_a_deviation(plan, spec):
    found = differences(changed(plan, observables=plan.fit.observables | {"cd4": "lognormal", "trec": "poisson"}), spec)
    assert {(one.what, one.planned, one.done) for one in found} == {
        ("error model of cd4", "lognormal", "student_t"), ("error model of trec", "poisson", "not used")}


def test_a_joint_prior_that_was_not_planned_is_a_deviation_with_its_reason(plan, spec):
    taken = SimpleNamespace(record="../other", reason="the same product")
    borrowing = replace(spec, prior_from=taken, borrowed=SimpleNamespace())
    found = differences(changed(plan, priors={}), borrowing)
    assert [(one.planned, one.done, one.reason) for one in found] == [("none", "../other", "the same product")]


def test_rows_excluded_for_a_reason_that_was_not_planned_are_counted(plan, record):
    rows = [{"row": k, "id": "1", "time": "3", "reason": reason} for k, reason in enumerate(
        ["MDV = 1", "DV missing", "DV missing"])]
    other = replace(record, content=record.content | {"data": record.content["data"] | {"exclusions": rows}})
    found = find_deviations(changed(plan, exclusions={"MDV = 1": "no sample"}), other)
    assert [(one.what, one.done) for one in found] == [("exclusion: DV missing", "2 rows")]
    assert find_deviations(changed(plan).model_copy(update={"fit": plan.fit.model_copy(update={"exclusions": None})}),
                      other) == []


def test_settings_from_the_command_line_and_other_methods_are_deviations(plan, record):
    sampler = record.content["sampler"] | {"overrides": {"draws": 100}, "method": "laplace"}
    other = replace(record, content=record.content | {"sampler": sampler})
    assert {one.what for one in find_deviations(plan, other)} == {"method", "sampler: draws"}


def test_a_plan_that_fixes_little_says_what_it_leaves_open(plan, spec):
    little = plan.model_copy(update={"fit": PlannedFitTable(data="not yet collected")})
    assert not_planned(little) == ["endpoints", "estimated parameters", "error models", "priors", "fixed values",
                                   "exclusions"]
    assert differences(little, spec) == []


def test_a_spec_without_a_plan_of_its_own_can_be_compared(plan, tiny_study):
    found = {one.what for one in differences(changed(plan), load_fit_spec(tiny_study))}
    assert {"k estimated", "f_th not estimated", "endpoint back added", "endpoint rte4_2 dropped"} <= found
