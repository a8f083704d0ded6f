"""Distance of keypoints, robust to wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_reg import ArgumentError, Level, LossTerm, Pair


class KeypointDistance(LossTerm):
    """Mean distance of the mapped keypoints from the moving keypoints, mm; quadratic near 0,
    without the largest distances.

    ``sqrt(d^2 + soft^2) - soft`` of each distance ``d``, averaged over all but the largest fraction
    ``trim``, because automatically matched keypoints contain errors. Useful weights, with LNCC:
    0.01 to 0.1.

    Args:
        soft: distance below which the loss is quadratic, mm.
        trim: fraction of the keypoints, those with the largest distances, that is left out.
    """

    needs = frozenset({"fixed_landmarks", "moving_landmarks"})

    def __init__(self, soft: float = 1.0, trim: float = 0.0) -> None:
        super().__init__()
        if soft <= 0 or not 0 <= trim < 1:
            raise ArgumentError(
                f"soft is {soft} and trim {trim}; give mm above 0, and a fraction of 0 or more and"
                " below 1"
            )
        self.soft, self.trim = soft, trim

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return torch.stack([self._mean(errors) for errors in pair.landmark_errors(level.transform)])

    def _mean(self, errors: Tensor) -> Tensor:
        kept = max(1, round(len(errors) * (1 - self.trim)))
        return ((errors.sort().values[:kept] ** 2 + self.soft**2).sqrt() - self.soft).mean()
