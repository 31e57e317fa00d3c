"""The report of a fit: one HTML file that stands alone, every number from the record.

Measured values appear in it only where they lie in the repository beside the spec, unless asked for: a report may go
where its data may not.
"""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from thymodel.documents.data import StudyData, load_data
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError
from thymodel.inference.approximation import NUTS
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.results import exports, extrapolation, plots, tables
from thymodel.results.record import FitRecord, find_data, write_file

REPORT = "report.html"
_PANELS = 30  # individual fits a figure
_DPI, _COLOURS = 120, 128
TEMPLATES = Path(__file__).with_name("templates")


def save_report(record: FitRecord, data: Path | None = None, show_data: bool | None = None) -> Path:
    """Writes `report.html` into the record's directory; it may be written again at any time.

    Raises:
        InputError: `data` are not those of the record, or the directory cannot be written to.
    """
    path = record.folder / REPORT
    try:
        write_file(path, report_html(record, data, show_data=show_data).encode())
    except OSError as error:
        raise InputError([Fault(str(path), f"cannot be written: {error.strerror}")]) from None
    return path


def report_html(record: FitRecord, data: Path | None = None, figures: bool = True,
                show_data: bool | None = None) -> str:
    """The report as HTML without any reference to the outside.

    Args:
        data: file of the study data, when they are not where the record found them.
        figures: False leaves the figures out.
        show_data: whether measured values are drawn; by default only if the data lie beside the spec.

    Raises:
        InputError: `data` are not those of the record.
    """
    content = record.content
    shown = bool(content["data"]["path"]) if show_data is None else show_data
    study = _study(record, data) if figures and shown else None
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    spec = record.spec
    return environment.get_template("report.html.j2").render(
        record=record, content=content, sentences=sentences(record), interval_note=tables.interval_note(record),
        interval_name=INTERVAL_NAME, reconstitution=_by_columns(tables.reconstitution_rows(record)),
        implied=_implied_export(record), extrapolated=_extrapolation(record),
        parameters=tables.parameter_rows(record), modes=tables.mode_rows(record),
        disposition=_disposition(content["data"]["disposition"]),
        exclusions=_exclusions(content["data"]["exclusions"]), residuals=_residuals(record),
        figures=_figures(record, study) if figures else [], shown=study is not None,
        model_text=spec.model.text, spec_text=spec.text, arms=_arms(record), time=spec.model.time)


def _study(record: FitRecord, data: Path | None) -> StudyData | None:
    """The data if they are at hand; never others than those that were fitted."""
    path = find_data(record, data)
    if path is None:
        return None
    if digest(path.read_bytes()) != record.content["data"]["sha256"]:
        raise InputError([Fault(str(path), "not the data of this record (sha256 differs)")])
    spec = record.spec
    return load_data(path, spec.model, spec.columns)


# --- words ---------------------------------------------------------------------------------------------------


def sentences(record: FitRecord) -> list[str]:
    """The reconstitution times as sentences, one an endpoint and arm; a warning first if they may not be quoted."""
    table, result = record.table, []
    if record.method != NUTS:
        result.append(f"{record.reservation}. The numbers below describe its draws.")
    elif not record.passed:
        result.append("The fit failed its gates: the numbers below describe its draws and may not be quoted.")
    for name, endpoint in record.content["endpoints"].items():
        for arm in tables.endpoint_arms(record, name):
            result.append(_sentence(table, name, endpoint, arm))
    return result


def _sentence(table: pd.DataFrame, name: str, endpoint: dict[str, Any], arm: str) -> str:
    horizon, label = endpoint["horizon"], endpoint["label"] or name
    if endpoint.get("landmark"):
        row = table.loc[f"{name}.by_{horizon:g}[{arm}]"]
        middle, low, high = (f"{100 * row[key]:.0f}%" for key in ("median", "q05", "q95"))
        return f"Arm {arm}: {middle} of the subjects have “{label}” ({INTERVAL_NAME} interval {low} to {high})."
    row, never = table.loc[f"{name}.median[{arm}]"], table.loc[f"{name}.never[{arm}]"]
    length = horizon - endpoint["clock_start"]
    low, middle, high = (tables.time_text(row[key], length) for key in ("q05", "median", "q95"))
    since = f" after day {endpoint['clock_start']:g}" if endpoint["clock_start"] else ""
    interval = f"({INTERVAL_NAME} interval {low} to {high})"
    if math.isfinite(row["median"]):
        first = f"half of the subjects reach “{label}” within {middle} days{since} {interval}"
    else:
        first = f"half of the subjects do not reach “{label}” by day {horizon:g} {interval}"
    shares = [f"{100 * never[key]:.0f}%" for key in ("median", "q05", "q95")]
    return (f"Arm {arm}: {first}; {shares[0]} ({shares[1]} to {shares[2]}) of the subjects have not reached it by day "
            f"{horizon:g}.")


