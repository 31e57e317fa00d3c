"""What all figures share: colours, the frame with title, record and banner, panels, legends, labels with units.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), told apart in greyscale by line style and marker.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from thymodel.documents.spec import FitSpec
from thymodel.errors import Fault, InputError
from thymodel.results.record import FitRecord

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK)
LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 2, 2, 2, 2)))
GREY = "#767676"
FOOT = 0.28  # inches below the legend
TEMPLATES = Path(__file__).with_name("templates")
_DPI, _COLOURS = 120, 128


_ENDINGS = (".png", ".svg", ".pdf")


def refuse_ending(path: Path) -> None:
    """Says so before anything is computed for a figure that cannot be written."""
    if path.suffix.lower() not in _ENDINGS:
        raise InputError([Fault(f"--out {path}", f"not a kind of figure: '{path.suffix}'",
                                f"give a name that ends with {', '.join(_ENDINGS)}")])


def save_figure(figure: Figure, path: Path) -> None:
    """The figure as a file.

    Raises:
        InputError: another ending, or a place that cannot be written to.
    """
    refuse_ending(path)
    try:
        figure.savefig(path)
    except OSError as error:
        raise InputError([Fault(str(path), f"cannot be written: {error.strerror}")]) from None


def png_bytes(figure: Figure, dpi: int = _DPI) -> bytes:
    """PNG of few colours, a third of the size of one with all."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    palette = Image.open(drawn).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    palette.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def empty_figure(width: float, height: float, title: str, source: str, simulated: bool) -> Figure:
    """An empty figure with its title, where it comes from, and the banner of simulated data."""
    foot, head = FOOT / height, 0.4 / height
    layout = ConstrainedLayoutEngine(rect=(0.0, foot, 1.0, 1.0 - foot - head), h_pad=0.06, w_pad=0.06)
    figure = Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")
    figure.text(0.01, 1 - 0.1 / height, title, ha="left", va="top", fontsize=11, fontweight="bold")
    figure.text(0.01, 0.06 / height, source, ha="left", va="bottom", fontsize=7, color=GREY)
    if simulated:
        figure.text(0.99, 0.06 / height, "SIMULATED data, not patients", ha="right", va="bottom", fontsize=9,
                    fontweight="bold", color=RED)
    return figure


def record_figure(record: FitRecord, width: float, height: float, title: str) -> Figure:
    source = "   ".join(filter(None, [f"{record.content['name']}, record {record.digest[:12]}", record.reservation]))
    return empty_figure(width, height, title, source, bool(record.content["simulated"]))


def panel_grid(figure: Figure, count: int, columns: int) -> list[Axes]:
    """`count` panels, the places left over removed."""
    rows = math.ceil(count / columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in panels[count:]:
        spare.remove()
    for axes in panels[:count]:
        style(axes)
    return list(panels[:count])


def style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def legend(figure: Figure, panels: Sequence[Axes]) -> int:
    """One legend for all panels, above the foot of the figure, each label once, in as many columns as fit; its rows."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    widest = 0.6 + 0.062 * max(len(label) for label in handles)  # inches at 8 points
    columns = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        place: dict[str, Any] = {"loc": "outside lower center", "borderaxespad": 72 * FOOT / 8}
    else:
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.2 / figure.get_figheight())}
    figure.legend(handles.values(), handles.keys(), ncols=columns, fontsize=8, frameon=False, **place)
    return math.ceil(len(handles) / columns)


def settle(figure: Figure, panels: Sequence[Axes], left: float, across: float, down: float) -> None:
    """Legend and margins, in inches: measuring every panel, as the layout engine does, takes longer than drawing them.

    Args:
        panels: of one grid.
        left: for the labels of the first column; `across` and `down`: between columns and between rows.
    """
    figure.set_layout_engine(None)
    below = 0.85 + 0.17 * legend(figure, panels)
    titles = max(axes.get_title().count("\n") + bool(axes.get_title()) for axes in panels)
    (width, height), above, right = figure.get_size_inches(), 0.5 + 0.16 * titles, 0.2
    places = panels[0].get_gridspec()
    assert places is not None
    rows, columns = places.get_geometry()
    wide = (width - left - right - (columns - 1) * across) / columns
    high = (height - above - below - (rows - 1) * down) / rows
    figure.subplots_adjust(left=left / width, right=1 - right / width, bottom=below / height, top=1 - above / height,
                           wspace=across / wide, hspace=down / high)


def labelled(name: str, unit: str) -> str:
    return name if unit in ("1", "") else f"{name} ({unit})"


def observable_label(spec: FitSpec, name: str) -> str:
    observable = spec.model.observables[name]
    return labelled(observable.label or name, observable.unit)


def time_label(spec: FitSpec) -> str:
    return labelled("time", spec.model.time)
