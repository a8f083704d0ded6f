"""T1 MR of brains: OASIS, and two data sets of the hippocampus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torchio as tio

from lightning_reg.data.datasets.adapters.search import last, named, require_folder, with_validation
from lightning_reg.data.datasets.dataset_json import from_dataset_json
from lightning_reg.data.datasets.interface import Record, Split
from lightning_reg.data.datasets.layouts import Layout, from_kinds, walk
from lightning_reg.data.datasets.loading import ListedDataset, with_landmarks
from lightning_reg.data.datasets.roles import is_image, stem
from lightning_reg.data.scans import read_subject, scan_from_subject, subject_from_scan
from lightning_reg.io.images import read_image
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid, Image


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
            labels = [path.with_name("aligned_seg35.nii.gz") for path in images]
            both = zip(images, labels, strict=True)
            layout = Layout([Record(p.parent.name, image=p, labels=of) for p, of in both])
        if not layout.records:
            raise DataError(
                f"{folder} has neither OASIS_dataset.json nor OASIS_OAS1_*/aligned_norm.nii.gz;"
                " unpack the data set there."
            )
        super().__init__(*with_validation(layout, 20))


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


Side = Literal["left", "right"]
CENTER = {"left": (-26.0, -21.0, -13.0), "right": (26.0, -21.0, -13.0)}
"""Centre of the box, RAS mm in MNI space."""


class AdniHippocampusDataset(ListedDataset):
    """Boxes around the hippocampus in ADNI scans.

    Source: H. Li, Y. Fan, ISBI 2018, Section 3.1: boxes of 32 x 48 x 48 voxels of 1 mm. The paper
    does not give their position; here they are centred on the hippocampus of MNI space. As in the
    paper, scans with labels (HarP) are used for evaluation and the others for training. If all
    scans have labels, a fifth is held out.

    Args:
        root: folder with T1 images in MNI space, at any depth, whose names contain an ADNI subject
            (``002_S_0295``); names of labels contain the subject as well and end in ``_L`` or
            ``_R``.
        side: left or right hippocampus.
        shape: shape of the box, voxels of 1 mm.
    """

    def __init__(
        self, root: str | Path, side: Side = "left", shape: Sequence[int] = (32, 48, 48)
    ) -> None:
        self.grid = Grid.regular(
            shape, origin=[c - (n - 1) / 2 for c, n in zip(CENTER[side], shape, strict=True)]
        )
        images: dict[str, Path] = {}
        labels: dict[str, Path] = {}
        for path in walk(require_folder(root)):
            match = re.search(r"\d{3}_S_\d{4}", path.name)
            if not match or not is_image(path) or "csf" in path.name.lower():
                continue
            if re.search(r"_[LR]$", stem(path)):
                if stem(path).endswith(side[0].upper()):
                    labels.setdefault(match[0], path)
            else:
                images.setdefault(match[0], path)
        if not images:
            raise DataError(
                f"{root} has no images with an ADNI subject in their names (as"
                " ADNI_002_S_0295.nii.gz); put them there."
            )
        every = len(labels) >= len(images)
        found = []
        for number, (subject, path) in enumerate(images.items()):
            held_out = number % 5 == 4 if every else subject in labels
            split: Split = "validation" if held_out else "train"
            found.append(Record(subject, "", split, path, labels=labels.get(subject)))
        super().__init__(found, self._boxed)

    def _boxed(self, record: Record) -> tio.Subject:
        assert record.image is not None
        whole = read_subject(record.name, record.image)
        labels = None if record.labels is None else _harp(record.labels)
        scan = scan_from_subject(whole)
        if self.grid.overlap(scan.image.grid) < 1:
            raise DataError(
                f"{record.image} does not cover the box around the hippocampus ({self.grid}); align"
                " it affinely to MNI space first."
            )
        boxed = [
            None if image is None else image.resampled(self.grid) for image in (scan.image, labels)
        ]
        assert boxed[0] is not None
        subject = subject_from_scan(type(scan)(record.name, boxed[0], labels=boxed[1]))
        return with_landmarks(subject, record, None)


def _harp(path: Path) -> Image:
    """Read labels 0 and 1; some HarP files have two consecutive large numbers instead."""
    image = read_image(path, tio.LabelMap)
    values = (image.data.double() - image.data.double().min()).round().short()
    return Image(values.unsqueeze(0), Grid(image.spatial_shape, image.affine), discrete=True)
