"""Registry of the component names in configurations. A component is imported only on request."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from lightning_reg.registry.contract import deprecated, unmet
from lightning_reg.registry.errors import (
    ArgumentError,
    ComponentError,
    UserError,
    did_you_mean,
    require_known_arguments,
)
from lightning_reg.registry.groups import GROUPS

OWN = "lightning-reg"
NOT_READ = (
    " After a change of its entry points, your own package has to be installed again (pip install"
    " -e)."
)
T = TypeVar("T")


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


def namespace(distribution: str) -> str:
    """Namespace of a distribution's names: ``nice_heads`` for ``nice-heads``."""
    return re.sub(r"[-_.]+", "_", distribution).lower()


def providers(group: str) -> dict[str, list[Provider]]:
    """List the names of a group and their providers, without importing any.

    Args:
        group: one of :data:`GROUPS`, or ``conf``.
    """
    found: dict[str, list[Provider]] = {}
    for point in _installed(tuple(sys.path)).select(group=f"lightning_reg.{group}"):
        dist = point.dist
        provider = Provider(
            point.name,
            dist.name if dist else "?",
            dist.version if dist else "?",
            point.value,
            point,
        )
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
    known = {f"lightning_reg.{group}" for group in (*GROUPS, "conf")}
    found = []
    everything = _installed(tuple(sys.path))
    for group in sorted(everything.groups):
        for point in (
            everything.select(group=group)
            if group.startswith("lightning_reg.") and group not in known
            else ()
        ):
            dist = point.dist
            provider = Provider(
                point.name,
                dist.name if dist else "?",
                dist.version if dist else "?",
                point.value,
                point,
            )
            told = (
                f"'{point.name}' of {provider.origin} is in the group {group}, which nothing"
                f" reads{did_you_mean(group, known)}"
            )
            found.append((provider, told))
    return found


def chosen(group: str, name: str) -> Provider:
    """Find the provider of a name: this project if several distributions have it, else the only
    one.

    Args:
        name: the entry point's name, or with its namespace: ``nice_heads.good`` for the ``good`` of
            the distribution ``nice-heads``.

    Raises:
        ComponentError: there is no provider, or there are several and the name has no namespace.
    """
    one = GROUPS[group].one
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
    one = GROUPS[group].one
    return (
        f"The {one} '{name}' is the built-in one; {others[0].origin} has one of the same name,"
        f" which is {others[0].qualified}."
    )


def public_name(cls: type) -> str:
    """Preferred import name of a class: ``lightning_reg.Head`` if that exports it."""
    return f"{importable_from(cls.__module__, cls.__qualname__)}.{cls.__qualname__}"


def importable_from(module: str, name: str) -> str:
    """Preferred module to import a class from: ``lightning_reg`` if the top-level package exports
    it, else its own.
    """
    package = module.partition(".")[0]
    stub = Path(__file__).resolve().parents[1] / "__init__.pyi"
    offered = re.search(
        rf"^from \..* import {re.escape(name)} as ", stub.read_text(encoding="utf-8"), re.M
    )
    return package if package == namespace(OWN) and offered else module


def _dotted(name: str) -> str:
    distribution, _, plain = name.rpartition(":")
    return f"{namespace(distribution)}.{plain}"


def _list(offered: list[Provider]) -> str:
    return ", ".join(provider.distribution for provider in offered)


