"""Studies that differ: patients and published figures of one study share its effect; exact where all is normal."""

import hashlib
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError
from thymodel.inference import checking
from thymodel.inference.population import population_values
from thymodel.inference.posterior import Posterior, constrain, in_portions, layout_of, make_posterior
from thymodel.results.fitting import load_study
from thymodel.results.identifiability import identify
from thymodel.results.prediction import baseline_covariates, observed_arms, simulator, virtual_subjects
from thymodel.results.scores import Unit, _without

pytestmark = pytest.mark.requirement("REQ-INF-06")

_MODEL = """
title = "A line"
description = "x rises by the same amount every day, from a start that differs between people and between studies."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "normal(mean=100, sd=20)", source = "test" }
b = { unit = "cell/uL/day", value = 3, prior = "normal(mean=3, sd=1)", source = "test" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "b"
[observables.count]
unit = "cell/uL"
value = "x"
"""
_SPEC = """
title = "Lines of several studies"
purpose = "test"
model = "line.toml"
estimate = ["x0"]
[data]
file = "study.csv"
sha256 = "{data}"
units = {{ TIME = "day", count = "cell/uL" }}
columns = {{ STUDY = "TRIAL" }}
{published}
[between_subject]
x0 = {{ sd = "halfnormal(sd=10)", scale = "natural", source = "test" }}
[study_effect]
x0 = {{ sd = "halfnormal(sd=20)", scale = "natural", source = "test" }}
[likelihood.count]
error = "additive"
parameters = {{ additive = {{ prior = "halfnormal(sd=10)", source = "test" }} }}
[sampler]
seed = 1
[solver]
rtol = 1e-10
atol = 1e-12
"""
_PAPER = """
title = "A paper"
[cohorts.all]
study = "Two"
source = "test"
[[rows]]
cohort = "all"
day = 3
observable = "count"
statistic = "mean"
value = 120
n = 20
unit = "cell/uL"
source = "test"
"""
_ROWS = [("1", "One", 1, 95.0), ("1", "One", 4, 108.0), ("2", "Two", 1, 131.0), ("2", "Two", 4, 140.0),
         ("3", "Two", 2, 118.0), ("4", "One", 1, 90.0), ("4", "One", 2, 99.0)]


def _folder(folder: Path, rows=_ROWS, paper: str = "", header: str = "ID,TRIAL,TIME,DVID,DV") -> Path:
    text = "\n".join([header, *(f"{who},{study},{day},count,{value}" for who, study, day, value in rows)]) + "\n"
    (folder / "line.toml").write_text(_MODEL)
    (folder / "study.csv").write_text(text)
    published = ""
    if paper:
        (folder / "papers.toml").write_text(paper)
        published = f'[published.papers]\nfile = "papers.toml"\nsha256 = "{_digest(paper)}"'
    (folder / "spec.toml").write_text(_SPEC.format(data=_digest(text), published=published))
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _posterior(folder: Path) -> Posterior:
    spec = load_fit_spec(folder)
    return make_posterior(spec, load_study(spec, None)[0])


@pytest.fixture(scope="module")
def posterior(tmp_path_factory):
    return _posterior(_folder(tmp_path_factory.mktemp("studies")))


def test_the_marginal_likelihood_is_that_of_nested_normal_effects(posterior, log_integral):
    lay = posterior.layout
    assert lay.population == ["x0", "omega_x0", "sigma_additive_count", "tau_x0", "study_x0_One", "study_x0_Two"]
    z = np.random.default_rng(2).normal(size=lay.size)
    values = {name: float(v) for name, v in constrain(posterior, jnp.asarray(z)).items() if jnp.ndim(v) == 0}
    fixed = [lay.population.index(name) for name in ("omega_x0", "sigma_additive_count", "tau_x0")]
    over = [k for k in range(lay.size) if k not in fixed]
    who, study = (np.array([row[k] for row in _ROWS]) for k in (0, 1))
    day, value = (np.array([row[k] for row in _ROWS], float) for k in (2, 3))
    same = [(of[:, None] == of[None, :]).astype(float) for of in (who, study)]
    covariance = (400.0 + values["omega_x0"] ** 2 * same[0] + values["tau_x0"] ** 2 * same[1]
                  + values["sigma_additive_count"] ** 2 * np.eye(len(day)))
    exact = scipy.stats.multivariate_normal(100 + 3 * day, covariance).logpdf(value)
    exact += scipy.stats.norm.logpdf(z[fixed]).sum()
    assert log_integral(posterior.log_density, z, over) == pytest.approx(exact, abs=1e-6)


