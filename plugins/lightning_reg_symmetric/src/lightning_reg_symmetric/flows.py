"""Flows whose inverse is solved for, point by point."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_reg import Grid, Transform
from lightning_reg.functional import exponentiate, sample, transform_points, transform_vectors
from lightning_reg.spatial.transforms import SampledTransform

TOLERANCE = 1e-3
"""Voxels of the flow's grid by which a solved point may be off."""
STEPS = 40
"""Fixed-point iterations at most: as many as a flow needs whose neighbouring voxels come as near as 0.15 of their distance."""


class Flow(SampledTransform):
    """The flow of a stationary velocity over unit time, as :class:`lightning_reg.Velocity`, with an inverse that is exact.

    ``Velocity`` takes the flow of the opposite velocity for its inverse, which is that of the *continuous* map: between voxels both are
    interpolated, and miss each other by a few hundredths of a voxel, or a tenth where they are rough.

    Args:
        velocity: ``(B, 3, I, J, K)`` voxels of ``grid`` per unit time.
        squarings: of scaling and squaring.
    """

    def __init__(self, velocity: Tensor, grid: Grid, squarings: int = 5) -> None:
        super().__init__(exponentiate(velocity.float(), squarings), grid)
        self.velocity, self.squarings = velocity, squarings

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Flow:
        return Flow(self.velocity.to(device=device, dtype=dtype), self.grid, self.squarings)

    def inverse(self) -> Solved:
        return Solved(self)


class Solved(Transform):
    """The inverse of a flow: where ``x`` came from is found by ``y <- x - u(y)``, to :data:`TOLERANCE`, at whatever points it is asked for.

    Gradients are those of the last iteration alone (one term of the series of the implicit function theorem).

    Args:
        flow: the one that is inverted.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow, self.grid = flow, flow.grid

    def map_voxels(self, points: Tensor) -> Tensor:
        field = self.flow.field.to(points.dtype)
        with torch.no_grad():
            found = points
            for _ in range(STEPS):
                before, found = found, points - sample(field, found, padding="border")
                if points.is_meta or float((found - before).abs().max()) < TOLERANCE:
                    break
        return points - sample(field, found, padding="border")

    def map_world(self, points: Tensor) -> Tensor:
        points = points.to(self.like.device)
        inside = self.grid.to_voxel(points)
        moved = self.map_voxels(inside.to(self.like.dtype)) - inside
        return points + transform_vectors(self.grid.affine, moved)

    def dense(self) -> Tensor:
        return self.displacement(self.grid)

    def displacement(self, grid: Grid | None = None) -> Tensor:
        grid = grid or self.grid
        points = grid.points(dtype=self.like.dtype, device=self.like.device)
        inside = transform_points(grid.voxel_map(self.grid), points)
        return transform_vectors(self.grid.voxel_map(grid), self.map_voxels(inside) - inside)

    def inverse(self) -> Flow:
        return self.flow

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Solved:
        return Solved(self.flow.to(device, dtype))

    @property
    def like(self) -> Tensor:
        return self.flow.field
