"""The fully convolutional network of method 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, UpBlock, fast_layout, stack_images
from lightning_reg.components.interfaces import Backbone
from lightning_reg.components.resolution import between, kernel_at, required_aspect, strides_at
from lightning_reg.registry import Range

FORMS = ("multiresolution", "no_pooling", "interpolated")


class FCN(Backbone):
    """Two poolings down to a quarter of the resolution and two transposed convolutions up again,
    without skip connections.

    Source: Li & Fan, 2018, Figure 1. Poolings and transposed convolutions have windows of four
    voxels instead of the paper's three (stride 2): windows of three are centred on every second
    voxel, but the voxels of the next level are centred between pairs of voxels.

    The convolutions have ``features`` times 1, 2, 4 and 2 maps, the transposed ones 2 and 1. The
    three output levels have strides 4, 2, 1.

    Args:
        features: feature maps of the first convolution.
        channels: channels of the two images together.
        norm: ``batch`` (as in the paper), ``instance`` or ``none``.
        form: ``multiresolution``, or one of the networks that the paper compares it with:
            ``no_pooling`` (the first three convolutions at full resolution) or ``interpolated``
            (the convolutions and poolings; the features at stride 4 are the only level).
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.
    """

    def __init__(
        self,
        features: Annotated[int, Range(1)] = 32,
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "batch",
        form: Literal["multiresolution", "no_pooling", "interpolated"] = "multiresolution",
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        n, self.aspect = features, required_aspect(aspect)
        one, two, four = strides_at((1, 2, 4), self.aspect)
        halved, quartered = between(two, one), between(four, two)
        kernels = [kernel_at(stride, self.aspect) for stride in (one, two, four)]
        if form == "no_pooling":
            self.channels, self.strides, self.multiple = (4 * n,), (one,), one
            pools: list[nn.Module] = [nn.Identity(), nn.Identity()]
            kernels = kernels[:1] * 3
        else:
            several = form == "multiresolution"
            self.channels = (2 * n, 2 * n, n) if several else (2 * n,)
            self.strides, self.multiple = (four, two, one) if several else (four,), four
            pools = [
                nn.MaxPool3d(
                    tuple(4 if f == 2 else 1 for f in factor), factor, tuple(f - 1 for f in factor)
                )
                for factor in (halved, quartered)
            ]
        self.down = nn.Sequential(
            ConvBlock(channels, n, kernels[0], norm),
            pools[0],
            ConvBlock(n, 2 * n, kernels[1], norm),
            pools[1],
            ConvBlock(2 * n, 4 * n, kernels[2], norm),
        )
        if form != "no_pooling":
            self.down.append(ConvBlock(4 * n, 2 * n, kernels[2], norm))
        ups = (
            [
                UpBlock(2 * n, 2 * n, norm, kernel=4, factor=quartered),
                UpBlock(2 * n, n, norm, kernel=4, factor=halved),
            ]
            if form == "multiresolution"
            else []
        )
        self.up = nn.ModuleList(ups)
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        features: list[Tensor | None] = [x := self.down(stack_images(fixed, moving))]
        for up in self.up:
            x = up(x)
            features.append(x)
        return features
