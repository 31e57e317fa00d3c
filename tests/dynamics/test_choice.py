"""Which solver is in use, and what is said of it: diffrax takes over wherever the kernel must not be trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.documents.model import parse_model
from thymodel.dynamics import kernel, solving
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-NUM-04")

MODEL = """
title = "decay"
description = "decay"
[parameters]
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "test" }
[states.y]
unit = "1"
initial = "1"
rate = "-k*y"
[observables.y]
unit = "1"
value = "y"
"""
DAYS = (1.0, 10.0)
SOLVED = 1e-6  # `trajectories` keeps the local error at 1e-8


@pytest.fixture
def model(monkeypatch):
    """A model that no test has compiled yet, for what was tried is remembered."""
    monkeypatch.delenv("THYMODEL_SOLVER", raising=False)
    monkeypatch.setattr(solving, "_tested", {})
    return parse_model(MODEL, "decay")


def _prepared(model, kind=None):
    schedule = jax.tree.map(jnp.asarray, solving.stack([solving.plan(model, [], {}, DAYS)]))
    return solving.prepare(model, {"k": 0.1}, schedule, ["y"], kind=kind)


def _refuse(*_):
    raise RuntimeError("no such processor")


def _assert_solved_by_diffrax(model, solver) -> None:
    assert solver.kind == "jax" and solver.native is None
    found = solving.trajectories(model, {"k": 0.1}, [solving.plan(model, [], {}, DAYS)], ["y"])
    np.testing.assert_allclose(found[0, :, 0], np.exp(-0.1 * np.array(DAYS)), rtol=SOLVED)


def test_the_kernel_is_the_first_choice(model):
    solver = _prepared(model)
    assert (solver.kind, solver.why) == ("native", "native kernel")


def test_a_kernel_that_fails_its_test_is_not_used(model, monkeypatch):
    monkeypatch.setattr(kernel, "self_test", lambda native: "a value differs from numpy: 1.0 and 2.0")
    solver = _prepared(model)
    assert solver.why == "diffrax: the native kernel failed its test (a value differs from numpy: 1.0 and 2.0)"
    _assert_solved_by_diffrax(model, solver)


@pytest.mark.parametrize("stage", ["compile_model", "self_test"])
def test_a_kernel_that_cannot_be_made_is_not_used(stage, model, monkeypatch):
    monkeypatch.setattr(kernel, stage, _refuse)
    solver = _prepared(model)
    assert solver.why.startswith("diffrax: the native kernel") and "no such processor" in solver.why
    _assert_solved_by_diffrax(model, solver)


def test_wrong_machine_code_fails_its_test(model, monkeypatch, tmp_path):
    """Numbers a millionth off, as from a miscompiled step."""
    from thymodel.dynamics.kernel import check

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    right = check.run
    monkeypatch.setattr(check, "run", lambda *given: right(*given)._replace(observed=right(*given).observed * 1.000001))
    assert "a value differs from numpy" in _prepared(model).why


def test_the_environment_chooses_and_an_argument_overrules_it(model, monkeypatch):
    monkeypatch.setenv("THYMODEL_SOLVER", "jax")
    assert (_prepared(model).kind, _prepared(model).why) == ("jax", "diffrax, as asked")
    assert _prepared(model, "native").kind == "native"
    monkeypatch.setenv("THYMODEL_SOLVER", "cuda")
    with pytest.raises(InputError, match="THYMODEL_SOLVER: 'cuda'.*native or jax"):
        _prepared(model)


KINKED = MODEL.replace('"-k*y"', '"-k*max(y - 0.37, 0.1)"').replace('initial = "1"', 'initial = "y0"').replace(
    "[states.y]", 'y0 = { unit = "1", value = 1, source = "test" }\n[states.y]')


def test_a_subject_with_a_kink_is_solved_with_more_steps_and_sends_no_other_to_diffrax(model, monkeypatch):
    kinked = parse_model(KINKED, "kinked")
    starts = np.array([0.3, *np.linspace(0.5, 5.0, 30)])
    design = [solving.plan(kinked, [], {}, DAYS)] * len(starts)
    given = (kinked, {"k": 0.3, "y0": starts}, design, ["y"], solving.Accuracy(1e-10, 1e-13))
    monkeypatch.setattr(solving, "_adaptively", _refuse)
    found = solving.trajectories(*given)[:, :, 0]
    crossing = np.log(np.maximum((starts - 0.37) / 0.1, 1.0)) / 0.3  # from there on it falls along a straight line
    times = np.array(DAYS)[None]
    curved = 0.37 + (starts[:, None] - 0.37) * np.exp(-0.3 * times)
    straight = np.minimum(starts, 0.47)[:, None] - 0.03 * (times - crossing[:, None])
    np.testing.assert_allclose(found, np.where(times < crossing[:, None], curved, straight), rtol=SOLVED, atol=SOLVED)


def test_only_the_subjects_that_need_it_go_to_diffrax(model, monkeypatch):
    rates, sent = np.array([0.1, 0.2, 0.3, 0.4]), []
    laid, adaptively = solving._laid_for, solving._adaptively
    monkeypatch.setattr(solving, "_laid_for", lambda *given: (laid(*given)[0] * [[[1]], [[np.nan]], [[1]], [[np.nan]]],
                                                              np.array([True, False, True, False])))
    monkeypatch.setattr(solving, "_adaptively", lambda *given: sent.append(given[-1]) or adaptively(*given))
    found = solving.trajectories(model, {"k": rates}, [solving.plan(model, [], {}, DAYS)] * 4, ["y"], names="abcd")
    np.testing.assert_allclose(found[:, :, 0], np.exp(-rates[:, None] * np.array(DAYS)), rtol=SOLVED)
    assert sent == [["b", "d"]]
