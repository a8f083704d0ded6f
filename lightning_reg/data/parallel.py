"""The same work on many items, by several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


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
    with ProcessPoolExecutor(min(workers, len(items)), context, _start, (work, shared)) as pool:
        futures = {pool.submit(_call, item): number for number, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_work: tuple[Callable[[Any, Any], Any], Any] | None = None


def _start(work: Callable[[Any, Any], Any], shared: Any) -> None:
    global _work
    _work = (work, shared)
    torch.set_num_threads(1)


def _call(item: Any) -> Any:
    assert _work is not None
    work, shared = _work
    return work(shared, item)
