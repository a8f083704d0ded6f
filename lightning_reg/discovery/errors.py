"""Errors that are the user's to mend: one sentence that says what is wrong and what to do. Commands print them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake outside the program: an option, a file, a component. The message is shown as it is; the exit code is 2."""


class ComponentError(UserError):
    """A component cannot be had under the name asked for."""


class DataError(UserError):
    """An image, a mask, landmarks or a folder is not what it has to be."""


class TrainingError(UserError):
    """Training cannot start or go on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word closest to ``word``, or a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else "."
