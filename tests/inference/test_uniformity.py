"""Bands and p values of uniform numbers, held against numbers that are uniform and numbers that are not."""

import numpy as np
import pytest

from thymodel.inference import uniformity

pytestmark = pytest.mark.requirement("REQ-INF-10")

STUDIES = 100
SAMPLES = 4000


@pytest.fixture(scope="module")
def uniform() -> np.ndarray:
    """Counts at every step (sample, point) of uniform numbers."""
    random = np.random.default_rng(1)
    return np.array([uniformity.ranks_below(random.random(STUDIES)) for _ in range(SAMPLES)])


@pytest.mark.parametrize("false_alarm", [0.2, 0.05, 0.01])
def test_uniform_numbers_leave_the_band_as_often_as_stated(false_alarm, uniform):
    low, high = uniformity.band(STUDIES, false_alarm)
    found = ((uniform < low) | (uniform > high)).any(axis=1).mean()
    error = np.sqrt(false_alarm / SAMPLES)
    assert 0.8 * false_alarm - 4 * error < found < false_alarm + 4 * error  # counts are whole: a little fewer


def test_p_values_of_uniform_numbers_are_uniform():
    random = np.random.default_rng(2)
    p = np.array([uniformity.p_value(random.random(STUDIES)) for _ in range(400)])
    for level in (0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / len(p)))


def test_numbers_leave_the_band_where_their_p_value_is_below_its_false_alarm():
    random = np.random.default_rng(3)
    low, high = uniformity.band(STUDIES, 0.05)
    outside = []
    for shape in np.linspace(1.0, 1.6, 40):
        numbers = random.beta(shape, 1.0, STUDIES)
        counts = uniformity.ranks_below(numbers)
        outside.append(bool(((counts < low) | (counts > high)).any()))
        assert outside[-1] == (uniformity.p_value(numbers) <= 0.05)
    assert 0 < sum(outside) < len(outside)


@pytest.mark.parametrize(("first", "second"), [(1.5, 1.0), (1.6, 1.6), (0.6, 0.6)])
def test_shifted_narrow_and_wide_distributions_are_found_out(first, second):
    numbers = np.random.default_rng(4).beta(first, second, 200)
    assert uniformity.p_value(numbers) < 1e-3
