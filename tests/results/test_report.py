"""The report stands alone, agrees with the record, and shows no more than it may."""

import html
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from thymodel.errors import InputError, RecordError
from thymodel.results import report, report_tables, tables
from thymodel.results.document import Grid
from thymodel.results.record import POSTERIOR, TABLE, FitRecord, load_group, load_record

pytestmark = pytest.mark.requirement("REQ-REP-01")


@pytest.fixture(scope="module")
def text(tiny_fit) -> str:
    return report.report_html(tiny_fit)


def _with(record: FitRecord, **changes) -> FitRecord:
    return replace(record, content={**record.content, **changes})


def _rows(text: str, table: str) -> list[list[str]]:
    body = re.search(rf'<table id="{table}"[^>]*>(.*?)</table>', text, re.S)
    assert body is not None
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in body[1].split("</tr>")]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in rows if row]


@pytest.mark.parametrize("numbers, told", [
    ([7], "Table 7"), ([9, 10], "Table 9 and 10"), ([7, 8, 24], "Table 7, 8 and 24"), ([24, 11], "Table 11 and 24"),
    ([4, 6, 5, 9], "Table 4 to 6 and 9")])
def test_a_reference_names_no_table_that_lies_between(numbers, told):
    blocks = [replace(Grid(report.TitledTable("t", "", ("a",), ())), number=number) for number in numbers]
    assert report._labels(blocks) == told


