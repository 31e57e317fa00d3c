"""Studies drawn anew: the prior, the limits, and a density that is that of the fit."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from thymodel.documents.data import load_data
from thymodel.documents.measurement import SharedError
from thymodel.documents.priors import parse_prior
from thymodel.documents.spec import load_fit_spec
from thymodel.inference import replicates
from thymodel.inference.population import Layout
from thymodel.inference.posterior import make_posterior

pytestmark = pytest.mark.requirement("REQ-INF-10")

MODEL = """
title = "Decay"
description = "x falls at the rate k; y is what is left of another pool."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "made up" }
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "made up" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[observables.count]
unit = "cell/uL"
value = "x"
[observables.half]
unit = "cell/uL"
value = "0.5*x"
"""

SPEC = """
title = "Two observables"
purpose = "Draw studies anew; made-up numbers."
model = "decay.toml"
estimate = ["x0", "k"]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", half = "{unit}" }}
[between_subject]
k = {{ sd = "lognormal(median=0.3, sd=0.4)", source = "made up" }}
[likelihood.count]
error = "student_t"
df = 5
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.4)", source = "made up" }} }}
[likelihood.half]
error = "{half}"
{scale}parameters = {{ {parameter} = {{ prior = "lognormal(median=0.2, sd=0.4)", source = "made up" }} }}
[sampler]
seed = 1
"""

# subject 2 has a limit of its own; `half` has none
STUDY = """ID,TIME,EVID,DVID,DV,CENS
1,1,0,count,90,0
1,1,0,half,40,0
1,9,0,count,35,0
1,20,0,count,20,1
2,1,0,count,80,0
2,9,0,count,25,1
2,9,0,half,18,0
3,2,0,count,70,0
3,20,0,count,20,1
"""

FAMILIES = {"proportional": ("proportional", ""), "lognormal": ("log_sd", ""),
            "negative_binomial": ("dispersion", 'scale = { value = 1, unit = "uL", source = "made up" }\n')}


def _spec(folder: Path, half: str):
    folder.mkdir(exist_ok=True)
    parameter, scale = FAMILIES[half]
    (folder / "decay.toml").write_text(MODEL)
    (folder / "study.csv").write_text(STUDY)
    digest = hashlib.sha256(STUDY.encode()).hexdigest()
    (folder / "spec.toml").write_text(SPEC.format(digest=digest, half=half, parameter=parameter, scale=scale,
                                                 unit="cell" if scale else "cell/uL"))
    spec = load_fit_spec(folder)
    return spec, load_data(folder / "study.csv", spec.model, spec.columns)


@pytest.fixture(scope="module", params=list(FAMILIES))
def design(request, tmp_path_factory) -> replicates.Design:
    return replicates.make_design(*_spec(tmp_path_factory.mktemp(request.param) / "study", request.param))


def _values(data) -> np.ndarray:
    return np.concatenate([own.value for own in (*data.quantified, *data.censored)])


def test_a_limit_is_the_records_own_or_the_middle_one(design):
    assert design.low.tolist() == [20, -np.inf, 20, 20, 20, 25, -np.inf, 20, 20]
    assert np.isposinf(design.high).all()


def test_limits_of_the_assay_take_the_place_of_the_studys(tmp_path):
    found = replicates.make_design(*_spec(tmp_path, "lognormal"), {"half": (1.0, 60.0)})
    halves = found.posterior.records.observable == 1
    assert (found.low[halves] == 1.0).all() and (found.high[halves] == 60.0).all()
    assert found.low[~halves].tolist() == [20, 20, 20, 20, 25, 20, 20]


def test_the_density_of_a_drawn_study_is_that_of_a_fit_to_it(design):
    random = np.random.default_rng(5)
    z = replicates.draw_truth(design.posterior.layout, random)
    data = replicates.draw_study(design, z, random)
    value, censoring = np.zeros(len(design.low)), np.zeros(len(design.low), int)
    for k, (measured, limited) in enumerate(zip(data.quantified, data.censored, strict=True)):
        own = design.posterior.records.observable == k
        value[own] = [*measured.value, *limited.value]
        censoring[own] = [*measured.censoring, *limited.censoring]
    assert (value >= design.low).all() and np.array_equal(censoring == 1, value == design.low)
    fit = make_posterior(design.posterior.spec, replicates._refilled(design, value, censoring))
    assert float(design.posterior.density(z, data)) == pytest.approx(float(fit.log_density(z)), rel=1e-12)


def test_every_study_of_a_design_has_the_same_shape(design):
    shapes = set()
    for seed in range(3):
        random = np.random.default_rng(seed)
        data = replicates.draw_study(design, replicates.draw_truth(design.posterior.layout, random), random)
        shapes.add(tuple(len(own.value) for group in data[1:4] for own in group))
    assert len(shapes) == 1


def test_the_same_seed_draws_the_same_study(design):
    one, other, third = (replicates.draw_study(design, np.zeros(design.posterior.layout.size),
                                               np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(_values(one), _values(other)) and not np.array_equal(_values(one), _values(third))


def test_correlated_residuals_are_drawn_and_arranged_visit_by_visit(tmp_path):
    spec, data = _spec(tmp_path, "lognormal")
    heavy = replace(spec.likelihood["half"], family="student_t", df=5.0)
    shared = (SharedError(("count", "half"), 2.0, "made up"),)
    spec = replace(spec, shared_errors=shared, likelihood={**spec.likelihood, "half": heavy})
    design = replicates.make_design(spec, data)
    random = np.random.default_rng(7)
    z = replicates.draw_truth(design.posterior.layout, random)
    drawn = replicates.draw_study(design, z, random)
    together = sum(rows.value.size for rows in drawn.shared[0].values())
    assert together == 4  # the two visits at which both were taken
    assert np.isfinite(float(design.posterior.density(z, drawn)))


def test_correlations_are_drawn_from_their_own_prior():
    scales = {name: parse_prior("halfnormal(sd=1)") for name in "abc"}
    lay = Layout({}, scales, ("a", "b", "c"), 2.0, {}, {}, ())
    random, places = np.random.default_rng(6), [lay.population.index(f"corr_{p}") for p in ("a_b", "b_c")]
    partial = np.tanh([replicates.draw_truth(lay, random)[places] for _ in range(2000)])
    for column, half in zip(partial.T, (2.5, 2.0), strict=True):  # C-vine: Beta(b, b), b = shape + (3 - 2 - level)/2
        assert stats.kstest((column + 1) / 2, stats.beta(half, half).cdf).pvalue > 1e-4


def test_ranks_lie_between_0_and_1_and_ties_are_broken_at_random():
    random = np.random.default_rng(8)
    values = np.zeros((2, 100))
    tied = np.array([replicates._place(0.0, values, random) for _ in range(2000)])
    assert stats.kstest(tied, "uniform").pvalue > 1e-4
    assert replicates._place(-1.0, values, random) < 1 / 51 and replicates._place(1.0, values, random) > 50 / 51
