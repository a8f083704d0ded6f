"""Flows with a numerical inverse, solved point by point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_reg import Grid, SampledTransform, Transform
from lightning_reg.functional import exponentiate, sample

TOLERANCE = 1e-3
"""Tolerance of the fixed-point iteration, in voxels of the flow's grid."""
STEPS = 40
"""Largest number of fixed-point iterations: sufficient for a flow that reduces the distance of
neighbouring voxels to 0.15 of it.
"""


class Flow(SampledTransform):
    """Flow of a stationary velocity over unit time, as :class:`lightning_reg.Velocity`, but with a
    numerically exact inverse.

    The inverse of ``Velocity`` is the flow of the opposite velocity, the inverse of the
    *continuous* map. Both are interpolated between voxels, so their composition deviates from the
    identity by a few hundredths of a voxel, or by a tenth for rough fields.

    Args:
        velocity: ``(B, 3, I, J, K)`` voxels of ``grid`` per unit time.
        squarings: of scaling and squaring.
    """

    def __init__(self, velocity: Tensor, grid: Grid, squarings: int = 5) -> None:
        super().__init__(exponentiate(velocity.float(), squarings), grid)
        self.velocity, self.squarings = velocity, squarings

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Flow:
        return Flow(change(self.velocity), self.grid, self.squarings)

    def inverse(self) -> Solved:
        return Solved(self)


class Solved(Transform):
    """Inverse of a flow, solved at any point ``x`` by the iteration ``y <- x - u(y)`` to
    :data:`TOLERANCE`.

    Gradients are those of the last iteration only (one term of the series of the implicit function
    theorem).

    Args:
        flow: to be inverted.
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

    def inverse(self) -> Flow:
        return self.flow

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Solved:
        return Solved(self.flow.mapped(change))

    @property
    def like(self) -> Tensor:
        return self.flow.field
