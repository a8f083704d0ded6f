"""Learning-based registration of 3D medical images."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_reg.inference.registrar import conventional, load

# Threads of GNU OpenMP wait by spinning for a few microseconds and then sleep. Spinning on takes the cores from data workers and other
# processes, and not spinning costs a sixth of a step (docs/benchmarks.md). Read when torch is first imported; what is set already stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = version("lightning-reg")

__all__ = ["__version__", "conventional", "load"]


def __getattr__(name: str) -> Any:
    """:func:`load` and :func:`conventional`, imported when they are asked for: the package itself stays light."""
    if name in ("conventional", "load"):
        from lightning_reg.inference import registrar

        return getattr(registrar, name)
    raise AttributeError(f"module 'lightning_reg' has no attribute '{name}'")
