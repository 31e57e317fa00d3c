"""Data sets as other tools write them: each oddity is read right, or refused with its row and column."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from thymodel import cli
from thymodel.documents.clock import days_of_date, hours_of_clock, hours_of_moment
from thymodel.documents.data import load_data
from thymodel.documents.event_import import import_events
from thymodel.documents.import_file import account_text, csv_text
from thymodel.documents.import_map import NO_MAP, load_import_map
from thymodel.documents.model import parse_model
from thymodel.documents.rows import DataColumns
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-DAT-06")

MODEL = parse_model("""
title = "One pool"
description = "for a test"
[parameters]
k = { unit = "1/day", value = 0.1, source = "made up" }
[covariates]
WT = { unit = "kg", value = 70, source = "made up" }
[states.x]
unit = "mg"
initial = "0"
rate = "-k*x"
[inputs.oral]
unit = "mg"
add = { x = "amount" }
[observables.cp]
unit = "mg"
value = "x"
[observables.pd]
unit = "mg"
value = "2*x"
""", "pool.toml", "pool")
UNITS = {"TIME": "day", "cp": "mg", "pd": "mg", "oral": "mg", "WT": "kg"}


def imported(tmp_path, text, map_text=""):
    path = tmp_path / "source.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    if not map_text:
        return import_events(path, NO_MAP)
    (tmp_path / "map.toml").write_text(map_text)
    return import_events(path, load_import_map(tmp_path / "map.toml"))


def rows(found):
    return list(csv.DictReader(io.StringIO(csv_text(found))))


def column(found, name):
    return [row[name] for row in rows(found)]


def loaded(found, tmp_path, **more):
    (tmp_path / "out.csv").write_text(csv_text(found))
    return load_data(tmp_path / "out.csv", MODEL, DataColumns(units=UNITS, **more))


def refusals(tmp_path, text, map_text=""):
    with pytest.raises(InputError) as caught:
        imported(tmp_path, text, map_text)
    return [(fault.where.removeprefix("source.csv: "), fault.what) for fault in caught.value.faults]


# --- read right ------------------------------------------------------------------------------------------------


def test_a_nonmem_table_with_comments_spaces_and_points(tmp_path):
    text = ("C made for a run\nID TIME EVID CMT AMT DVID DV WT\n1 0 1 1 100 . . 70\n# a remark\n1 1.0 0 . . 1 9.5 .\n"
            "ID TIME EVID CMT AMT DVID DV WT\n1 2 0 . . 2 . 71\n\nC 1 2 3\n2 0 0 . . 1 1D+01 60\n")
    with pytest.raises(InputError):  # a title is no header: the row lengths betray it
        imported(tmp_path, text)
    found = imported(tmp_path, text.partition("\n")[2], '[dvid]\n1 = "cp"\n2 = "pd"\n[cmt]\n1 = "oral"\n')
    assert column(found, "DV") == [".", "9.5", ".", "1e+01"]
    assert column(found, "WT") == ["70", ".", "71", "60"]
    assert {reason for _, reason in found.passed_over} == {
        "header line", "comment line (#)", "header line again", "blank line", "comment line (C)"}
    data = loaded(found, tmp_path)
    assert [len(subject.observations) for subject in data.subjects] == [1, 1]
    assert [e.reason for e in data.exclusions] == ["DV missing"]


def test_dates_and_clocks_count_from_each_subjects_first_record(tmp_path):
    text = ("ID,DAT1,TIME,AMT,DV\n1,28/02/24,22:00,5,\n1,01/03/24,10:00,,3\n"
            "2,01/01/2023,08:30,5,\n2,02/01/2023,20:30,,4\n")
    found = imported(tmp_path, text)
    assert column(found, "TIME") == ["0", "36", "0", "36"]  # 2024 is a leap year
    assert found.units["TIME"] == "hour"
    in_days = imported(tmp_path, text, 'units.TIME = { to = "day" }')
    assert column(in_days, "TIME") == ["0", "1.5", "0", "1.5"]


@pytest.mark.parametrize(("heading", "text"), [("DATE", "3/1/2024"), ("DAT1", "1-3-24"), ("DAT2", "2024/03/01"),
                                               ("DAT3", "24-1-3"), ("DATE", "2024-03-01"), ("ADT", "01MAR2024")])
def test_every_order_of_a_date_is_the_same_day(heading, text):
    assert days_of_date(text, heading) - days_of_date("2024-02-28", "DATE") == 2


@pytest.mark.parametrize("clock", [False, True])
def test_the_first_record_is_the_earliest_where_the_order_of_rows_means_nothing(tmp_path, clock):
    dated = "ID,DAT2,TIME,DVID,DV\n1,2024-03-01,09:00,cp,5\n1,2024-03-01,08:00,cp,4\n"
    text = dated if clock else "ID,TIME,DVID,DV\n1,9,cp,5\n1,8,cp,4\n"
    found = imported(tmp_path, text, 'sort = true\ntime_zero = "first_record"\n')
    assert column(found, "TIME") == ["0", "1"] and column(found, "DV") == ["4", "5"]


def test_a_date_without_marks_between_its_parts_is_no_count_of_days():
    assert days_of_date("23101", "ADT") - days_of_date("23071.0", "ADT") == 30
    assert days_of_date("20240201", "DATE") - days_of_date("20240131", "DATE") == 1


def test_a_time_of_day_without_a_colon_is_not_guessed_at(tmp_path):
    told = refusals(tmp_path, "ID,DAT2,TIME,DVID,DV\n1,2024-01-31,0015,cp,5\n1,2024-01-31,8.5,cp,4\n")
    assert [where for where, _ in told] == ["row 2, column TIME"]


def test_numbers_beside_a_date_of_adam_are_not_guessed_at(tmp_path):
    rows_ = "1,23000,{0},cp,5\n1,23001,{1},cp,4\n"
    told = refusals(tmp_path, "ID,ADT,TIME,DVID,DV\n" + rows_.format(8, 24))
    assert [where for where, _ in told] == ["row 2, column TIME", "row 3, column TIME"]
    of_sas = imported(tmp_path, "ID,ADT,ATM,DVID,DV\n" + rows_.format(28800, 43200))  # seconds since midnight
    assert column(of_sas, "TIME") == ["0", "28"]


def test_a_clock_whose_unit_the_map_calls_another_is_refused(tmp_path):
    text = "ID,TIME,EVID,CMT,AMT,RATE,DVID,DV\n1,08:00,1,oral,100,10,,\n1,20:00,0,,,,cp,4\n"
    told = refusals(tmp_path, text, 'units.TIME = { from = "day", to = "day" }')
    assert [where for where, _ in told] == ["row 2, column TIME"]
    assert column(imported(tmp_path, text, 'units.TIME = { to = "day" }'), "RATE")[0] == "240"


def test_a_row_is_not_parted_at_marks_that_end_no_line(tmp_path):
    found = imported(tmp_path, "ID,TIME,DVID,DV,ROOM\r\n1,1,cp,5,a\x0cb\r\n1,2,cp,6,a\u2028b\r\n")
    assert [row.source for row in found.rows] == [2, 3]


def test_times_between_doses_and_both_limits_are_converted_too(tmp_path):
    text = "ID,TIME,AMT,ADDL,II,DVID,DV,CENS,LIMIT\n1,24,10,2,12,,,,\n1,48,,,,cp,5,1,2\n"
    found = imported(tmp_path, text, 'units.TIME = { from = "hour", to = "day" }\nunits.cp = { from = "g", to = "mg" }')
    assert column(found, "TIME") == ["1", "1.5", "2", "2"]
    assert column(found, "DV")[-1] == "5000" and column(found, "LIMIT")[-1] == "2000"


def test_an_lloq_of_the_map_keeps_its_digits_and_stands_for_a_blank(tmp_path):
    text = "ID,TIME,DVID,DV,CENS\n1,1,cp,BLQ,\n1,2,cp,.,1\n"
    found = imported(tmp_path, text, "[lloq]\ncp = 1234.5678\n")
    assert column(found, "DV") == ["1234.5678", "1234.5678"] and column(found, "CENS") == ["1", "1"]
    told = refusals(tmp_path, text + "1,3,pd,.,1\n", "[lloq]\ncp = 1234.5678\n")
    assert [where for where, _ in told] == ["row 4, column DV"]


def test_a_sign_and_a_flag_that_contradict_one_another_are_refused(tmp_path):
    told = refusals(tmp_path, "ID,TIME,DVID,DV,CENS\n1,1,cp,<5,-1\n1,2,cp,<5,1\n1,3,cp,>5,0\n")
    assert [where for where, _ in told] == ["row 2, column CENS"]


def test_a_clock_is_hours():
    assert hours_of_clock("13:45") == 13.75
    assert hours_of_moment("2024-03-01T06:00") - hours_of_moment("2024-02-29 18:00") == 12
    assert hours_of_clock("8.5") == 8.5
    for bad in ("25:00", "12:60", "noon", "0800"):
        with pytest.raises(ValueError, match=bad):
            hours_of_clock(bad)
    with pytest.raises(ValueError, match="calendar"):
        days_of_date("30/02/24", "DAT1")
    with pytest.raises(ValueError, match="order of day and month"):
        days_of_date("03/04/2024", "ADT")


def test_semicolons_and_decimal_commas_are_read_when_the_map_says_so(tmp_path):
    text = "﻿ID;TIME;AMT;DV;WT\r\n1;0;100,5;;70\r\n1;1,5;;\"3,25\";70\r\n".encode()
    faults = refusals(tmp_path, text)
    assert [place for place, _ in faults] == ["row 2, column AMT", "row 3, column TIME", "row 3, column DV"]
    found = imported(tmp_path, text, 'decimal = ","\nconstant = { DVID = "cp" }')
    assert column(found, "TIME") == ["0", "1.5"]
    assert loaded(found, tmp_path).subjects[0].doses[0].amount == 100.5


def test_additional_doses_are_written_out_in_order(tmp_path):
    found = imported(tmp_path, "ID,TIME,AMT,ADDL,II,DVID,DV\n1,0,10,2,12,.,.\n1,12,.,.,.,cp,3\n1,20,.,.,.,cp,2\n")
    assert [(row["TIME"], row["EVID"]) for row in rows(found)] == [
        ("0", "1"), ("12", "1"), ("12", "0"), ("20", "0"), ("24", "1")]
    assert found.disposition["rows expanded"] == 1
    assert [dose.time for dose in loaded(found, tmp_path).subjects[0].doses] == [0, 12, 24]


def test_a_duration_becomes_a_rate_and_units_go_with_it(tmp_path):
    found = imported(tmp_path, "ID,TIME,AMT,TINF,ADM,Y,YTYPE\n1,0,1000,12,1,.,.\n1,24,.,.,.,500,1\n",
                     '[dvid]\n1 = "cp"\n[cmt]\n1 = "oral"\n[units]\nTIME = { from = "hour", to = "day" }\n'
                     'oral = { from = "ug", to = "mg" }\ncp = { from = "ug", to = "mg" }\n')
    [dose] = loaded(found, tmp_path).subjects[0].doses
    assert (dose.amount, dose.duration) == (1.0, 0.5)
    assert loaded(found, tmp_path).subjects[0].observations[0].value == 0.5


def test_monolix_and_laboratory_censoring_mean_the_same(tmp_path):
    found = imported(tmp_path, "ID,TIME,Y,CENS,LIMIT,YTYPE\n1,0,5,1,2,cp\n1,1,<5,,,cp\n1,2,>90,,,cp\n1,3,7,0,,cp\n")
    seen = loaded(found, tmp_path).subjects[0].observations
    assert [(o.value, o.censoring) for o in seen] == [(5, 1), (5, 1), (90, -1), (7, 0)]
    assert seen[0].limit == 2


def test_adam_rows_keep_flags_units_and_limits(tmp_path):
    text = ("STUDYID,USUBJID,PARAMCD,AVAL,AVALU,AFRLT,ARRLT,EVID,AMT,BLQFL,ALLOQ,ANL01FL,EXCLF,WT\n"
            "S1,S1-001,DOSE,,,0,0,1,100,,,Y,,70\nS1,S1-001,cp,2,g,1,1,0,,,,Y,,70\n"
            "S1,S1-001,cp,,mg,2,2,0,,Y,5,Y,,70\nS1,S1-001,cp,7,mg,3,3,0,,,,,,70\nS1,S1-001,cp,8,mg,4,4,0,,,,Y,Y,70\n")
    found = imported(tmp_path, text, 'units.cp = { to = "mg" }\nnot_used = ["ARRLT"]')
    data = loaded(found, tmp_path)
    assert [(o.value, o.censoring) for o in data.subjects[0].observations] == [(2000, 0), (5, 1)]
    assert [row.set_aside for row in found.rows if row.set_aside] == ["ANL01FL is not Y", "excluded by EXCLF"]
    mixed = refusals(tmp_path, text)
    assert [place for place, what in mixed] == ["row 4, column AVALU", "row 5, column AVALU", "row 6, column AVALU"]


def test_a_table_of_a_laboratory_has_a_column_a_marker(tmp_path):
    text = "Patient,Day,CD4 (/uL),CD8,WT\nA,0,12,<5,70\nA,30,NA,.,70\nA,60,80,>1000,71\nA,90,90,20,71\n"
    assert any("no column that holds the measurements" in what for _, what in refusals(tmp_path, text))
    found = imported(tmp_path, text, '[markers]\n"CD4 (/uL)" = "cp"\nCD8 = "pd"\n')
    assert [(o.observable, o.value, o.censoring) for o in loaded(found, tmp_path).subjects[0].observations] == [
        ("cp", 12, 0), ("pd", 5, 1), ("cp", 80, 0), ("pd", 1000, -1),
        ("cp", 90, 0), ("pd", 20, 0)]
    assert found.disposition["rows dropped"] == 1
    assert found.disposition["rows expanded"] == 3


def test_a_table_of_r_has_the_dose_on_every_row(tmp_path):
    text = '"","Subject","Wt","Dose","Time","conc"\n"1","1",79.6,4.02,0,0.74\n"2","1",79.6,4.02,0.25,2.84\n'
    found = imported(tmp_path, text, '[first_dose]\namount = "Dose"\nper = "Wt"\ninput = "oral"\n')
    assert [(row["EVID"], row["AMT"], row["DV"]) for row in rows(found)] == [
        ("1", "319.992", "."), ("0", ".", "0.74"), ("0", ".", "2.84")]
    assert found.disposition["rows added"] == 1
    assert set(column(found, "DVID")) == {".", "conc"}


def test_resets_and_ids_that_come_back_are_new_subjects_where_the_map_says_so(tmp_path):
    text = "ID,TIME,EVID,AMT,DV\n1,0,1,5,.\n1,1,0,.,3\n1,10,4,6,.\n1,11,0,.,2\n2,0,0,.,1\n1,0,0,.,4\n"
    assert refusals(tmp_path, text) == [
        ("row 4, column EVID", "EVID 4 (reset and dose)"),
        ("row 7, column ID", "subject 1 again after another subject"),
        ("row 7, column TIME", "time goes back within subject 1: 0 after 11")]
    found = imported(tmp_path, text, 'resets = "new_subject"\nreappearing_id = "new_subject"')
    assert [(row["ID"], row["TIME"]) for row in rows(found)] == [
        ("1", "0"), ("1", "1"), ("1_reset2", "0"), ("1_reset2", "1"), ("2", "0"), ("1_2", "0")]


def test_a_classic_infusion_is_one_dose(tmp_path):
    found = imported(tmp_path, "ID,TIME,EVID,AMT,DV\n1,0,10101,50,0\n1,2,10101,-50,0\n1,3,0,0,8\n1,4,201,7,0\n")
    assert [(row["CMT"], row["AMT"], row["RATE"]) for row in rows(found)] == [
        ("1", "100", "50"), (".", ".", "."), ("2", "7", ".")]
    assert found.fates[3] == "merged: the end of the infusion of row 2"


def test_rows_are_left_out_by_a_rule_with_its_reason_and_codes_become_numbers(tmp_path):
    found = imported(tmp_path, "ID,TIME,DV,SEX,FLAG,L2\n1,0,1,male,,1\n1,1,2,male,X,1\n2,0,3,female,,1\n", (
        'not_used = ["FLAG"]\n[codes.SEX]\nmale = 0\nfemale = 1\n'
        '[[exclude]]\ncolumn = "FLAG"\nequals = ["X"]\nreason = "sample mixed up"\n'))
    assert found.fates == {2: "kept", 3: "dropped: sample mixed up", 4: "kept"}
    assert column(found, "SEX") == ["0", "1"]
    assert any("L2 is not carried over" in note for note in found.notes)


def test_a_file_without_header_takes_the_names_of_input(tmp_path):
    text = "1 0 100 .\n1 1 . 5\n"
    assert refusals(tmp_path, text) == [("row 1", "no header line: the first line holds data")]
    assert column(imported(tmp_path, text, 'header = ["ID", "TIME", "AMT", "DV"]'), "DV") == [".", "5"]


def test_replicates_are_refused_set_aside_or_moved(tmp_path):
    text = "ID,TIME,DVID,DV\n1,1,cp,5\n1,1,cp,6\n1,2,cp,7\n"
    assert refusals(tmp_path, text) == [("row 3", "the same subject, time and cp as row 2")]
    aside = imported(tmp_path, text, 'replicates = "set_aside"')
    assert column(aside, "MDV") == ["0", "1", "0"]
    moved = imported(tmp_path, text, "replicate_gap = 0.001")
    assert column(moved, "TIME") == ["1", "1.001", "2"]
    assert len(loaded(moved, tmp_path).subjects[0].observations) == 3


def test_dates_without_marks_are_dates_and_not_counts_of_days(tmp_path):
    head = "ID,DATE,TIME,AMT,DV\n"
    found = imported(tmp_path, head + "1,20240228,08:00,5,\n1,20240301,08:00,,3\n")
    assert column(found, "TIME") == ["0", "48"]
    counted = imported(tmp_path, head + "1,1,08:00,5,\n1,3,09:30,,3\n")
    assert column(counted, "TIME") == ["0", "49.5"]
    assert refusals(tmp_path, head + "1,240228,08:00,5,\n1,1,08:00,,3\n")[0][0] == "row 2, column DATE"


def test_the_order_of_a_date_follows_the_column_as_in_nonmem_or_the_map(tmp_path):
    assert days_of_date("2024/01/03", "DAT3") - days_of_date("2024/28/02", "DAT3") == 2
    text = "ID,Visit,TIME,AMT,DV\n1,03/04/2024,08:00,5,\n1,13/04/2024,08:00,,3\n"
    names = 'columns = { DATE = "Visit" }\n'
    assert [place for place, _ in refusals(tmp_path, text, names)] == ["row 2, column Visit", "row 3, column Visit"]
    assert column(imported(tmp_path, text, names + 'date_order = "dmy"'), "TIME") == ["0", "240"]
    american = imported(tmp_path, text.replace("Visit", "DATE").replace("13/04", "05/04"))
    assert column(american, "TIME") == ["0", "1464"]  # 61 days from 4 March
    assert any("read as month/day/year" in note for note in american.notes)


def test_clocks_with_am_and_pm_and_moments_of_sas(tmp_path):
    assert [hours_of_clock(text) for text in ("12:30 AM", "8:15 am", "12:30pm", "11:00 p.m.")] == [0.5, 8.25, 12.5, 23]
    for bad in ("13:00 pm", "0:30 am"):
        with pytest.raises(ValueError, match=bad):
            hours_of_clock(bad)
    text = "USUBJID,ADTM,PARAMCD,AVAL\nA,{},cp,1\nA,{},cp,2\n"
    for first, second in (("01MAR2024:08:30:00", "02MAR2024:20:30"), ("2025000000", "2025129600")):
        assert column(imported(tmp_path, text.format(first, second)), "TIME") == ["0", "36"]


def test_a_clock_that_goes_back_is_past_midnight_and_needs_a_date(tmp_path):
    text = "ID,TIME,AMT,DV\n1,22:00,5,\n1,00:30,,3\n"
    for map_text in ("", "sort = true"):
        assert refusals(tmp_path, text, map_text) == [
            ("row 3, column TIME", "the clock goes back within subject 1, to 00:30")]


def test_sorted_moments_count_from_the_earliest(tmp_path):
    text = "ID,DATE,TIME,AMT,DV\n1,2024-01-03,8:00,,3\n1,2024-01-01,8:00,5,\n"
    assert column(imported(tmp_path, text, "sort = true"), "TIME") == ["0", "48"]


def test_written_out_doses_do_not_undo_a_covariate_that_changed(tmp_path):
    found = imported(tmp_path, "ID,TIME,AMT,ADDL,II,DVID,DV,WT,ARM\n1,0,10,3,24,.,.,70,a\n1,30,.,.,.,cp,3,75,a\n")
    data = loaded(found, tmp_path)
    assert [dose.time for dose in data.subjects[0].doses] == [0, 24, 48, 72]
    assert dict(data.subjects[0].covariates)["WT"] == ((0.0, 70.0), (30.0, 75.0))
    assert set(column(found, "ARM")) == {"a"}


def test_a_visit_without_a_marker_keeps_its_covariates(tmp_path):
    text = "Patient,Day,CD4,WT\nA,0,12,70\nA,15,,60\nA,30,NA,60\nA,60,80,65\n"
    found = imported(tmp_path, text, '[markers]\nCD4 = "cp"\n')
    assert [(row["TIME"], row["EVID"], row["WT"]) for row in rows(found)] == [
        ("0", "0", "70"), ("15", "2", "60"), ("60", "0", "65")]
    assert found.fates[4].startswith("dropped")
    assert dict(loaded(found, tmp_path).subjects[0].covariates)["WT"] == ((0.0, 70.0), (15.0, 60.0), (60.0, 65.0))


def test_a_character_result_below_the_limit_is_censored_whatever_the_number(tmp_path):
    text = "USUBJID,AFRLT,PARAMCD,AVAL,AVALC\nA,0,cp,,<5\nA,1,cp,2.5,<5\nA,2,cp,7,7\nA,3,cp,,NOT DONE\nA,4,cp,0,BLQ\n"
    assert refusals(tmp_path, text) == [("row 6, column AVALC", "a value below the LLOQ, and no LLOQ")]
    found = imported(tmp_path, text, "lloq = { cp = 4 }")
    seen = loaded(found, tmp_path).subjects[0].observations
    assert [(o.value, o.censoring) for o in seen] == [(5, 1), (5, 1), (7, 0), (4, 1)]


def test_a_value_below_the_limit_of_its_row_is_censored_there(tmp_path):
    found = imported(tmp_path, "ID,TIME,DVID,DV,LLOQ\n1,0,cp,12,5\n1,1,cp,0,5\n1,2,cp,5,5\n")
    seen = loaded(found, tmp_path).subjects[0].observations
    assert [(o.value, o.censoring) for o in seen] == [(12, 0), (5, 1), (5, 0)]
    assert "values below the LLOQ without a flag were taken as censored there (1 rows)" in found.notes


def test_codes_of_missing_values_are_told(tmp_path):
    text = "ID,TIME,DVID,DV,WT\n1,0,cp,-99,70\n1,1,cp,4,-999\n"
    told = " ".join(imported(tmp_path, text).notes)
    assert "column DV holds -99" in told and "column WT holds -999" in told
    found = imported(tmp_path, text, 'missing = ["-99", "-999"]')
    assert (column(found, "DV"), column(found, "WT")) == ([".", "4"], ["70", "."])
    assert "-99" not in " ".join(found.notes)


def test_marks_of_thousands_are_read_when_the_map_says_so(tmp_path):
    text = 'ID,TIME,DVID,DV\n1,0,cp,"1,234"\n1,1,cp,"1,234,567.5"\n1,2,cp,"<1,000"\n'
    assert [place for place, _ in refusals(tmp_path, text)] == [
        "row 2, column DV", "row 3, column DV", "row 4, column DV"]
    found = imported(tmp_path, text, 'thousands = ","')
    assert (column(found, "DV"), column(found, "CENS")) == (["1234", "1234567.5", "1000"], ["0", "0", "1"])
    german = "ID;TIME;DVID;DV\n1;0;cp;1.234\n1;1,5;cp;1.234,5\n"
    pointed = [place for place, _ in refusals(tmp_path, german, 'decimal = ","')]
    assert pointed == ["row 2, column DV", "row 3, column DV"]
    assert column(imported(tmp_path, german, 'decimal = ","\nthousands = "."'), "DV") == ["1234", "1234.5"]


def test_a_subject_named_c_is_no_comment(tmp_path):
    text = "ID,TIME,DVID,DV\nA,0,cp,1\nC,0,cp,2\nC a remark\n"
    assert refusals(tmp_path, text) == [("row 3, column ID", "C: a comment, or a subject of that name")]
    assert column(imported(tmp_path, text.rpartition("C a")[0], 'ignore = "#"'), "ID") == ["A", "C"]
    left_out = imported(tmp_path, text, 'ignore = "C"')
    assert column(left_out, "ID") == ["A"]
    assert "2 lines were passed over as comments: rows 3, 4" in left_out.notes
    flagged = imported(tmp_path, "C,ID,TIME,DV\n.,1,0,1\nC,1,1,2\n")
    assert column(flagged, "DV") == ["1"]


def test_a_cell_that_goes_on_over_lines_is_no_comment(tmp_path):
    text = ('ID,TIME,DVID,DV,NOTE\n1,0,cp,1,"first\nC second, ""so""\n\n# third"\n'
            '1,1,cp,2,5" tall\n# left out\n1,2,cp,x,\n')
    assert refusals(tmp_path, text) == [("row 8, column DV", "'x' where a finite number was expected")]
    found = imported(tmp_path, text.replace(",x,", ",3,"))
    assert column(found, "DV") == ["1", "2", "3"]
    assert column(found, "NOTE")[0] == 'first\nC second, "so"\n\n# third'


def test_empty_columns_and_rows_of_a_spreadsheet_are_passed_over(tmp_path):
    text = "ID,TIME,DVID,DV,,,\r\n1,0,cp,5,,,\r\n,,,,,,\r\n"
    assert column(imported(tmp_path, text), "DV") == ["5"]
    assert refusals(tmp_path, text.replace("5,,,", "5,,x,"))[0][1] == "3 columns with cells have no name"


def test_a_table_that_nonmem_wrote_has_whole_codes(tmp_path):
    text = ("TABLE NO.  1\n ID TIME EVID CMT AMT DVID DV\n 1.0000E+00 0.0000E+00 1.0000E+00 1.0000E+00 5.0000E+00 "
            "0.0000E+00 0.0000E+00\n 1.0000E+00 1.5000E+00 0.0000E+00 2.0000E+00 0.0000E+00 1.0000E+00 7.0000E+00\n")
    found = imported(tmp_path, text, '[cmt]\n1 = "oral"\n[dvid]\n1 = "cp"\n')
    data = loaded(found, tmp_path)
    assert (data.subjects[0].id, data.subjects[0].doses[0].amount) == ("1", 5)
    assert [(o.time, o.value) for o in data.subjects[0].observations] == [(1.5, 7)]


def test_a_row_of_a_laboratory_with_a_dose_keeps_its_measurements(tmp_path):
    text = "Patient,Day,AMT,CMT,CD4,CD8\n1,0,3,oral,400,\n1,7,,,20,9\n1,14,2,oral,,\n"
    found = imported(tmp_path, text, '[markers]\nCD4 = "cp"\nCD8 = "pd"\n')
    subject = loaded(found, tmp_path).subjects[0]
    assert [(o.time, o.observable, o.value) for o in subject.observations] == [
        (0, "cp", 400), (7, "cp", 20), (7, "pd", 9)]
    assert [(dose.time, dose.amount) for dose in subject.doses] == [(0, 3), (14, 2)]
    with_evid = "Patient,Day,EVID,AMT,CD4\n1,0,0,3,400\n"
    [(place, what)] = refusals(tmp_path, with_evid, '[markers]\nCD4 = "cp"\n')
    assert (place, what) == ("row 2, column AMT", "a measurement with a dose")


def test_a_moment_without_its_clock_beside_others_is_no_midnight(tmp_path):
    text = "ID,TIME,DVID,DV\n1,2024-03-01T08:30,cp,5\n1,{},cp,5\n1,2024-03-03T08:30,cp,5\n2,2024-03-01,cp,5\n"
    for odd in ("2024-03-02", "2024-03-02T08:30Z"):
        assert [place for place, _ in refusals(tmp_path, text.format(odd))] == ["row 3, column TIME"]
    assert column(imported(tmp_path, text.format("2024-03-02 08:30")), "TIME") == ["0", "24", "48", "0"]


def test_a_censored_row_without_a_value_is_not_merely_missing(tmp_path):
    text = "ID,TIME,DVID,DV,CENS\n1,0,cp,5,0\n1,1,cp,.,1\n"
    assert refusals(tmp_path, text) == [("row 3, column DV", "a value below the LLOQ, and no LLOQ")]
    seen = loaded(imported(tmp_path, text, "lloq = { cp = 2 }"), tmp_path).subjects[0].observations
    assert [(o.value, o.censoring) for o in seen] == [(5, 0), (2, 1)]


def test_a_value_without_a_unit_is_refused_where_others_have_one(tmp_path):
    text = "ID,TIME,PARAMCD,AVAL,AVALU\n1,0,cp,5,\n1,1,cp,5,mg\n1,2,cp,,\n"
    assert refusals(tmp_path, text) == [("row 2, column AVALU", "no unit of cp, which is in mg on other rows")]
    told = imported(tmp_path, text, 'units.cp = { from = "g", to = "mg" }')
    assert column(told, "DV") == ["5000", "5", "."]
    unknown = refusals(tmp_path, text, 'units.cp = { to = "mg" }')
    assert unknown[0] == ("row 2, column AVALU", "the unit of cp is not known")


def test_separators_of_spreadsheets_and_rare_ends_of_lines(tmp_path):
    found = imported(tmp_path, "sep=;\r\nID;TIME;DVID;DV\r\n1;0;cp;5\r\n")
    assert column(found, "DV") == ["5"]
    text = "ID|TIME|DVID|DV|NOTE\n1|0|cp|5|a\x0bb\n1|1|cp|6|c\u2028d\n1|2|cp|bad|e\x85f\n"
    assert refusals(tmp_path, text) == [("row 4, column DV", "'bad' where a finite number was expected")]


def test_faults_of_the_header_name_its_row_below_comments(tmp_path):
    assert {place for place, _ in refusals(tmp_path, "# one\n# two\nWHO,WHEN,DV\na,0,1\n")} == {"row 3"}


# --- refused ---------------------------------------------------------------------------------------------------

ROW_FAULTS = {
    "steady state": ("ID,TIME,AMT,SS,II,DV\n1,0,5,1,12,.\n", ["row 2, column SS", "row 2, column II"]),
    "modelled rate": ("ID,TIME,AMT,RATE,DV\n1,0,5,-2,.\n1,1,5,-1,.\n", ["row 2, column RATE", "row 3, column RATE"]),
    "time goes back": ("ID,TIME,DV\n1,5,1\n1,3,2\n", ["row 3, column TIME"]),
    "texts": ("ID,TIME,DV\n1,0,high\n1,later,2\n,3,4\n",
              ["row 2, column DV", "row 3, column TIME", "row 4, column ID"]),
    "fields": ("ID,TIME,DV\n1,0,3\n1,1,2,5\n1,2\n", ["row 3", "row 4"]),
    "dose with a value": ("ID,TIME,EVID,AMT,DV\n1,0,1,5,7\n1,1,0,4,7\n", ["row 2, column DV", "row 3, column AMT"]),
    "no dose": ("ID,TIME,EVID,AMT,DV\n1,0,1,.,.\n1,1,1,-4,.\n1,2,9,.,.\n",
                ["row 2, column AMT", "row 3, column AMT", "row 4, column EVID"]),
    "dates": ("ID,DATE,TIME,DV\n1,13/40/24,08:00,1\n1,01/02/24,25:99,2\n1,,10:00,3\n",
              ["row 2, column DATE", "row 3, column TIME", "row 4, column DATE"]),
    "blq without limit": ("ID,TIME,DV\n1,0,BLQ\n1,1,BQL\n", ["row 2, column DV", "row 3, column DV"]),
    "iso dates": ("ID,TIME,DV\n1,2024-02-30T10:00,1\n1,2024-03-01T25:00,2\n",
                  ["row 2, column TIME", "row 3, column TIME"]),
    "too large": ("ID,TIME,AMT,DV\n1,0,1e400,.\n1,1,.,1e999\n", ["row 2, column AMT", "row 3, column DV"]),
    "compartment off": ("ID,TIME,EVID,CMT,AMT,DV\n1,0,1,-2,5,.\n", ["row 2, column CMT"]),
    "addl": ("ID,TIME,AMT,ADDL,II,DV\n1,0,5,1.5,12,.\n1,1,5,3,0,.\n1,2,.,4,.,1\n",
             ["row 2, column ADDL", "row 3, column II", "row 4, column ADDL"]),
    "contradiction": ("ID,TIME,AMT,RATE,DUR,DV\n1,0,10,5,3,.\n", ["row 2, column DUR"]),
    "only after dose": ("ID,TAD,DV\n1,0,1\n", ["row 1"]),
    "twice": ("ID,TIME,DV,DV\n1,0,1,2\n", ["row 1"]),
    "empty": ("\n\n", [""]),
    "nothing below": ("ID,TIME,DV\n", [""]),
    "quote": ('ID,TIME,DV\n1,0,"5\n1,1,6\n', ["row 2"]),
    "not text": (b"ID,TIME,DV\n1,0,\xff\n", ["row 2"]),
}


@pytest.mark.parametrize("name", ROW_FAULTS)
def test_what_cannot_be_read_is_refused_with_every_place(tmp_path, name):
    text, places = ROW_FAULTS[name]
    assert [place.removeprefix("source.csv") for place, _ in refusals(tmp_path, text)] == places


def test_many_faults_alike_are_told_by_their_rows(tmp_path):
    bad = {4, *range(8, 20), 22}
    lines = [f"1,{row},cp,{'high' if row in bad else row},{'x' if row == 30 else ''}" for row in range(2, 31)]
    text = "\n".join(["ID,TIME,DVID,DV,MDV", *lines, ""])
    told = refusals(tmp_path, text)
    assert [place for place, _ in told[:10]] == [f"row {row}, column DV" for row in sorted(bad)[:10]]
    assert told[10:] == [("row 30, column MDV", "MDV 'x', 0 or 1 was expected"),
                         ("rows 17-19, 22, column DV", "4 further faults with this remedy")]


def test_a_map_is_a_document_and_tells_all_its_faults(tmp_path):
    (tmp_path / "map.toml").write_text('colums = {}\nsort = "yes"\n')
    with pytest.raises(InputError) as caught:
        load_import_map(tmp_path / "map.toml")
    assert sorted(fault.where.rpartition(" ")[2] for fault in caught.value.faults) == ["colums", "sort"]
    (tmp_path / "map.toml").write_text(
        '[columns]\nDVV = "x"\n[units]\ncp = { from = "mg", to = "day" }\n[[exclude]]\ncolumn = "A"\nreason = "b"\n')
    with pytest.raises(InputError) as caught:
        load_import_map(tmp_path / "map.toml")
    assert [fault.where.rpartition(" ")[2] for fault in caught.value.faults] == ["columns.DVV", "units.cp", "exclude.0"]


def test_a_map_that_names_what_is_not_there_is_refused(tmp_path):
    assert refusals(tmp_path, "ID,TIME,DV\n1,0,1\n", 'columns = { DV = "AVAL" }\nnot_used = ["SS"]') == [
        ("row 1", "no column AVAL, which the map names"), ("row 1", "no column SS, which the map names")]


# --- accounts --------------------------------------------------------------------------------------------------


def test_the_command_writes_the_events_and_an_account_that_adds_up(tmp_path):
    source, out = tmp_path / "source.csv", tmp_path / "events.csv"
    source.write_text("ID,TIME,AMT,ADDL,II,DV,BAD\n1,0,10,1,24,.,0\n# note\n1,5,.,.,.,3,0\n1,6,.,.,.,9,1\n")
    (tmp_path / "map.toml").write_text('[[exclude]]\ncolumn = "BAD"\nequals = ["1"]\nreason = "haemolysed"\n')
    done = CliRunner().invoke(cli.app, ["import", "nonmem", str(source), "--map", str(tmp_path / "map.toml"), "--out",
                                        str(out)])
    assert done.exit_code == 0
    account = json.loads((tmp_path / "events.import.json").read_text())
    assert account["rows_not_simply_kept"] == [{"row": 2, "what": "expanded: into 2"},
                                               {"row": 5, "what": "dropped: haemolysed"}]
    assert account["lines_without_data"] == [{"row": 1, "what": "header line"}, {"row": 3, "what": "comment line (#)"}]
    counts = account["disposition"]
    assert counts["rows of the source"] == sum(counts[f"rows {k}"] for k in ("kept", "expanded", "merged", "dropped"))
    assert counts["rows of the result"] == len(out.read_text().splitlines()) - 1 == 3
    assert "haemolysed" in account["map"]["text"]


def test_a_refused_file_leaves_nothing_and_the_source_is_never_overwritten(tmp_path):
    source = tmp_path / "source.csv"
    source.write_text("ID,TIME,DV\n1,0,high\n")
    for out in (tmp_path / "events.csv", source):
        done = CliRunner().invoke(cli.app, ["import", "nonmem", str(source), "--out", str(out)])
        assert isinstance(done.exception, InputError)
    assert [path.name for path in tmp_path.iterdir()] == ["source.csv"]
    assert source.read_text() == "ID,TIME,DV\n1,0,high\n"


def test_the_account_names_the_source_by_its_digest(tmp_path):
    found = imported(tmp_path, "ID,TIME,DV\n1,0,1\n")
    account = json.loads(account_text(found, csv_text(found), None))
    assert account["source"] == {"file": "source.csv", "sha256": found.source_sha256}
    assert len(found.source_sha256) == 64


def test_a_header_of_thousands_of_columns_is_refused_at_once(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"c{k}" for k in range(50_000)) + "\n" + ",".join(["1"] * 50_000) + "\n")
    with pytest.raises(InputError, match="50000 columns; at most 2000"):
        import_events(path)
