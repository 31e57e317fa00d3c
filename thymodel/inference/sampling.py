"""Log density -> draws. The one file that imports the sampler (BlackJAX's NUTS and its adaptation, used through
`log_density` alone, with steps of our own: see `leapfrog`). For other readings of a log density see `readings`.

Before sampling, a pilot run chooses coordinates: a one-to-one map of the caller's (`Coordinates`), then a linear one,
mode + L u, where L L' is the inverse of the curvature averaged over the pilot's draws. The target is unchanged
(Jacobians are included; that of a linear map is constant), and NUTS meets a density of nearly unit scale.
Where the pilot is unfit, or the draws in its coordinates are not good, plain NUTS begins at draws of the prior in the
caller's coordinates, and `Draws.way` says so.
The whole state of every chain, adaptation included, is an array tree, written to a checkpoint after each block of
iterations; a run that was killed goes on from there and gives the draws that it would have given.
"""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
from blackjax.adaptation.staged_adaptation import build_schedule
from blackjax.adaptation.step_size import dual_averaging_adaptation
from blackjax.mcmc import metrics, proposal, termination, trajectory
from blackjax.mcmc.integrators import IntegratorState
from jaxtyping import Array, Float, Int

from thymodel.dynamics.kernel import Counter, make_counter
from thymodel.errors import Fault, InputError, ThymodelError
from thymodel.inference.diagnostics import worst_rhat
from thymodel.inference.leapfrog import Place, make_step
from thymodel.inference.modes import find_modes, in_the_mass, log_mass, places_apart

LogDensity = Callable[..., Array]  # of z, and of further tables
Progress = Callable[[int, int, int, int], None]  # chain, iterations done, iterations in all, divergences so far
BLOCK = 25  # iterations between checkpoints: seconds of work
_DEEPEST = (6, 10)  # doublings of an orbit in warm-up, where the step size is not yet worth long ones, and after it
_FIRST_STEP = 0.5
_DIVERGED = 1000.0  # of energy since the orbit's start, as in Stan: no weight is left there
_PILOT_BLOCKS = 4
_CURVED_AT = 3  # draws of each chain, or of each mode, whose curvature is averaged
_LIKELY = 128  # of the pilot's draws, handed to `refine`
_UNFIT = 0.5  # of the pilot's draws divergent or not moved from the last: no more than chance shows where the mass is
_DIVERGENT = 0.001  # of the draws: so many happen in a good run, and a plain one, many times as long, has them as well
_LONGEST = 4  # times the draws that were asked for: what mixes too slowly for that wants another model or prior
_HALTED = 0.1  # of the draws: each is but a rejection; so many orbits end at a step that cannot be retraced
_STUCK = 1.05  # R-hat that only chains in different places reach when they are long; _FEW / draws is for chance
_LEAST_MODE = 0.01  # of the mass: what 400 independent draws say of a tail of 5% is wrong by as much
_FEW = 10.0  # independent draws of two chains or more: R-hat - 1 < 10 / draws in all but one of 10 000 coordinates
_CURVATURE_FLOOR = 0.3  # of the prior's 1: where the log density bends up at the mode, the frame is no wider than this


Curvature = Callable[[np.ndarray, Array, int], np.ndarray]  # (points z, weights, count): see `_along`


class Coordinates(NamedTuple):
    """A family of one-to-one maps z = to_z(c, weights), with the log of their Jacobian; weights 0 is the identity.

    `blocks` (first, length) says that the coordinates from `first` on come in blocks of `length` which are independent
    given those before; None where nothing is known.
    """

    weights: int  # how many
    blocks: tuple[int, int] | None
    to_z: Callable[[Array, Array], tuple[Array, Array]]
    from_z: Callable[[Array, Array], Array]
    choose_weights: Callable[[np.ndarray, Curvature], np.ndarray]  # from draws z


def plain_coordinates() -> Coordinates:
    """No map but the identity."""
    return Coordinates(0, None, lambda c, _: (c, jnp.asarray(0.0)), lambda z, _: z, lambda draws, _: np.zeros(0))


class Frame(NamedTuple):
    """The coordinates in which NUTS moves: z = to_z(mode + factor @ u, weights)."""

    mode: Float[Array, " coordinate"]
    factor: Float[Array, "coordinate coordinate"]
    weights: Float[Array, " weight"]


