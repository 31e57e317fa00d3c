"""The door: `thymodel ...`. Exit status 0 good, 1 a failed fit or record, 2 bad input (every fault on stderr)."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from thymodel.errors import Fault, InputError, RecordError, SolveError, ThymodelError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Models of thymic reconstitution, fitted to dose cohorts by Bayesian inference.")
_err = Console(stderr=True, highlight=False)

Out = Annotated[Path | None, typer.Option(help="directory for the record")]
Csv = Annotated[Path | None, typer.Option("--csv", help="write the table to this file")]
Data = Annotated[Path | None, typer.Option(help="the study data, when they are not beside the spec")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def main() -> None:
    """Entry point: errors that are meant for people become a message and an exit status."""
    # searches for a mode are made of tiny products, which threads of the linear algebra make up to twenty times slower
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with redirect_stdout(_Outlet(sys.stdout)) as out, redirect_stderr(_Outlet(sys.stderr)):  # type: ignore[type-var]
        try:
            app()
        except (InputError, SolveError) as error:
            _stop(str(error), 2)
        except RecordError as error:
            _stop(str(error), 1)
        except ThymodelError as error:
            _stop(str(error), 2)
        finally:
            out.flush()


class _Outlet:
    """A stream whose reader may leave (`thymodel ... | head`): the rest goes nowhere, work and exit status go on."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _stop(text: str, status: int) -> None:
    sys.stderr.write(text + "\n")
    raise SystemExit(status)


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(help="TOML files, or directories of them")]) -> None:
    """Every fault of every model, spec, plan, design, scenario and (through its spec) data file."""
    faults: list[Fault] = []
    for path in paths:
        for file in _documents(path):
            try:
                for line in _check_one(file):
                    print(line)
            except InputError as error:
                faults += error.faults
    if faults:
        raise InputError(faults)


def _documents(path: Path) -> list[Path]:
    """The path itself, or every TOML file under a directory."""
    if not path.is_dir():
        return [path]
    hidden = lambda file: any(part.startswith(".") for part in file.relative_to(path).parts)  # noqa: E731
    return sorted(file for file in path.rglob("*.toml") if not hidden(file)) or [path / "spec.toml"]


def _check_one(path: Path) -> list[str]:
    """What was found good; raises InputError with everything that was not."""
    from thymodel.documents.design import load_design
    from thymodel.documents.model import load_model
    from thymodel.documents.spec import load_fit_spec, load_scenario_spec
    from thymodel.documents.toml import read_text, top_keys
    from thymodel.results.lineage import load_parent
    from thymodel.results.record import holds_record, with_prior_from

    if path.suffix == ".csv":
        raise InputError([Fault(str(path), "data are checked through the spec that names their units",
                                "thymodel check DIRECTORY")])
    if path.suffix == ".jsonl":
        return [f"{path}: note: a run log; thymodel verify checks its chain"]
    keys = top_keys(read_text(path), str(path))
    if path.name == "spec.toml" or keys & {"likelihood", "estimate", "sampler"}:
        fit_spec = with_prior_from(load_fit_spec(path))
        if not holds_record(path.parent):  # what a record says of its parent it says itself
            load_parent(fit_spec)
        return _check_fit(fit_spec)
    if path.name == "plan.toml" or keys & {"question", "context_of_use"}:
        return _check_plan(path)
    if keys & {"states", "observables", "parameters"}:
        model = load_model(path)
        return [f"{path}: good ({len(model.states)} states, {len(model.parameters)} parameters)"]
    if keys >= {"cohorts", "rows"}:
        return [f"{path}: note: published figures, checked through the spec that names them"]
    if path.name == "design.toml" or keys & {"error", "truth"}:
        return [f"{path}: good (design, {len(load_design(path).arms)} arms)"]
    if keys & {"arms", "learning"}:
        spec = next((f for f in (path.parent / "spec.toml", path.parent.parent / "spec.toml") if f.is_file()), None)
        if spec is None:
            kind = "a trial" if keys & set(_TRIALS) else "a scenario"
            return [f"{path}: note: {kind}; no spec.toml beside or above it, so not checked"]
        if keys & set(_TRIALS):
            return _check_trial(path, keys, load_fit_spec(spec))
        return [f"{path}: good (scenario, {len(load_scenario_spec(path, load_fit_spec(spec).model).arms)} arms)"]
    return [f"{path}: note: not a model, spec, design or scenario, so not checked"]


def _check_plan(path: Path) -> list[str]:
    """The plan alone, and with the spec beside it."""
    from thymodel.documents.analysis_plan import load_plan
    from thymodel.documents.spec import load_fit_spec
    from thymodel.results.deviations import differences
    from thymodel.results.planning import unknown_names
    from thymodel.results.record import with_prior_from

    found, beside = load_plan(path), path.parent / "spec.toml"
    good = f"{path}: good (plan, {len(found.document.criteria)} criteria)"
    if not beside.is_file():
        return [good, f"{path}: note: no spec.toml beside it, so not compared with one"]
    spec = with_prior_from(load_fit_spec(beside))
    if faults := list(unknown_names(found, spec)):
        raise InputError(faults)
    return [good, *(f"{path}: note: {beside.name} differs: {one.what}: planned {one.planned}; there: {one.done}"
                    for one in differences(found.document, spec))]


def _check_trial(path: Path, keys: frozenset[str], spec: Any) -> list[str]:
    from thymodel.documents.escalation import load_escalation
    from thymodel.documents.protocol import load_protocol

    if "analysis" in keys:
        protocol = load_protocol(path, spec.model, spec.endpoints)
        return [f"{path}: good (trial of {protocol.subjects} patients)"]
    if "escalation" in keys:
        return [f"{path}: good (escalation, {len(load_escalation(path, spec.model, spec.endpoints).arms)} doses)"]
    return [f"{path}: note: what more patients would teach, checked with the record whose endpoints it names"]


