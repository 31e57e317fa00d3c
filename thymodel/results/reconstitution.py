"""From posterior draws to reconstitution times and implied exports of virtual subjects, arm by arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from thymodel.documents.model import ratios
from thymodel.documents.spec import Arm, Endpoint, FitSpec
from thymodel.inference.population import Layout
from thymodel.results.competing import Hazards, event_times, hazard_grid
from thymodel.results.endpoints import crossing_times
from thymodel.results.exports import Window, look, quantities, window
from thymodel.results.prediction import Progress, Simulate, VirtualSubjects, simulator

GRID_POINTS = 181  # every two days over a year: a course is straight enough between them


def endpoint_grid(endpoints: Sequence[Endpoint]) -> np.ndarray:
    """Times on which courses are judged: evenly from the first clock's start to the last horizon, and all of those."""
    edges = [day for e in endpoints for day in (e.clock_start, e.horizon)]
    return np.unique(np.concatenate([np.linspace(min(edges), max(edges), GRID_POINTS), edges]))


@dataclass(frozen=True)
class Outcomes:
    """Of every arm, draw and subject (arm, draw, subject): crossing times by endpoint, inf where not reached; ratios of
    implied export by quantity, empty where the model knows no healthy value; the window of their peaks; and days of
    competing events by risk, inf where there is none. `visits` has the marker's own values on the days asked for, by
    marker (arm, draw, subject, day)."""

    times: Mapping[str, np.ndarray]
    exports: Mapping[str, np.ndarray]
    window: Window
    events: Mapping[str, np.ndarray] = field(default_factory=dict)
    visits: Mapping[str, np.ndarray] = field(default_factory=dict)


def arm_outcomes(spec: FitSpec, lay: Layout, z: np.ndarray, arms: Sequence[Arm], subjects: VirtualSubjects,
                 endpoints: Mapping[str, Endpoint], progress: Progress | None = None,
                 hazards: Hazards = Hazards(), days: Mapping[str, np.ndarray] | None = None) -> Outcomes:
    """Outcomes of the latent course (no residual error), all from one simulation.

    Args:
        days: by marker of an endpoint, days on which its values are wanted too.
    """
    grid = hazard_grid(endpoint_grid(list(endpoints.values())), list(endpoints.values()), hazards.risks)
    grid = np.unique(np.concatenate([grid, *(days or {}).values()]))
    markers = (*(endpoint.marker for endpoint in endpoints.values()), *hazards.markers)
    simulate = simulator(spec, lay, z, arms, subjects, grid, markers)
    return outcomes_from(spec, simulate, z, endpoints, grid, progress, hazards, days)


def outcomes_from(spec: FitSpec, simulate: Simulate, z: np.ndarray, endpoints: Mapping[str, Endpoint],
                  grid: np.ndarray, progress: Progress | None = None, hazards: Hazards = Hazards(),
                  days: Mapping[str, np.ndarray] | None = None) -> Outcomes:
    """`arm_outcomes` from courses on a grid that holds the days of endpoints and hazards, and those asked for."""
    markers = list(dict.fromkeys([*(e.marker for e in endpoints.values()), *hazards.markers]))
    over = window(grid, endpoints)
    columns, names = tuple(ratios(spec.model)), quantities(spec.model, over)

    def judge(found: np.ndarray) -> np.ndarray:
        by_column = np.ascontiguousarray(np.moveaxis(found, -1, 0))
        times = [crossing_times(e, grid, by_column[markers.index(e.marker)]) for e in endpoints.values()]
        repeated = np.tile(hazards.exposures, found.shape[1] // max(hazards.exposures.shape[1], 1))  # arm after arm
        times += [np.broadcast_to(event_times(risk, grid, own, by_column[markers.index(risk.link.marker)]
                                              if risk.link else None), found.shape[:2])
                  for risk, own in zip(hazards.risks, repeated, strict=True)]
        judged = np.stack([*times, *(look(grid, over, by_column[len(markers):]) if columns else ())], axis=-1)
        seen = [by_column[markers.index(name)][..., np.searchsorted(grid, own)] for name, own in (days or {}).items()]
        return np.concatenate([judged, *seen], axis=-1)

    if not endpoints and not columns:
        return Outcomes({}, {}, over)
    found = np.moveaxis(simulate(z, (*markers, *columns), judge, progress), -1, 0)
    ends = np.cumsum([len(endpoints), len(hazards.risks), len(names)])
    times, events, exports, rest = np.split(found, ends)
    cuts = np.cumsum([len(own) for own in (days or {}).values()])
    visits = {name: np.moveaxis(part, 0, -1) for name, part in zip(days or {}, np.split(rest, cuts), strict=False)}
    return Outcomes(dict(zip(endpoints, times, strict=True)), dict(zip(names, exports, strict=True)), over,
                    dict(zip((risk.name for risk in hazards.risks), events, strict=True)), visits)


def arm_times(spec: FitSpec, lay: Layout, z: np.ndarray, arms: Sequence[Arm], subjects: VirtualSubjects,
              endpoints: Mapping[str, Endpoint]) -> Mapping[str, np.ndarray]:
    """Crossing times alone: endpoint -> array (arm, draw, subject)."""
    return arm_outcomes(spec, lay, z, arms, subjects, endpoints).times if endpoints else {}
