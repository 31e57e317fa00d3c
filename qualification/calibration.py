"""Are the intervals of fits what they say, for every error model, with and without a limit of quantification and a
covariate? And would it be found out if they were not?

    python qualification/calibration.py --studies 200 --work out/calibration --out docs/qualification/calibration.md

Every cell is a spec of one small model. Studies are drawn from its priors and fitted with it, and the truths are ranked
among the draws (see `thymodel calibrate`). Then faults are planted, each of which must be found. Results are kept in
--work, cell by cell, and a run that was stopped goes on there.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # searches of tiny products, which threads make twenty times slower

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from recover import processor, software

from thymodel.documents.measurement import COUNTS
from thymodel.documents.spec import load_fit_spec
from thymodel.inference import uniformity
from thymodel.inference.population import Layout, log_prior, population_values
from thymodel.inference.posterior import Data, Posterior
from thymodel.inference.replicates import (
    KEPT,
    LOG_LIKELIHOOD,
    Sampler,
    draw_truth,
    make_design,
    make_ranking,
    make_sampler,
    replicate,
)
from thymodel.inference.sampling import Draws, Settings
from thymodel.results.calibration import (
    FALSE_ALARM,
    LEVELS,
    Calibration,
    collect,
    coverage_limits,
    gather,
    judge,
    load_design_of,
    open_results,
    p_text,
    quantity_rows,
)

HERE = Path(__file__).resolve().parent
MODEL = HERE / "calibration" / "pool.toml"
DAYS = "[1, 5, 12, 25]"
SUBJECTS = 6
LLOQ = 8  # cell/uL: about four in ten values lie below it
SECONDS = "seconds.json"  # of processor that a cell took
POWER = 0.5  # of the likelihood, as a planted fault
# error model -> its parameters, medians of their priors and their values in the design's one study
ERRORS = {
    "proportional": {"proportional": 0.2},
    "combined": {"additive": 1, "proportional": 0.2},
    "student_t": {"log_sd": 0.2},
    "negative_binomial": {"dispersion": 0.1},
    "lognormal": {"log_sd": 0.2},
}
NARROW, WIDE = 0.4, 1.0  # log-SD of the priors of errors and of differences; wide where the Jacobian must show
EXTRAS = {"student_t": "df = 4\noffset = 1\n",
          "negative_binomial": 'scale = { value = 1, unit = "uL", source = "made up: one microlitre is counted" }\n'}


@dataclass(frozen=True)
class Cell:
    error: str
    limited: bool
    covariate: bool
    fault: str = ""

    @property
    def name(self) -> str:
        words = [self.error, "lloq" if self.limited else "no_lloq", "power" if self.covariate else "no_covariate"]
        return "-".join([*words, *([self.fault] if self.fault else [])])


FULL = ("proportional", "combined", "student_t", "negative_binomial")
CELLS = (*(Cell(error, limited, covariate) for limited, covariate in
           ((False, False), (True, True), (True, False), (False, True)) for error in FULL),
         Cell("lognormal", True, True))
CONTROLS = (Cell("proportional", False, False, "likelihood_to_a_power"),
            Cell("combined", False, False, "jacobian_left_out"),
            Cell("proportional", False, False, "sampler_returns_the_prior"),
            Cell("student_t", True, False, "censored_taken_as_observed"))


# --- documents -----------------------------------------------------------------------------------------------


def write_cell(cell: Cell, folder: Path) -> Path:
    """The spec and design of a cell; `thymodel calibrate` reads them too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL.name).write_text(MODEL.read_text())
    parameters, extra = ERRORS[cell.error], EXTRAS.get(cell.error, "")
    sd = WIDE if cell.fault == "jacobian_left_out" else NARROW
    priors = ", ".join(f'{key} = {{ prior = "lognormal(median={value}, sd={sd})", source = "made up" }}'
                       for key, value in parameters.items())
    values = ", ".join(f"{key} = {value}" for key, value in parameters.items())
    covariate = ('[covariate_effects.BW]\nparameter = "k"\ncovariate = "BW"\nform = "power"\nreference = 70\n'
                 'prior = "normal(mean=0, sd=1)"\nsource = "made up"\n') if cell.covariate else ""
    (folder / "spec.toml").write_text(f"""title = "{cell.name}"
purpose = "Show that intervals are what they say."
model = "{MODEL.name}"
simulated = true
estimate = ["x0", "k"]
{covariate}
[data]
file = "study.csv"
sha256 = "{'0' * 64}"
where = "nowhere: the design is that of design.toml"
units = {{ TIME = "day", count = "{'cell' if cell.error in COUNTS else 'cell/uL'}", BW = "kg" }}
[between_subject]
k = {{ sd = "lognormal(median=0.3, sd={sd})", source = "made up" }}
[likelihood.count]
error = "{cell.error}"
{extra}parameters = {{ {priors} }}
[sampler]
seed = 1
chains = 2
warmup = 100
draws = 150
target_accept = 0.9
""")
    (folder / "design.toml").write_text(f"""title = "SIMULATED: {SUBJECTS} subjects"
model = "{MODEL.name}"
[truth.between_subject]
k = {{ sd = 0.3 }}
[error.count]
error = "{cell.error}"
{extra}parameters = {{ {values} }}
{f'lloq = {LLOQ}' if cell.limited else ''}
[arms.all]
subjects = {SUBJECTS}
[covariates]
BW = "truncnormal(mean=70, sd=30, lower=30, upper=120)"
[visits]
days = {DAYS}
""")
    return folder


