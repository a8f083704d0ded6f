"""Cost of a training step, measured on a small image."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_reg.training.memory import step_memory
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.peak import noise_pair


def step_cost(method: Mapping[str, Any], shape: Sequence[int]) -> tuple[float, float]:
    """Seconds and bytes of a training step per voxel of the images, on this machine.

    Args:
        method: see :meth:`~lightning_reg.training.module.RegistrationModule.from_configuration`.
        shape: extents of the images of the measured step; the cost of a larger image is in
            proportion.
    """
    module = RegistrationModule.from_configuration(method).train()
    pair = noise_pair(shape)
    seconds = math.inf
    for _ in range(3):  # the first one is slower
        started = time.perf_counter()
        module.training_loss(pair).total.backward()
        module.zero_grad(set_to_none=True)
        seconds = min(seconds, time.perf_counter() - started)
    voxels = math.prod(shape)
    return seconds / voxels, step_memory(method, shape) * 2**30 / voxels
