"""Model documents: what a good one means, where a bad one is told to look, and the shipped ones."""

import csv
import math
import os
from pathlib import Path

import pytest
import sympy

from thymodel.documents.model import load_model, parse_model, shipped_models
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-MOD-01")

BAD = Path(__file__).resolve().parents[1] / "bad"
GOOD = """
title = "Decay"
description = "one pool and a chain"
[constants]
n = { unit = "1", value = 3, source = "test" }
[covariates]
age = { unit = "year", value = 45, source = "patient" }
[parameters]
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=1)", source = "test" }
x0 = { unit = "cell", value = 100, source = "test" }
[expressions]
twice = "2*loss"
loss = "k*x"
rate0 = "k*n"
[states.x]
unit = "cell"
initial = "x0"
rate = "-loss"
[states.D]
chain = "n"
unit = "cell"
initial = "0"
inflow = "loss"
transfer = "k"
gain = "2"
[inputs.cells]
unit = "cell"
add = { x = "amount" }
[observables.count]
unit = "cell"
value = "x + D3"
"""


def places(caught) -> set[str]:
    """Key paths of the faults."""
    return {fault.where.partition(": ")[2] for fault in caught.value.faults}


def refused(text: str) -> set[str]:
    with pytest.raises(InputError) as caught:
        parse_model(text, "model.toml")
    return places(caught)


# --- good ----------------------------------------------------------------------------------------------------


def test_expressions_come_in_an_order_of_use():
    order = list(parse_model(GOOD, "m").expressions)
    assert order.index("loss") < order.index("twice")


def test_a_chain_is_its_states_written_out():
    states = parse_model(GOOD, "m").states
    k, loss, d1, d2 = (sympy.Symbol(name, real=True) for name in ("k", "loss", "D1", "D2"))
    assert list(states) == ["x", "D1", "D2", "D3"]
    assert (states["D1"].rate - (loss - k * d1)).expand() == 0
    assert (states["D2"].rate - (2 * k * d1 - k * d2)).expand() == 0


def test_the_digest_is_that_of_the_text():
    assert parse_model(GOOD, "m").digest != parse_model(GOOD + "\n", "m").digest


@pytest.mark.parametrize("written", [GOOD.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + GOOD.encode()])
def test_files_of_other_editors_read_alike(tmp_path, written):
    (tmp_path / "m.toml").write_bytes(written)
    assert load_model(tmp_path / "m.toml").states == parse_model(GOOD, "m").states


# --- bad -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, expected", [
    ("model_schema", {"title", "description", "authors", "time", "parameters.k.source", "parameters.m.value",
                      "parameters.n.value", "parameters.o.source", "parameters.o.verified", "states.x.initial",
                      "states.x.rate", "observables.count.unit"}),
    ("model_names", {"parameters.exp", "parameters.2k", "states.x", "expressions.loss", "expressions.a",
                     "states.x.initial", "states.x.rate", "states.chain.chain", "states.long.chain",
                     "states.free.chain", "states.part", "states.part.rate", "states.bare.rate", "states.bare.gain",
                     "inputs.dose.add.z", "inputs.dose.multiply.x", "inputs.empty", "observables.count.value"}),
    ("model_units", {"constants.odd.unit", "parameters.q.value", "parameters.r.prior", "parameters.s.prior",
                     "expressions.volume", "states.x.rate", "states.x.initial", "states.y.rate",
                     "inputs.dose.add.x", "inputs.dose.multiply.y", "observables.number.value",
                     "observables.fraction.value"})])
def test_every_fault_of_a_bad_file_is_named(name, expected):
    with pytest.raises(InputError) as caught:
        load_model(BAD / f"{name}.toml")
    assert places(caught) == expected


@pytest.mark.parametrize("text, sentence", [
    ("", "the file is empty"), ("title = ", "not TOML"), ("title = 'a'\ntitle = 'b'", "not TOML"),
    ("[states.x]\n[states.x]", "not TOML"), ("[" * 5000, "not TOML"), ("a = " + "[" * 20000, "not TOML")])
def test_what_is_not_toml_is_one_fault(text, sentence):
    with pytest.raises(InputError) as caught:
        parse_model(text, "model.toml")
    assert len(caught.value.faults) == 1 and sentence in str(caught.value)


