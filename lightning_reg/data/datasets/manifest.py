"""Format of a prepared data set: images with their parts, and two tables that describe them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torchio as tio

from lightning_reg.data.datasets.interface import (
    PARTS,
    SPLITS,
    Record,
    RegistrationDataset,
    usual_pairs,
)
from lightning_reg.data.datasets.loading import load_files
from lightning_reg.data.preprocessing import Geometry
from lightning_reg.io.folders import inside, write_whole
from lightning_reg.io.reading import read_json
from lightning_reg.io.tables import read_table, write_table
from lightning_reg.registry import DataError, construct, did_you_mean
from lightning_reg.spatial import Grid

MANIFEST, PAIRS, GEOMETRY = "manifest.csv", "pairs.csv", "geometry.json"
OTHERS = ("source", "original_shape", "original_affine")
COLUMNS = ("scan", "subject", "time", "split", *PARTS, *OTHERS)


@dataclass(frozen=True)
class Row:
    """A row of the manifest: a scan and its origin.

    Args:
        record: the scan; its files are below the data set's folder.
        source: the provider's file.
        original: the grid of the provider's image.
    """

    record: Record
    source: str
    original: Grid

    def cells(self, folder: Path) -> dict[str, str]:
        record = self.record
        paths = {part: getattr(record, part) for part in PARTS}
        return {
            "scan": record.name, "subject": record.subject, "time": record.time,
            "split": record.split,
            **{part: p.relative_to(folder).as_posix() if p else "" for part, p in paths.items()},
            "source": self.source,
            "original_shape": " ".join(map(str, self.original.shape)),
            "original_affine": " ".join(
                f"{v:.9g}" for v in self.original.affine[0, :3].flatten().tolist()
            ),
        }  # fmt: skip


def read_rows(manifest: Path) -> list[Row]:
    """Read the rows of a manifest.

    Raises:
        DataError: lists all problems: missing columns, unknown splits, repeated names, missing
            files.
    """
    rows: list[Row] = []
    problems: list[str] = []
    names: set[str] = set()
    for line, cells in read_table(manifest, ("subject", "split", "image")):
        where = f"Line {line} of {manifest}"
        if cells["split"] not in SPLITS:
            problems.append(
                f"{where} has the split '{cells['split']}'{did_you_mean(cells['split'], SPLITS)}"
                f" Known: {', '.join(SPLITS)}."
            )
            continue
        if not cells["image"]:
            problems.append(f"{where} has no image; give one, or remove the line.")
            continue
        row = row_from_cells(cells, manifest.parent, where)
        lacking = [path for path in row.record.files() if not path.exists()]
        problems += [
            f"{where}: there is no file {path}; correct the path, or prepare again."
            for path in lacking
        ]
        if row.record.name in names:
            problems.append(
                f"{where} is a second scan named '{row.record.name}'; give it another time."
            )
        names.add(row.record.name)
        rows.append(row)
    if problems:
        raise DataError(together(problems))
    return rows


def row_from_cells(cells: Mapping[str, str], folder: Path, where: str) -> Row:
    """Make a row from its cells; paths are relative to ``folder``.

    Raises:
        DataError: the original grid is invalid (``where`` names the row), or a path leads out of
            the folder.
    """
    record = Record(cells["subject"], cells.get("time", ""), cells["split"])  # type: ignore[arg-type]
    paths = {part: inside(folder, cells[part], links=True) for part in PARTS if cells.get(part)}
    return Row(record.holding(paths), cells.get("source", ""), _original(cells, where))


def _original(cells: Mapping[str, str], where: str) -> Grid:
    """Read the original grid of a row; a grid of one voxel if the table does not have it."""
    shape, affine = (
        cells.get("original_shape", "").split(),
        cells.get("original_affine", "").split(),
    )
    if not shape:
        return Grid.regular((1, 1, 1))
    try:
        matrix = np.eye(4)
        matrix[:3] = np.array([float(v) for v in affine]).reshape(3, 4)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), matrix)
    except (ValueError, IndexError) as cause:
        raise DataError(
            f"{where} has no three extents and twelve numbers in original_shape and"
            " original_affine; prepare again."
        ) from cause


def together(problems: Sequence[str]) -> str:
    """Join several problems to one message; only the first twenty are listed."""
    rest = [f"... and {len(problems) - 20} more."] if len(problems) > 20 else []
    return "\n".join([*problems[:20], *rest])


def write_tables(
    folder: Path, rows: Sequence[Row], pairs: Sequence[tuple[Record, Record]], geometry: Geometry
) -> None:
    """Write ``manifest.csv``, ``pairs.csv`` and ``geometry.json``, each atomically."""
    if pairs:
        write_table(folder / PAIRS, [{"fixed": f.name, "moving": m.name} for f, m in pairs])
    else:
        (folder / PAIRS).unlink(missing_ok=True)
    write_whole(folder / GEOMETRY, (json.dumps(asdict(geometry), indent=2) + "\n").encode())
    write_table(folder / MANIFEST, [row.cells(folder) for row in rows], COLUMNS)


def _read_geometry(path: Path) -> Geometry:
    return construct(path.name, Geometry, read_json(path, "prepare the data again"))


class PreparedDataset(RegistrationDataset):
    """Data written by ``lightning-reg prepare``, or your own table in the same format.

    Args:
        root: the folder with ``manifest.csv``, or the manifest itself. Required columns:
            ``subject, split, image`` (paths relative to the manifest's folder); optional columns:
            ``time, mask, labels, landmarks``. ``pairs.csv`` in the same folder has the columns
            ``fixed, moving``, with names of scans (``subject time``); without it, the pairs are
            those of :func:`~lightning_reg.data.datasets.interface.usual_pairs`.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root).expanduser()
        self.manifest = path if path.suffix == ".csv" else path / MANIFEST
        if not self.manifest.is_file():
            raise DataError(
                f"There is no {self.manifest}; prepare the data first, with lightning-reg prepare."
            )
        self.rows = read_rows(self.manifest)
        stored = self.manifest.with_name(GEOMETRY)
        self.geometry = _read_geometry(stored) if stored.is_file() else Geometry()

    def records(self) -> Sequence[Record]:
        return [row.record for row in self.rows]

    def load(self, record: Record) -> tio.Subject:
        return load_files(record, cropped=self.geometry.crop is not None)

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        table = self.manifest.with_name(PAIRS)
        if not table.is_file():
            return usual_pairs(self.records())
        named = {record.name: record for record in self.records()}
        pairs = []
        for line, cells in read_table(table, ("fixed", "moving")):
            unknown = [cells[side] for side in ("fixed", "moving") if cells[side] not in named]
            if unknown:
                raise DataError(
                    f"Line {line} of {table} names the scan '{unknown[0]}', which"
                    f" {self.manifest.name} does not have; correct it."
                )
            pairs.append((named[cells["fixed"]], named[cells["moving"]]))
        return pairs
