"""Reconstitution among competing events: estimators against lifelines, events against closed forms, rows."""

import warnings

import numpy as np
import pytest

from thymodel.documents.risks import Link, Risk
from thymodel.documents.spec import Endpoint, load_scenario_spec
from thymodel.results.competing import (
    CENSORED,
    RECONSTITUTED,
    aalen_johansen,
    describe_risk,
    draw_hazards,
    event_times,
    first_events,
    hazard_grid,
    kaplan_meier,
    risk_quantities,
    value_at,
)
from thymodel.results.reconstitution import endpoint_grid
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-END-05")

EXACT = 1e-12
GRID = np.linspace(0.0, 200.0, 41)


def _endpoint(sustained_for=0.0, clock_start=0.0, by=(50.0,)) -> Endpoint:
    return Endpoint("back", "count", 80.0, "cell/uL", 100.0, "", "", sustained_for, clock_start, True, by)


def _risk(*pieces: tuple[float, float], name="death", link: Link | None = None) -> Risk:
    days, per_day = zip(*pieces, strict=True)
    return Risk(name, name, days, per_day, ("made up",) * len(days), link)


def _sample(seed: int, count=100) -> tuple[np.ndarray, np.ndarray]:
    """Times without ties, three causes and censoring; the last one censored, where lifelines divides by 0."""
    rng = np.random.default_rng(seed)
    times, causes = rng.exponential(10.0, count), rng.integers(0, 4, count)
    causes[np.argmax(times)] = CENSORED
    return times, causes


# --- estimators ----------------------------------------------------------------------------------------------


def _of_lifelines(times, causes, cause):
    from lifelines import AalenJohansenFitter

    fitter = AalenJohansenFitter(calculate_variance=True)
    # its intervals take log(0) before the first event; the warning of ties that it jitters stays an error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fitter.fit(times, causes, event_of_interest=cause)
    found = fitter.cumulative_density_.iloc[:, 0]
    return found.index.to_numpy(), found.to_numpy(), fitter.variance_.to_numpy()


@pytest.mark.parametrize("cause", [1, 2, 3])
def test_aalen_johansen_and_its_variance_are_those_of_lifelines(cause):
    times, causes = _sample(3)
    days, incidence, variance = _of_lifelines(times, causes, cause)
    own = aalen_johansen(times, causes)
    assert np.abs(value_at(own.times, own.incidence[cause - 1], days, 0.0) - incidence).max() < EXACT
    # at a censoring lifelines repeats the value of the event before
    assert np.abs(value_at(own.times, own.variance[cause - 1], days, 0.0) - variance).max() < EXACT
    assert incidence[-1] > 0.1 and variance[-1] > 1e-4


def test_ties_that_lifelines_does_not_jitter_agree_too():
    """It jitters ties between causes only: ties within a cause, and with censoring, can be compared."""
    times, causes = _sample(4)
    tied = np.where(causes == CENSORED, 0.0, 0.1 * causes) + np.ceil(times / 3)
    tied[causes == CENSORED] += 0.1  # with the first cause
    tied[np.argmax(tied)] += 50
    causes[np.argmax(tied)] = CENSORED
    assert len(np.unique(tied)) < 0.5 * len(tied)
    for cause in (1, 2, 3):
        days, incidence, variance = _of_lifelines(tied, causes, cause)
        own = aalen_johansen(tied, causes)
        assert np.abs(value_at(own.times, own.incidence[cause - 1], days, 0.0) - incidence).max() < EXACT
        assert np.abs(value_at(own.times, own.variance[cause - 1], days, 0.0) - variance).max() < EXACT


def test_kaplan_meier_with_greenwood_is_that_of_lifelines():
    from lifelines import KaplanMeierFitter

    times, causes = _sample(5)
    times = np.ceil(4 * times) / 4  # ties are no matter here
    causes[times == times.max()] = CENSORED
    fitter = KaplanMeierFitter().fit(times, causes == 1)
    days = fitter.survival_function_.index.to_numpy()
    own = kaplan_meier(times, causes == 1)
    assert np.abs(value_at(own.times, own.survival, days, 1.0) - fitter.survival_function_.iloc[:, 0]).max() < EXACT
    # its interval is exp(-exp(log(-log S) +- 1.96*sqrt(sum d/(n(n - d)))/log S))
    upper = fitter.confidence_interval_.iloc[:, 1].reindex(own.times).to_numpy()
    width = 1.959963984540054 * np.sqrt(own.variance) / own.survival / np.log(own.survival)
    assert np.abs(own.survival ** np.exp(width) - upper).max() < 1e-10  # their z has fewer digits than their S


