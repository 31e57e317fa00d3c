"""A scenario gives the same numbers whoever computes its blocks, and goes on where it was stopped."""

import os
import pickle
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from thymodel.cli import app
from thymodel.documents.spec import load_scenario_spec
from thymodel.errors import InputError
from thymodel.results import prediction, reconstitution, running
from thymodel.results.kept import Place
from thymodel.results.prediction import virtual_subjects
from thymodel.results.reconstitution import gather, outcomes, prepare_judging
from thymodel.results.scenarios import run_scenario

SCENARIO = """
title = "doses"
subjects = 70
draws = 24
visits = [1, 5, 9, 12, 16, 20]
[dose_error.dose]
log_sd = 0.3
source = "made up for this test"
[endpoints.back]
marker = "count"
threshold = 80
unit = "cell/uL"
horizon = 20
sustained_for = 2
by = [10]
[competing.death]
hazard = [{ day = 0, per_day = 0.02 }]
source = "made up for this test"
[arms.control]
[arms.high]
doses = [{ amount = 100, day = 8 }]
"""


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "s.toml"
    found.write_text(SCENARIO, encoding="utf-8")
    return found


@pytest.fixture
def many_blocks(monkeypatch):
    """Blocks of two draws of all subjects: twelve of this scenario."""
    monkeypatch.setattr(prediction, "_MOST_DRAWS", 2)
