"""Reports as HTML, Word and LaTeX: every number is a field of the record, and each file is what its readers expect."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from thymodel import cli
from thymodel.errors import InputError
from thymodel.results import report
from thymodel.results.describing import tex
from thymodel.results.document import (
    Banner,
    Cited,
    Document,
    Grid,
    Paragraph,
    Picture,
    Section,
    numbered,
    pieces_of,
    say,
    widths,
)
from thymodel.results.html_report import html_page
from thymodel.results.latex_report import latex_files
from thymodel.results.record import load_record
from thymodel.results.titled_table import TitledTable

pytestmark = pytest.mark.requirement("REQ-REP-02")

docx = pytest.importorskip("docx", reason="python-docx is not installed (extra docx)")

FITS = Path(__file__).resolve().parents[2] / "fits"
NAMES = ("reset02_design", "published_controls")
NUMBER = re.compile(r"(?<![\w.\[])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w\]])")
_CITED_MEDIAN = r'<span class="from" title="table.csv: (?!re_)[^"]*, median">(\d[\d.]*)'  # listings are not traced
SVG = ('<svg xmlns="http://www.w3.org/2000/svg" width="96" height="48" viewBox="0 0 96 48">'
       '<text x="4" y="20" font-size="12">pool</text></svg>')


@pytest.fixture(scope="module", params=NAMES)
def record(request):
    return load_record(FITS / request.param)


@pytest.fixture(scope="module")
def document(record) -> Document:
    return report.report_document(record, figures=False)


@pytest.fixture(scope="module")
def fields(record) -> "Fields":
    return Fields(record.folder)


# --- numbers -------------------------------------------------------------------------------------------------


class Fields:
    """What a field of a record says, read from its files with nothing of the package but the layout of its draws."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        with open(folder / "table.csv", newline="", encoding="utf-8") as file:
            self.rows = {row["name"]: row for row in csv.DictReader(file)}

    def value(self, field: str):
        file, _, place = field.partition(": ")
        if file == "table.csv":
            row, _, column = place.rpartition(", ")
            if row == "columns":
                low, high = (int(name.removeprefix("q")) for name in column.split(" to "))
                assert {"q05", "q95"} <= set(next(iter(self.rows.values())))
                return high - low
            if column in ("name", "label"):
                assert row in self.rows
                return row if column == "name" else row[row.index("[") + 1:-1]
            return float(self.rows[row][column] or "nan")
        if file == "posterior.nc":
            return self.drawn(*place.split(" of "))
        if place.startswith("number of "):
            return len(self._at(place.removeprefix("number of ")))
        return self._at(place)

    def _at(self, path: str):
        if path.startswith("files/"):
            return self.json["files"][path.removeprefix("files/")]
        value = self.json
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value

    def drawn(self, what: str, name: str) -> float:
        if what == "shrinkage":
            effects, omega = (self._draws[key].values for key in (name.replace("omega_", "re_"), name))
            return 1 - math.sqrt(effects.mean(axis=(0, 1)).var() / np.mean(omega**2))
        z, names = self._z
        return float(z[:, :, names.index(name)].std(ddof=1))

    @cached_property
    def _draws(self) -> xr.Dataset:
        with xr.open_dataset(self.folder / "posterior.nc", group="posterior", engine="h5netcdf") as found:
            return found.load()

    @cached_property
    def _z(self) -> tuple[np.ndarray, tuple[str, ...]]:
        path = self.folder / "posterior.nc"
        with xr.open_dataset(path, group="unconstrained_posterior", engine="h5netcdf") as found:
            return found["z"].values, tuple(load_record(self.folder).layout.population)