def _check_fit(spec: Any) -> list[str]:
    from thymodel.results.study import load_study

    lines = [f"{spec.path}: good ({spec.model.name}, {len(spec.estimate)} parameters estimated)",
             *(f"{table.path}: good ({len(table.cohorts)} published cohorts, {len(table.rows)} rows)"
               for table in spec.published)]
    if not spec.has_data:
        return lines
    if not (spec.path.parent / spec.data_file).is_file():
        return [*lines, f"{spec.path}: note: data {spec.data_file} not here, not checked"]
    data, file = load_study(spec, None)
    return [*lines, f"{file}: good ({len(data.subjects)} subjects, {len(data.exclusions)} rows excluded)",
            *(f"{file}: note: {note}" for note in data.notes)]


class PageFormat(StrEnum):
    md = "md"
    html = "html"
    latex = "latex"


@app.command()
def describe(
    model: Annotated[str, typer.Argument(help="path, or the name of a shipped model")],
    to: Annotated[PageFormat | None, typer.Option(help="by default as --out ends (.md, .html, .tex), else md")] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; beside Markdown, a drawing of the same name")] = None,
) -> None:
    """Equations, numbers, units, sources and assumptions of a model, for readers."""
    from thymodel.documents.model import load_model
    from thymodel.results.describing import describe as page
    from thymodel.results.describing import save_description

    loaded = load_model(model)
    endings = {".html": PageFormat.html, ".htm": PageFormat.html, ".tex": PageFormat.latex}
    form = to or endings.get(out.suffix if out else "", PageFormat.md)
    if out is None:
        sys.stdout.write(page(loaded, form.value))
        return
    for path in save_description(loaded, out, form.value):
        _err.print(f"written: {path}")


@app.command()
def simulate(
    model: Annotated[str, typer.Argument(help="path, or the name of a shipped model")],
    times: Annotated[str, typer.Option(help="days, separated by commas")],
    dose: Annotated[list[str] | None, typer.Option(help="AMOUNT@DAY[:INPUT], repeatable")] = None,
    covariate: Annotated[list[str] | None, typer.Option(help="NAME=VALUE or NAME=VALUE@DAY,..., repeatable")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="parameter NAME=VALUE, repeatable")] = None,
    observe: Annotated[str | None, typer.Option(help="observables, separated by commas; all by default")] = None,
    csv_: Csv = None,
) -> None:
    """One subject's course as CSV: `time` and a column an observable, full precision."""
    from thymodel.results.simulation import simulate_one

    table = simulate_one(model, times, dose or [], covariate or [], set_ or [], observe)
    _write_csv(table, csv_)


def _write_csv(table, path: Path | None) -> None:
    text = table.to_csv(index=False, float_format=lambda value: repr(float(value)), quoting=csv.QUOTE_MINIMAL)
    _write_text(text, path)


@app.command()
def trial(
    plan: Annotated[Path, typer.Argument(help="design.toml of a study; with --record, a trial .toml (docs/trials.md)")],
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same numbers; a study needs one")] = None,
    record: Annotated[Path | None, typer.Option(help="directory of the record that truths are drawn from")] = None,
    replicates: Annotated[int | None, typer.Option(help="trials under each truth, 1000 by default")] = None,
    out: Annotated[Path | None, typer.Option(help="figure of power by number of patients: .png, .svg, .pdf")] = None,
    csv_: Csv = None,
    json_: Json = False,
) -> None:
    """A SIMULATED study with known truth, from a design; with --record, what trials would show: power, assurance and
    error rates of a randomised trial, a dose escalation, or the worth of more patients."""
    from thymodel.documents.toml import read_text, top_keys

    keys = frozenset() if plan.is_dir() else top_keys(read_text(plan), str(plan))
    kind = next((run for key, run in _TRIALS.items() if key in keys), None)
    given = {"--record": record, "--replicates": replicates, "--out": out, "--json": json_ or None}
    if kind is None:
        hint = "leave it out, or give a file with one of " + ", ".join(f"[{key}]" for key in _TRIALS)
        faults = [Fault(name, "not for a design, which says all of its study", hint)
                  for name, value in given.items() if value is not None]
        if seed is None:
            faults.append(Fault("--seed", "missing", "a study is drawn by a seed: --seed 1"))
        if faults:
            raise InputError(faults)
        _simulate_study(plan, int(seed or 0), csv_)
        return
    if record is None:
        raise InputError([Fault("--record", "missing, and the truth of the trial comes from a record",
                                f"thymodel trial {plan} --record fits/NAME")])
    kind(plan, record, replicates, seed, out, csv_, json_)


def _simulate_study(design: Path, seed: int, csv_: Path | None) -> None:
    from thymodel.documents.design import load_design
    from thymodel.documents.toml import digest
    from thymodel.results.trial import save_trial, simulate_trial

    study = simulate_trial(load_design(design), seed)
    if csv_ is None:
        sys.stdout.write(study.table.to_csv(index=False))
        return
    save_trial(study, csv_)
    _err.print(f"SIMULATED study: {study.table['ID'].nunique()} subjects in {csv_}", soft_wrap=True)
    _err.print(f"its sha256, for [data] of a spec: {digest(csv_.read_bytes())}", soft_wrap=True, markup=False)


def _randomise(plan: Path, folder: Path, replicates: int | None, seed: int | None, out: Path | None,
               csv_: Path | None, json_: bool) -> None:
    from thymodel.results import operating as run
    from thymodel.results.record import load_record

    if out is not None:
        from thymodel.results.frames import refuse_ending

        refuse_ending(out)
    with _progress("trials") as show:
        found = run.run_protocol(load_record(folder), plan, 1000 if replicates is None else replicates,
                                 1 if seed is None else seed, show)
    if csv_ is not None:
        _write_csv(found.table, csv_)
    if out is not None:
        from thymodel.results.frames import save_figure
        from thymodel.results.trial_plots import plot_sizes

        save_figure(plot_sizes(found), out)
    if json_:
        print(run.as_json(found))
        return
    print(("From a fit to SIMULATED data. " if found.simulated else "") + found.protocol.title)
    for line in run.describe_analysis(found):
        print(line)
    _print_risks(found.protocol.competing.values())
    print()
    _print_rows(run.operating_rows(found))
    if len(found.protocol.sizes) > 1:
        print("\nby number of patients (in brackets the Monte-Carlo standard error)")
        _print_rows(run.curve_rows(found))
    _print_extrapolation(found.extrapolation.verdicts, found.extrapolation.implied_export)


