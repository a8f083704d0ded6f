"""Distribution and version of every component of a model or a run, saved with it and compared on
loading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightning_reg.registry.contract import NOUNS
from lightning_reg.registry.entries import OWN, Provider, chosen, namespace
from lightning_reg.registry.errors import ComponentError

Entry = Mapping[str, Any]
"""``{group, name, distribution, version}``, all of them strings."""


def entry(group: str, provider: Provider) -> dict[str, str]:
    """Make the entry of a component."""
    return {
        "group": group,
        "name": provider.name,
        "distribution": provider.distribution,
        "version": provider.version,
    }


def entries(used: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Make the entries of the components ``(group, name)`` of a configuration, each once."""
    return [entry(group, chosen(group, name)) for group, name in dict.fromkeys(used)]


def require_installed(components: Sequence[Entry], path: str) -> None:
    """Refuse a model with a component that is not installed here.

    Args:
        components: entries as made by :func:`entry`; built-in components are checked by the
            registry.
        path: path of the model, for the message.

    Raises:
        ComponentError: the message names the component and the command that installs it.
    """
    for one in components:
        if one.get("distribution") == OWN or one.get("group") not in NOUNS:
            continue
        wanted = f"{one['distribution']}=={one['version']}"
        what = (
            f"{path} was made with the {NOUNS[one['group']]} '{one['name']}' of"
            f" {one['distribution']} {one['version']}"
        )
        try:
            there = version(one["distribution"])
        except PackageNotFoundError:
            raise ComponentError(f"{what}, which is not installed: pip install {wanted}") from None
        try:
            chosen(one["group"], f"{namespace(one['distribution'])}.{one['name']}")
        except ComponentError:
            raise ComponentError(
                f"{what}, and {there}, which is installed, has no such {NOUNS[one['group']]}:"
                f" pip install {wanted}"
            ) from None


def other_versions(components: Sequence[Entry]) -> list[str]:
    """``name==version`` of the distributions that a model was made with, if another version is
    installed now.
    """
    found = []
    for one in components:
        try:
            there = version(str(one.get("distribution")))
        except PackageNotFoundError:
            continue
        if there != one.get("version"):
            found.append(f"{one['distribution']}=={one['version']}")
    return list(dict.fromkeys(found))
