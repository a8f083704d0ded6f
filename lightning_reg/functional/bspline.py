"""Cubic B-splines on a uniform control-point lattice, in two or three dimensions.

Along each axis control point ``k`` lies at voxel ``offset + k * stride``. Lattice values extend by their border
value, so a lattice without a margin is allowed; with one (:func:`lattice_shape`) the spline is the one ITK's
``BSplineTransform`` evaluates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.functional.warp import sample


def lattice_shape(shape: Sequence[int], stride: Sequence[float]) -> tuple[int, ...]:
    """Control points per axis so that, with ``offset = -stride``, four of them surround every voxel centre."""
    return tuple(int((n - 1) / s) + 4 for n, s in zip(shape, stride, strict=True))


def cubic_weights(fraction: Tensor) -> Tensor:
    """The four cubic B-spline weights at a position ``fraction`` in [0, 1) past the second of four control points.

    Returns a new last axis of length 4; the weights sum to 1.
    """
    t = fraction
    return torch.stack([(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6], dim=-1)


def _support(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (clamped to the lattice) and weights, ``(..., 4)`` each, of the control points around lattice positions."""
    base = position.floor()
    neighbours = torch.arange(-1, 3, device=position.device)
    indices = (base.long().unsqueeze(-1) + neighbours).clamp(0, count - 1)
    return indices, cubic_weights(position - base)


def basis_matrix(count: int, size: int, stride: float, offset: float, *, like: Tensor) -> Tensor:
    """Dense matrix ``(size, count)`` that evaluates a one-dimensional spline at the voxels ``0 .. size - 1``."""
    position = (torch.arange(size, dtype=like.dtype, device=like.device) - offset) / stride
    indices, weights = _support(position, count)
    return torch.zeros(size, count, dtype=like.dtype, device=like.device).scatter_add_(1, indices, weights)


def bspline(control: Tensor, shape: Sequence[int], stride: Sequence[float], offset: Sequence[float]) -> Tensor:
    """Evaluate a tensor-product cubic B-spline at every voxel: one matrix product per axis.

    Args:
        control: ``(B, C, *L)`` control-point values (for a displacement: voxels).
        shape: extents of the dense grid.
        stride: control-point distance per axis, voxels.
        offset: position of control point 0 per axis, voxels.

    Returns:
        ``(B, C, *shape)``.

    Source: Rueckert et al., IEEE TMI 18(8), 1999.
    """
    dense = control
    with torch.autocast(control.device.type, enabled=False):
        for axis, size in enumerate(shape):
            matrix = basis_matrix(control.shape[2 + axis], size, stride[axis], offset[axis], like=control)
            dense = torch.tensordot(dense, matrix, dims=([2], [1]))  # the evaluated axis goes last; after all of them, order is restored
    return dense


def bspline_at(control: Tensor, points: Tensor, stride: Sequence[float], offset: Sequence[float]) -> Tensor:
    """Evaluate the spline of :func:`bspline` exactly at arbitrary points.

    Args:
        control: ``(B, C, *L)``.
        points: ``(B, D, *any)`` voxel coordinates.

    Returns:
        ``(B, C, *any)``.
    """
    lattice = control.shape[2:]
    batch, channels = max(control.shape[0], points.shape[0]), control.shape[1]
    near, far = [], []  # per axis: (weight, lattice position) of the two linear interpolations that hold the four weights
    for a in range(len(lattice)):
        position = (points[:, a].flatten(1) - offset[a]) / stride[a]
        base = position.floor()
        w = cubic_weights(position - base).unbind(-1)
        low, high = w[0] + w[1], w[2] + w[3]
        near.append((low, base - 1 + w[1] / low))
        far.append((high, base + 1 + w[3] / high))
    total = control.new_zeros(batch, channels, points[0, 0].numel())
    for corner in itertools.product(*zip(near, far, strict=True)):
        weight = torch.stack([c[0] for c in corner]).prod(0)
        total = total + weight.unsqueeze(1) * sample(control, torch.stack([c[1] for c in corner], dim=1), padding="border")
    return total.view(batch, channels, *points.shape[2:])
