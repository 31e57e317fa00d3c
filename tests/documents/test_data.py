"""Study data: what a good file becomes, and what a bad file is told."""

import hashlib
import math
from pathlib import Path

import pytest

from thymodel.documents.data import MOST_FAULTS, DataColumns, arm_doses, disposition, load_data
from thymodel.documents.model import parse_model
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-DAT-01", "REQ-DAT-04")

MODEL = parse_model(
    """
title = "test"
description = "one pool, a bolus and a jump"
start = 0
[covariates]
age = { unit = "year", value = 45, label = "age", source = "patient" }
[parameters]
k = { unit = "1/day", value = 0.1, label = "loss", source = "test" }
cy = { unit = "mg/kg", value = 50, label = "reference dose", source = "test" }
V = { unit = "kg/uL", value = 1, label = "scale", source = "test" }
[states.P]
unit = "Mcell/kg"
initial = "0"
rate = "-k*P"
[inputs.progenitors]
unit = "Mcell/kg"
add = { P = "amount" }
[inputs.ptcy]
unit = "mg/kg"
multiply = { P = "exp(-amount/cy)" }
[observables.cd4]
unit = "Mcell/uL"
value = "V*P"
[observables.rte4]
unit = "Mcell/uL"
value = "0.1*V*P"
""",
    "test.toml",
)
UNITS = {
    "TIME": "day",
    "cd4": "Mcell/uL",
    "rte4": "Mcell/uL",
    "progenitors": "Mcell/kg",
    "ptcy": "mg/kg",
    "age": "year",
}
COLUMNS = DataColumns(units=UNITS)
HEADER = "ID,TIME,EVID,CMT,AMT,RATE,ADDL,II,DVID,DV,CENS,LIMIT,MDV,ARM,age"
GOOD = [
    "1,0,2,.,.,.,.,.,.,.,.,.,.,low,30",
    "1,7,1,progenitors,4,.,.,.,.,.,.,.,.,low,.",
    "1,30,0,.,.,.,.,.,cd4,12,0,.,0,low,.",
    "1,30,0,.,.,.,.,.,rte4,1,1,0.1,0,low,.",
    "1,60,0,.,.,.,.,.,rte4,2,0,.,0,low,.",
    "2,30,0,.,.,.,.,.,cd4,15,0,.,0,high,50",
]


def write(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "cohort.csv"
    path.write_bytes("\n".join([header, *rows, ""]).encode())
    return path


def load(folder: Path, rows: list[str], header: str = HEADER, columns: DataColumns = COLUMNS):
    return load_data(write(folder, rows, header), MODEL, columns)


def faults_of(folder: Path, rows: list[str], header: str = HEADER, columns: DataColumns = COLUMNS) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, rows, header, columns)
    assert all(where.startswith("cohort.csv") and what and hint for where, what, hint in caught.value.faults)
    return str(caught.value)


