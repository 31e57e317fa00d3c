"""The worth of patients not yet seen, and when to see them: laws, closed forms, faults told."""

import itertools
import json

import numpy as np
import pytest

from thymodel.errors import InputError
from thymodel.results.preposterior import exchange, learn

pytestmark = pytest.mark.requirement("REQ-TRI-04")

PLAN = """
title = "What more patients would teach"
[learning]
about = ["k", "x0", "back.by_10[dosed]"]
draws = 8
[cohorts.six]
subjects = 6
visits = [1, 5, 15]
[cohorts.twelve]
subjects = 12
visits = [1, 5, 15]
[cohorts.longer]
subjects = 6
visits = [1, 5, 15, 30]
[cohorts.many]
subjects = 100000
visits = [1, 5, 15]
[cohorts.early]
subjects = 6
visits = [0]
[sampling]
cohort = "six"
about = "k"
days = 2
candidates = [0.5, 2, 5, 9, 14, 20]
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("learning") / "trial.toml"
    path.write_text(PLAN, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(tiny_fit, plan):
    return learn(tiny_fit, plan)


def _kept(found, cohort, about="k"):
    rows = found.table
    return float(rows[(rows["cohort"] == cohort) & (rows["about"] == about)]["variance_kept"].iloc[0])


@pytest.mark.parametrize("about", ["k", "x0", "back.by_10[dosed]"])
def test_more_patients_and_more_visits_leave_less(found, about):
    six, twelve, longer, many = (_kept(found, name, about) for name in ("six", "twelve", "longer", "many"))
    assert 1 > six > twelve > many and six > longer
    linear = found.table.set_index("about").loc[about, "linear"].iloc[0]
    assert many == pytest.approx(1 - linear, abs=0.02)  # what is not linear is never said to be learned


def test_a_visit_before_anything_decays_says_nothing_of_the_rate(tiny_fit, found):
    """On day 0 the count is x0 whatever k; what is told of k comes by its posterior correlation with x0 and the rest:
    at most the share of its variance that these explain."""
    names = tiny_fit.layout.population
    covariance = np.cov(tiny_fit.z[..., :len(names)].reshape(-1, len(names)).T)
    own = names.index("k")
    rest = [k for k in range(len(names)) if k != own]
    given = covariance[own, own] - covariance[own, rest] @ np.linalg.solve(covariance[np.ix_(rest, rest)],
                                                                           covariance[rest, own])
    assert given / covariance[own, own] < _kept(found, "early") <= 1


def test_the_best_days_are_better_than_evenly_spread_ones(found):
    kept = found.schedules.set_index("schedule")["variance_kept"]
    assert kept["all candidates"] < kept["best found"] <= kept["evenly spread"]
    assert len(found.days) == 2 and found.days[1] >= 14  # a rate is seen over a long time


def test_exchange_finds_the_ends_for_a_slope():
    """For the slope of a straight line the variance is sigma^2/sum (t - mean)^2: least with half at either end. The
    little that is added is a prior, for the one day to begin with."""
    days = np.array([1.0, 2, 3, 5, 8, 13, 21, 22])
    best = exchange(len(days), 4, lambda chosen: 1 / (1e-6 + np.sum((days[chosen] - days[chosen].mean()) ** 2)))
    assert days[list(best)].tolist() == [1, 2, 21, 22]


@pytest.mark.parametrize("seed", range(4))
def test_no_single_exchange_is_better(seed):
    """Against all subsets: never better than the best of them, never worse than its own neighbours."""
    x = np.random.default_rng(seed).normal(size=(9, 2))

    def loss(chosen):
        return np.linalg.inv(0.1 * np.eye(2) + x[list(chosen)].T @ x[list(chosen)])[0, 0]

    best = exchange(9, 3, loss)
    every = {c: loss(c) for c in itertools.combinations(range(9), 3)}
    assert loss(best) >= min(every.values()) - 1e-12
    assert all(loss(best) <= value + 1e-9 for c, value in every.items() if len(set(c) & set(best)) == 2)


def test_the_command_prints_what_is_left(tiny_fit, plan, call):
    status, out, err = call("trial", plan, "--record", tiny_fit.folder)
    assert (status, err) == (0, "") and "variance left" in out and "best 2 of 6 days for six" in out
    status, out, _ = call("trial", plan, "--record", tiny_fit.folder, "--json")
    assert status == 0 and len(json.loads(out)["days"]) == 2
    status, _, err = call("trial", plan, "--record", tiny_fit.folder, "--replicates", 100)
    assert status == 2 and "--replicates: nothing is simulated" in err


@pytest.mark.parametrize(("old", "new", "part"), [
    ('about = ["k", ', 'about = ["kk", ', "learning.about.0: the record has no 'kk'"),
    ("draws = 8", 'draws = 8\nmarkers = ["cont"]', "learning.markers: the fit has no residual error for 'cont'"),
    ("draws = 8", "draws = 8\nlloq = { cd4 = 5 }", "learning.lloq: the fit has no residual error for 'cd4'"),
    ("visits = [0]", "visits = []", "cohorts.early.visits: no visit"),
    ("visits = [0]", "visits = [5, 1]", "cohorts.early.visits: day 1 comes after day 5"),
    ("visits = [0]", "visits = [0]\ndoses = [{ amount = 1, day = -3 }]", "cohorts.early.doses.0: day -3 lies before"),
    ('cohort = "six"', 'cohort = "sixx"', "sampling.cohort: no cohort 'sixx'; did you mean 'six'?"),
    ("candidates = [0.5, 2, 5, 9, 14, 20]", "candidates = [2]", "sampling.candidates: 1 for 2 visits"),
])
def test_a_bad_plan_names_its_fault(tiny_fit, tmp_path, old, new, part):
    assert old in PLAN
    path = tmp_path / "trial.toml"
    path.write_text(PLAN.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        learn(tiny_fit, path)
    assert part in str(caught.value)
