"""Cine MR of the heart: ACDC, and the Sunnybrook Cardiac Data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from matplotlib.path import Path as Polygon

from lightning_reg.data.datasets.adapters.search import hold_out, require_folder
from lightning_reg.data.datasets.interface import Record, Split, usual_pairs
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import ListedDataset, with_landmarks
from lightning_reg.data.scans import check_subject, read_subject
from lightning_reg.io.dicom import read_slices
from lightning_reg.io.images import read_image
from lightning_reg.io.tables import read_table
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
    """Read voxels and the header's qform; the sform of these files lacks the voxel size."""
    image = read_image(path)
    return image.data[0].numpy(), nib.load(path).header.get_qform()


PHASES = 20
HELD_OUT = frozenset(
    ["HF-I-5", "HF-I-6", "HF-I-7", "HF-I-8", "HF-NI-7", "HF-NI-11", "HF-NI-31", "HF-NI-33"]
    + ["HYP-6", "HYP-7", "HYP-8", "HYP-37", "N-5", "N-6", "N-7"]
)
"""The challenge's validation set."""
SERIES = {
    "HF-I-1": 4, "HF-I-2": 106, "HF-I-4": 116, "HF-I-5": 156, "HF-I-6": 180, "HF-I-7": 209,
    "HF-I-8": 226, "HF-I-9": 241, "HF-I-10": 24,
    "HF-I-11": 43, "HF-I-12": 62, "HF-I-40": 134, "HF-NI-3": 379, "HF-NI-4": 501, "HF-NI-7": 523,
    "HF-NI-11": 270, "HF-NI-12": 286,
    "HF-NI-13": 304, "HF-NI-14": 331, "HF-NI-15": 359, "HF-NI-31": 401, "HF-NI-33": 424,
    "HF-NI-34": 446, "HF-NI-36": 474, "HYP-1": 550,
    "HYP-3": 650, "HYP-6": 767, "HYP-7": 7, "HYP-8": 796, "HYP-9": 3, "HYP-10": 579, "HYP-11": 601,
    "HYP-12": 629, "HYP-37": 702,
    "HYP-38": 734, "HYP-40": 755, "N-2": 898, "N-3": 915, "N-5": 963, "N-6": 984, "N-7": 1009,
    "N-9": 1031, "N-10": 851, "N-11": 878,
    "N-40": 944,
}  # fmt: skip
"""Numbers of the contoured short-axis cine series in the flat folders of the 2009 challenge."""


class SunnybrookDataset(ListedDataset):
    """The Sunnybrook Cardiac Data.

    Source: P. Radau et al., MIDAS Journal, 2009. The challenge's validation set (15 patients) is
    used for validation and the other 30 patients for training, as in one of the three folds of de
    Vos et al. (2019). Labels are the inner contours (label 1, the cavity). Image *n* of a series
    shows slice ``(n - 1) // 20`` in phase ``(n - 1) % 20``. Of the two phases with contours, the
    one with the larger cavity is ED.

    Args:
        root: folder with ``SCD_ManualContours/`` and with ``SCD_IMAGES_*/SCD*/CINESAX_*/`` and
            ``scd_patientdata.csv``, or with the challenge's ``*/SC-HF-I-1/``.
        all_phases: read all twenty phases instead of ED and ES.
    """

    def __init__(self, root: str | Path, all_phases: bool = False) -> None:
        folder = require_folder(root)
        files = walk(folder)
        self.contours = _contours(files)
        self.images = _images(folder, files)
        known = [case for case in self.contours if case in self.images]
        if not known:
            raise DataError(
                f"{folder} has no patient with images and contours ({len(self.images)} with images,"
                f" {len(self.contours)} with contours); put SCD_ManualContours, the image folders"
                " and scd_patientdata.csv there."
            )
        found = []
        for case in known:
            ends = _ends(self.contours[case])
            others = (
                [(f"phase{p:02d}", p) for p in range(PHASES) if p not in ends.values()]
                if all_phases
                else []
            )
            where = (
                next(iter(self.images[case].values())).parent,
                next(iter(self.contours[case].values())).parent,
            )
            found += [
                Record(case, t, image=where[0], labels=where[1] if t in ends else None, number=p)
                for t, p in [*ends.items(), *others]
            ]
        records = hold_out(found, lambda number, subject: subject in HELD_OUT)
        if not any(record.split == "validation" for record in records):
            records = hold_out(
                found, lambda number, subject: number == len(known) - 1 and number > 0
            )
        both = [pair for pair in usual_pairs(records) if {r.time for r in pair} == {"ED", "ES"}]
        pairs = [pair for fixed, moving in both for pair in ((fixed, moving), (moving, fixed))]
        super().__init__(records, self._read, pairs)  # both directions, as de Vos et al. (2019)

    def _read(self, record: Record) -> tio.Subject:
        assert record.number is not None
        images = self.images[record.subject]
        numbers = range(record.number + 1, max(images) + 1, PHASES)
        missing = [n for n in numbers if n not in images]
        if missing:
            raise DataError(
                f"{record.image} lacks the image with the number {missing[0]:04d} of {record.name};"
                " download it again."
            )
        image, order = read_slices([images[n] for n in numbers], record.name)
        parts = {"image": image}
        if record.labels is not None:
            slices = [self.contours[record.subject].get(numbers[k]) for k in order]
            parts["labels"] = tio.LabelMap(
                tensor=_filled(slices, image.spatial_shape), affine=image.affine
            )
        subject = tio.Subject(name=record.name, **parts)
        check_subject(subject)
        return with_landmarks(subject, record, None)


