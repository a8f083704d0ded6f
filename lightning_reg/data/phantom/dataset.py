"""The phantom as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torchio as tio

from lightning_reg.data.interface import RegistrationDataset, Split
from lightning_reg.data.phantom.thorax import breathing_thorax
from lightning_reg.data.scans import Scan, subject_from_scan
from lightning_reg.spatial import Image, Pair


class PhantomDataset(RegistrationDataset):
    """Breathing thoraxes, two scans each: inhalation (fixed in the pairs) and exhalation (moving), in HU.

    Args:
        subjects: to train on.
        validation: to validate on; other subjects.
        shape: voxels per scan.
        seed: of the first training subject; those of validation start 1000 further.
    """

    def __init__(self, subjects: int = 8, validation: int = 4, shape: Sequence[int] = (64, 64, 64), seed: int = 0) -> None:
        self.seeds = {"train": range(seed, seed + subjects), "validation": range(seed + 1000, seed + 1000 + validation)}
        self.shape = (shape[0], shape[1], shape[2])

    def subjects(self, split: Split) -> Sequence[tio.Subject]:
        return [subject_from_scan(scan) for number in self.seeds[split] for scan in _scans(breathing_thorax(number, self.shape))]

    def pairs(self, split: Split) -> Sequence[tuple[int, int]]:
        return [(2 * k, 2 * k + 1) for k in range(len(self.seeds[split]))]


def _scans(pair: Pair) -> tuple[Scan, Scan]:
    def scan(phase: str, image: Image, mask: Image | None, labels: Image | None, landmarks: tuple | None) -> Scan:
        return Scan(f"{pair.name[0]} {phase}", image, mask, labels, landmarks[0] if landmarks else None, pair.name[0])

    return (
        scan("inhale", pair.fixed, pair.fixed_mask, pair.fixed_labels, pair.fixed_landmarks),
        scan("exhale", pair.moving, pair.moving_mask, pair.moving_labels, pair.moving_landmarks),
    )
