"""Memory allocator settings for training on a CPU."""

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
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if on_gpu or mallopt is None:
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))
