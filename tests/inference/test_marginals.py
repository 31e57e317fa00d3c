"""Random effects integrated out: closed forms where there are some, quadrature where there are none."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate as quadrature
from scipy import stats

from thymodel.inference.marginals import Guess, Marginals, guess_effects, integrate

pytestmark = pytest.mark.requirement("REQ-INF-06")

DAYS = np.array([[0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 3.0, 9.0], [0.0, 0.5, 1.0, 1.5]])  # (subject, visit)
VALUES = np.array([[0.3, 1.1, 2.2, 3.9], [-0.5, 4.0, 8.0, 20.0], [0.0, -0.2, 0.4, 0.1]])
SIGMA = 0.5


def straight_lines(head, effects):
    """Lines with random intercept and slope, normal residuals; head is intercept, slope, log of both spreads."""
    spread = jnp.exp(head[2:])
    line = head[0] + spread[0] * effects[:, :1] + (head[1] + spread[1] * effects[:, 1:]) * DAYS
    return jnp.sum(-0.5 * ((VALUES - line) / SIGMA) ** 2 - jnp.log(SIGMA * jnp.sqrt(2 * jnp.pi)), axis=1)


def exact_lines(head: np.ndarray) -> np.ndarray:
    """Log densities of the subjects' values as the multivariate normals that they are."""
    found = []
    for days, values in zip(DAYS, VALUES, strict=True):
        design = np.column_stack([np.ones_like(days), days]) * np.exp(head[2:])
        covariance = design @ design.T + SIGMA**2 * np.eye(len(days))
        found.append(stats.multivariate_normal(head[0] + head[1] * days, covariance).logpdf(values))
    return np.array(found)


def nowhere(draws: int, subjects: int, effects: int) -> Guess:
    """The prior itself: nothing is known of where the effects lie."""
    return Guess(np.zeros((draws, subjects, effects)), np.broadcast_to(np.eye(effects), (subjects, effects, effects)))


@pytest.fixture(scope="module")
def lines() -> tuple[np.ndarray, Marginals]:
    head = np.random.default_rng(0).normal([0, 1, -0.7, -0.7], [0.3, 0.3, 0.5, 0.5], (150, 4))
    return head, integrate(straight_lines, head, nowhere(150, 3, 2))


def test_linear_effects_integrate_to_a_multivariate_normal(lines):
    head, found = lines
    exact = np.array([exact_lines(one) for one in head])
    error = np.std(found.parts, axis=0, ddof=1) / np.sqrt(len(found.parts))
    # t with 3 degrees of freedom, 450 of them: 1 in a million is beyond 103 of its standard errors
    assert np.max(np.abs(found.value - exact) / np.maximum(error, 1e-12)) < 103
    assert np.abs((found.value - exact).mean(axis=0)).max() < 4 * found.noise.max() / np.sqrt(len(head))


def test_the_parts_differ_as_much_as_the_value_is_off(lines):
    head, found = lines
    off = found.value - np.array([exact_lines(one) for one in head])
    ratio = np.sqrt(np.mean(off**2, axis=0)) / found.noise
    assert np.all((ratio > 0.7) & (ratio < 1.4))  # 150 draws: the ratio's own error is 6 to 8%


def test_points_about_the_mode_lose_few(lines):
    _, found = lines
    assert np.median(found.efficiency) > 0.8 and found.efficiency.min() > 0.4


def test_draws_of_effects_at_fixed_values_are_another_likelihood(lines):
    """Negative control: not integrating at all."""
    head, found = lines
    conditional = np.array([np.asarray(straight_lines(one, jnp.zeros((3, 2)))) for one in head])
    assert np.abs(conditional - found.value).max() > 5


def test_a_skewed_and_heavy_tailed_subject_agrees_with_quadrature():
    """Counts of a cell that is rare and errors with heavy tails: the density has a shoulder and no normal form."""
    def conditional(head, effects):
        rate = jnp.exp(head[0] + 2.0 * effects[:, 0])
        heavy = -2.5 * jnp.log1p((4.0 - 3.0 * effects[:, 0]) ** 2 / 4.0)
        return jnp.stack([2 * jnp.log(rate[0]) - rate[0], heavy[1]])

    head = np.linspace(-1, 1, 12)[:, None]
    found = integrate(conditional, head, nowhere(12, 2, 1))
    for k, row in enumerate(head):
        for subject in range(2):
            def mass(x, row=row, subject=subject):
                return np.exp(float(conditional(row, jnp.full((2, 1), x))[subject])) * stats.norm.pdf(x)

            exact = np.log(quadrature.quad(mass, -9, 9, limit=300, epsabs=0, epsrel=1e-9)[0])
            assert found.value[k, subject] == pytest.approx(exact, abs=4 * found.noise[subject])


def test_without_random_effects_there_is_nothing_to_integrate():
    head = np.arange(5.0)[:, None]
    found = integrate(lambda head, effects: jnp.array([head[0], -head[0]]), head, nowhere(5, 2, 0))
    assert np.array_equal(found.value, np.column_stack([head, -head]))
    assert np.all(found.noise == 0) and np.all(found.efficiency == 1)


def test_a_subject_that_is_impossible_under_a_draw_has_no_likelihood_there_and_spoils_no_other():
    def conditional(head, effects):
        impossible = jnp.where(head[0] > 0, jnp.nan, 0.0) + 0 * effects[:, 0]
        return jnp.stack([impossible[0], -0.5 * effects[1, 0] ** 2])

    found = integrate(conditional, np.array([[-1.0], [1.0]]), nowhere(2, 2, 1))
    assert found.value[0, 0] == pytest.approx(0, abs=0.1) and found.value[1, 0] == -np.inf
    assert found.value[:, 1] == pytest.approx(-0.5 * np.log(2), abs=0.1)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    head = np.zeros((3, 4))
    one, again, other = (integrate(straight_lines, head, nowhere(3, 3, 2), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.value, again.value) and not np.array_equal(one.value, other.value)


def test_effects_are_guessed_from_the_draws_that_hold_them():
    random = np.random.default_rng(3)
    head = random.normal(size=(4000, 2))
    effects = np.stack([0.5 * head[:, :1] + random.normal(0, 0.3, (4000, 1)), 2 + random.normal(0, 0.1, (4000, 1))], 1)
    guess = guess_effects(head, effects, np.array([[2.0, 0.0]]))
    assert guess.centre[0, :, 0] == pytest.approx([1.0, 2.0], abs=0.05)
    assert guess.root[:, 0, 0] == pytest.approx([0.3, 0.1], rel=0.05)


def test_no_effects_are_guessed_where_there_are_none():
    guess = guess_effects(np.ones((10, 2)), np.zeros((10, 3, 0)), np.zeros((4, 2)))
    assert guess.centre.shape == (4, 3, 0) and guess.root.shape == (3, 0, 0)
