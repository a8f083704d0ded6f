"""Parallel processing of many items by several processes."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from lightning_reg.registry import DataError

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


def start_method(workers: int) -> str | None:
    """Return a ``DataLoader``'s start method: Python's default (``None``), or ``fork`` under
    joblib, whose method PyTorch does not know.
    """
    own = multiprocessing.get_start_method(allow_none=True)
    return "fork" if workers and own not in (None, "fork", "spawn", "forkserver") else None


def start_worker(worker: int) -> None:
    """Initialise a ``DataLoader``'s process: one thread; the training handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def each(
    work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Result]]:
    """Yield the number of each item and the result of ``work(shared, item)``, in order of
    completion.

    Args:
        work: a function at module level, so that it can be pickled.
        shared: sent to each process once.
        workers: number of processes; 1 or less: the current process.
    """
    if workers <= 1 or len(items) < 2:
        for number, item in enumerate(items):
            yield number, work(shared, item)
        return
    # forked processes can hang if the parent has threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(items)), context, _start, (pickle.dumps((work, shared)),)
    ) as pool:
        futures = {pool.submit(_call, item): number for number, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], pickle.loads(future.result())
        except BrokenProcessPool as cause:
            raise DataError(
                "A process was ended from outside, as happens where memory runs out; use fewer"
                " `workers`."
            ) from cause
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_work: tuple[Callable[[Any, Any], Any], Any] | None = None


def _start(work_and_shared: bytes) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process
    _work = pickle.loads(work_and_shared)
    torch.set_num_threads(1)


def _call(item: Any) -> bytes:
    """Pickle the result by value: each tensor shared by processes keeps a file open."""
    assert _work is not None
    work, shared = _work
    return pickle.dumps(work(shared, item))
