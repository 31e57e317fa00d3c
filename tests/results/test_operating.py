"""Trials that have not been run: patients against closed forms, error rates against their limits, faults told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2, norm

from thymodel.documents.model import load_model
from thymodel.documents.protocol import arm_sizes, load_protocol
from thymodel.documents.risks import Risk
from thymodel.documents.spec import Endpoint
from thymodel.errors import InputError
from thymodel.inference.boundaries import look_boundaries
from thymodel.inference.two_arms import score_z
from thymodel.results.arm_verdicts import judge_arms
from thymodel.results.enrolment import Enrolled, enrol
from thymodel.results.frames import save_figure
from thymodel.results.observed import visit_crossings
from thymodel.results.operating import as_json, error_limits, first_crossing, judge, run_protocol, standard_error
from thymodel.results.scenarios import covariates_of, run_scenario
from thymodel.results.trial_plots import plot_sizes

pytestmark = pytest.mark.requirement("REQ-TRI-02")

BAD = Path(__file__).parents[1] / "bad"
TRIAL = """
title = "A made-up trial"
subjects = 40
control = "soc"
visits = [5]
sizes = [20, 80]
[endpoints.kept]
marker = "count"
threshold = 60
unit = "cell/uL"
horizon = 5
landmark = true
[arms.soc]
label = "standard of care"
[arms.smart]
doses = [{ amount = 40, day = 2 }]
[analysis]
endpoint = "kept"
test = "score"
level = 0.05
sides = 1
looks = [0.5, 1]
spending = "pocock"
"""
LEVEL, ALARM = 0.05, 1e-3  # of binomial limits: each comparison fails by chance with this probability at most


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trials") / "trial.toml"
    path.write_text(TRIAL, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(tiny_fit, path):
    return run_protocol(tiny_fit, path, replicates=400, seed=3)


def _row(found, quantity, truth="posterior", hypothesis="as predicted", subjects=40):
    rows = found.table
    return rows[(rows["truth"] == truth) & (rows["hypothesis"] == hypothesis) & (rows["subjects"] == subjects)
                & (rows["quantity"] == quantity)].squeeze()


# --- patients ------------------------------------------------------------------------------------------------


def _endpoint(**other) -> Endpoint:
    found = Endpoint("kept", "count", 60.0, "cell/uL", 5.0, "", "", 0.0, 0.0, False, (5.0,), True, (5.0,))
    return replace(found, **other)


def _enrol(record, protocol, trials: int, patients: int, endpoint=None, risks=(), dropout=0.0, seed=1):
    lay = record.layout
    middle = np.median(record.z.reshape(-1, record.z.shape[-1])[:, :len(lay.population)], axis=0)
    return enrol(record.spec, lay, np.tile(middle, (trials, 1)), patients, (protocol.control, protocol.treated),
                 covariates_of(record), endpoint or protocol.endpoint, risks, dropout, seed), middle


@pytest.fixture(scope="module")
def protocol(tiny_fit, path):
    return load_protocol(path, tiny_fit.spec.model)


@pytest.fixture(scope="module")
def people(tiny_fit, protocol):
    return _enrol(tiny_fit, protocol, 500, 80)[0]


def _share(record) -> tuple[float, float]:
    """P(count at or above 60 on day 5) in either arm at the posterior median: lognormal, from the closed form."""
    from thymodel.inference.population import population_values

    lay = record.layout
    middle = np.median(record.z.reshape(-1, record.z.shape[-1])[:, :len(lay.population)], axis=0)
    value = {name: float(one) for name, one in population_values(lay, middle).items()}
    normal = np.random.default_rng(2).standard_normal(400_000)
    start = value["x0"] * np.exp(value["omega_x0"] * normal)
    course = [start * np.exp(-5 * value["k"]) + dose * np.exp(-3 * value["k"]) for dose in (0.0, 40.0)]
    control, treated = (float(norm.sf(np.log(60 / own) / value["sigma_count"]).mean()) for own in course)
    return control, treated


def test_patients_reach_the_endpoint_as_the_closed_form_says(tiny_fit, people):
    """Within 4 standard errors of 40000 patients: both arms by chance outside with less than 2e-4."""
    for arm, share in enumerate(_share(tiny_fit)):
        reached = np.isfinite(people.shown[arm])
        assert 0.1 < share < 0.99
        assert abs(reached.mean() - share) < 4 * np.sqrt(share * (1 - share) / reached.size)


def test_every_trial_has_new_patients(tiny_fit, people):
    """At one truth the counts of trials are binomial: their dispersion is that of chi-square, two-sided 1e-3. Trials
    that shared their patients, here every one repeated ten times, are not."""
    def p_value(counts):
        share = counts.mean() / 80
        statistic = ((counts - 80 * share) ** 2).sum() / (80 * share * (1 - share))
        return 2 * min(chi2.cdf(statistic, len(counts) - 1), chi2.sf(statistic, len(counts) - 1))

    counts = np.isfinite(people.shown[0]).sum(axis=1)
    assert p_value(counts) > ALARM
    whole = np.isfinite(people.shown[0][:, :8]).sum(axis=1) * 10
    assert p_value(whole) < 1e-6


def test_a_patient_is_the_same_in_both_arms(people):
    """The treated never fall behind: the dose only adds cells, and the error of measurement is shared."""
    both = np.isfinite(people.shown)
    assert (both[1] >= both[0]).all() and both[1].mean() > both[0].mean() + 0.1


def test_events_and_leaving_take_patients_as_their_hazards_say(tiny_fit, protocol):
    """All reach a threshold next to 0 unless an event (0.06 a day) or leaving (0.04) comes before day 5: exp(-0.5),
    within 4 standard errors; with neither, all."""
    risk = Risk("death", "death", (0.0,), (0.06,), ("made up",))
    easy = _endpoint(threshold=1e-6)
    both, _ = _enrol(tiny_fit, protocol, 100, 40, easy, (risk,), 0.04)
    share = np.exp(-0.5)
    assert abs(np.isfinite(both.shown[0]).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    assert np.array_equal(both.shown[0], both.shown[1]) and (both.last[np.isinf(both.shown)] == 0).all()
    assert np.isfinite(_enrol(tiny_fit, protocol, 50, 4, easy)[0].shown).all()


def test_a_hazard_linked_to_the_count_is_followed(tiny_fit, protocol):
    """Below a count that nobody reaches the hazard is tripled throughout."""
    from thymodel.documents.risks import Link

    link = Link("count", np.log(3.0), 1e9, 1.0, 0.0, "made up")
    risk = Risk("death", "death", (0.0,), (0.05,), ("made up",), link)
    people, _ = _enrol(tiny_fit, protocol, 100, 40, _endpoint(threshold=1e-6), (risk,))
    share = np.exp(-0.75)
    assert abs(np.isfinite(people.shown[0]).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(0, 9), min_size=1, max_size=8), stop=st.integers(0, 9),
       consecutive=st.integers(1, 3), after_nadir=st.booleans())
def test_visits_after_leaving_are_as_if_never_planned(levels, stop, consecutive, after_nadir):
    days, values = np.arange(1.0, len(levels) + 1), 10.0 * np.array(levels)
    endpoint = _endpoint(landmark=False, horizon=100.0, visits=tuple(days), consecutive=consecutive, threshold=50.0,
                         after_nadir=after_nadir)
    found = visit_crossings(endpoint, days, values[None], np.array([stop + 0.5]))
    kept = days <= stop
    if not kept.any():
        assert np.isinf(found.at).all() and (found.after == 0).all()
        return
    short = visit_crossings(replace(endpoint, visits=tuple(days[kept])), days[kept], values[None, kept])
    assert np.array_equal(found.at, short.at) and np.array_equal(found.after, short.after)


# --- error rates ---------------------------------------------------------------------------------------------


def _tossed(trials: int, patients: int, shares: tuple[float, float], seed: int) -> Enrolled:
    """Patients who reach the endpoint by a coin, on a visit day of their own (inf where never)."""
    random = np.random.default_rng(seed)
    luck, day = random.random((trials, patients)), random.integers(1, 5, (trials, patients)).astype(float)
    shown = np.stack([np.where(luck < share, day, np.inf) for share in shares])
    return Enrolled(shown, np.full(shown.shape, 5.0))


def _order(trials: int, patients: int) -> np.ndarray:
    return np.random.default_rng(9).permuted(np.tile(np.arange(patients), (trials, 1)), axis=1)


@pytest.mark.parametrize("test", ["score", "logrank"])
def test_under_the_null_the_error_is_nominal_and_uncorrected_looks_exceed_it(tiny_fit, protocol, people, test):
    """500 trials of 80 patients from the record, both arms under the control's regimen, four looks. Binomial limits
    with an alarm of 1e-3 each. The control: the same trials judged at each look by the test for one."""
    looks = (0.25, 0.5, 0.75, 1.0)
    protocol = replace(protocol, analysis=replace(protocol.analysis, test=test, looks=looks))
    z, shares = judge(protocol, people, _order(500, 80), 80, True)
    bounds = tuple(look_boundaries(looks, LEVEL, 1, "pocock"))
    low, high = binom.interval(1 - ALARM, 500, LEVEL)
    rejected = (first_crossing(z, bounds, 1)[1] != 0).sum()
    assert low <= rejected <= high
    assert low <= (z[:, -1] >= norm.isf(LEVEL)).sum() <= high
    assert (z >= norm.isf(LEVEL)).any(axis=1).sum() > high
    assert shares.mean(axis=0) == pytest.approx([shares.mean()] * 2, abs=0.03)


def test_two_sided_errors_are_counted_on_both_sides():
    z = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 2.5], [0.0, -2.5], [0.0, 0.0]])
    assert first_crossing(z, (2.8, 2.0), 2)[0].tolist() == [0, 0, 1, 1, 1]
    assert first_crossing(z, (2.8, 2.0), 2)[1].tolist() == [1, -1, 1, -1, 0]
    assert first_crossing(z, (2.8, 2.0), 1)[1].tolist() == [1, 0, 1, 0, 0]


def test_power_by_number_of_patients_is_the_closed_form(protocol):
    """Against the exact power of the score test within 4 standard errors, and near the usual normal approximation: the
    test is discrete, which moves its power by up to 3 points at these sizes."""
    p0, p1, trials = 0.35, 0.6, 4000
    protocol = replace(protocol, analysis=replace(protocol.analysis, day=5.0, looks=(1.0,)))
    people, order = _tossed(trials, 160, (p0, p1), 4), _order(trials, 160)
    for size in (40, 80, 160):
        z, _ = judge(protocol, people, order, size, False)
        power, n = np.mean(z[:, -1] >= norm.isf(LEVEL)), size // 2
        x1, x0 = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        exact = np.sum(binom.pmf(x1, n, p1) * binom.pmf(x0, n, p0) * (score_z(x1, n, x0, n) >= norm.isf(LEVEL)))
        assert abs(power - exact) < 4 * np.sqrt(exact * (1 - exact) / trials)
        middle, apart = (p0 + p1) / 2, p1 - p0
        normal = norm.cdf((apart * np.sqrt(n) - norm.isf(LEVEL) * np.sqrt(2 * middle * (1 - middle)))
                          / np.sqrt(p0 * (1 - p0) + p1 * (1 - p1)))
        assert exact == pytest.approx(normal, abs=0.03)


def test_unequal_arms_are_as_large_as_they_should_be(protocol):
    assert arm_sizes(90, 2 / 3) == (30, 60) and arm_sizes(40, 0.5) == (20, 20)
    people = _tossed(3, 90, (0.0, 1.0), 1)
    two_to_one = replace(protocol, share=2 / 3, analysis=replace(protocol.analysis, day=5.0))
    _, shares = judge(two_to_one, people, _order(3, 90), 90, False)
    assert (shares == [0.0, 1.0]).all()


def test_trials_of_one_draw_count_as_one():
    """Ten draws whose trials all agree: the error is that of ten numbers, not of a hundred."""
    draw = np.repeat(np.arange(10), 10)
    values = (draw < 5).astype(float)
    assert standard_error(values, draw) == pytest.approx(np.std([1] * 5 + [0] * 5, ddof=1) / np.sqrt(10))
    assert standard_error(values, np.arange(100)) == pytest.approx(values.std(ddof=1) / 10)
    assert error_limits(1000, 0.05) == tuple(binom.interval(0.99, 1000, 0.05) / np.array(1000))


# --- the run -------------------------------------------------------------------------------------------------


def test_assurance_is_less_sure_than_power_and_the_null_is_rare(found):
    power, assurance = (_row(found, "P(success)", truth) for truth in ("posterior median", "posterior"))
    assert 0.3 < assurance["estimate"] < 1 and assurance["mcse"] > power["mcse"] > 0
    assert assurance["lower"] < assurance["estimate"] < assurance["upper"]
    null = _row(found, "P(false rejection)", "posterior median", "null")
    low, high = binom.interval(1 - ALARM, 400, LEVEL)
    assert low / 400 <= null["estimate"] <= high / 400 and "a right test" in null["note"]
    own, under_null = (_row(found, "share reached, control", hypothesis=one) for one in ("as predicted", "null"))
    assert own["estimate"] == under_null["estimate"]
    sizes = [_row(found, "P(success)", subjects=n)["estimate"] for n in (20, 40, 80)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_looks_add_up_and_save_patients(found):
    looks = [_row(found, f"P(success) at look {k}, {share}% of the patients")["estimate"]
             for k, share in ((1, 50), (2, 100))]
    assert sum(looks) == pytest.approx(_row(found, "P(success)")["estimate"]) and looks[0] > 0.05
    assert 20 < _row(found, "mean patients enrolled")["estimate"] < 40
    assert found.boundaries == tuple(look_boundaries([0.5, 1], 0.05, 1, "pocock"))


def test_the_same_seed_gives_the_same_table(tiny_fit, path, found):
    again = run_protocol(tiny_fit, path, replicates=400, seed=3)
    assert again.table.equals(found.table)
    assert not run_protocol(tiny_fit, path, replicates=400, seed=4).table.equals(found.table)


def test_the_figure_is_written_and_other_endings_are_refused(found, tmp_path):
    save_figure(plot_sizes(found), tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="not a kind of figure"):
        save_figure(plot_sizes(found), tmp_path / "sizes.gif")


# --- the door ------------------------------------------------------------------------------------------------


def test_the_command_prints_what_was_asked(tiny_fit, path, tmp_path, call):
    words = ("trial", path, "--record", tiny_fit.folder, "--replicates", 60, "--csv", tmp_path / "t.csv")
    status, out, err = call(*words, "--out", tmp_path / "t.svg")
    assert (status, err) == (0, "") and out.startswith("From a fit to SIMULATED data. A made-up trial")
    assert "20 patients on smart, 20 on standard of care" in out and "one-sided level 0.05" in out
    assert "by number of patients" in out and (tmp_path / "t.svg").exists()
    assert "extrapolation (docs/extrapolation.md)" in out and "Arm smart: " in out
    assert "P(false rejection)" in (tmp_path / "t.csv").read_text(encoding="utf-8")
    status, out, _ = call(*words[:6], "--json")
    content = json.loads(out)
    assert status == 0 and content["replicates"] == 60 and len(content["boundaries"]) == 2
    assert content["record"] == tiny_fit.digest and content["rows"][0]["quantity"] == "P(success)"


def test_arms_have_the_verdict_of_a_scenario_of_the_same_arms(tiny_fit, path, found, tmp_path):
    """And a dose far beyond the fitted ones is a strong extrapolation, in words and for programs."""
    protocol, scenario = found.protocol, tmp_path / "s.toml"
    endpoint_and_arms = TRIAL[TRIAL.index("[endpoints.kept]"):TRIAL.index("[analysis]")]
    scenario.write_text(f'title = "same"\nsubjects = 64\ndraws = 200\n{endpoint_and_arms}', encoding="utf-8")
    assert found.extrapolation.verdicts == run_scenario(tiny_fit, scenario).verdicts
    assert set(found.extrapolation.verdicts.arms) == {"soc", "smart"}
    assert json.loads(as_json(found))["extrapolation"][0]["arm"] == "soc"
    far = replace(protocol.treated, name="far", doses=tuple(replace(d, amount=50 * d.amount)
                                                            for d in protocol.treated.doses))
    told = judge_arms(tiny_fit, [protocol.control, far], {protocol.endpoint.name: protocol.endpoint})
    assert told.in_json[1]["extrapolation"] == "strong"
    assert "times the most of a fitted cohort" in told.in_json[1]["why"]
    by_dose = judge_arms(tiny_fit, [far], {})
    assert by_dose.in_json[0]["position"] == "strong" and by_dose.in_json[0]["parameters"] == "not known"


def test_bad_protocols_list_every_fault():
    with pytest.raises(InputError) as caught:
        load_protocol(BAD / "trial.toml", load_model("thymus_core"))
    text = str(caught.value)
    for part in ("arms: 4 arms, and a randomised trial compares two", "control: no arm 'sco'", "did you mean 'soc'",
                 "visits: day 30 comes after day 60", "analysis.level: 1.5 is no probability",
                 "analysis.looks: [0.6, 0.3", "analysis.spending: missing", "analysis.day: day 250 lies outside",
                 "if 4e+06 was meant in cells/kg, write 4", "arms.late: its first dose, on day 200, is not before the",
                 "subjects: 5000; at most", "subjects: of 4 an arm has fewer than 2"):
        assert part in text


@pytest.mark.parametrize(("old", "new", "part"), [
    ('doses = [{ amount = 40, day = 2 }]', "", "arms.smart: no doses, and it is the treated arm"),
    ('label = "standard of care"', "doses = [{ amount = 40, day = 2 }]", "the same doses as soc"),
    ('test = "score"', 'test = "t-test"', "analysis.test: input should be 'score', 'fisher' or 'logrank'"),
    ("looks = [0.5, 1]", "looks = [0.5, 0.8]", "the last look is at 0.8 of the patients"),
    ("looks = [0.5, 1]", "looks = [0.5, 0.5, 1]", "do not ascend"),
    ("level = 0.05", "level = 0", "0 is no probability between 0 and 1"),
    ('endpoint = "kept"', 'endpoint = "kep"', "no endpoint 'kep'; did you mean 'kept'?"),
    ("visits = [5]", "", "judged as visits show it, and there are none"),
    ("landmark = true", "", "analysis.day: missing"),
    ("doses = [", "dose = [", "arms.smart.dose: unknown key"),
    ("amount = 40", "amount = -1", "arms.smart.doses.0.amount"),
    ("[analysis]", "[dropout]\nrate = -1\n[analysis]", "dropout.rate"),
])
def test_a_bad_trial_costs_status_2(tiny_fit, tmp_path, call, old, new, part):
    bad = tmp_path / "trial.toml"
    assert old in TRIAL
    bad.write_text(TRIAL.replace(old, new), encoding="utf-8")
    status, out, err = call("trial", bad, "--record", tiny_fit.folder)
    assert (status, out) == (2, "") and part in err


@pytest.mark.parametrize(("words", "part"), [
    ((), "--record: missing"), (("--record", "FIT", "--replicates", "3"), "from 50 to 100000 was expected"),
    (("--record", "FIT", "--replicates", "50000"), "50000 trials of 80 patients do not fit into memory"),
    (("--record", "FIT", "--seed", "-1"), "--seed: -1 is not a whole number"),
    (("--record", "FIT", "--out", "a.gif"), "not a kind of figure"), (("--record", "absent"), "absent")])
def test_bad_words_cost_status_2(tiny_fit, path, call, words, part):
    words = [str(tiny_fit.folder) if word == "FIT" else word for word in words]
    status, out, err = call("trial", path, *words)
    assert (status, out) == (2, "") and part in err


def test_a_design_takes_a_seed_and_no_record(tiny_fit, call):
    design = Path(__file__).parents[2] / "fits" / "reset02_design" / "design.toml"
    status, _, err = call("trial", design, "--record", tiny_fit.folder)
    assert status == 2 and "--seed: missing" in err and "--record: not for a design" in err


def test_check_knows_a_trial_by_its_sections(tiny_study, tmp_path, call):
    (tmp_path / "spec.toml").write_bytes((tiny_study / "spec.toml").read_bytes())
    (tmp_path / "decay.toml").write_bytes((tiny_study / "decay.toml").read_bytes())
    (tmp_path / "trial.toml").write_text(TRIAL, encoding="utf-8")
    status, out, _ = call("check", tmp_path / "trial.toml")
    assert status == 0 and "good (trial of 40 patients)" in out
    (tmp_path / "trial.toml").write_text(TRIAL.replace("level = 0.05", "level = 5"), encoding="utf-8")
    status, _, err = call("check", tmp_path / "trial.toml")
    assert status == 2 and "analysis.level" in err


def test_check_takes_a_scenario_with_visits_for_one(tiny_study, tmp_path, call):
    for name in ("spec.toml", "decay.toml"):
        (tmp_path / name).write_bytes((tiny_study / name).read_bytes())
    (tmp_path / "s.toml").write_text("title = 'seen'\nvisits = [1, 5, 9]\n[arms.soc]\n", encoding="utf-8")
    status, out, _ = call("check", tmp_path / "s.toml")
    assert status == 0 and "good (scenario, 1 arms)" in out
