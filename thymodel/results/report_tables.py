"""Tables and sentences of a report, from a record: each number with the field that it was taken from."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thymodel.documents.model import load_model
from thymodel.inference.approximation import NUTS
from thymodel.inference.checking import shrinkage
from thymodel.inference.diagnostics import INTERVAL_NAME
from thymodel.inference.information import contraction
from thymodel.inference.population import effect_name
from thymodel.results import exports
from thymodel.results.describing import KIND_WORDS, description
from thymodel.results.document import Cited, Grid, pieces_of, say
from thymodel.results.record import POSTERIOR, FitRecord, load_group
from thymodel.results.tables import endpoint_arms
from thymodel.results.titled_table import TitledTable

PURE = "–"  # in place of a unit
_PURE_NOTE = f"“{PURE}” as unit: a pure number."
NOT_KNOWN = "not known"
_PERCENT = "%"
LONGEST = 1500  # rows of a listing; the rest would make a document that no program opens with ease


class Source:
    """A record's numbers as cited text."""

    def __init__(self, record: FitRecord) -> None:
        self.record, self.content, self.table = record, record.content, record.table
        self.single = record.method == "map"

    def value(self, row: str, column: str) -> float:
        return float(self.table.loc[row, column])

    def cell(self, row: str, column: str, form: str) -> Cited:
        """A number of the table; `form` is a format, or "%" for a share as percent."""
        return _number(self.value(row, column), form, f"table.csv: {row}, {column}")

    def field(self, path: str, form: str = "") -> Cited:
        """A value of `record.json` under a dotted path; lists by index. Without a form, as it is written."""
        value: Any = self.content
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list | tuple) else value[part]
        where = f"record.json: {path}"
        if isinstance(value, bool) or isinstance(value, str) or not form and not isinstance(value, float):
            return Cited([(str(value), where)])
        return _number(math.nan if value is None else float(value), form or "g", where)

    def count(self, path: str) -> Cited:
        """How many entries a list of `record.json` has."""
        value: Any = self.content
        for part in path.split("."):
            value = value[part]
        return Cited([(str(len(value)), f"record.json: number of {path}")])

    def unit(self, name: str) -> str:
        return PURE if self.content["units"].get(name, "1") == "1" else self.field(f"units.{name}")

    def interval(self, row: str, form: str) -> Cited:
        return say(self.cell(row, "q05", form), " to ", self.cell(row, "q95", form))

    def with_interval(self, row: str, form: str) -> Cited:
        """Median and interval in brackets; of a single point the point."""
        middle = self.cell(row, "median", form)
        return middle if self.single else say(middle, " (", self.interval(row, form), ")")

    def time(self, row: str, column: str, endpoint: str) -> Cited:
        """A time, or that it is not reached by the horizon."""
        if math.isfinite(self.value(row, column)):
            return self.cell(row, column, ".0f")
        return say("not by day ", self.field(f"endpoints.{endpoint}.horizon", "g"))

    def arm(self, endpoint: str, arm: str) -> Cited:
        return Cited([(arm, f"table.csv: {endpoint}.never[{arm}], label")])


def _number(value: float, form: str, where: str) -> Cited:
    if not math.isfinite(value):
        return Cited([(NOT_KNOWN, where)])
    return Cited([(f"{100 * value:.0f}%" if form == _PERCENT else format(value, form), where)])


def _interval_name(source: Source) -> Cited:
    return Cited([(INTERVAL_NAME, "table.csv: columns, q05 to q95")])


def _grid(key: str, title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], *notes: str,
          traced: bool = False, listing: bool = False) -> Grid:
    table = TitledTable(key, title, tuple(columns), tuple(tuple(row) for row in rows), tuple(n for n in notes if n))
    return Grid(table, "Listing" if listing else "Table", traced)


def from_rows(key: str, title: str, rows: Sequence[Mapping[str, Any]], *notes: str) -> Grid:
    """A table of rows that have the same columns."""
    return _grid(key, title, rows[0], [[str(value) for value in row.values()] for row in rows], *notes)


# --- sentences -----------------------------------------------------------------------------------------------


