"""The tornado figure: each endpoint with one parameter after the other a prior SD below and above its median."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thymodel.documents.units import amount_text
from thymodel.results.sensitivity import Answer, Sensitivity

_LOW, _HIGH, _GREY = "#0072B2", "#D55E00", "#767676"  # Okabe & Ito 2008, as in the other figures
_SHOWN = 12  # parameters a panel


def plot_tornado(found: Sensitivity) -> Figure:
    """A panel an endpoint; bars from the endpoint at typical values, longest first; hatched where a day is not reached.
    """
    panels = len(found.answers)
    columns = min(panels, 2)
    lines = math.ceil(panels / columns)
    height = 0.9 + lines * (1.0 + 0.23 * min(_SHOWN, len(found.names)))
    figure = Figure(figsize=(5.6 * columns, height), dpi=110, layout="constrained", facecolor="white")
    doses = ", ".join(f"{amount_text(d.amount, found.model.inputs[d.input].unit)} {d.input} on day {d.time:g}"
                      for d in found.doses) or "no dose"
    figure.suptitle(f"{found.model.name}: endpoints with one parameter a prior SD below or above its median\n{doses}",
                    fontsize=10, fontweight="bold")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for k, answer in enumerate(found.answers):
        _panel(axes[k], found, answer)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    for spare in axes[panels:]:
        spare.remove()
    return figure


def _panel(axes: Axes, found: Sensitivity, answer: Answer) -> None:
    end = answer.question.day if answer.question.threshold is not None else math.inf
    middle = min(answer.typical, end)
    low, high = np.minimum(answer.low, end), np.minimum(answer.high, end)
    reach = np.nan_to_num(np.maximum(np.abs(low - middle), np.abs(high - middle)))
    order = np.argsort(-reach)[:_SHOWN][::-1]
    for colour, ends, raw, label in ((_LOW, low, answer.low, "prior median - 1 SD"),
                                     (_HIGH, high, answer.high, "prior median + 1 SD")):
        bars = axes.barh(np.arange(len(order)), np.nan_to_num(ends[order] - middle), left=middle, height=0.72,
                         color=colour, alpha=0.85, label=label)
        for bar, k in zip(bars, order, strict=True):
            if math.isinf(raw[k]):
                bar.set_hatch("////")
                bar.set_edgecolor("white")
            elif math.isnan(raw[k]):
                axes.text(middle, bar.get_y() + 0.36, " failed", va="center", fontsize=7, color=_GREY)
    axes.axvline(middle, color="black", linewidth=0.8)
    axes.set_yticks(np.arange(len(order)), [found.names[k] for k in order], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    _words(axes, found, answer, end)


def _words(axes: Axes, found: Sensitivity, answer: Answer, end: float) -> None:
    q = answer.question
    observable = found.model.observables[q.marker]
    if q.threshold is None:
        axes.set_title(f"{observable.label or q.marker}\non day {q.day:g}", fontsize=9)
        axes.set_xlabel(f"{q.marker} ({answer.unit})", fontsize=8)
    else:
        passed = f"above {q.threshold:g} {observable.unit} after the lowest value"
        axes.set_title(f"{observable.label or q.marker}\n{passed}", fontsize=9)
        axes.set_xlabel(f"time ({answer.unit})", fontsize=8)
        left, right = axes.get_xlim()
        if right >= end:
            axes.set_xlim(left, end + 0.02 * (end - left))
            axes.axvline(end, color=_GREY, linestyle="--", linewidth=0.8)
            axes.text(0.99, 1.0, f"hatched: not by {end:g}", transform=axes.transAxes, ha="right", va="bottom",
                      fontsize=7, color=_GREY)
