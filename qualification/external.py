"""Problems that others published, with what was expected and what was found: one table of all of them.

    python qualification/external.py --out docs/qualification/external.md [CASE...]

A case is strong where its source gives an answer that a right program must meet, by the rule that stands beside it;
soft where it gives estimates of another method or one simulated data set: these are reported beside the published
figures, with whether the rule suggested there is met. The published problems lie in the folder THYMODEL_EXTERNAL, or in
shared/external beside the checkout; their documents in tests/external. Results of --work are not computed again.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # searches of tiny products, which threads make twenty times slower

import argparse
import json
import math
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "external"))

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from densities import TARGETS, Target, flat, gathered, load_target
from published import TABLES, external_folder, ivp_end, place, read
from recover import processor, software

from thymodel.documents.measurement import ErrorModel
from thymodel.documents.model import load_model
from thymodel.dynamics.solving import plan, trajectories
from thymodel.inference import likelihood, sampling
from thymodel.inference.diagnostics import summary_row
from thymodel.results.fitting import fit
from thymodel.results.record import FitRecord

DOCUMENTS = Path(__file__).resolve().parents[1] / "tests" / "external"
MEAN_SHIFT, SD_RATIO = 0.15, 0.10  # of the reference's standard deviation, besides 4 MCSE of the mean
POSTERIOR_RULE = (f"every mean within {MEAN_SHIFT} sd (and 4 MCSE) of the reference, every sd within {SD_RATIO:.0%}, "
                  "R-hat below 1.01")
JOINT = 1e-6  # log units, of differences of the log joint density between the published points
PETAB_TOLERANCE = 1e-2  # of the log-likelihood, as the problems of the benchmark state it
IVP_TOLERANCE = 1e-6  # of end values


@dataclass(frozen=True)
class Outcome:
    """`passed` by the rule, None where the rule cannot be applied."""

    expected: str
    found: str
    passed: bool | None


@dataclass(frozen=True)
class Case:
    name: str
    strong: bool
    rule: str
    run: Callable[[Path, Path], Outcome]  # folder of published problems, folder to work in


# --- posteriors through the log density alone ----------------------------------------------------------------


def sampled(name: str, external: Path, work: Path) -> Outcome:
    """Joint densities at the published points, then draws through `sample(log_density)`."""
    folder = external / "posteriordb" / name
    target = load_target(folder)
    joint = joint_error(target, folder)
    draws = sampling.sample(target.log_density, target.size, np.arange(target.size),
                            sampling.Settings(4, 500, 1000, 1, 0.8))
    natural = jax.jit(jax.vmap(lambda z: flat(target.natural(z)[0])))(jnp.asarray(draws.z.reshape(-1, target.size)))
    rows = {key: summary_row(np.asarray(value).reshape(draws.z.shape[:2])) for key, value in natural.items()}
    outcome = against_reference(rows, read(folder / "reference_summary.csv"), int(draws.diverging.sum()))
    if joint is None:
        return outcome
    found = f"log joint density within {joint:.1g} at 5 points; {outcome.found}"
    return Outcome(outcome.expected, found, bool(outcome.passed) and joint < JOINT)


def joint_error(target: Target, folder: Path) -> float | None:
    """Largest difference from the published log joint densities; None where none are published."""
    if not (folder / "log_joint_points.csv").exists():
        return None
    points = [{key: float(value) for key, value in row.items()} for row in read(folder / "log_joint_points.csv")]
    wanted = np.array([point.pop("log_joint") for point in points])
    found = np.array([float(target.log_joint(gathered(point))) for point in points])
    return float(np.abs((found - found[0]) - (wanted - wanted[0])).max())


def against_reference(rows: Mapping[str, Mapping[str, float]], reference: Sequence[Mapping[str, str]],
                      divergences: int, names: Mapping[str, str] | None = None) -> Outcome:
    """Means and standard deviations beside those of a reference summary, the worst of them told."""
    shifts, ratios, good, shown = {}, {}, True, ""
    for one in reference:
        key = one["parameter"]
        found = rows[(names or {}).get(key, key)]
        mean, sd, mcse = (float(one.get(word) or 0) for word in ("mean", "sd", "mcse_mean"))
        shifts[key], ratios[key] = abs(found["mean"] - mean) / sd, abs(found["sd"] / sd - 1)
        good &= abs(found["mean"] - mean) < MEAN_SHIFT * sd + 4 * math.hypot(mcse, found["mcse_mean"])
        good &= ratios[key] < SD_RATIO and found["rhat"] < 1.01
        shown = shown or f"{key} {mean:.4g} (sd {sd:.3g})"
    worst, widest = max(shifts, key=shifts.get), max(ratios, key=ratios.get)
    text = (f"worst mean {shifts[worst]:.3f} sd off ({worst}), worst sd {ratios[widest]:.1%} off ({widest}), "
            f"worst R-hat {max(row['rhat'] for row in rows.values()):.4f}, {divergences} divergent draws")
    return Outcome(f"{len(reference)} quantities, {shown}, ...", text, bool(good))


# --- documents that are fitted -------------------------------------------------------------------------------


def fitted(name: str, external: Path, work: Path) -> FitRecord:
    """The record of a case's documents."""
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    return fit(place(name, external, folder), out=folder / "record")


