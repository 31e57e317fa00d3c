"""What is said of a key or a value that a document cannot have."""

import pytest

from thymodel.documents.analysis_plan import PlanDocument
from thymodel.documents.model import ModelDocument
from thymodel.documents.spec import FitDocument, ScenarioDocument
from thymodel.documents.toml import parse_document
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-MOD-03")


@pytest.mark.parametrize("schema, text, told", [
    (FitDocument, "[smapler]", "smapler: unknown key. hint: did you mean sampler?"),
    (FitDocument, "[sampler]\nwarmpu = 1", "sampler.warmpu: unknown key. hint: did you mean warmup?"),
    (FitDocument, '[between_subject.k]\nscael = "log"', "k.scael: unknown key. hint: did you mean scale?"),
    (ModelDocument, '[parameters.k]\nprio = "x"', "parameters.k.prio: unknown key. hint: did you mean prior?"),
    (ScenarioDocument, "[arms.a]\ndoses = [{ amuont = 1 }]", "doses.0.amuont: unknown key. hint: did you mean amount?"),
    (PlanDocument, '[criteria.a]\nkind = "gates"\nr_hat = 1', "a.r_hat: unknown key. hint: did you mean rhat?"),
    (PlanDocument, '[criteria.a]\nkind = "gates"\nzzz = 1', "a.zzz: unknown key. hint: check the spelling"),
], ids=lambda value: None if isinstance(value, type) else value[:24])
def test_an_unknown_key_is_answered_with_the_nearest_of_its_own_table(schema, text, told):
    with pytest.raises(InputError) as refused:
        parse_document(text, schema, "x.toml")
    assert told in str(refused.value)


def test_a_key_of_another_kind_of_table_is_not_proposed():
    """`at_least` is of a criterion about a probability; one about gates has nothing like it."""
    with pytest.raises(InputError) as refused:
        parse_document('[criteria.a]\nkind = "gates"\nat_leas = 1', PlanDocument, "x.toml")
    assert "a.at_leas: unknown key" in str(refused.value) and "at_least" not in str(refused.value)


def test_a_digest_that_is_none_is_told_how_to_find_it():
    with pytest.raises(InputError) as refused:
        parse_document('[data]\nfile = "x.csv"\nsha256 = ""\nunits = {}', FitDocument, "x.toml")
    assert "data.sha256: " in str(refused.value) and "of zeros, the check says what the file has" in str(refused.value)
