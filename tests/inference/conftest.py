"""What several tests of posteriors share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def log_integral():
    """(log density, z, coordinates) -> log of the integral of its exponential over these coordinates, in which it is
    normal: exact, from slope and curvature at any point."""

    def integral(log_density, z: np.ndarray, over: list[int]) -> float:
        place = jnp.array(over)
        both = jax.jit(jax.value_and_grad(lambda x: log_density(jnp.asarray(z).at[place].set(x))))
        value, slope = both(z[over])
        curvature = -np.array([both(z[over] + step)[1] - slope for step in np.eye(len(over))])
        top = slope @ np.linalg.solve(curvature, slope) / 2
        return float(value + top + 0.5 * len(over) * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(curvature)[1])

    return integral
