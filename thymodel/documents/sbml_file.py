"""An SBML file looked at before anything is made of it: XML that is safe to read, and SBML that is valid."""

import re
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from thymodel.documents.sbml_math import load_libsbml
from thymodel.errors import Fault, InputError

DEEPEST_XML = 300  # elements inside each other; readers of XML use the machine's stack for them
MOST_FAULTS = 50
_SECTION = re.compile(r"^L\dV\d Sections? [\w., ]+?(?=[A-Z]|$)")
_PACKAGE = re.compile(r"http://www\.sbml\.org/sbml/level3/version\d/(\w+)/version\d\Z")


def required_packages(text: str, where: str) -> list[str]:
    """Packages that the file requires and uses; the file is looked at before any code outside Python reads it.

    Raises:
        InputError: empty, not XML, not SBML, with a document type (entities may expand without end), nested too deep.
    """
    if not text.strip():
        raise InputError([Fault(where, "the file is empty")])
    used: set[str] = set()
    required: set[str] = set()
    open_elements: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        root = name.rpartition(" ")[2]
        if not open_elements and root != "sbml":
            raise InputError([Fault(where, f"not SBML: its root is <{root[:40]}>", "is it the right file?")])
        open_elements.append(name)
        if len(open_elements) > DEEPEST_XML:
            raise InputError([Fault(where, f"XML nested deeper than {DEEPEST_XML}", "SBML never is")])
        inside = "annotation" in [part.rpartition(" ")[2] for part in open_elements]
        for key, value in [(name, ""), *attributes.items()]:
            package = _PACKAGE.match(key.rpartition(" ")[0])
            if package and key.endswith(" required"):
                required.update([package[1]] if value.strip() == "true" else [])
            elif package and not inside:
                used.add(package[1])

    def refuse_type(*_: Any) -> None:
        raise InputError([Fault(where, "a document type declaration (<!DOCTYPE>), through which entities expand",
                                "SBML has none; remove it")])

    def encoded(version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.upper() not in ("UTF-8", "ASCII", "US-ASCII"):
            raise InputError([Fault(where, f"the encoding {encoding[:40]}", "SBML files are UTF-8")])

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, lambda name: open_elements.pop()
    parser.StartDoctypeDeclHandler, parser.XmlDeclHandler = refuse_type, encoded
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise InputError([Fault(where, f"not XML: {expat.ErrorString(error.code)} in line {error.lineno}",
                                "is it an SBML file, and whole?")]) from None
    return sorted(used & required)


def checked_model(text: str, where: str) -> Any:
    """The model, without errors in libsbml's eyes."""
    sbml = load_libsbml()
    document = sbml.readSBMLFromString(text)
    if document.getLevel() == 1:
        raise InputError([Fault(where, "SBML Level 1", "Levels 2 and 3 are read; libsbml and most tools convert")])
    faults = list(_errors(document, where))
    if not faults and document.getModel() is None:
        faults = [Fault(where, "no <model> in the file")]
    if not faults:
        for category in (sbml.LIBSBML_CAT_UNITS_CONSISTENCY, sbml.LIBSBML_CAT_SBO_CONSISTENCY,
                         sbml.LIBSBML_CAT_MODELING_PRACTICE):
            document.setConsistencyChecks(category, False)
        document.checkConsistency()
        faults = list(_errors(document, where))
    if faults:
        raise InputError(faults[:MOST_FAULTS])
    model = document.getModel()
    model.keep = document  # the model dies with its document
    return model


def _errors(document: Any, where: str) -> Iterator[Fault]:
    sbml = load_libsbml()
    for k in range(document.getNumErrors()):
        error = document.getError(k)
        if error.getSeverity() in (sbml.LIBSBML_SEV_ERROR, sbml.LIBSBML_SEV_FATAL):
            rule, _, finding = " ".join(error.getMessage().split()).partition("Reference: ")
            finding = _SECTION.sub("", finding)  # the rule in general is long; what broke it here comes last
            said = f"{error.getShortMessage()}: {finding}" if finding else rule
            yield Fault(f"{where}: line {error.getLine()}", f"not valid SBML: {said[:400].strip()}")
