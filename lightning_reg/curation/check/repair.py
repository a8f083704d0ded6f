"""Automatic repairs of a data set, written into a new folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torchio as tio

from lightning_reg.curation.check.scan import as_convention as read_as
from lightning_reg.curation.check.scan import fitting_conventions, load_leniently, raw_landmarks
from lightning_reg.curation.prepare import Preparation, Prepared, prepare
from lightning_reg.data.datasets.interface import Record, RegistrationDataset
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.scans import grid_of
from lightning_reg.io.images import SKEWED
from lightning_reg.io.nifti import is_nifti, nifti_header, placement, skew, to_mm


class RepairedDataset(RegistrationDataset):
    """Scans of another data set, with automatic repairs.

    - NaN and infinite values are replaced by the smallest finite value.
    - If qform and sform disagree, and the sform has another voxel size than the header, the qform
      is used.
    - Axes that are not perpendicular are resampled to perpendicular ones.
    - Masks and labels on another grid are resampled to the grid of their image, by nearest
      neighbour; their values are rounded, and empty ones are left out.
    - Landmarks outside their image are read under another convention, if exactly one fits.
    """

    def __init__(self, dataset: RegistrationDataset) -> None:
        self.dataset = dataset

    def records(self) -> Sequence[Record]:
        return self.dataset.records()

    def load(self, record: Record) -> tio.Subject:
        subject, _ = load_leniently(self.dataset, record)
        _headers(subject, record)
        image = subject["image"]
        image.set_data(_finite(image.data))
        for part in ("mask", "labels"):
            if part in subject:
                _labels(subject, part)
        if skew(image.affine) > SKEWED:
            subject = tio.Resample((image.spatial_shape, _perpendicular(image.affine)))(subject)
        if "landmarks" in subject:
            _landmarks(subject, record)
        return subject

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return self.dataset.pairs()


def repair(
    data: Splits, out: Path, workers: int = 1, seen: Callable[[int, int], None] | None = None
) -> Prepared:
    """Write the data set, repaired by :class:`RepairedDataset`, in the form of
    ``lightning-reg prepare``.

    Args:
        out: new folder for the repaired data; only safe repairs are made.
    """
    return prepare(data.using(RepairedDataset(data.dataset)), out, Preparation(), workers, seen)


def _headers(subject: tio.Subject, record: Record) -> None:
    """Use the qform's affine if the sform disagrees and has another voxel size."""
    for part, path in (("image", record.image), ("mask", record.mask), ("labels", record.labels)):
        header = (
            nifti_header(path) if part in subject and path is not None and is_nifti(path) else None
        )
        if header is None:
            continue
        place = placement(header)
        # not changed by the data set
        if place.sizes and np.allclose(subject[part].affine, place.affine, atol=1e-4):
            subject[part].affine = to_mm(header) @ header.get_qform()


def _finite(data: torch.Tensor) -> torch.Tensor:
    good = torch.isfinite(data.float())
    return (
        data
        if bool(good.all()) or not bool(good.any())
        else torch.where(good, data, data[good].min())
    )


def _labels(subject: tio.Subject, part: str) -> None:
    labels, image = subject[part], subject["image"]
    if (
        not np.allclose(labels.affine, image.affine, atol=1e-4)
        or labels.spatial_shape != image.spatial_shape
    ):
        labels = tio.Resample((image.spatial_shape, image.affine))(labels)
    labels.set_data(_finite(labels.data).round())
    if bool((labels.data != 0).any()):
        subject.add_image(labels, part)
    else:
        subject.remove_image(part)


def _perpendicular(affine: np.ndarray) -> np.ndarray:
    """The nearest perpendicular axes of the same lengths, about the first voxel."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / lengths)
    near = affine.copy()
    near[:3, :3] = (u @ v) * lengths
    return near


def _landmarks(subject: tio.Subject, record: Record) -> None:
    grid = grid_of(subject["image"])
    mask = subject["mask"].data[0] > 0 if "mask" in subject else None
    values = raw_landmarks(record, subject["landmarks"]).double()
    if "RAS mm" in fitting_conventions(subject["landmarks"], grid, mask):
        return
    fits = fitting_conventions(values, grid, mask)
    if len(fits) == 1:
        subject["landmarks"] = read_as(values, fits[0], grid)
