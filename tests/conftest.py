"""What several floors of tests share: one tiny fit, sampled for real, once a session."""

import hashlib
import sys
from pathlib import Path

import pytest

_MODEL = """
title = "Decay <of one pool>"
description = "x falls at the rate k."
time = "day"
[parameters]
x0 = { unit = "cell/uL", value = 100, prior = "lognormal(median=100, sd=0.5)", source = "made up", verified = true }
k = { unit = "1/day", value = 0.1, prior = "lognormal(median=0.1, sd=0.5)", source = "made up & unverified" }
[states.x]
unit = "cell/uL"
initial = "x0"
rate = "-k*x"
[inputs.cells]
unit = "cell/uL"
add = { x = "amount" }
[observables.count]
label = "made-up cells"
unit = "cell/uL"
value = "x"
"""

_SPEC = """
title = "Tiny <script>alert(1)</script> fit"
purpose = "Show that records & reports hang together; made-up numbers."
model = "decay.toml"
simulated = true
estimate = ["x0", "k"]
[data]
file = "study.csv"
sha256 = "{digest}"
units = {{ TIME = "day", count = "cell/uL", cells = "cell/uL" }}
[between_subject]
x0 = {{ sd = "halfnormal(sd=0.5)", source = "made up" }}
[likelihood.count]
error = "lognormal"
parameters = {{ log_sd = {{ prior = "lognormal(median=0.2, sd=0.5)", source = "made up" }} }}
[endpoints.back]
label = "count above 80 for 2 days"
marker = "count"
threshold = 80
unit = "cell/uL"
horizon = 20
sustained_for = 2
by = [10]
[sampler]
seed = 1
chains = 2
warmup = 20
draws = 20
[gates]
rhat = 100
failed_solves = 1
ess_bulk = 1
ess_tail = 1
divergences = 40
"""

# the last value of subject 4 lies far from any exponential; subject 2 ends below the limit of quantification
_STUDY = """ID,TIME,EVID,CMT,AMT,DVID,DV,CENS,MDV,ARM
1,1,0,.,.,count,92,0,0,control
1,5,0,.,.,count,60,0,0,control
1,15,0,.,.,count,24,0,0,control
2,1,0,.,.,count,70,0,0,control
2,5,0,.,.,count,51,0,0,control
2,15,0,.,.,count,20,1,0,control
3,1,0,.,.,count,118,0,0,dosed
3,8,1,cells,100,.,.,0,1,dosed
3,9,0,.,.,count,131,0,0,dosed
3,15,0,.,.,count,71,0,0,dosed
4,1,0,.,.,count,93.25,0,0,dosed
4,8,1,cells,100,.,.,0,1,dosed
4,9,0,.,.,count,.,0,1,dosed
4,15,0,.,.,count,700,0,0,dosed
"""


@pytest.fixture(scope="module", params=["native", "jax"])
def kind(request: pytest.FixtureRequest) -> str:
    """Either solver by turns: what is asked of one is asked of the other, to the same tolerance."""
    return request.param


def _write_tiny(folder: Path) -> Path:
    folder.mkdir()
    (folder / "decay.toml").write_text(_MODEL)
    (folder / "study.csv").write_text(_STUDY)
    (folder / "spec.toml").write_text(_SPEC.format(digest=hashlib.sha256(_STUDY.encode()).hexdigest()))
    return folder


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny fit's spec, model and data, without a record; do not write into it."""
    return _write_tiny(tmp_path_factory.mktemp("studies") / "tiny")


@pytest.fixture(scope="session")
def tiny_fit(tmp_path_factory: pytest.TempPathFactory):
    """A FitRecord of four made-up subjects with gates so loose that it passes; do not write into its folder."""
    from thymodel.results.fitting import fit

    return fit(_write_tiny(tmp_path_factory.mktemp("fits") / "tiny"))


@pytest.fixture
def call(monkeypatch, capsys):
    """(exit status, stdout, stderr) of a command line, in this process."""
    from thymodel import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["thymodel", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run
