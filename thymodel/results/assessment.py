"""A record set beside its plan, as tables for a submission: what ICH M15 asks, criteria, deviations, assumptions,
credibility, checklists. What the package does not know is marked "for the sponsor"; no rating is made up.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thymodel.documents.analysis_plan import NOT_COLLECTED, PlanDocument, RatingTable
from thymodel.documents.spec import FitSpec
from thymodel.errors import InputError
from thymodel.inference.approximation import NUTS
from thymodel.results import guidelines
from thymodel.results.criteria import MET, NOT_MET, OPEN, SPONSOR, Evidence, Finding, evaluate, load_evidence
from thymodel.results.describing import KIND_WORDS, source_kind
from thymodel.results.deviations import NOTHING, find_deviations, not_planned
from thymodel.results.guidelines import Fact, Item
from thymodel.results.planning import FILE, plan_sentence, record_plan
from thymodel.results.record import FitRecord, find_data, holds_record, intact, load_record
from thymodel.results.titled_table import TitledTable

THERE, NOT_USED, NOT_DONE, NOT_GRADED = "there", "not used", "not done", "not graded"
_NO_PLAN = "no analysis plan: write plan.toml beside the spec before the fit (docs/plan.md)"
_COMMAND = "thymodel "


def assess(record: FitRecord, checks: str | Path | None = None, scores: str | Path | None = None) -> list[TitledTable]:
    """Tables of a record beside its plan, in the order of a submission; also of a record without one.

    Args:
        checks: folder, or checks.json in it, that `thymodel check-fit RECORD --out` wrote.
        scores: file that `thymodel compare RECORD --json` printed.

    Raises:
        RecordError: a record whose files were changed.
        InputError: checks or scores that cannot be read or are of another record.
    """
    return judge(load_evidence(record, None if checks is None else Path(checks),
                               None if scores is None else Path(scores)))


def judge(evidence: Evidence) -> list[TitledTable]:
    """As `assess`, where what is known of the record is at hand.

    Raises:
        RecordError: a record whose files were changed.
    """
    record = evidence.record
    intact(record)
    found = record_plan(record.folder, record.content)
    plan = found.document if found is not None else None
    findings = [evaluate(name, item, evidence) for name, item in plan.criteria.items()] if plan else []
    facts, spec = _facts(evidence, plan, findings), record.spec
    tables = [_m15(record, plan, findings), _criteria(record, plan, findings), _deviations(record, plan),
              _sensitivities(record, plan), _assumptions(plan, spec), _assumed_numbers(record, spec),
              _items("m15_evidence", "What ICH M15 asks, and what the record gives", guidelines.M15, facts),
              _credibility(plan, facts),
              _items("barg", "Bayesian analysis reporting guidelines (BARG, Kruschke 2021)", guidelines.BARG, facts),
              _items("robust", "Reporting of Bayes used in clinical studies (ROBUST, Sung et al. 2005)",
                     guidelines.ROBUST, facts)]
    return [_with_model(table, spec.model.name) for table in tables]


def _with_model(table: TitledTable, name: str) -> TitledTable:
    """Artefacts with the name of the record's own model file."""
    rows = tuple(tuple(cell.replace("MODEL.toml", f"{name}.toml") for cell in row) for row in table.rows)
    return replace(table, rows=rows)


def as_json(record: FitRecord, tables: Sequence[TitledTable]) -> str:
    """Everything, for programs."""
    content = {"record": str(record.folder), "digest": record.digest, "title": record.content["title"],
               "simulated": bool(record.content["simulated"]), "reservation": record.reservation,
               "plan": record.content.get("plan"),
               "tables": [{"key": table.key, "title": table.title, "columns": list(table.columns),
                           "rows": [list(row) for row in table.rows], "notes": list(table.notes)} for table in tables]}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


# --- plan and criteria ---------------------------------------------------------------------------------------


def _m15(record: FitRecord, plan: PlanDocument | None, findings: Sequence[Finding]) -> TitledTable:
    ratings = (("Model influence", "model_influence"), ("Consequence of a wrong decision", "consequence"),
               ("Model risk", "model_risk"), ("Model impact", "model_impact"))
    rows = [("Question of interest", plan.question if plan else SPONSOR),
            ("Context of use", plan.context_of_use if plan else SPONSOR),
            *((label, _rating(getattr(plan, key) if plan else None)) for label, key in ratings),
            ("Technical criteria (at planning)", f"{len(findings)}, each with rationale and appropriateness: see the "
             "table of criteria" if findings else SPONSOR),
            ("Evaluation against the criteria (at submission)", count_results(findings) if findings else SPONSOR),
            ("Outcome of the assessment", SPONSOR)]
    notes = [*_banner(record), f"Analysis plan: {plan_sentence(record.content)}.",
             'L, M and H are ratings of the plan\'s author; "for the sponsor" is what only a person can say.',
             *(plan.remarks if plan else [_NO_PLAN])]
    return TitledTable("m15_assessment", "Assessment table of ICH M15", ("item", "content"), tuple(rows), tuple(notes))


