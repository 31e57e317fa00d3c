"""Who the patients of a scenario are, and what doses they get: against the distributions that were asked for."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from thymodel.documents.model import Covariate
from thymodel.documents.spec import load_scenario_spec
from thymodel.errors import InputError
from thymodel.inference.sampling import thin
from thymodel.results.prediction import simulator, virtual_subjects
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-SCN-02")

_PEOPLE = "id,years,kg\n" + "".join(f"{k},{40 + k},{60 + 2 * k}\n" for k in range(10))
_TEXT = """
title = "Others than the patients of the fit"
subjects = 16
draws = 4
[arms.one]
doses = [{ amount = 20, day = 8 }]
"""
_DRAWN = """
[population]
source = "made up"
[population.covariates]
age = "lognormal(median=50, sd=0.3)"
BW = "truncnormal(mean=75, sd=15, lower=40, upper=140)"
gvhd = { "0" = 0.7, "1" = 0.3 }
[[population.correlation]]
covariates = ["age", "BW"]
spearman = 0.6
source = "made up"
"""
_UNSURE = '[dose_error.cells]\nsd = 0.3\nsource = "test"\n'
_REAL = """
[population]
source = "a made-up registry"
[population.patients]
file = "people.csv"
sha256 = "{digest}"
units = {{ age = "year", BW = "g" }}
columns = {{ age = "years", BW = "kg" }}
"""


@pytest.fixture
def model(tiny_fit):
    own = {name: Covariate(unit, value, "", "made up") for name, unit, value in (
        ("age", "year", 45.0), ("BW", "kg", 70.0), ("gvhd", "1", 0.0))}
    return replace(tiny_fit.spec.model, covariates=own)


def write(folder, text):
    (folder / "s.toml").write_text(text, encoding="utf-8")
    return folder / "s.toml"


def people(tiny_fit, model, scenario, count=1024):
    spec = replace(tiny_fit.spec, model=model)
    known = {name: np.array([item.value]) for name, item in model.covariates.items()}
    return virtual_subjects(spec, known, count, 1, scenario.population, scenario.dose_errors)


def test_covariates_have_the_distributions_and_rank_correlations_that_were_asked_for(tmp_path, tiny_fit, model):
    """Quasi-random: 1,024 points are far nearer than as many random ones, whose worst distances these bounds are."""
    found = people(tiny_fit, model, load_scenario_spec(write(tmp_path, _TEXT + _DRAWN), model)).covariates
    a, b = (40 - 75) / 15, (140 - 75) / 15
    for values, exact in ((found["age"], scipy.stats.lognorm(0.3, scale=50)),
                          (found["BW"], scipy.stats.truncnorm(a, b, 75, 15))):
        assert scipy.stats.kstest(values, exact.cdf).statistic < 0.03
    assert scipy.stats.spearmanr(found["age"], found["BW"]).statistic == pytest.approx(0.6, abs=0.03)
    assert abs(scipy.stats.spearmanr(found["age"], found["gvhd"]).statistic) < 0.03
    assert set(found["gvhd"]) == {0.0, 1.0} and np.mean(found["gvhd"]) == pytest.approx(0.3, abs=0.005)


def test_people_of_a_file_are_drawn_whole_and_in_the_units_of_the_model(tmp_path, tiny_fit, model):
    (tmp_path / "people.csv").write_text(_PEOPLE)
    text = _TEXT + _REAL.format(digest=hashlib.sha256(_PEOPLE.encode()).hexdigest())
    scenario = load_scenario_spec(write(tmp_path, text), model)
    found = people(tiny_fit, model, scenario, 100).covariates
    np.testing.assert_allclose(found["BW"] * 1000, 60 + 2 * (found["age"] - 40))
    assert np.unique(found["age"], return_counts=True)[1].tolist() == [10] * 10
    assert "age, BW of 10 people, drawn whole (a made-up registry)" in str(scenario.population)


def test_without_a_population_the_same_patients_come_as_before(tiny_fit, model):
    spec = replace(tiny_fit.spec, model=model)
    known = {"age": np.array([30.0, 60.0])}
    plain = virtual_subjects(spec, known, 32, 1)
    assert plain.delivered == {} and set(plain.covariates["age"]) == {30.0, 60.0}
    assert plain.standard.shape == (32, 1)


def test_uncertain_doses_act_in_every_arm_with_the_factor_of_the_patient(tmp_path, tiny_fit):
    """x falls at a rate k that is the same for all, so that what a dose adds is in proportion to what was delivered."""
    text = _TEXT + '[arms.two]\ndoses = [{ amount = 40, day = 8 }]\n[arms.none]\n' + _UNSURE
    scenario = load_scenario_spec(write(tmp_path, text), tiny_fit.spec.model)
    found = virtual_subjects(tiny_fit.spec, {}, 256, 1, None, scenario.dose_errors)
    assert np.std(np.log(found.delivered["cells"])) == pytest.approx(0.3, rel=0.05)
    z = thin(tiny_fit.z, 2)
    one, two, none = simulator(tiny_fit.spec, tiny_fit.layout, z, scenario.arms, found, np.array([0.0, 10.0]))(
        z, ["count"])[:, 0, :, 1, 0]
    gain = (one - none) / found.delivered["cells"]
    np.testing.assert_allclose(gain, gain[0], rtol=1e-3)
    np.testing.assert_allclose(two - none, 2 * (one - none), rtol=1e-3)


def test_doses_repeat_and_last(tmp_path, tiny_fit):
    text = _TEXT.replace("day = 8", "day = 2, times = 3, every = 1.5, duration = 0.5")
    arm = load_scenario_spec(write(tmp_path, text), tiny_fit.spec.model).arms[0]
    assert [(d.time, d.amount, d.duration) for d in arm.doses] == [(2, 20, 0.5), (3.5, 20, 0.5), (5, 20, 0.5)]


def test_a_scenario_says_whose_patients_they_are(tmp_path, tiny_fit):
    found = run_scenario(tiny_fit, write(tmp_path, _TEXT + _UNSURE))
    assert found.people == ["Doses of cells act with a factor of log SD 0.3 about those of the arms."]
    assert found.people[0] in found._repr_html_()


def test_every_fault_of_a_population_is_told(tmp_path, model):
    (tmp_path / "people.csv").write_text("years,kg\n40,x\n50,\n")
    digest = hashlib.sha256(b"years,kg\n40,x\n50,\n").hexdigest()
    drawn = _DRAWN.replace("0.7", "0.9").replace("lognormal(median=50, sd=0.3)", "normal(mean=50, sd=9)")
    real = _REAL.format(digest=digest).replace("[population]\n", "").replace('source = "a made-up registry"\n', "")
    text = _TEXT.replace("day = 8", "day = 8, times = 3") + drawn.replace("spearman = 0.6", "spearman = 1.5")
    text += real.replace('BW = "g"', 'sex = "1", BW = "year"') + _UNSURE.replace("cells", "cels")
    with pytest.raises(InputError) as error:
        load_scenario_spec(write(tmp_path, text), model)
    for words in ("of times and every, one is missing", "allows values below 0", "which add up to 1", "units.BW",
                  "1.5 is not between", "no covariate 'sex'", "no input 'cels'; did you mean 'cells'",
                  "it is in the file of patients too"):
        assert words in str(error.value), words


def test_an_arm_of_nobody_is_refused(tmp_path, model):
    for own, words in (("age = -5", "age is -5 year"), ("age = 500, BW = 70000", "BW is 70000 kg")):
        with pytest.raises(InputError, match=words):
            load_scenario_spec(write(tmp_path, _TEXT + f"covariates = {{ {own} }}\n"), model)


def test_people_who_lack_a_value_are_refused_with_their_rows(tmp_path, model):
    text = "years,kg\n40,x\n50,\n60,70\n"
    (tmp_path / "people.csv").write_text(text)
    good = _TEXT + _REAL.format(digest=hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(InputError) as error:
        load_scenario_spec(write(tmp_path, good), model)
    assert "row 2, column kg: 'x' is not a number" in str(error.value) and "row 3, column kg" in str(error.value)
    with pytest.raises(InputError, match="another file: its sha256 is"):
        load_scenario_spec(write(tmp_path, _TEXT + _REAL.format(digest="0" * 64)), model)
    with pytest.raises(InputError, match="no column pounds"):
        load_scenario_spec(write(tmp_path, good.replace('BW = "kg"', 'BW = "pounds"')), model)


def test_correlations_that_nobody_can_have_are_refused(tmp_path, model):
    three = _DRAWN.replace('gvhd = { "0" = 0.7, "1" = 0.3 }', 'gvhd = "uniform(lower=0, upper=1)"')
    more = "".join(f'[[population.correlation]]\ncovariates = ["{a}", "gvhd"]\nspearman = {rho}\nsource = "x"\n'
                   for a, rho in (("age", 0.9), ("BW", -0.9)))
    with pytest.raises(InputError, match="no people can have all of these correlations"):
        load_scenario_spec(write(tmp_path, _TEXT + three + more), model)
    with pytest.raises(InputError, match="whose ranks tie"):
        load_scenario_spec(write(tmp_path, _TEXT + _DRAWN + more[: more.index("[[", 5)]), model)
