"""The explorer: what a question is, that its answers are those of `thymodel scenario`, and the page in a browser."""

import io
import json
import re
import shutil
import socket
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest

from thymodel import cli
from thymodel.errors import InputError, RecordError
from thymodel.explorer import pages
from thymodel.explorer.answers import Answers, make_bench
from thymodel.explorer.pages import static_html
from thymodel.explorer.ports import open_port
from thymodel.explorer.server import make_app
from thymodel.explorer.views import first_view, read_view
from thymodel.results.record import load_record
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-SCN-05", "REQ-SEC-07")

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "fits/reset02_design"
ASKED = "dose.progenitors=4.5&day.progenitors=11&times=2&against=1.5&age=60&endpoint=rte4_2&by=180&log=1"
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
                None)


@pytest.fixture(scope="module")
def answers():
    return Answers(make_bench(load_record(RECORD)))


@pytest.fixture(scope="module")
def read(answers):
    return lambda query: read_view(query, answers.bench.controls, answers.bench.fit.model)


# --- questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query, told", [
    ("dose.progenitors=9000000", "doses are in millions of cells: if 9e\\+06 was meant in cells/kg, write 9"),
    ("dose.progenitors=-1", "must be 0 or more"),
    ("dose.progenitors=nan", "'nan' is not a finite number"),
    ("dose.progenitors=1&dose.progenitors=2", "given more than once"),
    ("age=300", "age: 300 is not between .* year"),
    ("times=1.5", "times: 1.5 is not a whole number"),
    ("endpoint=rte4", "no endpoint 'rte4'"),
    ("endpoint=cd4_200&by=11", "'11' is not a day of cd4_200"),
    ("agee=3", "nothing of that name here"),
    ("x" * 3000, "longer than 2000"),
    ("%00=1&%0d%0aSet-Cookie=x", r"\?\?Set-Cookie: nothing of that name"),
    ("age=<script>alert(1)</script>", "is not a finite number"),
    ("age=" + "9" * 400, "is not a finite number"),
    (";drop", "not of the form name=value"),
])
def test_a_hostile_or_mistaken_address_is_refused_with_its_place(read, query, told):
    with pytest.raises(InputError, match=told):
        read(query)


def test_every_fault_of_an_address_is_named(read):
    with pytest.raises(InputError) as caught:
        read("age=300&nobody=1&log=2&dose.progenitors=x")
    assert {fault.where for fault in caught.value.faults} == {"age", "nobody", "log", "dose.progenitors"}


def test_an_address_leads_back_to_its_question(read):
    assert read(read(ASKED).query) == read(ASKED)
    assert read(ASKED).numbers["age"] == 60 and "BW" not in read(ASKED).numbers


def test_the_sliders_begin_at_a_fitted_cohort_and_reach_beyond_the_fit(answers):
    controls = answers.bench.controls
    assert controls.slider("dose.progenitors").value == max(controls.fitted) == 9
    assert controls.slider("dose.progenitors").high > 30 and controls.slider("age").low <= 8
    assert set(controls.fitted) < set(controls.doses)


# --- answers ---------------------------------------------------------------------------------------------------------


def agree(mine: str, theirs: pd.DataFrame) -> None:
    """Two tables of the same scenario, one from steps laid beforehand: times to a hundredth of a day."""
    own = pd.read_csv(io.StringIO(mine), keep_default_na=False, na_values=[""])
    theirs = pd.read_csv(io.StringIO(theirs.to_csv(index=False)), keep_default_na=False, na_values=[""])
    assert list(own.columns) == list(theirs.columns) and len(own) == len(theirs) > 10
    for column in own:
        if column in ("estimate", "lower", "upper", "subjects_q05", "subjects_q95", "p_above_1"):
            a, b = own[column].to_numpy(float), theirs[column].to_numpy(float)
            finite = np.isfinite(a)
            assert np.array_equal(a[~finite], b[~finite], equal_nan=True)
            assert np.abs(a[finite] - b[finite]).max() < 0.01
        elif column != "why":  # holds percentages that round
            assert own[column].astype(object).fillna("").tolist() == theirs[column].astype(object).fillna("").tolist()


