"""Trajectories that an independent implementation produced from the same equations.

Source: the project's scientific description, table "Simulated dynamics with typical values": 70 kg, 45 years, infusion
on day 7, PTCy on days 3 and 4 where a model has it. That implementation had PTCy and IL-7 as states, as the models
named `_dynamic` have; the shipped limits of both agree with its tables, but not at full precision.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from thymodel.documents.model import load_model
from thymodel.documents.regimen import Dose
from thymodel.dynamics.solving import Accuracy, plan, trajectories

pytestmark = pytest.mark.requirement("REQ-MOD-05")

PRINTED = 0.01  # the table agrees within 1%, or half of its last printed digit where that is larger
FULL = 1e-6  # the other implementation ran LSODA at 1e-8; its own error at day 730 is about 1e-8
DAYS = (30, 60, 100, 180, 365, 730)
DOSES = (0.0, 1.5, 4.0, 9.0)  # 1e6 CD7+ cells/kg
HORIZON = 1500  # "-" in the table: not reached by this day
PTCY = (Dose(3.0, "ptcy", 50.0), Dose(4.0, "ptcy", 50.0))
GRAFT_RTE = 21  # until then the graft's own RTE may be above a threshold

# code of the model, dose: values at DAYS, then first whole days above the thresholds (None: not by HORIZON)
CD4 = {
    ("M1", 0.0): ("37.3 63.1 103.8 162.8 235.0 362.9", (46, 268, 1122)),
    ("M1", 1.5): ("37.4 63.9 104.8 163.5 235.4 363.0", (46, 267, 1122)),
    ("M1", 4.0): ("37.5 64.8 105.8 164.2 235.7 363.0", (45, 265, 1122)),
    ("M1", 9.0): ("37.5 65.7 106.8 165.0 236.0 363.1", (45, 264, 1122)),
    ("M2", 0.0): ("41.1 72.4 107.2 142.4 191.3 308.0", (39, 395, None)),
    ("M2", 1.5): ("41.3 74.3 112.5 152.5 205.1 321.9", (39, 348, None)),
    ("M2", 4.0): ("41.4 75.1 114.2 154.9 208.1 324.7", (38, 338, None)),
    ("M2", 9.0): ("41.5 75.6 115.1 156.2 209.6 326.2", (38, 333, None)),
    ("M4", 0.0): ("32.4 61.0 96.1 134.4 200.3 349.8", (49, 365, 1261)),
    ("M4", 1.5): ("32.5 62.1 99.9 143.1 213.4 361.2", (49, 332, 1229)),
    ("M4", 4.0): ("32.6 62.9 101.7 146.4 217.6 364.7", (48, 322, 1219)),
    ("M4", 9.0): ("32.6 63.4 103.0 148.4 220.0 366.7", (48, 316, 1213)),
    ("M5", 0.0): ("32.4 61.0 96.5 137.8 207.4 356.1", (49, 347, 1243)),
    ("M5", 1.5): ("32.5 62.1 100.0 144.9 217.3 364.6", (49, 323, 1220)),
    ("M5", 4.0): ("32.6 62.9 101.8 147.9 221.0 367.6", (48, 314, 1211)),
    ("M5", 9.0): ("32.6 63.4 103.0 149.8 223.2 369.5", (48, 308, 1206)),
}
RTE4 = {
    ("M1", 0.0): ("0.06 0.19 0.67 4.30 22.54 60.86", (143, 244)),
    ("M1", 1.5): ("0.13 1.05 1.65 5.02 22.88 60.94", (118, 238)),
    ("M1", 4.0): ("0.20 1.91 2.63 5.74 23.23 61.02", (63, 232)),
    ("M1", 9.0): ("0.27 2.77 3.61 6.45 23.57 61.10", (51, 226)),
    ("M2", 0.0): ("0.38 0.49 0.71 2.97 15.22 41.07", (159, 292)),
    ("M2", 1.5): ("0.50 1.44 2.80 6.21 19.15 44.57", (77, 239)),
    ("M2", 4.0): ("0.58 1.78 3.35 6.93 19.99 45.29", (66, 228)),
    ("M2", 9.0): ("0.64 1.98 3.64 7.30 20.42 45.66", (61, 223)),
    ("M4", 0.0): ("0.59 0.75 1.03 3.86 23.03 61.63", (146, 249)),
    ("M4", 1.5): ("0.65 1.31 2.47 6.73 26.84 64.46", (85, 216)),
    ("M4", 4.0): ("0.70 1.63 3.10 7.72 28.04 65.32", (71, 205)),
    ("M4", 9.0): ("0.75 1.86 3.50 8.30 28.73 65.80", (64, 199)),
    ("M5", 0.0): ("0.59 0.76 1.24 5.33 25.20 63.29", (127, 230)),
    ("M5", 1.5): ("0.65 1.32 2.55 7.58 28.06 65.36", (84, 206)),
    ("M5", 4.0): ("0.70 1.64 3.16 8.47 29.11 66.10", (71, 196)),
    ("M5", 9.0): ("0.75 1.86 3.54 9.02 29.75 66.53", (64, 191)),
}
CD8 = {
    ("M2", 0.0): ("48 130 264 421 484 469", ()),
    ("M2", 1.5): ("48 131 265 421 481 467", ()),
    ("M2", 4.0): ("48 131 265 421 480 467", ()),
    ("M2", 9.0): ("48 131 266 421 480 467", ()),
    ("M5", 0.0): ("39 115 253 422 487 470", ()),
    ("M5", 1.5): ("39 116 254 422 485 469", ()),
    ("M5", 4.0): ("39 116 254 422 484 468", ()),
    ("M5", 9.0): ("39 116 255 422 484 468", ()),
}
TREC_PER_1E5 = {
    ("M3", 0.0): ("53 23 17 68 257 404", ()),
    ("M3", 1.5): ("76 96 92 125 282 408", ()),
    ("M3", 4.0): ("91 120 110 135 287 409", ()),
    ("M3", 9.0): ("103 134 119 140 289 409", ()),
    ("M4", 0.0): ("73 28 18 83 390 631", ()),
    ("M4", 1.5): ("87 78 74 139 420 636", ()),
    ("M4", 4.0): ("100 105 97 155 428 637", ()),
    ("M4", 9.0): ("112 124 110 164 432 637", ()),
    ("M5", 0.0): ("73 30 28 120 412 635", ()),
    ("M5", 1.5): ("87 78 78 161 433 638", ()),
    ("M5", 4.0): ("100 105 99 175 439 639", ()),
    ("M5", 9.0): ("111 124 112 183 443 640", ()),
}
TREC_PER_UL = {
    ("M3", 0.0): ("0.05 0.05 0.06 0.38 1.73 3.14", ()),
    ("M3", 1.5): ("0.07 0.20 0.35 0.72 1.94 3.22", ()),
    ("M3", 4.0): ("0.08 0.25 0.42 0.78 1.98 3.24", ()),
    ("M3", 9.0): ("0.09 0.28 0.45 0.81 1.99 3.25", ()),
    ("M5", 0.0): ("0.05 0.05 0.10 0.67 2.87 5.25", ()),
    ("M5", 1.5): ("0.06 0.14 0.28 0.91 3.04 5.32", ()),
    ("M5", 4.0): ("0.07 0.19 0.35 1.00 3.10 5.34", ()),
    ("M5", 9.0): ("0.08 0.22 0.40 1.05 3.13 5.36", ()),
}
TABLES = {"cd4": (CD4, (50, 200, 500)), "rte4": (RTE4, (2, 10)), "cd8": (CD8, ()),
          "trec_per_1e5": (TREC_PER_1E5, ()), "trec_per_ul": (TREC_PER_UL, ())}
CODES = {"homing_wave": "M1", "thymus_core": "M2", "thymus_trec": "M3", "thymus_full_dynamic": "M4",
         "thymus_competition_dynamic": "M5"}
# PTCy as a jump and IL-7 at its quasi-steady state
LIMITS = {"thymus_full": "thymus_full_dynamic", "thymus_competition": "thymus_competition_dynamic"}
ROWS = [(observable, name, dose) for name, code in CODES.items() for observable, (table, _) in TABLES.items()
        for row, dose in table if row == code]
CROSSED = [row for row in ROWS if TABLES[row[0]][1]]
NAMES = {"CD4": "cd4", "CD8": "cd8", "naive4": "naive4", "RTE4": "rte4", "thymic_export_cd4": "thymic_export_cd4",
         "TREC": "trec_per_ul", "TREC1e5": "trec_per_1e5", "S": "tec_function", "i": "il7"}


@pytest.fixture(scope="module")
def solved() -> dict[tuple[str, str], np.ndarray]:
    """(model, observable) -> array (dose, day), for every day from 0 to HORIZON."""
    curves = {}
    for name in [*CODES, *LIMITS]:
        model = load_model(name)
        values = {key: item.value for key, item in model.parameters.items()}
        courses = {key: ((model.start, item.value),) for key, item in model.covariates.items()}
        before = PTCY if "ptcy" in model.inputs else ()
        designs = [plan(model, [*before, Dose(7.0, "progenitors", dose)], courses, range(HORIZON + 1))
                   for dose in DOSES]
        found = trajectories(model, values, designs, list(model.observables), Accuracy(1e-10, 1e-13))
        curves |= {(name, key): found[:, :, k] for k, key in enumerate(model.observables)}
        if (name, "il7_pg_per_ml") in curves:
            curves[name, "il7"] = curves[name, "il7_pg_per_ml"] / values["IL7_ref"]
    return curves


def _half_last_digit(text: str) -> float:
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize(("observable", "model", "dose"), ROWS)
def test_values_are_the_printed_ones(observable, model, dose, solved):
    found = solved[model, observable][DOSES.index(dose)][list(DAYS)]
    printed = TABLES[observable][0][CODES[model], dose][0].split()
    allowed = [max(PRINTED * float(text), _half_last_digit(text)) for text in printed]
    assert (np.abs(found - np.array([float(text) for text in printed])) <= allowed).all()


def _first_days(curve: np.ndarray, thresholds, observable: str, model: str) -> list[int | None]:
    """First whole day above each threshold, None if there is none."""
    first = GRAFT_RTE + 1 if observable == "rte4" and CODES[model] in ("M4", "M5") else 0
    above = [curve[first:] > level for level in thresholds]
    return [first + int(np.argmax(days)) if days.any() else None for days in above]


@pytest.mark.parametrize(("observable", "model", "dose"), CROSSED)
def test_thresholds_are_first_exceeded_on_the_printed_days(observable, model, dose, solved):
    table, thresholds = TABLES[observable]
    found = _first_days(solved[model, observable][DOSES.index(dose)], thresholds, observable, model)
    assert found == list(table[CODES[model], dose][1])


@pytest.fixture(scope="module")
def theirs() -> list[dict]:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "design" / "trajectories.json"
    path = Path(os.environ.get("THYMODEL_TRAJECTORIES", beside))
    if not path.exists():
        pytest.skip(f"no trajectories at {path}; THYMODEL_TRAJECTORIES names the file")
    return json.loads(path.read_text())


@pytest.mark.parametrize("model", [name for name in CODES if name != "homing_wave"])
def test_trajectories_are_those_of_the_other_implementation(model, theirs, solved):
    rows = [row for row in theirs if row["model"] == CODES[model]]
    assert len(rows) == len(DOSES)
    for row in rows:
        for key in NAMES.keys() & row.keys():
            found = solved[model, NAMES[key]][DOSES.index(row["dose"])][row["days"]]
            np.testing.assert_allclose(found, row[key], rtol=FULL, err_msg=f"{key} at {row['dose']}")


# --- the wave of infused origin, from the line under the tables ---------------------------------------------------


def test_the_wave_of_infused_origin_peaks_as_printed(solved):
    wave = solved["thymus_competition_dynamic", "thymic_export_cd4_infused"][1:]
    assert list(wave.argmax(axis=1)) == [60, 51, 47]
    np.testing.assert_allclose(wave.max(axis=1), [4.2e6, 6.0e6, 7.2e6], atol=0.05e6)
    np.testing.assert_allclose(wave.max(axis=1) / 2.3e7, [0.18, 0.26, 0.31], atol=0.005)


def test_the_export_of_the_core_peaks_as_printed(solved):
    assert list(solved["thymus_core", "thymic_export_cd4"][2:, :130].argmax(axis=1)) == [44, 42]


def test_thymic_epithelium_recovers_earlier_where_progenitors_came(solved):
    control, *treated = solved["thymus_competition_dynamic", "tec_function"][:, 60]
    np.testing.assert_allclose([control, treated[0], treated[-1]], [0.52, 0.64, 0.69], atol=0.005)


# --- PTCy as a jump and IL-7 at its quasi-steady state -----------------------------------------------------------

POOLS = ("cd4", "cd8", "cd3", "naive4", "naive8", "rte4", "trec_per_ul", "trec_per_1e5", "trec_per_naive4")


@pytest.mark.parametrize(("limit", "dynamic"), LIMITS.items())
def test_the_limits_agree_with_the_tables(limit, dynamic, solved):
    for key in (*POOLS, "thymic_export_cd4", "tec_function"):
        found, expected = (solved[name, key][:, list(DAYS)] for name in (limit, dynamic))
        np.testing.assert_allclose(found, expected, rtol=PRINTED, err_msg=key)


@pytest.mark.parametrize(("limit", "dynamic"), LIMITS.items())
def test_the_limits_pass_the_thresholds_at_most_a_day_later(limit, dynamic, solved):
    for key, (_, thresholds) in TABLES.items():
        for k in range(len(DOSES)):
            found, expected = (_first_days(solved[name, key][k], thresholds, key, dynamic) for name in (limit, dynamic))
            found, expected = ([day or HORIZON + 1 for day in days] for days in (found, expected))
            assert all(0 <= day - other <= 1 for day, other in zip(found, expected, strict=True)), (key, k)


@pytest.mark.parametrize(("limit", "dynamic"), LIMITS.items())
def test_the_limits_differ_from_the_dynamic_forms_as_their_descriptions_say(limit, dynamic, solved):
    def percent(keys, days):
        apart = [np.abs(solved[limit, key][:, days] / solved[dynamic, key][:, days] - 1).max() for key in keys]
        return round(100 * float(max(apart)), 1)

    between, after = slice(3, 8), slice(8, None)
    text = " ".join(load_model(limit).description.split())
    assert f"by up to {percent(POOLS, after)}% in cell counts and in TREC" in text
    assert f"up to {percent(['il7_pg_per_ml'], after)}% in IL-7" in text
    assert f"between days 3 and 7 by up to {percent(POOLS, between)}%" in text


# --- the mouse ---------------------------------------------------------------------------------------------------

# Source: the project's scientific description, section on the murine variant: million thymocytes on these days. It
# gives neither the dose ("pro-T high", arbitrary units) nor x8, mu4 and mu8. With the values of thymus_competition for
# these three, as shipped, sizes are 2 to 4% larger; UNLISTED and the dose below reproduce all of them.
MOUSE_DAYS = (14, 21, 28, 42, 70, 98)
MOUSE = {"transplant alone": (0.0, {}, "4.3 14 33 83 130 134"),
         "pro-T": (4.4, {}, "41 46 56 92 131 134"),
         "pro-T, no bone marrow": (4.4, {"B0": 0.0, "r_e": 0.05}, "36 33 26 14 3.4 0.8")}
UNLISTED = {"x8": 0.23, "mu4": 0.02, "mu8": 0.02}
SHIPPED = 0.05  # relative distance of the shipped model from the printed sizes, with half of the last digit


@pytest.fixture(scope="module")
def mice() -> dict[tuple[str, bool], dict[str, np.ndarray]]:
    """(arm, whether with UNLISTED) -> observable -> values on days 0 to 120; progenitors on the day of transplant."""
    model = load_model("thymus_mouse")
    arms = {(arm, unlisted): (dose, own | (UNLISTED if unlisted else {}))
            for arm, (dose, own, _) in MOUSE.items() for unlisted in (False, True)}
    values = {key: np.array([own.get(key, item.value) for _, own in arms.values()])
              for key, item in model.parameters.items()}
    courses = {key: ((0.0, item.value),) for key, item in model.covariates.items()}
    designs = [plan(model, [Dose(0.0, "progenitors", dose)], courses, range(121)) for dose, _ in arms.values()]
    found = trajectories(model, values, designs, list(model.observables), Accuracy(1e-10, 1e-13))
    return {key: dict(zip(model.observables, row.T, strict=True)) for key, row in zip(arms, found, strict=True)}


@pytest.mark.parametrize("arm", MOUSE)
def test_murine_thymus_sizes_are_the_printed_ones(arm, mice):
    texts = MOUSE[arm][2].split()
    printed, half = np.array([float(text) for text in texts]), np.array([_half_last_digit(text) for text in texts])
    found, shipped = (mice[arm, unlisted]["thymus_size"][list(MOUSE_DAYS)] / 1e6 for unlisted in (True, False))
    assert (np.abs(found - printed) <= half).all()
    assert (np.abs(shipped - printed) <= half + SHIPPED * printed).all()


def test_the_murine_wave_peaks_on_day_22(mice):
    assert abs(int(mice["pro-T", True]["thymic_export_cd4_infused"].argmax()) - 22) <= 1
