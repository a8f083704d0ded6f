"""Lung MR in inhalation and exhalation with lung masks, as in the study of method 4, whose data are
not public: use your own scans.
"""

from __future__ import annotations

from pathlib import Path

from lightning_reg.data.datasets.adapters.search import last, require_folder
from lightning_reg.data.datasets.layouts import from_tree
from lightning_reg.data.datasets.loading import ListedDataset
from lightning_reg.registry import DataError


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
