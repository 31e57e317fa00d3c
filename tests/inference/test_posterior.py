"""The log density of a small study against one written with numpy, scipy and LSODA alone, for either solver."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from thymodel.documents.data import StudyData, Subject
from thymodel.documents.regimen import Dose
from thymodel.documents.rows import Observation
from thymodel.documents.spec import load_fit_spec
from thymodel.inference.posterior import constrain, make_posterior

pytestmark = pytest.mark.requirement("REQ-INF-01")

_MODEL = """
title = "Progenitors seed a pool that renews itself"
description = "Small, not linear, explodes if renewal is fast."
time = "day"
start = 0
[covariates]
age = { unit = "year", value = 40, source = "test" }
[parameters]
c = { unit = "1/day", value = 0.2, source = "test" }
s = { unit = "1/day", value = 0.5, prior = "lognormal(median=0.5, sd=0.4)", source = "test" }
k = { unit = "1/day", value = 0.05, prior = "lognormal(median=0.05, sd=0.3)", source = "test" }
T0 = { unit = "cell/uL", value = 40, prior = "lognormal(median=40, sd=0.3)", source = "test" }
r = { unit = "uL/cell/day", value = 0.0001, prior = "lognormal(median=0.0001, sd=0.5)", source = "test" }
f = { unit = "1", value = 0.3, prior = "logitnormal(median=0.3, sd=0.5)", source = "test" }
[states.P]
unit = "cell/uL"
initial = "0"
rate = "-c*P"
[states.T]
unit = "cell/uL"
initial = "T0"
rate = "s*P - k*T + r*T**2"
[inputs.cells]
unit = "cell/uL"
add = { P = "amount" }
[observables.count]
unit = "cell/uL"
value = "T"
[observables.young]
unit = "cell/uL"
value = "f*T"
"""

_SPEC = """
title = "A small study"
purpose = "test"
model = "pool.toml"
estimate = ["s", "k", "T0", "r", "f"]
[data]
file = "none.csv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
units = { TIME = "day", count = "cell/uL", young = "cell/uL", cells = "cell/uL", age = "year" }
[between_subject]
k = { sd = "halfnormal(sd=0.5)", source = "test" }
T0 = { sd = "halfnormal(sd=0.5)", source = "test" }
f = { sd = "halfcauchy(scale=0.5)", scale = "logit", source = "test" }
[[correlation]]
effects = ["k", "T0"]
prior = "lkj(shape=2)"
source = "test"
[covariate_effects.age_k]
parameter = "k"
covariate = "age"
form = "power"
reference = 45
prior = "normal(mean=0, sd=1)"
source = "test"
[likelihood.count]
error = "student_t"
df = 4
offset = 1
parameters = { log_sd = { prior = "lognormal(median=0.3, sd=0.3)", source = "test" } }
[likelihood.young]
error = "combined"
[likelihood.young.parameters]
additive = { prior = "halfnormal(sd=5)", source = "test" }
proportional = { prior = "halfnormal(sd=0.3)", source = "test" }
[sampler]
seed = 1
[solver]
rtol = 1e-9
atol = 1e-12
"""
NAN = float("nan")
SOLVERS = 1e-6  # log units that a relative tolerance of 1e-9 leaves between steps laid out differently


def _subject(name: str, age: float, doses, observations) -> Subject:
    rows = tuple(Observation(float(day), observable, value, censoring, limit, row)
                 for row, (day, observable, value, censoring, limit) in enumerate(observations))
    return Subject(name, "", tuple(Dose(day, "cells", amount) for day, amount in doses), rows,
                   (("age", ((0.0, age),)),))


STUDY = StudyData(subjects=(
    _subject("a", 30.0, [(2.0, 20.0)], [(1, "count", 42.0, 0, NAN), (2, "count", 35.0, 0, NAN),
                                        (9, "count", 70.0, 0, NAN), (9, "young", 20.0, 0, NAN)]),
    _subject("b", 62.0, [], [(3, "count", 30.0, 1, NAN), (20, "count", 20.0, 1, 5.0), (20, "young", 8.0, 1, NAN)]),
    _subject("c", 45.0, [(0.0, 10.0), (5.0, 30.0)], [(5, "count", 60.0, 0, NAN), (12, "count", 100.0, -1, NAN),
                                                    (12, "young", 30.0, -1, 60.0)]),
    _subject("d", 51.0, [(4.0, 15.0)], [(0, "count", 55.0, 0, NAN), (7, "young", 15.0, 0, NAN),
                                        (30, "count", 25.0, 0, NAN)]),
    _subject("e", 38.0, [(1.0, 5.0)], []),
), exclusions=(), notes=(), digest="", name="none.csv", rows=13)

_HEAD = ("s", "k", "T0", "r", "f", "omega_k", "omega_T0", "omega_f", "corr_k_T0", "beta_age_k",
         "sigma_count", "sigma_additive_young", "sigma_proportional_young")
POINTS = np.random.default_rng(8).normal(scale=0.7, size=(4, len(_HEAD) + 15))


@pytest.fixture(scope="module", params=["native", "jax"])
def solver(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYMODEL_SOLVER", request.param)
        yield request.param


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("pool")
    (folder / "pool.toml").write_text(_MODEL)
    (folder / "spec.toml").write_text(_SPEC)
    return load_fit_spec(folder)


@pytest.fixture(scope="module")
def posterior(spec, solver):
    made = make_posterior(spec, STUDY)
    assert made.solver.kind == solver, made.solver.why
    return made


@pytest.fixture(scope="module")
def density(posterior):
    """z -> log density and gradient of the study."""
    return jax.jit(jax.value_and_grad(posterior.log_density))


# --- the second opinion --------------------------------------------------------------------------------------


def _natural(z: np.ndarray) -> dict[str, float]:
    n = dict(zip(_HEAD, z, strict=False))
    phi = scipy.stats.norm.cdf
    return {
        "s": 0.5 * np.exp(0.4 * n["s"]), "k": 0.05 * np.exp(0.3 * n["k"]), "T0": 40 * np.exp(0.3 * n["T0"]),
        "r": 1e-4 * np.exp(0.5 * n["r"]), "f": scipy.special.expit(scipy.special.logit(0.3) + 0.5 * n["f"]),
        "omega_k": scipy.stats.halfnorm(scale=0.5).ppf(phi(n["omega_k"])),
        "omega_T0": scipy.stats.halfnorm(scale=0.5).ppf(phi(n["omega_T0"])),
        "omega_f": scipy.stats.halfcauchy(scale=0.5).ppf(phi(n["omega_f"])),
        "corr_k_T0": np.tanh(n["corr_k_T0"]), "beta_age_k": n["beta_age_k"],
        "sigma_count": 0.3 * np.exp(0.3 * n["sigma_count"]),
        "sigma_additive_young": scipy.stats.halfnorm(scale=5).ppf(phi(n["sigma_additive_young"])),
        "sigma_proportional_young": scipy.stats.halfnorm(scale=0.3).ppf(phi(n["sigma_proportional_young"])),
    }


def _log_prior(z: np.ndarray) -> float:
    place = _HEAD.index("corr_k_T0")
    r = np.tanh(z[place])
    lkj = scipy.stats.beta(2, 2).logpdf((1 + r) / 2) - np.log(2) + np.log1p(-r**2)
    return scipy.stats.norm.logpdf(np.delete(z, place)).sum() + lkj


def _pool(subject: Subject, c, s, k, T0, r) -> dict[float, float]:
    """T at each observation time; a dose acts after the observation at its time."""
    days = sorted({o.time for o in subject.observations})
    state, now, found = np.array([0.0, T0]), 0.0, {}
    events = sorted([(day, 0, 0.0) for day in days] + [(d.time, 1, d.amount) for d in subject.doses])
    for day, is_dose, amount in events:
        if day > now:
            state = scipy.integrate.solve_ivp(
                lambda t, y: (-c * y[0], s * y[0] - k * y[1] + r * y[1] ** 2), (now, day), state, method="LSODA",
                rtol=1e-12, atol=1e-12).y[:, -1]
            now = day
        if is_dose:
            state = state + np.array([amount, 0.0])
        else:
            found[day] = state[1]
    return found


def _log_term(o: Observation, T: float, f: float, p: dict[str, float]) -> float:
    if o.observable == "count":
        dist, place = scipy.stats.t(4, np.log(T + 1), p["sigma_count"]), lambda y: np.log(y + 1)
        slope = -np.log(o.value + 1)
    else:
        spread = np.hypot(p["sigma_additive_young"], p["sigma_proportional_young"] * f * T)
        dist, place, slope = scipy.stats.norm(f * T, spread), lambda y: y, 0.0
    if o.censoring == 0:
        return dist.logpdf(place(o.value)) + slope
    if np.isnan(o.limit):
        return dist.logcdf(place(o.value)) if o.censoring == 1 else dist.logsf(place(o.value))
    return np.log(abs(dist.cdf(place(o.value)) - dist.cdf(place(o.limit))))


def _log_density(z: np.ndarray) -> float:
    p, total = _natural(z), _log_prior(z)
    for subject, (first, second, third) in zip(STUDY.subjects, z[len(_HEAD):].reshape(-1, 3), strict=True):
        rho = p["corr_k_T0"]
        age = dict(subject.covariates)["age"][0][1]
        k = p["k"] * np.exp(p["omega_k"] * first) * (age / 45) ** p["beta_age_k"]
        T0 = p["T0"] * np.exp(p["omega_T0"] * (rho * first + np.sqrt(1 - rho**2) * second))
        f = scipy.special.expit(scipy.special.logit(p["f"]) + p["omega_f"] * third)
        course = _pool(subject, 0.2, p["s"], k, T0, p["r"])
        total += sum(_log_term(o, course[o.time], f, p) for o in subject.observations)
    return total


# --- facts ---------------------------------------------------------------------------------------------------


def test_the_log_density_is_that_of_a_second_opinion(density):
    for z in POINTS:
        assert float(density(z)[0]) == pytest.approx(_log_density(z), abs=SOLVERS)


@pytest.mark.requirement("REQ-NUM-05")
def test_the_gradient_is_that_of_central_differences_in_every_coordinate(density):
    z, width = POINTS[0], 1e-2
    gradient = np.asarray(density(z)[1])
    for k, slope in enumerate(gradient):
        step = width * np.eye(len(z))[k]
        a, b, c, d = (float(density(z + m * step)[0]) for m in (-2, -1, 1, 2))
        expected = (a - 8 * b + 8 * c - d) / (12 * width)  # of fourth order
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-6), k


def test_a_subject_without_observations_adds_only_its_prior(density):
    z = POINTS[1].copy()
    before, gradient = density(z)
    np.testing.assert_allclose(gradient[-3:], -z[-3:], rtol=1e-12)
    moved = z.copy()
    moved[-3:] += 0.5
    change = scipy.stats.norm.logpdf(moved[-3:]).sum() - scipy.stats.norm.logpdf(z[-3:]).sum()
    assert float(density(moved)[0] - before) == pytest.approx(change, abs=1e-10)


def test_the_order_of_subjects_and_rows_does_not_matter(spec, density):
    order = [3, 0, 4, 2, 1]
    shuffled = tuple(replace(STUDY.subjects[k], observations=STUDY.subjects[k].observations[::-1]) for k in order)
    other = jax.jit(make_posterior(spec, replace(STUDY, subjects=shuffled)).log_density)
    for z in POINTS:
        etas = z[len(_HEAD):].reshape(5, 3)[order]
        found = float(other(np.concatenate([z[: len(_HEAD)], etas.ravel()])))
        assert found == pytest.approx(float(density(z)[0]), abs=SOLVERS)


@pytest.mark.parametrize("size", [8.0, 30.0, 1e6])
def test_a_model_that_explodes_has_no_density_and_raises_nothing(density, size):
    z = np.zeros(len(POINTS[0]))
    z[_HEAD.index("r")] = size  # r*T0 beyond k: the pool is infinite after a few days
    assert float(density(z)[0]) == -np.inf


def test_a_draw_is_told_in_natural_values(posterior):
    found = {name: np.asarray(v) for name, v in jax.jit(lambda z: constrain(posterior, z))(POINTS[2]).items()}
    expected = _natural(POINTS[2])
    assert set(found) == {*expected, "re_k", "re_T0", "re_f"}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-9), name
    etas = POINTS[2][len(_HEAD):].reshape(5, 3)
    np.testing.assert_allclose(found["re_f"], expected["omega_f"] * etas[:, 2], rtol=1e-9)
