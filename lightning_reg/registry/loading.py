"""Components by name: imported on request, checked against their interface, and constructed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning_reg.registry.contract import NOUNS, unmet
from lightning_reg.registry.entries import OWN, chosen, hidden, namespace
from lightning_reg.registry.errors import (
    ArgumentError,
    ComponentError,
    ForeignError,
    UserError,
    require_known_arguments,
)

T = TypeVar("T")


def load(group: str, name: str, interface: type[T]) -> type[T]:
    """Load the class of a name and check it against its interface.

    Args:
        group: one of :data:`~lightning_reg.registry.contract.NOUNS`.
        name: see :func:`chosen`.
        interface: the abstract class that it has to implement.

    Raises:
        ComponentError: the component is missing, cannot be imported, is provided twice, or does not
            fit the interface.
    """
    provider = chosen(group, name)
    described = f"The {NOUNS[group]} '{provider.name}' of {provider.origin}"
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
        group: one of :data:`~lightning_reg.registry.contract.NOUNS`.
        spec: ``{name: ..., **arguments}``, or the name alone.
        interface: the abstract class that it has to implement.
        place: where the specification stands, for messages about the values of its arguments.
        context: arguments from the framework (only those that the component's constructor declares
            are passed).

    Raises:
        ComponentError: as :func:`load`, or an argument is unknown or missing.
    """
    subject = place or f"A component of the group {group}"
    if not isinstance(spec, (str, Mapping)):
        raise ComponentError(
            f"{subject} is {spec!r}, where a name or 'name: ..., key: value' pairs are meant."
        )
    arguments: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if not isinstance(arguments.get("name"), str):
        raise ComponentError(
            f"{subject} is configured without a name: {dict(arguments)}; add 'name: ...'."
        )
    name = arguments.pop("name")
    cls = load(group, name, interface)
    try:
        return construct(name, cls, arguments, place, **context)
    except UserError as cause:
        if str(cause).startswith((f"'{name}' ", f"{name}.", f"{name}: ")):
            others = hidden(group, name)
            raise type(cause)(
                f"The {NOUNS[group]} {cause}{f' {others}' if others else ''}"
            ) from cause
        raise
    except (Exception, SystemExit) as cause:  # third-party constructors may raise anything
        provider = chosen(group, name)
        if provider.distribution == OWN:
            raise
        raise ForeignError(
            f"The {NOUNS[group]} '{provider.name}' of {provider.origin} could not be made from"
            f" {arguments} ({type(cause).__name__}: {cause}); correct its arguments, or the"
            " component where it is yours."
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
