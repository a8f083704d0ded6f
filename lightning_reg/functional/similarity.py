"""Similarity of two images on one grid. Every function returns one value per batch element.

Shapes: images ``(B, C, *S)``, masks ``(B, 1, *S)`` with weights in [0, 1].
"""

from __future__ import annotations

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

    One pooling per axis, which costs ``3 window`` instead of ``window**3`` additions a voxel.
    """
    dims = image.dim() - 2
    pooling = F.avg_pool2d if dims == 2 else F.avg_pool3d
    half = window // 2
    for axis in range(dims):
        n = image.shape[2 + axis]
        kernel = [window if a == axis else 1 for a in range(dims)]
        if window <= n:
            padding = [half if a == axis else 0 for a in range(dims)]
            image = pooling(image, kernel, stride=1, padding=padding, count_include_pad=False)
        else:  # pooling refuses a kernel larger than the image
            index = torch.arange(n, device=image.device)
            inside = (index + half).clamp_max(n - 1) - (index - half).clamp_min(0) + 1
            widths = [half if a == axis else 0 for a in reversed(range(dims)) for _ in range(2)]
            share = window / inside.to(image.dtype).view([-1 if a == axis else 1 for a in range(dims)])
            image = pooling(F.pad(image, widths), kernel, stride=1) * share
    return image


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
