"""Published posteriors that are no ODE, as log densities of natural values and maps from coordinates to them.

Source: posteriordb (stan-dev/posteriordb), the model of each as its MODEL.md says it. Coordinates are near the scale of
a standard normal, which is what the sampler asks for; the maps' Jacobians are included.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, sigmoid
from jax.scipy.special import logsumexp
from jax.scipy.stats import beta, cauchy, gamma, norm

Natural = Mapping[str, Any]  # by the names of the reference summary, without indices: arrays


@dataclass(frozen=True)
class Target:
    """`log_joint` of natural values, all constants in; `natural(z)` gives them, and the log Jacobian."""

    size: int
    natural: Callable[[Any], tuple[dict[str, Any], Any]]
    log_joint: Callable[[Natural], Any]

    def log_density(self, z):
        """Of the coordinates."""
        values, log_slope = self.natural(z)
        return self.log_joint(values) + log_slope


def load_target(folder: Path) -> Target:
    """The target of a folder of posteriordb, by its name."""
    data = {name: np.array(value) if isinstance(value, list) else value
            for name, value in json.loads((folder / "data.json").read_text()).items()}
    return TARGETS[folder.name](data)


def flat(values: Natural) -> dict[str, Any]:
    """By the names of the reference summary: beta[1], beta[2], ..."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= {name: value} if jnp.ndim(value) == 0 else {f"{name}[{k + 1}]": value[k] for k in range(len(value))}
    return found


def gathered(values: Mapping[str, float]) -> dict[str, Any]:
    """The inverse of `flat`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        stem, _, index = name.partition("[")
        if index:
            found.setdefault(stem, []).append(value)
        else:
            found[stem] = value
    return {name: jnp.array(value) for name, value in found.items()}


# --- regressions ---------------------------------------------------------------------------------------------


def _regression(x: np.ndarray, y: np.ndarray, log_prior: Callable[[Natural], Any], sigma: str = "sigma") -> Target:
    """y ~ N(x @ beta, sigma). Coordinates: least-squares estimate and standard errors, ten times as wide."""
    estimate, *_ = np.linalg.lstsq(x, y, rcond=None)
    spread = np.std(y - x @ estimate)
    wide = 10 * spread * np.sqrt(np.diag(np.linalg.inv(x.T @ x)))

    def natural(z):
        width = spread * jnp.exp(z[-1])
        return {"beta": estimate + wide * z[:-1], sigma: width}, jnp.log(width) + np.sum(np.log(wide))

    def log_joint(p):
        return log_prior(p) + jnp.sum(norm.logpdf(y, x @ p["beta"], p[sigma]))

    return Target(x.shape[1] + 1, natural, log_joint)


def kidscore(data) -> Target:
    """Intelligence of children on their mothers', with an interaction; flat priors."""
    school, mind = data["mom_hs"] - 0.5, data["mom_iq"] - 100
    return _regression(np.stack([np.ones(len(school)), school, mind, school * mind], axis=1), data["kid_score"],
                       lambda p: 0.0)


def nes(data) -> Target:
    """Party on ideology, race, age, education, gender and income; flat priors."""
    ages = [(data["age_discrete"] == k).astype(float) for k in (2, 3, 4)]
    columns = [np.ones(len(ages[0])), data["real_ideo"], data["race_adj"], *ages, data["educ1"], data["gender"],
               data["income"]]
    return _regression(np.stack(columns, axis=1).astype(float), data["partyid7"].astype(float), lambda p: 0.0)


def blr(data) -> Target:
    """Five correlated columns."""
    return _regression(data["X"], data["y"], lambda p: jnp.sum(norm.logpdf(p["beta"], 0, 10))
                       + norm.logpdf(p["sigma"], 0, 10))


def autoregression(data) -> Target:
    """Of order five."""
    lags, y = int(data["K"]), data["y"]
    columns = [np.ones(len(y) - lags), *[y[lags - k: len(y) - k] for k in range(1, lags + 1)]]
    target = _regression(np.stack(columns, axis=1), y[lags:], lambda p: jnp.sum(norm.logpdf(p["beta"], 0, 10))
                         + cauchy.logpdf(p["sigma"], 0, 2.5))

    def natural(z):
        values, log_slope = target.natural(z)
        return {"alpha": values["beta"][0], "beta": values["beta"][1:], "sigma": values["sigma"]}, log_slope

    return Target(target.size, natural, lambda p: target.log_joint(
        {"beta": jnp.concatenate([jnp.reshape(p["alpha"], 1), p["beta"]]), "sigma": p["sigma"]}))


def kilpisjarvi(data) -> Target:
    """A warming lake; intercept at the year 0, two thousand years away: the two are all but one line."""
    x, y = data["x"].astype(float), data["y"]
    means, sds = (np.array([data[f"{kind}{name}"] for name in ("alpha", "beta")]) for kind in ("pmu", "ps"))

    def natural(z):
        alpha, slope = means + sds * z[:2]
        return {"alpha": alpha, "beta": slope, "sigma": jnp.exp(z[2])}, z[2] + np.sum(np.log(sds))

    def log_joint(p):
        prior = norm.logpdf(p["alpha"], means[0], sds[0]) + norm.logpdf(p["beta"], means[1], sds[1])
        return prior + jnp.sum(norm.logpdf(y, p["alpha"] + p["beta"] * x, p["sigma"]))

    return Target(3, natural, log_joint)


