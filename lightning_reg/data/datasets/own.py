"""Data sets of your own files: a table of pairs, or a folder of scans."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.dataset_json import descriptions, from_dataset_json
from lightning_reg.data.datasets.interface import PARTS, SPLITS, Record
from lightning_reg.data.datasets.layouts import Layout, from_bids, from_kinds, from_tree
from lightning_reg.data.datasets.loading import ListedDataset, load_files
from lightning_reg.data.datasets.manifest import together
from lightning_reg.data.datasets.roles import is_image
from lightning_reg.io.tables import read_table
from lightning_reg.registry import DataError, did_you_mean

SIDES = ("fixed", "moving")
COLUMNS = {
    side if part == "image" else f"{side}_{part}": (side, part) for part in PARTS for side in SIDES
}
"""Side and part by column of a table of pairs."""


def read_pairs(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the lines of a table of pairs, see
    :func:`~lightning_reg.io.tables.read_table`.

    Raises:
        DataError: see there; or a column is unknown.
    """
    lines = read_table(table, SIDES)
    known = sorted([*COLUMNS, "pair", "split", "subject"])
    for column in lines[0][1]:
        if column and column not in known:
            raise DataError(
                f"{table} has a column '{column}'{did_you_mean(column, known)} Known:"
                f" {', '.join(known)}."
            )
    return lines


class PairsDataset(ListedDataset):
    """Pairs from a table with a line per pair and a column per file.

    Args:
        root: a CSV file with the columns ``fixed`` and ``moving`` (paths relative to the file's
            folder). Optional columns:
            ``fixed_mask, moving_mask, fixed_labels, moving_labels, fixed_landmarks,
            moving_landmarks``, ``split`` (train, validation, test; without it the last fifth of
            the subjects is used for validation) and ``subject`` (without it every line is a
            subject of its own, ``pair1, pair2, ...``). The column ``pair``, used when a table is
            registered, is ignored here.

    Raises:
        DataError: lists all problems of the table.
    """

    def __init__(self, root: str | Path) -> None:
        table = Path(root).expanduser()
        lines = read_pairs(table)
        problems: list[str] = []
        scans: dict[tuple[str, ...], Record] = {}
        taken: set[str] = set()
        pairs: list[tuple[Record, Record]] = []
        subjects = [
            cells.get("subject") or f"pair{number + 1}" for number, (_, cells) in enumerate(lines)
        ]
        everybody = list(dict.fromkeys(subjects))
        held_out = everybody[len(everybody) - max(1, len(everybody) // 5) :]
        for subject, (line, cells) in zip(subjects, lines, strict=True):
            split = cells.get("split") or ("validation" if subject in held_out else "train")
            if split not in SPLITS:
                problems.append(
                    f"Line {line} of {table} has the split '{split}'{did_you_mean(split, SPLITS)}"
                    f" Known: {', '.join(SPLITS)}."
                )
                continue
            pair = []
            for side in SIDES:
                files = {
                    part: table.parent / Path(cells[column]).expanduser()
                    for column, (of, part) in COLUMNS.items()
                    if of == side and cells.get(column)
                }
                if "image" not in files:
                    problems.append(
                        f"Line {line} of {table} has no {side} image; give one, or remove the line."
                    )
                    continue
                problems += [
                    f"Line {line} of {table}: there is no {path}; correct the path."
                    for path in files.values()
                    if not path.exists()
                ]
                key = (split, *(str(files.get(part, "")) for part in PARTS))
                if key not in scans:
                    scans[key] = replace(_named(subject, side, taken), split=split).holding(files)  # type: ignore[arg-type]
                pair.append(scans[key])
            if len(pair) == 2:
                pairs.append((pair[0], pair[1]))
        if problems:
            raise DataError(together(problems))
        super().__init__(list(scans.values()), pairs=pairs)


def _named(subject: str, side: str, taken: set[str]) -> Record:
    """Make a record of the subject with a unique time: the side, or the side with a number."""
    times = (side if number == 1 else f"{side}{number}" for number in count(1))
    record = next(r for r in (Record(subject, time) for time in times) if r.name not in taken)
    taken.add(record.name)
    return record


def find_layout(root: Path, pattern: str | None = None, labels: str | None = None) -> Layout:
    """Find the scans in a folder.

    Args:
        root: a folder with a ``dataset.json`` (nnU-Net, Medical Segmentation Decathlon, Learn2Reg),
            in BIDS format (``sub-*``), with ``images/`` (and ``masks/``, ``labels/``,
            ``landmarks/``), with a folder per subject, or with the images themselves.
        pattern, labels: see :class:`FolderDataset`; with one of them, the folder is read as one of
        the last three layouts.

    Raises:
        DataError: the folder has no scans, or a label map belongs to none of them.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; correct `root`.")
    if pattern is None and labels is None:
        for described in descriptions(root):
            return from_dataset_json(described)
        if any(is_image(path) for path in root.glob("sub-*/**/anat/*")):
            return from_bids(root)
    folders = [
        path
        for path in sorted(root.iterdir())
        if path.name.lower() in ("images", "imagestr") and path.is_dir()
    ]
    kinds = next(
        (folder.name for folder in folders if any(is_image(path) for path in folder.iterdir())),
        None,
    )
    return (
        from_tree(root, pattern, labels)
        if kinds is None
        else from_kinds(root, kinds, pattern, labels)
    )


class FolderDataset(ListedDataset):
    """Scans in a folder, see :func:`find_layout` for the known layouts.

    Args:
        root: the folder. If the layout does not name validation scans, the last fifth of the
            subjects is held out.
        pattern: regular expression for the path below ``root``, with the groups ``subject`` and
            ``time``.
        labels: pattern of the names of the label maps, as ``*_seg*``; other label maps are left
            out. Without it, label maps are recognised by their names, as ``IMAGE_seg``, and by
            their values; ``''``: by their names alone.
    """

    def __init__(
        self, root: str | Path, pattern: str | None = None, labels: str | None = None
    ) -> None:
        layout = find_layout(require_folder(root), pattern, labels)
        split = any(record.split != "train" for record in layout.records)
        records = layout.records if split else last(layout.records, len(layout.records))
        new = dict(zip(layout.records, records, strict=True))
        listed = [(new[fixed], new[moving]) for fixed, moving in layout.pairs or []]
        pairs = [pair for pair in listed if pair[0].split == pair[1].split] or None
        super().__init__(records, partial(load_files, points=layout.points), pairs)
        self.left_out = layout.left_out
