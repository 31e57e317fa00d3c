"""Summaries against ArviZ's own table; the verdict's sentences and each of its gates."""

import math

import arviz as az
import numpy as np
import pandas as pd
import pytest

from thymodel.documents.spec import GatesTable
from thymodel.inference.diagnostics import COLUMNS, energy_fraction, judge, summary_row, summary_table

pytestmark = pytest.mark.requirement("REQ-INF-04")

GATES = GatesTable(rhat=1.01, ess_bulk=400, ess_tail=300, divergences=2, failed_solves=0.001)


@pytest.fixture(scope="module")
def draws() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1).normal(size=(2, 4, 500))
    slow = np.zeros((4, 500))
    for k in range(1, 500):  # an autocorrelated chain
        slow[:, k] = 0.9 * slow[:, k - 1] + noise[1, :, k]
    return {"free": noise[0], "slow": slow}


def test_a_summary_is_arvizs(draws):
    found = summary_table(draws)
    expected = az.summary(draws, round_to="none")
    for ours, theirs in (("mean", "mean"), ("sd", "sd"), ("mcse_mean", "mcse_mean"), ("mcse_sd", "mcse_sd"),
                         ("ess_bulk", "ess_bulk"), ("ess_tail", "ess_tail"), ("rhat", "r_hat")):
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-12, err_msg=ours)
    for name, values in draws.items():
        np.testing.assert_allclose(found.loc[name, ["q05", "median", "q95"]].astype(float),
                                   np.quantile(values, [0.05, 0.5, 0.95]), rtol=1e-14)
    assert tuple(found.columns) == COLUMNS


def test_a_quantity_that_does_not_vary_has_no_r_hat():
    row = summary_row(np.full((4, 100), 3.0))
    assert row["mean"] == row["q05"] == 3.0 and row["sd"] == 0.0
    assert all(math.isnan(row[key]) for key in ("rhat", "ess_bulk", "ess_tail", "mcse_mean", "mcse_sd"))


@pytest.mark.requirement("REQ-END-02")
def test_times_never_reached_count_in_the_quantiles():
    values = np.full((2, 100), np.inf)
    values[:, :60] = np.arange(60)
    row = summary_row(values)
    assert row["median"] == 49.0 and row["q95"] == math.inf and row["mean"] == math.inf and math.isnan(row["sd"])


def test_the_energy_fraction_of_independent_energies_is_2():
    energy = np.random.default_rng(2).normal(size=(3, 20_000))
    np.testing.assert_allclose(energy_fraction(energy), 2.0, atol=0.06)  # 4 standard errors


def test_energies_that_hardly_move_have_a_small_fraction():
    energy = np.cumsum(np.random.default_rng(3).normal(size=(2, 2000)), axis=1)
    assert np.all(energy_fraction(energy) < 0.3)


# --- verdict -------------------------------------------------------------------------------------------------


def _table(**changes: dict[str, float]) -> pd.DataFrame:
    good = dict.fromkeys(COLUMNS, 1.0) | {"rhat": 1.002, "ess_bulk": 900.0, "ess_tail": 800.0}
    rows = {"k": dict(good), "A": dict(good)}
    for name, values in changes.items():
        rows[name] = good | values
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def test_the_verdict_says_each_gate_with_its_worst_quantity():
    table = _table(A={"rhat": 1.0051, "ess_tail": 512.3}, k={"ess_bulk": 450.6})
    verdict = judge(table, divergences=1, failed_solves=3, steps=5000, gates=GATES)
    assert verdict.passed
    assert verdict.sentences == (
        "pass: worst R-hat 1.0051 (A), gate < 1.01",
        "pass: worst bulk ESS 451 (k), gate > 400",
        "pass: worst tail ESS 512 (A), gate > 300",
        "pass: 1 divergent transitions after warm-up, gate <= 2",
        "pass: 3 of 5000 solves failed inside the sampler after warm-up (allowed share 0.001)",
    )


@pytest.mark.parametrize("change, divergences, failed, sentence", [
    ({"rhat": 1.02}, 0, 0, "FAIL: worst R-hat 1.0200 (k), gate < 1.01"),
    ({"rhat": 1.01}, 0, 0, "FAIL: worst R-hat 1.0100 (k), gate < 1.01"),
    ({"ess_bulk": 399.0}, 0, 0, "FAIL: worst bulk ESS 399 (k), gate > 400"),
    ({"ess_tail": 20.0}, 0, 0, "FAIL: worst tail ESS 20 (k), gate > 300"),
    ({}, 3, 0, "FAIL: 3 divergent transitions after warm-up, gate <= 2"),
    ({}, 0, 6, "FAIL: 6 of 5000 solves failed inside the sampler after warm-up (allowed share 0.001)"),
], ids=["rhat", "rhat at its gate", "bulk ess", "tail ess", "divergences", "failed solves"])
def test_one_gate_missed_is_a_failed_fit(change, divergences, failed, sentence):
    verdict = judge(_table(k=change), divergences, failed, 5000, GATES)
    assert not verdict.passed
    assert [s for s in verdict.sentences if s.startswith("FAIL")] == [sentence]


def test_a_quantity_that_does_not_vary_is_not_judged():
    table = _table(fixed={"sd": 0.0} | dict.fromkeys(("rhat", "ess_bulk", "ess_tail"), math.nan))
    assert judge(table, 0, 0, 5000, GATES).passed


def test_chains_each_stuck_at_its_own_place_fail():
    stuck = np.repeat(np.arange(4.0)[:, None], 500, axis=1)
    free = np.random.default_rng(4).normal(size=(4, 500))
    verdict = judge(summary_table({"stuck": stuck, "free": free}), 0, 0, 5000, GATES)
    assert not verdict.passed
    assert "(stuck)" in verdict.sentences[0] and verdict.sentences[0].startswith("FAIL")


def test_a_draw_that_is_not_a_number_fails():
    values = np.random.default_rng(4).normal(size=(4, 500))
    values[1, 3] = np.nan
    free = np.random.default_rng(5).normal(size=(4, 500))
    assert not judge(summary_table({"broken": values, "free": free}), 0, 0, 5000, GATES).passed


def test_a_single_chain_cannot_pass():
    table = summary_table({"free": np.random.default_rng(6).normal(size=(1, 2000))})
    verdict = judge(table, 0, 0, 5000, GATES)
    assert not verdict.passed
    assert verdict.sentences[0].startswith("FAIL: worst R-hat")


def test_a_verdict_on_nothing_that_varies_fails():
    table = summary_table({"fixed": np.full((4, 100), 3.0)})
    assert not judge(table, 0, 0, 5000, GATES).passed


def test_a_time_that_some_draws_never_reach_is_not_judged():
    times = np.random.default_rng(7).uniform(50, 100, size=(4, 500))
    times[times > 95] = np.inf
    free = np.random.default_rng(8).normal(size=(4, 500))
    assert judge(summary_table({"cd4_200.median": times, "free": free}), 0, 0, 5000, GATES).passed


def test_the_way_that_the_draws_were_made_is_said_and_not_judged():
    verdict = judge(_table(), 0, 0, 5000, GATES, notes=["plain NUTS, for a reason", ""])
    assert verdict.passed and verdict.sentences[-1] == "note: plain NUTS, for a reason"
