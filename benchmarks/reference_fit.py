"""The whole reference fit, from the start of a process to the verdict: three seeds, and three more simulated data sets.

    python benchmarks/reference_fit.py [--plain] [--draws 1000]

Every fit is `thymodel fit` in a process of its own; the first has empty caches. The clock stops when the verdict is
printed, certificate included; the page of figures comes after it. With --plain also NUTS without pilot and coordinates.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import reference
import timing

PLAIN = (500, 500)  # warm-up and draws of plain NUTS


def simulated(problem: reference.Problem, seed: int) -> str:
    """cohort.csv of other subjects in the published design, from its true values; censored below its limits."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from thymodel.inference.likelihood import draw_observation
    from thymodel.inference.posterior import make_posterior, precise

    known, random = problem.known, np.random.default_rng(seed)
    own = make_posterior(precise(problem.spec), problem.data)
    etas = random.standard_normal((len(problem.data.subjects), len(known["bsv"])))
    truth = {"z_population": [(np.log(known["nominal"][name]) - known["prior_log_mean"][name])
                              / known["prior_log_sd"][name] for name in known["parameters"]],
             "log_omega": np.log([known["true_omega"][name] for name in known["bsv"]]),
             "log_sigma": np.log([known["true_sigma"][name] for name in known["observables"]]), "eta": etas}
    found = np.asarray(jax.jit(own.predictions)(jnp.asarray(reference._coordinates(truth, known))))
    names, keys = tuple(problem.spec.likelihood), iter(jax.random.split(jax.random.PRNGKey(seed), len(found)))
    values = [float(draw_observation(problem.spec.likelihood[names[k]],
                                     {"log_sd": known["true_sigma"][names[k]]}, jnp.asarray(y), next(keys)))
              for k, y in zip(own.records.observable, found, strict=True)]
    lines, rows = [], (reference.folder() / "cohort.csv").read_text().splitlines()
    column = {name: k for k, name in enumerate(rows[0].split(","))}
    at = {(int(s), float(own.data.solver.schedule.visits[s, v]), names[o]): value for s, v, o, value in
          zip(own.records.subject, own.records.visit, own.records.observable, values, strict=True)}
    subjects = [subject.id for subject in problem.data.subjects]
    for row in rows[1:]:
        cells = row.split(",")
        if cells[column["EVID"]] == "0":
            name = cells[column["DVID"]]
            value = at[subjects.index(cells[column["ID"]]), float(cells[column["TIME"]]), name]
            limit = known["lloq"][name]
            cells[column["DV"]], cells[column["CENS"]] = repr(max(value, limit)), str(int(value < limit))
        lines.append(",".join(cells))
    return "\n".join([rows[0], *lines]) + "\n"


def study(folder: Path, cohort: str, draws: int) -> Path:
    """A folder that `thymodel fit` takes: the documents of the test, at the default tolerance."""
    shutil.copytree(Path(__file__).resolve().parents[1] / "tests" / "external" / "reference_problem", folder)
    (folder / "data.csv").write_text(cohort)
    text = (folder / "spec.toml").read_text().replace("0" * 64, hashlib.sha256(cohort.encode()).hexdigest())
    head = text[: text.index("[sampler]")]
    (folder / "spec.toml").write_text(f"{head}[sampler]\nseed = 1\nwarmup = 200\ndraws = {draws}\n")
    return folder


def fit(folder: Path, seed: int, out: Path, cache: Path) -> dict:
    """One fit in a process of its own: seconds to the verdict, and what its record says."""
    command = [sys.executable, "-m", "thymodel", "fit", str(folder), "--seed", str(seed), "--out", str(out)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    assert process.stdout is not None
    seconds = next(time.perf_counter() - begin for line in process.stdout if line.startswith("verdict"))
    process.stdout.read()
    process.wait()
    content = json.loads((out / "record.json").read_text())
    rows = [row for name, row in content["summary"].items() if not name.startswith("re_")]
    sampler, certified = content["sampler"], content["certificate"]
    return {"seconds": seconds, "passed": content["verdict"]["passed"], "rhat": max(r["rhat"] for r in rows),
            "bulk": min(r["ess_bulk"] for r in rows), "tail": min(r["ess_tail"] for r in rows),
            "divergences": sampler["divergences"], "leapfrogs": sampler["leapfrogs_per_draw"],
            "gradients": sampler["leapfrogs"], "change": certified["largest"], "way": sampler.get("way", "")}


def plain(folder: Path) -> dict:
    """NUTS from draws of the prior in the coordinates of the priors, diagonal mass; same kernel, same steps."""
    import arviz as az
    import jax
    import numpy as np

    from thymodel.documents.spec import load_fit_spec
    from thymodel.inference import sampling
    from thymodel.inference.diagnostics import worst_rhat
    from thymodel.inference.posterior import make_posterior
    from thymodel.results.fitting import load_study

    begin = time.perf_counter()
    spec = load_fit_spec(folder)
    posterior = make_posterior(spec, load_study(spec, None)[0], least_rows=256)
    settings = sampling.Settings(4, *PLAIN, 1)
    maps, tables = sampling.plain_coordinates(), (posterior.data,)
    machine = sampling.make_machine(posterior.density, maps, settings)
    start = sampling._plain_start(machine, maps, posterior.layout.size, settings, tables)
    draws = sampling._run(machine, start, settings, tables, sampling._Store(None, ""), None)
    count = len(posterior.layout.population)
    ess = [[float(az.ess(np.asarray(draws.z[:, :, k]), method=method)) for k in range(count)]
           for method in ("bulk", "tail")]
    jax.clear_caches()
    return {"seconds": time.perf_counter() - begin, "passed": None, "rhat": worst_rhat(draws.z[:, :, :count]),
            "bulk": min(ess[0]), "tail": min(ess[1]), "divergences": int(draws.diverging.sum()),
            "leapfrogs": float(draws.leapfrogs.mean()),
            "gradients": draws.gradients, "change": float("nan"), "way": ""}


def line(name: str, r: dict) -> str:
    verdict = {True: "passed", False: "FAILED", None: ""}[r["passed"]]
    return (f"| {name} | {r['seconds']:.1f} | {verdict} | {r['rhat']:.4f} | {r['bulk']:.0f} / {r['tail']:.0f} | "
            f"{r['divergences']} | {r['leapfrogs']:.1f} | {r['gradients']:,} | {r['change']:.4f} | {r['way']} |")


def main() -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    problem = reference.load_problem()
    published = (reference.folder() / "cohort.csv").read_text()
    print("| fit | s, start to verdict | verdict | worst R-hat | least ESS bulk / tail | divergences | leapfrogs a draw"
          " | gradients in all | halved steps move log density by | way |\n" + "|---" * 10 + "|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        first = study(work / "published", published, args.draws)
        for seed in (1, 2, 3):
            name = f"published data, seed {seed}" + (", empty caches" if seed == 1 else "")
            print(line(name, fit(first, seed, work / f"s{seed}", work / "cache")), flush=True)
        for number in (1, 2, 3):
            other = study(work / f"other{number}", simulated(problem, number), args.draws)
            print(line(f"simulated data {number}", fit(other, 1, work / f"d{number}", work / "cache")), flush=True)
        if args.plain:
            print(line(f"published data, plain NUTS, 4 x ({PLAIN[0]} + {PLAIN[1]})", plain(first)), flush=True)
    print(f"\n4 x (200 + {args.draws}) draws; {date.today()}; {timing.machine()}")


if __name__ == "__main__":
    main()
