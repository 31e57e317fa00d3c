"""The house: what may import what, read from the source with ast, imports inside functions included."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "thymodel"
FLOORS = ("documents", "dynamics", "inference", "results", "explorer", "cli")
GROUND = {"thymodel", "thymodel.errors"}
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
           for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
# the door shows its names to type checkers; that block never runs (tests/test_public_names.py)
TREES["thymodel"].body = [node for node in TREES["thymodel"].body if not isinstance(node, ast.If)]


def imported(name: str) -> set[str]:
    """Full names that a module imports; `from a import b` gives a.b where that is a module, else a."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            module = str(node.module)
            found |= {full if (full := f"{module}.{alias.name}") in MODULES else module for alias in node.names}
    return found


def inside(name: str) -> set[str]:
    return {other for other in imported(name) if other.split(".")[0] == "thymodel"} - GROUND


def floor(name: str) -> int:
    """The first part of the name that is a floor; what stands above the floors is the door."""
    part = name.split(".")[1]
    return FLOORS.index(part) if part in FLOORS else len(FLOORS)


@pytest.mark.parametrize("name", sorted(set(MODULES) - GROUND))
def test_a_module_imports_downward_or_along_its_floor(name):
    assert {other for other in inside(name) if floor(other) > floor(name)} == set()


def test_no_ring_of_imports():
    list(TopologicalSorter({name: inside(name) - {name} for name in MODULES}).static_order())


def test_the_ground_imports_nothing_of_the_house():
    assert {name: inside(name) for name in GROUND} == dict.fromkeys(GROUND, set())


def test_nothing_inside_comes_in_by_the_door():
    """The package's own names are its users'; inside, a name is imported from where it lives."""
    taken = {node.attr for tree in TREES.values() for node in ast.walk(tree)
             if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "thymodel"}
    taken |= {alias.name for tree in TREES.values() for node in ast.walk(tree)
              if isinstance(node, ast.ImportFrom) and node.module == "thymodel" for alias in node.names}
    assert taken <= {"__version__"}


def test_there_is_no_utils():
    assert [path for path in MODULES.values() if path.stem in ("utils", "util", "helpers", "common", "misc")] == []


@pytest.mark.requirement("REQ-SEC-01")
@pytest.mark.parametrize("name", sorted(MODULES))
def test_text_is_never_run(name):
    called = {node.func.id for node in ast.walk(TREES[name])
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    attributes = {node.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    assert called & {"eval", "exec", "compile", "sympify", "parse_expr", "__import__"} == set()
    assert attributes & {"sympify", "parse_expr", "lambdify"} == set()
    assert {other.split(".")[0] for other in imported(name)} & {"pickle", "cloudpickle", "dill", "marshal"} == set()


@pytest.mark.parametrize("library, only", [
    ("diffrax", "thymodel.dynamics."), ("llvmlite", "thymodel.dynamics.kernel."),
    # a file for each of its algorithms: NUTS, Pathfinder, SMC
    ("blackjax", ("thymodel.inference.sampling", "thymodel.inference.paths", "thymodel.inference.tempering")),
    ("pint", "thymodel.documents.units"),
    ("libsbml", "thymodel.documents.sbml_math"), ("typer", "thymodel.cli"), ("tomllib", "thymodel.documents.toml")])
def test_one_place_knows_a_library(library, only):
    users = {name for name in MODULES if library in {other.split(".")[0] for other in imported(name)}}
    assert {name for name in users if not name.startswith(only)} == set()


@pytest.mark.parametrize("floor_name", ["documents"])
def test_documents_know_nothing_of_jax(floor_name):
    users = {name for name in MODULES if name.startswith(f"thymodel.{floor_name}")
             and {other.split(".")[0] for other in imported(name)} & {"jax", "jaxlib"}}
    assert users == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_shares_its_name_with_a_function(name):
    """Functions of the door are named as the commands are, and nobody imports them."""
    functions = {node.name for other, tree in TREES.items() if other != "thymodel.cli"
                 for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name.split(".")[-1] not in functions
