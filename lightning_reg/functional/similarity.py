"""Similarity of two images on one grid. Every function returns one value per batch element.

Shapes: images ``(B, C, *S)``, masks ``(B, 1, *S)`` with weights in [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional.reduce import masked_mean


def ssd(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference, ``(B,)``; 0 for equal images."""
    return masked_mean((fixed - warped) ** 2, mask)


def ncc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None, eps: float = 1e-12) -> Tensor:
    """Global normalised cross-correlation (Pearson), ``(B,)`` in [-1, 1]; 1 for images equal up to gain and offset."""
    shape = (-1, *[1] * (fixed.dim() - 1))
    f = fixed - masked_mean(fixed, mask).view(shape)
    w = warped - masked_mean(warped, mask).view(shape)
    covariance = masked_mean(f * w, mask)
    return covariance / (masked_mean(f * f, mask) * masked_mean(w * w, mask) + eps).sqrt()


def box_mean(image: Tensor, window: int) -> Tensor:
    """Mean over a cube of ``window`` (odd) voxels around each voxel, over the part of it inside the image.

    Sums by doubling along one axis after the other: about ``log2(window)`` additions a voxel and axis, several times faster on the
    CPU than poolings or convolutions.
    """
    half, result = window // 2, _BoxSum.apply(image, window)
    for axis, n in enumerate(image.shape[2:]):
        index = torch.arange(n, device=image.device)
        inside = (index + half).clamp_max(n - 1) - (index - half).clamp_min(0) + 1
        result = result * (1 / inside.to(image.dtype)).view(-1, *[1] * (image.dim() - 3 - axis))
    return result


class _BoxSum(torch.autograd.Function):
    """Sums over cubes, zeros outside; its own adjoint."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, window: int) -> Tensor:
        ctx.window = window
        half, dims = window // 2, image.dim() - 2
        for axis in range(dims):
            image = _window_sums(F.pad(image, [0, 0] * (dims - 1 - axis) + [half, half]), 2 + axis, window)
        return image

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _BoxSum.apply(gradient, ctx.window), None


def _window_sums(image: Tensor, dim: int, window: int) -> Tensor:
    """Sums of ``window`` (odd) neighbours along an axis, by doubling the length of the summed blocks."""
    size = image.shape[dim] - window + 1
    total, block, length, start = image.narrow(dim, 0, size), image, 1, 1
    while 2 * length <= window:
        count = block.shape[dim] - length
        block, length = block.narrow(dim, 0, count) + block.narrow(dim, length, count), 2 * length
        if window & length:
            total, start = total + block.narrow(dim, start, size), start + length
    return total


def lncc(fixed: Tensor, warped: Tensor, window: int = 9, mask: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """Mean over voxels of the squared local correlation in a cubic window, ``(B,)`` in [0, 1].

    Args:
        window: edge of the cube in voxels, odd.
        eps: added to the product of the local variances, so that windows flatter than a standard deviation of about 0.01 (for
            intensities in [0, 1]) hardly count.

    Source: Avants et al., Med. Image Anal. 12(1), 2008.
    """
    if window % 2 == 0:
        raise ValueError(f"lncc: window is {window}; use an odd number of voxels")
    channels = fixed.shape[1]
    means = box_mean(torch.cat([fixed, warped, fixed * fixed, warped * warped, fixed * warped], dim=1), window)
    f, w, ff, ww, fw = means.split(channels, dim=1)
    covariance = fw - f * w
    variances = (ff - f * f).clamp_min(0) * (ww - w * w).clamp_min(0)
    return masked_mean(covariance**2 / (variances + eps), mask)
