"""A record fitted again agrees within Monte-Carlo error, and one of another posterior does not."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from thymodel import cli
from thymodel.errors import InputError
from thymodel.results.record import draws_in, load_record
from thymodel.results.refitting import ALARM, judge, refit

pytestmark = pytest.mark.requirement("REQ-REC-07")


def test_the_same_seed_gives_the_same_draws(tiny_fit, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["thymodel", "verify", str(tiny_fit.folder), "--refit"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "verified (" in out and "fitted again: the same draws to the last bit" in out and err == ""


def test_another_seed_agrees_within_monte_carlo_error(tiny_fit):
    found = refit(tiny_fit, seed=7)
    assert not found.identical and found.faults == ()
    assert found.bound == ALARM / len(found.comparisons) and "at most once in 100" in found.note
    assert {each.name for each in found.comparisons} == set(tiny_fit.table.index)


def test_a_record_of_another_prior_does_not_agree(tiny_fit, tmp_path):
    """The negative control: its draws are of the prior that it had, its spec now has another."""
    copy = Path(shutil.copytree(tiny_fit.folder, tmp_path / "copy"))
    spec = (copy / "spec.toml").read_text(encoding="utf-8")
    shifted = spec.replace('"lognormal(median=0.2, sd=0.5)"', '"lognormal(median=2, sd=0.1)"')
    assert shifted != spec
    (copy / "spec.toml").write_text(shifted, encoding="utf-8")
    found = refit(load_record(copy), seed=7)
    assert any("fitted again, sigma_count, " in fault.what for fault in found.faults)


def test_without_its_data_a_record_is_not_fitted_again(tiny_fit, tmp_path):
    copy = Path(shutil.copytree(tiny_fit.folder, tmp_path / "copy"))
    (copy / "study.csv").unlink()
    with pytest.raises(InputError, match="the data are not at hand.*--data FILE"):
        refit(load_record(copy))


# --- the comparison alone ------------------------------------------------------------------------------------


def draws(random, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Independent draws of a normal, of a skewed quantity, of a time that some never reach, and of a share."""
    normal = random.normal(shift, 1.0, (4, 100))
    time = np.where(random.uniform(size=(4, 100)) < 0.1, np.inf, random.gamma(3.0, 1.0, (4, 100)) + shift)
    return {"a": normal, "b": np.exp(normal), "t": time, "one": np.full((4, 100), 0.25)}


def test_right_draws_are_refused_as_seldom_as_is_said_and_others_always(tiny_fit):
    random, refused, seen = np.random.default_rng(11), 0, 0
    for _ in range(30):
        first = draws(random)
        refused += bool(judge(tiny_fit, first, draws(random), False).faults)
        seen += bool(judge(tiny_fit, first, draws(random, shift=0.5), False).faults)
    assert refused <= 2  # of 30 at most 0.3 are expected; three or more have a chance of 1 in 280
    assert seen == 30


def test_a_value_that_does_not_vary_has_to_be_the_same(tiny_fit):
    one = {"a": np.full((2, 10), 0.25)}
    assert judge(tiny_fit, one, {"a": np.full((2, 10), 0.25 * (1 + 1e-9))}, False).faults == ()
    assert judge(tiny_fit, one, {"a": np.full((2, 10), 0.26)}, False).faults


def test_a_time_that_is_never_reached_any_more_is_seen(tiny_fit):
    random = np.random.default_rng(2)
    first, second = draws(random), draws(random)
    second["t"] = np.full((4, 100), np.inf)
    assert any("fitted again, t, " in fault.what for fault in judge(tiny_fit, first, second, False).faults)


@pytest.mark.parametrize("old", ["never", "one value", "mostly never", "not a number", "some not a number"])
def test_what_lies_below_a_recorded_end_is_no_agreement(tiny_fit, old):
    """A recorded quantile that is infinite, or the only value, has every draw of another posterior below it."""
    random = np.random.default_rng(4)
    normal, other = random.normal(size=(4, 100)), random.normal(5.0, 1.0, size=(4, 100))
    few, many = (random.uniform(size=(4, 100)) < share for share in (0.02, 0.96))
    recorded = {"never": np.full((4, 100), np.inf), "one value": np.full((4, 100), 20.0),
                "mostly never": np.where(many, np.inf, normal), "not a number": np.full((4, 100), np.nan),
                "some not a number": np.where(few, np.nan, normal)}[old]
    again = np.where(random.uniform(size=(4, 100)) < 0.96, np.inf, normal) if old == "mostly never" else recorded
    assert judge(tiny_fit, {"a": recorded}, {"a": again}, False).faults == ()
    assert judge(tiny_fit, {"a": recorded}, {"a": other}, False).faults


def test_a_quantity_that_only_one_has_is_a_fault(tiny_fit):
    rows = draws_in(tiny_fit.folder)
    fewer = {name: values for name, values in rows.items() if name != "k"}
    assert [fault.what for fault in judge(tiny_fit, rows, fewer, False).faults] == ["k: only in the record"]
    assert [fault.what for fault in judge(tiny_fit, fewer, rows, False).faults] == ["k: only in the refit"]
