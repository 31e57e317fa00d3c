"""What a reviewer of a fit must see beside its verdict, as plain sentences made from the record's own fields."""

from collections.abc import Iterator, Mapping
from typing import Any

from thymodel.inference.approximation import NUTS

_LEAST_ENERGY_FRACTION = 0.3  # E-BFMI: Betancourt 2016, arXiv:1604.00695


def reviewer_warnings(content: Mapping[str, Any]) -> list[str]:
    """Sentences for the `warnings` of a record; empty where there is nothing to say.

    Args:
        content: of `record.json`; of a key that an older record lacks, nothing is said.
    """
    return [*_of_documents(content), *_of_data(content.get("data") or {}), *_of_sampler(content),
            *(content.get("implied_export") or {}).get("warnings", [])]


def _of_documents(content: Mapping[str, Any]) -> Iterator[str]:
    if content.get("simulated"):
        yield "the data are SIMULATED"
    rows = content.get("priors") or []
    unverified = [str(row["name"]) for row in rows if not row.get("verified")]
    if unverified:
        yield f"{len(unverified)} of {len(rows)} priors have a source that nobody verified: {', '.join(unverified)}"
    changed = [str(row["name"]) for row in rows if row.get("reason")]
    if changed:
        yield f"priors that differ from the model file's, each with its reason: {', '.join(changed)}"


def _of_data(data: Mapping[str, Any]) -> Iterator[str]:
    reasons: dict[str, int] = {}
    for row in data.get("exclusions") or []:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    for reason, count in reasons.items():
        yield f"{count} row{'s' if count > 1 else ''} of the data excluded: {reason}"
    yield from (f"data: {note}" for note in data.get("notes") or [])


def _of_sampler(content: Mapping[str, Any]) -> Iterator[str]:
    sampler, solver = content.get("sampler") or {}, content.get("solver") or {}
    if sampler.get("method", NUTS) != NUTS:
        yield f"made by {sampler.get('name', sampler['method'])}, an approximation: not for quotation"
    asked = {key: value for key, value in (sampler.get("overrides") or {}).items() if value is not None}
    if asked:
        yield "not as the spec says, but as asked: " + ", ".join(f"{key} = {value}" for key, value in asked.items())
    for key, what in (("divergences", "divergent transitions after warm-up"),
                      ("warmup_divergences", "divergent transitions in warm-up"),
                      ("failed_solves", "solves failed inside the sampler after warm-up"),
                      ("warmup_failed_solves", "solves failed inside the sampler in warm-up"),
                      ("halted", "orbits ended early at a step that cannot be retraced")):
        count = sampler.get(key)
        if isinstance(count, int | float) and count > 0:
            yield f"{what}: {count:g}"
    low = [value for value in sampler.get("energy_fraction") or [] if value is None or value < _LEAST_ENERGY_FRACTION]
    if low:
        yield f"E-BFMI below {_LEAST_ENERGY_FRACTION:g} in {len(low)} chains: energies are explored poorly"
    yield from (str(sampler[key]) for key in ("way", "modes", "longer") if sampler.get(key))
    if solver.get("kind") not in (None, "native"):
        yield f"solver: {solver.get('why') or solver['kind']}"
    if (content.get("certificate") or {}).get("good") is False:
        yield "finer steps of the solver change the log density by more than the gate allows"
