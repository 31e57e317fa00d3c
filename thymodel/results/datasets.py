"""The data sets of a record, for those who review it with tools of their own: events as fitted with exclusions flagged,
individual parameters, predictions and residuals, the table of quantities, and draws of the population's parameters."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from thymodel.documents.data import StudyData, load_data
from thymodel.documents.rows import MISSING, NUMBER
from thymodel.documents.sheet import read_sheet
from thymodel.documents.spec import FitSpec
from thymodel.inference.diagnostics import INTERVAL, INTERVAL_NAME
from thymodel.inference.population import Layout, population_values, random_effects, study_shifts, subject_values
from thymodel.inference.posterior import study_arrays
from thymodel.inference.sampling import thin
from thymodel.results.record import POSTERIOR, FitRecord, load_group
from thymodel.results.replicates import Study, individual_prediction, typical_prediction
from thymodel.results.transport import DataSet, Variable, numbers, short_names, texts

DRAWS = 1000  # of the population's parameters that are sent; all are in the record's posterior.nc
_PER_SUBJECT = 1000  # draws from which individual parameters are summarised
_LABELS = {
    "ID": "Subject", "TIME": "Time", "EVID": "Event", "CMT": "Input of a dose", "AMT": "Amount of a dose",
    "RATE": "Rate of an infusion", "ADDL": "Further doses", "II": "Time between doses", "SS": "Steady state",
    "DVID": "Observable", "DV": "Measured value", "CENS": "Beyond a limit", "LIMIT": "Other limit",
    "MDV": "Measurement left out", "ARM": "Arm", "STUDY": "Study", "EVENTS": "Events of the parent gate"}
_CODES = {"EVID": {"0": "observation", "1": "dose", "2": "other event"},
          "CENS": {"0": "measured", "1": "below DV, the lower limit", "-1": "above DV, the upper limit"},
          "MDV": {"0": "used", "1": "left out"}}
_WHOLE = re.compile(r"[1-9][0-9]{0,14}")
_FLAG = {"Y": "left out of the fit", "N": "used"}


def data_sets(record: FitRecord, data: Path | None, table: pd.DataFrame) -> Iterator[DataSet]:
    """Every data set that the record, and its data where they are at hand, can give.

    Args:
        data: the study data; without them no data set holds a measured value.
        table: of the record's quantities, recomputed from its draws.
    """
    spec = record.spec
    if data is not None:
        study = load_data(data, spec.model, spec.columns)
        yield event_set(record, data, study)
        yield prediction_set(record, study)
    if record.layout.subjects and varied(spec):
        yield parameter_set(record)
    yield quantity_set(record, table)
    yield draw_set(record)


def _of_record(record: FitRecord, rows: int) -> tuple[Variable, ...]:
    """The column by which every row leads back to the record."""
    return texts("RECORDID", "Digest of the record", [record.digest] * rows, origin="Assigned",
                 comment="SHA-256 that stands in record.json under digest")


def _data_set(record: FitRecord, name: str, label: str, structure: str, keys: Sequence[str],
              columns: Sequence[Sequence[Variable]], comment: str) -> DataSet:
    variables = [variable for column in columns for variable in column]
    simulated = bool(record.content["simulated"])
    return DataSet(name, label, structure, tuple(keys), (*_of_record(record, len(variables[0].values)), *variables),
                   ("SIMULATED data. " if simulated else "") + comment, simulated)


# --- events --------------------------------------------------------------------------------------------------


def event_set(record: FitRecord, path: Path, study: StudyData) -> DataSet:
    """Every row of the data file with every column; rows that the fit left out are flagged, with the reason."""
    sheet, spec = read_sheet(path), record.spec
    excluded = {one.row: one.reason for one in study.exclusions}
    rows = [line.row for line in sheet.lines]
    own = [heading or f"column {k + 1}" for k, heading in enumerate(sheet.header)]
    names = short_names(own, ("RECORDID", "SRCROW", "EXCLFL", "EXCLRSN"))
    standard = {spec.columns.columns.get(name, name): name for name in (*spec.columns.headings, *spec.model.covariates)}
    columns = [numbers("SRCROW", "Line in the data file", rows, origin="Assigned",
                       comment="line 1 is the header")]
    columns += [_column(names[heading], heading, standard.get(heading, ""), [line.cells[k] for line in sheet.lines],
                        spec) for k, heading in enumerate(own)]
    flags = ["Y" if row in excluded else "N" for row in rows]
    columns += [texts("EXCLFL", "Row left out of the fit", flags, codes=_FLAG,
                      comment="rows are flagged, none is deleted"),
                texts("EXCLRSN", "Why the row was left out", [excluded.get(row, "") for row in rows])]
    return _data_set(record, "EVENTS", "Events and measurements, as fitted", "one record per row of the data file",
                     ("SRCROW",), columns, f"{record.content['data']['name']}, row by row and unchanged; the file "
                     "itself is in the folder data.")


def _column(short: str, heading: str, standard: str, cells: Sequence[str], spec: FitSpec) -> tuple[Variable, ...]:
    """One column of the data file: numbers where all of its cells are, else text as it stands."""
    told = {"unit": _unit(standard, spec), "codes": _codes(standard, set(cells), spec), "origin": "Collected",
            "comment": _comment(heading, short, standard, spec)}
    label = _LABELS.get(standard) or (spec.model.covariates[standard].label if standard else "") or heading
    if standard == "ID":
        return _subjects(cells, short)
    if all(cell in MISSING or NUMBER.fullmatch(cell) for cell in cells):
        return numbers(short, label, [float("nan") if cell in MISSING else float(cell) for cell in cells], **told)
    return texts(short, label, ["" if cell in MISSING else cell for cell in cells], **told)


def _subjects(names: Sequence[str], short: str = "ID") -> tuple[Variable, ...]:
    """Whose row it is: as numbers where all are whole ones and no digit would be lost, alike in every data set."""
    if all(_WHOLE.fullmatch(name) for name in names):
        return numbers(short, _LABELS["ID"], [int(name) for name in names], origin="Collected")
    return texts(short, _LABELS["ID"], names, origin="Collected")


def _unit(standard: str, spec: FitSpec) -> str:
    if standard == "TIME" or standard in spec.model.covariates:
        return str(spec.columns.units.get(standard, ""))
    return ""


def _codes(standard: str, cells: set[str], spec: FitSpec) -> dict[str, str]:
    """What the codes of a column mean, those that occur."""
    if standard == "DVID":
        known = {cell: spec.columns.dvid.get(cell, cell) for cell in cells}
        return {cell: f"{spec.model.observables[name].label or name} ({spec.columns.units.get(name, '')})"
                for cell, name in sorted(known.items()) if name in spec.model.observables}
    if standard == "CMT":
        known = {cell: spec.columns.cmt.get(cell, cell) for cell in cells}
        return {cell: f"{spec.model.inputs[name].label or name} ({spec.columns.units.get(name, '')})"
                for cell, name in sorted(known.items()) if name in spec.model.inputs}
    return {code: meaning for code, meaning in _CODES.get(standard, {}).items() if code in cells}


def _comment(heading: str, short: str, standard: str, spec: FitSpec) -> str:
    parts = [] if heading == short else [f"column {heading} of the file"]
    if standard == "DV":
        parts.append("in the unit that DVID says" if "DVID" not in spec.columns.constant else
                     f"{spec.columns.constant['DVID']} in {spec.columns.units.get(spec.columns.constant['DVID'], '')}")
    if standard == "AMT":
        parts.append("in the unit that CMT says")
    if not standard:
        parts.append("not used by the fit")
    return "; ".join(parts)


# --- individuals ---------------------------------------------------------------------------------------------


def varied(spec: FitSpec) -> list[str]:
    """Parameters that have a value of their own in every subject, in the order of the model."""
    levels = (spec.between_subject, spec.study_effects)
    own = {name for level in levels for effect in level.values() for name in effect.parameters}
    return [name for name in spec.model.parameters if name in own]


def parameter_set(record: FitRecord) -> DataSet:
    """Individual parameters: posterior mean, SD, median and interval of each subject's value."""
    spec, lay = record.spec, record.layout
    names = varied(spec)
    found = _individual(spec, lay, thin(record.z, _PER_SUBJECT), names)
    rows = [(subject, name, found[name][:, k]) for k, subject in enumerate(lay.subjects) for name in names]
    low, middle, high = np.quantile([values for _, _, values in rows], (INTERVAL[0], 0.5, INTERVAL[1]), axis=1)
    arms = [name for _, name, _ in rows]
    columns = [_subjects([subject for subject, _, _ in rows]),
               texts("PARAM", "Parameter", arms, origin="Assigned",
                     codes={name: spec.model.parameters[name].label or name for name in names}),
               texts("PARAMU", "Unit of the parameter", [str(spec.model.parameters[name].unit) for name in arms],
                     origin="Assigned"),
               numbers("MEAN", "Posterior mean", [np.mean(values) for _, _, values in rows]),
               numbers("SD", "Posterior standard deviation", [_sd(values) for _, _, values in rows]),
               numbers("MEDIAN", "Posterior median", middle), numbers("Q05", "Posterior quantile, 5%", low),
               numbers("Q95", "Posterior quantile, 95%", high)]
    return _data_set(record, "INDPAR", "Individual parameters", "one record per subject and parameter", ("ID", "PARAM"),
                     columns, f"Interval: {INTERVAL_NAME}, from at most {_PER_SUBJECT} draws, evenly spaced. What "
                     "covariates and occasions do to a parameter is in the model's equations, not in these values.")


