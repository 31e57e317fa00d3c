"""100,000 virtual patients over 730 days: the native kernel against CVODE (libroadrunner) and LSODA (scipy).

    python benchmarks/simulate.py [PATIENTS]          about a minute

Everything but one row runs on one core, contenders in turn; that row runs two threads on two cores, in a process of
its own. Errors are relative to the value, or to 1 cell/uL where the value is lower, against LSODA at 1e-10. The kernel
runs at a loose tolerance, which others must match (by powers of ten), and at the one that the package simulates with.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import timing

BOTH = "--two-threads"
if BOTH in sys.argv:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
else:
    timing.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import peer_ode  # noqa: E402

from thymodel.documents.model import Model, load_model  # noqa: E402
from thymodel.documents.regimen import Dose  # noqa: E402
from thymodel.dynamics import solving  # noqa: E402
from thymodel.dynamics.schedule import Accuracy, stack  # noqa: E402

VISITS = (14.0, 30.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 365.0, 450.0, 550.0, 730.0)
BATCH = 96  # patients that one call of the kernel takes, 32 of each arm
ROUNDS, SAMPLE, TIMED = 5, 64, 12  # patients whose errors are looked at, and those of them that time the others
LOOSE, DEFAULT = Accuracy(1e-4, 1e-7), Accuracy()
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "external" / "reference_problem" / "niche_cascade.toml"


@dataclass(frozen=True)
class Trial:
    """A model, the three arms' doses (on the first day), and the spread of some parameters between patients."""

    label: str
    model: Model
    observables: tuple[str, ...]
    doses: tuple[float, float, float]
    spread: dict[str, float]


@dataclass(frozen=True)
class Population:
    """Parameters (set, patient) in sets of BATCH; `run` gives observables (set, patient, visit, observable)."""

    trial: Trial
    values: dict[str, np.ndarray]
    run: Callable
    rows: int


def trials() -> tuple[Trial, Trial]:
    return (Trial("reference model, 16 states", load_model(REFERENCE), ("CD4", "CD8", "nCD4", "RTE4"), (1.5, 4.0, 9.0),
                  {"kh": 0.4, "rho": 0.08, "kF": 0.3, "pM": 0.1, "KT": 0.3}),
            Trial("thymus_core, 15 states", load_model("thymus_core"), ("cd4", "cd8", "naive4", "rte4"),
                  (0.0, 2.0, 5.0), {"eta": 0.4, "f_th": 0.3, "t_b": 0.15, "pN": 0.15, "K_I": 0.2}))