# --- planted faults ------------------------------------------------------------------------------------------


def to_a_power(posterior: Posterior) -> Callable:
    """The log density with its likelihood raised to a power."""
    def density(z, data):
        prior = log_prior(posterior.layout, z)
        return prior + POWER * (posterior.density(z, data) - prior)

    return density


def without_jacobian(posterior: Posterior) -> Callable:
    """The prior's density of the natural values, sampled in z as if the map between them had no slope."""
    lay = posterior.layout

    def density(z, data):
        slopes = jax.grad(lambda z: sum(population_values(lay, z).values()))(z)[:len(lay.population)]
        return posterior.density(z, data) - jnp.sum(jnp.log(jnp.abs(slopes)))

    return density


def as_observed(data: Data) -> Data:
    """Censored values as if they had been measured at the limit."""
    return data._replace(censored=tuple(own._replace(censoring=np.zeros_like(own.censoring)) for own in data.censored))


def prior_sampler(posterior: Posterior, lay: Layout, chains: int) -> Sampler:
    """A sampler that looks at no data."""
    density = jax.jit(lambda z, data: jax.lax.map(lambda point: posterior.density(point, data), z))

    def draw(data: Data, seed: int, draws: int) -> Draws:
        random = np.random.default_rng(seed)
        z = np.stack([draw_truth(lay, random) for _ in range(chains * draws)])
        found = np.asarray(density(z, data)).reshape(chains, draws)
        none = np.zeros((chains, draws), bool)
        return Draws(z.reshape(chains, draws, -1), found, -found, none, none, none, found, np.ones(chains), 0, 0, 0, 0)

    return draw


# --- cells ---------------------------------------------------------------------------------------------------


def run_cell(cell: Cell, studies: int, seed: int, work: Path) -> list[dict[str, Any]]:
    """The rows of a cell, those that are missing computed."""
    folder = write_cell(cell, work / cell.name)
    spec = load_fit_spec(folder)
    identity = {"spec": spec.digest, "model": spec.model.digest, "design": (folder / "design.toml").read_text(),
                "seed": seed, "fault": cell.fault}
    store = open_results(folder, identity)
    if not all(number in store.rows for number in range(1, studies + 1)):
        _fill(store, cell, spec, studies, seed)
    return [store.rows[number] for number in range(1, studies + 1)]


