"""Derivatives of transforms: gradient, Jacobian, folding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.functional.points import Array, beside
from lightning_reg.functional.reduce import masked_mean

Spacing = Sequence[float] | Array | float


def spacing_tensor(spacing: Spacing, like: Tensor) -> Tensor:
    """Spacing as ``(B or 1, D)`` in the dtype and on the device of a field ``(B, D, *S)``."""
    dims = like.dim() - 2
    values = beside(spacing, like)
    return values.expand(1, dims) if values.dim() == 0 else values.view(-1, dims)


def gradient(field: Tensor, spacing: Spacing = 1.0) -> Tensor:
    """Spatial gradient by central differences (one-sided at the border).

    Args:
        field: ``(B, C, *S)``.
        spacing: voxel size per axis, ``(D,)`` or ``(B, D)``.

    Returns:
        ``(B, C, D, *S)``; entry ``[:, c, a]`` is ``d field_c / d axis a`` per unit of spacing; 0
        along an axis of one voxel.
    """
    dims = field.dim() - 2
    size = spacing_tensor(spacing, field)
    parts = []
    for axis in range(dims):
        n, d = field.shape[2 + axis], 2 + axis
        if n == 1:
            parts.append(torch.zeros_like(field))
            continue
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
    return matrix + torch.eye(dims, dtype=matrix.dtype, device=matrix.device).view(
        1, dims, dims, *[1] * dims
    )


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``phi``.

    No spacing is needed: for a displacement in voxels the spacings cancel, and the result equals
    the determinant of :func:`jacobian` in mm for any spacing and direction.

    Args:
        displacement: ``(B, D, *S)`` in voxels.

    Returns:
        ``(B, 1, *S)``; the transform folds where it is 0 or negative. An axis of one voxel does not
        count: the determinant is that of the plane.
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
    """Fraction of voxels with ``det J <= 0``, ``(B,)``; inside ``mask`` ``(B, 1, *S)`` where one is
    given.
    """
    return masked_mean((determinant <= 0).to(determinant.dtype), mask)


def sdlogj(determinant: Tensor, mask: Tensor | None = None, floor: float = 1e-9) -> Tensor:
    """Standard deviation of ``log det J``, ``(B,)``; determinants below ``floor`` count as
    ``floor``.
    """
    log = log_determinant(determinant, floor)
    mean = masked_mean(log, mask)
    square = (log - mean.view(-1, *[1] * (log.dim() - 1))) ** 2
    return masked_mean(square, mask).clamp_min(1e-12).sqrt()


def log_determinant(determinant: Tensor, floor: float = 1e-9) -> Tensor:
    """``log det J``; determinants below ``floor`` count as ``floor``."""
    return determinant.clamp_min(floor).log()


_CORNERS = tuple(itertools.product((0, 1), repeat=3))
_EVEN = tuple(corner for corner in _CORNERS if sum(corner) % 2 == 0)
_ODD = tuple(corner for corner in _CORNERS if sum(corner) % 2 == 1)


def non_diffeomorphic_volume(displacement: Tensor, mask: Tensor | None = None) -> Tensor:
    """Folded volume of ``phi(x) = x + u(x)`` as a fraction of the image's volume, ``(B,)``.

    Each cube between eight neighbouring voxel centres is divided into five tetrahedra, in both
    possible ways. ``phi`` is taken as linear on each tetrahedron; the volumes of inverted
    tetrahedra are summed, and the two ways averaged. This detects folding that central differences,
    and therefore :func:`folding_fraction`, miss. Times 100 it is the *NDV* of the LUMIR challenge
    inside a mask that does not touch the border of the image. Without a mask, the challenge repeats
    the displacement of the border beyond the image, counts this ring of cubes, too, and divides by
    the number of voxels; here cubes outside the image do not count.

    Args:
        displacement: ``(B, 3, I, J, K)`` in voxels. One slice counts as two equal
            ones: folded area.
        mask: ``(B, 1, I, J, K)``: only tetrahedra whose corner (for the middle one: the cube's
            first corner) is inside the mask are counted, as a fraction of the mask's voxels instead
            of the cubes.

    Source: Y. Liu, J. Chen, S. Wei, A. Carass, J. Prince, On finite difference Jacobian computation
    in deformable image registration, IJCV 132, 2024, section 3.3.
    """
    i, j, k = (max(n - 1, 1) for n in displacement.shape[2:])
    return folded_volume(displacement, mask) / (
        i * j * k if mask is None else (mask > 0).flatten(1).sum(1).clamp_min(1)
    )


def folded_volume(displacement: Tensor, mask: Tensor | None = None) -> Tensor:
    """Folded volume of :func:`non_diffeomorphic_volume` in voxels, ``(B,)``.

    Additive over slabs, if each slab includes the first plane of the next one.
    """
    twice = [1 + (n == 1) for n in displacement.shape[2:]]
    displacement = displacement.repeat(1, 1, *twice) if max(twice) > 1 else displacement
    mask = None if mask is None else mask.repeat(1, 1, *twice) if max(twice) > 1 else mask
    steep = torch.stack([_steepest(displacement, axis) for axis in range(3)]).sum(0)
    # elsewhere diagonal dominance excludes inversion
    batch, *where = (steep * 3 >= 1).nonzero(as_tuple=True)
    corners = {
        c: (
            displacement[batch, :, where[0] + c[0], where[1] + c[1], where[2] + c[2]]
            + displacement.new_tensor(c)
        )
        for c in _CORNERS
    }
    inside = {
        c: (
            1
            if mask is None
            else mask[batch, 0, where[0] + c[0], where[1] + c[1], where[2] + c[2]] > 0
        )
        for c in _CORNERS
    }
    folded = torch.zeros(
        displacement.shape[0], dtype=displacement.dtype, device=displacement.device
    )
    first = _CORNERS[0]
    for corner in _CORNERS:
        edges = [
            (corners[_other(corner, a)] - corners[corner]) * (1 - 2 * corner[a]) for a in range(3)
        ]
        folded.index_add_(0, batch, _turned_over(edges) * inside[corner])
    for (top, *base), sign in ((_EVEN, 1), (_ODD, -1)):
        edges = [corners[vertex] - corners[top] for vertex in base]
        folded.index_add_(0, batch, _turned_over(edges, sign) * inside[first])
    return folded / 12


def _other(corner: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The corner at the other end of the cube's edge along an axis."""
    return tuple(1 - c if a == axis else c for a, c in enumerate(corner))


def _steepest(displacement: Tensor, axis: int) -> Tensor:
    """Per cube the largest difference of any component along its four edges in the direction of an
    axis, ``(B, I - 1, J - 1, K - 1)``.
    """
    largest = displacement.diff(dim=2 + axis).abs().amax(1)
    for other in {0, 1, 2} - {axis}:
        n = largest.shape[1 + other]
        largest = torch.maximum(
            largest.narrow(1 + other, 0, n - 1), largest.narrow(1 + other, 1, n - 1)
        )
    return largest


def _turned_over(edges: Sequence[Tensor], sign: int = 1) -> Tensor:
    """Six times the volume of tetrahedra with edges ``(N, 3)`` if their orientation is negative,
    else 0.
    """
    return (-sign * torch.linalg.cross(edges[0], edges[1]).mul(edges[2]).sum(1)).clamp_min(0)
