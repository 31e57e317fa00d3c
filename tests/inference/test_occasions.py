"""Parameters that differ between occasions of one subject: exact where all is normal, and solved in closed form."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.occasions import occasion_courses
from thymodel.documents.regimen import value_at
from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError
from thymodel.inference import centring
from thymodel.inference.population import settled
from thymodel.inference.posterior import constrain, make_posterior
from thymodel.results.fitting import load_study
from thymodel.results.identifiability import identify
from thymodel.results.prediction import (
    baseline_covariates,
    individual_courses,
    observed_arms,
    simulator,
    virtual_subjects,
)

pytestmark = pytest.mark.requirement("REQ-INF-06")

_MODEL = """
title = "A line and a decay"
description = "x rises by the same amount every day, y falls at a rate, both of which change between occasions."
time = "day"
[covariates]
age = { unit = "year", value = 40, source = "test" }
[constants]
y0 = { unit = "cell/uL", value = 50, source = "test" }
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "normal(mean=100, sd=20)", source = "test" }
b = { unit = "cell/uL/day", value = 3, prior = "normal(mean=3, sd=1)", source = "test" }
k = { unit = "1/day", value = 0.2, prior = "lognormal(median=0.2, sd=0.5)", source = "test" }
[expressions]
loss = "k*y"
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "b"
[states.y]
unit = "cell/uL"
initial = "y0"
rate = "-loss"
[observables.count]
unit = "cell/uL"
value = "x"
[observables.rest]
unit = "cell/uL"
value = "y"
"""
_SPEC = """
title = "Lines on several occasions"
purpose = "test"
model = "line.toml"
estimate = ["x0"]
occasions = [3, 6]
[data]
file = "study.csv"
sha256 = "{data}"
units = {{ TIME = "day", count = "cell/uL", rest = "cell/uL" }}
[between_subject]
x0 = {{ sd = "halfnormal(sd=10)", scale = "natural", source = "test" }}
[between_occasion]
b = {{ sd = "halfnormal(sd=2)", scale = "natural", source = "test" }}
k = {{ sd = "halfnormal(sd=0.5)", source = "test" }}
[likelihood.count]
error = "additive"
parameters = {{ additive = {{ prior = "halfnormal(sd=10)", source = "test" }} }}
[endpoints.gone]
marker = "rest"
threshold = 1
unit = "cell/uL"
horizon = 12
[sampler]
seed = 1
[solver]
rtol = 1e-10
atol = 1e-12
"""
_ROWS = [(1, 1, 95.0), (1, 4, 108.0), (2, 3, 111.0), (2, 4, 114.0), (2, 9, 138.0)]
_EDGES = np.array([0.0, 3.0, 6.0, np.inf])


def _folder(folder: Path) -> Path:
    text = "ID,TIME,DVID,DV\n" + "".join(f"{who},{day},count,{value}\n" for who, day, value in _ROWS)
    (folder / "line.toml").write_text(_MODEL)
    (folder / "study.csv").write_text(text)
    (folder / "spec.toml").write_text(_SPEC.format(data=hashlib.sha256(text.encode()).hexdigest()))
    return folder


def _days_in(times) -> np.ndarray:
    """Days spent in each occasion by each time: (time, occasion)."""
    return np.clip(np.asarray(times, float)[:, None], _EDGES[:-1], _EDGES[1:]) - _EDGES[:-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return _folder(tmp_path_factory.mktemp("occasions"))


@pytest.fixture(scope="module")
def posterior(folder):
    spec = load_fit_spec(folder)
    return make_posterior(spec, load_study(spec, None)[0])


def _drawn(posterior, seed: int):
    z = np.random.default_rng(seed).normal(size=posterior.layout.size)
    return z, {name: np.asarray(value) for name, value in constrain(posterior, jnp.asarray(z)).items()}


def test_the_marginal_likelihood_is_that_of_nested_normal_effects(posterior, log_integral):
    lay = posterior.layout
    assert lay.population == ["x0", "omega_x0", "sigma_additive_count", "gamma_b", "gamma_k"]
    assert list(lay.columns) == ["x0", "b@1", "b@2", "b@3", "k@1", "k@2", "k@3"]
    z, values = _drawn(posterior, 2)
    over = [0, *range(len(lay.population), lay.size)]
    who, day, value = np.array(_ROWS).T
    same, spent = (who[:, None] == who[None, :]).astype(float), _days_in(day)
    covariance = (400.0 + same * (values["omega_x0"] ** 2 + values["gamma_b"] ** 2 * spent @ spent.T)
                  + values["sigma_additive_count"] ** 2 * np.eye(len(day)))
    exact = scipy.stats.multivariate_normal(100 + 3 * day, covariance).logpdf(value)
    exact += scipy.stats.norm.logpdf(z[1:5]).sum()
    assert posterior.solver.kind == "native"
    assert log_integral(posterior.log_density, z, over) == pytest.approx(exact, abs=1e-6)


def test_without_spread_between_occasions_there_are_none(posterior, folder, tmp_path):
    """gamma to 0 is the fit without the section; and, as a control, not so at the prior's median."""
    text = (folder / "spec.toml").read_text().replace("occasions = [3, 6]\n", "")
    begin, end = text.index("[between_occasion]"), text.index("[likelihood.count]")
    _folder(tmp_path)
    (tmp_path / "spec.toml").write_text(text[:begin] + text[end:])
    spec = load_fit_spec(tmp_path)
    plain = make_posterior(spec, load_study(spec, None)[0])
    assert not plain.spec.model.switches and set(settled(spec)) == {"b", "k"}
    z, lay = _drawn(posterior, 3)[0], posterior.layout
    z[3:5] = -30.0
    etas = z[5:].reshape(2, -1)
    own = np.concatenate([z[:3], etas[:, 0]])
    priors = scipy.stats.norm.logpdf(np.concatenate([z[3:5], etas[:, 1:].ravel()])).sum()
    density = jax.jit(posterior.log_density)
    alone = float(plain.log_density(jnp.asarray(own)))
    assert float(density(jnp.asarray(z))) == pytest.approx(alone + priors, abs=1e-6)
    z[3] = 0.0
    priors += scipy.stats.norm.logpdf(0.0) - scipy.stats.norm.logpdf(-30.0)
    assert abs(float(density(jnp.asarray(z))) - alone - priors) > 0.1
    assert centring.coordinates(lay).weights == 7 + 2 * 5


