"""Cost of one gradient against subjects, states and visits: a chain of transit compartments of any length.

    python benchmarks/scaling.py [PLOT.png]          about a minute; the plot goes to benchmarks/scaling.png by default

One core; bars reach from the least to the 90% quantile. The observations are noise: what they are does not change
what a gradient costs.
"""

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import timing

CORE = timing.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402

from thymodel.documents.spec import load_fit_spec  # noqa: E402
from thymodel.dynamics.kernel.step import ROW  # noqa: E402
from thymodel.inference.posterior import make_posterior  # noqa: E402
from thymodel.results.fitting import load_study  # noqa: E402

MIDDLE = {"subjects": 30, "states": 16, "visits": 12}
SWEEPS = {"subjects": (10, 30, 100, 300, 1000), "states": (5, 10, 16, 25, 40), "visits": (4, 12, 36)}
ROUNDS = 20
MODEL = """
title = "A chain of transit compartments that inhibits its own source"
description = "For timing only."
time = "day"
[parameters]
k_in  = {{ unit = "cell/uL/day", value = 20, prior = "lognormal(median=20, sd=0.3)", source = "made up" }}
k     = {{ unit = "1/day", value = 0.5, prior = "lognormal(median=0.5, sd=0.3)", source = "made up" }}
k_out = {{ unit = "1/day", value = 0.05, prior = "lognormal(median=0.05, sd=0.3)", source = "made up" }}
half  = {{ unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.3)", source = "made up" }}
[states.C]
unit = "cell/uL"
initial = "0"
chain = {chain}
inflow = "k_in/(1 + blood/half)"
transfer = "k"
[states.blood]
unit = "cell/uL"
initial = "0"
rate = "k*C{chain} - k_out*blood"
[inputs.cells]
unit = "cell/uL"
add = {{ C1 = "amount" }}
[observables.count]
unit = "cell/uL"
value = "blood"
"""
SPEC = """
title = "Timing"
purpose = "Time a gradient."
model = "model.toml"
simulated = true
estimate = ["k_in", "k", "k_out", "half"]
[data]
file = "data.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", cells = "cell/uL" }}
[between_subject]
k = {{ sd = "halfnormal(sd=0.3)", source = "made up" }}
k_out = {{ sd = "halfnormal(sd=0.3)", source = "made up" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "halfnormal(sd=0.5)", source = "made up" }} }}
[sampler]
seed = 1
"""


def write_problem(folder: Path, subjects: int, states: int, visits: int) -> None:
    """Every subject has visits of its own, and a dose on day 0 or 5."""
    random = np.random.default_rng(1)
    rows = ["ID,TIME,EVID,CMT,AMT,DVID,DV"]
    for name in range(1, subjects + 1):
        rows.append(f"{name},{5 * (name % 2)},1,cells,{10 * (1 + name % 3)},.,.")
        times = np.unique(np.round(np.exp(np.linspace(np.log(7), np.log(700), visits)
                                          + random.uniform(-0.02, 0.02, visits)), 2))
        rows += [f"{name},{t},0,.,.,count,{random.lognormal(3, 0.5):.6g}" for t in times]
    (folder / "model.toml").write_text(MODEL.format(chain=states - 1))
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    digest = hashlib.sha256((folder / "data.csv").read_bytes()).hexdigest()
    (folder / "spec.toml").write_text(SPEC.format(digest=digest))


def measure(subjects: int, states: int, visits: int) -> tuple[list[float], int]:
    """Processor seconds of each gradient, and steps of the subject that takes most."""
    with tempfile.TemporaryDirectory() as folder:
        write_problem(Path(folder), subjects, states, visits)
        spec = load_fit_spec(folder)
        posterior = make_posterior(spec, load_study(spec, None)[0])
    solver = posterior.solver
    assert solver.kind == "native", solver.why
    compiled = jax.jit(jax.value_and_grad(posterior.log_density))
    z = jnp.asarray(0.1 * np.random.default_rng(2).standard_normal(posterior.layout.size))
    seconds = timing.interleaved({"native": [lambda: jax.block_until_ready(compiled(z))]}, ROUNDS)["native"].processor
    lengths = np.asarray(solver.tables.grid.rows)[:, :, ROW.index("h")]
    return seconds, int(np.max(np.sum(lengths > 0, axis=1)))


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot(found: dict, path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, (what, cases) in zip(axes, found.items(), strict=True):
        x = list(cases)
        medians = [1e3 * timing.median(seconds) for seconds, _ in cases.values()]
        spread = [[m - 1e3 * min(s) for m, (s, _) in zip(medians, cases.values(), strict=True)],
                  [1e3 * np.quantile(s, 0.9) - m for m, (s, _) in zip(medians, cases.values(), strict=True)]]
        axis.errorbar(x, medians, np.maximum(spread, 0), fmt="o-", capsize=3)
        axis.set(xscale="log", yscale="log", xlabel=f"{what} (number)",
                 title=f"exponent {exponent(x, medians):.2f}")
        axis.set_xticks(x, [str(value) for value in x], minor=False)
        axis.minorticks_off()
    axes[0].set_ylabel("one gradient (processor ms)")
    figure.savefig(path, dpi=150)


def main(path: Path) -> None:
    found = {what: {value: measure(**(MIDDLE | {what: value})) for value in values} for what, values in SWEEPS.items()}
    rows = [[what, str(value), str(steps), f"{1e3 * timing.median(seconds):.3g}",
             f"{1e3 * min(seconds):.3g} to {1e3 * max(seconds):.3g}",
             f"{1e6 * timing.median(seconds) / (MIDDLE | {what: value})['subjects']:.3g}"]
            for what, cases in found.items() for value, (seconds, steps) in cases.items()]
    timing.show(["what varies", "number", "most steps", "one gradient, processor ms, median", "range",
                 "us a subject"], rows)
    slopes = ", ".join(f"{what} {exponent(list(cases), [timing.median(s) for s, _ in cases.values()]):.2f}"
                       for what, cases in found.items())
    print(f"\nExponents of the cost: {slopes}. Else {MIDDLE}. Core {CORE}, {ROUNDS} gradients each. "
          f"{timing.machine('jax', 'llvmlite')}")
    plot(found, path)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("scaling.png"))
