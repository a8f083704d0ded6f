"""Files of landmarks. The header gives the coordinate system; nothing is guessed."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg.io.images import as_array
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid

COLUMNS = {"RAS": ("x", "y", "z"), "LPS": ("x_lps", "y_lps", "z_lps"), "voxel": ("i", "j", "k")}
HELP = (
    "a CSV file with the columns x,y,z (RAS mm), x_lps,y_lps,z_lps (LPS mm) or i,j,k (voxels of the"
    " image, counted from 0), a file of ANTs (columns x,y,z,t, LPS mm), or a markups file of Slicer"
    " (.fcsv, .mrk.json)"
)
ANTS = ["x", "y", "z", "t"]
"""First columns of points of ``antsApplyTransformsToPoints``, which are LPS mm."""
UNITS = {"mm": 1.0, "um": 1e-3, "µm": 1e-3, "cm": 10.0, "m": 1000.0}
"""Units of Slicer's control points, mm."""


@dataclass(frozen=True)
class PointFile:
    """Points as stored in a file: ``values`` ``(N, 3)`` float64, in ``space`` ``RAS``, ``LPS`` or
    ``voxel``.

    ``labels`` name the points; none if the file has none, or the same one twice.
    """

    values: Tensor
    space: str
    labels: tuple[str, ...] = ()

    def world(self, grid: Grid | None = None) -> Tensor:
        """Convert to RAS mm, ``(N, 3)``.

        Args:
            grid: grid of the image, for points in voxels ``i,j,k``.

        Raises:
            DataError: the points are in voxels, and there is no grid.
        """
        if self.space == "RAS":
            return self.values
        if self.space == "LPS":
            return self.values * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
        if grid is None:
            raise DataError(
                "Points in voxels (columns i,j,k) need their image; give it as `reference`,"
                " or mm: columns x,y,z (RAS) or x_lps,y_lps,z_lps."
            )
        return grid.to_world(self.values.T.unsqueeze(0))[0].T


def as_points(values: Any, name: str) -> Tensor:
    """Points in RAS mm, ``(N, 3)`` float64, of an array, a tensor or nested lists.

    Args:
        name: what the points are, for the message.

    Raises:
        DataError: not ``(N, 3)`` finite numbers.
    """
    array = as_array(values)
    if (
        array.ndim != 2
        or array.shape[1] != 3
        or array.dtype.kind not in "iuf"
        or not np.isfinite(array).all()
    ):
        raise DataError(
            f"{name} are {array.shape} of {array.dtype}; give (N, 3) finite numbers in RAS mm."
        )
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def read_points(path: Path) -> PointFile:
    """Read landmarks.

    Args:
        path: see :data:`HELP`.

    Raises:
        DataError: no such file, unknown columns, or a value that is no number; the message names
            the line.
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
    except (
        UnicodeDecodeError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        csv.Error,
    ) as cause:
        raise DataError(
            f"{path} cannot be read as points ({type(cause).__name__}: {cause}); give {HELP}."
        ) from cause
    if not len(points.values):
        raise DataError(f"{path} holds no points; give {HELP}.")
    return points


def read_plain(path: Path, space: str, first: int = 0) -> PointFile:
    """Read landmarks from text without a header: three numbers per line, separated by blanks, tabs
    or commas.

    Lines that begin with ``#`` are ignored.

    Args:
        space: ``RAS``, ``LPS`` or ``voxel``, as the provider documents it.
        first: index of the first voxel, 0 or 1.

    Raises:
        DataError: as :func:`read_points`.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; correct the path.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} is no text file ({cause}); replace it.") from cause
    rows = [
        (number, line.replace(",", " ").split() if line.count(",") == 2 else line.split())
        for number, line in enumerate(lines, 1)
    ]
    values = _numbers(
        path,
        _without_empty_end(
            path, [row for row in rows if not row[1] or not row[1][0].startswith("#")]
        ),
    )
    if not len(values):
        raise DataError(f"{path} holds no points; replace it.")
    return PointFile(values - first, space)


def _without_empty_end(
    path: Path, rows: list[tuple[int, list[str]]]
) -> list[tuple[int, list[str]]]:
    """Drop empty lines at the end; refuse others, after which points would not correspond."""
    while rows and not any(cell.strip() for cell in rows[-1][1]):
        rows.pop()
    empty = [line for line, row in rows if not any(cell.strip() for cell in row)]
    if empty:
        raise DataError(
            f"Line {empty[0]} of {path} is empty; points of the two images correspond by their"
            " order, so fill the line, or remove it and the same point of the other image."
        )
    return rows


