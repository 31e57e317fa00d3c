"""Is there a file that a reader of this package neither reads nor refuses? Mutated files, one by one.

    python qualification/fuzz_parsers.py --files 100000 --seed 1 --out qualification/fuzz_parsers.md

Every valid and every bad file of the repository is a seed. A case is drawn from the seed number, the reader's name and
the case's number: a file, wounded one to four times at the level of bytes, words, lines, values of TOML, JSON and XML,
cells of CSV or objects of HDF5, or written anew by a small grammar. The reader gets it in a process of its own with
limits of processor time and of address space, inside a folder that is compared before and after. Right answers: a
value, or the package's own error. All else is a fault: another exception, a warning, more than 5 s of processor time, a
crash, a file written, a process or a connection opened.

A new reader is one line in `targets`. With --work a run that was stopped goes on.
"""

import argparse
import contextlib
import csv
import datetime
import io
import json
import math
import os
import platform
import random
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 5.0  # of processor time for a file; the clock of the wall would count what other programs of a machine take
HARD_SECONDS = 10.0  # then the process is ended, wherever it is
WALL = 120.0  # of a file that waits without working
MEMORY = 1_500_000_000  # bytes of address space beyond what the process has when it begins
LARGEST = 6_000_000  # bytes of a case: some are larger than the limits of documents
BATCH = 500  # cases of a process: caches of sympy grow
COMPARED_EVERY = 25  # cases, then the folder is compared; what Python itself opens for writing is seen at once
LONGEST_FAULT = 2_000  # characters of one line told to a person
COMMAND_SHARE = 0.003  # of all cases: 300 of 100,000 go through the command line


class Target(NamedTuple):
    """A reader: what it is called, its part of all cases, its seeds (patterns in the sandbox, or texts), the grammar of
    its files, how it is asked, and what else than the package's own errors its contract says that it raises."""

    name: str
    share: float
    seeds: tuple[str, ...]
    kind: str
    load: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = ()


class Case(NamedTuple):
    path: Path  # where the seed lies, and the case takes its place
    content: bytes


class Outcome(NamedTuple):
    """`kind`: read, refused, or a fault; `said` tells one fault from another."""

    kind: str
    said: str
    seconds: float
    detail: str = ""


FINE = ("read", "refused")


# --- the readers -----------------------------------------------------------------------------------------------


def targets(box: Path) -> list[Target]:
    """Every reader of a file or of a text that a stranger may send."""
    from thymodel.documents.analysis_plan import load_plan
    from thymodel.documents.borrowed import load_borrowed
    from thymodel.documents.data import load_data
    from thymodel.documents.design import load_design
    from thymodel.documents.escalation import load_escalation
    from thymodel.documents.event_import import import_events
    from thymodel.documents.expressions import parse_expression, unit_of
    from thymodel.documents.import_map import load_import_map
    from thymodel.documents.learning import load_learning
    from thymodel.documents.model import load_model
    from thymodel.documents.priors import parse_correlation_prior, parse_prior, support
    from thymodel.documents.protocol import load_protocol
    from thymodel.documents.published import read_published
    from thymodel.documents.regimen import parse_course, parse_doses
    from thymodel.documents.sbml import load_sbml
    from thymodel.documents.spec import load_fit_spec, load_scenario_spec, read_scenario_spec
    from thymodel.documents.toml import digest, read_text
    from thymodel.documents.units import DIMENSIONLESS, parse_unit
    from thymodel.explorer.views import read_view, scenario_text
    from thymodel.inference.sampling import _Store
    from thymodel.results import record as records
    from thymodel.results.run_log import read_log, read_runs

    model, store = load_model("thymus_core"), _Store(box / "boxed/run", "it")
    fit = load_fit_spec(box / "fits/reset02_design")
    figures = load_fit_spec(box / "fits/published_controls")
    decay = load_model(box / "tests/bad/decay.toml")
    names = ["x", "y", "k", "age", "t", "amount"]
    known = [*fit.estimate, *records.read_table(ROOT / "fits/reset02_design/table.csv").index]

    def expression(path: Path):
        found = parse_expression(_text(path), names)
        unit_of(found, dict.fromkeys(names, DIMENSIONLESS), {"k": 1.0})
        return found

    def signed(path: Path):
        """A record as an attacker would send it: every digest in it is right."""
        with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError):
            content = json.loads(path.read_bytes())
            if isinstance(content.get("files"), dict):
                content["files"] |= {
                    name: digest((path.parent / name).read_bytes())
                    for name in content["files"]
                    if (path.parent / name).is_file()
                }
            content["digest"] = records._own_digest(content)
            path.write_text(json.dumps(content, ensure_ascii=False))
        return whole(path)

    def whole(path: Path):
        found = records.load_record(path.parent)
        records.verify(found)
        _ = found.layout, found.z, found.reservation, found._repr_html_()
        return records.quote(found, ["kill"])

    def resigned(path: Path):
        """A file of a record was changed, and the record's digests with it."""
        place = path.parent / "record.json"
        kept = place.read_bytes()
        try:
            return signed(place)
        finally:
            place.write_bytes(kept)

    def population(path: Path):
        text = PEOPLE.replace("SHA256", digest(path.read_bytes()))
        return read_scenario_spec(text, path.with_name("people.toml"), model, fit.endpoints)

    controls = _controls()
    return [
        Target("expression", 24, EXPRESSIONS, "text", expression, (ValueError,)),
        Target("prior", 5, PRIORS, "text", lambda p: support(parse_prior(_text(p))), (ValueError,)),
        Target("correlation prior", 1, PRIORS, "text", lambda p: parse_correlation_prior(_text(p)), (ValueError,)),
        Target("unit", 4, UNITS, "text", lambda p: parse_unit(_text(p)), (ValueError,)),
        Target("dose", 2, DOSES, "text", lambda p: parse_doses(_text(p).split("\n"), model)),
        Target("covariate course", 2, COURSES, "text", lambda p: parse_course(_text(p))),
        Target(
            "model",
            12,
            (
                "models/*.toml",
                "tests/bad/decay.toml",
                "tests/bad/model_*.toml",
                "tests/external/*/model.toml",
                *["tests/bad/decay.toml"] * 8,
            ),
            "toml",
            load_model,
        ),
        Target(
            "fit spec",
            7,
            ("fits/*/spec.toml", "tests/bad/spec_*.toml", "qualification/*/spec.toml", "tests/external/*/spec.toml"),
            "toml",
            load_fit_spec,
        ),
        Target(
            "design",
            5,
            ("fits/*/design.toml", "qualification/*/design.toml", "tests/bad/design_*.toml"),
            "toml",
            load_design,
        ),
        Target(
            "scenario",
            6,
            ("fits/*/scenarios/*.toml", "tests/bad/scenario_*.toml", "tests/bad/competing.toml", "boxed/people.toml"),
            "toml",
            lambda p: load_scenario_spec(p, model, fit.endpoints),
        ),
        Target("people of a scenario", 2, ("boxed/people.csv",), "csv", population),
        Target(
            "trial",
            3,
            ("fits/*/trials/phase2.toml", "tests/bad/trial.toml"),
            "toml",
            lambda p: load_protocol(p, model, fit.endpoints),
        ),
        Target(
            "escalation",
            2,
            ("fits/*/trials/escalation.toml", "tests/bad/escalation.toml"),
            "toml",
            lambda p: load_escalation(p, model, fit.endpoints),
        ),
        Target("learning", 2, ("fits/*/trials/next_cohort.toml",), "toml", lambda p: load_learning(p, fit, known)),
        Target(
            "published figures",
            4,
            ("fits/published_controls/figures.toml", "tests/bad/published.toml"),
            "toml",
            lambda p: read_published("it", p, read_text(p), "0" * 64, figures.model, figures.likelihood),
        ),
        Target(
            "study data",
            10,
            ("boxed/reset02.csv", "boxed/decay.csv"),
            "csv",
            lambda p: load_data(
                p, decay if p.name == "decay.csv" else model, DECAY_COLUMNS() if p.name == "decay.csv" else fit.columns
            ),
        ),
        Target(
            "record",
            3,
            ("fits/*/record.json", "boxed/record/record.json"),
            "json",
            lambda p: records._check_digests(records.load_record(p.parent)),
        ),
        Target("record, signed anew", 0.7, ("boxed/record/record.json",), "json", signed),
        Target("table of a record", 0.7, ("boxed/record/table.csv",), "csv", resigned),
        Target("spec of a record", 0.4, ("boxed/record/spec.toml",), "toml", resigned),
        Target("draws of a record", 0.5, ("boxed/record/posterior.nc", "boxed/record/derived.nc"), "hdf5", resigned),
        Target(
            "netCDF",
            2,
            ("boxed/record/posterior.nc", "boxed/small.nc"),
            "hdf5",
            lambda p: [records.load_group(p, group) for group in (None, "posterior")],
        ),
        Target("prior from a record", 2, ("boxed/prior_from.json",), "json", load_borrowed),
        Target("checkpoint", 2, ("boxed/run/pilot.npz",), "bytes", lambda p: store._load(p.name)),
        Target("analysis plan", 3, ("fits/*/plan.toml", "tests/bad/plan.toml"), "toml", load_plan),
        Target("map for import", 2, ("boxed/map.toml",), "toml", load_import_map),
        Target("data of other tools", 6, ("boxed/nonmem.csv", "boxed/labs.csv"), "csv", import_events),
        Target("run log", 3, ("boxed/logs/log.jsonl",), "json", lambda p: (read_log(p), read_runs(p.parent))),
        Target("SBML", 5, ("boxed/*.xml",), "xml", load_sbml),
        Target(
            "address of the explorer",
            3,
            QUERIES,
            "text",
            lambda p: scenario_text(read_view(_text(p), controls, model), controls, model, "it"),
        ),
    ]


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def DECAY_COLUMNS():
    from thymodel.documents.data import DataColumns

    return DataColumns(units={"TIME": "day", "count": "cell/uL", "cells": "cell/uL", "age": "year"})