def faults_of_bytes(folder: Path, content: bytes) -> str:
    (folder / "cohort.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_data(folder / "cohort.csv", MODEL, COLUMNS)
    return str(caught.value)


# --- good files -----------------------------------------------------------------------------------


def test_a_row_becomes_a_dose_or_an_observation(tmp_path):
    one, two = load(tmp_path, GOOD).subjects
    assert (one.id, one.arm, two.id, two.arm) == ("1", "low", "2", "high")
    (dose,) = one.doses
    assert (dose.time, dose.input, dose.amount, dose.duration) == (7.0, "progenitors", 4.0, 0.0)
    cd4, censored, _ = one.observations
    assert (cd4.time, cd4.observable, cd4.value, cd4.censoring, cd4.row) == (30.0, "cd4", 12.0, 0, 4)
    assert math.isnan(cd4.limit)
    assert (censored.censoring, censored.value, censored.limit) == (1, 1.0, 0.1)


@pytest.mark.requirement("REQ-DAT-03")
def test_the_digest_is_of_the_bytes(tmp_path):
    data = load(tmp_path, GOOD)
    assert data.digest == hashlib.sha256((tmp_path / "cohort.csv").read_bytes()).hexdigest()
    assert (data.name, data.rows, data.exclusions) == ("cohort.csv", 6, ())


def test_byte_order_mark_and_crlf_change_nothing(tmp_path):
    plain = load(tmp_path, GOOD).subjects
    (tmp_path / "cohort.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([HEADER, *GOOD, ""]).encode())
    assert str(load_data(tmp_path / "cohort.csv", MODEL, COLUMNS).subjects) == str(plain)


def test_values_arrive_in_the_units_of_the_model(tmp_path):
    units = UNITS | {
        "TIME": "week",
        "cd4": "cell/nL",
        "rte4": "cell/nL",
        "progenitors": "cell/kg",
        "age": "month",
    }
    rows = [
        "1,0,1,progenitors,4e6,2e6,.,.,.,.,.,.,.,.,360",
        "1,2,0,.,.,.,.,.,cd4,3,0,.,.,.,.",
        "1,2,0,.,.,.,.,.,rte4,2,1,1,.,.,.",
        "1,3,0,.,.,.,.,.,rte4,2,0,.,.,.,.",
    ]
    (subject,) = load(tmp_path, rows, columns=DataColumns(units=units)).subjects
    assert subject.doses[0].amount == pytest.approx(4)
    assert subject.doses[0].duration == pytest.approx(14)
    assert [o.time for o in subject.observations] == pytest.approx([14, 14, 21])
    assert subject.observations[0].value == pytest.approx(3e-3)
    assert (subject.observations[1].value, subject.observations[1].limit) == pytest.approx((2e-3, 1e-3))
    assert subject.covariates[0][1][0][1] == pytest.approx(30)


def test_addl_and_ii_repeat_a_dose(tmp_path):
    rows = ["1,1,1,progenitors,2,.,2,7,.,.,.,.,.,.,40", *GOOD[2:3]]
    assert [dose.time for dose in load(tmp_path, rows).subjects[0].doses] == [1.0, 8.0, 15.0]


@pytest.mark.requirement("REQ-DAT-02")
def test_left_out_observations_are_listed_with_the_reason(tmp_path):
    rows = [*GOOD, "2,40,0,.,.,.,.,.,cd4,.,0,.,0,high,.", "2,41,0,.,.,.,.,.,nk,9,0,.,1,high,."]
    exclusions = load(tmp_path, rows).exclusions
    assert [(e.row, e.id, e.time, e.reason) for e in exclusions] == [
        (8, "2", "40", "DV missing"),
        (9, "2", "41", "MDV = 1"),
    ]


def test_a_covariate_holds_until_its_next_record_and_back_to_the_start(tmp_path):
    header = "ID,TIME,DVID,DV,age"
    rows = ["1,-3,cd4,.,20", "1,5,cd4,1,.", "1,9,cd4,1,21", "1,11,cd4,1,21", "2,5,cd4,1,.", "2,6,cd4,1,33"]
    one, two = load(tmp_path, rows, header).subjects
    assert one.covariates == (("age", ((0.0, 20.0), (9.0, 21.0))),)
    assert two.covariates == (("age", ((0.0, 33.0),)),)


def test_an_absent_covariate_column_takes_the_models_value_and_says_so(tmp_path):
    data = load(tmp_path, ["1,5,cd4,1,x"], "ID,TIME,DVID,DV,SITE")
    assert data.subjects[0].covariates == (("age", ((0.0, 45.0),)),)
    assert any("age" in note and "45 year" in note for note in data.notes)
    assert "columns not used: SITE" in data.notes


def test_the_spec_maps_names_and_codes(tmp_path):
    columns = DataColumns(
        units=UNITS,
        columns={"TIME": "Days", "DV": "LYM"},
        dvid={"1": "cd4", "2": "rte4"},
        cmt={"1": "progenitors"},
        constant={"age": "50"},
    )
    rows = ["a,0,1,1,9,.,.", "a,3,0,.,.,1.0,7", "a,3,0,.,.,2,8"]
    (subject,) = load(tmp_path, rows, "ID,Days,EVID,CMT,AMT,DVID,LYM", columns).subjects
    assert [(o.observable, o.value) for o in subject.observations] == [("cd4", 7.0), ("rte4", 8.0)]
    assert subject.doses[0].input == "progenitors"
    assert subject.covariates == (("age", ((0.0, 50.0),)),)


def test_a_constant_stands_for_a_column_that_the_file_lacks(tmp_path):
    columns = DataColumns(units=UNITS, constant={"DVID": "cd4"})
    assert load(tmp_path, ["1,3,7"], "ID,TIME,DV", columns).subjects[0].observations[0].observable == "cd4"


def test_without_evid_rows_with_an_amount_are_doses(tmp_path):
    data = load(tmp_path, ["1,0,progenitors,4,.,.", "1,3,.,.,cd4,5"], "ID,TIME,CMT,AMT,DVID,DV")
    assert len(data.subjects[0].doses) == len(data.subjects[0].observations) == 1
    assert any("EVID" in note for note in data.notes)


def test_who_left_before_the_last_dose_does_not_stand_for_the_arm(tmp_path):
    """Nor, as the first subject, for all the others in endpoints by arm."""
    days = {"1": (3,), "2": (3, 7), "3": (3.5, 8), "4": (3, 9)}
    rows = [f"{who},{day},{'ptcy' if k == 0 else 'progenitors'},{50 if k == 0 else day},.,.,low"
            for who, mine in days.items() for k, day in enumerate(mine)]
    rows.insert(1, "1,3.5,.,.,cd4,5,low")
    data = load(tmp_path, rows, "ID,TIME,CMT,AMT,DVID,DV,ARM")
    found = [(dose.input, dose.time, dose.amount) for dose in arm_doses(data)["low"]]
    assert found == [("ptcy", 3.0, 50.0), ("progenitors", 8.0, 8.0)]
    assert "arm low: 1 of 4 had other doses than most, ptcy then progenitors: 1" in data.notes


@pytest.mark.requirement("REQ-DAT-02")
def test_disposition_counts_every_row_of_an_arm(tmp_path):
    low, high = disposition(load(tmp_path, [*GOOD, "2,40,0,.,.,.,.,.,cd4,.,0,.,0,high,."]))
    assert (low.arm, low.subjects, low.doses, low.observations, low.censored, low.excluded) == (
        "low",
        1,
        1,
        {"cd4": 1, "rte4": 2},
        {"rte4": 1},
        0,
    )
    assert (high.arm, high.excluded) == ("high", 1)


# --- bad rows -------------------------------------------------------------------------------------

BAD_ROWS = {
    "unknown DVID": ("2,40,0,.,.,.,.,.,cd8,3,0,.,.,high,.", "row 8, column DVID: unknown DVID 'cd8'"),
    "no DVID": ("2,40,0,.,.,.,.,.,.,3,0,.,.,high,.", "row 8, column DVID: no value"),
    "unknown CMT": ("2,40,1,depot,3,.,.,.,.,.,.,.,.,high,.", "row 8, column CMT: unknown CMT 'depot'"),
    "unknown EVID": ("2,40,7,.,.,.,.,.,.,.,.,.,.,high,.", "row 8, column EVID: EVID 7"),
    "no EVID": ("2,40,.,.,.,.,.,.,cd4,3,.,.,.,high,.", "row 8, column EVID: no value"),
    "reset": ("2,40,3,.,.,.,.,.,.,.,.,.,.,high,.", "EVID 3 (reset) is not supported"),
    "reset and dose": ("2,40,4,progenitors,1,.,.,.,.,.,.,.,.,high,.", "EVID 4 (reset and dose)"),
    "text for a number": (
        "2,40,0,.,.,.,.,.,cd4,many,0,.,.,high,.",
        "row 8, column DV: 'many' where a finite number",
    ),
    "not a number": ("2,40,0,.,.,.,.,.,cd4,NaN,0,.,.,high,.", "column DV: 'NaN'"),
    "infinite": ("2,inf,0,.,.,.,.,.,cd4,1,0,.,.,high,.", "column TIME: 'inf'"),
    "too large": ("2,40,0,.,.,.,.,.,cd4,1e999,0,.,.,high,.", "column DV: '1e999'"),
    "underscore": ("2,40,0,.,.,.,.,.,cd4,1_0,0,.,.,high,.", "column DV: '1_0'"),
    "below LLOQ as text": ("2,40,0,.,.,.,.,.,cd4,<5,0,.,.,high,.", "1 in CENS"),
    "decimal comma": ('2,40,0,.,.,.,.,.,cd4,"1,5",0,.,.,high,.', "decimal mark as a point"),
    "decimal comma unquoted": (
        "2,40,0,.,.,.,.,.,cd4,1,5,0,.,.,high,.",
        "row 8: 16 fields where the header has 15",
    ),
    "short row": ("2,40,0", "row 8: 3 fields where the header has 15"),
    "no subject": (".,40,0,.,.,.,.,.,cd4,1,0,.,.,high,.", "row 8, column ID: no subject"),
    "no time": ("2,.,0,.,.,.,.,.,cd4,1,0,.,.,high,.", "row 8, column TIME: no value"),
    "duplicate": (
        "2,30,0,.,.,.,.,.,cd4,16,0,.,.,high,.",
        "row 8: the same subject, time, event and cd4 as row 7",
    ),
    "backwards": ("2,20,0,.,.,.,.,.,cd4,16,0,.,.,high,.", "row 8, column TIME: time 20 after 30 in row 7"),
    "not contiguous": ("1,90,0,.,.,.,.,.,cd4,16,0,.,.,low,.", "row 8, column ID: subject 1 again"),
    "negative dose": ("2,40,1,progenitors,-4,.,.,.,.,.,.,.,.,high,.", "row 8, column AMT: AMT = -4"),
    "no dose": ("2,40,1,progenitors,.,.,.,.,.,.,.,.,.,high,.", "row 8, column AMT: no value"),
    "dose in cells": (
        "2,40,1,progenitors,4e6,.,.,.,.,.,.,.,.,high,.",
        "row 8, column AMT: 4e+06 Mcell/kg is more",
    ),
    "negative rate": ("2,40,1,progenitors,4,-2,.,.,.,.,.,.,.,high,.", "row 8, column RATE: RATE = -2"),
    "negative interval": ("2,40,1,progenitors,4,.,1,-7,.,.,.,.,.,high,.", "row 8, column II: II = -7"),
    "negative repeats": ("2,40,1,progenitors,4,.,-1,7,.,.,.,.,.,high,.", "row 8, column ADDL: ADDL = -1"),
    "broken repeats": ("2,40,1,progenitors,4,.,1.5,7,.,.,.,.,.,high,.", "row 8, column ADDL: ADDL = 1.5"),
    "endless repeats": ("2,40,1,progenitors,4,.,1e12,7,.,.,.,.,.,high,.", "row 8, column ADDL: ADDL = 1e+12"),
    "repeats without interval": ("2,40,1,progenitors,4,.,3,.,.,.,.,.,.,high,.", "ADDL without II"),
    "interval without repeats": ("2,40,1,progenitors,4,.,.,7,.,.,.,.,.,high,.", "II without ADDL"),
    "infusion into a jump": (
        "2,40,1,ptcy,50,10,.,.,.,.,.,.,.,high,.",
        "row 8, column RATE: an infusion into ptcy",
    ),
    "unknown CENS": ("2,40,0,.,.,.,.,.,cd4,1,2,.,.,high,.", "row 8, column CENS: CENS 2"),
    "censored at zero": (
        "2,40,0,.,.,.,.,.,cd4,0,1,.,.,high,.",
        "row 8, column DV: a censored row with DV = 0",
    ),
    "limit above LLOQ": (
        "2,40,0,.,.,.,.,.,cd4,1,1,3,.,high,.",
        "row 8, column LIMIT: LIMIT = 3 is not below",
    ),
    "unknown MDV": ("2,40,0,.,.,.,.,.,cd4,1,0,.,2,high,.", "row 8, column MDV: MDV 2"),
    "observation with a dose": (
        "2,40,0,.,4,.,.,.,cd4,1,0,.,.,high,.",
        "row 8, column AMT: an observation row",
    ),
    "dose with a measurement": ("2,40,1,ptcy,50,.,.,.,cd4,1,0,.,.,high,.", "row 8, column DV: a dose row"),
    "two arms": (
        "2,40,0,.,.,.,.,.,cd4,1,0,.,.,low,.",
        "row 8, column ARM: arm 'low' where subject 2 is in 'high'",
    ),
    "two values at once": ("2,30,0,.,.,.,.,.,rte4,1,0,.,.,high,51", "row 8, column age: age = 51, but 50"),
    "age of nobody": ("2,40,0,.,.,.,.,.,cd4,1,0,.,.,high,510", "row 8, column age: age is 510 year, and nobody's lies"),
    "covariate as text": ("2,40,0,.,.,.,.,.,cd4,1,0,.,.,high,old", "row 8, column age: 'old'"),
    "covariate missing for a subject": (
        "3,40,0,.,.,.,.,.,cd4,1,0,.,.,high,.",
        "row 8, column age: covariate age is",
    ),
    "observation before the start": (
        "3,-1,0,.,.,.,.,.,cd4,1,0,.,.,high,9",
        "row 8, column TIME: an observation at -1",
    ),
    "dose before the start": (
        "3,-1,1,ptcy,50,.,.,.,.,.,.,.,.,high,9",
        "row 8, column TIME: a dose at -1 day",
    ),
}


@pytest.mark.requirement("REQ-MOD-03")
@pytest.mark.parametrize("row, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_told_by_row_and_column(tmp_path, row, message):
    assert message in faults_of(tmp_path, [*GOOD, row])


@pytest.mark.parametrize("row", [row for row, _ in BAD_ROWS.values()], ids=BAD_ROWS)
def test_a_bad_row_is_one_fault(tmp_path, row):
    assert len(faults_of(tmp_path, [*GOOD, row]).splitlines()) == 1


@pytest.mark.requirement("REQ-MOD-03")
def test_every_fault_of_a_file_is_told_at_once(tmp_path):
    rows = [*GOOD, "2,40,0,.,.,.,.,.,cd8,x,2,.,.,high,.", "2,41,1,depot,-1,.,.,.,.,.,.,.,.,high,."]
    assert len(faults_of(tmp_path, rows).splitlines()) == 5


def test_a_row_before_the_start_is_no_double_of_one_at_the_start(tmp_path):
    rows = ["1,-3,0,.,.,.,.,.,cd4,12,0,.,0,low,30", "1,0,0,.,.,.,.,.,cd4,11,0,.,0,low,30"]
    with pytest.raises(InputError) as caught:
        load_data(write(tmp_path, rows), MODEL, COLUMNS)
    [fault] = caught.value.faults
    assert fault.where.endswith("row 2, column TIME") and "before the model's start" in fault.what


def test_zeros_that_mean_nothing_are_accepted(tmp_path):
    header = "ID,TIME,EVID,CMT,AMT,RATE,ADDL,II,SS,DVID,DV,CENS,LIMIT,MDV"
    rows = ["1,0,1,progenitors,4,0,0,0,0.0,0,0,0,0,1", "1,3,0,0,0,0,0,0,0,cd4,7,0,0,0"]
    (subject,) = load(tmp_path, rows, header).subjects
    assert (len(subject.doses), len(subject.observations)) == (1, 1)


def test_steady_state_is_refused_by_name(tmp_path):
    assert "SS (steady-state dose) is not supported" in faults_of(
        tmp_path, ["1,0,1,ptcy,3,1,.,.", "1,1,0,.,.,.,cd4,3"], "ID,TIME,EVID,CMT,AMT,SS,DVID,DV"
    )


def test_an_observable_that_is_always_censored_is_refused(tmp_path):
    message = faults_of(tmp_path, [row for row in GOOD if not row.startswith("1,60")])
    assert "observable rte4: every value is censored" in message


def test_a_file_without_a_usable_observation_is_refused(tmp_path):
    assert "no observation to use" in faults_of(tmp_path, GOOD[:2])


def test_many_faults_are_counted_after_the_first_thousand(tmp_path):
    rows = [f"1,{day},0,.,.,.,.,.,cd4,x,0,.,.,.,5" for day in range(MOST_FAULTS + 50)]
    assert "50 further faults are not listed" in faults_of(tmp_path, rows)


# --- bad headers, units and spec words ------------------------------------------------------------


def test_a_missing_required_column_is_named(tmp_path):
    assert "no column TIME" in faults_of(tmp_path, ["1,2,3"], "ID,DAY,DV")
    assert "no column DV," in faults_of(tmp_path, ["1,2,cd4"], "ID,TIME,DVID")
    assert "no column DVID," in faults_of(tmp_path, ["1,2,3"], "ID,TIME,DV")
    assert "no column CMT," in faults_of(tmp_path, ["1,2,3,.,.", "1,3,.,cd4,1"], "ID,TIME,AMT,DVID,DV")
    rows = ["1,2,1,ptcy,.,.", "1,3,0,.,cd4,1"]
    assert "no column AMT," in faults_of(tmp_path, rows, "ID,TIME,EVID,CMT,DVID,DV")


def test_a_column_that_differs_in_case_is_not_passed_over(tmp_path):
    assert "column AGE where age was expected" in faults_of(tmp_path, ["1,2,cd4,3,50"], "ID,TIME,DVID,DV,AGE")


def test_a_column_named_twice_is_refused(tmp_path):
    assert "2 columns are named DV" in faults_of(tmp_path, ["1,2,cd4,3,50"], "ID,TIME,DVID,DV,DV")


@pytest.mark.parametrize("name", ["TIME", "cd4", "progenitors", "age"])
def test_what_occurs_needs_a_unit(tmp_path, name):
    columns = DataColumns(units={key: unit for key, unit in UNITS.items() if key != name})
    assert f"no unit for {name}" in faults_of(tmp_path, GOOD, columns=columns)


def test_what_does_not_occur_needs_no_unit(tmp_path):
    units = {key: unit for key, unit in UNITS.items() if key != "ptcy"}
    load(tmp_path, GOOD, columns=DataColumns(units=units))


def test_a_unit_that_does_not_convert_is_refused(tmp_path):
    columns = DataColumns(units=UNITS | {"cd4": "mg/L"})
    assert "units.cd4: 'mg/L' cannot be converted to 'Mcell/uL'" in faults_of(tmp_path, GOOD, columns=columns)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"units": UNITS | {"cd40": "1"}}, "units.cd40"),
        ({"columns": {"TME": "Days"}}, "columns.TME"),
        ({"columns": {"DV": "LYM"}}, "no column LYM, which the spec names for DV"),
        ({"dvid": {"1": "nk"}}, "dvid.nk: 'nk' is not an observable"),
        ({"cmt": {"1": "atg"}}, "cmt.atg: 'atg' is not an input"),
        ({"constant": {"DVID": "cd4"}}, "DVID is also given as a constant"),
    ],
)
def test_a_word_of_the_spec_that_fits_nothing_is_refused(tmp_path, change, message):
    assert message in faults_of(tmp_path, GOOD, columns=DataColumns(**({"units": UNITS} | change)))