def _implied_export(record: FitRecord) -> dict[str, Any]:
    """What the record says of it, with rows to print; a record made before it was computed says just that."""
    found = record.content.get("implied_export") or {"known": False, "note": exports.ABSENT, "rows": [], "warnings": []}
    return {**found, "table": tables.export_rows(found)}


def _extrapolation(record: FitRecord) -> dict[str, list[Any]]:
    """How far the fit's own arms go beyond what it has seen; the peak of their implied export beside it."""
    verdicts = extrapolation.judge_fit(record)
    implied = record.content.get("implied_export") or {"rows": []}
    return {"table": extrapolation.verdict_rows(verdicts, implied), "sentences": extrapolation.sentences(verdicts)}


def _arms(record: FitRecord) -> list[str]:
    return [row["arm"] or "all" for row in record.content["data"]["disposition"]]


# --- tables --------------------------------------------------------------------------------------------------


def _by_columns(rows: Sequence[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Rows grouped by their columns: endpoints ask for different days."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return list(groups.values())


def _disposition(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Arms with a count of observations and of censored ones for every observable."""
    names = list(dict.fromkeys(name for row in rows for name in row["observations"]))
    return [{"arm": row["arm"] or "all", "subjects": row["subjects"], "doses": row["doses"]}
            | {f"{name} (beyond a limit)": f"{row['observations'].get(name, 0)} ({row['censored'].get(name, 0)})"
               for name in names} | {"excluded": row["excluded"]} for row in rows]


def _exclusions(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reasons with their number of rows and the rows themselves."""
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        reasons.setdefault(row["reason"], []).append(row)
    return [{"reason": reason, "count": len(mine), "rows": ", ".join(str(row["row"]) for row in mine[:50])
             + (f" and {len(mine) - 50} more" if len(mine) > 50 else "")} for reason, mine in reasons.items()]


def _residuals(record: FitRecord) -> dict[str, Any]:
    """What the record says of misfit; the worst subjects first."""
    found = record.content["residuals"]
    people = sorted(found["subjects"], key=lambda row: -(row["rms"] or 0.0))
    return {**found, "subjects": people}


# --- figures -------------------------------------------------------------------------------------------------


def _figures(record: FitRecord, study: StudyData | None) -> list[dict[str, str]]:
    """Figures with captions; individual fits only where their data may be seen."""
    drawn = [("Courses by arm", plots.plot_course(record, study))]
    if record.content["endpoints"]:
        drawn.insert(0, ("Subjects reconstituted by day", plots.plot_reconstitution(record)))
    if study is not None:
        drawn += _individual_figures(record, study)
    if record.method != "map":  # a single point has no density
        drawn.append(("Prior and posterior", plots.plot_prior_posterior(record)))
    if record.method == NUTS:
        drawn += [("Traces", plots.plot_trace(record)), ("Rank histograms", plots.plot_rank(record))]
    return [{"caption": caption, "source": _inline(figure)} for caption, figure in drawn]


def _individual_figures(record: FitRecord, study: StudyData) -> list[tuple[str, Figure]]:
    names = record.content["data"]["subjects"]
    pages = [names[k:k + _PANELS] for k in range(0, len(names), _PANELS)]
    return [(f"Individual fits, {observable}" + (f", page {k + 1}" if len(pages) > 1 else ""),
             plots.plot_individuals(record, study, observable, page))
            for observable in record.spec.likelihood for k, page in enumerate(pages)]


def _inline(figure: Figure) -> str:
    """The figure as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()


def png_bytes(figure: Figure) -> bytes:
    """PNG of few colours, a third of the size of one with all."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI, metadata={"Software": None})
    palette = Image.open(drawn).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    palette.save(packed, "PNG", optimize=True)
    return packed.getvalue()
