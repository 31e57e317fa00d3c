"""The halving leapfrog: its own inverse with the momentum turned, the energy kept, what cannot be retraced given up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.inference import sampling
from thymodel.inference.leapfrog import TOLERANCE, Place, make_step

pytestmark = pytest.mark.requirement("REQ-INF-03")

SIZE = 0.5


def _stiff(z):
    """A funnel: x is normal with an SD that falls with v."""
    return -0.5 * (z[0] ** 2 / 9 + z[1] ** 2 * jnp.exp(-z[0]) + z[0])


def _kinetic(momentum):
    return 0.5 * jnp.sum(momentum**2)


def _both(log_density):
    return lambda z, _: jax.value_and_grad(log_density)(z)


def _places(log_density, count: int) -> list[Place]:
    """Places in the neck, where a step of SIZE is many times too long, as well as outside."""
    random = np.random.default_rng(3)
    value_and_grad = jax.jit(jax.value_and_grad(log_density))
    found = []
    for _ in range(count):
        v = random.uniform(-6.0, 3.0)
        z = jnp.array([v, np.exp(v / 2) * random.normal()])
        found.append(Place(z, jnp.asarray(random.normal(size=2)), *value_and_grad(z)))
    return found


@pytest.fixture(scope="module")
def walks():
    """(start, end, the way back from the end) of 300 places."""
    step = jax.jit(make_step(_both(_stiff), _kinetic))
    found = []
    for start in _places(_stiff, 300):
        end = step(start, SIZE)
        found.append((start, end, step(end._replace(momentum=-end.momentum), SIZE)))
    return found


def _energy(place: Place) -> float:
    return float(_kinetic(place.momentum) - place.log_density)


def test_a_step_turned_round_leads_back_to_its_start(walks):
    kept = [walk for walk in walks if np.isfinite(walk[1].log_density)]
    assert len(kept) > 200
    for start, _, back in kept:
        np.testing.assert_allclose(back.position, start.position, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(back.momentum, -start.momentum, rtol=1e-9, atol=1e-9)


def test_the_energy_stays_within_the_tolerance(walks):
    kept = [(start, end) for start, end, _ in walks if np.isfinite(end.log_density)]
    assert max(abs(_energy(end) - _energy(start)) for start, end in kept) <= TOLERANCE


def test_a_step_that_is_not_halved_runs_off_at_some_of_these_places():
    """The negative control: without a bound the same places lose energy by the thousand."""
    step = jax.jit(make_step(_both(_stiff), _kinetic, tolerance=jnp.inf))
    lost = [abs(_energy(step(start, SIZE)) - _energy(start)) for start in _places(_stiff, 300)]
    assert np.nanmax(lost) > 1000 * TOLERANCE


def test_steps_that_cannot_be_retraced_are_marked_and_no_divergence(walks):
    marks = np.array([float(end.log_density) for _, end, _ in walks])
    assert np.isneginf(marks).any() and not np.isnan(marks).any()


def test_an_energy_that_runs_off_however_small_the_step_is_a_divergence():
    def wall(z):
        return jnp.where(z[0] < 0.1, -0.5 * jnp.sum(z**2), -jnp.inf)

    start = Place(jnp.zeros(2), jnp.ones(2), jnp.asarray(0.0), jnp.zeros(2))
    assert np.isnan(make_step(_both(wall), _kinetic)(start, SIZE).log_density)


def test_gradients_are_counted_with_those_of_halved_steps():
    settings = sampling.Settings(chains=2, warmup=100, draws=100, seed=1)
    draws = sampling.sample(lambda z: -0.5 * jnp.sum(z**2), 3, np.arange(3), settings)
    assert draws.gradients >= int(draws.leapfrogs.sum())
