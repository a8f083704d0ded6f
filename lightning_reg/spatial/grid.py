"""Voxel grids: a shape and an affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_reg.functional import identity_points, transform_points


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid in the world.

    Args:
        shape: extents ``(I, J, K)`` along the file's own voxel axes.
        affine: ``(B, 4, 4)`` (or ``(4, 4)``, read as one), voxel index to world, RAS mm, as nibabel and TorchIO give it.
            Kept in float64 on the CPU: it is bookkeeping, and its products must not lose micrometres.

    Voxel centres have integer coordinates; voxel ``i`` covers ``i - 1/2`` to ``i + 1/2``.
    """

    shape: tuple[int, int, int]
    affine: Tensor

    def __post_init__(self) -> None:
        affine = torch.as_tensor(self.affine, dtype=torch.float64, device="cpu")
        affine = affine.unsqueeze(0) if affine.dim() == 2 else affine
        if affine.shape[1:] != (4, 4) or len(self.shape) != 3:
            raise ValueError(f"Grid: expected three extents and a 4x4 affine; got {tuple(self.shape)} and {tuple(affine.shape)}")
        if not bool(torch.isfinite(affine).all() and (torch.linalg.det(affine[:, :3, :3]).abs() > 1e-12).all()):
            raise ValueError("Grid: the affine is singular (a spacing of 0?); correct the image's header")
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def batch(self) -> int:
        return self.affine.shape[0]

    @property
    def spacing(self) -> Tensor:
        """Voxel size in mm, ``(B, 3)``."""
        return self.affine[:, :3, :3].norm(dim=1)

    @property
    def size(self) -> Tensor:
        """Edge of the cube that has the grid's volume, mm, ``(B,)``: the length that says how large a deformation is for this image."""
        return (self.spacing * torch.tensor(self.shape, dtype=torch.float64)).prod(1) ** (1 / 3)

    @property
    def center(self) -> Tensor:
        """World position of the middle of the grid, ``(B, 3)`` mm."""
        middle = torch.tensor([(n - 1) / 2 for n in self.shape], dtype=torch.float64).view(1, 3, 1)
        return transform_points(self.affine, middle)[..., 0]

    def frame(self) -> tuple[Tensor, Tensor]:
        """From mm along the grid's own axes, about its centre, to the world, and back: ``(B, 4, 4)`` each."""
        frame = self.affine.clone()
        frame[:, :3, :3] /= self.spacing.unsqueeze(1)
        frame[:, :3, 3] = self.center
        return frame, torch.linalg.inv(frame)

    def points(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """Voxel coordinates of the voxel centres, ``(1, 3, I, J, K)``."""
        return identity_points(self.shape, dtype=dtype, device=device)

    def to_world(self, points: Tensor) -> Tensor:
        """Voxel coordinates to RAS mm, ``(B, 3, *any)``."""
        return transform_points(self.affine, points)

    def to_voxel(self, points: Tensor) -> Tensor:
        """RAS mm to voxel coordinates, ``(B, 3, *any)``."""
        return transform_points(self.inverse, points)

    @property
    def inverse(self) -> Tensor:
        """The affine's inverse, RAS mm to voxel coordinates, ``(B, 4, 4)``."""
        return torch.linalg.inv(self.affine)

    def voxel_map(self, other: Grid) -> Tensor:
        """Matrix ``(B, 4, 4)`` from voxel coordinates of this grid to those of ``other``, by way of the world."""
        return torch.linalg.solve(other.affine, self.affine.expand(max(self.batch, other.batch), 4, 4))

    def parallel(self, other: Grid) -> tuple[list[float], list[float]] | None:
        """Per axis the ``scale`` and ``shift`` that turn voxel coordinates of this grid into those of ``other``; ``None`` where an axis
        of the two is not parallel, or runs the other way, or where the elements of a batch differ."""
        there = self.voxel_map(other)
        scale, shift = torch.diagonal(there[0, :3, :3]), there[0, :3, 3]
        if there.shape[0] > 1 or not torch.allclose(there[0, :3, :3], torch.diag(scale), atol=1e-9) or bool((scale <= 0).any()):
            return None
        return scale.tolist(), shift.tolist()

    def matches(self, other: Grid, tolerance: float = 1e-4) -> bool:
        """Whether both have the same voxels: equal shapes, and corners that differ by less than ``tolerance`` voxels."""
        if self is other:
            return True
        if self.shape != other.shape:
            return False
        moved = self.voxel_map(other) - torch.eye(4, dtype=torch.float64)
        return float(moved[:, :3, :3].abs().max()) * max(self.shape) + float(moved[:, :3, 3].abs().max()) < tolerance

    def resized(self, shape: Sequence[int]) -> Grid:
        """The grid of ``shape`` over the same extent (outer faces stay)."""
        ratio = [o / n for o, n in zip(self.shape, shape, strict=True)]
        return self._relative(shape, ratio, [(r - 1) / 2 for r in ratio])

    def pooled(self, factor: Sequence[int]) -> Grid:
        """The grid after average pooling by whole factors: coarse ``c`` lies at fine ``f c + (f - 1) / 2``."""
        if any(n % f for n, f in zip(self.shape, factor, strict=True)):
            raise ValueError(f"Grid.pooled: extents {self.shape} are not multiples of {tuple(factor)}; pad the image first")
        return self.resized([n // f for n, f in zip(self.shape, factor, strict=True)])

    def at_stride(self, stride: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of features at a stride: ``shape`` voxels that cover ``stride`` voxels each, the first ones those of voxel 0 on."""
        return self._relative(shape, [float(s) for s in stride], [(s - 1) / 2 for s in stride])

    def stride_to(self, coarse: Grid) -> list[int]:
        """Per axis, how many of this grid's voxels one of a coarser grid along the same axes spans: whole numbers, at least 1."""
        return (coarse.spacing / self.spacing)[0].round().int().clamp_min(1).tolist()

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of ``shape`` whose voxel 0 is this grid's voxel ``start``; outside it where it reaches further (padding)."""
        return self._relative(shape, [1.0, 1.0, 1.0], list(start))

    def _relative(self, shape: Sequence[int], scale: Sequence[float], offset: Sequence[float]) -> Grid:
        step = torch.eye(4, dtype=torch.float64)
        step[:3, :3] = torch.diag(torch.tensor(scale, dtype=torch.float64))
        step[:3, 3] = torch.tensor(offset, dtype=torch.float64)
        return Grid((shape[0], shape[1], shape[2]), self.affine @ step)

    def overlap(self, other: Grid) -> float:
        """Fraction of this grid's extent (sampled at some thousand points) that lies inside ``other``; the least in the batch."""
        axes = [torch.linspace(-0.5, n - 0.5, min(n + 1, 17), dtype=torch.float64) for n in self.shape]
        probe = torch.stack(torch.meshgrid(*axes, indexing="ij")).view(1, 3, -1)
        inside = transform_points(self.voxel_map(other), probe.expand(self.batch, 3, -1))
        upper = torch.tensor(other.shape, dtype=torch.float64).view(1, 3, 1) - 0.5
        return float(((inside >= -0.5 - 1e-6) & (inside <= upper + 1e-6)).all(1).double().mean(1).min())

    def __repr__(self) -> str:
        size = " x ".join(f"{s:.4g}" for s in self.spacing[0].tolist())
        at = ", ".join(f"{c:.4g}" for c in self.center[0].tolist())
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"Grid({' x '.join(map(str, self.shape))} voxels of {size} mm, centre ({at}) mm RAS{batch})"

    @staticmethod
    def regular(shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0), origin: Sequence[float] = (0.0, 0.0, 0.0)) -> Grid:
        """An axis-aligned grid with voxel 0 at ``origin`` (RAS mm)."""
        affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
        affine[:3, 3] = torch.tensor(list(origin), dtype=torch.float64)
        return Grid((shape[0], shape[1], shape[2]), affine)
