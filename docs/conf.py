"""The documentation site: `sphinx-build -W -b html docs build/site`; no network is needed, and none is used by its pages.

Sphinx with MyST, because the pages are the Markdown files that also read well in the repository, the notebooks are the
tutorials as they are, and a wrong reference is an error. Commands, keys of files and Python names are read from the
package, so that they cannot lag behind it.
"""

import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "reference"))

import keys_and_commands  # noqa: E402

import thymodel  # noqa: E402

project = "thymodel"
author = "The thymodel developers"
project_copyright = "The thymodel developers, Apache License 2.0"
version = release = thymodel.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest", "sphinx.ext.githubpages"]
exclude_patterns = ["models/*.html", "README.md"]
html_theme = "furo"
html_title = f"thymodel {release}"
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_missing_source"]
# The notebooks are kept without outputs and each is run by the tests; THYMODEL_DOCS_RUN=1 runs them once more, ten
# minutes, for a site that shows their figures.
nb_execution_mode = "cache" if os.environ.get("THYMODEL_DOCS_RUN") else "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the signature; shapes as strings would read as missing references
napoleon_google_docstring, napoleon_numpy_docstring = True, False

linkcheck_timeout = 20
linkcheck_workers = 2

ROOT = DOCS.parent


def _bring_notebooks() -> None:
    """The notebooks lie outside of docs/, where people look for them; the site needs them inside."""
    target = DOCS / "notebooks"
    target.mkdir(exist_ok=True)
    for path in target.glob("*.ipynb"):
        path.unlink()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, target)


_bring_notebooks()
keys_and_commands.write(DOCS / "reference")
