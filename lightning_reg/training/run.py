"""One training run: from a configuration to a folder with everything that came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.discovery import TrainingError, build, construct
from lightning_reg.spatial import Case, totals
from lightning_reg.training.callbacks.stages import StageTraining
from lightning_reg.training.callbacks.standard import RandomState, StopOnSignal, ValidateLastStep
from lightning_reg.training.logging import make_loggers
from lightning_reg.training.module import RegistrationModule, read_checkpoint
from lightning_reg.training.record import write_config, write_record

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class Outcome:
    """What a run found: its folder, the evaluation of the best checkpoint, wall time, and how many parameters the model has."""

    folder: Path
    cases: list[Case]
    seconds: float
    parameters: int

    def totals(self) -> dict[str, float]:
        return totals(self.cases)


def run_training(config: Mapping[str, Any], folder: Path, resume: Path | None = None) -> Outcome:
    """Train, validate the best checkpoint, and write the record.

    Args:
        config: the composed configuration, plain values: ``method, data, trainer, logger, callbacks, seed``.
        folder: the run's folder; see ``docs/quickstart.md`` for what it holds afterwards.
        resume: checkpoint of an interrupted run to continue.

    Raises:
        UserError: data, component or option are not what they have to be. What was written before stays.
    """
    started = time.perf_counter()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    if resume is None:
        write_config(folder, config)
    checkpoints = folder / "checkpoints"
    if resume is not None:
        read_checkpoint(str(resume))
    method = config["method"]
    data = make_data(config)
    module = RegistrationModule(method, asdict(data.preprocessing))
    data.setup()
    module.statistics = data.statistics
    try:
        module.loss.require(data.first_pair().has())
    except TrainingError as error:
        if "_mask" in str(error) and (config["data"].get("prepare") or {}).get("lungs") and not data.prepared:
            raise TrainingError(f"{error} These data get their lung masks from lightning-reg prepare; train on what it writes.") from error
        raise

    callbacks = [
        *_configured_callbacks(config),
        RandomState(),
        ValidateLastStep(),
        StopOnSignal(checkpoints / "last.ckpt"),
        ModelCheckpoint(checkpoints, "best", monitor="validation/error", mode="min", enable_version_counter=False),
        ModelCheckpoint(checkpoints, "last", enable_version_counter=False),
    ]
    loggers = make_loggers(config.get("logger") or {}, folder, config)
    trainer = construct("trainer", L.Trainer, config["trainer"], callbacks=callbacks, logger=loggers, default_root_dir=folder)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        best = checkpoints / "best.ckpt"
        trainer.validate(module, data, ckpt_path=best if best.exists() else None, weights_only=True, verbose=False)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise TrainingError(
                "Out of memory: lower data.batch_size, method.composer.backbone.features or the image size (data.preprocessing.shape), "
                "or set trainer.precision=bf16-mixed; trainer.accumulate_grad_batches keeps the effective batch."
            ) from error
        raise
    outcome = Outcome(folder, module.cases, time.perf_counter() - started, sum(p.numel() for p in module.parameters()))
    write_record(folder, config["seed"], module, data.validation_pairs, outcome.seconds, loggers)
    return outcome


def make_data(config: Mapping[str, Any]) -> RegistrationData:
    """The data of a composed configuration, not yet loaded."""
    settings = {
        k: v for k, v in config["data"].items() if k not in ("root", "mask", "pairing", "prepare")
    }  # these are there for others to refer to
    return construct("data", RegistrationData, settings, sampling=config["method"]["sampling"], seed=config["seed"])


def _configured_callbacks(config: Mapping[str, Any]) -> list[L.Callback]:
    wanted = {**(config.get("callbacks") or {}), **(config["method"].get("callbacks") or {})}
    callbacks = [build("callbacks", {"name": name, **(spec or {})}, L.Callback) for name, spec in wanted.items() if spec is not None]
    stages = config["method"].get("stages")
    return [*callbacks, construct("method.stages", StageTraining, {"stages": stages})] if stages else callbacks
