"""Counts events inside a compiled program, which a sampler written by others gives no room to return.

A function of three instructions in LLVM IR adds to a cell of memory, whose address is an operand: nothing of this
process is baked into the program, so that JAX may keep it on disk, as it may not with a callback into Python.
"""

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from thymodel.dynamics.kernel.handler import counter_text
from thymodel.dynamics.kernel.native import build, content_key

_TARGET = "thymodel_count_1"
_engines: list = []  # for the life of the process: XLA cannot forget a registered target


class Counter(NamedTuple):
    """`add(value, event, cell)` gives the value back, having added one to the cell if the event is true."""

    cell: Array
    read: Callable[[], int]
    add: Callable[[Array, Array, Array], Array]


def make_counter() -> Counter:
    """A counter at zero, with memory of its own."""
    if not _engines:
        text = counter_text("count")
        engine = build(lambda: text, content_key(text))
        address = engine.get_function_address("handle_count")
        jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(ctypes.c_void_p(address)), platform="cpu")
        _engines.append(engine)
    memory = np.zeros(1, np.int64)
    return Counter(jnp.asarray([memory.ctypes.data], jnp.int64), lambda: int(memory[0]), _add)


def _add(value: Array, event: Array, cell: Array) -> Array:
    """The count passes through the value's own computation, or XLA would drop it as unused."""
    call = jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct((1,), jnp.float64), has_side_effect=True)
    return value + call(jnp.where(event, 1.0, 0.0)[None], cell)[0]