def _escalate(plan: Path, folder: Path, replicates: int | None, seed: int | None, out: Path | None,
              csv_: Path | None, json_: bool) -> None:
    from thymodel.results import escalating as run
    from thymodel.results.record import load_record

    if out is not None:
        raise InputError([Fault(f"--out {out}", "an escalation has no figure", "leave it out")])
    with _progress("trials") as show:
        found = run.run_escalation(load_record(folder), plan, 1000 if replicates is None else replicates,
                                   1 if seed is None else seed, show)
    if csv_ is not None:
        _write_csv(found.table, csv_)
    if json_:
        print(run.as_json(found))
        return
    print(("From a fit to SIMULATED data. " if found.simulated else "") + found.plan.title)
    for line in run.describe_escalation(found):
        print(line)
    print()
    _print_rows(run.escalation_rows(found))
    _print_extrapolation(found.extrapolation.verdicts, found.extrapolation.implied_export)


def _learn(plan: Path, folder: Path, replicates: int | None, seed: int | None, out: Path | None,
           csv_: Path | None, json_: bool) -> None:
    from thymodel.results import preposterior as run
    from thymodel.results.record import load_record

    given = {"--replicates": replicates, "--seed": seed, "--out": out}
    if faults := [Fault(name, "nothing is simulated for the worth of a cohort", "leave it out")
                  for name, value in given.items() if value is not None]:
        raise InputError(faults)
    found = run.learn(load_record(folder), plan)
    if csv_ is not None:
        _write_csv(found.table, csv_)
    if json_:
        print(run.as_json(found))
        return
    print(("From a fit to SIMULATED data. " if found.simulated else "") + found.plan.title)
    print(f"{run.METHOD}; {found.draws} draws\n")
    _print_rows(run.learned_rows(found))
    if (sampling := found.plan.sampling) is not None:
        print(f"\nbest {len(found.days)} of {len(sampling.candidates)} days for {sampling.cohort.arm.name}")
        _print_rows(run.schedule_rows(found))


_TRIALS = {"analysis": _randomise, "escalation": _escalate, "learning": _learn}  # by the section that only each has


@contextmanager
def _progress(what: str):
    """A bar on a terminal: calls it with how much is done, of how much."""
    with Bars(console=_err, disable=not _err.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class Method(StrEnum):
    """As `approximation.METHODS`, which is imported only where it is needed."""

    nuts = "nuts"
    map = "map"
    laplace = "laplace"
    pathfinder = "pathfinder"
    smc = "smc"


@app.command()
def fit(
    spec: Annotated[Path, typer.Argument(help="spec.toml, or the directory that holds it")],
    data: Data = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="go on from an interrupted fit")] = False,
    method: Annotated[Method, typer.Option(help="all but nuts are quick looks, not for quotation")] = Method.nuts,
    chains: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    warmup: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    draws: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    seed: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    json_: Json = False,
) -> None:
    """Fits a spec, writes the record, prints the verdict and the reconstitution times."""
    from thymodel.results.fitting import fit as run
    from thymodel.results.fitting import summary_json
    from thymodel.results.report import save_report

    overrides = {"chains": chains, "warmup": warmup, "draws": draws, "seed": seed}
    with _FitDisplay() as display:
        record = run(spec, data, out, resume, overrides, display.progress, method.value)
    print(summary_json(record)) if json_ else _print_fit(record)
    sys.stdout.flush()  # the page of figures takes longer than anybody wants to wait for the verdict
    save_report(record, data)
    if record.failed:
        raise SystemExit(1)


class _FitDisplay:
    """A bar on a terminal, quiet in a pipe."""

    def __init__(self) -> None:
        self.bars = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                         TimeRemainingColumn(), console=_err, disable=not _err.is_terminal)
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "_FitDisplay":
        self.bars.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.bars.__exit__(*args)  # type: ignore[arg-type]

    @property
    def progress(self):
        from thymodel.results.fitting import Progress

        return Progress(stage=self._stage, sampling=self._sampling)

    def _stage(self, text: str) -> None:
        self.tasks[text] = self.bars.add_task(text, total=None)

    def _sampling(self, chain: int, done: int, total: int, divergences: int) -> None:
        name = f"chain {chain + 1}"
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total)
        text = name + (f" ({divergences} divergences)" if divergences else "")
        self.bars.update(self.tasks[name], total=total, completed=done, description=text)


def _print_fit(record) -> None:
    from thymodel.results import extrapolation, planning, tables

    content = record.content
    if content["simulated"]:
        print("SIMULATED data")
    print(f"{content['title']}\nverdict: {_standing(record)}")
    for sentence in content["verdict"]["sentences"]:
        print(f"  {sentence}")
    print(f"analysis plan: {planning.plan_sentence(content)}")
    if modes := tables.mode_rows(record):
        print("\nmodes, highest first")
        _print_rows(modes)
    print(f"\nreconstitution times ({tables.interval_note(record)})")
    _print_rows(tables.reconstitution_rows(record))
    _print_implied_export(content["implied_export"])
    _print_extrapolation(extrapolation.judge_fit(record), content["implied_export"])
    print("\nparameters")
    _print_rows(tables.parameter_rows(record))
    print(f"\nrecord: {record.folder} (sha256 {record.digest[:16]})")


def _standing(record) -> str:
    from thymodel.inference.approximation import NUTS

    if record.method != NUTS:
        return f"APPROXIMATION ({record.method}), not for quotation"
    return "PASSED" if record.passed else "FAILED, may not be quoted"


