"""The loss: a weighted sum of named terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_reg.components.contracts import require_values
from lightning_reg.components.interfaces import LossTerm, Registration
from lightning_reg.registry import (
    ArgumentError,
    ComponentError,
    Described,
    TrainingError,
    blaming,
    require_kind,
)
from lightning_reg.spatial import Pair


class LossValue(NamedTuple):
    """The weighted sum, and each term's own unweighted value (averaged over batch and levels); all
    scalars.
    """

    total: Tensor
    terms: dict[str, Tensor]


class LossBundle(Described, nn.Module):
    """Named terms and their weights. A term is averaged over the batch and summed over the levels
    with the level weights.

    For partly labelled data, a term is 0 for a pair that lacks the fields it needs, after
    :meth:`require` has found them in other pairs.

    Args:
        terms: per name ``(weight, term)``, as
            ``{"lncc": (1.0, LNCC(window=9)), "diffusion": (0.5, Diffusion())}``, or the term alone
            for a weight of 1. Terms of weight 0 are left out. Logs and messages use these names.
        level_weights: one per level of the registration, finest last; default 1 for each.

    Raises:
        ComponentError: there are no terms, all weights are 0, a weight is not a finite number of 0
            or more, or an object is not a term.
    """

    def __init__(
        self,
        terms: Mapping[str, tuple[float, LossTerm] | LossTerm],
        level_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        require_kind(
            terms, Mapping, "terms", "give {name: (weight, term)}, as {'ncc': (1.0, NCC())}"
        )
        if not terms:
            raise ComponentError("The loss has no terms; add at least one to terms.")
        self.weights: dict[str, float] = {}
        self.terms = nn.ModuleDict()
        for name, given in terms.items():
            if name == "loss" or "." in name or hasattr(self.terms, name):
                raise ArgumentError(f"A term cannot be called '{name}'; choose another name")
            weight, term = given if isinstance(given, tuple) else (1.0, given)
            if not isinstance(term, LossTerm):
                raise ComponentError(
                    f"The loss term '{name}' is {type(term).__name__}; give (weight, term) with an"
                    " object of a term's class."
                )
            if _weight(name, weight) > 0:
                self.weights[name], self.terms[name] = float(weight), term
        if not self.terms:
            raise ComponentError(
                "Every term of the loss has weight 0; give one of terms another weight."
            )
        self.level_weights = level_weights
        self._required = False

    @property
    def reverse(self) -> bool:
        """Whether a term compares the two directions of registration."""
        return any(term.reverse for term in self.terms.values() if isinstance(term, LossTerm))

    def require(self, available: frozenset[str]) -> None:
        """Refuse data if no pair has the fields that a term needs.

        Args:
            available: fields that at least one pair has.

        Raises:
            TrainingError: names the term and the missing fields.
        """
        for name, term in self.terms.items():
            assert isinstance(term, LossTerm)
            missing = sorted(term.needs - available)
            if missing:
                raise TrainingError(
                    f"The loss term '{name}' needs {', '.join(missing)}, which the training pairs"
                    f" do not have (they have {', '.join(sorted(available - {'name'}))}); choose"
                    " other data or sampling, or leave the term out."
                )
        self._required = True

    def restricted(self, available: frozenset[str]) -> LossBundle:
        """Return the bundle without the terms that need fields not in ``available``.

        Raises:
            TrainingError: no term is left.
        """
        kept = {
            name: (self.weights[name], term)
            for name, term in self.terms.items()
            if term.needs <= available  # type: ignore[operator]
        }
        if not kept:
            raise TrainingError(
                f"Every term of the model's own loss ({', '.join(self.terms)}) needs data that this"
                " pair does not have; give a loss of the images alone, as lncc and diffusion with"
                " weight 1."
            )
        return LossBundle(kept, self.level_weights)  # type: ignore[arg-type]

    def forward(
        self, registration: Registration, pair: Pair, level_weights: Sequence[float] | None = None
    ) -> LossValue:
        """Args: level_weights: used instead of the bundle's own."""
        levels = registration.levels
        weights = level_weights or self.level_weights or [1.0] * len(levels)
        if len(weights) != len(levels):
            raise TrainingError(
                f"level_weights has {len(weights)} values for {len(levels)} levels; give one per"
                " level."
            )
        values = {}
        for name, term in self.terms.items():
            assert isinstance(term, LossTerm)
            if not term.needs <= pair.has():
                if not self._required:
                    self.require(pair.has())  # refuses
                # part of the graph, even if it is the only term
                values[name] = 0 * levels[-1].transform.like.sum()
                continue
            per_level = []
            for w, level in zip(weights, levels, strict=True):
                with blaming(term, f"the loss of {', '.join(pair.name)}"):
                    value = term(level, pair)
                per_level.append(
                    w * require_values(term, value, level.fixed.tensor.shape[0]).mean()
                )
            values[name] = torch.stack(per_level).sum()
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return LossValue(total, values)


def _weight(name: str, value: object) -> float:
    """Raises: ComponentError: the weight is not a finite number of 0 or more."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value < float("inf")
    ):
        raise ComponentError(
            f"The weight of the loss term '{name}' is {value!r}; give a finite number, 0 or more."
        )
    return float(value)
