"""The weight of a loss term as an input of a network: one training for a range of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_reg.components.blocks import LATENT, ConditionalNorm
from lightning_reg.discovery import ArgumentError


class Conditioning(nn.Module):
    """The weight that a network works for, and what its :class:`ConditionalNorm` layers are told of it.

    Args:
        weights: smallest and largest weight. The network sees where a weight lies between their logarithms.

    Attributes:
        weight: that the next registration is for; part of the state dict.

    Source: Mok & Chung, MICCAI 2021, Section 2.2 (mapping network of fully connected layers).
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        if len(weights) != 2 or not 0 < weights[0] < weights[1] < math.inf:
            raise ArgumentError(f"conditioned is {list(weights)}; give the smallest and the largest weight, both above 0")
        self.low, self.high = (float(weight) for weight in weights)
        self._weight = math.sqrt(self.low * self.high)
        layers = [nn.Linear(1, LATENT), nn.LeakyReLU(0.2), nn.Linear(LATENT, LATENT), nn.LeakyReLU(0.2), nn.Linear(LATENT, LATENT)]
        self.mapping = nn.Sequential(*layers, nn.LeakyReLU(0.2))

    @property
    def weight(self) -> float:
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        """Raises: ArgumentError: outside the range."""
        if not self.low * (1 - 1e-6) <= value <= self.high * (1 + 1e-6):
            raise ArgumentError(f"a weight of {value:g}, where the network is for {self.low:g} to {self.high:g}")
        self._weight = float(value)

    def spaced(self, count: int) -> list[float]:
        """So many weights, from the smallest to the largest, with one ratio between neighbours."""
        return [self.low * (self.high / self.low) ** (n / (count - 1)) for n in range(count)]

    @contextmanager
    def given_to(self, network: nn.Module) -> Iterator[None]:
        """While it lasts, the network's normalisations follow the weight."""
        layers = [part for part in network.modules() if isinstance(part, ConditionalNorm)]
        place = 2 * math.log(self._weight / self.low) / math.log(self.high / self.low) - 1
        parameter = next(self.parameters())
        latent = self.mapping(torch.full((1, 1), place, dtype=parameter.dtype, device=parameter.device))
        for layer in layers:
            layer.latent = latent
        try:
            yield
        finally:
            for layer in layers:
                layer.latent = None

    def get_extra_state(self) -> dict[str, Any]:
        return {"weight": self._weight}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.weight = float(state["weight"])


def conditionings(module: nn.Module) -> list[Conditioning]:
    """Those of all networks in a module."""
    return [part for part in module.modules() if isinstance(part, Conditioning)]
