"""A TOML file read and checked against a pydantic schema: every fault of the file at once, each with its key path."""

import difflib
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from thymodel.documents.limits import LARGEST_DOCUMENT, MOST_FAULTS, document_faults, read_bytes, refuse_long_keys
from thymodel.errors import Fault, InputError


class Table(pydantic.BaseModel):
    """A table of a document: unknown keys are faults, values do not change after reading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


Schema = TypeVar("Schema", bound=Table)


def read_text(path: Path) -> str:
    """The text of a document.

    Raises:
        InputError: absent, a directory, a pipe, too large, or not UTF-8.
    """
    return document_text_of(read_document(path), str(path))


def read_document(path: Path) -> bytes:
    """The bytes of a document, for one who needs their digest beside their text.

    Raises:
        InputError: absent, a directory, a pipe, or too large.
    """
    return read_bytes(path, LARGEST_DOCUMENT, "a document, or a data file")


def document_text_of(content: bytes, where: str) -> str:
    """The text in a document's bytes, with lines ended by LF.

    Raises:
        InputError: not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError([Fault(where, f"not UTF-8 text (byte {error.start})", "save it as UTF-8")]) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def digest(content: bytes | str) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def parse_document(text: str, schema: type[Schema], where: str) -> Schema:
    """A document from its text.

    Raises:
        InputError: wrong TOML (with line and column), or every key that does not fit the schema.
    """
    raw = _raw(text, where)
    try:
        return schema.model_validate(raw)
    except pydantic.ValidationError as error:
        found = [_fault(where, item, _key_path(raw, item["loc"]), schema) for item in error.errors()[:MOST_FAULTS]]
        more = error.error_count() - len(found)
        raise InputError([*found, *([Fault(where, f"{more} further faults are not listed")] if more else [])]) from None


def _key_path(raw: Any, parts: Sequence[int | str]) -> str:
    """The place as the file has it: pydantic puts the kind of a table that has several into it as well."""
    kept = []
    for k, part in enumerate(parts):
        inside = isinstance(raw, dict) and part in raw or isinstance(raw, list) and isinstance(part, int)
        if inside or k == len(parts) - 1:
            kept.append(str(part))
            raw = raw[part] if inside else None
    return ".".join(kept)


def _raw(text: str, where: str) -> dict[str, Any]:
    if not text.strip():
        raise InputError([Fault(where, "the file is empty")])
    refuse_long_keys(text, where)
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a date or a number that Python cannot hold
        raise InputError([Fault(where, f"not TOML: {error}", "quote texts, close brackets, one key a line")]) from None
    faults = document_faults(tree, where)
    if faults:
        raise InputError(faults)
    return tree


def top_keys(text: str, where: str) -> frozenset[str]:
    """Names of the outermost keys and tables of a document: they tell its kind.

    Raises:
        InputError: empty, or wrong TOML.
    """
    return frozenset(_raw(text, where))


def flat_keys(text: str, where: str) -> dict[str, Any]:
    """Every value of a document under its dotted key; items of a list of tables are numbered from 0.

    Raises:
        InputError: empty, or wrong TOML.
    """
    return dict(_leaves("", _raw(text, where)))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for k, item in enumerate(value):
            yield from _leaves(f"{path}.{k}", item)
    else:
        yield path, value


def document_text(document: Mapping[str, Any]) -> str:
    """A document of texts, numbers, lists and tables as TOML: one key a line, tables of plain values inline."""
    plain = {key: value for key, value in document.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for section, table in document.items():
        if section not in plain and table:
            lines += ["", f"[{_key(section)}]", *[f"{_key(key)} = {_value(value)}" for key, value in table.items()]]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, str):  # JSON's escapes are TOML's, except that TOML wants DEL escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _fault(where: str, item, path: str, schema: type[Table]) -> Fault:
    place = f"{where}: {path}" if path else where
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _known_keys(_json_schema(schema), item["loc"]), n=1)
        return Fault(place, "unknown key", f"did you mean {near[0]}?" if near else "check the spelling, or remove it")
    if item["type"] == "missing":
        return Fault(place, "missing", "add this key")
    if item["type"] == "union_tag_invalid":
        key, expected = item["ctx"]["discriminator"].strip("'"), item["ctx"]["expected_tags"].replace("'", "")
        return Fault(f"{place}.{key}", f"no such {key}, '{item['ctx']['tag']}'", f"one of: {expected}")
    if item["type"] == "union_tag_not_found":
        return Fault(f"{place}.{item['ctx']['discriminator'].strip(chr(39))}", "missing", "add this key")
    found = repr(item["input"])
    digest_hint = "64 hexadecimal digits; of zeros, the check says what the file has" if path.endswith("sha256") else ""
    return Fault(place, f"{_lower_first(item['msg'])}, found {found[:60]}", digest_hint)


@functools.cache
def _json_schema(schema: type[Table]) -> dict[str, Any]:
    """Made once for all faults of a file: it takes as long as reading the file."""
    return schema.model_json_schema()


def _known_keys(root: Mapping[str, Any], place: Sequence[int | str]) -> list[str]:
    """Keys of the table in which a key stands, from the JSON schema of its document."""
    here = list(_tables(root, [root]))
    for part in place[:-1]:
        inner = [one for table in here for one in _inside(table, part)]
        kinds = [table for table in here if part in (one.get("const") for one in table.get("properties", {}).values())]
        here = list(_tables(root, inner)) or kinds  # the kind of a table that has several is a part of its own
    return sorted({key for table in here for key in table.get("properties", {})})


def _tables(root: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Schemas with their references and alternatives followed."""
    for one in schemas:
        yield one
        if "$ref" in one:
            yield from _tables(root, [root["$defs"][one["$ref"].rpartition("/")[2]]])
        for alternatives in ("anyOf", "oneOf", "allOf"):
            yield from _tables(root, one.get(alternatives, []))


def _inside(schema: Mapping[str, Any], part: int | str) -> Iterator[Mapping[str, Any]]:
    """What a schema says of one of its keys, or of the items of a list."""
    inner = schema.get("items") if isinstance(part, int) else \
        schema.get("properties", {}).get(part, schema.get("additionalProperties"))
    if isinstance(inner, Mapping):
        yield inner


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
