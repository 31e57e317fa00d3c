"""The qualification script: does it tell good intervals from bad ones, and does it run?"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.requirement("REQ-INF-10")

SCRIPT = Path(__file__).resolve().parents[2] / "qualification" / "recover.py"


@pytest.fixture(scope="module")
def recover():
    found = importlib.util.spec_from_file_location("recover", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _cohorts(cover, width: float) -> list[dict]:
    """20 cohorts of 40 independent quantities: normal posteriors whose draws are spread `width` times as they ought."""
    rng = np.random.default_rng(2)
    centre, draws = rng.standard_normal((20, 40)), rng.standard_normal(2000)
    return [{"quantities": {f"q{k}": cover(float(x), width * draws) for k, x in enumerate(row)}} for row in centre]


def test_right_intervals_raise_no_alarm(recover):
    results = _cohorts(recover._place, 1.0)
    mean, least, most = recover.pooled(results, "covered")
    assert least <= mean <= most
    assert all(row["covered"] >= recover.fewest(20, 40) for row in recover.counts(results).values())


def test_intervals_half_as_wide_are_found_out(recover):
    results = _cohorts(recover._place, 0.5)
    mean, least, _ = recover.pooled(results, "covered")
    assert mean < least
    assert any(row["covered"] < recover.fewest(20, 40) for row in recover.counts(results).values())


def test_limits_keep_the_false_alarm_rate(recover):
    hits = np.random.default_rng(3).random((20_000, 40, 20)) < recover.COVERAGE
    alarms = (hits.sum(axis=2) < recover.fewest(20, 40)).any(axis=1).mean()
    assert 0 < alarms < recover.FALSE_ALARM


def test_a_tie_at_never_counts_as_covered(recover):
    place = recover._place(np.inf, np.array([100.0] * 90 + [np.inf] * 10))
    assert place["covered"] and place["rank"] == pytest.approx(0.95)


@pytest.mark.slow
def test_three_cohorts_are_recovered(tmp_path):
    report = tmp_path / "report.md"
    subprocess.run([sys.executable, str(SCRIPT), "--cohorts", "3", "--out", str(report)], check=True)
    assert "All cohorts: 3" in report.read_text() and "rte4_2.median[dose_4]" in report.read_text()
