"""Image panels and the table of cases during training."""

from __future__ import annotations

from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lightning_reg import figures
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.registry import Checked, Range
from lightning_reg.training.logging import log_cases, log_figures
from lightning_reg.training.module import RegistrationModule


class Panels(Checked, L.Callback):
    """Panels of validation pairs and the table of cases for Weights & Biases or TensorBoard, at
    every n-th validation.

    Args:
        every: number of validations from one panel to the next.
        pairs: number of validation pairs with a panel.
    """

    def __init__(
        self, every: Annotated[int, Range(1)] = 5, pairs: Annotated[int, Range(1)] = 2
    ) -> None:
        self.every, self.pairs, self.seen = every, pairs, 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.seen += 1
        data = getattr(trainer, "datamodule", None)
        if (
            self.seen % self.every
            or not trainer.is_global_zero
            or not isinstance(data, RegistrationData)
        ):
            return
        assert isinstance(pl_module, RegistrationModule)
        drawn = {}
        with torch.no_grad():
            for number, pair in enumerate(data.validation_pairs[: self.pairs]):
                here = pair.to(pl_module.device)
                drawn[f"panel_{number}"] = figures.registration_panel(
                    here, pl_module(here.fixed, here.moving).transform
                )
        log_figures(trainer.loggers, drawn, trainer.global_step)
        log_cases(trainer.loggers, [case.row() for case in pl_module.cases])
