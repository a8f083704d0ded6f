"""The U-net of VoxelMorph, layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, fast_layout, stack_images
from lightning_reg.components.interfaces import Backbone, Stride
from lightning_reg.components.resolution import between, kernel_at, required_aspect, strides_at
from lightning_reg.functional import resize
from lightning_reg.registry import ArgumentError


class VoxelMorphUNet(Backbone):
    """Encoder and decoder given as in VoxelMorph, by lists of feature maps per layer; a layer is a
    convolution and a leaky ReLU.

    Every encoder layer is followed by maximum pooling by 2, every decoder layer by
    nearest-neighbour upsampling and concatenation with the encoder's maps of that size. The last
    layers work at full resolution.

    Source: Balakrishnan et al., IEEE TMI 38(8), 2019, Section III-A; the default is the layer list
        of its published code (vm2).

    Args:
        encoder, decoder: feature maps per layer; both have the same number of layers.
        last: feature maps of the layers at full resolution, one or more.
        channels: channels of the two images together.
        norm, slope: see :class:`~lightning_reg.components.blocks.ConvBlock`.
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.

    Raises:
        ArgumentError: the lists do not fit together.
    """

    def __init__(
        self,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        last: Sequence[int] = (32, 16, 16),
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "none",
        slope: float = 0.2,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if (
            not encoder
            or not last
            or len(encoder) != len(decoder)
            or min(*encoder, *decoder, *last) < 1
        ):
            raise ArgumentError(
                f"encoder has {list(encoder)}, decoder {list(decoder)} and last {list(last)}"
                " feature maps; give encoder and decoder the same number of layers, last one layer"
                " or more, and every layer 1 or more maps"
            )

        self.aspect = required_aspect(aspect)
        strides = strides_at([2**n for n in range(len(encoder) + 1)], self.aspect)

        def block(inputs: int, outputs: int, stride: Stride) -> ConvBlock:
            return ConvBlock(inputs, outputs, kernel_at(stride, self.aspect), norm, slope=slope)

        self.encoder = nn.ModuleList(
            block(a, b, stride)
            for (a, b), stride in zip(
                itertools.pairwise([channels, *encoder]), strides, strict=False
            )
        )
        inputs = [encoder[-1], *(a + b for a, b in zip(decoder, reversed(encoder), strict=True))]
        self.decoder = nn.ModuleList(
            block(*sizes) for sizes in zip(inputs, decoder, reversed(strides), strict=False)
        )
        self.last = nn.Sequential(
            *(block(a, b, strides[0]) for a, b in itertools.pairwise([inputs[-1], *last]))
        )
        self.channels, self.strides, self.multiple = (last[-1],), strides[:1], strides[-1]
        self.factors = [between(coarse, fine) for fine, coarse in itertools.pairwise(strides)]
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        x = stack_images(fixed, moving)
        skips = []
        for layer, factor in zip(self.encoder, self.factors, strict=True):
            x = layer(x)
            skips.append(x)
            x = F.max_pool3d(x, factor)
        for layer in self.decoder:
            skip = skips.pop()
            x = torch.cat([resize(layer(x), skip.shape[2:], "nearest"), skip], dim=1)
        return [self.last(x)]