def _read_csv(path: Path) -> PointFile:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        names = [name.strip() for name in next(reader, [])]
        rows = _without_empty_end(path, [(reader.line_num, row) for row in reader])
    known = {"LPS": ("x", "y", "z")} if names[:4] == ANTS else COLUMNS
    space = next((space for space, columns in known.items() if set(columns) <= set(names)), None)
    if space is None:
        raise DataError(
            f"{path} has the columns {', '.join(names) or 'of an empty file'}; give {HELP}."
        )
    for line, row in rows:
        if any(map(_is_number, row[len(names) :])):
            raise DataError(
                f"Line {line} of {path} has more numbers than the header has columns; write decimal"
                " points instead of commas."
            )
    at = [names.index(column) for column in known[space]]
    values = _numbers(path, [(line, [row[a] for a in at if a < len(row)]) for line, row in rows])
    return PointFile(values, space, _labels(names, [row for _, row in rows]))


def _labels(names: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Cells of the column ``label``, if they tell all points apart."""
    at = names.index("label") if "label" in names else len(names)
    return _distinct([row[at].strip() if at < len(row) else "" for row in rows])


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels) if all(labels) and len(set(labels)) == len(labels) else ()


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _numbers(path: Path, rows: Sequence[tuple[int | str, Sequence[object]]]) -> Tensor:
    """Points ``(N, 3)`` from rows and their names."""
    values = []
    for line, row in rows:
        try:
            values.append([float(str(cell)) for cell in row])
            if len(row) != 3 or not all(map(math.isfinite, values[-1])):
                raise ValueError("not three finite numbers")
        except ValueError as cause:
            remedy = (
                "write decimal points instead of commas"
                if any("," in str(cell) for cell in row)
                else "correct it"
            )
            raise DataError(
                f"Line {line} of {path} is not three numbers ({' | '.join(map(str, row))});"
                f" {remedy}."
            ) from cause
    return torch.tensor(values, dtype=torch.float64).view(-1, 3)


def _space(path: Path, name: str | None) -> str:
    if name is None:
        raise DataError(
            f"{path} does not say in which coordinate system its points are; export it from Slicer"
            " again."
        )
    known = {"0": "RAS", "RAS": "RAS", "1": "LPS", "LPS": "LPS", "2": "voxel", "IJK": "voxel"}
    if name.strip().upper() not in known:
        raise DataError(
            f"{path} has points in the coordinate system '{name.strip()}'; export them in RAS or"
            " LPS."
        )
    return known[name.strip().upper()]


def _read_fcsv(path: Path) -> PointFile:
    text = path.read_text(encoding="utf-8")
    system, columns = (
        re.search(rf"^.*{key}.*?=([^=\n]*)", text, re.MULTILINE)
        for key in ("CoordinateSystem", "# *columns *")
    )
    space = _space(path, system and system[1])
    rows = [
        (number, next(csv.reader([line])))
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    values = _numbers(path, [(number, row[1:4]) for number, row in rows])
    names = columns[1].strip().split(",") if columns else []
    return PointFile(values, space, _labels(names, [row for _, row in rows]))


def _read_markups(path: Path) -> PointFile:
    markups = read_json(path)["markups"]
    if len(markups) > 1:
        raise DataError(
            f"{path} has {len(markups)} lists of points; save the list that is meant as a file of"
            " its own."
        )
    markup = markups[0]
    points = [*enumerate(markup["controlPoints"], 1)]
    for number, point in points:
        if point.get("positionStatus", "defined") != "defined":
            raise DataError(f"Point {number} of {path} was never placed; place or remove it.")
    space = _space(path, markup.get("coordinateSystem"))
    unit = str(markup.get("coordinateUnits", "mm"))
    if unit not in UNITS:
        raise DataError(f"{path} has points in the unit {unit}; export them in mm.")
    values = UNITS[unit] * _numbers(
        path, [(number, point["position"] or ()) for number, point in points]
    )
    labels = _distinct([str(point.get("label") or "") for _, point in points])
    return PointFile(values, space, labels)


def write_points(path: Path, world: Tensor, space: str = "RAS", labels: Sequence[str] = ()) -> None:
    """Write points ``(N, 3)``, given in RAS mm, as CSV in RAS or LPS mm, with any labels."""
    values = (
        world.double() * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
        if space == "LPS"
        else world.double()
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[space], *(["label"] if labels else [])])
        names = [[label] for label in labels] or [[]] * len(values)
        writer.writerows(
            [*(f"{v:.6f}" for v in row), *name]
            for row, name in zip(values.tolist(), names, strict=True)
        )
