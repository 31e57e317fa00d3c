"""The native solver against diffrax, central differences and its own numpy twin."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from thymodel.documents.model import load_model, parse_model
from thymodel.documents.regimen import Dose
from thymodel.dynamics import solving
from thymodel.dynamics.kernel import (
    compile_model,
    halved,
    make_counter,
    make_grid,
    native_solve,
    self_test,
    with_dense,
)
from thymodel.dynamics.solving import Accuracy

pytestmark = pytest.mark.requirement("REQ-NUM-02")

FINE = 400  # steps; the method's error is then near 1e-8
CASES = {"homing_wave": (("cd4", "rte4"), (0.0, 7.0, 28.0, 60.0, 100.0, 365.0)),
         "thymus_core": (("cd4", "cd8", "rte4"), (14.0, 60.0, 140.0, 365.0, 730.0)),
         "lymphocyte_regrowth": (("lymphocytes",), (-10.0, -7.0, -3.0, 0.0, 7.0, 20.0, 35.0))}

# Every kind of event in two equations: a covariate acts directly and through a derived constant.
TOY = """
title = "toy"
description = "toy"
[covariates]
sick = { unit = "1", value = 0, source = "test" }
[parameters]
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "test" }
d50 = { unit = "cell", value = 4, prior = "lognormal(median=4, sd=0.5)", source = "test" }
m = { unit = "1", value = 1.7, prior = "lognormal(median=1.7, sd=0.5)", source = "test" }
[expressions]
loss = "k*exp(-0.5*sick)"
drive = "tanh(t*k) + hill(A, d50, m) + min(A/d50, 2) + piecewise(A/d50, A < d50, 1) + 0.1*sick"
[states.A]
unit = "cell"
initial = "d50/2"
rate = "-loss*A"
[states.B]
unit = "cell"
initial = "0"
rate = "loss*A*drive - k*B"
[inputs.cells]
unit = "cell"
add = { A = "amount/(1 + amount/d50)" }
[inputs.kill]
unit = "1"
multiply = { A = "exp(-m*amount)", B = "exp(-amount)" }
[observables.a]
unit = "cell"
value = "A"
[observables.b]
unit = "cell"
value = "B*softplus(m) + sqrt(1 + k*t)*d50"
"""


def _design(model, visits, count=3):
    courses = {name: ((-np.inf, item.value),) for name, item in model.covariates.items()}
    doses = [[Dose(7.0, "progenitors", 1.5 * (k + 1))] if model.inputs else [] for k in range(count)]
    return [solving.plan(model, d, courses, visits) for d in doses]


def _values(model, count=3):
    spread = 1 + 0.1 * np.arange(count)
    return {name: jnp.asarray(item.value * (spread if item.prior is not None else 1.0 + 0 * spread))
            for name, item in model.parameters.items()}


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    observables, visits = CASES[request.param]
    model = load_model(request.param)
    native, values, schedules = compile_model(model, observables), _values(model), _design(model, visits)
    return native, values, schedules, make_grid(native, values, solving.stack(schedules), FINE)


@pytest.fixture(scope="module")
def toy():
    model = parse_model(TOY, "toy")
    doses = [Dose(2.0, "cells", 3.0), Dose(2.0, "kill", 0.3), Dose(5.0, "cells", 6.0, duration=2.5),
             Dose(9.0, "kill", 0.5), Dose(20.0, "cells", 2.0)]
    sick = [((-np.inf, 0.0), (4.0, 1.0), (9.0, 2.0), (12.0, 0.0)), ((-np.inf, 1.0),)]
    visits = [[0.0, 2.0, 6.0, 9.0, 10.0, 20.0], [0.0, 1.0, 3.0, 8.0]]
    schedules = [solving.plan(model, doses, {"sick": s}, v) for s, v in zip(sick, visits, strict=True)]
    native, values = compile_model(model, ["a", "b"]), _values(model, 2)
    return native, values, schedules, make_grid(native, values, solving.stack(schedules), FINE)


def _loss(native, grid):
    return jax.jit(lambda values: jnp.sum(jnp.log1p(native_solve(native, values, grid)[0])))


def test_values_are_those_of_diffrax(case):
    native, values, schedules, grid = case
    expected = solving.trajectories(native.model, values, schedules, native.observables, Accuracy(1e-10, 1e-13),
                                    kind="jax")
    observed, error = native_solve(native, values, grid)
    np.testing.assert_allclose(observed, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    assert float(error.max()) < 1


def test_gradient_is_that_of_diffrax(case):
    native, values, schedules, grid = case
    schedule = jax.tree.map(jnp.asarray, solving.stack(schedules))
    scale, method = solving.choose(native.model, values, schedule)

    def second(known):
        one = lambda v, s: solving.solve(native.model, v, s, native.observables, scale,  # noqa: E731
                                         Accuracy(1e-10, 1e-13), method).observed
        return jnp.sum(jnp.log1p(jax.vmap(one)(known, schedule)))

    slopes, expected = jax.grad(_loss(native, grid))(values), jax.jit(jax.grad(second))(values)
    for name in values:
        np.testing.assert_allclose(slopes[name], expected[name], rtol=1e-6,
                                   atol=1e-6 * (np.abs(expected[name]).max() + 1e-6), err_msg=name)


def test_gradient_is_exact_for_the_grid_however_coarse(case):
    native, values, schedules, _ = case
    loss = _loss(native, make_grid(native, values, solving.stack(schedules), 30))
    slopes = jax.grad(loss)(values)
    for name, item in native.model.parameters.items():
        step = 1e-5 * values[name]
        if item.prior is not None:
            central = (loss({**values, name: values[name] + step}) - loss({**values, name: values[name] - step})) / 2
            np.testing.assert_allclose(jnp.sum(slopes[name] * step), central, rtol=1e-6, atol=1e-11, err_msg=name)


def test_jumps_infusions_and_covariate_steps_are_those_of_diffrax(toy):
    native, values, schedules, grid = toy
    expected = solving.trajectories(native.model, values, schedules, native.observables, Accuracy(1e-9, 1e-12),
                                    kind="jax")
    observed, _ = native_solve(native, values, grid)
    np.testing.assert_allclose(observed, expected, rtol=2e-5)  # the kinks of the toy cost both solvers accuracy


def test_gradient_through_jumps_infusions_and_covariate_steps(toy):
    native, values, _, grid = toy
    loss = _loss(native, grid)
    slopes = jax.grad(loss)(values)
    for name in values:
        step = 1e-6 * values[name]
        central = (loss({**values, name: values[name] + step}) - loss({**values, name: values[name] - step})) / 2
        np.testing.assert_allclose(jnp.sum(slopes[name] * step), central, rtol=1e-5, err_msg=name)


def test_padding_changes_nothing(toy):
    """A shorter subject beside a longer one, and the lanes left over, give what the subject alone gives."""
    native, values, schedules, _ = toy
    alone = {name: value[1:] for name, value in values.items()}
    density = Accuracy(1e-5, 1e-8)
    one, _ = native_solve(native, alone, make_grid(native, alone, solving.stack(schedules[1:]), density))
    both, _ = native_solve(native, values, make_grid(native, values, solving.stack(schedules), density))
    np.testing.assert_allclose(both[1, :4], one[0], rtol=1e-4)
    np.testing.assert_array_equal(both[1, 4:], np.broadcast_to(both[1, 3], both[1, 4:].shape))


def test_vmap_is_a_loop(toy):
    native, values, _, grid = toy
    gradient = jax.grad(_loss(native, grid))
    many = {name: jnp.stack([value, 1.1 * value]) for name, value in values.items()}
    batch = jax.vmap(gradient)(many)
    for k in range(2):
        single = gradient({name: value[k] for name, value in many.items()})
        for name in values:
            np.testing.assert_allclose(batch[name][k], single[name], rtol=1e-12)


def test_threads_agree_bit_for_bit(toy):
    native, values, _, grid = toy
    gradient = jax.jit(jax.grad(_loss(native, grid)))
    expected = gradient(values)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: gradient(values), range(200)):
            assert all(bool((result[name] == expected[name]).all()) for name in values)


def test_a_failed_step_is_nan_and_leaves_the_others_alone(toy):
    native, values, _, grid = toy
    broken = values | {"k": values["k"].at[0].set(jnp.nan)}
    observed, error = native_solve(native, broken, grid)
    assert np.isnan(observed[0, 1:]).all() and np.isnan(error[0])
    assert np.isfinite(observed[1]).all() and np.isfinite(error[1])


def test_error_in_units_of_the_tolerance_falls_with_it(toy):
    native, values, schedules, _ = toy
    grid = make_grid(native, values, solving.stack(schedules), Accuracy(1e-4, 1e-7))
    _, error = native_solve(native, values, grid)
    _, tighter = native_solve(native, values, grid._replace(tolerance=grid.tolerance * 0.1))
    np.testing.assert_allclose(tighter, 10 * error, rtol=1e-9)


def _one_state(rate, k):
    """x' = rate from 0, with a fast constant k; visits after one and ten days."""
    text = f"""
title = "one state"
description = "one state"
[parameters]
k = {{ unit = "1/day", value = {k}, prior = "lognormal(median={k}, sd=1)", source = "test" }}
slow = {{ unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=1)", source = "test" }}
[states.x]
unit = "1"
initial = "0"
rate = "{rate}"
[observables.x]
unit = "1"
value = "x"
"""
    model = parse_model(text, "one_state")
    return compile_model(model, ["x"]), solving.stack([solving.plan(model, [], {}, [1.0, 10.0])])


