"""What a notebook shows: short, with the banner of simulated data, and nothing of a file's text that could run."""

from dataclasses import replace

import pytest

from thymodel.documents.cards import MOST, card
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.results.checks import Checks
from thymodel.results.record import FitRecord
from thymodel.results.scenarios import run_scenario
from thymodel.results.study import load_study

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def things(tiny_fit, tmp_path_factory):
    """Everything that has a display, made from a fit whose title would run if it could."""
    path = tmp_path_factory.mktemp("cards") / "s.toml"
    path.write_text(f'title = "{HOSTILE}"\nsubjects = 8\ndraws = 8\n[arms."{HOSTILE}"]\n[arms.some]\n'
                    "doses = [{ amount = 100, day = 8 }]\n", encoding="utf-8")
    spec = tiny_fit.spec
    question = {"about": HOSTILE, "question": "how many", "p": 0.5, "departs": False}
    checks = Checks(tiny_fit, {"verdict": {"passed": True, "sentences": [HOSTILE]}, "questions": [question]})
    data = replace(load_study(spec, tiny_fit.folder / "study.csv")[0], name=HOSTILE)
    model = replace(spec.model, title=HOSTILE)
    return {"model": model, "data": data, "spec": spec, "record": tiny_fit, "scenario": run_scenario(tiny_fit, path),
            "checks": checks}


@pytest.mark.parametrize("name", ["model", "data", "spec", "record", "scenario", "checks"])
def test_a_display_is_short_and_lets_nothing_run(things, name):
    shown = things[name]._repr_html_()
    assert "<script" not in shown and "&lt;script&gt;" in shown
    assert len(shown) < 20_000 and shown.count("<tr>") <= MOST + 1
    assert shown.startswith("<div><p>") and shown.endswith("</div>")


@pytest.mark.parametrize("name", ["spec", "record", "scenario", "checks"])
def test_what_is_from_simulated_data_says_so_first(things, name):
    assert things[name]._repr_html_().startswith("<div><p><b>SIMULATED data.</b>")


def test_a_scenario_says_from_when_its_times_count_and_what_its_intervals_hold(things):
    scenario = things["scenario"]
    assert scenario.how_to_read in scenario._repr_html_() and "from day" not in scenario.how_to_read
    assert f"Intervals: {INTERVAL_NAME}, parameter uncertainty only" in scenario.how_to_read
    late = replace(scenario, endpoints={name: replace(one, clock_start=3) for name, one in scenario.endpoints.items()})
    assert all(f"{name} from day 3" in late.how_to_read for name in scenario.endpoints)


def test_a_model_and_data_do_not_pretend_to_know(things):
    assert "SIMULATED" not in things["model"]._repr_html_()
    assert "the spec that names them says" in things["data"]._repr_html_()
    assert "4 subjects" in things["data"]._repr_html_()


def test_a_failed_fit_is_shown_with_its_reservation(tiny_fit):
    content = dict(tiny_fit.content) | {"verdict": {"passed": False, "sentences": ["FAIL"]}}
    shown = FitRecord(tiny_fit.folder, content, tiny_fit.digest, tiny_fit.written)._repr_html_()
    assert "FAILED its gates: may not be quoted" in shown and "passed its gates" not in shown
    assert "passed its gates" in tiny_fit._repr_html_()


def test_a_long_table_says_how_much_is_left_out():
    shown = card("x", rows=[{"a": k} for k in range(MOST + 3)])
    assert "and 3 more rows" in shown and shown.count("<td>") == MOST
    assert "more rows" not in card("x", rows=[{"a": 1}]) and "<table>" not in card("x")
