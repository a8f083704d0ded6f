"""Affine matrices from twelve parameters, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.functional.points import Array, beside


def affine_matrix(parameters: Tensor, center: Array | None = None) -> Tensor:
    """Homogeneous matrix ``T(center + translation) R S H T(-center)``.

    ``H`` (shear, unit upper triangular) acts first, then ``S`` (scale), then ``R`` (rotation).

    Args:
        parameters: ``(B, 12)``: translation (mm), rotation vector (axis times angle, radians),
            scale (factors), shear (``xy, xz, yz``, factors); three each. Identity:
            ``[0]*6 + [1]*3 + [0]*3``.
        center: ``(B, 3)`` or ``(3,)``, the fixed point of rotation, scale and shear (mm); default
            the origin.

    Returns:
        ``(B, 4, 4)``.
    """
    translation, rotation, scale, shear = parameters.double().split(3, dim=1)
    zero, one = torch.zeros_like(shear[:, 0]), torch.ones_like(shear[:, 0])
    xy, xz, yz = shear.unbind(1)
    upper = torch.stack([one, xy, xz, zero, one, yz, zero, zero, one], dim=1).view(-1, 3, 3)
    linear = rotation_matrix(rotation) @ (scale.unsqueeze(2) * upper)
    pivot = (
        torch.zeros_like(translation)
        if center is None
        else beside(center, translation).expand_as(translation)
    )
    shift = pivot + translation - (linear @ pivot.unsqueeze(2)).squeeze(2)
    last = torch.cat([torch.zeros_like(translation), one.unsqueeze(1)], dim=1).unsqueeze(1)
    matrix = torch.cat([torch.cat([linear, shift.unsqueeze(2)], dim=2), last], dim=1)
    return matrix.to(torch.promote_types(parameters.dtype, torch.float32))


def in_plane_parameters(change: Tensor, shape: Sequence[int]) -> Tensor:
    """Set changes of affine parameters ``(B, 12)`` that move points along an axis of one voxel to
    0; the axes are those of :func:`affine_matrix`, of a grid of extents ``shape``.
    """
    if min(shape) > 1:
        return change
    i, j, k = (float(n > 1) for n in shape)
    kept = [i, j, k, j * k, i * k, i * j, i, j, k, i * j, i * k, j * k]
    return change * beside(kept, change)


def affine_parameters(matrix: Tensor, center: Array | None = None) -> Tensor:
    """Compute the twelve parameters of :func:`affine_matrix` from matrices of positive determinant.

    Args:
        matrix: ``(B, 4, 4)``.
        center: as in :func:`affine_matrix`.

    Returns:
        ``(B, 12)``, scales positive, rotation angle in [0, pi].
    """
    linear, shift = matrix[:, :3, :3], matrix[:, :3, 3]
    if bool((torch.linalg.det(linear) <= 0).any()):
        raise ValueError(
            "affine_parameters: the matrix reflects (determinant not positive); it has no rotation"
            " to return"
        )
    orthogonal, upper = torch.linalg.qr(linear)
    sign = torch.diagonal(upper, dim1=1, dim2=2).sign()
    orthogonal, upper = orthogonal * sign.unsqueeze(1), sign.unsqueeze(2) * upper
    scale = torch.diagonal(upper, dim1=1, dim2=2)
    unit = upper / scale.unsqueeze(2)
    shear = torch.stack([unit[:, 0, 1], unit[:, 0, 2], unit[:, 1, 2]], dim=1)
    pivot = torch.zeros_like(shift) if center is None else beside(center, matrix).expand_as(shift)
    translation = shift - pivot + (linear @ pivot.unsqueeze(2)).squeeze(2)
    # imported late for a faster start-up
    from kornia.geometry.conversions import rotation_matrix_to_axis_angle

    return torch.cat([translation, rotation_matrix_to_axis_angle(orthogonal), scale, shear], dim=1)


def rotation_matrix(vector: Tensor) -> Tensor:
    """Rotation matrices ``(B, 3, 3)`` of rotation vectors ``(B, 3)``: Rodrigues' formula, smooth at
    zero.
    """
    x, y, z = vector.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    angle = vector.norm(dim=1).view(-1, 1, 1)
    # written out: autocast would reduce the precision of a matrix product
    outer = vector.unsqueeze(2) * vector.unsqueeze(1)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    first, second = torch.sinc(angle / torch.pi), 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2
    return identity + first * cross + second * (outer - angle**2 * identity)