def _controls():
    from thymodel.explorer.views import Controls, Slider

    def slider(key, high, value):
        return Slider(key, key, "1", 0.0, high, high / 100, value, "fitted: 1, 2")

    sliders = (
        slider("dose.progenitors", 36.0, 9.0),
        slider("day.progenitors", 90.0, 7.0),
        slider("times", 4.0, 1.0),
        slider("apart", 28.0, 14.0),
        slider("against", 36.0, 0.0),
        slider("age", 90.0, None),
    )
    return Controls(sliders, ("progenitors",), ("age",), {"cd4": (100.0, 365.0)}, (0.0, 9.0), (9.0,), {})


EXPRESSIONS = (
    "k*x/(1 + x)",
    "exp(-k*t)*(x + y) - max(x - y, 0)",
    "hill(x, k, 2) + softplus(age - 45)/10",
    "piecewise(x, t < 30, x*exp(-k*(t - 30)))",
    "x**2 + y**0.5 - sqrt(abs(x*y))",
    "min(x, y, k)**3*expit(t)",
    "((x + y)*(x - y) + (k + t)*(k - t))/(1 + amount/50)",
    "2*(x + 3*(y + 4*(k + 5*t)))",
    "log1p(x)*tanh(y)",
)
PRIORS = (
    "lognormal(median=0.1, sd=0.2)",
    "logitnormal(median=0.5, sd=1)",
    "normal(mean=-1, sd=2)",
    "lkj(shape=2)",
    "truncnormal(mean=0, sd=1, lower=-1, upper=inf)",
    "halfnormal(sd=1)",
    "uniform(lower=0, upper=1e3)",
    "halfcauchy(scale=2)",
    "exponential(mean=3)",
)
UNITS = ("1", "Mcell/kg", "1/day", "cell/uL", "mL/(kg*day)", "copies/uL", "mg/kg", "kcell*day**-1", "%", "µg/mL")
DOSES = ("9@7", "50@3:ptcy", "1.5@7\n1.5@21\n1.5@35:progenitors", "0@0")
COURSES = ("age=45", "gvhd=0@0,1@30,0@90", "BW=70@-10,75@0")
QUERIES = (
    "dose.progenitors=9&day.progenitors=7&times=1&apart=14&against=0&endpoint=cd4&by=100",
    "times=4&apart=28&age=45.5&log=1",
    "dose.progenitors=0",
    "",
)


NONMEM = """#made up
ID,DATE,TIME,AMT,RATE,ADDL,II,EVID,MDV,CMT,DV,BLQ,WT,SEX
1,2024-03-01,08:00,100,.,2,12,1,1,1,.,0,70,1
1,2024-03-01,09:30,.,.,.,.,0,0,2,5.1,0,70,1
1,2024-03-02,08:15,.,.,.,.,0,0,2,<0.5,1,70,1
2,2024-03-01,08:00,120,60,.,.,1,1,1,.,0,55,0
2,2024-03-01,10:00,.,.,.,.,0,0,2,7.4,0,55,0
"""
LABS = """Patient;Day;CD4 (cells/uL);CD8 (cells/uL);Age
a;7;12;30;44
a;28;<5;55;44
b;7;.;41;61
b;28;80;>1000;61
"""
MAP = """separator = "semicolon"
time_zero = "file"
missing   = ["-99"]
columns   = { ID = "Patient", TIME = "Day" }
markers   = { cd4 = "CD4 (cells/uL)", cd8 = "CD8 (cells/uL)" }
codes     = { SEX = { male = 1, female = 0 } }
lloq      = { cd4 = 5 }

[units.cd4]
from = "cell/uL"
to   = "cell/uL"

[[exclude]]
column = "Age"
equals = ["17"]
reason = "not an adult"
"""
LINE = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00", "outcome": "finished",
        "verdict": "passed", "method": "nuts", "chains": 4, "draws": 500, "divergences": 0, "worst_rhat": 1.004,
        "changed": ["spec estimate"], "record": "0" * 64, "parent": {"name": "first", "digest": "0" * 64},
        "spec": {"sha256": "0" * 64}, "model": {"name": "decay", "sha256": "0" * 64},
        "data": {"name": "data.csv", "sha256": "0" * 64}}


# --- the sandbox -----------------------------------------------------------------------------------------------


