"""Regions in which loss terms are evaluated."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_reg.components.interfaces import Level, LossTerm
from lightning_reg.spatial import Image, Pair

Region = Literal["none", "fixed", "moving", "intersection", "overlap", "auto"]
_NEEDS = {
    "none": frozenset[str](),
    "fixed": frozenset({"fixed_mask"}),
    "moving": frozenset({"moving_mask"}),
    "intersection": frozenset({"fixed_mask", "moving_mask"}),
    "overlap": frozenset[str](),
    "auto": frozenset[str](),
}


class MaskedTerm(LossTerm):
    """A loss term evaluated inside a region.

    Args:
        mask: ``fixed``, ``moving`` (warped) or their ``intersection``; ``overlap``: inside the
            field of view of the warped moving image; ``none``: everywhere; ``auto``: ``fixed`` if
            the pair has a fixed mask, else ``moving``, else ``overlap``.
    """

    def __init__(self, mask: Region = "none") -> None:
        super().__init__()
        self.mask, self.needs = mask, _NEEDS[mask]

    def region_of(self, pair: Pair) -> Region:
        """Return the region used for a pair; never ``auto``."""
        if self.mask != "auto":
            return self.mask
        if pair.fixed_mask is not None:
            return "fixed"
        return "moving" if pair.moving_mask is not None else "overlap"

    def region(self, level: Level, pair: Pair) -> Tensor | None:
        """Return the weights of the region on the level's fixed grid, ``(B, 1, I, J, K)``;
        ``None``: everywhere.
        """
        where = self.region_of(pair)
        if where == "overlap":
            everywhere = torch.ones_like(level.moving.tensor[:, :1])
            return warped_membership(Image(everywhere, level.moving.grid), level).detach()
        region: Tensor | None = None
        if pair.fixed_mask is not None and where in ("fixed", "intersection"):
            mask = Image(pair.fixed_mask.tensor.float(), pair.fixed_mask.grid)
            region = mask.at_resolution(level.fixed.grid).tensor
        if pair.moving_mask is not None and where in ("moving", "intersection"):
            moved = warped_membership(
                Image(pair.moving_mask.tensor.float(), pair.moving_mask.grid), level
            )
            region = moved if region is None else region * moved
        return region


def warped_membership(memberships: Image, level: Level) -> Tensor:
    """Warp memberships of the moving side to the fixed grid: linear interpolation, 0 outside,
    differentiable.
    """
    return memberships.warped_by(level.displacement, level.fixed.grid).tensor
