"""Analysis plans: every fault with its key path, and what a good one says."""

import hashlib
from pathlib import Path

import pytest

from thymodel.documents.analysis_plan import load_plan
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-REP-04")

BAD = Path(__file__).resolve().parents[1] / "bad" / "plan.toml"
EXAMPLE = Path(__file__).resolve().parents[2] / "fits" / "reset02_design" / "plan.toml"


def faults(path: Path, text: str | None = None) -> list[str]:
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_plan(path)
    return [str(fault) for fault in caught.value.faults]


def keys(found: list[str], path: Path) -> set[str]:
    return {fault.removeprefix(f"{path}: ").split(": ")[0] for fault in found}


def test_keys_of_a_wrong_shape_are_all_named():
    assert keys(faults(BAD), BAD) == {"model_risk.level", "fit.colour"}


def test_every_fault_of_a_plan_of_the_right_shape_is_named(tmp_path):
    text = BAD.read_text(encoding="utf-8").replace('"medium"', '"M"').replace('colour = "red"\n', "")
    path = tmp_path / "plan.toml"
    assert keys(faults(path, text), path) == {
        "fit.data", "fit.estimate", "fit.endpoints.low.unit", "fit.priors.k", "fit.fixed.k", "criteria.none",
        "criteria.both", "criteria.shares.share_at_most", "criteria.side", "criteria.two words",
        "assumptions.typo.probed_by", "assumptions.unprobed.probed_by"}


def test_a_misspelt_sensitivity_analysis_is_suggested(tmp_path):
    text = BAD.read_text(encoding="utf-8").replace('"medium"', '"M"').replace('colour = "red"\n', "")
    assert any("did you mean 'wide'?" in fault for fault in faults(tmp_path / "plan.toml", text))


@pytest.mark.parametrize("old, new, expected", [
    ('kind            = "gates"', 'kind = "gate"', "criteria.sampling.kind: no such kind, 'gate'. hint: one of: gates"),
    ('kind            = "gates"', "", "criteria.sampling.kind: missing"),
    ("rhat            = 1.01", "rhat = -1", "criteria.sampling.rhat: input should be greater than 0"),
    ("rhat            = 1.01", "r_hat = 1.01", "criteria.sampling.r_hat: unknown key"),
    ('rationale       = "No single', 'reason = "No single', "criteria.one_patient.rationale: missing"),
    ("share_at_most   = 0.1", "share_at_most = 1.1", "criteria.one_patient.share_at_most: input should be less"),
    ('kind      = "structure"', 'kind = "hunch"', "assumptions.same_model.kind: input should be 'structure'")])
def test_a_key_of_a_criterion_is_named_without_its_kind(tmp_path, old, new, expected):
    text = EXAMPLE.read_text(encoding="utf-8")
    assert old in text
    assert any(fault.partition("plan.toml: ")[2].startswith(expected)
               for fault in faults(tmp_path / "plan.toml", text.replace(old, new, 1)))


@pytest.mark.parametrize("text", ["", "   \n", "criteria", "[criteria]\n[criteria]", "\x00", "title = 1979-05-27",
                                  "criteria = 3", "[fit]\npriors = [1]", "a = [" + "[" * 5000, "x" * 5_000_001])
def test_what_is_no_plan_is_bad_input(tmp_path, text):
    assert faults(tmp_path / "plan.toml", text)


def test_bytes_that_are_no_text_are_bad_input(tmp_path):
    (tmp_path / "plan.toml").write_bytes(b"\xff\xfe title")
    assert "not UTF-8" in faults(tmp_path / "plan.toml")[0]


def test_a_plan_without_criteria_is_none(tmp_path):
    text = EXAMPLE.read_text(encoding="utf-8")
    kept = text[:text.index("[criteria.sampling]")] + "[criteria]\n"
    assert keys(faults(tmp_path / "plan.toml", kept), tmp_path / "plan.toml") == {"criteria"}


def test_the_digest_is_that_of_the_file_also_with_other_line_ends(tmp_path):
    content = EXAMPLE.read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "plan.toml").write_bytes(content)
    assert load_plan(tmp_path / "plan.toml").digest == hashlib.sha256(content).hexdigest()


def test_ratings_that_a_plan_leaves_out_stay_out():
    document = load_plan(EXAMPLE).document
    assert (document.model_influence, document.consequence, document.model_risk, document.model_impact) == (None,) * 4
    assert len({criterion.kind for criterion in document.criteria.values()}) >= 8