def _sd(values: np.ndarray) -> float:
    """Not known of a single point."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _individual(spec: FitSpec, lay: Layout, z: np.ndarray, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """name -> (draw, subject)."""
    study = np.array(lay.study, int) if lay.study else np.full(len(lay.subjects), -1)

    def look(point):
        population = population_values(lay, point)
        values = subject_values(spec, population, random_effects(lay, point, population),
                                study_shifts(lay, population, study))
        return {name: jnp.broadcast_to(values[name], (len(lay.subjects),)) for name in names}

    return {name: np.asarray(value) for name, value in jax.jit(partial(jax.lax.map, look))(jnp.asarray(z)).items()}


def prediction_set(record: FitRecord, data: StudyData) -> DataSet:
    """Predictions and standardised residuals of every measurement that was used."""
    spec = record.spec
    study = Study(spec, record.layout, data, *study_arrays(spec, data, tuple(spec.likelihood)))
    typical, (own, residual) = typical_prediction(study, record.z), individual_prediction(study, record.z)
    places, observables = np.asarray(study.records.subject), tuple(spec.likelihood)
    observed = [observables[k] for k in study.records.observable]
    censoring, limit = np.asarray(study.records.censoring), np.asarray(study.records.limit)
    columns = [_subjects([study.layout.subjects[k] for k in places]),
               texts("ARM", "Arm", [data.subjects[k].arm for k in places], origin="Collected"),
               numbers("TIME", "Time", study.time, unit=spec.model.time, origin="Collected"),
               texts("DVID", "Observable", observed, origin="Collected",
                     codes={name: spec.model.observables[name].label or name for name in observables}),
               texts("DVU", "Unit of DV, PRED and IPRED", [str(spec.model.observables[name].unit) for name in observed],
                     origin="Assigned"),
               numbers("DV", "Measured value, in the model's unit", np.asarray(study.records.value),
                       origin="Collected"),
               numbers("CENS", "Beyond a limit", censoring, codes=_CODES["CENS"], origin="Collected"),
               numbers("LIMIT", "Other limit", np.where(np.isfinite(limit), limit, np.nan), origin="Collected"),
               numbers("PRED", "Prediction without random effects", typical,
                       comment="median over draws, of a subject with the record's doses and covariates"),
               numbers("IPRED", "Individual prediction", own, comment="median over draws"),
               numbers("IWRES", "Individual weighted residual", np.where(censoring == 0, residual, np.nan),
                       comment="(DV - IPRED)/spread at posterior medians, on the scale of the error model; none where "
                       "DV is a limit")]
    return _data_set(record, "INDPRED", "Predictions and residuals", "one record per measurement that was used",
                     ("ID", "TIME", "DVID"), columns, "Excluded rows are in EVENTS alone.")


# --- the population ------------------------------------------------------------------------------------------

_COLUMNS = {"mean": ("MEAN", "Posterior mean"), "sd": ("SD", "Posterior standard deviation"),
            "median": ("MEDIAN", "Posterior median"), "q05": ("Q05", "Posterior quantile, 5%"),
            "q95": ("Q95", "Posterior quantile, 95%"), "mcse_mean": ("MCSEMEAN", "Monte-Carlo error of the mean"),
            "mcse_sd": ("MCSESD", "Monte-Carlo error of the SD"), "rhat": ("RHAT", "R-hat, rank-normalised"),
            "ess_bulk": ("ESSBULK", "Effective sample size, bulk"),
            "ess_tail": ("ESSTAIL", "Effective sample size, tails")}


def quantity_set(record: FitRecord, table: pd.DataFrame) -> DataSet:
    """The table of quantities."""
    units = record.content["units"]
    names = [str(name) for name in table.index]
    columns = [texts("QUANTITY", "Quantity", names, origin="Assigned", comment="as thymodel quote takes it"),
               texts("UNIT", "Unit", [units.get(name.split("[")[0], "1") for name in names], origin="Assigned"),
               *(numbers(short, label, table[key]) for key, (short, label) in _COLUMNS.items())]
    return _data_set(record, "QUANTS", "Posterior of every quantity", "one record per quantity", ("QUANTITY",), columns,
                     f"Interval: {INTERVAL_NAME}. A time that is not reached by the horizon is censored there: it is "
                     "missing and said to be not reached in the column of the same name that ends in C.")


def _with_unit(name: str, unit: str) -> str:
    """A label that says the unit, for a transport file has no other place for it."""
    return name if unit == "1" else f"{name} ({unit})"


def draw_set(record: FitRecord) -> DataSet:
    """Draws of the population's parameters, thinned."""
    group = load_group(record.folder / POSTERIOR, "posterior")
    drawn = {str(name): variable.values for name, variable in group.data_vars.items()
             if variable.dims == ("chain", "draw")}
    chains, count = next(iter(drawn.values())).shape
    kept = np.unique(np.linspace(0, chains * count - 1, min(DRAWS, chains * count)).astype(int))
    draw, chain = np.divmod(kept, chains)
    units, names = record.content["units"], short_names(drawn, ("RECORDID", "CHAIN", "DRAW"))
    columns = [numbers("CHAIN", "Chain, from 1", chain + 1, origin="Assigned"),
               numbers("DRAW", "Draw within the chain, from 1", draw + 1, origin="Assigned"),
               *(numbers(names[name], _with_unit(name, units.get(name, "1")), values[chain, draw],
                         unit=units.get(name, "1"), comment=f"{name} of table.csv") for name, values in drawn.items())]
    return _data_set(record, "DRAWS", "Draws of population parameters", "one record per draw", ("CHAIN", "DRAW"),
                     columns, f"{len(kept)} of {chains * count} draws, evenly spaced over all chains; every draw is in "
                     "posterior.nc.")