def result_sentences(source: Source) -> list[Cited]:
    """What was found, a sentence an endpoint and arm, with its uncertainty."""
    return [sentence(source, name, arm) for name in source.content["endpoints"]
            for arm in endpoint_arms(source.record, name)]


def sentence(source: Source, name: str, arm: str) -> Cited:
    """One endpoint in one arm: the share of new patients that reach it, and when half of them do."""
    endpoint = source.content["endpoints"][name]
    label = source.field(f"endpoints.{name}.label") if endpoint["label"] else name
    begin = ("Arm ", source.arm(name, arm), ": “", label, "” ")
    if endpoint.get("landmark"):
        row = f"{name}.by_{endpoint['horizon']:g}[{arm}]"
        return say(*begin, "holds in ", _share(source, row, True), " of new patients on day ",
                   source.field(f"endpoints.{name}.horizon", "g"), ".")
    shares: list[str] = []
    for k, day in enumerate(endpoint["by"]):
        shares += [" and " if k else "", "by day ", source.field(f"endpoints.{name}.by.{k}", "g"), " in ",
                   _share(source, f"{name}.by_{day:g}[{arm}]", not k)]
    parts = [*begin, "is reached ", *shares, " of new patients. "] if shares else [*begin, "in new patients: "]
    middle, never = f"{name}.median[{arm}]", f"{name}.never[{arm}]"
    if math.isfinite(source.value(middle, "median")):
        parts += ["Half of them reach it within ", source.time(middle, "median", name), " days"]
        if endpoint["clock_start"]:
            parts += [" after day ", source.field(f"endpoints.{name}.clock_start", "g")]
    else:
        parts += ["Half of them do not reach it by day ", source.field(f"endpoints.{name}.horizon", "g")]
    if not source.single:
        parts += [" (", source.time(middle, "q05", name), " to ", source.time(middle, "q95", name), ")"]
    return say(*parts, "; ", _share(source, never, not shares), " have not reached it by day ",
               source.field(f"endpoints.{name}.horizon", "g"), ".")


def _share(source: Source, row: str, named: bool) -> Cited:
    """A percentage with its interval, whose kind and level are named where a reader meets the first."""
    middle = source.cell(row, "median", _PERCENT)
    if source.single:
        return middle
    kind = say(_interval_name(source), " interval ") if named else ""
    return say(middle, " (", kind, source.interval(row, _PERCENT), ")")


# --- data ----------------------------------------------------------------------------------------------------


def disposition_tables(source: Source) -> list[Grid]:
    """Subjects, doses and observations by arm, and those beyond a limit of quantification by marker."""
    rows = source.content["data"]["disposition"]
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row["observations"]))
    places = [f"data.disposition.{k}" for k in range(len(rows))]
    arms = [source.field(f"{place}.arm") if row["arm"] else "all" for place, row in zip(places, rows, strict=True)]
    first = [[arm, *(source.field(f"{place}.{key}") for key in ("subjects", "doses")),
              *(_there(source, f"{place}.observations", name) for name in names), source.field(f"{place}.excluded")]
             for arm, place in zip(arms, places, strict=True)]
    second = [[arm, name, _there(source, f"{place}.observations", name), _there(source, f"{place}.censored", name)]
              for name in names for arm, place in zip(arms, places, strict=True)]
    return [_grid("disposition", "Data disposition: subjects, doses and observations used, by arm",
                  ("arm", "subjects", "doses", *(f"{name}, observations" for name in names), "excluded rows"), first,
                  traced=True),
            _grid("blq", "Observations beyond a limit of quantification, by marker and arm",
                  ("arm", "marker", "observations used", "of these beyond a limit"), second,
                  "A value beyond a limit is censored in the likelihood, never replaced. A value that is missing in "
                  "the file is among the excluded records, each named with its row and reason.", traced=True)]


def _there(source: Source, path: str, name: str) -> Cited | str:
    found: Any = source.content
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return source.field(f"{path}.{name}") if name in found else "0"


