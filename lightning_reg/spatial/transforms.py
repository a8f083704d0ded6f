"""Transforms: their state and geometry, without learning.

A transform maps points of the fixed image's world to the moving image's world (RAS mm). Its
parameters are defined on the fixed ``grid``, and it computes in voxels of that grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional import (
    beside,
    bspline,
    bspline_at,
    exponentiate,
    invert,
    sample,
    transform_points,
    transform_vectors,
)
from lightning_reg.spatial.grid import Grid


class Transform(ABC):
    """``phi``: fixed world to moving world. Every method here is abstract: subclasses are final, or
    abstract themselves.
    """

    grid: Grid

    def __repr__(self) -> str:
        return ", then ".join(type(part).__name__ for part in reversed(parts(self)))

    @abstractmethod
    def map_voxels(self, points: Tensor) -> Tensor:
        """Map points ``(B, 3, *any)`` given in voxels of :attr:`grid`; the result is in voxels of
        the same grid.
        """

    @abstractmethod
    def map_world(self, points: Tensor) -> Tensor:
        """Map points ``(B, 3, *any)`` in RAS mm, for example landmarks of the fixed image."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Displacement at every voxel of :attr:`grid`, ``(B, 3, I, J, K)`` voxels."""

    @abstractmethod
    def displacement(self, grid: Grid | None = None) -> Tensor:
        """Displacement on any grid, ``(B, 3, I, J, K)`` in voxels of that grid; default:
        :attr:`grid`.
        """

    @abstractmethod
    def inverse(self) -> Transform:
        """Inverse transform, from the moving to the fixed world, on the same grid.

        Exact for affine maps and velocities; numerical for the others (for its accuracy see
        :func:`lightning_reg.functional.invert`).

        Raises:
            ValueError: an affine matrix is singular.
        """

    @abstractmethod
    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Transform:
        """The transform with its state on a device and in a dtype (at least float32)."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """Any tensor of the state: its dtype and device are those of the results."""


def _world_through_voxels(transform: Transform, points: Tensor) -> Tensor:
    """:meth:`Transform.map_world` through the voxels of the transform's grid."""
    points = points.to(transform.like.device)
    inside = transform.grid.to_voxel(points)
    moved = transform.map_voxels(inside.to(transform.like.dtype)) - inside
    return points + transform_vectors(transform.grid.affine, moved)


def _displacement_point_by_point(transform: Transform, grid: Grid) -> Tensor:
    """:meth:`Transform.displacement` on another grid, by mapping every voxel centre."""
    points = grid.points(dtype=transform.like.dtype, device=transform.like.device)
    inside = transform_points(grid.voxel_map(transform.grid), points)
    return transform_vectors(transform.grid.voxel_map(grid), transform.map_voxels(inside) - inside)


