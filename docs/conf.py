"""The documentation site: `sphinx-build -W docs build/site`. No network is needed, and its pages use none.

Sphinx with MyST, because the pages are the Markdown files that also read well in the repository, the notebooks are the
tutorials as they are, and a wrong reference is an error. Commands, keys of files and Python names are read from the
package, so that they cannot lag behind it.
"""

import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "reference"))

import keys_and_commands  # noqa: E402
from docutils import nodes  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

import thymodel  # noqa: E402

for library in ("arviz", "jax"):  # whose news at import Sphinx would print
    logging.getLogger(library).setLevel(logging.WARNING)

project = "thymodel"
author = "The thymodel developers"
project_copyright = "The thymodel developers, Apache License 2.0"
version = release = thymodel.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest", "sphinx.ext.githubpages"]
exclude_patterns = ["models/*.html", "README.md"]
html_theme = "furo"
html_title = f"thymodel {release}"
html_show_sphinx = False
html_math_renderer = "mathml"
smartquotes_action = "qe"  # quotes and ellipses; two hyphens stay, for they begin an option
default_role = "code"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
# The notebooks are kept without outputs and each is run by the tests; THYMODEL_DOCS_RUN=1 runs them once more, ten
# minutes, for a site that shows their figures.
nb_execution_mode = "cache" if os.environ.get("THYMODEL_DOCS_RUN") else "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True

doctest_global_setup = f"import os; os.chdir({str(DOCS.parent)!r})"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the signature; shapes as strings would read as missing references
napoleon_google_docstring, napoleon_numpy_docstring = True, False

linkcheck_timeout = 20
linkcheck_workers = 2

ROOT = DOCS.parent
_COPIED = ("CHANGELOG.md", "benchmarks/RESULTS.md", "benchmarks/*.png", "qualification/*.md")
_REPORTS = [path for pattern in _COPIED for path in ROOT.glob(pattern)]
_OUTSIDE = re.compile(r"\]\((?:\.\./)+(?:qualification/|benchmarks/|(?=CHANGELOG))(\w+\.md)")  # copied below
_ELSEWHERE = re.compile(r"\[([^]]+)\]\((?:\.\./)+((?:fits|models|thymodel)/[^)]*)\)")
_INSIDE = re.compile(r"\]\((?:\.\./)+(?:docs/|(?=notebooks/))")  # brought along below


def _bring(folder: str, paths: list[Path]) -> None:
    """Files that lie outside of docs/, where people look for them; the site needs them inside."""
    target = DOCS / folder
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in paths:
        content = path.read_bytes()
        (target / path.name).write_bytes(_mended(content) if path.suffix == ".ipynb" else content)


def _mended(content: bytes) -> bytes:
    """A notebook that says it is IPython's, whose lines may begin with an exclamation mark, with links of the site."""
    notebook = json.loads(content)
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _linked("".join(cell["source"]))
    return json.dumps(notebook).encode()


def _linked(text: str) -> str:
    """Links that hold in the repository, as the site has their targets; of files that are not in it stands the path."""
    return _ELSEWHERE.sub(_named, _INSIDE.sub("](/", _OUTSIDE.sub(r"](/reports/\1", text)))


def _named(link: re.Match[str]) -> str:
    text, path = link.groups()
    return text if path.startswith(text.strip("`")) else f"{text} (`{path}`)"


def _link(app, name: str, source: list[str]) -> None:
    if not name.startswith("notebooks/"):
        source[0] = _linked(source[0].replace("](docs/", "](/") if name == "reports/CHANGELOG" else source[0])


def _inline(writer, node) -> None:
    """An equation as MathML, which browsers set by themselves: the page asks nobody for a script."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(writer, node) -> None:
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("source-read", _link)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))


_bring("notebooks", sorted((ROOT / "notebooks").glob("*.ipynb")))
_bring("reports", _REPORTS)
keys_and_commands.write(DOCS / "reference")
