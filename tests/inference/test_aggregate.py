"""Published cohorts as likelihood: closed forms, a brute-force simulation of whole cohorts, laws and limits."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec, load_fit_spec
from thymodel.inference import aggregate
from thymodel.inference.population import log_prior, population_values
from thymodel.inference.posterior import Posterior, make_posterior

_LINE = """
title = "A line"
description = "x rises by the same amount every day, from a start that differs between people."
time = "day"
[covariates]
age = { unit = "year", value = 40, source = "test" }
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "normal(mean=100, sd=20)", source = "test" }
b = { unit = "cell/uL/day", value = 3, prior = "normal(mean=3, sd=1)", source = "test" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "b"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
unit = "cell/uL"
value = "x"
[observables.half]
unit = "cell/uL"
value = "0.5*x"
"""
_NATURAL = """
title = "Published lines"
purpose = "test"
model = "line.toml"
estimate = ["x0", "b"]
[published.papers]
file = "papers.toml"
sha256 = "{digest}"
[between_subject]
x0 = {{ sd = "halfnormal(sd=10)", scale = "natural", source = "test" }}
b = {{ sd = "halfnormal(sd=1)", scale = "natural", source = "test" }}
[likelihood.count]
error = "additive"
parameters = {{ additive = {{ prior = "halfnormal(sd=10)", source = "test" }} }}
[likelihood.half]
error = "additive"
parameters = {{ additive = {{ prior = "halfnormal(sd=5)", source = "test" }} }}
{more}
[sampler]
seed = 1
[solver]
rtol = 1e-10
atol = 1e-12
"""
_LOGS = _NATURAL.replace("""scale = "natural", """, "").replace("halfnormal(sd=10)", "halfnormal(sd=0.6)").replace(
    "additive = ", "log_sd = ").replace('"additive"', '"lognormal"').replace("sd=5)", "sd=0.5)").replace(
    "halfnormal(sd=1)", "halfnormal(sd=0.3)").replace("[between_subject]", """[override.x0]
prior = "lognormal(median=100, sd=0.2)"
reason = "above zero"
[override.b]
prior = "lognormal(median=3, sd=0.3)"
reason = "above zero"
[between_subject]""")
COHORT = """
title = "Papers"
[cohorts.a]
study = "One"
source = "made up"
"""
EMPTY = StudyData((), (), (), "", "none", 0)
SOLVER = 1e-6  # log units that a relative tolerance of 1e-10 leaves
NODES = 0.05  # log units: what 128 nodes leave of densities and shares that are integrals over them
FIRST_ORDER = 0.1  # of the SD: figures of 150 people are normal but for terms of order 1/sqrt(150)
POINTS = np.random.default_rng(3).normal(scale=0.5, size=(3, 6))


def row(day: float, statistic: str, value: float, n: int, cohort: str = "a", observable: str = "count",
        unit: str = "cell/uL", **more: float) -> str:
    keys = "".join(f"{key} = {number}\n" for key, number in more.items())
    return (f'[[rows]]\ncohort = "{cohort}"\nday = {day}\nobservable = "{observable}"\nstatistic = "{statistic}"\n'
            f'value = {float(value)!r}\nn = {n}\nunit = "{unit}"\nsource = "made up"\n{keys}')


@pytest.fixture
def made(tmp_path: Path):
    def write(rows: str, spec: str = _NATURAL, more: str = "", head: str = COHORT) -> tuple[FitSpec, Posterior]:
        text = head + rows
        (tmp_path / "line.toml").write_text(_LINE)
        (tmp_path / "papers.toml").write_text(text)
        (tmp_path / "spec.toml").write_text(spec.format(digest=hashlib.sha256(text.encode()).hexdigest(), more=more))
        loaded = load_fit_spec(tmp_path)
        return loaded, make_posterior(loaded, EMPTY)

    return write


def term(posterior: Posterior, z: np.ndarray) -> float:
    """Log likelihood of the published figures."""
    return float(posterior.log_density(jnp.asarray(z)) - log_prior(posterior.layout, jnp.asarray(z)))


def natural(posterior: Posterior, z: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in population_values(posterior.layout, jnp.asarray(z)).items()}


# --- closed forms --------------------------------------------------------------------------------------------


def test_means_of_a_linear_gaussian_cohort_are_jointly_normal_exactly(made):
    days, n = np.array([2.0, 5.0, 9.0]), 12
    seen = np.array([104.0, 117.0, 121.0])
    _, posterior = made("".join(row(d, "mean", y, n) for d, y in zip(days, seen, strict=True))
                        + row(5, "mean", 55.0, n, observable="half"))
    for z in POINTS:
        p = natural(posterior, z)
        design = np.array([[1, 2.0], [1, 5.0], [1, 9.0], [0.5, 2.5]])
        spread = design @ np.diag([p["omega_x0"] ** 2, p["omega_b"] ** 2]) @ design.T
        errors = np.diag([p["sigma_additive_count"] ** 2] * 3 + [p["sigma_additive_half"] ** 2])
        exact = scipy.stats.multivariate_normal(design @ [p["x0"], p["b"]], (spread + errors) / n)
        assert term(posterior, z) == pytest.approx(exact.logpdf([*seen, 55.0]), abs=SOLVER)


def test_a_mean_and_its_sd_are_those_of_normal_theory(made):
    """Independent, the mean normal, the variance by chi-square with n - 1 degrees of freedom; the cube root of that is
    normal but for thousandths of the log density, far out in its tail too."""
    n = 25
    _, posterior = made(row(4, "mean", 110.0, n, sd=14.0))
    for z in POINTS:
        p = natural(posterior, z)
        sd = np.sqrt(p["omega_x0"] ** 2 + 16 * p["omega_b"] ** 2 + p["sigma_additive_count"] ** 2)
        mean = scipy.stats.norm(p["x0"] + 4 * p["b"], sd / np.sqrt(n)).logpdf(110.0)
        spread = scipy.stats.chi2(n - 1).logpdf((n - 1) * (14.0 / sd) ** 2) + np.log(2 * (n - 1) * 14.0 / sd**2)
        assert term(posterior, z) == pytest.approx(mean + spread, abs=NODES)


def test_an_se_is_the_sd_over_root_n(made):
    _, one = made(row(4, "mean", 110.0, 25, sd=14.0))
    _, other = made(row(4, "mean", 110.0, 25, se=2.8))
    assert term(one, POINTS[0]) == pytest.approx(term(other, POINTS[0]), abs=1e-9)


def test_geometric_means_and_medians_of_lognormal_people_have_their_closed_forms(made):
    """At day 0 the count is lognormal: log x0 + omega*eta + error, all normal."""
    n = 30
    for text, published in ((row(0, "geometric_mean", 90.0, n), "mean"), (row(0, "median", 90.0, n), "median")):
        _, posterior = made(text, spec=_LOGS)
        for z in POINTS:
            p = natural(posterior, z)
            sd = np.hypot(p["omega_x0"], p["sigma_count"])
            whole = scipy.stats.norm(np.log(p["x0"]), sd)
            if published == "mean":
                expected = scipy.stats.norm(np.log(p["x0"]), sd / np.sqrt(n)).logpdf(np.log(90.0)) - np.log(90.0)
            else:
                odds = whole.logcdf(np.log(90.0)) - whole.logsf(np.log(90.0))
                expected = (scipy.stats.norm(0.0, 2 / np.sqrt(n)).logpdf(odds) + whole.logpdf(np.log(90.0))
                            - np.log(90.0) - whole.logcdf(np.log(90.0)) - whole.logsf(np.log(90.0)))
            assert term(posterior, z) == pytest.approx(expected, abs=NODES)


def test_least_and_greatest_have_the_joint_density_of_order_statistics(made):
    n = 9
    _, posterior = made(row(0, "median", 90.0, n, min=40.0, max=180.0), spec=_LOGS)
    _, without = made(row(0, "median", 90.0, n), spec=_LOGS)
    for z in POINTS:
        p = natural(posterior, z)
        whole = scipy.stats.lognorm(np.hypot(p["omega_x0"], p["sigma_count"]), scale=p["x0"])
        inside = whole.cdf(180.0) - whole.cdf(40.0)
        expected = np.log(n * (n - 1)) + whole.logpdf(40.0) + whole.logpdf(180.0) + (n - 2) * np.log(inside)
        assert term(posterior, z) - term(without, z) == pytest.approx(expected, abs=NODES)


def test_few_people_below_a_limit_are_binomial(made):
    _, posterior = made(row(0, "fraction_below", 0.1, 20, limit=50.0), spec=_LOGS)
    for z in POINTS:
        p = natural(posterior, z)
        share = scipy.stats.lognorm(np.hypot(p["omega_x0"], p["sigma_count"]), scale=p["x0"]).cdf(50.0)
        assert term(posterior, z) == pytest.approx(scipy.stats.binom(20, share).logpmf(2), abs=NODES)


# --- a second opinion: cohorts simulated person by person ----------------------------------------------------

MANY = (row(2, "mean", 100.0, 150, sd=60.0) + row(5, "geometric_mean", 100.0, 150, cv=0.6)
        + row(9, "median", 100.0, 150, q25=70.0, q75=130.0) + row(9, "fraction_below", 0.4, 150, limit=120.0)
        + row(5, "mean", 55.0, 150, observable="half", sd=30.0) + row(9, "median", 60.0, 150, observable="half"))


def _people(rng: np.random.Generator, p: dict[str, float], cohorts: int, n: int) -> dict[tuple[str, float], np.ndarray]:
    """Observations (cohort, person) of every marker and day."""
    eta = rng.standard_normal((2, cohorts, n))
    start, slope = p["x0"] * np.exp(p["omega_x0"] * eta[0]), p["b"] * np.exp(p["omega_b"] * eta[1])
    return {(name, day): part * (start + slope * day) * np.exp(p[f"sigma_{name}"] * rng.standard_normal((cohorts, n)))
            for name, part in (("count", 1.0), ("half", 0.5)) for day in (2.0, 5.0, 9.0)}


def _summarised(group: aggregate.Group, seen: dict[tuple[str, float], np.ndarray]) -> aggregate.Numbers:
    """What would be published of each simulated cohort, arrays (cohort, figure)."""
    at, level = [], []
    for figure in group.figures:
        y = seen[(figure.observable, figure.day)]
        level.append(np.full(len(y), figure.other))
        at.append({"mean": lambda y: y.mean(axis=1), "sd": lambda y: y.std(axis=1, ddof=1),
                   "geometric_mean": lambda y: np.exp(np.log(y).mean(axis=1)),
                   "geometric_sd": lambda y: np.log(y).std(axis=1, ddof=1),
                   "quantile": lambda y, p=figure.other: np.quantile(y, p, axis=1, method="median_unbiased"),
                   "fraction": lambda y, limit=figure.other: np.full(len(y), limit)}[figure.kind](y))
        if figure.kind == "fraction":
            level[-1] = (y < figure.other).mean(axis=1)
    return aggregate.Numbers(np.stack(at, 1), np.stack(level, 1), np.full((len(at[0]), len(at)), group.figures[0].n))


def test_simulated_cohorts_have_the_moments_that_their_figures_are_said_to_have(made):
    """Whitened, the figures of cohorts simulated person by person have mean 0 and covariance 1."""
    spec, posterior = made(MANY, spec=_LOGS)
    z = np.array([0.2, -0.3, -0.2, 0.1, 0.0, 0.3])
    cohorts, plan, people = 3000, posterior.plans[0], jnp.asarray(z)
    population = population_values(posterior.layout, people)
    seen = _people(np.random.default_rng(5), natural(posterior, z), cohorts, 150)
    numbers = aggregate.Seen(tuple(_summarised(group, seen) for group in plan.joined), (), (), ())
    observed = posterior.cohort_courses(people)[plan.first:plan.last]

    @jax.jit
    @jax.vmap
    def whiten(own):
        found = aggregate.joint(spec, plan, own, population, observed)
        distance = (found.outcome - found.center) / found.spread
        return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(found.correlation), distance, lower=True)

    white = np.asarray(whiten(numbers))
    assert white.shape == (cohorts, 11)
    mean_error, noise = white.mean(axis=0), 4 / np.sqrt(cohorts)
    assert np.abs(mean_error).max() < noise + FIRST_ORDER
    assert np.abs(np.cov(white.T) - np.eye(11)).max() < np.sqrt(2) * noise + FIRST_ORDER