def covariate_tables(source: Source) -> list[Grid]:
    """Baseline covariates of the fitted patients."""
    fitted, model = load_group(source.record.folder / POSTERIOR, "constant_data"), source.record.spec.model
    rows = []
    for name in (str(key) for key in fitted.data_vars):
        values = np.asarray(fitted[name].values, float)
        known = values[np.isfinite(values)]
        if len(known) and name in model.covariates:
            low, middle, high = np.quantile(known, (0, 0.5, 1))
            rows.append((name, model.covariates[name].label, model.covariates[name].unit, str(len(known)),
                         str(len(values) - len(known)), f"{middle:.4g}", f"{low:.4g} to {high:.4g}"))
    return [_grid("covariates", "Baseline covariates of the patients", (
        "covariate", "meaning", "unit", "patients", "missing", "median", "least to greatest"), rows,
        "From constant_data of posterior.nc.")] if rows else []


def unknown_covariate_tables(source: Source) -> Iterator[Grid]:
    """Posterior of kinds and of covariates that were not known of a subject."""
    rows = source.content.get("missing_covariates", [])
    places = [(f"missing_covariates.{k}", row) for k, row in enumerate(rows)]
    kinds = [[source.field(f"{p}.covariate"), source.field(f"{p}.subject"), source.field(f"{p}.mean", ".2f")]
             for p, row in places if row.get("kind")]
    others = [[*(source.field(f"{p}.{key}") for key in ("covariate", "subject", "unit")),
               source.field(f"{p}.mean", ".4g"), source.field(f"{p}.sd", ".3g")]
              for p, row in places if not row.get("kind")]
    if kinds:
        yield _grid("kinds", "Patients of two kinds", ("mixture", "subject", "probability of the second kind"), kinds,
                    "Nothing measured says of which kind a patient is: every draw supposes one, as often as it is "
                    "likely given the rest of the draw. Probabilities near the share of the second kind say that the "
                    "data do not tell.")
    if others:
        yield _grid("missing_covariates", "Covariates that were not known",
                    ("covariate", "subject", "unit", "posterior mean", "SD"), others,
                    "Every draw has a value of its own for each: what is not known of them is part of all intervals "
                    "here.")


# --- model and priors ----------------------------------------------------------------------------------------


def prior_tables(source: Source) -> list[Grid]:
    rows = [[*(source.field(f"priors.{k}.{key}") for key in ("name", "unit", "prior", "source")),
             Cited([("yes" if row["verified"] else "no", f"record.json: priors.{k}.verified")]),
             source.field(f"priors.{k}.reason")] for k, row in enumerate(source.content["priors"])]
    return [_grid("priors", "Priors, their sources, and whether somebody saw the number there",
                  ("name", "unit", "prior", "source", "source verified", "why other than in the model file"), rows,
                  "The SD of a lognormal prior is that of the logarithm.")]


def borrowed_tables(source: Source) -> list[Grid]:
    """The prior that was taken from another record."""
    taken = source.content.get("prior_from")
    if not taken:
        return []
    rows = []
    for k, row in enumerate(taken["parameters"]):
        at = f"prior_from.parameters.{k}"
        three = []
        for key in ("own", "borrowed", "posterior"):
            three.append(say(source.field(f"{at}.{key}.1", ".3g"), " (", source.field(f"{at}.{key}.0", ".3g"), " to ",
                             source.field(f"{at}.{key}.2", ".3g"), ")"))
        rows.append([source.field(f"{at}.name"), source.field(f"{at}.unit"), *three,
                     f"added ({', '.join(row['between_studies'])})" if row["between_studies"] else "none",
                     source.field(f"{at}.ess", ".1f"), source.field(f"{at}.own_ess", ".1f")])
    simulated = ", SIMULATED" if taken["simulated"] else ""
    return [_grid("prior-from", "Prior taken from another record: medians with 5% to 95%",
                  ("name", "unit", "own prior", "borrowed", "posterior", "spread between studies", "ESS, patients",
                   "ESS of the own prior"), rows,
                  f"Record {taken['name']}, digest {taken['digest'][:12]}{simulated}. ESS: {taken['ess_note']}.",
                  f"Why: {taken['reason']}" if taken["reason"] else "")]


