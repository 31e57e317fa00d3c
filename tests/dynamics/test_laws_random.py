"""The qualification script at a few random sets: do the laws hold, and would they be missed if they did not?"""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.requirement("REQ-MOD-05")

SEED = 3
MODELS = pytest.mark.parametrize("name", ["homing_wave", "thymus_core", "thymus_full", "thymus_competition"])
# one planted fault of a kind of law that costs little: closed form, balance, dose arms, sign, two runs compared
FEW = ("transit chain", "all that seeds leaves", "wave", "before the dose", "two halves")


def _broken(laws, sets, slow: bool) -> dict[str, float]:
    found = {law.name: (law, law.violation(sets)) for law in laws.LAWS
             if sets.model.name in law.models and not law.why
             and law.slow in (False, slow) and sets.kind in law.solvers}
    assert found
    return {name: np.max(worst) for name, (law, worst) in found.items() if laws.breaks(law, worst)}


@MODELS
def test_laws_hold_at_random_sets(name, laws):
    assert _broken(laws, laws.make_sets(name, SEED, 4, "native"), slow=False) == {}


@pytest.mark.slow
@MODELS
@pytest.mark.parametrize("kind", ["native", "jax"])
def test_all_laws_hold_at_more_random_sets(kind, name, laws):
    assert _broken(laws, laws.make_sets(name, SEED, 20, kind), slow=True) == {}


def _missed(laws, controls) -> list[str]:
    return [f"{control.model}: {name}" for control in controls
            for name, sets in laws.found_out(control, SEED, 4, "native").items() if not sets]


def test_planted_faults_are_found(laws):
    controls = [control for control in laws.CONTROLS if control.laws[0] in FEW]
    assert len(controls) == len(FEW) and _missed(laws, controls) == []


@pytest.mark.slow
def test_every_planted_fault_is_found(laws):
    assert _missed(laws, laws.CONTROLS) == []


def test_every_law_that_must_hold_has_a_planted_fault(laws):
    starts = tuple(start for control in laws.CONTROLS for start in control.laws)
    assert [law.name for law in laws.LAWS if not law.why and not law.name.startswith(starts)] == []


def test_what_cannot_be_computed_breaks_every_law(laws):
    assert all(laws.breaks(law, np.array([0.0, np.nan])) == 1 for law in laws.LAWS)


def test_sets_in_which_endogenous_progenitors_cannot_seed_are_outside_the_domain(laws):
    model = laws.load_model("thymus_competition")
    k_e, most = 0.1, 1 / (1 - model.parameters["e_ref"].value)
    inside, outside = ({"k_e": k_e, "r_e": k_e * most * part} for part in (0.99, 1.01))
    assert laws.in_domain(model, inside) and not laws.in_domain(model, outside)
    assert laws.in_domain(laws.load_model("thymus_full"), outside)  # there they are prescribed


def test_a_finished_part_is_not_asked_again(laws, tmp_path):
    path = laws.part_of(tmp_path, "part")
    laws.finish(path, lambda: [1])
    laws.finish(path, lambda: pytest.fail("asked again"))
    assert json.loads(path.read_text())["found"] == [1]
