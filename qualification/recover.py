"""Do 90% intervals hold the truth in 90% of cohorts? Cohorts with known truth, simulated and fitted one by one.

    python qualification/recover.py --cohorts 20 --seed 1 --out qualification/recovery.md

The design and the spec are those of fits/reset02_design, or of the folder --study. Each cohort has a truth of its own,
drawn from the priors of the spec, so that a correct posterior covers it as often as its intervals say, whatever the
sample size (Talts et al. 2018, arXiv:1804.06788). With --work a run that was stopped goes on from the cohorts that it
had finished.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

STUDY = Path(__file__).resolve().parents[1] / "fits" / "reset02_design"
COVERAGE = 0.9
FALSE_ALARM = 0.05  # of each verdict, over all its quantities (Bonferroni)
CONTROL = 0.5  # negative control: intervals that hold half as much probability
SUMMARIES = ("median", "restricted_mean")  # of the endpoints


# --- a cohort ------------------------------------------------------------------------------------------------


def simulate(study: Path, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """A cohort with its own truth, written to `folder` with a spec that names it.

    Returns:
        number, z (the population coordinates of the truth), truth (population values by name), reason (why the cohort
        cannot be fitted; empty if it can).
    """
    from thymodel.documents.data import load_data
    from thymodel.documents.design import load_design
    from thymodel.documents.spec import load_fit_spec
    from thymodel.errors import ThymodelError
    from thymodel.inference.population import layout, population_values
    from thymodel.results.trial import save_trial, simulate_trial

    spec, design = load_fit_spec(study / "spec.toml"), load_design(study / "design.toml")
    lay = layout(spec, ())
    z = np.random.default_rng([seed, number]).standard_normal(len(lay.population))
    truth = {name: float(value) for name, value in population_values(lay, z).items()}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "spec.toml").exists():
            save_trial(simulate_trial(design, 1000 * seed + number, truth), folder / "cohort.csv")
            digest = hashlib.sha256((folder / "cohort.csv").read_bytes()).hexdigest()
            (folder / "spec.toml").write_text(spec.text.replace(spec.data_sha256, digest))
        load_data(folder / "cohort.csv", spec.model, spec.columns)
        reason = ""
    except ThymodelError as error:
        reason = str(error).replace(str(folder) + os.sep, "")
    return {"number": number, "z": z.tolist(), "truth": truth, "reason": reason}


def judge_cohort(study: Path, seed: int, number: int, work: Path, overrides: dict[str, int]) -> dict[str, Any]:
    """Simulates and fits one cohort; rank of the truth among the draws for every quantity, verdict, seconds."""
    folder = work / f"cohort_{number:03d}"
    done, asked = folder / "result.json", {"seed": seed, **overrides}
    if done.exists():
        found = json.loads(done.read_text())
        if found["asked"] != asked:
            raise SystemExit(f"{done}: made with {found['asked']}, now {asked}. hint: use another --work")
        return found
    cohort = simulate(study, seed, number, folder) | {"asked": asked, "software": software()}
    result = cohort if cohort["reason"] else cohort | _judge(study, cohort, folder, overrides)
    done.write_text(json.dumps(result, indent=1))
    return result


def _judge(study: Path, cohort: dict[str, Any], folder: Path, overrides: dict[str, int]) -> dict[str, Any]:
    from thymodel.results.fitting import CHECKPOINT, fit

    start, out = time.perf_counter(), folder / "record"
    record = fit(folder / "spec.toml", out=out, resume=(out / CHECKPOINT).exists(), overrides=overrides)
    seconds = time.perf_counter() - start
    truth = cohort["truth"] | _true_endpoints(study, folder, np.array(cohort["z"]))
    draws, content = _draws(record.folder), record.content
    return {
        "passed": record.passed, "seconds": seconds, "stages": content["seconds"],
        "verdict": [text for text in content["verdict"]["sentences"] if not text.startswith("pass")],
        "divergences": content["sampler"]["divergences"], "failed": content["sampler"]["failed_solves"],
        "quantities": {name: _place(truth[name], draws[name]) for name in truth}}


def _draws(folder: Path) -> dict[str, np.ndarray]:
    from thymodel.results import record as records

    posterior = records.load_group(folder / records.POSTERIOR, "posterior")
    return records.named_draws(posterior) | records.named_draws(records.load_group(folder / records.DERIVED))


def _true_endpoints(study: Path, folder: Path, z: np.ndarray) -> dict[str, float]:
    """What the endpoints are under the true population values, for the virtual subjects of the fit."""
    from thymodel.documents.data import load_data
    from thymodel.documents.design import load_design
    from thymodel.documents.spec import Arm, load_fit_spec
    from thymodel.inference.population import layout
    from thymodel.results import fitting
    from thymodel.results.endpoints import summarise_draws
    from thymodel.results.prediction import baseline_covariates, virtual_subjects
    from thymodel.results.reconstitution import arm_times

    spec, design = load_fit_spec(folder / "spec.toml"), load_design(study / "design.toml")
    data = load_data(folder / "cohort.csv", spec.model, spec.columns)
    arms = [Arm(arm.name, arm.name, arm.doses, {}) for arm in design.arms]
    people = virtual_subjects(spec, baseline_covariates(spec, data), fitting._ENDPOINT_SUBJECTS, spec.sampler.seed)
    times, found = arm_times(spec, layout(spec, ()), z[None, :], arms, people, spec.endpoints), {}
    for name, endpoint in spec.endpoints.items():
        for arm, arm_time in zip(arms, times[name], strict=True):
            summary = summarise_draws(endpoint, arm.name, arm_time)
            found |= {f"{name}.{key}[{arm.name}]": float(getattr(summary, key)[0]) for key in SUMMARIES}
    return found


def _place(truth: float, draws: np.ndarray) -> dict[str, Any]:
    """Where the truth lies among the draws; both intervals are closed, for never-reached times are ties at infinity."""
    flat = draws.ravel()
    return {"truth": truth, "rank": float((np.mean(flat < truth) + np.mean(flat <= truth)) / 2),
            "covered": _covers(flat, truth, COVERAGE), "control": _covers(flat, truth, COVERAGE * CONTROL)}


def _covers(draws: np.ndarray, truth: float, probability: float) -> bool:
    method = "linear" if np.isfinite(draws).all() else "inverted_cdf"
    low, high = np.quantile(draws, [(1 - probability) / 2, (1 + probability) / 2], method=method)
    return bool(low <= truth <= high)


# --- all cohorts ---------------------------------------------------------------------------------------------


def fewest(cohorts: int, quantities: int) -> int:
    """The least count of covered cohorts that is no alarm: below it lies at most FALSE_ALARM over all quantities."""
    counts = np.arange(cohorts + 1)
    return int(counts[stats.binom.cdf(counts, cohorts, COVERAGE) > FALSE_ALARM / quantities][0])


def rank_reach(cohorts: int, quantities: int) -> float:
    """How far the mean rank may lie from 1/2; normal approximation to the mean of uniform numbers."""
    return float(stats.norm.isf(FALSE_ALARM / quantities / 2) / math.sqrt(12 * cohorts))


def pooled(results: Sequence[dict[str, Any]], key: str) -> tuple[float, float, float]:
    """Coverage over all quantities: mean, and the two-sided FALSE_ALARM limits about COVERAGE.

    The quantities of a cohort are not independent, so the spread is the one between cohorts (Student's t).
    """
    shares = np.array([np.mean([q[key] for q in result["quantities"].values()]) for result in results])
    reach = stats.t.isf(FALSE_ALARM / 2, len(shares) - 1) * shares.std(ddof=1) / math.sqrt(len(shares))
    return float(shares.mean()), COVERAGE - float(reach), COVERAGE + float(reach)


def counts(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By quantity: cohorts covered, covered by the control's intervals, mean rank."""
    table = {}
    for name in results[0]["quantities"]:
        found = [result["quantities"][name] for result in results]
        table[name] = {"covered": sum(q["covered"] for q in found), "control": sum(q["control"] for q in found),
                       "rank": float(np.mean([q["rank"] for q in found]))}
    return table


def run(args: argparse.Namespace, work: Path) -> str:
    """Simulates and fits cohorts until enough could be fitted; the report as Markdown."""
    next_number = 1
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    job = partial(judge_cohort, args.study.resolve(), args.seed, work=work,
                  overrides={"warmup": args.warmup, "draws": args.draws})
    # fresh processes, each for one cohort: JAX does not survive a fork, and its programs fill the memory
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        while missing := args.cohorts - len(good):
            for result in pool.map(job, range(next_number, next_number + missing)):
                (bad if result["reason"] else good).append(result)
                _tell(result)
            next_number += missing
    return report(args, good, bad)


def _tell(result: dict[str, Any]) -> None:
    if result["reason"]:
        return print(f"cohort {result['number']}: not fittable", flush=True)
    covered = [q["covered"] for q in result["quantities"].values()]
    print(f"cohort {result['number']}: {'passed' if result['passed'] else 'FAILED'}, {sum(covered)} of "
          f"{len(covered)} covered, {result['seconds']:.0f} s", flush=True)


# --- report --------------------------------------------------------------------------------------------------


def report(args: argparse.Namespace, results: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> str:
    """The Markdown report."""
    passed = [result for result in results if result["passed"]]
    seconds = [result["seconds"] for result in results]
    lines = [f"# Recovery of known truths: {args.study.resolve().name}", "",
             "Made by `qualification/recover.py`; do not edit. All cohorts are SIMULATED.", "",
             f"    {_command(args)}", "", *_machine(results),
             f"- {np.median(seconds):.0f} s a fit (median), {sum(seconds) / 60:.0f} minutes in all, "
             f"{args.jobs} fits at a time; wall time, with whatever else the machine did",
             f"- {len(passed)} of {len(results)} fits passed the gates of the spec", "",
             *_introduction(results), *_verdict(results, "All cohorts"),
             *(_verdict(passed, "Only the cohorts whose fit passed its gates") if len(passed) > 1 else []),
             *_quantities(results), *_cohorts(results, bad)]
    return "\n".join(lines) + "\n"


def _command(args: argparse.Namespace) -> str:
    words = ["python", "qualification/recover.py"]
    words += [] if args.study.resolve() == STUDY else ["--study", str(args.study)]
    for key in ("cohorts", "seed", "warmup", "draws", "jobs", "out"):
        words += [f"--{key}", str(getattr(args, key))]
    return shlex.join(words)


def software() -> str:
    """What makes the fit of a cohort, kept with its result: the report may be written by a later version."""
    import jax

    import thymodel

    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=STUDY, capture_output=True,
                            text=True)
    return (f"thymodel {thymodel.__version__} (commit {commit.stdout.strip() or 'unknown'}), "
            f"Python {platform.python_version()}, JAX {jax.__version__}, NumPy {np.__version__}")


def _machine(results: Sequence[dict[str, Any]]) -> list[str]:
    return [*(f"- {text}" for text in dict.fromkeys(result["software"] for result in results)),
            f"- {processor()}, {os.cpu_count()} cores, {platform.platform()}"]


def processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _introduction(results: Sequence[dict[str, Any]]) -> list[str]:
    n, m = len(results), len(results[0]["quantities"])
    low = fewest(n, m)
    single = stats.binom.cdf(low - 1, n, COVERAGE)
    return [
        "Each cohort is drawn from the design with a truth of its own from the priors of the spec, then fitted with "
        "that spec. A correct posterior then covers the truth in 90% of cohorts with its equal-tailed 90% interval, "
        "and the truth's rank among the draws is uniform. The truth of an endpoint is its value under the true "
        "population values for the same virtual subjects. Times that are never reached are infinite on both sides, "
        "and a tie there counts as covered: such quantities are covered more often than 90%.", "",
        f"Limits for {n} cohorts and {m} quantities, each verdict with a false-alarm rate of at most "
        f"{FALSE_ALARM:.0%} in all (Bonferroni):", "",
        f"- covered: {low} to {n} of {n}. Fewer has probability {single:.2g} for one quantity at a coverage of "
        f"{COVERAGE:g}; {n} of {n} has probability {COVERAGE**n:.2g} and is no alarm.",
        f"- mean rank: 0.5 ± {rank_reach(n, m):.3f}.",
        "- coverage over all quantities: within the 95% t interval of the spread between cohorts.", "",
        f"Negative control: intervals that hold {COVERAGE * CONTROL:.0%} in place of {COVERAGE:.0%} must be found "
        "out.", ""]


def _verdict(results: Sequence[dict[str, Any]], title: str) -> list[str]:
    table, n = counts(results), len(results)
    low, reach = fewest(n, len(table)), rank_reach(n, len(table))
    lines = [f"## {title}: {n}", "", "| | 90% intervals | negative control |", "|---|---|---|"]
    cells = []
    for key in ("covered", "control"):
        outside = [name for name, row in table.items() if row[key] < low]
        mean, least, most = pooled(results, key)
        cells.append((f"{len(outside)} of {len(table)}" + (f" ({', '.join(outside)})" if 0 < len(outside) < 6 else ""),
                      f"{mean:.3f} ({least:.3f} to {most:.3f}): "
                      + ("inside" if least <= mean <= most else "outside")))
    far = [name for name, row in table.items() if abs(row["rank"] - 0.5) > reach]
    return [*lines, f"| quantities below {low} of {n} | {cells[0][0]} | {cells[1][0]} |",
            f"| coverage over all (limits) | {cells[0][1]} | {cells[1][1]} |",
            f"| mean rank outside 0.5 ± {reach:.3f} | {', '.join(far) or 'none'} | |", ""]


def _quantities(results: Sequence[dict[str, Any]]) -> list[str]:
    table, n = counts(results), len(results)
    low = fewest(n, len(table))
    lines = ["## Quantities", "", "Truth in the 90% interval, out of all cohorts.", "",
             "| quantity | covered | limits | control | mean rank |", "|---|---|---|---|---|"]
    return lines + [f"| {name} | {row['covered']} of {n} | {low} to {n} | {row['control']} | {row['rank']:.2f} |"
                    for name, row in table.items()] + [""]


def _cohorts(results: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["## Cohorts", "", "A fit that fails its gates is counted above all the same.", "",
             "| cohort | gates | covered | divergences | failed solves | seconds | why |",
             "|---|---|---|---|---|---|---|"]
    for result in results:
        covered = [q["covered"] for q in result["quantities"].values()]
        lines.append(f"| {result['number']} | {'passed' if result['passed'] else 'failed'} | {sum(covered)} of "
                     f"{len(covered)} | {result['divergences']} | {result['failed']} | {result['seconds']:.0f} | "
                     f"{'; '.join(result['verdict'])} |")
    lines += ["", "## Not fittable", "", "Refused; the next cohort took the place. Where the data alone decide, "
              "coverage of the others is not affected." if bad else "None."]
    return lines + [f"- cohort {item['number']}: {' '.join(item['reason'].split())}" for item in bad]


def main(words: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--study", type=Path, default=STUDY, help="folder with a spec.toml and a design.toml")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("qualification/recovery.md"))
    parser.add_argument("--work", type=Path, help="keep cohorts and records here, and go on from them")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        args.out.write_text(run(args, args.work or Path(scratch)))


if __name__ == "__main__":
    sys.exit(main())
