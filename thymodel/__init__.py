"""thymodel: ODE models of thymic reconstitution, fitted to dose cohorts by Bayesian inference."""

import os
import sys

__version__ = "0.1.0"

if "jax" not in sys.modules and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    # one host device a chain, so that four chains run beside each other instead of in lock-step
    os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4").strip()

import jax

jax.config.update("jax_enable_x64", True)  # float64 always: tolerances and tails need it