def disagree(fields: Fields, text: str, field: str) -> str:
    """Why a printed piece is not what its field says; empty where it is, to the printed digits."""
    value = fields.value(field)
    if isinstance(value, str | bool):
        shown = {True: ("True", "yes"), False: ("False", "no")}[value] if isinstance(value, bool) else (value,)
        return "" if text in shown or any(one.endswith(": " + text) for one in shown) else f"{text!r} is not {value!r}"
    if value is None or not math.isfinite(value):
        return "" if text == "not known" else f"{text!r} for {value}"
    percent = text.endswith("%") and field != "table.csv: columns, q05 to q95"
    figures = NUMBER.findall(text)
    if len(figures) != 1:
        return f"{text!r} is not one number"
    digits = re.sub(r"e.*", "", figures[0]).partition(".")[2]
    exponent = int(figures[0].partition("e")[2] or 0)
    half = 0.5 * 10.0 ** (exponent - len(digits))
    if "." not in figures[0] and not percent and abs(value) >= 1e4:  # of a long number four digits are printed
        half = 0.5 * 10.0 ** max(0, math.floor(math.log10(abs(value))) - 3)
    away = abs(float(figures[0]) - value * (100 if percent else 1))
    return "" if away <= half * (1 + 1e-9) else f"{text!r} is not {value!r}"