def _print_implied_export(implied: Mapping[str, Any]) -> None:
    """What the predictions ask of the thymus, and the warnings if it is too much."""
    from thymodel.results import tables

    if not implied["known"]:
        print(f"\n{implied['note']}")
        return
    print(f"\nimplied thymic export over that of a healthy thymus of the same age ({implied['note']})")
    _print_rows(tables.export_rows(implied))
    for warning in implied["warnings"]:
        print(f"WARNING: {warning}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """A plain table; on a terminal it wraps to the window, in a pipe it is as wide as it needs."""
    if not rows:
        print("  none")
        return
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=250)
    for group in _by_columns(rows):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in group[0]:
            table.add_column(str(column))
        for row in group:
            table.add_row(*(escape(str(value)) for value in row.values()))
        console.print(table)


def _by_columns(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows grouped by their columns, in order."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return list(groups.values())


@app.command()
def verify(
    records: Annotated[list[Path], typer.Argument(help="directories of records")],
    data: Data = None,
    refit: Annotated[bool, typer.Option(help="fit again too, and compare within Monte-Carlo error")] = False,
) -> None:
    """Digests, table, diagnostics and log density of records, and the chain of run logs; no refit unless asked."""
    from thymodel.results.record import load_record
    from thymodel.results.record import verify as run

    broken = False
    for folder in records:
        is_log = folder.is_file() and folder.suffix == ".jsonl"
        result = _verify_log(folder) if is_log else run(load_record(folder), data)
        if refit and not is_log and not result.faults:
            result = _refit(load_record(folder), data, result)
        broken |= bool(result.faults)
        print(f"{folder}: {'DOES NOT VERIFY' if result.faults else 'verified'} ({'; '.join(result.notes)})")
        for fault in result.faults:
            sys.stderr.write(f"{fault}\n")
    if broken:
        raise SystemExit(1)


def _verify_log(path: Path):
    from thymodel.results.record import Verification
    from thymodel.results.run_log import check_log

    found = check_log(path)
    return Verification(found.faults, (f"chain of {len(found.lines)} runs", *found.notes))


def _refit(record, data: Path | None, result):
    from thymodel.results.record import Verification
    from thymodel.results.refitting import refit

    with _FitDisplay() as display:
        found = refit(record, data, progress=display.progress)
    return Verification(found.faults, (*result.notes, found.note))


@app.command()
def log(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="directory that holds records and their log.jsonl")],
    csv_: Csv = None,
    json_: Json = False,
) -> None:
    """The run table: every fit that the run logs and records below a directory know of, and what is odd about one."""
    from thymodel.results import run_log as run

    runs = run.read_runs(folder)
    table = run.table_of(runs)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    if csv_ is not None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
        _write_text(text.getvalue(), csv_)
    if json_:
        print(json.dumps({"runs": rows, "notes": list(runs.notes), "faults": [str(f) for f in runs.faults]}, indent=1))
    else:
        _print_rows(rows)
        for note in runs.notes:
            print(f"note: {note}")
    for fault in runs.faults:
        sys.stderr.write(f"{fault}\n")
    if runs.faults:
        raise SystemExit(1)


@app.command()
def plan(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    checks: Annotated[Path | None, typer.Option(help="folder that check-fit --out wrote, for its criteria")] = None,
    scores: Annotated[Path | None, typer.Option(help="file that compare --json printed, for its criteria")] = None,
    json_: Json = False,
) -> None:
    """A record beside its analysis plan: criteria, deviations, ICH M15, assumptions, credibility, checklists."""
    from thymodel.results import assessment
    from thymodel.results.record import load_record

    loaded = load_record(record)
    tables = assessment.assess(loaded, checks, scores)
    if json_:
        print(assessment.as_json(loaded, tables))
        return
    print(f"{'SIMULATED data: ' if loaded.content['simulated'] else ''}{loaded.content['title']} ({loaded.folder})")
    for table in tables:
        print(f"\n{table.title}")
        _print_rows([dict(zip(table.columns, row, strict=True)) for row in table.rows])
        for note in table.notes:
            print(f"  {note}")


@app.command()
def bundle(
    records: Annotated[list[Path], typer.Argument(help="directories of records")],
    out: Annotated[Path, typer.Option(help="folder to make: absent, or empty")],
    data: Annotated[Path | None, typer.Option(help="data of the only record, to go with it although they do not lie "
                                              "beside its spec")] = None,
) -> None:
    """A tree for reviewers: data sets as CSV and XPT, define file, outputs, guide, and a script that rebuilds it."""
    from thymodel.results.bundle import save_bundle

    with Bars(TextColumn("{task.description}"), console=_err, disable=not _err.is_terminal) as bars:
        task = bars.add_task("reading", total=None)
        made = save_bundle(records, out, data, lambda text: bars.update(task, description=text))
    for name, texts in made.left_out.items():
        for text in texts:
            print(f"{name}: left out: {text}")
    print(f"bundle: {made.folder} ({made.files} files, {made.size / 1e6:.0f} MB; {made.data_sets} data sets; manifest "
          f"sha256 {made.manifest[:16]})\nto rebuild it: {made.folder / 'reviewers-guide.md'}")


@app.command("check-fit")
def check_fit(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="folder for checks.html, figures and checks.json")] = None,
    json_: Json = False,
) -> None:
    """Predictive checks of a fit: VPC, NPDE, residuals, shrinkage, prior against posterior, with figures."""
    from thymodel.results import check_page
    from thymodel.results.checks import check_fit as run
    from thymodel.results.record import load_record

    loaded = load_record(record)
    if out is not None:
        check_page.refuse_place(loaded, out)
    checks = run(loaded, data)
    print(check_page.checks_json(checks)) if json_ else _print_checks(checks)
    sys.stdout.flush()
    if out is not None:
        for path in check_page.save_checks(checks, out):
            _err.print(f"written: {path}")
    if loaded.failed:
        raise SystemExit(1)


def _print_checks(checks) -> None:
    from thymodel.results import check_page

    content = checks.content
    if content["simulated"]:
        print("SIMULATED data")
    print(content["title"])
    if content["reservation"]:
        lead = "the fit " if checks.record.failed else ""
        print(f"{lead}{content['reservation']}; these checks describe its draws")
    for sentence in content["verdict"]["sentences"]:
        print(f"  {sentence}")
    print("\nquestions to the data")
    _print_rows(check_page.question_rows(checks))
    print("\nshrinkage of random effects")
    _print_rows(check_page.effect_rows(checks))
    print("\nprior to posterior")
    _print_rows(check_page.parameter_rows(checks))
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"\nrecord: {checks.record.folder} (sha256 {checks.record.digest[:16]})")


@app.command()
def quote(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    names: Annotated[list[str], typer.Argument(help="quantities, as named in table.csv")],
    json_: Json = False,
) -> None:
    """Estimates as they may be quoted: digits that the Monte-Carlo error allows, interval named, record's digest."""
    from thymodel.results.record import load_record
    from thymodel.results.record import quote as run

    rows = run(load_record(record), names)
    if json_:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        low, high = row["interval"]
        banner = " [SIMULATED data]" if row["simulated"] else ""
        print(f"{row['name']} = {_shown(row['median'])} {row['unit']} ({row['interval_kind']} interval "
              f"{_shown(low)} to {_shown(high)}; mean {_shown(row['mean'])}, SD {_shown(row['sd'])}; "
              f"record {row['record'][:16]}){banner}")


def _shown(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.10g}"


class ReportFormat(StrEnum):
    html = "html"
    docx = "docx"
    latex = "latex"


@app.command()
def report(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    to: Annotated[ReportFormat | None, typer.Option(help="by default as --out ends (.html, .docx, .tex), else html"
                                                    )] = None,
    out: Annotated[Path | None, typer.Option(help="file to write; report.html, .docx or .tex in the record's directory "
                                             "by default")] = None,
    data: Data = None,
    show_data: Annotated[bool, typer.Option("--show-data", help="draw measured values although the data do not lie "
                                            "beside the spec")] = False,
    scenario_files: Annotated[list[Path] | None, typer.Option("--scenario", help="scenario .toml, repeatable; by "
                                                              "default all in the record's folder scenarios")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="only what the record holds: no predictive checks, prior "
                                        "sensitivity or scenarios")] = False,
    scores: Annotated[Path | None, typer.Option(help="file that compare --json printed, for the plan's criteria"
                                                )] = None,
) -> None:
    """The report of a fit as HTML, Word or LaTeX: tables, figures and listings that a submission needs."""
    from thymodel.results.record import load_record
    from thymodel.results.report import QUICK, SUFFIX, compute, refuse_out, save_report

    endings = {".docx": ReportFormat.docx, ".tex": ReportFormat.latex}
    form = (to or endings.get(out.suffix.lower() if out else "", ReportFormat.html)).value
    loaded = load_record(record)
    path, shown = out or loaded.folder / f"report{SUFFIX[form]}", True if show_data else None
    refuse_out(path, form)
    if quick and scenario_files:
        raise InputError([Fault("--quick", "a quick report computes no scenario", "leave out --quick or --scenario")])
    if quick and scores:
        raise InputError([Fault("--quick", "a quick report takes no scores", "leave out --quick or --scores")])
    with Bars(TextColumn("{task.description}"), TimeElapsedColumn(), console=_err,
              disable=not _err.is_terminal) as bars:

        def tell(text: str) -> None:
            bars.add_task(text, total=None)

        computed = QUICK if quick else compute(loaded, data, shown, scenario_files or (), tell, scores)
        tell("writing")
        save_report(loaded, data, shown, form, path, computed)
    _err.print(f"written: {path}", soft_wrap=True, markup=False)


