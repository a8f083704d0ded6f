"""Keypoint errors at every validation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_reg import ArgumentError, RegistrationModule


class KeypointError(L.Callback):
    """Callback that logs the distribution of keypoint errors at every validation, and writes a
    table of the last errors.

    Logged are ``validation/keypoint_p95_mm``, the 95th percentile over all keypoints of all pairs,
    and ``validation/keypoint_within``, the fraction within ``near`` mm. ``keypoints.csv`` in the
    run's folder has a line per keypoint: case, number, error before and after in mm.

    Args:
        near: largest error of ``validation/keypoint_within``, mm.
        table: whether ``keypoints.csv`` is written.
    """

    def __init__(self, near: float = 2.0, table: bool = True) -> None:
        if near <= 0:
            raise ArgumentError(f"near is {near}; give mm above 0")
        self.near, self.table = near, table
        self.best = float("inf")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, RegistrationModule)
        errors = [case.tre_after for case in pl_module.cases if case.tre_after is not None]
        if not errors:
            return
        every = torch.cat(errors)
        p95 = float(every.quantile(0.95))
        self.best = min(self.best, p95)
        pl_module.log_dict(
            {
                "validation/keypoint_p95_mm": p95,
                "validation/keypoint_within": float((every <= self.near).float().mean()),
            }
        )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, RegistrationModule)
        if not self.table or not trainer.is_global_zero:
            return
        with (Path(trainer.default_root_dir) / "keypoints.csv").open(
            "w", newline="", encoding="utf-8"
        ) as file:
            writer = csv.writer(file)
            writer.writerow(["case", "keypoint", "before_mm", "after_mm"])
            for case in pl_module.cases:
                if case.tre_before is not None and case.tre_after is not None:
                    both = zip(case.tre_before.tolist(), case.tre_after.tolist(), strict=True)
                    writer.writerows(
                        [case.name, number, f"{before:.4f}", f"{after:.4f}"]
                        for number, (before, after) in enumerate(both)
                    )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
