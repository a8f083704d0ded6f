"""Estimate of the memory of a training step, from a smaller one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_reg.components.interfaces import Growable
from lightning_reg.discovery import DataError
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.peak import PeakMemory, noise_pair

SMALL = 48
"""Extents, voxels, at most, of the images that are tried."""


def step_memory(method: Mapping[str, Any], shape: Sequence[int]) -> float:
    """GiB that a step of ``method.batch_size`` pairs in float32 wants: parameters, gradients, the optimiser's moments, and the tensors of
    the forward and the backward pass. Convolutions' work space comes on top.

    They are counted in a step on images of at most 48 voxels along each axis (more, where the method needs more) and grow with their
    number.

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
            taken = _peak(module, small) * math.prod(n / s for n, s in zip(shape, small, strict=True))
            return (4 * parameters + (1 if module.split_batch else batch) * taken) / 2**30
        except DataError:  # too small for its pyramid
            if list(small) == list(shape):
                raise
            limit *= 2


def _peak(module: RegistrationModule, shape: Sequence[int]) -> int:
    """Bytes of one pair's step at its largest, the parameters' gradients apart."""
    with PeakMemory() as memory:
        pair = noise_pair(shape)
        module.loss_of(pair).total.backward()
    return memory.peak - sum(p.grad.numel() * p.grad.element_size() for p in module.parameters() if p.grad is not None)