class Page(HTMLParser):
    """Pieces of sentences of results and of traced tables: (text, field), the field empty outside of a citation."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[str, str]] = []
        self.inside, self.field = "", ""

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        if tag == "p" and known.get("class") == "result":
            self.inside = "p"
        elif tag == "table" and known.get("class") == "traced":
            self.inside = "table"
        elif tag in ("caption", "th") and self.inside == "table":
            self.inside = "head"
        elif tag == "span" and known.get("class") == "from":
            self.field = known["title"]

    def handle_endtag(self, tag):
        if tag == "span":
            self.field = ""
        elif tag in ("caption", "th") and self.inside == "head":
            self.inside = "table"
        elif tag == self.inside:
            self.inside = ""

    def handle_data(self, text):
        if self.inside in ("p", "table"):
            self.pieces.append((text, self.field))


def faults_of_page(fields: Fields, text: str) -> list[str]:
    page = Page()
    page.feed(text)
    assert len(page.pieces) > 50
    found = [disagree(fields, piece, field) for piece, field in page.pieces if field]
    found += [f"{piece!r} is from nowhere" for piece, field in page.pieces if not field and NUMBER.search(piece)
              and piece != "0"]  # "0" stands where an arm has no observation of a marker
    return [fault for fault in found if fault]


def test_every_number_of_the_page_is_a_field_of_the_record(fields, document):
    assert faults_of_page(fields, html_page(document)) == []


def test_a_changed_number_of_the_page_is_found(fields, document):
    text = html_page(document)
    places = [m for m in re.finditer(_CITED_MEDIAN, text)]
    assert places
    place = places[len(places) // 2]
    digit = str((int(place[1][0]) + 1) % 10)
    changed = text[:place.start(1)] + digit + text[place.start(1) + 1:]
    assert len(faults_of_page(fields, changed)) == 1
    stray = text.replace('<p class="result">', '<p class="result">12 of them: ', 1)
    assert faults_of_page(fields, stray) == ["'12 of them: Arm ' is from nowhere"]


def texts_of_word(content: bytes) -> tuple[list[str], list[list[str]]]:
    """Sentences of results and the cells of each table of a Word file, by python-docx."""
    file = docx.Document(io.BytesIO(content))
    space = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
    tables = [["".join(t.text or "" for t in cell.iter(f"{space}t")) for cell in table._tbl.iter(f"{space}tc")]
              for table in file.tables]
    return [p.text for p in file.paragraphs if p.style.name == "Result"], tables


def faults_of_word(fields: Fields, document: Document, content: bytes) -> list[str]:
    """Where a Word file disagrees: with the cited text that it was made from, or that with the record."""
    said, tables = texts_of_word(content)
    wanted = [block.text for block in document.blocks() if isinstance(block, Paragraph) and block.style == "result"]
    grids = [block for block in document.blocks() if isinstance(block, Grid)]
    assert (len(said), len(tables)) == (len(wanted), len(grids))
    pairs = list(zip(said, wanted, strict=True))
    for cells, grid in zip(tables, grids, strict=True):
        if grid.traced:
            flat = [*grid.table.columns, *(cell for row in grid.table.rows for cell in row)]
            pairs += list(zip(cells, flat, strict=True))[len(grid.table.columns):]
    found = [f"{shown!r} is not {meant!r}" for shown, meant in pairs if shown != meant]
    found += [disagree(fields, text, field) for _, meant in pairs for text, field in pieces_of(meant) if field]
    return [fault for fault in found if fault]


@pytest.fixture(scope="module")
def word(document) -> bytes:
    from thymodel.results.docx_report import docx_bytes

    return docx_bytes(document)


def test_every_number_of_the_word_file_is_a_field_of_the_record(fields, document, word):
    assert faults_of_word(fields, document, word) == []


def test_a_changed_number_of_the_word_file_is_found(fields, document, word):
    file = docx.Document(io.BytesIO(word))
    [k] = [k for k, grid in enumerate(b for b in document.blocks() if isinstance(b, Grid)) if grid.key == "parameters"]
    run = file.tables[k].rows[1].cells[2].paragraphs[0].runs[0]
    run.text = run.text[:-1] + str((int(run.text[-1]) + 1) % 10)
    changed = io.BytesIO()
    file.save(changed)
    assert len(faults_of_word(fields, document, changed.getvalue())) == 1


# --- what it holds -------------------------------------------------------------------------------------------


def test_the_minimum_set_is_there_or_named_as_absent_with_a_reason(document):
    held = document.sections[1].blocks[0].table
    keys = {block.key for block in document.blocks() if isinstance(block, Grid | Picture)}
    keys |= {section.key for section in document.sections}
    assert len(held.rows) == len({row[:2] for row in held.rows}) == 29
    for kind, what, where, _ in held.rows:
        assert where.startswith("absent: ") or where.key in keys, (kind, what)
    present = {what for _, what, where, _ in held.rows if not where.startswith("absent")}
    assert {"priors with source", "final parameters", "criteria met or not", "endpoint by dose", "software",
            "code: model and spec"} <= present


def test_the_minimum_set_names_just_the_tables_that_answer_it(document):
    numbers = {block.key: block.number for block in document.blocks() if isinstance(block, Grid)}
    held = {what: where for _, what, where, _ in document.sections[1].blocks[0].table.rows}
    assert _named(held["criteria met or not"]) == {numbers["gates"], numbers["criteria"]}
    assert _named(held["assumptions"]) == {numbers[key] for key in ("assumptions", "model-assumptions", "doubtful")
                                           if key in numbers}


def _named(label: str) -> set[int]:
    """Of "Table 2, 4 to 6 and 9" the numbers 2, 4, 5, 6, 9."""
    found: set[int] = set()
    for part in re.split(", | and ", label.partition(" ")[2]):
        first, _, last = part.partition(" to ")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_the_summary_says_what_became_of_the_plan(record, document):
    said = " ".join(str(block.text) for block in document.sections[0].blocks if isinstance(block, Paragraph))
    criteria = next(block.table for block in document.blocks() if isinstance(block, Grid) and block.key == "criteria")
    if record.content.get("plan") is None:
        assert "No analysis plan was set down before the fit" in said
        return
    missed = [row[0] for row in criteria.rows if row[-1] == "not met"]
    assert missed and f"{len(missed)} not met ({', '.join(missed)})" in said and "Deviations from the plan:" in said


def test_a_column_has_room_for_its_longest_word():
    """A column of 12 letters beside long ones: narrower than its words it would break them, as "metho|d"."""
    table = TitledTable("log", "Log", ("method", "record", *(f"text {k}" for k in range(6))),
                        tuple(("nuts", f"a013e567ebc{k}", *("some words that say more than that " * 2,) * 6)
                              for k in range(3)))
    shares, letters = widths(table), 180  # what a line of a page on its side has room for
    assert sum(shares) == pytest.approx(1)
    assert shares[0] * letters >= len("method") and shares[1] * letters >= len("a013e567ebc0")


def test_figures_are_there_where_they_are_drawn(tiny_fit):
    made = report.report_document(tiny_fit)
    held = {what: where for _, what, where, _ in made.sections[1].blocks[0].table.rows}
    drawn = {"schematic of the model", "individual fits", "prior and posterior", "rank, trace, energy",
             "identifiability", "dose and endpoint, extrapolation shaded"}
    assert all(held[what].startswith("Figure") for what in drawn)
    pictures = [block for block in made.blocks() if isinstance(block, Picture)]
    assert [p.number for p in pictures] == list(range(1, len(pictures) + 1))
    assert all("SIMULATED" in p.alt and "SIMULATED" in p.caption for p in pictures if not p.svg)
    assert held["goodness of fit"] == "absent: not computed when a fit ends"


def test_what_cannot_be_checked_is_told_with_its_reason():
    why: dict[str, tuple[str, str]] = {}
    assert report._checks(load_record(FITS / "published_controls"), None, None, why) is None
    assert "no patients" in why["checks"][0]
    assert report._checks(load_record(FITS / "hsct_lymphocytes"), None, None, why) is None
    assert "do not lie beside the spec" in why["checks"][0] and "--show-data" in why["checks"][1]
    assert report._checks(load_record(FITS / "hsct_lymphocytes"), None, True, why) is None
    assert why["checks"] == ("the study data are not at hand", "thymodel report RECORD --data FILE")


def test_a_reservation_stands_on_every_page(tiny_fit):
    failed = replace(tiny_fit, content={**tiny_fit.content, "verdict": {"passed": False, "sentences": ["FAIL: x"]}})
    made = report.report_document(failed, figures=False)
    assert made.running == ("SIMULATED data: no patient", "FAILED its gates: may not be quoted")
    assert made.banners[-1].mood == "failed"


# --- files ---------------------------------------------------------------------------------------------------

_ODD = "50% & <b>_x_</b> #1 $2 {a} \\ ~ ^ 10⁻³ µg α ≥ 5 “so” – \u4e2d \x0b end"


@pytest.fixture(scope="module")
def small(tiny_png) -> Document:
    long = TitledTable("wide", f"Wide {_ODD}", tuple(f"column {k}" for k in range(16)),
                       (tuple(f"a_name_that_does_not_break_{k}" for k in range(16)),) * 70, (_ODD,))
    blocks = (Paragraph(_ODD), Paragraph(say("In ", Cited([("12%", "table.csv: x, median")])), "result"),
              Paragraph("key = 1  # code\n  [a.b]", "code"), Paragraph(_ODD, "bullet"), Paragraph(_ODD, "note"),
              Banner(_ODD, "warned"), Grid(long), Picture("a", _ODD, "a line", tiny_png, 12.0, 3.0),
              Picture("b", "drawing", "a box", b"", 1.0, 0.5, SVG))
    sections = numbered([Section("one", _ODD, blocks)])
    return Document(_ODD, "small", "0" * 64, "2026-01-01T00:00:00+00:00", True,
                    (Banner("SIMULATED data", "simulated"),), ("SIMULATED data",), sections)


@pytest.fixture(scope="module")
def tiny_png() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (120, 30), "white").save(out, "PNG")
    return out.getvalue()


def test_a_word_file_has_styles_captions_heads_and_alternative_texts(small):
    pytest.importorskip("resvg_py", reason="resvg-py is not installed (extra docx)")
    from thymodel.results.docx_report import docx_bytes

    content = docx_bytes(small)
    file = docx.Document(io.BytesIO(content))
    body = zipfile.ZipFile(io.BytesIO(content)).read("word/document.xml").decode()
    assert [p.style.name for p in file.paragraphs if p.style.name.startswith("Heading")] == ["Heading 1"]
    captions = [p for p in file.paragraphs if p.style.name == "Caption"]
    assert len(captions) == 3 and re.findall(r'w:instr=" SEQ (\w+)', body) == ["Table", "Figure", "Figure"]
    assert body.count("<w:tblHeader/>") == len(file.tables) == 1
    assert re.findall(r'<wp:docPr[^>]*descr="([^"]*)"', body) == ["a line", "a box"]
    assert {section.orientation for section in file.sections} == {0, 1}  # the wide table lies on its side
    [head] = {"".join(p.text for p in section.header.paragraphs) for section in file.sections}
    assert "SIMULATED" in head
    foot = zipfile.ZipFile(io.BytesIO(content)).read("word/footer1.xml").decode()
    assert " PAGE " in foot and " NUMPAGES " in foot and "0" * 16 in foot
    assert file.core_properties.subject == "SIMULATED data"
    assert "\ufffd end" in file.paragraphs[0].text  # what XML cannot hold is replaced, the rest kept
    assert content == docx_bytes(small)


def test_a_heading_stands_on_the_page_of_its_wide_table(small):
    pytest.importorskip("resvg_py", reason="resvg-py is not installed (extra docx)")
    from thymodel.results.docx_report import docx_bytes

    wide_one = next(block for block in small.blocks() if isinstance(block, Grid))
    made = replace(small, sections=(Section("one", "One", (Paragraph("text"),)), Section("two", "Two", (wide_one,))))
    body = zipfile.ZipFile(io.BytesIO(docx_bytes(made))).read("word/document.xml").decode()
    upright, on_its_side = body.split("</w:sectPr>")[:2]
    assert ">Two<" not in upright.partition('w:val="Heading1"')[2] and 'w:orient="landscape"' in on_its_side
    assert on_its_side.index(">Two<") < on_its_side.index("<w:tbl>")


def test_an_option_of_a_command_keeps_its_dashes_in_latex():
    """LaTeX would print one long dash, and what is printed could not be typed."""
    assert tex("thymodel report --to docx -- x") == "thymodel report -{}-to docx -{}- x"
    assert tex("a-b") == "a-b" and tex("---") == "-{}-{}-"


def test_latex_is_escaped_and_compiles(small, tmp_path):
    pytest.importorskip("resvg_py", reason="resvg-py is not installed (extra docx)")
    for path, content in latex_files(small, tmp_path / "report.tex").items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    text = (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert r"\hypersetup{pdftitle={50\%" in text and "pdfsubject={SIMULATED data}" in text
    assert r"50\% \& $<$b$>$\_x\_" in text and "[U+4E2D]" in text and r"$\alpha$" in text
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"], cwd=tmp_path,
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


# --- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["thymodel", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        return status, "".join(capsys.readouterr())

    return run


def test_the_command_writes_what_the_ending_says(call, tiny_fit, tmp_path):
    status, said = call("report", tiny_fit.folder, "--quick", "--out", tmp_path / "deep" / "tiny.docx")
    assert status == 0 and "written: " in said
    assert docx.Document(tmp_path / "deep" / "tiny.docx").core_properties.comments == f"record {tiny_fit.digest}"


@pytest.mark.parametrize("words, fault", [
    (("--to", "docx", "--out", "x.html"), "not the ending of docx"),
    (("--out", "."), "is a folder"),
    (("--quick", "--scenario", "a.toml"), "a quick report computes no scenario"),
    (("--quick", "--scores", "a.json"), "a quick report takes no scores"),
    (("--scores", "nowhere.json"), "nowhere.json"),
    (("--scenario", "nowhere.toml"), "nowhere.toml"),
])
def test_bad_options_are_refused_before_anything_is_written(call, tiny_fit, tmp_path, monkeypatch, words, fault):
    folder = shutil.copytree(tiny_fit.folder, tmp_path / "fit")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.chdir(tmp_path)
    status, said = call("report", folder, *words)
    assert status == 2 and fault in said and "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == before and not (tmp_path / "x.html").exists()


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"python-docx is not installed.*pip install 'thymodel\[docx\]'"):
        report.refuse_out(tmp_path / "a.docx", "docx")


def test_a_folder_without_a_record_is_refused(call, tmp_path):
    status, said = call("report", tmp_path)
    assert status == 2 and "no record here" in said
