"""`identify` from files: closed forms of a decay, products found out, designs and data, faults told."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from thymodel import cli
from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError
from thymodel.results.identifiability import as_json, expected, identify, load_plan, profile_all, warnings

pytestmark = pytest.mark.requirement("REQ-CHK-04")

MODEL = """
title = "Decay that is fed, and whose loss is written as a product"
description = "x = x0*exp(-a*b*t) + what a dose adds; the loss rate appears as a*b alone."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "test" }
a = { unit = "1/day", value = 0.2, prior = "lognormal(median=0.2, sd=0.4)", source = "test" }
b = { unit = "1", value = 0.5, prior = "lognormal(median=0.5, sd=0.8)", source = "test" }
unused = { unit = "1", value = 2, prior = "normal(mean=2, sd=1)", source = "test" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-a*b*x"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
unit = "cell/uL"
value = "x"
[observables.loss]
unit = "1/day"
value = "a + 0*b*a"
"""

SPEC = """
title = "Decay"
purpose = "test"
model = "decay.toml"
estimate = {estimate}
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", cells = "cell/uL" }}
{more}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.5)", source = "test" }} }}
[sampler]
seed = 1
[solver]
rtol = 1e-7
atol = 1e-8
"""

DESIGN = """
title = "Decay"
model = "decay.toml"
[error.count]
error = "lognormal"
parameters = {{ log_sd = 0.2 }}
{lloq}
[error.loss]
error = "lognormal"
parameters = {{ log_sd = 0.1 }}
[arms.all]
subjects = {subjects}
[visits]
days = [1, 5, 15]
"""

DAYS = np.array([1.0, 5.0, 15.0])
EFFECT = '[between_subject]\nx0 = { sd = "lognormal(median=0.3, sd=0.5)", source = "test" }'


def write(folder: Path, estimate=("x0", "a"), more="", lloq="", subjects=4, data="", design=True) -> Path:
    (folder / "decay.toml").write_text(MODEL)
    digest = hashlib.sha256(data.encode()).hexdigest()
    (folder / "spec.toml").write_text(SPEC.format(estimate=json.dumps(list(estimate)), digest=digest, more=more))
    if design:
        (folder / "design.toml").write_text(DESIGN.format(lloq=lloq, subjects=subjects))
    if data:
        (folder / "study.csv").write_text(data)
    return folder


def _directions() -> np.ndarray:
    """d log(x)/d coordinate of x0 and a at each visit: log x = log x0 - a*b*t."""
    return np.stack([np.full(3, 0.5), -0.2 * 0.5 * DAYS * 0.4], axis=1)


# the solver's steps, at a tolerance of 1e-7 times the kernel's factor of 100, decide the digits
SOLVER = 1e-4


def test_information_of_a_decay_is_that_of_its_straight_line(tmp_path):
    found = identify(write(tmp_path))
    wanted = 4 * _directions().T @ _directions() / 0.2**2
    np.testing.assert_allclose(found.typical[:2, :2], wanted, rtol=SOLVER)
    assert found.typical[2, 2] == pytest.approx(4 * 3 * 2 * 0.5**2, rel=1e-6)  # 2 n about log sigma, prior sd 0.5
    np.testing.assert_allclose(found.contraction[:2], np.sqrt(np.diag(np.linalg.inv(wanted + np.eye(2)))), rtol=SOLVER)


def test_random_effects_are_integrated_out_to_first_order(tmp_path):
    """The intercepts vary by 0.3: S' V**-1 S, and tr(V**-1 dV V**-1 dV)/2 for the two variances."""
    found = identify(write(tmp_path, more=EFFECT))
    v = 0.3**2 * np.ones((3, 3)) + 0.2**2 * np.eye(3)
    s, inverse = _directions(), np.linalg.inv(v)
    place = [found.names.index(name) for name in ("x0", "a", "omega_x0", "sigma_count")]
    information = found.typical[np.ix_(place, place)]
    np.testing.assert_allclose(information[:2, :2], 4 * s.T @ inverse @ s, rtol=SOLVER)
    turns = [2 * 0.3**2 * np.ones((3, 3)) * 0.5, 2 * 0.2**2 * np.eye(3) * 0.5]
    wanted = [[2 * np.trace(inverse @ one @ inverse @ other) for other in turns] for one in turns]
    np.testing.assert_allclose(information[2:, 2:], wanted, rtol=SOLVER)
    assert np.all(information[:2, 2:] == 0)


def test_a_product_is_found_out_and_named(tmp_path):
    found = identify(write(tmp_path, estimate=("x0", "a", "b")))
    assert warnings(found)[0] == "a, b: only a*b is learned"
    assert json.loads(as_json(found))["rank"] == 2


def test_a_parameter_that_no_prediction_has_is_named(tmp_path):
    found = identify(write(tmp_path, estimate=("x0", "a", "unused")))
    assert "nothing is learned about unused" in warnings(found)
    assert found.contraction[found.names.index("unused")] == pytest.approx(1.0)


def test_another_observable_tells_the_factors_apart(tmp_path):
    """`loss` is the factor a alone, measured three times in four subjects with a log-SD of 0.1, as the design says."""
    found = identify(write(tmp_path, estimate=("x0", "a", "b")))
    a = found.names.index("a")
    assert found.contraction[a] > 0.85 and found.additions["loss"][a] < 0.1
    assert found.additions["loss"][a] == pytest.approx(0.1 / 12**0.5 / 0.4, rel=0.05)


def test_an_added_visit_never_takes_away(tmp_path):
    found = identify(write(tmp_path))
    days = {what: with_it for what, with_it in found.additions.items() if what.startswith("visit")}
    assert set(days) == {"visit on day 2", "visit on day 9"}
    assert all(np.all(with_it <= found.contraction * (1 + 1e-9)) for with_it in days.values())


