"""Configurations of instance optimisation, by name: the files of ``conf/instance`` and those of
installed packages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.configuration.building import built
from lightning_reg.configuration.instances import instance_file, known_instances
from lightning_reg.io.images import first_line
from lightning_reg.io.reading import read_yaml
from lightning_reg.optimization.objective import Optimization
from lightning_reg.registry import UserError, did_you_mean


def read_instance(name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read ``{preprocessing, start, optimization}`` of a configuration as plain values.

    Args:
        name: of a file in ``conf/instance``, or the path of a user's file (``.yaml``).
        overrides: ``key=value``; keys of the file, and any key inside ``preprocessing`` and
            ``optimization.loss``.

    Raises:
        UserError: no such configuration or key.
    """
    path, known = instance_file(name), known_instances()
    config = _loaded(path, known)
    missing = [key for key in ("preprocessing", "start", "optimization") if key not in config]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; copy {known['bspline']} and change it."
        )
    _require_shape(config, path)
    OmegaConf.set_struct(config, True)
    for part in (config.preprocessing, config.optimization.get("loss")):
        if part is not None:
            OmegaConf.set_struct(part, False)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(
                f"'{override}' is no option of an instance optimisation; write key=value, as"
                " optimization.patience=20."
            )
        try:
            config.merge_with_dotlist([override])
        except yaml.YAMLError as cause:
            raise UserError(
                f"'{override}' cannot be read as YAML ({first_line(cause)}); correct the value of"
                f" {key}."
            ) from cause
        except (OmegaConfBaseException, ValueError, TypeError) as cause:
            keys = _dotted(OmegaConf.to_container(config))
            raise UserError(
                f"The instance optimisation has no option '{key}'{did_you_mean(key, keys)} Its"
                f" options: {path}."
            ) from cause
    _require_shape(config, path)
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as cause:
        raise UserError(
            f"A value of {name} cannot be resolved ({first_line(cause)}); write it in full."
        ) from cause
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _loaded(path: Path, known: Mapping[str, Path]) -> DictConfig:
    """Load the file, merged onto the configurations listed in its ``defaults``."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else "no 'key: value' pairs"
        raise UserError(f"{path} is {what}; copy {known['bspline']} and change it.")
    try:
        config = OmegaConf.create(values)
    except OmegaConfBaseException as cause:
        raise UserError(f"{path} cannot be used ({first_line(cause)}); correct it.") from cause
    bases = config.pop("defaults", None) or []
    for base in bases:
        if not isinstance(base, str) or base not in known or known[base] == path:
            available = ", ".join(sorted(known))
            raise UserError(
                f"{path} builds on '{base}', which is not there{did_you_mean(str(base), known)}"
                f" Available: {available}."
            )
    merged = OmegaConf.merge(*(_loaded(known[base], known) for base in bases), config)
    assert isinstance(merged, DictConfig)
    return merged


def _require_shape(config: DictConfig, path: Path) -> None:
    """Check that the parts of a configuration are mappings.

    Raises:
        UserError: a part is a word, a number or a list.
    """
    parts = {"preprocessing": config.preprocessing, "optimization": config.optimization}
    if isinstance(config.optimization, DictConfig):
        parts["optimization.loss"] = config.optimization.get("loss")
    for name, part in parts.items():
        if not isinstance(part, DictConfig) and not (name == "optimization.loss" and part is None):
            raise UserError(f"{name} of {path} is {part}, where 'key: value' pairs are meant.")


def _dotted(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return []
    return [
        name
        for key, inner in value.items()
        for name in (f"{prefix}{key}", *_dotted(inner, f"{prefix}{key}."))
    ]


def build_optimization(settings: Mapping[str, Any], loss: LossBundle | None = None) -> Optimization:
    """Build the optimisation from a configuration's part ``optimization``.

    Args:
        settings: ``{loss, stages, patience, ...}``; a loss is ``{name: {weight, **arguments}}``,
            ``unlike`` another configuration's name.
        loss: used if the configuration has none.

    Raises:
        ComponentError: a term, a kind of transform or an option is unknown, or a value is not
            valid.
    """
    arguments, supplied = {"stages": (), **settings}, dict[str, Any]()
    unlike = arguments.pop("unlike", None)
    if unlike is not None:
        supplied["unlike"] = build_optimization(read_instance(unlike)["optimization"])
    if arguments.get("loss") is None and loss is not None:
        supplied |= {"loss": loss, "optional": True}
        arguments.pop("loss", None)
    optimization: Optimization = built(Optimization, arguments, "optimization", **supplied)
    return optimization
