"""Thumbnail of a registered pair."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from lightning_reg.spatial import Image, Pair, Transform
from lightning_reg.spatial.view import (
    AXES,
    SIDE,
    middle,
    mirrored,
    padded,
    plane,
    small_grid,
    upright,
    window,
)

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
    grid = small_grid(pair.fixed.grid)
    jacobian = Image(determinant, pair.fixed.grid, padding=1.0)
    at = middle(pair.fixed_mask, grid)
    planes = []
    for axis in AXES:
        shown = plane(grid, axis, at[axis])
        cut = (
            pair.fixed.resampled(shown),
            pair.moving.warped(field, shown),
            jacobian.resampled(shown),
        )
        planes.append((axis, [upright(image, axis) for image in cut]))
    windows = [window([shown[number] for _, shown in planes]) for number in (0, 1)]
    rows = []
    for axis, (fixed, warped, det) in planes:
        a, b = (
            ((v - low) / (high - low)).clamp(0, 1).numpy()[..., None]
            for v, (low, high) in zip((fixed, warped), windows, strict=True)
        )
        signed = 255 - np.abs(b - a) * (255 - np.where(b > a, MORE, LESS))
        folded = np.where(det.numpy()[..., None] <= 0, FOLDED, 255 * 0.6 * b)
        panels = [np.repeat(255 * a, 3, 2), np.repeat(255 * b, 3, 2), signed, folded]
        rows.append(
            np.concatenate([padded(mirrored(panel, axis), SIDE) for panel in panels], axis=1)
        )
    return PIL.Image.fromarray(np.concatenate(rows).clip(0, 255).astype(np.uint8))
