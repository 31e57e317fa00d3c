"""What happens to a subject, as arrays: segments between doses and covariate changes, and the visits among them.

**An observation at a dose time is the value before the dose.** Written once, here: a visit belongs to the segment that
ends at its time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from thymodel.documents.model import Model
from thymodel.documents.regimen import Course, Dose, value_at


class Accuracy(NamedTuple):
    """Local error allowed per step: rtol*|y| + atol*scale, scale being each state's typical largest value."""

    rtol: float = 1e-6
    atol: float = 1e-7


class Schedule(NamedTuple):
    """What happens to one subject, padded; a leading axis of subjects may be added to every field.

    A segment ends at `ends[k]`, where the input number `jump[k]` (or none, when it equals the number of inputs) acts
    with `amount[k]`. `infusion` holds amounts per time, `covariates` the values in force during the segment.
    """

    start: Float[Any, ""]
    ends: Float[Any, " segment"]
    jump: Int[Any, " segment"]
    amount: Float[Any, " segment"]
    infusion: Float[Any, "segment input"]
    covariates: dict[str, Float[Any, " segment"]]
    visits: Float[Any, " visit"]
    visit_segment: Int[Any, " visit"]


def plan(model: Model, doses: Iterable[Dose], covariates: Mapping[str, Course], visits: Sequence[float]) -> Schedule:
    """The schedule of one subject, not padded.

    Args:
        doses: in the order in which simultaneous ones act; those that the model schedules itself act before them.
        covariates: a course for every covariate of the model; its switches follow their own unless given.
        visits: days at which observables are wanted, ascending, none before the model's start.
    """
    own = [Dose(time, name, amount) for name, item in model.inputs.items() for time, amount in item.scheduled]
    doses, covariates = [*own, *doses], {**model.switches, **covariates}
    last = max([*visits, model.start])
    infusions = [d for d in doses if d.duration > 0]
    edges = [time for d in infusions for time in (d.time, d.time + d.duration)]
    edges += [time for course in covariates.values() for time, _ in course]
    events = [(d.time, d.input, d.amount) for d in doses if d.duration == 0 and d.time <= last]
    events += [(time, "", 0.0) for time in sorted(set(edges)) if model.start < time < last]
    events = [*sorted(events, key=lambda event: event[0]), (last, "", 0.0)]
    inputs = [*model.inputs, ""]
    begins = [model.start, *[time for time, _, _ in events[:-1]]]
    return Schedule(
        start=np.asarray(model.start, float),
        ends=np.array([time for time, _, _ in events], dtype=float),
        jump=np.array([inputs.index(name) for _, name, _ in events], dtype=np.int32),
        amount=np.array([amount for _, _, amount in events], dtype=float),
        infusion=np.array([[_rate_of(infusions, name, begin) for name in model.inputs] for begin in begins]
                          ).reshape(len(events), len(model.inputs)),
        covariates={name: np.array([value_at(course, begin) for begin in begins])
                    for name, course in covariates.items()},
        visits=np.asarray(visits, float),
        visit_segment=np.searchsorted([time for time, _, _ in events], visits, side="left").astype(np.int32),
    )


def _rate_of(infusions: Sequence[Dose], name: str, time: float) -> float:
    return sum(d.amount / d.duration for d in infusions
               if d.input == name and d.time <= time < d.time + d.duration)


def stack(schedules: Sequence[Schedule]) -> Schedule:
    """Schedules of many subjects padded to one shape: later segments have no length, later visits repeat the last."""
    segments = max(len(s.ends) for s in schedules)
    visits = max(len(s.visits) for s in schedules)
    return jax.tree.map(lambda *items: np.stack(items), *[_pad(s, segments, visits) for s in schedules])


def _pad(s: Schedule, segments: int, visits: int) -> Schedule:
    def more(array, by):
        return np.concatenate([array, np.repeat(array[-1:], by, axis=0)])

    extra, none = segments - len(s.ends), s.infusion.shape[1]
    return Schedule(
        s.start, more(s.ends, extra), np.concatenate([s.jump, np.full(extra, none, np.int32)]),
        np.concatenate([s.amount, np.zeros(extra)]), more(s.infusion, extra),
        {name: more(values, extra) for name, values in s.covariates.items()},
        more(s.visits, visits - len(s.visits)), more(s.visit_segment, visits - len(s.visit_segment)))
