"""``python train.py`` and ``lightning-reg train``: composition, help, and everything that can be
refused before PyTorch is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_reg.cli import options
from lightning_reg.cli.arguments import console, loading
from lightning_reg.cli.failures import end, guarded, in_place, refuse
from lightning_reg.cli.plan import as_stored
from lightning_reg.cli.sweep import FAILED
from lightning_reg.configuration.composition import (
    COMPOSITION,
    EMPTY_GROUP,
    configuration_warnings,
    plain,
    register,
    sentence,
)
from lightning_reg.configuration.folders import own_directory
from lightning_reg.configuration.overrides import in_full
from lightning_reg.configuration.settings import require_components, require_settings
from lightning_reg.registry import UserError, in_words
from lightning_reg.training.ranks import is_first, is_started_from_outside
from lightning_reg.training.run_folder import (
    CALL,
    Failure,
    finished,
    note_failure,
    read_config,
    read_settings,
    require_free,
    run_of,
    with_root,
)

BESIDE = "resumed_with"
"""Key of the overrides beside ``resume=``, see :func:`_apart`."""
OF_A_NEW_RUN = {
    "method.steps": "trainer.max_steps", "time_scale": "trainer.max_steps",
    "budget": "trainer.max_steps",
    "data.budget": "trainer.max_steps", "method.batch_size": "data.batch_size",
    "data.masks": "method.loss",
    "data.pairing": "method.sampling",
}  # fmt: skip
"""Values that others are made from when a run starts, and what to set instead in a resumed run."""

register()

CALLED: list[str] = []
"""Arguments with ``--config-path``, as the processes that Lightning starts need them."""
STORED = "stored_run"
"""Name under which Hydra knows the configuration of ``--config-path``."""


def main() -> None:
    """Entry of ``train.py``, guarded."""
    guarded(train)


def train() -> int:
    """Compose the configuration and train; the exit code: of a sweep 1 where a run of it failed."""
    # errors come here instead of being printed by Hydra
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    words = sys.argv[1:]
    if any(word in options.HELP for word in words):
        return options.show(words, command())
    unknown = [w for w in words if w[:1] == "-" and w.partition("=")[0] not in options.OPTIONS]
    if unknown:
        refuse(
            f"There is no option '{unknown[0]}'; values are set as key=value, as"
            f" trainer.max_steps=1000 or method.optimizer.lr=1e-4. All keys: {command()} --help"
            " method data trainer."
        )
    try:
        sys.argv[1:] = _apart(in_full(_as_data(as_stored(words))))
        _train()
    except COMPOSITION as error:
        refuse(sentence(error))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        refuse(EMPTY_GROUP)
    return 1 if FAILED else 0


def _as_data(words: list[str]) -> list[str]:
    """Read the configuration that ``--config-path`` and ``--config-name`` give, and store it under
    the name :data:`STORED`.

    Hydra itself does not read the folder: settings of Hydra in it could run code.

    Raises:
        UserError: there is no such configuration, or it is damaged.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn", default="config")
    given, rest = parser.parse_known_args(words)
    CALLED.clear()
    if given.config_path is None:
        return words
    path = Path(given.config_path).expanduser() / f"{given.config_name.removesuffix('.yaml')}.yaml"
    try:
        config = read_settings(path)
    except FileNotFoundError as cause:
        raise UserError(
            f"There is no configuration {path}; correct --config-path and --config-name."
        ) from cause
    here = "${run_folder:${resume},${run},runs/${now:%Y-%m-%d_%H-%M-%S}}"
    defaults = ["_self_", {"override hydra/job_logging": "stdout"}]
    own = {"run": {"dir": here}, "output_subdir": None}
    ConfigStore.instance().store(STORED, {"defaults": defaults, **config, "hydra": own})
    CALLED[:] = words
    return ["--config-name", STORED, *rest]


@hydra.main(version_base="1.3", config_path=str(own_directory()), config_name="train")
def _train(config: DictConfig) -> float:
    """One run; returns the validation error, which sweeps minimise: infinite for a run of a sweep
    that failed, so that the others go on.
    """
    sys.argv[1:] = CALLED or sys.argv[1:]
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        try:
            return _run(config, Path(HydraConfig.get().runtime.output_dir))
        except COMPOSITION as error:
            refuse(sentence(error))
        except BrokenPipeError:
            raise
        except Exception as error:  # Hydra would print a heading of its own
            end(error)
    from lightning_reg.batch.studies.sweep import note_call

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
        console().print(in_place(f"Failed: {folder.name}: {told}"), highlight=False)
        return float("inf")


def _run(config: DictConfig, folder: Path) -> float:
    def say(line: str) -> None:
        if is_first():
            console().print(in_place(line), highlight=False)

    named = config.run or config.resume or "SLURM_JOB_ID" in os.environ
    if is_started_from_outside() and not named:
        raise UserError("Several processes share the run's folder: give it a name, run=NAME.")
    for warning in configuration_warnings(HydraConfig.get().runtime.choices):
        say(warning)
    checkpoint = None
    overwrite = bool(config.overwrite)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if config.resume:
        folder, checkpoint = run_of(Path(str(config.resume)).expanduser())
        words = [*HydraConfig.get().overrides.task, *map(unquote, config.get(BESIDE) or ())]
        values = {**_resumed(folder, words), "changed_data": bool(config.changed_data)}
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
        raise UserError(
            "A run of a sweep trains on one device; several devices per run: lightning-reg study."
        )
    return {**trainer, "devices": 1}


def _apart(words: list[str]) -> list[str]:
    """Hand the overrides beside ``resume=RUN`` through Hydra as one value: they are of that run,
    not of the default groups.
    """
    keys = {word: word.partition("=")[0].lstrip("+~") for word in words}
    without = "resume" not in keys.values() or {"resume=", "resume=null"} & set(words)
    if without or any(word.startswith("-") for word in words):
        return words
    call = [w for w in words if keys[w] in (*CALL, BESIDE) or keys[w].startswith("hydra")]
    beside = ",".join(f"'{quote(word, safe='')}'" for word in words if word not in call)
    return [*call, f"+{BESIDE}=[{beside}]"] if beside else call


def _resumed(folder: Path, words: list[str]) -> dict[str, Any]:
    """The configuration of the run in ``folder``, with what the command line sets besides
    ``resume``.

    Raises:
        UserError: no run there, or an override of a whole group or of a value that only a new run
            uses.
    """
    stored = read_config(folder)
    given = OverridesParser.create().parse_overrides(words)
    overrides = [one for one in given if one.key_or_group not in (*CALL, BESIDE)]
    for override in overrides:
        key = override.key_or_group
        if (own_directory() / key).is_dir():
            raise UserError(
                f"A resumed run keeps its own {key}; leave out {override.input_line}, or start a"
                " new run."
            )
        if key in OF_A_NEW_RUN:
            raise UserError(
                f"{key} is used only when a run starts; set {OF_A_NEW_RUN[key]}, or start a new"
                " run."
            )
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line} has several values, and a run is resumed with one; give"
                " one."
            )
        if key == "data.root":
            stored = with_root(stored, override.value())
    config = OmegaConf.create(stored)
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
    return plain(config)


def command() -> str:
    """The command as the user calls it."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "lightning-reg train"
