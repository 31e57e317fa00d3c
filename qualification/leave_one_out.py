"""Do leave-one-out scores by importance weights agree with fits that have not seen the subject?

    python qualification/leave_one_out.py --data HSCT.csv --work DIR --out qualification/leave_one_out.md

The record is fits/hsct_lymphocytes, of real patients; its spec says where the data are found. Each of the 20 subjects
is left out in turn and all others are fitted again; the subject's exact score is its mean likelihood under those draws,
random effects integrated out. The scores of `thymodel compare` must agree with these to within four Monte-Carlo errors
(of both, combined) wherever Pareto k says that they can be trusted, and so must their sum. As a negative control,
scores that condition on the random effects, which have seen the subject's own data, must not agree.
With --work a run that was stopped goes on from the refits that it had finished.
"""

import argparse
import platform
import shlex
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).resolve().parents[1] / "fits" / "hsct_lymphocytes"
WITHIN = 4.0  # combined Monte-Carlo errors; 20 subjects and a sum: one false alarm in 750 runs if errors were normal


def exact_scores(record, spec, data, posterior, asked: dict[str, int], work: Path) -> list[dict[str, Any]]:
    """Of each subject: score under a fit without it, Monte-Carlo error, R-hat and divergences of that fit."""
    from thymodel.inference.diagnostics import worst_rhat
    from thymodel.results.scores import Unit, refit_without, score_left_out

    found = []
    for place, subject in enumerate(data.subjects):
        file = work / f"{asked['warmup']}_{asked['draws']}_{subject.id}.npz"
        if not file.exists():
            z, divergences = refit_without(spec, data, Unit.subject, [place])
            np.savez(file, z=z, divergences=divergences)
        with np.load(file) as kept:
            z, divergences = kept["z"], int(kept["divergences"])
        elpd, error, integration = score_left_out(record, posterior, data, Unit.subject, [place], z)
        found.append({"elpd": elpd, "error": float(np.hypot(error, integration)), "rhat": worst_rhat(z),
                      "divergences": divergences})
        print(f"without {subject.id}: {elpd:.3f} ({found[-1]['error']:.3f})", file=sys.stderr)
    return found


def conditional_scores(posterior, z: np.ndarray):
    """Negative control: each subject's likelihood at its own random effects. A draw that cannot be solved counts as the
    least likely of the others."""
    import jax

    from thymodel.inference import marginals, scoring

    program = jax.jit(lambda head, effects: jax.lax.map(lambda row: marginals.of_subjects(posterior)(*row),
                                                        (head, effects)))
    values = np.asarray(program(*marginals.split(posterior, z.reshape(-1, z.shape[-1]))))
    values = np.where(np.isnan(values), np.nanmin(values, axis=0), values)
    return scoring.leave_one_out(values.reshape(*z.shape[:2], -1))


