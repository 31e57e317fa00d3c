"""Is a joint fit of patients and published cohorts calibrated? Studies of known truth, simulated and fitted one by one.

    python qualification/aggregate.py --replicates 200 --seed 1 --out qualification/aggregate.md

Each replicate has a truth of its own, drawn from the priors, study effects included; its patients and its two published
cohorts are simulated person by person in closed form, without the package. A correct posterior covers the truth in 50%
and 90% of replicates with its intervals of that level (Talts et al. 2018, arXiv:1804.06788). As a negative control the
same studies are fitted with the shortcut that gives a published mean the residual variance at the population mean: it
must be found out. With --work a run that was stopped goes on.
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

import arviz as az
import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from thymodel.documents.data import StudyData, Subject
from thymodel.documents.rows import Observation
from thymodel.documents.spec import load_fit_spec
from thymodel.inference import aggregate, certificate
from thymodel.inference.diagnostics import summary_table
from thymodel.inference.population import population_values, quantiles
from thymodel.inference.posterior import Data, Posterior, make_posterior

LEVELS = (0.5, 0.9)
FALSE_ALARM = 0.05  # of each verdict, over all quantities and both levels (Bonferroni)
ROUNDS, POINTS, TAILS = 8, 1500, 7.0  # of importance sampling, at most; degrees of freedom of its proposal
GOOD, POOR = 0.6, 0.7  # k-hat with which it stops, and from which on a fit is poor (Vehtari et al. 2024, JMLR 25:72)
LEAST = 100.0  # independent draws that its weights must leave
WARMUP, DRAWS = 300, 500  # of NUTS, the second opinion
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
    """Compiled once: the data are operands.

    Importance sampling is done in centred coordinates c, in which what the data know is nearly normal: the patients'
    and the studies' distances from the typical value, in place of their standard normal coordinates.
    """

    def __init__(self, posterior: Posterior):
        self.posterior, self.size = posterior, posterior.layout.size
        slope = jax.value_and_grad(lambda c, data: -self.centred(c, data))
        self.slope = jax.jit(slope)
        self.slopes = jax.jit(lambda points, data: jax.lax.map(lambda c: slope(c, data)[1], points))
        self.densities = jax.jit(lambda points, data: jax.lax.map(lambda c: self.centred(c, data), points))
        self.plain = jax.jit(lambda points, data: jax.lax.map(lambda z: posterior.density(z, data), points))
        self.back = jax.jit(jax.vmap(lambda c: self.to_z(c)[0]))
        self.natural = jax.jit(jax.vmap(lambda z: population_values(posterior.layout, z)))
        self.nuts = jax.jit(self._nuts)

    def to_z(self, c):
        """z of a point in centred coordinates, and the log of the map's Jacobian."""
        lay = self.posterior.layout
        names, (people, studies) = lay.population, (lay.scales["s"], lay.study_scales["s"])
        omega, tau = quantiles([people, studies], jnp.stack([c[names.index("omega_s")], c[names.index("tau_s")]]))
        omega, tau = (jnp.maximum(x / prior.numbers["sd"], 1e-8)
                      for x, prior in ((omega, people), (tau, studies)))
        own = [c[k] / tau if name.startswith("study_") else c[k] for k, name in enumerate(names)]
        z = jnp.concatenate([jnp.stack(own), c[len(names):] / omega])
        return z, -len(lay.studies) * jnp.log(tau) - len(lay.subjects) * jnp.log(omega)

    def centred(self, c, data):
        z, log_slope = self.to_z(c)
        return self.posterior.density(z, data) + log_slope

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