def _case(name: str) -> str | None:
    """Convert ``SC-HF-I-01`` to ``HF-I-1``; ``None`` for other names."""
    match = re.fullmatch(r"SC-((?:HF-N?I|HYP|N)-)0*(\d+)", name, re.IGNORECASE)
    return f"{match[1].upper()}{match[2]}" if match else None


def _contours(files: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Find the inner contours of every patient, by image number."""
    found: dict[str, dict[int, Path]] = {}
    for path in files:
        match = re.fullmatch(r"IM-\d+-(\d+)-icontour-manual\.txt", path.name)
        case = next((c for c in map(_case, reversed(path.parts)) if c), None)
        if match and case:
            found.setdefault(case, {}).setdefault(int(match[1]), path)
    return found


def _images(root: Path, files: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Find the images of the contoured series of every patient, by image number."""
    names: dict[str, str | None] = {}
    for table in (path for path in files if path.name.lower() == "scd_patientdata.csv"):
        names |= {
            cells["PatientID"]: _case(cells["OriginalID"])
            for _, cells in read_table(table, ("PatientID", "OriginalID"))
        }
    series: dict[tuple[str, Path, int], dict[int, Path]] = {}
    for path in files:
        match = re.fullmatch(r"IM-(\d+)-(\d+)\.dcm", path.name)
        parts = path.relative_to(root).parts[:-1]
        case = next((c for p in reversed(parts) if (c := _case(p) or names.get(p))), None)
        if match and case:
            series.setdefault((case, path.parent, int(match[1])), {})[int(match[2])] = path
    chosen: dict[str, dict[int, Path]] = {}
    for (case, _, _), images in sorted(
        series.items(), key=lambda item: (item[0][2] != SERIES.get(item[0][0]), -len(item[1]))
    ):
        chosen.setdefault(case, images)  # the challenge's series if present, else the longest one
    return chosen


def _ends(contours: dict[int, Path]) -> dict[str, int]:
    """Return the phase of ED and, if a second phase has contours, of ES."""
    phases: dict[int, list[Path]] = {}
    for number, path in contours.items():
        phases.setdefault((number - 1) % PHASES, []).append(path)
    most = sorted(phases, key=lambda phase: -len(phases[phase]))[:2]
    by_size = sorted(most, key=lambda phase: -sum(_area(_polygon(path)) for path in phases[phase]))
    return dict(zip(("ED", "ES"), by_size, strict=False))


def _polygon(path: Path) -> np.ndarray:
    """Read the vertices ``(N, 2)``: column and row of the image, in pixels."""
    try:
        points = np.loadtxt(path, ndmin=2)
    except ValueError as cause:
        raise DataError(f"{path} is no contour ({cause}); download it again.") from cause
    if points.shape[0] < 3 or points.shape[1] != 2:
        raise DataError(
            f"{path} is no contour: {points.shape[0]} lines of {points.shape[1]} numbers; download"
            " it again."
        )
    return points


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _filled(contours: Sequence[Path | None], shape: tuple[int, int, int]) -> torch.Tensor:
    """Fill contours, ``(1, I, J, K)``: 1 if a pixel's centre is inside the contour of its slice."""
    pixels = np.stack(
        np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    labels = np.zeros(shape, np.uint8)
    for k, path in enumerate(contours):
        if path is not None:
            labels[..., k] = Polygon(_polygon(path)).contains_points(pixels).reshape(shape[:2])
    return torch.from_numpy(labels).unsqueeze(0)
