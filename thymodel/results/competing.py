"""Reconstitution among events that compete with it: estimators, events of virtual patients, what a table says of them.

Conventions, those of lifelines and R's survival:

* A time is when something happens or when watching ends. A patient is at risk at every time up to and including the own
  one, so that somebody censored at t still counts among those at risk of an event at t (events come before censoring).
* Estimates are step functions, right-continuous: the value at a day counts the events of that day. What multiplies an
  increment is the event-free probability just before (its left limit), with all events that share a time taken at once.
* Causes are whole numbers: 0 censored, 1 to m the events.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from thymodel.documents.risks import Link, Risk
from thymodel.documents.spec import Endpoint
from thymodel.results.endpoints import Quantity

CENSORED, RECONSTITUTED = 0, 1
CAUSES_FROM = 2  # the first of the competing risks


# --- estimators ----------------------------------------------------------------------------------------------


class Incidence(NamedTuple):
    """Aalen-Johansen at the times of events. `event_free` is the Kaplan-Meier estimate of no event of any cause."""

    times: Float[np.ndarray, " time"]
    at_risk: Int[np.ndarray, " time"]
    event_free: Float[np.ndarray, " time"]
    incidence: Float[np.ndarray, "cause time"]
    variance: Float[np.ndarray, "cause time"]


class Survival(NamedTuple):
    """Kaplan-Meier at the times of events, with Greenwood's variance."""

    times: Float[np.ndarray, " time"]
    at_risk: Int[np.ndarray, " time"]
    survival: Float[np.ndarray, " time"]
    variance: Float[np.ndarray, " time"]


def aalen_johansen(times: Float[np.ndarray, " subject"], causes: Int[np.ndarray, " subject"],
                   count: int | None = None) -> Incidence:
    """Cumulative incidence of every cause where the first event precludes the others, with its variance.

    Args:
        times: of the first event, or of the end of watching, all in one unit.
        causes: 0 where watching ended without an event, 1 to `count` for the events.
        count: how many causes there are; by default the largest of `causes`.

    Raises:
        ValueError: no subject, lengths that differ, times that are not finite, or a cause below 0 or above `count`.

    Source: Aalen & Johansen 1978, Scand J Stat 5:141, for one transient state and m causes: F_k(t) = sum over t_i <= t
    of S(t_i-)*d_ki/n_i. The variance is that of the delta method as in Collett, Modelling Survival Data in Medical
    Research (3rd edition, p. 411; seen quoted in lifelines, not in the book): sum over t_i <= t of
    (F_k(t) - F_k(t_i))^2*d_i/(n_i*(n_i - d_i)) + S(t_i-)^2*d_ki*(n_i - d_ki)/n_i^3
    - 2*(F_k(t) - F_k(t_i))*S(t_i-)*d_ki/n_i^2.
    """
    times, causes = _checked(times, causes, count)
    count = int(causes.max(initial=0)) if count is None else count
    at, n, d = _table(times, causes, count)
    every = d.sum(axis=0)
    free = np.cumprod(1 - every / n)
    before = np.concatenate([[1.0], free[:-1]])
    f = np.cumsum(before * d / n, axis=1)
    # the first term's weight is infinite where nobody is left, and there (F(t) - F(t_i)) is 0 for every later t
    a = np.where(every < n, every / (n * np.maximum(n - every, 1)), 0.0)
    b, c = before**2 * d * (n - d) / n**3, before * d / n**2
    total = lambda values: np.cumsum(values, axis=-1)  # noqa: E731
    variance = (f**2 * total(a) - 2 * f * total(f * a) + total(f**2 * a) + total(b)
                - 2 * (f * total(c) - total(f * c)))
    return Incidence(at, n, free, f, np.maximum(variance, 0.0))


