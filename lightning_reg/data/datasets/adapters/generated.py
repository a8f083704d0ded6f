"""Data sets without images: generated shapes, and folders of label maps."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torchio as tio

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.interface import Record, Split
from lightning_reg.data.datasets.layouts import is_image, walk
from lightning_reg.data.datasets.loading import ListedDataset
from lightning_reg.data.generated import GeneratedPairs
from lightning_reg.data.scans import Scan, subject_from_scan
from lightning_reg.io.images import read_image
from lightning_reg.registry import DataError, require_count
from lightning_reg.spatial import Pair

APART = 1_000_000
"""Difference of the seeds of the first validation and the first training subject."""


class GeneratedDataset(ListedDataset):
    """Subjects with two scans each, generated from the number in the subject's name.

    Args:
        name: beginning of the subjects' names.
        times: times of the fixed and of the moving scan.
        train, validation: numbers of the subjects of each split.
        draw: function of a subject's number that makes both scans; those of the last subject are
            kept, as they are loaded one after the other.
    """

    def __init__(
        self,
        name: str,
        times: tuple[str, str],
        train: range,
        validation: range,
        draw: Callable[[int], Pair],
    ) -> None:
        self.name, self.times, self.draw = name, times, draw
        self._last: tuple[str, Pair] | None = None
        numbers: dict[Split, range] = {"train": train, "validation": validation}
        records = [
            Record(f"{name}-{number}", time, split)
            for split in numbers
            for number in numbers[split]
            for time in times
        ]
        super().__init__(records, self._generated)

    def _generated(self, record: Record) -> tio.Subject:
        if self._last is None or self._last[0] != record.subject:
            number = int(record.subject.removeprefix(f"{self.name}-"))
            self._last = (record.subject, self.draw(number))
        pair = self._last[1]
        side = "fixed" if record.time == self.times[0] else "moving"
        image, mask, labels, landmarks = (
            getattr(pair, f"{side}{part}") for part in ("", "_mask", "_labels", "_landmarks")
        )
        points = None if landmarks is None else landmarks[0]
        return deepcopy(
            subject_from_scan(Scan(record.name, image, mask, labels, points, record.subject))
        )


class ShapesDataset(GeneratedDataset):
    """Generated shapes of no organ; each subject has two deformed copies, painted in two contrasts.

    Args:
        subjects, validation: number of training and of validation subjects.
        shape: voxels per scan.
        seed: seed of the first training subject; those of validation start at ``seed +``
            :data:`APART`.
    """

    def __init__(
        self,
        subjects: int = 8,
        validation: int = 8,
        shape: Sequence[int] = (64, 64, 64),
        seed: int = 0,
    ) -> None:
        require_count(subjects, "subjects", least=0)
        require_count(validation, "validation", least=0)
        self.source = GeneratedPairs([], [], seed, shape, shapes=1.0)
        train, other = range(seed, seed + subjects), range(seed + APART, seed + APART + validation)
        super().__init__("shapes", ("a", "b"), train, other, self._drawn)

    def _drawn(self, number: int) -> Pair:
        return self.source.draw(np.random.default_rng(number))


class LabelMapsDataset(ListedDataset):
    """A folder of label maps without images, one per subject, whose values mean the same in all.

    The images are the maps themselves in a random contrast for each subject, always the same one:
    they are for validation; training pairs are drawn from the labels (sampler ``generated``).

    Args:
        root: the folder; every image file in it, or below it, is a label map. The last fifth of the
            subjects, in alphabetical order, is held out.
    """

    def __init__(self, root: str | Path) -> None:
        folder = require_folder(root)
        paths = sorted(path for path in walk(folder) if is_image(path))
        if not paths:
            raise DataError(
                f"{folder} has no label maps; give a folder of NIfTI, MetaImage or NRRD files."
            )
        names = [str(path.relative_to(folder)).split(".")[0].replace("/", " ") for path in paths]
        records = [
            Record(name, image=path, labels=path) for name, path in zip(names, paths, strict=True)
        ]
        super().__init__(last(records, len(records)), _in_random_contrast)


def _in_random_contrast(record: Record) -> tio.Subject:
    assert record.labels is not None
    labels = read_image(record.labels, tio.LabelMap)
    values = labels.data.round().long()
    if int(values.min()) < 0 or not bool((values > 0).any()):
        raise DataError(f"{record.labels} is no label map: it needs whole numbers, 0 and above.")
    generator = torch.Generator().manual_seed(zlib.crc32(record.subject.encode()))
    means = torch.rand(int(values.max()) + 1, generator=generator)
    means[0] = 0.0
    image = tio.ScalarImage(tensor=means[values], affine=labels.affine)
    return tio.Subject(name=record.name, image=image, labels=labels)
