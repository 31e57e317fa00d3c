"""Expected information against closed forms and brute force; parameters known only together are named."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from thymodel.documents.priors import Prior
from thymodel.documents.spec import ErrorModel
from thymodel.inference import information as info
from thymodel.inference.information import Gradients, RecordInformation
from thymodel.inference.population import Layout

pytestmark = pytest.mark.requirement("REQ-CHK-04")

_NORMAL = ErrorModel("x", "lognormal", {}, {}, 0.0, 0.0)
_STUDENT = ErrorModel("x", "student_t", {}, {}, 0.0, 5.0)
_ALL, _NONE = np.array([-np.inf]), np.array([np.inf])


def _by_quadrature(law, score, limits):
    """E[s s'] of (location, log spread) by scipy, with the two probabilities of being beyond."""
    low, high = limits
    total = np.array([[scipy.integrate.quad(lambda u, i=i, j=j: score(u)[i] * score(u)[j] * law.pdf(u), low, high,
                                            limit=400)[0] for j in (0, 1)] for i in (0, 1)])
    for end, chance in ((low, law.cdf), (high, law.sf)):
        if np.isfinite(end):
            step = np.array([1.0, end]) * law.pdf(end)
            total += np.outer(step, step) / chance(end)
    return total


@pytest.mark.parametrize("limits", [(-np.inf, np.inf), (0.3, np.inf), (-1.0, 1.5), (-np.inf, -2.0)])
@pytest.mark.parametrize("error", [_NORMAL, _STUDENT])
def test_information_of_a_measurement_is_the_variance_of_its_score(error, limits):
    law = scipy.stats.norm if error is _NORMAL else scipy.stats.t(5)
    slope = (lambda u: u) if error is _NORMAL else (lambda u: 6 * u / (5 + u**2))
    wanted = _by_quadrature(law, lambda u: (slope(u), u * slope(u) - 1), limits)
    found = info.record_information(error, *(np.array([end]) for end in limits))
    assert found.location[0] == pytest.approx(wanted[0, 0], rel=1e-6)
    assert found.scale[0] == pytest.approx(wanted[1, 1], rel=1e-6)
    assert found.both[0] == pytest.approx(wanted[0, 1], rel=1e-6, abs=1e-9)


def test_normal_and_student_residuals_without_limits_have_their_textbook_information():
    """1 and 2 for a normal; (nu + 1)/(nu + 3) and 2 nu/(nu + 3) for a Student-t."""
    normal, student = (info.record_information(e, _ALL, _NONE) for e in (_NORMAL, _STUDENT))
    assert (normal.location[0], normal.scale[0]) == pytest.approx((1.0, 2.0), rel=1e-8)
    assert (student.location[0], student.scale[0]) == pytest.approx((6 / 8, 10 / 8), rel=1e-7)


def test_a_lower_limit_takes_information_away_and_in_the_end_all_of_it():
    limits = np.array([-8.0, -1.0, 0.0, 1.0, 3.0, 12.0])
    found = info.record_information(_NORMAL, limits, np.full(6, np.inf)).location
    assert np.all(np.diff(found) < 0) and found[0] == pytest.approx(1.0) and 0 <= found[-1] < 1e-20


def _random_subject(seed=0, records=6, thetas=3, effects=2):
    random = np.random.default_rng(seed)
    return random.normal(size=(records, thetas)), random.normal(size=(records, effects)), random.normal(
        size=(effects, effects))


def test_effects_are_integrated_out_as_in_a_linear_mixed_model():
    """S' V**-1 S with V = J Omega J' + R, written out."""
    s, j, root = _random_subject()
    omega = root @ root.T
    gradients = Gradients(np.hstack([s, j]), np.zeros((6, 5)))
    record = RecordInformation(np.ones(6), np.full(6, 2.0), np.zeros(6))
    found = info.without_effects(info.joint_information(gradients, record), 2, omega)
    np.testing.assert_allclose(found, s.T @ np.linalg.inv(j @ omega @ j.T + np.eye(6)) @ s, rtol=1e-10)


def test_information_about_variances_is_the_curvature_of_the_expected_log_likelihood():
    """Second derivative of E log N(y; 0, V(z)) under V(0): by differences, from the definition."""
    _, j, _ = _random_subject()
    spread = 0.7

    def v(z):  # log omega_1, log omega_2, log sigma
        return (j @ np.diag(np.exp(2 * z[:2])) @ j.T + np.exp(2 * z[2]) * spread**2 * np.eye(6))

    def expected(z):
        return -0.5 * (np.linalg.slogdet(v(z))[1] + np.trace(np.linalg.solve(v(z), v(np.zeros(3)))))

    h, steps = 1e-4, np.eye(3)
    curvature = np.array([[-(expected(h * (a + b)) - expected(h * (a - b)) - expected(h * (b - a))
                             + expected(-h * (a + b))) / (4 * h * h) for b in steps] for a in steps])
    scale = np.zeros((6, 3))  # columns: log sigma, two effects
    scale[:, 0] = 1.0
    gradients = Gradients(np.hstack([np.zeros((6, 1)), j / spread]), scale)
    record = RecordInformation(np.ones(6), np.full(6, 2.0), np.zeros(6))
    slopes = np.array([np.diag([2.0, 0.0]), np.diag([0.0, 2.0])])
    found = info.variance_information(gradients, record, np.eye(2), slopes, slice(0, 1))
    rounding = 10 * np.finfo(float).eps / h**2  # of a second difference of numbers near 10
    np.testing.assert_allclose(found, curvature, rtol=1e-5, atol=rounding)


def test_contraction_of_a_normal_mean_is_the_conjugate_answer():
    """n measurements of spread s, prior N(0, 1): posterior variance 1/(1 + n/s**2)."""
    found = info.expected_contraction(np.array([[5 / 0.25]]), np.ones(1))
    assert found[0] == pytest.approx((1 + 20) ** -0.5)


def test_contraction_of_draws_is_their_sd_in_priors():
    one = Prior("lognormal", {"median": 2.0, "sd": 0.3})
    lay = Layout({"a": one, "b": one}, {}, (), 1.0, {}, {}, ())
    z = np.random.default_rng(1).normal(size=(2, 4000, 2)) * [0.2, 1.0]
    found = info.contraction(lay, z)
    error = 4 / np.sqrt(2 * 8000)  # four Monte-Carlo standard errors of an SD, relative
    assert found["a"] == pytest.approx(0.2, rel=error) and found["b"] == pytest.approx(1.0, rel=error)


def test_correlations_have_no_contraction():
    one = Prior("halfnormal", {"sd": 1.0})
    lay = Layout({"a": one}, {"a": one, "b": one}, ("a", "b"), 2.0, {}, {}, ())
    assert set(info.contraction(lay, np.zeros((1, 4, 4)))) == {"a", "omega_a", "omega_b"}


# --- known only together -------------------------------------------------------------------------------------


def _of(*directions, slopes=None):
    """Information of measurements that see these powers of products."""
    slopes = np.ones(len(directions[0])) if slopes is None else slopes
    rows = np.array(directions) * slopes
    return 50 * rows.T @ rows


NAMES = ["a", "b", "c", "d"]


def test_a_product_is_named():
    found = info.silent_directions(_of([1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]), NAMES, np.ones(4))
    assert [str(tie) for tie in found] == ["a, b: only a*b is learned"]


def test_a_ratio_is_named_on_the_log_scale_whatever_the_priors():
    slopes = np.array([1.0, 0.5, 0.3, 2.0])
    found = info.silent_directions(_of([1, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1], slopes=slopes), NAMES, slopes)
    assert [str(tie) for tie in found] == ["a, c: only a/c is learned"]


def test_a_product_of_three_with_a_power_is_named():
    found = info.silent_directions(_of([1, 2, -1, 0], [0, 0, 0, 1]), NAMES, np.ones(4))
    assert [str(tie) for tie in found] == ["a, b, c: only a*b**2/c is learned"]


def test_two_products_and_a_parameter_never_seen_are_told_apart():
    found = info.silent_directions(_of([1, 1, 0, 0, 0], [0, 0, 1, -1, 0]), [*NAMES, "e"], np.ones(5))
    assert {str(tie) for tie in found} == {"a, b: only a*b is learned", "c, d: only c/d is learned",
                                           "nothing is learned about e"}


def test_nothing_is_said_where_every_direction_is_seen():
    full = np.diag([1e-3, 1.0, 5.0, 100.0])
    assert info.silent_directions(full, NAMES, np.ones(4)) == [] and info.rank(full) == 4
    assert info.loose_pairs(full, np.ones(4), NAMES, np.ones(4)) == []


def test_a_product_that_is_all_but_exact_is_found_as_a_loose_pair():
    almost = _of([1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]) + np.diag([0.02, 0.0, 0.0, 0.0])
    assert info.silent_directions(almost, NAMES, np.ones(4)) == []
    (tie,) = info.loose_pairs(almost, np.ones(4), NAMES, np.ones(4))
    assert tie.names == ("a", "b") and tie.known == (1.0, 1.0) and 0 < tie.added < info.LOOSE


def test_a_pair_of_which_each_is_known_is_no_pair():
    assert info.loose_pairs(np.diag([9.0, 9.0, 0.0, 0.0]), np.ones(4), NAMES, np.ones(4)) == []
