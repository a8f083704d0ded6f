"""Write ``python.ipynb`` from ``docs/python.md``, cell by cell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def notebook() -> dict[str, Any]:
    """The notebook of the page."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(
        re.split(
            r"```(python)\n(.*?)```",
            (HERE.parent / "python.md").read_text(encoding="utf-8"),
            flags=re.S,
        )
    ):
        kind = ("markdown", "", "code")[number % 3]
        if kind and part.strip():
            extra = {"outputs": [], "execution_count": None} if kind == "code" else {}
            cells.append(
                {
                    "cell_type": kind,
                    "id": f"cell-{len(cells)}",
                    "metadata": {},
                    "source": part.strip().splitlines(keepends=True),
                    **extra,
                }
            )
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    (HERE / "python.ipynb").write_text(json.dumps(notebook(), indent=1) + "\n", encoding="utf-8")
