"""Training of a composer's networks, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn

from lightning_reg.components.interfaces import Composer, Staged
from lightning_reg.registry import ArgumentError, Checked, Instance, Range, TrainingError
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.schedules import OptimizerFactory, Schedule, stage_bounds

STATE = ("stage", "started", "best", "stale")
"""Attributes that a checkpoint keeps."""


@dataclass(frozen=True)
class TrainingStage(Checked):
    """One stage of a training.

    Args:
        steps: share of the training; the steps of all stages are scaled to the number of steps of
            the trainer.
        train: numbers of the trained networks of the composer, or ``all``. Other networks are
            frozen; those after the last trained one are not used.
        warm_start: initialise networks that are trained for the first time with the weights of the
            previous network.
        optimizer, schedule: used in this stage instead of the module's.
        patience: end the stage after this many validations without a smaller error; ``null``:
            never.
    """

    steps: Annotated[float, Range(above=0)]
    train: Sequence[Annotated[int, Range(0)]] | Literal["all"]
    warm_start: bool = False
    optimizer: OptimizerFactory | None = None
    schedule: Schedule | None = None
    patience: Annotated[int, Range(0)] | None = None


class StageTraining(Checked, L.Callback):
    """Callback that freezes and warm-starts networks and creates an optimiser per stage. A resumed
    run continues inside its stage.

    Args:
        stages: stages, first to last.
    """

    def __init__(
        self,
        stages: Sequence[
            Annotated[TrainingStage, Instance("objects, as TrainingStage(steps, train=[0])")]
        ],
    ) -> None:
        self.stages = list(stages)
        if self.stages[:1] and self.stages[0].warm_start:
            raise ArgumentError("stages[0].warm_start is true, but nothing was trained before it")
        stage_bounds([stage.steps for stage in self.stages], 1)  # refuses invalid shares
        self._begin(0, 0)
        self._module: RegistrationModule | None = None

    def _begin(self, stage: int, step: int) -> None:
        self.stage, self.started, self.best, self.stale = stage, step, float("inf"), 0

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key in STATE:
            setattr(self, key, state_dict[key])
        self._activate()  # Lightning creates the optimiser next

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, RegistrationModule)
        self._module = pl_module
        if stage == "fit":
            self._begin(0, 0)  # those of a resumed run are loaded next
            self._activate()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the module for another training: all networks are trained, with the module's own
        optimiser.
        """
        assert self._module is not None
        composer = self._staged(self._module.composer)
        if composer.active == len(composer.networks):
            composer.activate(range(len(composer.networks)))
        self._module.train_with()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        while self.stage < len(self.stages) - 1 and self._over(trainer):
            self._begin(self.stage + 1, trainer.global_step)
            self._inherit(self._activate())
            # it synchronises only the parameters that were trainable when it was created
            if isinstance(trainer.strategy, DDPStrategy):
                trainer.strategy.model = trainer.lightning_module
                trainer.strategy.configure_ddp()
            trainer.strategy.setup_optimizers(trainer)
        pl_module.log("stage", float(self.stage), batch_size=1)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.stage == len(self.stages) - 1 and self._over(trainer):
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        error = float(trainer.callback_metrics["validation/error"])
        self.stale = 0 if error < self.best else self.stale + 1
        self.best = min(error, self.best)

    def _over(self, trainer: L.Trainer) -> bool:
        patience = self.stages[self.stage].patience
        return trainer.global_step >= self.started + self._length() or (
            patience is not None and self.stale >= patience
        )

    def _length(self) -> int:
        """Return the number of steps of the current stage."""
        assert self._module is not None
        bounds = stage_bounds([stage.steps for stage in self.stages], self._module.planned_steps())
        return bounds[self.stage + 1] - bounds[self.stage]

    def _activate(self) -> list[int]:
        """Freeze and unfreeze networks and set the optimiser for the current stage; return the
        networks to be warm-started.
        """
        assert self._module is not None
        composer, stage = self._staged(self._module.composer), self.stages[self.stage]
        trained = self._networks(stage, composer)
        try:
            composer.activate(trained)
        except ValueError as cause:
            raise TrainingError(
                f"`stages`[{self.stage}].train is invalid: {cause}; count the composer's"
                " networks from 0."
            ) from cause
        self._module.train_with(stage.optimizer, stage.schedule, self._length())
        earlier = {
            number
            for before in self.stages[: self.stage]
            for number in self._networks(before, composer)
        }
        return sorted(set(trained) - earlier) if stage.warm_start else []

    @staticmethod
    def _networks(stage: TrainingStage, composer: Staged) -> list[int]:
        return (
            list(range(len(composer.networks)))
            if stage.train == "all"
            else [int(number) for number in stage.train]
        )

    def _inherit(self, networks: Sequence[int]) -> None:
        assert self._module is not None
        for index in networks:
            if index > 0:
                try:
                    self._staged(self._module.composer).inherit(index)
                except ValueError as cause:
                    raise TrainingError(
                        f"`stages`[{self.stage}].warm_start is not possible: {cause}; set it"
                        " to false for this stage."
                    ) from cause

    @staticmethod
    def _staged(composer: Composer) -> Staged:
        if not isinstance(composer, Staged):
            raise TrainingError(
                f"`stages` needs a composer of several networks, and {type(composer).__name__} is"
                " not one; use multilevel or stacked, or remove it with `stages=None`."
            )
        return composer
