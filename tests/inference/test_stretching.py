"""Stretched coordinates: one to one, with the right Jacobian, and chosen where the data are unequally informative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.inference.stretching import choose_stretch, stretch, unstretch

RATES = np.array([0.8, -0.8, 2.5, 0.0, -0.1])
PLACES = np.array([0.3, -1.0, 2.0, 5.0, 10.0])


@pytest.mark.parametrize("o", [-6.0, -1.0, 0.0, 1.0, 6.0])
def test_the_map_and_its_inverse_cancel(o):
    point = jnp.full(5, o)
    v = unstretch(point, RATES, PLACES)
    assert np.allclose(stretch(v, RATES, PLACES)[0], point, rtol=1e-12, atol=1e-12)
    assert float(v[3]) == o  # rate 0 is the identity


@pytest.mark.parametrize("v", [-40.0, -3.0, 0.0, 2.0, 40.0])
def test_the_slope_is_that_of_automatic_differentiation(v):
    _, log_slope = stretch(jnp.full(5, v), RATES, PLACES)
    expected = jnp.diagonal(jax.jacfwd(lambda x: stretch(x, RATES, PLACES)[0])(jnp.full(5, v)))
    assert np.all(expected > 0)
    assert np.allclose(log_slope, jnp.log(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rate", "place"), [(0.9, -1.5), (-0.7, 2.0)])
def test_a_known_stretch_is_found_again(rate, place):
    o = np.random.default_rng(3).normal(size=60)
    _, log_slope = stretch(unstretch(jnp.asarray(o), np.full(60, rate), np.full(60, place)), np.full(60, rate),
                           np.full(60, place))
    found = choose_stretch(o, np.exp(-2 * np.asarray(log_slope)))
    assert found == pytest.approx((rate, place), rel=1e-4)


def test_even_or_random_curvature_is_left_as_it_is():
    random = np.random.default_rng(5)
    o = random.normal(size=60)
    assert choose_stretch(o, np.full(60, 25.0)) == (0.0, 0.0)
    assert choose_stretch(o, np.exp(random.normal(size=60))) == (0.0, 0.0)  # depends on something else
    assert choose_stretch(o, np.full(60, np.nan)) == (0.0, 0.0)
