"""Predictive checks: exact false-alarm rates, planted faults found, and each number against a closed form."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.documents.measurement import ErrorModel, SharedError
from thymodel.documents.priors import parse_prior
from thymodel.inference import checking
from thymodel.inference.checking import ALARM, Places, Question
from thymodel.inference.population import Layout, error_name, population_values
from thymodel.inference.posterior import Records

pytestmark = pytest.mark.requirement("REQ-CHK-01")

_PRIOR = parse_prior("lognormal(median=0.4, sd=0.5)")


def _layout(subjects: int = 2, **changes) -> Layout:
    fields = {"estimate": {"k": _PRIOR}, "scales": {name: parse_prior("halfnormal(sd=0.5)") for name in "abc"},
              "correlated": ("a", "b", "c"), "correlation_shape": 1.5, "effects": {}, "errors": {},
              "subjects": tuple(map(str, range(subjects))), "shared_errors": (SharedError(("x", "y"), 2.0, "made up"),)}
    return Layout(**{**fields, **changes})


def _records(value, censoring, observable=None, subject=None) -> Records:
    zeros = np.zeros(len(value), int)
    return Records(zeros if subject is None else subject, np.arange(len(value)),
                   zeros if observable is None else observable, np.asarray(value, float), np.asarray(censoring),
                   np.full(len(value), np.nan))


# --- replicates ----------------------------------------------------------------------------------------------


def test_draws_of_the_prior_have_its_distributions():
    """Every element of an LKJ matrix of size d and shape s is Beta(b, b) on (-1, 1), b = s + (d - 2)/2."""
    lay = _layout()
    z = checking.prior_points(lay, 2000, np.random.default_rng(1))
    found = jax.jit(jax.vmap(partial(population_values, lay)))(jnp.asarray(z))
    for name, b in [("corr_a_b", 2.0), ("corr_a_c", 2.0), ("corr_b_c", 2.0), ("corr_residual_x_y", 2.0)]:
        assert scipy.stats.kstest((np.asarray(found[name]) + 1) / 2, scipy.stats.beta(b, b).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(z[:, -1], "norm").pvalue > 1e-3
    assert scipy.stats.kstest(z[:, 0], "norm").pvalue > 1e-3


def test_new_subjects_come_from_the_same_populations():
    lay, random = _layout(), np.random.default_rng(2)
    z = random.standard_normal((500, lay.size))
    fresh, head = checking.new_subjects(lay, z, random), len(lay.population)
    assert np.array_equal(fresh[:, :head], z[:, :head])
    assert not np.any(fresh[:, head:] == z[:, head:])
    assert scipy.stats.kstest(fresh[:, head:].ravel(), "norm").pvalue > 1e-3


_LAWS = {
    "additive": (("additive",), lambda m, s: scipy.stats.norm(m, s[0])),
    "proportional": (("proportional",), lambda m, s: scipy.stats.norm(m, s[0] * m)),
    "combined": (("additive", "proportional"), lambda m, s: scipy.stats.norm(m, np.hypot(s[0], s[1] * m))),
    "power": (("coefficient", "exponent"), lambda m, s: scipy.stats.norm(m, s[0] * m ** s[1])),
    "lognormal": (("log_sd",), lambda m, s: scipy.stats.lognorm(s[0], scale=m + 1, loc=-1)),
    "poisson": ((), lambda m, s: scipy.stats.poisson(3 * m)),
    "negative_binomial": (("dispersion",),
                          lambda m, s: scipy.stats.nbinom(1 / s[0], 1 / (1 + 3 * m * s[0])))}


@pytest.mark.parametrize("family", _LAWS)
def test_measurements_follow_the_error_model(family):
    """Moments against scipy's, within four standard errors."""
    keys, law = _LAWS[family]
    count = family in ("poisson", "negative_binomial")
    error = ErrorModel("x", family, dict.fromkeys(keys, _PRIOR), {}, 1.0 if family == "lognormal" else 0.0, 0.0,
                       3.0 if count else 1.0)
    lay = _layout(scales={}, correlated=(), shared_errors=(), errors={error_name("x", key): _PRIOR for key in keys})
    spec = SimpleNamespace(likelihood={"x": error}, shared_errors=())
    z = np.zeros((1, lay.size))  # prior medians: every parameter of the error is 0.4
    drawn = checking.measure(spec, lay, z, np.full((1, 50, 400, 1), 20.0), 3).ravel() * error.scale
    expected = law(20.0, [0.4] * len(keys))
    kurtosis = float(expected.stats("k")) + 3
    assert drawn.mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(len(drawn)))
    assert drawn.var() == pytest.approx(expected.var(), abs=4 * expected.var() * np.sqrt((kurtosis - 1) / len(drawn)))