def test_causes_that_share_a_time_are_taken_at_once():
    """Six patients, by hand: both causes on day 1, then one censored on the day of an event, who is still at risk."""
    found = aalen_johansen(np.array([1.0, 1, 2, 2, 3, 4]), np.array([1, 2, 0, 1, 2, 0]))
    assert found.times.tolist() == [1, 2, 3] and found.at_risk.tolist() == [6, 4, 2]
    assert found.event_free == pytest.approx([4 / 6, 4 / 6 * 3 / 4, 4 / 6 * 3 / 4 / 2])
    assert found.incidence[0] == pytest.approx([1 / 6, 1 / 6 + 4 / 6 / 4, 1 / 6 + 4 / 6 / 4])
    assert found.incidence[1] == pytest.approx([1 / 6, 1 / 6, 1 / 6 + 1 / 2 / 2])


def test_without_censoring_it_is_a_share_with_the_variance_of_a_share():
    causes = np.array([1, 2, 2, 1, 3, 1, 2, 3])
    found = aalen_johansen(np.arange(8.0), causes)
    shares = np.cumsum(causes == np.array([[1], [2], [3]]), axis=1) / 8
    assert found.incidence == pytest.approx(shares)
    assert found.variance == pytest.approx(shares * (1 - shares) / 8, abs=1e-15)
    assert found.event_free[-1] == 0


