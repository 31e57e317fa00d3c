"""The explorer as widgets: the Python side of what a notebook shows, asked and answered as the page is."""

import sys
from pathlib import Path

import pytest

from thymodel.errors import InputError, RecordError
from thymodel.explorer import notebook
from thymodel.explorer.answers import Answers, make_bench
from thymodel.results.record import FitRecord, load_record

RECORD = Path(__file__).resolve().parents[2] / "fits/reset02_design"


@pytest.fixture(scope="module")
def widgets():
    return pytest.importorskip("ipywidgets", reason="needs the extra 'notebooks'")


@pytest.fixture(scope="module")
def answers():
    return Answers(make_bench(load_record(RECORD)))


@pytest.fixture(scope="module")
def board(answers, widgets):
    return notebook.Board(answers, widgets)


def test_there_is_a_slider_for_everything_that_the_page_asks(board, answers):
    assert list(board.sliders) == [slider.key for slider in answers.bench.controls.sliders]
    assert [one for _, one in board.endpoint.options] == list(answers.bench.fit.endpoints)


def test_what_is_shown_is_the_answer_of_the_page(board, answers):
    shown = board.text.value
    rows = answers.view(board.view)["table"]
    own = [row for row in rows if row["endpoint"] == answers.bench.fit.endpoints[board.view.endpoint].label]
    assert own and all(row["chosen"] in shown and row["difference"] in shown for row in own)
    assert "SIMULATED data." in shown and bytes(board.picture.value).startswith(b"\x89PNG")


def test_a_slider_changes_figure_and_table_and_a_covariate_only_where_it_is_fixed(board):
    before, picture = board.text.value, bytes(board.picture.value)
    board.sliders["dose.progenitors"].value = 30.0
    assert board.text.value != before and bytes(board.picture.value) != picture
    assert "strong" in board.text.value  # beyond twice the largest fitted dose
    assert "age" not in board.view.numbers and board.sliders["age"].disabled
    board.fixed["age"].value = True
    assert board.view.numbers["age"] == board.sliders["age"].value and not board.sliders["age"].disabled
    board.fixed["age"].value = False
    assert "age" not in board.view.numbers


def test_another_endpoint_brings_its_own_days(board, answers):
    for name, days in answers.bench.controls.endpoints.items():
        board.endpoint.value = name
        assert [day for _, day in board.by.options] == list(days) and board.view.endpoint == name
        assert board.view.by in days


def test_the_button_writes_the_scenario_that_was_answered_and_overwrites_nothing(board, answers, tmp_path):
    board.path.value = str(tmp_path / "mine.toml")
    board.save.click()
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == answers.view(board.view)["scenario"]
    assert "written" in board.said.value
    (tmp_path / "mine.toml").write_text("years of work")
    board.save.click()
    assert "there already" in board.said.value and (tmp_path / "mine.toml").read_text() == "years of work"
    board.path.value = str(tmp_path / "nowhere" / "mine.toml")
    board.save.click()
    assert "cannot be written" in board.said.value


def test_a_question_that_is_none_keeps_the_figure_and_says_why(board, monkeypatch):
    picture = bytes(board.picture.value)

    def refuse(view):
        raise InputError([notebook.Fault("age", "<b>not</b> an age")])

    monkeypatch.setattr(board.answers, "view", refuse)
    board._changed()
    assert "age: &lt;b&gt;not&lt;/b&gt; an age" in board.text.value and bytes(board.picture.value) == picture


def test_without_ipywidgets_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(InputError, match="explore_here: ipywidgets is not installed here. hint: pip install"):
        notebook.explore_here(load_record(RECORD))


def test_a_failed_record_is_refused(widgets):
    record = load_record(RECORD)
    content = dict(record.content) | {"verdict": {"passed": False, "sentences": ["FAIL"]}}
    with pytest.raises(RecordError, match="a failed fit may not be quoted"):
        notebook.explore_here(FitRecord(record.folder, content, record.digest, record.written))
