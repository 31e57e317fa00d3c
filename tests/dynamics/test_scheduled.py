"""Doses that a model schedules itself act like doses that are given."""

from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.model import parse_model
from thymodel.documents.regimen import Dose
from thymodel.dynamics.solving import plan, trajectories

pytestmark = pytest.mark.requirement("REQ-NUM-03")

TEXT = (Path(__file__).resolve().parents[1] / "bad" / "decay.toml").read_text(encoding="utf-8")
SCHEDULED = TEXT.replace("[inputs.cells]", """[inputs.planned]
unit = "cell/uL"
add = { x = "amount" }
scheduled = [{ time = 3, amount = 20 }, { time = 6 }]

[inputs.cells]""")
DAYS = [2.0, 3.0, 4.0, 7.0]


def counts(text: str, doses: list[Dose], kind: str) -> np.ndarray:
    model = parse_model(text, "decay.toml")
    values = {name: item.value for name, item in model.parameters.items()}
    covariates = {name: ((model.start, item.value),) for name, item in model.covariates.items()}
    return trajectories(model, values, [plan(model, doses, covariates, DAYS)], list(model.observables), kind=kind)[0]


def test_a_scheduled_dose_is_a_given_dose(kind):
    given = [Dose(3, "cells", 20), Dose(6, "cells", 1)]
    np.testing.assert_allclose(counts(SCHEDULED, [], kind), counts(TEXT, given, kind), rtol=1e-7)


def test_scheduled_doses_come_beside_given_ones(kind):
    given = [Dose(3, "cells", 20), Dose(5, "cells", 4), Dose(6, "cells", 1)]
    np.testing.assert_allclose(counts(SCHEDULED, given[1:2], kind), counts(TEXT, given, kind), rtol=1e-7)
