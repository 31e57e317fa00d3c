"""What halving the solver's steps says about draws."""

import numpy as np
import pytest

from thymodel.inference.certificate import as_record, judge

pytestmark = pytest.mark.requirement("REQ-NUM-08")


def test_differences_that_hardly_vary_are_good_whatever_their_mean():
    found = judge(5.0 + 1e-3 * np.random.default_rng(1).standard_normal(400), 0.7)
    assert found.good and found.largest < 0.01
    assert found.weight_ess == pytest.approx(1.0, abs=1e-4)


def test_moderate_differences_with_a_light_tail_are_good():
    found = judge(0.2 * np.random.default_rng(2).standard_normal(400), 0.7)
    assert found.good and found.largest > 0.1 and found.pareto_k < 0.7
    assert found.weight_ess == pytest.approx(np.exp(-(0.2**2)), abs=0.02)  # of log-normal weights


def test_a_few_draws_of_another_posterior_are_refused():
    difference = 0.01 * np.random.default_rng(3).standard_normal(400)
    difference[::40] += np.linspace(2.0, 30.0, 10)
    assert not judge(difference, 0.7).good


def test_a_draw_that_finer_steps_cannot_reach_is_refused_and_can_be_recorded():
    found = judge(np.array([0.0, -np.inf, 0.0]), 0.7)
    assert not found.good
    assert as_record(found) == {"draws": 3, "sd": None, "largest": None, "pareto_k": None, "weight_ess": 0.0,
                                "good": False}


def test_a_fit_carries_its_certificate(tiny_fit):
    certificate = tiny_fit.content["certificate"]
    assert certificate["good"] and certificate["largest"] < 0.1
    assert any("halving the solver's steps" in sentence for sentence in tiny_fit.content["verdict"]["sentences"])
