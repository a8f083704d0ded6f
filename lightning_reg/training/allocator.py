"""Memory of a training on a CPU, from the C library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``."""


def keep_freed_memory(trainer: Mapping[str, Any]) -> bool:
    """Have glibc keep what tensors free, for the next step, where the training is on a CPU.

    It gives blocks of some MiB back to the system otherwise, which clears every page anew when they are asked for: a tenth to a third of a
    step's time. The process's memory stays at its largest, which is some tenth larger (``docs/benchmarks.md``).

    Args:
        trainer: settings, of which ``accelerator`` counts.

    Returns:
        Whether it does from now on, for the whole process.
    """
    on_gpu = trainer.get("accelerator") in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if on_gpu or mallopt is None:
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))
