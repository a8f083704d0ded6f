"""``python train.py`` and ``lightning-reg train``: composition, help, and everything that can be refused before PyTorch is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_reg.cli import options
from lightning_reg.cli.arguments import console, loading
from lightning_reg.cli.failures import end, guarded, refuse
from lightning_reg.cli.sweep import FAILED
from lightning_reg.discovery import UserError, in_words
from lightning_reg.discovery.composition import COMPOSITION, EMPTY_GROUP, configuration_warnings, in_full, plain, register, sentence
from lightning_reg.discovery.conf import own_directory
from lightning_reg.training.ranks import is_first, is_started_from_outside
from lightning_reg.training.run_folder import Failure, finished, note_failure, read_config, require_free, run_of
from lightning_reg.training.settings import require_components, require_settings

register()


def main() -> None:
    """Entry of ``train.py``, guarded."""
    guarded(train)


def train() -> int:
    """Compose the configuration and train; the exit code: of a sweep 1 where a run of it failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of being printed by Hydra
    if any(word in options.HELP for word in sys.argv[1:]):
        return options.show(sys.argv[1:], command())
    unknown = next((word for word in sys.argv[1:] if word.startswith("-") and word.partition("=")[0] not in options.OPTIONS), None)
    if unknown is not None:
        refuse(
            f"There is no option '{unknown}'; values are set as key=value, as trainer.max_steps=1000 or method.optimizer.lr=1e-4. "
            f"All keys: {command()} --help method data trainer."
        )
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
    from lightning_reg.studies.sweep import note_call

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
        console().print(f"Failed: {folder.name}: {told}", soft_wrap=True, markup=False, highlight=False)
        return float("inf")


def _run(config: DictConfig, folder: Path) -> float:
    def say(line: str) -> None:
        if is_first():
            console().print(line, soft_wrap=True, markup=False, highlight=False)

    if is_started_from_outside() and not config.run and not config.resume and "SLURM_JOB_ID" not in os.environ:
        raise UserError("Several processes share the run's folder: give it a name, run=NAME.")
    for warning in configuration_warnings(HydraConfig.get().runtime.choices):
        say(warning)
    checkpoint = None
    overwrite = bool(config.overwrite)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if config.resume:
        folder, checkpoint = run_of(Path(str(config.resume)).expanduser())
        values = _resumed(folder, list(HydraConfig.get().overrides.task))
    else:
        values = plain(config)
        if sweep:
            values["trainer"] = _on_one_device(values["trainer"])
        known = finished(folder, values) if sweep else None
        if known is not None:
            from lightning_reg.metrics import primary_error

            say(f"{folder.name} is done.")
            return primary_error(known)
        if is_first() and not overwrite:
            require_free(folder, values)
    require_settings(values)
    require_components(values)
    with loading():
        from lightning_reg.cli.training import train_and_report
    return train_and_report(values, folder, checkpoint, overwrite, command(), say)


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


def command() -> str:
    """The command as the user calls it."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "lightning-reg train"
