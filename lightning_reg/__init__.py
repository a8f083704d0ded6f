"""Learning-based registration of 3D medical images."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_reg.inference.registrar import conventional, load

# OpenMP threads that wait by spinning take the cores from the data workers and from each other: where cores are shared, a
# training step then takes several times as long (docs/benchmarks.md). Read when torch is first imported; what is set already stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = version("lightning-reg")

__all__ = ["__version__", "conventional", "load"]


def __getattr__(name: str) -> Any:
    """:func:`load` and :func:`conventional`, imported when they are asked for: the package itself stays light."""
    if name in ("conventional", "load"):
        from lightning_reg.inference import registrar

        return getattr(registrar, name)
    raise AttributeError(f"module 'lightning_reg' has no attribute '{name}'")
