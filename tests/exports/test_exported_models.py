"""Exported control streams and R functions say the same equations, doses and likelihood: read back, solved by SciPy."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from code_reader import ControlStream, RFunction, records
from exported import CASES, POOL, POOL_DATA, POOL_SPEC, ROOT, eta_of, subject_of, written
from scipy.stats import t as student
from typer.testing import CliRunner

from thymodel import cli
from thymodel.errors import InputError
from thymodel.inference.likelihood import log_likelihood
from thymodel.inference.population import error_name, subject_values
from thymodel.results.nonmem_export import _Stream, _student_cdf, control_stream, save_control_stream
from thymodel.results.population_export import data_text, load_population_model, on_scale
from thymodel.results.rxode_export import _Function, rxode_model, save_rxode_model
from thymodel.results.simulation import simulate

pytestmark = pytest.mark.requirement("REQ-EXC-02", "REQ-EXC-03")

SAME = 1e-6  # relative, of the largest value of an observable: our solver's tolerance is 1e-8



def our_course(found, number):
    """Of every measurement of one subject our prediction; random effects as `eta_of`."""
    subject, spec = found.data.subjects[number - 1], found.spec
    values = subject_values(spec, {k: jnp.asarray(v) for k, v in found.values.items()},
                            {name: jnp.asarray([eta]) for name, eta in eta_of(found).items()})
    times = sorted({o.time for o in subject.observations})
    own = {name: float(np.ravel(value)[0]) for name, value in values.items() if name not in found.model.chain_lengths}
    table = simulate(found.model, times, subject.doses, dict(subject.covariates), own, found.observables)
    place = {time: k for k, time in enumerate(times)}
    return [(o, float(table[o.observable].to_numpy()[place[o.time]])) for o in subject.observations]


@pytest.fixture(scope="module")
def courses(exports):
    return {name: our_course(found, subject_of(found)) for name, found in exports.items()}


def on_error_scale(found, observation, value):
    return on_scale(found.spec.likelihood[observation.observable], max(value, 0.0) if value < 0 else value)


def rows_of(text, number):
    return [row for row in records(text) if row["ID"] == number]


@pytest.mark.parametrize("name", CASES)
def test_a_control_stream_follows_the_same_course_with_the_same_likelihood(name, exports, courses):
    found, number = exports[name], subject_of(exports[name])
    stream = ControlStream(control_stream(found))
    etas = [eta_of(found)[key] for key in _Stream(found).etas]
    seen = stream.solve(rows_of(data_text(found, "nonmem", {}), number), etas)
    assert len(seen) == len(courses[name]) > 0
    for here, (observation, ours) in zip(seen, courses[name], strict=True):
        assert found.observables[int(here["DVID"]) - 1] == observation.observable
        scale = max(1.0, abs(on_error_scale(found, observation, ours)))
        assert here["IPRED"] == pytest.approx(on_error_scale(found, observation, ours), abs=SAME * scale)
        error = found.spec.likelihood[observation.observable]
        sigma = {key: jnp.asarray(found.values[error_name(error.observable, key)]) for key in error.parameters}
        expected = float(log_likelihood(error, sigma, jnp.asarray([ours]), jnp.asarray([observation.value]),
                                        jnp.asarray([observation.censoring]), jnp.asarray([observation.limit]))[0])
        if error.family in ("lognormal", "student_t") and observation.censoring == 0:
            expected += math.log(observation.value + error.offset)  # DV is on the log scale there
        assert log_of(here) == pytest.approx(expected, abs=1e-4)


def test_bounds_keep_their_digits(tmp_path):
    """With six digits the bounds would lie on the value that they hold, 0.6."""
    bounds = '[override.share]\nprior = "uniform(lower=0.59999998, upper=0.60000002)"\nreason = "made up"\n'
    spec = POOL_SPEC.replace('share = { sd = "halfnormal(sd=0.5)", scale = "logit", source = "made up" }\n', "")
    spec = spec.replace("[between_subject]", bounds + "[between_subject]")
    found = load_population_model(written(tmp_path, spec, POOL_DATA, POOL.replace(', x = "amount/2"', "")))
    assert "(0.59999998, 0.6, 0.60000002)  ; share" in control_stream(found)
    assert "tv_share <- c(0.59999998, 0.6, 0.60000002)" in rxode_model(found)


def log_of(here):
    """Log likelihood of one record, as NONMEM takes Y."""
    if here["F_FLAG"] == 0:
        z = (here["DV"] - here["Y"]) / here["W"]
        return -0.5 * z**2 - math.log(here["W"]) - 0.5 * math.log(2 * math.pi)
    return math.log(here["Y"]) if here["F_FLAG"] == 1 else -0.5 * here["Y"]


@pytest.mark.parametrize("name", [*CASES[:3], "one_factor"])
def test_an_r_function_follows_the_same_course(name, exports, courses):
    found, number = exports[name], subject_of(exports[name])
    function, names = RFunction(rxode_model(found)), _Function(found)
    etas = {names.etas[key]: value for key, value in eta_of(found).items()}
    seen = function.solve(rows_of(data_text(found, "r", {}), number), etas)
    assert len(seen) == len(courses[name]) > 0
    ours = sorted(courses[name], key=lambda pair: pair[0].time)
    for (row, prediction), (observation, value) in zip(seen, ours, strict=True):
        assert row["DVID"] == observation.observable
        scale = max(1.0, abs(on_error_scale(found, observation, value)))
        near = 1e-4 if any(dose.time == observation.time for dose in found.data.subjects[number - 1].doses) else SAME
        assert prediction == pytest.approx(on_error_scale(found, observation, value), abs=near * scale)


def test_two_bioavailabilities_in_one_state_are_refused_where_there_can_be_one(exports):
    with pytest.raises(InputError, match=r"inputs\.oral, inputs\.drip: different bioavailabilities in state x"):
        rxode_model(exports["pool"])


def test_values_of_a_record_are_its_posterior_medians(exports):
    found = exports["thymus_core"]
    stream, writer = ControlStream(control_stream(found)), _Stream(found)
    table = (ROOT / "fits" / "reset02_design" / "table.csv").read_text().splitlines()
    median = {line.split(",")[0]: float(line.split(",")[table[0].split(",").index("median")]) for line in table[1:]}
    for name in (*found.spec.estimate, *writer.errors):
        assert stream.thetas[[*writer.thetas, *writer.errors].index(name)] == median[name]
    assert [float(line.split()[0]) for line in stream.blocks["OMEGA"]] == [median[f"omega_{n}"]**2 for n in writer.etas]
    fixed = [line for line in stream.blocks["THETA"] if line.endswith("FIX")]
    assert len(fixed) == len(found.parameters) - len(found.spec.estimate)
    function = RFunction(rxode_model(found))
    assert math.exp(function.value("l_f_th")) == pytest.approx(median["f_th"], rel=1e-12)
    assert function.value("sigma_cd4") == median["sigma_cd4"]
    assert function.value("eta_f_th") == median["omega_f_th"]**2


def test_correlated_effects_have_their_covariance(exports):
    found = exports["one_factor"]
    own = {**found.values, "omega_k": 0.5, "omega_half": 0.25, "corr_k_half": -0.5}
    assert own.keys() == found.values.keys()
    stream = ControlStream(control_stream(replace(found, values=own)))
    rows = [line.partition(";")[0].split() for line in stream.blocks["OMEGA"]]
    assert ["0.25"] in rows and ["-0.0625", "0.0625"] in rows
    assert "eta_k + eta_half ~ c(0.25, -0.0625, 0.0625)" in rxode_model(replace(found, values=own))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9])
def test_the_closed_form_of_students_distribution(df):
    text = _student_cdf("Z", df).replace("SQRT", "math.sqrt").replace("ATAN", "math.atan")
    for z in (-6.0, -0.7, 0.0, 2.5):
        assert eval(text, {"math": math, "Z": z}) == pytest.approx(student.cdf(z, df), abs=1e-14)


def test_every_measurement_and_dose_is_in_both_data_files(exports):
    for found in exports.values():
        measured = sum(len(s.observations) for s in found.data.subjects)
        for language in ("nonmem", "r"):
            rows = records(data_text(found, language, {}))
            assert sum(row["EVID"] == 0 for row in rows) == measured
            for number, subject in enumerate(found.data.subjects, 1):
                own = [row for row in rows if row["ID"] == number]
                states = sum(len(found.model.inputs[dose.input].add) for dose in subject.doses)
                assert sum(row["EVID"] == 1 for row in own) == states
                assert [row["TIME"] for row in own] == sorted(row["TIME"] for row in own)
                assert own[0]["TIME"] == 0.0


@pytest.mark.parametrize(("language", "heading", "code"), [("nonmem", "LOWER", 2), ("r", "LIMIT", 1)])
def test_the_other_limit_of_an_interval_is_in_the_column_that_its_tool_reads(exports, language, heading, code):
    rows = records(data_text(exports["pool"], language, {}))
    assert [(row["DV"], row["CENS"]) for row in rows if row[heading] == 4.0] == [(9.0, code)]


def test_the_commands_write_files_and_write_over_none(tmp_path, exports):
    spec = str(exports["homing_wave"].spec.path)
    for command, kinds in (("nonmem", ".ctl .csv"), ("rxode2", ".R .csv")):
        out = tmp_path / command
        done = CliRunner().invoke(cli.app, ["export", command, spec, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert {path.suffix for path in out.iterdir()} == set(kinds.split())
        again = CliRunner().invoke(cli.app, ["export", command, spec, "--out", str(out)])
        assert isinstance(again.exception, InputError)
        assert "is there already" in str(again.exception)


def test_data_that_are_not_at_hand_are_left_out_and_said(tmp_path):
    found = load_population_model(ROOT / "fits" / "hsct_lymphocytes")
    if found.data is not None:
        pytest.skip("the data of this record are at hand here")
    [path] = save_control_stream(found, tmp_path)
    assert "the study data were not at hand" in path.read_text()
    [path] = save_rxode_model(found, tmp_path)
    assert "the study data were not at hand" in path.read_text()


def test_what_cannot_be_said_is_refused_by_name(tmp_path):
    with pytest.raises(InputError) as caught:
        load_population_model(ROOT / "fits" / "competition_design")
    assert [fault.where for fault in caught.value.faults] == ["thymus_competition: inputs.ptcy.multiply"]
    with pytest.raises(InputError, match="published figures only"):
        load_population_model(ROOT / "fits" / "published_controls")
    spec = POOL_SPEC.replace('error = "student_t"\ndf = 4\noffset = 0.5', 'error = "student_t"\ndf = 4.5').replace(
        "[likelihood.left]", '[dose_error]\noral = { sd = 0.1, source = "made up" }\n[likelihood.left]')
    moving = POOL.replace('"amount*share"', '"amount*share*x/half"')
    with pytest.raises(InputError) as caught:
        load_population_model(written(tmp_path, spec, POOL_DATA, moving))
    places = [fault.where.rpartition(": ")[2] for fault in caught.value.faults]
    assert places == ["dose_error.oral", "likelihood.made", "inputs.drip.add.y"]


def test_a_nonlinear_infusion_is_refused_with_its_subject(tmp_path):
    found = load_population_model(written(tmp_path, POOL_SPEC, POOL_DATA.replace("oral,50,.", "oral,50,5"), POOL))
    with pytest.raises(InputError, match="subject A, 50 oral at 0: an infusion of an input that is not linear"):
        data_text(found, "nonmem", {})
