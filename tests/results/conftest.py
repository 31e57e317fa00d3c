"""A committed record in both schemas, for tests that damage copies of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

DESIGN = Path(__file__).resolve().parents[2] / "fits" / "reset02_design"
_SECOND = ("run", "parent", "warnings", "conventions", "documents", "fingerprints", "plan")


def write_as_first_schema(folder: Path) -> None:
    """Rewrites `record.json` as a version before schema 2 would have written it."""
    from thymodel.results import record as records

    path = folder / "record.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in (*_SECOND, "plan")} | {"schema": 1}
    content["files"].pop("plan.toml", None)
    (folder / "plan.toml").unlink(missing_ok=True)
    content["sampler"] = {key: value for key, value in content["sampler"].items() if key != "method"}
    content["digest"] = records._own_digest(content)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


@pytest.fixture(scope="session")
def designs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The design's record in schema 1 and in schema 2, each with its data; do not write into them."""
    from thymodel.results import changes
    from thymodel.results.record import load_record, write_record

    place, record = tmp_path_factory.mktemp("designs"), load_record(DESIGN)
    files = {name: (DESIGN / name).read_bytes() for name in record.content["files"]}
    content = {key: value for key, value in record.content.items() if key not in ("schema", "files", "digest")}
    content["fingerprints"] = {"data": changes.data_fingerprints((DESIGN / "cohort.csv").read_bytes())}
    for name in ("1", "2"):
        write_record(place / name, files, content)
        shutil.copy(DESIGN / "cohort.csv", place / name)
    write_as_first_schema(place / "1")
    return {1: place / "1", 2: place / "2"}
