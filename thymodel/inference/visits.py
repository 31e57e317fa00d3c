"""Observations of one visit whose errors are shared: subsets of one gate, or one bead count behind every number.

On the scales of their errors the standardised residuals of a visit have a correlation matrix R: together normal, or,
where every error is student_t, multivariate t with the common df (normal residuals that share one random scale), so
that each observation by itself keeps the error model that its own table says. A matrix of zeros leaves normal residuals
independent, and student_t residuals tied by their common scale.

Members of a visit that were measured have the density of their part of R. One that was censored adds the conditional
probability of where it lies, a distribution function. Two add that of a rectangle, an integral over the one of the
conditional probability of the other, by Gauss-Legendre. Three or more are refused (`posterior`).

Source: normal and t conditionals: Ding 2016, Am Stat 70:293; multivariate censoring by conditioning: Genz & Bretz 2009,
Computation of Multivariate Normal and t Probabilities, section 4.1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from thymodel.documents.measurement import ErrorModel
from thymodel.inference.likelihood import log_between, log_cdf, observation, standardise

MEASURED, BELOW, ABOVE, BETWEEN = 0, 1, 2, 3  # what a record says of where its value lies
MOST_CENSORED = 2
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_HALVINGS = 40
_DROP = 36.0  # log of what is left out of an integral, relative to its peak


class Member(NamedTuple):
    """Records of one observable at visits of one kind, standardised: `low` and `high` bound where the value lies."""

    low: Array | None
    high: Array | None


def log_likelihood(errors: Sequence[ErrorModel], sigmas: Sequence[Mapping[str, Array]],
                   kinds: Sequence[int], correlation: Float[Array, "member member"],
                   prediction: Float[Array, "visit member"], value: Float[Array, "visit member"],
                   limit: Float[Array, "visit member"]) -> Float[Array, " visit"]:
    """Log probability of each visit's observations together; all visits have the same members, measured or censored
    alike.

    Args:
        kinds: of each member: MEASURED, BELOW `value`, ABOVE it, or BETWEEN it and `limit`.
    """
    count, total = len(errors), jnp.zeros(value.shape[0])
    measured = [k for k in range(count) if kinds[k] == MEASURED]
    censored = [k for k in range(count) if kinds[k] != MEASURED]
    factor = _cholesky(correlation, [*measured, *censored])
    whitened: list[Array] = []
    for row, k in enumerate(measured):
        center, spread, place, log_slope = standardise(errors[k], sigmas[k], prediction[:, k])
        z = (place(value[:, k]) - center) / spread
        whitened.append(_solve_row(factor, row, z, whitened))
        total = total + log_slope(value[:, k]) - jnp.log(spread) - jnp.log(factor[row][row])
    df = errors[0].df if errors[0].family == "student_t" else math.inf
    total = total + _log_density(whitened, df)
    if not censored:
        return total
    df, widening = _given(whitened, df)
    members = [_bounds(errors[k], sigmas[k], kinds[k], prediction[:, k], value[:, k], limit[:, k]) for k in censored]
    error = replace(errors[0], family="student_t" if math.isfinite(df) else "lognormal", df=df)
    return total + _log_censored(error, members, factor, len(measured), whitened, widening)


def _cholesky(matrix, order: Sequence[int]) -> list[list[Array]]:
    """Lower factor of the matrix of these members, in this order: a handful, so written out."""
    rows: list[list[Array]] = []
    for i, a in enumerate(order):
        row: list[Array] = []
        for j in range(i):
            row.append((matrix[a, order[j]] - sum(row[k] * rows[j][k] for k in range(j))) / rows[j][j])
        rows.append([*row, jnp.sqrt(matrix[a, a] - sum(x**2 for x in row))])
    return rows


def _solve_row(factor, row: int, z, whitened: Sequence[Array]):
    return (z - sum(factor[row][k] * e for k, e in enumerate(whitened))) / factor[row][row]


def _log_density(whitened: Sequence[Array], df: float):
    """Of independent standard residuals, normal or with one common scale."""
    count = len(whitened)
    if not count:
        return 0.0
    square = sum(e**2 for e in whitened)
    if math.isinf(df):
        return -0.5 * square - 0.5 * count * math.log(2 * math.pi)
    constant = gammaln((df + count) / 2) - gammaln(df / 2) - 0.5 * count * math.log(df * math.pi)
    return constant - 0.5 * (df + count) * jnp.log1p(square / df)


def _given(whitened: Sequence[Array], df: float):
    """Degrees of freedom, and factor of the scale, of what is left given the measured ones (Ding 2016, section 2)."""
    if math.isinf(df):
        return df, 1.0
    count = len(whitened)
    return df + count, jnp.sqrt((df + sum(e**2 for e in whitened)) / (df + count))


def _bounds(error: ErrorModel, sigma, kind: int, prediction, value, limit) -> Member:
    center, spread, place, _ = standardise(error, sigma, prediction)
    z = (place(value) - center) / spread
    if kind == BELOW:
        return Member(None, z)
    if kind == ABOVE:
        return Member(z, None)
    other = (place(limit) - center) / spread
    return Member(jnp.minimum(z, other), jnp.maximum(z, other))


def _log_censored(error: ErrorModel, members: Sequence[Member], factor, first: int, whitened, widening):
    """log P(the censored members lie where they do, given the measured ones)."""
    rows = range(first, first + len(members))
    places = [sum((factor[row][k] * e for k, e in enumerate(whitened)), 0.0) for row in rows]
    left = [[factor[row][k] for k in range(first, row + 1)] for row in rows]  # factor of the conditional matrix
    sds = [jnp.sqrt(sum(x**2 for x in row)) for row in left]
    scaled = [Member(*(None if bound is None else (bound - place) / (sd * widening) for bound in member))
              for member, place, sd in zip(members, places, sds, strict=True)]
    if len(scaled) == 1:
        return _log_probability(error, scaled[0])
    return log_rectangle(error, scaled[0], scaled[1], left[1][0] / sds[1], left[1][1] / sds[1])


def _log_probability(error: ErrorModel, member: Member):
    if member.low is None:
        return log_cdf(error, member.high)
    if member.high is None:
        return log_cdf(error, -member.low)
    return log_between(error, member.low, member.high)


# --- two censored members ------------------------------------------------------------------------------------


def log_rectangle(error: ErrorModel, one: Member, other: Member, correlation, rest) -> Float[Array, " visit"]:
    """log P(both lie within their bounds) of a standard pair, normal or t; `rest` is sqrt(1 - correlation**2).

    The integrand is cut where it has fallen by exp(-36) from its peak, and laid in panels between there, the peak and
    where the other member's bounds cross it. Slopes pass through the integrand and through the bounds where these cut.
    """
    if one.high is None and one.low is not None:  # mirrored, so that a bound always is above
        one, correlation = Member(None, -one.low), -correlation
    heavy = error.family == "student_t"
    to_x, to_v = (jnp.sinh, jnp.arcsinh) if heavy else (lambda v: v, lambda x: x)
    inner = replace(error, df=error.df + 1) if heavy else error

    def log_height(v, correlation, rest, other: Member):
        x = to_x(v)
        spread = rest * jnp.sqrt((error.df + x**2) / (error.df + 1)) if heavy else rest
        moved = Member(*(None if b is None else (b - correlation * x) / spread for b in other))
        return _log_marginal(error, x, v) + _log_probability(inner, moved)

    assert one.high is not None
    top = to_v(one.high)
    reach = 60.0 + abs(top) + sum(abs(to_v(b)) for b in other if b is not None)
    bottom = -reach if one.low is None else jnp.maximum(to_v(one.low), -reach)
    top = jnp.minimum(top, reach)
    cuts = jax.lax.stop_gradient(_cuts(log_height, bottom, top, to_v, correlation, rest, other))
    # ends that are bounds move with them, and the cuts between move along: any other choice of cuts does as well
    first, last = jnp.where(cuts[0] <= bottom, bottom, cuts[0]), jnp.where(cuts[-1] >= top, top, cuts[-1])
    parts = [(cut - cuts[0]) / jnp.maximum(cuts[-1] - cuts[0], 1e-300) for cut in cuts]
    ends, terms = [first + part * (last - first) for part in parts], []
    for begin, end in zip(ends[:-1], ends[1:], strict=True):
        half = 0.5 * (end - begin)
        v = 0.5 * (begin + end) + half * _NODES[:, None]
        heights = log_height(v, correlation, rest, other)
        terms.append(heights + jnp.log(_WEIGHTS)[:, None] + jnp.log(jnp.maximum(half, 1e-300)))
    return jax.scipy.special.logsumexp(jnp.concatenate(terms), axis=0)


def _log_marginal(error: ErrorModel, x, v):
    """Log density of x, times dx/dv."""
    if error.family != "student_t":
        return -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
    df = error.df
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    log_cosh = jnp.abs(v) + jnp.log1p(jnp.exp(-2 * jnp.abs(v))) - math.log(2)
    log_square = 2 * (log_cosh + jnp.log(jnp.maximum(jnp.abs(jnp.tanh(v)), 1e-150)))  # of sinh(v), without overflow
    return constant - 0.5 * (df + 1) * jnp.logaddexp(0.0, log_square - math.log(df)) + log_cosh


def _cuts(log_height, bottom, top, to_v, correlation, rest, other: Member):
    """Ends of the panels, ascending: where the integrand begins, its peak and its steps, and where it ends."""
    fixed = jax.lax.stop_gradient((bottom, top, correlation, rest, other))
    bottom, top, correlation, rest, other = fixed

    def height(v):
        return log_height(v, correlation, rest, other)

    def halve(rising, low, high):
        def step(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            up = rising(middle)
            return jnp.where(up, middle, low), jnp.where(up, high, middle)
        return jax.lax.fori_loop(0, _HALVINGS, step, (low, high))

    slope = jax.grad(lambda v: jnp.sum(height(v)))
    bottom = jnp.broadcast_to(bottom, jnp.shape(top))
    peak = halve(lambda v: slope(v) > 0, bottom, top)[0]
    least = height(peak) - _DROP
    begin = halve(lambda v: height(v) < least, bottom, peak)[0]
    end = halve(lambda v: height(v) >= least, peak, top)[1]
    safe = jnp.where(jnp.abs(correlation) < 1e-3, 1e-3, correlation)
    steps = [jnp.clip(to_v(b / safe), begin, end) for b in other if b is not None]
    middle = jnp.sort(jnp.stack([peak, 0.5 * (begin + peak), 0.5 * (peak + end), *steps]), axis=0)
    return [begin, *middle, end]


# --- new observations ----------------------------------------------------------------------------------------


def draw_visits(errors: Sequence[ErrorModel], sigmas: Sequence[Mapping[str, Array]],
                correlation: Float[Array, "member member"], prediction: Float[Array, "... member"], key) -> Array:
    """New observations of whole visits, members last, in the observables' units and before any limit."""
    one, two = jax.random.split(key)
    noise = jax.random.normal(one, prediction.shape) @ jnp.linalg.cholesky(correlation).T
    if errors[0].family == "student_t":
        df = errors[0].df
        noise = noise / jnp.sqrt(jax.random.gamma(two, df / 2, prediction.shape[:-1])[..., None] / (df / 2))
    drawn = [observation(error, sigma, prediction[..., k], noise[..., k])
             for k, (error, sigma) in enumerate(zip(errors, sigmas, strict=True))]
    return jnp.stack(drawn, axis=-1)
