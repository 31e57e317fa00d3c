"""A scenario of 4 arms x 500 draws x 500 virtual patients over 730 days, endpoints included.

    python benchmarks/scenario.py [RECORD]           some minutes; fits/reset02_design by default

Each round is a process of its own on two cores, from load_record to the table, with imports and preparation in it. The
first fills the cache of compiled programs and is not counted. Then what a patient costs in one process on one core:
solving, and solving with judging.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import timing

ARMS, DRAWS, SUBJECTS, ROUNDS = 4, 500, 500, 5
ROOT = Path(__file__).resolve().parents[1]
ONE = "--one"
TEXT = f"""
title = "speed"
subjects = {SUBJECTS}
draws = {DRAWS}
[endpoints.cd4_200]
marker = "cd4"
threshold = 200
unit = "cell/uL"
sustained_for = 14
horizon = 730
by = [100, 180, 365]
[arms.control]
[arms.low]
doses = [{{ amount = 1.5, day = 7 }}]
[arms.middle]
doses = [{{ amount = 4, day = 7 }}]
[arms.high]
doses = [{{ amount = 9, day = 7 }}]
"""


def once(record: str, scenario: str) -> dict[str, float]:
    begin = time.perf_counter()
    from thymodel.results.record import load_record
    from thymodel.results.scenarios import run_scenario

    imported = time.perf_counter()
    run_scenario(load_record(record), scenario)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"imports": imported - begin, "clock": time.perf_counter() - imported,
            "processor": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1e6}


def elsewhere(record: str, scenario: Path) -> dict[str, float]:
    command = [sys.executable, __file__, ONE, record, str(scenario)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def a_patient(record: str, scenario: Path) -> list[list[str]]:
    """Of one block, on one core: courses alone, and courses with what is judged of them."""
    from thymodel.documents.spec import load_scenario_spec
    from thymodel.inference.sampling import thin
    from thymodel.results import scenarios
    from thymodel.results.prediction import courses, virtual_subjects
    from thymodel.results.reconstitution import prepare_judging
    from thymodel.results.record import load_record

    found = load_record(record)
    fit, asked = found.spec, load_scenario_spec(scenario, found.spec.model)
    people = virtual_subjects(fit, scenarios.covariates_of(found), asked.subjects, asked.seed)
    judging = prepare_judging(fit, found.layout, thin(found.z, asked.draws), asked.arms, people, asked.endpoints)
    sim, block = judging.simulation, judging.blocks[1]
    patients = ARMS * sim.size[0] * sim.size[1]
    names = sim.solver.observables
    seconds = timing.interleaved({"courses": [lambda: courses(sim, judging.z, block, names)],
                                  "courses, judged": [lambda: judging(block)]}, 3 * ROUNDS)
    rows = sim.solver.tables.grid.rows.shape[1] if sim.solver.tables.grid is not None else 0
    return [[f"{name}: {len(sim.times)} days, {rows} rows of steps",
             f"{1e6 * timing.median(own.processor) / patients:.3g}",
             f"{1e6 * min(own.processor) / patients:.3g} to {1e6 * max(own.processor) / patients:.3g}"]
            for name, own in seconds.items()]


def main(record: str) -> None:
    scenario = Path(os.environ.get("TMPDIR", "/tmp")) / "thymodel_speed.toml"
    scenario.write_text(TEXT, encoding="utf-8")
    elsewhere(record, scenario)
    rounds = [elsewhere(record, scenario) for _ in range(ROUNDS)]
    timing.show(["what", "median", "range"],
                [[name, f"{timing.median([r[key] for r in rounds]):.3g}",
                  f"{min(r[key] for r in rounds):.3g} to {max(r[key] for r in rounds):.3g}"]
                 for name, key in (("imports, s", "imports"), ("record to table, s", "clock"),
                                   ("processor time in all, s", "processor"), ("largest memory, GB", "memory"))])
    timing.pin_to_one_core()
    timing.show(["of a patient, one core", "us, median", "range"], a_patient(record, scenario))
    print(f"\n{record}: {ARMS} arms x {DRAWS} draws x {SUBJECTS} virtual patients, 730 days; {ROUNDS} rounds. "
          + timing.machine("jax", "llvmlite", "numpy"))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != ONE]
    if ONE in sys.argv:
        print(json.dumps(once(*words)))
    else:
        main(words[0] if words else str(ROOT / "fits" / "reset02_design"))
