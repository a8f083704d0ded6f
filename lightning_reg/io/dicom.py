"""DICOM series and multi-frame files, read only if all slices belong to one regular volume."""

from __future__ import annotations

import locale
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torchio as tio
from numpy.typing import NDArray

from lightning_reg.registry import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[np.float64]
ALONG = 0.1
"""Largest distance of a slice from its place, as a fraction of the slice distance."""
BESIDE = 0.5
"""The same in the plane of the slices, in pixels."""
SAME = 1e-3
"""Largest difference of direction cosines, and relative difference of pixel spacings, in a volume.
"""


FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


class _Slice(NamedTuple):
    """Header of a slice: a file, or a frame of a multi-frame file.

    Args:
        file, frame: number of the file, and of the frame in it.
        name: name in messages.
        size: columns and rows.
        spacing: pixel size, mm, along a row and along a column.
        position: of the first pixel, LPS mm.
        axes: directions of a row and of a column, ``(6,)`` LPS.
        echo: echo time, ms.
        kinds: properties that all slices of a volume share.
        scaling: slope and intercept of a frame.
    """

    file: int
    frame: int
    name: str
    size: tuple[int, int]
    spacing: Array
    position: Array
    axes: Array
    echo: float
    kinds: dict[str, str]
    scaling: tuple[float, float] = (1.0, 0.0)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # reported when the file is read
        return False


def read_folder(folder: Path, kind: type[tio.Image] = tio.ScalarImage) -> tio.Image:
    """Read the only DICOM series in a folder.

    Raises:
        DataError: there is no series, there are several, a DICOM file belongs to none, or as
            :func:`read_slices`.
    """
    with gdcm():
        uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        series = {
            uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in uids
        }
    if not series:
        raise DataError(
            f"The folder {folder} holds no DICOM series; give a file, or the folder with the"
            " slices."
        )
    if len(series) > 1:
        sizes = ", ".join(
            f"{len(files)} slices in {Path(files[0]).name}..." for files in series.values()
        )
        raise DataError(
            f"The folder {folder} holds {len(series)} DICOM series ({sizes}); move one of them to a"
            " folder of its own."
        )
    files = [Path(file) for file in next(iter(series.values()))]
    for path in sorted(folder.iterdir()):
        if path.name not in {"DICOMDIR", *(file.name for file in files)} and is_dicom(path):
            raise DataError(
                f"{path} is a DICOM file whose series cannot be read: it is damaged or cut off;"
                " replace or remove it."
            )
    image, _ = read_slices(files, f"The DICOM series in {folder}", kind)
    image.path = folder
    return image


def read_slices(
    files: Sequence[Path], name: str, kind: type[tio.Image] = tio.ScalarImage
) -> tuple[tio.Image, list[int]]:
    """Read one volume from its slices, given in any order, or from multi-frame files.

    Args:
        name: name of the volume in messages.

    Returns:
        The image, each slice with its own slope and intercept, and the index in ``files`` of each
        slice. A single slice without position, orientation or pixel spacing lies at the origin,
        with pixels of 1 mm.

    Raises:
        DataError: the slices are not one regular volume: their sizes, pixel spacings, orientations,
            echo times, image types, time points or stacks differ, a position is missing, or a slice
            is not at its place (see :data:`ALONG`, :data:`BESIDE`); or a file cannot be read.
    """
    with gdcm():
        slices = [part for number, path in enumerate(files) for part in _headers(number, path)]
        if len(slices) == 1:
            slices = [_placed(slices[0])]
        x, y, z = _require_alike(slices, name)
        slices.sort(key=lambda part: float(part.position @ z))
        gap = _require_regular(slices, z, name)
        image = sitk.GetImageFromArray(_values(slices, files))
    image.SetOrigin(slices[0].position.tolist())
    image.SetSpacing((*slices[0].spacing.tolist(), gap))
    image.SetDirection(np.stack([x, y, z], axis=1).ravel().tolist())
    return kind.from_sitk(image), [part.file for part in slices]


def _headers(number: int, path: Path) -> list[_Slice]:
    """Header of a slice, or of each frame of a multi-frame file."""
    from pydicom import dcmread  # imported late for a faster start-up

    try:
        _reader(path).ReadImageInformation()  # refuses files that are cut off
        return _slices(number, path, dcmread(path, stop_before_pixels=True))
    except DataError:
        raise
    except Exception as cause:  # pydicom raises many kinds for values that it cannot read
        raise _damaged(path) from cause


