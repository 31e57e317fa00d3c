"""Laws that hold whatever the numbers: closed forms, balances, limits, and what doses and covariates may do.

The numbers in brackets are the checks of the project's scientific description, section 3.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy
from scipy.special import gammainc

from thymodel.documents.expressions import symbol
from thymodel.documents.model import parse_model
from thymodel.documents.regimen import Dose
from thymodel.dynamics import symbolic
from thymodel.dynamics.solving import Accuracy, plan, solve, stack, trajectories

pytestmark = pytest.mark.requirement("REQ-NUM-01", "REQ-NUM-03")

FINE = Accuracy(1e-10, 1e-13)
# Everything is solved at 1e-10 per step; some hundred steps add up, and differently in arms that break differently.
SAME = 1e-8
ROUNDING = 1e-11  # quantities that differ by rounding and by nothing else
NONNEGATIVE = -1e-8  # of each state's largest value: the local error is allowed to dip this far below zero
DAYS = (0, 7, 7.5, 8, 10, 20, 30, 60, 100, 180, 365, 730, 1500, 3000)
LATE = len(DAYS) - 1
AT = {day: k for k, day in enumerate(DAYS)}

SURVIVAL = """
[inputs.survival]
unit = "1"
multiply = { P = "amount" }
"""


def bolus(amount: float, day: float = 7.0) -> Dose:
    return Dose(day, "progenitors", amount)


# --- homing_wave ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wave(with_states, simulate, laws):
    """homing_wave after doses of 0 and 4, with an accumulator of what leaves the transit chain."""
    model = with_states("homing_wave", laws.MORE["homing_wave"])
    return simulate(model, {"none": {"doses": [bolus(0)]}, "four": {"doses": [bolus(4)]}}, DAYS)


def _seeded(amount: float, D50: float = 6.0) -> float:
    return amount / (1 + amount / D50)


def test_transit_chain_is_bateman_s_form(wave):  # (1)
    k_c, k_t, n = 0.7, 8 / 42, 8
    t, c = np.array(DAYS[AT[8]:AT[365]]) - 7.0, k_t - k_c
    polynomial = sum(t**j / (math.factorial(j) * c ** (n - j)) for j in range(n))
    expected = _seeded(4) * k_c * k_t ** (n - 1) * (np.exp(-k_c * t) / c**n - np.exp(-k_t * t) * polynomial)
    # the closed form itself cancels at small t, to about 1e-9 of the peak
    np.testing.assert_allclose(wave["four"]["y_Z8"][AT[8]:AT[365]], expected, rtol=SAME, atol=SAME * expected.max())


def test_wave_without_delay_in_blood_is_an_incomplete_gamma(with_states, simulate):  # (1)
    text = with_states("homing_wave").text.replace("add    = { P =", "add    = { Z1 =")
    found = simulate(parse_model(text, "direct"), {"four": {"doses": [bolus(4)]}}, DAYS)["four"]["thymic_wave"]
    t, k_t, lam, n = np.maximum(np.array(DAYS) - 7.0, 0), 8 / 42, 0.004, 8
    expected = _seeded(4) * (k_t / (k_t - lam)) ** n * np.exp(-lam * t) * gammainc(n, (k_t - lam) * t)
    np.testing.assert_allclose(found, expected, rtol=SAME, atol=SAME * expected.max())


def test_all_that_seeds_leaves_the_transit_chain(wave):  # (19)
    assert wave["four"]["y_left"][LATE] == pytest.approx(_seeded(4), rel=SAME)


def test_the_wave_is_never_negative(wave):  # (19)
    assert (wave["four"]["thymic_wave"] >= NONNEGATIVE * wave["four"]["thymic_wave"].max()).all()


def test_no_dose_no_wave(wave):  # (6)
    assert (wave["none"]["thymic_wave"] == 0).all()


def test_endogenous_part_starts_at_zero(wave):
    assert wave["none"]["rte4"][0] == 0.0


# --- thymus_core: one batch of subjects -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def core(with_states, laws):
    return with_states("thymus_core", laws.MORE["thymus_core"] + SURVIVAL)


@pytest.fixture(scope="module")
def subjects(core):
    """What each subject of the one big solve is there for."""
    estimated = [key for key, item in core.parameters.items() if item.prior is not None]
    no_niche_host = {"k_b": 10.0, "t_b": 1e6}
    steady = {"k_b": 10.0, "t_b": -1e3}
    fast = {"K_I": 1e12, "dN": 0.02, "mR": 0.01, "f_th": 1.0} | steady  # il7 = 1; reaches its steady state by day 3000
    age = lambda *steps: {"age": tuple(steps)}  # noqa: E731
    infusion = lambda days: {"doses": [Dose(7.0, "progenitors", 4.0, days)]}  # noqa: E731
    return {
        "untreated": {},
        **{f"dose {d:g}": {"doses": [bolus(d)]} for d in (0, 1e-4, 1e-3, 1e-2, 1.5, 4, 9, 300, 3000, 30000)},
        "two halves": {"doses": [bolus(2), bolus(2)]},
        "zero amount later": {"doses": [bolus(4), bolus(0, 50.0)]},
        "add, then halve": {"doses": [bolus(4), Dose(7.0, "survival", 0.5)]},
        "halve, then add": {"doses": [Dose(7.0, "survival", 0.5), bolus(4)]},
        "infusion 2": infusion(2.0), "infusion 0.1": infusion(0.1), "infusion 0.01": infusion(0.01),
        "homing alone": {"doses": [bolus(4)], "values": {"k_e": 0.0, "r_e": 0.0} | no_niche_host},
        "transient": {"doses": [bolus(4)], "values": {"r_e": 0.05} | no_niche_host},
        "healthy": {"values": {"f_th": 1.0} | steady},
        "healthy at 60": {"values": {"f_th": 0.6} | steady, "covariates": age((0.0, 60.0))},
        "fixed il7": {"values": fast},
        "age 40": {"covariates": age((0.0, 40.0))}, "age 50": {"covariates": age((0.0, 50.0))},
        "age unchanged": {"covariates": age((0.0, 45.0), (200.0, 45.0))},
        "age 50 later": {"covariates": age((0.0, 45.0), (200.0, 50.0))},
        "age before": {"covariates": age((100.0, 45.0), (200.0, 50.0))},
        "twice as heavy": {"doses": [bolus(4)], "covariates": {"BW": ((0.0, 140.0),)}},
        "as if twice as heavy": {"doses": [bolus(4)], "values": {"eta": 0.2, "f_b": 0.01}},
        **{f"{key} {sign:+d}": {"doses": [bolus(4)], "values": {key: _nudged(core, key, sign)}}
           for key in estimated for sign in (-1, 1)},
        **_random_subjects(core, estimated),
    }


STEP = 1e-3  # of log-parameters, for central differences: their own error is then about 1e-6


def _nudged(model, key: str, sign: int) -> float:
    return model.parameters[key].value * math.exp(sign * STEP)


def _random_subjects(model, estimated: list[str]) -> dict:
    """60 parameter sets, log-SD 0.6, with doses from 0 to 20."""
    draws = np.random.default_rng(20).normal(size=(60, len(estimated)))
    doses = np.random.default_rng(21).uniform(0, 20, size=60)
    return {f"random {k}": {"doses": [bolus(doses[k])],
                            "values": {key: model.parameters[key].value * math.exp(0.6 * z)
                                       for key, z in zip(estimated, draws[k], strict=True)}}
            for k in range(60)}


@pytest.fixture(scope="module")
def solved(core, subjects, simulate):
    return simulate(core, subjects, DAYS, FINE)


def _agree(left: dict, right: dict, places=slice(None), names=None) -> None:
    for name in names or left:
        largest = np.abs(right[name]).max()
        np.testing.assert_allclose(left[name][places], right[name][places], rtol=SAME, atol=SAME * largest,
                                   err_msg=name)


# --- homing and balances ---------------------------------------------------------------------------------------


def test_infused_progenitors_leave_the_blood_exponentially(solved):  # (2)
    after = np.array(DAYS[AT[7.5]:AT[30]]) - 7.0
    found = solved["dose 4"]["y_P"][AT[7.5]:AT[30]]
    np.testing.assert_allclose(found, 4 * np.exp(-0.7 * after), rtol=SAME, atol=1e-11)  # FINE holds 1e-13 of 4 a step


def test_homing_alone_fills_a_share_set_by_the_dose(solved):  # (3)
    eta_patient = 0.1 / 0.6  # eta*(BW/bw_ref)*A**(-nu_n)
    expected = 1 - math.exp(-eta_patient * 4 / 0.7)
    assert expected == pytest.approx(0.614179, abs=5e-7)  # as printed
    assert solved["homing alone"]["y_e"][LATE] == pytest.approx(expected, rel=SAME)


def test_dn_stages_multiply_what_is_seeded_by_their_divisions(solved):  # (4)
    transient = solved["transient"]
    assert transient["y_left_dn"][LATE] == pytest.approx(2**5 * transient["y_seeded"][LATE], rel=SAME)


def test_export_is_the_surviving_share_of_what_leaves_dp(solved):  # (5)
    transient, surviving = solved["transient"], 0.1 / (0.1 + 0.025)
    assert transient["y_exported"][LATE] == pytest.approx(surviving * 0.048 * transient["y_left_dp"][LATE], rel=SAME)


def test_healthy_thymus_exports_what_defines_it(solved):  # (12)
    assert solved["healthy"]["thymic_export_cd4"][LATE] == pytest.approx(2.3e7, rel=SAME)


def test_export_at_steady_state_scales_with_thymic_function(solved):  # (12)
    expected = 2.3e7 * 0.6 * math.exp(-0.044 * 15)
    assert solved["healthy at 60"]["thymic_export_cd4"][LATE] == pytest.approx(expected, rel=SAME)


def test_naive_cells_settle_where_il7_is_fixed(solved):  # (13)
    kappa, p, a, d, m = 0.02 / (1000 * 70 * 70), 0.018 / (1 + 9.8), 0.0004, 0.02, 0.01
    emigrants = kappa * 2.3e7 / (d + m + a - p)
    assert solved["fixed il7"]["y_R4"][LATE] == pytest.approx(emigrants, rel=SAME)
    assert solved["fixed il7"]["y_N4"][LATE] == pytest.approx(m * emigrants / (d + a - p), rel=SAME)


def test_log_export_of_a_control_falls_with_age_at_alpha(solved):  # (15)
    late = slice(AT[20], None)
    slope = np.log(solved["age 50"]["thymic_export_cd4"][late] / solved["age 40"]["thymic_export_cd4"][late]) / 10
    np.testing.assert_allclose(slope, -0.044, rtol=SAME)


# --- dose response ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["untreated", "dose 0"])
def test_without_a_dose_there_are_no_infused_cells(arm, solved):  # (6)
    assert (solved[arm]["y_P"] == 0).all() and (solved[arm]["y_e"] == 0).all()


def test_a_dose_of_zero_is_the_control(solved):  # (6)
    _agree(solved["dose 0"], solved["untreated"])


@pytest.mark.parametrize("arm", ["dose 1.5", "dose 9", "dose 3000"])
def test_arms_are_identical_until_the_infusion(arm, solved):  # (6)
    for name, values in solved[arm].items():
        np.testing.assert_array_equal(values[: AT[7] + 1], solved["dose 0"][name][: AT[7] + 1])


@pytest.mark.parametrize("name", ["rte4", "naive4", "cd4"])
def test_more_progenitors_never_mean_fewer_cells_for_four_years(name, solved):  # (7)
    # not for ever: from about day 1700 the arm with more CD4 has less IL-7 and, by 0.2/uL at most, fewer RTE
    arms = np.array([solved[f"dose {d:g}"][name][: AT[1500] + 1] for d in (0, 1.5, 4, 9, 300)])
    assert (np.diff(arms, axis=0) >= -SAME * arms.max()).all()


def test_the_dose_response_saturates(solved):  # (8)
    at_100 = [solved[f"dose {d:g}"]["rte4"][AT[100]] for d in (300, 3000, 30000)]
    assert at_100[2] - at_100[1] < at_100[1] - at_100[0] < 0.05 * at_100[0]


def test_the_effect_of_a_small_dose_is_proportional_to_it(solved):  # (9)
    control = solved["dose 0"]["rte4"][AT[100]]
    slopes = [(solved[f"dose {d:g}"]["rte4"][AT[100]] - control) / d for d in (1e-4, 1e-3, 1e-2)]
    # what departs from proportion is proportional to the dose: ten times the dose, ten times the departure
    assert (slopes[2] - slopes[1]) / (slopes[1] - slopes[0]) == pytest.approx(10, rel=0.05)


def test_no_state_goes_below_zero_at_random_parameters(core, solved):  # (10)
    for name in [name for name in solved if name.startswith("random")]:
        for state in core.states:
            curve = solved[name][f"y_{state}"]
            assert curve.min() >= NONNEGATIVE * curve.max(), (name, state)


# --- doses, breaks, covariates ----------------------------------------------------------------------------------


def test_two_half_doses_are_one_dose(solved):
    _agree(solved["two halves"], solved["dose 4"])


def test_an_observation_at_a_dose_time_is_the_value_before(solved):
    assert solved["dose 4"]["y_P"][AT[7]] == 0.0


@pytest.mark.parametrize(("arm", "left"), [("add, then halve", 2.0), ("halve, then add", 4.0)])
def test_simultaneous_records_act_in_their_order(arm, left, solved):
    assert solved[arm]["y_P"][AT[8]] == pytest.approx(left * math.exp(-0.7), rel=SAME)


def test_a_running_infusion_approaches_its_plateau_exponentially(solved):
    expected = 4 / 2 / 0.7 * -math.expm1(-0.7 * 1)
    assert solved["infusion 2"]["y_P"][AT[8]] == pytest.approx(expected, rel=SAME)


def test_a_short_infusion_is_nearly_a_bolus(solved):
    bolus_value = solved["dose 4"]["y_e"][AT[10]]
    long, short = (solved[f"infusion {days}"]["y_e"][AT[10]] - bolus_value for days in ("0.1", "0.01"))
    assert long / short == pytest.approx(10, rel=0.1)  # proportional to the duration, up to the duration's square


def test_a_record_of_nothing_changes_nothing(solved):
    _agree(solved["zero amount later"], solved["dose 4"])


def test_a_covariate_that_steps_to_its_own_value_changes_nothing(solved):
    _agree(solved["age unchanged"], solved["untreated"])


def test_a_covariate_acts_from_its_step_on(solved):
    _agree(solved["age 50 later"], solved["untreated"], slice(0, AT[180] + 1), ["thymic_export_cd4"])
    assert solved["age 50 later"]["thymic_export_cd4"][AT[365]] < solved["untreated"]["thymic_export_cd4"][AT[365]]


def test_the_first_covariate_value_holds_back_to_the_start(solved):
    _agree(solved["age before"], solved["age 50 later"])


def test_body_weight_scales_homing_up_and_dilution_down(core):  # (22)
    typical = symbolic.typical_values(core)
    light, heavy = (symbolic.derive(core, typical | {"BW": weight}) for weight in (70.0, 140.0))
    assert float(heavy["eta_patient"]) == pytest.approx(2 * float(light["eta_patient"]), rel=ROUNDING)
    assert float(heavy["kappa"]) == pytest.approx(float(light["kappa"]) / 2, rel=ROUNDING)


def test_a_heavier_patient_is_one_with_other_homing_and_dilution(solved):  # (22)
    _agree(solved["twice as heavy"], solved["as if twice as heavy"])


DECAY = """
title = "decay"
description = "decay from day 5 on"
start = 5
[constants]
one = { unit = "cell", value = 1, source = "test" }
[parameters]
k = { unit = "1/day", value = 0.1, source = "test" }
[states.y]
unit = "cell"
initial = "one"
rate = "-k*y"
[observables.y_seen]
unit = "cell"
value = "y"
"""


def test_a_model_may_start_on_another_day():
    model = parse_model(DECAY, "decay")
    found = trajectories(model, {"k": 0.1}, [plan(model, [], {}, [5.0, 6.0, 25.0])], ["y_seen"], FINE)
    np.testing.assert_allclose(found[0, :, 0], np.exp(-0.1 * np.array([0.0, 1.0, 20.0])), rtol=SAME)


# --- solver and derivatives -------------------------------------------------------------------------------------


def test_a_coarser_solve_agrees_to_its_accuracy(core, solved, simulate):  # (21)
    arms = {name: {"doses": [bolus(d)]} for name, d in (("dose 0", 0), ("dose 9", 9))}
    coarse = simulate(core, arms, DAYS, Accuracy(1e-8, 1e-11))
    for name in arms:
        for key in core.observables:
            largest = np.abs(solved[name][key]).max()
            np.testing.assert_allclose(coarse[name][key], solved[name][key], rtol=0, atol=1e-6 * largest, err_msg=key)


def test_gradients_are_central_differences(core, subjects, solved):  # (23)
    names, days = ("cd4", "cd8", "rte4"), (30.0, 100.0, 365.0)
    estimated = [key for key, item in core.parameters.items() if item.prior is not None]
    courses = {key: ((0.0, item.value),) for key, item in core.covariates.items()}
    schedule = jax.tree.map(jnp.asarray, plan(core, [bolus(4)], courses, days))
    scale = jnp.array([max(np.abs(solved["dose 4"][f"y_{state}"]).max(), 1e-6) for state in core.states])
    typical = {key: item.value for key, item in core.parameters.items()}

    def log_observed(logs):
        values = typical | dict(zip(estimated, jnp.exp(logs), strict=True))
        return jnp.log(solve(core, values, schedule, names, scale, FINE).observed)

    gradient = jax.jit(jax.jacrev(log_observed))(jnp.log(jnp.array([typical[key] for key in estimated])))
    for k, key in enumerate(estimated):
        for j, name in enumerate(names):
            up, down = (np.log(solved[f"{key} {sign:+d}"][name][[AT[day] for day in (30, 100, 365)]])
                        for sign in (1, -1))
            # 1e-5: the differences' own error (STEP squared) and the solver's (1e-9 over STEP)
            np.testing.assert_allclose(gradient[:, j, k], (up - down) / (2 * STEP), atol=1e-5, err_msg=f"{key} {name}")


@pytest.mark.parametrize("method", ["explicit", "implicit"])
def test_gradient_of_a_decay_is_the_closed_form_for_subjects_of_unlike_length(method):
    model = parse_model(DECAY, "decay")
    days = np.array([[6.0, 7.0], [25.0, 105.0]])
    design = jax.tree.map(jnp.asarray, stack([plan(model, [], {}, row) for row in days]))

    def seen(k):
        return jax.vmap(lambda row: solve(model, {"k": k}, row, ["y_seen"], jnp.ones(1), FINE, method).observed)(design)

    gradient = jax.jit(jax.jacrev(seen))(0.1)[:, :, 0]
    np.testing.assert_allclose(gradient, -(days - 5) * np.exp(-0.1 * (days - 5)), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["homing_wave", "thymus_core"])
def test_symbolic_jacobian_is_the_automatic_one(name, with_states):
    model = with_states(name)
    values = symbolic.typical_values(model)
    states = np.random.default_rng(3).uniform(0.0, 0.4, size=(10, len(model.states)))
    states *= np.array([1e9 if item.unit == "cell" else 1.0 for item in model.states.values()])
    times = np.linspace(1.0, 400.0, 10)
    names = [symbol(key) for key in ("t", *model.states, *values)]
    functions = [{"expit": lambda x: 1 / (1 + np.exp(-x)), "maximum": np.maximum,
                  "step": lambda x: np.heaviside(x, 0.5)}, "numpy"]
    written = sympy.lambdify(names, symbolic.jacobian(model), functions)
    derived = symbolic.derive(model, values)
    automatic = jax.jit(jax.vmap(jax.jacfwd(lambda y, t: symbolic.rate(model, t, y, derived))))(states, times)
    for row, t, found in zip(states, times, np.asarray(automatic), strict=True):
        expected = np.asarray(written(t, *row, *values.values()), float)
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING * np.abs(expected).max())
