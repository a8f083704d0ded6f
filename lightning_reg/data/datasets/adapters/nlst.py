"""NLST: low-dose chest CT, as pairs of one patient (Learn2Reg) or as DICOM series (Cancer Imaging
Archive).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torchio as tio

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.dataset_json import descriptions, from_dataset_json
from lightning_reg.data.datasets.interface import Record, RegistrationDataset, usual_pairs
from lightning_reg.data.datasets.layouts import Layout, walk
from lightning_reg.data.datasets.loading import load_files
from lightning_reg.registry import DataError


class NlstDataset(RegistrationDataset):
    """The NLST data set.

    Source: National Lung Screening Trial Research Team, NEJM 365, 2011; A. Hering et al., IEEE TMI
        42, 2023 (Learn2Reg). Validation uses
    Learn2Reg's validation pairs. For DICOM series, the last 50 patients, as in de Vos et al.
    (2019), or a fifth are held out.

    Args:
        root: folder with ``NLST_dataset.json``, or with ``PATIENT/STUDY/SERIES/*.dcm``.
    """

    def __init__(self, root: str | Path) -> None:
        folder = require_folder(root)
        described = descriptions(folder)
        self.layout = (
            from_dataset_json(described[0]) if described else Layout(last(_series(folder), 50))
        )
        self.found = self.layout.records
        if described and not any(record.split == "validation" for record in self.found):
            self.found, self.layout = last(self.found, 10), replace(self.layout, pairs=None)
        if not self.found:
            raise DataError(
                f"{folder} has neither NLST_dataset.json nor PATIENT/STUDY/SERIES/*.dcm; unpack the"
                " data set there."
            )

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        return load_files(record, self.layout.points)

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        """Return the challenge's pairs. For DICOM series: a patient's first study (fixed) with each
        later one, or pairs of patients.
        """
        return usual_pairs(self.found) if self.layout.pairs is None else self.layout.pairs


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
