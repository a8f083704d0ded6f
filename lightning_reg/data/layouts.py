"""Folders of scans as people keep them: ``dataset.json``, BIDS, one folder per kind, one folder per subject, or just files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_reg.data.interface import Record, Split, usual_pairs
from lightning_reg.data.point_files import PointFile, read_plain, read_points
from lightning_reg.discovery import DataError

IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
POINTS = (".csv", ".fcsv", ".mrk.json", ".txt")
STATE = ".prepared"
"""The folder of a prepared data set with a file per scan that is done, which says from what."""
PARTS = {
    "mask": "mask",
    "masks": "mask",
    "seg": "labels",
    "dseg": "labels",
    "label": "labels",
    "labels": "labels",
    "landmarks": "landmarks",
}
"""What the last word of a file's name, or a folder, says it is; everything else is an image."""

ENDINGS = {"mask": IMAGES, "labels": IMAGES, "landmarks": POINTS}
Pairs = list[tuple[Record, Record]]


@dataclass(frozen=True)
class Layout:
    """What was found: the scans, the pairs that the layout names (``None``: it names none), and how its landmarks are read."""

    records: list[Record]
    pairs: Pairs | None = None
    points: Callable[[Path], PointFile] = read_points


def stem(path: Path) -> str:
    """A file's name without its ending, ``.nii.gz`` and ``.mrk.json`` counting as one."""
    ending = next((e for e in sorted((*IMAGES, *POINTS), key=len, reverse=True) if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def is_image(path: Path) -> bool:
    """Whether the name is an image's; hidden files, as ``._x.nii.gz`` of macOS, are none."""
    return path.name.lower().endswith(IMAGES) and not path.name.startswith((".", "_"))


def natural(path: Path) -> list[Any]:
    """A sorting key by which ``case2`` comes before ``case10``."""
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in re.split(r"(\d+)", path.name)]


def walk(root: Path) -> list[Path]:
    """All files below a folder, links followed (none of them twice), in natural order; without hidden ones, and without what
    ``lightning-reg prepare`` wrote."""
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


def find_layout(root: Path, pattern: str | None = None) -> Layout:
    """The scans in a folder.

    Args:
        root: has a ``dataset.json`` (nnU-Net, Medical Segmentation Decathlon, Learn2Reg), or is BIDS (``sub-*``), or has ``images/`` (and
            ``masks/``, ``labels/``, ``landmarks/`` with files of the same names), or a folder per subject, or the images themselves.
        pattern: for the last three, a regular expression over the image's path below its folder, with the groups ``subject`` and ``time``.

    Raises:
        DataError: there are none.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; correct data.root.")
    if pattern is None:
        for described in descriptions(root):
            return from_dataset_json(described)
        if any(path.is_dir() for path in root.glob("sub-*")):
            return from_bids(root)
    kinds = next((n for n in ("images", "imagesTr") if (root / n).is_dir()), None)
    return from_tree(root, pattern) if kinds is None else from_kinds(root, kinds, pattern)


def descriptions(root: Path) -> list[Path]:
    """``dataset.json``, ``TASK_dataset.json``; without hidden files."""
    return sorted(path for path in root.glob("*dataset.json") if not path.name.startswith("."))


def from_kinds(root: Path, images: str = "images", pattern: str | None = None) -> Layout:
    """A folder per kind, a scan's files with the same name in each; an image is a subject, unless a ``pattern`` says otherwise."""
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
    return Layout(_unique(found))


class _Names:
    """Subject and time of an image: by a pattern, or as its place says."""

    def __init__(self, root: Path, pattern: str | None) -> None:
        self.root, self.pattern, self.unmatched = root, pattern, ""
        try:
            self.expression = re.compile(pattern) if pattern else None
        except re.error as cause:
            raise DataError(f"data.dataset.pattern is no regular expression ({cause}): {pattern}") from cause

    def __call__(self, path: str, subject: str, time: str) -> tuple[str, str]:
        """Empty, where the pattern does not match the path."""
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
    """Images anywhere below ``root``: with a folder per subject its files are the time points, else every image is a subject.

    A file whose name ends in ``_mask``, ``_labels`` (``_seg``, ``_dseg``) or ``_landmarks`` belongs to the image whose name it begins with;
    one that is called just so, to the only image of its folder.
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
    return Layout(_unique(records))


def _unique(records: Sequence[Record]) -> list[Record]:
    """Refuses two scans of one name."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.name in seen:
            raise DataError(
                f"{seen[record.name].image} and {record.image} are both the scan '{record.name}'; tell them apart by data.dataset.pattern."
            )
        seen[record.name] = record
    return list(records)


def from_bids(root: Path, suffix: str = "T1w") -> Layout:
    """Anatomical images of BIDS with masks and segmentations of its derivatives; sessions are the time points.

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
    return Layout(_unique(records))


def _entities(path: Path) -> dict[str, str]:
    """``{sub: 01, ses: 02}`` of ``sub-01_ses-02_T1w.nii.gz``."""
    return dict(word.split("-", 1) for word in stem(path).split("_") if "-" in word)


def _identity(entities: Mapping[str, str]) -> tuple[str | None, ...]:
    """What an image and what was derived from it have in common; a derivative in another space belongs to no image here."""
    return tuple(entities.get(key) for key in ("sub", "ses", "task", "acq", "ce", "rec", "run", "space"))


def from_dataset_json(path: Path) -> Layout:
    """The scans that a ``dataset.json`` describes: Medical Segmentation Decathlon, nnU-Net (v1, v2, the first channel), Learn2Reg.

    Scans of Learn2Reg are ``TASK_SUBJECT_TIME``; its ``registration_val`` pairs are those of the split ``validation``.

    Raises:
        DataError: all files that it names and that are not there.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise DataError(f"{path} cannot be read ({cause}); download it again.") from cause
    if not isinstance(described, dict):
        raise DataError(f"{path} is no description of a data set; set data.root to the data set's own folder.")
    folder = path.parent
    try:
        if "training_paired_images" in described or "registration_val" in described:
            layout = _learn2reg(folder, described)
        elif "channel_names" in described:
            layout = _nnunet(folder, described)
        else:
            entries = [e if isinstance(e, Mapping) else {"image": e} for e in described.get("training", [])]
            layout = Layout([_entry(folder, e) for e in entries if "image" in e])
    except (TypeError, KeyError, AttributeError) as cause:
        text = f"{path} is not of the form of nnU-Net, the Decathlon or Learn2Reg ({type(cause).__name__}: {cause})"
        raise DataError(f"{text}; download it again, or take it away to have the folder read as it is.") from cause
    if not layout.records:
        raise DataError(f"{path} lists no training images; set data.root to the data set's own folder.")
    _unique(layout.records)
    missing = [str(p) for record in layout.records for p in record.files() if not p.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{path} lists {missing[0]}{more}, which is not there; unpack the data set completely.")
    return layout


def _entry(folder: Path, entry: Mapping[str, str], subject: str | None = None, time: str = "", split: Split = "train") -> Record:
    image = folder / entry["image"]
    if not image.exists() and image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")).exists():
        image = image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz"))  # nnU-Net v1 leaves the channel out
    labels = folder / entry["label"] if "label" in entry else None
    return Record(subject or stem(image).removesuffix("_0000"), time, split, image, labels=labels)


def _nnunet(folder: Path, described: Mapping[str, Any]) -> Layout:
    ending = described.get("file_ending", ".nii.gz")
    if isinstance(described.get("dataset"), Mapping):
        entries = described["dataset"].items()
        return Layout(
            [Record(name, image=folder / e["images"][0], labels=folder / e["label"] if "label" in e else None) for name, e in entries]
        )
    records = []
    for image in sorted((folder / "imagesTr").glob(f"*_0000{ending}"), key=natural):
        name = image.name[: -len(f"_0000{ending}")]
        labels = folder / "labelsTr" / f"{name}{ending}"
        records.append(Record(name, image=image, labels=labels if labels.exists() else None))
    return Layout(records)


def _learn2reg(folder: Path, described: Mapping[str, Any]) -> Layout:
    """Scans in the order of the pairs, the fixed one of each first."""
    validation, training = (
        [(Path(pair["fixed"]).as_posix(), Path(pair["moving"]).as_posix()) for pair in described.get(key, [])]
        for key in ("registration_val", "training_paired_images")
    )
    training = [pair for pair in training if pair not in validation]
    held_out = {_scan_name(image)[0] for pair in validation for image in pair}
    singles = [Path(e["image"] if isinstance(e, Mapping) else e).as_posix() for e in described.get("training", [])]
    images = dict.fromkeys([image for pair in training + validation for image in pair] + singles)
    records: dict[str, Record] = {}
    for image in images:
        path = folder / image
        subject, time = _scan_name(image)
        split: Split = "validation" if subject in held_out else "train"
        beside = {part: _beside(path, name) for name, part in (("labels", "labels"), ("masks", "mask"), ("landmarks", "landmarks"))}
        beside["landmarks"] = beside["landmarks"] or _beside(path, "keypoints")
        records[image] = Record(subject, time, split, path).holding(beside)
    single = [subject for subject, times in _times(records.values()).items() if len(times) == 1]
    if len(single) == len(records):  # pairs of subjects: the time in the name is the modality's number
        records = {image: replace(record, time="") for image, record in records.items()}
    pairs = [(records[fixed], records[moving]) for fixed, moving in training + validation]
    ordered = list(records.values())
    if not training:
        pairs += usual_pairs([record for record in ordered if record.split == "train"])
    return Layout(ordered, pairs, _keypoints)


def _keypoints(path: Path) -> PointFile:
    """Of Learn2Reg: voxels of the array as nibabel gives it, counted from 0, without a header."""
    return read_plain(path, "voxel")


def _times(records: Iterable[Record]) -> dict[str, list[str]]:
    times: dict[str, list[str]] = {}
    for record in records:
        times.setdefault(record.subject, []).append(record.time)
    return times


def _scan_name(image: str) -> tuple[str, str]:
    subject, _, time = stem(Path(image)).rpartition("_")
    return (subject, time) if subject and time.isdigit() else (stem(Path(image)), "")


def _beside(image: Path, kind: str) -> Path | None:
    """The file of the same name in the folder of another kind; its ending is ``.csv`` for points, whatever the description says."""
    folder = image.parent.with_name(image.parent.name.replace("images", kind))
    candidates = (folder / image.name, folder / f"{stem(image)}.csv")
    return next((p for p in candidates if p.is_file()), None)
