"""The self-test: a sound installation passes each check, a broken one is found by the check that is meant for it."""

import json
import re
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest

from thymodel.dynamics import kernel, solving
from thymodel.errors import InputError
from thymodel.inference import likelihood
from thymodel.results import checklist, installation, inventory, operation, qualification
from thymodel.results import record as records
from thymodel.results.checklist import Check, Finding, Result, perform
from thymodel.results.inventory import Component

IQ = {check.key: check for check in installation.CHECKS}
OQ = {check.key: check for check in operation.CHECKS}
DEAR = {"OQ-02", "OQ-03", "OQ-10"}  # both solvers of a large model, every model, two more fits: CI runs them as a user


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> operation.Workshop:
    return operation.Workshop(tmp_path_factory.mktemp("workshop"))


def looked(check: Check, place) -> Result:
    return perform(check, place)


# --- a sound installation ------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-INS-01", "REQ-NUM-06", "REQ-SEC-06")
@pytest.mark.parametrize("key", sorted(set(IQ) - {"IQ-03", "IQ-04"}))
def test_this_installation_passes(key, tmp_path):
    result = looked(IQ[key], tmp_path)
    assert result.outcome == "pass", result.found


@pytest.mark.requirement("REQ-INS-01")
def test_operation_passes_check_by_check(workshop):
    results = [looked(check, workshop) for key, check in OQ.items() if key not in DEAR]
    assert [(r.key, r.found) for r in results if r.outcome != "pass"] == []
    assert len(results) == len(OQ) - len(DEAR)


def test_keys_are_in_order_and_unique():
    assert list(IQ) == [f"IQ-{k:02}" for k in range(1, len(installation.CHECKS) + 1)]
    assert list(OQ) == [f"OQ-{k:02}" for k in range(1, len(operation.CHECKS) + 1)]


def test_the_known_posterior_is_that_of_a_grid():
    """The quadrature of the self-test against brute force over all three quantities."""
    exact = operation.exact_moments()
    axes = [np.linspace(m - 7 * s, m + 7 * s, 81) for m, s in zip(exact.mean, exact.sd, strict=True)]
    x, k, log_sigma = np.meshgrid(*axes, indexing="ij")
    density = -((x - np.log(100.0)) ** 2 + (log_sigma - np.log(0.2)) ** 2) / (2 * 0.5**2)
    density -= (k - 0.1) ** 2 / (2 * 0.05**2)
    for day, count in zip(operation._DAYS, operation._COUNTS, strict=True):
        density += -0.5 * ((np.log(count) - x + k * day) / np.exp(log_sigma)) ** 2 - log_sigma
    weights = np.exp(density - density.max())
    weights /= weights.sum()
    for axis, values in enumerate((x, k, log_sigma)):
        mean = float((weights * values).sum())
        assert mean == pytest.approx(exact.mean[axis], abs=1e-3 * exact.sd[axis])
        spread = float(np.sqrt((weights * (values - mean) ** 2).sum()))
        assert spread == pytest.approx(exact.sd[axis], rel=1e-3)


# --- broken installations: each is found by its check --------------------------------------------------------


def test_a_wrong_solver_is_found(workshop, monkeypatch):
    right = solving.trajectories
    monkeypatch.setattr(solving, "trajectories", lambda *args, **rest: right(*args, **rest) * 1.0001)
    assert looked(OQ["OQ-01"], workshop).outcome == "fail"


def test_a_dose_that_acts_too_early_is_found(workshop, monkeypatch):
    right = solving.plan
    monkeypatch.setattr(solving, "plan", lambda model, doses, *rest: right(
        model, [replace(dose, time=dose.time - 1.0) for dose in doses], *rest))
    result = looked(OQ["OQ-04"], workshop)
    assert result.outcome == "fail" and "nothing happens before a dose" in result.found
    assert looked(OQ["OQ-01"], workshop).outcome == "fail"


def test_a_wrong_distribution_function_is_found(workshop, monkeypatch):
    right = likelihood.log_ndtr
    monkeypatch.setattr(likelihood, "log_ndtr", lambda z: right(z + 1e-6))
    assert looked(OQ["OQ-07"], workshop).outcome == "fail"


def test_times_that_ignore_how_long_a_rise_lasts_are_found(workshop, monkeypatch):
    monkeypatch.setattr(operation, "crossing_times", lambda endpoint, days, courses: np.array([69.315, 99.3, np.inf]))
    assert looked(OQ["OQ-06"], workshop).outcome == "fail"


def test_a_posterior_under_another_prior_is_found(workshop, monkeypatch):
    monkeypatch.setattr(operation, "_PRIOR_SD", 0.2)
    assert looked(OQ["OQ-09"], workshop).outcome == "fail"


@pytest.mark.requirement("REQ-REC-02")
def test_a_verification_that_reads_no_digest_is_found(workshop, monkeypatch):
    shutil.rmtree(workshop.folder / "forged", ignore_errors=True)
    monkeypatch.setattr(records, "_check_digests", lambda record: [])
    result = looked(OQ["OQ-12"], workshop)
    assert result.outcome == "fail" and "NOT FOUND" in result.found