def make_sandbox(box: Path) -> None:
    """A copy of the repository's documents, and small files that it has no room for."""
    from thymodel.documents.borrowed import Borrowed, borrowed_text
    from thymodel.documents.model import load_model
    from thymodel.documents.sbml_export import sbml_text
    from thymodel.documents.toml import digest
    from thymodel.inference.sampling import _Store
    from thymodel.results.run_log import append

    for top in ("models", "fits", "tests/bad", "tests/external", "qualification"):
        for path in sorted((ROOT / top).rglob("*")):
            kept = path.suffix in (".toml", ".csv") or path.name == "record.json"
            if path.is_file() and kept and not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                place = box / path.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
    boxed = box / "boxed"
    boxed.mkdir()
    rows = (ROOT / "fits/reset02_design/cohort.csv").read_text(encoding="utf-8").splitlines()[:40]
    (boxed / "reset02.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (boxed / "decay.csv").write_text(DECAY_DATA, encoding="utf-8")
    people = "age,sex\n30,1\n45,2\n61,1\n"
    (boxed / "people.csv").write_text(people, encoding="utf-8")
    (boxed / "people.toml").write_text(PEOPLE.replace("SHA256", digest(people)), encoding="utf-8")
    for name in ("tests/bad/decay.toml", "models/lymphocyte_regrowth.toml", "models/thymus_core.toml"):
        model = load_model(ROOT / name)
        (boxed / f"{model.name}.xml").write_text(sbml_text(model, []), encoding="utf-8")
    (boxed / "events.xml").write_text(SBML, encoding="utf-8")
    prior = Borrowed(("k", "x0"), (0.1, -0.2), ((1.0, 0.1), (0.1, 0.5)), 0.2, {"record": "fits/a", "digest": "0" * 64})
    (boxed / "prior_from.json").write_text(borrowed_text(prior), encoding="utf-8")
    (boxed / "run").mkdir()
    import numpy as np

    _Store(boxed / "run", "it")._save("pilot.npz", {"z": np.arange(12.0).reshape(3, 4), "step": np.asarray(0.5)})
    (boxed / "nonmem.csv").write_text(NONMEM, encoding="utf-8")
    (boxed / "labs.csv").write_text(LABS, encoding="utf-8")
    (boxed / "map.toml").write_text(MAP, encoding="utf-8")
    (boxed / "logs").mkdir()
    for name in ("first", "second", "third"):
        append(boxed / "logs/log.jsonl", LINE | {"run": name, "directory": name})
    _small_record(boxed)


def _small_record(boxed: Path) -> None:
    """A record whose digests are right, with so few draws that all of its files are read within milliseconds."""
    import numpy as np
    import xarray as xr

    from thymodel.documents.toml import digest
    from thymodel.results import record as records

    source, folder = ROOT / "fits/hsct_lymphocytes", boxed / "record"
    folder.mkdir()
    for name in ("spec.toml", "lymphocyte_regrowth.toml"):
        (folder / name).write_bytes((source / name).read_bytes())
    for name, groups in ((records.POSTERIOR, ("posterior", "unconstrained_posterior")), (records.DERIVED, (None,))):
        few = {}
        for group in groups:
            data = records.load_group(source / name, group).isel(draw=slice(0, 12), chain=slice(0, 2))
            keep = [key for key in data.data_vars if data[key].ndim < 3 or key == "z"][:8]
            few[group] = data[keep]
        (folder / name).write_bytes(records.netcdf_bytes(few))
    records.quantities_table(folder).to_csv(folder / "table.csv", index_label="name")
    content = json.loads((source / "record.json").read_text(encoding="utf-8"))
    table = records.read_table(folder / "table.csv")
    content["parameters"] = [name for name in content["parameters"] if name in table.index]
    content["files"] = {path.name: digest(path.read_bytes()) for path in sorted(folder.iterdir())}
    content["fixed_points"] = content["fixed_points"][:1]
    content["summary"] = {name: row for name, row in content["summary"].items() if name in table.index}
    content["priors"] = content["priors"][:2]
    content.pop("residuals", None)
    content["digest"] = records._own_digest(content)
    (folder / "record.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    small = xr.Dataset({"x": (("chain", "draw"), np.ones((2, 3)))})
    (boxed / "small.nc").write_bytes(records.netcdf_bytes({None: small, "posterior": small}))


DECAY_DATA = """ID,TIME,EVID,CMT,AMT,RATE,ADDL,II,DVID,DV,CENS,LIMIT,MDV,ARM,age
1,0,2,.,.,.,.,.,.,.,.,.,.,low,30
1,7,1,cells,4,2,1,3,.,.,.,.,.,low,.
1,30,0,.,.,.,.,.,count,12,0,.,0,low,.
2,30,0,.,.,.,.,.,count,1,1,0.1,0,high,50
"""
PEOPLE = """title = "Real people"
subjects = 8
draws = 4
seed = 1
[population]
source = "test"
covariates = { BW = "lognormal(median=70, sd=0.2)" }
[population.patients]
file = "people.csv"
sha256 = "SHA256"
units = { age = "year" }
[arms.none]
label = "no cells"
[arms.some]
doses = [{ amount = 4, day = 7, times = 2, every = 14 }]
covariates = { age = 50 }
"""
SBML = """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2">
<model id="m" timeUnits="second" extentUnits="mole" substanceUnits="mole">
<listOfFunctionDefinitions><functionDefinition id="f"><math xmlns="http://www.w3.org/1998/Math/MathML"><lambda>
<bvar><ci>a</ci></bvar><apply><times/><ci>a</ci><cn>2</cn></apply></lambda></math></functionDefinition>
</listOfFunctionDefinitions>
<listOfCompartments><compartment id="c" size="1" constant="true" spatialDimensions="3"/></listOfCompartments>
<listOfSpecies><species id="S" compartment="c" initialAmount="10" hasOnlySubstanceUnits="true" boundaryCondition="false"
 constant="false"/></listOfSpecies>
<listOfParameters><parameter id="k" value="0.1" constant="true"/><parameter id="r" value="0" constant="false"/>
</listOfParameters>
<listOfRules><assignmentRule variable="r"><math xmlns="http://www.w3.org/1998/Math/MathML"><apply><ci>f</ci>
<ci>S</ci></apply></math></assignmentRule></listOfRules>
<listOfReactions><reaction id="loss" reversible="false"><listOfReactants><speciesReference species="S" stoichiometry="1"
 constant="true"/></listOfReactants><kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML"><apply><times/>
<ci>k</ci><ci>S</ci></apply></math></kineticLaw></reaction></listOfReactions>
<listOfEvents><event id="e" useValuesFromTriggerTime="true"><trigger initialValue="true" persistent="true">
<math xmlns="http://www.w3.org/1998/Math/MathML"><apply><geq/><csymbol encoding="text"
 definitionURL="http://www.sbml.org/sbml/symbols/time">t</csymbol><cn>5</cn></apply></math></trigger>
<listOfEventAssignments><eventAssignment variable="S"><math xmlns="http://www.w3.org/1998/Math/MathML"><apply><plus/>
<ci>S</ci><cn>3</cn></apply></math></eventAssignment></listOfEventAssignments></event></listOfEvents>
</model></sbml>
"""


# --- wounds ----------------------------------------------------------------------------------------------------

NUMBERS = (
    "0",
    "-0.0",
    "1",
    "-1",
    "2",
    "0.5",
    "1e308",
    "1e309",
    "-1e308",
    "5e-324",
    "nan",
    "inf",
    "-inf",
    "1_000",
    "9223372036854775808",
    "-9223372036854775809",
    "1e-400",
    "3000000",
    "true",
    "0x1F",
    "1,5",
    "١٢",
    "1e5000",
    "9" * 400,
    "9" * 5000,
    "1.7976931348623157e308",
    "0.1e-320",
    "1/3",
    "12345678901234567890",
)
WORDS = (
    "",
    " ",
    "x",
    "../../../../etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/etc/passwd",
    "..",
    ".",
    "~",
    "NUL",
    "con",
    "a/b",
    "\\\\host\\share",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "$(touch owned)",
    "`touch owned`",
    "; touch owned",
    "{{7*7}}",
    "%s%n",
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202etxt",
    "é",
    "𝒳",
    "Å",
    "ﬁ",
    "\ufeff",
    "\u0000",
    "\ud7ff",
    "☃" * 50,
    "a" * 300,
    "a" * 30_000,
    "None",
    "__class__",
    "lambda: 0",
    "__import__('os').system('touch owned')",
    "NA",
    "day",
    "cell/uL",
    "1979-05-27",
    "lognormal(median=1, sd=1)",
    "uniform(lower=0, upper=1)",
    "normal(mean=0, sd=1)",
    "cell**99",
    "x\ny",
    "[x]",
    "states",
    "t",
    "amount",
)
HEAVY = (
    "9**9**9**9",
    "x**x**x**x",
    "(x+y)**64",
    "((x+1)**64+1)**64",
    "2**0.5**0.5**0.5",
    "1e300*1e300",
    "10**-300*x",
    "x**1e300",
    "x**(1/3)",
    "(-8)**(1/3)",
    "x**999",
    "exp(exp(exp(exp(9))))",
    "exp(1000)",
    "log(0)",
    "log(-1)",
    "hill(x, 0, 64)",
    "hill(x, x, 1e9)",
    "1/(1 - 1)",
    "0**0",
    "0**-1",
    "sin(1e300)",
    "sqrt(-4)*sqrt(-4)",
    "tanh(10**300)",
    "abs(x)**0.5",
    "min(1, 2)",
    "max(x, x)",
    "(1/3)**64",
    "(12345/67891)**64",
    "7**1000",
    "7**-1000",
    "((1/3)**60)**60",
    "exp(1)**1000",
    "sqrt(2)**1001",
    "piecewise(1, 1 < 2, 0)",
    "piecewise(x, x < x, y)",
    "sin(cos(sin(cos(1))))",
    "log(exp(x))",
    "exp(log(x)*k)",
    "x/x",
    "x - x",
    "(x - x)**-1",
    "expit(1e400)",
    "cos(10**100)",
    "(x*y*k)**0.3333",
    "0.1**0.1**0.1",
    "hill(2, 3, 64)",
    "log1p(-1)",
    "exp(-1e308)",
    "1e-300**2",
)


def wounded(rng: random.Random, content: bytes, kind: str) -> bytes:
    """One to four wounds, of all kinds that the file can have."""
    if kind == "text" and rng.random() < 0.5:
        content = _random_text(rng, content.decode()).encode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        ways = [_bytes, _token, _line, *_WAYS.get(kind, ()) * 3]
        try:
            content = rng.choice(ways)(rng, content)
        except Exception:
            content = _bytes(rng, content)  # what was there is no longer of its kind
        content = content[:LARGEST]
    return content


def _bytes(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    length = rng.choice((1, 1, 2, 4, 16, 200, 5000))
    middle = content[at : at + length]
    match rng.randrange(13):
        case 0:
            return content[:at] + content[at + length :]
        case 1:
            return content[:at]
        case 2:
            return content[:at] + middle * rng.choice((2, 3, 50)) + content[at + length :]
        case 3 | 4:
            flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in middle[:4])
            return content[:at] + flipped + content[at + len(flipped) :]
        case 5 | 6:
            return content[:at] + rng.randbytes(min(length, 64)) + content[at + length :]
        case 7:
            return (
                content[:at]
                + rng.choice(
                    (
                        b"\0",
                        b"\xff\xfe",
                        b"\xc3\x28",
                        b"\xed\xa0\x80",
                        b"\r",
                        b"\xef\xbb\xbf",
                        b"\x1b[31m",
                        b"\x7f",
                        b"\x85",
                        "\u2028".encode(),
                    )
                )
                + content[at:]
            )
        case 8:
            return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"PK\3\4", b"#!")) + content
        case 9:
            with contextlib.suppress(UnicodeError):
                return content.decode().encode(
                    rng.choice(("utf-16", "utf-32", "utf-16-be", "latin-1", "cp1252", "utf-7"))
                )
            return content[::-1]
        case 10:
            return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"")))
        case 11:
            return rng.choice((b"", b"\n", b"\0" * length, content[:at] * 2, content * 2))
        case _:
            opening = rng.choice(
                (
                    b"[",
                    b"{",
                    b"(",
                    b"<a>",
                    b'"',
                    b"-",
                    b"[[",
                    b"{a=",
                    b'{"a":',
                    b"a.",
                    b"'''",
                    b"x**",
                    b",",
                    b"\n",
                    b"#",
                    b"&",
                    b"a,",
                )
            )
            return (
                content[:at]
                + opening * rng.choice((3, 40, 120, 1_000, 30_000, 1_000_000 // len(opening)))
                + content[at:]
            )


_PIECE = re.compile(rb"[\w.*/+-]+|\"[^\"\n]*\"")


def _token(rng: random.Random, content: bytes) -> bytes:
    """A word in place of another: one of the file's own, or one that readers stumble over."""
    found = list(_PIECE.finditer(content, 0, 200_000))
    if not found:
        return _bytes(rng, content)
    chosen = rng.choice(found)
    if rng.random() < 0.4:
        other = rng.choice(found).group()
    else:
        other = (_word(rng) if rng.random() < 0.6 else f'"{_word(rng)}"').encode("utf-8", "replace")
    return content[: chosen.start()] + other + content[chosen.end() :]


def _word(rng: random.Random) -> str:
    return (
        rng.choice((NUMBERS, WORDS, HEAVY))[0:][rng.randrange(10**6) % 20]
        if rng.random() < 0.2
        else rng.choice(rng.choice((NUMBERS, WORDS, HEAVY)))
    )


def _line(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[i]
        case 1:
            lines[i], lines[j] = lines[j], lines[i]
        case 2:
            lines.insert(j, lines[i])
        case 3:
            lines[i : i + 1] = [lines[i]] * rng.choice((3, 50, 1000, 20_000 if rng.random() < 0.1 else 10))
        case _:
            lines = lines[:i] + lines[j:]
    return b"\n".join(lines)


def _random_text(rng: random.Random, seed: str) -> str:
    """An expression, prior, unit, dose or address by grammar, with the words of a seed."""
    words = re.findall(r"[A-Za-z_]\w*", seed) or ["x"]
    if rng.random() < 0.15:
        return _word(rng)
    if "=" in seed:
        opening, between, closing = rng.choice((("f(", ", ", ")"), ("", "&", ""), ("", ",", "")))
        if "(" in seed:
            opening = f"{rng.choice(words)}("
        parts = (f"{rng.choice(words)}={rng.choice((_word(rng), _number(rng)))}" for _ in range(rng.randrange(6)))
        return opening + between.join(parts) + closing
    return random_expression(rng, [*words, "x", "y", "k", "t"], rng.choice((1, 2, 3, 4, 5, 8)))


def _number(rng: random.Random) -> str:
    return rng.choice(
        (
            rng.choice(NUMBERS),
            f"{rng.uniform(-5, 5):.3g}",
            f"{rng.uniform(1, 10)}e{rng.randrange(-330, 330)}",
            str(rng.randrange(-3, 20)),
        )
    )


_CALLS = (
    "exp",
    "log",
    "log1p",
    "sqrt",
    "abs",
    "tanh",
    "sin",
    "cos",
    "expit",
    "softplus",
    "min",
    "max",
    "hill",
    "piecewise",
    "open",
    "getattr",
    "step",
    "Symbol",
)


def random_expression(rng: random.Random, names: Sequence[str], depth: int) -> str:
    """Mostly arithmetic that a file may contain; now and then what it may not."""
    if depth <= 0 or rng.random() < 0.1:
        return rng.choice((rng.choice(names), rng.choice(names), _number(rng), rng.choice(HEAVY)))
    more = lambda: random_expression(rng, names, depth - 1)  # noqa: E731
    match rng.randrange(14):
        case 0 | 1 | 2 | 3:
            return f"{more()} {rng.choice('+-*/')} {more()}"
        case 4 | 5:
            return f"({more()}){rng.choice(('**', '^', '*', '/', '-'))}({more()})"
        case 6:
            return f"{rng.choice('+-')}{more()}"
        case 7 | 8 | 9:
            name = rng.choice(_CALLS)
            return f"{name}({', '.join(more() for _ in range({'hill': 3, 'min': 2, 'max': 2}.get(name, 1)))})"
        case 10:
            return f"piecewise({more()}, {more()} {rng.choice(('<', '<=', '>', '>=', '=='))} {more()}, {more()})"
        case 11:
            return "(" * (n := rng.choice((1, 20, 90, 150))) + more() + ")" * n
        case 12:
            many = rng.choice((2, 5, 60, 150)) if depth < 3 else 2
            short = lambda: random_expression(rng, names, min(depth - 1, 1))  # noqa: E731
            return rng.choice((" + ", "*", " - ", "/", "**")).join(short() for _ in range(many))
        case _:
            return rng.choice(
                (
                    "[x for x in y]",
                    "x if x else y",
                    "x.real",
                    "x[0]",
                    "'x'",
                    "f'{x}'",
                    "(x := 1)",
                    "x, y",
                    "*x",
                    "x == y",
                    "not x",
                    "x and y",
                    "x // y",
                    "x % y",
                    "x @ y",
                    "1j",
                    "...",
                    "yield x",
                    "x if",
                    "'\\d'",
                    "0777",
                    "1if x else y",
                    "1 is 1",
                    "await x",
                    "{x}",
                    "x;y",
                    more(),
                )
            )


def _value(rng: random.Random, old: Any, names: Sequence[str], depth: int = 0) -> Any:
    """A value in place of another: near it, of another type, or far from anything that was meant."""
    match rng.randrange(14):
        case 0 | 1 if isinstance(old, int | float) and not isinstance(old, bool):
            with contextlib.suppress(OverflowError):
                return rng.choice(
                    (
                        -old,
                        old * 10 ** rng.randrange(-12, 12),
                        old + 1,
                        float(old),
                        int(old) if math.isfinite(old) else 0,
                        math.nan,
                        math.inf,
                        0,
                        10**18,
                        1e308,
                        -1,
                        5e-324,
                    )
                )
            return 0
        case 0 | 1 | 2 | 3 if isinstance(old, str):
            return rng.choice((random_expression(rng, names, 3), _word(rng), _word(rng), old + _word(rng), old * 3))
        case 4:
            return rng.choice(
                (True, False, 0, 1, -1, 2**63, -(2**63) - 1, 10**400, 1e308, math.nan, math.inf, 1e-320, 2.5)
            )
        case 5:
            return rng.choice(
                (
                    "",
                    "x",
                    [],
                    {},
                    [[]],
                    [{}],
                    {"": ""},
                    [None],
                    datetime.date(1979, 5, 27),
                    datetime.datetime(1979, 5, 27, 7, 32),
                    datetime.time(7, 32),
                )
            )
        case 6 if isinstance(old, list) and old:
            return rng.choice((old * 2, old[::-1], old[:1], [*old, _word(rng)], [*old, old], old * 500, [old]))
        case 7 if isinstance(old, dict) and old:
            key = rng.choice(list(old))
            return rng.choice(
                (
                    {k: v for k, v in old.items() if k != key},
                    {**old, _word(rng): old[key]},
                    [old],
                    {**old, key: old},
                    {f"{key}{n}": old[key] for n in range(300)},
                )
            )
        case 8:
            nested: Any = old
            for _ in range(rng.choice((2, 10, 60, 120, 400))):
                nested = rng.choice(([nested], {"a": nested})) if depth == 0 else [nested]
            return nested
        case 9:
            return [_value(rng, old, names, depth + 1) for _ in range(rng.randrange(4))] if depth < 3 else 1
        case 10:
            return rng.choice(HEAVY)
        case _:
            return rng.choice((_word(rng), random_expression(rng, names, 2)))


def _places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(tree, dict | list):
        for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*path, key)
            yield from _places(inner, (*path, key))


def _changed(rng: random.Random, tree: Any) -> Any:
    """A tree of tables and lists with one place of it changed, removed, added or moved."""
    places = list(_places(tree))
    if not places:
        return _value(rng, tree, ["x"])
    path, names = rng.choice(places), [str(p[-1]) for p in places if str(p[-1]).isidentifier()][:200] or ["x"]
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    match rng.randrange(8):
        case 0:
            del holder[path[-1]]
        case 1 if isinstance(holder, dict):
            holder[rng.choice((_word(rng), rng.choice(names)))] = holder.pop(path[-1])
        case 2 if isinstance(holder, dict):
            holder[rng.choice((_word(rng), rng.choice(names)))] = _value(rng, holder[path[-1]], names)
        case 3:
            other = rng.choice(places)
            value: Any = tree
            for key in other:
                value = value[key]
            holder[path[-1]] = json.loads(json.dumps(value, default=str))
        case _:
            holder[path[-1]] = _value(rng, holder[path[-1]], names)
    return tree


def _toml(rng: random.Random, content: bytes) -> bytes:
    from thymodel.documents.limits import refuse_long_keys

    text = content.decode()
    refuse_long_keys(text, "a case")  # an earlier wound may keep the reader of TOML busy here as well
    tree = _changed(rng, tomllib.loads(text))
    return ("\n".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in tree.items()) + "\n").encode("utf-8", "replace")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(str(key)).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(str(key))} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return '""' if value is None else json.dumps(value).replace("\x7f", "\\u007f")


