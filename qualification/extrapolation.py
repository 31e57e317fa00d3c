"""Does the extrapolation verdict foretell where intervals fail? Each dose left out of cohorts of several true shapes.

    python qualification/extrapolation.py --cohorts 40 --seed 1 --out qualification/extrapolation.md

The fitted model is a saturating dose response, log count = a + b*dose/(dose + K), with normal residuals of known SD. It
is a stand-in that costs nothing: given K it is linear and conjugate, so that its posterior is drawn exactly on a grid
of K, and a fit takes milliseconds. What is judged is the package's own: `position`, `parameters` and `left_out` of
`thymodel.results.extrapolation`, on what is left when a dose is out, for an arm of that dose. Whether the 90% interval
made without the dose holds the true mean there is then counted by verdict.
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from thymodel.documents.model import load_model
from thymodel.documents.priors import parse_prior
from thymodel.documents.regimen import Dose
from thymodel.documents.spec import Arm
from thymodel.inference.population import Layout
from thymodel.results import extrapolation as beyond

DOSES = (0.0, 1.5, 4.0, 9.0)  # of the ReSET-02 protocol
PATIENTS, RESIDUAL = 6, 0.35  # a dose; SD of a log count (assumed)
A_SD, B_SD, K_MEDIAN, K_LOG_SD = 1.0, 1.0, 4.0, 1.0  # priors of the fit; truths of its own shape are drawn from them
GRID = np.linspace(-4.0, 4.0, 81)  # of K, in prior SDs of its log
DRAWS = 500
MODEL = load_model("thymus_core")
LAYOUT = Layout({name: parse_prior("normal(mean=0, sd=1)") for name in ("a", "b", "K")}, {}, (), 1.0, {}, {}, ())
Truth = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (a, b, log K in SDs), doses -> means


def saturating(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """The fitted shape, at parameters in prior SDs."""
    k = K_MEDIAN * np.exp(K_LOG_SD * z[..., 2:])
    return A_SD * z[..., :1] + B_SD * z[..., 1:2] * doses / (doses + k)


def bell(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """A response that is gone again at the highest dose."""
    return A_SD * z[..., :1] + (1 + np.abs(z[..., 1:2])) * (doses / 4) * np.exp(2 * (1 - doses / 4))


def threshold(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """Nothing until somewhere between the two highest doses, then all: Hill exponent 8."""
    return A_SD * z[..., :1] + (1 + np.abs(z[..., 1:2])) * doses**8 / (doses**8 + 6.0**8)


def growing(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """In proportion to the dose squared: no saturation."""
    return A_SD * z[..., :1] + (1 + np.abs(z[..., 1:2])) * (doses / 9) ** 2


def sigmoid(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """Saturating with a Hill exponent of 2."""
    k = K_MEDIAN * np.exp(0.5 * z[..., 2:])
    return A_SD * z[..., :1] + B_SD * z[..., 1:2] * doses**2 / (doses**2 + k**2)


def linear(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    return A_SD * z[..., :1] + B_SD * z[..., 1:2] * doses / 9


def drooping(z: np.ndarray, doses: np.ndarray) -> np.ndarray:
    """Saturating, and half of it lost again by the highest dose."""
    return saturating(z, doses) - 0.5 * B_SD * z[..., 1:2] * np.clip(doses - 4, 0, None) / 5


MODERATE: dict[str, Truth] = {"Hill 2": sigmoid, "linear": linear, "drooping": drooping}
GROSS: dict[str, Truth] = {"bell": bell, "threshold": threshold, "square": growing}
TRUTHS: dict[str, Truth] = {"as fitted": saturating, **MODERATE, **GROSS}


def draw_posterior(doses: np.ndarray, means: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Exact draws (draw, 3), in prior SDs: K from its marginal on the grid, a and b from their conditional normal."""
    k = K_MEDIAN * np.exp(K_LOG_SD * GRID)
    design = np.stack([np.full((len(k), len(doses)), A_SD), B_SD * doses / (doses + k[:, None])], axis=-1)
    noise = RESIDUAL**2 / PATIENTS
    precision = np.eye(2) + np.einsum("gdi,gdj->gij", design, design) / noise
    covariance = np.linalg.inv(precision)
    centre = np.einsum("gij,gdj,d->gi", covariance, design, means) / noise
    log_evidence = 0.5 * (np.linalg.slogdet(covariance)[1] + np.einsum("gi,gij,gj->g", centre, precision, centre))
    weights = np.exp(log_evidence - log_evidence.max() - 0.5 * GRID**2)
    place = random.choice(len(k), DRAWS, p=weights / weights.sum())
    factor = np.linalg.cholesky(covariance)[place]
    linear = centre[place] + np.einsum("nij,nj->ni", factor, random.normal(size=(DRAWS, 2)))
    return np.column_stack([linear, GRID[place] + (GRID[1] - GRID[0]) * (random.random(DRAWS) - 0.5)])