def _precise(state: Tensor) -> Tensor:
    """Convert to at least float32: coordinates take the dtype of the state, and half precision
    cannot number the voxels of a scan.
    """
    return state.to(torch.promote_types(state.dtype, torch.float32))


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
        self.field, self.grid = _precise(field), grid

    def map_voxels(self, points: Tensor) -> Tensor:
        return points + sample(self.field.to(points.dtype), points, padding="border")

    def map_world(self, points: Tensor) -> Tensor:
        return _world_through_voxels(self, points)

    def dense(self) -> Tensor:
        return self.field

    def displacement(self, grid: Grid | None = None) -> Tensor:
        """Displacement on any grid; a slice, without interpolation, if the grid is a part of
        :attr:`grid`.
        """
        if grid is None or grid.matches(self.grid):
            return self.field
        start = grid.begins_in(self.grid)
        if start is None:
            return _displacement_point_by_point(self, grid)
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

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Displacement:
        return Displacement(self.field.to(device=device, dtype=dtype), self.grid)

    def inverse(self) -> Displacement:
        return Displacement(invert(self.field).displacement, self.grid)

    def extended(self, before: Sequence[int], after: Sequence[int]) -> Displacement:
        """The same transform on a grid with additional voxels at the two ends of each axis, where
        the border is repeated.
        """
        widths = [
            w
            for pair in zip(reversed(list(before)), reversed(list(after)), strict=True)
            for w in pair
        ]
        shape = [b + n + a for b, n, a in zip(before, self.grid.shape, after, strict=True)]
        return Displacement(
            F.pad(self.field, widths, "replicate"), self.grid.cropped([-b for b in before], shape)
        )


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
        self.control, self.grid, self.stride = _precise(control), grid, tuple(stride)
        self.offset = tuple(-s for s in self.stride) if offset is None else tuple(offset)

    def map_voxels(self, points: Tensor) -> Tensor:
        return points + bspline_at(self.control.to(points.dtype), points, self.stride, self.offset)

    def map_world(self, points: Tensor) -> Tensor:
        return _world_through_voxels(self, points)

    def dense(self) -> Tensor:
        return bspline(self.control, self.grid.shape, self.stride, self.offset)

    def displacement(self, grid: Grid | None = None) -> Tensor:
        """Displacement on any grid, by one matrix product per axis if the axes of the two grids are
        parallel.
        """
        if grid is None or grid.matches(self.grid):
            return self.dense()
        along = grid.parallel(self.grid)
        if along is None:
            return _displacement_point_by_point(self, grid)
        stride = [s / f for s, f in zip(self.stride, along[0], strict=True)]
        offset = [(o - t) / f for o, f, t in zip(self.offset, *along, strict=True)]
        return bspline(self.control, grid.shape, stride, offset) / beside(
            along[0], self.control
        ).view(1, 3, 1, 1, 1)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> BSpline:
        return BSpline(
            self.control.to(device=device, dtype=dtype), self.grid, self.stride, self.offset
        )

    def inverse(self) -> Displacement:
        return Displacement(invert(self.dense()).displacement, self.grid)

    def extended(self, before: Sequence[int], after: Sequence[int]) -> BSpline:
        """The same transform on a lattice with additional control points at the two ends of each
        axis, repeating the outermost.
        """
        widths = [
            w
            for pair in zip(reversed(list(before)), reversed(list(after)), strict=True)
            for w in pair
        ]
        offset = [o - b * s for o, b, s in zip(self.offset, before, self.stride, strict=True)]
        return BSpline(F.pad(self.control, widths, "replicate"), self.grid, self.stride, offset)

    @property
    def like(self) -> Tensor:
        return self.control


