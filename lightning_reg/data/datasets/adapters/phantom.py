"""Data set of generated thorax phantoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_reg.data.datasets.adapters.generated import GeneratedDataset
from lightning_reg.functional import bounding_box
from lightning_reg.phantom.thorax import breathing_thorax
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import Pair

APART = 1000
"""Difference of the seeds of the first validation and the first training subject."""


class PhantomDataset(GeneratedDataset):
    """Breathing thorax phantoms with two scans each, in HU: inhalation (fixed) and exhalation
    (moving).

    Args:
        subjects: number of training subjects.
        validation: number of validation subjects.
        shape: voxels per scan; one axis may have one voxel, for slices, see
            :func:`~lightning_reg.phantom.breathing_thorax`.
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
            or not all(isinstance(n, int) and (n >= 8 or n == 1) for n in shape)
            or list(shape).count(1) > 1
        ):
            raise ArgumentError(
                f"shape is {shape}; give three numbers of voxels, 8 or more, or 1 for a slice"
            )
        self.shape, self.crop = (shape[0], shape[1], shape[2]), crop
        train, other = range(seed, seed + subjects), range(seed + APART, seed + APART + validation)
        super().__init__("phantom", ("inhale", "exhale"), train, other, self._breathing)

    def _breathing(self, seed: int) -> Pair:
        whole = breathing_thorax(seed, self.shape)
        return whole if self.crop is None else cropped_to_lungs(whole, self.crop)


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
