"""Shared by the tests of the dynamics: models with every state observed, and one call for many subjects."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from thymodel.documents.model import Model, load_model, parse_model
from thymodel.dynamics.solving import Accuracy, plan, trajectories


@pytest.fixture(scope="session")
def with_states() -> Callable[..., Model]:
    """A shipped model with text added and with an observable `y_<state>` for every state."""

    def extended(name: str, more: str = "") -> Model:
        text = load_model(name).text + more
        draft = parse_model(text, name)
        observables = [f'[observables.y_{key}]\nunit = "{state.unit}"\nvalue = "{key}"'
                       for key, state in draft.states.items()]
        return parse_model("\n".join([text, *observables]), name)

    return extended


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
