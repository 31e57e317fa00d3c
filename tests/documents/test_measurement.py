"""Scales of assays, counts, limits in events and shared errors: what they mean in data, every fault with its path."""

from pathlib import Path

import pytest

from thymodel.documents.data import load_data
from thymodel.documents.design import load_design
from thymodel.documents.measurement import EventLimit, Scale
from thymodel.documents.spec import load_fit_spec
from thymodel.documents.units import parse_unit, product_text, same
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-DAT-04", "REQ-INF-01")

MODEL = """
title = "Cells and what they carry"
description = "Two pools that decay."
[parameters]
A = { unit = "cell/uL", value = 200, prior = "lognormal(median=200, sd=0.5)", source = "test" }
k = { unit = "1/day", value = 0.01, prior = "lognormal(median=0.01, sd=0.5)", source = "test" }
c = { unit = "copy/cell", value = 0.01, prior = "lognormal(median=0.01, sd=0.5)", source = "test" }
p = { unit = "1", value = 0.3, prior = "logitnormal(median=0.3, sd=0.5)", source = "test" }
[states.N]
unit = "cell/uL"
initial = "A"
rate = "-k*N"
[observables]
parent = { unit = "cell/uL", value = "N" }
child  = { unit = "cell/uL", value = "p*N" }
share  = { unit = "1", value = "p" }
trec   = { unit = "copy/uL", value = "c*N" }
each   = { unit = "copy/cell", value = "c" }
"""

SPEC = """
title = "t"
purpose = "test"
model = "pools.toml"
estimate = ["A"]
[data]
file = "study.csv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
units = { TIME = "day", parent = "cell/uL", child = "kcell/uL", share = "1", trec = "copy", each = "copy/ug" }
[likelihood.parent]
error = "power"
parameters.coefficient = { prior = "halfnormal(sd=1)", source = "test" }
parameters.exponent = { prior = "uniform(lower=0, upper=1.5)", source = "test" }
[likelihood.child]
error = "lognormal"
parameters = { log_sd = { prior = "halfnormal(sd=1)", source = "test" } }
event_limit = { events = 50, parent = "parent", source = "test" }
[likelihood.share]
error = "lognormal"
parameters = { log_sd = { prior = "halfnormal(sd=1)", source = "test" } }
event_limit = { events = 20, source = "test" }
[likelihood.trec]
error = "negative_binomial"
parameters = { dispersion = { prior = "halfnormal(sd=1)", source = "test" } }
scale = { value = 40, unit = "uL", source = "test" }
[likelihood.each]
error = "lognormal"
parameters = { log_sd = { prior = "halfnormal(sd=1)", source = "test" } }
scale = { value = 1.5e5, unit = "cell/ug", source = "6.6 pg of DNA in a cell" }
[[residual_correlation]]
observables = ["parent", "child"]
prior = "lkj(shape=2)"
source = "test"
[sampler]
seed = 1
"""

DESIGN = """
title = "SIMULATED"
model = "pools.toml"
[arms.a]
subjects = 2
[visits]
days = [1, 5]
[error.parent]
error = "power"
parameters = { coefficient = 0.5, exponent = 0.6 }
[error.child]
error = "lognormal"
parameters = { log_sd = 0.3 }
event_limit = { events = 50, parent = "parent", acquired = 900, source = "test" }
[error.trec]
error = "poisson"
scale = { value = 40, unit = "uL", source = "test" }
[[residual_correlation]]
observables = ["parent", "child"]
matrix = [[1, 0.5], [0.5, 1]]
"""

HEADER = "ID,TIME,DVID,DV,CENS,EVENTS\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pools.toml").write_text(MODEL)
    return tmp_path


def _spec(folder: Path, old: str = "", new: str = ""):
    assert old in SPEC
    (folder / "spec.toml").write_text(SPEC.replace(old, new, 1))
    return load_fit_spec(folder)