def test_heavy_tails_are_drawn_with_their_degrees_of_freedom():
    error = ErrorModel("x", "student_t", {"log_sd": _PRIOR}, {}, 0.0, 5.0)
    lay = _layout(scales={}, correlated=(), shared_errors=(), errors={"sigma_x": _PRIOR})
    spec = SimpleNamespace(likelihood={"x": error}, shared_errors=())
    drawn = checking.measure(spec, lay, np.zeros((1, lay.size)), np.full((1, 50, 400, 1), 20.0), 3).ravel()
    assert scipy.stats.kstest(np.log(drawn / 20) / 0.4, scipy.stats.t(5).cdf).pvalue > 1e-3


def test_errors_of_one_visit_are_drawn_together():
    block = SharedError(("x", "y"), 1.0, "made up")
    errors = {name: ErrorModel(name, "lognormal", {"log_sd": _PRIOR}, {}, 0.0, 0.0) for name in ("z", "x", "y")}
    lay = _layout(scales={}, correlated=(), shared_errors=(block,), errors={f"sigma_{n}": _PRIOR for n in errors})
    spec = SimpleNamespace(likelihood=errors, shared_errors=(block,))
    z = np.zeros((1, lay.size))
    z[0, lay.population.index("corr_residual_x_y")] = np.arctanh(0.8)
    drawn = checking.measure(spec, lay, z, np.full((1, 40, 100, 3), 20.0), 4).reshape(-1, 3)
    found = np.corrcoef(np.log(drawn).T)
    assert found[1, 2] == pytest.approx(0.8, abs=4 * (1 - 0.64) / np.sqrt(4000))
    assert abs(found[0, 1]) < 4 / np.sqrt(4000) and abs(found[0, 2]) < 4 / np.sqrt(4000)


# --- limits --------------------------------------------------------------------------------------------------


def test_a_limit_is_that_of_the_observables_censored_records():
    limits = checking.assay_limits(_records([5, 8, 2, 100, 7], [1, 0, 0, -1, 0], observable=np.array([0, 0, 0, 0, 1])))
    assert limits.lower.tolist() == [5, 5, 2, 5, -np.inf]  # a value that was measured has a limit below it
    assert limits.upper.tolist() == [100, 100, 100, 100, np.inf]


def test_replicates_are_cut_where_the_study_was():
    pool = checking.pool_of(_records([5, 8, 100], [1, 0, -1]), np.array([[4.0, 5.0, 101.0], [6.0, 4.9, 99.0]]))
    assert pool.tolist() == [[-np.inf, 8, np.inf], [-np.inf, 5, np.inf], [6, -np.inf, 99]]


# --- PIT and NPDE --------------------------------------------------------------------------------------------


def test_a_value_lies_in_its_place_among_the_replicates():
    pool = np.arange(10.0)[::-1, None]
    found = checking.pit(pool, np.random.default_rng(0))
    assert np.array_equal(np.floor(10 * found[:, 0]), np.arange(10)[::-1])


