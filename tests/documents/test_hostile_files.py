"""Files from strangers: too large, too deep, too slow, pointing elsewhere. Each is refused at once, with its place."""

import os
import time

import pytest

from thymodel.documents import limits
from thymodel.documents.expressions import parse_expression
from thymodel.documents.foreign_table import read_foreign_table
from thymodel.documents.import_map import ImportMap
from thymodel.documents.model import load_model, parse_model
from thymodel.documents.sheet import read_sheet
from thymodel.documents.toml import Table, parse_document, read_text
from thymodel.errors import Fault, InputError

pytestmark = pytest.mark.requirement("REQ-SEC-02")

SECONDS = 5.0  # of processor time
HEAD = 'title = "t"\ndescription = "d"\n[parameters]\nk = { unit = "1/day", value = 1, source = "test" }\n'
OBSERVED = '[observables.o]\nunit = "1"\nvalue = "k/k"\n'


class Empty(Table):
    """No key at all."""


def refused(what: str, ask) -> str:
    start = time.process_time()
    with pytest.raises((InputError, ValueError), match=what) as found:
        ask()
    assert time.process_time() - start < SECONDS
    return str(found.value)


def state(name: str, **keys: object) -> str:
    return f'[states.{name}]\nunit = "1"\ninitial = "0"\n' + "".join(f"{k} = {v!r}\n" for k, v in keys.items())


# --- TOML


@pytest.mark.parametrize("text, what", [
    ("a = " + "[" * 100_000, "not TOML"), ("a = " + "[" * 60 + "]" * 60, "nested deeper than"),
    ("a.b." + "c." * 900_000 + "d = 1", "a key of more than 32 parts"),
    ("a = {" + '"b" . ' * 40 + "c = 1}", "a key of more than 32 parts"), ("[" + "a." * 40 + "b]", "more than 32 parts"),
    ("x" * 300 + " = 1", "a name of more than 200 characters"), ("a = " + "9" * 5000, "not TOML"),
    ('"\\u001b[2J" = 1', "do not print"), ('a = "\\u202etxt.exe"', "do not print"), ('a = "\\u0000"', "do not print")])
def test_toml_that_is_no_document_is_refused(text, what):
    refused(what, lambda: parse_document(text, Empty, "x.toml"))


def test_many_faults_are_cut_short_and_counted():
    text = "\n".join(f"k{n} = 1" for n in range(20_000))
    with pytest.raises(InputError) as found:
        parse_document(text, Empty, "x.toml")
    assert len(found.value.faults) == limits.MOST_FAULTS + 1
    assert "19000 further faults" in found.value.faults[-1].what


def test_what_a_file_says_cannot_steer_the_terminal():
    said = str(Fault("x.csv", "unknown \x1b[2J\x07 and \u202e", "é is fine"))
    assert said == "x.csv: unknown \\x1b[2J\\x07 and \\u202e. hint: é is fine"
    assert len(str(Fault("x.csv", "a" * 1_000_000))) < 2_000


# --- files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.toml")
    refused("a pipe or a device", lambda: load_model(tmp_path / "model.toml"))
    refused("a pipe or a device", lambda: read_sheet(tmp_path / "model.toml"))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
def test_a_device_without_end_is_not_read(tmp_path):
    (tmp_path / "model.toml").symlink_to("/dev/zero")
    refused("a pipe or a device", lambda: load_model(tmp_path / "model.toml"))


def test_a_name_that_no_file_can_have_is_refused():
    from pathlib import Path

    refused("cannot be read", lambda: read_text(Path("a\0b")))


def test_a_file_over_its_limit_is_refused_unread(tmp_path):
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(limits.LARGEST_DATA + 1)  # takes no room
    refused("larger than", lambda: read_sheet(tmp_path / "x.csv"))


# --- CSV


@pytest.mark.parametrize("text, what", [
    ("ID,TIME\n1,2," + "9" * 20_000, "a field of more than"), ("ID," * 3_000 + "TIME\n1", "3001 columns"),
    ("ID,T" + "I" * 300 + "\n1,2", "a heading of 301 characters"),
    ('ID,TIME\n1,"' + "x\n" * 100_000, "not readable as CSV"),
    ("ID,TIME\n1,\0", "a NUL byte"), ("a," * 20_000, "20001 columns")])
def test_a_table_that_is_none_is_refused(tmp_path, text, what):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    refused(what, lambda: read_sheet(tmp_path / "x.csv"))


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("thymodel.documents.sheet.MOST_ROWS", 3)
    (tmp_path / "x.csv").write_text("ID,TIME\n" + "1,2\n" * 3, encoding="utf-8")
    assert len(read_sheet(tmp_path / "x.csv").lines) == 3
    (tmp_path / "x.csv").write_text("ID,TIME\n" + "1,2\n" * 4, encoding="utf-8")
    refused("more than 3 rows", lambda: read_sheet(tmp_path / "x.csv"))


def test_too_many_lines_of_another_tool_are_refused_also_where_they_are_blank(tmp_path, monkeypatch):
    monkeypatch.setattr("thymodel.documents.foreign_table.MOST_ROWS", 3)
    (tmp_path / "x.csv").write_text("ID,TIME\n1,2\n\n", encoding="utf-8")
    assert len(read_foreign_table(tmp_path / "x.csv", ImportMap()).lines) == 1
    (tmp_path / "x.csv").write_text("ID,TIME\n1,2\n\n\n", encoding="utf-8")
    refused("more than 3 lines", lambda: read_foreign_table(tmp_path / "x.csv", ImportMap()))


# --- arithmetic


@pytest.mark.parametrize("text, what", [
    ("hill(" * 45 + "x" + ",k,2)" * 45, "operations once written out"),
    ("hill(" * 40 + "x" + ",k,64)" * 40, "operations once written out"),
    ("9**9**9**9", "a power"), ("-" * 150 + "x", "nested deeper"), ("9" * 5000, "not arithmetic")])
def test_arithmetic_that_explodes_is_refused(text, what):
    refused(what, lambda: parse_expression(text, ["x", "k"]))


def test_hills_within_hills_may_be_named():
    """The limit is one of a single expression, far from what anybody writes."""
    assert parse_expression("hill(hill(hill(x, k, 2), k, 2), k, 2)", ["x", "k"]).free_symbols


@pytest.mark.parametrize("text, what", [
    (HEAD + state("c", chain=200, inflow="k", transfer="+".join(["k"] * 200)) + OBSERVED, "characters of arithmetic"),
    (HEAD + "".join(state(f"c{n}", chain=200, inflow="k", transfer="k") for n in range(2_000)) + OBSERVED,
     "more than 500 states"),
    (HEAD + "".join(f'p{n} = {{ unit = "day**{n}", value = 1, source = "a" }}\n' for n in range(4_000))
     + state("x", rate="k") + OBSERVED, "parameters and other names; at most"),
    (HEAD + "[expressions]\n" + "".join(f'e{n} = "{"+".join(["k"] * 90)}"\n' for n in range(900))
     + state("x", rate="k") + OBSERVED, "characters of arithmetic")])
def test_a_model_that_would_take_minutes_is_refused(text, what):
    assert "model.toml: " in refused(what, lambda: parse_model(text, "model.toml"))