def report(args: argparse.Namespace) -> str:
    from thymodel.inference.posterior import make_posterior
    from thymodel.inference.sampling import thin
    from thymodel.inference.scoring import most_k
    from thymodel.results.record import load_record
    from thymodel.results.scores import _thinned, score, study_of

    start, record = time.perf_counter(), load_record(RECORD)
    spec, data = study_of(record, args.data)
    asked = {"warmup": args.warmup, "draws": args.draws}
    shorter = replace(spec, sampler=spec.sampler.model_copy(update=asked))
    posterior = make_posterior(spec, data, thin(record.z, 128))
    weights = score(record, "subject", args.data)
    exact = exact_scores(record, shorter, data, posterior, asked, args.work)
    some = _thinned(record.z, 1000)
    control, limit = conditional_scores(posterior, some), most_k(some[..., 0].size)
    rows, total = rows_of(weights.table, exact, control.elpd, limit), np.array([one["elpd"] for one in exact])
    errors = np.array([one["error"] for one in exact])
    own = np.hypot(weights.table["error"], weights.table["integration_error"]).to_numpy(float)
    good = (weights.table["pareto_k"] <= limit).to_numpy()
    combined = float(np.sqrt(np.sum(own[good] ** 2 + errors[good] ** 2)))
    apart = float((weights.elpd - total)[good].sum())
    off = float((control.elpd - total)[good].sum())
    agree = all(row["agrees"] for row in rows if row["k"] <= limit) and abs(apart) <= WITHIN * combined
    caught = abs(off) > WITHIN * combined
    divergent = sum(one["divergences"] for one in exact)
    command = ["qualification/leave_one_out.py", "--data", args.data.name, "--work", "DIR", "--out",
               "qualification/leave_one_out.md", "--warmup", str(args.warmup), "--draws", str(args.draws)]
    fits = (f"worst R-hat {max(one['rhat'] for one in exact):.3f}, {divergent} divergent transitions of "
            f"{len(exact) * spec.sampler.chains * args.draws}")
    return "\n".join([
        "# Leave-one-out scores by importance weights against exact refits", "",
        "Made by `qualification/leave_one_out.py`; do not edit. REAL data: lymphocyte counts of 20 patients around an "
        "allogeneic transplant; the spec of [`fits/hsct_lymphocytes`](../fits/hsct_lymphocytes/spec.toml) says where "
        "they are found.", "", f"    python {shlex.join(command)}", "",
        f"- {versions()}; {platform.machine()}, {time.perf_counter() - start:.0f} s (refits that --work held not "
        "counted)",
        f"- record {record.digest[:16]}, data sha256 {record.content['data']['sha256'][:16]}; weights from "
        f"{some[..., 0].size} of its {record.z[..., 0].size} draws",
        f"- refits: {spec.sampler.chains} chains of {args.draws} draws after {args.warmup} of warm-up; {fits}", "",
        f"Scores are log densities of a subject's counts (each in {spec.model.observables['lymphocytes'].unit}) given "
        "all other subjects, random effects integrated out; errors are Monte-Carlo. A score by weights may be trusted "
        f"where Pareto k is at most {limit:.2f}; elsewhere `thymodel compare --refit` takes the exact one.", "",
        "| subject | observations | by weights | Pareto k | exact | difference / its error | agrees | given its own "
        "effects |", "|---|---|---|---|---|---|---|---|",
        *(f"| {row['unit']} | {row['observations']} | {row['elpd']:.2f} ({row['error']:.2f}) | {row['k']:.2f} | "
          f"{row['exact']:.2f} ({row['exact_error']:.2f}) | {row['apart']:+.1f} | "
          f"{('yes' if row['agrees'] else 'NO') if row['k'] <= limit else 'refit needed'} | {row['control']:.2f} |"
          for row in rows), "",
        f"Sum over the {int(good.sum())} subjects whose weights can be trusted: by weights "
        f"{weights.elpd[good].sum():.2f}, exact {total[good].sum():.2f}, difference {apart:+.2f} with a Monte-Carlo "
        f"error of {combined:.2f}.",
        f"Sum over all subjects, exact: {total.sum():.2f} (Monte-Carlo error {np.sqrt(np.sum(errors**2)):.2f}).", "",
        f"**{'PASS' if agree else 'FAIL'}**: scores by weights agree with exact refits to within {WITHIN:g} "
        "Monte-Carlo errors, subject by subject and in sum.", "",
        f"**{'PASS' if caught else 'FAIL'}** (negative control): scores given the subjects' own random effects are off "
        f"by {off:+.1f} in sum, {abs(off) / combined:.0f} Monte-Carlo errors.", ""])


def rows_of(table, exact: list[dict[str, Any]], control: np.ndarray, limit: float) -> list[dict[str, Any]]:
    rows = []
    for row, other, given in zip(table.to_dict("records"), exact, control, strict=True):
        error = float(np.hypot(row["error"], row["integration_error"]))
        apart = (row["elpd"] - other["elpd"]) / np.hypot(error, other["error"])
        rows.append({"unit": row["unit"], "observations": row["observations"], "elpd": row["elpd"], "error": error,
                     "k": row["pareto_k"], "exact": other["elpd"], "exact_error": other["error"], "apart": apart,
                     "agrees": bool(abs(apart) <= WITHIN), "control": given})
    return rows


def versions() -> str:
    named = [f"{name} {metadata.version(name)}" for name in ("thymodel", "arviz", "jax", "numpy")]
    return ", ".join([*named, f"Python {platform.python_version()}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the CSV that the record's spec describes")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the refits' draws")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--draws", type=int, default=500)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    text = report(args)
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
