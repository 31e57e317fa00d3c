"""Trajectories of the shipped models against scipy's LSODA and Radau, with rates written out by sympy.lambdify."""

import numpy as np
import pytest
import sympy
from scipy.integrate import solve_ivp

from thymodel.documents.expressions import symbol
from thymodel.documents.regimen import Dose
from thymodel.dynamics import symbolic
from thymodel.dynamics.solving import Accuracy

pytestmark = pytest.mark.requirement("REQ-NUM-02", "REQ-MOD-05")

AGREEMENT = 1e-6  # of each state's largest value; either side is solved at 1e-10 per step
VISITS = np.array([0.0, 7.0, 8.0, 14.0, 30.0, 60.0, 100.0, 180.0, 365.0, 730.0])
INFUSED = {"homing_wave": 9 / (1 + 9 / 6), "thymus_core": 9.0, "lymphocyte_regrowth": 0.0}  # what 9e6/kg adds to P
FUNCTIONS = [{"expit": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0, x),
              "maximum": np.maximum, "minimum": np.minimum}, "numpy"]


@pytest.fixture(scope="module", params=sorted(INFUSED))
def solved(request, kind, with_states, simulate):
    """Name of the model, the model, its visits and its states (visit, state) after 9e6/kg on day 7."""
    model = with_states(request.param)
    visits = VISITS if model.start == 0 else np.linspace(model.start, 35, 10)
    doses = [Dose(7.0, "progenitors", 9.0)] if model.inputs else []
    found = simulate(model, {"one": {"doses": doses}}, visits, Accuracy(1e-10, 1e-13), kind)["one"]
    return request.param, model, visits, np.array([found[f"y_{state}"] for state in model.states]).T


@pytest.mark.parametrize("method", ["LSODA", "Radau"])
def test_trajectory_is_that_of_scipy(method, solved):
    name, model, visits, found = solved
    values = symbolic.typical_values(model)
    names = [symbol(key) for key in ("t", *model.states, *values)]
    rates = sympy.lambdify(names, symbolic.inlined_rates(model), FUNCTIONS)
    y0 = np.asarray(symbolic.initial(model, symbolic.derive(model, values)))
    largest = np.abs(found).max(axis=0)

    def through(y, times):
        return solve_ivp(lambda t, y: rates(t, *y, *values.values()), (times[0], times[-1]), y, method=method,
                         t_eval=times, rtol=1e-10, atol=1e-13 * np.maximum(largest, 1e-6)).y.T

    expected = through(y0, visits)
    if model.inputs:  # up to and including day 7, then on from there
        after = int(np.searchsorted(visits, 7.0))
        infused = expected[after] + INFUSED[name] * (np.array(list(model.states)) == "P")
        expected = np.concatenate([expected[: after + 1], through(infused, visits[after:])[1:]])
    np.testing.assert_allclose(found / largest, expected / largest, rtol=0, atol=AGREEMENT)
