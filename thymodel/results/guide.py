"""The reviewer's guide of a bundle: its purpose, what was run in which order, what is in every file, how to rebuild."""

import html
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

import thymodel
from thymodel.results.define import Defined
from thymodel.results.frames import TEMPLATES
from thymodel.results.record import FitRecord
from thymodel.results.titled_table import TitledTable

_PURPOSES = {  # by the path's first part in a record's folder, or by its name
    "rebuild.py": "checks the manifest, computes every table again and compares",
    "constraints.txt": "versions of every package, for pip",
    "define.xml": "data definitions, Define-XML 2.1", "define.html": "data definitions, to read",
    "define.csv": "data definitions, as one table", "reviewers-guide.md": "this guide, as text",
    "reviewers-guide.html": "this guide, for a browser",
    "model.txt": "model document as ASCII text", "spec.toml": "what was asked of the fit",
    "design.toml": "design of the simulated study", "plan.toml": "analysis plan",
    "equations.md": "the model's equations, numbers and sources", "equations.html": "the same, for a browser",
    "equations.tex": "the same, for LaTeX",
    "1-disposition.csv": "subjects, doses, measurements and exclusions by arm",
    "1-exclusions.csv": "every row that the fit left out, and why", "2-priors.csv": "priors with their sources",
    "3-quantities.csv": "posterior of every quantity, from the draws", "3-verdict.txt": "verdict on the draws",
    "3-parameters.csv": "final parameters with units, intervals, diagnostics",
    "4-verify.txt": "what verify says of the record", "5-endpoints.csv": "reconstitution times by arm",
    "5-implied-export.csv": "implied thymic export over a healthy one",
    "5-extrapolation.csv": "how far predictions go beyond the data",
    "7-predictive-checks.csv": "predictive checks: every question, with its p value",
    "7-m15-assessment.csv": "assessment table of ICH M15", "7-criteria.csv": "technical criteria, planned and found",
    "7-deviations.csv": "deviations from the analysis plan", "7-assumptions.csv": "register of assumptions",
    "7-assumed-numbers.csv": "numbers that are assumed, calibrated or not looked up",
    "7-credibility.csv": "credibility matrix", "manifest.csv": "SHA-256, size and purpose of every file but itself",
    "record.json": "the record: digests, priors, seed, versions, diagnostics, verdict, table",
    "posterior.nc": "every draw (netCDF, opens with ArviZ)", "derived.nc": "draws of endpoints by arm (netCDF)",
    "curves.nc": "what figures draw (netCDF)", "table.csv": "posterior of every quantity, as the fit wrote it",
    "report.html": "report of the fit with figures",
    "events.csv": "data set EVENTS", "indpred.csv": "data set INDPRED", "indpar.csv": "data set INDPAR",
    "quants.csv": "data set QUANTS", "draws.csv": "data set DRAWS"}
_FOLDERS = {"record": "part of the fit record", "data": "study data, byte for byte as fitted",
            "programs": "model document", "software": "source of the software"}


