"""Fit specs and scenario specs: every fault with its key path."""

from pathlib import Path

import pytest

from thymodel.documents.model import load_model
from thymodel.documents.spec import load_fit_spec, load_scenario_spec
from thymodel.errors import InputError

BAD = Path(__file__).resolve().parents[1] / "bad"
FITS = Path(__file__).resolve().parents[2] / "fits"
GOOD = """
title = "Decay"
purpose = "test"
model = "decay.toml"
estimate = ["x0", "k"]
[data]
file = "study.csv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
units = { TIME = "day", count = "cell/uL" }
[override]
k = { prior = "lognormal(median=0.2, sd=1)", reason = "another species", source = "a paper" }
fixed = { value = 3, reason = "measured" }
[between_subject]
x0 = { sd = "halfnormal(sd=1)", source = "test" }
k = { sd = "halfnormal(sd=1)", source = "test" }
[[correlation]]
effects = ["x0", "k"]
prior = "lkj(shape=2)"
source = "test"
[covariate_effects.age_on_k]
parameter = "k"
covariate = "age"
form = "power"
reference = 45
prior = "normal(mean=0, sd=1)"
source = "test"
[likelihood.count]
error = "combined"
[likelihood.count.parameters]
additive = { prior = "halfnormal(sd=1)", source = "test" }
proportional = { prior = "halfnormal(sd=1)", source = "test" }
[endpoints.low]
marker = "count"
threshold = 0.05
unit = "kcell/uL"
horizon = 30
by = [10]
[sampler]
seed = 1
"""


@pytest.fixture
def spec_of(tmp_path):
    def write(text: str):
        (tmp_path / "decay.toml").write_text((BAD / "decay.toml").read_text(encoding="utf-8"), encoding="utf-8")
        (tmp_path / "spec.toml").write_text(text, encoding="utf-8")
        return load_fit_spec(tmp_path)

    return write


def places(caught) -> set[str]:
    return {fault.where.partition(": ")[2] for fault in caught.value.faults}


# --- good ----------------------------------------------------------------------------------------------------


def test_the_prior_in_force_is_the_override(spec_of):
    item = spec_of(GOOD).estimate["k"]
    assert (str(item.prior), item.reason, item.source) == ("lognormal(median=0.2, sd=1)", "another species", "a paper")


def test_what_is_not_estimated_has_a_value(spec_of):
    assert spec_of(GOOD).fixed == {"shift": 1.0, "fixed": 3.0, "stages": 2.0}


def test_a_threshold_is_kept_in_the_unit_of_its_marker(spec_of):
    endpoint = spec_of(GOOD).endpoints["low"]
    assert (endpoint.threshold, endpoint.unit) == (50.0, "cell/uL")


def test_correlated_effects_have_their_shape(spec_of):
    spec = spec_of(GOOD)
    assert (spec.correlated, spec.correlation_shape) == (("x0", "k"), 2.0)


DERIVED = """
[derived.half]
value = "{value}"
unit = "{unit}"
[sampler]"""


def test_a_derived_quantity_has_its_expression_and_unit(spec_of):
    spec = spec_of(GOOD.replace("[sampler]", DERIVED.format(value="log(2)/k", unit="day")))
    assert spec.derived["half"].unit == "day"
    assert {str(s) for s in spec.derived["half"].value.free_symbols} == {"k"}


@pytest.mark.parametrize(("value", "unit", "expected"), [
    ("log(2)/k", "cell", "derived.half.unit"), ("log(2)/nobody", "day", "nobody"), ("x0 + k", "day", "derived.half"),
    ("log(2)/(k", "day", "derived.half"), ("log(2)/k", "fortnights of", "derived.half")])
def test_a_bad_derived_quantity_is_a_fault_of_its_own(spec_of, value, unit, expected):
    with pytest.raises(InputError) as caught:
        spec_of(GOOD.replace("[sampler]", DERIVED.format(value=value, unit=unit)))
    assert len(caught.value.faults) == 1 and expected in str(caught.value)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in FITS.glob("*/spec.toml")))
def test_a_shipped_spec_loads(folder):
    assert load_fit_spec(FITS / folder).name == folder


