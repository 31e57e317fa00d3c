"""What is installed: distributions with versions and licences, as a table and as a CycloneDX bill of materials."""

import base64
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError

NAME = "thymodel"
SPECIFICATION = "1.6"  # of CycloneDX
ROOT = Path(__file__).resolve().parents[1]  # of the package that runs
_PINS = ("constraints.txt", "../constraints.txt")  # in an installed package, and in a checkout
# licences that pass their own terms on to what is distributed with them; LGPL and MPL do so for themselves only
_FORBIDDEN = re.compile(r"(?<![A-Za-z])(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\s+OR\s+", re.IGNORECASE)
_TROVE = "License :: "
_LONGEST = 60  # characters: beyond it the field holds a licence's text, not its name


@dataclass(frozen=True)
class Component:
    """An installed distribution. `licence` is what its metadata say, empty where they say nothing; `sha256` is that of
    the list of its files (RECORD), which holds a digest of each of them."""

    name: str
    version: str
    licence: str
    spdx: bool
    sha256: str
    requires: tuple[str, ...]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def pinned() -> dict[str, str]:
    """Versions that the tests and the records of this version were made with, by canonical name; empty where the list
    was not installed."""
    for place in _PINS:
        path = ROOT / place
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return {canonicalize_name(name): version for name, equals, version in
                    (line.strip().partition("==") for line in lines if not line.startswith("#")) if equals}
    return {}


def own() -> metadata.Distribution:
    """The distribution that this package was installed as.

    Raises:
        InputError: it runs from its sources without having been installed.
    """
    try:
        return metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        raise InputError([Fault(NAME, "runs without having been installed: nothing says what belongs to it",
                                "pip install -c constraints.txt .")]) from None


def installed() -> dict[str, Component]:
    """Every distribution of this environment, by canonical name."""
    found: dict[str, Component] = {}
    for distribution in metadata.distributions():
        component = read_component(distribution)
        found.setdefault(component.name, component)  # of two, the first is the one that is imported
    return dict(sorted(found.items()))


def read_component(distribution: metadata.Distribution) -> Component:
    licence, spdx = _licence(distribution)
    record = distribution.read_text("RECORD")
    sha256 = digest(record) if record else ""
    return Component(canonicalize_name(distribution.metadata["Name"]), distribution.version, licence, spdx, sha256,
                     requirements(distribution))


def _licence(distribution: metadata.Distribution) -> tuple[str, bool]:
    """The licence as the metadata name it, and whether that is an SPDX expression: the field made for that, else a
    short text, else the classifiers (PEP 639 came late, and many a project has not followed)."""
    fields = distribution.metadata
    expression = field_of(distribution, "License-Expression")
    if expression:
        return expression, True
    text = field_of(distribution, "License")
    trove = [line.removeprefix(_TROVE).split(" :: ")[-1] for line in fields.get_all("Classifier") or []
             if line.startswith(_TROVE)]
    if text and text.upper() != "UNKNOWN" and len(text) <= _LONGEST and not text.startswith("Copyright"):
        return text, False
    if trove:
        return " AND ".join(trove), False
    return text[:_LONGEST].strip(" =") if text and text.upper() != "UNKNOWN" else "", False


def field_of(distribution: metadata.Distribution, name: str) -> str:
    """A field of the metadata on one line, empty where there is none."""
    return " ".join(distribution.metadata[name].split()) if name in distribution.metadata else ""


def requirements(distribution: metadata.Distribution, extras: Iterable[str] = ()) -> tuple[str, ...]:
    """Canonical names that a distribution needs here, with the extras asked for."""
    return tuple(sorted({canonicalize_name(item.name) for item in needed(distribution, extras)}))


def needed(distribution: metadata.Distribution, extras: Iterable[str] = ()) -> list[Requirement]:
    """Requirements whose markers hold on this machine."""
    environments = [{"extra": extra} for extra in ("", *extras)]
    parsed = [Requirement(text) for text in distribution.requires or []]
    return [item for item in parsed
            if item.marker is None or any(item.marker.evaluate(environment) for environment in environments)]


def runtime(components: dict[str, Component], extras: Iterable[str] = ()) -> set[str]:
    """Names of all that the package needs to run, with what these need in turn, and with its extras that are named."""
    todo, found = [NAME, *requirements(own(), extras)], set()
    while todo:
        name = todo.pop()
        if name in found or name not in components:
            continue
        found.add(name)
        todo += components[name].requires
    return found


def forbidden(components: Iterable[Component]) -> list[str]:
    """Components whose licence would bind those who pass the package on; one alternative that does not is enough.

    A distribution that declares no licence at all is named too: nobody may be assumed to have allowed anything.
    """
    return [f"{c.name} {c.version}: {c.licence or 'no licence declared'}" for c in components
            if not c.licence or all(_FORBIDDEN.search(part) for part in _ALTERNATIVE.split(c.licence))]


def sbom_json(components: Sequence[Component], when: datetime | None = None) -> str:
    """A software bill of materials of the environment: CycloneDX 1.6 as JSON.

    Args:
        when: the moment to be written into it; now by default. The serial number follows from the content and it.

    Raises:
        InputError: the package itself is not among them.

    Source: https://cyclonedx.org/docs/1.6/json/
    """
    own()
    moment = (when or datetime.now(UTC)).isoformat(timespec="seconds").replace("+00:00", "Z")
    names = {c.name for c in components}
    root = next(c for c in components if c.name == NAME)
    listed = [_component(c) for c in components if c is not root]
    content = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX", "specVersion": SPECIFICATION,
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([moment, listed])).urn, "version": 1,
        "metadata": {"timestamp": moment, "lifecycles": [{"phase": "operations"}],
                     "tools": {"components": [{"type": "application", "name": NAME, "version": root.version}]},
                     "component": {**_component(root), "type": "application"}},
        "components": listed,
        "dependencies": [{"ref": c.purl, "dependsOn": [other.purl for other in components if other.name in
                                                       set(c.requires) & names]} for c in components]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _component(component: Component) -> dict:
    entry: dict = {"type": "library", "bom-ref": component.purl, "name": component.name,
                   "version": component.version, "purl": component.purl}
    if component.licence:
        entry["licenses"] = ([{"expression": component.licence}] if component.spdx
                             else [{"license": {"name": component.licence}}])
    if component.sha256:
        # the wheel that was installed is gone; the digest of its list of files says as much of what is here
        entry["properties"] = [{"name": "thymodel:sha256-of-RECORD", "value": component.sha256}]
    return entry


def changed_files(distribution: metadata.Distribution) -> tuple[int, list[str]]:
    """Number of the package's own files that RECORD lists with a sha256, and those that are absent or differ.

    Bytecode has no digest there. An editable installation does not list the package's modules: then the number is 0.
    """
    listed = [file for file in distribution.files or [] if str(file).startswith(f"{NAME}/") and file.hash is not None]
    if not any(str(file) == f"{NAME}/__init__.py" for file in listed):
        return 0, []
    wrong = []
    for file in listed:
        path = Path(str(distribution.locate_file(file)))
        if not path.is_file():
            wrong.append(f"{file} (absent)")
        elif file.hash is not None and _as_recorded(path.read_bytes()) != file.hash.value:
            wrong.append(str(file))
    return len(listed), wrong


def _as_recorded(content: bytes) -> str:
    """sha256 as RECORD writes it: base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest(content))).rstrip(b"=").decode()
