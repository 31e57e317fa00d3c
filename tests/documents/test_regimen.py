"""Doses and covariate courses from the command line's short texts."""

import math
from pathlib import Path

import pytest

from thymodel.documents.model import load_model, parse_model
from thymodel.documents.regimen import Dose, parse_course, parse_dose, parse_doses, repeat, value_at
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-NUM-03")

MODEL = load_model(Path(__file__).resolve().parents[1] / "bad" / "decay.toml")


@pytest.mark.parametrize("text, dose", [("9@7", Dose(7, "cells", 9)), ("0.5@0:cells", Dose(0, "cells", 0.5)),
                                        ("0@3", Dose(3, "cells", 0)), ("1e2@1e1", Dose(10, "cells", 100))])
def test_a_dose_is_amount_at_day(text, dose):
    assert parse_dose(text, MODEL) == dose


def test_a_dose_without_an_input_goes_to_the_first_that_the_model_does_not_schedule():
    text = MODEL.text.replace("[inputs.cells]", """[inputs.planned]
unit = "cell/uL"
add = { x = "amount" }
scheduled = [{ time = 3 }]

[inputs.cells]""")
    model = parse_model(text, "decay.toml")
    assert model.inputs["planned"].scheduled == ((3.0, 1.0),)
    assert parse_dose("9@7", model) == Dose(7, "cells", 9)


def test_every_bad_dose_of_several_is_named():
    with pytest.raises(InputError) as caught:
        parse_doses(["9@7", "x@7", "9@y"], MODEL)
    assert [fault.where for fault in caught.value.faults] == ["--dose x@7", "--dose 9@y"]


@pytest.mark.parametrize("text, sentence", [
    ("9", "not AMOUNT@DAY"), ("", "not AMOUNT@DAY"), ("@", "not a finite number"), ("9@", "not a finite number"),
    ("x@7", "'x' is not a finite number"), ("nan@7", "not a finite number"), ("9@inf", "not a finite number"),
    ("-9@7", "amount -9"), ("9@-7", "before the model's start"), ("9@7:cell", "no input 'cell'; did you mean 'cells'"),
    ("9@7@8", "not a finite number"), ("9@7:cells:cells", "no input")])
def test_a_bad_dose_says_why(text, sentence):
    with pytest.raises(InputError) as caught:
        parse_dose(text, MODEL)
    assert sentence in str(caught.value)


def test_cells_written_out_in_full_are_refused():
    with pytest.raises(InputError, match="if 4e\\+06 was meant in cells/kg, write 4"):
        parse_dose("4e6@7", load_model("homing_wave"))


@pytest.mark.parametrize("text, course", [
    ("age=45", ("age", ((-math.inf, 45.0),))), ("gvhd=0@0,1@30,0@90", ("gvhd", ((0, 0), (30, 1), (90, 0)))),
    ("age=45@10", ("age", ((10, 45.0),))), ("x=-1", ("x", ((-math.inf, -1.0),)))])
def test_a_course_is_steps(text, course):
    assert parse_course(text) == course


@pytest.mark.parametrize("text", ["age", "=3", "age=", "age=a", "age=nan", "gvhd=0@30,1@0", "gvhd=0,1@30",
                                  "gvhd=0@1,1@1", "gvhd=0@0,", "gvhd=1@inf", "gvhd=0@0,1"])
def test_a_bad_course_is_refused(text):
    with pytest.raises(InputError):
        parse_course(text)


@pytest.mark.parametrize("time, value", [(-5, 0), (0, 0), (29.9, 0), (30, 1), (89, 1), (1000, 2)])
def test_a_value_holds_until_the_next(time, value):
    assert value_at(((0, 0), (30, 1), (90, 2)), time) == value


def test_a_repeat_adds_doses_an_interval_apart():
    assert [dose.time for dose in repeat(Dose(2, "cells", 9), 2, 7)] == [2, 9, 16]
