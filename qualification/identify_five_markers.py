"""Which measurement informs which parameter of thymus_competition? Expected posterior SDs, marker by marker.

    python qualification/identify_five_markers.py --out qualification/identifiability.md

The study is qualification/identifiability (spec and design; nothing is fitted). PRINTED holds the table of the model
family's specification, made before this package by finite differences of another implementation; its visit days and
marker SDs were not kept, so the ordering counts and not the digits.
"""

import argparse
import platform
import shlex
import sys
from pathlib import Path

import numpy as np

STUDY = Path(__file__).resolve().parent / "identifiability"
MARKERS = ("cd4", "cd8", "naive4", "rte4", "trec_per_ul")
COLUMNS = {"CD4+CD8": 2, "+naive4": 3, "+RTE": 4, "+TREC": 5}  # markers in use
CONTROLS = "controls only"
# posterior SDs of logs, columns as above, then controls with all markers; the first number is the prior's SD
PRINTED = {
    "eta": (1.00, 0.97, 0.84, 0.76, 0.67, 1.00), "r_e": (0.25, 0.25, 0.22, 0.21, 0.20, 0.23),
    "k_e": (0.20, 0.20, 0.18, 0.18, 0.17, 0.20), "f_th": (0.70, 0.54, 0.26, 0.20, 0.15, 0.18),
    "tau_D": (0.25, 0.25, 0.25, 0.24, 0.24, 0.25), "k_B": (0.30, 0.29, 0.24, 0.22, 0.19, 0.21),
    "B0": (1.0, 0.98, 0.79, 0.71, 0.62, 0.73), "S0": (0.40, 0.39, 0.35, 0.33, 0.31, 0.39),
    "rho_S": (0.60, 0.60, 0.60, 0.59, 0.59, 0.59), "rho_X": (0.70, 0.70, 0.69, 0.67, 0.64, 0.66),
    "pN": (0.40, 0.28, 0.20, 0.19, 0.18, 0.18), "mR": (0.50, 0.50, 0.50, 0.31, 0.30, 0.36),
    "a0": (0.60, 0.54, 0.45, 0.45, 0.44, 0.45), "cb": (0.60, 0.54, 0.46, 0.45, 0.45, 0.46),
    "pM4": (0.30, 0.18, 0.14, 0.14, 0.13, 0.15), "dM4": (0.30, 0.23, 0.22, 0.22, 0.21, 0.23),
    "KM4": (0.50, 0.39, 0.38, 0.38, 0.38, 0.39), "pM8": (0.30, 0.09, 0.09, 0.09, 0.09, 0.10),
    "KM8": (0.50, 0.23, 0.22, 0.22, 0.19, 0.23), "kcy_M": (0.50, 0.37, 0.33, 0.33, 0.33, 0.34),
    "kcy_N": (0.50, 0.44, 0.11, 0.11, 0.11, 0.11), "G_T": (0.30, 0.24, 0.24, 0.24, 0.24, 0.24),
    "c_R": (0.30, 0.30, 0.30, 0.30, 0.14, 0.16), "k_P": (0.30, 0.30, 0.30, 0.30, 0.30, 0.30),
    "Th_ratio": (0.40, 0.40, 0.37, 0.36, 0.35, 0.36),
}


def posterior_sds() -> dict[str, tuple[float, ...]]:
    """Parameter -> prior SD and expected posterior SD with more and more markers, then with the controls alone."""
    from thymodel.documents.spec import load_fit_spec
    from thymodel.inference.information import expected_contraction
    from thymodel.results.identifiability import load_plan, make_survey

    spec = load_fit_spec(STUDY)
    plan, design = load_plan(spec, None)
    survey = make_survey(spec, plan, design, draws=1, additions=False)
    size = len(survey.layout.population)
    rows = [survey.planned(MARKERS[:count]) for count in COLUMNS.values()] + [survey.planned(MARKERS, ["control"])]
    kept = [expected_contraction(survey.information(np.zeros(size), some), np.ones(size)) for some in rows]
    sds = {name: item.prior.numbers["sd"] for name, item in spec.estimate.items()}
    return {name: (sd, *(sd * float(one[k]) for one in kept)) for k, (name, sd) in enumerate(sds.items())}


