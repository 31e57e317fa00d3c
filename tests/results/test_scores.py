"""`thymodel compare`: units, refits, refusals, and what it prints; a tiny fit of made-up subjects."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.toml import digest
from thymodel.errors import InputError, RecordError
from thymodel.results import record as records
from thymodel.results import scores
from thymodel.results.record import load_record
from thymodel.results.scores import Unit, score

pytestmark = pytest.mark.requirement("REQ-CHK-02")


@pytest.fixture(scope="module")
def by_subject(tiny_fit):
    return score(tiny_fit)


@pytest.fixture
def copy(tiny_fit, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_fit.folder, tmp_path / "copy"))


def rewritten(folder: Path, old: str, new: str) -> Path:
    """A record of another spec, digests and all: what a fit of that spec would have left if its draws were these."""
    spec = (folder / "spec.toml").read_text(encoding="utf-8")
    assert old in spec
    (folder / "spec.toml").write_text(spec.replace(old, new), encoding="utf-8")
    resealed(folder, files={"spec.toml": digest((folder / "spec.toml").read_bytes())})
    return folder


def resealed(folder: Path, files: dict[str, str] | None = None, **changes) -> None:
    content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    content |= {"files": content["files"] | (files or {})} | changes
    content["digest"] = records._own_digest(content)
    (folder / "record.json").write_text(json.dumps(content), encoding="utf-8")


def test_each_subject_has_a_score_with_its_errors_and_k(by_subject):
    table = by_subject.table
    assert list(table["unit"]) == ["1", "2", "3", "4"] and list(table["observations"]) == [3, 3, 3, 2]
    assert np.isfinite(table["elpd"]).all() and (table["error"] > 0).all() and (table["integration_error"] > 0).all()
    assert by_subject.total["elpd"] == pytest.approx(table["elpd"].sum())
    assert table["elpd"].idxmin() == 3  # the subject whose last value lies far from any exponential
    assert not table["refitted"].any()


def test_the_likelihoods_that_are_integrated_are_those_of_the_record(tiny_fit):
    """At the effects of a draw, prior and likelihoods add up to the record's log density."""
    from thymodel.inference import marginals
    from thymodel.inference.population import log_prior
    from thymodel.inference.posterior import make_posterior
    from thymodel.results.scores import study_of

    spec, data = study_of(tiny_fit, None)
    posterior = make_posterior(spec, data, tiny_fit.z.reshape(-1, tiny_fit.z.shape[-1]))
    head, effects = marginals.split(posterior, tiny_fit.z[0])
    told = records.load_group(tiny_fit.folder / records.POSTERIOR, "sample_stats")["lp"].values[0]
    conditional = marginals.of_subjects(posterior)
    for k in (0, 7, 19):
        total = float(log_prior(posterior.layout, tiny_fit.z[0, k]) + conditional(head[k], effects[k]).sum())
        assert total == pytest.approx(told[k], abs=0.05)  # both within the solver's tolerance


def test_a_cohort_is_all_its_subjects_and_a_dose_what_they_were_given(tiny_fit):
    cohorts, doses = score(tiny_fit, "cohort"), score(tiny_fit, "dose")
    assert list(cohorts.table["unit"]) == ["control", "dosed"] and list(cohorts.table["observations"]) == [6, 5]
    assert list(doses.table["unit"]) == ["no dose", "cells 100"]
    assert cohorts.elpd == pytest.approx(doses.elpd)


def test_by_observation_every_row_is_a_unit_with_its_time(tiny_fit):
    found = score(tiny_fit, "observation")
    assert len(found.table) == 11 and found.table["unit"].is_unique
    assert found.table["unit"][0] == "1 count at 1 day" and (found.table["integration_error"] == 0).all()


