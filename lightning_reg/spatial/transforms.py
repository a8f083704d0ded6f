"""Transforms: the interface, affine maps and compositions.

A transform maps points of the fixed image's world to the moving image's world (RAS mm). Its
parameters are defined on the fixed ``grid``, and it computes in voxels of that grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from lightning_reg.functional import beside, transform_points, transform_vectors
from lightning_reg.registry.contract import deprecated
from lightning_reg.spatial.grid import Grid

if TYPE_CHECKING:
    from typing_extensions import Self

Change = Callable[[Tensor], Tensor]


class Transform(ABC):
    """``phi``: fixed world to moving world.

    A class implements four members: :meth:`map_voxels`, :meth:`inverse`, :meth:`mapped` and
    :attr:`like`; the others follow from them. It may know its displacement on some grids
    (:meth:`known`).

    Attributes:
        grid: the fixed grid.
        matrix: of a map that is affine, ``(B, 4, 4)``, fixed RAS mm to moving RAS mm.
    """

    grid: Grid
    matrix: Tensor | None = None

    @abstractmethod
    def map_voxels(self, points: Tensor) -> Tensor:
        """Map points ``(B, 3, *any)`` given in voxels of :attr:`grid`; the result is in voxels of
        the same grid.
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
    def mapped(self, change: Change) -> Self:
        """The transform with every tensor of its state replaced by ``change(tensor)``."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """Any tensor of the state: its dtype and device are those of the results."""

    def known(self, grid: Grid) -> Tensor | None:
        """The displacement ``(B, 3, I, J, K)`` on a grid, in voxels of that grid, if there is a way
        that is faster than to map every voxel; else ``None``.
        """
        return None

    @final
    def displacement(self, grid: Grid | None = None) -> Tensor:
        """Displacement on any grid, ``(B, 3, I, J, K)`` in voxels of that grid; default:
        :attr:`grid`.
        """
        grid = grid or self.grid
        known = self.known(grid)
        if known is not None:
            return known
        points = grid.points(dtype=self.like.dtype, device=self.like.device)
        inside = transform_points(grid.voxel_map(self.grid), points)
        return transform_vectors(self.grid.voxel_map(grid), self.map_voxels(inside) - inside)

    @final
    def map_world(self, points: Tensor) -> Tensor:
        """Map points ``(B, 3, *any)`` in RAS mm, for example landmarks of the fixed image."""
        points = points.to(self.like.device)
        if self.matrix is not None:
            return transform_points(self.matrix, points)
        inside = self.grid.to_voxel(points)
        moved = self.map_voxels(inside.to(self.like.dtype)) - inside
        return points + transform_vectors(self.grid.affine, moved)

    @final
    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The transform with its state on a device and in a dtype (at least float32)."""
        return self.mapped(lambda state: state.to(device=device, dtype=dtype))

    def __repr__(self) -> str:
        return ", then ".join(type(part).__name__ for part in reversed(parts(self)))

    def dense(self) -> Tensor:
        """Deprecated name of :meth:`displacement` on :attr:`grid`."""
        deprecated("Transform.dense()", "call displacement()", "1.1")
        return self.displacement()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "to" in cls.__dict__ and "mapped" not in cls.__dict__:
            deprecated(f"Method 'to' of {cls.__name__}", "implement mapped(change)", "1.1")
            cls.mapped = _moved  # type: ignore[assignment]


def _moved(transform: Transform, change: Change) -> Transform:
    """:meth:`Transform.mapped` of a class that has ``to`` instead: changes of device and dtype."""
    like = change(transform.like)
    return transform.to(like.device, like.dtype)


def precise(state: Tensor) -> Tensor:
    """Convert to at least float32: coordinates take the dtype of the state, and half precision
    cannot number the voxels of a scan.
    """
    return state.to(torch.promote_types(state.dtype, torch.float32))


class Identity(Transform):
    """``phi(x) = x``. ``like`` is any tensor of the wanted dtype and device."""

    def __init__(self, grid: Grid, like: Tensor) -> None:
        self.grid, self._like, self.matrix = grid, like.detach(), torch.eye(4).unsqueeze(0)

    def map_voxels(self, points: Tensor) -> Tensor:
        return points

    def known(self, grid: Grid) -> Tensor:
        batch = max(grid.batch, self.grid.batch)
        return torch.zeros(batch, 3, *grid.shape, dtype=self._like.dtype, device=self._like.device)

    def inverse(self) -> Identity:
        return self

    def mapped(self, change: Change) -> Identity:
        return Identity(self.grid, change(self._like))

    @property
    def like(self) -> Tensor:
        return self._like


class Affine(Transform):
    """An affine map of the world.

    Args:
        matrix: ``(B, 4, 4)``, fixed RAS mm to moving RAS mm.
        grid: the fixed grid.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, grid: Grid) -> None:
        if not isinstance(matrix, Tensor) or matrix.shape[1:] != (4, 4):
            raise ValueError(
                f"Affine: {getattr(matrix, 'shape', matrix)} given, where a tensor (B, 4, 4) is"
                " meant"
            )
        self.matrix, self.grid = precise(matrix), grid

    def _voxel_matrix(self) -> Tensor:
        matrix = self.matrix.double()
        return beside(self.grid.inverse, matrix) @ matrix @ beside(self.grid.affine, matrix)

    def map_voxels(self, points: Tensor) -> Tensor:
        return transform_points(self._voxel_matrix(), points)

    def known(self, grid: Grid) -> Tensor | None:
        if not grid.matches(self.grid):
            return None
        step = self._voxel_matrix() - torch.eye(4, dtype=torch.float64, device=self.matrix.device)
        return transform_points(
            step, self.grid.points(dtype=self.matrix.dtype, device=self.matrix.device)
        )

    def mapped(self, change: Change) -> Affine:
        return Affine(change(self.matrix), self.grid)

    def inverse(self) -> Affine:
        inverse, singular = torch.linalg.inv_ex(self.matrix)
        if bool((singular != 0).any()):
            raise ValueError("Affine: the matrix is singular; it has no inverse")
        return Affine(inverse, self.grid)

    @property
    def like(self) -> Tensor:
        return self.matrix


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

    def known(self, grid: Grid) -> Tensor:
        """The displacement of the innermost member may be known; the others map the points that it
        reaches.
        """
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

    def mapped(self, change: Change) -> Composition:
        return Composition([member.mapped(change) for member in self.members])

    def inverse(self) -> Composition:
        return Composition([member.inverse() for member in reversed(self.members)])

    @property
    def like(self) -> Tensor:
        return self.members[-1].like


def parts(transform: Transform) -> list[Transform]:
    """Members of a composition, outermost first, with nested ones flattened; any other transform is
    its own only part.
    """
    if isinstance(transform, Composition):
        return [part for member in transform.members for part in parts(member)]
    return [transform]
