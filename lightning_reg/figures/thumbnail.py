"""Thumbnail of a registered pair."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from lightning_reg.figures.slices import (
    middle,
    mosaic,
    plane,
    planes,
    upright,
    windowed,
    world_grid,
)
from lightning_reg.spatial import Image, Pair, Transform

SIDE = 88
"""Voxels along the longest axis of the drawn grid."""
FOLDED, LESS, MORE = np.array([230, 30, 30]), np.array([40, 90, 220]), np.array([220, 120, 20])
"""Colours of folded voxels, and of a warped image that is darker or brighter than the fixed one."""


@torch.no_grad()
def thumbnail(pair: Pair, field: Transform, determinant: Tensor) -> PIL.Image.Image:
    """Axial, coronal and sagittal slices through the middle, below each other: fixed, warped, their
    difference, and folding in red.

    The middle is that of the fixed mask, or of the image. The patient's right is on the left,
    anterior and superior are up. Each image is windowed from its 1st to its 99th percentile.

    Args:
        field: fixed world to moving world.
        determinant: determinant of its Jacobian, ``(1, 1, I, J, K)``.
    """
    grid = world_grid(pair.fixed.grid, SIDE)
    jacobian = Image(determinant, pair.fixed.grid, padding=1.0)
    at = middle(pair.fixed, pair.fixed_mask, grid)
    axes = [axis for _, axis, *_ in planes(grid)]
    shown = [plane(grid, axis, at[axis]) for axis in axes]
    fixed, warped, determinants = (
        [upright(cut(grid), axis) for axis, grid in zip(axes, shown, strict=True)]
        for cut in (
            pair.fixed.resampled,
            lambda grid: pair.moving.warped(field, grid),
            jacobian.resampled,
        )
    )
    rows = []
    for axis, a, b, det in zip(axes, windowed(fixed), windowed(warped), determinants, strict=True):
        signed = 255 - np.abs(b - a) * (255 - np.where(b > a, MORE, LESS))
        folded = np.where(det.numpy()[..., None] <= 0, FOLDED, 255 * 0.6 * b)
        rows.append([(axis, panel) for panel in (255 * a, 255 * b, signed, folded)])
    return mosaic(rows, SIDE)