def _gates(record: FitRecord) -> str:
    failed = [text for text in record.content["verdict"]["sentences"] if text.startswith("FAIL")]
    return "gates passed" if record.passed else f"gates FAILED ({'; '.join(failed)})"


def _summary(record: FitRecord) -> dict[str, dict[str, float]]:
    return {str(name): dict(row) for name, row in record.table.iterrows()}


def lynx_hare(external: Path, work: Path) -> Outcome:
    names = {"theta[1]": "alpha", "theta[2]": "beta", "theta[3]": "gamma", "theta[4]": "delta", "z_init[1]": "hare_0",
             "z_init[2]": "lynx_0", "sigma[1]": "sigma_hare", "sigma[2]": "sigma_lynx"}
    record = fitted("lynx_hare", external, work)
    reference = read(external / "posteriordb" / "hudson_lynx_hare-lotka_volterra" / "reference_summary.csv")
    return against_reference(_summary(record), reference, record.content["sampler"]["divergences"], names)


def torsten_single(external: Path, work: Path) -> Outcome:
    record = fitted("torsten_single", external, work)
    rows = read(external / "pop_pkpd" / "torsten_two_cpt_single" / "reference_summary.csv")
    reference = [{"parameter": row[""], "mean": row["mean"], "sd": row["sd"], "mcse_mean": row["se_mean"]}
                 for row in rows if row[""] != "lp__"]
    return against_reference(_summary(record), reference, record.content["sampler"]["divergences"],
                             {"sigma": "sigma_concentration"})


def _medians(record: FitRecord, wanted: Mapping[str, tuple[float, float, float]],
             derive: Mapping[str, Callable[[Any], float]] | None = None) -> Outcome:
    """Posterior medians beside published figures: name -> (figure, least, largest)."""
    table = record.table["median"]
    found = {name: float(derive[name](table) if derive and name in derive else table[name]) for name in wanted}
    inside = {name: low <= found[name] <= high for name, (_, low, high) in wanted.items()}
    expected = ", ".join(f"{name} {value:.4g}" for name, (value, _, _) in wanted.items())
    shown = ", ".join(f"{name} {value:.4g}{'' if inside[name] else ' (outside)'}" for name, value in found.items())
    return Outcome(expected, f"{shown}; {_gates(record)}", all(inside.values()))


def _within(value: float, share: float) -> tuple[float, float, float]:
    return value, value * (1 - share), value * (1 + share)


def _log_sd(percent: float) -> float:
    """Standard deviation of the logarithm from the coefficient of variation of a log-normal."""
    return math.sqrt(math.log1p((percent / 100) ** 2))