@app.command()
def scenario(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    scenario_file: Annotated[Path, typer.Argument(metavar="SCENARIO", help="scenario .toml")],
    left_out: Annotated[bool, typer.Option("--left-out", help="for the extrapolation verdict, leave each fitted dose "
                                           "out in turn; needs the data, and a while")] = False,
    data: Data = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="threads on this machine; one a core by default"
                                                )] = None,
    cluster: Annotated[str | None, typer.Option(metavar="ADDRESS", help="of the scheduler of a Dask cluster, such as "
                                                "tcp://host:8786: compute there")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="keep what is finished here, and go on from it "
                                             "when started again")] = None,
    csv_: Csv = None,
    json_: Json = False,
) -> None:
    """Reconstitution times of dose scenarios under a record's posterior, and how far they extrapolate."""
    from thymodel.results.record import load_record
    from thymodel.results.scenarios import reading_rows, run_scenario

    place = _place(workers, cluster, out)
    with Bars(console=_err, disable=not _err.is_terminal) as bars:
        task = bars.add_task("simulating", total=None)
        show: Callable[[int, int], None] = lambda done, total: bars.update(task, completed=done, total=total)  # noqa: E731
        result = run_scenario(load_record(record), scenario_file, show, left_out, data, place)
    if csv_ is not None:
        _write_csv(result.table, csv_)
    if json_:
        print(result.table.to_json(orient="records", indent=1))
        return
    print(("From a fit to SIMULATED data. " if result.simulated else "") + result.spec.title)
    for sentence in (*result.about_members, *result.people, result.how_to_read):
        print(sentence)
    _print_rows(reading_rows(result))
    _print_risks(result.spec.competing.values())
    _print_notes(result)
    _print_implied_export(result.implied_export)
    _print_extrapolation(result.verdicts, result.implied_export)


def _place(workers: int | None, cluster: str | None, out: Path | None):
    """Where a scenario is to be computed, from the options."""
    from thymodel.results.kept import Place

    faults = []
    if workers is not None and workers < 1:
        faults.append(Fault(f"--workers {workers}", "not a number of threads", "1 or more"))
    if workers is not None and cluster is not None:
        faults.append(Fault(f"--workers {workers}", "a cluster has the workers that it has",
                            "leave out --workers or --cluster"))
    if out is not None and out.exists() and not out.is_dir():
        faults.append(Fault(f"--out {out}", "not a folder", "name a new folder"))
    if faults:
        raise InputError(faults)
    return Place(workers, cluster, out)


def _print_extrapolation(verdicts, implied: Mapping[str, Any] | None) -> None:
    """How far each arm goes beyond what the fit has seen, and why."""
    from thymodel.results import extrapolation

    if not verdicts.arms:
        return
    print("\nextrapolation (docs/extrapolation.md)")
    _print_rows(extrapolation.verdict_rows(verdicts, implied or {"rows": []}))
    for sentence in extrapolation.sentences(verdicts):
        print(sentence)


