"""One gradient of the reference problem's log posterior: the native kernel, diffrax, Stan's BDF.

    python benchmarks/gradient.py [ROUNDS]          about 4 minutes, with a minute more where Stan has to be compiled

All contenders run in this process, bound to one core, in turn, at the same four points. "Matched" is the loosest
tolerance of a ladder at which every one of the four log densities is within 2e-4 of its published value.
"""

import sys

import timing

CORE = timing.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import peer_diffrax  # noqa: E402
import peer_stan  # noqa: E402
import reference  # noqa: E402
from peak import peak_flops  # noqa: E402

from thymodel.dynamics.kernel.emit import LANES, STEP  # noqa: E402
from thymodel.dynamics.kernel.step import ROW, Phase, make_phases  # noqa: E402
from thymodel.dynamics.kernel.tape import needed  # noqa: E402
from thymodel.inference.posterior import Posterior, make_posterior  # noqa: E402

LADDER = (1e-5, 3e-6, 2e-6, 1e-6, 5e-7, 3e-7, 1e-7, 3e-8)
ACCURACY = 2e-4  # log units
IN_LOOP = 16  # gradients in one compiled loop, as a sampler runs them


def error(problem: reference.Problem, posterior: Posterior) -> np.ndarray:
    """Of the log density at each of the four points."""
    found = np.asarray(jax.jit(jax.vmap(posterior.log_likelihood))(jnp.asarray(problem.z))).sum(axis=1)
    return found + reference.dropped_constants(problem) + reference.log_prior(problem) - problem.log_density


def matched(problem: reference.Problem) -> tuple[float, Posterior, float]:
    """Tolerance, posterior and largest error on the first rung that is accurate enough."""
    for rtol in LADDER:
        posterior = make_posterior(reference.with_tolerance(problem.spec, rtol), problem.data)
        worst = float(np.max(np.abs(error(problem, posterior))))
        print(f"native, rtol {rtol:g}: {rows_of(posterior)} rows, error {worst:.1e}", file=sys.stderr)
        if worst <= ACCURACY:
            return rtol, posterior, worst
    raise SystemExit("no tolerance of the ladder is accurate enough")


def grid_rows(posterior: Posterior) -> np.ndarray:
    """The kernel's table of steps, whichever field of the solver holds it."""
    solver = posterior.solver
    grid = solver.tables.grid if hasattr(solver, "tables") else solver.grid
    return np.asarray(grid.rows)


def rows_of(posterior: Posterior) -> int:
    return grid_rows(posterior).shape[1]


def gradient_calls(log_density, points) -> list:
    compiled = jax.jit(jax.value_and_grad(log_density))
    return [lambda x=jnp.asarray(x): jax.block_until_ready(compiled(x)) for x in points]


def loop_calls(log_density, points) -> list:
    """IN_LOOP gradients in one program; the points move by nothing that matters, so that none is computed once only."""
    def loop(x):
        return jax.lax.fori_loop(0, IN_LOOP, lambda _, y: y + 1e-14 * jax.grad(log_density)(y), x)

    compiled = jax.jit(loop)
    return [lambda x=jnp.asarray(x): jax.block_until_ready(compiled(x)) for x in points]


def operations(phase: Phase) -> int:
    """Additions, multiplications and reciprocals of an operation list, each once."""
    counted = {"add", "subtract", "multiply", "reciprocal", "sqrt"}
    return sum(phase.tape.operations[place].name in counted
               for place in needed(phase.tape, [output.place for output in phase.outputs]))


def flops(posterior: Posterior) -> tuple[int, float]:
    """Operations of a step and its adjoint, and of a whole gradient: every subject lane that is computed counts."""
    native = posterior.solver.native
    assert native is not None
    phases = make_phases(native.model, native.observables)
    flags = grid_rows(posterior)[:, :, ROW.index("flags"), 0].astype(int)
    steps = int(np.sum((flags & STEP) > 0))
    one = operations(phases.step) + operations(phases.step_adjoint)
    return one, float(one * steps * LANES)


def main(rounds: int) -> None:
    problem = reference.load_problem()
    table = reference.load_table(problem.known)
    rtol, posterior, worst = matched(problem)
    own = make_posterior(problem.spec, problem.data)
    points = [reference.published_vector(point) for point in problem.known["points"]]
    peer = peer_diffrax.make_log_density(problem.known, table)
    names = {"matched": f"native, rtol {rtol:g} (matched), {rows_of(posterior)} rows",
             "loop": "the same, inside a compiled loop",
             "own": f"native, the spec's rtol {problem.spec.solver.rtol:g}, {rows_of(own)} rows",
             "diffrax": "diffrax Tsit5 1e-6, recursive checkpointing", "stan": "Stan `ode_bdf_tol` 1e-6"}
    calls = {"matched": gradient_calls(posterior.log_density, problem.z),
             "loop": loop_calls(posterior.log_density, problem.z),
             "own": gradient_calls(own.log_density, problem.z), "diffrax": gradient_calls(peer, points)}
    errors = {"matched": worst, "loop": worst, "own": float(np.max(np.abs(error(problem, own)))),
              "diffrax": max(abs(float(jax.jit(peer)(jnp.asarray(x))) - e)
                             for x, e in zip(points, problem.log_density, strict=True))}
    try:
        value, slope = peer_stan.make_log_density(problem.known, table)
        calls["stan"] = [lambda x=x: slope(x) for x in points]
        errors["stan"] = max(abs(value(x) - e) for x, e in zip(points, problem.log_density, strict=True))
    except ImportError as trouble:
        print(f"without Stan: {trouble}; pip install thymodel[bench]", file=sys.stderr)
    seconds = timing.interleaved(calls, rounds)
    seconds["loop"] = [s / IN_LOOP for s in seconds["loop"]]
    base = timing.median(seconds["matched"])
    timing.show(
        ["one gradient", "median ms", "range ms", "largest error of the log density", "times the matched native one"],
        [[names[k], f"{1e3 * timing.median(s):.3g}", f"{1e3 * min(s):.3g} to {1e3 * max(s):.3g}", f"{errors[k]:.1e}",
          f"{timing.median(s) / base:.3g}"] for k, s in seconds.items()])
    one, whole = flops(posterior)
    rate, peak = whole / timing.median(seconds["loop"]), peak_flops()
    print(f"\nA step of a subject and its adjoint: {one} additions, multiplications and reciprocals. A gradient in the "
          f"loop: {rate / 1e9:.3g} Gflop/s over everything in it, {rate / peak:.0%} of this core's {peak / 1e9:.3g} "
          f"(fused multiply-adds as two; without fusing, half of that is the most there is).")
    print(f"\nCore {CORE}, {rounds} rounds of four points. {timing.machine('jax', 'diffrax', 'llvmlite')}"
          + (f", httpstan {timing.version('httpstan')}" if "stan" in calls else ""))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
