"""Is what more patients are said to teach what they teach? The worth of cohorts and of visit days, against simulation.

    python qualification/preposterior.py --studies 400 --seed 1 --out qualification/preposterior.md

`thymodel trial` takes the posterior as normal and adds Fisher information to it. Here the same cohorts are drawn from
the same posterior, and what they teach is computed without either: the likelihood of each draw of the posterior for
each simulated cohort is a closed form (a decay whose start differs between patients: log counts are multivariate
normal), and weighs the draws. Expected posterior variance is the mean over studies of the weighted variance. The
posterior is made from simulated data by the package itself, in a temporary folder.

A schedule passes if the two shares of variance left differ by 0.05 or less beyond 3 standard errors of the simulation;
days, if the best found leave, by simulation, less than evenly spread ones with the same noise, by 3 standard errors.
The negative control is information of twice as many patients, which must not pass.
"""

import argparse
import hashlib
import os
import platform
import shlex
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from thymodel.inference.population import population_values
from thymodel.results.fitting import fit
from thymodel.results.preposterior import Learned, learn
from thymodel.results.record import FitRecord

MODEL = """
title = "Decay of one pool"
description = "x falls at the rate k."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "assumption" }
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "assumption" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[observables.count]
unit = "cell/uL"
value = "x"
"""
SPEC = """
title = "Decay, for the worth of more patients"
purpose = "qualification"
model = "decay.toml"
simulated = true
estimate = ["x0", "k"]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL" }}
[between_subject]
x0 = {{ sd = "halfnormal(sd=0.5)", source = "assumption" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.3, sd=0.3)", source = "assumption" }} }}
[sampler]
seed = 1
chains = 4
warmup = 500
draws = 1500
"""
PLAN = """
title = "More patients of a decay"
[learning]
about = ["k", "x0"]
draws = 40
[cohorts.three]
subjects = 3
visits = [1, 4, 8]
[cohorts.twelve]
subjects = 12
visits = [1, 4, 8]
[cohorts.wide]
subjects = 3
visits = [0, 4, 20]
[sampling]
cohort = "three"
about = "k"
days = 3
candidates = [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20]
"""
SLACK = 0.05  # of the share left: what first order and a normal posterior may be wrong by


def make_record(folder: Path, seed: int) -> FitRecord:
    """A fit of eight patients seen three times, drawn at the values of the model file."""
    random, rows = np.random.default_rng(seed), ["ID,TIME,EVID,DVID,DV"]
    for patient in range(1, 9):
        start = 100 * np.exp(0.3 * random.standard_normal())
        rows += [f"{patient},{day},0,count,{start * np.exp(-0.1 * day + 0.3 * random.standard_normal()):.4g}"
                 for day in (1, 3, 6)]
    study = "\n".join(rows) + "\n"
    (folder / "decay.toml").write_text(MODEL, encoding="utf-8")
    (folder / "study.csv").write_text(study, encoding="utf-8")
    (folder / "spec.toml").write_text(SPEC.format(digest=hashlib.sha256(study.encode()).hexdigest()), encoding="utf-8")
    return fit(folder)


def simulated_shares(record: FitRecord, subjects: int, visits: np.ndarray, studies: int,
                     seed: int) -> tuple[np.ndarray, float]:
    """Share of the variance of the coordinates of k and x0 that is left after each simulated cohort (study, 2), and the
    mean number of draws that count."""
    lay = record.layout
    z = record.z[..., :len(lay.population)].reshape(-1, len(lay.population))
    values = {name: np.asarray(v) for name, v in jax.vmap(lambda one: population_values(lay, one))(z).items()}
    mean = np.log(values["x0"])[:, None] - values["k"][:, None] * visits
    between, noise = values["omega_x0"] ** 2, values["sigma_count"] ** 2
    asked, count = z[:, [lay.population.index(name) for name in ("k", "x0")]], len(visits)
    random, kept, effective = np.random.default_rng(seed), [], []
    for study in random.integers(len(z), size=studies):
        start = np.sqrt(between[study]) * random.standard_normal((subjects, 1))
        seen = mean[study] + start + np.sqrt(noise[study]) * random.standard_normal((subjects, count))
        left = seen - mean[:, None, :]  # of a patient: covariance noise*1 + between for every pair of visits
        total = left.sum(axis=-1)
        shared = total**2 * (between / (noise + count * between))[:, None]
        distance = ((left**2).sum(axis=-1) - shared).sum(axis=1) / noise
        log_weight = -0.5 * (distance + subjects * ((count - 1) * np.log(noise) + np.log(noise + count * between)))
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        center = weight @ asked
        kept.append((weight @ (asked - center) ** 2) / asked.var(axis=0))
        effective.append(1 / (weight**2).sum())
    return np.array(kept), float(np.mean(effective))