def _fill(store, cell: Cell, spec, studies: int, seed: int) -> None:
    begun = time.process_time()
    data, limits, _ = load_design_of(spec, None)
    design, asked = make_design(spec, data, limits), spec.sampler
    if design.posterior.solver.kind != "native":
        raise SystemExit(f"{cell.name}: not the native kernel but {design.posterior.solver.why}")
    settings = Settings(asked.chains, asked.warmup, asked.draws, asked.seed, asked.target_accept)
    posterior, wrong = design.posterior, {"likelihood_to_a_power": to_a_power, "jacobian_left_out": without_jacobian}
    density = wrong[cell.fault](posterior) if cell.fault in wrong else None
    if cell.fault == "sampler_returns_the_prior":
        sampler = prior_sampler(posterior, posterior.layout, settings.chains)
    else:
        sampler = make_sampler(posterior, settings, density)
    ranking = make_ranking(posterior, density)
    recast = as_observed if cell.fault == "censored_taken_as_observed" else (lambda data: data)
    collect(store, studies, lambda n: replicate(design, sampler, ranking, settings, seed, n, recast))
    spent, before = time.process_time() - begun, store.path.with_name(SECONDS)
    total = spent + (json.loads(before.read_text()) if before.exists() else 0.0)
    before.write_text(json.dumps(total))
    print(f"{cell.name}: {total:.0f} s of processor", flush=True)
    jax.clear_caches()


# --- report --------------------------------------------------------------------------------------------------


def report(args: argparse.Namespace, cells: dict[Cell, Calibration], controls: dict[Cell, Calibration]) -> str:
    """The Markdown report."""
    total = sum(len(found.names) for found in cells.values())
    judged = {cell: judge(found) for cell, found in cells.items()}
    caught = {cell: [row for row in quantity_rows(found) if row["p"] <= found.alarm]
              for cell, found in controls.items()}
    good = all(one.passed for one in judged.values()) and all(caught.values())
    alarm = next(iter(cells.values())).alarm
    lines = ["# Calibration of fits by simulation", "",
             "Made by `qualification/calibration.py`; do not edit. All studies are SIMULATED.", "",
             f"    {_command(args)}", "",
             f"- {software()}", f"- {processor()}, {os.cpu_count()} cores, {platform.platform()}",
             f"- {datetime.now(UTC):%Y-%m-%d}; "
             f"{_seconds(args.work, [*cells, *controls]) / 60:.0f} minutes of processor", "",
             f"**{'PASSED' if good else 'FAILED'}**: {sum(one.passed for one in judged.values())} of {len(cells)} "
             f"cells calibrated, {sum(map(bool, caught.values()))} of {len(controls)} planted faults found.", "",
             *_introduction(args, total, alarm), "![ranks](calibration.svg)", "", *_cells(cells, judged),
             *_controls(controls, caught), *_quantities(cells)]
    return "\n".join(lines) + "\n"


def _command(args: argparse.Namespace) -> str:
    out = args.out.resolve()
    out = out.relative_to(HERE.parent) if out.is_relative_to(HERE.parent) else out.name
    words = ["python", "qualification/calibration.py"]
    for key in ("studies", "controls", "cells", "seed"):
        words += [f"--{key}", str(getattr(args, key))]
    return shlex.join([*words, "--out", str(out)])


def _seconds(work: Path, cells: Sequence[Cell]) -> float:
    files = [work / cell.name / SECONDS for cell in cells]
    return sum(json.loads(file.read_text()) for file in files if file.exists())