def _study(folder: Path, rows: str):
    spec = _spec(folder)
    (folder / "study.csv").write_text(HEADER + rows)
    return load_data(folder / "study.csv", spec.model, spec.columns)


def _values(data) -> dict[str, tuple[float, int]]:
    return {o.observable: (o.value, o.censoring) for o in data.subjects[0].observations}


# --- good ----------------------------------------------------------------------------------------------------


def test_a_spec_says_how_its_data_are_read(folder):
    columns = _spec(folder).columns
    assert columns.event_limits == {"child": EventLimit(50, "parent"), "share": EventLimit(20, "")}
    assert columns.scales["trec"].value == 40 and columns.counts == {"trec"}
    assert same(parse_unit(columns.scales["each"].unit), parse_unit("copy/ug"))
    assert isinstance(columns.scales["each"], Scale)


def test_values_of_an_assay_come_into_the_observables_unit_by_its_scale(folder):
    values = _values(_study(folder, "1,1,trec,12,0,.\n1,1,each,300,0,.\n"))
    assert values == {"trec": (pytest.approx(0.3), 0), "each": (pytest.approx(0.002), 0)}


@pytest.mark.parametrize(("dv", "events", "expected"), [
    (0.02, 1000, (20.0, 0)), (0.009, 1000, (10.0, 1)), (0, 1000, (10.0, 1)), (0.009, 2000, (9.0, 0)),
    (0.15, 40, (250.0, 1))])
def test_a_value_below_the_events_of_its_own_sample_is_censored_there(folder, dv, events, expected):
    """50 of 1,000 events are 5% of the parent's 200 cells per uL."""
    seen = "1,9,parent,200,0,.\n1,9,child,0.1,0,1000\n"
    data = _study(folder, f"1,1,parent,200,0,.\n1,1,child,{dv},0,{events}\n{seen}")
    first = data.subjects[0].observations[1]
    assert (first.value, first.censoring) == expected


def test_a_share_needs_no_parent(folder):
    assert _values(_study(folder, "1,1,share,0.03,0,1000\n1,2,parent,7,0,.\n"))["share"] == (0.03, 0)
    data = _study(folder, "1,1,share,0.01,0,1000\n1,2,share,0.3,0,1000\n")
    assert [(o.value, o.censoring) for o in data.subjects[0].observations] == [(0.02, 1), (0.3, 0)]
    assert "observable share: 1 values below 20 events of their sample, taken as censored there" in data.notes


def test_what_a_laboratory_censored_itself_stays(folder):
    first = _study(folder, "1,1,child,0.03,1,.\n1,2,parent,20,0,.\n1,2,child,1,0,1000\n").subjects[0].observations[0]
    assert (first.value, first.censoring) == (30.0, 1)


@pytest.mark.parametrize(("a", "b", "expected"), [
    ("copy/uL", "uL", "copy"), ("copy/cell", "cell/ug", "copy/ug"), ("copy", "1", "copy"), ("1", "1/ug", "1/ug"),
    ("copy", "1/ug", "copy/ug"), ("1/uL", "uL", "1")])
def test_units_of_a_product_can_be_read_again(a, b, expected):
    assert same(parse_unit(product_text(a, b)), parse_unit(expected))


# --- bad data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "place"), [
    ("1,1,trec,1.5,0,.\n", "row 2, column DV"), ("1,1,trec,-1,0,.\n", "row 2, column DV"),
    ("1,1,parent,9,0,.\n1,1,child,5,0,.\n", "row 3, column EVENTS"),
    ("1,1,parent,9,0,.\n1,1,child,5,0,0\n", "row 3, column EVENTS"),
    ("1,1,parent,9,0,.\n1,1,child,5,0,many\n", "row 3, column EVENTS"),
    ("1,2,parent,9,0,.\n1,3,child,5,0,100\n", "row 3, column DV")])
def test_a_fault_of_a_measurement_names_its_cell(folder, rows, place):
    with pytest.raises(InputError) as caught:
        _study(folder, rows)
    assert f"study.csv: {place}" in {fault.where for fault in caught.value.faults}


