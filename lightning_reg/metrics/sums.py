"""Statistics of voxels that are added in parts, by sums in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Moments:
    """Mean and standard deviation of numbers; NaN without any."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Add numbers."""
        values = values.double()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation of the numbers themselves (divided by their count)."""
        return (
            math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))
            if self.count
            else math.nan
        )


class Correlation:
    """Pearson's correlation of two images, as :func:`lightning_reg.functional.ncc`."""

    def __init__(self, eps: float = 1e-12) -> None:
        self.sums, self.eps = torch.zeros(6, dtype=torch.float64), eps

    def add(self, fixed: Tensor, other: Tensor, weight: Tensor | None = None) -> None:
        """Add voxels.

        Args:
            fixed, other: images of equal shape.
            weight: weights of the voxels; default 1.
        """
        f, w = fixed.flatten().double(), other.flatten().double()
        one = torch.ones_like(f) if weight is None else weight.flatten().double()
        of_f, of_w = one * f, one * w
        self.sums += torch.stack(
            [one.sum(), of_f.sum(), of_w.sum(), of_f @ f, of_w @ w, of_f @ w]
        ).cpu()

    @property
    def value(self) -> float:
        """Correlation in [-1, 1]; 0 if an image is constant or nothing was added."""
        f, w, ff, ww, fw = (self.sums[1:] / self.sums[0].clamp_min(1e-6)).tolist()
        return (fw - f * w) / math.sqrt(max(ff - f * f, 0.0) * max(ww - w * w, 0.0) + self.eps)
