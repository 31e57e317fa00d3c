"""From posterior draws to reconstitution times and implied exports of virtual subjects, arm by arm."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from thymodel.documents.model import ratios
from thymodel.documents.spec import Arm, Endpoint, FitSpec
from thymodel.inference.population import Layout
from thymodel.results import exports
from thymodel.results.competing import Hazards, event_times, hazard_grid
from thymodel.results.endpoints import crossing_times
from thymodel.results.exports import Window
from thymodel.results.observed import Assay, Crossing, assay_of, measurements, visit_crossings, visit_days
from thymodel.results.prediction import Block, Simulation, VirtualSubjects, blocks, courses, simulator
from thymodel.results.running import in_turn

_IN_MEMORY = 1 << 28  # bytes of outcomes; more are kept in a file
GRID_POINTS = 181  # every two days over a year: a course is straight enough between them


def endpoint_grid(endpoints: Sequence[Endpoint]) -> np.ndarray:
    """Times on which courses are judged: evenly from the first clock's start to the last horizon, and all of those."""
    edges = [day for e in endpoints for day in (e.clock_start, e.horizon)]
    return np.unique(np.concatenate([np.linspace(min(edges), max(edges), GRID_POINTS), edges]))


@dataclass(frozen=True)
class Outcomes:
    """Of every arm, draw and subject (arm, draw, subject): crossing times by endpoint, inf where not reached; ratios of
    implied export by quantity, empty where the model knows no healthy value; the window of their peaks; days of
    competing events by risk, inf where there is none; and between which visits measurements place the crossing, by
    endpoint that has visits. Arrays that would fill the memory are kept on disk (`numpy.memmap`)."""

    times: Mapping[str, np.ndarray]
    exports: Mapping[str, np.ndarray]
    window: Window
    events: Mapping[str, np.ndarray] = field(default_factory=dict)
    observed: Mapping[str, Crossing] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Judging:
    """Simulates a block of draws and subjects and judges its courses: all that happens to a block, wherever that is.

    Its result has a row for each of `quantities`: crossing times, events, exports, then what visits show.
    """

    simulation: Simulation
    z: Float[np.ndarray, "draw coordinate"]
    endpoints: Mapping[str, Endpoint]
    hazards: Hazards = Hazards()
    seed: int = 0

    @property
    def quantities(self) -> tuple[str, ...]:
        names = exports.quantities(self.simulation.spec.model, self.window)
        seen = [f"{end}: {name}" for name, one in self.endpoints.items() if one.visits for end in Crossing._fields]
        return (*self.endpoints, *(risk.name for risk in self.hazards.risks), *names, *seen)

    @property
    def window(self) -> Window:
        return exports.window(self.simulation.times, self.endpoints)

    @property
    def blocks(self) -> list[Block]:
        return blocks(self.simulation, len(self.z))

    @property
    def markers(self) -> list[str]:
        return list(dict.fromkeys([*(e.marker for e in self.endpoints.values()), *self.hazards.markers]))

    @property
    def observables(self) -> tuple[str, ...]:
        """What is looked at, in the order of the courses that `judge` takes."""
        return (*self.markers, *ratios(self.simulation.spec.model))

    def __call__(self, block: Block) -> Float[np.ndarray, "quantity arm draw subject"]:
        return self.judge(block, courses(self.simulation, self.z, block, self.observables))

    def judge(self, block: Block, found: Float[np.ndarray, "arm draw subject time observable"],
              ) -> Float[np.ndarray, "quantity arm draw subject"]:
        """What the courses of a block say."""
        sim, grid, markers = self.simulation, self.simulation.times, self.markers
        columns = self.observables[len(markers):]
        found = np.ascontiguousarray(np.moveaxis(found, -1, 0))
        judged = [crossing_times(e, grid, found[markers.index(e.marker)]) for e in self.endpoints.values()]
        judged += [np.broadcast_to(event_times(risk, grid, own[block.subjects], found[markers.index(risk.link.marker)]
                                               if risk.link else None), found.shape[1:4])
                   for risk, own in zip(self.hazards.risks, self.hazards.exposures, strict=True)]
        judged += [*exports.look(grid, self.window, found[len(markers):])] if columns else []
        days = visit_days(self.endpoints)
        measured = {name: measurements(_assay(sim.like or sim, name), self.z[block.draws], own,
                                       found[markers.index(name)][..., np.searchsorted(grid, own)], self.seed,
                                       block.draws.start, block.subjects.start) for name, own in days.items()}
        for one in self.endpoints.values():
            if one.visits:
                judged += visit_crossings(one, days[one.marker], measured[one.marker])
        return np.stack(judged)


def judging_grid(endpoints: Mapping[str, Endpoint], hazards: Hazards = Hazards()) -> Float[np.ndarray, " time"]:
    """Times at which courses are computed for endpoints, their visits and competing events."""
    grid = hazard_grid(endpoint_grid(list(endpoints.values())), list(endpoints.values()), hazards.risks)
    return np.unique(np.concatenate([grid, *visit_days(endpoints).values()]))


@lru_cache(maxsize=8)
def _assay(simulation: Simulation, marker: str) -> Assay:
    return assay_of(simulation.spec, simulation.layout, marker)


def prepare_judging(spec: FitSpec, lay: Layout, z: np.ndarray, arms: Sequence[Arm], subjects: VirtualSubjects,
                    endpoints: Mapping[str, Endpoint], hazards: Hazards = Hazards(), seed: int = 0) -> Judging:
    """What outcomes of the latent course need (no residual error but where there are visits), in one simulation.

    Args:
        seed: of the residual errors of visits.
    """
    grid = judging_grid(endpoints, hazards)
    markers = (*(endpoint.marker for endpoint in endpoints.values()), *hazards.markers)
    return Judging(simulator(spec, lay, z, arms, subjects, grid, markers), z, endpoints, hazards, seed)


def gather(judging: Judging, found: Iterable[tuple[Block, np.ndarray]]) -> Outcomes:
    """The outcomes of all blocks, whatever their order."""
    sim, names = judging.simulation, judging.quantities
    whole = room((len(names), len(sim.arms), len(judging.z), len(sim.subjects.standard)))
    for block, values in found:
        whole[:, :, block.draws, block.subjects] = values
    by_name = dict(zip(names, whole, strict=True))
    return Outcomes({name: by_name[name] for name in judging.endpoints},
                    {name: by_name[name] for name in exports.quantities(sim.spec.model, judging.window)},
                    judging.window, {risk.name: by_name[risk.name] for risk in judging.hazards.risks},
                    {name: Crossing(*(by_name[f"{end}: {name}"] for end in Crossing._fields))
                     for name, one in judging.endpoints.items() if one.visits})


def room(shape: tuple[int, ...]) -> np.ndarray:
    """An array to be filled: in memory, or where it is large in a file without a name, which ends with it."""
    if np.prod(shape) * 8 <= _IN_MEMORY:
        return np.empty(shape)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, float, "w+", shape=shape)


def arm_times(spec: FitSpec, lay: Layout, z: np.ndarray, arms: Sequence[Arm], subjects: VirtualSubjects,
              endpoints: Mapping[str, Endpoint]) -> Mapping[str, np.ndarray]:
    """Crossing times alone: endpoint -> array (arm, draw, subject)."""
    return outcomes(prepare_judging(spec, lay, z, arms, subjects, endpoints)).times if endpoints else {}


def outcomes(judging: Judging) -> Outcomes:
    """Of all blocks, on the cores of this machine; nothing where nothing is asked."""
    if not judging.quantities:
        return Outcomes({}, {}, judging.window)
    return gather(judging, in_turn(judging, judging.blocks))
