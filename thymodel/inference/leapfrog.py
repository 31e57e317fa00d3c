"""A leapfrog step that halves itself where the energy asks for it: walls and funnels of a posterior are followed, not
jumped into.

A step of the sampler is taken as 1, 2, 4, ... small leapfrogs, the fewest along which the energy stays within
`TOLERANCE`. Whoever comes back from its end must find the same number, or the map would not be its own inverse with the
momentum turned, and the draws would not be of the target: the step is then given up, and with it this end of the orbit.
That is a rejection like that of an orbit which turns. An energy that runs off even with `1 / 2**HALVINGS` of a step is
a divergence.

Source: Bou-Rabee, Carpenter, Kleppe & Liu 2025 (arXiv:2506.18746), within-orbit adaptation of the step, in the form
without chance.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TOLERANCE = 5.0  # spread of the energy along one step; an orbit of good steps keeps it within about 1
HALVINGS = 8

ValueAndGrad = Callable[[Array, Array], tuple[Array, Array]]  # of a position, and whether it is a whole step's


class Place(NamedTuple):
    """A point of phase space: where, how fast, and the log density with its gradient there."""

    position: Float[Array, " coordinate"]
    momentum: Float[Array, " coordinate"]
    log_density: Float[Array, ""]
    slope: Float[Array, " coordinate"]


class _Walk(NamedTuple):
    """A path of 2**level leapfrogs under way, forth (`back` false) or back from `end`, which took 2**found."""

    place: Place
    taken: Array
    level: Array
    low: Array
    high: Array
    back: Array
    end: Place
    found: Array
    done: Array
    good: Array


def make_step(value_and_grad: ValueAndGrad, kinetic_energy: Callable[[Array], Array], tolerance: float = TOLERANCE):
    """A function (place, step size) -> place after one step. The log density there is NaN where the energy ran off
    (a divergence) and -inf where the step cannot be retraced."""
    velocity = jax.grad(kinetic_energy)

    def leapfrog(place: Place, size: Array, whole: Array) -> Place:
        half = place.momentum + 0.5 * size * place.slope
        position = place.position + size * velocity(half)
        log_density, slope = value_and_grad(position, whole)
        return Place(position, half + 0.5 * size * slope, log_density, slope)

    def energy(place: Place) -> Array:
        found = kinetic_energy(place.momentum) - place.log_density
        return jnp.where(jnp.isnan(found), jnp.inf, found)

    def step(start: Place, size: Array) -> Place:
        at_start = energy(start)

        def onward(walk: _Walk) -> _Walk:
            place = leapfrog(walk.place, size / 2.0**walk.level, (walk.level == 0) & ~walk.back)
            here = energy(place)
            low, high = jnp.minimum(walk.low, here), jnp.maximum(walk.high, here)
            lost = ~(high - low <= tolerance)
            whole = ~lost & (walk.taken + 1 == 2**walk.level)
            end = _choose(whole & ~walk.back, place, walk.end)
            found = jnp.where(whole & ~walk.back, walk.level, walk.found)
            # what comes next: the same path, one with smaller steps, or the way back with ever smaller ones
            back = walk.back | whole
            level = jnp.where(lost, walk.level + 1, jnp.where(whole & ~walk.back, 0, walk.level))
            retraced = back & (level == found)  # no larger step leads back, or there is none
            done = retraced | (walk.back & whole) | (~back & (level > HALVINGS))
            place = _choose(lost | whole, _choose(back, _turned(end), start), place)
            at_begin = jnp.where(back, energy(end), at_start)
            low, high = (jnp.where(lost | whole, at_begin, bound) for bound in (low, high))
            taken = jnp.where(lost | whole, 0, walk.taken + 1)
            return _Walk(place, taken, level, low, high, back, end, found, done, retraced)

        zero, no = jnp.asarray(0), jnp.asarray(False)
        begin = _Walk(start, zero, zero, at_start, at_start, no, start, zero, no, no)
        walk = jax.lax.while_loop(lambda walk: ~walk.done, onward, begin)
        fallen = jnp.where(walk.back, -jnp.inf, jnp.nan)
        return walk.end._replace(log_density=jnp.where(walk.good, walk.end.log_density, fallen))

    return step


def _turned(place: Place) -> Place:
    return place._replace(momentum=-place.momentum)


def _choose(which: Array, one: Place, other: Place) -> Place:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), one, other)
