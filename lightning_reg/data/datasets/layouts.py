"""Common folder layouts: BIDS, a folder per kind of file, a folder per subject, or a single folder of files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_reg.data.datasets.interface import Record
from lightning_reg.discovery import DataError
from lightning_reg.io.points import PointFile, read_points

IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
POINTS = (".csv", ".fcsv", ".mrk.json", ".txt")
STATE = ".prepared"
"""Folder in a prepared data set with one file per finished scan, which records its source."""
PARTS = {
    "mask": "mask",
    "masks": "mask",
    "seg": "labels",
    "dseg": "labels",
    "label": "labels",
    "labels": "labels",
    "landmarks": "landmarks",
}
"""Part of a scan by the last word of the file name, or by the folder name; all other files are images."""

ENDINGS = {"mask": IMAGES, "labels": IMAGES, "landmarks": POINTS}
Pairs = list[tuple[Record, Record]]


@dataclass(frozen=True)
class Layout:
    """Scans of a folder, the listed pairs (``None``: no list) and the reader of the landmarks."""

    records: list[Record]
    pairs: Pairs | None = None
    points: Callable[[Path], PointFile] = read_points


def stem(path: Path) -> str:
    """Return a file's name without its ending; ``.nii.gz`` and ``.mrk.json`` are one ending each."""
    ending = next((e for e in sorted((*IMAGES, *POINTS), key=len, reverse=True) if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def is_image(path: Path) -> bool:
    """Return whether the name is that of an image; hidden files, as ``._x.nii.gz`` of macOS, are not."""
    return path.name.lower().endswith(IMAGES) and not path.name.startswith((".", "_"))


def natural(path: Path) -> list[Any]:
    """Return a sorting key for natural order: ``case2`` before ``case10``."""
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in re.split(r"(\d+)", path.name)]


def walk(root: Path) -> list[Path]:
    """List all files below a folder in natural order.

    Links are followed, each folder once. Hidden files and data written by ``lightning-reg prepare`` are left out.
    """
    found, seen = [], {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in folders:
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith((".", "__MACOSX")) and real not in seen and not os.path.isdir(os.path.join(real, STATE)):
                kept.append(name)
                seen.add(real)
        folders[:] = kept
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: [natural(Path(part)) for part in path.relative_to(root).parts])


def from_kinds(root: Path, images: str = "images", pattern: str | None = None) -> Layout:
    """Read a layout with a folder per kind and equal file names in each. Every image is a subject, unless a ``pattern`` is given."""
    name_of = _Names(root, pattern)
    found: list[Record] = []
    for path in sorted((root / images).iterdir(), key=natural):
        if is_image(path):
            beside: dict[str, Path | None] = {}
            for kind, part in PARTS.items():
                folder = root / images.replace("images", kind)
                names = [path.name, *(f"{stem(path)}{ending}" for ending in ENDINGS[part])]
                beside[part] = beside.get(part) or next((folder / name for name in names if (folder / name).is_file()), None)
            subject, time = name_of(path.name, stem(path), "")
            found += [Record(subject, time, image=path).holding(beside)] if subject else []
    name_of.require(found)
    if not found:
        raise DataError(f"{root} has no images (expected {root / images}/*.nii.gz); set data.root to the data set's own folder.")
    return Layout(unique(found))


class _Names:
    """Subject and time of an image, from a pattern or from its path."""

    def __init__(self, root: Path, pattern: str | None) -> None:
        self.root, self.pattern, self.unmatched = root, pattern, ""
        try:
            self.expression = re.compile(pattern) if pattern else None
        except re.error as cause:
            raise DataError(f"data.dataset.pattern is no regular expression ({cause}): {pattern}") from cause

    def __call__(self, path: str, subject: str, time: str) -> tuple[str, str]:
        """Return subject and time; both are empty if the pattern does not match the path."""
        if self.expression is None:
            return subject, time
        match = self.expression.search(path)
        if match is None or not match.groupdict().get("subject"):
            self.unmatched = self.unmatched or path
            return "", ""
        return match["subject"], match.groupdict().get("time") or ""

    def require(self, found: Sequence[Record]) -> None:
        if self.unmatched and not found:
            text = f"No image below {self.root} gives a subject by data.dataset.pattern={self.pattern}"
            raise DataError(f"{text} (as {self.unmatched}); correct the pattern.")


def from_tree(root: Path, pattern: str | None = None) -> Layout:
    """Read images at any depth below ``root``: a folder is a subject and its files are time points; an image in ``root`` is a subject.

    A file named ``IMAGE_mask``, ``IMAGE_labels`` (``_seg``, ``_dseg``) or ``IMAGE_landmarks`` belongs to the image ``IMAGE``. A file named
    ``mask``, ``labels`` or ``landmarks`` belongs to the only image in its folder.
    """
    name_of = _Names(root, pattern)
    images: dict[str, Path] = {}
    extra: dict[str, dict[str, Path]] = {}
    for path in walk(root):
        relative = path.relative_to(root)
        if path.suffix.lower() == ".dcm":
            images[relative.parent.as_posix()] = path.parent
            continue
        name = (relative.parent / stem(path)).as_posix()
        base, last = name[: -len(stem(path))], stem(path).lower()
        if "_" in last:
            base, _, last = name.rpartition("_")
        part = PARTS.get(last.lower())
        if part is not None and path.name.lower().endswith(ENDINGS[part]):
            extra.setdefault(base, {})[part] = path
        elif is_image(path):
            if name in images:
                raise DataError(f"{images[name]} and {path} have one name; remove one of them.")
            images[name] = path
    if not images:
        raise DataError(f"{root} holds no images ({', '.join(IMAGES)}, or folders with *.dcm); set data.root to the folder that does.")
    for folder, parts in list(extra.items()):
        if folder == "" or folder.endswith("/"):
            inside = [name for name in images if name.rpartition("/")[0] == folder.rstrip("/")]
            if len(inside) != 1:
                first = next(iter(parts.values()))
                raise DataError(f"{first} may belong to any of {len(inside)} images beside it; call it IMAGE_{stem(first)}.")
            extra.setdefault(inside[0], {}).update(parts)
    records = []
    for name, path in images.items():
        folder, _, last = name.rpartition("/")
        usual = (folder.replace("/", "-"), last) if folder else (last, "")
        subject, time = name_of(path.relative_to(root).as_posix(), *usual)
        records += [Record(subject, time, image=path).holding(extra.get(name, {}))] if subject else []
    name_of.require(records)
    return Layout(unique(records))


def unique(records: Sequence[Record]) -> list[Record]:
    """Refuse two scans with the same name."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.name in seen:
            raise DataError(
                f"{seen[record.name].image} and {record.image} are both the scan '{record.name}'; tell them apart by data.dataset.pattern."
            )
        seen[record.name] = record
    return list(records)


def from_bids(root: Path, suffix: str = "T1w") -> Layout:
    """Read anatomical images of a BIDS folder, with masks and segmentations from its derivatives; sessions are time points.

    Source: Brain Imaging Data Structure specification, "Magnetic Resonance Imaging" and "Derivatives: imaging data types".
    """
    found = sorted((p for p in root.glob("sub-*/**/anat/*") if is_image(p)), key=natural)
    suffixes = sorted({stem(p).rpartition("_")[2] for p in found})
    if not found:
        raise DataError(f"{root} looks like BIDS (sub-*), and has no sub-*/[ses-*/]anat/*.nii.gz; set data.root to the folder that does.")
    chosen = suffix if suffix in suffixes else suffixes[0]
    derived = sorted((p for p in root.glob("derivatives/**/anat/*") if is_image(p)), key=natural)
    parts: dict[tuple[str | None, ...], dict[str, Path]] = {}
    for path in derived:
        part = {"mask": "mask", "dseg": "labels"}.get(stem(path).rpartition("_")[2])
        if part is not None:
            parts.setdefault(_identity(_entities(path)), {}).setdefault(part, path)
    records = []
    for path in found:
        entities = _entities(path)
        if stem(path).rpartition("_")[2] == chosen:
            times = [entities[key] for key in ("ses", "run", "acq") if key in entities]
            files = parts.get(_identity(entities), {})
            records.append(Record(f"sub-{entities.get('sub', '?')}", "-".join(times), image=path).holding(files))
    return Layout(unique(records))


def _entities(path: Path) -> dict[str, str]:
    """Parse ``sub-01_ses-02_T1w.nii.gz`` into ``{sub: 01, ses: 02}``."""
    return dict(word.split("-", 1) for word in stem(path).split("_") if "-" in word)


def _identity(entities: Mapping[str, str]) -> tuple[str | None, ...]:
    """Return the common key of an image and its derivatives; derivatives in another space match no image."""
    return tuple(entities.get(key) for key in ("sub", "ses", "task", "acq", "ce", "rec", "run", "space"))