def test_censored_visits_carry_less(tmp_path):
    """At day 15 the count is 22: under a limit of 60 only the first two visits say much."""
    (tmp_path / "free").mkdir()
    free = identify(write(tmp_path / "free"))
    (tmp_path / "cut").mkdir()
    cut = identify(write(tmp_path / "cut", lloq="lloq = 60"))
    early = 4 * _directions()[:1].T @ _directions()[:1] / 0.2**2
    assert np.all(np.linalg.eigvalsh(free.typical[:2, :2] - cut.typical[:2, :2]) > 0)
    assert np.all(np.linalg.eigvalsh(cut.typical[:2, :2] - 0.99 * early) > -1e-9)


DATA = """ID,TIME,EVID,CMT,AMT,DVID,DV,CENS,MDV,ARM
1,1,0,.,.,count,92,0,0,one
1,5,0,.,.,count,61,0,0,one
1,15,0,.,.,count,60,1,0,one
2,1,0,.,.,count,70,0,0,one
2,5,0,.,.,count,65,0,0,one
2,15,0,.,.,count,60,1,0,one
"""


def test_data_and_a_design_of_the_same_visits_and_limit_are_one(tmp_path):
    for name in ("data", "design"):
        (tmp_path / name).mkdir()
    measured = identify(write(tmp_path / "data", data=DATA, design=False))
    planned = identify(write(tmp_path / "design", lloq="lloq = 60", subjects=2))
    np.testing.assert_allclose(measured.typical, planned.typical, rtol=1e-9)
    assert measured.source.endswith("study.csv") and planned.source.endswith("design.toml")


def test_arms_and_observables_add_up(tmp_path):
    """Twice the subjects, twice the information."""
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
    few, many = identify(write(tmp_path / "few")), identify(write(tmp_path / "many", subjects=8))
    np.testing.assert_allclose(2 * few.typical, many.typical, rtol=1e-9)


def test_the_profile_of_what_is_measured_is_bounded(tmp_path):
    spec = write(tmp_path, estimate=("x0", "a"), data=DATA.replace("60,1", "20,0"))
    by_x0, by_a = profile_all(spec, ["x0", "a"])
    assert (by_x0.verdict, by_a.verdict) == ("bounded", "bounded")
    assert by_a.drop.max() == 0 and 0.15 < by_a.values[np.argmax(by_a.drop)] < 0.35


def test_the_profile_of_what_no_prediction_has_is_flat(tmp_path):
    (one,) = profile_all(write(tmp_path, estimate=("x0", "unused"), data=DATA), ["unused"])
    assert one.verdict == "flat" and np.ptp(one.drop) < 1e-3


def test_failed_draws_are_counted(tmp_path):
    found = expected(spec := load_fit_spec(write(tmp_path)), *load_plan(spec, None), draws=3)
    assert (found.asked, len(found.drawn)) == (3, 3)


# --- faults --------------------------------------------------------------------------------------------------


def _refused(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_neither_data_nor_design_is_told(tmp_path):
    assert "neither study.csv nor design.toml" in _refused(lambda: identify(write(tmp_path, design=False)))


def test_data_without_a_row_of_the_spec_are_told(tmp_path):
    data = "ID,TIME,EVID,CMT,AMT,DVID,DV,CENS,MDV,ARM\n1,1,0,.,.,loss,0.2,0,0,one\n"
    folder = write(tmp_path, data=data)
    text = (folder / "spec.toml").read_text().replace('count = "cell/uL", cells', 'loss = "1/day", cells')
    (folder / "spec.toml").write_text(text)
    assert "no row to learn from" in _refused(lambda: identify(folder))


def test_a_design_for_another_model_is_told(tmp_path):
    folder = write(tmp_path)
    (folder / "other.toml").write_text(MODEL.replace("Decay", "Other"))
    (folder / "design.toml").write_text(DESIGN.format(lloq="", subjects=2).replace("decay.toml", "other.toml"))
    assert "not for the model of" in _refused(lambda: identify(folder))


def test_a_design_that_lacks_an_observable_is_told(tmp_path):
    folder = write(tmp_path)
    text = (folder / "design.toml").read_text()
    (folder / "design.toml").write_text(text[:text.index("[error.count]")] + text[text.index("[error.loss]"):])
    assert "count is not measured" in _refused(lambda: identify(folder))


@pytest.mark.parametrize("words, told", [
    (["--profile", "nonsense"], "--profile nonsense: not a typical value"),
    (["--profile", "omega_x0"], "--profile omega_x0: not a typical value"),
    (["--data", "absent.csv"], "absent.csv: the study data are not there")])
def test_the_command_line_refuses_with_status_2(tmp_path, monkeypatch, capsys, words, told):
    folder = write(tmp_path, more=EFFECT)
    monkeypatch.setattr(sys, "argv", ["thymodel", "identify", str(folder), *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and told in err and "Traceback" not in err


def test_the_command_line_prints_warnings_tables_and_json(tmp_path, monkeypatch, capsys):
    folder = write(tmp_path, estimate=("x0", "a", "b"))
    for words in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["thymodel", "identify", str(folder), "--csv", str(tmp_path / "t.csv"),
                                          *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "warning: a, b: only a*b is learned" in text and "SD kept falls" in text
    parsed = json.loads(text[text.index("\n{\n"):])
    assert parsed["contraction"]["x0"] < 0.3 and set(parsed["additions"]) >= {"loss"}
    assert (tmp_path / "t.csv").read_text().startswith("name,prior,as planned,")
