"""Which solver is in use, and what is said of it: diffrax takes over wherever the kernel must not be trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thymodel.documents.model import parse_model
from thymodel.dynamics import kernel, solving
from thymodel.errors import InputError

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
