"""Profiles against the closed form of a normal density, and their verdicts."""

import numpy as np
import pytest

from thymodel.inference import profiles

pytestmark = pytest.mark.requirement("REQ-CHK-04")

GRID = np.linspace(-3, 3, 13)


def _normal(precision):
    """log density (less a constant) and slope of a normal with that precision, a standard normal prior in it."""
    total = precision + np.eye(len(precision))
    return lambda z: (float(-0.5 * z @ total @ z), -total @ z)


def test_the_profile_of_a_normal_is_its_marginal_without_the_own_prior():
    precision = np.array([[4.0, 3.0], [3.0, 4.0]])
    heights = profiles.profile_heights(_normal(precision), 0, np.array([1]), GRID, 2)
    schur = precision[0, 0] - precision[0, 1] ** 2 / (precision[1, 1] + 1)
    np.testing.assert_allclose(heights - heights.max(), -0.5 * schur * GRID**2, atol=1e-8)
    assert profiles.verdict(heights) == "bounded"


def test_what_the_data_do_not_see_has_a_flat_profile():
    heights = profiles.profile_heights(_normal(np.diag([0.0, 4.0])), 0, np.array([1]), GRID, 2)
    np.testing.assert_allclose(heights, 0.0, atol=1e-8)
    assert profiles.verdict(heights) == "flat"


def test_a_coordinate_held_is_not_maximised_over():
    heights = profiles.profile_heights(_normal(np.array([[4.0, 3.0], [3.0, 4.0]])), 0, np.array([], int), GRID, 2)
    np.testing.assert_allclose(heights, -0.5 * 4.0 * GRID**2, atol=1e-12)


@pytest.mark.parametrize("drop, wanted", [
    ([-5, -2, 0, -2, -5], "bounded"), ([-5, -2, 0, -0.1, -0.2], "one-sided: open towards higher values"),
    ([-0.5, 0, -1, -2.5], "one-sided: open towards lower values"), ([-1.9, 0, -1.9], "flat")])
def test_a_verdict_is_by_the_threshold_of_a_95_percent_interval(drop, wanted):
    assert profiles.verdict(drop) == wanted
