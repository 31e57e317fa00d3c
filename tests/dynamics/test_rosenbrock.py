"""The stiff stepper alone: its orders, its damping, and the step that is masked out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.dynamics import rosenbrock

pytestmark = pytest.mark.requirement("REQ-NUM-02")

ORDER_FOUND = 0.3  # an observed order may differ from the asymptotic one by this much at steps of this size


def _field(t, y):
    """Logistic growth in a rotating frame: nonlinear, depends on time, closed form for the sum."""
    return jnp.array([y[0] * (1 - y[0]), jnp.cos(t) - y[1] * y[0]])


TAKE = jax.jit(lambda t0, t1, y: rosenbrock.take_step(_field, t0, t1, y))
START = jnp.array([0.2, 0.5])


def _march(end: float, steps: int):
    """The state at `end` after equal steps."""
    y = START
    for k in range(steps):
        y, _, _ = TAKE(k * end / steps, (k + 1) * end / steps, y)
    return y


def _order(errors: list[float]) -> float:
    return float(np.log2(errors[0] / errors[1]))


def test_the_step_is_of_fifth_order():
    exact = _march(1.0, 256)
    errors = [float(jnp.abs(_march(1.0, n) - exact).max()) for n in (8, 16)]
    assert _order(errors) == pytest.approx(rosenbrock.ORDER, abs=ORDER_FOUND)


def test_the_error_estimate_is_of_fifth_order():
    estimates = [float(jnp.abs(TAKE(0.0, h, START)[1]).max()) for h in (0.1, 0.05)]
    assert _order(estimates) == pytest.approx(5, abs=ORDER_FOUND)  # local error of the embedded fourth-order method


def test_dense_output_is_of_fourth_order():
    errors = []
    for h in (0.2, 0.1):
        y1, _, dense = TAKE(0.0, h, START)
        errors.append(float(jnp.abs(rosenbrock.between(0.5, START, y1, dense) - _march(h / 2, 64)).max()))
    assert _order(errors) == pytest.approx(5, abs=ORDER_FOUND)  # local error of a fourth-order curve


def test_a_very_stiff_component_is_damped_at_once():
    y, _, _ = rosenbrock.take_step(lambda t, y: -1e9 * y, 0.0, 1.0, jnp.array([1.0]))
    assert abs(float(y[0])) < 1e-6  # L-stable: goes to 0 with the inverse of the rate


def test_a_step_without_length_stays():
    y1, error, _ = TAKE(1.0, 1.0, START)
    assert (y1 == START).all() and (error == 0).all()
