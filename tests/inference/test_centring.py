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
WEIGHTS = jnp.array([0.7, 0.3])


def test_the_map_and_its_inverse_cancel():
    there = centring.from_z(LAYOUT, POINT, WEIGHTS)
    assert np.allclose(centring.to_z(LAYOUT, there, WEIGHTS)[0], POINT, rtol=0, atol=1e-14)
    assert not np.allclose(there, POINT, atol=1e-3)


def test_the_jacobian_is_that_of_automatic_differentiation():
    _, log_slope = centring.to_z(LAYOUT, POINT, WEIGHTS)
    matrix = jax.jacobian(lambda c: centring.to_z(LAYOUT, c, WEIGHTS)[0])(POINT)
    assert float(log_slope) == pytest.approx(np.linalg.slogdet(matrix)[1], abs=1e-12)


def test_weight_zero_is_the_identity():
    z, log_slope = centring.to_z(LAYOUT, POINT, jnp.zeros(2))
    assert np.array_equal(z, POINT) and float(log_slope) == 0.0


def test_weight_one_makes_the_coordinate_proportional_to_the_effect():
    c = centring.from_z(LAYOUT, POINT, jnp.ones(2))
    omega = centring._ratio(LAYOUT, POINT[:3])
    assert np.allclose(c[3:].reshape(3, 2), POINT[3:].reshape(3, 2) * omega, rtol=1e-14)


def test_effects_that_data_fix_are_centred_and_others_not():
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(400, LAYOUT.size))
    draws[:, 1:3] = 0.2 * rng.normal(size=(400, 2))  # both scales well away from zero
    draws[:, 3::2] = 1.0 + 0.1 * rng.normal(size=(400, 3))  # etas of a known, those of b as under the prior
    known, unknown = centring.choose_weights(LAYOUT, draws)
    assert known > 0.75 and unknown < 0.1


def test_an_effect_whose_scale_may_be_zero_is_not_centred():
    rng = np.random.default_rng(1)
    draws = 0.1 * rng.normal(size=(400, LAYOUT.size))
    draws[:, 1] = np.where(np.arange(400) % 10 == 0, -4.0, 0.0)  # omega of a near zero under a tenth of the draws
    assert centring.choose_weights(LAYOUT, draws)[0] == 0.0


def test_no_random_effects_need_no_weights():
    empty = Layout(LAYOUT.estimate, {}, (), 1.0, {}, {}, ("1",))
    assert len(centring.choose_weights(empty, np.zeros((5, 1)))) == 0
    assert np.array_equal(centring.to_z(empty, jnp.ones(1), jnp.zeros(0))[0], jnp.ones(1))
