"""The encoders of method 3: of its affine network, and of its deformable networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, fast_layout, stack_images
from lightning_reg.components.interfaces import Backbone
from lightning_reg.components.resolution import (
    between,
    kernel_at,
    required_aspect,
    stride_at,
    strides_at,
)
from lightning_reg.functional import pool
from lightning_reg.registry import ArgumentError, Range


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
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.
    """

    separate = True

    def __init__(
        self,
        levels: Annotated[int, Range(1, 8)] = 5,
        features: Annotated[int, Range(1)] = 32,
        channels: int = 1,
        norm: Literal["batch", "instance", "none"] = "none",
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.aspect = required_aspect(aspect)
        strides = strides_at([2**n for n in range(levels + 1)], self.aspect)
        self.channels, self.strides, self.multiple = (2 * features,), strides[-1:], strides[-1]
        self.factors = [between(coarse, fine) for fine, coarse in itertools.pairwise(strides)]
        sizes = [channels] + [features] * levels
        self.layers = nn.ModuleList(
            ConvBlock(a, b, kernel_at(stride, self.aspect), norm)
            for (a, b), stride in zip(itertools.pairwise(sizes), strides, strict=False)
        )
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        """Return one level, ``(B, 2 * features, 1, 1, 1)``: the averages of the fixed image's maps,
        then of the moving one's.
        """
        return [torch.cat([self._pipeline(fixed), self._pipeline(moving)], dim=1)]

    def _pipeline(self, image: Tensor) -> Tensor:
        for layer, factor in zip(self.layers, self.factors, strict=True):
            image = pool(layer(image), factor)
        return image.mean((2, 3, 4), keepdim=True)


class LatticeEncoder(Backbone):
    """Features at the control points of a B-spline, one voxel each (de Vos et al., 2019, Section
    2.2 and Figure 3).

    Convolutions alternate with average pooling down to the lattice; two more 3x3x3 convolutions
    widen the receptive field to the support of the spline (four spacings), and two of 1x1x1 follow.

    Args:
        spacing: control-point distance, voxels: a power of two, for the finest axis or per axis.
        features: feature maps of every layer.
        channels: channels of the two images together.
        norm: ``none`` (as in the paper), ``batch`` or ``instance``.
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.
    """

    def __init__(
        self,
        spacing: int | Sequence[int] = 8,
        features: Annotated[int, Range(1)] = 32,
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "none",
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.aspect = required_aspect(aspect)
        i, j, k = stride_at(spacing, self.aspect) if isinstance(spacing, int) else spacing
        if any(s < 1 or s & (s - 1) for s in (i, j, k)):
            raise ArgumentError(
                f"spacing is {spacing}; along every axis it has to be a power of two"
            )
        self.channels, self.strides, self.multiple = (features,), ((i, j, k),), (i, j, k)
        halvings = [s.bit_length() - 1 for s in (i, j, k)]
        coarse = max(halvings)
        # an axis of larger voxels is pooled last
        late = [coarse - n if a > 1 else 0 for n, a in zip(halvings, self.aspect, strict=True)]
        self.factors = [
            tuple(2 if a <= step < a + n else 1 for n, a in zip(halvings, late, strict=True))
            for step in range(coarse)
        ]
        reached = [(2 ** min(step, coarse),) * 3 for step in range(coarse + 2)]
        kernels = [kernel_at(stride, self.aspect) for stride in reached] + [(1, 1, 1)] * 2
        sizes = [channels] + [features] * len(kernels)
        widths = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(
            ConvBlock(a, b, kernel, norm) for (a, b), kernel in zip(widths, kernels, strict=True)
        )
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        x = stack_images(fixed, moving)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < len(self.factors):
                x = pool(x, self.factors[index])
        return [x]
