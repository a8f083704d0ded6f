"""File names that are valid in every file system and shell."""

from __future__ import annotations

import re

LONGEST = 120


def file_name(text: str, longest: int = LONGEST) -> str:
    """A name in ASCII letters, digits, ``.``, ``_``, ``+`` and ``-``; anything else becomes ``-``."""
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")[:longest] or "unnamed"
