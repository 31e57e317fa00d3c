"""Calibration of a spec: the verdict, the results file that grows, the figure, and the matrix of the qualification."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thymodel.errors import InputError
from thymodel.inference.replicates import Replicate
from thymodel.results import calibration

pytestmark = pytest.mark.requirement("REQ-INF-10")

SCRIPT = Path(__file__).resolve().parents[2] / "qualification" / "calibration.py"
IDENTITY = {"spec": "one", "seed": 1}


def _found(places: np.ndarray, unranked=(), **more) -> calibration.Calibration:
    names = tuple(f"q{k}" for k in range(places.shape[1]))
    return calibration.Calibration("made up", "nowhere", names, places, tuple(unranked), 0, 0, **more)


@pytest.fixture
def uniform() -> np.ndarray:
    return np.random.default_rng(1).random((200, 5))


def test_uniform_ranks_pass(uniform):
    assert calibration.judge(_found(uniform)).passed


@pytest.mark.parametrize("bend", [lambda u: u**1.5, lambda u: 0.5 + 0.65 * (u - 0.5)])
def test_shifted_and_overdispersed_ranks_of_one_quantity_fail_and_name_it(bend, uniform):
    uniform[:, 3] = bend(uniform[:, 3])
    verdict = calibration.judge(_found(uniform))
    assert not verdict.passed and "not uniform: q3" in verdict.sentences[0]


def test_a_calibrated_spec_rarely_raises_an_alarm():
    random = np.random.default_rng(2)
    alarms = sum(not calibration.judge(_found(random.random((50, 8)))).passed for _ in range(150))
    assert alarms <= 150 * 0.05 + 4 * np.sqrt(150 * 0.05)


def test_studies_without_ranks_are_told_and_fail_the_verdict(uniform):
    verdict = calibration.judge(_found(uniform[:190], ["the pool ran dry"] * 10))
    assert not verdict.passed
    assert any(text == "FAIL: 10 of 200 studies without ranks, allowed 1%" for text in verdict.sentences)
    assert "note: without ranks: the pool ran dry" in verdict.sentences


def test_no_ranks_at_all_fail():
    verdict = calibration.judge(_found(np.zeros((0, 0)), ["nothing worked"] * 30))
    assert not verdict.passed and "0 of 30" in verdict.sentences[0]


def test_coverage_is_counted_from_the_middle(uniform):
    row = calibration.quantity_rows(_found(uniform))[2]
    inside = (uniform[:, 2] > 0.05) & (uniform[:, 2] < 0.95)
    assert row["90% interval"] == inside.sum()
    low, high = calibration.coverage_limits(200, 0.9, 0.01)
    assert low <= row["90% interval"] <= high and low > 200 * 0.8


def test_json_says_what_the_verdict_says(uniform):
    content = json.loads(calibration.as_json(_found(uniform[:199], ["why"])))
    assert content["verdict"]["passed"] and content["ranked"] == 199 and content["studies"] == 200
    assert [row["quantity"] for row in content["quantities"]] == ["q0", "q1", "q2", "q3", "q4"]


def test_the_figure_marks_what_leaves_its_band(uniform):
    uniform[:, 1] **= 2
    figure = calibration.plot_ranks(_found(uniform))
    assert [axes.get_title() for axes in figure.axes] == ["q0", "q1 (outside)", "q2", "q3", "q4"]


# --- the results file ----------------------------------------------------------------------------------------


def _run(number: int) -> Replicate:
    return Replicate({"q": number / 100}, "", 0, 1.01, 60.0, 100)


def _never(number: int) -> Replicate:
    raise AssertionError(f"study {number} is done again")


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    calibration.collect(calibration.open_results(tmp_path, IDENTITY), 3, _run)
    again = []
    rows = calibration.collect(calibration.open_results(tmp_path, IDENTITY), 5, lambda n: again.append(n) or _run(n))
    assert again == [4, 5] and [row["places"]["q"] for row in rows] == [0.01, 0.02, 0.03, 0.04, 0.05]


def test_a_line_that_was_not_finished_is_done_again(tmp_path):
    calibration.collect(calibration.open_results(tmp_path, IDENTITY), 2, _run)
    path = tmp_path / calibration.REPLICATES
    path.write_text(path.read_text()[:-10])
    assert list(calibration.open_results(tmp_path, IDENTITY).rows) == [1]
    calibration.collect(calibration.open_results(tmp_path, IDENTITY), 2, _run)
    calibration.collect(calibration.open_results(tmp_path, IDENTITY), 2, _never)


def test_results_of_another_run_are_refused(tmp_path):
    calibration.open_results(tmp_path, IDENTITY)
    with pytest.raises(InputError, match="results of another run: not the same seed"):
        calibration.open_results(tmp_path, {**IDENTITY, "seed": 2})


@pytest.mark.parametrize("line", ["{}", "[1]", "not json", '{"number": 3}'])
def test_a_damaged_line_is_refused_with_its_number(line, tmp_path):
    calibration.collect(calibration.open_results(tmp_path, IDENTITY), 1, _run)
    path = tmp_path / calibration.REPLICATES
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match="line 3"):
        calibration.open_results(tmp_path, IDENTITY)


def test_a_study_without_ranks_is_kept_with_its_reason(tmp_path):
    rows = calibration.collect(calibration.open_results(tmp_path, IDENTITY), 2,
                               lambda n: Replicate({}, "no solution") if n == 2 else _run(n))
    found = calibration.gather("made up", "nowhere", rows)
    assert found.unranked == ("no solution",) and found.studies == 2


# --- the command ---------------------------------------------------------------------------------------------


def _command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "thymodel", "calibrate", *map(str, words)], capture_output=True,
                          text=True)


def test_too_few_studies_are_bad_input(tiny_fit):
    found = _command(tiny_fit.folder, "--replicates", 3)
    assert found.returncode == 2 and "--replicates" in found.stderr and "Traceback" not in found.stderr


def test_a_spec_is_calibrated_and_the_run_continued(tiny_fit, tmp_path):
    words = (tiny_fit.folder, "--replicates", 20, "--warmup", 50, "--draws", 50, "--out", tmp_path / "out", "--json")
    first, again = _command(*words), _command(*words)
    assert first.returncode in (0, 1) and first.stdout == again.stdout, first.stderr
    content = json.loads(first.stdout)
    assert content["studies"] == 20 and content["verdict"]["passed"] == (first.returncode == 0)
    assert {"x0", "k", "omega_x0", "sigma_count", "re_x0", "log_likelihood"} == {
        row["quantity"] for row in content["quantities"]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "replicates.jsonl", "calibration.json", "calibration.svg", "calibration.png"}


# --- the matrix ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrix():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        found = importlib.util.spec_from_file_location("calibration_script", SCRIPT)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module  # where dataclasses look their module up
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_the_matrix_crosses_error_censoring_and_covariate(matrix):
    crossed = {(cell.error, cell.limited, cell.covariate) for cell in matrix.CELLS}
    assert len(matrix.CELLS) == len(crossed) >= 12
    assert {error for error, *_ in crossed} >= {"proportional", "combined", "student_t", "negative_binomial"}


def test_every_cell_is_a_good_spec_with_a_good_design(matrix, tmp_path):
    from thymodel.documents.spec import load_fit_spec
    from thymodel.results.calibration import load_design_of

    for cell in (*matrix.CELLS, *matrix.CONTROLS):
        spec = load_fit_spec(matrix.write_cell(cell, tmp_path / cell.name))
        data, limits, _ = load_design_of(spec, None)
        assert len(data.subjects) == matrix.SUBJECTS
        assert limits == {"count": (matrix.LLOQ if cell.limited else -np.inf, np.inf)}


def test_the_report_says_which_fault_was_missed(matrix, uniform, tmp_path):
    import argparse

    args = argparse.Namespace(studies=200, controls=200, cells=1, seed=1, work=tmp_path, out=tmp_path / "report.md")
    cells = {matrix.CELLS[0]: _found(uniform)}
    bent = _found(np.stack([uniform[:, 0] ** 3, uniform[:, 1]], axis=1))
    found = {matrix.CONTROLS[0]: bent, matrix.CONTROLS[1]: _found(uniform)}
    report = matrix.report(args, cells, found)
    assert "**FAILED**: 1 of 1 cells calibrated, 1 of 2 planted faults found" in report and "**MISSED**" in report
    assert "**PASSED**" in matrix.report(args, cells, {matrix.CONTROLS[0]: bent})
