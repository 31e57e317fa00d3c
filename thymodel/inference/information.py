"""What a study can say before it is fitted: expected (Fisher) information in the coordinates of the prior.

Every coordinate is standard normal under its prior (`population.Layout`), so information is measured in units of the
prior's: 1 doubles what is known, and the prior's own scale (log for lognormal, logit for logitnormal) is kept.
Random effects are integrated out to first order about their typical value, zero (FO), with the information about
typical values and that about variances in blocks of their own.
Source: Mentre, Mallet & Baccar 1997, Biometrika 84:429 (FO); Nyberg et al. 2015, Br J Clin Pharmacol 79:6 (the
block-diagonal form is the better approximation).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from thymodel.documents.spec import ErrorModel
from thymodel.inference import borrowing
from thymodel.inference.population import Layout

Matrix = Float[np.ndarray, "coordinate coordinate"]

_NODES = 240  # of the quadrature over a residual; with 160 the information differs by less than 1e-8
_FARTHEST = 1e3  # residual spreads; a Student-t with 3 degrees of freedom has 1e-9 of its probability beyond
_INVISIBLE = 1e-9  # of the information of a measurement without limits: the assay says the same whatever is true


class Gradients(NamedTuple):
    """Slopes of each measurement's centre (`location`) and of the log of its spread (`scale`), in spreads.

    Columns: typical values and covariate effects; errors; random effects, on their own scale (omega included apart).
    """

    location: Float[np.ndarray, "record column"]
    scale: Float[np.ndarray, "record column"]


class RecordInformation(NamedTuple):
    """Expected information of one measurement about its location (in spreads) and about the log of its spread."""

    location: Float[np.ndarray, " record"]
    scale: Float[np.ndarray, " record"]
    both: Float[np.ndarray, " record"]


def record_information(error: ErrorModel, low: np.ndarray, high: np.ndarray) -> RecordInformation:
    """Expected information of measurements of which those beyond `low` and `high` are reported as beyond.

    Args:
        low, high: limits of quantification as standardised residuals, -inf and inf where there is none.

    Source: the variance of the score, by quadrature where quantified; f**2/F for the probability of being beyond.
    """
    law = scipy.stats.t(error.df) if error.family == "student_t" else scipy.stats.norm
    ends = [np.arcsinh(np.clip(a, -_FARTHEST, _FARTHEST)) for a in (low, high)]
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    x = middle[:, None] + half[:, None] * nodes
    u = np.sinh(x)
    mass = law.pdf(u) * np.cosh(x) * weights * half[:, None]
    slope = (error.df + 1) * u / (error.df + u**2) if error.family == "student_t" else u
    scale = u * slope - 1
    found = [np.sum(mass * a * b, axis=1) for a, b in ((slope, slope), (scale, scale), (slope, scale))]
    for end, tail in ((low, law.cdf(low)), (high, law.sf(high))):
        seen = np.isfinite(end) & (tail > 0)
        place = np.where(seen, end, 0.0)
        beyond = np.where(seen, law.pdf(place) ** 2 / np.where(seen, tail, 1.0), 0.0)
        found = [a + beyond * place**k for a, k in zip(found, (0, 2, 1), strict=True)]
    return RecordInformation(*found)


def joint_information(gradients: Gradients, record: RecordInformation) -> Matrix:
    """Information of one subject's measurements about all columns, its random effects among them."""
    m, s = gradients
    cross = m.T @ (record.both[:, None] * s)
    return m.T @ (record.location[:, None] * m) + s.T @ (record.scale[:, None] * s) + cross + cross.T


def without_effects(joint: Matrix, effects: int, covariance: Float[np.ndarray, "effect effect"]) -> Matrix:
    """The information that is left for the other columns where the last `effects` are unknown, normal, with mean 0.

    For normal errors this is S' V**-1 S with V = J Omega J' + R, by the identity of Woodbury.
    """
    if not effects:
        return joint
    keep = len(joint) - effects
    root = np.linalg.cholesky(covariance)
    side = joint[:keep, keep:] @ root
    return joint[:keep, :keep] - side @ np.linalg.solve(root.T @ joint[keep:, keep:] @ root + np.eye(effects), side.T)


