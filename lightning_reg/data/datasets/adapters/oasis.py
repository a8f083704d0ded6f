"""OASIS: T1 MR of 414 brains with 35 labels, as provided by Learn2Reg (task 3) or by its source,
neurite-oasis.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torchio as tio

from lightning_reg.data.datasets.adapters.search import last, named, require_folder
from lightning_reg.data.datasets.dataset_json import from_dataset_json
from lightning_reg.data.datasets.interface import Record, RegistrationDataset, usual_pairs
from lightning_reg.data.datasets.layouts import walk
from lightning_reg.data.datasets.loading import load_files
from lightning_reg.registry import DataError


class OasisDataset(RegistrationDataset):
    """The OASIS data set.

    Source: D. Marcus et al., J. Cogn. Neurosci. 19, 2007; A. Hoopes et al., IPMI 2021; A. Hering et
        al., IEEE TMI 42, 2023 (Learn2Reg).
    Validation uses Learn2Reg's validation pairs, or the last 20 subjects of neurite-oasis.

    Args:
        root: folder with ``OASIS_dataset.json``, or with
            ``OASIS_OAS1_0001_MR1/aligned_norm.nii.gz`` and so on.
    """

    def __init__(self, root: str | Path) -> None:
        folder = require_folder(root)
        described = named(list(folder.glob("*.json")), r"(OASIS_)?dataset\.json")
        if described:
            layout = from_dataset_json(next(iter(described.values())))
            held_out = any(record.split == "validation" for record in layout.records)
            self.found, self.given = (
                (layout.records, layout.pairs) if held_out else (last(layout.records, 20), None)
            )
        else:
            subjects = [path for path in walk(folder) if path.name == "aligned_norm.nii.gz"]
            self.found = last(
                [
                    Record(p.parent.name, image=p, labels=p.with_name("aligned_seg35.nii.gz"))
                    for p in subjects
                ],
                20,
            )
            self.given = None
        if not self.found:
            raise DataError(
                f"{folder} has neither OASIS_dataset.json nor OASIS_OAS1_*/aligned_norm.nii.gz;"
                " unpack the data set there."
            )

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        return load_files(record)

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        """Return the challenge's pairs, or pairs of each subject with the next one in its split."""
        return usual_pairs(self.found) if self.given is None else self.given
