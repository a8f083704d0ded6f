"""Pairs of a cohort: from a table, a folder of scans, or a time series."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from filelock import FileLock

from lightning_reg.data.datasets.identity import content
from lightning_reg.data.datasets.interface import Record, usual_pairs
from lightning_reg.data.datasets.layouts import natural
from lightning_reg.data.datasets.own import COLUMNS, SIDES, find_layout, read_pairs
from lightning_reg.data.datasets.roles import is_image, stem
from lightning_reg.io.folders import written_file
from lightning_reg.io.images import itk_reason, read_image
from lightning_reg.io.names import file_name, unique
from lightning_reg.io.points import read_points
from lightning_reg.registry import DataError, did_you_mean


@dataclass(frozen=True)
class Frame:
    """One time point of a 4D NIfTI file, counted from 0."""

    path: Path
    number: int

    def read(self) -> nib.spatialimages.SpatialImage:
        """Read the time point.

        Raises:
            DataError: the file cannot be read, or has no such time point.
        """
        image = _series(self.path)
        if not 0 <= self.number < image.shape[3]:
            raise DataError(
                f"{self.path} has {image.shape[3]} time points, counted from 0, and none numbered"
                f" {self.number}."
            )
        try:
            return nib.Nifti1Image(np.asarray(image.dataobj[..., self.number]), image.affine)
        except (OSError, ValueError, EOFError) as cause:
            raise DataError(
                f"{self.path} cannot be read as an image ({itk_reason(cause)}); replace the file."
            ) from cause

    def __str__(self) -> str:
        return f"{self.path.resolve()}[{self.number}]"


@dataclass(frozen=True)
class MeanImage:
    """Mean of time points on one grid, computed when it is first read, and stored in a file.

    Args:
        series: path of the time points, for the record.
        path: of the file.
    """

    series: Path
    points: Sequence[Path | Frame]
    path: Path

    def read(self) -> Path:
        """Compute the mean unless its file exists; returns the file's path.

        Raises:
            DataError: the time points have different grids, or one cannot be read.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                if not self.path.exists():
                    _write_mean(self.points, self.path)
        return self.path

    def __str__(self) -> str:
        return f"mean of {self.series.resolve()}"


Source = Path | Frame | MeanImage


@dataclass(frozen=True)
class CohortPair:
    """A pair to register.

    Args:
        name: unique in its cohort; also the name of its folder.
        sources: files by ``fixed, moving, fixed_mask, ...``, see
            :func:`lightning_reg.data.scans.read_pair`.
        problem: a sentence, if the pair's line of the table is not valid.
    """

    name: str
    sources: Mapping[str, Source] = field(default_factory=dict)
    problem: str | None = None

    def opened(self) -> dict[str, Any]:
        """The sources for reading: paths, and images of time points.

        Raises:
            DataError: :attr:`problem`, or a time point cannot be read.
        """
        if self.problem is not None:
            raise DataError(self.problem)
        return {
            key: source if isinstance(source, Path) else source.read()
            for key, source in self.sources.items()
        }

    def images(self) -> set[str]:
        """Contents of the two images, see :func:`~lightning_reg.data.datasets.identity.content`, as
        far as they can be read.
        """
        sources = [self.sources[side] for side in SIDES if side in self.sources]
        contents = [content(one.path, one.number) for one in sources if isinstance(one, Frame)]
        contents += [content(one) for one in sources if isinstance(one, Path)]
        return {text for text in contents if text is not None}

    def described(self) -> dict[str, str]:
        """The sources as text, for the record."""
        return {
            key: str(source.resolve() if isinstance(source, Path) else source)
            for key, source in self.sources.items()
        }


