"""Processing of large images in slabs: the points or a field of a whole clinical scan take
gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_reg.functional import jacobian_determinant, transform_points
from lightning_reg.spatial.fields import Displacement
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.image import Image
from lightning_reg.spatial.transforms import Transform

SLAB = 4_000_000
"""Approximate number of voxels of a slab."""
MARGIN = 2
"""Margin, in voxels, of the part of an image that a slab maps to: linear interpolation needs one.
"""
LARGE = 32_000_000
"""Number of voxels above which a field is not stored, but computed slab by slab each time."""


@dataclass(frozen=True)
class Slab:
    """Consecutive planes of a grid along its first axis, with the neighbouring planes that exist on
    both sides.

    Args:
        whole: the grid.
        first: first plane of the slab.
        planes: number of planes.
        before, after: numbers of neighbouring planes.
    """

    whole: Grid
    first: int
    planes: int
    before: int = 0
    after: int = 0

    @property
    def grid(self) -> Grid:
        """Grid of the slab."""
        return self.whole.cropped((self.first, 0, 0), (self.planes, *self.whole.shape[1:]))

    @property
    def wide(self) -> Grid:
        """Grid of the slab with its neighbours."""
        return self.whole.cropped(
            (self.first - self.before, 0, 0),
            (self.before + self.planes + self.after, *self.whole.shape[1:]),
        )

    def of(self, tensor: Tensor) -> Tensor:
        """The slab ``(B, C, planes, J, K)`` of a tensor on the whole grid."""
        return tensor.narrow(2, self.first, self.planes)

    def wide_of(self, tensor: Tensor) -> Tensor:
        """The slab with its neighbours, of a tensor on the whole grid."""
        return tensor.narrow(2, self.first - self.before, self.before + self.planes + self.after)

    def inner(self, tensor: Tensor) -> Tensor:
        """The slab of a tensor on :attr:`wide`."""
        return tensor.narrow(2, self.before, self.planes)


def slabs(grid: Grid, halo: int = 0) -> Iterator[Slab]:
    """Divide a grid into slabs of about :data:`SLAB` voxels each.

    Args:
        halo: neighbouring planes on either side.
    """
    i, j, k = grid.shape
    thick = max(1, SLAB // (j * k))
    for first in range(0, i, thick):
        planes = min(thick, i - first)
        yield Slab(grid, first, planes, min(halo, first), min(halo, i - first - planes))


def assembled(grid: Grid, make: Callable[[Slab], Tensor], halo: int = 0) -> Tensor:
    """Assemble a tensor ``(1, C, I, J, K)`` on a grid slab by slab; ``make`` returns
    ``(1, C, planes, J, K)``.
    """
    whole: Tensor | None = None
    for slab in slabs(grid, halo):
        part = make(slab)
        if whole is None:
            whole = (
                part
                if slab.planes == grid.shape[0]
                else part.new_empty(*part.shape[:2], *grid.shape)
            )
        if whole is not part:
            slab.of(whole).copy_(part)
    assert whole is not None
    return whole


def warped_slab(image: Image, displacement: Tensor, grid: Grid) -> Image:
    """:meth:`lightning_reg.spatial.Image.warped_by` on a slab, from the part of the image it maps
    to: sampling copies its input.

    Args:
        displacement: ``(1, 3, planes, J, K)`` in voxels of the slab's ``grid``.
    """
    if math.prod(image.grid.shape) < 2 * math.prod(grid.shape) or not bool(
        torch.isfinite(displacement).all()
    ):
        return image.warped_by(displacement, grid)
    ends = [
        [float(u.min()), float(u.max()) + n - 1]
        for u, n in zip(displacement[0], grid.shape, strict=True)
    ]
    box = torch.cartesian_prod(*torch.tensor(ends, dtype=torch.float64)).T.unsqueeze(0)
    corners = transform_points(grid.voxel_map(image.grid), box)[0]
    first, shape = [], []
    for low, high, n in zip(
        corners.amin(1).tolist(), corners.amax(1).tolist(), image.grid.shape, strict=True
    ):
        start = min(max(math.floor(low) - MARGIN, 0), n - 1)
        first.append(start)
        shape.append(max(min(math.ceil(high) + MARGIN, n - 1), start) - start + 1)
    return image.cropped(first, shape).warped_by(displacement, grid)


@torch.no_grad()
def resampled(image: Image, transform: Transform, grid: Grid) -> Image:
    """:meth:`lightning_reg.spatial.Image.warped`, slab by slab."""

    def of(slab: Slab) -> Tensor:
        return warped_slab(image, transform.displacement(slab.grid), slab.grid).tensor

    return replace(image, tensor=assembled(grid, of), grid=grid)


@torch.no_grad()
def known_on(transform: Transform, grid: Grid) -> Transform:
    """Sample the transform at every voxel of a grid, to compute it only once; unchanged if the grid
    is larger than :data:`LARGE`.
    """
    if math.prod(grid.shape) > LARGE:
        return transform
    return Displacement(transform.displacement(grid), grid)


@torch.no_grad()
def determinant_on(transform: Transform, grid: Grid) -> Tensor:
    """Determinant of the Jacobian at every voxel of a grid, ``(1, 1, I, J, K)`` in float32, slab by
    slab.
    """
    return assembled(
        grid,
        lambda slab: slab.inner(jacobian_determinant(transform.displacement(slab.wide))).float(),
        halo=1,
    )
