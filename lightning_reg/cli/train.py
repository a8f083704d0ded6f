"""``python train.py`` and ``lightning-reg train``."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_reg.cli.arguments import console as terminal
from lightning_reg.cli.failures import STOPPED, end, guarded, refuse
from lightning_reg.cli.slurm import requeue
from lightning_reg.cli.sweep import FAILED
from lightning_reg.cli.tables import cases_table
from lightning_reg.discovery import UserError, in_words
from lightning_reg.discovery.composition import COMPOSITION, EMPTY_GROUP, configuration_warnings, in_full, plain, register, sentence
from lightning_reg.discovery.conf import own_directory
from lightning_reg.metrics import primary_error
from lightning_reg.studies.sweep import note_call
from lightning_reg.training import run
from lightning_reg.training.callbacks.saving import Interrupted
from lightning_reg.training.ranks import is_first, is_started_from_outside
from lightning_reg.training.run_folder import Failure, finished, note_failure, read_config, run_of

register()


def main() -> None:
    """Entry of ``train.py``, guarded."""
    guarded(train)


def train() -> int:
    """Compose the configuration and train; the exit code: of a sweep 1 where a run of it failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of being printed by Hydra
    quieten()
    sys.argv[1:] = in_full(sys.argv[1:])
    try:
        _train()
    except COMPOSITION as error:
        refuse(sentence(error))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        refuse(EMPTY_GROUP)
    return 1 if FAILED else 0


@hydra.main(version_base="1.3", config_path=str(own_directory()), config_name="train")
def _train(config: DictConfig) -> float:
    """One run; returns the validation error, which sweeps minimise: infinite for a run of a sweep that failed, so that the others go on."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        try:
            return _run(config, Path(HydraConfig.get().runtime.output_dir))
        except COMPOSITION as error:
            refuse(sentence(error))
        except BrokenPipeError:
            raise
        except Exception as error:  # Hydra would print a heading of its own
            end(error)
    folder = Path(HydraConfig.get().sweep.dir) / HydraConfig.get().sweep.subdir
    os.environ.setdefault("WANDB_RUN_GROUP", folder.parent.name)
    try:
        note_call(folder, list(HydraConfig.get().overrides.task))
    except UserError as error:
        refuse(error)
    try:
        return _run(config, folder)
    except Exception as error:
        told = sentence(error) if isinstance(error, COMPOSITION) else in_words(error)
        note_failure(folder, Failure(told))
        terminal().print(f"Failed: {folder.name}: {told}", soft_wrap=True, markup=False, highlight=False)
        return float("inf")


def _run(config: DictConfig, folder: Path) -> float:
    console = terminal()

    def say(line: str) -> None:
        if is_first():
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    if is_started_from_outside() and not config.run and not config.resume and "SLURM_JOB_ID" not in os.environ:
        raise UserError("Several processes share the run's folder: give it a name, run=NAME.")
    try:
        for warning in configuration_warnings(HydraConfig.get().runtime.choices):
            say(warning)
        checkpoint = None
        if config.resume:
            folder, checkpoint = run_of(Path(str(config.resume)).expanduser())
            values = _resumed(folder, list(HydraConfig.get().overrides.task))
        else:
            values = plain(config)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                values["trainer"] = _on_one_device(values["trainer"])
            known = finished(folder, values) if HydraConfig.get().mode == RunMode.MULTIRUN else None
            if known is not None:
                say(f"{folder.name} is done.")
                return primary_error(known)
        outcome = run.train(values, folder, checkpoint, progress=say, overwrite=bool(config.overwrite))
    except Interrupted as stopped:
        if not is_first():
            sys.exit(STOPPED)
        if stopped.checkpoint is None:
            console.print("\nStopped before anything was saved; the same command begins again.", soft_wrap=True)
        else:
            saved, command = _shown(stopped.checkpoint), _command()
            console.print(f"\nStopped; saved {saved}. Go on with:\n  {command} {_override('resume', folder)}", soft_wrap=True)
        if stopped.time_is_over and (told := requeue()):
            console.print(told, soft_wrap=True)
        sys.exit(STOPPED)
    if is_first():
        report(outcome, console)
    return primary_error(outcome.totals())


def _on_one_device(trainer: dict[str, Any]) -> dict[str, Any]:
    """Settings for a run of a sweep, whose other processes would sweep again.

    Raises:
        UserError: several devices are asked for.
    """
    if trainer["devices"] not in ("auto", 1, "1") or trainer["num_nodes"] != 1:
        raise UserError("A run of a sweep trains on one device; several devices per run: lightning-reg study.")
    return {**trainer, "devices": 1}


def _resumed(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The configuration of the run in ``folder``, with what the command line sets besides ``resume``.

    Raises:
        UserError: no run there, or an override of a whole group.
    """
    config = OmegaConf.create(read_config(folder))
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key, _, _ = override.partition("=")
        if key in ("resume", "run", "overwrite"):
            continue
        if (own_directory() / key).is_dir():
            raise UserError(f"A resumed run keeps its own {key}; leave out {override}, or start a new run.")
        config.merge_with_dotlist([override])
    return plain(config)


def report(outcome: run.Outcome, console: Console) -> None:
    """The table of cases, where everything lies, and what to do next."""
    console.print(cases_table(outcome.cases))
    console.print(f"{outcome.seconds:.0f} s, {outcome.parameters:,} parameters. Everything is in {_shown(outcome.folder)}", soft_wrap=True)
    console.print(
        f"Look at {_shown(outcome.folder / 'figures')}; train longer with:\n"
        f"  {_command()} {_override('resume', outcome.folder)} trainer.max_steps=...",
        soft_wrap=True,
    )


def _override(key: str, path: Path) -> str:
    """``key=path`` as Hydra and the shell read it, as :func:`_shown` has the path."""
    shown = _shown(path)
    return f"{key}={shown}" if re.fullmatch(r"[\w./~-]+", shown) else shlex.quote(f"{key}='{shown}'")


def _shown(path: Path) -> str:
    """A path relative to the working folder where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _command() -> str:
    return "lightning-reg train" if Path(sys.argv[0]).name == "lightning-reg" else "python train.py"


def quieten() -> None:
    """Leave out what libraries say on every run and no user can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for pattern in (
        "your dataloader is not resumable",  # the sampler knows where a resumed run stands; Lightning looks into the loader
        "does not have many workers",
        "smaller than the logging interval",
        "Experiment logs directory",
        "exists and is not empty",
        "isinstance.treespec",
        "__array__ implementation doesn't accept a copy keyword",
    ):
        warnings.filterwarnings("ignore", f".*{pattern}.*")
