"""Progress bar and progress lines of a training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lightning_reg.io.names import duration


class StepProgress(RichProgressBar):
    """Lightning's progress bar, labelled with steps of the whole training; epochs are only the
    intervals between validations.

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


class ProgressLines(L.Callback):
    """Callback that prints a line per validation, for output to a file: the log of a killed run
    then shows its progress and the time left, at the mean pace so far.

    Args:
        say: function that prints the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.first, self.started = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first, self.started = trainer.global_step, time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (
            trainer.state.fn != TrainerFn.FITTING
            or trainer.sanity_checking
            or not trainer.is_global_zero
        ):
            return
        known = {
            name: trainer.callback_metrics.get(key)
            for name, key in (("loss", "train/loss"), ("validation error", "validation/error"))
        }
        values = ", ".join(
            f"{name} {float(value):.4g}" for name, value in known.items() if value is not None
        )
        step, rest = trainer.global_step, trainer.max_steps - trainer.global_step
        if rest > 0 and step > self.first:
            pace = (time.perf_counter() - self.started) / (step - self.first)
            values += f", about {duration(rest * pace)} left"
        self.say(f"step {step:,} of {trainer.max_steps:,}: {values}")
