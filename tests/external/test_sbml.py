"""Cases of the SBML Test Suite, read by `thymodel import sbml`: the published results, or a refusal that says why not.

Source: sbmlteam/sbml-test-suite v3.3.0, results and tolerances as published there.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.model import parse_model
from thymodel.documents.sbml import load_sbml
from thymodel.documents.toml import document_text
from thymodel.dynamics.solving import plan, trajectories
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-EXC-01")

pytest.importorskip("libsbml", reason="python-libsbml, which reads SBML, is not installed")

STATE = "event whose trigger is not a fixed time (state-triggered, or a compound condition) is not supported"
DELAY, PRIORITY = "event with delay is not supported", "event with priority is not supported"
REFUSED = {
    **dict.fromkeys("00172 00354 00362 00384 00621 00648 00654 00883 00946 00947 01094".split(), (STATE,)),
    **dict.fromkeys("00651 00701 00766 01074 01095".split(), (DELAY, STATE)), "00967": (PRIORITY, STATE),
}
CASES = tuple("""
    00024 00052 00058 00062 00076 00081 00085 00092 00104 00107 00110 00114 00117 00177 00178 00181 00250 00259 00262
    00266 00273 00301 00303 00306 00308 00330 00332 00476 00508 00528 00597 00600 00604 00640 00642 00688 00704 00711
    00721 00742 00854 00860 00869 00909 00913 00971 00975 00979 01008 01019 01025 01030 01041 01060 01081 01093 01111
    01228 01231 01307 01340 01342 01430 01493 01505 01640 01649 01734 01742 01762 01763 01765 01779 01800 01805 01807
    01812
""".split())
SECOND_OPINION = ("00024", "00104", "01093", "01228")  # by diffrax, which takes seconds to compile each


@pytest.fixture(scope="module")
def files(external) -> dict[str, Path]:
    return {path.name[:5]: path for path in sorted((external / "sbml").glob("*/*/*-sbml-*.xml"))}


def settings(file: Path) -> dict[str, str]:
    lines = file.with_name(f"{file.name[:5]}-settings.txt").read_text().splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines if line.strip())}


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def published(file: Path) -> dict[str, np.ndarray]:
    """Columns of the results file by name, the time first."""
    names, *rows = csv.reader(file.with_name(f"{file.name[:5]}-results.csv").read_text().split())
    return {name.strip(): np.array([float(row[k]) for row in rows]) for k, name in enumerate(names)}


def asked(reading, wanted: dict[str, str]) -> tuple[dict, dict[str, str]]:
    """Observables of the document and, by variable of the case, the one that is asked for."""
    observables, place = dict(reading.document["observables"]), {}
    for name in listed(wanted["variables"]):
        other = [f"{kind}_{name}" for kind in ("amount", "concentration") if name in listed(wanted[kind])]
        place[name] = next((o for o in other if o in observables), reading.names[name])
        observables.setdefault(place[name], {"unit": "1", "value": place[name]})  # a constant
    return observables, place


def agree(file: Path, kind: str) -> None:
    wanted, (times, *columns) = settings(file), published(file).items()
    reading = load_sbml(file)
    observables, place = asked(reading, wanted)
    model = parse_model(document_text(reading.document | {"observables": observables}), file.name)
    known = {name: item.value for name, item in model.parameters.items()}
    outputs = sorted(set(place.values()))
    found = trajectories(model, known, [plan(model, [], {}, times[1])], outputs, kind=kind)[0]
    assert [name for name, _ in columns] == listed(wanted["variables"])
    for name, values in columns:
        np.testing.assert_allclose(found[:, outputs.index(place[name])], values, err_msg=name,
                                   rtol=float(wanted["relative"]), atol=float(wanted["absolute"]))


def test_every_case_is_looked_at(files):
    assert sorted(files) == sorted([*CASES, *REFUSED])


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_published_ones(case, files):
    agree(files[case], "native")


@pytest.mark.parametrize("case", SECOND_OPINION)
def test_the_other_solver_agrees(case, files):
    agree(files[case], "jax")


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case, files):
    with pytest.raises(InputError) as caught:
        load_sbml(files[case])
    assert {fault.what for fault in caught.value.faults} == set(REFUSED[case])
    assert all("event " in fault.where for fault in caught.value.faults)
