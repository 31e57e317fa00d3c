"""Competing risks as written: every fault with its key path, and published hazard ratios only where asked for."""

import math
from pathlib import Path

import pytest

from thymodel.documents.model import load_model
from thymodel.documents.risks import hazard_ratios
from thymodel.documents.spec import load_scenario_spec
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-END-05")

BAD = Path(__file__).parents[1] / "bad"
DOCS = Path(__file__).parents[2] / "docs" / "competing_risks.md"
HAZARD = 'hazard = [{ from_day = 0, per_day = 0.001, source = "made up" }]\n'


def _risk(tmp_path, link: str):
    path = tmp_path / "s.toml"
    path.write_text(f'title = "one risk"\n[arms.a]\n[competing.death]\n{HAZARD}{link}', encoding="utf-8")
    return load_scenario_spec(path, load_model("thymus_core")).competing["death"]


def test_every_fault_of_bad_hazards_is_named():
    with pytest.raises(InputError) as caught:
        load_scenario_spec(BAD / "competing.toml", load_model(BAD / "decay.toml"))
    found = {fault.where.partition(": competing.")[2] for fault in caught.value.faults}
    assert found == {
        "empty.hazard", "death.hazard.0.per_day", "death.hazard.2.from_day", "death.link.preset",
        "early.hazard.0.from_day", "early.link.marker", "relapse.link.below", "relapse.link.reference",
        "relapse.link.marker",  # what the preset looks at is not in this model
        "gvhd.link", "gvhd.link.source", "gvhd.link.hazard_ratio", "gvhd.link.unit"}
    text = str(caught.value)
    assert "no hazard ratio 'nrm_cd4_below_5'; did you mean 'nrm_cd4_below_50'" in text
    assert "-0.001 is negative" in text and "day 30 does not come after day 100" in text
    assert "no observable 'cd5'" in text


def test_a_hazard_without_a_source_is_refused(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('title = "x"\n[arms.a]\n[competing.death]\nhazard = [{ from_day = 0, per_day = 0.1 }]\n')
    with pytest.raises(InputError, match=r"competing\.death\.hazard\.0\.source: missing"):
        load_scenario_spec(path, load_model("thymus_core"))


def test_no_published_ratio_is_in_force_unless_it_is_named(tmp_path):
    assert _risk(tmp_path, "").link is None
    link = _risk(tmp_path, 'link = { preset = "nrm_cd4_below_50" }').link
    assert (link.marker, link.below) == ("cd4", 50.0)
    assert math.exp(link.log_ratio) == pytest.approx(6.58) and "van Roessel 2020" in link.source


def test_a_ratio_per_logarithm_needs_the_count_at_which_the_hazard_holds(tmp_path):
    link = _risk(tmp_path, 'link = { preset = "relapse_per_log_cd4", reference = 100 }').link
    assert (link.below, link.reference, link.lowest) == (None, 100.0, 0.5)
    with pytest.raises(InputError, match=r"competing\.death\.link\.reference: missing.*say at which cd4"):
        _risk(tmp_path, 'link = { preset = "relapse_per_log_cd4" }')


def test_a_threshold_is_in_the_unit_of_the_observable(tmp_path):
    own = 'link = {{ marker = "cd4", unit = "{}", below = {}, hazard_ratio = 2, source = "made up" }}'
    assert _risk(tmp_path, own.format("cell/mL", 50_000)).link.below == pytest.approx(50)


@pytest.mark.parametrize("name", hazard_ratios())
def test_a_published_ratio_lies_in_its_interval_and_on_the_page(name):
    item = hazard_ratios()[name]
    assert item.lower < item.hazard_ratio < item.upper
    assert (item.below is None) != (item.lowest is None)
    line = next(line for line in DOCS.read_text(encoding="utf-8").splitlines() if f"`{name}`" in line)
    assert f"{item.hazard_ratio:g} ({item.lower:g} to {item.upper:g})" in line
