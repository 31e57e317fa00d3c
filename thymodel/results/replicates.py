"""What a posterior predicts for the very records of a study: replicates, typical and individual predictions."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec
from thymodel.dynamics.schedule import Schedule
from thymodel.errors import SolveError
from thymodel.inference import checking
from thymodel.inference.population import Layout, population_values
from thymodel.inference.posterior import Records
from thymodel.inference.sampling import thin
from thymodel.results.prediction import patient_courses
from thymodel.results.residuals import iwres

PRIOR_REPLICATES = 500  # of which only bands are drawn
_REPLICATES = 2000  # p values of some thirty questions together need that many to reach far below the alarm
_FEWEST = 500  # replicates, for the largest studies
_ROOM = 4e7  # numbers in an array of predictions: 320 MB
_FITTED = 200  # draws for residuals and typical predictions


@dataclass(frozen=True)
class Study:
    """A study's records with what is needed to predict them."""

    spec: FitSpec
    layout: Layout
    data: StudyData
    schedule: Schedule
    records: Records

    @property
    def time(self) -> Float[np.ndarray, " record"]:
        return np.asarray(self.schedule.visits)[self.records.subject, self.records.visit]

    def at_records(self, found: Float[np.ndarray, "draw subject visit observable"]) -> np.ndarray:
        return found[:, self.records.subject, self.records.visit, self.records.observable]


def affordable(study: Study) -> int:
    """Replicates that fit into memory."""
    subjects, visits = study.schedule.visits.shape
    return int(np.clip(_ROOM / (subjects * visits * len(study.spec.likelihood)), _FEWEST, _REPLICATES))


def posterior_replicates(study: Study, z: Float[np.ndarray, "chain draw coordinate"], count: int,
                         random: np.random.Generator) -> Float[np.ndarray, "replicate record"]:
    """Measurements of new subjects like the study's, a replicate a draw; draws are repeated where there are too few."""
    some = thin(z, count)
    points = checking.new_subjects(study.layout, some[np.arange(count) % len(some)], random)
    return _replicates(study, points, int(random.integers(2**31)))


def prior_replicates(study: Study, random: np.random.Generator) -> Float[np.ndarray, "replicate record"]:
    """The same under draws of the prior."""
    points = checking.prior_points(study.layout, PRIOR_REPLICATES, random)
    return _replicates(study, points, int(random.integers(2**31)))


def _replicates(study: Study, z: np.ndarray, seed: int) -> np.ndarray:
    """Of those draws that could be solved."""
    found = _courses(study, z)
    good = np.isfinite(study.at_records(found)).all(axis=1)
    if good.mean() < 0.5:
        raise SolveError("the study's replicates", 0.0, f"{(~good).sum()} of {len(z)} could not be integrated")
    padded = np.nan_to_num(found[good])  # visits that a subject does not have
    return study.at_records(checking.measure(study.spec, study.layout, z[good], padded, seed))


def _courses(study: Study, z: np.ndarray) -> Float[np.ndarray, "draw subject visit observable"]:
    return patient_courses(study.spec, study.layout, z, study.data, tuple(study.spec.likelihood), study.schedule)


def typical_prediction(study: Study, z: Float[np.ndarray, "chain draw coordinate"]) -> Float[np.ndarray, " record"]:
    """PRED: of a subject without random effects but with the record's doses and covariates, median over draws."""
    points = thin(z, _FITTED).copy()
    points[:, len(study.layout.population):] = 0.0
    return np.nanmedian(study.at_records(_courses(study, points)), axis=0)


def individual_prediction(study: Study, z: Float[np.ndarray, "chain draw coordinate"],
                          ) -> tuple[Float[np.ndarray, " record"], Float[np.ndarray, " record"]]:
    """IPRED and IWRES at posterior medians."""
    points = thin(z, _FITTED)
    predicted = study.at_records(_courses(study, points))
    solved = np.isfinite(predicted).all(axis=1)
    population = jax.jit(jax.vmap(partial(population_values, study.layout)))(jnp.asarray(points[solved]))
    return np.median(predicted[solved], axis=0), iwres(study.spec, study.records, predicted[solved], population)
