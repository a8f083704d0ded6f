"""Estimate of the memory of a training step, from a smaller one."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_reg.components.interfaces import Growable
from lightning_reg.discovery import DataError
from lightning_reg.spatial import Displacement, Grid, Image, Pair
from lightning_reg.training.module import RegistrationModule

SMALL = 48
"""Extents, voxels, at most, of the images that are tried."""


def step_memory(method: Mapping[str, Any], shape: Sequence[int]) -> float:
    """GiB that a step of ``method.batch_size`` pairs in float32 wants: parameters, gradients, the optimiser's moments, and what the forward
    pass keeps for the backward one. Convolutions' work space comes on top.

    What is kept is counted on images of at most 48 voxels along each axis (more, where the method needs more) and grows with their number.

    Args:
        method: as in :meth:`~lightning_reg.training.module.RegistrationModule.from_configuration`.
        shape: extents of the images trained on.

    Raises:
        DataError: the method cannot be trained on images of this size.
    """
    module = RegistrationModule.from_configuration(method)
    for part in module.modules():
        if isinstance(part, Growable):
            part.grow([*[0.0] * (len(part.alpha) - 1), 1.0])  # as it is at the end, when it wants most
    parameters = sum(p.numel() * p.element_size() for p in module.parameters())
    batch, limit = int(method.get("batch_size") or 1), SMALL
    while True:
        small = [min(n, limit) for n in shape]
        try:
            kept = _kept(module, small) * math.prod(n / s for n, s in zip(shape, small, strict=True))
            return (4 * parameters + (1 if module.split_batch else batch) * kept) / 2**30
        except DataError:  # too small for its pyramid
            if list(small) == list(shape):
                raise
            limit *= 2


def _kept(module: RegistrationModule, shape: Sequence[int]) -> int:
    """Bytes that one pair's forward pass keeps, each storage counted once."""
    storages: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    pair = noise_pair(shape)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = module.loss_of(pair).total
    images = sum(image.tensor.numel() * image.tensor.element_size() for image in (pair.fixed, pair.moving))
    del total
    return sum(storages.values()) + images


def noise_pair(shape: Sequence[int]) -> Pair:
    """Noise with everything that any loss term asks for."""
    generator = torch.Generator().manual_seed(0)
    grid = Grid.regular(shape)
    images = [Image(torch.rand(1, 1, *shape, generator=generator), grid) for _ in range(2)]
    mask = Image(torch.ones(1, 1, *shape, dtype=torch.int16), grid, discrete=True)
    points = (torch.from_numpy(grid.center).float(),)
    truth = Displacement(torch.zeros(1, 3, *shape), grid)
    return Pair(images[0], images[1], mask, mask, mask, mask, points, points, truth)


class PeakMemory(TorchDispatchMode):
    """A context that counts the bytes of the tensors which operations inside it make, forward and backward.

    Attributes:
        peak: the most that were alive at a time.

    Work space inside an operation (of a convolution, say) is not seen, nor what the allocator keeps of what was freed.
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
