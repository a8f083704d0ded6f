"""DICOM series: found, sorted, and refused if slices are missing, duplicated or sheared."""

from __future__ import annotations

import itertools
import locale
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torchio as tio

from lightning_reg.discovery import DataError

POSITION, ORIENTATION = "0020|0032", "0020|0037"


class _Slice(NamedTuple):
    path: Path
    position: np.ndarray
    normal: np.ndarray


def read_folder(folder: Path, kind: type[tio.Image] = tio.ScalarImage) -> tio.Image:
    """Read the only DICOM series in a folder.

    Raises:
        DataError: there is no series, there are several, or as :func:`read_slices`.
    """
    with gdcm():
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        series = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found}
    if not series:
        raise DataError(f"The folder {folder} holds no DICOM series; give a file, or the folder with the slices.")
    if len(series) > 1:
        sizes = ", ".join(f"{len(files)} slices in {Path(files[0]).name}..." for files in series.values())
        raise DataError(f"The folder {folder} holds {len(series)} DICOM series ({sizes}); move one of them to a folder of its own.")
    image, _ = read_slices([Path(file) for file in next(iter(series.values()))], f"The DICOM series in {folder}", kind)
    image.path = folder
    return image


def read_slices(files: Sequence[Path], name: str, kind: type[tio.Image] = tio.ScalarImage) -> tuple[tio.Image, list[int]]:
    """Read one volume from its slices, given in any order.

    Args:
        name: name of the volume in messages.

    Returns:
        The image, and for each of its slices the index of its file in ``files``.

    Raises:
        DataError: a slice is missing or duplicated, the gantry was tilted, or a file cannot be read.
    """
    try:
        with gdcm():
            slices = [_header(path) for path in files]
            order = list(range(len(files)))
            located = [s for s in slices if s is not None]
            if len(located) == len(files) > 1:
                order.sort(key=lambda k: float(located[k].position @ located[0].normal))
                _require_regular([located[k] for k in order], name)
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames([str(files[k]) for k in order])
            return kind.from_sitk(reader.Execute()), order
    except (RuntimeError, ValueError) as cause:
        first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise DataError(f"{name} cannot be read ({first}); export it again.") from cause


def _header(path: Path) -> _Slice | None:
    """Position of a slice, LPS mm; ``None`` if the file does not contain it."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if not all(reader.HasMetaDataKey(key) for key in (POSITION, ORIENTATION)):
        return None
    position, axes = (np.array([float(v) for v in reader.GetMetaData(key).split("\\")]) for key in (POSITION, ORIENTATION))
    return _Slice(path, position, np.cross(axes[:3], axes[3:]))


def _require_regular(slices: Sequence[_Slice], name: str) -> None:
    normal = slices[0].normal
    steps = np.diff([s.position for s in slices], axis=0)
    gaps = steps @ normal
    usual = float(np.median(gaps))
    for (first, second), gap in zip(itertools.pairwise(slices), gaps, strict=True):
        if gap < 0.01 * max(usual, 1e-3) or gap < 1e-3:
            raise DataError(f"{name} has two slices at one place ({first.path.name}, {second.path.name}); remove one, or export it again.")
        if gap > 1.5 * usual:
            missing = max(1, round(gap / usual) - 1)
            raise DataError(
                f"{name} lacks {missing} slice{'s' if missing > 1 else ''} between {first.path.name} and {second.path.name} (they are "
                f"{gap:.3g} mm apart, the others {usual:.3g} mm); export it again, completely."
            )
    along = np.outer(gaps, normal)
    tilt = math.degrees(math.atan2(float(np.linalg.norm((steps - along).sum(0))), float(gaps.sum())))
    if tilt > 0.5:
        raise DataError(
            f"{name} was taken with the gantry tilted by {tilt:.1f} degrees: its slices are sheared; resample it first, as dcm2niix does."
        )


@contextmanager
def gdcm() -> Iterator[None]:
    """Context manager for calls of GDCM: hide its warnings about other files in a folder, and restore the locale.

    GDCM sets the locale of the process to C, after which Python would read text files as ASCII.
    """
    shown, text = sitk.ProcessObject.GetGlobalWarningDisplay(), locale.setlocale(locale.LC_CTYPE)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        locale.setlocale(locale.LC_CTYPE, text)
