"""What a person waits for before the first draw: importing, compiling a model, loading it again, the README's fit.

    python benchmarks/startup.py [ROUNDS]          some minutes; fits are repeated half as often

Every row is of processes of their own, with a cache folder of their own that is empty or holds what one run left. The
model is that of the reference problem. Other work on the machine lengthens what the clock shows, not processor time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timing

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "tests" / "external" / "reference_problem" / "niche_cascade.toml"
OBSERVABLES = ("CD4", "CD8", "nCD4", "RTE4")
FIT = ROOT / "fits" / "reset02_design"

Seconds = dict[str, tuple[float, float]]  # by the clock, of processor time


@contextmanager
def lap(seconds: Seconds, name: str) -> Iterator[None]:
    """Adds what the block takes."""
    begin, used = time.perf_counter(), time.process_time()
    yield
    clock, processor = seconds.get(name, (0.0, 0.0))
    seconds[name] = (clock + time.perf_counter() - begin, processor + time.process_time() - used)


def timed(seconds: Seconds, name: str, function: Callable) -> Callable:
    def call(*given: Any, **named: Any) -> Any:
        with lap(seconds, name):
            return function(*given, **named)

    return call


# --- in processes of their own -----------------------------------------------------------------------------------


def imports() -> Seconds:
    seconds: Seconds = {}
    with lap(seconds, "`import thymodel`"):
        import thymodel  # noqa: F401
    with lap(seconds, "everything that a fit imports, after that"):
        import thymodel.results.fitting
        import thymodel.results.report  # noqa: F401
    return seconds


def compiling() -> Seconds:
    import thymodel.results.fitting  # noqa: F401
    from thymodel.documents.model import load_model
    from thymodel.dynamics.kernel import native, self_test

    seconds: Seconds = {}
    with lap(seconds, "document"):
        model = load_model(MODEL)
    native.make_phases = timed(seconds, "lists", native.make_phases)  # type: ignore[assignment]
    native.kernel_text = timed(seconds, "text", native.kernel_text)  # type: ignore[assignment]
    native.build = timed(seconds, "code", native.build)  # type: ignore[assignment]
    with lap(seconds, "kernel"):
        compiled = native.compile_model(model, OBSERVABLES)
    with lap(seconds, "self-test"):
        trouble = self_test(compiled)
    assert trouble is None, trouble
    return seconds


def fitting(begin: str, out: str) -> Seconds:
    """The command line itself, told on at its stages; times from the start of the process."""
    from thymodel import cli

    seconds: Seconds = {}

    def note(name: str) -> None:
        seconds.setdefault(name, (time.time() - float(begin), time.process_time()))

    cli._FitDisplay._stage = lambda self, text: note(text)  # type: ignore[method-assign,assignment,return-value]
    cli._FitDisplay._sampling = lambda self, chain, *rest: note("chain")  # type: ignore[method-assign,assignment,return-value]
    sys.argv = ["thymodel", "fit", str(FIT), "--out", out]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    note("verdict")
    return seconds


# --- the table ---------------------------------------------------------------------------------------------------


def run(what: str, cache: Path, *words: str) -> Seconds:
    """A process with that cache folder."""
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, f"--{what}", *words], check=True, text=True,
                          capture_output=True, cwd=ROOT,
                          env=os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)})
    return {name: tuple(pair) for name, pair in json.loads(done.stdout.splitlines()[-1]).items()}


def run_fit(cache: Path) -> Seconds:
    with tempfile.TemporaryDirectory() as out:
        return run("fitting", cache, repr(time.time()), str(Path(out) / "record"))


def both(once: Callable[[Path], Seconds], rounds: int) -> tuple[list[Seconds], list[Seconds]]:
    """With an empty cache, and then again with what that run left."""
    empty, kept = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            empty.append(once(Path(cache)))
            kept.append(once(Path(cache)))
    return empty, kept


def row(what: str, label: str, found: list[Seconds], parts: dict[str, int]) -> list[str]:
    """Of a sum of parts, each with its sign."""
    clock, processor = ([sum(sign * seconds.get(part, (0.0, 0.0))[k] for part, sign in parts.items())
                         for seconds in found] for k in (0, 1))
    return [what, label, milliseconds(timing.median(clock)),
            f"{milliseconds(min(clock))} to {milliseconds(max(clock))}", milliseconds(timing.median(processor))]


def milliseconds(value: float) -> str:
    return f"{1e3 * value:,.0f}" if value > 0.0995 else f"{1e3 * value:.2g}"


def main(rounds: int) -> None:
    imported = both(lambda cache: run("imports", cache), rounds)[1]
    cold, warm = both(lambda cache: run("compiling", cache), rounds)
    first, second = both(run_fit, max(rounds // 2, 1))
    model, fit = "16 states, empty cache", "`thymodel fit fits/reset02_design`"
    rows = [
        *[row("import", name, imported, {name: 1}) for name in imported[0]],
        row(model, "document read and checked", cold, {"document": 1}),
        row(model, "symbolic lists", cold, {"lists": 1}),
        row(model, "LLVM text", cold, {"text": 1}),
        row(model, "machine code", cold, {"code": 1, "lists": -1, "text": -1}),
        row(model, "self-test: against numpy and through JAX", cold, {"self-test": 1}),
        row(model, "**lists, text, code and self-test**", cold, {"kernel": 1, "self-test": 1}),
        row("the same, from the cache", "document read and checked", warm, {"document": 1}),
        row("the same, from the cache", "machine code loaded", warm, {"code": 1}),
        row("the same, from the cache", "**key, code, and that it was tested**", warm, {"kernel": 1, "self-test": 1}),
    ]
    for label, found in (("first run, empty cache", first), ("second run", second)):
        rows += [row(f"{fit}, {label}", "until the posterior stands", found, {"pilot, compiling": 1}),
                 row(f"{fit}, {label}", "until chains report", found, {"chain": 1}),
                 row(f"{fit}, {label}", "**until the verdict**", found, {"verdict": 1})]
    timing.show(["what", "part", "ms, median", "range", "processor ms, median"], rows)
    print(f"\n{time.strftime('%Y-%m-%d')}; {rounds} rounds, {max(rounds // 2, 1)} of fits. "
          + timing.machine("jax", "llvmlite", "sympy", "blackjax"))


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in ("--imports", "--compiling", "--fitting"):
        print(json.dumps({"--imports": imports, "--compiling": compiling, "--fitting": fitting}[sys.argv[1]](
            *sys.argv[2:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