@pytest.mark.parametrize("faster", [1.0, 30.0, 1e4])
def test_a_course_that_slides_along_a_kink_is_followed_with_steps_laid_for_a_slower_one(faster):
    # x fills what is free at rate k and leaves slowly: free stays a little above 0, and stages overshoot it
    native, schedule = _one_state("k*max(1 - x - 0.5*expit(slow*t - 1), 0) - slow*x", 10)
    grid = make_grid(native, {"k": 10.0, "slow": 0.1}, schedule, Accuracy(1e-5, 1e-7))
    found, error = native_solve(native, {"k": 10.0 * faster, "slow": 0.1}, grid)
    k = 10.0 * faster
    times = np.array([1.0, 10.0])
    free = _smooth_free(k, times)
    np.testing.assert_allclose(found[0, :, 0], 1 - free - 0.5 / (1 + np.exp(1 - 0.1 * times)), rtol=0, atol=1e-3)
    assert np.isfinite(error[0])


def _smooth_free(k, times):
    """What is free where it never reaches 0, by scipy: the equation without its kink."""
    def rate(t, x):
        return k * (1 - x - 0.5 / (1 + np.exp(1 - 0.1 * t))) - 0.1 * x

    solved = scipy.integrate.solve_ivp(rate, (0, times[-1]), [0.0], "Radau", times, rtol=1e-9, atol=1e-12)
    return 1 - solved.y[0] - 0.5 / (1 + np.exp(1 - 0.1 * times))


