"""Roughness of a displacement field, in mm. Every function returns one value per batch element.

Shapes: ``displacement`` ``(B, D, *S)`` in voxels of its grid, ``spacing`` in mm, ``(D,)`` or
``(B, D)``. Derivatives are those of the displacement in mm with respect to position in mm, so a
value does not depend on the grid. Along an axis of one voxel they are 0: the value is that of the
plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_reg.functional.bspline import basis_matrix
from lightning_reg.functional.derivative import first_only
from lightning_reg.functional.jacobian import Spacing, spacing_tensor
from lightning_reg.functional.precision import full_precision
from lightning_reg.functional.reduce import masked_mean


def _millimetres(displacement: Tensor, spacing: Spacing) -> Tensor:
    size = spacing_tensor(spacing, displacement)
    return displacement * size.view(*size.shape, *[1] * (displacement.dim() - 2))


def _forward_gradient(displacement: Tensor, spacing: Spacing) -> list[Tensor]:
    """Forward differences per axis of more than one voxel, ``(B, D, *S)`` less one voxel along the
    axis: unlike central ones they detect a checkerboard.
    """
    size, field = spacing_tensor(spacing, displacement), _millimetres(displacement, spacing)
    dims = displacement.dim() - 2
    return [
        field.diff(dim=2 + a) / size[:, a].view(-1, *[1] * (dims + 1)) for a in _extended(field)
    ]


def _extended(field: Tensor) -> list[int]:
    """Axes of more than one voxel."""
    return [a for a, n in enumerate(field.shape[2:]) if n > 1]


def diffusion(displacement: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Mean over voxels of ``sum_ab (d u_a / d x_b)^2`` (dimensionless), ``(B,)``. Zero for
    translations.
    """
    value: Tensor = _Diffusion.apply(displacement, spacing_tensor(spacing, displacement))
    return value


class _Diffusion(torch.autograd.Function):
    """Diffusion; only its gradient, computed with the value, is stored: the memory of one field
    instead of one per axis.
    """

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, size: Tensor) -> Tensor:
        dims = displacement.dim() - 2
        change, total = (
            torch.zeros_like(displacement),
            displacement.new_zeros(displacement.shape[0]),
        )
        for a in _extended(displacement):
            # voxel size of each component over that of the axis
            ratio = (size / size[:, a : a + 1]).square().view(-1, dims, *[1] * dims)
            step = displacement.diff(dim=2 + a)
            weighted = step * (ratio / step[0, 0].numel())
            total += (weighted * step).flatten(1).sum(1)
            change.narrow(2 + a, 1, step.shape[2 + a]).add_(weighted, alpha=2)
            change.narrow(2 + a, 0, step.shape[2 + a]).add_(weighted, alpha=-2)
        ctx.save_for_backward(change)
        return total

    @staticmethod
    @first_only("diffusion")
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (change,) = ctx.saved_tensors
        return change * upstream.view(-1, *[1] * (change.dim() - 1)), None


