"""A target that a child process and the tests sample alike, and ways for the child to die in the middle of it."""

import os
import signal
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from thymodel.inference import sampling
from thymodel.inference.sampling import Draws, Settings

MEAN = np.array([0.5, -1.0, 0.0])
COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 0.5, -0.1], [0.0, -0.1, 2.0]])
_PRECISION = np.linalg.inv(COVARIANCE)
SETTINGS = Settings(chains=3, warmup=300, draws=800, seed=11)


def gaussian(z, power: float = 1.0):
    apart = z - MEAN
    return -0.5 * power * apart @ jnp.asarray(_PRECISION) @ apart


def draw(settings: Settings = SETTINGS, checkpoint: Path | None = None, identity: str = "gaussian", progress=None,
         target=gaussian, lacks=None) -> Draws:
    return sampling.sample(target, 3, np.arange(3), settings, checkpoint, identity, progress, lacks=lacks)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_after_block(block: int) -> None:
    def progress(chain: int, done: int, total: int, divergences: int) -> None:
        if done >= block * sampling.BLOCK:
            _die()

    draw(checkpoint=Path(sys.argv[1]), progress=progress)


def _die_in_write(number: int) -> None:
    """Before the write of that number is whole: half of the file is on disk, under its temporary name."""
    written = []

    def fsync(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == number:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            _die()

    sampling.os.fsync = fsync  # this process is about to end
    draw(checkpoint=Path(sys.argv[1]))


def _die_after_seconds(milliseconds: int) -> None:
    started = threading.Event()
    threading.Thread(target=lambda: (started.wait(), threading.Event().wait(milliseconds / 1000), _die())).start()
    draw(checkpoint=Path(sys.argv[1]), progress=lambda *_: started.set())


if __name__ == "__main__":
    {"block": _die_after_block, "write": _die_in_write, "time": _die_after_seconds}[sys.argv[2]](int(sys.argv[3]))
