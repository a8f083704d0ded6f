"""``python train.py`` and ``lightning-reg train``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lightning_reg.cli.arguments import console as terminal
from lightning_reg.cli.arguments import refuse
from lightning_reg.cli.hydra import plain, register, sentence
from lightning_reg.cli.tables import cases_table
from lightning_reg.discovery import UserError
from lightning_reg.discovery.conf import own_directory, shadowed
from lightning_reg.training.callbacks.standard import Interrupted
from lightning_reg.training.module import primary_error
from lightning_reg.training.run import Outcome, run_training

register()


def main() -> None:
    """Entry: composes the configuration, trains, and answers a user's mistake with one sentence and exit code 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of being printed by Hydra
    quieten()
    try:
        _train()
    except (HydraException, OmegaConfBaseException) as error:
        refuse(sentence(error))
    except UserError as error:
        refuse(str(error))


@hydra.main(version_base="1.3", config_path=str(own_directory()), config_name="train")
def _train(config: DictConfig) -> float:
    """One run; returns the validation error, which sweeps minimise."""
    console = terminal()
    for warning in shadowed():
        console.print(warning, style="yellow")
    folder = Path(HydraConfig.get().runtime.output_dir)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    try:
        if config.resume:
            folder = Path(config.resume).expanduser()
            resumed = _resumed(folder, list(HydraConfig.get().overrides.task))
            outcome = run_training(resumed, folder, folder / "checkpoints" / "last.ckpt", report=say)
        else:
            outcome = run_training(plain(config), folder, report=say)
    except (UserError, OmegaConfBaseException) as error:
        refuse(str(error) if isinstance(error, UserError) else sentence(error))
        raise
    except Interrupted as stopped:
        console.print(f"\nStopped; saved {stopped.checkpoint}. Go on with:\n  {_command()} resume={_shown(folder)}", soft_wrap=True)
        sys.exit(130)
    report(outcome, console)
    return primary_error(outcome.totals())


def _resumed(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The configuration of the run in ``folder``, with what the command line sets besides ``resume``.

    Raises:
        UserError: no run there, or an override of a whole group.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"There is no run in {folder} (no {path.name}); give the folder that the interrupted run printed.")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key, _, _ = override.partition("=")
        if key == "resume":
            continue
        if (own_directory() / key).is_dir():
            raise UserError(f"A resumed run keeps its own {key}; leave out {override}, or start a new run.")
        config.merge_with_dotlist([override])
    return plain(config)


def report(outcome: Outcome, console: Console) -> None:
    """The table of cases, where everything lies, and what to do next."""
    console.print(cases_table(outcome.cases))
    console.print(f"{outcome.seconds:.0f} s, {outcome.parameters:,} parameters. Everything is in {_shown(outcome.folder)}", soft_wrap=True)
    console.print(
        f"Look at {_shown(outcome.folder / 'figures')}; train longer with:\n"
        f"  {_command()} resume={_shown(outcome.folder)} trainer.max_steps=...",
        soft_wrap=True,
    )


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
