"""Training of one model for a range of weights of a loss term."""

from __future__ import annotations

import math
import os
from typing import Any

import lightning as L
import numpy as np

from lightning_reg.components.conditioning import Conditioning, conditionings
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.registry import TrainingError, did_you_mean


class ConditionalWeight(L.Callback):
    """Callback that draws the weight of a loss term at random in every step and gives it to the
    networks as an input.

    Validations use the configured weight of the term, and so does the trained model by default. The
    range of weights is that of the backbones (``conditioned``), sampled uniformly on a logarithmic
    scale. The draw depends on the seed and the number of the step.

    Args:
        term: name of the term in the loss.

    Source: Mok & Chung, MICCAI 2021, Section 2.1.
    """

    def __init__(self, term: str = "diffusion") -> None:
        self.term = term

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: TrainingError: no network takes a weight, there is no such term, or its weight is
        outside the networks' range.
        """
        parts, loss = conditionings(pl_module), self._loss(pl_module)
        if not parts:
            raise TrainingError(
                "The callback conditional_weight found no network that takes a weight; set"
                " `backbone.conditioned=[0.05, 2]` and `backbone.norm='instance'` for unet or"
                " dual_stream, or remove it with `conditional_weight=None`."
            )
        if self.term not in loss.weights:
            known = ", ".join(loss.weights)
            raise TrainingError(
                f"The loss has no term '{self.term}'{did_you_mean(self.term, list(loss.weights))}"
                f" Its terms: {known}."
            )
        own = loss.weights[self.term]
        for part in parts:
            if not part.low <= own <= part.high:
                raise TrainingError(
                    f"The weight of {self.term} is {own:g}, but the network takes weights from"
                    f" {part.low:g} to {part.high:g}; set `{self.term}.weight` or"
                    " `backbone.conditioned`."
                )
            part.weight = own

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        parts, loss = conditionings(pl_module), self._loss(pl_module)
        self._own, first = loss.weights[self.term], parts[0]
        place = np.random.default_rng(
            [int(os.environ.get("PL_GLOBAL_SEED", 0)), trainer.global_rank, trainer.global_step]
        ).random()
        drawn = first.low * math.exp(place * math.log(first.high / first.low))
        self._set(parts, loss, drawn)
        pl_module.log(f"weight/{self.term}", drawn, batch_size=1)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Restore the configured weight, which checkpoints and validations use."""
        self._set(conditionings(pl_module), self._loss(pl_module), self._own)

    def _set(self, parts: list[Conditioning], loss: LossBundle, weight: float) -> None:
        loss.weights[self.term] = weight
        for part in parts:
            part.weight = min(max(weight, part.low), part.high)

    @staticmethod
    def _loss(module: L.LightningModule) -> LossBundle:
        loss = module.loss
        assert isinstance(loss, LossBundle)
        return loss
