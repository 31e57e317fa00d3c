"""Where the published problems lie, and how one becomes a model document."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what these tests share with the table of all cases


@pytest.fixture(scope="session")
def external() -> Path:
    """The folder of published problems: THYMODEL_EXTERNAL, or shared/external beside the checkout."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "external"
    folder = Path(os.environ.get("THYMODEL_EXTERNAL", beside))
    if not folder.is_dir():
        pytest.skip(f"no published problems at {folder}; THYMODEL_EXTERNAL names their folder")
    return folder


@pytest.fixture(scope="session")
def document() -> Callable[..., str]:
    """Writes a problem without units as a model document."""
    return _document


def _document(title: str, states: Mapping[str, str], initial: Mapping[str, float], numbers: Mapping[str, float],
              expressions: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Every quantity is a pure number and time is in days, so each rate is multiplied by one per day."""
    lines = [f'title = "{title}"', 'description = "a published problem"', "[constants]",
             'per_day = { unit = "1/day", value = 1, source = "the problem has no time unit" }', "[parameters]"]
    lines += [f'{key} = {{ unit = "1", value = {float(value)!r}, source = "the problem" }}'
              for key, value in numbers.items()]
    lines += ["[expressions]", *[f"{key} = {json.dumps(text)}" for key, text in expressions.items()]]
    for key, text in states.items():
        lines += [f"[states.{key}]", 'unit = "1"', f'initial = "{float(initial[key])!r}"',
                  f"rate = {json.dumps(f'per_day*({text})')}"]
    lines += ["[observables]"]
    lines += [f'{key} = {{ unit = "1", value = {json.dumps(text)} }}' for key, text in outputs.items()]
    return "\n".join(lines)
