"""Figures that a report adds to those of `plots`: energy, what was learned, covariate effects, dose and endpoint."""

import json
import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thymodel.documents.spec import FitSpec
from thymodel.inference.diagnostics import energy_fraction
from thymodel.inference.information import contraction
from thymodel.results.curves import POPULATION
from thymodel.results.extrapolation import Level
from thymodel.results.frames import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    LINES,
    ORANGE,
    RED,
    labelled,
    legend,
    panel_grid,
    record_figure,
    style,
)
from thymodel.results.plots import UNCERTAINTY
from thymodel.results.record import CURVES, POSTERIOR, FitRecord, load_group
from thymodel.results.scenarios import Scenario
from thymodel.results.tables import endpoint_arms

_BEYOND = 1.35  # of the highest fitted dose: how far the axis of doses goes, to show where no data are
_LEVELS = {Level.interpolation: ("o", BLACK), Level.mild: ("s", ORANGE), Level.strong: ("X", RED)}


def plot_energy(record: FitRecord) -> Figure:
    """Energies of the chains and the steps that momentum makes between them: wide steps explore them well.

    Source: Betancourt 2016, arXiv:1604.00695 (E-BFMI).
    """
    energy = load_group(record.folder / POSTERIOR, "sample_stats")["energy"].values
    figure = record_figure(record, 6.5, 3.6, "Energy of the chains")
    [axes] = panel_grid(figure, 1, 1)
    centred, steps = energy - energy.mean(), np.diff(energy, axis=1)
    edges = np.linspace(min(centred.min(), steps.min()), max(centred.max(), steps.max()), 41)
    axes.stairs(np.histogram(centred, edges, density=True)[0], edges, fill=True, color=BLUE, alpha=0.4,
                label="energy less its mean, all chains")
    for chain, own in enumerate(steps):
        axes.stairs(np.histogram(own, edges, density=True)[0], edges, color=COLOURS[chain % len(COLOURS)],
                    linestyle=LINES[chain % len(LINES)], linewidth=1.1,
                    label=f"steps of chain {chain + 1}, E-BFMI {energy_fraction(energy)[chain]:.2f}")
    axes.set_xlabel("energy (log units)", fontsize=8)
    axes.set_ylabel("density (1/log unit)", fontsize=8)
    legend(figure, [axes])
    return figure


def plot_learned_share(record: FitRecord) -> Figure | None:
    """What is left of each prior's SD; None where no parameter has one that can be compared."""
    kept = contraction(record.layout, record.z)
    if not kept:
        return None
    names = sorted(kept, key=lambda name: kept[name])
    figure = record_figure(record, 6.5, 1.6 + 0.2 * len(names), "Identifiability: posterior SD over prior SD")
    [axes] = panel_grid(figure, 1, 1)
    axes.barh(range(len(names)), [kept[name] for name in names], color=BLUE, alpha=0.7, height=0.7,
              label="SD of the posterior over SD of the prior")
    axes.axvline(1, color=BLACK, linewidth=1, linestyle="dashed", label="1: the data said nothing")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, max(1.1, 1.05 * max(kept.values())))
    axes.set_xlabel("posterior SD / prior SD, on the scale on which the prior is normal", fontsize=8)
    legend(figure, [axes])
    return figure


def plot_covariate_effects(record: FitRecord) -> Figure | None:
    """Covariate effects with their intervals; None where none was estimated."""
    table = record.table
    names = [name for name in record.content["parameters"] if name.startswith("beta_")]
    if not names:
        return None
    figure = record_figure(record, 6.5, 1.8 + 0.3 * len(names), "Covariate effects")
    [axes] = panel_grid(figure, 1, 1)
    rows = np.arange(len(names))[::-1]
    axes.axvline(0, color=GREY, linewidth=1, linestyle="dashed", label="no effect")
    axes.hlines(rows, [table.loc[n, "q05"] for n in names], [table.loc[n, "q95"] for n in names], color=BLACK,
                linewidth=1.6, label=UNCERTAINTY)
    axes.plot([table.loc[n, "median"] for n in names], rows, "o", color=BLUE, markersize=5, label="posterior median")
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("coefficient on the log scale of the parameter (docs/covariates.md)", fontsize=8)
    legend(figure, [axes])
    return figure


def doses_by_arm(record: FitRecord) -> tuple[str, dict[str, float]]:
    """The input that most arms have doses of, and how much of it each arm was given in all; "" where none has any."""
    told = json.loads(load_group(record.folder / CURVES, POPULATION).attrs["doses"])
    inputs = [name for doses in told.values() for name in {name for _, name, _ in doses}]
    if not inputs:
        return "", {}
    name = max(dict.fromkeys(inputs), key=inputs.count)
    return name, {arm: sum(float(amount) for _, own, amount in doses if own == name) for arm, doses in told.items()}


