"""Peak memory of tensors during a computation."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_reg.registry import DataError
from lightning_reg.spatial import Displacement, Grid, Image, Pair

SMALL = 48
"""Largest extent of the images on which memory is measured, voxels."""


def noise_pair(shape: Sequence[int]) -> Pair:
    """Make a pair of noise images with all fields that loss terms may need."""
    generator = torch.Generator().manual_seed(0)
    grid = Grid.regular(shape)
    images = [Image(torch.rand(1, 1, *shape, generator=generator), grid) for _ in range(2)]
    mask = Image(torch.ones(1, 1, *shape, dtype=torch.int16), grid, discrete=True)
    points = (torch.from_numpy(grid.center).float(),)
    truth = Displacement(torch.zeros(1, 3, *shape), grid)
    return Pair(images[0], images[1], mask, mask, mask, mask, points, points, truth)


def per_voxel(shape: Sequence[int], measure: Callable[[Pair], float]) -> float:
    """Measure the memory of a computation on a pair of small noise images, per voxel.

    Args:
        shape: extents of the real images; those of the small ones are at most :data:`SMALL` or, as
            long as these are too small for the computation's pyramid, twice as many.
        measure: from the pair to the number of bytes.

    Raises:
        DataError: the real images are too small, too.
    """
    extent = SMALL
    while True:
        small = [min(n, extent) for n in shape]
        try:
            return measure(noise_pair(small)) / math.prod(small)
        except DataError:
            if extent >= max(shape):
                raise
            extent *= 2


class PeakMemory(TorchDispatchMode):
    """A context manager that counts the bytes of the tensors created inside it, forward and
    backward.

    Attributes:
        peak: largest number of bytes allocated at the same time.

    Work space inside an operation (as of a convolution) is not counted, nor freed memory that the
    allocator keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size
