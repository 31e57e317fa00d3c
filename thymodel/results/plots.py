"""Figures of a record and of a scenario. Each function returns a `matplotlib.figure.Figure` and leaves no global state.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), told apart in greyscale by line style and marker.
Parameter uncertainty is a filled band, spread between subjects a pair of dashed lines; legends name both.
"""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from scipy.special import ndtr

from thymodel.documents.data import StudyData, Subject
from thymodel.documents.reference import AGE, ReferenceRange, reference_range
from thymodel.documents.spec import Endpoint, FitSpec
from thymodel.documents.units import amount_text
from thymodel.errors import Fault, InputError
from thymodel.inference import borrowing
from thymodel.inference.diagnostics import INTERVAL, INTERVAL_NAME
from thymodel.inference.population import Layout, quantile
from thymodel.results import extrapolation
from thymodel.results.curves import INCIDENCE, INDIVIDUALS, POPULATION, incidence_curves
from thymodel.results.frames import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    LINES,
    ORANGE,
    PINK,
    RED,
    empty_figure,
    labelled,
    legend,
    observable_label,
    panel_grid,
    record_figure,
    style,
    time_label,
)
from thymodel.results.record import CURVES, POSTERIOR, FitRecord, load_group
from thymodel.results.scenarios import Scenario

_DECADES = 6  # at most, of a logarithmic axis: virus falls by four; counts further below the top are out of sight
UNCERTAINTY = f"{INTERVAL_NAME} interval, parameter uncertainty"
SPREAD = "5% to 95% of subjects, between-subject spread"


# --- courses -------------------------------------------------------------------------------------------------