def _expected(external: Path, name: str) -> dict[str, Any]:
    return json.loads((external / "pop_pkpd" / name / "EXPECTED.json").read_text())


def theophylline(external: Path, work: Path) -> Outcome:
    known = _expected(external, "theophylline")["SAEM_nlmixr2"]
    wanted = {"CL": _within(known["CL"], 0.05), "V": _within(known["V"], 0.05), "ka": _within(known["ka"], 0.15),
              "sigma_additive_concentration": _within(known["add_sd"], 0.10)}
    wanted |= {f"omega_{key}": _within(_log_sd(cv), 0.30) for key, cv in known["BSV_CV_pct"].items()}
    return _medians(fitted("theophylline", external, work), wanted)


def phenobarbital(external: Path, work: Path) -> Outcome:
    known = _expected(external, "phenobarbital")
    theta, se, omega, omega_se = (known[key] for key in ("theta", "SE", "omega2", "omega2_SE"))
    names = {"CL": "CL_per_kg", "V": "V_per_kg", "apgar": "APGR_effect_on_V"}
    wanted = {ours: (theta[key], theta[key] - se[key], theta[key] + se[key]) for ours, key in names.items()}
    wanted |= {f"omega2_{key}": (omega[key], omega[key] - omega_se[key], omega[key] + omega_se[key]) for key in omega}
    wanted["sigma2"] = _within(known["sigma2_prop"], 0.15)
    derive = {f"omega2_{key}": (lambda table, key=key: table[f"omega_{key}"] ** 2) for key in omega}
    derive["sigma2"] = lambda table: table["sigma_proportional_concentration"] ** 2
    return _medians(fitted("phenobarbital", external, work), wanted, derive)


def warfarin(external: Path, work: Path) -> Outcome:
    known = _expected(external, "warfarin_pkpd")["SAEM"]
    figures = {name: math.exp(known[f"log_{name}"]) for name in ("cl", "v", "kout", "e0", "ec50")}
    limits = {"cl": (0.125, 0.15), "v": (7.2, 8.2), "kout": (0.050, 0.058), "e0": (94, 99), "ec50": (0.75, 1.35)}
    wanted = {name: (figures[name], *limits[name]) for name in limits}
    wanted["sigma_additive_pca"] = (known["pd_add_err"], 3.4, 4.0)
    return _medians(fitted("warfarin", external, work), wanted)


def leukocytes(external: Path, work: Path) -> Outcome:
    known = _expected(external, "wbcSim_friberg")["simulation_values"]
    wanted = {"circ0": _within(known["CIRC0"], 0.20), "mtt": _within(known["MTT"], 0.20),
              "slope": _within(known["SLOPU"], 0.35), "gamma": _within(known["GAMMA"], 0.35)}
    return _medians(fitted("leukocytes", external, work), wanted)


def torsten_population(external: Path, work: Path) -> Outcome:
    """Each of the five standard deviations between subjects counts as a quantity."""
    truth = _expected(external, "torsten_two_cpt_population")["simulation_truth"]
    wanted = {name: truth[name] for name in ("CL", "Q", "V1", "V2", "ka")}
    wanted |= {f"omega_{name}": truth["omega"] for name in ("CL", "Q", "V1", "V2", "ka")}
    wanted["sigma_concentration"] = truth["sigma"]
    record = fitted("torsten_population", external, work)
    held = {name: record.table.loc[name, "q05"] <= value <= record.table.loc[name, "q95"]
            for name, value in wanted.items()}
    shown = ", ".join(f"{name} {record.table.loc[name, 'q05']:.3g} to {record.table.loc[name, 'q95']:.3g}"
                      f"{'' if inside else ' (outside)'}" for name, inside in held.items())
    return Outcome(", ".join(f"{name} {value:g}" for name, value in wanted.items()),
                   f"{sum(held.values())} of {len(held)} held: {shown}; {_gates(record)}",
                   sum(held.values()) * 7 >= len(held) * 6)