@pytest.mark.requirement("REQ-SEC-07")
def test_nothing_is_loaded_from_outside(text):
    sources = re.findall(r'(?:src|href|srcset|action|data)\s*=\s*"([^"]*)"', text)
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import|url\((?!#)", text)


def test_text_of_documents_is_escaped(text):
    assert "<script" not in text
    assert "Tiny &lt;script&gt;alert(1)&lt;/script&gt; fit" in text
    assert "Decay &lt;of one pool&gt;" in text


@pytest.mark.requirement("REQ-QUO-04")
def test_simulated_data_are_named_so_in_title_and_banner(text):
    assert re.search(r"<title>[^<]*SIMULATED", text)
    assert '<p class="banner simulated">SIMULATED data' in text


@pytest.mark.requirement("REQ-QUO-04")
def test_real_data_have_no_banner(tiny_fit):
    text = report.report_html(_with(tiny_fit, simulated=False), figures=False)
    assert 'class="banner simulated"' not in text and not re.search(r"<title>[^<]*SIMULATED", text)
    log = text[text.index('<table id="run_log"'):]  # of the runs as they were, which no change of this record alters
    assert "SIMULATED" not in text.replace(log[:log.index("</table>")], "")


def test_numbers_of_the_parameter_table_are_those_of_the_csv(text, tiny_fit):
    rows, table = _rows(text, "parameters"), tiny_fit.table
    assert [row[0] for row in rows] == [name for name in table.index if "[" not in name]
    for name, _, median, sd, interval, _, rhat, bulk, tail, _ in rows:
        low, high = interval.split(" to ")
        found = [float(value) for value in (median, sd, low, high, rhat, bulk, tail)]
        stored = table.loc[name, ["median", "sd", "q05", "q95", "rhat", "ess_bulk", "ess_tail"]]
        assert found == pytest.approx([float(value) for value in stored], rel=6e-3, abs=0.51)
        assert found[:4] == pytest.approx([float(value) for value in stored[:4]], rel=6e-3)


@pytest.mark.requirement("REQ-END-07")
def test_interval_kind_and_its_meaning_are_named(text):
    assert "equal-tailed 90% interval" in text and "parameter uncertainty only" in text


def test_a_failed_fit_is_told_before_any_number(tiny_fit):
    sentences = ["FAIL: worst R-hat 1.2 (x0), gate < 1.01"]
    found = report.report_html(_with(tiny_fit, verdict={"passed": False, "sentences": sentences}), figures=False)
    assert "The fit FAILED its gates: no number of this report may be quoted." in found
    assert found.index("FAILED") < found.index("<table")
    assert html.unescape(found).count(sentences[0]) == 1
    assert "The fit failed its gates: the numbers below describe its draws and may not be quoted." in found


def test_a_fit_that_passed_says_so(text):
    assert "The fit passed its gates." in text and "FAILED" not in text


@pytest.mark.requirement("REQ-REC-05")
def test_priors_come_with_their_sources_and_whether_verified(text):
    rows = {row[0]: row for row in _rows(text, "priors")}
    assert rows["x0"][1:5] == ["cell/uL", "lognormal(median=100, sd=0.5)", "made up", "yes"]
    assert rows["k"][3:5] == ["made up & unverified", "no"]


@pytest.mark.requirement("REQ-DAT-02")
def test_exclusions_are_counted_with_their_reason(text, tiny_fit):
    rows, excluded = _rows(text, "exclusions"), tiny_fit.content["data"]["exclusions"]
    assert [(row[0], row[1]) for row in rows] == [(excluded[0]["reason"], "1")]


def test_a_record_that_the_model_misses_is_listed_without_its_value(text):
    assert ["4", "15", "count"] in [row[:3] for row in _rows(text, "misfit")]


def test_measured_values_are_in_no_text(tiny_fit):
    assert "93.25" not in report.report_html(tiny_fit, figures=False)


def test_data_that_do_not_lie_beside_the_spec_are_not_drawn(tiny_fit):
    apart = _with(tiny_fit, data={**tiny_fit.content["data"], "path": None})
    found = report.report_html(apart, tiny_fit.folder / "study.csv")
    assert "Measured values are not drawn" in found and "Individual fits" not in found


def test_measured_values_can_be_asked_for(tiny_fit):
    apart = _with(tiny_fit, data={**tiny_fit.content["data"], "path": None})
    assert "Individual fits" in report.report_html(apart, tiny_fit.folder / "study.csv", show_data=True)


def test_other_data_are_refused(tiny_fit, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("ID,TIME\n1,0\n")
    with pytest.raises(InputError, match="not the data of this record"):
        report.report_html(tiny_fit, other)


def test_the_reconstitution_time_is_a_sentence_for_every_arm(tiny_fit):
    said = report_tables.result_sentences(report_tables.Source(tiny_fit))
    assert [sentence.split(":")[0] for sentence in said] == ["Arm control", "Arm dosed"]
    assert "equal-tailed 90% interval" in said[0] and "by day 20" in said[0]


def test_the_saved_report_is_the_same_each_time(tiny_fit, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_fit.folder, folder)
    path = report.save_report(load_record(folder))
    assert path == folder / "report.html" and path.read_text() == report.report_html(load_record(folder))


@pytest.mark.parametrize("quick", [True, False])
def test_no_report_is_made_of_a_record_whose_files_changed(tiny_fit, tmp_path, quick):
    folder = shutil.copytree(tiny_fit.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("report.*"))
    lines = (folder / TABLE).read_text().splitlines()
    lines[1] = lines[1].replace(lines[1].split(",")[1], "9.87654", 1)
    (folder / TABLE).write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match="table.csv: changed since the fit"):
        report.save_report(load_record(folder)) if quick else report.compute(load_record(folder))
    assert not (folder / "report.html").exists()


def test_the_parameter_table_says_what_was_learned_beyond_the_prior(tiny_fit, text):
    """The SD of a lognormal's log over its prior's, by numpy from the draws of the parameter itself."""
    draws = np.log(np.asarray(load_group(tiny_fit.folder / POSTERIOR, "posterior")["k"]))
    wanted = f"{draws.std(ddof=1) / 0.5:.2f}"
    assert {row["name"]: row["sd/prior sd"] for row in tables.parameter_rows(tiny_fit)}["k"] == wanted
    assert {row[0]: row[-1] for row in _rows(text, "parameters")}["k"] == wanted
