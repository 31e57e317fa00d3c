"""Published PEtab problems: SBML model, conditions, observables, noise and data give the published log-likelihood.

Source: Benchmarking-Initiative/Benchmark-Models-PEtab; the likelihoods at the nominal parameters are those of
libroadrunner or AMICI, as EXPECTED.json of each problem says. PEtab-dev/petab_test_suite, version 1.
"""

import json
import re

import pytest

pytest.importorskip("libsbml", reason="python-libsbml, which reads SBML, is not installed")

from petab_problem import load_problem, log_likelihood  # noqa: E402

pytestmark = pytest.mark.requirement("REQ-NUM-09")

TOLERANCE = 1e-2  # of the log-likelihood, as the problems state it
PROBLEMS = ("Armistead_CellDeathDis2024", "Bertozzi_PNAS2020", "Boehm_JProteomeRes2014", "Borghans_BiophysChem1997",
            "Bruno_JExpBot2016", "Elowitz_Nature2000", "Fiedler_BMCSystBiol2016", "Fujita_SciSignal2010",
            "Perelson_Science1996", "Sneyd_PNAS2002", "Zheng_PNAS2012")
SUITE = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0012", "0013", "0016",
         "0017", "0018")


@pytest.mark.parametrize("name", PROBLEMS)
def test_log_likelihood_at_the_nominal_point_is_the_published_one(name, external):
    folder = external / "petab_benchmark" / name
    expected = json.loads((folder / "EXPECTED.json").read_text())
    wanted = expected.get("llh_at_nominal_libroadrunner", expected.get("llh_AMICI_benchmark_yaml"))
    assert log_likelihood(load_problem(folder)) == pytest.approx(wanted, abs=TOLERANCE, rel=0)


def test_every_problem_is_looked_at(external):
    assert sorted(folder.name for folder in (external / "petab_benchmark").iterdir() if folder.is_dir()) == sorted(
        PROBLEMS)


@pytest.mark.parametrize("case", SUITE)
def test_log_likelihood_of_the_test_suite(case, external):
    folder = external / "petab_test_suite" / "v1.0.0" / case
    solution = (folder / f"_{case}_solution.yaml").read_text()
    wanted, tolerance = (float(re.search(rf"^{key}: (\S+)", solution, re.M)[1]) for key in ("llh", "tol_llh"))
    assert log_likelihood(load_problem(folder)) == pytest.approx(wanted, abs=tolerance, rel=0)
