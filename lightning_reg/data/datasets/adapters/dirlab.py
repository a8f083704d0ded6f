"""DIR-Lab 4DCT: ten patients, ten phases, 300 landmarks at maximum inhalation (T00) and exhalation
(T50); and the reader of DIR-Lab's volumes, which have no header.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchio as tio

from lightning_reg.data.datasets.adapters.search import between, hold_out, named, require_folder
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import ListedDataset, with_landmarks
from lightning_reg.data.scans import read_subject
from lightning_reg.io.points import read_plain
from lightning_reg.registry import DataError

VOXELS = {
    1: (256, 256, 94), 2: (256, 256, 112), 3: (256, 256, 104), 4: (256, 256, 99),
    5: (256, 256, 106),
    6: (512, 512, 128), 7: (512, 512, 136), 8: (512, 512, 128), 9: (512, 512, 128),
    10: (512, 512, 120),
}  # fmt: skip
SPACING = dict.fromkeys(VOXELS, 0.97) | {2: 1.16, 3: 1.15, 4: 1.13, 5: 1.10}
"""In-plane voxel size, mm; the slice distance is 2.5 mm."""


class DirLabDataset(ListedDataset):
    """The DIR-Lab 4DCT data set.

    Source: R. Castillo et al., Phys. Med. Biol. 54, 2009, and 55, 2010. By default, case 1 is used
    for validation and the others for training. For leave-one-out (de Vos et al., 2019), set
    ``data.held_out=[case1]``, ``[case2]``, ...; to test on all ten cases, use
    ``lightning-reg evaluate --split all``.

    Args:
        root: folder with the unpacked archives (``Case1Pack`` ... ``Case8Deploy`` ...).
        phases: phases to read, from T00 to T90.
        offset: subtracted from the stored values to get HU.
        air: lower values, HU, are set to this (outside the field of view the files have -2000 or
            0).
    """

    def __init__(
        self,
        root: str | Path,
        phases: Sequence[str] = ("T00", "T50"),
        offset: int = 1024,
        air: int = -1000,
    ) -> None:
        files = walk(require_folder(root))
        images = named(files, r"case(\d+)_T(\d\d)(?:_s|-ssm)?\.img")
        points = named(files, r"case(\d+)_(?:dirLab)?300_T(\d\d)_xyz\.txt")
        self.offset, self.air = offset, air
        found = [
            Record(f"case{case}", f"T{phase}", image=path, landmarks=points.get((case, phase)))
            for (case, phase), path in sorted(
                images.items(), key=lambda item: (int(item[0][0]), item[0][1])
            )
            if f"T{phase}" in phases and int(case) in VOXELS
        ]
        if not found:
            raise DataError(
                f"{root} has no images of DIR-Lab (expected Case1Pack/Images/case1_T00_s.img and so"
                " on); unpack its archives there."
            )
        records = hold_out(found, lambda number, subject: number == 0)
        super().__init__(records, self._read, between(records, lambda subject: ("T00", "T50")))

    def _read(self, record: Record) -> tio.Subject:
        case = int(record.subject.removeprefix("case"))
        return read_ct(
            record, VOXELS[case], (SPACING[case], SPACING[case], 2.5), self.offset, self.air
        )


def read_ct(
    record: Record,
    voxels: tuple[int, int, int],
    spacing: tuple[float, float, float],
    offset: int,
    air: int,
) -> tio.Subject:
    """Read a volume of signed 16-bit little-endian numbers, x fastest, then y, then z, convert it
    to HU, and read its landmarks.

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
    subject = read_subject(record.name, (values, np.diag([*np.negative(spacing), 1.0])))
    points = read_plain(record.landmarks, "voxel", first=1) if record.landmarks else None
    return with_landmarks(subject, record, points)
