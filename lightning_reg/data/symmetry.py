"""Flips and right-angled rotations of a pair, exact and without interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_reg.functional import transform_points
from lightning_reg.spatial import Displacement, Grid, Image, Pair


def rotated(pair: Pair, axes: Sequence[int], flips: Sequence[bool]) -> Pair:
    """Rotate and mirror the world of a pair about the centre of the fixed image.

    The axes of the fixed image keep their directions in the world. The axes of the moving image are
    permuted and reversed in the same way, and its header keeps its position relative to the fixed
    image.

    Args:
        axes: axis *k* of the result is the original's axis ``axes[k]`` ...
        flips: ... reversed where ``flips[k]``.
    """
    grid = pair.fixed.grid
    around = Grid(_shape(grid, axes), _similar(grid, axes))
    # a point of the new world to where it was
    to_original = grid.affine @ _index_map(grid, axes, flips) @ around.inverse
    from_original = np.linalg.inv(to_original)

    def image(_: str, image: Image) -> Image:
        stored = reordered(image, axes, flips)
        return replace(stored, grid=Grid(stored.grid.shape, from_original @ stored.grid.affine))

    def points(_: str, points: Tensor) -> Tensor:
        return transform_points(from_original, points.double().T[None])[0].T.to(points)

    turned = pair.changed(image, points)
    if pair.truth is None:
        return turned
    field = _permuted(pair.truth.field[:, list(axes)], axes, flips)
    signs = field.new_tensor([-1.0 if flip else 1.0 for flip in flips]).view(1, 3, 1, 1, 1)
    return replace(turned, truth=Displacement(field * signs, turned.fixed.grid))


def reordered(image: Image, axes: Sequence[int], flips: Sequence[bool]) -> Image:
    """The image stored with other axes, see :func:`rotated`, at its place in the world."""
    grid = Grid(_shape(image.grid, axes), image.grid.affine @ _index_map(image.grid, axes, flips))
    return replace(image, tensor=_permuted(image.tensor, axes, flips), grid=grid)


def _shape(grid: Grid, axes: Sequence[int]) -> tuple[int, int, int]:
    i, j, k = (grid.shape[axis] for axis in axes)
    return i, j, k


def _similar(grid: Grid, axes: Sequence[int]) -> NDArray[np.floating]:
    """Affine with a grid's directions and centre, and its permuted voxel sizes."""
    spacing = grid.spacing[0]
    affine = grid.affine.copy()
    affine[0, :3, :3] = affine[0, :3, :3] / spacing * spacing[list(axes)]
    middle = np.array([(n - 1) / 2 for n in _shape(grid, axes)])
    affine[0, :3, 3] = grid.center[0] - affine[0, :3, :3] @ middle
    return affine


def _index_map(grid: Grid, axes: Sequence[int], flips: Sequence[bool]) -> NDArray[np.floating]:
    """Return the matrix ``(4, 4)`` from voxels of the result to voxels of the original."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for k, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[axis, k] = -1.0 if flip else 1.0
        matrix[axis, 3] = grid.shape[axis] - 1 if flip else 0.0
    return matrix


def _permuted(tensor: Tensor, axes: Sequence[int], flips: Sequence[bool]) -> Tensor:
    permuted = tensor.permute(0, 1, *(2 + axis for axis in axes))
    return permuted.flip([2 + k for k, flip in enumerate(flips) if flip]).contiguous()
