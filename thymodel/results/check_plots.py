"""Figures of `checks.Checks`, of the kinds that xpose and Monolix have made familiar.

A band is that of the study's replicates, black is the study itself. A value below the limit of quantification has no
place on an axis of values: it is a tick in the hatched strip below the limit, at its time.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from thymodel.documents.spec import FitSpec
from thymodel.results.checks import Checks, reference_law
from thymodel.results.frames import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    labelled,
    observable_label,
    panel_grid,
    record_figure,
    settle,
    style,
    time_label,
)
from thymodel.results.plots import plot_prior_posterior

_BELOW = "a value below the limit: a tick without a height"
_STRIP = "below the limit of quantification"
_BAND = "90% of replicates"
_NORMAL = scipy.stats.norm.ppf(0.95)
_DECADES = 5  # at most, of a logarithmic axis
_MANY = 45  # subjects that may be named on an axis

_CAPTIONS = {
    "vpc": "Visual predictive check: quantiles of the study by visit before the bands of its replicates; below it the "
           "same after prediction correction, which takes out what doses, covariates and days within a bin explain; at "
           "the foot the part below the limit of quantification, where there is one.",
    "predictive": "Predictive intervals of one new subject's measurement under the posterior and under the prior.",
    "endpoints": "Endpoints as the measurements show them, with the replicates measured at the same visits with the "
                 "same assay error. They come later and more scattered than the endpoints of the noise-free course.",
    "npde": "Where the study's values lie in the distributions that the model predicts for them. A value below the "
            "limit is drawn at random below the probability of lying there: it is open, and not a datum.",
    "residuals": "Individual predictions and residuals. Near a limit of quantification only the higher values have a "
                 "residual, so that residuals rise there under a right model too; individual predictions are drawn to "
                 "the data, so that residuals spread a little less than the error model says.",
    "random_effects": "Each subject's random effects in units of their SD, posterior median and interval. Where "
                      "shrinkage is high they say little about the subject.",
    "prior_posterior": "Prior and posterior of every estimated number. Contraction near 0: the data said nothing; near "
                       "1: the data rule."}


def caption(name: str) -> str:
    """What a figure of `check_figures` shows, for a reader who does not know its kind."""
    return _CAPTIONS["vpc" if name.startswith("vpc_") else name]


def check_figures(checks: Checks) -> dict[str, Figure]:
    """Every figure by the name of its file."""
    names = list(checks.content["observables"])
    figures = {f"vpc_{name}": plot_vpc(checks, name) for name in names}
    figures["predictive"] = plot_predictive(checks)
    if checks.content["endpoints"]:
        figures["endpoints"] = plot_endpoints(checks)
    figures |= {"npde": plot_npde(checks), "residuals": plot_residuals(checks)}
    if checks.content["random_effects"]:
        figures["random_effects"] = plot_random_effects(checks)
    return figures | {"prior_posterior": plot_learned(checks)}


# --- values and their axis -----------------------------------------------------------------------------------


def _value_axis(axes: Axes, measured: Iterable[float], shown: Iterable[float | None], limit: float | None) -> None:
    """Logarithmic where all that was measured is positive; room below the limit of quantification for what lies there.

    What is shown beside it may run out of the picture: an error model with an offset predicts values below zero too.
    """
    values = np.array([v for v in measured if math.isfinite(v)] + ([] if limit is None else [limit]))
    every = np.append(values, [v for v in shown if v is not None and math.isfinite(v)])
    if not len(every):
        return
    if not len(values) or values.min() <= 0:
        reach = 0.05 * (np.ptp(every) or 1.0)
        axes.set_ylim(every.min() - reach, every.max() + reach)
        return
    high = min(every.max(), 10 * values.max())
    low = max(every[every > 0].min(), values.min() / 4, high * 10.0**-_DECADES)
    axes.set_yscale("log")
    if limit is None:
        axes.set_ylim(low / 1.3, high * 1.3)
    else:  # an eighth of the height lies below the limit
        axes.set_ylim(limit * (high * 1.3 / limit) ** (-1 / 7), high * 1.3)
    _number_decades(axes.yaxis, *axes.get_ylim())


def _number_decades(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis: 1, 2 and 5 of each decade where there are few."""
    few = high / low < 60
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_below(axes: Axes, places: Sequence[float], limit: float | None) -> None:
    """The strip below a limit, and a tick for everything in it."""
    if limit is None:
        return
    bottom = axes.get_ylim()[0]
    axes.axhspan(bottom, limit, facecolor="#F0F0F0", edgecolor="#C8C8C8", hatch="////", linewidth=0, zorder=0.4,
                 label=_STRIP)
    axes.axhline(limit, color=GREY, linewidth=0.8, linestyle="dotted", zorder=0.6)
    if len(places):
        axes.plot(places, np.full(len(places), 0.045), linestyle="none", marker="|", markersize=8, markeredgewidth=0.9,
                  color=BLACK, transform=axes.get_xaxis_transform(), zorder=3, label=_BELOW)


