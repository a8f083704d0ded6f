"""The one LightningModule: a composer, a loss bundle, an optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_reg import __version__
from lightning_reg.components.contracts import require_registration
from lightning_reg.components.interfaces import Composer, Registration
from lightning_reg.components.losses.bundle import LossBundle, LossValue
from lightning_reg.discovery import ComponentError, TrainingError, blaming, build, construct, nearest
from lightning_reg.metrics import PairMetrics, evaluate, primary_error, totals
from lightning_reg.spatial import Image, Pair
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.schedules import cooldown, inverse_time

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class RateSchedule:
    """Factor of the learning rate: :func:`inverse_time` times :func:`cooldown`.

    (``method.schedule.plateau`` has the arguments of PyTorch's ``ReduceLROnPlateau`` instead, counted in epochs with a validation.)

    Args:
        steps: of the whole training (supplied).
        decay: of :func:`~lightning_reg.training.schedules.inverse_time`.
        cooldown: fraction of the training over which the rate falls to 0 at its end.
    """

    steps: int
    decay: float = 0.0
    cooldown: float = 0.0

    def __call__(self, step: int) -> float:
        return inverse_time(step, self.decay) * cooldown(step, self.steps, self.cooldown)


class RegistrationModule(L.LightningModule):
    """Trains any composer with any loss.

    Args:
        method: ``{composer, loss, optimizer, schedule, ...}``, plain mappings; see ``docs/methods.md``.
        preprocessing: what was done to the images, kept in the checkpoint for whoever applies the model.

    :attr:`statistics` (:func:`lightning_reg.data.statistics.statistics` of the training scans) is kept there for the same reason.
    """

    def __init__(self, method: Mapping[str, Any], preprocessing: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.method, self.preprocessing = method, preprocessing or {}
        self.statistics: Mapping[str, Any] = {}
        self.composer = build("composers", method["composer"], Composer)
        self.loss = construct("method.loss", LossBundle, method["loss"])
        self.cases: list[PairMetrics] = []
        self.split_batch = bool(method.get("split_batch"))
        if self.split_batch and any(isinstance(part, torch.nn.BatchNorm3d) for part in self.modules()):
            raise ComponentError(
                "method.split_batch needs networks without batch normalisation: set norm to instance, or split_batch to false."
            )
        self.optimize()

    def optimize(
        self, optimizer: Mapping[str, Any] | None = None, schedule: Mapping[str, Any] | None = None, steps: int | None = None
    ) -> None:
        """What :meth:`configure_optimizers` makes next.

        Args:
            optimizer, schedule: what differs from the method's.
            steps: for which the schedule is; default the trainer's.
        """
        self._optimizer = {**self.method["optimizer"], **(optimizer or {})}
        self._schedule = {**(self.method.get("schedule") or {}), **(schedule or {})}
        self._steps = steps

    def forward(self, fixed: Image, moving: Image) -> Registration:
        with blaming(self.composer, "registering a pair"):
            registration = self.composer(fixed, moving)
        require_registration(self.composer, registration)
        return registration

    def loss_of(self, pair: Pair) -> LossValue:
        """Register a batch, both ways where a term compares the two, and measure the result."""
        registration = self(pair.fixed, pair.moving)
        if self.loss.backward:
            registration = registration.beside(self(pair.moving, pair.fixed))
        return self.loss(registration, pair)

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        value = self.training_loss(pair)
        self._require_finite(value.terms, pair)
        batch = pair.fixed.tensor.shape[0]
        self.log("train/loss", value.total, prog_bar=True, batch_size=batch)
        self.log_dict({f"train/{name}": term for name, term in value.terms.items()}, prog_bar=len(value.terms) > 1, batch_size=batch)
        return value.total

    def training_loss(self, pair: Pair) -> LossValue:
        """:meth:`loss_of`; with ``split_batch`` for the memory of one element: each is computed again when its gradient is asked for."""
        if not self.split_batch or pair.fixed.tensor.shape[0] == 1:
            return self.loss_of(pair)
        values: list[LossValue] = [checkpoint(self.loss_of, element, use_reentrant=False) for element in pair.elements()]
        terms = {name: torch.stack([value.terms[name] for value in values]).mean() for name in values[0].terms}
        return LossValue(torch.stack([value.total for value in values]).mean(), terms)

    def _require_finite(self, terms: Mapping[str, Tensor], pair: Pair) -> None:
        broken = [name for name, term in terms.items() if not bool(torch.isfinite(term.detach()))]
        if broken:
            raise TrainingError(
                f"The loss term {' and '.join(broken)} became NaN or infinite at step {self.global_step} on {', '.join(pair.name)}; "
                "lower method.optimizer.lr, set trainer.gradient_clip_val=1, or train in trainer.precision=32-true. "
                "The last good checkpoint is kept."
            )

    def on_validation_epoch_start(self) -> None:
        self.cases = []

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        self.cases.append(evaluate(pair, self(pair.fixed, pair.moving).transform))

    def on_validation_epoch_end(self) -> None:
        summary = totals(self.cases)
        if not math.isfinite(primary_error(summary)):
            raise TrainingError(
                f"The validation became NaN or infinite at step {self.global_step} ({self.cases[0].name}); lower method.optimizer.lr or "
                "set trainer.gradient_clip_val=1. The last good checkpoint is kept."
            )
        if self.trainer.state.fn != TrainerFn.FITTING:  # an evaluation afterwards is no point of the training's curves
            return
        self.log_dict({f"validation/{name}": value for name, value in summary.items()})
        self.log("validation/error", primary_error(summary), prog_bar=True)

    def configure_optimizers(self) -> Any:
        settings = {k: v for k, v in self._optimizer.items() if v is not None}
        name = settings.pop("name", None)
        if name not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise ComponentError(f"There is no optimizer named '{name}'{nearest(str(name), OPTIMIZERS)} Available: {known}.")
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = construct(name, OPTIMIZERS[name], settings, params=trained)
        settings = {k: v for k, v in self._schedule.items() if v is not None}
        plateau = settings.pop("plateau", None)
        rate = construct("method.schedule", RateSchedule, settings, steps=self._steps or self.trainer.max_steps)
        if plateau is None:
            # a function: the state of an object would be kept in the checkpoint, and with it the old number of steps
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        if settings:
            raise ComponentError("method.schedule has plateau and something else; keep one of them.")
        every = self.trainer.check_val_every_n_epoch or 1
        falling = construct("method.schedule.plateau", torch.optim.lr_scheduler.ReduceLROnPlateau, plateau, optimizer=optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": falling, "interval": "epoch", "frequency": every, "monitor": "validation/error"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightning_reg"] = {
            "version": __version__,
            "method": self.method,
            "preprocessing": self.preprocessing,
            "statistics": self.statistics,
        }

    @staticmethod
    def from_checkpoint(path: str) -> RegistrationModule:
        """The trained module of a checkpoint file, in evaluation mode. Loads tensors and plain values only: no code of the file runs.

        Raises:
            TrainingError: no such file, damaged, or not written by lightning_reg.
        """
        checkpoint = read_checkpoint(path)
        module = RegistrationModule(checkpoint["lightning_reg"]["method"], checkpoint["lightning_reg"]["preprocessing"])
        module.statistics = checkpoint["lightning_reg"].get("statistics", {})
        load_weights(module, checkpoint["state_dict"], path)
        return module.eval()


def load_weights(module: RegistrationModule, state: Mapping[str, Any], path: str) -> None:
    """Load a checkpoint's weights.

    Raises:
        TrainingError: they do not fit the module; names the first that does not.
    """
    own = module.state_dict()
    unfit = sorted(own.keys() ^ state.keys()) + [
        k for k, v in own.items() if isinstance(v, Tensor) and k in state and v.shape != state[k].shape
    ]
    if unfit:
        raise TrainingError(
            f"The weights in {path} do not fit the method it names ({unfit[0]}); they are of another version of "
            "the components: install that one."
        )
    module.load_state_dict(dict(state))
