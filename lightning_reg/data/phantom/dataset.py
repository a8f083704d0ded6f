"""The phantom as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torchio as tio

from lightning_reg.data.datasets.interface import Record, RegistrationDataset, Split, usual_pairs
from lightning_reg.data.phantom.thorax import breathing_thorax
from lightning_reg.data.scans import Scan, subject_from_scan
from lightning_reg.spatial import Pair


class PhantomDataset(RegistrationDataset):
    """Breathing thoraxes, two scans each: inhalation (fixed in the pairs) and exhalation (moving), in HU.

    Args:
        subjects: to train on.
        validation: to validate on; other subjects.
        shape: voxels per scan.
        seed: of the first training subject; those of validation start 1000 further.
    """

    def __init__(self, subjects: int = 8, validation: int = 4, shape: Sequence[int] = (64, 64, 64), seed: int = 0) -> None:
        seeds: dict[Split, range] = {"train": range(seed, seed + subjects), "validation": range(seed + 1000, seed + 1000 + validation)}
        self.found = [Record(f"phantom-{n}", time, split) for split in seeds for n in seeds[split] for time in ("inhale", "exhale")]
        self.shape = (shape[0], shape[1], shape[2])
        self._last: Pair | None = None

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        pair = self._pair(record.subject)
        side = "fixed" if record.time == "inhale" else "moving"
        landmarks = getattr(pair, f"{side}_landmarks")
        mask, labels = getattr(pair, f"{side}_mask"), getattr(pair, f"{side}_labels")
        return subject_from_scan(Scan(record.name, getattr(pair, side), mask, labels, landmarks[0], record.subject))

    def _pair(self, subject: str) -> Pair:
        """Both scans of a subject are generated at once, and asked for one after the other."""
        if self._last is None or self._last.name[0] != subject:
            self._last = breathing_thorax(int(subject.removeprefix("phantom-")), self.shape)
        return self._last

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return usual_pairs(self.found)
