"""Models trained for a range of weights of a loss term: a pair's registrations by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from lightning_reg.components.conditioning import conditionings
from lightning_reg.registry import ArgumentError, UserError
from lightning_reg.spatial import Transform

SHOWN = 5
"""Number of weights in a report."""


@dataclass(frozen=True)
class Weights:
    """Registrations of one pair by weight.

    Args:
        chosen: the weight of the result.
        offered: weights of the range, ascending, including ``chosen``.
        register: from a weight to the transform, fixed world to moving world.
    """

    chosen: float
    offered: Sequence[float]
    register: Callable[[float], Transform]

    @classmethod
    def of(cls, network: nn.Module, register: Callable[[], Transform]) -> Weights | None:
        """Make it from a network and a function that registers; ``None`` without a weight."""
        parts = conditionings(network)
        if not parts:
            return None

        def at(weight: float) -> Transform:
            with weighted(network, weight):
                return register()

        chosen = parts[0].weight
        spaced = [weight for weight in parts[0].spaced(SHOWN) if not 0.8 < weight / chosen < 1.25]
        return cls(chosen, sorted([*spaced, chosen]), at)


@contextmanager
def weighted(network: nn.Module, weight: float) -> Iterator[None]:
    """Context in which the network registers for a given weight."""
    before = [part.weight for part in conditionings(network)]
    set_weight(network, weight)
    try:
        yield
    finally:
        for part, own in zip(conditionings(network), before, strict=True):
            part.weight = own


def set_weight(network: nn.Module, weight: float) -> None:
    """Set the weight for which a network registers.

    Raises:
        UserError: the network has no weight, or does not accept this value.
    """
    parts = conditionings(network)
    if not parts:
        raise UserError(
            "The model takes no weight: it was trained for one. Train it with the callback"
            " conditional_weight (docs/methods.md), or leave the weight out."
        )
    for part in parts:
        try:
            part.weight = weight
        except ArgumentError as error:
            raise UserError(f"The model cannot register for {error}.") from error
