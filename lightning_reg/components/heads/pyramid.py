"""A residual pyramid: one velocity field per level, coarse to fine, with feature warping in
between.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import (
    ConvBlock,
    Convolution,
    channels_last,
    fast_layout,
    small_output,
)
from lightning_reg.components.interfaces import Features, Growable, Head, Stride
from lightning_reg.components.resolution import kernel_at, required_aspect
from lightning_reg.functional import (
    compose,
    correlation_volume,
    exponentiate,
    identity_points,
    in_plane,
    resize,
    resize_displacement,
    warp,
)
from lightning_reg.registry import ArgumentError, Range
from lightning_reg.spatial import Affine, Composition, Displacement, Grid, Transform


class PyramidHead(Head, Growable):
    """Residual pyramid: every level warps the moving features by the coarser levels' transform and
    composes the flow of a velocity.

    ``phi_l = phi_{l-1} o exp(v_l)``, a composition of one invertible map per level. The first half
    of the features of every level belongs to the fixed image, the second half to the moving image,
    as in ``dual_stream``. While the network grows, the last level with a non-zero weight gives the
    result, and its velocity is multiplied by that weight: a new level does not change the transform
    at first.

    If ``antisymmetric``, the velocity of a level is the difference of the estimates for both orders
    of the images, the moving one warped. Equal images then give the identity, whatever the weights;
    exchanging the images gives the inverse if there is only one level.

    With ``correlation``, the convolutions of every level also see how well the features of the
    fixed image agree with those of the warped moving one around every voxel, see
    :func:`~lightning_reg.functional.correlation_volume`.

    With ``keypoints``, an affine map comes first, ``phi_l = A o exp(v_0) o ... o exp(v_l)``: a
    convolution finds the keypoints in each image's own features, and a weighted least-squares fit
    takes those of the fixed image to those of the moving one. It is the identity for equal images,
    too.

    Source: Kang et al., Med. Image Anal. 78, 2022 (residual pyramid on a dual stream); Mok & Chung,
    MICCAI 2020 (flows); Honkamaa & Marttinen, 2023, arXiv:2303.10211 (differences of both orders;
    there between images that are both warped, to midway); Hoffmann et al., Imaging Neuroscience 2,
    2024 (affine map by a fit of the centres of feature maps); Sun et al., CVPR 2018 (correlation of
    the features).

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        features: feature maps of the convolutions that predict the velocity of a level.
        convolutions: number of 3 x 3 x 3 convolutions per level, before the one that predicts the
            velocity.
        steps: squarings of each level's flow, see :func:`lightning_reg.functional.exponentiate`.
        levels: ``finest`` returns the result of the last level, ``all`` that of every level on its
            own grid, for supervision there.
        antisymmetric: whether the velocities are differences of both orders. Takes twice the time
            in the head.
        norm, slope: of the convolutions, see :class:`~lightning_reg.components.blocks.ConvBlock`.
        keypoints: number of keypoints of the affine map; 0: no affine map.
        keypoint_level: level whose features show the keypoints, 0 is the coarsest.
        correlation: largest offset, voxels of each level, at which the features of both images are
            compared; 0: they are not.
        aspect: of the backbone (supplied).

    Raises:
        ArgumentError: an odd number of maps, which cannot belong to two images; an unknown value of
            ``levels``; or fewer keypoints than an affine map needs, or no such level.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        features: int = 16,
        convolutions: int = 2,
        steps: Annotated[int, Range(0)] = 5,
        levels: Literal["finest", "all"] = "finest",
        antisymmetric: bool = False,
        norm: Literal["batch", "instance", "none"] = "instance",
        slope: float = 0.2,
        keypoints: int = 0,
        keypoint_level: int = 0,
        correlation: Annotated[int, Range(0)] = 0,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if any(n % 2 for n in channels):
            raise ArgumentError(
                f"channels are {tuple(channels)}; each has to be even, half for each image: use"
                " backbone dual_stream"
            )
        self.strides, self.steps, self.correlation = tuple(strides), steps, correlation
        self.each, self.antisymmetric = levels == "all", antisymmetric
        self.alpha = (0.0,) * (len(channels) - 1) + (1.0,)
        self.estimators, self.velocities = nn.ModuleList(), nn.ModuleList()
        offsets = (2 * correlation + 1) ** 3 if correlation else 0
        kernels = [kernel_at(stride, required_aspect(aspect)) for stride in strides]
        for number, (maps, kernel) in enumerate(zip(channels, kernels, strict=True)):
            seen = maps + offsets + (features if number else 0)
            sizes = [seen] + [features] * convolutions
            blocks = [
                ConvBlock(a, b, kernel, norm, slope=slope) for a, b in itertools.pairwise(sizes)
            ]
            self.estimators.append(nn.Sequential(*blocks))
            velocity = Convolution(sizes[-1], 3, kernel)
            small_output(velocity)
            self.velocities.append(velocity)
        if keypoints and (keypoints < 4 or not 0 <= keypoint_level < len(channels)):
            raise ArgumentError(
                f"keypoints is {keypoints} and keypoint_level {keypoint_level}; give four or more,"
                f" on a level from 0 to {len(channels) - 1}"
            )
        self.keypoint_level = keypoint_level
        self.keypoints = (
            Convolution(channels[keypoint_level] // 2, keypoints, kernels[keypoint_level])
            if keypoints
            else None
        )
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Transform]:
        found: list[Transform] = []
        affine = self._affine(features, grid)
        displacement: Tensor | None = None
        contexts: list[Tensor] = []
        finest = max(level for level, weight in enumerate(self.alpha) if weight > 0)
        for number, maps in enumerate(features[: finest + 1]):
            fixed, moving = maps.chunk(2, dim=1)
            shape = maps.shape[2:]
            level = grid.at_stride(self.strides[number], shape)
            if displacement is not None:
                displacement = resize_displacement(displacement, shape)
            if displacement is not None or affine is not None:
                moving = warp(moving, self._whole(affine, displacement, level), padding="border")
            given = [[fixed, moving], [moving, fixed]] if self.antisymmetric else [[fixed, moving]]
            if self.correlation:
                for order in given:
                    volume = correlation_volume(order[0], order[1], self.correlation)
                    order.append(volume.to(maps.dtype))
            for order, context in zip(given, contexts, strict=False):  # none at the coarsest level
                order.append(resize(context, shape))
            contexts = [
                self.estimators[number](channels_last(torch.cat(order, dim=1))) for order in given
            ]
            velocities = [self.velocities[number](context).float() for context in contexts]
            velocity = velocities[0] - velocities[1] if self.antisymmetric else velocities[0]
            velocity = in_plane(velocity, grid.shape)
            step = exponentiate(
                self.alpha[finest] * velocity if 0 < number == finest else velocity, self.steps
            )
            displacement = step if displacement is None else compose(displacement, step)
            residual = Displacement(displacement, level)
            found.append(residual if affine is None else Composition([affine, residual]))
        return found if self.each else found[-1:]

    def _affine(self, features: Features, grid: Grid) -> Affine | None:
        if self.keypoints is None:
            return None
        maps = features[self.keypoint_level]
        level = grid.at_stride(self.strides[self.keypoint_level], maps.shape[2:])
        heat = [self.keypoints(channels_last(side)).float() for side in maps.chunk(2, dim=1)]
        here, there = (_centres(side, level) for side in heat)
        mass = sum(side.flatten(2).logsumexp(2) for side in heat)
        ridge = float((RIDGE * np.array(grid.shape) * grid.spacing[0]).mean())
        return Affine(fitted_affine(here, there, mass.softmax(1), ridge), grid)

    @staticmethod
    def _whole(affine: Affine | None, displacement: Tensor | None, level: Grid) -> Tensor:
        """Displacement of the affine map after the residual one, in voxels of the level."""
        if affine is None:
            assert displacement is not None
            return displacement
        if displacement is None:
            return affine.displacement(level)
        return Composition([affine, Displacement(displacement, level)]).displacement(level)


