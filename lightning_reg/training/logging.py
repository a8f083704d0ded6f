"""Loggers of a run. ``metrics.csv`` is always written; Weights & Biases or TensorBoard record beside it."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_reg.discovery import ComponentError, construct, load
from lightning_reg.io.images import first_line
from lightning_reg.training.metrics_file import MetricsFile


def make_loggers(spec: Mapping[str, Any], folder: Path, config: Mapping[str, Any], logged: int = 0) -> list[Logger]:
    """The loggers that a configuration names, writing below ``folder``.

    Args:
        spec: ``{name, **arguments}`` of a logger registered under ``lightning_reg.loggers``; ``csv`` adds none.
        config: kept with the run by Weights & Biases.
        logged: steps that a resumed run has logged.

    Raises:
        ComponentError: it is unknown, refuses an argument, or its package is not installed.
    """
    arguments = {key: value for key, value in spec.items() if value is not None}
    name = arguments.pop("name", "csv")
    loggers: list[Logger] = [MetricsFile(folder, logged)]
    if name == "csv":
        return loggers
    cls = load("loggers", str(name), Logger)
    supplied: dict[str, Any] = {"save_dir": folder}
    if issubclass(cls, WandbLogger):
        arguments.setdefault("offline", not _logged_in_to_wandb())
        supplied["name"] = folder.name
    elif issubclass(cls, TensorBoardLogger):
        supplied |= {"name": "tensorboard", "version": ""}
    try:
        logger = construct(str(name), cls, arguments, **supplied)
    except ModuleNotFoundError as cause:
        raise ComponentError(f"The logger '{name}' needs a package that is not installed ({first_line(cause)}); install it.") from cause
    if isinstance(logger, WandbLogger):
        logger.experiment.config.update(dict(config), allow_val_change=True)
    return [*loggers, logger]


def _logged_in_to_wandb() -> bool:
    """Whether Weights & Biases would start without asking: a key in the environment or in ``.netrc``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def log_outcome(
    loggers: Sequence[Logger], figures: Mapping[str, Figure], rows: Sequence[Mapping[str, Any]], totals: Mapping[str, float]
) -> None:
    """Hand figures, the table of cases and the totals to the loggers that can show them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            columns = list(dict.fromkeys(key for row in rows for key in row))
            logger.log_table("cases", columns=columns, data=[[row.get(c) for c in columns] for row in rows])
            for name, figure in figures.items():
                logger.log_image(name, [figure_pixels(figure)])
            logger.experiment.summary.update({f"final/{k}": v for k, v in totals.items()})
            logger.experiment.finish()
        elif isinstance(logger, TensorBoardLogger):
            for name, figure in figures.items():
                logger.experiment.add_image(name, figure_pixels(figure), dataformats="HWC")
            logger.experiment.flush()


def figure_pixels(figure: Figure) -> Any:
    """A figure as an ``(H, W, 3)`` uint8 array."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
