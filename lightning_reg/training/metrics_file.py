"""``metrics.csv`` of a run: one row per step."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_reg.io.folders import write_whole

NAME = "metrics.csv"


class MetricsFile(Logger):
    """Logger that writes one row of ``metrics.csv`` per step; the file is rewritten only if columns
    or old rows have changed.

    Args:
        folder: folder of the run.
        before: for a resumed run, the rows of steps below this one are kept; the others are
            replaced at the first write.
    """

    def __init__(self, folder: Path, before: int = 0) -> None:
        super().__init__()
        self.path = folder / NAME
        self.rows: dict[int, dict[str, str]] = {}
        if before:
            self.rows = {
                step: row
                for step, row in rows_by_step(read_metrics(folder)).items()
                if step < before
            }
        self._known = {key for row in self.rows.values() for key in row}
        self._columns: list[str] = []
        self._written: int | None = None
        """Number of rows in the file; ``None``: the whole file has to be written."""

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the configuration has its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = 0 if step is None else step
        # this row is already in the file, always as its last one
        if step in self.rows and self._written == len(self.rows):
            self._written = None
        row = self.rows.setdefault(step, {"step": str(step)})
        row.update(
            {
                key: str(float(value)) if key != "epoch" else str(int(value))
                for key, value in metrics.items()
            }
        )
        self._known.update(row)

    @rank_zero_only
    def save(self) -> None:
        """Write every row."""
        if not self.rows:
            return
        columns = sorted(self._known)
        if self._written is None or columns != self._columns:
            write_whole(self.path, _table(columns, list(self.rows.values()), header=True).encode())
        elif self._written < len(self.rows):
            with self.path.open("a", newline="") as file:
                file.write(_table(columns, list(self.rows.values())[self._written :]))
        self._columns, self._written = columns, len(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _table(columns: list[str], rows: list[dict[str, str]], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a run's ``metrics.csv``; an empty list if there is no such file yet."""
    path = folder / NAME
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return list(csv.DictReader(file))


def rows_by_step(rows: list[dict[str, str]]) -> dict[int, dict[str, str]]:
    """Return the rows by step, without empty values; rows without a step are left out."""
    found: dict[int, dict[str, str]] = {}
    for row in rows:
        step = row.get("step") or ""
        if step.isdigit():
            found.setdefault(int(step), {}).update(
                {
                    key: value
                    for key, value in row.items()
                    if key and isinstance(value, str) and value
                }
            )
    return found
