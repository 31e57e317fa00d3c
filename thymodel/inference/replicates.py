"""Studies drawn anew from a spec's priors and error models, fitted, and the truth's rank among the draws.

Drawing truth and data from the model makes truth and posterior draws exchangeable given the data, so that the rank of
any quantity of both is uniform, whatever the sample size, if density and sampler are right. The log likelihood is one
of the quantities: a sampler that returns the prior is found by no parameter.

Source: Talts et al. 2018 (arXiv:1804.06788); Modrák et al. 2023, Bayesian Anal (doi:10.1214/23-BA1404).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from thymodel.documents.data import StudyData
from thymodel.documents.spec import FitSpec
from thymodel.dynamics import solving
from thymodel.errors import ThymodelError
from thymodel.inference import centring, likelihood, sampling, visits
from thymodel.inference.diagnostics import bulk_ess, worst_rhat
from thymodel.inference.population import Layout, error_name, log_prior, population_values, residual_matrix
from thymodel.inference.posterior import Data, Posterior, Records, constrain, in_portions, make_posterior
from thymodel.inference.sampling import Draws, Settings, thin

KEPT = 50  # draws of which the truth's rank is taken, thinned to independence
_LONGER = 3  # times that a run is made twice as long where its draws are worth less than that
LOG_LIKELIHOOD = "log_likelihood"

Density = Callable[[Array, Data], Array]
Sampler = Callable[[Data, int, int], Draws]  # data, seed, draws a chain


@dataclass(frozen=True)
class Design:
    """Who is measured when, and between which limits a value is quantified there.

    `low` and `high` are in the observables' units, a number a record of the posterior; infinite where no limit is.
    """

    data: StudyData
    posterior: Posterior
    low: Float[np.ndarray, " record"]
    high: Float[np.ndarray, " record"]

    @cached_property
    def schedules(self) -> list[solving.Schedule]:
        stacked = self.posterior.data.solver.schedule
        return [jax.tree.map(lambda a, k=k: np.asarray(a)[k], stacked) for k in range(len(self.data.subjects))]


class Replicate(NamedTuple):
    """What became of one study. `places` are ranks as numbers between 0 and 1, ties and steps broken at random; empty
    with a reason in `why` where there are none."""

    places: dict[str, float]
    why: str = ""
    divergences: int = 0
    rhat: float = float("nan")
    worth: float = float("nan")  # independent draws, of the quantity with fewest
    draws: int = 0  # a chain


def make_design(spec: FitSpec, data: StudyData, limits: Mapping[str, tuple[float, float]] | None = None) -> Design:
    """The design of a study: of its measured values, only the limits are used.

    A record is censored below (CENS = 1) its own limit where the study has it censored; every other one below the
    middle one of its observable's limits. Likewise above (CENS = -1).

    Args:
        limits: of each observable, in place of what the study shows.
    """
    posterior = make_posterior(spec, data)
    low, high = (_limits(posterior.records, side) for side in (1, -1))
    for k, name in enumerate(spec.likelihood):
        if limits is not None and name in limits:
            mine = posterior.records.observable == k
            low[mine], high[mine] = limits[name]
    return Design(data, posterior, low, high)


def _limits(records: Records, side: int) -> np.ndarray:
    found = np.full(len(records.value), -side * np.inf)
    for observable in np.unique(records.observable):
        mine = records.observable == observable
        beyond = mine & (records.censoring == side)
        if beyond.any():
            found[mine] = np.quantile(records.value[beyond], 0.5, method="inverted_cdf")
            found[beyond] = records.value[beyond]
    return found


# --- a study drawn anew --------------------------------------------------------------------------------------


def draw_truth(lay: Layout, random: np.random.Generator) -> Float[np.ndarray, " coordinate"]:
    """A point z of the prior: standard normal, and correlations by their partial ones (see `population`)."""
    z, names = random.standard_normal(lay.size), lay.population

    def put(name: str, shape: float, size: int, level: int) -> None:
        half = shape + 0.5 * (size - 2 - level)
        z[names.index(name)] = np.arctanh(2 * random.beta(half, half) - 1)

    for a, b in lay.correlations:
        put(f"corr_{a}_{b}", lay.correlation_shape, len(lay.correlated), lay.correlated.index(a))
    for block in lay.shared_errors:
        for name, (a, _) in zip(block.names, block.pairs, strict=True):
            put(name, block.shape, len(block.observables), block.observables.index(a))
    return z


def draw_study(design: Design, z: Float[np.ndarray, " coordinate"], random: np.random.Generator) -> Data:
    """The arrays of a study measured at the truth `z`, its courses solved to a tight tolerance.

    Raises:
        SolveError: the model cannot be integrated there.
        InputError: a visit with more censored values together than the likelihood takes.
    """
    posterior, records = design.posterior, design.posterior.records
    spec = posterior.spec
    values = {name: value[0] for name, value in in_portions(posterior.subject_values, z[None]).items()}
    names = [subject.id for subject in design.data.subjects]
    courses = solving.trajectories(spec.solved_model, values, design.schedules, tuple(spec.likelihood), names=names)
    measured = _measure(spec, population_values(posterior.layout, jnp.asarray(z)), courses, random)
    value = measured[records.subject, records.visit, records.observable]
    censoring = np.select([value < design.low, value > design.high], [1, -1], 0)
    value = np.clip(value, design.low, design.high)
    return arrange(design, value, censoring)


def _measure(spec: FitSpec, population, courses: Float[np.ndarray, "subject visit observable"],
             random: np.random.Generator) -> np.ndarray:
    """A measurement of every observable at every visit."""
    def key():
        return jax.random.key(random.integers(2**32))

    def sigma(name: str):
        return {part: population[error_name(name, part)] for part in spec.likelihood[name].parameters}

    names, measured = list(spec.likelihood), np.array(courses)
    for k, (name, error) in enumerate(spec.likelihood.items()):
        measured[..., k] = likelihood.draw_observation(error, sigma(name), courses[..., k], key())
    for block in spec.shared_errors:
        members = [names.index(name) for name in block.observables]
        errors = [spec.likelihood[name] for name in block.observables]
        measured[..., members] = visits.draw_visits(errors, [sigma(name) for name in block.observables],
                                                    residual_matrix(block, population), courses[..., members], key())
    return measured


def arrange(design: Design, value: np.ndarray, censoring: np.ndarray) -> Data:
    """Measurements as operands of the design's density. Where an observable has a limit, measured and censored records
    stand together, so that every study has the same shape and needs no program of its own; not so where residuals are
    correlated, for each pattern of censoring within a visit has its own density."""
    posterior, spec = design.posterior, design.posterior.spec
    if spec.shared_errors:
        return make_posterior(spec, _refilled(design, value, censoring), like=posterior).data
    records = posterior.records
    quantified, censored, between = [], [], []
    for k in range(len(spec.likelihood)):
        mine = np.flatnonzero(records.observable == k)
        own = Records(records.subject[mine], records.visit[mine], records.observable[mine], value[mine],
                      censoring[mine], np.full(len(mine), np.nan))
        none = Records(*(a[:0] for a in own))
        limited = bool(np.isfinite([design.low[mine], design.high[mine]]).any())
        quantified.append(none if limited else own)
        censored.append(own if limited else none)
        between.append(none)
    return Data(posterior.data.solver, tuple(quantified), tuple(censored), tuple(between))


def _refilled(design: Design, value: np.ndarray, censoring: np.ndarray) -> StudyData:
    """The study with other measurements, in the order of the posterior's records."""
    numbers = iter(zip(value.tolist(), censoring.tolist(), strict=True))
    subjects = []
    for subject in design.data.subjects:
        observations = []
        for one in subject.observations:
            if one.observable in design.posterior.spec.likelihood:
                number, side = next(numbers)
                one = replace(one, value=number, censoring=side, limit=float("nan"))
            observations.append(one)
        subjects.append(replace(subject, observations=tuple(observations)))
    return replace(design.data, subjects=tuple(subjects))