def _doses_of(amount: float) -> tuple[Dose, ...]:
    return (Dose(7.0, "progenitors", amount),) if amount else ()


def _left_out(doses: np.ndarray, means: np.ndarray, whole: np.ndarray,
              random: np.random.Generator) -> list[beyond.LeftOut]:
    """Each of the remaining doses left out in turn, by a fit of its own."""
    found = []
    for k, amount in enumerate(doses):
        rest = np.arange(len(doses)) != k
        without = saturating(draw_posterior(doses[rest], means[rest], random), np.array([amount]))[:, 0]
        now = saturating(whole, np.array([amount]))[:, 0]
        shift = (now.mean() - without.mean()) / without.std()
        found.append(beyond.LeftOut(f"{amount:g}", {"progenitors": float(amount)}, "count", float(shift), 0.0, True))
    return found


def one_fit(truth: np.ndarray, means: np.ndarray, out: int, random: np.random.Generator) -> tuple[dict, bool]:
    """Levels for the dose that is out, by component, and whether the 90% interval holds the true mean there."""
    rest, doses = np.arange(len(DOSES)) != out, np.array(DOSES)
    z = draw_posterior(doses[rest], means[rest], random)
    values = saturating(z, doses[[out]])[:, 0]
    low, high = np.quantile(values, (0.05, 0.95))
    arm = Arm("out", "out", _doses_of(DOSES[out]), {})
    fitted = beyond.Fitted({f"{x:g}": _doses_of(x) for x in doses[rest]}, (), np.empty((0, 0)),
                           tuple(MODEL.inputs), None)
    parts = (beyond.position(fitted, MODEL, arm, {}), beyond.parameters(LAYOUT, z, values),
             beyond.left_out(_left_out(doses[rest], means[rest], z, random), arm, "count"))
    verdict = beyond.Verdict("out", "count", parts)
    return {"verdict": verdict.level} | {c.name: c.level for c in parts}, bool(low <= truth[out] <= high)


def run(cohorts: int, seed: int) -> list[dict]:
    """A row a cohort and dose left out."""
    found = []
    for place, (shape, truth) in enumerate(TRUTHS.items()):
        random = np.random.default_rng([seed, place])
        for _ in range(cohorts):
            true = truth(random.normal(size=3), np.array(DOSES))
            means = true + random.normal(size=len(DOSES)) * RESIDUAL / math.sqrt(PATIENTS)
            for out, dose in enumerate(DOSES):
                levels, held = one_fit(true, means, out, random)
                found.append({"shape": shape, "dose": dose, "held": held, **levels})
    return found


def _share(rows: list[dict]) -> str:
    if not rows:
        return "-"
    share = sum(row["held"] for row in rows) / len(rows)
    return f"{100 * share:.0f}% ({len(rows)})"


