"""Random numbers and smooth random functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.functional import bspline, lattice_shape, resize


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw a number between ``low`` and ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw a number between ``low`` and ``high`` whose logarithm is uniformly distributed."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def chance(generator: torch.Generator, probability: float) -> bool:
    """Draw true with a probability."""
    return uniform(generator, 0, 1) < probability


def smooth_noise(
    shape: Sequence[int], scale: float, channels: int, generator: torch.Generator, octaves: int = 1
) -> Tensor:
    """Draw smooth random functions: cubic B-splines of normally distributed control points.

    Args:
        shape: extents, voxels.
        scale: distance of the control points, voxels.
        channels: number of functions.
        octaves: fractal noise from 2 on: control points at half the distance add half the
            amplitude, and so on, down to a distance of 1.5 voxels.

    Returns:
        ``(1, channels, *shape)`` of mean 0; the standard deviation of one octave is about 1.
    """
    control: Tensor | None = None
    for octave in range(octaves):
        distance = scale / 2**octave
        if octave and distance < 1.5:
            break
        stride = [min(distance, max(n - 1, 1)) for n in shape]
        lattice = lattice_shape(shape, stride)
        random = torch.randn(1, channels, *lattice, generator=generator, device=generator.device)
        coarser = 0.0 if control is None else resize(control, lattice)
        control = coarser + random / 2**octave
    assert control is not None
    return bspline(control, shape, stride, [-s for s in stride]) / SPREAD


SPREAD = math.sqrt((151 / 315) ** 3)
"""Standard deviation of a 3D spline of independent control points of unit variance, averaged over
positions.

The integral of the squared cubic B-spline is 151 / 315 per axis.
"""