def test_incidences_and_the_event_free_add_up_to_one():
    found = aalen_johansen(*_sample(6))
    assert found.incidence.sum(axis=0) + found.event_free == pytest.approx(np.ones(len(found.times)), abs=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_naive_kaplan_meier_is_never_below_and_in_the_end_above(seed):
    times, causes = _sample(seed, 60)
    proper, naive = aalen_johansen(times, causes), kaplan_meier(times, causes == 1)
    above = 1 - value_at(naive.times, naive.survival, proper.times, 1.0) - proper.incidence[0]
    assert above.min() > -EXACT and above[-1] > 0.05


@pytest.mark.parametrize(("times", "causes"), [
    ([], []), ([1.0, 2.0], [1]), ([1.0, np.inf], [1, 0]), ([1.0, 2.0], [1, -1]), ([1.0, 2.0], [1, 4]),
    ([1.0, 2.0], [1.0, 0.0])])
def test_what_is_no_sample_is_refused(times, causes):
    with pytest.raises(ValueError, match="expected|finite|whole numbers"):
        aalen_johansen(np.array(times), np.array(causes), 3)


# --- events --------------------------------------------------------------------------------------------------


def test_events_are_where_the_cumulative_hazard_reaches_the_exposure():
    risk = _risk((0, 0.01), (20, 0.0), (50, 0.04))
    days = event_times(risk, GRID, np.array([0.1, 0.2, 0.2 + 1e-9, 1.2, 99.0]))
    assert days == pytest.approx([10, 20, 50, 75, np.inf], abs=1e-6)


def test_incidence_under_constant_hazards_is_the_closed_form():
    """h1/(h1 + h2)*(1 - exp(-(h1 + h2)*t)), within 4 standard errors of a plain sample at three days and two causes:
    six looks that together fail by chance with less than 4e-4, more rarely with strata. The naive one must not fit."""
    h, count = np.array([0.012, 0.02]), 20_000
    risks = {name: _risk((0, rate), name=name) for name, rate in zip("ab", h, strict=True)}
    hazards = draw_hazards(risks, count, 11)
    days = np.stack([event_times(risk, GRID, e) for risk, e in zip(hazards.risks, hazards.exposures, strict=True)])
    first = days.min(axis=0)
    causes = np.where(np.isinf(first), 0, 1 + days.argmin(axis=0))
    found = aalen_johansen(np.minimum(first, GRID[-1]), causes)
    at = np.array([10.0, 40.0, 120.0])
    expected = (h / h.sum())[:, None] * -np.expm1(-h.sum() * at)
    error = np.sqrt(value_at(found.times, found.variance, at, 0.0))
    assert np.all(np.abs(value_at(found.times, found.incidence, at, 0.0) - expected) < 4 * error)
    naive = kaplan_meier(np.minimum(first, GRID[-1]), causes == 1)
    one = 1 - value_at(naive.times, naive.survival, at, 1.0)
    assert np.all(np.abs(one - expected[0]) > 4 * error[0])
    assert one == pytest.approx(-np.expm1(-h[0] * at), abs=4 * error[0].max() * 2)  # as if b had been abolished


@pytest.mark.parametrize("rising", [True, False])
def test_a_threshold_is_followed_between_the_times_of_the_grid(rising):
    """The count crosses 50 on day 61.5, between days of the grid: H is straight on either side."""
    link = Link("cd4", np.log(6.0), 50.0, 1.0, 0.0, "made up")
    course = 50 + (GRID - 61.5) * (0.7 if rising else -0.7)
    exposures = np.array([0.05, 0.3, 0.37, 0.7])
    found = event_times(_risk((0, 0.004), link=link), GRID, exposures, course * np.ones((2, 4, 1)))
    before, after = (0.024, 0.004) if rising else (0.004, 0.024)
    used = before * 61.5
    expected = np.where(exposures < used, exposures / before, 61.5 + (exposures - used) / after)
    assert found[1] == pytest.approx(np.where(expected <= 200, expected, np.inf), rel=1e-12)
    assert np.isfinite(found).sum() > 3 and found.shape == (2, 4)


def test_a_ratio_per_logarithm_follows_an_exponential_course():
    """Under count = 100*exp(g*t) the hazard is h*exp(beta*g*t), whose integral is known; the error of straight pieces
    falls to a quarter where they are halved."""
    beta, g, h = np.log(0.65), 0.02, 0.02
    exposures = np.array([0.2, 0.5, 1.0])
    exact = np.log1p(exposures * beta * g / h) / (beta * g)
    risk = _risk((0, h), link=Link("cd4", beta, None, 100.0, 0.5, "made up"))
    errors = [np.abs(event_times(risk, grid, exposures, np.tile(100 * np.exp(g * grid), (3, 1))) - exact).max()
              for grid in (np.linspace(0, 200, 41), np.linspace(0, 200, 81))]
    assert errors[0] < 0.05 and errors[0] / errors[1] == pytest.approx(4, rel=0.3)


def test_counts_below_the_lowest_are_taken_for_it():
    link = Link("cd4", np.log(0.5), None, 100.0, 0.5, "made up")
    found = event_times(_risk((0, 0.001), link=link), GRID, np.array([0.02, 0.02]), np.array([[0.0], [0.5]]) + 0 * GRID)
    assert found[0] == found[1] == pytest.approx(0.02 / (0.001 * 0.5 ** np.log(0.005)))


def test_an_event_along_a_course_that_failed_is_unknown():
    link = Link("cd4", 1.0, 50.0, 1.0, 0.0, "made up")
    course = np.where(GRID == 30, np.nan, 100.0)
    assert np.isnan(event_times(_risk((0, 0.1), link=link), GRID, np.array([0.1]), course[None]))
    with pytest.raises(ValueError, match="depends on cd4"):
        event_times(_risk((0, 0.1), link=link), GRID, np.array([0.1]))


def test_a_risk_keeps_its_numbers_when_another_comes():
    death, relapse = _risk((0, 0.1)), _risk((0, 0.1), name="relapse")
    alone = draw_hazards({"death": death}, 64, 5).exposures
    both = draw_hazards({"relapse": relapse, "death": death}, 64, 5)
    assert np.array_equal(both.exposures[1], alone[0]) and not np.array_equal(both.exposures[0], alone[0])
    strata = np.sort(-np.expm1(-alone[0]) * 64).astype(int)
    assert np.array_equal(strata, np.arange(64))
    assert not np.array_equal(draw_hazards({"death": death}, 64, 6).exposures, alone)


def test_the_first_event_counts_and_reconstitution_must_last_to_be_one():
    crossing = np.array([10.0, 10.0, 10.0, np.inf, np.inf, np.inf])
    death = np.array([24.0, 23.9, np.inf, 40.0, 101.0, 2.0])
    relapse = np.array([90.0, 90.0, 90.0, 30.0, np.inf, np.inf])
    times, causes = first_events(_endpoint(sustained_for=9, clock_start=5), crossing, [death, relapse])
    assert causes.tolist() == [RECONSTITUTED, 2, RECONSTITUTED, 3, CENSORED, 2]
    assert times.tolist() == [15.0, 23.9, 15.0, 30.0, 100.0, 2.0]


def test_the_grid_reaches_back_to_the_first_hazard_and_holds_its_days():
    endpoint = _endpoint(clock_start=21, by=(50.25,))
    plain = endpoint_grid([endpoint])
    assert hazard_grid(plain, [endpoint], []) is plain
    grid = hazard_grid(plain, [endpoint], [_risk((0, 0.1), (33.3, 0.2), (500, 0.1))])
    assert grid[0] == 0 and {33.3, 50.25} <= set(grid) and grid[-1] == 100 and set(plain) <= set(grid)
    assert np.diff(grid).max() < 1.01 * np.diff(plain).max()


# --- rows ----------------------------------------------------------------------------------------------------


def test_rows_under_a_constant_hazard_are_the_closed_form():
    """All cross on day 40 and must last 14 days: exp(-54*h) get there before they die, and none does by day 30."""
    h, endpoint = 0.01, _endpoint(sustained_for=14, by=(30.0, 50.0))
    hazards = draw_hazards({"death": _risk((0, h))}, 4000, 2)
    deaths = event_times(hazards.risks[0], GRID, hazards.exposures[0])
    rows = {one.name: one.values for one in risk_quantities(endpoint, np.full((3, 4000), 40.0), {
        "death": np.broadcast_to(deaths, (3, 4000))})}
    assert len(rows) == 9
    one_stratum = 1 / 4000 + 1e-9
    assert (rows["P(by day 30), competing risks"] == 0).all()
    for day in (50, 100):
        values = rows[f"P(by day {day}), competing risks"]
        assert values == pytest.approx(np.exp(-54 * h), abs=one_stratum) and np.ptp(values) == 0
    assert rows["P(death first by day 100)"] == pytest.approx(-np.expm1(-54 * h), abs=one_stratum)
    # whoever is at risk on day 40 and does not die in the 14 days after
    naive = rows["P(by day 100), naive Kaplan-Meier"]
    assert (naive > rows["P(by day 100), competing risks"] + 0.2).all()


_BACK = """
[endpoints.back]
marker = "count"
threshold = 110
unit = "cell/uL"
horizon = 20
sustained_for = 2
by = [16]
"""


@pytest.fixture(scope="module")
def scenario(tiny_fit, tmp_path_factory):
    """Two arms alike, and one in which about half of the patients get back above the threshold on day 12."""
    folder = tmp_path_factory.mktemp("competing")

    def run(competing: str):
        path = folder / "s.toml"
        path.write_text('title = "risks"\nsubjects = 64\ndraws = 8\nseed = 4\n[arms.a]\n[arms.same]\n[arms.dosed]\n'
                        f'doses = [{{ amount = 100, day = 12 }}]\n{_BACK}{competing}', encoding="utf-8")
        return run_scenario(tiny_fit, path)

    return run


def _estimates(found, arm: str) -> dict[str, float]:
    rows = found.table[found.table["arm"] == arm]
    return dict(zip(rows["quantity"], rows["estimate"], strict=True))


def test_without_hazards_everything_agrees_and_without_the_table_nothing_is_said(scenario):
    plain = scenario("")
    none = scenario('[competing.death]\nhazard = [{ from_day = 0, per_day = 0, source = "made up" }]\n')
    assert not plain.table["quantity"].str.contains("competing|naive|first").any()
    asked = _estimates(none, "dosed")
    assert 0.1 < asked["P(by day 16)"] == pytest.approx(asked["P(by day 16), competing risks"])
    assert asked["P(by day 16)"] == pytest.approx(asked["P(by day 16), naive Kaplan-Meier"])
    assert asked["P(death first by day 20)"] == 0
    for name, value in _estimates(plain, "dosed").items():
        assert asked[name] == pytest.approx(value, rel=1e-6), name


def test_arms_share_exposures_and_a_low_count_raises_the_linked_hazard(scenario):
    """Counts fall from about 100 at about 0.1 a day, so that they are soon below 60, but for those after a dose."""
    table = ('[competing.death]\nhazard = [{{ from_day = 0, per_day = 0.02, source = "made up" }}]\n'
             'link = {{ marker = "count", unit = "cell/uL", below = 60, hazard_ratio = {}, source = "made up" }}\n')
    off, on = scenario(table.format(1)), scenario(table.format(6))
    dead, by = "P(death first by day 20)", "P(by day 16)"
    assert _estimates(off, "a") == _estimates(off, "same") and _estimates(on, "a") == _estimates(on, "same")
    # with a ratio of 1 no more than a stratum from the closed form: there is nothing to compete with
    assert _estimates(off, "a")[dead] == pytest.approx(-np.expm1(-0.4), abs=1 / 64)
    assert _estimates(on, "a")[dead] > _estimates(off, "a")[dead] + 0.2
    assert _estimates(on, "dosed")[dead] < _estimates(on, "a")[dead]
    dosed = _estimates(off, "dosed")
    assert dosed[f"{by}, competing risks"] < dosed[by] - 0.02
    assert dosed[f"{by}, competing risks"] < dosed[f"{by}, naive Kaplan-Meier"] - 0.02
    assert "times 6 while count is below 60 (made up)" in describe_risk(on.spec.competing["death"])


def test_the_command_prints_and_writes_the_rows_with_their_sources(tiny_fit, tmp_path, capsys):
    from thymodel import cli

    path, out = tmp_path / "s.toml", tmp_path / "s.csv"
    path.write_text('title = "risks"\nsubjects = 8\ndraws = 4\n[arms.a]\n[competing.relapse]\n'
                    'hazard = [{ from_day = 0, per_day = 0.05, source = "assumed for a test" }]\n', encoding="utf-8")
    cli.app(["scenario", str(tiny_fit.folder), str(path), "--csv", str(out)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "P(relapse first by day 20)" in said and "naive Kaplan-Meier" in said
    assert "relapse: 0.05 a day from day 0 (assumed for a test)" in said
    assert "P(by day 10), competing risks" in out.read_text(encoding="utf-8")
    assert load_scenario_spec(path, tiny_fit.spec.model).competing["relapse"].per_day == (0.05,)
