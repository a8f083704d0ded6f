"""A U-net applied to each image separately."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.components.backbones.unet import UNet
from lightning_reg.components.blocks import channels_last
from lightning_reg.components.interfaces import Backbone, Growable


class DualStream(Backbone, Growable):
    """One U-net applied to each image separately. The maps of every level are those of the fixed image, then those of the moving image.

    The features do not depend on the alignment of the images; the head (``pyramid``) combines them. While the network grows, levels above
    the last one with a non-zero weight are not computed.

    Source: the dual-stream encoder of Kang et al., Med. Image Anal. 78, 2022; here with a decoder.

    Args:
        levels, features, convolutions, input_stride, output_stride, norm, slope, conditioned: of the network, see
            :class:`~lightning_reg.components.backbones.unet.UNet`.
        channels: channels of one image.
    """

    def __init__(
        self,
        levels: int = 4,
        features: int = 16,
        convolutions: int = 1,
        input_stride: int = 1,
        output_stride: int | None = None,
        channels: int = 1,
        norm: str = "instance",
        slope: float = 0.2,
        conditioned: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.stream = UNet(levels, features, convolutions, input_stride, output_stride, channels, norm, slope, conditioned)
        self.channels, self.strides = tuple(2 * n for n in self.stream.channels), self.stream.strides
        self.multiple = self.stream.multiple
        self.alpha = (0.0,) * (len(self.channels) - 1) + (1.0,)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        computed = 1 + max(level for level, weight in enumerate(self.alpha) if weight > 0)
        both = zip(self.stream.maps(fixed, computed), self.stream.maps(moving, computed), strict=True)
        joined: list[Tensor | None] = [channels_last(torch.cat(maps, dim=1)) for maps in both]
        return joined + [None] * (len(self.channels) - computed)
