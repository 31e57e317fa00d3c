"""`thymodel fit --method`: records of other readings than NUTS are whole, verify, say what they are, are not quoted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from thymodel.errors import InputError, RecordError
from thymodel.inference.approximation import NAMES
from thymodel.results import record as records
from thymodel.results.fitting import fit
from thymodel.results.record import FitRecord, load_record, quote, verify
from thymodel.results.report import report_html

pytestmark = pytest.mark.requirement("REQ-INF-09")

METHODS = tuple(NAMES)


@pytest.fixture(scope="module")
def readings(tiny_study, tmp_path_factory) -> dict[str, FitRecord]:
    """The tiny study by each method."""
    out = tmp_path_factory.mktemp("readings")
    return {method: fit(tiny_study, out=out / method, method=method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_record_says_that_it_is_an_approximation_and_verifies(readings, tiny_study, method):
    record = readings[method]
    assert record.method == method and not record.passed and not record.failed
    first, *notes = record.content["verdict"]["sentences"]
    assert first.startswith(NAMES[method]) and "not for quotation" in first
    assert all(note.startswith("note: ") for note in notes)
    found = verify(load_record(record.folder), tiny_study / "study.csv")
    assert found.faults == () and f"approximation ({method}): not for quotation" in found.notes
    assert any("log density recomputed at 3 points" in note for note in found.notes)


@pytest.mark.parametrize("method", METHODS)
def test_a_record_holds_what_a_fit_by_nuts_holds(readings, tiny_fit, method):
    record = readings[method]
    assert set(record.content) == set(tiny_fit.content)
    assert set(record.content["files"]) == set(tiny_fit.content["files"])
    assert list(record.table.index) == list(tiny_fit.table.index)
    assert record.z.shape == ((1, 1) if method == "map" else tiny_fit.z.shape[:2]) + tiny_fit.z.shape[2:]
    assert 0.0 <= record.table.loc["back.by_10[dosed]", "mean"] <= 1.0


@pytest.mark.parametrize("method", METHODS)
def test_no_number_of_it_is_quoted(readings, call, method):
    with pytest.raises(RecordError, match="may not be quoted"):
        quote(readings[method], ["k"])
    status, out, err = call("quote", readings[method].folder, "k")
    assert (status, out) == (1, "") and len(err.splitlines()) == 1
    assert f"--method {method}" in err and "hint: fit by NUTS" in err


@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_so_wherever_it_would_say_passed(readings, method):
    page = report_html(readings[method])
    assert f"APPROXIMATION by {NAMES[method]}" in page and "passed its gates" not in page and "FAILED" not in page
    assert page.index("The numbers below describe its draws.") < page.index('class="result"')
    assert ('id="modes"' in page) == (method in ("map", "laplace"))
    assert ("Traces" in page, "Prior and posterior" in page) == (False, method != "map")


def test_modes_are_told_in_natural_values(readings):
    mode = readings["map"].content["sampler"]["approximation"]["modes"][0]
    for name in ("x0", "k", "omega_x0", "sigma_count"):
        assert mode["values"][name] == pytest.approx(readings["map"].table.loc[name, "mean"], rel=1e-9)
    assert np.isnan(readings["map"].table.loc["k", "sd"])


def test_the_same_seed_gives_the_same_draws(readings, tiny_study, tmp_path):
    again = fit(tiny_study, out=tmp_path / "again", method="laplace")
    np.testing.assert_array_equal(again.z, readings["laplace"].z)


def test_the_command_prints_the_standing_and_exits_with_0(call, tiny_study, tmp_path):
    status, out, err = call("fit", tiny_study, "--method", "map", "--out", tmp_path / "map")
    assert (status, err) == (0, "")
    assert "verdict: APPROXIMATION (map), not for quotation" in out and "modes, highest first" in out
    assert (tmp_path / "map" / "report.html").is_file()
    assert "PASSED" not in out and "FAILED" not in out


def test_bad_methods_and_options_are_refused_and_nothing_is_written(call, tiny_study, tmp_path):
    status, out, err = call("fit", tiny_study, "--method", "foo", "--out", tmp_path / "a")
    assert (status, out) == (2, "") and "foo" in err
    status, out, err = call("fit", tiny_study, "--method", "smc", "--resume", "--warmup", 9, "--out", tmp_path / "a")
    assert (status, out) == (2, "") and [line.split(":")[0] for line in err.splitlines()] == ["--resume", "--warmup 9"]
    with pytest.raises(InputError, match="no such method"):
        fit(tiny_study, out=tmp_path / "a", method="foo")
    assert not (tmp_path / "a").exists()


def test_a_record_that_claims_another_method_does_not_load_or_verify(readings, tiny_study, tmp_path):
    folder = Path(shutil.copytree(readings["laplace"].folder, tmp_path / "forged"))
    whole = json.loads((folder / "record.json").read_text(encoding="utf-8"))

    def forge(sampler: dict, verdict: dict) -> None:
        content = whole | {"sampler": sampler, "verdict": verdict}
        content["digest"] = records._own_digest(content)
        (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")

    good = {"passed": True, "sentences": []}
    for method in ("nuts", "guess"):
        forge(whole["sampler"] | {"method": method}, good)
        with pytest.raises(InputError, match="sampler"):
            load_record(folder)
    forge(whole["sampler"], good)  # passed, by its own word
    found = verify(load_record(folder), tiny_study / "study.csv")
    assert any("the verdict does not follow" in fault.what for fault in found.faults)
    with pytest.raises(RecordError, match="may not be quoted"):
        quote(load_record(folder), ["k"])
