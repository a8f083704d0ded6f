"""Files of instance optimisations by name; imports nothing else."""

from __future__ import annotations

from pathlib import Path

from lightning_reg.configuration.folders import own_directory, plugin_packages
from lightning_reg.registry import UserError, did_you_mean

GROUP = "instance"
"""Group of configurations: ``conf/instance``."""


def known_instances() -> dict[str, Path]:
    """Every configuration's file, by name; built-in ones take precedence."""
    folders = [*plugin_packages().values(), own_directory()]
    return {
        path.stem: path for folder in folders for path in sorted((folder / GROUP).glob("*.yaml"))
    }


def instance_file(name: str | Path) -> Path:
    """File of an instance optimisation.

    Args:
        name: of a file in ``conf/instance``, or the path of a user's file (``.yaml``).

    Raises:
        UserError: there is none.
    """
    known, name = known_instances(), str(name)
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None or not path.is_file():
        available = f"{', '.join(sorted(known))}, or a YAML file"
        raise UserError(
            f"There is no instance optimisation named '{name}'{did_you_mean(name, known)}"
            f" Available: {available}."
        )
    return path
