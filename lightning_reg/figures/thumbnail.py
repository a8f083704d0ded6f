"""Thumbnail of a registered pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from lightning_reg.spatial import Grid, Image, Pair, Transform

SIDE = 88
"""Voxels along the longest axis of the drawn grid."""
FOLDED, LESS, MORE = np.array([230, 30, 30]), np.array([40, 90, 220]), np.array([220, 120, 20])
"""Colours of folded voxels, and of a warped image that is darker or brighter than the fixed one."""


@torch.no_grad()
def thumbnail(pair: Pair, field: Transform, determinant: Tensor) -> PIL.Image.Image:
    """Axial, coronal and sagittal slices through the middle, below each other: fixed, warped, their difference, and folding in red.

    The middle is that of the fixed mask, or of the image. The patient's right is on the left, anterior and superior are up. Each image is
    windowed from its 1st to its 99th percentile.

    Args:
        field: fixed world to moving world.
        determinant: determinant of its Jacobian, ``(1, 1, I, J, K)``.
    """
    grid = _small(pair.fixed.grid)
    jacobian = Image(determinant, pair.fixed.grid, padding=1.0)
    middle = _middle(pair.fixed_mask, grid)
    planes = []
    for axis in (2, 1, 0):
        start, shape = [0, 0, 0], list(grid.shape)
        start[axis], shape[axis] = middle[axis], 1
        plane = grid.cropped(start, shape)
        cut = (pair.fixed.resampled(plane), pair.moving.warped(field, plane), jacobian.resampled(plane))
        planes.append((axis, [image.tensor[0, 0].float().select(axis, 0).T.flip(0) for image in cut]))
    windows = [_window([shown[number] for _, shown in planes]) for number in (0, 1)]
    rows = []
    for axis, (fixed, warped, det) in planes:
        a, b = (((v - low) / (high - low)).clamp(0, 1).numpy()[..., None] for v, (low, high) in zip((fixed, warped), windows, strict=True))
        signed = 255 - np.abs(b - a) * (255 - np.where(b > a, MORE, LESS))
        folded = np.where(det.numpy()[..., None] <= 0, FOLDED, 255 * 0.6 * b)
        panels = [np.repeat(255 * a, 3, 2), np.repeat(255 * b, 3, 2), signed, folded]
        if axis != 0:  # left and right: the patient's right on the left
            panels = [panel[:, ::-1] for panel in panels]
        rows.append(np.concatenate([_padded(panel, SIDE) for panel in panels], axis=1))
    return PIL.Image.fromarray(np.concatenate(rows).clip(0, 255).astype(np.uint8))


def _small(grid: Grid) -> Grid:
    """Coarse grid over the same part of the world, with axes right, anterior and superior."""
    corners = torch.tensor(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))), dtype=torch.float64)
    world = grid.to_world(corners.T.unsqueeze(0))[0]
    low, high = world.amin(1), world.amax(1)
    spacing = float((high - low).max()) / SIDE
    shape = [max(1, min(SIDE, round(float(extent) / spacing))) for extent in high - low]
    return Grid.regular((shape[0], shape[1], shape[2]), (spacing,) * 3, (low + spacing / 2).tolist())


def _middle(mask: Image | None, grid: Grid) -> list[int]:
    """Voxel of ``grid`` at the mask's centre of mass, or in the middle of ``grid``."""
    if mask is None:
        return [n // 2 for n in grid.shape]
    inside = replace(mask, tensor=mask.tensor > 0)
    point = grid.to_voxel(torch.from_numpy(inside.center_of_mass()).view(1, 3, 1))[0, :, 0].tolist()
    return [min(max(round(v), 0), n - 1) for v, n in zip(point, grid.shape, strict=True)]


def _window(slices: Sequence[Tensor]) -> tuple[float, float]:
    values = torch.cat([each.flatten() for each in slices])
    low, high = (float(values.quantile(q)) for q in (0.01, 0.99))
    return low, max(high, low + 1e-6)


def _padded(panel: np.ndarray, side: int) -> np.ndarray:
    """Centre a panel in a black square."""
    found = np.zeros((side, side, 3))
    top, left = (side - panel.shape[0]) // 2, (side - panel.shape[1]) // 2
    found[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return found
