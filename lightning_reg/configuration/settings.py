"""Check of settings before the data are read, with messages that name the setting; Lightning
ignores some or fails later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from lightning_reg.configuration.values import named
from lightning_reg.registry import DataError, Range, TrainingError, did_you_mean
from lightning_reg.registry.constraints import fits, in_words
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


Count = Annotated[int, Range(1)]
Batches = Annotated[int, Range(1, of="batches")] | Annotated[float, Range(above=0, high=1)] | None
Nothing = Annotated[float, Range(0, 0)] | Literal[False] | None


class Run:
    """Values that every run has, with their constraints."""

    seed: Annotated[int, Range(0, 2**32 - 1)]
    budget: Annotated[float, Range(above=0, of="minutes")] | None
    time_scale: Annotated[float, Range(above=0)] | None


class Data:
    """Values of ``data`` that are used before an object is made from them."""

    batch_size: Count
    samples_per_epoch: Count
    synthetic_validation: Annotated[int, Range(0)] | None
    max_validation_pairs: Count | None
    masks: bool


class Optimizer:
    """Values of ``method.optimizer``."""

    lr: Annotated[float, Range(0)]


class Trainer:
    """Arguments that Lightning's trainer ignores or refuses late."""

    max_steps: Count
    max_epochs: Literal[-1] | None
    accumulate_grad_batches: Count | None
    devices: Count | Literal["auto", -1] | Sequence[Any] | str | None
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] | None
    check_val_every_n_epoch: Count | None
    val_check_interval: Batches
    limit_train_batches: Batches
    limit_val_batches: Batches
    overfit_batches: Nothing
    gradient_clip_val: Annotated[float, Range(above=0)] | None
    log_every_n_steps: Count | None
    fast_dev_run: Nothing


PLACES = {"": Run, "data.": Data, "method.optimizer.": Optimizer, "trainer.": Trainer}
RULES: dict[str, Any] = {
    f"{place}{name}": hint
    for place, values in PLACES.items()
    for name, hint in get_type_hints(values, include_extras=True).items()
}
"""Allowed values by dotted key."""
REMEDIES = {
    "seed": f"give a whole number from 0 to {2**32 - 1}",
    "data.max_validation_pairs": "give a whole number, 1 or more, or null for all",
    "trainer.devices": "give a whole number, 1 or more, or auto",
    "trainer.max_epochs": "leave it at -1: a run ends after trainer.max_steps",
    "trainer.overfit_batches": (
        "leave it at 0: data.limit=1 with data.samples_per_epoch overfits one subject"
    ),
    "trainer.fast_dev_run": "leave it out: experiment=smoke tries a run",
}
"""Advice beside the allowed values of a setting."""


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
    for key, allowed in RULES.items():
        holder: Any = config
        *path, name = key.split(".")
        for part in path:
            holder = holder[part]
        if name in holder and not fits(holder[name], allowed):
            value, remedy = holder[name], REMEDIES.get(key, f"give {in_words(allowed)}")
            words = [one for inner in get_args(allowed) for one in get_args(inner)]
            meant = did_you_mean(value, map(str, words)) if isinstance(value, str) else "."
            raise TrainingError(f"{key} is {value}{meant if meant != '.' else ';'} {remedy}.")
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
