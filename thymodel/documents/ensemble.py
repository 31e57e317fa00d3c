"""`[ensemble]` of a scenario: several records that answer the same question by different structures, and how much each
of them counts."""

import math
from dataclasses import dataclass
from pathlib import Path

from thymodel.documents.model import Number, Text
from thymodel.documents.toml import Table
from thymodel.errors import Fault

STACKING = "stacking"
_SUM = 1e-6  # how far weights may be from 1 in all


class EnsembleTable(Table):
    """`records`: directories, relative to the scenario's file, the record of the command line among them; `weights`:
    "stacking", or a number for each of them, with where these are from."""

    records: list[Text]
    weights: str | list[Number] = STACKING
    source: Text | None = None


@dataclass(frozen=True)
class Ensemble:
    """`weights` are those of the file, None where they are to be computed by stacking."""

    records: tuple[Path, ...]
    weights: tuple[float, ...] | None
    source: str


def read_ensemble(path: Path, table: EnsembleTable | None, faults: list[Fault]) -> Ensemble | None:
    """The ensemble of a scenario, where it has one; what is wrong is added to `faults`."""
    if table is None:
        return None
    where, folders = f"{path}: ensemble", tuple(path.parent / folder for folder in table.records)
    if len(folders) < 2:
        faults.append(Fault(f"{where}.records", f"{len(folders)} of two or more", "name every record, also the one of "
                            "the command line; a scenario of one record needs no [ensemble]"))
    if isinstance(table.weights, str):
        if table.weights != STACKING:
            faults.append(Fault(f"{where}.weights", f"'{table.weights}' is no way to weigh",
                                f'say weights = "{STACKING}", or give a number for each record'))
        return Ensemble(folders, None, "")
    if table.source is None:
        faults.append(Fault(f"{where}.source", "missing", "say where the weights are from, or why they are assumed"))
    if len(table.weights) != len(folders):
        faults.append(Fault(f"{where}.weights", f"{len(table.weights)} of them for {len(folders)} records",
                            "give one for each, in the order of records"))
    faults += [Fault(f"{where}.weights.{k}", f"{weight:g}, above 0 was expected", "leave a record out that does not "
                     "count") for k, weight in enumerate(table.weights) if not weight > 0]
    if table.weights and abs(math.fsum(table.weights) - 1) > _SUM:
        faults.append(Fault(f"{where}.weights", f"they add up to {math.fsum(table.weights):g}, not to 1"))
    return Ensemble(folders, tuple(float(weight) for weight in table.weights), table.source or "")
