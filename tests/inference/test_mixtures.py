"""Patients of two kinds: against closed forms, and a fit that finds how many there are of each."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.data import load_data
from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError
from thymodel.inference.population import layout
from thymodel.inference.posterior import constrain, make_posterior
from thymodel.results.calibration import FEWEST, calibrate
from thymodel.results.checks import check_fit
from thymodel.results.fitting import fit
from thymodel.results.identifiability import identify
from thymodel.results.prediction import baseline_covariates, observed_arms, simulator, virtual_subjects
from thymodel.results.record import load_record, verify
from thymodel.results.report import report_html
from thymodel.results.scores import score

pytestmark = pytest.mark.requirement("REQ-INF-06")

_MODEL = """
title = "Decay of one pool"
description = "x falls at the rate k."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.1)", source = "made up" }
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "made up" }
slope = { unit = "cell/uL", value = 1, prior = "normal(mean=0, sd=1)", source = "made up" }
share = { unit = "1", value = 0.5, prior = "uniform(lower=0, upper=1)", source = "made up" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
unit = "cell/uL"
value = "x"
"""
_SPEC = """
title = "Two kinds"
purpose = "test"
model = "decay.toml"
simulated = true
estimate = ["x0", "k"]
{mixture}
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL"{units} }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.1, sd=0.1)", source = "made up" }} }}
[endpoints.low]
marker = "count"
threshold = 20
unit = "cell/uL"
horizon = 12
by = [6]
[sampler]
seed = 1
chains = 2
warmup = 300
draws = 400
[solver]
rtol = 1e-8
atol = 1e-10
[gates]
rhat = 1.05
ess_bulk = 100
ess_tail = 100
"""
_MIXTURE = """
[mixtures.slow]
shift = { k = "uniform(lower=-3, upper=0)" }
probability = "uniform(lower=0, upper=1)"
source = "made up"
"""
_STUDY = """ID,TIME,DVID,DV
1,4,count,69
1,8,count,47
2,4,count,95
3,6,count,70
"""


def load(folder: Path, study: str = _STUDY, mixture: str = _MIXTURE, units: str = ""):
    (folder / "decay.toml").write_text(_MODEL)
    (folder / "study.csv").write_text(study)
    (folder / "spec.toml").write_text(_SPEC.format(
        mixture=mixture, units=units, digest=hashlib.sha256(study.encode()).hexdigest()))
    spec = load_fit_spec(folder)
    return spec, load_data(folder / "study.csv", spec.model, spec.columns)


def heights(at, slow: int, *rows) -> float:
    """Log density of one subject's counts and of its kind."""
    rate = at["k"] * np.exp(at["beta_slow_k"] * slow)
    terms = [scipy.stats.norm.logpdf(np.log(y), np.log(at["x0"]) - rate * day, at["sigma_count"]) - np.log(y)
             for day, y in rows]
    return np.sum(terms) + np.log(at["probability_slow"] if slow else 1 - at["probability_slow"])


@pytest.mark.parametrize("solver", ["native", "jax"])
def test_the_likelihood_of_a_patient_is_the_sum_over_both_kinds(tmp_path, monkeypatch, solver):
    monkeypatch.setenv("THYMODEL_SOLVER", solver)
    posterior = make_posterior(*load(tmp_path))
    assert posterior.solver.kind == solver
    rows = {"1": [(4, 69), (8, 47)], "2": [(4, 95)], "3": [(6, 70)]}
    for z in np.random.default_rng(1).normal(size=(3, posterior.layout.size)):
        at = {name: float(v) for name, v in constrain(posterior, z).items() if np.ndim(v) == 0}
        expected = scipy.stats.norm.logpdf(z).sum() + sum(
            np.logaddexp(heights(at, 0, *mine), heights(at, 1, *mine)) for mine in rows.values())
        assert float(jax.jit(posterior.log_density)(z)) == pytest.approx(expected, abs=1e-5)


def test_a_column_of_the_data_says_whose_kind_is_known(tmp_path):
    study = _STUDY.replace("DV\n", "DV,slow\n").replace("69\n", "69,0\n").replace("47\n", "47,.\n")
    study = study.replace("95\n", "95,1\n").replace("70\n", "70,.\n")
    posterior = make_posterior(*load(tmp_path, study, units=', slow = "1"'))
    z = np.random.default_rng(2).normal(size=posterior.layout.size)
    at = {name: float(v) for name, v in constrain(posterior, z).items() if np.ndim(v) == 0}
    expected = scipy.stats.norm.logpdf(z).sum() + heights(at, 0, (4, 69), (8, 47)) + heights(at, 1, (4, 95))
    expected += np.logaddexp(heights(at, 0, (6, 70)), heights(at, 1, (6, 70)))
    assert float(posterior.log_density(z)) == pytest.approx(expected, abs=1e-5)


def test_new_patients_are_of_both_kinds_unless_the_arm_says_which(tmp_path):
    spec, data = load(tmp_path)
    lay = layout(spec, ("1", "2", "3"))
    people = virtual_subjects(spec, baseline_covariates(spec, data), 256, 5)
    arm = observed_arms(spec, data)[0]
    only = [type(arm)(name, name, (), {"slow": value}) for name, value in (("fast", 0.0), ("slow", 1.0))]
    z = np.zeros((2, lay.size))
    z[:, lay.population.index("probability_slow")] = scipy.stats.norm.ppf(0.3)
    found = simulator(spec, lay, z, [arm, *only], people, np.array([0.0, 9.0]))(z, ["count"])[:, 0, :, 1, 0]
    fast, slow = 100 * np.exp(-0.9), 100 * np.exp(-0.9 * np.exp(-1.5))
    np.testing.assert_allclose(found[1], fast, rtol=1e-5)
    np.testing.assert_allclose(found[2], slow, rtol=1e-5)
    share = np.mean(np.abs(found[0] - slow) < 1e-3)
    assert share == pytest.approx(0.3, abs=2 / 256)  # of Sobol's points, one a cell of 1/256
    assert share + np.mean(np.abs(found[0] - fast) < 1e-3) == 1.0