def test_values_below_the_limit_are_uniform_below_its_probability():
    """Of 4,000 members a third are below: their PIT is uniform on (0, 1/3), that of the others is above."""
    pool = np.where(np.arange(6000) % 3 == 0, -np.inf, np.arange(6000.0))[:, None]
    found = checking.pit(pool, np.random.default_rng(0))[:, 0]
    below = found[pool[:, 0] == -np.inf]
    assert below.max() < 1 / 3 < found[pool[:, 0] > 0].min() + 1e-3
    assert scipy.stats.kstest(3 * below, "uniform").pvalue > 1e-3


def test_npde_of_correlated_visits_are_independent_and_normal():
    random = np.random.default_rng(5)
    level, subjects = random.standard_normal((3000, 4)), np.repeat(np.arange(4), 6)
    pool = np.exp(2 * level[:, subjects] + random.standard_normal((3000, 24)))
    uniform = checking.pit(pool, random)
    errors = checking.npde(uniform, subjects, random)
    plain = np.corrcoef(scipy.stats.norm.ppf(uniform).T)
    assert plain[0, 1] > 0.7
    assert np.abs(np.corrcoef(errors.T) - np.eye(24)).max() < 5 / np.sqrt(3000)
    assert scipy.stats.kstest(errors.ravel(), "norm").pvalue > 1e-3


# --- questions -----------------------------------------------------------------------------------------------

_SUBJECTS, _VISITS = 40, 7  # with 24 subjects a halved omega is found in 17 of 20 studies
_PLACES = Places(np.repeat(np.arange(_SUBJECTS), _VISITS), np.repeat(np.arange(_SUBJECTS) % 2, _VISITS),
                 np.tile(np.arange(_VISITS), _SUBJECTS))
_LIMIT = 1.0


def _cohort(random: np.random.Generator, count: int, omega: float = 0.7, sigma: float = 0.5, dose: float = 0.8,
            slope: float = 0.25) -> np.ndarray:
    """Values (member, record) of a cohort that grows, in two arms, with a random effect on the level."""
    level = dose * (_PLACES.arm == 1) + slope * _PLACES.bin - 0.3
    effect = omega * random.standard_normal((count, _SUBJECTS))[:, _PLACES.subject]
    return np.exp(level + effect + sigma * random.standard_normal((count, len(level))))


def _judge(study: np.ndarray, replicates: np.ndarray, random: np.random.Generator, censored: bool = True):
    """Questions that depart, and p of all together."""
    pool = np.concatenate([study[None], np.where(replicates < _LIMIT, -np.inf, replicates) if censored else replicates])
    uniform = checking.pit(pool, random)
    asked = checking.departures("x", pool, uniform, checking.npde(uniform, _PLACES.subject, random), _PLACES)
    asked.append(checking.subjects_together(uniform, _PLACES.subject, np.zeros(len(_PLACES.bin), int)))
    found = checking.judge(asked)
    return {one.name for one, p in zip(asked, found.adjusted, strict=True) if p <= ALARM}, found.together


def _seen(values: np.ndarray) -> np.ndarray:
    return np.where(values < _LIMIT, -np.inf, values)


def test_a_right_model_is_called_wrong_no_more_often_than_stated():
    """300 studies from the model itself; the number of alarms lies within four standard errors of 5%."""
    random, alarms, studies = np.random.default_rng(7), 0, 300
    for _ in range(studies):
        pool = _cohort(random, 201)
        alarms += _judge(_seen(pool[0]), pool[1:], random)[1] <= ALARM
    error = np.sqrt(ALARM * (1 - ALARM) / studies)
    assert ALARM - 4 * error < alarms / studies < ALARM + 4 * error


_FAULTS = {
    "residual variance doubled": ({"sigma": 0.5 * np.sqrt(2)}, "NPDE spread"),
    "omega halved": ({"omega": 0.35}, "all observables"),
    "dose effect left out": ({"dose": 0.0}, "arms"),
    "growth left out": ({"slope": 0.0}, "course")}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_planted_fault_is_found_and_named(fault):
    """In nine of ten studies at least."""
    changes, name = _FAULTS[fault]
    found = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        study = _seen(_cohort(random, 1)[0])
        departing, together = _judge(study, _cohort(random, 1000, **changes), random)
        found.append(together <= ALARM and name in departing)
    assert np.mean(found) >= 0.9