def agreement(found: dict[str, tuple[float, ...]]) -> tuple[float, float]:
    """Rank correlation of what is kept of the prior, over all printed cells, and the largest difference of it."""
    from scipy.stats import spearmanr

    ours = np.array([[sd / found[name][0] for sd in found[name][1:]] for name in PRINTED])
    printed = np.array([[sd / row[0] for sd in row[1:]] for row in PRINTED.values()])
    return float(spearmanr(ours.ravel(), printed.ravel()).statistic), float(np.abs(ours - printed).max())


def report(found: dict[str, tuple[float, ...]]) -> str:
    import thymodel
    from thymodel.results.identifiability import identify, warnings

    correlation, apart = agreement(found)
    head = ["parameter", "prior SD", *COLUMNS, CONTROLS]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in found.items():
        printed = PRINTED.get(name)
        cells = [f"{sd:.2f}" + (f" ({printed[k + 1]:.2f})" if printed else "") for k, sd in enumerate(row[1:])]
        rows.append(f"| {name} | {row[0]:.2f} | " + " | ".join(cells) + " |")
    ties = "\n".join(f"- {line}" for line in warnings(identify(STUDY)))
    return f"""# Which measurement informs which parameter: thymus_competition

Made by `qualification/identify_five_markers.py`; do not edit. A study on paper: nothing was measured or fitted.

    {shlex.join(["python", *sys.argv])}

- thymodel {thymodel.__version__}, Python {platform.python_version()}, NumPy {np.__version__}

Expected posterior SD (in brackets: the printed table) of the logs of 28 parameters: 20 controls and 6 subjects each at
1.5, 4 and 9 million progenitors per kg on day 7, all with PTCy on days 3 and 4, ten visits, all subjects pooled, so
that every number is optimistic. Study: [`identifiability/`](identifiability).

{chr(10).join(rows)}

Over the {5 * len(PRINTED)} cells of the printed table the SD kept of the prior's has a rank correlation of
{correlation:.3f} with the printed one, and differs from it by at most {apart:.2f}.

What `thymodel identify qualification/identifiability` warns of, with all five markers:

{ties}

## What is alike

- Total CD4 and CD8 leave eta at its prior; naive CD4, RTE and TREC each take some off, and controls say nothing of it.
- RTE inform mR and TREC inform c_R, which keep their priors until then; naive CD4 is what informs f_th and kcy_N most.
- a0 and cb are known as their product only: each keeps three quarters of its prior, whatever is measured.
- Residence times (k_e, tau_D, k_P) and the recovery of thymic epithelium (rho_S, rho_X) stay near their priors.

## What differs, and why

- The visit days, the marker SDs within 0.5 to 0.8, the unit of TREC (here per uL) and three of the 28 parameters of the
  printed table were not kept. Here: days 14 to 540 as in the design, log-SDs 0.5, 0.5, 0.6, 0.8 and 0.8, and K_I, w8
  and k_c as the three. They were chosen because of all triples of twelve candidates (K_I, w8, zeta, dM8, dN, amp_i,
  x50, x4, s4, s8, kcy_P, k_c) they come closest to the printed cells: a guess, and no record of what was done.
- The days and SDs being guesses too, differences in single cells (those of mR are the largest) have no cause that could
  be named from what was kept.
- The printed table is of an implementation with dynamic PTCy and IL-7 (34 states); this model takes their limits. The
  priors of S0 are as printed (log scale, 0.40); the model file has it on the logit scale.
- Derivatives are exact here (the solver's adjoint), by finite differences there. The errors' SDs are estimated with the
  rest here; with normal errors that changes nothing for the other parameters.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    text = report(posterior_sds())
    out.write_text(text, encoding="utf-8") if out else print(text)


if __name__ == "__main__":
    main()
