"""A record beside its plan: criteria by its numbers, tables that invent nothing, checklists that are honest."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from thymodel import cli
from thymodel.documents.analysis_plan import PlanDocument, load_plan
from thymodel.errors import InputError, RecordError
from thymodel.results import criteria, report
from thymodel.results import record as records
from thymodel.results.assessment import as_json, assess
from thymodel.results.checks import Checks
from thymodel.results.criteria import MET, NOT_MET, OPEN, SPONSOR, Evidence, evaluate, load_evidence
from thymodel.results.planning import FixedPlan, plan_content
from thymodel.results.record import load_group, load_record

pytestmark = pytest.mark.requirement("REQ-REP-04")

FITS = Path(__file__).resolve().parents[2] / "fits"
WHY = {"rationale": "made up", "appropriateness": "made up"}


def reseal(folder: Path, **changes) -> None:
    content = json.loads((folder / "record.json").read_text(encoding="utf-8")) | changes
    content["digest"] = records._own_digest(content)
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The committed record as if it had been made with the plan beside it; do not write into it."""
    folder = Path(shutil.copytree(FITS / "reset02_design", tmp_path_factory.mktemp("planned") / "reset02_design"))
    plan, content = load_plan(folder / "plan.toml"), load_record(folder).content
    reseal(folder, plan=plan_content(FixedPlan(plan, "2026-01-01T00:00:00+00:00"), folder),
           files=content["files"] | {"plan.toml": plan.digest})
    return load_record(folder)


@pytest.fixture(scope="module")
def plan(record):
    return load_plan(record.folder / "plan.toml").document


@pytest.fixture(scope="module")
def checks(record):
    """Of check-fit, what criteria read: made-up numbers."""
    arm = {"observed": [0.0, 0.0, 0.5, 0.5, 1.0], "posterior": [[0, 0, 0], [0, 0, 0.1], [0.1, 0.4, 0.6],
                                                                [0.2, 0.5, 0.7], [0.3, 0.6, 0.9]]}
    row = {"count": 200, "inside": {"posterior": {"50": 0.45, "90": 0.925}}}
    return {"record": record.digest, "together": 0.04, "observables": {"rte4": row},
            "endpoints": {"rte4_2": {"arms": {"control": arm}}}}


@pytest.fixture(scope="module")
def scores(record):
    units = [{"unit": str(k), "pareto_k": k_hat} for k, k_hat in enumerate([0.1, 0.3, 0.75, None])]
    return {"digest": record.digest, "by": "subject", "units": units}


@pytest.fixture(scope="module")
def evidence(record, checks, scores):
    return Evidence(record, checks, (scores,))


@pytest.fixture
def quick(monkeypatch):
    """Without power-scaling, which takes the longest and has tests of its own."""
    def refuse(record):
        raise RecordError("left out")

    monkeypatch.setattr(criteria, "check_priors", refuse)


@pytest.fixture(scope="module")
def tables(record):
    return {table.key: table for table in assess(record)}


def judged(evidence, kind: str, **keys):
    document = PlanDocument.model_validate({
        "title": "t", "question": "q", "context_of_use": "c", "fit": {"data": "not yet collected"},
        "criteria": {"one": {"kind": kind, **keys, **WHY}}})
    return evaluate("one", document.criteria["one"], evidence)


def both_sides(evidence, kind: str, key: str, found: float, more_is_better: bool, **keys) -> None:
    """Met just on one side of what the record says, and not on the other."""
    step = 1e-6 * max(1.0, abs(found))
    easy, hard = (found - step, found + step) if more_is_better else (found + step, found - step)
    assert judged(evidence, kind, **keys, **{key: easy}).result == MET
    assert judged(evidence, kind, **keys, **{key: hard}).result == NOT_MET


# --- criteria ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, column, worst, more_is_better", [
    ("rhat", "rhat", "max", False), ("ess_bulk", "ess_bulk", "min", True), ("ess_tail", "ess_tail", "min", True)])
def test_gates_look_at_the_worst_population_quantity(evidence, record, key, column, worst, more_is_better):
    own = record.table[~record.table.index.str.startswith("re_")][column]
    both_sides(evidence, "gates", key, float(getattr(own, worst)()), more_is_better)