def test_a_table_written_twice_names_its_line():
    with pytest.raises(InputError, match="line 5"):
        load_model(BAD / "model_twice.toml")


@pytest.mark.parametrize("old, new, place", [
    ('rate = "-loss"', 'rate = "-los"', "states.x.rate"),
    ('x0 = { unit = "cell"', 'x0 = { unit = "kcell"', "states.x.initial"),
    ('value = "x + D3"', 'value = "x + k"', "observables.count.value"),
    ('value = "x + D3"', 'value = "x + D4"', "observables.count.value"),
    ('value = "x + D3"', 'value = "x/0"', "observables.count.value"),
    ('chain = "n"', "chain = 0", "states.D.chain"), ('chain = "n"', "chain = 201", "states.D.chain"),
    ('chain = "n"', 'chain = "k"', "states.D.chain"), ("[states.x]", "[states.D2]", "states.D"),
    ('initial = "x0"', 'initial = "loss/k"', "states.x.initial"),
    ('add = { x = "amount" }', 'add = { x = "amount*k" }', "inputs.cells.add.x"),
    ('add = { x = "amount" }', 'add = { D4 = "amount" }', "inputs.cells.add.D4"),
    ('add = { x = "amount" }', 'add = { x = "amount" }\nscheduled = [{ time = -1 }]', "inputs.cells.scheduled.0.time"),
    ('loss = "k*x"', 'loss = "k*twice"', "expressions.twice"), ('loss = "k*x"', 'pi = "k*x"', "expressions.pi"),
    ('description = "one', 'time = "cell"\ndescription = "one', "states.x.rate"),
    ('description = "one', 'time = "dai"\ndescription = "one', "time")])
def test_one_wrong_word_is_found(old, new, place):
    assert old in GOOD
    assert place in refused(GOOD.replace(old, new))


def test_an_unknown_name_comes_with_a_suggestion():
    with pytest.raises(InputError, match="unknown name 'los'; did you mean 'loss'"):
        parse_model(GOOD.replace('"-loss"', '"-los"'), "model.toml")


def test_an_input_may_not_use_the_time_of_another_model():
    assert refused(GOOD.replace('x = "amount"', 'x = "amount*t*k"')) == {"inputs.cells.add.x"}


