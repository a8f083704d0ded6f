"""Writes the table of checks into ``docs/plugins.md``: ``python tests/testing/table.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
START, END = "<!-- checks: written by tests/testing/table.py -->\n", "<!-- end -->"


def table() -> str:
    """A table per kind: check, what is expected, and the broken component that it catches."""
    from testing.broken import BROKEN

    from lightning_reg.testing import checks

    parts = []
    for kind, broken in BROKEN.items():
        rows = []
        for check in checks(kind):
            meaning = re.sub(r":\w+:`(\w+)`", r"`\1`", check.meaning).replace("``", "`")
            rows.append(f"| `{check.name}` | {meaning} | {broken[check.name][0]} |")
        parts.append(
            f"**{kind}**\n\n| check | expected | caught |\n| --- | --- | --- |\n"
            + "\n".join(rows)
            + "\n"
        )
    return "\n".join(parts)


def page() -> str:
    """The page with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return before + START + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    PAGE.write_text(page(), encoding="utf-8")
