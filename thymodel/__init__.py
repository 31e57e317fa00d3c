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


def _keep_compiled_programs() -> None:
    """JAX's persistent compilation cache, unless a person has set their own: a second run starts at once.

    The folder names processor and jaxlib: XLA's machine code must not reach another kind of machine.
    """
    import hashlib
    import platform
    from pathlib import Path

    if jax.config.values.get("jax_compilation_cache_dir") is not None:
        return
    try:
        processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        flags = [line for line in processor.splitlines() if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        flags = [platform.processor()]
    host = hashlib.sha256("\n".join([platform.machine(), *flags]).encode()).hexdigest()[:12]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "thymodel"
    if hasattr(os, "getuid") and folder.exists():
        kept = folder.stat()
        if kept.st_uid not in (os.getuid(), 0) or kept.st_mode & 0o002:
            return  # others can write there, and what it holds is run
    jax.config.update("jax_compilation_cache_dir", str(folder / f"xla-{jax.lib.__version__}-{host}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


_keep_compiled_programs()

if TYPE_CHECKING:  # for editors and type checkers; the same names as in _HOME
    from thymodel.documents.design import load_design as load_design
    from thymodel.documents.model import load_model as load_model
    from thymodel.documents.regimen import Dose as Dose
    from thymodel.errors import InputError as InputError
    from thymodel.errors import RecordError as RecordError
    from thymodel.errors import SolveError as SolveError
    from thymodel.errors import ThymodelError as ThymodelError
    from thymodel.explorer.notebook import explore_here as explore_here
    from thymodel.results.assessment import assess as assess
    from thymodel.results.bundle import save_bundle as save_bundle
    from thymodel.results.calibration import calibrate as calibrate
    from thymodel.results.checks import check_fit as check_fit
    from thymodel.results.describing import describe as describe
    from thymodel.results.escalating import run_escalation as run_escalation
    from thymodel.results.fitting import fit as fit
    from thymodel.results.identifiability import identify as identify
    from thymodel.results.operating import run_protocol as run_protocol
    from thymodel.results.plots import plot_course as plot_course
    from thymodel.results.plots import plot_individuals as plot_individuals
    from thymodel.results.plots import plot_prior_posterior as plot_prior_posterior
    from thymodel.results.plots import plot_reconstitution as plot_reconstitution
    from thymodel.results.preposterior import learn as learn
    from thymodel.results.prior_sensitivity import check_priors as check_priors
    from thymodel.results.qualification import selftest as selftest
    from thymodel.results.record import load_record as load_record
    from thymodel.results.record import quote as quote
    from thymodel.results.record import verify as verify
    from thymodel.results.report import save_report as save_report
    from thymodel.results.scenarios import run_scenario as run_scenario
    from thymodel.results.scores import compare as compare
    from thymodel.results.scores import score as score
    from thymodel.results.simulation import simulate as simulate
    from thymodel.results.study import load_study as load_study
    from thymodel.results.trial import save_trial as save_trial
    from thymodel.results.trial import simulate_trial as simulate_trial
    from thymodel.results.trial_plots import plot_sizes as plot_sizes

_HOME = {
    "Dose": "documents.regimen",
    "InputError": "errors",
    "RecordError": "errors",
    "SolveError": "errors",
    "ThymodelError": "errors",
    "assess": "results.assessment",
    "calibrate": "results.calibration",
    "check_fit": "results.checks",
    "check_priors": "results.prior_sensitivity",
    "compare": "results.scores",
    "describe": "results.describing",
    "explore_here": "explorer.notebook",
    "fit": "results.fitting",
    "identify": "results.identifiability",
    "learn": "results.preposterior",
    "load_design": "documents.design",
    "load_model": "documents.model",
    "load_record": "results.record",
    "load_study": "results.study",
    "plot_course": "results.plots",
    "plot_individuals": "results.plots",
    "plot_prior_posterior": "results.plots",
    "plot_reconstitution": "results.plots",
    "plot_sizes": "results.trial_plots",
    "quote": "results.record",
    "run_escalation": "results.escalating",
    "run_protocol": "results.operating",
    "run_scenario": "results.scenarios",
    "save_bundle": "results.bundle",
    "save_report": "results.report",
    "save_trial": "results.trial",
    "score": "results.scores",
    "selftest": "results.qualification",
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
