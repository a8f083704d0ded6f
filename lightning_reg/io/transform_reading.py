"""Files of transforms, read: ITK's, ANTs', and displacement fields in NIfTI."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from lightning_reg.functional import transform_vectors
from lightning_reg.io.images import itk_reason, require_finite
from lightning_reg.io.lps import FLIP
from lightning_reg.io.nifti import is_nifti
from lightning_reg.io.transform_files import ITK_OF_ELASTIX, files_in, require_reaching
from lightning_reg.io.transforms import HDF5
from lightning_reg.registry import DataError
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Identity,
    Transform,
    parts,
)

_PER_CONTROL_POINT = 4
_TRANSFORMS = (".h5", ".hdf5", ".hdf", ".tfm", ".mat", ".txt", ".xfm", ".lta")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def from_itk(transform: sitk.Transform) -> Transform:
    """Convert an ITK transform to a transform of this project.

    Raises:
        DataError: its kind is not supported.
    """
    transform = transform.Downcast()
    if transform.IsLinear():  # also a composite of affine maps, which ITK may nest deeply
        return _affine_from_itk(transform)
    if isinstance(transform, sitk.CompositeTransform):
        count = transform.GetNumberOfTransforms()
        members = [from_itk(transform.GetNthTransform(n)) for n in range(count)]
        return Composition(members) if members else _identity()
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return _field_from_itk(transform.GetDisplacementField())
    if isinstance(transform, sitk.BSplineTransform):
        return _bspline_from_itk(transform)
    raise DataError(
        f"A transform of the kind {transform.GetName()} cannot be applied here; convert it to a"
        " displacement field first."
    )


def _identity() -> Identity:
    return Identity(Grid.regular((2, 2, 2)), torch.zeros(1, dtype=torch.float64))


def _affine_from_itk(transform: sitk.Transform) -> Affine:
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    matrix[:3, :3] = np.stack(
        [np.array(transform.TransformPoint(unit)) - origin for unit in np.eye(3).tolist()], axis=1
    )
    return Affine(torch.from_numpy(FLIP @ matrix @ FLIP).unsqueeze(0), Grid.regular((2, 2, 2)))


def _grid_of(image: sitk.Image) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Grid((i, j, k), FLIP @ affine)


def _field_from_itk(image: sitk.Image) -> Displacement:
    grid = _grid_of(image)
    vectors = (
        torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float64))
        .permute(3, 2, 1, 0)
        .unsqueeze(0)
    )
    return Displacement(
        transform_vectors(np.linalg.inv(FLIP @ grid.affine), vectors.contiguous()), grid
    )


def _bspline_from_itk(transform: sitk.BSplineTransform) -> BSpline:
    if transform.GetOrder() != 3:
        raise DataError(
            f"The B-spline transform has order {transform.GetOrder()}; only cubic ones (order 3)"
            " can be applied."
        )
    images = transform.GetCoefficientImages()
    lattice = _grid_of(images[0])
    values = np.stack([sitk.GetArrayFromImage(image).transpose() for image in images])
    control = transform_vectors(
        np.linalg.inv(FLIP @ lattice.affine), torch.from_numpy(values).unsqueeze(0)
    )
    # on a grid of four voxels per control point: dense results, such as an inverse, need a finer
    # grid than the lattice
    grid = lattice.resized([_PER_CONTROL_POINT * n for n in lattice.shape])
    first = (_PER_CONTROL_POINT - 1) / 2
    return BSpline(
        _PER_CONTROL_POINT * control, grid, (float(_PER_CONTROL_POINT),) * 3, (first,) * 3
    )


def read_transform(*paths: Path) -> Transform:
    """Read a transform: the one reader of transforms from files.

    Args:
        paths: a file, the files of a chain (the first one is applied to points of the fixed image
            first), or a folder, see :func:`~lightning_reg.io.transform_files.files_in`. Files: an
            ITK transform (``.h5``, ``.tfm``, ``.mat``, ``.txt``) or a displacement field
            (``.nii.gz``, ``.mha``, ``.nrrd``; LPS mm), or NiftyReg's deformation or displacement
            field.

    Raises:
        DataError: there is no such file, it cannot be read, its kind is not supported, or it is a
            part of a chain alone.
    """
    if len(paths) == 1 and paths[0].is_dir():
        folder, paths = paths[0], tuple(files_in(paths[0]))
        if not paths:
            raise DataError(
                f"The folder {folder} has no transform; give a result of a registration, or a file."
            )
    require_reaching(paths)
    members = [_checked(path) for path in paths]
    return members[0] if len(members) == 1 else Composition(members[::-1])


def _checked(path: Path) -> Transform:
    if not path.is_file():
        raise DataError(f"There is no transform {path}; correct the path.")
    transform = from_itk(_read_itk(path)) if path.name.endswith(_TRANSFORMS) else _read_field(path)
    for part in parts(transform):
        state = part.like
        if not bool(torch.isfinite(state).all()):
            raise DataError(
                f"{path} has NaN or infinite values; write it again, or give another transform."
            )
        if isinstance(part, Affine) and abs(float(torch.linalg.det(part.matrix[0, :3, :3]))) < 1e-9:
            raise DataError(
                f"{path} has a singular affine matrix, which maps all points onto a plane; give"
                " another transform."
            )
    return transform


class _Warnings(sitk.LoggerBase):
    """Collects ITK's warnings, which otherwise go to the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def DisplayWarningText(self, text: str) -> None:
        self.text += text


