"""Priors as text."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from thymodel.documents import priors
from thymodel.documents.priors import in_scipy, parse_correlation_prior, parse_prior, support

pytestmark = pytest.mark.requirement("REQ-MOD-07")


@pytest.mark.parametrize("text, low, high", [
    ("lognormal(median=0.1, sd=0.2)", 0, math.inf), ("logitnormal(median=0.4, sd=1)", 0, 1),
    ("normal(mean=-3, sd=2)", -math.inf, math.inf), ("truncnormal(mean=0, sd=1, lower=-inf, upper=2)", -math.inf, 2),
    ("halfnormal(sd=+1)", 0, math.inf), ("halfcauchy(scale=1)", 0, math.inf), ("exponential(mean=2)", 0, math.inf),
    ("uniform(lower=-1, upper=2)", -1, 2)])
def test_a_prior_has_its_support(text, low, high):
    assert support(parse_prior(text)) == (low, high)


@pytest.mark.parametrize("text", ["lognormal(median=0.1, sd=0.2)", "exponential(mean=3)", "uniform(lower=-1, upper=2)",
                                  "truncnormal(mean=0, sd=1, lower=-1, upper=2)"])
def test_a_prior_written_out_reads_back(text):
    assert parse_prior(str(parse_prior(text))) == parse_prior(text)


def test_the_median_of_a_lognormal_is_its_median():
    assert in_scipy(parse_prior("lognormal(median=0.1, sd=0.2)")).median() == pytest.approx(0.1)


@pytest.mark.parametrize("text, sentence", [
    ("", "is not a prior"), ("lognormal", "is not a prior"), ("lognormal(0.1, 0.2)", "is not a prior"),
    ("x.normal(mean=0, sd=1)", "is not a prior"), ("gamma(mean=1)", "unknown prior family 'gamma'"),
    ("lognormal(mean=1, sd=1)", "takes median, sd"), ("lognormal(median=1)", "takes median, sd"),
    ("lognormal(median=1, sd=1, sd=2)", "gives a number twice"), ("lognormal(median=0, sd=1)", "must be above 0"),
    ("lognormal(median=1, sd=0)", "must be above 0"), ("normal(mean=0, sd=-1)", "must be above 0"),
    ("normal(mean=nan, sd=1)", "'nan' is not a number"), ("normal(mean=inf, sd=1)", "must be finite"),
    ("normal(mean=1e400, sd=1)", "must be finite"), (f"normal(mean=1{'0' * 400}, sd=1)", "too large"),
    ("truncnormal(mean=inf, sd=1, lower=0, upper=1)", "mean must be finite"),
    ("truncnormal(mean=50, sd=1, lower=0, upper=1)", "outside the bounds"),
    ("truncnormal(mean=0, sd=1, lower=2, upper=1)", "lower must be below upper"),
    ("uniform(lower=1, upper=1)", "lower must be below upper"), ("uniform(lower=-inf, upper=1)", "must be finite"),
    ("logitnormal(median=1, sd=1)", "between 0 and 1"), ("normal(mean=1+1, sd=1)", "is not a number"),
    ("normal(mean=True, sd=1)", "is not a number"), ("normal(mean='1', sd=1)", "is not a number"),
    ("normal(**numbers)", "is not a number"), ("lkj(shape=2)", "is a prior of correlations"),
    ("(" * 500, "is not a prior")])
def test_a_bad_prior_says_why(text, sentence):
    with pytest.raises(ValueError) as caught:
        parse_prior(text)
    assert sentence in str(caught.value)


def test_a_correlation_prior_is_its_shape():
    assert parse_correlation_prior("lkj(shape=2)") == 2


@pytest.mark.parametrize("text", ["lkj(shape=0)", "normal(mean=0, sd=1)", "lkj"])
def test_a_bad_correlation_prior_is_refused(text):
    with pytest.raises(ValueError):
        parse_correlation_prior(text)


# --- other priors in place of one ----------------------------------------------------------------------------

_VALUES = {"lognormal": [0.05, 0.1, 0.4], "logitnormal": [0.1, 0.5, 0.9], "normal": [-1.0, 0.0, 3.0],
           "truncnormal": [0.1, 0.5, 0.9], "halfnormal": [0.1, 1.0, 3.0], "halfcauchy": [0.1, 1.0, 9.0],
           "exponential": [0.1, 1.0, 3.0], "uniform": [0.1, 0.5, 0.9]}
_TEXTS = ["lognormal(median=0.1, sd=0.7)", "logitnormal(median=0.3, sd=0.7)", "normal(mean=0.5, sd=2)",
          "truncnormal(mean=0.5, sd=0.4, lower=0, upper=1)", "halfnormal(sd=0.5)", "halfcauchy(scale=0.5)",
          "exponential(mean=2)", "uniform(lower=0, upper=1)"]


@pytest.mark.parametrize("text", _TEXTS)
def test_a_kernel_is_the_log_density_less_a_constant_on_the_scale_of_its_family(text):
    prior = priors.parse_prior(text)
    x = np.array(_VALUES[prior.family])
    if prior.family == "logitnormal":
        density = scipy.stats.norm(scipy.special.logit(0.3), 0.7).logpdf(scipy.special.logit(x))
    else:
        density = in_scipy(prior).logpdf(x) + (np.log(x) if prior.family == "lognormal" else 0.0)
    assert np.ptp(density - priors.log_kernel(prior, x)) == pytest.approx(0, abs=1e-12)


def test_a_prior_moves_by_its_own_standard_deviations():
    moved = {text: priors.shifted(priors.parse_prior(text), 2.0) for text in _TEXTS[:4]}
    places = [moved[text].numbers.get("median", moved[text].numbers.get("mean")) for text in _TEXTS[:4]]
    logit = scipy.special.logit(0.3) + 1.4
    assert places == pytest.approx([0.1 * np.exp(1.4), scipy.special.expit(logit), 4.5, 1.3])
    for text in _TEXTS[4:]:
        with pytest.raises(ValueError, match="cannot be shifted"):
            priors.shifted(priors.parse_prior(text), 1.0)


def test_a_prior_gets_wider_about_its_place():
    for text in _TEXTS[:7]:
        prior = priors.parse_prior(text)
        wider = priors.rescaled(prior, 3.0)
        assert priors.rescaled(wider, 1 / 3).numbers == pytest.approx(dict(prior.numbers))
        changed = [key for key in prior.numbers if wider.numbers[key] != prior.numbers[key]]
        assert len(changed) == 1 and wider.numbers[changed[0]] == pytest.approx(3 * prior.numbers[changed[0]])
    with pytest.raises(ValueError, match="cannot be rescaled"):
        priors.rescaled(priors.parse_prior(_TEXTS[7]), 2.0)