def variance_information(gradients: Gradients, record: RecordInformation, covariance: np.ndarray,
                         slopes: Float[np.ndarray, "term effect effect"], errors: slice) -> Matrix:
    """Information of one subject about variances: first `slopes` of the effects' covariance, then the errors.

    Source: tr(V**-1 dV_k V**-1 dV_l)/2 of a multivariate normal. Residuals that are not normal, or beyond a limit, are
    taken as normal ones of the same information about location and about scale.
    """
    seen = record.location > _INVISIBLE
    effects = covariance.shape[0]
    a = gradients.location[seen][:, gradients.location.shape[1] - effects:]
    residual = 1 / record.location[seen]
    inverse = np.linalg.inv(a @ covariance @ a.T + np.diag(residual))
    by_scale = 2 * residual * np.sqrt(record.scale[seen] / 2)
    turns = [inverse @ (a @ slope @ a.T) for slope in slopes]
    turns += [inverse * (by_scale * column) for column in gradients.scale[seen][:, errors].T]
    return np.array([[0.5 * np.sum(one * other.T) for other in turns] for one in turns]).reshape(len(turns), len(turns))


# --- how much is learned -------------------------------------------------------------------------------------


def expected_contraction(information: Matrix, prior: Float[np.ndarray, " coordinate"]) -> np.ndarray:
    """Expected posterior SD over prior SD of each coordinate; 1 where nothing is learned.

    Args:
        prior: the prior's own information about each coordinate, 1 for a standard normal.
    """
    return np.sqrt(np.diag(np.linalg.inv(information + np.diag(prior))) * prior)


def contraction(lay: Layout, z: Float[np.ndarray, "... coordinate"]) -> dict[str, float]:
    """Posterior SD over prior SD of each population parameter, on the scale on which its prior is normal.

    Args:
        z: draws of a posterior with this layout.

    Returns:
        A number a parameter, near 1 where it kept its prior. Correlations are left out: their prior is not normal.
    """
    flat = np.asarray(z).reshape(-1, np.shape(z)[-1])
    pairs = {f"corr_{a}_{b}" for a, b in lay.correlations}
    prior = borrowing.spread(lay.borrowed) if lay.borrowed is not None else {}
    return {name: float(flat[:, k].std(ddof=1)) / prior.get(name, 1.0) for k, name in enumerate(lay.population)
            if name not in pairs}


# --- what is known only together -----------------------------------------------------------------------------


class Tie(NamedTuple):
    """Parameters that a study knows only together.

    `known` are the powers of the product that it does know (empty: of none); `added` is what the study adds to the
    prior's information along the direction that leaves this product as it is, 0 where it adds nothing at all.
    """

    names: tuple[str, ...]
    known: tuple[float, ...]
    added: float

    def __str__(self) -> str:
        if len(self.names) == 1:
            return f"nothing is learned about {self.names[0]}"
        if not self.known:
            return f"of {', '.join(self.names)} only fewer combinations than parameters are learned"
        share = "" if self.added == 0 else f"; of the rest {100 * self.added:.2g}% of what the prior knows"
        return f"{', '.join(self.names)}: only {_product(self.names, self.known)} is learned{share}"


def _product(names: Sequence[str], powers: Sequence[float]) -> str:
    """a*b/c, with powers where they are not 1."""
    first = next(p for p in powers if p > 0)
    scaled = [p / first for p in powers]
    above = "*".join(_power(n, p) for n, p in zip(names, scaled, strict=True) if p > 0)
    below = "*".join(_power(n, -p) for n, p in zip(names, scaled, strict=True) if p < 0)
    return above + (f"/({below})" if "*" in below.replace("**", "") else f"/{below}" if below else "")


