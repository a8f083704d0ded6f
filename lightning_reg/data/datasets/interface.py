"""Interface of data sets: scans, each with its subject, time point and split, and their pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torchio as tio

from lightning_reg.registry import Described

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
PARTS = ("image", "mask", "labels", "landmarks")
"""Files of a scan."""


@dataclass(frozen=True)
class Record:
    """A scan of a data set, before its files are read.

    Args:
        subject: name of the subject; all scans of a subject are in one split.
        time: time point of the scan (``inhale``, ``T50``, ``ED``); empty if the subject has one
            scan.
        split: split to which the scan belongs.
        image: file or DICOM folder; ``None`` if the data set generates its images.
        mask, labels, landmarks: files that belong to the image.
        number: index of the scan in the image's file (a frame of a cine, counted from 0); ``None``:
            the whole file.
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
        """Name in messages and tables: ``subject time``."""
        return f"{self.subject} {self.time}".strip()

    def holding(self, files: Mapping[str, Path | None]) -> Record:
        """Return the same scan with these files: ``image, mask, labels, landmarks``."""
        return replace(self, **files)  # type: ignore[arg-type]

    def files(self) -> list[Path]:
        """Return the files of the scan: image, mask, labels and landmarks, if known."""
        return [path for part in PARTS if (path := getattr(self, part)) is not None]


class RegistrationDataset(Described, ABC):
    """A source of scans, registered under ``lightning_reg.datasets``. It finds and loads scans,
    without preprocessing or sampling.

    The constructor searches for the files; :meth:`load` reads them. A constructor that uses files
    takes their folder as ``root``.
    """

    @abstractmethod
    def records(self) -> Sequence[Record]:
        """Return all scans in a fixed order; their names are unique.

        Raises:
            DataError: a path is invalid; the message names it.
        """

    @abstractmethod
    def load(self, record: Record) -> tio.Subject:
        """Load a scan: ``image`` and, if known, ``mask``, ``labels``, ``landmarks`` ``(N, 3)`` RAS
        mm.

        Grid and intensities are those of the files. Use
        :func:`~lightning_reg.data.datasets.loading.load_files` if the record's files can be read
        directly.

        Raises:
            DataError: a file or header is invalid; the message names it.
        """

    @abstractmethod
    def pairs(self) -> Sequence[tuple[Record, Record]]:
        """Return the ``(fixed, moving)`` pairs, each within a split. See :func:`usual_pairs`."""


def usual_pairs(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return the default pairs of a data set, within each split.

    The first scan of a subject is the fixed image for each of the subject's other scans. If no
    subject of a split has several scans, each scan is the fixed image for that of the next subject,
    and the last one for that of the first subject. In the validation and test splits, such pairs of
    subjects use only scans with labels, if there are two or more: other pairs could not be
    evaluated by overlap.
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
        pairs += within or (
            [(r, ring[(k + 1) % len(ring)]) for k, r in enumerate(ring)] if len(ring) > 1 else []
        )
    return pairs
