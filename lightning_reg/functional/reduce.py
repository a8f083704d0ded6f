"""Masked means, and the bounding box of a mask."""

from __future__ import annotations

from collections.abc import Sequence

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


def bounding_box(mask: Tensor, margin: Sequence[int] = (0, 0, 0)) -> tuple[list[int], list[int]]:
    """Bounding box of a mask.

    Args:
        mask: ``(I, J, K)`` with at least one true voxel.
        margin: voxels added on both sides of each axis, clipped to the image.

    Returns:
        First voxel and extents, the arguments of :meth:`lightning_reg.spatial.Grid.cropped`.
    """
    planes = [
        mask.any(c).any(b).nonzero() for b, c in ((1, 2), (0, 2), (0, 1))
    ]  # nonzero of the whole mask: 24 bytes per voxel
    low, high = [int(axis[0]) for axis in planes], [int(axis[-1]) for axis in planes]
    start = [max(a - m, 0) for a, m in zip(low, margin, strict=True)]
    return start, [
        min(b + m, n - 1) - a + 1
        for a, b, m, n in zip(start, high, margin, mask.shape, strict=True)
    ]