def fixed_tables(source: Source) -> list[Grid]:
    """Parameters that were held at a value, as if they were known."""
    parameters = source.record.spec.model.parameters
    rows = []
    for name in source.content["fixed"]:
        item = parameters.get(name)
        rows.append([name, item.label if item else "", source.field(f"fixed.{name}", ".6g"),
                     item.unit if item else "", item.source if item else "", "yes" if item and item.verified else "no"])
    return [_grid("fixed", "Parameters held at a value", (
        "name", "meaning", "value", "unit", "source", "source verified"), rows,
        "Held as if they were known: no interval of this report holds their uncertainty.")] if rows else []


def assumption_tables(source: Source) -> list[Grid]:
    """The model's statements, and how many of its numbers are assumed."""
    found = description(load_model(source.record.spec.model_path))  # as written: occasions and mixtures add to it
    grids = []
    if found.statements:
        grids.append(_grid("model-assumptions", "Assumptions that the model document states", (
            "assumption", "affects", "source"), [[s.text, ", ".join(s.affects), s.source] for s in found.statements]))
    if found.doubtful:
        rows = [[KIND_WORDS[group.heading], str(len(group.rows)), ", ".join(row.key for row in group.rows)]
                for group in found.doubtful]
        grids.append(_grid("doubtful", "Numbers of the model by what their own source says of them",
                           ("standing", "how many", "which"), rows))
    return grids


# --- the fit -------------------------------------------------------------------------------------------------


def parameter_tables(source: Source) -> list[Grid]:
    """Final parameters with uncertainty, diagnostics, and what was learned of each."""
    if source.single:
        rows = [[_name(name), source.unit(name), source.cell(name, "mean", ".4g")]
                for name in source.content["parameters"]]
        return [_grid("parameters", "Final parameters", ("name", "unit", "mode"), rows, _PURE_NOTE, _NAMES,
                      traced=True)]
    kept, shrunk = contraction(source.record.layout, source.record.z), shrinkages(source.record)
    rows = []
    for name in source.content["parameters"]:
        shrink = _number(shrunk[name], ".0%", f"posterior.nc: shrinkage of {name}") if name in shrunk else ""
        left = _number(kept[name], ".2f", f"posterior.nc: SD over prior SD of {name}") if name in kept else ""
        rows.append([_name(name), source.unit(name), source.cell(name, "median", ".4g"), source.cell(name, "sd", ".3g"),
                     source.interval(name, ".4g"), shrink, source.cell(name, "rhat", ".4f"),
                     source.cell(name, "ess_bulk", ".0f"), source.cell(name, "ess_tail", ".0f"), left])
    known = ""
    if source.content["random_effects"]["count"]:
        known = say("Random effects: ", source.field("random_effects.count"), ", worst R-hat ",
                    source.field("random_effects.worst_rhat", ".4f"), ", least bulk ESS ",
                    source.field("random_effects.least_ess_bulk", ".0f"), ", least tail ESS ",
                    source.field("random_effects.least_ess_tail", ".0f"), " (reported, not gated).")
    return [_grid("parameters", "Final parameters", (
        "name", "unit", "median", "SD", f"{INTERVAL_NAME} interval", "shrinkage", "R-hat", "bulk ESS", "tail ESS",
        "SD / prior SD"), rows, _PURE_NOTE, _NAMES,
        "Shrinkage: 1 - SD(eta)/omega over patients (Savic & Karlsson 2009); above about 30%, effects of single "
        "patients say little.",
        "SD / prior SD: what is left of the prior's SD, both on the scale on which the prior is normal (log for "
        "lognormal); near 1, the parameter kept its prior.", known, traced=True)]


_NAMES = ("omega: SD of a random effect on its scale; tau, gamma: the same between studies and between occasions; "
          "sigma: residual error; beta: covariate effect; corr: correlation of random effects.")


def _name(name: str) -> Cited:
    return Cited([(name, f"table.csv: {name}, name")])


