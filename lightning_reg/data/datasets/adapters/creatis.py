"""CREATIS: 4D-CT of six patients of the Léon Bérard centre, and the POPI-model."""

from __future__ import annotations

from pathlib import Path

import torchio as tio

from lightning_reg.data.datasets.adapters.search import between, hold_out, named, require_folder
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import ListedDataset, load_files
from lightning_reg.io.points import PointFile, read_plain
from lightning_reg.registry import DataError

POPI = "popi"
ENDS = {POPI: ("10", "60"), "bl": ("00", "60")}
"""Phases of inhalation and exhalation, if they are not 00 and 50 (the provider's reference phases).
"""
ARTEFACT = 40
"""Index of the 41st landmark of the POPI-model, which is on an artefact and not part of the
published errors.
"""


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
    return load_files(record, _popi_points if record.subject == POPI else _points)


def _ends(subject: str) -> tuple[str, str]:
    return ENDS.get(subject, ("00", "50"))


def _beside(image: Path) -> Path | None:
    points = image.parents[1] / "pts" / f"{image.stem}.pts"
    return points if points.is_file() else None


def _points(path: Path) -> PointFile:
    """Read points in mm in the coordinates of the MetaImage (LPS)."""
    return read_plain(path, "LPS")


def _popi_points(path: Path) -> PointFile:
    """Read points in mm in the coordinates of the MetaImage, whose origin is its first voxel,
    without the artefact.
    """
    points = read_plain(path, "LPS")
    return PointFile(points.values[:ARTEFACT], points.space)