def test_without_spread_between_studies_there_is_one_study(posterior):
    """tau to 0; and, as a control, not so at a tau of 20."""
    lay = posterior.layout
    z = np.random.default_rng(3).normal(size=lay.size)
    place = {name: k for k, name in enumerate(lay.population)}
    z[place["tau_x0"]] = -30.0
    points = np.stack([z] * 3)
    points[1:, place["study_x0_One"]] += 2.0
    points[2, place["tau_x0"]] = 1.0
    one, other, apart = in_portions(posterior.subject_values, points)["x0"]
    assert other == pytest.approx(one, abs=1e-9)
    assert (np.abs(apart - one) > 5).all()


def test_patients_and_figures_of_one_study_share_its_effect(tmp_path):
    posterior = _posterior(_folder(tmp_path, paper=_PAPER))
    lay = posterior.layout
    assert lay.studies == ("Two", "One") and lay.study == (1, 0, 0, 1)
    z = np.random.default_rng(4).normal(size=(2, lay.size))
    z[1] = z[0]
    z[1, lay.population.index("study_x0_Two")] += 1.5
    before, after = (float(constrain(posterior, jnp.asarray(point))["study_x0_Two"]) for point in z)
    values = in_portions(posterior.subject_values, z)["x0"]
    moved, plan = values[1] - values[0], posterior.plans[0]
    assert moved[:4] == pytest.approx([0.0, after - before, after - before, 0.0], abs=1e-9)
    assert moved[plan.first:plan.last] == pytest.approx(np.full(plan.last - plan.first, after - before))


def test_new_subjects_are_of_a_study_in_the_middle_and_replicates_of_their_own(posterior):
    spec, lay = posterior.spec, posterior.layout
    data = load_study(spec, None)[0]
    z = np.random.default_rng(5).normal(size=(2, lay.size))
    z[1], place = z[0], lay.population.index("study_x0_One")
    z[1, place] += 2.0
    people = virtual_subjects(spec, baseline_covariates(spec, data), 8, 1)
    arms = observed_arms(spec, data)
    found = simulator(spec, lay, z, arms, people, np.array([0.0, 5.0]))(z, ("count",))
    assert found[0, 0] == pytest.approx(found[0, 1])
    own = [replace(arm, study=name) for arm in arms[:1] for name in ("", "One")]  # as of a published cohort
    middle, one = simulator(spec, lay, z, own, people, np.array([0.0, 5.0]))(z, ("count",))
    shift = [float(population_values(lay, jnp.asarray(point))["study_x0_One"]) for point in z]
    assert middle == pytest.approx(found[0])
    np.testing.assert_allclose(one - middle, np.reshape(shift, (2, 1, 1, 1)) + np.zeros_like(one), atol=1e-6)
    again = checking.new_subjects(lay, z, np.random.default_rng(1))
    head = len(lay.population)
    assert (again[:, :head] == z[:, :head]).all() and (again[:, head:] != z[:, head:]).all()
    assert any("One (2 subjects), Two (2 subjects)" in note for note in data.notes)


def test_a_study_left_out_keeps_its_place(posterior):
    """A refit without a study gives its effect the prior: other names in the same places."""
    data = load_study(posterior.spec, None)[0]
    rest = layout_of(posterior.spec, _without(posterior.spec, data, Unit.cohort, [0, 3]))
    assert rest.population == posterior.layout.population and rest.study == (1, 1)


@pytest.mark.parametrize("rows, header, places", [
    ([("1", "", 1, 95.0), ("2", "A b", 1, 95.0), ("3", "C", 1, 9.0), ("3", "D", 2, 9.0)], "ID,TRIAL,TIME,DVID,DV",
     ["row 2, column TRIAL: TRIAL is missing|row 2, column TRIAL: STUDY is missing", "row 3, column TRIAL: 'A b'",
      "row 5, column TRIAL: study 'D' where subject 3 is in 'C'"]),
    ([("1", "A", 1, 95.0), ("2", "A", 1, 95.0)], "ID,TRIAL,TIME,DVID,DV", ["one study only: A"])])
def test_faults_of_the_column_are_all_told(tmp_path, rows, header, places):
    with pytest.raises(InputError) as error:
        load_study(load_fit_spec(_folder(tmp_path, rows, header=header)), None)
    told = str(error.value)
    assert all(any(one in told for one in place.split("|")) for place in places), told


def test_a_study_effect_needs_the_column(tmp_path):
    folder = _folder(tmp_path, header="ID,SITE,TIME,DVID,DV")
    text = (folder / "spec.toml").read_text().replace('columns = { STUDY = "TRIAL" }\n', "")
    (folder / "spec.toml").write_text(text)
    with pytest.raises(InputError, match="no column STUDY, which a study effect needs"):
        load_study(load_fit_spec(folder), None)


def test_identify_refuses_what_it_does_not_compute(tmp_path):
    with pytest.raises(InputError, match="study_effect: what is learned between these is not computed"):
        identify(_folder(tmp_path))
