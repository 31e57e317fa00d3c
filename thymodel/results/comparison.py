"""Published figures beside what the posterior expects of cohorts like theirs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from thymodel.documents import units
from thymodel.inference import aggregate
from thymodel.inference.population import population_values
from thymodel.inference.posterior import Posterior
from thymodel.inference.sampling import thin

_DRAWS = 400
_VALUES = ("value", "sd", "cv", "q25", "q75", "min", "max")
_SHARES = ("fraction_below", "cumulative_incidence")


def compare(posterior: Posterior, z: Float[np.ndarray, "chain draw coordinate"]) -> list[dict[str, Any]]:
    """For the record, file by file: every row with the median and the 90% interval of the same figure of another cohort
    of its size (parameters and sampling), the probability of one below it, and its posterior mean log likelihood.

    `log_likelihood` of a row is its own; rows of a cohort are not independent and do not add up to that of the cohort.
    """
    if not posterior.spec.published:
        return []
    drawn, terms = _look(posterior, thin(z, _DRAWS))
    return [{"name": table.name, "file": table.path.name, "sha256": table.digest, "title": table.title,
             "cohorts": [{"name": c.name, "label": c.label, "study": c.study, "source": c.source, "overlap": c.overlap,
                          "virtual_people": aggregate.node_count(c)} for c in table.cohorts],
             "rows": [_row(posterior, row, k, drawn[table.name], terms[table.name])
                      for k, row in enumerate(table.rows)]} for table in posterior.spec.published]


def _look(posterior: Posterior, z: np.ndarray):
    """By file: (row, key) -> figures of other cohorts (draw,), and row -> log likelihood (draw,)."""
    spec, owner = posterior.spec, {c.name: table.name for table in posterior.spec.published for c in table.cohorts}

    @jax.jit
    def look(point, key):
        population = population_values(posterior.layout, point)
        assert posterior.cohort_courses is not None
        rows, found = posterior.cohort_courses(point), []
        for plan, own in zip(posterior.plans, posterior.data.published, strict=True):
            mine, key = rows[plan.first:plan.last], jax.random.fold_in(key, 1)
            found.append((aggregate.draw_figures(spec, plan, own, population, mine, key),
                          aggregate.log_likelihood_by_row(spec, plan, own, population, mine)))
        return found

    keys = jax.random.split(jax.random.PRNGKey(spec.sampler.seed), len(z))
    looks = [jax.tree.map(np.asarray, look(jnp.asarray(point), key)) for point, key in zip(z, keys, strict=True)]
    drawn: dict[str, dict[tuple[int, str], np.ndarray]] = {name: {} for name in owner.values()}
    terms: dict[str, dict[int, np.ndarray]] = {name: {} for name in owner.values()}
    for k, plan in enumerate(posterior.plans):
        name = owner[plan.cohort.name]
        drawn[name] |= {key: np.array([one[k][0][key] for one in looks]) for key in looks[0][k][0]}
        terms[name] |= {key: np.array([one[k][1][key] for one in looks]) for key in looks[0][k][1]}
    return drawn, terms


def _row(posterior: Posterior, row, number: int, drawn, terms) -> dict[str, Any]:
    model = posterior.spec.model
    plain = row.statistic in _SHARES
    factor = 1.0 if plain else units.convert_factor(model.observables[row.observable].unit, row.unit)
    figures = {}
    for key in _VALUES:
        published = row.se * np.sqrt(row.n) if key == "sd" and row.sd is None and row.se is not None else getattr(row,
                                                                                                                  key)
        if published is None or (number, key) not in drawn:
            continue
        values = drawn[(number, key)] * (1.0 if key == "cv" else factor)
        low, middle, high = (float(q) for q in np.quantile(values, (0.05, 0.5, 0.95)))
        figures[key] = {"published": float(published), "median": middle, "q05": low, "q95": high,
                        "below": float(np.mean(values < published))}
    place = {"limit": row.limit, "threshold": row.threshold, "bound": row.bound}
    return {"row": number, "cohort": row.cohort, "day": row.day, "observable": row.observable,
            "statistic": row.statistic, "unit": "1" if plain else row.unit, "n": row.n, "source": row.source,
            "verified": row.verified, **{key: value for key, value in place.items() if value is not None},
            "figures": figures, "log_likelihood": float(np.mean(terms[number]))}
