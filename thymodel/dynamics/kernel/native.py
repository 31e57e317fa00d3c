"""A model as machine code that XLA calls: compiled through llvmlite, with its own derivative, and kept on disk.

The cache is asked by what the code is made from (the documents and this package's own sources), not by the code: to
write that only to find it there already would cost ten times what loading costs.
"""

import ctypes
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import llvmlite
import llvmlite.binding as llvm
import sympy
from jaxtyping import Array, Float, Int

from thymodel.documents.model import Model
from thymodel.dynamics import symbolic
from thymodel.dynamics.kernel.emit import LANES, kernel_text
from thymodel.dynamics.kernel.handler import handlers_text
from thymodel.dynamics.kernel.step import ROW, Names, kernel_names, make_phases

_engines: dict[str, Any] = {}  # by key, for the life of the process: XLA cannot forget a registered target
_lock = threading.Lock()


class Grid(NamedTuple):
    """Steps of every subject between its doses, visits and covariate changes; ordinary operands of a jitted function.

    `rows` holds what `ROW` names (then infusion rates) per group of subjects, row and subject of the group. `dense` is
    a second table of steps, or of no rows: taken by groups in which a step of the first is off by `poor` tolerances.
    `place` says which stored visit each visit of the schedule is. `tolerance` is each state's absolute one, then the
    relative one: errors are counted in it.
    """

    rows: Float[Any, "group row item lane"]
    place: Int[Any, "subject visit"]
    covariates: dict[str, Float[Any, "subject regime"]]
    tolerance: Float[Any, " state_and_one"]
    stored: Float[Any, " stored"]
    dense: Float[Any, "group dense_row item lane"]
    poor: Float[Any, " lane"]


@dataclass(frozen=True, eq=False)  # compared and hashed as an object: it is a static argument
class Native:
    """A compiled model. `names.read` are the values that the kernel reads; addresses are of its two C functions.

    `prepare` makes the kernel's operands from values and a grid's covariates: one program for all grids of a shape.
    """

    model: Model
    observables: tuple[str, ...]
    names: Names
    forward: str
    backward: str
    forward_address: int
    backward_address: int
    prepare: Callable[..., tuple[Array, Array]]

    @property
    def text(self) -> str:
        """The kernel as LLVM IR, without the functions that XLA calls."""
        return _kernel_text(self.model, self.observables, self.names)


def compile_model(model: Model, observables: Sequence[str], fixed: Mapping[str, float] | None = None) -> Native:
    """Machine code for a model and a list of observables; 0.5 s or so, then from the cache.

    Args:
        fixed: parameters that are numbers here, whatever value is passed for them later.

    Raises:
        RuntimeError: LLVM refuses the code or XLA the target (another API version).
    """
    names = kernel_names(model, observables, fixed or {})
    sizes = {"N": len(model.states), "M": len(names.read), "R": len(ROW) + len(model.inputs), "O": len(observables),
             "L": LANES}
    key = content_key(recipe(model, observables, fixed or {}))
    forward, backward = (f"thymodel_{what}_{key[:16]}" for what in ("forward", "backward"))
    with _lock:
        if key not in _engines:
            _engines[key] = engine = build(
                lambda: _kernel_text(model, observables, names) + handlers_text(sizes, key[:16]), key)
            for name, what in ((forward, "forward"), (backward, "backward")):
                address = engine.get_function_address(f"{what}_{key[:16]}")
                jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.c_void_p(address)), platform="cpu")
    return Native(model, tuple(observables), names, forward, backward,
                  _engines[key].get_function_address("forward"), _engines[key].get_function_address("backward"),
                  jax.jit(partial(_kernel_operands, model, names)))


def _kernel_text(model: Model, observables: Sequence[str], names: Names) -> str:
    phases = make_phases(model, observables, names)
    return kernel_text(phases, len(model.states), len(names.read), len(model.inputs), len(observables))


def recipe(model: Model, observables: Sequence[str], fixed: Mapping[str, float]) -> str:
    """All that the code of a kernel is made from."""
    numbers = sorted((name, float(value)) for name, value in fixed.items())
    return "\n".join([_SOURCES, sympy.__version__, model.text + model.added, repr(tuple(observables)), repr(numbers)])


def _digest_of_sources() -> str:
    """Of every file that has a part in turning a document into code; never the same where they cannot be read."""
    floors = Path(__file__).resolve().parents[2]
    files = sorted(path for floor in ("documents", "dynamics") for path in (floors / floor).rglob("*.py"))
    content = [path.read_bytes() for path in files] or [os.urandom(32)]
    return hashlib.sha256(b"".join(hashlib.sha256(text).digest() for text in content)).hexdigest()


_SOURCES = _digest_of_sources()  # now, with these very modules just imported: they may be edited while this runs


def content_key(text: str) -> str:
    """Digest of code, or of what it is made from, of compiler and processor: the same key, the same machine code."""
    host = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return hashlib.sha256(f"{llvmlite.__version__} {host} {text}".encode()).hexdigest()


def build(write: Callable[[], str], key: str):
    """Loaded machine code: from the cache where it holds that key, else of the LLVM IR text that `write` gives."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), opt=2,
                                           features=llvm.get_host_cpu_features().flatten())
    code = _fetch(key)
    module = llvm.parse_assembly(write() if code is None else "")
    module.verify()
    module.name = key  # under which it is stored
    engine = llvm.create_mcjit_compiler(module, machine)
    if code is None:
        engine.set_object_cache(_store)
    else:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def cache_file(name: str) -> Path:
    """Where a file of that name is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "thymodel" / name


