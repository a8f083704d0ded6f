"""Headerless CT volumes, as DIR-Lab delivers them."""

from __future__ import annotations

import numpy as np
import torchio as tio

from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.scans import read_subject
from lightning_reg.discovery import DataError


def read_ct(record: Record, voxels: tuple[int, int, int], spacing: tuple[float, float, float], offset: int, air: int) -> tio.Subject:
    """A volume of signed 16-bit little-endian numbers, x fastest, then y, then z, in HU.

    x runs to the left of the patient, y to the back, z down (landmarks at large z move most, and up, when the patient exhales). The files
    have no origin: it is put at the first voxel.

    Args:
        record: whose image is the file.
        voxels, spacing: what the provider's page says of this case, mm.
        offset: subtracted from the stored values.
        air: lower values, HU, are set to this.

    Raises:
        DataError: the file has another length; says which one was expected.
    """
    path = record.image
    assert path is not None
    if not path.is_file():
        raise DataError(f"There is no file {path}; correct the path.")
    expected, length = 2 * int(np.prod(voxels)), path.stat().st_size
    if length != expected:
        raise DataError(
            f"{path} has {length:,} bytes; {record.subject} is {' x '.join(map(str, voxels))} voxels of 2 bytes, {expected:,} in all: "
            "download it again, or unpack it completely."
        )
    stored = np.fromfile(path, "<i2").reshape(voxels, order="F")
    values = np.maximum(stored.astype(np.int32) - offset, air).astype(np.int16)
    return read_subject(record.name, (values, np.diag([-spacing[0], -spacing[1], -spacing[2], 1.0])))
