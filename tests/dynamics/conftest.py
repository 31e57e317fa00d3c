"""Shared by tests of the dynamics: models with every state observed, random sets, one call for many subjects."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from thymodel.documents.model import Model
from thymodel.dynamics.solving import Accuracy, plan, trajectories


@pytest.fixture(scope="session")
def laws() -> ModuleType:
    """The qualification script that asks the laws of random sets."""
    script = Path(__file__).resolve().parents[2] / "qualification" / "laws.py"
    found = importlib.util.spec_from_file_location("laws", script)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def with_states(laws) -> Callable[..., Model]:
    """A shipped model with text added and with an observable `y_<state>` for every state."""
    return laws.with_states


@pytest.fixture(scope="session")
def random_values(laws) -> Callable[..., list[dict[str, float]]]:
    """Sets of the parameters that have a prior, log-SD 0.6 around the typical values."""

    def sets(model: Model, seed: int, count: int) -> list[dict[str, float]]:
        rng = np.random.default_rng(seed)
        return [laws.random_set(model, rng) for _ in range(count)]

    return sets


@pytest.fixture(scope="session")
def simulate() -> Callable[..., dict[str, dict[str, np.ndarray]]]:
    """Solves named subjects in one call: name -> observable -> values at the visits."""

    def solved(model: Model, subjects: Mapping[str, Mapping], visits, accuracy: Accuracy = Accuracy(1e-10, 1e-13),
               kind: str | None = None):
        typical = {key: item.value for key, item in model.parameters.items()}
        changed = {key for subject in subjects.values() for key in subject.get("values", {})}
        values = typical | {key: np.array([subject.get("values", {}).get(key, typical[key])
                                           for subject in subjects.values()]) for key in changed}
        schedules = [plan(model, subject.get("doses", ()), _courses(model, subject), visits)
                     for subject in subjects.values()]
        found = trajectories(model, values, schedules, list(model.observables), accuracy, list(subjects), kind)
        return {name: dict(zip(model.observables, row.T, strict=True))
                for name, row in zip(subjects, found, strict=True)}

    return solved


def _courses(model: Model, subject: Mapping) -> dict:
    typical = {key: ((model.start, item.value),) for key, item in model.covariates.items()}
    return typical | subject.get("covariates", {})
