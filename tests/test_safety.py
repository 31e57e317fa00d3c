"""What the package never does: run text, unpickle, start programs, talk to other machines. Read from its source."""

import ast
import socket
import sys
from pathlib import Path

import pytest

from thymodel import cli

pytestmark = pytest.mark.requirement("REQ-SEC-01")

PACKAGE = Path(__file__).resolve().parents[1] / "thymodel"
ROOT = PACKAGE.parent
TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
         for path in sorted(PACKAGE.rglob("*.py"))}

# what runs text or other programs, makes objects of bytes, unpacks archives, or opens connections
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml", "code", "codeop", "runpy", "pty",
           "subprocess", "multiprocessing", "socket", "socketserver", "ssl", "asyncio", "http", "urllib", "urllib3",
           "requests", "httpx", "aiohttp", "ftplib", "smtplib", "telnetlib", "xmlrpc", "webbrowser", "ctypes",
           "distributed", "tarfile", "zipfile", "uvicorn", "starlette", "importlib", "fsspec", "pooch"}
ALLOWED = {  # (file, module): why
    ("explorer/ports.py", "socket"): "the page's port, on this machine's own address",
    ("explorer/server.py", "socket"): "the type of that port",
    ("explorer/server.py", "starlette"): "answers this machine alone",
    ("explorer/server.py", "uvicorn"): "answers this machine alone",
    ("explorer/views.py", "urllib"): "urllib.parse splits an address; it opens nothing",
    ("cli.py", "webbrowser"): "opens the explorer's page, whose address is this machine's",
    ("results/running.py", "distributed"): "--cluster: a Dask cluster that the person names; Dask pickles between its "
                                           "own machines, which must be trusted",
    ("dynamics/kernel/counter.py", "ctypes"): "calls the machine code that the kernel compiled",
    ("dynamics/kernel/native.py", "ctypes"): "calls the machine code that the kernel compiled",
    ("dynamics/kernel/grid.py", "ctypes"): "calls the machine code that the kernel compiled",
    ("__init__.py", "importlib"): "imports the package's own public names when they are first used",
    ("results/fitting.py", "importlib"): "importlib.metadata: versions of packages",
    ("results/bundle.py", "importlib"): "importlib.metadata: versions of packages",
    ("results/inventory.py", "importlib"): "importlib.metadata: versions and files of packages",
    ("results/report.py", "importlib"): "importlib.util.find_spec: whether the extra docx is installed",
    ("results/templates/rebuild.py", "importlib"): "importlib.metadata: versions of packages, in a bundle's own script",
    ("results/crate.py", "urllib"): "urllib.parse quotes file names; it opens nothing",
    ("results/crate.py", "zipfile"): "writes an archive, and unpacks none",
    ("results/docx_report.py", "zipfile"): "writes the Word file again without times; reads only what was just made",
}
CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
METHODS = {"system", "popen", "execv", "execve", "execvp", "spawnl", "spawnv", "startfile", "fork", "sympify",
           "parse_expr", "lambdify", "read_pickle", "to_pickle", "extractall", "unpack_archive", "query", "eval"}


def imports(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_module_imports_nothing_dangerous_without_a_reason(name):
    found = {(name, module) for module in imports(TREES[name]) & MODULES}
    assert found - ALLOWED.keys() == set()


def test_every_exception_is_still_needed():
    assert {(name, module) for name, module in ALLOWED if module not in imports(TREES[name])} == set()


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_module_runs_no_text_and_starts_no_program(name):
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    plain = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    methods = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
    assert plain & CALLS == set() and methods & METHODS == set()


@pytest.mark.parametrize("name", sorted(TREES))
def test_arrays_are_loaded_without_unpickling(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load" and (
                isinstance(node.func.value, ast.Name) and node.func.value.id in ("np", "numpy")):
            said = {word.arg: word.value for word in node.keywords}.get("allow_pickle")
            assert isinstance(said, ast.Constant) and said.value is False, f"{name}:{node.lineno}"


class _NoSocket(socket.socket):
    """A socket of the internet is an error; those of this process with itself are not."""

    def __init__(self, family=-1, *rest, **more):
        if family not in (getattr(socket, "AF_UNIX", None),):
            raise AssertionError("a command opened a socket")
        super().__init__(family, *rest, **more)


@pytest.mark.parametrize("arguments, status", [
    (["check", "models/thymus_core.toml", "fits/reset02_design"], 0), (["check", "tests/bad/model_names.toml"], 2),
    (["simulate", "lymphocyte_regrowth", "--times", "0,7,30"], 0), (["verify", "fits/hsct_lymphocytes"], 0),
    (["quote", "fits/published_controls", "kth"], (0, 1, 2)), (["describe", "homing_wave"], 0),
    (["export", "sbml", "homing_wave"], 0)], ids=lambda item: str(item)[:40])
def test_a_command_opens_no_connection(arguments, status, monkeypatch, capfd):
    def refuse(*_, **__):
        raise AssertionError("a command asked for another machine")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket, "socket", _NoSocket)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(sys, "argv", ["thymodel", *arguments])
    left = 0
    try:
        cli.main()
    except SystemExit as stop:
        left = stop.code
    assert left == status or isinstance(status, tuple) and left in status
    assert "Traceback" not in capfd.readouterr().err


def test_the_guard_above_guards(monkeypatch):
    monkeypatch.setattr(socket, "socket", _NoSocket)
    with pytest.raises(AssertionError, match="opened a socket"):
        socket.create_connection(("127.0.0.1", 9), timeout=1)


def test_the_page_is_served_to_this_machine_alone():
    from thymodel.explorer.ports import open_port

    with open_port(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