# --- bad bytes ------------------------------------------------------------------------------------

TEXT = "\n".join([HEADER, *GOOD, ""])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty"),
        (b"\n\n  \n", "the file is empty"),
        (HEADER.encode(), "a header and no data rows"),
        (TEXT.replace(",", ";").encode(), "semicolons"),
        (TEXT.replace(",", "\t").encode(), "tabs"),
        (TEXT.replace(",", "|").encode(), "vertical bars"),
        (TEXT.replace(",", " ").encode(), "spaces"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "NUL"),
        (TEXT.replace("rte4", "rt\0e").encode(), "row 5: a NUL byte"),
        (TEXT.replace("high", "h\xf6ch").encode("latin-1"), "row 7: byte 0xf6 is not UTF-8"),
        (TEXT.replace("1,30,0", '1,"30,0', 1).encode(), "not readable as CSV"),
        (TEXT.replace("high", "h" * 300_000).encode(), "not readable as CSV"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "NUL"),
    ],
)
def test_a_file_that_is_no_comma_separated_text_is_refused(tmp_path, content, message):
    assert message in faults_of_bytes(tmp_path, content)


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_data(tmp_path / "none.csv", MODEL, COLUMNS)
    with pytest.raises(InputError, match="cannot be read"):
        load_data(tmp_path, MODEL, COLUMNS)


def test_a_long_file_is_read(tmp_path):
    rows = [f"{subject},{day},cd4,1" for subject in range(300) for day in range(100)]
    assert len(load(tmp_path, rows, "ID,TIME,DVID,DV").subjects) == 300
