"""Checkpoints of a run, and its end on a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A run that was stopped by a signal.

    Attributes:
        checkpoint: file from which the run can be resumed; ``None`` if nothing was saved yet.
        time_is_over: whether the signal was SIGUSR1, which SLURM sends before the end of a job.
    """

    def __init__(self, checkpoint: Path | None, time_is_over: bool = False) -> None:
        super().__init__(str(checkpoint))
        self.checkpoint, self.time_is_over = checkpoint, time_is_over


class Saving(L.Callback):
    """Callback that saves ``last.ckpt`` after every validation and on a signal, and ``best.ckpt``
    for the smallest validation error.

    A run is saved only between two steps: when the next step starts, before any other callback
    (this one has to be the first), or when the training ends. Validation, schedules and logging of
    the previous steps are then complete, so that a resumed run makes the same steps as an
    uninterrupted one.

    On SIGINT (Ctrl-C), SIGTERM and SIGUSR1, the current step and a validation that is due are
    finished, ``last.ckpt`` is saved and :class:`Interrupted` is raised; a second SIGINT raises it
    immediately.

    Args:
        folder: folder of the checkpoints.
        settle: called once, before the first checkpoint is written.
        seconds: function that returns the duration of the run so far, which is stored in the
            checkpoint.
        choose_anew: whether a resumed run is validated on other data, so that earlier errors do not
            count for ``best.ckpt``.
    """

    def __init__(
        self,
        folder: Path,
        settle: Callable[[], None],
        seconds: Callable[[], float],
        choose_anew: bool = False,
    ) -> None:
        self.folder, self.settle, self.seconds, self.choose_anew = (
            folder,
            settle,
            seconds,
            choose_anew,
        )
        self.best = float("inf")
        self.requested = self.time_is_over = self._settled = self._due = self._better = (
            self._at_epoch_start
        ) = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = float("inf") if self.choose_anew else state_dict["best"]

    # Signals. Data loading processes start after setup. They ignore SIGINT, which a terminal sends
    # to all processes.

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._listen()

    def _listen(self) -> None:
        for number in SIGNALS:
            previous = signal.signal(number, self._request)
            self._previous.setdefault(number, previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise Interrupted(self.last if self.last.exists() else None)
        self.requested = True
        self.time_is_over = self.time_is_over or number == getattr(signal, "SIGUSR1", None)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    # Saving.

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()  # Lightning has installed its own handlers in the meantime
        trainer.fit_loop._restarting = (
            False  # otherwise a schedule that depends on the validation skips the next one
        )
        if self._at_epoch_start:  # otherwise Lightning resumes in the epoch that has ended
            trainer.fit_loop.epoch_loop.restarting = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._due = True
        error = float(trainer.callback_metrics["validation/error"])
        if error < self.best:
            self.best, self._better = error, True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # a checkpoint does not contain accumulated gradients
        if batch_idx % trainer.accumulate_grad_batches:
            return
        requested = self.requested
        if trainer.world_size > 1:
            requested = trainer.strategy.reduce_boolean_decision(requested, all=False)
        if requested or self._due:
            self._save(trainer)
        if requested:
            raise Interrupted(self.last, self.time_is_over)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if not self._settled and trainer.is_global_zero:
            self.settle()
        self._settled = True
        for logger in trainer.loggers:
            logger.save()
        # first: a run killed in between resumes from the old last.ckpt and writes both again
        if self._better:
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.last)
        self._due = self._better = False

    # Lightning's loop counters describe a moment inside a step. They are changed here so that it
    # resumes between two steps, inside an epoch or at its start.

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        done, made = batches["current"]["completed"], batches["total"]["completed"]
        # no further step starts: the training is over
        ended = epochs["current"]["completed"] == epochs["current"]["ready"]
        if ended and done < trainer.num_training_batches:  # the training stopped inside an epoch
            for counts in (epochs["total"], epochs["current"]):
                counts["processed"] = counts["completed"] = counts["completed"] - 1
        elif ended:
            done = 0
            for counts in (epochs["total"], epochs["current"]):
                counts["ready"] = counts["started"] = counts["completed"] + 1
        for counts, number in ((batches["current"], done), (batches["total"], made)):
            counts.update(
                ready=number,
                started=number,
                processed=number,
                completed=number - 1 if done else number,
            )
        batches["is_last_batch"] = False
        logged = loops["epoch_loop.state_dict"]["_batches_that_stepped"]
        # counted again when the run is resumed
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = logged - 1 if done else logged
        checkpoint["lightning_reg_position"] = {
            "batch": done,
            "logged": logged,
            "seconds": self.seconds(),
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._at_epoch_start = checkpoint["lightning_reg_position"]["batch"] == 0