def registration(cls: type, group: str) -> Provider:
    """The registration of a class by an installed distribution.

    Args:
        group: one of :data:`GROUPS`.

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
            f"The {GROUPS[group].one} {cls.__qualname__} ({cls.__module__}) is registered by no"
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


def load(group: str, name: str, interface: type[T]) -> type[T]:
    """Load the class of a name and check it against its interface.

    Args:
        group: one of :data:`GROUPS`.
        name: see :func:`chosen`.
        interface: the abstract class that it has to implement.

    Raises:
        ComponentError: the component is missing, cannot be imported, is provided twice, or does not
            fit the interface.
    """
    provider = chosen(group, name)
    described = f"The {GROUPS[group].one} '{provider.name}' of {provider.origin}"
    try:
        loaded = provider.entry_point.load()
    except (Exception, SystemExit) as cause:  # third-party modules may raise anything on import
        raise ComponentError(
            f"{described} could not be imported from {provider.target} ({type(cause).__name__}:"
            f" {cause}); correct it where it is yours, else reinstall or update"
            f" {provider.distribution}."
        ) from cause
    problem = unmet(loaded) or check(loaded, interface)
    if problem:
        raise ComponentError(f"{described} ({provider.target}) {problem}.")
    return loaded


def check(loaded: object, interface: type) -> str | None:
    """Reason why an object is no implementation of an interface, as a predicate that follows its
    name; ``None`` if it is one.
    """
    wanted = public_name(interface)
    if not inspect.isclass(loaded):
        return (
            f"is no class but {type(loaded).__name__}; its entry point has to name a subclass of"
            f" {wanted}"
        )
    if not issubclass(loaded, interface):
        return f"does not derive from {wanted}; make it a subclass"
    missing = sorted(getattr(loaded, "__abstractmethods__", ()))
    if missing:
        return f"does not implement {', '.join(missing)} of {wanted}; add what is missing"
    for method, declared in inspect.getmembers(interface, inspect.isfunction):
        if not getattr(declared, "__isabstractmethod__", False):
            continue
        given = inspect.signature(getattr(loaded, method)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in given.values()):
            continue
        required = [
            n
            for n, p in inspect.signature(declared).parameters.items()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        lacking = [p for p in required if p not in given]
        extra = [
            n
            for n, p in given.items()
            if n not in required and p.default is p.empty and p.kind is not p.VAR_POSITIONAL
        ]
        if lacking:
            return (
                f"has a method {method} without the argument '{lacking[0]}' of {wanted}.{method};"
                " accept it"
            )
        if extra:
            return (
                f"has a method {method} with an argument '{extra[0]}' that {wanted}.{method} does"
                " not pass; give it a default"
            )
    return None


def build(
    group: str,
    spec: Mapping[str, Any] | str,
    interface: type[T],
    place: str | None = None,
    /,
    **context: Any,
) -> T:
    """Build the component that a configuration names.

    Args:
        group: one of :data:`GROUPS`.
        spec: ``{name: ..., **arguments}``, or the name alone.
        interface: the abstract class that it has to implement.
        place: where the specification stands, for messages about the values of its arguments.
        context: arguments from the framework (only those that the component's constructor declares
            are passed).

    Raises:
        ComponentError: as :func:`load`, or an argument is unknown or missing.
    """
    if not isinstance(spec, (str, Mapping)):
        raise ComponentError(
            f"A component of the group {group} is {spec!r}, where a name or 'name: ..., key: value'"
            " pairs are meant."
        )
    arguments: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if not isinstance(arguments.get("name"), str):
        raise ComponentError(
            f"A component of the group {group} is configured without a name: {dict(arguments)}; add"
            " 'name: ...'."
        )
    name = arguments.pop("name")
    cls = load(group, name, interface)
    try:
        return construct(name, cls, arguments, place, **context)
    except UserError as cause:
        if str(cause).startswith((f"'{name}' ", f"{name}.", f"{name}: ")):
            others = hidden(group, name)
            raise type(cause)(
                f"The {GROUPS[group].one} {cause}{f' {others}' if others else ''}"
            ) from cause
        raise
    except (Exception, SystemExit) as cause:  # third-party constructors may raise anything
        provider = chosen(group, name)
        if provider.distribution == OWN:
            raise
        raise ComponentError(
            f"The {GROUPS[group].one} '{provider.name}' of {provider.origin} could not be made from"
            f" {arguments} ({type(cause).__name__}: {cause}); correct its arguments, or the"
            " component where it is yours; --debug shows where."
        ) from cause


def construct(
    name: str,
    cls: Callable[..., T],
    arguments: Mapping[str, Any],
    place: str | None = None,
    /,
    **context: Any,
) -> T:
    """Call ``cls`` with a configuration's arguments and those of ``context`` that it declares.

    Args:
        place: where the arguments stand; default ``name``.

    Raises:
        ComponentError: an argument is unknown, missing, or refused by the constructor; the message
            names ``name``.
    """
    if not isinstance(arguments, Mapping):
        raise ComponentError(f"'{name}' is {arguments!r}, where 'key: value' pairs are meant.")
    parameters = inspect.signature(cls).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    own = [n for n in parameters if n not in context]
    require_known_arguments(name, [key for key in arguments if key in context or not anything], own)
    supplied = {k: v for k, v in context.items() if anything or k in parameters}
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if required and key not in arguments and key not in supplied:
            raise ComponentError(
                f"'{name}' needs an argument '{key}'; add '{key}: ...' to its configuration."
            )
    try:
        return cls(**arguments, **supplied)
    except ArgumentError as cause:
        at = f"{place or name}{'.' if cause.argument in parameters else ': '}"
        raise ArgumentError(f"{at}{cause}.") from cause
    except (TypeError, ValueError) as cause:
        raise ComponentError(f"'{name}' cannot be made from {dict(arguments)}: {cause}.") from cause