def _json(rng: random.Random, content: bytes) -> bytes:
    tree = _changed(rng, json.loads(content))
    text = json.dumps(tree, default=str)
    if rng.random() < 0.05:
        text = text[:1] + '"schema": 2, "digest": [], ' + text[1:]  # keys twice
    return text.encode("utf-8", "replace")


def _csv(rng: random.Random, content: bytes) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    if not rows:
        return _bytes(rng, content)
    i = rng.randrange(min(len(rows), 3000))
    j = rng.randrange(len(rows[i])) if rows[i] else 0
    match rng.randrange(9):
        case 0 | 1 | 2 | 3 if rows[i]:
            rows[i][j] = rng.choice((_word(rng), _number(rng), rng.choice(rng.choice(rows) or [""])))
        case 4:
            for row in rows:
                row.insert(min(j, len(row)), _word(rng) if rng.random() < 0.01 else (row[j] if j < len(row) else ""))
        case 5:
            for row in rows:
                del row[j : j + 1]
        case 6:
            rows[i] = rows[i] * rng.choice((2, 100, 5000))
        case 7 if rows[i]:
            rows[i][j] = rng.choice('",;\n\tx=') * rng.choice((1, 100, 200_000))
        case _:
            k = rng.randrange(len(rows))
            rows[i], rows[k] = rows[k], rows[i]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


