"""Simulation-based calibration of a fit spec: are its intervals what they say, over studies drawn from its own priors?

A results file grows by a line a study, so that a run that was stopped goes on where it was.
"""

import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

import thymodel
from thymodel.documents.borrowed import borrowed_text
from thymodel.documents.data import StudyData, load_data
from thymodel.documents.design import Design as TrialDesign
from thymodel.documents.design import load_design
from thymodel.documents.priors import Prior
from thymodel.documents.spec import FitSpec, load_fit_spec
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError
from thymodel.inference import uniformity
from thymodel.inference.replicates import (
    KEPT,
    Replicate,
    make_design,
    make_ranking,
    make_sampler,
    replicate,
)
from thymodel.inference.sampling import Settings
from thymodel.results.fitting import with_overrides
from thymodel.results.record import with_prior_from
from thymodel.results.study import load_study
from thymodel.results.trial import save_trial, simulate_trial

REPLICATES, SUMMARY, FIGURE = "replicates.jsonl", "calibration.json", "calibration"
FALSE_ALARM = 0.05  # of the verdict, over all its quantities (Bonferroni)
MOST_UNRANKED = 0.01  # share of the studies without ranks
LEVELS = (0.5, 0.9)  # of the intervals whose coverage is told
FEWEST = 20  # studies: of fewer no band says anything
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#767676"  # Okabe & Ito 2008, as in the other figures


@dataclass(frozen=True)
class Calibration:
    """Ranks of the truth over studies, as numbers between 0 and 1: array (study, quantity).

    `unranked` are the reasons of studies that have none; `divergent` and `dependent` count studies with a divergent
    draw, and with draws that could not be thinned to independence: their ranks are kept.
    """

    title: str
    source: str
    names: tuple[str, ...]
    places: np.ndarray
    unranked: tuple[str, ...]
    divergent: int
    dependent: int
    false_alarm: float = FALSE_ALARM

    @property
    def studies(self) -> int:
        return len(self.places) + len(self.unranked)

    @property
    def alarm(self) -> float:
        """False-alarm rate of each quantity by itself."""
        return self.false_alarm / max(len(self.names), 1)


@dataclass(frozen=True)
class Judgement:
    passed: bool
    sentences: tuple[str, ...]


def calibrate(spec_path: str | Path, replicates: int, data_path: str | Path | None = None, seed: int = 1,
              out: str | Path | None = None, overrides: dict[str, int | None] | None = None,
              progress: Callable[[int, int], None] = lambda done, total: None) -> Calibration:
    """Draws studies of the spec's own design, fits each with the spec, and ranks their truths.

    The design is that of the data or, where there are none yet, of the `design.toml` beside the spec.

    Args:
        out: directory for the results; a run found there is continued.
        overrides: chains, warmup or draws in place of the spec's.

    Raises:
        InputError: every fault of spec, model, data or design; results of another run in `out`.
    """
    if replicates < FEWEST:
        raise InputError([Fault("--replicates", f"{replicates} studies say nothing about calibration",
                                f"give {FEWEST} or more; 200 tell a coverage of 90% from one of 83%")])
    spec = with_overrides(with_prior_from(load_fit_spec(spec_path)), overrides or {})
    _refuse_estimated_covariates(spec)
    data, limits, source = load_design_of(spec, data_path)
    store = open_results(out, _identity(spec, data, limits, seed))
    design, asked = make_design(spec, data, limits), spec.sampler
    settings = Settings(asked.chains, asked.warmup, asked.draws, asked.seed, asked.target_accept)
    sampler, ranking = make_sampler(design.posterior, settings), make_ranking(design.posterior)
    rows = collect(store, replicates, lambda number: replicate(design, sampler, ranking, settings, seed, number),
                   progress)
    found = gather(spec.title, source, rows)
    if out is not None:
        save(found, Path(out))
    return found


def _refuse_estimated_covariates(spec: FitSpec) -> None:
    """Studies are drawn with the covariates of the design; a fit that learns their distribution asks for others."""
    faults = [Fault(f"{spec.path}: {item.section}.{name}", "its distribution is "
                    f"{'discrete' if item.levels else 'estimated'}, which the studies drawn here cannot follow",
                    "state one that is continuous, in numbers")
              for name, item in spec.missing_covariates.items()
              if item.levels or any(isinstance(value, Prior) for value in item.numbers.values())]
    if faults:
        raise InputError(faults)


def load_design_of(spec: FitSpec, data_path: str | Path | None,
                   ) -> tuple[StudyData, dict[str, tuple[float, float]] | None, str]:
    """The study whose design is used, limits that its file does not show, and where it is from."""
    beside = spec.path.parent / "design.toml"
    if data_path is not None or (spec.path.parent / spec.data_file).is_file() or not beside.is_file():
        data, file = load_study(spec, data_path)
        return data, None, str(file)
    design = load_design(beside)
    return _one_trial(spec, design), _limits(design), str(beside)


