"""Composition of configurations by Hydra: search path, resolvers, and errors as one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from lightning_reg.configuration.folders import (
    distributions,
    offering,
    own_directory,
    plugin_packages,
    twice,
)
from lightning_reg.configuration.overrides import as_word, in_full
from lightning_reg.configuration.values import Value, described
from lightning_reg.io.reading import read_yaml
from lightning_reg.registry.errors import DataError, UserError, did_you_mean

COMPOSITION = (HydraException, OmegaConfBaseException, YAMLError)
"""Exceptions of Hydra, OmegaConf and YAML for an invalid configuration; see :func:`sentence`."""


WORDS = {
    "lr": "method.optimizer.lr", "learning_rate": "method.optimizer.lr",
    "rate": "method.optimizer.lr",
    "optimizer": "method.optimizer",
    "epochs": "trainer.max_steps, or budget in minutes",
    "max_epochs": "trainer.max_steps, or budget in minutes",
    "steps": "trainer.max_steps", "max_steps": "trainer.max_steps",
    "iterations": "trainer.max_steps",
    "batch": "data.batch_size", "batch_size": "data.batch_size", "bs": "data.batch_size",
    "workers": "data.workers", "num_workers": "data.workers", "augmentation": "data.augmentation",
    "spacing": "data.preprocessing.spacing",
    "gpu": "trainer.accelerator", "gpus": "trainer.devices", "device": "trainer.accelerator",
    "devices": "trainer.devices",
    "precision": "trainer.precision", "amp": "trainer.precision", "fp16": "trainer.precision",
    "bf16": "trainer.precision",
    "loss": "method.loss.terms", "similarity": "method.loss.terms",
    "window": "method.loss.terms.lncc.window",
    "regularization": "method.loss.terms.diffusion.weight",
    "smoothness": "method.loss.terms.diffusion.weight",
    "lambda": "method.loss.terms.diffusion.weight", "backbone": "method.composer.backbone",
    "head": "method.composer.head",
    "levels": "method.composer.backbone.levels", "features": "method.composer.backbone.features",
    "name": "run", "out": "run", "output": "run", "output_dir": "run",
    "checkpoint": "init, or resume", "pretrained": "init",
    "dataset": "data", "root": "data.root", "model": "method", "network": "method",
}  # fmt: skip
"""Options by common words for them, for hints in error messages."""
NOT_GIVEN = "(required)"
"""Stands for a value that has to be given."""
EMPTY_GROUP = (
    "A group is set to nothing or to a number; give the name of one of its options (--help lists"
    " them)."
)


class InstalledConfigurations(SearchPathPlugin):
    """Hydra plugin that appends the configuration folders of installed packages; ``pkg://`` would
    import the packages.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package, folder in plugin_packages().items():
            search_path.append(package, f"file://{folder}")


def register() -> None:
    """Register this project's search path and resolvers with Hydra; may be called again."""
    Plugins.instance().register(InstalledConfigurations)
    OmegaConf.register_new_resolver(
        "scaled", lambda steps, scale: max(1, round(steps * scale)), replace=True
    )
    OmegaConf.register_new_resolver(
        "total_steps", lambda stages: sum(stage["steps"] for stage in stages), replace=True
    )
    OmegaConf.register_new_resolver(
        "if", lambda condition, yes, no: yes if condition else no, replace=True
    )
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("slurm_job", _slurm_job, replace=True)


def _run_folder(resume: str | None, name: str | None, fresh: str) -> str:
    """Folder of a resumed run, of a named run (a name with a slash is a path), or ``fresh`` for any
    other.
    """
    if resume:
        path = Path(str(resume)).expanduser()
        return str(path.parent.parent if path.suffix == ".ckpt" else path)
    if name is None:
        return fresh
    return str(Path(str(name)).expanduser()) if "/" in str(name) else f"runs/{name}"


def _slurm_job(otherwise: str) -> str:
    """``slurm-JOB`` in a batch job of SLURM, equal for all its processes and after it is requeued;
    else ``otherwise``.
    """
    job, name = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NAME")
    return otherwise if job is None or name in ("bash", "interactive") else f"slurm-{job}"


def plain(config: Any) -> dict[str, Any]:
    """A composed configuration as plain values, all interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def compose(
    overrides: Sequence[str] = (), choose: Callable[[DictConfig], None] | None = None
) -> dict[str, Any]:
    """Compose the configuration of a command line with Hydra, as plain values.

    Args:
        overrides: arguments as on the command line,
            ``["method=velocity", "data=phantom", "trainer.max_steps=100"]``.
        choose: function that changes the composed configuration before its interpolations are
            resolved.

    Raises:
        UserError: no such group, configuration or option, a missing required value, or unreadable
            text.
    """
    with _refusing(), _initialized():
        config = hydra.compose("train", in_full(overrides))
        if choose is not None:
            choose(config)
        return plain(config)


def explained(overrides: Sequence[str] = ()) -> list[Value]:
    """Every value of the configuration that a command line gives, with its type and meaning; one
    that has to be given is :data:`NOT_GIVEN`.

    Raises:
        UserError: as :func:`compose`, but for values that are missing.
    """
    with _refusing(), _initialized():
        config = hydra.compose("train", in_full(overrides), return_hydra_config=True)
        choices = {
            group.partition("@")[0]: option  # without the package
            for group, option in config.hydra.runtime.choices.items()
            if option and not group.startswith("hydra/")
        }
        values = _without_missing(OmegaConf.to_container(config, resolve=False))
        del values["hydra"]
        return described(plain(OmegaConf.create(values)), choices)


def _without_missing(value: Any) -> Any:
    """Values with a text for each that has to be given, as nothing else can be resolved."""
    if isinstance(value, dict):
        return {key: _without_missing(inner) for key, inner in value.items()}
    return NOT_GIVEN if value == MISSING else value


@contextmanager
def _initialized() -> Iterator[None]:
    register()
    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None  # of a run, during which another one is composed
    try:
        with initialize_config_dir(str(own_directory()), version_base="1.3"):
            yield
    finally:
        state.hydra = outer


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what is wrong with a composition into a :class:`UserError`."""
    try:
        yield
    except COMPOSITION as error:
        raise UserError(sentence(error)) from error
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        raise UserError(EMPTY_GROUP) from error