# --- fitted --------------------------------------------------------------------------------------------------


def make_sampler(posterior: Posterior, settings: Settings, density: Density | None = None) -> Sampler:
    """Fits studies of one design with one compiled program, as `fit` would: pilot, warm-up, draws.

    The solver's steps are those laid for draws of the prior in every study; a fit lays them anew for its own posterior.

    Args:
        density: what is sampled in place of the posterior's own: a density that is wrong on purpose.
    """
    target, lay = density or posterior.density, posterior.layout
    maps, free = centring.coordinates(lay), centring.searched(lay)
    machine = sampling.make_machine(target, maps, settings)

    def draw(data: Data, seed: int, draws: int) -> Draws:
        return sampling.sample(target, lay.size, free, settings._replace(seed=seed, draws=draws), coordinates=maps,
                               tables=(data,), machine=machine)

    return draw


class Ranking(NamedTuple):
    """The compiled programs that turn draws into quantities."""

    natural: Callable[[Array], dict[str, Array]]
    log_prior: Callable[[Array], Array]
    density: Callable[[Array, Data], Array]


def make_ranking(posterior: Posterior, density: Density | None = None) -> Ranking:
    """Population values, derived quantities, the random effects of the first subject (the others are its like), and
    the log likelihood."""

    def natural(z: Array) -> dict[str, Any]:
        found: dict[str, Any] = constrain(posterior, z)
        return {name: value[0] if jnp.ndim(value) else value for name, value in found.items()}

    return Ranking(jax.jit(jax.vmap(natural)), jax.jit(jax.vmap(lambda z: log_prior(posterior.layout, z))),
                   jax.jit(density or posterior.density))


