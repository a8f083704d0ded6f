"""Derivatives of transforms, and what is read off them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.functional.points import Array
from lightning_reg.functional.reduce import masked_mean

Spacing = Sequence[float] | Array | float


def spacing_tensor(spacing: Spacing, like: Tensor) -> Tensor:
    """Spacing as ``(B or 1, D)`` in the dtype and on the device of a field ``(B, D, *S)``."""
    dims = like.dim() - 2
    values = torch.as_tensor(spacing, dtype=like.dtype, device=like.device)
    return values.expand(1, dims) if values.dim() == 0 else values.view(-1, dims)


def gradient(field: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Spatial gradient by central differences (one-sided at the border).

    Args:
        field: ``(B, C, *S)``, every extent at least 2.
        spacing: voxel size per axis, ``(D,)`` or ``(B, D)``.

    Returns:
        ``(B, C, D, *S)``; entry ``[:, c, a]`` is ``d field_c / d axis a`` per unit of spacing.
    """
    dims = field.dim() - 2
    size = spacing_tensor(spacing, field)
    parts = []
    for axis in range(dims):
        n, d = field.shape[2 + axis], 2 + axis
        if n < 2:
            raise ValueError(f"gradient: axis {axis} has {n} voxel; differences need at least 2")
        inner = (field.narrow(d, 2, n - 2) - field.narrow(d, 0, n - 2)) / 2
        first = field.narrow(d, 1, 1) - field.narrow(d, 0, 1)
        last = field.narrow(d, n - 1, 1) - field.narrow(d, n - 2, 1)
        difference = torch.cat([first, inner, last], dim=d)
        parts.append(difference / size[:, axis].view(-1, *[1] * (dims + 1)))
    return torch.stack(parts, dim=2)


def jacobian(displacement: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Jacobian matrix of ``phi(x) = x + u(x)`` along the physical axes of the grid.

    Args:
        displacement: ``(B, D, *S)`` in voxels.
        spacing: voxel size per axis (mm).

    Returns:
        ``(B, D, D, *S)``; ``[:, a, b]`` is ``d phi_a / d x_b``, both in mm.
    """
    dims = displacement.dim() - 2
    size = spacing_tensor(spacing, displacement)
    matrix = gradient(displacement * size.view(*size.shape, *[1] * dims), spacing)
    return matrix + torch.eye(dims, dtype=matrix.dtype, device=matrix.device).view(1, dims, dims, *[1] * dims)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``phi``.

    It needs no spacing: with the displacement in voxels, the spacings of the two sides cancel, and it equals the
    determinant of :func:`jacobian` in mm for any spacing and direction.

    Args:
        displacement: ``(B, D, *S)`` in voxels.

    Returns:
        ``(B, 1, *S)``; below or at 0 the transform folds.
    """
    d = gradient(displacement)
    if displacement.dim() == 4:
        det = (1 + d[:, 0, 0]) * (1 + d[:, 1, 1]) - d[:, 0, 1] * d[:, 1, 0]
    else:
        (a, b, c), (e, f, g), (h, i, j) = (row.unbind(1) for row in d.unbind(1))
        a, f, j = 1 + a, 1 + f, 1 + j
        det = a * (f * j - g * i) - b * (e * j - g * h) + c * (e * i - f * h)
    return det.unsqueeze(1)


def folding_fraction(determinant: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of voxels with ``det J <= 0``, ``(B,)``; inside ``mask`` ``(B, 1, *S)`` where one is given."""
    return masked_mean((determinant <= 0).to(determinant.dtype), mask)


def sdlogj(determinant: Tensor, mask: Tensor | None = None, floor: float = 1e-9) -> Tensor:
    """Standard deviation of ``log det J``, ``(B,)``; determinants below ``floor`` count as ``floor``."""
    log = determinant.clamp_min(floor).log()
    mean = masked_mean(log, mask)
    square = (log - mean.view(-1, *[1] * (log.dim() - 1))) ** 2
    return masked_mean(square, mask).clamp_min(1e-12).sqrt()
