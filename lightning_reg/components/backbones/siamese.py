"""The encoder of method 3's affine network."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, fast_layout
from lightning_reg.components.interfaces import Backbone
from lightning_reg.functional import pool
from lightning_reg.registry import Range


class SiameseEncoder(Backbone):
    """One pipeline per image with shared weights and a global average at the end (de Vos et al.,
    2019, Section 2.1).

    The images may differ in size. Their positions in the world are not used: centre the images if
    their headers do not align them.

    Args:
        levels: convolution layers, each followed by average pooling by two.
        features: feature maps of every layer.
        channels: channels of one image.
        norm: ``none`` (as in the paper), ``batch`` or ``instance``.
    """

    separate = True

    def __init__(
        self,
        levels: Annotated[int, Range(1, 8)] = 5,
        features: Annotated[int, Range(1)] = 32,
        channels: int = 1,
        norm: Literal["batch", "instance", "none"] = "none",
    ) -> None:
        super().__init__()
        self.channels, self.strides = (2 * features,), ((2**levels,) * 3,)
        self.multiple = (2**levels,) * 3
        sizes = [channels] + [features] * levels
        self.layers = nn.ModuleList(
            ConvBlock(a, b, norm=norm) for a, b in itertools.pairwise(sizes)
        )
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        """Return one level, ``(B, 2 * features, 1, 1, 1)``: the averages of the fixed image's maps,
        then of the moving one's.
        """
        return [torch.cat([self._pipeline(fixed), self._pipeline(moving)], dim=1)]

    def _pipeline(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            image = pool(layer(image), 2)
        return image.mean((2, 3, 4), keepdim=True)
