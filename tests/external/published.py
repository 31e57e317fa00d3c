"""Published problems as documents: where they lie, how each table becomes study data, how one without units is written.

The published data are converted here and stay where they are.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DETECTION = 100.0  # copies/mL: detection limit of ACTG 315, where the table holds a half of it


def external_folder() -> Path:
    """The folder of published problems: THYMODEL_EXTERNAL, or shared/external beside the checkout."""
    return Path(os.environ.get("THYMODEL_EXTERNAL", HERE.parents[1].parent / "shared" / "external"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def place(name: str, external: Path, folder: Path) -> Path:
    """The documents of a problem beside its data, in a new folder; the path of its spec."""
    rows = TABLES[name](external)
    shutil.copytree(HERE / name, folder)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    digest = hashlib.sha256((folder / "data.csv").read_bytes()).hexdigest()
    spec = folder / "spec.toml"
    spec.write_text(spec.read_text().replace("0" * 64, digest))
    return spec


# --- tables --------------------------------------------------------------------------------------------------


def lynx_hare(external: Path) -> list[dict[str, Any]]:
    data = json.loads((external / "posteriordb" / "hudson_lynx_hare-lotka_volterra" / "data.json").read_text())
    counts = zip([0, *data["ts"]], [data["y_init"], *data["y"]], strict=True)
    return [{"ID": 1, "TIME": time, "EVID": 0, "DVID": name, "DV": value}
            for time, pair in counts for name, value in zip(("hare", "lynx"), pair, strict=True)]


def theophylline(external: Path) -> list[dict[str, Any]]:
    return [_event(row["ID"], row["TIME"], row["AMT"] if row["EVID"] == "101" else "", row["DV"])
            for row in read(external / "pop_pkpd" / "theophylline" / "data.csv")]


def phenobarbital(external: Path) -> list[dict[str, Any]]:
    rows = read(external / "pop_pkpd" / "phenobarbital" / "data.csv")
    return [_event(row["ID"], row["TIME"], row["AMT"] if row["EVID"] == "1" else "", row["DV"])
            | {"WT": row["WT"], "low": int(float(row["APGR"]) < 5)} for row in rows]


def _torsten(external: Path, name: str) -> list[dict[str, Any]]:
    rows = read(external / "pop_pkpd" / name / "data.csv")
    return [_event(row["id"], row["time"], row["amt"] if row["evid"] == "1" else "", row["conc"])
            | {key: row[key.lower()] if row["evid"] == "1" else "." for key in ("ADDL", "II")} for row in rows]


def torsten_single(external: Path) -> list[dict[str, Any]]:
    return _torsten(external, "torsten_two_cpt_single")


def torsten_population(external: Path) -> list[dict[str, Any]]:
    return _torsten(external, "torsten_two_cpt_population")


def warfarin(external: Path) -> list[dict[str, Any]]:
    """A second measurement at the same time stands a thousandth of an hour later."""
    found, last = [], ()
    for row in read(external / "pop_pkpd" / "warfarin_pkpd" / "data.csv"):
        dose, key = row["evid"] == "1", (row["id"], row["time"], row["evid"], row["dvid"])
        time = repr(float(row["time"]) + 1e-3) if key == last else row["time"]
        found.append(_event(row["id"], time, row["amt"] if dose else "", row["dv"])
                     | {"DVID": "." if dose else row["dvid"]})
        last = key
    return found


def leukocytes(external: Path) -> list[dict[str, Any]]:
    """An infusion is a row with its rate and one with minus that rate where it ends; here one row holds both."""
    rows = read(external / "pop_pkpd" / "wbcSim_friberg" / "data.csv")
    ends = {row["ID"]: float(row["TIME"]) for row in rows if float(row["RATE"]) < 0}
    found = []
    for row in rows:
        rate, fixed = float(row["RATE"]), {"CL": row["CLI"], "V1": row["V1I"], "V2": row["V2I"]}
        if rate > 0:
            amount = rate * (ends[row["ID"]] - float(row["TIME"]))
            found.append(_event(row["ID"], row["TIME"], repr(amount), "") | {"RATE": repr(rate)} | fixed)
        elif rate == 0:
            found.append(_event(row["ID"], row["TIME"], "", row["DV"]) | {"RATE": "."} | fixed)
    return found


def hiv(external: Path) -> list[dict[str, Any]]:
    """Each patient up to the first value below the limit, which is censored there."""
    rows, found, over = read(external / "immunology" / "actg315_hiv" / "data.csv"), [], set()
    for row in rows:
        copies, patient = 10 ** float(row["log10.RNA."]), int(float(row["Patid"]))
        if patient not in over:
            below = copies < DETECTION
            found.append({"ID": patient, "TIME": row["Day"], "EVID": 0, "DV": DETECTION if below else repr(copies),
                          "CENS": int(below)})
            over |= {patient} if below else set()
    return found


def _event(identity: str, time: str, amount: str, value: str) -> dict[str, Any]:
    return {"ID": identity, "TIME": time, "EVID": int(bool(amount)), "AMT": amount or ".",
            "DV": "." if amount else value}


TABLES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "lynx_hare": lynx_hare, "theophylline": theophylline, "phenobarbital": phenobarbital,
    "torsten_single": torsten_single, "torsten_population": torsten_population, "warfarin": warfarin,
    "leukocytes": leukocytes, "hiv": hiv}


# --- models without units ------------------------------------------------------------------------------------


def document(title: str, states: Mapping[str, str], initial: Mapping[str, float], numbers: Mapping[str, float],
             expressions: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """A model document: every quantity is a pure number and time is in days, so each rate is multiplied by one per day.
    """
    lines = [f'title = "{title}"', 'description = "a published problem"', "[constants]",
             'per_day = { unit = "1/day", value = 1, source = "the problem has no time unit" }', "[parameters]"]
    lines += [f'{key} = {{ unit = "1", value = {float(value)!r}, source = "the problem" }}'
              for key, value in numbers.items()]
    lines += ["[expressions]", *[f"{key} = {json.dumps(text)}" for key, text in expressions.items()]]
    for key, text in states.items():
        lines += [f"[states.{key}]", 'unit = "1"', f'initial = "{float(initial[key])!r}"',
                  f"rate = {json.dumps(f'per_day*({text})')}"]
    lines += ["[observables]"]
    lines += [f'{key} = {{ unit = "1", value = {json.dumps(text)} }}' for key, text in outputs.items()]
    return "\n".join(lines)


def ivp_end(problem: Mapping[str, Any], name: str, kind: str | None = None):
    """States of an initial value problem at its end."""
    from thymodel.documents.model import parse_model
    from thymodel.dynamics.solving import plan, trajectories

    states: Sequence[str] = problem["states"]
    text = document(name, dict(zip(states, problem["rhs"], strict=True)),
                    dict(zip(states, problem["y0"], strict=True)), problem["params"], {}, {s: s for s in states})
    model = parse_model(text, name)
    values = {key: item.value for key, item in model.parameters.items()}
    return trajectories(model, values, [plan(model, [], {}, [problem["t_end"]])], states, kind=kind)[0, 0]
