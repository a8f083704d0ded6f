"""Hydra, set up for this project: search path, resolvers, and errors as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from lightning_reg.data.datasets.splits import Splits, open_dataset
from lightning_reg.discovery import UserError, nearest
from lightning_reg.discovery.conf import own_directory, plugin_packages


class InstalledConfigurations(SearchPathPlugin):
    """Adds ``pkg://`` of every installed package with configurations, behind this project's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in plugin_packages():
            search_path.append("lightning_reg.conf", f"pkg://{package}")


def register() -> None:
    """Make Hydra know this project's search path and resolvers; may be called again."""
    Plugins.instance().register(InstalledConfigurations)
    OmegaConf.register_new_resolver("scaled", lambda steps, scale: max(1, round(steps * scale)), replace=True)
    OmegaConf.register_new_resolver("total_steps", lambda stages: sum(stage["steps"] for stage in stages), replace=True)
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
    OmegaConf.register_new_resolver("run_folder", lambda resume, fresh: str(Path(resume).expanduser()) if resume else fresh, replace=True)


def plain(config: Any) -> dict[str, Any]:
    """A composed configuration as plain values, all interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def composed_method(name: str) -> dict[str, Any]:
    """The method of a name, on the phantom's other settings, as plain values.

    Raises:
        UserError: no such method.
    """
    register()
    try:
        with initialize_config_dir(str(own_directory()), version_base="1.3"):
            return dict(plain(compose("train", [f"method={name}", "experiment/small=none"]))["method"])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(sentence(error)) from error


def opened_data(name: str, overrides: Sequence[str], root: str | None = None) -> tuple[Splits, dict[str, Any]]:
    """The data set of a data configuration, and the configuration as plain values.

    Args:
        name: a file of ``conf/data`` or of an installed package.
        overrides: ``data.key=value``.
        root: ``data.root``, as a path on the command line is: any character may be in it.

    Raises:
        UserError: no such configuration or option, or the data are not what they have to be.
    """
    register()
    try:
        with initialize_config_dir(str(own_directory()), version_base="1.3"):
            config = compose("train", [f"data={name}", "experiment/small=none", *overrides])
        if root is not None:
            if "root" not in config.data.keys():  # noqa: SIM118 - a missing value counts as not in it
                raise UserError(f"data={name} makes its own images; leave the folder {root} out.")
            config.data.root = root
        values = plain(config.data)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(sentence(error)) from error
    return open_dataset(values["dataset"], values.get("held_out"), values.get("limit")), values


def sentence(error: Exception) -> str:
    """What Hydra or OmegaConf found wrong, as one sentence with the next step."""
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Could not append to config.*'([^']+)'", text):
        key = match[1]
        return f"There is no option '{key}'{nearest(key, _known_keys())} List the groups with --help, and all values with --cfg job."
    if match := re.search(r"In '[^']*': Could not find '([^']+)'", text) or re.search(r"Could not find '([^']+)'", text):
        group, _, name = match[1].rpartition("/")
        known = sorted(p.stem for p in _group_files(group))
        return f"There is no {group} named '{name}'{nearest(name, known)} Available: {', '.join(known) or 'none'}."
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        match = re.search(r"Missing mandatory value: (\S*\.\S*)", text)  # where an interpolation points to it
        key = match[1] if match else error.full_key
        return f"The option '{key}' has to be given: add {key}=... to the command line."
    if match := re.search(r"Key '([^']+)' is not in struct(?: full_key: (\S+))?", text):
        key = match[2] or match[1]
        return f"There is no option '{key}'{nearest(key, _known_keys())} List all values with --cfg job."
    return text


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
            parts = (path.stem,) if parts == ("base",) else parts  # what all files of a group start from
            text = path.read_text(encoding="utf-8")
            package = "" if "@package _global_" in text or not parts else parts[0]
            keys |= set(parts[:1])
            loaded = OmegaConf.load(path)
            keys |= {f"{package}.{k}".strip(".") for k in _dotted(OmegaConf.to_container(loaded, resolve=False))}
    return sorted(keys)


def _dotted(value: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from _dotted(inner, f"{prefix}{key}.")