def test_a_refit_is_exact_where_the_weights_are_not(tiny_fit, by_subject, monkeypatch):
    """The limit is set so that one subject, the one with the heaviest weights, is beyond it."""
    limit = by_subject.table["pareto_k"].nlargest(2).iloc[1]
    monkeypatch.setattr(scores.scoring, "most_k", lambda draws: limit)
    suspect = ~(by_subject.table["pareto_k"] <= limit)
    found = score(tiny_fit, refit=True)
    assert suspect.sum() == 1 and (found.table["refitted"] == suspect).all()
    assert np.isfinite(found.table["elpd"]).all()
    kept = ~suspect
    assert found.elpd[kept] == pytest.approx(by_subject.elpd[kept])
    assert "fitted again" in found.notes[0]
    told = scores._told(by_subject.table, Unit.subject, np.flatnonzero(suspect), limit, refit=False)
    assert "use --refit" in told[0] and by_subject.table["unit"][suspect].iloc[0] in told[0]


@pytest.mark.parametrize("by, unit, left", [(Unit.subject, [1], 9 - 1), (Unit.observation, [0, 4], 11 - 2)])
def test_what_is_left_out_is_left_out(tiny_fit, by, unit, left):
    spec, data = scores.study_of(tiny_fit, None)
    rest = scores._without(spec, data, by, unit)
    assert sum(len(s.observations) for s in rest.subjects) == left
    assert len(rest.subjects) == (3 if by is Unit.subject else 4)


def test_one_unit_leaves_nothing(tiny_fit):
    spec, data = scores.study_of(tiny_fit, None)
    same = replace(data, subjects=tuple(replace(s, arm="") for s in data.subjects))
    with pytest.raises(InputError, match="all subjects are of one cohort"):
        scores._groups(same, Unit.cohort)


# --- several records -----------------------------------------------------------------------------------------


def test_equal_records_share_the_weight(by_subject, copy):
    other = replace(by_subject, record=load_record(copy))
    table = scores.compare([by_subject, other])
    assert table["difference"].to_numpy() == pytest.approx([0, 0])
    assert table["stacking_weight"].to_numpy() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_a_record_that_foretells_less_is_behind_by_its_elpd(by_subject, copy):
    worse = by_subject.table.assign(elpd=by_subject.table["elpd"] - 1.5)
    table = scores.compare([replace(by_subject, record=load_record(copy), table=worse), by_subject])
    assert table["record"].iloc[0] == str(by_subject.record.folder)
    assert table["difference"].iloc[1] == pytest.approx(-6.0) and table["stacking_weight"].iloc[0] > 0.99
    assert "rough" in scores.caution(table, 4, Unit.subject)


def test_records_on_other_data_are_refused(tiny_fit, copy):
    data = tiny_fit.content["data"] | {"sha256": "0" * 64}
    resealed(copy, data=data)
    with pytest.raises(InputError, match="same data only"):
        scores.refuse_unlike([tiny_fit, load_record(copy)])


def test_records_that_measure_other_things_are_refused(tiny_fit, copy):
    other = load_record(rewritten(copy, 'error = "lognormal"\nparameters = { log_sd',
                                  'error = "poisson"\nscale = { value = 1, unit = "1" }\n#'))
    with pytest.raises(InputError, match="probability and a density|scale"):
        scores.refuse_unlike([tiny_fit, other])


def test_a_record_twice_is_refused(tiny_fit):
    with pytest.raises(InputError, match="named twice"):
        scores.refuse_unlike([tiny_fit, tiny_fit])


def test_a_changed_record_and_absent_data_are_refused(copy):
    resealed(copy, data=load_record(copy).content["data"] | {"path": None})
    with pytest.raises(InputError, match="give their place with --data"):
        score(load_record(copy))
    (copy / "table.csv").write_text("changed", encoding="utf-8")
    with pytest.raises(RecordError, match="changed since the fit"):
        score(load_record(copy))


def test_numbers_for_programs_and_rows_for_people(by_subject):
    content = json.loads(scores.as_json([by_subject], None))
    (one,) = content["records"]
    assert one["by"] == "subject" and one["simulated"] is True and len(one["units"]) == 4
    assert content["comparison"] is None
    rows = scores.unit_rows(by_subject)
    assert {"subject", "elpd", "Pareto k", "how"} <= set(rows[0])
    assert "4 units" in scores.headline(by_subject)
