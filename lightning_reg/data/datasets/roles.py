"""Roles of the image files in a folder, by their names or else by their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lightning_reg.data.datasets.manifest import together
from lightning_reg.io.images import read_image
from lightning_reg.registry import DataError

IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
PICTURES = (".png", ".tif", ".tiff")
"""Endings of 2D images, which are scans where there are no :data:`IMAGES`."""
POINTS = (".csv", ".fcsv", ".mrk.json", ".txt")
ENDINGS = {"mask": IMAGES + PICTURES, "labels": IMAGES + PICTURES, "landmarks": POINTS}
LABELS = (
    "seg segs dseg aseg segmentation segmentations label labels labelmap labelmaps parcellation gt"
)
ROLES = {
    "mask": "mask",
    "masks": "mask",
    "brainmask": "mask",
    **dict.fromkeys(LABELS.split(), "labels"),
    "landmarks": "landmarks",
}
"""Part of a scan by the last word of a file's name, or by a word of its folder's name."""
KINDS = {"image", "images", "imgs", "scan", "scans"}
"""Words of a folder's name that say nothing about the subject."""
SLICES = 16
"""Slices of an image that are read to recognise a label map."""
VALUES = 1000
"""Largest number of different labels."""


def stem(path: Path) -> str:
    """Return a file's name without its ending, such as ``.nii.gz`` and ``.mrk.json``."""
    name = path.name.lower()
    longest = max((e for e in (*IMAGES, *POINTS) if name.endswith(e)), key=len, default=path.suffix)
    return path.name[: len(name) - len(longest)]


def is_image(path: Path, pictures: bool = False) -> bool:
    """Return whether the name is that of an image, or of one of :data:`PICTURES`; hidden files, as
    ``._x.nii.gz`` of macOS, are not.
    """
    endings = IMAGES + PICTURES if pictures else IMAGES
    return path.name.lower().endswith(endings) and not path.name.startswith((".", "_"))


def words(text: str) -> list[str]:
    """Return the words of a name in small letters: ``P01-T1_seg`` has three."""
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def named_part(path: Path) -> str | None:
    """Part of a scan that a file's name ends in, as ``IMAGE_mask``; ``None``: it names none."""
    part = ROLES.get((words(stem(path)) or [""])[-1])
    return part if part and path.name.lower().endswith(ENDINGS[part]) else None


def is_label_map(path: Path) -> bool:
    """Whether a file can be read and has the values of a label map, see :func:`has_labels`."""
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            return has_labels(nib.load(path, keep_file_open=True).dataobj)
        return has_labels(read_image(path).data[0].numpy())
    # nibabel, ITK and zlib raise many kinds; reported where the image is read as a scan
    except Exception:
        return False


