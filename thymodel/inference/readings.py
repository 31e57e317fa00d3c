"""Other readings of a posterior's log density than NUTS: which function makes each, and what it says of itself."""

import jax.numpy as jnp
import numpy as np

from thymodel.errors import ThymodelError
from thymodel.inference import centring, laplace, paths, tempering
from thymodel.inference.approximation import Approximation
from thymodel.inference.checking import prior_points
from thymodel.inference.population import log_prior
from thymodel.inference.posterior import Posterior, constrain
from thymodel.inference.sampling import Progress, Settings

_TRIED = 20  # draws of the prior for each start of a search


def approximate(posterior: Posterior, method: str, progress: Progress | None = None) -> Approximation:
    """The posterior by `method` of `approximation.NAMES`, with the seed and number of draws of its spec.

    Raises:
        ThymodelError: the log density is not finite where it has to be.
    """
    asked, lay = posterior.spec.sampler, posterior.layout
    settings = Settings(asked.chains, asked.warmup, asked.draws, asked.seed)
    random, tables = np.random.default_rng(asked.seed), (posterior.data,)
    if method == "smc":
        particles = prior_points(lay, asked.chains * asked.draws, random).reshape(asked.chains, asked.draws, -1)
        return tempering.temper(posterior.density, lambda z: log_prior(lay, z), particles, asked.seed, tables, progress)
    if method == "pathfinder":
        return paths.follow(posterior.density, _starts(posterior, random), settings, tables)
    peaks = laplace.find_peaks(posterior.density, lay.size, centring.searched(lay), asked.seed,
                               centring.centred(lay), tables)
    found = laplace.at_the_highest(peaks) if method == "map" else laplace.normals(peaks, settings)
    modes = [mode | {"values": _values(posterior, mode["z"])} for mode in found.told["modes"]]
    return found._replace(told=found.told | {"modes": modes}, sentences=(*found.sentences, _coordinate(posterior)))


def _starts(posterior: Posterior, random: np.random.Generator) -> np.ndarray:
    """Draws of the prior at which the log density is finite."""
    found = []
    for z in prior_points(posterior.layout, _TRIED * paths.PATHS, random):
        if np.isfinite(float(posterior.log_density(jnp.asarray(z)))):
            found.append(z)
        if len(found) == paths.PATHS:
            return np.stack(found)
    raise ThymodelError(f"the log density is finite at {len(found)} of {_TRIED * paths.PATHS} draws of the prior, too "
                        "few to start searches from. hint: look at a prior predictive simulation")


def _values(posterior: Posterior, z: list[float]) -> dict[str, float]:
    """Population parameters and derived quantities at a point, in their units."""
    natural = constrain(posterior, jnp.asarray(z))
    return {name: float(value) for name, value in natural.items() if np.ndim(value) == 0}


def _coordinate(posterior: Posterior) -> str:
    effects = ", random effects centred by what the data say of them" if posterior.layout.columns else ""
    return (f"a mode is one of the density of z, on whose scale each prior is a standard normal{effects}: on another "
            "scale, such as the parameters' own, it lies elsewhere")
