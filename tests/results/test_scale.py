"""A scenario gives the same numbers whoever computes its blocks, and goes on where it was stopped."""

import os
import pickle
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from thymodel.cli import main
from thymodel.documents.spec import load_scenario_spec
from thymodel.dynamics import solving
from thymodel.errors import InputError
from thymodel.inference.posterior import in_portions
from thymodel.results import prediction, reconstitution, running
from thymodel.results.competing import draw_hazards
from thymodel.results.kept import Place, outcomes_at
from thymodel.results.prediction import virtual_subjects
from thymodel.results.reconstitution import gather, outcomes, prepare_judging
from thymodel.results.scenarios import run_scenario

pytestmark = pytest.mark.requirement("REQ-SCN-01")

SCENARIO = """
title = "doses"
subjects = 70
draws = 24
visits = [1, 5, 9, 12, 16, 20]
[dose_error.cells]
sd = 0.3
source = "made up for this test"
[endpoints.back]
marker = "count"
threshold = 80
unit = "cell/uL"
horizon = 20
sustained_for = 2
by = [10]
[competing.death]
hazard = [{ from_day = 0, per_day = 0.02, source = "made up for this test" }]
[arms.control]
[arms.high]
doses = [{ amount = 100, day = 8 }]
"""


@pytest.fixture(autouse=True, scope="module")
def many_blocks():
    """Blocks of two draws of all subjects: twelve of this scenario."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "_MOST_DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("scale") / "s.toml"
    found.write_text(SCENARIO, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def alone(tiny_fit, path):
    return run_scenario(tiny_fit, path, place=Place(1))


@pytest.fixture(scope="module")
def judging(tiny_fit, path):
    spec, fit = load_scenario_spec(path, tiny_fit.spec.model), tiny_fit.spec
    people = virtual_subjects(fit, {}, spec.subjects, spec.seed, spec.population, spec.dose_errors)
    z = tiny_fit.z.reshape(-1, tiny_fit.z.shape[-1])[:spec.draws]
    return prepare_judging(fit, tiny_fit.layout, z, spec.arms, people, spec.endpoints,
                           draw_hazards(spec.competing, spec.subjects, spec.seed), spec.seed)


# --- workers -------------------------------------------------------------------------------------------------


def test_one_two_and_four_workers_give_the_same_table(tiny_fit, path, alone):
    two, four = (run_scenario(tiny_fit, path, place=Place(workers)) for workers in (2, 4))
    assert alone.table.equals(two.table) and alone.table.equals(four.table)
    assert (alone.times["back"] == four.times["back"]).all() and np.isfinite(alone.times["back"]).any()
    assert (alone.observed["back"].at == four.observed["back"].at).all()


def test_blocks_cover_every_draw_and_subject_once(judging):
    for size in ((2, 70), (1, 64), (5, 70), (24, 70)):
        cut = replace(judging, simulation=replace(judging.simulation, size=size))
        seen = np.zeros((24, 70), int)
        for block in cut.blocks:
            seen[block.draws, block.subjects] += 1
        assert (seen == 1).all()


def test_outcomes_do_not_depend_on_where_blocks_are_cut(judging):
    """Errors of assays, competing events, covariates and delivered doses go by draw and subject, not by block."""
    whole, cut = (outcomes(replace(judging, simulation=replace(judging.simulation, size=size)))
                  for size in ((16, 70), (1, 64)))
    for one, other in ((whole.times, cut.times), (whole.events, cut.events), (whole.exports, cut.exports)):
        assert list(one) == list(other)
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=1e-9)
    assert (whole.observed["back"].at == cut.observed["back"].at).all() and np.isfinite(whole.observed["back"].at).any()


def test_subjects_beyond_those_that_steps_are_laid_for_are_solved_as_well(judging):
    """The last subject, whose dose is its own, with steps of their own to a tight tolerance."""
    sim = judging.simulation
    found = sim(judging.z[:1], ("count",))[1, 0, -1, :, 0]
    part = float(sim.subjects.delivered["cells"][-1])
    doses = [replace(dose, amount=dose.amount * part) for dose in sim.arms[1].doses]
    point = in_portions(lambda z: prediction._subject_program(sim.spec, sim.layout)(
        z, sim.subjects.standard, np.full(70, -1)), judging.z[:1])
    values = {name: float(value[0, -1]) for name, value in point.items()}
    covariates = {name: ((sim.spec.model.start, item.value),) for name, item in sim.spec.model.covariates.items()}
    alone = solving.plan(sim.spec.model, doses, covariates, sim.times.tolist())
    exact = solving.trajectories(sim.spec.model, values, [alone], ("count",))[0, :, 0]
    assert abs(part - 1) > 0.01 and found == pytest.approx(exact, rel=1e-3)  # 10 times what steps are laid for


def test_the_work_of_a_block_is_the_same_after_a_journey(judging):
    there = pickle.loads(pickle.dumps(judging))
    block = judging.blocks[3]
    assert (there(block) == judging(block)).all() and there.simulation.solver.kind == judging.simulation.solver.kind


def test_outcomes_too_large_for_the_memory_lie_in_a_file(judging, monkeypatch):
    found = [(block, judging(block)) for block in judging.blocks]
    inside = gather(judging, found)
    monkeypatch.setattr(reconstitution, "_IN_MEMORY", 0)
    outside = gather(judging, found)
    assert isinstance(outside.times["back"], np.memmap) and not isinstance(inside.times["back"], np.memmap)
    assert (outside.times["back"] == inside.times["back"]).all()


# --- a cluster -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore:Creating scratch directories:UserWarning")  # of Dask, on a busy machine
def test_a_cluster_that_loses_a_worker_gives_the_same_table(tiny_fit, path, alone, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    killed = []
    with distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0",
                                  silence_logs="CRITICAL", local_directory=str(tmp_path)) as cluster:
        def show(done: int, total: int) -> None:
            if done == 2:
                with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
                    killed.extend(client.run(os.getpid).values())
                os.kill(killed[0], signal.SIGKILL)
            assert total == 12

        found = run_scenario(tiny_fit, path, show, place=Place(cluster=cluster.scheduler_address))
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], 0)
    assert len(set(killed)) == 2 and found.table.equals(alone.table)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "carrier://pigeon:1"])
def test_a_cluster_that_is_not_there_is_said_in_seconds(tiny_fit, path, address, monkeypatch, capsys):
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    monkeypatch.setattr(running, "_ANSWER", 1)
    began = time.monotonic()
    status, message = _told(capsys, "scenario", str(tiny_fit.folder), str(path), "--cluster", address)
    assert status == 2 and time.monotonic() - began < 30
    assert f"--cluster {address}: no Dask scheduler there" in message and "dask scheduler" in message


def _told(capsys, *words: str) -> tuple[int, str]:
    """Exit status and what is on stderr."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["thymodel", *words])
        main()
    return ended.value.code, capsys.readouterr().err


