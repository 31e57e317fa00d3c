"""Operating characteristics of a randomised trial under a record: power, assurance, error rates under the null, by
number of patients and by look, every share with its Monte-Carlo error."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import binom, norm

from thymodel.documents.protocol import Analysis, Protocol, arm_sizes, load_protocol
from thymodel.errors import Fault, InputError
from thymodel.inference.boundaries import look_boundaries
from thymodel.inference.sampling import thin
from thymodel.inference.two_arms import fisher_z, logrank_z, score_z
from thymodel.results.arm_verdicts import ArmVerdicts, judge_arms
from thymodel.results.enrolment import Enrolled, enrol
from thymodel.results.record import FitRecord, quotable
from thymodel.results.scenarios import covariates_of

POSTERIOR, FIXED = "posterior", "posterior median"
PREDICTED, NULL = "as predicted", "null"
LIMITS = 0.99  # of the binomial limits: a right test is outside in 1 of 100 looks at it
_FEWEST, _MOST = 50, 100_000  # replicates: fewer say next to nothing, more fill the memory
_ROOM = 2_000_000  # patients under each truth: 32 bytes a visit, and some copies


@dataclass(frozen=True)
class Operating:
    """`table` has a row a truth, hypothesis, number of patients and quantity. `boundaries` are for Z, a look each;
    `extrapolation` says how far each arm goes beyond what the record has seen."""

    protocol: Protocol
    boundaries: tuple[float, ...]
    replicates: int
    draws: int
    seed: int
    table: pd.DataFrame
    simulated: bool
    record: str
    extrapolation: ArmVerdicts = ArmVerdicts()


def run_protocol(record: FitRecord, path: str | Path, replicates: int = 1000, seed: int = 1,
                 progress: Callable[[int, int], None] | None = None) -> Operating:
    """Trials by a protocol, with truths from a record.

    Every replicate is one trial with patients of its own. Under the truth `posterior` each has another draw of the
    posterior (assurance is the share of successes); under `posterior median` all have the coordinates' medians (power).
    Under the null hypothesis the same patients all get the control's regimen, under either truth.

    Args:
        replicates: trials under each truth. Draws are used again where there are fewer.

    Raises:
        RecordError: the record failed its gates or was changed.
        SolveError: a course could not be computed.
        InputError: every fault of the protocol.
    """
    quotable(record)
    spec, lay = record.spec, record.layout
    protocol = load_protocol(path, spec.model, spec.endpoints)
    refuse_settings(replicates, seed, max(protocol.sizes))
    if protocol.endpoint.marker not in spec.likelihood:
        raise InputError([Fault(f"{path}: analysis.endpoint", f"the fit has no residual error for its marker, "
                                f"{protocol.endpoint.marker}, so nothing is known of its assay",
                                f"use one of: {', '.join(spec.likelihood)}")])
    draws = thin(record.z, replicates)[:, :len(lay.population)]
    middle = np.median(record.z.reshape(-1, record.z.shape[-1])[:, :len(lay.population)], axis=0)
    again = np.arange(replicates) % len(draws)
    # with fewer draws than replicates those of one draw are not independent; of the one median all are
    truths = {POSTERIOR: (draws[again], again), FIXED: (np.tile(middle, (replicates, 1)), np.arange(replicates))}
    most, rows = max(protocol.sizes), list[dict[str, Any]]()
    bounds = tuple(look_boundaries(protocol.analysis.looks, protocol.analysis.level, protocol.analysis.sides,
                                   protocol.analysis.spending).tolist())
    for number, (truth, (population, draw)) in enumerate(truths.items()):
        show = None if progress is None else lambda done, total, k=number: progress(k * total + done, 2 * total)
        people = enrol(spec, lay, population, most, (protocol.control, protocol.treated), covariates_of(record),
                       protocol.endpoint, tuple(protocol.competing.values()), protocol.dropout_rate, seed + number,
                       show)
        order = np.random.default_rng([seed, number]).permuted(np.tile(np.arange(most), (replicates, 1)), axis=1)
        for hypothesis in (PREDICTED, NULL):
            for size in protocol.sizes:
                z, shares = judge(protocol, people, order, size, hypothesis == NULL)
                rows += [{"truth": truth, "hypothesis": hypothesis, "subjects": size} | row for row in
                         _rows(protocol.analysis, z, shares, bounds, size, hypothesis == NULL, draw)]
    return Operating(protocol, bounds, replicates, len(draws), seed, pd.DataFrame(rows),
                     bool(record.content["simulated"]), record.digest,
                     judge_arms(record, (protocol.control, protocol.treated),
                                  {protocol.endpoint.name: protocol.endpoint}))


def refuse_settings(replicates: int, seed: int, patients: int = 1) -> None:
    """Too few trials, more of so many patients than fit into memory, or a seed that is none."""
    faults = []
    if not _FEWEST <= replicates <= _MOST:
        faults.append(Fault("--replicates", f"{replicates}, and from {_FEWEST} to {_MOST} was expected",
                            "1000 have a standard error of 1.6 percentage points or less"))
    elif replicates * patients > _ROOM:
        faults.append(Fault("--replicates", f"{replicates} trials of {patients} patients do not fit into memory",
                            f"ask for {_ROOM // patients} at most, or for fewer patients"))
    if not 0 <= seed < 2**32 - 1:
        faults.append(Fault("--seed", f"{seed} is not a whole number from 0 to 2**32 - 2"))
    if faults:
        raise InputError(faults)


def judge(protocol: Protocol, people: Enrolled, order: Int[np.ndarray, "trial patient"], size: int,
          null: bool) -> tuple[Float[np.ndarray, "trial look"], Float[np.ndarray, "trial arm"]]:
    """Z at each look, and the share of each arm that reached the endpoint, of trials of so many patients.

    At a look the first part of the patients has been followed to the end. Who left, or had a competing event, before
    the endpoint was shown has not reached it (`score`, `fisher`) or is censored then (`logrank`, cause-specific).

    Args:
        people: arm 0 is the control's regimen, arm 1 the treatment's.
        order: places of patients as they are enrolled; the control's from the front, the treated from the back.
        null: whether the treated get the control's regimen too.
    """
    analysis, endpoint = protocol.analysis, protocol.endpoint
    z, shares = [], np.empty((len(order), 2))
    trials = np.arange(len(order))[:, None]
    for look in analysis.looks:
        n0, n1 = arm_sizes(round(size * look), protocol.share)
        first, second = order[:, :n0], order[:, ::-1][:, :n1]
        regimen = 0 if null else 1
        shown = np.concatenate([people.shown[0][trials, first], people.shown[regimen][trials, second]], axis=1)
        last = np.concatenate([people.last[0][trials, first], people.last[regimen][trials, second]], axis=1)
        reached = shown <= analysis.day - endpoint.clock_start
        x0, x1 = reached[:, :n0].sum(axis=1), reached[:, n0:].sum(axis=1)
        if analysis.test == "logrank":
            z.append(logrank_z(np.where(reached, shown, last), reached, np.arange(n0 + n1) >= n0))
        else:
            z.append((score_z if analysis.test == "score" else fisher_z)(x1, n1, x0, n0))
        shares = np.stack([x0 / n0, x1 / n1], axis=1)
    return np.stack(z, axis=1), shares


def first_crossing(z: Float[np.ndarray, "trial look"], bounds: tuple[float, ...],
                   sides: int) -> tuple[Int[np.ndarray, " trial"], Int[np.ndarray, " trial"]]:
    """Look at which each trial stops (the last one's number where none is crossed), and 1, -1 or 0: for the treatment,
    against it, or neither."""
    up, down = z >= np.array(bounds), (z <= -np.array(bounds)) & (sides == 2)
    crossed = up | down
    place = np.where(crossed.any(axis=1), np.argmax(crossed, axis=1), z.shape[1] - 1)
    rows = np.arange(len(z))
    return place, up[rows, place].astype(int) - down[rows, place].astype(int)


def _rows(analysis: Analysis, z, shares, bounds, size: int, null: bool, draw: Int[np.ndarray, " trial"]):
    place, verdict = first_crossing(z, bounds, analysis.sides)
    rejected = (verdict != 0) if null else (verdict > 0)
    name = "P(false rejection)" if null else "P(success)"
    low, high = error_limits(len(z), analysis.level)
    note = f"a right test: {low:.3g} to {high:.3g} in {LIMITS:.0%} of simulations" if null else ""
    rows = [share_row(name, rejected, draw, note)]
    if analysis.sides == 2 and not null:
        rows.append(share_row("P(shown worse than the control)", verdict < 0, draw))
    if len(bounds) > 1:
        rows += [share_row(f"{name} at look {k + 1}, {100 * look:g}% of the patients", rejected & (place == k), draw)
                 for k, look in enumerate(analysis.looks)]
        enrolled = np.array([round(size * look) for look in analysis.looks])[place].astype(float)
        rows.append(mean_row("mean patients enrolled", enrolled, draw))
    rows += [mean_row(f"share reached, {arm}", shares[:, k], draw)
             for k, arm in enumerate(("control", "treated as control" if null else "treated"))]
    return rows


def standard_error(values: Float[np.ndarray, " trial"], draw: Int[np.ndarray, " trial"]) -> float:
    """Monte-Carlo standard error of a mean over trials, of which those of one draw count as one."""
    count = np.bincount(draw)
    if len(count) == len(values):
        return float(values.std(ddof=1) / np.sqrt(len(values)))
    by_draw = np.bincount(draw, values) / count
    return float(by_draw.std(ddof=1) / np.sqrt(len(count)))


def error_limits(replicates: int, level: float) -> tuple[float, float]:
    """Between which shares of false rejections a test of exactly this level stays, in `LIMITS` of simulations."""
    low, high = binom.interval(LIMITS, replicates, level)
    return float(low / replicates), float(high / replicates)


def share_row(name: str, happened, draw, note: str = "") -> dict[str, Any]:
    """A row of a probability, with Wilson's score interval, which does not collapse at 0 and 1, for the number of
    independent trials that would have its standard error (at 0 and 1: of draws)."""
    values = happened.astype(float)
    p, se = values.mean(), standard_error(values, draw)
    count = min(p * (1 - p) / se**2, len(values)) if se > 0 else len(np.unique(draw))
    q = norm.isf(0.025)
    middle = (p + q**2 / (2 * count)) / (1 + q**2 / count)
    half = q / (1 + q**2 / count) * np.sqrt(p * (1 - p) / count + q**2 / (4 * count**2))
    return {"quantity": name, "estimate": p, "mcse": se, "lower": max(middle - half, 0.0),
            "upper": min(middle + half, 1.0), "note": note}


def mean_row(name: str, values, draw) -> dict[str, Any]:
    """A row of a mean over trials."""
    se = standard_error(values, draw)
    return {"quantity": name, "estimate": values.mean(), "mcse": se, "lower": values.mean() - 1.96 * se,
            "upper": values.mean() + 1.96 * se, "note": ""}


# --- what people read ----------------------------------------------------------------------------------------


def describe_analysis(found: Operating) -> list[str]:
    """The trial and how it is judged, in sentences."""
    protocol, analysis = found.protocol, found.protocol.analysis
    n0, n1 = arm_sizes(protocol.subjects, protocol.share)
    test = {"score": "difference of the shares reconstituted, score test (Farrington-Manning, margin 0)",
            "fisher": "difference of the shares reconstituted, Fisher's exact test",
            "logrank": "time to the visit that shows it, log-rank test, competing events and leaving censored"}
    day = "" if protocol.endpoint.landmark else f" by day {analysis.day:g}"
    looks = "one look, at the end" if len(analysis.looks) == 1 else (
        f"{len(analysis.looks)} looks at " + ", ".join(f"{100 * look:g}%" for look in analysis.looks)
        + f" of the patients, spending of {analysis.spending.replace('_', '-')} type (Lan-DeMets)")
    return [f"{n1} patients on {protocol.treated.label}, {n0} on {protocol.control.label}; endpoint "
            f"{protocol.endpoint.label or protocol.endpoint.name}{day}, as visits show it",
            f"{test[analysis.test]}; {'one-sided' if analysis.sides == 1 else 'two-sided'} level {analysis.level:g}; "
            f"{looks}; Z to reach: {', '.join(f'{value:.3f}' for value in found.boundaries)}",
            f"{found.replicates} trials under each truth, new patients in each; seed {found.seed}; {found.draws} draws "
            "of the posterior; 95% intervals are of the simulation alone"]


def operating_rows(found: Operating) -> list[dict[str, str]]:
    """The table of the protocol's own size, as text."""
    own = found.table[found.table["subjects"] == found.protocol.subjects]
    return [{"truth": row["truth"], "hypothesis": row["hypothesis"], "quantity": row["quantity"],
             "estimate": _text(row, "estimate"), "MC SE": f"{row['mcse']:.2g}",
             "95% interval": f"{_text(row, 'lower')} to {_text(row, 'upper')}", "note": row["note"]}
            for _, row in own.iterrows()]


def _text(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:.1f}" if row["quantity"].startswith("mean") else f"{row[key]:.3f}"


def curve_rows(found: Operating) -> list[dict[str, str]]:
    """Power, assurance and false rejections against the number of patients."""
    rows = []
    for size in found.protocol.sizes:
        own = found.table[found.table["subjects"] == size].set_index(["truth", "hypothesis", "quantity"])
        cell = lambda *key, own=own: f"{own.loc[key, 'estimate']:.3f} ({own.loc[key, 'mcse']:.3f})"  # noqa: E731
        rows.append({"patients": str(size), "assurance": cell(POSTERIOR, PREDICTED, "P(success)"),
                     "power at the posterior median": cell(FIXED, PREDICTED, "P(success)"),
                     "false rejections, posterior": cell(POSTERIOR, NULL, "P(false rejection)"),
                     "at the median": cell(FIXED, NULL, "P(false rejection)")})
    return rows


def as_json(found: Operating) -> str:
    """Everything, for programs."""
    return json.dumps({
        "title": found.protocol.title, "protocol_sha256": found.protocol.digest, "record": found.record,
        "simulated": found.simulated, "replicates": found.replicates, "draws": found.draws, "seed": found.seed,
        "looks": found.protocol.analysis.looks, "boundaries": found.boundaries,
        "extrapolation": found.extrapolation.in_json,
        "rows": json.loads(found.table.to_json(orient="records"))}, indent=1, allow_nan=False)
