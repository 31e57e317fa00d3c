"""Endpoints as files state them: presets, landmarks, visits; arms to compare and doses to draw a curve through."""

from pathlib import Path

import pytest

from thymodel.documents.endpoint import PRESETS
from thymodel.documents.model import load_model
from thymodel.documents.spec import load_fit_spec, load_scenario_spec
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-END-03")

BAD = Path(__file__).resolve().parents[1] / "bad"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "scenarios.md"
ARMS = '[arms.control]\n[arms.four]\ndoses = [{ amount = 4, day = 7 }]\n'
THREE = ARMS + "[arms.nine]\ndoses = [{ amount = 9, day = 7 }]\n"
CD4 = '[endpoints.e]\nmarker = "cd4"\nthreshold = 200\nunit = "cell/uL"\nhorizon = 365\n'


@pytest.fixture(scope="module")
def core():
    return load_model("thymus_core")


@pytest.fixture
def scenario(tmp_path, core):
    def write(text: str):
        (tmp_path / "s.toml").write_text('title = "s"\n' + text, encoding="utf-8")
        return load_scenario_spec(tmp_path / "s.toml", core)

    return write


def places(caught) -> set[str]:
    return {fault.where.partition(": ")[2] for fault in caught.value.faults}


# --- presets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_an_endpoint_with_its_source_and_state(scenario, name):
    endpoint = scenario(f'{ARMS}[endpoints.e]\npreset = "{name}"\n').endpoints["e"]
    preset = PRESETS[name]
    assert (endpoint.marker, endpoint.threshold) == (preset.values["marker"], preset.values["threshold"])
    assert preset.source in endpoint.source and ("[verified" in endpoint.source) == preset.verified
    assert preset.assumed in endpoint.source
    assert endpoint.by == ((endpoint.horizon,) if endpoint.landmark else tuple(preset.values["by"]))


