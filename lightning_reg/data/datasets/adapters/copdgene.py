"""COPDgene: inhalation and exhalation CT of smokers; the ten pairs with landmarks of DIR-Lab, or
the study's own scans with lobes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torchio as tio

from lightning_reg.data.datasets.adapters.dirlab import read_ct
from lightning_reg.data.datasets.adapters.search import last, named, require_folder
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import ListedDataset, load_files
from lightning_reg.data.datasets.roles import is_image, stem
from lightning_reg.registry import DataError

SLICES = {1: 121, 2: 102, 3: 126, 4: 126, 5: 131, 6: 119, 7: 112, 8: 115, 9: 116, 10: 135}
SPACING = {
    1: 0.625, 2: 0.645, 3: 0.652, 4: 0.590, 5: 0.647,
    6: 0.633, 7: 0.625, 8: 0.586, 9: 0.664, 10: 0.742,
}  # fmt: skip
PHASES = {"I": "inhale", "E": "exhale", "INSP": "inhale", "EXP": "exhale"}


class CopdGeneDataset(ListedDataset):
    """The COPDgene data set.

    Source: R. Castillo et al., Phys. Med. Biol. 58, 2013 (landmarks); E. Regan et al., COPD 7, 2010
    (the study). The paper of method 2 (Hering et al., 2019) trains on 500 patients and validates on
    50; here the last 50 patients, or a fifth, are held out.

    Args:
        root: ``copd1/copd1_iBHCT.img`` and so on, or images ``PATIENT_INSP_*``, ``PATIENT_EXP_*``
            with lobe masks (``lobe`` in their names) and lung masks (``label``, ``mask`` or
            ``lung`` in their names) beside them.
        offset: subtracted from the values of ``.img`` files.
        air: lower values in ``.img`` files, HU, are set to this.
    """

    def __init__(self, root: str | Path, offset: int = 1024, air: int = -1000) -> None:
        files = walk(require_folder(root))
        self.offset, self.air = offset, air
        found = _dirlab(files) or _study(files)
        if not found:
            raise DataError(
                f"{root} has neither copd1/copd1_iBHCT.img and so on nor images named"
                " PATIENT_INSP_*, PATIENT_EXP_*; unpack them there."
            )
        super().__init__(last(found, 50), self._read)

    def _read(self, record: Record) -> tio.Subject:
        assert record.image is not None
        if record.image.suffix.lower() != ".img":
            return load_files(record)
        case = int(record.subject.removeprefix("copd"))
        voxels, edge = (512, 512, SLICES[case]), SPACING[case]
        return read_ct(record, voxels, (edge, edge, 2.5), self.offset, self.air)


def _dirlab(files: Sequence[Path]) -> list[Record]:
    points = named(files, r"copd(\d+)_300_(i|e)BH_xyz_r1\.txt")
    images = sorted(
        named(files, r"copd(\d+)_(i|e)BHCT\.img").items(),
        key=lambda item: (int(item[0][0]), item[0][1].lower() == "e"),
    )
    return [
        Record(
            f"copd{case}", PHASES[phase.upper()], image=path, landmarks=points.get((case, phase))
        )
        for (case, phase), path in images
        if int(case) in SLICES
    ]


def _study(files: Sequence[Path]) -> list[Record]:
    """Find image, lobes and lungs of every phase by words in the file names."""
    scans: dict[tuple[str, str], dict[str, Path]] = {}
    for path in files:
        match = re.match(r"(.+?)_(INSP|EXP)(?=[_.]|$)(.*)", stem(path), re.IGNORECASE)
        if match and is_image(path):
            rest = match[3].lower()
            part = (
                "labels"
                if "lobe" in rest
                else "mask"
                if re.search("label|mask|lung", rest)
                else "image"
            )
            scans.setdefault((match[1], PHASES[match[2].upper()]), {}).setdefault(part, path)
    ordered = sorted(scans.items(), key=lambda item: (item[0][0], item[0][1] == "exhale"))
    return [
        Record(patient, phase).holding(parts)
        for (patient, phase), parts in ordered
        if "image" in parts
    ]