def _table(rows: list[dict], key: str, groups: list[str]) -> list[str]:
    lines = [f"| {key} | " + " | ".join(groups) + " |", "|---" * (1 + len(groups)) + "|"]
    for level in (*beyond.Level, None):
        mine = [row for row in rows if row[key] is level]
        if mine:
            cells = [_share([row for row in mine if row["shape"] == shape]) for shape in groups]
            lines.append(f"| {level.name if level is not None else 'not known'} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _compared(rows: list[dict], what: str, shapes: list[str]) -> str:
    """Coverage where the verdict is interpolation against where it is not; passes beyond 3 standard errors, and where
    interpolation was never said."""
    mine = [row for row in rows if row["shape"] in shapes]
    inside = [row["held"] for row in mine if row["verdict"] is beyond.Level.interpolation]
    outside = [row["held"] for row in mine if row["verdict"] is not beyond.Level.interpolation]
    told = f"where the truth has a {what} shape ({', '.join(shapes)}), intervals hold it in "
    if not inside:
        return f"**PASS**: {told}{100 * np.mean(outside):.0f}% of {len(outside)}; none was called interpolation."
    gap = np.mean(inside) - np.mean(outside)
    error = math.sqrt(np.var(inside) / len(inside) + np.var(outside) / len(outside))
    return (f"**{'PASS' if gap > 3 * error else 'FAIL'}**: {told}{100 * np.mean(inside):.0f}% of {len(inside)} cases "
            f"called interpolation and in {100 * np.mean(outside):.0f}% of {len(outside)} called mild or strong; "
            f"difference {100 * gap:.0f} percentage points, standard error {100 * error:.1f}.")


def report(rows: list[dict], command: str, seconds: float) -> str:
    """The page; its statements can fail."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("thymodel", "numpy", "scipy"))
    shapes = list(TRUTHS)
    lines = ["# Does the extrapolation verdict foretell where intervals fail?", "",
             "Made by `qualification/extrapolation.py`; do not edit. SIMULATED data.", "", f"    {command}", "",
             f"- {versions}, Python {sys.version.split()[0]}; {seconds:.0f} s", "",
             f"Doses {', '.join(f'{x:g}' for x in DOSES)}, {PATIENTS} patients each, residual SD {RESIDUAL:g} of a log "
             "count (assumed). Each dose is left out in turn; a saturating dose response is fitted to the rest, "
             "exactly (see the script: a stand-in for a fit of an ODE model, so that many can be made). Cells: how "
             "often the 90% interval made without the dose holds the true mean there, and of how many. Columns: the "
             "shape of the truth; “as fitted” is drawn from the fit's own prior. The shapes called moderate were added "
             "after a first run with the gross ones alone, under which nearly every interval failed and nothing could "
             "be told apart; the rule was changed then too: mild counts with strong, and a difference has to be 3 "
             "standard errors, no longer 4.", ""]
    for key in ("verdict", "position", "parameters", "left-out dose"):
        lines += [f"## By {key}", "", *_table(rows, key, shapes)]
    lines += ["## By the dose that was left out", "", "| dose | " + " | ".join(shapes) + " |",
              "|---" * (1 + len(shapes)) + "|"]
    lines += [f"| {dose:g} | " + " | ".join(_share([r for r in rows if r["dose"] == dose and r["shape"] == s])
                                            for s in shapes) + " |" for dose in DOSES]
    right = [row["held"] for row in rows if row["shape"] == "as fitted"]
    held = abs(np.mean(right) - 0.9) < 4 * math.sqrt(0.09 / len(right))
    lines += ["", _compared(rows, "moderately other", list(MODERATE)), "",
              _compared(rows, "grossly other", list(GROSS)), "",
              f"**{'PASS' if held else 'FAIL'}** (control): where the truth has the fitted shape, in "
              f"{100 * np.mean(right):.1f}% of {len(right)}, whatever the verdict: strong does not say that an "
              "interval is wrong, only that it rests on the model."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cohorts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    start = time.perf_counter()
    rows = run(asked.cohorts, asked.seed)
    command = "python " + shlex.join(["qualification/extrapolation.py", *sys.argv[1:]])
    asked.out.write_text(report(rows, command, time.perf_counter() - start), encoding="utf-8")


if __name__ == "__main__":
    main()