def _limit_of(limits: pd.Series) -> float | None:
    """The lowest of an observable's lower limits, None where no record has one: nothing measured lies below it."""
    return None if limits.dropna().empty else float(limits.min())


def _draw_points(axes: Axes, x: Any, y: Any) -> None:
    axes.plot(x, y, linestyle="none", marker="o", markersize=2.4, color=GREY, alpha=0.85, markeredgewidth=0, zorder=1.6,
              label="measured")


def _band(rows: Sequence[Sequence[float | None]], bottom: float, top: float) -> np.ndarray:
    """Low, middle and high by row; an end beyond a limit is at the axis' end, a whole row beyond it is no number."""
    found = np.full((len(rows), 3), np.nan)
    for k, row in enumerate(rows):
        if any(v is not None for v in row):
            place = next(j for j, v in enumerate(row) if v is not None)
            found[k] = [v if v is not None else (bottom if j < place else top) for j, v in enumerate(row)]
    return found


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values])


# --- visual predictive check ---------------------------------------------------------------------------------

_PARTS = ((0, "10%", ORANGE, "dashed", "v"), (1, "50%", BLUE, "solid", "o"), (2, "90%", ORANGE, "dashed", "^"))


def plot_vpc(checks: Checks, observable: str) -> Figure:
    """VPC, prediction-corrected VPC and the fraction below the limit of one observable, a column an arm."""
    spec, arms = checks.spec, checks.content["vpc"][observable]["arms"]
    rows = checks.records[checks.records["observable"] == observable]
    below = bool((rows["censored"] == 1).any())
    name, heights = observable_label(spec, observable), [2.6, 2.6, *([1.5] if below else [])]
    figure = record_figure(checks.record, 1.2 + 2.7 * max(len(arms), 2), 1.9 + sum(heights),
                           f"Visual predictive check: {name}")
    panels = figure.subplots(len(heights), len(arms), squeeze=False, sharex=True, sharey="row",
                             height_ratios=heights)
    for column, (arm, course) in enumerate(arms.items()):
        mine = rows if arm not in set(rows["arm"]) else rows[rows["arm"] == arm]
        corrected = pd.DataFrame(course["corrected"], dtype=float)
        _draw_vpc(panels[0, column], course["vpc"], mine["time"], mine["value"].where(mine["censored"] == 0),
                  _limit_of(mine["lower_limit"]), list(rows["value"].where(rows["censored"] == 0)),
                  _every(arms, "vpc"), _limit_of(rows["lower_limit"]))
        _draw_vpc(panels[1, column], course["pcvpc"], corrected["time"], corrected["value"],
                  _limit_of(corrected["limit"]), _corrected(arms, "value"), _every(arms, "pcvpc"),
                  _limit_of(pd.Series(_corrected(arms, "limit"))))
        if below:
            _draw_fraction_below(panels[2, column], course["vpc"])
        panels[0, column].set_title(f"{arm}\n{mine['subject'].nunique()} subjects, {len(mine)} values", fontsize=9)
        panels[-1, column].set_xlabel(time_label(spec), fontsize=8)
    labels = (name, f"prediction-corrected {name}", "below the limit (%)")
    for axes, label in zip(panels[:, 0], labels, strict=False):
        axes.set_ylabel(textwrap.fill(label, 30), fontsize=8)
    settle(figure, list(panels.ravel()), 1.05, 0.15, 0.15)
    return figure


