"""A prior taken from a record: A, then B given A, is A and B together; every record that may not serve is refused."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from thymodel import cli
from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError
from thymodel.inference.aggregate import normal_nodes
from thymodel.results import borrowing
from thymodel.results import record as records
from thymodel.results.fitting import fit
from thymodel.results.record import load_record, verify, with_prior_from
from thymodel.results.report import report_html

pytestmark = pytest.mark.requirement("REQ-INF-08")

_LINE = """
title = "A line"
description = "x rises by the same amount every day."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "normal(mean=100, sd=20)", source = "test" }
b = { unit = "cell/uL/day", value = 3, prior = "normal(mean=3, sd=2)", source = "test" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "b"
[observables.count]
unit = "cell/uL"
value = "x"
"""
_SPEC = """
title = "A line, {name}"
purpose = "test"
model = "line.toml"
simulated = {simulated}
estimate = ["x0", "b"]
{more}
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL" }}
[likelihood.count]
error = "additive"
parameters = {{ additive = {{ prior = "lognormal(median=10, sd=0.001)", source = "test: known" }} }}
[sampler]
seed = {seed}
chains = 2
warmup = 200
draws = 1000
"""
SIGMA, PRIOR = 10.0, (np.array([100.0, 3.0]), np.diag([400.0, 4.0]))
LATE, EARLY = (np.array([9.0, 10.0, 11.0, 12.0]), np.array([0.0, 1.0, 2.0]))  # late days tie x0 to b, early ones do not
SEEN = {"a": np.array([152.0, 140.0, 163.0, 158.0]), "b": np.array([96.0, 84.0, 105.0])}


def write(folder: Path, name: str, days: np.ndarray, more: str = "", simulated: str = "true") -> Path:
    (folder / name).mkdir()
    study = "ID,TIME,DVID,DV\n" + "".join(f"{k},{day},count,{value}\n" for k, (day, value) in
                                          enumerate(zip(days, SEEN[name], strict=True)))
    (folder / name / "study.csv").write_text(study)
    (folder / name / "line.toml").write_text(_LINE)
    (folder / name / "spec.toml").write_text(_SPEC.format(
        name=name, more=more, digest=hashlib.sha256(study.encode()).hexdigest(), seed=len(more), simulated=simulated))
    return folder / name


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory):
    """A, and B with the posterior of A as its prior, the own one left out."""
    folder = tmp_path_factory.mktemp("fits")
    a = fit(write(folder, "a", LATE))
    b = fit(write(folder, "b", EARLY, '[prior_from]\nrecord = "../a"\nown_weight = 0\n'))
    return a, b


def conjugate(mean: np.ndarray, covariance: np.ndarray, days: np.ndarray, seen: np.ndarray):
    """The posterior of a line with known error."""
    design = np.stack([np.ones_like(days), days], axis=1)
    precision = np.linalg.inv(covariance) + design.T @ design / SIGMA**2
    after = np.linalg.inv(precision)
    return after @ (np.linalg.solve(covariance, mean) + design.T @ seen / SIGMA**2), after


# --- the numbers ---------------------------------------------------------------------------------------------


def test_a_fit_given_another_is_the_fit_of_both(fits):
    """4.5 standard errors on each of two means, two SDs and a correlation: a false alarm once in 30,000. Those of the
    prior's own mean and covariance, from A's draws, are added to those of B's."""
    a, b = fits
    after_a = conjugate(*PRIOR, LATE, SEEN["a"])
    mean, covariance = conjugate(*after_a, EARLY, SEEN["b"])
    group = records.load_group(b.folder / records.POSTERIOR, "posterior")
    draws = np.stack([group[name].values.ravel() for name in ("x0", "b")])
    ess = [min(min(r.table.loc[n, "ess_bulk"] for n in ("x0", "b")), 2000) for r in (a, b)]
    errors = np.sqrt(np.diag(covariance) / ess[1]
                     + np.diag(covariance @ np.linalg.solve(after_a[1], covariance)) / ess[0])
    assert np.all(np.abs(draws.mean(axis=1) - mean) < 4.5 * errors)
    relative = 4.5 * np.sqrt(0.5 / ess[0] + 0.5 / ess[1])
    assert draws.std(axis=1, ddof=1) == pytest.approx(np.sqrt(np.diag(covariance)), rel=relative)
    rho = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert abs(np.corrcoef(draws)[0, 1] - rho) < 4.5 * (1 - rho**2) * np.sqrt(1 / ess[0] + 1 / ess[1])

    # the negative control: the same marginals without their correlation would not pass
    without, _ = conjugate(after_a[0], np.diag(np.diag(after_a[1])), EARLY, SEEN["b"])
    assert np.max(np.abs(without - mean) / errors) > 4 * 4.5


def test_the_prior_is_worth_as_many_patients_as_its_information_is(fits):
    """Of a line with known error both are exact: the precision of A's posterior over a measurement's."""
    _, b = fits
    found = {row["name"]: row for row in b.content["prior_from"]["parameters"]}
    z = np.linalg.inv(np.array(b.spec.borrowed.covariance))
    for k, (name, slope) in enumerate({"x0": np.ones(3), "b": EARLY}.items()):
        each = np.mean(slope**2) / SIGMA**2 * PRIOR[1][k, k]  # in the coordinate of the own prior
        assert found[name]["ess"] == pytest.approx(z[k, k] / each, rel=1e-2)
        assert found[name]["own_ess"] == pytest.approx(1 / each, rel=1e-2)


def source(fits, tau: float = 0.0, **content) -> borrowing.Source:
    """A record with exact draws: correlated, and from studies that differ in b by tau."""
    a, _ = fits
    nodes = normal_nodes(256, 2, 1) @ np.linalg.cholesky(np.array([[4.0, 0.6], [0.6, 0.25]])).T
    draws = {"x0": 100 + nodes[:, 0], "b": 3 + nodes[:, 1], "tau_slope": np.full(256, tau)}
    studies = {"slope": SimpleNamespace(parameters=("b",), scale="natural")} if tau else {}
    return borrowing.Source(a.folder, {**a.content, **content}, "0" * 64, replace(a.spec, study_effects=studies), draws)


def target(fits, **changed):
    spec = load_fit_spec(fits[1].folder)
    return replace(spec, **changed)


def test_the_prior_is_that_of_a_new_study(fits):
    """The variance of what differs between studies is added, exactly; what does not differ keeps its own. Leaving tau
    out would be seen: it is most of the variance of b."""
    same, new = (borrowing.borrow(target(fits), source(fits, tau)) for tau in (0.0, 0.8))
    assert np.array(same.mean) == pytest.approx([0, 0], abs=1e-9)
    inside = 256 / 255 * np.array([[4 / 400, 0.6 / 40], [0.6 / 40, 0.25 / 4]])
    assert np.array(same.covariance) == pytest.approx(inside, rel=1e-9)
    count = 256 * 64
    wide = count / (count - 1) * np.array([[4 / 400, 0.6 / 40], [0.6 / 40, (0.25 + 0.64) / 4]])
    assert np.array(new.covariance) == pytest.approx(wide, rel=1e-9)
    assert new.covariance[1][1] > 3 * same.covariance[1][1]
    assert new.source["between_studies"] == {"x0": [], "b": ["slope"]}


# --- the record ----------------------------------------------------------------------------------------------


def test_the_record_says_where_its_prior_is_from_and_verifies(fits):
    a, b = fits
    found = b.content["prior_from"]
    assert (found["name"], found["digest"]) == ("a", a.digest)
    assert verify(b).faults == ()
    assert "prior recomputed from its record" in verify(b).notes
    texts = [row["prior"] for row in b.content["priors"][:2]]
    assert all(text == "1 posterior of a, joint" for text in texts)
    page = report_html(b, figures=False)
    assert "Prior taken from another record" in page and a.digest[:12] in page


def copies(fits, folder: Path):
    for record in fits:
        shutil.copytree(record.folder, folder / record.folder.name)
    return folder / "a", folder / "b"


def test_a_changed_prior_or_another_source_does_not_verify(fits, tmp_path):
    a, b = copies(fits, tmp_path)
    kept = (b / borrowing.FILE).read_text()
    (b / borrowing.FILE).write_text(kept.replace('"own_weight": 0.0', '"own_weight": 0.1'))
    assert any("changed since the fit" in str(fault) for fault in verify(load_record(b)).faults)
    (b / borrowing.FILE).write_text(kept)
    content = {**json.loads((a / "record.json").read_text()), "title": "Renewed"}
    content["digest"] = records._own_digest(content)
    (a / "record.json").write_text(json.dumps(content))
    assert any("is now" in str(fault) for fault in verify(load_record(b)).faults)
    shutil.rmtree(a)
    found = verify(load_record(b))
    assert found.faults == ()
    assert any(note.startswith("prior not compared") for note in found.notes)


# --- refused -------------------------------------------------------------------------------------------------


def refused(fits, spec, read) -> str:
    with pytest.raises(InputError) as caught:
        borrowing.borrow(spec, read)
    assert all(": prior_from." in fault.where for fault in caught.value.faults)
    return str(caught.value)


def asked(fits, *names: str):
    spec = target(fits)
    return replace(spec, prior_from=spec.prior_from.model_copy(update={"parameters": list(names)}))


def test_what_the_two_fits_do_not_share_is_refused(fits):
    read = source(fits, 0.5)
    assert "has no prior of 'bb'" in refused(fits, asked(fits, "bb"), read)
    assert "has no prior of 'tau_slope'" in refused(fits, asked(fits, "x0", "tau_slope"), read)
    assert "does not estimate 'sigma_additive_count'" in refused(fits, asked(fits, "sigma_additive_count"), read)
    assert "named twice" in refused(fits, asked(fits, "b", "b"), read)
    both = refused(fits, asked(fits, "bb", "cc"), read)
    assert "'bb'" in both and "'cc'" in both


def test_another_model_unit_or_support_is_refused(fits):
    model = {**fits[0].content["model"], "sha256": "1" * 64, "name": "curve"}
    assert "is of another model, curve" in refused(fits, target(fits), source(fits, model=model))
    assert borrowing.borrow(asked(fits, "b"), source(fits, model=model)).names == ("b",)
    units = {**fits[0].content["units"], "b": "cell/uL"}
    assert "another unit" in refused(fits, target(fits), source(fits, units=units))
    spec = target(fits)
    narrow = replace(spec.estimate["b"], prior=borrowing.Prior("uniform", {"lower": 3.0, "upper": 9.0}))
    assert "outside the support" in refused(fits, replace(spec, estimate={**spec.estimate, "b": narrow}), source(fits))


def test_invented_patients_and_the_same_data_are_refused(fits):
    assert "SIMULATED" in refused(fits, target(fits, simulated=False), source(fits))
    assert "count twice" in refused(fits, target(fits, data_sha256=fits[0].content["data"]["sha256"]), source(fits))


def call(monkeypatch, capsys, *words: object) -> tuple[int, str]:
    """Exit status and stderr of a command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["thymodel", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def test_a_record_that_failed_or_was_changed_or_is_not_there_is_refused(fits, tmp_path, monkeypatch, capsys):
    a, b = copies(fits, tmp_path)
    for name in ("record.json", borrowing.FILE):
        (b / name).unlink()
    assert with_prior_from(load_fit_spec(b)).borrowed is not None
    whole = json.loads((a / "record.json").read_text())
    failed = {**whole, "verdict": {"passed": False, "sentences": ["FAIL: R-hat"]}}
    failed["digest"] = records._own_digest(failed)
    for text, said in ((json.dumps(failed), "a failed fit may not be quoted"),
                       (json.dumps({**whole, "title": "x"}), "it was changed"), (None, "no record here")):
        (a / "record.json").unlink()
        if text is not None:
            (a / "record.json").write_text(text)
        for command in ("check", "fit"):
            status, told = call(monkeypatch, capsys, command, b)
            assert status == 2
            assert told.startswith(f"{b / 'spec.toml'}: prior_from.record: ") and said in told
        assert not (b / "record.json").exists()


def test_a_command_that_does_not_know_such_priors_says_so(fits, monkeypatch, capsys):
    status, told = call(monkeypatch, capsys, "identify", fits[1].folder)
    assert status == 2
    assert "prior_from: this command does not take priors from a record" in told


@pytest.mark.parametrize("more, place", [
    ('[prior_from]\nrecord = "../a"\nown_weight = 1\n', "prior_from.own_weight"),
    ('[prior_from]\nown_weight = 0.5\n', "prior_from.record"),
    ('prior_from = 3', "prior_from")])
def test_a_table_that_is_none_is_refused(tmp_path, more, place):
    with pytest.raises(InputError) as caught:
        load_fit_spec(write(tmp_path, "b", EARLY, more))
    assert [fault.where.partition(": ")[2] for fault in caught.value.faults] == [place]


def test_the_path_alone_is_a_table_with_a_robust_share(tmp_path):
    spec = load_fit_spec(write(tmp_path, "b", EARLY, 'prior_from = "../a"'))
    assert (spec.prior_from.record, spec.prior_from.own_weight) == ("../a", 0.2)
