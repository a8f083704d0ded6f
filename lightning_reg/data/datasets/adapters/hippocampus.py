"""Crops of the hippocampus in T1 MR with anterior and posterior labels: Medical Segmentation
Decathlon, Task04.
"""

from __future__ import annotations

from pathlib import Path

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.dataset_json import from_dataset_json
from lightning_reg.data.datasets.layouts import from_kinds
from lightning_reg.data.datasets.loading import ListedDataset
from lightning_reg.registry import DataError


class HippocampusDataset(ListedDataset):
    """The hippocampus data set of the Medical Segmentation Decathlon.

    Source: A. L. Simpson et al., arXiv:1902.09063, 2019. The data set has no split for
        registration: the last 40 subjects are held out.

    Args:
        root: folder with ``dataset.json``, or with ``images/`` and ``labels/`` (``imagesTr/``,
            ``labelsTr/``) with equal file names.
    """

    def __init__(self, root: str | Path) -> None:
        folder = require_folder(root)
        described = folder / "dataset.json"
        kind = next((name for name in ("images", "imagesTr") if (folder / name).is_dir()), None)
        if not described.is_file() and kind is None:
            raise DataError(
                f"{folder} has no images (expected {folder}/imagesTr/*.nii.gz); set `root` to"
                " the data set's own folder."
            )
        layout = (
            from_dataset_json(described) if described.is_file() else from_kinds(folder, str(kind))
        )
        super().__init__(last(layout.records, 40))
