"""Voxel grids: a shape and an affine."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_reg.functional import (
    beside,
    identity_points,
    in_plane,
    transform_points,
    transform_vectors,
)
from lightning_reg.registry import ArgumentError

Matrix = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid in the world.

    Args:
        shape: extents ``(I, J, K)`` along the file's own voxel axes.
        affine: ``(B, 4, 4)`` (or ``(4, 4)`` for one element), voxel index to world, RAS mm, as in
            nibabel and TorchIO. An array or a tensor; stored as a float64 array.

    The numbers of a grid are float64 NumPy arrays: products stay accurate to micrometres, no device
    has to be synchronised, and a traced or exported network contains them as constants. Points are
    tensors, on any device.

    Voxel centres have integer coordinates; voxel ``i`` covers ``i - 1/2`` to ``i + 1/2``.
    """

    shape: tuple[int, int, int]
    affine: Matrix

    def __post_init__(self) -> None:
        given = (
            self.affine.detach().cpu().numpy() if isinstance(self.affine, Tensor) else self.affine
        )
        try:
            shape = tuple(operator.index(n) for n in self.shape)
            affine = np.array(given, dtype=np.float64, ndmin=3)
        except (TypeError, ValueError) as cause:
            raise ArgumentError(
                f"Grid: expected three extents, whole numbers, and a 4x4 affine ({cause})"
            ) from cause
        if affine.shape[1:] != (4, 4) or len(shape) != 3:
            raise ValueError(
                f"Grid: expected three extents and a 4x4 affine; got {shape} and"
                f" {tuple(affine.shape)}"
            )
        axes = affine[:, :3, :3]
        smallest = 1e-6 * np.linalg.norm(axes, axis=1).prod(1)
        if not (np.isfinite(affine).all() and (np.abs(np.linalg.det(axes)) > smallest).all()):
            raise ValueError(
                "Grid: the affine is singular (a spacing of 0?); correct the image's header"
            )
        if min(shape) < 1 or not np.allclose(affine[:, 3], (0, 0, 0, 1)):
            raise ValueError(
                f"Grid: extents {shape} below 1, or an affine whose last row is not 0 0 0 1"
            )
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @property
    def batch(self) -> int:
        return self.affine.shape[0]

    @property
    def spacing(self) -> Matrix:
        """Voxel size in mm, ``(B, 3)``."""
        return np.linalg.norm(self.affine[:, :3, :3], axis=1)

    @property
    def size(self) -> Matrix:
        """Edge of the cube that has the grid's volume (of one slice: the square of its area), mm,
        ``(B,)``: the length scale of deformations of this image.
        """
        edges = (self.spacing * self.shape)[:, np.array(self.shape) > 1]
        return np.prod(edges, axis=1) ** (1 / max(edges.shape[1], 1))

    @property
    def center(self) -> Matrix:
        """World position of the middle of the grid, ``(B, 3)`` mm."""
        return self.affine[:, :3, :3] @ ((np.array(self.shape) - 1) / 2) + self.affine[:, :3, 3]

    @property
    def edge(self) -> float:
        """Finest voxel edge of the first element, mm; the thickness of one slice does not count."""
        sizes = self.spacing[0][np.array(self.shape) > 1]
        return float(sizes.min() if len(sizes) else self.spacing[0].min())

    def in_plane(self, vectors: Tensor) -> Tensor:
        """Vectors ``(B, 3, *any)`` in mm of the world without their components across one slice."""
        if min(self.shape) > 1:
            return vectors
        inside = in_plane(transform_vectors(self.inverse, vectors), self.shape)
        return transform_vectors(self.affine, inside)

    def frame(self) -> tuple[Matrix, Matrix]:
        """Matrices ``(B, 4, 4)`` from mm along the grid's own axes, about its centre, to the world,
        and back.
        """
        frame = self.affine.copy()
        frame[:, :3, :3] /= self.spacing[:, None]
        frame[:, :3, 3] = self.center
        return frame, np.linalg.inv(frame)

    def points(
        self, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensor:
        """Voxel coordinates of the voxel centres, ``(1, 3, I, J, K)``."""
        return identity_points(self.shape, dtype=dtype, device=device)

    def to_world(self, points: Tensor) -> Tensor:
        """Voxel coordinates to RAS mm, ``(B, 3, *any)``."""
        return transform_points(self.affine, points)

    def to_voxel(self, points: Tensor) -> Tensor:
        """RAS mm to voxel coordinates, ``(B, 3, *any)``."""
        return transform_points(self.inverse, points)

    @property
    def inverse(self) -> Matrix:
        """The affine's inverse, RAS mm to voxel coordinates, ``(B, 4, 4)``."""
        return np.linalg.inv(self.affine)

    def voxel_map(self, other: Grid) -> Matrix:
        """Matrix ``(B, 4, 4)`` from voxel coordinates of this grid to those of ``other``."""
        return np.linalg.solve(other.affine, self.affine)

    def parallel(self, other: Grid) -> tuple[list[float], list[float]] | None:
        """``scale`` and ``shift`` per axis from voxel coordinates of this grid to those of
        ``other``.

        ``None`` if two axes are not parallel or have opposite directions, or if a batch has several
        elements.
        """
        there = self.voxel_map(other)
        scale, shift = np.diagonal(there[0, :3, :3]), there[0, :3, 3]
        if (
            there.shape[0] > 1
            or not np.allclose(there[0, :3, :3], np.diag(scale), atol=1e-9)
            or (scale <= 0).any()
        ):
            return None
        return scale.tolist(), shift.tolist()

    def matches(self, other: Grid, tolerance: float = 1e-4) -> bool:
        """Whether both have the same voxels: equal shapes, and corners that differ by less than
        ``tolerance`` voxels.
        """
        if self is other:
            return True
        if self.shape != other.shape:
            return False
        apart = np.abs(self.voxel_map(other) - np.eye(4))
        return bool(apart[:, :3, :3].max() * max(self.shape) + apart[:, :3, 3].max() < tolerance)

    def resized(self, shape: Sequence[int]) -> Grid:
        """The grid of ``shape`` over the same extent (outer faces stay)."""
        ratio = [o / n for o, n in zip(self.shape, shape, strict=True)]
        return self._relative(shape, ratio, [(r - 1) / 2 for r in ratio])

    def pooled(self, factor: Sequence[int]) -> Grid:
        """The grid after average pooling by whole factors: coarse ``c`` lies at fine
        ``f c + (f - 1) / 2``.
        """
        if any(n % f for n, f in zip(self.shape, factor, strict=True)):
            raise ValueError(
                f"Grid.pooled: extents {self.shape} are not multiples of {tuple(factor)}; pad the"
                " image first"
            )
        return self.resized([n // f for n, f in zip(self.shape, factor, strict=True)])

    def at_stride(self, stride: Sequence[int], shape: Sequence[int]) -> Grid:
        """Grid of features at a stride: ``shape`` voxels of ``stride`` voxels each, starting at
        voxel 0.

        Raises:
            ValueError: the features do not cover the grid.
        """
        if any(n * s < extent for n, s, extent in zip(shape, stride, self.shape, strict=True)):
            raise ValueError(
                f"Grid.at_stride: features {tuple(shape)} at a stride of {tuple(stride)} voxels do"
                f" not cover {self.shape}"
            )
        return self._relative(shape, [float(s) for s in stride], [(s - 1) / 2 for s in stride])

    def stride_to(self, coarse: Grid) -> list[int]:
        """Stride per axis to a coarser grid along the same axes: the ratio of the voxel sizes,
        rounded, at least 1.
        """
        return np.maximum(np.rint((coarse.spacing / self.spacing)[0]), 1).astype(int).tolist()

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of ``shape`` whose voxel 0 is this grid's voxel ``start``; it may extend beyond
        this grid (padding).
        """
        return self._relative(shape, [1.0, 1.0, 1.0], list(start))

    def begins_in(self, other: Grid) -> list[int] | None:
        """Voxel of ``other`` that is this grid's voxel 0, if this grid is a part of ``other``; else
        ``None``.
        """
        along = self.parallel(other)
        if along is None or not np.allclose(along[0], 1, atol=1e-4 / max(self.shape)):
            return None
        start = [round(shift) for shift in along[1]]
        inside = all(
            a >= 0 and a + n <= m for a, n, m in zip(start, self.shape, other.shape, strict=True)
        )
        return start if inside and np.allclose(along[1], start, rtol=0, atol=1e-4) else None

    def scattered(self, count: int) -> Tensor:
        """Voxel coordinates of every n-th voxel, at most ``count`` of them, ``(1, 3, N)`` in
        float64.
        """
        size = math.prod(self.shape)
        flat = np.arange(0, size, -(-size // count))
        return torch.from_numpy(
            np.stack(np.unravel_index(flat, self.shape)).astype(np.float64)
        ).unsqueeze(0)

    def _relative(
        self, shape: Sequence[int], scale: Sequence[float], offset: Sequence[float]
    ) -> Grid:
        step = np.diag([*scale, 1.0])
        step[:3, 3] = offset
        return Grid((shape[0], shape[1], shape[2]), self.affine @ step)

    def contains(self, points: Tensor, margin: float = 0.5) -> Tensor:
        """Test whether points are inside the image.

        Args:
            points: ``(B, 3, *any)``, RAS mm.
            margin: tolerance beyond the outermost voxel centres, voxels; 0.5 includes the outer
                faces. Along an axis of one voxel it is always 0.5.

        Returns:
            ``(B, *any)``, true or false.
        """
        voxels = self.to_voxel(points)
        reach = [0.5 if n == 1 else margin for n in self.shape]
        ends = [[-r for r in reach], [n - 1 + r for n, r in zip(self.shape, reach, strict=True)]]
        lower, upper = (beside(e, voxels).view(1, 3, *[1] * (voxels.dim() - 2)) for e in ends)
        return ((voxels >= lower) & (voxels <= upper)).all(1)

    def overlap(self, other: Grid) -> float:
        """Fraction of this grid's extent inside ``other`` (sampled at up to 17 x 17 x 17 points);
        the minimum over the batch.
        """
        axes = [np.linspace(-0.5, n - 0.5, min(n + 1, 17)) for n in self.shape]
        probe = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
        there = self.voxel_map(other)
        inside = there[:, :3, :3] @ probe + there[:, :3, 3:]
        upper = np.array(other.shape)[:, None] - 0.5
        return float(((inside >= -0.5 - 1e-6) & (inside <= upper + 1e-6)).all(1).mean(1).min())

    def __repr__(self) -> str:
        size = " x ".join(f"{s:.4g}" for s in self.spacing[0].tolist())
        at = ", ".join(f"{c:.4g}" for c in self.center[0].tolist())
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return (
            f"Grid({' x '.join(map(str, self.shape))} voxels of {size} mm, centre ({at}) mm"
            f" RAS{batch})"
        )

    @staticmethod
    def regular(
        shape: Sequence[int],
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        origin: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Grid:
        """An axis-aligned grid with voxel 0 at ``origin`` (RAS mm)."""
        if not np.shape(shape) == np.shape(spacing) == np.shape(origin) == (3,):
            raise ValueError(
                f"Grid.regular: shape {shape}, spacing {spacing} and origin {origin} are not three"
                " numbers each"
            )
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = origin
        return Grid((shape[0], shape[1], shape[2]), affine)
