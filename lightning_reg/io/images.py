"""Images from files, DICOM folders, and image objects of other libraries."""

from __future__ import annotations

import gzip
import math
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from lightning_reg.io.dicom import is_dicom, read_folder, read_slices
from lightning_reg.io.lps import place_lps
from lightning_reg.io.names import require_unicode
from lightning_reg.io.nifti import is_nifti, nifti_header, open_nifti, place, placement, skew
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid, Image

Source: TypeAlias = "str | Path | tio.Image | SpatialImage | sitk.Image | Image | tuple[Any, Any]"


def read_image(source: Source, kind: type[tio.Image] = tio.ScalarImage) -> tio.Image:
    """Read an image into memory, with the voxel axes of the file and an affine to RAS mm.

    Args:
        source: a path (NIfTI, MetaImage, NRRD, PNG, TIFF, a DICOM file, or a folder with one DICOM
            series), a TorchIO, nibabel or SimpleITK image, an
            :class:`~lightning_reg.spatial.Image` of one element, or
            ``(values, affine)`` with an array or tensor ``(I, J)``, ``(I, J, K)`` or
            ``(1, I, J, K)`` and a ``(4, 4)`` affine, voxel index to RAS mm. A 2D image becomes a
            volume of one slice; a pixel size that its file does not give is 1 mm.
        kind: ``tio.ScalarImage`` or ``tio.LabelMap``.

    Raises:
        DataError: there is no such file, it cannot be read, its name is not UTF-8, or a folder
            holds no or several DICOM series.
    """
    if isinstance(source, (str, Path)):
        require_unicode(source)
        return _from_path(Path(source).expanduser(), kind)
    if isinstance(source, tio.Image):
        return kind(tensor=source.data.detach(), affine=source.affine)
    if isinstance(source, SpatialImage):
        data, affine = _values(source)
        return kind(tensor=data, affine=affine)
    if isinstance(source, sitk.Image):
        return kind.from_sitk(source)
    if isinstance(source, Image) and source.tensor.shape[0] == 1:
        return kind(tensor=_tensor(as_array(source.tensor[0])), affine=source.grid.affine[0])
    if isinstance(source, tuple) and len(source) == 2:
        array, affine = as_array(source[0]), as_array(source[1])
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or affine.shape != (4, 4) or affine.dtype.kind not in "iuf":
            raise DataError(
                f"An array of {array.shape} with an affine of {affine.shape} is no image; give (I x"
                " J x K, 4 x 4)."
            )
        return kind(tensor=_tensor(array).unsqueeze(0), affine=affine.astype(np.float64))
    raise DataError(
        f"{type(source).__name__} is no image; give a path, a TorchIO, nibabel or SimpleITK image,"
        " or (array, affine)."
    )


def as_array(values: Any) -> np.ndarray:
    """An array of a tensor (on any device, of any dtype, with or without gradient), an array or
    nested lists.

    Raises:
        DataError: rows of different lengths.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (
            values.float() if values.dtype == torch.bfloat16 else values
        ).numpy()  # NumPy has no bfloat16
    try:
        return np.asarray(values)
    except (ValueError, RuntimeError) as cause:
        raise DataError(
            f"{type(values).__name__} is no array ({first_line(cause)}); give an array or a tensor."
        ) from cause


def _from_path(path: Path, kind: type[tio.Image]) -> tio.Image:
    if not path.exists():
        raise DataError(f"There is no file {path}; correct the path.")
    if path.is_dir():
        return read_folder(path, kind)
    if not is_nifti(path) and is_dicom(path):
        image, _ = read_slices([path], str(path), kind)
        image.path = path
        return image
    try:
        with warnings.catch_warnings():
            # of TorchIO's attempts with other libraries; failures are reported below
            warnings.simplefilter("ignore")
            image = kind(path, reader=_read_nifti) if is_nifti(path) else kind(path)
            image.load()
    except MemoryError as cause:
        raise DataError(
            f"{path} cannot be read: its header gives more voxels than fit into memory; replace or"
            " remove the file."
        ) from cause
    except (
        Exception
    ) as cause:  # nibabel, SimpleITK and TorchIO raise many kinds for a file they cannot read
        raise DataError(
            f"{path} cannot be read as an image ({_what_is_wrong(path, cause)}); replace or remove"
            " the file."
        ) from cause
    return image


def _read_nifti(path: Path) -> tuple[Tensor, np.ndarray]:
    """Read with nibabel: ITK, TorchIO's first choice, silently replaces NaN by zeros."""
    header = nifti_header(path, check=False)
    # nibabel and ITK make up different sizes
    if header is not None and min(abs(header["pixdim"][1:4])) == 0:
        raise ValueError(
            "its header has a voxel size of"
            f" {' x '.join(f'{v:g}' for v in header['pixdim'][1:4])} mm"
        )
    return _values(open_nifti(path))


def _values(image: SpatialImage) -> tuple[Tensor, np.ndarray]:
    """Values ``(C, I, J, K)`` and affine."""
    if len(image.shape) < 2 or min(image.shape) < 1:
        raise ValueError(
            f"its header gives {' x '.join(map(str, image.shape))} voxels; two axes or three are"
            " needed"
        )
    data = np.asarray(image.dataobj)
    data = data[..., None] if data.ndim == 2 else data
    while data.ndim > 4 and data.shape[-1] == 1:
        data = data[..., 0]
    data = data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0)
    affine = (
        placement(image.header, image.affine).affine
        if isinstance(image, nib.Nifti1Pair)
        else image.affine
    )
    return _tensor(data), affine