def populate(trial: Trial, patients: int, accuracy: Accuracy) -> Population:
    """Steps are laid for 16 of the sets; the rest must do with them."""
    random, sets = np.random.default_rng(1), -(-patients // BATCH)
    typical = {name: item.value for name, item in trial.model.parameters.items()}
    values = {name: typical[name] * np.exp(sd * random.standard_normal((sets, BATCH)))
              for name, sd in trial.spread.items()}
    courses = {name: ((-np.inf, item.value),) for name, item in trial.model.covariates.items()}
    arms = [[Dose(0.0, next(iter(trial.model.inputs)), dose)] if dose else [] for dose in trial.doses]
    schedule = stack([solving.plan(trial.model, arms[k * 3 // BATCH], courses, VISITS) for k in range(BATCH)])
    solver = solving.prepare(trial.model, typical, jax.tree.map(jnp.asarray, schedule), trial.observables, accuracy,
                             draws={name: own[:16] for name, own in values.items()}, pooled=True, share=0.99)
    assert solver.kind == "native", solver.why

    def run(own):
        return jax.lax.map(lambda known: solving.solve_many(solver, typical | known)[0], own)

    return Population(trial, values, jax.jit(run), np.asarray(solver.tables.grid.rows).shape[1])


def one_core(population: Population):
    own = {name: jnp.asarray(value) for name, value in population.values.items()}
    return lambda: jax.block_until_ready(population.run(own))


def two_threads(population: Population):
    """Halves of the sets, a Python thread each: the kernel runs outside the interpreter's lock."""
    half = len(next(iter(population.values.values()))) // 2
    halves = [{name: jnp.asarray(value[part]) for name, value in population.values.items()}
              for part in (slice(0, half), slice(half, 2 * half))]
    pool = ThreadPoolExecutor(2)
    return lambda: list(pool.map(lambda own: jax.block_until_ready(population.run(own)), halves))


def sample(population: Population) -> list[tuple[dict[str, float], float, np.ndarray]]:
    """Some patients: their parameters, dose, and what the kernel says of them."""
    found, chosen = np.asarray(one_core(population)()), []
    for k in range(SAMPLE):
        s, p = k * (len(found) - 1) // SAMPLE, (k * 37) % BATCH
        own = {name: float(value[s, p]) for name, value in population.values.items()}
        chosen.append((own, population.trial.doses[p * 3 // BATCH], found[s, p]))
    return chosen


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found - exact) / np.maximum(np.abs(exact), 1.0)))


def as_accurate(solver, patients, exact, target: float):
    """The peer's calls, a patient each, at the loosest tolerance that is as accurate as the kernel; and its error."""
    for rtol in TOLERANCES:
        worst = max(error(solver(own, dose, rtol), e) for (own, dose, _), e in zip(patients, exact, strict=True))
        if worst <= target:
            break
    return rtol, worst, [lambda own=own, dose=dose: solver(own, dose, rtol) for own, dose, _ in patients[:TIMED]]


def report(trial: Trial, patients: int) -> list[list[str]]:
    loose, default = (populate(trial, patients, accuracy) for accuracy in (LOOSE, DEFAULT))
    simulated, chosen = next(iter(loose.values.values())).size, sample(loose)
    lsoda, cvode = (make(trial.model, trial.observables, VISITS) for make in (peer_ode.lsoda, peer_ode.roadrunner))
    exact = [lsoda(own, dose, 1e-10) for own, dose, _ in chosen]
    worst, tight = (max(error(found, e) for (_, _, found), e in zip(own, exact, strict=True))
                    for own in (chosen, sample(default)))
    peers = {"scipy LSODA": lsoda} | ({"libroadrunner, CVODE": cvode} if cvode is not None else {})
    matched = {name: as_accurate(solver, chosen, exact, worst) for name, solver in peers.items()}
    seconds = timing.interleaved({"loose": [one_core(loose)], "default": [one_core(default)]}
                                 | {name: calls for name, (_, _, calls) in matched.items()}, ROUNDS)
    base = timing.median(seconds["loose"].processor) / simulated
    return [
        _row(trial.label, _named(LOOSE, loose), seconds["loose"], simulated, worst, base),
        _row(trial.label, "the same, two threads on two cores", _elsewhere(trial, patients), simulated, worst, base),
        _row(trial.label, _named(DEFAULT, default), seconds["default"], simulated, tight, base),
        *[_row(trial.label, f"{name} at {rtol:g}", seconds[name], 1, e, base)
          for name, (rtol, e, _) in matched.items()]]


def _named(accuracy: Accuracy, population: Population) -> str:
    return f"native, rtol {accuracy.rtol:g}, {population.rows} rows, one core"


def _elsewhere(trial: Trial, patients: int) -> timing.Seconds:
    command = [sys.executable, __file__, BOTH, str(patients), trial.model.name]
    return timing.Seconds(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _row(label: str, how: str, seconds: timing.Seconds, patients: int, worst: float, base: float) -> list[str]:
    clock, processor = timing.median(seconds.clock) / patients, timing.median(seconds.processor) / patients
    return [label, how, f"{1e6 * clock:.3g}", f"{1e6 * min(seconds.clock) / patients:.3g} to "
            f"{1e6 * max(seconds.clock) / patients:.3g}", f"{1e6 * processor:.3g}", f"{1e5 * clock:.3g}",
            f"{worst:.1e}", f"{processor / base:.3g}"]


def main(patients: int) -> None:
    rows = [row for trial in trials() for row in report(trial, patients)]
    timing.show(["model", "how", "us a patient, median", "range", "processor us", "s for 100,000",
                 "largest error", "processor time, native = 1"], rows)
    print(f"\n{len(VISITS)} visits, 4 observables, {patients} patients natively; {TIMED}, a call each, for the others; "
          f"{ROUNDS} rounds; errors of {SAMPLE} patients. "
          + timing.machine("jax", "llvmlite", "scipy", "libroadrunner"))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    if BOTH in sys.argv:
        trial = next(own for own in trials() if own.model.name == sys.argv[-1])
        call = two_threads(populate(trial, numbers[0], LOOSE))
        print(json.dumps(timing.interleaved({"both": [call]}, ROUNDS)["both"]))
    else:
        main(numbers[0] if numbers else 100_000)
