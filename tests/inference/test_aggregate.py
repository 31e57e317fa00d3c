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

pytestmark = pytest.mark.requirement("REQ-INF-07")

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
NODES = 0.02  # log units: what 256 nodes leave of densities and shares that are integrals over them
FIRST_ORDER = 0.1  # of the SD: figures of 150 people are normal but for terms of order 1/sqrt(150)
POINTS = np.random.default_rng(3).normal(scale=0.5, size=(3, 6))


def row(day: float, statistic: str, value: float, n: int, cohort: str = "a", observable: str = "count",
        unit: str = "cell/uL", **more: float | str) -> str:
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
    """Independent, the mean normal, the variance by chi-square with n - 1 degrees of freedom. For an SD 0.94 to 1.2
    times the true one; at 1.4 times, where its likelihood is 1/30, the nodes' fourth moment leaves 0.05."""
    n = 25
    _, posterior = made(row(4, "mean", 110.0, n, sd=11.0))
    for z in POINTS:
        p = natural(posterior, z)
        sd = np.sqrt(p["omega_x0"] ** 2 + 16 * p["omega_b"] ** 2 + p["sigma_additive_count"] ** 2)
        mean = scipy.stats.norm(p["x0"] + 4 * p["b"], sd / np.sqrt(n)).logpdf(110.0)
        spread = scipy.stats.chi2(n - 1).logpdf((n - 1) * (11.0 / sd) ** 2) + np.log(2 * (n - 1) * 11.0 / sd**2)
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


def test_a_median_of_which_a_bound_is_printed_is_as_probable_as_order_statistics_say(made):
    """More than half of an odd number of people lie above: a beta distribution, to which the normal of logits is near
    (0.0001 at 101 people)."""
    n, limit = 101, 110.0
    for side in ("above", "below"):
        _, posterior = made(row(0, "median", limit, n, bound=f'"{side}"'), spec=_LOGS)
        for z in POINTS:
            p = natural(posterior, z)
            share = scipy.stats.lognorm(np.hypot(p["omega_x0"], p["sigma_count"]), scale=p["x0"]).cdf(limit)
            above = scipy.stats.beta((n + 1) / 2, (n + 1) / 2).cdf(1 - share)
            exact = above if side == "above" else 1 - above
            assert np.exp(term(posterior, z)) == pytest.approx(exact, abs=1e-3)


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


def test_crossings_are_those_of_simulated_people(made):
    """Two visits in a row above the threshold, seen with error; visits between the days count."""
    head = COHORT + "visits = [1, 3, 5, 7, 9]\n"
    rows = "".join(row(day, "cumulative_incidence", value, n, threshold=120.0) + "consecutive = 2\n"
                   for day, value, n in ((3, 0.1, 40), (9, 0.5, 36)))  # 4 of 40, then 16 of the 36 left
    spec, posterior = made(rows, spec=_LOGS, head=head)
    z = np.array([0.2, -0.3, -0.2, 0.1, 0.0, 0.3])
    p, rng, count = natural(posterior, z), np.random.default_rng(2), 400_000
    eta = rng.standard_normal((2, count))
    start, slope = p["x0"] * np.exp(p["omega_x0"] * eta[0]), p["b"] * np.exp(p["omega_b"] * eta[1])
    above = np.stack([(start + slope * day) * np.exp(p["sigma_count"] * rng.standard_normal(count)) > 120.0
                      for day in (1, 3, 5, 7, 9)])
    twice = above[1:] & above[:-1]
    expected = np.array([twice[:1].any(axis=0).mean(), twice.any(axis=0).mean()])
    (plan,), population = posterior.plans, population_values(posterior.layout, jnp.asarray(z))
    found = np.asarray(aggregate.crossed(spec, plan, plan.cohort.curves[0], 120.0, population,
                                         posterior.cohort_courses(jnp.asarray(z))))
    assert found == pytest.approx(expected, abs=0.005)  # 4 MCSE are 0.003; the nodes leave the rest
    first, later = found[0], (found[1] - found[0]) / (1 - found[0])
    exact = scipy.stats.binom(40, first).logpmf(4) + scipy.stats.binom(36, later).logpmf(16)
    assert term(posterior, z) == pytest.approx(exact, abs=1e-6)


