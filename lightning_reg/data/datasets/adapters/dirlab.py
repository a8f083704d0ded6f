"""DIR-Lab 4DCT: ten patients, ten phases, 300 landmarks at maximum inhalation (T00) and exhalation
(T50).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torchio as tio

from lightning_reg.data.datasets.adapters.raw import read_ct
from lightning_reg.data.datasets.adapters.search import hold_out, named, require_folder
from lightning_reg.data.datasets.interface import Record, RegistrationDataset
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import with_landmarks
from lightning_reg.io.points import read_plain
from lightning_reg.registry import DataError

VOXELS = {
    1: (256, 256, 94), 2: (256, 256, 112), 3: (256, 256, 104), 4: (256, 256, 99),
    5: (256, 256, 106),
    6: (512, 512, 128), 7: (512, 512, 136), 8: (512, 512, 128), 9: (512, 512, 128),
    10: (512, 512, 120),
}  # fmt: skip
SPACING = {
    1: 0.97,
    2: 1.16,
    3: 1.15,
    4: 1.13,
    5: 1.10,
    6: 0.97,
    7: 0.97,
    8: 0.97,
    9: 0.97,
    10: 0.97,
}
"""In-plane voxel size, mm; the slice distance is 2.5 mm."""


class DirLabDataset(RegistrationDataset):
    """The DIR-Lab 4DCT data set.

    Source: R. Castillo et al., Phys. Med. Biol. 54, 2009, and 55, 2010. By default, case 1 is used
        for validation and the others for
    training. For leave-one-out (de Vos et al., 2019), set ``data.held_out=[case1]``, ``[case2]``,
    ...; to test on all ten cases, use ``lightning-reg evaluate --split all``.

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
        self.found = hold_out(found, lambda number, subject: number == 0)

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        case = int(record.subject.removeprefix("case"))
        subject = read_ct(
            record, VOXELS[case], (SPACING[case], SPACING[case], 2.5), self.offset, self.air
        )
        return with_landmarks(
            subject,
            record,
            read_plain(record.landmarks, "voxel", first=1) if record.landmarks else None,
        )

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        """Return pairs of inhalation (T00, fixed) and exhalation (T50)."""
        at = {record.name: record for record in self.found}
        ends = (
            (f"{subject} T00", f"{subject} T50")
            for subject in dict.fromkeys(r.subject for r in self.found)
        )
        return [(at[fixed], at[moving]) for fixed, moving in ends if fixed in at and moving in at]