def pairs_from_table(table: Path) -> list[CohortPair]:
    """Read the pairs of a table with the columns of
    :class:`~lightning_reg.data.datasets.own.PairsDataset` and a column ``pair``, the name.

    A line that is not valid gives a pair with a :attr:`~CohortPair.problem`, so that the other
    pairs can be registered.

    Args:
        table: CSV file with the columns ``fixed`` and ``moving``, and if known ``pair``,
            ``fixed_mask``, ``moving_mask``, ...

    Raises:
        DataError: no such file, it is not a table, or a column is missing or unknown.
    """
    lines = read_pairs(table)
    files, homeless = [], set()
    for line, cells in lines:
        try:
            files.append({key: path for key in COLUMNS if (path := _path(table, cells.get(key)))})
        except RuntimeError:  # ~ and an unknown user
            files.append({})
            homeless.add(line)
    usual = _usual_names([[of[side] for side in SIDES if side in of] for of in files])
    named = [cells.get("pair") or name for (_, cells), name in zip(lines, usual, strict=True)]
    names = unique(map(file_name, named))
    pairs = []
    for name, sources, (line, _) in zip(names, files, lines, strict=True):
        lacking = [side for side in SIDES if side not in sources]
        gone = [path for path in sources.values() if not path.exists()]
        problem = None
        if line in homeless:
            problem = (
                f"Line {line} of {table} has a path that begins with ~ and a user's name that this"
                " machine does not know."
            )
        elif lacking:
            problem = (
                f"Line {line} of {table} has no {lacking[0]} image; give one, or remove the line."
            )
        elif gone:
            problem = f"Line {line} of {table}: there is no {gone[0]}; correct the path."
        pairs.append(CohortPair(name, dict(sources), problem))
    return pairs


def _path(table: Path, cell: str | None) -> Path | None:
    return table.parent / Path(cell).expanduser() if cell else None


def pairs_from_folder(
    folder: Path, to: str | None = None, consecutive: bool = False
) -> list[CohortPair]:
    """Pairs of the scans in a folder, of all splits, see
    :func:`~lightning_reg.data.datasets.own.find_layout`.

    Args:
        folder: folder of scans: its usual pairs, all scans ``to`` one of them, or ``consecutive``
            ones.
        to: a scan's name, or a file: the fixed image for all (other) scans; ``None``: the pairs
            listed in the folder, or the usual pairs, see
            :func:`~lightning_reg.data.datasets.interface.usual_pairs`.
        consecutive: register every scan of a subject to the previous one, in the order of their
            names.

    Raises:
        DataError: there are no scans, no such scan, or no pairs.
    """
    layout = find_layout(folder)
    records = [_plain(record, layout.points is read_points) for record in layout.records]
    if consecutive:
        pairs = [(a, b) for a, b in itertools.pairwise(records) if a.subject == b.subject]
        if not pairs:
            raise DataError(
                f"{folder} has one scan per subject, so that none follows another; give their"
                " reference (to)."
            )
    elif to is not None:
        fixed = _reference(to, records)
        pairs = [
            (fixed, record)
            for record in records
            if record.name != fixed.name and not _same(record.image, fixed.image)
        ]
    else:
        new = dict(zip(layout.records, records, strict=True))
        pairs = [(new[fixed], new[moving]) for fixed, moving in layout.pairs or ()] or usual_pairs(
            records
        )
    if not pairs:
        raise DataError(f"{folder} has no pairs to register; give a second scan.")
    names = unique(file_name(f"{fixed.name}__{moving.name}") for fixed, moving in pairs)
    sources = (_sources(fixed, moving) for fixed, moving in pairs)
    return [CohortPair(name, of) for name, of in zip(names, sources, strict=True)]


