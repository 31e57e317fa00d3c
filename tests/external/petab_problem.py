"""A reader of PEtab 1 problems: SBML model, conditions, observables, noise and data -> the log-likelihood.

It reads what the published problems of the tests need: one file of each kind, normal noise on the linear or a
logarithmic scale, pre-equilibration, of which the simulation's condition may set states anew.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from thymodel.documents import expressions as ex
from thymodel.documents.model import Model, parse_model
from thymodel.documents.sbml import Reading, read_sbml
from thymodel.documents.toml import document_text
from thymodel.dynamics.solving import plan, trajectories
from thymodel.dynamics.symbolic import evaluate

STEADY = 1e-8  # relative change over a doubling of the time that still counts as steady


@dataclass(frozen=True)
class Problem:
    """The tables of a PEtab problem and its model; `names`: SBML id -> observable of the model."""

    reading: Reading
    model: Model
    names: dict[str, str]
    nominal: dict[str, float]
    conditions: pd.DataFrame
    observables: pd.DataFrame
    measurements: pd.DataFrame


def load_problem(folder: Path) -> Problem:
    [text] = [text for file in folder.glob("*.yaml") if "problems:" in (text := file.read_text())]
    files = dict(re.findall(r"(\w+)_files?:\s*(?:-\s*)?(\S+)", text))
    table = {name: pd.read_csv(folder / files[name], sep="\t")
             for name in ("parameter", "condition", "observable", "measurement")}
    reading = read_sbml((folder / files["sbml"]).read_text(encoding="utf-8"), files["sbml"])
    names = {key: name for key, name in reading.names.items() if "." not in key}  # without local parameters
    shown = {name: {"unit": "1", "value": name} for name in names.values()}
    document = _settable(reading, names) | {"observables": shown}
    model = parse_model(document_text(document), files["sbml"])
    nominal = zip(table["parameter"]["parameterId"], table["parameter"]["nominalValue"].astype(float), strict=True)
    return Problem(reading, model, names, dict(nominal), table["condition"].set_index("conditionId"),
                   table["observable"].set_index("observableId"), table["measurement"])


def _settable(reading: Reading, names: Mapping[str, str]) -> dict:
    """The document, with two parameters more for each state whose start the file computes: conditions may set it."""
    found = {**reading.document, "states": dict(reading.document["states"]),
             "parameters": dict(reading.document["parameters"])}
    for key, name in names.items():
        if name in found["states"] and key not in reading.initial:
            state = found["states"][name]
            start = f"{name}_is_set*{name}_set + (1 - {name}_is_set)*({state['initial']})"
            found["states"][name] = {**state, "initial": start}
            found["parameters"] |= {f"{name}_{word}": {"unit": "1", "value": 0.0, "source": "a condition's"}
                                    for word in ("is_set", "set")}
    return found


def put(problem: Problem, key: str, value: float) -> dict[str, float]:
    """What gives an SBML id this value, at the start where it is a state."""
    if key in problem.reading.initial:
        return {problem.reading.initial[key]: value}
    name = problem.names[key]
    return {f"{name}_is_set": 1.0, f"{name}_set": value}


def values_under(problem: Problem, condition: str) -> dict[str, float]:
    """The model's parameters at the nominal point under a condition."""
    known = {name: item.value for name, item in problem.model.parameters.items()}
    row = problem.conditions.loc[condition].drop("conditionName", errors="ignore")
    given = problem.nominal | {key: number(problem, value) for key, value in row.items() if not pd.isna(value)}
    for key, value in given.items():
        known |= put(problem, key, value) if key in problem.names else {}
    return known


def number(problem: Problem, text) -> float:
    """A cell of a table: a number, or the name of an estimated parameter."""
    return problem.nominal[text] if text in problem.nominal else float(text)


def curves(problem: Problem, values: list[dict[str, float]], times: list[np.ndarray]) -> list[np.ndarray]:
    """Every quantity under several sets of values, each at its own times; one program for all."""
    stacked = {name: np.array([known[name] for known in values]) for name in values[0]}
    plans = [plan(problem.model, [], {}, list(days)) for days in times]
    found = trajectories(problem.model, stacked, plans, list(problem.names.values()))
    return [rows[:len(days)] for rows, days in zip(found, times, strict=True)]


def settled(problem: Problem, values: Mapping[str, float]) -> dict[str, float]:
    """States, by SBML id, when nothing changes any more under `values`: the time is doubled until then."""
    states = {key: k for k, (key, name) in enumerate(problem.names.items()) if name in problem.model.states}
    time = 1000.0
    while True:
        [(early, late)] = curves(problem, [dict(values)], [np.array([time, 2 * time])])
        if np.all(np.abs(late - early) <= STEADY * np.max(np.abs(late))):
            return {key: float(late[k]) for key, k in states.items()}
        assert time < 1e9, "no steady state"
        time *= 4


def starting(problem: Problem, row: pd.Series) -> dict[str, float]:
    """Parameters and initial values under the conditions of a row."""
    values = values_under(problem, row["simulationConditionId"])
    before = row.get("preequilibrationConditionId")
    if not isinstance(before, str):
        return values
    given = problem.conditions.loc[row["simulationConditionId"]].dropna().index
    for key, value in settled(problem, values_under(problem, before)).items():
        values |= {} if key in given else put(problem, key, value)
    return values


def formula(problem: Problem, text: str, row: pd.Series, known: Mapping[str, float]) -> float:
    """A formula of the observable table in a row: overrides `observableParameter1_NAME` stand in the row."""
    values = dict(problem.nominal) | dict(known)
    for kind in ("observable", "noise"):
        parts = str(row.get(f"{kind}Parameters", "")).split(";")
        values |= {f"{kind}Parameter{k + 1}_{row['observableId']}": number(problem, part)
                   for k, part in enumerate(parts) if part not in ("", "nan")}
    expression = ex.parse_expression(str(text), values)
    return float(evaluate(expression, {ex.symbol(name): np.float64(value) for name, value in values.items()}))


def log_density(problem: Problem, row: pd.Series, known: Mapping[str, float]) -> float:
    """Normal on the observable's scale, as a density of the measurement itself."""
    observable = problem.observables.loc[row["observableId"]]
    noise = observable.get("noiseDistribution")
    assert noise == "normal" or pd.isna(noise), "only normal noise is read"
    mean = formula(problem, observable["observableFormula"], row, known)
    sd = formula(problem, observable["noiseFormula"], row, known)
    base = {"log10": 10.0, "log": math.e}.get(observable.get("observableTransformation"))
    seen = float(row["measurement"])
    away = math.log(seen / mean, base) if base else seen - mean
    slope = 1 / (seen * math.log(base)) if base else 1.0
    return -0.5 * (away / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi)) + math.log(slope)


def log_likelihood(problem: Problem) -> float:
    rows = problem.measurements
    keys = [key for key in ("preequilibrationConditionId", "simulationConditionId") if key in rows]
    groups = [group for _, group in rows.groupby(keys, dropna=False)]
    times = [np.unique(group["time"].astype(float)) for group in groups]
    total = 0.0
    for group, days, found in zip(groups, times, curves(
            problem, [starting(problem, group.iloc[0]) for group in groups], times), strict=True):
        for _, row in group.iterrows():
            now = found[np.searchsorted(days, float(row["time"]))]
            total += log_density(problem, row, dict(zip(problem.names, now.tolist(), strict=True)))
    return total
