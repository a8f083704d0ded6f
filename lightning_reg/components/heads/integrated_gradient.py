"""Positive spatial gradients of the sampling coordinates, integrated along each axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, Convolution, fast_layout, small_output
from lightning_reg.components.interfaces import Features, Head, Stride
from lightning_reg.spatial import Grid, IntegratedGradient


class IntegratedGradientHead(Head):
    """Steps between the images of neighbouring voxels in (0, 2), so that no axis can cross itself.

    Squeeze and excitation, convolutions, twice a sigmoid; the identity at initialisation (almost). Source: Christodoulidis et al.,
    2018, Section 2.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied); the finest one is read.
        features: feature maps of the convolutions before the last one.
        reduction: of the channels in the squeeze.
        norm, slope: of the convolutions, see :class:`~lightning_reg.components.blocks.ConvBlock`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        features: Sequence[int] = (64, 32),
        reduction: int = 16,
        norm: str = "instance",
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.stride = strides[-1]
        squeezed = max(channels[-1] // reduction, 1)
        self.excite = nn.Sequential(nn.Linear(channels[-1], squeezed), nn.ReLU(), nn.Linear(squeezed, channels[-1]), nn.Sigmoid())
        sizes = [channels[-1], *features]
        blocks = (ConvBlock(a, b, norm=norm, slope=slope) for a, b in zip(sizes, features, strict=False))
        self.convolutions = nn.Sequential(*blocks)
        self.gradients = Convolution(sizes[-1], 3)
        small_output(self.gradients)
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[IntegratedGradient]:
        finest = features[-1]
        if finest is None:
            raise ValueError("IntegratedGradientHead: the backbone did not compute its finest level")
        weights: Tensor = self.excite(finest.mean((2, 3, 4)))
        steps = self.gradients(self.convolutions(finest * weights.view(*weights.shape, 1, 1, 1)))
        steps = 2 * torch.sigmoid(steps.float())
        return [IntegratedGradient(steps, grid.at_stride(self.stride, steps.shape[2:]))]