@pytest.mark.requirement("REQ-QUO-01")
def test_a_quotation_of_a_failed_fit_is_found(workshop, monkeypatch):
    for name in ("failed", "gates"):
        shutil.rmtree(workshop.folder / name, ignore_errors=True)
    monkeypatch.setattr(records, "quotable", lambda record: None)
    result = looked(OQ["OQ-13"], workshop)
    assert result.outcome == "fail" and "QUOTED: the failed fit, the changed record" in result.found


def test_a_reader_that_accepts_anything_is_found(workshop, monkeypatch):
    monkeypatch.setattr(operation, "parse_model", lambda *_: workshop.model)
    assert looked(OQ["OQ-05"], workshop).outcome == "fail"


@pytest.mark.requirement("REQ-NUM-06")
def test_single_precision_is_found(tmp_path):
    with jax.enable_x64(False):
        assert looked(IQ["IQ-06"], tmp_path).outcome == "fail"


@pytest.mark.requirement("REQ-NUM-04")
def test_a_kernel_that_fails_its_test_is_said_and_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "self_test", lambda native: "a value differs")
    result = looked(IQ["IQ-08"], tmp_path)
    assert result.outcome == "note" and "diffrax" in result.found and "a value differs" in result.found


def test_a_solver_without_a_second_one_is_no_agreement(workshop, monkeypatch):
    monkeypatch.setattr(kernel, "self_test", lambda native: "a value differs")
    assert looked(OQ["OQ-02"], workshop).outcome == "note"


def test_the_cache_of_the_user_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    looked(IQ["IQ-08"], tmp_path)
    assert not (tmp_path / "mine").exists()


def _others(**changes: str | None) -> dict[str, Component]:
    """What is installed, but for some versions; None takes a package away."""
    here = inventory.installed()
    changed = {name: Component(name, version, "MIT", True, "", ()) for name, version in changes.items() if version}
    return {name: item for name, item in (here | changed).items() if changes.get(name, "kept") is not None}


@pytest.mark.requirement("REQ-INS-01")
@pytest.mark.parametrize("version, told", [("0.1.0", "here: 0.1.0"), (None, "here: absent")])
def test_a_package_that_is_absent_or_too_old_is_found(version, told, tmp_path, monkeypatch):
    found = _others(scipy=version)
    monkeypatch.setattr(inventory, "installed", lambda: found)
    result = looked(IQ["IQ-02"], tmp_path)
    assert result.outcome == "fail" and "scipy" in result.found and told in result.found


@pytest.mark.requirement("REQ-INS-01")
def test_another_version_than_the_tested_one_is_for_the_reader(tmp_path, monkeypatch):
    found = _others(scipy="99.0")
    monkeypatch.setattr(inventory, "installed", lambda: found)
    result = looked(IQ["IQ-03"], tmp_path)
    assert result.outcome == "note" and f"scipy 99.0 (tested: {inventory.pinned()['scipy']})" in result.found


@pytest.fixture
def wheel(tmp_path) -> Path:
    """An installed package as pip leaves it, of two files."""
    files = {"thymodel/__init__.py": b"x = 1\n", "thymodel/formula.py": b"y = x*x\n"}
    info = tmp_path / "thymodel-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thymodel\nVersion: 0.1.0\n")
    rows = []
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        rows.append(f"{name},sha256={inventory._as_recorded(content)},{len(content)}")
    rows += ["thymodel/__pycache__/a.pyc,,", "thymodel-0.1.0.dist-info/RECORD,,"]
    (info / "RECORD").write_text("\n".join(rows))
    return tmp_path


def listed(folder: Path) -> tuple[int, list[str]]:
    return inventory.changed_files(metadata.Distribution.at(folder / "thymodel-0.1.0.dist-info"))


@pytest.mark.requirement("REQ-INS-02")
def test_files_as_they_were_built_pass(wheel):
    assert listed(wheel) == (2, [])


@pytest.mark.requirement("REQ-INS-02")
def test_a_changed_and_an_absent_file_are_named(wheel):
    (wheel / "thymodel/formula.py").write_bytes(b"y = x+x\n")
    assert listed(wheel) == (2, ["thymodel/formula.py"])
    (wheel / "thymodel/formula.py").unlink()
    assert listed(wheel) == (2, ["thymodel/formula.py (absent)"])


@pytest.mark.requirement("REQ-INS-02")
def test_a_corrupted_installation_fails_its_check(wheel, tmp_path, monkeypatch):
    (wheel / "thymodel/formula.py").write_bytes(b"y = x+x\n")
    broken = metadata.Distribution.at(wheel / "thymodel-0.1.0.dist-info")
    monkeypatch.setattr(metadata, "distribution", lambda name: broken)
    monkeypatch.setattr(inventory, "ROOT", (wheel / "thymodel").resolve())
    result = looked(IQ["IQ-04"], tmp_path)
    assert result.outcome == "fail" and "thymodel/formula.py" in result.found