def plot_course(record: FitRecord, data: StudyData | None = None, observables: Sequence[str] | None = None) -> Figure:
    """Course of each observable in each arm: median subject with its uncertainty, and the spread between subjects.

    Args:
        data: measured values to draw beside them.
        observables: all by default.

    Raises:
        InputError: an observable that the record lacks.
    """
    spec, curves = record.spec, load_group(record.folder / CURVES, POPULATION)
    known = [str(name).removesuffix(".median") for name in curves.data_vars if str(name).endswith(".median")]
    observables = known if observables is None else observables
    _check_known("observable", observables, known)
    arms = [str(arm) for arm in curves["arm"].values]
    doses, ages = json.loads(curves.attrs["doses"]), list(_ages(record).values())
    figure = record_figure(record, 1.2 + 3.0 * max(len(arms), 2), 1.5 + 2.6 * len(observables), "Courses by arm")
    panels = figure.subplots(len(observables), len(arms), squeeze=False, sharex=True, sharey="row")
    for row, name in enumerate(observables):
        people = [] if data is None else list(data.subjects)
        for column, arm in enumerate(arms):
            axes = panels[row, column]
            style(axes)
            _draw_course(axes, curves.sel(arm=arm), name)
            _draw_data(axes, [s for s in people if (s.arm or "all") == arm], name, joined=True)
            _mark_doses(axes, [time for time, _, _ in doses[arm]])
            axes.set_title(_arm_title(spec, arm, doses[arm]) if row == 0 else "", fontsize=9)
        _log_axis(panels[row, 0], [curves[f"{name}.subjects"].values, curves[f"{name}.median"].values], people, name)
        _draw_reference(panels[row], reference_range(spec.model, name, ages))
        panels[row, 0].set_ylabel(textwrap.fill(observable_label(spec, name), 30), fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel(time_label(spec), fontsize=8)
    legend(figure, list(panels.ravel()))
    return figure


def _ages(record: FitRecord) -> dict[str, float]:
    """Age of each fitted patient at the start, where the model has one and it is known."""
    fitted = load_group(record.folder / POSTERIOR, "constant_data")
    if AGE not in fitted:
        return {}
    if not record.layout.subjects:
        return {}
    ages = zip(record.layout.subjects, fitted[AGE].values.tolist(), strict=True)
    return {subject: age for subject, age in ages if math.isfinite(age)}


def _draw_reference(panels: Sequence[Axes], band: ReferenceRange | None) -> None:
    """Where healthy people of these ages are, in panels that share an axis; the axis is made to reach there."""
    if band is None:
        return
    for axes in panels:
        axes.axhspan(band.lower, band.upper, color=GREY, alpha=0.18, linewidth=0, zorder=0.5, label=band.label)
    bottom, top = panels[0].get_ylim()
    panels[0].set_ylim(bottom, max(top, 1.2 * band.upper))


def _draw_course(axes: Axes, curves: xr.Dataset, name: str) -> None:
    times, median = curves["time"].values, curves[f"{name}.median"].values
    spread = curves[f"{name}.subjects"].values
    axes.fill_between(times, median[:, 0], median[:, 2], color=BLUE, alpha=0.3, linewidth=0, label=UNCERTAINTY)
    axes.plot(times, spread[:, 0], color=ORANGE, linestyle="dashed", linewidth=1.2, label=SPREAD)
    axes.plot(times, spread[:, 2], color=ORANGE, linestyle="dashed", linewidth=1.2)
    axes.plot(times, median[:, 1], color=BLUE, linewidth=1.8, label="median subject")


_MARKERS = {0: ("o", "measured"), 1: ("v", "below the limit of quantification (at the limit)"),
            -1: ("^", "above the upper limit (at the limit)")}


def _draw_data(axes: Axes, subjects: Sequence[Subject], name: str, joined: bool) -> None:
    """Measured values as dots; beyond a limit, a triangle at the limit that points to where the value lies."""
    colour = GREY if joined else BLACK
    for subject in subjects:
        mine = [o for o in subject.observations if o.observable == name]
        if joined:
            times, values = [o.time for o in mine], [o.value for o in mine]
            axes.plot(times, values, color=GREY, linewidth=0.4, alpha=0.5, zorder=1.5)
        for censoring, (marker, label) in _MARKERS.items():
            kind = [o for o in mine if o.censoring == censoring]
            if kind:
                axes.plot([o.time for o in kind], [o.value for o in kind], linestyle="none", marker=marker,
                          markersize=3 if censoring == 0 else 4.5, color=colour, label=label,
                          markerfacecolor=colour if censoring == 0 else "white", markeredgewidth=0.8, zorder=2.5)


def _mark_doses(axes: Axes, times: Sequence[float]) -> None:
    for time in times:
        axes.axvline(time, color=PINK, linestyle="dashdot", linewidth=1.0, zorder=1, label="dose")


def _arm_title(spec: FitSpec, arm: str, doses: Sequence[Sequence[Any]]) -> str:
    parts = [f"{amount_text(amount, spec.model.inputs[name].unit)} on {spec.model.time} {time:g}"
             for time, name, amount in doses]
    shown = "; ".join(parts) if len(parts) <= 2 else f"{len(parts)} doses"
    return f"{arm}\n{shown}" if parts else f"{arm}\nno dose"


def _log_axis(axes: Axes, curves: Sequence[np.ndarray], subjects: Sequence[Subject], name: str) -> None:
    """Logarithmic, from the least that matters: a course may start at 0, which no such axis has."""
    data = np.array([o.value for s in subjects for o in s.observations if o.observable == name])
    values = np.concatenate([*(c.ravel() for c in curves), data])
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return
    top = positive.max() * 1.5
    least = data[data > 0].min() if (data > 0).any() else positive.min()
    axes.set_yscale("log")
    axes.set_ylim(max(0.5 * least, top * 10.0**-_DECADES), top)


def plot_individuals(record: FitRecord, data: StudyData | None, observable: str | None = None,
                     subjects: Sequence[str] | None = None, columns: int = 5) -> Figure:
    """Fit of each patient, a panel each.

    Args:
        data: None draws the curves alone.
        observable: the first of the likelihood by default.
        subjects: all by default.
        columns: panels beside each other, at most.

    Raises:
        InputError: an observable or a subject that the record lacks.
    """
    spec, curves = record.spec, load_group(record.folder / CURVES, INDIVIDUALS)
    name = observable or next(iter(spec.likelihood))
    known = [str(subject) for subject in curves["subject"].values]
    wanted = list(subjects) if subjects is not None else known
    _check_known("observable", [name], [str(key) for key in curves.data_vars])
    _check_known("subject", wanted, known)
    people, ages = {} if data is None else {s.id: s for s in data.subjects}, _ages(record)
    columns = min(columns, len(wanted))
    rows = math.ceil(len(wanted) / columns)
    title = f"Individual fits: {spec.model.observables[name].label or name}"
    figure = record_figure(record, 1.0 + 2.2 * max(columns, 3), 1.5 + 1.7 * rows, title)
    panels = panel_grid(figure, len(wanted), columns)
    shown = [people[subject] for subject in wanted if subject in people]
    for axes, subject in zip(panels, wanted, strict=True):
        _draw_individual(axes, curves[name].sel(subject=subject), subject, people.get(subject), name)
        _log_axis(axes, [curves[name].sel(subject=wanted).values], shown, name)
        _draw_reference([axes], reference_range(spec.model, name, [ages[subject]] if subject in ages else []))
    highest = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:  # one scale for all, for only the left column is labelled
        axes.set_ylim(top=highest)
        axes.yaxis.set_minor_locator(NullLocator())
    _outer_labels(figure, panels, columns, time_label(spec), observable_label(spec, name))
    return figure


def _check_known(kind: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError([Fault(f"{kind} {name}", "not in this record", f"one of: {', '.join(known[:12])}")
                          for name in missing])


def _draw_individual(axes: Axes, curve: xr.DataArray, name: str, subject: Subject | None, observable: str) -> None:
    times, (low, middle, high) = curve["time"].values, curve.transpose("quantile", "time").values
    axes.fill_between(times, low, high, color=BLUE, alpha=0.3, linewidth=0, label=UNCERTAINTY)
    axes.plot(times, middle, color=BLUE, linewidth=1.4, label="posterior median of the individual course")
    if subject is not None:
        _draw_data(axes, [subject], observable, joined=False)
        _mark_doses(axes, [dose.time for dose in subject.doses])
    axes.set_title(f"{name}, {subject.arm}" if subject is not None and subject.arm else name, fontsize=8, pad=2)


def _outer_labels(figure: Figure, panels: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Ticks labelled on the left and below only, panels above an empty place counting as below; axis labels once, and
    a legend at the foot.

    Places in inches: measuring every panel, as the layout engine does, takes longer than drawing them all.
    """
    width, height = figure.get_size_inches()
    figure.set_layout_engine(None)
    foot = 0.35 + 0.17 * legend(figure, panels)
    figure.subplots_adjust(left=0.75 / width, right=1 - 0.15 / width, bottom=(foot + 0.45) / height,
                           top=1 - 0.65 / height, wspace=0.1, hspace=0.25)
    figure.supxlabel(x, fontsize=9, y=foot / height, va="bottom")
    figure.supylabel(y, fontsize=9, x=0.1 / width, ha="left")
    for k, axes in enumerate(panels):
        if k % columns:
            axes.tick_params(labelleft=False)
        if k + columns < len(panels):
            axes.tick_params(labelbottom=False)


# --- reconstitution ------------------------------------------------------------------------------------------


def plot_reconstitution(source: FitRecord | Scenario) -> Figure:
    """Fraction of subjects that have reconstituted by each day, arm by arm, a panel an endpoint.

    Raises:
        InputError: the record has no endpoint.
    """
    if isinstance(source, FitRecord):
        endpoints, arms, unit = source.spec.endpoints, None, source.spec.model.time
        curves = load_group(source.folder / CURVES, INCIDENCE)
        if not endpoints:
            raise InputError([Fault(str(source.folder), "the fit has no endpoint")])
    else:
        endpoints, unit = source.endpoints, "day"
        arms = {arm.name: arm.label + extrapolation.mark(source.verdicts, arm.name) for arm in source.spec.arms}
        curves = incidence_curves(endpoints, source.times, list(arms))
    height = 1.7 + 3.0 * math.ceil(len(endpoints) / 2)
    width = 9.0 if len(endpoints) > 1 else 6.5
    figure = _frame_of(source, width, height)
    panels = panel_grid(figure, len(endpoints), min(2, len(endpoints)))
    for axes, (name, endpoint) in zip(panels, endpoints.items(), strict=True):
        _draw_incidence(axes, curves[name], endpoint, arms or {})
        since = f" since {unit} {endpoint.clock_start:g}, where the clock starts" if endpoint.clock_start else ""
        axes.set_xlabel(labelled(f"time{since}", unit), fontsize=8)
    legend(figure, panels)
    return figure


def _frame_of(source: FitRecord | Scenario, width: float, height: float) -> Figure:
    title = "Subjects reconstituted by day"
    if isinstance(source, FitRecord):
        return record_figure(source, width, height, title)
    return empty_figure(width, height, f"{title}: {source.spec.title}", f"scenario {source.spec.digest[:12]}",
                   source.simulated)


def _draw_incidence(axes: Axes, curves: xr.DataArray, endpoint: Endpoint, labels: Mapping[str, str]) -> None:
    days = curves[f"{endpoint.name}.day"].values
    for k, arm in enumerate(str(name) for name in curves["arm"].values):
        low, middle, high = 100 * curves.sel(arm=arm).transpose("quantile", ...).values
        colour, line = COLOURS[k % len(COLOURS)], LINES[k % len(LINES)]
        label = labels.get(arm, arm)
        axes.fill_between(days, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(days, middle, color=colour, linestyle=line, linewidth=1.8, label=f"{label}, posterior median")
    axes.fill_between([], [], [], color=GREY, alpha=0.3, linewidth=0, label=f"bands: {UNCERTAINTY}")
    axes.set_xlim(0, days[-1])
    axes.set_ylim(-2, 102)
    axes.set_ylabel("subjects reconstituted (%)", fontsize=8)
    lasting = f", lasting {endpoint.sustained_for:g} days" if endpoint.sustained_for else ""
    axes.set_title(f"{endpoint.label or endpoint.name}\n{endpoint.marker} at or above {endpoint.threshold:g} "
                   f"{endpoint.unit}{lasting}; horizon: day {endpoint.horizon:g}", fontsize=8)


# --- draws ---------------------------------------------------------------------------------------------------


def _population_draws(record: FitRecord) -> dict[str, np.ndarray]:
    """Population parameters that vary, (chain, draw)."""
    posterior = load_group(record.folder / POSTERIOR, "posterior")
    return {name: posterior[name].values for name in record.layout.population}


def _parameter_label(record: FitRecord, name: str) -> str:
    return labelled(name, record.content["units"].get(name, "1"))


def _parameter_panels(record: FitRecord, names: Sequence[str], title: str) -> tuple[Figure, list[Axes]]:
    columns = min(3, len(names))
    figure = record_figure(record, 1.0 + 2.2 * max(columns, 2), 1.4 + 1.7 * math.ceil(len(names) / columns), title)
    return figure, panel_grid(figure, len(names), columns)


def plot_trace(record: FitRecord) -> Figure:
    """Draws of every population parameter in order, chain by chain; divergent transitions as ticks below."""
    draws = _population_draws(record)
    diverging = load_group(record.folder / POSTERIOR, "sample_stats")["diverging"].values
    figure, panels = _parameter_panels(record, list(draws), "Traces")
    for axes, (name, values) in zip(panels, draws.items(), strict=True):
        for chain, course in enumerate(values):
            axes.plot(course, color=COLOURS[chain % len(COLOURS)], linestyle=LINES[chain % len(LINES)],
                      linewidth=0.6, label=f"chain {chain + 1}")
        places = np.flatnonzero(diverging.any(axis=0))
        if len(places):
            axes.plot(places, np.full(len(places), 0.03), linestyle="none", marker="|", color=BLACK, markersize=5,
                      label="divergent transition (any chain)", transform=axes.get_xaxis_transform())
        axes.set_ylabel(_parameter_label(record, name), fontsize=8)
        axes.set_xlabel("draw after warm-up", fontsize=8)
    legend(figure, panels)
    return figure


def plot_rank(record: FitRecord) -> Figure:
    """Ranks of each chain's draws among all draws: level where the chains agree.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, Bayesian Anal 16:667, section 5.
    """
    draws = _population_draws(record)
    figure, panels = _parameter_panels(record, list(draws), "Rank histograms")
    for axes, (name, values) in zip(panels, draws.items(), strict=True):
        ranks = scipy.stats.rankdata(values).reshape(values.shape)
        edges = np.linspace(0.5, values.size + 0.5, min(20, max(4, values.shape[1] // 10)) + 1)
        for chain, mine in enumerate(ranks):
            axes.stairs(np.histogram(mine, edges)[0], edges, color=COLOURS[chain % len(COLOURS)], linewidth=1.2,
                        linestyle=LINES[chain % len(LINES)], label=f"chain {chain + 1}")
        axes.axhline(values.shape[1] / (len(edges) - 1), color=GREY, linewidth=0.8, linestyle="dotted",
                     label="expected where chains agree")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"rank of {_parameter_label(record, name)}", fontsize=8)
        axes.set_ylabel("draws in bin", fontsize=8)
    legend(figure, panels)
    return figure


# --- prior and posterior -------------------------------------------------------------------------------------


def plot_prior_posterior(record: FitRecord) -> Figure:
    """Prior density and posterior draws of every population parameter: what the data added."""
    priors = _priors(record.layout)
    draws = {name: values for name, values in _population_draws(record).items() if name in priors}  # no study's effect
    lognormal = {name for name, prior in record.layout.priors.items() if prior.family == "lognormal"}
    figure, panels = _parameter_panels(record, list(draws), "Prior and posterior")
    for axes, (name, values) in zip(panels, draws.items(), strict=True):
        _draw_prior_posterior(axes, priors[name], values.ravel(), name in lognormal)
        axes.set_xlabel(_parameter_label(record, name), fontsize=8)
        axes.set_ylabel("density (a.u.)", fontsize=8)
        axes.set_yticks([])
    legend(figure, panels)
    return figure


_Z = np.linspace(-4, 4, 801)  # standard normal points at which priors are drawn


def _priors(lay: Layout) -> dict[str, np.ndarray]:
    """Population parameter -> quantiles of its prior at the probabilities of `_Z`."""
    taken = lay.borrowed.names if lay.borrowed is not None else ()
    at = {name: borrowing.marginal_quantiles(lay.borrowed, name, _Z) for name in taken if lay.borrowed is not None}
    curves = {name: np.asarray(quantile(prior, at.get(name, _Z))) for name, prior in lay.priors.items()}
    # every element of an LKJ matrix of this size: Lewandowski, Kurowicka & Joe 2009, J Multivar Anal 100:1989
    b = lay.correlation_shape + (len(lay.correlated) - 2) / 2
    for one, other in lay.correlations:
        curves[f"corr_{one}_{other}"] = 2 * scipy.stats.beta(b, b).ppf(ndtr(_Z)) - 1
    for block in lay.shared_errors:
        b = block.shape + (len(block.observables) - 2) / 2
        curves |= {name: 2 * scipy.stats.beta(b, b).ppf(ndtr(_Z)) - 1 for name in block.names}
    return curves


def _draw_prior_posterior(axes: Axes, x: np.ndarray, values: np.ndarray, lognormal: bool) -> None:
    """Densities on the panel's own axis, which is logarithmic for a lognormal prior over more than 20-fold."""
    z, central = _Z, x[np.abs(_Z) < 2.33]  # 98% of the prior
    logarithmic = lognormal and central[-1] > 20 * central[0]
    low, high = min(central[0], values.min()), max(central[-1], values.max())
    if x[0] >= 0 and not logarithmic:  # a long upper tail would leave no room for the rest
        high = min(high, max(3 * values.max(), 4 * x[len(x) // 2]))
    place = np.log10 if logarithmic else np.asarray
    back = (lambda u: 10.0**u) if logarithmic else (lambda u: u)
    edges = np.linspace(place(low), place(high), 41)
    counts = np.histogram(place(values), np.append(edges[:-1], np.inf))[0] / len(values) / (edges[1] - edges[0])
    axes.stairs(counts, back(edges), fill=True, color=BLUE, alpha=0.45, label="posterior, draws")
    slope = np.gradient(place(x), z)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) / np.maximum(slope, 1e-12)
    shown = (x >= low) & (x <= high)
    axes.plot(x[shown], density[shown], color=RED, linestyle="dashed", linewidth=1.4, label="prior")
    foot, ends = -0.04 * counts.max(), np.quantile(values, INTERVAL)
    axes.plot(ends, [foot, foot], color=BLACK, linewidth=2.5, solid_capstyle="butt",
              label=f"posterior {INTERVAL_NAME} interval")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if high < 100 * low:  # too few powers of ten to read the axis by
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(back(edges[0]), back(edges[-1]))
    axes.set_ylim(2 * foot, max(counts.max(), np.quantile(density[shown], 0.9)) * 1.08)
