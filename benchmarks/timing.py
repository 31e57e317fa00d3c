"""One core, interleaved rounds, medians with ranges: how every time here is taken."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


def pin_to_one_core() -> int:
    """Binds this process, and every thread that it starts, to one core; call it before importing jax."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


class Seconds(NamedTuple):
    """Of every call: by the clock, and of processor time, in which other processes on the machine do not count."""

    clock: list[float]
    processor: list[float]


def interleaved(calls: Mapping[str, Sequence[Callable[[], object]]], rounds: int) -> dict[str, Seconds]:
    """Times of each call: in every round each contender makes all its calls, so that drift meets all alike.

    The calls must wait for their result. One call of each goes first and is not counted.
    """
    seconds = {name: Seconds([], []) for name in calls}
    for own in calls.values():
        own[0]()
    for _ in range(rounds):
        for name, own in calls.items():
            for call in own:
                begin, used = time.perf_counter(), time.process_time()
                call()
                seconds[name].processor.append(time.process_time() - used)
                seconds[name].clock.append(time.perf_counter() - begin)
    return seconds


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return 0.5 * (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2])


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a markdown table."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def machine(*packages: str) -> str:
    """Processor, Python and versions of packages, for the line under a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0]}, {len(names)} cores" if names else platform.processor()
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return f"{processor}; Python {platform.python_version()}; {', '.join(found)}"


def version(package: str) -> str:
    return importlib.metadata.version(package)
