"""Names of components and the distributions that provide them; nothing is imported."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_reg.registry.contract import NOUNS, deprecated
from lightning_reg.registry.errors import ComponentError, did_you_mean

OWN = "lightning-reg"
NOT_READ = (
    " After a change of its entry points, your own package has to be installed again (pip install"
    " -e)."
)


@dataclass(frozen=True)
class Provider:
    """Provider of a name: its distribution, its version, and ``module:Class``."""

    name: str
    distribution: str
    version: str
    target: str
    entry_point: EntryPoint

    @property
    def origin(self) -> str:
        """Distribution and version, as ``nice-heads 1.0``."""
        return f"{self.distribution} {self.version}"

    @property
    def qualified(self) -> str:
        """The name with its namespace, ``nice_heads.good``; a built-in one's is plain."""
        return (
            self.name if self.distribution == OWN else f"{namespace(self.distribution)}.{self.name}"
        )


def _provider(point: EntryPoint) -> Provider:
    dist = point.dist
    name, version = (dist.name, dist.version) if dist else ("?", "?")
    return Provider(point.name, name, version, point.value, point)


def namespace(distribution: str) -> str:
    """Namespace of a distribution's names: ``nice_heads`` for ``nice-heads``."""
    return re.sub(r"[-_.]+", "_", distribution).lower()


def providers(group: str) -> dict[str, list[Provider]]:
    """List the names of a group and their providers, without importing any.

    Args:
        group: one of :data:`~lightning_reg.registry.contract.NOUNS`, or ``conf``.
    """
    found: dict[str, list[Provider]] = {}
    for point in _installed(tuple(sys.path)).select(group=f"lightning_reg.{group}"):
        provider = _provider(point)
        same = found.setdefault(point.name, [])
        if all(
            (p.distribution, p.target) != (provider.distribution, provider.target) for p in same
        ):
            same.append(provider)
    return found


def folder_of(package: str) -> Path | None:
    """The folder of a package ``a.b``: ``b`` below the folder of ``a``, which is found without
    running its code.
    """
    top, *inner = package.split(".")
    spec = spec_of(top)
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return next(
        (folder for place in places if (folder := Path(place).joinpath(*inner)).is_dir()), None
    )


def spec_of(top: str) -> ModuleSpec | None:
    """Import specification of a top-level module, without running its code."""
    try:
        return find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


@cache
def _installed(path: tuple[str, ...]) -> Any:
    """Entry points of all distributions, read once: a scan takes some 20 ms."""
    return entry_points()


def strangers() -> list[tuple[Provider, str]]:
    """List entry points in unknown groups ``lightning_reg.*``, each with a message."""
    known = {f"lightning_reg.{group}" for group in (*NOUNS, "conf")}
    everything = _installed(tuple(sys.path))
    unknown = sorted({g for g in everything.groups if g.startswith("lightning_reg.")} - known)
    return [
        (
            provider,
            f"'{provider.name}' of {provider.origin} is in the group {group}, which nothing"
            f" reads{did_you_mean(group, known)}",
        )
        for group in unknown
        for provider in map(_provider, everything.select(group=group))
    ]


def chosen(group: str, name: str) -> Provider:
    """Find the provider of a name: this project if several distributions have it, else the only
    one.

    Args:
        name: the entry point's name, or with its namespace: ``nice_heads.good`` for the ``good`` of
            the distribution ``nice-heads``.

    Raises:
        ComponentError: there is no provider, or there are several and the name has no namespace.
    """
    one = NOUNS[group]
    if ":" in name:
        deprecated(f"A name as '{name}'", f"write '{_dotted(name)}'", "1.0")
        name = _dotted(name)
    known = providers(group)
    if name not in known:  # installed since the entry points were read, as from a notebook
        _installed.cache_clear()
        known = providers(group)
    if name not in known and "." in name:
        space, _, plain = name.rpartition(".")
        offered = known.get(plain, [])
        there = [provider for provider in offered if namespace(provider.distribution) == space]
        if there:
            return there[0]
        others = (
            f"; it is provided by {_list(offered)}"
            if offered
            else ", or the distribution is not installed"
        )
        raise ComponentError(f"There is no {one} named '{plain}' of {space}{others}.")
    if name not in known:
        listing = ", ".join(f"{n} ({p[0].distribution})" for n, p in sorted(known.items()))
        raise ComponentError(
            f"There is no {one} named '{name}'{did_you_mean(name, known)} Available:"
            f" {listing or 'none'}.{NOT_READ if known else ''}"
        )
    offered = known[name]
    own = [provider for provider in offered if provider.distribution == OWN]
    if len(offered) > 1 and not own:
        both = " and ".join(f"{p.origin} ({p.target})" for p in offered)
        raise ComponentError(
            f"The {one} '{name}' is provided twice, by {both}; write"
            f" {' or '.join(p.qualified for p in offered)}."
        )
    return (own or offered)[0]


def hidden(group: str, name: str) -> str | None:
    """Message if a name means a built-in component and another distribution has one of the same
    name; else ``None``.
    """
    offered = providers(group).get(name, [])
    others = [provider for provider in offered if provider.distribution != OWN]
    if not others or len(others) == len(offered):
        return None
    one = NOUNS[group]
    return (
        f"The {one} '{name}' is the built-in one; {others[0].origin} has one of the same name,"
        f" which is {others[0].qualified}."
    )


def _dotted(name: str) -> str:
    distribution, _, plain = name.rpartition(":")
    return f"{namespace(distribution)}.{plain}"


def _list(offered: list[Provider]) -> str:
    return ", ".join(provider.distribution for provider in offered)


def registration(cls: type, group: str) -> Provider:
    """The registration of a class by an installed distribution.

    Args:
        group: one of :data:`~lightning_reg.registry.contract.NOUNS`.

    Raises:
        ComponentError: the class is not registered; the message says how to register it.
    """
    own = f"{cls.__module__}:{cls.__qualname__}"
    offered = [provider for same in providers(group).values() for provider in same]
    found = [p for p in offered if p.target == own]
    # a package may offer a class under a shorter path than the one where it is defined
    found = found or [
        p
        for p in offered
        if p.target.endswith(f":{cls.__qualname__}") and p.entry_point.load() is cls
    ]
    if not found:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        own = own.replace("__main__:", "my_package.my_module:")
        raise ComponentError(
            f"The {NOUNS[group]} {cls.__qualname__} ({cls.__module__}) is registered by no"
            " installed distribution, so a "
            f"checkpoint could not name it; put it into an installed package whose pyproject.toml"
            f" has under "
            f'[project.entry-points."lightning_reg.{group}"] the line {name} = "{own}".'
        )
    return found[0]


def registered_name(cls: type, group: str) -> str:
    """The name by which a configuration or a checkpoint finds a class, with its namespace where
    another distribution provides it.

    Raises:
        ComponentError: as :func:`registration`.
    """
    return registration(cls, group).qualified


def name_of(cls: type, group: str) -> str:
    """Registered name of a class; its own name if it is not registered."""
    try:
        return registered_name(cls, group)
    except ComponentError:
        return cls.__qualname__
