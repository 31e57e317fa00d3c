"""Pages of the reference that are read from the package: every command with its options, every key of every file."""

import inspect
import types
import typing
from pathlib import Path

import pydantic
import typer

from thymodel import cli
from thymodel.documents.analysis_plan import PlanDocument
from thymodel.documents.design import DesignDocument
from thymodel.documents.escalation import EscalationDocument
from thymodel.documents.import_map import ImportMap
from thymodel.documents.learning import LearningDocument
from thymodel.documents.model import ModelDocument
from thymodel.documents.protocol import ProtocolDocument
from thymodel.documents.published import PublishedDocument
from thymodel.documents.spec import FitDocument, ScenarioDocument

DOCUMENTS = {
    "A model": (ModelDocument, "`models/*.toml`, or a file of your own beside the spec."),
    "A fit spec": (FitDocument, "`spec.toml`."),
    "A scenario": (ScenarioDocument, "`thymodel scenario RECORD SCENARIO`; [more](../scenarios.md)."),
    "A design": (DesignDocument, "`thymodel trial DESIGN --seed N`: a SIMULATED study with known truth."),
    "An analysis plan": (PlanDocument, "`plan.toml` beside the spec; [more](../plan.md)."),
    "A map for import": (ImportMap, "`thymodel import nonmem FILE --map MAP`; [more](../data_import.md)."),
    "Published figures": (PublishedDocument, "`[published.NAME]` of a spec names it; [more](../published.md)."),
    "A randomised trial": (ProtocolDocument, "`thymodel trial PLAN --record RECORD`; [more](../trials.md)."),
    "A dose escalation": (EscalationDocument, "`thymodel trial PLAN --record RECORD`; [more](../trials.md)."),
    "What more data would teach": (LearningDocument, "`thymodel trial PLAN --record RECORD`; [more](../trials.md)."),
}


def write(folder: Path) -> None:
    """Writes `commands.md` and `files.md`."""
    (folder / "commands.md").write_text(commands_page(), encoding="utf-8")
    (folder / "files.md").write_text(files_page(), encoding="utf-8")


# --- commands ------------------------------------------------------------------------------------------------


def commands_page() -> str:
    group = typer.main.get_command(cli.app)
    parts = ["# Commands", "Exit status: 0 good; 1 the fit failed its gates, or a record does not verify or may not be "
             "quoted; 2 bad input, every fault listed on stderr with its place and what to do."]
    for name, command in _leaves(group):
        usage = " ".join(["thymodel", name, *_arguments(command)])
        words = inspect.cleandoc(command.help or "").replace("\b\n", "")
        parts += [f"## {name}", f"```\n{usage} [OPTIONS]\n```", words]
        rows = [row for item in command.params if (row := _parameter(item))]
        if rows:
            parts.append("\n".join(["| | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _leaves(group, before: str = ""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


def _arguments(command) -> list[str]:
    return [_shown(item) for item in command.params if item.param_type_name == "argument"]


def _shown(item) -> str:
    text = (item.metavar or item.name).upper().strip("[]").removesuffix("...")
    text += "..." if item.nargs == -1 else ""
    return text if item.required else f"[{text}]"


def _parameter(item) -> str:
    head = _shown(item) if item.param_type_name == "argument" else ", ".join(item.opts)
    default = item.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    said = f" (default {default})" if plain and default != "" else ""
    words = " ".join((getattr(item, "help", "") or "").split())
    return f"| `{head}` | {_cell(words)}{said} |" if head != "--help" else ""


# --- keys of files -------------------------------------------------------------------------------------------


def files_page() -> str:
    parts = ["# Keys of every file", "Read from the package's own check of each file. `NAME` stands for a name of your "
             "choice, or of the model's; a key without a default must be there. A key that is not listed is refused, "
             "with the nearest one that is. `thymodel check FILE` says every fault at once."]
    for title, (document, words) in DOCUMENTS.items():
        parts += [f"## {title}", words, *_tables(document)]
    return "\n\n".join(parts) + "\n"


def _tables(document: type[pydantic.BaseModel]) -> list[str]:
    """The document's own keys, then each table within it once, under the path by which it is first met."""
    parts, waiting, seen = [], [("", document)], {document}
    while waiting:
        path, table = waiting.pop(0)
        rows = []
        for name, item in table.model_fields.items():
            key = item.alias or name
            rows.append(f"| `{key}` | {_cell(_words(item.annotation))} | {_default(item)} |")
            below = f"{path}.{key}".lstrip(".")
            for inner, suffix in _inner(item.annotation):
                if inner not in seen:
                    seen.add(inner)
                    waiting.append((below + suffix, inner))
        words = inspect.cleandoc(table.__dict__.get("__doc__") or "")
        parts += ([f"### `[{path}]`"] if path else []) + ([words] if words else [])
        parts.append("\n".join(["| key | value | default |", "|---|---|---|", *rows]))
    return parts


def _inner(annotation, suffix: str = ""):
    """Tables within a type, with what stands behind the key that leads to them."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel):
        yield annotation, suffix
    elif origin is dict:
        yield from _inner(parts[1], suffix + ".NAME")
    elif origin in (list, tuple):
        yield from _inner(parts[0], suffix + "[]")
    elif origin is not None:
        for part in parts:
            yield from _inner(part, suffix)


def _words(annotation) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    plain = {str: "text", float: "number", int: "whole number", bool: "true or false", type(None): "nothing"}
    if origin is typing.Annotated:
        return _words(parts[0])
    if origin is typing.Literal:
        return ", ".join(f"`{part!r}`".replace("'", '"') for part in parts)
    if origin is dict:
        return f"table, a row a NAME: {_words(parts[1])}"
    if origin in (list, tuple):
        return f"list of {_words(parts[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in parts if part is not type(None))
    if inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel):
        return "table"
    return plain.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _default(item) -> str:
    if item.is_required():
        return "**needed**"
    value = item.get_default(call_default_factory=True)
    if isinstance(value, pydantic.BaseModel):
        return "see below"
    if value is None or value in ("", [], {}):
        return "nothing"
    return f"`{value}`".replace("True", "true").replace("False", "false")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
