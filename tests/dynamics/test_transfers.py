"""What feeds what: read off the rates of models whose arrows are known."""

import pytest

from thymodel.documents.model import load_model, parse_model
from thymodel.dynamics.transfers import chains, flows

HEAD = 'title = "t"\ndescription = "d"\n[parameters]\n' + "".join(
    f'{name} = {{ unit = "1/day", value = 0.1, source = "test" }}\n' for name in "klm") + (
    'h = { unit = "1", value = 2, source = "test" }\n')
TAIL = '[observables.y]\nunit = "cell"\nvalue = "A"\n'


def state(name: str, rate: str, unit: str = "cell") -> str:
    return f'[states.{name}]\nunit = "{unit}"\ninitial = "0"\nrate = "{rate}"\n'


def found(*states: str, expressions: str = ""):
    return flows(parse_model(HEAD + expressions + "".join(states) + TAIL, "m.toml"))


def test_what_leaves_one_pool_and_enters_another_flows():
    assert found(state("A", "-k*A"), state("B", "k*A - l*B")).flows == (("A", "B"),)


def test_a_flow_is_found_through_named_expressions_and_brackets():
    named = '[expressions]\nout = "k*(A + C)"\n'
    result = found(state("A", "-k*A"), state("C", "-k*C"), state("B", "h*out - l*B"), expressions=named)
    assert result.flows == (("A", "B"), ("C", "B"))


def test_growth_of_its_own_and_a_constant_source_are_no_flows():
    assert found(state("A", "k*A*(1 - A/(A + B)) - l*A"), state("B", "-l*B")).flows == ()


def test_what_sets_the_pace_of_a_flow_is_an_influence():
    result = found(state("A", "-k*S*A"), state("B", "k*S*A - l*B"), state("S", "l*(1 - S)", "1"))
    assert result.flows == (("A", "B"),)
    assert result.influences == (("S", "A"), ("S", "B"))


def test_a_level_that_is_followed_is_sensed():
    result = found(state("A", "-k*A"), state("F", "k*(A - F)"))
    assert result.flows == (("A", "F"),)  # as many as leave A: cells
    text = '[expressions]\nlevel = "h*A/B"\n'
    sensed = found(state("A", "-k*A"), state("B", "k*A - l*B"), state("F", "l*(level - F)", "1"), expressions=text)
    assert ("B", "F") in sensed.influences


def test_a_sum_of_successive_stages_in_another_unit_is_sensed():
    text = ('[constants]\nunit_cell = { unit = "cell", value = 1, source = "test" }\n'
            '[expressions]\nall_of = "(A + B)/unit_cell"\n')
    result = found(state("A", "-k*A"), state("B", "k*A - l*B"), state("S", "l*all_of - m*S", "1"), expressions=text)
    assert result.flows == (("A", "B"),)
    assert {("A", "S"), ("B", "S")} <= set(result.influences)


def test_infection_takes_from_target_cells_and_virus_sets_its_pace():
    text = ('[constants]\nv0 = { unit = "copy", value = 1, source = "test" }\n'
            'c0 = { unit = "cell", value = 1, source = "test" }\n')
    result = found(state("A", "-k*A*V/v0"), state("I", "k*A*V/v0 - l*I"), state("V", "m*v0*I/c0 - l*V", "copy"),
                   expressions=text)
    assert result.flows == (("A", "I"), ("I", "V"))
    assert result.influences == (("V", "A"), ("V", "I"))


@pytest.mark.parametrize("name", ["thymus_competition", "thymus_competition_dynamic", "thymus_mouse"])
def test_both_lineages_flow_to_the_blood_and_end_as_memory(name):
    result = set(flows(load_model(name)).flows)
    for origin, seed in (("i", "P"), ("b", "B")):
        path = [seed, f"e_{origin}", f"D_{origin}1", f"D_{origin}2", f"D_{origin}3", f"D_{origin}4", f"DP_{origin}",
                f"S4_{origin}", "R4", "N4", "M4"]
        assert set(zip(path, path[1:], strict=False)) <= result
        assert (f"S8_{origin}", "R4") not in result
    assert not any("S" in pair or "il7" in pair or "C_atg" in pair for pair in result)


def test_chains_are_found_where_stages_are_alike():
    assert [(c.stem, len(c.members)) for c in chains(load_model("thymus_competition"))] == [("D_i", 4), ("D_b", 4)]
    assert [(c.stem, len(c.members)) for c in chains(load_model("homing_wave"))] == [("Z", 8)]
    unlike = HEAD + state("A1", "-k*A1") + state("A2", "k*A1 - l*A2") + state("A3", "l*A2 - m*A3")
    assert chains(parse_model(unlike + TAIL.replace('"A"', '"A1"'), "m.toml")) == []
