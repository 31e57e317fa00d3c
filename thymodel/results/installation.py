"""Checks of an installation: is what is here what was meant to be installed, and can it run on this machine?"""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from thymodel.documents.model import Model, load_model, shipped_models
from thymodel.dynamics import kernel
from thymodel.errors import InputError
from thymodel.results import inventory
from thymodel.results.checklist import Check, Finding, some

_SMALL = "lymphocyte_regrowth"  # the shipped model that compiles soonest


def _python(_: Path) -> Finding:
    wanted = inventory.field_of(inventory.own(), "Requires-Python")
    bits = sys.maxsize.bit_length() + 1
    good = platform.python_version() in SpecifierSet(wanted, prereleases=True) and bits == 64
    return Finding(f"{platform.python_implementation()} {platform.python_version()}, {bits} bits; asked: {wanted}",
                   good)


def _requirements(_: Path) -> Finding:
    here = inventory.installed()
    asked = inventory.needed(inventory.own())
    wrong = [f"{item} (here: {here[name].version if name in here else 'absent'})" for item in asked
             if (name := canonicalize_name(item.name)) not in here
             or not item.specifier.contains(here[name].version, prereleases=True)]
    return Finding(some(wrong) if wrong else f"{len(asked)} of {len(asked)} packages", not wrong)


def _versions(_: Path) -> Finding:
    pins, here = inventory.pinned(), inventory.installed()
    if not pins:
        return Finding("the list of versions was not installed", None)
    used = sorted(inventory.runtime(here) & set(pins))
    other = [f"{name} {here[name].version} (tested: {pins[name]})" for name in used
             if here[name].version != pins[name]]
    if other:
        return Finding(f"{len(other)} of {len(used)} differ: {some(other)}. Within what the package asks for, but not "
                       "what its own tests and records were made with", None)
    return Finding(f"all {len(used)} packages that are used at run time", True)


def _files(_: Path) -> Finding:
    distribution = inventory.own()
    listed, wrong = inventory.changed_files(distribution)
    if listed == 0 or Path(str(distribution.locate_file(inventory.NAME))).resolve() != inventory.ROOT:
        return Finding("what runs is a checkout (an editable installation): no list of files to compare with", None)
    return Finding(f"changed: {some(wrong)}" if wrong else f"{listed} of {listed} files", not wrong)


def _licences(_: Path) -> Finding:
    here = inventory.installed()
    used = [here[name] for name in sorted(inventory.runtime(here))]
    wrong = inventory.forbidden(used)
    return Finding(some(wrong) if wrong else f"{len(used)} packages, each with a licence declared", not wrong)


def _float64(_: Path) -> Finding:
    one = jnp.asarray(1.0)
    step = float(jax.jit(lambda x: (x + 2.0**-52) - x)(one))
    good = one.dtype == jnp.float64 and step == 2.0**-52 and jax.config.values["jax_enable_x64"] is True
    return Finding(f"{one.dtype}, smallest step at 1: {step:.3g}", good)


def _kernel(_: Path) -> Finding:
    """Compiled and tested anew: what passed once is remembered in the cache, and the machine may be another now."""
    asked = os.environ.get("THYMODEL_SOLVER")
    if asked == "jax":
        return Finding("not asked for: THYMODEL_SOLVER=jax, and diffrax solves", None)
    model = load_model(_SMALL)
    with tempfile.TemporaryDirectory() as folder, _cache_at(folder):
        trouble = kernel_trouble(model, tuple(model.observables))
    if trouble is None:
        return Finding("native kernel: values and derivatives as by numpy, and through JAX", True)
    return Finding(f"diffrax, for the native kernel failed its test ({trouble}): right, and much slower", None)


def kernel_trouble(model: Model, observables: tuple[str, ...]) -> str | None:
    """Why the native kernel cannot be used here, or None."""
    try:
        return kernel.self_test(kernel.compile_model(model, observables))
    except Exception as error:  # as solving does: whatever LLVM or XLA raises, diffrax remains
        return f"{type(error).__name__}: {error}"


@contextmanager
def _cache_at(folder: str) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def _cache(_: Path) -> Finding:
    folder = kernel.cache_file("any").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"selftest")
    except OSError as error:
        return Finding(f"{folder}: {error.strerror}; every run compiles anew, with the same results", None)
    return Finding(f"{folder} may be written to", True)


def _models(_: Path) -> Finding:
    files, wrong = shipped_models(), []
    for name in files:
        try:
            load_model(name)
        except InputError as error:
            wrong.append(f"{name}: {error}")
    if not files:
        return Finding("no model is there", False)
    return Finding("; ".join(wrong) if wrong else f"{len(files)} models: {', '.join(files)}", not wrong)


def _arithmetic(_: Path) -> Finding:
    """XLA may be told to be less exact than IEEE 754."""
    flags = os.environ.get("XLA_FLAGS", "")
    x = np.nextafter(1.0, 2.0)
    exact = float(jax.jit(lambda a, b: a / b - 1.0)(jnp.asarray(x), jnp.asarray(1.0))) == x - 1.0
    fast = "fast_math=true" in flags
    return Finding(f"XLA_FLAGS: {flags or 'none'}; division exact: {'yes' if exact else 'no'}", exact and not fast)


CHECKS: tuple[Check[Path], ...] = (
    Check("IQ-01", "The package runs on the Python that it was made for.", "the Python that the package asks for, "
          "64 bits", ("REQ-INS-01",), _python),
    Check("IQ-02", "Every package that it needs is there, in a version that it allows.",
          "each within its range", ("REQ-INS-01",), _requirements),
    Check("IQ-03", "It is known whether versions are those that the tests were run with.",
          "the versions of constraints.txt", ("REQ-INS-01",), _versions),
    Check("IQ-04", "The files of the package are those that were built.",
          "each file's sha256 as in the list of the installed distribution (RECORD)", ("REQ-INS-02",), _files),
    Check("IQ-05", "Nothing that it needs has a licence that binds those who pass it on.",
          "a licence declared for each, none of them GPL or AGPL", ("REQ-SEC-06",), _licences),
    Check("IQ-06", "Numbers are float64.", "float64 with a step of 2.22e-16 at 1", ("REQ-NUM-06",), _float64),
    Check("IQ-07", "Arithmetic is that of IEEE 754.", "no fast-math", ("REQ-NUM-06",), _arithmetic),
    Check("IQ-08", "The machine code of models is right on this processor, or is not used.",
          "the native kernel passes its test, compiled anew; else diffrax is in use and says so",
          ("REQ-NUM-04",), _kernel),
    Check("IQ-09", "What was compiled is kept between runs.", "the cache may be written to", ("REQ-INS-03",), _cache),
    Check("IQ-10", "The models of the package are there and without fault.", "every document reads, units balance",
          ("REQ-MOD-01", "REQ-MOD-05"), _models),
)
