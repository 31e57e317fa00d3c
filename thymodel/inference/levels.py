"""Covariates that are missing and have but a few values: the likelihood of a subject is a sum over these.

A subject who lacks one is solved once for each value (for each combination, where several are missing), in rows of the
solver behind those of the patients. The sum is over the values' probabilities times the subject's likelihood with each,
so that no unknown of the sampler is discrete.

Each such covariate has a standard normal of each subject beside the random effects (as a continuous one has); the
likelihood does not look at it. In draws it says which value the subject has: `recode` puts it where the distribution
function of the value drawn from the posterior is, given the rest of the draw.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtr, ndtri

from thymodel.documents.data import StudyData, Subject
from thymodel.documents.spec import FitSpec
from thymodel.inference.population import Layout, level_weights, missing_name, population_values

_EDGE = 1e-12  # of a probability: beyond, a standard normal has no finite value


@dataclass(frozen=True)
class Alternatives:
    """The patient of each row of the solver (their own rows come first), and of each covariate the number of the value
    that a row supposes, -1 where it is not supposed."""

    patients: int
    who: np.ndarray
    level: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        return len(self.who) > self.patients

    def rows_of(self, patient: int) -> np.ndarray:
        return np.flatnonzero(self.who == patient)


def expand(spec: FitSpec, data: StudyData) -> tuple[StudyData, Alternatives]:
    """The study with a subject for each value that a patient may have had, the patients with the first one."""
    discrete = {name: item for name, item in spec.missing_covariates.items() if item.levels}
    first: list[tuple[int, dict[str, int], Subject]] = []
    more: list[tuple[int, dict[str, int], Subject]] = []
    for k, subject in enumerate(data.subjects):
        known = dict(subject.covariates)
        lacking = [name for name in discrete if np.isnan(known[name][0][1])]
        for n, places in enumerate(itertools.product(*(range(len(discrete[name].levels)) for name in lacking))):
            supposed = dict(zip(lacking, places, strict=True))
            courses = known | {name: ((known[name][0][0], discrete[name].levels[place]),)
                               for name, place in supposed.items()}
            (more if n else first).append((k, supposed, replace(subject, covariates=tuple(courses.items()))))
    rows = [*first, *more]
    level = {name: np.array([supposed.get(name, -1) for _, supposed, _ in rows], int) for name in discrete}
    alternatives = Alternatives(len(first), np.array([k for k, _, _ in rows], int), level)
    return replace(data, subjects=tuple(subject for _, _, subject in rows)), alternatives


def joint(spec: FitSpec, alternatives: Alternatives, population: Mapping[str, Array],
          by_row: Float[Array, " row"]) -> Float[Array, " row"]:
    """Log likelihood of each row together with the probability of the values that it supposes."""
    for name, level in alternatives.level.items():
        weights = jnp.log(level_weights(spec.missing_covariates[name], name, population))
        by_row = by_row + jnp.where(level >= 0, weights[level], 0.0)
    return by_row


def by_patient(alternatives: Alternatives, of_rows: Float[Array, " row"]) -> Float[Array, " patient"]:
    """Log of the sum over each patient's rows of exp(`of_rows`)."""
    highest = jax.ops.segment_max(jax.lax.stop_gradient(of_rows), alternatives.who, alternatives.patients)
    parts = jnp.exp(of_rows - highest[alternatives.who])
    return highest + jnp.log(jax.ops.segment_sum(parts, alternatives.who, alternatives.patients))


def recode(spec: FitSpec, lay: Layout, alternatives: Alternatives, probabilities: Callable[[Array], Array],
           z: Float[np.ndarray, "draw coordinate"]) -> Float[np.ndarray, "draw coordinate"]:
    """Draws whose standard normals of missing values say which of them the subject has.

    Args:
        probabilities: of each row of the solver given the data and a draw; those of a patient add up to 1.
    """
    found, count = np.array(z), len(lay.population)
    given = np.asarray(jax.jit(lambda points: jax.lax.map(probabilities, points))(jnp.asarray(z)))
    weights = {name: np.asarray(jax.vmap(lambda point, name=name: level_weights(
        spec.missing_covariates[name], name, population_values(lay, point)))(jnp.asarray(z)))
        for name in alternatives.level}
    draws = np.arange(len(z))
    for patient in np.flatnonzero(np.bincount(alternatives.who, minlength=alternatives.patients) > 1):
        rows = alternatives.rows_of(patient)
        lacking = [name for name, level in alternatives.level.items() if level[rows[0]] >= 0]
        places = [count + patient * len(lay.columns) + lay.columns.index(missing_name(name)) for name in lacking]
        uniform = [ndtr(z[:, place]) for place in places]
        ends = np.cumsum(given[:, rows], axis=1)
        chosen = np.sum(uniform[0][:, None] > ends[:, :-1], axis=1)
        inside = given[draws, rows[chosen]]
        uniform[0] = (uniform[0] - ends[draws, chosen] + inside) / np.maximum(inside, _EDGE)
        for name, place, part in zip(lacking, places, uniform, strict=True):
            level = alternatives.level[name][rows[chosen]]
            own = weights[name][draws, level]
            low = np.cumsum(weights[name], axis=1)[draws, level] - own
            found[:, place] = ndtri(np.clip(low + own * np.clip(part, 1e-9, 1 - 1e-9), _EDGE, 1 - _EDGE))
    return found
