"""Positive spatial gradients of the sampling coordinates, integrated along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import (
    ConvBlock,
    Convolution,
    fast_layout,
    recomputed,
    small_output,
)
from lightning_reg.components.interfaces import Features, Head, Stride
from lightning_reg.components.resolution import kernel_at, required_aspect
from lightning_reg.functional import in_plane
from lightning_reg.spatial import Grid, IntegratedGradient


class IntegratedGradientHead(Head):
    """Gradients of the sampling coordinates in (0, 2): along each axis, coordinates always
    increase.

    Squeeze and excitation, convolutions, two times a sigmoid; close to the identity at
    initialisation. Source: Christodoulidis et al., 2018, Section 2.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied); all levels of the
        finest stride are used.
        features: feature maps of the convolutions before the last one.
        reduction: factor by which the squeeze reduces the channels.
        norm, slope: of the convolutions, see :class:`~lightning_reg.components.blocks.ConvBlock`.
        recompute: recompute the convolutions in the backward pass instead of storing their
            intermediate results.
        aspect: of the backbone (supplied).
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        features: Sequence[int] = (64, 32),
        reduction: int = 16,
        norm: Literal["batch", "instance", "none"] = "instance",
        slope: float = 0.2,
        recompute: bool = False,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.stride, self.recompute = strides[-1], recompute
        self.first = next(level for level, stride in enumerate(strides) if stride == self.stride)
        read = sum(channels[self.first :])
        squeezed = max(read // reduction, 1)
        self.excite = nn.Sequential(
            nn.Linear(read, squeezed), nn.ReLU(), nn.Linear(squeezed, read), nn.Sigmoid()
        )
        sizes, kernel = [read, *features], kernel_at(self.stride, required_aspect(aspect))
        blocks = (
            ConvBlock(a, b, kernel, norm, slope=slope)
            for a, b in zip(sizes, features, strict=False)
        )
        self.convolutions = nn.Sequential(*blocks)
        self.gradients = Convolution(sizes[-1], 3, kernel)
        small_output(self.gradients)
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[IntegratedGradient]:
        read = features[self.first :]
        weights: Tensor = self.excite(torch.cat([level.mean((2, 3, 4)) for level in read], dim=1))
        x = recomputed(self.recompute, self._excited, weights, *read)
        for block in list(self.convolutions)[1:]:
            x = recomputed(self.recompute, block, x)
        gradient = 2 * torch.sigmoid(in_plane(self.gradients(x).float(), grid.shape))
        return [IntegratedGradient(gradient, grid.at_stride(self.stride, gradient.shape[2:]))]

    def _excited(self, weights: Tensor, *features: Tensor) -> Tensor:
        """Apply the first block to the features, each channel multiplied by its weight.

        The weights are multiplied into the convolution's kernel, and the convolutions of the levels
        are summed: neither the weighted features nor their concatenation has to be stored.
        """
        block = self.convolutions[0]
        assert isinstance(block, ConvBlock)
        convolution = block[0]
        assert isinstance(convolution, Convolution)
        elements = []
        for b, excitation in enumerate(weights):
            kernel = convolution.weight * excitation.view(1, -1, 1, 1, 1)
            parts = kernel.split([level.shape[1] for level in features], dim=1)
            total = convolution.with_weight(features[0][b : b + 1], parts[0], convolution.bias)
            for level, part in zip(features[1:], parts[1:], strict=True):
                total = total + convolution.with_weight(level[b : b + 1], part, None)
            elements.append(total)
        x = torch.cat(elements)
        for layer in list(block)[1:]:
            x = layer(x)
        return x
