"""A record fitted again: the same documents and data, drawn anew, compared with every quantity of its table.

On the machine and with the versions of the record the draws are the same to the last bit. Elsewhere they are others of
the same posterior, and may differ as far as their Monte-Carlo errors allow.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import stats

from thymodel.errors import Fault, InputError
from thymodel.inference import diagnostics
from thymodel.inference.posterior import make_posterior
from thymodel.results.fitting import ROOM, Progress, derive, posterior_groups, read_posterior, simulate_arms
from thymodel.results.fitting import with_overrides as with_settings
from thymodel.results.record import FitRecord, draws_in, find_data, named_draws
from thymodel.results.study import load_study

ALARM = 0.01  # at most so often is a right record refused: Bonferroni's bound over all comparisons
_SAME = 1e-6  # relative: values that do not vary from draw to draw, between machines
_LEAST_ESS = 4.0  # fewer degrees of freedom have no tail worth a comparison
_SHARES = ((0.05, "q05"), (0.5, "median"), (0.95, "q95"))
_ODD = {"infinite": np.isinf, "not a number": np.isnan}  # at or below infinity are the draws of any posterior
Rows = Mapping[str, Float[np.ndarray, "chain draw"]]


@dataclass(frozen=True)
class Comparison:
    """One column of one quantity in both fits. `error` is the Monte-Carlo error of the difference; `p` is two-sided.

    Of a quantile both values are shares of draws at or below the recorded quantile, which exist for times that are
    never reached too. "infinite" and "not a number" are shares of such draws; "same" is the share with a recorded value
    that does not vary.
    """

    name: str
    column: str
    recorded: float
    refitted: float
    error: float
    p: float


@dataclass(frozen=True)
class Refit:
    """`identical`: the draws are the same to the last bit. `faults` is empty where the record agrees."""

    identical: bool
    comparisons: tuple[Comparison, ...]
    bound: float
    faults: tuple[Fault, ...]
    note: str


def refit(record: FitRecord, data: Path | None = None, seed: int | None = None,
          progress: Progress = Progress()) -> Refit:  # noqa: B008  (a frozen value)
    """Fits again what a record's own documents ask for, and compares.

    Args:
        data: the study data, when they are not where the record found them.
        seed: another one than the record's, for draws that are others on this machine too.

    Raises:
        InputError: the data are not at hand, or not those of the record.
    """
    spec, place = record.spec, find_data(record, data)
    if spec.has_data and place is None:
        raise InputError([Fault(str(record.folder), "cannot be fitted again: the data are not at hand",
                                "name them with --data FILE")])
    asked = {key: record.content["sampler"][key] for key in ("chains", "warmup", "draws", "seed")}
    spec = with_settings(spec, asked if seed is None else {**asked, "seed": seed})
    study, _ = load_study(spec, place if spec.has_data else None)
    posterior = make_posterior(spec, study, least_rows=ROOM)
    with tempfile.TemporaryDirectory() as folder:
        draws, posterior = read_posterior(posterior, study, Path(folder), progress, record.method)
    derived, _ = derive(posterior, study, draws, simulate_arms(posterior, study, draws))
    rows = {**named_draws(posterior_groups(posterior, draws)["posterior"]), **named_draws(derived)}
    return judge(record, draws_in(record.folder), rows, bool(np.array_equal(draws.z, record.z)))


def judge(record: FitRecord, recorded: Rows, refitted: Rows, identical: bool) -> Refit:
    """Whether two sets of draws say the same of every quantity, within Monte-Carlo error."""
    faults = [Fault(str(record.folder), f"{name}: only in the {where}")
              for name, where in [(n, "record") for n in recorded if n not in refitted]
              + [(n, "refit") for n in refitted if n not in recorded]]
    found = [each for name in recorded if name in refitted for each in _compare(name, recorded[name], refitted[name])]
    bound = ALARM / max(len(found), 1)
    away = sorted((each for each in found if each.p < bound), key=lambda each: each.p)
    faults += [Fault(str(record.folder), f"fitted again, {_told(each)}") for each in away]
    return Refit(identical, tuple(found), bound, tuple(faults), _note(identical, found, bound))


def _note(identical: bool, found: list[Comparison], bound: float) -> str:
    if identical:
        return "fitted again: the same draws to the last bit"
    if not found:
        return "fitted again: nothing to compare"
    worst = min(found, key=lambda each: each.p)
    return (f"fitted again with other draws: {len(found)} numbers compared, none may have p < {bound:.2g} (a right "
            f"record is refused at most once in {1 / ALARM:.0f}); least p {worst.p:.2g}, {_told(worst)}")


def _told(each: Comparison) -> str:
    what = {column: f"share of draws at or below the recorded {column}" for _, column in _SHARES} | {
        what: f"share of draws that are {what}" for what in _ODD} | {"same": "share of draws with the recorded value"}
    return (f"{each.name}, {what.get(each.column, each.column)}: recorded {each.recorded:.6g}, now {each.refitted:.6g} "
            f"(Monte-Carlo error of the difference {each.error:.2g})")


def _compare(name: str, old: np.ndarray, new: np.ndarray) -> list[Comparison]:
    """Mean and SD by their Monte-Carlo errors; quantiles by the shares of draws below the recorded ones."""
    if _constant(old) and _constant(new):
        a, b = float(old.flat[0]), float(new.flat[0])
        same = a == b or math.isclose(a, b, rel_tol=_SAME, abs_tol=_SAME) or math.isnan(a) and math.isnan(b)
        return [Comparison(name, "value", a, b, 0.0, 1.0 if same else 0.0)]
    found = []
    if np.isfinite(old).all() and np.isfinite(new).all() and not (_constant(old) or _constant(new)):
        rows = diagnostics.summary_row(old), diagnostics.summary_row(new)
        freedom = min(row["ess_bulk"] for row in rows)
        found += [_difference(name, key, rows[0][key], rows[1][key],
                              math.hypot(rows[0][f"mcse_{key}"], rows[1][f"mcse_{key}"]), freedom)
                  for key in ("mean", "sd")]
    odd = [(what, of(old), of(new)) for what, of in _ODD.items() if of(old).any() or of(new).any()]
    if _constant(old) and not odd:  # every draw of a wholly other posterior may lie below it
        odd = [("same", old == old.flat[0], new == old.flat[0])]
    elif np.isfinite(old).any():
        at = np.quantile(old[~np.isnan(old)], [level for level, _ in _SHARES], method="inverted_cdf")
        found += [_share(name, column, old <= value, new <= value)
                  for value, (_, column) in zip(at, _SHARES, strict=True) if np.isfinite(value)]
    return found + [_share(name, what, *held) for what, *held in odd]


def _constant(values: np.ndarray) -> bool:
    return bool((values == values.flat[0]).all()) or bool(np.isnan(values).all())


def _share(name: str, column: str, old: np.ndarray, new: np.ndarray) -> Comparison:
    """The share of draws in which something holds, such as to lie below a quantile that was itself estimated: the error
    is that of both sets of draws."""
    shares = [np.asarray(held, float) for held in (old, new)]
    a, b = (float(values.mean()) for values in shares)
    worth = [float(diagnostics.az.ess(values, method="mean")) if 0.0 < values.mean() < 1.0 else math.nan
             for values in shares]
    per_draw = [ess / values.size for ess, values in zip(worth, shares, strict=True) if math.isfinite(ess)]
    least = [ess if math.isfinite(ess) else min(per_draw, default=1.0) * values.size
             for ess, values in zip(worth, shares, strict=True)]
    middle = 0.5 * (a + b)
    error = math.sqrt(middle * (1.0 - middle) * sum(1.0 / max(ess, 1.0) for ess in least))
    return _difference(name, column, a, b, error, min(least))


def _difference(name: str, column: str, old: float, new: float, error: float, ess: float) -> Comparison:
    """Student's t stands for a normal whose spread was estimated from so many independent draws."""
    if not error > 0.0:
        return Comparison(name, column, old, new, 0.0, 1.0 if math.isclose(old, new, rel_tol=_SAME) else 0.0)
    p = 2.0 * float(stats.t.sf(abs(new - old) / error, max(ess, _LEAST_ESS) - 1.0))
    return Comparison(name, column, old, new, error, p)