def _exact(x0, b, k, times):
    """Courses (subject, time, observable) from each subject's x0 and each occasion's slope and rate."""
    spent = _days_in(times)
    return np.stack([x0[:, None] + b @ spent.T, 50 * np.exp(-k @ spent.T)], axis=-1)


def test_courses_of_patients_follow_their_occasions(posterior):
    """On days of a change the value is that of the occasion before."""
    z, values = _drawn(posterior, 4)
    times = np.array([0.0, 2.0, 3.0, 5.0, 6.0, 8.0])
    data = load_study(posterior.spec, None)[0]
    found = individual_courses(posterior.spec, posterior.layout, z[None], data, ("count", "rest"), times)[0]
    b, k = (np.stack([values[f"re_{name}_occasion_{j}"] for j in (1, 2, 3)], axis=1) for name in ("b", "k"))
    assert found == pytest.approx(_exact(values["x0"] + values["re_x0"], 3 + b, 0.2 * np.exp(k), times), rel=1e-3)


@pytest.mark.parametrize("solver", ["native", "jax"])
def test_new_subjects_draw_new_occasions(posterior, solver, monkeypatch):
    monkeypatch.setenv("THYMODEL_SOLVER", solver)
    spec, lay = posterior.spec, posterior.layout
    z, values = _drawn(posterior, 5)
    data = load_study(spec, None)[0]
    people = virtual_subjects(spec, baseline_covariates(spec, data), 8, 1)
    assert people.standard.shape == (8, 7) and set(people.covariates) == {"age"}
    times = np.array([0.0, 2.0, 3.0, 5.0, 8.0])
    found = simulator(spec, lay, z[None], observed_arms(spec, data), people, times)(z[None], ("count",))[0, 0]
    x0 = values["x0"] + values["omega_x0"] * people.standard[:, 0]
    b = 3 + values["gamma_b"] * people.standard[:, 1:4]
    assert found == pytest.approx(_exact(x0, b, np.ones((8, 3)), times)[..., :1], rel=1e-4)


def test_switches_are_on_in_turn():
    courses = occasion_courses(-2.0, (3.0, 6.0))
    for time, wanted in ((-2.0, [1, 0, 0]), (3.0, [0, 1, 0]), (5.9, [0, 1, 0]), (6.0, [0, 0, 1]), (99.0, [0, 0, 1])):
        assert [value_at(course, time) for course in courses.values()] == wanted


@pytest.mark.parametrize("old, new, places", [
    ("occasions = [3, 6]\n", "", ["occasions: missing"]),
    ("occasions = [3, 6]", "occasions = [6, 3, 0]", ["occasions: [6.0, 3.0, 0.0]: not ascending"]),
    ("b = {{ sd = ", "kk = {{ sd = ", ["between_occasion.kk: the model has no parameter 'kk'"]),
    ("halfnormal(sd=2)", "normal(mean=0, sd=2)", ["between_occasion.b.sd: normal(mean=0, sd=2) allows negative"]),
    ('scale = "natural", source = "test" }}\nk', 'source = "test" }}\nk', ["between_occasion.b.scale: 'b'"])])
def test_faults_are_told_with_their_place(tmp_path, old, new, places):
    folder = _folder(tmp_path)
    text = (folder / "spec.toml").read_text()
    old, new = old.replace("{{", "{").replace("}}", "}"), new.replace("{{", "{").replace("}}", "}")
    assert text.count(old) == 1
    (folder / "spec.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError) as error:
        load_fit_spec(folder)
    assert all(place in str(error.value) for place in places), str(error.value)


def test_occasions_between_which_nothing_differs_are_refused(tmp_path):
    folder = _folder(tmp_path)
    text = (folder / "spec.toml").read_text()
    begin, end = text.index("[between_occasion]"), text.index("[likelihood.count]")
    (folder / "spec.toml").write_text(text[:begin] + text[end:])
    with pytest.raises(InputError, match="occasions: nothing differs between them"):
        load_fit_spec(folder)


def test_identify_refuses_what_it_does_not_compute(folder):
    with pytest.raises(InputError, match="between_occasion: what is learned between these is not computed"):
        identify(folder)
