"""One training run: from a configuration to a folder with everything that came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.discovery import TrainingError, build, construct
from lightning_reg.spatial import Case, Pair, totals
from lightning_reg.training.budget import duration, step_seconds, with_steps
from lightning_reg.training.callbacks.stages import StageTraining
from lightning_reg.training.callbacks.standard import RandomState, StopOnSignal, ValidateLastStep
from lightning_reg.training.logging import make_loggers
from lightning_reg.training.module import RegistrationModule, read_checkpoint
from lightning_reg.training.record import write_config, write_record

FEW = 300
"""Steps with which no network learns to register."""
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


def run_training(
    config: Mapping[str, Any], folder: Path, resume: Path | None = None, report: Callable[[str], None] | None = None
) -> Outcome:
    """Train, validate the best checkpoint, and write the record.

    Args:
        config: the composed configuration, plain values: ``method, data, trainer, logger, callbacks, seed``; with ``budget`` (minutes) as
            many steps are made as fit into it here, instead of the method's own number.
        folder: the run's folder; see ``docs/quickstart.md`` for what it holds afterwards.
        resume: checkpoint of an interrupted run to continue.
        report: told before the training what was found about the data, how many steps it makes, and how long that takes.

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
    module = RegistrationModule(method)
    data.setup()
    module.preprocessing, module.statistics = asdict(data.preprocessing), data.statistics
    try:
        module.loss.require(data.available())
    except TrainingError as error:
        if "_mask" in str(error) and (config["data"].get("prepare") or {}).get("lungs") and not data.prepared:
            raise TrainingError(f"{error} These data get their lung masks from lightning-reg prepare; train on what it writes.") from error
        raise

    if report is not None or config.get("budget"):
        config, told = planned(config, module, data, resume is not None)
        if resume is None:
            write_config(folder, config)
        if report is not None:
            for line in (*data.notes, told):
                report(line)

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


def planned(config: Mapping[str, Any], module: RegistrationModule, data: RegistrationData, resumed: bool) -> tuple[Mapping[str, Any], str]:
    """The configuration with the steps that its budget allows, and a sentence that says how many there are and how long they take here.

    A budget counts where the steps are the method's own: ``trainer.max_steps`` on the command line goes before it.
    """
    method, steps, budget = config["method"], config["trainer"]["max_steps"], config.get("budget")
    pairs = [data.train_pairs[k] for k in range(data.batch_size)] if data.train_pairs is not None else []
    every = max(1, data.samples_per_epoch // data.batch_size)
    seconds = step_seconds(module, method, max(steps, 1), Pair.collate(pairs), data.validation_pairs, every)
    own = steps == max(1, round(method.get("steps", steps) * config.get("time_scale", 1.0)))
    within = ""
    if budget and own and not resumed:
        chosen = max(1, round(60 * budget / seconds))
        within = f": as many as fit into budget={budget:g} minutes. The paper's own settings: experiment=paper."
        if chosen < FEW:
            within += (
                f" These are few: raise the budget, or make the images ({_size(pairs[0])} voxels) smaller by data.preprocessing.spacing."
            )
        steps = chosen
        config = {**with_steps(config, steps), "budget": None}
    return config, f"{steps:,} steps, about {duration(steps * seconds)} here{within or '.'}"


def _size(pair: Pair) -> str:
    return " x ".join(map(str, pair.fixed.grid.shape))


def make_data(config: Mapping[str, Any]) -> RegistrationData:
    """The data of a composed configuration, not yet loaded."""
    settings = {
        k: v for k, v in config["data"].items() if k not in ("root", "mask", "pairing", "prepare", "budget")
    }  # these are there for others to refer to
    return construct("data", RegistrationData, settings, sampling=config["method"]["sampling"], seed=config["seed"])


def _configured_callbacks(config: Mapping[str, Any]) -> list[L.Callback]:
    wanted = {**(config.get("callbacks") or {}), **(config["method"].get("callbacks") or {})}
    callbacks = [build("callbacks", {"name": name, **(spec or {})}, L.Callback) for name, spec in wanted.items() if spec is not None]
    stages = config["method"].get("stages")
    return [*callbacks, construct("method.stages", StageTraining, {"stages": stages})] if stages else callbacks
