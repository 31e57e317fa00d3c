"""Densities built to break the sampler: a run of them is right or is refused, never passed and wrong.

A result that passes the default gates is compared with exact values three times, within 4 Monte-Carlo standard errors:
a right sampler is beyond in 2 of 10 000 seeds, the false-alarm rate of each test here. One that the gates refuse raises
no alarm. The seeds are fixed, so that a test that passes goes on passing.
"""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.priors import parse_prior
from thymodel.documents.spec import GatesTable
from thymodel.inference import centring, sampling
from thymodel.inference.diagnostics import judge, summary_table
from thymodel.inference.population import Layout, population_values, random_effects
from thymodel.inference.sampling import Draws, Frame, Settings

pytestmark = pytest.mark.requirement("REQ-INF-03")

MOST = 4.0
SETTINGS = Settings(chains=4, warmup=500, draws=1000, seed=1)
LOW = 0.05  # probability of the part of the neck that is farthest in


def _passes(draws: Draws) -> bool:
    table = summary_table({f"z{k}": draws.z[..., k] for k in range(draws.z.shape[-1])})
    return judge(table, int(draws.diverging.sum()), draws.failed, int(draws.leapfrogs.sum()), GatesTable()).passed


def _apart(neck: np.ndarray, exact: tuple[float, float, float]) -> float:
    """Largest distance of mean, second moment and share below a low quantile, in Monte-Carlo standard errors."""
    mean, sd, quantile = exact
    differences = (neck - mean, (neck - mean) ** 2 - sd**2, (neck < quantile) - LOW)
    return max(abs(d.mean()) / az.mcse(d, method="mean") if np.ptp(d) else np.inf for d in differences)


def _outcome(draws: Draws, neck: int, exact: tuple[float, float, float]) -> str:
    if not _passes(draws):
        return "refused"
    return "right" if _apart(draws.z[..., neck], exact) < MOST else "passed and wrong"


# --- Neal's funnel -------------------------------------------------------------------------------------------

NORMAL = (0.0, 1.0, float(scipy.stats.norm.ppf(LOW)))  # the neck's marginal in its own coordinate


def _funnel(z, width: float = 3.0):
    """Source: Neal 2003, Ann Stat 31:705, section 8: v ~ N(0, width), each x ~ N(0, exp(v/2)); z is (v/width, x)."""
    v = width * z[0]
    return -0.5 * (z[0] ** 2 + jnp.sum(z[1:] ** 2) * jnp.exp(-v) + (len(z) - 1) * v)


def _draw_funnel(size: int, width: float) -> Draws:
    return sampling.sample(lambda z: _funnel(z, width), size, np.arange(1, size), SETTINGS)


@pytest.mark.parametrize("size", [3, 10])
def test_a_funnel_is_drawn_right_or_refused(size):
    assert _outcome(_draw_funnel(size, 3.0), 0, NORMAL) != "passed and wrong"


def test_a_funnel_that_is_hardly_one_is_drawn_right():
    assert _outcome(_draw_funnel(4, 0.5), 0, NORMAL) == "right"


def test_paths_too_short_to_get_along_the_funnel_are_refused(monkeypatch):
    monkeypatch.setattr(sampling, "_DEEPEST", (1, 1))
    assert _outcome(_draw_funnel(4, 0.5), 0, NORMAL) == "refused"


def test_draws_that_leave_out_the_neck_would_be_noticed():
    """Independent, without a divergence, from the funnel cut off at its 2% quantile: only the comparison is left."""
    random = np.random.default_rng(7)
    z = scipy.stats.truncnorm(scipy.stats.norm.ppf(0.02), np.inf).rvs((4, 1000, 1), random)
    whole = np.ones((4, 1000))
    draws = Draws(z, whole, whole, np.zeros((4, 1000), bool), whole, whole, whole, np.ones(4), 0, 0, 0, 0)
    assert _outcome(draws, 0, NORMAL) == "passed and wrong"
    draws = draws._replace(z=random.standard_normal((4, 1000, 1)))
    assert _outcome(draws, 0, NORMAL) == "right"


# --- a hierarchical normal with few data ---------------------------------------------------------------------


def _layout(subjects: int) -> Layout:
    """mu of the population, omega between the subjects, one effect a subject."""
    return Layout({"mu": parse_prior("normal(mean=0, sd=1)")}, {"mu": parse_prior("halfnormal(sd=1)")}, (), 1.0, {}, {},
                  tuple(str(k) for k in range(subjects)))