@pytest.mark.parametrize("make, sentence", [
    (lambda path: path.mkdir(), "cannot be read"), (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    (lambda path: path.write_bytes(b""), "empty"), (lambda path: path.write_bytes(b"#" * 5_000_001), "larger than"),
    (lambda path: None, "no such model")])
def test_a_file_that_cannot_be_read_says_why(tmp_path, make, sentence):
    make(tmp_path / "m.toml")
    with pytest.raises(InputError, match=sentence):
        load_model(tmp_path / "m.toml")


# --- shipped -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(shipped_models()))
def shipped(request):
    return load_model(request.param)


def test_a_shipped_model_has_a_source_for_every_number(shipped):
    numbers = {**shipped.parameters, **shipped.constants, **shipped.covariates}
    assert [name for name, item in numbers.items() if len(item.source.strip()) < 3] == []


def test_a_shipped_model_labels_what_people_see(shipped):
    seen = {**shipped.parameters, **shipped.states, **shipped.observables, **shipped.inputs}
    assert [name for name, item in seen.items() if not item.label] == []


@pytest.fixture(scope="module")
def sheet() -> list[dict[str, str]]:
    """The parameter sheet of the design: THYMODEL_DESIGN, or shared/design beside the checkout."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "design"
    path = Path(os.environ.get("THYMODEL_DESIGN", beside)) / "parameters.csv"
    if not path.is_file():
        pytest.skip(f"no parameter sheet at {path}; THYMODEL_DESIGN names its folder")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


MODELS = {"homing_wave": "M1", "thymus_core": "M2", "thymus_trec": "M3", "thymus_full": "M4",
          "thymus_full_dynamic": "M4", "thymus_competition": "M5", "thymus_competition_dynamic": "M5"}
# parameters with a row of their own in the design for these models; every other name means one thing everywhere
OWN = {"k_c": [{"homing_wave"}], "B0": [{"homing_wave"}], "f_th": [{"thymus_core", "thymus_trec"}]}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_values_and_priors_are_those_of_the_design(sheet, name):
    model, code = load_model(name), MODELS[name]
    rows = [row for row in sheet if code in row["model"].split(";") and row["symbol"] in model.parameters]
    assert len(rows) > 5
    differing = {row["symbol"] for row in rows if not _same(row, model.parameters[row["symbol"]])}
    assert differing == set()


def _meanings(section: str) -> dict[str, dict[str, set[str]]]:
    """Name -> its whole table in a model file -> the models of the family that have it."""
    found: dict[str, dict[str, set[str]]] = {}
    for model in (load_model(name) for name in MODELS):
        for key, item in getattr(model, section).items():
            found.setdefault(key, {}).setdefault(repr(item), set()).add(model.name)
    return found


def test_a_parameter_is_the_same_in_every_model_of_the_family():
    shared = {key: [models for models in groups.values() if models not in OWN.get(key, [])]
              for key, groups in _meanings("parameters").items()}
    assert {key: groups for key, groups in shared.items() if len(groups) > 1} == {}


def test_a_constant_is_the_same_in_every_model_of_the_family():
    assert [key for key, groups in _meanings("constants").items() if len(groups) > 1] == []


def test_the_inputs_and_observables_of_the_family_have_one_unit():
    units: dict[str, set[str]] = {}
    for model in (load_model(name) for name in MODELS):
        for key, item in {**model.inputs, **model.observables, **model.covariates}.items():
            units.setdefault(key, set()).add(item.unit)
    assert [key for key, found in units.items() if len(found) > 1] == []


# not in the design's sheet: given in its text on the murine variant, without a source
MURINE = {"V_b": 72, "r_e": 0.09, "S0": 0.35, "rho_S": 1 / 40, "rho_X": 1 / 10, "mR": 0.05, "a0": 0.002, "cb": 2,
          "KM4": 2000, "KM8": 2000}


def test_the_mouse_has_its_own_rows_and_else_those_of_the_competition(sheet):
    mouse, human = load_model("thymus_mouse").parameters, load_model("thymus_competition").parameters
    rows = {row["symbol"]: row for row in sheet if row["model"] == "M5_mouse"}
    assert [key for key, row in rows.items() if not _same(row, mouse[key])] == []
    assert {key: mouse[key].value for key in MURINE} == MURINE
    assert [key for key in MURINE if mouse[key].prior is not None or mouse[key].verified] == []
    assert [key for key in mouse.keys() - rows.keys() - MURINE.keys() if mouse[key] != human[key]] == []


def _same(row: dict[str, str], parameter) -> bool:
    prior = parameter.prior
    if parameter.value != pytest.approx(float(row["typical"])) or parameter.source != row["source"]:
        return False
    if row["prior_family"] == "fixed":
        return prior is None
    place, sd = float(row["prior_loc"]), float(row["prior_scale"])
    median = math.exp(place) if row["prior_family"] == "lognormal" else 1 / (1 + math.exp(-place))
    return (prior is not None and prior.family == row["prior_family"]
            and prior.numbers == pytest.approx({"median": median, "sd": sd}, rel=1e-4))


# --- assumptions ---------------------------------------------------------------------------------------------

ASSUMED = GOOD + """
[assumptions.linear]
text = "Cells die at one rate."
affects = ["k", "x", "D", "D2", "rate0"]
source = "assumption"
"""


def test_an_assumption_says_what_it_affects():
    [assumption] = parse_model(ASSUMED, "m.toml").assumptions.values()
    assert (assumption.text, assumption.affects) == ("Cells die at one rate.", ("k", "x", "D", "D2", "rate0"))
    assert parse_model(GOOD, "m.toml").assumptions == {}


@pytest.mark.parametrize(("old", "new", "where"), [
    ('"rate0"', '"rate1"', "m.toml: assumptions.linear.affects"), ('["k", "x", "D", "D2", "rate0"]', "[]",
                                                                   "m.toml: assumptions.linear.affects"),
    ('text = "Cells die at one rate."', "", "m.toml: assumptions.linear.text"),
    ('"assumption"', '"assumption"\nwhy = "so"', "m.toml: assumptions.linear.why")])
def test_a_faulty_assumption_is_named(old, new, where):
    with pytest.raises(InputError) as caught:
        parse_model(ASSUMED.replace(old, new), "m.toml")
    assert [fault.where for fault in caught.value.faults] == [where]
