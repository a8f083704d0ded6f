"""Table of a sweep (``train.py -m``), written when its last run has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

FAILED: list[str] = []
"""Runs of the last sweep of this process that are not done."""


class SweepTable(Callback):
    """Writes the table over a sweep's runs, whatever launcher they had."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        FAILED.clear()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from lightning_reg.batch.studies.sweep import sweep_outcome
        from lightning_reg.cli.arguments import console
        from lightning_reg.cli.study import show

        folder = Path(config.hydra.sweep.dir)
        outcome = sweep_outcome(folder)
        if outcome is None:
            return
        outcome.write(folder, f"Sweep {folder.name}")
        show(outcome, folder, console())
        FAILED.extend(run.name for run in outcome.runs if run.status != "done")
