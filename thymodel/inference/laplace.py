"""Modes of a log density: the highest of them (MAP), and a normal at each (Laplace's approximation).

A mode depends on the coordinates that it is a mode in. Here they are z, on whose scale each parameter's prior is a
standard normal; with random effects, z mapped to c (`Coordinates`), in which an effect's width does not depend on its
scale: in z itself the highest point lies where scales are too large, and no normal there resembles the posterior.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp

from thymodel.errors import ThymodelError
from thymodel.inference.approximation import Approximation, weigh
from thymodel.inference.modes import Mode, climb, find_modes
from thymodel.inference.sampling import (
    Coordinates,
    LogDensity,
    Settings,
    curvature_at,
    frame_at,
    make_machine,
    plain_coordinates,
)

_LOOKED_AT = 200  # draws of the first normal, from which the coordinates are chosen
_STEPS, _HALVINGS, _THERE = 20, 8, 1e-3  # of Newton's method; its last step, in standard deviations
_SETTLED = 0.05  # standard deviations from where the normal's mode would be
_WIDEST = 0.01  # curvature: a normal is no wider than ten prior standard deviations
_BETWEEN, _DIP = 9, 0.1  # points between two ends, and log units by which the density falls there if they are two modes
_ROUNDS = 50  # of drawing again what fell where the density is zero


class Peak(NamedTuple):
    """A mode in c, with factor F: F F' is the inverse of the curvature there. `settled` is whether it is a maximum
    within the accuracy asked for."""

    point: Float[np.ndarray, " coordinate"]
    log_density: float
    factor: Float[np.ndarray, "coordinate coordinate"]
    settled: bool

    @property
    def log_mass(self) -> float:
        """Of the normal of this height and curvature.

        Source: Tierney & Kadane 1986, J Am Stat Assoc 81:82.
        """
        return float(self.log_density + 0.5 * len(self.point) * np.log(2 * np.pi) + _log_det(self.factor))


class Peaks(NamedTuple):
    """Modes, highest first; the log density of c and its gradient; and the way from c to z with the log Jacobian."""

    found: list[Peak]
    value_and_grad: Callable[[np.ndarray], tuple[Array, Array]]
    to_z: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

    @property
    def shares(self) -> np.ndarray:
        """Of the mass, by Laplace's formula."""
        masses = np.array([peak.log_mass for peak in self.found])
        return np.exp(masses - logsumexp(masses))


def find_peaks(log_density: LogDensity, size: int, free: np.ndarray, seed: int, coordinates: Coordinates | None = None,
               tables: tuple[Any, ...] = ()) -> Peaks:
    """The modes that searches from the prior medians and from draws of the prior end in.

    Args:
        free: coordinates over which the first searches move; those that follow move over all.
        coordinates: the maps to c; the identity by default.

    Raises:
        ThymodelError: the log density is finite at no start.
    """
    maps = coordinates or plain_coordinates()
    machine = make_machine(log_density, maps, Settings(1, 1, 1, seed))
    tables, random, none = jax.device_put(tables), np.random.default_rng(seed), jnp.zeros(maps.weights)
    ends = find_modes(lambda c: machine.value_and_grad(c, none, tables), size, free, random)
    frame = frame_at(lambda c: machine.value_and_grad(c, none, tables), [ends[0].point], none, maps.blocks)
    around = ends[0].point + random.standard_normal((_LOOKED_AT, size)) @ np.asarray(frame.factor).T
    weights = jnp.asarray(maps.choose_weights(around, lambda *_: np.zeros((0, 0))))

    def value_and_grad(c):
        return machine.value_and_grad(c, weights, tables)

    starts = np.asarray(machine.from_z(np.stack([end.point for end in ends]), weights))
    climbed = [climb(value_and_grad, start, np.arange(size), np.inf) for start in starts]
    tops: list[Peak] = []
    for end in sorted(climbed, key=lambda mode: -mode.log_density):  # a few searches end in each mode; one is settled
        if all(_apart(value_and_grad, end, other) for other in tops):
            top = _settle(value_and_grad, end.point, maps.blocks)
            tops += [top] if all(_apart(value_and_grad, top, other) for other in tops) else []
    tops.sort(key=lambda peak: -peak.log_density)
    program = jax.jit(jax.vmap(lambda c: maps.to_z(c, weights)))

    def to_z(points):
        z, log_slopes = program(points)
        return np.asarray(z), np.asarray(log_slopes)

    return Peaks(tops, value_and_grad, to_z)


def _settle(value_and_grad, point: np.ndarray, blocks: tuple[int, int] | None) -> Peak:
    """The mode that a search has come near to, by Newton's method."""
    value, slope = (np.asarray(part) for part in value_and_grad(point))
    for _ in range(_STEPS):
        factor, proper = _factor(curvature_at(value_and_grad, point, blocks))
        step, moved = factor @ (factor.T @ slope), False
        if np.linalg.norm(factor.T @ slope) < _THERE:
            break
        for k in range(_HALVINGS):
            there, slope_there = (np.asarray(part) for part in value_and_grad(point + 0.5**k * step))
            if there > value and np.isfinite(slope_there).all():
                point, value, slope, moved = point + 0.5**k * step, there, slope_there, True
                break
        if not moved:
            break
    near = float(np.linalg.norm(factor.T @ slope)) < _SETTLED
    return Peak(point, float(value), factor, bool(proper and near))