def test_divergences_are_counted(evidence, record):
    other = replace(evidence, record=replace(record, content=record.content | {
        "sampler": record.content["sampler"] | {"divergences": 3}}))
    assert [judged(other, "gates", divergences=limit).result for limit in (2, 3)] == [NOT_MET, MET]


def test_precision_is_of_the_widest_of_all_arms(evidence, record):
    rows = record.table[record.table.index.str.startswith("rte4_2.by_100[")]
    assert len(rows) == 4
    both_sides(evidence, "precision", "width_at_most", float((rows["q95"] - rows["q05"]).max()), False,
               quantities=["rte4_2.by_100"])
    row = record.table.loc["kth"]
    both_sides(evidence, "precision", "cv_at_most", row["sd"] / row["mean"], False, quantities=["kth"])


def test_a_time_that_some_draws_never_reach_has_no_precision(evidence):
    found = judged(evidence, "precision", quantities=["cd4_200.median[control]"], width_at_most=1e9)
    assert found.result == NOT_MET and "no bound" in found.found


def test_a_probability_is_the_share_of_the_draws(evidence, record):
    arms = load_group(record.folder / "derived.nc")["rte4_2.by_100"]
    share = float(np.mean(arms.sel(arm="dose_9").values > 0.8))
    assert 0.1 < share < 0.9
    both_sides(evidence, "probability", "at_least", share, True, quantity="rte4_2.by_100[dose_9]", above=0.8)
    least = min(float(np.mean(arms.sel(arm=arm).values < 0.8)) for arm in arms["arm"].values)
    both_sides(evidence, "probability", "at_least", least, True, quantity="rte4_2.by_100", below=0.8)


def test_contraction_is_the_sd_over_that_of_the_prior(evidence, record):
    k = record.layout.population.index("eta")  # standard normal under the prior
    kept = float(record.z[..., k].std(ddof=1))
    both_sides(evidence, "contraction", "at_most", kept, False, parameters=["eta", "f_th"])


def test_prior_sensitivity_is_that_of_the_priors_command(evidence, record):
    from thymodel.results.prior_sensitivity import check_priors

    table = check_priors(record).table.set_index("quantity")["prior"]
    both_sides(evidence, "prior_sensitivity", "at_most", float(table["eta"]), False, quantities=["eta", "cb"])


def test_shares_inside_the_predictive_interval_come_from_check_fit(evidence):
    both_sides(evidence, "predictive", "share_at_least", 0.925, True, of="rte4")
    both_sides(evidence, "predictive", "share_at_most", 0.45, False, of="rte4", interval=50, share_at_least=0.1)


def test_an_endpoint_counts_on_the_days_on_which_its_curve_rises(evidence):
    found = judged(evidence, "predictive", of="rte4_2", share_at_least=0.5)  # 0.5 in 0.1-0.6; 1.0 not in 0.3-0.9
    assert found.result == MET and found.found.startswith("50% of 2 steps")


def test_departures_are_judged_together(evidence):
    both_sides(evidence, "no_departure", "p_above", 0.04, True)


def test_units_that_cannot_be_foretold_are_counted_also_without_a_number(evidence):
    both_sides(evidence, "leave_one_out", "share_at_most", 0.5, False, by="subject")
    assert judged(evidence, "leave_one_out", by="cohort", share_at_most=0.5).result == OPEN


def test_extrapolation_is_the_worst_of_the_arms_that_are_asked_for(evidence, monkeypatch):
    from types import SimpleNamespace

    from thymodel.results.extrapolation import Level

    arms = {"control": SimpleNamespace(level=Level.interpolation), "dose_9": SimpleNamespace(level=Level.mild)}
    other = replace(evidence)
    other.__dict__["verdicts"] = SimpleNamespace(arms=arms)
    assert judged(other, "extrapolation", at_most="interpolation").result == NOT_MET
    assert judged(other, "extrapolation", at_most="interpolation", arms=["control"]).result == MET
    assert judged(other, "extrapolation", at_most="mild").result == MET
    assert judged(other, "extrapolation", at_most="mild", arms=["dose_12"]).result == OPEN


def test_a_judgement_is_left_to_a_person(evidence):
    assert judged(evidence, "judgement", statement="looks right").result == SPONSOR


@pytest.mark.parametrize("kind, keys, remedy", [
    ("no_departure", {"p_above": 0.05}, "thymodel check-fit"),
    ("leave_one_out", {"share_at_most": 0.1}, "thymodel compare"),
    ("precision", {"quantities": ["rte4_2.by_90"], "cv_at_most": 1}, "the record has no rte4_2.by_90")])
