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
    "additive = ", "log_sd = ").replace('"additive"', '"lognormal"').replace("sd=5)", "sd=0.5)")
COHORT = """
title = "Papers"
[cohorts.a]
study = "One"
source = "made up"
"""
EMPTY = StudyData((), (), (), "", "none", 0)
SOLVER = 1e-6  # log units that a relative tolerance of 1e-10 leaves
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
