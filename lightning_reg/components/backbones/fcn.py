"""The fully convolutional network of method 5."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, UpBlock, fast_layout, stack_images
from lightning_reg.components.interfaces import Backbone


class FCN(Backbone):
    """Down to a quarter of the resolution by two poolings, and up again by two transposed convolutions, without skips.

    Source: Li & Fan, 2018, Figure 1. Where the paper has windows of three voxels at a stride of two, these have four: those of three lie
    around every second voxel, and the levels' grids around pairs of them.

    Convolutions of ``features`` times 1, 2, 4 and 2 maps; transposed ones of 2 and 1. The three levels of features have strides 4, 2, 1.

    Args:
        features: feature maps of the first convolution.
        channels: channels of the two images together.
        norm: ``batch`` (the paper's), ``instance`` or ``none``.
    """

    strides = ((4, 4, 4), (2, 2, 2), (1, 1, 1))
    multiple = (4, 4, 4)

    def __init__(self, features: int = 32, channels: int = 2, norm: str = "batch") -> None:
        super().__init__()
        n = features
        self.channels = (2 * n, 2 * n, n)
        self.down = nn.Sequential(
            ConvBlock(channels, n, norm=norm),
            nn.MaxPool3d(4, stride=2, padding=1),
            ConvBlock(n, 2 * n, norm=norm),
            nn.MaxPool3d(4, stride=2, padding=1),
            ConvBlock(2 * n, 4 * n, norm=norm),
            ConvBlock(4 * n, 2 * n, norm=norm),
        )
        self.up = nn.ModuleList([UpBlock(2 * n, 2 * n, norm, kernel=4), UpBlock(2 * n, n, norm, kernel=4)])
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        features: list[Tensor | None] = [x := self.down(stack_images(fixed, moving))]
        for up in self.up:
            x = up(x)
            features.append(x)
        return features