def shrinkages(record: FitRecord) -> dict[str, float]:
    """Shrinkage (SD scale) of each random effect by the name of its SD; of several occasions the largest."""
    if not record.content["data"]["subjects"]:
        return {}
    drawn, lay = load_group(record.folder / POSTERIOR, "posterior"), record.layout
    found: dict[str, float] = {}
    for column, sd in lay.spreads.items():
        if sd in lay.known or sd not in drawn or effect_name(column) not in drawn:
            continue
        effects = drawn[effect_name(column)].values.reshape(-1, len(lay.subjects))
        found[sd] = max(found.get(sd, -math.inf), shrinkage(effects, drawn[sd].values.ravel())["sd"])
    return found


def mode_tables(source: Source) -> list[Grid]:
    """Modes that MAP and Laplace found, highest first."""
    at = "sampler.approximation.modes"
    rows = [[str(k + 1), source.field(f"{at}.{k}.share", ".2g"), source.field(f"{at}.{k}.log_density", ".2f"),
             "yes" if mode["settled"] else "NO",
             *(source.field(f"{at}.{k}.values.{name}", ".4g") for name in source.content["parameters"])]
            for k, mode in enumerate(source.content["sampler"].get("approximation", {}).get("modes", []))]
    if not rows:
        return []
    head = ("mode", "share of the mass", "log density", "settled", *source.content["parameters"])
    across = list(zip(head, *rows, strict=True))  # a mode a column: parameters are many, modes few
    return [_grid("modes", "Modes, highest first", across[0], across[1:],
                  "Shares of the mass by Laplace's formula, from height and curvature alone. “settled”: the search "
                  "ended at a maximum.")]


def criteria_tables(source: Source) -> list[Grid]:
    """The gates of the spec, each as the verdict says it."""
    rows = []
    for k, text in enumerate(source.content["verdict"]["sentences"]):
        mark, _, said = text.partition(": ")
        known = mark in ("pass", "FAIL", "note")
        where = f"record.json: verdict.sentences.{k}"
        rows.append([Cited([(said if known else text, where)]), {"pass": "pass", "FAIL": "FAIL"}.get(mark, "note")])
    return [_grid("gates", "Technical criteria of the spec (gates) and whether they were met",
                  ("criterion and what was found", "outcome"), rows, traced=True)] if rows else []


def run_tables(source: Source) -> list[Grid]:
    """How the draws were made."""
    left_out = {"approximation", "sentences", "overrides"}
    rows = [[_words(key), _listed(source, f"sampler.{key}", value)] for key, value in source.content["sampler"].items()
            if key not in left_out and value not in ("", None)]
    rows += [[f"option --{key}", source.field(f"sampler.overrides.{key}")]
             for key in source.content["sampler"].get("overrides", {})]
    rows += [[f"solver, {_words(key)}", _listed(source, f"solver.{key}", value)]
             for key, value in source.content["solver"].items() if key != "scale"]
    rows += [[f"certificate, {_words(key)}", _listed(source, f"certificate.{key}", value)]
             for key, value in source.content["certificate"].items()]
    rows += [[f"seconds, {key}", source.field(f"seconds.{key}")] for key in source.content["seconds"]]
    notes = ["Certificate: the log density of some draws, computed again with finer steps.",
             "Energy fraction: E-BFMI by chain; below 0.3 the sampler explores energies poorly."
             if source.record.method == NUTS else ""]
    head = [["record made", source.field("created")], ["model", say(source.field("model.title"), " (",
             source.field("model.name"), ")")], ["data", source.field("data.name")]]
    return [_grid("run", "The run: sampler, solver, numerical certificate and time", ("what", "value"), head + rows,
                  *notes)]


def _words(key: str) -> str:
    return key.replace("_", " ")


