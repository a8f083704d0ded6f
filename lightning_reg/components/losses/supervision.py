"""Supervision by true fields, masks, labels and landmarks, which are no input of networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, LossTerm
from lightning_reg.components.losses.region import MaskedTerm, Region, warped_membership
from lightning_reg.registry import TrainingError
from lightning_reg.spatial import Image, Pair


class FieldError(MaskedTerm):
    """Squared error of the displacement, summed over components, in voxels of an image that has 128
    voxels along each axis.

    Source: Eppenhof et al., 2019, equation 4 (there inside the lung mask: ``mask: fixed``), whose
    images have that size. The output of a head is in voxels of its own grid: for ``n`` voxels along
    an axis, multiply a learning rate of plain gradient descent that suits 128 voxels by
    ``(n / 128)^2``.

    Args:
        root: take the root of each pair's mean, so that pairs with large motion have no larger
            weight. (Not in the paper.)
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
    """Mean squared difference of the fixed and the warped moving mask (Hering et al., 2019,
    equation 2).
    """

    needs = frozenset({"fixed_mask", "moving_mask"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.ssd(*_masks(level, pair))


class MaskDice(LossTerm):
    """One minus the soft Dice of the fixed and the warped moving mask."""

    needs = frozenset({"fixed_mask", "moving_mask"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.soft_dice(*_masks(level, pair))


class LabelSSD(LossTerm):
    """Mean squared difference of the fixed and the warped moving labels' memberships, over the
    foreground labels of the pair.
    """

    needs = frozenset({"fixed_labels", "moving_labels"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.ssd(*_labels(level, pair))


class LabelDice(LossTerm):
    """One minus the soft Dice of the fixed and the warped moving labels, averaged over the
    foreground labels of the pair.
    """

    needs = frozenset({"fixed_labels", "moving_labels"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.soft_dice(*_labels(level, pair))


class Segmentation(LossTerm):
    """One minus the soft Dice, plus the cross-entropy, of the labels that the network predicts for
    each image, averaged over the two images (Isensee et al., Nat. Methods 18, 2021).

    For a network that predicts labels (backbone ``dual_stream`` with ``labels``) and sees the
    images themselves (composer ``single``).
    """

    needs = frozenset({"fixed_labels", "moving_labels"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        predicted = level.predicted
        if predicted is None:
            raise TrainingError(
                "The loss term segmentation is given, but the network predicts no labels; give the"
                " backbone dual_stream the values of the labels (its argument labels) with the"
                " composer single, or give segmentation a weight of 0."
            )
        if pair.labels() and not set(pair.labels()) & set(predicted.labels):
            raise TrainingError(
                f"The network predicts the labels {list(predicted.labels)}, and"
                f" {', '.join(pair.name)} has {pair.labels()}; give the values in the label maps"
                " (the backbone's argument labels)."
            )
        assert pair.fixed_labels is not None
        assert pair.moving_labels is not None
        grid, values = level.fixed.grid, []
        sides = ((predicted.fixed, pair.fixed_labels), (predicted.moving, pair.moving_labels))
        for logits, labels in sides:
            hot = LF.one_hot(labels.tensor, predicted.labels)
            foreground = Image(hot, labels.grid).resampled(grid).tensor
            truth = torch.cat([1 - foreground.sum(1, keepdim=True), foreground], dim=1)
            there = logits.resampled(grid).tensor.float()
            entropy = F.cross_entropy(there, truth, reduction="none").flatten(1).mean(1)
            values.append(1 - LF.soft_dice(truth[:, 1:], there.softmax(1)[:, 1:]) + entropy)
        return torch.stack(values).mean(0)


class LandmarkDistance(LossTerm):
    """Mean distance of the mapped fixed landmarks from the moving ones (the target registration
    error), mm.
    """

    needs = frozenset({"fixed_landmarks", "moving_landmarks"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return torch.stack([errors.mean() for errors in pair.landmark_errors(level.transform)])


def _masks(level: Level, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return the fixed and the warped moving mask as memberships ``(B, 1, I, J, K)``."""
    assert pair.fixed_mask is not None
    assert pair.moving_mask is not None
    return _memberships(level, pair.fixed_mask, pair.moving_mask, [1])


def _labels(level: Level, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return one channel of memberships per foreground label; a single channel of background if
    there is none.
    """
    assert pair.fixed_labels is not None
    assert pair.moving_labels is not None
    return _memberships(level, pair.fixed_labels, pair.moving_labels, pair.labels() or [0])


def _memberships(
    level: Level, fixed: Image, moving: Image, values: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the memberships in the labels ``values`` at the level's resolution: average-pooled
    like the images, the moving ones warped.
    """
    there, here = (Image(LF.one_hot(image.tensor, values), image.grid) for image in (fixed, moving))
    return there.at_resolution(level.fixed.grid).tensor, warped_membership(
        here.at_stride(fixed.grid.stride_to(level.fixed.grid)), level
    )
