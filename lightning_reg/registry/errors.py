"""Errors that the user can correct: one sentence with the problem and the remedy. Commands print it
without a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake outside the program: an option, a file, a component. The message is shown
    unchanged; the exit code is 2.
    """


class ComponentError(UserError):
    """A component is not available under the requested name."""


class ForeignError(ComponentError):
    """A component of another distribution failed; its own exception is the cause."""


class ArgumentError(ComponentError, ValueError):
    """A constructor refuses a value. The message begins with the argument's name; whoever took the
    value from somewhere else, as from a configuration, puts that place in front of it.
    """

    @property
    def argument(self) -> str:
        """Name of the argument, where the message is of one or of a part of it."""
        return re.split(r"\W", str(self), maxsplit=1)[0]


class DataError(UserError):
    """An image, a mask, landmarks or a folder is invalid."""


class TrainingError(UserError):
    """Training cannot start or continue."""


def in_words(error: BaseException) -> str:
    """An error as a sentence: a :class:`UserError` unchanged, any other error with its type."""
    return (
        str(error)
        if isinstance(error, UserError)
        else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    )


def require_kind(value: object, kind: type | tuple[type, ...], argument: str, remedy: str) -> None:
    """Refuse an argument of another type.

    Raises:
        ArgumentError: the message gives ``argument``, its value and ``remedy``.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type):
        given = f"the class {value.__name__}"
    else:
        told = isinstance(value, (str, int, float, type(None)))
        given = repr(value) if told else f"an object of {type(value).__name__}"
    raise ArgumentError(f"{argument} is {given}; {remedy}")


def require_count(value: object, argument: str, least: int = 1) -> None:
    """Refuse an argument that is no whole number of ``least`` or more.

    Raises:
        ArgumentError: the message names the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{argument} is {value!r}; give a whole number, {least} or more")


def require_known_arguments(
    name: str, given: Iterable[str], known: Sequence[str], told: Sequence[str] | None = None
) -> None:
    """Refuse an argument that a component does not take.

    Args:
        told: arguments listed in the message; default ``known``.

    Raises:
        ComponentError: the message names the component, the argument, the closest known one, and
            all known ones.
    """
    told = known if told is None else told
    for key in given:
        if key not in known:
            takes = ", ".join(told) or "none"
            raise ComponentError(
                f"'{name}' does not take an argument '{key}'{did_you_mean(key, told)} It takes:"
                f" {takes}."
            )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word closest to ``word``, or a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else "."