# --- bad -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, expected", [
    ("spec_values", {
        "estimate", "override.x0.value", "override.shift.prior", "override.stages", "override.nothing",
        "override.k.prior", "override.n", "between_subject.x0.sd", "between_subject.shift.scale",
        "between_subject.unknown", "correlation.effects", "correlation.prior", "covariate_effects.age_on_k.parameter",
        "covariate_effects.age_on_k.covariate", "covariate_effects.age_on_k.reference",
        "likelihood.count.parameters", "likelihood.count.offset", "likelihood.count.parameters.log_sd",
        "likelihood.counts", "likelihood.counts.df", "likelihood.counts.parameters.log_sd", "endpoints.a.unit",
        "endpoints.a.sustained_for", "endpoints.a.by", "endpoints.b.marker", "endpoints.b.horizon"}),
    ("spec_schema", {
        "purpose", "estimate", "notes", "data.sha256", "data.units.TIME", "override.x0.reason",
        "between_subject.x0.scale", "likelihood.count.error", "likelihood.count.parameters.log_sd.source",
        "likelihood.count.df", "endpoints.a.threshold", "endpoints.a.horizon", "sampler.seed", "sampler.chains",
        "sampler.draws", "sampler.target_accept", "solver.rtol", "gates.rhat", "gates.divergences"})])
def test_every_fault_of_a_bad_spec_is_named(name, expected):
    with pytest.raises(InputError) as caught:
        load_fit_spec(BAD / f"{name}.toml")
    assert places(caught) == expected


@pytest.mark.parametrize("old, new, place", [
    ('estimate = ["x0", "k"]', 'estimate = ["x0", "k", "x0"]', "estimate"),
    ('fixed = { value = 3', 'fixed = { source = "a"', "override.fixed"),
    ('effects = ["x0", "k"]', 'effects = ["x0"]', "correlation.effects"),
    ('effects = ["x0", "k"]', 'effects = ["x0", "kk"]', "correlation.effects"),
    ("lkj(shape=2)", "lkj(shape=0)", "correlation.prior"),
    ("[covariate_effects", '[[correlation]]\neffects = ["x0", "k"]\nprior = "lkj(shape=2)"\nsource = "a"\n'
     "[covariate_effects", "correlation"),
    ('error = "combined"', 'error = "lognormal"', "likelihood.count.parameters"),
    ('additive = { prior = "halfnormal(sd=1)"', 'additive = { prior = "halfnormal(sd=0)"',
     "likelihood.count.parameters.additive"),
    ('unit = "kcell/uL"', 'unit = "kg"', "endpoints.low.unit"),
    ("[likelihood.count]", '[between_subject.shift]\nsd = "halfnormal(sd=1)"\nsource = "a"\n[likelihood.count]',
     "between_subject.shift.scale"),
    ("[likelihood.count]", '[between_subject.z]\nsd = "halfnormal(sd=1)"\nsource = "a"\nparameters = ["y"]\n'
     "[likelihood.count]", "between_subject.z"),
    ('x0 = { sd = "halfnormal(sd=1)"', 'x0 = { scale = "logit", sd = "halfnormal(sd=1)"',
     "between_subject.x0.scale")])
def test_one_wrong_word_is_found(spec_of, old, new, place):
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        spec_of(GOOD.replace(old, new))
    assert places(caught) == {place}


def test_a_spec_that_estimates_nothing_is_refused(spec_of):
    with pytest.raises(InputError, match="estimate: no parameter is estimated"):
        spec_of(GOOD.replace('estimate = ["x0", "k"]', "estimate = []"))


def test_a_spec_without_likelihood_is_refused(spec_of):
    before, _, rest = GOOD.partition("[likelihood.count]")
    with pytest.raises(InputError) as caught:
        spec_of(before + "[likelihood]\n[endpoints.low]" + rest.partition("[endpoints.low]")[2])
    assert places(caught) == {"likelihood"}


def test_a_missing_model_names_where_it_was_sought(spec_of):
    with pytest.raises(InputError, match=r"decoy\.toml: no such model"):
        spec_of(GOOD.replace("decay.toml", "decoy.toml"))


def test_an_unknown_parameter_comes_with_a_suggestion(spec_of):
    with pytest.raises(InputError, match="no parameter 'fixd'; did you mean 'fixed'"):
        spec_of(GOOD.replace("fixed = {", "fixd = {"))


def test_every_fault_of_a_bad_scenario_is_named():
    with pytest.raises(InputError) as caught:
        load_scenario_spec(BAD / "scenario_values.toml", load_model(BAD / "decay.toml"))
    assert places(caught) == {"arms.a.doses.0", "arms.a.doses.1", "arms.a.covariates", "endpoints.e.marker"}


def test_a_scenario_without_arms_is_refused(tmp_path):
    (tmp_path / "s.toml").write_text('title = "none"\n[arms]\n', encoding="utf-8")
    with pytest.raises(InputError, match="no arm"):
        load_scenario_spec(tmp_path / "s.toml", load_model(BAD / "decay.toml"))
