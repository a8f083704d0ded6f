"""The bar that shows how far a training is."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class StepProgress(RichProgressBar):
    """Lightning's bar, told in steps of the whole training: epochs are only the intervals between validations here.

    Args:
        refresh_rate: batches between updates.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._shown: L.Trainer | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._shown = trainer
        super().on_train_start(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        trainer: Any = self._shown
        if trainer is None or trainer.max_steps < 1:
            return str(super()._get_train_description(current_epoch))
        end = min(trainer.global_step + int(trainer.num_training_batches), trainer.max_steps)
        return f"To step {end:,} of {trainer.max_steps:,}"
