"""ACDC: cardiac cine MR at end-diastole and end-systole, with the right ventricle (1), the
myocardium (2) and the left ventricle (3).
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torchio as tio

from lightning_reg.data.datasets.adapters.search import require_folder
from lightning_reg.data.datasets.interface import Record, Split
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import ListedDataset, with_landmarks
from lightning_reg.data.scans import read_subject
from lightning_reg.io.images import read_image
from lightning_reg.registry import DataError


class AcdcDataset(ListedDataset):
    """The ACDC data set.

    Source: O. Bernard et al., IEEE TMI 37, 2018. Every fifth training patient is used for
    validation, so that all five groups (20 consecutive patients each) are represented; the
    challenge's test patients form the split ``test``.

    Args:
        root: the folder ``database``, or a folder above it: ``training/patient001/Info.cfg``,
            ``patient001_frame01.nii.gz``, ``patient001_frame01_gt.nii.gz`` and so on.
    """

    def __init__(self, root: str | Path) -> None:
        folder = require_folder(root)
        found: list[Record] = []
        for info in (path for path in walk(folder) if path.name == "Info.cfg"):
            found += _frames(info, "testing" in info.relative_to(folder).parts)
        if not found:
            raise DataError(
                f"{folder} has no patient with an Info.cfg (expected training/patient001/Info.cfg);"
                " unpack the data set there."
            )
        super().__init__(found, _load)


def _load(record: Record) -> tio.Subject:
    assert record.image is not None
    labels = None if record.labels is None else _measured(record.labels)
    return with_landmarks(
        read_subject(record.name, _measured(record.image), labels=labels), record, None
    )


def _frames(info: Path, test: bool) -> list[Record]:
    patient = info.parent.name
    lines = [
        line.partition(":")
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    values = {key.strip(): value.strip() for key, _, value in lines}
    number = int("".join(filter(str.isdigit, patient)) or 0)
    split: Split = "test" if test else "validation" if number % 5 == 0 else "train"
    records = []
    for time in ("ED", "ES"):
        if not values.get(time, "").isdigit():
            raise DataError(
                f"{info} does not say which frame is {time} (a line '{time}: 1'); download it"
                " again."
            )
        image = info.with_name(f"{patient}_frame{int(values[time]):02d}.nii.gz")
        labels = image.with_name(image.name.replace(".nii.gz", "_gt.nii.gz"))
        records.append(
            Record(patient, time, split, image, labels=labels if labels.is_file() else None)
        )
    return records


def _measured(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read voxels and the affine of the header's qform; the sform of these files lacks the voxel
    size.
    """
    image = read_image(path)
    return image.data[0].numpy(), nib.load(path).header.get_qform()
