"""Studies, occasions, covariates that change or are missing, and uncertain doses in one spec: against a closed form."""

import hashlib
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError
from thymodel.inference.posterior import constrain, make_posterior
from thymodel.results.fitting import load_study
from thymodel.results.identifiability import identify
from thymodel.results.prediction import baseline_covariates, observed_arms, simulator, virtual_subjects

pytestmark = pytest.mark.requirement("REQ-INF-06")

_MODEL = """
title = "A line"
description = "x rises by b a day, and by what is given."
time = "day"
[covariates]
w = { unit = "1", value = 1, source = "test" }
[parameters]
b = { unit = "cell/uL/day", value = 3, prior = "normal(mean=3, sd=1)", source = "test" }
[states.x]
unit = "cell/uL"
initial = "0"
rate = "b"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
unit = "cell/uL"
value = "x"
"""
_SPEC = """
title = "All levels of one line"
purpose = "test"
model = "line.toml"
estimate = ["b"]
occasions = [3, 6]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", cells = "cell/uL", w = "1" }}
[between_subject]
b = {{ sd = "halfnormal(sd=1)", scale = "natural", source = "test" }}
[between_occasion]
b = {{ sd = "halfnormal(sd=1)", scale = "natural", source = "test" }}
[study_effect]
b = {{ sd = "halfnormal(sd=1)", scale = "natural", source = "test" }}
[covariate_effects.w_b]
parameter = "b"
covariate = "w"
form = "linear"
reference = 1
prior = "normal(mean=0, sd=0.5)"
source = "test"
[missing_covariates.w]
distribution = "normal"
typical = 1.0
sd = "halfnormal(sd=1)"
source = "test"
[dose_error.cells]
sd = 0.2
source = "test"
[likelihood.count]
error = "additive"
parameters = {{ additive = {{ prior = "halfnormal(sd=10)", source = "test" }} }}
[sampler]
seed = 1
[solver]
rtol = 1e-10
atol = 1e-12
"""
_STUDY = """ID,STUDY,TIME,EVID,CMT,AMT,DVID,DV,w
1,A,0,2,,,,,0.5
1,A,2,0,,,count,7,
1,A,4,2,,,,,1.5
1,A,5,0,,,count,16,
1,A,8,0,,,count,25,
2,B,2,1,cells,5,,,
2,B,4,0,,,count,15,
2,B,9,0,,,count,31,
"""
_W = [lambda day: np.where(day < 4, 0.5, 1.5), None]  # None: not known
_VISITS = [(0, 2.0), (0, 5.0), (0, 8.0), (1, 4.0), (1, 9.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "line.toml").write_text(_MODEL)
    (tmp_path / "study.csv").write_text(_STUDY)
    (tmp_path / "spec.toml").write_text(_SPEC.format(digest=hashlib.sha256(_STUDY.encode()).hexdigest()))
    return tmp_path


def _line(day: float, slope: float, by_occasion, beta: float, w) -> float:
    """x without doses: the slope of the occasion, times what the covariate makes of it, from change to change."""
    edges = np.unique(np.clip([0.0, 3.0, 4.0, 6.0, day], 0.0, day))
    begins, spent = edges[:-1], np.diff(edges)
    shift = np.asarray(by_occasion)[np.searchsorted([3.0, 6.0], begins, side="right")]
    return float(np.sum((slope + shift) * np.exp(beta * (w(begins) - 1)) * spent))


@pytest.mark.parametrize("solver", ["native", "jax"])
def test_patients_follow_subject_study_occasion_and_covariate(folder, solver, monkeypatch):
    monkeypatch.setenv("THYMODEL_SOLVER", solver)
    spec = load_fit_spec(folder)
    posterior = make_posterior(spec, load_study(spec, None)[0])
    lay = posterior.layout
    assert posterior.solver.kind == solver
    assert lay.columns == ("b", "dose_cells", "b@1", "b@2", "b@3", "missing_w")
    assert lay.population == ["b", "omega_b", "beta_w_b", "sigma_additive_count", "tau_b", "study_b_A", "study_b_B",
                              "gamma_b", "sd_w"]
    z = np.random.default_rng(6).normal(size=lay.size)
    values = {name: np.asarray(value) for name, value in constrain(posterior, jnp.asarray(z)).items()}
    slopes = values["b"] + values["re_b"] + [values["study_b_A"], values["study_b_B"]]
    occasions = np.stack([values[f"re_b_occasion_{j}"] for j in (1, 2, 3)], axis=1)
    courses = [w or (lambda day: np.full_like(day, values["missing_w"][0])) for w in _W]
    given = 5.0 * np.exp(values["re_dose_cells"][1])
    exact = [_line(day, slopes[k], occasions[k], values["beta_w_b"], courses[k]) + (given if k else 0.0)
             for k, day in _VISITS]
    assert np.asarray(posterior.predictions(jnp.asarray(z))) == pytest.approx(np.array(exact), rel=1e-7)
    assert np.isfinite(posterior.log_density(jnp.asarray(z)))


def test_new_subjects_draw_all_but_a_study(folder):
    spec = load_fit_spec(folder)
    data = load_study(spec, None)[0]
    posterior = make_posterior(spec, data)
    z = np.random.default_rng(7).normal(size=posterior.layout.size)
    values = {name: np.asarray(value) for name, value in constrain(posterior, jnp.asarray(z)).items()}
    people = virtual_subjects(spec, baseline_covariates(spec, data), 8, 1)
    assert people.standard.shape == (8, 6)
    unknown = np.isnan(people.covariates["w"])
    assert 0 < unknown.sum() < 8
    w = np.where(unknown, 1.0 + values["sd_w"] * people.standard[:, 5], 0.5)
    arm = replace(observed_arms(spec, data)[0], doses=data.subjects[1].doses)
    found = simulator(spec, posterior.layout, z[None], [arm], people, np.array([0.0, 5.0, 8.0]))(z[None], ("count",))
    slope = values["b"] + values["omega_b"] * people.standard[:, 0]
    exact = [[_line(day, slope[k], values["gamma_b"] * people.standard[k, 2:5], values["beta_w_b"],
                    lambda begins, k=k: np.full_like(begins, w[k])) for day in (5.0, 8.0)] for k in range(8)]
    given = 5.0 * np.exp(0.2 * people.standard[:, 1])
    assert found[0, 0, :, 1:, 0] == pytest.approx(np.array(exact) + given[:, None], rel=1e-4)


def test_identify_lists_all_that_it_does_not_compute(folder):
    with pytest.raises(InputError) as error:
        identify(folder)
    told = str(error.value)
    assert all(name in told for name in ("study_effect", "between_occasion", "missing_covariates"))
