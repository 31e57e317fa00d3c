"""What `thymodel check-fit` writes: checks.json, the figures as PNG, and one page that holds all of it."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from thymodel.errors import Fault, InputError
from thymodel.results.check_plots import caption, check_figures
from thymodel.results.checks import Checks
from thymodel.results.frames import TEMPLATES, png_bytes
from thymodel.results.record import FitRecord, holds_record, write_file

JSON, PAGE = "checks.json", "checks.html"
def refuse_place(record: FitRecord, folder: Path) -> None:
    """A record is written once, and what other files say is not written over.

    Raises:
        InputError: the folder is the record's or another's, is not empty, or is no folder.
    """
    wrong = None
    if record.folder.resolve() in (folder.resolve(), *folder.resolve().parents) or holds_record(folder):
        wrong = "belongs to a record, which is written once"
    elif folder.exists() and not folder.is_dir():
        wrong = "not a folder"
    elif folder.is_dir() and any(folder.iterdir()) and not (folder / JSON).is_file():
        wrong = "holds other files"
    if wrong:
        raise InputError([Fault(f"--out {folder}", wrong, "name a new folder")])


def save_checks(checks: Checks, folder: Path) -> list[Path]:
    """Writes the numbers, a PNG a figure, and the page; files of earlier checks there are replaced.

    Raises:
        InputError: the place is refused, or cannot be written to.
    """
    refuse_place(checks.record, folder)
    pictures = {name: png_bytes(figure) for name, figure in check_figures(checks).items()}
    files = {f"{name}.png": content for name, content in pictures.items()}
    files[PAGE] = _page(checks, pictures).encode()
    files[JSON] = checks_json(checks, list(pictures)).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, content)
    except OSError as error:
        raise InputError([Fault(f"--out {folder}", f"cannot be written: {error.strerror}")]) from None
    return [folder / name for name in files]


def checks_json(checks: Checks, figures: Sequence[str] = ()) -> str:
    """All numbers, with the names of the figures that show them."""
    content = {**checks.content, "figures": [f"{name}.png" for name in figures]}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)


def _page(checks: Checks, pictures: Mapping[str, bytes]) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = [{"name": name, "source": "data:image/png;base64," + base64.b64encode(content).decode(),
              "caption": caption(name)} for name, content in pictures.items()]
    return environment.get_template("checks.html.j2").render(
        content=checks.content, figures=shown, questions=question_rows(checks), parameters=parameter_rows(checks),
        effects=effect_rows(checks))


# --- tables --------------------------------------------------------------------------------------------------


def question_rows(checks: Checks) -> list[dict[str, str]]:
    return [{"about": row["about"], "question": row["question"], "study": _number(row["observed"]),
             "replicates": _number(row["expected"]), "p": _number(row["p"]),
             "p, all together": _number(row["p_together"]), "": "MISFIT" if row["departs"] else ""}
            for row in checks.content["questions"]]


def parameter_rows(checks: Checks) -> list[dict[str, str]]:
    return [{"parameter": row["parameter"], "unit": row["unit"],
             "median (equal-tailed 90% interval)": "{1} ({0} to {2})".format(*map(_number, row["posterior"])),
             "contraction": f"{row['contraction']:.2f}", "overlap": f"{row['overlap']:.2f}",
             "shift in prior SDs": f"{row['shift']:+.2f}"} for row in checks.content["parameters"]]


def effect_rows(checks: Checks) -> list[dict[str, str]]:
    return [{"random effect": row["effect"], "of": ", ".join(row["parameters"]),
             "omega (equal-tailed 90% interval)": "{1} ({0} to {2})".format(*map(_number, row["omega"])),
             "shrinkage, SD scale": f"{100 * row['shrinkage']['sd']:.0f}%",
             "shrinkage, variance scale": f"{100 * row['shrinkage']['variance']:.0f}%"}
            for row in checks.content["random_effects"]]


def _number(value: float | None) -> str:
    return "not known" if value is None or not math.isfinite(value) else f"{value:.3g}"
