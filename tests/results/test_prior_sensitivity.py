"""`thymodel priors`: what a fit owes to its priors; a tiny fit of made-up subjects."""

import json

import numpy as np
import pytest

from thymodel.documents.priors import parse_prior
from thymodel.errors import InputError
from thymodel.inference import reweighting
from thymodel.inference.population import log_prior
from thymodel.inference.scoring import most_k
from thymodel.results import prior_sensitivity as priors
from thymodel.results.prior_sensitivity import Question

pytestmark = pytest.mark.requirement("REQ-CHK-03")


@pytest.fixture(scope="module")
def found(tiny_fit):
    return priors.check_priors(tiny_fit)


@pytest.fixture(scope="module")
def tipping(tiny_fit):
    return priors.tip(tiny_fit, Question("x0", "back", 10, 0.5))


def test_every_parameter_and_endpoint_that_varies_has_a_row(tiny_fit, found):
    named = set(found.table["quantity"])
    assert {"x0", "k", "omega_x0", "sigma_count"} <= named
    assert any(name.startswith("back.restricted_mean[") for name in named)
    assert not any("spread" in name or name.startswith("re_") for name in named)
    assert (found.table[["prior", "likelihood"]] >= 0).all(axis=None)
    assert list(found.by_prior.columns) == ["x0", "k", "omega_x0", "sigma_count"]


def test_the_terms_of_a_record_are_its_log_density(tiny_fit):
    """Kernels of all priors, on the standard normal scale of lognormals, differ from the log prior by a constant."""
    lay, z = tiny_fit.layout, tiny_fit.z
    terms = reweighting.log_priors(lay, z)
    for k, name in enumerate(("x0", "k")):
        assert terms[name] == pytest.approx(-0.5 * z[..., k] ** 2, abs=1e-9)
    likelihood = priors._log_likelihood(tiny_fit, lay, z)
    told = priors.records.load_group(tiny_fit.folder / "posterior.nc", "sample_stats")["lp"].values
    assert likelihood[0, 0] + float(log_prior(lay, z[0, 0])) == pytest.approx(told[0, 0], abs=1e-9)


def test_the_most_moving_prior_is_named(found):
    row = found.table.set_index("quantity").loc["k"]
    assert row["by_most"] == pytest.approx(found.by_prior.loc["k"].max()) and row["most"] in found.by_prior.columns


def test_a_tipping_point_is_given_for_each_arm_and_way(tipping):
    table = tipping.table
    assert set(table["way"]) == {"shift down", "shift up", "narrower", "wider"}
    assert set(table["quantity"]) == {"back.by_10[control]", "back.by_10[dosed]"} and len(table) == 8
    crossed = table[table["verdict"] == "crosses"]
    assert np.isfinite(crossed["amount"]).all() and table["pareto_k"].le(most_k(40)).all()
    assert table.loc[table["verdict"] != "crosses", "amount"].isna().all()


def test_a_spread_is_rescaled_only(tiny_fit):
    table = priors.tip(tiny_fit, Question("omega_x0", "back", 10, 0.5)).table
    assert set(table["way"]) == {"narrower", "wider"}


def test_beyond_the_weights_it_says_so_and_fits_again_where_asked(tiny_fit, monkeypatch):
    """The refit itself is a stand-in here: draws shifted with the prior."""
    short = priors.tip(tiny_fit, Question("x0", "back", 10, 0.97)).table
    told = short[short["verdict"].str.startswith("needs a refit")]
    assert len(told) and told["looked_to"].abs().lt(told["most"].abs()).all()
    asked = []

    def refit(spec, data, prior, question):
        asked.append((spec.estimate["x0"].prior, prior))
        random = np.random.default_rng(len(asked))
        values = prior.numbers["median"] * np.exp(0.4 * random.normal(size=(2, 400)))
        same = np.full((2, 400), 0.3)
        return priors._Base(prior, values, {"back.by_10[control]": same, "back.by_10[dosed]": same})

    monkeypatch.setattr(priors, "_refit", refit)
    further = priors.tip(tiny_fit, Question("x0", "back", 10, 0.97), refit=True).table
    assert asked and all(one == other for one, other in asked)
    way = told["way"].iloc[0]
    assert (further.loc[further["way"] == way, "refits"] > 0).all()
    assert further.loc[further["way"] == way, "looked_to"].abs().max() > told["looked_to"].abs().max()


@pytest.mark.parametrize("name", ["x0", "k", "omega_x0", "sigma_count"])
def test_a_spec_with_another_prior_of_one_parameter(tiny_fit, name):
    from thymodel.inference.population import layout

    spec, prior = tiny_fit.spec, parse_prior("lognormal(median=7, sd=1)")
    before, after = (priors.priors_of(layout(s, ())) for s in (spec, priors.with_prior(spec, name, prior)))
    assert after == before | {name: prior}


@pytest.mark.parametrize("question, match", [
    (Question("kk", "back", 10, 0.5), "did you mean|one of: x0, k"), (Question("k", "bck", 10, 0.5), "one of: back"),
    (Question("k", "back", 11, 0.5), "one of: 10"), (Question("k", "back", 10, 1.5), "not a probability")])
def test_what_cannot_be_asked_is_refused(tiny_fit, question, match):
    with pytest.raises(InputError, match=match):
        priors.tip(tiny_fit, question)


def test_numbers_for_programs_and_rows_for_people(found, tipping):
    content = json.loads(priors.as_json(found, tipping))
    assert content["threshold"] == 0.05 and content["simulated"] is True
    assert len(content["tipping"]["ways"]) == 8 and set(content["by_prior"]) == set(found.table["quantity"])
    assert len(priors.sensitivity_rows(found)) == len(found.table)
    assert "prior SDs either way" in priors.tip_heading(tipping)
    assert {"way", "P there", "Pareto k"} <= set(priors.tip_rows(tipping)[0])