class Settings(NamedTuple):
    chains: int
    warmup: int
    draws: int
    seed: int
    target_accept: float = 0.8


class Draws(NamedTuple):
    """Draws after warm-up, chain by chain, in the coordinates of the log density.

    `halted` are draws whose orbit ended at a step that could not be retraced (see `leapfrog`): a rejection, no flaw.
    `gradients` counts the whole run, warm-up and halved steps included; `leapfrogs` the steps of each draw, and
    `failed` those to a log density that is not finite; in warm-up, whose steps may be far too long, apart.
    `way` is empty where the pilot's coordinates served; otherwise it says how these draws were made, and why.
    `modes` is empty where one mode was found; otherwise it says how much of the mass is about each.
    `longer` is empty where the draws asked for were enough; otherwise it says how many were made, and why.
    """

    z: Float[np.ndarray, "chain draw coordinate"]
    log_density: Float[np.ndarray, "chain draw"]
    energy: Float[np.ndarray, "chain draw"]
    diverging: np.ndarray
    halted: np.ndarray
    leapfrogs: np.ndarray
    accept: np.ndarray
    step_size: Float[np.ndarray, " chain"]
    warmup_divergences: int
    warmup_failed: int
    gradients: int
    failed: int
    way: str = ""
    modes: str = ""
    longer: str = ""


class _Pilot(NamedTuple):
    """The later half of a short run: where the posterior mass is. No part of the draws. `began` numbers the modes that
    chains began about."""

    z: Float[np.ndarray, "chain draw coordinate"]
    log_density: Float[np.ndarray, "chain draw"]
    diverging: np.ndarray
    began: Int[np.ndarray, " chain"]


# --- frames --------------------------------------------------------------------------------------------------


