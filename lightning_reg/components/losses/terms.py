"""Loss terms: one call each of a function in ``lightning_reg.functional``."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, LossTerm
from lightning_reg.spatial import Image, Pair

Region = Literal["none", "fixed", "moving", "intersection"]
_MASKS = {
    "none": frozenset[str](),
    "fixed": frozenset({"fixed_mask"}),
    "moving": frozenset({"moving_mask"}),
    "intersection": frozenset({"fixed_mask", "moving_mask"}),
}


class _Masked(LossTerm):
    """A term counted inside a region: that of the fixed mask, of the warped moving mask, of both, or everywhere."""

    def __init__(self, mask: Region = "none") -> None:
        super().__init__()
        if mask not in _MASKS:
            raise ValueError(f"mask is '{mask}'; use one of {', '.join(_MASKS)}")
        self.mask, self.needs = mask, _MASKS[mask]

    def region(self, level: Level, pair: Pair) -> Tensor | None:
        """``(B, 1, I, J, K)`` weights on the level's fixed grid."""
        region: Tensor | None = None
        if pair.fixed_mask is not None and self.mask in ("fixed", "intersection"):
            region = pair.fixed_mask.on(level.fixed.grid).tensor.float()
        if pair.moving_mask is not None and self.mask in ("moving", "intersection"):
            moved = _memberships(pair.moving_mask, level, pair.moving_mask.tensor.float())
            region = moved if region is None else region * moved
        return region


def _memberships(source: Image, level: Level, channels: Tensor) -> Tensor:
    """Memberships on the moving grid, interpolated linearly (so that gradients flow) at the points of the fixed grid."""
    return Image(channels, source.grid).warped(level.transform, level.fixed.grid).tensor


class FieldError(_Masked):
    """Squared error of the displacement against the true one, voxels squared, summed over components.

    Source: Eppenhof et al., 2019, equation 4 (there inside the lung mask: ``mask: fixed``).
    """

    def __init__(self, mask: Region = "none") -> None:
        super().__init__(mask)
        self.needs = self.needs | {"truth"}

    def forward(self, level: Level, pair: Pair) -> Tensor:
        assert pair.truth is not None
        true = pair.truth.displacement(level.fixed.grid)
        square = ((level.displacement - true) ** 2).sum(1, keepdim=True)
        return LF.masked_mean(square, self.region(level, pair))


class SSD(_Masked):
    """Mean squared intensity difference."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.ssd(level.fixed.tensor, level.warped.tensor, self.region(level, pair))


class NCC(_Masked):
    """One minus the global normalised cross-correlation."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.ncc(level.fixed.tensor, level.warped.tensor, self.region(level, pair))


class LNCC(_Masked):
    """One minus the mean squared local cross-correlation.

    Args:
        window: edge of the local window, voxels, odd.
    """

    def __init__(self, window: int = 9, mask: Region = "none") -> None:
        super().__init__(mask)
        self.window = window

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.lncc(level.fixed.tensor, level.warped.tensor, self.window, self.region(level, pair))


class Diffusion(LossTerm):
    """Mean squared gradient of what the level added."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.diffusion(*_increment(level))


class Bending(LossTerm):
    """Bending energy of what the level added, 1/mm^2."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.bending(*_increment(level))


class Curvature(LossTerm):
    """Curvature energy of what the level added, 1/mm^2."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.curvature(*_increment(level))


class TotalVariation(LossTerm):
    """Mean absolute gradient of what the level added."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.total_variation(*_increment(level))


def _increment(level: Level) -> tuple[Tensor, Tensor]:
    """Displacement ``(B, 3, I, J, K)`` of the level's own part, and the spacing ``(B, 3)`` it is to be differentiated with."""
    return level.increment.displacement(level.fixed.grid), level.fixed.grid.spacing


class MaskDice(LossTerm):
    """One minus the soft Dice of the fixed and the warped moving mask."""

    needs = frozenset({"fixed_mask", "moving_mask"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        assert pair.fixed_mask is not None
        assert pair.moving_mask is not None
        fixed = pair.fixed_mask.on(level.fixed.grid).tensor.float()
        return 1 - LF.soft_dice(fixed, _memberships(pair.moving_mask, level, pair.moving_mask.tensor.float()))


class LabelDice(LossTerm):
    """One minus the soft Dice of the fixed and the warped moving labels, averaged over the foreground labels of the pair."""

    needs = frozenset({"fixed_labels", "moving_labels"})

    def forward(self, level: Level, pair: Pair) -> Tensor:
        assert pair.fixed_labels is not None
        assert pair.moving_labels is not None
        values = pair.labels()
        if not values:
            return torch.zeros(level.fixed.tensor.shape[0], device=level.fixed.tensor.device)
        fixed = LF.one_hot(pair.fixed_labels.on(level.fixed.grid).tensor, values)
        moving = _memberships(pair.moving_labels, level, LF.one_hot(pair.moving_labels.tensor, values))
        return 1 - LF.soft_dice(fixed, moving)