_TAG = re.compile(r"<[^<>]{1,400}>")
_ENTITIES = (
    '<!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>',
    '<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE s SYSTEM "http://127.0.0.1:9/s.dtd">',
    '<?xml-stylesheet href="http://127.0.0.1:9/"?>',
    "<![CDATA[x]]>",
    "<!-- -->",
    "&x;",
    "&#0;",
    "&#x10FFFF;",
)


def _xml(rng: random.Random, content: bytes) -> bytes:
    text = content.decode()
    tags = list(_TAG.finditer(text))
    if not tags:
        return _bytes(rng, content)
    tag, other = rng.choice(tags), rng.choice(tags)
    low, high = sorted((tag.start(), other.start()))
    match rng.randrange(10):
        case 0:
            text = text[: tag.start()] + text[tag.end() :]
        case 1:
            text = text[: tag.start()] + rng.choice(_ENTITIES) + text[tag.start() :]
        case 2:
            text = text[:low] + text[high:]
        case 3:
            text = text[:high] + text[low:high][:2000] * rng.choice((1, 2, 30)) + text[high:]
        case 4:
            text = text[: tag.start()] + other.group() + text[tag.end() :]
        case 5:
            n, name = rng.choice((5, 100, 290, 1000, 100_000)), rng.choice(("apply", "a", "plus", "math", "annotation"))
            text = text[: tag.start()] + f"<{name}>" * n + "<ci>k</ci>" + f"</{name}>" * n + text[tag.start() :]
        case 6:
            operator = rng.choice(
                ("power", "divide", "factorial", "root", "ln", "floor", "piecewise", "and", "eq", "arccos")
            )
            text = text.replace(rng.choice(("times/", "plus/", "divide/")), f"{operator}/", rng.choice((1, 1, 100)))
        case 7:
            n = rng.choice((3, 60, 299, 700))
            text = (
                text.replace("<ci>", "<apply><power/><ci>", 0)
                if n == 3
                else re.sub(
                    r"<ci>\s*(\w+)\s*</ci>",
                    lambda m: "<apply><power/>" * n + m.group() + "<cn>9</cn></apply>" * n,
                    text,
                    count=1,
                )
            )
        case _:
            values = list(re.finditer(r'"([^"<>]*)"|>([^<>]+)<', text))
            if values:
                one = rng.choice(values)
                new = rng.choice((_word(rng), _number(rng), "k", "S")).replace("<", "&lt;").replace('"', "")
                new = "".join(letter for letter in new if letter in "\t\n" or letter >= " ")
                text = text[: one.start() + 1] + new + text[one.end() - 1 :]
    return text.encode("utf-8", "replace")


