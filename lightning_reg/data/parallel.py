"""The same work on many items, by several processes."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from lightning_reg.discovery import DataError

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


def start_method(workers: int) -> str | None:
    """Way to start a ``DataLoader``'s processes: Python's own (``None``), and ``fork`` inside joblib, whose way PyTorch does not know."""
    own = multiprocessing.get_start_method(allow_none=True)
    return "fork" if workers and own not in (None, "fork", "spawn", "forkserver") else None


def start_worker(worker: int) -> None:
    """Begin a ``DataLoader``'s process: one thread; Ctrl-C, which a terminal sends to every process, is for the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def each(work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], workers: int) -> Iterator[tuple[int, Result]]:
    """Numbers of items and what ``work(shared, item)`` made of them, in the order in which they are done.

    Args:
        work: a function of a module, so that another process finds it.
        shared: sent to each process once.
        workers: processes; 1 or less: this one.
    """
    if workers <= 1 or len(items) < 2:
        for number, item in enumerate(items):
            yield number, work(shared, item)
        return
    context = multiprocessing.get_context("spawn")  # threads of the parent make forked processes hang
    with ProcessPoolExecutor(min(workers, len(items)), context, _start, (pickle.dumps((work, shared)),)) as pool:
        futures = {pool.submit(_call, item): number for number, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], pickle.loads(future.result())
        except BrokenProcessPool as cause:
            raise DataError("A process was ended from outside, as happens where memory runs out; use fewer --workers.") from cause
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_work: tuple[Callable[[Any, Any], Any], Any] | None = None


def _start(work_and_shared: bytes) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to every process
    _work = pickle.loads(work_and_shared)
    torch.set_num_threads(1)


def _call(item: Any) -> bytes:
    """The result by value, as everything that goes to and fro: tensors that travel as they are each hold a file open."""
    assert _work is not None
    work, shared = _work
    return pickle.dumps(work(shared, item))
