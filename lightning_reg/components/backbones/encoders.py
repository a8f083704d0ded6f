"""The encoders of method 3: of its affine network, and of its deformable networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, fast_layout, stack_images
from lightning_reg.components.interfaces import Backbone
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


class LatticeEncoder(Backbone):
    """Features at the control points of a B-spline, one voxel each (de Vos et al., 2019, Section
    2.2 and Figure 3).

    Convolutions alternate with average pooling down to the lattice; two more 3x3x3 convolutions
    widen the receptive field to the support of the spline (four spacings), and two of 1x1x1 follow.

    Args:
        spacing: control-point distance, voxels: a power of two, for all axes or per axis.
        features: feature maps of every layer.
        channels: channels of the two images together.
        norm: ``none`` (as in the paper), ``batch`` or ``instance``.
    """

    def __init__(
        self,
        spacing: int | Sequence[int] = 8,
        features: Annotated[int, Range(1)] = 32,
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "none",
    ) -> None:
        super().__init__()
        i, j, k = [spacing] * 3 if isinstance(spacing, int) else spacing
        if any(s < 1 or s & (s - 1) for s in (i, j, k)):
            raise ArgumentError(
                f"spacing is {spacing}; along every axis it has to be a power of two"
            )
        self.channels, self.strides, self.multiple = (features,), ((i, j, k),), (i, j, k)
        halvings = [s.bit_length() - 1 for s in (i, j, k)]
        self.factors = [
            tuple(2 if step < n else 1 for n in halvings) for step in range(max(halvings))
        ]
        kernels = [3] * (len(self.factors) + 2) + [1, 1]
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
