"""Training and report of one run; imports PyTorch."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_reg.cli.arguments import console
from lightning_reg.cli.failures import STOPPED
from lightning_reg.cli.slurm import requeue
from lightning_reg.cli.tables import cases_table
from lightning_reg.configuration.overrides import as_word
from lightning_reg.metrics import primary_error
from lightning_reg.training import run
from lightning_reg.training.callbacks.saving import Interrupted
from lightning_reg.training.ranks import is_first


def train_and_report(
    config: Mapping[str, Any],
    folder: Path,
    checkpoint: Path | None,
    overwrite: bool,
    command: str,
    say: Callable[[str], None],
) -> float:
    """Train, print the table of cases and the next steps; the validation error.

    Args:
        config, folder, checkpoint, overwrite: see :func:`lightning_reg.training.run.train`.
        command: that goes on with the run, without options.
        say: prints a line.
    """
    quieten()
    try:
        outcome = run.train(config, folder, checkpoint, progress=say, overwrite=overwrite)
    except Interrupted as stopped:
        if is_first():
            if stopped.checkpoint is None:
                say("\nStopped before anything was saved; the same command begins again.")
            else:
                say(
                    f"\nStopped; saved {_shown(stopped.checkpoint)}. Go on with:\n  {command}"
                    f" {as_word('resume', _shown(folder))}"
                )
            if stopped.time_is_over and (told := requeue()):
                say(told)
        sys.exit(STOPPED)
    if is_first():
        console().print(cases_table(outcome.cases))
        say(
            f"{outcome.seconds:.0f} s, {outcome.parameters:,} parameters. Everything is in"
            f" {_shown(outcome.folder)}"
        )
        resume = as_word("resume", _shown(outcome.folder))
        say(
            f"Look at {_shown(outcome.folder / 'figures')}; train longer with:\n  {command}"
            f" {resume} trainer.max_steps=..."
        )
    return primary_error(outcome.totals())


def _shown(path: Path) -> str:
    """A path relative to the working folder where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def quieten() -> None:
    """Leave out what libraries say on every run and no user can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for pattern in (
        # the sampler knows where a resumed run stands; Lightning looks into the loader
        "your dataloader is not resumable",
        "does not have many workers",
        "smaller than the logging interval",
        "Experiment logs directory",
        "exists and is not empty",
        "isinstance.treespec",
        "__array__ implementation doesn't accept a copy keyword",
    ):
        warnings.filterwarnings("ignore", f".*{pattern}.*")
