"""Image: a tensor on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional import pool, resize, sample
from lightning_reg.functional.warp import Interpolation
from lightning_reg.registry import ArgumentError, require_kind
from lightning_reg.spatial.grid import Grid, Matrix

if TYPE_CHECKING:
    from lightning_reg.spatial.transforms import Transform


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities, a mask or labels on a grid.

    Args:
        tensor: ``(B, C, I, J, K)``.
        grid: its grid; batch 1 or ``B``.
        padding: the value outside the image (intensities: that of air in this normalisation; masks
            and labels: 0).
        discrete: labels or a mask, always resampled by nearest neighbour.
    """

    tensor: Tensor
    grid: Grid
    padding: float = 0.0
    discrete: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise ValueError(
                f"Image: {type(self.tensor).__name__} given, where a tensor (B, C, I, J, K) is"
                " meant"
            )
        require_kind(self.grid, Grid, "Image: grid", "give a Grid")
        if self.tensor.dim() != 5 or tuple(self.tensor.shape[2:]) != self.grid.shape:
            raise ValueError(
                f"Image: tensor {tuple(self.tensor.shape)} does not lie on {self.grid}; expected"
                " (B, C, I, J, K)"
            )
        if self.grid.batch not in (1, self.tensor.shape[0]):
            raise ArgumentError(
                f"Image: a batch of {self.tensor.shape[0]} does not fit {self.grid}"
            )

    def described(self) -> dict[str, str]:
        """Shape, voxel size, position, type and range of the values, in words."""
        batch, channels = self.tensor.shape[:2]
        size = " x ".join(f"{v:.4g}" for v in self.grid.spacing[0])
        at = ", ".join(f"{v:.4g}" for v in self.grid.center[0])
        counts = ((batch, "images"), (channels, "channels"))
        more = "".join(f", {count} {name}" for count, name in counts if count > 1)
        kind, values = "labels or mask" if self.discrete else "intensities", ""
        if not self.tensor.is_meta:
            values = f", {float(self.tensor.min()):.4g} to {float(self.tensor.max()):.4g}"
        return {
            "shape": f"{' x '.join(map(str, self.grid.shape))} voxels{more}",
            "voxel size": f"{size} mm",
            "centre": f"({at}) mm RAS",
            "values": (
                f"{kind}, {str(self.tensor.dtype).removeprefix('torch.')}{values}, on"
                f" {self.tensor.device}"
            ),
        }

    def __repr__(self) -> str:
        return f"Image({'; '.join(self.described().values())})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Image:
        return replace(self, tensor=self.tensor.to(device, non_blocking=non_blocking))

    def pooled(self, factor: Sequence[int]) -> Image:
        """Average-pooled by whole factors that divide the extents."""
        return replace(self, tensor=pool(self.tensor, factor), grid=self.grid.pooled(factor))

    def resized(self, shape: Sequence[int]) -> Image:
        """Interpolated (labels: nearest) to ``shape`` voxels over the same extent."""
        mode: Interpolation = "nearest" if self.discrete else "linear"
        return replace(self, tensor=resize(self.tensor, shape, mode), grid=self.grid.resized(shape))

    def padded_to(self, shape: Sequence[int], border: bool = False) -> Image:
        """Padded after the last voxel of each axis with ``padding`` (fields: with their
        ``border``); voxel 0 keeps its position.
        """
        if tuple(shape) == self.grid.shape:
            return self
        sizes = zip(reversed(self.grid.shape), reversed(list(shape)), strict=True)
        widths = [width for n, s in sizes for width in (0, s - n)]
        if border:
            tensor = F.pad(self.tensor, widths, "replicate")
        else:
            tensor = F.pad(self.tensor, widths, value=self.padding)
        return replace(self, tensor=tensor, grid=self.grid.cropped((0, 0, 0), shape))

    def resampled(self, grid: Grid) -> Image:
        """Resampled to another grid in world coordinates (labels: nearest); unchanged if the grids
        match.
        """
        if self.grid.matches(grid):
            return self
        return self._sampled(grid.points(device=self.tensor.device), grid)

    def warped(self, transform: Transform, grid: Grid | None = None) -> Image:
        """This (moving) image warped to the fixed grid: ``warped(x) = self(phi(x))``, interpolated
        once.

        Args:
            transform: maps the fixed grid's world to this image's world.
            grid: the fixed grid to sample on; default the transform's own.
        """
        grid = grid or transform.grid
        return self.warped_by(transform.displacement(grid), grid)

    def warped_by(self, displacement: Tensor, grid: Grid) -> Image:
        """As :meth:`warped`, with the displacement ``(B, 3, I, J, K)`` of the transform in voxels
        of the fixed ``grid``.
        """
        points = grid.points(dtype=displacement.dtype, device=displacement.device)
        return self._sampled(displacement + points, grid)

    def at_stride(self, stride: Sequence[int]) -> Image:
        """Average-pooled by whole factors; if they do not divide the extents, the border is
        repeated after the last voxel. An axis of one voxel is kept.
        """
        stride = [s if n > 1 else 1 for n, s in zip(self.grid.shape, stride, strict=True)]
        if all(s == 1 for s in stride):
            return self
        shape = [-(-n // s) * s for n, s in zip(self.grid.shape, stride, strict=True)]
        return self.padded_to(shape, border=True).pooled(stride)

    def at_resolution(self, grid: Grid) -> Image:
        """Resampled to a coarser grid: average-pooled by :meth:`Grid.stride_to`, then interpolated
        if the two still differ.
        """
        return self.at_stride(self.grid.stride_to(grid)).resampled(grid)

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Image:
        """The part of ``shape`` voxels that begins at voxel ``start``; inside the image."""
        (a, b, c), (i, j, k) = start, shape
        part = self.tensor[:, :, a : a + i, b : b + j, c : c + k]
        return replace(self, tensor=part, grid=self.grid.cropped(start, shape))

    def center_of_mass(self) -> Matrix:
        """Centre of mass of the first element, ``(3,)`` RAS mm, weighted by the intensities; the
        grid's centre if they sum to 0.
        """
        weight, center = self.tensor[0, 0], torch.zeros(1, 3, 1, dtype=torch.float64)
        for axis in range(3):
            planes = weight.sum([a for a in range(3) if a != axis], dtype=torch.float64).cpu()
            places = torch.arange(len(planes), dtype=torch.float64)
            total = float(planes.sum())
            center[0, axis] = float(planes @ places) / total if total else float(places.mean())
        return self.grid.to_world(center)[0, :, 0].numpy()

    def _sampled(self, points: Tensor, grid: Grid) -> Image:
        """Sample at points ``(B, 3, I, J, K)``, in voxels of a grid; an image on that grid."""
        mode: Interpolation = "nearest" if self.discrete else "linear"
        tensor = sample(self.tensor, points, mode, self.padding, grid.voxel_map(self.grid))
        return replace(self, tensor=tensor, grid=grid)
