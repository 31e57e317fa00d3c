"""Draws from known targets; runs killed and continued; checkpoints that may not be used."""

import importlib.util
import io
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import arviz as az
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thymodel.errors import InputError, ThymodelError
from thymodel.inference import sampling
from thymodel.inference.sampling import BLOCK, Draws, Settings

pytestmark = pytest.mark.requirement("REQ-INF-03", "REQ-INF-05")

_CHILD = Path(__file__).with_name("sampling_target.py")
_SPEC = importlib.util.spec_from_file_location("sampling_target", _CHILD)
target = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(target)

_draw = target.draw
MOST = 4.0  # Monte-Carlo standard errors; over 9 moments a right sampler is beyond in 6 of 10 000 seeds


def _worst(z: np.ndarray) -> float:
    """Largest distance of a mean or covariance from the Gaussian's, in Monte-Carlo standard errors."""
    apart = z - target.MEAN
    rows, columns = np.triu_indices(3)
    products = apart[..., rows] * apart[..., columns] - target.COVARIANCE[rows, columns]
    moments = np.moveaxis(np.concatenate([apart, products], axis=-1), -1, 0)
    return max(abs(moment.mean()) / az.mcse(moment, method="mean") for moment in moments)


def _same(a: Draws, b: Draws) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Draws, Path]:
    """Draws of a run that nobody killed, and the checkpoint that it left."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    return target.draw(checkpoint=folder), folder


def test_a_correlated_gaussian_has_its_means_and_covariances(uninterrupted):
    draws, _ = uninterrupted
    assert draws.z.shape == (3, 800, 3)
    assert _worst(draws.z) < MOST
    assert not draws.diverging.any() and draws.failed == 0


def test_the_test_of_moments_notices_a_wrong_target(uninterrupted):
    wrong = target.draw(target=partial(target.gaussian, power=1.3))
    assert _worst(wrong.z) > MOST


def test_the_log_density_of_each_draw_is_that_of_the_target(uninterrupted):
    draws, _ = uninterrupted
    apart = draws.z - target.MEAN
    expected = -0.5 * np.einsum("cdi,ij,cdj->cd", apart, np.linalg.inv(target.COVARIANCE), apart)
    np.testing.assert_allclose(draws.log_density, expected, atol=1e-10)


def test_the_same_seed_gives_the_same_draws_and_another_seed_gives_others():
    few = Settings(chains=2, warmup=30, draws=20, seed=3)
    first, again, other = (target.draw(few._replace(seed=seed)) for seed in (3, 3, 4))
    assert _same(first, again)
    assert not np.isin(other.z, first.z).any()


def test_chains_of_one_run_differ(uninterrupted):
    draws, _ = uninterrupted
    assert not np.isin(draws.z[0], draws.z[1]).any()


# --- killed and continued ------------------------------------------------------------------------------------


def _killed(folder: Path, how: str, number: int) -> None:
    command = [sys.executable, str(_CHILD), str(folder), how, str(number)]
    done = subprocess.run(command, capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def _blocks(folder: Path) -> int:
    return len(list(folder.glob("block*.npz")))


def test_a_run_killed_again_and_again_gives_the_draws_of_one_that_was_not(uninterrupted, tmp_path):
    folder = tmp_path / "checkpoint"
    _killed(folder, "block", 3)  # block 4 has been started
    assert _blocks(folder) == 3
    _killed(folder, "write", 4)  # block 5 is written, the state that belongs to it only in half
    assert _blocks(folder) == 5
    _killed(folder, "time", int(np.random.default_rng().integers(0, 200)))
    resumed = target.draw(checkpoint=folder)
    assert _same(resumed, uninterrupted[0])


def test_a_run_killed_before_its_first_block_starts_again(uninterrupted, tmp_path):
    folder = tmp_path / "checkpoint"
    _killed(folder, "write", 1)
    assert not list(folder.glob("*.npz"))
    assert list(folder.glob(".*.partial"))
    assert _same(target.draw(checkpoint=folder), uninterrupted[0])


def test_a_finished_run_is_read_back_from_its_checkpoint(uninterrupted):
    draws, folder = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert _same(target.draw(checkpoint=folder), draws)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


# --- draws that are too few ----------------------------------------------------------------------------------


def _longer(at_least: int, checkpoint: Path | None = None, target=target.gaussian) -> tuple[Draws, list[int]]:
    """A run of 100 draws that lacks something up to so many, and how many it had at each look."""
    looks = []

    def lacks(z: np.ndarray) -> str:
        looks.append(z.shape[1])
        return "draws are few" if z.shape[1] < at_least else ""

    return _draw(Settings(chains=2, warmup=100, draws=100, seed=5), checkpoint, target=target, lacks=lacks), looks


def test_draws_that_are_enough_are_looked_at_once():
    draws, looks = _longer(100)
    assert looks == [100] and draws.z.shape[1] == 100 and draws.longer == ""


def test_draws_that_lack_something_go_on_and_say_why():
    draws, looks = _longer(120)
    assert looks == [100, 150] and draws.z.shape[1] == 150
    assert draws.longer == "150 draws a chain were made, for after 100 the draws are few"
    np.testing.assert_array_equal(draws.z[:, :100], _longer(100)[0].z)  # the same chains, continued


def test_there_are_never_more_than_four_times_the_draws_asked_for():
    draws, looks = _longer(10_000)
    assert looks == [100, 150, 225, 338] and draws.z.shape[1] == 400


def test_a_run_that_went_on_is_read_back_from_its_checkpoint(tmp_path):
    first, _ = _longer(120, tmp_path / "checkpoint")
    again, looks = _longer(120, tmp_path / "checkpoint")
    assert _same(first, again) and looks == [100, 150]


# --- checkpoints that may not be used ------------------------------------------------------------------------


@pytest.fixture
def copy(uninterrupted, tmp_path) -> Path:
    return Path(shutil.copytree(uninterrupted[1], tmp_path / "copy"))


def _must_not_run(z):
    raise AssertionError("the target was evaluated")


def test_a_checkpoint_of_another_fit_is_refused(copy):
    with pytest.raises(InputError, match="belongs to another model, spec, data or version"):
        target.draw(checkpoint=copy, identity="another", target=_must_not_run)


def test_a_checkpoint_without_one_of_its_blocks_is_refused(copy):
    (copy / "block00002.npz").unlink()
    with pytest.raises(InputError, match="block of draws is missing"):
        target.draw(checkpoint=copy)


_DAMAGES = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "cut at the start": lambda content: content[100:],
    "text": lambda content: b"not a checkpoint\n",
    "zeros": lambda content: bytes(len(content)),
    "one array": lambda content: _saved(np.zeros(3)),
}


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["start.npz", "state.npz", "block00001.npz"])
def test_a_damaged_checkpoint_is_refused_and_named(copy, name):
    whole = (copy / name).read_bytes()
    flipped = np.random.default_rng(5).integers(0, len(whole), size=40)
    damaged = {how: damage(whole) for how, damage in _DAMAGES.items()}
    damaged |= {f"byte {k}": whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1:] for k in flipped}
    for how, content in damaged.items():
        (copy / name).write_bytes(content)
        store = sampling._Store(copy, "gaussian")
        try:
            start, states = store.load_start(), {"leaf": jnp.zeros(3)}
            store.load_blocks(states)
        except InputError as error:
            assert name in str(error), how
        else:  # a byte of the archive that says nothing, such as a file's date
            assert start is not None and how.startswith("byte"), how


# --- evaluations that fail -----------------------------------------------------------------------------------


def test_evaluations_that_fail_are_counted_and_never_drawn():
    def walled(z):
        return jnp.where(z[0] > 0.5, -jnp.inf, -0.5 * jnp.sum(z**2))

    draws = sampling.sample(walled, 2, np.arange(2), Settings(chains=3, warmup=200, draws=600, seed=5))
    assert draws.failed > 0 and draws.diverging.any()
    assert draws.z[..., 0].max() <= 0.5
    expected = scipy.stats.truncnorm(-np.inf, 0.5).mean()
    assert abs(draws.z[..., 0].mean() - expected) < MOST * az.mcse(draws.z[..., 0], method="mean")


def test_a_target_that_is_nowhere_finite_is_an_error_with_a_hint():
    with pytest.raises(ThymodelError, match="not finite at the prior medians.*hint"):
        sampling.sample(lambda z: jnp.sum(z) * jnp.nan, 2, np.arange(2), Settings(2, 10, 10, 1))


def test_progress_is_told_chain_by_chain_after_each_block():
    told = []
    target.draw(Settings(chains=2, warmup=BLOCK, draws=BLOCK // 2, seed=1), progress=lambda *news: told.append(news))
    total = BLOCK + BLOCK // 2
    assert [news[:3] for news in told] == [(0, BLOCK, total), (1, BLOCK, total), (0, total, total), (1, total, total)]


def test_the_curvature_of_blocks_moved_together_is_the_whole_curvature():
    random = np.random.default_rng(4)
    head, length, subjects = 3, 2, 4
    size = head + length * subjects
    matrix = np.zeros((size, size))
    for k in range(subjects):
        own = [*range(head), *range(head + length * k, head + length * (k + 1))]
        part = random.standard_normal((len(own), len(own)))
        matrix[np.ix_(own, own)] += part @ part.T + np.eye(len(own))

    def value_and_grad(x):
        return -0.5 * x @ matrix @ x, -matrix @ x

    point = random.standard_normal(size)
    for blocks in ((head, length), None):
        frame = sampling.frame_at(value_and_grad, [point], jnp.zeros(0), blocks)
        np.testing.assert_allclose(frame.factor @ frame.factor.T, np.linalg.inv(matrix), rtol=1e-6, atol=1e-8)
