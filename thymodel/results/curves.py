"""Curves that figures draw: quantiles over draws and subjects, computed by the fit and kept in the record.

Uncertainty of parameters and spread between subjects are kept apart. Of the virtual subjects under one draw, the
median is that draw's median subject; its quantiles over draws are uncertainty. The 5% and 95% quantiles over the
subjects of one draw are spread; of them the median over draws is kept.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from thymodel.documents.data import StudyData
from thymodel.documents.spec import Arm, Endpoint, FitSpec
from thymodel.inference.diagnostics import INTERVAL
from thymodel.inference.population import Layout
from thymodel.inference.sampling import thin
from thymodel.results.endpoints import incidence
from thymodel.results.prediction import (
    Simulation,
    individual_courses,
    observables_of,
    observed_arms,
)
from thymodel.results.reconstitution import endpoint_grid

QUANTILES = (INTERVAL[0], 0.5, INTERVAL[1])
POPULATION, INDIVIDUALS, INCIDENCE = "population", "individuals", "incidence"  # groups of the file
_DRAWS = 100  # for courses: a band of 5% and 95% needs no more on paper
_TIMES = 121
_DAYS = 181  # of an incidence curve


def make_curves(spec: FitSpec, lay: Layout, z: Float[np.ndarray, "chain draw coordinate"], data: StudyData,
                times: Mapping[str, np.ndarray], simulation: Simulation) -> dict[str | None, xr.Dataset]:
    """Everything that the figures of a fit draw beside data and draws, group by group.

    Args:
        times: endpoint -> crossing times (arm, draw, subject), arms as in the data.
        simulation: of virtual subjects in those arms.
    """
    some, arms = thin(z, _DRAWS), observed_arms(spec, data)
    return {POPULATION: _population(spec, simulation, some, arms),
            INDIVIDUALS: _individuals(spec, lay, some, data, time_grid(spec, data)),
            INCIDENCE: incidence_curves(spec.endpoints, times, [arm.name for arm in arms])}


def time_grid(spec: FitSpec, data: StudyData) -> np.ndarray:
    """From the model's start to the last observation or horizon; dose times twice, so that a jump is seen as one."""
    start = spec.model.start
    cohorts = [cohort for table in spec.published for cohort in table.cohorts]
    last = max([o.time for s in data.subjects for o in s.observations]
               + [day for cohort in cohorts for day in cohort.days]
               + [endpoint.horizon for endpoint in spec.endpoints.values()])
    given = [*(subject.doses for subject in data.subjects), *(cohort.doses for cohort in cohorts)]
    doses = np.array([dose.time for own in given for dose in own if dose.time < last])
    return np.unique(np.concatenate([np.linspace(start, last, _TIMES), doses, doses + 1e-6 * (last - start)]))


def joint_grid(spec: FitSpec, data: StudyData) -> np.ndarray:
    """Times for curves and endpoints at once: those of the endpoints, doses, and of the curves what lies outside."""
    grid = time_grid(spec, data)
    if not spec.endpoints:
        return grid
    own = endpoint_grid(list(spec.endpoints.values()))
    even = np.isin(grid, np.linspace(grid[0], grid[-1], _TIMES))
    return np.unique(np.concatenate([own, grid[~even | (grid < own[0]) | (grid > own[-1])]]))


def _population(spec: FitSpec, simulation: Simulation, z, arms: Sequence[Arm]) -> xr.Dataset:
    observables = observables_of(spec)
    uncertain, spread = bands(simulation(z, observables))
    dims = ("arm", "time", "quantile")
    variables = {f"{name}.{kind}": (dims, values[:, :, k]) for k, name in enumerate(observables)
                 for kind, values in (("median", uncertain), ("subjects", spread))}
    doses = {arm.name: [[dose.time, dose.input, dose.amount] for dose in arm.doses] for arm in arms}
    coords = {"arm": _texts(arm.name for arm in arms), "time": simulation.times, "quantile": list(QUANTILES)}
    return xr.Dataset(variables, coords=coords, attrs={"doses": json.dumps(doses)})


def bands(found: Float[np.ndarray, "arm draw subject time observable"]) -> tuple[
        Float[np.ndarray, "arm time observable quantile"], Float[np.ndarray, "arm time observable quantile"]]:
    """Uncertainty of the median subject, and the spread between subjects, each as QUANTILES."""
    by_draw = np.quantile(found, QUANTILES, axis=2)  # quantile arm draw time observable
    uncertain = np.moveaxis(np.quantile(by_draw[1], QUANTILES, axis=1), 0, -1)
    return uncertain, np.moveaxis(np.median(by_draw, axis=2), 0, -1)


def _individuals(spec: FitSpec, lay: Layout, z, data: StudyData, grid) -> xr.Dataset:
    observables = observables_of(spec)
    if not data.subjects:
        return xr.Dataset(coords={"subject": _texts(()), "time": grid, "quantile": list(QUANTILES)})
    found = np.quantile(individual_courses(spec, lay, z, data, observables, grid), QUANTILES, axis=0)
    variables = {name: (("quantile", "subject", "time"), found[..., k]) for k, name in enumerate(observables)}
    coords = {"subject": _texts(lay.subjects), "time": grid, "quantile": list(QUANTILES)}
    return xr.Dataset(variables, coords=coords)


def incidence_curves(endpoints: Mapping[str, Endpoint], times: Mapping[str, np.ndarray],
                     arms: Sequence[str]) -> xr.Dataset:
    """Fraction of subjects that reached each endpoint by each day after the clock's start, quantiles over draws."""
    variables, coords = {}, {"arm": _texts(arms), "quantile": list(QUANTILES)}
    for name, endpoint in endpoints.items():
        days = np.linspace(0, endpoint.horizon - endpoint.clock_start, _DAYS)
        by_draw = np.stack([incidence(of_arm, days) for of_arm in times[name]])  # arm draw day
        values = np.moveaxis(np.quantile(by_draw, QUANTILES, axis=1), 0, -1)
        variables[name] = (("arm", f"{name}.day", "quantile"), values)
        coords[f"{name}.day"] = days
    return xr.Dataset(variables, coords=coords)


def _texts(names) -> np.ndarray:
    return np.array([str(name) for name in names], dtype=object)
