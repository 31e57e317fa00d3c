"""Escalation rules against published boundaries and against their trees, walked with exact probabilities."""

import functools

import numpy as np
import pytest
from scipy.stats import binom

from thymodel.inference.dose_finding import NONE, boin_boundaries, play_boin, play_three_plus_three

pytestmark = pytest.mark.requirement("REQ-TRI-03")

TRIALS = 4000


def _tolerance(patients: int) -> np.ndarray:
    return np.random.default_rng(5).random((TRIALS, patients))


@pytest.mark.parametrize(("target", "up", "down"), [(0.2, 0.157, 0.238), (0.25, 0.197, 0.298), (0.3, 0.236, 0.359)])
def test_boin_boundaries_are_the_published_ones(target, up, down):
    """Liu & Yuan 2015, table 1 (not seen; those for 0.3 seen quoted, the others from memory of it), three digits."""
    assert boin_boundaries(target) == pytest.approx((up, down), abs=6e-4)


def test_boin_decides_by_its_boundaries_and_eliminates():
    """One trial by hand at a target of 0.3: no toxicity in 3, up; 3 in 3, that dose and those above are out, down;
    three without, so that the lowest is given to the end and selected."""
    tolerance = np.array([[0.9] * 3 + [0.2] * 3 + [0.9] * 6])
    played = play_boin(np.array([0.1, 0.4, 0.6]), tolerance, 0.3, 3)
    assert played.patients.tolist() == [[9, 3, 0]] and played.toxicities.tolist() == [[0, 3, 0]]
    assert played.selected.tolist() == [0]


def test_boin_stops_where_the_lowest_dose_is_too_toxic():
    played = play_boin(np.array([0.9, 0.95]), np.full((2, 12), 0.5), 0.25, 3)
    assert (played.selected == NONE).all() and played.patients.tolist() == [[3, 0]] * 2


def test_boin_treats_everybody_else():
    played = play_boin(np.array([0.05, 0.2, 0.45]), _tolerance(20), 0.25, 3)
    stopped = played.selected == NONE
    assert (played.patients.sum(axis=1)[~stopped] == 20).all() and stopped.mean() < 0.01


def _exact(toxicity: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """3+3 as a tree: probability of each dose (none last) being selected, and expected patients at each dose."""
    levels = len(toxicity)
    selected, patients = np.zeros(levels + 1), np.zeros(levels)

    def visit(dose: int, seen: tuple, ceiling: int, weight: float) -> None:
        if weight == 0:
            return
        patients[dose] += 3 * weight
        for events in range(4):
            n, x = seen[dose][0] + 3, seen[dose][1] + events
            own = weight * binom.pmf(events, 3, toxicity[dose])
            after = (*seen[:dose], (n, x), *seen[dose + 1:])
            top = ceiling
            if x >= 2:
                top = following = dose - 1
            elif (n == 6 or x == 0) and dose < ceiling:
                following = dose + 1
            else:
                following = dose
            if following < 0:
                selected[levels] += own
            elif after[following][0] == 6:
                selected[following] += own
            else:
                visit(following, after, top, own)

    visit(0, ((0, 0),) * levels, levels - 1, 1.0)
    return selected, patients


@functools.cache
def _played(toxicity: tuple[float, ...]):
    return play_three_plus_three(np.array(toxicity), _tolerance(6 * len(toxicity)))


@pytest.mark.parametrize("toxicity", [(0.05, 0.15, 0.3, 0.5), (0.3, 0.5)])
def test_three_plus_three_selects_and_treats_as_its_tree(toxicity):
    """Shares within 4 standard errors: 11 comparisons that together fail by chance with a probability below 1e-3."""
    selected, patients = _exact(toxicity)
    played = _played(toxicity)
    assert selected.sum() == pytest.approx(1)
    found = np.array([*((played.selected == k).mean() for k in range(len(toxicity))), (played.selected == NONE).mean()])
    assert np.all(np.abs(found - selected) < 4 * np.sqrt(selected * (1 - selected) / TRIALS))
    error = played.patients.std(axis=0) / np.sqrt(TRIALS)
    assert np.all(np.abs(played.patients.mean(axis=0) - patients) < 4 * error)


def test_the_first_dose_is_given_up_by_the_closed_form():
    """With one dose: two or more in the first three, or one and then one or more in the next three."""
    p = 0.3
    gone = binom.sf(1, 3, p) + binom.pmf(1, 3, p) * binom.sf(0, 3, p)
    assert _exact((p,))[0] == pytest.approx([1 - gone - binom.pmf(0, 3, p) * binom.sf(1, 3, p),
                                             gone + binom.pmf(0, 3, p) * binom.sf(1, 3, p)])


def test_patients_are_those_with_their_tolerance():
    played = _played((0.05, 0.15, 0.3, 0.5))
    assert (played.toxicities <= played.patients).all() and np.isin(played.patients, (0, 3, 6)).all()
    assert (np.diff((played.patients > 0).astype(int), axis=1) <= 0).all()  # no dose is skipped