def test_limits_taken_for_measured_values_are_found():
    found = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        study = np.maximum(_cohort(random, 1, slope=0.1)[0], _LIMIT)
        found.append(_judge(study, _cohort(random, 1000, slope=0.1), random, censored=False)[1] <= ALARM)
    assert np.mean(found) >= 0.9


def test_p_values_are_ranks_in_the_pool():
    values = np.array([9.0, 1, 2, 3, 4, 5, 6, 7, 8, 0])
    largest = checking.question("x", "one", "", values, values)
    smallest = checking.question("x", "other", "", -values, -values)
    found = checking.judge([largest, smallest])
    assert found.p.tolist() == [0.1, 1.0]
    # one other member, the last, has the largest value of the other question
    assert found.together == 0.2 and found.adjusted.tolist() == [0.2, 1.0]


def test_a_question_shows_the_studys_number_and_the_replicates_middle_one():
    one = checking.question("x", "one", "", np.array([7.0, 1.0, 2.0, 3.0]), np.zeros(4))
    assert isinstance(one, Question) and (one.observed, one.expected) == (7.0, 2.0)


def test_one_record_is_asked_no_more_than_it_can_say():
    pool, one = np.random.default_rng(1).random((50, 1)), np.zeros(1, int)
    asked = checking.departures("x", pool, pool, pool, Places(one, one, one))
    assert {question.name for question in asked} == {"PIT", "NPDE mean", "course"}
    assert all(np.isfinite(question.statistic).all() for question in asked)


# --- what was learned ----------------------------------------------------------------------------------------


def test_shrinkage_is_nothing_where_subjects_speak_and_all_where_they_do_not():
    effects = np.array([-0.5, 0.5, -0.5, 0.5])  # SD 0.5
    assert checking.shrinkage(np.tile(effects, (10, 1)), np.full(10, 0.5)) == {"sd": 0.0, "variance": 0.0}
    half = checking.shrinkage(np.tile(effects / 2, (10, 1)), np.full(10, 0.5))
    assert half == pytest.approx({"sd": 0.5, "variance": 0.75})
    silent = checking.shrinkage(np.zeros((10, 4)), np.full(10, 0.5))
    assert silent == {"sd": 1.0, "variance": 1.0}


def test_a_posterior_like_its_prior_has_no_contraction_and_all_overlap():
    """And one of a tenth of its SD has a contraction of 0.99 and the overlap of two normals."""
    lay = _layout(scales={}, correlated=(), shared_errors=())
    points = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
    same = checking.learned(lay, points, {})["k"]
    assert same["contraction"] == pytest.approx(0, abs=1e-3) and same["overlap"] == pytest.approx(1)
    near = checking.learned(lay, 1.0 + 0.5 * points, {})["k"]
    grid = np.linspace(-8, 8, 20_001)
    area = np.minimum(scipy.stats.norm.pdf(grid), scipy.stats.norm.pdf(grid, 1, 0.5)).sum() * (grid[1] - grid[0])
    assert near["contraction"] == pytest.approx(0.75, abs=1e-3) and near["shift"] == pytest.approx(1)
    assert near["overlap"] == pytest.approx(area, abs=0.02)  # the width of a cell times the densities' difference


def test_a_correlation_is_compared_with_its_own_prior():
    lay = _layout(scales={}, correlated=())
    uniform = scipy.stats.beta(2, 2).ppf((np.arange(5000) + 0.5) / 5000)
    points = np.zeros((5000, lay.size))
    found = checking.learned(lay, points, {"corr_residual_x_y": 2 * uniform - 1})["corr_residual_x_y"]
    assert found["contraction"] == pytest.approx(0, abs=1e-3) and found["overlap"] == pytest.approx(1)