# --- a fit -----------------------------------------------------------------------------------------------------

_SLOW = 7  # of 20
_KINDS = np.arange(20) < _SLOW


def _two_kinds() -> str:
    random, rows = np.random.default_rng(3), ["ID,TIME,DVID,DV"]
    for number, slow in enumerate(_KINDS):
        rate = 0.15 * np.exp(-1.2 * slow)
        rows += [f"S{number},{day},count,{100 * np.exp(-rate * day + 0.1 * random.normal()):.4g}"
                 for day in (5, 10, 20)]
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "kinds"
    folder.mkdir()
    load(folder, _two_kinds())
    return fit(folder)


def test_the_share_of_a_kind_that_shows_is_that_of_a_coin(record):
    """20 patients of whom 7 are plainly slow and a uniform prior: the share's posterior is Beta(8, 14). False-alarm
    rate about 1e-4 (four standard errors of mean and SD, which are of independent draws as many as ESS says); the
    prior's own mean and SD, 0.5 and 0.29, are 6 and 40 of them away."""
    row = record.table.loc["probability_slow"]
    exact, size = scipy.stats.beta(1 + _SLOW, 1 + len(_KINDS) - _SLOW), float(row["ess_bulk"])
    assert size > 100
    assert abs(float(row["mean"]) - exact.mean()) < 4 * exact.std() / np.sqrt(size)
    assert abs(float(row["sd"]) / exact.std() - 1) < 4 / np.sqrt(2 * size)


def test_it_says_of_which_kind_each_patient_is(record):
    told = {row["subject"]: row["mean"] for row in record.content["missing_covariates"]}
    found = np.array([told[f"S{number}"] for number in range(len(_KINDS))])
    assert np.all(found[_KINDS] > 0.95) and np.all(found[~_KINDS] < 0.05)
    row = record.table.loc["beta_slow_k"]
    assert abs(float(row["mean"]) + 1.2) < 4 * float(row["sd"])


def test_the_report_has_a_table_of_kinds_and_the_record_verifies(record):
    page = report_html(record)
    assert 'id="kinds"' in page and "Patients of two kinds" in page
    assert 'id="missing_covariates"' not in page
    assert any(row["source"] == "share of the second kind of slow: made up" for row in record.content["priors"])
    assert not verify(record).faults
    assert load_record(record.folder).content["missing_covariates"][0]["kind"] is True


def test_checks_and_scores_draw_kinds_anew(record):
    scored = score(record)
    assert len(scored.table) == 20 and np.isfinite(scored.table["elpd"]).all()
    assert check_fit(record).content["vpc"]
    with pytest.raises(InputError, match="one likelihood for all of their observations"):
        score(record, "observation")
    with pytest.raises(InputError, match=r"mixtures\.slow"):
        calibrate(record.folder, FEWEST)
    with pytest.raises(InputError, match=r"mixtures"):
        identify(record.folder)


# --- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixture", "told"), [
    (_MIXTURE.replace("uniform(lower=-3, upper=0)", "normal(mean=0, sd=1)"), ["could swap places"]),
    (_MIXTURE.replace('k = "uniform(lower=-3, upper=0)"', ""), ["differ in no parameter"]),
    (_MIXTURE.replace(" k =", " q ="), ["no parameter 'q'"]),
    (_MIXTURE.replace(" k =", " slope ="), ["support (-inf, inf)"]),
    (_MIXTURE.replace(" k =", " share ="), ["support (0, 1)"]),
    (_MIXTURE.replace("mixtures.slow", "mixtures.k").replace('"uniform(lower=0, upper=1)"', "1.5"),
     ["has a 'k' of its own", "1.5 is not, or not always, a probability"]),
    (_MIXTURE.replace("mixtures.slow", 'mixtures."so slow"'), ["cannot be part of a parameter's name"]),
    (_MIXTURE + '[missing_covariates.slow]\ndistribution = "bernoulli"\nprobability = 0.5\nsource = "test"\n',
     ["[missing_covariates.slow] has its name"]),
    (_MIXTURE + '[covariate_effects.slow_k]\nparameter = "k"\ncovariate = "slow"\nform = "linear"\nreference = 0\n'
     'prior = "normal(mean=0, sd=1)"\nsource = "test"\n', ["[covariate_effects.slow_k] has its name"])])
def test_every_fault_of_a_mixture_is_told(tmp_path, mixture, told):
    with pytest.raises(InputError) as error:
        load(tmp_path, mixture=mixture)
    for words in told:
        assert words in str(error.value)


def test_a_kind_of_another_number_than_0_and_1_is_refused(tmp_path):
    study = _STUDY.replace("DV\n", "DV,slow\n").replace("69\n", "69,2\n")
    with pytest.raises(InputError, match="slow = 2, one of 0, 1 was expected"):
        load(tmp_path, study, units=', slow = "1"')
