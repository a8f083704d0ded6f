"""Distances between the surfaces of two structures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_reg.functional.jacobian import Spacing
from lightning_reg.functional.overlap import of_label
from lightning_reg.functional.reduce import bounding_box

Floats = NDArray[np.float64]


class SurfaceDistance(NamedTuple):
    """Surface distances in mm. Every surface element counts by its area.

    Attributes:
        hd95: the larger of the two directed 95th percentiles.
        assd: mean of the two directed mean distances.
        hd: Hausdorff distance, the maximum.
    """

    hd95: float
    assd: float
    hd: float


def surface_distance(
    first: Tensor, second: Tensor, spacing: Sequence[float] | float = 1.0
) -> SurfaceDistance:
    """Distances between the surfaces of two masks.

    A surface element lies at every corner of voxels whose eight neighbours are partly inside the
    mask. Its area is that of marching cubes through these neighbours. Outside the image there is no
    mask, but one slice continues without end: its surface is the contour.

    Args:
        first, second: ``(I, J, K)`` masks on one grid.
        spacing: voxel size, mm.

    Returns:
        NaN where a mask is empty.

    Source: S. Nikolov et al., J. Med. Internet Res. 23(7), 2021, and their package
    https://github.com/google-deepmind/surface-distance, with which the Learn2Reg and LUMIR
    challenges measure. Reinke et al., Nat. Methods 21, 2024, call this ``assd`` MASD.
    """
    a, b = (mask.detach().cpu().numpy().astype(bool) for mask in (first, second))
    if not a.any() or not b.any():
        return SurfaceDistance(*[float("nan")] * 3)
    start, shape = bounding_box(torch.from_numpy(a | b), (1, 1, 1))
    box = tuple(slice(first, first + extent) for first, extent in zip(start, shape, strict=True))
    from scipy.spatial import KDTree  # imported late for a faster start-up

    size = np.broadcast_to(np.asarray(spacing, dtype=np.float64), 3)
    (points, areas), (others, of_others) = (_surface_elements(mask[box], size) for mask in (a, b))
    # k-d trees of the elements need less memory than a distance map of the box, and are as fast
    trees = [KDTree(each, balanced_tree=False, compact_nodes=False) for each in (points, others)]
    to_b, to_a = trees[1].query(points)[0], trees[0].query(others)[0]
    hd95 = max(_percentile(to_b, areas, 0.95), _percentile(to_a, of_others, 0.95))
    assd = (to_b @ areas / areas.sum() + to_a @ of_others / of_others.sum()) / 2
    return SurfaceDistance(hd95, float(assd), float(max(to_b.max(), to_a.max())))


def _surface_elements(mask: NDArray[np.bool_], spacing: Floats) -> tuple[Floats, Floats]:
    """Positions ``(N, 3)`` in mm and areas ``(N,)`` in mm^2 of the surface elements of a mask."""
    from torchmetrics.functional.segmentation.utils import get_neighbour_tables

    flat = [n == 1 for n in mask.shape]
    wide = np.pad(mask, [(0 if one else 1,) * 2 for one in flat]).astype(np.uint8)
    wide = np.tile(wide, [2 if one else 1 for one in flat])
    i, j, k = (n - 1 for n in wide.shape)
    code = np.zeros((i, j, k), np.uint8)  # of the eight neighbours, a bit each
    for a, b, c in itertools.product((0, 1), repeat=3):
        code = 2 * code + wide[a : a + i, b : b + j, c : c + k]
    on_surface = (code > 0) & (code < 255)
    area_by_code = get_neighbour_tables(tuple(spacing.tolist()))[0].double().numpy()
    return np.argwhere(on_surface) * spacing, area_by_code[code[on_surface]]


def _percentile(distances: Floats, areas: Floats, share: float) -> float:
    """The smallest distance that is not exceeded on ``share`` of the area."""
    order = np.argsort(distances)
    reached = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[min(int(np.searchsorted(reached, share)), len(order) - 1)]])


def surface_distances(
    first: Tensor, second: Tensor, labels: Sequence[int], spacing: Spacing
) -> list[SurfaceDistance]:
    """:func:`surface_distance` of every label of two label maps ``(I, J, K)``."""
    size = torch.as_tensor(spacing, dtype=torch.float64).expand(3).tolist()
    return [
        surface_distance(of_label(first, label), of_label(second, label), size) for label in labels
    ]
