"""What a prior from published figures does to a small study: the same SIMULATED cohort, fitted with it and without.

    python qualification/borrowed_prior.py --out qualification/borrowed_prior.md

The cohort is an interim look: 6 controls and 6 treated, none followed beyond day 80, so that what happens by day 100 is
predicted. `with` takes the posterior of fits/published_controls for the parameters that both estimate.
"""

import argparse
import platform
import shlex
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "borrowed_prior"
LINES = ("[prior_from]", "record = ", "reason = \"controls")


def write(folder: Path, borrowed: bool) -> Path:
    """The study's files with the prior, or without: the three lines of the spec that take it left out."""
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / "cohort.csv", folder)
    lines = (FOLDER / "spec.toml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if borrowed or not line.startswith(LINES)]
    source = (HERE.parent / "fits" / "published_controls").resolve().as_posix()
    text = "\n".join(kept).replace("../../fits/published_controls", source)
    (folder / "spec.toml").write_text(text + "\n", encoding="utf-8")
    return folder


def spans(record, names: list[str]) -> dict[str, str]:
    table = record.table.loc[names]
    return {str(name): f"{row['median']:.3g} ({row['q05']:.3g} to {row['q95']:.3g})" for name, row in table.iterrows()}


def report(plain, taken) -> str:
    prior = taken.content["prior_from"]
    names = list(taken.spec.estimate)
    by = [name for name in taken.table.index if ".by_100[" in name]
    a, b = spans(plain, names + by), spans(taken, names + by)
    worth = {row["name"]: row for row in prior["parameters"]}

    def span(row: dict, key: str) -> str:
        return f"{row[key][1]:.3g} ({row[key][0]:.3g} to {row[key][2]:.3g})"

    heads = ("parameter", "own prior", "borrowed prior", "ESS, own", "ESS, borrowed", "posterior without",
             "posterior with")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in names:
        row = worth.get(name)
        sizes = [f"{row[key]:.1f}" if row[key] is not None else "no patient tells" for key in ("own_ess", "ess")
                 ] if row else ["", ""]
        cells = (span(row, "own"), span(row, "borrowed"), *sizes) if row else ("(as written)", "not borrowed", *sizes)
        lines.append(f"| {name} | {' | '.join(cells)} | {a[name]} | {b[name]} |")
    lines += ["", "| share of subjects reconstituted by day 100 | without | with |", "|---|---|---|"]
    lines += [f"| {name.split('.')[0]}, {name.split('[')[1][:-1]} | {a[name]} | {b[name]} |" for name in by]
    return "\n".join(lines + ["", *(f"- {sentence}" for sentence in prior["sentences"]),
                              f"- ESS: {prior['ess_note']}."])


def main() -> None:
    from thymodel.results.fitting import fit

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, taken = (fit(write(Path(folder) / name, name == "with")) for name in ("without", "with"))
        passed = [("passed" if record.passed else "FAILED") + " its gates" for record in (plain, taken)]
        text = "\n".join([
            "# What a prior from published figures does to a small study",
            "", "SIMULATED patients, a prior from REAL published figures.", "",
            "Made by `qualification/borrowed_prior.py`; do not edit.", "",
            f"    python {shlex.join(['qualification/borrowed_prior.py', *sys.argv[1:]])}", "",
            f"- Python {platform.python_version()}, thymodel {metadata.version('thymodel')}; {platform.platform()}",
            f"- the fit without {passed[0]}, the fit with {passed[1]}",
            "- 6 controls and 6 treated, none followed beyond day 80; medians with equal-tailed 90% intervals", "",
            report(plain, taken), ""])
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