def _tensor(values: np.ndarray) -> Tensor:
    """Convert to this machine's byte order, and to signed types, which PyTorch supports."""
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"Voxels of the kind {values.dtype} are no intensities; convert them to real numbers."
        )
    if (
        values.dtype.kind == "u"
        and values.dtype.itemsize == 8
        and values.size
        and int(values.max()) >= 2**63
    ):
        raise DataError(
            f"Voxels of up to {int(values.max())} are larger than any number that can be computed"
            " with here; scale them first."
        )
    signed = {"u2": np.int32, "u4": np.int64, "u8": np.int64}.get(values.dtype.str[1:])
    return torch.from_numpy(
        np.ascontiguousarray(values.astype(signed or values.dtype.newbyteorder("=")))
    )


SKEWED = 1e-3
"""Cosine of two axes above which they are not perpendicular."""


class Doubt(NamedTuple):
    """Reasons for which other programs may place an image elsewhere or see other voxel sizes."""

    text: str
    sizes: bool = False


def doubts(image: tio.Image, path: Path | None) -> list[Doubt]:
    """Find reasons why other programs may place an image elsewhere.

    Args:
        path: file of the image, whose header is looked at if it is NIfTI.
    """
    found = []
    header = nifti_header(path) if path is not None and is_nifti(path) else None
    if header is not None and (place := placement(header)).doubt:
        found.append(Doubt(f"{path} {place.doubt}.", place.sizes))
    if (cosine := skew(image.affine)) > SKEWED:
        degrees = np.degrees(np.arcsin(min(cosine, 1.0)))
        where = path or "An image"
        text = (
            f"{where} has axes that are not perpendicular (off by {degrees:.2g} degrees), which ITK"
            " refuses"
        )
        found.append(Doubt(f"{text}; resample it to perpendicular axes."))
    return found


LARGEST = 10**10
"""Number of voxels above which a header is taken to be wrong."""


def _what_is_wrong(path: Path, cause: Exception) -> str:
    """Reason for an unreadable image; TorchIO reports every failure of ITK as 'not understood'."""
    if path.is_file() and path.stat().st_size == 0:
        return "it is empty"
    if isinstance(cause, gzip.BadGzipFile):
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                return (
                    "it is not compressed although its name says so, or it is another kind of file"
                )
        return (
            "its compressed data are damaged, or are followed by something else:"
            f" {first_line(cause)}"
        )
    if "not understood" not in str(cause):
        return first_line(cause)
    try:
        header = _itk_header(path)
    except RuntimeError:
        return "its header is damaged or cut off, or it is a file of another kind"
    axes = np.reshape(header.GetDirection(), (header.GetDimension(), -1))
    if np.linalg.matrix_rank(axes) < len(axes):
        return "the axes in its header are singular"
    return (
        f"its header gives {' x '.join(map(str, header.GetSize()))} voxels, but they are incomplete"
        " or damaged: the file has been cut off"
    )


def itk_reason(error: Exception) -> str:
    """Message of an ITK error, without the location in its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or "suffix" in lines[-1]:  # how ITK says that no reader accepts the file
        return "it is damaged, cut off, or of another kind than its name says"
    return re.sub(r"^((itk::|ITK )ERROR: )?\w+\(0x[0-9a-f]+\): ", "", lines[-1]).rstrip(".")


def require_finite(path: Path) -> None:
    """Refuse a NIfTI file that has been cut off or changed, or that has NaN.

    ITK would read such a file up to where it is cut off, and NaN as zeros.

    Raises:
        DataError: the length or checksum is wrong, or values are NaN or infinite.
    """
    try:
        values = np.asarray(open_nifti(path).dataobj)
    except Exception as cause:  # nibabel and zlib raise many kinds for a file they cannot read
        raise DataError(
            f"{path} cannot be read ({first_line(cause)}); write it again, or give another file."
        ) from cause
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{path} has NaN or infinite values; write it again, or give another file.")


def voxels(path: Path) -> int:
    """Number of voxels according to the header; 0 if the header cannot be read."""
    if not path.is_file():
        return 0
    try:
        if is_nifti(path):
            header = nifti_header(path)
            shape = (0,) if header is None else header.get_data_shape()
        else:
            shape = _itk_header(path).GetSize()
    except Exception:  # errors are reported when the image is read
        return 0
    count = math.prod(int(n) for n in shape)
    return count if 0 < count < LARGEST else 0


def _itk_header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def write_image(path: Path, tensor: Tensor, grid: Grid) -> None:
    """Write an image, mask or labels ``(1, 1, I, J, K)``; the ending sets the format."""
    values = tensor[0, 0].detach().cpu().contiguous().numpy()
    if values.dtype.kind in "biu":  # the smallest type that every reader supports
        low, high = int(values.min()), int(values.max())
        values = values.astype(
            next(k for k in (np.uint8, np.int16, np.int32, np.float64) if _holds(k, low, high))
        )
    if path.name.endswith((".nii", ".nii.gz")):
        written = nib.Nifti1Image(values, grid.affine[0])
        place(written)
        nib.save(written, path)
        return
    image = sitk.GetImageFromArray(values.transpose())
    place_lps(image, grid)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as cause:
        raise OSError(itk_reason(cause)) from cause


def _holds(kind: type, low: int, high: int) -> bool:
    return kind is np.float64 or (np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
