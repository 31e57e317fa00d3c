"""thymodel: ODE models of thymic reconstitution, fitted to dose cohorts by Bayesian inference.

The names below are the commands of the command line in Python; each is imported when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# XLA's compiler reports on itself at error level ("simplifier is likely stuck", harmless); a person's own setting stays
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402

__version__ = "0.1.0"

jax.config.update("jax_enable_x64", True)  # float64 always: tolerances and tails need it

if TYPE_CHECKING:  # for editors and type checkers; the same names as in _HOME
    from thymodel.documents.design import load_design as load_design
    from thymodel.documents.model import load_model as load_model
    from thymodel.documents.regimen import Dose as Dose
    from thymodel.errors import InputError as InputError
    from thymodel.errors import RecordError as RecordError
    from thymodel.errors import SolveError as SolveError
    from thymodel.errors import ThymodelError as ThymodelError
    from thymodel.results.fitting import fit as fit
    from thymodel.results.fitting import load_study as load_study
    from thymodel.results.plots import plot_course as plot_course
    from thymodel.results.plots import plot_individuals as plot_individuals
    from thymodel.results.plots import plot_prior_posterior as plot_prior_posterior
    from thymodel.results.plots import plot_reconstitution as plot_reconstitution
    from thymodel.results.record import load_record as load_record
    from thymodel.results.record import quote as quote
    from thymodel.results.record import verify as verify
    from thymodel.results.scenarios import run_scenario as run_scenario
    from thymodel.results.simulation import simulate as simulate
    from thymodel.results.trial import save_trial as save_trial
    from thymodel.results.trial import simulate_trial as simulate_trial

_HOME = {
    "Dose": "documents.regimen",
    "InputError": "errors",
    "RecordError": "errors",
    "SolveError": "errors",
    "ThymodelError": "errors",
    "fit": "results.fitting",
    "load_design": "documents.design",
    "load_model": "documents.model",
    "load_record": "results.record",
    "load_study": "results.fitting",
    "plot_course": "results.plots",
    "plot_individuals": "results.plots",
    "plot_prior_posterior": "results.plots",
    "plot_reconstitution": "results.plots",
    "quote": "results.record",
    "run_scenario": "results.scenarios",
    "save_trial": "results.trial",
    "simulate": "results.simulation",
    "simulate_trial": "results.trial",
    "verify": "results.record",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """A public name, imported on first use: `import thymodel` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'thymodel' has no attribute '{name}'")
    value = getattr(import_module(f"thymodel.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