def _slices(number: int, path: Path, header: Dataset) -> list[_Slice]:
    """Headers from that of a file: its own values, or those of its functional groups."""
    if header.get("BitsAllocated") == 1:
        raise DataError(
            f"{path} is a DICOM segmentation of one bit per voxel; convert it to NIfTI first, for"
            " instance with dcmqi."
        )
    frames, shared = (
        header.get(f"{of}FunctionalGroupsSequence") or () for of in ("PerFrame", "Shared")
    )
    if not frames and int(header.get("NumberOfFrames") or 1) > 1:
        raise DataError(
            f"{path} has {header.NumberOfFrames} frames without positions (as a film or a dose"
            " has); convert it to NIfTI first."
        )

    def value(frame: Dataset, key: str, *groups: str) -> Any:
        items = [
            item for part in (frame, *shared) for group in groups for item in part.get(group) or ()
        ]
        return next((item[key].value for item in (*items, frame) if key in item), None)

    slices = []
    for place, frame in enumerate(frames or [header]):
        slope, intercept = (
            value(frame, key, "PixelValueTransformationSequence")
            for key in ("RescaleSlope", "RescaleIntercept")
        )
        spacing = _numbers(  # at the patient, or at the detector of a radiograph
            value(frame, "PixelSpacing", "PixelMeasuresSequence")
            or value(frame, "ImagerPixelSpacing"),
            2,
        )
        types = value(frame, "FrameType", *FRAME_TYPES) or value(frame, "ImageType") or ()
        echo = value(frame, "EffectiveEchoTime", "MREchoSequence") or value(frame, "EchoTime")
        time = value(frame, "TemporalPositionIndex", "FrameContentSequence") or value(
            frame, "TemporalPositionIdentifier"
        )
        slices.append(
            _Slice(
                number,
                place,
                f"frame {place + 1} of {path.name}" if frames else path.name,
                (int(header.Columns), int(header.Rows)),
                spacing[::-1],
                _numbers(value(frame, "ImagePositionPatient", "PlanePositionSequence"), 3),
                _numbers(value(frame, "ImageOrientationPatient", "PlaneOrientationSequence"), 6),
                float(echo or 0.0),
                {
                    "image types": "/".join(types),
                    "time points": str(time or ""),
                    "stacks": str(value(frame, "StackID", "FrameContentSequence") or ""),
                },
                (float(slope or 1.0), float(intercept or 0.0)) if frames else (1.0, 0.0),
            )
        )
    return slices


def _numbers(values: Sequence[Any] | None, count: int) -> Array:
    """``count`` numbers; NaN if the header does not give them."""
    try:
        numbers = np.array([float(value) for value in values or ()])
    except ValueError:
        numbers = np.empty(0)
    return numbers if len(numbers) == count else np.full(count, np.nan)