def test_what_is_not_at_hand_is_not_evaluated_and_says_what_to_do(record, kind, keys, remedy):
    found = judged(Evidence(record), kind, **keys)
    assert found.result == OPEN and remedy in found.found


def test_an_approximation_has_no_gates(evidence, record):
    other = replace(record, content=record.content | {"sampler": record.content["sampler"] | {"method": "laplace"}})
    found = judged(replace(evidence, record=other), "gates", rhat=1.01)
    assert found.result == OPEN and "APPROXIMATION" in found.found


# --- evidence from files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"record": "another"}', "[" * 100_000])
def test_checks_and_scores_that_are_no_such_thing_are_both_named(record, tmp_path, text):
    (tmp_path / "checks.json").write_text(text, encoding="utf-8")
    (tmp_path / "scores.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_evidence(record, tmp_path, tmp_path / "scores.json")
    assert [Path(fault.where).name for fault in caught.value.faults] == ["checks.json", "scores.json"]


def test_checks_of_another_record_are_refused(record, checks, tmp_path):
    (tmp_path / "checks.json").write_text(json.dumps(checks | {"record": "0" * 64}), encoding="utf-8")
    with pytest.raises(InputError, match="not the checks of this record"):
        load_evidence(record, tmp_path)


def test_checks_and_scores_of_this_record_are_taken(record, checks, scores, tmp_path):
    (tmp_path / "checks.json").write_text(json.dumps(checks), encoding="utf-8")
    (tmp_path / "scores.json").write_text(json.dumps({"records": [scores, {"digest": "0"}]}), encoding="utf-8")
    found = load_evidence(record, tmp_path, tmp_path / "scores.json")
    assert found.checks == checks and found.scores == (scores,)


@pytest.mark.parametrize("part", [
    {"observables": {"rte4": {"count": 200}}},
    {"observables": {"rte4": {"count": 2, "inside": {"posterior": {"90": "x"}}}}},
    {"observables": {"rte4": [1]}}, {"together": True},
    {"endpoints": {"rte4_2": {"arms": {"control": {"observed": [0, 1], "posterior": [[0, 0, 1]]}}}}},
    {"endpoints": {"rte4_2": {"arms": {"control": {"observed": [0], "posterior": [3]}}}}}])
def test_damaged_checks_of_this_record_are_refused(record, checks, tmp_path, part):
    (tmp_path / "checks.json").write_text(json.dumps(checks | part), encoding="utf-8")
    with pytest.raises(InputError, match="not the checks of this record"):
        load_evidence(record, tmp_path)


def test_a_pareto_k_that_is_no_number_is_refused(record, scores, tmp_path):
    odd = scores | {"units": [{"unit": "1", "pareto_k": "low"}]}
    (tmp_path / "scores.json").write_text(json.dumps({"records": [odd]}), encoding="utf-8")
    with pytest.raises(InputError, match="no scores of this record"):
        load_evidence(record, None, tmp_path / "scores.json")


def test_what_check_fit_writes_is_taken(tiny_fit, tmp_path):
    from thymodel.results.checks import check_fit

    written = check_fit(tiny_fit, tiny_fit.folder / "study.csv").content
    (tmp_path / "checks.json").write_text(json.dumps(written), encoding="utf-8")
    assert load_evidence(tiny_fit, tmp_path).checks == written


@pytest.mark.parametrize("inside", [None, float("nan")])
def test_an_observable_without_a_measurement_is_not_evaluated(evidence, checks, inside):
    empty = {"observables": {"rte4": {"count": 0, "inside": {"posterior": {"50": inside, "90": inside}}}}}
    found = judged(replace(evidence, checks=checks | empty), "predictive", of="rte4", share_at_least=0.1)
    assert found.result == OPEN and found.found == "no value of it was measured"


def test_a_probability_says_its_monte_carlo_error(evidence, record):
    import arviz as az

    held = load_group(record.folder / "derived.nc")["rte4_2.by_100"].sel(arm="dose_9").values > 0.8
    error = float(az.mcse(held.astype(float), method="mean"))
    found = judged(evidence, "probability", quantity="rte4_2.by_100[dose_9]", above=0.8, at_least=0.5).found
    assert found == f"{held.mean():.3g} (Monte-Carlo error {error:.1g})"
    sure = judged(evidence, "probability", quantity="rte4_2.by_100[dose_9]", above=-1.0, at_least=0.5).found
    assert sure == "1"


# --- tables --------------------------------------------------------------------------------------------------

ORDER = ["Question of interest", "Context of use", "Model influence", "Consequence of a wrong decision", "Model risk",
         "Model impact", "Technical criteria (at planning)", "Evaluation against the criteria (at submission)",
         "Outcome of the assessment"]


def test_the_m15_table_is_in_order_and_invents_no_rating(tables, plan):
    rows = dict(tables["m15_assessment"].rows)
    assert list(rows) == ORDER
    assert rows["Question of interest"] == plan.question
    assert [rows[name] for name in (*ORDER[2:6], ORDER[-1])] == [SPONSOR] * 5


def test_the_evaluation_counts_the_criteria(tables, plan):
    results = [row[-1] for row in tables["criteria"].rows]
    assert len(results) == len(plan.criteria) and set(results) <= {MET, NOT_MET, SPONSOR, OPEN}
    told = dict(tables["m15_assessment"].rows)[ORDER[7]]
    for result in set(results):
        assert f"{results.count(result)} {result}" in told


def test_ratings_of_the_plan_stand_as_they_were_written(record, tmp_path, quick):
    folder = Path(shutil.copytree(record.folder, tmp_path / "rated"))
    text = (folder / "plan.toml").read_text(encoding="utf-8").replace(
        "[fit]", 'model_risk = { level = "H", reason = "made up" }\n\n[fit]', 1)
    text += '\n[credibility.in_vivo_validation]\ngradation = "b of a to d"\nreason = "made up"\ngap = "few animals"\n'
    (folder / "plan.toml").write_text(text, encoding="utf-8")
    plan, content = load_plan(folder / "plan.toml"), record.content
    reseal(folder, plan=content["plan"] | {"sha256": plan.digest}, files=content["files"] | {"plan.toml": plan.digest})
    found = {table.key: table for table in assess(load_record(folder))}
    assert dict(found["m15_assessment"].rows)["Model risk"] == "H: made up"
    row = found["credibility"].rows[3]
    assert row[1] == "b of a to d: made up" and row[3] == "not done" and row[4].startswith("few animals")


def test_a_record_without_a_plan_has_the_same_tables_and_says_so():
    found = {table.key: table for table in assess(load_record(FITS / "published_controls"))}
    assert {content for _, content in found["m15_assessment"].rows} == {SPONSOR}
    assert found["criteria"].rows == () and "plan.toml" in found["criteria"].notes[-1]


def test_every_assumed_number_is_listed_and_counted(tables, record):
    names = {row[0] for row in tables["assumed_numbers"].rows}
    parameters, fixed = record.spec.model.parameters, record.content["fixed"]
    assert {name for name in fixed if not parameters[name].verified} <= names
    assert not {name for name in fixed if parameters[name].verified and "set equal" not in parameters[name].source
                } & names
    total = len(fixed) + len(record.content["priors"])
    assert tables["assumed_numbers"].notes[0].startswith(f"{len(names)} of {total} ")


def test_assumptions_of_plan_and_model_are_in_one_register(tables, plan, record):
    names = [row[0] for row in tables["assumptions"].rows]
    assert names == [*plan.assumptions, *record.spec.model.assumptions]


def test_planned_runs_are_looked_for(tables):
    states = {row[0]: row[3] for row in tables["sensitivity_runs"].rows}
    assert states == {"power_scaling": "command", "doses": "file", "niche_tipping": "command"}


def test_what_was_not_done_is_not_said_to_be_there(tables, record, checks):
    rows = {(row[0], row[1]): row[3] for row in tables["barg"].rows}
    assert rows["3 Posterior", "posterior predictive check"] == "not done"
    assert rows["5 Sensitivity", "to the priors, broad or informed"] == "there"  # by the criterion prior_dependence
    assert [row[3] for row in tables["robust"].rows] == ["there"] * 7
    states = {row[0]: row[3] for row in tables["m15_evidence"].rows}
    assert states["External validation"] == states["Performance"] == "not done"
    assert [row[3] for row in tables["credibility"].rows][2:5] == ["not done"] * 3


def test_checks_answer_what_only_they_answer(record, checks, tmp_path, quick):
    (tmp_path / "checks.json").write_text(json.dumps(checks), encoding="utf-8")
    found = {table.key: table for table in assess(record, tmp_path)}
    states = {row[0]: row[3] for row in found["m15_evidence"].rows}
    assert states["Performance"] == "there" and states["External validation"] == "not done"


def test_a_report_is_judged_by_what_it_computed_itself(record, checks, scores, quick):
    """A report with predictive checks in it that says "not evaluated: run the checks" contradicts itself."""
    computed = report.Computed(checks=Checks(record, checks), scores=(scores,))
    section = report._judged(record, computed)
    found = {block.table.key: block.table for block in section.blocks}
    results = {row[0]: row[-1] for row in found["criteria"].rows}
    assert results["one_patient"] == NOT_MET and results["predictive_checks"] == NOT_MET  # 2 of 4; p is 0.04
    assert results["rte_values"] == MET and results["rte_endpoint"] in (MET, NOT_MET)
    assert {row[0]: row[3] for row in found["m15_evidence"].rows}["Performance"] == "there"
    [said] = report._plan_sentences(section)
    named = set(", ".join(re.findall(r"\(([^)]*)\)", said)).split(", "))
    assert named == {name for name, result in results.items() if result != MET}
    without = {block.table.key: block.table for block in report._judged(record, report.QUICK).blocks}
    assert {row[-1] for row in without["criteria"].rows if row[0] in ("predictive_checks", "one_patient")} == {OPEN}


def test_no_table_names_a_place_on_this_machine(record, tables):
    cells = [cell for table in tables.values() for row in table.rows for cell in row]
    assert not any(str(record.folder) in cell for cell in cells)


def test_artefacts_that_are_files_of_the_record_are_there(tables, record):
    named = {name for key in ("barg", "robust", "m15_evidence") for row in tables[key].rows if row[3] == "there"
             for name in re.findall(r"[\w]+\.(?:json|toml|csv|nc)\b", row[2])}
    assert {"record.json", "spec.toml", "plan.toml", "posterior.nc", "thymus_core.toml"} <= named
    assert {name for name in named if not (record.folder / name).is_file()} == set()


def test_simulated_data_are_named_in_the_tables_and_in_json(tables, record):
    assert all("SIMULATED data." in tables[key].notes for key in ("m15_assessment", "criteria"))
    content = json.loads(as_json(record, list(tables.values())))
    assert content["simulated"] is True and [table["key"] for table in content["tables"]] == list(tables)


def test_a_changed_record_is_not_assessed(record, tmp_path):
    folder = Path(shutil.copytree(record.folder, tmp_path / "changed"))
    with open(folder / "plan.toml", "a", encoding="utf-8") as file:
        file.write("\n# later\n")
    with pytest.raises(RecordError, match="plan.toml"):
        assess(load_record(folder))


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_json():
    folder = str(FITS / "published_controls")
    printed = CliRunner().invoke(cli.app, ["plan", folder])
    assert printed.exit_code == 0 and "Assessment table of ICH M15" in printed.stdout
    told = CliRunner().invoke(cli.app, ["plan", folder, "--json"])
    assert told.exit_code == 0 and len(json.loads(told.stdout)["tables"]) == 10


def test_check_compares_a_plan_with_the_spec_beside_it(tmp_path):
    for name in ("plan.toml", "spec.toml", "thymus_core.toml"):
        shutil.copy(FITS / "reset02_design" / name, tmp_path)
    plan = tmp_path / "plan.toml"
    good = CliRunner().invoke(cli.app, ["check", str(plan)])
    assert good.exit_code == 0 and good.stdout.strip().endswith("plan.toml: good (plan, 12 criteria)")
    plan.write_text(plan.read_text(encoding="utf-8").replace("threshold = 200", "threshold = 250"), encoding="utf-8")
    differs = CliRunner().invoke(cli.app, ["check", str(plan)])
    assert differs.exit_code == 0 and "endpoint cd4_200: threshold: planned 250; there: 200" in differs.stdout
    plan.write_text(plan.read_text(encoding="utf-8").replace('["eta"]', '["etaa"]'), encoding="utf-8")
    wrong = CliRunner().invoke(cli.app, ["check", str(plan)])
    assert wrong.exit_code != 0 and "did you mean 'eta'" in str(wrong.exception)
