"""Check of settings before the data are read, with messages that name the setting; Lightning
ignores some or fails later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_reg.configuration.values import named
from lightning_reg.registry import DataError, TrainingError, did_you_mean
from lightning_reg.registry.entries import chosen

GROUPS = ("method", "data", "trainer")
METHOD = (
    "steps",
    "batch_size",
    "composer",
    "loss",
    "optimizer",
    "schedule",
    "stages",
    "callbacks",
    "sampling",
    "split_batch",
)
"""Entries of a method. Other entries are allowed, for interpolation, unless they look like
misspellings of these.
"""
CPU_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true", "32", "64", "bf16", 32, 64)
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value == value
        and abs(value) != float("inf")
    )


Rule = tuple[str, Callable[[Any], bool], str]
COUNT = "give a whole number, 1 or more"
FRACTION = "give a whole number of batches, 1 or more, or a fraction above 0 and up to 1"


def _part(value: Any) -> bool:
    return (
        value is None
        or (_whole(value) and value >= 1)
        or (isinstance(value, float) and 0 < value <= 1)
    )


RULES: tuple[Rule, ...] = (
    ("seed", lambda v: _whole(v) and 0 <= v < 2**32, "give a whole number from 0 to 4294967295"),
    ("budget", lambda v: v is None or (_number(v) and v > 0), "give minutes, above 0, or null"),
    ("time_scale", lambda v: v is None or (_number(v) and v > 0), "give a factor above 0"),
    ("data.batch_size", lambda v: _whole(v) and v >= 1, COUNT),
    ("data.samples_per_epoch", lambda v: _whole(v) and v >= 1, COUNT),
    (
        "data.synthetic_validation",
        lambda v: v is None or (_whole(v) and v >= 0),
        "give a whole number, 0 or more",
    ),
    (
        "data.max_validation_pairs",
        lambda v: v is None or (_whole(v) and v >= 1),
        f"{COUNT}, or null for all",
    ),
    ("method.optimizer.lr", lambda v: _number(v) and v >= 0, "give a number, 0 or more"),
    ("data.masks", lambda v: isinstance(v, bool), "give true or false"),
    ("trainer.max_steps", lambda v: _whole(v) and v >= 1, COUNT),
    (
        "trainer.max_epochs",
        lambda v: v is None or v == -1,
        "leave it at -1: a run ends after trainer.max_steps",
    ),
    ("trainer.accumulate_grad_batches", lambda v: v is None or (_whole(v) and v >= 1), COUNT),
    (
        "trainer.devices",
        lambda v: v in (None, "auto", -1) or (_whole(v) and v >= 1) or isinstance(v, (list, str)),
        f"{COUNT}, or auto",
    ),
    (
        "trainer.accelerator",
        lambda v: v is None or v in ACCELERATORS,
        f"use one of {', '.join(ACCELERATORS)}",
    ),
    ("trainer.check_val_every_n_epoch", lambda v: v is None or (_whole(v) and v >= 1), COUNT),
    ("trainer.val_check_interval", _part, FRACTION),
    ("trainer.limit_train_batches", _part, FRACTION),
    ("trainer.limit_val_batches", _part, FRACTION),
    (
        "trainer.overfit_batches",
        lambda v: not v,
        "leave it at 0: data.limit=1 with data.samples_per_epoch overfits one subject",
    ),
    (
        "trainer.gradient_clip_val",
        lambda v: v is None or (_number(v) and v > 0),
        "give a number above 0, or null",
    ),
    ("trainer.log_every_n_steps", lambda v: v is None or (_whole(v) and v >= 1), COUNT),
    ("trainer.fast_dev_run", lambda v: not v, "leave it out: experiment=smoke tries a run"),
)


def require_settings(config: Mapping[str, Any]) -> None:
    """Refuse invalid values of a composed configuration.

    Raises:
        TrainingError: names the first invalid setting, its value and the allowed values.
    """
    for group in GROUPS:
        if not isinstance(config.get(group), Mapping):
            raise TrainingError(f"{group} is {config.get(group)}; choose one (--help lists them).")
    for key in config["method"]:
        meant = did_you_mean(str(key), METHOD) if key not in METHOD else "."
        if meant != ".":
            raise TrainingError(f"method has no entry '{key}'{meant} See docs/methods.md.")
    for name in ("composer", "loss", "optimizer", "sampling"):
        if not isinstance(config["method"].get(name), Mapping):
            raise TrainingError(
                f"method.{name} is {config['method'].get(name)}, where a mapping is meant; see"
                " docs/methods.md."
            )
    if not isinstance(config["data"].get("dataset"), (str, Mapping)):
        raise TrainingError(
            f"data.dataset is {config['data'].get('dataset')}, where a data set is meant; see"
            " docs/data.md."
        )
    if "seed" not in config:
        raise TrainingError("The configuration has no seed; add seed: 1.")
    for key, allowed, remedy in RULES:
        holder: Any = config
        *path, name = key.split(".")
        for part in path:
            holder = holder[part]
        if name in holder and not allowed(holder[name]):
            value = holder[name]
            meant = (
                did_you_mean(value, ACCELERATORS)
                if name == "accelerator" and isinstance(value, str)
                else "; "
            )
            raise TrainingError(f"{key} is {value}{meant if meant != '.' else '; '}{remedy}.")
    stopping = (config.get("callbacks") or {}).get("early_stopping")
    if stopping is not None:
        monitor = stopping.get("monitor") if isinstance(stopping, Mapping) else None
        if not str(monitor).startswith(("validation/", "train/")):
            raise TrainingError(
                f"callbacks.early_stopping monitors {monitor}, which no run logs; give monitor:"
                " validation/error."
            )


def require_components(config: Mapping[str, Any]) -> None:
    """Refuse components that nobody provides and a folder of data that is not there; nothing is
    imported.

    Raises:
        ComponentError: names the nearest names.
        DataError: names the folder.
    """
    for group, name in named(config):
        chosen(group, name)
    dataset = config["data"]["dataset"]
    root = dataset.get("root") if isinstance(dataset, Mapping) else None
    if (
        isinstance(root, str)
        and dataset.get("name") != "prepared"
        and not Path(root).expanduser().exists()
    ):
        raise DataError(
            f"There is no {'file' if Path(root).suffix else 'folder'} {root}; correct data.root."
        )


def require_machine(trainer: Mapping[str, Any]) -> None:
    """Refuse a device or a precision that this machine lacks.

    Raises:
        TrainingError: names it, and what is there.
    """
    import torch

    accelerator, precision = trainer.get("accelerator"), trainer.get("precision")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise TrainingError(
            f"trainer.accelerator is {accelerator}, and this machine (or this installation of"
            " PyTorch) has no CUDA; use cpu or auto."
        )
    on_cpu = accelerator == "cpu" or (
        accelerator in (None, "auto")
        and not torch.cuda.is_available()
        and not torch.backends.mps.is_available()
    )
    if on_cpu and precision is not None and precision not in CPU_PRECISIONS:
        raise TrainingError(
            f"trainer.precision is {precision}, which is not available on a CPU; use 32-true or"
            " bf16-mixed."
        )