def _rating(rating: RatingTable | None) -> str:
    return SPONSOR if rating is None else f"{rating.level}: {rating.reason}"


def count_results(findings: Sequence[Finding]) -> str:
    """How many criteria are met, not met, for a person, not evaluated."""
    counts = Counter(finding.result for finding in findings)
    return ", ".join(f"{counts[result]} {result}" for result in (MET, NOT_MET, SPONSOR, OPEN) if counts[result])


def _banner(record: FitRecord) -> list[str]:
    return [*(["SIMULATED data."] if record.content["simulated"] else []),
            *([f"{record.reservation}."] if record.reservation else [])]


def _criteria(record: FitRecord, plan: PlanDocument | None, findings: Sequence[Finding]) -> TitledTable:
    rows = tuple((finding.name, finding.planned, finding.criterion.rationale, finding.criterion.appropriateness,
                  finding.found, finding.result) for finding in findings)
    notes = [*_banner(record), count_results(findings).capitalize() + "." if findings else _NO_PLAN]
    return TitledTable("criteria", "Technical criteria, planned and found",
                       ("criterion", "planned", "rationale", "appropriateness", "found", "result"), rows, tuple(notes))


def _deviations(record: FitRecord, plan: PlanDocument | None) -> TitledTable:
    columns = ("what", "planned", "done", "reason")
    if plan is None:
        return TitledTable("deviations", "Deviations from the plan", columns, (), (_NO_PLAN,))
    rows = tuple((item.what, item.planned, item.done, item.reason) for item in find_deviations(plan, record))
    notes = ["Found by comparison of the plan with the spec and the data of the record." if rows else
             "None was found by comparison of the plan with the spec and the data of the record."]
    if plan.fit.data == NOT_COLLECTED:
        notes.append("The data were not yet collected when the plan was written.")
    if silent := not_planned(plan):
        notes.append(f"The plan does not fix {', '.join(silent)}: nothing is compared there.")
    return TitledTable("deviations", "Deviations from the plan", columns, rows, tuple(notes))


# --- assumptions ---------------------------------------------------------------------------------------------


def _sensitivities(record: FitRecord, plan: PlanDocument | None) -> TitledTable:
    rows = tuple((name, item.what, item.run, _found_run(record, item.run))
                 for name, item in (plan.sensitivity if plan else {}).items())
    notes = ("Commands are run by a person; a record does not hold what they print.",) if plan else (_NO_PLAN,)
    return TitledTable("sensitivity_runs", "Planned sensitivity analyses", ("id", "what is varied", "run", "state"),
                       rows, notes)


def _found_run(record: FitRecord, run: str) -> str:
    """What is at the place that a plan names, seen from where the plan was found."""
    if run.startswith(_COMMAND):
        return "command"
    base = (record.folder / str(record.content["plan"].get("path", FILE))).parent
    try:
        path = next((place / run for place in (base, record.folder) if (place / run).exists()), None)
        other = load_record(path) if path is not None and path.is_dir() and holds_record(path) else None
    except (OSError, InputError):  # a name that no file can have, or a damaged record
        return f"{NOT_DONE}: cannot be read"
    if path is None:
        return f"{NOT_DONE}: nothing there"
    if other is not None:
        return f"record {other.digest[:16]}" + (f", {other.reservation}" if other.reservation else "")
    return f"{NOT_DONE}: a folder without a record" if path.is_dir() else "file"


def _assumptions(plan: PlanDocument | None, spec: FitSpec) -> TitledTable:
    own = [(name, item.statement, item.kind, item.reason, ", ".join(item.probed_by) or NOTHING, item.status)
           for name, item in (plan.assumptions if plan else {}).items()]
    model = [(name, item.text, "model file", item.source or "no source", NOTHING, "stated in the model file")
             for name, item in spec.model.assumptions.items()]
    notes = [f"{len(own)} of the plan, {len(model)} of the model file {spec.model.name}.",
             "The status is that of the day on which the plan was written.", *([] if plan else [_NO_PLAN])]
    return TitledTable("assumptions", "Register of assumptions",
                       ("id", "assumption", "kind", "reason or source", "probed by", "status"), (*own, *model),
                       tuple(notes))


