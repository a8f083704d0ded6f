"""Interface of data sets: scans, each with its subject, time point and split, and their pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torchio as tio

from lightning_reg.discovery import Described

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True)
class Record:
    """A scan of a data set, before anything of it is read.

    Args:
        subject: who is shown; the scans of a subject are in one split.
        time: which of the subject's scans it is (``inhale``, ``T50``, ``ED``); empty where there is one.
        split: what the data set uses it for.
        image: file or DICOM folder; ``None`` where the data set makes its images itself.
        mask, labels, landmarks: files that belong to the image.
        number: where in the image's file it is (a frame of a cine, counted from 0); ``None``: it is all of it.
    """

    subject: str
    time: str = ""
    split: Split = "train"
    image: Path | None = None
    mask: Path | None = None
    labels: Path | None = None
    landmarks: Path | None = None
    number: int | None = None

    @property
    def name(self) -> str:
        """``subject time``: how messages and tables call it."""
        return f"{self.subject} {self.time}".strip()

    def holding(self, files: Mapping[str, Path | None]) -> Record:
        """The same scan with these files: ``image, mask, labels, landmarks``."""
        return replace(self, **files)  # type: ignore[arg-type]

    def files(self) -> list[Path]:
        """The file that it is read from."""
        return [path for path in (self.image, self.mask, self.labels, self.landmarks) if path is not None]


class RegistrationDataset(Described, ABC):
    """A source of scans, registered under ``lightning_reg.datasets``. It finds and loads; preprocessing and sampling are others' work.

    Files are looked for when it is made, and read when they are asked for. A constructor that reads files takes their folder as ``root``.
    """

    @abstractmethod
    def records(self) -> Sequence[Record]:
        """Every scan, in a fixed order; names are unique.

        Raises:
            DataError: a path is not what it has to be; the message names it.
        """

    @abstractmethod
    def load(self, record: Record) -> tio.Subject:
        """The scan in memory: ``image`` and, where known, ``mask``, ``labels``, ``landmarks`` ``(N, 3)`` RAS mm; its own grid
        and intensities. :func:`~lightning_reg.data.datasets.loading.load_files` reads what can be read from the record's files alone.

        Raises:
            DataError: a file or header is not what it has to be; the message names it.
        """

    @abstractmethod
    def pairs(self) -> Sequence[tuple[Record, Record]]:
        """The ``(fixed, moving)`` pairs that are registered; both of one split. See :func:`usual_pairs`."""


def usual_pairs(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The usual pairs of a data set: the first scan of a subject as the fixed image of each of its others; where no subject has several,
    each subject's scan as the fixed image of the next one's, the last one's of the first's, within each split.

    Outside the training split only subjects with labels are paired so where two or more have them: other pairs could not be scored by
    overlap.
    """
    pairs = []
    for split in SPLITS:
        inside = [record for record in records if record.split == split]
        labelled = [record for record in inside if record.labels is not None]
        subjects: dict[str, list[Record]] = {}
        for record in inside:
            subjects.setdefault(record.subject, []).append(record)
        within = [(scans[0], other) for scans in subjects.values() for other in scans[1:]]
        ring = labelled if len(labelled) > 1 and split != "train" else inside
        pairs += within or ([(r, ring[(k + 1) % len(ring)]) for k, r in enumerate(ring)] if len(ring) > 1 else [])
    return pairs
