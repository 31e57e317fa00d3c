"""The reference problem in Stan, compiled by httpstan (pystan's engine) and called in this process.

httpstan's own service wants a server for each call; the module that it compiles is called here without one.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
from reference import Table

_PROGRAM = Path(__file__).with_name("reference_problem.stan")


def make_log_density(known: dict, table: Table, rel_tol: float = 1e-6,
                     abs_tol: float = 1e-6) -> tuple[Callable[[np.ndarray], float], Callable[[np.ndarray], list]]:
    """The published log density and its gradient; compiling the program takes minutes, once.

    Raises:
        ImportError: httpstan is not installed.
    """
    from httpstan import models

    name = models.calculate_model_name(_PROGRAM.read_text())
    try:
        module = models.import_services_extension_module(name)
    except KeyError:
        asyncio.run(models.build_services_extension_module(_PROGRAM.read_text()))
        module = models.import_services_extension_module(name)
    data = _data(known, table, rel_tol, abs_tol)
    return (lambda x: module.log_prob(data, x.tolist(), True),
            lambda x: module.log_prob_grad(data, x.tolist(), True))


def _data(known: dict, table: Table, rel_tol: float, abs_tol: float) -> dict:
    """Numbers from 1; a row of visits of which only the first `visits` are used."""
    names = known["parameters"]
    return {
        "subjects": len(table.dose), "most": table.visits.shape[1], "rows": len(table.subject),
        "dose": table.dose.tolist(), "dose_time": table.dose_time.tolist(),
        "visits": [len(np.unique(row)) for row in table.visits], "visit_time": table.visits.tolist(),
        "subject": (table.subject + 1).tolist(), "visit": (table.visit + 1).tolist(),
        "observable": (table.observable + 1).tolist(), "log_value": table.log_value.tolist(),
        "censored": table.censored.astype(int).tolist(),
        "prior_mean": [known["prior_log_mean"][k] for k in names],
        "prior_sd": [known["prior_log_sd"][k] for k in names],
        "varying": [names.index(k) + 1 for k in known["bsv"]],
        "omega_scale": [known["omega_halfnormal_scale"][k] for k in known["bsv"]],
        "sigma_scale": known["sigma_halfnormal_scale"], "rel_tol": rel_tol, "abs_tol": abs_tol}
