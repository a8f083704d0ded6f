"""Transforms with a displacement per voxel or per control point."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional import beside, bspline, bspline_at, exponentiate, invert, sample
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.transforms import (
    Affine,
    Change,
    Composition,
    Identity,
    Transform,
    parts,
    precise,
)


class SampledTransform(Transform):
    """Base class of transforms with a displacement per voxel of :attr:`grid`: linear in between,
    border repeated outside.

    Attributes:
        field: the displacement, ``(B, 3, I, J, K)`` voxels of ``grid``.
    """

    field: Tensor

    @abstractmethod
    def __init__(self, field: Tensor, grid: Grid) -> None:
        if tuple(field.shape[2:]) != grid.shape or field.shape[1] != 3:
            raise ValueError(
                f"{type(self).__name__}: field {tuple(field.shape)} does not lie on {grid};"
                " expected (B, 3, I, J, K)"
            )
        self.field, self.grid = precise(field), grid

    def map_voxels(self, points: Tensor) -> Tensor:
        return points + sample(self.field.to(points.dtype), points, padding="border")

    def known(self, grid: Grid) -> Tensor | None:
        """A slice of the field, without interpolation, if the grid is a part of :attr:`grid`."""
        if grid.matches(self.grid):
            return self.field
        start = grid.begins_in(self.grid)
        if start is None:
            return None
        (a, b, c), (i, j, k) = start, grid.shape
        return self.field[:, :, a : a + i, b : b + j, c : c + k]

    @property
    def like(self) -> Tensor:
        return self.field


class Displacement(SampledTransform):
    """A displacement per voxel.

    Args:
        field: ``(B, 3, I, J, K)`` voxels of ``grid``.
    """

    def __init__(self, field: Tensor, grid: Grid) -> None:
        super().__init__(field, grid)

    def mapped(self, change: Change) -> Displacement:
        return Displacement(change(self.field), self.grid)

    def inverse(self) -> Displacement:
        return Displacement(invert(self.field).displacement, self.grid)

    def extended(self, before: Sequence[int], after: Sequence[int]) -> Displacement:
        """The same transform on a grid with additional voxels at the two ends of each axis, where
        the border is repeated.
        """
        field = _repeated(self.field, before, after)
        return Displacement(field, self.grid.cropped([-b for b in before], field.shape[2:]))


class Velocity(SampledTransform):
    """The flow of a stationary velocity field over unit time; invertible by construction.

    Args:
        velocity: ``(B, 3, I, J, K)`` voxels of ``grid`` per unit time.
        squarings: number of squarings, see :func:`lightning_reg.functional.exponentiate`.
    """

    def __init__(self, velocity: Tensor, grid: Grid, squarings: int = 7) -> None:
        super().__init__(exponentiate(precise(velocity), squarings), grid)
        self.velocity, self.squarings = velocity, squarings

    def mapped(self, change: Change) -> Velocity:
        return Velocity(change(self.velocity), self.grid, self.squarings)

    def inverse(self) -> Velocity:
        return Velocity(-self.velocity, self.grid, self.squarings)


class IntegratedGradient(SampledTransform):
    """Transform whose coordinates are the integrals of positive gradients: coordinate *a* never
    decreases along axis *a*.

    ``phi_a(x) = sum of gradient_a over the voxels from the first one to x along axis a, minus 1``;
    a gradient of 1 is the identity.

    Args:
        gradient: ``(B, 3, I, J, K)``, of coordinate *a* along axis *a*: the distances between the
            mapped positions of consecutive voxels, in voxels of ``grid``; at least 0.

    Source: Christodoulidis et al., 2018, Section 2.1 (method 4).
    """

    def __init__(self, gradient: Tensor, grid: Grid) -> None:
        excess = precise(gradient) - 1
        super().__init__(torch.stack([excess[:, a].cumsum(1 + a) for a in range(3)], dim=1), grid)
        self.gradient = gradient

    def inverse(self) -> Displacement:
        return Displacement(invert(self.field).displacement, self.grid)

    def mapped(self, change: Change) -> IntegratedGradient:
        return IntegratedGradient(change(self.gradient), self.grid)


class BSpline(Transform):
    """Cubic B-spline free-form deformation.

    Args:
        control: ``(B, 3, *lattice)`` displacements of the control points, voxels of ``grid``.
        stride: control-point distance per axis, voxels.
        offset: voxel position of control point 0 per axis; default one stride outside the grid, as
            in :func:`lightning_reg.functional.lattice_shape` and ITK.
    """

    def __init__(
        self,
        control: Tensor,
        grid: Grid,
        stride: Sequence[float],
        offset: Sequence[float] | None = None,
    ) -> None:
        if control.dim() != 5 or control.shape[1] != 3 or len(stride) != 3 or min(stride) <= 0:
            raise ValueError(
                f"BSpline: control points {tuple(control.shape)}, stride {tuple(stride)}; expected"
                " (B, 3, I, J, K), above 0"
            )
        self.control, self.grid, self.stride = precise(control), grid, tuple(stride)
        self.offset = tuple(-s for s in self.stride) if offset is None else tuple(offset)

    def map_voxels(self, points: Tensor) -> Tensor:
        return points + bspline_at(self.control.to(points.dtype), points, self.stride, self.offset)

    def known(self, grid: Grid) -> Tensor | None:
        """One matrix product per axis if the axes of the two grids are parallel."""
        if grid.matches(self.grid):
            return bspline(self.control, self.grid.shape, self.stride, self.offset)
        along = grid.parallel(self.grid)
        if along is None:
            return None
        stride = [s / f for s, f in zip(self.stride, along[0], strict=True)]
        offset = [(o - t) / f for o, f, t in zip(self.offset, *along, strict=True)]
        scale = beside(along[0], self.control).view(1, 3, 1, 1, 1)
        return bspline(self.control, grid.shape, stride, offset) / scale

    def mapped(self, change: Change) -> BSpline:
        return BSpline(change(self.control), self.grid, self.stride, self.offset)

    def inverse(self) -> Displacement:
        return Displacement(invert(self.displacement()).displacement, self.grid)

    def extended(self, before: Sequence[int], after: Sequence[int]) -> BSpline:
        """The same transform on a lattice with additional control points at the two ends of each
        axis, repeating the outermost.
        """
        offset = [o - b * s for o, b, s in zip(self.offset, before, self.stride, strict=True)]
        return BSpline(_repeated(self.control, before, after), self.grid, self.stride, offset)

    @property
    def like(self) -> Tensor:
        return self.control


def _repeated(values: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Values with the border repeated at the two ends of each axis."""
    ends = zip(reversed(list(before)), reversed(list(after)), strict=True)
    return F.pad(values, [width for both in ends for width in both], "replicate")


def split_affine(transform: Transform, grid: Grid) -> tuple[Tensor, Transform | None]:
    """Split a transform into ``affine o rest``.

    Args:
        transform: of any kind, batch size 1.
        grid: the fixed grid, on which the rest is sampled.

    Returns:
        The product of the leading (outermost) affine maps, ``(1, 4, 4)`` RAS mm in float64, and the
        rest, which is applied first: a single B-spline as it is, anything else as a displacement on
        ``grid``, ``None`` if there is no rest.
    """
    matrix = torch.eye(4, dtype=torch.float64, device=transform.like.device).unsqueeze(0)
    rest = [part for part in parts(transform) if not isinstance(part, Identity)]
    while rest and isinstance(rest[0], Affine):
        matrix = matrix @ rest[0].matrix.double()
        rest = rest[1:]
    if not rest:
        return matrix, None
    if len(rest) == 1 and isinstance(rest[0], BSpline):
        return matrix, rest[0]
    return matrix, Displacement(Composition(rest).displacement(grid), grid)
