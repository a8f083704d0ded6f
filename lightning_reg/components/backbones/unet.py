"""The U-net of method 2 and of most other methods."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import (
    ConvBlock,
    UpBlock,
    channels_last,
    fast_layout,
    stack_images,
)
from lightning_reg.components.conditioning import Conditioning
from lightning_reg.components.interfaces import Backbone, Stride
from lightning_reg.components.resolution import between, kernel_at, required_aspect, strides_at
from lightning_reg.functional import pool
from lightning_reg.registry import ArgumentError, Range


class UNet(Backbone):
    """Encoder and decoder with skip connections: average pooling down, transposed convolutions up
    (Hering et al., 2019, Section 2.2).

    Args:
        levels: resolution levels.
        features: feature maps of the finest level; each coarser level has twice as many.
        convolutions: blocks per level, in the encoder and in the decoder.
        input_stride: the images are average-pooled by this factor first; it is the stride of the
            finest level.
        output_stride: stride at which the decoder ends; by default that of the finest level.
        channels: channels of the two images together.
        norm: ``batch``, ``instance`` or ``none``.
        slope: of the ReLU below 0.
        conditioned: smallest and largest weight of a loss term that the network takes as an input
            (callback ``conditional_weight``). The weight scales and shifts the feature maps; needs
            ``norm: instance``.
        widest: largest number of feature maps of a level; ``null``: no limit.
        aspect: relative voxel sizes along the axes, in powers of two: ``[1, 1, 4]`` for voxels of
            1.5 x 1.5 x 8 mm, 0 for an axis of one voxel. An axis is neither pooled nor convolved
            before its voxels are as large as the others'; strides are those of the finest axis.
    """

    def __init__(
        self,
        levels: Annotated[int, Range(1, 8)] = 3,
        features: Annotated[int, Range(1)] = 16,
        convolutions: int = 1,
        input_stride: int = 1,
        output_stride: int | None = None,
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "batch",
        slope: float = 0.0,
        conditioned: Sequence[float] | None = None,
        widest: int | None = None,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if widest is not None and widest < features:
            raise ArgumentError(f"widest is {widest}, and features {features}; give at least that")
        strides = [input_stride * 2**i for i in range(levels)]
        if output_stride not in (None, *strides):
            raise ArgumentError(
                f"output_stride is {output_stride}; with {levels} levels use one of"
                f" {', '.join(map(str, strides))}"
            )
        if conditioned is not None and norm != "instance":
            raise ArgumentError(
                f"norm is '{norm}' and conditioned {conditioned}; a network that is told a weight"
                " has norm instance"
            )
        self.conditioning = None if conditioned is None else Conditioning(conditioned)
        kind = norm if conditioned is None else "conditional"
        widths = [min(features * 2**i, widest or features * 2**i) for i in range(levels)]
        up_to = 0 if output_stride is None else strides.index(output_stride)
        self.aspect = required_aspect(aspect)
        ascending = strides_at(strides, self.aspect)
        self.input_stride = ascending[0]
        self.factors = [between(b, a) for a, b in itertools.pairwise(ascending)]
        self.strides = tuple(reversed(ascending[up_to:]))
        self.channels = tuple(reversed(widths[up_to:]))
        self.multiple = self.strides[0]

        def blocks(inputs: int, outputs: int, stride: Stride) -> nn.Sequential:
            sizes, kernel = [inputs] + [outputs] * convolutions, kernel_at(stride, self.aspect)
            return nn.Sequential(
                *(ConvBlock(a, b, kernel, kind, slope=slope) for a, b in itertools.pairwise(sizes))
            )

        self.encoders = nn.ModuleList(
            blocks(a, b, stride)
            for (a, b), stride in zip(
                itertools.pairwise([channels, *widths]), ascending, strict=True
            )
        )
        self.up = nn.ModuleList(
            UpBlock(a, b, kind, slope=slope, factor=between(coarse, fine))
            for (a, b), (coarse, fine) in zip(
                itertools.pairwise(self.channels), itertools.pairwise(self.strides), strict=True
            )
        )
        self.decoders = nn.ModuleList(
            blocks(2 * n, n, stride)
            for n, stride in zip(self.channels[1:], self.strides[1:], strict=True)
        )
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        return list(self.maps(stack_images(fixed, moving)))

    def maps(self, images: Tensor, levels: int | None = None) -> list[Tensor]:
        """Compute the features, coarsest first, of images stacked as channels,
        ``(B, channels, I, J, K)``.

        Args:
            levels: compute only this many levels, the coarsest ones; default all.
        """
        with nullcontext() if self.conditioning is None else self.conditioning.given_to(self):
            return self._maps(images, len(self.channels) if levels is None else levels)

    def _maps(self, images: Tensor, levels: int) -> list[Tensor]:
        x = channels_last(pool(images, self.input_stride))
        skips: list[Tensor] = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(x if index == 0 else pool(x, self.factors[index - 1]))
            skips.append(x)
        features = [skips.pop()]
        for up, decoder in list(zip(self.up, self.decoders, strict=True))[: levels - 1]:
            x = decoder(torch.cat([up(x), skips.pop()], dim=1))
            features.append(x)
        return features
