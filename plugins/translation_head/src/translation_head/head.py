"""A head that moves the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_reg.components import Features, Head
from lightning_reg.spatial import Affine, Grid


class TranslationHead(Head):
    """Global average of the coarsest features, and a linear layer to one translation in mm.

    Args:
        channels: feature maps of the backbone's levels, coarsest first (supplied).
        reach: the translation is bounded by this along every world axis, mm.
    """

    def __init__(self, channels: Sequence[int], reach: float = 50.0) -> None:
        super().__init__()
        self.reach = reach
        self.translation = nn.Linear(channels[0], 3)
        nn.init.zeros_(self.translation.weight)
        nn.init.zeros_(self.translation.bias)

    def forward(self, features: Features, grid: Grid) -> list[Affine]:
        coarsest = features[0]
        assert coarsest is not None
        shift: Tensor = self.reach * torch.tanh(self.translation(coarsest.float().mean((2, 3, 4))))
        matrix = torch.eye(4, dtype=shift.dtype, device=shift.device).repeat(shift.shape[0], 1, 1)
        return [Affine(torch.cat([matrix[:, :, :3], torch.cat([shift, matrix[:, 3, 3:]], dim=1).unsqueeze(2)], dim=2), grid)]