def _power(name: str, power: float) -> str:
    return name if abs(power - 1) < 0.01 else f"{name}**{power:.2g}"


_NOTHING = 1e-10  # of the largest eigenvalue: rounding, of gradients that are exact
_ZERO = 1e-4  # of a direction's largest part
LOOSE = 0.05  # of the prior's information: the SD of the direction falls by 2.5% at most
_TIGHT = 1.0  # of the prior's information: the SD of the product falls to 71% at most


def rank(information: Matrix) -> int:
    """Directions about which the study says anything at all, at this point and to first order."""
    values = np.linalg.eigvalsh(information)
    return int(np.sum(values > _NOTHING * max(values[-1], 1e-300)))


def silent_directions(information: Matrix, names: Sequence[str], slopes: np.ndarray) -> list[Tie]:
    """Directions about which the study says nothing, as sets of parameters that occur only together.

    Args:
        slopes: d log(parameter)/d coordinate, so that a direction reads as powers of a product.
    """
    values, vectors = np.linalg.eigh(information)
    null = _reduced(vectors[:, values <= _NOTHING * max(values[-1], 1e-300)].T * slopes)
    return [tie for rows in _connected(null) for tie in _ties(rows, names)]


def _reduced(rows: np.ndarray) -> np.ndarray:
    """Reduced echelon form: a basis of the same space in which each row moves few parameters."""
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        best = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[best, column]) < _ZERO * np.abs(rows).max():
            rows[done:, column] = 0.0
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= rows[others, column][:, None] * rows[done]
        done += 1
    return np.where(np.abs(rows) < _ZERO, 0.0, rows)[:done]


def _connected(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in groups that move the same parameters."""
    groups: list[list[int]] = []
    for k, row in enumerate(rows):
        touching = [group for group in groups if np.any((rows[group] != 0).any(axis=0) & (row != 0))]
        groups = [group for group in groups if group not in touching] + [[k, *(j for g in touching for j in g)]]
    return [rows[sorted(group)] for group in groups]


def _ties(rows: np.ndarray, names: Sequence[str]) -> list[Tie]:
    moved = np.flatnonzero((rows != 0).any(axis=0))
    own, involved = rows[:, moved], tuple(names[int(k)] for k in moved)
    if len(own) == len(moved):
        return [Tie((name,), (), 0.0) for name in involved]
    if len(own) < len(moved) - 1:
        return [Tie(involved, (), 0.0)]
    known = np.linalg.svd(own)[2][-1]  # what no row moves
    return [Tie(involved, tuple(float(p) for p in known / known[0]), 0.0)]


def loose_pairs(information: Matrix, prior: np.ndarray, names: Sequence[str], slopes: np.ndarray) -> list[Tie]:
    """Pairs of which the study knows the product (or the ratio) well and the rest next to not at all.

    Information about a pair is what is left when all others are unknown but for their priors.
    """
    covariance = np.linalg.inv(information + np.diag(prior))
    ties = []
    for j in range(len(names)):
        for i in range(j):
            pair = [i, j]
            own = np.diag(prior[pair] / slopes[pair] ** 2)  # of the prior, per unit of log
            scale = np.outer(slopes[pair], slopes[pair])
            learned = np.linalg.inv(covariance[np.ix_(pair, pair)] * scale) - own
            for loose, known in ((np.array([1.0, -1.0]), (1.0, 1.0)), (np.array([1.0, 1.0]), (1.0, -1.0))):
                added = (loose @ learned @ loose) / (loose @ own @ loose)
                tight = (np.array(known) @ learned @ np.array(known)) / (np.array(known) @ own @ np.array(known))
                if added < LOOSE and tight > _TIGHT:
                    ties.append(Tie((names[i], names[j]), known, max(float(added), 0.0)))
    return ties