def _print_risks(risks) -> None:
    from thymodel.results.competing import describe_risk

    for risk in risks:
        print(f"competing with reconstitution: {describe_risk(risk)}")


def _print_notes(result) -> None:
    """What the numbers do not say: each note once, after the rows it is of."""
    own = result.answers
    for note, rows in own[own["note"] != ""].groupby("note", sort=False):
        of = "; ".join(f"{row['endpoint']}, {row['arm']}: {row['quantity']}" for _, row in rows.iterrows())
        print(f"Note on {of}: {note}.")


@app.command()
def explore(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page on this machine; 0: any free one")] = 8642,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="print the address only")] = False,
    static: Annotated[Path | None, typer.Option(help="write one HTML file with answers computed beforehand, for people "
                                                     "without Python, and stop")] = None,
) -> None:
    """A page on this machine that answers doses and patients on sliders; or, as one file, some of them."""
    from thymodel.explorer.ports import open_port
    from thymodel.results.record import load_record

    if static is not None:
        _write_explorer(load_record(record), static)
        return
    with open_port(port) as taken:
        from thymodel.explorer.answers import Answers, make_bench
        from thymodel.explorer.server import make_app, serve

        loaded = load_record(record)
        _err.print("preparing ...", soft_wrap=True)
        pages = make_app(Answers(make_bench(loaded)))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        print(f"{'SIMULATED data: ' if loaded.content['simulated'] else ''}{loaded.content['title']}\n"
              f"{address}  (Ctrl-C ends)", flush=True)
        if not no_browser:
            import webbrowser

            webbrowser.open(address)
        serve(pages, taken)


def _write_explorer(record, path: Path) -> None:
    from thymodel.explorer.answers import Answers, make_bench
    from thymodel.explorer.pages import static_html

    if not path.parent.is_dir():
        raise InputError([Fault(str(path), "no such folder", "make it first")])
    with Bars(console=_err, disable=not _err.is_terminal) as bars:
        task = bars.add_task("simulating", total=None)
        show: Callable[[int, int], None] = lambda done, total: bars.update(task, completed=done, total=total)  # noqa: E731
        _write_text(static_html(Answers(make_bench(record)), show), path)


# --- models of other tools -------------------------------------------------------------------------------------

import_app = typer.Typer(no_args_is_help=True, help="Model documents from the files of other tools.")
export_app = typer.Typer(no_args_is_help=True, help="Models as files for other tools.")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")


@import_app.command("sbml")
def import_sbml(
    file: Annotated[Path, typer.Argument(help="an SBML file, Level 2 or 3 core")],
    out: Annotated[Path | None, typer.Option(help="write the model document to this file")] = None,
) -> None:
    """A model document from SBML; what is not supported is refused by name (docs/sbml.md)."""
    from thymodel.documents.sbml import load_sbml

    reading = load_sbml(file)
    for note in reading.notes:
        sys.stderr.write(f"{file}: note: {note}\n")
    _write_text(reading.text, out)


@import_app.command("nonmem")
def import_nonmem(
    file: Annotated[Path, typer.Argument(help="a data set of NONMEM, Monolix or R, ADaM, or a laboratory's table")],
    out: Annotated[Path, typer.Option(help="write the events to this CSV file, and an account of every row beside it")],
    map_: Annotated[Path | None, typer.Option("--map", help="a TOML file: what columns, codes and units mean")] = None,
) -> None:
    """Event rows from a data set as other tools write it (docs/data_import.md)."""
    from thymodel.documents import import_file
    from thymodel.documents.event_import import import_events
    from thymodel.documents.import_map import NO_MAP, load_import_map
    from thymodel.documents.toml import read_text

    import_file.refuse_overwriting(out, [file, *([map_] if map_ else [])])
    found = import_events(file, load_import_map(map_) if map_ else NO_MAP)
    text = import_file.csv_text(found)
    _write_text(text, out)
    _write_text(import_file.account_text(found, text, read_text(map_) if map_ else None), import_file.account_path(out))
    for note in found.notes:
        sys.stderr.write(f"{file}: note: {note}\n")
    for what, count in found.disposition.items():
        print(f"{what}: {count}")
    print("\n# for the spec; units marked ? are not known from the file")
    print(import_file.data_table(found, text, out.name), end="")
    if found.others:
        print(f"# carried over, for covariates (then say the unit of each): {', '.join(found.others)}")


@export_app.command("sbml")
def export_sbml(
    model: Annotated[str, typer.Argument(help="path, or the name of a shipped model")],
    out: Annotated[Path | None, typer.Option(help="write the SBML to this file")] = None,
    dose: Annotated[list[str] | None, typer.Option(help="AMOUNT@DAY[:INPUT], repeatable: becomes an event")] = None,
) -> None:
    """A model with its doses as SBML Level 3 Version 2 core."""
    from thymodel.documents.model import load_model
    from thymodel.documents.regimen import parse_doses
    from thymodel.documents.sbml_export import sbml_text

    loaded = load_model(model)
    _write_text(sbml_text(loaded, parse_doses(dose or [], loaded)), out)


@export_app.command("ro-crate")
def export_ro_crate(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    out: Annotated[Path | None, typer.Option(help="RECORD/ro-crate-metadata.json, or a .zip with all files")] = None,
) -> None:
    """A record with its run as an RO-Crate: its files with sha256, what was run on what, and what came of it."""
    from thymodel.results.crate import crate_text, save_crate
    from thymodel.results.record import load_record

    loaded = load_record(record)
    if out is None:
        sys.stdout.write(crate_text(loaded))
        return
    save_crate(loaded, out)
    _err.print(f"written: {out}", soft_wrap=True)


Source = Annotated[Path, typer.Argument(help="directory of a record, a spec, or the directory that holds one")]
Folder = Annotated[Path, typer.Option(help="directory for the files; none is written over")]