@dataclass
class Bundled:
    """One record in a bundle: where, which data sets it gave, and what had to be left out."""

    record: FitRecord
    name: str
    defined: list[Defined] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def files_of(folder: Path) -> list[str]:
    """Paths of every file, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def purpose(path: str) -> str:
    """What a file of a bundle is."""
    parts = path.split("/")
    name = parts[-1]
    if parts[0] == "software":
        return _FOLDERS["software"]
    if len(parts) > 1 and parts[1] == "data":
        return _FOLDERS["data"]
    if name.endswith(".xpt"):
        return f"{_PURPOSES.get(name[:-4] + '.csv', 'data set')}, SAS transport version 5"
    if name.startswith("6-scenario-"):
        return "table of a scenario"
    if name.endswith("-import.json"):
        return "account of the import: what became of every row of the source of the data"
    if "scenarios" in parts:
        return "a scenario: doses that are compared"
    return _PURPOSES.get(name) or (_FOLDERS.get(parts[1], "") if len(parts) > 1 else "")


def guide_markdown(bundled: Sequence[Bundled], created: str, versions: Mapping[str, str], files: Sequence[str]) -> str:
    """The guide as Markdown.

    Args:
        created: date and time.
        versions: package -> version that the bundle was made with.
        files: paths of the bundle, those of the guide and the manifest to come.
    """
    here = {**versions, "thymodel": thymodel.__version__}
    every = sorted({*files, "reviewers-guide.md", "reviewers-guide.html", "manifest.csv"})
    template = _environment().get_template("reviewers_guide.md.j2")
    return template.render(
        bundled=bundled, created=created, versions=versions, python=platform.python_version(),
        thymodel=thymodel.__version__, simulated=[one for one in bundled if one.record.content["simulated"]],
        others={one.name: found for one in bundled if (found := _other_versions(one.record, here))},
        steps={one.name: _steps(one, files) for one in bundled},
        data={one.name: next((f" --data {path}" for path in files if path.startswith(f"{one.name}/data/")), "")
              for one in bundled},
        files=[(path, purpose(path)) for path in every if not path.startswith("software/")],
        source=sum(path.startswith("software/") for path in every))


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
                               trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    found.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
    return found


def _other_versions(record: FitRecord, here: Mapping[str, str]) -> list[str]:
    """What the fit was made with, where that is not what the bundle was made with."""
    made = {"python": record.content["environment"]["python"], **record.content["environment"]["packages"]}
    now = {"python": platform.python_version(), **here}
    return [f"{name} {version} (bundle: {now.get(name, 'none')})" for name, version in made.items()
            if now.get(name) != version]


def _steps(one: Bundled, files: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Step, program, inputs, outputs: in the order of execution, those whose outputs are in the bundle."""
    own = [path.removeprefix(f"{one.name}/") for path in files if path.startswith(f"{one.name}/")]
    data = ", ".join(path for path in own if path.startswith("data/"))
    model = f"programs/{one.record.content['model']['name']}.toml"
    sets = [path for path in own if path.startswith("datasets/") and path.endswith(".xpt")]
    rows = [("1 data checked, exclusions listed", "thymodel check", ["programs/spec.toml", model, data],
             _under(own, "outputs/1-")),
            ("2 model and priors", f"thymodel describe {model}", [model, "programs/spec.toml"],
             [*_under(own, "programs/equations"), *_under(own, "outputs/2-")]),
            ("3 fit: draws, verdict, table", "thymodel fit", ["programs/spec.toml", model, data],
             ["record/", *_under(own, "outputs/3-")]),
            ("4 record verified", "thymodel verify record" + (f" --data {data}" if data else ""), ["record/", data],
             _under(own, "outputs/4-")),
            ("5 endpoints, implied export, extrapolation", "thymodel fit", ["record/"],
             _under(own, "outputs/5-")),
            ("6 scenarios", "thymodel scenario", ["record/", *_under(own, "programs/scenarios/")],
             _under(own, "outputs/6-")),
            ("7 predictive checks; the record beside its plan", "thymodel check-fit", ["record/", data],
             _under(own, "outputs/7-predictive")),
            ("7 predictive checks; the record beside its plan", "thymodel plan record", ["record/"],
             [path for path in _under(own, "outputs/7-") if "predictive" not in path]),
            ("8 data sets for review", "thymodel bundle", ["record/", data], sets)]
    return [(step, program, ", ".join(filter(None, inputs)), ", ".join(outputs))
            for step, program, inputs, outputs in rows if outputs]


def _under(files: Sequence[str], start: str) -> list[str]:
    return [path for path in files if path.startswith(start)]


# --- pages ---------------------------------------------------------------------------------------------------

_STYLE = """body { font: 15px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
th, td { border: 1px solid #bbb; padding: .25rem .5rem; text-align: left; vertical-align: top }
td { overflow-wrap: break-word }
th { background: #eee } code, pre { background: #f4f4f4 } pre { padding: .7rem }
caption { text-align: left; font-weight: bold }"""


def page_html(title: str, text: str) -> str:
    """Markdown as a page that stands alone; HTML in the text stays text."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return _page(title, body)


def tables_html(title: str, tables: Sequence[TitledTable]) -> str:
    """Tables one below the other, as a page that stands alone."""
    return _page(title, f"<h1>{html.escape(title)}</h1>" + "".join(_table(table) for table in tables))


def _table(table: TitledTable) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    rows = "\n".join(line(row, "td") for row in table.rows)
    return f'<table id="{html.escape(table.key)}"><caption>{html.escape(table.title)}</caption>\n' \
           f"{line(table.columns, 'th')}\n{rows}</table>{notes}\n"


def _page(title: str, body: str) -> str:
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{_STYLE}</style></head><body>\n{body}</body></html>\n")
