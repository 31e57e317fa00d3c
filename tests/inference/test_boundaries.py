"""Group-sequential boundaries: published values, closed forms, and the level that they keep."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from thymodel.inference.boundaries import crossing_probabilities, look_boundaries, spent

pytestmark = pytest.mark.requirement("REQ-TRI-02")

# Lan-DeMets boundaries at equally spaced looks, two-sided level 0.05, as printed for the program of Reboussin, DeMets,
# Kim & Lan 2000, Control Clin Trials 21:190, and in Jennison & Turnbull 2000 (from memory of those tables, not verified
# against a copy); three decimals
OBRIEN_FLEMING = {2: (2.963, 1.969), 3: (3.710, 2.511, 1.993), 4: (4.333, 2.963, 2.359, 2.014),
                  5: (4.877, 3.357, 2.680, 2.290, 2.031)}
POCOCK = {2: (2.157, 2.201), 5: (2.438, 2.427, 2.410, 2.397, 2.386)}
PRINTED = 6e-4  # half a unit of the last digit, and a little


@pytest.mark.parametrize(("spending", "looks", "published"), [
    *(("obrien_fleming", k, values) for k, values in OBRIEN_FLEMING.items()),
    *(("pocock", k, values) for k, values in POCOCK.items())])
def test_boundaries_are_the_published_ones(spending, looks, published):
    information = np.arange(1, looks + 1) / looks
    assert look_boundaries(information, 0.05, 2, spending) == pytest.approx(published, abs=PRINTED)


def test_boundaries_are_those_of_an_independent_program():
    """rpact 3.2.0's own tests, `test-f_design_group_sequential.R` (seen): type asOF, one-sided 0.03, three looks; and
    O'Brien & Fleming's boundaries with the level that each look spends, one-sided 0.025."""
    thirds = np.array([1, 2, 3]) / 3
    assert look_boundaries(thirds, 0.03) == pytest.approx([3.5815302, 2.417863, 1.9175839], abs=2e-6)
    each = crossing_probabilities(thirds, [3.4710914, 2.4544323, 2.0040356])
    assert np.cumsum(each) == pytest.approx([0.00025917372, 0.0071600594, 0.025], abs=2e-8)


@pytest.mark.parametrize(("constant", "power"), [(2.413, 0.0), (2.040, 0.5)])
def test_boundaries_of_pocock_and_of_obrien_and_fleming_have_the_level(constant, power):
    """Constants for five looks at 0.05 of Pocock 1977, Biometrika 64:191, and O'Brien & Fleming 1979, Biometrics 35:549
    (as in Jennison & Turnbull 2000, tables 2.1 and 2.3; 2.413 seen quoted, 2.040 not verified)."""
    t = np.arange(1, 6) / 5
    assert 2 * crossing_probabilities(t, constant * t**-power, 2).sum() == pytest.approx(0.05, abs=1e-4)


def test_uncorrected_looks_exceed_the_level():
    """Five looks at 1.96 reject a true hypothesis in 14.2%: Armitage, McPherson & Rowe 1969, table 2 (not seen)."""
    assert 2 * crossing_probabilities(np.arange(1, 6) / 5, [1.96] * 5, 2).sum() == pytest.approx(0.142, abs=5e-4)


def test_one_look_is_the_fixed_test():
    assert look_boundaries([1.0], 0.025)[0] == pytest.approx(norm.isf(0.025))
    assert look_boundaries([1.0], 0.05, 2)[0] == pytest.approx(norm.isf(0.025))
    assert crossing_probabilities([1.0], [1.96], drift=2.8)[0] == pytest.approx(norm.sf(1.96 - 2.8))


def test_two_looks_are_a_bivariate_normal():
    """A second opinion: Z of two looks has the correlation sqrt(t1/t2)."""
    t, drift = 0.4, 1.5
    first, second = look_boundaries([t, 1.0], 0.05)
    both = multivariate_normal([drift * np.sqrt(t), drift], [[1, np.sqrt(t)], [np.sqrt(t), 1]])
    inside = norm.cdf(first - drift * np.sqrt(t))
    found = crossing_probabilities([t, 1.0], [first, second], drift=drift)
    assert found == pytest.approx([1 - inside, inside - both.cdf([first, second])], abs=1e-6)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_unevenly_spaced_looks_spend_the_level_by_the_function(spending, sides):
    t, level = np.array([0.15, 0.5, 0.62, 1.0]), 0.1
    found = crossing_probabilities(t, look_boundaries(t, level, sides, spending), sides)
    assert np.cumsum(found) == pytest.approx(spent(spending, level / sides, t), abs=1e-8)
    assert found.sum() == pytest.approx(level / sides)


def test_nothing_is_spent_where_nothing_can_be():
    """At 2% of the information O'Brien-Fleming spends less than can be computed: the boundary stays finite."""
    found = look_boundaries([0.02, 1.0], 0.025)
    assert found[0] == 9 and found[1] == pytest.approx(norm.isf(0.025), abs=1e-6)


def test_an_unknown_spending_is_named():
    with pytest.raises(ValueError, match="one of obrien_fleming, pocock"):
        spent("wang", 0.05, np.array([1.0]))
