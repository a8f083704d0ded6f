"""Cubic B-splines on a uniform control-point lattice, in two or three dimensions.

Along each axis control point ``k`` is at voxel ``offset + k * stride``. Outside the lattice its
border values are repeated, so a lattice needs no margin. With the margin of :func:`lattice_shape`
the spline equals that of ITK's ``BSplineTransform``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.functional.precision import full_precision
from lightning_reg.functional.warp import sample


def lattice_shape(shape: Sequence[int], stride: Sequence[float]) -> tuple[int, ...]:
    """Control points per axis so that, with ``offset = -stride``, four of them surround every voxel
    centre.
    """
    return tuple(int((n - 1) / s) + 4 for n, s in zip(shape, stride, strict=True))


def cubic_weights(fraction: Tensor, derivative: int = 0) -> Tensor:
    """The four cubic B-spline weights at a position ``fraction`` in [0, 1) past the second of four
    control points.

    Args:
        derivative: 0 for the spline, 1 or 2 for its first or second derivative with respect to the
            position.

    Returns a new last axis of length 4; the weights sum to 1, those of a derivative to 0.
    """
    t = fraction
    if derivative == 2:
        weights = [1 - t, 3 * t - 2, 1 - 3 * t, t]
    elif derivative == 1:
        weights = [
            -((1 - t) ** 2) / 2,
            (3 * t**2 - 4 * t) / 2,
            (-3 * t**2 + 2 * t + 1) / 2,
            t**2 / 2,
        ]
    else:
        weights = [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ]
    return torch.stack(weights, dim=-1)


def basis_matrix(
    count: int, size: int, stride: float, offset: float, derivative: int = 0, *, like: Tensor
) -> Tensor:
    """Dense matrix ``(size, count)`` that evaluates a 1D spline, or its derivative per voxel, at
    the voxels ``0 .. size - 1``.
    """
    position = (torch.arange(size, dtype=like.dtype, device=like.device) - offset) / stride
    base = position.floor()
    neighbours = torch.arange(-1, 3, device=position.device)
    indices = (base.long().unsqueeze(-1) + neighbours).clamp(0, count - 1)
    weights = cubic_weights(position - base, derivative) / stride**derivative
    return torch.zeros(size, count, dtype=like.dtype, device=like.device).scatter_add_(
        1, indices, weights
    )


def bspline(
    control: Tensor, shape: Sequence[int], stride: Sequence[float], offset: Sequence[float]
) -> Tensor:
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
    with full_precision(control):
        for axis, size in enumerate(shape):
            matrix = basis_matrix(
                control.shape[2 + axis], size, stride[axis], offset[axis], like=control
            )
            # the axis moves to the end; the last step restores the order
            dense = torch.tensordot(dense, matrix, dims=([2], [1]))
    return dense


def bspline_at(
    control: Tensor, points: Tensor, stride: Sequence[float], offset: Sequence[float]
) -> Tensor:
    """Evaluate the spline of :func:`bspline` exactly at arbitrary points.

    Args:
        control: ``(B, C, *L)``.
        points: ``(B, D, *any)`` voxel coordinates.

    Returns:
        ``(B, C, *any)``.
    """
    lattice = control.shape[2:]
    batch, channels = max(control.shape[0], points.shape[0]), control.shape[1]
    near, far = (
        [],
        [],
        # per axis: (weight, lattice position) of the two linear interpolations that replace the
        # four weights
    )
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
        total = total + weight.unsqueeze(1) * sample(
            control, torch.stack([c[1] for c in corner], dim=1), padding="border"
        )
    return total.view(batch, channels, *points.shape[2:])


def subdivide(control: Tensor, shape: Sequence[int]) -> Tensor:
    """Refine a spline to half the control-point distance (exact, by the two-scale relation).

    Args:
        control: ``(B, C, *L)`` of a lattice with one stride of margin before voxel 0
            (``offset = -stride``).
        shape: control points of the finer lattice, whose own offset is minus its stride; see
            :func:`lattice_shape`.

    Returns:
        ``(B, C, *shape)``. After the end of the coarse lattice its last values are repeated.

    Source: Forsey & Bartels, SIGGRAPH 1988.
    """
    for axis, size in enumerate(shape):
        dim = 2 + axis
        count = (size + 1) // 2 + 2  # coarse control points that the fine ones depend on
        last = control.narrow(dim, control.shape[dim] - 1, 1)
        coarse = torch.cat([control, *[last] * (count - control.shape[dim])], dim=dim).narrow(
            dim, 0, count
        )
        before, here, after = (coarse.narrow(dim, start, count - 2) for start in range(3))
        between, on = (before + here) / 2, (before + 6 * here + after) / 8
        control = torch.stack([between, on], dim=dim + 1).flatten(dim, dim + 1).narrow(dim, 0, size)
    return control