@pytest.mark.parametrize("of_doses", [False, True])
def test_a_saved_scenario_gives_the_numbers_of_the_page(answers, read, tmp_path, of_doses):
    found = (answers.dose_response if of_doses else answers.view)(read(ASKED))
    file = tmp_path / "saved.toml"
    file.write_text(found["scenario"], encoding="utf-8")
    assert "SIMULATED" in found["scenario"].splitlines()[0]
    theirs = run_scenario(answers.bench.record, file).table
    agree(found["csv"], theirs)
    other = answers.view(read(ASKED.replace("dose.progenitors=4.5", "dose.progenitors=30")))
    if not of_doses:  # the comparison can fail: another dose does not agree
        with pytest.raises(AssertionError):
            agree(other["csv"], theirs)


def test_verdicts_of_the_page_are_those_that_the_design_deserves(answers, read):
    def level(query):
        return next(one["level"] for one in answers.view(read(query))["verdicts"] if one["arm"] == "chosen")

    assert [level(f"dose.progenitors={dose}&age={age}") for dose, age in ((4, 45), (30, 45), (4, 8))] == [
        "interpolation", "strong", "strong"]


def test_more_infused_progenitors_never_lower_the_recent_thymic_emigrants(answers, read):
    panel = next(one for one in answers.view(read(ASKED))["courses"]["panels"] if one["name"] == "rte4")
    compared, chosen = (np.array(arm["uncertainty"][1]) for arm in panel["arms"])
    assert np.all(chosen >= compared - 1e-9) and np.any(chosen > 1.1 * compared)
    for arm in panel["arms"]:
        low, middle, high = (np.array(values) for values in arm["uncertainty"])
        assert np.all(low <= middle) and np.all(middle <= high)


def test_an_answer_is_json_without_infinities(answers, read):
    json.dumps([answers.view(read(ASKED)), answers.dose_response(read(ASKED))], allow_nan=False)


def test_a_failed_record_is_refused(tmp_path):
    folder = tmp_path / "failed"
    shutil.copytree(RECORD, folder)
    content = json.loads((folder / "record.json").read_text())
    content["verdict"] = {"passed": False, "sentences": ["FAIL: R-hat"]}
    (folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="failed fit may not be quoted"):
        make_bench(load_record(folder))


def test_a_fit_without_endpoints_has_nothing_to_explore(answers):
    from thymodel.explorer.views import make_controls

    with pytest.raises(InputError, match="no endpoint"):
        make_controls(answers.bench.fit, answers.bench.fitted, {})