def _every(arms: Mapping[str, Any], kind: str) -> list[float | None]:
    """All quantiles that a row of panels has to hold."""
    cells = [cell for course in arms.values() for cell in course[kind]]
    return [v for cell in cells for band in [cell["observed"], *cell["simulated"]] for v in band]


def _corrected(arms: Mapping[str, Any], what: str) -> list[float]:
    """Corrected values or limits of all arms, NaN where there is none."""
    return [math.nan if v is None else v for course in arms.values() for v in course["corrected"][what]]


def _draw_vpc(axes: Axes, cells: Sequence[Mapping[str, Any]], time: Any, value: Any, strip: float | None,
              measured: Sequence[float], everything: Sequence[float | None], limit: float | None) -> None:
    """`strip` is the lowest limit of these values; `measured`, `everything` and `limit` are of all on the same axis."""
    style(axes)
    _value_axis(axes, measured, everything, limit)
    places, ends = [cell["time"] for cell in cells], axes.get_ylim()
    for k, text, colour, line, marker in _PARTS:
        low, middle, high = _band([cell["simulated"][k] for cell in cells], *ends).T
        axes.fill_between(places, low, high, color=colour, alpha=0.32 if k == 1 else 0.22, linewidth=0,
                          label=f"{_BAND}, {'median' if k == 1 else '10% and 90% quantile'}")
        axes.plot(places, middle, color=colour, linewidth=0.9, linestyle=line)
        axes.plot(places, _numbers([cell["observed"][k] for cell in cells]), color=BLACK, linestyle=line,
                  linewidth=1.2 if k == 1 else 0.9, marker=marker, markersize=3.2,
                  markerfacecolor=BLACK if k == 1 else "white", label=f"study, {text} of the values")
    limits = _numbers([cell["limit"] for cell in cells])
    if strip is not None and np.nanmax(limits) > strip:
        axes.plot(places, limits, color=GREY, linestyle="dotted", linewidth=1.0, label="highest limit of a visit")
    _draw_points(axes, time, value)
    _draw_below(axes, list(np.asarray(time)[value.isna()]), strip)


def _draw_fraction_below(axes: Axes, cells: Sequence[Mapping[str, Any]]) -> None:
    style(axes)
    places = [cell["time"] for cell in cells]
    low, middle, high = 100 * np.array([cell["below_simulated"] for cell in cells]).T
    axes.fill_between(places, low, high, color=SKY, alpha=0.35, linewidth=0, label=f"{_BAND}, part below the limit")
    axes.plot(places, middle, color=SKY, linewidth=0.9, linestyle="dashdot")
    axes.plot(places, [100 * cell["below"] for cell in cells], color=BLACK, marker="s", markersize=3, linewidth=1.0,
              label="study, part below the limit")
    axes.set_ylim(-4, 104)


# --- prior and posterior predictive --------------------------------------------------------------------------


