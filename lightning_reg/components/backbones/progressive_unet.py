"""The progressively growing U-net of method 1."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, UpBlock, fast_layout, stack_images
from lightning_reg.components.interfaces import Backbone, Growable
from lightning_reg.components.resolution import between, kernel_at, required_aspect, strides_at
from lightning_reg.functional import pool
from lightning_reg.registry import Range


class ProgressiveUNet(Backbone, Growable):
    """A U-net with an input and an output at every resolution level (Eppenhof et al., 2019, Section
    2.2).

    Level 0 is the coarsest. With weights ``alpha`` (see :meth:`grow`) and
    ``beta_i = sum_{k <= i} alpha_k``, the input of level *i* is
    ``beta_i * input_i(images pooled to level i) + (1 - beta_i) * pooled features of level i + 1``.
    Levels above the last one with a non-zero weight, and inputs with ``beta_i = 0``, are not
    computed.

    Args:
        levels: resolution levels.
        features: feature maps of the finest level; each coarser level has twice as many.
        channels: channels of the two images together.
        norm: ``batch`` (as in the paper) or ``instance``.
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.
    """

    def __init__(
        self,
        levels: Annotated[int, Range(1, 8)] = 5,
        features: Annotated[int, Range(1)] = 16,
        channels: int = 2,
        norm: Literal["batch", "instance", "none"] = "batch",
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.aspect = required_aspect(aspect)
        widths = [features * 2 ** (levels - 1 - i) for i in range(levels)]
        self.channels = tuple(widths)
        self.strides = strides_at([2 ** (levels - 1 - i) for i in range(levels)], self.aspect)
        self.multiple = self.strides[0]
        self.factors = [between(coarse, fine) for coarse, fine in itertools.pairwise(self.strides)]
        kernels = [kernel_at(stride, self.aspect) for stride in self.strides]
        self.alpha = (0.0,) * (levels - 1) + (1.0,)
        levels_in = list(zip(widths, kernels, strict=True))
        self.inputs = nn.ModuleList(ConvBlock(channels, n, k, norm) for n, k in levels_in)
        self.encoders = nn.ModuleList(ConvBlock(n, n, k, norm) for n, k in levels_in)
        self.widen = nn.ModuleList(
            ConvBlock(fine, coarse, kernel=1, norm=norm)
            for coarse, fine in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            UpBlock(coarse, fine, norm=norm, factor=factor)
            for (coarse, fine), factor in zip(itertools.pairwise(widths), self.factors, strict=True)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(ConvBlock(2 * n, n, k, norm), ConvBlock(n, n, k, norm))
            for n, k in levels_in[1:]
        )
        fast_layout(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor | None]:
        top = max(i for i, a in enumerate(self.alpha) if a > 0)
        beta = [min(b, 1.0) if abs(b - 1) > 1e-6 else 1.0 for b in itertools.accumulate(self.alpha)]
        read = [i for i in range(top + 1) if beta[i] > 0]
        pyramid = {
            i: stack_images(pool(fixed, self.strides[i]), pool(moving, self.strides[i]))
            for i in read
        }

        skips: list[Tensor] = []
        x: Tensor | None = None
        for i in range(top, -1, -1):
            above = None if x is None or beta[i] == 1 else self.widen[i](pool(x, self.factors[i]))
            entering = self.inputs[i](pyramid[i]) if beta[i] > 0 else None
            x = _mix(entering, above, beta[i])
            x = self.encoders[i](x)
            skips.append(x)

        x = skips.pop()
        features: list[Tensor | None] = [x]
        for i in range(1, top + 1):
            x = self.decoders[i - 1](torch.cat([self.up[i - 1](x), skips.pop()], dim=1))
            features.append(x)
        return features + [None] * (len(self.alpha) - len(features))


def _mix(entering: Tensor | None, above: Tensor | None, beta: float) -> Tensor:
    """``beta * entering + (1 - beta) * above``; an input with weight 0 is ``None``."""
    if above is None:
        assert entering is not None
        return entering
    return above if entering is None else beta * entering + (1 - beta) * above