def hiv_population(external: Path, work: Path) -> Outcome:
    known = _hiv(external)["published_population_medians_12_biphasic_patients"]
    wanted = {"delta": (known["delta"], 0.35, 0.6), "gamma": (known["gamma"], 0.025, 0.055)}
    return _medians(fitted("hiv", external, work), wanted)


def _hiv(external: Path) -> dict[str, Any]:
    return json.loads((external / "immunology" / "actg315_hiv" / "EXPECTED.json").read_text())


def hiv_patient(patient: str, names: Sequence[str], external: Path, work: Path) -> Outcome:
    """Least squares of log10 copies in one patient, courses by our solver; as published, the first value below the
    limit is the last and stands at half of it."""
    rows = [row for row in TABLES["hiv"](external) if str(row["ID"]) == patient]
    times = np.array([float(row["TIME"]) for row in rows])
    seen = np.array([float(row["DV"]) * (0.5 if row["CENS"] else 1.0) for row in rows])
    model = load_model(DOCUMENTS / "hiv" / "model.toml")
    schedule, order = [plan(model, [], {}, times.tolist())], ("A", "delta", "B", "gamma")

    def residuals(logs):
        values = dict(zip(order, np.exp(logs).tolist(), strict=True))
        return np.log10(trajectories(model, values, schedule, ["rna"])[0, :, 0]) - np.log10(seen)

    start = np.log([seen[0], 0.5, 1000.0, 0.03])
    found = dict(zip(order, np.exp(scipy.optimize.least_squares(residuals, start).x).tolist(), strict=True))
    known = _hiv(external)["published_individual_fits"][patient]
    good = all(abs(found[name] / known[name] - 1) < 0.01 for name in names)
    return Outcome(", ".join(f"{name} {known[name]:g}" for name in names),
                   ", ".join(f"{name} {found[name]:.5g}" for name in names) + f" ({len(seen)} values)", good)


def pump_failures(external: Path, work: Path) -> Outcome:
    """-2 log likelihood of the published estimates by our Poisson probabilities, and its slope there: 60-point
    Gauss-Hermite over each pump's effect, as published."""
    rows, known = read(external / "pop_pkpd" / "pump_failures" / "data.csv"), _expected(external, "pump_failures")
    failures, logtime, group = (np.array([float(row[key]) for row in rows]) for key in ("y", "logtstd", "group"))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    count = ErrorModel("failures", "poisson", {}, {}, 0.0, 0.0)

    def deviance(p):
        slope, level = (jnp.where(group == 1, p[k], p[k + 1]) for k in (2, 0))
        mean = jnp.exp((level + slope * logtime)[:, None] + jnp.exp(p[4]) * nodes)
        y = jnp.broadcast_to(failures[:, None], mean.shape)
        terms = likelihood.log_likelihood(count, {}, mean, y, None, None)
        return -2 * jnp.sum(jax.scipy.special.logsumexp(terms, axis=1, b=weights / np.sqrt(2 * np.pi)))

    at = jnp.array([known[key] for key in ("beta1", "beta2", "alpha1", "alpha2", "log_sigma")])
    value, slope = float(deviance(at)), float(jnp.abs(jax.grad(deviance)(at)).max())
    return Outcome(f"-2 log likelihood {known['minus2LL']:.6f}, the least", f"{value:.6f}, largest slope {slope:.1g}",
                   abs(value - known["minus2LL"]) < 1e-5 and slope < 1e-3)


# --- problems without a fit ----------------------------------------------------------------------------------


def benchmark(name: str, external: Path, work: Path) -> Outcome:
    folder = external / "petab_benchmark" / name
    expected = json.loads((folder / "EXPECTED.json").read_text())
    wanted = expected.get("llh_at_nominal_libroadrunner", expected.get("llh_AMICI_benchmark_yaml"))
    return _log_likelihood(folder, float(wanted), PETAB_TOLERANCE)


