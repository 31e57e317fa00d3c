"""The reference problem for speed: its published log density at four points, and the gradient from three sides.

Source: MODEL.md and EXPECTED.json of the published problem (LSODA at 1e-10, confirmed by Radau). Its data stay there.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec, load_fit_spec
from thymodel.inference.posterior import make_posterior, precise
from thymodel.results.study import load_study

pytestmark = pytest.mark.requirement("REQ-NUM-09")

SOLVER_ERROR = 2e-4  # log units, summed over 1,328 observations: what the solver's tolerance in the spec gives
GRADIENT_ERROR = 1e-6  # of the gradient's length; both solvers at a tolerance of 1e-9
# Of differences over +-h and +-2h: the error of the rule goes with h**4, that of rounding (1e-13 of 2,000) with 1/h
STEP = 1e-3


class Problem(NamedTuple):
    spec: FitSpec
    data: StudyData
    points: list[dict]
    known: dict
    z: np.ndarray


@pytest.fixture(scope="module")
def problem(external, tmp_path_factory) -> Problem:
    folder = tmp_path_factory.mktemp("reference") / "problem"
    shutil.copytree(Path(__file__).parent / "reference_problem", folder)
    shutil.copyfile(external / "reference_problem" / "cohort.csv", folder / "data.csv")
    digest = hashlib.sha256((folder / "data.csv").read_bytes()).hexdigest()
    (folder / "spec.toml").write_text((folder / "spec.toml").read_text().replace("0" * 64, digest))
    spec = load_fit_spec(folder)
    known = json.loads((external / "reference_problem" / "EXPECTED.json").read_text())
    z = np.array([_coordinates(point, known) for point in known["points"]])
    return Problem(spec, load_study(spec, None)[0], known["points"], known, z)


def _scales(known: dict) -> np.ndarray:
    """Half-normal scales of the published omegas and sigmas, in order."""
    omegas = [known["omega_halfnormal_scale"][name] for name in known["bsv"]]
    return np.array(omegas + [known["sigma_halfnormal_scale"]] * len(known["observables"]))


def _coordinates(point: dict, known: dict) -> np.ndarray:
    """A published point in standard normal coordinates: x = F^-1(Phi(z)) of a half-normal distribution."""
    positive = np.exp([*point["log_omega"], *point["log_sigma"]])
    scale_z = -norm.ppf(2 * norm.sf(positive / _scales(known)))
    return np.concatenate([point["z_population"], scale_z, np.ravel(point["eta"])])


def _published_prior(point: dict, known: dict) -> float:
    """Source: MODEL.md: -x^2/2 of each normal, -x^2/(2 scale^2) + log x of each half-normal."""
    logs = np.array([*point["log_omega"], *point["log_sigma"]])
    normal = np.concatenate([point["z_population"], np.ravel(point["eta"])])
    return float(-0.5 * np.sum(normal**2) + np.sum(logs - 0.5 * (np.exp(logs) / _scales(known)) ** 2))


def _dropped_constants(data: StudyData) -> float:
    """What the published log likelihood leaves out: log(2 pi)/2, and log DV, for it is a density of log DV."""
    values = [o.value for subject in data.subjects for o in subject.observations if o.censoring == 0]
    return float(np.sum(np.log(values)) + 0.5 * np.log(2 * np.pi) * len(values))


@pytest.fixture(scope="module")
def tight(problem):
    """The native log density at a tight tolerance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THYMODEL_SOLVER", "native")
        posterior = make_posterior(precise(problem.spec), problem.data)
    assert posterior.solver.kind == "native", posterior.solver.why
    return posterior.log_density


@pytest.fixture(scope="module")
def slopes(problem, tight) -> np.ndarray:
    """Its gradient at the four points."""
    return np.asarray(jax.jit(lambda z: jax.lax.map(jax.grad(tight), z))(jnp.asarray(problem.z)))


def test_documents_are_the_published_problem(problem):
    spec, known = problem.spec, problem.known
    for name, item in spec.estimate.items():
        assert np.log(item.prior.numbers["median"]) == pytest.approx(known["prior_log_mean"][name], abs=1e-12)
        assert item.prior.numbers["sd"] == known["prior_log_sd"][name]
        assert spec.model.parameters[name].value == known["nominal"][name]
    scales = {name: item.sd.numbers["sd"] for name, item in spec.between_subject.items()}
    observations = [o for subject in problem.data.subjects for o in subject.observations]
    assert (list(spec.model.states), list(spec.estimate)) == (known["states"], known["parameters"])
    assert (scales, list(spec.likelihood)) == (known["omega_halfnormal_scale"], known["observables"])
    assert (len(observations), sum(o.censoring for o in observations)) == (1328, 88)
    assert problem.z.shape[1] == 173


def test_log_density_is_the_published_one(problem, kind, monkeypatch):
    monkeypatch.setenv("THYMODEL_SOLVER", kind)
    posterior = make_posterior(problem.spec, problem.data)
    assert posterior.solver.kind == kind, posterior.solver.why
    likelihood = np.asarray(jax.jit(jax.vmap(posterior.log_likelihood))(problem.z)).sum(axis=1)
    prior = [_published_prior(point, problem.known) for point in problem.points]
    expected = [point["log_density"] for point in problem.points]
    np.testing.assert_allclose(likelihood + _dropped_constants(problem.data) + prior, expected, rtol=0,
                               atol=SOLVER_ERROR)


def test_gradient_is_the_slope_of_the_log_density(problem, tight, slopes):
    steps = STEP * np.eye(problem.z.shape[1])

    def differences(z):
        near, far = [jax.lax.map(tight, jnp.concatenate([z + k * steps, z - k * steps])).reshape(2, -1) for k in (1, 2)]
        return (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * STEP)

    found = np.asarray(jax.jit(differences)(jnp.asarray(problem.z[0])))
    assert np.linalg.norm(found - slopes[0]) < GRADIENT_ERROR * np.linalg.norm(slopes[0])


def test_gradient_agrees_with_that_of_diffrax(problem, slopes, monkeypatch):
    monkeypatch.setenv("THYMODEL_SOLVER", "jax")
    posterior = make_posterior(precise(problem.spec), problem.data)
    assert posterior.solver.kind == "jax"
    gradient = jax.jit(jax.grad(posterior.log_density))
    for z, slope in zip(problem.z, slopes, strict=True):
        assert np.linalg.norm(gradient(jnp.asarray(z)) - slope) < GRADIENT_ERROR * np.linalg.norm(slope)