def plot_predictive(checks: Checks) -> Figure:
    """Predictive intervals of a new subject's measurement under prior and posterior, a column an arm."""
    spec, arms, names = checks.spec, checks.content["arms"], list(checks.content["observables"])
    figure = record_figure(checks.record, 1.2 + 3.0 * max(len(arms), 2), 1.7 + 2.5 * len(names),
                           "Prior and posterior predictive intervals of a measurement")
    panels = figure.subplots(len(names), len(arms), squeeze=False, sharex=True, sharey="row")
    for row, name in enumerate(names):
        everyone = checks.records[checks.records["observable"] == name]
        courses, limit = checks.content["vpc"][name]["arms"], _limit_of(everyone["lower_limit"])
        for column, arm in enumerate(arms):
            axes = panels[row, column]
            style(axes)
            if arm in courses:
                _draw_predictive(axes, courses[arm], everyone[everyone["arm"] == arm], limit,
                                 list(everyone["value"].where(everyone["censored"] == 0)), _predicted(courses))
            axes.set_title(arm if row == 0 else "", fontsize=9)
        panels[row, 0].set_ylabel(textwrap.fill(observable_label(spec, name), 30), fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel(time_label(spec), fontsize=8)
    settle(figure, list(panels.ravel()), 1.05, 0.15, 0.15)
    return figure


def _predicted(courses: Mapping[str, Any]) -> list[float | None]:
    """What the axis has to hold: the posterior's intervals; the prior's may run out of the picture."""
    return [v for course in courses.values() for cell in course["posterior"] for v in cell["quantiles"]]


def _draw_predictive(axes: Axes, course: Mapping[str, Any], rows: pd.DataFrame, limit: float | None,
                     measured: Sequence[float], everything: Sequence[float | None]) -> None:
    value = rows["value"].where(rows["censored"] == 0)
    _value_axis(axes, measured, everything, limit)
    ends = axes.get_ylim()
    for kind, colour, alpha, hatch in (("prior", GREY, 0.0, "...."), ("posterior", ORANGE, 0.3, None)):
        places = [cell["time"] for cell in course[kind]]
        quantiles = [cell["quantiles"] for cell in course[kind]]
        low, middle, high = _band([[q[0], q[2], q[4]] for q in quantiles], *ends).T
        if kind == "prior":
            axes.fill_between(places, low, high, facecolor="none", edgecolor="#C8C8C8", hatch=hatch, linewidth=0,
                              zorder=0.5, label="prior, 90% of measurements")
            axes.plot(places, low, places, high, color=colour, linewidth=0.9, linestyle="dotted")
            continue
        axes.fill_between(places, low, high, color=colour, alpha=alpha, linewidth=0, zorder=1,
                          label="posterior, 90% of measurements")
        inner = _band([[q[1], q[2], q[3]] for q in quantiles], *ends).T
        axes.fill_between(places, inner[0], inner[2], color=BLUE, alpha=0.35, linewidth=0, zorder=1.1,
                          label="posterior, 50% of measurements")
        axes.plot(places, middle, color=BLUE, linewidth=1.3, label="posterior, median measurement")
    _draw_points(axes, rows["time"], value)
    _draw_below(axes, list(rows["time"][value.isna()]), limit)
    axes.set_ylim(*ends)


# --- endpoints -----------------------------------------------------------------------------------------------


def plot_endpoints(checks: Checks) -> Figure:
    """Kaplan-Meier curves of the measured endpoints before the bands of replicates, a row an endpoint."""
    endpoints, arms, spec = checks.content["endpoints"], checks.content["arms"], checks.spec
    figure = record_figure(checks.record, 1.2 + 2.8 * max(len(arms), 2), 1.6 + 2.3 * len(endpoints),
                           "Endpoints as the measurements show them")
    panels = figure.subplots(len(endpoints), len(arms), squeeze=False, sharex="row", sharey=True)
    for row, endpoint in enumerate(endpoints.values()):
        for column, arm in enumerate(arms):
            axes, one = panels[row, column], endpoint["arms"][arm]
            style(axes)
            _draw_endpoint(axes, one, endpoint["horizon"] - endpoint["clock_start"])
            axes.set_title((f"{arm}\n" if row == 0 else "") + f"seen in {one['seen']} of {one['subjects']}",
                           fontsize=8)
            since = f" since day {endpoint['clock_start']:g}" if endpoint["clock_start"] else ""
            axes.set_xlabel(labelled(f"time{since}", spec.model.time), fontsize=8)
        panels[row, 0].set_ylabel(textwrap.fill(f"{endpoint['label']}: subjects in whom it was seen (%)", 30),
                                  fontsize=8)
    settle(figure, list(panels.ravel()), 0.95, 0.15, 0.7)
    return figure


def _draw_endpoint(axes: Axes, one: Mapping[str, Any], length: float) -> None:
    days = [*one["days"], 1.03 * length]

    def extended(values: Any) -> np.ndarray:
        return 100 * np.append(values, values[-1])

    low, middle, high = (extended(column) for column in np.array(one["posterior"]).T)
    axes.fill_between(days, low, high, step="post", color=BLUE, alpha=0.25, linewidth=0,
                      label=f"posterior, {_BAND}")
    axes.step(days, middle, where="post", color=BLUE, linestyle="dashed", linewidth=1.1,
              label="posterior, median replicate")
    low, _, high = (extended(column) for column in np.array(one["prior"]).T)
    axes.step(days, low, where="post", color=ORANGE, linestyle="dotted", linewidth=1.2, label=f"prior, {_BAND}")
    axes.step(days, high, where="post", color=ORANGE, linestyle="dotted", linewidth=1.2)
    observed = extended(one["observed"])
    axes.step(days, observed, where="post", color=BLACK, linewidth=1.7, label="study, Kaplan-Meier")
    if one["censored_on"]:
        heights = observed[np.searchsorted(one["days"], one["censored_on"], side="right") - 1]
        axes.plot(one["censored_on"], heights, linestyle="none", marker="|", markersize=7, color=BLACK,
                  label="last visit of a subject in whom it was not seen")
    axes.set_ylim(-4, 104)
    axes.set_xlim(0, 1.03 * length)


# --- prediction discrepancies --------------------------------------------------------------------------------


def plot_npde(checks: Checks) -> Figure:
    """PIT and NPDE, a row an observable: histogram, quantiles, over time and over the typical prediction."""
    spec, found = checks.spec, checks.content["discrepancies"]
    figure = record_figure(checks.record, 13.5, 1.8 + 2.4 * len(found),
                           "PIT and normalised prediction distribution errors (NPDE)")
    panels = panel_grid(figure, 4 * len(found), 4)
    for row, (name, one) in enumerate(found.items()):
        histogram, quantiles, time, prediction = panels[4 * row:4 * row + 4]
        mine = checks.records[checks.records["observable"] == name]
        _draw_histogram(histogram, one["pit"])
        _draw_quantiles(quantiles, one["npde"])
        _draw_scores(time, mine, "time")
        _draw_scores_by_visit(time, one["npde_by_visit"])
        _draw_scores(prediction, mine, "pred")
        _log_x(prediction, mine["pred"])
        histogram.set_ylabel(f"values of {name} (count)", fontsize=8)
        histogram.set_xlabel(f"PIT of {name}", fontsize=8)
        quantiles.set_xlabel("quantile of the standard normal", fontsize=8)
        time.set_xlabel(time_label(spec), fontsize=8)
        prediction.set_xlabel(f"typical prediction of {_with_unit(spec, name)}", fontsize=8)
        for axes in (quantiles, time, prediction):
            axes.set_ylabel(f"NPDE of {name}", fontsize=8)
    settle(figure, panels, 0.6, 0.6, 0.6)
    return figure


def _with_unit(spec: FitSpec, name: str) -> str:
    return labelled(name, spec.model.observables[name].unit)


def _draw_histogram(axes: Axes, one: Mapping[str, Any]) -> None:
    edges, (low, middle, high) = one["edges"], np.array(one["simulated"]).T
    axes.stairs(high, edges, baseline=low, fill=True, color=SKY, alpha=0.35, label=_BAND)
    axes.stairs(middle, edges, color=BLUE, linestyle="dashed", linewidth=0.9, baseline=None)
    axes.stairs(one["count"], edges, color=BLACK, linewidth=1.4, baseline=None, label="study")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1)


