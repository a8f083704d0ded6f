"""Common folder layouts: BIDS, a folder per kind of file or per subject, or one folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.roles import (
    ENDINGS,
    IMAGES,
    PICTURES,
    ROLES,
    Part,
    assign_parts,
    is_image,
    named_part,
    sort_parts,
    stem,
    words,
)
from lightning_reg.io.points import PointFile, read_points
from lightning_reg.registry import DataError

STATE = ".prepared"
"""Folder in a prepared data set with one file per finished scan, which records its source."""
Pairs = list[tuple[Record, Record]]


@dataclass(frozen=True)
class Layout:
    """Scans of a folder, the listed pairs (``None``: no list), the reader of the landmarks, and
    masks and label maps of no scan.
    """

    records: list[Record]
    pairs: Pairs | None = None
    points: Callable[[Path], PointFile] = read_points
    left_out: Sequence[Path] = ()


def natural(path: Path) -> list[Any]:
    """Return a sorting key for natural order: ``case2`` before ``case10``."""
    return [
        (0, int(word), "") if word.isdecimal() else (1, 0, word)
        for word in re.split(r"(\d+)", path.name)
    ]


def walk(root: Path) -> list[Path]:
    """List all files below a folder in natural order.

    Links are followed, each folder once. Hidden files and data written by ``lightning-reg prepare``
    are left out.
    """
    found, seen = [], {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in folders:
            real = os.path.realpath(os.path.join(folder, name))
            if (
                not name.startswith((".", "__MACOSX"))
                and real not in seen
                and not os.path.isdir(os.path.join(real, STATE))
            ):
                kept.append(name)
                seen.add(real)
        folders[:] = kept
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(
        found, key=lambda path: [natural(Path(part)) for part in path.relative_to(root).parts]
    )


def from_kinds(
    root: Path, images: str = "images", pattern: str | None = None, labels: str | None = None
) -> Layout:
    """Read a layout with a folder per kind. Every image is a subject, unless a ``pattern`` is
    given.

    The folders ``masks``, ``labels``, ``segmentations`` and so on beside ``imagesTr`` end in
    ``Tr``, too.
    """
    names = _Names(root, pattern)
    ending = images.lower().removeprefix("images")
    files = sorted((root / images).iterdir(), key=natural)
    pictures = not any(map(is_image, files))
    by_name = {stem(path): path for path in files if is_image(path, pictures)}
    scans, parts = sort_parts(by_name, labels)
    for folder in sorted(
        path for path in root.iterdir() if path.is_dir() and path.name.lower().endswith(ending)
    ):
        named = words(folder.name.lower().removesuffix(ending))
        roles = [ROLES[word] for word in named if word in ROLES]
        if roles and folder.name != images:
            part = roles[0]
            inside = [
                path
                for path in walk(folder)
                if path.name.lower().endswith(ENDINGS[part])
                and not path.name.startswith("_")
                and (pictures or path.suffix.lower() not in PICTURES)
            ]
            parts += [Part(stem(path), path, part) for path in inside]
    extra = assign_parts(scans, parts)
    for name, path in scans.items():
        names.add(path, path.name, (name, ""), extra.get(name, {}))
    if not names.found():
        raise DataError(
            f"{root} has no images (expected {root / images}/*.nii.gz); set `root` to the data"
            " set's own folder."
        )
    return Layout(names.found())


class _Names:
    """Scans, whose subject and time come from a pattern or from the paths."""

    def __init__(self, root: Path, pattern: str | None) -> None:
        self.root, self.pattern, self.unmatched = root, pattern, ""
        self.records: list[Record] = []
        try:
            self.expression = re.compile(pattern) if pattern else None
        except re.error as cause:
            raise DataError(f"`pattern` is no regular expression ({cause}): {pattern}") from cause

    def add(
        self, image: Path, path: str, usual: tuple[str, str], files: Mapping[str, Path]
    ) -> None:
        """Add a scan if the pattern matches its path.

        Args:
            usual: subject and time if there is no pattern.
            files: parts of the scan.
        """
        subject, time = usual
        if self.expression is not None:
            match = self.expression.search(path)
            groups = match.groupdict() if match else {}
            subject, time = groups.get("subject") or "", groups.get("time") or ""
        if subject:
            self.records.append(Record(subject, time, image=image).holding(files))
        else:
            self.unmatched = self.unmatched or path

    def found(self) -> list[Record]:
        """Return the scans; refuse a pattern that matches none, and scans of one name."""
        if self.unmatched and not self.records:
            text = f"No image below {self.root} gives a subject by `pattern`={self.pattern}"
            raise DataError(f"{text} (as {self.unmatched}); correct the pattern.")
        return unique(self.records)


def from_tree(root: Path, pattern: str | None = None, labels: str | None = None) -> Layout:
    """Read images at any depth below ``root``: a folder is a subject and its files are time points;
    an image in ``root`` is a subject.

    Label maps, masks and landmarks are found as :mod:`~lightning_reg.data.datasets.roles` says. If
    all scans are in one folder and their label maps in another, each scan is a subject.
    """
    names = _Names(root, pattern)
    images: dict[str, Path] = {}
    points: list[Part] = []
    files = walk(root)
    pictures = not any(is_image(path) or path.suffix.lower() == ".dcm" for path in files)
    for path in files:
        if path.suffix.lower() in PICTURES and not pictures:
            continue
        relative = path.relative_to(root)
        name = (relative.parent / stem(path)).as_posix()
        if path.suffix.lower() == ".dcm":
            images[relative.parent.as_posix()] = path.parent
        elif is_image(path, pictures):
            if name in images:
                raise DataError(f"{images[name]} and {path} have one name; remove one of them.")
            images[name] = path
        elif (part := named_part(path)) is not None:
            points.append(Part(name, path, part))
    scans, parts = sort_parts(images, labels)
    if not scans:
        holds = f"only masks or label maps (as {parts[0].path})" if parts else "no images"
        raise DataError(
            f"{root} holds {holds} ({', '.join(IMAGES + PICTURES)}, or folders with *.dcm); set"
            " `root` to the folder that holds the scans."
        )
    extra = assign_parts(scans, [*parts, *points])
    folders = {path.parent for path in scans.values()}
    elsewhere = any(
        path.parent not in folders
        for files in extra.values()
        for part, path in files.items()
        if part != "landmarks"
    )
    for name, path in scans.items():
        folder, _, last = name.rpartition("/")
        usual = (
            (folder.replace("/", "-"), last)
            if folder and not (elsewhere and len(folders) == 1)
            else (last, "")
        )
        names.add(path, path.relative_to(root).as_posix(), usual, extra.get(name, {}))
    return Layout(names.found())


def unique(records: Sequence[Record]) -> list[Record]:
    """Refuse two scans with the same name."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.name in seen:
            raise DataError(
                f"{seen[record.name].image} and {record.image} are both the scan '{record.name}';"
                " tell them apart by `pattern`."
            )
        seen[record.name] = record
    return list(records)


