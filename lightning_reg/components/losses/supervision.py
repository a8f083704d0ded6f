"""Terms of what is known about a pair beside its intensities: fields, masks, labels, landmarks. The networks never see it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, LossTerm
from lightning_reg.components.losses.region import MaskedTerm, Region, warped_membership
from lightning_reg.spatial import Image, Pair


class FieldError(MaskedTerm):
    """Squared error of the displacement against the true one, summed over components, in voxels of an image that has 128 along each axis.

    Source: Eppenhof et al., 2019, equation 4 (there inside the lung mask: ``mask: fixed``), whose images have that size. A head gives
    voxels of its own grid: a rate of plain gradient descent that is right for 128 voxels is ``(n / 128)^2`` times that for ``n``.

    Args:
        root: take the root of each pair's mean: one with large motion then weighs no more than one with small motion. (Beyond the paper.)
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    VOXELS = 128

    def __init__(self, mask: Region = "none", root: bool = False) -> None:
        super().__init__(mask)
        self.needs, self.root = self.needs | {"truth"}, root

    def forward(self, level: Level, pair: Pair) -> Tensor:
        assert pair.truth is not None
        true = pair.truth.displacement(level.fixed.grid)
        extents = LF.beside(level.fixed.grid.shape, true).view(1, 3, 1, 1, 1)
        square = ((level.displacement - true) * self.VOXELS / extents).square().sum(1, keepdim=True)
        mean = LF.masked_mean(square, self.region(level, pair))
        return (mean + 1e-6).sqrt() if self.root else mean


class MaskSSD(LossTerm):
    """Mean squared difference of the fixed and the warped moving mask (Hering et al., 2019, equation 2)."""

    needs = frozenset({"fixed_mask", "moving_mask"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.ssd(*_masks(level, pair))


class MaskDice(LossTerm):
    """One minus the soft Dice of the fixed and the warped moving mask."""

    needs = frozenset({"fixed_mask", "moving_mask"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.soft_dice(*_masks(level, pair))


class LabelSSD(LossTerm):
    """Mean squared difference of the fixed and the warped moving labels' memberships, over the foreground labels of the pair."""

    needs = frozenset({"fixed_labels", "moving_labels"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.ssd(*_labels(level, pair))


class LabelDice(LossTerm):
    """One minus the soft Dice of the fixed and the warped moving labels, averaged over the foreground labels of the pair."""

    needs = frozenset({"fixed_labels", "moving_labels"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.soft_dice(*_labels(level, pair))


class LandmarkDistance(LossTerm):
    """Mean distance of the mapped fixed landmarks from the moving ones (the target registration error), mm."""

    needs = frozenset({"fixed_landmarks", "moving_landmarks"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return torch.stack([errors.mean() for errors in pair.landmark_errors(level.transform)])


def _masks(level: Level, pair: Pair) -> tuple[Tensor, Tensor]:
    """Memberships ``(B, 1, I, J, K)`` in the fixed and in the warped moving mask."""
    assert pair.fixed_mask is not None
    assert pair.moving_mask is not None
    return _memberships(level, pair.fixed_mask, pair.moving_mask, [1])


def _labels(level: Level, pair: Pair) -> tuple[Tensor, Tensor]:
    """One channel of memberships per foreground label; a single one of background where there is none."""
    assert pair.fixed_labels is not None
    assert pair.moving_labels is not None
    return _memberships(level, pair.fixed_labels, pair.moving_labels, pair.labels() or [0])


def _memberships(level: Level, fixed: Image, moving: Image, values: Sequence[int]) -> tuple[Tensor, Tensor]:
    """In the structures of these values, at the level's resolution: averaged like the images, and the moving ones warped."""
    there, here = (Image(LF.one_hot(image.tensor, values), image.grid) for image in (fixed, moving))
    return there.at_resolution(level.fixed.grid).tensor, warped_membership(here.at_stride(fixed.grid.stride_to(level.fixed.grid)), level)
