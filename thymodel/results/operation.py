"""Checks of operation: does the installed program compute what it must, and refuse what it must?

Everything here has an answer of its own: a closed form, the other solver, a law, a posterior that quadrature gives.
Tolerances follow from the accuracy asked of the solvers, or from the Monte-Carlo error of the draws.
"""

import math
import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Float

from thymodel.documents.endpoint import Endpoint
from thymodel.documents.measurement import ErrorModel
from thymodel.documents.model import Model, load_model, parse_model, shipped_models
from thymodel.documents.regimen import Dose
from thymodel.documents.spec import load_fit_spec
from thymodel.documents.toml import digest
from thymodel.dynamics import solving
from thymodel.errors import InputError, RecordError
from thymodel.inference import diagnostics
from thymodel.inference.likelihood import log_likelihood
from thymodel.inference.posterior import Posterior, make_posterior
from thymodel.results import installation
from thymodel.results import record as records
from thymodel.results.checklist import Check, Finding, some
from thymodel.results.endpoints import crossing_times
from thymodel.results.fitting import fit
from thymodel.results.record import FitRecord, load_record
from thymodel.results.simulation import simulate
from thymodel.results.study import load_study

_MCSE = 4.0  # Monte-Carlo errors within which draws must agree with an exact posterior
_SOLVED = 1e-6  # part of the largest value: courses are solved to a local tolerance of 1e-8, which adds up over steps
_PRIOR_SD = 0.5  # of log x0 and of log sigma
_SEED = 20
_MODEL = """
title = "Decay of one pool of cells"
description = "Cells are lost at the rate k; an infusion adds to them."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "made up for the self-test" }
k = { unit = "1/day", value = 0.1, prior = "normal(mean=0.1, sd=0.05)", source = "made up for the self-test" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
label = "cells in blood"
unit = "cell/uL"
value = "x"
"""
_SPEC = """
title = "Self-test: decay of one pool"
purpose = "A posterior that is known by other means. Made-up numbers; nothing follows from them."
model = "decay.toml"
simulated = true
estimate = ["x0", "k"]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", cells = "cell/uL" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.5)", source = "made up for the self-test" }} }}
[solver]
rtol = 1e-9
atol = 1e-12
[sampler]
seed = {seed}
chains = 2
warmup = 200
draws = 1000
"""
_DAYS = (1.0, 2.0, 4.0, 7.0, 10.0, 14.0, 18.0, 22.0)
_COUNTS = (99.0, 70.0, 78.0, 42.0, 41.0, 19.0, 21.0, 9.5)  # made up