def _draw_quantiles(axes: Axes, one: Mapping[str, Any]) -> None:
    normal, (low, _, high) = one["normal"], np.array(one["simulated"]).T
    axes.fill_between(normal, low, high, color=SKY, alpha=0.35, linewidth=0, label=_BAND)
    axes.plot(normal, normal, color=BLUE, linestyle="dashed", linewidth=0.9, label="as the model says")
    axes.plot(normal, one["observed"], linestyle="none", marker="o", markersize=2.2, color=BLACK, label="study")


def _draw_scores(axes: Axes, rows: pd.DataFrame, against: str) -> None:
    """Scores of measured values as dots; those drawn at random beyond a limit are open, for they are no data."""
    measured = rows["censored"] == 0
    axes.plot(rows[against][measured], rows["npde"][measured], linestyle="none", marker="o", markersize=2.6,
              color=BLACK, alpha=0.7, markeredgewidth=0, label="study")
    if (~measured).any():
        axes.plot(rows[against][~measured], rows["npde"][~measured], linestyle="none", marker="s", markersize=3.2,
                  color=RED, markerfacecolor="none", markeredgewidth=0.7, alpha=0.8,
                  label="beyond a limit of quantification, drawn at random there")
    axes.axhline(0, color=GREY, linewidth=0.8)
    for bound in (-_NORMAL, _NORMAL):
        axes.axhline(bound, color=GREY, linewidth=0.8, linestyle="dotted", label="5% and 95% of the standard normal")


