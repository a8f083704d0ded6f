"""Comparison of the features of two images at neighbouring positions."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def correlation_volume(first: Tensor, second: Tensor, radius: int = 1) -> Tensor:
    """Correlation of the features of one image with those of another around every voxel.

    At each voxel, the feature vectors are compared after the mean of each map over the image is
    subtracted, and their lengths are set to 1: the result is a cosine, in [-1, 1]. Positions
    outside the second image have the features of its border.

    Source: Sun et al., CVPR 2018 (PWC-Net, section 3.2, there without normalisation).

    Args:
        first, second: features, ``(B, C, *S)`` each.
        radius: largest offset along an axis, voxels.

    Returns:
        ``(B, (2 radius + 1)^D, *S)``: for the offsets ``-radius ... radius`` along every axis, the
        last axis fastest, ``cos(first(x), second(x + offset))``.
    """
    dims = first.dim() - 2
    one, other = (_normalized(features) for features in (first, second))
    padded = F.pad(other, [radius] * 2 * dims, mode="replicate")
    volumes = []
    for offset in itertools.product(range(2 * radius + 1), repeat=dims):
        shifted = padded
        for axis, (start, extent) in enumerate(zip(offset, first.shape[2:], strict=True), 2):
            shifted = shifted.narrow(axis, start, extent)
        volumes.append((one * shifted).sum(1))
    return torch.stack(volumes, dim=1)


def _normalized(features: Tensor) -> Tensor:
    """Features without their means over the image, of unit length at every voxel."""
    features = features.float()
    axes = list(range(2, features.dim()))
    features = features - features.mean(axes, keepdim=True)
    return features * (features.square().sum(1, keepdim=True) + SMALL).rsqrt()


SMALL = 1e-4
"""Added to squared lengths, so that a vector of almost no length does not count."""
