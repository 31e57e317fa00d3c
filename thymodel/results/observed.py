"""Reconstitution as visits and assays would show it: measurements of virtual subjects, and what they say of a crossing.

A subject's residual errors are the same in every arm (common random numbers), so that arms differ by their doses alone.
Each error has an address (seed, marker, day, draw, subject): more visits or endpoints leave what was there unchanged.
"""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.documents.expressions import closest
from thymodel.documents.spec import Endpoint, FitSpec
from thymodel.errors import Fault
from thymodel.inference import likelihood
from thymodel.inference.population import Layout, error_name, population_values
from thymodel.results.prediction import CELL

_TOLERANCE = 1e-9  # days


class Crossing(NamedTuple):
    """Where visits place the crossing: after `after`, at or before `at`, in days since the clock's start. `at` is
    infinite where no visits showed it; then `after` is the last visit at which it had not begun."""

    after: np.ndarray
    at: np.ndarray


def visit_days(endpoints: Mapping[str, Endpoint]) -> dict[str, np.ndarray]:
    """Days on which each marker is measured, for all of its endpoints together."""
    markers = dict.fromkeys(one.marker for one in endpoints.values() if one.visits)
    return {name: np.unique([day for one in endpoints.values() if one.marker == name for day in one.visits])
            for name in markers}


def assay_faults(where: str, spec: FitSpec, endpoints: Mapping[str, Endpoint]) -> list[Fault]:
    """Endpoints to be observed whose marker has no residual error in the fit."""
    return [Fault(f"{where}: endpoints.{name}.visits", f"the fit has no residual error for the marker {one.marker}"
                  f"{closest(one.marker, spec.likelihood)}, so nothing is known of its assay",
                  "leave out its visits (visits = []), or use a marker that was measured")
            for name, one in endpoints.items() if one.visits and one.marker not in spec.likelihood]


class Assay(NamedTuple):
    """Programs of a marker's residual error: its parameters at points; and an observation of every draw and subject
    from these, predictions (draw, cell, subject), a key, numbers of the draws and of the cells."""

    marker: str
    parameters: Callable[[Array], dict[str, Array]]
    draw: Callable[..., Array]


def assay_of(spec: FitSpec, lay: Layout, marker: str) -> Assay:
    """The residual error that the fit estimated for a marker, compiled once for all blocks of a scenario."""
    error = spec.likelihood[marker]

    @jax.jit
    @jax.vmap
    def parameters(point):
        population = population_values(lay, point)
        return {key: population[error_name(marker, key)] for key in error.parameters}

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None, 0, None))
    def draw(sigma, predictions, key, number, cells):
        keys = jax.vmap(lambda cell: jax.random.fold_in(jax.random.fold_in(key, number), cell))(cells)
        return jax.vmap(lambda own, one: likelihood.draw_observation(error, sigma, own, one))(predictions, keys)

    return Assay(marker, parameters, draw)


def measurements(assay: Assay, z: Float[np.ndarray, "draw coordinate"], days: Float[np.ndarray, " visit"],
                 latent: Float[np.ndarray, "arm draw subject visit"], seed: int, first_draw: int = 0,
                 first_subject: int = 0) -> Float[np.ndarray, "arm draw subject visit"]:
    """Measured values, each draw with its own residual error, before any limit of quantification.

    Args:
        first_draw, first_subject: numbers of the first draw and subject here, where a scenario is cut into blocks; the
            subject's is a multiple of CELL. Errors do not depend on the cuts.
    """
    sigma = assay.parameters(jnp.asarray(z))
    _, draws, subjects, _ = latent.shape
    cells = -(-subjects // CELL)
    padded = np.pad(latent, ((0, 0), (0, 0), (0, cells * CELL - subjects), (0, 0)), mode="edge")
    numbers = first_draw + np.arange(draws), first_subject // CELL + np.arange(cells)
    found = np.empty(latent.shape)
    for k, day in enumerate(days):
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(f"{assay.marker} {float(day)!r}".encode()))
        for arm in range(len(latent)):
            values = assay.draw(sigma, padded[arm, :, :, k].reshape(draws, cells, CELL), key, *numbers)
            found[arm, :, :, k] = np.asarray(values).reshape(draws, -1)[:, :subjects]
    return found


def visit_crossings(endpoint: Endpoint, days: Float[np.ndarray, " visit"], values: Float[np.ndarray, "... visit"],
                    until: Float[np.ndarray, "..."] | float = np.inf) -> Crossing:
    """When visits show the endpoint, for each series of measurements.

    It is shown by the first visit from which on every measurement is at or above the threshold until there are
    `consecutive` of them and the last is `apart` days or more after the first. With `after_nadir` only visits from the
    lowest measurement on count. A value below the limit of quantification is below the threshold, and lies at the
    limit. A landmark asks for the one measurement on its day.

    Args:
        days: of all the measurements; those that are not the endpoint's own visits are not looked at.
        until: day after which a series was no longer measured.
    """
    mine = np.isin(days, [endpoint.horizon] if endpoint.landmark else endpoint.visits)
    visits, flat = days[mine], np.asarray(values)[..., mine].reshape(-1, int(mine.sum()))
    low = min(endpoint.lloq, float(np.nextafter(endpoint.threshold, -np.inf)))
    flat = np.where(flat < endpoint.lloq, low, flat)
    taken = visits <= np.broadcast_to(until, np.shape(values)[:-1]).reshape(-1, 1)
    above, count = taken & (flat >= endpoint.threshold), len(visits)
    run, length = np.zeros(flat.shape, int), np.zeros(len(flat), int)
    for k in range(count - 1, -1, -1):
        length = np.where(above[:, k], length + 1, 0)
        run[:, k] = length
    first = np.argmin(np.where(taken, flat, np.inf), axis=1) if endpoint.after_nadir else np.zeros(len(flat), int)
    last = np.maximum(np.arange(count) + endpoint.consecutive - 1,
                      np.searchsorted(visits, visits + endpoint.apart - _TOLERANCE))
    shown = (run > last - np.arange(count)) & (last < count) & (np.arange(count) >= first[:, None])
    place = np.argmax(shown, axis=1)
    seen = shown[np.arange(len(flat)), place]
    attended = taken.sum(axis=1)
    before = np.where(seen, place, attended - run_at_end(run, attended)) - 1
    since = visits - endpoint.clock_start
    after = np.where(before < 0, 0.0, since[np.maximum(before, 0)])
    at = np.where(seen, since[place], np.inf)
    shape = np.shape(values)[:-1]
    return Crossing(after.reshape(shape), at.reshape(shape))


def run_at_end(run: np.ndarray, attended: np.ndarray) -> np.ndarray:
    """Visits at or above the threshold up to the last, which may have begun a crossing that none confirmed."""
    whole = run == attended[:, None] - np.arange(run.shape[1])
    return np.where(whole, run, 0).max(axis=1)
