"""Distances between the surfaces of two structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_reg.functional.jacobian import Spacing
from lightning_reg.functional.overlap import of_label
from lightning_reg.functional.reduce import bounding_box


class SurfaceDistance(NamedTuple):
    """Surface distances in mm.

    Attributes:
        hd95: the larger of the two directed 95th percentiles.
        assd: mean over the voxels of both surfaces.
        hd: Hausdorff distance, the maximum.
    """

    hd95: float
    assd: float
    hd: float


def surface_distance(first: Tensor, second: Tensor, spacing: Sequence[float] | float = 1.0) -> SurfaceDistance:
    """Distances between the border voxels of two masks (a border voxel has a face neighbour outside its mask).

    Args:
        first, second: ``(I, J, K)`` masks on one grid.
        spacing: voxel size, mm.

    Returns:
        NaN where a mask is empty.

    Source: HD, HD95 and ASSD as in Reinke et al., Nat. Methods 21, 2024 (from voxel borders, not from meshes).
    """
    a, b = (mask.detach().cpu().numpy().astype(bool) for mask in (first, second))
    if not a.any() or not b.any():
        return SurfaceDistance(*[float("nan")] * 3)
    start, shape = bounding_box(torch.from_numpy(a | b), (1, 1, 1))
    box = tuple(slice(first, first + extent) for first, extent in zip(start, shape, strict=True))
    a, b = a[box], b[box]
    from scipy.ndimage import binary_erosion  # imported late for a faster start-up
    from scipy.spatial import KDTree

    borders = [np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing) for mask in (a, b)]
    # k-d trees of the border voxels need less memory than a distance map of the box, and are as fast
    trees = [KDTree(border, balanced_tree=False, compact_nodes=False) for border in borders]
    to_b, to_a = trees[1].query(borders[0])[0], trees[0].query(borders[1])[0]
    hd95 = max(np.percentile(to_b, 95), np.percentile(to_a, 95))
    return SurfaceDistance(float(hd95), float(np.concatenate([to_a, to_b]).mean()), float(max(to_b.max(), to_a.max())))


def surface_distances(first: Tensor, second: Tensor, labels: Sequence[int], spacing: Spacing) -> list[SurfaceDistance]:
    """:func:`surface_distance` of every label of two label maps ``(I, J, K)``."""
    size = torch.as_tensor(spacing, dtype=torch.float64).expand(3).tolist()
    return [surface_distance(of_label(first, label), of_label(second, label), size) for label in labels]
