"""The table of all published problems: nothing is left out of it, and its verdicts follow its rules."""

import importlib.util
import sys
from pathlib import Path

import pytest
from published import HERE, TABLES, place

from thymodel.documents.spec import load_fit_spec
from thymodel.results.study import load_study

pytestmark = pytest.mark.requirement("REQ-NUM-09")

SCRIPT = Path(__file__).resolve().parents[2] / "qualification" / "external.py"
REFERENCE = [{"parameter": "a", "mean": "1.0", "sd": "0.5", "mcse_mean": "0.001"}]


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        found = importlib.util.spec_from_file_location("external_script", SCRIPT)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module  # where dataclasses look their module up
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_every_published_problem_has_a_row(table, external):
    names = " ".join(case.name for case in table.all_cases(external))
    for part in ("posteriordb", "pop_pkpd", "immunology", "petab_benchmark", "ivp"):
        for path in (external / part).iterdir():
            assert path.suffix == ".md" or f"{part}/{path.stem}" in names, path
    assert len(table.all_cases(external)) >= 20


def test_a_row_has_a_name_of_its_own(table, external):
    names = [case.name for case in table.all_cases(external)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", TABLES)
def test_documents_of_a_problem_read_its_data(name, external, tmp_path):
    spec = load_fit_spec(place(name, external, tmp_path / name))
    data, _ = load_study(spec, None)
    assert data.subjects and not data.exclusions
    assert {one.observable for subject in data.subjects for one in subject.observations} == set(spec.likelihood)


def test_every_folder_of_documents_belongs_to_a_table():
    folders = {path.parent.name for path in HERE.glob("*/model.toml")}
    assert folders == set(TABLES)


def test_infusions_of_the_leukocytes_keep_their_amount(external):
    first = next(row for row in TABLES["leukocytes"](external) if row["EVID"] == 1)
    assert float(first["AMT"]) == pytest.approx(137 * 2.99270072992701) and float(first["RATE"]) == 137


@pytest.mark.parametrize(("mean", "sd", "rhat", "passed"), [
    (1.05, 0.52, 1.001, True), (1.2, 0.5, 1.001, False), (1.0, 0.6, 1.001, False), (1.0, 0.5, 1.02, False)])
def test_a_mean_a_spread_and_chains_decide(mean, sd, rhat, passed, table):
    rows = {"a": {"mean": mean, "sd": sd, "rhat": rhat, "mcse_mean": 0.001}}
    assert table.against_reference(rows, REFERENCE, 0).passed is passed


def test_a_case_that_breaks_is_a_failed_row_with_its_reason(table, tmp_path):
    def breaks(external, work):
        raise ValueError("no such thing")

    row = table.run_case(table.Case("made/up", True, "", breaks), tmp_path, tmp_path)
    assert row["passed"] is False and row["found"] == "ValueError: no such thing"


def test_the_report_counts_what_passes(table):
    cases = [table.Case(name, strong, "a rule", table.refused) for name, strong in (("a", True), ("b", True),
                                                                                   ("c", False), ("d", True))]
    rows = [{"expected": "x", "found": "y", "passed": passed, "seconds": 1.0, "software": "this one"}
            for passed in (True, False, True, None)]
    report = table.report(cases, rows, [])
    assert "**1 of 2 cases with a strong answer pass their rule**; 1 of 1 soft ones" in report and "1 not run" in report
    assert "| b | x | y | a rule | **FAIL** |" in report
