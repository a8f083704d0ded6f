"""Loggers of a run: always ``metrics.csv``, optionally Weights & Biases or TensorBoard."""

from __future__ import annotations

import netrc
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_reg.io.folders import write_whole
from lightning_reg.io.images import first_line
from lightning_reg.registry import ComponentError, construct, load
from lightning_reg.training.metrics_file import MetricsFile


def make_loggers(
    spec: Mapping[str, Any], folder: Path, config: Mapping[str, Any], logged: int = 0
) -> list[Logger]:
    """Make the loggers of a configuration, which write below ``folder``.

    Args:
        spec: ``{name, **arguments}`` of a logger registered under ``lightning_reg.loggers``;
            ``csv`` adds none. With ``checkpoints``, the best checkpoint is uploaded to Weights &
            Biases as an artifact.
        config: configuration, stored with the run by Weights & Biases.
        logged: number of steps that a resumed run has already logged.

    Raises:
        ComponentError: the logger is unknown, refuses an argument, or its package is not installed.
    """
    arguments = {key: value for key, value in spec.items() if value is not None}
    name = arguments.pop("name", "csv")
    arguments.pop("checkpoints", None)  # see log_outcome
    loggers: list[Logger] = [MetricsFile(folder, logged)]
    if name == "csv":
        return loggers
    cls = load("loggers", str(name), Logger)
    supplied: dict[str, Any] = {"save_dir": folder}
    if issubclass(cls, WandbLogger):
        arguments.setdefault("offline", not logged_in_to_wandb())
        supplied |= {"name": folder.name, "id": _wandb_id(folder), "resume": "allow"}
    elif issubclass(cls, TensorBoardLogger):
        supplied |= {"name": "tensorboard", "version": "", "default_hp_metric": False}
    try:
        logger = construct(str(name), cls, arguments, **supplied)
    except ModuleNotFoundError as cause:
        raise ComponentError(
            f"The logger '{name}' needs a package that is not installed ({first_line(cause)});"
            " install it."
        ) from cause
    if isinstance(logger, WandbLogger):
        logger.experiment.config.update(dict(config), allow_val_change=True)
    return [*loggers, logger]


def _wandb_id(folder: Path) -> str:
    """Return the run's identifier at Weights & Biases, stored in its folder, so that a resumed run
    continues the same entry.
    """
    path = folder / "wandb" / "id.txt"
    known = path.read_text(errors="replace").strip() if path.is_file() else ""
    if not re.fullmatch(r"[\w-]{1,64}", known, re.ASCII):
        known = secrets.token_hex(4)
        write_whole(path, known.encode())
    return known


def logged_in_to_wandb() -> bool:
    """Return whether there is a key for Weights & Biases, in the environment or in ``.netrc``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def log_outcome(
    loggers: Sequence[Logger],
    folder: Path,
    figures: Mapping[str, Figure],
    rows: Sequence[Mapping[str, Any]],
    totals: Mapping[str, float],
    config: Mapping[str, Any],
) -> None:
    """Log figures, the table of cases, the totals and, if configured, the best checkpoint, with the
    loggers that support them.
    """
    log_figures(loggers, figures)
    log_cases(loggers, rows)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({f"final/{k}": v for k, v in totals.items()})
            best = folder / "checkpoints" / "best.ckpt"
            if (config.get("logger") or {}).get("checkpoints") and best.is_file():
                logger.experiment.log_artifact(
                    str(best), name=f"{logger.experiment.id}-best", type="model"
                )
            logger.experiment.finish()
        elif isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(
                dict(_flat(config)), {f"final/{name}": value for name, value in totals.items()}
            )
            logger.experiment.flush()


def log_figures(
    loggers: Sequence[Logger], figures: Mapping[str, Figure], step: int | None = None
) -> None:
    """Log figures as images."""
    for logger in loggers:
        for name, figure in figures.items():
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [figure_pixels(figure)])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, figure_pixels(figure), step, dataformats="HWC")


def log_cases(loggers: Sequence[Logger], rows: Sequence[Mapping[str, Any]]) -> None:
    """Log the table of cases; TensorBoard has no tables."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(
                "cases", columns=columns, data=[[row.get(c) for c in columns] for row in rows]
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten a configuration to TensorBoard's hyperparameters, by dotted keys."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield (
                f"{prefix}{key}",
                value if isinstance(value, (bool, int, float, str)) else str(value),
            )


def figure_pixels(figure: Figure) -> Any:
    """Render a figure to an ``(H, W, 3)`` uint8 array."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
