"""Rodas5P: one step of a linearly implicit Rosenbrock method, for stiff models.

Each step factors one matrix and solves with it eight times. There is no Newton iteration that could fail to converge,
which is what stops SDIRK methods at tight tolerances on problems such as Robertson's.

Source: G. Steinebach, BIT 63, 27 (2023), coefficients in the form of Hairer & Wanner, Solving Ordinary Differential
Equations II, IV.7, eq. (7.25); seen in SciML/OrdinaryDiffEq.jl, rosenbrock_tableaus.jl.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, Float

ORDER = 5  # of the step; the embedded method, whose difference is the error estimate, has order 4

_GAMMA = 0.21193756319429014
_NODES = np.array([0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1])
_SLOPES = np.array([_GAMMA, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0, 0, 0])
_LAST = [-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946]


def _lower(*rows: list[float]) -> np.ndarray:
    return np.array([row + [0.0] * (8 - len(row)) for row in rows])


_A = _lower(
    [], [3.0],
    [2.849394379747939, 0.45842242204463923],
    [-6.954028509809101, 2.489845061869568, -10.358996098473584],
    [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
    _LAST, [*_LAST, 1.0], [*_LAST, 1.0, 1.0])
_C = _lower(
    [], [-14.155112264123755],
    [-17.97296035885952, -2.859693295451294],
    [147.12150275711716, -1.41221402718213, 71.68940251302358],
    [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
    [24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471],
    [30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
     -28.087943162872662],
    [37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
     -54.66780262877968, -9.48861652309627])
_DENSE = np.array([
    [25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
     1.1241088310450404, 0.4272876194431874, -0.17202221070155493],
    [-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
     15.98066361424651, -6.789040303419874, -6.710236069923372],
    [11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
     -59.78993625266729, -0.15582684282751913, 4.883087185713722]])

Vector = Float[Array, " state"]


def take_step(field: Callable[[Array, Vector], Vector], t0, t1,
              y0: Vector) -> tuple[Vector, Vector, Float[Array, "3 state"]]:
    """From (t0, y0) to t1: the new state, an estimate of its error, and what `between` needs.

    Args:
        field: dy/dt at (t, y), differentiable in both.
        t1: may equal t0 (a step that is masked out): nothing is divided by the step's length.
    """
    h = t1 - t0
    by_state = jax.jacfwd(field, argnums=1)(t0, y0)
    by_time = jax.jvp(lambda t: field(t, y0), (t0,), (jnp.ones_like(t0),))[1]
    factors = jsl.lu_factor(jnp.eye(len(y0)) - h * _GAMMA * by_state)

    def stage(stages, row):
        a, c, node, slope, number = row
        rhs = h * (field(t0 + node * h, y0 + a @ stages) + slope * h * by_time) + c @ stages
        return stages.at[number].set(jsl.lu_solve(factors, _GAMMA * rhs)), None

    rows = (jnp.asarray(_A), jnp.asarray(_C), jnp.asarray(_NODES), jnp.asarray(_SLOPES), jnp.arange(8))
    stages, _ = jax.lax.scan(stage, jnp.zeros((8, len(y0))), rows)
    return y0 + jnp.asarray(_A[7]) @ stages + stages[7], stages[7], jnp.asarray(_DENSE) @ stages


def between(part, y0: Vector, y1: Vector, dense: Float[Array, "3 state"]) -> Vector:
    """The state at t0 + part*(t1 - t0), of order 4."""
    bend = dense[0] + part * (dense[1] + part * dense[2])
    return (1 - part) * y0 + part * (y1 + (1 - part) * bend)
