"""Scenarios under several structures: mixture weights, what lies between structures, refusals, what is printed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thymodel import cli
from thymodel.documents.ensemble import EnsembleTable, read_ensemble
from thymodel.documents.model import parse_model
from thymodel.documents.spec import read_scenario_spec
from thymodel.documents.toml import digest
from thymodel.errors import InputError
from thymodel.results import ensemble, scores
from thymodel.results import record as records
from thymodel.results.endpoints import Quantity
from thymodel.results.ensemble import drawn, mix
from thymodel.results.extrapolation import Component, Level, Verdict, Verdicts
from thymodel.results.kept import Place
from thymodel.results.record import load_record
from thymodel.results.scenario_rows import BETWEEN, Summaries, between
from thymodel.results.scenarios import MIXTURE, run_scenario

pytestmark = pytest.mark.requirement("REQ-SCN-06")

SCENARIO = """
title = "two structures"
subjects = 40
draws = 20
reference = "control"
[ensemble]
records = ["tiny", "other"]
WEIGHTS
[endpoints.back]
marker = "count"
threshold = 80
unit = "cell/uL"
horizon = 20
sustained_for = 2
by = [10]
[arms.control]
[arms.high]
doses = [{ amount = 100, day = 8 }]
"""
STATED = 'weights = [0.7, 0.3]\nsource = "made up for this test"'


def changed(folder: Path, model: tuple[str, str] | None = None, **content) -> Path:
    """A record of another structure with these draws, digests and all."""
    found = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if model is not None:
        text = (folder / "decay.toml").read_text(encoding="utf-8")
        assert model[0] in text
        (folder / "decay.toml").write_text(text.replace(*model), encoding="utf-8")
        found["files"]["decay.toml"] = digest((folder / "decay.toml").read_bytes())
    found |= content
    found["digest"] = records._own_digest(found)
    (folder / "record.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tiny_fit, tmp_path_factory) -> Path:
    """Two records side by side: the tiny fit, and one whose cells fall at half the rate; and a scenario of both."""
    home = tmp_path_factory.mktemp("ensemble")
    shutil.copytree(tiny_fit.folder, home / "tiny")
    changed(Path(shutil.copytree(tiny_fit.folder, home / "other")), ('"-k*x"', '"-0.5*k*x"'), name="slower")
    (home / "s.toml").write_text(SCENARIO.replace("WEIGHTS", STATED), encoding="utf-8")
    (home / "alone.toml").write_text(SCENARIO.replace('[ensemble]\nrecords = ["tiny", "other"]\nWEIGHTS', ""),
                                     encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def found(folder):
    return run_scenario(load_record(folder / "tiny"), folder / "s.toml", place=Place(1))


@pytest.fixture(scope="module")
def plain(folder):
    return [run_scenario(load_record(folder / name), folder / "alone.toml") for name in ("tiny", "other")]


def _of(table, structure: str):
    return table[table["structure"] == structure].reset_index(drop=True)


# --- the mixture -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1 / 3, 1 / 3, 1 / 3), (1.0, 0.0), (0.123, 0.877)])
def test_every_structure_has_the_share_of_its_weight_and_its_draws_count_alike(weights):
    counts = [7, 11, 5][:len(weights)]
    structure, place = drawn(np.array(weights), counts, 1000)
    assert len(structure) == len(place) == 1000
    share = np.bincount(structure, minlength=len(weights)) / 1000
    assert share == pytest.approx(weights, abs=1e-3)
    ends = np.cumsum([0, *counts])
    for k, weight in enumerate(weights):
        own = place[structure == k]
        often = np.bincount(own - ends[k], minlength=counts[k]) if weight else np.zeros(counts[k])
        assert ((own >= ends[k]) & (own < ends[k + 1])).all() and np.ptp(often) <= 1


def test_a_mixture_has_the_mean_and_variance_of_its_parts():
    """Mean: that of the means by weight; variance: within and between (law of total variance)."""
    random, weights = np.random.default_rng(1), np.array([0.6, 0.4])
    parts = [random.normal(mean, sd, 300) for mean, sd in ((10.0, 1.0), (14.0, 2.0))]
    each = [Summaries({"e": [[Quantity("median time", values, "time")]]}, {"e": np.zeros((1, 300, 3))}, {}, {})
            for values in parts]
    mixed = mix(each, weights)
    values = mixed.quantities["e"][0][0].values
    mean = weights @ [part.mean() for part in parts]
    apart = weights @ [(part.mean() - mean) ** 2 for part in parts]
    within = weights @ [part.var() for part in parts]
    assert values.mean() == pytest.approx(mean, rel=1e-3)  # shares are met to a part in LEAST
    assert values.var() == pytest.approx(apart + within, rel=1e-3)
    assert between(values, mixed.structure)[BETWEEN] == pytest.approx(apart / (apart + within), rel=1e-3)


def test_nothing_lies_between_structures_that_say_the_same_and_infinite_times_have_no_share():
    structure = np.array([0, 0, 1, 1])
    assert between(np.array([1.0, 3.0, 1.0, 3.0]), structure)[BETWEEN] == pytest.approx(0, abs=1e-12)
    assert between(np.array([2.0, 2.0, 2.0, 2.0]), structure)[BETWEEN] == 0
    assert between(np.array([1.0, 1.0, 3.0, 3.0]), structure)[BETWEEN] == pytest.approx(1)
    assert np.isnan(between(np.array([1.0, np.inf, 1.0, 3.0]), structure)[BETWEEN])


def test_the_rows_of_a_structure_are_those_of_its_own_scenario(found, plain):
    for one, name in zip(plain, ("tiny", "slower"), strict=True):
        own = _of(found.table, name)[list(one.table.columns)]
        assert own.drop(columns="why").equals(one.table.drop(columns="why"))
    assert not plain[0].table["estimate"].equals(plain[1].table["estimate"])


def test_a_mixture_lies_between_its_structures_and_says_how_far_they_are_apart(found):
    mixture, one, other = (_of(found.table, name) for name in (MIXTURE, "tiny", "slower"))
    assert list(mixture["quantity"]) == list(one["quantity"]) == list(other["quantity"])
    row = mixture.index[(mixture["arm"] == "high") & (mixture["quantity"] == "restricted mean time")][0]
    pair = sorted([one["estimate"][row], other["estimate"][row]])
    assert pair[0] <= mixture["estimate"][row] <= pair[1]
    assert mixture["lower"][row] == pytest.approx(min(one["lower"][row], other["lower"][row]), rel=0.2)
    assert 0 < mixture[BETWEEN][row] < 1 and mixture["interval"].str.endswith("and structure").all()
    values = found.summaries.quantities["back"][1][1].values
    means = [member.scenario.summaries.quantities["back"][1][1].values.mean() for member in found.members]
    assert values.mean() == pytest.approx(0.7 * means[0] + 0.3 * means[1], rel=1e-3)


def test_whose_record_is_asked_and_how_many_workers_do_not_matter(found, folder):
    again = run_scenario(load_record(folder / "other"), folder / "s.toml", place=Place(2))
    assert again.table.equals(found.table) and (again.times["back"] == found.times["back"]).all()


def test_the_times_of_a_mixture_are_draws_of_its_structures_by_weight(found):
    of_one, of_other = (member.scenario.times["back"] for member in found.members)
    times = found.times["back"]
    assert times.shape == of_one.shape == (2, 20, 40)
    assert (times[:, :14] == of_one[:, np.arange(14) * 20 // 14]).all()
    assert (times[:, 14:] == of_other[:, np.arange(6) * 20 // 6]).all()


def test_two_records_alike_say_what_one_says(tiny_fit, plain, folder, tmp_path):
    for name in ("tiny", "other"):
        changed(Path(shutil.copytree(tiny_fit.folder, tmp_path / name)), title=name)
    (tmp_path / "s.toml").write_text(SCENARIO.replace("WEIGHTS", STATED.replace("0.7, 0.3", "0.5, 0.5")))
    both = run_scenario(load_record(tmp_path / "tiny"), tmp_path / "s.toml")
    mixture = _of(both.table, MIXTURE)
    for key in ("estimate", "lower", "upper"):
        assert mixture[key].to_numpy() == pytest.approx(plain[0].table[key].to_numpy(), nan_ok=True)
    assert mixture[BETWEEN].dropna().to_numpy() == pytest.approx(0, abs=1e-9)
    assert len({member.name for member in both.members}) == 2  # told apart by their digests


# --- weights -----------------------------------------------------------------------------------------------------


def test_stacking_weights_are_those_of_compare(folder):
    path = folder / "stacked.toml"
    path.write_text(SCENARIO.replace("WEIGHTS", 'weights = "stacking"'), encoding="utf-8")
    both = [load_record(folder / name) for name in ("tiny", "other")]
    table = scores.compare([scores.score(one) for one in both]).set_index("record")["stacking_weight"]
    stacked = run_scenario(both[0], path)
    assert [one.weight for one in stacked.members] == pytest.approx([table[str(one.folder)] for one in both])
    assert any("stacking of leave-one-subject-out scores, 4 subjects" in line for line in stacked.about_members)


def test_other_data_are_refused_for_stacking_and_told_of_where_weights_are_given(folder, tiny_fit, tmp_path):
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    changed(Path(shutil.copytree(tiny_fit.folder, tmp_path / "other")),
            data=tiny_fit.content["data"] | {"sha256": "0" * 64, "path": None})
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO.replace("WEIGHTS", ""), encoding="utf-8")
    with pytest.raises(InputError, match="data sha256 0000.*fits to the same data only.*give weights and their source"):
        run_scenario(load_record(tmp_path / "tiny"), path)
    path.write_text(SCENARIO.replace("WEIGHTS", STATED), encoding="utf-8")
    given = run_scenario(load_record(tmp_path / "tiny"), path)
    assert any("fitted to different data" in line for line in given.about_members)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_every_fault_of_an_ensemble_is_listed(tmp_path):
    def faults(**keys) -> str:
        found = []
        read_ensemble(tmp_path / "s.toml", EnsembleTable(**keys), found)
        return "\n".join(map(str, found))

    assert "1 of two or more" in faults(records=["a"])
    assert "'bma' is no way to weigh" in faults(records=["a", "b"], weights="bma")
    told = faults(records=["a", "b"], weights=[0.5, -0.1, 0.2])
    for part in ("ensemble.source: missing", "3 of them for 2 records", "weights.1: -0.1", "add up to 0.6"):
        assert part in told
    assert faults(records=["a", "b"], weights=[0.25, 0.75], source="made up") == ""


@pytest.mark.parametrize("record, words", [
    ("absent", "no record here"), ("failed", "a failed fit may not be quoted"), ("tiny", "is named twice"),
    ("spoilt", "changed since the fit")])
def test_records_that_may_not_be_used_are_refused_with_their_place(folder, tiny_fit, tmp_path, record, words):
    for name in ("tiny", "failed", "spoilt"):
        shutil.copytree(folder / "tiny", tmp_path / name)
    changed(tmp_path / "failed", verdict=tiny_fit.content["verdict"] | {"passed": False})
    (tmp_path / "spoilt" / "table.csv").write_text("changed")
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO.replace("WEIGHTS", STATED).replace('"other"', f'"{record}"'), encoding="utf-8")
    with pytest.raises(InputError, match=f"ensemble.records.1: .*{words}"):
        run_scenario(load_record(tmp_path / "tiny"), path)


def test_the_record_asked_must_be_one_of_them(folder, tiny_fit, tmp_path):
    third = changed(Path(shutil.copytree(tiny_fit.folder, tmp_path / "third")), title="a third")
    with pytest.raises(InputError, match="third is not among them"):
        run_scenario(load_record(third), folder / "s.toml")


@pytest.mark.parametrize("old, new, words", [
    ("cell/uL", "cell/mL", "count is in cell/mL"), ("cell/uL", "cell/mL", "doses of cells are in cell/mL"),
    ("[observables.count]", "[observables.other]", "has no observable 'count'"),
    ('[inputs.cells]\nunit = "cell/uL"', '[inputs.other]\nunit = "cell/uL"\nadd = { x = "amount" }\n'
     '[inputs.cells]\nunit = "cell/uL"', "would go to another input")])
def test_a_structure_that_answers_another_question_is_refused(folder, tmp_path, old, new, words):
    """The fit specs still read their model; what the scenario asks of it differs."""
    tiny = load_record(folder / "tiny")
    text = (tiny.folder / "decay.toml").read_text(encoding="utf-8")
    assert old in text
    other = replace(tiny.spec, model=parse_model(text.replace(old, new), "decay.toml"))
    asked = (folder / "alone.toml").read_text(encoding="utf-8")
    of_count = asked[asked.index("[endpoints.back]"):asked.index("[arms.control]")]
    mine = read_scenario_spec(asked, Path("s.toml"), tiny.spec.model)
    its = read_scenario_spec(asked.replace(of_count, ""), Path("s.toml"), other.model)
    assert any(words in what for what, _ in ensemble._unlike(tiny.spec, mine, other, its))
    assert list(ensemble._unlike(tiny.spec, mine, tiny.spec, mine)) == []


def test_the_worst_structure_gives_the_verdict_and_is_named():
    def verdict(level: Level | None, text: str) -> Verdicts:
        return Verdicts({}, {"a": Verdict("a", "", (Component("position", Level.interpolation, "within"),
                                                    Component("parameters", level, text)))})

    worst = ensemble.worst_of({"one": verdict(Level.mild, "60%"), "other": verdict(Level.strong, "95%")}).arms["a"]
    assert worst.level is Level.strong and worst.text == "strong: parameters: 95% (structure other)"
    known = ensemble.worst_of({"one": verdict(None, "not known"), "other": verdict(Level.mild, "60%")}).arms["a"]
    assert known.level is Level.mild and "structure" not in known.components[0].text


# --- the command -------------------------------------------------------------------------------------------------


def _call(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["thymodel", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def test_the_command_names_structures_weights_and_digests(folder, monkeypatch, capsys):
    digests = [load_record(folder / name).digest for name in ("tiny", "other")]
    status, out, _ = _call(monkeypatch, capsys, "scenario", folder / "tiny", folder / "s.toml")
    assert status == 0 and out.startswith("From a fit to SIMULATED data.")
    assert all(one[:12] in out for one in digests) and "slower (0.30)" in out and "between structures" in out
    assert "weight 0.700" in out and "made up for this test" in out
    status, out, _ = _call(monkeypatch, capsys, "scenario", folder / "tiny", folder / "s.toml", "--json")
    rows = json.loads(out)
    assert status == 0 and {row["structure"] for row in rows} == {MIXTURE, "tiny", "slower"}
    assert {row["record"] for row in rows} == {" ".join(digests), *digests} and all(row["simulated"] for row in rows)


def test_a_bad_ensemble_costs_status_2_with_every_fault(folder, tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO.replace("WEIGHTS", "weights = [0.7, 0.2, 0.2]"), encoding="utf-8")
    status, _, err = _call(monkeypatch, capsys, "scenario", folder / "tiny", path)
    assert status == 2 and "3 of them for 2 records" in err and "add up to 1.1" in err and "source: missing" in err


def test_finished_blocks_of_every_structure_are_kept_apart(folder, found, tmp_path):
    pytest.importorskip("zarr", reason="needs the extra 'dask'")
    record = load_record(folder / "tiny")
    kept = run_scenario(record, folder / "s.toml", place=Place(1, folder=tmp_path / "kept"))
    assert kept.table.equals(found.table) and len(list((tmp_path / "kept").iterdir())) == 2
    (tmp_path / "kept" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else than this ensemble"):
        run_scenario(record, folder / "s.toml", place=Place(1, folder=tmp_path / "kept"))
