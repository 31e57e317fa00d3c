"""thymodel: ODE models of thymic reconstitution, fitted to dose cohorts by Bayesian inference."""

import os

# XLA's compiler reports on itself at error level ("simplifier is likely stuck", harmless); a person's own setting stays
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402

__version__ = "0.1.0"

jax.config.update("jax_enable_x64", True)  # float64 always: tolerances and tails need it