def pairs_from_series(series: Path, to: str = "0", mean: Path | None = None) -> list[CohortPair]:
    """Pairs of the time points of a series with a fixed time point or with their mean.

    Args:
        series: time points, all registered ``to`` one of them: a 4D NIfTI file, or a folder with
            one file (or DICOM folder) per time point, in the order of their names.
        to: number of the fixed time point, counted from 0, or ``mean``.
        mean: file for the mean image, written when it is first read.

    Raises:
        DataError: no time series, or no such time point.
    """
    points: Sequence[Path | Frame]
    if series.is_dir():
        images = [path for path in series.iterdir() if is_image(path)]
        images = images or [path for path in series.iterdir() if path.is_dir()]
        points = images = sorted(images, key=natural)
        names = [stem(path) for path in images]
    else:
        count = int(_series(series).shape[3])
        points = [Frame(series, k) for k in range(count)]
        names = [f"t{k:0{len(str(count - 1))}d}" for k in range(count)]
    if len(points) < 2:
        raise DataError(f"{series} has {len(points)} time points; give two or more.")
    chosen = int(to) if re.fullmatch("[0-9]+", to) else None
    if to != "mean" and (chosen is None or chosen >= len(points)):
        raise DataError(
            f"to is '{to}'; give the number of a time point, 0 to {len(points) - 1}, or mean."
        )
    fixed: Source
    if chosen is None:
        fixed = MeanImage(series, points, mean or series.with_name("mean.nii.gz"))
    else:
        fixed = points[chosen]
    named = enumerate(zip(unique(map(file_name, names)), points, strict=True))
    return [
        CohortPair(name, {"fixed": fixed, "moving": point})
        for k, (name, point) in named
        if k != chosen
    ]


def _series(path: Path) -> Any:
    try:
        image = nib.load(path)
        shape = image.shape
    except Exception as cause:  # nibabel raises many types of exception for an unreadable file
        raise DataError(
            f"{path} cannot be read as a time series ({itk_reason(cause)}); give a 4D NIfTI file,"
            " or a folder."
        ) from cause
    if len(shape) != 4:
        raise DataError(
            f"{path} has {len(shape)} axes and is no time series; give a 4D NIfTI file, or a folder"
            " with a file per time point."
        )
    return image


def _write_mean(points: Sequence[Path | Frame], path: Path) -> None:
    """Write the mean image of time points on one grid, reading one time point at a time."""
    total, affine = None, np.eye(4)
    for point in points:
        image = read_image(point.read() if isinstance(point, Frame) else point)
        values = image.data[0].double().numpy()
        if total is None:
            total, affine = values.copy(), image.affine
        elif values.shape != total.shape or not np.allclose(affine, image.affine, atol=1e-4):
            raise DataError(
                f"{point} has another grid than the first time point, so there is no mean of them;"
                " give a number (to)."
            )
        else:
            total += values
    assert total is not None
    with written_file(path, overwrite=True) as partial:
        nib.save(nib.Nifti1Image((total / len(points)).astype(np.float32), affine), partial)


def _same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and one.resolve() == other.resolve()


def _plain(record: Record, points: bool) -> Record:
    """The record without its split, and without landmarks of a format of their own."""
    return replace(record, split="train", landmarks=record.landmarks if points else None)


def _reference(to: str, records: Sequence[Record]) -> Record:
    named = {record.name: record for record in records}
    if to in named:
        return named[to]
    path = Path(to).expanduser()
    if path.exists():
        return Record(stem(path), image=path)
    some = ", ".join(list(named)[:8])
    raise DataError(
        f"There is no scan and no file '{to}'{did_you_mean(to, list(named))} There are"
        f" {some}{', ...' if len(named) > 8 else ''}."
    )


def _sources(fixed: Record, moving: Record) -> dict[str, Source]:
    records = {"fixed": fixed, "moving": moving}
    files = {key: getattr(records[side], part) for key, (side, part) in COLUMNS.items()}
    return {key: path for key, path in files.items() if path is not None}


def _usual_names(pairs: Sequence[Sequence[Path]]) -> list[str]:
    """Names ``fixed__moving``, with as many parent folders as tell all files apart."""
    files = {path for pair in pairs for path in pair}
    depth = 1
    while depth < 6 and len({_tail(path, depth) for path in files}) < len(files):
        depth += 1
    return ["__".join(_tail(path, depth) for path in pair) for pair in pairs]


def _tail(path: Path, depth: int) -> str:
    folders = path.parent.parts
    return "-".join([*folders[max(0, len(folders) - depth + 1) :], stem(path)])