def _draw_scores_by_visit(axes: Axes, cells: Sequence[Mapping[str, Any]]) -> None:
    places = [cell["time"] for cell in cells]
    for k, text, colour, line, _ in _PARTS:
        low, _, high = np.array([cell["simulated"][k] for cell in cells], float).T
        axes.fill_between(places, low, high, color=colour, alpha=0.3 if k == 1 else 0.2, linewidth=0, zorder=0.8,
                          label=f"{_BAND}, {'median' if k == 1 else '10% and 90% quantile'}")
        axes.plot(places, [cell["observed"][k] for cell in cells], color=BLACK, linestyle=line, linewidth=1.0,
                  label=f"study, {text} of the values")


def _log_x(axes: Axes, values: pd.Series) -> None:
    if (values > 0).all():
        axes.set_xscale("log")
        axes.set_xlim(values.min() / 1.15, values.max() * 1.15)
        _number_decades(axes.xaxis, values.min(), values.max())


# --- individual residuals ------------------------------------------------------------------------------------


def plot_residuals(checks: Checks) -> Figure:
    """Observed against individual predictions, and IWRES, a row an observable."""
    spec, names = checks.spec, list(checks.content["observables"])
    figure = record_figure(checks.record, 13.5, 1.8 + 2.4 * len(names), "Individual predictions and residuals (IWRES)")
    panels = panel_grid(figure, 4 * len(names), 4)
    for row, name in enumerate(names):
        values, prediction, time, quantiles = panels[4 * row:4 * row + 4]
        mine = checks.records[checks.records["observable"] == name]
        label = _with_unit(spec, name)
        _draw_observed(values, mine)
        _draw_residuals(prediction, mine, "ipred")
        _log_x(prediction, mine["ipred"])
        _draw_residuals(time, mine, "time")
        law = _draw_residual_quantiles(quantiles, checks, name, mine["iwres"].dropna())
        values.set_ylabel(f"measured {label}", fontsize=8)
        for axes in (values, prediction):
            axes.set_xlabel(f"individual prediction of {label}", fontsize=8)
        time.set_xlabel(time_label(spec), fontsize=8)
        quantiles.set_xlabel(f"quantile of {law}", fontsize=8)
        for axes in (prediction, time, quantiles):
            axes.set_ylabel(f"IWRES of {name}", fontsize=8)
        shrunk = checks.content["observables"][name]["iwres"]["shrinkage"]
        if shrunk is not None:
            quantiles.text(0.03, 0.97, f"shrinkage {100 * shrunk:.0f}% (SD scale)", fontsize=8, va="top",
                           transform=quantiles.transAxes)
    settle(figure, panels, 0.6, 0.6, 0.6)
    return figure


def _draw_observed(axes: Axes, rows: pd.DataFrame) -> None:
    measured, limit = rows["censored"] == 0, _limit_of(rows["lower_limit"])
    value, predicted = rows["value"].where(measured), rows["ipred"]
    _value_axis(axes, value.dropna(), predicted, limit)
    _log_x(axes, predicted)
    axes.plot(predicted, value, linestyle="none", marker="o", markersize=2.6, color=BLACK, alpha=0.7,
              markeredgewidth=0, label="study")
    ends = [predicted.min(), predicted.max()]
    axes.plot(ends, ends, color=BLUE, linestyle="dashed", linewidth=1.0, label="as the model says")
    _draw_below(axes, list(predicted[~measured]), limit)


