"""Networks that take the weight of a loss term as an input: one training for a range of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_reg.components.blocks import LATENT, ConditionalNorm
from lightning_reg.registry import ArgumentError


class Conditioning(nn.Module):
    """The weight of a loss term as an input of a network, and its mapping to the
    :class:`ConditionalNorm` layers.

    Args:
        weights: smallest and largest weight. The input is the position of the weight between them
            on a logarithmic scale, from -1 to 1.

    Attributes:
        weight: used by the next registration; part of the state dict.

    Source: Mok & Chung, MICCAI 2021, Section 2.2 (mapping network of fully connected layers).
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        if len(weights) != 2 or not 0 < weights[0] < weights[1] < math.inf:
            raise ArgumentError(
                f"conditioned is {list(weights)}; give the smallest and the largest weight, both"
                " above 0"
            )
        self.low, self.high = (float(weight) for weight in weights)
        self._weight = math.sqrt(self.low * self.high)
        layers = [
            nn.Linear(1, LATENT),
            nn.LeakyReLU(0.2),
            nn.Linear(LATENT, LATENT),
            nn.LeakyReLU(0.2),
            nn.Linear(LATENT, LATENT),
        ]
        self.mapping = nn.Sequential(*layers, nn.LeakyReLU(0.2))

    @property
    def weight(self) -> float:
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        """Raises: ArgumentError: outside the range."""
        if not self.low * (1 - 1e-6) <= value <= self.high * (1 + 1e-6):
            raise ArgumentError(
                f"a weight of {value:g}; the network takes weights from {self.low:g} to"
                f" {self.high:g}"
            )
        self._weight = float(value)

    def spaced(self, count: int) -> list[float]:
        """Return ``count`` weights from the smallest to the largest, equally spaced on a
        logarithmic scale.
        """
        return [self.low * (self.high / self.low) ** (n / (count - 1)) for n in range(count)]

    @contextmanager
    def given_to(self, network: nn.Module) -> Iterator[None]:
        """Apply the weight to the network's normalisation layers inside a ``with`` block."""
        layers = [part for part in network.modules() if isinstance(part, ConditionalNorm)]
        place = 2 * math.log(self._weight / self.low) / math.log(self.high / self.low) - 1
        parameter = next(self.parameters())
        latent = self.mapping(
            torch.full((1, 1), place, dtype=parameter.dtype, device=parameter.device)
        )
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
    """Return the :class:`Conditioning` of every network in a module."""
    return [part for part in module.modules() if isinstance(part, Conditioning)]