RIDGE = 0.02
"""Extent of the keypoints, as a fraction of that of the image, at which the linear part of the fit
is halved.
"""


def _centres(heat: Tensor, level: Grid) -> Tensor:
    """Centres of maps (B, K, I, J, K) after a softmax over their voxels, (B, 3, K) RAS mm."""
    share = heat.flatten(2).softmax(2)
    points = identity_points(heat.shape[2:], device=heat.device).flatten(2)
    return level.to_world((share.unsqueeze(1) * points.unsqueeze(2)).sum(3))


def fitted_affine(fixed: Tensor, moving: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """Fit an affine map to corresponding points by weighted least squares.

    Args:
        fixed, moving: corresponding points, ``(B, 3, N)`` mm.
        weights: of the points, ``(B, N)``, sum 1.
        ridge: distance in mm; where the points extend less than this along an axis, the linear part
            falls towards the identity there.

    Returns:
        ``(B, 4, 4)``: the matrix that takes the fixed points to the moving ones; exactly the
        identity where both are equal.
    """
    fixed, moving, weights = fixed.double(), moving.double(), weights.double().unsqueeze(1)
    center = (weights * fixed).sum(2, keepdim=True)
    shift = (weights * (moving - fixed)).sum(2, keepdim=True)
    about, change = fixed - center, moving - fixed - shift
    identity = torch.eye(3, dtype=fixed.dtype, device=fixed.device)
    spread = (weights * about) @ about.transpose(1, 2) + ridge**2 * identity
    linear = torch.linalg.solve(spread, about @ (weights * change).transpose(1, 2)).transpose(1, 2)
    matrix = torch.eye(4, dtype=fixed.dtype, device=fixed.device).repeat(len(fixed), 1, 1)
    matrix[:, :3, :3] = identity + linear
    matrix[:, :3, 3:] = shift - linear @ center
    return matrix.float()
