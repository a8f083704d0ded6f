"""Loading of scans from the files of a record, with checks of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

import torchio as tio

from lightning_reg.data.datasets.interface import Record, RegistrationDataset, usual_pairs
from lightning_reg.data.scans import add_landmarks, read_subject
from lightning_reg.io.points import PointFile, read_points
from lightning_reg.registry import DataError, blaming, origin

T = TypeVar("T")


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made at every access."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self.length, self.make = count, make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, item: int) -> T: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[T]: ...
    def __getitem__(self, item: int | slice) -> T | Sequence[T]:
        if isinstance(item, slice):
            return [self.make(k) for k in range(self.length)[item]]
        return self.make(range(self.length)[item])


def load_record(dataset: RegistrationDataset, record: Record) -> tio.Subject:
    """Load the subject of a record. If the data set sets no ``name`` or ``group``, they are the
    record's name and subject.

    Raises:
        DataError: the data set did not return a subject with an image; the message names its
            distribution.
        ComponentError: a data set of another distribution failed.
    """
    with blaming(dataset, f"loading {record.name}"):
        subject = dataset.load(record)
    if not isinstance(subject, tio.Subject):
        raise DataError(
            f"{origin(dataset)} returned {type(subject).__name__} for {record.name}; return a"
            " torchio.Subject."
        )
    if not isinstance(subject.get("image"), tio.Image):
        has = ", ".join(sorted(map(str, subject))) or "nothing"
        raise DataError(
            f"{origin(dataset)} returned a subject without 'image' for {record.name} (it has"
            f" {has}); add a torchio.ScalarImage."
        )
    for key, value in (("name", record.name), ("group", record.subject)):
        if key not in subject:
            subject[key] = value
    return subject


def load_files(
    record: Record, points: Callable[[Path], PointFile] = read_points, cropped: bool = False
) -> tio.Subject:
    """Load the subject of a record from its files.

    Args:
        points: function that reads the landmarks.
        cropped: whether the image has been cropped, so that landmarks may lie outside.

    Raises:
        DataError: see :func:`read_subject`; or the landmarks cannot be read or lie outside the
            image.
    """
    assert record.image is not None, f"{record.name} has no file"
    subject = read_subject(record.name, record.image, record.mask, record.labels)
    return with_landmarks(
        subject, record, points(record.landmarks) if record.landmarks else None, cropped
    )


def with_landmarks(
    subject: tio.Subject, record: Record, points: PointFile | None, cropped: bool = False
) -> tio.Subject:
    """Add the record's subject as ``group`` and, if there are points, ``landmarks`` in RAS mm.

    Raises:
        DataError: landmarks lie outside an image that has not been ``cropped``.
    """
    subject["group"] = record.subject
    if points is not None:
        add_landmarks(subject, points, cropped)
    return subject


class ListedDataset(RegistrationDataset):
    """A list of scans and a function that loads one; a subclass finds the scans in its constructor.

    Args:
        records: all scans.
        load: function that loads a scan.
        pairs: the pairs to register; default: :func:`usual_pairs`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        load: Callable[[Record], tio.Subject] = load_files,
        pairs: Sequence[tuple[Record, Record]] | None = None,
    ) -> None:
        self._records, self._load = list(records), load
        self._pairs = usual_pairs(self._records) if pairs is None else list(pairs)

    def records(self) -> Sequence[Record]:
        return self._records

    def load(self, record: Record) -> tio.Subject:
        return self._load(record)

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return self._pairs
