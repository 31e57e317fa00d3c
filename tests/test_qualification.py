"""Requirements lead to tests and back; release notes, bill of materials, audit and the pages about qualification."""

import importlib.util
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import thymodel
from thymodel.errors import InputError
from thymodel.results import inventory

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs/qualification"


def script(name: str):
    """A script of `qualification/` as a module."""
    found = importlib.util.spec_from_file_location(name, ROOT / f"qualification/{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


# --- requirements and tests ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace():
    return script("trace_matrix")


@pytest.fixture(scope="module")
def requirements(trace):
    return trace.load_requirements()


@pytest.fixture(scope="module")
def marked(trace):
    return trace.collect()


@pytest.mark.requirement("REQ-QUA-01")
def test_no_requirement_without_a_test_no_command_without_a_requirement_no_unknown_mark(trace, requirements, marked):
    assert trace.gaps(requirements, marked) == []


@pytest.mark.requirement("REQ-QUA-01")
def test_the_matrix_is_the_one_that_its_script_makes(trace, requirements, marked):
    hint = "run: python qualification/trace_matrix.py"
    assert (DOCS / trace.PAGE).read_text(encoding="utf-8") == trace.page_text(requirements, marked), hint
    assert (DOCS / trace.SHEET).read_text(encoding="utf-8") == trace.sheet_text(requirements, marked), hint


def test_a_requirement_that_lost_its_tests_is_a_gap(trace, requirements, marked):
    without = {name: files for name, files in marked.items() if name != "REQ-REC-02"}
    assert trace.gaps(requirements, without) == ["REQ-REC-02: no test carries its mark"]


def test_a_command_or_name_that_nothing_asks_for_is_a_gap(trace, requirements, marked):
    fewer = {key: item.model_copy(update={"commands": [c for c in item.commands if c != "import sbml"],
                                          "names": [n for n in item.names if n != "quote"]})
             for key, item in requirements.items()}
    assert trace.gaps(fewer, marked) == ["thymodel import sbml: no requirement names it",
                                         "thymodel.quote: no requirement names it"]


def test_a_mark_a_command_and_a_name_that_are_not_there_are_gaps(trace, requirements, marked, tmp_path):
    (tmp_path / "test_a.py").write_text('import pytest\n@pytest.mark.requirement("REQ-XXX-01", "REQ-SEC-01")\n'
                                        "def test_a():\n    pass\n\ndef test_b():\n    pass\n")
    more = trace.collect(tmp_path)
    assert more["REQ-XXX-01"] == [trace.Marked("test_a.py", ("test_a",), False)]
    assert trace.gaps(requirements, marked | {"REQ-XXX-01": more["REQ-XXX-01"]}) == [
        "test_a.py: marked with REQ-XXX-01, which is no requirement"]
    item = requirements["REQ-SEC-01"].model_copy(update={"commands": ["fitt"], "names": ["qoute"]})
    assert trace.gaps(requirements | {"REQ-SEC-01": item}, marked) == [
        "REQ-SEC-01: names fitt, which is not there and which it does not await",
        "REQ-SEC-01: names qoute, which is not there and which it does not await"]


def test_a_whole_module_and_single_tests_are_told_apart(trace, tmp_path):
    (tmp_path / "test_a.py").write_text('import pytest\npytestmark = [pytest.mark.slow, pytest.mark.requirement("A")]\n'
                                        '@pytest.mark.requirement("B")\ndef test_a():\n    pass\n\n'
                                        "def test_b():\n    pass\n\ndef helper():\n    pass\n")
    found = trace.marks_of(tmp_path / "test_a.py")
    assert found["A"].tests == ("test_a", "test_b") and found["A"].whole
    assert found["B"].tests == ("test_a",) and not found["B"].whole


@pytest.mark.parametrize("awaited, there", [("fit", True), ("import sbml", True), ("verify --data", True),
                                            ("verify --undo", False), ("sing", False), ("README.md", True),
                                            ("docs/nowhere.md", False)])
def test_what_is_awaited_is_looked_up_where_it_would_be(trace, awaited, there):
    assert trace.is_there(awaited) is there


def test_an_awaited_requirement_needs_its_test_as_soon_as_it_is_there(trace, requirements, marked):
    item = requirements["REQ-SEC-01"].model_copy(update={"id": "REQ-SEC-99", "awaits": ["sing"]})
    assert trace.gaps(requirements | {"REQ-SEC-99": item}, marked) == []
    item = item.model_copy(update={"awaits": ["sing", "fit"]})
    assert trace.gaps(requirements | {"REQ-SEC-99": item}, marked) == ["REQ-SEC-99: no test carries its mark"]


@pytest.mark.parametrize("severity, likelihood, detection, level", [
    ("high", "medium", "high", "medium"), ("high", "low", "low", "high"), ("high", "high", "medium", "high"),
    ("low", "low", "high", "low"), ("medium", "medium", "medium", "medium")])
def test_a_risk_is_weighed_by_how_surely_it_is_noticed(trace, severity, likelihood, detection, level):
    assert trace.Risk(severity=severity, likelihood=likelihood, detection=detection).level == level


def test_the_marks_that_pytest_sees_are_those_of_the_source(request, trace):
    """Marks are read without running anything; for the tests of this run, pytest must have found the same."""
    files = {path: trace.marks_of(Path(path)) for path in {item.path for item in request.session.items}}
    for item in request.session.items:
        read = files[item.path]
        seen = {name for mark in item.iter_markers("requirement") for name in mark.args}
        plain = getattr(item, "originalname", item.name)
        assert seen == {name for name, found in read.items() if plain in found.tests}, item.nodeid


# --- release notes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release_notes():
    return script("release_notes")


@pytest.mark.requirement("REQ-QUA-01")
def test_every_tag_of_the_changelog_says_what_moves_and_is_in_the_notes(release_notes):
    text = release_notes.CHANGELOG.read_text(encoding="utf-8")
    notes = release_notes.read_notes(text)
    _, _, releases = text.partition("\n## ")
    assert sum(map(len, notes.values())) == releases.count(release_notes.TAG) > 0
    assert release_notes.OUT.read_text(encoding="utf-8") == release_notes.page_text(notes), \
        "run: python qualification/release_notes.py"


def test_a_tag_without_what_moves_is_a_fault_with_its_line(release_notes):
    text = f"# Changelog\n\n## [2.0] - today\n\n- A thing.\n  {release_notes.TAG} much.\n- {release_notes.TAG}\n"
    with pytest.raises(InputError) as caught:
        release_notes.read_notes(text)
    assert [fault.where for fault in caught.value.faults] == ["CHANGELOG.md: line 5", "CHANGELOG.md: line 7"]


def test_releases_without_a_tag_say_that_nothing_moves(release_notes):
    tag = release_notes.TAG
    text = f"## [2.0] - today\n\n- {tag} all times are\n  a day later than before.\n\n## [1.0] - then\n\n- A thing.\n"
    page = release_notes.page_text(release_notes.read_notes(text))
    assert "- **all times are a day later than before.**" in page and "## 1.0 - then\n\nNothing that moves" in page


# --- bill of materials and audit -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema():
    """CycloneDX's own schema for JSON, as another project ships it."""
    jsonschema, referencing = pytest.importorskip("jsonschema"), pytest.importorskip("referencing")
    place = importlib.util.find_spec("cyclonedx")
    if place is None or place.origin is None:
        pytest.skip("cyclonedx-python-lib, which brings the schema, is not installed")
    folder = Path(place.origin).parent / "schema/_res"
    load = lambda name: json.loads((folder / name).read_text(encoding="utf-8"))  # noqa: E731
    whole, names = load("bom-1.6.SNAPSHOT.schema.json"), ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    base = whole["$id"].rsplit("/", 1)[0]
    parts = [(f"{base}/{name}", referencing.jsonschema.DRAFT7.create_resource(load(name))) for name in names]
    return jsonschema.Draft7Validator(whole, registry=referencing.Registry().with_resources(parts))


@pytest.fixture(scope="module")
def here():
    return inventory.installed()


@pytest.mark.requirement("REQ-INS-04")
def test_the_bill_of_materials_meets_the_published_schema(schema, here):
    content = json.loads(inventory.sbom_json(list(here.values())))
    assert list(schema.iter_errors(content)) == []
    content["components"][0].pop("name")
    assert [error.message for error in schema.iter_errors(content)] == ["'name' is a required property"]


@pytest.mark.requirement("REQ-INS-04")
def test_the_bill_of_materials_holds_every_distribution_and_what_needs_what(here):
    content = json.loads(inventory.sbom_json(list(here.values())))
    listed = {item["name"]: item for item in content["components"]}
    assert set(listed) == set(here) - {"thymodel"}
    assert content["metadata"]["component"]["name"] == "thymodel"
    assert listed["jax"]["purl"] == f"pkg:pypi/jax@{here['jax'].version}"
    assert all(item["licenses"] for name, item in listed.items() if name in inventory.runtime(here))
    needs = {item["ref"]: item["dependsOn"] for item in content["dependencies"]}
    assert listed["jaxlib"]["purl"] in needs[listed["jax"]["purl"]]
    assert set(needs) == {item.purl for item in here.values()}


def test_the_bill_of_materials_of_one_moment_is_always_the_same(here):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    one, other = (inventory.sbom_json(list(here.values()), moment) for _ in range(2))
    assert one == other and json.loads(one)["metadata"]["timestamp"] == "2026-01-01T00:00:00Z"
    later = inventory.sbom_json(list(here.values()), datetime(2026, 1, 2, tzinfo=UTC))
    assert json.loads(later)["serialNumber"] != json.loads(one)["serialNumber"]


@pytest.fixture(scope="module")
def audit():
    return script("audit")


@pytest.mark.requirement("REQ-SEC-06")
def test_nothing_that_users_install_has_a_licence_that_binds_others(audit):
    found = audit.licences()
    assert found.good, found.lines


@pytest.mark.requirement("REQ-SEC-05")
@pytest.mark.parametrize("answer", ["", "Traceback", "[]", '{"dependencies": 3}', '{"other": []}'])
def test_without_an_answer_nothing_was_audited_and_it_is_said(audit, answer):
    lines, good = audit.read_answer(answer, {})
    assert good and "not audited" in lines[0]


@pytest.mark.requirement("REQ-SEC-05")
def test_a_service_that_knows_no_package_audited_nothing(audit):
    answer = json.dumps({"dependencies": [{"name": "jax", "skip_reason": "not found"}]})
    lines, good = audit.read_answer(answer, {})
    assert good and lines == ("not audited: the service could be asked about none of 1 packages",)


@pytest.mark.requirement("REQ-SEC-05")
def test_a_known_vulnerability_fails_unless_it_is_accepted_with_a_reason(audit, tmp_path):
    flaw = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}
    answer = json.dumps({"dependencies": [{"name": "a", "version": "1.0", "vulns": [flaw]},
                                          {"name": "b", "version": "1.0", "vulns": []},
                                          {"name": "c", "skip_reason": "not found"}]})
    lines, good = audit.read_answer(answer, {})
    assert not good and lines == ("a 1.0: PYSEC-1, repaired in: 2.0",
                                  "2 of 3 packages audited, 1 known vulnerabilities")
    lines, good = audit.read_answer(answer, {"CVE-1": "that part is not used"})
    assert good and "accepted: that part is not used" in lines[0]
    (tmp_path / "a.toml").write_text('[accepted]\nCVE-1 = " "\n')
    with pytest.raises(ValueError, match="without a reason: CVE-1"):
        audit.load_accepted(tmp_path / "a.toml")
    assert audit.load_accepted() == {}