# --- hierarchies ---------------------------------------------------------------------------------------------


def eight_schools(data) -> Target:
    """Effects z_j of mu + tau*z_j as coordinates."""
    y, errors, schools = data["y"].astype(float), data["sigma"].astype(float), int(data["J"])

    def natural(z):
        mu, tau = 5 * z[0], 5 * jnp.exp(z[1])
        return {"theta": mu + tau * z[2:], "mu": mu, "tau": tau}, np.log(5) + (schools + 1) * jnp.log(tau)

    def log_joint(p):
        prior = norm.logpdf(p["mu"], 0, 5) + cauchy.logpdf(p["tau"], 0, 5)
        prior += jnp.sum(norm.logpdf(p["theta"], p["mu"], p["tau"]))
        return prior + jnp.sum(norm.logpdf(y, p["theta"], errors))

    return Target(2 + schools, natural, log_joint)


def radon(data) -> Target:
    """Homes in 85 counties with intercepts of their own."""
    y, county, counties = data["log_radon"], data["county_idx"] - 1, int(data["J"])
    columns = np.stack([data["log_uppm"], data["floor_measure"]], axis=1).astype(float)

    def natural(z):
        mu, slopes, widths = z[0], z[1:3], 0.5 * jnp.exp(z[3:5])
        values = {"mu_alpha": mu, "beta": slopes, "sigma_alpha": widths[0], "sigma_y": widths[1],
                  "alpha": mu + widths[0] * z[5:]}
        return values, jnp.sum(jnp.log(widths)) + counties * jnp.log(widths[0])

    def log_joint(p):
        prior = norm.logpdf(p["mu_alpha"], 0, 10) + jnp.sum(norm.logpdf(p["beta"], 0, 10))
        prior += norm.logpdf(p["sigma_alpha"], 0, 1) + norm.logpdf(p["sigma_y"], 0, 1)
        prior += jnp.sum(norm.logpdf(p["alpha"], p["mu_alpha"], p["sigma_alpha"]))
        return prior + jnp.sum(norm.logpdf(y, p["alpha"][county] + columns @ p["beta"], p["sigma_y"]))

    return Target(5 + counties, natural, log_joint)


# --- others --------------------------------------------------------------------------------------------------


def mixture(data) -> Target:
    """Two normals, the lower mean first."""
    y = data["y"]

    def natural(z):
        low, gap = 2 * z[0], 2 * jnp.exp(z[1])
        sigma = jnp.exp(z[2:4])
        values = {"mu": jnp.stack([low, low + gap]), "sigma": sigma, "theta": sigmoid(z[4])}
        return values, np.log(2) + jnp.log(gap) + z[2] + z[3] + log_sigmoid(z[4]) + log_sigmoid(-z[4])

    def log_joint(p):
        prior = jnp.sum(norm.logpdf(p["mu"], 0, 2)) + jnp.sum(norm.logpdf(p["sigma"], 0, 2))
        prior += beta.logpdf(p["theta"], 5, 5)
        weights = jnp.log(jnp.stack([p["theta"], 1 - p["theta"]]))
        return prior + jnp.sum(logsumexp(weights + norm.logpdf(y[:, None], p["mu"], p["sigma"]), axis=1))

    return Target(5, natural, log_joint)


def gaussian_process(data) -> Target:
    """A smooth curve; `sigma` is a variance."""
    y, distance = data["y"], np.subtract.outer(data["x"], data["x"]).astype(float)

    def natural(z):
        values = {"rho": 6 * jnp.exp(0.3 * z[0]), "alpha": 2 * jnp.exp(z[1]), "sigma": jnp.exp(z[2])}
        return values, jnp.log(0.3 * values["rho"]) + jnp.log(values["alpha"]) + z[2]

    def log_joint(p):
        prior = gamma.logpdf(p["rho"], 25, scale=0.25) + norm.logpdf(p["alpha"], 0, 2) + norm.logpdf(p["sigma"], 0, 1)
        matrix = p["alpha"] ** 2 * jnp.exp(-0.5 * (distance / p["rho"]) ** 2) + p["sigma"] * np.eye(len(y))
        factor = jnp.linalg.cholesky(matrix)
        white = jnp.linalg.solve(factor, y)
        return prior - 0.5 * white @ white - jnp.sum(jnp.log(jnp.diag(factor))) - 0.5 * len(y) * np.log(2 * np.pi)

    return Target(3, natural, log_joint)


TARGETS: dict[str, Callable[[Mapping[str, Any]], Target]] = {
    "arK-arK": autoregression,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "gp_pois_regr-gp_regr": gaussian_process,
    "kidiq_with_mom_work-kidscore_interaction_c2": kidscore,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "nes2000-nes": nes,
    "radon_mn-radon_hierarchical_intercept": radon,
    "sblrc-blr": blr,
}
