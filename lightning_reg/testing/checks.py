"""Checks by kind of component, and the function that runs them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, cast

import torch

from lightning_reg.io.images import first_line
from lightning_reg.registry import ComponentError, did_you_mean

Component = TypeVar("Component")
Factory = Callable[..., Any]
"""Function that makes a component: a head from ``(channels, strides)``, others without any."""
KINDS = ("backbone", "head", "composer", "loss", "callback", "dataset")


class ConformanceError(AssertionError):
    """A component does not meet the framework's requirements on its kind."""


@dataclass(frozen=True)
class Check:
    """One requirement.

    Args:
        kind: one of :data:`KINDS`.
        name: name of the check, for expected failures.
        meaning: the requirement as a sentence.
        run: function that raises :class:`ConformanceError`, or an error of the component.
    """

    kind: str
    name: str
    meaning: str
    run: Callable[[Factory], None]

    def __call__(self, factory: Factory) -> None:
        """Run the check with a fixed random seed.

        Raises:
            ConformanceError: the component fails; the message names the check.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.run(factory)
            except (Exception, SystemExit) as cause:
                what = (
                    str(cause)
                    if isinstance(cause, ConformanceError)
                    else f"{type(cause).__name__}: {first_line(cause)}"
                )
                raise ConformanceError(
                    f"{self.name}: {what.rstrip('.')}. Expected: {self.meaning}"
                ) from cause


_CHECKS: dict[str, list[Check]] = {kind: [] for kind in KINDS}


def check(kind: str) -> Callable[[Callable[[Factory], None]], Callable[[Factory], None]]:
    """Register a function as a check of a kind, under its own name; the first line of its docstring
    is the meaning.
    """

    def registered(run: Callable[[Factory], None]) -> Callable[[Factory], None]:
        meaning = " ".join((run.__doc__ or "").split("\n\n")[0].split())
        _CHECKS[kind].append(Check(kind, run.__name__, meaning, run))
        return run

    return registered


def require(condition: object, message: str) -> None:
    """Raise a :class:`ConformanceError` with the message unless a condition is met."""
    if not bool(condition):
        raise ConformanceError(message)


def made(factory: Factory, kind: type[Component], **given: Any) -> Component:
    """Make a component from the arguments of its kind; refuse one of another class."""
    component = factory(**given)
    name = type(component).__name__
    require(
        isinstance(component, kind),
        f"the factory makes {name}, which does not derive from {kind.__name__}",
    )
    return cast(Component, component)


def checks(kind: str) -> Sequence[Check]:
    """The checks of a kind of component, in the order in which they run.

    Args:
        kind: ``backbone, head, composer, loss, callback`` or ``dataset``.

    Raises:
        ComponentError: no such kind.
    """
    if kind not in KINDS:
        raise ComponentError(
            f"There are no checks for '{kind}'{did_you_mean(kind, KINDS)} Kinds:"
            f" {', '.join(KINDS)}."
        )
    import_module(
        f"lightning_reg.testing.{kind}s" if kind != "loss" else "lightning_reg.testing.losses"
    )
    return tuple(_CHECKS[kind])


def check_component(
    kind: str, factory: Factory, *, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a kind.

    Args:
        kind: see :func:`checks`.
        factory: class of the component, or a function that makes it. For a head it is called with
            ``channels`` and ``strides``, otherwise without arguments.
        expected_failures: reasons by name of the check, for requirements that do not apply to the
            component.

    Raises:
        ConformanceError: all failures, a line each (only the first check if it fails, because the
            others depend on it), or an expected failure that does not fail.
        ComponentError: an expected failure names no check.
    """
    expected = expected_failures or {}
    known = checks(kind)
    require_known(kind, expected)
    problems: list[str] = []
    for one in known:
        if problems and problems[0].startswith(f"{known[0].name}: "):
            break  # the other checks depend on it
        try:
            one(factory)
        except ConformanceError as problem:
            if one.name not in expected:
                problems.append(str(problem))
        else:
            if one.name in expected:
                problems.append(
                    f"{one.name}: it was expected to fail ({expected[one.name]}) and does not;"
                    " remove it from expected_failures"
                )
    if problems:
        raise ConformanceError(
            f"{len(problems)} of {len(known)} checks of a {kind} fail.\n" + "\n".join(problems)
        )


def require_known(kind: str, expected: Mapping[str, str]) -> None:
    """Raise a :class:`ComponentError` if an expected failure names no check or gives no reason."""
    names = [one.name for one in checks(kind)]
    for name, reason in expected.items():
        if name not in names:
            raise ComponentError(
                f"There is no check '{name}' of a {kind}{did_you_mean(name, names)} Checks:"
                f" {', '.join(names)}."
            )
        if not reason:
            raise ComponentError(
                f"The expected failure '{name}' has no reason; give one, so that readers know what"
                " the component is not for."
            )