@pytest.mark.requirement("REQ-SEC-05")
def test_an_audit_that_takes_too_long_is_given_up(audit):
    sleeps = (sys.executable, "-c", "import time; time.sleep(60)")
    assert audit.ask(0.2, sleeps) == "" and audit.ask(5.0, ("no-such-program",)) == ""


# --- pages ---------------------------------------------------------------------------------------------------

PAGES = sorted([*DOCS.glob("*.md"), ROOT / "docs/part11.md", ROOT / "docs/release_notes.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()] == []


def test_every_qualification_report_is_in_the_index():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    reports = {path.name for folder in (DOCS, ROOT / "qualification") for path in folder.glob("*.md")} - {"README.md"}
    assert sorted(name for name in reports if f"[{name}]" not in index) == []


def test_a_report_that_failed_is_a_failure_in_the_index_and_a_known_issue():
    index, issues = ((DOCS / name).read_text(encoding="utf-8") for name in ("README.md", "known_issues.md"))
    failed = [path.name for folder in (DOCS, ROOT / "qualification") for path in folder.glob("*.md")
              if path.name not in ("README.md", "known_issues.md", "trace_matrix.md") and "**FAIL**" in
              path.read_text(encoding="utf-8")]
    assert "extrapolation.md" in failed and "external.md" in failed
    for name in failed:
        row = next(line for line in index.splitlines() if line.startswith(f"| [{name}]"))
        assert "FAIL" in row and name in issues


def test_known_issues_say_where_effect_and_state():
    text = (DOCS / "known_issues.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^## (KI-\d\d) ", text, re.MULTILINE)
    assert numbers == [f"KI-{k:02}" for k in range(1, len(numbers) + 1)]
    for issue in re.split(r"^## ", text, flags=re.MULTILINE)[1:-1]:  # the last lists what was not tried
        assert "- **Effect:**" in issue and "- **Status:**" in issue and "- **Where:**" in issue, issue[:60]
    named = set(re.findall(r"KI-\d\d", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert named <= set(numbers)


def test_the_version_that_known_issues_speak_of_is_this_one():
    assert f"all issues are of {thymodel.__version__}" in " ".join(
        (DOCS / "known_issues.md").read_text(encoding="utf-8").split())
