"""What a fit to simulated data learned, beside what `identify` expected of the study and beside the truth.

    python qualification/learned.py fits/competition_design --out qualification/learned.md

Expected is the SD kept of the prior's at the priors' medians, from the design alone; found is that of the fit. A truth
counts as covered if it lies in the fit's equal-tailed 90% interval.
"""

import argparse
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom, spearmanr

LEVEL = 0.9
FALSE_ALARM = 0.01  # of the count of truths covered, were they independent


@dataclass(frozen=True)
class Row:
    name: str
    truth: float
    median: float
    low: float
    high: float
    expected: float
    found: float

    @property
    def covered(self) -> bool:
        return self.low <= self.truth <= self.high


def truths(folder: Path) -> dict[str, float]:
    """Typical values, spreads and errors that the data were simulated with, by their names in a record."""
    from thymodel.documents.design import load_design

    design = load_design(folder / "design.toml")
    spreads = {f"omega_{name}": item.sd for name, item in design.between_subject.items()}
    errors = {f"sigma_{name}": assay.parameters["log_sd"] for name, assay in design.assays.items()}
    return dict(design.values) | spreads | errors


def rows(folder: Path) -> list[Row]:
    from thymodel.inference.information import contraction
    from thymodel.results.identifiability import identify
    from thymodel.results.record import load_record

    record, study, known = load_record(folder), identify(folder), truths(folder)
    kept, table = contraction(record.layout, record.z), record.table
    return [Row(name, known[name], *(float(table.loc[name, key]) for key in ("median", "q05", "q95")),
                float(study.contraction[k]), kept[name]) for k, name in enumerate(study.names)]


def report(name: str, found: list[Row]) -> str:
    covered, count = sum(row.covered for row in found), len(found)
    least = int(binom.ppf(FALSE_ALARM, count, LEVEL))
    order = spearmanr([row.expected for row in found], [row.found for row in found]).statistic
    apart = max(found, key=lambda row: abs(row.found - row.expected))
    lines = [f"# What the fit {name} learned (SIMULATED data)", "",
             "Made by `qualification/learned.py`; do not edit.", "",
             f"    python {shlex.join(sys.argv)}", "",
             f"- Python {platform.python_version()}, NumPy {np.__version__}",
             f"- {covered} of {count} truths lie in their 90% intervals; fewer than {least} would happen to a right "
             f"fit with probability below {FALSE_ALARM:g}, were they independent.",
             f"- SD kept of the prior's, expected from the design and found: rank correlation {order:.3f}; they differ "
             f"most for {apart.name} ({apart.expected:.2f} expected, {apart.found:.2f} found).", "",
             "| parameter | truth | median (90% interval) | truth covered | SD kept, expected | SD kept, found | |",
             "|---|---|---|---|---|---|---|"]
    for row in sorted(found, key=lambda row: row.found):
        word = "learned" if row.found < 0.5 else "partly" if row.found < 0.8 else "kept its prior"
        lines.append(f"| {row.name} | {row.truth:.3g} | {row.median:.3g} ({row.low:.3g} to {row.high:.3g}) | "
                     f"{'yes' if row.covered else '**no**'} | {row.expected:.2f} | {row.found:.2f} | {word} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a record beside its design")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text = report(asked.folder.name, rows(asked.folder))
    asked.out.write_text(text, encoding="utf-8") if asked.out else print(text)


if __name__ == "__main__":
    main()
