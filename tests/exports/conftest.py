"""The readers of exported code, and the models that are exported, stand beside the tests that use them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Population models: a record, made-up specs."""
    from exported import population_models

    return population_models(tmp_path_factory.mktemp)
