"""From posterior draws to reconstitution times of virtual subjects, arm by arm."""

from collections.abc import Callable, Sequence

import numpy as np

from thymodel.documents.spec import Arm, Endpoint, FitSpec
from thymodel.inference.population import Layout
from thymodel.results.endpoints import crossing_times
from thymodel.results.prediction import VirtualSubjects, courses

GRID_POINTS = 366  # at most one time a day over a year, every two days over two years


def endpoint_grid(endpoint: Endpoint) -> np.ndarray:
    """Times on which a course is judged: daily over a year, coarser over a longer horizon, finer over a short one."""
    length = endpoint.horizon - endpoint.clock_start
    points = int(np.clip(4 * length + 1, 61, GRID_POINTS))
    return np.linspace(endpoint.clock_start, endpoint.horizon, points)


def arm_times(spec: FitSpec, lay: Layout, z: np.ndarray, arms: Sequence[Arm], subjects: VirtualSubjects,
              endpoint: Endpoint, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Crossing times of the latent course (no residual error), array (arm, draw, subject); inf where not reached."""
    grid = endpoint_grid(endpoint)
    found = courses(spec, lay, z, arms, subjects, [endpoint.marker], grid, progress)
    return crossing_times(endpoint, grid, found[..., 0])
