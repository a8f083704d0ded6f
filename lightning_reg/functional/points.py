"""Voxel coordinates: the identity grid, and the only conversion to the coordinates of
``grid_sample``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[np.floating]


def beside(
    values: Array | Sequence[float] | float, like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Convert numbers to a tensor on the device of ``like``, in its dtype or in ``dtype``.

    The copy to a GPU is asynchronous and cached: equal numbers are copied once. Do not change the
    result in place.
    """
    dtype = dtype or like.dtype
    if like.device.type != "cuda" or isinstance(values, Tensor):
        return torch.as_tensor(values, dtype=dtype, device=like.device)
    numbers = np.asarray(values, dtype=np.float64)
    return _on_gpu(numbers.tobytes(), numbers.shape, dtype, like.device)


@functools.lru_cache(1024)
def _on_gpu(
    numbers: bytes, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    with torch.inference_mode(False):  # so that training can use them later
        values = torch.from_numpy(np.frombuffer(numbers).reshape(shape).copy()).to(dtype)
        return values.pin_memory().to(device, non_blocking=True)


def identity_points(
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Voxel coordinates of every voxel centre of a grid.

    Args:
        shape: extents ``(I, J, K)`` (or ``(I, J)``), in voxels.

    Returns:
        ``(1, D, *shape)``; channel *a* is the index along tensor axis *a*.
    """
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def in_plane(vectors: Tensor, shape: Sequence[int]) -> Tensor:
    """Set the components along axes of one voxel to 0: nothing moves along them.

    Args:
        vectors: ``(B, D, *any)`` along the axes of a grid.
        shape: the ``D`` extents of the grid.

    Returns:
        ``(B, D, *any)``; ``vectors`` itself without such an axis.
    """
    if min(shape) > 1:
        return vectors
    extended = beside([float(n > 1) for n in shape], vectors)
    return vectors * extended.view(1, -1, *[1] * (vectors.dim() - 2))


def to_grid_sample(
    points: Tensor, shape: Sequence[int], through: NDArray[np.floating] | None = None
) -> Tensor:
    """Convert voxel coordinates to those of
    ``torch.nn.functional.grid_sample(align_corners=False)``.

    This is the only function of the project that reverses axes.

    Args:
        points: ``(B, D, *output)`` voxel coordinates of the image to be sampled, or of another
            grid.
        shape: the ``D`` extents of the image.
        through: matrices ``(B, D + 1, D + 1)`` from the voxels of that other grid to the image's.

    Returns:
        ``(B, *output, D)``: last axis reversed, -1 and 1 at the outer faces of the border voxels; a
        view with strides of its own, except on Apple's GPUs, see :func:`readable`.
    """
    dims = len(shape)
    extent = np.array([float(n) for n in shape])
    matrix = np.eye(dims + 1)[None] if through is None else np.asarray(through, dtype=np.float64)
    linear, shift = (
        2 * matrix[:, :dims, :dims] / extent[:, None],
        (2 * matrix[:, :dims, dims] + 1) / extent - 1,
    )
    factor = np.einsum("bii->bi", linear)
    if np.abs(linear - factor[:, :, None] * np.eye(dims)).max() < 1e-12:  # parallel axes
        like = (-1, dims, *[1] * (points.dim() - 2))
        middle, scale = (
            beside(values[:, ::-1].copy(), points).view(like) for values in (shift / factor, factor)
        )
        return readable((points.flip(1) + middle).mul_(scale).movedim(1, -1))
    last = np.broadcast_to(np.eye(dims + 1)[dims], (len(matrix), 1, dims + 1))
    rows = np.concatenate([linear, shift[:, :, None]], axis=2)[:, ::-1]
    return readable(transform_points(np.concatenate([rows, last], axis=1), points).movedim(1, -1))


def readable(grid: Tensor) -> Tensor:
    """A sampling grid, contiguous on Apple's GPUs: PyTorch samples volumes wrongly there at others.

    Source: https://github.com/pytorch/pytorch/issues/171602.
    """
    return grid.contiguous() if on_apple(grid) else grid


def on_apple(tensor: Tensor) -> bool:
    """Whether a tensor is on one of Apple's GPUs."""
    return tensor.device.type == "mps"


def transform_points(matrix: Array, points: Tensor) -> Tensor:
    """Apply homogeneous matrices to points.

    Args:
        matrix: ``(B, D + 1, D + 1)``, a tensor or an array; ``B`` may be 1.
        points: ``(B, D, *any)``.

    Returns:
        ``(B, D, *any)`` in the dtype of ``points``.
    """
    dims = points.shape[1]
    matrix = beside(matrix, points)
    flat = _product(matrix[:, :dims, :dims], points.flatten(2)) + matrix[:, :dims, dims:]
    return flat.view(flat.shape[0], dims, *points.shape[2:])


def transform_vectors(matrix: Array, vectors: Tensor) -> Tensor:
    """Apply the linear part of homogeneous matrices to vectors: ``(B, D + 1, D + 1)``,
    ``(B, D, *any)``.
    """
    dims = vectors.shape[1]
    matrix = beside(matrix, vectors)
    flat = _product(matrix[:, :dims, :dims], vectors.flatten(2))
    return flat.view(flat.shape[0], dims, *vectors.shape[2:])


def _product(matrix: Tensor, flat: Tensor) -> Tensor:
    """``matrix @ flat``, column by column: autocast and TF32 reduce the precision of matrix
    products, but not of this sum.
    """
    total = matrix[:, :, :1] * flat[:, :1]
    for a in range(1, flat.shape[1]):
        total = torch.addcmul(total, matrix[:, :, a : a + 1], flat[:, a : a + 1])
    return total