@pytest.mark.parametrize(("rate", "inside"), [("slow*abs(slow*t - 0.35)", True), ("slow*max(slow*t, 0.35)", True),
                                              ("slow*piecewise(1, t*slow < 0.35, 2)", True),
                                              ("slow*max(slow*t, 2)", False)])
def test_a_step_over_a_kink_says_how_wrong_it_can_be(rate, inside):
    native, schedule = _one_state(rate, 10)
    grid = make_grid(native, {"k": 10.0, "slow": 0.1}, schedule, 2)  # two or so steps: one goes over 3.5 days
    grid = grid._replace(tolerance=np.array([1.0, 0.0]))  # errors are then those of x itself
    found, error = native_solve(native, {"k": 10.0, "slow": 0.1}, grid)
    fine = make_grid(native, {"k": 10.0, "slow": 0.1}, schedule, 4000)
    off = np.abs(np.asarray(found - native_solve(native, {"k": 10.0, "slow": 0.1}, fine)[0])).max()
    assert (off > 1e-3) == inside
    assert float(error[0]) >= 0.5 * off - 1e-12


def test_wrong_shapes_are_refused(toy):
    native, values, _, grid = toy
    with pytest.raises(Exception, match="wrong type or shape"):
        jax.block_until_ready(native_solve(native, values, grid._replace(rows=grid.rows[:, :, :-1])))
    with pytest.raises(Exception, match="wrong type or shape"):
        jax.block_until_ready(native_solve(native, values, grid._replace(tolerance=grid.tolerance[:-1])))


def test_self_test_passes(case, toy):
    assert self_test(case[0]) is None
    assert self_test(toy[0]) is None


def test_a_grid_covers_its_draws(toy):
    """At every set of values that the pilot saw, the embedded error is near the tolerance or below."""
    native, values, schedules, _ = toy
    rng = np.random.default_rng(1)
    draws = {name: np.asarray(value) * np.exp(0.5 * rng.normal(size=(8, 2))) for name, value in values.items()}
    grid = make_grid(native, values, solving.stack(schedules), Accuracy(1e-4, 1e-7), draws)
    for k in range(8):
        _, error = native_solve(native, {name: jnp.asarray(d[k]) for name, d in draws.items()}, grid)
        assert float(error.max()) < 5


FUNCTIONS = """
title = "functions"
description = "functions"
[parameters]
x = { unit = "1", value = 1, prior = "lognormal(median=1, sd=1)", source = "test" }
a = { unit = "1", value = 1.3, prior = "lognormal(median=1.3, sd=1)", source = "test" }
k = { unit = "1/day", value = 1, source = "test" }
[states.y]
unit = "1"
initial = "0"
rate = "k*(1 - y)"
"""


