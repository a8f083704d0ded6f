"""Generated data sets: thorax phantoms, shapes of no organ, and contrasts of label maps."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import torchio as tio

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.interface import Record, Split
from lightning_reg.data.datasets.layouts import is_image, walk
from lightning_reg.data.datasets.loading import ListedDataset
from lightning_reg.data.generated import GeneratedPairs
from lightning_reg.data.scans import Scan, subject_from_scan
from lightning_reg.functional import bounding_box
from lightning_reg.io.images import read_image
from lightning_reg.phantom.thorax import breathing_thorax
from lightning_reg.registry import ArgumentError, DataError, Length, Range
from lightning_reg.spatial import Pair


class GeneratedDataset(ListedDataset):
    """Subjects with two scans each, generated from a seed that is the number in their names.

    Args:
        subjects, validation: number of training and of validation subjects.
        seed: seed of the first training subject; those of validation start at ``seed +`` ``apart``.

    Attributes:
        name: beginning of the subjects' names.
        times: times of the fixed and of the moving scan.
        apart: difference of the seeds of the first validation and the first training subject.
    """

    name: ClassVar[str]
    times: ClassVar[tuple[str, str]]
    apart: ClassVar[int]

    def __init__(self, subjects: int, validation: int, seed: int) -> None:
        self._last: tuple[str, Pair] | None = None
        first = seed + self.apart
        numbers: dict[Split, range] = {
            "train": range(seed, seed + subjects),
            "validation": range(first, first + validation),
        }
        records = [
            Record(f"{self.name}-{number}", time, split)
            for split in numbers
            for number in numbers[split]
            for time in self.times
        ]
        super().__init__(records, self._generated)

    @abstractmethod
    def draw(self, number: int) -> Pair:
        """Make both scans of the subject with this number."""

    def _generated(self, record: Record) -> tio.Subject:
        # both scans of a subject are loaded one after the other
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
        shape: voxels per scan; one axis may have one voxel, for slices, see
            :func:`~lightning_reg.phantom.breathing_thorax`.
        seed: seed of the first training subject; those of validation start at ``seed + 1_000_000``.
    """

    name, times, apart = "shapes", ("a", "b"), 1_000_000

    def __init__(
        self,
        subjects: Annotated[int, Range(0)] = 8,
        validation: Annotated[int, Range(0)] = 8,
        shape: Sequence[int] = (64, 64, 64),
        seed: int = 0,
    ) -> None:
        self.source = GeneratedPairs([], [], seed, shape, shapes=1.0)
        super().__init__(subjects, validation, seed)

    def draw(self, number: int) -> Pair:
        return self.source.draw(np.random.default_rng(number))


class PhantomDataset(GeneratedDataset):
    """Breathing thorax phantoms with two scans each, in HU: inhalation (fixed) and exhalation
    (moving).

    Args:
        subjects: number of training subjects.
        validation: number of validation subjects.
        shape: voxels per scan; one axis may have one voxel, for slices, see
            :func:`~lightning_reg.phantom.breathing_thorax`.
        seed: seed of the first training subject; those of validation start at ``seed + 1000``.
        crop: crop both scans of a subject to the bounding box of the lungs of both, with this
            margin in mm; ``null`` keeps the trunk.
    """

    name, times, apart = "phantom", ("inhale", "exhale"), 1000

    def __init__(
        self,
        subjects: Annotated[int, Range(0, 1000)] = 8,
        validation: Annotated[int, Range(0, 1000)] = 4,
        shape: Annotated[Sequence[Annotated[int, Range(1, of="voxels")]], Length(3)] = (64, 64, 64),
        seed: int = 0,
        crop: float | None = None,
    ) -> None:
        if sorted(shape)[1] < 8 or 1 < min(shape) < 8:
            raise ArgumentError(
                f"shape is {shape}; give three numbers of voxels, 8 or more, or 1 for a slice"
            )
        self.shape, self.crop = (shape[0], shape[1], shape[2]), crop
        super().__init__(subjects, validation, seed)

    def draw(self, number: int) -> Pair:
        whole = breathing_thorax(number, self.shape)
        return whole if self.crop is None else cropped_to_lungs(whole, self.crop)


def cropped_to_lungs(pair: Pair, margin: float) -> Pair:
    """Crop both scans of a thorax to the bounding box of all lungs, with a margin in mm."""
    assert pair.fixed_mask is not None
    assert pair.moving_mask is not None
    lungs = ((pair.fixed_mask.tensor > 0) | (pair.moving_mask.tensor > 0))[0, 0]
    part = bounding_box(lungs, [math.ceil(margin / s) for s in pair.fixed.grid.spacing[0].tolist()])
    kept = {name: getattr(pair, name) for name in ("fixed_landmarks", "moving_landmarks")}
    return replace(pair.cropped(part, part), **kept)


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
