"""Kernels kept on disk: found without being written again, and never found for anything else."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from thymodel.documents.model import parse_model
from thymodel.dynamics import solving
from thymodel.dynamics.kernel import check, make_grid, native, operands, run

pytestmark = pytest.mark.requirement("REQ-INS-03")

MODEL = """
title = "decay"
description = "decay"
[parameters]
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "test" }
m = { unit = "1/day", value = 0.2, source = "test" }
[states.y]
unit = "1"
initial = "1"
rate = "-(k + m)*y"
[observables.y]
unit = "1"
value = "y"
[observables.twice]
unit = "1"
value = "2*y"
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and a way to forget what this process has loaded from it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *_, **__: None)
    kept: list = []  # alive: functions of theirs are still called

    def forget():
        kept.append(native._engines)
        monkeypatch.setattr(native, "_engines", {})

    forget()
    return forget


def _compiled(text=MODEL, observables=("y",), fixed=None):
    return native.compile_model(parse_model(text, "decay"), observables, fixed)


def _observed(compiled):
    schedule = solving.stack([solving.plan(compiled.model, [], {}, [1.0, 10.0])])
    values = {"k": 0.1, "m": 0.2}
    grid = make_grid(compiled, values, schedule, 20)
    return run(compiled, *operands(compiled, values, grid), grid).observed


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")
@pytest.mark.parametrize("place", ["folder", "file"])
def test_code_that_others_can_have_written_is_not_run(place, tmp_path, fresh):
    _compiled()
    (file,) = _files(tmp_path)
    assert native._fetch(file.stem) is not None
    (file.parent if place == "folder" else file).chmod(0o777)
    assert native._fetch(file.stem) is None


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "thymodel").glob("*.o"))


def test_what_is_kept_is_not_written_again_and_computes_the_same(fresh, tmp_path, monkeypatch):
    before = _observed(_compiled())
    fresh()
    monkeypatch.setattr(native, "make_phases", None)  # cannot be called
    np.testing.assert_array_equal(_observed(_compiled()), before)
    assert len(_files(tmp_path)) == 1


@pytest.mark.parametrize("other", [
    {"text": MODEL.replace("2*y", "3*y")}, {"observables": ("y", "twice")}, {"observables": ("twice",)},
    {"fixed": {"m": 0.2}}])
def test_another_request_is_another_kernel(other, fresh, tmp_path):
    names = {_compiled().forward, _compiled(**other).forward}
    assert len(names) == len(_files(tmp_path)) == 2


def test_the_order_of_observables_and_the_fixed_value_count(fresh):
    requests = [{"observables": ("y", "twice")}, {"observables": ("twice", "y")}, {"fixed": {"m": 0.2}},
                {"fixed": {"m": np.nextafter(0.2, 1)}}]
    assert len({_compiled(**request).forward for request in requests}) == len(requests)


@pytest.mark.parametrize("part", ["kernel/step.py", "kernel/emit.py", "kernel/tape.py", "kernel/handler.py",
                                  "expressions.py", "model.py"])
def test_no_kernel_outlives_the_source_that_wrote_it(part, monkeypatch):
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: read(p) + (b"\n" if p.as_posix().endswith(part) else b""))
    assert native._digest_of_sources() != native._SOURCES


@pytest.mark.parametrize(("where", "name"), [(native, "_SOURCES"), (native.sympy, "__version__"),
                                             (native.llvmlite, "__version__")])
def test_no_kernel_outlives_the_package_that_wrote_it(where, name, fresh, monkeypatch):
    before = _compiled().forward
    monkeypatch.setattr(where, name, "another")
    assert _compiled().forward != before


@pytest.mark.parametrize("change", ["header", "version", "handlers"])
def test_another_contract_with_xla_is_tested_again(change, fresh, tmp_path, monkeypatch):
    compiled, tried = _compiled(), []
    monkeypatch.setattr(check, "_compare", lambda _: None)
    monkeypatch.setattr(check, "_through_jax", lambda _: tried.append(1))
    for _ in range(2):
        assert check.self_test(compiled) is None
    assert len(tried) == 1
    if change == "header":
        monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))  # where there is none
    elif change == "version":
        monkeypatch.setattr(check.jaxlib, "__version__", "another")
    else:
        monkeypatch.setattr(check, "handlers_text", lambda *_: "another")
    assert check.self_test(compiled) is None
    assert len(tried) == 2