def frame_at(value_and_grad, points: Sequence[np.ndarray], weights: Array,
             blocks: tuple[int, int] | None = None) -> Frame:
    """The frame centred on the mean of `points`, scaled by the curvature averaged over them.

    Source: the averaged curvature stands for the expected information, the preconditioner of Girolami & Calderhead 2011
    (J R Stat Soc B 73:123) held constant.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        curvature = np.mean(list(pool.map(lambda point: curvature_at(value_and_grad, point, blocks), points)), axis=0)
    values, vectors = np.linalg.eigh(curvature)
    root = (vectors / np.sqrt(np.maximum(values, _CURVATURE_FLOOR))) @ vectors.T
    return Frame(jnp.asarray(np.mean(points, axis=0)), jnp.asarray(root), weights)


def curvature_at(value_and_grad, point: np.ndarray, blocks: tuple[int, int] | None) -> np.ndarray:
    """Minus the Hessian, by central differences of the exact gradient; columns that fail count as the prior's.

    Blocks that do not meet are moved together, so that a hundred patients cost no more gradients than one.
    """
    size, width = len(point), 1e-3
    first, length = blocks or (size, 1)
    matrix = np.eye(size)
    inner = np.arange(first, size).reshape(-1, length)
    moves: list[tuple[Any, Any]] = [([k], [np.arange(size)]) for k in range(first)]
    moves += [(inner[:, e], inner) for e in range(length)] if inner.size else []
    for columns, rows in moves:
        away = np.zeros(size)
        away[columns] = width
        up, down = (np.asarray(value_and_grad(point + sign * away)[1]) for sign in (1, -1))
        slope = (down - up) / (2 * width)
        if np.isfinite(slope).all():
            for column, mine in zip(columns, rows, strict=True):
                matrix[mine, column] = slope[mine]
    matrix[:first, first:] = matrix[first:, :first].T
    return 0.5 * (matrix + matrix.T)


def _along(machine: "Machine", tables, z: np.ndarray, weights: Array, count: int) -> np.ndarray:
    """Minus the second derivative of the log density along each of the first `count` coordinates with those weights, at
    each of the points z; array (point, coordinate)."""
    width, points = 1e-3, np.asarray(machine.from_z(z, weights))

    def at(point: np.ndarray) -> list[float]:
        found = []
        for k in range(count):
            away = np.zeros(len(point))
            away[k] = width
            up, down = (np.asarray(machine.value_and_grad(point + sign * away, weights, tables)[1]) for sign in (1, -1))
            found.append(float(down[k] - up[k]) / (2 * width))
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array(list(pool.map(at, points)))


# --- sampling ------------------------------------------------------------------------------------------------


def sample(log_density: LogDensity, size: int, free: np.ndarray, settings: Settings, checkpoint: Path | None = None,
           identity: str = "", progress: Progress | None = None, coordinates: Coordinates | None = None,
           tables: tuple[Any, ...] = (), refine: Callable[[np.ndarray], tuple[Any, ...]] | None = None,
           machine: "Machine | None" = None, lacks: Callable[[np.ndarray], str] | None = None) -> Draws:
    """Draws from exp(log_density) by NUTS; by plain NUTS where the pilot's coordinates do not serve.

    Args:
        log_density: of z, a vector of `size` coordinates, each on the scale of a standard normal, and of `tables`.
        free: coordinates over which the pilot looks for a mode.
        checkpoint: directory in which the state is kept while sampling; a run found there is continued.
        identity: digest of everything that the draws depend on; a checkpoint of anything else is refused.
        coordinates: maps from which the pilot chooses one; the identity by default.
        tables: further arguments of the log density, arrays; operands of the compiled program.
        refine: the tables to sample with, given draws of the pilot (draw, coordinate): numerics that suit where the
            posterior is. The pilot itself uses `tables`. Of the same shapes they need no further compilation.
        machine: of the same log density, coordinates, warm-up and target, for fits that differ in tables and seed
            alone: nothing is compiled again.
        lacks: of draws (chain, draw, coordinate), in words what makes them too few; empty if they are enough. Chains
            without another flaw then go on, each time by half of what there is, to at most four times as many.

    Raises:
        InputError: the checkpoint belongs to another fit.
        ThymodelError: no finite log density to start from.
    """
    maps = coordinates or plain_coordinates()
    store = _Store(checkpoint, identity)
    machine = machine or make_machine(log_density, maps, settings)
    tables = jax.device_put(tables)  # once: some thousand calls from here would each move every array
    pilot = store.load_pilot()
    if pilot is None:
        pilot = _pilot(machine, maps, size, free, settings, tables)
        store.save_pilot(pilot)
    why, first, final, modes = _unfit(pilot), None, tables, ""
    if not why:
        kept, modes = _kept(pilot, machine, maps, settings, tables)
        final = tables if refine is None else refine(thin(pilot.z[kept], _LIKELY))
        start = store.load_start()
        if start is None:
            start = _settle(pilot.z, kept, maps, machine, final)
            store.save_start(*start)
        first = _run(machine, start, settings, final, store, progress, lacks)
        first = first._replace(modes=modes)
        why = _flaw(first)
        if not why:
            return first
    start = _plain_start(machine, maps, size, settings, final)
    plain = _run(machine, start, settings._replace(seed=settings.seed + 2), final, store.inside("plain"), progress,
                 lacks)
    return _better(first, plain, why)


def _run(machine: "Machine", start: tuple[Frame, Array], settings: Settings, tables, store: "_Store",
         progress: Progress | None, lacks: Callable[[np.ndarray], str] | None = None) -> Draws:
    """Warm-up and draws in one frame; continued where the store holds a part of them, or where they lack something.

    Source: stopping by a rule fixed beforehand, in few looks, as Gong & Flegal 2016, J Comput Graph Stat 25:684.
    """
    frame, places = start
    states, blocks = store.load_blocks(_begin(machine, frame, places, settings.seed, tables))
    most, longer = _LONGEST * settings.draws, ""
    while True:
        total = settings.warmup + settings.draws
        while len(blocks) * BLOCK < total:
            states, block = machine.run(states, frame, tables)
            blocks.append(block)
            store.save_block(states, block, len(blocks) - 1)
            if progress is not None:
                _tell(progress, blocks, total)
        draws = _collect(blocks, states, settings)
        why = "" if lacks is None or settings.draws >= most or _flaw(draws) else lacks(draws.z)
        if not why:
            return draws._replace(longer=longer)
        more = min(most, settings.draws + -(-settings.draws // 2))
        longer = f"{more} draws a chain were made, for after {settings.draws} the {why}"
        settings = settings._replace(draws=more)


def _tell(progress: Progress, blocks: list[dict[str, np.ndarray]], total: int) -> None:
    divergences = np.sum([block["diverging"].sum(axis=1) for block in blocks], axis=0)
    for chain, count in enumerate(divergences):
        progress(chain, min(len(blocks) * BLOCK, total), total, int(count))


class Machine(NamedTuple):
    """The compiled programs of a fit, each made once: frame, weights and tables are operands of all of them.

    `value_and_grad(c, weights, tables)`; `from_z(points, weights)`; `begin(u, key, frame, tables)` makes a chain's
    state; `run(states, frame, tables)` makes BLOCK iterations of every chain.
    """

    value_and_grad: Callable[..., tuple[Array, Array]]
    from_z: Callable[[Array, Array], Array]
    begin: Callable[..., Any]
    run: Callable[..., tuple[Any, dict[str, np.ndarray]]]


def make_machine(log_density: LogDensity, maps: Coordinates, settings: Settings) -> Machine:
    counters = {"failed": make_counter(), "gradients": make_counter()}

    def density(c, weights, tables):
        z, log_slope = maps.to_z(c, weights)
        return log_density(z, *tables) + log_slope

    value_and_grad = jax.jit(jax.value_and_grad(density))

    adapt = _adaptation(settings)

    def begin(u: Array, key: Array, frame: Frame, tables) -> _Chain:
        value, slope = value_and_grad(frame.mode + frame.factor @ u, frame.weights, tables)
        return adapt.begin(u, key, value, frame.factor.T @ slope)

    def iterate(operands, chain: _Chain, _):
        frame, tables, cells = operands
        key, now = jax.random.split(chain.key)
        deepest = jnp.where(chain.i < settings.warmup, *_DEEPEST)
        moved, told = _transition(_in_frame(value_and_grad, frame, tables, counters, cells), chain, now, deepest)
        moved = moved._replace(key=key)
        z, log_slope = maps.to_z(frame.mode + frame.factor @ moved.u, frame.weights)
        kept = {"z": z, "log_density": moved.log_density - log_slope, **told}
        return adapt.update(moved, told["accept"]), kept

    @jax.jit
    def block(chain, *operands):
        return jax.lax.scan(partial(iterate, operands), chain, length=BLOCK)

    return Machine(value_and_grad, jax.jit(jax.vmap(maps.from_z, (0, None))), begin, _in_threads(block, counters))


def _in_frame(value_and_grad, frame: Frame, tables, counters: dict[str, Counter], cells):
    """A function of u, and of whether a whole step leads there -> the log density and its gradient in the frame.

    Every call is counted, and every whole step to where the log density is not finite: once, however often it is then
    halved.
    """

    def at(u: Array, whole: Array) -> tuple[Array, Array]:
        value, slope = value_and_grad(frame.mode + frame.factor @ u, frame.weights, tables)
        for (name, counter), cell in zip(counters.items(), cells, strict=True):
            value = counter.add(value, whole & ~jnp.isfinite(value) if name == "failed" else jnp.asarray(True), cell)
        return value, frame.factor.T @ slope

    return at


class _Chain(NamedTuple):
    """All that a chain carries from one iteration to the next."""

    i: Array
    key: Array
    u: Float[Array, " coordinate"]
    log_density: Float[Array, ""]
    slope: Float[Array, " coordinate"]
    step_size: Float[Array, ""]
    inverse_mass: Float[Array, " coordinate"]
    averaging: Any  # BlackJAX's states of the two adaptations
    moments: Any


class _Adaptation(NamedTuple):
    begin: Callable[[Array, Array, Array, Array], _Chain]
    update: Callable[[_Chain, Array], _Chain]


def _adaptation(settings: Settings) -> _Adaptation:
    """Stan's warm-up in windows: the step size all the time, a diagonal mass anew at the end of each slow window.

    Source: Stan Reference Manual, section "Automatic parameter tuning", as in BlackJAX.
    """
    schedule = jnp.asarray(np.array(build_schedule(settings.warmup), dtype=int).reshape(-1, 2))
    first_step, next_step, last_step = dual_averaging_adaptation(settings.target_accept)
    first_mass, next_mass, last_mass = mass_matrix_adaptation()

    def begin(u, key, value, slope) -> _Chain:
        moments = first_mass(len(u))
        chain = _Chain(jnp.asarray(0), key, u, value, slope, jnp.asarray(_FIRST_STEP), moments.inverse_mass_matrix,
                       first_step(_FIRST_STEP), moments)
        return jax.tree.map(jnp.asarray, chain)

    def learn(chain: _Chain, accept: Array) -> _Chain:
        slow, window_ends = schedule[chain.i, 0] == 1, schedule[chain.i, 1] == 1
        averaging = next_step(chain.averaging, accept)
        moments = jax.lax.cond(slow, lambda: next_mass(chain.moments, chain.u), lambda: chain.moments)
        moments = jax.lax.cond(window_ends, lambda: last_mass(moments), lambda: moments)
        averaging = jax.lax.cond(window_ends, lambda: _like(averaging, first_step(last_step(averaging))),
                                 lambda: averaging)
        step_size = jnp.where(chain.i + 1 == settings.warmup, last_step(averaging), jnp.exp(averaging.log_step_size))
        return chain._replace(averaging=averaging, moments=moments, step_size=step_size,
                              inverse_mass=moments.inverse_mass_matrix)

    def update(chain: _Chain, accept: Array) -> _Chain:
        learnt = jax.lax.cond(chain.i < settings.warmup, lambda: learn(chain, accept), lambda: chain)
        return learnt._replace(i=chain.i + 1)

    return _Adaptation(begin, update)


def _like(old: Any, new: Any) -> Any:
    """`new` with the types of `old`, leaf by leaf: a counter that starts again as a Python integer is still one."""
    return jax.tree.map(lambda was, now: jnp.asarray(now, was.dtype), old, new)


def _transition(value_and_grad, chain: _Chain, key: Array, deepest: Array) -> tuple[_Chain, dict[str, Array]]:
    """One draw by NUTS, with multinomial weights along the orbit, and what is kept of how it went.

    Source: Hoffman & Gelman 2014 (J Mach Learn Res 15:1593) and Betancourt 2017 (arXiv:1701.02434), put together from
    BlackJAX's parts, so that `deepest` may change while the program runs.
    """
    metric = metrics.default_metric(chain.inverse_mass)
    step = make_step(value_and_grad, metric.kinetic_energy)
    begin_turning, note, turned = termination.iterative_uturn_numpyro(metric.check_turning)
    integrate = trajectory.dynamic_progressive_integration(
        lambda state, size: IntegratorState(*step(Place(*state), size)), metric.kinetic_energy, note, turned, _DIVERGED)
    expand = trajectory.dynamic_multiplicative_expansion(integrate, metric.check_turning, deepest)

    key_momentum, key_orbit = jax.random.split(key)
    momentum = metric.sample_momentum(key_momentum, chain.u)
    start = IntegratorState(chain.u, momentum, chain.log_density, chain.slope)
    energy = metric.kinetic_energy(momentum) - chain.log_density
    state = trajectory.DynamicExpansionState(
        0, proposal.Proposal(start, energy, 0.0, -jnp.inf), trajectory.Trajectory(start, start, momentum, 0),
        begin_turning(start, max(_DEEPEST)))
    state, (fallen, _) = expand(key_orbit, state, energy, chain.step_size)
    _, found, orbit, _ = state
    ends = jnp.stack([orbit.leftmost_state.logdensity, orbit.rightmost_state.logdensity])
    halted = fallen & jnp.any(jnp.isneginf(ends))
    told = {"energy": found.energy, "diverging": fallen & ~halted, "halted": halted, "leapfrogs": orbit.num_states,
            "accept": jnp.exp(found.sum_log_p_accept) / orbit.num_states}
    here = found.state
    return chain._replace(u=here.position, log_density=here.logdensity, slope=here.logdensity_grad), told


def _in_threads(program, counters: dict[str, Counter]):
    """A function (states, frame, tables) -> (states, what to keep of BLOCK iterations), each chain in its own thread.

    Chains never run in lock-step, where one long tree would hold up the others; all run the same compiled program, so
    the draws do not depend on how many run at a time.
    """
    compiled: dict[Any, Any] = {}

    def run(states, frame: Frame, tables):
        chains = [jax.tree.map(lambda leaf, k=k: leaf[k], states) for k in range(len(states.i))]
        operands = (frame, tables, tuple(counter.cell for counter in counters.values()))
        leaves, tree = jax.tree.flatten(operands)
        key = (tree, tuple(jnp.shape(leaf) for leaf in leaves))
        if key not in compiled:  # once, before the threads would each begin to
            compiled[key] = program.lower(chains[0], *operands).compile()
        before = {name: counter.read() for name, counter in counters.items()}
        with ThreadPoolExecutor(len(chains)) as pool:
            results = list(pool.map(lambda state: jax.block_until_ready(compiled[key](state, *operands)), chains))
        states, block = _stacked(results)
        counts = {name: np.full((1, 1), counter.read() - before[name]) for name, counter in counters.items()}
        return states, {**block, **counts}

    return run


def thin(z: Float[np.ndarray, "chain draw coordinate"], count: int) -> Float[np.ndarray, "draw coordinate"]:
    """At most `count` draws, evenly spaced over all chains."""
    flat = z.swapaxes(0, 1).reshape(-1, z.shape[-1])
    return flat[np.unique(np.linspace(0, len(flat) - 1, min(count, len(flat))).astype(int))]


def _pilot(machine: Machine, maps: Coordinates, size: int, free: np.ndarray, settings: Settings, tables) -> _Pilot:
    """A short run in the frame of the best mode; chains begin in every mode that may hold a share of the mass."""
    none = jnp.zeros(maps.weights)

    def value_and_grad(c):
        return machine.value_and_grad(c, none, tables)

    generator = np.random.default_rng(settings.seed)
    randoms = generator.spawn(settings.chains)
    modes = find_modes(value_and_grad, size, free, generator)
    frame = frame_at(value_and_grad, [modes[0].point], none, maps.blocks)
    centres = places_apart(modes, np.asarray(frame.factor))
    began = np.arange(settings.chains) % len(centres)
    places = np.stack([_near(value_and_grad, frame, centres[k], random)
                       for k, random in zip(began, randoms, strict=True)])
    states, blocks = _begin(machine, frame, places, settings.seed + 1, tables), []
    for _ in range(_PILOT_BLOCKS):
        states, block = machine.run(states, frame, tables)
        blocks.append(block)
    late = blocks[len(blocks) // 2 :]
    z, log_density, diverging = (np.concatenate([block[name] for block in late], axis=1)
                                 for name in ("z", "log_density", "diverging"))
    return _Pilot(z, log_density, diverging, began)


def _kept(pilot: _Pilot, machine: Machine, maps: Coordinates, settings: Settings, tables) -> tuple[np.ndarray, str]:
    """Which of the pilot's chains show where to begin, and what to say of several modes."""
    kept = in_the_mass(pilot.z, pilot.log_density)
    places = np.unique(pilot.began[kept])
    if len(places) == 1:
        return kept, ""
    none, size = jnp.zeros(maps.weights), pilot.z.shape[-1]
    random = np.random.default_rng(settings.seed)

    def value_and_grad(c):
        return machine.value_and_grad(c, none, tables)

    masses = []
    for place in places:
        mine = kept & (pilot.began == place)
        z, values = pilot.z[mine].reshape(-1, size), pilot.log_density[mine].ravel()
        frame = frame_at(value_and_grad, z[:: len(z) // _CURVED_AT], none, maps.blocks)
        masses.append(log_mass(lambda c: value_and_grad(c)[0], z, values, np.asarray(frame.factor), random))
    shares = np.exp(np.array(masses) - np.max(masses))
    shares /= shares.sum()
    said = ", ".join(f"{share:.2g}" for share in sorted(shares, reverse=True))
    note = f"{len(places)} modes were found, with about these shares of the mass: {said}"
    low = places[shares < _LEAST_MODE]
    if len(low):
        note += f"; no chain began about those with less than {_LEAST_MODE:g}"
    return kept & ~np.isin(pilot.began, low), note


def _near(value_and_grad, frame: Frame, centre: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A place in the frame, about one posterior width from a mode."""
    mode, factor = np.asarray(frame.mode), np.asarray(frame.factor)
    away = _finite_start(lambda u: value_and_grad(centre + factor @ u)[0], random, len(centre))
    return np.linalg.solve(factor, centre - mode) + away


def _settle(late: Float[np.ndarray, "chain draw coordinate"], kept: np.ndarray, maps: Coordinates, machine: Machine,
            tables) -> tuple[Frame, Array]:
    """The frame for the main run, and a place in it for each chain to start from.

    The draws of the pilot's chains that are kept choose the weights of the coordinates; the curvature averaged over
    some of them makes the frame. A chain that is not kept begins at a draw of those that are.
    """
    size, good = late.shape[-1], late[kept]
    weights = jnp.asarray(maps.choose_weights(good.reshape(-1, size), partial(_along, machine, tables)))
    some = good[:, :: good.shape[1] // _CURVED_AT].reshape(-1, size)
    last = np.where(kept[:, None], late[:, -1], thin(good, len(late)))
    points = np.asarray(machine.from_z(np.concatenate([some, last]), weights))
    found = frame_at(lambda c: machine.value_and_grad(c, weights, tables), points[: len(some)], weights, maps.blocks)
    return found, jnp.asarray(np.linalg.solve(np.asarray(found.factor), (points[len(some):] - found.mode).T).T)


def _plain_start(machine: Machine, maps: Coordinates, size: int, settings: Settings,
                 tables) -> tuple[Frame, Array]:
    """The frame that changes nothing, and a place of the prior for each chain."""
    frame = Frame(jnp.zeros(size), jnp.eye(size), jnp.zeros(maps.weights))
    randoms = np.random.default_rng(settings.seed + 2).spawn(settings.chains)
    places = [_finite_start(lambda z: machine.value_and_grad(z, frame.weights, tables)[0], random, size)
              for random in randoms]
    return frame, jnp.asarray(np.stack(places))


def _begin(machine: Machine, frame: Frame, places: Array, seed: int, tables):
    keys = jax.random.split(jax.random.PRNGKey(seed), len(places))
    states = [machine.begin(u, key, frame, tables) for u, key in zip(places, keys, strict=True)]
    return _stacked(states)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _finite_start(log_density, random: np.random.Generator, size: int) -> np.ndarray:
    """A draw of the standard normal, drawn in until the density is finite there."""
    for attempt in range(50):
        u = random.standard_normal(size) * 0.9**attempt
        if np.isfinite(float(log_density(u))):
            return u
    raise ThymodelError("no start with a finite log density was found")


def _collect(blocks: list[dict[str, np.ndarray]], states, settings: Settings) -> Draws:
    warmup, total = settings.warmup, settings.warmup + settings.draws  # the last block may hold a few too many
    whole = {name: np.concatenate([block[name] for block in blocks], axis=1)[:, :total] for name in blocks[0]}
    counts = {name: whole.pop(name)[0] for name in ("failed", "gradients")}  # a number a block
    warm = warmup // BLOCK  # a block that is partly warm-up counts as draws
    late = {name: values[:, warmup:] for name, values in whole.items()}
    return Draws(**late, step_size=np.asarray(states.step_size), gradients=int(counts["gradients"].sum()),
                 failed=int(counts["failed"][warm:].sum()), warmup_failed=int(counts["failed"][:warm].sum()),
                 warmup_divergences=int(whole["diverging"][:, :warmup].sum()))


# --- which way -----------------------------------------------------------------------------------------------


def _unfit(pilot: _Pilot) -> str:
    """Why a pilot does not show where the mass is; empty if it does."""
    still = np.zeros_like(pilot.diverging)
    still[:, 1:] = (np.diff(pilot.z, axis=1) == 0.0).all(axis=-1)
    lost = float(np.mean(pilot.diverging | still))
    return f"{lost:.0%} of the pilot's draws diverged or did not move" if lost >= _UNFIT else ""


def _flaw(draws: Draws) -> str:
    """Why draws are not good, in words; empty if they are."""
    divergences, rhat = int(draws.diverging.sum()), worst_rhat(draws.z)
    found = []
    if divergences > _DIVERGENT * draws.diverging.size:
        found.append(f"{divergences} of {draws.diverging.size} draws divergent")
    halted = int(draws.halted.sum())
    if halted > _HALTED * draws.halted.size:
        found.append(f"{halted} of {draws.halted.size} orbits halted at a step that could not be retraced")
    if not rhat < _stuck(draws):
        found.append(f"chains in different places (R-hat {rhat:.2f})")
    return ", ".join(found)


def _stuck(draws: Draws) -> float:
    return _STUCK + _FEW / draws.z.shape[1]


def _better(first: Draws | None, plain: Draws, why: str) -> Draws:
    """The one run or the other, never a mixture: chains that agree come first, then fewer divergences, then R-hat."""
    if first is None:
        return plain._replace(way=f"plain NUTS from draws of the prior, for {why}")

    def badness(draws: Draws) -> tuple[bool, int, float]:
        rhat = worst_rhat(draws.z)
        return not rhat < _stuck(draws), int(draws.diverging.sum()), rhat

    said = "{} was kept, for it is the better: the run in the pilot's coordinates had {}, the plain run {}"
    other = _flaw(plain) or f"{int(plain.diverging.sum())} divergent draws and R-hat {worst_rhat(plain.z):.3f}"
    if badness(plain) < badness(first):
        return plain._replace(way=said.format("plain NUTS from draws of the prior", why, other))
    return first._replace(way=said.format("NUTS in the pilot's coordinates", why, other))


# --- checkpoint ----------------------------------------------------------------------------------------------


class _Store:
    """Files of a run in progress. Each is written whole or not at all; `state.npz` is written last and counts."""

    def __init__(self, folder: Path | None, identity: str):
        self.folder, self.identity = folder, identity
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def inside(self, name: str) -> "_Store":
        """A store of its own within this one."""
        return _Store(self.folder and self.folder / name, self.identity)

    def load_pilot(self) -> _Pilot | None:
        found = self._load("pilot.npz")
        return None if found is None else _Pilot(*(found[name] for name in _Pilot._fields))

    def save_pilot(self, pilot: _Pilot) -> None:
        self._save("pilot.npz", pilot._asdict())

    def load_start(self) -> tuple[Frame, Array] | None:
        found = self._load("start.npz")
        if found is None:
            return None
        return Frame(*(jnp.asarray(found[name]) for name in Frame._fields)), jnp.asarray(found["places"])

    def save_start(self, frame: Frame, places: Array) -> None:
        self._save("start.npz", {**frame._asdict(), "places": places})

    def load_blocks(self, like) -> tuple[Any, list[dict[str, np.ndarray]]]:
        found = self._load("state.npz")
        if found is None:
            return like, []
        leaves, tree = jax.tree.flatten(like)
        states = jax.tree.unflatten(tree, [jnp.asarray(found[f"leaf{k}"]) for k in range(len(leaves))])
        blocks = [self._load(f"block{k:05d}.npz") for k in range(int(found["blocks"]))]
        if any(block is None for block in blocks):
            raise InputError([Fault(str(self.folder), "a block of draws is missing from the checkpoint",
                                    "delete this directory and start again")])
        kept = [{name: value for name, value in block.items() if name != "identity"} for block in blocks if block]
        return states, kept

    def save_block(self, states, block: dict[str, np.ndarray], number: int) -> None:
        self._save(f"block{number:05d}.npz", block)
        leaves = {f"leaf{k}": leaf for k, leaf in enumerate(jax.tree.leaves(states))}
        self._save("state.npz", leaves | {"blocks": np.asarray(number + 1)})

    def _load(self, name: str) -> dict[str, np.ndarray] | None:
        if self.folder is None or not (self.folder / name).exists():
            return None
        place = str(self.folder / name)
        try:
            with np.load(io.BytesIO((self.folder / name).read_bytes()), allow_pickle=False) as file:
                found = dict(file)
            if int(found.pop("arrays")) != len(found):
                raise ValueError("an array is missing")
        except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged files
            what = f"not a checkpoint, or damaged ({type(error).__name__}: {error})"
            raise InputError([Fault(place, what, "delete the directory")]) from None
        if str(found.get("identity")) != self.identity:
            raise InputError([Fault(place, "the checkpoint belongs to another model, spec, data or version",
                                    "delete the directory, or resume the fit that it belongs to")])
        return found

    def _save(self, name: str, arrays: dict[str, Any]) -> None:
        if self.folder is None:
            return
        partial_file = self.folder / f".{name}.partial"
        with open(partial_file, "wb") as file:
            np.savez(file, identity=np.asarray(self.identity), arrays=np.asarray(len(arrays) + 1),
                     **{key: np.asarray(value) for key, value in arrays.items()})
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, self.folder / name)