def _one_trial(spec: FitSpec, design: TrialDesign) -> StudyData:
    """Visits, doses and covariates as one simulated study has them."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / spec.data_file
        table.parent.mkdir(parents=True, exist_ok=True)
        save_trial(simulate_trial(design, spec.sampler.seed), table)
        return load_data(table, spec.model, spec.columns)


def _limits(design: TrialDesign) -> dict[str, tuple[float, float]]:
    """In the observables' units; a limit in events is a sample's own, and left to the study."""
    scale = {name: 1.0 if assay.scale is None else assay.scale.value for name, assay in design.assays.items()}
    return {name: (assay.lloq / scale[name], assay.uloq / scale[name]) for name, assay in design.assays.items()
            if assay.event_limit is None}


def _identity(spec: FitSpec, data: StudyData, limits: Any, seed: int) -> dict[str, Any]:
    """What the ranks depend on."""
    return {"spec": spec.digest, "model": spec.model.digest, "data": data.digest,
            "limits": digest(json.dumps(limits, sort_keys=True)), "seed": seed,
            "sampler": spec.sampler.model_dump(), "software": software(),
            **({"prior_from": digest(borrowed_text(spec.borrowed))} if spec.borrowed is not None else {})}


def software() -> str:
    """What computes, as it is written beside results."""
    return (f"thymodel {thymodel.__version__}, Python {platform.python_version()}, JAX {jax.__version__}, "
            f"NumPy {np.__version__}")


# --- a results file that grows -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """Lines of JSON, a study each, below one that says what they belong to; in memory only where there is no file."""

    path: Path | None
    rows: dict[int, dict[str, Any]]

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["number"]] = row
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")


def open_results(out: str | Path | None, identity: dict[str, Any]) -> Results:
    """The results of a run, begun or continued; a last line that was not finished is done again.

    Raises:
        InputError: results of another run, a damaged file, a place that cannot be written to.
    """
    if out is None:
        return Results(None, {})
    path = Path(out) / REPLICATES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        head, *lines = whole.splitlines() or [""]
        if not head:
            whole = json.dumps(identity) + "\n"
        elif differences := _differences(_parsed(path, 1, head), identity):
            raise InputError([Fault(str(path), f"results of another run: not the same {', '.join(differences)}",
                                    "use another --out, or delete this file")])
        if whole != text:
            path.write_text(whole, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([Fault(str(path), f"cannot be read and written: {error}", "use another --out")]) from None
    rows = [_parsed(path, k + 2, line) for k, line in enumerate(lines)]
    return Results(path, {row["number"]: row for row in rows})


def _parsed(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        if isinstance(found, dict) and (line == 1 or {"number", *Replicate._fields} <= set(found)):
            return found
    except ValueError:
        pass
    raise InputError([Fault(f"{path}: line {line}", "not a line of calibration results", "delete the file")])


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [key for key, value in json.loads(json.dumps(now)).items() if there.get(key) != value]


def collect(store: Results, studies: int, run: Callable[[int], Replicate],
            progress: Callable[[int, int], None] = lambda done, total: None) -> list[dict[str, Any]]:
    """The rows of the first so many studies; those that are missing are run."""
    for number in range(1, studies + 1):
        if number not in store.rows:
            start = time.perf_counter()
            store.add({"number": number, **_row(run(number)), "seconds": round(time.perf_counter() - start, 3)})
        progress(number, studies)
    return [store.rows[number] for number in range(1, studies + 1)]


def _row(found: Replicate) -> dict[str, Any]:
    row = found._asdict()
    return row | {key: row[key] if math.isfinite(row[key]) else None for key in ("rhat", "worth")}


def gather(title: str, source: str, rows: Sequence[dict[str, Any]], false_alarm: float = FALSE_ALARM) -> Calibration:
    """Rows of a results file as arrays."""
    ranked = [row for row in rows if not row["why"]]
    names = tuple(ranked[0]["places"]) if ranked else ()
    return Calibration(
        title, source, names, np.array([[row["places"][name] for name in names] for row in ranked]),
        tuple(row["why"] for row in rows if row["why"]), sum(row["divergences"] > 0 for row in ranked),
        sum(row["worth"] is None or row["worth"] < KEPT for row in ranked), false_alarm)


# --- verdict -------------------------------------------------------------------------------------------------


def quantity_rows(found: Calibration) -> list[dict[str, Any]]:
    """Of each quantity: p value of uniform ranks, and how many of its intervals hold the truth."""
    rows = []
    for k, name in enumerate(found.names):
        places = found.places[:, k]
        row = {"quantity": name, "p": uniformity.p_value(places), "mean rank": float(places.mean())}
        rows.append(row | {f"{level:.0%} interval": int(_covered(places, level).sum()) for level in LEVELS})
    return rows


def p_text(p: float) -> str:
    """A p value in words: below 1e-12 it is rounding."""
    return f"{p:.2g}" if p > 1e-12 else "below 1e-12"


def _covered(places: np.ndarray, level: float) -> np.ndarray:
    """Whether the truth lies in the equal-tailed interval: its rank between the tails."""
    return np.abs(places - 0.5) < 0.5 * level


def coverage_limits(studies: int, level: float, alarm: float) -> tuple[int, int]:
    """Least and largest count of covered studies; outside lies a right coverage with at most that probability."""
    counts = np.arange(studies + 1)
    likely = np.minimum(stats.binom.cdf(counts, studies, level), stats.binom.sf(counts - 1, studies, level)) > alarm / 2
    return int(counts[likely][0]), int(counts[likely][-1])


def judge(found: Calibration) -> Judgement:
    """The verdict in words. Ranks decide; every study counts, those without ranks as faults."""
    if len(found.places) < FEWEST:
        why = f"FAIL: only {len(found.places)} of {found.studies} studies have ranks"
        return Judgement(False, (why, *_reasons(found)))
    rows = quantity_rows(found)
    worst = min(rows, key=lambda row: row["p"])
    outside = [row["quantity"] for row in rows if row["p"] <= found.alarm]
    ranks = (f"ranks of {len(rows)} quantities over {len(found.places)} studies: smallest p {p_text(worst['p'])} "
             f"({worst['quantity']}), bound {found.alarm:.2g}")
    if outside:
        ranks += f"; not uniform: {', '.join(outside)}"
    few = len(found.unranked) <= MOST_UNRANKED * found.studies
    checks = [(not outside, ranks),
              (few, f"{len(found.unranked)} of {found.studies} studies without ranks, allowed {MOST_UNRANKED:.0%}")]
    sentences = [f"{'pass' if good else 'FAIL'}: {text}" for good, text in checks]
    notes = [f"note: a calibrated spec raises a false alarm with probability {found.false_alarm:.0%} at most, over all "
             "its quantities (Bonferroni)",
             f"note: {found.divergent} studies had divergent draws and {found.dependent} fewer than {KEPT} independent "
             "ones; all are counted"]
    return Judgement(all(good for good, _ in checks), (*sentences, *notes, *_reasons(found)))


def _reasons(found: Calibration) -> list[str]:
    return [f"note: without ranks: {why}" for why in dict.fromkeys(found.unranked)]


def as_json(found: Calibration) -> str:
    """What `thymodel calibrate --json` prints."""
    verdict = judge(found)
    limits = {f"{level:.0%}": coverage_limits(len(found.places), level, found.alarm) for level in LEVELS}
    content = {"title": found.title, "design": found.source, "simulated": True,
               "verdict": {"passed": verdict.passed, "sentences": list(verdict.sentences)},
               "studies": found.studies, "ranked": len(found.places), "divergent": found.divergent,
               "dependent": found.dependent, "false_alarm": found.false_alarm, "kept_draws": KEPT,
               "coverage_limits": limits, "quantities": quantity_rows(found) if len(found.places) else []}
    return json.dumps(content, indent=1)


# --- figure --------------------------------------------------------------------------------------------------


def plot_ranks(found: Calibration) -> Figure:
    """A panel a quantity: the distribution of its ranks less the uniform one, in the band that a right one leaves with
    the false-alarm rate of each quantity. Lines that leave it are red and dashed."""
    studies, at = len(found.places), uniformity.steps()
    columns = min(4, max(len(found.names), 1))
    lines = math.ceil(len(found.names) / columns)
    figure = Figure(figsize=(2.7 * columns, 1.0 + 2.0 * lines), dpi=110, layout="constrained", facecolor="white")
    low, high = uniformity.band(studies, found.alarm)
    edges = np.concatenate([[0.0], at, [1.0]])
    for k, name in enumerate(found.names):
        axes = figure.add_subplot(lines, columns, k + 1)
        counts = uniformity.ranks_below(found.places[:, k])
        outside = bool(((counts < low) | (counts > high)).any())
        axes.fill_between(edges, _less(low, studies), _less(high, studies), color="#D9D9D9", linewidth=0,
                          label=f"band of uniform ranks, false alarm {found.false_alarm:.0%} over all panels")
        axes.axhline(0, color=_GREY, linewidth=0.7)
        axes.plot(edges, _less(counts, studies), color=_RED if outside else _BLUE, linewidth=1.4,
                  linestyle="dashed" if outside else "solid")
        axes.set_title(name + (" (outside)" if outside else ""), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if k % columns == 0:
            axes.set_ylabel("share of studies below,\nless the rank", fontsize=7)
        if k >= len(found.names) - columns:
            axes.set_xlabel("rank of the truth, 0 to 1", fontsize=7)
    figure.suptitle(f"{found.title}: {studies} simulated studies", fontsize=9, fontweight="bold")
    if found.names:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=7, frameon=False)
    return figure


def _less(counts: np.ndarray, studies: int) -> np.ndarray:
    return np.concatenate([[0.0], counts / studies - uniformity.steps(), [0.0]])


def save(found: Calibration, folder: Path) -> None:
    """Summary and figure beside the results."""
    try:
        (folder / SUMMARY).write_text(as_json(found) + "\n", encoding="utf-8")
        if len(found.places):
            for ending in (".svg", ".png"):
                plot_ranks(found).savefig(folder / f"{FIGURE}{ending}")
    except OSError as error:
        raise InputError([Fault(str(folder), f"cannot be written: {error.strerror}", "use another --out")]) from None
