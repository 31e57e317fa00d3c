"""What the data sets of a bundle hold, variable by variable: as Define-XML 2.1, and as a table to read.

The XML says Context "Other" and names no CDISC standard: these are data sets of an analysis, not of SDTM or ADaM.

Source: CDISC Define-XML 2.1.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from thymodel.results.document import xml_text
from thymodel.results.titled_table import TitledTable
from thymodel.results.transport import DataSet, Variable

_ODM, _DEF, _LINK = "http://www.cdisc.org/ns/odm/v1.3", "http://www.cdisc.org/ns/def/v2.1", "http://www.w3.org/1999/xlink"
_XML = "http://www.w3.org/XML/1998/namespace"
_SOURCES = {"Collected": "Investigator", "Assigned": "Sponsor", "Derived": "Sponsor"}  # Define-XML's words
COLUMNS = ("data set", "variable", "label", "type", "length", "SAS format", "unit", "codes", "origin", "comment")


@dataclass(frozen=True)
class Defined:
    """A data set and where its transport file lies in the bundle."""

    data: DataSet
    record: str
    path: str

    @property
    def key(self) -> str:
        """Unique in the bundle, where several records have data sets of the same names."""
        return f"{self.record}.{self.data.name}"


def define_table(defined: Defined) -> TitledTable:
    """A row a variable of one data set."""
    data = defined.data
    rows = tuple((data.name, one.name, one.label, "text" if one.is_text else "number", str(one.length), one.shown_as,
                  one.unit, "; ".join(f"{code}: {meaning}" for code, meaning in one.codes.items()), _origin(data, one),
                  one.comment) for one in data.variables)
    notes = (f"{defined.path}: {data.rows} rows, {data.structure}; keys {', '.join(data.keys)}.", data.comment)
    key = f"define-{defined.record}-{data.name.lower()}"
    return TitledTable(key, f"{defined.record}, {data.name}: {data.label}", COLUMNS, rows, notes)


def define_xml(study: str, description: str, created: str, everything: Sequence[Defined]) -> bytes:
    """Define-XML 2.1.

    Args:
        created: date and time, ISO 8601.
    """
    for prefix, address in (("", _ODM), ("def", _DEF), ("xlink", _LINK)):
        ET.register_namespace(prefix, address)
    root = ET.Element(f"{{{_ODM}}}ODM", {
        "FileType": "Snapshot", "FileOID": f"define.{study}", "ODMVersion": "1.3.2", "CreationDateTime": created,
        "SourceSystem": "thymodel", f"{{{_DEF}}}Context": "Other"})
    body = _sub(root, "Study", OID=f"study.{study}")
    general = _sub(body, "GlobalVariables")
    for name, text in (("StudyName", study), ("StudyDescription", description), ("ProtocolName", "not applicable")):
        _sub(general, name).text = text
    version = _sub(body, "MetaDataVersion", OID=f"MDV.{study}", Name=f"{study}, data definitions")
    version.set(f"{{{_DEF}}}DefineVersion", "2.1.0")
    for defined in everything:
        _group(version, defined)
    for defined in everything:
        for variable in defined.data.variables:
            _item(version, defined, variable)
    for defined in everything:
        for variable in filter(lambda one: one.codes, defined.data.variables):
            _code_list(version, defined, variable)
    for oid, text in _comments(everything):
        _description(_sub(version, "CommentDef", _DEF, OID=oid), text)
    for element in root.iter():
        element.text = element.text and xml_text(element.text)
        element.attrib.update({key: xml_text(value) for key, value in element.attrib.items()})
    ET.indent(root, " ")
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _sub(parent: ET.Element, name: str, space: str = _ODM, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, f"{{{space}}}{name}", attributes)


def _description(parent: ET.Element, text: str) -> None:
    told = _sub(_sub(parent, "Description"), "TranslatedText")
    told.set(f"{{{_XML}}}lang", "en")
    told.text = text


def _group(version: ET.Element, defined: Defined) -> None:
    """A data set with its variables in order."""
    data, key = defined.data, defined.key
    group = _sub(version, "ItemGroupDef", OID=f"IG.{key}", Name=data.name, Repeating="Yes", IsReferenceData="No",
                 SASDatasetName=data.name, Purpose="Analysis")
    group.attrib |= {f"{{{_DEF}}}Structure": data.structure, f"{{{_DEF}}}IsNonStandard": "Yes",
                     f"{{{_DEF}}}ArchiveLocationID": f"LF.{key}", f"{{{_DEF}}}CommentOID": f"COM.{key}"}
    _description(group, data.label)
    for number, variable in enumerate(data.variables, 1):
        place = {"KeySequence": str(data.keys.index(variable.name) + 1)} if variable.name in data.keys else {}
        _sub(group, "ItemRef", ItemOID=f"IT.{key}.{variable.name}", OrderNumber=str(number),
             Mandatory="Yes" if place else "No", **place)
    leaf = _sub(group, "leaf", _DEF, ID=f"LF.{key}")
    leaf.set(f"{{{_LINK}}}href", defined.path)
    _sub(leaf, "title", _DEF).text = defined.path


def _item(version: ET.Element, defined: Defined, variable: Variable) -> None:
    oid = f"{defined.key}.{variable.name}"
    item = _sub(version, "ItemDef", OID=f"IT.{oid}", Name=variable.name, SASFieldName=variable.name, **_kind(variable))
    item.set(f"{{{_DEF}}}DisplayFormat", variable.shown_as)
    if _remark(variable):
        item.set(f"{{{_DEF}}}CommentOID", f"COM.{oid}")
    _description(item, variable.label)
    if variable.codes:
        _sub(item, "CodeListRef", CodeListOID=f"CL.{oid}")
    kind = _origin(defined.data, variable)
    origin = _sub(item, "Origin", _DEF, Type=kind, Source=_SOURCES[kind])
    if variable.origin == "Collected":
        _description(origin, "SIMULATED, drawn from a design" if defined.data.simulated else "the record's data file")


def _origin(data: DataSet, variable: Variable) -> str:
    """What was drawn was not collected."""
    return "Derived" if data.simulated and variable.origin == "Collected" else variable.origin


def _kind(variable: Variable) -> dict[str, str]:
    """Define-XML's type. A number is an integer only if all are; of others the format keeps 17 digits."""
    if variable.is_text:
        return {"DataType": "text", "Length": str(variable.length)}
    known = np.asarray(variable.values)[~np.isnan(variable.values)]
    if np.all(known == np.round(known)) and np.all(np.abs(known) < 1e15):
        return {"DataType": "integer", "Length": str(max([1, *(len(f"{value:.0f}") for value in known)]))}
    return {"DataType": "float", "Length": "17", "SignificantDigits": "16"}


def _remark(variable: Variable) -> str:
    """What Define-XML has no place of its own for, the unit among it."""
    unit = f"unit: {variable.unit}" if variable.unit else ""
    return "; ".join(filter(None, [unit, variable.comment]))


def _code_list(version: ET.Element, defined: Defined, variable: Variable) -> None:
    codes = _sub(version, "CodeList", OID=f"CL.{defined.key}.{variable.name}", Name=f"{defined.key} {variable.name}",
                 DataType="text" if variable.is_text else "integer")
    codes.set(f"{{{_DEF}}}IsNonStandard", "Yes")
    for code, meaning in variable.codes.items():
        item = _sub(codes, "CodeListItem", CodedValue=code)
        told = _sub(_sub(item, "Decode"), "TranslatedText")
        told.set(f"{{{_XML}}}lang", "en")
        told.text = meaning


def _comments(everything: Sequence[Defined]) -> Iterator[tuple[str, str]]:
    for defined in everything:
        yield f"COM.{defined.key}", defined.data.comment or "no comment"
        yield from ((f"COM.{defined.key}.{one.name}", _remark(one)) for one in defined.data.variables if _remark(one))
