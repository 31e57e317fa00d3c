"""Figures of trials that have not been run."""

import numpy as np
from matplotlib.figure import Figure

from thymodel.results.frames import BLACK, BLUE, GREY, RED, empty_figure, legend, style
from thymodel.results.operating import FIXED, LIMITS, NULL, POSTERIOR, PREDICTED, Operating, error_limits


def plot_sizes(found: Operating) -> Figure:
    """Assurance and power against the number of patients, and false rejections under the null beside them; bars are 95%
    intervals of the simulation."""
    title = f"{found.protocol.title}: by number of patients"
    figure = empty_figure(9.5, 4.6, title, f"record {found.record[:12]}, {found.replicates} trials a point",
                          found.simulated)
    left, right = figure.subplots(1, 2)
    for axes, hypothesis, name, label in ((left, PREDICTED, "P(success)", "probability of success (%)"),
                                          (right, NULL, "P(false rejection)", "false rejections under the null (%)")):
        style(axes)
        for truth, colour, line, marker, meaning in (
                (POSTERIOR, BLUE, "solid", "o", "averaged over the posterior (assurance)"),
                (FIXED, RED, (0, (5, 2)), "s", "at the posterior median (power)")):
            own = found.table[(found.table["truth"] == truth) & (found.table["hypothesis"] == hypothesis)
                              & (found.table["quantity"] == name)]
            middle, apart = 100 * own["estimate"], 0.004 * max(found.protocol.sizes) * (1 if truth == FIXED else -1)
            axes.errorbar(own["subjects"] + apart, middle, yerr=100 * np.stack(
                [own["estimate"] - own["lower"], own["upper"] - own["estimate"]]).clip(0),
                color=colour, linestyle=line, marker=marker, markersize=4, linewidth=1.4, capsize=2, label=meaning)
        axes.set_xlabel("patients in both arms", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.set_ylim(bottom=0)
    left.set_ylim(0, 102)
    level = found.protocol.analysis.level
    low, high = error_limits(found.replicates, level)
    right.axhline(100 * level, color=BLACK, linewidth=0.9, label="nominal level")
    right.axhspan(100 * low, 100 * high, color=GREY, alpha=0.2, linewidth=0,
                  label=f"where a test of that level stays in {LIMITS:.0%} of simulations")
    right.set_ylim(0, max(right.get_ylim()[1], 130 * high))
    legend(figure, [left, right])
    return figure