def _hierarchical(values: np.ndarray, error: float):
    """Log density of (mu, omega, etas), all standard normal beforehand, when `values` were measured with `error`."""
    lay = _layout(len(values))

    def log_density(z):
        population = population_values(lay, z)
        predicted = population["mu"] + random_effects(lay, z, population)["mu"]
        return -0.5 * jnp.sum(z**2) - 0.5 * jnp.sum(((values - predicted) / error) ** 2)

    return log_density


def _exact(values: np.ndarray, error: float) -> tuple[float, float, float]:
    """Mean, standard deviation and low quantile of omega's coordinate by quadrature: all else is normal given omega."""
    grid = np.linspace(-8.0, 6.0, 4001)
    omegas = scipy.stats.halfnorm.isf(scipy.stats.norm.sf(grid))
    count = len(values)
    densities = [scipy.stats.multivariate_normal(np.zeros(count), (error**2 + omega**2) * np.eye(count) + 1.0)
                 .pdf(values) for omega in omegas]
    weights = scipy.stats.norm.pdf(grid) * densities
    weights /= weights.sum()
    mean = float(grid @ weights)
    low = float(np.interp(LOW, np.cumsum(weights) - 0.5 * weights, grid))
    return mean, float(np.sqrt((grid - mean) ** 2 @ weights)), low


def _draw_hierarchical(values: np.ndarray, error: float, weight: float | None = None) -> Draws:
    """With the information about the effects that the pilot finds, or a given one."""
    lay = _layout(len(values))
    maps = centring.coordinates(lay)
    if weight is not None:
        maps = maps._replace(choose_weights=lambda *_: np.array([weight, 0.0, 0.0, 0.0, 0.0]))
    free = np.array([0, *range(2, lay.size)])
    return sampling.sample(_hierarchical(values, error), lay.size, free, SETTINGS, coordinates=maps)


FEW = np.array([0.3, -1.1, 0.6, 1.4, -0.4])


def test_few_data_and_the_weight_of_many_end_in_plain_nuts_and_right():
    """Fully centred, omega may be near zero and the effects with it: a funnel that plain coordinates do not have."""
    draws = _draw_hierarchical(FEW, 1.0, weight=1e4)
    assert draws.way.startswith("plain NUTS")
    assert _outcome(draws, 1, _exact(FEW, 1.0)) == "right"


@pytest.mark.parametrize("weight", [None, 1e4], ids=["chosen", "forced"])
def test_precise_data_that_agree_are_drawn_right_or_refused(weight):
    """Three subjects alike, each known well: omega may be near zero or not, and no one weight suits both."""
    values = np.array([0.1, 0.0, -0.1])
    assert _outcome(_draw_hierarchical(values, 0.1, weight), 1, _exact(values, 0.1)) != "passed and wrong"


# --- the target stays what it was ----------------------------------------------------------------------------

_RANDOM = np.random.default_rng(8)
_SIZE = _layout(len(FEW)).size
_MODE, _FACTOR = jnp.asarray(_RANDOM.normal(size=_SIZE)), jnp.asarray(_RANDOM.normal(size=(_SIZE, _SIZE)))
_FRAMES = {
    "plain": Frame(jnp.zeros(_SIZE), jnp.eye(_SIZE), jnp.zeros(5)),
    "linear": Frame(_MODE, _FACTOR, jnp.zeros(5)),
    "centred": Frame(jnp.zeros(_SIZE), jnp.eye(_SIZE), jnp.array([5.0, 0.0, 0.0, 0.0, 0.0])),
    "both": Frame(_MODE, _FACTOR, jnp.array([2.0, 0.5, -0.4, 0.3, 0.2])),
}


@pytest.mark.parametrize("name", _FRAMES)
def test_no_frame_and_no_weight_changes_the_target(name):
    """What the sampler sees at u is the log density at z(u) and the map's log Jacobian, which jax finds by itself."""
    frame, maps, log_density = _FRAMES[name], centring.coordinates(_layout(len(FEW))), _hierarchical(FEW, 1.0)
    machine = sampling.make_machine(log_density, maps, SETTINGS)
    seen = sampling._in_frame(machine.value_and_grad, frame, (), {}, ())

    def to_z(u):
        return maps.to_z(frame.mode + frame.factor @ u, frame.weights)[0]

    def plain(u):
        return log_density(to_z(u)) + jnp.linalg.slogdet(jax.jacfwd(to_z)(u))[1]

    constant = float(jnp.linalg.slogdet(frame.factor)[1])
    for u in 0.5 * _RANDOM.normal(size=(5, _SIZE)):
        expected = float(plain(u)) - constant
        value, slope = seen(u, jnp.asarray(True))
        assert abs(float(value) - expected) < 1e-10 * max(1.0, abs(expected))
        np.testing.assert_allclose(slope, jax.grad(plain)(u), rtol=1e-8, atol=1e-8)
