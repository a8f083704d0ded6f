"""Checkpoints of a run, and how it ends on a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(BaseException):
    """The run was asked to stop; ``checkpoint`` continues it (``None``: nothing was saved yet); ``time_is_over``: by SIGUSR1, as SLURM does
    before a job's end."""

    def __init__(self, checkpoint: Path | None, time_is_over: bool = False) -> None:
        super().__init__(str(checkpoint))
        self.checkpoint, self.time_is_over = checkpoint, time_is_over


class Saving(L.Callback):
    """``last.ckpt`` after every validation and on a signal, ``best.ckpt`` where the validation error is the smallest so far.

    A run is saved between two steps only: when the next one starts, before any other callback (this one has to be the first), or
    when the training ends. All that belongs to the steps before has happened then, validation, schedules and logging included, and
    a run that is resumed there makes the same steps as one that was never interrupted.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 finish the step, and a validation that is due, save ``last.ckpt`` and raise
    :class:`Interrupted`; a second SIGINT raises it at once.

    Args:
        folder: for the checkpoints.
        settle: called once, before the first checkpoint is written.
        seconds: that the run has taken so far, kept in the checkpoint.
    """

    def __init__(self, folder: Path, settle: Callable[[], None], seconds: Callable[[], float]) -> None:
        self.folder, self.settle, self.seconds = folder, settle, seconds
        self.best = float("inf")
        self.requested = self.time_is_over = self._settled = self._due = self._better = self._at_epoch_start = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    # Signals. Processes that read data are forked after setup, and ignore SIGINT, which a terminal sends to all of them.

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
        self._listen()  # Lightning has put handlers of its own in between
        trainer.fit_loop._restarting = False  # a schedule that waits for the validation would leave out the next one
        if self._at_epoch_start:  # Lightning would take the epoch that ended before for the one to go on with
            trainer.fit_loop.epoch_loop.restarting = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._due = True
        error = float(trainer.callback_metrics["validation/error"])
        if error < self.best:
            self.best, self._better = error, True

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:  # gradients that wait for more are not in a checkpoint
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
        if self._better:  # first: a run that is killed between the two goes on from the older one and writes both again
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.last)
        self._due = self._better = False

    # What Lightning keeps of its loops is of one moment inside a step; these are the two forms from which it resumes between steps.

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        done, made = batches["current"]["completed"], batches["total"]["completed"]
        ended = epochs["current"]["completed"] == epochs["current"]["ready"]  # no step starts: the training is over
        if ended and done < trainer.num_training_batches:  # it stopped inside an epoch
            for counts in (epochs["total"], epochs["current"]):
                counts["processed"] = counts["completed"] = counts["completed"] - 1
        elif ended:
            done = 0
            for counts in (epochs["total"], epochs["current"]):
                counts["ready"] = counts["started"] = counts["completed"] + 1
        for counts, number in ((batches["current"], done), (batches["total"], made)):
            counts.update(ready=number, started=number, processed=number, completed=number - 1 if done else number)
        batches["is_last_batch"] = False
        logged = loops["epoch_loop.state_dict"]["_batches_that_stepped"]
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = logged - 1 if done else logged  # counted again on resumption
        checkpoint["lightning_reg_position"] = {"batch": done, "logged": logged, "seconds": self.seconds()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._at_epoch_start = checkpoint["lightning_reg_position"]["batch"] == 0