def _assumed_numbers(record: FitRecord, spec: FitSpec) -> TitledTable:
    """Priors and fixed values whose own source says that nobody measured or looked them up."""
    rows, seen = [], 0
    for name, value, unit, source, verified, reason in _numbers(record, spec):
        kind = "stated in the spec" if source in ("", "this spec") else source_kind(source)
        if verified and kind is None:
            seen += 1
            continue
        rows.append((name, value, unit, kind or "not seen", source + (f"; {reason}" if reason else "")))
    counts = Counter(row[3] for row in rows)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    others = f"the source of the other {seen} was looked up" if seen else "no source was looked up"
    notes = (f"{len(rows)} of {len(rows) + seen} priors and fixed values: {told or NOTHING}; {others} "
             "(verified = true).",
             f"not seen: {KIND_WORDS['not seen'][:1].lower()}{KIND_WORDS['not seen'][1:]}.")
    return TitledTable("assumed_numbers", "Priors and fixed values that are assumed, calibrated or not looked up",
                       ("name", "prior or value", "unit", "kind", "source"), tuple(rows), notes)


def _numbers(record: FitRecord, spec: FitSpec) -> Iterable[tuple[str, str, str, str, bool, str]]:
    for row in record.content["priors"]:
        yield (row["name"], row["prior"], row["unit"], row["source"], bool(row["verified"]), row["reason"])
    for name, value in record.content["fixed"].items():
        item = spec.model.parameters.get(name)
        if item is not None:
            same = item.value == value
            yield (name, f"{value:g}", item.unit, item.source if same else "this spec", item.verified and same, "")


# --- guidelines ----------------------------------------------------------------------------------------------


def _facts(evidence: Evidence, plan: PlanDocument | None, findings: Sequence[Finding]) -> dict[Fact, bool]:
    """What is there to answer an item."""
    record, content = evidence.record, evidence.record.content
    return {
        "record": True, "plan": plan is not None, "nuts": record.method == NUTS, "none": False,
        "sources": all(row["source"] not in ("", "this spec") or row["reason"] for row in content["priors"]),
        "checks": evidence.checks is not None,
        "sensitivity": any(finding.criterion.kind == "prior_sensitivity" and finding.result in (MET, NOT_MET)
                           for finding in findings),
        "certificate": bool(content["certificate"]),
        "export": bool((content.get("implied_export") or {}).get("known")), "probability": bool(content["endpoints"]),
        "registered": bool(plan and plan.assumptions), "data": find_data(record, None) is not None}


def _items(key: str, title: str, items: Sequence[Item], facts: Mapping[Fact, bool]) -> TitledTable:
    rows = tuple((item.group, item.asks, *_answer(item.needs, item.artefact, item.otherwise, facts)) for item in items)
    counts = Counter(row[3] for row in rows)
    note = ", ".join(f"{counts[state]} {state}" for state in (THERE, SPONSOR, NOT_USED, NOT_DONE) if counts[state])
    return TitledTable(key, title, ("part", "item", "answered by", "state"), rows,
                       (f"{note}.", "The items are in this package's words; their source is authoritative.",
                        '"there" says that the artefact exists, not that its content is good enough.'))


def _answer(needs: Sequence[Fact], artefact: str, otherwise: str, facts: Mapping[Fact, bool]) -> tuple[str, str]:
    if needs in (("person",), ("unused",)):
        return artefact, SPONSOR if needs == ("person",) else NOT_USED
    return (artefact, THERE) if all(facts[need] for need in needs) else (otherwise, NOT_DONE)


def _credibility(plan: PlanDocument | None, facts: Mapping[Fact, bool]) -> TitledTable:
    rows = []
    for item in guidelines.CREDIBILITY:
        own = plan.credibility.get(item.key) if plan else None
        artefact, state = _answer(item.needs, item.artefact, item.otherwise, facts)
        gap = "; ".join(part for part in (own.gap if own else "", item.gap) if part)
        rows.append((item.name, f"{own.gradation}: {own.reason}" if own else NOT_GRADED, artefact, state, gap))
    notes = ("Categories of FDA's guidance on computational modeling and simulation (November 2023), whose framework "
             "is that of ASME V&V 40. A gradation is a person's, written in the plan.",
             f"{sum(row[1] == NOT_GRADED for row in rows)} of {len(rows)} categories are not graded.")
    return TitledTable("credibility", "Credibility matrix",
                       ("category of evidence", "gradation", "artefact", "state", "gap"), tuple(rows), notes)
