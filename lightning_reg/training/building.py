"""Construction of data, callbacks and stages from a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lightning_reg.data.augmentation import Augmentation
from lightning_reg.data.cache import CacheSettings
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.data.datasets.splits import CHOICES, open_dataset
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.data.sampling import build_sampler
from lightning_reg.registry import build, construct
from lightning_reg.training.callbacks.stages import StageTraining, TrainingStage
from lightning_reg.training.optimizers import build_optimizer, build_schedule

FOR_OTHERS = ("root", "masks", "pairing", "prepare", "budget", "aspect")
"""Values of ``data`` that other parts of a configuration refer to."""


def build_data(config: Mapping[str, Any]) -> RegistrationData:
    """Build the data of a composed configuration, without loading them.

    Raises:
        UserError: a part is missing or invalid.
    """
    settings = {key: value for key, value in config["data"].items() if key not in FOR_OTHERS}
    dataset = open_dataset(
        settings.pop("dataset"), **{key: settings.pop(key, None) for key in CHOICES}
    )
    parts = {
        "dataset": dataset,
        "sampling": build_sampler(config["method"]["sampling"]),
        "preprocessing": construct(
            "data.preprocessing", Preprocessing, settings.pop("preprocessing", None) or {}
        ),
        "augmentation": construct(
            "data.augmentation", Augmentation, settings.pop("augmentation", None) or {}
        ),
        "cache": construct("data.cache", CacheSettings, settings.pop("cache", None) or {}),
    }
    return construct("data", RegistrationData, settings, seed=config["seed"], **parts)


def build_callbacks(config: Mapping[str, Any]) -> list[L.Callback]:
    """Build the callbacks of a composed configuration, including those of the method; ``null``
    leaves one out.

    Raises:
        ComponentError: a callback is unknown, or refuses an argument.
    """
    wanted = {**(config.get("callbacks") or {}), **(config["method"].get("callbacks") or {})}
    callbacks = [
        build("callbacks", {"name": name, **(spec or {})}, L.Callback)
        for name, spec in wanted.items()
        if spec is not None
    ]
    if config["trainer"].get("enable_progress_bar") is False:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    stages = build_stages(config["method"])
    return (
        [*callbacks, construct("method.stages", StageTraining, {}, stages=stages)]
        if stages
        else callbacks
    )


def build_stages(method: Mapping[str, Any]) -> list[TrainingStage]:
    """Build the stages of a method; their ``optimizer`` and ``schedule`` contain only the changes
    to those of the method.

    Raises:
        ComponentError: a stage has invalid arguments, see
            :class:`~lightning_reg.training.callbacks.stages.TrainingStage`.
    """
    stages = []
    for number, stage in enumerate(method.get("stages") or []):
        arguments = dict(stage)
        if arguments.get("optimizer"):
            arguments["optimizer"] = build_optimizer(
                {**method["optimizer"], **arguments["optimizer"]}
            )
        if arguments.get("schedule"):
            arguments["schedule"] = build_schedule(
                {**(method.get("schedule") or {}), **arguments["schedule"]}
            )
        given = {key: value for key, value in arguments.items() if value not in (None, {})}
        stages.append(construct(f"method.stages[{number}]", TrainingStage, given))
    return stages
