"""Landmarks as files. The header says which coordinates they are in; nothing is guessed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_reg.discovery import DataError
from lightning_reg.spatial import Grid

COLUMNS = {"RAS": ("x", "y", "z"), "LPS": ("x_lps", "y_lps", "z_lps"), "voxel": ("i", "j", "k")}
HELP = (
    "a CSV file with the columns x,y,z (RAS mm), x_lps,y_lps,z_lps (LPS mm) or i,j,k (voxels of the image, counted from 0), "
    "or a markups file of Slicer (.fcsv, .mrk.json)"
)


@dataclass(frozen=True)
class PointFile:
    """Points as they stand in a file: ``values`` ``(N, 3)`` float64, in ``space`` ``RAS``, ``LPS`` or ``voxel``."""

    values: Tensor
    space: str

    def world(self, grid: Grid | None = None) -> Tensor:
        """``(N, 3)`` RAS mm.

        Args:
            grid: of the image whose voxels ``i,j,k`` count.

        Raises:
            DataError: they are voxels and there is no grid.
        """
        if self.space == "RAS":
            return self.values
        if self.space == "LPS":
            return self.values * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
        if grid is None:
            raise DataError("Points in voxels (columns i,j,k) need an image; give them in mm: columns x,y,z (RAS) or x_lps,y_lps,z_lps.")
        return grid.to_world(self.values.T.unsqueeze(0))[0].T


def read_points(path: Path) -> PointFile:
    """Read landmarks.

    Args:
        path: see :data:`HELP`.

    Raises:
        DataError: no such file, no such columns, or a value that is no number; names the line.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; correct the path.")
    try:
        if path.name.endswith(".json"):
            points = _read_markups(path)
        elif path.suffix == ".fcsv":
            points = _read_fcsv(path)
        else:
            points = _read_csv(path)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, IndexError) as cause:
        raise DataError(f"{path} cannot be read as points ({cause}); give {HELP}.") from cause
    if not len(points.values):
        raise DataError(f"{path} holds no points; give {HELP}.")
    return points


def _read_csv(path: Path) -> PointFile:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
        names = [name.strip() for name in rows[0]] if rows else []
    space = next((space for space, columns in COLUMNS.items() if set(columns) <= set(names)), None)
    if space is None:
        raise DataError(f"{path} has the columns {', '.join(names) or 'of an empty file'}; give {HELP}.")
    stripped = [{str(k).strip(): v for k, v in row.items()} for row in rows]
    return PointFile(_numbers(path, [[row[c] for c in COLUMNS[space]] for row in stripped], 2), space)


def _numbers(path: Path, rows: Sequence[Sequence[object]], first: int) -> Tensor:
    values = []
    for line, row in enumerate(rows, first):
        try:
            values.append([float(str(cell)) for cell in row])
            if not all(map(math.isfinite, values[-1])):
                raise ValueError("not finite")
        except ValueError as cause:
            raise DataError(f"Line {line} of {path} is not three numbers ({', '.join(map(str, row))}); correct it.") from cause
    return torch.tensor(values, dtype=torch.float64).view(-1, 3)


def _read_fcsv(path: Path) -> PointFile:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = next((line for line in lines if "CoordinateSystem" in line), "# CoordinateSystem = 0")
    space = "LPS" if header.split("=")[1].strip() in ("1", "LPS") else "RAS"
    rows = [line.split(",")[1:4] for line in lines if line.strip() and not line.startswith("#")]
    return PointFile(_numbers(path, rows, 1 + sum(line.startswith("#") for line in lines)), space)


def _read_markups(path: Path) -> PointFile:
    markup = json.loads(path.read_text(encoding="utf-8"))["markups"][0]
    rows = [point["position"] for point in markup["controlPoints"]]
    return PointFile(_numbers(path, rows, 1), str(markup.get("coordinateSystem", "LPS")))


def write_points(path: Path, world: Tensor, space: str = "RAS") -> None:
    """Write points ``(N, 3)``, given in RAS mm, as CSV in RAS or LPS mm."""
    values = world.double() * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64) if space == "LPS" else world.double()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS[space])
        writer.writerows([f"{v:.6f}" for v in row] for row in values.tolist())