@export_app.command("nonmem")
def export_nonmem(source: Source, out: Folder, data: Data = None) -> None:
    """A spec or a record as a NONMEM control stream with its data file (docs/export_nonmem.md)."""
    from thymodel.results.nonmem_export import save_control_stream
    from thymodel.results.population_export import load_population_model

    for path in save_control_stream(load_population_model(source, data), out):
        print(path)


@export_app.command("rxode2")
def export_rxode2(source: Source, out: Folder, data: Data = None) -> None:
    """A spec or a record as an R function for nlmixr2 and rxode2 with its data file (docs/export_nonmem.md)."""
    from thymodel.results.population_export import load_population_model
    from thymodel.results.rxode_export import save_rxode_model

    for path in save_rxode_model(load_population_model(source, data), out):
        print(path)


def _write_text(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    from thymodel.results.record import write_file

    try:
        write_file(path, text.encode())
    except OSError as error:
        raise InputError([Fault(str(path), f"cannot be written: {error.strerror}")]) from None


@app.command()
def identify(
    spec: Annotated[Path, typer.Argument(help="spec.toml, or the directory that holds it")],
    data: Data = None,
    profile: Annotated[list[str] | None, typer.Option(help="a parameter to profile with the data, repeatable")] = None,
    csv_: Csv = None,
    json_: Json = False,
) -> None:
    """What a fit can learn, before it is run: from the data or, without any, from the design.toml beside the spec."""
    from thymodel.results import identifiability as run

    profiled = run.profile_all(spec, profile, data) if profile else []
    found = run.identify(spec, data)
    if csv_ is not None:
        _write_csv(run.addition_table(found), csv_)
    if json_:
        print(run.as_json(found, profiled))
        return
    _print_identified(found, profiled)


def _print_identified(found, profiled) -> None:
    from thymodel.results import identifiability as run

    print(("SIMULATED: " if found.simulated else "") + found.title)
    print(f"measurements: {found.source}\nmethod: {found.method}\n\n{run.summary(found)}")
    for line in run.warnings(found):
        print(f"  warning: {line}")
    print("\nexpected SD of the posterior over that of the prior (1: nothing learned), at the priors' medians; and "
          f"median (5% to 95%) over {len(found.drawn)} draws of the prior, of {found.asked}")
    _print_rows(run.contraction_rows(found))
    print("\nwhat an added measurement would teach, at the priors' medians (an observable without an error model: "
          f"lognormal, log-SD {run.ADDED_LOG_SD}, or the design's)")
    _print_rows(run.addition_rows(found))
    for one in profiled:
        low, high = one.values[one.drop >= -run.THRESHOLD][[0, -1]]
        print(f"\nprofile of {one.name}: {one.verdict}; within {run.THRESHOLD:.2f} log units of the best from "
              f"{low:.4g} to {high:.4g} of the values tried ({one.values[0]:.4g} to {one.values[-1]:.4g})")


@app.command()
def sensitivity(
    model: Annotated[str, typer.Argument(help="path, or the name of a shipped model")],
    dose: Annotated[list[str] | None, typer.Option(help="AMOUNT@DAY[:INPUT], repeatable")] = None,
    endpoint: Annotated[list[str] | None, typer.Option(
        help="MARKER@DAY, MARKER>THRESHOLD or MARKER>THRESHOLD@HORIZON, repeatable")] = None,
    samples: Annotated[int, typer.Option(help="base samples of the Sobol indices, a power of 2")] = 1024,
    seed: Annotated[int, typer.Option(help="the same seed gives the same indices")] = 1,
    out: Annotated[Path | None, typer.Option(help="tornado figure: .png, .svg or .pdf")] = None,
    json_: Json = False,
) -> None:
    """What endpoints depend on: elasticities at typical values, Sobol indices over the priors, a tornado figure."""
    from thymodel.results import sensitivity as run
    from thymodel.results.frames import refuse_ending, save_figure
    from thymodel.results.tornado import plot_tornado

    if out is not None:
        refuse_ending(out)
    found = run.analyse_texts(model, dose or [], endpoint or [], samples, seed)
    if out is not None:
        save_figure(plot_tornado(found), out)
    if json_:
        print(run.as_json(found))
        return
    print(f"{found.model.name}: {found.courses} courses from {found.samples} samples of the priors of "
          f"{len(found.names)} parameters; {found.failed} samples left out because a course failed\n"
          f"elasticity: d log(endpoint)/d log(parameter) at typical values; Sobol indices with "
          f"{100 * run.CONFIDENCE:.0f}% bootstrap intervals; endpoint with the parameter one prior SD down and up")
    for answer in found.answers:
        print(f"\n{run.headline(found, answer)}")
        _print_rows(run.answer_rows(found, answer))


# --- what a fit is worth ---------------------------------------------------------------------------------------


class LeftOut(StrEnum):
    """As `results.scores.Unit`, which is imported only where it is needed."""

    subject = "subject"
    observation = "observation"
    cohort = "cohort"
    dose = "dose"


@app.command()
def compare(
    records: Annotated[list[Path], typer.Argument(help="directories of records; one alone: its scores")],
    by: Annotated[LeftOut, typer.Option(help="what is left out at a time")] = LeftOut.subject,
    refit: Annotated[bool, typer.Option(help="fit again without each unit whose Pareto k is above 0.7")] = False,
    data: Data = None,
    csv_: Csv = None,
    json_: Json = False,
) -> None:
    """Predictive scores: how well fits foretell what is left out, and stacking weights where there are several."""
    from thymodel.results import scores as run
    from thymodel.results.record import load_record

    loaded = [load_record(folder) for folder in records]
    run.refuse_unlike(loaded)
    with _FitDisplay() as display:
        found = [run.score(record, by, data, refit, display.progress.stage) for record in loaded]
    table = run.compare(found) if len(found) > 1 else None
    if csv_ is not None:
        _write_csv(run.units_table(found), csv_)
    if json_:
        print(run.as_json(found, table))
        return
    for one in found:
        _print_scores(one, len(found) == 1)
    if table is not None:
        print(f"\n{run.HEADING[found[0].by]}; best first, in log units")
        _print_rows(run.comparison_rows(table))
        print(run.caution(table, len(found[0].table), found[0].by))


def _print_scores(found, alone: bool) -> None:
    from thymodel.results import scores as run

    banner = "SIMULATED data: " if found.record.content["simulated"] else ""
    print(f"{banner}{found.record.content['title']} ({found.record.folder})")
    print(run.headline(found))
    if alone:
        print(f"\nlog density of what is left out, {run.HEADING[found.by]}; in log units")
        _print_rows(run.unit_rows(found))
    for note in found.notes:
        print(note)


@app.command()
def priors(
    record: Annotated[Path, typer.Argument(help="directory of the record")],
    tip: Annotated[str | None, typer.Option(help="a parameter whose prior is moved till the target is crossed")] = None,
    endpoint: Annotated[str | None, typer.Option(help="with --tip: the endpoint that is asked about")] = None,
    day: Annotated[float | None, typer.Option(help="with --tip: reconstituted by this day")] = None,
    target: Annotated[float | None, typer.Option(help="with --tip: the probability to cross")] = None,
    refit: Annotated[bool, typer.Option(help="with --tip: fit again where weights do not reach")] = False,
    data: Data = None,
    csv_: Csv = None,
    json_: Json = False,
) -> None:
    """What a fit owes to its priors: power-scaling of prior and likelihood; with --tip, a tipping point."""
    from thymodel.results import prior_sensitivity as run
    from thymodel.results.record import load_record

    asked = _question(tip, endpoint, day, target)
    loaded = load_record(record)
    with _FitDisplay() as display:
        tipping = None if asked is None else run.tip(loaded, asked, refit, data, display.progress.stage)
        display.progress.stage("power-scaling")
        found = run.check_priors(loaded)
    if csv_ is not None:
        _write_csv(run.as_table(found) if tipping is None else tipping.table, csv_)
    if json_:
        print(run.as_json(found, tipping))
        return
    print(f"{'SIMULATED data: ' if loaded.content['simulated'] else ''}{loaded.content['title']} ({loaded.folder})")
    if tipping is not None:
        print(run.tip_heading(tipping))
        _print_rows(run.tip_rows(tipping))
        return
    print(run.METHOD)
    _print_rows(run.sensitivity_rows(found))
    for line in run.told(found):
        print(line)


def _question(tip: str | None, endpoint: str | None, day: float | None, target: float | None):
    """What --tip asks; none of the four, or all."""
    from thymodel.results.prior_sensitivity import Question

    given = {"--tip": tip, "--endpoint": endpoint, "--day": day, "--target": target}
    absent = [name for name, value in given.items() if value is None]
    if tip is None or endpoint is None or day is None or target is None:
        if len(absent) == len(given):
            return None
        raise InputError([Fault(name, "missing", "a tipping point needs --tip, --endpoint, --day and --target")
                          for name in absent])
    return Question(tip, endpoint, day, target)


@app.command()
def calibrate(
    spec: Annotated[Path, typer.Argument(help="spec.toml, or the directory that holds it")],
    replicates: Annotated[int, typer.Option(help="studies to draw and fit")],
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="directory for results and figure; a run there is continued")] = None,
    seed: Annotated[int, typer.Option(min=0, help="the same seed draws the same studies")] = 1,
    chains: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    warmup: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    draws: Annotated[int | None, typer.Option(help="in place of the spec's")] = None,
    json_: Json = False,
) -> None:
    """Are a spec's intervals what they say? Studies drawn from its priors, in the design of its data (or, without any,
    of the design.toml beside it), each fitted; ranks of the truths."""
    from thymodel.results import calibration as run

    overrides = {"chains": chains, "warmup": warmup, "draws": draws}
    with Bars(console=_err, disable=not _err.is_terminal) as bars:
        task = bars.add_task("studies", total=None)
        show: Callable[[int, int], None] = lambda done, total: bars.update(task, completed=done, total=total)  # noqa: E731
        found = run.calibrate(spec, replicates, data, seed, out, overrides, show)
    verdict = run.judge(found)
    print(run.as_json(found)) if json_ else _print_calibration(found, verdict)
    if not verdict.passed:
        raise SystemExit(1)


