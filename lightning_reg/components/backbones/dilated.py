"""The encoder of method 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, fast_layout, recomputed, stack_images
from lightning_reg.components.interfaces import Backbone
from lightning_reg.components.resolution import kernel_at, required_aspect, stride_at
from lightning_reg.functional import pool
from lightning_reg.registry import ArgumentError


class DilatedEncoder(Backbone):
    """Dilated convolutions at full resolution; all their outputs and both images are the features.

    The levels all have the same stride, the images first. Heads read them together, without copying
    them into one tensor.

    Source: Christodoulidis et al., 2018, Section 2.2.

    Args:
        features: feature maps per layer; the paper gives only the total of 290 with the images.
        dilations: per layer; the receptive field is one plus twice their sum (25 voxels in the
            paper).
        channels: channels of the two images together.
        norm: ``instance`` (as in the paper), ``batch`` or ``none``.
        slope: negative slope of the leaky ReLU.
        stride: the images are average-pooled by this factor first (1 in the paper).
        recompute: store only the layers' outputs for the backward pass and recompute the rest: half
            the memory, a third more time.
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.
    """

    def __init__(
        self,
        features: Sequence[int] = (32, 64, 64, 64, 64),
        dilations: Sequence[int] = (1, 1, 2, 3, 5),
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "instance",
        slope: float = 0.2,
        stride: int = 1,
        recompute: bool = False,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(features) != len(dilations):
            raise ArgumentError(
                f"features has {len(features)} values and dilations {len(dilations)}; give one per"
                " layer"
            )
        self.aspect, self.recompute = required_aspect(aspect), recompute
        self.multiple = stride_at(stride, self.aspect)
        self.channels, self.strides = (channels, *features), (self.multiple,) * (1 + len(features))
        kernel = kernel_at(self.multiple, self.aspect)
        sizes = [channels, *features]
        self.layers = nn.ModuleList(
            ConvBlock(a, b, kernel, norm, d, slope)
            for a, b, d in zip(sizes, sizes[1:], dilations, strict=False)
        )
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        stride = self.strides[0]
        found = [stack_images(pool(fixed, stride), pool(moving, stride))]
        for layer in self.layers:
            found.append(recomputed(self.recompute, layer, found[-1]))
        return list(found)