def kaplan_meier(times: Float[np.ndarray, " subject"], observed: np.ndarray) -> Survival:
    """Probability of no event by each time, with whoever was not `observed` to have one censored.

    Naive where another event precludes this one: 1 minus it is then what would be, were the other event abolished and
    nothing else changed, and never below the Aalen-Johansen incidence.

    Raises:
        ValueError: as `aalen_johansen`.

    Source: Kaplan & Meier 1958, JASA 53:457; variance of Greenwood, S(t)^2*sum of d_i/(n_i*(n_i - d_i)), which is 0 at
    and after a time when nobody is left.
    """
    times, causes = _checked(times, np.asarray(observed).astype(int), 1)
    at, n, d = _table(times, causes, 1)
    survival = np.cumprod(1 - d[0] / n)
    greenwood = np.cumsum(np.where(d[0] < n, d[0] / (n * np.maximum(n - d[0], 1)), 0.0))
    return Survival(at, n, survival, survival**2 * greenwood)


def value_at(times: Float[np.ndarray, " time"], values: Float[np.ndarray, "... time"],
             days: Float[np.ndarray, " day"], before: float) -> Float[np.ndarray, "... day"]:
    """A right-continuous step function at some days; `before` is its value up to the first time."""
    start = np.full((*values.shape[:-1], 1), before)
    return np.concatenate([start, values], axis=-1)[..., np.searchsorted(times, days, side="right")]


