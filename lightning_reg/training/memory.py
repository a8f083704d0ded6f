"""Estimate of the memory of a training step, from a step on smaller images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_reg.components.interfaces import Growable
from lightning_reg.spatial import Pair
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.peak import PeakMemory, per_voxel

WORK_SPACE = 1.08
"""Ratio of the growth of a process, whose freed memory is returned at once, to the tensors of a
step (measured: 1.07 to 1.14).
"""


def step_memory(method: Mapping[str, Any], shape: Sequence[int]) -> float:
    """Estimate the memory of a training step of ``method.batch_size`` pairs in float32, in GiB.

    The estimate includes parameters, gradients, the optimiser's moments, the tensors of the forward
    and the backward pass, and the work space of convolutions. The tensors are counted in a step on
    images of at most 48 voxels along each axis (more, if the method needs larger images) and scaled
    by the number of voxels. On a CPU, a process takes up to twice as much, because the C library
    cannot use all parts of its heap that are freed in a step.

    Args:
        method: see :meth:`~lightning_reg.training.module.RegistrationModule.from_configuration`.
        shape: extents of the training images.

    Raises:
        DataError: the method cannot be trained on images of this size.
    """
    module = RegistrationModule.from_configuration(method)
    for part in module.modules():
        if isinstance(part, Growable):
            # the final state, which needs most memory
            part.grow([*[0.0] * (len(part.alpha) - 1), 1.0])
    parameters = sum(p.numel() * p.element_size() for p in module.parameters())
    batch = 1 if module.split_batch else int(method.get("batch_size") or 1)
    tensors = math.prod(shape) * per_voxel(shape, lambda pair: _peak(module, pair))
    return (4 * parameters + WORK_SPACE * batch * tensors) / 2**30


def _peak(module: RegistrationModule, pair: Pair) -> int:
    """Measure the peak memory of a step on one pair in bytes, without the parameters' gradients."""
    with PeakMemory() as memory:
        module.loss_of(pair).total.backward()
    return memory.peak - sum(
        p.grad.numel() * p.grad.element_size() for p in module.parameters() if p.grad is not None
    )