def _hdf5(rng: random.Random, content: bytes) -> bytes:
    """The same file with an object of it made anew: other shape, type, link, or a claim of more than there is."""
    import h5py
    import numpy as np

    memory = io.BytesIO(content)
    with h5py.File(memory, "r+") as file:
        found: list[str] = []
        file.visit(found.append)
        name = rng.choice(found or ["x"])
        group = rng.choice(["/", *[item for item in found if isinstance(file.get(item), h5py.Group)]])
        new = f"{group}/{rng.choice(('new', name.rpartition('/')[2]))}"
        if new in file and rng.random() < 0.7:
            del file[new]
        kind = rng.choice(
            (
                "f8",
                "i8",
                "S5",
                "u1",
                "f4",
                "c16",
                ">f8",
                h5py.string_dtype(),
                h5py.ref_dtype,
                "V9",
                "?",
                h5py.vlen_dtype("f8"),
                np.dtype([("a", "f8"), ("b", "S3")]),
            )
        )
        match rng.randrange(9):
            case 0:
                file.create_dataset(
                    new,
                    shape=rng.choice(((), (0,), (2, 3), (2, 12), (2**40,), (2**31, 2**20), (1,) * 30)),
                    dtype=kind,
                    chunks=True,
                )
            case 1:
                file[new] = rng.choice(
                    (
                        h5py.ExternalLink("/etc/passwd", "/x"),
                        h5py.ExternalLink("small.nc", "/x"),
                        h5py.SoftLink("/posterior"),
                        h5py.SoftLink(new),
                        h5py.SoftLink("/"),
                    )
                )
            case 2:
                layout = h5py.VirtualLayout(shape=(2, 12), dtype="f8")
                layout[0] = h5py.VirtualSource("../../small.nc", "x", shape=(12,))
                file.create_virtual_dataset(new, layout)
            case 3:
                file.create_dataset(new, shape=(16,), dtype="u1", external=[("/etc/passwd", 0, 16)])
            case 4:
                file.create_dataset(
                    new, shape=(rng.choice((10**6, 10**8, 10**10)),), dtype="f8", chunks=(10**6,), compression="gzip"
                )
            case 5 if name in file:
                key = rng.choice(
                    (
                        "_FillValue",
                        "units",
                        "scale_factor",
                        "DIMENSION_LIST",
                        "CLASS",
                        "_Netcdf4Dimid",
                        "coordinates",
                        "_NCProperties",
                        "dtype",
                        "add_offset",
                        "calendar",
                        "missing_value",
                        "_Unsigned",
                    )
                )
                file[name].attrs[key] = rng.choice(
                    (
                        0,
                        -1,
                        math.nan,
                        "days since 2000-01-01",
                        "x",
                        b"\xff",
                        10**9,
                        [1, 2],
                        1e308,
                        "bool",
                        "days since 99999999-01-01",
                        h5py.Empty("f8"),
                        "true",
                    )
                )
            case 6 if name in file:
                del file[name]
            case 7 if name in file and isinstance(file[name], h5py.Dataset):
                old = file[name][()]
                del file[name]
                file[name] = rng.choice(
                    (
                        np.asarray(old).ravel()[:1],
                        np.asarray(old).T,
                        np.full(np.shape(old), np.nan) if np.asarray(old).dtype.kind == "f" else old,
                    )
                )
            case _:
                file.create_group(new).create_group("chain")
    return memory.getvalue()


_WAYS: dict[str, tuple[Callable[[random.Random, bytes], bytes], ...]] = {
    "toml": (_toml, _toml),
    "json": (_json, _json),
    "csv": (_csv, _csv),
    "xml": (_xml, _xml),
    "hdf5": (_hdf5, _bytes),
}


# --- one case --------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """More than `SECONDS` of processor time; not an Exception, so that no reader takes it for a damaged file."""


class Bench:
    """Readers and seeds in a sandbox."""

    def __init__(self, box: Path):
        self.box = box
        make_sandbox(box)
        self.targets = {target.name: target for target in targets(box)}
        self.seeds = {target.name: self._seeds(target) for target in self.targets.values()}
        self.written: list[str] = []
        self.watching = False
        for (
            target
        ) in self.targets.values():  # what is imported late is imported here, and seeds are what they should be
            found = [self.examine(target.name, Case(*one)) for one in self.seeds[target.name]]
            assert "read" in {one.kind for one in found} <= {*FINE}, (target.name, found)
        sys.addaudithook(self._hook)

    def _seeds(self, target: Target) -> list[tuple[Path, bytes]]:
        if target.kind == "text":
            return [(self.box / "boxed/text.txt", text.encode()) for text in target.seeds]
        found = [(path, path.read_bytes()) for pattern in target.seeds for path in sorted(self.box.glob(pattern))]
        assert found, f"no seed of {target.name}"
        return found

    def _hook(self, event: str, arguments: tuple) -> None:
        """What a reader must not do, seen as it does it."""
        if not self.watching:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and str(path) != os.devnull:
                self.written.append(f"opened for writing: {path}")
        elif event in (
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.link",
            "os.symlink",
            "os.chmod",
            "os.truncate",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "subprocess.Popen",
            "socket.connect",
            "socket.bind",
            "socket.getaddrinfo",
            "socket.sendto",
            "pickle.find_class",
            "ctypes.dlopen",
            "shutil.rmtree",
            "webbrowser.open",
            "urllib.Request",
        ):
            self.written.append(f"{event}{arguments!r:.200}")

    def mend(self) -> None:
        """Every seed where it was, after a process that could not put its own back."""
        for name, target in self.targets.items():
            for path, content in self.seeds[name]:
                if target.kind != "text" and path.read_bytes() != content:
                    path.write_bytes(content)
        (self.box / "boxed/text.txt").unlink(missing_ok=True)

    def names(self) -> list[str]:
        return list(self.targets)

    def case(self, name: str, seed: int, number: int) -> Case:
        rng = random.Random(f"{seed}/{name}/{number}")
        path, content = rng.choice(self.seeds[name])
        return Case(path, wounded(rng, content, self.targets[name].kind))

    def examine(self, name: str, case: Case) -> Outcome:
        """The reader's answer to a case, as this very process gets it."""
        kept = case.path.read_bytes() if case.path.exists() else None
        case.path.write_bytes(case.content)
        self.written.clear()
        start = time.process_time()
        self.watching = not name.endswith(("anew", "of a record"))  # these write digests themselves
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = self._ask(self.targets[name], case.path)
        finally:
            self.watching = False
            if kept is None:
                case.path.unlink(missing_ok=True)
            else:
                case.path.write_bytes(kept)
        seconds = time.process_time() - start
        if self.written:
            return Outcome("wrote", self.written[0], seconds)
        if outcome[0] in FINE and seconds > SECONDS:
            return Outcome("too long", name, seconds)
        return Outcome(outcome[0], outcome[1], seconds, outcome[2])

    def _ask(self, target: Target, path: Path) -> tuple[str, str, str]:
        from thymodel.errors import InputError, ThymodelError

        try:
            target.load(path)
            return "read", "", ""
        except ThymodelError as error:
            faults = error.faults if isinstance(error, InputError) else ()
            if isinstance(error, InputError) and not (faults and all(fault.where and fault.what for fault in faults)):
                return "empty refusal", type(error).__name__, str(error)[:300]
            longest = max((len(line) for line in str(error).split("\n")), default=0)
            if longest > LONGEST_FAULT + len(str(path)):
                return "endless refusal", re.sub(r"[^A-Za-z ]+", "", str(error))[:50], str(error)[:300]
            if not all(letter.isprintable() or letter == "\n" for letter in str(error)):
                return "control characters", _place(error), repr(str(error))[:300]
            return "refused", "", ""
        except target.refusals:
            return "refused", "", ""
        except TooLong as error:
            return "too long", _place(error), "".join(traceback.format_exception(error)[-6:])
        except MemoryError as error:
            return "memory", _place(error), ""
        except Warning as error:
            return "warning", f"{type(error).__name__} {_place(error)}", str(error)[:300]
        except BaseException as error:
            return (
                "exception",
                f"{type(error).__name__} {_place(error)}",
                "".join(traceback.format_exception(error)[-5:])[-1500:],
            )