def _checked(times, causes, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    times, causes = np.asarray(times, float), np.asarray(causes)
    if times.ndim != 1 or times.shape != causes.shape or len(times) == 0:
        raise ValueError(f"one time and one cause a subject were expected, not shapes {times.shape} and {causes.shape}")
    if not np.isfinite(times).all():
        raise ValueError("a time is not finite: give the end of watching where nothing happened, with cause 0")
    if causes.dtype.kind not in "iu" or causes.min() < 0 or count is not None and causes.max() > count:
        raise ValueError(f"causes are whole numbers from 0 (censored) to {count or 'the number of causes'}")
    return times, causes


def _table(times: np.ndarray, causes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times at which there are events, how many are at risk just before, and events by cause (cause, time)."""
    at, place = np.unique(times[causes > 0], return_inverse=True)
    at_risk = len(times) - np.searchsorted(np.sort(times), at, side="left")
    events = np.zeros((count, len(at)), int)
    np.add.at(events, (causes[causes > 0] - 1, place), 1)
    return at, at_risk, events


# --- events of virtual patients ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hazards:
    """Risks, and of each subject the cumulative hazard at which the event happens: the same in every arm and draw."""

    risks: tuple[Risk, ...] = ()
    exposures: Float[np.ndarray, "risk subject"] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(risk.link.marker for risk in self.risks if risk.link is not None))


def draw_hazards(risks: Mapping[str, Risk], subjects: int, seed: int) -> Hazards:
    """Unit exponentials, one a risk and subject (inversion: the event is where the cumulative hazard reaches it).

    Each risk has a stream of its own by its name, so that adding a risk leaves the others' numbers as they were; within
    a stream each subject has a stratum of its own, so that their share is near its expectation.
    """
    exposures = np.zeros((len(risks), subjects))
    for k, name in enumerate(risks):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        exposures[k] = -np.log1p(-(rng.permutation(subjects) + rng.random(subjects)) / subjects)
    return Hazards(tuple(risks.values()), exposures)


def hazard_grid(grid: Float[np.ndarray, " time"], endpoints: Sequence[Endpoint], risks: Sequence[Risk]) -> np.ndarray:
    """A grid of endpoints with the days on which hazards change and for which incidence is asked, from the first hazard
    on. Untouched where there is no risk."""
    if not risks:
        return grid
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    first = min(risk.days[0] for risk in risks)
    earlier = grid[0] - step * np.arange(1, max(np.ceil((grid[0] - first) / step), 0))
    days = [day for risk in risks for day in risk.days if day < grid[-1]]
    days += [day for endpoint in endpoints for day in endpoint.by]
    return np.unique(np.concatenate([grid, earlier, days]))


def event_times(risk: Risk, times: Float[np.ndarray, " time"], exposures: Float[np.ndarray, " subject"],
                courses: Float[np.ndarray, "... subject time"] | None = None) -> Float[np.ndarray, "... subject"]:
    """Day of the event of each subject, by inversion of its cumulative hazard; inf where it is after the last time.

    Args:
        times: ascending days that hold those on which the hazard changes; the hazard counts from the first.
        exposures: cumulative hazard at which the event happens.
        courses: the linked marker, straight between times; NaN where it could not be computed, and so is the event.

    A hazard with a threshold is followed exactly on that straight course. One per unit of the logarithm is computed at
    the times and taken as straight between them.
    """
    if risk.link is not None and courses is None:
        raise ValueError(f"{risk.name} depends on {risk.link.marker}, whose courses are needed")
    steps, place = np.diff(times), np.searchsorted(risk.days, times[:-1], side="right")
    rate = np.concatenate([[0.0], risk.per_day])[place]
    found = (np.zeros((len(exposures), len(times))) if courses is None else courses)
    total = np.cumsum(_mean_factors(risk.link, found) * (rate * steps), axis=-1)
    wanted = np.broadcast_to(exposures, total.shape[:-1])
    passed = (total < wanted[..., None]).sum(axis=-1)  # steps at whose end the exposure is still not reached
    k = np.minimum(passed, len(steps) - 1)
    pick = lambda values, at: np.take_along_axis(values, at[..., None], axis=-1)[..., 0]  # noqa: E731
    left = wanted - np.where(k > 0, pick(total, np.maximum(k - 1, 0)), 0.0)
    factors = _factors(risk.link, pick(found, k), pick(found, k + 1))
    inside = np.clip(_within(risk.link, left, rate[k], steps[k], *factors), 0.0, steps[k])
    days = np.where(passed < len(steps), times[k] + inside, np.inf)
    return np.where(np.isnan(found).any(axis=-1), np.nan, days)


def _mean_factors(link: Link | None, courses: np.ndarray) -> np.ndarray:
    """What multiplies the hazard, averaged over each step."""
    if link is None:
        return np.ones((*courses.shape[:-1], courses.shape[-1] - 1))
    if link.below is None:
        factor = _per_logarithm(link, courses)
        return (factor[..., :-1] + factor[..., 1:]) / 2
    below = courses < link.below
    mean = np.where(below[..., :-1], np.exp(link.log_ratio), 1.0)
    crossing = np.nonzero(below[..., :-1] != below[..., 1:])
    first, second, part = _factors(link, courses[..., :-1][crossing], courses[..., 1:][crossing])
    mean[crossing] = part * first + (1 - part) * second
    return mean


def _factors(link: Link | None, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What multiplies the hazard at the beginning and at the end of a step, by the counts there, and the part of the
    step for which a threshold's first factor holds."""
    whole = np.ones_like(before)
    if link is None:
        return whole, whole, whole
    if link.below is None:
        return _per_logarithm(link, before), _per_logarithm(link, after), whole
    first, second = (np.where(count < link.below, np.exp(link.log_ratio), 1.0) for count in (before, after))
    crosses = (before < link.below) != (after < link.below)
    return first, second, np.where(crosses, (link.below - before) / np.where(crosses, after - before, 1.0), 1.0)


def _per_logarithm(link: Link, counts: np.ndarray) -> np.ndarray:
    return (np.maximum(counts, link.lowest) / link.reference) ** link.log_ratio


def _within(link: Link | None, left, rate, step, first, second, part) -> np.ndarray:
    """Time from a step's beginning until the hazard `left` over is used up; rates are above 0 where that is in it."""
    rate = np.where(rate > 0, rate, 1.0)
    if link is not None and link.below is None:  # the root of rate*(first*s + (second - first)*s^2/(2*step)) = left
        root = np.sqrt(np.maximum(first**2 + 2 * (second - first) * left / (rate * step), 0.0))
        return 2 * left / rate / np.where(first + root > 0, first + root, 1.0)
    used = rate * first * part * step
    return np.where(left <= used, left / (rate * first), part * step + (left - used) / (rate * second))


class FirstEvents(NamedTuple):
    """When watching ended and by what: 0 the horizon, 1 reconstitution, 2 and more the risks in their order."""

    times: Float[np.ndarray, "... subject"]
    causes: Int[np.ndarray, "... subject"]


def first_events(endpoint: Endpoint, crossings: Float[np.ndarray, "... subject"],
                 events: Sequence[Float[np.ndarray, "... subject"]]) -> FirstEvents:
    """What came first, in days of the model.

    Reconstitution counts from the day of its crossing if the patient was still free of other events at the end of the
    time for which the count must stay above its threshold. Events before the clock's start count too: whoever had one
    cannot be reconstituted later, and stays in the denominator.

    Args:
        crossings: days after the clock's start, inf where there is none.
        events: of each risk its day, inf where there is none.
    """
    shape = np.broadcast_shapes(np.shape(crossings), *(np.shape(days) for days in events))
    stacked = np.stack([np.broadcast_to(days, shape) for days in events]) if events else np.full((1, *shape), np.inf)
    other, cause = stacked.min(axis=0), stacked.argmin(axis=0) + CAUSES_FROM
    crossed = np.broadcast_to(crossings, shape) + endpoint.clock_start
    first = np.isfinite(crossed) & (crossed + endpoint.sustained_for <= other)
    times = np.where(first, crossed, np.minimum(other, endpoint.horizon))
    return FirstEvents(times, np.where(first, RECONSTITUTED, np.where(other <= endpoint.horizon, cause, CENSORED)))


# --- rows ----------------------------------------------------------------------------------------------------


def risk_quantities(endpoint: Endpoint, crossings: Float[np.ndarray, "draw subject"],
                    events: Mapping[str, Float[np.ndarray, "draw subject"]]) -> list[Quantity]:
    """By day of `endpoint.by` and horizon: incidence of reconstitution (Aalen-Johansen), the naive Kaplan-Meier
    estimate beside it, and incidence of each competing event."""
    days = np.unique([*endpoint.by, endpoint.horizon])
    count = RECONSTITUTED + len(events)
    proper = np.empty((len(crossings), count, len(days)))
    naive = np.empty((len(crossings), len(days)))
    for k, crossing in enumerate(crossings):
        time, cause = first_events(endpoint, crossing, [days_of[k] for days_of in events.values()])
        found = aalen_johansen(time, cause, count)
        proper[k] = value_at(found.times, found.incidence, days, 0.0)
        single = kaplan_meier(time, cause == RECONSTITUTED)
        naive[k] = 1 - value_at(single.times, single.survival, days, 1.0)
    told = []
    for k, day in enumerate(days):
        told += [Quantity(f"P(by day {day:g}), competing risks", proper[:, 0, k], "probability"),
                             Quantity(f"P(by day {day:g}), naive Kaplan-Meier", naive[:, k], "probability")]
        told += [Quantity(f"P({name} first by day {day:g})", proper[:, 1 + j, k], "probability")
                             for j, name in enumerate(events)]
    return told


def describe_risk(risk: Risk) -> str:
    """A risk in words, with its sources, to stand beside its numbers."""
    pieces = [f"{rate:g} a day from day {day:g} ({source})"
              for day, rate, source in zip(risk.days, risk.per_day, risk.sources, strict=True)]
    text = f"{risk.label}: {', '.join(pieces)}"
    if risk.link is None:
        return text
    link, ratio = risk.link, np.exp(risk.link.log_ratio)
    how = (f"times {ratio:.3g} while {link.marker} is below {link.below:g}" if link.below is not None else
           f"times {ratio:.3g} per unit of log {link.marker} above {link.reference:g}")
    return f"{text}; {how} ({link.source})"