@pytest.mark.parametrize("name", PRESETS)
def test_the_documentation_lists_each_preset_with_its_numbers(name):
    row = next(line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}`"))
    preset = PRESETS[name]
    assert f"{preset.values['threshold']:g}/uL" in row and preset.population in row
    assert ("| verified" in row) == preset.verified and (preset.assumed in row)


def test_the_published_rules_are_what_was_published():
    """The adult cut-points are landmarks, each by itself; the paediatric rule asks for two visits within 100 days."""
    twice, early, late = (PRESETS[name].values for name in ("cd4_50_twice", "cd4_104_day100", "cd4_115_day180"))
    assert (twice["threshold"], twice["consecutive_visits"], twice["horizon"]) == (50, 2, 100)
    assert (early["threshold"], early["horizon"], early["landmark"]) == (104, 100, True)
    assert (late["threshold"], late["horizon"], late["landmark"]) == (115, 180, True)


def test_what_a_definition_leaves_open_may_be_said(scenario):
    text = f'{ARMS}[endpoints.e]\npreset = "cd4_50_twice"\nhorizon = 365\nby = [100, 180]\nvisits = [30, 60, 90]\n'
    endpoint = scenario(text).endpoints["e"]
    assert (endpoint.horizon, endpoint.by, endpoint.visits, endpoint.consecutive) == (365, (100, 180), (30, 60, 90), 2)


def test_an_unknown_preset_comes_with_the_closest(scenario):
    said = "no preset 'cd4_104_day10'; did you mean 'cd4_104_day100'.*one of: "
    with pytest.raises(InputError, match=said) as caught:
        scenario(f'{ARMS}[endpoints.e]\npreset = "cd4_104_day10"\n')
    assert places(caught) == {"endpoints.e.preset"}


def test_a_fit_spec_takes_presets(tiny_study, tmp_path):
    text = (tiny_study / "spec.toml").read_text(encoding="utf-8")
    (tmp_path / "decay.toml").write_text((tiny_study / "decay.toml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "spec.toml").write_text(text + '[endpoints.adult]\npreset = "cd4_104_day100"\nmarker = "count"\n')
    found = load_fit_spec(tmp_path).endpoints["adult"]
    assert (found.threshold, found.landmark, found.marker) == (104.0, True, "count")
    (tmp_path / "spec.toml").write_text(text + '[endpoints.adult]\npreset = "cd4_104_day100"\n')
    with pytest.raises(InputError, match=r"endpoints\.adult\.marker: the model has no observable 'cd4'"):
        load_fit_spec(tmp_path)


# --- visits --------------------------------------------------------------------------------------------------


def test_visits_of_the_scenario_are_of_each_endpoint_that_names_none(scenario):
    text = "visits = [30, 60, 100, 200]\n" + ARMS + CD4 + CD4.replace(".e]", ".own]") + "visits = [50]\n" + \
        CD4.replace(".e]", ".none]") + "visits = []\n" + '[endpoints.early]\npreset = "cd4_50_twice"\n'
    found = {name: endpoint.visits for name, endpoint in scenario(text).endpoints.items()}
    assert found == {"e": (30, 60, 100, 200), "own": (50,), "none": (), "early": (30, 60, 100)}


def test_endpoints_of_the_fit_are_measured_on_the_days_of_the_scenario(tmp_path, core, scenario):
    of_fit = scenario(ARMS + CD4 + "sustained_for = 14\n").endpoints
    (tmp_path / "t.toml").write_text('title = "t"\nvisits = [30, 60]\n' + ARMS)
    assert load_scenario_spec(tmp_path / "t.toml", core, of_fit).endpoints["e"].visits == (30, 60)
    (tmp_path / "t.toml").write_text('title = "t"\nvisits = [30]\n' + ARMS)
    with pytest.raises(InputError, match=r"visits \(e\): 1 from day 0 to day 365, where the endpoint takes 2"):
        load_scenario_spec(tmp_path / "t.toml", core, of_fit)


def test_what_must_be_sustained_takes_two_visits_as_far_apart(scenario):
    found = scenario(ARMS + CD4 + "sustained_for = 14\n").endpoints["e"]
    assert (found.consecutive, found.apart) == (2, 14.0)


def test_every_fault_of_a_bad_scenario_is_named(core):
    with pytest.raises(InputError) as caught:
        load_scenario_spec(BAD / "scenario_visits.toml", core)
    assert places(caught) == {
        "reference", "visits", "horizon", "arms.cells.doses.0", "arms.late", "endpoints.unknown.preset",
        "endpoints.changed.threshold", "endpoints.changed.horizon", "endpoints.on_day.visits", "endpoints.once.visits",
        "endpoints.near.visits", "endpoints.single.visits_apart", "endpoints.marked.by"}
    text = str(caught.value)
    for said in ("no arm 'contol'; did you mean 'control'?", "day 60 comes after day 100", "write the days in",
                 "day -500 lies before the model's start", "if 4e+06 was meant in cells/kg, write 4",
                 "its first dose, on day 120, is not before the horizon of endpoint twice, day 100",
                 "no preset 'cd4_50_twcie'; did you mean 'cd4_50_twice'?", "no visit on day 180",
                 "1 from day 0 to day 365, where the endpoint takes 2", "span 7 days, and the endpoint takes 14"):
        assert said in text, said


# --- arms ----------------------------------------------------------------------------------------------------


def test_a_reference_needs_another_arm(scenario):
    with pytest.raises(InputError, match="reference: no other arm to compare it with"):
        scenario('reference = "control"\n[arms.control]\n' + CD4)


def test_the_dose_of_an_arm_is_its_amounts_in_all(scenario):
    split = "doses = [{{ amount = {0}, day = 7 }}, {{ amount = {0}, day = 14 }}]\n"
    found = scenario("[dose_response]\ntarget = 0.8\n[arms.b]\n" + split.format(4) + "[arms.a]\n[arms.c]\n"
                     + split.format(1) + CD4).dose_range
    assert (found.input, found.unit, found.amounts, found.arms) == ("progenitors", "Mcell/kg", (0, 2, 8), (1, 2, 0))


@pytest.mark.parametrize("arms, said", [
    (ARMS, "2 arms, and a curve takes 3"),
    (ARMS + "[arms.other]\n", "arms control and other have the same dose, 0"),
    ("[arms.a]\n[arms.b]\n[arms.c]\n", "differ in the doses of no input"),
    (ARMS + "[arms.older]\ndoses = [{ amount = 9, day = 7 }]\ncovariates = { age = 60 }\n",
     "arms control and older differ in covariates"),
    (ARMS + "[arms.later]\ndoses = [{ amount = 9, day = 14 }]\n", "arms four and later differ in the days"),
    (ARMS + "[arms.split]\ndoses = [{ amount = 4, day = 7 }, { amount = 5, day = 14 }]\n",
     "arms four and split differ in the days")])
def test_a_curve_takes_arms_that_differ_in_one_dose_alone(scenario, arms, said):
    with pytest.raises(InputError, match=said) as caught:
        scenario("[dose_response]\n" + arms + CD4)
    assert places(caught) == {"dose_response"}
    assert scenario(arms + CD4).dose_range is None  # without the table nothing is asked of the arms


def test_a_target_is_a_probability(scenario):
    with pytest.raises(InputError, match=r"dose_response\.target"):
        scenario("[dose_response]\ntarget = 80\n" + THREE + CD4)
