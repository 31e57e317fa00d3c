"""The native solver: a model compiled to machine code, with its exact adjoint, behind one JAX call.

    native = compile_model(model, observables)
    grid = make_grid(native, typical values, stacked schedule, Accuracy(1e-4, 1e-7), draws)
    observed, error = native_solve(native, values, grid)
"""

from thymodel.dynamics.kernel.check import self_test as self_test
from thymodel.dynamics.kernel.counter import Counter as Counter
from thymodel.dynamics.kernel.counter import make_counter as make_counter
from thymodel.dynamics.kernel.grid import Run as Run
from thymodel.dynamics.kernel.grid import halved as halved
from thymodel.dynamics.kernel.grid import make_grid as make_grid
from thymodel.dynamics.kernel.grid import operands as operands
from thymodel.dynamics.kernel.grid import relayer as relayer
from thymodel.dynamics.kernel.grid import run as run
from thymodel.dynamics.kernel.grid import spread as spread
from thymodel.dynamics.kernel.grid import with_dense as with_dense
from thymodel.dynamics.kernel.native import Grid as Grid
from thymodel.dynamics.kernel.native import Native as Native
from thymodel.dynamics.kernel.native import cache_file as cache_file
from thymodel.dynamics.kernel.native import compile_model as compile_model
from thymodel.dynamics.kernel.native import native_solve as native_solve
