"""Cases of the SBML Test Suite, transcribed to plain equations, written as model documents.

Source: sbmlteam/sbml-test-suite v3.3.0, results and tolerances as published there. All cases stand side by side in one
document, each under its own prefix and in units of its own duration: compiling sixty models would take minutes.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.model import parse_model
from thymodel.dynamics.solving import plan, trajectories
from thymodel.errors import InputError

WITHOUT_STATES = ("01342", "01805", "01812")  # constants only: nothing to integrate, so not a model here
CASES = tuple("""
    00024 00058 00062 00076 00081 00085 00092 00107 00110 00114 00117 00177 00178 00181 00250 00266 00273 00301 00303
    00306 00308 00330 00332 00476 00508 00528 00597 00600 00604 00640 00642 00688 00704 00711 00721 00742 00854 00860
    00869 00975 01008 01019 01025 01030 01041 01060 01231 01307 01430 01493 01640 01649 01762 01763 01765 01800 01807
""".split())


@pytest.fixture(scope="module")
def files(external) -> dict[str, Path]:
    return {path.name[:5]: path for path in sorted((external / "sbml").glob("*/*/*-plain_ode.json"))}


@pytest.fixture(scope="module")
def solved(files, document, kind) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times as fractions of each case's duration, and every output of every case at them."""
    times = np.unique(np.concatenate([_times(_read(files[case])) for case in CASES]))
    model = parse_model(_text(document, "all cases", [_read(files[case]) for case in CASES]), "all cases")
    values = {key: item.value for key, item in model.parameters.items()}
    found = trajectories(model, values, [plan(model, [], {}, times)], list(model.observables), kind=kind)[0]
    return times, dict(zip(model.observables, found.T, strict=True))


def _read(path: Path) -> dict:
    """The transcription, its names under the prefix of the case and its time in units of the case's duration."""
    problem, prefix = json.loads(path.read_text()), f"c{path.name[:5]}_"
    known, end = {*problem["states"], *problem["constants"], *problem["assignments"]}, problem["t_end"]

    def renamed(text: str) -> str:
        return re.sub(r"(?<![\w.])[A-Za-z_]\w*", lambda match: name(match[0]), text)

    def name(word: str) -> str:
        return prefix + word if word in known else f"({end}*per_day*t)" if word == "t" else word

    problem["states"] = {prefix + key: f"{end}*({renamed(text)})" for key, text in problem["states"].items()}
    problem["assignments"] = {prefix + key: renamed(text) for key, text in problem["assignments"].items()}
    problem["outputs"] = {f"out_{prefix}{key}": renamed(text) for key, text in problem["outputs"].items()}
    for part in ("y0", "constants"):
        problem[part] = {prefix + key: value for key, value in problem[part].items()}
    return problem


def _times(problem: dict) -> np.ndarray:
    return np.arange(problem["n_steps"] + 1) / problem["n_steps"]


def _text(document, title: str, problems: list[dict]) -> str:
    def together(part: str) -> dict:
        return {key: value for problem in problems for key, value in problem[part].items()}

    return document(title, *[together(part) for part in ("states", "y0", "constants", "assignments", "outputs")])


def _published(path: Path) -> dict[str, np.ndarray]:
    """Output -> its values, row by row of the results file without the time column."""
    lines = path.with_name(path.name.replace("plain_ode.json", "results.csv")).read_text().split()
    names, *rows = csv.reader(lines)
    return {name: np.array([float(row[k]) for row in rows]) for k, name in enumerate(names) if name.lower() != "time"}


def test_every_transcription_is_looked_at(files):
    assert sorted(files) == sorted([*CASES, *WITHOUT_STATES])


@pytest.mark.parametrize("case", WITHOUT_STATES)
def test_a_case_without_states_is_refused(case, files, document):
    with pytest.raises(InputError, match="states: missing"):
        parse_model(_text(document, case, [_read(files[case])]), case)


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_published_ones(case, files, solved):
    problem, (times, curves) = _read(files[case]), solved
    at = np.searchsorted(times, _times(problem))
    for name, wanted in _published(files[case]).items():
        np.testing.assert_allclose(curves[f"out_c{case}_{name}"][at], wanted, err_msg=name,
                                   rtol=problem["rel_tol"], atol=problem["abs_tol"])
