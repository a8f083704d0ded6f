"""NLST: low-dose chest CT, as pairs of one patient (Learn2Reg) or as DICOM series (Cancer Imaging
Archive).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.dataset_json import descriptions, from_dataset_json
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import Layout, walk
from lightning_reg.data.datasets.loading import ListedDataset, load_files
from lightning_reg.registry import DataError


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
        found, pairs = layout.records, layout.pairs
        if not any(record.split == "validation" for record in found):
            found, pairs = last(found, 10 if described else 50), None
        if not found:
            raise DataError(
                f"{folder} has neither NLST_dataset.json nor PATIENT/STUDY/SERIES/*.dcm; unpack the"
                " data set there."
            )
        super().__init__(found, partial(load_files, points=layout.points), pairs)


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
