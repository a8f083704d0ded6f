"""Crops of the hippocampus in T1 MR with anterior and posterior labels: Medical Segmentation Decathlon, Task04."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torchio as tio

from lightning_reg.data.interface import RegistrationDataset, Split
from lightning_reg.data.scans import read_subject
from lightning_reg.discovery import DataError


class HippocampusDataset(RegistrationDataset):
    """Inter-subject pairs of hippocampus crops, each case of its own size.

    Args:
        root: folder with ``images/`` and ``labels/`` (or the Decathlon's ``imagesTr/``, ``labelsTr/``), equal file names.
        validation: the last this many subjects, in order of file name, are held out; subject *k* of them is the fixed image
            of the pair with subject *k + 1*.
        limit: use at most this many training subjects.
    """

    def __init__(self, root: str, validation: int = 40, limit: int | None = None) -> None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}; set data.root to the folder that holds images/ and labels/.")
        images = next((folder / n for n in ("images", "imagesTr") if (folder / n).is_dir()), None)
        files = sorted(p for p in images.iterdir() if p.name.endswith((".nii", ".nii.gz")) and not p.name.startswith(".")) if images else []
        if not images or not files:
            raise DataError(f"{folder} has no images (expected {folder}/images/*.nii.gz); set data.root to the data set's own folder.")
        if not 2 <= validation <= len(files) - 2:
            raise DataError(
                f"data.dataset.validation is {validation} of {len(files)} subjects in {folder}; leave 2 or more on either side."
            )
        self.labels = folder / images.name.replace("images", "labels")
        self.files: dict[Split, list[Path]] = {"train": files[:-validation][:limit], "validation": files[-validation:]}

    def subjects(self, split: Split) -> Sequence[tio.Subject]:
        return [read_subject(p.name.split(".")[0], p, labels=self.labels / p.name) for p in self.files[split]]

    def pairs(self, split: Split) -> Sequence[tuple[int, int]]:
        count = len(self.files[split])
        return [(k, (k + 1) % count) for k in range(count)]