def from_bids(root: Path, suffix: str = "T1w") -> Layout:
    """Read anatomical images of a BIDS folder, with masks and segmentations beside them and in its
    derivatives; sessions are time points.

    Source: Brain Imaging Data Structure specification, "Magnetic Resonance Imaging" and
        "Derivatives: imaging data types".
    """
    found = sorted((p for p in root.glob("sub-*/**/anat/*") if is_image(p)), key=natural)
    suffixes = sorted({stem(p).rpartition("_")[2] for p in found if named_part(p) is None})
    if not suffixes:
        raise DataError(
            f"{root} looks like BIDS (sub-*), and has no sub-*/[ses-*/]anat/*.nii.gz; set `root`"
            " to the folder that does."
        )
    chosen = suffix if suffix in suffixes else suffixes[0]
    beside = (p for p in walk(root) if p.parent.name.startswith(("anat", "sub-", "ses-")))
    derived = sorted(filter(is_image, beside), key=natural)
    parts: dict[tuple[str | None, ...], dict[str, Path]] = {}
    for path in derived:
        part = named_part(path)
        if part is not None:
            parts.setdefault(_identity(_entities(path)), {}).setdefault(part, path)
    records = []
    for path in found:
        entities = _entities(path)
        if stem(path).rpartition("_")[2] == chosen:
            times = [entities[key] for key in ("ses", "run", "acq") if key in entities]
            files = parts.get(_identity(entities), {})
            records.append(
                Record(f"sub-{entities.get('sub', '?')}", "-".join(times), image=path).holding(
                    files
                )
            )
    used = {path for record in records for path in record.files()}
    return Layout(
        unique(records),
        left_out=[path for path in derived if named_part(path) is not None and path not in used],
    )


def _entities(path: Path) -> dict[str, str]:
    """Parse ``sub-01_ses-02_T1w.nii.gz`` into ``{sub: 01, ses: 02}``."""
    return dict(word.split("-", 1) for word in stem(path).split("_") if "-" in word)


def _identity(entities: Mapping[str, str]) -> tuple[str | None, ...]:
    """Common key of an image and its derivatives; those in another space match no image."""
    return tuple(
        entities.get(key) for key in ("sub", "ses", "task", "acq", "ce", "rec", "run", "space")
    )
