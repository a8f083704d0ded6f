"""CT and MR of the lungs: DIR-Lab, COPDgene, CREATIS, NLST, and lung MR."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torchio as tio

from lightning_reg.data.datasets.adapters.search import (
    between,
    hold_out,
    last,
    named,
    require_folder,
    with_validation,
)
from lightning_reg.data.datasets.dataset_json import descriptions, from_dataset_json
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import Layout, from_tree, walk
from lightning_reg.data.datasets.loading import ListedDataset, load_files, with_landmarks
from lightning_reg.data.datasets.roles import is_image, stem
from lightning_reg.data.scans import read_subject
from lightning_reg.io.points import PointFile, read_plain
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


SLICES = {1: 121, 2: 102, 3: 126, 4: 126, 5: 131, 6: 119, 7: 112, 8: 115, 9: 116, 10: 135}
COPD_SPACING = {
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
        voxels, edge = (512, 512, SLICES[case]), COPD_SPACING[case]
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
            part = "mask" if re.search("label|mask|lung", rest) else "image"
            part = "labels" if "lobe" in rest else part
            scans.setdefault((match[1], PHASES[match[2].upper()]), {}).setdefault(part, path)
    ordered = sorted(scans.items(), key=lambda item: (item[0][0], item[0][1] == "exhale"))
    return [
        Record(patient, phase).holding(parts)
        for (patient, phase), parts in ordered
        if "image" in parts
    ]


POPI = "popi"
ENDS = {POPI: ("10", "60"), "bl": ("00", "60")}
"""Phases of inhalation and exhalation, if they are not 00 and 50 (the provider's reference phases).
"""
ARTEFACT = 40
"""Index of the 41st landmark of the POPI-model, which is not part of the published errors."""


class CreatisDataset(ListedDataset):
    """The CREATIS data set.

    Source: J. Vandemeulebroucke et al., Medical Physics 38, 2011 (six patients) and XVth ICCR, 2007
    (POPI-model). Eppenhof et al. (2019) train on all seven pairs and test on DIR-Lab. Here one
    patient, the POPI-model, is held out, because a checkpoint has to be chosen.

    Args:
        root: folder with ``bl/mhd/00.mhd``, ``bl/pts/00.pts`` and so on
            (``bl, ng, dx, gt, mm2, bh``), and ``00-P.mhd``, ``00-Landmarks.pts`` and so on of the
            POPI-model.
        all_phases: read all ten phases instead of inhalation and exhalation.
    """

    def __init__(self, root: str | Path, all_phases: bool = False) -> None:
        folder = require_folder(root)
        files = walk(folder)
        patients = [
            p for p in files if p.suffix == ".mhd" and p.parent.name == "mhd" and p.stem.isdigit()
        ]
        found = [Record(p.parents[1].name, p.stem, image=p, landmarks=_beside(p)) for p in patients]
        points = named(files, r"(\d\d)-Landmarks?\.(?:pts|txt)")
        popi = sorted(named(files, r"(\d\d)-P\.mhd").items())
        found += [
            Record(POPI, phase, image=path, landmarks=points.get((phase,)))
            for (phase,), path in popi
        ]
        if not found:
            raise DataError(
                f"{folder} has no phases (expected bl/mhd/00.mhd and so on, 00-P.mhd of the"
                " POPI-model); put the files there."
            )
        chosen = (
            found
            if all_phases
            else [record for record in found if record.time in _ends(record.subject)]
        )
        records = hold_out(
            chosen, lambda number, subject: subject == found[-1].subject and number > 0
        )
        super().__init__(records, _load, between(records, _ends))


def _load(record: Record) -> tio.Subject:
    """Load a scan and its points, in mm in the coordinates of the MetaImage (LPS)."""
    lps = partial(read_plain, space="LPS")
    return load_files(record, _popi_points if record.subject == POPI else lps)


def _ends(subject: str) -> tuple[str, str]:
    return ENDS.get(subject, ("00", "50"))


def _beside(image: Path) -> Path | None:
    points = image.parents[1] / "pts" / f"{image.stem}.pts"
    return points if points.is_file() else None


def _popi_points(path: Path) -> PointFile:
    """Read points of the POPI-model, whose origin is its first voxel, without the artefact."""
    points = read_plain(path, "LPS")
    return PointFile(points.values[:ARTEFACT], points.space)


class NlstDataset(ListedDataset):
    """The NLST data set.

    Source: National Lung Screening Trial Research Team, NEJM 365, 2011; A. Hering et al., IEEE TMI
    42, 2023 (Learn2Reg). Validation uses Learn2Reg's validation pairs. For DICOM series, the last
    50 patients, as in de Vos et al. (2019), or a fifth are held out.

    Args:
        root: folder with ``NLST_dataset.json``, or with ``PATIENT/STUDY/SERIES/*.dcm``.
    """

    def __init__(self, root: str | Path) -> None:
        folder = require_folder(root)
        described = descriptions(folder)
        layout = from_dataset_json(described[0]) if described else Layout(_series(folder))
        if not layout.records:
            raise DataError(
                f"{folder} has neither NLST_dataset.json nor PATIENT/STUDY/SERIES/*.dcm; unpack the"
                " data set there."
            )
        super().__init__(*with_validation(layout, 10 if described else 50))


def _series(root: Path) -> list[Record]:
    """Choose the series with most slices of every study."""
    slices: dict[Path, int] = {}
    for path in walk(root):
        if path.suffix.lower() == ".dcm":
            slices[path.parent] = slices.get(path.parent, 0) + 1
    chosen: dict[tuple[str, str], Path] = {}
    for folder, count in slices.items():
        parts = folder.relative_to(root).parts
        patient = next((p for p in parts if p.isdigit()), parts[0] if parts else root.name)
        study = (
            parts[parts.index(patient) + 1]
            if patient in parts and len(parts) > parts.index(patient) + 2
            else ""
        )
        best = chosen.get((patient, study))
        if best is None or count > slices[best]:
            chosen[patient, study] = folder
    return [Record(patient, study, image=folder) for (patient, study), folder in chosen.items()]


class LungMriDataset(ListedDataset):
    """Pairs of lung MR scans.

    Source: S. Christodoulidis et al., MICCAI TIA 2018, Section 2.2, with 28 patients for training
    and 13 for validation. Here the last 13 patients, or a fifth, are held out.

    Args:
        root: folder with ``PATIENT/inhale.nii.gz``, ``PATIENT/inhale_mask.nii.gz``, optionally
            ``PATIENT/inhale_landmarks.csv``, and the same for ``exhale``.
    """

    def __init__(self, root: str | Path) -> None:
        found = [
            record
            for record in from_tree(require_folder(root)).records
            if record.time in ("inhale", "exhale")
        ]
        if not found:
            raise DataError(
                f"{root} has no PATIENT/inhale.nii.gz and PATIENT/exhale.nii.gz; arrange the scans"
                " like this."
            )
        super().__init__(last(sorted(found, key=lambda r: (r.subject, r.time == "exhale")), 13))