def _place(error: BaseException) -> str:
    """The innermost line of the package that an error passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/thymodel/" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside the package"


def tree_of(box: Path) -> dict[str, tuple[int, int]]:
    """Every file, with its size and content (small) or size alone."""
    return {
        str(path.relative_to(box)): (
            path.stat().st_size,
            hash(path.read_bytes()) if path.stat().st_size < 10_000 else 0,
        )
        for path in sorted(box.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


# --- through the command line ----------------------------------------------------------------------------------

COMMANDS = {
    "model": ["check", "describe"],
    "fit spec": ["check"],
    "design": ["check"],
    "scenario": ["check"],
    "trial": ["check"],
    "escalation": ["check"],
    "record": ["verify", "quote"],
    "SBML": ["import"],
    "record, signed anew": ["verify", "quote"],
    "draws of a record": ["verify"],
    "table of a record": ["quote"],
    "published figures": ["check"],
    "study data": ["check"],
    "learning": ["check"],
}

IMPORTS = 10.0  # s of processor time that a new process may take before it begins; it takes half
ANEW = ("describe",)  # compiles, and JAX's compiler waits for ever in a process that was forked


def ask_command(bench: Bench, name: str, case: Case) -> Outcome:
    """The exit status and the words of the command on a case."""
    number = len(case.content)
    command = COMMANDS[name][number % len(COMMANDS[name])]
    place = case.path.parent if command in ("verify", "quote") else case.path
    arguments = {"quote": [str(place), "kill"], "import": ["sbml", str(place)][0:2]}.get(command, [str(place)])
    kept = case.path.read_bytes() if case.path.exists() else None
    case.path.write_bytes(case.content)
    start, ask = _processor_time(), _in_a_new_process if command in ANEW else _in_this_process
    try:
        status, said = ask([command, *arguments])
    except BaseException as error:
        return Outcome(
            "exception",
            f"thymodel {command}: {type(error).__name__} {_place(error)}",
            _processor_time() - start,
            "".join(traceback.format_exception(error)[-5:])[-1500:],
        )
    finally:
        if kept is None:
            case.path.unlink(missing_ok=True)
        else:
            case.path.write_bytes(kept)
    seconds = _processor_time() - start
    if seconds > SECONDS + (IMPORTS if command in ANEW else 0.0):
        return Outcome("too long", f"thymodel {command}", seconds)
    if "Traceback" in said or status not in (0, 1, 2):
        return Outcome("traceback", f"thymodel {command}: status {status}", seconds, said[-1500:])
    if (status != 0) != bool(said.strip()) and status != 0:
        return Outcome("silent refusal", f"thymodel {command}", seconds)
    return Outcome("refused" if status else "read", f"{command} {status}", seconds)


def _in_this_process(arguments: list[str]) -> tuple[int, str]:
    """The exit status of the command and what it says on standard error."""
    from thymodel import cli

    out, err, status = io.StringIO(), io.StringIO(), 0
    argv, sys.argv = sys.argv, ["thymodel", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    finally:
        sys.argv = argv
    return status, err.getvalue()


def _in_a_new_process(arguments: list[str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "thymodel", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=0.9 * WALL)
    return done.returncode, done.stderr


def _processor_time() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


# --- many cases, in processes with limits ----------------------------------------------------------------------


class Job(NamedTuple):
    name: str
    number: int
    command: bool = False


def jobs_of(bench: Bench, files: int) -> list[Job]:
    """So many cases, spread over the readers by their shares; a few go through the command line as well."""
    whole = sum(target.share for target in bench.targets.values())
    jobs = [
        Job(target.name, number)
        for target in bench.targets.values()
        for number in range(max(1, round(files * target.share / whole)))
    ]
    asked = round(files * COMMAND_SHARE / len(COMMANDS))
    return jobs + [Job(name, number, True) for name in COMMANDS for number in range(asked)]


def _limit() -> None:
    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work(bench: Bench, seed: int, jobs: Sequence[Job], pipe: int) -> None:
    """The life of a process: cases one by one, a line for each."""
    _limit()
    os.chdir(bench.box)
    with os.fdopen(pipe, "w") as out:
        before = tree_of(bench.box)
        for k, job in enumerate(jobs):
            case = bench.case(job.name, seed, job.number)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_VIRTUAL, HARD_SECONDS)
            try:
                found = ask_command(bench, job.name, case) if job.command else bench.examine(job.name, case)
            except TooLong:
                found = Outcome("too long", job.name, SECONDS)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if k % COMPARED_EVERY == COMPARED_EVERY - 1 or k == len(jobs) - 1 or job.command:
                after = tree_of(bench.box)
                if after != before:
                    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
                    found = Outcome(
                        "wrote", f"within {COMPARED_EVERY} cases: {', '.join(changed)[:200]}", found.seconds
                    )
                    before = after
            out.write(json.dumps([*job, *found]) + "\n")
            out.flush()


def run(bench: Bench, seed: int, jobs: Sequence[Job], told: Callable[[Job, Outcome], None]) -> None:
    """All cases; a process that dies takes one case with it."""
    rest = list(jobs)
    while rest:
        batch = rest[:BATCH]
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                _work(bench, seed, batch, writing)
                status = 0
            except MemoryError:
                status = 3
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        done, late = 0, False
        with os.fdopen(reading) as lines:
            while True:
                ready, _, _ = select.select([lines], [], [], WALL)
                if not ready:
                    late = True
                    os.kill(child, signal.SIGKILL)
                line = lines.readline()
                if not line:
                    break
                name, number, command, *found = json.loads(line)
                told(Job(name, number, command), Outcome(*found))
                done += 1
        _, status = os.waitpid(child, 0)
        if done < len(batch):
            if os.WIFSIGNALED(status):
                sign = os.WTERMSIG(status)
                kind = "waits" if late else "too long" if sign in (signal.SIGVTALRM, signal.SIGPROF) else "crash"
                said = f"{batch[done].name}: signal {signal.Signals(sign).name}"
            else:
                kind, said = (
                    "memory" if os.WEXITSTATUS(status) == 3 else "crash",
                    f"{batch[done].name}: the process ended",
                )
            told(batch[done], Outcome(kind, said, HARD_SECONDS if kind == "too long" else 0.0))
            bench.mend()
            done += 1
        rest = rest[done:]


# --- the report ------------------------------------------------------------------------------------------------


class Tally:
    """Counts, slowest cases and one example of each fault; kept in a file, so that a stopped run goes on."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.slowest: list[tuple[float, str, int]] = []
        self.faults: dict[str, dict[str, Any]] = {}
        self.done: Counter[str] = Counter()

    def add(self, job: Job, found: Outcome) -> None:
        name = f"command line: {job.name}" if job.command else job.name
        self.counts[name, found.kind] += 1
        self.seconds[name] += found.seconds
        self.done[name] += 1
        self.slowest = sorted([*self.slowest, (round(found.seconds, 3), name, job.number)], reverse=True)[:12]
        if found.kind not in FINE:
            one = self.faults.setdefault(
                f"{name} | {found.kind} | {found.said}",
                {"count": 0, "number": job.number, "detail": found.detail, "cases": []},
            )
            one["count"] += 1
            one["cases"].append([*job])

    def forget_faults(self) -> list[Job]:
        """The cases that were faults, to be asked again."""
        jobs = [Job(*case) for one in self.faults.values() for case in one["cases"]]
        for key, one in self.faults.items():
            name, kind = key.split(" | ")[:2]
            self.counts[name, kind] -= one["count"]
            self.done[name] -= one["count"]
        self.counts, self.faults = +self.counts, {}
        return jobs

    def as_json(self) -> str:
        return json.dumps(
            {
                "counts": [[*key, n] for key, n in self.counts.items()],
                "seconds": self.seconds,
                "slowest": self.slowest,
                "faults": self.faults,
                "done": self.done,
            },
            indent=1,
        )

    @staticmethod
    def read(text: str) -> "Tally":
        found, tally = json.loads(text), Tally()
        tally.counts = Counter({(name, kind): n for name, kind, n in found["counts"]})
        tally.seconds, tally.done = Counter(found["seconds"]), Counter(found["done"])
        tally.slowest, tally.faults = [tuple(item) for item in found["slowest"]], found["faults"]
        return tally


