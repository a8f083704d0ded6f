"""GradICON's penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_reg import Composition, Level, LossTerm, Pair
from lightning_reg.functional import diffusion


class GradICON(LossTerm):
    """Mean squared Frobenius norm of ``grad(phi_AB o phi_BA) - I`` (Tian et al., CVPR 2023).

    It penalises the deviation of the composition of both directions from a *translation*, and
    regularises without a smoothness term. No unit; both directions are registered for it. The
    paper's weight is 1.5, with one minus the squared local correlation as similarity.
    """

    reverse = True

    def forward(self, level: Level, pair: Pair) -> Tensor:
        assert level.reverse is not None
        round_trip = Composition([level.reverse.transform, level.transform]).displacement(
            level.fixed.grid
        )
        return diffusion(round_trip, torch.as_tensor(level.fixed.grid.spacing))
