"""CT volumes without a header, as provided by DIR-Lab."""

from __future__ import annotations

import numpy as np
import torchio as tio

from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.scans import read_subject
from lightning_reg.registry import DataError


def read_ct(
    record: Record,
    voxels: tuple[int, int, int],
    spacing: tuple[float, float, float],
    offset: int,
    air: int,
) -> tio.Subject:
    """Read a volume of signed 16-bit little-endian numbers, x fastest, then y, then z, and convert
    it to HU.

    x increases to the left of the patient, y to the back, z downwards (landmarks at large z move
    most, and upwards, when the patient exhales). The files have no origin; the first voxel is used.

    Args:
        record: scan whose image is the file.
        voxels, spacing: shape and voxel size (mm) of this case according to the provider.
        offset: subtracted from the stored values.
        air: lower values, HU, are set to this.

    Raises:
        DataError: the file has another length; the message gives the expected one.
    """
    path = record.image
    assert path is not None
    if not path.is_file():
        raise DataError(f"There is no file {path}; correct the path.")
    expected, length = 2 * int(np.prod(voxels)), path.stat().st_size
    if length != expected:
        raise DataError(
            f"{path} has {length:,} bytes; {record.subject} is {' x '.join(map(str, voxels))}"
            f" voxels of 2 bytes, {expected:,} in all: download it again, or unpack it completely."
        )
    stored = np.fromfile(path, "<i2").reshape(voxels, order="F")
    values = np.maximum(stored.astype(np.int32) - offset, air).astype(np.int16)
    return read_subject(
        record.name, (values, np.diag([-spacing[0], -spacing[1], -spacing[2], 1.0]))
    )