def report(tally: Tally, arguments: argparse.Namespace) -> str:
    import h5py
    import numpy
    import sympy

    from thymodel import __version__

    names = list(dict.fromkeys(name for name, _ in tally.counts))
    kinds = [*FINE, *sorted({kind for _, kind in tally.counts} - set(FINE))]
    total = sum(tally.counts.values())
    bad = sum(n for (_, kind), n in tally.counts.items() if kind not in FINE)
    commands = sum(n for (name, _), n in tally.counts.items() if name.startswith("command line"))
    head = " | ".join(kinds)
    lines = [
        "# Mutated files: every reader of the package",
        "",
        "Made by `qualification/fuzz_parsers.py`; do not edit.",
        "",
        f"    python qualification/fuzz_parsers.py --files {arguments.files} --seed {arguments.seed} "
        "--out qualification/fuzz_parsers.md",
        "",
        f"- thymodel {__version__} (commit {_commit()}), Python {platform.python_version()}, "
        f"sympy {sympy.__version__}, NumPy {numpy.__version__}, h5py {h5py.__version__} "
        f"(HDF5 {h5py.version.hdf5_version})",
        f"- {sum(tally.seconds.values()) / 60:.0f} minutes of one core in the readers",
        "",
        f"**{total} files: {bad} faults.** {commands} of them went through the command line.",
        "",
        f"A file is read, or refused by the package's own error with a place and a sentence. A fault would be: another "
        f"exception or a warning; more than {SECONDS:g} s of processor time; a crash; more than "
        f"{MEMORY / 1e9:g} GB of address space; a line of more than {LONGEST_FAULT} characters, or with control "
        "characters, in what is told; a file opened for writing, a file of the sandbox changed, a process started, "
        "a connection, an unpickling. Records signed anew have digests that fit what was changed, "
        "as an attacker's would.",
        "",
        f"| reader | files | {head} | ms a file |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    for name in names:
        row = [tally.counts[name, kind] for kind in kinds]
        lines.append(
            f"| {name} | {sum(row)} | {' | '.join(map(str, row))} | {1000 * tally.seconds[name] / sum(row):.1f} |"
        )
    lines += [
        "",
        "## Slowest",
        "",
        "| reader | case | s of processor time |",
        "|---|---|---|",
        *(f"| {name} | {number} | {seconds:.2f} |" for seconds, name, number in tally.slowest),
        "",
    ]
    if tally.faults:
        lines += [
            "## Faults",
            "",
            "| reader, kind, place | files | first case |",
            "|---|---|---|",
            *(
                f"| {key.replace(' | ', ', ')} | {one['count']} | {one['number']} |"
                for key, one in sorted(tally.faults.items(), key=lambda item: -item[1]["count"])
            ),
            "",
        ]
    notes = Path(__file__).with_suffix(".notes.txt")
    return "\n".join(lines) + ("\n" + notes.read_text(encoding="utf-8") if notes.exists() else "")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _show(bench: Bench, seed: int, name: str, number: int) -> None:
    case = bench.case(name, seed, number)
    sys.stdout.buffer.write(case.content[:3000] + b"\n")
    print(case.path, len(case.content), bench.examine(name, case))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="folder of a run that can go on after it was stopped")
    parser.add_argument("--again", action="store_true", help="ask once more what was a fault, after it was mended")
    parser.add_argument("--only", help="names of readers, separated by semicolons")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many, and report what was done")
    parser.add_argument("--show", nargs=2, metavar=("READER", "CASE"), help="print one case and its outcome")
    arguments = parser.parse_args()
    sys.dont_write_bytecode = True
    warnings.filterwarnings("ignore", "os.fork")  # no thread of JAX works here
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        tempfile.tempdir = None
        bench = Bench(Path(folder) / "box")
        if arguments.show:
            _show(bench, arguments.seed, arguments.show[0], int(arguments.show[1]))
            return
        only = arguments.only.split(";") if arguments.only else bench.names()
        jobs = [job for job in jobs_of(bench, arguments.files) if job.name in only]
        random.Random(arguments.seed).shuffle(jobs)
        state = arguments.work / "tally.json" if arguments.work else None
        tally, begun = Tally(), time.monotonic()
        if state is not None and state.exists():
            tally = Tally.read(state.read_text(encoding="utf-8"))
        jobs = jobs[sum(tally.done.values()) :]
        if arguments.again:
            jobs = tally.forget_faults()
        for first in range(0, len(jobs), 2 * BATCH):
            if time.monotonic() - begun > 60 * arguments.minutes:
                break
            run(bench, arguments.seed, jobs[first : first + 2 * BATCH], tally.add)
            if state is not None:
                state.parent.mkdir(parents=True, exist_ok=True)
                state.write_text(tally.as_json(), encoding="utf-8")
            bad = sum(n for (_, kind), n in tally.counts.items() if kind not in FINE)
            print(f"{sum(tally.done.values())} files, {bad} faults, {time.monotonic() - begun:.0f} s", flush=True)
        text = report(tally, arguments)
        if arguments.out:
            arguments.out.write_text(text, encoding="utf-8")
        else:
            print(text)
        for key, one in tally.faults.items():
            print(key, one["count"], one["number"], one["detail"], sep="\n", end="\n\n", file=sys.stderr)


if __name__ == "__main__":
    main()
