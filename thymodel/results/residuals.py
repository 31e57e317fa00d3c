"""Where the model misses: standardised residuals of the fitted patients, without their raw values."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from thymodel.documents.spec import FitSpec
from thymodel.inference.approximation import Approximation
from thymodel.inference.likelihood import standardised_residuals
from thymodel.inference.population import error_name, population_values
from thymodel.inference.posterior import Posterior, Records
from thymodel.inference.sampling import Draws, thin

BOUND = 2.5  # standardised residuals beyond it are listed
_DRAWS = 200


def misfit(posterior: Posterior, draws: Draws | Approximation) -> dict[str, Any]:
    """Standardised residuals (IWRES), as numbers for JSON.

    The prediction is the posterior median of each record's individual prediction, the residual-error parameters are at
    their posterior medians; the residual is taken on the scale of the error model (log for lognormal and student_t). A
    censored record has no residual; it is listed only if the prediction lies on the wrong side of the limit, with the
    residual of the limit itself, which is the least that the true one can be.

    Returns:
        `bound`; `subjects`, a row each, with the root mean square over its measured records; `beyond`, a row a record.
    """
    residual, censored = _residuals(posterior, draws)
    spec, records = posterior.spec, posterior.records
    subject, names = np.asarray(records.subject), tuple(spec.likelihood)
    times = np.asarray(posterior.data.solver.schedule.visits)[subject, np.asarray(records.visit)]
    wrong_side = np.asarray(records.censoring) * residual < 0
    listed = (np.abs(residual) > BOUND) & (~censored | wrong_side)
    rows = [{"subject": posterior.layout.subjects[subject[k]], "time": float(times[k]),
             "observable": names[int(records.observable[k])], "residual": round(float(residual[k]), 2),
             "censored": bool(censored[k])} for k in np.flatnonzero(listed)]
    people = [_subject(name, residual[subject == k], censored[subject == k], listed[subject == k])
              for k, name in enumerate(posterior.layout.subjects)]
    return {"bound": BOUND, "subjects": people, "beyond": rows}


def _residuals(posterior: Posterior, draws: Draws | Approximation) -> tuple[np.ndarray, np.ndarray]:
    """Residual of each record, and whether the record is censored."""
    spec, records = posterior.spec, posterior.records

    @jax.jit
    def look(points):
        return jax.lax.map(lambda z: (posterior.predictions(z), population_values(posterior.layout, z)), points)

    predicted, population = look(thin(draws.z, _DRAWS))
    return iwres(spec, records, predicted, population), np.asarray(records.censoring) != 0


def iwres(spec: FitSpec, records: Records, predicted: Float[np.ndarray, "draw record"],
          population: Mapping[str, Float[np.ndarray, " draw"]]) -> Float[np.ndarray, " record"]:
    """Standardised residual of each record from posterior medians; for a censored one that of its limit.

    Args:
        predicted: individual predictions.
        population: from `population_values`.
    """
    middle, result = np.median(predicted, axis=0), np.full(len(records.value), np.nan)
    for k, (name, error) in enumerate(spec.likelihood.items()):
        mine = np.flatnonzero(np.asarray(records.observable) == k)
        sigma = {key: np.median(population[error_name(name, key)]) for key in error.parameters}
        result[mine] = jax.jit(partial(standardised_residuals, error))(sigma, middle[mine], records.value[mine])
    return result


def _subject(name: str, residual: np.ndarray, censored: np.ndarray, listed: np.ndarray) -> dict[str, Any]:
    measured = residual[~censored]
    size = float(np.sqrt(np.mean(measured**2))) if len(measured) else None
    return {"subject": name, "measured": len(measured), "censored": int(censored.sum()),
            "rms": None if size is None else round(size, 2), "beyond": int(listed.sum())}
