"""From posterior draws to reconstitution times of virtual subjects, arm by arm."""

from collections.abc import Mapping, Sequence

import numpy as np

from thymodel.documents.spec import Arm, Endpoint, FitSpec
from thymodel.inference.population import Layout
from thymodel.results.endpoints import crossing_times
from thymodel.results.prediction import Progress, Simulate, VirtualSubjects, simulator

GRID_POINTS = 181  # every two days over a year: a course is straight enough between them


def endpoint_grid(endpoints: Sequence[Endpoint]) -> np.ndarray:
    """Times on which courses are judged: evenly from the first clock's start to the last horizon, and all of those."""
    edges = [day for e in endpoints for day in (e.clock_start, e.horizon)]
    return np.unique(np.concatenate([np.linspace(min(edges), max(edges), GRID_POINTS), edges]))


def arm_times(spec: FitSpec, lay: Layout, z: np.ndarray, arms: Sequence[Arm], subjects: VirtualSubjects,
              endpoints: Mapping[str, Endpoint], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """Crossing times of the latent course (no residual error) for each endpoint; inf where not reached.

    Returns:
        Endpoint -> array (arm, draw, subject), from one simulation of all of them.
    """
    if not endpoints:
        return {}
    grid = endpoint_grid(list(endpoints.values()))
    return times_from(simulator(spec, lay, z, arms, subjects, grid), z, endpoints, grid, progress)


def times_from(simulate: Simulate, z: np.ndarray, endpoints: Mapping[str, Endpoint], grid: np.ndarray,
               progress: Progress | None = None) -> dict[str, np.ndarray]:
    """`arm_times` from courses on a grid that holds the endpoints' own."""
    markers = list(dict.fromkeys(e.marker for e in endpoints.values()))

    def judge(found: np.ndarray) -> np.ndarray:
        by_marker = np.ascontiguousarray(np.moveaxis(found, -1, 0))
        return np.stack([crossing_times(e, grid, by_marker[markers.index(e.marker)]) for e in endpoints.values()], -1)

    if not endpoints:
        return {}
    times = simulate(z, markers, judge, progress)
    return {name: times[..., k] for k, name in enumerate(endpoints)}