def require_option(group: str, name: str) -> None:
    """Refuse an option that no installed package has.

    Raises:
        UserError: names the nearest and all options of the group.
    """
    if name not in {path.stem for path in _group_files(group)}:
        raise UserError(no_option(group, name))


def no_option(group: str, name: str) -> str:
    """Sentence for an option that no installed package has."""
    known = sorted(path.stem for path in _group_files(group))
    return (
        f"There is no {group} named '{name}'{did_you_mean(name, known)} Available:"
        f" {', '.join(known) or 'none'}."
    )


def configuration_warnings(choices: Mapping[str, Any]) -> list[str]:
    """One sentence per chosen built-in configuration whose name an installed distribution has as
    well.

    Args:
        choices: Hydra's choices, option by group.

    Raises:
        UserError: two distributions have a chosen configuration, and none is built in.
    """
    warnings = []
    for group, name in choices.items():
        relative = Path(group) / f"{name}.yaml"
        offered = offering(relative)
        if offered and (own_directory() / relative).is_file():
            also = " and ".join(distributions(package) for package in offered)
            warnings.append(
                f"{group}={name} is the built-in configuration; {also} has one of the same name,"
                " which is not used."
            )
        elif len(offered) > 1:
            raise UserError(twice(relative))
    return warnings


def sentence(error: Exception) -> str:
    """Error of Hydra or OmegaConf as one sentence with the remedy."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        setting, _, given = str(error.override).partition("=")
        return (
            f"'{error.override}' cannot be read as key=value ({str(error).splitlines()[0]}); for"
            f" this text write {as_word(setting, given)}"
        )
    if isinstance(error, YAMLError):
        return (
            f"A configuration file cannot be read: {text}. lightning-reg plugins says whose it is."
        )
    if match := re.search(r"Could not delete from config\. '?([^' ]+?)'? does not exist", text):
        return _unknown_option(match[1], "List all values with --cfg job.")
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Could not append to config.*'([^']+)'", text
    ):
        return _unknown_option(
            match[1], "List the groups with --help, and all values with --cfg job."
        )
    if match := re.search(r"In '[^']*': Could not find '([^']+)'", text) or re.search(
        r"Could not find '([^']+)'", text
    ):
        group, _, name = match[1].rpartition("/")
        return no_option(group, name)
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        # if an interpolation refers to it
        match = re.search(r"Missing mandatory value: (\S*\.\S*)", text)
        key = match[1] if match else error.full_key
        return f"The option '{key}' has to be given: add {key}=... to the command line."
    if match := re.search(r"Key '([^']+)' is not in struct(?: full_key: (\S+))?", text):
        return _unknown_option(match[2] or match[1], "List all values with --cfg job.")
    return text


def _unknown_option(key: str, remedy: str) -> str:
    known = _known_keys()
    if key in known:
        return (
            f"The option '{key}' exists for other choices of {key.partition('.')[0]}, not for the"
            f" selected one. {remedy}"
        )
    meant = WORDS.get(key.rpartition(".")[2])
    if meant is not None:
        return f"There is no option '{key}'; did you mean {meant}? {remedy}"
    return f"There is no option '{key}'{did_you_mean(key, known)} {remedy}"


def _folders() -> list[Path]:
    return [own_directory(), *plugin_packages().values()]


def _group_files(group: str) -> Iterable[Path]:
    return (path for folder in _folders() for path in (folder / group).glob("*.yaml"))


def _known_keys() -> list[str]:
    """Groups, top-level options, and every dotted key of the configuration files."""
    keys: set[str] = set()
    for folder in _folders():
        for path in folder.rglob("*.yaml"):
            parts = path.relative_to(folder).parts[:-1]
            # the base of all files of a group
            parts = (path.stem,) if parts == ("base",) else parts
            try:
                loaded = read_yaml(path, references=True)
                text = path.read_text(encoding="utf-8")
            except (OSError, DataError):  # reported by lightning-reg plugins
                continue
            package = "" if "@package _global_" in text or not parts else parts[0]
            keys |= set(parts[:1])
            keys |= {f"{package}.{k}".strip(".") for k in _dotted(loaded)}
    return sorted(keys)


def _dotted(value: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from _dotted(inner, f"{prefix}{key}.")
