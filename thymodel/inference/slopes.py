"""Slopes of a study's noise-free predictions with respect to typical values and random effects.

Exact derivatives of the solver's own steps: one run of the adjoint for each visit and observable, all subjects at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.documents.spec import FitSpec
from thymodel.dynamics import solving
from thymodel.dynamics.solving import Accuracy, Schedule, Solver
from thymodel.inference.population import Layout, population_values, settled, starting_values, subject_values

_PRIOR_SHARE = 0.75  # of prior draws, for which the first steps must do; denser ones are kept for the others


class Slopes(NamedTuple):
    """Predictions and their slopes; NaN where a course could not be computed.

    `by_population` has a column a coordinate of the population, `by_effect` a column a random effect on its scale.
    """

    predicted: Float[Array, "subject visit observable"]
    by_population: Float[Array, "subject visit observable coordinate"]
    by_effect: Float[Array, "subject visit observable effect"]


def slopes_program(spec: FitSpec, lay: Layout, schedule: Schedule, observables: Sequence[str],
                   points: Float[np.ndarray, "point coordinate"]) -> Callable[[Array], Slopes]:
    """Population coordinates -> slopes at typical subjects (random effects 0), compiled once.

    Args:
        schedule: from `solving.stack`.
        points: like those that will be asked for: the solver's steps are laid for them.

    Raises:
        SolveError: the model cannot be integrated at the values of the model file.
    """
    varied = _varied(spec)

    def parameters(z, effects) -> dict[str, Array]:
        population = population_values(lay, z)
        found = subject_values(spec, population, dict(zip(lay.columns, effects, strict=True)))
        return {name: jnp.asarray(found[name], float) for name in varied}

    def everybody(found):
        return jax.tree.map(lambda one: jnp.broadcast_to(one, (len(schedule.start), *one.shape)), found)

    nobody = jnp.zeros(len(lay.columns))
    solver = _prepare(spec, parameters, nobody, schedule, observables, points)
    fixed = starting_values(spec)

    @jax.jit
    def slopes(z, tables) -> Slopes:
        values = everybody(parameters(z, nobody))
        moved = everybody(jax.jacfwd(parameters, argnums=(0, 1))(z, nobody))
        predicted, by_value = slopes_of(solver, fixed, values, tables)
        by_population = sum(by_value[name][..., None] * moved[name][0][:, None, None] for name in varied)
        by_effect = sum(by_value[name][..., None] * moved[name][1][:, None, None] for name in varied)
        return Slopes(predicted, by_population, by_effect)

    return lambda z: slopes(jnp.asarray(z), solver.tables)


def _varied(spec: FitSpec) -> list[str]:
    """Parameters that a fit moves."""
    return [name for name in spec.model.parameters if name not in settled(spec)]


def _prepare(spec: FitSpec, parameters, nobody, schedule: Schedule, observables, points) -> Solver:
    typical = starting_values(spec)
    draws = jax.vmap(lambda z: parameters(z, nobody))(jnp.asarray(points))
    count = len(schedule.start)
    every = {name: np.broadcast_to(np.asarray(draws[name])[:, None] if name in draws else value, (len(points), count))
             for name, value in typical.items()}
    accuracy = Accuracy(spec.solver.rtol, spec.solver.atol)
    return solving.prepare(spec.model, typical, schedule, tuple(observables), accuracy, every, share=_PRIOR_SHARE,
                           tail=every, fixed=settled(spec))


def slopes_of(solver: Solver, fixed: Mapping[str, float], values: Mapping[str, Array],
              tables: solving.Tables) -> tuple[Array, dict[str, Array]]:
    """Observables (subject, visit, observable) and their slopes by each of `values`, arrays over subjects."""
    observed, pull = jax.vjp(lambda moved: solving.solve_many(solver, {**fixed, **moved}, tables)[0], dict(values))
    places = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in observed.shape[1:]), indexing="ij"), -1).reshape(-1, 2)

    def one(place):
        # a course that failed must not make the others' slopes NaN
        weight = jnp.zeros_like(observed).at[:, place[0], place[1]].set(1.0)
        return pull(weight)[0]

    found = jax.lax.map(one, places)
    shape = observed.shape
    return observed, {name: jnp.moveaxis(slope.reshape(*shape[1:], shape[0]), -1, 0) for name, slope in found.items()}