def has_labels(volume: Any) -> bool:
    """Return whether values ``(I, J, K)`` are those of a label map: whole numbers that mostly lie
    beside equal ones.

    Up to :data:`SLICES` slices are read, the middle one first, which decides for most images. An
    image of 8 bits has few whole numbers, too, but neighbouring voxels differ.
    """
    beside: dict[int, list[int]] = {}
    count = volume.shape[-1]
    for number, k in enumerate((count // 2, *range(0, count, max(1, count // SLICES)))):
        values = np.asarray(volume[..., k])
        whole = np.rint(values)
        if not np.isfinite(values).all() or values.min() < 0 or np.abs(values - whole).max() > 1e-3:
            return False
        for one, other in ((whole[1:], whole[:-1]), (whole[:, 1:], whole[:, :-1])):
            found, at = np.unique(one, return_inverse=True)
            equal = np.bincount(at.ravel(), weights=(one == other).ravel())
            for value, same, total in zip(
                found.tolist(), equal.tolist(), np.bincount(at.ravel()).tolist(), strict=True
            ):
                sums = beside.setdefault(int(value), [0, 0])
                sums[0], sums[1] = sums[0] + int(same), sums[1] + total
        if len(beside) > VALUES or (number == 0 and _share(beside) < 0.3):
            return False
    return len(beside) > 1 and _share(beside) > 0.5


def _share(beside: Mapping[int, Sequence[int]]) -> float:
    """Median over the values but 0 of the share of equal neighbours; 1 if all voxels are 0."""
    shares = [same / total for value, (same, total) in beside.items() if value != 0]
    return float(np.median(shares)) if shares else 1.0


@dataclass(frozen=True)
class Part:
    """A mask, label map or file of landmarks, by the name that is compared with those of the scans.

    Args:
        by_values: whether only the values say so; it then belongs to a scan on the same grid.
    """

    name: str
    path: Path
    part: str
    by_values: bool = False


def sort_parts(
    files: Mapping[str, Path], labels: str | None = None
) -> tuple[dict[str, Path], list[Part]]:
    """Sort files into scans and parts of scans.

    A file whose name does not end in a word of :data:`ROLES` is a part if it has the values of a
    label map and other files have not.

    Args:
        files: path by name: the path below the data set's folder, without the ending. Folders are
            DICOM series.
        labels: see :class:`~lightning_reg.data.datasets.own.FolderDataset`.

    Raises:
        DataError: names a file whose name and values say different things, or the pattern, if it
            names no file.
    """
    parts = [
        Part(name, path, part)
        for name, path in files.items()
        if path.is_file() and (part := named_part(path))
    ]
    scans = {
        name: path for name, path in files.items() if path not in {part.path for part in parts}
    }
    alike = {
        name
        for name, path in scans.items()
        if labels != "" and path.is_file() and is_label_map(path)
    }
    says = {
        name: [ROLES[w] for w in reversed(words(name)) if ROLES.get(w) in ("mask", "labels")]
        for name in scans
    }
    if len(alike) == len(scans):  # images of few values, or nothing but label maps
        alike = {name for name in alike if says[name]}
    parts += [
        Part(name, scans[name], (says[name] or ["labels"])[0], by_values=True)
        for name in scans
        if name in alike
    ]
    if labels:
        chosen = {
            name
            for name, path in files.items()
            if fnmatch(path.name, labels) or fnmatch(name, labels)
        }
        if not chosen:
            raise DataError(
                f"No file fits labels={labels}; give the pattern of the label maps' names, as"
                " '*_seg*'."
            )
        parts = [part for part in parts if part.part != "labels" and part.name not in chosen]
        parts += [Part(name, files[name], "labels") for name in files if name in chosen]
        alike |= chosen
    scans = {name: path for name, path in scans.items() if name not in alike}
    unsure = [
        path for name, path in scans.items() if labels is None and {*words(stem(path))} & {*ROLES}
    ]
    if unsure:
        text = (
            f"{unsure[0]} is called a mask or a label map and has not its values; rename it, or"
            " name the label maps by"
        )
        raise DataError(
            f"{text} the data set's labels='*_seg*' ('': the names' last words alone count)."
        )
    return scans, parts


def assign_parts(scans: Mapping[str, Path], parts: Sequence[Part]) -> dict[str, dict[str, Path]]:
    """Find the scan of every part: that of the same words, or else the one scan with the most words
    in common.

    Raises:
        DataError: lists the parts that belong to no scan, or to any of several, and the scans with
            two parts of one kind.
    """
    keys = {name: _key(name) for name in scans}
    found: dict[str, dict[str, Path]] = {}
    problems = []
    for part in parts:
        owners = _owners(_key(part.name), keys)
        if part.by_values and len(owners) == 1 and not _on_one_grid(part.path, scans[owners[0]]):
            owners = []
        what = (
            "has the values of a label map and" if part.by_values else f"is called {part.part} and"
        )
        if len(owners) == 1:
            other = found.setdefault(owners[0], {}).setdefault(part.part, part.path)
            if other != part.path:
                problems.append(
                    f"{other} and {part.path} are both {part.part} of {scans[owners[0]]}; keep one"
                    " of them"
                )
        elif owners:
            problems.append(
                f"{part.path} {what} may belong to any of {len(owners)} images beside it; call it"
                f" IMAGE_{part.part}"
            )
        else:
            problems.append(
                f"{part.path} {what} belongs to no image; call it IMAGE_{part.part}, or remove it"
            )
    if problems:
        rest = "" if len(problems) == 1 else f" ({len(problems)} such files)"
        remedy = (
            "Or name the label maps that count by the data set's labels='*_seg*', or all files in"
            f" a table of pairs.{rest}"
        )
        raise DataError(f"{together([f'{problem}.' for problem in problems])}\n{remedy}")
    return found


def _key(name: str) -> tuple[str, ...]:
    """Return the words of a name that say whose it is."""
    folder, _, last = name.rpartition("/")
    return (
        *(w for w in words(folder) if w not in ROLES and w not in KINDS),
        *(w for w in words(last) if w not in ROLES),
    )


def _owners(key: tuple[str, ...], scans: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Scans that share the most words with a part; none of those that differ by digits alone."""
    equal = [name for name, other in scans.items() if other == key]
    if equal:
        return equal
    mine = Counter(key)
    theirs = {name: Counter(other) for name, other in scans.items()}
    common = {
        name: (mine & other).total()
        for name, other in theirs.items()
        if not {_form(word) for word in mine - other}
        & {_form(word) for word in other - mine} - {""}
    }
    most = max(common.values(), default=0)
    return [name for name, count in common.items() if count == most and (most or len(scans) == 1)]


def _form(word: str) -> str:
    """Return a word with its numbers as ``#``; empty if it has none."""
    return re.sub(r"\d+", "#", word) if re.search(r"\d", word) else ""


def _on_one_grid(one: Path, other: Path) -> bool:
    """Return whether two images have one shape and, to a hundredth of a voxel, one affine."""
    try:
        (shape, affine), (other_shape, other_affine) = (_grid(path) for path in (one, other))
    except (DataError, OSError, ValueError):
        return False
    voxel = np.linalg.norm(affine[:3, :3], axis=0).min()
    return shape == other_shape and bool(np.abs(affine - other_affine).max() <= 0.05 * voxel)


def _grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    if path.is_file() and path.name.endswith((".nii", ".nii.gz")):
        image = nib.load(path)
        return tuple(image.shape[:3]), np.asarray(image.affine)
    read = read_image(path)
    return tuple(read.spatial_shape), read.affine
