"""`thymodel compare` and `thymodel priors` at the command line: exit status, stdout, stderr. No traceback, ever."""

import csv
import json
import shutil

import pytest

pytestmark = pytest.mark.requirement("REQ-CLI-01", "REQ-CHK-02")


def test_one_record_alone_shows_its_scores(call, tiny_fit, tmp_path):
    status, out, err = call("compare", tiny_fit.folder, "--csv", tmp_path / "scores.csv")
    assert (status, err) == (0, "") and out.startswith("SIMULATED data")
    assert "random effects integrated out" in out and "Pareto k" in out
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == ["1", "2", "3", "4"] and {row["simulated"] for row in rows} == {"True"}


def test_two_records_are_set_side_by_side_for_programs(call, tiny_fit, tmp_path):
    other = shutil.copytree(tiny_fit.folder, tmp_path / "other")
    status, out, _ = call("compare", tiny_fit.folder, other, "--by", "cohort", "--json")
    content = json.loads(out)
    assert status == 0 and len(content["records"]) == 2
    assert sum(row["stacking_weight"] for row in content["comparison"]) == pytest.approx(1)


def test_what_cannot_be_compared_is_bad_input(call, tiny_fit, tmp_path):
    for words, told in (((tiny_fit.folder, tiny_fit.folder), "named twice"), ((tmp_path,), "no record here"),
                        ((tiny_fit.folder, "--data", tmp_path / "none.csv"), "no such file")):
        status, out, err = call("compare", *words)
        assert (status, out) == (2, "") and told in err
    assert call("compare", tiny_fit.folder, "--by", "moon")[0] == 2


def test_priors_names_every_arm_of_an_endpoint(call, tiny_fit, tmp_path):
    status, out, err = call("priors", tiny_fit.folder, "--csv", tmp_path / "priors.csv")
    assert (status, err) == (0, "") and out.startswith("SIMULATED data") and "[dosed]" in out
    with open(tmp_path / "priors.csv", newline="", encoding="utf-8") as file:
        assert {"quantity", "prior", "likelihood", "diagnosis", "prior_of_k"} <= set(next(csv.DictReader(file)))


def test_a_tipping_point_needs_all_four(call, tiny_fit):
    status, out, err = call("priors", tiny_fit.folder, "--tip", "k", "--day", 10)
    assert (status, out) == (2, "") and "--endpoint: missing" in err and "--target: missing" in err
    status, out, _ = call("priors", tiny_fit.folder, "--tip", "k", "--endpoint", "back", "--day", 10, "--target", 0.5)
    assert status == 0 and "crosses 0.5" in out and "shift up" in out