def total_variation(displacement: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Mean over voxels of ``sum_ab |d u_a / d x_b|``, the anisotropic L1 form, ``(B,)``.

    Source: Li & Fan, ISBI 2018 (method 5).
    """
    return (
        torch.stack([masked_mean(d.abs()) for d in _forward_gradient(displacement, spacing)]).sum(0)
        * displacement.shape[1]
    )


def isotropic_total_variation(
    displacement: Tensor, spacing: Spacing = 1.0, flat: float = 0.01
) -> Tensor:
    """Mean over voxels of ``(sum_ab (d u_a / d x_b)^2 + flat^2)^(1/2) - flat``, ``(B,)``. Zero for
    translations.

    The cost of a jump, such as between sliding organs, depends on its height and not on its
    steepness; no axis is preferred.

    Args:
        flat: the cost of gradients much smaller than this is quadratic, which the optimisation
            needs where nothing moves.

    Source: Vishnevskiy et al., IEEE TMI 36(2), 2017 (pTVreg), there for the control points of a
        B-spline.
    """
    value: Tensor = _IsotropicTotalVariation.apply(
        displacement, spacing_tensor(spacing, displacement), flat
    )
    return value


class _IsotropicTotalVariation(torch.autograd.Function):
    """Total variation as in :class:`_Diffusion`, over the voxels with a next neighbour along every
    axis of more than one.
    """

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, size: Tensor, flat: float) -> Tensor:
        dims, steps, axes = displacement.dim() - 2, [], _extended(displacement)
        square = displacement.new_full(
            (displacement.shape[0], 1, *(max(n - 1, 1) for n in displacement.shape[2:])), flat**2
        )
        for a in axes:
            step = displacement.diff(dim=2 + a)
            for b in axes:
                step = step if b == a else step.narrow(2 + b, 0, displacement.shape[2 + b] - 1)
            ratio = (size / size[:, a : a + 1]).square().view(-1, dims, *[1] * dims)
            weighted = step * ratio
            square += (weighted * step).sum(1, keepdim=True)
            steps.append(weighted)
        magnitude = square.sqrt_()
        value = magnitude.flatten(1).mean(1) - flat
        share = magnitude.reciprocal_().div_(magnitude[0].numel())
        change = torch.zeros_like(displacement)
        for a, weighted in zip(axes, steps, strict=True):
            weighted *= share
            for shift, sign in ((1, 1), (0, -1)):
                part = change
                for b in axes:
                    part = part.narrow(2 + b, shift if b == a else 0, displacement.shape[2 + b] - 1)
                part.add_(weighted, alpha=sign)
        ctx.save_for_backward(change)
        return value

    @staticmethod
    @first_only("isotropic_total_variation")
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (change,) = ctx.saved_tensors
        return change * upstream.view(-1, *[1] * (change.dim() - 1)), None, None


def _second_derivatives(
    displacement: Tensor, spacing: Spacing
) -> tuple[list[Tensor], list[Tensor]]:
    """Second derivatives in 1/mm along the axes of more than one voxel, without one voxel at each
    border: the unmixed ones, and each mixed one once.
    """
    field, size = _millimetres(displacement, spacing), spacing_tensor(spacing, displacement)
    dims, axes = field.dim() - 2, _extended(field)
    if 2 in field.shape[2:]:
        raise ValueError(
            "second derivatives need 3 voxels along every axis, or one slice; the field has"
            f" {tuple(field.shape[2:])}"
        )

    def interior(tensor: Tensor, skip: tuple[int, ...]) -> Tensor:
        for a in axes:
            if a not in skip:
                tensor = tensor.narrow(2 + a, 1, tensor.shape[2 + a] - 2)
        return tensor

    def per(tensor: Tensor, a: int, b: int) -> Tensor:
        return tensor / (size[:, a] * size[:, b]).view(-1, *[1] * (dims + 1))

    pure, mixed = [], []
    for a in axes:
        pure.append(per(interior(field, (a,)).diff(n=2, dim=2 + a), a, a))
        for b in (b for b in axes if b > a):
            along_a = field.narrow(2 + a, 2, field.shape[2 + a] - 2) - field.narrow(
                2 + a, 0, field.shape[2 + a] - 2
            )
            along_ab = along_a.narrow(2 + b, 2, field.shape[2 + b] - 2) - along_a.narrow(
                2 + b, 0, field.shape[2 + b] - 2
            )
            mixed.append(per(interior(along_ab, (a, b)) / 4, a, b))
    return pure, mixed


def bending(displacement: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Bending energy: mean over interior voxels of ``sum_abc (d^2 u_a / d x_b d x_c)^2`` in 1/mm^2,
    ``(B,)``. Zero for affine maps.

    Source: Rueckert et al., IEEE TMI 18(8), 1999, equation 3.
    """
    pure, mixed = _second_derivatives(displacement, spacing)
    energy = torch.stack(
        [masked_mean(d**2) for d in pure] + [2 * masked_mean(d**2) for d in mixed]
    ).sum(0)
    return energy * displacement.shape[1]


def bspline_bending(
    control: Tensor,
    shape: Sequence[int],
    stride: Sequence[float],
    offset: Sequence[float],
    spacing: Spacing = 1.0,
) -> Tensor:
    """:func:`bending` of a cubic B-spline from its control points alone, with exact derivatives at
    every voxel, ``(B,)``.

    Args:
        control: ``(B, D, *L)`` displacements, voxels.
        shape, stride, offset: as for :func:`lightning_reg.functional.bspline`.

    The sum of squares over the voxels is a quadratic form of the control points with one matrix per
    axis, which takes hundreds of times fewer operations than the sum itself.
    """
    dims, size = len(shape), spacing_tensor(spacing, control)
    field, grams = _millimetres(control, spacing), []
    total = control.new_zeros(control.shape[0])
    with full_precision(control):
        for a, extent in enumerate(shape):
            bases = [
                basis_matrix(
                    control.shape[2 + a], extent, stride[a], offset[a], order, like=control
                )
                for order in range(3)
            ]
            grams.append([basis.T @ basis / extent for basis in bases])
        axes = [a for a, extent in enumerate(shape) if extent > 1]
        for a in axes:
            for b in (b for b in axes if b >= a):
                orders = [int(axis == a) + int(axis == b) for axis in range(dims)]
                product = field
                for axis, order in enumerate(orders):
                    product = torch.tensordot(product, grams[axis][order], dims=([2], [1]))
                weight = (1 if a == b else 2) / (size[:, a] * size[:, b]) ** 2
                total = total + weight * (product * field).flatten(1).sum(1)
    return total


def curvature(displacement: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Curvature energy: mean over interior voxels of ``sum_a 1/2 (laplace u_a)^2`` in 1/mm^2,
    ``(B,)``. Zero for affine maps.

    Source: Fischer & Modersitzki, J. Math. Imaging Vis. 18, 2003 (method 2).
    """
    pure, _ = _second_derivatives(displacement, spacing)
    return 0.5 * masked_mean(torch.stack(pure).sum(0) ** 2) * displacement.shape[1]
