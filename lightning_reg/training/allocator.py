"""Memory that the C library (glibc) keeps, or returns to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``."""


def keep_freed_memory(trainer: Mapping[str, Any]) -> bool:
    """Let glibc keep the memory freed by tensors for the next step, if the training runs on a CPU.

    By default, glibc returns blocks of some MiB to the system, which clears every page when the
    memory is allocated again: this takes a tenth to a third of a step's time. With this setting,
    the process keeps its peak memory, which is about a tenth larger (``docs/benchmarks.md``).

    Args:
        trainer: settings of the trainer, of which ``accelerator`` is used.

    Returns:
        Whether the setting is active, for the whole process.
    """
    on_gpu = (
        trainer.get("accelerator") in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()
    )
    mallopt = _glibc("mallopt")
    if on_gpu or mallopt is None:
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))


def give_memory_back() -> None:
    """Return freed memory to the system.

    glibc retains freed memory in fragments, so that a process that registers many pairs would
    grow.
    """
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
