"""The names that `import thymodel` offers: present, described, typed, and quick to come by."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import thymodel

pytestmark = pytest.mark.requirement("REQ-CLI-02")

SOURCE = Path(thymodel.__file__)


@pytest.mark.parametrize("name", thymodel.__all__)
def test_a_public_name_has_a_docstring_of_its_own(name):
    thing = getattr(thymodel, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert thing.__doc__ is not None and not thing.__doc__.startswith(f"{name}(")  # what a dataclass makes up
    assert thing.__name__ == name


@pytest.mark.parametrize("command", ["simulate", "fit", "verify", "quote", "compare", "calibrate", "identify",
                                     "describe"])
def test_a_command_has_the_same_name_in_python(command):
    assert command in thymodel.__all__


def test_public_names_are_sorted_and_unique():
    assert thymodel.__all__ == sorted(set(thymodel.__all__))


def test_type_checkers_see_the_same_names_from_the_same_modules():
    shown = {}
    for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If):
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                shown |= {alias.asname: str(line.module) for alias in line.names}
    assert shown == {name: f"thymodel.{home}" for name, home in thymodel._HOME.items()}


def test_a_public_name_shadows_no_module():
    modules = {path.stem for path in SOURCE.parent.rglob("*.py")} | {"documents", "dynamics", "inference", "results"}
    assert set(thymodel.__all__) & modules == set()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = thymodel.simulat
    assert set(thymodel.__all__) <= set(dir(thymodel))


def test_import_loads_nothing_that_is_slow_but_jax():
    """Each of these takes longer to import than the package itself; jax has to be told about float64 first."""
    slow = {"sympy", "scipy.stats", "pandas", "xarray", "pint", "pydantic", "matplotlib", "diffrax", "blackjax",
            "llvmlite", "arviz", "typer", "thymodel.results", "thymodel.dynamics"}
    code = f"import sys, thymodel; print(sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
