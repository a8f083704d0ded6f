"""Methods of instance optimisation, by name: the files of ``conf/instance`` and those of installed packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_reg.discovery import UserError, nearest
from lightning_reg.discovery.conf import own_directory, plugin_packages
from lightning_reg.io.images import first_line

GROUP = "instance"


def known_methods() -> dict[str, Path]:
    """Every method's file, by name; built-in ones win."""
    folders = [*plugin_packages().values(), own_directory()]
    return {path.stem: path for folder in folders for path in sorted((folder / GROUP).glob("*.yaml"))}


def read_method(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """``{preprocessing, start, optimization}`` of a method, plain values.

    Args:
        name: of a file in ``conf/instance``, or a path to one of the user's own (``.yaml``).
        overrides: ``key=value``; keys that the file has, and any inside ``preprocessing`` and ``optimization.loss``.

    Raises:
        UserError: no such method or key.
    """
    known = known_methods()
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None or not path.is_file():
        raise UserError(f"There is no method named '{name}'{nearest(name, known)} Available: {', '.join(sorted(known))}, or a YAML file.")
    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, OSError, ValueError) as cause:
        raise UserError(f"{path} cannot be read as YAML ({first_line(cause)}); correct it.") from cause
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} is a list; copy {known['bspline']} and change it.")
    missing = [key for key in ("preprocessing", "start", "optimization") if key not in config]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; copy {known['bspline']} and change it.")
    _require_shape(config, path)
    OmegaConf.set_struct(config, True)
    for part in (config.preprocessing, config.optimization.get("loss")):
        if part is not None:
            OmegaConf.set_struct(part, False)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"'{override}' is no option of a method; write key=value, as optimization.patience=20.")
        try:
            config.merge_with_dotlist([override])
        except yaml.YAMLError as cause:
            raise UserError(f"'{override}' cannot be read as YAML ({first_line(cause)}); correct the value of {key}.") from cause
        except (OmegaConfBaseException, ValueError, TypeError) as cause:
            keys = _dotted(OmegaConf.to_container(config))
            raise UserError(f"The method has no option '{key}'{nearest(key, keys)} Its options: {path}.") from cause
    _require_shape(config, path)
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as cause:
        raise UserError(f"A value of the method {name} cannot be resolved ({first_line(cause)}); write it in full.") from cause
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _require_shape(config: DictConfig, path: Path) -> None:
    """Raises: UserError: a part that holds others is a word, a number or a list."""
    parts = {"preprocessing": config.preprocessing, "optimization": config.optimization}
    if isinstance(config.optimization, DictConfig):
        parts["optimization.loss"] = config.optimization.get("loss")
    for name, part in parts.items():
        if not isinstance(part, DictConfig) and not (name == "optimization.loss" and part is None):
            raise UserError(f"{name} of the method {path} is {part}, where 'key: value' pairs are meant.")


def _dotted(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return []
    return [name for key, inner in value.items() for name in (f"{prefix}{key}", *_dotted(inner, f"{prefix}{key}."))]
