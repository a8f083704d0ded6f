"""Differences between two scans that no transform explains, added to training pairs by TorchIO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchio as tio
from torch.utils.data import Dataset

from lightning_reg.spatial import Image, Pair


@dataclass(frozen=True)
class IntensityAugmentation:
    """Random contrast and noise, drawn for the fixed and the moving image separately.

    Pairs made from one scan share its noise, which real pairs do not: a network finds its way by the noise if it is not replaced.

    Args:
        noise: Gaussian noise of a standard deviation up to this (intensities are in [0, 1]).
        gamma: intensities to the power of ``exp(g)``, ``g`` uniform within plus and minus this.
    """

    noise: float = 0.0
    gamma: float = 0.0

    def __call__(self, pair: Pair, seed: Sequence[int]) -> Pair:
        """The pair with other intensities; geometry, masks, labels and truth stay. The same seed gives the same pair."""
        steps: list[tio.Transform] = []
        if self.gamma > 0:
            steps.append(tio.RandomGamma(log_gamma=(-self.gamma, self.gamma)))
        if self.noise > 0:
            steps.append(tio.RandomNoise(std=(0, self.noise)))
        if not steps:
            return pair
        transform = tio.Compose(steps)
        with torch.random.fork_rng(devices=[]):  # TorchIO draws from the global generator
            torch.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
            return replace(pair, fixed=_applied(transform, pair.fixed), moving=_applied(transform, pair.moving))


def _applied(transform: tio.Transform, image: Image) -> Image:
    return replace(image, tensor=torch.stack([transform(item) for item in image.tensor]))


class AugmentedPairs(Dataset[Pair]):
    """Another data set's pairs, augmented; every item has a seed of its own."""

    def __init__(self, pairs: Dataset[Pair], augmentation: IntensityAugmentation, seed: int) -> None:
        self.pairs, self.augmentation, self.seed = pairs, augmentation, seed

    def __getitem__(self, item: int) -> Pair:
        return self.augmentation(self.pairs[item], [self.seed, 2, item])