def _print_calibration(found, verdict) -> None:
    from thymodel.results import calibration as run

    print(f"SIMULATED studies: {found.title}\ndesign: {found.source}\n"
          f"verdict: {'CALIBRATED' if verdict.passed else 'NOT CALIBRATED'}")
    for sentence in verdict.sentences:
        print(f"  {sentence}")
    studies = len(found.places)
    if not studies:
        return
    limits = "; ".join("{:.0%} interval {} to {}".format(level, *run.coverage_limits(studies, level, found.alarm))
                       for level in run.LEVELS)
    print(f"\np of uniform ranks, and studies of {studies} whose equal-tailed interval holds the truth "
          f"(a right one: {limits})")
    _print_rows([row | {"p": run.p_text(row["p"]), "mean rank": f"{row['mean rank']:.3f}"}
                 for row in run.quantity_rows(found)])


@app.command()
def selftest(
    report: Annotated[Path | None, typer.Option(help="write the report to this file (.html or .md)")] = None,
    sbom: Annotated[Path | None, typer.Option(help="write what is installed to this file (.json, CycloneDX)")] = None,
    json_: Json = False,
) -> None:
    """Qualifies this installation and its operation: versions, files, solvers, a known posterior, a damaged record."""
    from thymodel.results import inventory, qualification

    if report is not None:
        qualification.refuse_report(report)
    if sbom is not None:
        qualification.refuse_report(sbom, (".json",))
        qualification.save_text(inventory.sbom_json(list(inventory.installed().values())), sbom)
    with _progress("checking") as progress:
        found = qualification.selftest(progress)
    if report is not None:
        qualification.save_text(qualification.selftest_text(found, report.suffix.lower()), report)
    if json_:
        print(qualification.selftest_json(found))
    else:
        for result in found.results:
            print(f"{result.key}  {result.outcome:4}  {result.seconds:6.1f} s  {result.requirement} {result.found}")
        print(f"thymodel {found.environment['thymodel']}: self-test {'passed' if found.passed else 'FAILED'}")
    if not found.passed:
        raise SystemExit(1)