def by_importance(programs: Programs, data: Data, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Points z, their smoothed weights, and k-hat: around the mode at first, then around the points so far."""
    size = programs.size

    def start(c):
        value, slope = programs.slope(jnp.asarray(c), data)
        return (float(value), np.asarray(slope)) if np.isfinite(value) else (1e10, np.zeros(size))

    middle = optimize.minimize(start, np.zeros(size), jac=True, method="L-BFGS-B", options={"maxiter": 40}).x
    step = 1e-3 * np.eye(size)
    away = np.asarray(programs.slopes(jnp.asarray(np.concatenate([middle + step, middle - step])), data))
    hessian = (away[:size] - away[size:]) / 2e-3
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    spread = (vectors / np.maximum(values, 0.5)) @ vectors.T
    for _ in range(ROUNDS):
        proposal = stats.multivariate_t(middle, (1 - 2 / TAILS) * 1.3 * spread, df=TAILS, seed=rng)
        points = proposal.rvs(POINTS)
        log_weights = np.asarray(programs.densities(jnp.asarray(points), data)) - proposal.logpdf(points)
        log_weights = np.where(np.isfinite(log_weights), log_weights, -1e3)
        smoothed, k = az.psislw(log_weights - log_weights.max())
        weights = np.exp(np.asarray(smoothed))
        weights = weights / weights.sum()
        if k < GOOD and 1 / np.sum(weights**2) > LEAST:
            break
        middle, spread = _adapted(points, weights)
    return np.asarray(programs.back(jnp.asarray(points))), weights, float(k)


def _adapted(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the points for the next proposal; with flatter weights where few points hold them all."""
    while 1 / np.sum(weights**2) < 5 * points.shape[1]:
        weights = np.sqrt(weights)
        weights = weights / weights.sum()
    middle = weights @ points
    away = points - middle
    values, vectors = np.linalg.eigh(away.T @ (away * weights[:, None]))
    return middle, (vectors * np.clip(values, 0.01, 10.0)) @ vectors.T


def judge(programs: Programs, data: Data, truth: dict[str, float], seed: int, number: int) -> dict[str, Any]:
    """Coverage and rank of the truth for every population quantity, with how far the fit can be trusted."""
    start = time.process_time()
    points, weights, k = by_importance(programs, data, np.random.default_rng([seed, number, 1]))
    rows = {name: np.asarray(values) for name, values in programs.natural(jnp.asarray(points)).items()}
    return {"quantities": {name: _place(truth[name], values, weights) for name, values in rows.items()},
            "k": k, "ess": float(1 / np.sum(weights**2)), "seconds": time.process_time() - start,
            "points": points[np.argsort(-weights)[:5]].tolist()}


def second_opinion(programs: Programs, data: Data, truth: dict[str, float], seed: int, number: int) -> dict[str, Any]:
    """The same by NUTS."""
    draws, diverged = map(np.asarray, programs.nuts(jax.random.PRNGKey(1000 * seed + number), data))
    rows = {name: np.asarray(values) for name, values in programs.natural(jnp.asarray(draws)).items()}
    table = summary_table({name: values.reshape(2, -1) for name, values in rows.items()})  # halves of the chain
    even = np.full(len(draws), 1 / len(draws))
    return {"quantities": {name: _place(truth[name], values, even) for name, values in rows.items()},
            "rhat": float(table["rhat"].max()), "ess": float(table["ess_bulk"].min()),
            "divergences": int(diverged.sum())}


def _place(truth: float, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Posterior probability below the truth, and which central intervals hold it."""
    rank = float(weights[values < truth].sum())
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
    kept: dict[str, list[dict[str, Any]]] = {"joint": [], "nuts": [], "shortcut": []}
    args.work.mkdir(parents=True, exist_ok=True)
    for way, count in (("joint", args.replicates), ("nuts", args.checks), ("shortcut", args.controls)):
        for number in range(1, count + 1):
            done = args.work / f"{way}_{args.seed}_{number:03d}.json"
            if not done.exists():
                truth, data = simulate(posterior, args.seed, number)
                look = second_opinion if way == "nuts" else judge
                tables = shortcut(data) if way == "shortcut" else data
                done.write_text(json.dumps(look(programs, tables, truth, args.seed, number)))
            kept[way].append(json.loads(done.read_text()))
    finer, difference = certificate._finer(posterior.data.solver), []
    for number, result in enumerate(kept["joint"][:10], 1):
        _, data = simulate(posterior, args.seed, number)
        points = jnp.asarray(result["points"])
        once, twice = (np.asarray(programs.plain(points, data._replace(solver=tables)))
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
                          str(args.controls), "--checks", str(args.checks), "--seed", str(args.seed), "--out",
                          str(args.out)])
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
        f"Each posterior ({posterior_size} coordinates) is taken by importance sampling in centred coordinates: around "
        f"its mode, then around the points so far, up to {ROUNDS} rounds of {POINTS}, until k-hat is below {GOOD} and "
        f"the weights leave {LEAST:g} draws. One compiled program on the native kernel serves for all.", "",
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
    good = [result for result in joint if result["k"] < POOR]
    lines += ["", "## The fits", "",
              "Every fit counts above, also a poor one. The level of an interval's end is known to about half of "
              "1/sqrt(ESS), of either sign, which hardly moves the coverage: by about 1/ESS.", "",
              "| | joint | shortcut |", "|---|---|---|"]
    cells = [[f"{sum(r['k'] >= POOR for r in results)} of {len(results)}",
              f"{np.median([r['k'] for r in results]):.2f}", f"{np.median([r['ess'] for r in results]):.0f}",
              f"{np.min([r['ess'] for r in results]):.0f}"] for results in (joint, control)]
    titles = (f"poor: k-hat of {POOR} or more", "k-hat, median", "ESS of the weights, median", "ESS, least")
    lines += [f"| {title} | {one} | {two} |" for title, one, two in zip(titles, *cells, strict=True)]
    lines += [f"| coverage without the poor ones at {level:.0%} | {_share(good, names, level)} | |" for level in LEVELS]
    lines += ["", *_second_opinion(kept, names),
              f"Solver: with every step in two, the log density at points of ten fits moves by {args.solver:.2g} (SD)."]
    return "\n".join(lines) + "\n"


def _second_opinion(kept: dict[str, list[dict[str, Any]]], names: Sequence[str]) -> list[str]:
    both = list(zip(kept["joint"], kept["nuts"], strict=False))
    if not both:
        return []
    apart = np.array([[one["quantities"][name]["rank"] - other["quantities"][name]["rank"] for name in names]
                      for one, other in both])
    reach = 1.96 * apart.mean(axis=1).std(ddof=1) / math.sqrt(len(both))
    expected = np.mean([math.sqrt(0.25 / one["ess"] + 0.25 / other["ess"]) for one, other in both])
    return [f"Second opinion: the first {len(both)} replicates by NUTS with a dense metric ({WARMUP} + {DRAWS} "
            "iterations, one chain). The posterior probability below the truth, of all quantities, differs by "
            f"{apart.mean():+.3f} on average (95%: ± {reach:.3f}), "
            f"root mean square {np.sqrt(np.mean(apart**2)):.3f}; both samples' Monte-Carlo errors alone would give at "
            f"most {expected:.3f} (at a probability of 1/2). Largest R-hat of the chains' halves "
            f"{max(other['rhat'] for _, other in both):.2f}, "
            f"divergences {sum(other['divergences'] for _, other in both)} of {len(both) * DRAWS}.", ""]


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
    parser.add_argument("--checks", type=int, default=20, help="of them, fitted by NUTS as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("qualification/aggregate.md"))
    parser.add_argument("--work", type=Path, help="keep results here, and go on from them")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        args.work = args.work or Path(scratch)
        args.out.write_text(report(args, run_all(args)))


if __name__ == "__main__":
    sys.exit(main())