def told(found: Learned, cohort: str) -> np.ndarray:
    rows = found.table[found.table["cohort"] == cohort].set_index("about")["variance_kept"]
    return rows[["k", "x0"]].to_numpy()


def report(studies: int, seed: int) -> tuple[str, bool]:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "decay"
        folder.mkdir()
        record = make_record(folder, seed)
        plan = Path(name) / "trial.toml"
        plan.write_text(PLAN, encoding="utf-8")
        found = learn(record, plan)
        draws = record.z.shape[0] * record.z.shape[1]
        cohorts = {"three": (3, [1, 4, 8]), "twelve": (12, [1, 4, 8]), "wide": (3, [0, 4, 20])}
        simulated = {name: simulated_shares(record, subjects, np.array(visits, float), studies, seed)
                     for name, (subjects, visits) in cohorts.items()}
        spread = [float(day) for day in found.schedules.set_index("schedule").loc["evenly spread", "days"].split(",")]
        best, _ = simulated_shares(record, 3, np.array(found.days), studies, seed)
        even, _ = simulated_shares(record, 3, np.array(spread), studies, seed)
        doubled = Path(name) / "doubled.toml"
        doubled.write_text(PLAN.replace("subjects = 12", "subjects = 24"), encoding="utf-8")
        control = told(learn(record, doubled), "twelve")
    versions = ", ".join(f"{one} {metadata.version(one)}" for one in ("thymodel", "numpy", "scipy"))
    lines = ["# Is what more patients are said to teach what they teach?", "",
             "Made by `qualification/preposterior.py`; do not edit. SIMULATED data.", "",
             f"    python {shlex.join(sys.argv)}", "",
             f"- {versions}, Python {platform.python_version()}, {platform.machine()} with {os.cpu_count()} "
             f"processors; {time.perf_counter() - began:.0f} s",
             f"- {draws} draws of the posterior of eight patients; {studies} simulated cohorts a row. Share of the "
             f"variance left, on the scale of the prior; passes within {SLACK:g} and 3 standard errors.", "",
             "| cohort | about | told | simulated (SE) | draws that count | |", "|---|---|---|---|---|---|"]
    passed = True
    for cohort, (kept, effective) in simulated.items():
        for k, about in enumerate(("k", "x0")):
            mean, error = kept[:, k].mean(), kept[:, k].std(ddof=1) / np.sqrt(studies)
            good = abs(mean - told(found, cohort)[k]) <= SLACK + 3 * error
            passed &= bool(good)
            lines.append(f"| {cohort} | {about} | {told(found, cohort)[k]:.3f} | {mean:.3f} ({error:.3f}) | "
                         f"{effective:.0f} | {'PASS' if good else 'FAIL'} |")
    gain = even[:, 0] - best[:, 0]
    error = gain.std(ddof=1) / np.sqrt(studies)
    better = bool(gain.mean() > 3 * error)
    kept = simulated["twelve"][0]
    away = np.abs(kept.mean(axis=0) - control)
    found_out = bool((away > SLACK + 3 * kept.std(axis=0, ddof=1) / np.sqrt(studies)).any())
    days = ", ".join(f"{day:g}" for day in found.days)
    told_days = ", ".join(f"{row['schedule']} {row['variance_kept']:.3f}" for _, row in found.schedules.iterrows())
    lines += ["", f"**{'PASS' if better else 'FAIL'}**: the best days found for k, {days}, leave "
              f"{best[:, 0].mean():.3f} of its variance by simulation, evenly spread ones ("
              f"{', '.join(f'{d:g}' for d in spread)}) {even[:, 0].mean():.3f}; difference {gain.mean():.3f}, standard "
              f"error {error:.3f}. Told: {told_days}.",
              "", f"**{'PASS' if found_out else 'FAIL'}** (control): information of twice as many patients is found "
              f"out (told {control[0]:.3f} and {control[1]:.3f} for twelve)."]
    return "\n".join(lines) + "\n", passed and better and found_out


def main() -> None:
    parser = argparse.ArgumentParser(description="the worth of cohorts against simulation")
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text, passed = report(asked.studies, asked.seed)
    sys.stdout.write(text)
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
