"""What the README shows is so: its commands are understood, its example runs, its files are there."""

import csv
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

import thymodel
from thymodel import cli
from thymodel.documents.model import parse_model, shipped_models
from thymodel.results import tables
from thymodel.results.simulation import simulate_one

pytestmark = pytest.mark.requirement("REQ-CLI-03")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every `thymodel ...` of the README's shell blocks, also at the end of a longer line."""
    lines = [line.removeprefix("$ ") for block in blocks("sh") + blocks("console") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("thymodel ")]


@pytest.mark.parametrize("line", commands())
def test_a_command_is_understood_and_its_files_are_there(line):
    name, *words = shlex.split(line)[1:]
    group = typer.main.get_command(cli.app)
    context = group.make_context("thymodel", [name, *words], resilient_parsing=True)
    _, command, rest = group.resolve_command(context, [name, *words])
    command.make_context(name, rest, parent=context)  # a usage error raises
    assert [word for word in words if word.startswith(("fits/", "models/")) and not (ROOT / word).exists()] == []


def test_every_command_is_described_and_none_that_is_not_there():
    described = set(re.findall(r"^\| `thymodel ([\w-]+)", README, re.MULTILINE))
    assert described == set(typer.main.get_command(cli.app).commands)


def test_the_simulation_prints_what_is_shown():
    [shown] = blocks("console")
    line, *rows = shown.splitlines()
    words = shlex.split(line)
    option = dict(zip(words[4::2], words[5::2], strict=True))
    course = simulate_one(words[3], option["--times"], [option["--dose"]], [], [], option["--observe"])
    for row, found in zip(csv.DictReader(io.StringIO("\n".join(rows))), course.to_dict("records"), strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(found, rel=1e-4)


def test_the_example_model_is_a_model():
    [text] = blocks("toml")
    model = parse_model(text, "README.md")
    assert list(model.states) == ["x"]


def test_the_shipped_models_are_named():
    named = dict(re.findall(r"^\| \[`(\w+)`\]\(models/\w+\.toml\) \| (\d+) \|", README, re.MULTILINE))
    assert {name: int(states) for name, states in named.items()} == {
        name: len(thymodel.load_model(name).states) for name in shipped_models()}


def test_the_python_example_uses_names_that_are_there():
    [code] = blocks("python")
    compile(code, "README.md", "exec")
    assert set(re.findall(r"thymodel\.(\w+)", code)) <= set(thymodel.__all__)


def table_rows() -> dict[str, tuple[str, str]]:
    found = re.findall(r"^\| (control|dose_\w+) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    return {arm: (cd4, rte) for arm, cd4, rte in found}


def test_the_times_shown_are_those_of_the_record():
    assert set(table_rows()) == {"control", "dose_1_5", "dose_4", "dose_9"}
    if not (ROOT / "fits/reset02_design/record.json").exists():
        return
    record = thymodel.load_record(ROOT / "fits/reset02_design")
    shown = {arm: [cd4, rte] for arm, (cd4, rte) in table_rows().items()}
    medians: dict[str, list[str]] = {arm: [] for arm in shown}
    for row in tables.reconstitution_rows(record):
        if row["endpoint"].startswith(("CD4 above 200", "RTE")):
            medians[row["arm"]] += [text for key, text in row.items() if key.startswith("median")]
    assert shown == medians


def test_ci_runs_the_tests_as_the_readme_says():
    [line] = [line for block in blocks("sh") for line in block.splitlines() if "pytest" in line]
    install, tests = (part.strip() for part in line.split("&&")[-2:])
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert install.replace("pip install ", "") in script
    assert script.rstrip().splitlines()[-1] == tests


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


def test_pins_are_plain_and_cover_what_is_required():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    pinned = [pin.split("==")[0] for pin in pins]
    assert pinned == sorted(set(pinned))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[^A-Za-z0-9_-]", requirement)[0].lower() for requirement in asked} - {"thymodel"}
    assert names <= set(pinned)