class Affine(Transform):
    """An affine map of the world.

    Args:
        matrix: ``(B, 4, 4)``, fixed RAS mm to moving RAS mm.
        grid: the fixed grid.
    """

    def __init__(self, matrix: Tensor, grid: Grid) -> None:
        if not isinstance(matrix, Tensor) or matrix.shape[1:] != (4, 4):
            raise ValueError(
                f"Affine: {getattr(matrix, 'shape', matrix)} given, where a tensor (B, 4, 4) is"
                " meant"
            )
        self.matrix, self.grid = _precise(matrix), grid

    def _voxel_matrix(self) -> Tensor:
        matrix = self.matrix.double()
        return beside(self.grid.inverse, matrix) @ matrix @ beside(self.grid.affine, matrix)

    def map_voxels(self, points: Tensor) -> Tensor:
        return transform_points(self._voxel_matrix(), points)

    def map_world(self, points: Tensor) -> Tensor:
        return transform_points(self.matrix, points)

    def dense(self) -> Tensor:
        step = self._voxel_matrix() - torch.eye(4, dtype=torch.float64, device=self.matrix.device)
        return transform_points(
            step, self.grid.points(dtype=self.matrix.dtype, device=self.matrix.device)
        )

    def displacement(self, grid: Grid | None = None) -> Tensor:
        return (
            self.dense()
            if grid is None or grid.matches(self.grid)
            else _displacement_point_by_point(self, grid)
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Affine:
        return Affine(self.matrix.to(device=device, dtype=dtype), self.grid)

    def inverse(self) -> Affine:
        inverse, singular = torch.linalg.inv_ex(self.matrix)
        if bool((singular != 0).any()):
            raise ValueError("Affine: the matrix is singular; it has no inverse")
        return Affine(inverse, self.grid)

    @property
    def like(self) -> Tensor:
        return self.matrix


class Velocity(SampledTransform):
    """The flow of a stationary velocity field over unit time; invertible by construction.

    Args:
        velocity: ``(B, 3, I, J, K)`` voxels of ``grid`` per unit time.
        squarings: number of squarings, see :func:`lightning_reg.functional.exponentiate`.
    """

    def __init__(self, velocity: Tensor, grid: Grid, squarings: int = 7) -> None:
        super().__init__(exponentiate(_precise(velocity), squarings), grid)
        self.velocity, self.squarings = velocity, squarings

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Velocity:
        return Velocity(self.velocity.to(device=device, dtype=dtype), self.grid, self.squarings)

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
        excess = _precise(gradient) - 1
        super().__init__(torch.stack([excess[:, a].cumsum(1 + a) for a in range(3)], dim=1), grid)
        self.gradient = gradient

    def inverse(self) -> Displacement:
        return Displacement(invert(self.field).displacement, self.grid)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> IntegratedGradient:
        return IntegratedGradient(self.gradient.to(device=device, dtype=dtype), self.grid)


class Composition(Transform):
    """Composition of transforms: ``Composition([outer, ..., inner])`` is
    ``x -> outer(...(inner(x)))``.

    Its grid is that of the innermost member; the members may have different grids.
    """

    def __init__(self, members: Sequence[Transform]) -> None:
        if not members:
            raise ValueError("Composition: no members; pass at least one transform")
        self.members, self.grid = tuple(members), members[-1].grid

    def map_voxels(self, points: Tensor) -> Tensor:
        return self._through(self.members, points, self.grid)

    def map_world(self, points: Tensor) -> Tensor:
        return _world_through_voxels(self, points)

    def dense(self) -> Tensor:
        return self.displacement(self.grid)

    def displacement(self, grid: Grid | None = None) -> Tensor:
        grid = grid or self.grid
        start = grid.points(dtype=self.like.dtype, device=self.like.device)
        inner = self.members[-1].displacement(grid)
        return self._through(self.members[:-1], start + inner, grid) - start

    @staticmethod
    def _through(members: Sequence[Transform], points: Tensor, here: Grid) -> Tensor:
        """Map points in voxels of ``here`` through ``members``, the last one first."""
        for member in reversed(members):
            there = member.grid
            if there.matches(here):
                points = member.map_voxels(points)
            else:
                inside = transform_points(here.voxel_map(there), points)
                points = points + transform_vectors(
                    there.voxel_map(here), member.map_voxels(inside) - inside
                )
        return points

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Composition:
        return Composition([member.to(device, dtype) for member in self.members])

    def inverse(self) -> Composition:
        return Composition([member.inverse() for member in reversed(self.members)])

    @property
    def like(self) -> Tensor:
        return self.members[-1].like


class Identity(Transform):
    """``phi(x) = x``. ``like`` is any tensor of the wanted dtype and device."""

    def __init__(self, grid: Grid, like: Tensor) -> None:
        self.grid, self._like = grid, like.detach()

    def map_voxels(self, points: Tensor) -> Tensor:
        return points

    def map_world(self, points: Tensor) -> Tensor:
        return points.to(self._like.device)

    def dense(self) -> Tensor:
        return self.displacement()

    def displacement(self, grid: Grid | None = None) -> Tensor:
        grid = grid or self.grid
        batch = max(grid.batch, self.grid.batch)
        return torch.zeros(batch, 3, *grid.shape, dtype=self._like.dtype, device=self._like.device)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Identity:
        return Identity(self.grid, self._like.to(device=device, dtype=dtype))

    def inverse(self) -> Identity:
        return self

    @property
    def like(self) -> Tensor:
        return self._like


def parts(transform: Transform) -> list[Transform]:
    """Members of a composition, outermost first, with nested ones flattened; any other transform is
    its own only part.
    """
    if isinstance(transform, Composition):
        return [part for member in transform.members for part in parts(member)]
    return [transform]


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
