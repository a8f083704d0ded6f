"""A residual pyramid: one velocity field per level, coarse to fine, with feature warping in between."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, Convolution, channels_last, fast_layout, small_output
from lightning_reg.components.interfaces import Features, Growable, Head, Stride
from lightning_reg.discovery import ArgumentError, require_count
from lightning_reg.functional import compose, exponentiate, resize, resize_displacement, warp
from lightning_reg.spatial import Displacement, Grid


class PyramidHead(Head, Growable):
    """Residual pyramid: every level warps the moving features by the coarser levels' transform and composes the flow of a velocity.

    ``phi_l = phi_{l-1} o exp(v_l)``, a composition of one invertible map per level. The first half of the features of every level
    belongs to the fixed image, the second half to the moving image, as in ``dual_stream``. While the network grows, the last level with
    a non-zero weight gives the result, and its velocity is multiplied by that weight: a new level does not change the transform at first.

    If ``antisymmetric``, the velocity of a level is the difference of the estimates for both orders of the images, the moving one warped.
    Equal images then give the identity, whatever the weights; exchanging the images gives the inverse if there is only one level.

    Source: Kang et al., Med. Image Anal. 78, 2022 (residual pyramid on a dual stream); Mok & Chung, MICCAI 2020 (flows); Honkamaa &
    Marttinen, 2023, arXiv:2303.10211 (differences of both orders; there between images that are both warped, to midway).

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        features: feature maps of the convolutions that predict the velocity of a level.
        convolutions: number of 3 x 3 x 3 convolutions per level, before the one that predicts the velocity.
        steps: squarings of each level's flow, see :func:`lightning_reg.functional.exponentiate`.
        levels: ``finest`` returns the result of the last level, ``all`` that of every level on its own grid, for supervision there.
        antisymmetric: whether the velocities are differences of both orders. Takes twice the time in the head.
        norm, slope: of the convolutions, see :class:`~lightning_reg.components.blocks.ConvBlock`.

    Raises:
        ArgumentError: an odd number of maps, which cannot belong to two images; or an unknown value of ``levels``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        features: int = 16,
        convolutions: int = 2,
        steps: int = 5,
        levels: str = "finest",
        antisymmetric: bool = False,
        norm: str = "instance",
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        if any(n % 2 for n in channels):
            raise ArgumentError(f"channels are {tuple(channels)}; each has to be even, half for each image: use backbone dual_stream")
        if levels not in ("finest", "all"):
            raise ArgumentError(f"levels is '{levels}'; use finest or all")
        require_count(steps, "steps", least=0)
        self.strides, self.steps, self.each, self.antisymmetric = tuple(strides), steps, levels == "all", antisymmetric
        self.alpha = (0.0,) * (len(channels) - 1) + (1.0,)
        self.estimators, self.velocities = nn.ModuleList(), nn.ModuleList()
        for number, maps in enumerate(channels):
            sizes = [maps + (features if number else 0)] + [features] * convolutions
            blocks = [ConvBlock(a, b, norm=norm, slope=slope) for a, b in itertools.pairwise(sizes)]
            self.estimators.append(nn.Sequential(*blocks))
            velocity = Convolution(sizes[-1], 3)
            small_output(velocity)
            self.velocities.append(velocity)
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Displacement]:
        found: list[Displacement] = []
        displacement: Tensor | None = None
        contexts: list[Tensor] = []
        finest = max(level for level, weight in enumerate(self.alpha) if weight > 0)
        for number, maps in enumerate(features[: finest + 1]):
            if maps is None:
                raise ArgumentError(f"PyramidHead: the backbone did not compute level {number}")
            fixed, moving = maps.chunk(2, dim=1)
            shape = maps.shape[2:]
            if displacement is not None:
                displacement = resize_displacement(displacement, shape)
                moving = warp(moving, displacement, padding="border")
            given = [[fixed, moving], [moving, fixed]] if self.antisymmetric else [[fixed, moving]]
            for order, context in zip(given, contexts, strict=False):  # none at the coarsest level
                order.append(resize(context, shape))
            contexts = [self.estimators[number](channels_last(torch.cat(order, dim=1))) for order in given]
            velocities = [self.velocities[number](context).float() for context in contexts]
            velocity = velocities[0] - velocities[1] if self.antisymmetric else velocities[0]
            step = exponentiate(self.alpha[finest] * velocity if 0 < number == finest else velocity, self.steps)
            displacement = step if displacement is None else compose(displacement, step)
            found.append(Displacement(displacement, grid.at_stride(self.strides[number], shape)))
        return found if self.each else found[-1:]