def _listed(source: Source, path: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        parts: list[str] = []
        for k in range(len(value)):
            parts += [", " if k else "", source.field(f"{path}.{k}", ".4g")]
        return say(*parts)
    return source.field(path, ".6g" if isinstance(value, float) else "")


# --- the data and the model ----------------------------------------------------------------------------------


def published_tables(source: Source) -> Iterator[Grid]:
    """Published figures beside what the fit predicts for such cohorts."""
    for t, table in enumerate(source.content.get("published") or []):
        rows = []
        for r, row in enumerate(table["rows"]):
            at = f"published.{t}.rows.{r}"
            for key, figure in row["figures"].items():
                rows.append([row["cohort"], source.field(f"{at}.day", "g"), row["observable"],
                             _statistic(row, key), source.field(f"{at}.n"),
                             source.field(f"{at}.figures.{key}.published", ".3g"),
                             PURE if key == "cv" else row["unit"],
                             say(source.field(f"{at}.figures.{key}.median", ".3g"), " (",
                                 source.field(f"{at}.figures.{key}.q05", ".3g"), " to ",
                                 source.field(f"{at}.figures.{key}.q95", ".3g"), ")"),
                             source.field(f"{at}.figures.{key}.below", ".2f"), _reached(row, figure)])
        cohorts = [f"{c['label']} (study {c['study']}"
                   + (f", {c['overlap']} people counted elsewhere" if c["overlap"] else "") + f"; {c['source']})"
                   for c in table["cohorts"]]
        seen = [f"{one}: {'seen there' if verified else 'not verified'}" for one, verified in dict.fromkeys(
            (row["source"], row["verified"]) for row in table["rows"])]
        yield _grid(f"published-{t + 1}", f"Published figures: {table['title']} ({table['file']})", (
            "cohort", "day", "observable", "statistic", "n", "published", "unit",
            f"predicted ({INTERVAL_NAME} interval)", "P(below)", "reached"), rows,
            f"Cohorts: {'; '.join(cohorts)}.", f"Places of the figures: {'; '.join(seen)}.",
            "“predicted”: the same figure of another cohort of this size, with the uncertainty of the parameters and "
            "that of who was sampled; the fit has seen the published one. “P(below)”: how probable a figure below the "
            "published one is; “reached”: no where that is below 0.05 or above 0.95, or where the printed side of a "
            "bound is less probable than 0.05.")


def _statistic(row: Mapping[str, Any], key: str) -> str:
    text = row["statistic"] + (f": {key}" if key != "value" else "")
    if "bound" in row:
        text += f", only said to lie {row['bound']}"
    if "limit" in row:
        text += f" {row['limit']:g}"
    return text + (f" above {row['threshold']:g}" if "threshold" in row else "")


def _reached(row: Mapping[str, Any], figure: Mapping[str, Any]) -> str:
    below = figure["below"]
    low, high = row.get("bound", "below") == "below", row.get("bound", "above") == "above"
    return "no" if (low and below < 0.05) or (high and below > 0.95) else "yes"


def misfit_tables(source: Source) -> list[Grid]:
    """Records and subjects that the model misses, without measured values."""
    found, time = source.content["residuals"], source.record.spec.model.time
    grids = []
    if found["beyond"]:
        rows = []
        for k, row in enumerate(found["beyond"]):
            at = f"residuals.beyond.{k}"
            rows.append([source.field(f"{at}.subject"), source.field(f"{at}.time", "g"),
                         source.field(f"{at}.observable"), source.field(f"{at}.residual", ".2f"),
                         "beyond a limit of quantification" if row["censored"] else ""])
        grids.append(_grid("misfit", f"Records with a standardised residual beyond {found['bound']}",
                           ("subject", time, "observable", "residual", "remark"), rows, traced=True))
    order = sorted(range(len(found["subjects"])), key=lambda k: -(found["subjects"][k]["rms"] or 0.0))
    rows = [[source.field(f"residuals.subjects.{k}.{key}") for key in ("subject", "measured", "censored")]
            + ["none measured" if found["subjects"][k]["rms"] is None else source.field(
                f"residuals.subjects.{k}.rms", ".2f"), source.field(f"residuals.subjects.{k}.beyond")] for k in order]
    if rows:
        grids.append(_grid("misfit-subjects", "Subjects, the worst first", (
            "subject", "measured", "beyond a limit", "root mean square residual", f"beyond {found['bound']}"), rows,
            traced=True))
    return grids


# --- results -------------------------------------------------------------------------------------------------


def endpoint_tables(source: Source) -> Iterator[Grid]:
    """Each endpoint by arm, a table an endpoint."""
    time = source.record.spec.model.time
    for name, item in source.content["endpoints"].items():
        label = item["label"] or name
        arms = endpoint_arms(source.record, name)
        definition = (f"{item['marker']} at or above {item['threshold']:g} {item['unit']}"
                      + (f", lasting {item['sustained_for']:g} {time}s" if item["sustained_for"] else "")
                      + (", after the nadir" if item["after_nadir"] else "")
                      + f"; clock from {time} {item['clock_start']:g}, horizon {time} {item['horizon']:g}. "
                      f"Source: {item['source'] or 'none given'}.")
        kind = ("Of a single point: intervals have no width." if source.single else
                f"In brackets: {INTERVAL_NAME} interval, parameter uncertainty only. A time that is not reached by the "
                "horizon counts as not reached; it is never dropped.")
        if item.get("landmark"):
            rows = [[source.arm(name, arm), source.with_interval(f"{name}.by_{item['horizon']:g}[{arm}]", _PERCENT)]
                    for arm in arms]
            yield _grid(f"endpoint-{name}", f"Endpoint by dose arm: {label}", (
                "arm", f"at or above on {time} {item['horizon']:g}"), rows, definition, kind, traced=True)
            continue
        start = item["clock_start"]
        rows = []
        for arm in arms:
            row = f"{name}.median[{arm}]"
            middle = source.time(row, "median", name)
            if not source.single:
                middle = say(middle, " (", source.time(row, "q05", name), " to ", source.time(row, "q95", name), ")")
            rows.append([source.arm(name, arm), middle,
                         say(source.time(f"{name}.spread_q05[{arm}]", "median", name), " to ",
                             source.time(f"{name}.spread_q95[{arm}]", "median", name)),
                         *(source.with_interval(f"{name}.by_{day:g}[{arm}]", _PERCENT) for day in item["by"]),
                         source.with_interval(f"{name}.never[{arm}]", _PERCENT)])
        head = f"median, {time}s after {time} {start:g}" if start else f"median {time}"
        yield _grid(f"endpoint-{name}", f"Endpoint by dose arm: {label}", (
            "arm", head, "subjects, 5% to 95%", *(f"reached by {time} {day:g}" for day in item["by"]),
            f"not by {time} {item['horizon']:g}"), rows, definition, kind,
            "“subjects”: spread between subjects at the median of the posterior.", traced=True)


def implied_export_tables(source: Source) -> tuple[list[str], list[Grid], str]:
    """Warnings, table, and what to say where there is no table: what the predictions ask of the thymus."""
    found = source.content.get("implied_export") or {"known": False, "note": exports.ABSENT, "rows": [], "warnings": []}
    if not found["known"]:
        return list(found["warnings"]), [], f"{found['note'][0].upper()}{found['note'][1:]}."
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for k, row in enumerate(found["rows"]):
        at = f"implied_export.rows.{k}"
        observable, _, rest = row["quantity"].partition(".")
        kind, _, reference = rest.partition("_over_")
        line = rows.setdefault((observable, reference, row["arm"]), {
            "observable": observable, "over the": reference, "arm": source.field(f"{at}.arm")})
        line[_words(kind)] = say(source.field(f"{at}.estimate", ".2g"), " (", source.field(f"{at}.lower", ".2g"),
                                 " to ", source.field(f"{at}.upper", ".2g"), ")")
        if kind == "peak":
            line["subjects, 5% to 95%"] = say(source.field(f"{at}.subjects_q05", ".2g"), " to ",
                                              source.field(f"{at}.subjects_q95", ".2g"))
            line["P(more)"] = source.field(f"{at}.p_above_1", _PERCENT)
    columns = list(dict.fromkeys(column for line in rows.values() for column in line))
    ordered = sorted(rows.items(), key=lambda item: item[0][:2])
    grid = _grid("implied-export", "Implied thymic export over that of a healthy thymus", columns,
                 [[line.get(column, "") for column in columns] for _, line in ordered],
                 "Implied thymic export over that of a healthy thymus of the subject's age (“healthy”), and over the "
                 f"most that is thought possible (“highest”, assumed), both as the model document states them: "
                 f"{found['note']}. “subjects”: spread between subjects at the median of the posterior; “P(more)”: "
                 f"posterior probability that the median subject's peak is above 1.", found["rule"], traced=True)
    return list(found["warnings"]), [grid], ""


# --- software and listings -----------------------------------------------------------------------------------


def software_tables(source: Source) -> list[Grid]:
    content = source.content
    rows = [["Python", source.field("environment.python")], ["platform", source.field("environment.platform")],
            ["numbers", source.field("environment.dtype")]]
    rows += [[name, source.field(f"environment.packages.{name}")] for name in content["environment"]["packages"]]
    digests = [["record", source.field("digest")], ["model document", source.field("model.sha256")],
               ["spec", source.field("spec.sha256")], ["data", source.field("data.sha256")]]
    # a file's name has dots of its own, so that no dotted path leads to it
    digests += [[name, Cited([(value, f"record.json: files/{name}")])] for name, value in content["files"].items()]
    return [_grid("software", "Software that made the record", ("what", "version"), rows),
            _grid("digests", "Digests (sha256) of what the record was made from and of its files",
                  ("file", "sha256"), digests)]


def exclusion_tables(source: Source) -> list[Grid]:
    """Excluded records, each with its row in the file; only reasons with rows where they are many."""
    rows = source.content["data"]["exclusions"]
    grids = []
    if rows:
        reasons: dict[str, list[Any]] = {}
        for row in rows:
            reasons.setdefault(row["reason"], []).append(row["row"])
        grids.append(_grid("exclusions", "Excluded records by reason", ("excluded because", "rows"),
                           [[reason, str(len(mine))] for reason, mine in reasons.items()]))
    return grids


def excluded_listings(source: Source) -> list[Grid]:
    rows = source.content["data"]["exclusions"][:LONGEST]
    listed = [[source.field(f"data.exclusions.{k}.{key}") for key in ("row", "id", "time", "reason")]
              for k in range(len(rows))]
    return [_grid("excluded", "Excluded records", ("row of the file", "ID", "TIME", "reason"), listed,
                  cut(len(source.content["data"]["exclusions"]), "record.json, data.exclusions"),
                  listing=True)] if rows else []


def cut(count: int, where: str) -> str:
    return f"The first {LONGEST} of {count} rows; all of them are in {where}." if count > LONGEST else ""


def individual_listings(source: Source) -> list[Grid]:
    """Random effects of each subject."""
    names = list(dict.fromkeys(str(name).partition("[")[0] for name in source.table.index
                               if str(name).startswith("re_")))
    subjects = source.content["data"]["subjects"]
    rows = [[subject, *(source.with_interval(f"{name}[{subject}]", ".2f") if f"{name}[{subject}]" in source.table.index
                        else "" for name in names)] for subject in subjects[:LONGEST]]
    if not names:
        return []
    return [_grid("individual-parameters", "Individual parameters: random effects", (
        "subject", *(name.removeprefix("re_") for name in names)), rows,
        "On the scale of the random effect (for most, the logarithm of the subject's parameter over the typical one)"
        + ("." if source.single else f": median and {INTERVAL_NAME} interval."),
        cut(len(subjects), "table.csv"), listing=True)]


def origin_listings(said: Sequence[Cited]) -> list[Grid]:
    """Of every number of the sentences, the field that it is from."""
    rows = []
    for k, text in enumerate(said):
        own = [f"{piece} from {field}" for piece, field in pieces_of(text) if field and piece[0].isdigit()]
        rows.append([str(k + 1), "; ".join(dict.fromkeys(own))])
    return [_grid("origins", "Where the numbers of the sentences of results come from", (
        "sentence", "number and field"), rows, "A field of table.csv is named by row and column; of record.json by its "
        "path. Percentages are 100 times the stored share; 90% is the distance of the columns q05 and q95.",
        listing=True)] if rows else []