def _draw_residuals(axes: Axes, rows: pd.DataFrame, against: str) -> None:
    axes.plot(rows[against], rows["iwres"], linestyle="none", marker="o", markersize=2.6, color=BLACK, alpha=0.7,
              markeredgewidth=0, label="study")
    axes.axhline(0, color=BLUE, linewidth=1.0, linestyle="dashed", label="as the model says")
    bound = max(3.0, 1.15 * rows["iwres"].abs().max())
    axes.set_ylim(-bound, bound)
    censored = rows[against][rows["censored"] != 0]
    if len(censored):
        axes.plot(censored, np.full(len(censored), 0.03), linestyle="none", marker="|", markersize=7, color=PINK,
                  transform=axes.get_xaxis_transform(), label="beyond a limit of quantification: no residual")


def _draw_residual_quantiles(axes: Axes, checks: Checks, name: str, residual: pd.Series) -> str:
    """The law that residuals follow around true predictions, against which they are drawn."""
    law = reference_law(checks.spec, name)
    expected = (law or scipy.stats.norm).ppf((np.arange(len(residual)) + 0.5) / len(residual))
    axes.plot(expected, expected, color=BLUE, linestyle="dashed", linewidth=1.0, label="as the model says")
    axes.plot(expected, np.sort(residual), linestyle="none", marker="o", markersize=2.2, color=BLACK, label="study")
    error = checks.spec.likelihood[name]
    if law is None:
        return "the standard normal, to which counts come near"
    return f"Student's t, {error.df:g} df" if error.family == "student_t" else "the standard normal"


# --- random effects and parameters ---------------------------------------------------------------------------


def plot_random_effects(checks: Checks) -> Figure:
    """Each subject's random effects in units of their SD, sorted, a panel an effect with its shrinkage."""
    effects = checks.content["random_effects"]
    columns = min(3, len(effects))
    count = len(effects[0]["subjects"])
    height = max(2.2, 0.7 + 0.11 * min(count, _MANY))
    figure = record_figure(checks.record, 1.0 + 3.4 * columns, 1.6 + height * math.ceil(len(effects) / columns),
                           "Random effects of the subjects and their shrinkage")
    for axes, one in zip(panel_grid(figure, len(effects), columns), effects, strict=True):
        _draw_effect(axes, one)
        axes.set_xlabel(f"random effect of {one['effect']} on the {one['scale']} scale (omega)", fontsize=8)
        axes.set_ylabel("subject", fontsize=8)
    settle(figure, figure.axes, 0.6, 0.5, 0.95)
    return figure


def _draw_effect(axes: Axes, one: Mapping[str, Any]) -> None:
    ordered = sorted(one["subjects"].items(), key=lambda item: item[1][1])
    low, middle, high = np.array([values for _, values in ordered]).T
    rows = np.arange(len(ordered))
    axes.axvspan(-_NORMAL, _NORMAL, color=SKY, alpha=0.25, linewidth=0, label="90% of subjects, as the model says")
    axes.axvline(0, color=BLUE, linestyle="dashed", linewidth=0.9)
    axes.hlines(rows, low, high, color=BLACK, linewidth=0.8, label="90% posterior interval (equal-tailed)")
    axes.plot(middle, rows, linestyle="none", marker="o", markersize=2.6, color=BLACK, label="posterior median")
    axes.set_yticks(rows if len(rows) <= _MANY else [], [name for name, _ in ordered] if len(rows) <= _MANY else [])
    axes.tick_params(axis="y", labelsize=5)
    shrunk, parameters = one["shrinkage"], ", ".join(one["parameters"])
    low, middle, high = one["omega"]
    axes.set_title(f"{one['effect']}" + (f" ({parameters})" if parameters != one["effect"] else "")
                   + f", omega {middle:.2g} ({low:.2g} to {high:.2g})\nshrinkage {100 * shrunk['sd']:.0f}% (SD scale), "
                   f"{100 * shrunk['variance']:.0f}% (variance scale)", fontsize=8)


def plot_learned(checks: Checks) -> Figure:
    """Prior against posterior of every estimated number, with contraction and overlap."""
    figure = plot_prior_posterior(checks.record)
    for axes, row in zip(figure.axes, checks.content["parameters"], strict=True):
        axes.set_title(f"contraction {row['contraction']:.2f}, overlap {row['overlap']:.2f}", fontsize=8, pad=3)
    return figure
