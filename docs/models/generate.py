"""Writes the pages of this folder: python docs/models/generate.py. Run it when a model document has changed."""

from pathlib import Path

from thymodel.documents.model import Model, load_model, shipped_models
from thymodel.results.describing import describe
from thymodel.results.drawing import svg

FOLDER = Path(__file__).resolve().parent
_HEAD = """# The models that come with the package

Every equation, number, unit, source and assumption, written from the documents in `models/` by
`python docs/models/generate.py` (one model: `thymodel describe NAME --out FILE`). The Markdown pages show their
formulas on the web hosts of repositories; the HTML pages stand alone, for a browser.

| model | states | title | pages |
|---|---|---|---|
"""


def pages() -> dict[str, str]:
    """File name -> content."""
    models = {name: load_model(name) for name in shipped_models()}
    found = {"README.md": _HEAD + "".join(_line(model) for model in models.values())}
    for name, model in models.items():
        found |= {f"{name}.md": describe(model, "md", figure=f"{name}.svg"), f"{name}.html": describe(model, "html"),
                  f"{name}.svg": svg(model)}
    return found


def _line(model: Model) -> str:
    links = f"[Markdown]({model.name}.md), [HTML]({model.name}.html), [drawing]({model.name}.svg)"
    return f"| `{model.name}` | {len(model.states)} | {model.title} | {links} |\n"


if __name__ == "__main__":
    for file, text in pages().items():
        (FOLDER / file).write_text(text, encoding="utf-8", newline="\n")
