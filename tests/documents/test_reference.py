"""Ranges of healthy people: those of the sources, for the ages that the sources have, and none for others."""

import csv
import os
import tomllib
from pathlib import Path

import pytest

from thymodel.documents import reference
from thymodel.documents.model import load_model
from thymodel.documents.reference import read_ranges, reference_range
from thymodel.errors import InputError

MODEL = load_model("thymus_core")
FILE = Path(reference.__file__).with_name("reference_ranges.toml")
_BESIDE = Path(__file__).parents[3] / "shared" / "data" / "clinical" / "literature_timecourses.csv"
LITERATURE = Path(os.environ.get("THYMODEL_LITERATURE", _BESIDE))


@pytest.mark.parametrize(("observable", "ages", "bounds"), [
    ("cd4", [17, 59.9], (396, 1309)), ("cd4", [45, 60], (560, 1490)), ("cd3", [30], (723, 2271)),
    ("cd8", [59], (224, 1014)), ("rte4", [45, 70], (51, 609)), ("rte4", [2.5, 4], (190, 2600))])
def test_a_range_holds_for_everybody_whose_ages_it_has(observable, ages, bounds):
    found = reference_range(MODEL, observable, ages)
    assert found is not None and (found.lower, found.upper) == bounds and found.source


@pytest.mark.parametrize(("observable", "ages"), [
    ("cd4", [10]), ("cd4", [10, 45]), ("cd4", []), ("rte4", [4, 6]), ("naive4", [45]), ("naive8", [45])])
def test_without_a_source_for_every_age_nothing_is_said(observable, ages):
    assert reference_range(MODEL, observable, ages) is None


def test_a_mouse_is_not_held_against_people():
    assert reference_range(load_model("thymus_mouse"), "cd4", [20]) is None


def test_every_range_has_its_unit_label_and_source_and_ends_where_it_says():
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))["range"]
    assert {table["observable"] for table in tables} == {"cd3", "cd4", "cd8", "rte4"}
    assert len(tables) == len(read_ranges(FILE.read_text(encoding="utf-8"), FILE.name)) == 15
    text = FILE.read_text(encoding="utf-8")
    text = text.replace("upper  = 1309", "upper  = 309").replace("below  = 60", "below  = 6")
    with pytest.raises(InputError) as caught:
        read_ranges(text, "r.toml")
    assert {fault.where for fault in caught.value.faults} == {
        "r.toml: range.1.upper", *(f"r.toml: range.{k}.below" for k in range(3))}


@pytest.mark.skipif(not LITERATURE.is_file(), reason="the table of published counts is not on this machine")
def test_the_ranges_are_those_of_the_table_of_published_counts():
    with LITERATURE.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source_id"] in ("S34", "S35", "S36")]
    names = {"CD3": "cd3", "CD4": "cd4", "CD8": "cd8", "CD4 RTE (CD45RA+CD31+)": "rte4"}
    published = {(names[row["analyte"]], float(row["lower"]), float(row["upper"])) for row in rows
                 if row["analyte"] in names}
    ours = {(t["observable"], float(t["lower"]), float(t["upper"]))
            for t in tomllib.loads(FILE.read_text(encoding="utf-8"))["range"]}
    assert ours == published