# --- laws ----------------------------------------------------------------------------------------------------

TWO = COHORT + '[cohorts.b]\nstudy = "Two"\nsource = "made up"\n'


def test_neither_the_order_of_rows_nor_their_unit_matters(made):
    rows = [row(2, "mean", 100.0, 30, sd=60.0), row(9, "median", 60.0, 20, cohort="b", observable="half")]
    other = [row(9, "median", 0.06, 20, cohort="b", observable="half", unit="kcell/uL"),
             row(2, "mean", 0.1, 30, sd=0.06, unit="kcell/uL")]
    _, one = made("".join(rows), spec=_LOGS, head=TWO)
    _, two = made("".join(other), spec=_LOGS, head=TWO)
    for z in POINTS:
        assert term(one, z) == pytest.approx(term(two, z), abs=SOLVER)


def test_people_counted_elsewhere_are_not_counted_here(made):
    _, one = made(row(2, "mean", 100.0, 30, sd=60.0), head=COHORT + "overlap = 10\n")
    _, two = made(row(2, "mean", 100.0, 20, sd=60.0))
    assert term(one, POINTS[0]) == pytest.approx(term(two, POINTS[0]), abs=1e-9)


def test_with_many_people_a_cohort_weighs_in_proportion_to_them(made):
    _, posterior = made(row(2, "mean", 105.0, 30, sd=12.0) + row(9, "median", 125.0, 30, q25=115.0, q75=136.0))
    density = jax.jit(posterior.density)

    def difference(n: float) -> float:
        (seen,) = posterior.data.published
        own = posterior.data._replace(published=(seen._replace(joined=tuple(
            group._replace(n=np.full_like(group.n, n)) for group in seen.joined)),))
        one, two = (float(density(jnp.asarray(z), own) - log_prior(posterior.layout, jnp.asarray(z)))
                    for z in POINTS[:2])
        return one - two

    assert difference(1e7) / difference(1e6) == pytest.approx(10, rel=1e-3)


AGE = """
[covariate_effects.age_x0]
parameter = "x0"
covariate = "age"
form = "power"
reference = 40
prior = "normal(mean=0, sd=1)"
source = "test"
{}
[study_effect]
b = {{ sd = "halfnormal(sd=0.3)", source = "test" }}
"""


@pytest.mark.parametrize("asked", ["", "aggregate = true"])
def test_averages_inform_slopes_between_patients_only_where_asked(made, asked):
    ages = "".join(f'[cohorts.{name}.covariates]\nage = {{ unit = "year", mean = {age}, sd = 9, source = "made up" }}\n'
                   for name, age in (("a", 30), ("b", 55)))
    rows = row(2, "mean", 100.0, 30, sd=60.0) + row(2, "mean", 130.0, 30, cohort="b", sd=60.0)
    _, posterior = made(rows, spec=_LOGS, head=TWO + ages, more=AGE.format(asked))
    names = posterior.layout.population
    z = jnp.asarray(np.random.default_rng(1).normal(scale=0.5, size=len(names)))
    slope = jax.grad(lambda z: posterior.log_density(z) - log_prior(posterior.layout, z))(z)
    informed = {name for name, s in zip(names, slope, strict=True) if abs(float(s)) > 1e-9}
    slopes = {name for name in names if name.startswith("beta_")}
    assert slopes & informed == ({"beta_age_x0"} if asked else {"beta_across_age_x0"})
    assert {"tau_b", "study_b_One", "study_b_Two"} <= informed


def test_the_gradient_is_that_of_central_differences(made):
    _, posterior = made(MANY, spec=_LOGS)
    slope = jax.jit(jax.value_and_grad(posterior.log_density))
    z, width = POINTS[0], 1e-4
    for k, found in enumerate(slope(z)[1]):
        step = width * np.eye(len(z))[k]
        expected = (float(slope(z + step)[0]) - float(slope(z - step)[0])) / (2 * width)
        assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-4), k
