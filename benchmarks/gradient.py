"""One gradient of the reference problem's log posterior: the native kernel, diffrax, Stan's BDF.

    python benchmarks/gradient.py [ROUNDS]          about 2 minutes, with one more where Stan has to be compiled

All contenders run in this process, bound to one core, in turn, at the same four points. "Matched" is the loosest
tolerance of a ladder at which every one of the four log densities is within 2e-4 of its published value. Ratios are of
processor times (on a busy machine a call of 300 ms waits for others where one of 1 ms does not), to the matched native
gradient inside a compiled loop, as a sampler runs it: a call from Python costs a sixth of a millisecond beside.
"""

import re
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

from thymodel.dynamics.kernel.step import ROW  # noqa: E402
from thymodel.inference.posterior import Posterior, make_posterior  # noqa: E402

LADDER = (1e-6, 7e-7, 5e-7, 4e-7, 3e-7, 2e-7, 1e-7, 5e-8, 2e-8)
ACCURACY = 2e-4  # log units
IN_LOOP = 16  # gradients in one compiled loop, as a sampler runs them


def error(problem: reference.Problem, posterior: Posterior) -> np.ndarray:
    """Of the log density at each of the four points."""
    found = np.asarray(jax.jit(jax.vmap(posterior.log_likelihood))(jnp.asarray(problem.z))).sum(axis=1)
    return found + reference.dropped_constants(problem) + reference.log_prior(problem) - problem.log_density


def matched(problem: reference.Problem, likely: np.ndarray | None = None) -> tuple[float, Posterior, float]:
    """Tolerance, posterior and largest error on the first rung that is accurate enough.

    Args:
        likely: points from which the kernel's steps are laid, else draws of the prior.
    """
    for rtol in LADDER:
        posterior = make_posterior(reference.with_tolerance(problem.spec, rtol), problem.data, likely)
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


def operations(posterior: Posterior) -> int:
    """Additions, multiplications and divisions of a step and its adjoint, read off the kernel's code."""
    assert posterior.solver.native is not None
    phases = posterior.solver.native.text.split("define ")
    own = [text for text in phases if "@step(" in text.split("{")[0] or "@step_adjoint(" in text.split("{")[0]]
    assert len(own) == 2
    return len(re.findall(r"= f(?:add|sub|mul|div) ", " ".join(own)))


def flops(posterior: Posterior) -> float:
    """Of a whole gradient: every lane of a row in which any subject of the group makes a step counts."""
    lengths = grid_rows(posterior)[:, :, ROW.index("h")]
    return float(operations(posterior) * np.sum(np.any(lengths > 0, axis=-1)) * lengths.shape[-1])


def main(rounds: int) -> None:
    problem = reference.load_problem()
    table = reference.load_table(problem.known)
    rtol, posterior, worst = matched(problem)
    pilot_rtol, pilot, pilot_worst = matched(problem, problem.z)
    own = make_posterior(problem.spec, problem.data)
    points = [reference.published_vector(point) for point in problem.known["points"]]
    peer = peer_diffrax.make_log_density(problem.known, table)
    names = {"matched": f"native, rtol {rtol:g} (matched), {rows_of(posterior)} rows",
             "loop": "the same, inside a compiled loop",
             "pilot": f"steps laid from the four points, as after a pilot: rtol {pilot_rtol:g} (matched), "
                      f"{rows_of(pilot)} rows, inside a compiled loop",
             "own": f"native, the spec's rtol {problem.spec.solver.rtol:g}, {rows_of(own)} rows",
             "diffrax": "diffrax Tsit5 1e-6, recursive checkpointing", "stan": "Stan `ode_bdf_tol` 1e-6"}
    calls = {"matched": gradient_calls(posterior.log_density, problem.z),
             "loop": loop_calls(posterior.log_density, problem.z),
             "pilot": loop_calls(pilot.log_density, problem.z),
             "own": gradient_calls(own.log_density, problem.z), "diffrax": gradient_calls(peer, points)}
    errors = {"matched": worst, "loop": worst, "pilot": pilot_worst,
              "own": float(np.max(np.abs(error(problem, own)))),
              "diffrax": max(abs(float(jax.jit(peer)(jnp.asarray(x))) - e)
                             for x, e in zip(points, problem.log_density, strict=True))}
    try:
        value, slope = peer_stan.make_log_density(problem.known, table)
        calls["stan"] = [lambda x=x: slope(x) for x in points]
        errors["stan"] = max(abs(value(x) - e) for x, e in zip(points, problem.log_density, strict=True))
    except ImportError as trouble:
        print(f"without Stan: {trouble}; pip install thymodel[bench]", file=sys.stderr)
    seconds = timing.interleaved(calls, rounds)
    for name in ("loop", "pilot"):
        seconds[name] = timing.Seconds(*([s / IN_LOOP for s in kind] for kind in seconds[name]))
    base = timing.median(seconds["loop"].processor)
    timing.show(
        ["one gradient", "ms, median", "range", "processor ms, median", "largest error of the log density",
         "processor time, native in a loop = 1"],
        [[names[k], f"{1e3 * timing.median(s.clock):.3g}", f"{1e3 * min(s.clock):.3g} to {1e3 * max(s.clock):.3g}",
          f"{1e3 * timing.median(s.processor):.3g}", f"{errors[k]:.1e}", f"{timing.median(s.processor) / base:.3g}"]
         for k, s in seconds.items()])
    rate, peak = flops(posterior) / timing.median(seconds["loop"].processor), peak_flops()
    print(f"\nA step of a subject and its adjoint: {operations(posterior)} additions, multiplications and divisions. "
          f"A gradient in the loop: {rate / 1e9:.3g} Gflop/s over everything in it, {rate / peak:.0%} of this core's "
          f"{peak / 1e9:.3g} (fused multiply-adds as two; without fusing, half of that is the most there is).")
    print(f"\nCore {CORE}, {rounds} rounds of four points. {timing.machine('jax', 'diffrax', 'llvmlite')}"
          + (f", httpstan {timing.version('httpstan')}" if "stan" in calls else ""))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
