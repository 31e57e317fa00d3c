"""The documentation site has every page, every public name, every command and every key of the files."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer

import thymodel
from thymodel import cli

pytestmark = pytest.mark.requirement("REQ-DOC-01")

DOCS = Path(__file__).resolve().parents[1] / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


def entries() -> set[str]:
    """What the tables of contents name, with the places of their globs."""
    text = INDEX + (DOCS / "tutorials.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    return {line for block in blocks for line in block.splitlines() if line and not line.startswith(":")}


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("keys_and_commands", DOCS / "reference" / "keys_and_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_a_table_of_contents():
    pages = {str(path.relative_to(DOCS).with_suffix("")) for folder in (DOCS, DOCS / "migrate")
             for path in folder.glob("*.md")} - {"index"}
    assert pages <= entries()
    assert {"models/*", "qualification/*", "notebooks/*"} <= entries()


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. auto\w+:: thymodel\.(\w+)$", page, re.MULTILINE)) == set(thymodel.__all__)


def test_every_command_and_option_is_in_the_reference(generated):
    page = generated.commands_page()
    for name, command in generated._leaves(typer.main.get_command(cli.app)):
        assert f"## {name}\n" in page
        for option in (text for item in command.params for text in item.opts if text.startswith("--")):
            assert option == "--help" or option in page, (name, option)


def test_every_key_of_a_document_is_in_the_reference(generated):
    page = generated.files_page()
    for document, _ in generated.DOCUMENTS.values():
        assert [key for key in document.model_fields if f"| `{key}` |" not in page] == []
    assert "### `[between_subject.NAME]`" in page and "### `[arms.NAME.doses[]]`" in page


def test_commands_shown_on_a_page_exist():
    known = set(typer.main.get_command(cli.app).commands)
    for path in (*DOCS.glob("*.md"), *DOCS.glob("migrate/*.md")):
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                words = line.split()
                if words[:1] == ["thymodel"] and len(words) > 1 and not words[1].startswith("-"):
                    assert words[1] in known, (path.name, line)


def test_links_of_a_page_hold_in_the_repository():
    """The site has its own: `docs/conf.py` turns them."""
    made = {DOCS / "reference" / "commands.md", DOCS / "reference" / "files.md"}  # by the build
    for path in (*DOCS.glob("*.md"), *DOCS.glob("migrate/*.md"), *DOCS.glob("qualification/*.md")):
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
        places = [(path.parent / link).resolve() for link in links]
        assert [place for place in places if place not in made and not place.exists()] == [], path.name
        assert [link for link in links if link.startswith("notebooks/")] == [], "a folder of the site alone"