# --- kept on disk --------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def _stopped_after(blocks: int):
    def show(done: int, total: int) -> None:
        if done == blocks:
            raise Stopped

    return show


def test_a_run_that_was_stopped_goes_on_and_damage_is_mended(tiny_fit, path, alone, tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr", reason="needs the extra 'dask'")
    place = Place(1, folder=tmp_path / "kept")
    with pytest.raises(Stopped):
        run_scenario(tiny_fit, path, _stopped_after(5), place=place)
    files = sorted((tmp_path / "kept" / "c").rglob("*/*/*/*"))
    files = [file for file in files if file.is_file()]
    assert len(files) == 5
    files[1].write_bytes(files[1].read_bytes()[:-100])
    files[2].write_bytes(b"")
    computed = []
    monkeypatch.setattr(reconstitution.Judging, "__call__", _counting(reconstitution.Judging.__call__, computed))
    again = run_scenario(tiny_fit, path, place=place)
    assert len(computed) == 12 - 3
    assert again.table.equals(alone.table)
    whole = zarr.open_array(tmp_path / "kept", mode="r")
    assert whole.metadata.dimension_names == ("quantity", "arm", "draw", "subject")
    assert (whole[whole.attrs["quantity"].index("back")] == again.times["back"]).all()
    computed.clear()
    assert run_scenario(tiny_fit, path, place=place).table.equals(again.table) and computed == []


def _counting(call, computed: list):
    def counted(judging, block):
        computed.append(block)
        return call(judging, block)

    return counted


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(judging, tmp_path):
    pytest.importorskip("zarr", reason="needs the extra 'dask'")
    mine, other = tmp_path / "mine", tmp_path / "other"
    next(outcomes_at(Place(folder=mine), judging, {"scenario": "one"}))
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for folder in (mine, other):
        with pytest.raises(InputError, match=f"--out {folder}: holds something else"):
            next(outcomes_at(Place(folder=folder), judging, {"scenario": "two"}))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_every_fault_of_the_options_is_listed(tiny_fit, path, capsys):
    status, message = _told(capsys, "scenario", str(tiny_fit.folder), str(path), "--workers", "0", "--cluster",
                            "tcp://127.0.0.1:9", "--out", str(path))
    assert status == 2 and "--workers 0: not a number" in message and "leave out --workers or --cluster" in message
    assert f"--out {path}: not a folder" in message
