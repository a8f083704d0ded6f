"""Sums and means over cubes of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def box_mean(image: Tensor, window: int) -> Tensor:
    """Mean over a cube of ``window`` (odd) voxels around each voxel, cropped to the image,
    ``(B, C, *S)``.
    """
    sums: Tensor = _BoxSum.apply(image, window)
    return sums / voxels_inside(image.shape[2:], window, image)


def box_sum(image: Tensor, window: int) -> Tensor:
    """Sum over a cube of ``window`` (odd) voxels around each voxel, zeros outside the image,
    ``(B, C, *S)``; self-adjoint.

    Axis by axis, a shifted copy of the image is added in place for every voxel of the window. On
    the CPU this is faster than cumulative sums, pooling or convolution for the window sizes used
    here. For gradients see :func:`box_mean`, which applies it in the backward pass.
    """
    for dim in range(2, image.dim()):
        sums, size = image.clone(), image.shape[dim]
        for shift in range(1, min(window // 2, size - 1) + 1):
            sums.narrow(dim, shift, size - shift).add_(image.narrow(dim, 0, size - shift))
            sums.narrow(dim, 0, size - shift).add_(image.narrow(dim, shift, size - shift))
        image = sums
    return image


def voxels_inside(shape: Sequence[int], window: int, like: Tensor) -> Tensor:
    """Count the voxels of the cube around each voxel that are inside an image of extents ``shape``;
    a tensor of this shape.
    """
    half, counts = window // 2, torch.ones((), dtype=like.dtype, device=like.device)
    for n in shape:
        index = torch.arange(n, device=like.device)
        inside = (index + half).clamp_max(n - 1) - (index - half).clamp_min(0) + 1
        counts = counts.unsqueeze(-1) * inside.to(like.dtype)
    return counts


class _BoxSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, window: int) -> Tensor:
        ctx.window = window
        return box_sum(image, window)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _BoxSum.apply(gradient, ctx.window), None
