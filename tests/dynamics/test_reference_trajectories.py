"""Trajectories that an independent implementation produced from the same equations.

Source: the project's scientific description, table "Simulated dynamics with typical values": 70 kg, 45 years, infusion
on day 7, homing_wave and thymus_core with f_th = 0.6.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.model import load_model
from thymodel.documents.regimen import Dose
from thymodel.dynamics.solving import Accuracy, plan, trajectories

PRINTED = 0.01  # the table agrees within 1%, or half of its last printed digit where that is larger
FULL = 1e-6  # the other implementation ran LSODA at 1e-8; its own error at day 730 is about 1e-8
DAYS = (30, 60, 100, 180, 365, 730)
DOSES = (0.0, 1.5, 4.0, 9.0)  # 1e6 CD7+ cells/kg
HORIZON = 1500  # "-" in the table: not reached by this day

# model, dose: values at DAYS, then first whole days above the thresholds (None: not by HORIZON)
CD4 = {
    ("homing_wave", 0.0): ("37.3 63.1 103.8 162.8 235.0 362.9", (46, 268, 1122)),
    ("homing_wave", 1.5): ("37.4 63.9 104.8 163.5 235.4 363.0", (46, 267, 1122)),
    ("homing_wave", 4.0): ("37.5 64.8 105.8 164.2 235.7 363.0", (45, 265, 1122)),
    ("homing_wave", 9.0): ("37.5 65.7 106.8 165.0 236.0 363.1", (45, 264, 1122)),
    ("thymus_core", 0.0): ("41.1 72.4 107.2 142.4 191.3 308.0", (39, 395, None)),
    ("thymus_core", 1.5): ("41.3 74.3 112.5 152.5 205.1 321.9", (39, 348, None)),
    ("thymus_core", 4.0): ("41.4 75.1 114.2 154.9 208.1 324.7", (38, 338, None)),
    ("thymus_core", 9.0): ("41.5 75.6 115.1 156.2 209.6 326.2", (38, 333, None)),
}
RTE4 = {
    ("homing_wave", 0.0): ("0.06 0.19 0.67 4.30 22.54 60.86", (143, 244)),
    ("homing_wave", 1.5): ("0.13 1.05 1.65 5.02 22.88 60.94", (118, 238)),
    ("homing_wave", 4.0): ("0.20 1.91 2.63 5.74 23.23 61.02", (63, 232)),
    ("homing_wave", 9.0): ("0.27 2.77 3.61 6.45 23.57 61.10", (51, 226)),
    ("thymus_core", 0.0): ("0.38 0.49 0.71 2.97 15.22 41.07", (159, 292)),
    ("thymus_core", 1.5): ("0.50 1.44 2.80 6.21 19.15 44.57", (77, 239)),
    ("thymus_core", 4.0): ("0.58 1.78 3.35 6.93 19.99 45.29", (66, 228)),
    ("thymus_core", 9.0): ("0.64 1.98 3.64 7.30 20.42 45.66", (61, 223)),
}
CD8 = {
    ("thymus_core", 0.0): ("48 130 264 421 484 469", ()),
    ("thymus_core", 1.5): ("48 131 265 421 481 467", ()),
    ("thymus_core", 4.0): ("48 131 265 421 480 467", ()),
    ("thymus_core", 9.0): ("48 131 266 421 480 467", ()),
}
TABLES = {"cd4": (CD4, (50, 200, 500)), "rte4": (RTE4, (2, 10)), "cd8": (CD8, ())}
ROWS = [(observable, *row) for observable, (table, _) in TABLES.items() for row in table]
CROSSED = [row for row in ROWS if TABLES[row[0]][1]]
NAMES = {"CD4": "cd4", "CD8": "cd8", "naive4": "naive4", "RTE4": "rte4", "thymic_export_cd4": "thymic_export_cd4"}


@pytest.fixture(scope="module")
def solved() -> dict[tuple[str, str], np.ndarray]:
    """(model, observable) -> array (dose, day), for every day from 0 to HORIZON."""
    curves = {}
    for name in ("homing_wave", "thymus_core"):
        model = load_model(name)
        values = {key: item.value for key, item in model.parameters.items()}
        courses = {key: ((model.start, item.value),) for key, item in model.covariates.items()}
        designs = [plan(model, [Dose(7.0, "progenitors", dose)], courses, range(HORIZON + 1)) for dose in DOSES]
        found = trajectories(model, values, designs, list(model.observables), Accuracy(1e-10, 1e-13))
        curves |= {(name, key): found[:, :, k] for k, key in enumerate(model.observables)}
    return curves


def _half_last_digit(text: str) -> float:
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize(("observable", "model", "dose"), ROWS)
def test_values_are_the_printed_ones(observable, model, dose, solved):
    found = solved[model, observable][DOSES.index(dose)][list(DAYS)]
    printed = TABLES[observable][0][model, dose][0].split()
    allowed = [max(PRINTED * float(text), _half_last_digit(text)) for text in printed]
    assert (np.abs(found - np.array([float(text) for text in printed])) <= allowed).all()


@pytest.mark.parametrize(("observable", "model", "dose"), CROSSED)
def test_thresholds_are_first_exceeded_on_the_printed_days(observable, model, dose, solved):
    table, thresholds = TABLES[observable]
    curve = solved[model, observable][DOSES.index(dose)]
    found = [int(np.argmax(curve > level)) if (curve > level).any() else None for level in thresholds]
    assert found == list(table[model, dose][1])


def test_thymus_core_is_the_other_implementation_at_full_precision(solved):
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "design" / "trajectories.json"
    path = Path(os.environ.get("THYMODEL_TRAJECTORIES", beside))
    if not path.exists():
        pytest.skip(f"no trajectories at {path}; THYMODEL_TRAJECTORIES names the file")
    for row in [row for row in json.loads(path.read_text()) if row["model"] == "M2"]:
        for theirs, ours in NAMES.items():
            found = solved["thymus_core", ours][DOSES.index(row["dose"])][row["days"]]
            np.testing.assert_allclose(found, row[theirs], rtol=FULL, err_msg=f"{theirs} at {row['dose']}")
