"""Coordinates between centred and non-centred: one to one, with the right Jacobian, and chosen sensibly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.documents.priors import parse_prior
from thymodel.inference import centring
from thymodel.inference.population import Layout

LAYOUT = Layout(estimate={"k": parse_prior("lognormal(median=1, sd=1)")},
                scales={"a": parse_prior("halfnormal(sd=1)"), "b": parse_prior("halfnormal(sd=0.5)")},
                correlated=(), correlation_shape=1.0, effects={}, errors={}, subjects=("1", "2", "3"))
POINT = jnp.asarray(np.random.default_rng(4).normal(size=LAYOUT.size))
NONE = jnp.zeros(8)  # two effects; rate and place of three population coordinates
WEIGHTS = jnp.array([7.0, 0.3, 0.5, 0.0, -0.8, 0.2, 0.0, 1.1])


def even(z, weights, count):
    """Curvature that is the same everywhere: nothing to stretch."""
    return np.ones((len(z), count))


def test_the_map_and_its_inverse_cancel():
    there = centring.from_z(LAYOUT, POINT, WEIGHTS)
    assert np.allclose(centring.to_z(LAYOUT, there, WEIGHTS)[0], POINT, rtol=0, atol=1e-13)
    assert not np.allclose(there, POINT, atol=1e-3)


def test_the_jacobian_is_that_of_automatic_differentiation():
    _, log_slope = centring.to_z(LAYOUT, POINT, WEIGHTS)
    matrix = jax.jacobian(lambda c: centring.to_z(LAYOUT, c, WEIGHTS)[0])(POINT)
    assert float(log_slope) == pytest.approx(np.linalg.slogdet(matrix)[1], abs=1e-12)


def test_weight_zero_is_the_identity():
    z, log_slope = centring.to_z(LAYOUT, POINT, NONE)
    assert np.array_equal(z, POINT) and float(log_slope) == 0.0


def test_with_much_information_the_coordinate_is_proportional_to_the_effect():
    c = centring.from_z(LAYOUT, POINT, NONE.at[:2].set(1e12))
    omega = centring._omegas(LAYOUT, POINT[:3])
    assert np.allclose(c[3:].reshape(3, 2), POINT[3:].reshape(3, 2) * omega * 1e6, rtol=1e-9)


def test_where_the_scale_is_near_zero_the_coordinate_is_the_plain_one():
    """However much is known: no funnel opens there."""
    near_zero = POINT.at[1:3].set(-37.0)
    c = centring.from_z(LAYOUT, near_zero, NONE.at[:2].set(1e4))
    assert np.allclose(c, near_zero, rtol=1e-12)


def test_effects_that_data_fix_are_centred_and_others_not():
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(400, LAYOUT.size))
    draws[:, 1:3] = 0.2 * rng.normal(size=(400, 2))  # both scales well away from zero
    draws[:, 3::2] = 1.0 + 0.1 * rng.normal(size=(400, 3))  # etas of a known, those of b as under the prior
    known, unknown, *stretches = centring.choose_weights(LAYOUT, draws, even)
    omega = np.median(np.asarray(jax.vmap(lambda z: centring._omegas(LAYOUT, z[:3]))(jnp.asarray(draws))), axis=0)
    assert known * omega[0] ** 2 > 20 and unknown * omega[1] ** 2 < 0.15
    assert stretches == [0.0] * 6


def test_no_random_effects_need_no_weights():
    empty = Layout(LAYOUT.estimate, {}, (), 1.0, {}, {}, ("1",))
    assert centring.choose_weights(empty, np.zeros((5, 1)), even).tolist() == [0.0, 0.0]
    assert np.array_equal(centring.to_z(empty, jnp.ones(1), jnp.zeros(2))[0], jnp.ones(1))
