"""Folders with a ``dataset.json``: nnU-Net, Medical Segmentation Decathlon, Learn2Reg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_reg.data.datasets.interface import Record, Split, usual_pairs
from lightning_reg.data.datasets.layouts import Layout, natural, unique
from lightning_reg.data.datasets.roles import stem
from lightning_reg.io.folders import inside
from lightning_reg.io.points import read_plain
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError


def descriptions(root: Path) -> list[Path]:
    """Find ``dataset.json`` and ``TASK_dataset.json``, without hidden files."""
    return sorted(path for path in root.glob("*dataset.json") if not path.name.startswith("."))


def from_dataset_json(path: Path) -> Layout:
    """Read the scans of a ``dataset.json``: Medical Segmentation Decathlon, nnU-Net (v1, v2, the
    first channel), Learn2Reg.

    Scans of Learn2Reg are named ``TASK_SUBJECT_TIME``; its ``registration_val`` pairs form the
    split ``validation``.

    Raises:
        DataError: the file is invalid, or files that it lists are missing.
    """
    described = read_json(path, "download it again")
    if not isinstance(described, dict):
        raise DataError(
            f"{path} is no description of a data set; set `root` to the data set's own folder."
        )
    folder = path.parent
    try:
        if "training_paired_images" in described or "registration_val" in described:
            layout = _learn2reg(folder, described)
        elif "channel_names" in described:
            layout = _nnunet(folder, described)
        else:
            entries = [
                e if isinstance(e, Mapping) else {"image": e} for e in described.get("training", [])
            ]
            layout = Layout([_entry(folder, e) for e in entries if "image" in e])
    except (TypeError, KeyError, AttributeError) as cause:
        text = (
            f"{path} is not of the form of nnU-Net, the Decathlon or Learn2Reg"
            f" ({type(cause).__name__}: {cause})"
        )
        raise DataError(
            f"{text}; download it again, or remove it: the folder is then read without it."
        ) from cause
    if not layout.records:
        raise DataError(
            f"{path} lists no training images; set `root` to the data set's own folder."
        )
    unique(layout.records)
    missing = [str(p) for record in layout.records for p in record.files() if not p.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{path} lists {missing[0]}{more}, which is not there; unpack the data set completely."
        )
    return layout


def _entry(
    folder: Path,
    entry: Mapping[str, str],
    subject: str | None = None,
    time: str = "",
    split: Split = "train",
) -> Record:
    image = inside(folder, entry["image"], links=True)
    if (
        not image.exists()
        and image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")).exists()
    ):
        # nnU-Net v1 lists names without the channel
        image = image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz"))
    labels = inside(folder, entry["label"], links=True) if "label" in entry else None
    return Record(subject or stem(image).removesuffix("_0000"), time, split, image, labels=labels)


def _nnunet(folder: Path, described: Mapping[str, Any]) -> Layout:
    ending = described.get("file_ending", ".nii.gz")
    inside(folder, ending)
    if isinstance(described.get("dataset"), Mapping):
        entries = described["dataset"].items()
        return Layout([_entry(folder, e | {"image": e["images"][0]}, name) for name, e in entries])
    records = []
    for image in sorted((folder / "imagesTr").glob(f"*_0000{ending}"), key=natural):
        name = image.name[: -len(f"_0000{ending}")]
        labels = folder / "labelsTr" / f"{name}{ending}"
        records.append(Record(name, image=image, labels=labels if labels.exists() else None))
    return Layout(records)


def _learn2reg(folder: Path, described: Mapping[str, Any]) -> Layout:
    """List the scans in the order of the pairs, the fixed scan of each pair first."""
    validation, training = (
        [
            (Path(pair["fixed"]).as_posix(), Path(pair["moving"]).as_posix())
            for pair in described.get(key, [])
        ]
        for key in ("registration_val", "training_paired_images")
    )
    training = [pair for pair in training if pair not in validation]
    held_out = {_scan_name(image)[0] for pair in validation for image in pair}
    singles = [
        Path(e["image"] if isinstance(e, Mapping) else e).as_posix()
        for e in described.get("training", [])
    ]
    images = dict.fromkeys([image for pair in training + validation for image in pair] + singles)
    records: dict[str, Record] = {}
    for image in images:
        path = inside(folder, image, links=True)
        subject, time = _scan_name(image)
        split: Split = "validation" if subject in held_out else "train"
        beside = {
            part: _beside(path, name)
            for name, part in (("labels", "labels"), ("masks", "mask"), ("landmarks", "landmarks"))
        }
        beside["landmarks"] = beside["landmarks"] or _beside(path, "keypoints")
        records[image] = Record(subject, time, split, path).holding(beside)
    # pairs of subjects: the number in the name is that of the modality, not of the time point
    if len({record.subject for record in records.values()}) == len(records):
        records = {image: replace(record, time="") for image, record in records.items()}
    pairs = [(records[fixed], records[moving]) for fixed, moving in training + validation]
    ordered = list(records.values())
    if not training:
        pairs += usual_pairs([record for record in ordered if record.split == "train"])
    # keypoints are voxel indices of nibabel's array, counted from 0, without a header line
    return Layout(ordered, pairs, partial(read_plain, space="voxel"))


def _scan_name(image: str) -> tuple[str, str]:
    subject, _, time = stem(Path(image)).rpartition("_")
    return (subject, time) if subject and time.isdigit() else (stem(Path(image)), "")


def _beside(image: Path, kind: str) -> Path | None:
    """Find the file of the same name (for points, ``.csv``) in the folder of another kind."""
    folder = image.parent.with_name(image.parent.name.replace("images", kind))
    candidates = (folder / image.name, folder / f"{stem(image)}.csv")
    return next((p for p in candidates if p.is_file()), None)
