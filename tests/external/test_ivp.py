"""Initial value problems with published end values, stiff and not, written as model documents.

Sources: IVP Test Set (Bari), DETEST closed forms, Hairer, Norsett & Wanner; the files name theirs.
"""

import json

import numpy as np
import pytest
from published import ivp_end

pytestmark = pytest.mark.requirement("REQ-NUM-09", "REQ-NUM-01")

# `trajectories` keeps the local error at 1e-8; the global error of these problems is up to a hundred times that.
TOLERANCE = 1e-6
PROBLEMS = ("BRUSS", "DETEST_B1", "DETEST_C1_transit10", "HIRES", "LOGISTIC_A4", "POLLU", "ROBER", "VDPOL")
COMPILED_SOON = ("DETEST_B1", "DETEST_C1_transit10", "LOGISTIC_A4", "ROBER")  # by diffrax; the rest takes a minute
CASES = [*[("native", name) for name in PROBLEMS],
         *[pytest.param("jax", name, marks=[] if name in COMPILED_SOON else pytest.mark.slow) for name in PROBLEMS]]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_end_value_is_the_published_one(kind, name, external):
    problem = json.loads((external / "ivp" / f"{name}.json").read_text())
    np.testing.assert_allclose(ivp_end(problem, name, kind), problem["reference"], rtol=TOLERANCE)
