"""Pieces of work in turn, on threads of this machine or on a Dask cluster: the results come in the order of the pieces
whatever ran them.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeVar

from thymodel.errors import Fault, InputError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_WAITING = 2  # results a thread that may wait to be taken: memory does not grow with the number of pieces
_ANSWER = 5  # seconds in which a scheduler has to answer
_PRESENT = 30  # seconds in which one worker has to be there


def in_turn(work: Callable[[_Item], _Result], items: Sequence[_Item],
            threads: int | None = None) -> Iterator[tuple[_Item, _Result]]:
    """Each piece with its result, on as many threads as the machine has cores unless told otherwise."""
    count = threads or os.cpu_count() or 1
    if items:
        yield items[0], work(items[0])  # compiles, before the threads would each begin to
    with ThreadPoolExecutor(count) as pool:
        yield from _windowed(lambda item: pool.submit(work, item), items[1:], lambda: _WAITING * count)


def on_cluster(work: Callable[[_Item], _Result], items: Sequence[_Item],
               address: str) -> Iterator[tuple[_Item, _Result]]:
    """Each piece with its result, from the workers of a Dask cluster; `work` must be one that can be pickled.

    A worker that is lost costs the pieces it held: the scheduler gives them to others. The work itself is a task too,
    so that it is sent to each worker once, and again to one that comes later.

    Raises:
        InputError: no scheduler at the address, no worker, or workers without this package; a scheduler that went away,
            or gave up on a piece because too many workers died of it.
    """
    client, where = _connected(address), f"--cluster {address}"
    try:
        tool = client.submit(_itself, work, pure=False)

        def submit(item: _Item) -> Any:
            return client.submit(_apply, tool, item, pure=False)

        def room() -> int:
            return _WAITING * max(sum(client.nthreads().values()), 1)

        yield from _windowed(submit, items, room)
    except ImportError as error:
        raise InputError([Fault(where, f"a worker cannot run the work: {error}", "install the same thymodel, with its "
                                "extra 'dask', where the workers run")]) from error
    except (_killed_worker(), CancelledError) as error:
        raise InputError([Fault(where, f"the cluster gave up ({type(error).__name__}: {_first_line(error)})",
                                "start again with the same --out: what was finished is kept there")]) from error
    finally:
        client.close()


def _killed_worker() -> type[Exception]:
    from distributed import KilledWorker

    return KilledWorker


def _itself(work):
    return work


def _apply(work, item):
    return work(item)


def _windowed(submit: Callable[[_Item], Any], items: Sequence[_Item],
              room: Callable[[], int]) -> Iterator[tuple[_Item, Any]]:
    """Submits ahead of what is taken, but not further than there is room."""
    rest, pending = iter(items), deque[tuple[_Item, Any]]()
    while True:
        while len(pending) < room() and (item := next(rest, pending)) is not pending:
            pending.append((item, submit(item)))
        if not pending:
            return
        item, future = pending.popleft()
        yield item, future.result()


def _connected(address: str):
    """A client of the scheduler, which has at least one worker."""
    where = f"--cluster {address}"
    try:
        from distributed import Client
    except ImportError:
        raise InputError([Fault(where, "Dask is not installed here", "pip install 'thymodel[dask]'")]) from None
    try:
        client = Client(address, timeout=_ANSWER, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError([Fault(where, f"no Dask scheduler there ({_first_line(error)})",
                                "start one with `dask scheduler`, and give the address that it prints")]) from error
    try:
        client.wait_for_workers(1, timeout=_PRESENT)
    except TimeoutError:
        client.close()
        raise InputError([Fault(where, f"the scheduler has had no worker for {_PRESENT} s",
                                f"start some with `dask worker {address}`")]) from None
    return client


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