def _store(module, code: bytes) -> None:
    """Writes a digest and the object code; a cache that cannot be written is no cache, and nothing worse."""
    path = cache_file(f"{module.name}.o")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
    except OSError:
        pass


def _is_ours(path: Path) -> bool:
    """Whether only this user (or the administrator) can have put machine code there: loaded code is run, and the digest
    in a file tells damage, not whose it is."""
    found = path.stat()
    return not hasattr(os, "getuid") or found.st_uid in (os.getuid(), 0) and not found.st_mode & 0o002


def _fetch(key: str) -> bytes | None:
    path = cache_file(f"{key}.o")
    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


# --- through JAX -----------------------------------------------------------------------------------------------


def native_solve(native: Native, values: Mapping[str, Any], grid: Grid) -> tuple[Array, Array]:
    """Observables at the visits of every subject; pure, differentiable in reverse mode with respect to `values`.

    Args:
        values: parameters by name, numbers or arrays over subjects; covariates come from the grid, but for those that
            are NaN there.

    Returns:
        (subject, visit, observable), NaN from a step on that failed; and each subject's largest embedded error of a
        step in units of the grid's tolerance (NaN if a step failed), which carries no gradient.
    """
    count = len(grid.place)
    parameters, initial = kernel_operands(native, values, grid)
    tolerance = jnp.broadcast_to(grid.tolerance[:, None], (len(grid.tolerance), LANES))
    observed, worst = solve_by_handler(native, parameters, initial, grid.rows, grid.dense, tolerance, grid.poor,
                                       grid.stored)
    observed = jnp.moveaxis(observed, -1, 1).reshape(-1, *observed.shape[1:-1])[:count]
    observed = jnp.take_along_axis(observed, grid.place[:, :, None], axis=1)
    worst = jax.lax.stop_gradient(worst.reshape(-1)[:count])
    return jnp.where(jnp.isfinite(observed), observed, jnp.nan), worst


def kernel_operands(native: Native, values: Mapping[str, Any], grid: Grid) -> tuple[Array, Array]:
    """Parameters (group, regime, name, lane) and initial states (group, state, lane); derived constants by JAX."""
    count = len(grid.place)
    wide = {name: jnp.broadcast_to(jnp.asarray(values[name], float), (count,)) for name in given(native.model, values)}
    return native.prepare(wide, grid.covariates)


def given(model: Model, values: Mapping[str, Any]) -> list[str]:
    """Names whose values the kernel takes: all parameters, and covariates that a schedule may not know."""
    return [*model.parameters, *(name for name in model.covariates if name in values)]


def _kernel_operands(model: Model, names: Names, values: Mapping[str, Array],
                     covariates: Mapping[str, Array]) -> tuple[Array, Array]:
    count = len(next(iter(values.values())))
    regimes = max((c.shape[1] for c in covariates.values()), default=1)
    known: dict[str, Any] = dict(symbolic.constant_values(model)) | {name: v[:, None] for name, v in values.items()}
    known = symbolic.derive(model, symbolic.with_covariates(known, covariates))
    columns = [jnp.broadcast_to(jnp.asarray(known[name], float), (count, regimes)) for name in names.read]
    first = {name: value[:, 0] if jnp.ndim(value) else value for name, value in known.items()}
    initial = symbolic.initial(model, first)
    initial = jnp.broadcast_to(initial if initial.ndim == 2 else initial[:, None], (len(model.states), count))
    parameters = jnp.stack(columns) if columns else jnp.zeros((0, count, regimes))
    return _by_group(jnp.moveaxis(parameters, 0, -1)), _by_group(initial.T)


def _by_group(array):
    """(subject, ...) -> (group, ..., lane); the last subject fills the last group."""
    count = len(array)
    full = -(-count // LANES) * LANES
    array = jnp.concatenate([array, jnp.broadcast_to(array[-1:], (full - count, *array.shape[1:]))])
    return jnp.moveaxis(array.reshape(-1, LANES, *array.shape[1:]), 1, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def solve_by_handler(native: Native, parameters, initial, rows, dense, tolerance, poor, stored):
    """Observables by group and each subject's worst error: the FFI call with its derivative."""
    return tuple(_forward(native, parameters, initial, rows, dense, tolerance, poor, stored, (0, 0))[:2])


def _call(target: str, shapes: Sequence[tuple[int, ...]], *operands):
    results = [jax.ShapeDtypeStruct(shape, jnp.float64) for shape in shapes]
    return jax.ffi.ffi_call(target, results, vmap_method="sequential")(*operands)


def _forward(native: Native, parameters, initial, rows, dense, tolerance, poor, stored, kept: tuple[int, int]):
    """`kept`: of how many rows of each table the states are kept: all, for the adjoint, or none."""
    groups, states = len(rows), len(native.model.states)
    scratch = [(groups, count, states, LANES) for count in kept]
    return _call(native.forward, [(groups, len(stored), len(native.observables), LANES), (groups, LANES),
                                  (groups, LANES), *scratch],
                 parameters, initial, rows, dense, tolerance, poor)


def _solve_forward(native: Native, parameters, initial, rows, dense, tolerance, poor, stored):
    observed, worst, used, scratch, scratch_dense = _forward(native, parameters, initial, rows, dense, tolerance, poor,
                                                             stored, (rows.shape[1], dense.shape[1]))
    return (observed, worst), (parameters, rows, dense, scratch, scratch_dense, used)


def _solve_backward(native: Native, kept, cotangents):
    parameters, rows = kept[:2]
    slopes, initial = _call(native.backward, [parameters.shape, (len(rows), len(native.model.states), LANES)],
                            *kept, cotangents[0])
    return slopes, initial, None, None, None, None, None


solve_by_handler.defvjp(_solve_forward, _solve_backward)
