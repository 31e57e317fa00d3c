"""The report of a fit: one document made from the record, and written as HTML, Word or LaTeX.

Measured values appear in it only where they lie in the repository beside the spec, unless asked for: a report may go
where its data may not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from thymodel.documents.data import StudyData, load_data
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError, RecordError, SolveError
from thymodel.inference.approximation import NUTS
from thymodel.results import extrapolation, plots, report_plots, tables
from thymodel.results import report_tables as rt
from thymodel.results.assessment import judge
from thymodel.results.check_page import question_rows
from thymodel.results.check_plots import caption as check_caption
from thymodel.results.check_plots import (
    plot_endpoints,
    plot_npde,
    plot_predictive,
    plot_random_effects,
    plot_residuals,
    plot_vpc,
)
from thymodel.results.checks import Checks, check_fit
from thymodel.results.criteria import MET, NOT_MET, OPEN, SPONSOR, Evidence, load_evidence
from thymodel.results.document import (
    Banner,
    Block,
    Cited,
    Document,
    Grid,
    Paragraph,
    Picture,
    Reference,
    Section,
    numbered,
)
from thymodel.results.drawing import schematic, svg
from thymodel.results.frames import png_bytes
from thymodel.results.html_report import html_page
from thymodel.results.latex_report import latex_files
from thymodel.results.prior_sensitivity import METHOD, PriorSensitivity, check_priors, sensitivity_rows, told
from thymodel.results.record import FitRecord, find_data, untouched, write_file
from thymodel.results.run_log import run_log_table
from thymodel.results.scenarios import Scenario, run_scenario
from thymodel.results.titled_table import TitledTable

Format = Literal["html", "docx", "latex"]
SUFFIX: Mapping[str, str] = {"html": ".html", "docx": ".docx", "latex": ".tex"}
_COLUMNS, _PANELS = 3, 15  # individual fits a figure: so many that a printed page leaves them readable
_NOT_NOW = "not computed when a fit ends"
_COMMAND = "thymodel report RECORD"


@dataclass(frozen=True)
class Computed:
    """What a report shows beyond what the record holds; `why` says of each part that is absent why it is, and what
    would make it."""

    checks: Checks | None = None
    priors: PriorSensitivity | None = None
    scenarios: tuple[Scenario, ...] = ()
    scores: tuple[Mapping[str, Any], ...] = ()
    why: Mapping[str, tuple[str, str]] = field(default_factory=dict)


QUICK = Computed(why=dict.fromkeys(("checks", "priors", "scenarios"), (_NOT_NOW, _COMMAND)))


def save_report(record: FitRecord, data: Path | None = None, show_data: bool | None = None, to: Format = "html",
                out: Path | None = None, computed: Computed = QUICK) -> Path:
    """Writes the report into the record's directory, or to `out`; it may be written again at any time.

    Args:
        data: the study data, when they are not where the record found them.
        show_data: whether measured values are drawn; by default only if the data lie beside the spec.
        to: "html", "docx" (needs the extra `docx`) or "latex" (needs it too; figures go into a folder beside it).
        computed: checks, prior sensitivity and scenarios, from `compute`.

    Raises:
        InputError: `data` are not those of the record, or the file cannot be written.
        RecordError: a file of the record changed: its numbers may not go into a document.
    """
    untouched(record)
    path = record.folder / f"report{SUFFIX[to]}" if out is None else out
    refuse_out(path, to)
    document = report_document(record, data, show_data=show_data, computed=computed)
    try:
        for name, content in _files(document, path, to).items():
            name.parent.mkdir(parents=True, exist_ok=True)
            write_file(name, content)
    except OSError as error:
        raise InputError([Fault(str(path), f"cannot be written: {error.strerror}")]) from None
    return path


def _files(document: Document, path: Path, to: Format) -> dict[Path, bytes]:
    if to == "html":
        return {path: html_page(document).encode()}
    if to == "latex":
        return latex_files(document, path)
    from thymodel.results.docx_report import docx_bytes

    return {path: docx_bytes(document)}


def refuse_out(path: Path, to: Format) -> None:
    """Says what is wrong with a place or a format before anything is computed for it.

    Raises:
        InputError: another ending than the format's, a folder, no folder to write to, a file of a record, or a package
            that is not installed.
    """
    faults = []
    if path.suffix.lower() not in {"html": (".html", ".htm"), "docx": (".docx",), "latex": (".tex",)}[to]:
        faults.append(Fault(f"--out {path}", f"not the ending of {to}", f"give a name that ends with {SUFFIX[to]}"))
    if path.is_dir():
        faults.append(Fault(f"--out {path}", "is a folder", "give the name of a file"))
    there = next((place for place in path.absolute().parents if place.exists()), path.absolute().anchor)
    if not Path(there).is_dir():
        faults.append(Fault(f"--out {path}", f"{there} is no folder", "give another place"))
    if to != "html":
        needed = {"docx": "python-docx", "resvg_py": "resvg-py"} if to == "docx" else {"resvg_py": "resvg-py"}
        import importlib.util

        faults += [Fault(f"--to {to}", f"the package {package} is not installed", "pip install 'thymodel[docx]'")
                   for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if faults:
        raise InputError(faults)


def report_html(record: FitRecord, data: Path | None = None, figures: bool = True,
                show_data: bool | None = None) -> str:
    """The report as HTML without any reference to the outside.

    Args:
        data: file of the study data, when they are not where the record found them.
        figures: False leaves the figures out.
        show_data: whether measured values are drawn; by default only if the data lie beside the spec.

    Raises:
        InputError: `data` are not those of the record.
    """
    return html_page(report_document(record, data, figures, show_data))


# --- what is computed for it ---------------------------------------------------------------------------------


def compute(record: FitRecord, data: Path | None = None, show_data: bool | None = None,
            scenarios: Sequence[Path] = (), tell: Callable[[str], None] = lambda text: None,
            scores: Path | None = None) -> Computed:
    """Predictive checks, prior sensitivity and scenarios of a record, as far as it can give them.

    Args:
        scenarios: files; by default those in the folder `scenarios` of the record.
        tell: is told what is being computed.
        scores: file that `thymodel compare RECORD --json` printed, for the plan's criteria.

    Raises:
        InputError: other data than the record's, scores of another record, or every fault of a scenario that was
            asked for by name.
        RecordError: a file of the record changed.
    """
    untouched(record)
    why: dict[str, tuple[str, str]] = {}
    known = load_evidence(record, scores=scores).scores
    tell("predictive checks")
    checks = _checks(record, data, show_data, why)
    tell("prior sensitivity")
    priors = None
    try:
        priors = check_priors(record)
    except RecordError:
        why["priors"] = (record.reservation or "the record does not verify",
                         "thymodel priors RECORD, of a fit that passed")
    tell("scenarios")
    return Computed(checks, priors, _scenarios(record, scenarios, why), known, why)


def _checks(record: FitRecord, data: Path | None, show_data: bool | None,
            why: dict[str, tuple[str, str]]) -> Checks | None:
    if not record.spec.has_data:
        why["checks"] = ("fitted to published figures only: no patients to compare with",
                         "see the published figures beside their predictions")
    elif not _shown(record, show_data):
        why["checks"] = ("it would show measured values, and the data do not lie beside the spec",
                         f"{_COMMAND} --data FILE --show-data")
    elif (path := find_data(record, data)) is None:
        why["checks"] = ("the study data are not at hand", f"{_COMMAND} --data FILE")
    else:
        try:
            return check_fit(record, path)
        except SolveError as error:
            why["checks"] = (f"replicates could not be computed ({error})", "thymodel check-fit RECORD --out DIR")
    return None


def _scenarios(record: FitRecord, asked: Sequence[Path], why: dict[str, tuple[str, str]]) -> tuple[Scenario, ...]:
    files = list(asked) or sorted((record.folder / "scenarios").glob("*.toml"))
    if not files:
        why["scenarios"] = ("no scenario file in the record's folder", f"{_COMMAND} --scenario FILE")
        return ()
    try:
        return tuple(run_scenario(record, path) for path in files)
    except RecordError:
        why["scenarios"] = (record.reservation or "the record does not verify",
                            "thymodel scenario RECORD SCENARIO, of a fit that passed")
        return ()


# --- the document --------------------------------------------------------------------------------------------


def report_document(record: FitRecord, data: Path | None = None, figures: bool = True, show_data: bool | None = None,
                    computed: Computed = QUICK) -> Document:
    """Everything that a report says, in order.

    Raises:
        InputError: `data` are not those of the record.
    """
    source, content = rt.Source(record), record.content
    study = _study(record, data) if figures and _shown(record, show_data) else None
    said, judged = rt.result_sentences(source), _judged(record, computed)
    parts = [_found(source, said, judged), _data(source), _model(source, figures), _fit(source, figures, computed),
             *_meeting(source, study, figures, computed), *_results(source, study, figures, computed),
             *_sensitivity(computed), judged, _software(source), *_listings(source, said, computed)]
    sections = numbered([parts[0], Section("holds", "What this report holds", ()), *parts[1:]])
    held = replace(sections[1], blocks=(_held(sections, figures, study is not None, computed),))
    sections = numbered([sections[0], held, *sections[2:]])  # the table of contents is itself the first table
    held = replace(sections[1], blocks=(replace(_held(sections, figures, study is not None, computed), number=1),))
    return Document(str(content["title"]), str(content["name"]), record.digest, str(content["created"]),
                    bool(content["simulated"]), tuple(_banners(record)), tuple(_running(record)),
                    (sections[0], held, *sections[2:]))


def _shown(record: FitRecord, show_data: bool | None) -> bool:
    return bool(record.content["data"]["path"]) if show_data is None else show_data


def _study(record: FitRecord, data: Path | None) -> StudyData | None:
    """The data if they are at hand; never others than those that were fitted."""
    path = find_data(record, data)
    if path is None or not record.spec.has_data:
        return None
    if digest(path.read_bytes()) != record.content["data"]["sha256"]:
        raise InputError([Fault(str(path), "not the data of this record (sha256 differs)")])
    spec = record.spec
    return load_data(path, spec.model, spec.columns)


def _banners(record: FitRecord) -> Iterator[Banner]:
    if record.content["simulated"]:
        yield Banner("SIMULATED data: no patient is behind any number of this report.", "simulated")
    if record.passed:
        yield Banner("The fit passed its gates.", "passed")
    elif record.method != NUTS:
        yield Banner(f"{record.reservation}. No number of this report may be quoted.", "failed")
    else:
        yield Banner("The fit FAILED its gates: no number of this report may be quoted.", "failed")


def _running(record: FitRecord) -> Iterator[str]:
    if record.content["simulated"]:
        yield "SIMULATED data: no patient"
    if record.reservation:
        yield record.reservation


def _section(key: str, title: str, *blocks: Block | None, level: int = 1) -> Section:
    return Section(key, title, tuple(block for block in blocks if block is not None), level)


def _notes(texts: Sequence[str]) -> list[Paragraph]:
    return [Paragraph(text, "note") for text in texts]


def _found(source: rt.Source, said: Sequence[Cited], judged: Section) -> Section:
    record, content = source.record, source.content
    blocks: list[Block] = [Paragraph(content["purpose"])]
    blocks += [Paragraph(text, "bullet") for text in content["verdict"]["sentences"]]
    if record.method != NUTS:
        blocks.append(Paragraph(f"{record.reservation}. The numbers below describe its draws."))
    elif not record.passed:
        blocks.append(Paragraph("The fit failed its gates: the numbers below describe its draws and may not be "
                                "quoted."))
    blocks += [Paragraph(text) for text in _plan_sentences(judged)]
    blocks += [Paragraph(text, "result") for text in said]
    if not said:
        blocks.append(Paragraph("The spec has no endpoint."))
    blocks.append(Paragraph(
        f"Record {content['name']}, made {content['created']}. Model: {content['model']['title']} "
        f"({content['model']['name']}). “New patients” are simulated, with covariates drawn from those of the "
        "fit; intervals are of the parameters alone, and leave out what was held at a value.", "note"))
    return _section("summary", "Summary", *blocks)


def _plan_sentences(judged: Section) -> Iterator[str]:
    """What the analysis plan asked and got: gates on the draws do not say whether the question was answered."""
    tables = {block.key: block.table for block in judged.blocks if isinstance(block, Grid)}
    if not tables:
        return
    if not tables["criteria"].rows:
        yield "No analysis plan was set down before the fit: no criterion was fixed in writing."
        return
    named = {result: [row[0] for row in tables["criteria"].rows if row[-1] == result]
             for result in (MET, NOT_MET, SPONSOR, OPEN)}
    told = "; ".join(f"{len(names)} {result}" + (f" ({', '.join(names)})" if result != MET else "")
                     for result, names in named.items() if names)
    deviations = len(tables["deviations"].rows)
    yield (f"Technical criteria of the analysis plan: {told}. Deviations from the plan: "
           f"{deviations or 'none found'}. The section “{judged.title}” has each of them.")


def _data(source: rt.Source) -> Section:
    content = source.content["data"]
    blocks: list[Block] = []
    if not content["disposition"]:
        blocks.append(Paragraph("No patients: published figures alone."))
    else:
        blocks.append(Paragraph(f"{content['name']}: {content['rows']} rows, {len(content['subjects'])} subjects, "
                                f"{content['observations']} observations used, {len(content['exclusions'])} excluded."))
    blocks += [*rt.disposition_tables(source), *rt.covariate_tables(source), *rt.exclusion_tables(source)]
    if not content["exclusions"]:
        blocks.append(Paragraph("No observation was excluded."))
    return _section("data", "Data", *blocks, *rt.unknown_covariate_tables(source), *_notes(content["notes"]))


def _model(source: rt.Source, figures: bool) -> Section:
    model = source.record.spec.model
    drawing = None
    if figures:
        drawn = schematic(model)
        drawing = Picture("schematic", f"Compartments of the model {model.name}: boxes are states, arrows are flows, "
                          "dashed arrows set the pace of a rate", f"Drawing of the {len(model.states)} states of "
                          f"{model.name} and the flows between them", b"", drawn.wide / 96, drawn.high / 96, svg(model))
    return _section("model", "Model, priors and assumptions", Paragraph(
        f"{model.title}: {len(model.states)} states, {len(model.parameters)} parameters. Equations: "
        f"thymodel describe {model.name}."), drawing, *rt.prior_tables(source), *rt.borrowed_tables(source),
        *[Paragraph(text) for text in (source.content.get("prior_from") or {}).get("sentences", [])],
        *rt.fixed_tables(source), *rt.assumption_tables(source))


def _fit(source: rt.Source, figures: bool, computed: Computed) -> Section:
    record = source.record
    blocks: list[Block | None] = [Grid(run_log_table(record.folder.absolute().parent)), *rt.run_tables(source),
                                  *rt.criteria_tables(source), *rt.parameter_tables(source), *rt.mode_tables(source)]
    if figures:
        draw = _Drawn(record)
        if record.method != "map":  # a single point has no density
            blocks += [draw("prior-posterior", plots.plot_prior_posterior(record), "Prior and posterior",
                            "Prior density and posterior histogram of each estimated number"),
                       draw("identifiability", report_plots.plot_learned_share(record),
                            "Identifiability: what the data left of each prior's SD",
                            "Bars of posterior SD over prior SD, a bar a parameter")]
        if record.method == NUTS:
            blocks += [draw("trace", plots.plot_trace(record), "Traces", "Draws of each parameter in order, by chain"),
                       draw("rank", plots.plot_rank(record), "Rank histograms",
                            "Histograms of the ranks of each chain's draws, a panel a parameter"),
                       draw("energy", report_plots.plot_energy(record), "Energy of the chains, and the steps that "
                            "momentum makes between energies; steps much narrower than the energies explore poorly",
                            "Histograms of energies and of their steps by chain")]
        blocks.append(draw("covariate-forest", report_plots.plot_covariate_effects(record), "Covariate effects",
                           "Median and interval of each covariate's coefficient"))
        if computed.checks is not None and computed.checks.content["random_effects"]:
            blocks.append(draw("random-effects", plot_random_effects(computed.checks), check_caption("random_effects"),
                               "Random effects of each subject with intervals"))
    return _section("fit", "The fit", *blocks)


class _Drawn:
    """Figures as blocks: each caption says where its data are from."""

    def __init__(self, record: FitRecord) -> None:
        self.end = ". SIMULATED data." if record.content["simulated"] else "."
        if record.reservation:
            self.end += f" {record.reservation}."

    def __call__(self, key: str, figure: Figure | None, caption: str, alt: str) -> Picture | None:
        if figure is None:
            return None
        width, height = (float(size) for size in figure.get_size_inches())
        return Picture(key, caption.rstrip(".") + self.end, alt + self.end, png_bytes(figure), width, height)


def _meeting(source: rt.Source, study: StudyData | None, figures: bool, computed: Computed) -> Iterator[Section]:
    record, found = source.record, source.content["residuals"]
    blocks: list[Block | None] = []
    tables_of_papers = list(rt.published_tables(source))
    if found["subjects"]:
        blocks.append(Paragraph(
            f"{len(found['beyond'])} of {source.content['data']['observations']} records have a standardised residual "
            f"beyond {found['bound']}. The residual is (observed − predicted)/spread on the scale of the error model, "
            "with the posterior median of the individual prediction. A record beyond a limit of quantification is "
            "listed if the prediction lies on the wrong side of the limit; its residual is then that of the limit."))
    blocks += [*tables_of_papers, *rt.misfit_tables(source)]
    if figures and study is None and source.content["data"]["subjects"]:
        blocks.append(Paragraph("Measured values are not drawn: the data do not lie beside this record.", "note"))
    draw = _Drawn(record)
    if study is not None:
        blocks += list(_individual_fits(record, study, draw))
    if computed.checks is not None:
        blocks += [Paragraph(text, "bullet") for text in computed.checks.content["verdict"]["sentences"]]
        blocks.append(rt.from_rows("predictive-checks", "Predictive checks, all questions",
                                   question_rows(computed.checks), *computed.checks.content["notes"]))
        if figures:
            blocks += list(_check_figures(computed.checks, draw))
    yield _section("checks", "The data and the model", *blocks)


def _individual_fits(record: FitRecord, study: StudyData, draw: _Drawn) -> Iterator[Picture | None]:
    names = record.content["data"]["subjects"]
    pages = [names[k:k + _PANELS] for k in range(0, len(names), _PANELS)]
    for observable in record.spec.likelihood:
        for k, page in enumerate(pages):
            part = f", part {k + 1} of {len(pages)}" if len(pages) > 1 else ""
            yield draw(f"individual-{observable}-{k + 1}",
                       plots.plot_individuals(record, study, observable, page, _COLUMNS),
                       f"Individual fits, {observable}{part}: median course with its interval, and measured values",
                       f"A panel for each of {len(page)} subjects: course over time and measured {observable}")


def _check_figures(checks: Checks, draw: _Drawn) -> Iterator[Picture | None]:
    """Those of check-fit, a marker a figure where they would be too small to read together."""
    single = {name: _of_marker(checks, name) for name in checks.content["observables"]}
    for name, own in single.items():
        yield draw(f"gof-{name}", plot_residuals(own), f"Goodness of fit, {name}: " + check_caption("residuals"),
                   f"Observed against individually predicted {name}, and residuals")
    for name, own in single.items():
        yield draw(f"npde-{name}", plot_npde(own), f"PIT and NPDE, {name}: " + check_caption("npde"),
                   f"Histogram, quantiles, time and prediction of prediction errors of {name}")
    for name in single:
        yield draw(f"vpc-{name}", plot_vpc(checks, name), f"{name}. " + check_caption("vpc"),
                   f"Quantiles of measured {name} by visit and arm before bands of replicates, and the share below "
                   "the limit")
    yield draw("predictive", plot_predictive(checks), check_caption("predictive"),
               "Predictive intervals of one measurement by marker and arm")
    if checks.content["endpoints"]:
        yield draw("endpoint-vpc", plot_endpoints(checks), check_caption("endpoints"),
                   "Kaplan-Meier curves of measured endpoints before bands of replicates")


def _of_marker(checks: Checks, name: str) -> Checks:
    content = checks.content
    return Checks(checks.record, {**content, "observables": {name: content["observables"][name]},
                                  "discrepancies": {name: content["discrepancies"][name]}})


def _results(source: rt.Source, study: StudyData | None, figures: bool, computed: Computed) -> Iterator[Section]:
    record, draw = source.record, _Drawn(source.record)
    blocks: list[Block | None] = [*rt.endpoint_tables(source)]
    if figures and source.content["endpoints"]:
        blocks.append(draw("incidence", plots.plot_reconstitution(record), "Subjects reconstituted by day",
                           "Share of subjects that have reached each endpoint by each day, by arm"))
        blocks.append(draw("dose-endpoint", report_plots.plot_dose_endpoint(record), "Endpoint by dose: the fit's "
                           "arms; hatched: beyond the doses of the fit",
                           "Share of patients against dose, with interval"))
    if figures:
        for name in record.spec.likelihood:
            blocks.append(draw(f"course-{name}", plots.plot_course(record, study, [name]),
                               f"Courses by arm, {name}", f"Course of {name} over time in each arm"))
    yield _section("results", "Endpoints by dose", *blocks)
    warnings, grids, absent = rt.implied_export_tables(source)
    yield _section("implied", "What the predictions ask of the thymus", *[Banner(text, "warned") for text in warnings],
                   *grids, Paragraph(absent) if absent else None)
    verdicts = extrapolation.judge_fit(record)
    if verdicts.arms:
        rows = extrapolation.verdict_rows(verdicts, source.content.get("implied_export") or {"rows": []})
        yield _section("extrapolation", "How far the predictions go beyond the data", rt.from_rows(
            "extrapolation-verdicts", "Extrapolation verdict by arm", rows, "Computed from the record's draws and "
            "spec; docs/extrapolation.md says how."), *_notes(extrapolation.sentences(verdicts)))
    for k, scenario in enumerate(computed.scenarios):
        yield _scenario(record, scenario, k + 1, draw, figures)


def _scenario(record: FitRecord, scenario: Scenario, number: int, draw: _Drawn, figures: bool) -> Section:
    blocks: list[Block | None] = [*_notes(scenario.people)]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in scenario.answers.to_dict("records"):
        if "_over_" in row["quantity"] or row["endpoint"] not in scenario.endpoints:
            continue
        endpoint = scenario.endpoints[row["endpoint"]]
        length = endpoint.horizon - endpoint.clock_start
        texts = [tables.quantity_text(row[key], row["unit"], length) for key in ("estimate", "lower", "upper")]
        cells = rows[row["arm"], f"{row['endpoint']}.{row['quantity']}"] = {
            "endpoint": row["endpoint"], "arm": row["arm"], "quantity": row["quantity"],
            "unit": "" if row["unit"] == "probability" else row["unit"],
            "estimate": f"{texts[0]} ({texts[1]} to {texts[2]})", "extrapolation": row["extrapolation"]}
        if scenario.members:
            show = partial(tables.quantity_text, unit=row["unit"], horizon=length)
            cells |= tables.structure_cells(scenario.table, row, show)
    blocks.append(rt.from_rows(f"scenario-{number}", f"Scenario: {scenario.spec.title}", list(rows.values()),
                               "In brackets: equal-tailed 90% interval, parameter uncertainty only. Computed from the "
                               f"record's draws; scenario sha256 {scenario.spec.digest[:12]}."))
    if figures:
        blocks += [draw(f"scenario-{number}-incidence", plots.plot_reconstitution(scenario), "Scenario comparison: "
                        "patients reconstituted by day, by arm", "Share of patients by day, an arm a line"),
                   draw(f"scenario-{number}-dose", report_plots.plot_scenario_doses(record, scenario),
                        "Endpoint by dose in the scenario; hatched: beyond the doses of the fit, symbols by verdict",
                        "Share of patients against dose, with interval and extrapolation verdicts")]
    return _section(f"scenario-{number}-section", f"Scenario: {scenario.spec.title}", *blocks,
                    *_notes(extrapolation.sentences(scenario.verdicts)))


def _sensitivity(computed: Computed) -> Iterator[Section]:
    if computed.priors is not None:
        yield _section("sensitivity-section", "Sensitivity to the priors", *[
            Paragraph(text[0].upper() + text[1:] + ".") for text in told(computed.priors)], rt.from_rows(
                "sensitivity", "Power-scaling sensitivity to all priors and to the likelihood",
                sensitivity_rows(computed.priors), METHOD + "."))


def _judged(record: FitRecord, computed: Computed) -> Section:
    """The record beside its plan, with what this very report computed as evidence."""
    checks = None if computed.checks is None else computed.checks.content
    try:
        found: list[Block] = [Grid(table) for table in judge(Evidence(record, checks, computed.scores,
                                                                      computed.priors))]
    except RecordError as error:
        found = [Banner(f"Not assessed, for the record does not verify. {error}", "warned")]
    return _section("assessment", "Assessment", *found)


def _software(source: rt.Source) -> Section:
    return _section("software-section", "Software and digests", *rt.software_tables(source))


def _listings(source: rt.Source, said: Sequence[Cited], computed: Computed) -> Iterator[Section]:
    yield _section("listings", "Listings", *rt.origin_listings(said), *rt.individual_listings(source),
                   *rt.excluded_listings(source), *_predictions(computed))
    spec = source.record.spec
    yield _section("code-model", f"Code: model document {source.content['model']['name']}.toml",
                   Paragraph(spec.model.text, "code"))
    yield _section("code-spec", "Code: fit spec spec.toml", Paragraph(spec.text, "code"))


def _predictions(computed: Computed) -> list[Grid]:
    """Measured values with predictions and residuals; only where measured values may be shown, for checks need them."""
    if computed.checks is None:
        return []
    rows = computed.checks.content["records"]

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    listed = [(row["subject"], row["arm"], f"{row['time']:g}", row["observable"], number(row["value"]),
               {0: "", 1: "below limit", -1: "above limit"}[row["censored"]], number(row["pred"]), number(row["ipred"]),
               number(row["iwres"]), number(row["npde"])) for row in rows[:rt.LONGEST]]
    cut = rt.cut(len(rows), "checks.json of thymodel check-fit")
    return [Grid(TitledTable("predictions", "Predictions and residuals", (
        "subject", "arm", f"time ({computed.checks.spec.model.time})", "marker", "measured", "censored", "PRED",
        "IPRED", "IWRES", "NPDE"), tuple(listed),
        ("Measured, PRED and IPRED in the unit of the marker. A censored value is the limit. PRED: typical subject; "
         "IPRED: posterior median of the individual prediction.", *([cut] if cut else []))), "Listing")]


# --- what the report holds -----------------------------------------------------------------------------------

_ITEMS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    # kind, what a submission needs, beginnings of the keys that answer it, part of `Computed` that would
    ("table", "data disposition", ("disposition",), "patients"),
    ("table", "values beyond a limit and missing, by marker", ("blq",), "patients"),
    ("table", "baseline covariates", ("covariates",), "covariates"),
    ("table", "priors with source", ("priors",), ""),
    ("table", "run log", ("run_log", "run"), ""),
    ("table", "final parameters", ("parameters",), ""),
    ("table", "criteria met or not", ("criteria", "gates"), ""),
    ("table", "endpoint by dose", ("endpoint-",), "endpoints"),
    ("table", "sensitivity", ("sensitivity",), "priors"),
    ("table", "assumptions", ("assumptions", "model-assumptions", "doubtful"), ""),
    ("table", "credibility matrix", ("credibility",), "plan"),
    ("table", "software", ("software", "digests"), ""),
    ("figure", "schematic of the model", ("schematic",), "figures"),
    ("figure", "individual fits", ("individual-",), "shown"),
    ("figure", "goodness of fit", ("gof-", "npde-"), "checks"),
    ("figure", "VPC by cohort with values below the limit", ("vpc-",), "checks"),
    ("figure", "VPC of the endpoint", ("endpoint-vpc",), "checks"),
    ("figure", "prior and posterior", ("prior-posterior",), "density"),
    ("figure", "covariate forest", ("covariate-forest",), "forest"),
    ("figure", "dose and endpoint, extrapolation shaded", ("dose-endpoint",), "doses"),
    ("figure", "rank, trace, energy", ("trace", "rank", "energy"), "draws"),
    ("figure", "SBC ECDF", ("sbc",), "sbc"),
    ("figure", "identifiability", ("identifiability",), "density"),
    ("figure", "scenario comparison", ("scenario-",), "scenarios"),
    ("listing", "individual parameters", ("individual-parameters",), "effects"),
    ("listing", "excluded records", ("excluded",), "excluded"),
    ("listing", "predictions and residuals", ("predictions",), "checks"),
    ("listing", "code: model and spec", ("code-",), ""),
    ("listing", "deviations from the plan", ("deviations",), "plan"),
)
_WHY = {
    "patients": ("no patients: published figures alone", ""),
    "covariates": ("the model has no baseline covariate that is known of the patients", ""),
    "endpoints": ("the spec has no endpoint", "add [endpoints.NAME] to spec.toml and fit again"),
    "plan": ("no analysis plan was set down before the fit, or it was not assessed", "write plan.toml before a fit"),
    "figures": ("this report was made without figures", _COMMAND),
    "shown": ("measured values are not drawn: the data are not beside the spec", f"{_COMMAND} --data FILE --show-data"),
    "density": ("a single point has no density", "thymodel fit SPEC by NUTS"),
    "forest": ("the spec has no covariate effect", "add [covariate_effects] to spec.toml and fit again"),
    "doses": ("the fit's arms do not differ in dose, or no endpoint", f"{_COMMAND} --scenario FILE"),
    "draws": ("not sampled by NUTS", "thymodel fit SPEC by NUTS"),
    "sbc": ("a calibration fits many simulated studies, and is not part of a record",
            "thymodel calibrate SPEC --replicates 200"),
    "effects": ("no random effects of patients", ""),
    "excluded": ("no record was excluded", ""),
}


def _held(sections: Sequence[Section], figures: bool, shown: bool, computed: Computed) -> Grid:
    """The minimum set of a submission, and where each of it stands or why it does not."""
    blocks = [block for section in sections for block in section.blocks if isinstance(block, Grid | Picture)]
    rows = []
    for kind, what, beginnings, part in _ITEMS:
        wanted = Picture if kind == "figure" else Grid
        mine = [b for b in blocks if isinstance(b, wanted) and any(
            b.key == start or start.endswith("-") and b.key.startswith(start) for start in beginnings)]
        code = [section for section in sections if any(section.key.startswith(start) for start in beginnings
                                                       if start == "code-")]
        if code:
            rows.append((kind, what, Reference("at the end", code[0].key), ""))
        elif mine:
            rows.append((kind, what, Reference(_labels(mine), mine[0].key), ""))
        else:
            reason, remedy = computed.why.get(part) or _WHY.get("figures" if kind == "figure" and not figures else part,
                                                                 ("not in the record", _COMMAND))
            rows.append((kind, what, f"absent: {reason}", remedy))
    return Grid(TitledTable("holds", "The minimum set of a submission, and where it stands", (
        "kind", "what", "where, or why not", "what would make it"), tuple(rows)))


def _labels(blocks: Sequence[Grid | Picture]) -> str:
    """Their numbers; a run of three or more as "3 to 5"."""
    kind, runs = blocks[0].label.split()[0], list[list[int]]()
    for number in sorted(block.number for block in blocks):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [text for run in runs for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return f"{kind} {', '.join(texts[:-1])} and {texts[-1]}" if len(texts) > 1 else f"{kind} {texts[0]}"
