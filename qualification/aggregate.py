"""Is a joint fit of patients and published cohorts calibrated? Studies of known truth, simulated and fitted one by one.

    python qualification/aggregate.py --replicates 200 --seed 1 --out qualification/aggregate.md

Each replicate has a truth of its own, drawn from the priors, study effects included; its patients and its two published
cohorts are simulated person by person in closed form, without the package. A correct posterior covers the truth in 50%
and 90% of replicates with its intervals of that level (Talts et al. 2018, arXiv:1804.06788). As a negative control the
same studies are fitted with the shortcut that gives a published mean the residual variance at the population mean: it
must be found out. Every fit is a line of --kept, and a run that was stopped goes on from there.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from thymodel.documents.data import StudyData, Subject
from thymodel.documents.rows import Observation
from thymodel.documents.spec import load_fit_spec
from thymodel.inference import aggregate, certificate
from thymodel.inference.diagnostics import summary_table
from thymodel.inference.population import population_values
from thymodel.inference.posterior import Data, Posterior, make_posterior

LEVELS = (0.5, 0.9)
FALSE_ALARM = 0.05  # of each verdict, over all quantities and both levels (Bonferroni)
WARMUP, DRAWS = 300, 500
SOLVED_AGAIN = 10  # fits at whose draws every step of the solver is made in two
PATIENTS, VISITS = 6, (5.0, 15.0, 40.0)
COHORTS = {"a": ("One", 32), "b": ("Two", 24)}
MODEL = """
title = "A pool that fills"
description = "Cells come at a constant rate and are lost at the rate k."
time = "day"
[parameters]
s = { unit = "cell/uL/day", value = 5, prior = "lognormal(median=5, sd=0.3)", source = "made up" }
k = { unit = "1/day", value = 0.05, prior = "lognormal(median=0.05, sd=0.3)", source = "made up" }
[states.x]
unit = "cell/uL"
initial = "0"
rate = "s - k*x"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
unit = "cell/uL"
value = "x"
"""
SPEC = """
title = "Patients and papers"
purpose = "Calibration; every number is SIMULATED."
model = "pool.toml"
simulated = true
estimate = ["s", "k"]
[data]
file = "none.csv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
units = {{ TIME = "day", count = "cell/uL" }}
[published.papers]
file = "papers.toml"
sha256 = "{digest}"
[between_subject]
s = {{ sd = "halfnormal(sd=0.4)", source = "made up" }}
[study_effect]
s = {{ sd = "halfnormal(sd=0.3)", source = "made up" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.3)", source = "made up" }} }}
[sampler]
seed = 1
"""
# day, statistic and its spread; the numbers stand in for those of each replicate
PAPERS = [("a", 5.0, "mean", ("sd",)), ("a", 15.0, "geometric_mean", ("cv",)), ("a", 40.0, "mean", ("sd",)),
          ("b", 10.0, "median", ("q25", "q75")), ("b", 60.0, "median", ("q25", "q75"))]
STAND_IN = {"mean": 50.0, "geometric_mean": 50.0, "median": 50.0, "sd": 20.0, "cv": 0.4, "q25": 40.0, "q75": 60.0}


# --- what is fitted ------------------------------------------------------------------------------------------


def prepare() -> Posterior:
    """The posterior of one study, whose program serves for all."""
    lines = ['title = "Papers"']
    lines += [f'[cohorts.{name}]\nstudy = "{study}"\nsource = "SIMULATED"' for name, (study, _) in COHORTS.items()]
    for cohort, day, statistic, spread in PAPERS:
        lines.append(f'[[rows]]\ncohort = "{cohort}"\nday = {day}\nobservable = "count"\nstatistic = "{statistic}"\n'
                     f'value = {STAND_IN[statistic]}\nn = {COHORTS[cohort][1]}\nunit = "cell/uL"\n'
                     'source = "SIMULATED"\n' + "".join(f"{key} = {STAND_IN[key]}\n" for key in spread))
    text = "\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pool.toml").write_text(MODEL)
        (Path(folder) / "papers.toml").write_text(text)
        spec_text = SPEC.format(digest=hashlib.sha256(text.encode()).hexdigest())
        (Path(folder) / "spec.toml").write_text(spec_text)
        spec = load_fit_spec(folder)
    rows = tuple(Observation(day, "count", 50.0, 0, math.nan, k) for k, day in enumerate(VISITS))
    people = tuple(Subject(f"p{k}", "", (), rows, ()) for k in range(PATIENTS))
    return make_posterior(spec, StudyData(people, (), (), "", "none", 0))


def simulate(posterior: Posterior, seed: int, number: int) -> tuple[dict[str, float], Data]:
    """A truth from the priors, and the data of a study under it."""
    rng = np.random.default_rng([seed, number])
    z = rng.standard_normal(len(posterior.layout.population))
    truth = {name: float(value) for name, value in population_values(posterior.layout, jnp.asarray(z)).items()}
    patients = observe(rng, truth, 0.0, PATIENTS, VISITS)
    (records,), plans = posterior.data.quantified, posterior.plans
    value = patients[np.asarray(records.subject), np.asarray(records.visit)]
    seen = []
    for plan in plans:
        study, n = COHORTS[plan.cohort.name]
        courses = observe(rng, truth, truth[f"study_s_{study}"], n, plan.days)
        seen.append(summarise(plan, courses))
    return truth, posterior.data._replace(quantified=(records._replace(value=value),), published=tuple(seen))


def observe(rng: np.random.Generator, truth: dict[str, float], away: float, count: int,
            days: Sequence[float]) -> np.ndarray:
    """Observations (person, day): the model's closed form, and lognormal error."""
    s = truth["s"] * np.exp(away + truth["omega_s"] * rng.standard_normal((count, 1)))
    course = s / truth["k"] * -np.expm1(-truth["k"] * np.array(days))
    return course * np.exp(truth["sigma_count"] * rng.standard_normal(course.shape))


def summarise(plan: aggregate.Plan, courses: np.ndarray) -> aggregate.Seen:
    """What a paper would print of these people."""
    groups = []
    for group in plan.joined:
        values = [_figure(figure.kind, figure.other, courses[:, visit])
                  for figure, visit in zip(group.figures, group.visits, strict=True)]
        groups.append(aggregate.Numbers(np.array(values), np.array([f.other for f in group.figures]),
                                        np.array([f.n for f in group.figures])))
    return aggregate.Seen(tuple(groups), (), (), ())


def _figure(kind: str, level: float, y: np.ndarray) -> float:
    match kind:
        case "mean":
            return float(y.mean())
        case "sd":
            return float(y.std(ddof=1))
        case "geometric_mean":
            return float(np.exp(np.log(y).mean()))
        case "geometric_sd":
            return float(np.log(y).std(ddof=1))
    return float(np.quantile(y, level))  # quantile


def shortcut(data: Data) -> Data:
    """The negative control: virtual people who are all typical, so that only the residual variance is left."""
    assert data.people is not None
    return data._replace(people=data.people._replace(standard=0 * np.asarray(data.people.standard)))


# --- one fit -------------------------------------------------------------------------------------------------


class Programs:
    """Compiled once: the data are operands."""

    def __init__(self, posterior: Posterior):
        self.posterior, self.size = posterior, posterior.layout.size
        self.densities = jax.jit(lambda points, data: jax.lax.map(lambda z: posterior.density(z, data), points))
        self.natural = jax.jit(jax.vmap(lambda z: population_values(posterior.layout, z)))
        self.nuts = jax.jit(self._nuts)

    def _nuts(self, key, data):
        """Draws, and which diverged: BlackJAX's NUTS with a dense metric."""

        def density(z):
            return self.posterior.density(z, data)

        first, warm, rest = jax.random.split(key, 3)
        z = 0.3 * jax.random.normal(first, (self.size,))
        adaptation = blackjax.window_adaptation(blackjax.nuts, density, is_mass_matrix_diagonal=False,
                                                target_acceptance_rate=0.9)
        (state, parameters), _ = adaptation.run(warm, z, num_steps=WARMUP)
        step = blackjax.nuts(density, **parameters).step

        def one(state, key):
            state, info = step(key, state)
            return state, (state.position, info.is_divergent)

        return jax.lax.scan(one, state, jax.random.split(rest, DRAWS))[1]


def judge(programs: Programs, data: Data, truth: dict[str, float], seed: int, number: int) -> dict[str, Any]:
    """Coverage and rank of the truth for every population quantity, with how far the draws can be trusted."""
    start = time.process_time()
    draws, diverged = map(np.asarray, programs.nuts(jax.random.PRNGKey(1000 * seed + number), data))
    rows = {name: np.asarray(values) for name, values in programs.natural(jnp.asarray(draws)).items()}
    table = summary_table({name: values.reshape(2, -1) for name, values in rows.items()})  # halves of the chain
    return {"quantities": {name: _place(truth[name], values) for name, values in rows.items()},
            "rhat": float(table["rhat"].max()), "ess": float(table["ess_bulk"].min()),
            "divergences": int(diverged.sum()), "seconds": time.process_time() - start,
            "points": draws[:: len(draws) // 5].tolist() if number <= SOLVED_AGAIN else []}


def _place(truth: float, values: np.ndarray) -> dict[str, Any]:
    """Share of the draws below the truth, and which central intervals hold it."""
    rank = float(np.mean(values < truth))
    return {"rank": rank} | {f"{level:g}": bool(abs(rank - 0.5) <= level / 2) for level in LEVELS}


# --- all replicates ------------------------------------------------------------------------------------------


def limits(replicates: int, level: float, verdicts: int) -> tuple[int, int]:
    """Counts of covered replicates that are no alarm: FALSE_ALARM over all verdicts, half of it on either side."""
    tail = FALSE_ALARM / verdicts / 2
    return (int(stats.binom.ppf(tail, replicates, level)), int(stats.binom.isf(tail, replicates, level)))


def alarm_rate(replicates: int, level: float, low: int, high: int) -> float:
    """Chance that a calibrated quantity is outside the limits."""
    return float(stats.binom.cdf(low - 1, replicates, level) + stats.binom.sf(high, replicates, level))


def run_all(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    posterior = prepare()
    programs = Programs(posterior)
    kept: dict[str, list[dict[str, Any]]] = {"joint": [], "shortcut": []}
    lines = args.kept.read_text().splitlines() if args.kept.exists() else []
    found = {(line["way"], line["seed"], line["number"]): line for line in map(json.loads, lines)}
    for way, count in (("joint", args.replicates), ("shortcut", args.controls)):
        for number in range(1, count + 1):
            key = (way, args.seed, number)
            if key not in found:
                truth, data = simulate(posterior, args.seed, number)
                tables = data if way == "joint" else shortcut(data)
                line = dict(zip(("way", "seed", "number"), key, strict=True))
                found[key] = line | judge(programs, tables, truth, args.seed, number)
                with open(args.kept, "a") as file:
                    file.write(json.dumps(found[key]) + "\n")
            kept[way].append(found[key])
    finer, difference = certificate._finer(posterior.data.solver), []
    for number, result in enumerate(kept["joint"][:SOLVED_AGAIN], 1):
        _, data = simulate(posterior, args.seed, number)
        points = jnp.asarray(result["points"])
        once, twice = (np.asarray(programs.densities(points, data._replace(solver=tables)))
                       for tables in (posterior.data.solver, finer))
        difference += (twice - once).tolist()
    args.solver = float(np.std(difference))
    return kept


def report(args: argparse.Namespace, kept: dict[str, list[dict[str, Any]]]) -> str:
    joint, control = kept["joint"], kept["shortcut"]
    names, n, m = list(joint[0]["quantities"]), len(joint), len(control)
    verdicts = len(names) * len(LEVELS)
    own = {level: limits(n, level, verdicts) for level in LEVELS}
    other = {level: limits(m, level, verdicts) for level in LEVELS}

    def covered(results, name, level):
        return sum(result["quantities"][name][f"{level:g}"] for result in results)

    def outside(results, bounds):
        return [f"{name} at {level:.0%}" for name in names for level in LEVELS
                if not bounds[level][0] <= covered(results, name, level) <= bounds[level][1]]

    posterior_size = PATIENTS + len(names)
    alarms = {"joint": outside(joint, own), "shortcut": outside(control, other)}
    seconds = [result["seconds"] for result in joint]
    command = shlex.join(["python", "qualification/aggregate.py", "--replicates", str(args.replicates), "--controls",
                          str(args.controls), "--seed", str(args.seed), "--out", str(args.out)])
    rates = ", ".join(f"{alarm_rate(n, level, *own[level]):.2g} at {level:.0%}" for level in LEVELS)
    lines = [
        "# Calibration of patients and published cohorts in one posterior", "",
        "Made by `qualification/aggregate.py`; do not edit. Everything here is SIMULATED.", "", f"    {command}", "",
        f"- {_software()}",
        f"- {_processor()}, {os.cpu_count()} cores; {np.median(seconds):.2g} s of processor time a fit (median)", "",
        f"Model: a pool that fills (one state), {PATIENTS} patients with {len(VISITS)} counts each, and two published "
        f"cohorts, of {COHORTS['a'][1]} people (mean and SD on days 5 and 40, geometric mean and CV on day 15) and of "
        f"{COHORTS['b'][1]} (median and quartiles on days 10 and 60), each of a study with an effect of its own. "
        "Typical values, the spread between people and that between studies, the residual error and both studies' "
        "effects are drawn from their priors; people are simulated one by one in closed form. "
        f"Each posterior ({posterior_size} coordinates) is sampled by NUTS with a dense metric on the native kernel, "
        f"one chain, {WARMUP} + {DRAWS} iterations; one compiled program serves for all.", "",
        f"Limits over {len(names)} quantities and {len(LEVELS)} levels, false-alarm rate of a verdict at most "
        f"{FALSE_ALARM:.0%} in all (Bonferroni); of one quantity {rates}: "
        + "; ".join(f"{own[level][0]} to {own[level][1]} of {n} at {level:.0%}" for level in LEVELS) + ".", "",
        "| | joint | shortcut variance (negative control) |", "|---|---|---|",
        f"| replicates | {n} | {m} |",
        f"| outside the limits | {len(alarms['joint'])} of {verdicts} {_listed(alarms['joint'])} | "
        f"{len(alarms['shortcut'])} of {verdicts} {_listed(alarms['shortcut'])} |",
        f"| **verdict** | **{'calibrated' if not alarms['joint'] else 'NOT calibrated'}** | "
        f"**{'found out' if alarms['shortcut'] else 'NOT found out'}** |",
        *[f"| coverage over all quantities at {level:.0%} | {_share(joint, names, level)} | "
          f"{_share(control, names, level)} |" for level in LEVELS], "",
        "## Quantities", "", f"Covered of {n} (joint) and of {m} (shortcut), and the p-value of the ranks' distance "
        "from uniform (Kolmogorov-Smirnov).", "",
        "| quantity | 50% | 90% | mean rank | p of ranks | shortcut 50% | shortcut 90% |",
        "|---|---|---|---|---|---|---|"]
    for name in names:
        ranks = np.array([result["quantities"][name]["rank"] for result in joint])
        counts = [covered(results, name, level) for results in (joint, control) for level in LEVELS]
        lines.append(f"| {name} | {counts[0]} | {counts[1]} | {ranks.mean():.2f} | "
                     f"{stats.kstest(ranks, 'uniform').pvalue:.2g} | {counts[2]} | {counts[3]} |")
    lines += ["", "## The fits", "",
              "Every fit counts, however it mixed. The level of an interval's end is known to about half of "
              "1/sqrt(ESS), of either sign, which hardly moves the coverage: by about 1/ESS.", "",
              "| | joint | shortcut |", "|---|---|---|"]
    cells = [[f"{np.median([r['ess'] for r in results]):.0f}", f"{np.min([r['ess'] for r in results]):.0f}",
              f"{np.median([r['rhat'] for r in results]):.3f}", f"{np.max([r['rhat'] for r in results]):.3f}",
              f"{sum(r['divergences'] for r in results)} of {len(results) * DRAWS}"] for results in (joint, control)]
    titles = ("least bulk ESS, median over fits", "least bulk ESS, worst fit",
              "largest R-hat of the chain's halves, median", "largest R-hat, worst fit", "divergences")
    lines += [f"| {title} | {one} | {two} |" for title, one, two in zip(titles, *cells, strict=True)]
    lines += ["", f"Solver: with every step in two, the log density at draws of ten fits moves by {args.solver:.2g} "
              "(SD)."]
    return "\n".join(lines) + "\n"


def _share(results, names, level: float) -> str:
    shares = np.array([np.mean([result["quantities"][name][f"{level:g}"] for name in names]) for result in results])
    return f"{shares.mean():.3f} ± {1.96 * shares.std(ddof=1) / math.sqrt(len(shares)):.3f} (95%)"


def _listed(alarms: Sequence[str]) -> str:
    return f"({', '.join(alarms)})" if alarms else ""


def _software() -> str:
    import thymodel

    return (f"thymodel {thymodel.__version__}, Python {platform.python_version()}, JAX {jax.__version__}, BlackJAX "
            f"{blackjax.__version__}, NumPy {np.__version__}")


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def main(words: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--controls", type=int, default=60, help="of them, fitted with the shortcut as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("qualification/aggregate.md"))
    parser.add_argument("--kept", type=Path, default=Path("qualification/aggregate.jsonl"))
    args = parser.parse_args(words)
    args.out.write_text(report(args, run_all(args)))


if __name__ == "__main__":
    sys.exit(main())