@pytest.mark.requirement("REQ-INS-02")
def test_a_checkout_has_nothing_to_compare_with_and_says_so(tmp_path, monkeypatch, wheel):
    editable = metadata.Distribution.at(wheel / "thymodel-0.1.0.dist-info")
    monkeypatch.setattr(metadata, "distribution", lambda name: editable)  # lies elsewhere than what runs
    assert looked(IQ["IQ-04"], tmp_path).outcome == "note"


@pytest.mark.requirement("REQ-SEC-06")
@pytest.mark.parametrize("licence, bad", [
    ("GPL-3.0-or-later", True), ("GNU General Public License v2 (GPLv2)", True), ("AGPL-3.0-only", True), ("", True),
    ("LGPL", False), ("GNU Lesser General Public License v3", False), ("MIT OR GPL-2.0-only", False),
    ("MIT AND GPL-2.0-only", True), ("BSD-3-Clause AND 0BSD", False)])
def test_licences_that_bind_others_are_told_from_those_that_do_not(licence, bad):
    assert bool(inventory.forbidden([Component("a", "1", licence, True, "", ())])) is bad


# --- the whole -----------------------------------------------------------------------------------------------


def test_a_check_that_cannot_be_made_has_failed_and_the_next_is_made(tmp_path):
    def breaks(_: Path) -> Finding:
        raise OSError("no <disk>")

    result = perform(Check("IQ-99", "a", "b", (), breaks), tmp_path)
    assert (result.outcome, result.found) == ("fail", "OSError: no <disk>")


@pytest.fixture
def few(monkeypatch):
    """Three quick checks in place of all; returns a function that breaks one."""
    good = Check("IQ-01", "one is one", "1", (), lambda _: Finding("1", True))
    note = Check("OQ-01", "a | b", "<nothing>", (), lambda _: Finding("<b>to judge</b> | here", None))
    monkeypatch.setattr(installation, "CHECKS", (good,))
    monkeypatch.setattr(operation, "CHECKS", (note,))

    def breaks() -> None:
        monkeypatch.setattr(installation, "CHECKS", (Check("IQ-01", "one is one", "1", (),
                                                           lambda _: Finding("2", False)),))

    return breaks


@pytest.mark.requirement("REQ-CLI-01")
def test_the_command_ends_with_0_or_1_and_writes_what_was_asked(few, call, tmp_path):
    status, out, err = call("selftest", "--report", tmp_path / "a.html", "--sbom", tmp_path / "a.json")
    assert (status, err) == (0, "") and "self-test passed" in out and "IQ-01  pass" in out
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;to judge" in html and "<b>to judge" not in html and "1 checks passed, 0 failed, 1 for" in html
    assert not re.search(r'(src|href)="http', html)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["bomFormat"] == "CycloneDX"
    few()
    status, out, err = call("selftest", "--json", "--report", tmp_path / "a.md")
    told = json.loads(out)
    assert status == 1 and told["passed"] is False and told["checks"][0]["found"] == "2"
    page = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "**FAILED**: 0 checks passed, 1 failed, 1 for" in page
    row = next(line for line in page.splitlines() if line.startswith("| OQ-01"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7  # six cells: what was found holds a bar of its own


@pytest.mark.requirement("REQ-MOD-03")
def test_a_report_that_cannot_be_written_is_said_before_the_checks(call, tmp_path, monkeypatch):
    monkeypatch.setattr(qualification, "selftest", lambda progress: pytest.fail("checks were made"))
    status, out, err = call("selftest", "--report", tmp_path / "nowhere" / "a.txt")
    assert (status, out) == (2, "") and len(err.splitlines()) == 2
    assert "'.txt' is no form of it. hint: one of: .html, .htm, .md" in err and "no such folder" in err
    assert call("selftest", "--sbom", tmp_path / "a.xml")[0] == 2
    assert call("selftest", "--report", tmp_path)[0] == 2


def test_a_package_that_was_never_installed_says_so(call, monkeypatch, tmp_path):
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    for words in ((), ("--sbom", tmp_path / "a.json")):
        status, out, err = call("selftest", *words)
        assert (status, out) == (2, "") and err.startswith("thymodel: runs without having been installed")
    assert list(tmp_path.iterdir()) == []


def test_tables_hold_every_check_and_every_package(few):
    found = qualification.selftest()
    tables = {table.key: table for table in found.tables()}
    assert [row[0] for key in ("selftest-iq", "selftest-oq") for row in tables[key].rows] == ["IQ-01", "OQ-01"]
    assert {row[0] for row in tables["selftest-packages"].rows} == set(found.packages) >= {"jax", "numpy"}


def test_long_lists_are_cut_and_counted():
    assert checklist.some([str(k) for k in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"


def test_a_full_disk_is_a_fault(tmp_path):
    (tmp_path / "a.md").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        qualification.save_text("text", tmp_path / "a.md")