def plot_dose_endpoint(record: FitRecord) -> Figure | None:
    """Share of patients with each endpoint against dose, where the fit's arms differ in it; beyond them shaded."""
    name, doses = doses_by_arm(record)
    endpoints = record.content["endpoints"]
    if not endpoints or len(set(doses.values())) < 2:
        return None
    spec, table = record.spec, record.table
    figure, panels = _dose_frame(record, list(endpoints), "Endpoint by dose: arms of the fit")
    for axes, (key, endpoint) in zip(panels, endpoints.items(), strict=True):
        arms = sorted((arm for arm in endpoint_arms(record, key) if arm in doses), key=lambda arm: doses[arm])
        rows = [table.loc[_share_row(key, endpoint, arm)] for arm in arms]
        low, middle, high = (np.array([100 * _reached(row, quantile, endpoint) for row in rows])
                             for quantile in ("q05", "median", "q95"))
        _draw_doses(axes, [doses[arm] for arm in arms], np.minimum(low, high), middle, np.maximum(low, high))
        axes.plot([doses[arm] for arm in arms], middle, linestyle="none", marker="o", color=BLACK, markersize=4,
                  label="arm of the fit (interpolation)")
        _shade(axes, max(doses.values()))
        _dose_labels(axes, spec, name, endpoint, key)
    legend(figure, panels)
    return figure


def plot_scenario_doses(record: FitRecord, scenario: Scenario) -> Figure | None:
    """Share of new patients with each endpoint against dose of a scenario's arms, marked by how far each goes beyond
    the fit; None where its arms do not differ in dose."""
    name, fitted = doses_by_arm(record)
    doses = {arm.name: sum(d.amount for d in arm.doses if d.input == name) for arm in scenario.spec.arms}
    if not name or not scenario.endpoints or len(set(doses.values())) < 2:
        return None
    figure, panels = _dose_frame(record, list(scenario.endpoints), f"Endpoint by dose: {scenario.spec.title}")
    table = scenario.answers
    for axes, (key, endpoint) in zip(panels, scenario.endpoints.items(), strict=True):
        content = {"by": list(endpoint.by), "landmark": endpoint.landmark, "horizon": endpoint.horizon,
                   "label": endpoint.label}
        arms = sorted(doses, key=lambda arm: doses[arm])
        quantity = _scenario_share(content)
        mine = table[(table["endpoint"] == key) & (table["quantity"] == quantity)].set_index("arm")
        arms = [arm for arm in arms if arm in mine.index]
        if not arms:
            continue
        low, middle, high = (100 * mine.loc[arms, column].to_numpy(float) for column in ("lower", "estimate", "upper"))
        if quantity.startswith("P(not"):
            low, middle, high = 100 - high, 100 - middle, 100 - low
        _draw_doses(axes, [doses[arm] for arm in arms], low, middle, high)
        for arm, height in zip(arms, middle, strict=True):
            verdict = scenario.verdicts.arms.get(arm)
            level = verdict.level if verdict is not None else Level.interpolation
            marker, colour = _LEVELS[level]
            told = "interpolation" if level is Level.interpolation else f"{level.name} extrapolation"
            axes.plot([doses[arm]], [height], linestyle="none", marker=marker, color=colour, markersize=5,
                      label=f"arm of the scenario, {told}")
        _shade(axes, max(fitted.values()))
        _dose_labels(axes, record.spec, name, content, key)
    legend(figure, panels)
    return figure


def _dose_frame(record: FitRecord, names: list[str], title: str) -> tuple[Figure, list[Axes]]:
    columns = min(2, len(names))
    figure = record_figure(record, 1.0 + 3.6 * columns, 1.7 + 2.5 * math.ceil(len(names) / columns), title)
    panels = panel_grid(figure, len(names), columns)
    for axes in panels:
        style(axes)
    return figure, panels


def _share_row(key: str, endpoint: dict, arm: str) -> str:
    if endpoint.get("landmark"):
        return f"{key}.by_{endpoint['horizon']:g}[{arm}]"
    return f"{key}.by_{endpoint['by'][0]:g}[{arm}]" if endpoint["by"] else f"{key}.never[{arm}]"


def _reached(row, quantile: str, endpoint: dict) -> float:
    """Share that has the endpoint; the record has the complement where no day was asked for."""
    value = float(row[quantile])
    return value if endpoint["by"] or endpoint.get("landmark") else 1 - value


def _scenario_share(endpoint: dict) -> str:
    if endpoint["by"] and not endpoint["landmark"]:
        return f"P(by day {endpoint['by'][0]:g})"
    return f"P(not by day {endpoint['horizon']:g})"


def _draw_doses(axes: Axes, doses: list[float], low: np.ndarray, middle: np.ndarray, high: np.ndarray) -> None:
    axes.fill_between(doses, low, high, color=BLUE, alpha=0.25, linewidth=0, label=UNCERTAINTY)
    axes.plot(doses, middle, color=BLUE, linewidth=1.6, label="posterior median, straight between arms")
    axes.set_ylim(-3, 103)


def _shade(axes: Axes, highest: float) -> None:
    """Doses above the highest that was fitted."""
    right = max(_BEYOND * highest, axes.get_xlim()[1])
    axes.axvspan(highest, right, facecolor="#F0F0F0", edgecolor="#C0C0C0", hatch="////", linewidth=0, zorder=0.4,
                 label="beyond the doses of the fit: extrapolation")
    axes.set_xlim(-0.03 * right, right)


def _dose_labels(axes: Axes, spec: FitSpec, name: str, endpoint: dict, key: str) -> None:
    item = spec.model.inputs[name]
    axes.set_xlabel(labelled(f"{item.label or name}, all doses", item.unit), fontsize=8)
    time = spec.model.time
    if endpoint.get("landmark"):
        when = f"on {time} {endpoint['horizon']:g}"
    else:
        when = f"by {time} {(endpoint['by'] or [endpoint['horizon']])[0]:g}"
    axes.set_ylabel(f"patients {when} (%)", fontsize=8)
    axes.set_title(textwrap.fill(endpoint["label"] or key, 44), fontsize=8)


