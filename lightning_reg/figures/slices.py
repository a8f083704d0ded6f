"""Slices of registered images in three planes: grid, position, orientation, labels, landmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from lightning_reg.spatial import Grid, Image, Pair, Transform

PLANES = (("axial", 2, "PA", "RL"), ("coronal", 1, "IS", "RL"), ("sagittal", 0, "IS", "PA"))
"""Plane, its normal axis, and the letters at its bottom and top, left and right; on a grid with
axes right, anterior and superior.
"""


def planes(grid: Grid) -> list[tuple[str, int, str, str]]:
    """Those of :data:`PLANES` that are more than a line on a grid: one, if the grid is a slice."""
    return [
        one for one in PLANES if all(n > 1 for axis, n in enumerate(grid.shape) if axis != one[1])
    ]


def world_grid(grid: Grid, longest: int, finest: float = 0.0, fewest: int = 1) -> Grid:
    """An isotropic grid with axes right, anterior and superior that contains a grid.

    Args:
        longest: number of voxels along the longest axis, at most.
        finest: smallest spacing, mm.
        fewest: smallest number of voxels along an axis.
    """
    faces = torch.tensor([[-0.5, n - 0.5] for n in grid.shape], dtype=torch.float64)
    world = grid.to_world(torch.cartesian_prod(*faces).T.unsqueeze(0))[0]
    low, size = world.amin(1), world.amax(1) - world.amin(1)
    spacing = max(finest, float(size.max()) / longest)
    shape = [max(fewest, math.ceil(float(s) / spacing - 1e-6)) for s in size]
    return Grid.regular(shape, (spacing,) * 3, (low + spacing / 2).tolist())


def middle(image: Image, mask: Image | None, grid: Grid, aside: float = 0.0) -> list[int]:
    """Voxel of ``grid`` at the centre of a mask or, without one, of an image.

    Args:
        aside: shift along the first axis, in standard deviations of the mask, which is then on
            ``grid``: to cut one of two organs instead of the space between them.
    """
    center, shift = image.grid.center[0], 0.0
    if mask is not None and bool(mask.tensor.any()):
        inside = replace(mask, tensor=mask.tensor > 0)
        center = inside.center_of_mass()
        if aside:
            shift = aside * float(inside.tensor[0, 0].nonzero()[:, 0].float().std(correction=0))
    voxel = grid.to_voxel(torch.from_numpy(center).view(1, 3, 1))[0, :, 0].tolist()
    voxel[0] += shift
    return [
        min(max(math.floor(v + 0.5 + 1e-6), 0), n - 1)
        for v, n in zip(voxel, grid.shape, strict=True)
    ]


def label_maps(
    fixed: Image | None, moving: Image | None, transforms: Mapping[str, Transform], grid: Grid
) -> dict[str, Tensor]:
    """Label maps ``(I, J, K)`` on a grid, fixed and by transform; empty if one is missing."""
    if fixed is None or moving is None:
        return {}
    maps = {"fixed": fixed.resampled(grid)}
    maps |= {name: moving.warped(transform, grid) for name, transform in transforms.items()}
    return {name: image.tensor[0, 0].cpu() for name, image in maps.items()}


def landmark_errors(
    pair: Pair, transforms: Mapping[str, Transform]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Fixed landmarks and, by transform, the vectors from the mapped to the moving landmarks.

    All are ``(1, 3, N)`` RAS mm, with N = 0 without landmarks.
    """
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        none = torch.zeros(1, 3, 0, dtype=torch.float64)
        return none, dict.fromkeys(transforms, none)
    fixed, moving = (
        points[0].double().cpu().T.unsqueeze(0)
        for points in (pair.fixed_landmarks, pair.moving_landmarks)
    )
    return fixed, {
        name: moving - t.map_world(fixed.to(t.like.device)).detach().cpu()
        for name, t in transforms.items()
    }


def plane(grid: Grid, axis: int, index: int) -> Grid:
    """The slice ``index`` of a grid along ``axis``."""
    start, shape = [0, 0, 0], list(grid.shape)
    start[axis], shape[axis] = index, 1
    return grid.cropped(start, shape)


def upright(image: Image, axis: int) -> Tensor:
    """A plane as rows and columns; anterior or superior is up, the patient's left is left."""
    return image.tensor[0, 0].float().select(axis, 0).T.flip(0)


def windowed(slices: Sequence[Tensor]) -> list[np.ndarray]:
    """Slices ``(H, W)`` as ``(H, W, 1)`` in [0, 1], from the 1st to the 99th percentile of all."""
    values = torch.cat([each.flatten() for each in slices])
    low, high = (float(values.quantile(q)) for q in (0.01, 0.99))
    scale = max(high, low + 1e-6) - low
    return [((each - low) / scale).clamp(0, 1).numpy()[..., None] for each in slices]


def mosaic(rows: Sequence[Sequence[tuple[int, np.ndarray]]], side: int) -> PIL.Image.Image:
    """Join panels to a picture, each in a black square; the patient's right is on the left.

    Args:
        rows: panels ``(H, W, 1 or 3)`` from 0 to 255, with the axis that each is normal to.
        side: of the squares.
    """
    joined = [np.concatenate([_square(*panel, side) for panel in row], axis=1) for row in rows]
    return PIL.Image.fromarray(np.concatenate(joined).clip(0, 255).astype(np.uint8))


def _square(axis: int, panel: np.ndarray, side: int) -> np.ndarray:
    """A panel in the middle of a black square; all but sagittal ones (axis 0) are mirrored."""
    square = np.zeros((side, side, 3))
    top, left = (side - panel.shape[0]) // 2, (side - panel.shape[1]) // 2
    shown = panel if axis == 0 else panel[:, ::-1]
    square[top : top + panel.shape[0], left : left + panel.shape[1]] = shown
    return square