def replicate(design: Design, sampler: Sampler, ranking: Ranking, settings: Settings, seed: int, number: int,
              recast: Callable[[Data], Data] = lambda data: data) -> Replicate:
    """One study from truth to ranks; the same seed and number give the same one.

    Args:
        recast: changes the data before they are fitted: for faults planted on purpose.
    """
    random = np.random.default_rng([seed, number])
    z = draw_truth(design.posterior.layout, random)
    try:
        data = recast(draw_study(design, z, random))
        at_truth = float(ranking.density(z, data))
        if not np.isfinite(at_truth):
            return Replicate({}, "the log density is not finite at the truth")
        return _fitted(sampler, ranking, settings, z, data, at_truth, random)
    except ThymodelError as error:
        return Replicate({}, " ".join(str(error).split()))


def _fitted(sampler: Sampler, ranking: Ranking, settings: Settings, z: np.ndarray, data: Data, at_truth: float,
            random: np.random.Generator) -> Replicate:
    """Draws, made longer until they hold enough independent ones, and the ranks among those that are kept."""
    truth = _quantities(ranking, z[None, None], np.array([[at_truth]]))
    seed, count = int(random.integers(2**31)), settings.draws
    for _ in range(_LONGER + 1):
        draws = sampler(data, seed, count)
        found = _quantities(ranking, draws.z, draws.log_density)
        worth = min((ess for value in found.values() if np.isfinite(ess := bulk_ess(value))), default=0.0)
        if worth >= KEPT:
            break
        count *= 2
    places = {name: _place(float(truth[name][0, 0]), value, random) for name, value in found.items()}
    return Replicate(places, "", int(draws.diverging.sum()), worst_rhat(draws.z), float(worth), draws.z.shape[1])


def _quantities(ranking: Ranking, z: Float[np.ndarray, "chain draw coordinate"],
                log_density: Float[np.ndarray, "chain draw"]) -> dict[str, np.ndarray]:
    """Of every draw (chain, draw)."""
    flat = jnp.asarray(z.reshape(-1, z.shape[-1]))
    found = {name: np.asarray(value).reshape(z.shape[:2]) for name, value in ranking.natural(flat).items()}
    return found | {LOG_LIKELIHOOD: log_density - np.asarray(ranking.log_prior(flat)).reshape(z.shape[:2])}


def _place(truth: float, values: Float[np.ndarray, "chain draw"], random: np.random.Generator) -> float:
    """The truth's rank among KEPT draws as a number between 0 and 1: uniform if the rank is, ties among them broken at
    random."""
    kept = thin(values[..., None], KEPT)[:, 0]
    below, ties = int((kept < truth).sum()), int((kept == truth).sum())
    return (below + random.integers(ties + 1) + random.random()) / (len(kept) + 1)
