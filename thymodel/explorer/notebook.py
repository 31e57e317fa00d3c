"""The explorer inside a notebook: sliders, figure, table and a button that writes the scenario file.

Questions are those of the page (`views`) and so are the answers (`answers`): here they are only shown with ipywidgets.
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from thymodel.documents.cards import card, table_html
from thymodel.errors import Fault, InputError, SolveError
from thymodel.explorer.answers import Answers, make_bench
from thymodel.explorer.views import CHOSEN, COMPARED, Controls, Slider, View, first_view, read_view
from thymodel.results.frames import BLUE, GREY, LINES, RED, labelled, legend, panel_grid, record_figure
from thymodel.results.record import FitRecord, write_file
from thymodel.results.report import png_bytes

_COLUMNS, _PANEL = 3, 2.9  # panels side by side; inches of the height of one


def explore_here(record: FitRecord) -> Any:
    """The explorer as widgets of a notebook: doses, days and covariates on sliders, figure and table below.

    Needs the extra `notebooks` (ipywidgets). Show what it returns as the last line of a cell; `thymodel explore` is the
    same in a browser.

    Returns:
        An `ipywidgets.VBox`.

    Raises:
        InputError: ipywidgets is not installed; there is nothing to dose, or no endpoint.
        RecordError: the record failed its gates, is an approximation, or was changed.
        SolveError: the model cannot be integrated.
    """
    try:
        import ipywidgets
    except ImportError:
        raise InputError([Fault("explore_here", "ipywidgets is not installed here",
                                "pip install 'thymodel[notebooks]', or: thymodel explore RECORD")]) from None
    return Board(Answers(make_bench(record)), ipywidgets).box


class Board:
    """Widgets of one explorer. Whatever changes, the question is read anew from all of them and answered.

    Args:
        widgets: the module `ipywidgets`, which is imported only where it is asked for.
    """

    def __init__(self, answers: Answers, widgets: Any) -> None:
        self.answers, self.widgets = answers, widgets
        self.controls: Controls = answers.bench.controls
        first = first_view(self.controls)
        self.sliders = {slider.key: self._slider(slider) for slider in self.controls.sliders}
        self.fixed = {name: widgets.Checkbox(value=name in first.numbers, indent=False, layout={"width": "auto"},
                                             description=f"everybody's {name}") for name in self.controls.covariates}
        endpoints = answers.bench.fit.endpoints
        self.endpoint = widgets.Dropdown(options=[(one.label or name, name) for name, one in endpoints.items()],
                                         value=first.endpoint, description="Endpoint")
        self.by = widgets.Dropdown(options=self._days(first.endpoint), value=first.by, description="By day")
        self.log = widgets.Checkbox(value=first.log, description="logarithmic counts", indent=False)
        self.picture = widgets.Image(format="png", layout={"max_width": "100%"})
        self.text = widgets.HTML()
        self.path = widgets.Text(value="scenario.toml", description="File")
        self.save = widgets.Button(description="Write scenario file", tooltip="as thymodel scenario reads it")
        self.said = widgets.HTML()
        for one in (*self.sliders.values(), *self.fixed.values(), self.by, self.log):
            one.observe(self._changed, names="value")
        self.endpoint.observe(self._endpoint_changed, names="value")
        self.save.on_click(self._write)
        self.box = widgets.VBox([self._rows(), self.text, self.picture,
                                 widgets.HBox([self.path, self.save, self.said])])
        self._changed()

    def _slider(self, slider: Slider) -> Any:
        middle = slider.step * round((slider.low + slider.high) / 2 / slider.step)
        return self.widgets.FloatSlider(
            value=middle if slider.value is None else slider.value, min=slider.low, max=slider.high, step=slider.step,
            description=labelled(slider.label, slider.unit), continuous_update=False, readout_format=".4g",
            tooltip=slider.seen, disabled=slider.value is None, style={"description_width": "16em"},
            layout={"width": "38em"})

    def _rows(self) -> Any:
        """A line a slider, with what the fit has seen of it."""
        lines = []
        for slider in self.controls.sliders:
            beside = [self.fixed[slider.key]] if slider.key in self.fixed else []
            seen = self.widgets.HTML(f"<small>{html.escape(slider.seen)}</small>")
            lines.append(self.widgets.HBox([self.sliders[slider.key], *beside, seen]))
        return self.widgets.VBox([*lines, self.widgets.HBox([self.endpoint, self.by, self.log])])

    def _days(self, endpoint: str) -> list[tuple[str, float]]:
        return [(f"{day:g}", day) for day in self.controls.endpoints[endpoint]]

    def _endpoint_changed(self, change: Any) -> None:
        """Its days come with it; where the day is the same the question is still another."""
        before = self.by.value
        self.by.unobserve(self._changed, names="value")
        self.by.options = self._days(self.endpoint.value)
        self.by.value = before if before in dict(map(reversed, self.by.options)) else self.by.options[0][1]
        self.by.observe(self._changed, names="value")
        self._changed()

    @property
    def view(self) -> View:
        """The question, checked as one from the page's address is.

        Raises:
            InputError: everything in it that is not a question to this record.
        """
        numbers = {key: float(one.value) for key, one in self.sliders.items()
                   if key not in self.fixed or self.fixed[key].value}
        asked = View(numbers, self.endpoint.value, float(self.by.value), bool(self.log.value))
        return read_view(asked.query, self.controls, self.answers.bench.fit.model)

    def _changed(self, change: Any = None) -> None:
        """Answers what the widgets ask; a question that cannot be answered leaves the last figure and says why."""
        for name, box in self.fixed.items():
            self.sliders[name].disabled = not box.value
        try:
            view = self.view
            answer = self.answers.view(view)
        except (InputError, SolveError) as error:
            self.text.value = card("No answer to this", str(error).splitlines())
            return
        shown = png_bytes(answer_figure(self.answers, view, answer))  # first: drawing is slow, and both change together
        self.text.value, self.picture.value = answer_html(self.answers, view, answer), shown

    def _write(self, button: Any) -> None:
        """The scenario file of what is shown; a file that is there is not overwritten."""
        path = Path(self.path.value)
        try:
            if path.exists():
                raise InputError([Fault(str(path), "there already", "choose another name")])
            text = self.answers.view(self.view)["scenario"]
            write_file(path, text.encode())
        except InputError as error:
            self.said.value = html.escape(str(error))
        except OSError as error:
            self.said.value = html.escape(f"{path}: cannot be written: {error.strerror}")
        else:
            self.said.value = html.escape(f"written: {path}")


def answer_html(answers: Answers, view: View, answer: Mapping[str, Any]) -> str:
    """The table of the endpoint that is asked about, and how far the arms extrapolate."""
    record, endpoint = answers.bench.record, answers.bench.fit.endpoints[view.endpoint]
    rows = [{"quantity": row["quantity"], "unit": row["unit"], **{arm["label"]: row[arm["name"]] for arm in
             answer["arms"]}, "difference": row["difference"]} for row in answer["table"]
            if row["endpoint"] == (endpoint.label or view.endpoint)]
    labels = {arm["name"]: arm["label"] for arm in answer["arms"]}
    told = [f"{labels[one['arm']]}: {one['text']}." for one in answer["verdicts"]]
    told += [answer["export"]] if answer["export"] else []
    told.append(f"Record {record.content['name']}, {record.digest[:12]}.")
    return card(answer["title"], told, (), bool(record.content["simulated"]),
                warnings=answer["warnings"]) + table_html(rows)


def answer_figure(answers: Answers, view: View, answer: Mapping[str, Any]) -> Figure:
    """Courses of both arms with their bands, and the share that has reached the endpoint by each day."""
    panels, endpoint = answer["courses"]["panels"], answers.bench.fit.endpoints[view.endpoint]
    count = len(panels) + 1
    high = 1.6 + _PANEL * -(-count // _COLUMNS)
    figure = record_figure(answers.bench.record, 4.2 * min(count, _COLUMNS), high, answer["title"])
    places, names = panel_grid(figure, count, _COLUMNS), [arm["name"] for arm in answer["arms"]]
    time, unit = answer["courses"]["time"], answers.bench.fit.model.time
    reached = answer["incidence"][view.endpoint]
    for k, axes in enumerate(places):
        for arm, name in enumerate(names):
            days, band, factor = (time, panels[k]["arms"][arm]["uncertainty"], 1.0) if k < len(panels) else (
                reached["days"], reached["arms"][arm], 100.0)
            low, middle, top = factor * np.array(band, float)
            colour, line = {COMPARED: (BLUE, LINES[1]), CHOSEN: (RED, LINES[0])}[name]
            axes.fill_between(days, low, top, color=colour, alpha=0.15, linewidth=0)
            axes.plot(days, middle, color=colour, linestyle=line, linewidth=1.6, label=answer["arms"][arm]["label"])
        axes.fill_between([], [], [], color=GREY, alpha=0.3, linewidth=0, label="bands: 90%, parameter uncertainty")
        if k < len(panels):
            axes.set_title(labelled(panels[k]["label"], panels[k]["unit"]), fontsize=8)
            axes.set_yscale("log" if view.log else "linear")
            axes.set_xlabel(labelled("time", unit), fontsize=8)
        else:
            axes.set_title(f"{endpoint.label or view.endpoint}: patients there (%)", fontsize=8)
            axes.axvline(view.by - endpoint.clock_start, color=GREY, linewidth=0.8)
            axes.set_ylim(-2, 102)
            axes.set_xlabel(labelled(f"time since {unit} {endpoint.clock_start:g}", unit), fontsize=8)
    legend(figure, places)
    return figure
