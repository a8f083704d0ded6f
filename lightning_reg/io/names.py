"""Names of files that are valid in every file system and shell, and durations in words."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from lightning_reg.registry import DataError

LONGEST = 120


def require_unicode(path: str | Path) -> None:
    """Refuse a path that ITK and files of text cannot have.

    Raises:
        DataError: the path is not UTF-8, or the locale has another encoding.
    """
    try:
        same = os.fsencode(path) == str(path).encode()
    except UnicodeEncodeError:
        same = False
    if not same:
        raise DataError(
            f"The path {str(path)!a} cannot be used: its name or the locale is not UTF-8; rename"
            " it, or set LC_ALL=C.UTF-8."
        )


def file_name(text: str, longest: int = LONGEST) -> str:
    """A name in ASCII letters, digits and ``._+-``; anything else becomes ``-``."""
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")[:longest] or "unnamed"


def is_file_name(text: str) -> bool:
    """Whether a text is a name as :func:`file_name` makes them, of any length."""
    return re.fullmatch(r"(?![.-])[\w.+-]+", text, re.ASCII) is not None


def unique(names: Iterable[str], key: Callable[[str], str] = str) -> list[str]:
    """Number repeated names, ``a, a-2, a-3``.

    Args:
        key: names with the same key are repeated, as ``str.lower`` for a file system.
    """
    used: dict[str, str] = {}
    count: Counter[str] = Counter()
    for name in names:
        candidate = name
        while key(candidate) in used:
            count[name] += 1
            candidate = f"{name}-{count[name] + 1}"
        used[key(candidate)] = candidate
    return list(used.values())


def duration(seconds: float) -> str:
    """Format a duration: ``50 seconds``, ``12 minutes``, ``3.5 hours``."""
    if seconds < 100:
        return f"{max(round(seconds / 10), 1) * 10} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
