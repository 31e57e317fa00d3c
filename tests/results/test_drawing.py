"""The drawing of the compartments: every state once, nothing on top of another, arrows as the rates say."""

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from thymodel.documents.model import load_model, shipped_models
from thymodel.results.drawing import schematic, svg

pytestmark = pytest.mark.requirement("REQ-MOD-06")


@pytest.fixture(scope="module", params=sorted(shipped_models()))
def model(request):
    return load_model(request.param)


def test_every_state_is_in_one_box(model):
    drawn = [state for box in schematic(model).boxes for state in box.states]
    assert sorted(drawn) == sorted(model.states)


def test_no_box_covers_another_and_none_leaves_the_page(model):
    drawing = schematic(model)
    for a, b in combinations(drawing.boxes, 2):
        apart = (a.x + a.wide <= b.x or b.x + b.wide <= a.x or a.y + a.high <= b.y or b.y + b.high <= a.y)
        assert apart, (a.states, b.states)
    for box in drawing.boxes:
        assert 0 <= box.x and box.x + box.wide <= drawing.wide and 0 <= box.y and box.y + box.high <= drawing.high


def test_the_drawing_is_xml_that_asks_for_nothing_outside(model):
    text = svg(model)
    root = ET.fromstring(text)
    assert root.tag.endswith("svg") and len(list(root.iter())) > 10
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and "href" not in text


def boxes_by_state(name: str):
    drawing = schematic(load_model(name))
    return drawing, {state: k for k, box in enumerate(drawing.boxes) for state in box.states}


def test_34_states_collapse_into_boxes_that_can_be_read():
    drawing, home = boxes_by_state("thymus_competition_dynamic")
    assert len(drawing.boxes) == 22
    assert drawing.boxes[home["D_i1"]].stages == 4 and home["D_i1"] == home["D_i4"]
    for pool in ("R4", "N4", "M4", "R8", "N8", "M8"):
        assert drawing.boxes[home[pool]].states == (pool, f"U_{pool}")


def test_the_thymic_chain_runs_left_to_right_and_the_blood_lies_below():
    drawing, home = boxes_by_state("thymus_competition_dynamic")
    for origin, seed in (("i", "P"), ("b", "B")):
        chain = [drawing.boxes[home[s]] for s in (seed, f"e_{origin}", f"D_{origin}1", f"DP_{origin}", f"S4_{origin}")]
        assert [box.x for box in chain] == sorted({box.x for box in chain})
        assert all(box.y < drawing.boxes[home["R4"]].y for box in chain)
    assert drawing.boxes[home["R4"]].x < drawing.boxes[home["N4"]].x < drawing.boxes[home["M4"]].x


def test_arrows_are_the_flows():
    drawing, home = boxes_by_state("thymus_core")
    arrows = {(a.source, a.target) for a in drawing.arrows if not a.dashed}
    joined = [("P", "e"), ("e", "D1"), ("D1", "DP"), ("DP", "S4"), ("DP", "S8"), ("S4", "R4"), ("S8", "R8"),
              ("R4", "N4"),
              ("R4", "M4"), ("N4", "M4"), ("R8", "N8"), ("R8", "M8"), ("N8", "M8")]
    assert arrows == {(home[a], home[b]) for a, b in joined}


def test_doses_are_flags_where_they_add_and_boxes_where_they_multiply():
    drawing, home = boxes_by_state("thymus_full")
    assert drawing.inputs == (("progenitors", home["P"]), ("atg", home["C_atg"]))
    [ptcy] = [box for box in drawing.boxes if not box.states]
    assert "R4" in ptcy.notes[0] and "DP" not in ptcy.notes[0]
