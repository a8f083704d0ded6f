"""OASIS: T1 MR of 414 brains with 35 labels, as provided by Learn2Reg (task 3) or by its source,
neurite-oasis.
"""

from __future__ import annotations

from pathlib import Path

from lightning_reg.data.datasets.adapters.search import last, named, require_folder
from lightning_reg.data.datasets.dataset_json import from_dataset_json
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.layouts import Layout, walk
from lightning_reg.data.datasets.loading import ListedDataset
from lightning_reg.registry import DataError


class OasisDataset(ListedDataset):
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
        else:
            images = [path for path in walk(folder) if path.name == "aligned_norm.nii.gz"]
            layout = Layout(
                [
                    Record(p.parent.name, image=p, labels=p.with_name("aligned_seg35.nii.gz"))
                    for p in images
                ]
            )
        found, pairs = layout.records, layout.pairs
        if not any(record.split == "validation" for record in found):
            found, pairs = last(found, 20), None
        if not found:
            raise DataError(
                f"{folder} has neither OASIS_dataset.json nor OASIS_OAS1_*/aligned_norm.nii.gz;"
                " unpack the data set there."
            )
        super().__init__(found, pairs=pairs)
