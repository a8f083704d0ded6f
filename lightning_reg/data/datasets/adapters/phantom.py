"""Data set of generated thorax phantoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torchio as tio

from lightning_reg.data.datasets.interface import Record, RegistrationDataset, Split, usual_pairs
from lightning_reg.data.scans import Scan, subject_from_scan
from lightning_reg.functional import bounding_box
from lightning_reg.phantom.thorax import breathing_thorax
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import Pair

APART = 1000
"""Difference of the seeds of the first validation and the first training subject."""


class PhantomDataset(RegistrationDataset):
    """Breathing thorax phantoms with two scans each, in HU: inhalation (fixed) and exhalation
    (moving).

    Args:
        subjects: number of training subjects.
        validation: number of validation subjects.
        shape: voxels per scan.
        seed: seed of the first training subject; seeds of validation subjects start at ``seed +``
            :data:`APART`.
        crop: crop both scans of a subject to the bounding box of the lungs of both, with this
            margin in mm; ``null`` keeps the trunk.
    """

    def __init__(
        self,
        subjects: int = 8,
        validation: int = 4,
        shape: Sequence[int] = (64, 64, 64),
        seed: int = 0,
        crop: float | None = None,
    ) -> None:
        for name, number in (("subjects", subjects), ("validation", validation)):
            if not isinstance(number, int) or not 0 <= number <= APART:
                raise ArgumentError(f"{name} is {number}; give a whole number from 0 to {APART}")
        if (
            not isinstance(shape, Sequence)
            or len(shape) != 3
            or not all(isinstance(n, int) and n >= 8 for n in shape)
        ):
            raise ArgumentError(f"shape is {shape}; give three numbers of voxels, 8 or more")
        seeds: dict[Split, range] = {
            "train": range(seed, seed + subjects),
            "validation": range(seed + APART, seed + APART + validation),
        }
        self.found = [
            Record(f"phantom-{n}", time, split)
            for split in seeds
            for n in seeds[split]
            for time in ("inhale", "exhale")
        ]
        self.shape, self.crop = (shape[0], shape[1], shape[2]), crop
        self._last: Pair | None = None

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        pair = self._pair(record.subject)
        side = "fixed" if record.time == "inhale" else "moving"
        landmarks = getattr(pair, f"{side}_landmarks")
        mask, labels = getattr(pair, f"{side}_mask"), getattr(pair, f"{side}_labels")
        return deepcopy(
            subject_from_scan(
                Scan(record.name, getattr(pair, side), mask, labels, landmarks[0], record.subject)
            )
        )

    def _pair(self, subject: str) -> Pair:
        """Generate both scans of a subject together; the last subject is kept, as its scans are
        loaded one after the other.
        """
        if self._last is None or self._last.name[0] != subject:
            whole = breathing_thorax(int(subject.removeprefix("phantom-")), self.shape)
            self._last = whole if self.crop is None else cropped_to_lungs(whole, self.crop)
        return self._last

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return usual_pairs(self.found)


def cropped_to_lungs(pair: Pair, margin: float) -> Pair:
    """Crop both scans of a :func:`breathing_thorax` to the bounding box of the lungs of both, with
    a margin in mm.
    """
    assert pair.fixed_mask is not None
    assert pair.moving_mask is not None
    lungs = ((pair.fixed_mask.tensor > 0) | (pair.moving_mask.tensor > 0))[0, 0]
    part = bounding_box(lungs, [math.ceil(margin / s) for s in pair.fixed.grid.spacing[0].tolist()])
    kept = {name: getattr(pair, name) for name in ("fixed_landmarks", "moving_landmarks")}
    return replace(pair.cropped(part, part), **kept)