class Workshop:
    """A folder for what checks write; the tiny fit is made by the first check that asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> Model:
        return parse_model(_MODEL, "selftest", "decay")

    @cached_property
    def study(self) -> Path:
        folder = self.folder / "study"
        folder.mkdir()
        rows = [f"1,{day:g},0,.,.,count,{count:g},0,0" for day, count in zip(_DAYS, _COUNTS, strict=True)]
        text = "\n".join(["ID,TIME,EVID,CMT,AMT,DVID,DV,CENS,MDV", *rows, ""])
        (folder / "decay.toml").write_text(_MODEL, encoding="utf-8")
        (folder / "study.csv").write_text(text, encoding="utf-8")
        (folder / "spec.toml").write_text(_SPEC.format(digest=digest(text), seed=_SEED), encoding="utf-8")
        return folder

    @cached_property
    def posterior(self) -> Posterior:
        spec = load_fit_spec(self.study)
        return make_posterior(spec, load_study(spec, None)[0])

    @cached_property
    def record(self) -> FitRecord:
        return fit(self.study, out=self.folder / "record")

    def copy(self, name: str) -> Path:
        """A copy of the record, to be damaged."""
        return Path(shutil.copytree(self.record.folder, self.folder / name, dirs_exist_ok=True))


# --- solving -------------------------------------------------------------------------------------------------


def _closed_form(place: Workshop) -> Finding:
    """x0 exp(-k t), and an infusion of A at s adds A exp(-k (t - s)) after s, not at s."""
    times, (x0, k), (day, amount) = np.linspace(0.0, 30.0, 31), (100.0, 0.1), (8.0, 50.0)
    course = simulate(place.model, list(times), [Dose(day, "cells", amount)])["count"].to_numpy()
    exact = x0 * np.exp(-k * times) + np.where(times > day, amount * np.exp(-k * (times - day)), 0.0)
    return _near(np.max(np.abs(course / exact - 1.0)), _SOLVED, "largest relative error")


def _near(error: float, bound: float, name: str) -> Finding:
    return Finding(f"{name} {error:.2g}", bool(error <= bound))


def _both_solvers(_: Workshop) -> Finding:
    model = load_model("thymus_core")
    names = ["cd4", "cd8", "rte4"]
    if installation.kernel_trouble(model, tuple(names)) is not None:
        return Finding("the native kernel does not work here, and diffrax has nothing to be compared with", None)
    values = {name: item.value for name, item in model.parameters.items()}
    courses = {name: ((model.start, item.value),) for name, item in model.covariates.items()}
    schedule = solving.plan(model, [Dose(7.0, "progenitors", 9.0)], courses, [7.0, 30.0, 100.0, 365.0])
    one, other = (solving.trajectories(model, values, [schedule], names, kind=kind)[0] for kind in ("native", "jax"))
    return _near(np.max(np.abs(one - other) / np.max(np.abs(other), axis=0)), _SOLVED,
                 "largest difference, of the largest value,")


def _every_model(_: Workshop) -> Finding:
    wrong, files = [], shipped_models()
    for name in files:
        course = simulate(name, [10.0, 100.0, 365.0]).drop(columns="time").to_numpy()
        if not np.isfinite(course).all() or (course < -_SOLVED * np.max(np.abs(course), axis=0)).any():
            wrong.append(name)
    return Finding(f"not finite, or negative: {some(wrong)}" if wrong else f"{len(files)} models over a year",
                   not wrong)


def _laws(place: Workshop) -> Finding:
    """Of doses, whatever the numbers: of thymus_core, and of the pool, where a dose is seen at once."""
    days, names = [30.0, 100.0, 365.0], ["cd4", "cd8", "rte4"]

    def course(*doses: Dose) -> Float[np.ndarray, "time observable"]:
        return simulate("thymus_core", days, doses, observe=names).drop(columns="time").to_numpy()

    def pool(*doses: Dose) -> Float[np.ndarray, " time"]:
        return simulate(place.model, [0.0, 7.5, 8.0, 8.001], doses)["count"].to_numpy()

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.max(np.abs(one - other) / np.max(np.abs(other), axis=0)))

    none, one = course(), course(Dose(7.0, "progenitors", 9.0))
    halves = course(Dose(7.0, "progenitors", 4.5), Dose(7.0, "progenitors", 4.5))
    without, given = pool(), pool(Dose(8.0, "cells", 50.0))
    laws = {"a dose of nothing is none": apart(course(Dose(7.0, "progenitors", 0.0)), none) <= _SOLVED,
            "two halves at once are one dose": apart(halves, one) <= _SOLVED,
            "nothing happens before a dose, nor at its time": apart(given[:3], without[:3]) <= _SOLVED,
            "a dose does something": apart(one, none) > 1e-3 and given[3] - without[3] > 49.9}
    broken = [law for law, holds in laws.items() if not holds]
    return Finding(f"broken: {'; '.join(broken)}" if broken else f"{len(laws)} of {len(laws)} hold", not broken)


def _refusal(_: Workshop) -> Finding:
    """Faults of three kinds, a document each, for a reader that finds one kind may stop before the next."""
    faulty = {"states.x.rate: no such name": _MODEL.replace('rate = "-k*x"', 'rate = "-k*x + nobody"'),
              "states.x.rate": _MODEL.replace('rate = "-k*x"', 'rate = "-x"'),
              "parameters.x0.source": _MODEL.replace(', source = "made up for the self-test"', "", 1)}
    missed = [place for place, text in faulty.items() if place.split(":")[0] not in _faults(text)]
    return Finding(f"accepted, or not named: {some(missed)}" if missed
                   else "an unknown name, a unit that does not fit and a missing source: refused, each by its key",
                   not missed)


def _faults(text: str) -> str:
    try:
        parse_model(text, "selftest", "decay")
    except InputError as error:
        return str(error)
    return ""


def _endpoints(_: Workshop) -> Finding:
    """Growth at 1% a day crosses twice its start on day ln 2/0.01; a course that dips too early is not counted."""
    endpoint = Endpoint("back", "count", 100.0, "cell/uL", 365.0, "", "", 14.0, 0.0, True, ())
    days = np.arange(366.0)
    growing, short = 50.0 * np.exp(0.01 * days), np.where((days > 99) & (days < 110), 200.0, 50.0)
    found = crossing_times(endpoint, days, np.stack([growing, short, np.full(366, 50.0)]))
    wanted = math.log(2.0) / 0.01
    bound = 0.01 / 8.0 * 1.1  # days: what a straight line between two days leaves of a curve of that growth
    good = abs(found[0] - wanted) <= bound and np.isinf(found[1:]).all()
    return Finding(f"day {found[0]:.3f} (exact {wanted:.3f}); a short rise and none: "
                   f"{', '.join('never' if np.isinf(t) else f'day {t:g}' for t in found[1:])}", bool(good))


# --- inference -----------------------------------------------------------------------------------------------


def _censoring(_: Workshop) -> Finding:
    error = ErrorModel("count", "additive", {}, {}, 0.0, 0.0)
    value, middle, sd = np.array([8.0, 8.0, 8.0]), np.array([10.0, 3.0, 14.0]), 2.0
    found = log_likelihood(error, {"additive": jnp.asarray(sd)}, jnp.asarray(middle), jnp.asarray(value),
                           jnp.array([0, 1, -1]), None)
    normal = scipy.stats.norm(middle, sd)
    exact = [normal.logpdf(value)[0], normal.logcdf(value)[1], normal.logsf(value)[2]]
    return _near(np.max(np.abs(np.asarray(found) - exact)), 1e-12, "largest difference from scipy")


def _gradient(place: Workshop) -> Finding:
    posterior, z, step = place.posterior, np.array([0.3, -0.4, 0.2]), 1e-4
    density = jax.jit(jax.value_and_grad(posterior.log_density))
    slopes = np.asarray(density(jnp.asarray(z))[1])
    differences = [(float(density(jnp.asarray(z + step * e))[0]) - float(density(jnp.asarray(z - step * e))[0]))
                   / (2 * step) for e in np.eye(len(z))]
    return _near(np.max(np.abs(slopes - differences) / (1.0 + np.abs(slopes))), 1e-5,
                 "largest relative difference from central differences")


class Moments(NamedTuple):
    mean: Float[np.ndarray, " quantity"]
    sd: Float[np.ndarray, " quantity"]


def exact_moments() -> Moments:
    """Posterior of log x0, k and log sigma of the tiny study: normal given sigma, and sigma by quadrature.

    log count = log x0 - k t + e with e ~ normal(0, sigma), log x0 and k normal: given sigma conjugate (Gelman et al.
    2013, Bayesian Data Analysis, 3rd ed., section 14.8); log sigma is normal a priori and lies on a line.
    """
    design = np.column_stack([np.ones(len(_DAYS)), -np.array(_DAYS)])
    center, spread = np.array([math.log(100.0), 0.1]), np.diag([_PRIOR_SD**2, 0.05**2])
    logs = np.linspace(math.log(0.2) - 4.0, math.log(0.2) + 4.0, 801)
    weights, means, covariances = np.empty(len(logs)), np.empty((len(logs), 2)), np.empty((len(logs), 2, 2))
    y = np.log(_COUNTS)
    for row, log_sigma in enumerate(logs):
        noise = math.exp(2 * log_sigma)
        marginal = scipy.stats.multivariate_normal(design @ center, design @ spread @ design.T + noise * np.eye(len(y)))
        weights[row] = marginal.logpdf(y) + scipy.stats.norm(math.log(0.2), _PRIOR_SD).logpdf(log_sigma)
        covariances[row] = np.linalg.inv(np.linalg.inv(spread) + design.T @ design / noise)
        means[row] = covariances[row] @ (np.linalg.solve(spread, center) + design.T @ y / noise)
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    mean, log_mean = weights @ means, float(weights @ logs)
    variance = weights @ (np.einsum("rii->ri", covariances) + (means - mean) ** 2)
    return Moments(np.array([*mean, log_mean]),
                   np.sqrt([*variance, float(weights @ (logs - log_mean) ** 2)]))


def _known_posterior(place: Workshop) -> Finding:
    group = records.load_group(place.record.folder / records.POSTERIOR, "posterior")
    draws = (np.log(group["x0"].values), group["k"].values, np.log(group["sigma_count"].values))
    exact, worst = exact_moments(), 0.0
    for drawn, mean, sd in zip(draws, *exact, strict=True):
        row = diagnostics.summary_row(drawn)
        worst = max(worst, abs(row["mean"] - mean) / row["mcse_mean"], abs(row["sd"] - sd) / row["mcse_sd"])
    return _near(worst, _MCSE, f"{draws[0].size} draws of 3 quantities; means and SDs off by at most, in Monte-Carlo "
                 "errors,")


def _same_seed(place: Workshop) -> Finding:
    again = fit(place.study, out=place.folder / "again")
    other = fit(place.study, out=place.folder / "other", overrides={"seed": _SEED + 1})
    same = np.array_equal(place.record.z, again.z)
    new = not np.array_equal(place.record.z, other.z)
    return Finding(f"same seed: {'the same draws to the last bit' if same else 'OTHER draws'}; "
                   f"another seed: {'others' if new else 'THE SAME'}", same and new)


# --- records -------------------------------------------------------------------------------------------------


def _verifies(place: Workshop) -> Finding:
    found = records.verify(load_record(place.record.folder))
    good = not found.faults and any("log density recomputed" in note for note in found.notes)
    return Finding("; ".join(map(str, found.faults)) or "; ".join(found.notes), good)


def _tampering(place: Workshop) -> Finding:
    """One byte of each file in turn; one digit of record.json; a table made to fit its digests again."""
    missed, count = [], 0
    for name in sorted(place.record.content["files"]):
        folder = place.copy("damaged")
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))
        count += 1
        missed += [] if _finds(folder, name) else [name]
    folder = place.copy("damaged")
    path, (row, summary) = folder / records.JSON, next(iter(place.record.content["summary"].items()))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(repr(summary["mean"]), repr(summary["mean"] * 1.001), 1), encoding="utf-8")
    missed += [] if path.read_text(encoding="utf-8") != text and _finds(folder, records.JSON) else [records.JSON]
    forged = _forged_table(place, row)
    missed += [] if _finds(forged, records.TABLE) else [f"{records.TABLE}, with digests made anew"]
    return Finding(f"NOT FOUND: {', '.join(missed)}" if missed
                   else f"{count + 2} of {count + 2} changes found, each with its file", not missed)


def _finds(folder: Path, name: str) -> bool:
    try:
        faults = records.verify(load_record(folder)).faults
    except (InputError, RecordError) as error:  # a file that can no longer be read is named as well
        return name in str(error)
    return any(name in fault.where for fault in faults)


def _files_of(place: Workshop) -> dict[str, bytes]:
    return {name: (place.record.folder / name).read_bytes() for name in place.record.content["files"]}


def _forged_table(place: Workshop, row: str) -> Path:
    """A record that agrees with itself, but for a number of the table that is not of its draws."""
    table, files = place.record.table, _files_of(place)
    table.loc[row, "mean"] *= 1.01
    files[records.TABLE] = table.to_csv(float_format=lambda value: repr(float(value))).encode()
    folder = place.folder / "forged"
    records.write_record(folder, files, _content(place))
    shutil.copy(place.study / "study.csv", folder)
    return folder


def _content(place: Workshop) -> dict:
    return {key: value for key, value in place.record.content.items() if key not in ("schema", "files", "digest")}


def _failed_fit(place: Workshop) -> Finding:
    """The record as it would be under a gate that no fit passes: kept, verified, and not quoted."""
    files = _files_of(place)
    files["spec.toml"] += b"\n[gates]\nrhat = 0.5\n"
    folder = place.folder / "failed"
    (place.folder / "gates").mkdir()
    for name in ("spec.toml", "decay.toml"):
        (place.folder / "gates" / name).write_bytes(files[name])
    verdict = records.verdict_of(load_fit_spec(place.folder / "gates"), place.record.table,
                                 place.record.content["sampler"], place.record.content["certificate"])
    records.write_record(folder, files, _content(place) | {
        "verdict": {"passed": verdict.passed, "sentences": list(verdict.sentences)}})
    changed = place.copy("damaged")
    (changed / records.TABLE).write_bytes((changed / records.TABLE).read_bytes() + b" ")
    quoted = [name for name, other in (("the failed fit", folder), ("the changed record", changed))
              if not _refused(partial(records.quote, load_record(other), ["k"]))]
    good = records.quote(place.record, ["k"])
    return Finding(f"QUOTED: {', '.join(quoted)}" if quoted else "a failed fit and a changed record: refused; "
                   f"the good one: k = {good[0]['mean']:g}", not quoted and not verdict.passed)


def _refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except RecordError:
        return True
    return False


def _written_once(place: Workshop) -> Finding:
    before = digest((place.record.folder / records.JSON).read_bytes())
    try:
        fit(place.study, out=place.record.folder)
    except InputError as error:
        same = digest((place.record.folder / records.JSON).read_bytes()) == before
        return Finding(f"refused: {error.faults[0].what}", same and "written once" in str(error))
    return Finding("a second fit was written over it", False)


CHECKS: tuple[Check[Workshop], ...] = (
    Check("OQ-01", "A course of a linear model is that of its closed form, with a dose that acts after its time.",
          f"relative error at most {_SOLVED:g}", ("REQ-NUM-01",), _closed_form),
    Check("OQ-02", "Two solvers that share no code give the same course of thymus_core after a dose.",
          f"difference at most {_SOLVED:g} of the largest value", ("REQ-NUM-02",), _both_solvers),
    Check("OQ-03", "Every model of the package can be solved.", "finite and not negative over a year",
          ("REQ-MOD-05",), _every_model),
    Check("OQ-04", "Doses obey laws that hold whatever the numbers.", "each to the accuracy of the solver",
          ("REQ-NUM-03",), _laws),
    Check("OQ-05", "A document with faults is refused, and each fault is named with its place.",
          "a unit that does not fit, an unknown name and a missing source are refused", ("REQ-MOD-02", "REQ-MOD-03"),
          _refusal),
    Check("OQ-06", "A reconstitution time is the first crossing that lasts; what is not reached is never.",
          "the day of the closed form, and never twice", ("REQ-END-01", "REQ-END-02"), _endpoints),
    Check("OQ-07", "A value below or above a limit counts with the probability of lying there.",
          "scipy's log density and distribution functions to 1e-12", ("REQ-INF-02",), _censoring),
    Check("OQ-08", "The gradient that the sampler follows is that of the log density.",
          "central differences to 1e-5", ("REQ-NUM-05",), _gradient),
    Check("OQ-09", "A fit finds a posterior that is known exactly.",
          f"means and SDs within {_MCSE:g} Monte-Carlo errors", ("REQ-INF-01",), _known_posterior),
    Check("OQ-10", "The same seed gives the same draws on the same machine.",
          "equal to the last bit; another seed gives others", ("REQ-INF-05",), _same_seed),
    Check("OQ-11", "A record that was just written verifies, its log density computed again.", "no fault",
          ("REQ-REC-01",), _verifies),
    Check("OQ-12", "Whatever is changed in a record is found.", "verify names the file, each time",
          ("REQ-REC-02", "REQ-REC-03"), _tampering),
    Check("OQ-13", "A fit that failed its gates is kept and not quoted, nor is a record that was changed.",
          "both refused; a good one is quoted", ("REQ-QUO-01", "REQ-QUO-02"), _failed_fit),
    Check("OQ-14", "A record is written once.", "a second fit into its folder is refused and changes nothing",
          ("REQ-REC-04",), _written_once),
)