def test_functions_are_those_of_numpy():
    formulas = {"exp": "exp(x)", "log": "log(abs(x))", "power": "x**a", "expit": "expit(x)", "softplus": "softplus(x)",
                "log1p": "log1p(exp(x))", "tanh": "tanh(x)", "root": "sqrt(abs(x))", "cube": "x**3",
                "inverse": "x**(-2)"}
    text = FUNCTIONS + "".join(f'[observables.{name}]\nunit = "1"\nvalue = "{f}"\n' for name, f in formulas.items())
    native = compile_model(parse_model(text, "functions"), list(formulas))
    x = np.array([-700.0, -30.0, -2.0, -1e-3, 1e-300, 1e-8, 0.7, 1.0, 1.5, 30.0, 700.0])
    a = np.where(x < 0, 3.0, 1.3)
    schedules = [solving.plan(native.model, [], {}, [0.0, 1.0])] * len(x)
    values = {"x": jnp.asarray(x), "a": jnp.asarray(a), "k": 1.0}
    grid = make_grid(native, {"x": 1.0, "a": 1.3, "k": 1.0}, solving.stack(schedules), 4)
    with np.errstate(over="ignore"):
        expected = _function_values(x, a)
    observed = native_solve(native, values, grid)[0][:, 0]
    np.testing.assert_allclose(observed, np.where(np.isfinite(expected), expected, np.nan), rtol=1e-13)


def _function_values(x, a):
    return np.stack([np.exp(x), np.log(np.abs(x)), x**a, 1 / (1 + np.exp(-x)), np.logaddexp(0, x),
                     np.log1p(np.exp(x)), np.tanh(x), np.sqrt(np.abs(x)), x**3, x**-2.0], axis=1)


def test_a_spoilt_cache_entry_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = FUNCTIONS + '[observables.y]\nunit = "1"\nvalue = "y*x + 0.125"\n'
    native = compile_model(parse_model(text, "functions"), ["y"])
    [file] = (tmp_path / "thymodel").glob("*.o")
    good = file.read_bytes()
    file.write_bytes(good[:-100] + b"x" * 100)
    from thymodel.dynamics.kernel import native as module

    monkeypatch.setattr(module, "_engines", {})
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *_, **__: None)
    compile_model(native.model, ["y"])
    assert file.read_bytes() == good


# --- a second, denser table ----------------------------------------------------------------------------------------


def test_a_poor_step_is_taken_again_with_the_denser_steps_and_so_is_its_slope(toy):
    native, values, schedules, grid = toy
    coarse = make_grid(native, values, solving.stack(schedules), 12)
    both = with_dense(coarse, grid, 0.0)  # every step is poor: the dense table alone must count
    np.testing.assert_array_equal(native_solve(native, values, both)[0], native_solve(native, values, grid)[0])
    slopes, expected = jax.grad(_loss(native, both))(values), jax.grad(_loss(native, grid))(values)
    for name in values:
        np.testing.assert_array_equal(slopes[name], expected[name], err_msg=name)


def test_good_steps_are_not_taken_again(toy):
    native, values, schedules, grid = toy
    coarse = make_grid(native, values, solving.stack(schedules), 12)
    both = with_dense(coarse, grid, 1e9)
    np.testing.assert_array_equal(native_solve(native, values, both)[0], native_solve(native, values, coarse)[0])
    assert not np.array_equal(native_solve(native, values, both)[0], native_solve(native, values, grid)[0])


def test_halving_the_steps_of_a_coarse_grid_brings_it_closer(case):
    native, values, schedules, grid = case
    coarse = make_grid(native, values, solving.stack(schedules), 20)
    exact = np.asarray(native_solve(native, values, grid)[0])
    far, near = (np.abs(np.asarray(native_solve(native, values, g)[0]) - exact).max() for g in (coarse, halved(coarse)))
    assert near < 0.3 * far  # a sixteenth where the order is seen


def test_fixed_parameters_give_the_same_values_and_no_slope(toy):
    native, values, _, grid = toy
    numbers = {name: float(values[name][0]) for name in ("m",)}
    same = {**values, "m": jnp.full(2, numbers["m"])}
    fixed = compile_model(native.model, native.observables, numbers)
    np.testing.assert_allclose(native_solve(fixed, same, grid)[0], native_solve(native, same, grid)[0], rtol=1e-12)
    slopes, expected = jax.grad(_loss(fixed, grid))(same), jax.grad(_loss(native, grid))(same)
    np.testing.assert_allclose(slopes["k"], expected["k"], rtol=1e-9)
    assert np.all(np.asarray(slopes["m"]) == 0.0) and np.all(np.asarray(expected["m"]) != 0.0)


def test_events_inside_a_compiled_loop_are_counted():
    counter, other = make_counter(), make_counter()

    @jax.jit
    def climb(x, cell):
        return jax.lax.fori_loop(0, 10, lambda _, y: counter.add(y, y > 4.5, cell) + 1.0, x)

    assert float(climb(0.0, counter.cell)) == 10.0
    assert (counter.read(), other.read()) == (5, 0)
