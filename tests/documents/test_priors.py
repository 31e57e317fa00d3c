"""Priors as text."""

import math

import pytest

from thymodel.documents.priors import in_scipy, parse_correlation_prior, parse_prior, support


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
