"""Hydra, set up for this project: search path, resolvers, and errors as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from lightning_reg.discovery import nearest
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


def composed_data(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The data configuration of a name, its interpolations resolved, as plain values.

    Args:
        overrides: ``data.key=value``.
    """
    register()
    with initialize_config_dir(str(own_directory()), version_base="1.3"):
        config = compose("train", [f"data={name}", "experiment/small=none", *overrides])
    return plain(config.data)


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
            text = path.read_text()
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