def _introduction(args: argparse.Namespace, total: int, alarm: float) -> list[str]:
    n = args.studies
    low, high = uniformity.band(n, alarm)
    widest = max(np.max(high / n - uniformity.steps()), np.max(uniformity.steps() - low / n))
    return [
        f"A cell is a spec: a pool of cells in {SUBJECTS} subjects, measured on days {DAYS[1:-1]}, with a random "
        f"effect and, where it says so, a limit of quantification of {LLOQ} cells/uL or a power covariate. {n} truths "
        "are drawn from its priors, a study is simulated at each (courses to a tight tolerance, not with the steps of "
        "the fit) and fitted: the density of `thymodel fit`, native kernel, pilot, 2 chains of 100 + 150 iterations. "
        f"The truth is ranked among {KEPT} draws, thinned to independence (a run whose least bulk ESS is below {KEPT} "
        "is made longer); if density and sampler are right, ranks are uniform (Talts et al. 2018, arXiv:1804.06788). "
        "The log likelihood is ranked as well (Modrák et al. 2023, doi:10.1214/23-BA1404). Every cell has truths of "
        "its own.", "",
        "The distribution of the ranks is held against simultaneous bands (Säilynoja, Bürkner & Vehtari 2022, "
        f"doi:10.1007/s11222-022-10090-6), computed exactly. False-alarm rate: at most {FALSE_ALARM:.0%} over all "
        f"{total} quantities of all cells together (Bonferroni), {alarm:.2g} for each; at {n} studies the band is "
        f"±{widest:.3f} at its widest. Studies with divergent draws, and those that could not be thinned to "
        "independence, are counted and kept.", ""]


def _cells(cells, judged) -> list[str]:
    lines = ["## Cells", "",
             "Coverage: over the quantities of a cell, least to most (studies whose equal-tailed interval holds the "
             "truth).", "",
             "| error | LLOQ | covariate | studies with ranks | smallest p | 50% intervals | 90% intervals | "
             "divergent | dependent | verdict |", "|---|---|---|---|---|---|---|---|---|---|"]
    for cell, found in cells.items():
        rows = quantity_rows(found)
        worst = min(rows, key=lambda row: row["p"])
        spans = [[row[f"{level:.0%} interval"] / len(found.places) for row in rows] for level in LEVELS]
        shown = [f"{min(span):.2f} to {max(span):.2f}" for span in spans]
        lines.append(
            f"| {cell.error} | {'yes' if cell.limited else 'no'} | {'power' if cell.covariate else 'none'} | "
            f"{len(found.places)} of {found.studies} | {p_text(worst['p'])} ({worst['quantity']}) | {shown[0]} | "
            f"{shown[1]} | {found.divergent} | {found.dependent} | "
            f"{'calibrated' if judged[cell].passed else '**NOT calibrated**'} |")
    studies, alarm = len(found.places), found.alarm
    limits = [coverage_limits(studies, level, alarm) for level in LEVELS]
    texts = [f"{level:.0%}: {low / studies:.2f} to {high / studies:.2f}"
             for level, (low, high) in zip(LEVELS, limits, strict=True)]
    return [*lines, "", f"A right coverage lies within, at the same false-alarm rate: {'; '.join(texts)}.", ""]


def _controls(controls, caught) -> list[str]:
    lines = ["## Planted faults", "",
             "Each must be found at the same bound. A sampler that returns the prior has uniform ranks of every "
             "parameter: only the log likelihood finds it.", "",
             "| fault | in | studies with ranks | found by | smallest p | verdict |", "|---|---|---|---|---|---|"]
    for cell, found in controls.items():
        worst = min(quantity_rows(found), key=lambda row: row["p"])
        place = f"{cell.error}, {'LLOQ' if cell.limited else 'no LLOQ'}"
        place += ", wide priors" if cell.fault == "jacobian_left_out" else ""
        by = ", ".join(row["quantity"] for row in caught[cell]) or "nothing"
        lines.append(f"| {cell.fault.replace('_', ' ')} | {place} | {len(found.places)} of {found.studies} | {by} | "
                     f"{p_text(worst['p'])} ({worst['quantity']}) | {'found' if caught[cell] else '**MISSED**'} |")
    return [*lines, ""]


