"""A stationary velocity field."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.blocks import Convolution, fast_layout, small_output
from lightning_reg.components.interfaces import Features, Head, Stride
from lightning_reg.discovery import ArgumentError
from lightning_reg.spatial import Grid, Velocity


class VelocityHead(Head):
    """The flow of a velocity that is read off the finest features, at their resolution; its inverse is the flow of minus that velocity.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        steps: squarings, see :func:`lightning_reg.functional.exponentiate`.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[Stride], steps: int = 7) -> None:
        super().__init__()
        self.stride, self.steps = strides[-1], steps
        self.velocity = Convolution(channels[-1], 3)
        small_output(self.velocity)
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Velocity]:
        finest = features[-1]
        if finest is None:
            raise ArgumentError("VelocityHead: the backbone did not compute its finest level")
        velocity = self.velocity(finest).float()
        return [Velocity(velocity, grid.at_stride(self.stride, velocity.shape[2:]), self.steps)]
