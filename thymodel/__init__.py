"""thymodel: ODE models of thymic reconstitution, fitted to dose cohorts by Bayesian inference."""

import jax

__version__ = "0.1.0"

jax.config.update("jax_enable_x64", True)  # float64 always: tolerances and tails need it
