"""Sampling of images: at points, warping, splatting, pooling, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lightning_reg.functional.points import beside, identity_points, readable, to_grid_sample
from lightning_reg.functional.precision import full_precision

Interpolation = Literal["linear", "nearest"]
Padding = float | Literal["border"]
_MODES = {"linear": "bilinear", "nearest": "nearest"}


def sample(
    image: Tensor,
    points: Tensor,
    mode: Interpolation = "linear",
    padding: Padding = 0.0,
    through: NDArray[np.floating] | None = None,
) -> Tensor:
    """Read an image at arbitrary points.

    Args:
        image: ``(B, C, *S)`` with two or three spatial axes; ``B`` may be 1 for a batch of point
            sets.
        points: ``(B, D, *output)`` voxel coordinates of ``image``, where ``output`` has any number
            of axes.
        mode: ``linear`` or ``nearest``.
        padding: the value of the image outside (linear interpolation blends into it over half a
            voxel around the outer faces), or ``border`` to repeat the border voxels.
        through: matrices ``(B, D + 1, D + 1)`` to voxels of ``image``, if the points are given in
            voxels of another grid.

    Returns:
        ``(B, C, *output)``, in the dtype of ``points`` for ``linear`` and of ``image`` for
        ``nearest``.
    """
    shape = image.shape[2:]
    dims = len(shape)
    if points.shape[1] != dims:
        raise ValueError(
            f"sample: points have {points.shape[1]} coordinates for an image of {dims} axes; pass"
            f" (B, {dims}, ...)"
        )
    output = points.shape[2:]
    grid = to_grid_sample(points, shape, through)
    if len(output) != dims:
        grid = grid.reshape(grid.shape[0], -1, *[1] * (dims - 1), dims)
    batch = max(image.shape[0], grid.shape[0])
    grid = readable(grid.expand(batch, *grid.shape[1:]))
    values = image.to(points.dtype).expand(batch, *image.shape[1:])
    if isinstance(padding, str):
        result = _grid_sample(values, grid, _MODES[mode], padding)
    elif padding == 0:
        result = _grid_sample(values, grid, _MODES[mode], "zeros")
    else:
        result = _grid_sample(values - padding, grid, _MODES[mode], "zeros") + padding
    result = result.reshape(batch, image.shape[1], *output)
    return result.to(image.dtype) if mode == "nearest" else result


def _grid_sample(values: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    """``grid_sample`` with its first output axis split over the threads: on the CPU, PyTorch
    parallelises only over the batch.
    """
    batch, first = grid.shape[:2]
    pieces = torch.get_num_threads() // batch if values.device.type == "cpu" else 1
    while pieces > 1 and first % pieces:
        pieces -= 1
    if pieces <= 1:
        return F.grid_sample(values, grid, mode=mode, padding_mode=padding, align_corners=False)
    split = grid.reshape(batch * pieces, first // pieces, *grid.shape[2:])
    repeated = (
        values.unsqueeze(1).expand(batch, pieces, *values.shape[1:]).reshape(-1, *values.shape[1:])
    )
    result = F.grid_sample(repeated, split, mode=mode, padding_mode=padding, align_corners=False)
    return result.unflatten(0, (batch, pieces)).movedim(1, 2).flatten(2, 3)


def warp(
    image: Tensor, displacement: Tensor, mode: Interpolation = "linear", padding: Padding = 0.0
) -> Tensor:
    """Pull an image through a displacement: ``warped(x) = image(x + u(x))``.

    Args:
        image: ``(B, C, *S)``.
        displacement: ``(B, D, *S)`` in voxels; component *a* moves along tensor axis *a*.
        mode, padding: see :func:`sample`.

    Returns:
        ``(B, C, *S)``.
    """
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    points = displacement + identity_points(
        displacement.shape[2:], dtype=displacement.dtype, device=displacement.device
    )
    return sample(image, points, mode, padding)


def splat(image: Tensor, displacement: Tensor) -> Tensor:
    """Push an image through a displacement: every voxel deposits its value at ``x + u(x)``.

    The adjoint of :func:`warp` with linear interpolation and zero padding:
    ``<splat(a, u), b> = <a, warp(b, u)>``. Divide by ``splat(ones, u)`` for a forward warp.

    Args and result as :func:`warp`. Not differentiable in ``displacement``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        target = torch.zeros_like(image, requires_grad=True)
        pulled = warp(target, displacement.detach())
        (pushed,) = torch.autograd.grad(pulled, target, image, create_graph=image.requires_grad)
    return pushed


def pool(image: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Average-pool by whole factors; coarse index ``c`` lies at fine index ``f c + (f - 1) / 2``.

    Args:
        image: ``(B, C, *S)`` whose extents the factors divide.
        factor: one for all axes, or one per axis.
    """
    dims = image.dim() - 2
    kernel = [factor] * dims if isinstance(factor, int) else list(factor)
    if any(n % f for n, f in zip(image.shape[2:], kernel, strict=True)):
        raise ValueError(
            f"pool: extents {tuple(image.shape[2:])} are not multiples of {kernel}; pad the image"
            " first"
        )
    if all(f == 1 for f in kernel):
        return image
    return (F.avg_pool2d if dims == 2 else F.avg_pool3d)(image, kernel)


def resize(image: Tensor, shape: Sequence[int], mode: Interpolation = "linear") -> Tensor:
    """Resample to another number of voxels over the same extent (outer faces stay where they are).

    Args:
        image: ``(B, C, *S)``.
        shape: the new extents.

    Returns:
        ``(B, C, *shape)``. Linear interpolation does not low-pass: :func:`pool` by whole factors
        first.
    """
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    # autocast would convert features to float32, and tensors joined to them
    with full_precision(image):
        if mode == "nearest":
            values = image if image.is_floating_point() else image.float()
            # the same, and supported by ONNX
            whole = all(n % m == 0 for n, m in zip(shape, image.shape[2:], strict=True))
            return F.interpolate(
                values, size=tuple(shape), mode="nearest" if whole else "nearest-exact"
            ).to(image.dtype)
        linear = "bilinear" if image.dim() == 4 else "trilinear"
        return F.interpolate(image, size=tuple(shape), mode=linear, align_corners=False)


def resize_displacement(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize a displacement; its values are multiplied by the ratio of the extents, so it stays in
    voxels of its grid.

    Args:
        displacement: ``(B, D, *S)`` in voxels of the grid ``S``.
        shape: the new extents.

    Returns:
        ``(B, D, *shape)`` in voxels of the new grid.
    """
    old = displacement.shape[2:]
    ratio = beside([n / o for n, o in zip(shape, old, strict=True)], displacement)
    return resize(displacement, shape) * ratio.view(1, -1, *[1] * len(old))
