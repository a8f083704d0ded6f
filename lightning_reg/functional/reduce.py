"""Means over voxels, inside a mask or not."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over all axes but the batch, weighted by a mask.

    Args:
        values: ``(B, C, *S)``.
        mask: ``(B, 1, *S)``, weights in [0, 1]; ``None`` counts every voxel.

    Returns:
        ``(B,)``; 0 where a mask is empty.
    """
    if mask is None:
        return values.flatten(1).mean(1)
    weight = mask.to(values.dtype).expand_as(values)
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
