"""Averaged weights: a moving average fluctuates less than the weights of single steps."""

from __future__ import annotations

from typing import Annotated, Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_reg.registry import Checked, Range


class AveragedWeights(Checked, WeightAveraging):
    """Callback that validates and saves an exponential moving average of the weights; training uses
    the weights themselves.

    Args:
        decay: share of the old average that is kept in a step; 0.999 averages over about a thousand
            steps.
        start: number of steps after which averaging begins; before, the average equals the weights.

    Source: Polyak & Juditsky, SIAM J. Control Optim. 30(4), 1992; Tarvainen & Valpola, NeurIPS 2017
        (moving average).
    """

    def __init__(
        self,
        decay: Annotated[float, Range(above=0, below=1)] = 0.999,
        start: Annotated[int, Range(0, of="steps")] = 100,
    ) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.start = start

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._average_model is not None and trainer.global_step <= self.start:
            self._average_model.n_averaged.zero_()  # the next update is a copy
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        now = checkpoint.get("current_model_state", {})
        # growth, stages
        checkpoint["state_dict"].update(
            {key: value for key, value in now.items() if key.endswith("_extra_state")}
        )