def _factor(matrix: Float[np.ndarray, "coordinate coordinate"]) -> tuple[np.ndarray, bool]:
    """The symmetric root of the inverse, and whether the matrix is positive definite as a maximum's is."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.sqrt(np.maximum(values, _WIDEST))) @ vectors.T, bool(values.min() >= _WIDEST)


def _apart(value_and_grad, one: Mode | Peak, other: Peak) -> bool:
    """Whether the density falls between the end of a search and a mode; if not, they are one."""
    if np.linalg.norm(np.linalg.solve(other.factor, one.point - other.point)) < _SETTLED:
        return False
    between = np.linspace(0.0, 1.0, _BETWEEN + 2)[1:-1]
    values = [float(value_and_grad(one.point + s * (other.point - one.point))[0]) for s in between]
    return not np.nanmin(values) > min(one.log_density, other.log_density) - _DIP


def _log_det(factor: np.ndarray) -> float:
    return float(np.linalg.slogdet(factor)[1])


# --- the two readings ----------------------------------------------------------------------------------------


def at_the_highest(peaks: Peaks) -> Approximation:
    """MAP: one draw, the highest mode."""
    best = peaks.found[0]
    z, slope = peaks.to_z(best.point[None])
    return Approximation("map", z[None], best.log_density - slope[None], _told(peaks), tuple(_words(peaks)))


def normals(peaks: Peaks, settings: Settings) -> Approximation:
    """Laplace's approximation: draws of the mixture of the normals at the modes, each with its share of the mass.

    Draws where the density is zero are drawn again.
    """
    random = np.random.default_rng(settings.seed)
    count, shares = settings.chains * settings.draws, peaks.shares
    points, values, drawn = _draw_possible(peaks, count, random)
    log_normals = np.stack([_log_normal(peak, points) for peak in peaks.found])
    with np.errstate(divide="ignore"):  # a share of nothing
        log_mixture = logsumexp(log_normals + np.log(shares)[:, None], axis=0)
    possible = count / drawn
    weights = weigh(values - log_mixture)
    z, slopes = peaks.to_z(points)
    told = _told(peaks) | {
        "pareto_k": weights.pareto_k, "weight_ess": weights.ess, "drawn_where_possible": possible,
        "log_evidence": weights.log_mass + float(np.log(possible)),
        "log_evidence_of_normals": float(logsumexp([peak.log_mass for peak in peaks.found]))}
    words = [weights.sentence, *_words(peaks)]
    if possible < 1.0:
        words.append(f"{1 - possible:.1%} of the normals' draws fell where the density is zero, and were drawn again")
    shape = (settings.chains, settings.draws)
    return Approximation("laplace", z.reshape(*shape, -1), (values - slopes).reshape(shape), told, tuple(words))


def _draw_possible(peaks: Peaks, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Draws with a finite log density, in random order; their log densities; and how many were drawn for them."""
    points, values, drawn = np.empty((0, len(peaks.found[0].point))), np.empty(0), 0
    for _ in range(_ROUNDS):
        missing = count - len(points)
        if not missing:
            return points, values, drawn
        which = random.choice(len(peaks.found), size=missing, p=peaks.shares)
        u = random.standard_normal((missing, points.shape[1]))
        new = np.stack([peaks.found[k].point + peaks.found[k].factor @ x for k, x in zip(which, u, strict=True)])
        there = evaluate(peaks.value_and_grad, new)
        possible = np.isfinite(there)
        points, values = np.concatenate([points, new[possible]]), np.concatenate([values, there[possible]])
        drawn += missing
    raise ThymodelError("the normals at the modes lie almost wholly where the density is zero. hint: --method smc")


def evaluate(value_and_grad, points: Sequence[np.ndarray]) -> Float[np.ndarray, " point"]:
    """Log densities, on all cores."""
    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(lambda point: float(value_and_grad(point)[0]), points)))


def _log_normal(peak: Peak, points: np.ndarray) -> np.ndarray:
    u = np.linalg.solve(peak.factor, (points - peak.point).T)
    return -0.5 * (u**2).sum(axis=0) - 0.5 * len(peak.point) * np.log(2 * np.pi) - _log_det(peak.factor)


def _told(peaks: Peaks) -> dict[str, Any]:
    points, slopes = peaks.to_z(np.stack([peak.point for peak in peaks.found]))
    return {"modes": [{"log_density": float(peak.log_density - slope), "share": float(share), "settled": peak.settled,
                       "z": [float(x) for x in point]}
                      for peak, share, point, slope in zip(peaks.found, peaks.shares, points, slopes, strict=True)]}


def _words(peaks: Peaks) -> list[str]:
    said = []
    if len(peaks.found) > 1:
        shares = ", ".join(f"{share:.2g}" for share in peaks.shares)
        said.append(f"{len(peaks.found)} modes were found, highest first with these shares of the mass by Laplace's "
                    f"formula: {shares}")
    if not all(peak.settled for peak in peaks.found):
        said.append("not every search ended at a maximum with the curvature of one")
    return said