# --- bad documents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "place"), [
    ('unit = "uL", source', 'unit = "cell", source', "likelihood.trec.scale"),
    ('unit = "uL", source', 'unit = "furlongs of", source', "likelihood.trec.scale.unit"),
    ('scale = { value = 40, unit = "uL", source = "test" }', "", "likelihood.trec.scale"),
    ("scale = { value = 40", "scale = { value = 0", "likelihood.trec.scale.value"),
    ('unit = "uL", source = "test" }', 'unit = "uL" }', "likelihood.trec.scale.source"),
    ('parent = "parent", source', 'parent = "nobody", source', "likelihood.child.event_limit.parent"),
    ('parent = "parent", source', 'parent = "child", source', "likelihood.child.event_limit.parent"),
    ('parent = "parent", source', 'parent = "trec", source', "likelihood.child.event_limit.parent"),
    ('parent = "parent", source', "source", "likelihood.child.event_limit.parent"),
    ("events = 50", "events = 0", "likelihood.child.event_limit.events"),
    ('parameters = { dispersion', "parameters = { log_sd", "likelihood.trec.parameters"),
    ('["parent", "child"]', '["parent", "trec"]', "residual_correlation.0.observables"),
    ('["parent", "child"]', '["parent", "parent"]', "residual_correlation.0.observables"),
    ('["parent", "child"]', '["parent", "nobody"]', "residual_correlation.0.observables"),
    ("lkj(shape=2)", "halfnormal(sd=1)", "residual_correlation.0.prior"),
    ("[sampler]", '[[residual_correlation]]\nobservables = ["child", "each"]\nprior = "lkj(shape=1)"\nsource = "t"\n'
     "[sampler]", "residual_correlation.1.observables")])
def test_a_fault_of_a_spec_names_its_key(folder, old, new, place):
    with pytest.raises(InputError) as caught:
        _spec(folder, old, new)
    assert place in {fault.where.partition(": ")[2] for fault in caught.value.faults}


def test_heavy_and_normal_tails_do_not_share_one_scale(folder):
    with pytest.raises(InputError, match="share one scale"):
        _spec(folder, '[likelihood.child]\nerror = "lognormal"', '[likelihood.child]\nerror = "student_t"\ndf = 5')


@pytest.mark.parametrize(("old", "new", "place"), [
    ("[[1, 0.5], [0.5, 1]]", "[[1, 0.5], [0.4, 1]]", "residual_correlation.0.matrix"),
    ("[[1, 0.5], [0.5, 1]]", "[[1, 1.5], [1.5, 1]]", "residual_correlation.0.matrix"),
    ("[[1, 0.5], [0.5, 1]]", "[[1, 0.5]]", "residual_correlation.0.matrix"),
    ("acquired = 900", 'acquired = "lkj(shape=1)"', "error.child.event_limit.acquired"),
    ('parent = "parent", acquired', 'parent = "share", acquired', "error.child.event_limit.parent"),
    ('unit = "uL", source', 'unit = "day", source', "error.trec.scale"),
    ('source = "test" }\n[error.trec]', 'source = "test" }\nlloq = 3\n[error.trec]', "error.child.lloq"),
    ('[error.trec]\nerror = "poisson"', '[error.trec]\nerror = "poisson"\nparameters = { log_sd = 1 }',
     "error.trec.parameters")])
def test_a_fault_of_a_design_names_its_key(folder, old, new, place):
    assert old in DESIGN
    (folder / "design.toml").write_text(DESIGN.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_design(folder)
    assert place in {fault.where.partition(": ")[2] for fault in caught.value.faults}


def test_gates_that_are_each_others_parents_are_a_ring(folder):
    ring = 'event_limit = { events = 9, parent = "child", acquired = 90, source = "test" }\n[error.child]'
    (folder / "design.toml").write_text(DESIGN.replace("[error.child]", ring))
    with pytest.raises(InputError, match="ring"):
        load_design(folder)
