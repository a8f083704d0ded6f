"""Errors that are the user's to mend: one sentence that says what is wrong and what to do. Commands print them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake outside the program: an option, a file, a component. The message is shown as it is; the exit code is 2."""


class ComponentError(UserError):
    """A component cannot be had under the name asked for."""


class DataError(UserError):
    """An image, a mask, landmarks or a folder is not what it has to be."""


class TrainingError(UserError):
    """Training cannot start or go on."""


def require_known_arguments(name: str, given: Iterable[str], known: Sequence[str], told: Sequence[str] | None = None) -> None:
    """Refuse an argument that a component does not take.

    Args:
        told: what the message says that it takes; default ``known``.

    Raises:
        ComponentError: naming the component, the argument, the one that may be meant, and those that it takes.
    """
    told = known if told is None else told
    for key in given:
        if key not in known:
            takes = ", ".join(told) or "none"
            raise ComponentError(f"'{name}' does not take an argument '{key}'{did_you_mean(key, told)} It takes: {takes}.")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word closest to ``word``, or a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else "."