# --- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(answers):
    import uvicorn

    with open_port(0) as taken:
        server = uvicorn.Server(uvicorn.Config(make_app(answers), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


def fetch(address: str, host: str | None = None):
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, dict(found.headers), found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_a_hostile_address_gets_400_and_one_plain_message(address):
    for page in ("", "answer", "dose-response"):
        status, headers, text = fetch(f"{address}{page}?age=%3Cscript%3Ealert(1)%3C/script%3E")
        assert status == 400 and headers["content-type"].startswith("text/plain")
        assert text.startswith("age: '<script>alert(1)</script>' is not a finite number") and text.count("\n") == 1
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_may_load_from_its_own_host_alone(address):
    status, headers, text = fetch(address)
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert not re.search(r"(src|href)=\"?(https?:)?//", text)
    assert "SIMULATED data, not patients" in text


def test_a_foreign_name_that_leads_here_is_not_answered(address):
    assert fetch(f"{address}answer", host="elsewhere.example")[0] == 400


def test_a_port_in_use_is_one_line_and_status_2(monkeypatch, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["thymodel", "explore", str(RECORD), "--port", str(port), "--no-browser"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    said = capfd.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.startswith(f"--port {port}: cannot be used") and said.err.count("\n") == 1


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser):
    """A page that keeps every address it asks for and every error of its program."""
    found = browser.new_page(viewport={"width": 1400, "height": 900})
    found.asked, found.errors = [], []
    found.on("request", lambda request: found.asked.append(request.url))
    found.on("pageerror", lambda error: found.errors.append(str(error)))
    yield found
    found.close()
    assert found.errors == []


def opened(page, address: str):
    page.goto(address)
    page.wait_for_selector("figure[data-name=dose_response]:not(.waiting)", timeout=60_000)
    return page


def changed(page, act) -> None:
    """Waits for the answer that an act asks for."""
    before = page.get_attribute("body", "data-answers")
    act()
    page.wait_for_selector(f"body:not([data-answers='{before}'])", timeout=60_000)


def saved(page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_every_slider_changes_the_answer_by_keyboard(page, address, answers):
    opened(page, address)
    for slider in answers.bench.controls.sliders:
        changed(page, lambda key=slider.key: page.locator(f"[id='{key}']").press("ArrowRight"))
        asked = dict(parse_qsl(urlsplit(page.url).query))
        begins = slider.value if slider.value is not None else np.nan
        assert float(asked[slider.key]) != begins
    for name in answers.bench.controls.covariates:
        assert not page.is_checked(f"[id='{name}-fitted']")
        changed(page, lambda name=name: page.check(f"[id='{name}-fitted']"))
        assert name not in dict(parse_qsl(urlsplit(page.url).query))
    assert {urlsplit(url).netloc for url in page.asked if url.startswith("http")} == {urlsplit(address).netloc}


def test_a_typed_number_a_choice_and_a_tick_are_taken(page, address):
    opened(page, address)
    before = page.inner_html("figure[data-name=cd4]")
    changed(page, lambda: (page.fill("[id='dose.progenitors-number']", "30"),
                           page.press("[id='dose.progenitors-number']", "Enter")))
    assert page.get_attribute(".verdict[data-arm=chosen]", "data-level") == "strong"
    page.check("#log")
    page.select_option("#endpoint", "rte4_2")
    page.select_option("#by", "180")
    assert page.inner_html("figure[data-name=cd4]") != before
    assert "endpoint=rte4_2&by=180&log=1" in page.url
    page.fill("[id='age-number']", "999")
    page.press("[id='age-number']", "Enter")
    page.wait_for_selector("#status.fault")
    assert page.text_content("#status").startswith("age: 999 is not between")


def test_a_link_reproduces_its_view(page, address, browser):
    opened(page, f"{address}?{ASKED}")
    assert page.input_value("[id='dose.progenitors-number']") == "4.5" and page.is_checked("#log")
    other = opened(browser.new_page(viewport={"width": 1400, "height": 900}), page.url)
    assert other.inner_html("#figures") == page.inner_html("#figures")
    assert other.inner_html("#table") == page.inner_html("#table")
    other.close()


def test_downloads_hold_what_is_shown(page, address, answers, read):
    opened(page, f"{address}?{ASKED}")
    found = answers.view(read(ASKED))
    name, content = saved(page, "#save-scenario")
    assert name == "reset02_design_scenario.toml" and content.decode() == found["scenario"]
    assert tomllib.loads(content.decode())["arms"]["chosen"]["covariates"] == {"age": 60}
    name, content = saved(page, "#save-doses")
    assert "dose_response" in tomllib.loads(content.decode())
    assert saved(page, "#save-table")[1].decode() == found["csv"]
    curves = pd.read_csv(io.BytesIO(saved(page, "#save-curves")[1]), comment="#")
    shown = curves[(curves["figure"] == "rte4") & curves["quantity"].str.startswith("median")]
    panel = next(one for one in found["courses"]["panels"] if one["name"] == "rte4")
    assert shown["median"].tolist() == [value for arm in panel["arms"] for value in arm["uncertainty"][1]]
    for button, size in (("figure[data-name=cd4] button", (1120, 800)), ("#save-figures", (2240, 2400))):
        name, content = saved(page, button)
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == size


def test_every_figure_says_that_the_data_are_simulated(page, address):
    opened(page, address)
    figures = page.locator("#figures figure svg")
    assert figures.count() == 6
    assert all("SIMULATED data, not patients" in text for text in figures.all_text_contents())


def test_a_narrow_page_does_not_run_over(page, address):
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# --- one file ----------------------------------------------------------------------------------------------------


def test_a_file_answers_without_a_server_and_says_what_is_fixed(page, answers, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_AGES", 2)  # a full one takes half a minute
    file = tmp_path / "explore.html"
    file.write_text(static_html(answers), encoding="utf-8")
    opened(page, file.as_uri())
    assert "Fixed in it" in page.text_content("header") and "SIMULATED" in page.text_content("body")
    before = page.inner_html("#table")
    page.locator("[id='dose.progenitors']").press("ArrowRight")
    page.locator("[id='age']").press("ArrowLeft")
    assert page.inner_html("#table") != before
    dose = page.input_value("[id='dose.progenitors-number']")
    _, content = saved(page, "#save-scenario")
    start = first_view(answers.bench.controls)
    assert tomllib.loads(content.decode())["arms"]["chosen"]["doses"][0]["amount"] == float(dose)
    assert float(dose) in answers.bench.controls.doses and float(dose) != start.numbers["dose.progenitors"]
    assert {urlsplit(url).scheme for url in page.asked} <= {"file", "data", "blob"}