def _read_itk(path: Path) -> sitk.Transform:
    """Read a file that holds one transform of 3D points."""
    with path.open("rb") as file:
        start = file.read(2000)
    if start.startswith(
        _HDF5_SIGNATURE
    ):  # ITK reports a file that is cut off by a page of text on the terminal
        end = int.from_bytes(start[(at := {0: 40, 1: 44}.get(start[8], 28)) : at + 8], "little")
        if end > path.stat().st_size:
            raise _unreadable(path, "it has been cut off")
    with HDF5:
        warned, shown = _Warnings(), sitk.ProcessObject.GetGlobalWarningDisplay()
        others = warned.SetAsGlobalITKLogger()
        sitk.ProcessObject.SetGlobalWarningDisplay(True)
        try:
            transform = sitk.ReadTransform(str(path))
        except (
            RuntimeError,
            UnicodeDecodeError,
        ) as cause:  # ITK quotes the bytes that it cannot read
            raise _unreadable(path, _foreign(start, str(cause))) from cause
        finally:
            others.SetAsGlobalITKLogger()
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    if "more than one transform" in warned.text:
        raise DataError(
            f"{path} holds several transforms, as of the volumes of a series; write the one to"
            " apply to a file of its own."
        )
    if transform.GetDimension() != 3:
        raise DataError(
            f"{path} is a transform of {transform.GetDimension()}D points; give one of 3D points."
        )
    return transform


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} cannot be read as a transform ({why}); give transform.h5 of a registration."
    )


def _foreign(start: bytes, message: str) -> str:
    """Reason for which ITK cannot read a file that begins with ``start``."""
    text = start.decode("latin-1")
    if not text.strip():
        return "it is empty"
    if re.search(r"^\(\w+ .*\)\s*$", text, re.MULTILINE):
        return f"it is a parameter file of elastix; {ITK_OF_ELASTIX}"
    if "nxforms" in text:
        return "it is an LTA file of FreeSurfer; convert it with lta_convert --outitk"
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if len(rows) == 4 and all(re.fullmatch(r"[-+.\deE]+", word) for row in rows for word in row):
        return (
            "it is a matrix without a coordinate system, as of FSL or NiftyReg; convert it, as with"
            " c3d_affine_tool -oitk"
        )
    kind = re.search(r'instance of "(\w+?)_', message)
    return (
        f"it holds a {kind[1]}, which is not supported"
        if kind
        else "it is damaged, cut off, or of another kind than its name says"
    )


def _read_field(path: Path) -> Displacement:
    """Read a file of vectors: displacements in LPS mm, or what NiftyReg writes."""
    if is_nifti(path):
        require_finite(path)
        image = nib.load(path)
        unit = image.header.get_xyzt_units()[0]
        if unit in ("meter", "micron"):
            raise DataError(
                f"{path} is in the unit {unit}; whether its vectors are, too, is not said: write it"
                " in mm."
            )
        if image.header.get_intent()[2] == "NREG_TRANS":
            return _from_niftyreg(path, image)
    try:
        image = sitk.ReadImage(str(path))
    except (RuntimeError, UnicodeDecodeError) as cause:
        raise _unreadable(
            path, "it is empty" if path.stat().st_size == 0 else itk_reason(cause)
        ) from cause
    if image.GetNumberOfComponentsPerPixel() != 3 or "float" not in image.GetPixelIDTypeAsString():
        raise DataError(
            f"{path} is an image and no transform; give transform.h5 or displacement.nii.gz of a"
            " registration."
        )
    if image.GetDimension() != 3:
        raise DataError(f"{path} is a field of {image.GetDimension()} axes; give one of 3D points.")
    return _field_from_itk(sitk.Cast(image, sitk.sitkVectorFloat64))


def _from_niftyreg(path: Path, image: nib.Nifti1Image) -> Displacement:
    """A field of NiftyReg, RAS mm: positions in the moving image, or displacements."""
    kind, vectors = float(image.header["intent_p1"]), np.asarray(image.dataobj, dtype=np.float64)
    if kind not in (0, 1) or vectors.ndim != 5 or vectors.shape[3:] != (1, 3):
        raise DataError(
            f"{path} is a spline or velocity of NiftyReg; write a deformation field (reg_transform"
            " -def), and give that."
        )
    grid = Grid(vectors.shape[:3], image.affine)
    values = torch.from_numpy(np.moveaxis(vectors[..., 0, :], -1, 0)).unsqueeze(0).contiguous()
    if kind == 0:
        values = values - grid.to_world(grid.points(dtype=torch.float64))
    return Displacement(transform_vectors(np.linalg.inv(grid.affine), values), grid)
