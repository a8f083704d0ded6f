"""Helpers for adapters: search for files by name, choice of held-out subjects and of pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torchio as tio

from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import Layout, Pairs
from lightning_reg.data.datasets.loading import load_files
from lightning_reg.registry import DataError, require_kind


def require_folder(root: str | Path) -> Path:
    """Return the folder of the provider's files.

    Raises:
        DataError: there is no such folder.
    """
    require_kind(root, (str, Path), "root", "give a folder")
    folder = Path(root).expanduser()
    if folder.is_file():
        raise DataError(
            f"{folder} is a file; give the folder, or, where it is a table of pairs, name the data"
            " set 'pairs'."
        )
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder}; give the folder with the provider's files as `root`."
        )
    return folder


def named(files: Sequence[Path], pattern: str) -> dict[tuple[str, ...], Path]:
    """Return the files whose names match, by the groups of the pattern. Of two files with equal
    groups, that nearer to the root is used.

    Args:
        pattern: regular expression for the whole name, case-insensitive.
    """
    expression = re.compile(pattern, re.IGNORECASE)
    found: dict[tuple[str, ...], Path] = {}
    for path in sorted(files, key=lambda p: len(p.parts)):
        match = expression.fullmatch(path.name)
        if match:
            found.setdefault(tuple(group or "" for group in match.groups()), path)
    return found


def hold_out(records: Sequence[Record], is_held_out: Callable[[int, str], bool]) -> list[Record]:
    """Move the records of some subjects to the split ``validation``.

    Args:
        is_held_out: function of a subject's number, in order of first appearance, and its name.
    """
    numbers = {
        subject: k for k, subject in enumerate(dict.fromkeys(record.subject for record in records))
    }
    return [
        replace(r, split="validation") if is_held_out(numbers[r.subject], r.subject) else r
        for r in records
    ]


def between(
    records: Sequence[Record], ends: Callable[[str], tuple[str, str]]
) -> list[tuple[Record, Record]]:
    """Pair two scans of each subject that has both.

    Args:
        ends: function of a subject's name: the times of its fixed and its moving scan.
    """
    at = {(record.subject, record.time): record for record in records}
    times = {subject: ends(subject) for subject, _ in at}
    return [
        (at[subject, fixed], at[subject, moving])
        for subject, (fixed, moving) in times.items()
        if (subject, fixed) in at and (subject, moving) in at
    ]


def last(records: Sequence[Record], count: int) -> list[Record]:
    """Hold out the last ``count`` subjects; of few subjects a fifth, but enough for one pair."""
    total = len({record.subject for record in records})
    enough = 1 if len(records) > total else 2
    held = count if 3 * count <= total else max(enough, total // 5)
    return hold_out(records, lambda number, subject: total > held and number >= total - held)


def with_validation(
    layout: Layout, count: int
) -> tuple[list[Record], Callable[[Record], tio.Subject], Pairs | None]:
    """Arguments of a :class:`~lightning_reg.data.datasets.loading.ListedDataset` from a layout; if
    it has no split for validation, the :func:`last` subjects are held out.
    """
    load = partial(load_files, points=layout.points)
    if any(record.split == "validation" for record in layout.records):
        return layout.records, load, layout.pairs
    return last(layout.records, count), load, None
