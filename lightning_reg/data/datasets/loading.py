"""A data set's scan, held to what the interface says."""

from __future__ import annotations

import torchio as tio

from lightning_reg.data.datasets.interface import Record, RegistrationDataset
from lightning_reg.discovery import DataError, blaming, origin


def load_record(dataset: RegistrationDataset, record: Record) -> tio.Subject:
    """The subject of a record, with the record's name and, as its ``group``, the record's subject where the data set sets none.

    Raises:
        DataError: the data set returned something else than a subject with an image; names its distribution.
        ComponentError: it failed, and is another distribution's.
    """
    with blaming(dataset, f"loading {record.name}"):
        subject = dataset.load(record)
    if not isinstance(subject, tio.Subject):
        raise DataError(f"{origin(dataset)} returned {type(subject).__name__} for {record.name}; return a torchio.Subject.")
    if not isinstance(subject.get("image"), tio.Image):
        has = ", ".join(sorted(map(str, subject))) or "nothing"
        raise DataError(
            f"{origin(dataset)} returned a subject without 'image' for {record.name} (it has {has}); add a torchio.ScalarImage."
        )
    for key, value in (("name", record.name), ("group", record.subject)):
        if key not in subject:
            subject[key] = value
    return subject
