"""Models written as SBML: another simulator follows the same course, and so does what we read back."""

import functools

import numpy as np
import pytest

from thymodel.documents.model import load_model, parse_model, shipped_models
from thymodel.documents.regimen import Dose
from thymodel.documents.sbml import read_sbml
from thymodel.documents.sbml_export import observable_ids, sbml_text
from thymodel.errors import InputError
from thymodel.results.simulation import simulate

pytestmark = pytest.mark.requirement("REQ-EXC-01")

libsbml = pytest.importorskip("libsbml", reason="python-libsbml, which writes SBML, is not installed")

TOLERANCE = 1e-5  # relative; of the largest value of the course where a value is millions of times smaller
NEGLIGIBLE = 1e-6
DAYS = (1.0, 3.5, 6.5, 10.0, 29.5, 31.0, 60.0, 100.0, 180.0, 365.0)  # no dose time: SBML's value there is the later one
DOSES = {
    "progenitors": (Dose(7, "progenitors", 4), Dose(30, "progenitors", 2), Dose(30, "progenitors", 1)),
    "ptcy": (Dose(3, "ptcy", 50), Dose(4, "ptcy", 50), Dose(30, "ptcy", 10)),
    "atg": (Dose(0, "atg", 10),),
}
# libsbml takes the unit of one function for that of another where an expression calls two: so each here calls one.
_TEXT = """
title = "Two pools <a> & b"
description = "for a test"
start = 2
[parameters]
k = { unit = "1/day", value = 0.5, source = "made up" }
n = { unit = "1", value = 2.5, source = "made up" }
[expressions]
twice = "2*k"
crest = "hill(x/x0, 0.5, n)*k"
wave = "k*expit(n*t*k) + crest"
[constants]
x0 = { unit = "cell/uL", value = 3, source = "made up" }
[covariates]
w = { unit = "1", value = 1, source = "made up" }
[states.x]
unit = "cell/uL"
initial = "x0*w"
rate = "-twice*x + w*wave*x0"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount/(1 + x/x0)" }
[inputs.kill]
unit = "1"
multiply = { x = "exp(-amount*x/x0)" }
[inputs.planned]
unit = "cell/uL"
add = { x = "amount" }
scheduled = [{ time = 4, amount = 2 }, { time = 6 }]
[observables]
x = { unit = "cell/uL", value = "x" }
k = { unit = "1/day", value = "2*k" }
day = { unit = "day", value = "t" }
"""
MADE_UP = parse_model(_TEXT, "made_up.toml", "made up")
MIXED = (Dose(2, "cells", 1), Dose(4, "kill", 0.3), Dose(4, "cells", 5), Dose(4, "kill", 0.1))


def doses_for(model) -> list[Dose]:
    return [dose for name, doses in DOSES.items() if name in model.inputs for dose in doses]


@functools.cache
def course(name: str):
    """Days, the model's own course, the file and, by observable, its id there."""
    model = load_model(name)
    days = [day + model.start for day in DAYS if day < 60 or not model.start]
    return days, simulate(model, days, doses_for(model)), sbml_text(model, doses_for(model)), observable_ids(model)


def simulated_elsewhere(text: str, ids, times) -> np.ndarray:
    roadrunner = pytest.importorskip("roadrunner", reason="libroadrunner, the other simulator, is not installed")
    roadrunner.Logger.setLevel(roadrunner.Logger.LOG_ERROR)
    runner = roadrunner.RoadRunner(text)
    runner.integrator.relative_tolerance, runner.integrator.absolute_tolerance = 1e-10, 1e-14
    runner.integrator.maximum_num_steps = 1_000_000
    runner.timeCourseSelections = ["time", *ids]
    return np.array(runner.simulate(times=[0.0, *times]))[1:, 1:]


def assert_same(found, wanted) -> None:
    largest = np.max(np.abs(wanted), axis=0)
    assert np.all(np.abs(found - wanted) <= TOLERANCE * np.maximum(np.abs(wanted), NEGLIGIBLE * largest))


@pytest.mark.parametrize("name", shipped_models())
def test_another_simulator_follows_the_same_course(name):
    days, ours, text, ids = course(name)
    start = load_model(name).start
    assert_same(simulated_elsewhere(text, ids.values(), [day - start for day in days]), ours[list(ids)].to_numpy())


@pytest.mark.parametrize("name", shipped_models())
def test_what_is_written_and_read_back_has_the_same_course(name):
    days, ours, text, ids = course(name)
    reading = read_sbml(text, name)
    back = parse_model(reading.text, name)
    shown = [reading.names[key] for key in ids.values()]
    again = simulate(back, [day - load_model(name).start for day in days], observe=shown)
    assert_same(again[shown].to_numpy(), ours[list(ids)].to_numpy())
    assert back.time == "day"


@pytest.mark.parametrize("model", [MADE_UP, *map(load_model, shipped_models())], ids=lambda model: model.name)
def test_the_file_is_valid_and_its_units_balance(model):
    document = libsbml.readSBMLFromString(sbml_text(model, doses_for(model)))
    document.checkConsistency()
    unit_of_a_literal = 99505  # numbers in formulas bear no unit, so that libsbml does not judge what they stand in
    found = [document.getError(k) for k in range(document.getNumErrors())]
    assert [e.getMessage() for e in found if e.getErrorId() != unit_of_a_literal] == []


def test_simultaneous_doses_act_one_after_the_other_and_time_begins_at_zero():
    days = [2.5, 3.9, 4.1, 5.0, 7.0]
    ours = simulate(MADE_UP, days, MIXED)
    ids = observable_ids(MADE_UP)
    assert ids == {"x": "x", "k": "obs_k", "day": "day"}
    text = sbml_text(MADE_UP, MIXED)
    assert_same(simulated_elsewhere(text, ids.values(), [day - 2 for day in days]), ours[list(ids)].to_numpy())
    reading = read_sbml(text, "made_up")
    again = simulate(parse_model(reading.text, "made_up"), [day - 2 for day in days])
    assert_same(again[[reading.names[key] for key in ids.values()]].to_numpy(), ours[list(ids)].to_numpy())


@pytest.mark.parametrize(("dose", "sentence"), [
    (Dose(3, "cells", 1, duration=2), "an infusion over time"), (Dose(3, "cell", 1), "did you mean 'cells'"),
    (Dose(1, "cells", 1), "before the model's start"), (Dose(3, "cells", -1), "it must be 0 or more")])
def test_a_dose_that_cannot_be_written_is_a_fault(dose, sentence):
    with pytest.raises(InputError, match=sentence):
        sbml_text(MADE_UP, [dose])

