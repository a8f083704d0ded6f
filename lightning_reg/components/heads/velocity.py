"""A stationary velocity field."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.blocks import Convolution, fast_layout, small_output
from lightning_reg.components.interfaces import Features, Head, Stride
from lightning_reg.functional import pool
from lightning_reg.registry import ArgumentError, require_count
from lightning_reg.spatial import Grid, Velocity


class VelocityHead(Head):
    """The flow of a stationary velocity predicted from the finest features; the inverse is the flow
    of minus that velocity.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        steps: number of squarings, see :func:`lightning_reg.functional.exponentiate`.
        reduce: factor by which the velocity is average-pooled along every axis before it is
            integrated (2 in VoxelMorph).
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[Stride], steps: int = 7, reduce: int = 1
    ) -> None:
        super().__init__()
        require_count(steps, "steps", least=0)
        require_count(reduce, "reduce")
        self.stride, self.steps, self.reduce = tuple(reduce * n for n in strides[-1]), steps, reduce
        self.velocity = Convolution(channels[-1], 3)
        small_output(self.velocity)
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Velocity]:
        finest = features[-1]
        if finest is None:
            raise ArgumentError("VelocityHead: the backbone did not compute its finest level")
        velocity = pool(self.velocity(finest).float(), self.reduce) / self.reduce
        return [Velocity(velocity, grid.at_stride(self.stride, velocity.shape[2:]), self.steps)]