def suite(case: str, external: Path, work: Path) -> Outcome:
    folder = external / "petab_test_suite" / "v1.0.0" / case
    text = (folder / f"_{case}_solution.yaml").read_text()
    wanted, tolerance = (float(re.search(rf"^{key}: (\S+)", text, re.M)[1]) for key in ("llh", "tol_llh"))
    return _log_likelihood(folder, wanted, tolerance)


def _log_likelihood(folder: Path, wanted: float, tolerance: float) -> Outcome:
    from petab_problem import load_problem, log_likelihood

    found = log_likelihood(load_problem(folder))
    return Outcome(f"log-likelihood {wanted:.5f}", f"{found:.5f}", abs(found - wanted) < tolerance)


def initial_value(name: str, external: Path, work: Path) -> Outcome:
    problem = json.loads((external / "ivp" / f"{name}.json").read_text())
    wanted = np.array(problem["reference"])
    error = float(np.abs(ivp_end(problem, name) / wanted - 1).max())
    return Outcome(f"{len(wanted)} states at t = {problem['t_end']:g}", f"largest relative error {error:.1g}",
                   error < IVP_TOLERANCE)


def refused(why: str, external: Path, work: Path) -> Outcome:
    return Outcome("", why, None)


# --- all cases -----------------------------------------------------------------------------------------------


def all_cases(external: Path) -> list[Case]:
    """Every folder of the published problems, fast ones first."""
    def names(part: str) -> list[str]:
        return sorted(path.stem for path in (external / part).iterdir() if not path.name.endswith((".md", ".yaml")))

    one_percent = "published figures within 1%"
    cases = [Case(f"ivp/{name}", True, f"relative error below {IVP_TOLERANCE:g}", partial(initial_value, name))
             for name in names("ivp")]
    cases += [Case(f"petab_test_suite/{case}", True, "log-likelihood within the solution's tolerance of 0.001",
                   partial(suite, case)) for case in names("petab_test_suite/v1.0.0")]
    cases += [Case("pop_pkpd/pump_failures", True, "-2 log likelihood within 1e-5, slope below 1e-3", pump_failures)]
    cases += [Case(f"immunology/actg315_hiv, patient {patient}", True, one_percent,
                   partial(hiv_patient, patient, keys))
              for patient, keys in (("1", ("A", "delta", "B", "gamma")), ("13", ("A", "delta")))]
    cases += [Case(f"petab_benchmark/{name}", True, f"log-likelihood within {PETAB_TOLERANCE:g}",
                   partial(benchmark, name)) for name in names("petab_benchmark")]
    cases += [Case(f"posteriordb/{name}", True, POSTERIOR_RULE, partial(sampled, name)) for name in TARGETS]
    one_se = "medians within one published SE, omega2 too, sigma2 within 15%"
    cases += [
        Case("pop_pkpd/torsten_two_cpt_single", True, POSTERIOR_RULE, torsten_single),
        Case("posteriordb/hudson_lynx_hare-lotka_volterra", True, POSTERIOR_RULE, lynx_hare),
        Case("pop_pkpd/theophylline", False, "medians: CL, V within 5%, ka 15%, additive sd 10%, omegas 30%",
             theophylline),
        Case("pop_pkpd/phenobarbital", False, one_se, phenobarbital),
        Case("immunology/actg315_hiv, population", False, "medians: delta 0.35 to 0.6, gamma 0.025 to 0.055 per day",
             hiv_population),
        Case("pop_pkpd/wbcSim_friberg", False, "medians: CIRC0, MTT within 20%, SLOPU, GAMMA 35%", leukocytes),
        Case("pop_pkpd/warfarin_pkpd", False, "medians: cl 0.125-0.15, v 7.2-8.2, kout 0.050-0.058, e0 94-99, "
             "ec50 0.75-1.35, additive sd of PCA 3.4-4.0", warfarin),
        Case("pop_pkpd/torsten_two_cpt_population", False, "90% intervals hold 6 of 7 truths or more",
             torsten_population),
        Case("pop_pkpd/acop2016_Bolus_2CPT", False, "", partial(
            refused, "not run: 120 subjects with four random effects each take more than the rest of the table")),
        Case("posteriordb/sir-sir", True, POSTERIOR_RULE, partial(
            refused, "not expressed: it counts what left a state between two visits, which no observable is")),
        Case("petab_test_suite, version 2", True, "", partial(
            refused, "not read: the reader of the tests reads PEtab 1")),
    ]
    return cases


