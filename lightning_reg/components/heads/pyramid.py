"""A residual pyramid: one velocity field per level, coarse to fine, with feature warping in between."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import ConvBlock, Convolution, channels_last, fast_layout, small_output
from lightning_reg.components.interfaces import Features, Growable, Head, Stride
from lightning_reg.discovery import ArgumentError
from lightning_reg.functional import compose, exponentiate, resize, resize_displacement, warp
from lightning_reg.spatial import Displacement, Grid


class PyramidHead(Head, Growable):
    """Residual pyramid: every level warps the moving features by the coarser levels' transform and composes the flow of a velocity.

    ``phi_l = phi_{l-1} o exp(v_l)``, a composition of one invertible map per level. The first half of the features of every level
    belongs to the fixed image, the second half to the moving image, as in ``dual_stream``. While the network grows, the last level with
    a non-zero weight gives the result, and its velocity is multiplied by that weight: a new level does not change the transform at first.

    If ``symmetric``, a level compares the images midway between them: ``b_l = b_{l-1} o exp(v_l / 2)`` leads from there to the moving image
    and ``a_l = a_{l-1} o exp(-v_l / 2)`` to the fixed image; ``phi_l = b_l o a_l^{-1}``. The velocity is the difference of the estimates
    for the two orders of the images, so exchanging them gives the inverse, up to interpolation, if their grids are equal.

    Source: Kang et al., Med. Image Anal. 78, 2022 (residual pyramid on a dual stream); Mok & Chung, MICCAI 2020 (flows); Honkamaa &
    Marttinen, 2023, arXiv:2303.10211 (symmetry by construction).

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        features: feature maps of the convolutions that predict the velocity of a level.
        convolutions: number of 3 x 3 x 3 convolutions per level, before the one that predicts the velocity.
        steps: squarings of each level's flow, see :func:`lightning_reg.functional.exponentiate`.
        levels: ``finest`` returns the result of the last level, ``all`` that of every level on its own grid, for supervision there.
        symmetric: whether exchanging the images gives the inverse transform. Takes twice the time in the head.
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
        symmetric: bool = False,
        norm: str = "instance",
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        if any(n % 2 for n in channels):
            raise ArgumentError(f"channels are {tuple(channels)}; each has to be even, half for each image: use backbone dual_stream")
        if levels not in ("finest", "all"):
            raise ArgumentError(f"levels is '{levels}'; use finest or all")
        self.strides, self.steps, self.each, self.symmetric = tuple(strides), steps, levels == "all", symmetric
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
        way: _Way | None = None
        contexts: list[Tensor] = []
        finest = max(level for level, weight in enumerate(self.alpha) if weight > 0)
        for number, maps in enumerate(features[: finest + 1]):
            if maps is None:
                raise ArgumentError(f"PyramidHead: the backbone did not compute level {number}")
            fixed, moving = maps.chunk(2, dim=1)
            shape = maps.shape[2:]
            if way is not None:
                way = way.resized(shape)
                fixed = fixed if way.to_fixed is None else warp(fixed, way.to_fixed, padding="border")
                moving = warp(moving, way.to_moving, padding="border")
            orders = [(fixed, moving), (moving, fixed)] if self.symmetric else [(fixed, moving)]
            given = [[*order, *(resize(c, shape) for c in contexts[i : i + 1])] for i, order in enumerate(orders)]
            contexts = [self.estimators[number](channels_last(torch.cat(maps, dim=1))) for maps in given]
            velocities = [self.velocities[number](context).float() for context in contexts]
            velocity = velocities[0] - velocities[1] if self.symmetric else velocities[0]
            velocity = self.alpha[finest] * velocity if 0 < number == finest else velocity
            way = _Way.start(velocity, self.steps, self.symmetric) if way is None else way.stepped(velocity, self.steps)
            found.append(Displacement(way.displacement, grid.at_stride(self.strides[number], shape)))
        return found if self.each else found[-1:]


class _Way(NamedTuple):
    """Displacements that lead to the images from where a level compares them: from the fixed image, or from midway.

    Args:
        to_moving, to_fixed: to the images; ``to_fixed`` is ``None`` if the fixed image is where they are compared.
        from_fixed: the inverse of ``to_fixed``.
    """

    to_moving: Tensor
    to_fixed: Tensor | None = None
    from_fixed: Tensor | None = None

    @classmethod
    def start(cls, velocity: Tensor, steps: int, symmetric: bool) -> _Way:
        if not symmetric:
            return cls(exponentiate(velocity, steps))
        there, back = exponentiate(velocity / 2, steps), exponentiate(-velocity / 2, steps)
        return cls(there, back, there)

    def stepped(self, velocity: Tensor, steps: int) -> _Way:
        """The way after the flow of another velocity."""
        if self.to_fixed is None or self.from_fixed is None:
            return _Way(compose(self.to_moving, exponentiate(velocity, steps)))
        there, back = exponentiate(velocity / 2, steps), exponentiate(-velocity / 2, steps)
        return _Way(compose(self.to_moving, there), compose(self.to_fixed, back), compose(there, self.from_fixed))

    def resized(self, shape: Sequence[int]) -> _Way:
        return _Way(*(None if u is None else resize_displacement(u, shape) for u in self))  # type: ignore[arg-type]

    @property
    def displacement(self) -> Tensor:
        """From the fixed image to the moving image."""
        return self.to_moving if self.from_fixed is None else compose(self.to_moving, self.from_fixed)
