"""Log densities of published posteriors: their values at published points, and maps whose Jacobians are theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from densities import TARGETS, flat, gathered, load_target
from published import read

pytestmark = pytest.mark.requirement("REQ-NUM-09")

CLOSE = 1e-6  # log units; the files give twelve digits


@pytest.fixture(scope="module", params=list(TARGETS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def target(name, external):
    return load_target(external / "posteriordb" / name)


def test_the_joint_density_at_the_published_points_is_the_published_one(name, target, external):
    file = external / "posteriordb" / name / "log_joint_points.csv"
    if not file.exists():
        pytest.skip("no points are published for this posterior")
    points = [{key: float(value) for key, value in row.items()} for row in read(file)]
    wanted = np.array([point.pop("log_joint") for point in points])
    found = np.array([float(target.log_joint(gathered(point))) for point in points])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)


def test_the_maps_jacobian_is_that_of_automatic_differentiation(target):
    z = jnp.asarray(np.random.default_rng(1).standard_normal(target.size)) / 2
    slopes = jax.jacfwd(lambda z: jnp.stack(list(flat(target.natural(z)[0]).values())))(z)
    _, found = np.linalg.slogdet(np.asarray(slopes))
    assert float(target.natural(z)[1]) == pytest.approx(found, abs=1e-8)


def test_quantities_are_those_of_the_reference(name, target, external):
    wanted = {row["parameter"] for row in read(external / "posteriordb" / name / "reference_summary.csv")}
    assert set(flat(target.natural(jnp.zeros(target.size))[0])) == wanted