def _quantities(cells) -> list[str]:
    lines = ["## Quantities", "", "| cell | quantity | p of uniform ranks | mean rank | 50% interval | 90% interval |",
             "|---|---|---|---|---|---|"]
    return lines + [
        f"| {cell.name} | {row['quantity']} | {p_text(row['p'])} | {row['mean rank']:.3f} | "
        + " | ".join(f"{row[f'{level:.0%} interval']} of {len(found.places)}" for level in LEVELS) + " |"
        for cell, found in cells.items() for row in quantity_rows(found)]


def draw_matrix(cells: dict[Cell, Calibration], controls: dict[Cell, Calibration]) -> Figure:
    """A panel a cell and a planted fault: every quantity's distribution of ranks less the uniform one."""
    panels = [*cells.items(), *controls.items()]
    columns, at = 4, np.concatenate([[0.0], uniformity.steps(), [1.0]])
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.9 * columns, 0.9 + 1.9 * lines), dpi=110, layout="constrained", facecolor="white")
    for k, (cell, found) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, k + 1)
        studies = len(found.places)
        less = lambda counts, n=studies: np.concatenate([[0.0], counts / n - uniformity.steps(), [0.0]])  # noqa: E731
        low, high = uniformity.band(studies, found.alarm)
        axes.fill_between(at, less(low), less(high), color="#D9D9D9", linewidth=0, label="simultaneous band")
        for j, name in enumerate(found.names):
            counts = uniformity.ranks_below(found.places[:, j])
            outside = bool(((counts < low) | (counts > high)).any())
            likelihood = name == LOG_LIKELIHOOD
            colour = "#D55E00" if outside else "black" if likelihood else "#0072B2"
            axes.plot(at, less(counts), color=colour, linewidth=1.6 if likelihood else 0.9,
                      linestyle="dashed" if outside else "solid", alpha=0.9)
        words = [cell.error.replace("_", " "), "LLOQ" if cell.limited else "no LLOQ",
                 "power covariate" if cell.covariate else "no covariate"]
        title = f"FAULT: {cell.fault.replace('_', ' ')}" if cell.fault else ", ".join(words)
        axes.set_title(title, fontsize=7, fontweight="bold" if cell.fault else "normal")
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
        if k % columns == 0:
            axes.set_ylabel("share of studies below,\nless the rank", fontsize=6)
        if k >= len(panels) - columns:
            axes.set_xlabel("rank of the truth, 0 to 1", fontsize=6)
    figure.suptitle("Ranks of the truth, simulated studies; a line a quantity. Thick: log likelihood. Dashed, orange: "
                    "outside the band", fontsize=9, fontweight="bold")
    return figure


def main(words: Sequence[str] | None = None) -> int:
    """Runs the script; exit status 1 where a cell is not calibrated or a planted fault is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200, help="a cell")
    parser.add_argument("--controls", type=int, default=100, help="studies a planted fault")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many of the matrix, in its order")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("calibration_work"), help="results are kept here")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "qualification" / "calibration.md")
    args = parser.parse_args(words)
    asked = CELLS[:args.cells]
    rows = {cell: run_cell(cell, args.controls, args.seed, args.work) for cell in CONTROLS}
    # a seed of its own: with the same truths in all of them, all would be unlucky together
    rows |= {cell: run_cell(cell, args.studies, args.seed + k, args.work) for k, cell in enumerate(asked)}
    counted = {cell: gather(cell.name, "design.toml", found) for cell, found in rows.items()}
    total = sum(len(counted[cell].names) for cell in asked)
    shared = {cell: gather(cell.name, "design.toml", rows[cell], FALSE_ALARM * len(found.names) / total)
              for cell, found in counted.items()}
    cells, controls = {cell: shared[cell] for cell in asked}, {cell: shared[cell] for cell in CONTROLS}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = report(args, cells, controls)
    args.out.write_text(text)
    for ending in (".svg", ".png"):
        draw_matrix(cells, controls).savefig(args.out.with_suffix(ending))
    return 0 if "**PASSED**" in text else 1


if __name__ == "__main__":
    sys.exit(main())
