"""Patients of trials that have not been run: new ones for every trial, each followed under every regimen as visits and
assay would show it, until a competing event or until they leave."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from thymodel.documents.risks import Risk
from thymodel.documents.spec import Arm, Endpoint, FitSpec
from thymodel.errors import SolveError
from thymodel.inference.population import Layout
from thymodel.results.competing import event_times, hazard_grid
from thymodel.results.observed import assay_of, measurements, visit_crossings
from thymodel.results.prediction import Progress, in_chunks, new_courses
from thymodel.results.reconstitution import endpoint_grid


@dataclass(frozen=True)
class Enrolled:
    """Of every arm, trial and patient: `shown`, days from the clock's start at which visits show the endpoint (inf
    where none does before watching ends), and `last`, the last visit that was attended (in the same days).

    A patient is the same person, with the same errors of measurement, in every arm.
    """

    shown: Float[np.ndarray, "arm trial patient"]
    last: Float[np.ndarray, "arm trial patient"]


def enrol(spec: FitSpec, lay: Layout, population: Float[np.ndarray, "trial coordinate"], patients: int,
          arms: Sequence[Arm], covariates: dict[str, np.ndarray], endpoint: Endpoint, risks: Sequence[Risk],
          dropout_rate: float, seed: int, progress: Progress | None = None) -> Enrolled:
    """Patients of a trial for each point of the population.

    Random effects are drawn anew for every trial, exposures to competing events and times to leaving too; covariates
    are those of fitted patients, each as often as the others.

    Args:
        lay: of the fit.
        population: coordinates of the population, of each trial.
        covariates: of the fitted patients, a value a patient.
        dropout_rate: per unit of time, from the model's start on.

    Raises:
        SolveError: a course could not be computed.
    """
    random = np.random.default_rng(seed)
    own = replace(lay, subjects=tuple(map(str, range(patients))), study=(-1,) * patients if lay.study else ())
    effects = random.standard_normal((len(population), patients * len(own.columns)))
    z = np.concatenate([population, effects], axis=1)
    fitted = len(next(iter(covariates.values()))) if covariates else 1
    chosen = random.permutation(np.arange(patients) % fitted)
    leaves = spec.model.start + random.standard_exponential((len(z), patients)) / (dropout_rate or 1e-300)
    exposures = random.standard_exponential((len(risks), len(z), patients))
    days = np.unique([endpoint.horizon] if endpoint.landmark else endpoint.visits)
    grid = np.unique(np.concatenate([hazard_grid(endpoint_grid([endpoint]), [endpoint], risks), days])) \
        if risks else days
    markers = tuple(dict.fromkeys([endpoint.marker, *(risk.link.marker for risk in risks if risk.link is not None)]))
    courses = new_courses(spec, own, z, arms, {name: values[chosen] for name, values in covariates.items()}, markers,
                          grid)

    def follow(rows):
        """(trial, arm, patient, day of visits; then day of the first competing event), some trials at a time."""
        found = courses(rows)
        end = np.full(found.shape[:3], np.inf)
        for risk, exposure in zip(risks, exposures, strict=True):
            course = found[..., markers.index(risk.link.marker)].reshape(-1, len(grid)) if risk.link else None
            flat = np.broadcast_to(exposure[rows], end.shape).reshape(-1)
            end = np.minimum(end, event_times(risk, grid, flat, course).reshape(end.shape))
        seen = found[..., np.searchsorted(grid, days), 0]
        return np.moveaxis(np.concatenate([seen, end[..., None]], axis=-1), 0, 1)

    followed = np.moveaxis(in_chunks(follow, len(z), progress), 0, 1)
    if np.isnan(followed).any():
        arm, trial, patient = np.argwhere(np.isnan(followed))[0][:3]
        raise SolveError(f"{patient + 1} of arm {arms[arm].name}, trial {trial + 1}", 0.0, "the integration failed")
    values = measurements(assay_of(spec, own, endpoint.marker), z, days, followed[..., :-1],
                          int(random.integers(2**32)))
    until = np.minimum(followed[..., -1], leaves)
    shown = visit_crossings(endpoint, days, values, until).at
    attended = (days <= until[..., None]).sum(axis=-1)
    last = np.where(attended > 0, days[np.maximum(attended - 1, 0)] - endpoint.clock_start, 0.0)
    return Enrolled(shown, last)
