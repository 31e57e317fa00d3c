"""Where the published problems lie, and how one becomes a model document."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what these tests share with the table of all cases

import published  # noqa: E402


@pytest.fixture(scope="session")
def external() -> Path:
    """The folder of published problems."""
    folder = published.external_folder()
    if not folder.is_dir():
        pytest.skip(f"no published problems at {folder}; THYMODEL_EXTERNAL names their folder")
    return folder


@pytest.fixture(scope="session")
def document() -> Callable[..., str]:
    """Writes a problem without units as a model document."""
    return published.document
