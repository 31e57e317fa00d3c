"""Every notebook runs from top to bottom, in a copy; what it draws says SIMULATED, or REAL if figures are published."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from thymodel.documents.model import parse_model

pytestmark = pytest.mark.requirement("REQ-CLI-03")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# its figures are published ones of groups of people: to call these SIMULATED would be as wrong as to call others REAL
OF_PUBLISHED_FIGURES = "06_published_cohorts"
# a last cell: everything that the notebook drew and kept under a name
_BANNERS = """
from matplotlib.figure import Figure as _Figure
_drawn = {name: value for name, value in globals().items() if isinstance(value, _Figure) and name[0] != "_"}
assert _drawn, "no figure"
_bare = [name for name, figure in _drawn.items()
         if not any("BANNER" in text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))]
assert not _bare, f"without banner: {_bare}"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The directories that notebooks read, side by side as in the repository."""
    for name in ("notebooks", "fits/reset02_design", "fits/published_controls"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def banner(path: Path) -> str:
    return "REAL published figures" if path.stem == OF_PUBLISHED_FIGURES else "SIMULATED"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_figures_say_what_they_are_of(path, copy, monkeypatch):
    monkeypatch.setenv("THYMODEL_EXTERNAL", str(copy / "nowhere"))  # what is published is fitted in tests/external
    notebook, before = nbformat.read(path, as_version=4), files(copy)
    notebook.cells.append(nbformat.v4.new_code_cell(_BANNERS.replace("BANNER", banner(path))))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(copy / "notebooks")}}).execute()
    # what a shell could not find is printed among the answers of `said = !...`, and no error of the notebook
    complaints = [output.text for cell in notebook.cells for output in cell.get("outputs", [])
                  if output.output_type == "stream" and (output.name == "stderr" or "not found\n" in output.text)]
    assert complaints == []
    assert files(copy) == before  # it writes elsewhere


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_there_is_a_notebook():
    assert NOTEBOOKS


def test_the_model_of_ones_own_is_a_document_of_fewer_than_a_hundred_lines():
    notebook = nbformat.read(ROOT / "notebooks" / "02_your_own_model.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if cell.source.startswith("%%writefile hiv.toml\n")]
    document = cell.source.partition("\n")[2]
    assert len(document.splitlines()) < 100
    model = parse_model(document, "hiv.toml")
    assert {"virus", "cd4"} == set(model.observables)
