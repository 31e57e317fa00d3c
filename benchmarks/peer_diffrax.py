"""The reference problem as a JAX user writes it: a right-hand side in jnp, diffrax, vmap over subjects.

Nothing of thymodel is used. Source: MODEL.md of the published problem.
"""

import diffrax
import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from reference import Table

PARAMETERS = ("kh", "Kn", "kP", "kE", "kD", "rho", "kS", "phi", "kmat", "dN", "pN", "pM", "KT", "kF")
VARYING = ("kh", "rho", "kF", "pM", "KT")
ACT, D_M = 0.0015, 0.025


def field(t, y, p):
    """Rates, 1/day."""
    P, F, E, D1, D2, D3, B, Q, S4, S8, R4, R8, N4, N8, M4, M8 = y
    kh, Kn, kP, kE, kD, rho, kS, phi, kmat, dN, pN, pM, KT, kF = p
    occ = 1 - E / Kn
    h = kh * F * P * occ
    g = KT / (KT + R4 + R8 + N4 + N8 + M4 + M8)
    return jnp.stack([
        -kP * P - h, kF * (1 - F), h + (1.5 * occ - 1) * kE * E,
        8 * kE * E - kD * D1, 2 * kD * D1 - kD * D2, 2 * kD * D2 - kD * D3,
        2 * kD * D3 * F + (rho - 1.2) * B, 1.2 * B - 0.3 * Q,
        0.02 * phi * Q - kS * S4, 0.02 * (1 - phi) * Q - kS * S8,
        4 * kS * S4 + (0.5 * pN * g - kmat - 0.02) * R4, 4 * kS * S8 + (0.5 * pN * g - kmat - 0.02) * R8,
        kmat * R4 + (pN * g - dN - ACT) * N4, kmat * R8 + (1.2 * pN * g - dN - ACT) * N8,
        2 * ACT * N4 + (pM * g - D_M) * M4, 2 * ACT * N8 + (1.5 * pM * g - D_M) * M8])


def initial() -> jax.Array:
    return jnp.zeros(16).at[1].set(0.15).at[2].set(0.001).at[14].set(6.0).at[15].set(5.0)


def _solve(p, t0, t1, y0, saveat, tolerance: float, solver):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field), solver, t0, t1, dt0=None, y0=y0, args=p, saveat=saveat, max_steps=16_384,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        adjoint=diffrax.RecursiveCheckpointAdjoint()).ys


def observables(p, dose, dose_time, visits, tolerance: float = 1e-6, solver=diffrax.Tsit5()):
    """One subject's CD4, CD8, nCD4, RTE4 at the visits; the dose comes on day 0 or 5, before the first visit."""
    y = initial().at[0].add(jnp.where(dose_time == 0, dose, 0.0))
    y = _solve(p, 0.0, 5.0, y, diffrax.SaveAt(t1=True), tolerance, solver)[0]
    y = y.at[0].add(jnp.where(dose_time > 0, dose, 0.0))
    ys = _solve(p, 5.0, visits[-1], y, diffrax.SaveAt(ts=visits), tolerance, solver)
    R4, R8, N4, N8, M4, M8 = ys.T[10:]
    return jnp.stack([R4 + N4 + M4, R8 + N8 + M8, R4 + N4, R4], axis=-1)


def make_log_density(known: dict, table: Table, tolerance: float = 1e-6):
    """The published log density of a vector: z, log omega, log sigma, eta subject by subject."""
    mean, sd = (jnp.array([known[key][name] for name in PARAMETERS]) for key in ("prior_log_mean", "prior_log_sd"))
    omega_scale = jnp.array([known["omega_halfnormal_scale"][name] for name in VARYING])
    sigma_scale, places = known["sigma_halfnormal_scale"], jnp.array([PARAMETERS.index(name) for name in VARYING])
    dose, dose_time, visits = jnp.asarray(table.dose), jnp.asarray(table.dose_time), jnp.asarray(table.visits)
    subjects = len(table.dose)

    def log_density(x):
        z, log_omega, log_sigma, eta = x[:14], x[14:19], x[19:23], x[23:].reshape(subjects, 5)
        log_p = jnp.broadcast_to(mean + sd * z, (subjects, 14)).at[:, places].add(jnp.exp(log_omega) * eta)
        seen = jax.vmap(lambda *own: observables(*own, tolerance))(jnp.exp(log_p), dose, dose_time, visits)
        predicted = jnp.log(seen[table.subject, table.visit, table.observable] + 1e-6)
        own_log_sigma = log_sigma[table.observable]
        residual = (table.log_value - predicted) * jnp.exp(-own_log_sigma)
        likelihood = jnp.where(table.censored, log_ndtr(residual), -0.5 * residual**2 - own_log_sigma)
        prior = -0.5 * jnp.sum(z**2) - 0.5 * jnp.sum(eta**2)
        prior += jnp.sum(log_omega - 0.5 * (jnp.exp(log_omega) / omega_scale) ** 2)
        prior += jnp.sum(log_sigma - 0.5 * (jnp.exp(log_sigma) / sigma_scale) ** 2)
        return jnp.sum(likelihood) + prior

    return log_density
