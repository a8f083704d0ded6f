"""Growth of a network, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L

from lightning_reg.components.interfaces import Growable
from lightning_reg.registry import TrainingError
from lightning_reg.training.schedules import growth


class AlphaGrowth(L.Callback):
    """Callback that sets and logs the level weights of every growable component as a function of
    the iteration.

    Args:
        start, ramp, duration: see :func:`lightning_reg.training.schedules.growth`, iterations.
        time_scale: factor for ``start``, ``ramp`` and ``duration``; below 1 the network grows
            faster than in the paper.
    """

    def __init__(
        self, start: float = -300, ramp: float = 200, duration: float = 600, time_scale: float = 1.0
    ) -> None:
        growth(0, 1, start, ramp, duration)  # refuses an invalid schedule
        self.schedule = {
            "start": start * time_scale,
            "ramp": ramp * time_scale,
            "duration": duration * time_scale,
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._growable(pl_module):
            raise TrainingError(
                "The callback alpha_growth found nothing to grow; use a backbone with levels"
                " (progressive_unet) and `head.levels='weighted'`, or remove it with"
                " `alpha_growth=None`."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        alpha: Sequence[float] = ()
        for component in self._growable(pl_module):
            alpha = growth(trainer.global_step, len(component.alpha), **self.schedule)
            component.grow(alpha)
        pl_module.log_dict(
            {f"alpha/{i}": a for i, a in enumerate(alpha)}, prog_bar=True, batch_size=1
        )

    @staticmethod
    def _growable(module: L.LightningModule) -> list[Growable]:
        return [m for m in module.modules() if isinstance(m, Growable) and len(m.alpha) > 1]
