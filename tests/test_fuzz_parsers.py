"""The qualification script on a few mutated files: every reader reads or refuses, and one that does not is found."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

from thymodel.errors import Fault, InputError

pytestmark = pytest.mark.requirement("REQ-SEC-04")

SCRIPT = Path(__file__).resolve().parents[1] / "qualification" / "fuzz_parsers.py"
FILES, SEED = 1_500, 7


@pytest.fixture(scope="module")
def fuzz():
    found = importlib.util.spec_from_file_location("fuzz_parsers", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["fuzz_parsers"] = module
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench(fuzz, tmp_path_factory):
    pytest.importorskip("libsbml", reason="python-libsbml is not installed here")
    return fuzz.Bench(tmp_path_factory.mktemp("fuzz") / "box")


def test_every_reader_reads_or_refuses_what_is_mutated(fuzz, bench):
    before, outcomes = fuzz.tree_of(bench.box), []
    for job in fuzz.jobs_of(bench, FILES):
        if not job.command:
            outcomes.append((job, bench.examine(job.name, bench.case(job.name, SEED, job.number))))
    assert [(job, found) for job, found in outcomes if found.kind not in fuzz.FINE] == []
    assert len(outcomes) >= FILES - len(bench.targets)
    assert {found.kind for _, found in outcomes} == {*fuzz.FINE}
    assert fuzz.tree_of(bench.box) == before


def test_a_case_is_the_same_each_time(bench):
    assert all(bench.case(name, 1, 3) == bench.case(name, 1, 3) for name in bench.targets if name != "netCDF"
               and name != "draws of a record")  # HDF5 writes the time into a file


@pytest.mark.parametrize("load, kind", [
    (lambda path: 1 / 0, "exception"), (lambda path: path.with_name("owned").write_text("x"), "wrote"),
    (lambda path: (_ for _ in ()).throw(InputError([])), "empty refusal"),
    (lambda path: (_ for _ in ()).throw(InputError([Fault("x", "")])), "empty refusal"),
    (lambda path: (_ for _ in ()).throw(MemoryError), "memory"), (lambda path: path.read_bytes(), "read")])
def test_a_bad_reader_is_found_out(fuzz, bench, load, kind, monkeypatch):
    monkeypatch.setitem(bench.targets, "bad", fuzz.Target("bad", 1, ("x",), "text", load))
    monkeypatch.setitem(bench.seeds, "bad", [(bench.box / "boxed/text.txt", b"x")])
    assert bench.examine("bad", bench.case("bad", 1, 1)).kind == kind
    (bench.box / "boxed/owned").unlink(missing_ok=True)


def test_random_arithmetic_is_of_both_kinds(fuzz):
    """Else most cases would stop at the first letter."""
    from thymodel.documents.expressions import parse_expression

    rng, good = random.Random(1), 0
    for _ in range(200):
        try:
            parse_expression(fuzz.random_expression(rng, ["x", "k"], 3), ["x", "k"])
            good += 1
        except ValueError:
            pass
    assert 20 < good < 180
