"""A map for a foreign data set: what its columns, codes and units mean where their names do not say it."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from thymodel.documents.model import Number, Text
from thymodel.documents.toml import Table, parse_document, read_text
from thymodel.documents.units import convert_factor, parse_unit
from thymodel.errors import Fault, InputError

# our column -> headings that mean it, in the order of preference; capitals do not matter
HEADINGS: dict[str, tuple[str, ...]] = {
    "ID": ("ID", "#ID", "USUBJID", "SUBJID", "SUBJECT", "PATIENT"),
    "TIME": ("TIME", "AFRLT", "ADTM", "NFRLT", "DAY", "DAYS"),
    "DATE": ("DATE", "DAT1", "DAT2", "DAT3", "ADT"),
    "CLOCK": ("ATM",),
    "EVID": ("EVID",),
    "MDV": ("MDV",),
    "AMT": ("AMT", "AMOUNT"),
    "RATE": ("RATE",),
    "DUR": ("DUR", "TINF"),
    "ADDL": ("ADDL",),
    "II": ("II",),
    "SS": ("SS",),
    "CMT": ("CMT", "ADM"),
    "DVID": ("DVID", "YTYPE", "OBSID", "PARAMCD"),
    "DV": ("DV", "Y", "AVAL", "CONC", "CONCENTRATION", "OBSERVATION"),
    "DVTEXT": ("AVALC",),
    "CENS": ("CENS",),
    "LIMIT": ("LIMIT",),
    "BLQ": ("BLQ", "BLQFL", "BQL", "BLQFN"),
    "LLOQ": ("LLOQ", "ALLOQ", "LLQ"),
    "DVUNIT": ("AVALU", "DVU"),
    "AMTUNIT": ("DOSEU", "AMTU"),
    "EXCLUDED": ("EXCLF", "EXCL"),
    "ANALYSED": ("ANL01FL",),
    "ARM": ("ARM", "TRT01A", "ARMCD"),
    "STUDY": ("STUDY", "STUDYID"),
}


class UnitTable(Table):
    """`source` may be left out where a column of the file says the unit of every value, and for a clock (hours)."""

    source: str | None = pydantic.Field(default=None, alias="from")
    to: str


class ExcludeTable(Table):
    """Rows that are left out: those whose cell is one of `equals`, or none of `unless`."""

    column: str
    equals: list[str] = []
    unless: list[str] = []
    reason: Text


class FirstDoseTable(Table):
    """One dose a subject, whose amount stands in a column on each of its rows, perhaps per weight in another."""

    amount: str
    input: str
    per: str | None = None
    time: Number = 0.0


class ImportMap(Table):
    """Every key may be left out; what is not said is guessed from headings, and the guesses are told."""

    header: list[str] = []
    separator: Literal["comma", "semicolon", "tab", "bar", "space"] | None = None
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    date_order: Literal["mdy", "dmy", "ymd", "ydm"] | None = None
    missing: list[str] = []
    ignore: Annotated[str, pydantic.Field(max_length=1)] = ""
    not_used: list[str] = []
    time_zero: Literal["file", "first_record", "first_dose"] | None = None
    sort: bool = False
    reappearing_id: Literal["refuse", "new_subject", "same_subject"] = "refuse"
    resets: Literal["refuse", "new_subject"] = "refuse"
    replicates: Literal["refuse", "set_aside"] = "refuse"
    replicate_gap: Annotated[float, pydantic.Strict(False), pydantic.Field(gt=0)] | None = None
    columns: dict[str, str] = {}
    constant: dict[str, str] = {}
    dvid: dict[str, str] = {}
    cmt: dict[str, str] = {}
    codes: dict[str, dict[str, Number]] = {}
    markers: dict[str, str] = {}
    units: dict[str, UnitTable] = {}
    unit_names: dict[str, str] = {}
    lloq: dict[str, Number] = {}
    first_dose: FirstDoseTable | None = None
    exclude: list[ExcludeTable] = []


NO_MAP = ImportMap()


def load_import_map(path: Path) -> ImportMap:
    """A map from its file.

    Raises:
        InputError: every fault of it.
    """
    found = parse_document(read_text(path), ImportMap, str(path))
    faults = list(_faults(str(path), found))
    if faults:
        raise InputError(faults)
    return found


def _faults(where: str, found: ImportMap):
    known = ", ".join(HEADINGS)
    for section in ("columns", "constant"):
        for name in getattr(found, section):
            if name not in HEADINGS:
                yield Fault(f"{where}: {section}.{name}", "not a column that is read", f"known: {known}")
    for name in set(found.columns) & set(found.constant):
        yield Fault(f"{where}: constant.{name}", "also in [columns]", "leave one of them out")
    if len(set(found.header)) < len(found.header):
        yield Fault(f"{where}: header", "a name twice", "name each column once")
    for name, table in found.units.items():
        try:
            if table.source is None:
                parse_unit(table.to)
            else:
                convert_factor(table.source, table.to)
        except ValueError as error:
            yield Fault(f"{where}: units.{name}", str(error), 'for example { from = "ng/mL", to = "ug/L" }; '
                        "10^9/L of cells is kcell/uL, 10^6/L or 1/mm3 is cell/uL")
    for text, unit in found.unit_names.items():
        try:
            parse_unit(unit)
        except ValueError as error:
            yield Fault(f"{where}: unit_names.{text}", str(error), 'for example "10^9/L" = "kcell/uL"')
    if found.thousands == found.decimal:
        yield Fault(f"{where}: thousands", f"the mark {found.thousands} is the decimal mark", "they must differ")
    for place, rule in enumerate(found.exclude):
        if bool(rule.equals) == bool(rule.unless):
            yield Fault(f"{where}: exclude.{place}", "give either equals or unless", 'for example equals = ["1"]')
    if found.replicates == "set_aside" and found.replicate_gap is not None:
        yield Fault(f"{where}: replicate_gap", "replicates are set aside, so none can be moved",
                    "leave one of them out")
