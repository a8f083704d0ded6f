"""Documentation of a component, read from its source without importing it: fast, whatever its
module imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import griffe

from lightning_reg.configuration.groups import GROUPS
from lightning_reg.configuration.sources import REQUIRED, Argument, Sources, text_of
from lightning_reg.io.reading import as_yaml
from lightning_reg.registry.entries import Provider, chosen
from lightning_reg.registry.errors import ComponentError
from lightning_reg.registry.loading import importable_from


@dataclass(frozen=True)
class Documentation:
    """Documentation of a component.

    Args:
        group: one of :data:`~lightning_reg.configuration.groups.GROUPS`.
        provider: name and distribution of the component.
        text: docstring without the arguments, including sources (paper, equation).
        arguments: arguments of its constructor.
        path, line: location of its source.
    """

    group: str
    provider: Provider
    text: str
    arguments: tuple[Argument, ...]
    path: str
    line: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Arguments for a configuration, with their defaults; arguments without a plain default are
        left out.
        """
        found = {}
        for argument in self.arguments:
            if not argument.supplied:
                try:
                    found[argument.name] = argument.value()
                except ValueError:
                    continue
        return found

    def yaml(self) -> str:
        """Configuration of the component in YAML; empty for a group that is not configured."""
        key, name = GROUPS[self.group].key, self.provider.qualified
        if not key or " " in key or key.startswith("-"):
            return ""
        leaf: Any = {"name": name, **self.settings}
        if self.group == "losses":
            leaf = {name: {"weight": 1.0, **self.settings}}
        elif self.group == "callbacks":
            leaf = {name: self.settings}
        elif self.group == "fits":
            leaf = [{"transform": name, "steps": 50}]
        elif self.group == "composers":
            leaf = {"name": name, **self._members(), **self.settings}
        elif self.group == "lung_segmentations":
            leaf = name
        for part in reversed(key.split(".")):
            leaf = {part: leaf}
        return as_yaml(leaf, allow_unicode=True, default_flow_style=None)

    def _members(self) -> dict[str, Any]:
        """Networks of a composer as a configuration gives them, see
        :mod:`lightning_reg.configuration.building`.
        """
        network = {"backbone": REQUIRED, "head": REQUIRED}
        return (
            {"stages": [{"stride": 1, **network}]}
            if any(a.name == "members" for a in self.arguments)
            else network
        )

    def python(self) -> str:
        """Construction of the component in Python."""
        if self.group in ("commands", "outputs", "report_sections", "fits", "samplers"):
            return ""  # made only by the framework
        module, _, name = self.provider.target.partition(":")
        given = [f"{a.name}={self._source(a)}" for a in self.arguments if a.default is None]
        given += [
            f"{a.name}={a.default}"
            for a in self.arguments
            if a.default is not None and not a.supplied
        ]
        return f"from {importable_from(module, name)} import {name}\n\n{name}({', '.join(given)})\n"

    def _source(self, argument: Argument) -> str:
        return f"backbone.{argument.name}" if self.group == "heads" and argument.supplied else "..."

    def plain(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "group": self.group,
            "name": self.provider.name,
            "distribution": self.provider.distribution,
            "version": self.provider.version,
            "class": self.provider.target,
            "text": self.text,
            "arguments": [vars(argument) for argument in self.arguments],
            "source": f"{self.path}:{self.line}",
            "yaml": self.yaml(),
            "python": self.python(),
        }


def documentation(group: str, name: str) -> Documentation:
    """Read the documentation of the component with this name in a configuration.

    Args:
        group: group of the component, as ``heads`` or ``losses``.
        name: name of the component.

    Raises:
        ComponentError: there is no such component, or its source is missing.
    """
    provider = chosen(group, name)
    sources = Sources()
    found = sources.target(provider.target)
    if not isinstance(found, griffe.Class):
        raise ComponentError(
            f"The source of {provider.target} of {provider.origin} has no class"
            f" {provider.target.partition(':')[2]}; reinstall {provider.distribution}."
        )
    return Documentation(
        group,
        provider,
        text_of(found),
        sources.arguments(found, GROUPS[group].supplied),
        str(found.filepath),
        found.lineno or 1,
    )


def arguments(target: str) -> tuple[Argument, ...]:
    """Arguments of any class.

    Args:
        target: ``module:Class``.

    Raises:
        LookupError: there is no source of such a class.
    """
    sources = Sources()
    found = sources.target(target)
    if not isinstance(found, griffe.Class):
        raise LookupError(f"no source of {target}")
    return sources.arguments(found, ())
