"""Which measurement informs which parameter of the model with two lineages: orderings of the printed table."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.requirement("REQ-CHK-04")

SCRIPT = Path(__file__).resolve().parents[2] / "qualification" / "identify_five_markers.py"
FIRST, NAIVE, RTE, TREC, CONTROLS = range(5)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("identify_five_markers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sds(script):
    return script.posterior_sds()


@pytest.fixture(scope="module")
def kept(sds) -> dict[str, np.ndarray]:
    """SD kept of the prior's, a number a column of the table."""
    return {name: np.array(row[1:]) / row[0] for name, row in sds.items()}


@pytest.fixture(scope="module")
def ties(script) -> list:
    from thymodel.results.identifiability import identify

    return [(*tie.names, tie.known) for tie in identify(script.STUDY).loose]


def test_total_counts_hardly_inform_homing_and_each_further_marker_does(kept):
    assert kept["eta"][FIRST] > 0.95
    assert np.all(-np.diff(kept["eta"][:CONTROLS]) > 0.05)


def test_controls_say_nothing_of_homing(kept):
    assert kept["eta"][CONTROLS] == pytest.approx(1.0, abs=1e-6)
    assert kept["k_c"][CONTROLS] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name, marker", [("mR", RTE), ("c_R", TREC), ("f_th", NAIVE), ("kcy_N", NAIVE)])
def test_one_marker_informs_it_more_than_all_others_together(kept, name, marker):
    falls = -np.diff(np.concatenate([[1.0], kept[name][:CONTROLS]]))
    assert falls[marker] > falls.sum() - falls[marker]


@pytest.mark.parametrize("name, marker", [("mR", RTE), ("c_R", TREC)])
def test_before_its_marker_a_parameter_keeps_its_prior(kept, name, marker):
    assert np.all(kept[name][:marker] > 0.99) and kept[name][marker] < 0.8


def test_homing_and_clearance_are_known_as_a_ratio_only(ties):
    assert ("eta", "k_c", (1.0, -1.0)) in ties


def test_conversion_and_clonal_burst_are_known_as_a_product_only(kept, ties):
    # of two equal priors whose product alone is known each keeps sqrt(1/2)
    assert np.all(np.abs(np.concatenate([kept["a0"][NAIVE:], kept["cb"][NAIVE:]]) - 0.5**0.5) < 0.1)
    assert ("a0", "cb", (1.0, 1.0)) in ties


@pytest.mark.parametrize("name", ["k_e", "tau_D", "k_P", "rho_S", "rho_X"])
def test_residence_times_and_epithelial_recovery_stay_near_their_priors(kept, name):
    assert kept[name][TREC] > 0.8  # a fifth is learned at most; the printed table has 0.85 for k_e, the least


def test_growth_of_memory_is_what_total_counts_know_best(kept):
    best = sorted(kept, key=lambda name: kept[name][FIRST])
    assert best[0] == "pM8" and "pM4" in best[:3]


def test_more_markers_never_know_less(kept):
    assert all(np.all(np.diff(row[:CONTROLS]) < 1e-9) for row in kept.values())


def test_the_order_of_all_cells_is_that_of_the_printed_table(script, sds):
    """A shuffled table has a rank correlation within 0.3; most cells are near 1 in both."""
    correlation, _ = script.agreement(sds)
    assert correlation > 0.9