def _placed(part: _Slice) -> _Slice:
    """A 2D image with what its header lacks: a position at the origin, rows and columns along the
    world's axes, and pixels of 1 mm.
    """

    def given(values: Array, default: Sequence[float]) -> Array:
        return values if np.isfinite(values).all() else np.array(default)

    return part._replace(
        spacing=given(part.spacing, (1.0, 1.0)),
        position=given(part.position, (0.0, 0.0, 0.0)),
        axes=given(part.axes, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    )


def _require_alike(slices: Sequence[_Slice], name: str) -> tuple[Array, Array, Array]:
    """Refuse slices of different kinds; return the directions of rows, columns and slices, LPS."""
    for part in slices:
        if not np.isfinite([*part.position, *part.axes, *part.spacing]).all():
            raise DataError(
                f"{name} cannot be placed: {part.name} lacks its position, orientation or pixel"
                " spacing; export it again with them."
            )
    tables = {
        "sizes": (np.array([part.size for part in slices], dtype=float), 0.5),
        "pixel spacings": (
            np.array([part.spacing for part in slices]),
            SAME * slices[0].spacing.min(),
        ),
        "orientations": (np.array([part.axes for part in slices]), SAME),
        "echo times": (np.array([[part.echo] for part in slices]), 0.1 * slices[0].echo),
    }
    for what, (table, tolerance) in tables.items():
        apart = np.abs(table - np.median(table, axis=0)).max(axis=1)
        if (apart > tolerance).any():
            odd = int(apart.argmax())
            other = int(np.abs(table - table[odd]).max(axis=1).argmax())
            _refuse_mixed(
                name,
                what,
                [(slices[k].name, ", ".join(f"{v:.4g}" for v in table[k])) for k in (odd, other)],
            )
    for what in slices[0].kinds:
        counts = Counter(part.kinds.get(what) or "none" for part in slices).most_common()
        if len(counts) > 1:
            names = [
                next(part.name for part in slices if (part.kinds.get(what) or "none") == kind)
                for kind, _ in counts
            ]
            _refuse_mixed(name, what, [(names[-1], counts[-1][0]), (names[0], counts[0][0])])
    x, y = slices[0].axes[:3], slices[0].axes[3:]
    z = np.cross(x, y)
    if not 0.99 < np.linalg.norm(z) < 1.01:
        raise DataError(
            f"{name} has an orientation that is none ({slices[0].axes.tolist()}); export it again."
        )
    x, z = x / np.linalg.norm(x), z / np.linalg.norm(z)
    return x, np.cross(z, x), z


def _refuse_mixed(name: str, what: str, pair: Sequence[tuple[str, str]]) -> None:
    (odd, one), (other, two) = pair
    raise DataError(
        f"{name} mixes slices of different {what} ({odd}: {one}; {other}: {two}); keep those of one"
        " volume, or convert it with dcm2niix."
    )


def _require_regular(slices: Sequence[_Slice], z: Array, name: str) -> float:
    """Refuse sorted slices that are not at equal distances; return the distance, mm."""
    positions = np.array([part.position for part in slices]) - slices[0].position
    along = positions @ z
    if len(slices) == 1:
        return 1.0
    gaps = np.diff(along)
    usual = float(np.quantile(gaps, 0.9, method="lower"))  # also where most slices are doubled
    k = int(gaps.argmin())
    if gaps[k] <= ALONG * usual:
        raise DataError(
            f"{name} has two slices at one place ({slices[k].name}, {slices[k + 1].name}): a copy,"
            " or several volumes (time points, echoes, contrasts) in one; keep those of one"
            " volume, or convert it with dcm2niix."
        )
    gap = float(along[-1]) / len(gaps)
    if np.abs(along - gap * np.arange(len(slices))).max() > ALONG * gap:
        usual = float(np.median(gaps))
        k = int(np.abs(gaps - usual).argmax())
        raise DataError(
            f"{name} has slices at unequal distances: {usual:.4g} mm, but {gaps[k]:.4g} mm between"
            f" {slices[k].name} and {slices[k + 1].name}; export the missing slices, or, if none is"
            " missing, convert it with dcm2niix, which resamples it."
        )
    beside = positions - np.outer(along, z)
    tolerance = BESIDE * float(slices[0].spacing.min())
    if np.linalg.norm(beside, axis=1).max() > tolerance:
        sheared = np.outer(np.linspace(0.0, 1.0, len(slices)), beside[-1])
        if np.linalg.norm(beside - sheared, axis=1).max() <= tolerance:
            tilt = math.degrees(math.atan2(float(np.linalg.norm(beside[-1])), float(along[-1])))
            raise DataError(
                f"{name} was taken with the gantry tilted by {tilt:.1f} degrees: its slices are"
                " sheared; convert it with dcm2niix, which resamples it."
            )
        apart = np.linalg.norm(beside - np.median(beside, axis=0), axis=1)
        k = int(apart.argmax())
        raise DataError(
            f"{name} has a slice that lies {apart[k]:.3g} mm beside the others ({slices[k].name});"
            " keep those of one volume."
        )
    return gap


def _values(slices: Sequence[_Slice], files: Sequence[Path]) -> NDArray[Any]:
    """Intensities ``(slices, rows, columns)``, of a type that holds those of every slice."""
    planes: list[NDArray[Any]] = [np.empty(0)] * len(slices)
    for number, path in enumerate(files):
        try:
            volume = sitk.GetArrayFromImage(_reader(path).Execute())
        except RuntimeError as cause:
            raise _damaged(path) from cause
        own = [k for k, part in enumerate(slices) if part.file == number]
        if len(own) != len(volume):
            raise _damaged(path)
        slope, intercept = next(slices[k].scaling for k in own if slices[k].frame == 0)
        for k in own:
            plane, scaling = volume[slices[k].frame], slices[k].scaling
            if scaling != (slope, intercept):  # GDCM scales every frame as the first
                plane = (plane.astype(np.float64) - intercept) / slope * scaling[0] + scaling[1]
            planes[k] = plane
    return np.stack(planes)


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} cannot be read as DICOM: it is damaged or cut off; replace or remove it."
    )


@contextmanager
def gdcm() -> Iterator[None]:
    """Context manager for calls of GDCM: hide its warnings about other files in a folder, and
    restore the locale.

    GDCM sets the locale of the process to C, after which Python would read text files as ASCII.
    """
    shown, text = sitk.ProcessObject.GetGlobalWarningDisplay(), locale.setlocale(locale.LC_CTYPE)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        locale.setlocale(locale.LC_CTYPE, text)