def run_case(case: Case, external: Path, work: Path) -> dict[str, Any]:
    """The outcome of a case as a row, read where it was computed before."""
    path = work / (re.sub(r"[^\w-]+", "_", case.name) + ".json")
    if path.exists():
        return json.loads(path.read_text())
    start = time.process_time()
    try:
        outcome = case.run(external, work)
    except Exception as error:  # a case that breaks is a row of the table, not the end of it
        outcome = Outcome("", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False)
    row = asdict(outcome) | {"seconds": round(time.process_time() - start, 1), "software": software()}
    path.write_text(json.dumps(row, indent=1))
    jax.clear_caches()
    return row


def report(cases: Sequence[Case], rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> str:
    """The table as Markdown."""
    verdict = {True: "pass", False: "**FAIL**", None: "-"}
    strong = [row for case, row in zip(cases, rows, strict=True) if case.strong and row["passed"] is not None]
    soft = [row for case, row in zip(cases, rows, strict=True) if not case.strong and row["passed"] is not None]
    left = sum(row["passed"] is None for row in rows)
    lines = ["# Published problems", "", "Made by `qualification/external.py`; do not edit.", "",
             f"    python qualification/external.py {' '.join(words)}".rstrip(), "",
             *(f"- {text}" for text in dict.fromkeys(row["software"] for row in rows)),
             f"- {processor()}, {os.cpu_count()} cores, {platform.platform()}",
             f"- {datetime.now(UTC):%Y-%m-%d}; {sum(row['seconds'] for row in rows) / 60:.0f} minutes of processor", "",
             f"**{sum(bool(row['passed']) for row in strong)} of {len(strong)} cases with a strong answer pass their "
             f"rule**; {sum(bool(row['passed']) for row in soft)} of {len(soft)} soft ones meet the one suggested; "
             f"{left} not run.", "",
             "Strong: a right program must meet the rule. Soft: estimates of another method, or of a simulated study; "
             "what others published stands beside what was found here.", ""]
    for strong_ones, title in ((True, "Strong answers"), (False, "Soft answers")):
        lines += [f"## {title}", "", "| case | expected | found | rule | verdict |", "|---|---|---|---|---|"]
        lines += [f"| {case.name} | {row['expected']} | {row['found']} | {case.rule} | {verdict[row['passed']]} |"
                  for case, row in zip(cases, rows, strict=True) if case.strong == strong_ones]
        lines.append("")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the cases asked for; exit status 1 where a strong one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="parts of names; all by default")
    parser.add_argument("--out", type=Path, help="the report; printed where none is named")
    parser.add_argument("--work", type=Path, default=Path("external_work"), help="results are kept here")
    args = parser.parse_args(words)
    external = external_folder()
    if not external.is_dir():
        print(f"no published problems at {external}; THYMODEL_EXTERNAL names their folder", file=sys.stderr)
        return 2
    args.work.mkdir(parents=True, exist_ok=True)
    cases = [case for case in all_cases(external) if not args.cases or any(part in case.name for part in args.cases)]
    rows = []
    for case in cases:
        rows.append(run_case(case, external, args.work))
        verdict = {True: "pass", False: "FAIL", None: "not run"}[rows[-1]["passed"]]
        print(f"{case.name}: {verdict}: {rows[-1]['found']}", flush=True)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(report(cases, rows, args.cases))
    return int(any(row["passed"] is False for case, row in zip(cases, rows, strict=True) if case.strong))


if __name__ == "__main__":
    sys.exit(main())
