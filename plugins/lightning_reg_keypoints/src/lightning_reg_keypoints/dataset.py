"""Pairs of images with pairs of keypoints."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
import torchio as tio
from torch import Tensor

from lightning_reg import ArgumentError, DataError, Grid, Record, RegistrationDataset, usual_pairs
from lightning_reg.data.scans import check_landmarks, read_subject

SIDES = ("fixed", "moving")
SPACES = ("RAS", "LPS", "voxel")


class KeypointsDataset(RegistrationDataset):
    """A folder of pairs with keypoints.

    Each pair has the files ``NAME_fixed.nii.gz``, ``NAME_moving.nii.gz``, ``NAME_keypoints.csv``
    and, optionally, ``NAME_fixed_mask.nii.gz`` and ``NAME_moving_mask.nii.gz``. A line of
    ``NAME_keypoints.csv`` has six numbers, a point of the fixed image and the corresponding point
    of the moving image; a header line is skipped. The last fifth of the pairs is used for
    validation.

    Args:
        root: the folder.
        space: coordinates of the points: ``RAS`` or ``LPS`` in mm, or ``voxel`` (counted from 0, in
            each image's own grid).
    """

    def __init__(self, root: str | Path, space: str = "RAS") -> None:
        folder = Path(root).expanduser()
        if space not in SPACES:
            raise ArgumentError(f"space is '{space}'; give one of {', '.join(SPACES)}")
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}; correct data.root.")
        self.space = space
        tables = sorted(folder.glob("*_keypoints.csv"))
        if len(tables) < 2:
            raise DataError(
                f"{folder} has {len(tables)} files NAME_keypoints.csv; one to train on and one to"
                " validate on are needed."
            )
        self.found: list[Record] = []
        for number, table in enumerate(tables):
            name = table.name.removesuffix("_keypoints.csv")
            for side in SIDES:
                image, mask = (folder / f"{name}_{side}{part}.nii.gz" for part in ("", "_mask"))
                if not image.is_file():
                    raise DataError(
                        f"There is no {image}, which belongs to {table.name}; add it, or take"
                        f" {table.name} away."
                    )
                split = (
                    "validation" if number >= len(tables) - max(1, len(tables) // 5) else "train"
                )
                self.found.append(
                    Record(
                        name, side, split, image, mask if mask.is_file() else None, landmarks=table
                    )
                )

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        assert record.image is not None
        assert record.landmarks is not None
        subject = read_subject(record.name, record.image, record.mask)
        grid = Grid(subject["image"].spatial_shape, subject["image"].affine)
        subject["landmarks"] = in_world(
            read_keypoints(record.landmarks)[SIDES.index(record.time)], self.space, grid
        )
        check_landmarks(record.name, subject["landmarks"], grid)
        return subject

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return usual_pairs(self.found)


def read_keypoints(path: Path) -> tuple[Tensor, Tensor]:
    """Read the points of both images, ``(N, 3)`` each, float64, in the coordinates of the file.

    Raises:
        DataError: a line does not have six numbers, or there are no points; the message names the
            file and the line.
    """
    rows: list[list[float]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            try:
                values = [float(cell) for cell in cells]
            except ValueError as cause:
                if number == 1:
                    continue
                raise DataError(
                    f"Line {number} of {path} has a value that is no number; correct it."
                ) from cause
            if not values:
                continue
            if len(values) != 6:
                raise DataError(
                    f"Line {number} of {path} has {len(values)} numbers; give six: a point of the"
                    " fixed image, and the moving one's."
                )
            rows.append(values)
    if not rows:
        raise DataError(f"{path} has no keypoints; add a line of six numbers, or take it away.")
    points = torch.tensor(rows, dtype=torch.float64)
    return points[:, :3], points[:, 3:]


def in_world(points: Tensor, space: str, grid: Grid) -> Tensor:
    """Convert points ``(N, 3)`` to RAS mm."""
    if space == "voxel":
        return grid.to_world(points.T.unsqueeze(0))[0].T
    return points * torch.tensor(
        [-1.0, -1.0, 1.0] if space == "LPS" else [1.0, 1.0, 1.0], dtype=torch.float64
    )
